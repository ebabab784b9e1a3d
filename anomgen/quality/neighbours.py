"""Synthetic rows among real neighbours: how much of the data they cover, and how near they come to training rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anomgen.quality.tables import Array, Layout, some

K = 5
MAX_ROWS = 5_000
"""Rows of each kind whose neighbourhoods are found; the cost grows with its square."""
MAX_DRAWN = 10_000
"""Synthetic and held-out rows at most whose closest training row is sought."""
MAX_TRAIN = 50_000
"""Training rows at most among which the closest one is sought."""
WORK = 1 << 24
"""Distances held at a time."""
ROUNDING = 1e-12
"""Error of a squared distance, as a share of the squared norms that it is the difference of."""


class Prdc(NamedTuple):
    """How much of the synthetic rows is realistic, and how much of the real ones is covered; 1 is best.

    Parameters
    ----------
    precision : float
        Share of synthetic rows within the neighbourhood of a real row: as near to it as its k-th real neighbour.
    recall : float
        Share of real rows within the neighbourhood of a synthetic row.
    density : float
        Real neighbourhoods that a synthetic row lies in, over k, on average; may exceed 1.
    coverage : float
        Share of real rows whose neighbourhood holds a synthetic row.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class ClosestRecords:
    """How near synthetic rows come to training rows, beside how near held-out rows do: a check for copies.

    It does not show that nothing about single training rows can be inferred.

    Parameters
    ----------
    nearer : float
        Share of synthetic rows nearer to a training row than all but 1 % of the held-out rows: 0.01 is expected.
    nearer_half : float
        The same of half of the held-out rows: 0.5 is expected.
    quantile, median : float
        Those distances of held-out rows, in standard deviations.
    synthetic, held_out : ndarray
        All distances to the closest training row.
    """

    nearer: float
    nearer_half: float
    quantile: float
    median: float
    synthetic: Array = field(repr=False)
    held_out: Array = field(repr=False)


def prdc(synthetic: Any, real: Any, *, k: int = K, seed: int = 0, max_rows: int = MAX_ROWS) -> Prdc:
    r"""Precision, recall, density and coverage of synthetic rows.

    Columns are standardised by the real rows; two different levels are at distance 1. With :math:`B_i` the ball around
    real row `i` that reaches its `k`-th nearest real row,

    .. math::

        \text{density} = \frac{1}{k m} \sum_{j=1}^m \sum_{i=1}^n [y_j \in B_i], \qquad
        \text{coverage} = \frac{1}{n} \sum_{i=1}^n [\exists j : y_j \in B_i] .

    Parameters
    ----------
    synthetic, real : frame or array
        Real rows are ones that the model was not fitted to.
    k : int
    seed : int
    max_rows : int
        Rows of each used at most; equally many of both are used.

    Returns
    -------
    Prdc

    Raises
    ------
    ValueError
        If there are not more than `k` rows of both.

    References
    ----------
    Naeem, Oh, Uh, Choi, Yoo (2020), *Reliable fidelity and diversity metrics for generative models*, ICML.
    """
    real, synthetic = some(real, max_rows, seed), some(synthetic, max_rows, seed + 1)
    layout = Layout.of(real, others=[synthetic])
    tables = layout.read(synthetic), layout.read(real)
    return balls(*Places.of(layout, tables[1]).all(*tables), k=k)


def closest_records(
    synthetic: Any, train: Any, held_out: Any, *, seed: int = 0, max_rows: int = MAX_DRAWN, max_train: int = MAX_TRAIN
) -> ClosestRecords:
    """Distances to the closest training row, of synthetic rows and of held-out ones.

    Columns are standardised by the training rows; two different levels are at distance 1.

    Parameters
    ----------
    synthetic, train, held_out : frame or array
    seed : int
    max_rows, max_train : int
        Rows used at most.

    Returns
    -------
    ClosestRecords
    """
    train, held_out = some(train, max_train, seed), some(held_out, max_rows, seed + 1)
    synthetic = some(synthetic, max_rows, seed + 2)
    layout = Layout.of(train, held_out, others=[synthetic])
    tables = [layout.read(table) for table in (synthetic, train, held_out)]
    return nearness(*Places.of(layout, tables[1]).all(*tables))


