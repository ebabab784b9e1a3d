"""Where a small part of an image is unlike anything normal: the largest residual off the span of training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomgen.nn.blur import blur

MOST = 256
"""Directions of the span at most."""
ROWS = 2_000
"""Training images that it is found from at most."""
ROUNDING = 1e-5
"""Energy below which a residual says nothing: about that of rounding to 256 levels."""


class LocalResidual(nn.Module):
    r"""Largest local residual of an image off the span of many principal directions of training images.

    With :math:`r` the residual, :math:`e = \log(G * \sum_c r_c^2 + \epsilon)` its log energy smoothed over a pixel, and
    :math:`\mu, \sigma` the mean and deviation of :math:`e` at every place over held-out normal images, it is
    :math:`\max_{ij} (e_{ij} - \mu_{ij}) / \sigma_{ij}`. A small defect hardly changes a mean over the image.
    """

    sized_by_data = ("center", "span", "usual", "spread")

    center: Tensor
    span: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, rank in (("center", 1), ("span", 2), ("usual", 2), ("spread", 2)):
            self.register_buffer(name, torch.zeros((0,) * rank))

    def fit(self, train: Tensor, held_out: Tensor) -> None:
        """Find the span from training images ``(n, c, h, w)``; what is usual at every place from held-out ones."""
        kept = torch.linspace(0, len(train) - 1, min(len(train), ROWS), device=train.device).long()
        rows = train[kept].flatten(1).double()
        self.center = rows.mean(0).float()
        rows = rows - rows.mean(0)
        count = max(1, min(MOST, len(rows) // 2, rows.shape[1] // 16))
        # Of few long rows the products with one another are the smaller matrix.
        values, vectors = torch.linalg.eigh(rows @ rows.t() if len(rows) < rows.shape[1] else rows.t() @ rows)
        top = vectors[:, -count:]
        found = rows.t() @ top / values[-count:].clamp_min(1e-12).sqrt() if len(rows) < rows.shape[1] else top
        self.span = found.float().contiguous()
        energy = torch.cat([self._energy(part) for part in held_out.split(256)]).double()
        self.usual = blur(energy.mean(0, keepdim=True), 2.0)[0].float()
        self.spread = blur(energy.std(0, keepdim=True, correction=0), 2.0)[0].float() + 1e-3

    def forward(self, images: Tensor) -> Tensor:
        """The largest standardized local log energy of every image, float64 of shape (n,)."""
        return ((self._energy(images) - self.usual) / self.spread).flatten(1).amax(1).double()

    def _energy(self, images: Tensor) -> Tensor:
        rows = images.flatten(1) - self.center
        residual = (rows - (rows @ self.span) @ self.span.t()).reshape(images.shape)
        return (blur(residual.square().sum(1), 1.0) + ROUNDING).log()
