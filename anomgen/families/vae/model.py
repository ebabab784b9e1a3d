"""Variational autoencoders: densities by a code that an encoder guesses and a decoder explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomgen.generative import GenerativeModel, Objective, Space
from anomgen.nn import MLP, Condition, check_counts, check_number, check_widths
from anomgen.nn.convolution import Analysis, Synthesis, pooled, pooled_width
from anomgen.nn.latent import Discrete, make_latent
from anomgen.nn.observation import make_observation
from anomgen.nn.pixels import Pixels
from anomgen.nn.shortcut import Shortcut

FEW = 4
"""Draws that held-out rows are judged by at most."""
ACTIVE = 0.01
"""Variance over rows of a code's posterior mean above which it says something about them (Burda et al.)."""
DRAWS = 16
"""Draws of the bound that rows of a table have by default."""
DRAWS_OF_IMAGES = 2
"""A decoder of images costs thousands of times more than one of a few columns."""
WARMUP = 0.5
"""Codes that have found a use are worth their cost, while codes that cost from the first find none."""
SMALL_IMAGE, MOST_BETA = 196, 4.0
"""Larger images say so much that codes find a use the sooner; and codes that cost more, up to four times at 28 x 28,
tell more kinds of them apart, for up to a tenth of a bit a pixel."""
UNITS_OF_IMAGES = 32
"""Units of a code of images at most, where their number is derived."""
RATE = 0.25
"""Factor on the learning rate of the dense networks that suits the convolutional ones."""


