"""Kinds of files that drawn rows are written to: Parquet, CSV, npz, and folders of PNG images."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.draw import Drawn
from anomgen.augment.layout import Layout
from anomgen.data import open_source
from anomgen.detector import Detector
from anomgen.encode.image import ImageEncoder

ROW_GROUP = 131_072
"""Rows of a Parquet row group, which bound the memory of a reader."""
METADATA = "metadata.parquet"
"""What is said about the images of a folder; the readers of image folders look for this name."""


class Format(ABC):
    """How drawn rows are stored.

    Parameters
    ----------
    detector : Detector
    marks : mapping
        The values of the columns that say where rows come from, see :class:`~anomgen.augment.layout.Layout`.
    """

    name: ClassVar[str]
    folder: ClassVar[str] = "data"
    """Where parts lie."""

    def __init__(self, detector: Detector, marks: Mapping[str, Any]) -> None:
        self.detector, self.marks = detector, dict(marks)

    @property
    def types(self) -> dict[str, str]:
        """The columns and their types, where there are any."""
        return {}

    @property
    def pattern(self) -> str:
        """What all parts lie at, for those who read them."""
        return f"data/train-*.{self.name}"

    def part(self, number: int, parts: int) -> str:
        """The name of a part."""
        return f"data/train-{number:05d}-of-{parts:05d}.{self.name}"

    @abstractmethod
    def convert(self, drawn: Drawn) -> Any:
        """What `sink` takes of rows; called by several threads."""

    @abstractmethod
    def sink(self, place: Path, rows: int) -> Any:
        """A context with a function that adds converted rows to a part of so many rows; what ends it is complete."""

    @abstractmethod
    def read(self, place: Path, at: NDArray[np.int64]) -> Any:
        """The rows at these positions of a part, in rising order: a frame, an array or images."""

    def labels(self, place: Path, at: NDArray[np.int64]) -> NDArray[Any] | None:
        """What the images at these positions show, where it is stored beside them."""
        return None


class Tables(Format):
    """Tables with columns of their own types."""

    def __init__(self, detector: Detector, marks: Mapping[str, Any], like: str | Path | None = None) -> None:
        super().__init__(detector, marks)
        self.layout = Layout(detector, marks, like)

    @property
    def types(self) -> dict[str, str]:
        """Arrow types by column."""
        return self.layout.types

    def convert(self, drawn: Drawn) -> Any:
        """An Arrow table."""
        return self.layout.table(drawn)

    def read(self, place: Path, at: NDArray[np.int64]) -> Any:
        """A frame."""
        names = [name for name in self.layout.own if name in self.layout.names]
        frames, start = [], 0
        for chunk in open_source(place, names, types=self._told()).chunks():
            inside = at[(at >= start) & (at < start + len(chunk))] - start
            frames.append(chunk.iloc[inside])
            start += len(chunk)
        return pd.concat(frames, ignore_index=True)

    def _told(self) -> dict[str, Any]:
        """The types that a reader of the file has to be told; a Parquet file tells them itself."""
        return {}


class Parquet(Tables):
    """Parquet files, compressed, in row groups that bound the memory of a reader."""

    name = "parquet"

    @contextmanager
    def sink(self, place: Path, rows: int) -> Iterator[Any]:
        """Tables in a file, as many together as a row group holds."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self.layout.schema
        held: list[Any] = []
        # Measured numbers hardly repeat: a dictionary of them costs time and saves nothing.
        repeating = [field.name for field in schema if not pa.types.is_floating(field.type)]
        with pq.ParquetWriter(place, schema, compression="zstd", use_dictionary=repeating) as writer:

            def flush() -> None:
                table = pa.concat_tables(held).unify_dictionaries().combine_chunks()
                writer.write_table(table, row_group_size=ROW_GROUP)
                held.clear()

            def add(table: Any) -> None:
                held.append(table)
                if sum(map(len, held)) >= ROW_GROUP:
                    flush()

            yield add
            if held:
                flush()


class Csv(Tables):
    """CSV files, texts in quotes, an empty cell where a value is missing."""

    name = "csv"

    @contextmanager
    def sink(self, place: Path, rows: int) -> Iterator[Any]:
        """Tables in a file."""
        import pyarrow as pa
        import pyarrow.csv as pc

        schema = pa.schema(list(self._told().items()))
        with pc.CSVWriter(place, schema) as writer:
            yield lambda table: writer.write_table(table.cast(schema))

    def _told(self) -> dict[str, Any]:
        """The types without dictionaries, which are no way to write a CSV file."""
        import pyarrow as pa

        return {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in self.layout.schema}


