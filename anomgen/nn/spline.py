"""Monotone rational-quadratic splines with linear tails, differentiated by hand.

Parameters lie on the leading axis, ``(3 K - 1, d, n)``: `K` bin widths, `K` heights and `K - 1` knot derivatives. Bins
are unrolled over that axis, so that the whole spline is one pointwise region: quick as it is, and one loop over memory
once compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from anomgen.nn.affine import LOG_RANGE, softclip
from anomgen.nn.pointwise import Pointwise

BOUND = 5.0


def spline(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    r"""Monotone rational-quadratic spline of every element, the identity outside ``[-5, 5]``.

    In bin `k` with width share `p`, height share `q`, slope :math:`s = q / p`, knot derivatives :math:`d_0, d_1` and
    :math:`\zeta` the position in the bin,

    .. math:: y = y_k + q \frac{s \zeta^2 + d_0 \zeta (1 - \zeta)}{s + (d_0 + d_1 - 2 s) \zeta (1 - \zeta)} .

    Parameters
    ----------
    x : Tensor of shape (*shape,)
        Where to evaluate.
    parameters : Tensor of shape (3 K - 1, *shape)
        Unconstrained widths, heights and inner derivatives; zeros give the identity. Each is squashed softly, so that
        no bin is narrower than a thousandth of another and no derivative leaves ``[1e-3, 1e3]``.

    Returns
    -------
    y : Tensor of shape (*shape,)
    log_derivative : Tensor of shape (*shape,)
        :math:`\log dy / dx`.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios (2019), *Neural Spline Flows*, arXiv:1906.04032.

    Examples
    --------
    >>> y, log_derivative = spline(torch.tensor([-7.0, 0.5]), torch.zeros(23, 2))
    >>> y
    tensor([-7.0000,  0.5000])
    """
    return _spline(x, parameters.to(x.dtype))


def inverse_spline(y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Exact inverse of :func:`spline`.

    Returns
    -------
    x : Tensor of shape (*shape,)
    log_derivative : Tensor of shape (*shape,)
        The logarithm of dx / dy.
    """
    parameters = parameters.to(y.dtype)
    t = y.clamp(-BOUND, BOUND) / (2 * BOUND) + 0.5
    k = _locate(t, parameters, by_height=True)
    rise, bend = t - k.b, k.d0 + k.d1 - 2 * k.s
    quadratic = k.q * (k.s - k.d0) + rise * bend
    linear = k.q * k.d0 - rise * bend
    root = (linear.square() + 4 * quadratic * k.s * rise).clamp(min=0).sqrt()
    zeta = 2 * k.s * rise / (linear + root)
    x = (k.a + k.p * zeta - 0.5) * (2 * BOUND)
    inside = y.abs() < BOUND
    return torch.where(inside, x, y), torch.where(inside, -_log_derivative(k, zeta), 0.0)


class _Bin(NamedTuple):
    """The bin that each element falls in, among `K` laid out in shares of the whole."""

    p: Tensor
    """Width."""
    q: Tensor
    """Height."""
    a: Tensor
    """Width before it."""
    b: Tensor
    """Height before it."""
    s: Tensor
    """Slope `q / p`."""
    d0: Tensor
    """Derivative at its left knot."""
    d1: Tensor
    """Derivative at its right knot."""
    passed: list[Tensor]
    """For every inner knot, 1 where it lies below."""
    chosen: list[Tensor]
    """For every bin, 1 where it is the one."""
    widths: list[Tensor]
    """Of all bins, before division by their sum."""
    heights: list[Tensor]
    per_width: Tensor
    """What turns them into shares."""
    per_height: Tensor


def _locate(t: Tensor, parameters: Tensor, by_height: bool) -> _Bin:
    bins = (len(parameters) + 1) // 3
    exponents = softclip(parameters[: 2 * bins], LOG_RANGE / 2).unbind(0)
    derivatives = parameters[2 * bins :].unbind(0)
    widths, heights = ([e.exp() for e in part] for part in (exponents[:bins], exponents[bins:]))
    *right, width = accumulate(widths)
    *top, height = accumulate(heights)
    target = t * (height if by_height else width)
    # In-place comparison keeps floats, several times quicker than a cast of booleans.
    passed = [target.clone().ge_(knot) for knot in (top if by_height else right)]
    chosen = [1 - passed[0], *(low - high for low, high in pairwise(passed)), passed[-1]]
    per_width, per_height = width.reciprocal(), height.reciprocal()
    p, q = _select(chosen, widths) * per_width, _select(chosen, heights) * per_height
    a, b = _select(chosen[1:], right) * per_width, _select(chosen[1:], top) * per_height
    d0 = softclip(_select(chosen[1:], derivatives), LOG_RANGE).exp()
    d1 = softclip(_select(chosen[:-1], derivatives), LOG_RANGE).exp()
    return _Bin(p, q, a, b, q / p, d0, d1, passed, chosen, widths, heights, per_width, per_height)


