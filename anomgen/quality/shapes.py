"""Single columns and pairs of columns of two tables, compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from anomgen.quality.tables import Array, Column, Layout

MAX_COLUMNS = 100
"""Columns at most whose pairs are compared, evenly spread."""
BINS = 10
"""Intervals of equally many real values by which a number is compared with a column of levels."""


class ColumnShape(NamedTuple):
    """How alike a column is in two tables.

    Parameters
    ----------
    alike : float
        One minus the Kolmogorov-Smirnov distance of numbers and times, or the total variation distance of levels;
        missing is a value like any other. 1 where both distributions are the same.
    distance : {"KS", "TV"}
    missing, real_missing : float
        Shares of missing values, among synthetic and among real rows.
    """

    alike: float
    distance: str
    missing: float
    real_missing: float


@dataclass(frozen=True)
class PairTrends:
    """How alike the dependence of each two columns is in two tables.

    Parameters
    ----------
    names : tuple of str
        The columns, of more than 100 so many evenly spread.
    alike : ndarray of shape (d, d)
        One minus half the difference of the rank correlations of two numbers; one minus the total variation distance of
        the contingency tables of other pairs, where numbers are cut into ten intervals. 1 on the diagonal.
    mean : float
        Mean over all pairs; 1 where there is one column.
    """

    names: tuple[str, ...]
    alike: Array = field(repr=False)
    mean: float


def column_shapes(synthetic: Any, real: Any) -> dict[str, ColumnShape]:
    """Compare every column that two tables have in common.

    Parameters
    ----------
    synthetic, real : frame or array
        Real rows are ones that the model was not fitted to.

    Returns
    -------
    dict of str to ColumnShape

    Examples
    --------
    >>> import numpy as np
    >>> column_shapes(np.zeros((4, 1)), np.array([[0.0], [0.0], [0.0], [1.0]]))["x0"].alike
    0.75
    """
    layout = Layout.of(real, others=[synthetic])
    return shapes_of(layout, layout.read(synthetic), layout.read(real))


def pair_trends(synthetic: Any, real: Any) -> PairTrends:
    """Compare every pair of columns that two tables have in common.

    Parameters
    ----------
    synthetic, real : frame or array
        Real rows are ones that the model was not fitted to.

    Returns
    -------
    PairTrends
    """
    layout = Layout.of(real, others=[synthetic])
    return pairs_of(layout, layout.read(synthetic), layout.read(real))


def shapes_of(layout: Layout, synthetic: Array, real: Array) -> dict[str, ColumnShape]:
    """As :func:`column_shapes`, of tables that have been read."""
    found = {}
    for j, column in enumerate(layout.columns):
        a, b = synthetic[:, j], real[:, j]
        missing = [float(np.isnan(x).mean()) for x in (a, b)]
        numbers = column.levels is None
        distance = _ks(a, b) if numbers else _tv(*(_shares(_cells(x, column), _size(column)) for x in (a, b)))
        found[column.name] = ColumnShape(1.0 - distance, "KS" if numbers else "TV", *missing)
    return found


def pairs_of(layout: Layout, synthetic: Array, real: Array) -> PairTrends:
    """As :func:`pair_trends`, of tables that have been read."""
    kept = np.unique(np.linspace(0, len(layout.columns) - 1, MAX_COLUMNS).astype(np.int64))
    layout, synthetic, real = Layout(tuple(layout.columns[j] for j in kept)), synthetic[:, kept], real[:, kept]
    d = len(kept)
    discrete = layout.discrete
    alike = 1.0 - 0.5 * np.abs(_rank_correlation(synthetic) - _rank_correlation(real))
    cells = [_binned(column, synthetic[:, j], real[:, j]) for j, column in enumerate(layout.columns)]
    for i, j in combinations(range(d), 2):
        if discrete[i] or discrete[j]:
            (a, b, first), (c, e, second) = cells[i], cells[j]
            tables = (_shares(x * second + y, first * second) for x, y in ((a, c), (b, e)))
            alike[i, j] = alike[j, i] = 1.0 - _tv(*tables)
    np.fill_diagonal(alike, 1.0)
    pairs = alike[np.triu_indices(d, 1)]
    return PairTrends(layout.names, alike, float(pairs.mean()) if len(pairs) else 1.0)


def _ks(a: Array, b: Array) -> float:
    """The Kolmogorov-Smirnov distance; a missing value counts as one below all others."""
    a, b = (np.sort(np.nan_to_num(x, nan=-np.inf, posinf=np.inf, neginf=np.finfo(float).min)) for x in (a, b))
    both = np.concatenate([a, b])
    reach = [np.searchsorted(x, both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(reach[0] - reach[1]).max())


def _tv(a: Array, b: Array) -> float:
    return float(0.5 * np.abs(a - b).sum())


def _shares(cells: NDArray[np.int64], size: int) -> Array:
    return np.asarray(np.bincount(cells, minlength=size) / len(cells))


def _size(column: Column) -> int:
    return column.size + 1


def _cells(values: Array, column: Column) -> NDArray[np.int64]:
    """Positions of levels; a missing value comes last."""
    return np.nan_to_num(values, nan=column.size).astype(np.int64)


def _binned(column: Column, synthetic: Array, real: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Cells of both tables, and how many there are."""
    if column.levels is not None:
        return _cells(synthetic, column), _cells(real, column), _size(column)
    seen = real[~np.isnan(real)]
    edges = np.unique(np.quantile(seen, np.arange(1, BINS) / BINS)) if len(seen) else np.zeros(0)
    k = len(edges) + 1
    a, b = (np.where(np.isnan(x), k, np.searchsorted(edges, x, side="right")) for x in (synthetic, real))
    return a.astype(np.int64), b.astype(np.int64), k + 1


def _rank_correlation(x: Array) -> Array:
    """Rank correlations over the rows in which neither value is missing; 0 where a column is constant."""
    present = ~np.isnan(x)
    ranks = rankdata(x, axis=0, nan_policy="omit")
    count = np.maximum(present.sum(0), 1)
    centred = np.where(present, ranks - np.nansum(ranks, axis=0) / count, 0.0)
    mask = present.astype(np.float64)
    squares = (centred**2).T @ mask
    scale = np.sqrt(squares * squares.T)
    found: Array = np.divide(centred.T @ centred, scale, out=np.zeros_like(scale), where=scale > 0)
    return found
