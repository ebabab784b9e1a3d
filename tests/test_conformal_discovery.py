"""Selections with few false ones: the step-up rule from p-values and from ranks, sizes needed, rows one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomgen import calibrate
from anomgen.calibrate import OnlineDiscovery


def by_definition(p: np.ndarray, fdr: float) -> np.ndarray:
    m = len(p)
    enough = [k for k in range(1, m + 1) if (p <= fdr * k / m * (1 + 1e-12)).sum() >= k]
    return p <= fdr * max(enough) / m * (1 + 1e-12) if enough else np.zeros(m, bool)


@given(st.lists(st.integers(1, 21), min_size=1, max_size=30), st.sampled_from([0.05, 0.1, 0.25, 0.5]))
@settings(max_examples=100, deadline=None)
def test_ranks_and_p_values_select_the_same_rows(ranks: list[int], fdr: float) -> None:
    counts = np.bincount(ranks, minlength=22)
    for confidence in (None, 0.9):
        p = calibrate.levels(20, confidence)[ranks]
        selected = calibrate.benjamini_hochberg(p, fdr)
        assert np.array_equal(selected, by_definition(p, fdr))
        assert np.array_equal(selected, np.array(ranks) <= calibrate.rank_cutoff(counts, 20, fdr, confidence))


def test_histograms_add_up() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 102, size=(3, 500)) // rng.integers(1, 9, size=(3, 500)) + 1
    counts = sum(np.bincount(part, minlength=103) for part in ranks)
    selected = calibrate.benjamini_hochberg(ranks.ravel() / 102, 0.3)
    assert selected.any()
    assert np.array_equal(selected, ranks.ravel() <= calibrate.rank_cutoff(counts, 101, 0.3))
    assert calibrate.rank_cutoff(np.zeros(0, int), 101, 0.3) == 0


@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("rows", [10, 999, 10_000])
@pytest.mark.parametrize("discoveries", [1, 3, 7])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_size_needed_is_enough_and_no_less_is(
    fdr: float, rows: int, discoveries: int, confidence: float | None
) -> None:
    n = calibrate.needed(rows, fdr, discoveries, confidence)
    for size in (n, n - (1 if confidence is None else 2)):
        if size < 1:
            continue
        ranks = np.r_[np.full(discoveries, 1), np.full(rows - discoveries, size + 1)]
        counts = np.bincount(ranks, minlength=size + 2)
        found = calibrate.rank_cutoff(counts, size, fdr, confidence)
        assert (found == 1) == (size == n)
        assert (calibrate.least_discoveries(size, rows, fdr, confidence) <= discoveries) == (size == n)
        message = calibrate.shortage(counts, size, fdr, confidence)
        assert (message is None) == (size == n)
        if message:
            assert f"{n:,} calibration rows" in message


def test_formulas_of_the_size() -> None:
    assert calibrate.least_discoveries(999, 10_000, 0.1) == 100
    assert calibrate.needed(10_000, 0.1, 100) == 999
    assert calibrate.shortage([0, 0, 5], 10, 0.1) is None


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 2])
def test_wrong_levels_are_refused(wrong: float) -> None:
    for call in (
        lambda: calibrate.benjamini_hochberg([0.5], wrong),
        lambda: calibrate.rank_cutoff([0, 1], 5, wrong),
        lambda: OnlineDiscovery(wrong),
    ):
        with pytest.raises(ValueError, match=r"fdr=.* must be a number in \(0, 1\)"):
            call()


def test_what_is_no_p_value_or_histogram_is_refused() -> None:
    for wrong in ([np.nan], [-0.1], [1.1]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            calibrate.benjamini_hochberg(wrong, 0.1)
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            OnlineDiscovery(0.1).test(np.array(wrong))
    for call in (lambda p: calibrate.benjamini_hochberg(p, 0.1), OnlineDiscovery(0.1).test):
        with pytest.raises(ValueError, match=r"shape \(1, 2\): give one a row"):
            call(np.array([[0.001, 0.9]]))
    for counts in ([1, 2], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="rank 0"):
            calibrate.rank_cutoff(counts, 1, 0.1)
    with pytest.raises(ValueError, match="discoveries=0"):
        calibrate.needed(10, 0.1, 0)
    with pytest.raises(ValueError, match="confidence=1"):
        calibrate.needed(10, 0.1, 1, confidence=1)


def mixture(rng: np.random.Generator, m: int, share: float, normal_rows: np.ndarray | None = None) -> tuple:
    """P-values of `m` rows, a share of them anomalies, and which they are."""
    anomaly = rng.random(m) < share
    scores = rng.normal(size=m) - 5 * anomaly
    if normal_rows is None:
        from scipy.stats import norm

        return norm.cdf(scores), anomaly
    return calibrate.p_values(normal_rows, scores), anomaly


def test_rows_one_by_one_and_many_at_once_are_decided_alike() -> None:
    p, _ = mixture(np.random.default_rng(1), 9000, 0.03)
    whole, single, cut = OnlineDiscovery(0.1), OnlineDiscovery(0.1), OnlineDiscovery(0.1)
    found = whole.test(p)
    assert found.sum() > 50
    level = single.level
    assert single.test(p[0]) is bool(p[0] <= level)
    assert np.array_equal(found[1:600], [single.test(value) for value in p[1:600]])
    assert np.array_equal(found[:4100], cut.test(p[:4100]))
    again = OnlineDiscovery.from_state(json.loads(json.dumps(cut.state())))
    assert np.array_equal(found[4100:], again.test(p[4100:]))
    assert again.state() == whole.state()


def test_levels_are_the_published_formula() -> None:
    def gamma(t: int) -> float:
        return 0.079 * np.log(max(t, 2)) / (t * np.exp(np.sqrt(np.log(t))))

    stream = OnlineDiscovery(0.2)
    for t, p in enumerate([0.5, 1e-5, 0.5, 1e-6, 1e-6, 0.5, 0.9], start=1):
        earned = sum((0.1 if j == 0 else 0.2) * gamma(t - time) for j, time in enumerate(stream.discoveries))
        assert stream.level == pytest.approx(0.1 * gamma(t) + earned)
        stream.test(p)
    assert stream.discoveries == [2, 4, 5]


def test_levels_never_spend_more_than_they_earn() -> None:
    stream = OnlineDiscovery(0.1)
    p, _ = mixture(np.random.default_rng(2), 3000, 0.02)
    spent = 0.0
    for value in p:
        spent += stream.level
        stream.test(float(value))
        # What LORD++ keeps below fdr: levels spent so far, over the discoveries.
        assert spent <= 0.1 * max(len(stream.discoveries), 1) * (1 + 1e-9)


def test_weights_sum_to_at_most_one() -> None:
    from anomgen.calibrate.online import SCALE, _weight

    n = 1_000_000
    v = np.sqrt(np.log(n))
    tail = SCALE * 2 * np.exp(-v) * (v**3 + 3 * v**2 + 6 * v + 6)
    assert 0.99 < _weight(np.arange(1, n + 1)).sum() + tail <= 1
