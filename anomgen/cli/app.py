"""The commands ``fit``, ``score``, ``sample`` and ``show``. Whatever is slow to import is imported by the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, validators
from cyclopts.config import Env, Toml

from anomgen import __version__
from anomgen.cli.output import (
    bad_files,
    check_free,
    exit_code,
    print_error,
    print_facts,
    print_table,
    row_counter,
    share,
)
from anomgen.cli.parameters import UsageError, parse_conditions, parse_parameters

if TYPE_CHECKING:
    from anomgen.detector import Detector

ENVIRONMENT = Env("ANOMGEN_", show=False)

app = App(
    name="anomgen",
    help="""Anomaly detection on generative likelihoods.

    An option is looked for on the command line, then in the environment (--model of fit: ANOMGEN_FIT_MODEL), then in
    the file that --config names, in the table of the command (model = "flow" below [fit]).

    Exit codes: 0 done, 1 a fault of the program, 2 wrong usage, 3 a file or model that does not fit or is damaged,
    130 interrupted.
    """,
    version=__version__,
    config=ENVIRONMENT,
    suppress_keyboard_interrupt=False,
)

Flags = Parameter(negative="")
Mode = Literal["L", "RGB"] | None
AT_LEAST_ONE = validators.Number(gte=1)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    debug: Annotated[bool, Flags] = False,
) -> None:
    """Run a command.

    Parameters
    ----------
    config
        TOML file with options, one table a command.
    debug
        Show the traceback of an error.
    """
    if config is not None:
        app.config = (ENVIRONMENT, Toml(config, must_exist=True))
    try:
        app(tokens)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print_error(error)
        sys.exit(exit_code(error))
    finally:
        app.config = ENVIRONMENT


@app.command
def fit(
    *data: str,
    out: Path,
    model: str = "flow",
    label: str | None = None,
    normal: str | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    contamination: float | None = None,
    max_epochs: Annotated[int | None, Parameter(validator=AT_LEAST_ONE)] = None,
    mode: Mode = None,
    skip_bad: Annotated[bool, Flags] = False,
    seed: int = 0,
    device: str = "auto",
    overwrite: Annotated[bool, Flags] = False,
    track: Annotated[bool, Flags] = False,
    experiment: str | None = None,
) -> None:
    """Fit a detector to the rows of files and save it.

    Parameters
    ----------
    data
        CSV, Parquet, npz or IDX files, folders or patterns, or a folder of images.
    out
        Folder to save the model in.
    model
        Family of the detector.
    label
        Column that is a label: never a feature. A folder of images has one called label, its sub-folders.
    normal
        Learn only from the rows with this label.
    set_
        Any parameter of the detector, as name=value; may be repeated.
    contamination
        Share of the training rows that the threshold flags.
    max_epochs
        Passes over the rows at most.
    mode
        Convert image files to grey (L) or colour (RGB).
    skip_bad
        Leave out image files that cannot be read.
    seed
        Seeds everything that is random.
    device
        auto, cpu or cuda.
    overwrite
        Replace a model found at --out.
    track
        Log the fit and the model to MLflow.
    experiment
        MLflow experiment; implies --track.
    """
    if not data:
        raise UsageError("fit: name at least one file to learn from")
    check_free(out, overwrite)
    from anomgen.batch import read_training_rows

    detector = _new_detector(
        model, set_ or [], contamination=contamination, max_epochs=max_epochs, random_state=seed, device=device
    )
    callback = None
    if track or experiment:
        from anomgen.tracking import MLflowCallback

        callback = MLflowCallback(experiment=experiment, log_model=True)
        detector.set_params(callbacks=(callback,))
    on_bad: Literal["fail", "quarantine"] = "quarantine" if skip_bad else "fail"
    rows = read_training_rows(list(data), label, normal, size=detector.image_size, mode=mode, on_bad=on_bad)
    detector.fit(rows)
    detector.save(out, overwrite=overwrite)
    print_facts(
        {
            "fitted": f"{type(detector).__name__} to {_size(detector, len(rows))}",
            "left out": bad_files(getattr(rows, "bad", ())),
            **_learned(detector),
            "model": out,
            "run": callback and callback.run_id,
            "runs": callback and f"mlflow ui --backend-store-uri {callback.store}",
        }
    )


@app.command
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
    overwrite: Annotated[bool, Flags] = False,
) -> None:
    """Score the rows of files, however large, into one Parquet file each.

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
    overwrite
        Remove the scores of an earlier job first.
    """
    if not inputs:
        raise UsageError("score: name at least one file to score")
    from anomgen.batch import QUARANTINE, evaluate, score_files

    kept = list(dict.fromkeys([*(keep or []), *([label] if label else [])]))
    detector = _load(model)
    unit = detector.statistic_.unit
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
            overwrite=overwrite,
            progress=progress,
        )
    quality = evaluate(out, label, normal) if label else {}
    print_facts(
        {
            "scored": f"{summary.rows:,} rows, {summary.rows_per_s:,.0f} rows/s",
            "flagged": share(summary.flagged, summary.rows),
            "unreadable": f"{summary.bad:,} files, see {out / QUARANTINE}" if summary.bad else None,
            "threshold": f"{summary.threshold:.6g} {unit}".rstrip(),
            "median score": f"{summary.quantiles['0.5']:.6g} {unit}".rstrip(),
            "AUROC": f"{quality['auroc']:.4f}" if quality else None,
            "AUPRC": f"{quality['auprc']:.4f}" if quality else None,
            "caught": f"{quality['recall']:.1%} of the anomalies" if quality else None,
            "scores": out,
            "maps": maps,
        }
    )


@app.command
def sample(
    model: str,
    /,
    *,
    out: Path,
    n: Annotated[int, Parameter(name=["-n", "--rows"], validator=AT_LEAST_ONE)],
    seed: int = 0,
    condition: Annotated[list[str] | None, Parameter(negative="")] = None,
    overwrite: Annotated[bool, Flags] = False,
) -> None:
    """Draw new rows from a saved model.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    out
        File to write: .csv, .parquet or .npz; of images an .npz file or, without an ending, a folder of PNG files.
    n
        How many rows.
    seed
        One seed gives the same rows; fewer of them are the first ones of more.
    condition
        For a model fitted under conditions, name=value of one of them; may be repeated. Without, they are drawn as
        often as they occurred in training.
    overwrite
        Replace a file found at --out.
    """
    check_free(out, overwrite)
    from anomgen.batch import write_rows

    detector = _load(model)
    rows = _draw(detector, n, seed, condition or [])
    write_rows(rows, out, detector)
    print_facts({"drawn": _size(detector, len(rows), rows.shape[1]), "rows": out})


@app.command
def show(model: str, /) -> None:
    """Show what a saved model took each column for and why, its threshold and its versions.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    """
    detector = _load(model)
    print_facts(
        {
            "detector": type(detector).__name__,
            **_learned(detector),
            "training rows": f"sha256 {detector.data_digest_}",
            "seed": detector.seed_,
            "versions": _versions(model),
        }
    )
    print_table([{**row, "missing": f"{row['missing']:.1%}"} for row in detector.describe()])


def main() -> None:
    """Run the command line."""
    app.meta()


def _new_detector(family: str, assignments: list[str], **flags: Any) -> Detector:
    from anomgen import families
    from anomgen.detector.checks import check_parameters

    try:
        chosen = families.get(family)
        parameters = parse_parameters(chosen, assignments)
        given = {name: value for name, value in flags.items() if value is not None}
        unknown = next((name for name in given if name not in chosen.__dataclass_fields__), None)
        if unknown:
            raise UsageError(f"--{unknown.replace('_', '-')}: {chosen.__name__} has no such parameter")
        check_parameters(chosen.__name__, {**given, **parameters})
    except ValueError as error:
        raise UsageError(str(error)) from None
    return chosen(**{**given, **parameters})


def _size(detector: Detector, rows: int, columns: int | None = None) -> str:
    """How many rows of what."""
    encoder = detector.encoder_
    if encoder.container_ == "images":
        return f"{rows:,} {encoder.describe()[0]['kind']} images"
    return f"{rows:,} rows of {columns or detector.n_features_in_} columns"


def _draw(detector: Detector, n: int, seed: int, condition: list[str]) -> Any:
    from anomgen.detector import ConditionalDetector

    if not condition:
        return detector.sample(n, random_state=seed)
    if not isinstance(detector, ConditionalDetector):
        raise UsageError(f"--condition: {type(detector).__name__} knows no conditions")
    return detector.sample(n, random_state=seed, condition=parse_conditions(condition))


def _load(model: str) -> Detector:
    """A saved model from its folder, or from MLflow."""
    if model.startswith(("models:", "runs:", "mlflow-artifacts:")):
        from anomgen.tracking import load_model

        return load_model(model)
    from anomgen.families import load

    return load(model)


def _learned(detector: Detector) -> dict[str, object]:
    best: dict[str, float] = next((e for e in detector.history_ if e["epoch"] == detector.best_epoch_), {})
    measured = {
        f"{label} {unit}": f"{best[key]:.4f} a row"
        for label, key, unit in (
            ("training", "train_nats", "nats"),
            ("held-out", "held_out_nats", "nats"),
            ("training", "train_loss", "loss"),
            ("held-out", "held_out_loss", "loss"),
        )
        if key in best
    }
    return {
        **measured,
        "epochs": f"{detector.n_epochs_}, weights of epoch {detector.best_epoch_} kept",
        "converged": None if detector.converged_ else "no: fit warned of what is wrong",
        "statistic": type(detector.statistic_).__name__.lower(),
        "threshold": f"{detector.offset_:.6g}: rows that score lower are anomalies",
    }


def _versions(model: str) -> str | None:
    from anomgen.persist import is_model, read_folder

    if not is_model(model):
        return None
    return ", ".join(f"{name} {version}" for name, version in read_folder(model)[0]["versions"].items())
