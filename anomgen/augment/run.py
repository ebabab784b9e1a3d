"""An export that is under way: what is left of its plan, drawn and recorded, then measured and summed up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomgen.augment.card import Facts, write_card
from anomgen.augment.draw import COPY
from anomgen.augment.evidence import Evidence
from anomgen.augment.formats import Format, Tables
from anomgen.augment.given import Given
from anomgen.augment.recipe import Recipe
from anomgen.augment.shards import Cost, Manifest, Shard, is_ours, make_plan, write_shards
from anomgen.detector import state
from anomgen.jobs.errors import Interrupted
from anomgen.jobs.folder import SUCCESS, alone, close_folder, open_folder
from anomgen.jobs.manifest import FORMAT
from anomgen.jobs.stopping import stopping

PART_BLOCKS = 16
"""Blocks of rows in a part: 262,144 rows. Images have one."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    Parameters
    ----------
    rows : int
        Rows written, by this run and those before it.
    tried : int
        Raw rows drawn for them.
    refused : dict of str to int
        Raw rows that were not kept, by reason.
    copies : int or None
        Copies of training rows that were met among them; None where copies were not checked.
    copies_refused : int
        How many of these were not kept.
    left_out : tuple of str
        Columns of `like` that the model does not draw.
    seconds, rows_per_s : float
        Time of this run, and rows that it wrote by that.
    resumed, parts : int
        Parts that were found done, and all.
    model_digest : str
        sha256 of the model; rows have its first 16 digits as ``model_id``.
    seed : int
    metrics : dict of str to float
        What was measured, with `evaluate`.
    files : tuple of str
        The parts below the folder, or the file.
    """

    rows: int
    tried: int
    refused: dict[str, int]
    copies: int | None
    copies_refused: int
    left_out: tuple[str, ...]
    seconds: float
    rows_per_s: float
    resumed: int
    parts: int
    model_digest: str
    seed: int
    metrics: dict[str, float]
    files: tuple[str, ...]

    @property
    def complete_before(self) -> bool:
        """Whether there was nothing left to draw."""
        return self.resumed == self.parts

    def to_json(self) -> str:
        """As indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass
