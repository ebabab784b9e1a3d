"""Statistics read off a model's own output: likelihoods, reconstructions, logits."""

from __future__ import annotations

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Rows
from anomgen.statistic.base import Statistic, log_likelihood, parts

PARADOX = (
    "simple images are likely whatever they show, so that likelihoods rank foreign ones above normal ones; "
    "statistic='auto' ('dose') does not, and anomgen.diagnose shows how far this goes on your images"
)
"""What is wrong with the likelihood of an image."""


class Likelihood(Statistic):
    """The log-likelihood of a row: ``log p(z) + log|dz/dx|``, nats in the user's own units.

    The default for tables, where likelihoods order rows well (the paradox met on images is rare on tables).
    """

    density = True
    unit = "nats"
    caution = PARADOX

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-likelihood of every row, nats."""
        return log_likelihood(model, rows)


class Typicality(Statistic):
    """Minus the distance of a row's log-likelihood from that of typical rows: ``-|log p(x) - E log p|``, nats.

    A row can be atypical by being *too* likely, as constant images are. The expectation is taken over held-out rows.

    References
    ----------
    Nalisnick et al., "Detecting out-of-distribution inputs to deep generative models using typicality", 2019.
    """

    unit = "nats"

    expected: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("expected", torch.zeros((), dtype=torch.float64))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Measure the mean log-likelihood of held-out rows."""
        with torch.no_grad():
            found = torch.cat([log_likelihood(model, part) for part in parts(held_out)])
        self.expected.copy_(found.mean())

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the distance from the typical log-likelihood, nats."""
        return -(log_likelihood(model, rows) - self.expected).abs()


class Energy(Statistic):
    """Minus the energy of a row: its log-likelihood up to a constant that nobody has to know, nats.

    For models whose normalizing constant is out of reach, or only estimated.
    """

    needs = ("energy",)
    density = True
    unit = "nats"
    caution = PARADOX

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the energy of every row, plus the encoder's log-determinant, nats."""
        energy: Tensor = model.energy(rows.z)  # type: ignore[operator]
        return rows.log_det - energy.double()


class Reconstruction(Statistic):
    r"""Minus the mean squared error of a reconstruction: :math:`-\|z - \hat z(z)\|^2 / d`, on standardized coordinates.

    Missing coordinates count nothing. It asks whether a row can be described by what the model has learned to describe,
    not how likely it is: rows of a familiar shape in an unfamiliar place are reconstructed well.
    """

    needs = ("reconstruct",)

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the mean squared error of every row."""
        reconstruct: Tensor = model.reconstruct(rows.z)  # type: ignore[operator]
        return -(rows.z - reconstruct).nan_to_num(0.0).flatten(1).double().square().mean(1)


class Discriminator(Statistic):
    """The logit of a discriminator: how much more a row looks like training rows than like negatives.

    Warnings
    --------
    A discriminator estimates a ratio of densities, which is constant on the data at the optimum of the game and
    arbitrary where neither data nor negatives were. Its ranking swings from epoch to epoch (AUROC by as much as 0.5);
    ``"features"``, the default of adversarial detectors, does not.
    """

    needs = ("realness",)

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Logit of every row."""
        logit: Tensor = model.realness(rows.z)  # type: ignore[operator]
        return logit.double()
