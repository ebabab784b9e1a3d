"""Files read in chunks of constant memory: Parquet, CSV, npz and IDX; each column has one type throughout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data import arrays
from anomgen.data.files import Paths, find_files, naming, several

Array = NDArray[Any]
Columns = Sequence[str] | Sequence[int] | None

CHUNK_ROWS = 65_536
CSV_BLOCK = 1 << 22
"""Bytes at the beginning of a CSV file that decide what its columns are."""
NUMERIC_SHARE = 0.95
"""A CSV column with at least this share of numbers in its first block is one of numbers; other cells are errors."""
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


@dataclass(frozen=True)
class Source:
    """Rows of one or more files, opened and checked but not yet read; see :func:`open_source`.

    Parameters
    ----------
    files : tuple of Path
        In the order they are read.
    names : tuple of str
        Columns in order; empty for arrays.
    schema : dict
        Arrow type of every column as text, the same for all files; empty for arrays.
    rows : int or None
        Number of rows, where the files say so without being read.
    chunk_rows : int
        Rows of a chunk; the last chunk of a file has fewer.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    schema: dict[str, str]
    rows: int | None
    chunk_rows: int
    _target: Any = field(repr=False)
    _columns: Columns = field(repr=False)

    def chunks(self) -> Iterator[Any]:
        """Frames (their index counts the rows of the whole source) or arrays, in order; no chunk crosses a file.

        Raises
        ------
        ValueError
            If a file cannot be read or a cell does not fit its column, naming both; or if there is no row at all.
        """
        start = 0
        for part in self._parts():
            chunk = part if self._target is None else frame_of(part, start)
            start += len(chunk)
            yield chunk
        self._not_empty(start)

    def read(self) -> Any:
        """All rows at once, as one frame or array."""
        parts = list(self._parts())
        self._not_empty(sum(map(len, parts)))
        if self._target is None:
            return np.concatenate(parts)
        import pyarrow as pa

        return frame_of(pa.concat_tables(parts), 0)

    def _parts(self) -> Iterator[Any]:
        for path in self.files:
            with naming(path):
                if self._target is None:
                    yield from arrays.chunks(path, self.chunk_rows, self._columns)
                else:
                    yield from tables_of(batches(path, self._target, self.chunk_rows), self.chunk_rows)

    def _not_empty(self, rows: int) -> None:
        if not rows:
            raise ValueError(f"{several(self.files)}: there are no rows")


