"""Networks that tell noise from data, on columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

FREQUENCIES = 6
"""Sines and cosines that tell a network the noise level."""


class Denoiser(nn.Module):
    r"""Noise found in noisy columns, at any noise level.

    For :math:`\tilde x = x + s \varepsilon` with noise level `s`, a residual network `f` corrects what would be
    found in standard normal data:

    .. math:: \hat\varepsilon = \sigma y + \alpha f(y), \qquad
              y = \alpha \tilde x, \quad \alpha = (1 + s^2)^{-1/2}, \quad \sigma = s \alpha .

    Parameters
    ----------
    dim : int
        Coordinates of a column.
    given : int
        Rows of the context.
    hidden : sequence of int
        Width of every hidden layer; layers of equal width are bridged.

    Notes
    -----
    `f` starts at zero. Its target :math:`\alpha \varepsilon - \sigma x` has the same size at all levels.

    References
    ----------
    Salimans, Ho (2022), *Progressive distillation for fast sampling of diffusion models*, arXiv:2202.00512.

    Examples
    --------
    >>> Denoiser(2, 0, (16,))(torch.ones(2, 5), torch.ones(5), torch.ones(0, 5)).shape
    torch.Size([2, 5])
    """

    work: ClassVar[int] = 0

    frequencies: Tensor

    def __init__(self, dim: int, given: int, hidden: Sequence[int]) -> None:
        super().__init__()
        of_level = 2 * FREQUENCIES + 1
        for layer, (low, high) in enumerate(pairwise((dim + given, *hidden, dim))):
            # Every hidden layer is told the level anew.
            inputs, bound = (low + of_level, (low + of_level) ** -0.5) if layer < len(hidden) else (low, 0.0)
            for name, shape in (("weight", (high, inputs)), ("bias", (high, 1))):
                self.register_parameter(f"{name}{layer}", nn.Parameter((2 * torch.rand(shape) - 1) * bound))
        self.register_buffer("frequencies", level_frequencies(), persistent=False)

    def forward(self, noisy: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Noise ``(dim, n)`` found in columns ``(dim, n)`` at levels ``(n,)``, given context ``(given, n)``."""
        alpha = (1 + level * level).rsqrt()
        y = noisy * alpha
        heights = level_features(level, self.frequencies)
        parameters = list(self._parameters.values())
        weights, biases = parameters[::2], parameters[1::2]
        x = torch.cat([y, context])
        for layer, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            h = torch.addmm(bias, weight, torch.cat([x, heights])).relu_()  # type: ignore[arg-type]
            x = x + h if layer and x.shape == h.shape else h
        correction = torch.addmm(biases[-1], weights[-1], x)  # type: ignore[arg-type]
        return (y * level + correction) * alpha


class EnergyDenoiser(nn.Module):
    r"""Energy of noisy columns, and the noise that its gradient finds in them.

    For :math:`\tilde x = x + s \varepsilon` with noise `s` and :math:`y = \tilde x / \sqrt{1 + s^2}`,
    :math:`\sigma = s / \sqrt{1 + s^2}`, a network `f` gives

    .. math:: E(\tilde x) = \tfrac12 \| y - f(y) / \sigma \|^2, \qquad
              \hat\varepsilon = s \nabla_{\tilde x} E = \sigma \nabla_y E .

    Parameters
    ----------
    dim : int
        Coordinates of a column.
    given : int
        Rows of the context.
    hidden : sequence of int
        Width of every hidden layer.

    Notes
    -----
    `f` starts at zero, and so the energy as that of standard normal data. It never is negative and grows like a square
    far from the data, wherever the network extrapolates to. The gradient is written out, so that it needs no automatic
    differentiation in scoring and a single one in training.

    References
    ----------
    Salimans, Ho (2021), *Should EBMs model the energy or the score?*, ICLR workshop on energy-based models.

    Examples
    --------
    >>> energy, noise = EnergyDenoiser(2, 0, (16,))(torch.ones(2, 5), torch.ones(2, 1), torch.ones(5), torch.ones(0, 5))
    >>> energy
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000], grad_fn=<MulBackward0>)
    """

    frequencies: Tensor

    def __init__(self, dim: int, given: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        for layer, (low, high) in enumerate(pairwise((dim + given + 2 * FREQUENCIES + 1, *hidden, dim))):
            bound = 0.0 if layer == len(hidden) else low**-0.5
            for name, shape in (("weight", (high, low)), ("bias", (high, 1))):
                self.register_parameter(f"{name}{layer}", nn.Parameter((2 * torch.rand(shape) - 1) * bound))
        self.register_buffer("frequencies", level_frequencies(), persistent=False)

    def forward(self, noisy: Tensor, scale: Tensor, level: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Energy ``(n,)`` and noise ``(dim, n)`` found in columns.

        Parameters
        ----------
        noisy : Tensor of shape (dim, n)
        scale : Tensor of shape (dim, 1)
            Noise of each coordinate at level 1.
        level : Tensor of shape (n,)
            What multiplies it.
        context : Tensor of shape (given, n)
        """
        s = scale * level
        shrink = (1 + s * s).rsqrt()
        y, sigma = noisy * shrink, s * shrink
        x = torch.cat([y, context, level_features(level, self.frequencies)])
        parameters = list(self._parameters.values())
        weights, biases = parameters[::2], parameters[1::2]
        slopes = []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x, slope = _silu(torch.addmm(bias, weight, x))  # type: ignore[arg-type]
            slopes.append(slope)
        rest = y - torch.addmm(biases[-1], weights[-1], x) / sigma  # type: ignore[arg-type]
        back = rest / sigma
        for weight, slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
            back = (weight.t() @ back) * slope  # type: ignore[union-attr]
        gradient = rest - weights[0][:, : self.dim].t() @ back  # type: ignore[index]
        return rest.square().sum(0) * 0.5, gradient * sigma


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth kink, ``x sigmoid(x)``, and its slope: the gradient of a network needs a slope that has one itself."""
    share = x.sigmoid()
    y = x * share
    return y, share + y * (1 - share)


def level_frequencies() -> Tensor:
    """What :func:`level_features` multiplies the logarithm of a level by, shape ``(FREQUENCIES, 1)``."""
    return math.pi * 0.5 ** torch.arange(FREQUENCIES).reshape(-1, 1)


def level_features(level: Tensor, frequencies: Tensor) -> Tensor:
    """What a network is told of levels ``(n,)``, shape ``(2 FREQUENCIES + 1, n)``."""
    height = level.log()[None]
    angles = frequencies * height
    return torch.cat([0.5 * height, angles.sin(), angles.cos()])
