"""Which files a path stands for, what their folders say, and errors that name them."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from anomgen.data.remote import Remote, is_url, matching, remote

Paths = str | Path | Sequence[str | Path]
Place = Path | Remote

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz")
NDJSON = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
TABLES = PARQUET + CSV + NDJSON
ARRAYS = (".npz", ".idx", ".idx.gz", "-ubyte", "-ubyte.gz")
SUFFIXES = TABLES + ARRAYS

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Name of the folder of rows in which the column of a partition is missing."""
PROBED = 1 << 20
"""Bytes of the two ends of a file that tell it from another."""
DAMAGES = (
    *(ValueError, OSError, EOFError, LookupError, zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, MemoryError, TypeError, OverflowError, SyntaxError),
)
"""What the readers of files raise when these are damaged.

Beyond the usual ones: zipfile has a NotImplementedError for a compression it does not know and a RuntimeError for an
entry that needs a password; numpy has a TypeError, an OverflowError or a SyntaxError for a header without sense, and a
MemoryError for one that announces more than there can be.
"""


class Found(NamedTuple):
    """A file, and the columns that the folders between it and the path that was asked for are named by."""

    place: Place
    partitions: dict[str, str | None]


def find_files(path: Paths) -> list[Place]:
    """The files that a path, a folder, a pattern or a sequence of them stands for, in the order they are read.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If a file is of an unknown kind.
    """
    return [found.place for found in find(path)]


def find(path: Paths) -> list[Found]:
    """As :func:`find_files`, with the columns that folders such as ``day=2026-03-01`` give."""
    if not isinstance(path, str | Path):
        return [found for one in path for found in find(one)]
    if is_url(path):
        return _find_remote(str(path))
    place = Path(path)
    if place.is_dir():
        return [Found(file, partitions(file, place)) for file in _below(place)]
    if place.is_file():
        return [Found(_known(place), {})]
    found = sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
    if not found:
        raise FileNotFoundError(f"there is no file {place}")
    root = _fixed(place)
    files = [file for one in found for file in (_below(one) if one.is_dir() else [_known(one)])]
    return [Found(file, partitions(file, root)) for file in files]


def partitions(place: Place, root: Place | None = None) -> dict[str, str | None]:
    """Columns by the names of the folders that a file lies in, ``key=value``; those below `root`, or all."""
    below = str(place).removeprefix("" if root is None else str(root))
    pairs = (part.partition("=") for part in below.split("/")[:-1])
    return {unquote(key): None if value == NO_VALUE else unquote(value) for key, sign, value in pairs if key and sign}


def _below(folder: Path) -> list[Path]:
    below = sorted(file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    return _visible([(file, file.relative_to(folder).parts) for file in below], folder)


def _visible(files: list[tuple[Any, Sequence[str]]], folder: Place) -> list[Any]:
    found = [file for file, parts in files if not any(part[0] in "._" for part in parts)]
    if not found:
        raise FileNotFoundError(f"the folder {folder} holds no {', '.join(SUFFIXES)} file")
    return found


def _find_remote(url: str) -> list[Found]:
    if re.search(r"[*\[]", url):
        root, files = remote(re.split(r"[*\[]", url, maxsplit=1)[0].rpartition("/")[0]), matching(url)
        if not files:
            raise FileNotFoundError(f"there is no file {url}")
        return [Found(_known(file), partitions(file, root)) for file in files]
    place = remote(url)
    if place.is_dir():
        start = len(place.path.rstrip("/")) + 1
        named = [file for file in place.below() if file.name.endswith(SUFFIXES)]
        files = _visible([(file, file.path[start:].split("/")) for file in named], place)
        return [Found(file, partitions(file, place)) for file in files]
    if not place.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    return [Found(_known(place), {})]


def _known(place: Place) -> Any:
    if not place.name.endswith(SUFFIXES):
        raise ValueError(f"{place}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    return place


def _fixed(pattern: Path) -> Path:
    """The folder before the first part of a pattern that matches several names."""
    parts = pattern.parts
    wild = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return Path(*parts[:wild])


@contextmanager
def naming(place: Place) -> Iterator[None]:
    """Turn whatever a reader raises into a ValueError that names the file."""
    try:
        yield
    except DAMAGES as error:
        text = str(error) or type(error).__name__
        raise ValueError(text if str(place) in text else f"{place}: {text}") from error


def several(files: Sequence[Place]) -> str:
    """Files in a few words."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def is_parquet(place: Place) -> bool:
    """Whether a file has the name of a Parquet file."""
    return place.name.endswith(PARQUET)


def is_csv(place: Place) -> bool:
    """Whether a file has the name of a CSV file."""
    return place.name.endswith(CSV)


def is_ndjson(place: Place) -> bool:
    """Whether a file has the name of a file of one JSON object a line."""
    return place.name.endswith(NDJSON)


def size(place: Place) -> int:
    """Bytes of a file."""
    with place.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def stream(place: Place) -> Any:
    """The bytes of a file in order, unpacked where its name says that they are packed."""
    import pyarrow as pa

    return place.stream() if isinstance(place, Remote) else pa.input_stream(str(place), compression="detect")


def fingerprint(place: Place) -> dict[str, Any]:
    """The size of a file and a digest of its first and last MiB, of a Parquet file of its whole footer."""
    with place.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - 8, 0))
        tail = file.read()
        footer = int.from_bytes(tail[:4], "little") + 8 if is_parquet(place) and tail.endswith(b"PAR1") else 0
        file.seek(0)
        digest = hashlib.sha256(file.read(PROBED))
        file.seek(max(length - max(footer, PROBED), 0))
        digest.update(file.read())
    return {"size": length, "sha256": digest.hexdigest()}
