"""How good drawn rows are, and how close to those they were learned from: shapes, pairs, classifiers, copies."""

from anomgen.quality.classifiers import Auroc, Transfer, membership, transfer, two_sample_auroc
from anomgen.quality.copies import CopyCheck
from anomgen.quality.measure import quality_report
from anomgen.quality.neighbours import ClosestRecords, Prdc, closest_records, prdc
from anomgen.quality.report import QualityReport
from anomgen.quality.shapes import ColumnShape, PairTrends, column_shapes, pair_trends

__all__ = [
    "Auroc",
    "ClosestRecords",
    "ColumnShape",
    "CopyCheck",
    "PairTrends",
    "Prdc",
    "QualityReport",
    "Transfer",
    "closest_records",
    "column_shapes",
    "membership",
    "pair_trends",
    "prdc",
    "quality_report",
    "transfer",
    "two_sample_auroc",
]
