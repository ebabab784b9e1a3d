"""Files read in chunks of constant memory: Parquet, CSV, NDJSON, npz and IDX; each column has one type throughout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data import arrays
from anomgen.data.files import Found, Paths, Place, find, is_parquet, naming, several
from anomgen.data.pieces import recut, strict
from anomgen.data.tables import (
    NUMBERLESS,
    arrow_type,
    found_schema,
    frame_of,
    partition_types,
    pieces,
    rows_of,
    same_cell,
)

Array = NDArray[Any]
Columns = Sequence[str] | Sequence[int] | None

CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Source:
    """Rows of one or more files, opened and checked but not yet read; see :func:`open_source`.

    Parameters
    ----------
    files : tuple of Path, or of what stands for a file behind a URL
        In the order they are read.
    names : tuple of str
        Columns in order; empty for arrays.
    schema : dict
        Arrow type of every column as text, the same for all files; empty for arrays.
    rows : int or None
        Number of rows, where the files say so without being read.
    chunk_rows : int
        Rows of a chunk; the last chunk of a file has fewer.
    target : pyarrow.Schema or None
        The columns as Arrow has them; None for arrays.
    partitions : tuple of dict
        For every file the columns that only its folders give, with their values.
    """

    files: tuple[Place, ...]
    names: tuple[str, ...]
    schema: dict[str, str]
    rows: int | None
    chunk_rows: int
    target: Any = field(repr=False)
    partitions: tuple[dict[str, str | None], ...] = field(repr=False)
    _columns: Columns = field(repr=False)

    def chunks(self) -> Iterator[Any]:
        """Frames (their index counts the rows of the whole source) or arrays, in order; no chunk crosses a file.

        Raises
        ------
        ValueError
            If a file cannot be read or a cell does not fit its column, naming both; or if there is no row at all.
        """
        start = 0
        for part in self.parts():
            chunk = part if self.target is None else frame_of(part, start)
            start += len(chunk)
            yield chunk
        self._not_empty(start)

    def read(self) -> Any:
        """All rows at once, as one frame or array."""
        parts = list(self.parts())
        self._not_empty(sum(map(len, parts)))
        if self.target is None:
            return np.concatenate(parts)
        import pyarrow as pa

        return frame_of(pa.concat_tables(parts), 0)

    def parts(self) -> Iterator[Any]:
        """What chunks are made of: Arrow tables, or arrays."""
        for place, given in zip(self.files, self.partitions, strict=True):
            with naming(place):
                if self.target is None:
                    yield from arrays.chunks(place, self.chunk_rows, self._columns)
                else:
                    found = pieces(place, self.target, given, self.chunk_rows)
                    yield from strict(recut(found, self.chunk_rows), place)

    def _not_empty(self, rows: int) -> None:
        if not rows:
            raise ValueError(f"{several(self.files)}: there are no rows")


def open_source(
    path: Paths, columns: Columns = None, chunk_rows: int = CHUNK_ROWS, types: Mapping[str, str] | None = None
) -> Source:
    """Open files for reading in chunks, and check before the first row that they fit together.

    Parameters
    ----------
    path : path, URL, pattern, or sequence of them
        A ``.parquet``, ``.pq``, ``.csv``, ``.ndjson``, ``.jsonl``, ``.npz`` or IDX file (``.idx`` or ``-ubyte``), those
        of text and IDX also with ``.gz``; a folder of such files at any depth (names that begin with ``.`` or ``_`` are
        left out), or a pattern such as ``"2026/*.parquet"``. The files of a folder or a pattern are read in the order
        of their paths. All of these may be URLs, such as ``"s3://bucket/2026/*.parquet"``.
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
        not fit: naming file, column and row (counted from 0, without the header).

    Notes
    -----
    A Parquet file tells its types. Those of a CSV or NDJSON file are decided by its first 4 MiB: integer, number,
    boolean, time or text; in CSV empty cells and the usual words for them (``NA``, ``NaN``, ``null`` ...) are missing.
    A column with nothing but missing values there is one of numbers. From there on a type never changes: a cell that
    does not fit is an error. So is, in a column with at least 95 % numbers, a cell that is none: such a column is meant
    to be numbers. Files after the first are read with its types. Integers and booleans arrive as pandas' nullable
    types, so that a chunk with missing values looks like one without; times have microseconds.

    Where all files lie in folders of the same keys, such as ``day=2026-03-01/shop=7``, below the folder or the first
    wildcard that was asked for, these are columns too: integer, number, time or text, as the values of all files look.
    A column of the file goes before one of its folder.

    An npz file holds the rows in its array ``X`` or ``images``, else in its only array of two dimensions, else in its
    only one of more; nothing is unpickled. It is streamed where it was written in C order, and read whole otherwise.
    Arrays may have any number of dimensions: those of images have three or four. For folders of image files see
    :class:`ImageFolder`.

    URLs are opened by Arrow (``file``, ``s3``, ``gs``, ``abfs``, ``hdfs``), others by fsspec and the package that it
    asks for.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows} must be at least 1")
    return open_found(find(path), columns, chunk_rows, types)


