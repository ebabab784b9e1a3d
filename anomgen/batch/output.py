"""The folder of a job: what it was begun with, whether it is this job's, and what may be removed from it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomgen.batch.chunks import Input
from anomgen.batch.errors import Interrupted, ModelMismatch
from anomgen.batch.manifest import FORMAT, MANIFEST, Manifest
from anomgen.batch.part import QUARANTINE
from anomgen.batch.plan import readable
from anomgen.batch.whole import PARTIAL, remove_partial
from anomgen.detector import Detector, state

SUMMARY = "_summary.json"
SUCCESS = "_SUCCESS"
"""An empty file, written last."""
FORMER = "_quarantine.csv"
"""What the bad images of a job were listed in before there were parts."""
COLUMNS = {"row", "source", "score", "is_anomaly"}
"""What every file of scores has."""


def describe_job(detector: Detector, inputs: Sequence[Input], job: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of a manifest: everything that the bytes of the scores follow from.

    Parameters
    ----------
    detector : Detector
    inputs : sequence of Input
    job : mapping
        The options that change what is written, as JSON values.
    """
    return {
        "format": FORMAT,
        "model": {
            "class": type(detector).__name__,
            "sha256": digest_of(detector),
            "data_digest": detector.data_digest_,
        },
        "versions": state.versions(),
        "job": dict(job),
        "inputs": [{"name": readable(one.name), "stem": readable(one.stem), **one.fingerprint()} for one in inputs],
    }


def digest_of(detector: Detector) -> str:
    """The sha256 of a fitted model: of its arrays and its configuration, wherever it came from or runs.

    The same before it is saved and after it is loaded. Versions, device and the history of the fit, which tells
    times, are not part of it.
    """
    config = state.to_config(detector, type(detector).__name__, type(detector.statistic_).__name__)
    del config["versions"], config["history"]
    config["params"].pop("device", None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, array in sorted(state.to_arrays(detector).items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other jobs out of a folder while a block runs; the folder is made. A kill ends that, too.

    Raises
    ------
    Interrupted
        If another job is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder for the scores")
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


def is_begun(folder: Path, header: Mapping[str, Any]) -> bool:
    """Whether a folder holds the scores of this very job, complete or not."""
    return (folder / MANIFEST).is_file() and Manifest.read(folder).header == header


def open_output(folder: Path, header: dict[str, Any], overwrite: bool) -> Manifest:
    """The manifest of a job in a folder: of a new one, or of this one as far as it came.

    Raises
    ------
    FileExistsError
        If the folder holds what is not ours, or scores without a manifest.
    ModelMismatch
        If it holds scores of another model, under other options or of other inputs, and `overwrite` is False.
    """
    found = sorted(folder.iterdir())
    manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() and not overwrite else None
    recorded = () if manifest is None else manifest.records
    foreign = [path for path in found if path.name not in recorded and not _is_ours(path)]
    if foreign:
        raise FileExistsError(f"{folder} holds {foreign[0].name}, which is not the output of a scoring job")
    if manifest is not None:
        if manifest.header == header:
            remove_partial(folder)
            return manifest
        if manifest.records:
            raise ModelMismatch(_difference(folder, manifest.header, header))
    elif not overwrite and any(path.suffix != PARTIAL for path in found):
        raise FileExistsError(
            f"{folder} holds the scores of an earlier job and no manifest to go on by; name another folder, or ask to "
            "overwrite"
        )
    _clear(folder, found)
    return Manifest.begin(folder, header)


def _clear(folder: Path, found: Sequence[Path]) -> None:
    """Remove the scores of an earlier job: first what says that they are complete, last what says whose they are."""
    (folder / SUCCESS).unlink(missing_ok=True)
    for path in sorted(found, key=lambda path: path.name == MANIFEST):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _difference(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What another job differs in, in words."""
    begun = f"{folder} holds the scores of another job"
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


def _is_ours(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.name in (MANIFEST, SUMMARY, SUCCESS, FORMER) or path.name.endswith(PARTIAL):
        return True
    if path.name == QUARANTINE and path.is_dir():
        return all(below.suffix in (".parquet", PARTIAL) for below in path.iterdir())
    try:
        return path.suffix == ".parquet" and set(pq.read_schema(path).names) >= COLUMNS
    except (pa.ArrowInvalid, OSError):
        return False
