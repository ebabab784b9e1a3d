"""What the card of synthetic rows says, in Markdown with a header in YAML that data set hubs read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anomgen.augment.draw import COPY
from anomgen.quality.neighbours import K

if TYPE_CHECKING:
    from anomgen.augment.card import Facts
    from anomgen.quality import Auroc, QualityReport

SHOWN = 60
"""Columns listed at most."""
MATCHED = "numbers brought to the distribution that they had in training"
OURS = ("synthetic", "seed", "model_id")
CAPTIONS = {
    "images": "Real images and synthetic ones.",
    "columns": "Held-out and synthetic values, column by column; the outermost bins hold what lies beyond them.",
    "pairs": "How much the dependence of each pair of columns differs between held-out and synthetic rows.",
    "scores": "How likely the model finds training, held-out and synthetic rows.",
    "closest": "Distance to the closest training row, of held-out and of synthetic rows.",
}


def card_text(facts: Facts, report: QualityReport | None, pictures: Sequence[str]) -> str:
    """The card; `pictures` are paths relative to it."""
    return "\n".join(
        [
            *_header(facts),
            "",
            *_opening(facts),
            "",
            *_making(facts),
            *_columns(facts),
            *_quality(facts, report, pictures),
            *_copies(facts),
            *_limits(facts, report),
            "",
        ]
    )


def _header(facts: Facts) -> Iterator[str]:
    """What hubs of data sets read; every text is written as JSON writes it, which is YAML too."""
    yield "---"
    yield f"license: {json.dumps(facts.get('license', 'other'))}"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("synthetic", "anomgen", facts["kind"]))
    yield "size_categories:"
    yield f"- {size_category(facts['rows'])}"
    if "data" in facts and not facts["data"].endswith(".npz"):
        yield "configs:"
        yield "- config_name: default"
        yield "  data_files:"
        yield "  - split: train"
        yield f"    path: {json.dumps(facts['data'])}"
    yield "---"


def size_category(rows: int) -> str:
    """The name that hubs have for so many rows: ``1K<n<10K``."""
    marks = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(rows >= 10 ** (3 + number) for number in range(len(marks)))
    if above == 0:
        return f"n<{marks[0]}"
    return f"n>{marks[-1]}" if above == len(marks) else f"{marks[above - 1]}<n<{marks[above]}"


def _opening(facts: Facts) -> Iterator[str]:
    what = "images" if facts["kind"] == "image" else "rows"
    near, kind = facts["recipe"].get("near"), facts["recipe"].get("kind")
    how = "made by moving given ones" if near else f"made to be anomalies, of the kind {kind}," if kind else "drawn"
    yield f"# {facts['rows']:,} synthetic {what}"
    yield ""
    yield f"None of these {what} was recorded. All were {how} with {facts['family']}, a model of anomgen."


def _making(facts: Facts) -> Iterator[str]:
    recipe = facts["recipe"]
    refused = sum(facts["refused"].values())
    reasons = ", ".join(f"`{reason}` {count:,}" for reason, count in facts["refused"].items() if count)
    told = {
        "model": f"{facts['family']}, sha256 `{facts['model_digest']}`",
        "fitted to": f"rows with sha256 `{facts['data_digest']}`",
        "seed": recipe.get("seed"),
        "drawn": f"{facts['tried']:,}, of which {facts['rows']:,} are here",
        "refused": f"{refused:,}: {reasons}" if refused else None,
        "condition": _json(recipe.get("condition")),
        "band of scores": _band(recipe.get("band")),
        "constraints": "<br>".join(map(_constraint, recipe.get("constraints", ()))) or None,
        "columns": MATCHED if recipe.get("marginals") == "data" else None,
        "near": _near(recipe.get("near")),
        "kind of anomaly": f"{recipe['kind']}, strength {recipe['strength']}" if "kind" in recipe else None,
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    yield "## How they were made"
    yield ""
    yield from table(("", ""), ((name, value) for name, value in told.items() if value is not None))
    yield ""
    yield "The same model, versions and choices give the same again."
    yield ""


def _columns(facts: Facts) -> Iterator[str]:
    columns = facts.get("columns")
    if not columns:
        return
    yield "## Columns"
    yield ""
    yield from table(("column", "type"), ((f"`{name}`", kind) for name, kind in list(columns.items())[:SHOWN]))
    if len(columns) > SHOWN:
        yield ""
        yield f"And {len(columns) - SHOWN:,} more."
    yield ""
    if set(OURS) <= columns.keys():
        yield (
            "`synthetic` is true in every row, `model_id` is the beginning of the model's sha256: rows that were mixed "
            "with recorded ones can be told apart again."
        )
        yield ""


def _quality(facts: Facts, report: QualityReport | None, pictures: Sequence[str]) -> Iterator[str]:
    yield "## How good they are"
    yield ""
    if report is None:
        yield "Not measured: no held-out rows were given."
    else:
        counts = report.rows
        what = "images" if facts["kind"] == "image" else "rows"
        held_out = _source({**(facts.get("held_out") or {}), "rows": counts["held_out"]}, what)
        yield f"Measured on {counts['synthetic']:,} of them, beside {held_out} that the model was not fitted to."
        yield ""
        yield from table(("measure", "these rows", "as good as real"), measures(report))
    yield ""
    for picture in pictures:
        name = picture.rpartition("/")[2].removesuffix(".png")
        yield f"![{CAPTIONS[name]}]({picture})"
        yield ""


def measures(report: QualityReport) -> Iterator[tuple[str, str, str]]:
    """What was measured, its value, and what it would be of rows that are as good as real ones."""
    known, real = report.metrics(), report.reference
    shapes, pairs = ("near 1", "near 1") if real is None else (f"{real.column_shapes:.3f}", f"{real.pair_trends:.3f}")
    yield "columns alike (mean)", f"{known['column_shapes']:.3f}", shapes
    yield "pairs of columns alike (mean)", f"{known['pair_trends']:.3f}", pairs
    yield "told from real rows by a classifier, AUROC", _interval(report.two_sample), "0.5"
    for one in report.transfer:
        name = f"model trained on them predicts `{one.target}`, {one.measure}"
        yield name, f"{one.synthetic:.3f}", f"{one.real:.3f}"
    for name, value in report.neighbours._asdict().items():
        yield f"{name} among {K} neighbours", f"{value:.3f}", "near 1"
    if report.closest is not None:
        yield "nearer to a training row than 99 % of held-out rows", f"{report.closest.nearer:.2%}", "1 %"
        yield "nearer to a training row than half of them", f"{report.closest.nearer_half:.1%}", "50 %"
    if report.copies is not None:
        yield "equal to a training row", f"{report.copies.share:.2%}", f"{report.copies.held_out:.2%}"
    if report.membership is not None:
        yield "training rows told from held-out ones by the model's score, AUROC", _interval(report.membership), "0.5"


def _interval(auroc: Auroc) -> str:
    return f"{auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})"


def _copies(facts: Facts) -> Iterator[str]:
    copies, what = facts["copies"], "images" if facts["kind"] == "image" else "rows"
    yield "## Copies"
    yield ""
    if not copies["checked"]:
        yield f"Not checked: the training {what} were not given, so copies of them may be among these {what}."
    else:
        train = facts.get("train") or {}
        yield (
            f"Every {what[:-1]} was compared with {_source(train, what)}. Copies found: {copies['found']:,}; "
            f"refused: {facts['refused'].get(COPY, 0):,}."
        )
        if copies.get("allowed"):
            yield (
                f"Held-out rows of this table match training rows at a rate of {copies['allowed']:.2%}: exact matches "
                "are refused only beyond it."
            )
    yield ""
    yield (
        "This is a check for copies and no proof of privacy: what a model learned of single rows may be inferred from "
        "others than their copies."
    )
    yield ""


def _limits(facts: Facts, report: QualityReport | None) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield from (f"- {sentence}" for sentence in limits(facts, report))


def limits(facts: Facts, report: QualityReport | None) -> Iterator[str]:
    """What these rows should not be used for, and what is not known of them."""
    recipe, what = facts["recipe"], "images" if facts["kind"] == "image" else "rows"
    yield (
        f"The {what} repeat what the model learned: its errors, and the gaps and biases of its training {what}. Judge "
        f"whatever is trained on them by recorded {what}."
    )
    if recipe.get("band"):
        yield f"Only {what} within a band of scores are here: frequencies and means are not those of the source."
    if recipe.get("condition") is not None:
        yield f"All {what} were drawn under one condition: they show one part of the source."
    if recipe.get("near"):
        yield f"The {what} lie near given ones; they do not show how the source varies beyond those."
    if recipe.get("kind"):
        yield f"The {what} are made to be unlikely, to test detectors. They are not examples of real anomalies."
    if any(item.get("constraint") != "integer" for item in recipe.get("constraints", ())):
        beside = "" if report is None else f", and they were compared with all held-out {what}"
        yield f"Only {what} within the constraints are here{beside}: frequencies and means are not those of the source."
    for item in recipe.get("constraints", ()):
        if item.get("constraint") == "sum":
            yield f"Column `{item['solve']}` is computed from the others of its sum, not drawn."
    if report is None:
        yield f"How good the {what} are was not measured."
    else:
        yield from report.limits
    if "license" not in facts:
        yield f"The licence is not known here: what binds the training {what} may bind these."


def table(head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """A table of Markdown; a bar within a cell is masked."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def _source(rows: Mapping[str, Any], what: str = "rows") -> str:
    """Rows in words: how many, from which files, with which digest."""
    files = rows.get("files") or ()
    named = f" from {', '.join(f'`{file}`' for file in files[:3])}{' and others' if len(files) > 3 else ''}"
    digest = f" (sha256 `{rows['digest']}`)" if rows.get("digest") else ""
    count = f"{rows['rows']:,} {what}" if "rows" in rows else what
    return f"{count}{named if files else ''}{digest}"


