"""From scores to thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from anomgen import calibrate

SCORES = np.random.default_rng(0).normal(size=1000)


@pytest.mark.parametrize(("contamination", "flagged"), [(0.1, 100), (0.5, 500), ("auto", 10)])
def test_the_share_is_flagged_exactly(contamination: float, flagged: int) -> None:
    assert (calibrate.threshold(SCORES, contamination) > SCORES).sum() == flagged


def test_stored_quantiles_give_nearly_the_same_threshold() -> None:
    grid = calibrate.quantiles(SCORES)
    for share in (0.01, 0.1234, 0.4):
        assert (calibrate.threshold_from(grid, share) > SCORES).sum() == pytest.approx(1000 * share, abs=1)


@pytest.mark.parametrize("wrong", [0, 0.51, -1, "often", None])
def test_wrong_shares_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="contamination"):
        calibrate.share(wrong)


@pytest.mark.parametrize("n", [19, 99, 1000])
@pytest.mark.parametrize("rate", [0.05, 0.07, 0.29, 0.5])
def test_a_rate_flags_what_has_no_larger_p_value(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    known, new = np.round(rng.normal(size=n), 1), np.round(rng.normal(size=5000), 1)
    flagged = new < calibrate.rate_threshold(known, rate)
    assert np.array_equal(flagged, calibrate.p_values(known, new) <= rate)
    assert flagged.any()


def test_the_rate_holds_on_new_normal_rows_on_the_average(full: bool) -> None:
    rng, sets = np.random.default_rng(1), 2000 if full else 400
    flagged = [(rng.normal(size=50) < calibrate.rate_threshold(rng.normal(size=30), 0.1)).mean() for _ in range(sets)]
    assert np.mean(flagged) <= 0.1 + 2 * np.std(flagged) / np.sqrt(sets)
    # 3 of 31 is the largest level of 30 rows that is not above 0.1.
    assert np.mean(flagged) == pytest.approx(3 / 31, abs=3 * np.std(flagged) / np.sqrt(sets))


def test_a_rate_below_the_smallest_p_value_asks_for_more_rows() -> None:
    with pytest.raises(ValueError, match=r"needs 1,000$"):
        calibrate.rate_threshold(SCORES[:500], 1 / 1001)
    calibrate.rate_threshold(SCORES, 1 / 1001)
    with pytest.raises(ValueError, match=r"false_positive_rate=1\.5"):
        calibrate.rate_threshold(SCORES, 1.5)
