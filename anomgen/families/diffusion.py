"""Diffusion models: networks that remove noise, and what that says about densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from anomgen.detector import ConditionalDetector
from anomgen.generative import GenerativeModel, Objective, Space
from anomgen.nn import Condition, check_choice, check_counts, check_number, check_widths
from anomgen.nn.denoiser import Denoiser, EnergyDenoiser
from anomgen.nn.noise import LOG_SNR, evenly, kurtosis_scale, log_snr_quantile, usual_level

OBJECTIVES = ("score_matching", "ddpm", "flow_matching")
SCALES = ("equal", "kurtosis")
WIDTHS = (256, 256)
MOST = 10
"""Network passes a score may take."""
LEVELLED = 1000
"""Training rows at most by which a bank of noise is levelled."""
FRESH = 64
"""Draws of fresh noise for that, a row."""
TIMES = (0.02, 0.99)
"""Times of straight lines from noise, at 0, to data, at 1, that samples pass."""
JUDGES = 16
"""Draws of fixed noise that held-out rows are judged by."""


class Diffusion(GenerativeModel):
    r"""What the objectives share: a denoiser at all noise levels, and samples by its ordinary differential equation.

    .. math:: \frac{d \tilde x}{d s} = \hat\varepsilon(\tilde x, s)

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these.
    noise_levels, hidden, steps
        As in :class:`DiffusionDetector`.
    """

    nats = False

    levels: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        noise_levels: Sequence[float] = (0.5,),
        hidden: Sequence[int] = WIDTHS,
        steps: int = 30,
    ) -> None:
        super().__init__()
        check_counts(steps=steps)
        check_widths(hidden)
        if not 0 < len(noise_levels) <= MOST:
            raise ValueError(f"noise_levels={noise_levels!r} is not valid; give one to {MOST} numbers")
        for level in noise_levels:
            check_number("noise_levels", level, 0.01, 10.0)
        self.condition = Condition(Space.real(space) if isinstance(space, int) else space)
        self.dim = self.condition.dim
        self.denoiser = Denoiser(self.dim, self.condition.width, (*hidden, list(hidden)[-1]))
        self.hidden, self.steps = tuple(hidden), steps
        self.passes = len(noise_levels)
        self.register_buffer("levels", torch.tensor([float(level) for level in noise_levels]))

    def grid(self) -> Tensor:
        """Falling noise levels that samples pass: even steps along straight lines from noise to data."""
        t = torch.linspace(*TIMES, self.steps + 1)
        return (1 - t) / t

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        context = self.condition.context_for(n, condition, self.levels)
        levels = self.grid().to(self.levels)

        def slope(x: Tensor, level: Tensor) -> Tensor:
            noise: Tensor = self.denoiser(x, level.expand(n), context)
            return noise

        x = torch.randn(self.dim, n, device=levels.device) * (1 + levels[0].square()).sqrt()
        for level, lower in pairwise(levels):
            first = slope(x, level)
            second = slope(x + (lower - level) * first, lower)
            x = x + (lower - level) * 0.5 * (first + second)
        x = x - levels[-1] * slope(x, levels[-1])
        return self.condition.join(x.t(), condition).contiguous()

    def reconstruct(self, z: Tensor) -> Tensor:
        """Rows without the noise found in them, mean over the noise levels; what is given stays."""
        x, context = self.condition.split(z)
        found = [level * self.denoiser(x, level.expand(len(z)), context) for level in self.levels]
        return torch.cat([(x - torch.stack(found).mean(0)).t(), z[:, self.dim :]], 1)

    def error(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise found in columns that it was added to, shape ``(n,)``."""
        found: Tensor = self.denoiser(x + level * noise, level, context)
        return (found - noise).square().sum(0)


