"""The jobs in pipelines/ run as a user runs them, and what they print is true."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import anomgen

JOBS = Path(anomgen.__file__).parents[1] / "pipelines"


def run_job(name: str, folder: Path, *arguments: Any, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, JOBS / name, *map(str, arguments)],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert code or not done.stderr, f"the job is not quiet:\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def trained(template_db: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the training job ran, and what it printed."""
    folder = tmp_path_factory.mktemp("train")
    shutil.copyfile(template_db, folder / "mlflow.db")
    return folder, run_job("train.py", folder, "--card", "wine", "--out", "out/demo")


def test_training_fits_tracks_registers_and_scores(trained: tuple[Path, str]) -> None:
    import mlflow

    folder, printed = trained
    held_out = pd.read_parquet(folder / "out/demo/held_out.parquet")
    scores = pd.read_parquet(folder / "out/demo/scores")
    X_train, X_test, y_test = anomgen.load_dataset("wine").split(0)
    pd.testing.assert_frame_equal(held_out.drop(columns="label"), X_test)
    detector = anomgen.load(folder / "out/demo/model")
    assert np.array_equal(scores["score"], detector.score_samples(X_test))
    assert np.array_equal(scores["label"], y_test)
    auroc, auprc = roc_auc_score(y_test, -scores["score"]), average_precision_score(y_test, -scores["score"])
    flagged = int((scores["score"] < detector.offset_).sum())
    recall = (scores["score"] < detector.offset_)[y_test == 1].mean()
    assert f"{recall:.1%} of the anomalies" in printed
    for part in (f"{auroc:.4f}", f"{auprc:.4f}", f"{flagged} of {len(X_test)} rows", "models:/wine-flow@champion"):
        assert part in printed
    assert f"{len(X_train)} normal rows" in printed
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.get_run(re.search(r"^run +(\w+)", printed, re.MULTILINE)[1])  # type: ignore[index]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["auroc"] == auroc
    assert run.data.params["fit.rows"] == str(len(X_train))
    version = client.get_model_version_by_alias("wine-flow", "champion")
    assert (str(version.version), version.run_id) == ("1", run.info.run_id)


