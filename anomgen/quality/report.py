"""What was measured on synthetic rows, in one report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from anomgen.quality.classifiers import Auroc, Transfer
from anomgen.quality.neighbours import ClosestRecords, Prdc
from anomgen.quality.shapes import ColumnShape, PairTrends
from anomgen.quality.tables import Array

FAR = 1e300
QUANTILES = np.linspace(0.0, 1.0, 101)
"""Of scores and distances, what a report in JSON tells."""


class Copies(NamedTuple):
    """Exact copies of training rows.

    Parameters
    ----------
    share : float
        Of the synthetic rows that equal a training row.
    held_out : float
        Of the held-out rows that do, which is no evidence of copying.
    discrete : bool
        Whether rows may be equal by chance: no column is continuous.
    """

    share: float
    held_out: float
    discrete: bool


class Reference(NamedTuple):
    """What as many training rows reach beside the held-out ones: the best that can be asked for."""

    column_shapes: float
    pair_trends: float


@dataclass(frozen=True)
class QualityReport:
    """How good synthetic rows are and how close to training rows; see :func:`quality_report`.

    Parameters
    ----------
    kind : {"tabular", "image"}
        What was compared. Of images, columns are features of a small classifier.
    rows : dict
        Rows compared: ``synthetic``, ``held_out`` and, where given, ``train``.
    shapes : dict of str to ColumnShape
    pairs : PairTrends
    reference : Reference or None
        None without training rows, as are `closest` and `copies`.
    two_sample : Auroc
    transfer : tuple of Transfer
        Empty where there was nothing to predict.
    neighbours : Prdc
    closest : ClosestRecords or None
    copies : Copies or None
    membership : Auroc or None
        None without scores of training and held-out rows.
    scores : dict of str to ndarray
        Scores of the model, of those rows that were scored.
    limits : tuple of str
        What was not measured and what the figures do not say, a sentence each.
    """

    kind: Literal["tabular", "image"]
    rows: dict[str, int]
    shapes: dict[str, ColumnShape]
    pairs: PairTrends
    reference: Reference | None
    two_sample: Auroc
    transfer: tuple[Transfer, ...]
    neighbours: Prdc
    closest: ClosestRecords | None
    copies: Copies | None
    membership: Auroc | None
    scores: dict[str, Array] = field(repr=False)
    limits: tuple[str, ...] = field(repr=False)

    def metrics(self) -> dict[str, float]:
        """The figures by name, as MLflow takes them; what was not measured is absent."""
        found = {
            "column_shapes": mean_shape(self.shapes),
            "pair_trends": self.pairs.mean,
            "two_sample_auroc": self.two_sample.value,
            **self._taught(),
            **self.neighbours._asdict(),
        }
        if self.closest is not None:
            found |= {"closest_nearer": self.closest.nearer, "closest_nearer_half": self.closest.nearer_half}
        if self.copies is not None:
            found |= {"copies": self.copies.share, "copies_held_out": self.copies.held_out}
        if self.membership is not None:
            found["membership_auroc"] = self.membership.value
        return {name: float(value) for name, value in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; of scores and distances 101 quantiles."""
        return {
            "kind": self.kind,
            "rows": self.rows,
            "metrics": self.metrics(),
            "column_shapes": {name: shape._asdict() for name, shape in self.shapes.items()},
            "pair_trends": {"names": list(self.pairs.names), "alike": self.pairs.alike.tolist()},
            "reference": _told(self.reference),
            "two_sample": _told(self.two_sample),
            "transfer": [{**vars(one), "ratio": one.ratio} for one in self.transfer],
            "neighbours": _told(self.neighbours),
            "closest_records": None if self.closest is None else _plain(vars(self.closest)),
            "copies": _told(self.copies),
            "membership": _told(self.membership),
            "scores": _plain(self.scores),
            "limits": list(self.limits),
        }

    def _taught(self) -> dict[str, float]:
        """Means over the targets that real rows teach; the ratio is that of the means."""
        told = [one for one in self.transfer if one.ratio is not None]
        if not told:
            return {}
        synthetic = float(np.mean([max(one.synthetic, 0.0) for one in told]))
        real = float(np.mean([one.real for one in told]))
        return {"transfer_synthetic": synthetic, "transfer_real": real, "transfer_ratio": synthetic / real}


def mean_shape(shapes: dict[str, ColumnShape]) -> float:
    """How alike columns are on average."""
    return float(np.mean([shape.alike for shape in shapes.values()]))


def _told(figures: Any) -> dict[str, float] | None:
    return None if figures is None else dict(figures._asdict())


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """Arrays as their quantiles; JSON has no infinity."""
    return {
        name: np.quantile(np.clip(value, -FAR, FAR), QUANTILES).tolist() if isinstance(value, np.ndarray) else value
        for name, value in figures.items()
    }
