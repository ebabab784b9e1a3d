"""Rows of files that are never in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data.files import several, size
from anomgen.data.labels import is_normal, none_normal
from anomgen.data.sources import Source

Numbers = NDArray[np.int64]
Part = tuple[Numbers, Any]

SAMPLE_ROWS = 200_000
BUFFER_ROWS = 1 << 18
SAMPLE_CELLS = 1 << 25
"""Cells of a sample at most, unless that makes it smaller than ``LEAST`` rows."""
LEAST = 10_000
PIECE = 1 << 21
"""Cells taken at a time."""
PACKED = 4
"""Bytes of text to a byte of a packed file."""
TEXT_BYTES = 50
"""Bytes taken for a cell of text, when nobody has read it."""


class FileRows:
    """Rows of files for a fit that does not hold them: what the `fit` of detectors makes of a source of tables.

    Parameters
    ----------
    source : Source
        From :func:`open_source`.
    label : str, optional
        A column that is left out.
    normal : object, optional
        Leave out the rows with another label; ``"0"``, ``0``, ``0.0`` and ``False`` are the same one.
    sample_rows : int
        Rows drawn evenly from all, that are held: the encoder, the statistic and the threshold come from them. Fewer
        where there are more than 160 columns. No more rows than these are fitted as any others in memory.
    buffer_rows : int
        Rows mixed at a time.

    Raises
    ------
    ValueError
        If the source is one of arrays, or has no such column.
    """

    def __init__(
        self,
        source: Source,
        label: str | None = None,
        normal: Any = None,
        *,
        sample_rows: int = SAMPLE_ROWS,
        buffer_rows: int = BUFFER_ROWS,
    ) -> None:
        if not source.names:
            raise ValueError(f"{several(source.files)}: arrays do not pass by; read them whole")
        if label is not None and label not in source.names:
            raise ValueError(f"{several(source.files)}: there is no column {label!r}")
        if label is None and normal is not None:
            raise ValueError(f"normal={normal!r} is a value of a column: name it with label=")
        if min(sample_rows, buffer_rows) < 2:
            raise ValueError(f"sample_rows={sample_rows} and buffer_rows={buffer_rows} must be 2 or more")
        self.source, self.label, self.normal = source, label, normal
        self.sample_rows = min(sample_rows, max(SAMPLE_CELLS // len(source.names), LEAST))
        self.buffer_rows = buffer_rows
        self._count = source.rows if normal is None else None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(len(numbers) for numbers, _ in self.in_order())
        return self._count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({several(self.source.files)!r})"

    def in_order(self) -> Iterator[Part]:
        """Numbers of rows in the files, counted through all of them, and Arrow tables of these rows.

        Raises
        ------
        ValueError
            If no row has the label asked for.
        """
        rows = first = 0
        labels: set[str] = set()
        for table in self._pieces():
            part = self._wanted(first, table)
            first += len(table)
            rows += len(part[0])
            if not rows and self.label is not None:
                labels |= set(table[self.label].unique().to_pylist())
            yield part
        self._count = rows
        if not first:
            raise ValueError(f"{several(self.source.files)}: there are no rows")
        if not rows:
            raise none_normal(sorted(labels, key=str), str(self.label), self.normal)

    def _pieces(self) -> Iterator[Any]:
        """Tables that are not much larger for having many columns."""
        height = max(PIECE // len(self.source.names), 1)
        for table in self.source.parts():
            yield from (table.slice(start, height) for start in range(0, len(table), height))

    def _wanted(self, first: int, table: Any) -> Part:
        numbers = np.arange(first, first + len(table))
        if self.label is None:
            return numbers, table
        if self.normal is not None:
            kept = np.flatnonzero(is_normal(table[self.label].to_pandas(), self.normal))
            numbers, table = numbers[kept], table.take(kept)
        return numbers, table.drop_columns([self.label])


def decoded_bytes(source: Source) -> int:
    """About how much memory the rows of a table take once they are read.

    Of files of text their bytes, or four times those where they are packed.
    """
    if source.rows is None:
        return sum(size(place) * (PACKED if place.name.endswith(".gz") else 1) for place in source.files)
    return int(source.rows * sum(_width(field.type) for field in source.target))


def _width(kind: Any) -> float:
    try:
        return max(float(kind.bit_width), 8.0) / 8.0
    except ValueError:
        return TEXT_BYTES