class ScoreMatching(Diffusion):
    r"""Denoising score matching of an energy at few noise levels, beside a denoiser that draws samples.

    Parameters
    ----------
    space : int or Space
    noise_scale
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.

    Examples
    --------
    >>> ScoreMatching(2, hidden=(8,)).energy(torch.ones(3, 2))
    tensor([0.9600, 0.9600, 0.9600], grad_fn=<DivBackward0>)
    """

    noise: Tensor
    scale: Tensor
    prepared: Tensor

    def __init__(self, space: int | Space, *, noise_scale: str = "equal", **shared: Any) -> None:
        super().__init__(space, **shared)
        check_choice("noise_scale", noise_scale, SCALES)
        self.potential = EnergyDenoiser(self.dim, self.condition.width, self.hidden)
        self.register_buffer("noise", torch.randn(JUDGES, self.dim, 1))
        self.register_buffer("scale", torch.ones(self.dim, 1))
        self.register_buffer("prepared", torch.tensor(noise_scale == "equal"))

    def prepare(self, z: Tensor) -> None:
        """Fix the noise of every coordinate by the kurtosis of the first training rows."""
        if not self.prepared:
            self.scale.copy_(kurtosis_scale(self.condition.split(z)[0])[:, None])
            self.prepared.fill_(True)

    def energy(self, z: Tensor) -> Tensor:
        r"""Mean over the noise levels of :math:`E + \frac12 \|\hat\varepsilon\|^2`, both at the row itself.

        The first is minus the log-density of the blurred rows, up to a constant; the second takes back some of the
        blur, to first order in the heat equation.
        """
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for level in self.levels:
            energy, noise = self.potential(x, self.scale, level.expand(len(z)), context)
            total = total + energy + noise.square().sum(0) * 0.5
        return total / len(self.levels)

    def objectives(self) -> list[Objective]:
        """The energy, and the denoiser of samples, each on its own."""
        return [(self.potential.parameters(), self.loss), (self.denoiser.parameters(), self.sampling_loss)]

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found by the energy, each coordinate weighted by its variance."""
        x, context = self.condition.split(z)
        level = self.levels[torch.randint(len(self.levels), (len(z),), device=z.device)]
        return self._error(x, context, level, torch.randn_like(x))

    def sampling_loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found by the denoiser, over all noise levels."""
        x, context = self.condition.split(z)
        level = usual_level(evenly(z))
        return self.error(x, context, level, torch.randn_like(x)) * (1 + level.square())

    def monitor(self, z: Tensor) -> Tensor:
        """The loss of the energy under fixed noise."""
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for j, noise in enumerate(self.noise):
            level = self.levels[j % len(self.levels)].expand(len(z))
            total = total + self._error(x, context, level, noise.expand_as(x))
        return total / len(self.noise)

    def _error(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        s = self.scale * level
        found: Tensor = self.potential(x + s * noise, self.scale, level, context)[1]
        return ((found - noise).square() * (1 + s.square())).sum(0)


class Bounded(Diffusion):
    r"""Diffusion at all noise levels, which bounds the log-density.

    With log signal-to-noise ratio :math:`\lambda = -2 \log s`, and :math:`\hat\varepsilon_0` the noise to be found in
    standard normal data,

    .. math:: \log p(x) \ge \log N(x; 0, I) + \frac12 \int \mathbb{E}_\varepsilon \left[
              \|\varepsilon - \hat\varepsilon_0\|^2 - \|\varepsilon - \hat\varepsilon\|^2 \right] d\lambda .

    The integral is taken at stratified :math:`\lambda` drawn once, each with two opposite noises drawn once, plus a
    constant by which this bank of noise gives training rows the mean that fresh noise does.

    Parameters
    ----------
    space : int or Space
    bound_levels
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.
    """

    likelihood: Literal["exact", "bound", "estimate"] = "bound"

    strata: Tensor
    noise: Tensor
    offset: Tensor

    def __init__(self, space: int | Space, *, bound_levels: int = MOST // 2, **shared: Any) -> None:
        super().__init__(space, **shared)
        check_counts(bound_levels=bound_levels)
        check_number("bound_levels", bound_levels, 1, MOST // 2)
        self.passes = max(self.passes, 2 * bound_levels)
        self.register_buffer("noise", torch.randn(bound_levels, self.dim, 1))
        self.register_buffer("strata", (torch.arange(bound_levels) + torch.rand(1)) / bound_levels)
        self.register_buffer("offset", torch.zeros(()))

    def log_prob(self, z: Tensor) -> Tensor:
        """Lower bound of the log-density of every row in nats, shape ``(n,)``, under fixed noise."""
        return self._mean(z, self._gain) + _log_normal(self.condition.split(z)[0]) + self.offset

    def bound(self, z: Tensor) -> Tensor:
        """Lower bound of the log-density of every row in nats, shape ``(n,)``, under fresh noise at a random level."""
        x, context = self.condition.split(z)
        return self._gain(x, context, evenly(z), torch.randn_like(x)) + _log_normal(x)

    def prepare(self, z: Tensor) -> None:
        """Keep some training rows until :meth:`conclude`."""
        self._some = z[torch.linspace(0, len(z) - 1, min(len(z), LEVELLED), device=z.device).long()]

    def conclude(self) -> None:
        """Move the bound by what fixed noise is off on average."""
        fresh = torch.stack([self.bound(self._some).mean() for _ in range(FRESH)]).mean()
        self.offset += fresh - self.log_prob(self._some).mean()
        del self._some

    def _mean(self, z: Tensor, term: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for u, noise in zip(self.strata, self.noise, strict=True):
            for side in (noise, -noise):
                total = total + term(x, context, u.expand(len(z)), side.expand_as(x))
        return total / (2 * len(self.strata))

    def _gain(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """What denoising better than for a standard normal adds to the log-density, drawn at quantiles `u`."""
        s, weight = log_snr_quantile(u)
        noisy = x + s * noise
        usual = noisy * (s / (1 + s * s))
        more = self.denoiser(noisy, s, context) - usual
        gain: Tensor = (more * (noise - usual - 0.5 * more)).sum(0)
        return gain * weight


def _log_normal(x: Tensor) -> Tensor:
    return x.square().sum(0) * -0.5 - 0.5 * math.log(2 * math.pi) * len(x)


class VariationalDiffusion(Bounded):
    """Trained by the bound itself. Parameters are those of :class:`Bounded`."""

    nats = True

    def loss(self, z: Tensor) -> Tensor:
        """Minus the bound under fresh noise, nats."""
        return -self.bound(z)

    def monitor(self, z: Tensor) -> Tensor:
        """Minus the bound under fixed noise, nats."""
        return -self.log_prob(z)

    def grid(self) -> Tensor:
        """Noise levels in even steps of their logarithm."""
        return (-0.5 * torch.linspace(*LOG_SNR, self.steps + 1)).exp()


class FlowMatching(Bounded):
    r"""Trained to regress the velocity :math:`x - \varepsilon` of straight lines :math:`t x + (1 - t) \varepsilon`.

    Parameters are those of :class:`Bounded`.
    """

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the velocity at a random time."""
        x, context = self.condition.split(z)
        return self._velocity_error(x, context, evenly(z), torch.randn_like(x))

    def monitor(self, z: Tensor) -> Tensor:
        """Squared error of the velocity at fixed times, under fixed noise."""
        return self._mean(z, self._velocity_error)

    def _velocity_error(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        # A line from noise to data, divided by its time t, is the data under noise of (1 - t) / t.
        level = usual_level(u)
        return self.error(x, context, level, noise) * (1 + level).square()


class DiffusionDetector(ConditionalDetector):
    r"""Anomaly detector on a diffusion model: a network that removes noise knows where data lie.

    Rows get Gaussian noise, :math:`\tilde x = x + s \varepsilon`, and a network learns to tell the noise from the data.
    It does so by an energy, whose gradient is the noise:

    .. math:: \hat\varepsilon(\tilde x) = s \nabla E(\tilde x), \qquad
              \min_E \mathbb{E} \|\varepsilon - \hat\varepsilon(\tilde x)\|^2
              \;\Rightarrow\; E = -\log p_s + \text{const} ,

    with :math:`p_s` the density of rows blurred by noise `s`. Rows are scored by the energy (``statistic="energy"``),
    one pass of the network for each noise level; samples follow the gradient from much noise to none. Beyond the
    parameters below it takes those of :class:`anomgen.Detector`.

    Parameters
    ----------
    objective : {"score_matching", "ddpm", "flow_matching"}, default="score_matching"
        What the network is trained for.

        - ``"score_matching"``: the noise levels that score, and some others for samples. It ranks best.
        - ``"ddpm"``: a variational bound of the log-density in nats, over all noise levels, which
          ``statistic="likelihood"`` gives.
        - ``"flow_matching"``: the velocity of straight lines from noise to data. It bounds the log-density as well,
          but was not trained for that.
    noise_levels : tuple of float, default=(0.5,)
        Noise that the energy is read at, in standard deviations of a column; at most ten levels.
    noise_scale : {"equal", "kurtosis"}, default="equal"
        With ``"kurtosis"`` score matching multiplies the noise of every coordinate by
        :math:`1 + 0.33 (\kappa_j - 3)`, `\kappa_j` being the kurtosis of its middle 96 %, so that with level 0.5 it
        lies in [0.1, 3]. Meant for columns with heavy tails, which the encoder has bent already.
    bound_levels : int, default=5
        Noise levels at which ``"ddpm"`` and ``"flow_matching"`` take the bound, two passes each; at most five.
    hidden : tuple of int, default=(256, 256)
        Widths of the hidden layers; the network of all noise levels has one more, as wide as the last.
    steps : int, default=30
        Steps of the differential equation that samples take, two passes each.
    noise : float or "auto", default=0.0
        As for all detectors; diffusion brings its own noise and needs no more.

    Notes
    -----
    When to choose it: score matching where anomalies are local, for it ranks by the shape of the density and needs no
    normalizing constant; ``"ddpm"`` and ``"flow_matching"`` for good samples of tables that a flow cannot follow.

    References
    ----------
    Vincent (2011), *A connection between score matching and denoising autoencoders*, Neural Computation 23.

    Ho, Jain, Abbeel (2020), *Denoising diffusion probabilistic models*, arXiv:2006.11239 (ddpm).

    Song, Meng, Ermon (2020), *Denoising diffusion implicit models*, arXiv:2010.02502 (sampling).

    Kingma, Salimans, Poole, Ho (2021), *Variational diffusion models*, arXiv:2107.00630 (the bound).

    Kong, Brekelmans, Ver Steeg (2023), *Information-theoretic diffusion*, arXiv:2302.03792 (against a normal).

    Lipman, Chen, Ben-Hamu, Nickel, Le (2022), *Flow matching for generative modeling*, arXiv:2210.02747.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = DiffusionDetector(hidden=(16,), max_epochs=5, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    objective: str = "score_matching"
    noise_levels: tuple[float, ...] = (0.5,)
    noise_scale: str = "equal"
    bound_levels: int = MOST // 2
    hidden: tuple[int, ...] = WIDTHS
    steps: int = 30
    noise: float | Literal["auto"] = 0.0

    @property
    def default_statistic(self) -> str:  # type: ignore[override]
        """The energy where there is one, the bound of the likelihood elsewhere."""
        return "energy" if self.objective == "score_matching" else "likelihood"

    def build(self, space: Space) -> Diffusion:
        """Make the untrained model for rows of `space`."""
        check_choice("objective", self.objective, OBJECTIVES)
        shared = {"noise_levels": self.noise_levels, "hidden": self.hidden, "steps": self.steps}
        if self.objective == "score_matching":
            return ScoreMatching(space, noise_scale=self.noise_scale, **shared)
        kind = VariationalDiffusion if self.objective == "ddpm" else FlowMatching
        return kind(space, bound_levels=self.bound_levels, **shared)
