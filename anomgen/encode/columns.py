"""What a column is taken for, and why: kinds inferred from the training values alone, whatever their unit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.encode.transform import bend

KINDS = ("constant", "binary", "lattice", "continuous", "heavy-tailed", "categorical", "datetime")

FEW_LEVELS = 25
"""A number with at most this many distinct values, each seen four times on average, is a lattice."""
TAIL_RATIO = 12.0
"""Heavy tail: (99 % quantile - median) over (75 % quantile - median) on either side; 3.45 for a normal column."""
SPANS = (86_400.0, 3_600.0, 60.0, 1.0)
"""Seconds that dates and durations are looked at to be whole ones of."""
ON_LEVEL = 1e-3
"""How far from a level, in units of the smallest gap, a number may lie and still be that level."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One encoded column: its kind and all that its map needs, as plain numbers.

    Parameters
    ----------
    name : str or int
        The user's name for it, or its position in an array.
    kind : str
        One of ``KINDS``.
    reason : str
        Why it was taken for this kind.
    unseen : float
        Probability mass set aside for what was never seen in training.
    missing : float
        Share of missing training values.
    levels : tuple
        Distinct values of a constant, binary, categorical or irregular lattice column, ascending.
    shares : tuple of float
        How frequent each level of a binary or categorical column is; they sum to 1.
    origin, step : float
        A regular lattice is ``origin + k * step``. Dates that are whole days, hours, minutes or seconds have that step,
        too, and come back on it, though they are scored as the continuous numbers they are; ``step`` 0 for all others.
    decimals : int
        Decimal places that write every training value of a number exactly, at most 12; -1 where there are none.
    center, scale, low, high, shift, spread : float
        The map of :class:`~anomgen.encode.transform.Maps`.
    minimum, maximum : float
        Range of the training values.
    bent : bool
        Whether the tails are bent.
    coded : bool
        Whether values arrive as positions in `levels` (text and categories) and not as numbers.
    """

    name: str | int
    kind: str
    reason: str
    unseen: float
    missing: float = 0.0
    levels: tuple[Any, ...] = ()
    shares: tuple[float, ...] = ()
    origin: float = 0.0
    step: float = 0.0
    decimals: int = -1
    center: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0
    shift: float = 0.0
    spread: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    bent: bool = False
    coded: bool = False

    @property
    def is_cell(self) -> bool:
        """Whether the value coordinate is an interval of the standard normal distribution."""
        return self.kind in ("binary", "categorical")

    @property
    def is_real(self) -> bool:
        """Whether the value coordinate is a mapped number."""
        return self.kind in ("lattice", "continuous", "heavy-tailed", "datetime")

    def state(self) -> dict[str, Any]:
        """The column as JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Column:
        """The inverse of :meth:`state`."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in state.items()}
        return cls(**values)


def number_column(name: str | int, x: Array, weight: Array, *, kind: str | None, eps: float, **common: Any) -> Column:
    """Describe the observed values `x` of a numeric column.

    Parameters
    ----------
    name : str or int
    x : ndarray of shape (n,)
        Observed values, no missing ones.
    weight : ndarray of shape (n,)
    kind : str, optional
        The user's choice; inferred when absent.
    eps : float
        Rounding error of the input's type relative to its largest value.
    **common
        Fields of every column: ``unseen`` and ``missing``.

    Raises
    ------
    ValueError
        If `kind` contradicts the values.
    """
    levels = np.unique(x)
    inferred, reason, step = _infer_number(x, levels, eps)
    if kind is not None and kind != inferred:
        reason = f"asked for (values look {inferred}: {reason})"
        step = _regular_step(levels, eps, limit=1e6) if kind == "lattice" else 0.0
    kind = kind or inferred
    if kind == "constant" and len(levels) > 1:
        raise ValueError(f"column {name!r}: kinds asks for 'constant', but it holds {len(levels)} distinct values")
    if kind == "binary" and len(levels) != 2:
        raise ValueError(f"column {name!r}: kinds asks for 'binary', but it holds {len(levels)} distinct values, not 2")
    if kind == "constant":
        return Column(name, kind, reason, levels=(float(levels[0]),), **common)
    if kind in ("binary", "categorical"):
        return Column(name, kind, reason, levels=tuple(levels.tolist()), shares=_shares(x, levels, weight), **common)
    if len(levels) == 1:
        raise ValueError(f"column {name!r}: kinds asks for {kind!r}, but all its values are {levels[0]:g}")
    regular = kind == "lattice" and step > 0
    if kind == "datetime":
        step = next((span for span in SPANS if not (levels % span).any()), 0.0)
    bent = kind == "heavy-tailed" or (kind == "lattice" and len(levels) > FEW_LEVELS and tail_ratio(x) > TAIL_RATIO)
    return Column(
        name,
        kind,
        reason + (", heavy-tailed" if bent and kind == "lattice" else ""),
        levels=tuple(levels.tolist()) if kind == "lattice" and not regular else (),
        origin=float(levels[0]) if regular else 0.0,
        step=step if regular or kind == "datetime" else 0.0,
        decimals=_decimals(levels) if regular or kind in ("continuous", "heavy-tailed") else -1,
        minimum=float(levels[0]),
        maximum=float(levels[-1]),
        bent=bool(bent),
        **_map_parameters(x, weight, bent),
        **common,
    )


def category_column(
    name: str | int, codes: NDArray[np.int64], levels: list[Any], weight: Array, **common: Any
) -> Column:
    """Describe a categorical column from the integer `codes` of its observed values into `levels`."""
    counts = np.bincount(codes, weights=weight, minlength=len(levels))
    kind = ("constant", "binary")[len(levels) - 1] if len(levels) <= 2 else "categorical"
    reason = f"{len(levels)} level{'s' if len(levels) > 1 else ''} of text or category"
    shares = () if kind == "constant" else tuple((counts / counts.sum()).tolist())
    return Column(name, kind, reason, levels=tuple(levels), shares=shares, coded=True, **common)


def tail_ratio(x: Array) -> float:
    """The heavier tail's (99 % - median) over (75 % - median); infinite where a quarter of a side has no width."""
    q = np.quantile(x, [0.01, 0.25, 0.5, 0.75, 0.99])
    sides = [(q[4] - q[2], q[3] - q[2]), (q[2] - q[0], q[2] - q[1])]
    return max(outer / inner if inner > 0 else (np.inf if outer > 0 else 0.0) for outer, inner in sides)


