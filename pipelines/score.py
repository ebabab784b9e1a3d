"""Score files with a saved or registered model, and log it, as a job that is run every day.

    python pipelines/score.py --config score.toml

The file holds the same options as the command line, which has the last word:

    model = "models:/breast_cancer-flow@champion"   # or the folder of a saved model
    inputs = ["incoming/*.parquet"]
    out = "scores/2026-11-21"
    keep = ["id"]
    fdr = 0.1
    fail_on_flagged = 0.05
    experiment = "nightly"

Started again after it was killed, the job goes on where it stopped. It ends with the codes of `anomgen score`: 3 if
files or model do not fit, 4 for too many bad rows, 75 if it was told to stop and can go on; and 5, so that a scheduler
can raise an alarm, for drift beyond `fail_on_drift` or if more than the share `fail_on_flagged` of the rows is flagged.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import mlflow

from anomgen import Detector, batch, load, tracking
from anomgen.cli.exits import ALERT, USAGE, exit_code

LOOSE = cyclopts.Parameter(show=False, allow_leading_hyphen=True)
app = cyclopts.App(help=__doc__, help_format="plaintext", exit_on_error=False, result_action="return_value")


@app.default
def main(
    inputs: list[str],
    *,
    model: str,
    out: str,
    keep: list[str] | None = None,
    threshold: float | None = None,
    fdr: float | None = None,
    explain: int = 0,
    mode: Literal["L", "RGB"] | None = None,
    maps: str | None = None,
    chunk_rows: int = 65_536,
    part_rows: int = 262_144,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    on_bad_row: Literal["fail", "quarantine", "skip"] = "fail",
    max_bad_fraction: float = 0.5,
    fail_on_drift: float | None = None,
    overwrite: bool = False,
    fail_on_flagged: float = 1.0,
    experiment: str = "scoring",
    tracking_uri: str | None = None,
) -> int:
    options = {name: value for name, value in locals().items() if name in batch.score_files.__kwdefaults__}
    mlflow.set_tracking_uri(tracking_uri or mlflow.get_tracking_uri())
    with redirect_stderr(io.StringIO()):  # MLflow tells of every table of a new store, and draws a bar for downloads
        mlflow.set_experiment(experiment)
        detector = open_model(model)
    with mlflow.start_run(run_name=Path(out).name) as run:
        try:
            summary = batch.score_files(detector, inputs, out, **{**options, "keep": keep or []})
        except batch.Interrupted:
            mlflow.end_run("KILLED")
            raise
        tracking.log_job(summary, model=model, out=out)
    report(summary, out)
    print(f"run {run.info.run_id} in experiment {experiment}")
    return ALERT if summary.drifted or summary.flagged > fail_on_flagged * summary.rows else 0


def open_model(model: str) -> Detector:
    return tracking.load_model(model) if model.startswith(("models:", "runs:")) else load(model)


def report(summary: Any, out: str) -> None:
    for file in summary.files:
        bad = f", {file.bad:,} bad" if file.bad else ""
        print(f"{file.source}: {file.flagged:,} of {file.rows:,} rows flagged{bad}")
    share = summary.flagged / max(summary.rows, 1)
    print(f"all: {share:.2%} of {summary.rows:,} rows flagged at {summary.rows_per_s:,.0f} rows/s, scores in {out}")
    if summary.selected is not None:
        print(f"{summary.selected:,} rows selected, p-values up to {summary.p_cutoff:.3g}")
    if summary.drift is not None:
        worst = summary.drift["worst"]
        print(f"drift: {worst} moved most, PSI {summary.drift['columns'][worst]['psi']:.3f}")


@app.meta.default
def configured(*tokens: Annotated[str, LOOSE], config: Path | None = None) -> int:
    """Options from the command line, then from the TOML file `config`."""
    app.config = cyclopts.config.Toml(config, must_exist=True) if config else None
    code: int = app(tokens)
    return code


if __name__ == "__main__":
    try:
        sys.exit(app.meta())
    except cyclopts.CycloptsError:
        sys.exit(USAGE)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
