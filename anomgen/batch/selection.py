"""The second pass: which rows of all parts together are selected at a false-discovery rate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen import calibrate
from anomgen.batch.manifest import Manifest
from anomgen.batch.part import write_table


def select(
    folder: Path, manifest: Manifest, order: Sequence[str], n: int, fdr: float, stop: Callable[[], bool]
) -> bool:
    """Find the cutoff from the ranks of all rows, and add the column ``selected`` to every part.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
        Takes the cutoff, then every part that has the column. What it holds already is not done again.
    order : sequence of str
        All parts.
    n : int
        Calibration rows.
    fdr : float
    stop : callable
        Asked before every part.

    Returns
    -------
    bool
        Whether all parts are done.
    """
    cutoff = manifest.cutoff or _cutoff(folder, order, n, fdr)
    if manifest.cutoff is None:
        manifest.decide(cutoff)
    for name in order:
        if name in manifest.selected:
            continue
        if stop():
            return False
        manifest.select(name, _rewrite(folder / name, n, cutoff["rank"]))
    return True


def _cutoff(folder: Path, order: Sequence[str], n: int, fdr: float) -> dict[str, Any]:
    import pyarrow.parquet as pq

    counts = np.zeros(n + 2, dtype=np.int64)
    for name in order:
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(columns=["p_value"]):
                counts += np.bincount(_ranks(batch.column(0), n), minlength=n + 2)
    rank = calibrate.rank_cutoff(counts, n, fdr)
    lacking = calibrate.shortage(counts, n, fdr)
    if lacking:
        warnings.warn(lacking, UserWarning, stacklevel=5)
    return {
        "fdr": fdr,
        "rank": rank,
        "p_value": float(calibrate.levels(n)[rank]),
        "calibration_rows": n,
        "rows": int(counts.sum()),
        "selected": int(counts[: rank + 1].sum()),
    }


def _rewrite(path: Path, n: int, rank: int) -> str:
    """Add the column to a part; its sha256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read()
    selected = pa.array(_ranks(table["p_value"], n) <= rank)
    return write_table(table.append_column("selected", selected), path)


def _ranks(p: Any, n: int) -> NDArray[np.int64]:
    """Ranks from p-values, which are ``rank / (n + 1)``."""
    return np.asarray(np.rint(p.to_numpy() * (n + 1)), dtype=np.int64)
