"""The columns of rows that a detector draws: found by name, read as numbers, stored as their type asks."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.encode import JointEncoder
from anomgen.encode.columns import Column
from anomgen.encode.frame import Dtype, Name, build_series, numbers, read_dtype

Array = NDArray[np.float64]


class Columns:
    """What a fitted detector knows of its columns.

    Parameters
    ----------
    detector : Detector
    """

    def __init__(self, detector: Any) -> None:
        encoder = detector.encoder_
        self.images = encoder.container_ == "images"
        self.array = encoder.container_ == "array"
        if self.images:
            return
        self.dtypes: dict[Name, Dtype] = dict(zip(encoder.names_, encoder.dtypes_, strict=True))
        known = [*encoder.columns_, *(encoder.given_.columns_ if isinstance(encoder, JointEncoder) else ())]
        self.known: dict[Name, Column] = {column.name: column for column in known if column.name in self.dtypes}

    def find(self, name: Name, *roles: str) -> Name:
        """The column's own name, checked to be one that the model draws and that has one of the `roles`, if any.

        Raises
        ------
        ValueError
            Naming the closest columns.
        """
        if self.images:
            raise ValueError(f"images have no column {name!r}; constrain them by Where with a callable")
        own = {str(known): known for known in self.dtypes} | ({f"x{j}": j for j in self.dtypes} if self.array else {})
        found = name if name in self.dtypes else own.get(str(name))
        if found is None:
            names = [f"x{j}" for j in self.dtypes] if self.array else list(map(str, self.dtypes))
            close = get_close_matches(str(name), names, 3, 0.5) or names[:10]
            raise ValueError(f"there is no column {name!r}; did you mean {', '.join(map(repr, close))}?")
        if found not in self.known:
            raise ValueError(f"column {found!r} is excluded from the model, which draws no values for it")
        if roles and self.role(found) not in roles:
            raise ValueError(f"column {found!r} holds a {self.role(found)}; this needs a {' or '.join(roles)}")
        return found

    def role(self, name: Name) -> str:
        """What the values of a column are: a role of :class:`~anomgen.encode.frame.Dtype`."""
        return self.dtypes[name].role

    def range(self, name: Name) -> tuple[float, float]:
        """Smallest and largest training value of a column of numbers."""
        column = self.known[name]
        return (min(column.levels), max(column.levels)) if column.levels else (column.minimum, column.maximum)


def numbers_of(rows: Any, name: Name) -> tuple[Array, Dtype]:
    """A column as float64, dates in seconds since 1970 and NaN where missing, and what it holds."""
    if not isinstance(rows, pd.DataFrame):
        return np.asarray(rows[:, name], dtype=np.float64), Dtype("number", "float64")
    series = rows[name]
    dtype = read_dtype(series, name)
    return numbers(series, dtype, name), dtype


def stored(rows: Any, name: Name, values: Array) -> Any:
    """A copy of the rows in which a column of numbers has other values, stored as before.

    Raises
    ------
    ValueError
        If the column holds whole numbers and the values are not.
    """
    if not isinstance(rows, pd.DataFrame):
        out = rows.copy()
        out[:, name] = values
        return out
    dtype = read_dtype(rows[name], name)
    series = build_series(values, dtype)
    if pd.api.types.is_integer_dtype(series.dtype) and not np.array_equal(values, np.rint(values), equal_nan=True):
        row = int(np.flatnonzero(~np.isnan(values) & (values != np.rint(values)))[0])
        raise ValueError(
            f"column {name!r} holds whole numbers, but {values[row]:g} came out for it; make the columns that it is "
            "computed from whole"
        )
    out = rows.copy(deep=False)
    out[name] = series.set_axis(rows.index)
    return out


def wanted_number(value: Any, dtype: Dtype, name: Name) -> float | None:
    """A bound as the number that a column is read as; dates without a time zone are of the column's.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    if value is None:
        return None
    try:
        if dtype.role == "datetime":
            stamp = pd.Timestamp(value)
            return float((stamp if stamp.tz is not None else stamp.tz_localize(dtype.zone)).timestamp())
        if dtype.role == "duration":
            return float(pd.Timedelta(value).total_seconds())
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no bound for column {name!r}, which holds a {dtype.role}: {error}") from None
    if np.isnan(number):
        raise ValueError(f"a bound of column {name!r} is not a number; use None for no bound")
    return number


def wanted_level(value: Any, role: str, column: Column) -> Any:
    """A level as the column holds it; text is read as the number or flag that it stands for.

    Raises
    ------
    ValueError
        If training did not have it.
    """
    name, known = column.name, column.levels
    if role not in ("category", "number", "bool"):
        raise ValueError(f"column {name!r} holds a {role}, which has no levels; use a Range")
    spelled = {str(level): level for level in known}
    if role == "category" and str(value) in spelled:
        return spelled[str(value)]
    if role != "category":
        try:
            flags = {"true": 1.0, "false": 0.0}
            number = flags[value.lower()] if isinstance(value, str) and value.lower() in flags else float(value)
        except (TypeError, ValueError):
            number = np.nan
        if number in known if known else column.minimum <= number <= column.maximum:
            return bool(number) if role == "bool" else int(number) if number.is_integer() else number
    had = ", ".join(map(repr, get_close_matches(str(value), list(spelled), 3, 0.5) or list(spelled)[:10]))
    hint = f"did you mean {had}?" if known else f"its values are from {column.minimum:g} to {column.maximum:g}"
    raise ValueError(f"column {name!r} had no {value!r} in training; {hint}")


def is_whole(value: Any) -> bool:
    """Whether a parameter is a whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
