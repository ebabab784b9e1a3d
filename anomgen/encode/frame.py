"""The user's containers: one column at a time in as numbers or levels, and out again with the user's dtypes."""

from __future__ import annotations

import datetime
import decimal
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Name = str | int
# The stubs of pandas know no column of any type.
Series = Any

_UNITS = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}


@dataclass(frozen=True)
class Dtype:
    """How a column is stored, enough to store it the same way again.

    Parameters
    ----------
    role : {"number", "bool", "datetime", "duration", "category"}
        What its values are.
    text : str
        The dtype's name.
    unit : str
        Resolution of a date or duration: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``.
    zone : str or None
        Time zone of a date.
    levels : tuple
        The categories of a pandas categorical, in order; empty otherwise.
    ordered : bool
        Whether those categories are ordered.
    """

    role: str
    text: str
    unit: str = ""
    zone: str | None = None
    levels: tuple[Any, ...] = ()
    ordered: bool = False


def to_frame(x: Any) -> pd.DataFrame | None:
    """`x` as a pandas frame if it is a table with columns of its own (pandas, polars, Arrow), else None."""
    if isinstance(x, pd.DataFrame):
        return x
    if hasattr(x, "to_pandas") and hasattr(x, "schema"):
        frame: pd.DataFrame = x.to_pandas()
        return frame
    return None


def read_dtype(series: Series, name: Name) -> Dtype:
    """Describe the storage of a column.

    Raises
    ------
    TypeError
        For a column that holds neither numbers, dates, booleans nor levels.
    """
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        levels = tuple(_plain(level, name) for level in dtype.categories)
        return Dtype("category", "category", levels=levels, ordered=bool(dtype.ordered))
    if pd.api.types.is_bool_dtype(dtype):
        return Dtype("bool", str(dtype))
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"column {name!r}: complex data is not supported; split it into real and imaginary parts")
    if pd.api.types.is_numeric_dtype(dtype):
        return Dtype("number", str(dtype))
    for role, is_role in (("datetime", _is_datetime), ("duration", _is_duration)):
        if is_role(dtype):
            stamped = _stamps(series, role)
            zone = stamped.dt.tz if role == "datetime" else None
            return Dtype(role, str(dtype), unit=stamped.dt.unit, zone=None if zone is None else str(zone))
    if isinstance(dtype, pd.ArrowDtype) and str(dtype).startswith("date"):
        return Dtype("datetime", str(dtype), unit="s")
    if str(dtype).startswith("dictionary"):
        return Dtype("category", "dictionary[pyarrow]")
    if pd.api.types.is_string_dtype(dtype) and dtype != np.dtype(object):
        return Dtype("category", str(dtype))
    if dtype == np.dtype(object):
        return _read_object_dtype(series, name)
    raise TypeError(f"column {name!r} has dtype {dtype}, which is not supported; convert it or list it in exclude=")


def numbers(series: Series, dtype: Dtype, name: Name, first: int = 0) -> NDArray[np.float64]:
    """Values of a number, boolean, date or duration column as float64, NaN where missing, dates in seconds since 1970.

    `first` is the number of the first row, for messages.

    Raises
    ------
    ValueError
        If the column holds text, naming the column and the first row of it.
    """
    if dtype.role in ("datetime", "duration"):
        return _seconds(series, dtype, name)
    try:
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    except (ValueError, TypeError):
        parsed = pd.to_numeric(series.astype(object).where(series.notna(), None), errors="coerce")
        bad = np.flatnonzero(parsed.isna().to_numpy() & series.notna().to_numpy())
        if not len(bad):
            return np.asarray(parsed.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
        row = int(bad[0])
        raise ValueError(
            f"column {name!r} is numeric, but row {first + row} holds {series.iloc[row]!r} ({len(bad)} such values)"
        ) from None


def codes(series: Series, levels: tuple[Any, ...]) -> NDArray[np.int64]:
    """Position of every value in `levels`; -1 for an unseen one, -2 where missing."""
    values = series.astype(object).to_numpy()
    found = np.asarray(pd.Index(list(levels), dtype=object).get_indexer(pd.Index(values, dtype=object)), dtype=np.int64)
    found[series.isna().to_numpy()] = -2
    return found


def observed_levels(series: Series, dtype: Dtype, name: Name) -> list[Any]:
    """The distinct observed values of a level column: in category order where there is one, else sorted."""
    present = {_plain(value, name) for value in series.dropna().astype(object).unique()}
    if dtype.levels:
        return [level for level in dtype.levels if level in present]
    return sorted(present, key=lambda value: (type(value).__name__, value))


def build_series(values: NDArray[Any], dtype: Dtype) -> Series:
    """A column of `values` (float64 with NaN for missing, or objects with None) stored as `dtype` says.

    Whole numbers and booleans that are missing take pandas' nullable type where the plain one cannot hold a gap.
    """
    if dtype.role == "category":
        if dtype.text == "category":
            return pd.Series(pd.Categorical(values, categories=list(dtype.levels), ordered=dtype.ordered))
        if dtype.text == "dictionary[pyarrow]":
            import pyarrow as pa

            return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values).dictionary_encode()))
        return pd.Series(values, dtype=_pandas_dtype(dtype.text))
    missing = np.isnan(values)
    if dtype.role in ("datetime", "duration"):
        return _build_stamps(values, missing, dtype)
    if dtype.role == "bool":
        flags: Any = pd.array(np.where(missing, 0.0, values) != 0, dtype="boolean")
        return _store(flags, missing, _pandas_dtype(dtype.text))
    if "decimal" in dtype.text:
        return _build_decimals(values, missing, dtype)
    target = _pandas_dtype(dtype.text)
    if pd.api.types.is_integer_dtype(target):
        return _store(_whole(values, missing, target), missing, target)
    return pd.Series(values).astype(target)


