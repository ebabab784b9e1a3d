"""Saved models: nothing half-written, nothing damaged goes unnoticed, nothing foreign is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen.persist import FORMAT, FormatError, digest, is_model, read_folder, write_folder
from tests.toys import toy

FORMATS = Path(__file__).parent / "formats"
CONFIG = {"class": "X", "nested": {"a": [1, 2.5, None, "é"]}}
TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(3.5),
    "none": np.empty((0, 2), np.int64),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "m", CONFIG, TENSORS, "card")
    return tmp_path / "m"


def test_round_trip(folder: Path) -> None:
    config, tensors = read_folder(folder)
    assert config == {"format": FORMAT, **CONFIG}
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert np.array_equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
        assert tensors[name].shape == value.shape


def test_equal_content_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "n", CONFIG, TENSORS, "card")
    assert digest(folder) == digest(tmp_path / "n")


def test_any_changed_byte_is_noticed(folder: Path, full: bool) -> None:
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        spots = range(len(content)) if full else sorted({0, len(content) // 3, len(content) - 1})
        for spot in spots:
            file.write_bytes(content[:spot] + bytes([content[spot] ^ 1]) + content[spot + 1 :])
            with pytest.raises(FormatError, match="damaged"):
                read_folder(folder)
        for shorter in (b"", content[:-1], content + b"\n"):
            file.write_bytes(shorter)
            with pytest.raises(FormatError):
                read_folder(folder)
        file.write_bytes(content)
    read_folder(folder)


def test_a_missing_file_a_foreign_folder_and_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    for path in (folder, tmp_path):
        with pytest.raises(FormatError, match="is not a saved anomgen model"):
            read_folder(path)
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "nowhere")


def test_a_newer_format_and_another_programs_config(tmp_path: Path) -> None:
    write_folder(tmp_path / "new", {"format": FORMAT + 1}, {}, "")
    with pytest.raises(FormatError, match="newer"):
        read_folder(tmp_path / "new")
    write_folder(tmp_path / "other", {"model_type": "bert"}, {}, "")
    with pytest.raises(FormatError, match="not a model this version can read"):
        anomgen.load(tmp_path / "other")


def test_existing_folders_are_kept_unless_asked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_folder(folder, CONFIG, {}, "")
    write_folder(folder, {"class": "Y"}, {}, "", overwrite=True)
    assert read_folder(folder)[0]["class"] == "Y"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(FileExistsError, match="not a saved model"):
        write_folder(tmp_path / "precious", CONFIG, {}, "", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "precious"]


def test_a_failure_leaves_the_old_model_and_no_litter(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_folder(folder, {"bad": float("nan")}, {}, "", overwrite=True)
    assert read_folder(folder)[0]["class"] == "X"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_arrays_must_fit_the_class(tmp_path: Path, numbers: np.ndarray) -> None:
    toy("FlowDetector").fit(numbers).save(tmp_path / "m")
    config, tensors = read_folder(tmp_path / "m")
    config.pop("format")
    name = next(key for key in tensors if key.startswith("model."))
    for wrong in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, name: tensors[name][None]},
        {**tensors, "model.more": tensors[name]},
    ):
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        write_folder(tmp_path / "w", config, wrong, "")
        with pytest.raises(FormatError, match="do not fit"):
            anomgen.load(tmp_path / "w")


def test_a_file_cannot_choose_code(tmp_path: Path, numbers: np.ndarray) -> None:
    toy("FlowDetector").fit(numbers).save(tmp_path / "m")
    config, tensors = read_folder(tmp_path / "m")
    for name in ("os.system", "builtins.eval", "Detector"):
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        write_folder(tmp_path / "w", {**config, "class": name}, tensors, "")
        with pytest.raises(FormatError, match="not registered"):
            anomgen.load(tmp_path / "w")


def test_the_card_says_what_was_learned(tmp_path: Path, numbers: np.ndarray) -> None:
    toy("FlowDetector").fit(numbers).save(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "continuous" in card
    assert "holds no training rows" in card
    assert is_model(tmp_path / "m")
    assert "random_state" not in json.loads((tmp_path / "m" / "config.json").read_text())["params"]


@pytest.mark.parametrize("version", sorted(path.name for path in FORMATS.iterdir()))
def test_models_of_every_format_score_the_same_forever(version: str) -> None:
    expected = json.loads((FORMATS / version / "expected.json").read_text())
    rows = pd.DataFrame(expected["rows"])
    rows["seen"] = pd.to_datetime(rows["seen"])
    detector = anomgen.load(FORMATS / version / "model")
    assert detector.score_samples(rows) == pytest.approx(expected["scores"], rel=1e-5)
    assert detector.predict(rows).tolist() == expected["flags"]
    if "p_values" in expected:
        # A rank may move by one where scores differ in the last bits.
        assert detector.p_values(rows) == pytest.approx(expected["p_values"], abs=1.5 / len(detector.calibration_))
