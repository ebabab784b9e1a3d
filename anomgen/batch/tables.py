"""Rows of tables and arrays, as the detector takes them, without those that it would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.batch.chunks import Chunk, Span, no_rows, refuse
from anomgen.batch.faults import Encoder, encoder_faults
from anomgen.batch.schema import OnBad, to_score
from anomgen.data import Source, arrays
from anomgen.data.bad import Bad
from anomgen.data.files import DAMAGES, Place, fingerprint, is_parquet, naming
from anomgen.data.pieces import Piece, recut
from anomgen.data.sources import array_label
from anomgen.data.tables import frame_of, parquet, pieces

ENTRIES = 16
"""Spans of an array in an archive at most: each has to read past those before it."""


@dataclass(frozen=True)
class FileInput:
    """What inputs of one file have in common."""

    encoder: Encoder
    source: Source
    keep: Sequence[str]
    on_bad: OnBad

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.source.files[0])

    @property
    def stem(self) -> str:
        """Its name without endings."""
        return self.source.files[0].name.split(".")[0]

    def fingerprint(self) -> dict[str, Any]:
        """Its size and a part of its bytes."""
        return fingerprint(self.source.files[0])

    def _end(self, error: BaseException) -> Bad:
        """What is written down of a file that cannot be read to its end.

        Raises
        ------
        BaseException
            The error itself, unless bad rows are left out.
        """
        if self.on_bad == "fail":
            raise error
        return Bad(-1, "", f"the file cannot be read further: {str(error) or type(error).__name__}")

    def _chunk(self, numbers: NDArray[np.int64], rows: Any, kept: dict[str, Any], bad: Sequence[Bad]) -> Chunk:
        """The rows that have scores; `bad` are those that could not even be read."""
        refused = encoder_faults(self.encoder, rows) if len(numbers) else []
        told = [Bad(int(numbers[one.row]), one.column, one.reason, one.value) for one in refused]
        both = sorted([*bad, *told], key=lambda one: (one.row < 0, one.row))
        if self.on_bad == "fail":
            refuse(self.name, both)
        seen = len(numbers) + len(bad)
        if len(refused) == len(numbers):
            return no_rows(both)
        if refused:
            good = np.delete(np.arange(len(numbers)), [one.row for one in refused])
            frame = isinstance(rows, pd.DataFrame)
            rows = rows.iloc[good].reset_index(drop=True) if frame else rows[good]
            kept = {name: pd.Series(values).iloc[good] for name, values in kept.items()}
            numbers = numbers[good]
        return Chunk(numbers, rows, kept, both, seen)


@dataclass(frozen=True)
class RefusedInput:
    """A file that does not fit the detector, or cannot be read at all: one bad entry, no rows."""

    place: Place
    reason: str

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.place)

    @property
    def stem(self) -> str:
        """Its name without endings."""
        return self.place.name.split(".")[0]

    def kept(self) -> dict[str, Any]:
        """Nothing is known of it."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Its size and a part of its bytes; of a folder nothing."""
        return {} if self.place.is_dir() else fingerprint(self.place)

    def spans(self, rows: int) -> list[Span]:
        """All of it."""
        return [Span(0, None)]

    def chunks(self, span: Span) -> Iterator[Chunk]:
        """The reason."""
        yield no_rows([Bad(-1, "", self.reason)])


@dataclass(frozen=True)
class TableInput(FileInput):
    """Rows of a Parquet, CSV or NDJSON file."""

    def kept(self) -> dict[str, Any]:
        """The types that the file has, or was found to have."""
        return {name: _plain(self.source.target.field(name).type) for name in self.keep}

    def spans(self, rows: int) -> list[Span]:
        """Row groups of Parquet, `rows` rows or more together; other files whole."""
        if self._groups is None:
            return [Span(0, None)]
        found, start = [], 0
        for stop in self._groups.tolist():
            if stop - start >= rows:
                found.append(Span(start, stop))
                start = stop
        last = int(self._groups[-1]) if len(self._groups) else 0
        return found if start == last else [*found, Span(start, last)]

    def chunks(self, span: Span) -> Iterator[Chunk]:
        """The rows, and the columns to keep."""
        place, height = self.source.files[0], self.source.chunk_rows
        groups, start = None, span.start
        if self._groups is not None and span.stop is not None:
            first, last = np.searchsorted(self._groups, [span.start, span.stop - 1], side="right")
            groups = list(range(first, last + 1))
        found = pieces(place, self.source.target, self.source.partitions[0], height, groups, start)
        with naming(place):
            for piece in recut(self._as_far_as_it_goes(found), height):
                frame = frame_of(piece.table, 0)
                rows = to_score(self.encoder, self.source, frame)
                yield self._chunk(piece.numbers, rows, self._as_they_were(piece.table), piece.bad)

    def _as_they_were(self, table: Any) -> dict[str, Any]:
        """The columns to keep, of the types of :meth:`kept`."""
        import pyarrow as pa

        columns = {name: table[name].cast(kind) for name, kind in self.kept().items()}
        frame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)
        return {name: frame[name] for name in columns}

    def _as_far_as_it_goes(self, found: Iterator[Piece]) -> Iterator[Piece]:
        try:
            yield from found
        except DAMAGES as error:
            yield Piece(np.empty(0, np.int64), self.source.target.empty_table(), [self._end(error)])

    @cached_property
    def _groups(self) -> NDArray[np.int64] | None:
        """The row behind every row group of a Parquet file."""
        place = self.source.files[0]
        if not is_parquet(place):
            return None
        with parquet(place) as file:
            metadata = file.metadata
        return np.cumsum([metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)], dtype=np.int64)


@dataclass(frozen=True)
class ArrayInput(FileInput):
    """Rows of an npz or IDX file."""

    def kept(self) -> dict[str, Any]:
        """The types of the arrays."""
        import pyarrow as pa

        with naming(self.source.files[0]):
            return {name: pa.array(array_label(self.source.files[0], name)[:0]).type for name in self.keep}

    def spans(self, rows: int) -> list[Span]:
        """Slices, unless the file has to be unpacked from its beginning."""
        n, path = self.source.rows or 0, self.source.files[0]
        height = max(1, rows, -(-n // ENTRIES))
        if arrays.is_packed(path):
            height = max(n, 1)
        return [Span(start, min(start + height, n)) for start in range(0, n, height)]

    def chunks(self, span: Span) -> Iterator[Chunk]:
        """The rows, and the arrays to keep."""
        path, start = self.source.files[0], span.start
        with naming(path):
            try:
                for rows in arrays.chunks(path, self.source.chunk_rows, None, span.start, span.stop):
                    where = slice(start, start + len(rows))
                    kept = {name: values[where] for name, values in self._kept.items()}
                    yield self._chunk(np.arange(start, start + len(rows)), rows, kept, [])
                    start += len(rows)
            except DAMAGES as error:
                yield no_rows([self._end(error)])

    @cached_property
    def _kept(self) -> dict[str, NDArray[Any]]:
        return {name: array_label(self.source.files[0], name) for name in self.keep}


def _plain(kind: Any) -> Any:
    """What a dictionary holds: which levels it lists depends on how the rows are cut."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind
