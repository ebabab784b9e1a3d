"""The command ``fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from anomgen.cli.log import event
from anomgen.cli.models import learned, size_of
from anomgen.cli.options import AT_LEAST_ONE, Flags, Mode
from anomgen.cli.output import bad_files, check_free, print_facts
from anomgen.cli.parameters import UsageError, parse_parameters

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
    event("fitting", model=type(detector).__name__, rows=len(rows))
    detector.fit(rows)
    event("fitted", epochs=detector.n_epochs_, converged=detector.converged_, threshold=detector.offset_)
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
