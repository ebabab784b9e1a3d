"""Pieces of a table as they are read: rows in order, their numbers, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomgen.data.bad import Bad
from anomgen.data.files import Place


class Piece(NamedTuple):
    """Some rows of a file."""

    numbers: NDArray[np.int64]
    """The number in the file of every row of `table`."""
    table: Any
    """Arrow table of the rows that can be used."""
    bad: list[Bad]
    """The rows between those that cannot, in order."""


def strict(pieces: Iterable[Piece], place: Place) -> Iterator[Any]:
    """The tables of pieces.

    Raises
    ------
    ValueError
        For the first bad row, naming the file.
    """
    for piece in pieces:
        if piece.bad:
            raise ValueError(f"{place}: {piece.bad[0]}; rows are counted from 0")
        yield piece.table


def recut(pieces: Iterable[Piece], rows: int) -> Iterator[Piece]:
    """The same rows in pieces of `rows` good rows; bad ones stay with the good one they come before.

    Bad rows are held too: where they are as many, the good ones among them have to do for a piece.
    """
    held: list[Piece] = []
    count = bad = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.numbers)
        bad += len(piece.bad)
        while count >= rows:
            whole = _join(held)
            last = whole.numbers[rows] if count > rows else np.iinfo(np.int64).max
            before = sum(0 <= one.row < last for one in whole.bad)
            yield Piece(whole.numbers[:rows], whole.table.slice(0, rows), whole.bad[:before])
            held = [Piece(whole.numbers[rows:], whole.table.slice(rows), whole.bad[before:])]
            count, bad = count - rows, bad - before
        if bad >= rows:
            yield _join(held)
            held, count, bad = [], 0, 0
    if held and (count or any(piece.bad for piece in held)):
        yield _join(held)


def _join(held: list[Piece]) -> Piece:
    import pyarrow as pa

    if len(held) == 1:
        return held[0]
    numbers = np.concatenate([piece.numbers for piece in held])
    table = pa.concat_tables([piece.table for piece in held])
    return Piece(numbers, table, [bad for piece in held for bad in piece.bad])
