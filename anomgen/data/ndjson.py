"""Files of one JSON object a line: what columns they have, and their rows; see :mod:`anomgen.data.text`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from anomgen.data.bad import SHOWN, Bad
from anomgen.data.cells import cast, damaged, is_text
from anomgen.data.files import Place
from anomgen.data.pieces import Piece
from anomgen.data.text import blocks

REFUSALS = (ValueError, TypeError, OverflowError)
"""What Arrow raises for a value of another type, besides its own exceptions."""
NO_OBJECT = "the line is no JSON object"


def json_schema(place: Place, types: Mapping[str, str], *, stray: bool) -> Any:
    """Types of the columns, from the first block of a file; with `stray`, one of several types is text.

    Raises
    ------
    ValueError
        If there is no object, or a column holds values of several types, naming the first one that differs.
    """
    import pyarrow as pa

    content = next(blocks(place, quoted=False)).content
    try:
        found = _read(content, None).schema
    except pa.ArrowInvalid:
        found = _looked_at(content, types, stray)
    if not len(found):
        raise ValueError("it holds no JSON objects, one a line")
    return pa.schema([field.with_type(_kind(field.type)) for field in found])


def _kind(found: Any) -> Any:
    import pyarrow as pa

    return pa.timestamp("us", found.tz) if pa.types.is_timestamp(found) else found


def _looked_at(content: bytes, types: Mapping[str, str], stray: bool) -> Any:
    """Types of the columns of those lines that are objects."""
    import pyarrow as pa

    columns: dict[str, dict[int, Any]] = {}
    for row, line in enumerate(_lines(content)):
        for name, value in (_object(line) or {}).items():
            columns.setdefault(name, {})[row] = value
    fields = []
    for name, values in columns.items():
        try:
            kind = pa.array(list(values.values())).type
        except (*REFUSALS, pa.ArrowException):
            kind = pa.string()
            if not stray and name not in types and not all(isinstance(v, str | None) for v in values.values()):
                usual = type(next(value for value in values.values() if value is not None))
                row = next((row for row, value in values.items() if not isinstance(value, usual | None)), 0)
                raise ValueError(
                    f"row {row:,}, column {name!r}: {str(values[row])[:SHOWN]!r} is of another type than the values "
                    "before it; correct it, or name the columns to read in columns=; rows are counted from 0"
                ) from None
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def json_pieces(place: Place, target: Any) -> Iterator[Piece]:
    """The columns `target` of a file.

    Raises
    ------
    ValueError
        If the file cannot be read further.
    """
    start = 0
    for block in blocks(place, quoted=False):
        piece = _piece(block.content, target, start)
        yield piece
        start += len(piece.numbers) + len(piece.bad)


def _piece(content: bytes, target: Any, start: int) -> Piece:
    import pyarrow as pa

    lines = _lines(content)
    if not lines:
        return Piece(np.empty(0, np.int64), target.empty_table(), [])
    try:
        table = _read(content, target).select(target.names)
        # Arrow also reads two objects in one line, one in two, and a line of null.
        plain = len(table) == len(lines) and all(line[:1] == b"{" for line in lines)
        if plain and not any(damaged(column) for column in table.columns):
            return Piece(np.arange(start, start + len(table)), table, [])
    except pa.ArrowInvalid:
        pass
    return _by_line(lines, target, start)


def _by_line(lines: list[bytes], target: Any, start: int) -> Piece:
    import pyarrow as pa

    objects, rows, found = [], [], {}
    for row, line in enumerate(lines):
        one = _object(line)
        if one is None:
            found[row] = Bad(start + row, "", NO_OBJECT, line[:SHOWN].decode("utf-8", "backslashreplace"))
        else:
            objects.append(one)
            rows.append(row)
    arrays = []
    for field in target:
        array, wrong = _column([one.get(field.name) for one in objects], field.type)
        for at, reason in wrong:
            bad = Bad(start + rows[at], field.name, reason, _shown(objects[at][field.name]))
            found.setdefault(rows[at], bad)
        arrays.append(array)
    good = np.array([i for i, row in enumerate(rows) if row not in found], np.int64)
    table = pa.Table.from_arrays(arrays, schema=target).take(good)
    return Piece(start + np.array(rows, np.int64)[good], table, [found[row] for row in sorted(found)])


def _column(values: list[Any], kind: Any) -> tuple[Any, list[tuple[int, str]]]:
    """Values as an array, null where one does not fit, and which those are and why."""
    import pyarrow as pa

    if is_text(kind) or pa.types.is_timestamp(kind):
        no_text = [(i, "it is not text") for i, v in enumerate(values) if v is not None and not isinstance(v, str)]
        raw = [v.encode("utf-8", "surrogatepass") if isinstance(v, str) else None for v in values]
        array, misfits = cast(pa.array(raw, pa.binary()), kind)
        return array, no_text + misfits
    named, types = _wanted(kind)
    left = [v if types is None or type(v) in types else None for v in values]
    wrong = {i for i, v in enumerate(values) if v is not None and left[i] is None}
    try:
        array = pa.array(left, kind)
    except (*REFUSALS, pa.ArrowException):
        wrong |= {i for i, v in enumerate(left) if v is not None and not _is(v, kind)}
        array = pa.array([None if i in wrong else v for i, v in enumerate(left)], kind)
    return array, [(i, f"it is not {named}") for i in sorted(wrong)]


def _wanted(kind: Any) -> tuple[str, tuple[type, ...] | None]:
    """What a column of a type holds, in words and as what Python reads from JSON."""
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "true or false", (bool,)
    if pa.types.is_floating(kind):
        return "a number", (int, float)
    return ("a whole number", (int,)) if pa.types.is_integer(kind) else (str(kind), None)


def _is(value: Any, kind: Any) -> bool:
    import pyarrow as pa

    try:
        pa.scalar(value, kind)
    except (*REFUSALS, pa.ArrowException):
        return False
    return True


def _read(content: bytes, target: Any) -> Any:
    import pyarrow as pa
    import pyarrow.json as pj

    return pj.read_json(
        pa.BufferReader(content),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(content) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=target, unexpected_field_behavior="infer" if target is None else "ignore"
        ),
    )


def _lines(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line.strip()]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(value: Any) -> str:
    return value[:SHOWN] if isinstance(value, str) else json.dumps(value)[:SHOWN]
