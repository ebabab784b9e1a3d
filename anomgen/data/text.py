"""Files of lines, read a block at a time: where a block ends, and what of a CSV file its blocks hold.

A block is first read by Arrow's typed reader. Only one that it refuses is read again as raw cells, so that every row
can be judged by itself; where blocks end depends on nothing but the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anomgen.data.bad import SHOWN, Bad
from anomgen.data.cells import cast_columns, is_text, large
from anomgen.data.files import DAMAGES, Place, stream
from anomgen.data.pieces import Piece

BLOCK = 1 << 22
"""Bytes read at a time; the first of them decide what the columns are."""
LONGEST = 1 << 26
"""Bytes of the longest record read."""
NUMERIC_SHARE = 0.95
"""A text column with at least this share of numbers in its first block is one of numbers; other cells are errors."""
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
OPENING = re.compile(rb'(?:\A|[,\r\n])"')
BYTE_ORDER = b"\xef\xbb\xbf"
"""What some programs put before text in UTF-8."""
UNCLOSED = "it opens a quotation that is never closed"


class Block(NamedTuple):
    """Whole records of a file."""

    content: bytes
    first: bool
    last: bool


def blocks(place: Place, quoted: bool) -> Iterator[Block]:
    """The records of a file in blocks; `quoted` ones may hold line ends between quotation marks.

    Raises
    ------
    ValueError
        For a record of more than 64 MiB.
    """
    with stream(place) as source:
        held, first = source.read(BLOCK).removeprefix(BYTE_ORDER), True
        while True:
            try:
                more = source.read(BLOCK)
            except DAMAGES:
                # What was read before is whole up to its last line end.
                if cut := _cut(held, quoted):
                    yield Block(held[:cut], first, False)
                raise
            if not more:
                yield Block(held, first, True)
                return
            cut = _cut(held, quoted)
            if not cut and len(held) >= LONGEST:
                # A quotation mark somewhere has no partner: the reader of the block finds out which.
                cut = _cut(held, False)
                if not cut:
                    raise ValueError(f"there is no line end within {LONGEST:,} bytes")
            if cut:
                yield Block(held[:cut], first, False)
                first = False
            held = held[cut:] + more


def _cut(content: bytes, quoted: bool) -> int:
    """Where the last whole record ends; 0 where none does."""
    end = b"\n" if b"\n" in content else b"\r"
    # A last "\r" may be the first half of a line end.
    stop = len(content) if end == b"\n" else len(content) - 1
    marks = content.count(b'"') if quoted else 0
    while (at := content.rfind(end, 0, stop)) >= 0:
        marks -= content.count(b'"', at, stop) if quoted else 0
        if marks % 2 == 0:
            return at + 1
        stop = at
    return 0


def csv_schema(place: Place, types: Any, *, stray: bool) -> Any:
    """Types of the columns of a CSV file, from its first block; with `stray`, a stray text makes a column text.

    Raises
    ------
    ValueError
        If there is no header, or a column of numbers holds a text.
    """
    import pyarrow as pa

    table = _beginning(next(blocks(place, quoted=True)))
    fields = []
    for column, cells in zip(table.schema, table.columns, strict=True):
        kind = column.type
        if pa.types.is_string(kind) and column.name not in types and not stray:
            no_stray_text(column.name, cells)
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", getattr(kind, "tz", None))
        elif pa.types.is_time(kind) or pa.types.is_binary(kind):
            kind = pa.string()
        fields.append(pa.field(column.name, kind))
    return pa.schema(fields)


def no_stray_text(name: str, cells: Any) -> None:
    """Refuse a column of numbers in which a few cells are not.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    import pyarrow.compute as pc

    numeric = pc.match_substring_regex(cells, NUMBER)
    share = pc.mean(numeric).as_py() or 0.0
    if NUMERIC_SHARE <= share < 1:
        row = pc.index(numeric, False).as_py()
        raise ValueError(
            f"row {row:,}, column {name!r}: {cells[row].as_py()[:SHOWN]!r} is not a number and {share:.1%} of the "
            "column are; leave a missing cell empty, correct it, or read the column as text with "
            f"types={{{name!r}: 'string'}}; rows are counted from 0"
        )


def csv_pieces(place: Place, target: Any) -> Iterator[Piece]:
    """The columns `target` of a CSV file.

    Raises
    ------
    ValueError
        If the file cannot be read further.
    """
    names, start = None, 0
    for block in blocks(place, quoted=True):
        if names is None:
            names = _beginning(block).column_names
        for part in _sound(block):
            if isinstance(part, bytes):
                shown = part[:SHOWN].decode("utf-8", "backslashreplace")
                piece = Piece(np.empty(0, np.int64), target.empty_table(), [Bad(start, "", UNCLOSED, shown)])
            elif part.first or part.content.strip():
                piece = _piece(part, names, target, start)
            else:
                continue
            yield piece
            start += len(piece.numbers) + len(piece.bad)


