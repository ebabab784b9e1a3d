"""What a row is scored by: statistics of a fitted model, higher = more normal."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anomgen.generative import GenerativeModel, Rows, missing_abilities

MAX_ROWS = 50_000
"""Rows a statistic is fitted on at most."""


class Statistic(nn.Module):
    """A score of rows under a fitted model.

    What it learns lives in buffers, so that it is saved, moved and copied with the model. Its constructor takes JSON
    values and stores them under the same names.
    """

    needs: ClassVar[tuple[str, ...]] = ("log_prob",)
    """Abilities of the model that it uses."""
    gradient: ClassVar[bool] = False
    """Whether it differentiates the model; it is then mapped without inference mode."""
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


STATISTICS: dict[str, type[Statistic]] = {"likelihood": Likelihood, "typicality": Typicality}
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
