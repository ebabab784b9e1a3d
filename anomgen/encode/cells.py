"""Intervals: where the levels of discrete columns lie in model space, and what mass they carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from anomgen.encode.columns import ON_LEVEL, Column

Array = NDArray[np.float64]

LOG_2PI = float(np.log(2 * np.pi))


def cell_bounds(column: Column) -> Array:
    """Probabilities at which the cells of a binary or categorical column begin and end; the last is the unseen one."""
    inner = np.cumsum(column.shares)[:-1] * (1.0 - column.unseen)
    return np.concatenate([[0.0], inner, [1.0 - column.unseen, 1.0]])


def mask_bounds(column: Column) -> Array:
    """Probabilities at which the cells "present" and "missing" begin and end."""
    return np.array([0.0, 1.0 - column.missing, 1.0])


def cell_of(column: Column, values: Array) -> NDArray[np.int64]:
    """Cell of every value: the number of its level, the last cell for an unseen one, the first for a missing one."""
    at = values
    if not column.coded:
        levels = np.array(column.levels, dtype=np.float64)
        nearest = nearest_level(levels, values)
        off = np.abs(values - levels[nearest]) > ON_LEVEL * np.diff(levels).min()
        at = np.where(off, -1.0, nearest)
    at = np.where(np.isnan(values), 0.0, at)
    return np.where(at < 0, len(column.levels), at).astype(np.int64)


def nearest_level(levels: Array, values: Array) -> NDArray[np.int64]:
    """Position of the level nearest to each value."""
    return np.searchsorted(0.5 * (levels[1:] + levels[:-1]), values)


def encode_code(at: NDArray[np.int64], k: int, z: Any, low: Any, high: Any) -> None:
    """Put the numbers of the cells `at` into coordinate `k`."""
    z[:, k] = at
    if low is not None:
        low[:, k] = high[:, k] = at


def encode_gap(column: Column, absent: NDArray[np.bool_], k: int, z: Any, log_det: Array, low: Any, high: Any) -> None:
    """Mark missing values of coordinate `k` by NaN; where training had none, one costs what an unseen value costs."""
    z[absent, k] = np.nan
    if column.missing == 0:
        log_det[absent] += np.log(column.unseen)
    if low is not None:
        low[absent, k] = high[absent, k] = np.nan


def encode_cell(bounds: Array, at: NDArray[np.int64], k: int, z: Any, log_det: Array, low: Any, high: Any) -> None:
    """Put rows into the cells `at` of coordinate `k`: middle in `z`, ``log(width / N(z))`` in `log_det`."""
    middle = ndtri(0.5 * (bounds[:-1] + bounds[1:]))
    log_mass = np.log(np.diff(bounds)) + 0.5 * (middle**2 + LOG_2PI)
    z[:, k] = middle[at]
    log_det += log_mass[at]
    if low is not None:
        low[:, k], high[:, k] = bounds[:-1][at], bounds[1:][at]


def encode_missing(
    column: Column, absent: NDArray[np.bool_], k: int, z: Any, log_det: Array, low: Any, high: Any
) -> None:
    """Replace what stands in value coordinate `k` of missing cells by noise with its density divided out."""
    if not absent.any():
        return
    # A cell coordinate has already paid for the level it stands in for: take that back first.
    if column.is_cell:
        bounds = cell_bounds(column)[:2]
        middle = ndtri(bounds.mean())
        log_det[absent] -= np.log(bounds[1] - bounds[0]) + 0.5 * (middle**2 + LOG_2PI)
    z[absent, k] = 0.0
    log_det[absent] += 0.5 * LOG_2PI
    if column.missing == 0:
        log_det[absent] += np.log(column.unseen)
    if low is not None:
        low[absent, k], high[absent, k] = -np.inf, np.inf


def lattice_cell(column: Column, x: Array) -> tuple[Array, Array, Array]:
    """Middle, width and log-penalty of the lattice cell that each value belongs to, in the column's units.

    A value off the lattice gets the cell of its nearest level and pays ``-log(unseen)``; beyond the outermost level of
    an irregular lattice the outermost cell moves along with it.
    """
    if column.step > 0:
        with np.errstate(over="ignore", invalid="ignore"):
            middle = column.origin + np.rint((x - column.origin) / column.step) * column.step
        middle = np.where(np.isfinite(middle), middle, x)
        off = np.abs(x - middle) > np.maximum(ON_LEVEL * column.step, 1e-12 * np.abs(x))
        width = np.full_like(x, column.step)
    else:
        levels = np.array(column.levels, dtype=np.float64)
        at = nearest_level(levels, x)
        inner = 0.5 * (levels[1:] + levels[:-1])
        edges = np.concatenate([[2 * levels[0] - inner[0]], inner, [2 * levels[-1] - inner[-1]]])
        off = np.abs(x - levels[at]) > ON_LEVEL * np.diff(levels).min()
        outside = np.where((x > levels[-1]) | (x < levels[0]), x - levels[at], 0.0)
        middle = 0.5 * (edges[at] + edges[at + 1]) + outside
        width = edges[at + 1] - edges[at]
    return middle, width, np.where(off, np.log(column.unseen), 0.0)
