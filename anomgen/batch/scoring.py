"""From a chunk of rows to a table of scores: what every engine does alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from anomgen import calibrate
from anomgen.batch.chunks import Chunk
from anomgen.batch.plan import Part, Piece
from anomgen.batch.schema import image_encoder
from anomgen.data.bad import Bad
from anomgen.detector import Detector
from anomgen.explain import top_contributors

RESULTS = ("row", "source", "score", "p_value", "is_anomaly", "top_features", "selected")
"""Columns that a job writes; no column to keep may have one of these names."""


@dataclass(frozen=True)
class Options:
    """How rows are scored.

    Parameters
    ----------
    threshold : float
        Rows with a lower score are flagged.
    explain : int
        How many of the columns that contribute most are named.
    quarantine : bool
        Whether bad rows are listed in a file.
    maps : str or None
        Folder for pictures of heat.
    several : bool
        Whether every input has a sub-folder there.
    kept : dict of str to pyarrow.DataType
        The columns to keep, for parts without a row.
    """

    threshold: float
    explain: int = 0
    quarantine: bool = False
    maps: str | None = None
    several: bool = False
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A chunk that was scored.

    Parameters
    ----------
    table : pyarrow.Table or None
        None where all rows are bad.
    flagged : int
    bad : list of Bad
    drift : dict or None
        State of a counter of these rows, where the model knows how its training rows were.
    """

    table: Any
    flagged: int
    bad: list[Bad]
    drift: dict[str, Any] | None


def score_piece(detector: Detector, piece: Piece, options: Options) -> Scored:
    """Score the rows of a chunk.

    Raises
    ------
    ValueError
        Naming the input and its row, if the detector refuses one.
    """
    part, chunk = piece
    if not len(chunk.numbers):
        return Scored(None, 0, chunk.bad, None)
    try:
        scores = detector.score_samples(chunk.rows)
    except ValueError as error:
        raise ValueError(f"{part.source}, rows from {chunk.numbers[0]:,} on: {error}") from error
    if options.maps is not None:
        _draw(detector, chunk, Path(options.maps, part.stem) if options.several else Path(options.maps))
    table = _table(part, chunk, _columns(detector, chunk.rows, scores, options))
    return Scored(table, int((scores < options.threshold).sum()), chunk.bad, _count(detector, chunk.rows, scores))


def empty_table(detector: Detector, part: Part, options: Options) -> Any:
    """The table of a part without rows; its columns are those of the others, so that a reader finds them in all."""
    import pyarrow as pa

    kept = {name: pa.array([], kind) for name, kind in options.kept.items()}
    chunk = Chunk(np.empty(0, np.int64), None, kept, [], 0)
    return _table(part, chunk, _columns(detector, None, np.empty(0), options))


def _columns(detector: Detector, rows: Any, scores: NDArray[np.float64], options: Options) -> dict[str, Any]:
    """What is told of every row."""
    import pyarrow as pa

    columns: dict[str, Any] = {"score": scores}
    if hasattr(detector, "calibration_"):
        ranks = detector.ranks(rows, scores=scores) if len(scores) else np.empty(0, np.int64)
        columns["p_value"] = calibrate.levels(len(detector.calibration_))[ranks]
    columns["is_anomaly"] = scores < options.threshold
    if options.explain:
        names = top_contributors(detector.contributions(rows), options.explain) if len(scores) else []
        columns["top_features"] = pa.array(names, pa.list_(pa.string()))
    return columns


def _count(detector: Detector, rows: Any, scores: NDArray[np.float64]) -> dict[str, Any] | None:
    """What tells whether these rows look like those of the training."""
    reference = getattr(detector, "reference_", None)
    if reference is None:
        return None
    counter = reference.counter()
    counter.add(rows, scores)
    return cast("dict[str, Any]", counter.state())


def _table(part: Part, chunk: Chunk, columns: dict[str, Any]) -> Any:
    """A table of results: where a row is from, what is kept of it, what was found."""
    import pyarrow as pa

    kept = {name: pa.array(values, from_pandas=True) for name, values in chunk.kept.items()}
    source = pa.repeat(part.source, len(chunk.numbers))
    return pa.table({"row": chunk.numbers, "source": source, **kept, **columns})


def _draw(detector: Detector, chunk: Chunk, folder: Path) -> None:
    """A picture of every image with its heat on top; those of other formats keep their ending before that of PNG."""
    from anomgen.explain import save_overlays

    encoder = image_encoder(detector)
    assert encoder is not None
    names = chunk.kept.get("file", [f"{row}.png" for row in chunk.numbers])
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names]
    save_overlays(folder, encoder.levels(chunk.rows), detector.score_map(chunk.rows), files)
