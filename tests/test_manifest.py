"""Plan and manifest of scoring jobs: how rows are cut into parts, and what is on the disk of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import anomgen
from anomgen import MixtureDetector, batch
from anomgen.batch.chunks import Chunk, Span
from anomgen.batch.manifest import Manifest
from anomgen.batch.part import PartWriter, Record
from anomgen.batch.plan import End, Piece, cut, make_plan
from anomgen.batch.scoring import Scored
from anomgen.data.bad import Bad
from anomgen.data.pieces import Piece as Pages
from anomgen.data.pieces import recut
from anomgen.detector.state import digest_of
from anomgen.jobs.manifest import MANIFEST
from anomgen.jobs.whole import write_whole


@dataclass(frozen=True)
class Numbers:
    """An input whose rows are their own numbers; every `every`-th is bad, and the file is cut off at `end`."""

    spans_: tuple[Span, ...]
    length: int
    height: int = 7
    every: int = 1000
    end: int | None = None
    name: str = "numbers.txt"
    stem: str = "numbers"

    def kept(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def spans(self, rows: int) -> list[Span]:
        return list(self.spans_)

    def chunks(self, span: Span) -> Iterator[Chunk]:
        stop = self.length if span.stop is None else span.stop
        last = stop if self.end is None else min(stop, self.end)
        for start in range(span.start, last, self.height):
            rows = np.arange(start, min(start + self.height, last))
            good = rows[rows % self.every != self.every - 1]
            bad = [Bad(int(row), "", "ninth") for row in rows[rows % self.every == self.every - 1]]
            yield Chunk(good, good, {"copy": good.tolist()}, bad, len(rows))
        if last < stop:
            yield Chunk(np.empty(0, np.int64), None, {}, [Bad(-1, "", "cut off")], 0)


def parts_of(source: Numbers, rows: int, done: tuple[str, ...] = ()) -> dict[str, tuple[list[int], list[int], bool]]:
    """Good rows, bad rows, and whether the input ends with it, of every part of a plan."""
    found: dict[str, tuple[list[int], list[int], bool]] = {}
    rows_of: dict[str, list[int]] = {}
    bad_of: dict[str, list[int]] = {}
    for unit in make_plan([source], rows):
        for event in cut(unit, done):
            name = event.part.name
            assert name not in found, "nothing comes behind the end of a part"
            if isinstance(event, Piece):
                assert event.chunk.rows is None or event.chunk.rows.tolist() == event.chunk.numbers.tolist()
                assert event.chunk.kept.get("copy", []) == event.chunk.numbers.tolist()
                rows_of.setdefault(name, []).extend(event.chunk.numbers.tolist())
                bad_of.setdefault(name, []).extend(bad.row for bad in event.chunk.bad)
            else:
                assert isinstance(event, End)
                found[name] = (rows_of.get(name, []), bad_of.get(name, []), event.last)
    return found


# ---------------------------------------------------------------------- plan


@pytest.mark.parametrize("height", [1, 7, 100, 1000])
def test_every_row_is_in_one_part(height: int) -> None:
    spans = (Span(0, 95), Span(95, 110), Span(110, 350))
    found = parts_of(Numbers(spans, 350, height, every=9), 100)
    assert [len(rows) + len(bad) for rows, bad, _ in found.values()] == [95, 15, 120, 120]
    assert list(found) == [f"numbers-{k:05d}.parquet" for k in range(4)]
    assert [last for *_, last in found.values()] == [True, True, False, True]
    rows = [row for good, bad, _ in found.values() for row in sorted([*good, *bad])]
    assert rows == list(range(350))
    assert [row for _, bad, _ in found.values() for row in bad] == list(range(8, 350, 9))


@pytest.mark.parametrize("height", [1, 7, 100, 1000])
@pytest.mark.parametrize(("length", "sizes"), [(0, [0]), (99, [99]), (100, [100]), (101, [100, 1]), (300, [100] * 3)])
def test_a_file_of_unknown_length_is_cut_as_it_is_read(length: int, sizes: list[int], height: int) -> None:
    found = parts_of(Numbers((Span(0, None),), length, height), 100)
    assert [len(rows) for rows, *_ in found.values()] == sizes
    assert [last for *_, last in found.values()] == [*([False] * (len(sizes) - 1)), True]


def test_parts_that_are_done_are_passed_over() -> None:
    source = Numbers((Span(0, None),), 250, 30)
    every = parts_of(source, 100)
    left = parts_of(source, 100, done=("numbers-00001.parquet",))
    assert left == {name: every[name] for name in ("numbers-00000.parquet", "numbers-00002.parquet")}


@pytest.mark.parametrize("end", [0, 50, 100, 149, 200])
@pytest.mark.parametrize("height", [1, 30, 1000])
def test_a_file_that_ends_too_early_still_gets_all_its_parts(end: int, height: int, tmp_path: Path) -> None:
    source = Numbers((Span(0, 250),), 250, height, end=end)
    found = parts_of(source, 125)
    assert [len(rows) for rows, *_ in found.values()] == [min(end, 125), max(end - 125, 0)]
    assert [bad for _, bad, _ in found.values()] == [[-1], []] if end <= 125 else [[], [-1]]
    unit = make_plan([source], 125)[0]
    writer = PartWriter(unit.part(1), tmp_path, quarantine=False)
    for event in cut(unit, ()):
        if isinstance(event, Piece) and event.part == writer.part:
            writer.add(Scored(None, 0, event.chunk.bad, None))
    assert writer._count_bad(max(end - 125, 0)) == 125 - max(end - 125, 0), "rows that were lost count as bad"


def test_bad_rows_are_not_hoarded() -> None:
    """A file in which hardly a row is good does not end up in one piece."""
    read = (
        Pages(np.arange(start, start + 1), pa.table({"a": [0.0]}), [Bad(start + i, "", "") for i in range(1, 100)])
        for start in range(0, 10_000, 100)
    )
    found = list(recut(read, 200))
    assert max(len(piece.bad) for piece in found) < 400
    assert [row for piece in found for row in piece.numbers] == list(range(0, 10_000, 100))
    assert sum(len(piece.bad) for piece in found) == 9_900


def test_an_empty_input_has_a_part() -> None:
    assert parts_of(Numbers((), 0), 100) == {"numbers-00000.parquet": ([], [], True)}


def test_names_of_parts_are_visible_and_differ() -> None:
    named = [replace(Numbers((), 0), stem=stem) for stem in ("_x", "x", "x", "a/b c", ".", "x-2")]
    plan = make_plan(named, 10)
    assert [unit.stem for unit in plan] == ["x", "x-2", "x-3", "a_b_c", "rows", "x-2-2"]
    capitals = [replace(Numbers((), 0), stem=stem) for stem in ("x", "X", "X")]
    assert [unit.stem for unit in make_plan(capitals, 10)] == ["x", "X-2", "X-3"]


def test_a_name_that_is_no_text_is_shown_by_its_bytes() -> None:
    [unit] = make_plan([replace(Numbers((), 0), name="in/\udcff.csv", stem="\udcff")], 10)
    assert unit.part(0)[:3] == ("rows-00000.parquet", "in/\\udcff.csv", "rows")


# ---------------------------------------------------------------------- manifest


def record(name: str, **fields: Any) -> Record:
    return Record(**{"part": name, "source": "a", "start": 0, "rows": 1, "bad": 0, "flagged": 0, **fields})


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    made = Manifest.begin(tmp_path, {"format": 1, "job": {"threshold": -1.5}})
    for name in ("c", "a", "b"):
        made.add(record(name, sha256=name * 3, last=name == "b", drift={"rows": 1} if name == "a" else None))
    made.decide({"rank": 3})
    made.select("b", "bb")
    return made


def test_a_manifest_is_read_as_it_was_written(manifest: Manifest, tmp_path: Path) -> None:
    found = Manifest.read(tmp_path)
    for name in ("header", "records", "cutoff", "selected"):
        assert getattr(found, name) == getattr(manifest, name)
    assert (found.sum_of("a"), found.sum_of("b")) == ("aaa", "bb")
    before = (tmp_path / MANIFEST).stat()
    found.resume()
    assert (tmp_path / MANIFEST).stat() == before, "nothing to repair, nothing written"


def test_a_sealed_manifest_follows_the_plan(manifest: Manifest, tmp_path: Path) -> None:
    manifest.select("a", "aa")
    manifest.seal(["a", "b", "c"])
    lines = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert [line.get("part") for line in lines[1:4]] == ["a", "b", "c"]
    assert lines[4] == {"cutoff": {"rank": 3}}
    assert [line["selected"] for line in lines[5:]] == ["a", "b"]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"part": "d"', b'{"part": "d"\n', b"\0\0\0\n"])
def test_only_the_last_line_can_be_torn(manifest: Manifest, tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    found = Manifest.read(tmp_path)
    assert found.records == manifest.records
    found.resume()
    assert path.read_bytes() == whole
    found.add(record("d", sha256="d", last=True))
    assert list(Manifest.read(tmp_path).records) == ["c", "a", "b", "d"]


def test_a_damaged_manifest_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    lines = path.read_bytes().splitlines(keepends=True)
    for content in (b"".join([lines[0], b"{\n", *lines[1:]]), b"", b"[]\n", b'{"format": 2}\n', b"not json\n"):
        path.write_bytes(content)
        with pytest.raises(batch.ModelMismatch, match=r"_manifest\.ndjson.*ask to overwrite"):
            Manifest.read(tmp_path)


def test_parts_that_are_dropped_are_forgotten(manifest: Manifest, tmp_path: Path) -> None:
    manifest.drop(["b"])
    manifest.resume()
    found = Manifest.read(tmp_path)
    assert list(found.records) == ["c", "a"]
    assert found.selected == {}
    assert found.cutoff == {"rank": 3}


# ---------------------------------------------------------------------- around them


def test_the_digest_of_a_model_is_that_of_its_copies(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = MixtureDetector(components=2, random_state=0).fit(numbers)
    detector.save(tmp_path / "model")
    loaded = anomgen.load(tmp_path / "model")
    assert digest_of(loaded) == digest_of(detector)
    loaded.set_params(device="cpu")
    assert digest_of(loaded) == digest_of(detector)
    assert digest_of(MixtureDetector(components=2, random_state=0).fit(numbers)) == digest_of(detector)
    others = [
        MixtureDetector(components=3, random_state=0).fit(numbers),
        MixtureDetector(components=2, random_state=0).fit(numbers + 1.0),
        anomgen.load(tmp_path / "model").set_threshold(-1.0),
        anomgen.load(tmp_path / "model").calibrate(numbers + 0.5),
    ]
    assert len({digest_of(one) for one in (detector, *others)}) == 5


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no more")

    write_whole(tmp_path / "file", lambda path: path.write_text("old"))
    with pytest.raises(RuntimeError, match="no more"):
        write_whole(tmp_path / "file", half)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
