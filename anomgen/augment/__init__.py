"""New rows drawn from a fitted model: chosen, checked, exported."""

from __future__ import annotations

from anomgen.augment.anomalies import synthetic_anomalies
from anomgen.augment.band import Band
from anomgen.augment.constraints import Constraint, Integer, Levels, Range, Sum, Where
from anomgen.augment.decoys import export_anomalies
from anomgen.augment.draw import Drawn, draw, draw_block, draw_chunks
from anomgen.augment.export import export
from anomgen.augment.files import Filled, Mended, impute_file, repair_file
from anomgen.augment.near import Near
from anomgen.augment.recipe import Recipe
from anomgen.augment.run import ExportSummary
from anomgen.jobs.errors import Interrupted, ModelMismatch, SchemaError

__all__ = [
    "Band",
    "Constraint",
    "Drawn",
    "ExportSummary",
    "Filled",
    "Integer",
    "Interrupted",
    "Levels",
    "Mended",
    "ModelMismatch",
    "Near",
    "Range",
    "Recipe",
    "SchemaError",
    "Sum",
    "Where",
    "draw",
    "draw_block",
    "draw_chunks",
    "export",
    "export_anomalies",
    "impute_file",
    "repair_file",
    "synthetic_anomalies",
]
