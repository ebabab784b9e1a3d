"""Diffusion models: networks that remove noise, and what that says about densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from anomgen.detector import ConditionalDetector
from anomgen.generative import GenerativeModel, Space
from anomgen.nn import Condition, check_choice, check_counts, check_number, check_widths
from anomgen.nn.denoiser import Denoiser

OBJECTIVES = ("score_matching", "ddpm", "flow_matching")
SCALES = ("equal", "kurtosis")
MOST = 10
"""Network passes a score may take."""
LOG_SNR = (-6.0, 8.0)
"""Log signal-to-noise ratios between which a bound learns to do better than a standard normal."""
CENTER, WIDTH = 1.0, 1.5
"""Of the logistic distribution they are drawn from: most nats are gained there."""
TIMES = (0.02, 0.99)
"""Times of a flow from noise, at 0, to data, at 1, that are learned."""
NOISES = (0.03, 3.0)
"""Noise that score matching learns to remove for the sake of samples."""
JUDGES = 16
"""Draws of fixed noise that held-out rows are judged by."""


class Diffusion(GenerativeModel):
    r"""What the objectives share: a denoiser, the energy it gives, and samples by the ordinary differential equation.

    .. math:: \frac{d \tilde x}{d s} = \hat\varepsilon(\tilde x, s)

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these.
    noise_levels, hidden, steps
        As in :class:`DiffusionDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Examples
    --------
    >>> FlowMatching(2, hidden=(8,)).energy(torch.ones(3, 2))
    tensor([0.9600, 0.9600, 0.9600], grad_fn=<DivBackward0>)
    """

    nats = False

    levels: Tensor
    scale: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        noise_levels: Sequence[float] = (0.5,),
        hidden: Sequence[int] = (256, 256),
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
        self.denoiser = Denoiser(self.dim, self.condition.width, hidden)
        self.steps = steps
        self.passes = len(noise_levels)
        self.register_buffer("levels", torch.tensor([float(level) for level in noise_levels]))
        self.register_buffer("scale", torch.ones(self.dim, 1))

    def energy(self, z: Tensor) -> Tensor:
        r"""Mean over the noise levels of :math:`E + \frac12 \|\hat\varepsilon\|^2`, both at the row itself.

        The first is minus the log-density of the blurred rows, up to a constant; the second takes back some of the
        blur, to first order in the heat equation.
        """
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for level in self.levels:
            energy, noise = self.denoiser(x, self.scale, level.expand(len(z)), context)
            total = total + energy + noise.square().sum(0) * 0.5
        return total / len(self.levels)

    def reconstruct(self, z: Tensor) -> Tensor:
        """Rows without the noise that is found in them at the first noise level; what is given stays."""
        x, context = self.condition.split(z)
        level = self.levels[0]
        noise: Tensor = self.denoiser(x, self.scale, level.expand(len(z)), context)[1]
        return torch.cat([(x - self.scale * level * noise).t(), z[:, self.dim :]], 1)

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        context = self.condition.context_for(n, condition, self.scale)
        levels = self.grid().to(self.scale)

        def slope(x: Tensor, level: Tensor) -> Tensor:
            noise: Tensor = self.denoiser(x, self.scale, level.expand(n), context)[1]
            return self.scale * noise

        x = torch.randn(self.dim, n, device=levels.device) * (1 + (self.scale * levels[0]).square()).sqrt()
        for level, lower in pairwise(levels):
            first = slope(x, level)
            second = slope(x + (lower - level) * first, lower)
            x = x + (lower - level) * 0.5 * (first + second)
        x = x - levels[-1] * slope(x, levels[-1])
        return self.condition.join(x.t(), condition).contiguous()

    def grid(self) -> Tensor:
        """Falling noise levels that samples pass."""
        raise NotImplementedError

    def error(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise found in columns that it was added to, shape ``(n,)``."""
        found: Tensor = self.denoiser(x + self.scale * level * noise, self.scale, level, context)[1]
        return (found - noise).square()


class ScoreMatching(Diffusion):
    r"""Denoising score matching at few noise levels, with further ones for samples.

    Parameters
    ----------
    space : int or Space
    noise_scale, sampling_share
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.
    """

    noise: Tensor
    prepared: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        noise_scale: str = "equal",
        sampling_share: float = 0.25,
        noise_levels: Sequence[float] = (0.5,),
        hidden: Sequence[int] = (256, 256),
        steps: int = 30,
    ) -> None:
        super().__init__(space, noise_levels=noise_levels, hidden=hidden, steps=steps)
        check_choice("noise_scale", noise_scale, SCALES)
        check_number("sampling_share", sampling_share, 0.0, 1.0)
        self.noise_scale = noise_scale
        self.sampling_share = sampling_share
        self.register_buffer("noise", torch.randn(JUDGES, self.dim, 1))
        self.register_buffer("prepared", torch.tensor(noise_scale == "equal"))

    def prepare(self, z: Tensor) -> None:
        """Fix the noise of every coordinate by the kurtosis of the first training rows."""
        if not self.prepared:
            self.scale.copy_(kurtosis_scale(self.condition.split(z)[0])[:, None])
            self.prepared.fill_(True)

    def loss(self, z: Tensor) -> Tensor:
        """Squared error of the noise found, each coordinate weighted by its variance."""
        x, context = self.condition.split(z)
        u = torch.rand(len(z), device=z.device)
        low, high = (math.log(s) for s in NOISES)
        others = (low + (high - low) * torch.rand_like(u)).exp()
        chosen = self.levels[torch.randint(len(self.levels), u.shape, device=z.device)]
        return self._weighted(x, context, torch.where(u < self.sampling_share, others, chosen), torch.randn_like(x))

    def monitor(self, z: Tensor) -> Tensor:
        """The loss at the noise levels, under fixed noise."""
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for j, noise in enumerate(self.noise):
            level = self.levels[j % len(self.levels)].expand(len(z))
            total = total + self._weighted(x, context, level, noise.expand_as(x))
        return total / len(self.noise)

    def grid(self) -> Tensor:
        """Noise levels in geometric steps."""
        return torch.linspace(math.log(NOISES[1]), math.log(NOISES[0]), self.steps + 1).exp()

    def _weighted(self, x: Tensor, context: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        return (self.error(x, context, level, noise) * (1 + (self.scale * level).square())).sum(0)


def kurtosis_scale(x: Tensor) -> Tensor:
    r"""Noise of coordinates by the kurtosis :math:`\kappa_j` of their middle 96 %, shape ``(d,)`` from ``(d, n)``.

    .. math:: 1 + 0.33 (\kappa_j - 3), \quad \text{clipped so that half of it lies in } [0.1, 3] .
    """
    cut = round(0.02 * x.shape[1])
    middle = x.double().sort(1).values[:, cut : x.shape[1] - cut]
    centred = middle - middle.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    kurtosis = torch.where(variance > 0, centred.pow(4).mean(1) / variance.square().clamp_min(1e-30), 3.0)
    return (1 + 0.33 * (kurtosis - 3)).clamp(0.2, 6.0).to(x.dtype)


class Bounded(Diffusion):
    r"""Diffusion at all noise levels, which bounds the log-density.

    With log signal-to-noise ratio :math:`\lambda = -2 \log s`, and :math:`\hat\varepsilon_0` the noise to be found in
    standard normal data,

    .. math:: \log p(x) \ge \log N(x; 0, I) + \frac12 \int \mathbb{E}_\varepsilon \left[
              \|\varepsilon - \hat\varepsilon_0\|^2 - \|\varepsilon - \hat\varepsilon\|^2 \right] d\lambda .

    The integral is taken at stratified :math:`\lambda` drawn once, with noise drawn once, in pairs of opposite sign.

    Parameters
    ----------
    space : int or Space
    bound_passes
        As in :class:`DiffusionDetector`.
    noise_levels, hidden, steps
        As in :class:`Diffusion`.
    """

    likelihood: Literal["exact", "bound", "estimate"] = "bound"

    strata: Tensor
    noise: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        bound_passes: int = MOST,
        noise_levels: Sequence[float] = (0.5,),
        hidden: Sequence[int] = (256, 256),
        steps: int = 30,
    ) -> None:
        super().__init__(space, noise_levels=noise_levels, hidden=hidden, steps=steps)
        check_counts(bound_passes=bound_passes)
        check_number("bound_passes", bound_passes, 1, MOST)
        self.passes = max(self.passes, bound_passes)
        half = torch.randn((bound_passes + 1) // 2, self.dim, 1)
        self.register_buffer("noise", torch.stack([half, -half], 1).flatten(0, 1)[:bound_passes])
        self.register_buffer("strata", (torch.arange(bound_passes) + torch.rand(1)) / bound_passes)

    def log_prob(self, z: Tensor) -> Tensor:
        """Lower bound of the log-density of every row in nats, shape ``(n,)``, under fixed noise."""
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for u, noise in zip(self.strata, self.noise, strict=True):
            total = total + self._gain(x, context, u.expand(len(z)), noise.expand_as(x))
        return total / len(self.strata) + _log_normal(x)

    def bound(self, z: Tensor) -> Tensor:
        """The bound of every row under fresh noise at one level."""
        x, context = self.condition.split(z)
        # Rows of a batch share the range evenly, which steadies the gradient.
        u = (torch.randperm(len(z), device=z.device) + torch.rand(len(z), device=z.device)) / len(z)
        return self._gain(x, context, u, torch.randn_like(x)) + _log_normal(x)

    def _gain(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """What denoising better than for a standard normal adds to the log-density, drawn at quantiles `u`."""
        low, high = (1 / (1 + math.exp((CENTER - end) / WIDTH)) for end in LOG_SNR)
        share = low + (high - low) * u
        s = (-0.5 * (CENTER + WIDTH * share.logit())).exp()
        noisy = x + s * noise
        usual = noisy * (s / (1 + s * s))
        more = self.denoiser(noisy, self.scale, s, context)[1] - usual
        gain: Tensor = (more * (noise - usual - 0.5 * more)).sum(0)
        return gain * ((high - low) * WIDTH / (share * (1 - share)))


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
        u = (torch.randperm(len(z), device=z.device) + torch.rand(len(z), device=z.device)) / len(z)
        x, context = self.condition.split(z)
        return self._velocity_error(x, context, u, torch.randn_like(x))

    def monitor(self, z: Tensor) -> Tensor:
        """Squared error of the velocity at fixed times, under fixed noise."""
        x, context = self.condition.split(z)
        total = z.new_zeros(len(z))
        for u, noise in zip(self.strata, self.noise, strict=True):
            total = total + self._velocity_error(x, context, u.expand(len(z)), noise.expand_as(x))
        return total / len(self.strata)

    def grid(self) -> Tensor:
        """Noise levels in even steps of time."""
        t = torch.linspace(*TIMES, self.steps + 1)
        return (1 - t) / t

    def _velocity_error(self, x: Tensor, context: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        t = TIMES[0] + (TIMES[1] - TIMES[0]) * u
        # A line from noise to data, divided by t, is the data under noise of (1 - t) / t.
        return self.error(x, context, (1 - t) / t, noise).sum(0) / t.square()


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
    sampling_share : float, default=0.25
        Share of the draws that score matching spends on noise levels which only samples need.
    bound_passes : int, default=10
        Network passes of the bound in ``"ddpm"`` and ``"flow_matching"``, at most ten.
    hidden : tuple of int, default=(256, 256)
        Widths of the hidden layers.
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

    default_statistic = "energy"

    objective: str = "score_matching"
    noise_levels: tuple[float, ...] = (0.5,)
    noise_scale: str = "equal"
    sampling_share: float = 0.25
    bound_passes: int = MOST
    hidden: tuple[int, ...] = (256, 256)
    steps: int = 30
    noise: float | Literal["auto"] = 0.0

    def build(self, space: Space) -> Diffusion:
        """Make the untrained model for rows of `space`."""
        check_choice("objective", self.objective, OBJECTIVES)
        levels, hidden, steps = self.noise_levels, self.hidden, self.steps
        if self.objective == "score_matching":
            return ScoreMatching(
                space,
                noise_scale=self.noise_scale,
                sampling_share=self.sampling_share,
                noise_levels=levels,
                hidden=hidden,
                steps=steps,
            )
        kind = VariationalDiffusion if self.objective == "ddpm" else FlowMatching
        return kind(space, bound_passes=self.bound_passes, noise_levels=levels, hidden=hidden, steps=steps)
