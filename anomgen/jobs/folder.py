"""The folder of a job: what it was begun with, whether it is this job's, and what may be removed from it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from anomgen.jobs.errors import Interrupted, ModelMismatch
from anomgen.jobs.manifest import MANIFEST, Manifest
from anomgen.jobs.whole import PARTIAL, remove_partial, write_whole

SUMMARY = "_summary.json"
SUCCESS = "_SUCCESS"
"""An empty file, written last."""
OWN = (MANIFEST, SUMMARY, SUCCESS)
"""What a job writes beside its parts."""

M = TypeVar("M", bound=Manifest[Any])


@contextmanager
def alone(folder: Path, what: str = "output") -> Iterator[None]:
    """Keep other jobs out of a folder while a block runs; the folder is made. A kill ends that, too.

    Raises
    ------
    Interrupted
        If another job is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder for the {what}")
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise Interrupted(f"another job is at work in {folder}; start this one again when that has ended") from None
    except OSError:
        # A file system that knows no locks.
        pass
    try:
        yield
    finally:
        os.close(opened)


def is_begun(folder: Path, header: Mapping[str, Any], kind: type[Manifest[Any]]) -> bool:
    """Whether a folder holds the output of this very job, complete or not."""
    return (folder / MANIFEST).is_file() and kind.read(folder).header == header


def open_folder(
    folder: Path,
    header: dict[str, Any],
    kind: type[M],
    is_ours: Callable[[Path], bool],
    whose: str,
    overwrite: bool,
) -> M:
    """The manifest of a job in a folder: of a new one, or of this one as far as it came.

    Parameters
    ----------
    folder : Path
        Exists.
    header : dict
    kind : type of Manifest
    is_ours : callable
        Whether a file or folder found there, which no manifest names, was written by such a job all the same.
    whose : str
        Such a job in words, as in "is not the output of a scoring job".
    overwrite : bool
        Begin anew.

    Raises
    ------
    FileExistsError
        If the folder holds what is not ours, or output without a manifest.
    ModelMismatch
        If it holds what another model, other options or other inputs gave, and `overwrite` is False.
    """
    found = sorted(folder.iterdir())
    manifest = kind.read(folder) if (folder / MANIFEST).is_file() and not overwrite else None
    recorded = () if manifest is None else manifest.records
    foreign = [path for path in found if path.name not in recorded and not _is_ours(path, is_ours)]
    if foreign:
        raise FileExistsError(f"{folder} holds {foreign[0].name}, which is not the output of {whose}")
    if manifest is not None:
        if manifest.header == header:
            remove_partial(folder)
            return manifest
        if manifest.records:
            raise ModelMismatch(_difference(f"{folder} holds the {kind.what} of another job", manifest.header, header))
    elif not overwrite and any(path.suffix != PARTIAL for path in found):
        raise FileExistsError(
            f"{folder} holds the {kind.what} of an earlier job and no manifest to go on by; name another folder, or "
            "ask to overwrite"
        )
    _clear(folder, found)
    return kind.begin(folder, header)


def close_folder(folder: Path, summary: str) -> None:
    """Write the summary, then say that the job is complete."""
    write_whole(folder / SUMMARY, lambda path: path.write_text(summary, encoding="utf-8"))
    write_whole(folder / SUCCESS, lambda path: path.touch())


def _is_ours(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    return path.name in OWN or path.name.endswith(PARTIAL) or is_ours(path)


def _clear(folder: Path, found: Sequence[Path]) -> None:
    """Remove what an earlier job wrote: first what says that it is complete, last what says whose it is."""
    (folder / SUCCESS).unlink(missing_ok=True)
    for path in sorted(found, key=lambda path: path.name == MANIFEST):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _difference(begun: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What another job differs in, in words."""
    remedy = "name another folder, or ask to overwrite"
    for key, is_what in (("model", "model"), ("job", "option"), ("versions", "version of")):
        was, has = before.get(key, {}), now[key]
        names = [name for name in has if was.get(name) != has[name]]
        if key == "model" and names:
            return f"{begun}: its model has sha256 {was.get('sha256')}, this one {has['sha256']}; {remedy}"
        if names:
            one = names[0]
            return f"{begun}: its {is_what} {one} was {was.get(one)!r} and is {has[one]!r} now; {remedy}"
    known = {json.dumps(one, sort_keys=True) for one in before.get("inputs", [])}
    other = [one["name"] for one in now["inputs"] if json.dumps(one, sort_keys=True) not in known]
    which = f"{other[0]} has changed or was not among its inputs" if other else "its inputs were others"
    return f"{begun}: {which}; {remedy}"
