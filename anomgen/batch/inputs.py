"""What a scoring job reads: files of rows and folders of images, opened and found to fit the detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomgen.batch.chunks import Chunk, Input, Span
from anomgen.batch.pictures import FOLDER_COLUMN, FolderInput, check_folder
from anomgen.batch.schema import OnBad, image_encoder, open_checked
from anomgen.batch.tables import ArrayInput, RefusedInput, TableInput
from anomgen.data import ImageFolder
from anomgen.data.arrays import is_array
from anomgen.data.bad import Bad
from anomgen.data.files import Found, Place, find_files, partitions
from anomgen.data.images import Like, find_images, is_image
from anomgen.data.remote import is_url
from anomgen.detector import Detector
from anomgen.encode import ImageEncoder
from anomgen.jobs.errors import SchemaError

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
        Columns to hand over beside the rows. A cell that does not fit the type of its column, which is decided as by
        :func:`anomgen.data.open_source`, makes its row a bad one here too.
    chunk_rows : int
        Rows of a chunk at most; of images fewer, as memory asks for.
    mode : {"L", "RGB"}, optional
        Convert image files to grey or colour.
    on_bad : {"fail", "quarantine", "skip"}
        Whether a bad row raises an error, or is left out and listed.

    Raises
    ------
    SchemaError
        Naming the file that does not fit, and what it lacks. Where bad rows are left out such a file is one bad entry,
        and only no file that fits is an error.
    ValueError
        If a file cannot be read, naming it; if one is named twice, or none.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows} must be at least 1")
    encoder = image_encoder(detector)
    rows = chunk_rows if encoder is None else max(1, min(chunk_rows, PIXELS // encoder.dim))
    opened: list[Input] = []
    errors: list[ValueError] = []
    found = _files(inputs) if encoder is None else image_inputs(inputs)
    _check_once(found)
    for one in found:
        try:
            if isinstance(one, Found):
                opened.append(_open_file(detector, one, keep, rows, on_bad))
            else:
                assert encoder is not None
                opened.append(_open_images(encoder, one, keep, rows, mode, on_bad))
        except ValueError as error:
            if on_bad == "fail":
                raise
            errors.append(error)
            opened.append(RefusedInput(_place(one), _reason(error, _place(one))))
    if len(errors) == len(opened):
        raise SchemaError(str(errors[0])) from errors[0]
    return opened


def _open_file(detector: Detector, found: Found, keep: Sequence[str], rows: int, on_bad: OnBad) -> Input:
    source = open_checked(detector, found, keep, rows, on_bad)
    kind = ArrayInput if is_array(found.place) else TableInput
    return kind(detector.encoder_, source, keep, on_bad)


def _open_images(
    encoder: ImageEncoder,
    images: ImageFolder | str | list[Path],
    keep: Sequence[str],
    rows: int,
    mode: Mode,
    on_bad: OnBad,
) -> Input:
    if isinstance(images, ImageFolder):
        folder = images
    elif on_bad == "fail":
        folder = ImageFolder(images, size=encoder.size, mode=mode)
    else:
        channels, height, width = encoder.shape_
        like = Like(channels, (height, width))
        folder = ImageFolder(images, size=encoder.size, mode=mode, on_bad="quarantine", like=like)
    check_folder(encoder, folder, keep)
    return FolderInput(encoder, folder, keep, rows, on_bad)


def _places(one: Found | ImageFolder | str | list[Path]) -> list[Place]:
    """The file, or the folder or the files of images, that an input stands for."""
    if isinstance(one, Found):
        return [one.place]
    path = one.path if isinstance(one, ImageFolder) else one
    return [Path(path)] if isinstance(path, str | Path) else [Path(file) for file in path]


def _place(one: Found | ImageFolder | str | list[Path]) -> Place:
    if isinstance(one, Found):
        return one.place
    path = one.path if isinstance(one, ImageFolder) else one
    return Path(path) if isinstance(path, str | Path) else Path(path[0]).parent


def _check_once(found: Sequence[Found | ImageFolder | str | list[Path]]) -> None:
    """Refuse rows that would be scored twice, and a job without any."""
    if not found:
        raise ValueError("inputs: name at least one file to score")
    seen: set[Place] = set()
    for place in (place for one in found for place in _places(one)):
        whole = place.absolute() if isinstance(place, Path) else place
        if whole in seen:
            raise ValueError(f"{place} is named twice among the inputs, and its rows would be scored twice")
        seen.add(whole)


def _reason(error: ValueError, place: Place) -> str:
    """An error without the name of the file, which is told beside it."""
    return str(error).removeprefix(str(place)).removeprefix(":").strip()


def image_inputs(inputs: Any) -> list[Found | ImageFolder | str | list[Path]]:
    """Files of arrays or tables, folders that hold images, and all image files named singly as one list."""
    found: list[Found | ImageFolder | str | list[Path]] = []
    single: list[Path] = []
    for one in [inputs] if isinstance(inputs, str | Path | ImageFolder) else inputs:
        if isinstance(one, ImageFolder) or holds_images(one):
            found.append(one if isinstance(one, ImageFolder) else str(one))
            continue
        pictures = _pictures(one)
        single += pictures
        found += [] if pictures else _files(one)
    return [*found, single] if single else found


def holds_images(path: str | Path) -> bool:
    """Whether a path is a folder with image files in it, at any depth."""
    return not is_url(path) and Path(path).is_dir() and bool(find_images(path))


def _pictures(path: str | Path) -> list[Path]:
    """The image files that a path or a pattern stands for."""
    if is_url(path):
        return []
    place = Path(path)
    named = [place] if place.exists() else sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
    return [file for file in named if is_image(file.name) and file.is_file()]


def _files(inputs: Inputs) -> list[Found]:
    """Files of rows, with the columns that all their folders give, wherever a job found them."""
    folders = [inputs] if isinstance(inputs, ImageFolder) else [] if isinstance(inputs, str | Path) else inputs
    if any(isinstance(one, ImageFolder) for one in folders):
        raise SchemaError("the detector was fitted on a table; it cannot score a folder of images")
    return [Found(place, partitions(place)) for place in find_files(inputs)]  # type: ignore[arg-type]
