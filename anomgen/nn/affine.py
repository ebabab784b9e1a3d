"""Bounded affine maps of every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_RANGE = math.log(1e3)


def softclip(x: Tensor, bound: float) -> Tensor:
    r"""Squash to ``(-bound, bound)`` with slope one at zero: :math:`x / (1 + |x| / b)`."""
    return x / (x.abs() * (1 / bound) + 1)


def affine(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shift and scale every element: :math:`y = x e^s + t`.

    Parameters
    ----------
    x : Tensor of shape (*shape,)
        Where to evaluate.
    parameters : Tensor of shape (2, *shape)
        Shift `t`, and the log-scale `s` before it is squashed to within a factor of a thousand.

    Returns
    -------
    y : Tensor of shape (*shape,)
    log_derivative : Tensor of shape (*shape,)

    Examples
    --------
    >>> affine(torch.ones(1), torch.tensor([[2.0], [0.0]]))
    (tensor([3.]), tensor([0.]))
    """
    shift, raw = parameters.to(x.dtype).unbind(0)
    log_scale = softclip(raw, LOG_RANGE)
    return torch.addcmul(shift, x, log_scale.exp()), log_scale


def inverse_affine(y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Exact inverse of :func:`affine` and its log-derivative."""
    shift, raw = parameters.to(y.dtype).unbind(0)
    log_scale = softclip(raw, LOG_RANGE)
    return (y - shift) * log_scale.neg().exp(), -log_scale