def _select(chosen: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    total = chosen[0] * values[0]
    for hot, value in zip(chosen[1:], values[1:], strict=True):
        total = torch.addcmul(total, hot, value)
    return total


def _log_derivative(k: _Bin, zeta: Tensor) -> Tensor:
    mix = zeta * (1 - zeta)
    slope = k.d1 * zeta.square() + 2 * k.s * mix + k.d0 * (1 - zeta).square()
    return (slope * (k.s / (k.s + (k.d0 + k.d1 - 2 * k.s) * mix)).square()).log()


def _forward(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    t = x.clamp(-BOUND, BOUND) / (2 * BOUND) + 0.5
    k = _locate(t, parameters, by_height=False)
    zeta = (t - k.a) / k.p
    mix = zeta * (1 - zeta)
    rise = (k.s * zeta.square() + k.d0 * mix) / (k.s + (k.d0 + k.d1 - 2 * k.s) * mix)
    y = (k.b + k.q * rise - 0.5) * (2 * BOUND)
    inside = x.abs() < BOUND
    return torch.where(inside, y, x), torch.where(inside, _log_derivative(k, zeta), 0.0)


def _backward(x: Tensor, parameters: Tensor, grad_y: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
    inside = (x.abs() < BOUND).to(x.dtype)
    grad_t, grad_log = grad_y * inside * (2 * BOUND), grad_log * inside
    t = x.clamp(-BOUND, BOUND) / (2 * BOUND) + 0.5
    k = _locate(t, parameters, by_height=False)
    zeta = (t - k.a) / k.p
    rest = 1 - zeta
    mix = zeta * rest
    bend = k.d0 + k.d1 - 2 * k.s
    below = 1 / (k.s + bend * mix)
    rise = (k.s * zeta.square() + k.d0 * mix) * below
    slope = k.d1 * zeta.square() + 2 * k.s * mix + k.d0 * rest.square()
    per_slope, per_below = grad_log / slope, 2 * grad_log * below
    of_rise = grad_t * k.q * below

    to_zeta = (
        of_rise * k.s * slope * below
        + per_slope * 2 * (k.d1 * zeta + k.s * (rest - zeta) - k.d0 * rest)
        - per_below * bend * (rest - zeta)
    )
    to_s = (
        of_rise * (zeta.square() - rise * (1 - 2 * mix))
        + 2 * grad_log / k.s
        + 2 * per_slope * mix
        - per_below * (1 - 2 * mix)
    )
    to_d0 = of_rise * mix * (1 - rise) + per_slope * rest.square() - per_below * mix
    to_d1 = -of_rise * mix * rise + per_slope * zeta.square() - per_below * mix

    to_a = -to_zeta / k.p
    to_p = to_a * zeta - to_s * k.s / k.p
    to_q = grad_t * rise + to_s / k.p
    to_v0, to_v1 = to_d0 * k.d0, to_d1 * k.d1
    shares = [
        *_through_shares(k, k.widths, k.per_width, k.a * to_a + k.p * to_p, to_a, to_p),
        *_through_shares(k, k.heights, k.per_height, k.b * grad_t + k.q * to_q, grad_t, to_q),
    ]
    derivatives = [low * to_v1 + high * to_v0 for low, high in pairwise(k.chosen)]
    bins = len(k.chosen)
    grad_parameters = torch.stack(
        [
            *(g * slope for g, slope in zip(shares, _clip_slope(parameters[: 2 * bins], LOG_RANGE / 2), strict=True)),
            *(g * slope for g, slope in zip(derivatives, _clip_slope(parameters[2 * bins :], LOG_RANGE), strict=True)),
        ]
    )
    return grad_y * (1 - inside) - to_a * (1 / (2 * BOUND)), grad_parameters


def _through_shares(
    k: _Bin, sizes: list[Tensor], per_size: Tensor, mean: Tensor, before: Tensor, at: Tensor
) -> list[Tensor]:
    """Gradient of the exponents of a softmax whose shares before the bin and at it receive `before` and `at`."""
    rest, before, at = -mean * per_size, before * per_size, at * per_size
    centred = [torch.addcmul(rest, chosen, at) for chosen in k.chosen]
    centred[:-1] = [torch.addcmul(g, passed, before) for g, passed in zip(centred, k.passed, strict=False)]
    return [g * size for g, size in zip(centred, sizes, strict=True)]


def _clip_slope(x: Tensor, bound: float) -> Tensor:
    return (x.abs() * (1 / bound) + 1).square().reciprocal()


_spline = Pointwise(_forward, _backward)
