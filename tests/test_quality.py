"""Metrics of synthetic tables, on cases whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp, spearmanr
from sklearn.metrics import roc_auc_score

from anomgen import runtime
from anomgen.data import make_payments
from anomgen.quality import closest_records, column_shapes, membership, pair_trends, prdc, transfer, two_sample_auroc
from anomgen.quality.tables import some


@pytest.fixture(scope="module")
def payments() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, held-out and further rows of one table, the label a column of it."""
    X, y, _ = make_payments(3600, seed=3)
    X["label"] = y
    return X[:1200], X[1200:2400], X[2400:]


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column in an order of its own: the same columns without what ties them."""
    rng = np.random.default_rng(0)
    return pd.DataFrame({name: rng.permutation(frame[name].to_numpy()) for name in frame})


def test_shapes_of_known_distances() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0, 7.5])
    found = column_shapes(pd.DataFrame({"x": a}), pd.DataFrame({"x": b}))["x"]
    assert found.alike == pytest.approx(1 - ks_2samp(a, b).statistic)
    assert found.distance == "KS"
    real = pd.DataFrame({"c": ["a", "a", "b", None]})
    found = column_shapes(pd.DataFrame({"c": pd.Categorical(["a", "b", "b", "new"])}), real)["c"]
    assert (found.alike, found.distance) == (1 - 0.5 * (0.25 + 0.25 + 0.25 + 0.25), "TV")
    assert (found.missing, found.real_missing) == (0.0, 0.25)
    half = column_shapes(pd.DataFrame({"x": [1.0, 2.0, np.nan, np.nan]}), pd.DataFrame({"x": [1.0, 2.0, 1.0, 3.0]}))
    assert half["x"].alike == pytest.approx(0.5)


def test_pairs_of_known_dependence(payments: tuple[pd.DataFrame, ...], numbers: np.ndarray) -> None:
    found = pair_trends(shuffled(pd.DataFrame(numbers)).to_numpy(), numbers)
    rank = spearmanr(numbers).statistic
    assert found.alike[0, 1] == pytest.approx(1 - abs(rank[0, 1]) / 2, abs=0.05)
    assert pair_trends(numbers, numbers).mean == 1.0
    flags = pd.DataFrame({"a": ["x", "y"] * 50, "b": ["x", "y"] * 50})
    assert pair_trends(flags.assign(b=["x", "x", "y", "y"] * 25), flags).mean == pytest.approx(0.5)
    _, held_out, more = payments
    same, loose = (pair_trends(rows, held_out) for rows in (more, shuffled(more)))
    channel, category = same.names.index("channel"), same.names.index("category")
    assert same.alike[channel, category] > 0.9 > 0.75 > loose.alike[channel, category]
    assert same.mean > 0.93


def test_rank_correlations_leave_missing_values_out(numbers: np.ndarray) -> None:
    gaps = numbers.copy()
    gaps[np.random.default_rng(4).random(400) < 0.3, 1] = np.nan
    assert pair_trends(gaps, numbers).alike[0, 1] > 0.97


def test_two_samples_are_told_only_where_they_differ(payments: tuple[pd.DataFrame, ...]) -> None:
    _, held_out, more = payments
    same = two_sample_auroc(more, held_out)
    assert same.low < 0.5 < same.high
    with runtime.threads(2):
        assert same == two_sample_auroc(more, held_out)
        assert torch.get_num_threads() == 2
    assert two_sample_auroc(shuffled(more), held_out).low > 0.8
    assert two_sample_auroc(more.assign(amount=more["amount"] * 3), held_out, folds=2).low > 0.6
    with pytest.raises(ValueError, match="too few"):
        two_sample_auroc(more[:4], held_out)


def test_the_interval_holds_an_auroc_of_its_own() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.5, 1.0, 300), rng.normal(0.0, 1.0, 200)
    found = membership(a, b)
    assert found.value == pytest.approx(roc_auc_score(np.repeat([1, 0], [300, 200]), np.concatenate([a, b])))
    again = [membership(rng.normal(0.5, 1.0, 300), rng.normal(0.0, 1.0, 200)).value for _ in range(200)]
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(again), rel=0.2)


def test_what_rows_teach(payments: tuple[pd.DataFrame, ...]) -> None:
    train, held_out, more = payments
    (good,) = transfer(more, held_out, train, target="verified")
    (loose,) = transfer(shuffled(more), held_out, train, target="verified")
    assert good.measure == "AUROC"
    assert good.synthetic == pytest.approx(good.real, abs=0.05)
    assert loose.synthetic < good.real - 0.05
    assert loose.ratio is not None
    assert loose.ratio < 0.95
    (copied,) = transfer(train, held_out, train, target="amount")
    assert (copied.measure, copied.ratio) == ("R2", pytest.approx(1.0))
    (single,) = transfer(more.assign(label=0), held_out, train, target="label")
    assert single.synthetic == 0.5
    with pytest.raises(ValueError, match="target 'sum' is no column"):
        transfer(more, held_out, train, target="sum")


def test_columns_in_turn_without_training_rows(payments: tuple[pd.DataFrame, ...]) -> None:
    _, held_out, more = payments
    chosen = ["amount", "verified", "channel"]
    found = transfer(more[chosen], held_out[chosen])
    assert [one.target for one in found] == chosen
    assert all(one.synthetic > 0.3 for one in found)


def test_neighbourhoods_equal_brute_force() -> None:
    rng = np.random.default_rng(6)
    real, drawn, k = rng.normal(size=(70, 3)), rng.normal(0.4, 1.2, size=(70, 3)), 4
    a, b = ((x - real.mean(0)) / real.std(0) for x in (real, drawn))
    own, others = (np.sort(cdist(x, x), axis=1)[:, k] for x in (a, b))
    between = cdist(a, b)
    held = between <= own[:, None]
    expected = (
        held.any(0).mean(),
        (between <= others).any(1).mean(),
        held.sum(0).mean() / k,
        (between.min(1) <= own).mean(),
    )
    assert tuple(prdc(drawn, real, k=k)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="k=4"):
        prdc(drawn[:4], real, k=4)


def test_neighbourhoods_of_levels_reach_rows_that_are_as_far() -> None:
    rng = np.random.default_rng(0)
    real, drawn = (rng.integers(0, 3, (200, 3)) for _ in range(2))
    # Distances of rows of levels are square roots of how many levels differ.
    apart = [(a[:, None] != b[None]).sum(2) for a, b in ((real, real), (drawn, drawn), (real, drawn))]
    own, others = (np.sort(each, axis=1)[:, 5] for each in apart[:2])
    held = apart[2] <= own[:, None]
    expected = (
        held.any(0).mean(),
        (apart[2] <= others).any(1).mean(),
        held.sum(0).mean() / 5,
        (apart[2].min(1) <= own).mean(),
    )
    levels = [pd.DataFrame(part.astype(str)).add_prefix("c") for part in (drawn, real)]
    assert tuple(prdc(*levels)) == pytest.approx(expected, rel=1e-12)
    equal = pd.DataFrame({"a": ["x"] * 20, "b": ["y"] * 20})
    assert prdc(equal, equal).precision == 1.0


def test_neighbourhoods_of_good_and_of_narrow_rows(payments: tuple[pd.DataFrame, ...]) -> None:
    _, held_out, more = payments
    good = prdc(more, held_out)
    assert min(good) > 0.9
    narrow = prdc(pd.concat([more[:30]] * 40), held_out)
    assert narrow.precision > 0.8
    assert narrow.coverage < 0.3


def test_copies_are_nearer_than_held_out_rows(payments: tuple[pd.DataFrame, ...]) -> None:
    train, held_out, more = payments
    fresh = closest_records(more, train, held_out)
    assert fresh.nearer < 0.03
    assert fresh.nearer_half == pytest.approx(0.5, abs=0.06)
    nearly = train.assign(amount=train["amount"] * 1.0001)
    copied = closest_records(pd.concat([nearly[:600], more[:600]]), train, held_out)
    assert copied.nearer == pytest.approx(0.5, abs=0.03)
    assert copied.synthetic[:600].max() < 0.05


def test_distances_to_the_closest_record() -> None:
    train = np.array([[0.0, 0.0], [2.0, 4.0]])
    found = closest_records(np.array([[1.0, 0.0], [2.0, 4.0]]), train, np.array([[5.0, 4.0], [0.0, 0.0]]))
    assert found.synthetic.tolist() == [1.0, 0.0]
    assert found.held_out.tolist() == [3.0, 0.0]
    levels = pd.DataFrame({"c": ["a", "b", "c"], "x": [0.0, 0.5, 1.0]})
    drawn = pd.DataFrame({"c": ["new", None], "x": [0.5, 0.0]})
    assert closest_records(drawn, levels, levels).synthetic == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("most", [7, 100, 400])
def test_a_sample_does_not_depend_on_pieces(numbers: np.ndarray, most: int) -> None:
    whole = some(numbers, most, seed=1)
    assert len(whole) == most
    assert np.array_equal(whole, some(iter(np.array_split(numbers, 9)), most, seed=1))
    frame = pd.DataFrame(numbers, index=np.arange(400) + 50)
    assert np.array_equal(whole, some(frame, most, seed=1).to_numpy())


def of_another_kind(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(hour=frame["hour"].astype(str))


def infinite(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(amount=np.where(frame.index == frame.index[0], np.inf, frame["amount"]))


def twice(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame[["hour"]]], axis=1)


def without_common_columns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.add_prefix("my_")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_kind, "column 'hour' holds text"),
        (infinite, "column 'amount' holds infinite values"),
        (twice, "column 'hour' appears more than once"),
        (without_common_columns, "no column is in all tables"),
    ],
)
def test_tables_that_cannot_be_compared(
    payments: tuple[pd.DataFrame, ...], change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    _, held_out, more = payments
    with pytest.raises(ValueError, match=message):
        column_shapes(change(more), held_out)


def test_a_column_without_values_among_drawn_rows_is_told_and_teaches_nothing(
    payments: tuple[pd.DataFrame, ...],
) -> None:
    _, held_out, more = payments
    drawn = more.assign(amount=np.nan)
    assert two_sample_auroc(drawn, held_out).value > 0.99
    [found] = transfer(drawn, held_out, target="label")
    [whole] = transfer(more, held_out, target="label")
    assert 0.5 < found.synthetic < whole.synthetic
    both = two_sample_auroc(drawn, held_out.assign(amount=np.nan))
    assert both.low < 0.55


def test_rare_levels_of_many_do_not_give_rows_away() -> None:
    rng = np.random.default_rng(8)
    rows = pd.DataFrame({"shop": rng.zipf(1.3, 3000).astype(str), "x": rng.normal(size=3000)})
    found = two_sample_auroc(rows[:1500], rows[1500:])
    assert found.low < 0.5 < found.high + 0.02


def test_pairs_of_wide_tables_are_compared_in_part() -> None:
    wide = np.random.default_rng(9).integers(0, 2, size=(50, 130))
    found = pair_trends(wide, wide)
    assert found.alike.shape == (100, 100)
    assert found.names[0] == "x0"
    assert found.names[-1] == "x129"
