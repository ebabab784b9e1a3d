"""How good the scores of a job are, where labels are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anomgen.data.labels import is_normal


def evaluate(out: str | Path, label: str, normal: Any = 0) -> dict[str, float]:
    """How well the scores of a job tell anomalies from normal rows.

    Parameters
    ----------
    out : path
        The folder that :func:`score_files` filled, with `label` among the columns kept.
    label : str
    normal : object
        The label of normal rows; rows with any other are anomalies.

    Returns
    -------
    dict
        ``auroc``, the area under the ROC curve, and ``auprc``, the average precision of the anomalies; ``recall`` and
        ``precision`` of the flags: the share of anomalies that is flagged, and of flagged rows that are anomalies.

    Raises
    ------
    ValueError
        If there is no row, or there are not both normal rows and anomalies.
    """
    import pyarrow.parquet as pq
    from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

    columns = [label, "score", "is_anomaly"]
    filled = [path for path in sorted(Path(out).glob("*.parquet")) if pq.read_metadata(path).num_rows]
    if not filled:
        raise ValueError(f"{out}: there is no row with a score to be judged by {label!r}")
    tables = [pq.read_table(path, columns=columns) for path in filled]
    scores = np.concatenate([table["score"].to_numpy() for table in tables])
    flagged = np.concatenate([table["is_anomaly"].to_numpy() for table in tables])
    anomalous = np.concatenate([~is_normal(table[label].to_pandas(), normal) for table in tables])
    if anomalous.all() or not anomalous.any():
        raise ValueError(
            f"{'no' if anomalous.all() else 'every'} row has {normal} in {label!r}: scores can only be judged by "
            "normal rows and anomalies together"
        )
    return {
        "auroc": float(roc_auc_score(anomalous, -scores)),
        "auprc": float(average_precision_score(anomalous, -scores)),
        "recall": float(recall_score(anomalous, flagged)),
        "precision": float(precision_score(anomalous, flagged, zero_division=0.0)),
    }
