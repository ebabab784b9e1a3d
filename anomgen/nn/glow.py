"""Invertible maps of images ``(n, channels, height, width)``: what one scale of a flow is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from anomgen.nn.affine import softclip

Image = tuple[int, int, int]

NARROWEST = 1e-2
"""Standard deviation that data-dependent initialization takes for the smallest there is."""
LOG_RANGE = 3.0
"""Largest log-scale of a coupling: so many follow one another that images unlike any seen would else overflow."""


@dataclass(frozen=True)
class Plan:
    """What a multi-scale flow is made of.

    Parameters
    ----------
    scales : int
        How often blocks of pixels become channels at most.
    steps : int
        Steps of a scale, each of which mixes channels and moves one half of them given the other.
    channels : int
        Channels of the hidden layers.
    given : int
        Width of the context.
    scaled : bool
        Whether networks scale what they move (affine) or only shift it (additive).
    """

    scales: int
    steps: int
    channels: int
    given: int = 0
    scaled: bool = True


def mixed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One affine map of the channels of every pixel; for few channels twice as quick as torch's convolution is.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
    weight : Tensor of shape (k, c)
    bias : Tensor of shape (k,)

    Returns
    -------
    Tensor of shape (n, k, h, w)
    """
    y = torch.baddbmm(bias[:, None].expand(len(x), -1, 1), weight.expand(len(x), -1, -1), x.flatten(2))
    return y.reshape(x.shape[0], -1, *x.shape[2:])


class Logit(nn.Module):
    r"""Numbers in [-1, 1] to the whole line.

    .. math:: y = \log q - \log(1 - q), \qquad q = \alpha + (1/2 - \alpha) (x + 1)

    Black and white, which fill whole regions of many images, become broad where a density of `x` would have to be a
    narrow spike at the border. `x` outside [-1, 1] counts as the border.

    Parameters
    ----------
    alpha : float
        How far the borders stay away from infinity.

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio (2016), *Density estimation using Real NVP*, arXiv:1605.08803, section 4.1.

    Examples
    --------
    >>> y, log_derivative = Logit(0.001)(torch.tensor([-1.0, 0.0, 1.0]))
    >>> y
    tensor([-6.9068,  0.0000,  6.9068])
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha, self.slope = alpha, 0.5 - alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-derivatives, of the shape of `x`."""
        x = x.clamp(-1.0, 1.0)
        low, high = (self.alpha + self.slope * (1.0 + x)).log(), (self.alpha + self.slope * (1.0 - x)).log()
        return low - high, math.log(self.slope) - low - high

    def inverse(self, y: Tensor) -> Tensor:
        """Numbers in [-1, 1], what lies beyond included."""
        return ((y.sigmoid() - self.alpha) / self.slope - 1.0).clamp(-1.0, 1.0)


class Mix(nn.Module):
    r"""Actnorm and an invertible 1x1 convolution: :math:`y = Q L U e^{s} (x - m)`, on the channels of every pixel.

    `Q` is a fixed random rotation; `L` and `U` are unit triangular and start as the identity. That is any invertible
    matrix but for a set of measure zero, and the log-determinant is exactly :math:`\sum_c s_c` a pixel.

    Parameters
    ----------
    channels : int

    References
    ----------
    Kingma and Dhariwal (2018), *Glow: Generative Flow with Invertible 1x1 Convolutions*, arXiv:1807.03039.
    """

    rotation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.triangles = nn.Parameter(torch.zeros(channels, channels))
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(channels, channels))[0])

    def matrix(self) -> Tensor:
        """The matrix :math:`Q L U`, of determinant one or minus one."""
        one = torch.eye(len(self.rotation), dtype=self.rotation.dtype, device=self.rotation.device)
        return self.rotation @ (self.triangles.tril(-1) + one) @ (self.triangles.triu(1) + one)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images and the log-determinant at every pixel, which is one for all."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.matrix() * self.log_scale.exp()
            y = mixed(x, weight, -(weight @ self.shift))
        return y, self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        """Images before they were mixed."""
        weight = torch.linalg.inv(self.matrix()) * self.log_scale.neg().exp()[:, None]
        return mixed(y, weight, self.shift)

    def prepare(self, x: Tensor) -> None:
        """Let every channel of `x` leave actnorm with mean zero and variance one."""
        std, mean = torch.std_mean(x, (0, 2, 3), correction=0)
        self.shift.data.copy_(mean)
        self.log_scale.data.copy_(-std.clamp_min(NARROWEST).log())


