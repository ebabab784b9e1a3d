"""Thresholds of scores: for a share of the training rows, or for a false-positive rate on calibration rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgen.calibrate.conformal import EVEN, checked, levels

AUTO_SHARE = 0.01
"""Share of rows flagged with ``contamination="auto"``."""
GRID = np.linspace(0.0, 1.0, 1001)
"""Levels of the stored quantiles of the training scores."""


def share(contamination: Any) -> float:
    """The share of rows to flag.

    Raises
    ------
    ValueError
        If it is neither ``"auto"`` nor in (0, 0.5].
    """
    if contamination == "auto":
        return AUTO_SHARE
    if not isinstance(contamination, int | float | np.number) or not 0.0 < contamination <= 0.5:
        raise ValueError(f"contamination={contamination!r} must be 'auto' or a number in (0, 0.5]")
    return float(contamination)


def threshold(scores: NDArray[np.float64], contamination: float | Literal["auto"]) -> float:
    """The score below which the given share of `scores` lies."""
    return float(np.quantile(scores, share(contamination)))


def quantiles(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of `scores` at ``GRID``: what a threshold for another share is read from without refitting."""
    return np.asarray(np.quantile(scores, GRID))


def threshold_from(grid: NDArray[np.float64], contamination: float | Literal["auto"]) -> float:
    """The threshold for a share, read from stored quantiles."""
    return float(np.interp(share(contamination), GRID, grid))


def rate_threshold(calibration: ArrayLike, rate: float) -> float:
    """The score below which a new normal row falls with probability at most `rate`.

    A row scores below it exactly if its conformal p-value is at most `rate`, so the guarantee is that of the p-value:
    on the average over calibration sets, whatever the distribution of the scores.

    Parameters
    ----------
    calibration : array of shape (n,)
        Scores of normal rows that the model has not seen.
    rate : float
        In (0, 1).

    Raises
    ------
    ValueError
        If `rate` is no such number, or below the smallest p-value ``1 / (n + 1)``: with the size that it needs.
    """
    ordered = checked(calibration)
    return float(ordered[rate_rank(len(ordered), rate) - 1])


def rate_rank(n: int, rate: float) -> int:
    """The largest rank among `n` calibration rows whose p-value is at most `rate`; errors as :func:`rate_threshold`."""
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_positive_rate={rate!r} must be a number in (0, 1)")
    allowed = int(np.searchsorted(levels(n)[1:], rate, side="right"))
    if not allowed:
        raise ValueError(
            f"a false-positive rate of {rate:g} cannot be told from {n:,} calibration rows: "
            f"it needs {int(np.ceil(1 / rate / EVEN)) - 1:,}"
        )
    return allowed
