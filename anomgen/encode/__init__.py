"""Columns of a table, and images, to and from model space, with the log-determinant. No torch, no scikit-learn."""

from anomgen.encode.columns import KINDS, Column
from anomgen.encode.image import ImageEncoder, is_images, is_source
from anomgen.encode.joint import JointEncoder, Labelled, encoder_from_state, image_encoder
from anomgen.encode.marginals import Marginals
from anomgen.encode.rows import Encoded, join
from anomgen.encode.table import TableEncoder

__all__ = [
    "KINDS",
    "Column",
    "Encoded",
    "ImageEncoder",
    "JointEncoder",
    "Labelled",
    "Marginals",
    "TableEncoder",
    "encoder_from_state",
    "image_encoder",
    "is_images",
    "is_source",
    "join",
]
