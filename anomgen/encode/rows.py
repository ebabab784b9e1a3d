"""Rows of numbers to model-space coordinates and back, for an encoder that has decided on its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from anomgen.encode.cells import (
    cell_bounds,
    cell_of,
    encode_cell,
    encode_code,
    encode_gap,
    encode_missing,
    lattice_cell,
    mask_bounds,
)
from anomgen.encode.columns import Column
from anomgen.encode.frame import Name

if TYPE_CHECKING:
    from anomgen.encode.table import TableEncoder

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """Rows in model space.

    Parameters
    ----------
    z : float32 ndarray of shape (n, d)
        Where rows are scored: exact values, midpoints of cells, 0 for a missing value. Where level numbers were asked
        for, those and NaN take the place of the latter two.
    log_det : float64 ndarray of shape (n,)
        What to add to ``log p(z)`` to get nats in the user's units: log-slopes of the maps, log-widths of the cells,
        and ``-log N(0)`` for every missing value; the last two not where level numbers were asked for.
    low, high : float32 ndarray of shape (n, d)
        Bounds of the interval each coordinate is known up to, in model space for numbers and in probability for cells
        of the normal distribution; ``-inf`` and ``inf`` for a missing value. The same array as `z` where exact.
    box : float
        Width of the interval around `z` that every coordinate is known up to, where it is the same for all of them, as
        for pixels; 0 otherwise.
    """

    z: NDArray[np.float32]
    log_det: Array
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    box: float = 0.0

    def __len__(self) -> int:
        return len(self.z)

    def take(self, rows: NDArray[Any]) -> Encoded:
        """The given rows."""
        exact = self.low is self.z
        z = self.z[rows]
        low, high = (z, z) if exact else (self.low[rows], self.high[rows])
        return Encoded(z, self.log_det[rows], low, high, self.box)


def join(parts: Sequence[Encoded]) -> Encoded:
    """Rows of one encoder, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    z = np.concatenate([part.z for part in parts])
    log_det = np.concatenate([part.log_det for part in parts])
    if all(part.low is part.z for part in parts):
        return Encoded(z, log_det, z, z, parts[0].box)
    low, high = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high"))
    return Encoded(z, log_det, low, high)


def allocate(encoder: TableEncoder, n: int, cells: bool) -> Encoded:
    """Room for `n` encoded rows; bounds of their own only where some coordinate is known up to an interval."""
    z = np.zeros((n, encoder.dim), dtype=np.float32)
    boxed = cells and any(role != "real" or encoder.columns_[j].missing > 0 for j, role in encoder.coordinates_)
    low, high = (np.zeros_like(z), np.zeros_like(z)) if boxed else (z, z)
    return Encoded(z, np.zeros(n), low, high)


def encode_rows(encoder: TableEncoder, values: Array, into: Encoded, start: int, codes: bool) -> None:
    """Encode rows of float64 `values`, one column a modelled column, to the rows of `into` from `start` on."""
    where = slice(start, start + len(values))
    z, log_det = into.z[where], into.log_det[where]
    low, high = (None, None) if into.low is into.z else (into.low[where], into.high[where])
    absent = np.isnan(values)
    _encode_real(encoder, values, absent, z, log_det, low, high)
    for k, (j, role) in enumerate(encoder.coordinates_):
        column = encoder.columns_[j]
        if role in ("cell", "mask"):
            bounds = mask_bounds(column) if role == "mask" else cell_bounds(column)
            at = absent[:, j].astype(np.int64) if role == "mask" else cell_of(column, values[:, j])
            if codes:
                encode_code(at, k, z, low, high)
            else:
                encode_cell(bounds, at, k, z, log_det, low, high)
        if role != "mask":
            (encode_gap if codes else encode_missing)(column, absent[:, j], k, z, log_det, low, high)
    for j, column in enumerate(encoder.columns_):
        if column.kind == "constant":
            same = values[:, j] == (0.0 if column.coded else column.levels[0])
            log_det += np.where(absent[:, j], 0.0, np.where(same, np.log1p(-column.unseen), np.log(column.unseen)))
            if column.missing == 0:
                log_det[absent[:, j]] += np.log(column.unseen)


