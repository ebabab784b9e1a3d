"""Logistic distributions of pixels: probability masses of their 256 levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from anomgen.generative import PIXEL_LEVELS, PIXEL_WIDTH

LOG_SCALES = 7.0
"""Largest magnitude of a log-scale. A logistic of scale :math:`e^{-7}` has all but 3 % of its mass in a pixel."""


def logistic_log_mass(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""Log-mass of pixels under logistic distributions, elementwise.

    With the edges :math:`a, b = (z \mp \tfrac1{256} - \mu) / s` of the interval of a level,

    .. math:: \log\bigl(\sigma(b) - \sigma(a)\bigr) = \log \sigma(b) + \log \sigma(-a) + \log\bigl(1 - e^{a - b}\bigr),

    where :math:`a = -\infty` for the lowest level and :math:`b = \infty` for the highest: they take the tails, so that
    the masses of 256 levels sum to one.

    Parameters
    ----------
    z : Tensor
        Middles of the levels of pixels, :math:`(2k + 1) / 256 - 1`.
    mean, log_scale : Tensor
        :math:`\mu` and :math:`\log s`, of what shapes broadcast with `z`. Log-scales are clamped to [-7, 7].

    Returns
    -------
    Tensor
        Finite, with finite gradients, for all finite arguments.

    References
    ----------
    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517, which approximates where this is exact.

    Examples
    --------
    >>> levels = (2 * torch.arange(256.0) + 1) / 256 - 1
    >>> round(logistic_log_mass(levels, torch.tensor(0.3), torch.tensor(-3.0)).exp().sum().item(), 4)
    1.0
    """
    slope = log_scale.clamp(-LOG_SCALES, LOG_SCALES).neg().exp()
    centred = z - mean
    below = logsigmoid((centred + PIXEL_WIDTH / 2) * slope)
    above = logsigmoid((PIXEL_WIDTH / 2 - centred) * slope)
    inside = (slope * -PIXEL_WIDTH).expm1().neg().log()
    lowest, highest = z < PIXEL_WIDTH - 1, z > 1 - PIXEL_WIDTH
    both = below + above + inside
    return torch.where(lowest, below, torch.where(highest, above, both))


def logistic_sample(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Draw pixels, middles of their levels, with torch's current generator; masses as :func:`logistic_log_mass`."""
    uniform = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
    return nearest_level(mean + log_scale.clamp(-LOG_SCALES, LOG_SCALES).exp() * uniform.logit())


def nearest_level(x: Tensor) -> Tensor:
    """Middle of the level whose interval holds `x`; of the outermost ones beyond [-1, 1].

    Examples
    --------
    >>> nearest_level(torch.tensor([-3.0, 0.001, 1.0])) * 256
    tensor([-255.,    1.,  255.])
    """
    levels = ((x + 1) / PIXEL_WIDTH).floor().clamp(0, PIXEL_LEVELS - 1)
    return (2 * levels + 1) / PIXEL_LEVELS - 1