class VAE(GenerativeModel):
    r"""Variational autoencoder of rows ``z`` of shape ``(n, d)``.

    .. math:: \log p(z) \ge E_{q(u \mid z)} \log p(z \mid u) - KL(q(u \mid z) \,\|\, p(u))

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; with conditions among them the density is that of the others given these. Images have
        convolutional networks, and pixels the masses of their levels.
    latent, latent_dim, categories, pieces, hidden, channels, decoder, beta, free_bits, warmup, draws, adversarial
        As in :class:`VAEDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Examples
    --------
    >>> VAE(2, latent_dim=1, hidden=(8,)).log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    codes = True
    likelihood: Literal["exact", "bound", "estimate"] = "bound"

    bank: Tensor

    def __init__(
        self,
        space: int | Space,
        *,
        latent: str = "normal",
        latent_dim: int | Literal["auto"] = "auto",
        categories: int = 8,
        pieces: int = 8,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        decoder: str = "gaussian",
        beta: float | Literal["auto"] = "auto",
        free_bits: float = 0.0,
        warmup: float | Literal["auto"] = "auto",
        draws: int | Literal["auto"] = "auto",
        adversarial: float = 0.0,
    ) -> None:
        super().__init__()
        space = Space.real(space) if isinstance(space, int) else space
        image = space.image
        if draws == "auto":
            draws = DRAWS if image is None else DRAWS_OF_IMAGES
        large = 1.0 if image is None else min(max(1.0, space.modelled / SMALL_IMAGE), MOST_BETA)
        weight = large if beta == "auto" else beta
        rise = WARMUP / large**2 if warmup == "auto" else warmup
        check_counts(draws=draws, channels=channels)
        check_number("beta", weight, 0.0)
        check_number("free_bits", free_bits, 0.0)
        check_number("warmup", rise, 0.0, 1.0)
        check_number("adversarial", adversarial, 0.0)
        check_widths(hidden)
        self.condition = Condition(space)
        self.observation = make_observation(space, decoder)
        if image is not None and latent_dim == "auto" and latent != "discrete":
            latent_dim = min(UNITS_OF_IMAGES, space.modelled)
        self.code = make_latent(latent, latent_dim, space.modelled, categories, pieces)
        given, width = self.condition.width, self.observation.width
        inputs = self.observation.inputs + given
        self.encoder: Shortcut | Analysis
        self.decoder: Shortcut | Synthesis
        self.discriminator: MLP | Analysis | None = None
        if image is None:
            self.encoder = Shortcut(inputs, self.code.inputs, hidden, self.code.units)
            self.decoder = Shortcut(self.code.width + given, width, hidden[::-1], width)
            if adversarial:
                self.discriminator = MLP(inputs, 1, hidden)
        else:
            self.encoder = Analysis(image, self.code.inputs, channels, given)
            self.decoder = Synthesis(image, self.code.width + given, channels, Pixels.planes)
            if adversarial:
                self.discriminator = Analysis(image, 1, channels, given)
            self.work, self.rate = self.encoder.work + self.decoder.work, RATE
            self.feature_parts = (pooled_width(self.encoder.shapes[-1:]), self.code.width)
        self.beta, self.free_bits, self.warmup, self.adversarial = weight, free_bits, rise, adversarial
        self.passes, self.progress = draws, 0.0
        if self.code.exact:
            self.likelihood, self.passes = "exact", categories**self.code.units
        else:
            self.register_buffer("bank", torch.randn(self.code.noises, draws, 1))

    def log_prob(self, z: Tensor) -> Tensor:
        r"""Log-likelihood of every row in nats, shape ``(n,)``: a bound, or exact for categorical codes.

        The bound is :math:`\log \tfrac1K \sum_k p(u_k) p(z \mid u_k) / q(u_k \mid z)` over the fixed noise bank.
        """
        return self._summed(z) if self.code.exact else self._bound(z, self.bank.shape[1])

    def elbo(self, z: Tensor) -> Tensor:
        """Evidence lower bound of every row under fresh noise, nats, shape ``(n,)``."""
        explained, divergence = self._terms(*self.condition.split(z))
        return explained - divergence.sum(0)

    def loss(self, z: Tensor) -> Tensor:
        """What is minimized, with the value of minus the bound in nats whatever weights the terms have."""
        x, context = self.condition.split(z)
        explained, divergence = self._terms(x, context)
        bound = divergence.sum(0) - explained
        paid = divergence
        if self.free_bits:
            free = divergence.mean(1, keepdim=True) < self.free_bits
            paid = torch.where(free, self.free_bits, divergence)
        ramp = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        objective = self.beta * ramp * paid.sum(0) - explained
        if self.discriminator is not None:
            objective = objective + self.adversarial * softplus(-self._realness(self._fake(context, len(z)), context))
        return objective + (bound - objective).detach()

    def discrimination(self, z: Tensor) -> Tensor:
        """Loss of the discriminator between rows and draws of the decoder, shape ``(n,)``."""
        x, context = self.condition.split(z)
        with torch.no_grad():
            fake = self._fake(context, len(z))
        real = self.observation.describe(x)
        return softplus(-self._realness(real, context)) + softplus(self._realness(fake, context))

    def objectives(self) -> list[Objective]:
        """The bound; against it, where asked for, a discriminator."""
        judge = [] if self.discriminator is None else list(self.discriminator.parameters())
        own = [p for p in self.parameters() if all(p is not other for other in judge)]
        return [(own, self.loss), *([(judge, self.discrimination)] if judge else [])]

    def on_epoch(self, progress: float) -> None:
        """Warm up the divergence, cool down the relaxation of categories."""
        self.progress = progress
        self.code.anneal(progress)

    def monitor(self, z: Tensor) -> Tensor:
        """Minus the likelihood that scores have, of few draws."""
        return -(self._summed(z) if self.code.exact else self._bound(z, min(FEW, self.bank.shape[1])))

    def measure(self, z: Tensor) -> dict[str, float]:
        """Number of active units: codes whose posterior mean varies from row to row."""
        varied = self.latent(z).t().var(1, correction=0) > ACTIVE
        return {"active_units": float(varied.view(self.code.units, -1).any(1).sum())}

    def complaints(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Whether the posterior has collapsed onto the prior."""
        if not history or history[-1]["active_units"] > 0:
            return []
        return [
            f"none of the {self.code.units} latent units is active: the posterior has collapsed onto the prior, and "
            "columns are modelled as independent. Unless they are, raise max_epochs, warmup or free_bits, or lower beta"
        ]

    def latent(self, z: Tensor) -> Tensor:
        """Posterior mean of every row's code, shape ``(n, k)``; probabilities of categories where codes are these."""
        return self.code.mean(self._posterior(*self.condition.split(z))).t()

    def features(self, z: Tensor) -> Tensor:
        """Where a nearest-neighbour statistic looks for similar rows, shape ``(n, k)``.

        The latent means of rows; of images what the encoder's last convolution passes on as well.
        """
        if not isinstance(self.encoder, Analysis):
            return self.latent(z)
        x, context = self.condition.split(z)
        found = self.encoder.activations(_beside(self.observation.describe(x), context))
        return torch.cat([pooled(found[-1:]), self.code.mean(self.encoder.read(found)).t()], 1)

    def reconstruct(self, z: Tensor) -> Tensor:
        """What the decoder makes of a row's latent mean, shape ``(n, d)``.

        Numbers get their expectation; a level gets its own number plus the probability of all other levels, so that the
        difference is what the reconstruction misses.
        """
        x, context = self.condition.split(z)
        outputs = self._decode(self.code.mean(self._posterior(x, context)), context)
        rows = self.observation.expected(outputs, x).t()
        return torch.cat([rows, z[:, self.condition.dim :]], 1)

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        like = self.observation.log_scale
        context = self.condition.context_for(n, condition, like)
        x = self.observation.sample(self._decode(self.code.sample(n, like), context))
        return self.condition.join(x.t(), condition).contiguous()

    def perturb(self, z: Tensor, strength: float) -> Tensor:
        """Draw rows near rows `z`: units of their codes are drawn anew with probability `strength`.

        What of a row its code does not explain moves as far towards a fresh draw of that, levels with this probability.
        """
        x, context = self.condition.split(z)
        own = self.code.draw(self._posterior(x, context), self.code.noise(len(z), x))
        anew = torch.rand(self.code.units, len(z), device=z.device) < strength
        anew = anew.repeat_interleave(len(own) // self.code.units, 0)
        before, after = (self._decode(code, context) for code in (own, own.where(~anew, self.code.sample(len(z), x))))
        fresh, mean = self.observation.sample(after), self.observation.expected(after, x)
        rest = math.sqrt(1 - strength**2) * (x - self.observation.expected(before, x))
        moved = mean + rest + strength * (fresh - mean)
        whole = torch.zeros(len(x), 1, dtype=torch.bool, device=z.device)
        if not isinstance(self.observation, Pixels):
            whole[self.observation.levels.at] = True
        moved = torch.where(whole, torch.where(torch.rand_like(x) < strength, fresh, x), moved)
        return torch.cat([torch.where(moved.isnan(), fresh, moved).t(), z[:, self.condition.dim :]], 1)

    def _posterior(self, x: Tensor, context: Tensor) -> Tensor:
        y: Tensor = self.encoder(_beside(self.observation.describe(x), context))
        return y.to(x.dtype)

    def _decode(self, code: Tensor, context: Tensor) -> Tensor:
        y: Tensor = self.decoder(_beside(code, context))
        return y.to(code.dtype)

    def _terms(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood given one draw ``(n,)``, and the divergence of every unit ``(units, n)``."""
        posterior = self._posterior(x, context)
        code = self.code.draw(posterior, self.code.noise(x.shape[1], x))
        return self.observation.log_prob(self._decode(code, context), x), self.code.divergence(posterior)

    def _bound(self, z: Tensor, draws: int) -> Tensor:
        x, context = self.condition.split(z)
        n, posterior = len(z), self._posterior(x, context)
        if draws > 1:
            x, context, posterior = (part.repeat(1, draws) for part in (x, context, posterior))
        noise = self.bank[:, :draws].expand(-1, -1, n).reshape(-1, draws * n)
        explained = self.observation.log_prob(self._decode(self.code.draw(posterior, noise), context), x)
        weight = explained + self.code.log_weight(posterior, noise).sum(0)
        return weight.view(draws, n).logsumexp(0) - math.log(draws) if draws > 1 else weight

    def _summed(self, z: Tensor) -> Tensor:
        x, context = self.condition.split(z)
        codes, log_share = cast(Discrete, self.code).enumerate()
        if isinstance(self.observation, Pixels) and not len(context):
            # What a code is decoded to depends on no row, and costs far more than to compare it with one.
            outputs = self._decode(codes, context).unbind(1)
            each = [self.observation.log_prob(decoded[:, None], x) for decoded in outputs]
        else:
            each = [
                self.observation.log_prob(self._decode(code[:, None].expand(-1, len(z)), context), x)
                for code in codes.unbind(1)
            ]
        total: Tensor = (torch.stack(each) + log_share[:, None]).logsumexp(0)
        return total

    def _fake(self, context: Tensor, n: int) -> Tensor:
        code = self.code.sample(n, self.observation.log_scale)
        return self.observation.imitate(self._decode(code, context))

    def _realness(self, described: Tensor, context: Tensor) -> Tensor:
        assert self.discriminator is not None
        logit: Tensor = self.discriminator(_beside(described, context))
        return logit[0].to(described.dtype)


def _beside(x: Tensor, context: Tensor) -> Tensor:
    return torch.cat([x, context]) if len(context) else x
