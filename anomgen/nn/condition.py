"""Conditions: coordinates that are given, as inputs of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomgen.generative import Space


class Condition(nn.Module):
    """Parts encoded rows into what is modelled and what is given, and turns the latter into network inputs.

    Conditions are the last coordinates of a row. A level becomes a one-hot code, a number stays one. Without conditions
    the context has no rows, and joining changes nothing.

    Parameters
    ----------
    space : Space

    Attributes
    ----------
    dim : int
        Modelled coordinates.
    width : int
        Rows of the context.

    Examples
    --------
    >>> condition = Condition(Space((2,), ("x", "c"), ("real", "cell"), ((), (0.0, 2.0)), (False,) * 2, (),
    ...                             (False, True)))
    >>> x, context = condition.split(torch.tensor([[0.5, 1.0]]))
    >>> x, context.t()
    (tensor([[0.5000]]), tensor([[0., 1.]]))
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.dim = space.modelled
        # The last level stands for values never seen, which a condition cannot have.
        self.levels = [max(levels - 1, 1) if levels else 0 for levels in space.levels[self.dim :]]
        self.width = sum(levels or 1 for levels in self.levels)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Columns ``(dim, n)`` of what is modelled and context ``(width, n)`` of rows `z`, shape ``(n, dim + k)``."""
        if not self.levels:
            return z.t(), z.new_empty(0, len(z))
        return z[:, : self.dim].t(), self.context(z[:, self.dim :])

    def context(self, condition: Tensor) -> Tensor:
        """Network inputs of shape ``(width, n)`` from conditions of shape ``(n, k)``."""
        rows = []
        for values, levels in zip(condition.unbind(1), self.levels, strict=True):
            if levels:
                each = torch.arange(levels, device=values.device, dtype=values.dtype)
                rows.append((values == each[:, None]).to(values.dtype))
            else:
                rows.append(values[None])
        return torch.cat(rows)

    def join(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Rows ``(n, dim + k)`` from modelled coordinates ``(n, dim)`` and their conditions ``(n, k)``."""
        return x if condition is None else torch.cat([x, condition], 1)

    def context_for(self, n: int, condition: Tensor | None, like: Tensor) -> Tensor:
        """Context of `n` rows to be drawn; empty without conditions."""
        return like.new_empty(0, n) if condition is None else self.context(condition)