def _encode_real(
    encoder: TableEncoder, values: Array, absent: NDArray[np.bool_], z: Any, log_det: Array, low: Any, high: Any
) -> None:
    columns, coordinates, maps = encoder.real
    if not len(columns):
        return
    x, gone = values[:, columns], absent[:, columns]
    some_gone = bool(gone.any())
    if some_gone:
        x = np.where(gone, maps.center, x)
    z[:, coordinates], slope = maps.both(x)
    lattice = [i for i, j in enumerate(columns) if encoder.columns_[j].kind == "lattice"]
    if some_gone or lattice:
        slope = np.where(gone, 0.0, slope)
    if low is not None:
        low[:, coordinates] = high[:, coordinates] = z[:, coordinates]
    if lattice:
        middle, width, penalty = (np.empty((len(x), len(lattice))) for _ in range(3))
        for i, at in enumerate(lattice):
            middle[:, i], width[:, i], penalty[:, i] = lattice_cell(encoder.columns_[int(columns[at])], x[:, at])
        some = maps.take(lattice)
        a, b = some.forward(middle - 0.5 * width), some.forward(middle + 0.5 * width)
        # Far out, where the ends of a cell meet in floating point, slope times width still tells its mass.
        narrow = some.log_slope(middle) + np.log(width)
        with np.errstate(divide="ignore"):
            log_mass = np.where(b - a > 1e-9 * np.abs(a), np.log(np.maximum(b - a, 0.0)), narrow)
        gaps = absent[:, columns[lattice]]
        z[:, coordinates[lattice]] = 0.5 * (a + b)
        slope[:, lattice] = np.where(gaps, 0.0, log_mass + penalty)
        if low is not None:
            low[:, coordinates[lattice]], high[:, coordinates[lattice]] = a, b
    # Column by column: numpy's own sum of a row takes another order when the row is alone.
    for k in range(len(columns)):
        log_det += slope[:, k]


def decode_rows(encoder: TableEncoder, z: Array, codes: bool) -> dict[Name, NDArray[Any]]:
    """Decode coordinates into one array a column: numbers, or levels as objects."""
    columns, coordinates, maps = encoder.real
    real = maps.inverse(z[:, coordinates]) if len(columns) else np.zeros((len(z), 0))
    by_column = {int(j): real[:, i] for i, j in enumerate(columns)}
    roles = {(j, role): k for k, (j, role) in enumerate(encoder.coordinates_)}
    decoded: dict[Name, NDArray[Any]] = {}
    for j, column in enumerate(encoder.columns_):
        values = _decode_column(encoder, j, z, codes, by_column, roles)
        if column.missing > 0:
            mask = z[:, roles[j, "mask"]]
            gone = mask > 0.5 if codes else ndtr(mask) > mask_bounds(column)[1]
            empty: Any = None if values.dtype == object else np.nan
            values = np.where(gone, empty, values)
        decoded[column.name] = values
    return decoded


def _decode_column(
    encoder: TableEncoder, j: int, z: Array, codes: bool, real: dict[int, Array], roles: dict[tuple[int, str], int]
) -> NDArray[Any]:
    column = encoder.columns_[j]
    levels = np.array(column.levels, dtype=object if column.coded else np.float64)
    if column.kind == "constant":
        return np.repeat(levels, len(z))
    if column.is_cell:
        at = z[:, roles[j, "cell"]]
        found = np.nan_to_num(at).astype(int) if codes else np.searchsorted(cell_bounds(column)[1:-1], ndtr(at))
        return np.asarray(levels[np.minimum(found, len(levels) - 1)])
    return on_grid(column, real[j])


def on_grid(column: Column, values: Array) -> Array:
    """Numbers where the column has them: on its lattice, inside the training range, or with its decimal places."""
    if column.kind == "datetime" and column.step > 0:
        return np.asarray(np.rint(values / column.step) * column.step)
    if column.kind != "lattice":
        return np.round(values, column.decimals) if column.decimals >= 0 else values
    if column.step > 0:
        steps = np.rint((np.clip(values, column.minimum, column.maximum) - column.origin) / column.step)
        values = column.origin + steps * column.step
        return np.asarray(values if column.decimals < 0 else np.round(values, column.decimals))
    levels = np.array(column.levels, dtype=np.float64)
    return np.asarray(levels[np.searchsorted(0.5 * (levels[1:] + levels[:-1]), values)])
