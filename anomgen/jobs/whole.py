"""Files that appear whole: written beside their place, on the disk before they get their name."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""Ending of a file that is being written; its name begins with a dot."""

SYNCED = 16
"""Files of a folder that the disk is asked to hold at a time: it takes them together, many times faster."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a hidden file or folder beside `path`, and give it that name when it is complete."""
    with arriving(path) as place:
        write(place)


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """A hidden place beside `path`, which gets that name if the block ends well and is removed otherwise."""
    place = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield place
        if place.is_dir():
            with ThreadPoolExecutor(SYNCED) as pool:
                list(pool.map(sync, place.iterdir()))
        sync(place)
        place.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a folder has."""
    opened = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems know no such thing for folders.
        with suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)


def remove_partial(folder: Path) -> None:
    """Remove what a killed job was writing in a folder and the folders below."""
    for place in sorted(folder.rglob(f".*{PARTIAL}")):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
