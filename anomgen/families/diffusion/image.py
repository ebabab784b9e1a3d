"""Diffusion models of images: what the noise found at many levels tells of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from anomgen.families.diffusion.base import Diffusion
from anomgen.families.diffusion.bound import Bounded, FlowMatching, VariationalDiffusion, log_normal
from anomgen.generative import PIXEL_WIDTH, Space
from anomgen.nn.noise import evenly, pixel_level
from anomgen.nn.unet import UNet

SCORED = (0.01, 10.0)
"""Noise between which images are scored, in model space where pixels fill [-1, 1]."""
COUNT = 10
"""Noise levels between them, in equal ratios."""
SEEN = 0.05
"""Noise that images are looked at through for their features."""
BLURRED = slice(2, 8)
"""Levels that pixels are compared at."""
FAR = 20.0
"""Noise where a latent is read: hardly anything of an image is left."""
TRAINED = (0.01, 20.0)
"""Noise between which score matching trains."""
DRAWN = (-5.0, 9.0)
"""Log signal-to-noise ratios that samples of a bound pass."""
GOLDEN = 0.618034
"""Multiples of it, without their whole part, fill an interval evenly."""


RATE = 0.3
"""Factor on the learning rate: a slower one gives fewer nats early on, but features that tell more images apart."""


class OnImages(Diffusion):
    r"""Diffusion models of images.

    At every level `s_l` an image gets one noise :math:`\varepsilon_l`, drawn once, the same for all images.

    Parameters
    ----------
    space : Space
    options
        As in :class:`Diffusion`.
    """

    denoiser: UNet

    scored: Tensor
    shown: Tensor

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        self.passes, self.rate = COUNT, RATE
        low, high = SCORED
        self.register_buffer("scored", low * (high / low) ** torch.linspace(0, 1, COUNT))
        self.register_buffer("shown", _of_unit_size(torch.randn(COUNT, self.dim, 1)))

    def score_norms(self, z: Tensor) -> Tensor:
        r"""Error of the noise found at ten levels, :math:`\|\hat\varepsilon - \varepsilon_l\|`, shape ``(n, 10)``."""
        return torch.stack([error.square().sum(0).sqrt() for error in self._errors(z, slice(None))], 1)

    def residual(self, z: Tensor) -> Tensor:
        r"""Squared error of the noise found in every pixel, mean over the middle levels, shape ``(n, d)``."""
        return torch.stack([error.square() for error in self._errors(z, BLURRED)]).mean(0).t()

    def reconstruct(self, z: Tensor) -> Tensor:
        """Rows given noise of each of `noise_levels` and rid of it, mean over these; what is given stays."""
        x, context = self.condition.split(z)
        found = []
        for level, noise in zip(self.levels, self.shown, strict=False):
            noisy = x + level * noise
            found.append(noisy - level * self.denoiser(noisy, level.expand(len(z)), context))
        return torch.cat([torch.stack(found).mean(0).t(), z[:, self.dim :]], 1)

    def features(self, z: Tensor) -> Tensor:
        """What the middle of the network sees at little noise, at most 4,096 numbers, shape ``(n, k)``."""
        x, context = self.condition.split(z)
        level = x.new_full((len(z),), SEEN)
        return self.denoiser.features(x + SEEN * self.shown[0], level, context)

    def _judged(self, z: Tensor, term: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Mean of `term` under two opposite noises, at quantiles spread over the rows by where they stand."""
        x, context = self.condition.split(z)
        place = torch.arange(len(z), device=z.device)
        u, noise = (place * GOLDEN + 0.5) % 1.0, self.shown[place % COUNT, :, 0].t()
        return 0.5 * (term(x, context, u, noise) + term(x, context, u, -noise))

    def _errors(self, z: Tensor, which: slice) -> list[Tensor]:
        x, context = self.condition.split(z)
        return [
            self.denoiser(x + level * noise, level.expand(len(z)), context) - noise
            for level, noise in zip(self.scored[which], self.shown[which], strict=True)
        ]


class ImageBounded(OnImages, Bounded):
    """Those that bound the log-density. Parameters are those of :class:`OnImages`."""

    fresh: ClassVar[int] = 16

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        self.noise.copy_(_of_unit_size(self.noise))

    def level_quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Noise level of quantile `u` among those of the integral, and what its draws weigh."""
        return pixel_level(u)

    def prepare(self, z: Tensor) -> None:
        """Keep some training rows until the end of training, with the noise within their levels."""
        super().prepare(z)
        some = self._some[:, : self.dim]
        some += PIXEL_WIDTH * (torch.rand_like(some) - 0.5)


class ImageVariational(ImageBounded, VariationalDiffusion):
    """Trained by the bound itself. Parameters are those of :class:`OnImages`."""

    def monitor(self, z: Tensor) -> Tensor:
        """Minus the bound under fixed noise, nats, at a level that goes with the place of a row."""
        return -self._judged(z, self._gain) - log_normal(self.condition.split(z)[0])

    def grid(self) -> Tensor:
        """Noise levels in even steps of their logarithm."""
        return (-0.5 * torch.linspace(*DRAWN, self.steps + 1)).exp()


class ImageFlowMatching(ImageBounded, FlowMatching):
    """Trained to regress velocities, which lead an image to its latent. Parameters are those of :class:`OnImages`."""

    def monitor(self, z: Tensor) -> Tensor:
        """Squared error of the velocity under fixed noise, at a time that goes with the place of a row."""
        return self._judged(z, self._velocity_error)

    def to_latent(self, z: Tensor) -> Tensor:
        r"""What an image would have been drawn from, standard normal for the model, shape ``(n, d)``.

        With the noise of the lowest level of :meth:`score_norms`, Euler's method leads it up these levels and on, by
        the equation that samples go down.
        """
        x, context = self.condition.split(z)
        x = x + self.scored[0] * self.shown[0]
        noise: Tensor
        levels = torch.cat([self.scored, self.scored.new_tensor([FAR])])
        for level, higher in pairwise(levels):
            noise = self.denoiser(x, level.expand(len(z)), context)
            x = x + (higher - level) * noise
        return (x / math.hypot(1.0, FAR)).t()


class ImageScoreMatching(OnImages):
    """Trained to tell noise from images, as much at every level of equal ratios. It knows no energy.

    Parameters are those of :class:`OnImages`.

    Notes
    -----
    An energy whose gradient is the noise, as on tables, would take the gradient of a convolutional network in every
    pass; what ranks images is the error of the noise found, which needs none.
    """

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found, in units of what there is to find out."""
        x, context = self.condition.split(z)
        return self._error(x, context, evenly(z), torch.randn_like(x))

    def monitor(self, z: Tensor) -> Tensor:
        """The loss under fixed noise, at a level that goes with the place of a row."""
        return self._judged(z, self._error)

    def _error(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        low, high = TRAINED
        level = low * (high / low) ** u
        return self.error(x, context, level, noise) * (1 + level.square())


def _of_unit_size(noise: Tensor) -> Tensor:
    """Noise scaled to a mean square of one: what every image shares shall not shift what is measured by it."""
    return noise / noise.square().mean(1, keepdim=True).sqrt()
