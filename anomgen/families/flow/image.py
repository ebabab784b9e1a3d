"""Flows on images: several scales of small convolutional couplings."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from anomgen.generative import PIXEL_WIDTH, GenerativeModel, Space
from anomgen.nn import Condition, check_choice, check_counts
from anomgen.nn.glow import Logit, Neighbourhood, Plan
from anomgen.nn.multiscale import multiscale

COUPLINGS = ("affine", "additive")
ALPHA = 5e-4
"""How far black and white stay away from infinity, as a share of the range: an eighth of a level."""
PREPARED_ON = 2048
"""Images that data-dependent initialization looks at."""
MOST_FEATURES = 4096


class ImageFlow(GenerativeModel):
    r"""Multi-scale normalizing flow on images, flat rows ``z`` of shape ``(n, d)`` in [-1, 1].

    .. math:: \log p(z) = \log N(f(z); 0, 1) + \log |\det \partial f / \partial z|

    `f` takes the logit of every pixel, then on each scale turns blocks of 2 by 2 pixels into channels, lets some steps
    of actnorm, invertible 1x1 convolution and coupling follow, and splits a half of the channels off under a prior
    learned from the other half. The last line of an odd side leaves first, given the two lines before it, so that
    images of any size are modelled exactly.

    Parameters
    ----------
    space : Space
        Of images of at least 2 by 2 pixels; conditions enter every coupling.
    coupling, scales, steps, channels
        As in :class:`FlowDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain, or images are smaller.

    Notes
    -----
    With ``coupling="additive"`` the Jacobian is constant but for the logit's.

    Examples
    --------
    >>> flow = ImageFlow(Space.pixels(1, 7, 9), steps=1, channels=4)
    >>> flow.sample(5).shape, flow.to_latent(torch.zeros(3, 63)).shape
    (torch.Size([5, 63]), torch.Size([3, 63]))
    """

    prepared: Tensor

    def __init__(
        self, space: Space, *, coupling: str = "affine", scales: int = 3, steps: int = 4, channels: int = 32
    ) -> None:
        super().__init__()
        if space.image is None or min(space.image[1:]) < 2:
            raise ValueError(f"images have shape {space.shape}; a flow needs at least 2 by 2 pixels")
        check_choice("coupling", coupling, COUPLINGS)
        check_counts(scales=scales, steps=steps, channels=channels)
        self.image = space.image
        self.condition = Condition(space)
        self.logit = Logit(ALPHA)
        plan = Plan(scales, steps, channels, self.condition.width, coupling == "affine")
        self.network = multiscale(self.image, plan)
        self.register_buffer("prepared", torch.tensor(False))
        self.work = sum(part.work for part in self.modules() if isinstance(part, Neighbourhood))
        self.rate = 0.6

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent of every row, shape ``(n, d)``, and the log-determinant of the map, shape ``(n,)``."""
        latent, terms = self._to_latent(z)
        normal = latent.square().sum(1) * -0.5 - 0.5 * math.log(2 * math.pi) * latent.shape[1]
        return latent, terms.sum(1) - normal

    def inverse(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        """Row of every latent, shape ``(n, d)``."""
        context = self.condition.context_for(len(latent), condition, latent).t()
        y = self.network.inverse(latent.reshape(-1, *self.image), context)
        return self.condition.join(self.logit.inverse(y).flatten(1), condition)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of every row in nats, shape ``(n,)``."""
        return self.log_prob_terms(z).sum(1)

    def log_prob_terms(self, z: Tensor) -> Tensor:
        """Share of every pixel in the log-density, nats, shape ``(n, d)``.

        The density of a latent is spread evenly over the block of pixels that it covers, and so is the log-determinant
        that arises there.
        """
        return self._to_latent(z)[1]

    def to_latent(self, z: Tensor) -> Tensor:
        """White noise that stands for every row, shape ``(n, d)``: every number at a pixel that it comes from."""
        return self._to_latent(z)[0]

    def features(self, z: Tensor) -> Tensor:
        """What leaves the steps of every scale, averaged over squares so that 4,096 numbers at most result."""
        x, context, _ = self._start(z)
        found = self.network.scales(x, context)
        return torch.cat([_pooled(part, MOST_FEATURES // len(found)).flatten(1) for part in found], 1)

    def sample(self, n: int, condition: Tensor | None = None) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator, of the given conditions if any."""
        parameter = next(self.parameters())
        return self.inverse(torch.randn(n, self.condition.dim, device=parameter.device), condition)

    def perturb(self, z: Tensor, strength: float) -> Tensor:
        """Draw rows near rows `z`: their latents a part of the way to fresh ones, none of it at 0 and all at 1."""
        latent, condition = self.to_latent(z), z[:, self.condition.dim :]
        moved = math.sqrt(1 - strength**2) * latent + strength * torch.randn_like(latent)
        return self.inverse(moved, condition if condition.shape[1] else None)

    def prepare(self, z: Tensor) -> None:
        """Let every channel leave its actnorm with mean zero and variance one; only before the first training."""
        if self.prepared:
            return
        some = torch.linspace(0, len(z) - 1, min(len(z), PREPARED_ON), device=z.device).long()
        rows = z[some].clone()
        own = rows[:, : self.condition.dim]
        own += PIXEL_WIDTH * (torch.rand_like(own) - 0.5)
        with torch.no_grad():
            x, context, _ = self._start(rows)
            self.network.prepare(x, context)
        self.prepared.fill_(True)

    def _start(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels as images, context ``(n, k)``, and log-derivatives of the logits as images."""
        x, context = self.condition.split(z)
        y, terms = self.logit(x.t().reshape(-1, *self.image))
        return y, context.t(), terms

    def _to_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``(n, d)``, and where the log-density arises ``(n, d)``."""
        x, context, terms = self._start(z)
        latent, located = self.network(x, context)
        return latent.flatten(1), (terms + located[:, None] / self.image[0]).flatten(1)


def _pooled(x: Tensor, most: int) -> Tensor:
    """Images averaged over squares until they have `most` numbers at most, if their channels are not more."""
    _, c, h, w = x.shape
    shrink = max(1.0, math.sqrt(c * h * w / most))
    return adaptive_avg_pool2d(x, (max(1, int(h / shrink)), max(1, int(w / shrink)))) if shrink > 1 else x
