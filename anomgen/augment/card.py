"""The card of an export: what was drawn, how, how good it is and what it cannot be used for; Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from anomgen.augment import plots as pictures
from anomgen.augment.plots import Samples
from anomgen.augment.wording import card_text
from anomgen.jobs.whole import write_whole
from anomgen.quality import QualityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.json"
"""What the card says, for programs."""
PLOTS = "plots"
"""Folder of the pictures in a folder of rows; a single file has them in ``NAME.card``."""


class Facts(TypedDict):
    """What a card is written from; JSON values.

    ``kind`` says what the rows are, ``data`` where they are: the pattern or name of the files, relative to the card.
    ``tried`` counts the rows that the model drew, ``refused`` by reason those that were not kept. ``copies`` holds
    ``checked`` and, where they were, ``found`` and ``allowed`` (a share). ``recipe`` is what the rows follow from, as
    ``Recipe.describe()`` tells it. ``train`` and ``held_out`` tell the rows that copies and quality were checked by:
    ``rows``, ``digest`` and the ``files``, where they were files. ``columns`` are types by name.
    """

    kind: Literal["tabular", "image"]
    rows: int
    tried: int
    refused: dict[str, int]
    copies: dict[str, Any]
    family: str
    model_digest: str
    data_digest: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    data: NotRequired[str]
    columns: NotRequired[dict[str, str]]
    train: NotRequired[dict[str, Any] | None]
    held_out: NotRequired[dict[str, Any] | None]
    license: NotRequired[str]


def write_card(
    place: str | Path,
    facts: Facts,
    report: QualityReport | None = None,
    *,
    samples: Samples | None = None,
    plots: bool = True,
) -> tuple[Path, ...]:
    """Write the card of synthetic rows beside them, the same in JSON, and pictures of the evidence.

    Parameters
    ----------
    place : path
        The folder of the rows, which gets ``README.md``, ``report.json`` and ``plots/``; or their file, beside which
        there will be ``NAME.card.md``, ``NAME.card.json`` and a folder ``NAME.card``.
    facts : Facts
    report : QualityReport, optional
        Without it the card says that nothing was measured.
    samples : Samples, optional
        What the pictures show.
    plots : bool
        Whether to draw them.

    Returns
    -------
    tuple of Path
        The files written.
    """
    target = Path(place)
    inside = target.is_dir()
    card = target / "README.md" if inside else target.with_suffix(".card.md")
    told = target / REPORT if inside else target.with_suffix(".card.json")
    folder = target / PLOTS if inside else target.with_suffix(".card")
    drawn = _draw(folder, samples, report) if samples is not None and plots else ()
    measured = None if report is None else report.to_dict()
    text = json.dumps({"facts": facts, "report": measured}, indent=2, ensure_ascii=False, allow_nan=False)
    shown = tuple(picture.relative_to(card.parent).as_posix() for picture in drawn)
    write_whole(told, partial(_write_text, f"{text}\n"))
    write_whole(card, partial(_write_text, card_text(facts, report, shown)))
    return card, told, *drawn


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _draw(folder: Path, samples: Samples, report: QualityReport | None) -> tuple[Path, ...]:
    drawn = []
    for name, figure in _figures(samples, report):
        folder.mkdir(exist_ok=True)
        drawn.append(folder / f"{name}.png")
        write_whole(drawn[-1], partial(pictures.save, figure))
    return tuple(drawn)


def _figures(samples: Samples, report: QualityReport | None) -> Iterator[tuple[str, Figure]]:
    """Name and picture of all that there is to show."""
    images = any(getattr(rows, "ndim", 2) == 4 for rows in samples.rows.values())
    if images:
        yield "images", pictures.contact_sheet(samples.rows)
    elif {"held_out", "synthetic"} <= samples.rows.keys():
        alike = {} if report is None else {name: shape.alike for name, shape in report.shapes.items()}
        yield "columns", pictures.column_shapes(samples.rows, alike)
    if report is not None and not images and len(report.pairs.names) > 1:
        yield "pairs", pictures.pair_differences(report.pairs.names, report.pairs.alike)
    if len(samples.scores) > 1:
        yield "scores", pictures.score_histograms(samples.scores)
    if report is not None and report.closest is not None:
        closest = report.closest
        yield "closest", pictures.closest_distances(closest.synthetic, closest.held_out, closest.quantile)
