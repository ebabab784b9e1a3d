"""Saved models, and the command ``show`` about them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

from anomgen.cli.output import print_facts, print_table

if TYPE_CHECKING:
    from anomgen.detector import Detector


def show(model: str, /) -> None:
    """Show what a saved model took each column for and why, its threshold and its versions.

    Parameters
    ----------
    model
        Folder of a saved model, or an MLflow address such as models:/name@champion.
    """
    detector = load_saved(model)
    print_facts(
        {
            "detector": type(detector).__name__,
            **learned(detector),
            "training rows": f"sha256 {detector.data_digest_}",
            "seed": detector.seed_,
            "versions": _versions(model),
        }
    )
    print_table([{**row, "missing": f"{row['missing']:.1%}"} for row in detector.describe()])


def load_saved(model: str) -> Detector:
    """A saved model from its folder, or from MLflow."""
    if is_address(model):
        from anomgen.tracking import load_model

        with quiet():
            return load_model(model)
    from anomgen.families import load

    return load(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's bars and notes off standard error; warnings and events are shown all the same."""
    with redirect_stderr(io.StringIO()):
        yield


def is_address(model: str) -> bool:
    """Whether a model is named by where MLflow has it, and is no folder."""
    return model.startswith(("models:", "runs:", "mlflow-artifacts:"))


def learned(detector: Detector) -> dict[str, object]:
    """What a fit arrived at."""
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
        **decisions(detector),
    }


def decisions(detector: Detector) -> dict[str, object]:
    """What tells a row from a normal one."""
    calibration = getattr(detector, "calibration_", None)
    return {
        "threshold": f"{detector.offset_:.6g}: rows that score lower are anomalies",
        "calibrated": None if calibration is None else f"on {len(calibration):,} normal rows",
    }


def _versions(model: str) -> str | None:
    from anomgen.persist import is_model, read_folder

    if not is_model(model):
        return None
    return ", ".join(f"{name} {version}" for name, version in read_folder(model)[0]["versions"].items())


def size_of(detector: Detector, rows: int, columns: int | None = None) -> str:
    """How many rows of what."""
    encoder = detector.encoder_
    if encoder.container_ == "images":
        return f"{rows:,} {encoder.describe()[0]['kind']} images"
    return f"{rows:,} rows of {columns or detector.n_features_in_} columns"
