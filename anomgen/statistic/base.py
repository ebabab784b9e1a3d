"""What a statistic is: a score of rows under a fitted model, its state in buffers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Rows, Space

MAX_ROWS = 50_000
"""Rows a statistic is fitted on at most."""
TABLE_PART, IMAGE_PART = 4096, 256
"""Rows that pass through a network at once while a statistic is fitted."""


class Statistic(nn.Module):
    """A score of rows under a fitted model.

    What it learns lives in buffers, so that it is saved, moved and copied with the model. Its constructor takes JSON
    values and stores them under the same names.

    A statistic may ask for a second model of the same making, trained on other rows. In a fit, :meth:`auxiliary` gives
    those rows, an untrained model goes to :meth:`attach` and is trained, unwatched; then :meth:`fit` comes. Before a
    saved state is loaded, an untrained one is attached. Its parameters are then part of the statistic's state.
    """

    needs: ClassVar[tuple[str, ...]] = ("log_prob",)
    """Abilities of the model that it uses."""
    gradient: ClassVar[bool] = False
    """Whether it differentiates the model; it is then mapped without inference mode."""
    images: ClassVar[bool] = False
    """Whether it scores nothing but images."""
    paired: ClassVar[bool] = False
    """Whether it asks for a second model of the same making."""
    density: ClassVar[bool] = False
    """Whether the score is a log-density in the user's units, nats, up to a constant where the model lacks it."""
    unit: ClassVar[str] = ""
    """Unit of the score, where it has one."""
    caution: ClassVar[str] = ""
    """What who scores images by it should know before."""
    options: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's parameters."""
    sized_by_data: tuple[str, ...] = ()
    """Buffers, by their name in the state, whose shape the training rows decide; loading takes theirs from the file."""

    def auxiliary(self, rows: Encoded, space: Space, rng: np.random.Generator) -> Encoded | None:
        """Rows that a second model trains on, made from the encoded training rows; None where there is no such model.

        Parameters
        ----------
        rows : Encoded
            Training rows with the bounds of their cells, as the trainer takes them; left as they are.
        space : Space
            What is known of every coordinate.
        rng : numpy.random.Generator
            Where all chance comes from.
        """
        return None

    def attach(self, model: GenerativeModel) -> None:
        """Take a second model of the same making as one's own; it is trained before `fit`, or loaded."""
        raise TypeError(f"{type(self).__name__} has no use for a second model")

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


def parts(rows: Rows) -> list[Rows]:
    """The rows in parts whose activations fit in memory."""
    return rows.split(TABLE_PART if rows.images is None else IMAGE_PART)


def images_of(statistic: Statistic, rows: Rows) -> Tensor:
    """The rows as images of shape ``(n, channels, height, width)``.

    Raises
    ------
    ValueError
        If they are rows of a table.
    """
    images = rows.images
    if images is None:
        raise ValueError(f"statistic {type(statistic).__name__} scores images, and these are rows of a table")
    return images
