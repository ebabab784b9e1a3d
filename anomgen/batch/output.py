"""The folder of a scoring job: what the scores follow from, and what such a job writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomgen.batch.chunks import Input
from anomgen.batch.manifest import Manifest
from anomgen.batch.part import QUARANTINE
from anomgen.batch.plan import readable
from anomgen.detector import Detector, state
from anomgen.jobs.folder import open_folder
from anomgen.jobs.manifest import FORMAT
from anomgen.jobs.whole import PARTIAL

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
        "model": state.identity(detector),
        "versions": state.versions(),
        "job": dict(job),
        "inputs": [{"name": readable(one.name), "stem": readable(one.stem), **one.fingerprint()} for one in inputs],
    }


def open_output(folder: Path, header: dict[str, Any], overwrite: bool) -> Manifest:
    """The manifest of a job in a folder: of a new one, or of this one as far as it came.

    Raises
    ------
    FileExistsError
        If the folder holds what is not ours, or scores without a manifest.
    ModelMismatch
        If it holds scores of another model, under other options or of other inputs, and `overwrite` is False.
    """
    return open_folder(folder, header, Manifest, _is_ours, "a scoring job", overwrite)


def _is_ours(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.name == FORMER:
        return True
    if path.name == QUARANTINE and path.is_dir():
        return all(below.suffix in (".parquet", PARTIAL) for below in path.iterdir())
    try:
        return path.suffix == ".parquet" and set(pq.read_schema(path).names) >= COLUMNS
    except (pa.ArrowInvalid, OSError):
        return False
