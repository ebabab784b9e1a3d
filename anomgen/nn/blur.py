"""Gaussian smoothing of maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps ``(n, h, w)`` smoothed by a Gaussian of standard deviation `sigma`, pixels, mirrored at the borders."""
    _, h, w = maps.shape
    reach = min(max(1, round(3 * sigma)), h - 1, w - 1)
    if reach < 1:
        return maps
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=maps.device) / sigma).square()).to(maps.dtype)
    kernel = kernel / kernel.sum()
    wide = pad(maps[:, None], (reach, reach, reach, reach), mode="reflect")
    return conv2d(conv2d(wide, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
