"""One part of a job: the scores of some rows as a Parquet file, what was bad among them, and the record of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from anomgen.batch.plan import Part
from anomgen.batch.scoring import Scored
from anomgen.data.bad import Bad
from anomgen.drift import Counter
from anomgen.jobs.whole import arriving, sha256

ROW_GROUP = 131_072
"""Rows of a Parquet row group, which bound the memory of a reader."""
PLAIN = {"row": "DELTA_BINARY_PACKED", "score": "PLAIN"}
"""How columns are stored in which values hardly repeat: half the size and the time of a dictionary of them."""
QUARANTINE = "_quarantine"
"""Folder of the lists of bad rows. Whoever reads the folder of scores passes over names with an underscore."""


@dataclass(frozen=True)
class Record:
    """What the manifest says of a part.

    Parameters
    ----------
    part : str
        Name of the file.
    source : str
    start : int
        The first row of the input that belongs to it.
    rows, bad, flagged : int
        Rows with a score, rows without, and rows below the threshold.
    last : bool
        Whether its unit ends here.
    sha256 : str
    quarantine : str or None
        The sha256 of its list of bad rows.
    drift : dict or None
        State of the counter of its rows.
    """

    part: str
    source: str
    start: int
    rows: int
    bad: int
    flagged: int
    last: bool
    sha256: str
    quarantine: str | None = None
    drift: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Self:
        """From a line of the manifest."""
        return cls(**line)

    def to_json(self) -> dict[str, Any]:
        """As a line of the manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_whole(self, folder: Path, known: str) -> bool:
        """Whether the files are there as they were written: that of scores with the sha256 `known`."""
        wanted = {folder / self.part: known, folder / QUARANTINE / self.part: self.quarantine}
        return all(one is None or (path.is_file() and sha256(path) == one) for path, one in wanted.items())


class PartWriter:
    """Gathers what is scored of a part, and writes it when there is no more.

    Parameters
    ----------
    part : Part
    folder : Path
    quarantine : bool
        Whether bad rows are listed in a file.
    """

    def __init__(self, part: Part, folder: Path, quarantine: bool) -> None:
        self.part = part
        self.folder = folder
        self.quarantine = quarantine
        self._tables: list[Any] = []
        self._bad: list[Bad] = []
        self._flagged = 0
        self._drift: dict[str, Any] | None = None

    def add(self, scored: Scored) -> None:
        """Take the next rows."""
        self._bad += scored.bad
        if scored.table is None:
            return
        self._tables.append(scored.table)
        self._flagged += scored.flagged
        if scored.drift is not None:
            self._drift = scored.drift if self._drift is None else Counter.merge([self._drift, scored.drift])

    def finish(self, last: bool, empty: Any) -> Record:
        """Write the files of the part; `empty` is a table without rows, for a part that has none."""
        table = _joined(self._tables) if self._tables else empty
        listed = self._write_bad() if self._bad and self.quarantine else None
        return Record(
            part=self.part.name,
            source=self.part.source,
            start=self.part.start,
            rows=len(table),
            bad=self._count_bad(len(table)),
            flagged=self._flagged,
            last=last,
            sha256=write_table(table, self.folder / self.part.name),
            quarantine=listed,
            drift=self._drift,
        )

    def _count_bad(self, rows: int) -> int:
        """Bad rows, those included that the input announced and did not have."""
        listed = sum(bad.row >= 0 for bad in self._bad)
        lost = self.part.stop - self.part.start - rows - listed if self.part.exact else 0
        # What is wrong with a file that does not say how many rows it has counts as one.
        return listed + max(lost, any(bad.row < 0 for bad in self._bad))

    def _write_bad(self) -> str:
        import pyarrow as pa

        columns: dict[str, Sequence[Any]] = {
            "source": [self.part.source] * len(self._bad),
            **{name: [getattr(bad, name) for bad in self._bad] for name in ("row", "column", "reason", "value")},
        }
        kinds = {"source": pa.string(), "row": pa.int64(), "column": pa.string(), "reason": pa.string()}
        schema = pa.schema({**kinds, "value": pa.string()})
        (self.folder / QUARANTINE).mkdir(exist_ok=True)
        return write_table(pa.table(columns, schema), self.folder / QUARANTINE / self.part.name)


def write_table(table: Any, path: Path) -> str:
    """Write a table as a whole Parquet file; its sha256."""
    import pyarrow.parquet as pq

    plain = [name for name in PLAIN if name in table.column_names]
    with arriving(path) as place:
        pq.write_table(
            table.combine_chunks(),
            place,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=[name for name in table.column_names if name not in plain],
            column_encoding={name: PLAIN[name] for name in plain},
        )
        return sha256(place)


def _joined(tables: list[Any]) -> Any:
    """Tables in a row; a column that has no value at all in some of them has the type of the others."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")
