"""Mixtures of normal distributions of every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anomgen.nn.affine import LOG_RANGE, softclip


def mixture_log_prob(x: Tensor, logits: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    r"""Log-density of every element under a mixture of normal distributions of its own.

    .. math:: \log p(x) = \log \sum_m \mathrm{softmax}(l)_m \, N(x; \mu_m, e^{s_m})

    Parameters
    ----------
    x : Tensor of shape (*shape,)
        Where to evaluate.
    logits, means, scales : Tensor of shape (M, *shape)
        Logits `l`, means and log-scales of `M` components, or what broadcasts to them. Log-scales are squashed to
        within a factor of a thousand, so that no density grows without bound and far values always lose.

    Returns
    -------
    Tensor of shape (*shape,)

    Examples
    --------
    >>> nothing = torch.zeros(4, 2)
    >>> mixture_log_prob(torch.zeros(2), nothing, nothing, nothing)
    tensor([-0.9189, -0.9189])
    """
    log_scales = softclip(scales.to(x.dtype), LOG_RANGE)
    weights = logits.to(x.dtype).log_softmax(0) - log_scales
    standard = (x - means) * log_scales.neg().exp()
    return torch.addcmul(weights, standard, standard, value=-0.5).logsumexp(0) - 0.5 * math.log(2 * math.pi)


def mixture_sample(logits: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Draw from mixtures with the parameters of :func:`mixture_log_prob`, with torch's current generator."""
    chosen = choose(logits.expand_as(means))[None]
    scale = softclip(scales.expand_as(means).gather(0, chosen), LOG_RANGE).exp()[0]
    return torch.addcmul(means.gather(0, chosen)[0], scale, torch.randn_like(scale))


def choose(logits: Tensor) -> Tensor:
    """Draw numbers of classes, shape `(*shape,)`, from logits `(classes, *shape)`."""
    cumulated = logits.softmax(0).cumsum(0)
    return (cumulated < torch.rand_like(cumulated[0])).sum(0).clamp_(max=len(logits) - 1)


class Mixtures(nn.Module):
    """Mixtures of several numbers in several orders, from the outputs of networks.

    Parameters
    ----------
    numbers, orders, components : int
    weighted : bool
        Whether networks tell the weights and widths of components besides their means. Otherwise these are learned
        constants of each number and order.

    Attributes
    ----------
    outputs : int
        Outputs of a network for each number; of all numbers the first ones come first.
    start : Tensor of shape (outputs * numbers,)
        Outputs that are near standard normal distributions, to start from.
    """

    def __init__(self, numbers: int, orders: int, components: int, weighted: bool) -> None:
        super().__init__()
        self.numbers, self.orders, self.components, self.weighted = numbers, orders, components, weighted
        spread = torch.linspace(-1.0, 1.0, components) if components > 1 else torch.zeros(1)
        rest = torch.cat([torch.zeros(components), torch.full((components,), -0.25)])
        told = torch.cat([spread, rest]) if weighted else spread
        self.outputs, self.start = len(told), told.repeat_interleave(numbers)
        # One vector, which the optimizer does not shrink.
        self.constants = nn.Parameter(rest.repeat_interleave(numbers).repeat(0 if weighted else orders))

    def forward(self, y: Tensor, order: int | None = None, number: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-scales ``(M, K, numbers, n)`` from outputs ``(K, outputs * numbers, n)``.

        They are those of one order and of one number where these are given.
        """
        count, rows, n = y.shape
        parts = y.view(count, self.outputs // self.components, self.components, rows // self.outputs, n).permute(
            1, 2, 0, 3, 4
        )
        if self.weighted:
            means, logits, scales = parts.unbind(0)
            return logits, means, scales
        constants = self.constants.view(self.orders, 2, self.components, self.numbers, 1)
        constants = constants if order is None else constants[order : order + 1]
        constants = constants if number is None else constants[:, :, :, number : number + 1]
        logits, scales = constants.permute(1, 2, 0, 3, 4).unbind(0)
        return logits, parts[0], scales
