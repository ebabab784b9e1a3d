"""All measures of synthetic rows at once, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from anomgen.encode import Labelled
from anomgen.quality import images
from anomgen.quality.classifiers import membership, taught, told_apart
from anomgen.quality.copies import CopyCheck
from anomgen.quality.hashes import holds_images, pieces
from anomgen.quality.limits import limits_of
from anomgen.quality.neighbours import MAX_DRAWN, MAX_TRAIN, Places, balls, nearness
from anomgen.quality.neighbours import MAX_ROWS as MAX_BALLS
from anomgen.quality.report import Copies, QualityReport, Reference, mean_shape
from anomgen.quality.shapes import pairs_of, shapes_of
from anomgen.quality.tables import Array, Layout, some

MAX_ROWS = 20_000


def quality_report(
    synthetic: Any,
    held_out: Any,
    *,
    train: Any = None,
    target: str | int | None = None,
    detector: Any = None,
    scores: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
) -> QualityReport:
    """Measure synthetic rows against real ones that the model was not fitted to.

    Parameters
    ----------
    synthetic, held_out : frame, array, images, or a source of them
        Compared are the columns that all have. Images with labels are ``encode.Labelled``.
    train : likewise, optional
        The rows the model was fitted to. Without them nothing is said on copies, on the distance to the closest record
        and on membership.
    target : column, optional
        What to predict, see :func:`transfer`; of images always their label.
    detector : Detector, optional
        The fitted model. It scores the rows; `membership` and the histograms of a card are made of that.
    scores : mapping of str to array, optional
        Scores of the model that are known already, by ``"synthetic"``, ``"held_out"`` and ``"train"``.
    seed : int
        Equal seeds give equal reports.
    max_rows : int
        Rows used at most of each table, and 5,000 images. Neighbourhoods are found among 5,000 rows, closest records
        of 10,000 rows among 50,000 training rows; exact copies among all training rows.

    Returns
    -------
    QualityReport

    Raises
    ------
    ValueError
        If there are fewer than six rows of a kind, no column in common, or one of another kind of value.

    See Also
    --------
    column_shapes, pair_trends, two_sample_auroc, transfer, prdc, closest_records, membership, CopyCheck
    """
    given = {"synthetic": synthetic, "held_out": held_out} | ({} if train is None else {"train": train})
    for name, rows in given.items():
        if hasattr(rows, "__next__"):
            raise ValueError(f"{name} is an iterator, which can be read once; give rows or a source of them")
    pictures = holds_images(next(iter(pieces(held_out))))
    raw = {name: _picked(name, rows, pictures, seed + j, max_rows) for j, (name, rows) in enumerate(given.items())}
    tables, target = images.features(raw, seed) if pictures else (raw, target)
    real = [tables[name] for name in ("held_out", "train") if name in tables]
    layout = Layout.of(*real, others=[tables["synthetic"]])
    read = {name: layout.read(table) for name, table in tables.items()}
    known = _scored(raw, detector, scores or {}, max_rows)
    sizes = {name: len(rows) for name, rows in read.items()}
    report = QualityReport(
        kind="image" if pictures else "tabular",
        rows=sizes,
        **_measured(layout, read),
        two_sample=told_apart(tables["synthetic"], tables["held_out"], seed),
        transfer=()
        if pictures and target is None
        else taught(layout, *_three(read, max_rows), target=target, seed=seed),
        copies=None if train is None else _copies(train, raw, None if pictures else layout.names),
        membership=membership(known["train"], known["held_out"]) if {"train", "held_out"} <= known.keys() else None,
        scores=known,
        limits=(),
    )
    return replace(report, limits=tuple(limits_of(report, given, tables, target)))


def _picked(name: str, rows: Any, pictures: bool, seed: int, max_rows: int) -> Any:
    if pictures:
        return images.pick(rows, min(max_rows, images.MAX_ROWS), seed)
    return some(rows, MAX_TRAIN if name == "train" else max_rows, seed)


def _three(read: dict[str, Array], most: int) -> tuple[Array, Array, Array | None]:
    train = read.get("train")
    return read["synthetic"], read["held_out"], None if train is None else _thinned(train, most)


def _measured(layout: Layout, read: dict[str, Array]) -> dict[str, Any]:
    """What is said of all columns, for the report."""
    synthetic, held_out, train = read["synthetic"], read["held_out"], read.get("train")
    places = Places.of(layout, held_out if train is None else train)
    located = dict(zip(read, places.all(*read.values()), strict=True))
    drawn, others = (_thinned(located[name], MAX_DRAWN) for name in ("synthetic", "held_out"))
    return {
        "shapes": shapes_of(layout, synthetic, held_out),
        "pairs": pairs_of(layout, synthetic, held_out),
        "reference": None if train is None else _reference(layout, _thinned(train, len(synthetic)), held_out),
        "neighbours": balls(_thinned(drawn, MAX_BALLS), _thinned(others, MAX_BALLS)),
        "closest": None if train is None else nearness(drawn, located["train"], others),
    }


def _reference(layout: Layout, train: Array, held_out: Array) -> Reference:
    return Reference(mean_shape(shapes_of(layout, train, held_out)), pairs_of(layout, train, held_out).mean)


def _copies(train: Any, raw: dict[str, Any], columns: tuple[str, ...] | None) -> Copies:
    """Exact copies, sought among all training rows."""
    check = CopyCheck(train, columns=columns)
    share, others = (float(check.matches(_bare(raw[name])).mean()) for name in ("synthetic", "held_out"))
    return Copies(share, others, check.discrete)


def _scored(raw: dict[str, Any], detector: Any, known: Mapping[str, Any], most: int) -> dict[str, Array]:
    """The model's scores: those that are known, and those that the detector gives."""
    found = {name: np.asarray(values, dtype=np.float64) for name, values in known.items()}
    if detector is None:
        return found
    names = getattr(detector, "feature_names_in_", None)
    for name in raw.keys() - found.keys():
        rows = _bare(_thinned(raw[name], most))
        chosen = rows[list(names)] if names is not None and isinstance(rows, pd.DataFrame) else rows
        found[name] = np.asarray(detector.score_samples(chosen), dtype=np.float64)
    return {name: found[name] for name in ("synthetic", "held_out", "train") if name in found}


def _bare(rows: Any) -> Any:
    return rows.images if isinstance(rows, Labelled) else rows


def _thinned(rows: Any, most: int) -> Any:
    """At most so many rows, evenly spread."""
    if len(rows) <= most:
        return rows
    kept = np.linspace(0, len(rows) - 1, most).astype(np.int64)
    return rows.iloc[kept] if isinstance(rows, pd.DataFrame) else rows[kept]
