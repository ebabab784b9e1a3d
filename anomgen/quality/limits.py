"""What a report cannot tell, and what in it should stop a reader, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from anomgen.quality.hashes import columns_of
from anomgen.quality.report import QualityReport
from anomgen.quality.tables import size_of

FEW = 1000
"""Held-out rows below which figures are coarse."""
TOLD = 0.75
"""Two-sample AUROC above which synthetic rows are said to be easily told."""
ALIKE = 0.9
"""Shape below which a column is said to differ."""
EXPECTED, NEARER = 0.01, 0.02
"""Share of synthetic rows nearer than the held-out rows' 1 % quantile, and above which they are said to be near copies;
of few rows more are near by chance."""
KNOWN = 0.55
"""Membership AUROC above which the model is said to know its training rows."""
NAMED = 5


def limits_of(
    report: QualityReport, given: Mapping[str, Any], tables: Mapping[str, Any], target: object
) -> Iterator[str]:
    """The sentences of a report."""
    yield from _unmeasured(report, given, target)
    yield from _samples(report, given)
    yield from _columns(report, tables)
    yield from _findings(report)


def _unmeasured(report: QualityReport, given: Mapping[str, Any], target: object) -> Iterator[str]:
    if "train" not in given:
        yield (
            "Copies, the distance to the closest record and membership were not checked: "
            "the training rows were not given."
        )
    else:
        yield "The copy check finds copies and near copies of rows; it does not prove that training rows stay private."
        if report.membership is None:
            yield "Membership was not checked: the model's scores of training and held-out rows were not given."
    if report.kind == "image":
        yield "Images were compared in the features of a small classifier trained for it; other eyes may see more."
    if report.transfer:
        if all(one.ratio is None for one in report.transfer):
            names = ", ".join(one.target for one in report.transfer[:NAMED])
            yield f"Real rows do not teach {names} either, so that training on synthetic ones could not be judged."
    elif report.kind == "image" and target is None:
        yield "Training on synthetic images was not judged: not all images have labels."
    else:
        yield "Training on synthetic rows was not judged: there is no target of two values beside other columns."


def _samples(report: QualityReport, given: Mapping[str, Any]) -> Iterator[str]:
    for name, rows in given.items():
        total, used = size_of(rows), report.rows[name]
        if total is not None and total > used:
            yield f"Of {total:,} {name.replace('_', '-')} rows, {used:,} chosen at random were compared."
    if report.rows["held_out"] < FEW:
        yield f"There are only {report.rows['held_out']:,} held-out rows: all figures are coarse."


def _columns(report: QualityReport, tables: Mapping[str, Any]) -> Iterator[str]:
    if report.kind == "tabular":
        names = {column.name: None for table in tables.values() for column in columns_of(table[:1])}
        left = [name for name in names if name not in report.shapes]
        if left:
            yield f"Columns that not all tables have were not compared: {_few(left)}."
        if len(report.pairs.names) < len(report.shapes):
            yield f"Pairs were compared among {len(report.pairs.names)} of {len(report.shapes)} columns."
        worst = sorted((shape.alike, name) for name, shape in report.shapes.items() if shape.alike < ALIKE)
        if worst:
            told = _few([f"{name} ({alike:.2f})" for alike, name in worst])
            yield f"Columns that differ most from held-out rows: {told}."


def _findings(report: QualityReport) -> Iterator[str]:
    if report.two_sample.value > TOLD:
        yield f"A classifier tells synthetic rows from real ones (AUROC {report.two_sample.value:.2f})."
    if report.closest is not None and report.closest.nearer > max(NEARER, EXPECTED + _spread(EXPECTED, report)):
        yield (
            f"{report.closest.nearer:.1%} of the synthetic rows are nearer to a training row than 99 % of the held-out "
            "rows: near copies."
        )
    if report.copies is not None and report.copies.share > report.copies.held_out + _chance(report):
        yield (
            f"{report.copies.share:.2%} of the synthetic rows equal a training row, "
            f"and {report.copies.held_out:.2%} of the held-out ones."
        )
    if report.membership is not None and report.membership.low > KNOWN:
        yield f"The model scores training rows higher than others (AUROC {report.membership.value:.2f})."


def _chance(report: QualityReport) -> float:
    """By how much more synthetic than held-out rows may match by chance; nothing where no rows do."""
    return _spread(report.copies.held_out, report) if report.copies is not None and report.copies.discrete else 0.0


def _spread(share: float, report: QualityReport) -> float:
    """Two standard errors of a difference of shares of synthetic and of held-out rows."""
    return float(2.0 * np.sqrt(share * (1 - share) * (1 / report.rows["synthetic"] + 1 / report.rows["held_out"])))


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
