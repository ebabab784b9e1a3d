"""Causal convolutions of images: what the rows above, and the pixels to the left, say of every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

Memory = dict[nn.Module, Tensor]
"""What layers keep of an image that reaches them row by row, or of a row that does pixel by pixel."""

WINDOW = (3, 9)
"""Height and width of the first look at the rows above, at full resolution."""
REACH = 5
"""Pixels to the left in the first look at the row itself."""
LEVELS = 3
"""Resolutions of the pyramid over the rows above, each half of the one before."""
FAINT = 0.1
"""Factor on the weights of what is said of pixels, so that all are alike at the start."""


class Causal(nn.Module):
    """Convolution that sees nothing below its place (``axis=2``), or nothing to the right of it (``axis=3``).

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : (int, int)
        Height and width. Across the other axis it is centred: an odd size is due there.
    axis : {2, 3}
    stride : int
        2 for every other place only, from the first one on.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], axis: int, stride: int = 1) -> None:
        super().__init__()
        self.axis, self.past = axis, kernel[axis - 2] - 1
        beside = (0, kernel[1] // 2) if axis == 2 else (kernel[0] // 2, 0)
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, beside)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Map ``(n, inputs, h, w)`` to ``(n, outputs, h, w)``; with a memory, `x` is what comes next along the axis."""
        if memory is not None and self in memory:
            x = torch.cat([memory[self], x], self.axis)
        else:
            x = pad(x, (0, 0, self.past, 0) if self.axis == 2 else (self.past, 0, 0, 0))
        if memory is not None:
            memory[self] = x.narrow(self.axis, x.shape[self.axis] - self.past, self.past)
        y: Tensor = self.convolution(x)
        return y


class Gated(nn.Module):
    """Residual block: half of the channels of a causal convolution decide how much of the others is added."""

    def __init__(self, channels: int, kernel: tuple[int, int], axis: int) -> None:
        super().__init__()
        self.causal = Causal(channels, 2 * channels, kernel, axis)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Map ``(n, channels, h, w)`` to the same shape."""
        added, gate = self.causal(x, memory).chunk(2, 1)
        # Sigmoids and their gradients are quick where the channels of a place lie side by side.
        opened = gate.contiguous(memory_format=torch.channels_last).sigmoid()
        return torch.addcmul(x, added.contiguous(memory_format=torch.channels_last), opened)


class Pyramid(nn.Module):
    """Adds to rows what coarser ones say, half as many on every level, of all rows down to each one itself.

    A coarse row stands for two fine ones and sees down to the first of them, so that both may look at it.

    Parameters
    ----------
    channels : int
    blocks : int
        Gated convolutions of each coarse level.
    levels : int
        Coarse levels.
    """

    def __init__(self, channels: int, blocks: int, levels: int) -> None:
        super().__init__()
        self.down = Causal(channels, channels, (2, 3), 2, stride=2)
        self.blocks = nn.ModuleList(Gated(channels, (2, 3), 2) for _ in range(blocks))
        self.coarser = Pyramid(channels, blocks, levels - 1) if levels > 1 else None
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Map ``(n, channels, h, w)`` to the same shape; with a memory, `x` is the next row."""
        if memory is not None and self in memory:
            # The second of two rows: what was said of both is waiting.
            memory[self.down] = x
            return x + memory.pop(self)
        coarse = self.halved(x, memory)
        if self.coarser is not None:
            coarse = self.coarser(coarse, memory)
        fine: Tensor = self.up(coarse)[..., : x.shape[3]]
        if memory is not None:
            memory[self] = fine[:, :, 1:]
        return x + fine[:, :, : x.shape[2]]

    def halved(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Activations of the first coarse level, which has every other row and column."""
        coarse: Tensor = self.down(x, memory)
        for block in self.blocks:
            coarse = block(coarse, memory)
        return coarse

    def middle(self, x: Tensor) -> list[Tensor]:
        """Activations of the coarse levels."""
        coarse = self.halved(x)
        return [coarse] if self.coarser is None else [coarse, *self.coarser.middle(coarse)]

    def work(self, places: float) -> float:
        """Multiplications for an image of so many places."""
        own = weights(self.down, self.blocks, self.up) * places / 4
        return own + (0.0 if self.coarser is None else self.coarser.work(places / 4))


