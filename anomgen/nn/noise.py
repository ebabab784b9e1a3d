"""How much noise: levels of a diffusion, and noise matched to columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_SNR = (-4.0, 7.0)
"""Log signal-to-noise ratios between which a diffusion bound learns to do better than a standard normal."""
PIXEL_LOG_SNR = (-5.0, 16.0)
"""The same for pixels, whose levels are intervals of width 1/128."""
CENTER, WIDTH = 1.5, 3.0
"""Of the logistic distribution that those of tables are drawn from: most nats are gained there."""


def evenly(z: Tensor) -> Tensor:
    """Numbers in (0, 1), one a row of `z`, spread evenly over the batch: this steadies the gradient."""
    return (torch.randperm(len(z), device=z.device) + torch.rand(len(z), device=z.device)) / len(z)


def usual_level(u: Tensor) -> Tensor:
    """Noise level of quantile `u`, log-normal about 0.6: where most of what there is to learn about samples lies."""
    normal: Tensor = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    return (1.2 * normal - 0.5).exp()


def log_snr_quantile(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Noise level `s` where :math:`\lambda = -2 \log s` has quantile `u`, and :math:`d \lambda / d u`.

    Examples
    --------
    >>> level, slope = log_snr_quantile(torch.tensor([0.5]))
    >>> level, slope
    (tensor([0.4724]), tensor([8.6918]))
    """
    low, high = (1 / (1 + math.exp((CENTER - end) / WIDTH)) for end in LOG_SNR)
    share = low + (high - low) * u
    level = (-0.5 * (CENTER + WIDTH * share.logit())).exp()
    return level, (high - low) * WIDTH / (share * (1 - share))


def pixel_level(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Noise level `s` of pixels in [-1, 1] where :math:`\lambda = -2 \log s` has quantile `u`, and its slope.

    Even in :math:`\lambda`: each time the noise is halved, much the same is learned of an extreme pixel, down to the
    noise that no longer hides where in the interval of its level it lies.

    Examples
    --------
    >>> pixel_level(torch.tensor([0.5]))
    (tensor([0.0639]), tensor([21.]))
    """
    low, high = PIXEL_LOG_SNR
    return (-0.5 * (low + (high - low) * u)).exp(), torch.full_like(u, high - low)


def kurtosis_scale(x: Tensor) -> Tensor:
    r"""Noise of coordinates by the kurtosis :math:`\kappa_j` of their middle 96 %, shape ``(d,)`` from ``(d, n)``.

    .. math:: 1 + 0.33 (\kappa_j - 3), \quad \text{clipped so that half of it lies in } [0.1, 3] .

    Examples
    --------
    >>> kurtosis_scale(torch.tensor([[-1.0, 1.0, -1.0, 1.0]]))
    tensor([0.3400])
    """
    cut = round(0.02 * x.shape[1])
    middle = x.double().sort(1).values[:, cut : x.shape[1] - cut]
    centred = middle - middle.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    kurtosis = torch.where(variance > 0, centred.pow(4).mean(1) / variance.square().clamp_min(1e-30), 3.0)
    return (1 + 0.33 * (kurtosis - 3)).clamp(0.2, 6.0).to(x.dtype)
