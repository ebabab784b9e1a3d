"""What a file must hold to be scored by a detector, checked before its first row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import pandas as pd

from anomgen.data import Source, arrays
from anomgen.data.arrays import is_array
from anomgen.data.files import Found, Place, is_csv, is_ndjson, is_parquet, naming
from anomgen.data.sources import array_label, open_found
from anomgen.data.tables import pieces
from anomgen.detector import Detector
from anomgen.encode import ImageEncoder, JointEncoder, TableEncoder
from anomgen.jobs.errors import SchemaError

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
KINDS = {
    "number": ("double",),
    "bool": ("bool", "double"),
    "datetime": ("timestamp[us]", "timestamp[us, tz=UTC]"),
}
"""Arrow types that text may turn out to have, by what it is to be."""
LEADING_ZERO = r"^\s*[-+]?0\d+\s*$"
MANY_DIGITS = r"^\s*[-+]?\d{16,}\s*$"
LOOKED_AT = 10_000
"""Rows at the beginning of a file of text that say whether a column holds what it should."""
OnBad = Literal["fail", "quarantine", "skip"]


def open_checked(
    detector: Detector, found: Found, keep: Sequence[str], chunk_rows: int, on_bad: OnBad = "fail"
) -> Source:
    """Open a file for scoring.

    Parameters
    ----------
    detector : Detector
    found : Found
        The file, and the columns that its folders give.
    keep : sequence of str
        Columns to read besides those that are scored.
    chunk_rows : int
    on_bad : {"fail", "quarantine", "skip"}
        Where bad rows are left out, a column of text fits if any cell of its first block does.

    Returns
    -------
    Source
        Of the columns to score, then those to keep.

    Raises
    ------
    SchemaError
        Naming the file and every column that is missing or of another type.
    """
    place = found.place
    if is_array(place):
        return _open_arrays(detector, place, keep, chunk_rows)
    told = _types(detector)
    stray = on_bad != "fail" and not is_parquet(place)
    texts = {} if is_parquet(place) else {name: kind for name, kind in told.items() if kind == "string"}
    looks = open_found([found], types=texts, stray=stray, unknown="null")
    _check_kept(place, keep, looks.names)
    names = _names(detector, place, [name for name in looks.names if name not in keep])
    wrong = _missing(names, looks.names)
    types = {name: kind for name, kind in told.items() if _decides(place, name, kind, looks)}
    types |= {name: _dates(detector, name) for name in names if _is_unseen_date(detector, name, looks)}
    if detector.encoder_.container_ != "frame" and not is_parquet(place):
        types |= dict.fromkeys(names, "double")
    if is_csv(place):
        kept = [name for name in keep if name not in types and name not in looks.partitions[0]]
        types |= dict.fromkeys(_codes(found, {name: looks.schema[name] for name in kept}), "string")
    by_folder = {name: types[name] for name in looks.partitions[0] if name in types}
    for name, text in _mistyped(detector, names, looks.schema | by_folder).items():
        kind = _fitting(found, name, KINDS.get(_roles(detector, names)[name], ())) if stray else None
        if kind is None:
            wrong.append(text)
        else:
            types[name] = kind
    if wrong:
        raise SchemaError(f"{place} does not fit the detector: {'; '.join(wrong)}")
    columns = list(dict.fromkeys([*names, *keep]))
    return replace(open_found([found], columns, chunk_rows, types, stray=stray), names=tuple(names))


def _names(detector: Detector, place: Place, others: Sequence[str]) -> list[str]:
    """The columns to score; of a detector of arrays all that are not kept."""
    encoder = detector.encoder_
    if encoder.container_ == "frame":
        return [str(column.name) for column in encoder.columns_]
    _check_width(detector, place, (len(others),))
    return list(others)


def _roles(detector: Detector, names: Sequence[str]) -> dict[str, str]:
    """What columns must hold."""
    return _strict_roles(detector) if detector.encoder_.container_ == "frame" else dict.fromkeys(names, "number")


def _types(detector: Detector) -> dict[str, str]:
    """Arrow types of columns of which what cells of text look like must not decide: ``007`` can be text."""
    if detector.encoder_.container_ != "frame":
        return {}
    kinds = {"number": "double", "category": "string", "bool": "bool"}
    return {name: kinds[role] for name, role in _strict_roles(detector).items() if role in kinds}


def _decides(place: Place, name: str, kind: str, looks: Source) -> bool:
    """Whether a column is to be read as the detector has it, not as the file."""
    if name in looks.partitions[0] or is_csv(place):
        return True
    # JSON says itself what is true or a number.
    return is_ndjson(place) and kind != "bool"


def _is_unseen_date(detector: Detector, name: str, looks: Source) -> bool:
    return looks.schema.get(name) == "null" and _roles(detector, [name]).get(name) == "datetime"


def _dates(detector: Detector, name: str) -> str:
    encoder = detector.encoder_
    zone = next(dtype.zone for one, dtype in zip(encoder.names_, encoder.dtypes_, strict=True) if str(one) == name)
    return "timestamp[us]" if zone is None else f"timestamp[us, tz={zone}]"


def _fitting(found: Found, name: str, kinds: Sequence[str]) -> str | None:
    """The type that most cells at the beginning of a file of text have, if any cell has one of `kinds`."""
    counts: list[int] = []
    for kind in kinds:
        source = open_found([found], [name], types={name: kind}, stray=True)
        held = seen = 0
        with naming(found.place):
            for piece in pieces(found.place, source.target, source.partitions[0], LOOKED_AT):
                held += int(len(piece.table) - piece.table[name].null_count)
                seen += len(piece.table) + len(piece.bad)
                if seen >= LOOKED_AT:
                    break
        counts.append(held)
    most = max(counts, default=0)
    return kinds[counts.index(most)] if most else None


def _codes(found: Found, kinds: Mapping[str, str]) -> list[str]:
    """Columns that look like numbers and are not: zeros that lead, or digits that no number holds, would be lost."""
    import pyarrow.compute as pc

    lost = {"int64": LEADING_ZERO, "double": f"{LEADING_ZERO}|{MANY_DIGITS}"}
    looked = [name for name, kind in kinds.items() if kind in lost]
    if not looked:
        return []
    source = open_found([found], looked, types=dict.fromkeys(looked, "string"), stray=True)
    with naming(found.place):
        first = next(pieces(found.place, source.target, {}, LOOKED_AT)).table
    return [name for name in looked if pc.any(pc.match_substring_regex(first[name], lost[kinds[name]])).as_py()]


def to_score(encoder: TableEncoder | ImageEncoder | JointEncoder, source: Source, chunk: Any) -> Any:
    """The rows of a chunk as the detector takes them."""
    if not isinstance(chunk, pd.DataFrame):
        return chunk
    if encoder.container_ != "frame":
        return chunk[list(source.names)].to_numpy(np.float64, na_value=np.nan)
    # Excluded columns are never looked at, and files need not have them.
    rows = chunk.reindex(columns=[str(name) for name in encoder.names_])
    rows.columns = pd.Index(encoder.names_)
    dtypes = dict(zip(encoder.names_, encoder.dtypes_, strict=True))
    for column in encoder.columns_:
        if dtypes[column.name].role == "datetime" and pd.api.types.is_string_dtype(rows[column.name].dtype):
            rows[column.name] = _each_by_itself(rows[column.name])
    return rows


def _each_by_itself(dates: Any) -> Any:
    """Dates that are text, parsed one by one: pandas would expect all to be written as the first; others stay text."""
    parsed = pd.to_datetime(dates, format="mixed", errors="coerce", utc=True).astype(object)
    return parsed.where(parsed.notna() | dates.isna(), dates)


def _open_arrays(detector: Detector, path: Place, keep: Sequence[str], chunk_rows: int) -> Source:
    if detector.encoder_.container_ == "frame":
        names = [column.name for column in detector.encoder_.columns_]
        raise SchemaError(f"{path} holds an array, but the detector was fitted on columns with names: {names[:10]}")
    source = open_found([Found(path, {})], chunk_rows=chunk_rows)
    with naming(path):
        arrays.check(path)
        first = next(arrays.chunks(path, 1, None), None)
    if first is None:
        raise SchemaError(f"{path} has no rows")
    images = image_encoder(detector)
    if images is None:
        _check_width(detector, path, first.shape[1:])
    else:
        _check_image(images, path, first)
    for name in keep:
        rows = len(array_label(path, name))
        if rows != source.rows:
            raise SchemaError(f"{path}: array {name!r} has {rows} rows, but X has {source.rows}")
    return source


def image_encoder(detector: Detector) -> ImageEncoder | None:
    """The encoder of images of a detector that was fitted on some."""
    encoder = detector.encoder_.rows_ if isinstance(detector.encoder_, JointEncoder) else detector.encoder_
    return encoder if isinstance(encoder, ImageEncoder) else None


def _check_image(encoder: ImageEncoder, path: Place, first: Any) -> None:
    try:
        encoder.levels(first)
    except ValueError as error:
        raise SchemaError(f"{path} does not fit the detector: {error}") from error


def _check_kept(path: Place, keep: Sequence[str], present: Sequence[str]) -> None:
    absent = [name for name in keep if name not in present]
    if absent:
        raise SchemaError(f"{path} has no column {absent[0]!r} to keep; it has {', '.join(map(repr, present[:10]))}")


def _check_width(detector: Detector, path: Place, shape: tuple[int, ...]) -> None:
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


def _mistyped(detector: Detector, names: Sequence[str], schema: dict[str, str]) -> dict[str, str]:
    """Columns that hold another thing than in training, and how to say so."""
    wrong = {}
    for name, role in _roles(detector, names).items():
        kind = schema.get(name, "null")
        if _role(kind) not in FITS[role] and kind != "null":
            held = "not numbers" if detector.encoder_.container_ != "frame" else f"but held {FITS[role][0]} in training"
            wrong[name] = f"column {name!r} holds {_role(kind)} ({kind}), {held}"
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


def _role(arrow_type: str) -> str:
    inner = re.fullmatch(r"dictionary<values=(.+?), .*>", arrow_type)
    text = inner[1] if inner else arrow_type
    return next((role for role, pattern in ROLES.items() if re.fullmatch(pattern, text)), text)
