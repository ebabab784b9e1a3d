"""The commands ``sample``, ``impute`` and ``repair``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from anomgen.cli.log import event
from anomgen.cli.models import load_saved, quiet, size_of
from anomgen.cli.options import AT_LEAST_ONE, Flags
from anomgen.cli.output import print_facts, print_json, row_counter, share
from anomgen.cli.parameters import (
    UsageError,
    parse_band,
    parse_conditions,
    parse_levels,
    parse_ranges,
    parse_strength,
    parse_sums,
)

if TYPE_CHECKING:
    from anomgen.augment import ExportSummary
    from anomgen.augment.constraints import Constraint

TRIES = 100
"""Rows drawn at most for each that is kept, unless told."""
MOST = 5
"""Columns that are named as those changed most."""
LABELS = {
    "column_shapes": "columns alike",
    "pair_trends": "pairs alike",
    "two_sample_auroc": "told from real",
    "transfer_ratio": "teaches",
    "closest_nearer": "close to training",
    "membership_auroc": "membership",
}
"""Measures that are printed; the card has all."""
Many = Annotated[list[str] | None, Parameter(negative="")]


def sample(
    model: str,
    /,
    *,
    out: Path,
    rows: Annotated[int, Parameter(name=["--rows", "-n"], validator=AT_LEAST_ONE)],
    seed: int = 0,
    condition: Many = None,
    band: str | None = None,
    range_: Annotated[list[str] | None, Parameter(name="--range", negative="")] = None,
    integer: Many = None,
    levels: Many = None,
    sum_: Annotated[list[str] | None, Parameter(name="--sum", negative="")] = None,
    solve: Many = None,
    where: Many = None,
    marginals: Literal["data", "model"] = "data",
    near: Path | None = None,
    strength: str = "auto",
    keep: Many = None,
    kind: Literal["local", "global", "dependency", "cluster"] | None = None,
    max_tries: Annotated[int, Parameter(validator=AT_LEAST_ONE)] = TRIES,
    train: Many = None,
    evaluate: Many = None,
    target: str | None = None,
    like: Path | None = None,
    allow_copies: Annotated[bool, Flags] = False,
    format: Literal["parquet", "csv", "npz", "png"] | None = None,  # noqa: A002
    part_rows: Annotated[int | None, Parameter(validator=AT_LEAST_ONE)] = None,
    workers: Annotated[int | None, Parameter(validator=AT_LEAST_ONE)] = None,
    overwrite: Annotated[bool, Flags] = False,
    track: Annotated[bool, Flags] = False,
    experiment: str | None = None,
    json: Annotated[bool, Flags] = False,
) -> None:
    """Draw new rows from a saved model, with a card that says how they were made and how good they are.

    A job that was killed goes on where it stopped when it is started again; one that is done draws nothing, and
    measures again what --evaluate asks for.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    out
        File to write (.csv, .parquet, .npz), or without an ending a folder of parts that data set libraries read.
    rows
        How many rows.
    seed
        One seed gives the same rows; fewer of them are the first ones of more.
    condition
        For a model fitted under conditions, name=value of one of them; may be repeated. Without, they are drawn as
        often as they occurred in training.
    band
        Only rows whose score lies between two shares of the training rows' scores, such as 0.01:0.05; typical is
        0.05:1, rare is 0.01:0.05.
    range_
        Only rows within bounds, such as age=0:120 or age=18: or day=2026-01-01:2026-01-31; may be repeated.
    integer
        Column to round to whole numbers; may be repeated.
    levels
        Only these levels of a column, such as region=north,south; may be repeated.
    sum_
        A column, or a number, that is the sum of others, such as total=a,b,c; may be repeated, each with --solve.
    solve
        The column of the sum that is computed from the others.
    where
        Only rows for which an expression of columns is true, such as "amount < balance"; may be repeated.
    marginals
        Bring the numbers of every column to the distribution that they had in training, or leave them as the model
        draws them.
    near
        File of rows to make more of.
    strength
        How far rows go from those of --near, or anomalies of a --kind from usual rows: above 0, up to 1.
    keep
        Column of --near rows that stays as it is, such as a label; may be repeated.
    kind
        Draw anomalies instead, for testing detectors: a few columns off (local), beyond the training range (global),
        columns that do not fit together (dependency), or a group of its own (cluster).
    max_tries
        Stop where more rows than this have to be drawn for each that is kept.
    train
        File of training rows: copies of them are refused; may be repeated.
    evaluate
        File of rows that the model was not fitted to, to measure the drawn ones by; may be repeated.
    target
        Column that a classifier or regression trained on drawn rows is to tell; for --evaluate.
    like
        Parquet or CSV file whose column types the rows are to have; by default the first of --train.
    allow_copies
        Draw without --train, or keep the copies that are found.
    format
        Of the parts of a folder: parquet for tables, png for images by default.
    part_rows
        Rows of a part, a multiple of 16,384 or, for images, of 1,024.
    workers
        Threads; by default as many as there are cores.
    overwrite
        Remove what an earlier job wrote first.
    track
        Log the rows' card, its measures and pictures to MLflow.
    experiment
        MLflow experiment; implies --track.
    json
        Print the summary as JSON.
    """
    if not train and not allow_copies:
        raise UsageError("sample: name the training rows with --train, to tell copies of them, or pass --allow-copies")
    texts = (range_ or [], integer or [], levels or [], sum_ or [], solve or [], where or [])
    chosen: dict[str, Any] = {
        "band": parse_band(band) if band else None,
        "condition": parse_conditions(condition or []) or None,
    }
    far, constraints = parse_strength(strength), _constraints(*texts)
    common: dict[str, Any] = {"seed": seed, "strength": far, "train": train, "allow_copies": allow_copies, "like": like}
    from anomgen.augment import export, export_anomalies

    others = (
        constraints,
        near,
        keep,
        evaluate,
        target,
        format,
        part_rows,
        workers,
        marginals == "model",
        max_tries != TRIES,
    )
    if kind is not None and any((*others, *chosen.values())):
        raise UsageError(
            "sample: --kind makes anomalies, to one file, which nothing else chooses among; leave the other options out"
        )
    detector = load_saved(model)
    if kind is not None:
        summary = export_anomalies(detector, rows, out, kind=kind, overwrite=overwrite, **common)
    else:
        with row_counter("drawn") as progress:
            summary = export(
                detector,
                rows,
                out,
                **common,
                **chosen,
                constraints=constraints,
                marginals=marginals,
                near=near,
                keep=keep or (),
                max_tries=max_tries,
                held_out=evaluate,
                evaluate=bool(evaluate),
                target=target,
                format=format,
                part_rows=part_rows,
                workers=workers,
                overwrite=overwrite,
                progress=progress,
                log=event,
            )
    logged = _log_run(summary, model, out, experiment) if track or experiment else None
    if json:
        print_json({**asdict(summary), **({"run": logged} if logged else {})})
    else:
        print_facts({**_facts(summary, out, size_of(detector, summary.rows)), "run": logged})


def impute(
    model: str,
    /,
    *inputs: str,
    out: Path,
    draws: Annotated[int, Parameter(validator=AT_LEAST_ONE)] = 1,
    seed: int = 0,
    overwrite: Annotated[bool, Flags] = False,
    json: Annotated[bool, Flags] = False,
) -> None:
    """Fill the gaps in rows of files by draws from a saved model, given all that is observed.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    inputs
        CSV, NDJSON or Parquet files, or npz files, which are read whole.
    out
        File to write: .csv or .parquet with all columns, .npz for arrays.
    draws
        Fill every gap so often; a column draw numbers them.
    seed
        Seeds the draws.
    overwrite
        Replace a file found at --out.
    json
        Print what was done as JSON.
    """
    if not inputs:
        raise UsageError("impute: name at least one file with gaps")
    from anomgen.augment import impute_file

    done = impute_file(load_saved(model), list(inputs), out, draws=draws, seed=seed, overwrite=overwrite)
    if json:
        print_json(asdict(done))
        return
    print_facts(
        {
            "read": f"{done.rows:,} rows, {done.incomplete:,} with gaps",
            "filled": f"{done.filled:,} values" + (f", {draws} times" if draws > 1 else ""),
            "by": done.method,
            "candidates": None if done.effective is None else f"{done.effective:.3g} share the weight of a row",
            "rows": out,
        }
    )


def repair(
    model: str,
    /,
    *inputs: str,
    out: Path,
    seed: int = 0,
    dense: Annotated[bool, Flags] = False,
    overwrite: Annotated[bool, Flags] = False,
    json: Annotated[bool, Flags] = False,
) -> None:
    """Replace the anomalies in files by the nearest likely rows, and tell which columns that took.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    inputs
        CSV, NDJSON or Parquet files, or npz files, which are read whole.
    out
        File to write: .csv or .parquet with all columns, their scores and what was changed; .npz for arrays.
    seed
        Seeds the search.
    dense
        Change as many columns as it takes to stay near, instead of few.
    overwrite
        Replace a file found at --out.
    json
        Print what was done as JSON.
    """
    if not inputs:
        raise UsageError("repair: name at least one file of rows")
    from anomgen.augment import repair_file

    done = repair_file(load_saved(model), list(inputs), out, seed=seed, sparse=not dense, overwrite=overwrite)
    if json:
        print_json(asdict(done))
        return
    most = ", ".join(f"{name} in {count:,}" for name, count in list(done.changed.items())[:MOST])
    print_facts(
        {
            "read": f"{done.rows:,} rows, {done.anomalies:,} anomalies",
            "repaired": share(done.reached, done.anomalies),
            "changed": most or None,
            "rows": out,
        }
    )


def _constraints(
    ranges: list[str], integers: list[str], levels: list[str], sums: list[str], solve: list[str], where: list[str]
) -> list[Constraint]:
    from anomgen.augment import Integer, Levels, Range, Sum, Where

    return [
        *(Range(*one) for one in parse_ranges(ranges)),
        *map(Integer, integers),
        *(Levels(*one) for one in parse_levels(levels)),
        *(Sum(*one) for one in parse_sums(sums, solve)),
        *map(Where, where),
    ]


def _log_run(summary: ExportSummary, model: str, out: Path, experiment: str | None) -> str:
    """The id of the run that holds what an export did."""
    from anomgen.tracking import log_export

    with quiet():
        return log_export(summary, out, model=model, experiment=experiment, run_name=out.name)


def _facts(summary: ExportSummary, out: Path, size: str) -> dict[str, object]:
    """What a person wants to know of an export."""
    new = "all of it before" if summary.complete_before else f"{summary.rows_per_s:,.0f} rows/s"
    resumed = summary.resumed and not summary.complete_before
    refused = sum(summary.refused.values())
    reasons = "; ".join(f"{reason} {count:,}" for reason, count in summary.refused.items() if count)
    return {
        "drawn": f"{size}, {new}",
        "done before": f"{summary.resumed:,} of {summary.parts:,} parts" if resumed else None,
        "refused": f"{share(refused, summary.tried)}: {reasons}" if refused else None,
        "copies": _copies(summary),
        "left out": ", ".join(summary.left_out) or None,
        **{LABELS[name]: f"{value:.4f}" for name, value in summary.metrics.items() if name in LABELS},
        "rows": out,
        "card": out / "README.md" if out.is_dir() else out.with_suffix(".card.md"),
    }


def _copies(summary: ExportSummary) -> str:
    if summary.copies is None:
        return "not checked"
    return f"{summary.copies:,} found, {summary.copies_refused:,} refused"
