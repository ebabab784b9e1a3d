"""Bounded affine maps of every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomgen import runtime
from anomgen.nn.pointwise import Pointwise

LOG_RANGE = math.log(1e3)


def softclip(x: Tensor, bound: float) -> Tensor:
    r"""Squash to ``(-bound, bound)`` with slope one at zero: :math:`x / (1 + |x| / b)`."""
    return x / (x.abs() * (1 / bound) + 1)


def clip_slope(x: Tensor, bound: float) -> Tensor:
    """Derivative of :func:`softclip`."""
    return (x.abs() * (1 / bound) + 1).square().reciprocal()


def affine(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shift and scale every element: :math:`y = x e^s + t`.

    Parameters
    ----------
    x : Tensor of shape (*shape,)
        Where to evaluate; at least two dimensions.
    parameters : Tensor of shape (2, *shape)
        Shift `t`, and the log-scale `s` before it is squashed to within a factor of a thousand.

    Returns
    -------
    y : Tensor of shape (*shape,)
    log_derivative : Tensor of shape (*shape,)

    Examples
    --------
    >>> affine(torch.ones(1, 1), torch.tensor([[[2.0]], [[0.0]]]))
    (tensor([[3.]]), tensor([[0.]]))
    """
    # Uncompiled, these few operations are quicker in autograd's own graph.
    kernel = _affine if runtime.compile_requested() else _forward
    return kernel(x, parameters.to(x.dtype))


def inverse_affine(y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Exact inverse of :func:`affine` and its log-derivative."""
    shift, raw = parameters.to(y.dtype).unbind(0)
    log_scale = softclip(raw, LOG_RANGE)
    return (y - shift) * log_scale.neg().exp(), -log_scale


def _forward(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = parameters.unbind(0)
    log_scale = softclip(raw, LOG_RANGE)
    return torch.addcmul(shift, x, log_scale.exp()), log_scale


def _backward(x: Tensor, parameters: Tensor, grad_y: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
    raw = parameters[1]
    grad_x = grad_y * softclip(raw, LOG_RANGE).exp()
    grad_raw = torch.addcmul(grad_log, grad_x, x) * clip_slope(raw, LOG_RANGE)
    return grad_x, torch.stack([grad_y, grad_raw])


_affine = Pointwise(_forward, _backward)
