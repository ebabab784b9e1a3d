"""A U-Net that tells noise from images, on columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, layer_norm, pad, silu

from anomgen.generative import PIXEL_WIDTH, Space
from anomgen.nn.denoiser import FREQUENCIES, Denoiser, level_features, level_frequencies

SMALLEST = 8
"""Height and width that the coarsest scale stays within."""
WIDEST = 4
"""Channels of a scale at most, as a multiple of those of the finest one."""
FEATURES = 4096
"""Numbers at most that describe an image."""
BROAD = 0.25
"""Variance that the likelihood of an extreme is weighed against."""
ENDS = (PIXEL_WIDTH / 2 - 1, 1 - PIXEL_WIDTH / 2)
"""Middles of the intervals of black and white."""
VARIANCE = PIXEL_WIDTH**2 / 12
"""Variance of a pixel within the interval of its level."""
HIDDEN = 5.0
"""Noise, as a multiple of an interval's width, that hides where in it a pixel is."""
RARE = -3.0
"""Log-odds of an extreme before training."""
CACHED = 2**20
"""Activations of the finest scale that pass at once where no gradient is taken: they stay in cache."""


def noise_of_level(away: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    r"""Noise to be found in a pixel of which only its level is known, and the log-density of the noisy pixel.

    With `x` uniform in an interval of width `w`, :math:`\tilde x` away from its middle by `a`, and
    :math:`a_\pm = (a \pm w / 2) / s`,

    .. math:: \mathbb{E}[\varepsilon \mid \tilde x] = \frac{\varphi(a_-) - \varphi(a_+)}{\Phi(a_+) - \Phi(a_-)},
              \qquad p(\tilde x) = \frac{\Phi(a_+) - \Phi(a_-)}{w} .

    Parameters
    ----------
    away : Tensor of shape (n, d)
    s : Tensor of shape (n, 1)
        Noise level. Where it hides the interval, a normal distribution of equal variance stands for it.

    Examples
    --------
    >>> noise_of_level(torch.tensor([[0.1]]), torch.tensor([[0.1]]))[0]
    tensor([[0.9995]])
    """
    variance = s * s + VARIANCE
    noise = away * (s / variance)
    log_density = -0.5 * (away.square() / variance + (2 * math.pi * variance).log())
    sharp = s < PIXEL_WIDTH * HIDDEN
    if not sharp.any():
        return noise, log_density
    low, high = ((away.abs() + side * PIXEL_WIDTH / 2) / s for side in (-1, 1))
    mass = 0.5 * (torch.erfc(low * 0.5**0.5) - torch.erfc(high * 0.5**0.5))
    # Where the mass is lost to rounding no other hypothesis is, and the noise counts nothing.
    exact = ((-0.5 * low * low).exp() - (-0.5 * high * high).exp()) / (math.sqrt(2 * math.pi) * mass.clamp_min(1e-36))
    exact_density = (mass.clamp_min(1e-36) / PIXEL_WIDTH).log()
    return torch.where(sharp, exact * away.sign(), noise), torch.where(sharp, exact_density, log_density)


def denoiser_of(space: Space, given: int, hidden: Sequence[int], channels: int) -> Denoiser | UNet:
    """The network that tells noise from rows of `space`: convolutional where they are images.

    Parameters
    ----------
    space : Space
    given : int
        Rows of the context.
    hidden : sequence of int
        Widths of the layers, for tables.
    channels : int
        Channels of the finest scale, for images.
    """
    return Denoiser(space.modelled, given, hidden) if space.image is None else UNet(space.image, given, channels)


class UNet(nn.Module):
    r"""Noise found in noisy images at any noise level; images are columns, flat and channels first.

    Pixels are extreme far more often than anything in between: backgrounds are black, lights saturated. For each pixel
    of :math:`\tilde x = x + s \varepsilon` the network `f` weighs three hypotheses, with `x` uniform in the interval of
    the black level, in that of the white one, or between:

    .. math:: \hat\varepsilon = q_0 \, (\sigma y + \alpha f_0) + \sum_\pm q_\pm
              \mathbb{E}[\varepsilon \mid \tilde x, \pm] ,
              \qquad q \propto \left( 1, \; e^{f_\pm} \frac{p(\tilde x \mid \pm)}
              {N(\tilde x; e_\pm, s^2 + \frac14)} \right) ,

    where :math:`e_\pm` is the middle of the interval, :math:`y = \alpha \tilde x`, :math:`\alpha = (1 + s^2)^{-1/2}`
    and :math:`\sigma = s \alpha` as in :class:`~anomgen.nn.denoiser.Denoiser`.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width, of any size.
    given : int
        Rows of the context.
    channels : int
        Channels of the finest scale, which has half the height and width of the image; coarser scales have twice as
        many each, four times at most, down to one of at most 8 x 8.

    Attributes
    ----------
    work : int
        Multiply-adds of one image in one pass.

    Notes
    -----
    The last layer starts at zero, and so the answer near that for standard normal data. Blocks are a depthwise
    convolution, a norm over the whole image, a shift and scale by noise level and context, and two pointwise layers:
    a quarter of the work of two full convolutions.

    References
    ----------
    Ho, Jain, Abbeel (2020), *Denoising diffusion probabilistic models*, arXiv:2006.11239.

    Liu et al. (2022), *A ConvNet for the 2020s*, arXiv:2201.03545 (the blocks).

    Examples
    --------
    >>> UNet((1, 5, 7), 0, 8)(torch.ones(35, 3), torch.ones(3), torch.ones(0, 3)).shape
    torch.Size([35, 3])
    """

    frequencies: Tensor

    def __init__(self, shape: tuple[int, int, int], given: int, channels: int) -> None:
        super().__init__()
        self.shape = shape
        self.sides = [-(-side // 2) for side in shape[1:]]
        scales = max(0, math.ceil(math.log2(max(self.sides) / SMALLEST))) + 1
        step = 2 ** (scales - 1)
        self.sides = [-(-side // step) * step for side in self.sides]
        widths = [channels * min(2**k, WIDEST) for k in range(scales)]
        self.register_buffer("frequencies", level_frequencies(), persistent=False)
        self.told = nn.Linear(2 * FREQUENCIES + 1 + given, 4 * channels)
        self.first = nn.Linear(4 * 3 * shape[0], channels)
        self.fine = nn.ModuleList(Block(width, 4 * channels) for width in widths[:-1])
        self.down = nn.ModuleList(nn.Linear(4 * low, high) for low, high in pairwise(widths))
        self.middle = nn.ModuleList(Block(widths[-1], 4 * channels) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(high, 4 * low) for low, high in pairwise(widths))
        self.back = nn.ModuleList(Block(width, 4 * channels) for width in widths[:-1])
        self.last = nn.Linear(channels, 4 * 3 * shape[0])
        places = [self.sides[0] * self.sides[1] // 4**k for k in range(scales)]
        self.work = places[0] * (_size(self.first) + _size(self.last)) + places[-1] * sum(map(_size, self.middle))
        for k, layers in enumerate(zip(self.fine, self.back, strict=True)):
            self.work += places[k] * sum(map(_size, layers))
        for k, layers in enumerate(zip(self.down, self.up, strict=True)):
            self.work += places[k + 1] * sum(map(_size, layers))
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([0.0, RARE, RARE]).repeat_interleave(shape[0]).repeat(4))

    def forward(self, noisy: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """Noise ``(dim, n)`` found in columns ``(dim, n)`` at levels ``(n,)``, given context ``(given, n)``."""
        some = self._at_once(noisy)
        if noisy.shape[1] > some:
            parts = zip(noisy.split(some, 1), level.split(some), context.split(some, 1), strict=True)
            return torch.cat([self(*part) for part in parts], 1)
        x, s = noisy.t(), level[:, None]
        alpha = (1 + s * s).rsqrt()
        y = x * alpha
        told = self._told(level, context)
        h, skips = self._descend(self._join(x, y, s), told)
        ways = zip(reversed(self.up), reversed(self.back), reversed(skips), strict=True)
        for layer, block, skip in ways:
            h = block(skip + _finer(layer(h)), told)
        between, *odds = self._part(self.last(silu(h)))
        found, weights = [(y * s + between) * alpha], [torch.zeros_like(y)]
        broad = s * s + BROAD
        for end, logit in zip(ENDS, odds, strict=True):
            noise, log_density = noise_of_level(x - end, s)
            found.append(noise)
            weights.append(logit + log_density + 0.5 * ((x - end).square() / broad + (2 * math.pi * broad).log()))
        share = torch.stack(weights).softmax(0)
        return (share * torch.stack(found)).sum(0).t()

    def features(self, noisy: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """What the middle of the network sees in columns ``(dim, n)``, at most 4,096 numbers, shape ``(n, k)``."""
        some = self._at_once(noisy)
        if noisy.shape[1] > some:
            parts = zip(noisy.split(some, 1), level.split(some), context.split(some, 1), strict=True)
            return torch.cat([self.features(*part) for part in parts])
        x, s = noisy.t(), level[:, None]
        joined = self._join(x, x * (1 + s * s).rsqrt(), s)
        h = silu(self._descend(joined, self._told(level, context))[0])
        n, height, width, channels = h.shape
        side = math.isqrt(FEATURES // channels)
        h = h.permute(0, 3, 1, 2)
        if height * width * channels > FEATURES:
            h = adaptive_avg_pool2d(h, (min(height, side), min(width, side)))
        return h.reshape(n, -1)

    def _at_once(self, noisy: Tensor) -> int:
        """Images that pass together."""
        if torch.is_grad_enabled() or noisy.device.type != "cpu":
            return max(noisy.shape[1], 1)
        # Powers of two, as the heights of tiles are: parts of equal height leave no row to kernels of another.
        size = self.sides[0] * self.sides[1] * self.first.out_features
        return int(2 ** max(0, math.floor(math.log2(CACHED / size))))

    def _told(self, level: Tensor, context: Tensor) -> Tensor:
        return silu(self.told(torch.cat([level_features(level, self.frequencies), context]).t()))

    def _join(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Squares of 2 x 2 pixels and how near they are to the extremes, ``(n, h / 2, w / 2, 12 c)``."""
        c, h, w = self.shape
        near = [((x - end).square() * (-0.5 / (s * s + VARIANCE))).exp() for end in ENDS]
        x = torch.stack([y, *near], 1).reshape(-1, 3 * c, h, w)
        x = pad(x, (0, 2 * self.sides[1] - w, 0, 2 * self.sides[0] - h))
        return _coarser(x.permute(0, 2, 3, 1))

    def _part(self, x: Tensor) -> list[Tensor]:
        """Three numbers for each pixel of such squares, each ``(n, c h w)``."""
        c, h, w = self.shape
        x = _finer(x)[:, :h, :w].permute(0, 3, 1, 2)
        return [part.reshape(len(x), -1) for part in x.reshape(len(x), 3, c, h, w).unbind(1)]

    def _descend(self, x: Tensor, told: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Activations in the middle, and those of every finer scale."""
        h, skips = self.first(x), []
        for block, layer in zip(self.fine, self.down, strict=True):
            skips.append(block(h, told))
            h = layer(_coarser(skips[-1]))
        for block in self.middle:
            h = block(h, told)
        return h, skips


class Block(nn.Module):
    """A residual block on ``(n, h, w, width)`` that is told of noise level and context, ``(n, told)``."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.tell = nn.Linear(told, 2 * width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Activations of the same shape."""
        h = self.space(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        scale, shift = self.tell(told)[:, None, None].chunk(2, -1)
        h = torch.addcmul(shift, layer_norm(h, h.shape[1:]), 1 + scale)
        out: Tensor = x + self.narrow(silu(self.widen(h)))
        return out


def _size(layer: nn.Module) -> int:
    """Multiply-adds of a layer at one place."""
    return sum(p.numel() for name, p in layer.named_parameters() if "tell" not in name)


def _coarser(x: Tensor) -> Tensor:
    """Squares of 2 x 2 places side by side: ``(n, h, w, c)`` to ``(n, h / 2, w / 2, 4 c)``."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def _finer(x: Tensor) -> Tensor:
    """The inverse of :func:`_coarser`."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).permute(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
