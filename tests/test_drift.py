"""Drift: cells from the training rows, counts that add up, and reports that tell a shift from a short file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from anomgen.drift import Counter, Drift, Reference
from anomgen.drift.cells import Cells
from anomgen.encode import ImageEncoder, TableEncoder

Rng = np.random.Generator


def table(rng: Rng, n: int) -> pd.DataFrame:
    """A column of every kind of distribution that cells are made for."""
    return pd.DataFrame(
        {
            "number": rng.normal(5.0, 2.0, n),
            "heavy": np.exp(2.0 * rng.normal(size=n)),
            "count": rng.poisson(2.0, n),
            "flag": rng.random(n) < 0.03,
            "mostly zero": np.where(rng.random(n) < 0.7, 0.0, rng.normal(size=n)),
            "text": rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]),
            "gaps": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**7, n), unit="s"),
        }
    )


def reference_of(rows: Any, **options: Any) -> Reference:
    return Reference.of(TableEncoder().fit(rows), rows, **options)


def measured(reference: Reference, rows: Any, scores: Any = None) -> Drift:
    counter = reference.counter()
    counter.add(rows, scores)
    return reference.report(counter.state())


# ------------------------------------------------------------------ shifts and their absence


@pytest.mark.parametrize(("n", "m"), [(300, 1000), (3000, 5), (3000, 20), (3000, 200), (3000, 20_000)])
def test_rows_like_the_training_rows_do_not_alarm(n: int, m: int, full: bool) -> None:
    repeats = 100 if full else 25
    alarms, indices = 0, []
    for seed in range(repeats):
        rng = np.random.default_rng([seed, n, m])
        found = measured(reference_of(table(rng, n)), table(rng, m))
        alarms += found.exceeds(0.0)
        indices.append([shift.psi / shift.expected for shift in found.columns])
    # At one alarm in a thousand jobs, three in a hundred would be a surprise.
    assert alarms <= 2
    # Two or three cells have a chi-squared distribution only where many values are in each.
    well_filled = np.mean(indices, axis=0)[[0, 1, 7]]
    assert (well_filled < 1.25).all()
    if m >= 200:
        assert (well_filled > 0.75).all()


CHANGES: dict[str, Callable[[pd.DataFrame, Rng], Any]] = {
    "number": lambda rows, _: rows["number"] + 1.5,
    "heavy": lambda rows, _: rows["heavy"] * 100.0,
    "count": lambda rows, _: rows["count"] + 1,
    "flag": lambda rows, rng: rng.random(len(rows)) < 0.3,
    "mostly zero": lambda rows, rng: np.where(rng.random(len(rows)) < 0.5, rows["mostly zero"], 1.0),
    "text": lambda rows, rng: rng.choice(["a", "b", "c"], len(rows), p=[0.2, 0.3, 0.5]),
    "gaps": lambda rows, rng: rows["gaps"].mask(rng.random(len(rows)) < 0.4),
    "day": lambda rows, _: rows["day"] + pd.Timedelta(days=100),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("m", [150, 10_000])
def test_a_shifted_column_is_the_worst_and_alarms_alone(name: str, m: int) -> None:
    rng = np.random.default_rng(1)
    reference, rows = reference_of(table(rng, 5000)), table(rng, m)
    rows[name] = CHANGES[name](rows, rng)
    found = measured(reference, rows)
    assert found.worst.name == name
    assert [shift.name for shift in found.above(0.25)] == [name]
    assert found.exceeds(0.25)
    assert not found.exceeds(50.0)
    assert (found.worst.ks is None) == (name == "text")
    if name not in ("text", "gaps"):
        assert found.worst.ks is not None
        assert found.worst.ks > 0.2


def test_a_short_file_alarms_if_all_of_it_moved() -> None:
    rng = np.random.default_rng(1)
    reference, rows = reference_of(table(rng, 5000)), table(rng, 50)
    assert [shift.name for shift in measured(reference, rows.assign(heavy=rows["heavy"] * 100.0)).above(0.25)] == [
        "heavy"
    ]


def test_what_training_never_had_alarms() -> None:
    rng = np.random.default_rng(2)
    reference = reference_of(table(rng, 5000))
    changed: dict[str, Any] = {
        "text": np.where(rng.random(2000) < 0.05, "new", "a"),
        # A flag that has become a probability.
        "flag": rng.random(2000) * 0.05,
        "number": np.where(rng.random(2000) < 0.05, np.nan, rng.normal(5.0, 2.0, 2000)),
    }
    for name, values in changed.items():
        rows = table(rng, 2000)
        rows[name] = values
        assert measured(reference, rows).worst.name == name
        assert measured(reference, rows).exceeds(0.25), name


def test_a_constant_that_changes_alarms_and_one_that_stays_does_not() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.normal(size=500), np.full(500, 0.0), np.full(500, 7.1)])
    reference = reference_of(X)
    same, other = X[:100].copy(), X[:100].copy()
    other[:, 1] = 1e-9
    assert not measured(reference, same).exceeds(0.0)
    assert not measured(reference, same.astype(np.float32)).exceeds(0.0)
    assert [shift.name for shift in measured(reference, other).above(0.25)] == ["1"]


# ------------------------------------------------------------------ the two indices


def test_the_index_is_the_textbook_one_for_many_rows() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=200_000), rng.normal(0.3, 1.2, size=400_000)
    cells = Cells.of("x", x)
    found = cells.shift(cells.count(y), 1)
    # Ten groups of about 4.9 of the 49 cells each.
    ends = cells.edges[np.flatnonzero(np.diff(cells.groups[:-1]))]
    p, q = (np.diff(np.searchsorted(np.sort(v), ends), prepend=0, append=len(v)) / len(v) for v in (x, y))
    assert len(p) == 10
    assert p.min() > 0.08
    assert p.max() < 0.12
    assert found.psi == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-3)
    assert found.expected == pytest.approx(9 * (1 / 200_000 + 1 / 400_000))


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=5000)
    cells = Cells.of("x", x)
    for y in (rng.normal(0.5, 1.0, 3000), rng.normal(0.0, 2.0, 3000), rng.normal(50.0, 1.0, 100), x[:1000]):
        gappy = np.concatenate([y, np.full(500, np.nan)])
        found, exact = cells.shift(cells.count(gappy), 1).ks, ks_2samp(x, y).statistic
        assert found is not None
        assert exact - 0.025 < found <= exact + 1e-9
    steps = rng.poisson(3.0, 4000).astype(float)
    few = Cells.of("x", steps)
    assert few.kind == "levels"
    assert few.shift(few.count(steps[:100]), 1).ks == pytest.approx(ks_2samp(steps, steps[:100]).statistic)


def test_no_rows_have_not_moved() -> None:
    rng = np.random.default_rng(6)
    reference = reference_of(table(rng, 300))
    for state in (reference.counter().state(), Counter.merge([])):
        found = reference.report(state)
        assert found.rows == 0
        assert not found.exceeds(0.0)
        assert {shift.psi for shift in found.columns} == {0.0}


@pytest.mark.parametrize("limit", [-0.1, math.nan])
def test_a_limit_is_a_number_from_zero_on(limit: float) -> None:
    rng = np.random.default_rng(7)
    rows = table(rng, 300)
    with pytest.raises(ValueError, match="limit="):
        measured(reference_of(rows), rows).exceeds(limit)


# ------------------------------------------------------------------ cells and counts


def test_counts_do_not_depend_on_how_rows_are_cut() -> None:
    rng = np.random.default_rng(8)
    reference = reference_of(table(rng, 2000)).with_scores(rng.normal(size=500))
    rows, scores = table(rng, 3000), rng.normal(size=3000)
    whole = reference.counter()
    whole.add(rows, scores)
    order = rng.permutation(3000)
    states = []
    for part in np.split(order, [1, 500, 501, 2900]):
        counter = reference.counter()
        for some in np.array_split(part, 2):
            counter.add(rows.iloc[some], scores[some])
        states.append(json.loads(json.dumps(counter.state())))
    assert Counter.merge(states) == whole.state()
    assert Counter.merge([Counter.merge(states[:2]), *states[2:]]) == whole.state()
    assert Counter.merge([whole.state()]) == whole.state()
    assert reference.report(Counter.merge(states)) == measured(reference, rows, scores)


def test_the_state_of_a_counter_is_small_and_whole() -> None:
    rng = np.random.default_rng(9)
    rows = table(rng, 4000)
    rows["many"] = rng.choice([f"level {i}" for i in range(300)], 4000)
    reference = reference_of(rows).with_scores(rng.normal(size=1000))
    counter = reference.counter()
    counter.add(rows, rng.normal(size=4000))
    state = counter.state()
    assert all(len(counts) <= 50 for counts in [*state["columns"], state["score"]])
    assert all(type(count) is int for counts in [*state["columns"], state["score"]] for count in counts)
    assert all(sum(counts) == 4000 for counts in [*state["columns"], state["score"]])
    # A new value among rare levels is still an unseen one.
    strange = rows.assign(many="never seen")
    assert measured(reference, strange).worst.name == "many"


@pytest.mark.parametrize("m", [300, 5000])
def test_levels_that_are_new_as_often_as_ever_are_no_drift(m: int) -> None:
    rng = np.random.default_rng(17)
    share = 1.0 / np.arange(1, 1501)
    names = np.array([f"level {i}" for i in range(1500)])

    def rows(n: int) -> pd.DataFrame:
        return pd.DataFrame({"many": rng.choice(names, n, p=share / share.sum()), "x": rng.normal(size=n)})

    train = rows(5000)
    reference = reference_of(train)
    assert reference.columns[0].counts.sum() == 5000
    assert reference.columns[0].counts[-2] == (train["many"].value_counts() == 1).sum() > 100
    new = [rows(m) for _ in range(10)]
    assert (~new[0]["many"].isin(train["many"])).mean() > 0.02
    found = [measured(reference, some) for some in new]
    assert not any(one.exceeds(0.1) for one in found)
    assert np.mean([one.columns[0].excess for one in found]) < 0.02
    strange = new[0].assign(many=new[0]["many"].where(rng.random(m) < 0.7, "new"))
    assert measured(reference, strange).exceeds(0.25)


def test_levels_that_the_sample_lacks_are_as_new_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgen.drift.reference.MAX_ROWS", 2)
    reference = reference_of(pd.DataFrame({"a": ["x", "x", "y", "x"], "b": [1.0, 2.0, 3.0, 4.0]}))
    known = reference.columns[0]
    assert known.counts.tolist() == [2, 0, 0]
    assert known.count(np.array([0.0, 1.0, -1.0, np.nan])).tolist() == [1, 2, 1]


def test_numbers_stored_in_single_precision_are_the_same_numbers() -> None:
    rng = np.random.default_rng(10)
    frame = pd.DataFrame(
        {
            "price": rng.choice([4.99, 9.99, 12.34, 19.99], 5000),
            "cents": np.round(np.exp(rng.normal(2.0, 0.3, 5000)), 2),
            "kilo": 1e9 + rng.choice([0.0, 1000.0, 2000.0], 5000),
        }
    )
    reference = reference_of(frame)
    counters = [reference.counter(), reference.counter()]
    counters[0].add(frame)
    counters[1].add(frame.astype(np.float32))
    assert counters[0].state() == counters[1].state()


def test_few_values_have_cells_only_if_they_come_back() -> None:
    rng = np.random.default_rng(11)
    zeros = np.where(np.arange(100) < 80, 0.0, rng.normal(size=100))
    assert Cells.of("x", zeros).kind == "quantiles"
    assert Cells.of("x", np.repeat(rng.normal(size=20), 5)).kind == "levels"
    assert Cells.of("x", np.array([0.0, 0.0, 0.0, 1.0])).kind == "levels"


def test_cells_of_close_levels_do_not_overlap() -> None:
    cells = Cells.of("x", np.repeat([1e9, 1e9 + 1.0], 50))
    assert cells.count(np.array([1e9, 1e9 + 0.5, 1e9 + 1.0])).tolist() == [1, 1, 1, 0]


def test_a_sample_without_a_value_can_be_compared() -> None:
    cells = Cells.of("x", np.full(50, np.nan))
    assert cells.shift(cells.count(np.full(10, np.nan)), 1).psi == 0.0
    assert cells.shift(cells.count(np.ones(1000)), 1).psi > 0.25


def test_extremes_do_not_overflow() -> None:
    x = np.concatenate([np.linspace(-8e307, 8e307, 500), [-1.7e308, 1.7e308, 5e-324]])
    cells = Cells.of("x", x)
    assert np.isfinite(cells.edges).all()
    assert cells.count(x).sum() == len(x)
    assert cells.counts.max() < 20


def test_weights_are_repeated_rows() -> None:
    rng = np.random.default_rng(12)
    X, weight = rng.normal(size=(900, 2)), rng.integers(1, 5, 900).astype(float)
    weighted = reference_of(X, weight=weight)
    repeated = np.repeat(X, weight.astype(int), axis=0)
    assert not measured(weighted, repeated).exceeds(0.0)
    heavy = reference_of(X, weight=np.where(X[:, 0] > 1.0, 50.0, 1.0))
    assert measured(heavy, X).worst.name == "0"
    assert measured(heavy, X).exceeds(0.25)


def test_a_reference_takes_rows_evenly_from_a_long_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgen.drift.reference.MAX_ROWS", 1000)
    X = np.column_stack([np.arange(50_000.0), np.random.default_rng(0).normal(size=50_000)])
    found = measured(reference_of(X), X)
    assert found.reference_rows == 1000
    assert not found.exceeds(0.0)


def test_many_columns_at_once() -> None:
    rng = np.random.default_rng(13)
    X = rng.normal(size=(400, 600))
    reference = reference_of(X)
    moved = rng.normal(size=(400, 600))
    moved[:, 321] += 1.0
    assert [shift.name for shift in measured(reference, moved).above(0.1)] == ["321"]


def test_counts_of_another_model_are_refused() -> None:
    rng = np.random.default_rng(14)
    mine, other = reference_of(rng.normal(size=(300, 2))), reference_of(rng.normal(size=(300, 3)))
    with pytest.raises(ValueError, match="another model"):
        mine.report(other.counter().state())


# ------------------------------------------------------------------ images


def test_images_are_compared_by_brightness_and_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgen.drift.reference.IMAGES", 64)
    rng = np.random.default_rng(15)
    images = rng.integers(60, 180, size=(500, 6, 6), dtype=np.uint8)
    reference = Reference.of(ImageEncoder().fit(images), images)
    assert not measured(reference, rng.integers(60, 180, size=(300, 6, 6), dtype=np.uint8)).exceeds(0.0)
    darker, flatter = images - 40, (120 + (images.astype(int) - 120) // 3).astype(np.uint8)
    assert [shift.name for shift in measured(reference, darker).above(1.0)] == ["brightness"]
    assert measured(reference, flatter).worst.name == "contrast"


class Album:
    """Images that are read when they are asked for."""

    is_image_source = True

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.most = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self.images[rows]
        self.most = max(self.most, len(found))
        return found


def test_a_source_of_images_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgen.drift.reference.IMAGES", 16)
    monkeypatch.setattr("anomgen.drift.reference.MAX_IMAGES", 100)
    images = np.random.default_rng(16).integers(0, 256, size=(300, 5, 5), dtype=np.uint8)
    album, encoder = Album(images), ImageEncoder().fit(images)
    reference = Reference.of(encoder, album)
    found = measured(reference, album)
    assert album.most == 16
    assert (found.reference_rows, found.rows) == (100, 300)
    assert found == measured(reference, images)
