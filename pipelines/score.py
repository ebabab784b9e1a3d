"""Score files with a saved or registered model, as a job that is run every day.

    python pipelines/score.py --config score.toml

The file holds the same options as the command line, which has the last word:

    model = "models:/breast_cancer-flow@champion"   # or the folder of a saved model
    inputs = ["incoming/*.parquet"]
    out = "scores/2026-11-21"
    keep = ["id"]
    most = 0.05

The job ends with code 5 if more than the share `most` of the rows is flagged, so that a scheduler can raise an alarm.
"""

from __future__ import annotations

import argparse
import io
import tomllib
from contextlib import redirect_stderr
from pathlib import Path

from anomgen import batch, load, tracking


def main() -> int:
    job = options()
    registered = job.model.startswith(("models:", "runs:"))
    with redirect_stderr(io.StringIO()):  # MLflow draws a bar for every download
        detector = tracking.load_model(job.model) if registered else load(job.model)
    summary = batch.score_files(detector, job.inputs, job.out, keep=job.keep, overwrite=job.overwrite)
    share = summary.flagged / summary.rows
    for file in summary.files:
        print(f"{file.source}: {file.flagged:,} of {file.rows:,} rows flagged, scores in {job.out}/{file.parts[0]}")
    print(f"all: {share:.2%} of {summary.rows:,} rows flagged at {summary.rows_per_s:,.0f} rows/s")
    return 5 if share > job.most else 0


def options() -> argparse.Namespace:
    """Options from the command line, then from the file of --config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="CSV, Parquet or npz files, folders or patterns")
    parser.add_argument("--config", type=Path, help="TOML file with any of these options")
    parser.add_argument("--model", help="folder of a saved model, or an MLflow address")
    parser.add_argument("--out", help="folder for the scores")
    parser.add_argument("--keep", nargs="+", default=[], help="columns to copy beside the scores")
    parser.add_argument("--most", type=float, default=1.0, help="largest share of flagged rows that is no alarm")
    parser.add_argument("--overwrite", action="store_true", help="remove the scores of an earlier job first")
    config = parser.parse_args().config
    written = tomllib.loads(config.read_text(encoding="utf-8")) if config else {}
    unknown = set(written) - set(vars(parser.parse_args()))
    if unknown:
        parser.error(f"{config}: unknown options {sorted(unknown)}")
    parser.set_defaults(**written)
    job = parser.parse_args()
    job.inputs = job.inputs or written.get("inputs", [])
    if not (job.model and job.inputs and job.out):
        parser.error("model, inputs and out are needed, on the command line or in the file of --config")
    return job


if __name__ == "__main__":
    raise SystemExit(main())
