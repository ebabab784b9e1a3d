"""A job that is under way: what is left of its plan, done by an engine, recorded, judged and summed up."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anomgen.batch import selection
from anomgen.batch.errors import TooManyBadRows
from anomgen.batch.manifest import Manifest
from anomgen.batch.part import QUARANTINE, Record
from anomgen.batch.plan import Unit
from anomgen.batch.scoring import Options
from anomgen.batch.summary import Summary, group_files, score_quantiles
from anomgen.detector import Detector
from anomgen.drift import Counter, Drift
from anomgen.jobs.errors import Interrupted
from anomgen.jobs.folder import SUCCESS, close_folder

JUDGED_FROM = 1_000
"""Rows that have to be seen before too many of them can be bad; a job that is done is judged by all it saw."""

Stop = Callable[[], bool]
Log = Callable[..., None]


class Engine(Protocol):
    """Where units are scored; see :func:`anomgen.batch.local.score_units`."""

    def __call__(
        self,
        detector: Detector,
        units: list[Unit],
        folder: Path,
        options: Options,
        *,
        done: frozenset[str],
        workers: int | None,
        stop: Stop,
        progress: Callable[[int], None] | None,
    ) -> Iterator[Record]:
        """Records of parts, in any order, each when its files are there."""


@dataclass
class Run:
    """One run of a job.

    Parameters
    ----------
    detector : Detector
    plan : list of Unit
    folder : Path
    manifest : Manifest
        Of this run or of earlier ones.
    options : Options
    max_bad_fraction : float
    log : callable
    resumed : int
        Parts that were found done.
    scored : int
        Rows scored by this run.
    was_complete : bool
        Whether there was nothing to do.
    began : float
    """

    detector: Detector
    plan: list[Unit]
    folder: Path
    manifest: Manifest
    options: Options
    max_bad_fraction: float
    log: Log
    resumed: int = 0
    scored: int = 0
    was_complete: bool = False
    began: float = field(default_factory=time.perf_counter)

    def score(self, engine: Engine, workers: int | None, stop: Stop, progress: Callable[[int], None] | None) -> None:
        """Score what is left.

        Raises
        ------
        Interrupted
            If `stop` became true before all was done.
        TooManyBadRows
        """
        records = self.manifest.records
        self.manifest.drop([name for name in records if not self._is_whole(records[name])])
        self.manifest.resume()
        self.resumed = len(records)
        left = [unit for unit in self.plan if not self._is_done(unit)]
        self.was_complete = not left and (self.folder / SUCCESS).exists()
        if not self.was_complete:
            (self.folder / SUCCESS).unlink(missing_ok=True)
        self.log("begin", out=str(self.folder), units=len(self.plan), units_left=len(left), parts_done=self.resumed)
        scored = engine(
            self.detector,
            left,
            self.folder,
            self.options,
            done=frozenset(records),
            workers=workers,
            stop=stop,
            progress=progress,
        )
        bad, rows = sum(one.bad for one in records.values()), sum(one.rows for one in records.values())
        with closing(scored):  # type: ignore[type-var]
            for record in scored:
                self.manifest.add(record)
                self.scored += record.rows
                self.log("part", part=record.part, rows=record.rows, bad=record.bad, flagged=record.flagged)
                bad, rows = bad + record.bad, rows + record.rows
                self._judge(bad, rows + bad, JUDGED_FROM)
        if not all(map(self._is_done, self.plan)):
            raise self._interrupted()
        self._judge(bad, rows + bad, 1)
        self.manifest.seal(self._order())

    def select(self, fdr: float, stop: Stop) -> None:
        """Add to every part which of its rows are selected.

        Raises
        ------
        Interrupted
        """
        order, n = self._order(), len(self.detector.calibration_)
        done = selection.select(self.folder, self.manifest, order, n, fdr, stop)
        self.log("cutoff", **(self.manifest.cutoff or {}))
        if not done:
            raise self._interrupted()
        self.manifest.seal(order)

    def finish(self, fail_on_drift: float | None) -> Summary:
        """Sum up, and say so in the folder unless it is said there already."""
        order = self._order()
        records = [self.manifest.records[name] for name in order]
        files = group_files(records)
        rows, bad = sum(file.rows for file in files), sum(file.bad for file in files)
        seconds = time.perf_counter() - self.began
        header, cutoff = self.manifest.header, self.manifest.cutoff or {}
        drift = self._drift(records)
        summary = Summary(
            rows=rows,
            seen=rows + bad,
            bad=bad,
            flagged=sum(file.flagged for file in files),
            threshold=self.options.threshold,
            selected=cutoff.get("selected"),
            p_cutoff=cutoff.get("p_value"),
            seconds=seconds,
            rows_per_s=self.scored / seconds,
            resumed=self.resumed,
            quantiles=score_quantiles(self.folder, order),
            drift=None if drift is None else drift.to_dict(),
            drifted=drift is not None and fail_on_drift is not None and drift.exceeds(fail_on_drift),
            model_digest=header["model"]["sha256"],
            data_digest=header["model"]["data_digest"],
            inputs_digest=hashlib.sha256(json.dumps(header["inputs"], sort_keys=True).encode()).hexdigest(),
            files=files,
        )
        if not self.was_complete:
            close_folder(self.folder, summary.to_json())
        self.log("end", rows=rows, bad=bad, flagged=summary.flagged, seconds=seconds, parts_done_before=self.resumed)
        return summary

    def _is_whole(self, record: Record) -> bool:
        return record.is_whole(self.folder, self.manifest.sum_of(record.part))

    def _is_done(self, unit: Unit) -> bool:
        """Whether every part of a unit is recorded; where only the file knows how many there are, up to its last."""
        names = self._names(unit)
        records = self.manifest.records
        return names[-1] in records and all(name in records for name in names) and records[names[-1]].last

    def _names(self, unit: Unit) -> list[str]:
        """The parts of a unit, as far as they are known."""
        if unit.parts is not None:
            return [part.name for part in unit.parts]
        names = [unit.part(0).name]
        while names[-1] in self.manifest.records and not self.manifest.records[names[-1]].last:
            names.append(unit.part(len(names)).name)
        return names

    def _order(self) -> list[str]:
        return [name for unit in self.plan for name in self._names(unit)]

    def _judge(self, bad: int, seen: int, least: int) -> None:
        """Give up where too many rows are bad."""
        if seen >= least and bad > self.max_bad_fraction * seen:
            raise TooManyBadRows(
                f"{bad:,} of {seen:,} rows could not be scored, more than max_bad_fraction={self.max_bad_fraction:g}; "
                f"{self._where()}"
            )

    def _where(self) -> str:
        if self.options.quarantine:
            return f"see {self.folder / QUARANTINE}"
        return "on_bad_row='quarantine' lists them"

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped after {len(self.manifest.records):,} parts in {self.folder}; start the same job again to go on"
        )

    def _drift(self, records: list[Record]) -> Drift | None:
        states: list[dict[str, Any]] = [record.drift for record in records if record.drift is not None]
        reference = getattr(self.detector, "reference_", None)
        return reference.report(Counter.merge(states)) if states and reference is not None else None
