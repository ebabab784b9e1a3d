"""Cells of text to the types of their columns, and those that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data.bad import SHOWN, Bad

LARGEST = 1 << 20
"""Bytes of the largest cell read."""
TOO_LARGE = f"it has more than {LARGEST:,} bytes"
NOT_UTF8 = "it is not UTF-8 text; convert the file"


def cast_columns(columns: dict[str, Any], target: Any, numbers: NDArray[np.int64]) -> tuple[Any, list[Bad]]:
    """Columns of raw bytes as a table of the schema `target`, without the rows of which a cell does not fit.

    Parameters
    ----------
    columns : dict of str to pyarrow.BinaryArray
        Null where the cell is missing.
    target : pyarrow.Schema
    numbers : int64 ndarray
        The numbers of the rows.

    Returns
    -------
    table, bad
        `bad` has one entry a row, in order.
    """
    import pyarrow as pa

    found: dict[int, Bad] = {}
    arrays = []
    for column in target:
        array, wrong = cast(columns[column.name], column.type)
        for at, reason in wrong:
            shown = columns[column.name][at].as_py()[:SHOWN].decode("utf-8", "backslashreplace")
            found.setdefault(at, Bad(int(numbers[at]), column.name, reason, shown))
        arrays.append(array)
    table = pa.Table.from_arrays(arrays, schema=target)
    return without(table, list(found)), [found[at] for at in sorted(found)]


def without(table: Any, rows: list[int]) -> Any:
    """A table without some of its rows."""
    return table.take(np.delete(np.arange(len(table)), rows)) if rows else table


def cast(cells: Any, kind: Any) -> tuple[Any, list[tuple[int, str]]]:
    """Cells of bytes as an array of the type `kind`, null where one does not fit, and which those are and why."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wrong = [(at, TOO_LARGE) for at in large(cells)]
    cells = _cleared(cells, wrong)
    text, not_text = _halves(cells, lambda part: part.cast(pa.string()), pa.string())
    wrong += [(at, NOT_UTF8) for at in not_text]
    if is_text(kind):
        return text.cast(kind), wrong
    trimmed = pc.utf8_trim(text, " \t")
    array, misfits = _halves(trimmed, lambda part: part.cast(kind), kind)
    return array, wrong + [(at, f"it is not {_named(kind)}") for at in misfits]


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def large(cells: Any) -> list[int]:
    """The cells of text or bytes that are too large."""
    import pyarrow.compute as pc

    lengths = pc.binary_length(cells)
    most = pc.max(lengths).as_py()
    if most is None or most <= LARGEST:
        return []
    return np.flatnonzero(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False) > LARGEST).tolist()


def damaged(column: Any) -> list[tuple[int, str]]:
    """The cells of a text column of a file that has types of its own which are too large, or no text, and why."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not is_text(kind):
        return []
    cells = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    cells = cells.cast(kind) if pa.types.is_dictionary(cells.type) else cells
    wrong = [(at, TOO_LARGE) for at in large(cells)]
    try:
        cells.validate(full=True)
    except pa.ArrowInvalid:
        raw = cells.view(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
        wrong += [(at, NOT_UTF8) for at in _halves(raw, lambda part: part.cast(pa.string()), pa.string())[1]]
    return wrong


def _cleared(cells: Any, wrong: list[tuple[int, str]]) -> Any:
    """Cells with null in the place of those that are wrong."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not wrong:
        return cells
    mask = np.zeros(len(cells), bool)
    mask[[at for at, _ in wrong]] = True
    return pc.if_else(pa.array(mask), None, cells)


def _halves(cells: Any, convert: Callable[[Any], Any], kind: Any) -> tuple[Any, list[int]]:
    """What `convert` makes of cells, null where it refuses one; the refused ones are found by halves."""
    import pyarrow as pa

    parts, refused, waiting = [], [], [(0, len(cells))]
    while waiting:
        start, stop = waiting.pop()
        try:
            parts.append(convert(cells.slice(start, stop - start)))
        except pa.ArrowInvalid:
            if stop - start == 1:
                refused.append(start)
                parts.append(pa.nulls(1, kind))
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]
    return pa.concat_arrays(parts), refused


def _named(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "a whole number"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "true or false"
    return (
        "a time" + (" with a zone" if getattr(kind, "tz", None) else "") if pa.types.is_timestamp(kind) else str(kind)
    )
