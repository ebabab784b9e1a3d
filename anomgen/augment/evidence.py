"""What a card shows of an export: some of its rows, read back from the parts, beside training and held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomgen.augment.formats import Format
from anomgen.augment.given import Given, as_drawn, drawn_columns
from anomgen.augment.plots import Samples
from anomgen.augment.recipe import Recipe
from anomgen.augment.shards import Shard
from anomgen.encode import image_encoder
from anomgen.quality import QualityReport, quality_report

MEASURED = 20_000
"""Rows that are measured at most, of each kind."""
SHOWN = 64
"""Images of a contact sheet, of each kind."""


@dataclass(frozen=True)
class Evidence:
    """What was written, and what it can be compared with.

    Parameters
    ----------
    recipe : Recipe
    form : Format
    folder : Path
    plan : sequence of Shard
        All written.
    train, held_out : Given or None
    """

    recipe: Recipe
    form: Format
    folder: Path
    plan: Sequence[Shard]
    train: Given | None
    held_out: Given | None

    def measured(self, target: str | None) -> tuple[QualityReport, Samples]:
        """The quality of the rows, and what pictures show of them."""
        detector = self.recipe.detector
        rows = {"synthetic": self.spread(MEASURED), **self._given(MEASURED)}
        scores = {name: detector.score_samples(as_drawn(detector, some)) for name, some in rows.items()}
        images = image_encoder(detector.encoder_) is not None
        report = quality_report(
            rows["synthetic"],
            rows["held_out"],
            # Copies are looked for among all training rows, of which tables are read in pieces.
            train=rows.get("train") if images else self.train,
            target=target,
            scores=scores,
            seed=int(self.recipe.seed),
        )
        return report, self._samples(rows, scores)

    def pictures(self) -> Samples | None:
        """What pictures show where nothing is measured: images."""
        if image_encoder(self.recipe.detector.encoder_) is None:
            return None
        return self._samples({"synthetic": self.spread(SHOWN), **self._given(SHOWN)}, {})

    def spread(self, most: int) -> Any:
        """At most so many of the rows written, evenly from first to last."""
        n = self.plan[-1].stop
        at = np.arange(n) if n <= most else np.arange(most) * n // most
        parts = []
        for shard in self.plan:
            inside = at[(at >= shard.start) & (at < shard.stop)] - shard.start
            if len(inside):
                parts.append(drawn_columns(self.recipe.detector, self.form.read(self.folder / shard.name, inside)))
        if isinstance(parts[0], pd.DataFrame):
            return pd.concat(parts, ignore_index=True)
        return np.concatenate(parts)

    def _given(self, most: int) -> dict[str, Any]:
        given = {"train": self.train, "held_out": self.held_out}
        return {name: rows.spread(most) for name, rows in given.items() if rows is not None}

    def _samples(self, rows: dict[str, Any], scores: dict[str, Any]) -> Samples:
        encoder = image_encoder(self.recipe.detector.encoder_)
        if encoder is None:
            return Samples(rows, scores)
        return Samples({name: encoder.levels(images[:SHOWN]) for name, images in rows.items()}, scores)
