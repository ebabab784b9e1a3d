"""Autoregressive networks on columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from anomgen.nn.mlp import MLP


class MaskedMLP(MLP):
    r"""Masked network whose outputs for coordinate `i` depend on inputs :math:`1, \dots, i - 1` only (MADE).

    Every unit has a degree, and a weight is kept where information flows from low to high:

    .. math:: M_{kj} = [\deg_k \ge \deg_j] \text{ (hidden)}, \qquad M_{ij} = [i > \deg_j] \text{ (output)}.

    Parameters
    ----------
    dim : int
        Coordinates in, in their autoregressive order.
    multiplier : int
        Outputs for each coordinate; the output has shape ``(multiplier * dim, n)``, one block of `dim` after another.
    hidden : sequence of int
        Width of every hidden layer.
    given : int
        Further inputs, after the coordinates, that all outputs may depend on.

    Notes
    -----
    Degrees of hidden units are spread evenly over :math:`1, \dots, d - 1`, also where there are fewer units than
    coordinates, so that the last coordinates still see nearly all others.

    References
    ----------
    Germain, Gregor, Murray, Larochelle (2015), *MADE: Masked Autoencoder for Distribution Estimation*,
    arXiv:1502.03509.

    Examples
    --------
    >>> MaskedMLP(3, 2, (16,))(torch.ones(3, 5)).shape
    torch.Size([6, 5])
    """

    def __init__(self, dim: int, multiplier: int, hidden: Sequence[int], given: int = 0) -> None:
        super().__init__(dim + given, multiplier * dim, hidden)
        for layer, mask in enumerate(_masks(dim, multiplier, hidden, given)):
            self.register_buffer(f"mask{layer}", mask, persistent=False)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return weights times masks, and biases, once for each call of the network."""
        return [(w * mask, b) for (w, b), mask in zip(super().layers(), self.buffers(), strict=True)]


def _masks(dim: int, multiplier: int, hidden: Sequence[int], given: int) -> list[Tensor]:
    coordinates = torch.arange(1, dim + 1)
    least = 0 if given else min(1, dim - 1)
    degrees = [torch.cat([coordinates, torch.zeros(given, dtype=torch.int64)])]
    degrees += [least + torch.arange(width) * (dim - least) // width for width in hidden]
    inner = [high[:, None] >= low for low, high in pairwise(degrees)]
    return [mask.float() for mask in (*inner, (coordinates[:, None] > degrees[-1]).repeat(multiplier, 1))]
