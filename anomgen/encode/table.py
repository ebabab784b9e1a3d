"""The table encoder: rows of any frame or array to model-space coordinates and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from anomgen.encode.cells import cell_bounds, mask_bounds
from anomgen.encode.columns import KINDS, Column, category_column, number_column
from anomgen.encode.frame import (
    Dtype,
    Name,
    build_series,
    codes,
    numbers,
    observed_levels,
    read_dtype,
    to_frame,
)
from anomgen.encode.rows import Encoded, allocate, decode_rows, encode_rows
from anomgen.encode.transform import Maps

Array = NDArray[np.float64]

PIECE = 4_194_304
"""Cells of a table encoded at a time."""
FREE_TEXT = 0.5
"""A text column whose distinct values exceed this share of its rows is an identifier or free text."""


class TableEncoder:
    """Turn tables into coordinates that a density model can learn, and back, exactly accounted.

    The kind of every column is decided at :meth:`fit` from the training rows alone and does not depend on its unit:

    ============  =====================================================================================================
    constant      takes no coordinate; its value costs nothing, any other value costs ``-log(unseen)``
    binary        two cells of the standard normal distribution, as wide as the levels are frequent
    categorical   one cell a level, and a narrow one for levels never seen
    lattice       a number on a grid or with few values: mapped like a continuous one, known up to its cell
    continuous    standardized
    heavy-tailed  asinh around the median with straight tails, standardized
    datetime      continuous seconds
    ============  =====================================================================================================

    A column with missing values gets a second, binary coordinate for whether the value is there; the value coordinate
    of a missing cell is standard normal noise in training and 0 in scoring, with ``-log N(0)`` in the log-determinant,
    so that a score estimates ``log p(observed values, mask)``.

    Parameters
    ----------
    kinds : mapping of column to kind, optional
        Overrides what is inferred: column names, or positions for arrays.
    exclude : sequence of columns
        Columns left out of the model; they come back from :meth:`decode` as missing.

    Notes
    -----
    The mass of a cell is its width times the density at its middle: a one-point quadrature, not a bound. Masses of
    values never seen in training come from a share of ``0.01 / (n + 1)`` set aside for them.
    """

    columns_: list[Column]
    dtypes_: list[Dtype]

    def __init__(self, kinds: Mapping[Any, str] | None = None, exclude: Sequence[Any] = ()) -> None:
        self.kinds = dict(kinds or {})
        self.exclude = tuple(exclude)

    # ------------------------------------------------------------------ fitting

    def fit(self, x: Any, weight: Array | None = None) -> TableEncoder:
        """Decide the kind and the map of every column.

        Parameters
        ----------
        x : frame or ndarray of shape (n, p)
        weight : ndarray of shape (n,), optional
            Positive weight of every row.

        Raises
        ------
        ValueError
            Naming the column, and the row where there is one, of data that cannot be encoded: all missing, infinite,
            free text, unknown names in `kinds` or `exclude`, or when nothing varies.
        """
        frame = to_frame(x)
        self.container_ = "array" if frame is None else "frame"
        frame = _as_frame(x) if frame is None else frame
        self.names_: list[Name] = [_plain_name(name) for name in frame.columns]
        if len(set(self.names_)) < len(self.names_):
            repeated = next(name for i, name in enumerate(self.names_) if name in self.names_[:i])
            raise ValueError(f"column {repeated!r} appears more than once; give every column its own name")
        self._check_options()
        self.eps_ = 1.2e-7 if self.container_ == "array" and np.asarray(x).dtype == np.float32 else 2.3e-16
        self.array_dtype_ = str(np.asarray(x).dtype) if self.container_ == "array" else ""
        weight = np.ones(len(frame)) if weight is None else np.asarray(weight, dtype=np.float64)
        self.dtypes_, self.columns_ = [], []
        for name in self.names_:
            series = frame.iloc[:, self.names_.index(name)]
            if name in self.exclude:
                self.dtypes_.append(_excluded_dtype(series, name))
                continue
            dtype = self._dtype_for(series, name)
            self.dtypes_.append(dtype)
            self.columns_.append(self._fit_column(series, dtype, name, weight))
        self._compile()
        if not self.dim:
            raise ValueError(
                f"every column is constant ({', '.join(repr(c.name) for c in self.columns_[:5])}): there is nothing "
                "to learn from; give rows that differ"
            )
        return self

    def _check_options(self) -> None:
        for option, given in (("kinds", list(self.kinds)), ("exclude", list(self.exclude))):
            unknown = [name for name in given if name not in self.names_]
            if unknown:
                raise ValueError(
                    f"{option}= names {unknown[0]!r}, which is not a column; columns are {self.names_[:10]}"
                )
        wrong = [kind for kind in self.kinds.values() if kind not in KINDS]
        if wrong:
            raise ValueError(f"kinds= holds {wrong[0]!r}; allowed are {', '.join(KINDS)}")
        if set(self.names_) <= set(self.exclude):
            raise ValueError("exclude= leaves no column to model")

    def _dtype_for(self, series: Any, name: Name) -> Dtype:
        dtype = read_dtype(series, name)
        wanted = self.kinds.get(name)
        if dtype.role == "category" and wanted not in (None, "categorical", "binary", "constant"):
            return Dtype("datetime", "datetime", unit="us") if wanted == "datetime" else Dtype("number", "float64")
        if dtype.role == "category" and wanted is None and not dtype.levels:
            types = {type(value) for value in series.dropna().astype(object).unique()}
            if len(types) > 1:
                row = next(i for i, value in enumerate(series) if isinstance(value, str))
                raise ValueError(
                    f"column {name!r} mixes numbers and text (row {row}: {series.iloc[row]!r}); clean it, or pass "
                    f"kinds={{{name!r}: 'categorical'}} or exclude=[{name!r}]"
                )
        return dtype

    def _fit_column(self, series: Any, dtype: Dtype, name: Name, weight: Array) -> Column:
        absent = series.isna().to_numpy()
        if absent.all():
            raise ValueError(f"column {name!r} has only missing values; drop it or pass exclude=[{name!r}]")
        observed = weight[~absent]
        common = {
            "unseen": max(0.01 / (len(series) + 1), 1e-9),
            "missing": float(weight[absent].sum() / weight.sum()),
        }
        wanted = self.kinds.get(name)
        if dtype.role == "category":
            levels = observed_levels(series, dtype, name)
            if wanted is None and not dtype.levels and len(levels) > max(30, FREE_TEXT * len(observed)):
                raise ValueError(
                    f"column {name!r} looks like free text or an identifier ({len(levels)} distinct values in "
                    f"{len(observed)} rows); pass exclude=[{name!r}], or kinds={{{name!r}: 'categorical'}} ('datetime')"
                )
            found = codes(series, tuple(levels))
            return category_column(name, found[~absent], levels, observed, **common)
        values = numbers(series, dtype, name)
        _check_finite(values, name)
        column = number_column(
            name,
            values[~absent],
            observed,
            kind=wanted or _stamped(values[~absent], dtype),
            eps=_eps(dtype, self.eps_),
            **common,
        )
        if column.kind == "datetime" and wanted is None:
            column = replace(
                column, reason="dates, in seconds" if dtype.role == "datetime" else "durations, in seconds"
            )
        return column

    # ------------------------------------------------------------------ what the model is told

    @property
    def dim(self) -> int:
        """Number of model coordinates."""
        return len(self.coordinates_)

    def _compile(self) -> None:
        """Lay the columns out as coordinates: value, then mask where values are missing."""
        self.coordinates_: list[tuple[int, str]] = []
        for j, column in enumerate(self.columns_):
            if column.is_cell:
                self.coordinates_.append((j, "cell"))
            elif column.is_real:
                self.coordinates_.append((j, "lattice" if column.kind == "lattice" else "real"))
            if column.missing > 0:
                self.coordinates_.append((j, "mask"))
        self.__dict__.pop("real", None)

    @cached_property
    def real(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Maps]:
        """Positions of the mapped numbers among columns and among coordinates, and their maps."""
        at = [(j, k) for k, (j, role) in enumerate(self.coordinates_) if role in ("real", "lattice")]
        used = [self.columns_[j] for j, _ in at]

        def gather(name: str) -> Array:
            return np.array([getattr(column, name) for column in used], dtype=np.float64)

        bent = np.array([column.bent for column in used], dtype=bool)
        maps = Maps(gather("center"), gather("scale"), bent, *(gather(n) for n in ("low", "high", "shift", "spread")))
        where = np.array(at, dtype=np.int64).reshape(-1, 2)
        return where[:, 0], where[:, 1], maps

    def layout(self) -> dict[str, Any]:
        """The fields of the model's ``Space``: shape, and what is known of every coordinate."""
        names, kinds, edges, missing, unseen = [], [], [], [], []
        for j, role in self.coordinates_:
            column = self.columns_[j]
            names.append(f"{column.name} is missing" if role == "mask" else str(column.name))
            kinds.append("cell" if role in ("cell", "mask") else role)
            bounds = mask_bounds(column) if role == "mask" else cell_bounds(column) if role == "cell" else np.zeros(2)
            edges.append(tuple(float(edge) for edge in ndtri(bounds[1:-1])))
            missing.append(role != "mask" and column.missing > 0)
            unseen.append(column.unseen if role == "cell" else 0.0)
        return {
            "shape": (self.dim,),
            "names": tuple(names),
            "kinds": tuple(kinds),
            "edges": tuple(edges),
            "missing": tuple(missing),
            "unseen": tuple(unseen),
        }

    def describe(self) -> list[dict[str, Any]]:
        """One row a column: what it was taken for and why."""
        rows = {column.name: column for column in self.columns_}
        report: list[dict[str, Any]] = []
        for name in self.names_:
            column = rows.get(name)
            if column is None:
                report.append({"column": name, "kind": "excluded", "reason": "listed in exclude", "missing": 0.0})
            else:
                report.append({"column": name, "kind": column.kind, "reason": column.reason, "missing": column.missing})
        return report

    # ------------------------------------------------------------------ rows in and out

    def encode(self, x: Any, cells: bool = False, codes: bool = False) -> Encoded:
        """Encode rows laid out as the training rows were.

        Parameters
        ----------
        x : frame or ndarray of shape (n, p)
        cells : bool
            Whether to give the bounds that training draws between; otherwise `low` and `high` are `z`.
        codes : bool
            Whether levels become their numbers and missing values NaN, for models that give levels a probability of
            their own; `log_det` then leaves both to the model.

        Raises
        ------
        ValueError
            Naming column and row of an infinity, or of text in a numeric column.
        """
        frame = to_frame(x)
        rows = np.asarray(x) if frame is None else frame.iloc
        into = allocate(self, len(x), cells)
        # In pieces, so that the temporary float64 arrays stay small however many rows there are.
        height = max(1, PIECE // len(self.names_))
        for start in range(0, len(x), height):
            encode_rows(self, self.read(rows[start : start + height], start), into, start, codes)
        return into

    def decode(self, z: NDArray[Any], codes: bool = False) -> Any:
        """Rows in the user's container, dtypes, columns and levels from model-space coordinates `z` of shape (n, d).

        Cells give their level, lattices the nearest one inside the training range; excluded columns come back missing.
        With `codes`, cell coordinates hold numbers of levels.
        """
        return self.write(decode_rows(self, np.asarray(z, dtype=np.float64), codes), len(z))

    def read(self, x: Any, first: int = 0) -> Array:
        """Every modelled column as float64: numbers as they are, levels as their position (-1 unseen), NaN missing.

        `first` is the number of the first row, for messages.
        """
        frame = to_frame(x)
        if frame is None:
            array = np.asarray(x)
            if self.container_ != "array" or self.exclude:
                array = array[:, [self.names_.index(column.name) for column in self.columns_]]
            if array.dtype != object and not any(column.coded for column in self.columns_):
                values = array.astype(np.float64, copy=False)
                for j in np.flatnonzero(np.isinf(values).any(axis=0)).tolist():
                    _check_finite(values[:, j], self.columns_[j].name, first)
                return values
            frame = pd.DataFrame(array, columns=[column.name for column in self.columns_])
        out = np.empty((len(frame), len(self.columns_)))
        labels = list(frame.columns)
        for j, column in enumerate(self.columns_):
            position = labels.index(column.name) if column.name in labels else self.names_.index(column.name)
            series = frame.iloc[:, position]
            if column.coded:
                found = codes(series, column.levels)
                out[:, j] = np.where(found == -2, np.nan, found)
            else:
                out[:, j] = numbers(series, self.dtypes_[self.names_.index(column.name)], column.name, first)
                _check_finite(out[:, j], column.name, first)
        return out

    def write(self, columns: dict[Name, NDArray[Any]], n: int) -> Any:
        """The user's container from decoded columns; those left out are missing."""
        gap = np.full(n, np.nan)
        if self.container_ == "array":
            full = np.stack([columns.get(name, gap) for name in self.names_], axis=1).astype(np.float64)
            return full.astype(self.array_dtype_) if self.array_dtype_ in ("float32", "float64") else full
        series = {}
        for name, dtype in zip(self.names_, self.dtypes_, strict=True):
            values = columns.get(name, gap if dtype.role != "category" else np.full(n, None, dtype=object))
            series[name] = build_series(values, dtype)
        return pd.DataFrame(series)

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Everything learned, as JSON values."""
        return {
            "kinds": [[name, kind] for name, kind in self.kinds.items()],
            "exclude": list(self.exclude),
            "container": self.container_,
            "array_dtype": self.array_dtype_,
            "eps": self.eps_,
            "names": list(self.names_),
            "dtypes": [asdict(dtype) for dtype in self.dtypes_],
            "columns": [column.state() for column in self.columns_],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TableEncoder:
        """The encoder that :meth:`state` described."""
        encoder = cls(dict(state["kinds"]), state["exclude"])
        encoder.container_, encoder.array_dtype_ = state["container"], state["array_dtype"]
        encoder.eps_, encoder.names_ = state["eps"], list(state["names"])
        encoder.dtypes_ = [Dtype(**{**dtype, "levels": tuple(dtype["levels"])}) for dtype in state["dtypes"]]
        encoder.columns_ = [Column.from_state(column) for column in state["columns"]]
        encoder._compile()
        return encoder


def _as_frame(x: Any) -> pd.DataFrame:
    array = np.asarray(x)
    return pd.DataFrame({j: array[:, j] for j in range(array.shape[1])})


def _plain_name(name: Any) -> Name:
    if isinstance(name, str):
        return str(name)
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        return int(name)
    raise ValueError(f"column name {name!r} is a {type(name).__name__}; name columns by text or by whole numbers")


def _excluded_dtype(series: Any, name: Name) -> Dtype:
    try:
        return read_dtype(series, name)
    except (TypeError, ValueError):
        return Dtype("category", "object")


def _stamped(values: Array, dtype: Dtype) -> str | None:
    """Dates and durations are continuous whatever their values look like, unless there is only one."""
    return "datetime" if dtype.role in ("datetime", "duration") and values.min() < values.max() else None


def _eps(dtype: Dtype, array_eps: float) -> float:
    single = dtype.text.lower().startswith("float32") or dtype.text.startswith("float[")
    return 1.2e-7 if single else array_eps


def _check_finite(values: Array, name: Name, first: int = 0) -> None:
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise ValueError(
            f"Input X contains infinity: column {name!r}, row {first + infinite[0]} ({len(infinite)} such values); "
            "replace it by a number or by a missing value"
        )
