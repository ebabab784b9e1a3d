"""Training rows from files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from anomgen.batch.inputs import FOLDER_COLUMN, Mode, image_inputs
from anomgen.data import FileRows, ImageFolder, open_source, read_label, read_table
from anomgen.data.files import Paths, find_files
from anomgen.data.labels import is_normal, none_normal
from anomgen.data.passing import decoded_bytes


def read_training_rows(
    path: Paths,
    label: str | None = None,
    normal: Any = None,
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode = None,
    on_bad: Literal["fail", "quarantine"] = "fail",
    memory: float = math.inf,
) -> Any:
    """Rows to fit a detector on, without their label.

    Parameters
    ----------
    path : path, pattern, or sequence of them
        CSV, Parquet, npz or IDX files, or a folder of images.
    label : str, optional
        The column (in npz files: the array) that is left out. A folder of images has ``"label"``, the sub-folders.
    normal : object, optional
        Keep only the rows with this label; ``"0"``, ``0``, ``0.0`` and ``False`` are the same one.
    size, mode, on_bad
        For a folder of images; see :class:`anomgen.data.ImageFolder`.
    memory : float
        Bytes of rows that are read whole. Tables that would take more of them, once decoded, are not read: a detector
        fits to them as they pass by.

    Returns
    -------
    DataFrame, ndarray from npz and IDX files, ImageFolder, or FileRows for tables larger than `memory`

    Raises
    ------
    ValueError
        If no row has the label, naming those there are; or if images and other rows were to be mixed.
    """
    if label is None and normal is not None:
        raise ValueError(f"normal={normal!r} is a value of a column: name it with label=")
    images = _images(path)
    if images is not None:
        rows: Any = ImageFolder(images, size=size, mode=mode, on_bad=on_bad)
        labels = _folders(rows, label)
    elif (source := open_source(path)).names and decoded_bytes(source) > memory:
        return FileRows(source, label, normal)
    elif label is None:
        return source.read()
    else:
        labels = read_label(path, label)
        names = source.names
        rows = read_table(path, [name for name in names if name != label] if names else None)
    if normal is None:
        return rows
    kept = np.flatnonzero(is_normal(labels, normal))
    if not len(kept):
        raise none_normal(labels, str(label), normal)
    if isinstance(rows, ImageFolder):
        return rows.take(kept)
    return rows.iloc[kept].reset_index(drop=True) if isinstance(rows, pd.DataFrame) else rows[kept]


def _images(path: Paths) -> str | list[Path] | None:
    """The folder of images, or the image files, that `path` stands for; None for rows of other files."""
    found = image_inputs(path)
    images = [one for one in found if isinstance(one, str | list)]
    if not images:
        return None
    if len(found) > 1 or (isinstance(images[0], str) and _tables(images[0])):
        raise ValueError(f"{path} holds images and other rows, or several folders of images; name one of them")
    return images[0]


def _tables(folder: str) -> bool:
    try:
        return bool(find_files(folder))
    except FileNotFoundError:
        return False


def _folders(images: ImageFolder, label: str | None) -> Any:
    if label not in (None, FOLDER_COLUMN):
        raise ValueError(
            f"{images.path} has no column {label!r}: a folder of images has {FOLDER_COLUMN!r}, its sub-folders"
        )
    return [""] * len(images) if images.labels is None else images.labels