class PixelCNN(nn.Module):
    r"""Causal network: what it says of a pixel follows from the pixels before it, row by row from the top left.

    Two streams leave no blind spot. One looks at the rows above: all pixels in a window of 3 rows of 9, and through a
    pyramid of coarser resolutions all others near and far. The other one runs along the row itself, over the pixels to
    the left, and takes up what the first one found.

    Parameters
    ----------
    image : (int, int, int)
        Channels, height and width.
    outputs : int
        Numbers said of every pixel.
    channels : int
        Channels of every layer.
    blocks : int
        Gated convolutions along the row, and half as many, rounded up, on each coarse level.
    start : Tensor of shape (outputs,)
        About what the untrained network says.

    Attributes
    ----------
    work : int
        Multiplications for an image.

    References
    ----------
    van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu (2016), *Conditional Image Generation with
    PixelCNN Decoders*, arXiv:1606.05328 (gates, two streams).

    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517 (shifted convolutions, coarser levels).

    Examples
    --------
    >>> PixelCNN((1, 9, 7), 4, 8, 1, torch.zeros(4))(torch.zeros(2, 1, 9, 7)).shape
    torch.Size([2, 4, 9, 7])
    """

    frame: Tensor

    def __init__(self, image: tuple[int, int, int], outputs: int, channels: int, blocks: int, start: Tensor) -> None:
        super().__init__()
        planes, height, width = image
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        # Ones tell pixels from the padding around them; coordinates, where they lie.
        self.register_buffer("frame", torch.stack([torch.ones_like(x), y, x]), persistent=False)
        inputs = planes + len(self.frame)
        self.above = Causal(inputs, channels, WINDOW, 2)
        self.pyramid = Pyramid(channels, -(-blocks // 2), LEVELS - 1)
        self.left = Causal(inputs, channels, (1, REACH), 3)
        self.joined = nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(Gated(channels, (1, 2), 3) for _ in range(blocks))
        self.head = nn.Conv2d(channels, outputs, 1)
        with torch.no_grad():
            self.head.weight.mul_(FAINT)
            self.head.get_parameter("bias").copy_(start)
        fine = weights(self.above, self.left, self.joined, self.blocks, self.head)
        self.work = round(fine * height * width + self.pyramid.work(height * width))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(n, c, h, w)`` to ``(n, outputs, h, w)``."""
        canvas = self.framed(x)
        return self.along(pad(canvas, (1, -1)), self.context(pad(canvas, (0, 0, 1, -1))))

    def framed(self, x: Tensor) -> Tensor:
        """Images with the constant channels that the streams see beside them."""
        canvas = torch.cat([x, self.frame.to(x.dtype).expand(len(x), -1, -1, -1)], 1)
        return canvas.contiguous(memory_format=torch.channels_last)

    def context(self, above: Tensor, memory: Memory | None = None) -> Tensor:
        """What rows above say, ``(n, channels, h, w)``, from framed images moved down by one row.

        With a memory, `above` is the next row.
        """
        found: Tensor = self.pyramid(silu(self.above(above, memory)), memory)
        return found

    def along(self, left: Tensor, context: Tensor, memory: Memory | None = None) -> Tensor:
        """What is said of pixels, from framed images moved to the right by one and what the rows above say.

        With a memory, both are the next pixel of a row.
        """
        h = silu(self.left(left, memory) + self.joined(context))
        for block in self.blocks:
            h = block(h, memory)
        said: Tensor = self.head(h)
        return said

    def middle(self, x: Tensor) -> list[Tensor]:
        """Activations of the coarse levels, of a half and a quarter of the sides, rounded up."""
        return self.pyramid.middle(silu(self.above(self.framed(x))))


def weights(*modules: nn.Module) -> int:
    """Parameters of some modules together."""
    return sum(p.numel() for module in modules for p in module.parameters())
