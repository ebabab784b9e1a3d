"""Flows on tables: halves that move in turn, or every coordinate given those before it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anomgen.generative import GenerativeModel, Space
from anomgen.nn import (
    LOG_RANGE,
    MLP,
    Condition,
    MaskedMLP,
    affine,
    check_choice,
    check_counts,
    check_widths,
    inverse_affine,
    inverse_spline,
    softclip,
    spline,
)

COUPLINGS = ("additive", "affine", "spline", "autoregressive")
UNIVARIATES = ("affine", "spline")
BASES = ("normal", "mixture")


class Flow(GenerativeModel):
    r"""Normalizing flow on rows ``z`` of shape ``(n, d)``.

    .. math:: \log p(z) = \log p_0(f(z)) + \log |\det \partial f / \partial z|

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these.
    coupling, univariate, transforms, hidden, base, components, bins
        As in :class:`FlowDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Notes
    -----
    Permutations and weights are drawn from torch's current generator. The flow starts as the identity, so that
    ``log_prob`` starts as the log-density of the base.

    Examples
    --------
    >>> flow = Flow(2)
    >>> flow.log_prob(torch.zeros(3, 2))
    tensor([-1.8379, -1.8379, -1.8379], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        space: int | Space,
        *,
        coupling: str = "additive",
        univariate: str = "affine",
        transforms: int = 6,
        hidden: Sequence[int] = (128, 128),
        base: str = "normal",
        components: int = 8,
        bins: int = 8,
    ) -> None:
        super().__init__()
        check_choice("coupling", coupling, COUPLINGS)
        check_choice("univariate", univariate, UNIVARIATES)
        check_choice("base", base, BASES)
        self.condition = Condition(Space.real(space) if isinstance(space, int) else space)
        dim, given = self.condition.dim, self.condition.width
        check_counts(dim=dim, transforms=transforms, components=components)
        check_counts(least=2, bins=bins)
        check_widths(hidden)
        kind = univariate if coupling == "autoregressive" else coupling
        bijection = {
            "additive": _Bijection(1, _shift, _shift_back),
            "affine": _Bijection(2, affine, inverse_affine),
            "spline": _Bijection(3 * bins - 1, spline, inverse_spline),
        }[kind]
        maps: list[_Map]
        if coupling == "autoregressive":
            maps = [_Autoregressive(dim, hidden, bijection, given) for _ in range(transforms)]
        else:
            # One coordinate has no other half to wait for: every step moves it.
            steps = [1] * transforms if dim == 1 else [2] * (transforms // 2) + [1] * (transforms % 2)
            maps = [_Coupling(dim, hidden, bijection, given, count) for count in steps]
        if coupling == "additive":
            maps.append(_Scale(dim))
        self.maps: Sequence[_Map] = nn.ModuleList(maps)  # type: ignore[assignment]
        self.base = _Mixture(dim, components) if base == "mixture" else _Normal(dim)
        self.universal = coupling != "additive" or base == "mixture"

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent of every row, shape ``(n, d)``, and the log-determinant of the map, shape ``(n,)``."""
        latent, log_det = self._to_latent(z)
        return latent.t(), log_det

    def inverse(self, latent: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Row of every latent, shape ``(n, d)``, and the log-determinant of the inverse map, shape ``(n,)``."""
        x, log_det = latent.t(), latent.new_zeros(len(latent))
        context = self.condition.context_for(len(latent), condition, latent)
        for step in reversed(self.maps):
            x, log_det = step.inverse(x, log_det, context)
        return self.condition.join(x.t(), condition), log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of every row in nats, shape ``(n,)``."""
        latent, log_det = self._to_latent(z)
        return self.base.log_prob(latent) + log_det

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        return self.inverse(self.base.sample(n).t(), condition)[0].contiguous()

    def perturb(self, z: Tensor, strength: float) -> Tensor:
        """Draw rows near rows `z`: their latents a part of the way to fresh ones, none of it at 0 and all at 1."""
        latent, condition = self._to_latent(z)[0], z[:, self.condition.dim :]
        moved = math.sqrt(1 - strength**2) * latent + strength * self.base.sample(len(z))
        return self.inverse(moved.t(), condition if condition.shape[1] else None)[0].contiguous()

    def _to_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, context = self.condition.split(z)
        log_det = z.new_zeros(len(z))
        for step in self.maps:
            x, log_det = step(x, log_det, context)
        return x, log_det


class _Map(nn.Module):
    """An invertible map of columns ``(d, n)`` given context, that adds to their log-determinants ``(n,)`` so far."""

    @abstractmethod
    def forward(self, x: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, y: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]: ...


class _Permuted(_Map):
    """A map that first puts the coordinates in a random order, saved with the weights."""

    order: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(dim))

    def permute(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.order)

    def restore(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.order.argsort())


class _Coupling(_Permuted):
    """One or two coupling steps: a half of the coordinates moves given the other, then the other given the first."""

    def __init__(self, dim: int, hidden: Sequence[int], bijection: _Bijection, given: int, steps: int) -> None:
        super().__init__(dim)
        self.bijection = bijection
        self.sizes = (dim - dim // 2, dim // 2)
        self.networks = nn.ModuleList(
            MLP(self.sizes[1 - side] + given, bijection.multiplier * self.sizes[side], hidden) for side in range(steps)
        )

    def forward(self, x: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        halves = list(self.permute(x).split(self.sizes))
        for side in range(len(self.networks)):
            halves[side], terms = self.bijection.forward(halves[side], self.parameters_of(side, halves, context))
            log_det = _add(log_det, terms)
        return torch.cat(halves), log_det

    def inverse(self, y: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        halves = list(y.split(self.sizes))
        for side in reversed(range(len(self.networks))):
            halves[side], terms = self.bijection.inverse(halves[side], self.parameters_of(side, halves, context))
            log_det = _add(log_det, terms)
        return self.restore(torch.cat(halves)), log_det

    def parameters_of(self, side: int, halves: list[Tensor], context: Tensor) -> Tensor:
        other = halves[1 - side]
        y: Tensor = self.networks[side](torch.cat([other, context]) if len(context) else other)
        return y.view(self.bijection.multiplier, *halves[side].shape)


class _Autoregressive(_Permuted):
    """Every coordinate moves given those before it: one pass of a masked network forward, `d` passes back."""

    def __init__(self, dim: int, hidden: Sequence[int], bijection: _Bijection, given: int) -> None:
        super().__init__(dim)
        self.bijection = bijection
        self.network = MaskedMLP(dim, bijection.multiplier, hidden, given)

    def forward(self, x: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        x = self.permute(x)
        y, terms = self.bijection.forward(x, self.parameters_at(x, context))
        return y, _add(log_det, terms)

    def inverse(self, y: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.zeros_like(y)
        for i in range(len(y)):
            row, terms = self.bijection.inverse(y[i : i + 1], self.parameters_at(x, context)[:, i : i + 1])
            log_det = _add(log_det, terms)
            x = torch.cat([x[:i], row, x[i + 1 :]])
        return self.restore(x), log_det

    def parameters_at(self, x: Tensor, context: Tensor) -> Tensor:
        y: Tensor = self.network(torch.cat([x, context]) if len(context) else x)
        return y.view(self.bijection.multiplier, *x.shape)


class _Scale(_Map):
    """One learned factor for each coordinate."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim, 1))

    def forward(self, x: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), log_det + self.log_scale.sum()

    def inverse(self, y: Tensor, log_det: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return y * self.log_scale.neg().exp(), log_det - self.log_scale.sum()


Elementwise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class _Bijection:
    """An elementwise map given parameters of shape ``(multiplier, d, n)``: values, and log-derivatives unless zero."""

    multiplier: int
    forward: Elementwise
    inverse: Elementwise


def _shift(x: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
    return x + parameters[0], None


def _shift_back(y: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
    return y - parameters[0], None


def _add(log_det: Tensor, terms: Tensor | None) -> Tensor:
    return log_det if terms is None else log_det + terms.sum(0)


class _Normal(nn.Module):
    """Standard normal distribution of columns."""

    origin: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(dim, 1), persistent=False)

    def log_prob(self, x: Tensor) -> Tensor:
        return x.square().sum(0) * -0.5 - 0.5 * math.log(2 * math.pi) * len(x)

    def sample(self, n: int) -> Tensor:
        return torch.randn_like(self.origin.expand(-1, n))


class _Mixture(nn.Module):
    """Learned mixture of Gaussians with diagonal covariances, on columns."""

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(0.3 * torch.randn(components, dim))
        self.log_scales = nn.Parameter(torch.zeros(components, dim))

    def log_prob(self, x: Tensor) -> Tensor:
        log_scales = softclip(self.log_scales, LOG_RANGE)
        standard = (x - self.means[..., None]) * log_scales.neg().exp()[..., None]
        constant = self.logits.log_softmax(0) - log_scales.sum(1) - 0.5 * math.log(2 * math.pi) * len(x)
        return torch.logsumexp(standard.square().sum(1) * -0.5 + constant[:, None], 0)

    def sample(self, n: int) -> Tensor:
        chosen = torch.multinomial(self.logits.softmax(0), n, replacement=True)
        scales = softclip(self.log_scales, LOG_RANGE).exp()[chosen]
        return (self.means[chosen] + scales * torch.randn_like(scales)).t()
