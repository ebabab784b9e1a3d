"""Categorical distributions over the levels of cell coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anomgen.generative import Space


class Levels(nn.Module):
    r"""Probability masses of level numbers, for all modelled cell coordinates of a space at once.

    The levels seen in training share :math:`1 - u` by a softmax of their logits, where `u` is the mass that the encoder
    set aside for values never seen; a missing value (NaN) has no term:

    .. math:: \log p(k) = \log(1 - u) + \log \mathrm{softmax}(l)_k, \qquad \log p(\text{unseen}) = \log u .

    Parameters
    ----------
    space : Space

    Attributes
    ----------
    at : list of int
        The cell coordinates.
    width : int
        Rows of logits: levels seen in training, one coordinate after another.

    Examples
    --------
    >>> levels = Levels(Space((1,), ("c",), ("cell",), ((0.0, 3.0),), (False,), (0.01,)))
    >>> levels.log_prob(torch.zeros(2, 1), torch.tensor([[0.0]])).exp()
    tensor([[0.4950]])
    """

    index: Tensor
    seen: Tensor
    log_seen: Tensor
    log_unseen: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.at = [k for k in range(space.modelled) if space.kinds[k] == "cell"]
        unseen = [space.unseen[k] for k in self.at]
        self.counts = [space.levels[k] - (space.unseen[k] > 0) for k in self.at]
        self.width = sum(self.counts)
        # Rows of logits for each coordinate; the row after the last one stands for levels that it does not have.
        index = torch.full((len(self.at), max(self.counts, default=0)), self.width)
        start = 0
        for row, count in zip(index, self.counts, strict=True):
            row[:count] = torch.arange(start, start + count)
            start += count
        log_unseen = [math.log(u) if u > 0 else -math.inf for u in unseen]
        for name, value in (
            ("index", index),
            ("seen", torch.tensor(self.counts).reshape(-1, 1)),
            ("log_seen", torch.tensor([math.log1p(-u) for u in unseen]).reshape(-1, 1)),
            ("log_unseen", torch.tensor(log_unseen).reshape(-1, 1)),
        ):
            self.register_buffer(name, value, persistent=False)

    def log_prob(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Log-mass of every level number, shape ``(cells, n)``, from logits ``(width, n)``; 0 where it is NaN."""
        table = self._padded(logits).log_softmax(1)
        known = codes.nan_to_num(0.0).long()
        found = table.gather(1, known.clamp(max=table.shape[1] - 1)[:, None]).squeeze(1) + self.log_seen
        found = torch.where(known >= self.seen, self.log_unseen, found)
        return torch.where(codes.isnan(), 0.0, found)

    def sample(self, logits: Tensor) -> Tensor:
        """Draw level numbers among those seen, shape ``(cells, n)``, with torch's current generator."""
        padded = self._padded(logits)
        uniform = torch.rand_like(padded).clamp_(1e-12, 1 - 1e-7)
        return (padded - (-uniform.log()).log()).argmax(1).to(logits.dtype)

    def one_hot(self, codes: Tensor) -> Tensor:
        """Network inputs ``(width, n)`` from level numbers ``(cells, n)``; zeros for unseen and missing ones."""
        rows = [
            (row == torch.arange(count, device=codes.device)[:, None]).to(codes.dtype)
            for row, count in zip(codes, self.counts, strict=True)
        ]
        return torch.cat(rows) if rows else codes.new_empty(0, codes.shape[1])

    def _padded(self, logits: Tensor) -> Tensor:
        nothing = logits.new_full((1, logits.shape[1]), -math.inf)
        return torch.cat([logits, nothing])[self.index]
