"""What all diffusion models share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Space
from anomgen.nn import Condition, check_counts, check_number, check_widths
from anomgen.nn.unet import denoiser_of

WIDTHS = (256, 256)
CHANNELS = 32
MOST = 10
"""Network passes a score may take."""
TIMES = (0.02, 0.99)
"""Times of straight lines from noise, at 0, to data, at 1, that samples pass."""


class Diffusion(GenerativeModel):
    r"""What the objectives share: a denoiser at all noise levels, and samples by its ordinary differential equation.

    .. math:: \frac{d \tilde x}{d s} = \hat\varepsilon(\tilde x, s)

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these.
    noise_levels, hidden, channels, steps
        As in :class:`DiffusionDetector`.
    """

    nats = False

    levels: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        noise_levels: Sequence[float] = (0.5,),
        hidden: Sequence[int] = WIDTHS,
        channels: int = CHANNELS,
        steps: int = 30,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, steps=steps)
        check_widths(hidden)
        if not 0 < len(noise_levels) <= MOST:
            raise ValueError(f"noise_levels={noise_levels!r} is not valid; give one to {MOST} numbers")
        for level in noise_levels:
            check_number("noise_levels", level, 0.01, 10.0)
        space = Space.real(space) if isinstance(space, int) else space
        self.condition = Condition(space)
        self.dim = self.condition.dim
        self.denoiser = denoiser_of(space, self.condition.width, (*hidden, list(hidden)[-1]), channels)
        self.work = self.denoiser.work
        self.hidden, self.steps = tuple(hidden), steps
        self.passes = len(noise_levels)
        self.register_buffer("levels", torch.tensor([float(level) for level in noise_levels]))

    def grid(self) -> Tensor:
        """Falling noise levels that samples pass: even steps along straight lines from noise to data."""
        t = torch.linspace(*TIMES, self.steps + 1)
        return (1 - t) / t

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        context = self.condition.context_for(n, condition, self.levels)
        levels = self.grid().to(self.levels)
        x = torch.randn(self.dim, n, device=levels.device) * (1 + levels[0].square()).sqrt()
        return self.condition.join(self._denoised(x, levels, context).t(), condition).contiguous()

    def perturb(self, z: Tensor, strength: float) -> Tensor:
        """Draw rows near rows `z`: noise is added, as strong as `strength` in a whole of variance 1, and taken away."""
        x, context = self.condition.split(z)
        levels = self.grid().to(self.levels)
        most = levels[:1].clamp(max=strength / math.sqrt(max(1 - strength**2, 1e-12)))
        path = torch.cat([most, levels[levels < most]])
        moved = self._denoised(x + most * torch.randn_like(x), path, context)
        return torch.cat([moved.t(), z[:, self.dim :]], 1)

    def _denoised(self, x: Tensor, levels: Tensor, context: Tensor) -> Tensor:
        """Columns whose noise has the first of falling `levels`, freed of it along the path to data."""

        def slope(x: Tensor, level: Tensor) -> Tensor:
            noise: Tensor = self.denoiser(x, level.expand(x.shape[1]), context)
            return noise

        for level, lower in pairwise(levels):
            first = slope(x, level)
            second = slope(x + (lower - level) * first, lower)
            x = x + (lower - level) * 0.5 * (first + second)
        return x - levels[-1] * slope(x, levels[-1])

    def reconstruct(self, z: Tensor) -> Tensor:
        """Rows without the noise found in them, mean over the noise levels; what is given stays."""
        x, context = self.condition.split(z)
        found = [level * self.denoiser(x, level.expand(len(z)), context) for level in self.levels]
        return torch.cat([(x - torch.stack(found).mean(0)).t(), z[:, self.dim :]], 1)

    def error(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise found in columns that it was added to, shape ``(n,)``."""
        found: Tensor = self.denoiser(x + level * noise, level, context)
        return (found - noise).square().sum(0)
