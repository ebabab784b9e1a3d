"""Gaps filled with what rows drawn from the model lend, for models that only draw whole rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from anomgen.detector import fitting
from anomgen.detector.donors import Donors, Proposal, donors_of, given_features
from anomgen.encode import Encoded, ImageEncoder, image_encoder

if TYPE_CHECKING:
    from anomgen.detector.base import Detector
    from anomgen.detector.grid import Grid

Array = NDArray[np.float64]

CANDIDATES = 128
"""Candidates weighed for each row."""
BLOCK = 64
"""Rows whose candidates are weighed at a time."""
IMAGES = 512
"""Images drawn to lend pixels."""
NEAREST = "nearest draws"
WEIGHED = {
    "exact": "importance resampling",
    "bound": "importance resampling by a bound of the likelihood",
    "estimate": "importance resampling by an estimate of the likelihood",
}


def method_of(detector: Detector) -> str:
    """How candidates are chosen."""
    images = image_encoder(detector.encoder_) is not None
    likely = hasattr(detector.model_, "log_prob") and not images
    return WEIGHED[detector.model_.likelihood] if likely else NEAREST


class Borrower:
    """Draws of the model that lend rows of a table what these lack.

    Parameters
    ----------
    detector : Detector
        A fitted one.
    grid : Grid
        Of its encoder.
    seed : int
        Of the draws.
    """

    def __init__(self, detector: Detector, grid: Grid, seed: int) -> None:
        self.detector, self.grid, self.seed = detector, grid, seed
        self.donors = donors_of(detector, grid, seed)

    def candidates(
        self,
        code: Array,
        gaps: NDArray[np.bool_],
        features: Array,
        count: int,
        rngs: list[np.random.Generator],
        noisy: bool,
    ) -> tuple[Array, list[Proposal]]:
        """Codes of `count` candidates for each row, shape ``(n * count, d)``, and what proposed them.

        Parameters
        ----------
        code : ndarray of shape (n, d)
            Codes of rows, anything where `gaps` of shape ``(n, columns)`` says so.
        features : ndarray of shape (n, k)
            Conditions of the rows.
        count : int
        rngs : list of Generator
            One for each row.
        noisy : bool
            Whether candidates are drawn from a density; otherwise they are what donors lend.
        """
        grid, proposals = self.grid, []
        lost, unknown = (gaps[:, grid.columns[at]] for at in (grid.reals, grid.cells))
        made = np.repeat(code, count, axis=0)
        made[:, grid.masks] = np.where(
            np.repeat(gaps[:, grid.columns[grid.masks]], count, axis=0), 0.0, made[:, grid.masks]
        )
        for i, rng in enumerate(rngs):
            levels = np.nan_to_num(code[i : i + 1, grid.cells]).astype(np.int64)
            given = features[i : i + 1]
            proposal = self.donors.propose(code[i : i + 1, grid.reals], levels, given, (lost[i], unknown[i]))
            own = made[i * count : (i + 1) * count]
            numbers, drawn = proposal.draw(count, rng) if noisy else proposal.lend(count, rng)
            own[:, grid.reals[lost[i]]], own[:, grid.cells[unknown[i]]] = numbers, drawn
            proposals.append(proposal)
        return made, proposals

    def weighed(
        self, made: Array, proposals: list[Proposal], gaps: NDArray[np.bool_], given: NDArray[np.float32] | None
    ) -> tuple[Array, Array]:
        """Candidates as they would be written, and weights ``(n, count)`` that sum to one for each row."""
        grid, count = self.grid, len(made) // len(proposals)
        made, log_p = self._likely(made, given)
        weights = np.empty((len(proposals), count))
        for i, proposal in enumerate(proposals):
            where = slice(i * count, (i + 1) * count)
            lost, unknown = (at[gaps[i, grid.columns[at]]] for at in (grid.reals, grid.cells))
            log_q = proposal.log_prob(made[where][:, lost], made[where][:, unknown].astype(np.int64))
            weights[i] = _weights(log_p[where] - log_q)
        return made, weights

    def _likely(self, code: Array, given: NDArray[np.float32] | None) -> tuple[Array, Array]:
        """Candidates as they would be written and read again, and their log-density in model space.

        It is minus infinity where they lie beyond what can be written.
        """
        grid, model = self.grid, self.detector.model_
        values = grid.decode(code)
        written, rows = grid.code(values), grid.encode(values, model.codes, given)
        masses = np.zeros(len(code)) if model.codes else grid.log_mass(written)
        encoded = Encoded(rows.z, masses, rows.z, rows.z)
        log_p = fitting.map_encoded(self.detector, model, encoded, None, given=given is not None)
        return written, np.where(grid.beyond(code), -np.inf, log_p)


def borrowed(
    detector: Detector, grid: Grid, X: object, values: Array, rows: NDArray[np.int64], seed: int, draws: int
) -> tuple[list[Array], Array]:
    """Some rows of `values`, with their gaps filled, for each draw; and how many candidates share the weight."""
    given, features = grid.given(X), given_features(grid, X, len(values))
    borrower, noisy = Borrower(detector, grid, seed), method_of(detector) != NEAREST
    count = CANDIDATES if noisy else draws
    chosen, effective = [], np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        gaps = np.isnan(values[some])
        rngs = [np.random.default_rng([seed, int(row)]) for row in some]
        made, proposals = borrower.candidates(grid.code(values[some]), gaps, features[some], count, rngs, noisy)
        if noisy:
            places = None if given is None else np.repeat(given[some], count, axis=0)
            made, weights = borrower.weighed(made, proposals, gaps, places)
            picked = [rng.choice(count, draws, p=weight) for rng, weight in zip(rngs, weights, strict=True)]
            effective[start : start + len(some)] = 1.0 / np.square(weights).sum(1)
        else:
            picked = [np.arange(draws)] * len(some)
            effective[start : start + len(some)] = [proposal.effective for proposal in proposals]
        each = made.reshape(len(some), count, -1)
        chosen.append(np.stack([own[at] for own, at in zip(each, picked, strict=True)], axis=1))
    return [grid.decode(each) for each in np.concatenate(chosen, axis=1)], effective


def _weights(log_weight: Array) -> Array:
    """Weights that sum to one; equal ones where none of the candidates has any."""
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    if not np.isfinite(log_weight).any():
        return np.full(len(log_weight), 1.0 / len(log_weight))
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


def nearest_images(
    detector: Detector, z: NDArray[np.float32], rows: NDArray[np.int64], seed: int, draws: int
) -> tuple[list[Array], Array]:
    """Pixels that are NaN filled with those of images drawn from the model, for each draw."""
    encoder = cast(ImageEncoder, image_encoder(detector.encoder_))
    bank = encoder.encode(detector.sample(IMAGES, random_state=seed), codes=True).z.astype(np.float64)
    empty = np.zeros((len(bank), 0))
    donors = Donors(bank, empty.astype(np.int64), [], empty, np.zeros(bank.shape[1]))
    filled = np.repeat(z[None].astype(np.float64), draws, axis=0)
    effective = np.empty(len(z))
    for i, row in enumerate(z.astype(np.float64)):
        lost = np.isnan(row)
        none = empty[:1]
        proposal: Proposal = donors.propose(row[None], none.astype(np.int64), none, (lost, np.zeros(0, dtype=bool)))
        numbers, _ = proposal.lend(draws, np.random.default_rng([seed, int(rows[i])]))
        filled[:, i, lost] = np.clip(numbers, -1.0, 1.0)
        effective[i] = proposal.effective
    return list(filled), effective
