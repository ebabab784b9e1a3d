"""Mixtures of normal distributions of every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomgen.nn.affine import LOG_RANGE, softclip


def mixture_log_prob(x: Tensor, parameters: Tensor) -> Tensor:
    r"""Log-density of every element under a mixture of normal distributions of its own.

    .. math:: \log p(x) = \log \sum_m \mathrm{softmax}(l)_m \, N(x; \mu_m, e^{s_m})

    Parameters
    ----------
    x : Tensor of shape (*shape,)
        Where to evaluate.
    parameters : Tensor of shape (3, M, *shape)
        Logits `l`, means and log-scales of `M` components; log-scales are squashed to within a factor of a thousand,
        so that no density grows without bound and far values always lose.

    Returns
    -------
    Tensor of shape (*shape,)

    Examples
    --------
    >>> mixture_log_prob(torch.zeros(2), torch.zeros(3, 4, 2))
    tensor([-0.9189, -0.9189])
    """
    logits, means, raw = parameters.to(x.dtype).unbind(0)
    log_scales = softclip(raw, LOG_RANGE)
    standard = (x - means) * log_scales.neg().exp()
    each = torch.addcmul(logits - log_scales, standard, standard, value=-0.5)
    return each.logsumexp(0) - logits.logsumexp(0) - 0.5 * math.log(2 * math.pi)


def mixture_sample(parameters: Tensor) -> Tensor:
    """Draw from mixtures with the parameters of :func:`mixture_log_prob`, with torch's current generator."""
    logits, means, raw = parameters.unbind(0)
    chosen = choose(logits)[None]
    scale = softclip(raw.gather(0, chosen), LOG_RANGE).exp()[0]
    return torch.addcmul(means.gather(0, chosen)[0], scale, torch.randn_like(scale))


def choose(logits: Tensor) -> Tensor:
    """Draw numbers of classes, shape `(*shape,)`, from logits `(classes, *shape)`."""
    cumulated = logits.softmax(0).cumsum(0)
    return (cumulated < torch.rand_like(cumulated[0])).sum(0).clamp_(max=len(logits) - 1)


def mixture_start(components: int) -> Tensor:
    """Parameters of shape ``(3, components)`` of a mixture near the standard normal distribution, to start from."""
    means = torch.linspace(-1.0, 1.0, components) if components > 1 else torch.zeros(1)
    return torch.stack([torch.zeros(components), means, torch.full((components,), -0.25)])
