"""From a chunk of rows to a table of scores: what every engine does alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomgen.batch.chunks import Chunk
from anomgen.batch.plan import Part, Piece
from anomgen.batch.schema import image_encoder
from anomgen.data.bad import Bad
from anomgen.detector import Detector

RESULTS = ("row", "source", "score", "p_value", "is_anomaly", "top_features", "selected")
"""Columns that a job writes; no column to keep may have one of these names."""


@dataclass(frozen=True)
class Options:
    """How rows are scored.

    Parameters
    ----------
    threshold : float
        Rows with a lower score are flagged.
    quarantine : bool
        Whether bad rows are listed in a file.
    maps : str or None
        Folder for pictures of heat.
    """

    threshold: float
    quarantine: bool = False
    maps: str | None = None


@dataclass(frozen=True)
class Scored:
    """A chunk that was scored.

    Parameters
    ----------
    table : pyarrow.Table or None
        None where all rows are bad.
    flagged : int
    bad : list of Bad
    """

    table: Any
    flagged: int
    bad: list[Bad]


def score_piece(detector: Detector, piece: Piece, options: Options) -> Scored:
    """Score the rows of a chunk.

    Raises
    ------
    ValueError
        Naming the input and its row, if the detector refuses one.
    """
    part, chunk = piece
    if not len(chunk.numbers):
        return Scored(None, 0, chunk.bad)
    try:
        scores = detector.score_samples(chunk.rows)
    except ValueError as error:
        raise ValueError(f"{part.source}, rows from {chunk.numbers[0]:,} on: {error}") from error
    if options.maps is not None:
        _draw(detector, part, chunk, Path(options.maps))
    table = _table(part, chunk, {"score": scores, "is_anomaly": scores < options.threshold})
    return Scored(table, int((scores < options.threshold).sum()), chunk.bad)


def empty_table(part: Part) -> Any:
    """The table of a part without rows: what it would hold beside the scores, and which type, no row has told."""
    chunk = Chunk(np.empty(0, np.int64), None, {}, [], 0)
    return _table(part, chunk, {"score": np.empty(0), "is_anomaly": np.empty(0, bool)})


def _table(part: Part, chunk: Chunk, columns: dict[str, Any]) -> Any:
    """A table of results: where a row is from, what is kept of it, what was found."""
    import pyarrow as pa

    kept = {name: pa.array(values, from_pandas=True) for name, values in chunk.kept.items()}
    source = pa.repeat(part.source, len(chunk.numbers))
    return pa.table({"row": chunk.numbers, "source": source, **kept, **columns})


def _draw(detector: Detector, part: Part, chunk: Chunk, folder: Path) -> None:
    """A picture of every image with its heat on top; those of other formats keep their ending before that of PNG."""
    from anomgen.explain import save_overlays

    encoder = image_encoder(detector)
    assert encoder is not None
    names = chunk.kept.get("file", [f"{row}.png" for row in chunk.numbers])
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names]
    save_overlays(folder / part.stem, encoder.levels(chunk.rows), detector.score_map(chunk.rows), files)
