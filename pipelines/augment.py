"""Fit a detector, draw new rows, measure them beside rows it has not seen, export them with a card, and log it all.

    python pipelines/augment.py --card payments --rows 10000 --out out/augment
    python pipelines/augment.py --train train.parquet --held-out other.parquet --rows 1000000 --out out/augment

Of a data set card half of the normal rows train, and the others are held out; of files of your own, those named. Rows
that are equal to a training row are refused. Started again after it was killed, it fits the same model again, and the
export goes on where it stopped. It ends with the codes of `anomgen sample`.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import mlflow
import pandas as pd

import anomgen
from anomgen import augment, batch, families, tracking
from anomgen.cli.exits import USAGE, exit_code

Files = Annotated[list[Path] | None, cyclopts.Parameter(negative="")]

SHARP = {"noise": 0.02}
"""Draws are as blurred as the training noise, which is wider by default, where detection profits from it."""
SHARPER = {"autoregressive": {"conditional": "mixtures"}}


def main(
    *,
    card: str = "payments",
    train: Files = None,
    held_out: Files = None,
    model: str = "autoregressive",
    rows: int = 10_000,
    band: str | None = None,
    out: Path = Path("out/augment"),
    data: Path | None = None,
    seed: int = 0,
) -> None:
    """Fit, draw, measure, export, log.

    Parameters
    ----------
    card
        Name of a data set card.
    train
        Files to learn from, instead of a card.
    held_out
        Files of other such rows, to measure the drawn ones by.
    model
        Family of the detector.
    rows
        How many rows to draw.
    band
        Keep typical rows only, or rare ones.
    out
        Folder for the model and the rows.
    data
        Folder with downloaded data sets.
    seed
        Seeds the split, the fit and the rows.
    """
    if (train is None) != (held_out is None):
        print("--train and --held-out belong together: name the files of both, or of neither", file=sys.stderr)
        sys.exit(USAGE)
    out.mkdir(parents=True, exist_ok=True)
    name = card if train is None else train[0].stem
    if train is None or held_out is None:
        train, held_out = from_card(card, data, out, seed)
    with redirect_stderr(io.StringIO()):  # MLflow tells of every table that it makes in a new store
        mlflow.set_experiment(f"augment-{name}")
    with mlflow.start_run(run_name=f"{name}-{model}") as run:
        more = {"random_state": seed, "callbacks": (tracking.MLflowCallback(),)}
        detector = families.get(model)(**SHARP, **SHARPER.get(model, {}), **more)
        detector.fit(batch.read_training_rows(train)).save(out / "model", overwrite=True)
        summary = augment.export(
            detector, rows, out / "rows", train=train, held_out=held_out, evaluate=True, band=band, seed=seed
        )
        tracking.log_export(summary, out / "rows", model=str(out / "model"))
    report(summary, out / "rows")
    print(f"run       {run.info.run_id} in experiment augment-{name}")
    programs = os.path.relpath(Path(sys.executable).parent)
    print(f"\nThe MLflow page, at http://127.0.0.1:5000:\n  {programs}/mlflow ui --backend-store-uri", end=" ")
    print(mlflow.get_tracking_uri())


def from_card(card: str, data: Path | None, out: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """Normal rows of a data set that train, and those that do not, as files."""
    X_train, X_test, y_test = anomgen.load_dataset(card, root=data).split(seed)
    files = [out / "train.parquet", out / "held_out.parquet"]
    for file, part in zip(files, (X_train, X_test[y_test == 0]), strict=True):
        pd.DataFrame(part).rename(columns=str).to_parquet(file, index=False)
    return files[:1], files[1:]


def report(summary: Any, place: Path) -> None:
    measured = summary.metrics
    refused = ", ".join(f"{count:,} {reason}" for reason, count in summary.refused.items()) or "none"
    print(f"drawn     {summary.rows:,} rows at {summary.rows_per_s:,.0f} rows/s; refused: {refused}")
    print(
        f"alike     columns {measured['column_shapes']:.3f}, pairs of columns {measured['pair_trends']:.3f}, 1 at best"
    )
    print(f"told      from real rows with an AUROC of {measured['two_sample_auroc']:.3f}, 0.5 at best")
    if "transfer_ratio" in measured:
        print(f"teach     {measured['transfer_ratio']:.1%} of what as many real rows teach")
    print(
        f"copies    {summary.copies:,}; nearer to a training row than 99 % of others: {measured['closest_nearer']:.2%}"
    )
    print(f"rows      {place}, card {place / 'README.md'}")


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
