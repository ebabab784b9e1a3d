"""What a job did, read from its parts and their records: the same however often it was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.batch.part import Record
from anomgen.calibrate import uniforms

SAMPLE = 100_000
"""Scores kept for the quantiles of the summary: all of a smaller job, a uniform sample of a larger one."""
LEVELS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class ScoredFile:
    """One input file, or folder of images, and its scores.

    Parameters
    ----------
    source : str
        What was scored.
    rows, flagged : int
    bad : int
        Rows, or files of images, that could not be scored.
    parts : tuple of str
        Names of the files of scores.
    """

    source: str
    rows: int
    flagged: int
    bad: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What a scoring job did.

    Parameters
    ----------
    rows : int
        Rows with a score.
    seen, bad : int
        All rows, and those that could not be scored.
    flagged : int
        Rows with a score below `threshold`.
    threshold : float
    selected : int or None
        Rows selected at the false-discovery rate, where one was asked for.
    p_cutoff : float or None
        Rows with this p-value or a lower one are selected; 0 if none is.
    seconds : float
    rows_per_s : float
        Rows scored by this run, by its time.
    resumed : int
        Parts that were found done; all of them where the job was complete before.
    quantiles : dict of str to float
        Quantiles of the scores by level, from ``"0"``, the lowest score, to ``"1"``, the highest; of a uniform sample
        of 100,000 where there are more. Empty without rows.
    drift : dict or None
        Drift against the training rows, see :class:`anomgen.drift.Drift`; None for a model that stores none of it.
    drifted : bool
        Whether it is more than the job was to accept.
    model_digest, data_digest : str
        sha256 of the model, and of its training rows.
    inputs_digest : str
        sha256 of what tells these inputs from others.
    files : tuple of ScoredFile
    """

    rows: int
    seen: int
    bad: int
    flagged: int
    threshold: float
    selected: int | None
    p_cutoff: float | None
    seconds: float
    rows_per_s: float
    resumed: int
    quantiles: dict[str, float]
    drift: dict[str, Any] | None
    drifted: bool
    model_digest: str
    data_digest: str
    inputs_digest: str
    files: tuple[ScoredFile, ...]

    @property
    def parts(self) -> int:
        """Number of files of scores."""
        return sum(len(file.parts) for file in self.files)

    @property
    def complete_before(self) -> bool:
        """Whether there was nothing left to do."""
        return self.resumed == self.parts

    def to_json(self) -> str:
        """As indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def group_files(records: Iterable[Record]) -> tuple[ScoredFile, ...]:
    """Records by the input they belong to."""
    stems: dict[str, list[Record]] = {}
    for record in records:
        stems.setdefault(record.part.rpartition("-")[0], []).append(record)
    return tuple(
        ScoredFile(
            source=parts[0].source,
            rows=sum(part.rows for part in parts),
            flagged=sum(part.flagged for part in parts),
            bad=sum(part.bad for part in parts),
            parts=tuple(part.part for part in parts),
        )
        for parts in stems.values()
    )


def score_quantiles(folder: Path, order: Iterable[str]) -> dict[str, float]:
    """Quantiles of the scores of all parts, however rows are cut into them.

    Every row draws a number by its input and its place there; those with the lowest ones are a uniform sample.
    """
    lowest, highest = np.inf, -np.inf
    keys, sample, below = np.empty(0), np.empty(0), 1.0
    for number, rows, scores in _scores(folder, order):
        lowest, highest = min(lowest, float(scores.min())), max(highest, float(scores.max()))
        drawn = uniforms(number, rows)
        chosen = drawn < below
        keys = np.concatenate([keys, drawn[chosen]])
        sample = np.concatenate([sample, scores[chosen]])
        if len(keys) > SAMPLE:
            kept = np.argsort(keys, kind="stable")[:SAMPLE]
            keys, sample = keys[kept], sample[kept]
            below = keys[-1]
    if not len(sample):
        return {}
    between = np.quantile(sample, LEVELS).tolist()
    return {"0": lowest, **{str(p): q for p, q in zip(LEVELS, between, strict=True)}, "1": highest}


def _scores(folder: Path, order: Iterable[str]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Number of the input, numbers of rows, and scores."""
    import pyarrow.parquet as pq

    stems: dict[str, int] = {}
    for name in order:
        number = stems.setdefault(name.rpartition("-")[0], len(stems))
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(columns=["row", "score"]):
                yield number, batch["row"].to_numpy(), batch["score"].to_numpy()
