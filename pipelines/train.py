"""Fit a detector to a data set, track the run, register the model, and score the rows held out from a file.

    python pipelines/train.py --card breast_cancer --model flow --out out/demo

Half of the normal rows train; all other rows are written to a file, which the registered model then scores. Cards
are the names in datasets/; --data is the folder with the files of those that have to be downloaded.
"""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

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
    normal: list[int] | None = None,
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
    held_out = write_held_out(X_test, y_test, out)
    print(
        f"{dataset.card.title}: {len(X_train):,} normal rows to learn from, {len(X_test):,} rows to judge", flush=True
    )

    name, begun = f"{card}-{model}", time.perf_counter()
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

    store, programs = relative(mlflow.get_tracking_uri()), os.path.relpath(Path(sys.executable).parent)
    print(f"""
AUROC     {quality["auroc"]:.4f}
AUPRC     {quality["auprc"]:.4f} ({np.mean(y_test):.4f} by chance)
flagged   {summary.flagged:,} of {summary.rows:,} rows: those that score below {summary.threshold:.5g} nats
scores    {out / "scores" / summary.files[0].output}
model     {out / "model"}, registered as models:/{name}@champion
run       {run.info.run_id} in {store}
time      {time.perf_counter() - begun:.1f} s, of which {detector.history_[-1]["seconds"]:.1f} s for {detector.n_epochs_} epochs

The MLflow page, at http://127.0.0.1:5000:
  {programs}/mlflow ui --backend-store-uri {store}
More rows to score:
  {programs}/anomgen score {out / "model"} FILE --out FOLDER""")


def relative(uri: str) -> str:
    """An address that is a file below the current folder, said shorter."""
    scheme, _, path = uri.partition("sqlite:///")
    return uri if scheme or not path else f"sqlite:///{os.path.relpath(path)}"


def write_held_out(X: pd.DataFrame | np.ndarray, y: np.ndarray, out: Path) -> Path:
    """The rows and their labels as a file: Parquet where columns have names, npz for arrays."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(X, pd.DataFrame):
        X.assign(label=y).to_parquet(out / "held_out.parquet", index=False)
        return out / "held_out.parquet"
    np.savez(out / "held_out.npz", X=X, label=y)
    return out / "held_out.npz"


if __name__ == "__main__":
    cyclopts.run(main)
