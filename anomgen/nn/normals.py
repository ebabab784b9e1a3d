"""Mixtures of Gaussians, on columns, and sums of densities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 200


class Normals(NamedTuple):
    """A mixture of Gaussians: shares ``(k,)``, means ``(k, d, 1)``, and factors that whiten.

    A factor is the inverse Cholesky factor of a covariance, shape ``(k, d, d)``, or its diagonal ``(k, d, 1)``.
    """

    shares: Tensor
    means: Tensor
    factors: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of columns ``(d, n)``, nats."""
        centred, factors = x - self.means, self.factors
        if factors.shape[2] == 1:
            white, scales = factors * centred, factors[..., 0]
        else:
            white, scales = factors @ centred, factors.diagonal(dim1=1, dim2=2)
        constant = self.shares.log() + scales.log().sum(1) - 0.5 * math.log(2 * math.pi) * len(x)
        return torch.logsumexp(white.square().sum(1) * -0.5 + constant[:, None], 0)

    def sample(self, n: int) -> Tensor:
        """Draw columns ``(d, n)``."""
        chosen = torch.multinomial(self.shares, n, replacement=True)
        x = torch.randn_like(self.means[0].expand(-1, n))
        for k in chosen.unique().tolist():
            mine, factor = chosen == k, self.factors[k]
            noise = x[:, mine]
            spread = (
                noise / factor if factor.shape[1] == 1 else torch.linalg.solve_triangular(factor, noise, upper=False)
            )
            x[:, mine] = self.means[k] + spread
        return x


def stacked(log_prob: Tensor) -> Tensor:
    """Shares under which densities, added up, predict rows best.

    Parameters
    ----------
    log_prob : Tensor of shape (densities, n)
        Log-density of every row under each of them.

    Returns
    -------
    Tensor of shape (densities,)

    Notes
    -----
    The likelihood is concave in the shares; EM steps climb it without a step size.

    References
    ----------
    Smyth, Wolpert (1999), *Linearly combining density estimators via stacking*, Machine Learning 36.
    """
    shares = torch.full((len(log_prob),), 1.0 / len(log_prob), dtype=log_prob.dtype)
    for _ in range(STEPS):
        shares = (log_prob + shares.log()[:, None]).softmax(0).mean(1)
    return shares
