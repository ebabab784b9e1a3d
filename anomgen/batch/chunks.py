"""What an input is to a scoring job: spans of rows, read in chunks, with what is wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomgen.data.bad import Bad


@dataclass(frozen=True)
class Span:
    """Consecutive rows of one file.

    Parameters
    ----------
    start : int
    stop : int or None
        The row behind the last one; None for the end of a file that does not say how many rows it has.
    """

    start: int
    stop: int | None


@dataclass(frozen=True)
class Chunk:
    """Some rows of a span, in order.

    Parameters
    ----------
    numbers : int64 ndarray
        The number in the file of every good row, from 0.
    rows : frame, array or None
        The good rows as the detector takes them; None where there is none.
    kept : dict of str to array-like
        The columns to write beside the scores, as long as `numbers`; empty where there is no good row.
    bad : list of Bad
        The rows left out, one entry each, in order; a file that ends too early closes with one of ``row=-1``.
    seen : int
        How many rows these are, good and bad.
    """

    numbers: NDArray[np.int64]
    rows: Any
    kept: dict[str, Any]
    bad: list[Bad]
    seen: int


class Input(Protocol):
    """One source of rows; can be pickled, and read by several threads at once."""

    @property
    def name(self) -> str:
        """Where the rows come from: a path or a URL."""

    @property
    def stem(self) -> str:
        """A name for what comes out."""

    def kept(self) -> dict[str, Any]:
        """The Arrow types of the columns to write beside the scores, where they are known before a row is read."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells a file that has changed from the one it was, as JSON values; not the time it was written."""

    def spans(self, rows: int) -> list[Span]:
        """The input cut into pieces of at least `rows` rows where it can be entered in the middle, else whole."""

    def chunks(self, span: Span) -> Iterator[Chunk]:
        """The rows of a span in order, in constant memory.

        Raises
        ------
        ValueError
            For the first bad row, naming file, row and column, unless bad rows are to be left out.
        """


def no_rows(bad: list[Bad]) -> Chunk:
    """A chunk of nothing but bad rows."""
    return Chunk(np.empty(0, np.int64), None, {}, bad, len(bad))


def refuse(name: str, bad: list[Bad]) -> None:
    """Raise the first of `bad`, if there is one."""
    if bad:
        raise ValueError(f"{name}: {bad[0]}")
