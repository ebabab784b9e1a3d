"""Elementwise maps differentiated by hand, and compiled where the caller asked for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from anomgen import runtime

PIECE = 32_768
"""Elements a thread transforms at a time on a CPU."""

Kernel = Callable[..., tuple[Tensor, ...]]


class Pointwise:
    """A map of every element to a value and a log-derivative.

    Its gradient recomputes what it needs from the inputs, so that training keeps no intermediate result. Inside
    ``runtime.compiling(True)`` both directions run as one compiled loop over memory, made once for all shapes.

    Parameters
    ----------
    forward : callable
        Takes the inputs and returns values and log-derivatives. Inputs share their last two dimensions.
    backward : callable
        Takes the inputs and the two gradients; returns the gradients of the inputs.
    """

    def __init__(self, forward: Kernel, backward: Kernel) -> None:
        self.forward = forward
        self.backward = backward

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-derivatives."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            y, log_derivative = _ByHand.apply(self, *inputs)  # type: ignore[no-untyped-call]
        else:
            y, log_derivative = _run(self.forward, *inputs)
        return y, log_derivative


class _ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pointwise: Pointwise, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.backward_kernel = pointwise.backward
        ctx.save_for_backward(*inputs)
        return _run(pointwise.forward, *inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_run(ctx.backward_kernel, *ctx.saved_tensors, *grads)


_compiled: dict[Kernel, Kernel] = {}
_no_compiler = False


def _run(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, ...]:
    if runtime.compile_requested() and not _no_compiler:
        return _run_compiled(kernel, *tensors)
    if tensors[0].device.type == "cpu" and tensors[0].numel() > PIECE * torch.get_num_threads():
        return _run_in_pieces(kernel, *tensors)
    return kernel(*tensors)


def _run_in_pieces(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keep the temporaries of a kernel in the processor's cache."""
    x = tensors[0]
    columns = max(1, PIECE * torch.get_num_threads() * x.shape[-1] // x.numel())
    pieces = zip(*(t.split(columns, dim=-1) for t in tensors), strict=True)
    return tuple(torch.cat(parts, -1) for parts in zip(*(kernel(*piece) for piece in pieces), strict=True))


def _run_compiled(kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, ...]:
    from torch._dynamo.exc import TorchDynamoException

    global _no_compiler
    if kernel not in _compiled:
        _compiled[kernel] = torch.compile(kernel, dynamic=True)
    try:
        return _compiled[kernel](*tensors)
    except TorchDynamoException as error:
        # One failure settles it for the process: later calls go the uncompiled way without asking again.
        _no_compiler = True
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"compile=True has no effect here, splines run uncompiled: {reason} "
            "To compile on a CPU, install a C++ compiler (Debian or Ubuntu: apt install g++) and restart Python.",
            RuntimeWarning,
            stacklevel=2,
        )
        return kernel(*tensors)