def open_source(
    path: Paths, columns: Columns = None, chunk_rows: int = CHUNK_ROWS, types: Mapping[str, str] | None = None
) -> Source:
    """Open files for reading in chunks, and check before the first row that they fit together.

    Parameters
    ----------
    path : path, pattern, or sequence of them
        A ``.parquet``, ``.pq``, ``.csv``, ``.csv.gz``, ``.npz`` or IDX file (``.idx`` or ``-ubyte``, with or without
        ``.gz``), a folder of such files at any depth (names that begin with ``.`` or ``_`` are left out), or a pattern
        such as ``"2026/*.parquet"``. The files of a folder or a pattern are read in the order of their paths.
    columns : sequence, optional
        The columns to read, in this order: names, or positions for arrays. All by default.
    chunk_rows : int
        Rows of a chunk.
    types : mapping, optional
        Arrow types of columns by name, such as ``{"shop": "string"}``, instead of those found. A job that scores with
        a fitted model passes the `schema` its training source had. Names the files do not have are passed over.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is empty, of another kind or unreadable, if a column is missing, has a name twice or a cell that does
        not fit: naming file, column and row (the header is not counted).

    Notes
    -----
    A Parquet file tells its types. Those of a CSV file are decided by its first 4 MiB: integer, number, boolean, time
    or text, with empty cells and the usual words for them (``NA``, ``NaN``, ``null`` ...) missing. A column with
    nothing but missing values there is one of numbers. From there on a type never changes: a cell that does not fit is
    an error. So is, in a column with at least 95 % numbers, a cell that is none: such a column is meant to be numbers.
    Files after the first are read with its types. Integers and booleans arrive as pandas' nullable types, so that a
    chunk with missing values looks like one without; times have microseconds.

    An npz file holds the rows in its array ``X`` or ``images``, else in its only array of two dimensions, else in its
    only one of more; nothing is unpickled. It is streamed where it was written in C order, and read whole otherwise.
    Arrays may have any number of dimensions: those of images have three or four. For folders of image files see
    :class:`ImageFolder`.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows} must be at least 1")
    files = tuple(find_files(path))
    kinds = [arrays.is_array(file) for file in files]
    if all(kinds):
        shapes = [_shape(file) for file in files]
        if len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(f"the rows of {several(files)} differ in shape: {sorted({s[1:] for s in shapes})}")
        _positions(files[0], columns, shapes[0])
        return Source(files, (), {}, sum(shape[0] for shape in shapes), chunk_rows, None, columns)
    if any(kinds):
        raise ValueError(f"{several(files)}: arrays (npz, IDX) and tables cannot be read as one source")
    schemas = [_schema(file, types or {}) for file in files]
    names = tuple(map(str, columns)) if columns is not None else tuple(schemas[0].names)
    for file, schema in zip(files, schemas, strict=True):
        _check_names(file, names, schema.names, exact=columns is None)
    target = _select(schemas[0], names)
    return Source(files, names, {f.name: str(f.type) for f in target}, _rows(files), chunk_rows, target, None)


def read_table(path: Paths, columns: Columns = None, types: Mapping[str, str] | None = None) -> Any:
    """All rows of one or more files, for fitting: a frame, or an array from npz. See :func:`open_source`."""
    return open_source(path, columns, types=types).read()


def read_label(path: Paths, label: str) -> Array:
    """The labels of the rows :func:`read_table` reads.

    A column of the name `label`, or an array of an npz file; for an IDX file another one that lies beside it.
    """
    files = find_files(path)
    if not arrays.is_array(files[0]):
        return np.asarray(open_source(path, [label]).read()[label].to_numpy())
    parts = []
    for file in files:
        with naming(file):
            parts.append(arrays.label(file, label))
    return np.concatenate(parts)


def _is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def _schema(path: Path, types: Mapping[str, str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with naming(path):
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        schema = _csv_schema(path, types) if _is_csv(path) else pq.read_schema(path)
        # pandas stores an index it cannot describe as a column of such a name
        schema = pa.schema([f for f in schema if not re.fullmatch(r"__index_level_\d+__", f.name)])
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise ValueError(f"the columns {twice} appear more than once; give each its own name")
        return pa.schema([f.with_type(_arrow_type(f.name, types.get(f.name, f.type))) for f in schema])


def _arrow_type(name: str, wanted: Any) -> Any:
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


def _csv_schema(path: Path, types: Mapping[str, str]) -> Any:
    """Types of the columns of a CSV file, from its first block."""
    import pyarrow as pa

    reader = _open_csv(path, None, None)
    first = next(iter(reader), None)
    fields = []
    for position, column in enumerate(reader.schema):
        kind = column.type
        if pa.types.is_string(kind) and first is not None and column.name not in types:
            _no_stray_text(column.name, first.column(position))
        if pa.types.is_null(kind):
            kind = pa.float64()
        elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", getattr(kind, "tz", None))
        elif pa.types.is_time(kind) or pa.types.is_binary(kind):
            kind = pa.string()
        fields.append(pa.field(column.name, kind))
    return pa.schema(fields)


def _no_stray_text(name: str, cells: Any) -> None:
    """Refuse a column of numbers in which a few cells are not."""
    import pyarrow.compute as pc

    numeric = pc.match_substring_regex(cells, NUMBER)
    share = pc.mean(numeric).as_py() or 0.0
    if NUMERIC_SHARE <= share < 1:
        row = pc.index(numeric, False).as_py()
        raise ValueError(
            f"row {row + 1:,}, column {name!r}: {cells[row].as_py()!r} is not a number and {share:.1%} of the column "
            f"are; leave a missing cell empty, correct it, or read the column as text with types={{{name!r}: 'string'}}"
        )


def _open_csv(path: Path, types: Any, names: Sequence[str] | None) -> Any:
    import pyarrow.csv as csv

    # Arrow reads some 30 blocks ahead: smaller ones, once the types are known, keep that within 40 MB
    block = CSV_BLOCK if types is None else CSV_BLOCK // 4
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=block, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=names, strings_can_be_null=True),
    )


def _check_names(path: Path, wanted: Sequence[str], present: Sequence[str], *, exact: bool) -> None:
    for name in wanted:
        if name not in present:
            close = get_close_matches(name, present, n=3) or list(present[:10])
            raise ValueError(f"{path}: there is no column {name!r}; it has {', '.join(map(repr, close))} ...")
    extra = [name for name in present if name not in wanted]
    if exact and extra:
        raise ValueError(f"{path}: the columns {extra} are not in the first file; name those to read in columns=")


def _select(schema: Any, names: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.schema([schema.field(name) for name in names])


def _rows(files: Sequence[Path]) -> int | None:
    import pyarrow.parquet as pq

    if any(_is_csv(file) for file in files):
        return None
    return sum(int(pq.read_metadata(file).num_rows) for file in files)


def batches(path: Path, target: Any, rows: int, groups: Sequence[int] | None = None) -> Iterator[Any]:
    """Record batches of the columns `target`, `rows` rows at most; of Parquet only the row groups `groups`."""
    import pyarrow.parquet as pq

    if _is_csv(path):
        try:
            yield from _open_csv(path, target, target.names)
        except ValueError as error:
            names = _open_csv(path, None, None).schema.names
            text = re.sub(r"In CSV column #(\d+)", lambda match: f"column {names[int(match[1])]!r}", str(error))
            raise ValueError(text) from error
        return
    # the two options keep memory constant: without them it grows with the file
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(rows, row_groups=groups, columns=target.names):
            yield batch.select(target.names).cast(target)


def tables_of(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """Batches of any height, as tables of `rows` rows."""
    import pyarrow as pa

    held: list[Any] = []
    count = 0
    for batch in batches:
        while count + len(batch) >= rows:
            held.append(batch.slice(0, rows - count))
            batch = batch.slice(rows - count)
            yield pa.Table.from_batches(held)
            held, count = [], 0
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield pa.Table.from_batches(held)


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


def _shape(path: Path) -> tuple[int, ...]:
    with naming(path):
        return arrays.shape(path)


def _positions(path: Path, columns: Columns, shape: tuple[int, ...]) -> None:
    for column in columns or ():
        if not isinstance(column, int) or not 0 <= column < shape[1]:
            raise ValueError(f"{path}: there is no column {column!r}; an array has positions 0 to {shape[1] - 1}")
