"""A band of the detector's own scores: typical rows, or rare but plausible ones."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BANDS = {"typical": (0.05, 1.0), "rare": (0.01, 0.05)}
"""Bands that have a name, as shares of the training rows."""


@dataclass(frozen=True)
class Band:
    """Scores between two quantiles of the training rows' scores.

    Parameters
    ----------
    low, high : float
        Shares of the training rows in [0, 1]: a row is inside if at least the share `low` of them, and at most the
        share `high`, score below it. 0 and 1 are no bound at all, for a drawn row may score beyond every training row.
    floor, ceiling : float
        The scores at these quantiles.

    Notes
    -----
    The quantiles are the detector's ``score_quantiles_``: those of all rows passed to `fit`, the held-out ones too. A
    model that keeps rows, such as a kernel density, scores these rows higher than new ones; a band that starts at 5 %
    then refuses more than 5 % of what is drawn.
    """

    low: float
    high: float
    floor: float
    ceiling: float

    @classmethod
    def of(cls, detector: Any, band: Any) -> Band:
        """The band of `detector` that a name of :data:`BANDS` or a pair of shares stands for."""
        low, high = read_band(band)
        quantiles = detector.score_quantiles_
        grid = np.linspace(0.0, 1.0, len(quantiles))
        floor = -np.inf if low == 0 else float(np.interp(low, grid, quantiles))
        ceiling = np.inf if high == 1 else float(np.interp(high, grid, quantiles))
        return cls(low, high, floor, ceiling)

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        return f"band {self.low:g}:{self.high:g}"

    def keeps(self, scores: Array) -> NDArray[np.bool_]:
        """Which scores are inside."""
        return (scores >= self.floor) & (scores <= self.ceiling)

    def describe(self) -> dict[str, Any]:
        """The band as JSON values; None stands for no bound."""
        bounds = {"floor": self.floor, "ceiling": self.ceiling}
        return {"low": self.low, "high": self.high} | {k: v if np.isfinite(v) else None for k, v in bounds.items()}


def read_band(band: Any) -> tuple[float, float]:
    """The pair of shares that a name or a pair stands for.

    Raises
    ------
    ValueError
        If it is neither, or the pair is not rising within [0, 1].
    """
    if isinstance(band, str) and band in BANDS:
        return BANDS[band]
    known = ", ".join(map(repr, BANDS))
    pair = list(band) if isinstance(band, tuple | list) else []
    if len(pair) != 2 or not all(isinstance(share, Real) and not isinstance(share, bool) for share in pair):
        raise ValueError(f"band={band!r} must be {known} or two shares, such as (0.01, 0.05)")
    low, high = float(pair[0]), float(pair[1])
    if not 0 <= low < high <= 1:
        raise ValueError(f"band={band!r} must rise from a share of at least 0 to one of at most 1")
    return low, high
