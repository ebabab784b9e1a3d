"""Monotone rational-quadratic splines with linear tails, differentiated by hand.

Parameters lie on the leading axis, ``(3 K - 1, d, n)``: `K` bin widths, `K` heights and `K - 1` knot derivatives. Bins
are unrolled over that axis, so that the whole spline is one pointwise region: quick as it is, and one loop over memory
once compiled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from anomgen import runtime

BOUND = 5.0
LOG_RANGE = math.log(1e3)


def softclip(x: Tensor, bound: float) -> Tensor:
    r"""Squash to ``(-bound, bound)`` with slope one at zero: :math:`x / (1 + |x| / b)`."""
    return x / (x.abs() / bound + 1)


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
    parameters = parameters.to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad):
        result: tuple[Tensor, Tensor] = _Spline.apply(x, parameters)  # type: ignore[no-untyped-call]
        return result
    return _run(_forward, x, parameters)


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
    """The bin each element falls in; `a` and `b` are the shares of width and height before it."""

    p: Tensor
    q: Tensor
    a: Tensor
    b: Tensor
    s: Tensor
    d0: Tensor
    d1: Tensor
    one_hot: list[Tensor]
    e: list[Tensor]
    f: list[Tensor]
    e_total: Tensor
    f_total: Tensor


def _select(one_hot: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    total = one_hot[0] * values[0]
    for hot, value in zip(one_hot[1:], values[1:], strict=True):
        total = torch.addcmul(total, hot, value)
    return total


def _cumulate(values: Sequence[Tensor]) -> list[Tensor]:
    sums = [values[0]]
    for value in values[1:]:
        sums.append(sums[-1] + value)
    return sums


def _locate(t: Tensor, parameters: Tensor, by_height: bool) -> _Bin:
    rows = parameters.unbind(0)
    bins = (len(rows) + 1) // 3
    e = [softclip(row, LOG_RANGE / 2).exp() for row in rows[:bins]]
    f = [softclip(row, LOG_RANGE / 2).exp() for row in rows[bins : 2 * bins]]
    widths, heights = _cumulate(e), _cumulate(f)
    knots = heights if by_height else widths
    target = t * knots[-1]
    above = [(target >= knot).to(t.dtype) for knot in knots[:-1]]
    one_hot = [1 - above[0], *(low - high for low, high in pairwise(above)), above[-1]]
    p = _select(one_hot, e) / widths[-1]
    q = _select(one_hot, f) / heights[-1]
    a = _select(one_hot[1:], widths[:-1]) / widths[-1]
    b = _select(one_hot[1:], heights[:-1]) / heights[-1]
    d0 = softclip(_select(one_hot[1:], rows[2 * bins :]), LOG_RANGE).exp()
    d1 = softclip(_select(one_hot[:-1], rows[2 * bins :]), LOG_RANGE).exp()
    return _Bin(p, q, a, b, q / p, d0, d1, one_hot, e, f, widths[-1], heights[-1])


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
    to_p = (to_a * (zeta)) - to_s * k.s / k.p
    to_b = grad_t
    to_q = grad_t * rise + to_s / k.p

    grads = [
        *_to_shares(parameters, 0, k.one_hot, k.e, k.e_total, to_a, to_p, k.a, k.p),
        *_to_shares(parameters, len(k.e), k.one_hot, k.f, k.f_total, to_b, to_q, k.b, k.q),
        *_to_derivatives(parameters, k.one_hot, to_d0 * k.d0, to_d1 * k.d1),
    ]
    grad_x = grad_y * (1 - inside) - to_a / (2 * BOUND)
    return grad_x, torch.stack(grads)


def _to_shares(
    parameters: Tensor,
    start: int,
    one_hot: list[Tensor],
    e: list[Tensor],
    total: Tensor,
    before: Tensor,
    at: Tensor,
    share_before: Tensor,
    share: Tensor,
) -> list[Tensor]:
    mean = share_before * before + share * at
    scale = 1 / total
    at = (at - mean) * scale
    after = -mean * scale
    before = (before - mean) * scale
    # Walking down from the last bin, `passed` turns on below the bin an element falls in.
    passed = torch.zeros_like(mean)
    grads = []
    for j in reversed(range(len(e))):
        hot = one_hot[j]
        gradient = torch.where(hot > 0, at, torch.where(passed > 0, before, after))
        passed = passed + hot
        grads.append(gradient * e[j] / (parameters[start + j].abs() / (LOG_RANGE / 2) + 1).square())
    return grads[::-1]


def _to_derivatives(parameters: Tensor, one_hot: list[Tensor], low: Tensor, high: Tensor) -> list[Tensor]:
    bins = len(one_hot)
    return [
        (one_hot[j] * low + one_hot[j - 1] * high) / (parameters[2 * bins + j - 1].abs() / LOG_RANGE + 1).square()
        for j in range(1, bins)
    ]


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, parameters)
        return _run(_forward, x, parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor]:
        return _run(_backward, *ctx.saved_tensors, grad_y, grad_log)


Kernel = Callable[..., tuple[Tensor, Tensor]]

_compiled: dict[Kernel, Kernel] = {}


def _run(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    return _run_compiled(kernel, *tensors) if runtime.compile_requested() else kernel(*tensors)


def _run_compiled(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    from torch._dynamo.exc import TorchDynamoException

    if kernel not in _compiled:
        _compiled[kernel] = torch.compile(kernel, dynamic=True)
    try:
        return _compiled[kernel](*tensors)
    except TorchDynamoException as error:
        # One failure settles it for the process: every later call goes the uncompiled way without asking again.
        _compiled.update({_forward: _forward, _backward: _backward})
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"compile=True has no effect here, splines run uncompiled: {reason} "
            "To compile on a CPU, install a C++ compiler (Debian or Ubuntu: apt install g++) and restart Python.",
            RuntimeWarning,
            stacklevel=2,
        )
        return kernel(*tensors)
