"""Training rows from files, rows to files, and files that appear whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.data import open_source, read_label, read_table

Inputs = str | Path | Sequence[str | Path]


def read_training_rows(path: Inputs, label: str | None = None, normal: Any = None) -> Any:
    """Rows to fit a detector on, without their label.

    Parameters
    ----------
    path : path, pattern, or sequence of them
        CSV, Parquet or npz files.
    label : str, optional
        The column (in npz files: the array) that is left out.
    normal : object, optional
        Keep only the rows with this label; ``"0"``, ``0``, ``0.0`` and ``False`` are the same one.

    Returns
    -------
    DataFrame, or ndarray from npz files

    Raises
    ------
    ValueError
        If no row has the label, naming those there are.
    """
    if label is None:
        if normal is not None:
            raise ValueError(f"normal={normal!r} is a value of a column: name it with label=")
        return read_table(path)
    labels = read_label(path, label)
    names = open_source(path).names
    rows = read_table(path, [name for name in names if name != label] if names else None)
    if normal is None:
        return rows
    kept = np.flatnonzero(is_normal(labels, normal))
    if not len(kept):
        found = ", ".join(map(str, pd.unique(pd.Series(labels)).tolist()[:10]))
        raise ValueError(f"no row has {normal} in {label!r}, which holds {found}")
    return rows.iloc[kept].reset_index(drop=True) if isinstance(rows, pd.DataFrame) else rows[kept]


def is_normal(labels: Any, normal: Any) -> NDArray[np.bool_]:
    """Which labels equal `normal`, as text or as numbers: ``"0"`` equals ``0``, ``0.0`` and ``False``."""
    texts = pd.Series(labels).astype(object).map(_text)
    wanted = {"true": "1", "false": "0"}.get(_text(normal).lower(), _text(normal))
    number = pd.to_numeric(wanted, errors="coerce")
    return np.asarray((texts == _text(normal)) | (pd.to_numeric(texts, errors="coerce") == number), dtype=bool)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value).strip()


def write_rows(rows: Any, path: str | Path) -> None:
    """Write a frame or an array to a ``.csv``, ``.parquet`` or ``.npz`` file.

    The columns of an array are x0, x1, ... in CSV and Parquet; an npz file holds one array ``X``.

    Raises
    ------
    ValueError
        For another kind of file, or a frame with other things than numbers to npz.
    """
    target = Path(path)
    writers = {".csv": _write_csv, ".parquet": _write_parquet, ".npz": _write_npz}
    if target.suffix not in writers:
        raise ValueError(f"{target}: unknown kind of file; rows are written to {', '.join(writers)}")
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(np.asarray(rows)).add_prefix("x")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, partial(writers[target.suffix], frame))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a hidden file beside `path`, and give it that name when it is complete."""
    arriving = path.with_name(f".{path.name}.partial")
    try:
        write(arriving)
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)


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
