"""Columns of a table to and from model space, with the log-determinant. Numpy, scipy and pandas only."""

from anomgen.encode.columns import KINDS, Column
from anomgen.encode.joint import JointEncoder, encoder_from_state
from anomgen.encode.rows import Encoded
from anomgen.encode.table import TableEncoder

__all__ = ["KINDS", "Column", "Encoded", "JointEncoder", "TableEncoder", "encoder_from_state"]
