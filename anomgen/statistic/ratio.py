"""The likelihood ratio to a model of the background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anomgen.encode import Encoded
from anomgen.generative import PIXEL_LEVELS, PIXEL_WIDTH, GenerativeModel, Rows, Space
from anomgen.statistic.base import Statistic, log_likelihood

PIECE = 1024
"""Rows mutated at a time."""


class Ratio(Statistic):
    r"""The log-likelihood of a row minus that under a model of the background: :math:`\log p(x) - \log p_b(x)`, nats.

    The background model is of the same making and trains on the same rows with a share of their coordinates mutated:
    pixels take levels drawn evenly, columns of a table take values of other rows. What both know, such as how much of
    an image is empty, cancels; what only the first knows is left.

    Parameters
    ----------
    mutation : float
        Share of the coordinates of a row that are mutated, in (0, 1].

    References
    ----------
    Ren et al., "Likelihood ratios for out-of-distribution detection", NeurIPS 2019.
    """

    paired = True
    unit = "nats"
    options = ("mutation",)

    background: GenerativeModel

    def __init__(self, mutation: float = 0.15) -> None:
        super().__init__()
        if not 0.0 < mutation <= 1.0:
            raise ValueError(f"mutation={mutation!r} must be a share in (0, 1]")
        self.mutation = mutation

    def auxiliary(self, rows: Encoded, space: Space, rng: np.random.Generator) -> Encoded:
        """Training rows with mutated coordinates; conditions stay."""
        exact = rows.low is rows.z
        z = rows.z.copy()
        low, high = (z, z) if exact else (rows.low.copy(), rows.high.copy())
        for start in range(0, len(z), PIECE):
            where = slice(start, start + PIECE)
            mutated = [z[where]] if exact else [z[where], low[where], high[where]]
            if space.image is None:
                _mutate_columns(mutated, rows, space, self.mutation, rng)
            else:
                _mutate_pixels(mutated, space, self.mutation, rng)
        return Encoded(z, rows.log_det, low, high)

    def attach(self, model: GenerativeModel) -> None:
        """Take the model of the background."""
        self.background = model
        self.sized_by_data = tuple(f"background.{name}" for name in model.sized_by_data)

    def fit(self, model: GenerativeModel, held_out: Rows, train: Rows) -> None:
        """Check that there is a model of the background; it has learned already.

        Raises
        ------
        ValueError
            If none is attached.
        """
        if not hasattr(self, "background"):
            raise ValueError("statistic Ratio needs a second model, trained on auxiliary(...): attach one before fit")

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        """Log-likelihood ratio of every row, nats."""
        return log_likelihood(model, rows) - log_likelihood(self.background, rows)


def _mutate_pixels(parts: list[NDArray[np.float32]], space: Space, share: float, rng: np.random.Generator) -> None:
    """Move pixels to levels drawn evenly, with whatever interval surrounds them."""
    pixels = [part[:, : space.modelled] for part in parts]
    z = pixels[0]
    level = np.clip(np.floor((z + 1.0) * (0.5 * PIXEL_LEVELS)), 0, PIXEL_LEVELS - 1)
    drawn = rng.integers(0, PIXEL_LEVELS, z.shape)
    step = np.where(rng.random(z.shape) < share, drawn - level, 0.0).astype(np.float32) * np.float32(PIXEL_WIDTH)
    for part in pixels:
        part += step


def _mutate_columns(
    parts: list[NDArray[np.float32]], rows: Encoded, space: Space, share: float, rng: np.random.Generator
) -> None:
    """Give columns the values of other rows; a value moves with the mark that it is missing."""
    sources = [rows.z, rows.low, rows.high][: len(parts)]
    columns: dict[str, list[int]] = {}
    for j, name in enumerate(space.names[: space.modelled]):
        columns.setdefault(name.removesuffix(" is missing"), []).append(j)
    for together in columns.values():
        at = np.flatnonzero(rng.random(len(parts[0])) < share)
        donors = rng.integers(0, len(rows), len(at))
        for part, source in zip(parts, sources, strict=True):
            part[at[:, None], together] = source[donors[:, None], together]
