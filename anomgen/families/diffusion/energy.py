"""Score matching of an energy, on tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomgen.families.diffusion.base import Diffusion
from anomgen.generative import Objective, Space
from anomgen.nn import check_choice
from anomgen.nn.denoiser import EnergyDenoiser
from anomgen.nn.noise import evenly, kurtosis_scale, usual_level

SCALES = ("equal", "kurtosis")
JUDGES = 16
"""Draws of fixed noise that held-out rows are judged by."""


class ScoreMatching(Diffusion):
    r"""Denoising score matching of an energy at few noise levels, beside a denoiser that draws samples.

    Parameters
    ----------
    space : int or Space
    noise_scale
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.

    Examples
    --------
    >>> ScoreMatching(2, hidden=(8,)).energy(torch.ones(3, 2))
    tensor([0.9600, 0.9600, 0.9600], grad_fn=<DivBackward0>)
    """

    noise: Tensor
    scale: Tensor
    prepared: Tensor

    def __init__(self, space: int | Space, *, noise_scale: str = "equal", **shared: Any) -> None:
        super().__init__(space, **shared)
        check_choice("noise_scale", noise_scale, SCALES)
        self.potential = EnergyDenoiser(self.dim, self.condition.width, self.hidden)
        self.register_buffer("noise", torch.randn(JUDGES, self.dim, 1))
        self.register_buffer("scale", torch.ones(self.dim, 1))
        self.register_buffer("prepared", torch.tensor(noise_scale == "equal"))

    def prepare(self, z: Tensor) -> None:
        """Fix the noise of every coordinate by the kurtosis of the first training rows."""
        if not self.prepared:
            self.scale.copy_(kurtosis_scale(self.condition.split(z)[0])[:, None])
            self.prepared.fill_(True)

    def energy(self, z: Tensor) -> Tensor:
        r"""Mean over the noise levels of :math:`E + \frac12 \|\hat\varepsilon\|^2`, both at the row itself.

        The first is minus the log-density of the blurred rows, up to a constant; the second takes back some of the
        blur, to first order in the heat equation.
        """
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for level in self.levels:
            energy, noise = self.potential(x, self.scale, level.expand(len(z)), context)
            total = total + energy + noise.square().sum(0) * 0.5
        return total / len(self.levels)

    def objectives(self) -> list[Objective]:
        """The energy, and the denoiser of samples, each on its own."""
        return [(self.potential.parameters(), self.loss), (self.denoiser.parameters(), self.sampling_loss)]

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found by the energy, each coordinate weighted by its variance."""
        x, context = self.condition.split(z)
        level = self.levels[torch.randint(len(self.levels), (len(z),), device=z.device)]
        return self._error(x, context, level, torch.randn_like(x))

    def sampling_loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found by the denoiser, over all noise levels."""
        x, context = self.condition.split(z)
        level = usual_level(evenly(z))
        return self.error(x, context, level, torch.randn_like(x)) * (1 + level.square())

    def monitor(self, z: Tensor) -> Tensor:
        """The loss of the energy under fixed noise."""
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for j, noise in enumerate(self.noise):
            level = self.levels[j % len(self.levels)].expand(len(z))
            total = total + self._error(x, context, level, noise.expand_as(x))
        return total / len(self.noise)

    def _error(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        s = self.scale * level
        found: Tensor = self.potential(x + s * noise, self.scale, level, context)[1]
        return ((found - noise).square() * (1 + s.square())).sum(0)
