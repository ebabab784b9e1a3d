"""What a row is scored by: statistics of a fitted model, higher = more normal."""

from anomgen.statistic.base import MAX_ROWS, Statistic, log_likelihood
from anomgen.statistic.features import Features
from anomgen.statistic.likelihood import Discriminator, Energy, Likelihood, Reconstruction, Typicality
from anomgen.statistic.registry import STATISTICS, check_abilities, make_statistic, statistic_class

__all__ = [
    "MAX_ROWS",
    "STATISTICS",
    "Discriminator",
    "Energy",
    "Features",
    "Likelihood",
    "Reconstruction",
    "Statistic",
    "Typicality",
    "check_abilities",
    "log_likelihood",
    "make_statistic",
    "statistic_class",
]
