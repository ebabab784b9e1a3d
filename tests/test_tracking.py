"""Runs and autologging in MLflow."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import anomgen
from anomgen import tracking
from anomgen.generative import GenerativeModel, Space
from anomgen.train import default_callbacks
from tests.toys import tiny

pytestmark = pytest.mark.filterwarnings("ignore:training interrupted")


def all_runs() -> list[Any]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


@pytest.fixture
def quiet_autolog() -> Iterator[None]:
    yield
    anomgen.autolog(disable=True)


class Diverging(GenerativeModel):
    """A model whose loss is never finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return z.sum(1) * self.weight * float("nan")

    def sample(self, n: int) -> torch.Tensor:
        return torch.zeros(n, 3)


class DivergingDetector(anomgen.TrainedDetector):
    def build(self, space: Space) -> GenerativeModel:
        return Diverging()


class Interrupt(anomgen.Callback):
    """Stops a fit the hard way, once the detector is trained or in the middle."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_fit_end(self, run: Any) -> None:
        raise self.error


# ---------------------------------------------------------------------- runs


def test_a_plain_fit_writes_nothing(numbers: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny().fit(numbers)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_is_a_run(tracking_uri: str, numbers: np.ndarray) -> None:
    callback = tracking.MLflowCallback(experiment="tables", run_name="first", tags={"team": "blue"})
    detector = tiny(max_epochs=4, callbacks=(callback,)).fit(numbers)
    run = mlflow.get_run(callback.run_id)
    assert mlflow.active_run() is None
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert mlflow.get_experiment_by_name("tables").experiment_id == run.info.experiment_id
    assert run.data.params["hidden"] == "(8,)"
    assert run.data.params["fit.rows"] == "300"
    assert run.data.params["fit.device"] == "cpu"
    assert not {"callbacks", "verbose"} & set(run.data.params)
    assert run.data.tags["anomgen.class"] == "FlowDetector"
    assert run.data.tags["anomgen.data_sha256"] == detector.data_digest_
    assert run.data.tags["version.torch"] == torch.__version__
    assert run.data.tags["anomgen.stopped_because"] == "schedule"
    assert run.data.tags["team"] == "blue"
    assert run.data.metrics["offset"] == detector.offset_
    assert run.data.metrics["best_epoch"] == detector.best_epoch_
    assert run.data.metrics["converged"] == 1.0
    client = mlflow.MlflowClient()
    for name in ("train_nats", "held_out_nats", "learning_rate", "rows_per_s"):
        logged = client.get_metric_history(callback.run_id, name)
        assert [point.step for point in logged] == [entry["epoch"] for entry in detector.history_]
        assert [point.value for point in logged] == pytest.approx([entry[name] for entry in detector.history_])


def test_metrics_travel_in_batches(tracking_uri: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    log_batch = mlflow.MlflowClient.log_batch

    def counting(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        sent.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counting)
    detector = tiny(max_epochs=20, patience=1.0)
    detector.set_params(callbacks=(tracking.MLflowCallback(),)).fit(numbers)
    assert sent == [0, 4 * len(detector.history_), 3], "parameters; nats, rates and speed of all epochs; what came out"
    monkeypatch.setattr(tracking.runs, "FLUSH_SECONDS", 0.0)
    sent.clear()
    detector.fit(numbers)
    assert sent == [0, *[4] * len(detector.history_), 3]


def test_more_metrics_than_one_call_takes(
    tracking_uri: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.runs, "BATCH_LIMIT", 7)
    callback = tracking.MLflowCallback()
    detector = tiny(max_epochs=6, callbacks=(callback,)).fit(numbers)
    logged = mlflow.MlflowClient().get_metric_history(callback.run_id, "rows_per_s")
    assert len(logged) == len(detector.history_)


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("full disk"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
    ids=["error", "ctrl-c"],
)
def test_an_interrupted_fit_ends_its_run(
    tracking_uri: str, numbers: np.ndarray, error: BaseException, status: str
) -> None:
    callback = tracking.MLflowCallback()
    with pytest.raises(type(error)):
        tiny(callbacks=(Interrupt(error), callback)).fit(numbers)
    run = mlflow.get_run(callback.run_id)
    assert run.info.status == status
    assert type(error).__name__ in run.data.tags["anomgen.error"]
    assert run.data.metrics["train_nats"] < 0
    assert mlflow.active_run() is None


@pytest.mark.filterwarnings("ignore:the training loss was not finite")
def test_a_diverging_fit_is_a_failed_run(tracking_uri: str, numbers: np.ndarray) -> None:
    callback = tracking.MLflowCallback()
    with pytest.raises(FloatingPointError):
        DivergingDetector(max_epochs=5, random_state=0, callbacks=(callback,)).fit(numbers)
    assert mlflow.get_run(callback.run_id).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_fit_inside_a_run_is_logged_into_it(tracking_uri: str, numbers: np.ndarray) -> None:
    callback = tracking.MLflowCallback()
    with mlflow.start_run() as outer:
        tiny(callbacks=(callback,)).fit(numbers)
        assert callback.run_id == outer.info.run_id
        assert mlflow.active_run().info.run_id == outer.info.run_id
        tiny(transforms=3, callbacks=(callback,)).fit(numbers)
        nested = mlflow.get_run(callback.run_id)
        assert nested.data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert nested.data.params["transforms"] == "3"
        assert mlflow.active_run().info.run_id == outer.info.run_id
    assert mlflow.get_run(outer.info.run_id).data.params["transforms"] == "2"
    assert [run.info.status for run in all_runs()] == ["FINISHED"] * 2


def test_a_failure_inside_a_run_is_the_callers(tracking_uri: str, numbers: np.ndarray) -> None:
    with mlflow.start_run():
        with pytest.raises(RuntimeError):
            tiny(callbacks=(Interrupt(RuntimeError()), tracking.MLflowCallback())).fit(numbers)
        assert mlflow.active_run() is not None
    assert [run.info.status for run in all_runs()] == ["FINISHED"]


def test_pieces_go_to_one_run(tracking_uri: str, numbers: np.ndarray) -> None:
    callback = tracking.MLflowCallback(log_model=True)
    detector = tiny(callbacks=(callback,))
    for piece in np.split(np.tile(numbers, (3, 1)), 3):
        detector.partial_fit(piece)
    assert len(all_runs()) == 1
    logged = mlflow.MlflowClient().get_metric_history(callback.run_id, "rows_per_s")
    assert [point.step for point in logged] == sorted({point.step for point in logged})
    assert len(logged) == len(detector.history_) > len({entry["epoch"] for entry in detector.history_})
    assert mlflow.get_run(callback.run_id).info.status == "FINISHED"
    assert not mlflow.search_logged_models(output_format="list")
    detector.fit(numbers)
    assert len(all_runs()) == 2


def test_another_store_for_the_time_of_a_fit(
    tracking_uri: str, template_db: Path, tmp_path: Path, numbers: np.ndarray
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(template_db.read_bytes())
    callback = tracking.MLflowCallback(f"sqlite:///{other}")
    tiny(callbacks=(callback,)).fit(numbers)
    assert mlflow.get_tracking_uri() == tracking_uri
    assert all_runs() == []
    assert callback.store == f"sqlite:///{other}"
    assert mlflow.MlflowClient(callback.store).get_run(callback.run_id).info.status == "FINISHED"


def test_an_unusable_store_is_told_before_training(tracking_uri: str, numbers: np.ndarray) -> None:
    trained: list[int] = []

    class Counter(anomgen.Callback):
        def on_epoch_end(self, run: Any) -> None:
            trained.append(1)

    with pytest.raises(Exception, match="nonsense"):
        tiny(callbacks=(Counter(), tracking.MLflowCallback("nonsense://here"))).fit(numbers)
    assert trained == []
    assert mlflow.get_tracking_uri() == tracking_uri


def test_a_callback_can_be_copied(tracking_uri: str, numbers: np.ndarray) -> None:
    from sklearn.model_selection import cross_val_score

    callback = tracking.MLflowCallback(run_name="fold")
    assert pickle.loads(pickle.dumps(callback)).run_name == copy.deepcopy(callback).run_name == "fold"
    cross_val_score(tiny(callbacks=(callback,)), numbers, cv=2)
    assert [run.info.run_name for run in all_runs()] == ["fold", "fold"]


# ---------------------------------------------------------------------- autologging


def test_autolog_logs_every_fit_with_its_model(tracking_uri: str, numbers: np.ndarray, quiet_autolog: None) -> None:
    anomgen.autolog(registered_model_name="det")
    anomgen.autolog(registered_model_name="det")
    detector = tiny().fit(numbers)
    assert len(all_runs()) == 1
    scores = tracking.load_model("models:/det/1").score_samples(numbers)
    assert np.array_equal(scores, detector.score_samples(numbers))
    assert detector.callbacks == ()
    anomgen.autolog(disable=True)
    tiny().fit(numbers)
    assert len(all_runs()) == 1
    assert default_callbacks == []


@pytest.mark.filterwarnings("ignore:the training loss was not finite")
def test_autolog_marks_failures(tracking_uri: str, numbers: np.ndarray, quiet_autolog: None) -> None:
    anomgen.autolog(log_models=False)
    with pytest.raises(FloatingPointError):
        DivergingDetector(max_epochs=5, random_state=0).fit(numbers)
    tiny().fit(numbers)
    assert sorted(run.info.status for run in all_runs()) == ["FAILED", "FINISHED"]
    assert not mlflow.search_logged_models(output_format="list")


def test_autolog_leaves_a_callback_alone(tracking_uri: str, numbers: np.ndarray, quiet_autolog: None) -> None:
    anomgen.autolog()
    tiny(callbacks=(tracking.MLflowCallback(run_name="mine"),)).fit(numbers)
    assert [run.info.run_name for run in all_runs()] == ["mine"]


def test_what_a_model_measures_of_itself_is_logged(tracking_uri: str, numbers: np.ndarray) -> None:
    """A game of two epochs cannot be won: its signs and its verdict are in the run."""
    callback = tracking.MLflowCallback()
    params = {"hidden": (8,), "learning_rate": 1e-6, "contamination": 0.1, "random_state": 0, "verbose": False}
    detector = anomgen.GANDetector(max_epochs=2, callbacks=(callback,), **params)
    with pytest.warns(ConvergenceWarning, match="generator|discriminator"):
        detector.fit(numbers)
    logged = mlflow.get_run(callback.run_id).data.metrics
    assert logged["coverage"] == pytest.approx(detector.history_[-1]["coverage"])
    assert {"precision", "recall", "different_bins", "logit_gap", "train_loss"} <= set(logged)
    assert logged["converged"] == 0.0
    assert not detector.converged_
