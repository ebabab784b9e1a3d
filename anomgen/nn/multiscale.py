"""Flows of images over several scales; sides of any length, and nothing is padded."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from anomgen.nn.glow import Base, Coupling, Image, Mix, Plan

SMALLEST = 3
"""Sides below which a scale is not squeezed further."""


class Multiscale(nn.Module):
    """A flow of images ``(n, c, h, w)`` given a context ``(n, k)`` to white noise of the same shape."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """White noise, and the log-density of `x` spread over the places it comes from, ``(n, h, w)``."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor) -> Tensor:
        """Images from white noise."""

    @abstractmethod
    def prepare(self, x: Tensor, context: Tensor) -> None:
        """Initialize all that depends on data from the images that arrive here."""

    @abstractmethod
    def scales(self, x: Tensor, context: Tensor) -> list[Tensor]:
        """Channels at the end of the steps of every scale, ``(n, c, h, w)`` each."""


class Scale(Multiscale):
    """Blocks of 2 by 2 pixels as channels, steps, and a half of the channels that leaves; the rest goes on.

    The latent has its pixels where the image has those it comes from. The density of a block is spread evenly over its
    pixels.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width, the sides even.
    plan : Plan
    """

    def __init__(self, image: Image, plan: Plan) -> None:
        super().__init__()
        c, h, w = 2 * image[0], image[1] // 2, image[2] // 2
        self.sizes = (c, c)
        self.mixes = nn.ModuleList(Mix(2 * c) for _ in range(plan.steps))
        self.couplings = nn.ModuleList(Coupling((c, h, w), c, plan) for _ in range(plan.steps))
        further = plan.scales > 1 and min(h, w) // 2 >= SMALLEST
        self.base = Base((c, h, w), c, plan) if further else Base((2 * c, h, w), 0, plan)
        self.inner = multiscale((c, h, w), replace(plan, scales=plan.scales - 1)) if further else None

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """White noise, and where the log-density arises."""
        x, total = self._steps(x, context)
        if self.inner is None:
            y, terms = self.base(x, x, context)
        else:
            still, out = x.split(self.sizes, 1)
            out, terms = self.base(out, still, context)
            still, inner = self.inner(still, context)
            y, terms = torch.cat([still, out], 1), terms + inner
        total = (total + terms) / 4
        return pixel_shuffle(y, 2), total.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def inverse(self, y: Tensor, context: Tensor) -> Tensor:
        """Images from white noise."""
        x = pixel_unshuffle(y, 2)
        if self.inner is None:
            x = self.base.inverse(x, x, context)
        else:
            still, out = x.split(self.sizes, 1)
            still = self.inner.inverse(still, context)
            x = torch.cat([still, self.base.inverse(out, still, context)], 1)
        for mix, coupling in reversed(self._pairs()):
            still, moved = x.split(self.sizes, 1)
            x = mix.inverse(torch.cat([still, coupling.inverse(moved, still, context)], 1))
        return pixel_shuffle(x, 2)

    def prepare(self, x: Tensor, context: Tensor) -> None:
        """Initialize all that depends on data."""
        x = pixel_unshuffle(x, 2)
        for mix, coupling in self._pairs():
            mix.prepare(x)
            x, _ = self._step(mix, coupling, x, context)
        still, out = x.split(self.sizes, 1)
        self.base.place.prepare(x if self.inner is None else out)
        if self.inner is not None:
            self.inner.prepare(still, context)

    def scales(self, x: Tensor, context: Tensor) -> list[Tensor]:
        """Channels at the end of the steps of this scale and of those below."""
        x, _ = self._steps(x, context)
        return [x] if self.inner is None else [x, *self.inner.scales(x[:, : self.sizes[0]], context)]

    def _steps(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        x = pixel_unshuffle(x, 2)
        total = x.new_zeros(())
        for mix, coupling in self._pairs():
            x, terms = self._step(mix, coupling, x, context)
            total = total + terms
        return x, total

    def _pairs(self) -> list[tuple[Mix, Coupling]]:
        return list(zip(self.mixes, self.couplings, strict=True))  # type: ignore[arg-type]

    def _step(self, mix: Mix, coupling: Coupling, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = mix(x)
        still, moved = x.split(self.sizes, 1)
        moved, terms = coupling(moved, still, context)
        return torch.cat([still, moved], 1), log_det + terms


class Edge(Multiscale):
    """The last line of an odd side leaves, given the two lines before it; what is left has an even side.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width.
    axis : int
        2 for a row that leaves, 3 for a column.
    plan : Plan
    """

    def __init__(self, image: Image, axis: int, plan: Plan) -> None:
        super().__init__()
        c, h, w = image
        self.axis = axis
        main, line = ((c, h - 1, w), (1, w)) if axis == 2 else ((c, h, w - 1), (h, 1))
        self.sizes = (image[axis - 1] - 1, 1)
        self.base = Base((c, *line), 2 * c, plan)
        self.inner = multiscale(main, plan)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """White noise, and where the log-density arises."""
        main, line = x.split(self.sizes, self.axis)
        line, terms = self.base(line, self._before(main), context)
        main, inner = self.inner(main, context)
        return torch.cat([main, line], self.axis), torch.cat([inner, terms], self.axis - 1)

    def inverse(self, y: Tensor, context: Tensor) -> Tensor:
        """Images from white noise."""
        main, line = y.split(self.sizes, self.axis)
        main = self.inner.inverse(main, context)
        return torch.cat([main, self.base.inverse(line, self._before(main), context)], self.axis)

    def prepare(self, x: Tensor, context: Tensor) -> None:
        """Initialize all that depends on data."""
        main, line = x.split(self.sizes, self.axis)
        self.base.place.prepare(line)
        self.inner.prepare(main, context)

    def scales(self, x: Tensor, context: Tensor) -> list[Tensor]:
        """Channels at the end of the steps of this scale and of those below."""
        return self.inner.scales(x.split(self.sizes, self.axis)[0], context)

    def _before(self, main: Tensor) -> Tensor:
        return torch.cat(main.narrow(self.axis, self.sizes[0] - 2, 2).split(1, self.axis), 1)


def multiscale(image: Image, plan: Plan) -> Multiscale:
    """A multi-scale flow of images of one shape, to white noise.

    Odd sides lose their last line, which is modelled given the two before it; then blocks of 2 by 2 pixels become
    channels, and half of these go through the same again, until a side would be shorter than 3.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width; sides have 2 pixels at least.
    plan : Plan

    Returns
    -------
    Multiscale

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio (2016), *Density estimation using Real NVP*, arXiv:1605.08803.

    Kingma, Dhariwal (2018), *Glow: Generative Flow with Invertible 1x1 Convolutions*, arXiv:1807.03039.

    Examples
    --------
    >>> flow = multiscale((1, 7, 9), Plan(scales=3, steps=1, channels=4))
    >>> noise, log_density = flow(torch.zeros(2, 1, 7, 9), torch.zeros(2, 0))
    >>> noise.shape, log_density.shape
    (torch.Size([2, 1, 7, 9]), torch.Size([2, 7, 9]))
    """
    odd = [axis for axis in (2, 3) if image[axis - 1] % 2]
    return Edge(image, odd[0], plan) if odd else Scale(image, plan)
