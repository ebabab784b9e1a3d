"""Networks and elementwise maps on columns: every tensor is ``(features, n)``, one row of a table a column."""

from anomgen.nn.affine import LOG_RANGE, affine, inverse_affine, softclip
from anomgen.nn.masked import MaskedMLP
from anomgen.nn.mlp import MLP
from anomgen.nn.spline import inverse_spline, spline

__all__ = ["LOG_RANGE", "MLP", "MaskedMLP", "affine", "inverse_affine", "inverse_spline", "softclip", "spline"]
