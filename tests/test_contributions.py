"""What columns add to the surprise of a row: shares that sum, rank and compare."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen.encode import TableEncoder
from anomgen.encode.shares import log_det_shares
from anomgen.explain import top_contributors
from tests.toys import FAMILIES, learned, small, toy

ABLE = "AutoregressiveDetector"


def table(seed: int, n: int) -> pd.DataFrame:
    """Columns of every kind, two of which belong together."""
    rng = np.random.default_rng(seed)
    number = rng.normal(size=n)
    return pd.DataFrame(
        {
            "number": number,
            "twin": 1e6 * (number + 0.1 * rng.normal(size=n)),
            "tail": np.exp(2.0 * rng.normal(size=n)),
            "count": rng.poisson(3.0, n),
            "text": rng.choice(["a", "b", "c"], n),
            "flag": rng.random(n) < 0.2,
            "gaps": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "version": 7,
        }
    )


@pytest.fixture(scope="module")
def fitted() -> Any:
    return learned(ABLE, max_epochs=20).fit(table(0, 2000))


@pytest.fixture
def rows() -> pd.DataFrame:
    return table(1, 60)


def test_shares_of_the_log_determinant_sum_to_it(mixed: pd.DataFrame) -> None:
    encoder = TableEncoder(exclude=["visits"]).fit(mixed)
    strange = mixed.assign(version=np.where(np.arange(300) == 5, 8, 7), amount=mixed["amount"] * 1e4)
    strange["city"] = strange["city"].astype(object)
    strange.loc[3, ["city", "length"]] = ["Oslo", np.nan]
    for frame in (mixed, strange):
        for codes in (False, True):
            shares = log_det_shares(encoder, encoder.read(frame), codes)
            assert shares.shape == (300, 7)
            np.testing.assert_allclose(shares.sum(1), encoder.encode(frame, codes=codes).log_det, rtol=1e-12)


def test_contributions_sum_to_minus_the_log_likelihood(fitted: Any, rows: pd.DataFrame) -> None:
    rows.loc[0, "version"] = 8
    rows.loc[1, "gaps"] = np.nan
    rows.loc[2, "tail"] = 1e9
    rows["text"] = rows["text"].where(rows.index != 3, "never seen")
    found = fitted.contributions(rows, relative=False)
    assert list(found.columns) == list(rows.columns)
    np.testing.assert_allclose(found.sum(axis=1), -fitted.score_samples(rows), rtol=1e-5, atol=1e-4)
    gone = found - fitted.contributions(rows)
    np.testing.assert_allclose(gone, np.where(rows.isna(), 0.0, fitted.usual_nats_), atol=1e-9)


def test_what_is_odd_about_a_row_ranks_first(fitted: Any, rows: pd.DataFrame) -> None:
    odd: dict[str, Any] = {
        "number": 40.0,
        "tail": 1e12,
        "count": 60,
        "text": "never seen",
        "version": 8,
        "gaps": -30.0,
    }
    for row, (name, value) in enumerate(odd.items()):
        rows[name] = rows[name].astype(object) if isinstance(value, str) else rows[name]
        rows.loc[row, name] = value
    # Each of the twins is likely alone.
    rows.loc[6, ["number", "twin"]] = [1.5, -1.5e6]
    named = top_contributors(fitted.contributions(rows), 2)
    for row, name in enumerate(odd):
        assert name in (named[row] if name == "number" else named[row][:1])
    assert set(named[6]) == {"number", "twin"}
    assert fitted.contributions(rows).iloc[0][["number", "twin"]].sum() > 10.0


def test_usual_rows_cost_what_is_usual_in_every_column(fitted: Any) -> None:
    many = table(2, 1000)
    assert fitted.contributions(many).median().abs().max() < 0.3
    assert fitted.usual_nats_[1] > 10.0  # nats of a density of units of which there are a million


def test_a_change_of_units_changes_no_relative_contribution(rows: pd.DataFrame) -> None:
    train = table(0, 500)
    first = toy(ABLE, contamination=0.1).fit(train)
    second = toy(ABLE, contamination=0.1).fit(train.assign(gaps=train["gaps"] * 1024.0))
    changed = rows.assign(gaps=rows["gaps"] * 1024.0)
    observed = rows["gaps"].notna()
    assert not observed.all()
    np.testing.assert_allclose(first.contributions(rows), second.contributions(changed), atol=1e-4)
    raw = second.contributions(changed, relative=False) - first.contributions(rows, relative=False)
    np.testing.assert_allclose(raw["gaps"], np.where(observed, np.log(1024.0), 0.0), atol=1e-4)


def test_contributions_of_a_row_do_not_depend_on_the_others(fitted: Any, rows: pd.DataFrame) -> None:
    whole = fitted.contributions(rows)
    np.testing.assert_array_equal(whole[17:18], fitted.contributions(rows[17:18]))
    np.testing.assert_array_equal(whole[::-1], fitted.contributions(rows[::-1]))


def test_arrays_have_columns_by_position_and_excluded_ones_none(numbers: np.ndarray) -> None:
    detector = toy(ABLE, contamination=0.1, exclude=(1,)).fit(numbers)
    found = detector.contributions(numbers[:20], relative=False)
    assert list(found.columns) == [0, 2]
    np.testing.assert_allclose(found.sum(axis=1), -detector.score_samples(numbers[:20]), rtol=1e-5)
    assert set(top_contributors(found, 1)[0]) <= {"0", "2"}


def test_contributions_are_those_of_the_saved_model(fitted: Any, rows: pd.DataFrame, tmp_path: Path) -> None:
    expected = fitted.contributions(rows)
    fitted.save(tmp_path / "model")
    for copy in (anomgen.load(tmp_path / "model"), pickle.loads(pickle.dumps(fitted))):
        pd.testing.assert_frame_equal(copy.contributions(rows), expected)


def test_a_model_that_does_not_know_what_is_usual_says_so(fitted: Any, rows: pd.DataFrame) -> None:
    old = pickle.loads(pickle.dumps(fitted))
    del old.usual_nats_
    with pytest.raises(ValueError, match="fit it again, or pass relative=False"):
        old.contributions(rows)
    assert old.contributions(rows, relative=False).shape == (60, 8)


def test_rows_in_pieces_have_contributions(rows: pd.DataFrame) -> None:
    detector = toy(ABLE).partial_fit(table(3, 200)).partial_fit(table(4, 200))
    assert detector.contributions(rows).shape == (60, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_that_cannot_name_one_that_can(name: str, numbers: np.ndarray) -> None:
    detector = toy(name, contamination=0.1).fit(numbers)
    if name == ABLE:
        assert detector.contributions(numbers[:5]).shape == (5, 3)
        return
    assert not hasattr(detector, "usual_nats_")
    with pytest.raises(ValueError, match=f"{name} cannot say .* {ABLE}"):
        detector.contributions(numbers[:5])


def test_images_have_maps_instead(rows: pd.DataFrame) -> None:
    images = np.random.default_rng(5).integers(0, 256, size=(120, 8, 8), dtype=np.uint8)
    detector = small(ABLE).fit(images)
    with pytest.raises(ValueError, match="score_map"):
        detector.contributions(images)
    assert not hasattr(detector, "usual_nats_")
    assert hasattr(toy(ABLE, contamination=0.1).fit(rows), "usual_nats_")


def test_contributors_are_named_from_the_largest() -> None:
    frame = pd.DataFrame({"a": [1.0, 0.0], "b": [3.0, 0.0], "c": [-2.0, 0.0]})
    assert top_contributors(frame, 2) == [["b", "a"], ["a", "b"]]
    assert top_contributors(frame, 9) == [["b", "a", "c"], ["a", "b", "c"]]
    assert top_contributors(frame[:0], 2) == []
    with pytest.raises(ValueError, match="at least 1"):
        top_contributors(frame, 0)
