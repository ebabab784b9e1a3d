"""Which weights to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Judge:
    """Accepts weights under which held-out rows do not do significantly worse than under the best ones seen.

    The difference of losses is taken row by row, which cancels what makes rows differ, and compared with its standard
    error. Among weights that cannot be told apart the longest trained are kept.

    Parameters
    ----------
    weight : ndarray of shape (n,), optional
        Weight of every held-out row.
    trim : float
        Share of the rows left out of every mean and comparison: those of the highest losses, for they may be anomalies
        themselves.
    """

    def __init__(self, weight: Array | None = None, trim: float = 0.0) -> None:
        self.weight = weight
        self.trim = trim
        self.best: Array | None = None

    def __call__(self, losses: Array) -> tuple[float, bool]:
        """Mean of the losses of shape (n,), and whether the weights they come from are acceptable."""
        weight = self._kept(losses)
        mean = float(np.average(losses, weights=weight))
        if self.best is None:
            self.best = losses
            return mean, True
        worse = losses - self.best
        # Both sides have a say in which rows count: a loss that rises on the rows trimmed by it alone is still seen.
        weight = self._kept(losses + self.best)
        difference = float(np.average(worse, weights=weight))
        error = float(np.sqrt(np.average((worse - difference) ** 2, weights=weight) / len(losses)))
        if difference < 0:
            self.best = losses
        return mean, bool(np.isfinite(mean) and difference <= error)

    def _kept(self, losses: Array) -> Array | None:
        return self.weight if self.trim == 0 else trimmed(losses, self.trim, self.weight)


def trimmed(losses: Array, share: float, weight: Array | None = None) -> Array:
    """Weights of rows in which the `share` of the highest losses counts nothing."""
    kept = np.ones(len(losses)) if weight is None else weight.copy()
    count = min(int(share * len(losses)), len(losses) - 1)
    if count:
        kept[np.argsort(losses, kind="stable")[-count:]] = 0.0
    return kept


def mean_of(values: Array, weight: Array | None) -> float:
    """Weighted mean."""
    return float(np.average(values, weights=weight))
