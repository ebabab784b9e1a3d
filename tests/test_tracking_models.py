"""Detectors as MLflow models: logged, registered, loaded, and what they answer."""

from __future__ import annotations

import pickle
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

import anomgen
from anomgen import tracking
from tests.toys import tiny


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither MLflow nor anything below it may unpickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)


def test_a_model_by_alias(tracking_uri: str, numbers: np.ndarray, no_pickle: None, tmp_path: Path) -> None:
    detector = tiny(contamination=0.2).fit(numbers)
    info = tracking.log_model(detector, registered_model_name="det", alias="champion", metadata={"shop": "Ghent"})
    assert info.metadata["shop"] == "Ghent"
    for uri in ("models:/det@champion", "models:/det/1", info.model_uri):
        assert np.array_equal(tracking.load_model(uri).score_samples(numbers), detector.score_samples(numbers))
    results = mlflow.pyfunc.load_model("models:/det@champion").predict(numbers)
    assert np.array_equal(results["score"], detector.score_samples(numbers))
    assert np.array_equal(results["is_anomaly"], detector.predict(numbers) == -1)
    assert results["is_anomaly"].sum() == 80
    tracking.log_model(tiny(transforms=3).fit(numbers), registered_model_name="det", alias="champion")
    assert tracking.load_model("models:/det@champion").transforms == 3
    stored = [path.suffix for path in tmp_path.rglob("mlruns/**/*") if path.is_file()]
    assert ".safetensors" in stored
    assert not {".pkl", ".pickle", ".joblib", ".skops", ".pt"} & set(stored)


def test_a_model_of_a_run_is_linked_with_its_metrics(tracking_uri: str, numbers: np.ndarray) -> None:
    callback = tracking.MLflowCallback(log_model=True, registered_model_name="det")
    detector = tiny(callbacks=(callback,)).fit(numbers)
    [logged] = mlflow.search_logged_models(output_format="list")
    assert logged.source_run_id == callback.run_id
    assert {metric.key: metric.value for metric in logged.metrics}["offset"] == detector.offset_
    assert mlflow.MlflowClient().get_model_version("det", "1").run_id == callback.run_id


def test_a_table_of_every_kind_of_column(tracking_uri: str, mixed: pd.DataFrame, no_pickle: None) -> None:
    mixed["visits"] = mixed["visits"].astype("Int64")
    mixed["note"] = np.where(mixed["member"], "yes", "no")
    mixed["zoned"] = mixed["seen"].dt.tz_localize("Europe/Brussels")
    detector = tiny(exclude=("note",)).fit(mixed)
    model = mlflow.pyfunc.load_model(tracking.log_model(detector).model_uri)
    types = {column.name: str(column.type) for column in model.metadata.signature.inputs}
    assert types["length"] == "DataType.double"
    assert types["note"] == "DataType.string"
    assert types["seen"] == "DataType.datetime"
    assert types["city"] == "Any"
    assert [column.name for column in model.metadata.signature.outputs] == ["score", "is_anomaly"]
    reordered = mixed[mixed.columns[::-1]]
    assert np.array_equal(model.predict(reordered)["score"], detector.score_samples(mixed))
    missing = mixed.assign(visits=mixed["visits"].mask(mixed.index == 0))
    assert np.array_equal(model.predict(missing)["score"], detector.score_samples(missing))
    with pytest.raises(mlflow.MlflowException, match="city"):
        model.predict(mixed.drop(columns="city"))
    with pytest.raises(ValueError, match=r"visits.*row 3.*many"):
        model.predict(mixed.assign(visits=["1", "2", "3", "many", *["4"] * 296]))


def test_a_calibrated_model_tells_p_values(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = tiny(contamination=0.1).fit(numbers[:200])
    answers = {}
    for name, options in {"split": {}, "folds": {"folds": 2}}.items():
        detector.calibrate(numbers if options else numbers[200:], **options)
        tracking.save_model(detector, tmp_path / name)
        model = mlflow.pyfunc.load_model(str(tmp_path / name))
        assert [column.name for column in model.metadata.signature.outputs] == ["score", "p_value", "is_anomaly"]
        answers[name] = model.predict(numbers)
        assert np.array_equal(answers[name]["score"], detector.score_samples(numbers))
        assert np.array_equal(answers[name]["p_value"], detector.p_values(numbers))
        assert np.array_equal(answers[name]["is_anomaly"], detector.predict(numbers) == -1)
    assert not np.array_equal(answers["split"]["p_value"], answers["folds"]["p_value"])


def test_columns_named_by_numbers(tracking_uri: str, numbers: np.ndarray) -> None:
    frame = pd.DataFrame(numbers, columns=[3, 1, 2])
    detector = tiny().fit(frame)
    model = mlflow.pyfunc.load_model(tracking.log_model(detector).model_uri)
    assert np.array_equal(model.predict(frame.rename(columns=str))["score"], detector.score_samples(frame))


def test_a_local_model(numbers: np.ndarray, tmp_path: Path, no_pickle: None) -> None:
    detector = tiny().fit(numbers)
    tracking.save_model(detector, tmp_path / "model", input_example=np.array(numbers[:2]), pip_requirements=["anomgen"])
    assert "anomgen" in (tmp_path / "model" / "requirements.txt").read_text().split()
    assert (tmp_path / "model" / "input_example.json").is_file()
    assert np.array_equal(
        tracking.load_model(str(tmp_path / "model")).score_samples(numbers), detector.score_samples(numbers)
    )


def test_requirements_can_be_installed(numbers: np.ndarray, tmp_path: Path) -> None:
    tracking.save_model(tiny().fit(numbers), tmp_path / "model")
    asked = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.split('+')[0]}" in asked
    assert not any("+" in requirement for requirement in asked)


def test_a_damaged_or_foreign_model(numbers: np.ndarray, tmp_path: Path) -> None:
    tracking.save_model(tiny().fit(numbers), tmp_path / "model")
    weights = tmp_path / "model" / "data" / "detector" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(anomgen.FormatError, match=r"model\.safetensors changed"):
        tracking.load_model(str(tmp_path / "model"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n")
    with pytest.raises(anomgen.FormatError, match="a model of sklearn"):
        tracking.load_model(str(foreign))


def test_an_alias_needs_a_name(numbers: np.ndarray) -> None:
    with pytest.raises(ValueError, match="registered_model_name"):
        tracking.log_model(tiny(), alias="champion")
