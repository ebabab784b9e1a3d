"""Nearest neighbours among the features that a network computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anomgen import runtime
from anomgen.generative import GenerativeModel, Rows
from anomgen.statistic.base import Statistic, parts

MAX_BANK, IMAGE_BANK = 5_000, 40_000
"""Training rows that a nearest-neighbour statistic remembers at most: of a table, and images."""
DIRECTIONS = 64
"""Principal directions that the features of images are projected on, found among those of `MAX_BANK` images."""
FLOOR = 0.1
"""Share of the mean variance added to that of every direction before whitening."""
GROUP = 16
"""Rows of a large bank whose nearest one is found first; a large bank has a multiple of so many rows."""
SAME = 1e-3
"""Distance, in standard deviations, below which a row is taken for the one that trained."""


class Features(Statistic):
    """Minus the mean distance to the nearest training rows, in the features that a network computes.

    A nearest-neighbour density in feature space. The features of tables are whitened, and at most 5,000 training rows
    are remembered. Those of images, which are many, are projected on their 64 principal directions and kept in
    proportion, and at most 40,000 images are remembered. Saved models hold these features. A row is not its own
    neighbour, so that rows that trained are scored as new ones are.

    Parameters
    ----------
    neighbours : int
        How many of the nearest training rows the distance is averaged over.
    """

    needs = ("features",)
    options = ("neighbours",)
    sized_by_data = ("bank", "center", "shares", "whitening")

    bank: Tensor
    center: Tensor
    shares: Tensor
    whitening: Tensor

    def __init__(self, neighbours: int = 5) -> None:
        super().__init__()
        self.neighbours = neighbours
        for name, shape in (("bank", (0, 0)), ("center", (0,)), ("shares", (0,)), ("whitening", (0, 0))):
            self.register_buffer(name, torch.zeros(shape))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Find the directions of the features of training rows and remember them."""
        if train.images is None:
            with torch.no_grad():
                self._whiten(torch.cat([_read(model, part) for part in parts(_spread(train, MAX_BANK))]).double())
        else:
            self.remember(lambda part: _read(model, part), train, model.feature_parts)

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the mean distance of every row to its nearest training rows, itself not counted."""
        return -self.distance(self.project(_read(model, rows)))

    def remember(self, read: Callable[[Rows], Tensor], train: Rows, widths: Sequence[int] = ()) -> None:
        """Find the principal directions of what `read` gives for images, and remember images in them.

        Parts of these `widths` count alike. Directions keep their proportions; in all, they have unit variance on
        average.
        """
        with torch.no_grad():
            found = torch.cat([read(part) for part in parts(_spread(train, MAX_BANK))])
            center = found.mean(0)
            found -= center
            self.center, self.shares = center, _shares(found, widths)
            found *= self.shares
            with runtime.seeded(0, device=found.device):
                _, deviation, vectors = torch.svd_lowrank(found, q=min(DIRECTIONS, *found.shape))
            self.whitening = vectors / (deviation.square().mean() / len(found)).sqrt().clamp_min(1e-6)
            del found
            most = min(len(train), IMAGE_BANK)
            kept = _spread(train, most - most % GROUP if most > MAX_BANK else most)
            self.bank = torch.cat([self.project(read(part)) for part in parts(kept)])

    def project(self, found: Tensor) -> Tensor:
        """Features in the directions found at fit, shape ``(n, k)``."""
        return ((found - self.center) * self.shares) @ self.whitening

    def left_out(self, found: Tensor, projected: Tensor) -> Tensor:
        """Energy of features of images outside of their principal directions, in units of :meth:`project`."""
        scale = self.whitening.double().square().sum(0).mean()
        total = ((found - self.center) * self.shares).double().square().sum(1) * scale
        return (total - projected.double().square().sum(1)).clamp_min(0.0)

    def distance(self, projected: Tensor) -> Tensor:
        """Mean distance of rows in these directions to the nearest remembered ones, themselves not counted."""
        count = min(self.neighbours + 1, len(self.bank))
        if len(self.bank) > MAX_BANK:
            near = _nearest(projected, self.bank, count)
        else:
            near = torch.cdist(projected, self.bank).topk(count, largest=False).indices
        # The quick distances are too coarse to tell a row that trained from its neighbours.
        exact = (self.bank[near] - projected[:, None]).norm(dim=2).sort(1).values
        others = torch.where(exact[:, :1] < SAME, exact[:, 1:], exact[:, :-1])
        return others.double().mean(1)

    def _whiten(self, found: Tensor) -> None:
        center = found.mean(0)
        covariance = (found - center).t() @ (found - center) / max(len(found) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        # Directions in which the features hardly vary would drown all others once whitened.
        scale = (values.clamp_min(0.0) + FLOOR * values.clamp_min(0.0).mean() + 1e-12).rsqrt()
        self.center, self.whitening = center.float(), (vectors * scale).float()
        self.shares = torch.ones_like(self.center)
        self.bank = ((found - center) @ (vectors * scale)).float()


def _shares(found: Tensor, widths: Sequence[int]) -> Tensor:
    """Factors of centred features by which their parts get one variance in all, that of the first."""
    total = found.double().square().mean(0)
    each = [part.sum().clamp_min(1e-12) for part in total.split(list(widths) or [len(total)])]
    return torch.cat(
        [(each[0] / one).sqrt().expand(width) for one, width in zip(each, widths or (len(total),), strict=True)]
    ).float()


def _nearest(rows: Tensor, bank: Tensor, count: int) -> Tensor:
    """Which rows of a large bank are nearest to every row, shape ``(n, count)``; ``cdist`` would copy the bank."""
    ranks = torch.addmm(bank.square().sum(1), rows, bank.t(), alpha=-2.0)
    groups = ranks.view(len(rows), GROUP, -1)
    # The nearest rows lie in the groups whose own nearest are the nearest, which leaves little to sort.
    which = groups.amin(1).topk(count, largest=False).indices
    inside = groups.gather(2, which[:, None].expand(-1, GROUP, -1)).flatten(1)
    place = inside.topk(count, largest=False).indices
    return place // count * groups.shape[2] + which.gather(1, place % count)


def _read(model: GenerativeModel, rows: Rows) -> Tensor:
    found: Tensor = model.features(rows.z)  # type: ignore[operator]
    return found


def _spread(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly spread."""
    kept = torch.linspace(0, len(rows) - 1, min(len(rows), most), device=rows.z.device).long()
    return Rows(rows.z[kept], rows.log_det[kept], rows.shape)
