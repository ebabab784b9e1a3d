"""Dense networks with a linear way around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomgen.nn.mlp import MLP


class Shortcut(nn.Module):
    """Dense network on columns plus a linear map to the first of its outputs.

    What is linear need not be learned by bends. The linear map starts at random, the network at zero.

    Parameters
    ----------
    inputs, outputs, hidden
        As for :class:`MLP`.
    linear : int
        Outputs that the linear map leads to.

    Examples
    --------
    >>> Shortcut(2, 3, (16,), 2)(torch.ones(2, 5)).shape
    torch.Size([3, 5])
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], linear: int) -> None:
        super().__init__()
        self.dense = MLP(inputs, outputs, hidden)
        self.linear = nn.Parameter((2 * torch.rand(linear, inputs) - 1) * max(inputs, 1) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(inputs, n)`` to ``(outputs, n)``."""
        y: Tensor = self.dense(x)
        straight = torch.addmm(y[: len(self.linear)], self.linear, x)
        return straight if len(straight) == len(y) else torch.cat([straight, y[len(straight) :]])
