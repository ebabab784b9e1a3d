"""Networks whose slope is bounded: by the largest singular value of every layer, or by a penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anomgen.nn.mlp import MLP


class SpectralMLP(MLP):
    r"""Multi-layer perceptron whose weight matrices are divided by their largest singular value.

    .. math:: x \mapsto \mathrm{relu}(W x / \sigma_1(W) + b)

    Every layer, and so the whole network, then has a Lipschitz constant of 1 at most. The singular value is always that
    of the current weights: in training by power iteration, one step a pass, whose vectors are kept for the next pass;
    in evaluation, where the weights may be averages that training never saw, exactly.

    Parameters
    ----------
    inputs, outputs : int
        Features in and out.
    hidden : sequence of int
        Width of every hidden layer.

    Notes
    -----
    Unlike :class:`MLP` the last layer starts at random: a matrix of zeros cannot be normalized.

    References
    ----------
    Miyato, Kataoka, Koyama, Yoshida (2018), *Spectral Normalization for Generative Adversarial Networks*,
    arXiv:1802.05957.

    Examples
    --------
    >>> network = SpectralMLP(2, 3, (16, 16)).eval()
    >>> bool((network(torch.ones(2, 1)) - network(torch.zeros(2, 1))).norm() <= 2**0.5 * 1.0001)
    True
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__(inputs, outputs, hidden)
        widths = (inputs, *hidden, outputs)
        for layer, (low, high) in enumerate(pairwise(widths)):
            if layer == len(hidden):
                nn.init.uniform_(self.get_parameter(f"weight{layer}"), -(low**-0.5), low**-0.5)
            self.register_buffer(f"direction{layer}", normalize(torch.randn(high), dim=0))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the normalized weight and the bias of every layer, first layer first."""
        return [
            (weight / largest(weight, self.get_buffer(f"direction{layer}"), self.training), bias)
            for layer, (weight, bias) in enumerate(super().layers())
        ]


def largest(weight: Tensor, direction: Tensor, training: bool) -> Tensor:
    """Largest singular value of a matrix, never zero.

    Parameters
    ----------
    weight : Tensor of shape (high, low)
    direction : Tensor of shape (high,)
        Left singular vector as far as it is known; improved in place, by one step of power iteration, in training.
    training : bool
        Whether to trust the direction; otherwise the value is exact.
    """
    if not training:
        exact: Tensor = torch.linalg.matrix_norm(weight, 2)
        return exact.clamp_min(1e-12)
    with torch.no_grad():
        right = normalize(weight.t() @ direction, dim=0)
        direction.copy_(normalize(weight @ right, dim=0))
    return (direction.clone() @ weight @ right).clamp_min(1e-12)


def steepness(function: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    r"""Squared distance from 1 of a function's slope, at a random point between each two columns.

    .. math:: (\|\nabla f(x + u (y - x))\| - 1)^2, \quad u \sim U(0, 1)

    Parameters
    ----------
    function : callable
        Takes columns ``(d, n)`` and returns one value for each, ``(n,)``; differentiable twice.
    start, end : Tensor of shape (d, n)

    Returns
    -------
    Tensor of shape (n,)
        Differentiable with respect to the function's weights.

    References
    ----------
    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017), *Improved Training of Wasserstein GANs*, arXiv:1704.00028.

    Examples
    --------
    >>> steepness(lambda x: 3 * x[0], torch.zeros(2, 1), torch.ones(2, 1)).detach()
    tensor([4.])
    """
    with torch.enable_grad():
        share = torch.rand(1, start.shape[1], device=start.device)
        between = torch.lerp(start, end, share).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(between).sum(), between, create_graph=True)
    return (gradient.square().sum(0).add(1e-12).sqrt() - 1).square()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients through a network inside the block without computing any for its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
