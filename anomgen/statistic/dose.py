"""The density of several statistics at once: the default score of images."""

from __future__ import annotations

import torch
from torch import Tensor

from anomgen.generative import GenerativeModel, Rows, abilities
from anomgen.statistic.base import IMAGE_PART, Statistic, images_of, log_likelihood, parts
from anomgen.statistic.density import Mixture, Surprise
from anomgen.statistic.features import Features
from anomgen.statistic.image import code_length, energies, extremes
from anomgen.statistic.local import LocalResidual
from anomgen.statistic.scores import log_score_norms

FEATURES_WEIGHT = 2.0
"""What a surprise of the features counts, in surprises of the statistics."""
ROOM = 1e-3
"""Share of the energy of features below which what is left out of their directions says nothing."""
NARROW = 0.5
"""Nats that 9 % of held-out rows spread over at least in log-density."""


class Dose(Statistic):
    r"""Minus the surprise of an image in what a network sees in it, and in several statistics at once.

    No single statistic of images survives every kind of anomaly. This one adds up four surprises, each
    :math:`-\log` of a tail probability among held-out normal images and extrapolated beyond them:

    .. math:: s(x) = -2\, S(\text{features}) - S(\text{statistics}) - S(\text{place}) - (S(\text{range}) - \log 100)_+ .

    *features*: the mean distance to the nearest training images, as in :class:`Features`: what is shown. *statistics*:
    minus the log-density, by a Gaussian mixture, of the log energies of three octaves of the image and of the rest, of
    the length of its PNG file, of how much of its features lies in and out of their principal directions, and of what
    the model itself says: log norms of its scores, or else the energies of what its reconstruction misses, or else its
    likelihood or energy. *place*: the largest local residual of the image off the span of training images
    (:class:`anomgen.statistic.local.LocalResidual`), for a small defect hardly moves a number that describes the whole.
    *range*: darkest and brightest pixels, which count only where they lie outside of all but 1 %
    of normal images. A model without features is looked at through its pixels.

    Parameters
    ----------
    neighbours : int
        How many of the nearest training images the distance of features is averaged over.

    References
    ----------
    Morningstar et al., "Density of states estimation for out-of-distribution detection", AISTATS 2021.
    """

    needs = ()
    images = True
    unit = "nats"
    options = ("neighbours",)

    def __init__(self, neighbours: int = 3) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.features = Features(neighbours)
        self.local = LocalResidual()
        self.statistics, self.range = Mixture(), Mixture(components=1)
        self.feature_surprise, self.local_surprise = Surprise(), Surprise()
        self.surprise, self.range_surprise = Surprise(NARROW), Surprise(NARROW)
        self.sized_by_data = tuple(
            f"{name}.{buffer}"
            for name in ("features", "local", "statistics", "range")
            for buffer in getattr(self, name).sized_by_data
        )

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Remember the features of training images; learn densities and quantiles from held-out ones."""
        judged = images_of(self, held_out)
        self.local.fit(images_of(self, train), judged)
        self.local_surprise.fit(torch.cat([self.local(part) for part in judged.split(IMAGE_PART)]))
        widths = model.feature_parts if "features" in abilities(model) else ()
        self.features.remember(lambda part: self._seen(model, part), train, widths)
        with torch.no_grad():
            found = [self._look(model, part) for part in parts(held_out)]
        distance, vector, shades = (torch.cat(column) for column in zip(*found, strict=True))
        self.statistics.fit(vector)
        self.range.fit(shades)
        self.feature_surprise.fit(distance)
        self.surprise.fit(-self.statistics(vector))
        self.range_surprise.fit(-self.range(shades))

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the sum of the surprises of every image, nats."""
        distance, vector, shades = self._look(model, rows)
        seen, described = self.feature_surprise(distance), self.surprise(-self.statistics(vector))
        beyond = (self.range_surprise(-self.range(shades)) - self.range_surprise.last).clamp_min(0.0)
        total: Tensor = (
            FEATURES_WEIGHT * seen + described + beyond + self.local_surprise(self.local(images_of(self, rows)))
        )
        return -total

    def _seen(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """What a network sees in images; their pixels where it tells nothing."""
        if "features" not in abilities(model):
            return images_of(self, rows).flatten(1)
        found: Tensor = model.features(rows.z)  # type: ignore[operator]
        return found

    def _look(self, model: GenerativeModel, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Distance of the features, statistics, and range of every image: float64 of shape (n,), (n, k), (n, 2c)."""
        images = images_of(self, rows)
        found = self._seen(model, rows)
        projected = self.features.project(found)
        room = ROOM * projected.shape[1]
        inside, outside = projected.double().square().sum(1), self.features.left_out(found, projected)
        statistics = [energies(images), *_own(model, rows, images)]
        numbers = [code_length(images).log(), (inside + room).log(), (outside + room).log()]
        vector = torch.cat([*statistics, torch.stack(numbers, 1)], 1)
        return self.features.distance(projected), vector, extremes(images)


def _own(model: GenerativeModel, rows: Rows, images: Tensor) -> list[Tensor]:
    """What the model itself says of rows, the most telling that it can: float64 of shape (n, k), or nothing."""
    able = abilities(model)
    if "score_norms" in able:
        return [log_score_norms(model, rows)]
    if "reconstruct" in able:
        made: Tensor = model.reconstruct(rows.z)  # type: ignore[operator]
        return [energies((rows.z - made)[:, : images[0].numel()].reshape(images.shape))]
    if "log_prob" in able:
        return [log_likelihood(model, rows)[:, None]]
    if "energy" in able:
        energy: Tensor = model.energy(rows.z)  # type: ignore[operator]
        return [energy.double()[:, None]]
    return []
