"""How good drawn rows are, and how close to those they were learned from: shapes, pairs, classifiers, copies."""

from anomgen.quality.copies import CopyCheck

__all__ = ["CopyCheck"]
