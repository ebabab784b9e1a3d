"""Scoring jobs as MLflow runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anomgen.tracking.runs import DATA_TAG
from anomgen.tracking.store import run_in, set_tags

COUNTS = ("rows", "seen", "bad", "flagged", "selected", "threshold", "p_cutoff", "seconds", "rows_per_s", "resumed")
"""Numbers of a summary that become metrics under their own names."""
LONGEST_DIGEST = 36
"""Characters that MLflow keeps of the digest of a data set."""
LISTED = 100
"""Inputs whose names are kept with the data set; the artifact ``summary.json`` has all of them."""


def log_job(
    summary: Any,
    *,
    model: str | None = None,
    out: str | None = None,
    experiment: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Log a scoring job: what it counted, how far its rows have drifted, and which inputs and model it used.

    Metrics are the counts of the summary, ``flagged_share`` and ``bad_share``, ``score.<level>`` for the quantiles of
    the scores, and ``drift.worst_psi``, ``drift.score_psi`` and ``drift.score_ks``; the whole summary and the drift of
    every column are JSON files among the artifacts. The digests of model, training rows and inputs are tags, and the
    inputs are listed as a data set of the run, so that jobs over the same files can be found.

    A job logged inside ``mlflow.start_run()`` goes into that run, which stays open; else into one of its own.

    Parameters
    ----------
    summary : anomgen.batch.Summary
    model : str, optional
        The address or path that the model was loaded from.
    out : str, optional
        The folder of scores.
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
        set_tags({"anomgen.model": model, "anomgen.scores": out, **_facts(summary), **(tags or {})})
        mlflow.log_metrics(_metrics(summary))
        mlflow.log_dict(asdict(summary), "summary.json")
        if summary.drift is not None:
            mlflow.log_dict(summary.drift, "drift.json")
        mlflow.MlflowClient().log_inputs(run.info.run_id, [_inputs(summary)])
        return str(run.info.run_id)


def _metrics(summary: Any) -> dict[str, float]:
    held = {name: getattr(summary, name) for name in COUNTS}
    held["flagged_share"] = summary.flagged / max(summary.rows, 1)
    held["bad_share"] = summary.bad / max(summary.seen, 1)
    held |= {f"score.{level}": value for level, value in summary.quantiles.items()}
    if summary.drift is not None:
        columns, score = summary.drift["columns"], summary.drift["score"]
        held["drift.worst_psi"] = columns[summary.drift["worst"]]["psi"] if columns else None
        held |= {f"drift.score_{name}": score[name] for name in ("psi", "ks")} if score else {}
    return {name: float(value) for name, value in held.items() if value is not None}


def _facts(summary: Any) -> dict[str, str]:
    return {
        "anomgen.model_sha256": summary.model_digest,
        "anomgen.inputs_sha256": summary.inputs_digest,
        "anomgen.drifted": str(summary.drifted).lower(),
        DATA_TAG: summary.data_digest,
    }


def _inputs(summary: Any) -> Any:
    """The inputs as a data set: their names and one digest of them all. MLflow reads none of them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    names = [file.source for file in summary.files]
    one = names[0].rstrip("/").rpartition("/")[2] if len(names) == 1 else f"{len(names)} inputs"
    listed = Dataset(one, summary.inputs_digest[:LONGEST_DIGEST], "files", json.dumps(names[:LISTED]))
    return DatasetInput(listed, [InputTag("mlflow.data.context", "scoring")])
