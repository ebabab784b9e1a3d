"""The manifest of a job: what it is, and which of its parts are done, one JSON line each, appended as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from anomgen.batch.errors import ModelMismatch
from anomgen.batch.part import Record
from anomgen.batch.whole import write_whole

MANIFEST = "_manifest.ndjson"
FORMAT = 1

Line = dict[str, Any]


class Manifest:
    """A file of JSON lines: the header, a record for each part, then the cutoff and the parts it was applied to.

    Appended lines are on the disk before the job goes on. A line that a kill cut in two is dropped when the file is
    opened again. Parts may be recorded in any order; :meth:`seal` puts them into that of the plan.

    Parameters
    ----------
    path : Path
    header : dict
    """

    def __init__(self, path: Path, header: Line) -> None:
        self.path = path
        self.header = header
        self.records: dict[str, Record] = {}
        self.cutoff: Line | None = None
        self.selected: dict[str, str] = {}
        """The sha256 of every part that holds the column of the selection."""

    @classmethod
    def begin(cls, folder: Path, header: Line) -> Self:
        """A new manifest, which replaces one found there."""
        manifest = cls(folder / MANIFEST, header)
        manifest._write()
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder of scores, as far as it is whole.

        Raises
        ------
        ModelMismatch
            If it is no manifest, or damaged otherwise than at its end.
        """
        path = folder / MANIFEST
        content = path.read_bytes()
        lines = content.split(b"\n")
        parsed = []
        for number, line in enumerate(lines[:-1]):
            try:
                parsed.append(json.loads(line))
            except ValueError:
                if number < len(lines) - 2:
                    raise ModelMismatch(f"{path}, line {number + 1} is damaged; ask to overwrite the scores") from None
        if not (parsed and isinstance(parsed[0], dict) and parsed[0].get("format") == FORMAT):
            raise ModelMismatch(f"{path} is no manifest of format {FORMAT}; ask to overwrite the scores")
        manifest = cls(path, parsed[0])
        try:
            for found in parsed[1:]:
                manifest._take(found)
        except (KeyError, TypeError):
            raise ModelMismatch(f"{path} is damaged: {str(found)[:200]}; ask to overwrite the scores") from None
        return manifest

    def resume(self) -> None:
        """Make the file hold what is known, no more and in this order, so that lines can be appended."""
        whole = b"".join(map(_encoded, self._lines(self.records.values(), self.selected.items())))
        if self.path.read_bytes() != whole:
            self._write()

    def drop(self, parts: Iterable[str]) -> None:
        """Forget parts whose files are gone or damaged. They will come out as they were, and so will the cutoff."""
        for name in parts:
            self.records.pop(name, None)
            self.selected.pop(name, None)

    def add(self, record: Record) -> None:
        """Record that a part is done."""
        self._append({"part": record.part, **record.to_json()})

    def decide(self, cutoff: Mapping[str, Any]) -> None:
        """Record which rows are selected, before the first part says so."""
        self._append({"cutoff": dict(cutoff)})

    def select(self, part: str, sha256: str) -> None:
        """Record that a part tells which of its rows are selected."""
        self._append({"selected": part, "sha256": sha256})

    def seal(self, order: Sequence[str]) -> None:
        """Put parts into the order of the plan, if they were recorded in another one."""
        self.records = {name: self.records[name] for name in order}
        self.selected = {name: self.selected[name] for name in order if name in self.selected}
        self.resume()

    def sum_of(self, part: str) -> str:
        """The sha256 that a part has by now."""
        return self.selected.get(part, self.records[part].sha256)

    def _take(self, line: Line) -> None:
        if "part" in line:
            self.records[line["part"]] = Record.from_json(line)
        elif "cutoff" in line:
            self.cutoff = line["cutoff"]
        else:
            self.selected[line["selected"]] = line["sha256"]

    def _append(self, line: Line) -> None:
        with self.path.open("ab") as file:
            file.write(_encoded(line))
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _lines(self, records: Iterable[Record], selected: Iterable[tuple[str, str]]) -> Iterable[Line]:
        yield self.header
        yield from (record.to_json() for record in records)
        if self.cutoff is not None:
            yield {"cutoff": self.cutoff}
        yield from ({"selected": part, "sha256": found} for part, found in selected)

    def _write(self) -> None:
        lines = self._lines(self.records.values(), self.selected.items())
        content = b"".join(map(_encoded, lines))
        write_whole(self.path, lambda place: place.write_bytes(content))


def _encoded(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"
