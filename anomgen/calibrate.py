"""From scores to decisions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
