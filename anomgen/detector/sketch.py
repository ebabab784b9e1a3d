"""Which rows a model was fitted to, told by hashes: a digest of all, and a sample by which single rows are known again.

The sample is the smallest hashes of the distinct rows: rows of another table whose hash is as small are training rows
exactly if their hash is among them, whatever the order and number of rows.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.calibrate.conformal import mixed
from anomgen.detector.checks import data_digest
from anomgen.encode import Labelled, is_source
from anomgen.encode.image import as_array

Hashes = NDArray[np.uint64]

SIZE = 4096
"""Hashes kept."""
READ = 1024
"""Images of a source read at a time."""
BLOCK = 1 << 20
"""Numbers hashed at a time."""
LEAST = 3
"""Rows met again below which nothing is said: a few rows may be equal by chance."""
TOLERATED = 0.1
"""Share of calibration rows that may be training rows before it is said."""


def identity(x: Any, columns: int) -> tuple[str, Hashes]:
    """Digest and smallest hashes of rows, read once; of tables, the first `columns` columns are hashed.

    The others are labels beside the rows, which calibration rows may come without.
    """
    if isinstance(x, Labelled):
        digest, hashes = identity(x.images, columns)
        return _digest_of([digest, data_digest(x.labels)]), hashes
    if is_source(x):
        parts = [identity(x[start : start + READ], columns) for start in range(0, len(x), READ)]
        return _digest_of([digest for digest, _ in parts]), smallest(*(hashes for _, hashes in parts))
    return data_digest(x), smallest(row_hashes(x.iloc[:, :columns] if isinstance(x, pd.DataFrame) else x))


def row_hashes(x: Any) -> Hashes:
    """A hash of 64 bits of every row, of tables by their values whatever their type, of images by their bytes."""
    if isinstance(x, pd.DataFrame):
        sums = np.zeros(len(x), dtype=np.uint64)
        for j, factor in enumerate(_factors(x.shape[1])):
            sums += mixed(_words(x.iloc[:, j])) * factor
        return mixed(sums)
    array = as_array(x)
    words = _bits if array.ndim == 2 else _pixel_words
    height = max(BLOCK // max(math.prod(array.shape[1:]), 1), 1)
    parts = [_mixed_sums(words(array[start : start + height])) for start in range(0, len(array), height)]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def smallest(*hashes: Hashes) -> Hashes:
    """The smallest distinct ones among all, in rising order: the sample of rows that came in several pieces."""
    # Several times faster than `np.unique` on millions.
    ordered = np.sort(np.concatenate(hashes))
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[first][:SIZE])


def met_again(kept: Hashes, hashes: Hashes) -> float:
    """Share of the distinct rows among `hashes` that are known to be those of `kept`; 0 where too few can be judged."""
    own = np.unique(hashes)
    judged = own[own <= kept[-1]] if len(kept) == SIZE else own
    again = int(np.isin(judged, kept).sum())
    return again / len(judged) if again >= LEAST else 0.0


def _pixel_words(images: NDArray[Any]) -> Hashes:
    """The bytes of images, eight at a time."""
    flat = np.ascontiguousarray(images.reshape(len(images), -1))
    size = flat.shape[1] * flat.itemsize
    padded = np.zeros((len(flat), -(-size // 8) * 8), dtype=np.uint8)
    padded[:, :size] = flat.view(np.uint8).reshape(len(flat), size)
    return padded.view(np.uint64)


def _mixed_sums(words: Hashes) -> Hashes:
    return mixed((mixed(words) * _factors(words.shape[1])).sum(axis=1, dtype=np.uint64))


def _factors(n: int) -> Hashes:
    """Odd numbers, one a column, so that the place of a value counts."""
    return mixed(np.arange(n, dtype=np.uint64)) | np.uint64(1)


def _bits(numbers: Any) -> Hashes:
    """Numbers as the bits of 64-bit floats; one zero, and one missing value."""
    values = np.array(numbers, dtype=np.float64) + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)


def _words(column: Any) -> Hashes:
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        return _bits(column.to_numpy(dtype=np.float64, na_value=np.nan))
    plain = column.astype(str) if column.dtype == object else column
    return np.asarray(pd.util.hash_pandas_object(plain, index=False).to_numpy(), dtype=np.uint64)


def _digest_of(parts: list[str]) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()
