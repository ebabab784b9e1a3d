"""Autoregressive model of images: exact masses, pixel by pixel."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Space
from anomgen.nn import check_counts
from anomgen.nn.convolution import pooled
from anomgen.nn.logistic import PixelMixture
from anomgen.nn.pixelcnn import Memory, PixelCNN

RATE = 0.8
"""Factor on the learning rate of dense networks that suits the convolutional one."""
PIECE = 25_088
"""Pixels that pass the network at a time on a CPU: 32 images of 28 by 28."""
DRAWN = 1024
"""Images drawn at a time for filling gaps."""


class ImageAutoregressive(GenerativeModel):
    r"""Autoregressive model of images, flat rows ``z`` of shape ``(n, c * h * w)`` of the middles of 256 levels.

    .. math:: P(z) = \prod_i P(z_i \mid z_1, \dots, z_{i-1})

    Pixels come row by row from the top left, the channels of each one after the other. A causal convolutional network
    says what mixture of discretized logistic distributions a pixel has given those before it. The probability is
    exact.

    Parameters
    ----------
    space : Space
        Of images.
    channels, blocks, components
        As in :class:`AutoregressiveDetector`.

    Raises
    ------
    ValueError
        If a parameter is outside its domain.

    References
    ----------
    van den Oord, Kalchbrenner, Kavukcuoglu (2016), *Pixel Recurrent Neural Networks*, arXiv:1601.06759.

    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517.

    Examples
    --------
    >>> model = ImageAutoregressive(Space.pixels(3, 5, 6), channels=8)
    >>> model.log_prob_terms(torch.zeros(2, 90)).shape
    torch.Size([2, 90])
    """

    codes: ClassVar[bool] = True
    drawing: ClassVar[str] = "particle filter"

    def __init__(self, space: Space, *, channels: int = 24, blocks: int = 2, components: int = 8) -> None:
        super().__init__()
        check_counts(channels=channels, blocks=blocks, components=components)
        assert space.image is not None
        self.image = space.image
        self.mixture = PixelMixture(self.image[0], components)
        self.network = PixelCNN(self.image, self.mixture.outputs, channels, blocks, self.mixture.start)
        self.work, self.rate = self.network.work, RATE

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-probability of every image, in nats, shape ``(n,)``."""
        return self.log_prob_terms(z).sum(1)

    def log_prob_terms(self, z: Tensor) -> Tensor:
        """Log-probability of every channel of every pixel given all before it, shape ``(n, c * h * w)``."""
        # In pieces that stay in the cache, which training would otherwise leave at every layer.
        height = max(1, PIECE // math.prod(self.image[1:])) if z.device.type == "cpu" else max(1, len(z))
        pieces = z.reshape(-1, *self.image).split(height)
        return torch.cat([self.mixture.log_mass(self.network(x), x).flatten(1) for x in pieces])

    def features(self, z: Tensor) -> Tensor:
        """Activations at the coarse resolutions, in patches, shape ``(n, k)`` with at most 4,096 of them."""
        return pooled(self.network.middle(z.reshape(-1, *self.image)))

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, c * h * w)`` with torch's current generator.

        Pixel by pixel, but what was computed for those before is remembered: the multiplications are those of scoring
        as many rows once. What it costs is the dozen small operations for every pixel, which many rows share: a
        thousand images of 28 by 28 take about three times as long as fifty.
        """
        blank = self.network.frame.new_zeros(n, *self.image)
        return self._draw(blank, torch.zeros_like(blank, dtype=torch.bool), 1)

    def sample_given(self, z: Tensor, observed: Tensor, particles: int = 64) -> Tensor:
        r"""Draw what is not observed of rows `z`, shape ``(n, c * h * w)``, given what is, with the current generator.

        Candidates are drawn pixel by pixel, those observed staying as they are. After every row of pixels, candidates
        are chosen anew with the probability of what is observed in it given what was drawn before (a particle filter),
        which brings in what the pixels below have to say. Exact as the number of candidates grows.

        Parameters
        ----------
        z : Tensor of shape (n, c * h * w)
            Values where observed; anything elsewhere.
        observed : Tensor of shape (n, c * h * w), bool
        particles : int
            Candidates for each image.

        References
        ----------
        Gordon, Salmond, Smith (1993), *Novel approach to nonlinear/non-Gaussian Bayesian state estimation*.
        """
        height = max(1, DRAWN // particles)
        parts = zip(z.split(height), observed.split(height), strict=True)
        shape = (-1, *self.image)
        return torch.cat([self._draw(given.reshape(shape), kept.reshape(shape), particles) for given, kept in parts])

    def _draw(self, given: Tensor, observed: Tensor, particles: int) -> Tensor:
        """Rows drawn around what is observed of images ``(n, c, h, w)``."""
        planes, rows, columns = self.image
        n = len(given)
        given, observed = (part.repeat(particles, 1, 1, 1) for part in (given, observed))
        canvas = self.network.framed(torch.zeros_like(given))
        before: Memory = {}
        for i in range(rows):
            above = canvas[:, :, i - 1 : i] if i else torch.zeros_like(canvas[:, :, :1])
            context = self.network.context(above, before)
            log_mass = given.new_zeros(len(given))
            along: Memory = {}
            left = torch.zeros_like(canvas[:, :, :1, :1])
            for j in range(columns):
                place = (slice(None), slice(None), slice(i, i + 1), slice(j, j + 1))
                y = self.network.along(left, context[..., j : j + 1], along)
                drawn, terms = self.mixture.draw(y, given[place], observed[place])
                log_mass += terms.flatten(1).sum(1)
                left = canvas[place]
                left[:, :planes] = drawn
            if particles > 1:
                chosen = resampled(log_mass.view(particles, n)).mul(n).add(torch.arange(n, device=given.device))
                canvas = canvas[chosen.flatten()]
                before = {layer: kept[chosen.flatten()] for layer, kept in before.items()}
        one = torch.randint(particles, (n,), device=given.device) * n + torch.arange(n, device=given.device)
        return canvas[one, :planes].flatten(1)


def resampled(log_weight: Tensor) -> Tensor:
    """Numbers of particles ``(P, n)`` drawn by their weights ``(P, n)``, as evenly as can be: equal ones all stay.

    References
    ----------
    Kitagawa (1996), *Monte Carlo filter and smoother for non-Gaussian nonlinear state space models*.
    """
    count, n = log_weight.shape
    below = log_weight.t().double().softmax(1).cumsum(1)
    comb = (torch.arange(count, device=below.device) + torch.rand(n, 1, device=below.device).double()) / count
    return torch.searchsorted(below, comb.contiguous()).clamp(max=count - 1).t()
