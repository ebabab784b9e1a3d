"""Nearest neighbours among the features that a network computes."""

from __future__ import annotations

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Rows
from anomgen.statistic.base import Statistic

MAX_BANK = 5_000
"""Training rows that a nearest-neighbour statistic remembers at most."""
FLOOR = 0.1
"""Share of the mean variance added to that of every direction before whitening."""
SAME = 1e-3
"""Distance of whitened features below which a row is taken for the one that trained."""


class Features(Statistic):
    """Minus the mean distance to the nearest training rows, in the whitened features that a network computes.

    A nearest-neighbour density in feature space. Saved models hold the features of at most 5,000 training rows. A row
    is not its own neighbour, so that rows that trained are scored as new ones are.

    Parameters
    ----------
    neighbours : int
        How many of the nearest training rows the distance is averaged over.
    """

    needs = ("features",)
    options = ("neighbours",)
    sized_by_data = ("bank", "center", "whitening")

    bank: Tensor
    center: Tensor
    whitening: Tensor

    def __init__(self, neighbours: int = 5) -> None:
        super().__init__()
        self.neighbours = neighbours
        for name, shape in (("bank", (0, 0)), ("center", (0,)), ("whitening", (0, 0))):
            self.register_buffer(name, torch.zeros(shape))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Whiten the features of training rows and remember them."""
        kept = torch.linspace(0, len(train.z) - 1, min(len(train.z), MAX_BANK), device=train.z.device).long()
        with torch.no_grad():
            found = torch.cat([model.features(part) for part in train.z[kept].split(4096)]).double()  # type: ignore[operator]
        center = found.mean(0)
        covariance = (found - center).t() @ (found - center) / max(len(found) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        # Directions in which the features hardly vary would drown all others once whitened.
        scale = (values.clamp_min(0.0) + FLOOR * values.clamp_min(0.0).mean() + 1e-12).rsqrt()
        self.center, self.whitening = center.float(), (vectors * scale).float()
        self.bank = ((found - center) @ (vectors * scale)).float()

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the mean distance of every row to its nearest training rows, itself not counted."""
        found: Tensor = model.features(rows.z)  # type: ignore[operator]
        white = (found - self.center) @ self.whitening
        near = torch.cdist(white, self.bank).topk(min(self.neighbours + 1, len(self.bank)), largest=False).indices
        # The quick distances are too coarse to tell a row that trained from its neighbours.
        exact = (self.bank[near] - white[:, None]).norm(dim=2).sort(1).values
        others = torch.where(exact[:, :1] < SAME, exact[:, 1:], exact[:, :-1])
        return -others.double().mean(1)