def _store(nullable: Any, missing: NDArray[np.bool_], target: Any) -> Series:
    """A nullable array stored as `target`, unless that is a plain numpy type and something is missing."""
    if missing.any():
        nullable[missing] = pd.NA
        if isinstance(target, np.dtype) and target != np.dtype(object):
            return pd.Series(nullable)
    return pd.Series(nullable).astype(target)


def _whole(values: NDArray[Any], missing: NDArray[np.bool_], target: Any) -> Any:
    """Nearest whole numbers that the type can hold, as a nullable array."""
    plain = np.dtype(getattr(target, "numpy_dtype", target))
    bounds = np.iinfo(plain)
    # The largest float below 2**63 is 1024 less than it; a larger one would wrap to a negative integer.
    top = np.nextafter(float(bounds.max), 0) if bounds.max > 2**53 else float(bounds.max)
    whole = np.clip(np.rint(np.where(missing, 0.0, values)), float(bounds.min), top).astype(plain)
    name: Any = plain.name.replace("uint", "UInt") if plain.kind == "u" else plain.name.replace("int", "Int")
    return pd.array(whole, dtype=name)


def _build_decimals(values: NDArray[Any], missing: NDArray[np.bool_], dtype: Dtype) -> Series:
    arrow = dtype.text.endswith("[pyarrow]")
    places = int(dtype.text.split(",")[1].split(")")[0]) if arrow else None
    texts = [repr(float(v)) if places is None else f"{v:.{places}f}" for v in np.where(missing, 0.0, values)]
    exact = [None if gap else decimal.Decimal(text) for text, gap in zip(texts, missing, strict=True)]
    return pd.Series(exact, dtype=_pandas_dtype(dtype.text) if arrow else object)


def _read_object_dtype(series: Series, name: Name) -> Dtype:
    types = {type(value) for value in series.dropna()}
    if not types:
        return Dtype("number", "object")
    if types <= {bool, np.bool_}:
        return Dtype("bool", "object")
    if types <= {decimal.Decimal}:
        return Dtype("number", "decimal")
    if all(issubclass(kind, int | float | np.number | decimal.Decimal) for kind in types):
        return Dtype("number", "float64")
    if all(issubclass(kind, datetime.date | np.datetime64) for kind in types):
        stamps: Any = pd.to_datetime(series)
        zone = stamps.dt.tz
        text = "datetime" if any(issubclass(kind, datetime.datetime | np.datetime64) for kind in types) else "date"
        return Dtype("datetime", text, unit=stamps.dt.unit, zone=None if zone is None else str(zone))
    if all(issubclass(kind, str | bool | int | float) for kind in types):
        return Dtype("category", "object")
    worst = next(value for value in series.dropna() if not isinstance(value, str | bool | int | float))
    raise TypeError(
        f"column {name!r} holds a {type(worst).__name__} ({str(worst)[:40]}); a column must hold numbers, dates, "
        f"booleans or text levels: the argument must be a string or a number, or listed in exclude="
    )


def _plain(value: Any, name: Name) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"column {name!r} has a level of type {type(value).__name__} ({value!r}); convert it to text first")


def _is_datetime(dtype: Any) -> bool:
    return bool(pd.api.types.is_datetime64_any_dtype(dtype)) or str(dtype).startswith("timestamp")


def _is_duration(dtype: Any) -> bool:
    return bool(pd.api.types.is_timedelta64_dtype(dtype)) or str(dtype).startswith("duration")


def _stamps(series: Series, role: str) -> Series:
    return pd.to_datetime(series) if role == "datetime" else pd.to_timedelta(series)


def _seconds(series: Series, dtype: Dtype, name: Name) -> NDArray[np.float64]:
    try:
        if dtype.role == "datetime":
            stamps: Any = pd.Series(pd.to_datetime(pd.Series(series.array), utc=True))
        else:
            stamps = pd.to_timedelta(pd.Series(series.array))
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {name!r} holds dates in training, but not here: {error}") from None
    ticks = stamps.astype("int64").to_numpy()
    return np.where(stamps.isna().to_numpy(), np.nan, ticks / _UNITS[stamps.dt.unit])


def _build_stamps(values: NDArray[Any], missing: NDArray[np.bool_], dtype: Dtype) -> Series:
    ticks = np.rint(np.where(missing, 0.0, values) * _UNITS[dtype.unit])
    limit = float(2**63 - 1024)
    whole = np.clip(ticks, -limit, limit).astype(np.int64)
    kind = "M8" if dtype.role == "datetime" else "m8"
    stamps: Any = pd.Series(whole.view(f"{kind}[{dtype.unit}]")).mask(missing)
    if dtype.zone is not None:
        stamps = stamps.dt.tz_localize("UTC").dt.tz_convert(dtype.zone)
    if dtype.text in ("date", "datetime"):
        objects = [None if gap else stamp.to_pydatetime() for stamp, gap in zip(stamps, missing, strict=True)]
        return pd.Series([v.date() if v and dtype.text == "date" else v for v in objects], dtype=object)
    if dtype.text.startswith("date") and not dtype.text.startswith("datetime"):
        return stamps.dt.date.astype(dtype.text)
    return stamps.astype(dtype.text)


def _pandas_dtype(text: str) -> Any:
    if text.endswith("[pyarrow]") and text.startswith("decimal"):
        import pyarrow as pa

        bits, arguments = text.removesuffix("[pyarrow]").removeprefix("decimal").rstrip(")").split("(")
        precision, scale = (int(part) for part in arguments.split(","))
        return pd.ArrowDtype({"128": pa.decimal128, "256": pa.decimal256}[bits](precision, scale))
    return pd.api.types.pandas_dtype(text)
