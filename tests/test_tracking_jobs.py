"""Scoring jobs as MLflow runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from anomgen import tracking
from anomgen.batch.summary import ScoredFile, Summary


def summary(**changed: Any) -> Summary:
    shift = {"psi": 0.5, "expected": 0.1, "ks": 0.2, "significant": True}
    held = {
        "rows": 90,
        "seen": 100,
        "bad": 10,
        "flagged": 9,
        "threshold": -3.5,
        "selected": 4,
        "p_cutoff": 0.01,
        "seconds": 2.0,
        "rows_per_s": 45.0,
        "resumed": 1,
        "quantiles": {"0": -9.0, "0.5": -2.0, "1": -1.0},
        "drift": {
            "rows": 90,
            "reference_rows": 400,
            "worst": "x",
            "score": {**shift, "psi": 0.3},
            "columns": {"x": shift, "y": {**shift, "psi": 0.05}},
        },
        "drifted": True,
        "model_digest": "a" * 64,
        "data_digest": "b" * 64,
        "inputs_digest": "c" * 64,
        "files": (ScoredFile("in/one.parquet", 90, 9, 10, ("one-00000.parquet",)),),
    }
    return Summary(**{**held, **changed})


def artifact(run_id: str, name: str) -> Any:
    return json.loads(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name)).read_text())


def test_a_job_is_a_run(tracking_uri: str) -> None:
    job = summary()
    run_id = tracking.log_job(
        job, model="models:/det@champion", out="scores", experiment="nightly", run_name="monday", tags={"team": "blue"}
    )
    assert mlflow.active_run() is None
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "monday")
    assert run.info.experiment_id == mlflow.get_experiment_by_name("nightly").experiment_id
    metrics = run.data.metrics
    assert {name: metrics[name] for name in ("rows", "seen", "bad", "flagged", "selected", "resumed")} == {
        "rows": 90,
        "seen": 100,
        "bad": 10,
        "flagged": 9,
        "selected": 4,
        "resumed": 1,
    }
    assert (metrics["flagged_share"], metrics["bad_share"]) == (0.1, 0.1)
    assert (metrics["threshold"], metrics["p_cutoff"], metrics["score.0.5"]) == (-3.5, 0.01, -2.0)
    assert (metrics["drift.worst_psi"], metrics["drift.score_psi"], metrics["drift.score_ks"]) == (0.5, 0.3, 0.2)
    tags = run.data.tags
    assert tags["anomgen.model"] == "models:/det@champion"
    assert (tags["anomgen.scores"], tags["anomgen.drifted"], tags["team"]) == ("scores", "true", "blue")
    assert (tags["anomgen.model_sha256"], tags["anomgen.inputs_sha256"]) == ("a" * 64, "c" * 64)
    assert tags["anomgen.data_sha256"] == "b" * 64
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("one.parquet", "c" * 36)
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "scoring")]
    assert json.loads(data.dataset.source) == ["in/one.parquet"]
    assert artifact(run_id, "summary.json") == json.loads(job.to_json())
    assert artifact(run_id, "drift.json") == job.drift


def test_a_job_without_rows_selection_and_drift(tracking_uri: str) -> None:
    nothing = {"rows": 0, "seen": 0, "bad": 0, "flagged": 0, "selected": None, "p_cutoff": None, "drift": None}
    run_id = tracking.log_job(summary(**nothing, quantiles={}, files=()))
    metrics = mlflow.get_run(run_id).data.metrics
    assert (metrics["flagged_share"], metrics["bad_share"]) == (0.0, 0.0)
    assert not {"selected", "p_cutoff", "drift.worst_psi", "score.0.5"} & set(metrics)
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run_id)] == ["summary.json"]


def test_a_job_inside_a_run_is_logged_into_it(tracking_uri: str) -> None:
    with mlflow.start_run() as outer:
        assert tracking.log_job(summary()) == outer.info.run_id
        assert mlflow.active_run().info.run_id == outer.info.run_id


def test_another_store(tracking_uri: str, template_db: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(template_db.read_bytes())
    run_id = tracking.log_job(summary(), tracking_uri=f"sqlite:///{other}")
    assert mlflow.get_tracking_uri() == tracking_uri
    assert mlflow.MlflowClient(f"sqlite:///{other}").get_run(run_id).info.status == "FINISHED"
    with pytest.raises(mlflow.MlflowException):
        mlflow.get_run(run_id)
