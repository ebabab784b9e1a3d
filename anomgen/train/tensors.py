"""What the loop moves: parameters as one vector, and rows with fresh noise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space


class FlatParameters:
    """Parameters of a module gathered into one vector, which they become views of.

    One tensor makes the optimizer, the clipping, the average and the snapshots single operations; for small networks
    this is a third of a training step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        # Biases and scales have one entry a unit: shrinking them would bias the fit without simplifying it.
        self.matrices = torch.cat(
            [torch.full((p.numel(),), float(p.numel() > max(p.shape, default=1))) for p in self.parameters]
        )
        self.matrices = self.matrices.to(self.vector.device)
        start = 0
        for p in self.parameters:
            end = start + p.numel()
            p.data = self.vector.data[start:end].view_as(p)
            p.grad = self.vector.grad[start:end].view_as(p)
            start = end

    def release(self) -> None:
        """Give every parameter storage of its own again."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None


def flatten(model: GenerativeModel) -> tuple[list[tuple[int, Any]], dict[int, FlatParameters]]:
    """Objectives with the number of the parameter group each one moves; groups are equal or disjoint."""
    groups: dict[tuple[int, ...], int] = {}
    flats: dict[int, FlatParameters] = {}
    objectives = []
    for parameters, loss in model.objectives():
        listed = list(parameters)
        ids = tuple(id(p) for p in listed)
        if ids not in groups:
            if any(set(ids) & set(other) for other in groups):
                raise ValueError(f"{type(model).__name__}.objectives(): two groups share some but not all parameters")
            groups[ids] = len(groups)
            flats[groups[ids]] = FlatParameters(listed)
        objectives.append((groups[ids], loss))
    return objectives, flats


class Batches:
    """Training rows on the device; draws fresh noise between the bounds of every cell and of every pixel.

    With `codes`, cell coordinates hold level numbers, conditions do always: both stay as they are.
    """

    def __init__(self, rows: Encoded, space: Space, noise: float, device: torch.device, codes: bool = False) -> None:
        self.exact = rows.low is rows.z
        self.z = torch.from_numpy(rows.z).to(device)
        self.low = self.z if self.exact else torch.from_numpy(rows.low).to(device)
        self.width = self.z if self.exact else torch.from_numpy(_width(rows)).to(device)
        self.gaps = not self.exact and bool(torch.isinf(self.low).any())
        sharp = [k for k, kind in enumerate(space.kinds) if kind in ("cell", "pixel") or space.condition[k]]
        cells = [] if codes else [k for k in sharp if not space.condition[k]]
        self.cells = torch.tensor(cells, dtype=torch.int64, device=device)
        blur = torch.full((space.dim,), noise, device=device)
        blur[sharp] = 0.0
        self.blur = blur
        self.noise = noise if len(sharp) < space.dim else 0.0
        pixels = [rows.box * (kind == "pixel") for kind in space.kinds]
        self.box = torch.tensor(pixels, device=device) if rows.box else None

    def __len__(self) -> int:
        return len(self.z)

    def draw(self, index: Tensor, blurred: bool = True) -> Tensor:
        """Rows at `index` with fresh noise: between the bounds of cells, and Gaussian on numbers unless declined."""
        z = self.z.index_select(0, index) if self.exact else self._between(index)
        if self.box is not None:
            z.addcmul_(torch.rand_like(z).sub_(0.5), self.box)
        blur = self.blur if blurred else torch.zeros_like(self.blur)
        if self.gaps:
            noise = torch.randn_like(z)
            return torch.where(torch.isinf(self.low.index_select(0, index)), noise, z.addcmul(blur, noise))
        return z.addcmul_(blur, torch.randn_like(z)) if self.noise > 0 and blurred else z

    def _between(self, index: Tensor) -> Tensor:
        low, width = self.low.index_select(0, index), self.width.index_select(0, index)
        z = torch.addcmul(low, width, torch.rand_like(low))
        if len(self.cells):
            inside = z.index_select(1, self.cells).clamp_(1e-6, 1 - 1e-6)
            z.index_copy_(1, self.cells, torch.special.ndtri(inside))
        return z


def _width(rows: Encoded) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return rows.high - rows.low
