"""Mixtures of Gaussians, on columns, and sums of densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def sample_given(self, x: Tensor, observed: Tensor) -> Tensor:
        r"""Draw what is not observed of columns `x`, shape ``(d, n)``, given what is: exactly.

        With the precision :math:`P` of a component, what is missing has, given what is observed, the precision
        :math:`P_{mm}` and the mean :math:`\mu_m - P_{mm}^{-1} P_{mo} (x_o - \mu_o)`; the component itself is chosen
        by the density that it has of what is observed.

        Parameters
        ----------
        x : Tensor of shape (d, n)
            Anything, such as NaN, where not observed.
        observed : Tensor of shape (d, n), bool
        """
        dtype, n = x.dtype, x.shape[1]
        noise, toss = torch.randn_like(x), torch.rand(n, device=x.device, dtype=torch.float64)
        shares, means, factors, x, noise = (part.double() for part in (*self, x.nan_to_num(0.0), noise))
        out = torch.where(observed, x, 0.0)
        patterns, which = observed.t().unique(dim=0, return_inverse=True)
        for number, known in enumerate(patterns):
            if known.all():
                continue
            # All columns for every pattern: what one gets must not depend on how many others share its pattern.
            mean, lower, log_mass = self._conditional(x, known, means, factors)
            below = (shares.log()[:, None] + log_mass).softmax(0).cumsum(0)
            chosen = (below < toss).sum(0).clamp_(max=len(shares) - 1)
            fresh = noise[~known]
            spread = torch.stack([fresh / f if f.shape[1] == 1 else _backwards(f, fresh) for f in lower])
            drawn = (mean + spread)[chosen, :, torch.arange(n, device=x.device)].t()
            mine = which == number
            out[(~known)[:, None] & mine] = drawn[:, mine].flatten()
        return out.to(dtype)

    def _conditional(self, x: Tensor, known: Tensor, means: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is unknown given what is known, by component.

        Means ``(k, m, n)``, Cholesky factors of precisions, and the log-density ``(k, n)`` of what is known.
        """
        lost, away = ~known, x[known] - means[:, known]
        if factors.shape[2] == 1:
            scale = factors[:, known]
            log_mass = (scale.log() - 0.5 * math.log(2 * math.pi)).sum((1, 2))[:, None]
            return (
                means[:, lost].expand(-1, -1, x.shape[1]),
                factors[:, lost],
                log_mass - 0.5 * (scale * away).square().sum(1),
            )
        precision = factors.mT @ factors
        lower = torch.linalg.cholesky(precision[:, lost][:, :, lost])
        shift = torch.cholesky_solve(precision[:, lost][:, :, known] @ away, lower)
        # The density of all at the conditional mean, over that of the mean given the known.
        white = factors[:, :, known] @ away - factors[:, :, lost] @ shift
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1) - lower.diagonal(dim1=1, dim2=2).log().sum(1)
        log_mass = log_det[:, None] - 0.5 * white.square().sum(1) - 0.5 * math.log(2 * math.pi) * int(known.sum())
        return means[:, lost] - shift, lower, log_mass


def _backwards(lower: Tensor, noise: Tensor) -> Tensor:
    """Noise of the covariance whose precision has this Cholesky factor."""
    spread: Tensor = torch.linalg.solve_triangular(lower.mT, noise, upper=True)
    return spread


def predictions(parts: Sequence[Normals], rows: Tensor, blur: Tensor) -> Tensor:
    """Log-density of blurred rows ``(n, d)`` under each of the mixtures, shape ``(mixtures, n)``."""
    x = torch.addcmul(rows, blur, torch.randn_like(rows)).t()
    return torch.stack([part.log_prob(x) for part in parts])


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
