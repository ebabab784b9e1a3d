"""Hashes of rows by their values, whatever types hold them: what is equal to a reader is equal here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.calibrate.conformal import mixed
from anomgen.encode import Labelled, is_images, is_source
from anomgen.encode.frame import to_frame
from anomgen.encode.image import as_array

Hashes = NDArray[np.uint64]

READ = 1024
"""Images of a source read at a time."""
BLOCK = 1 << 20
"""Numbers hashed at a time."""
MISSING = np.array([np.nan]).view(np.uint64)[0]
"""The word of a missing value of any type."""


@dataclass(frozen=True)
class Words:
    """The values of one column as words of 64 bits.

    Parameters
    ----------
    name : str
    kind : {"number", "time", "text"} or None
        None where every value is missing.
    words : ndarray of uint64, shape (n,)
        Of numbers the bits of 64-bit floats, of times microseconds, of texts hashes.
    """

    name: str
    kind: str | None
    words: Hashes


def pieces(rows: Any) -> Iterator[Any]:
    """Rows in frames and arrays: a table or images as they are, a source in pieces, what comes in chunks one by one."""
    if isinstance(rows, Labelled):
        yield from pieces(rows.images)
    elif is_source(rows):
        yield from (rows[start : start + READ] for start in range(0, len(rows), READ))
    elif callable(getattr(rows, "chunks", None)):
        yield from rows.chunks()
    elif hasattr(rows, "__next__"):
        yield from rows
    else:
        yield rows


def columns_of(rows: Any, wanted: tuple[str, ...] | None = None) -> list[Words]:
    """The columns of a table, those `wanted` or all; the columns of an array are ``x0``, ``x1`` ...

    Raises
    ------
    ValueError
        If a wanted column is missing, or one appears more than once, naming it.
    """
    frame = to_frame(rows)
    if frame is None:
        array = np.asarray(rows)
        if array.ndim != 2:
            raise ValueError(f"rows have shape {array.shape}: a table has two dimensions, images have three or four")
        frame = pd.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])], copy=False)
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        repeated = next(name for j, name in enumerate(names) if name in names[:j])
        raise ValueError(f"column {repeated!r} appears more than once; give every column its own name")
    named = {name: j for j, name in enumerate(names)}
    for name in wanted or ():
        if name not in named:
            raise ValueError(f"there is no column {name!r} to compare; name those that both have in columns=")
    return [words_of(frame.iloc[:, named[name]], name) for name in wanted or named]


def words_of(column: Any, name: str) -> Words:
    """The words of one column; numbers, times and texts are equal by value, categories by their levels."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        levels = words_of(pd.Series(dtype.categories), name)
        return Words(name, levels.kind, _taken(levels.words, column.cat.codes.to_numpy()))
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"column {name!r}: complex data is not supported; split it into real and imaginary parts")
    if pd.api.types.is_numeric_dtype(dtype):
        return _numbers(column, name)
    text = str(dtype)
    if text.startswith(("datetime", "timestamp", "timedelta", "duration", "date32", "date64")):
        return _times(column, name)
    codes, found = pd.factorize(column.astype(object), use_na_sentinel=True)
    levels = _objects(np.asarray(found, dtype=object), name)
    return Words(name, levels.kind, _taken(levels.words, codes))


def row_hashes(columns: list[Words]) -> Hashes:
    """One hash of 64 bits a row; the order of the columns does not count, their names do."""
    total = np.zeros(len(columns[0].words) if columns else 0, dtype=np.uint64)
    for column in columns:
        total += mixed(column.words) * _factor(column.name)
    return mixed(total)


def image_hashes(images: Any) -> Hashes:
    """One hash of 64 bits an image, of its pixel values in their order."""
    array = as_array(images)
    flat = array.reshape(len(array), -1)
    factors = mixed(np.arange(flat.shape[1], dtype=np.uint64)) | np.uint64(1)
    height = max(BLOCK // max(math.prod(flat.shape[1:]), 1), 1)
    parts = [
        mixed((mixed(_bits(flat[start : start + height])) * factors).sum(axis=1, dtype=np.uint64))
        for start in range(0, len(flat), height)
    ]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def holds_images(rows: Any) -> bool:
    """Whether a piece of rows holds images."""
    return is_images(rows)


def _factor(name: str) -> np.uint64:
    """An odd number of a column, so that equal values in two columns do not cancel."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1)


def _bits(numbers: Any) -> Hashes:
    """Numbers as the bits of 64-bit floats; one zero, and one missing value."""
    values = np.array(numbers, dtype=np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)


def _numbers(column: Any, name: str) -> Words:
    words = _bits(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return Words(name, _kind("number", words), words)


def _times(column: Any, name: str) -> Words:
    values: Any = pd.Series(column.array)
    if str(values.dtype).startswith(("timedelta", "duration")):
        found: Any = pd.to_timedelta(values)
    else:
        found = pd.to_datetime(values, utc=True)
    ticks = found.dt.as_unit("us").astype("int64").to_numpy().astype(np.uint64)
    words = np.where(found.isna().to_numpy(), MISSING, ticks)
    return Words(name, _kind("time", words), words)


def _objects(found: NDArray[Any], name: str) -> Words:
    """The words of distinct Python objects: numbers and times as such, everything else by its text."""
    looks = pd.api.types.infer_dtype(found, skipna=True)
    series = pd.Series(found, dtype=object)
    if looks in ("integer", "floating", "boolean", "decimal", "mixed-integer-float"):
        return _numbers(series.astype(np.float64), name)
    if looks in ("datetime", "datetime64", "date", "timedelta", "timedelta64"):
        return _times(pd.to_timedelta(series) if "delta" in looks else pd.to_datetime(series), name)
    words = pd.util.hash_array(series.astype(str).to_numpy(dtype=object), categorize=False)
    return Words(name, _kind("text", words), words)


def _kind(kind: str, words: Hashes) -> str | None:
    return kind if (words != MISSING).any() else None


def _taken(words: Hashes, codes: NDArray[Any]) -> Hashes:
    """The words of levels by their positions, -1 where missing."""
    return np.append(words, MISSING)[codes.astype(np.int64)]
