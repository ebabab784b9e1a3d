"""Conformal p-values: their definition, ties, ranks, chance, and the bound given the calibration set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomgen import calibrate

FEW = st.integers(1, 12)


def tied(n: int) -> st.SearchStrategy[np.ndarray]:
    """Scores with many ties."""
    return arrays(np.float64, n, elements=st.integers(-3, 3).map(float))


@given(st.data(), FEW, st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_the_definition(data: st.DataObject, n: int, m: int) -> None:
    known, new = data.draw(tied(n)), data.draw(tied(m))
    less, ties = (known < new[:, None]).sum(1), (known == new[:, None]).sum(1)
    p = calibrate.p_values(known, new)
    assert p == pytest.approx((1 + less + ties) / (n + 1))
    assert np.array_equal(calibrate.levels(n)[calibrate.ranks(known, new)], p)
    u = calibrate.uniforms(3, np.arange(m))
    assert calibrate.p_values(known, new, randomize=True, seed=3) == pytest.approx((less + u * (1 + ties)) / (n + 1))


@pytest.mark.parametrize("n", [1, 9, 40])
def test_p_values_of_a_normal_row_are_exactly_uniform_on_their_grid(n: int) -> None:
    # Of n + 1 exchangeable rows without ties each is the new one equally often.
    scores = np.random.default_rng(n).normal(size=n + 1)
    ranks = [calibrate.ranks(np.delete(scores, i), scores[i : i + 1])[0] for i in range(n + 1)]
    assert sorted(ranks) == list(range(1, n + 2))


def test_p_values_are_uniform_over_calibration_sets(full: bool) -> None:
    rng, sets = np.random.default_rng(0), 4000 if full else 800
    p, random = np.empty(sets), np.empty(sets)
    for i in range(sets):
        known, new = np.round(rng.normal(size=19)), np.round(rng.normal(size=1))
        p[i] = calibrate.p_values(known, new)[0]
        random[i] = calibrate.p_values(known, new, randomize=True, seed=i)[0]
    for level in (0.05, 0.1, 0.3, 0.5):
        error = np.sqrt(level * (1 - level) / sets)
        assert (p <= level).mean() <= level + 3 * error
        assert (random <= level).mean() == pytest.approx(level, abs=3 * error)
    # Rounded scores tie, and ties count against the row.
    assert (p <= 0.1).mean() < 0.09


def test_chance_depends_on_seed_and_row_only() -> None:
    known, new = np.zeros(50), np.zeros(1000)
    p = calibrate.p_values(known, new, randomize=True, seed=1)
    assert np.array_equal(p[400:], calibrate.p_values(known, new[400:], randomize=True, rows=range(400, 1000), seed=1))
    assert not np.array_equal(p, calibrate.p_values(known, new, randomize=True, seed=2))


def test_hashed_numbers_are_uniform_and_independent() -> None:
    u = calibrate.uniforms(0, np.arange(100_000))
    assert 0 < u.min() < u.max() < 1
    assert np.histogram(u, 20, (0, 1))[0] == pytest.approx(np.full(20, 5000), abs=5 * np.sqrt(5000))
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(u, calibrate.uniforms(1, np.arange(100_000)))[0, 1]) < 0.02
    # The generator of the reference, started at the hash of the seed; SplitMix64 from 0 begins with this number.
    assert calibrate.conformal.mixed(np.array([0], dtype=np.uint64))[0] == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("n", [1, 2, 3, 10, 99, 1000])
def test_bounds_rise_and_are_above_the_marginal_p_values_where_these_are_small(n: int) -> None:
    bound = calibrate.levels(n, 0.9)
    assert bound.shape == (n + 2,)
    assert bound[0] == 0
    assert (np.diff(bound) >= 0).all()
    assert bound[-1] == 1
    assert bound[1] > calibrate.levels(n)[1]
    assert bound[1] == pytest.approx(1 - 0.1 ** (1 / max(n // 2, 1)))


def test_bounds_are_the_published_formula() -> None:
    n, k, delta = 20, 10, 0.2
    expected = [1 - (delta * np.prod((i - np.arange(k)) / (n - np.arange(k)))) ** (1 / k) for i in range(n, k - 1, -1)]
    assert calibrate.levels(n, 0.8)[1 : n - k + 2] == pytest.approx(expected)


@pytest.mark.parametrize("n", [50, 500])
def test_bounds_hold_at_all_levels_at_once_for_most_calibration_sets(n: int, full: bool) -> None:
    rng, sets = np.random.default_rng(1), 4000 if full else 1000
    bound = calibrate.levels(n, 0.9)[1:-1]
    # Uniform scores: the share of normal rows with a rank up to r is the r-th smallest of the set.
    valid = np.mean([(np.sort(rng.random(n)) <= bound).all() for _ in range(sets)])
    marginal = np.mean([(np.sort(rng.random(n)) <= calibrate.levels(n)[1:-1]).all() for _ in range(sets)])
    assert valid >= 0.9 - 2 * np.sqrt(0.09 / sets)
    assert marginal < 0.5


def test_several_models_share_a_table_out() -> None:
    rng = np.random.default_rng(2)
    known, new = [rng.normal(size=7), rng.normal(size=6)], [rng.normal(size=40), rng.normal(size=40)]
    below = sum((a <= b[:, None]).sum(1) for a, b in zip(known, new, strict=True))
    assert np.array_equal(calibrate.cross_ranks(known, new), 1 + below)
    assert calibrate.cross_p_values(known, new) == pytest.approx((1 + below) / 14)
    assert np.array_equal(
        calibrate.cross_p_values(known[:1], new[:1], randomize=True),
        calibrate.p_values(known[0], new[0], randomize=True),
    )


@pytest.mark.parametrize(
    ("message", "known", "new", "options"),
    [
        ("at least one normal row", [], [0.0], {}),
        ("calibration row 1 scores inf", [0.0, np.inf], [0.0], {}),
        ("row 2 scores nan", [0.0], [0.0, 1.0, np.nan], {}),
        ("one score a row", [0.0], [[0.0]], {}),
        ("confidence=2", [0.0], [0.0], {"confidence": 2}),
        ("exclude each other", [0.0], [0.0], {"confidence": 0.9, "randomize": True}),
        ("one number for each", [0.0], [0.0], {"rows": [1, 2], "randomize": True}),
    ],
)
def test_what_cannot_be_ranked_is_refused(message: str, known: list, new: list, options: dict) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate.p_values(known, new, **options)


def test_a_confidence_needs_one_model() -> None:
    with pytest.raises(ValueError, match="without folds="):
        calibrate.cross_p_values([[0.0], [1.0]], [[0.0], [0.0]], confidence=0.9)
