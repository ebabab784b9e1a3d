"""Likelihood of rows given what a decoder says of them, on columns: numbers, levels, and gaps left out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anomgen.generative import Space
from anomgen.nn.affine import LOG_RANGE, softclip
from anomgen.nn.arguments import check_choice
from anomgen.nn.levels import Levels
from anomgen.nn.pixels import Pixels

NOISES = ("gaussian", "student")
NARROW = -0.5
"""Log-scale of numbers at the start: where they scatter widely from the first, codes have nothing to explain."""


class Observation(nn.Module):
    r"""Independent coordinates given a decoder's outputs: locations of numbers and logits of levels.

    A number has a learned scale of its own, and with ``"student"`` learned degrees of freedom above 2; a level has its
    probability mass; a missing value (NaN) has no term, which is exact as coordinates are independent given the code:

    .. math:: \log p(x \mid u) = \sum_{j \text{ real}} \log N(x_j; m_j(u), s_j^2) + \sum_{j \text{ cell}}
       \log p_{j x_j}(u)

    Parameters
    ----------
    space : Space
    noise : {"gaussian", "student"}

    Attributes
    ----------
    width : int
        Rows of a decoder's output: locations, then logits.
    inputs : int
        Rows that describe columns to a network: numbers, whether those that may be missing are there, and one row a
        level.
    """

    real: Tensor
    cells: Tensor
    gaps: Tensor

    def __init__(self, space: Space, noise: str = "gaussian") -> None:
        super().__init__()
        check_choice("decoder", noise, NOISES)
        self.dim, self.noise = space.modelled, noise
        self.levels = Levels(space)
        real = [k for k in range(space.modelled) if k not in self.levels.at]
        gaps = [i for i, k in enumerate(real) if space.missing[k]]
        for name, value in (("real", real), ("cells", self.levels.at), ("gaps", gaps)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64), persistent=False)
        self.log_scale = nn.Parameter(torch.full((len(real), 1), NARROW))
        if noise == "student":
            self.log_freedom = nn.Parameter(torch.full((len(real), 1), math.log(8.0)))
        self.numbers = len(real)
        self.width = self.numbers + self.levels.width
        self.inputs = self.width + len(gaps)

    def describe(self, x: Tensor) -> Tensor:
        """Network inputs ``(inputs, n)`` from columns ``(dim, n)``; 0 for a missing number."""
        if not self.levels.at and not len(self.gaps):
            return x.nan_to_num(0.0)
        real, codes = self._parts(x)
        there = (~real.index_select(0, self.gaps).isnan()).to(x.dtype)
        return torch.cat([real.nan_to_num(0.0), there, self.levels.one_hot(codes)])

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Log-likelihood ``(n,)`` of columns ``(dim, n)`` given a decoder's outputs ``(width, n)``."""
        real, codes = self._parts(x)
        location = outputs[: self.numbers] if self.levels.at else outputs
        log_scale = self.log_scale_of()
        standard = (real.nan_to_num(0.0) - location) * log_scale.neg().exp()
        if self.noise == "student":
            freedom = self.freedom()
            constant = (0.5 * freedom + 0.5).lgamma() - (0.5 * freedom).lgamma() - 0.5 * (math.pi * freedom).log()
            terms = -(0.5 * freedom + 0.5) * (standard.square() / freedom).log1p()
        else:
            constant = torch.full_like(self.log_scale, -0.5 * math.log(2 * math.pi))
            terms = -0.5 * standard.square()
        total = ((terms + (constant - log_scale)) * (real == real)).sum(0)
        return total + self.levels.log_prob(outputs[self.numbers :], codes).sum(0) if self.levels.at else total

    def sample(self, outputs: Tensor) -> Tensor:
        """Columns ``(dim, n)`` drawn given a decoder's outputs, with torch's current generator."""
        location, logits = outputs[: self.numbers], outputs[self.numbers :]
        codes = self.levels.sample(logits) if self.levels.at else logits
        return self._join(location + self._draw(location), codes)

    def expected(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Locations, and the own level of `x` plus the probability of all others, as columns ``(dim, n)``."""
        codes = self._parts(x)[1]
        others = 1 - self.levels.log_prob(outputs[self.numbers :], codes).exp() if self.levels.at else codes
        return self._join(outputs[: self.numbers], codes + others)

    def imitate(self, outputs: Tensor) -> Tensor:
        """What :meth:`describe` would say of a drawn row without gaps, differentiable: levels as probabilities."""
        location = outputs[: self.numbers]
        there = location.new_ones(len(self.gaps), location.shape[1])
        shares = [part.softmax(0) for part in outputs[self.numbers :].split(self.levels.counts)]
        return torch.cat([location + self._draw(location), there, *shares])

    def _draw(self, location: Tensor) -> Tensor:
        scale = self.log_scale_of().exp()
        if self.noise == "gaussian":
            return torch.randn_like(location) * scale
        drawn: Tensor = torch.distributions.StudentT(self.freedom().expand_as(location)).rsample()
        return drawn * scale

    def log_scale_of(self) -> Tensor:
        """Log-scale of every number, bounded."""
        return softclip(self.log_scale, LOG_RANGE)

    def freedom(self) -> Tensor:
        """Degrees of freedom of every number, above 2, where variances are finite."""
        return 2 + softclip(self.log_freedom, LOG_RANGE).exp()

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.levels.at:
            return x, x[:0]
        return x.index_select(0, self.real), x.index_select(0, self.cells)

    def _join(self, numbers: Tensor, codes: Tensor) -> Tensor:
        if not self.levels.at:
            return numbers
        x = numbers.new_empty(self.dim, numbers.shape[1])
        return x.index_copy(0, self.real, numbers).index_copy(0, self.cells, codes.to(x.dtype))


def make_observation(space: Space, noise: str = "gaussian") -> Observation | Pixels:
    """The likelihood of rows: of images, :class:`Pixels`; of tables, an :class:`Observation` under a kind of noise.

    Raises
    ------
    ValueError
        For an unknown kind of noise.
    """
    check_choice("decoder", noise, NOISES)
    return Observation(space, noise) if space.image is None else Pixels(space)
