"""Masked networks for several orders of the coordinates at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def draw_orders(units: Sequence[Sequence[int]], count: int) -> Tensor:
    """Random orders of coordinates, shape ``(count, d)``, with torch's current generator.

    Every second order is the reverse of the one before. Coordinates of a unit stay together and as they are.

    Examples
    --------
    >>> draw_orders([[1, 0], [2]], 2).sort(1).values
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    orders: list[list[int]] = []
    for _ in range(0, count, 2):
        order = torch.randperm(len(units)).tolist()
        orders += [[c for unit in each for c in units[unit]] for each in (order, order[::-1])]
    return torch.tensor(orders[:count])


class OrderedMLP(nn.Module):
    r"""One masked network for each of `K` orders of the coordinates, all of them in one batched product.

    As in :class:`MaskedMLP` every hidden unit has a degree `m` and sees the first `m` coordinates of its order; an
    output sees the units whose degree is at most the number of coordinates before its own.

    Parameters
    ----------
    orders : Tensor of shape (K, d)
        Permutations: the coordinate at every place.
    inputs, outputs : Tensor of shape (features,), int64
        The coordinate that every row of the input, and of the output, belongs to.
    hidden : sequence of int
        Width of every hidden layer.
    start : Tensor of shape (outputs,)
        What the untrained network returns.

    References
    ----------
    Germain, Gregor, Murray, Larochelle (2015), *MADE: Masked Autoencoder for Distribution Estimation*,
    arXiv:1502.03509.

    Examples
    --------
    >>> each = torch.arange(3)
    >>> network = OrderedMLP(torch.stack([each, each.flip(0)]), each, each, (16,), torch.ones(3))
    >>> network(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 3, 5])
    """

    orders: Tensor
    inputs: Tensor
    outputs: Tensor

    def __init__(self, orders: Tensor, inputs: Tensor, outputs: Tensor, hidden: Sequence[int], start: Tensor) -> None:
        super().__init__()
        count, dim = orders.shape
        self.register_buffer("orders", orders)
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)
        least = min(1, dim - 1)
        # Ascending, so that the units that a further coordinate completes are neighbours.
        self.degrees = [[least + unit * (dim - least) // width for unit in range(width)] for width in hidden]
        sizes = (len(inputs), *hidden, len(outputs))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (low, high) in enumerate(pairwise(sizes)):
            last = layer == len(hidden)
            bound = 0.0 if last else low**-0.5
            self.weights.append((2 * torch.rand(count, high, low) - 1) * bound)
            # Flat, as the biases of all other networks are: the optimizer does not shrink vectors.
            self.biases.append(start.repeat(count) if last else (2 * torch.rand(count * high) - 1) * bound)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Masked weights ``(K, out, in)`` and biases ``(K, out, 1)``, first layer first."""
        places = self.orders.argsort(1)
        inner = [torch.tensor(degrees, device=places.device).expand(len(places), -1) for degrees in self.degrees]
        known = [places[:, self.inputs] + 1, *inner, places[:, self.outputs]]
        return [
            (weight * (high[:, :, None] >= low[:, None]), bias.view(len(weight), -1, 1))
            for weight, bias, (low, high) in zip(self.weights, self.biases, pairwise(known), strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(K, inputs, n)``, each order's own, to ``(K, outputs, n)``."""
        *inner, (weight, bias) = self.layers()
        for inner_weight, inner_bias in inner:
            x = torch.baddbmm(inner_bias, inner_weight, x).relu_()
        return torch.baddbmm(bias, weight, x)

    def walk(self, order: int, n: int) -> OrderedWalk:
        """Go through `n` rows in one of the orders, coordinate by coordinate."""
        return OrderedWalk(self, order, n)


class OrderedWalk:
    """A masked network whose inputs arrive one coordinate at a time; every unit is computed once.

    Parameters
    ----------
    network : OrderedMLP
    order : int
    n : int
        Columns.
    """

    def __init__(self, network: OrderedMLP, order: int, n: int) -> None:
        self.layers = [(weight[order], bias[order]) for weight, bias in network.layers()]
        self.degrees = network.degrees
        self.done = [0] * len(network.degrees)
        self.values = [weight.new_zeros(weight.shape[1], n) for weight, _ in self.layers]

    def predict(self, place: int, rows: Tensor) -> Tensor:
        """Some rows of the output, which belong to the coordinate at `place`, once all before it are fed."""
        for layer, degrees in enumerate(self.degrees):
            begin = end = self.done[layer]
            while end < len(degrees) and degrees[end] <= place:
                end += 1
            if end > begin:
                weight, bias = self.layers[layer]
                fresh = torch.addmm(bias[begin:end], weight[begin:end], self.values[layer])
                self.values[layer + 1][begin:end] = fresh.relu_()
                self.done[layer] = end
        weight, bias = self.layers[-1]
        seen = self.done[-1]
        return torch.addmm(bias[rows], weight[rows, :seen], self.values[-1][:seen])

    def feed(self, place: int, rows: Tensor, features: Tensor) -> None:
        """Tell the inputs that belong to the coordinate at `place`."""
        self.values[0].index_copy_(0, rows, features)
