"""The plan of a job: which rows go into which part, before the first is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anomgen.batch.chunks import Chunk, Input, Span
from anomgen.data.bad import Bad


class Part(NamedTuple):
    """Consecutive rows of an input that go into one file."""

    name: str
    """Of the file."""
    source: str
    """Name of the input."""
    stem: str
    """What the names of all parts of the input begin with."""
    start: int
    stop: int
    """The row behind the last one, at most."""
    exact: bool
    """Whether the input announces that it has all these rows."""


@dataclass(frozen=True)
class Unit:
    """What can be scored by itself: a span of an input, and the parts it is cut into. It can be pickled.

    Parameters
    ----------
    input : Input
    span : Span
    stem : str
        Begins the names of its parts.
    first : int
        Number of its first part.
    rows : int
        Rows of a part; the last has what is left.
    """

    input: Input
    span: Span
    stem: str
    first: int
    rows: int

    def part(self, k: int) -> Part:
        """Part `k` of the unit, from 0."""
        start = self.span.start + k * self.rows
        stop = min(start + self.rows, start + self.rows if self.span.stop is None else self.span.stop)
        name = f"{self.stem}-{self.first + k:05d}.parquet"
        return Part(name, readable(self.input.name), self.stem, start, stop, self.span.stop is not None)

    @property
    def parts(self) -> list[Part] | None:
        """All of them, or None where only reading the file shows how many there are."""
        if self.span.stop is None:
            return None
        return [self.part(k) for k in range(max(1, -(-(self.span.stop - self.span.start) // self.rows)))]


class Piece(NamedTuple):
    """Rows of one part, in the order they are read."""

    part: Part
    chunk: Chunk


class End(NamedTuple):
    """There are no more rows of a part."""

    part: Part
    last: bool
    """Whether the unit ends with it."""


def make_plan(inputs: Sequence[Input], rows: int) -> list[Unit]:
    """Cut inputs into units, and these into parts of about `rows` rows each.

    Parameters
    ----------
    inputs : sequence of Input
    rows : int

    Returns
    -------
    list of Unit
        In order. The parts of a unit whose length is known are equally long; no two parts have the same name.
    """
    units = []
    for one, stem in zip(inputs, _stems(inputs), strict=True):
        first = 0
        for span in one.spans(rows) or [Span(0, 0)]:
            if span.stop is None:
                units.append(Unit(one, span, stem, first, rows))
                continue
            length = span.stop - span.start
            count = max(1, round(length / rows))
            units.append(Unit(one, span, stem, first, max(1, -(-length // count))))
            first += len(units[-1].parts or ())
    return units


def readable(name: str) -> str:
    """The name of an input as text that files can hold: bytes of it that are not UTF-8 are shown by their numbers."""
    return name.encode("utf-8", "backslashreplace").decode()


def cut(unit: Unit, done: Collection[str]) -> Iterator[Piece | End]:
    """Read a unit, and tell the rows of each of its parts from those of the next.

    Parts whose names are in `done` are passed over. A file that ends before the rows it announced gets parts without
    rows, so that every part of the plan is there in the end.
    """
    k, position = 0, unit.span.start
    part = unit.part(0)
    for chunk in unit.input.chunks(unit.span) if unit.span.stop != unit.span.start else ():
        end = position + _height(chunk)
        while end > part.stop and _is_more(unit, k):
            yield from _unless(done, Piece(part, _between(chunk, position, part.stop)))
            yield from _unless(done, End(part, False))
            position, k = part.stop, k + 1
            part = unit.part(k)
        yield from _unless(done, Piece(part, _between(chunk, position, None)))
        position = end
    while unit.span.stop is not None and _is_more(unit, k):
        yield from _unless(done, End(part, False))
        k += 1
        part = unit.part(k)
    yield from _unless(done, End(part, True))


def _is_more(unit: Unit, k: int) -> bool:
    """Whether there can be rows behind part `k`."""
    return unit.span.stop is None or unit.span.start + (k + 1) * unit.rows < unit.span.stop


def _unless(done: Collection[str], event: Piece | End) -> Iterator[Piece | End]:
    if event.part.name not in done and not (isinstance(event, Piece) and _is_empty(event.chunk)):
        yield event


def _is_empty(chunk: Chunk) -> bool:
    return not len(chunk.numbers) and not chunk.bad


def _height(chunk: Chunk) -> int:
    """Rows of the file that a chunk accounts for; what is wrong with a whole file is no row."""
    return len(chunk.numbers) + sum(bad.row >= 0 for bad in chunk.bad)


def _between(chunk: Chunk, start: int, stop: int | None) -> Chunk:
    """The rows of a chunk from `start` on and before `stop`; what is wrong with the file comes last."""
    low, high = np.searchsorted(chunk.numbers, [start, np.iinfo(np.int64).max if stop is None else stop])
    if (
        low == 0
        and high == len(chunk.numbers)
        and stop is None
        and all(bad.row < 0 or bad.row >= start for bad in chunk.bad)
    ):
        return chunk
    bad = [one for one in chunk.bad if _is_within(one, start, stop)]
    rows = None if chunk.rows is None else _slice(chunk.rows, low, high)
    kept = {name: _slice(values, low, high) for name, values in chunk.kept.items()}
    return Chunk(chunk.numbers[low:high], rows, kept, bad, int(high - low) + len(bad))


def _is_within(bad: Bad, start: int, stop: int | None) -> bool:
    if bad.row < 0:
        return stop is None
    return bad.row >= start and (stop is None or bad.row < stop)


def _slice(values: Any, low: int, high: int) -> Any:
    return values.iloc[low:high] if hasattr(values, "iloc") else values[low:high]


def _stems(inputs: Sequence[Input]) -> list[str]:
    """A name for the parts of every input: that of the input, numbered where two inputs have the same."""
    stems: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for one in inputs:
        # A name that begins with a dot or an underscore would hide its parts from whoever reads the folder.
        plain = re.sub(r"[^\w.=+-]+", "_", one.stem).lstrip("._") or "rows"
        stem, number = plain, numbers.get(plain, 1)
        # Some file systems take a name in capitals for the same one.
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        numbers[plain] = number
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
