"""Rows of a table as numbers that may be changed one by one, and back in the user's container."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from anomgen.encode import Encoded, JointEncoder, TableEncoder
from anomgen.encode.cells import LOG_2PI, cell_bounds, mask_bounds
from anomgen.encode.frame import to_frame
from anomgen.encode.rows import allocate, decode_rows, encode_rows

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Rows of a table as float64 numbers, one column a modelled column.

    Numbers are as they are, levels are their position (-1 unseen), missing values NaN. A row's *code* is what a model
    with codes sees of it: numbers in model space, numbers of levels, and 0 or 1 for "missing".

    Parameters
    ----------
    encoder : TableEncoder or JointEncoder
        The fitted one of a detector.
    """

    encoder: TableEncoder | JointEncoder

    @cached_property
    def own(self) -> TableEncoder:
        """What encodes the modelled columns."""
        encoder = self.encoder.rows_ if isinstance(self.encoder, JointEncoder) else self.encoder
        return cast(TableEncoder, encoder)

    @cached_property
    def _plain(self) -> TableEncoder:
        """An encoder that decodes levels to their positions."""
        plain = copy.copy(self.own)
        plain.columns_ = [
            replace(column, levels=tuple(range(len(column.levels))), coded=False) if column.coded else column
            for column in self.own.columns_
        ]
        plain._compile()
        return plain

    @cached_property
    def reals(self) -> NDArray[np.int64]:
        """Coordinates that are numbers."""
        return self._with_role("real", "lattice")

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Coordinates that are levels."""
        return self._with_role("cell")

    @cached_property
    def masks(self) -> NDArray[np.int64]:
        """Coordinates that say whether a value is missing."""
        return self._with_role("mask")

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """The column that each coordinate belongs to."""
        return np.array([j for j, _ in self.own.coordinates_], dtype=np.int64)

    @cached_property
    def levels(self) -> dict[int, Array]:
        """How frequent each known level of each cell coordinate is."""
        return {int(k): np.array(self.own.columns_[self.columns[k]].shares) for k in self.cells}

    @cached_property
    def log_masses(self) -> dict[int, Array]:
        """Log-mass that the encoder adds to a level of each cell coordinate, the unseen one last."""
        found = {}
        for k in self.cells:
            bounds = cell_bounds(self.own.columns_[self.columns[k]])
            middle = ndtri(0.5 * (bounds[:-1] + bounds[1:]))
            found[int(k)] = np.log(np.diff(bounds)) + 0.5 * (middle**2 + LOG_2PI)
        return found

    def _with_role(self, *roles: str) -> NDArray[np.int64]:
        return np.array([k for k, (_, role) in enumerate(self.own.coordinates_) if role in roles], dtype=np.int64)

    def read(self, X: Any) -> Array:
        """Rows as numbers."""
        return np.array(self.own.read(X))

    def encode(self, values: Array, codes: bool, given: NDArray[np.float32] | None = None) -> Encoded:
        """Rows as a model sees them; the first conditions known stand in where none are `given`."""
        into = allocate(self.own, len(values), cells=False)
        encode_rows(self.own, values, into, 0, codes)
        if not isinstance(self.encoder, JointEncoder):
            return into
        places = np.repeat(self.encoder.bank_[:1], len(values), axis=0) if given is None else given
        z = np.hstack([into.z, places])
        return Encoded(z, into.log_det, z, z)

    def code(self, values: Array) -> Array:
        """Codes of rows."""
        into = allocate(self.own, len(values), cells=False)
        encode_rows(self.own, values, into, 0, codes=True)
        return into.z.astype(np.float64)

    def decode(self, code: Array) -> Array:
        """Rows of codes: lattices at one of their values, within the training range."""
        found = decode_rows(self._plain, code, codes=True)
        return np.stack([found[column.name].astype(np.float64) for column in self.own.columns_], axis=1)

    def codes_of(self, z: Array) -> Array:
        """Codes of rows as models without codes see them: levels by the cell of the normal distribution."""
        code = z.copy()
        for k in self.cells:
            inner = cell_bounds(self.own.columns_[self.columns[k]])[1:-1]
            code[:, k] = np.searchsorted(inner, ndtr(z[:, k]))
        for k in self.masks:
            code[:, k] = ndtr(z[:, k]) > mask_bounds(self.own.columns_[self.columns[k]])[1]
        return code

    def log_mass(self, code: Array) -> Array:
        """Log-mass that the encoder adds to the levels of rows, for models without codes."""
        total = np.zeros(len(code))
        for k, masses in self.log_masses.items():
            total += masses[code[:, k].astype(np.int64)]
        return total

    def beyond(self, code: Array) -> Flags:
        """Whether a lattice of a row lies where no value can be written, more than half a cell from the outermost."""
        out = np.zeros(len(code), dtype=bool)
        for k in self.reals:
            j, role = self.own.coordinates_[k]
            column = self.own.columns_[j]
            if role != "lattice":
                continue
            levels = np.array(column.levels, dtype=np.float64)
            ends = (levels[0], levels[-1]) if len(levels) > 1 else (column.minimum, column.maximum)
            steps = (levels[1] - levels[0], levels[-1] - levels[-2]) if len(levels) > 1 else (column.step,) * 2
            at = int(np.flatnonzero(self.own.real[1] == k)[0])
            maps = self.own.real[2].take([at])
            low, high = (
                float(maps.forward(np.array([[end]]))[0, 0])
                for end in (ends[0] - 0.5 * steps[0], ends[1] + 0.5 * steps[1])
            )
            out |= (code[:, k] < low) | (code[:, k] > high)
        return out

    def write(self, values: Array) -> Any:
        """Rows in the user's container, without their conditions."""
        columns: dict[Any, NDArray[Any]] = {}
        for j, column in enumerate(self.own.columns_):
            columns[column.name] = values[:, j]
            if column.coded:
                levels = np.array([*column.levels, None], dtype=object)
                at = np.where(np.isnan(values[:, j]), -1.0, values[:, j]).astype(np.int64)
                columns[column.name] = levels[at]
        return self.own.write(columns, len(values))

    def put(self, X: Any, rows: NDArray[np.int64], where: Flags, values: Array) -> Any:
        """A copy of `X` with the cells `where`, shape ``(len(rows), columns)``, of some rows taken from `values`.

        Everything else is as it was, to the bit; a column whose type cannot hold what it gets takes that of training.
        """
        changed = X.copy()
        if not len(rows):
            return changed
        new = self.write(values)
        frame = to_frame(new)
        for j, column in enumerate(self.own.columns_):
            if not where[:, j].any():
                continue
            at = self.own.names_.index(column.name)
            if isinstance(changed, pd.DataFrame):
                found = pd.Series(new[:, at]) if frame is None else frame[column.name]
                changed.isetitem(at, _mixed(changed.iloc[:, at], rows[where[:, j]], found[where[:, j]]))
            else:
                changed[rows[where[:, j]], at] = new[where[:, j], at]
        return changed

    def given(self, X: Any) -> NDArray[np.float32] | None:
        """Coordinates of the conditions of rows, where they are columns of them; None where they are not known.

        Raises
        ------
        ValueError
            For a condition that training did not have, a missing one among them.
        """
        if not isinstance(self.encoder, JointEncoder) or self.encoder.label is not None:
            return None
        return self.encoder.encode_given(self.encoder._parts(X)[1])


