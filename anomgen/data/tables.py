"""Tables in files of every kind: their types, their rows in pieces, and frames made of these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anomgen.data.bad import SHOWN, Bad
from anomgen.data.cells import cast, damaged, without
from anomgen.data.files import Place, is_csv, is_ndjson, is_parquet, size
from anomgen.data.ndjson import json_pieces, json_schema
from anomgen.data.pieces import Piece
from anomgen.data.remote import Remote
from anomgen.data.text import NUMBER, csv_pieces, csv_schema

NUMBERLESS = r"__index_level_\d+__"
INTEGER = r"[-+]?\d{1,18}"
DATE = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"


def found_schema(place: Place, types: Mapping[str, str], *, stray: bool) -> Any:
    """Names and types of the columns that a file says it has, or that its first block looks like."""
    if not size(place):
        raise ValueError("the file is empty")
    if is_csv(place):
        return csv_schema(place, types, stray=stray)
    if is_ndjson(place):
        return json_schema(place, types, stray=stray)
    with parquet(place) as file:
        return file.schema_arrow


def parquet(place: Place) -> Any:
    """An opened Parquet file; its checksums are looked at, where it has some."""
    import pyarrow.parquet as pq

    # the two options keep memory constant: without them it grows with the file
    source = place.open("rb") if isinstance(place, Remote) else place
    return pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def rows_of(files: Sequence[Place]) -> int | None:
    """Rows of Parquet files together; None where a file does not say how many it has."""
    total = 0
    for place in files:
        if not is_parquet(place):
            return None
        with parquet(place) as file:
            total += int(file.metadata.num_rows)
    return total


def pieces(
    place: Place,
    target: Any,
    given: Mapping[str, str | None],
    rows: int,
    groups: Sequence[int] | None = None,
    start: int = 0,
) -> Iterator[Piece]:
    """The columns `target` of a file, piece by piece.

    Parameters
    ----------
    place : Path or Remote
    target : pyarrow.Schema
    given : mapping of str to str or None
        Columns that the file does not have: they hold the same value in all rows.
    rows : int
        Rows of a piece of a Parquet file at most.
    groups : sequence of int, optional
        The row groups of a Parquet file to read; all by default.
    start : int
        The number of the first row of these.

    Raises
    ------
    ValueError, OSError
        If the file cannot be read further.
    """
    import pyarrow as pa

    same = {name: value for name, value in given.items() if name in target.names}
    own = pa.schema([field for field in target if field.name not in same])
    if not len(own):
        # Something has to be read to learn how many rows there are.
        own = pa.schema([found_schema(place, {}, stray=True).field(0)])
    if is_parquet(place):
        found = _parquet_pieces(place, own, rows, groups, start)
    else:
        found = csv_pieces(place, own) if is_csv(place) else json_pieces(place, own)
    cells = {name: same_cell(name, value, target.field(name).type) for name, value in same.items()}
    for piece in found:
        table = piece.table
        for name, cell in cells.items():
            table = table.append_column(name, pa.repeat(cell, len(table)))
        yield piece._replace(table=table.select(target.names) if cells else table)


def same_cell(name: str, value: str | None, kind: Any) -> Any:
    """The value of a column that a folder gives.

    Raises
    ------
    ValueError
        If it is none of the type `kind`.
    """
    import pyarrow as pa

    array, wrong = cast(pa.array([None if value is None else value.encode()], pa.binary()), kind)
    if wrong:
        raise ValueError(f"the folder {name}={value}: {wrong[0][1]}")
    return array[0]


def _parquet_pieces(place: Place, target: Any, rows: int, groups: Sequence[int] | None, start: int) -> Iterator[Piece]:
    import pyarrow as pa

    with parquet(place) as file:
        for batch in file.iter_batches(rows, row_groups=groups, columns=target.names):
            table = pa.Table.from_batches([batch.select(target.names)])
            yield _sound(table, target, start)
            start += len(table)


def _sound(table: Any, target: Any, start: int) -> Piece:
    """A table as the types `target`, without the rows of which a text is damaged."""
    numbers = np.arange(start, start + len(table))
    found: dict[int, Bad] = {}
    for name in table.column_names:
        for at, reason in damaged(table[name]):
            shown = repr(table[name].cast("binary")[at].as_py()[:SHOWN])
            found.setdefault(at, Bad(start + at, name, reason, shown))
    rows = sorted(found)
    good = without(table, rows).cast(target)
    return Piece(np.delete(numbers, rows), good, [found[row] for row in rows])


def partition_types(folders: Sequence[Mapping[str, str | None]], types: Mapping[str, str]) -> dict[str, Any]:
    """Types of the columns that folders give, by what the values of all files look like; none unless all files agree.

    Raises
    ------
    ValueError
        If a type asked for is none.
    """
    names = list(folders[0])
    if any(set(one) != set(names) for one in folders):
        return {}
    return {name: arrow_type(name, types.get(name, _looks([one[name] for one in folders]))) for name in names}


def _looks(values: Sequence[str | None]) -> str:
    known = [value for value in values if value is not None]
    looks = {INTEGER: "int64", NUMBER: "double", DATE: "timestamp[us]"}
    return next((kind for look, kind in looks.items() if all(re.fullmatch(look, v) for v in known)), "string")


def arrow_type(name: str, wanted: Any) -> Any:
    """An Arrow type by its name as text.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    import pyarrow as pa

    if not isinstance(wanted, str):
        return wanted
    try:
        zoned = re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", wanted)
        return pa.timestamp(*zoned.groups()) if zoned else pa.type_for_alias(wanted.split("<")[0])
    except ValueError:
        if wanted.startswith("dictionary"):
            return pa.string()
        raise ValueError(f"types: {wanted!r} of column {name!r} is no Arrow type like 'double' or 'string'") from None


def frame_of(table: Any, start: int) -> Any:
    """An Arrow table as a frame whose index begins at `start`; integers and booleans are nullable."""
    import pandas as pd
    import pyarrow as pa

    nullable = {
        getattr(pa, name.lower())(): getattr(pd, f"{name}Dtype")()
        for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    } | {pa.bool_(): pd.BooleanDtype()}
    frame = table.unify_dictionaries().to_pandas(types_mapper=nullable.get, date_as_object=False, split_blocks=True)
    frame.index = pd.RangeIndex(start, start + len(frame))
    return frame
