"""Drift as detectors tell it: of columns and score, saved with the model, and extended by rows in pieces."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anomgen
from tests.test_drift import table
from tests.toys import small, toy


@pytest.fixture(scope="module")
def fitted() -> Any:
    return toy("FlowDetector", contamination=0.1).fit(table(np.random.default_rng(20), 1500))


def test_a_detector_tells_drift_of_columns_and_score(fitted: Any) -> None:
    rng = np.random.default_rng(21)
    same, moved = table(rng, 1000), table(rng, 1000)
    moved["number"] += 3.0
    assert not fitted.drift(same).exceeds(0.1)
    found = fitted.drift(moved)
    assert found.worst.name == "number"
    assert found.rows == 1000
    assert found.reference_rows == 1500
    assert found.score is not None
    assert found.score.excess > 0.1
    assert found.score.significant
    told = json.loads(json.dumps(found.to_dict()))
    assert told["worst"] == "number"
    assert list(told["columns"]) == list(moved.columns)
    assert told["score"]["psi"] == found.score.psi
    counter = fitted.reference_.counter()
    for start in range(0, 1000, 300):
        counter.add(moved[start : start + 300], fitted.score_samples(moved[start : start + 300]))
    assert fitted.reference_.report(counter.state()) == found


def test_the_reference_is_saved_and_pickled(fitted: Any, tmp_path: Path) -> None:
    rows = table(np.random.default_rng(22), 400)
    rows["heavy"] *= 3.0
    fitted.save(tmp_path / "model")
    for copy in (anomgen.load(tmp_path / "model"), pickle.loads(pickle.dumps(fitted))):
        assert copy.drift(rows) == fitted.drift(rows)
        assert copy.reference_.counter().state() == fitted.reference_.counter().state()


def test_a_model_without_a_reference_says_so(fitted: Any) -> None:
    old = pickle.loads(pickle.dumps(fitted))
    del old.reference_
    with pytest.raises(ValueError, match="fit it again to measure drift"):
        old.drift(table(np.random.default_rng(0), 50))


def test_scores_of_training_rows_are_no_reference(numbers: np.ndarray) -> None:
    short = toy("FlowDetector", contamination=0.1).fit(numbers)
    assert short.drift(numbers).score is None
    folded = toy("FlowDetector").fit(numbers)
    assert folded.drift(numbers).score is not None
    given = toy("FlowDetector", contamination=0.1).fit(numbers, X_val=numbers[:50])
    assert given.reference_.score is not None
    assert given.reference_.score.counts.sum() == 50


def test_a_refit_forgets_the_rows_of_the_first() -> None:
    rng = np.random.default_rng(23)
    detector = toy("FlowDetector", contamination=0.1).fit(rng.normal(size=(400, 2)))
    detector.fit(rng.normal(50.0, 1.0, size=(400, 2)))
    assert not detector.drift(rng.normal(50.0, 1.0, size=(400, 2))).exceeds(0.1)
    assert detector.drift(rng.normal(size=(400, 2))).exceeds(0.25)


def test_rows_in_pieces_extend_the_reference() -> None:
    rng = np.random.default_rng(24)
    detector = toy("FlowDetector")
    for _ in range(4):
        detector.partial_fit(rng.normal(size=(200, 2)))
    found = detector.drift(rng.normal(size=(1000, 2)))
    assert found.reference_rows == 800
    assert not found.exceeds(0.1)
    assert [int(cells.counts.sum()) for cells in detector.reference_.columns] == [800, 800]
    detector.partial_fit(rng.normal(10.0, 1.0, size=(4000, 2)))
    assert not detector.drift(rng.normal(10.0, 1.0, size=(500, 2))).columns[0].excess > 1.0


def test_excluded_columns_and_conditions_are_not_compared() -> None:
    rng = np.random.default_rng(25)
    rows, y = table(rng, 400), rng.integers(0, 2, 400)
    rows["name"] = [f"row {i}" for i in range(400)]
    detector = toy("FlowDetector", contamination=0.1, exclude=("name", "day"), condition=("text", "y")).fit(rows, y)
    compared = [shift.name for shift in detector.drift(rows).columns]
    assert compared == ["number", "heavy", "count", "flag", "mostly zero", "gaps"]
    array = toy("FlowDetector", contamination=0.1, condition="y").fit(rng.normal(size=(400, 3)), y)
    assert [shift.name for shift in array.drift(rng.normal(size=(400, 3))).columns] == ["0", "1", "2"]


def test_a_detector_of_images_tells_drift() -> None:
    rng = np.random.default_rng(26)
    images = rng.integers(60, 180, size=(400, 8, 8), dtype=np.uint8)
    detector = small("VAEDetector", condition="y").fit(images, np.arange(400) % 2)
    found = detector.drift(images[:200] + 60)
    assert found.worst.name == "brightness"
    assert found.exceeds(0.25)
    assert [shift.name for shift in found.columns] == ["brightness", "contrast"]
