"""Densities of a few numbers a row, and how surprising a value is: what statistics of statistics are made of."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn

MOST = 10
"""Components of a mixture at most."""
EACH = 250
"""Rows that a component is worth; a single one has as many as there are."""
SHRINKAGE = 0.05
"""Variance added in every direction, in variances of a coordinate: what correlations are not believed below."""
NARROWEST = 1e-4
"""Variance below which a coordinate is taken for constant, as a rounding error may move it."""
LAST = 0.99
"""Quantile beyond which a surprise is extrapolated."""
KNOTS = 48
"""Quantiles that a surprise is interpolated between, in equal steps of surprise."""


class Mixture(nn.Module):
    r"""A Gaussian mixture of short vectors, standardized first: :math:`\log \sum_m w_m N(v; \mu_m, \Sigma_m)`.

    Full covariances, shrunk towards the identity. The number of components follows from that of the rows: one below
    500, then one for every 250, ten at most, unless it is given.

    Parameters
    ----------
    components : int, optional
    """

    sized_by_data = ("center", "scale", "weights", "means", "factors")

    center: Tensor
    scale: Tensor
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, components: int | None = None) -> None:
        super().__init__()
        self.components = components
        for name, rank in (("center", 1), ("scale", 1), ("weights", 1), ("means", 2), ("factors", 3)):
            self.register_buffer(name, torch.zeros((0,) * rank, dtype=torch.float64))

    def fit(self, values: Tensor) -> None:
        """Learn from vectors of shape ``(n, k)`` by expectation maximization, from a fixed start."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        n = len(values)
        count = self.components or (1 if n < 2 * EACH else min(n // EACH, MOST))
        found = values.double()
        self.center, self.scale = found.mean(0), (found.var(0, correction=0) + NARROWEST).sqrt()
        mixture = GaussianMixture(count, reg_covar=SHRINKAGE, random_state=0)
        with warnings.catch_warnings():
            # A start that has not settled is as good a description of the rows.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(((found - self.center) / self.scale).cpu().numpy())
        for name, learned in (
            ("weights", mixture.weights_),
            ("means", mixture.means_),
            ("factors", mixture.precisions_cholesky_),
        ):
            setattr(self, name, torch.from_numpy(np.array(learned, dtype=np.float64)).to(found.device))

    def forward(self, values: Tensor) -> Tensor:
        """Log-density of every vector, standardized, in nats, shape ``(n,)``."""
        standard = (values.double() - self.center) / self.scale
        off = standard - self.means[:, None]
        # Matrix products of so few numbers would give a row bits that depend on its place among the others.
        white = torch.zeros_like(off)
        for i in range(off.shape[2]):
            white = white + off[:, :, i, None] * self.factors[:, None, i]
        log_volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * math.log(2 * math.pi) * len(self.center)
        terms = (self.weights.log() + log_volume)[:, None] - 0.5 * white.square().sum(2)
        return torch.logsumexp(terms, 0)


class Surprise(nn.Module):
    r"""How far out a value is among those of normal rows: :math:`-\log P(V \ge v)`, nats.

    Read from the quantiles of held-out rows, and beyond the 99 % quantile extrapolated as an exponential tail: linear,
    with the slope between the 90 % and the 99 % quantile.

    Parameters
    ----------
    least : float
        What 9 % of the rows spread over at least: keeps the slope finite where values repeat.
    """

    knots: Tensor
    slope: Tensor

    def __init__(self, least: float = 1e-9) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("knots", torch.zeros(KNOTS, dtype=torch.float64))
        self.register_buffer("slope", torch.zeros((), dtype=torch.float64))

    @property
    def last(self) -> float:
        """The surprise from which it is extrapolated."""
        return -math.log(1 - LAST)

    def fit(self, values: Tensor) -> None:
        """Learn the quantiles of the values of normal rows, shape ``(n,)``."""
        found = values.double().cpu().numpy()
        levels = 1 - np.exp(-np.linspace(0, self.last, KNOTS))
        self.knots.copy_(torch.from_numpy(np.quantile(found, levels)))
        high, higher = np.quantile(found, [0.9, LAST])
        self.slope.fill_((self.last + math.log(0.1)) / max(higher - high, self.least))

    def forward(self, values: Tensor) -> Tensor:
        """Surprise of every value, shape ``(n,)``."""
        values = values.double()
        after = torch.searchsorted(self.knots, values.contiguous(), right=True).clamp(1, KNOTS - 1)
        low, high = self.knots[after - 1], self.knots[after]
        share = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
        return (after - 1 + share) * (self.last / (KNOTS - 1)) + (values - self.knots[-1]).clamp_min(0.0) * self.slope
