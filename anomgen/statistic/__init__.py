"""What a row is scored by: statistics of a fitted model, higher = more normal."""

from anomgen.statistic.base import MAX_ROWS, Statistic, log_likelihood
from anomgen.statistic.dose import Dose
from anomgen.statistic.features import Features
from anomgen.statistic.image import Complexity, code_length
from anomgen.statistic.likelihood import Discriminator, Energy, Likelihood, Reconstruction, Typicality
from anomgen.statistic.ratio import Ratio
from anomgen.statistic.registry import STATISTICS, check_abilities, make_statistic, statistic_class
from anomgen.statistic.scores import GradientNorm, LatentFit, ScoreNorms

__all__ = [
    "MAX_ROWS",
    "STATISTICS",
    "Complexity",
    "Discriminator",
    "Dose",
    "Energy",
    "Features",
    "GradientNorm",
    "LatentFit",
    "Likelihood",
    "Ratio",
    "Reconstruction",
    "ScoreNorms",
    "Statistic",
    "Typicality",
    "check_abilities",
    "code_length",
    "log_likelihood",
    "make_statistic",
    "statistic_class",
]
