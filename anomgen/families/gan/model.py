"""Generative adversarial networks: a generator, the discriminator whose features score rows, and an encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

from anomgen.generative import GenerativeModel, Objective, Space
from anomgen.nn import MLP, Condition, check_choice, check_counts, check_number, check_widths, softclip
from anomgen.nn.convolution import Analysis, Synthesis, pooled
from anomgen.nn.likeness import MEASURED, likeness
from anomgen.nn.spectral import SpectralMLP, frozen, steepness

LOSSES = ("hinge", "wasserstein", "minimax", "least_squares")
SLOPE = 10.0
"""Slope of the logit that spectral normalization allows: rows a tenth of a standard deviation apart can differ by 1.
Images have a slope of about 1: they differ in hundreds of pixels."""
LONGEST_CODE = 4.0
"""Bound of the normal coordinates that the encoder gives, so that rows far from the data are reconstructed badly."""
SPREAD, SPREAD_OF_IMAGES = (0.3, 3.0), (0.05, 1.0)
"""Least and largest standard deviation of the noise around rows that the discriminator learns to refuse."""
LATENT, LATENT_OF_IMAGES = 16, 64
"""Normal coordinates of the noise, unless given."""
MATCHED, MATCHED_SIZE = 512, 0.1
"""Numbers at most, averages of activations, that images are matched by; and their size, as the slope of the logit of
images is a tenth of that of tables."""
COMPARED = 256
"""Numbers at most, averages of pixels, that generated images are compared with real ones by."""
RATE = 0.2
"""Factor on the learning rate of the dense networks that suits the convolutional ones."""
OLDER = 10
"""Older generators that the discriminator goes on refusing; one is kept every twentieth of the schedule."""
COVERED, DIFFERENT, TOLD_APART = 0.25, 0.7, 0.98
"""Coverage below, and shares of different bins and of pairs told apart above, which a training counts as failed."""


class GAN(GenerativeModel):
    r"""Generator, discriminator and encoder of rows ``z`` of shape ``(n, d)``.

    .. math:: \min_G \max_D \; E_x\, a(D(x)) + E_w\, b(D(G(w))), \qquad \min_E \; E_x \|x - G(E(x))\|^2

    Parameters
    ----------
    space : int or Space
        Coordinates of a row; conditions among them are inputs of all three networks. Images have convolutional ones.
    loss, latent, components, hidden, channels, critic_steps, penalty, matching, negatives
        As in :class:`GANDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    Examples
    --------
    >>> GAN(2).sample(3).shape
    torch.Size([3, 2])
    """

    nats = False
    judged = False

    def __init__(
        self,
        space: int | Space,
        *,
        loss: str = "hinge",
        latent: int | Literal["auto"] = "auto",
        components: int = 16,
        hidden: Sequence[int] = (64, 64),
        channels: int = 32,
        critic_steps: int = 1,
        penalty: float = 10.0,
        matching: float = 30.0,
        negatives: float = 0.25,
    ) -> None:
        super().__init__()
        check_choice("loss", loss, LOSSES)
        space = Space.real(space) if isinstance(space, int) else space
        self.condition = Condition(space)
        dim, given = self.condition.dim, self.condition.width
        self.image = space.image
        if latent == "auto":
            latent = LATENT if self.image is None else LATENT_OF_IMAGES
        check_counts(dim=dim, latent=latent, components=components, channels=channels, critic_steps=critic_steps)
        check_widths(hidden)
        check_number("penalty", penalty, 0.0)
        check_number("matching", matching, 0.0)
        check_number("negatives", negatives, 0.0, 1.0)
        self.kind, self.latent_dim, self.components, self.critic_steps = loss, latent, components, critic_steps
        self.penalty, self.matching, self.negatives = penalty, matching, negatives
        spectral, code = loss == "hinge", latent + components
        self.slope = SLOPE if spectral and self.image is None else 1.0
        self.generator: MLP | Synthesis
        self.critic: MLP | Analysis
        self.encoder: MLP | Analysis
        if self.image is not None:
            self.generator = Synthesis(self.image, code + given, channels)
            self.critic = Analysis(self.image, 1, channels, given, spectral=spectral)
            self.encoder = Analysis(self.image, code, channels, given)
            self.work, self.rate = self.generator.work + self.encoder.work, RATE
        else:
            self.generator = _awake(MLP(code + given, dim, hidden))
            self.critic = SpectralMLP(dim + given, 1, hidden) if spectral else _awake(MLP(dim + given, 1, hidden))
            self.encoder = _awake(MLP(dim + given, code, hidden))
            with torch.no_grad():
                # Encoded columns have unit variance; the generator starts with rows of the same size.
                made = self._generate(torch.randn(given, 256))
                self.generator.get_parameter(f"weight{len(hidden)}").div_(made.std(1, keepdim=True) + 1e-6)
        # No part of the state: they serve training only.
        self._older: list[nn.Module] = []
        self._kept_at = 0.0

    # ------------------------------------------------------------------ training

    def objectives(self) -> list[Objective]:
        """The discriminator's steps, the generator's and the encoder's."""
        critic: Objective = (list(self.critic.parameters()), self.loss)
        return [
            *[critic] * self.critic_steps,
            (list(self.generator.parameters()), self.generator_loss),
            (list(self.encoder.parameters()), self.encoder_loss),
        ]

    def on_epoch(self, progress: float) -> None:
        """Keep a copy of the generator now and then."""
        if progress == 0.0:
            self._older, self._kept_at = [], 0.0
        elif progress >= self._kept_at + 0.5 / OLDER:
            self._older = [*self._older, copy.deepcopy(self.generator).requires_grad_(False)][-OLDER:]
            self._kept_at = progress

    def loss(self, z: Tensor) -> Tensor:
        """Loss of the discriminator: each row beside a negative of the same condition, shape ``(n,)``."""
        x, context = self.condition.split(z)
        with torch.no_grad():
            negative = self._negatives(x, context)
        real, false = self._logit(torch.cat([x, negative], 1), torch.cat([context, context], 1)).chunk(2)
        if self.kind == "hinge":
            return (1 - real).relu() + (1 + false).relu()
        if self.kind == "minimax":
            return softplus(-real) + softplus(false)
        if self.kind == "least_squares":
            return (real - 1).square() + false.square()
        return false - real + self.penalty * steepness(lambda x: self._logit(x, context), x, negative)

    def generator_loss(self, z: Tensor) -> Tensor:
        """Loss of the generator, one generated row for each row of the same condition, shape ``(n,)``."""
        x, context = self.condition.split(z)
        fake = self._generate(context)
        with frozen(self.critic):
            found, logit = self._read(fake, context)
            if self.matching:
                with torch.no_grad():
                    real = self._matched(self._read(x, context)[0])
        if self.kind == "minimax":
            loss = softplus(-logit)
        else:
            loss = (logit - 1).square() if self.kind == "least_squares" else -logit
        if not self.matching:
            return loss
        features = self._matched(found)
        # Rows generated for one batch repel each other: this is what keeps modes and their widths.
        spread = torch.cdist(features, features).sum(1) / max(len(features) - 1, 1)
        return loss + self.matching * (2 * torch.cdist(real, features).mean(1) - spread)

    def encoder_loss(self, z: Tensor) -> Tensor:
        """Loss of the encoder: reconstructions of rows, and codes of generated rows, shape ``(n,)``."""
        x, context = self.condition.split(z)
        code = self._draw(len(z))
        with frozen(self.generator):
            with torch.no_grad():
                fake = self._generate(context, code)
            error = (self._generate(context, self._encode(x, context)) - x).square().mean(0)
        normal, logits = self._guess(fake, context)
        missed = (normal - code[: self.latent_dim]).square().mean(0)
        confused = cross_entropy(logits.t(), code[self.latent_dim :].argmax(0), reduction="none")
        loss: Tensor = error + 0.1 * (missed + confused)
        return loss

    def monitor(self, z: Tensor) -> Tensor:
        """Mean squared error of the reconstruction of every row, shape ``(n,)``."""
        x = z[:, : self.condition.dim]
        return (self.reconstruct(z)[:, : self.condition.dim] - x).square().mean(1)

    def measure(self, z: Tensor) -> dict[str, float]:
        """How generated rows of the same conditions compare with `z`, and how well the discriminator parts them."""
        z = z[:MEASURED]
        dim = self.condition.dim
        fake = self.sample(len(z), z[:, dim:]) if z.shape[1] > dim else self.sample(len(z))
        real, false = self.realness(z), self.realness(fake)
        sides = [rows[:, :dim] for rows in (z, fake)]
        if self.image is not None:
            sides = [pooled([rows.reshape(-1, *self.image)], COMPARED) for rows in sides]
        return {
            "logit_gap": float(real.mean() - false.mean()),
            "told_apart": float((real[:, None] > false).float().mean()),
            **likeness(*sides),
        }

    def complaints(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """Collapse and a lost game, judged by the medians over the last third of the checks."""
        last = history[-(-2 * len(history) // 3) :] or history[-1:]

        def usual(name: str, default: float) -> float:
            return median([entry[name] for entry in last if name in entry] or [default])

        covered, different, parted = usual("coverage", 1.0), usual("different_bins", 0.0), usual("told_apart", 0.5)
        found = []
        if covered < COVERED or different > DIFFERENT:
            found.append(
                f"the generator has collapsed, or not learned yet: it covers {covered:.0%} of the rows, and "
                f"{different:.0%} of the bins differ; raise matching or max_epochs, or lower learning_rate. "
                "Samples suffer, scores by features hardly do."
            )
        if parted > TOLD_APART:
            found.append(
                f"the discriminator has won: it tells {parted:.1%} of all pairs of real and generated rows apart; "
                "raise matching or max_epochs, or lower learning_rate or critic_steps."
            )
        return found

    # ------------------------------------------------------------------ abilities

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        context = self.condition.context_for(n, condition, next(self.generator.parameters()))
        return self.condition.join(self._generate(context).t(), condition).contiguous()

    def realness(self, z: Tensor) -> Tensor:
        """Logit of the discriminator for every row, shape ``(n,)``."""
        return self._logit(*self.condition.split(z))

    def features(self, z: Tensor) -> Tensor:
        """Activations of all hidden layers of the discriminator, shape ``(n, sum(hidden))``.

        Of images, those of the last two convolutions, averaged over patches where they are more than 4,096.
        """
        found, _ = self._read(*self.condition.split(z))
        return torch.cat(found).t() if self.image is None else pooled(found[-2:])

    def reconstruct(self, z: Tensor) -> Tensor:
        """Rows generated from the encoder's codes of the rows `z`, shape ``(n, d)``; conditions stay."""
        x, context = self.condition.split(z)
        made = self._generate(context, self._encode(x, context)).t()
        return torch.cat([made, z[:, self.condition.dim :]], 1)

    # ------------------------------------------------------------------ parts

    def _draw(self, n: int) -> Tensor:
        """Codes ``(latent + components, n)``: normal coordinates, and the one-hot name of a component."""
        device = next(self.generator.parameters()).device
        normal = torch.randn(self.latent_dim, n, device=device)
        chosen = torch.randint(self.components, (n,), device=device)
        return torch.cat([normal, one_hot(chosen, self.components).t() * self.components**0.5])

    def _generate(self, context: Tensor, code: Tensor | None = None, generator: nn.Module | None = None) -> Tensor:
        code = self._draw(context.shape[1]) if code is None else code
        x: Tensor = (generator or self.generator)(torch.cat([code, context]))
        return (x if self.image is None else x.tanh()).to(code.dtype)

    def _negatives(self, x: Tensor, context: Tensor) -> Tensor:
        """Generated columns, a share of which is replaced by noise around rows and by rows of an older generator."""
        negative = self._generate(context)
        noisy = int(0.5 * self.negatives * x.shape[1])
        if noisy:
            low, high = SPREAD if self.image is None else SPREAD_OF_IMAGES
            spread = low * (high / low) ** torch.rand(1, noisy, device=x.device)
            negative[:, :noisy] = x[:, :noisy] + spread * torch.randn_like(x[:, :noisy])
            if self._older:
                older = self._older[int(torch.randint(len(self._older), ()))]
                negative[:, noisy : 2 * noisy] = self._generate(context[:, noisy : 2 * noisy], generator=older)
        return negative

    def _logit(self, x: Tensor, context: Tensor) -> Tensor:
        if isinstance(self.critic, Analysis):
            return self._read(x, context)[1]
        logit: Tensor = self.slope * self.critic(torch.cat([x, context]))[0]
        return logit

    def _read(self, x: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
        """What every hidden layer of the discriminator passes on, and the logit."""
        x = torch.cat([x, context]) if len(context) else x
        if isinstance(self.critic, Analysis):
            found = self.critic.activations(x)
            return found, self.slope * self.critic.read(found)[0]
        *inner, (weight, bias) = self.critic.layers()
        found = []
        for inner_weight, inner_bias in inner:
            x = torch.addmm(inner_bias, inner_weight, x).relu()
            found.append(x)
        return found, self.slope * torch.addmm(bias, weight, x)[0]

    def _matched(self, found: list[Tensor]) -> Tensor:
        """Activations that real and generated rows are matched by, shape ``(n, k)``."""
        return torch.cat(found).t() if self.image is None else MATCHED_SIZE * pooled(found, MATCHED)

    def _guess(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The normal coordinates of the codes of columns `x`, and the logits of their components."""
        guess: Tensor = self.encoder(torch.cat([x, context]))
        return softclip(guess[: self.latent_dim], LONGEST_CODE), guess[self.latent_dim :]

    def _encode(self, x: Tensor, context: Tensor) -> Tensor:
        normal, logits = self._guess(x, context)
        return torch.cat([normal, logits.softmax(0) * self.components**0.5])


def _awake(network: MLP) -> MLP:
    """The network with a last layer that does not start at zero: zeros would tell the others nothing."""
    last = network.get_parameter(f"weight{len(network.layers()) - 1}")
    nn.init.uniform_(last, -(last.shape[1] ** -0.5), last.shape[1] ** -0.5)
    return network
