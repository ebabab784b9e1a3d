"""The local engine: one thread reads and writes, others score; what a part holds does not depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from anomgen import runtime
from anomgen.batch.part import PartWriter, Record
from anomgen.batch.plan import End, Piece, Unit, cut
from anomgen.batch.scoring import Options, Scored, empty_table, score_piece
from anomgen.detector import Detector
from anomgen.jobs.workers import default_workers, in_order


def score_units(
    detector: Detector,
    units: Sequence[Unit],
    folder: Path,
    options: Options,
    *,
    done: Collection[str] = (),
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Score units one after the other and write their parts into a folder.

    What a part holds is a function of detector, unit and options alone: a part that is written twice, by whatever
    engine, has the same bytes.

    Parameters
    ----------
    detector : Detector
    units : sequence of Unit
    folder : Path
        Exists.
    options : Options
    done : collection of str
        Names of parts that need not be written.
    workers : int, optional
        Threads that score; one for each core by default, at most 16.
    stop : callable
        Asked before every part whether to begin it.
    progress : callable, optional
        Called with the number of rows of every chunk done.

    Yields
    ------
    Record
        Of every part, when its files are there.
    """
    # Every thread works with one intra-op thread: scores then depend on nothing but their row.
    with runtime.threads(1):
        writer = _Writer(detector, folder, options)
        tasks = (
            (event, partial(score_piece, detector, event, options) if isinstance(event, Piece) else None)
            for event in _events(units, done, stop)
        )
        for event, scored in in_order(tasks, workers or default_workers(), partial(torch.set_num_threads, 1)):
            yield from writer.take(event, scored, progress)


def _events(units: Sequence[Unit], done: Collection[str], stop: Callable[[], bool]) -> Iterator[Piece | End]:
    """Rows and ends of parts, unit by unit, until the end of the part during which `stop` became true."""
    for unit in units:
        begun = None
        for event in cut(unit, done):
            if event.part.name != begun and stop():
                return
            begun = event.part.name
            yield event


class _Writer:
    """Writes scored chunks, which come in order, to the part they belong to."""

    def __init__(self, detector: Detector, folder: Path, options: Options) -> None:
        self.detector = detector
        self.folder = folder
        self.options = options
        self._part: PartWriter | None = None

    def take(
        self, event: Piece | End, scored: Scored | None, progress: Callable[[int], None] | None
    ) -> Iterator[Record]:
        part = self._part or PartWriter(event.part, self.folder, self.options.quarantine)
        self._part = part
        if isinstance(event, Piece):
            assert scored is not None
            part.add(scored)
            if progress is not None:
                progress(event.chunk.seen)
        else:
            self._part = None
            yield part.finish(event.last, empty_table(self.detector, event.part, self.options))
