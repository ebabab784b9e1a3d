"""New rows drawn from a fitted model: chosen, checked, exported."""

from __future__ import annotations

from anomgen.augment.band import Band
from anomgen.augment.constraints import Constraint, Integer, Levels, Range, Sum, Where
from anomgen.augment.draw import Drawn, Recipe, draw, draw_block, draw_chunks
from anomgen.augment.export import export
from anomgen.augment.near import Near
from anomgen.augment.run import ExportSummary
from anomgen.jobs.errors import Interrupted, ModelMismatch, SchemaError

__all__ = [
    "Band",
    "Constraint",
    "Drawn",
    "ExportSummary",
    "Integer",
    "Interrupted",
    "Levels",
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
]
