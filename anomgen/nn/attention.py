"""Causal transformers over the coordinates of a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

PIECE = 2**19
"""Features, tokens times width, that are mapped at a time where no gradient is asked for."""


class OrderedAttention(nn.Module):
    r"""Causal transformer with a token for every coordinate, read in each of `K` orders with the same weights.

    The token at a place tells which coordinate comes there, and the value of the one before:

    .. math:: t_i = e_{c_i} + W_{c_{i-1}} x_{c_{i-1}},

    so that, attention looking back only, what is said of :math:`c_i` depends on the coordinates before it.

    Parameters
    ----------
    orders : Tensor of shape (K, d)
        Permutations: the coordinate at every place.
    inputs, outputs : Tensor of shape (features,), int64
        The coordinate that every row of the input, and of the output, belongs to.
    width : int
        Features of a token; a multiple of `heads`.
    blocks : int
        Layers of attention, each with a perceptron four times as wide.
    heads : int
    start : Tensor of shape (outputs,)
        What the untrained network returns.

    References
    ----------
    Vaswani et al. (2017), *Attention Is All You Need*, arXiv:1706.03762.

    Examples
    --------
    >>> each = torch.arange(3)
    >>> network = OrderedAttention(torch.stack([each, each.flip(0)]), each, each, 8, 1, 2, torch.ones(3))
    >>> network(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 3, 5])
    """

    orders: Tensor

    def __init__(
        self, orders: Tensor, inputs: Tensor, outputs: Tensor, width: int, blocks: int, heads: int, start: Tensor
    ) -> None:
        super().__init__()
        dim = orders.shape[1]
        self.register_buffer("orders", orders)
        self.width = width
        self.coming = nn.Parameter(torch.randn(dim, width) * 0.5)
        self.reads: Sequence[_Grouped] = nn.ModuleList(_groups(inputs, dim, width, reads=True))  # type: ignore[assignment]
        self.blocks: Sequence[_Block] = nn.ModuleList(_Block(width, heads) for _ in range(blocks))  # type: ignore[assignment]
        self.norm = nn.LayerNorm(width)
        self.writes: Sequence[_Grouped] = nn.ModuleList(_groups(outputs, dim, width, reads=False))  # type: ignore[assignment]
        self.bias = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(K, inputs, n)``, each order's own, to ``(K, outputs, n)``."""
        if torch.is_grad_enabled():
            return self._map(x)
        height = max(1, PIECE // (self.width * self.orders.numel()))
        return torch.cat([self._map(part) for part in x.split(height, 2)], 2)

    def _map(self, x: Tensor) -> Tensor:
        count, _, n = x.shape
        dim = self.orders.shape[1]
        tokens = x.new_zeros(count, dim, n, self.width)
        for group in self.reads:
            tokens = tokens.index_copy(1, group.members, torch.einsum("gwi,kgin->kgnw", group.weight, x[:, group.rows]))
        before = torch.stack([t[order[:-1]] for t, order in zip(tokens, self.orders, strict=True)])
        before = torch.cat([torch.zeros_like(tokens[:, :1]), before], 1)
        h = (before + self.coming[self.orders][:, :, None]).transpose(1, 2).reshape(count * n, dim, self.width)
        for block in self.blocks:
            h = block(h)[0]
        h = self.norm(h).view(count, n, dim, self.width)
        h = torch.stack([t[:, place] for t, place in zip(h, self.orders.argsort(1), strict=True)])
        y = x.new_zeros(count, len(self.bias), n).to(h.dtype)
        for group in self.writes:
            said = torch.einsum("gow,kngw->kgon", group.weight, h[:, :, group.members])
            y = y.index_copy(1, group.rows.flatten(), said.flatten(1, 2))
        return y + self.bias[:, None]

    def walk(self, order: int, n: int) -> AttentionWalk:
        """Go through `n` rows in one of the orders, coordinate by coordinate."""
        return AttentionWalk(self, order, n)


class AttentionWalk:
    """A causal transformer whose inputs arrive one coordinate at a time; keys and values of earlier tokens are kept.

    Parameters
    ----------
    network : OrderedAttention
    order : int
    n : int
        Columns.
    """

    def __init__(self, network: OrderedAttention, order: int, n: int) -> None:
        self.network = network
        self.order = network.orders[order].tolist()
        self.before = network.coming.new_zeros(n, network.width)
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(network.blocks)
        self.read_by = {int(c): (g, i) for g in network.reads for i, c in enumerate(g.members)}
        self.written_by = {int(c): (g, i) for g in network.writes for i, c in enumerate(g.members)}

    def predict(self, place: int, rows: Tensor) -> Tensor:
        """Some rows of the output, which belong to the coordinate at `place`, once all before it are fed."""
        h = (self.before + self.network.coming[self.order[place]])[:, None]
        for i, block in enumerate(self.network.blocks):
            h, self.past[i] = block(h, self.past[i])
        group, member = self.written_by[self.order[place]]
        said: Tensor = group.weight[member] @ self.network.norm(h[:, 0]).t() + self.network.bias[rows, None]
        return said

    def feed(self, place: int, rows: Tensor, features: Tensor) -> None:
        """Tell the inputs that belong to the coordinate at `place`."""
        group, member = self.read_by[self.order[place]]
        self.before = (group.weight[member] @ features).t()


class _Grouped(nn.Module):
    """Weights of the coordinates that have equally many rows."""

    members: Tensor
    rows: Tensor

    def __init__(self, members: Tensor, rows: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.weight = nn.Parameter(weight)


def _groups(owners: Tensor, dim: int, width: int, reads: bool) -> list[_Grouped]:
    sizes = torch.bincount(owners, minlength=dim)
    by_owner = owners.argsort(stable=True).split(sizes.tolist())
    groups = []
    for size in sizes.unique().tolist():
        members = (sizes == size).nonzero()[:, 0]
        rows = torch.stack([by_owner[c] for c in members.tolist()])
        weight = torch.randn(len(members), width, size) if reads else torch.zeros(len(members), size, width)
        groups.append(_Grouped(members, rows, weight))
    return groups


class _Block(nn.Module):
    """Causal attention and a perceptron, each added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.looked = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.thought = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map tokens ``(n, length, width)``; `past` holds keys and values of those before. Returns these too."""
        n, length, width = h.shape
        parts = self.looked(self.norms[0](h)).view(n, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        seen = scaled_dot_product_attention(query, key, value, is_causal=past is None)
        h = h + self.mixed(seen.transpose(1, 2).reshape(n, length, width))
        return h + self.thought(self.norms[1](h)), (key, value)
