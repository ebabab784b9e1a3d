"""How far the likelihood of images follows mere complexity: the paradox, measured on one's own images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from anomgen.detector import Detector, fitting
from anomgen.detector.checks import validated
from anomgen.generative import Rows, abilities
from anomgen.statistic import code_length

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` measured; printed as a table.

    Parameters
    ----------
    normal, other : int
        How many images of each set there were.
    correlation : float or None
        Pearson's correlation of the log-likelihood with the length of the PNG file, over the images of both sets. Close
        to -1, likelihood is mere simplicity. None where the model has no likelihood.
    likelihood : float or None
        AUROC of normal over other images by log-likelihood; None where the model has none.
    code : float
        AUROC by the length of the PNG file, longer taken for more normal: what can be had without any model.
    default : float
        AUROC by the detector's own score.
    statistic : str
        What that score is.
    """

    normal: int
    other: int
    correlation: float | None
    likelihood: float | None
    code: float
    default: float
    statistic: str

    def __str__(self) -> str:
        """A table of the figures."""
        rows = [
            ("log-likelihood", self.likelihood),
            ("PNG size, no model", self.code),
            (f"{self.statistic}, the detector's score", self.default),
        ]
        lines = [f"{'score':<36}  AUROC of {self.normal:,} normal over {self.other:,} other images"]
        lines += [f"{name:<36}  {'none' if value is None else f'{value:.3f}'}" for name, value in rows]
        if self.correlation is not None:
            lines.append(f"correlation of log-likelihood with PNG size: {self.correlation:+.3f}")
        return "\n".join(lines)


def diagnose(detector: Detector, X_normal: Any, X_other: Any) -> Diagnosis:
    """Measure how far a detector's likelihood, and its own score, follow the complexity of images.

    Simple images are likely under most models, whatever they show, so that a likelihood may rank foreign images above
    the kind that it was trained on, with an AUROC far below one half.

    Parameters
    ----------
    detector : Detector
        Fitted on images.
    X_normal, X_other : images
        New images of the kind it was trained on, and of another kind.

    Returns
    -------
    Diagnosis
        Its ``str`` is a table.

    Raises
    ------
    ValueError
        If the detector was fitted on a table.

    References
    ----------
    Nalisnick et al., "Do deep generative models know what they don't know?", ICLR 2019; Serra et al., "Input complexity
    and out-of-distribution detection with likelihood-based generative models", ICLR 2020.
    """
    scores = [detector.score_samples(X) for X in (X_normal, X_other)]
    if detector.encoder_.container_ != "images":
        name = type(detector).__name__
        raise ValueError(f"diagnose is about images, and this {name} was fitted on a table, where likelihoods do well")
    found = [_likelihoods_and_codes(detector, X) for X in (X_normal, X_other)]
    likelihoods, codes = [pair[0] for pair in found], [pair[1] for pair in found]
    known = len(likelihoods[0]) > 0
    return Diagnosis(
        normal=len(codes[0]),
        other=len(codes[1]),
        correlation=_correlation(np.concatenate(likelihoods), np.concatenate(codes)) if known else None,
        likelihood=_auroc(likelihoods) if known else None,
        code=_auroc(codes),
        default=_auroc(scores),
        statistic=type(detector.statistic_).__name__,
    )


def _likelihoods_and_codes(detector: Detector, X: Any) -> tuple[Array, Array]:
    """Log-likelihoods of images, none where the model knows none, and lengths of their PNG files, nats."""
    shape = fitting.event_shape(detector)
    likelihoods, codes = [], []
    for part in fitting.pieces(detector, validated(detector, X, reset=False, minimum=1)):
        rows = detector.encoder_.encode(part, codes=detector.model_.codes)
        if "log_prob" in abilities(detector.model_):
            likelihoods.append(fitting.map_encoded(detector, detector.model_, rows, None))
        images = Rows(torch.from_numpy(rows.z), torch.from_numpy(rows.log_det), shape).images
        if images is not None:
            codes.append(code_length(images).numpy())
    return np.concatenate([np.empty(0), *likelihoods]), np.concatenate(codes)


def _auroc(scores: list[Array]) -> float:
    """The chance that a normal image scores above another."""
    normal, other = scores
    return float(roc_auc_score(np.r_[np.ones(len(normal)), np.zeros(len(other))], np.r_[normal, other]))


def _correlation(a: Array, b: Array) -> float:
    """Pearson's correlation; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else 0.0
