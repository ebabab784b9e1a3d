"""Fit a detector to a data set, track the run, register the model, and score the rows held out from a file.

    python pipelines/train.py --card breast_cancer --model flow --out out/demo

Half of the normal rows train; all other rows are written to a file, which the registered model then scores. Cards
are the names in datasets/; --data is the folder with the files of those that have to be downloaded.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated

import cyclopts
import mlflow
import numpy as np
import pandas as pd

import anomgen
from anomgen import batch, families, tracking


def main(
    *,
    card: str = "breast_cancer",
    model: str = "flow",
    out: Path = Path("out/demo"),
    data: Path | None = None,
    normal: Annotated[list[int] | None, cyclopts.Parameter(negative="")] = None,
    seed: int = 0,
) -> None:
    """Fit, track, register, score.

    Parameters
    ----------
    card
        Name of a data set card.
    model
        Family of the detector.
    out
        Folder for the model, the held-out rows and their scores.
    data
        Folder with downloaded data sets.
    normal
        Classes to take for normal, where a card has classes and no anomalies.
    seed
        Seeds the split and the fit.
    """
    dataset = anomgen.load_dataset(card, root=data)
    dataset = dataset.one_class(normal) if normal else dataset
    X_train, X_test, y_test = dataset.split(seed)
    held_out = out / "held_out.parquet"
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(X_test).rename(columns=str).assign(label=y_test).to_parquet(held_out, index=False)
    rows = f"{len(X_train):,} normal rows to learn from, {len(X_test):,} rows to judge"
    print(f"{dataset.card.title}: {rows}", flush=True)

    name = f"{card}-{model}"
    with redirect_stderr(io.StringIO()):  # MLflow tells of every table that it makes in a new store
        mlflow.set_experiment(card)
    with mlflow.start_run(run_name=name) as run:
        detector = families.get(model)(random_state=seed, callbacks=(tracking.MLflowCallback(),)).fit(X_train)
        detector.save(out / "model", overwrite=True)
        with redirect_stderr(io.StringIO()):
            tracking.log_model(detector, registered_model_name=name, alias="champion", step=detector.n_epochs_)
            champion = tracking.load_model(f"models:/{name}@champion")
        summary = batch.score_files(champion, held_out, out / "scores", keep=["label"], overwrite=True)
        quality = batch.evaluate(out / "scores", "label")
        mlflow.log_metrics({**quality, "flagged": summary.flagged, "scored_rows_per_s": summary.rows_per_s})

    limit = f"{summary.threshold:.5g} {detector.statistic_.unit}".rstrip()
    programs = os.path.relpath(Path(sys.executable).parent)
    print(f"""
AUROC     {quality["auroc"]:.4f}
AUPRC     {quality["auprc"]:.4f} ({np.mean(y_test):.4f} by chance)
flagged   {summary.flagged:,} of {summary.rows:,} rows: those that score below {limit}
caught    {quality["recall"]:.1%} of the anomalies; {quality["precision"]:.1%} of the flagged rows are anomalies
scores    {out / "scores" / summary.files[0].parts[0]}
model     {out / "model"}, registered as models:/{name}@champion
run       {run.info.run_id} in experiment {card}
trained   {detector.n_epochs_} epochs in {detector.history_[-1]["seconds"]:.1f} s

The MLflow page, at http://127.0.0.1:5000:
  {programs}/mlflow ui --backend-store-uri {mlflow.get_tracking_uri()}
More rows to score:
  {programs}/anomgen score {out / "model"} FILE --out FOLDER""")


if __name__ == "__main__":
    cyclopts.run(main)