def test_what_training_prints_can_be_run(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    line = re.search(r"^  (\S+anomgen score .*)$", printed, re.MULTILINE)[1]  # type: ignore[index]
    command = line.replace("FILE", "out/demo/held_out.parquet").replace("FOLDER", "again").split()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    again, scores = pd.read_parquet(folder / "again"), pd.read_parquet(folder / "out/demo/scores")
    assert np.array_equal(again["score"], scores["score"])
    page = re.search(r"^  (\S+/mlflow) ui --backend-store-uri sqlite:///(\S+)$", printed, re.MULTILINE)
    assert page is not None
    assert (folder / page[1]).exists()
    assert Path(page[2]) == folder / "mlflow.db"


@pytest.fixture
def nightly(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """The folder of a scheduled job: the store with the registered model, rows to score, and a file of options."""
    folder = shutil.copytree(trained[0], tmp_path / "nightly")
    lines = [
        'model = "models:/wine-flow@champion"',
        'inputs = ["out/demo/held_out.*"]',
        'out = "daily"',
        "fail_on_flagged = 0.01",
    ]
    (folder / "score.toml").write_text("\n".join([*lines, 'keep = ["label"]', 'experiment = "nightly"']))
    return folder


def runs_of(folder: Path) -> list[Any]:
    """The runs of the scheduled job, the last one first."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([client.get_experiment_by_name("nightly").experiment_id]))


def test_scoring_by_the_registry_and_a_file_of_options(nightly: Path) -> None:
    printed = run_job("score.py", nightly, "--config", "score.toml", code=5)
    scores = pd.read_parquet(nightly / "daily")
    assert np.array_equal(scores["score"], pd.read_parquet(nightly / "out/demo/scores")["score"])
    assert "label" in scores
    assert f"{scores['is_anomaly'].sum()} of {len(scores)} rows flagged" in printed
    run_job("score.py", nightly, "--config", "score.toml", "--fail-on-flagged", "1")
    again, first = runs_of(nightly)
    assert first.info.run_id in printed
    assert (first.info.status, again.info.status) == ("FINISHED", "FINISHED")
    assert first.data.metrics["flagged"] == scores["is_anomaly"].sum()
    assert first.data.tags["anomgen.model"] == "models:/wine-flow@champion"
    assert first.data.tags["anomgen.inputs_sha256"] == again.data.tags["anomgen.inputs_sha256"]
    assert (first.data.metrics["resumed"], again.data.metrics["resumed"]) == (0, 1)
    assert "drift.worst_psi" in first.data.metrics


@pytest.mark.slow
def test_the_codes_that_scoring_ends_with(nightly: Path) -> None:
    job = ("score.py", nightly, "--config", "score.toml", "--fail-on-flagged", "1")
    (nightly / "wrong.toml").write_text('modle = "x"\n')
    run_job("score.py", nightly, "--config", "wrong.toml", code=2)
    run_job(*job)
    run_job(*job, "--threshold", "0", code=3)
    run_job(*job, "--threshold", "0", "--overwrite", "--model", "out/demo/model")
    rows = pd.read_parquet(nightly / "out/demo/held_out.parquet")
    rows[rows.columns[0]] = np.inf
    rows.to_parquet(nightly / "bad.parquet")
    run_job(*job, "--out", "bad", "--inputs", "bad.parquet", code=3)
    run_job(*job, "--out", "bad", "--inputs", "bad.parquet", "--on-bad-row", "skip", "--overwrite", code=4)
    statuses = [run.info.status for run in runs_of(nightly)]
    assert statuses == ["FAILED", "FAILED", "FINISHED", "FAILED", "FINISHED"]


def test_augmenting_fits_draws_measures_exports_and_logs(template_db: Path, tmp_path: Path) -> None:
    import mlflow

    shutil.copyfile(template_db, tmp_path / "mlflow.db")
    job = ("augment.py", tmp_path, "--card", "wine", "--model", "mixture", "--out", "more")
    printed = run_job(*job, "--rows", "300")
    rows = pd.read_parquet(tmp_path / "more/rows/data")
    X_train, _, _ = anomgen.load_dataset("wine").split(0)
    assert list(rows) == [*X_train.columns, "synthetic", "seed", "model_id"]
    assert len(rows) == 300
    card = (tmp_path / "more/rows/README.md").read_text()
    assert f"{len(X_train)} rows from `more/train.parquet`" in card
    assert "Copies found: 0" in card
    report = json.loads((tmp_path / "more/rows/report.json").read_text())["report"]
    assert f"AUROC of {report['metrics']['two_sample_auroc']:.3f}" in printed
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(re.search(r"^run +(\w+)", printed, re.MULTILINE)[1])  # type: ignore[index]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["quality.two_sample_auroc"] == report["metrics"]["two_sample_auroc"]
    assert run.data.params["fit.rows"] == str(len(X_train))
    assert {file.path for file in client.list_artifacts(run.info.run_id, "card")} >= {"card/README.md"}


@pytest.mark.slow
def test_augmenting_goes_on_and_the_codes_it_ends_with(tmp_path: Path) -> None:
    job = ("augment.py", tmp_path, "--card", "wine", "--model", "mixture", "--out", "more")
    run_job(*job, "--rows", "300")
    part = tmp_path / "more/rows/data/train-00000-of-00001.parquet"
    before = part.stat().st_mtime_ns
    run_job(*job, "--rows", "300")
    assert part.stat().st_mtime_ns == before
    run_job(*job, "--rows", "400", code=3)
    run_job(*job, "--train", "more/train.parquet", code=2)
    run_job(*job, "--train", "more/train.parquet", "--held-out", "none.parquet", code=2)


@pytest.mark.slow
def test_training_again_makes_the_next_version(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "again")
    assert (
        run_job("train.py", folder, "--card", "wine", "--out", "out/demo").splitlines()[:4]
        == (trained[1].splitlines()[:4])
    )


@pytest.mark.slow
def test_training_makes_a_store_where_there_is_none(tmp_path: Path) -> None:
    printed = run_job("train.py", tmp_path, "--card", "digits", "--normal", "0", "--out", "digits")
    assert (tmp_path / "mlflow.db").is_file()
    assert len(pd.read_parquet(tmp_path / "digits" / "scores")) == 1797 - 178 // 2
    assert "models:/digits-flow@champion" in printed
