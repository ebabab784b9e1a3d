"""Monotone maps of real columns, vectorized over columns, each with its log-slope and inverse.

Every function takes ``x`` of shape (n, k) and parameters of shape (k,) and is continuous with a continuous slope.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLIP = 10.0
"""Standard deviations beyond which a coordinate grows with the logarithm of its distance."""


def soft_clip(z: Array) -> Array:
    """``z`` inside ``[-CLIP, CLIP]``, ``CLIP + log1p(|z| - CLIP)`` with its sign outside."""
    far = np.maximum(np.abs(z) - CLIP, 0.0)
    return np.asarray(np.where(far > 0, np.sign(z) * (CLIP + np.log1p(far)), z))


def soft_clip_log_slope(z: Array) -> Array:
    """Logarithm of the slope of :func:`soft_clip` at ``z``."""
    return -np.log1p(np.maximum(np.abs(z) - CLIP, 0.0))


def soft_unclip(z: Array) -> Array:
    """Inverse of :func:`soft_clip`; saturates at the largest float instead of overflowing."""
    far = np.maximum(np.abs(z) - CLIP, 0.0)
    return np.asarray(np.where(far > 0, np.sign(z) * (CLIP + np.expm1(np.minimum(far, 700.0))), z))


@dataclass(frozen=True)
class Maps:
    """One monotone map a column: standardize, bend the tails of heavy columns, standardize again, clip softly.

    With ``y = (x - center) / scale``, a heavy column is bent to ``asinh(y)`` between its smallest and largest training
    value and continues as a straight line outside, so that extremes beyond the training range keep their distance.

    Parameters
    ----------
    center, scale : ndarray of shape (k,)
        In the column's units.
    heavy : bool ndarray of shape (k,)
        Whether the column is bent.
    low, high : ndarray of shape (k,)
        Where the straight tails begin, in units of ``y``.
    shift, spread : ndarray of shape (k,)
        Mean and standard deviation after bending.
    """

    center: Array
    scale: Array
    heavy: NDArray[np.bool_]
    low: Array
    high: Array
    shift: Array
    spread: Array

    def forward(self, x: Array) -> Array:
        """Model-space value of ``x``."""
        return soft_clip(self._unclipped(x))

    def log_slope(self, x: Array) -> Array:
        """``log dz/dx`` in nats per unit of ``x``."""
        slope = soft_clip_log_slope(self._unclipped(x)) - np.log(self.scale) - np.log(self.spread)
        if self.heavy.any():
            inner = np.clip(self._standard(x), self.low, self.high)
            slope = slope - np.where(self.heavy, 0.5 * np.log1p(inner**2), 0.0)
        return np.asarray(slope)

    def both(self, x: Array) -> tuple[Array, Array]:
        """Model-space values and log-slopes of shapes ``(n, k)``; one row of slopes, where every row has the same."""
        if self.heavy.any():
            return self.forward(x), self.log_slope(x)
        y = self._standard(x)
        if y.size and max(y.max(), -y.min()) > CLIP:
            return self.forward(x), self.log_slope(x)
        return y, -np.log(self.scale)[None]

    def inverse(self, z: Array) -> Array:
        """The ``x`` whose model-space value is ``z``."""
        y = soft_unclip(z) * self.spread + self.shift
        if self.heavy.any():
            y = np.where(self.heavy, _unbend(y, self.low, self.high), y)
        return np.asarray(y * self.scale + self.center)

    def take(self, columns: list[int]) -> Maps:
        """The maps of some of the columns."""
        return Maps(*(getattr(self, field.name)[columns] for field in fields(self)))

    def _standard(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.clip((x - self.center) / self.scale, -1e300, 1e300)

    def _unclipped(self, x: Array) -> Array:
        y = self._standard(x)
        if self.heavy.any():
            y = np.where(self.heavy, bend(y, self.low, self.high), y)
        return np.asarray((y - self.shift) / self.spread)


def bend(y: Array, low: Array | float, high: Array | float) -> Array:
    """``asinh(y)`` on ``[low, high]``, a straight line with the slope of the nearer end outside."""
    inner = np.clip(y, low, high)
    return np.asarray(np.arcsinh(inner) + (y - inner) / np.sqrt(1.0 + inner**2))


def _unbend(w: Array, low: Array, high: Array) -> Array:
    ends = np.arcsinh(low), np.arcsinh(high)
    inner = np.sinh(np.clip(w, *ends))
    return np.asarray(inner + (w - np.clip(w, *ends)) * np.sqrt(1.0 + inner**2))