@dataclass(frozen=True)
class Places:
    """Where rows lie: numbers in standard deviations of real rows, levels as corners of a simplex of side 1.

    Parameters
    ----------
    layout : Layout
    mean, deviation : ndarray of shape (columns,)
    """

    layout: Layout
    mean: Array
    deviation: Array

    @classmethod
    def of(cls, layout: Layout, real: Array) -> Places:
        """Standardise by these rows."""
        count = np.maximum((~np.isnan(real)).sum(0), 1)
        mean = np.nansum(real, axis=0) / count
        deviation = np.sqrt(np.nansum((real - mean) ** 2, axis=0) / count)
        return cls(layout, mean, np.where(deviation > 0, deviation, 1.0))

    def all(self, *tables: Array) -> list[Tensor]:
        """Coordinates of the rows of every table; whether a number is missing has one of its own."""
        gaps = np.any([np.isnan(table).any(0) for table in tables], axis=0)
        return [self._of(table, gaps) for table in tables]

    def _of(self, table: Array, gaps: np.ndarray[Any, Any]) -> Tensor:
        side = np.sqrt(0.5)
        parts = []
        for j, column in enumerate(self.layout.columns):
            missing = np.isnan(table[:, j])
            if column.levels is None:
                parts.append(np.where(missing, 0.0, (table[:, j] - self.mean[j]) / self.deviation[j])[:, None])
                parts += [missing[:, None].astype(np.float64)] if gaps[j] else []
            else:
                level = np.where(missing, column.size, table[:, j])
                parts.append(side * (level[:, None] == np.arange(column.size + gaps[j])))
        return torch.from_numpy(np.concatenate(parts, axis=1))


def balls(synthetic: Tensor, real: Tensor, *, k: int = K) -> Prdc:
    """As :func:`prdc`, of coordinates; of the more numerous rows as many as of the others, evenly spread."""
    n = min(len(synthetic), len(real))
    if n <= k:
        raise ValueError(f"{n} rows of each kind are too few for neighbourhoods of k={k}")
    synthetic, real = (rows[torch.linspace(0, len(rows) - 1, n).long()] for rows in (synthetic, real))
    own, others = _reach(real, k), _reach(synthetic, k)
    held = torch.zeros(n, dtype=torch.int64)
    nearest = torch.empty(n, dtype=torch.float64)
    recalled = torch.empty(n, dtype=torch.bool)
    for start, squares in _squares(real, synthetic):
        rows = slice(start, start + len(squares))
        held += (squares <= own[rows, None]).sum(0)
        nearest[rows] = squares.amin(1)
        recalled[rows] = (squares <= others).any(1)
    covered = nearest <= own
    return Prdc(*(float(x.double().mean()) for x in (held > 0, recalled, held.double() / k, covered)))


def nearness(synthetic: Tensor, train: Tensor, held_out: Tensor) -> ClosestRecords:
    """As :func:`closest_records`, of coordinates."""
    drawn, others = (_closest(rows, train) for rows in (synthetic, held_out))
    quantile, median = (float(x) for x in np.quantile(others, [0.01, 0.5]))
    return ClosestRecords(
        float((drawn < quantile).mean()), float((drawn < median).mean()), quantile, median, drawn, others
    )


def _squares(rows: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of some rows at a time to all others, and the number of the first of these rows."""
    height = max(WORK // max(len(others), 1), 1)
    norms = others.square().sum(1)
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        squares = torch.addmm(norms, part, others.t(), alpha=-2.0) + part.square().sum(1, keepdim=True)
        yield start, squares.clamp_min_(0.0)


def _reach(rows: Tensor, k: int) -> Tensor:
    """Squared distance of every row to its k-th nearest other row, and what rounding may add.

    Rows that are as far lie within: among levels distances are few and often equal, and those of equal rows are zero.
    """
    found = [squares.topk(k + 1, dim=1, largest=False).values[:, k] for _, squares in _squares(rows, rows)]
    radius = torch.cat(found)
    return radius + ROUNDING * (rows.square().sum(1) + radius)


def _closest(rows: Tensor, train: Tensor) -> Array:
    """Distance of every row to the nearest training row; computed anew for the one found, as nearby rows ask for it."""
    known = train.float()
    found = [squares.argmin(1) for _, squares in _squares(rows.float(), known)]
    return np.asarray((rows - train[torch.cat(found)]).norm(dim=1).numpy())
