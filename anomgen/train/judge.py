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
    """

    def __init__(self, weight: Array | None = None) -> None:
        self.weight = weight
        self.best: Array | None = None

    def __call__(self, losses: Array) -> tuple[float, bool]:
        """Mean of the losses of shape (n,), and whether the weights they come from are acceptable."""
        mean = float(np.average(losses, weights=self.weight))
        if self.best is None:
            self.best = losses
            return mean, True
        worse = losses - self.best
        difference = float(np.average(worse, weights=self.weight))
        error = float(np.sqrt(np.average((worse - difference) ** 2, weights=self.weight) / len(losses)))
        if difference < 0:
            self.best = losses
        return mean, bool(np.isfinite(mean) and difference <= error)