def _band(band: Mapping[str, Any] | None) -> str | None:
    if band is None:
        return None
    return f"between the quantiles {band['low']:.4g} and {band['high']:.4g} of the scores of the training rows"


def _constraint(item: Mapping[str, Any]) -> str:
    """A constraint in words."""
    column = f"`{item.get('column')}`"
    match item["constraint"]:
        case "range":
            low, high = item.get("low"), item.get("high")
            bounds = [
                *([f"at least {low}"] if low is not None else []),
                *([f"at most {high}"] if high is not None else []),
            ]
            return f"{column} {' and '.join(bounds)}"
        case "integer":
            return f"{column} rounded to whole numbers"
        case "levels":
            return f"{column} one of {', '.join(map(str, item['levels']))}"
        case "sum":
            parts = " + ".join(f"`{part}`" for part in item["parts"])
            return f"{parts} = `{item['total']}`, solved for `{item['solve']}`"
        case "where":
            return f"`{item['predicate']}`"
        case _:
            return f"`{_json(item)}`"


def _near(near: Mapping[str, Any] | None) -> str | None:
    if near is None:
        return None
    kept = f", {', '.join(f'`{name}`' for name in near['keep'])} kept" if near.get("keep") else ""
    rows = _source({"rows": near["rows"], "digest": near["sha256"]})
    return f"{rows}, strength {near['strength']:g}: {near['means']}{kept}"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
