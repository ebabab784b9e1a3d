"""Networks and elementwise maps on columns: every tensor is ``(features, n)``, one row of a table a column."""

from anomgen.nn.affine import LOG_RANGE, affine, inverse_affine, softclip
from anomgen.nn.arguments import check_choice, check_counts, check_flag, check_number, check_widths
from anomgen.nn.condition import Condition
from anomgen.nn.levels import Levels
from anomgen.nn.masked import MaskedMLP
from anomgen.nn.mlp import MLP
from anomgen.nn.spline import inverse_spline, spline

__all__ = [
    "LOG_RANGE",
    "MLP",
    "Condition",
    "Levels",
    "MaskedMLP",
    "affine",
    "check_choice",
    "check_counts",
    "check_flag",
    "check_number",
    "check_widths",
    "inverse_affine",
    "inverse_spline",
    "softclip",
    "spline",
]
