"""Rows of an npz file without unpickling, streamed where the file allows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def shape(path: Path) -> tuple[int, ...]:
    """Shape of the rows of `path`, read from their header alone."""
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with zipfile.ZipFile(path) as archive, archive.open(_member(archive)) as stream:
        found = _header(stream)[0]
    if len(found) < 2:
        raise ValueError(f"X has shape {found}: rows need at least one more dimension")
    return found


def chunks(path: Path, rows: int, columns: Sequence[Any] | None) -> Iterator[Array]:
    """The rows of `path` in pieces; an array in Fortran order has to be read whole."""
    with zipfile.ZipFile(path) as archive, archive.open(_member(archive)) as stream:
        shape, fortran, dtype = _header(stream)
        width = int(np.prod(shape[1:])) * dtype.itemsize
        whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F") if fortran else None
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            if whole is not None:
                chunk = whole[start : start + count]
            else:
                chunk = np.frombuffer(stream.read(count * width), dtype).reshape(count, *shape[1:])
            yield chunk.copy() if columns is None else chunk[:, [int(column) for column in columns]]
        if stream.read(1):
            raise ValueError("there are more bytes than the header of the array announces")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"arrays of npy version {version} are not read; save it with numpy.savez")
    shape, fortran, dtype = read[version](stream)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, which would have to be unpickled; save numbers")
    return shape, fortran, dtype


def _member(archive: zipfile.ZipFile) -> str:
    """The array ``X``, or the only one of two dimensions."""
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    if "X.npy" in members:
        return "X.npy"
    flat = []
    for name in members:
        with archive.open(name) as stream:
            if len(_header(stream)[0]) == 2:
                flat.append(name)
    if len(flat) != 1:
        names = [name.removesuffix(".npy") for name in members]
        raise ValueError(f"the rows must be in an array X, or in the only one of two dimensions; it has {names}")
    return flat[0]
