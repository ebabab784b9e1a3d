"""What a file must hold to be scored by a detector, checked before its first row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomgen.data import Source, open_source, read_label
from anomgen.data.arrays import is_array
from anomgen.detector import Detector
from anomgen.encode import ImageEncoder, JointEncoder, TableEncoder

FITS = {
    "number": ("number",),
    "bool": ("bool", "number"),
    "datetime": ("datetime",),
    "duration": ("duration",),
    "category": ("text",),
}
"""For what a column held in training, what a file may hold."""
ROLES = {
    "number": r"u?int\d+|double|float|halffloat|decimal.*|null",
    "bool": r"bool",
    "datetime": r"timestamp.*|date.*",
    "duration": r"duration.*",
    "text": r"(large_)?string(_view)?",
}
"""Arrow types by what their values are."""


class SchemaError(ValueError):
    """A file whose columns are not those that a detector was fitted on."""


def open_checked(detector: Detector, path: Path, keep: Sequence[str], chunk_rows: int) -> Source:
    """Open a file for scoring.

    Parameters
    ----------
    detector : Detector
    path : Path
    keep : sequence of str
        Columns to read besides those that are scored.
    chunk_rows : int

    Returns
    -------
    Source
        Of the columns to score, then those to keep.

    Raises
    ------
    SchemaError
        Naming the file and every column that is missing or of another type.
    """
    encoder = detector.encoder_
    if is_array(path):
        return _open_arrays(detector, path, keep, chunk_rows)
    is_csv = path.name.endswith((".csv", ".csv.gz"))
    types = _csv_types(detector) if is_csv else {}
    found = open_source(path, types={name: kind for name, kind in types.items() if kind == "string"})
    _check_kept(path, keep, found.names)
    if encoder.container_ != "frame":
        names = [name for name in found.names if name not in keep]
        _check_width(detector, path, (len(names),))
        wrong = [
            f"column {n!r} holds {found.schema[n]}, not numbers" for n in names if _role(found.schema[n]) != "number"
        ]
    else:
        names = [str(column.name) for column in encoder.columns_]
        wrong = _missing(names, found.names) + _mistyped(detector, found.schema)
    if wrong:
        raise SchemaError(f"{path} does not fit the detector: {'; '.join(wrong)}")
    columns = list(dict.fromkeys([*names, *keep]))
    source = open_source(path, columns, chunk_rows, {name: kind for name, kind in types.items() if name in columns})
    return replace(source, names=tuple(names))


def to_score(encoder: TableEncoder | ImageEncoder | JointEncoder, source: Source, chunk: Any) -> Any:
    """The rows of a chunk as the detector takes them."""
    if not isinstance(chunk, pd.DataFrame):
        return chunk
    if encoder.container_ != "frame":
        return chunk[list(source.names)].to_numpy(np.float64, na_value=np.nan)
    # Excluded columns are never looked at, and files need not have them.
    rows = chunk.reindex(columns=[str(name) for name in encoder.names_])
    rows.columns = pd.Index(encoder.names_)
    return rows


def _open_arrays(detector: Detector, path: Path, keep: Sequence[str], chunk_rows: int) -> Source:
    if detector.encoder_.container_ == "frame":
        names = [column.name for column in detector.encoder_.columns_]
        raise SchemaError(f"{path} holds an array, but the detector was fitted on columns with names: {names[:10]}")
    source = open_source(path, chunk_rows=chunk_rows)
    first = next(open_source(path, chunk_rows=1).chunks())
    images = image_encoder(detector)
    if images is None:
        _check_width(detector, path, first.shape[1:])
    else:
        _check_image(images, path, first)
    for name in keep:
        rows = len(read_label(path, name))
        if rows != source.rows:
            raise SchemaError(f"{path}: array {name!r} has {rows} rows, but X has {source.rows}")
    return source


def image_encoder(detector: Detector) -> ImageEncoder | None:
    """The encoder of images of a detector that was fitted on some."""
    encoder = detector.encoder_.rows_ if isinstance(detector.encoder_, JointEncoder) else detector.encoder_
    return encoder if isinstance(encoder, ImageEncoder) else None


def _check_image(encoder: ImageEncoder, path: Path, first: Any) -> None:
    try:
        encoder.levels(first)
    except ValueError as error:
        raise SchemaError(f"{path} does not fit the detector: {error}") from error


def _check_kept(path: Path, keep: Sequence[str], present: Sequence[str]) -> None:
    absent = [name for name in keep if name not in present]
    if absent:
        raise SchemaError(f"{path} has no column {absent[0]!r} to keep; it has {', '.join(map(repr, present[:10]))}")


def _check_width(detector: Detector, path: Path, shape: tuple[int, ...]) -> None:
    if shape != (detector.n_features_in_,):
        raise SchemaError(
            f"{path} has rows of {' x '.join(map(str, shape))} numbers, but the detector was fitted on rows of "
            f"{detector.n_features_in_}; columns that are no features have to be kept, not scored"
        )


def _missing(names: Sequence[str], present: Sequence[str]) -> list[str]:
    wrong = []
    for name in names:
        if name not in present:
            close = get_close_matches(name, present, n=1)
            wrong.append(f"column {name!r} is missing" + (f" (it has {close[0]!r})" if close else ""))
    return wrong


def _mistyped(detector: Detector, schema: dict[str, str]) -> list[str]:
    wrong = []
    for name, role in _strict_roles(detector).items():
        kind = schema.get(name, "null")
        if _role(kind) not in FITS[role] and kind != "null":
            wrong.append(f"column {name!r} holds {_role(kind)} ({kind}), but held {FITS[role][0]} in training")
    return wrong


def _strict_roles(detector: Detector) -> dict[str, str]:
    """What every column must hold; those left out may hold anything, and the encoder checks their cells.

    Left out are columns whose kind the user overrode, and categories that are not all text.
    """
    encoder = detector.encoder_
    dtypes = dict(zip(encoder.names_, encoder.dtypes_, strict=True))
    return {
        str(column.name): dtypes[column.name].role
        for column in encoder.columns_
        if column.name not in encoder.kinds
        and (dtypes[column.name].role != "category" or all(isinstance(level, str) for level in column.levels))
    }


def _csv_types(detector: Detector) -> dict[str, str]:
    """Arrow types of the columns of a CSV file, where what it looks like must not decide: ``007`` can be text."""
    if detector.encoder_.container_ != "frame":
        return {}
    return {
        name: {"number": "double", "category": "string", "bool": "bool"}[role]
        for name, role in _strict_roles(detector).items()
        if role in ("number", "category", "bool")
    }


def _role(arrow_type: str) -> str:
    inner = re.fullmatch(r"dictionary<values=(.+?), .*>", arrow_type)
    text = inner[1] if inner else arrow_type
    return next((role for role, pattern in ROLES.items() if re.fullmatch(pattern, text)), text)
