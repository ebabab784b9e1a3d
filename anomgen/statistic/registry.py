"""Statistics by name: the closed registry that saved models and parameters refer to."""

from __future__ import annotations

import copy
import warnings

from anomgen.generative import GenerativeModel, Space, missing_abilities
from anomgen.statistic.base import Statistic
from anomgen.statistic.dose import Dose
from anomgen.statistic.features import Features
from anomgen.statistic.image import Complexity
from anomgen.statistic.likelihood import Discriminator, Energy, Likelihood, Reconstruction, Typicality
from anomgen.statistic.ratio import Ratio
from anomgen.statistic.scores import GradientNorm, LatentFit, ScoreNorms

STATISTICS: dict[str, type[Statistic]] = {
    "likelihood": Likelihood,
    "complexity": Complexity,
    "ratio": Ratio,
    "gradient": GradientNorm,
    "score_norms": ScoreNorms,
    "latent_fit": LatentFit,
    "dose": Dose,
    "typicality": Typicality,
    "energy": Energy,
    "reconstruction": Reconstruction,
    "features": Features,
    "discriminator": Discriminator,
}
"""The closed registry: names a saved model may ask for."""


def make_statistic(given: str | Statistic, default: str) -> Statistic:
    """A fresh statistic from a name, ``"auto"`` or an unfitted instance.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(given, Statistic):
        return copy.deepcopy(given)
    name = default if given == "auto" else given
    if name not in STATISTICS:
        raise ValueError(f"statistic={given!r} is unknown; choose from 'auto', {', '.join(map(repr, STATISTICS))}")
    return STATISTICS[name]()


def statistic_class(name: str) -> type[Statistic] | None:
    """The registered statistic whose class has this name, or None."""
    return next((kind for kind in STATISTICS.values() if kind.__name__ == name), None)


def check_abilities(statistic: Statistic, model: GenerativeModel, space: Space | None = None) -> None:
    """Refuse a statistic that needs what the model cannot do, or images where rows are none.

    Where they are images, it warns of a statistic that does badly on them.

    Raises
    ------
    ValueError
        Naming both and the missing abilities.
    """
    name = type(statistic).__name__
    lacking = missing_abilities(model, statistic.needs)
    if lacking:
        raise ValueError(f"statistic {name} needs {', '.join(lacking)}, which {type(model).__name__} lacks")
    if space is None:
        return
    if statistic.images and space.image is None:
        raise ValueError(f"statistic {name} scores images, and these are rows of a table; use statistic='auto'")
    if statistic.caution and space.image is not None:
        warnings.warn(f"statistic {name} on images: {statistic.caution}", UserWarning, stacklevel=2)
