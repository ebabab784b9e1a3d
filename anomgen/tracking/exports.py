"""Exports of drawn rows as MLflow runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomgen.tracking.store import run_in, set_tags

COUNTS = ("rows", "tried", "copies", "copies_refused", "seconds", "rows_per_s", "resumed", "parts")
"""Numbers of a summary that become metrics under their own names."""
CARD = "card"
"""Folder of the artifacts in which the card lies as it lies beside the rows."""


def log_export(
    summary: Any,
    out: str | Path,
    *,
    model: str | None = None,
    experiment: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Log an export of drawn rows: what it counted, what was measured, and the card with its pictures.

    Metrics are the counts of the summary, ``kept_share``, and ``quality.<measure>`` for all that was measured. The
    summary is an artifact, and so is the card; the rows are not. The digest of the model and the seed are tags.

    An export logged inside ``mlflow.start_run()`` goes into that run, which stays open; else into one of its own.

    Parameters
    ----------
    summary : anomgen.augment.ExportSummary
    out : path
        Where the rows are: the folder or file that was exported to.
    model : str, optional
        The address or path that the model was loaded from.
    experiment : str, optional
        Name of the experiment, made if there is none.
    run_name : str, optional
    tags : mapping of str to str, optional
        More tags of the run.
    tracking_uri : str, optional
        The MLflow store; by default the one that MLflow is set to.

    Returns
    -------
    str
        The id of the run.
    """
    import mlflow

    with run_in(tracking_uri, experiment, run_name) as run:
        known = {
            "anomgen.model": model,
            "anomgen.rows": str(out),
            "anomgen.model_sha256": summary.model_digest,
            "anomgen.seed": summary.seed,
        }
        set_tags({**known, **(tags or {})})
        mlflow.log_metrics(_metrics(summary))
        mlflow.log_dict(asdict(summary), "summary.json")
        for file, folder in _card(Path(out)):
            mlflow.log_artifact(str(file), folder)
        return str(run.info.run_id)


def _metrics(summary: Any) -> dict[str, float]:
    held = {name: getattr(summary, name) for name in COUNTS}
    held["kept_share"] = summary.rows / max(summary.tried, 1)
    held |= {f"quality.{name}": value for name, value in summary.metrics.items()}
    return {name: float(value) for name, value in held.items() if value is not None}


def _card(out: Path) -> list[tuple[Path, str]]:
    """The files of a card, and the folder of the artifacts that each belongs to."""
    inside = out.is_dir()
    stem = out.with_suffix("").name
    names = ("README.md", "report.json") if inside else (f"{stem}.card.md", f"{stem}.card.json")
    folder = out if inside else out.parent
    pictures = folder / ("plots" if inside else f"{stem}.card")
    texts = [(folder / name, CARD) for name in names]
    shown = [(file, f"{CARD}/{pictures.name}") for file in sorted(pictures.glob("*.png"))]
    return [(file, place) for file, place in [*texts, *shown] if file.is_file()]
