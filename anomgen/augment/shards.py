"""Drawn rows in parts, each a file or folder of its own that appears whole and is recorded in a manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import torch

from anomgen import runtime
from anomgen.augment.card import PLOTS, REPORT
from anomgen.augment.draw import draw_block
from anomgen.augment.formats import METADATA, Format
from anomgen.augment.recipe import Recipe
from anomgen.jobs import manifest as jobs
from anomgen.jobs.manifest import Line
from anomgen.jobs.whole import PARTIAL, arriving, sha256
from anomgen.jobs.workers import default_workers, in_order

CARD = "README.md"


@dataclass(frozen=True)
class Shard:
    """A part of an export, as it is planned.

    Parameters
    ----------
    name : str
        Its path below the folder.
    start, stop : int
        The kept rows that are in it.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Cost:
    """What kept rows cost.

    Parameters
    ----------
    rows, tried : int
        Rows kept, and raw rows drawn for them.
    refused : dict of str to int
        Raw rows that were not kept, by reason.
    copies : int
        Copies of training rows that were met.
    """

    rows: int = 0
    tried: int = 0
    refused: dict[str, int] | None = None
    copies: int = 0

    def __add__(self, other: Cost) -> Cost:
        """What both cost together."""
        refused = dict(self.refused or {})
        for name, count in (other.refused or {}).items():
            refused[name] = refused.get(name, 0) + count
        return Cost(self.rows + other.rows, self.tried + other.tried, refused, self.copies + other.copies)


@dataclass(frozen=True)
class Record:
    """What the manifest says of a part.

    Parameters
    ----------
    part : str
    sha256 : str
        Of the file, or of the names and checksums of the files in a folder.
    rows, tried, refused, copies
        As of :class:`Cost`.
    """

    part: str
    sha256: str
    rows: int
    tried: int
    refused: dict[str, int]
    copies: int

    @classmethod
    def from_json(cls, line: Line) -> Self:
        """From a line of the manifest."""
        return cls(**line)

    def to_json(self) -> Line:
        """As a line of the manifest."""
        return asdict(self)

    @property
    def cost(self) -> Cost:
        """What the rows cost."""
        return Cost(self.rows, self.tried, self.refused, self.copies)

    def is_whole(self, folder: Path) -> bool:
        """Whether the part is there as it was written."""
        place = folder / self.part
        return place.exists() and checksum(place) == self.sha256


class Manifest(jobs.Manifest[Record]):
    """The manifest of an export.

    Parameters
    ----------
    path : Path
    header : dict
    """

    what = "synthetic rows"

    def record_of(self, line: Line) -> Record:
        """The record that a line holds."""
        return Record.from_json(line)


def make_plan(rows: int, part_rows: int, form: Format) -> list[Shard]:
    """The parts of an export of so many rows."""
    parts = -(-rows // part_rows)
    return [Shard(form.part(k, parts), k * part_rows, min((k + 1) * part_rows, rows)) for k in range(parts)]


def write_shards(
    recipe: Recipe,
    plan: Sequence[Shard],
    folder: Path,
    form: Format,
    *,
    done: Collection[str] = (),
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Draw the rows of parts and write them.

    What a part holds is a function of recipe, format and part alone. Threads draw blocks; one at a time is with the
    random generators, the others score, check and convert. Blocks are written in their order.

    Parameters
    ----------
    recipe : Recipe
    plan : sequence of Shard
    folder : Path
    form : Format
    done : collection of str
        Names of parts that need not be written.
    workers : int, optional
        Threads; one for each core by default, at most 16.
    stop : callable
        Asked before every part whether to begin it.
    progress : callable, optional
        Called with the number of rows of every block done.

    Yields
    ------
    Record
        Of every part, when it is there.
    """
    tasks = (
        ((shard, start), partial(_draw, recipe, form, start, min(recipe.block, shard.stop - start)))
        for shard in _until(stop, (shard for shard in plan if shard.name not in done))
        for start in range(shard.start, shard.stop, recipe.block)
    )
    made = in_order(tasks, workers or default_workers(), partial(torch.set_num_threads, 1))
    # Closed by hand: an error would keep the threads at work for as long as its traceback lives.
    with runtime.threads(1), closing(made):  # type: ignore[type-var]
        for shard, pieces in groupby(made, lambda one: one[0][0]):
            place = folder / shard.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                # Damaged, or not recorded any more: a folder cannot be put in the place of another one.
                shutil.rmtree(place)
            cost = Cost()
            with arriving(place) as hidden:
                with form.sink(hidden, shard.stop - shard.start) as add:
                    for _, drawn in pieces:
                        assert drawn is not None
                        add(drawn[0])
                        cost += drawn[1]
                        if progress is not None:
                            progress(drawn[1].rows)
                found = checksum(hidden)
            yield Record(shard.name, found, cost.rows, cost.tried, cost.refused or {}, cost.copies)


def checksum(place: Path) -> str:
    """The sha256 of a file, or of the names and checksums of the files in a folder."""
    if place.is_file():
        return sha256(place)
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(place.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_ours(path: Path) -> bool:
    """Whether an export wrote something that is found in its folder."""
    if path.name == CARD:
        return "anomgen" in path.read_text(encoding="utf-8", errors="replace")[:2000]
    if path.name == REPORT:
        return _has_facts(path)
    if not path.is_dir():
        return False
    below = [file for file in path.iterdir() if not file.name.endswith(PARTIAL)]
    if path.name == PLOTS:
        return all(file.suffix == ".png" for file in below)
    if path.name == "data":
        return all(re.fullmatch(r"train-\d{5,}-of-\d{5,}\.(parquet|csv|npz)", file.name) for file in below)
    return path.name == "train" and all(map(_is_pictures, below))


def _draw(recipe: Recipe, form: Format, start: int, rows: int) -> tuple[Any, Cost]:
    """The first rows of the block that starts at `start`, as they are written."""
    drawn = draw_block(recipe, start // recipe.block, rows)
    return form.convert(drawn), Cost(rows, drawn.tried, drawn.refused, drawn.copies)


def _until(stop: Callable[[], bool], shards: Iterator[Shard]) -> Iterator[Shard]:
    for shard in shards:
        if stop():
            return
        yield shard


def _has_facts(path: Path) -> bool:
    try:
        return "facts" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, OSError):
        return False


def _is_pictures(folder: Path) -> bool:
    """Whether a folder holds numbered images and what is said about them."""
    if not (folder.is_dir() and re.fullmatch(r"\d{5,}", folder.name)):
        return False
    return all(re.fullmatch(rf"\d{{8,}}\.png|{re.escape(METADATA)}", file.name) for file in folder.iterdir())