def _infer_number(x: Array, levels: Array, eps: float) -> tuple[str, str, float]:
    n, k = len(x), len(levels)
    if k == 1:
        return "constant", f"every value is {levels[0]:g}", 0.0
    if k == 2 and n >= 5:
        return "binary", "2 distinct values", 0.0
    step = _regular_step(levels, eps, limit=100.0 * k) if k >= 3 and n >= 10 else 0.0
    if step > 0:
        return "lattice", f"{k} distinct values, all multiples of {step:.6g} apart", step
    if k <= FEW_LEVELS and n >= 4 * k:
        return "lattice", f"{k} distinct values in {n} rows", 0.0
    ratio = tail_ratio(x) if n >= 20 else 0.0
    if TAIL_RATIO < ratio < np.inf:
        return "heavy-tailed", f"tails reach {ratio:.1f} quartile distances (normal: 3.4)", 0.0
    return "continuous", f"{k} distinct values in {n} rows", 0.0


def _regular_step(levels: Array, eps: float, limit: float) -> float:
    """Largest step of which every gap is a multiple, or 0 when the range holds over `limit` of them.

    An approximate greatest common divisor: the smallest gap is replaced by the remainders it leaves until none is left.
    """
    gaps = np.diff(levels)
    tolerance = 4.0 * eps * float(np.abs(levels).max())
    smallest = (levels[-1] - levels[0]) / limit
    step = float(gaps.min())
    while step > max(smallest, 100.0 * tolerance):
        count = np.rint(gaps / step)
        remainder = np.abs(gaps - step * count)
        # The step is itself a rounded difference: its error returns once for every step in the gap.
        remainder = remainder[remainder > tolerance * (1.0 + count)]
        if not len(remainder):
            return float((levels[-1] - levels[0]) / count.sum())
        step = float(remainder.min())
    return 0.0


def _decimals(levels: Array) -> int:
    return next((places for places in range(13) if np.array_equal(np.round(levels, places), levels)), -1)


def _shares(x: Array, levels: Array, weight: Array) -> tuple[float, ...]:
    counts = np.bincount(np.searchsorted(levels, x), weights=weight, minlength=len(levels))
    return tuple((counts / counts.sum()).tolist())


def _map_parameters(x: Array, weight: Array, bent: bool) -> dict[str, Any]:
    if not bent:
        mean, std = _moments(x, weight)
        return {"center": mean, "scale": std}
    quartiles = np.quantile(x, [0.25, 0.5, 0.75])
    center, width = float(quartiles[1]), float(quartiles[2] - quartiles[0])
    scale = width if width > 0 else _moments(x, weight)[1]
    y = (x - center) / scale
    low, high = float(y.min()), float(y.max())
    shift, spread = _moments(bend(y, low, high), weight)
    return {"center": center, "scale": scale, "low": low, "high": high, "shift": shift, "spread": spread}


def _moments(x: Array, weight: Array) -> tuple[float, float]:
    # Computed on values brought near 1 first: squares of 1e200 overflow, those of 1e-200 vanish.
    size = float(np.abs(x - x[0]).max())
    y = (x - x[0]) / size
    mean = float(np.average(y, weights=weight))
    std = float(np.sqrt(np.average((y - mean) ** 2, weights=weight)))
    return float(x[0]) + mean * size, std * size
