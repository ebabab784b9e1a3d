"""Exports of drawn rows as MLflow runs."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow

from anomgen import tracking
from anomgen.augment import ExportSummary


def summary(**changed: object) -> ExportSummary:
    held = {
        "rows": 90,
        "tried": 100,
        "refused": {"band 0.01:0.05": 10},
        "copies": None,
        "copies_refused": 0,
        "left_out": ("label",),
        "seconds": 2.0,
        "rows_per_s": 45.0,
        "resumed": 1,
        "parts": 3,
        "model_digest": "a" * 64,
        "seed": 7,
        "metrics": {"column_shapes": 0.9},
        "files": ("data/train-00000-of-00001.parquet",),
    }
    return ExportSummary(**{**held, **changed})  # type: ignore[arg-type]


def test_an_export_is_a_run_with_its_card(tracking_uri: str, tmp_path: Path) -> None:
    for name in ("README.md", "report.json", "plots/scores.png", "data/train-00000-of-00001.parquet"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_text(name)
    run_id = tracking.log_export(
        summary(), tmp_path / "rows", model="models:/det@champion", experiment="more", tags={"team": "blue"}
    )
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.experiment_id == mlflow.get_experiment_by_name("more").experiment_id
    metrics = run.data.metrics
    assert (metrics["rows"], metrics["kept_share"], metrics["quality.column_shapes"]) == (90, 0.9, 0.9)
    assert "copies" not in metrics
    tags = run.data.tags
    assert (tags["anomgen.model"], tags["anomgen.seed"], tags["team"]) == ("models:/det@champion", "7", "blue")
    assert tags["anomgen.model_sha256"] == "a" * 64
    client = mlflow.MlflowClient()
    assert {file.path for file in client.list_artifacts(run_id, "card")} == {
        "card/README.md",
        "card/report.json",
        "card/plots",
    }
    assert [file.path for file in client.list_artifacts(run_id, "card/plots")] == ["card/plots/scores.png"]
    told = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="summary.json")).read_text()
    )
    assert told["refused"] == {"band 0.01:0.05": 10}


def test_an_export_to_a_file_goes_into_the_run_that_is_open(tracking_uri: str, tmp_path: Path) -> None:
    for name in ("rows.parquet", "rows.card.md", "rows.card.json", "rows.card/columns.png", "other.card.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with mlflow.start_run() as run:
        assert tracking.log_export(summary(copies=3), tmp_path / "rows.parquet") == run.info.run_id
        assert mlflow.active_run() is not None
    assert mlflow.get_run(run.info.run_id).data.metrics["copies"] == 3
    files = mlflow.MlflowClient().list_artifacts(run.info.run_id, "card")
    assert {file.path for file in files} == {"card/rows.card.md", "card/rows.card.json", "card/rows.card"}