class Run:
    """One run of an export.

    Parameters
    ----------
    recipe : Recipe
    form : Format
    identity : dict
        Of the model.
    train, held_out : Given or None
    target : str or None
    evaluate : bool
    log : callable
    """

    recipe: Recipe
    form: Format
    identity: dict[str, str]
    train: Given | None
    held_out: Given | None
    target: str | None
    evaluate: bool
    log: Callable[..., None]

    def __post_init__(self) -> None:
        self.began = time.perf_counter()

    def to_file(
        self, place: Path, rows: int, workers: int | None, overwrite: bool, progress: Callable[[int], None] | None
    ) -> ExportSummary:
        """All rows in one file, with the card beside it."""
        check_free(place, overwrite)
        place.parent.mkdir(parents=True, exist_ok=True)
        plan = [Shard(place.name, 0, rows)]
        self.log("begin", out=str(place), parts=1, parts_done=0)
        with stopping() as stop:

            def done(count: int) -> None:
                if stop():
                    raise Interrupted(f"stopped before {place} was complete; an export to a folder can be resumed")
                if progress is not None:
                    progress(count)

            [record] = write_shards(self.recipe, plan, place.parent, self.form, workers=workers, progress=done)
        metrics = self._card(place, place.parent, plan, record.cost, place.name)
        return self._summed_up(plan, record.cost, 0, rows, metrics)

    def to_folder(
        self,
        folder: Path,
        rows: int,
        part_rows: int | None,
        workers: int | None,
        overwrite: bool,
        progress: Callable[[int], None] | None,
    ) -> ExportSummary:
        """Parts in a folder, as far as they are not there yet."""
        part_rows = self._part_rows(part_rows)
        plan = make_plan(rows, part_rows, self.form)
        header = self._header(rows, part_rows)
        with alone(folder, "synthetic rows"), stopping() as stop:
            manifest = open_folder(folder, header, Manifest, is_ours, "an export", overwrite)
            records = manifest.records
            manifest.drop([name for name in records if not records[name].is_whole(folder)])
            manifest.resume()
            resumed, written = len(records), 0
            complete = resumed == len(plan) and (folder / SUCCESS).exists()
            if not complete or self.evaluate:
                (folder / SUCCESS).unlink(missing_ok=True)
            self.log("begin", out=str(folder), parts=len(plan), parts_done=resumed)
            shards = write_shards(
                *(self.recipe, plan, folder, self.form),
                done=frozenset(records),
                workers=workers,
                stop=stop,
                progress=progress,
            )
            with closing(shards):  # type: ignore[type-var]
                for record in shards:
                    manifest.add(record)
                    written += record.rows
                    self.log("part", part=record.part, rows=record.rows, tried=record.tried, refused=record.refused)
            if len(records) < len(plan):
                raise Interrupted(
                    f"stopped after {len(records):,} of {len(plan):,} parts in {folder}; start the same job again to "
                    "go on"
                )
            manifest.seal([shard.name for shard in plan])
            cost = sum((record.cost for record in records.values()), Cost())
            redo = not complete or self.evaluate
            metrics = self._card(folder, folder, plan, cost, self.form.pattern) if redo else {}
            summary = self._summed_up(plan, cost, resumed, written, metrics)
            if redo:
                close_folder(folder, summary.to_json())
            return summary

    def _part_rows(self, part_rows: int | None) -> int:
        block = self.recipe.block
        if part_rows is None:
            return block if self.form.folder == "train" else PART_BLOCKS * block
        if part_rows < 1 or part_rows % block:
            near = max(round(part_rows / block), 1) * block
            raise ValueError(
                f"part_rows={part_rows} must be a multiple of {block:,}, which are drawn with one seed; {near:,} is one"
            )
        return part_rows

    def _header(self, rows: int, part_rows: int) -> dict[str, Any]:
        """Everything that the bytes of the parts follow from."""
        train = [] if self.recipe.check is None else [{"name": "train", "sha256": self.recipe.check.digest}]
        job = {"rows": rows, "part_rows": part_rows, "format": self.form.name, "columns": self.form.types}
        header = {
            "format": FORMAT,
            "model": self.identity,
            "versions": state.versions(),
            "job": {**job, **self.recipe.describe()},
            "inputs": train,
        }
        # As it will be read: tuples are lists there.
        read: dict[str, Any] = json.loads(json.dumps(header))
        return read

    def _card(self, place: Path, folder: Path, plan: Sequence[Shard], cost: Cost, data: str) -> dict[str, float]:
        """Write the card; what was measured for it."""
        if self.evaluate:
            self.log("evaluate", rows=cost.rows)
        evidence = Evidence(self.recipe, self.form, folder, plan, self.train, self.held_out)
        report, samples = evidence.measured(self.target) if self.evaluate else (None, evidence.pictures())
        encoder, check = self.recipe.detector.encoder_, self.recipe.check
        copies: dict[str, Any] = {"checked": check is not None}
        if check is not None:
            copies |= {"found": cost.copies, "allowed": check.allowed}
        facts: Facts = {
            "kind": "image" if encoder.container_ == "images" else "tabular",
            "rows": cost.rows,
            "tried": cost.tried,
            "refused": cost.refused or {},
            "copies": copies,
            "family": self.identity["class"],
            "model_digest": self.identity["sha256"],
            "data_digest": self.identity["data_digest"],
            "recipe": self.recipe.describe(),
            "versions": state.versions(),
            "data": data,
            "columns": self.form.types,
            "train": None if self.train is None else self.train.told(check),
            "held_out": None if self.held_out is None else self.held_out.told(),
        }
        write_card(place, facts, report, samples=samples)
        return {} if report is None else dict(report.metrics())

    def _summed_up(
        self, plan: Sequence[Shard], cost: Cost, resumed: int, written: int, metrics: dict[str, float]
    ) -> ExportSummary:
        seconds = time.perf_counter() - self.began
        refused = cost.refused or {}
        summary = ExportSummary(
            rows=cost.rows,
            tried=cost.tried,
            refused=refused,
            copies=None if self.recipe.check is None else cost.copies,
            copies_refused=refused.get(COPY, 0),
            left_out=self.form.layout.left_out if isinstance(self.form, Tables) else (),
            seconds=seconds,
            rows_per_s=written / seconds,
            resumed=resumed,
            parts=len(plan),
            model_digest=self.identity["sha256"],
            seed=int(self.recipe.seed),
            metrics=metrics,
            files=tuple(shard.name for shard in plan),
        )
        self.log("end", rows=cost.rows, tried=cost.tried, seconds=seconds, parts_done_before=resumed)
        return summary


def check_free(place: Path, overwrite: bool) -> None:
    """Whether a file of rows may be written at `place`.

    Raises
    ------
    FileExistsError
        If there is a file that is not to be overwritten, or a folder, which may hold anything.
    """
    if place.is_dir():
        raise FileExistsError(f"{place} is a folder; name a file that does not exist, or a folder without an ending")
    if place.exists() and not overwrite:
        raise FileExistsError(f"{place} exists; name another file, or ask to overwrite")
