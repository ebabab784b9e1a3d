"""Files that hold arrays rather than tables, read in pieces: npz and IDX."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data import idx, npz
from anomgen.data.files import ARRAYS, Place, size
from anomgen.data.npz import Stored

Array = NDArray[Any]

SKIPPED = 1 << 24
"""Bytes read at a time on the way to a row in the middle."""


def is_array(path: Place) -> bool:
    """Whether a file has the name of one that holds an array."""
    return path.name.endswith(ARRAYS)


def shape(path: Place) -> tuple[int, ...]:
    """Shape of the rows of `path`, read from their header alone."""
    if not size(path):
        raise ValueError("the file is empty")
    with _opened(path) as stored:
        found = stored.shape
    if len(found) < 2:
        raise ValueError(f"X has shape {found}: rows need at least one more dimension, only labels have one")
    return found


def chunks(
    path: Place, rows: int, columns: Sequence[Any] | None, first: int = 0, stop: int | None = None
) -> Iterator[Array]:
    """The rows `first` to `stop` of `path` in pieces; an array in Fortran order has to be read whole."""
    with _opened(path) as (stream, shape, dtype, fortran):
        width = math.prod(shape[1:]) * dtype.itemsize
        whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F") if fortran else None
        if whole is None and first:
            _skip(stream, first * width)
        last = shape[0] if stop is None else min(stop, shape[0])
        for start in range(first, last, rows):
            count = min(rows, last - start)
            lost = False
            if whole is not None:
                chunk = whole[start : start + count]
            else:
                content = stream.read(count * width)
                lost = len(content) < count * width
                count = len(content) // width if lost else count
                chunk = np.frombuffer(content[: count * width], dtype).reshape(count, *shape[1:])
            # Arrays of the machine's own byte order, which may be written to.
            chunk = chunk if columns is None else chunk[:, [int(column) for column in columns]]
            if len(chunk):
                yield chunk.astype(dtype.newbyteorder("="), order="C")
            if lost:
                raise ValueError(f"it ends in row {start + count:,} of {shape[0]:,}")
        if last == shape[0] and stream.read(1):
            raise ValueError("there are more bytes than the header of the array announces")


def check(path: Place) -> None:
    """Read an array in an archive to its end, where its checksum is compared.

    Raises
    ------
    ValueError, OSError, zipfile.BadZipFile
        If it is damaged.
    """
    if path.name.endswith(".npz"):
        with _opened(path) as (stream, *_):
            while stream.read(SKIPPED):
                pass


def is_packed(path: Place) -> bool:
    """Whether a row in the middle is reached only by unpacking those before it."""
    with _opened(path) as (stream, _, _, fortran):
        return fortran or path.suffix == ".gz" or _is_deflated(stream)


def label(path: Place, name: str) -> Array:
    """The labels `name` of the rows of `path`: an array of the npz file, or another IDX file of the same folder."""
    return npz.label(path, name) if path.name.endswith(".npz") else idx.label(path, name)


def _opened(path: Place) -> AbstractContextManager[Stored]:
    return npz.opened(path) if path.name.endswith(".npz") else idx.opened(path)


def _is_deflated(stream: IO[bytes]) -> bool:
    return isinstance(stream, zipfile.ZipExtFile) and stream._compress_type != zipfile.ZIP_STORED  # type: ignore[attr-defined]


def _skip(stream: IO[bytes], count: int) -> None:
    """Pass over bytes; those of an archive are read, which checks them."""
    if not isinstance(stream, io.BufferedReader):
        while count > 0 and (read := len(stream.read(min(count, SKIPPED)))):
            count -= read
    else:
        stream.seek(count, io.SEEK_CUR)
