"""Whether rows still look like those a detector was fitted on: the population stability index and Kolmogorov-Smirnov.

Rows are sorted into at most 50 cells a column, decided from the training rows alone, and counted. Counts add up in any
order, so that the drift of a file of any size does not depend on how it was cut.
"""

from anomgen.drift.cells import Cells, Shift
from anomgen.drift.reference import Counter, Drift, Reference

__all__ = ["Cells", "Counter", "Drift", "Reference", "Shift"]
