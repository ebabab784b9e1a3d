"""Values of a column sorted into few cells, and how far new counts are from those of the training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

KINDS = ("quantiles", "levels", "categories")
QUANTILES = 49
"""Cells of a column of numbers, besides the one for missing values; equally many training values are in each."""
FEW = 24
"""Distinct values up to which a number has a cell for each."""
ONCE = 0.01
"""Share of the training values that may be seen once, or else values to come are not among them."""
MAX_LEVELS = 47
"""Levels of text and categories with a cell of their own; the rarer ones share one."""
GROUPS = 10
"""Cells that the population stability index is computed from, besides those of missing and of unseen values."""
NEAR = 1e-3
"""How far from a level a number may lie and still be that level, in units of the smallest gap."""
FALSE_ALARMS = 1e-3
"""Probability that rows like the training rows exceed a limit, however low, in any column."""


@dataclass(frozen=True)
class Shift:
    """How far one column, or the score, has moved from the training rows.

    Parameters
    ----------
    name : str
    psi : float
        Population stability index of the new rows. By custom 0.1 is a moderate shift, 0.25 a large one.
    expected : float
        What the index is on average where nothing has moved, from the numbers of rows alone.
    ks : float or None
        Kolmogorov-Smirnov distance of the values that are not missing, at the edges of the cells: below the exact one
        by at most the share of one cell. None for text and categories, which have no order.
    significant : bool
        Whether rows like the training rows have so large an index in any column in one job of a thousand, or in fewer.
    """

    name: str
    psi: float
    expected: float
    ks: float | None
    significant: bool

    @property
    def excess(self) -> float:
        """The index beyond what is expected where nothing has moved."""
        return self.psi - self.expected


@dataclass(frozen=True)
class Cells:
    """The cells that values of one column are sorted into, and how many training values are in each.

    Parameters
    ----------
    name : str
    kind : {"quantiles", "levels", "categories"}
        ``"quantiles"``: intervals of numbers that hold equally many; ``"levels"``: numbers of few distinct values;
        ``"categories"``: positions of levels, -1 for an unseen one.
    edges : ndarray of shape (k,)
        Ends of intervals, ascending; empty for categories.
    places : ndarray of int64
        Cell of each of the ``k + 1`` intervals; for categories, of an unseen level and then of each known one.
    counts : ndarray of int64
        Training values in each cell. The last cell is that of missing values; the one before it, but for quantiles,
        that of unseen ones. A category that was seen once counts there: so many values of rows to come are unseen.
    """

    name: str
    kind: str
    edges: Array
    places: Counts
    counts: Counts

    @classmethod
    def of(cls, name: str, x: Array, levels: int | None = None) -> Cells:
        """Decide on the cells of the training values `x`: numbers, or positions among so many `levels`."""
        seen = x[~np.isnan(x)]
        if levels is not None:
            kind, (edges, places) = "categories", _categories(seen, levels)
        else:
            values, times = np.unique(seen, return_counts=True)
            # The share of values seen once estimates the probability of one not yet seen (Good and Turing).
            few = len(values) <= 2 or (len(values) <= FEW and np.count_nonzero(times == 1) <= ONCE * len(seen))
            kind = "levels" if few else "quantiles"
            edges, places = _levels(values) if few else _quantiles(values, times)
        size = int(places.max()) + 2
        cells = cls(name, kind, edges, places, np.zeros(size, dtype=np.int64))
        coming = _coming(seen, places, size) if kind == "categories" else 0
        return replace(cells, counts=cells.count(x) + coming)

    def count(self, x: Array) -> Counts:
        """How many of `x` are in each cell."""
        if self.kind == "categories":
            inside = np.bincount(x[~np.isnan(x)].astype(np.int64) + 1, minlength=len(self.places))
        else:
            # Comparing all values with one edge after the other is several times faster than searching for the
            # interval of each.
            above = [np.count_nonzero(x > edge) for edge in self.edges.tolist()]
            reach = np.array([np.count_nonzero(x == x), *above, 0], dtype=np.int64)
            inside = reach[:-1] - reach[1:]
        counts = np.zeros(len(self.counts), dtype=np.int64)
        np.add.at(counts, self.places, inside)
        counts[-1] = len(x) - inside.sum()
        return counts

    def shift(self, counts: Counts, tests: int) -> Shift:
        r"""How far new values, `counts` of them in each cell, are from the training values; one of so many `tests`.

        With `K` groups of cells, the `n` training values and `m` new ones have the shares

        .. math:: p_g = \frac{a_g + 1/2}{n + K/2}, \qquad q_g = \frac{b_g + p_g K/2}{m + K/2}

        and the index is :math:`\sum_g (q_g - p_g) \log (q_g / p_g)`. Few new values are thus drawn towards the training
        values, and an empty group costs no infinity. Where nothing has moved, :math:`1 / (1/n + 1/m)` times the index
        has nearly a chi-squared distribution of `K - 1` degrees of freedom.
        """
        a, b = (np.bincount(self.groups, weights=part) for part in (self.counts, counts))
        n, m = float(a.sum()), float(b.sum())
        used = a + b > 0
        k = int(used.sum())
        ks = self._distance(counts)
        if not n or not m or k < 2:
            return Shift(self.name, 0.0, 0.0, ks, False)
        p = (a[used] + 0.5) / (n + 0.5 * k)
        q = (b[used] + 0.5 * k * p) / (m + 0.5 * k)
        psi, scale = float(((q - p) * np.log(q / p)).sum()), 1.0 / n + 1.0 / m
        return Shift(self.name, psi, (k - 1) * scale, ks, psi > scale * float(chdtri(k - 1, FALSE_ALARMS / tests)))

    @cached_property
    def groups(self) -> Counts:
        """The group that every cell belongs to: neighbours, or the rarest levels, share one; unseen and missing do not.

        What the training values say is decided once: groups do not depend on what is compared.
        """
        apart = 1 if self.kind == "quantiles" else 2
        values = self.counts[:-apart]
        if self.kind == "categories":
            found = np.minimum(_rank(values), GROUPS - 1)
        elif len(values) <= GROUPS:
            found = np.arange(len(values))
        else:
            middle = (np.cumsum(values) - 0.5 * values) / values.sum()
            found = np.minimum((GROUPS * middle).astype(np.int64), GROUPS - 1)
        return np.concatenate([found, GROUPS + np.arange(apart)]).astype(np.int64)

    def _distance(self, counts: Counts) -> float | None:
        if self.kind == "categories":
            return None
        reach = [np.cumsum(part[:-1]) for part in (self.counts, counts)]
        if not reach[0][-1] or not reach[1][-1]:
            return 0.0
        return float(np.abs(reach[0] / reach[0][-1] - reach[1] / reach[1][-1]).max())


def _rank(times: Counts) -> Counts:
    """0 for the most frequent, then 1, and so on."""
    return np.argsort(np.argsort(-times, kind="stable"), kind="stable")


def _categories(seen: Array, levels: int) -> tuple[Array, Counts]:
    """A cell for each of the most frequent levels, one for all rarer ones, and one for levels never seen."""
    times = np.bincount(seen[seen >= 0].astype(np.int64), minlength=levels)
    unseen = min(int(np.count_nonzero(times)), MAX_LEVELS + 1)
    own = np.where(times > 0, np.minimum(_rank(times), MAX_LEVELS), unseen)
    return np.zeros(0), np.concatenate([[unseen], own]).astype(np.int64)


def _coming(seen: Array, places: Counts, size: int) -> Counts:
    """What makes of training counts those to expect: values of levels seen once go to the cell of unseen levels.

    Their share estimates the probability of a level not yet seen (Good and Turing). Without it every file would have
    moved in a column of many rare levels.
    """
    once = np.bincount(seen.astype(np.int64) + 1, minlength=len(places)) == 1
    moved = np.zeros(size, dtype=np.int64)
    np.subtract.at(moved, places[once], 1)
    moved[-2] += np.count_nonzero(once)
    return moved


def _levels(values: Array) -> tuple[Array, Counts]:
    """A cell around each value, and one for all that lies elsewhere."""
    k, size = len(values), float(np.abs(values).max(initial=0.0))
    gap = float(np.diff(values).min()) if k > 1 else size
    # A number that was stored in single precision in one of two files is the same number.
    # A quarter of the gap at most: the cells of neighbours never overlap, however they are rounded.
    near = min(0.25 * gap, max(NEAR * gap, 1e-6 * size))
    edges = np.stack([np.nextafter(values - near, -np.inf), values + near], 1).ravel()
    places = np.full(2 * k + 1, k, dtype=np.int64)
    places[1::2] = np.arange(k)
    return edges, places


def _quantiles(values: Array, times: Counts) -> tuple[Array, Counts]:
    """Intervals that hold equally many of the training values, with ends midway between two of these."""
    reach = np.cumsum(times)
    at = np.unique(np.searchsorted(reach, reach[-1] * np.arange(1, QUANTILES) / QUANTILES))
    at = at[at < len(values) - 1]
    edges = 0.5 * values[at] + 0.5 * values[at + 1]
    return edges, np.arange(len(edges) + 1)