def _beginning(block: Block) -> Any:
    """The first block of a file, as its cells look."""
    content = b"".join(part.content for part in _sound(block) if isinstance(part, Block))
    table = _read(content.decode("utf-8", "replace").encode(), None, None, None)
    if any("\ufffd" in name for name in table.column_names):
        raise ValueError("its header is not UTF-8 text; convert the file")
    return table


def _piece(block: Block, names: list[str], target: Any, start: int) -> Piece:
    import pyarrow as pa

    header = None if block.first else names
    try:
        table = _read(block.content, header, target, None)
        if not any(large(cells) for cells in table.columns if is_text(cells.type)):
            return Piece(np.arange(start, start + len(table)), table, [])
    except pa.ArrowInvalid:
        pass
    refused: list[Any] = []
    raw = _raw(block.content, header, target.names, refused)
    count = len(raw[target.names[0]])
    # Arrow counts records from 1, and a header as one of them.
    rows = [record.number - (2 if block.first else 1) + start for record in refused]
    numbers = np.delete(np.arange(start, start + count + len(rows)), np.array(rows, np.int64) - start)
    table, bad = cast_columns(raw, target, numbers)
    good = np.setdiff1d(numbers, [one.row for one in bad])
    bad += [
        Bad(row, "", f"it has {record.actual_columns} cells, not {record.expected_columns}", record.text)
        for row, record in zip(rows, refused, strict=True)
    ]
    return Piece(good, table, sorted(bad, key=lambda one: one.row))


def _raw(content: bytes, header: Sequence[str] | None, names: Sequence[str], refused: list[Any]) -> dict[str, Any]:
    """Columns of a block as bytes."""
    import pyarrow as pa

    try:
        content.decode()
    except UnicodeDecodeError:
        # Arrow cannot report a record that is no text: let every byte be a character on the way through it.
        hidden = [name.encode().decode("latin-1") for name in names]
        above = None if header is None else [name.encode().decode("latin-1") for name in header]
        found = _raw(content.decode("latin-1").encode(), above, hidden, refused)
        return {name: _shown_again(found[mask]) for name, mask in zip(names, hidden, strict=True)}
    table = _read(content, header, pa.schema([(name, pa.binary()) for name in names]), refused)
    return {name: table[name].combine_chunks() for name in names}


def _shown_again(cells: Any) -> Any:
    import pyarrow as pa

    found = [None if cell is None else cell.decode().encode("latin-1") for cell in cells.to_pylist()]
    return pa.array(found, pa.binary())


def _read(content: bytes, names: Sequence[str] | None, types: Any, refused: list[Any] | None) -> Any:
    """A block of a CSV file as a table: of the columns `types`, or of all, with types as they look.

    Records with a wrong number of cells are an error, or go to `refused`; they are passed over for looks.
    """
    import pyarrow as pa
    import pyarrow.csv as csv

    def handle(record: Any) -> str:
        if refused is not None:
            refused.append(record)
        return "skip"

    options = csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=names)
    strict = types is not None and refused is None
    return csv.read_csv(
        pa.BufferReader(content),
        read_options=options,
        parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=None if strict else handle),
        convert_options=csv.ConvertOptions(
            column_types=types, include_columns=None if types is None else types.names, strings_can_be_null=True
        ),
    )


def _sound(block: Block) -> Iterator[Block | bytes]:
    """A block cut where a quotation is never closed: the line that opens it by itself, as bytes."""
    at = _unclosed(block.content) if block.content.count(b'"') % 2 else None
    if at is None:
        yield block
        return
    content = block.content
    line = max(content.rfind(b"\n", 0, at), content.rfind(b"\r", 0, at)) + 1
    if block.first and not content[:line].strip():
        raise ValueError(f"its header: {UNCLOSED}")
    if line:
        yield Block(content[:line], block.first, False)
    end = re.compile(rb"\r\n?|\n").search(content, at)
    stop = end.end() if end else len(content)
    yield content[line:stop]
    if stop < len(content):
        yield from _sound(Block(content[stop:], False, block.last))


def _unclosed(content: bytes) -> int | None:
    """Where a quotation begins that does not end."""
    at = 0
    while (opening := OPENING.search(content, at)) is not None:
        at = opening.end()
        while (at := content.find(b'"', at)) >= 0 and content[at + 1 : at + 2] == b'"':
            at += 2
        if at < 0:
            return opening.end() - 1
        at += 1
    return None