class Place(nn.Module):
    """One learned shift and scale for every channel at every place: what a prior knows before it sees anything.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width.
    """

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(image))
        self.log_scale = nn.Parameter(torch.zeros(image))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images and the log-determinant at every place, ``(h, w)``."""
        return (x - self.shift) * self.log_scale.exp(), self.log_scale.sum(0)

    def inverse(self, y: Tensor) -> Tensor:
        """Images before."""
        return torch.addcmul(self.shift, y, self.log_scale.neg().exp())

    def prepare(self, x: Tensor) -> None:
        """Standardize every place of `x`."""
        std, mean = torch.std_mean(x, 0, correction=0)
        self.shift.data.copy_(mean)
        self.log_scale.data.copy_(-std.clamp_min(NARROWEST).log())


class Neighbourhood(nn.Module):
    """Convolutions 3x3, 1x1 and 3x3 with ReLU, and zero at first; a bias of the first layer for every place.

    Images of one set are often aligned: the bias at every place tells the network where it is.

    Parameters
    ----------
    inputs : tuple of int
        Channels, height and width of what it looks at.
    outputs : int
        Channels out.
    plan : Plan
    """

    def __init__(self, inputs: Image, outputs: int, plan: Plan) -> None:
        super().__init__()
        c, h, w = inputs
        self.first = nn.Conv2d(c, plan.channels, 3, padding=1, bias=False)
        self.place = nn.Parameter(torch.zeros(plan.channels, h, w))
        self.context = nn.Linear(plan.given, plan.channels, bias=False) if plan.given else None
        self.middle = nn.Linear(plan.channels, plan.channels)
        self.last = nn.Conv2d(plan.channels, outputs, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        self.work = h * w * plan.channels * (9 * c + plan.channels + 9 * outputs)

    def hidden(self, x: Tensor, context: Tensor) -> Tensor:
        """Activations of the second layer, ``(n, plan.channels, h, w)``."""
        y: Tensor = self.first(x) + self.place
        if self.context is not None:
            y = y + linear(context, self.context.weight)[..., None, None]
        return mixed(y.relu_(), self.middle.weight, self.middle.bias).relu_()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Outputs ``(n, outputs, h, w)`` of images ``(n, c, h, w)`` and a context ``(n, k)``."""
        y: Tensor = self.last(self.hidden(x, context))
        return y


class Coupling(nn.Module):
    r"""Move some channels given others: :math:`y = x e^{s(u)} + t(u)`, or :math:`y = x + t(u)` where nothing is scaled.

    Parameters
    ----------
    still : tuple of int
        Channels, height and width of `u`, which stays as it is.
    moved : int
        Channels of `x`.
    plan : Plan

    References
    ----------
    Dinh, Krueger, Bengio (2014), *NICE: Non-linear Independent Components Estimation*, arXiv:1410.8516.

    Dinh, Sohl-Dickstein, Bengio (2016), *Density estimation using Real NVP*, arXiv:1605.08803.
    """

    def __init__(self, still: Image, moved: int, plan: Plan) -> None:
        super().__init__()
        self.moved, self.scaled = moved, plan.scaled
        self.network = Neighbourhood(still, moved * (1 + plan.scaled), plan)

    def forward(self, x: Tensor, still: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What moved, and the log-determinant at every place: ``(n, h, w)``, or a zero."""
        shift, log_scale = self.parameters_at(still, context)
        if log_scale is None:
            return x + shift, x.new_zeros(())
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.sum(1)

    def inverse(self, y: Tensor, still: Tensor, context: Tensor) -> Tensor:
        """What it was before it moved."""
        shift, log_scale = self.parameters_at(still, context)
        return y - shift if log_scale is None else (y - shift) * log_scale.neg().exp()

    def parameters_at(self, still: Tensor, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Shifts, and log-scales where there are any, of the shape of what moves."""
        y = self.network(still, context).to(still.dtype)
        if not self.scaled:
            return y, None
        shift, raw = y.split(self.moved, 1)
        return shift, softclip(raw, LOG_RANGE)


class Base(nn.Module):
    """A normal distribution of what leaves the flow, given what stays in it: a learned prior, as a map to white noise.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width of what leaves.
    still : int
        Channels of what stays, of the same height and width; 0 where nothing does.
    plan : Plan
    """

    def __init__(self, image: Image, still: int, plan: Plan) -> None:
        super().__init__()
        self.coupling = Coupling((still, *image[1:]), image[0], plan) if still else None
        self.place = Place(image)

    def forward(self, x: Tensor, still: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """White noise, and the log-density at every place, ``(n, h, w)``."""
        more: Tensor | float = 0.0
        if self.coupling is not None:
            x, more = self.coupling(x, still, context)
        y, log_det = self.place(x)
        normal = y.square().sum(1) * -0.5 - 0.5 * math.log(2 * math.pi) * y.shape[1]
        return y, normal + log_det + more

    def inverse(self, y: Tensor, still: Tensor, context: Tensor) -> Tensor:
        """What left, from white noise."""
        x: Tensor = self.place.inverse(y)
        return x if self.coupling is None else self.coupling.inverse(x, still, context)
