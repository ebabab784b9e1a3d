"""How the numbers of every column were distributed among the training rows, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.encode.columns import Column
from anomgen.encode.joint import JointEncoder
from anomgen.encode.rows import on_grid
from anomgen.encode.table import TableEncoder

Array = NDArray[np.float64]

MOST, LEAST, TOGETHER = 2048, 100, 100_000
"""Values of a column that are told apart, and pieces that the others are divided into: at most, at least, and of all
columns together, which bounds what a model of a wide table weighs."""
MAX_ROWS, MAX_NUMBERS = 200_000, 5_000_000
"""Rows looked at, evenly spread, and numbers in them."""


@dataclass(frozen=True)
class Marginals:
    r"""Quantile functions of the numeric columns of a table.

    A quantile function is a list of pieces: up to a cumulative share :math:`p_k`, values rise evenly from :math:`a_k`
    to :math:`b_k`. A value that training rows have in common is a piece of its own with :math:`a_k = b_k`; values that
    occurred once are blurred to half way to their neighbours, so that none of them is kept.

    Parameters
    ----------
    columns : tuple of Column
        Those of the encoder.
    pieces : mapping of int to ndarray of shape (k, 3)
        For every numeric column, by its position: :math:`p_k, a_k, b_k`.

    Examples
    --------
    >>> X = np.c_[[1.0, 1.0, 1.0, 7.5, 9.0], [0.0, 0.3, 0.1, 0.2, 0.5]]
    >>> marginals = Marginals.of(TableEncoder().fit(X), X)
    >>> marginals.quantile(0, np.array([0.1, 0.5, 0.9]))
    array([1. , 1. , 8.6])
    """

    columns: tuple[Column, ...]
    pieces: Mapping[int, Array]

    @classmethod
    def of(cls, encoder: TableEncoder | JointEncoder, rows: Any, weight: Array | None = None) -> Marginals:
        """The quantile functions of rows that `encoder` was fitted on.

        Parameters
        ----------
        encoder : TableEncoder or JointEncoder
        rows : frame or ndarray of shape (n, p)
        weight : ndarray of shape (n,), optional
        """
        table = _table_of(encoder)
        step = max(1, -(-len(rows) // max(1, min(MAX_ROWS, MAX_NUMBERS // len(table.columns_)))))
        most = int(np.clip(TOGETHER // len(table.columns_), LEAST, MOST))
        values = table.read(rows.iloc[::step] if hasattr(rows, "iloc") else np.asarray(rows)[::step])
        weight = np.ones(len(values)) if weight is None else weight[::step]
        pieces = {}
        for j, column in enumerate(table.columns_):
            known = ~np.isnan(values[:, j])
            if column.is_real and known.any() and weight[known].sum() > 0:
                pieces[j] = _pieces(values[known, j], weight[known], most)
        return cls(tuple(table.columns_), pieces)

    def quantile(self, j: int, u: Array) -> Array:
        """Values of column `j` below which the shares `u` of the training rows lie, on the grid of the column."""
        upper, start, end = self.pieces[j].T
        k = np.minimum(np.searchsorted(upper, u, side="right"), len(upper) - 1)
        lower = np.concatenate([[0.0], upper])[k]
        within = np.clip((u - lower) / (upper[k] - lower), 0.0, 1.0)
        values = start[k] + within * (end[k] - start[k])
        between = start[k] < end[k]
        # Values that were seen are left as they are, to the last digit.
        values[between] = on_grid(self.columns[j], values[between])
        return np.asarray(values)

    def arrays(self) -> dict[str, Array]:
        """All that cannot be had from the encoder, by name."""
        return {str(j): pieces for j, pieces in self.pieces.items()}

    @classmethod
    def from_arrays(cls, encoder: TableEncoder | JointEncoder, arrays: Mapping[str, Array]) -> Marginals:
        """The inverse of :meth:`arrays`."""
        return cls(tuple(_table_of(encoder).columns_), {int(name): pieces for name, pieces in arrays.items()})


def _table_of(encoder: TableEncoder | JointEncoder) -> TableEncoder:
    table = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    assert isinstance(table, TableEncoder)
    return table


def _pieces(values: Array, weight: Array, most: int) -> Array:
    """The pieces of one column."""
    levels, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    mass = np.bincount(at.ravel(), weights=weight) / weight.sum()
    least = 1.0 / most if len(levels) > most else 0.0
    alone = (counts < 2) | (mass < least)
    # Neighbours that do not stand alone are gathered until they weigh enough.
    begins = np.ones(len(levels), dtype=bool)
    gathered = 0.0
    for i in range(1, len(levels) if least else 0):
        gathered += mass[i - 1]
        if alone[i] and alone[i - 1] and gathered < least:
            begins[i] = False
        else:
            gathered = 0.0
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(levels)) - 1
    middles = np.concatenate([levels[:1], 0.5 * (levels[1:] + levels[:-1]), levels[-1:]])
    single = ~alone[first]
    start = np.where(single, levels[first], middles[first])
    end = np.where(single, levels[last], middles[last + 1])
    return np.stack([np.cumsum(np.add.reduceat(mass, first)), start, end], axis=1)
