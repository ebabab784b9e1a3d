"""Logistic distributions of pixels: probability masses of their 256 levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from anomgen.generative import PIXEL_LEVELS, PIXEL_WIDTH
from anomgen.nn.mixture import choose

LOG_SCALES = 7.0
"""Largest magnitude of a log-scale. A logistic of scale :math:`e^{-7}` has all but 3 % of its mass in a pixel."""
START = -2.0
"""Log-scale that mixtures start from: a few dozen levels."""


def logistic_log_mass(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""Log-mass of pixels under logistic distributions, elementwise.

    With the edges :math:`a, b = (z \mp \tfrac1{256} - \mu) / s` of the interval of a level,

    .. math:: \log\bigl(\sigma(b) - \sigma(a)\bigr) = \log \sigma(b) + \log \sigma(-a) + \log\bigl(1 - e^{a - b}\bigr),

    where :math:`a = -\infty` for the lowest level and :math:`b = \infty` for the highest: they take the tails, so that
    the masses of 256 levels sum to one.

    Parameters
    ----------
    z : Tensor
        Middles of the levels of pixels, :math:`(2k + 1) / 256 - 1`.
    mean, log_scale : Tensor
        :math:`\mu` and :math:`\log s`, of what shapes broadcast with `z`. Log-scales are clamped to [-7, 7].

    Returns
    -------
    Tensor
        Finite, with finite gradients, for all finite arguments.

    References
    ----------
    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517, which approximates where this is exact.

    Examples
    --------
    >>> levels = (2 * torch.arange(256.0) + 1) / 256 - 1
    >>> round(logistic_log_mass(levels, torch.tensor(0.3), torch.tensor(-3.0)).exp().sum().item(), 4)
    1.0
    """
    slope = log_scale.clamp(-LOG_SCALES, LOG_SCALES).neg().exp()
    centred = z - mean
    below = logsigmoid((centred + PIXEL_WIDTH / 2) * slope)
    above = logsigmoid((PIXEL_WIDTH / 2 - centred) * slope)
    inside = (slope * -PIXEL_WIDTH).expm1().neg().log()
    lowest, highest = z < PIXEL_WIDTH - 1, z > 1 - PIXEL_WIDTH
    both = below + above + inside
    return torch.where(lowest, below, torch.where(highest, above, both))


def logistic_sample(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Draw pixels, middles of their levels, with torch's current generator; masses as :func:`logistic_log_mass`."""
    uniform = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
    return nearest_level(mean + log_scale.clamp(-LOG_SCALES, LOG_SCALES).exp() * uniform.logit())


def nearest_level(x: Tensor) -> Tensor:
    """Middle of the level whose interval holds `x`; of the outermost ones beyond [-1, 1].

    Examples
    --------
    >>> nearest_level(torch.tensor([-3.0, 0.001, 1.0])) * 256
    tensor([-255.,    1.,  255.])
    """
    levels = ((x + 1) / PIXEL_WIDTH).floor().clamp(0, PIXEL_LEVELS - 1)
    return (2 * levels + 1) / PIXEL_LEVELS - 1


class PixelMixture:
    r"""Mixtures of logistic distributions of whole pixels: their channels depend on each other.

    A component `m` is chosen for all channels of a pixel, each of which is moved by those before it (red, green, blue):

    .. math:: P(x) = \sum_m w_m \prod_c P\Bigl(x_c;\ \mu_{mc} + \sum_{b < c} \tanh(a_{mbc})\, x_b,\ s_{mc}\Bigr)

    with the masses of :func:`logistic_log_mass`.

    Parameters
    ----------
    channels, components : int

    Attributes
    ----------
    outputs : int
        Numbers that a network says of every pixel.
    start : Tensor of shape (outputs,)
        Those to start from: components side by side, each as wide as a few dozen levels.

    References
    ----------
    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517.

    Examples
    --------
    >>> mixture = PixelMixture(3, 5)
    >>> mixture.outputs, mixture.log_mass(torch.zeros(2, 50, 4, 4), torch.zeros(2, 3, 4, 4)).shape
    (50, torch.Size([2, 3, 4, 4]))
    """

    def __init__(self, channels: int, components: int) -> None:
        self.channels, self.components = channels, components
        self.pairs = [(b, c) for c in range(channels) for b in range(c)]
        means = torch.linspace(-1, 1, components) if components > 1 else torch.zeros(1)
        told = torch.zeros(components, 1 + 2 * channels + len(self.pairs))
        told[:, 1 : 1 + channels], told[:, 1 + channels : 1 + 2 * channels] = means[:, None], START
        self.start, self.outputs = told.flatten(), told.numel()

    def log_mass(self, y: Tensor, x: Tensor) -> Tensor:
        """Log-mass of every channel given those before it, ``(n, c, h, w)``, from outputs ``(n, outputs, h, w)``."""
        log_weight, means, log_scales, slopes = self._parts(y.to(x.dtype))
        terms = []
        for c in range(self.channels):
            after = log_weight + logistic_log_mass(x[:, None, c], self._mean(c, means, slopes, x), log_scales[:, :, c])
            terms.append(after.logsumexp(1))
            log_weight = after - terms[-1][:, None]
        return torch.stack(terms, 1)

    def draw(self, y: Tensor, given: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Draw what is not observed of pixels with torch's current generator.

        Parameters
        ----------
        y : Tensor of shape (n, outputs, h, w)
        given : Tensor of shape (n, c, h, w)
            Values where observed.
        observed : Tensor of shape (n, c, h, w), bool

        Returns
        -------
        x : Tensor of shape (n, c, h, w)
        log_mass : Tensor of shape (n, c, h, w)
            Of what is observed given what comes before it; 0 elsewhere.
        """
        log_weight, means, log_scales, slopes = self._parts(y.to(given.dtype))
        x, terms = torch.zeros_like(given), torch.zeros_like(given)
        for c in range(self.channels):
            mean, log_scale = self._mean(c, means, slopes, x), log_scales[:, :, c]
            chosen = choose(log_weight.transpose(0, 1))[:, None]
            drawn = logistic_sample(mean.gather(1, chosen), log_scale.gather(1, chosen))[:, 0]
            x[:, c] = torch.where(observed[:, c], given[:, c], drawn)
            after = log_weight + logistic_log_mass(x[:, None, c], mean, log_scale)
            mass = after.logsumexp(1)
            terms[:, c] = torch.where(observed[:, c], mass, 0.0)
            log_weight = after - mass[:, None]
        return x, terms

    def _parts(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights ``(n, M, h, w)``; means, log-scales and slopes ``(n, M, c or pairs, h, w)``."""
        n, _, h, w = y.shape
        sizes = [1, self.channels, self.channels, len(self.pairs)]
        logits, means, log_scales, slopes = y.reshape(n, self.components, sum(sizes), h, w).split(sizes, 2)
        return logits[:, :, 0].log_softmax(1), means, log_scales, slopes.tanh()

    def _mean(self, c: int, means: Tensor, slopes: Tensor, x: Tensor) -> Tensor:
        """Means of channel `c`, ``(n, M, h, w)``, given the channels of `x` before it."""
        mean = means[:, :, c]
        for pair, (before, moved) in enumerate(self.pairs):
            if moved == c:
                mean = mean + slopes[:, :, pair] * x[:, None, before]
        return mean
