"""The command ``score``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from anomgen.cli.log import event
from anomgen.cli.models import load_saved
from anomgen.cli.options import AT_LEAST_ONE, Flags, Mode
from anomgen.cli.output import print_facts, row_counter, share
from anomgen.cli.parameters import UsageError


def score(
    model: str,
    /,
    *inputs: str,
    out: Path,
    label: str | None = None,
    normal: str = "0",
    keep: Annotated[list[str] | None, Parameter(negative="")] = None,
    threshold: float | None = None,
    mode: Mode = None,
    maps: Path | None = None,
    chunk_rows: Annotated[int, Parameter(validator=AT_LEAST_ONE)] = 65_536,
    on_bad_row: Literal["fail", "quarantine", "skip"] = "fail",
    overwrite: Annotated[bool, Flags] = False,
) -> None:
    """Score the rows of files, however large, into Parquet files; started again, go on where it was stopped.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    inputs
        CSV, Parquet, npz or IDX files, folders or patterns; image files or folders of them for a model of images.
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
    mode
        Convert image files to grey (L) or colour (RGB).
    maps
        Folder for a picture of every image that shows where it is unusual.
    chunk_rows
        Rows held in memory at a time; changes no score.
    on_bad_row
        What a row does, or an image file, that cannot be scored: end the job, be left out and listed in _quarantine/
        below --out, or be left out.
    overwrite
        Remove the scores of another job first.
    """
    if not inputs:
        raise UsageError("score: name at least one file to score")
    from anomgen.batch import QUARANTINE, evaluate, score_files

    kept = list(dict.fromkeys([*(keep or []), *([label] if label else [])]))
    detector = load_saved(model)
    unit = detector.statistic_.unit
    event("scoring", model=type(detector).__name__, out=out)
    with row_counter() as progress:
        summary = score_files(
            detector,
            list(inputs),
            out,
            keep=kept,
            threshold=threshold,
            mode=mode,
            maps=maps,
            chunk_rows=chunk_rows,
            on_bad_row=on_bad_row,
            overwrite=overwrite,
            progress=progress,
        )
    event("scored", rows=summary.rows, flagged=summary.flagged, bad=summary.bad, seconds=round(summary.seconds, 3))
    quality = evaluate(out, label, normal) if label else {}
    print_facts(
        {
            "scored": f"{summary.rows:,} rows, {summary.rows_per_s:,.0f} rows/s",
            "flagged": share(summary.flagged, summary.rows),
            "bad": f"{summary.bad:,} rows left out" if summary.bad else None,
            "listed": out / QUARANTINE if summary.bad and on_bad_row == "quarantine" else None,
            "threshold": f"{summary.threshold:.6g} {unit}".rstrip(),
            "median score": f"{summary.quantiles.get('0.5', math.nan):.6g} {unit}".rstrip(),
            "AUROC": f"{quality['auroc']:.4f}" if quality else None,
            "AUPRC": f"{quality['auprc']:.4f}" if quality else None,
            "caught": f"{quality['recall']:.1%} of the anomalies" if quality else None,
            "scores": out,
            "maps": maps,
        }
    )