def open_found(
    found: Sequence[Found],
    columns: Columns = None,
    chunk_rows: int = CHUNK_ROWS,
    types: Mapping[str, str] | None = None,
    *,
    stray: bool = False,
    unknown: str = "double",
) -> Source:
    """As :func:`open_source`, of files that have been found.

    With `stray`, a text among numbers is no error yet; `unknown` is the type of columns of which nothing was seen.
    """
    files = tuple(one.place for one in found)
    kinds = [arrays.is_array(file) for file in files]
    if all(kinds):
        return _open_arrays(files, columns, chunk_rows)
    if any(kinds):
        raise ValueError(f"{several(files)}: arrays (npz, IDX) and tables cannot be read as one source")
    given = partition_types([one.partitions for one in found], types or {})
    opened = [_schema(file, types or {}, given, stray, unknown) for file in files]
    schemas = [schema for schema, _ in opened]
    names = tuple(map(str, columns)) if columns is not None else tuple(schemas[0].names)
    for file, schema in zip(files, schemas, strict=True):
        _check_names(file, names, schema.names, exact=columns is None)
    target = _select(schemas[0], names)
    for one, (schema, more) in zip(found, opened, strict=True):
        for name in more:
            with naming(one.place):
                same_cell(name, one.partitions[name], schema.field(name).type)
    told = tuple({name: one.partitions[name] for name in more} for one, (_, more) in zip(found, opened, strict=True))
    return Source(files, names, {f.name: str(f.type) for f in target}, rows_of(files), chunk_rows, target, told, None)


def _open_arrays(files: tuple[Place, ...], columns: Columns, chunk_rows: int) -> Source:
    shapes = [_shape(file) for file in files]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(f"the rows of {several(files)} differ in shape: {sorted({s[1:] for s in shapes})}")
    _positions(files[0], columns, shapes[0])
    return Source(files, (), {}, sum(shape[0] for shape in shapes), chunk_rows, None, ({},) * len(files), columns)


def read_table(path: Paths, columns: Columns = None, types: Mapping[str, str] | None = None) -> Any:
    """All rows of one or more files, for fitting: a frame, or an array from npz. See :func:`open_source`."""
    return open_source(path, columns, types=types).read()


def read_label(path: Paths, label: str) -> Array:
    """The labels of the rows :func:`read_table` reads.

    A column of the name `label`, or an array of an npz file; for an IDX file another one that lies beside it.
    """
    found = find(path)
    if not arrays.is_array(found[0].place):
        return np.asarray(open_found(found, [label]).read()[label].to_numpy())
    return np.concatenate([array_label(one.place, label) for one in found])


def array_label(place: Place, label: str) -> Array:
    """The labels of the rows of a file that holds an array."""
    with naming(place):
        return arrays.label(place, label)


def _schema(
    place: Place, types: Mapping[str, str], given: Mapping[str, Any], stray: bool, unknown: str
) -> tuple[Any, list[str]]:
    """Names and types of the columns of a file, and which of them its folders give."""
    import pyarrow as pa

    with naming(place):
        schema = found_schema(place, types, stray=stray)
        # pandas stores an index it cannot describe as a column of such a name
        schema = pa.schema([f for f in schema if not re.fullmatch(NUMBERLESS, f.name)])
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise ValueError(f"the columns {twice} appear more than once; give each its own name")
        looks = {f.name: unknown if pa.types.is_null(f.type) and not is_parquet(place) else f.type for f in schema}
        own = [f.with_type(arrow_type(f.name, types.get(f.name, looks[f.name]))) for f in schema]
        more = [name for name in given if name not in schema.names]
        return pa.schema([*own, *(pa.field(name, given[name]) for name in more)]), more


def _check_names(place: Place, wanted: Sequence[str], present: Sequence[str], *, exact: bool) -> None:
    for name in wanted:
        if name not in present:
            close = get_close_matches(name, present, n=3) or list(present[:10])
            raise ValueError(f"{place}: there is no column {name!r}; it has {', '.join(map(repr, close))} ...")
    extra = [name for name in present if name not in wanted]
    if exact and extra:
        raise ValueError(f"{place}: the columns {extra} are not in the first file; name those to read in columns=")


def _select(schema: Any, names: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.schema([schema.field(name) for name in names])


def _shape(place: Place) -> tuple[int, ...]:
    with naming(place):
        return arrays.shape(place)


def _positions(place: Place, columns: Columns, shape: tuple[int, ...]) -> None:
    for column in columns or ():
        if not isinstance(column, int) or not 0 <= column < shape[1]:
            raise ValueError(f"{place}: there is no column {column!r}; an array has positions 0 to {shape[1] - 1}")
