"""The array of rows in an npz file, without unpickling."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomgen.data.files import Place


class Stored(NamedTuple):
    """An array in a file that is open at its first number."""

    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


@contextmanager
def opened(path: Place) -> Iterator[Stored]:
    """The array of rows in `path`: see :func:`_member`."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open(_member(archive)) as stream:
        yield _stored(stream)


def label(path: Place, name: str) -> NDArray[Any]:
    """The array `name`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        if name not in stored:
            raise ValueError(f"there is no array {name!r} among {sorted(stored)}")
        found: NDArray[Any] = stored[name]
        return found


def _stored(stream: IO[bytes]) -> Stored:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"arrays of npy version {version} are not read; save it with numpy.savez")
    shape, fortran, dtype = read[version](stream)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, which would have to be unpickled; save numbers")
    return Stored(stream, shape, dtype, fortran)


def _member(archive: zipfile.ZipFile) -> str:
    """The array ``X``, else ``images``, else the only one of two dimensions, else the only one of more."""
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    named = next((name for name in ("X.npy", "images.npy") if name in members), None)
    if named:
        return named
    dimensions = {}
    for name in members:
        with archive.open(name) as stream:
            dimensions[name] = len(_stored(stream).shape)
    flat = [name for name, count in dimensions.items() if count == 2]
    rows = flat or [name for name, count in dimensions.items() if count > 2]
    if len(rows) != 1:
        names = [name.removesuffix(".npy") for name in members]
        raise ValueError(
            f"the rows must be in an array X, or images, or in the only one of two or more dimensions; it has {names}"
        )
    return rows[0]
