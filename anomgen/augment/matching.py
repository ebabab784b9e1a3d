"""Columns of drawn rows brought to the distribution that they had in training, value by value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.augment.columns import stored
from anomgen.calibrate import uniforms
from anomgen.detector import Detector
from anomgen.encode import JointEncoder, Marginals, TableEncoder

Array = NDArray[np.float64]

PILOT = 8_192
"""Draws that tell how the model distributes the values of a column."""
PILOT_SEED = 20_261_121
"""Of these draws; the same for all recipes, so that one model always gives one map."""


@dataclass(frozen=True)
class Steps:
    """The distribution function of a column that draws of it tell.

    A value drawn once stands in the middle of its step, so that values between two of them keep their order and stay
    apart: steps alone would map all draws to as few values as were looked at.

    Parameters
    ----------
    draws : ndarray of shape (n,)
        Sorted.
    ends, rise : ndarray of shape (k,)
        Where the function bends, and what it is there.
    """

    draws: Array
    ends: Array
    rise: Array

    @classmethod
    def of(cls, draws: Array) -> Steps:
        """From draws in any order."""
        levels, counts = np.unique(draws, return_counts=True)
        middle, half = np.cumsum(counts) - 0.5 * counts, np.where(counts > 1, 0.5 * counts, 0.0)
        rise = np.stack([middle - half, middle + half], axis=1).ravel() / len(draws)
        return cls(np.sort(draws), np.repeat(levels, 2), rise)

    def shares(self, x: Array, uniform: Array) -> Array:
        """The function at `x`; `uniform` chooses where it jumps or nothing is known."""
        draws = self.draws
        low, high = (np.searchsorted(draws, x, side=side) / len(draws) for side in ("left", "right"))
        between = np.interp(x, self.ends, self.rise)
        seen = low < high
        low = np.where(seen, low, np.where(x < draws[0], 0.0, between))
        high = np.where(seen, high, np.where(x > draws[-1], 1.0, between))
        return np.asarray(low + uniform * (high - low))


@dataclass(frozen=True)
class Matching:
    r"""A monotone map of every numeric column that gives draws the marginal distribution of the training rows.

    .. math:: x \mapsto Q_j(F_j(x))

    with :math:`F_j` the distribution of column `j` under the model, estimated from 8,192 draws, and :math:`Q_j` the
    quantile function of the training rows. What the columns have to do with each other stays as the model has it, for
    ranks do not change; what the noise of training and the smoothness of a density do to a single column is undone: its
    atoms, its grid and its range come back. Between draws :math:`F_j` rises evenly. Where the model gives one value a
    probability it jumps, and a number within the jump is taken that depends on seed, row and column alone; beyond the
    outermost draws likewise, so that the smallest and the largest training value do not come back themselves. Dates and
    durations are continuous: rows of whole days get times of the day.

    Parameters
    ----------
    table : TableEncoder
        Reads and writes the columns.
    marginals : Marginals
    pilot : mapping of int to Steps
        How the model distributes every numeric column.
    """

    table: TableEncoder
    marginals: Marginals
    pilot: Mapping[int, Steps]

    @classmethod
    def of(cls, detector: Detector) -> Matching | None:
        """The map for draws of a detector; None where rows are images, or no column has numbers.

        Models saved by versions that did not keep the distribution of columns have none either.
        """
        marginals = getattr(detector, "marginals_", None)
        if marginals is None or not marginals.pieces:
            return None
        encoder = detector.encoder_
        table = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
        assert isinstance(table, TableEncoder)
        values = table.read(detector.sample(PILOT, random_state=PILOT_SEED))
        known = {j: values[~np.isnan(values[:, j]), j] for j in marginals.pieces}
        return cls(table, marginals, {j: Steps.of(draws) for j, draws in known.items() if len(draws)})

    def apply(self, rows: Any, seed: tuple[int, ...], first: int, given: Collection[Any] = ()) -> Any:
        """Rows `first` and following of the sequence that `seed` defines, mapped; what is missing stays so.

        Parameters
        ----------
        rows : frame or ndarray of shape (n, p)
        seed : tuple of int
        first : int
        given : collection of column
            Columns to leave as they are.
        """
        values = self.table.read(rows)
        numbers = np.arange(first, first + len(rows), dtype=np.int64)
        for j, steps in self.pilot.items():
            name = self.table.columns_[j].name
            if name in given:
                continue
            known = np.flatnonzero(~np.isnan(values[:, j]))
            own = int(np.random.SeedSequence([*seed, j]).generate_state(1, np.uint64)[0])
            u = steps.shares(values[known, j], uniforms(own, numbers[known]))
            values[known, j] = self.marginals.quantile(j, u)
            rows = stored(
                rows, self.table.names_.index(name) if self.table.container_ == "array" else name, values[:, j]
            )
        return rows
