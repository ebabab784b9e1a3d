"""What a row is scored by: statistics of a fitted model, higher = more normal."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anomgen.generative import GenerativeModel, Rows, missing_abilities

MAX_ROWS = 50_000
"""Rows a statistic is fitted on at most."""
MAX_BANK = 5_000
"""Training rows that a nearest-neighbour statistic remembers at most."""
FLOOR = 0.1
"""Share of the mean variance added to that of every direction before whitening."""
SAME = 1e-3
"""Distance of whitened features below which a row is taken for the one that trained."""


class Statistic(nn.Module):
    """A score of rows under a fitted model.

    What it learns lives in buffers, so that it is saved, moved and copied with the model. Its constructor takes JSON
    values and stores them under the same names.
    """

    needs: ClassVar[tuple[str, ...]] = ("log_prob",)
    """Abilities of the model that it uses."""
    gradient: ClassVar[bool] = False
    """Whether it differentiates the model; it is then mapped without inference mode."""
    density: ClassVar[bool] = False
    """Whether the score is a log-density in the user's units, nats, up to a constant where the model lacks it."""
    unit: ClassVar[str] = ""
    """Unit of the score, where it has one."""
    sized_by_data: ClassVar[tuple[str, ...]] = ()
    """Buffers whose shape the training rows decide; loading takes theirs from the file."""
    options: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's parameters."""

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Learn from rows encoded as scoring encodes them; at most 50,000 of each role."""

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Score of every row, float64 of shape (n,), higher = more normal."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(model, rows)")

    def get_options(self) -> dict[str, Any]:
        """The constructor's arguments, JSON values."""
        return {name: getattr(self, name) for name in self.options}


def log_likelihood(model: GenerativeModel, rows: Rows) -> Tensor:
    """``log p`` of every row in the user's units, nats, float64."""
    log_prob: Tensor = model.log_prob(rows.z)  # type: ignore[operator]
    return log_prob.double() + rows.log_det


class Likelihood(Statistic):
    """The log-likelihood of a row: ``log p(z) + log|dz/dx|``, nats in the user's own units.

    The default for tables, where likelihoods order rows well (the paradox met on images is rare on tables).
    """

    density = True
    unit = "nats"

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-likelihood of every row, nats."""
        return log_likelihood(model, rows)


class Typicality(Statistic):
    """Minus the distance of a row's log-likelihood from that of typical rows: ``-|log p(x) - E log p|``, nats.

    A row can be atypical by being *too* likely, as constant images are. The expectation is taken over held-out rows.

    References
    ----------
    Nalisnick et al., "Detecting out-of-distribution inputs to deep generative models using typicality", 2019.
    """

    unit = "nats"

    expected: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("expected", torch.zeros((), dtype=torch.float64))

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Measure the mean log-likelihood of held-out rows."""
        with torch.no_grad():
            parts = [
                log_likelihood(model, Rows(z, log_det))
                for z, log_det in zip(held_out.z.split(4096), held_out.log_det.split(4096), strict=True)
            ]
        self.expected.copy_(torch.cat(parts).mean())

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the distance from the typical log-likelihood, nats."""
        return -(log_likelihood(model, rows) - self.expected).abs()


class Energy(Statistic):
    """Minus the energy of a row: its log-likelihood up to a constant that nobody has to know, nats.

    For models whose normalizing constant is out of reach, or only estimated.
    """

    needs = ("energy",)
    density = True
    unit = "nats"

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the energy of every row, plus the encoder's log-determinant, nats."""
        energy: Tensor = model.energy(rows.z)  # type: ignore[operator]
        return rows.log_det - energy.double()


class Reconstruction(Statistic):
    r"""Minus the mean squared error of a reconstruction: :math:`-\|z - \hat z(z)\|^2 / d`, on standardized coordinates.

    Missing coordinates count nothing. It asks whether a row can be described by what the model has learned to describe,
    not how likely it is: rows of a familiar shape in an unfamiliar place are reconstructed well.
    """

    needs = ("reconstruct",)

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Minus the mean squared error of every row."""
        reconstruct: Tensor = model.reconstruct(rows.z)  # type: ignore[operator]
        return -(rows.z - reconstruct).nan_to_num(0.0).flatten(1).double().square().mean(1)


class Discriminator(Statistic):
    """The logit of a discriminator: how much more a row looks like training rows than like negatives.

    Warnings
    --------
    A discriminator estimates a ratio of densities, which is constant on the data at the optimum of the game and
    arbitrary where neither data nor negatives were. Its ranking swings from epoch to epoch (AUROC by as much as 0.5);
    ``"features"``, the default of adversarial detectors, does not.
    """

    needs = ("realness",)

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Logit of every row."""
        logit: Tensor = model.realness(rows.z)  # type: ignore[operator]
        return logit.double()


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


STATISTICS: dict[str, type[Statistic]] = {
    "likelihood": Likelihood,
    "typicality": Typicality,
    "energy": Energy,
    "reconstruction": Reconstruction,
    "features": Features,
    "discriminator": Discriminator,
}
"""The closed registry: names a saved model may ask for."""


def make_statistic(given: str | Statistic, default: str) -> Statistic:
    """A fresh statistic from a name, ``"auto"`` or an unfitted instance.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(given, Statistic):
        return copy.deepcopy(given)
    name = default if given == "auto" else given
    if name not in STATISTICS:
        raise ValueError(f"statistic={given!r} is unknown; choose from 'auto', {', '.join(map(repr, STATISTICS))}")
    return STATISTICS[name]()


def check_abilities(statistic: Statistic, model: GenerativeModel) -> None:
    """Refuse a statistic that needs what the model cannot do.

    Raises
    ------
    ValueError
        Naming both and the missing abilities.
    """
    lacking = missing_abilities(model, statistic.needs)
    if lacking:
        raise ValueError(
            f"statistic {type(statistic).__name__} needs {', '.join(lacking)}, which {type(model).__name__} lacks"
        )
