"""The scoring job: files in, a folder of scores out, from where an earlier run of it was stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from anomgen import explain as explaining
from anomgen.batch.inputs import Input, Inputs, Mode, OnBad, open_inputs
from anomgen.batch.manifest import Manifest
from anomgen.batch.output import describe_job, open_output
from anomgen.batch.plan import make_plan, readable
from anomgen.batch.run import Log, Run
from anomgen.batch.schema import image_encoder
from anomgen.batch.scoring import RESULTS, Options
from anomgen.batch.summary import Summary
from anomgen.data import ImageFolder
from anomgen.data.remote import is_url
from anomgen.detector import Detector
from anomgen.families import load
from anomgen.jobs.folder import alone, is_begun
from anomgen.jobs.stopping import stopping

PART_ROWS = 262_144
"""Rows of a file of scores."""
ENGINES = {"local": "anomgen.batch.local", "ray": "anomgen.batch.ray"}
"""Modules with a function ``score_units``."""

Engine = Literal["local", "ray"]


def score_files(
    model: Detector | str | Path,
    inputs: Inputs,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    threshold: float | None = None,
    fdr: float | None = None,
    explain: int = 0,
    mode: Mode = None,
    maps: str | Path | None = None,
    chunk_rows: int = 65_536,
    part_rows: int = PART_ROWS,
    workers: int | None = None,
    engine: Engine = "local",
    on_bad_row: OnBad = "fail",
    max_bad_fraction: float = 0.5,
    fail_on_drift: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    log: Log | None = None,
) -> Summary:
    """Score files of any size, or folders of images, in constant memory, and go on where an earlier run was stopped.

    The scores of an input are in `out`, in Parquet files of about `part_rows` rows: ``<its name>-00000.parquet`` and so
    on, with the columns

    ================  ==============================================================================================
    ``row``           number of the row in its file, from 0
    ``source``        the file
    ``file``          of folders of images: the path of the image below the folder
    (of `keep`)       as they were, of the types they have in the file
    ``score``         nats; the higher, the more normal
    ``p_value``       if the detector is calibrated, see :meth:`anomgen.FlowDetector.calibrate`
    ``is_anomaly``    whether the score is below the threshold
    ``top_features``  with `explain`: names of the columns that contribute most to the anomaly
    ``selected``      with `fdr`: whether the row is reported at this false-discovery rate
    ================  ==============================================================================================

    Beside them are ``_manifest.ndjson`` (what the job is, which of its parts are done, their checksums),
    ``_quarantine/`` (a file for every part that has bad rows: source, row, column, reason, value), ``_summary.json``
    and, last of all, the empty file ``_SUCCESS``. Every file is complete when it appears under its name. But for
    ``_summary.json``, which tells times, no byte depends on `chunk_rows`, `workers`, `engine` or on how often the job
    was killed and started again.

    A job that is started again with the same model, inputs and options scores what is left, or nothing. Asked to stop
    by SIGTERM or Ctrl-C it finishes the part it is at.

    Parameters
    ----------
    model : Detector or path
        A fitted detector, or where one was saved.
    inputs : path, pattern, ImageFolder, or sequence of them
        Files, folders or patterns. Columns that the detector does not know are ignored. For a detector of images a
        folder that holds image files is read as these, resized as the training images were; image files named singly
        are scored together.
    out : path
        Folder for the scores; made if missing.
    keep : sequence of str
        Columns (arrays, in npz files) to copy into the output, such as an identifier or a label. A folder of images
        has ``"label"``, the sub-folder that an image lies in.
    threshold : float, optional
        Instead of the detector's own.
    fdr : float in (0, 1), optional
        Select rows of all inputs together, so that at most this share of them is expected to be normal: by
        Benjamini-Hochberg, in a second pass over the parts. Needs a calibrated detector.
    explain : int
        How many contributing columns to name, for families that can tell.
    mode : {"L", "RGB"}, optional
        Convert image files to grey or colour; see :class:`anomgen.data.ImageFolder`.
    maps : path, optional
        Folder for a PNG file of every image with its heat on top, see :func:`anomgen.explain.overlay`; with several
        inputs it gets a sub-folder for each. Files found there are only replaced with `overwrite`, or by the same job.
    chunk_rows : int
        Rows scored at a time; of images fewer, as memory asks for.
    part_rows : int
        Rows of a file of scores, and the most that a kill costs.
    workers : int, optional
        Threads that score, or actors of Ray; one for each core by default.
    engine : {"local", "ray"}
        Where rows are scored; ``"ray"`` needs the extra of that name.
    on_bad_row : {"fail", "quarantine", "skip"}
        What a row does that cannot be scored: end the job, or be left out and counted; under ``"quarantine"`` it is
        listed, too.
    max_bad_fraction : float
        The largest share of bad rows at which the job does not give up.
    fail_on_drift : float, optional
        The largest population stability index that is not `drifted`, in excess of what is expected without drift; it
        counts only where the shift is more than chance.
    overwrite : bool
        Begin anew: scores found in `out` are removed first, those of this very job too.
    progress : callable, optional
        Called with the number of rows of every chunk done.
    log : callable, optional
        Called with the name of an event and keyword arguments about it: ``begin``, ``part``, ``cutoff``, ``end``.

    Returns
    -------
    Summary

    Raises
    ------
    SchemaError
        Before the first row of any file is scored, naming file and columns that are missing or of another type.
    ModelMismatch
        If `out` holds scores of another model, under other options or of other inputs; a ``SchemaError``.
    ValueError
        If a cell cannot be read, naming file, row and column; if a file is named twice; or if `out` would be found
        among the inputs, or `maps` among the images.
    FileExistsError
        If `out` holds files that are not scores; likewise if `maps` holds anything.
    TooManyBadRows
        As soon as more than `max_bad_fraction` of at least 1,000 rows are bad, and at the end.
    Interrupted
        If the job was asked to stop before it was done, or another one is at work in `out`.
    """
    detector = model if isinstance(model, Detector) else load(model)
    limit = float(detector.offset_ if threshold is None else threshold)
    least = {"chunk_rows": (chunk_rows, 1), "part_rows": (part_rows, 1), "explain": (explain, 0)}
    _check_numbers({**least, "workers": (1 if workers is None else workers, 1)}, max_bad_fraction, engine)
    _check_options(detector, limit, keep, fdr)
    _check_abilities(detector, explain, fail_on_drift, maps is not None)
    if image_encoder(detector) is None:
        _check_apart(Path(out), inputs)
    opened = open_inputs(detector, inputs, keep, chunk_rows, mode, on_bad_row)
    chosen: dict[str, Any] = {"threshold": limit, "fdr": fdr, "explain": explain, "keep": list(keep), "mode": mode}
    drawn = None if maps is None else readable(str(maps))
    chosen |= {"part_rows": part_rows, "on_bad_row": on_bad_row, "maps": drawn}
    header = describe_job(detector, opened, chosen)
    if maps is not None:
        _check_maps(Path(maps), opened, overwrite or is_begun(Path(out), header, Manifest))
    folder = None if maps is None else str(maps)
    kept = {name: kind for one in reversed(opened) for name, kind in one.kept().items()}
    options = Options(limit, explain, on_bad_row == "quarantine", folder, several=len(opened) > 1, kept=kept)
    plan = make_plan(opened, part_rows)
    with alone(Path(out), "scores"), stopping() as stop:
        manifest = open_output(Path(out), header, overwrite)
        run = Run(detector, plan, Path(out), manifest, options, max_bad_fraction, log or _silent)
        run.score(import_module(ENGINES[engine]).score_units, workers, stop, progress)
        if fdr is not None:
            run.select(fdr, stop)
        return run.finish(fail_on_drift)


def _silent(*_: Any, **__: Any) -> None:
    pass


def _check_options(detector: Detector, limit: float, keep: Sequence[str], fdr: float | None) -> None:
    taken = [name for name in keep if name in RESULTS]
    if taken:
        raise ValueError(f"keep={list(keep)}: {taken[0]!r} is a column of the output already; rename it in the input")
    if not math.isfinite(limit):
        raise ValueError(f"threshold={limit} must be a finite number")
    if fdr is not None and not 0 < fdr < 1:
        raise ValueError(f"fdr={fdr!r} must be a number in (0, 1), such as 0.1")
    if fdr is not None and not hasattr(detector, "calibration_"):
        raise ValueError(
            "fdr= needs p-values, and the detector is not calibrated: call detector.calibrate(X_normal) with normal "
            "rows that it was not fitted to, and save it"
        )


def _check_abilities(detector: Detector, explain: int, drift: float | None, maps: bool) -> None:
    """Refuse what the detector cannot do, before the first row."""
    lacking = explaining.missing_for_columns(detector.model_, detector.encoder_) if explain else None
    if lacking:
        raise ValueError(f"explain={explain}: {type(detector).__name__} cannot tell columns apart: {lacking}")
    if drift is not None and not drift >= 0:
        raise ValueError(f"fail_on_drift={drift!r} must be a number of at least 0, such as 0.25")
    if drift is not None and getattr(detector, "reference_", None) is None:
        raise ValueError("fail_on_drift= needs a model that stores what its training rows were like; fit it again")
    if maps and image_encoder(detector) is None:
        raise ValueError("maps= are of images, and the detector was fitted on a table")


def _check_numbers(at_least: Mapping[str, tuple[int, int]], max_bad_fraction: float, engine: str) -> None:
    for name, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction={max_bad_fraction!r} must be in [0, 1]")
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} must be one of {', '.join(map(repr, ENGINES))}")


def _check_apart(out: Path, inputs: Inputs) -> None:
    """Refuse a folder of scores that is found among the inputs: started again, the job would read what it wrote."""
    here = out.resolve()
    for one in [inputs] if isinstance(inputs, str | Path | ImageFolder) else inputs:
        if isinstance(one, ImageFolder) or is_url(one):
            continue
        place, folders = Path(one).absolute(), (here, *here.parents)
        within = next((folder for folder in folders if folder == place.resolve() or folder.match(str(place))), None)
        # Names that begin so are passed over below a folder.
        if within and not any(part[0] in "._" for part in here.relative_to(within).parts):
            raise ValueError(
                f"out={str(out)!r} lies among the inputs {one}: started again, the job would read what it wrote; name "
                "another folder"
            )


def _check_maps(folder: Path, parts: Sequence[Input], overwrite: bool) -> None:
    """Refuse a folder where pictures would replace others, above all the images themselves."""
    here = folder.resolve()
    for part in parts:
        there = Path(part.name).resolve()
        if there.is_dir() and (here == there or here in there.parents or there in here.parents):
            raise ValueError(
                f"maps={str(folder)!r} and the images in {part.name} lie one in the other; name another folder"
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(
            f"{folder} exists and is not empty; name another folder for the maps, or ask to overwrite"
        )
