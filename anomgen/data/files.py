"""Which files a path stands for, and errors that name theirs."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Paths = str | Path | Sequence[str | Path]

TABLES = (".parquet", ".pq", ".csv", ".csv.gz")
ARRAYS = (".npz", ".idx", ".idx.gz", "-ubyte", "-ubyte.gz")
SUFFIXES = TABLES + ARRAYS

PROBED = 1 << 20
"""Bytes of the two ends of a file that tell it from another."""


def find_files(path: Paths) -> list[Path]:
    """The files that a path, a folder, a pattern or a sequence of them stands for, in the order they are read.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If a file is of an unknown kind.
    """
    if not isinstance(path, str | Path):
        return [file for one in path for file in find_files(one)]
    place = Path(path)
    if place.is_dir():
        below = sorted(file for file in place.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
        files = [file for file in below if not any(part[0] in "._" for part in file.relative_to(place).parts)]
        if not files:
            raise FileNotFoundError(f"the folder {place} holds no {', '.join(SUFFIXES)} file")
        return files
    if place.is_file():
        if not place.name.endswith(SUFFIXES):
            raise ValueError(f"{place}: unknown kind of file; known are {', '.join(SUFFIXES)}")
        return [place]
    found = sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
    if not found:
        raise FileNotFoundError(f"there is no file {place}")
    return [file for one in found for file in find_files(one)]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into a ValueError that names the file, and the row where the reader gives it."""
    try:
        yield
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # Arrow counts the header as row 1
        text = re.sub(r"Row #(\d+)", lambda match: f"row {int(match[1]) - 1:,}", str(error))
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error


def several(files: Sequence[Path]) -> str:
    """Files in a few words."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def is_parquet(path: Path) -> bool:
    """Whether a file has the name of a Parquet file."""
    return path.name.endswith((".parquet", ".pq"))


def fingerprint(path: Path) -> dict[str, Any]:
    """The size of a file and what its bytes tell it by: the footer of a Parquet file, else its first and last MiB."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        tail = file.read()
        footer = int.from_bytes(tail[:4], "little") + 8 if is_parquet(path) and tail.endswith(b"PAR1") else 0
        digest = hashlib.sha256()
        if not footer:
            file.seek(0)
            digest.update(file.read(PROBED))
        file.seek(max(size - (footer or PROBED), 0))
        digest.update(file.read())
    return {"size": size, "sha256": digest.hexdigest()}
