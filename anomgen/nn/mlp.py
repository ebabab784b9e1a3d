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
        sizes = (inputs, *hidden, outputs)
        self.weights = nn.ParameterList(torch.empty(high, low) for low, high in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(high) for high in sizes[1:])
        with torch.no_grad():
            for weight in self.weights[:-1]:
                bound = max(weight.shape[1], 1) ** -0.5
                weight.uniform_(-bound, bound)
            self.weights[-1].zero_()

    def effective_weights(self) -> list[Tensor]:
        """Return the matrices that multiply, first layer first."""
        return list(self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(inputs, n)`` to ``(outputs, n)``."""
        *weights, last = self.effective_weights()
        *biases, last_bias = self.biases
        for weight, bias in zip(weights, biases, strict=True):
            x = torch.addmm(bias[:, None], weight, x).relu_()
        return torch.addmm(last_bias[:, None], last, x)
