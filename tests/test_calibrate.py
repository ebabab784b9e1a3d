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
