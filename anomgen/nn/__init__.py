"""Networks and elementwise maps on columns: every tensor is ``(features, n)``, one row of a table a column."""

from anomgen.nn.masked import MaskedMLP
from anomgen.nn.mlp import MLP
from anomgen.nn.spline import inverse_spline, softclip, spline

__all__ = ["MLP", "MaskedMLP", "inverse_spline", "softclip", "spline"]
