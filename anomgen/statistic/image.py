"""What an image is like without any model: its complexity, its scales, its extremes; and the score they correct."""

from __future__ import annotations

import io
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anomgen.generative import PIXEL_LEVELS, PIXEL_WIDTH, GenerativeModel, Rows
from anomgen.statistic.base import Statistic, images_of, log_likelihood

OCTAVES = 3
"""Scales that the energy of an image is split into, beside the rest."""
ROUNDING = PIXEL_WIDTH**2 / 12
"""Variance of what rounding to 256 levels does to a pixel: energies below it say nothing."""


def levels_of(images: Tensor) -> Tensor:
    """The levels 0 to 255 of pixels in model space, whatever noise fills their intervals; uint8."""
    return ((images + 1.0) * (0.5 * PIXEL_LEVELS)).floor().clamp(0, PIXEL_LEVELS - 1).to(torch.uint8)


def code_length(images: Tensor) -> Tensor:
    """Length of the lossless PNG file of every image ``(n, channels, height, width)``, nats, float64 of shape (n,)."""
    from PIL import Image

    pixels = levels_of(images)
    # Three channels are red, green and blue; any other number is laid out below one another.
    coloured = pixels.shape[1] == 3
    plain = (pixels.permute(0, 2, 3, 1) if coloured else pixels.flatten(1, 2)).contiguous().cpu().numpy()
    sizes = []
    for picture in plain:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        sizes.append(file.tell())
    return torch.tensor(sizes, dtype=torch.float64, device=images.device) * (8 * math.log(2))


def energies(images: Tensor) -> Tensor:
    """Log energy of up to three octaves of every image and of the rest, and of its colour, float64 of shape (n, k).

    An octave is what an image loses when squares of four pixels take their mean.
    """
    found, rest = [], images
    for _ in range(min(OCTAVES, int(math.log2(min(images.shape[2:]))))):
        coarse = F.avg_pool2d(rest, 2, ceil_mode=True, count_include_pad=False)
        found.append(rest - F.interpolate(coarse, size=rest.shape[2:], mode="nearest"))
        rest = coarse
    found.append(rest)
    if images.shape[1] > 1:
        found.append(images - images.mean(1, keepdim=True))
    return torch.stack([(part.flatten(1).double().square().mean(1) + ROUNDING).log() for part in found], 1)


def extremes(images: Tensor) -> Tensor:
    """Darkest and brightest value of every channel, between -1 and 1, float64 of shape (n, 2 channels)."""
    middles = (2.0 * levels_of(images).flatten(2).double() + 1.0) / PIXEL_LEVELS - 1.0
    return torch.cat([middles.amin(2), middles.amax(2)], 1)


class Complexity(Statistic):
    r"""The log-likelihood of an image plus the length of its lossless code: :math:`\log p(x) + L(x)`, nats.

    A simple image is likely whatever it shows. What is left after its complexity is paid for is the log-ratio of the
    model to a universal coder, here PNG.

    Warnings
    --------
    It is one-sided: images more complex than the training ones and alike to a coder can pass.

    References
    ----------
    Serra et al., "Input complexity and out-of-distribution detection with likelihood-based generative models", 2020.
    """

    images = True
    unit = "nats"

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-likelihood plus code length of every image, nats."""
        return log_likelihood(model, rows) + code_length(images_of(self, rows))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Check that rows are images; nothing is learned."""
        images_of(self, train)
