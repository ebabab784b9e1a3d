"""Diffusion at all noise levels, which bounds the log-density."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from anomgen.families.diffusion.base import MOST, Diffusion
from anomgen.generative import Space
from anomgen.nn import check_counts, check_number
from anomgen.nn.noise import LOG_SNR, evenly, log_snr_quantile, usual_level

LEVELLED = 1000
"""Training rows at most by which a bank of noise is levelled."""


class Bounded(Diffusion):
    r"""Diffusion at all noise levels, which bounds the log-density.

    With log signal-to-noise ratio :math:`\lambda = -2 \log s`, and :math:`\hat\varepsilon_0` the noise to be found in
    standard normal data,

    .. math:: \log p(x) \ge \log N(x; 0, I) + \frac12 \int \mathbb{E}_\varepsilon \left[
              \|\varepsilon - \hat\varepsilon_0\|^2 - \|\varepsilon - \hat\varepsilon\|^2 \right] d\lambda .

    The integral is taken at stratified :math:`\lambda` drawn once, each with two opposite noises drawn once, plus a
    constant by which this bank of noise gives training rows the mean that fresh noise does.

    Parameters
    ----------
    space : int or Space
    bound_levels
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.
    """

    likelihood: Literal["exact", "bound", "estimate"] = "bound"
    fresh: ClassVar[int] = 64
    """Draws of fresh noise a row by which the bank is levelled."""

    strata: Tensor
    noise: Tensor
    offset: Tensor

    def __init__(self, space: int | Space, *, bound_levels: int = MOST // 2, **shared: Any) -> None:
        super().__init__(space, **shared)
        check_counts(bound_levels=bound_levels)
        check_number("bound_levels", bound_levels, 1, MOST // 2)
        self.passes = max(self.passes, 2 * bound_levels)
        self.register_buffer("noise", torch.randn(bound_levels, self.dim, 1))
        self.register_buffer("strata", (torch.arange(bound_levels) + torch.rand(1)) / bound_levels)
        self.register_buffer("offset", torch.zeros(()))

    def level_quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Noise level of quantile `u` among those of the integral, and what its draws weigh."""
        return log_snr_quantile(u)

    def log_prob(self, z: Tensor) -> Tensor:
        """Lower bound of the log-density of every row in nats, shape ``(n,)``, under fixed noise."""
        return self._mean(z, self._gain) + log_normal(self.condition.split(z)[0]) + self.offset

    def bound(self, z: Tensor) -> Tensor:
        """Lower bound of the log-density of every row in nats, shape ``(n,)``, under fresh noise at a random level."""
        x, context = self.condition.split(z)
        return self._gain(x, context, evenly(z), torch.randn_like(x)) + log_normal(x)

    def prepare(self, z: Tensor) -> None:
        """Keep some training rows until :meth:`conclude`."""
        self._some = z[torch.linspace(0, len(z) - 1, min(len(z), LEVELLED), device=z.device).long()]

    def conclude(self) -> None:
        """Move the bound by what fixed noise is off on average."""
        fresh = torch.stack([self.bound(self._some).mean() for _ in range(self.fresh)]).mean()
        self.offset += fresh - self.log_prob(self._some).mean()
        del self._some

    def _mean(self, z: Tensor, term: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for u, noise in zip(self.strata, self.noise, strict=True):
            for side in (noise, -noise):
                total = total + term(x, context, u.expand(len(z)), side.expand_as(x))
        return total / (2 * len(self.strata))

    def _gain(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """What denoising better than for a standard normal adds to the log-density, drawn at quantiles `u`."""
        s, weight = self.level_quantile(u)
        noisy = x + s * noise
        usual = noisy * (s / (1 + s * s))
        more = self.denoiser(noisy, s, context) - usual
        gain: Tensor = (more * (noise - usual - 0.5 * more)).sum(0)
        return gain * weight


def log_normal(x: Tensor) -> Tensor:
    """Standard normal log-density of columns ``(d, n)``, nats, shape ``(n,)``."""
    return x.square().sum(0) * -0.5 - 0.5 * math.log(2 * math.pi) * len(x)


class VariationalDiffusion(Bounded):
    """Trained by the bound itself. Parameters are those of :class:`Bounded`."""

    nats = True

    def loss(self, z: Tensor) -> Tensor:
        """Minus the bound under fresh noise, nats."""
        return -self.bound(z)

    def monitor(self, z: Tensor) -> Tensor:
        """Minus the bound under fixed noise, nats."""
        return -self.log_prob(z)

    def grid(self) -> Tensor:
        """Noise levels in even steps of their logarithm."""
        return (-0.5 * torch.linspace(*LOG_SNR, self.steps + 1)).exp()


class FlowMatching(Bounded):
    r"""Trained to regress the velocity :math:`x - \varepsilon` of straight lines :math:`t x + (1 - t) \varepsilon`.

    Parameters are those of :class:`Bounded`.
    """

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the velocity at a random time."""
        x, context = self.condition.split(z)
        return self._velocity_error(x, context, evenly(z), torch.randn_like(x))

    def monitor(self, z: Tensor) -> Tensor:
        """Squared error of the velocity at fixed times, under fixed noise."""
        return self._mean(z, self._velocity_error)

    def _velocity_error(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        # A line from noise to data, divided by its time t, is the data under noise of (1 - t) / t.
        level = usual_level(u)
        return self.error(x, context, level, noise) * (1 + level).square()
