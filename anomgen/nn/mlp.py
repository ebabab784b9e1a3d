"""Dense networks on columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    r"""Multi-layer perceptron with ReLU on columns, :math:`(in, n) \to (out, n)`.

    Rows of a table are columns here: matrix products then yield every feature contiguous in memory, so that splitting,
    permuting and transforming features needs no copy.

    Parameters
    ----------
    inputs, outputs : int
        Features in and out; zero inputs give a constant function.
    hidden : sequence of int
        Width of every hidden layer.

    Notes
    -----
    The last layer starts at zero, so the network starts as the zero function and a flow built on it as the identity
    (Kingma and Dhariwal, 2018).

    Examples
    --------
    >>> MLP(2, 3, (16, 16))(torch.ones(2, 5)).shape
    torch.Size([3, 5])
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        for layer, (low, high) in enumerate(pairwise((inputs, *hidden, outputs))):
            bound = 0.0 if layer == len(hidden) else max(low, 1) ** -0.5
            for name, shape in (("weight", (high, low)), ("bias", (high, 1))):
                self.register_parameter(f"{name}{layer}", nn.Parameter((2 * torch.rand(shape) - 1) * bound))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weight that multiplies and the bias of every layer, first layer first."""
        parameters = list(self._parameters.values())
        return list(zip(parameters[::2], parameters[1::2], strict=True))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(inputs, n)`` to ``(outputs, n)``."""
        *inner, (weight, bias) = self.layers()
        for inner_weight, inner_bias in inner:
            x = torch.addmm(inner_bias, inner_weight, x).relu_()
        return torch.addmm(bias, weight, x)
