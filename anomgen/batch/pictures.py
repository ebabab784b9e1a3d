"""Images of a folder, as the detector takes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomgen.batch.chunks import Chunk, Span, no_rows, refuse
from anomgen.batch.faults import encoder_faults
from anomgen.batch.schema import OnBad
from anomgen.data import BadImage, ImageFolder
from anomgen.data.bad import Bad
from anomgen.encode import ImageEncoder
from anomgen.jobs.errors import SchemaError

FOLDER_COLUMN = "label"
"""What a folder of images has besides images: the sub-folder that each lies in."""
PROBED = 4096
"""Bytes of the two ends of an image file that tell it from another."""


@dataclass(frozen=True)
class FolderInput:
    """Images of a folder; the number of a row is that of its file, bad ones included."""

    encoder: ImageEncoder
    folder: ImageFolder
    keep: Sequence[str]
    chunk_rows: int
    on_bad: OnBad

    @property
    def name(self) -> str:
        """The path of the folder; for files named one by one the deepest folder they share."""
        path = self.folder.path
        return str(path) if isinstance(path, str | Path) else os.path.commonpath([Path(file).parent for file in path])

    @property
    def stem(self) -> str:
        """The name of the folder."""
        return Path(self.name).resolve().name or "images"

    def kept(self) -> dict[str, Any]:
        """Paths and sub-folders are text."""
        import pyarrow as pa

        return dict.fromkeys(["file", *self.keep], pa.string())

    def fingerprint(self) -> dict[str, Any]:
        """How many files, their bytes, and a digest of their names, sizes and ends."""
        digest, size = hashlib.sha256(), 0
        for name in self.folder.found:
            with self.folder.file(name).open("rb") as file:
                head = file.read(PROBED)
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - PROBED, 0))
                digest.update(f"{name}\0{end}\0".encode() + head + file.read())
            size += end
        return {"files": len(self.folder.found), "size": size, "sha256": digest.hexdigest()}

    def spans(self, rows: int) -> list[Span]:
        """Slices of the files."""
        n = len(self.folder.found)
        return [Span(start, min(start + rows, n)) for start in range(0, n, rows)]

    def chunks(self, span: Span) -> Iterator[Chunk]:
        """The images, the path of each below the folder, and its sub-folder if that is kept."""
        stop = len(self.folder.found) if span.stop is None else span.stop
        for start in range(span.start, stop, self.chunk_rows):
            yield self._chunk(start, min(start + self.chunk_rows, stop))

    def _chunk(self, start: int, stop: int) -> Chunk:
        numbers, images, bad = [], [], []
        refused = self.folder.refused
        for row in range(start, stop):
            name = self.folder.found[row]
            if name in refused:
                bad.append(Bad(row, "", refused[name], name))
                continue
            try:
                images.append(self.folder.decode(name))
                numbers.append(row)
            except BadImage as error:
                bad.append(Bad(row, "", error.reason, name))
        if images:
            rows = as_trained(self.encoder, np.stack(images))
            bad += [Bad(numbers[one.row], "", one.reason, one.value) for one in encoder_faults(self.encoder, rows)]
        bad.sort(key=lambda one: one.row)
        if self.on_bad == "fail":
            refuse(self.name, bad)
        left_out = {one.row for one in bad}
        good = [i for i, row in enumerate(numbers) if row not in left_out]
        if not good:
            return no_rows(bad)
        names = [self.folder.found[numbers[i]] for i in good]
        kept = {name: [file.rpartition("/")[0] for file in names] for name in self.keep}
        return Chunk(np.array(numbers)[good], rows[good], {"file": names, **kept}, bad, stop - start)


def check_folder(encoder: ImageEncoder, folder: ImageFolder, keep: Sequence[str]) -> None:
    """Refuse a folder whose images are not like those of the training.

    Raises
    ------
    SchemaError
        Naming the first image, and what to do.
    """
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


def as_trained(encoder: ImageEncoder, images: Any) -> Any:
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
