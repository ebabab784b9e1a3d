"""What a scoring job reads: files of rows and folders of images, opened and found to fit the detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomgen.batch.chunks import Chunk, Input, Span
from anomgen.batch.pictures import FOLDER_COLUMN, FolderInput, check_folder
from anomgen.batch.schema import SchemaError, image_encoder, open_checked
from anomgen.batch.tables import ArrayInput, OnBad, TableInput
from anomgen.data import ImageFolder
from anomgen.data.arrays import is_array
from anomgen.data.bad import Bad
from anomgen.data.files import find_files
from anomgen.data.images import find_images, is_image
from anomgen.detector import Detector

__all__ = ["FOLDER_COLUMN", "Bad", "Chunk", "Input", "Inputs", "Mode", "OnBad", "Span", "image_inputs", "open_inputs"]

Inputs = str | Path | ImageFolder | Sequence[str | Path | ImageFolder]
Mode = Literal["L", "RGB"] | None

PIXELS = 1 << 23
"""Pixels held in memory at a time."""


def open_inputs(
    detector: Detector,
    inputs: Inputs,
    keep: Sequence[str] = (),
    chunk_rows: int = 65_536,
    mode: Mode = None,
    on_bad: OnBad = "fail",
) -> list[Input]:
    """Everything that a job scores, opened and found to fit the detector.

    Parameters
    ----------
    detector : Detector
    inputs : path, pattern, ImageFolder, or sequence of them
    keep : sequence of str
        Columns to hand over beside the rows.
    chunk_rows : int
        Rows of a chunk at most; of images fewer, as memory asks for.
    mode : {"L", "RGB"}, optional
        Convert image files to grey or colour.
    on_bad : {"fail", "quarantine", "skip"}
        Whether a bad row raises an error, or is left out and listed.

    Raises
    ------
    SchemaError
        Naming the file that does not fit, and what it lacks.
    """
    encoder = image_encoder(detector)
    rows = chunk_rows if encoder is None else max(1, min(chunk_rows, PIXELS // encoder.dim))
    opened: list[Input] = []
    for one in _paths(inputs) if encoder is None else image_inputs(inputs):
        if isinstance(one, Path):
            source = open_checked(detector, one, keep, rows)
            kind = ArrayInput if is_array(one) else TableInput
            opened.append(kind(detector.encoder_, source, keep, on_bad))
        else:
            assert encoder is not None
            folder = open_folder(one, encoder.size, mode, on_bad)
            check_folder(encoder, folder, keep)
            opened.append(FolderInput(encoder, folder, keep, rows, on_bad))
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
    path: ImageFolder | str | list[Path], size: tuple[int, int] | None, mode: Mode, on_bad: OnBad
) -> ImageFolder:
    """A folder of images, unless it is one already."""
    if isinstance(path, ImageFolder):
        return path
    return ImageFolder(path, size=size, mode=mode, on_bad="fail" if on_bad == "fail" else "quarantine")


def _paths(inputs: Inputs) -> list[Path]:
    folders = [inputs] if isinstance(inputs, ImageFolder) else [] if isinstance(inputs, str | Path) else inputs
    if any(isinstance(one, ImageFolder) for one in folders):
        raise SchemaError("the detector was fitted on a table; it cannot score a folder of images")
    return find_files(inputs)  # type: ignore[arg-type]
