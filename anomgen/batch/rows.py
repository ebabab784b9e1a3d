"""Training rows from files, rows to files, and files that appear whole."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.batch.inputs import FOLDER_COLUMN, Mode, image_inputs
from anomgen.batch.schema import image_encoder
from anomgen.data import FileRows, ImageFolder, open_source, read_label, read_table
from anomgen.data.files import Paths, find_files
from anomgen.data.labels import is_normal, none_normal
from anomgen.data.passing import decoded_bytes
from anomgen.detector import Detector
from anomgen.jobs.whole import write_whole


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


def write_rows(rows: Any, path: str | Path, detector: Detector | None = None) -> None:
    """Write a frame or an array to a ``.csv``, ``.parquet`` or ``.npz`` file, or images to a folder of PNG files.

    The columns of an array are x0, x1, ... in CSV and Parquet; an npz file holds one array ``X``, images with the type
    they have. A path without an ending is a folder: its images are 00000.png, 00001.png ...

    Parameters
    ----------
    rows : frame, array or images
    path : path
    detector : Detector, optional
        The one that drew the images of a folder: it knows their layout, and which values are black and white.

    Raises
    ------
    ValueError
        For another kind of file, a frame with other things than numbers to npz, or rows that are no images to a folder.
    FileExistsError
        If the folder holds anything but such images; those are replaced.
    """
    target = Path(path)
    encoder = None if detector is None else image_encoder(detector)
    whole = isinstance(rows, np.ndarray) and rows.ndim > 2
    writers: dict[str, Callable[[Any, Path], None]] = {".npz": _write_images if whole else _write_npz}
    if not whole:
        writers |= {".csv": _write_csv, ".parquet": _write_parquet}
    if target.suffix not in writers and (target.suffix or encoder is None):
        known = [*sorted(writers), *([] if encoder is None else ["a folder"])]
        raise ValueError(f"{target}: unknown kind of file; these rows are written to {', '.join(known)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.suffix and encoder is not None:
        _clear(target)
        write_whole(target, partial(_write_pictures, encoder.levels(rows)))
        return
    if not whole and not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame(np.asarray(rows)).add_prefix("x")
    write_whole(target, partial(writers[target.suffix], rows))


def _clear(folder: Path) -> None:
    """Remove a folder of numbered images, and no other."""
    found = sorted(folder.iterdir()) if folder.exists() else []
    foreign = next((file for file in found if not re.fullmatch(r"\d+\.png", file.name)), None)
    if foreign is not None:
        raise FileExistsError(f"{folder} holds {foreign.name}, which is no numbered image; name another folder")
    for file in found:
        file.unlink()
    if folder.exists():
        folder.rmdir()


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.rename(columns=str).to_parquet(path, index=False)


def _write_npz(frame: pd.DataFrame, path: Path) -> None:
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"npz holds numbers only, and column {name!r} is {frame[name].dtype}; choose .parquet")
    with path.open("wb") as file:
        np.savez(file, X=frame.to_numpy(np.float64, na_value=np.nan))


def _write_images(images: NDArray[Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, X=images)


def _write_pictures(levels: NDArray[np.uint8], folder: Path) -> None:
    """Images ``(n, c, h, w)`` as PNG files."""
    from PIL import Image

    folder.mkdir()
    digits = max(5, len(str(len(levels) - 1)))
    for number, image in enumerate(levels):
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{number:0{digits}d}.png")
