"""Codes of rows: priors, posteriors that an encoder sets, and what coding costs; all on columns ``(features, n)``."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anomgen.nn.affine import LOG_RANGE, softclip
from anomgen.nn.arguments import check_choice, check_counts

LOG_2PI = math.log(2 * math.pi)
NODES = 12
"""Points of the Gauss-Hermite rule for the one divergence that has no closed form."""
COLDEST = 0.3
"""Temperature at which the relaxation of categorical codes ends."""
LATENTS = ("normal", "horseshoe", "rectified", "piecewise", "discrete")
USUAL = 16
"""Units at most, where their number is derived from that of the coordinates."""
USUAL_CODES = 256
MOST_CODES = 4096
"""Codes of categories that a likelihood is summed over at most."""


class Latent(nn.Module):
    r"""Standard normal codes, :math:`p(u) = N(0, I)`, with a normal posterior; the base of all other kinds.

    .. math:: q(u_j \mid x) = N(\mu_j, \sigma_j^2), \qquad
       KL_j = \tfrac12 (\mu_j^2 + \sigma_j^2 - 1) - \log \sigma_j

    Parameters
    ----------
    units : int
        Codes, each with a prior and a posterior of its own.

    Attributes
    ----------
    inputs : int
        Rows that describe a posterior; zeros describe the prior, or what comes closest to it.
    noises : int
        Rows of noise that one draw uses up.
    width : int
        Rows of a code.

    References
    ----------
    Kingma, Welling (2013), *Auto-Encoding Variational Bayes*, arXiv:1312.6114.
    """

    exact: ClassVar[bool] = False
    """Whether the codes can be listed, so that a sum over them replaces draws."""
    parts: ClassVar[int] = 2

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = self.width = self.noises = units
        self.inputs = self.parts * units

    def noise(self, n: int, like: Tensor) -> Tensor:
        """Fresh noise of shape ``(noises, n)`` for `n` draws."""
        return torch.randn(self.noises, n, dtype=like.dtype, device=like.device)

    def draw(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Codes ``(width, n)`` from posteriors ``(inputs, n)`` and noise ``(noises, n)``, differentiable."""
        mean, log_scale = self.normal(posterior)
        return torch.addcmul(mean, log_scale.exp(), noise)

    def log_weight(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Log-ratio of prior and posterior at what was drawn, shape ``(units, n)``."""
        _, log_scale = self.normal(posterior)
        return log_scale + 0.5 * (noise.square() - Latent.draw(self, posterior, noise).square())

    def divergence(self, posterior: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the prior of every unit's posterior, nats, shape ``(units, n)``."""
        mean, log_scale = self.normal(posterior)
        return 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale

    def mean(self, posterior: Tensor) -> Tensor:
        """Posterior mean of the codes, shape ``(width, n)``."""
        return self.normal(posterior)[0]

    def sample(self, n: int, like: Tensor) -> Tensor:
        """Codes of `n` rows drawn from the prior, shape ``(width, n)``, with torch's current generator."""
        return self.noise(n, like)

    def anneal(self, progress: float) -> None:
        """Called before every epoch with the share of the schedule done."""

    def normal(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of the normal distributions a posterior is made of."""
        mean, raw = posterior[: 2 * self.units].chunk(2)
        return mean, softclip(raw, LOG_RANGE)


class Horseshoe(Latent):
    r"""Sparse codes with heavy tails: most near zero, a few far out.

    .. math:: u_j = \tau \lambda_j \epsilon_j, \qquad \lambda_j \sim C^+(0, 1), \quad \epsilon_j \sim N(0, 1)

    The posterior is normal for :math:`u_j` and log-normal for :math:`\lambda_j`, and both pay. With
    :math:`v = \log \lambda`, whose prior density is :math:`1 / (\pi \cosh v)` and whose posterior is
    :math:`N(m, s^2)`,

    .. math:: KL = \log \frac{\tau}{\sigma} + m + \frac{\mu^2 + \sigma^2}{2 \tau^2} e^{2 s^2 - 2 m} - \tfrac12
       + \log \pi + E \log \cosh v - \tfrac12 \log(2 \pi e s^2) .

    The expectation is a Gauss-Hermite sum; :math:`\tau` is learned, one for all.

    References
    ----------
    Carvalho, Polson, Scott (2009), *Handling Sparsity via the Horseshoe*, AISTATS.

    Ghosh, Yao, Doshi-Velez (2018), *Structured Variational Learning of Bayesian Neural Networks with Horseshoe
    Priors*, arXiv:1806.05975 (the log-normal posterior).
    """

    parts = 4
    nodes: Tensor
    shares: Tensor

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self.noises = 2 * units
        self.log_tau = nn.Parameter(torch.zeros(1))
        nodes, shares = np.polynomial.hermite_e.hermegauss(NODES)
        self.register_buffer("nodes", torch.tensor(nodes).float(), persistent=False)
        self.register_buffer("shares", torch.tensor(shares / shares.sum()).float(), persistent=False)

    def draw(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Codes from the first half of the noise; the sizes are drawn for weights only."""
        return super().draw(posterior, noise[: self.units])

    def log_weight(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Log-ratio of the joint densities of codes and sizes."""
        scattered, sized = noise.chunk(2)
        (_, log_scale), (center, spread) = self.normal(posterior), self.log_normal(posterior)
        size = center + spread * sized
        standard = Latent.draw(self, posterior, scattered) * (-size - self.log_tau).exp()
        prior = -0.5 * standard.square() - size - self.log_tau - _log_cosh(size) - math.log(math.pi)
        own = -0.5 * (scattered.square() + sized.square() + LOG_2PI) - log_scale - spread.log()
        return prior - own

    def divergence(self, posterior: Tensor) -> Tensor:
        """Divergence of the joint densities of codes and sizes."""
        (mean, log_scale), (center, spread) = self.normal(posterior), self.log_normal(posterior)
        power = (mean.square() + (2 * log_scale).exp()) * (2 * (spread.square() - center - self.log_tau)).exp()
        codes = 0.5 * (power - 1) + self.log_tau + center - log_scale
        points = center + spread * self.nodes[:, None, None]
        expected = (self.shares[:, None, None] * _log_cosh(points)).sum(0)
        return codes + expected + math.log(math.pi) - spread.log() - 0.5 * (LOG_2PI + 1)

    def sample(self, n: int, like: Tensor) -> Tensor:
        """Codes from half-Cauchy sizes, by their quantile function, and normal factors."""
        factor, other = self.noise(n, like).chunk(2)
        uniform = _below(other).clamp(1e-6, 1 - 1e-6)
        return torch.mul(factor * (0.5 * math.pi * uniform).tan(), self.log_tau.exp())

    def log_normal(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of the logarithm of the sizes; the scale lies between a thousandth and 2."""
        center, raw = posterior[2 * self.units :].chunk(2)
        return softclip(center, LOG_RANGE), 2 * torch.sigmoid(raw).clamp_min(1e-3)


class Rectified(Latent):
    r"""Codes that are exactly zero half of the time: :math:`u_j = \max(0, a_j)` with normal :math:`a_j`.

    Prior and posterior have an atom at zero and a density above. With :math:`\alpha = -\mu / \sigma`,

    .. math:: KL = \Phi(\alpha) \log \frac{\Phi(\alpha)}{1/2}
       + \int_0^\infty N(a; \mu, \sigma^2) \log \frac{N(a; \mu, \sigma^2)}{N(a; 0, 1)} da ,

    and the importance weight of an atom is the ratio of the two masses.

    References
    ----------
    Salimans (2016), *A Structured Variational Auto-encoder for Learning Deep Hierarchies of Sparse Features*,
    arXiv:1602.08734.
    """

    def draw(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Codes, rectified."""
        return super().draw(posterior, noise).relu()

    def log_weight(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Log-ratio of the densities above zero, of the masses at zero."""
        mean, log_scale = self.normal(posterior)
        atom = -math.log(2.0) - torch.special.log_ndtr(-mean * log_scale.neg().exp())
        return torch.where(Latent.draw(self, posterior, noise) > 0, super().log_weight(posterior, noise), atom)

    def divergence(self, posterior: Tensor) -> Tensor:
        """Divergence of the mixed measures."""
        mean, log_scale = self.normal(posterior)
        scale, alpha = log_scale.exp(), -mean * log_scale.neg().exp()
        zeroth, first = _below(-alpha), _bell(alpha)
        second = zeroth + alpha * first
        above = 0.5 * (mean.square() * zeroth + 2 * mean * scale * first + (scale.square() - 1) * second)
        atom: Tensor = _below(alpha) * (torch.special.log_ndtr(alpha) + math.log(2.0))
        return atom + above - log_scale * zeroth

    def mean(self, posterior: Tensor) -> Tensor:
        """Mean of a rectified normal distribution."""
        mean, log_scale = self.normal(posterior)
        alpha = -mean * log_scale.neg().exp()
        return torch.addcmul(log_scale.exp() * _bell(alpha), mean, _below(-alpha))

    def sample(self, n: int, like: Tensor) -> Tensor:
        """Codes from the prior, rectified."""
        return self.noise(n, like).relu()


class Piecewise(Latent):
    r"""Codes whose prior is normal on each of `K` pieces, each piece with a mass of its own: clusters, gaps and steps.

    With pieces :math:`(b_{k-1}, b_k]` of equal normal mass, :math:`b_k = \Phi^{-1}(k / K)`, and learned shares
    :math:`w_k`,

    .. math:: p(u) = K w_k\, N(u; 0, 1) \quad \text{for } u \in (b_{k-1}, b_k] ,

    that is, :math:`\Phi(u)` has a piecewise constant density. The posterior is normal, and

    .. math:: KL = KL(q \,\|\, N(0, 1)) - \sum_k q(b_{k-1} < u \le b_k) \log(K w_k) .

    Parameters
    ----------
    units : int
    pieces : int

    References
    ----------
    Serban, Ororbia, Pineau, Courville (2017), *Piecewise Latent Variables for Neural Variational Text Processing*,
    arXiv:1612.00377 (piecewise constant on an interval).
    """

    edges: Tensor

    def __init__(self, units: int, pieces: int) -> None:
        super().__init__(units)
        self.logits = nn.Parameter(torch.zeros(units, pieces))
        self.register_buffer("edges", _at(torch.arange(1, pieces) / pieces), persistent=False)

    def log_weight(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """Log-ratio for the normal prior, and how much the piece outweighs its normal mass."""
        piece = torch.bucketize(super().draw(posterior, noise), self.edges)
        return torch.add(super().log_weight(posterior, noise), self.log_ratios().gather(1, piece))

    def divergence(self, posterior: Tensor) -> Tensor:
        """Divergence from the normal prior, less what the pieces outweigh their normal masses."""
        mean, log_scale = self.normal(posterior)
        below = _below((self.edges[:, None, None] - mean) * log_scale.neg().exp())
        ratios = self.log_ratios().t()[..., None]
        # Summed by parts: what the ratio changes by at each edge counts with the mass below it.
        return super().divergence(posterior) - ratios[-1] + (below * ratios.diff(dim=0)).sum(0)

    def sample(self, n: int, like: Tensor) -> Tensor:
        """Codes from pieces drawn by their shares, and normal within a piece."""
        pieces = self.logits.shape[1]
        chosen = torch.multinomial(self.logits.softmax(1), n, replacement=True)
        position = (chosen + _below(self.noise(n, like))) / pieces
        return _at(position)

    def log_ratios(self) -> Tensor:
        """Log of every piece's share over its normal mass, shape ``(units, pieces)``."""
        return self.logits.log_softmax(1) + math.log(self.logits.shape[1])


class Discrete(Latent):
    r"""Codes of categories: one category for each unit, as one-hot rows, with learned prior shares.

    .. math:: p(c) = \prod_j \pi_{j c_j}, \qquad q(c \mid x) = \prod_j q_{j c_j}(x)

    Training draws by the straight-through Gumbel-softmax: one-hot codes forward, the gradient of
    :math:`\mathrm{softmax}((\log q + g) / T)` back, with a temperature that falls from 1 to 0.3. Scoring needs no
    draws: :math:`\log p(x) = \log \sum_c p(c)\, p(x \mid c)` is summed over all codes.

    Parameters
    ----------
    units : int
    categories : int

    References
    ----------
    Jang, Gu, Poole (2016), *Categorical Reparameterization with Gumbel-Softmax*, arXiv:1611.01144.

    Maddison, Mnih, Teh (2016), *The Concrete Distribution*, arXiv:1611.00712.
    """

    exact = True

    def __init__(self, units: int, categories: int) -> None:
        super().__init__(units)
        self.categories = categories
        self.inputs = self.width = self.noises = units * categories
        self.logits = nn.Parameter(torch.zeros(units, categories))
        self.temperature = 1.0

    def noise(self, n: int, like: Tensor) -> Tensor:
        """Gumbel noise."""
        return -torch.empty(self.noises, n, dtype=like.dtype, device=like.device).exponential_().log()

    def draw(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """One-hot codes, with the gradient of their relaxation."""
        soft = self._units((posterior + noise) / self.temperature).softmax(1)
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
        return (hard - soft.detach() + soft).flatten(0, 1)

    def divergence(self, posterior: Tensor) -> Tensor:
        """Divergence of the categorical distributions."""
        log_share = self._units(posterior).log_softmax(1)
        return (log_share.exp() * (log_share - self.logits.log_softmax(1)[..., None])).sum(1)

    def mean(self, posterior: Tensor) -> Tensor:
        """Posterior probability of every category."""
        return self._units(posterior).softmax(1).flatten(0, 1)

    def sample(self, n: int, like: Tensor) -> Tensor:
        """One-hot codes by their prior shares."""
        chosen = torch.multinomial(self.logits.softmax(1), n, replacement=True)
        return self._one_hot(chosen)

    def anneal(self, progress: float) -> None:
        """Lower the temperature of the relaxation."""
        self.temperature = COLDEST**progress

    def enumerate(self) -> tuple[Tensor, Tensor]:
        """All codes, shape ``(width, categories ** units)``, and their log-probabilities."""
        each = torch.arange(self.categories, device=self.logits.device)
        chosen = torch.cartesian_prod(*[each] * self.units).reshape(-1, self.units).t()
        return self._one_hot(chosen), self.logits.log_softmax(1).gather(1, chosen).sum(0)

    def _one_hot(self, chosen: Tensor) -> Tensor:
        hard = self.logits.new_zeros(self.units, self.categories, chosen.shape[1])
        return hard.scatter_(1, chosen[:, None], 1.0).flatten(0, 1)

    def _units(self, x: Tensor) -> Tensor:
        return x.view(self.units, self.categories, -1)


def make_latent(kind: str, units: int | str, dim: int, categories: int = 8, pieces: int = 8) -> Latent:
    """The codes of a kind: `units` of them, or as many as suit rows of `dim` coordinates where that is ``"auto"``.

    Raises
    ------
    ValueError
        For an unknown kind, a number that makes no sense, or more categorical codes than can be listed.
    """
    check_choice("latent", kind, LATENTS)
    check_counts(least=2, categories=categories, pieces=pieces)
    if units == "auto":
        units = min(dim, USUAL) if kind != "discrete" else max(1, int(math.log(USUAL_CODES + 0.5, categories)))
    check_counts(latent_dim=units)
    count = int(units)
    if kind == "discrete":
        if categories**count > MOST_CODES:
            raise ValueError(
                f"latent_dim={count} is not valid with categories={categories}: a likelihood is summed over all codes, "
                f"at most {MOST_CODES:,} of them"
            )
        return Discrete(count, categories)
    if kind == "piecewise":
        return Piecewise(count, pieces)
    return {"normal": Latent, "horseshoe": Horseshoe, "rectified": Rectified}[kind](count)


def _log_cosh(x: Tensor) -> Tensor:
    size = x.abs()
    return size + torch.log1p((-2 * size).exp()) - math.log(2.0)


def _below(x: Tensor) -> Tensor:
    """Standard normal distribution function."""
    share: Tensor = torch.special.ndtr(x)
    return share


def _at(share: Tensor) -> Tensor:
    """Standard normal quantiles, inside five standard deviations."""
    quantile: Tensor = torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6))
    return quantile


def _bell(x: Tensor) -> Tensor:
    """Standard normal density."""
    return (-0.5 * (x.square() + LOG_2PI)).exp()
