"""Likelihood of images given what a decoder says of them, on columns: a logistic distribution for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgen.generative import PIXEL_WIDTH, Space
from anomgen.nn.logistic import logistic_log_mass, logistic_sample

WIDE = -1.0
"""Log-scale of pixels at the start."""
LEAST = -4.0
"""Log-scale that pixels stay above, of about two levels: no single pixel decides what an image is worth."""


class Pixels(nn.Module):
    r"""Independent pixels given a decoder's outputs: for each the location and the scale of a logistic distribution.

    A pixel has the probability mass of its level `k`, one of 256; the lowest and the highest take the tails:

    .. math:: \log p(x \mid u) = \sum_j \log\Bigl(\sigma\bigl(\tfrac{x_j + 1/256 - m_j(u)}{s_j(u)}\bigr)
       - \sigma\bigl(\tfrac{x_j - 1/256 - m_j(u)}{s_j(u)}\bigr)\Bigr)

    The scale follows from a number learned for each pixel plus what the decoder says: a shirt's outline is known worse
    than the background, but where it is depends on the shirt.

    Parameters
    ----------
    space : Space

    Attributes
    ----------
    width : int
        Rows of a decoder's output: the locations of all pixels, then their log-scales.
    planes : int
        Numbers a decoder makes for a pixel.
    inputs : int
        Rows that describe columns to a network: the pixels.

    References
    ----------
    Kingma et al. (2016), *Improving Variational Inference with Inverse Autoregressive Flow*, arXiv:1606.04934 (the
    discretized logistic likelihood of a variational autoencoder).

    Examples
    --------
    >>> pixels = Pixels(Space.pixels(1, 1, 1))
    >>> levels = (2 * torch.arange(256.0)[None] + 1) / 256 - 1
    >>> round(pixels.log_prob(torch.tensor([[0.3], [-2.0]]), levels).exp().sum().item(), 4)
    1.0
    """

    planes = 2

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.dim = self.inputs = space.modelled
        self.width = self.planes * self.dim
        self.log_scale = nn.Parameter(torch.full((self.dim, 1), WIDE))

    def describe(self, x: Tensor) -> Tensor:
        """Network inputs ``(inputs, n)`` from columns ``(dim, n)``."""
        return x

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Log-mass ``(n,)`` of columns ``(dim, n)`` given a decoder's outputs ``(width, n)``, or ``(width, 1)``."""
        location, log_scale = self._law(outputs)
        # Outputs lie in memory image by image; columns that do not would be read across.
        levels = x.t().contiguous().t()
        return logistic_log_mass(levels, location, log_scale).sum(0)

    def sample(self, outputs: Tensor) -> Tensor:
        """Columns ``(dim, n)`` drawn given a decoder's outputs, with torch's current generator."""
        return logistic_sample(*self._law(outputs))

    def expected(self, outputs: Tensor, x: Tensor) -> Tensor:
        r"""Means of the pixels, as columns ``(dim, n)``; `x`, which tables need, is left aside.

        Of the logistic distribution whose tails are moved to the outermost levels `a` and `b`,

        .. math:: a + s \log\frac{1 + e^{(m - a) / s}}{1 + e^{(m - b) / s}} .
        """
        location, log_scale = self._law(outputs)
        scale, end = log_scale.exp(), 1 - PIXEL_WIDTH / 2
        above = softplus((location + end) / scale) - softplus((location - end) / scale)
        return scale * above - end

    def imitate(self, outputs: Tensor) -> Tensor:
        """Drawn columns before they are rounded to levels, differentiable."""
        location, log_scale = self._law(outputs)
        uniform = torch.rand_like(location).clamp(1e-6, 1 - 1e-6)
        return torch.addcmul(location, log_scale.exp(), uniform.logit()).clamp(-1, 1)

    def _law(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = outputs.chunk(2)
        return location, LEAST + softplus(raw + (self.log_scale - LEAST))
