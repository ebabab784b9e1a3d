"""Networks that tell noise from data, on columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

FREQUENCIES = 4


class Denoiser(nn.Module):
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
    >>> energy, noise = Denoiser(2, 0, (16,))(torch.ones(2, 5), torch.ones(2, 1), torch.ones(5), torch.ones(0, 5))
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
        frequencies = 0.5 * 2.0 ** torch.arange(FREQUENCIES).reshape(-1, 1)
        self.register_buffer("frequencies", frequencies, persistent=False)

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
        height = level.log()[None]
        angles = self.frequencies * height
        x = torch.cat([y, context, height, angles.sin(), angles.cos()])
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
