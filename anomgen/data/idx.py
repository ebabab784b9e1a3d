"""The array in an IDX file, the format that MNIST came in, plain or compressed by gzip.

Two zero bytes, one for the type, one for the number of dimensions, each dimension in four bytes, then the numbers in C
order; all big-endian (LeCun, Cortes, Burges, *The MNIST database of handwritten digits*).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from anomgen.data.files import Place
from anomgen.data.npz import Stored

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@contextmanager
def opened(path: Place) -> Iterator[Stored]:
    """The array in `path`."""
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else nullcontext(raw) as file:
        stream = cast("IO[bytes]", file)
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES:
            raise ValueError("it is no IDX file: its first bytes are not those of one")
        sides = stream.read(4 * head[3])
        if len(sides) < 4 * head[3]:
            raise ValueError("the IDX file is cut off in its header")
        yield Stored(stream, struct.unpack(f">{head[3]}I", sides), np.dtype(TYPES[head[2]]), False)


def label(path: Place, name: str) -> NDArray[Any]:
    """The numbers in the IDX file `name` beside `path`."""
    if not (path.parent / name).is_file():
        raise ValueError(f"its labels must be an IDX file beside it, and there is none called {name!r}")
    with opened(path.parent / name) as (stream, shape, dtype, _):
        if len(shape) != 1:
            raise ValueError(f"{name} has shape {shape}: labels have one dimension")
        return np.frombuffer(stream.read(), dtype).astype(dtype.newbyteorder("="))
