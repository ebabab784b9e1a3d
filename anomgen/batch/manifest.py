"""The manifest of a scoring job: its parts, then the cutoff and the parts it was applied to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomgen.batch.part import Record
from anomgen.jobs import manifest as jobs
from anomgen.jobs.manifest import Line


class Manifest(jobs.Manifest[Record]):
    """A manifest that also tells which rows are selected.

    Parameters
    ----------
    path : Path
    header : dict
    """

    what = "scores"

    def __init__(self, path: Path, header: Line) -> None:
        super().__init__(path, header)
        self.cutoff: Line | None = None
        self.selected: dict[str, str] = {}
        """The sha256 of every part that holds the column of the selection."""

    def record_of(self, line: Line) -> Record:
        """The record that a line holds."""
        return Record.from_json(line)

    def drop(self, parts: Iterable[str]) -> None:
        """Forget parts whose files are gone or damaged. They will come out as they were, and so will the cutoff."""
        parts = list(parts)
        super().drop(parts)
        for name in parts:
            self.selected.pop(name, None)

    def decide(self, cutoff: Mapping[str, Any]) -> None:
        """Record which rows are selected, before the first part says so."""
        self.append({"cutoff": dict(cutoff)})

    def select(self, part: str, sha256: str) -> None:
        """Record that a part tells which of its rows are selected."""
        self.append({"selected": part, "sha256": sha256})

    def seal(self, order: Sequence[str]) -> None:
        """Put parts into the order of the plan, if they were recorded in another one."""
        self.selected = {name: self.selected[name] for name in order if name in self.selected}
        super().seal(order)

    def sum_of(self, part: str) -> str:
        """The sha256 that a part has by now."""
        return self.selected.get(part, self.records[part].sha256)

    def take(self, line: Line) -> None:
        """Know what a line says."""
        if "part" in line:
            super().take(line)
        elif "cutoff" in line:
            self.cutoff = line["cutoff"]
        else:
            self.selected[line["selected"]] = line["sha256"]

    def lines(self) -> Iterable[Mapping[str, Any]]:
        """Header, parts, cutoff, and the parts it was applied to."""
        yield from super().lines()
        if self.cutoff is not None:
            yield {"cutoff": self.cutoff}
        yield from ({"selected": part, "sha256": found} for part, found in self.selected.items())
