"""The manifest of a job: what it is, and which of its parts are done, one JSON line each, appended as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from anomgen.jobs.errors import ModelMismatch
from anomgen.jobs.whole import write_whole

MANIFEST = "_manifest.ndjson"
FORMAT = 1

Line = dict[str, Any]


class Record(Protocol):
    """What a manifest says of a part."""

    @property
    def part(self) -> str:
        """Its name."""

    def to_json(self) -> Line:
        """As a line of the manifest, which begins with ``part``."""


R = TypeVar("R", bound=Record)


class Manifest(Generic[R]):
    """A file of JSON lines: the header, then a record for each part; a kind of job may add lines of its own.

    Appended lines are on the disk before the job goes on. A line that a kill cut in two is dropped when the file is
    opened again. Parts may be recorded in any order; :meth:`seal` puts them into that of the plan.

    Parameters
    ----------
    path : Path
    header : dict
        Everything that the bytes of the parts follow from: ``format``, ``model``, ``versions``, ``job`` (the options)
        and ``inputs``.
    """

    what: ClassVar[str] = "output"
    """What the folder holds, in messages."""

    def __init__(self, path: Path, header: Line) -> None:
        self.path = path
        self.header = header
        self.records: dict[str, R] = {}

    @classmethod
    def begin(cls, folder: Path, header: Line) -> Self:
        """A new manifest, which replaces one found there."""
        manifest = cls(folder / MANIFEST, header)
        manifest._write()
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder, as far as it is whole.

        Raises
        ------
        ModelMismatch
            If it is no manifest, or damaged otherwise than at its end.
        """
        path = folder / MANIFEST
        content = path.read_bytes()
        remedy = f"ask to overwrite the {cls.what}"
        lines = content.split(b"\n")
        parsed = []
        for number, line in enumerate(lines[:-1]):
            try:
                parsed.append(json.loads(line))
            except ValueError:
                if number < len(lines) - 2:
                    raise ModelMismatch(f"{path}, line {number + 1} is damaged; {remedy}") from None
        if not (parsed and isinstance(parsed[0], dict) and parsed[0].get("format") == FORMAT):
            raise ModelMismatch(f"{path} is no manifest of format {FORMAT}; {remedy}")
        manifest = cls(path, parsed[0])
        try:
            for found in parsed[1:]:
                manifest.take(found)
        except (KeyError, TypeError):
            raise ModelMismatch(f"{path} is damaged: {str(found)[:200]}; {remedy}") from None
        return manifest

    def record_of(self, line: Line) -> R:
        """The record that a line of the manifest holds; a ``KeyError`` or ``TypeError`` if it holds none."""
        raise NotImplementedError(f"{type(self).__name__} must define record_of(line)")

    def resume(self) -> None:
        """Make the file hold what is known, no more and in this order, so that lines can be appended."""
        if self.path.read_bytes() != self._content():
            self._write()

    def drop(self, parts: Iterable[str]) -> None:
        """Forget parts whose files are gone or damaged. They will come out as they were."""
        for name in parts:
            self.records.pop(name, None)

    def add(self, record: R) -> None:
        """Record that a part is done."""
        self.append({"part": record.part, **record.to_json()})

    def seal(self, order: Sequence[str]) -> None:
        """Put parts into the order of the plan, if they were recorded in another one."""
        self.records = {name: self.records[name] for name in order}
        self.resume()

    def take(self, line: Line) -> None:
        """Know what a line says."""
        self.records[line["part"]] = self.record_of(line)

    def append(self, line: Line) -> None:
        """Write a line, and know what it says."""
        with self.path.open("ab") as file:
            file.write(_encoded(line))
            file.flush()
            os.fsync(file.fileno())
        self.take(line)

    def lines(self) -> Iterable[Mapping[str, Any]]:
        """All lines, in their order."""
        yield self.header
        yield from (record.to_json() for record in self.records.values())

    def _content(self) -> bytes:
        return b"".join(map(_encoded, self.lines()))

    def _write(self) -> None:
        content = self._content()
        write_whole(self.path, lambda place: place.write_bytes(content))


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"