def _mixed(own: Any, rows: NDArray[np.int64], new: Any) -> Any:
    """A column with some of its values replaced, of its own type where that can hold them."""
    dtype = own.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        lacking = [level for level in pd.unique(new) if level not in dtype.categories]
        own = own.cat.add_categories(lacking) if lacking else own
        dtype = own.dtype
    values = _held(new, dtype)
    if values is None:
        values, own = new, _as_type(own, new.dtype)
    mixed = own.copy()
    mixed.iloc[rows] = values.array
    return mixed


def _held(new: Any, dtype: Any) -> Any:
    """Values in another type; None where it cannot hold them: whole numbers no fractions, text no times."""
    types = pd.api.types
    if _is_time(new.dtype) and (types.is_object_dtype(dtype) or types.is_string_dtype(dtype)):
        return None
    try:
        with np.errstate(invalid="ignore"):
            values = new.astype(dtype)
    except (ValueError, TypeError):
        return None
    whole = types.is_integer_dtype(dtype) or types.is_bool_dtype(dtype)
    return None if whole and types.is_float_dtype(new.dtype) and not (values.astype(new.dtype) == new).all() else values


def _as_type(own: Any, dtype: Any) -> Any:
    """A column in the type of training; times may be text, or Python's objects."""
    if not _is_time(dtype) or _is_time(own.dtype):
        return own.astype(dtype)
    if pd.api.types.is_timedelta64_dtype(dtype):
        return pd.to_timedelta(own).astype(dtype)
    stamps = pd.to_datetime(own, utc=True)
    return (stamps if getattr(dtype, "tz", None) is not None else stamps.dt.tz_localize(None)).astype(dtype)


def _is_time(dtype: Any) -> bool:
    return pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype)
