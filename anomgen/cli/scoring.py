"""The command ``score``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from anomgen.cli.exits import ALERT
from anomgen.cli.log import event
from anomgen.cli.models import load_saved, quiet
from anomgen.cli.options import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, SHARE, Flags, Mode
from anomgen.cli.output import print_facts, print_json, row_counter, share
from anomgen.cli.parameters import UsageError

if TYPE_CHECKING:
    from anomgen.batch import Summary


def score(
    model: str,
    /,
    *inputs: str,
    out: Path,
    label: str | None = None,
    normal: str = "0",
    keep: Annotated[list[str] | None, Parameter(negative="")] = None,
    threshold: float | None = None,
    fdr: Annotated[float | None, Parameter(validator=SHARE)] = None,
    explain: Annotated[int, Parameter(validator=NOT_NEGATIVE)] = 0,
    mode: Mode = None,
    maps: Path | None = None,
    on_bad_row: Literal["fail", "quarantine", "skip"] = "fail",
    max_bad_fraction: Annotated[float, Parameter(validator=FRACTION)] = 0.5,
    fail_on_drift: Annotated[float | None, Parameter(validator=NOT_NEGATIVE)] = None,
    fail_on_flagged: Annotated[float | None, Parameter(validator=FRACTION)] = None,
    engine: Literal["local", "ray"] = "local",
    workers: Annotated[int | None, Parameter(validator=AT_LEAST_ONE)] = None,
    chunk_rows: Annotated[int, Parameter(validator=AT_LEAST_ONE)] = 65_536,
    part_rows: Annotated[int, Parameter(validator=AT_LEAST_ONE)] = 262_144,
    overwrite: Annotated[bool, Flags] = False,
    track: Annotated[bool, Flags] = False,
    experiment: str | None = None,
    json: Annotated[bool, Flags] = False,
) -> int:
    """Score the rows of files, however large, into Parquet files of parts.

    A job that was killed goes on where it stopped when it is started again; one that is done does nothing.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    inputs
        CSV, NDJSON, Parquet, npz or IDX files, folders or patterns, here or at an address such as s3://bucket/folder;
        image files or folders of them for a model of images.
    out
        Folder for the scores.
    label
        Column that is a label: kept beside the scores, which are then judged by AUROC and AUPRC. A folder of images has
        one called label, its sub-folders.
    normal
        The label of normal rows.
    keep
        Column to copy beside the scores; may be repeated.
    threshold
        Flag rows that score lower, instead of by the model's own threshold.
    fdr
        Select rows of which at most this share is expected to be normal, in a second pass; for a calibrated model.
    explain
        Name so many columns beside each score: those that contribute most to how unlikely the row is.
    mode
        Convert image files to grey (L) or colour (RGB).
    maps
        Folder for a picture of every image that shows where it is unusual.
    on_bad_row
        Stop at a row that cannot be scored, or leave it out and list it (quarantine), or leave it out and count it.
    max_bad_fraction
        Stop with code 4 where more than this share of the rows is bad.
    fail_on_drift
        End with code 5, after the job is done, if a column or the score has drifted by more than this population
        stability index; 0.25 is the usual alarm.
    fail_on_flagged
        End with code 5, after the job is done, if more than this share of the rows is flagged.
    engine
        Score with threads of this process, or on a Ray cluster.
    workers
        Threads, or actors on the cluster, that score; by default as many as there are cores or GPUs.
    chunk_rows
        Rows held in memory at a time; changes no score.
    part_rows
        Rows of a part, about.
    overwrite
        Remove the scores of an earlier job first.
    track
        Log the summary, the drift and the digests of model and inputs to MLflow.
    experiment
        MLflow experiment; implies --track.
    json
        Print the summary as JSON.
    """
    if not inputs:
        raise UsageError("score: name at least one file to score")
    from anomgen.batch import evaluate, score_files

    kept = list(dict.fromkeys([*(keep or []), *([label] if label else [])]))
    detector = load_saved(model)
    with row_counter("scored") as progress:
        summary = score_files(
            detector,
            list(inputs),
            out,
            keep=kept,
            threshold=threshold,
            fdr=fdr,
            explain=explain,
            mode=mode,
            maps=maps,
            chunk_rows=chunk_rows,
            part_rows=part_rows,
            workers=workers,
            engine=engine,
            on_bad_row=on_bad_row,
            max_bad_fraction=max_bad_fraction,
            fail_on_drift=fail_on_drift,
            overwrite=overwrite,
            progress=progress,
            log=event,
        )
    quality = evaluate(out, label, normal) if label else None
    logged = _log_run(summary, model, out, experiment) if track or experiment else None
    if json:
        more = {"quality": quality, "run": logged}
        print_json({**asdict(summary), **{name: value for name, value in more.items() if value}})
    else:
        print_facts({**_facts(summary, quality, out, detector.statistic_.unit), "run": logged})
    return ALERT if _alarms(summary, fail_on_flagged) else 0


def _log_run(summary: Summary, model: str, out: Path, experiment: str | None) -> str:
    """The id of the run that holds what a job did."""
    from anomgen.tracking import log_job

    with quiet():
        return log_job(summary, model=model, out=str(out), experiment=experiment, run_name=out.name)


def _facts(summary: Summary, quality: Mapping[str, float] | None, out: Path, unit: str) -> dict[str, object]:
    """What a person wants to know of a job."""
    from anomgen.batch import QUARANTINE

    new = "all of it before" if summary.complete_before else f"{summary.rows_per_s:,.0f} rows/s"
    resumed = summary.resumed and not summary.complete_before
    where = f", see {out / QUARANTINE}" if (out / QUARANTINE).exists() else ""
    return {
        "scored": f"{summary.rows:,} rows, {new}",
        "done before": f"{summary.resumed:,} of {summary.parts:,} parts" if resumed else None,
        "flagged": share(summary.flagged, summary.rows),
        "selected": _selection(summary),
        "bad": f"{share(summary.bad, summary.seen)}{where}" if summary.bad else None,
        "threshold": f"{summary.threshold:.6g} {unit}".rstrip(),
        "median score": f"{summary.quantiles['0.5']:.6g} {unit}".rstrip() if summary.quantiles else None,
        "drift": _drift(summary),
        "AUROC": f"{quality['auroc']:.4f}" if quality else None,
        "AUPRC": f"{quality['auprc']:.4f}" if quality else None,
        "caught": f"{quality['recall']:.1%} of the anomalies" if quality else None,
        "scores": out,
    }


def _selection(summary: Summary) -> str | None:
    if summary.selected is None:
        return None
    return f"{share(summary.selected, summary.rows)}, p-values up to {summary.p_cutoff:.3g}"


def _drift(summary: Summary) -> str | None:
    """What has moved farthest from the training rows, a column or the score."""
    if summary.drift is None:
        return None
    score = summary.drift["score"]
    shifts = {**summary.drift["columns"], **({"the score": score} if score else {})}
    worst = max(shifts, key=lambda name: shifts[name]["psi"] - shifts[name]["expected"])
    if not shifts[worst]["significant"]:
        return "none beyond chance"
    return f"{worst} most, by an index of {shifts[worst]['psi']:.3f}"


def _alarms(summary: Summary, fail_on_flagged: float | None) -> bool:
    """Whether the job is to end as an alert; says why."""
    most = 1.0 if fail_on_flagged is None else fail_on_flagged
    flagged = summary.flagged > most * summary.rows
    if flagged:
        text = f"{share(summary.flagged, summary.rows)} rows are flagged, more than --fail-on-flagged {most}"
        event("alert", level=logging.WARNING, flagged=summary.flagged, rows=summary.rows, message=text)
    if summary.drifted:
        text = f"drift is more than --fail-on-drift: {_drift(summary)}"
        event("drift", level=logging.WARNING, drift=summary.drift, message=text)
    return flagged or summary.drifted
