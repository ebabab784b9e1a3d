"""Autoregressive model of tables: exact densities and masses, column by column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Space
from anomgen.nn import Levels, check_choice, check_counts, check_number, check_widths
from anomgen.nn.attention import OrderedAttention
from anomgen.nn.mixture import Mixtures, choose, mixture_log_prob, mixture_sample
from anomgen.nn.orders import OrderedMLP, draw_orders

BACKBONES = ("dense", "attention")
CONDITIONALS = ("means", "mixtures")
REACH = 10.0
"""Numbers enter the networks clamped to this: beyond it conditionals stay as they are, so that far rows lose."""
WIDE = 256
"""Coordinates beyond which two orders are averaged instead of four, unless their number is given."""
DRAWN = 2**22
"""Numbers drawn at a time for filling gaps."""


class Autoregressive(GenerativeModel):
    r"""Autoregressive model of rows ``z`` of shape ``(n, d)``, averaged over `K` orders of the coordinates.

    .. math:: p(z) = \frac1K \sum_{k=1}^K p_k(z), \qquad p_k(z) = \prod_i p_k(z_{c_i} \mid z_{c_1}, \dots, z_{c_{i-1}})

    where :math:`c_1, \dots, c_d` is the order `k`.

    Parameters
    ----------
    space : int or Space
        Coordinates of a row: level numbers on cells, NaN where a value is missing.
    backbone, conditional, orders, hidden, width, blocks, heads, components, dropout
        As in :class:`AutoregressiveDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Notes
    -----
    Orders come in pairs, each one and its reverse. The mask "x is missing" stands just before `x` in all of them: where
    it says so, `x` has no term, so that masses of masks and densities of what is observed multiply to an exact density.

    Examples
    --------
    >>> model = Autoregressive(2)
    >>> z = torch.tensor([[0.5, float("nan")]])
    >>> bool(model.log_prob(z) == model.log_prob_terms(z)[0, 0])
    True
    """

    codes: ClassVar[bool] = True
    drawing: ClassVar[str] = "importance resampling over orders"
    universal = True

    orders: Tensor
    numbers: Tensor
    cells: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        backbone: str = "dense",
        conditional: str = "means",
        orders: int | Literal["auto"] = "auto",
        hidden: Sequence[int] = (128, 128),
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        components: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        space = Space.real(space) if isinstance(space, int) else space
        check_choice("backbone", backbone, BACKBONES)
        check_choice("conditional", conditional, CONDITIONALS)
        check_counts(dim=space.dim, width=width, blocks=blocks, heads=heads, components=components)
        if orders != "auto":
            check_counts(orders=orders)
        check_widths(hidden)
        check_number("dropout", dropout, 0.0, 0.5)
        if width % heads:
            raise ValueError(f"width={width!r} is not valid; give a multiple of heads={heads!r}")
        self.dropout = dropout
        count = (4 if space.dim <= WIDE else 2) if orders == "auto" else orders
        self.levels = Levels(space)
        cells = torch.tensor(self.levels.at, dtype=torch.int64)
        numbers = torch.tensor([k for k in range(space.dim) if k not in set(self.levels.at)], dtype=torch.int64)
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("cells", cells, persistent=False)
        self.mask_of = {k: k + 1 for k, gaps in enumerate(space.missing) if gaps}
        coded = cells.repeat_interleave(torch.tensor(self.levels.counts, dtype=torch.int64))
        # What enters: numbers, levels one-hot, and for each coordinate whether it is hidden.
        inputs = torch.cat([numbers, coded, torch.arange(space.dim)])
        self.mixtures = Mixtures(len(numbers), count, components, conditional == "mixtures")
        outputs = torch.cat([numbers.repeat(self.mixtures.outputs), coded])
        start = torch.cat([self.mixtures.start, torch.zeros(len(coded))])
        alone = set(range(space.dim)) - set(self.mask_of) - set(self.mask_of.values())
        drawn = draw_orders([*([mask, k] for k, mask in self.mask_of.items()), *([k] for k in sorted(alone))], count)
        self.network: OrderedMLP | OrderedAttention
        if backbone == "dense":
            self.network = OrderedMLP(drawn, inputs, outputs, hidden, start)
        else:
            self.network = OrderedAttention(drawn, inputs, outputs, width, blocks, heads, start)
            self.passes = count * space.dim
        self.count, self.coded = count, set(self.levels.at)
        self.rows_in = [(inputs == k).nonzero()[:, 0] for k in range(space.dim)]
        self.rows_out = [(outputs == k).nonzero()[:, 0] for k in range(space.dim)]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of what is observed in every row, in nats, shape ``(n,)``."""
        return self._by_order(z).sum(1).logsumexp(0) - math.log(self.count)

    def log_prob_terms(self, z: Tensor) -> Tensor:
        r"""Surprise of every coordinate, shape ``(n, d)``: conditional log-densities that sum to :meth:`log_prob`.

        With :math:`r_k` the posterior of order `k` given the row, a coordinate's term is the mean of
        :math:`\log p_k(z_j \mid \text{before})` under `r`. What is left, :math:`\sum_k r_k \log(1 / (K r_k))`, which
        lies between :math:`-\log K` and 0, is spread evenly over the coordinates observed. A missing one has none.
        """
        terms = self._by_order(z)
        log_r = terms.sum(1).log_softmax(0)
        r = log_r.exp()
        left = -(r * log_r).sum(0) - math.log(self.count)
        observed = (~z.isnan()).t()
        spread = torch.where(observed, left / observed.sum(0).clamp(min=1), 0.0)
        return ((terms * r[:, None]).sum(0) + spread).t()

    def loss(self, z: Tensor) -> Tensor:
        """Negative log-likelihood of every row in one of the orders, in training with some of its inputs hidden."""
        # Rows take turns with the orders, so that all of them together cost no more than one.
        slots = -(-len(z) // self.count)
        x = z[torch.arange(slots * self.count, device=z.device) % len(z)].t()
        hidden = x.isnan()
        if self.training and self.dropout:
            share = 2 * self.dropout * torch.rand_like(x[:1])
            hidden = hidden | (torch.rand_like(x) < share)
        features, x = (
            part.reshape(len(part), slots, self.count).permute(2, 0, 1) for part in (self._features(x, hidden), x)
        )
        return -self._terms(self.network(features), x).sum(1).t().reshape(-1)[: len(z)]

    def monitor(self, z: Tensor) -> Tensor:
        """Negative log-likelihood of every row."""
        return -self.log_prob(z)

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, NaN where their mask says "missing".

        Every order gives equally many, which are then shuffled.
        """
        slots = -(-n // self.count)
        blank = self.network.orders.new_full((len(self.rows_in), slots), math.nan, dtype=torch.float32)
        drawn = [self._draw(k, blank, ~blank.isnan())[0] for k in range(self.count)]
        order = torch.randperm(slots * self.count, device=blank.device)[:n]
        return torch.cat(drawn, 1).t()[order].contiguous()

    def sample_given(self, z: Tensor, observed: Tensor, particles: int = 64) -> Tensor:
        """Draw what is not observed of rows `z`, shape ``(n, d)``, given what is, with torch's current generator.

        Candidates are drawn coordinate by coordinate in every order, those observed staying as they are. One of them
        is chosen with the probability of what is observed after what was drawn (importance resampling), which brings in
        what the coordinates that come later in an order have to say. Exact as the number of candidates grows.

        Parameters
        ----------
        z : Tensor of shape (n, d)
            Values where observed; anything, such as NaN, elsewhere. An observed NaN stays missing.
        observed : Tensor of shape (n, d), bool
        particles : int
            Candidates for each row.
        """
        return self.draw_given(z, observed, particles)[0]

    def draw_given(self, z: Tensor, observed: Tensor, particles: int = 64) -> tuple[Tensor, Tensor]:
        """As :meth:`sample_given`; also how many candidates share the weight of each row, shape ``(n,)``."""
        each = -(-particles // self.count)
        done, effective = [], []
        height = max(1, DRAWN // (each * self.count * z.shape[1]))
        for given, kept in zip(z.split(height), observed.split(height), strict=True):
            x, known = (part.repeat(each, 1).t() for part in (given, kept))
            drawn, weight = zip(*(self._draw(k, x, known) for k in range(self.count)), strict=True)
            candidates = torch.cat([rows.t().reshape(each, *given.shape) for rows in drawn])
            log_weight = torch.cat([w.view(each, -1) for w in weight])
            chosen = choose(log_weight)
            done.append(candidates[chosen, torch.arange(len(given), device=z.device)])
            effective.append(1.0 / log_weight.softmax(0).square().sum(0))
        return torch.cat(done), torch.cat(effective)

    def _by_order(self, z: Tensor) -> Tensor:
        """Terms of all coordinates in all orders, shape ``(K, d, n)``."""
        x = z.t()
        y = self.network(self._features(x, x.isnan()).expand(self.count, -1, -1))
        # Order by order, which keeps the temporaries of wide tables small.
        return torch.cat([self._terms(y[k : k + 1], x[None], k) for k in range(self.count)])

    def _features(self, x: Tensor, hidden: Tensor) -> Tensor:
        """What enters the networks, from columns ``(d, n)`` and which of their elements are hidden."""
        shown = x.masked_fill(hidden, math.nan)
        numbers = shown[self.numbers].clamp(-REACH, REACH).nan_to_num(0.0)
        return torch.cat([numbers, self.levels.one_hot(shown[self.cells]), hidden.to(x.dtype)])

    def _terms(self, y: Tensor, x: Tensor, order: int | None = None) -> Tensor:
        """Conditional log-probabilities ``(K, d, n)`` of columns `x` from the outputs `y` of one network or of all."""
        count, rows, n = y.shape
        size = rows - self.levels.width
        numbers = x[:, self.numbers]
        mixtures = self.mixtures(y[:, :size], order)
        terms = mixture_log_prob(numbers.nan_to_num(0.0), *mixtures).masked_fill(numbers.isnan(), 0.0)
        if not len(self.cells):
            return terms
        logits, codes = (part.to(x.dtype).transpose(0, 1).flatten(1) for part in (y[:, size:], x[:, self.cells]))
        masses = self.levels.log_prob(logits, codes).view(-1, count, n).transpose(0, 1)
        return torch.cat([terms, masses], 1)[:, torch.cat([self.numbers, self.cells]).argsort()]

    def _draw(self, k: int, given: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Columns ``(d, n)`` drawn in order `k` around those observed, and the log-probability ``(n,)`` of these."""
        x, weight = torch.full_like(given, math.nan), given.new_zeros(given.shape[1])
        walk = self.network.walk(k, given.shape[1])
        position = {c: i for i, c in enumerate(self.numbers.tolist())}
        for place, c in enumerate(self.network.orders[k].tolist()):
            y = walk.predict(place, self.rows_out[c])
            kept = observed[c]
            if c in self.coded:
                drawn = choose(y).to(given.dtype)
                code = given[c].nan_to_num(0.0).long().clamp(max=len(y) - 1)
                term = y.log_softmax(0).gather(0, code[None])[0]
            else:
                mixture = [part[:, 0, 0] for part in self.mixtures(y[None], k, position[c])]
                drawn = mixture_sample(*mixture)
                term = mixture_log_prob(given[c].nan_to_num(0.0), *mixture)
            if c in self.mask_of:
                drawn = drawn.masked_fill(x[self.mask_of[c]] == 1.0, math.nan)
            x[c] = torch.where(kept, given[c], drawn)
            weight = weight + torch.where(kept & ~given[c].isnan(), term, 0.0)
            walk.feed(place, self.rows_in[c], self._features_of(c, x[c]))
        return x, weight

    def _features_of(self, c: int, values: Tensor) -> Tensor:
        """Rows that :meth:`_features` has for one coordinate."""
        if c in self.coded:
            each = torch.arange(len(self.rows_in[c]) - 1, device=values.device)
            shown = (values == each[:, None]).to(values.dtype)
        else:
            shown = values.clamp(-REACH, REACH).nan_to_num(0.0)[None]
        return torch.cat([shown, values.isnan().to(values.dtype)[None]])