class Npz(Format):
    """npz files: the rows as the array ``X``, labels beside them as ``y``, and an array for every mark."""

    name = "npz"

    def __init__(self, detector: Detector, marks: Mapping[str, Any]) -> None:
        super().__init__(detector, marks)
        encoder = detector.encoder_
        for name, dtype in zip(encoder.names_, encoder.dtypes_, strict=True) if encoder.container_ == "frame" else ():
            if dtype.role not in ("number", "bool"):
                raise ValueError(f"npz holds numbers only, and column {name!r} is {dtype.text}; choose parquet")

    def convert(self, drawn: Drawn) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """An array of the rows, and labels."""
        rows = drawn.rows
        frame = isinstance(rows, pd.DataFrame)
        X = rows.to_numpy(np.float64, na_value=np.nan) if frame else np.ascontiguousarray(rows)
        return X, None if drawn.labels is None else _plain(drawn.labels)

    @contextmanager
    def sink(self, place: Path, rows: int) -> Iterator[Any]:
        """Arrays, of which the rows are written as they come."""
        labels: list[NDArray[Any]] = []
        images = self.detector.encoder_.container_ == "images"
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED if images else zipfile.ZIP_STORED) as archive:
            with archive.open("X.npy", "w", force_zip64=True) as entry:
                begun = False

                def add(piece: tuple[NDArray[Any], NDArray[Any] | None]) -> None:
                    nonlocal begun
                    X, beside = piece
                    if not begun:
                        _header(entry, X.dtype, (rows, *X.shape[1:]))
                        begun = True
                    entry.write(X.tobytes())
                    labels.extend(() if beside is None else (beside,))

                yield add
            more = {"y": np.concatenate(labels)} if labels else {}
            for name, values in {**more, **{name: np.full(rows, value) for name, value in self.marks.items()}}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, values, allow_pickle=False)

    def read(self, place: Path, at: NDArray[np.int64]) -> Any:
        """An array."""
        parts, start = [], 0
        for chunk in open_source(place).chunks():
            parts.append(chunk[at[(at >= start) & (at < start + len(chunk))] - start])
            start += len(chunk)
        X = np.concatenate(parts)
        encoder = self.detector.encoder_
        return X if encoder.container_ != "frame" else pd.DataFrame(X, columns=encoder.names_)

    def labels(self, place: Path, at: NDArray[np.int64]) -> NDArray[Any] | None:
        """The array ``y``."""
        with np.load(place, allow_pickle=False) as stored:
            return np.asarray(stored["y"][at]) if "y" in stored else None


class Pieces(NamedTuple):
    """Images as files, and what is said about them."""

    files: dict[str, bytes]
    about: Any


class Pictures(Format):
    """Folders of PNG images, each with a ``metadata.parquet`` that says what they are."""

    name, folder = "png", "train"

    def __init__(self, detector: Detector, marks: Mapping[str, Any], encoder: ImageEncoder) -> None:
        super().__init__(detector, marks)
        self.encoder = encoder

    @property
    def pattern(self) -> str:
        """All files below one folder."""
        return "train/**"

    def part(self, number: int, parts: int) -> str:
        """A folder of images."""
        return f"train/{number:05d}"

    def convert(self, drawn: Drawn) -> Pieces:
        """PNG files, and a table about them."""
        import pyarrow as pa

        names = [f"{number:08d}.png" for number in drawn.numbers.tolist()]
        scores = self.detector.score_samples(drawn.rows) if drawn.scores is None else drawn.scores
        columns: dict[str, Any] = {"file_name": names}
        if drawn.labels is not None:
            columns["label"] = _plain(drawn.labels)
        columns["score"] = scores
        kinds = {"synthetic": pa.bool_(), "seed": pa.int64(), "model_id": pa.string()}
        columns |= {name: pa.repeat(pa.scalar(value, kinds[name]), len(names)) for name, value in self.marks.items()}
        pictures = map(_png, self.encoder.levels(drawn.rows))
        return Pieces(dict(zip(names, pictures, strict=True)), pa.table(columns))

    @contextmanager
    def sink(self, place: Path, rows: int) -> Iterator[Any]:
        """Files in a folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place.mkdir()
        tables: list[Any] = []

        def add(pieces: Pieces) -> None:
            for name, content in pieces.files.items():
                (place / name).write_bytes(content)
            tables.append(pieces.about)

        yield add
        pq.write_table(pa.concat_tables(tables).combine_chunks(), place / METADATA, compression="zstd")

    def read(self, place: Path, at: NDArray[np.int64]) -> Any:
        """Images as the training images were laid out."""
        from PIL import Image

        files = sorted(place.glob("*.png"))
        levels = []
        for position in at.tolist():
            with Image.open(files[position]) as image:
                pixels = np.asarray(image)
            levels.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        return self.encoder.from_levels(np.stack(levels))

    def labels(self, place: Path, at: NDArray[np.int64]) -> NDArray[Any] | None:
        """The column ``label`` of what is said about the images."""
        import pyarrow.parquet as pq

        about = pq.read_table(place / METADATA)
        return np.array(about["label"].to_pylist())[at] if "label" in about.column_names else None


FORMATS: dict[str, type[Format]] = {one.name: one for one in (Parquet, Csv, Npz, Pictures)}


def _png(levels: NDArray[np.uint8]) -> bytes:
    """One image ``(c, h, w)`` as a PNG file."""
    from PIL import Image

    packed = io.BytesIO()
    picture = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(picture)).save(packed, "png")
    return packed.getvalue()


def _header(entry: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(entry, told)


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as an array of texts or numbers, which needs no pickle."""
    return np.asarray(labels.tolist()) if labels.dtype == object else labels
