"""What a scoring job reads: files of rows and folders of images, each scored into one file, a chunk at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from anomgen.batch.schema import SchemaError, image_encoder, open_checked, to_score
from anomgen.data import BadFile, ImageFolder, Source, read_label
from anomgen.data.arrays import is_array
from anomgen.data.files import find_files
from anomgen.data.images import find_images, is_image
from anomgen.detector import Detector
from anomgen.encode import ImageEncoder

Inputs = str | Path | ImageFolder | Sequence[str | Path | ImageFolder]
Mode = Literal["L", "RGB"] | None
Chunk = tuple[Any, dict[str, Any]]
"""Rows as the detector takes them, and the columns to write beside their scores."""

FOLDER_COLUMN = "label"
"""What a folder of images has besides images: the sub-folder that each lies in."""
PIXELS = 1 << 23
"""Pixels held in memory at a time."""


class Input(Protocol):
    """One source of rows."""

    @property
    def name(self) -> str:
        """Where the rows come from."""

    @property
    def stem(self) -> str:
        """Name of the file of scores."""

    @property
    def bad(self) -> Sequence[BadFile]:
        """Files that were left out, once all chunks are read."""

    def chunks(self) -> Iterator[Chunk]:
        """The rows in order."""


@dataclass(frozen=True)
class FileInput:
    """Rows of a table or an array, of one file."""

    detector: Detector
    source: Source
    keep: Sequence[str]
    bad: Sequence[BadFile] = ()

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.source.files[0])

    @property
    def stem(self) -> str:
        """Its name without endings."""
        return self.source.files[0].name.split(".")[0]

    def chunks(self) -> Iterator[Chunk]:
        """The rows, and the columns or arrays to keep."""
        path, start = self.source.files[0], 0
        arrays = {name: read_label(path, name) for name in self.keep} if is_array(path) else {}
        for chunk in self.source.chunks():
            where = slice(start, start + len(chunk))
            yield (
                to_score(self.detector, self.source, chunk),
                {name: arrays[name][where] if arrays else chunk[name] for name in self.keep},
            )
            start += len(chunk)


@dataclass(frozen=True)
class FolderInput:
    """Images of a folder."""

    encoder: ImageEncoder
    folder: ImageFolder
    keep: Sequence[str]
    chunk_rows: int

    @property
    def name(self) -> str:
        """The path of the folder; for files named one by one the deepest folder they share."""
        path = self.folder.path
        return str(path) if isinstance(path, str | Path) else os.path.commonpath([Path(file).parent for file in path])

    @property
    def stem(self) -> str:
        """The name of the folder."""
        return Path(self.name).resolve().name or "images"

    @property
    def bad(self) -> Sequence[BadFile]:
        """Files that could not be read."""
        return self.folder.bad

    def chunks(self) -> Iterator[Chunk]:
        """The images, the path of each below the folder, and its sub-folder if that is kept."""
        for names, images in self.folder.chunks(self.chunk_rows):
            kept = {name: [file.rpartition("/")[0] for file in names] for name in self.keep}
            yield _as_trained(self.encoder, images), {"file": names, **kept}


def open_inputs(detector: Detector, inputs: Inputs, keep: Sequence[str], chunk_rows: int, mode: Mode) -> list[Input]:
    """Everything that a job scores, opened and found to fit the detector.

    Raises
    ------
    SchemaError
        Naming the file that does not fit, and what it lacks.
    """
    encoder = image_encoder(detector)
    if encoder is None:
        return [FileInput(detector, open_checked(detector, path, keep, chunk_rows), keep) for path in _paths(inputs)]
    rows = max(1, min(chunk_rows, PIXELS // encoder.dim))
    opened: list[Input] = []
    for one in image_inputs(inputs):
        if isinstance(one, Path):
            opened.append(FileInput(detector, open_checked(detector, one, keep, rows), keep))
        else:
            folder = open_folder(one, encoder.size, mode, "quarantine")
            _check_folder(encoder, folder, keep)
            opened.append(FolderInput(encoder, folder, keep, rows))
    return opened


def image_inputs(inputs: Any) -> list[Path | ImageFolder | str | list[Path]]:
    """Files of arrays or tables, folders that hold images, and all image files named singly as one list."""
    found: list[Path | ImageFolder | str | list[Path]] = []
    single: list[Path] = []
    for one in [inputs] if isinstance(inputs, str | Path | ImageFolder) else inputs:
        if isinstance(one, ImageFolder) or holds_images(one):
            found.append(one if isinstance(one, ImageFolder) else str(one))
            continue
        place = Path(one)
        named = [place] if place.exists() else sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
        pictures = [file for file in named if is_image(file.name) and file.is_file()]
        single += pictures
        found += [] if pictures else find_files(one)
    return [*found, single] if single else found


def holds_images(path: str | Path) -> bool:
    """Whether a path is a folder with image files in it, at any depth."""
    return Path(path).is_dir() and bool(find_images(path))


def open_folder(
    path: ImageFolder | str | list[Path],
    size: tuple[int, int] | None,
    mode: Mode,
    on_bad: Literal["fail", "quarantine"],
) -> ImageFolder:
    """A folder of images, unless it is one already."""
    return path if isinstance(path, ImageFolder) else ImageFolder(path, size=size, mode=mode, on_bad=on_bad)


def _paths(inputs: Inputs) -> list[Path]:
    folders = [inputs] if isinstance(inputs, ImageFolder) else [] if isinstance(inputs, str | Path) else inputs
    if any(isinstance(one, ImageFolder) for one in folders):
        raise SchemaError("the detector was fitted on a table; it cannot score a folder of images")
    return find_files(inputs)  # type: ignore[arg-type]


def _check_folder(encoder: ImageEncoder, folder: ImageFolder, keep: Sequence[str]) -> None:
    absent = [name for name in keep if name != FOLDER_COLUMN]
    if absent:
        raise SchemaError(
            f"{folder.path} has no {absent[0]!r} to keep: a folder of images has {FOLDER_COLUMN!r}, its sub-folders"
        )
    channels, *size = encoder.shape_
    found = folder.image_shape
    if (3 if len(found) == 3 else 1) != channels:
        kinds = {1: "grey", 3: "colour"}
        raise SchemaError(
            f"{folder.first} is {kinds[4 - channels]}, but the detector was fitted on {kinds[channels]} images; "
            f"convert with mode={'L' if channels == 1 else 'RGB'!r}"
        )
    if list(found[:2]) != size:
        raise SchemaError(
            f"{folder.first} has {found[0]} x {found[1]} pixels, but the detector was fitted on images of {size[0]} x "
            f"{size[1]} and resizes none; fit it with image_size="
        )


def _as_trained(encoder: ImageEncoder, images: Any) -> Any:
    """Images of files as the training images were laid out, black and white at the same values."""
    low, high = encoder.range_
    most = np.iinfo(images.dtype).max
    if (low, high) != (0, most):
        images = low + images * ((high - low) / most)
    if encoder.layout_ == "first":
        images = np.moveaxis(images.reshape(*images.shape[:3], -1), 3, 1)
    elif encoder.layout_ == "last":
        images = images.reshape(*images.shape[:3], -1)
    return images
