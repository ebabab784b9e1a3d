"""Training rows and held-out rows, from memory or files, laid out as drawn rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.columns import Columns
from anomgen.data import ImageFolder, Source, open_source
from anomgen.data.images import find_images
from anomgen.detector import Detector
from anomgen.detector.conditional import LABEL
from anomgen.encode import ImageEncoder, Labelled, image_encoder
from anomgen.encode.frame import to_frame
from anomgen.quality import CopyCheck

READ = 1024
"""Images read at a time."""


@dataclass(frozen=True)
class Given:
    """Rows that drawn ones are compared with.

    Parameters
    ----------
    rows : frame, array, images, ImageFolder or Source
    files : tuple of str
        Where they come from; empty for rows in memory.
    detector : Detector
    labels : ndarray of shape (n,), optional
        What images show, where it is known.
    """

    rows: Any
    files: tuple[str, ...]
    detector: Detector
    labels: NDArray[Any] | None = None

    @property
    def encoder(self) -> ImageEncoder | None:
        """Of a model of images."""
        return image_encoder(self.detector.encoder_)

    def chunks(self) -> Iterator[Any]:
        """The rows in order, in constant memory; of images at the size of the model, in its 256 levels."""
        for piece in self._pieces():
            if self.encoder is None:
                yield drawn_columns(self.detector, piece)
            else:
                yield self.encoder.from_levels(self.encoder.levels(piece))

    def spread(self, most: int) -> Any:
        """At most so many of the rows, evenly from first to last."""
        n = sum(len(piece) for piece in self._pieces())
        return picked(self.chunks(), n, most)

    def spread_labels(self, most: int) -> NDArray[Any] | None:
        """The labels of as many, where there are any."""
        return None if self.labels is None else self.labels[evenly(len(self.labels), most)]

    def told(self, check: CopyCheck | None = None) -> dict[str, Any]:
        """What a card says of them; `check` is made from all of these rows."""
        told: dict[str, Any] = {} if check is None else {"rows": check.rows, "digest": check.digest}
        return {**told, "files": list(self.files)} if self.files else told

    def _pieces(self) -> Iterator[Any]:
        if isinstance(self.rows, Source):
            yield from self.rows.chunks()
        elif self.encoder is None:
            yield self.rows
        else:
            yield from (self.rows[start : start + READ] for start in range(0, len(self.rows), READ))


def open_given(detector: Detector, rows: Any) -> Given:
    """Rows of the kind that `detector` was fitted on.

    Parameters
    ----------
    detector : Detector
    rows : path, pattern, sequence of paths, Source, or rows
        Columns that the model does not draw are left out. Images are resized as the training images were; their labels
        are those of :class:`~anomgen.encode.Labelled`, an array ``y`` of npz files, or the sub-folders they lie in.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file cannot be read or has not all columns.
    """
    encoder = image_encoder(detector.encoder_)
    if isinstance(rows, Labelled):
        return Given(rows.images, (), detector, np.asarray(rows.labels))
    if not is_path(rows):
        held = encoder is not None or isinstance(rows, Source)
        return Given(rows if held else drawn_columns(detector, rows), (), detector)
    if encoder is not None and holds_pictures(rows):
        mode: Any = "L" if encoder.shape_[0] == 1 else "RGB"
        folder = ImageFolder(rows, size=encoder.size, mode=mode)
        return Given(folder, (str(rows),), detector, folder.labels)
    source = open_source(rows)
    if encoder is None and source.names:
        source = open_source(rows, known(detector))
    return Given(source, tuple(map(str, source.files)), detector, None if encoder is None else _beside(source))


def near_rows(detector: Detector, near: Any) -> Any:
    """Rows to draw more of, all in memory; as they are, if they are not given by where they are."""
    if near is None or not is_path(near):
        return near
    given = open_given(detector, near)
    return as_drawn(detector, given.rows.read() if isinstance(given.rows, Source) else given.rows)


def as_drawn(detector: Detector, rows: Any) -> Any:
    """Rows of the kind of the training rows, with all of their columns: without a value where the rows lack them."""
    if not isinstance(rows, pd.DataFrame):
        return rows
    names = detector.encoder_.names_
    if detector.encoder_.container_ == "array":
        own = rows.rename(columns=str).reindex(columns=[f"x{name}" for name in names])
        return own.to_numpy(np.float64, na_value=np.nan)
    lacking = {name: pd.Series(pd.NA, rows.index, dtype=object) for name in names if name not in rows.columns}
    return rows.assign(**lacking)[names]


def is_table(rows: Any) -> bool:
    """Whether rows are files with columns."""
    return is_path(rows) and not holds_pictures(rows) and bool(open_source(rows).names)


def holds_pictures(rows: Any) -> bool:
    """Whether rows are a folder of image files."""
    return isinstance(rows, str | Path) and Path(rows).is_dir() and bool(find_images(rows))


def is_path(rows: Any) -> bool:
    """Whether rows are given by where they are."""
    if isinstance(rows, str | Path):
        return True
    return isinstance(rows, list | tuple) and bool(rows) and all(isinstance(one, str | Path) for one in rows)


def known(detector: Detector) -> list[str]:
    """The columns that a model of tables draws, by the names they have in files."""
    columns = Columns(detector)
    return [f"x{name}" if columns.array else str(name) for name in columns.dtypes if name in columns.known]


def picked(chunks: Iterator[Any], n: int, most: int) -> Any:
    """At most `most` of `n` rows that come in chunks, evenly from first to last."""
    at = evenly(n, most)
    parts, start = [], 0
    for chunk in chunks:
        inside = at[(at >= start) & (at < start + len(chunk))] - start
        parts.append(chunk.iloc[inside] if isinstance(chunk, pd.DataFrame) else chunk[inside])
        start += len(chunk)
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    return np.concatenate(parts)


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Places of at most `most` of `n` rows, from first to last."""
    return np.arange(n) if n <= most else np.arange(most) * n // most


def _beside(source: Source) -> NDArray[Any] | None:
    """The array ``y`` of npz files, where all have one."""
    found = []
    for file in source.files:
        if not str(file).endswith(".npz"):
            return None
        with file.open("rb") as stored, np.load(stored, allow_pickle=False) as arrays:
            if LABEL not in arrays:
                return None
            found.append(arrays[LABEL])
    return np.concatenate(found)


def drawn_columns(detector: Detector, rows: Any) -> Any:
    """Rows of a table as a frame of the columns that the model draws; images as they are.

    Raises
    ------
    ValueError
        If the rows lack one of them.
    """
    if detector.encoder_.container_ == "images":
        return np.asarray(rows)
    frame = to_frame(rows)
    if frame is None:
        array = np.asarray(rows)
        if array.ndim != 2:
            raise ValueError(f"rows of a table have two dimensions, but these have shape {array.shape}")
        frame = pd.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])], copy=False)
    named = {str(name): name for name in frame.columns}
    wanted = known(detector)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise ValueError(f"the rows have no column {missing[0]!r}, which the model draws; they have {list(named)[:10]}")
    return frame[[named[name] for name in wanted]]
