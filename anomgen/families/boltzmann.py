"""Boltzmann machines: energies trained against their own samples, alone or stacked into a deep belief network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgen.detector import TrainedDetector
from anomgen.generative import GenerativeModel, Space
from anomgen.nn import LOG_RANGE, check_counts, softclip

PARTICLES = 256
"""Chains that stand for a machine's own distribution."""
BURN_IN = 50
"""Gibbs steps between the chains and rows drawn from them."""
TEMPERATURES = 500
"""Steps of annealed importance sampling; fewer for wide rows, down to a fifth."""
MAX_WORK = 2e5
"""Temperatures times coordinates."""
LEAST_EFFECTIVE = 0.02
"""Share of the chains that has to carry the estimate of the normalizing constant."""


class _Machine(nn.Module):
    """A restricted Boltzmann machine on columns ``(dim, n)``, with binary hidden units and chains of its own."""

    particles: Tensor

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units, dim) * 0.1 / math.sqrt(dim))
        self.hidden_bias = nn.Parameter(torch.zeros(units, 1))
        self.visible_bias = nn.Parameter(torch.zeros(dim, 1))
        self.register_buffer("particles", torch.zeros(dim, PARTICLES))

    @abstractmethod
    def activation(self, x: Tensor) -> Tensor:
        """Log-odds of the hidden units, shape ``(units, n)``."""

    @abstractmethod
    def draw(self, hidden: Tensor) -> Tensor:
        """Draw visible units given hidden ones."""

    @abstractmethod
    def free_energy(self, x: Tensor) -> Tensor:
        """Minus the log-density up to a constant, nats, shape ``(n,)``."""

    @abstractmethod
    def surprise(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Mean of ``-log p(x | h)`` over independent hidden units of these probabilities, nats, shape ``(n,)``."""

    def up(self, x: Tensor) -> Tensor:
        """Probabilities of the hidden units."""
        return self.activation(x).sigmoid()

    def gibbs(self, x: Tensor, steps: int) -> Tensor:
        """Visible units some steps later in their chains."""
        for _ in range(steps):
            x = self.draw(toss(self.up(x)))
        return x

    def sample(self, n: int) -> Tensor:
        """Draw `n` columns from the chains."""
        chosen = torch.randint(PARTICLES, (n,), device=self.particles.device)
        return self.gibbs(self.particles[:, chosen], BURN_IN)

    def contrast(self, x: Tensor, steps: int) -> Tensor:
        """Free energy of every column above that of the chains, which move on in training."""
        if self.training:
            with torch.no_grad():
                self.particles.copy_(self.gibbs(self.particles, steps))
        energy = self.free_energy(torch.cat([x, self.particles], 1))
        return energy[: x.shape[1]] - energy[x.shape[1] :].mean()


class _Gaussian(_Machine):
    """Visible units are real, normal given the hidden ones, with a learned scale each."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__(dim, units)
        self.log_scale = nn.Parameter(torch.zeros(dim, 1))
        self.particles.normal_()

    @property
    def log_scales(self) -> Tensor:
        """Logarithm of the scale of every visible unit."""
        return softclip(self.log_scale, LOG_RANGE)

    @property
    def log_unit(self) -> Tensor:
        """Logarithm of the integral of ``exp(-|y|^2 / 2)`` over all rows, where `y` is standardized."""
        return self.log_scales.sum() + 0.5 * math.log(2 * math.pi) * len(self.log_scale)

    def standard(self, x: Tensor) -> Tensor:
        """Visible units without their bias and scale."""
        return (x - self.visible_bias) * self.log_scales.neg().exp()

    def activation(self, x: Tensor) -> Tensor:
        return torch.addmm(self.hidden_bias, self.weight, self.standard(x))

    def draw(self, hidden: Tensor) -> Tensor:
        mean = self.weight.t() @ hidden
        return self.visible_bias + self.log_scales.exp() * (mean + torch.randn_like(mean))

    def free_energy(self, x: Tensor) -> Tensor:
        y = self.standard(x)
        return 0.5 * y.square().sum(0) - softplus(torch.addmm(self.hidden_bias, self.weight, y)).sum(0)

    def surprise(self, x: Tensor, hidden: Tensor) -> Tensor:
        error = self.standard(x) - self.weight.t() @ hidden
        spread = (hidden * (1.0 - hidden) * self.weight.square().sum(1, keepdim=True)).sum(0)
        return 0.5 * (error.square().sum(0) + spread) + self.log_unit

    def anneal(self) -> tuple[Tensor, Tensor]:
        """Estimate the logarithm of the integral of ``exp(-free_energy)``; also the share of chains that carry it.

        Chains start at the machine without weights, whose integral is known, and go where weights count in full. They
        end as samples of the machine, and stay as its particles.
        """
        weight, bias = self.weight, self.hidden_bias
        y = torch.randn_like(self.particles)
        log_weight = torch.zeros(PARTICLES, dtype=torch.float64, device=y.device)
        steps = int(min(TEMPERATURES, max(TEMPERATURES / 5, MAX_WORK / len(y))))
        for low, high in pairwise(torch.linspace(0.0, 1.0, steps + 1).tolist()):
            activation = torch.addmm(bias, weight, y)
            log_weight += (softplus(high * activation) - softplus(low * activation)).sum(0).double()
            y = high * (weight.t() @ toss((high * activation).sigmoid())) + torch.randn_like(y)
        share = log_weight.softmax(0)
        kept = torch.multinomial(share, PARTICLES, replacement=True)
        self.particles.copy_(self.visible_bias + self.log_scales.exp() * y[:, kept])
        log_z = log_weight.logsumexp(0) - math.log(PARTICLES) + len(bias) * math.log(2.0) + self.log_unit.double()
        return log_z, 1.0 / share.square().sum() / PARTICLES


class _Bernoulli(_Machine):
    """Visible units are binary: the hidden ones of a machine below, or their probabilities."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__(dim, units)
        self.particles.bernoulli_()

    def activation(self, x: Tensor) -> Tensor:
        return torch.addmm(self.hidden_bias, self.weight, x)

    def draw(self, hidden: Tensor) -> Tensor:
        return toss(torch.addmm(self.visible_bias, self.weight.t(), hidden).sigmoid())

    def free_energy(self, x: Tensor) -> Tensor:
        return -(self.visible_bias * x).sum(0) - softplus(self.activation(x)).sum(0)

    def surprise(self, x: Tensor, hidden: Tensor) -> Tensor:
        activation = torch.addmm(self.visible_bias, self.weight.t(), hidden)
        return (softplus(activation) - x * activation).sum(0)


def toss(probability: Tensor) -> Tensor:
    """1 with the given probability, else 0."""
    return (torch.rand_like(probability) < probability).to(probability.dtype)


class Boltzmann(GenerativeModel):
    r"""Restricted Boltzmann machine with Gaussian visible units, on rows ``z`` of shape ``(n, d)``.

    .. math:: \log p(z) = -F(z) - \log Z, \qquad
       F(z) = \tfrac12 \|y\|^2 - \sum_k \log(1 + e^{w_k \cdot y + c_k}), \quad y = (z - b) / \sigma

    Parameters
    ----------
    space : int or Space
        Coordinates of a row.
    units, gibbs
        As in :class:`BoltzmannDetector`.

    Notes
    -----
    The constant `Z` is estimated after training by annealed importance sampling (Neal, 2001).

    Examples
    --------
    >>> Boltzmann(2, units=4).energy(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    likelihood = "estimate"
    nats = False
    judged = False

    log_z: Tensor

    def __init__(self, space: int | Space, *, units: int = 64, gibbs: int = 1) -> None:
        super().__init__()
        check_counts(units=units, gibbs=gibbs)
        self.machine = _Gaussian(space if isinstance(space, int) else space.dim, units)
        self.gibbs = gibbs
        # Exact as long as the weights are nil, as they nearly are at first.
        log_z = units * math.log(2.0) + self.machine.log_unit.detach()
        self.register_buffer("log_z", log_z.double())
        self.effective = 1.0

    def energy(self, z: Tensor) -> Tensor:
        """Free energy of every row in nats, shape ``(n,)``."""
        return self.machine.free_energy(z.t())

    def log_prob(self, z: Tensor) -> Tensor:
        """Estimated log-density of every row in nats, shape ``(n,)``."""
        return -self.energy(z) - self.log_z

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator."""
        return self.machine.sample(n).t().contiguous()

    def loss(self, z: Tensor) -> Tensor:
        """Free energy of every row above that of the persistent chains: its gradient is that of the likelihood."""
        return self.machine.contrast(z.t(), self.gibbs)

    def conclude(self) -> None:
        """Estimate the normalizing constant, and put the chains where the final weights want them."""
        log_z, effective = self.machine.anneal()
        self.log_z.copy_(log_z)
        self.effective = float(effective)

    def complaints(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Whether the normalizing constant can be trusted."""
        if self.effective >= LEAST_EFFECTIVE:
            return []
        return [
            f"only {self.effective:.1%} of the chains carry the estimate of log Z, so nats are off by an unknown "
            "constant; the order of scores is not affected, and statistic='energy' leaves the constant out"
        ]


class DeepBelief(GenerativeModel):
    r"""Deep belief network: Boltzmann machines, each one the prior of the hidden units of the one below.

    .. math:: E(z) = \mathbb{E}_{q_1}[-\log p(z \mid h_1)] - H(q_1) + \dots + F_L(q_{L-1})

    where :math:`q_l` are probabilities of hidden units given those below, `H` is the entropy and :math:`F_L` the free
    energy of the topmost machine.

    Parameters
    ----------
    space : int or Space
        Coordinates of a row.
    layers, units, gibbs
        As in :class:`BoltzmannDetector`.

    Notes
    -----
    With two layers `-E` is a lower bound of the log-density up to a constant (:math:`-F` is convex, so that its mean
    over hidden units exceeds its value at their probabilities); with more it is a mean-field approximation.

    Examples
    --------
    >>> DeepBelief(2, layers=2, units=4).energy(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    nats = False
    judged = False

    def __init__(self, space: int | Space, *, layers: int = 2, units: int = 64, gibbs: int = 1) -> None:
        super().__init__()
        check_counts(layers=layers, units=units, gibbs=gibbs)
        first = _Gaussian(space if isinstance(space, int) else space.dim, units)
        above = [_Bernoulli(units, units) for _ in range(layers - 1)]
        self.machines: Sequence[_Machine] = nn.ModuleList([first, *above])  # type: ignore[assignment]
        self.gibbs = gibbs
        self.learning = 0

    def energy(self, z: Tensor) -> Tensor:
        """Energy of every row in nats, shape ``(n,)``."""
        *below, top = self.machines
        x, total = z.t(), z.new_zeros(len(z))
        for machine in below:
            activation = machine.activation(x)
            hidden = activation.sigmoid()
            entropy = (softplus(activation) - hidden * activation).sum(0)
            total = total + machine.surprise(x, hidden) - entropy
            x = hidden
        return total + top.free_energy(x)

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, d)``: chains of the topmost machine, then one pass down."""
        *below, top = self.machines
        x = top.sample(n)
        for machine in reversed(below):
            x = machine.draw(x)
        return x.t().contiguous()

    def on_epoch(self, progress: float) -> None:
        """Turn to the next machine."""
        self.learning = min(int(progress * len(self.machines)), len(self.machines) - 1)

    def loss(self, z: Tensor) -> Tensor:
        """Free energy, in the machine that learns, of what it sees of every row above that of its chains."""
        x = z.t()
        with torch.no_grad():
            for machine in self.machines[: self.learning]:
                x = machine.up(x)
                x = toss(x) if self.training else x
        return self.machines[self.learning].contrast(x, self.gibbs)


class BoltzmannDetector(TrainedDetector):
    r"""Anomaly detector on a restricted Boltzmann machine: an energy with binary hidden units, or a stack of them.

    A row `z` in model space, standardized to `y` by learned offsets and scales, has the free energy `F`; hidden units
    `k` each vote for a direction, so that the machine is a mixture of :math:`2^K` normal distributions that share their
    weights:

    .. math:: \log p(x) = -F(z(x)) - \log Z + \log |dz / dx|, \qquad
       F(z) = \tfrac12 \|y\|^2 - \sum_k \log(1 + e^{w_k \cdot y + c_k}) .

    Training lowers the free energy of rows and raises that of samples, drawn by chains that go on from batch to batch
    (persistent contrastive divergence). `Z` is estimated by annealed importance sampling, so scores are estimated nats.
    Beyond the parameters below it takes those of :class:`anomgen.TrainedDetector`.

    Parameters
    ----------
    units : int, default=64
        Hidden units of every layer.
    layers : int, default=1
        Machines. With more than one they are stacked into a deep belief network, trained one after another from the
        bottom up, in equal shares of the schedule. It has no log-likelihood and is scored by ``statistic="energy"``.
    gibbs : int, default=1
        Steps the chains go on for each training batch.
    learning_rate : float, default=0.03
        Peak learning rate. In a stack it is lower for higher layers, as they train later in the schedule.
    weight_decay : float, default=0.0
        Decoupled weight decay of weight matrices. In a stack it goes on for a layer that has been trained.

    Notes
    -----
    When to choose it: for its history and its hidden units, which are readable as parts of rows; other families fit
    tables better. The loss is a difference of free energies and says nothing about likelihood, so it neither stops
    training nor chooses weights.

    References
    ----------
    Hinton (2002), *Training products of experts by minimizing contrastive divergence*, Neural Computation 14.

    Hinton, Osindero, Teh (2006), *A fast learning algorithm for deep belief nets*, Neural Computation 18.

    Tieleman (2008), *Training restricted Boltzmann machines using approximations to the likelihood gradient*, ICML.

    Salakhutdinov, Murray (2008), *On the quantitative analysis of deep belief networks*, ICML (the estimate of `Z`).

    Cho, Ilin, Raiko (2011), *Improved learning of Gaussian-Bernoulli restricted Boltzmann machines*, ICANN.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = BoltzmannDetector(units=8, max_epochs=5, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    units: int = 64
    layers: int = 1
    gibbs: int = 1
    learning_rate: float = 0.03
    weight_decay: float = 0.0

    @property
    def default_statistic(self) -> str:  # type: ignore[override]
        """The likelihood of one machine, the energy of a stack."""
        return "likelihood" if self.layers == 1 else "energy"

    def build(self, space: Space) -> Boltzmann | DeepBelief:
        """Make the untrained machine for rows of `space`, or the stack of them."""
        check_counts(layers=self.layers)
        if self.layers == 1:
            return Boltzmann(space, units=self.units, gibbs=self.gibbs)
        return DeepBelief(space, layers=self.layers, units=self.units, gibbs=self.gibbs)
