"""The commands ``fit`` and ``calibrate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from anomgen.cli.log import event
from anomgen.cli.models import decisions, is_address, learned, load_saved, size_of
from anomgen.cli.options import AT_LEAST_ONE, SHARE, Flags, Mode
from anomgen.cli.output import bad_files, check_free, print_facts
from anomgen.cli.parameters import UsageError, parse_bytes, parse_parameters

if TYPE_CHECKING:
    from anomgen.detector import Detector


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
    memory: str = "1GiB",
    seed: int = 0,
    device: str = "auto",
    calibrate_on: Annotated[list[str] | None, Parameter(name="--calibrate", negative="")] = None,
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
    memory
        Rows that would take more, such as 500MB or 2GiB, are not held: they pass by, from temporary files.
    seed
        Seeds everything that is random.
    device
        auto, cpu or cuda.
    calibrate_on
        File of normal rows that do not train, for p-values; may be repeated. With --label and --normal as the others.
    overwrite
        Replace a model found at --out.
    track
        Log the fit and the model to MLflow.
    experiment
        MLflow experiment; implies --track.
    """
    if not data:
        raise UsageError("fit: name at least one file to learn from")
    limit = parse_bytes(memory)
    check_free(out, overwrite)
    from anomgen.batch import read_training_rows
    from anomgen.data import FileRows

    detector = _new_detector(
        model, set_ or [], contamination=contamination, max_epochs=max_epochs, random_state=seed, device=device
    )
    callback = None
    if track or experiment:
        from anomgen.tracking import MLflowCallback

        callback = MLflowCallback(experiment=experiment, log_model=True)
        detector.set_params(callbacks=(callback,))
    on_bad: Literal["fail", "quarantine"] = "quarantine" if skip_bad else "fail"
    read = partial(read_training_rows, label=label, normal=normal, size=detector.image_size, mode=mode)
    rows = read(list(data), on_bad=on_bad, memory=limit)
    spared = read(calibrate_on) if calibrate_on else None
    event("fitting", model=type(detector).__name__, in_memory=not isinstance(rows, FileRows))
    detector.fit(rows)
    if spared is not None:
        detector.calibrate(spared)
    event(
        "fitted", rows=len(rows), epochs=detector.n_epochs_, converged=detector.converged_, threshold=detector.offset_
    )
    detector.save(out, overwrite=overwrite)
    print_facts(
        {
            "fitted": f"{type(detector).__name__} to {size_of(detector, len(rows))}",
            "left out": bad_files(getattr(rows, "bad", ())),
            **learned(detector),
            "model": out,
            "run": callback and callback.run_id,
            "runs": callback and f"mlflow ui --backend-store-uri {callback.store}",
        }
    )


def calibrate(
    model: str,
    /,
    *data: str,
    out: Path | None = None,
    label: str | None = None,
    normal: str | None = None,
    false_positive_rate: Annotated[float | None, Parameter(validator=SHARE)] = None,
    folds: Annotated[int | None, Parameter(validator=validators.Number(gte=2))] = None,
    mode: Mode = None,
) -> None:
    """Learn from normal rows how often such a row scores low: for p-values, selections, and a threshold by rate.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    data
        Files or folders of normal rows, as `fit` takes them; rows that neither trained nor were held out.
    out
        Folder for the calibrated model; by default it replaces the one given.
    label
        Column that is a label: never a feature.
    normal
        Calibrate only by the rows with this label.
    false_positive_rate
        Also move the threshold, so that it flags at most this share of new normal rows.
    folds
        Cross-conformal, for tables too short to spare rows: data are all normal rows there are, those of the training
        among them, and as many models are fitted anew, each without one part of the rows.
    mode
        Convert image files to grey (L) or colour (RGB).
    """
    if not data:
        raise UsageError("calibrate: name at least one file of normal rows")
    if out is None and is_address(model):
        raise UsageError(f"calibrate: {model} cannot be changed where it is; name a folder with --out")
    if out is not None:
        check_free(out, overwrite=False)
    from anomgen.batch import read_training_rows

    detector = load_saved(model)
    rows = read_training_rows(list(data), label, normal, size=detector.image_size, mode=mode)
    detector.calibrate(rows, false_positive_rate=false_positive_rate, folds=folds)
    detector.save(out or model, overwrite=out is None)
    event("calibrated", rows=len(detector.calibration_), threshold=detector.offset_)
    print_facts({**decisions(detector), "model": out or model})


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
