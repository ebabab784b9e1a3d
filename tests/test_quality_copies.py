"""Copies: which rows equal a training row, and how many of them are no evidence."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from anomgen.encode import Labelled
from anomgen.quality import CopyCheck


def other_types(frame: pd.DataFrame) -> pd.DataFrame:
    """The same values in other containers, and other order."""
    other = frame.iloc[:, ::-1].copy()
    other["visits"] = other["visits"].astype("Int16")
    other["member"] = other["member"].astype("boolean")
    other["city"] = other["city"].astype(str)
    other["seen"] = other["seen"].dt.as_unit("s").dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    other["version"] = other["version"].astype(float).astype(object)
    return other


def test_equal_values_match_whatever_holds_them(mixed: pd.DataFrame) -> None:
    check = CopyCheck(mixed[:200])
    assert check.matches(other_types(mixed)).tolist() == [True] * 200 + [False] * 100
    assert check.matches(mixed.assign(synthetic=True))[:200].all(), "columns beyond those of the training rows"
    assert CopyCheck(other_types(mixed[:200])).digest == check.digest


@pytest.mark.parametrize("column", ["length", "visits", "member", "city", "seen", "weight"])
def test_one_changed_cell_is_no_match(mixed: pd.DataFrame, column: str) -> None:
    changed = mixed.copy()
    changed[column] = np.roll(mixed[column].to_numpy(), 1)
    differs = (mixed[column] != changed[column]) & ~(mixed[column].isna() & changed[column].isna())
    assert CopyCheck(mixed).matches(changed).tolist() == (~differs).tolist()


def test_values_of_two_columns_do_not_swap() -> None:
    assert CopyCheck(pd.DataFrame({"a": [1], "b": [2]})).matches(pd.DataFrame({"a": [2], "b": [1]})).tolist() == [False]


def test_pieces_order_and_arrays(numbers: np.ndarray) -> None:
    whole = CopyCheck(numbers, numbers[:10])
    parts = CopyCheck(part for part in np.array_split(numbers[::-1], 7))
    assert whole.digest == parts.digest
    assert parts.rows == 400
    assert parts.matches(pd.DataFrame(numbers, columns=["x0", "x1", "x2"])).all()
    assert CopyCheck(numbers[1:]).digest != whole.digest
    assert len(pickle.dumps(whole)) < 8 * 400 + 2000
    assert pickle.loads(pickle.dumps(whole)).matches(numbers).all()


def test_columns_that_only_training_rows_have(mixed: pd.DataFrame) -> None:
    drawn = mixed.drop(columns="city")
    assert CopyCheck(mixed, columns=drawn.columns).matches(drawn).all()
    with pytest.raises(ValueError, match=r"no column 'city'.*columns="):
        CopyCheck(mixed).matches(drawn)


def test_a_column_of_another_kind_is_told() -> None:
    with pytest.raises(ValueError, match="column 'zip' holds text where it held number"):
        CopyCheck(pd.DataFrame({"zip": [9000, 9050]})).matches(pd.DataFrame({"zip": ["9000", "9050"]}))


def test_images_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(50, 8, 8), dtype=np.uint8)
    check = CopyCheck(Labelled(images[:30], np.zeros(30)))
    assert check.matches(images.astype(np.float32)).tolist() == [True] * 30 + [False] * 20
    assert not check.matches(images[:30].transpose(0, 2, 1)).any()
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        check.matches(images[:, :4, :4])
    with pytest.raises(ValueError, match="images of shape"):
        check.matches(images.reshape(50, 64))


def test_the_rate_of_held_out_rows_is_allowed_on_discrete_tables() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 12, size=(600, 2)).astype(float)
    check = CopyCheck(rows[:100], rows[100:300])
    assert check.discrete
    assert check.allowed == check.matches(rows[100:300]).mean() > 0.3
    real = np.column_stack([rows, rng.normal(size=600)])
    assert CopyCheck(real[:100], np.vstack([real[100:300], real[:50]])).allowed == 0.0
    assert CopyCheck(rows[:100]).allowed == 0.0


@pytest.mark.parametrize(("met", "of"), [(0, 5), (1, 1), (1, 3), (3, 10), (99, 100), (1, 1000)])
def test_copies_are_refused_row_by_row(met: int, of: int) -> None:
    held_out = np.repeat([[0.0], [9.0]], [met, of - met], axis=0)
    check = CopyCheck(np.array([[0.0], [1.0], [2.0]]), held_out)
    matches = np.random.default_rng(2).random(500) < 0.4
    kept = copies = 0
    refused = []
    for match in matches.tolist():
        refused.append(match and Fraction(copies + 1, kept + 1) > Fraction(met, of))
        kept += not refused[-1]
        copies += match and not refused[-1]
    assert check.refuse(matches, 0, 0).tolist() == refused
    first = check.refuse(matches[:130], 0, 0)
    before = int((~first).sum()), int((matches[:130] & ~first).sum())
    assert [*first, *check.refuse(matches[130:], *before)] == refused


def test_no_rows_or_the_training_rows_as_held_out(numbers: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no training rows"):
        CopyCheck(numbers[:0])
    with pytest.raises(ValueError, match="held-out rows are the training rows"):
        CopyCheck(numbers, numbers[::-1])
    with pytest.raises(ValueError, match="no held-out rows"):
        CopyCheck(numbers, iter([]))
