"""Convolutional networks that stand in for dense ones where rows are images: columns in, columns out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, leaky_relu, linear, normalize, pixel_shuffle

from anomgen.nn.spectral import largest

Image = tuple[int, int, int]

LEAK = 0.2
"""Slope of the activation below zero."""
KEPT = 2 / (1 + LEAK**2)
"""Size of weights under which activations keep theirs from layer to layer (He et al., 2015)."""
SMALL = 1 / 3
"""Size of weights of an analysis: what it finds is then learned, where larger ones would stay near what they were."""
SMALLEST = 4
"""Images are halved until no side is longer, and at least twice."""
WIDEST = 4
"""Layers have at most so many times the channels of the first one."""
MOST_FEATURES = 4096
"""Numbers at most that an image is found similar to others by."""
FAINT = 0.1
"""Size of what a :class:`Synthesis` makes at the start."""


def pyramid(image: Image, channels: int) -> list[Image]:
    """Shapes of the activations of an :class:`Analysis`: halved sides, rounded up, until no side is longer than 4.

    Small images are halved twice all the same.

    Examples
    --------
    >>> pyramid((1, 28, 28), 32)
    [(32, 14, 14), (64, 7, 7), (128, 4, 4)]
    """
    _, h, w = image
    shapes: list[Image] = []
    while max(h, w) > SMALLEST or len(shapes) < 2:
        h, w = (h + 1) // 2, (w + 1) // 2
        shapes.append((channels * min(2 ** len(shapes), WIDEST), h, w))
    return shapes


class Layer(nn.Module):
    r"""Linear layer with a bias: convolution, or dense where the kernel has no size.

    Parameters
    ----------
    inputs, outputs : int
        Channels in and out.
    kernel : tuple of int
        Height and width; empty for a dense layer on rows ``(n, inputs)``.
    stride : int
        Of a convolution, whose borders are padded so that sides of size `s` become ``ceil(s / stride)``.
    spectral : bool
        Divide the weight by the largest singular value of its matrix ``(outputs, inputs * kernel)``, as
        :class:`~anomgen.nn.spectral.SpectralMLP` does.
    size : float
        Mean square of a weight at the start, times the number of inputs it is summed over.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...] = (),
        *,
        stride: int = 1,
        spectral: bool = False,
        size: float = KEPT,
    ) -> None:
        super().__init__()
        self.stride, self.spectral = stride, spectral
        self.fan = inputs * math.prod(kernel)
        self.weight = nn.Parameter((size / max(self.fan, 1)) ** 0.5 * torch.randn(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if spectral:
            self.register_buffer("direction", normalize(torch.randn(outputs), dim=0))

    def operator(self) -> Tensor:
        """The weight that multiplies."""
        if not self.spectral:
            return self.weight
        matrix = self.weight.flatten(1)
        # Kernels are far wider than high: their squares are much quicker to take apart.
        square = largest(matrix @ matrix.t(), self.get_buffer("direction"), self.training)
        return self.weight / square.sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, h, w)``, or ``(n, inputs)`` where the layer is dense."""
        weight = self.operator()
        if weight.ndim == 2:
            return linear(x, weight, self.bias)
        pad = [(k - 1) // 2 for k in weight.shape[2:]]
        return conv2d(x, weight, self.bias, self.stride, pad)


class Analysis(nn.Module):
    """Convolutional network from the columns of images to columns of numbers.

    Each layer halves both sides and has more channels than the last; a dense layer ends the network. What is given
    beside an image, further rows of a column, joins its pixels as planes of one value.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width.
    outputs : int
        Numbers for an image.
    channels : int
        Channels of the first layer; the next ones have twice and four times as many.
    given : int
        Rows of a column below its pixels.
    spectral : bool
        Whether every layer is divided by its largest singular value.

    Attributes
    ----------
    shapes : list of tuple of int
        Shapes of the activations.
    work : int
        Multiplications for an image.

    References
    ----------
    Radford, Metz, Chintala (2015), *Unsupervised Representation Learning with DCGANs*, arXiv:1511.06434 (strided
    convolutions); without batch normalization, as an image's score must not depend on its batch.

    Examples
    --------
    >>> Analysis((3, 9, 7), 5, 8)(torch.zeros(3 * 9 * 7, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, image: Image, outputs: int, channels: int, given: int = 0, *, spectral: bool = False) -> None:
        super().__init__()
        self.image, self.given, self.shapes = image, given, pyramid(image, channels)
        layers = []
        for (c, h, w), (wider, *_) in zip([(image[0] + given, *image[1:]), *self.shapes], self.shapes, strict=False):
            # Even sides are halved by kernels of four, which weigh all pixels alike; odd ones need a middle.
            kernel = (3 + (h + 1) % 2, 3 + (w + 1) % 2)
            layers.append(Layer(c, wider, kernel, stride=2, spectral=spectral, size=SMALL))
        self.layers = nn.ModuleList(layers)
        self.head = Layer(math.prod(self.shapes[-1]), outputs, spectral=spectral, size=SMALL)
        self.work = sum(layer.weight.numel() * h * w for layer, (_, h, w) in zip(layers, self.shapes, strict=True))
        self.work += self.head.weight.numel()

    def activations(self, x: Tensor) -> list[Tensor]:
        """What every layer passes on for columns `x`, shapes ``(n, channels, height, width)``."""
        c, h, w = self.image
        rows = x.t()
        y = rows[:, : c * h * w].reshape(-1, c, h, w)
        if self.given:
            y = torch.cat([y, rows[:, c * h * w :, None, None].expand(-1, -1, h, w)], 1)
        found = []
        for layer in self.layers:
            y = leaky_relu(layer(y), LEAK)
            found.append(y)
        return found

    def read(self, activations: Sequence[Tensor]) -> Tensor:
        """The numbers ``(outputs, n)`` that :meth:`activations` lead to."""
        y: Tensor = self.head(activations[-1].flatten(1))
        return y.t()

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(pixels + given, n)`` to ``(outputs, n)``."""
        return self.read(self.activations(x))


def pooled(activations: Sequence[Tensor], most: int = MOST_FEATURES) -> Tensor:
    """Activations averaged over patches, in equal parts of at most `most` numbers together, shape ``(n, k)``.

    Examples
    --------
    >>> pooled([torch.zeros(2, 64, 7, 7), torch.zeros(2, 128, 4, 4)]).shape
    torch.Size([2, 3648])
    """
    return torch.cat(
        [
            (y if (h, w) == y.shape[2:] else adaptive_avg_pool2d(y, (h, w))).flatten(1)
            for y, (_, h, w) in zip(activations, _patches([y.shape[1:] for y in activations], most), strict=True)
        ],
        1,
    )


def pooled_width(shapes: Sequence[Image], most: int = MOST_FEATURES) -> int:
    """How many numbers :func:`pooled` makes of activations of these shapes."""
    return sum(map(math.prod, _patches(shapes, most)))


def _patches(shapes: Sequence[Sequence[int]], most: int) -> list[Image]:
    """Channels and patches of activations that have at most `most` numbers together, in equal parts."""
    share = most // max(len(shapes), 1)
    found: list[Image] = []
    for c, h, w in shapes:
        side = max(1, int((share / c) ** 0.5))
        found.append((c, h, w) if c * h * w <= share else (c, min(h, side), min(w, side)))
    return found


class Synthesis(nn.Module):
    """Convolutional network from columns of codes to the columns of images: an :class:`Analysis` turned around.

    A dense layer makes the smallest activations; convolutions follow, between which the sides grow to exactly those
    that the analysis has there, by repeating pixels, which leaves no checkerboard behind. The last layer makes the
    pixels of a patch of two by two at once; what these have beyond the image is cut off.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width of what is made.
    inputs : int
        Rows of a code, with what is given beside it.
    channels : int
        As of the :class:`Analysis`.
    planes : int
        Numbers made for every pixel: columns hold the first of all pixels, then the second of all.

    Attributes
    ----------
    work : int
        Multiplications for an image.

    References
    ----------
    Odena, Dumoulin, Olah (2016), *Deconvolution and Checkerboard Artifacts*, Distill.

    Shi et al. (2016), *Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network*, arXiv:1609.05158 (the last layer).

    Examples
    --------
    >>> Synthesis((3, 9, 7), 5, 8)(torch.zeros(5, 2)).shape
    torch.Size([189, 2])
    """

    def __init__(self, image: Image, inputs: int, channels: int, planes: int = 1) -> None:
        super().__init__()
        c, *self.sides = image
        self.shapes = pyramid(image, channels)[::-1]
        widths = [wide for wide, _, _ in self.shapes]
        self.dense = Layer(inputs, math.prod(self.shapes[0]))
        self.layers = nn.ModuleList(Layer(a, b, (3, 3)) for a, b in pairwise([*widths, widths[-1]]))
        self.last = Layer(widths[-1], 4 * c * planes, (3, 3))
        with torch.no_grad():
            self.last.weight.mul_(FAINT)
        self.work = self.dense.weight.numel()
        for layer, (_, h, w) in zip([*self.layers, self.last], [*self.shapes, self.shapes[-1]], strict=True):
            self.work += layer.weight.numel() * h * w

    def forward(self, x: Tensor) -> Tensor:
        """Map columns `x` of shape ``(inputs, n)`` to ``(planes * pixels, n)``."""
        y = leaky_relu(self.dense(x.t()), LEAK).reshape(-1, *self.shapes[0])
        for layer, (_, h, w) in zip(self.layers, self.shapes, strict=True):
            y = y if y.shape[2:] == (h, w) else interpolate(y, (h, w))
            y = leaky_relu(layer(y), LEAK)
        h, w = self.sides
        return pixel_shuffle(self.last(y), 2)[..., :h, :w].flatten(1).t()
