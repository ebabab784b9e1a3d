"""What a card shows of an export: some of its rows, read back from the parts, beside training and held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.formats import Format
from anomgen.augment.given import Given, as_drawn, drawn_columns, evenly
from anomgen.augment.plots import Samples
from anomgen.augment.recipe import Recipe
from anomgen.augment.shards import Shard
from anomgen.encode import Labelled, image_encoder
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
        labels = self._labels(MEASURED) if images else {}
        given = {name: Labelled(some, labels[name]) if labels else some for name, some in rows.items()}
        report = quality_report(
            given["synthetic"],
            given["held_out"],
            # Copies are looked for among all training rows, of which tables are read in pieces.
            train=given.get("train") if images else self.train,
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
        detector = self.recipe.detector
        parts = [drawn_columns(detector, self.form.read(place, at)) for place, at in self._places(most)]
        if isinstance(parts[0], pd.DataFrame):
            return pd.concat(parts, ignore_index=True)
        return np.concatenate(parts)

    def _places(self, most: int) -> Iterator[tuple[Path, NDArray[np.int64]]]:
        """Parts, and the positions in them of at most so many rows, evenly from first to last."""
        at = evenly(self.plan[-1].stop, most)
        for shard in self.plan:
            inside = at[(at >= shard.start) & (at < shard.stop)] - shard.start
            if len(inside):
                yield self.folder / shard.name, inside

    def _labels(self, most: int) -> dict[str, NDArray[np.str_]]:
        """What those images show, as text; empty where it is not known of all, or has nothing in common."""
        drawn = [self.form.labels(place, at) for place, at in self._places(most)]
        given = {"train": self.train, "held_out": self.held_out}
        found = {name: rows.spread_labels(most) for name, rows in given.items() if rows is not None}
        found["synthetic"] = None if any(part is None for part in drawn) else np.concatenate(cast(Any, drawn))
        texts = {name: _texts(labels) for name, labels in found.items() if labels is not None}
        common = len(texts) == len(found) and set.intersection(*(set(labels.tolist()) for labels in texts.values()))
        return texts if common else {}

    def _given(self, most: int) -> dict[str, Any]:
        given = {"train": self.train, "held_out": self.held_out}
        return {name: rows.spread(most) for name, rows in given.items() if rows is not None}

    def _samples(self, rows: dict[str, Any], scores: dict[str, Any]) -> Samples:
        encoder = image_encoder(self.recipe.detector.encoder_)
        if encoder is None:
            return Samples(rows, scores)
        return Samples({name: encoder.levels(images[:SHOWN]) for name, images in rows.items()}, scores)


def _texts(labels: NDArray[Any]) -> NDArray[np.str_]:
    """Labels as text; whole numbers of any type are equal."""
    values = labels.tolist()
    return np.array([str(int(v) if isinstance(v, bool | float) and v == int(v) else v) for v in values], dtype=str)
