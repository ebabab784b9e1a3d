"""Statistics of a model's slopes, of the noise it finds, and of its latent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Rows
from anomgen.statistic.base import Statistic, log_likelihood, parts
from anomgen.statistic.density import Mixture
from anomgen.statistic.image import energies

TINY = 1e-12
"""What keeps the logarithm of a vanishing norm finite."""


class GradientNorm(Statistic):
    r"""Minus the distance of a row's log-slope from that of typical rows: :math:`-|\log \|g\| - E \log \|g\||`.

    The slope :math:`g = \partial \log p / \partial z` is flat at a mode and steep off the data; typical rows lie on a
    known height of it, and rows on either side of that are not typical. The expectation is taken over held-out rows.

    References
    ----------
    Dauncey et al., "Approximations to the Fisher information metric of deep generative models for out-of-distribution
    detection", TMLR 2024.
    """

    gradient = True

    expected: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("expected", torch.zeros((), dtype=torch.float64))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Measure the mean log-slope of held-out rows."""
        self.expected.copy_(torch.cat([self._log_norm(model, part) for part in parts(held_out)]).mean())

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the distance of every row from the typical log-slope."""
        return -(self._log_norm(model, rows) - self.expected).abs()

    def _log_norm(self, model: GenerativeModel, rows: Rows) -> Tensor:
        with torch.enable_grad():
            z = rows.z.clone().requires_grad_()
            (slope,) = torch.autograd.grad(log_likelihood(model, Rows(z, rows.log_det, rows.shape)).sum(), z)
        # A missing value has no slope, and a condition is none of the row's own.
        own = slope[:, : math.prod(rows.shape or slope.shape[1:])].nan_to_num(0.0).double()
        return (own.square().sum(1) + TINY).log() * 0.5


class ScoreNorms(Statistic):
    r"""Log-density of the log norms of a row's scores at several noise levels, nats.

    A network that finds the noise in a row knows the score of the noisy data. The norms at all levels together tell
    typical rows from others; their density is a Gaussian mixture, learned from held-out rows.

    References
    ----------
    Mahmood, Oliva, Styner, "Multiscale score matching for out-of-distribution detection", ICLR 2021.
    """

    needs = ("score_norms",)
    unit = "nats"

    def __init__(self) -> None:
        super().__init__()
        self.mixture = Mixture()
        self.sized_by_data = tuple(f"mixture.{name}" for name in Mixture.sized_by_data)

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Learn the density of the norms of held-out rows."""
        with torch.no_grad():
            self.mixture.fit(torch.cat([log_score_norms(model, part) for part in parts(held_out)]))

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-density of the norms of every row, standardized, nats."""
        density: Tensor = self.mixture(log_score_norms(model, rows))
        return density


class LatentFit(Statistic):
    r"""How well a row's latent passes for white noise, against those of held-out rows: a log-density, nats.

    A normalizing model takes typical rows to standard normal numbers, independent of each other. Two things tell
    whether one row did become that: the Anderson-Darling statistic of its `d` numbers, sorted,

    .. math:: A^2 = -d - \frac1d \sum_i (2i - 1) (\log \Phi(u_i) + \log \Phi(-u_{d+1-i})),

    and, where rows are images, the power spectrum of the latent by octaves. Neither is perfect on held-out rows, and
    either may be too good: the logarithms are scored by the Gaussian density of held-out rows.

    References
    ----------
    *Signal in the noise*, arXiv:2605.22496, 2026; Anderson, Darling (1952), as in :func:`anderson_darling`.
    """

    needs = ("to_latent",)
    unit = "nats"

    def __init__(self) -> None:
        super().__init__()
        self.mixture = Mixture(components=1)
        self.sized_by_data = tuple(f"mixture.{name}" for name in Mixture.sized_by_data)

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Learn how well the latents of held-out rows fit."""
        with torch.no_grad():
            self.mixture.fit(torch.cat([self._misfit(model, part) for part in parts(held_out)]))

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-density of the misfit of every row, standardized, nats."""
        density: Tensor = self.mixture(self._misfit(model, rows))
        return density

    def _misfit(self, model: GenerativeModel, rows: Rows) -> Tensor:
        latent: Tensor = model.to_latent(rows.z)  # type: ignore[operator]
        misfit = anderson_darling(latent).log()[:, None]
        images = Rows(latent, rows.log_det, rows.shape).images
        return misfit if images is None else torch.cat([misfit, energies(images)], 1)


def log_score_norms(model: GenerativeModel, rows: Rows) -> Tensor:
    """Logarithms of the norms of a row's scores at all levels, float64 of shape (n, levels)."""
    norms: Tensor = model.score_norms(rows.z)  # type: ignore[operator]
    return (norms.double() + TINY).log()


def anderson_darling(values: Tensor) -> Tensor:
    """The Anderson-Darling statistic of every row against the standard normal distribution, float64 of shape (n,).

    References
    ----------
    Anderson, Darling, "Asymptotic theory of certain goodness of fit criteria based on stochastic processes", 1952.
    """
    ordered = values.double().sort(1).values
    d = values.shape[1]
    odd = 2.0 * torch.arange(1, d + 1, dtype=torch.float64, device=values.device) - 1.0
    tails = torch.special.log_ndtr(ordered) + torch.special.log_ndtr(-ordered.flip(1))
    found: Tensor = -d - (odd * tails).sum(1) / d
    return found
