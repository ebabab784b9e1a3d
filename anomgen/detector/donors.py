"""Rows drawn from a model that lend their values to others: proposals of known density for what is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from anomgen.encode import JointEncoder

if TYPE_CHECKING:
    from anomgen.detector.base import Detector
    from anomgen.detector.grid import Grid

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]

POOL = 4096
"""Rows of a table drawn to lend values."""
NEAR = 64
"""Of them, those that lend to a row."""
RIDGE = 1e-3
"""What is added to the variance of every feature, as a share of their mean, where one is regressed on others."""
ANY_LEVEL = 0.2
"""Probability that a level is drawn as often as it occurs rather than lent."""
WIDER = 1.1
"""Factor on the variance of kernels: a proposal must not be narrower than its target."""
LEAST_SCALE = 1e-3
"""Least standard deviation of a proposal, in standard deviations of the column."""


@dataclass(frozen=True)
class Proposal:
    """A mixture density of the missing coordinates of one row.

    Numbers are normal around what each donor lends, levels mostly the donor's own.

    Parameters
    ----------
    shares : ndarray of shape (donors,)
    means : ndarray of shape (donors, reals)
        What donors lend.
    centers : ndarray of shape (donors, reals)
        Where the kernels stand.
    factor : ndarray of shape (reals, reals)
        Cholesky factor of the covariance that all share.
    lent : ndarray of shape (donors, cells)
        Numbers of levels.
    often : list of ndarray
        How frequent each level of each cell is.
    """

    shares: Array
    means: Array
    centers: Array
    factor: Array
    lent: Places
    often: list[Array]

    @property
    def effective(self) -> float:
        """How many donors share the weight."""
        return float(1.0 / np.square(self.shares).sum())

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Places]:
        """Numbers ``(n, reals)`` and levels ``(n, cells)``."""
        donors = rng.choice(len(self.shares), n, p=self.shares)
        numbers = self.centers[donors] + rng.normal(size=(n, self.centers.shape[1])) @ self.factor.T
        levels = self.lent[donors]
        for c, often in enumerate(self.often):
            other = rng.choice(len(often), n, p=often)
            levels[:, c] = np.where(rng.random(n) < ANY_LEVEL, other, levels[:, c])
        return numbers, levels

    def lend(self, n: int, rng: np.random.Generator) -> tuple[Array, Places]:
        """Numbers and levels as donors have them, without noise."""
        donors = rng.choice(len(self.shares), n, p=self.shares)
        return self.means[donors], self.lent[donors]

    def log_prob(self, numbers: Array, levels: Places) -> Array:
        """Logarithm of the density times mass of what may be drawn, shape ``(n,)``."""
        n, reals = numbers.shape
        terms = np.broadcast_to(np.log(np.maximum(self.shares, 1e-300)), (n, len(self.shares))).copy()
        if reals:
            away = (numbers[:, None] - self.centers[None]).reshape(-1, reals).T
            white = solve_triangular(self.factor, away, lower=True)
            terms -= 0.5 * np.square(white).sum(0).reshape(n, -1)
            terms -= np.log(np.diag(self.factor)).sum() + 0.5 * reals * math.log(2 * math.pi)
        for c, often in enumerate(self.often):
            own = levels[:, None, c] == self.lent[None, :, c]
            terms += np.log(ANY_LEVEL * often[levels[:, c], None] + (1.0 - ANY_LEVEL) * own)
        return np.asarray(logsumexp(terms, axis=1))


class Donors:
    """Rows to borrow from, as features: numbers in model space, levels one-hot.

    Donors near to a row in what is observed lend it the rest. Numbers move along the linear regression of what is
    missing on what is observed, fitted to all donors: lent are residuals, so that few donors suffice.

    Parameters
    ----------
    numbers : ndarray of shape (n, reals)
        Numbers in model space.
    levels : ndarray of shape (n, cells)
        Numbers of levels.
    often : list of ndarray
        How frequent each level of each cell is.
    given : ndarray of shape (n, k)
        Features of conditions, which are never missing.
    least : ndarray of shape (reals,)
        Least standard deviation of a proposal.
    values : ndarray of shape (n, columns), optional
        The rows as numbers that can be written.

    References
    ----------
    Little (1988), *Missing-data adjustments in large surveys*, JBES 6 (donors by their predicted means).

    West (1993), *Approximating posterior distributions by mixtures*, JRSS B 55 (kernels drawn together).

    Beaumont, Zhang, Balding (2002), *Approximate Bayesian computation in population genetics*, Genetics 162
    (regression adjustment of what is drawn).
    """

    def __init__(
        self,
        numbers: Array,
        levels: Places,
        often: list[Array],
        given: Array,
        least: Array,
        values: Array | None = None,
    ) -> None:
        self.numbers, self.levels, self.often, self.least = numbers, levels, often, least
        self.values = np.zeros((len(numbers), 0)) if values is None else values
        self.widths = [len(shares) for shares in often]
        self.features = self.features_of(numbers, levels, given)
        self.middle = self.features.mean(0)
        centred = self.features - self.middle
        self.covariance = centred.T @ centred / len(centred)
        self._maps: dict[bytes, tuple[Array, Array]] = {}

    def features_of(self, numbers: Array, levels: Places, given: Array) -> Array:
        """Rows as features."""
        coded = [(levels[:, c, None] == np.arange(width)).astype(np.float64) for c, width in enumerate(self.widths)]
        return np.concatenate([numbers, *coded, given], axis=1)

    def propose(self, numbers: Array, levels: Places, given: Array, gone: tuple[Flags, Flags]) -> Proposal:
        """What may stand in one row where it has nothing: the density of numbers and levels that are gone.

        Parameters
        ----------
        numbers, levels, given : ndarrays of one row
            Anything where gone.
        gone : flags of shape (reals,) and of shape (cells,)
        """
        lost, unknown = gone
        known = np.concatenate([~lost, *(np.full(w, not u) for w, u in zip(self.widths, unknown, strict=True))])
        known = np.concatenate([known, np.full(given.shape[1], True)])
        row = self.features_of(np.nan_to_num(numbers), levels, given)[0]
        away = row[known] - self.features[:, known]
        slope, rest = self._regression(known, lost)
        shift = away @ slope
        distance = np.square(away).mean(1) if away.shape[1] else np.zeros(len(away))
        if shift.shape[1]:
            distance = distance + (np.square(shift) / np.maximum(np.diag(rest), LEAST_SCALE**2)).mean(1)
        near = np.sort(np.argsort(distance, kind="stable")[:NEAR])
        beyond = distance[near] - distance[near].min()
        shares = np.exp(-beyond / max(2.0 * beyond.mean(), 1e-12))
        shares /= shares.sum()
        scale = _bandwidth(int(lost.sum()), float(1.0 / np.square(shares).sum()))
        means = self.numbers[near][:, lost] + shift[near]
        return Proposal(
            shares=shares,
            means=means,
            centers=_shrunk(means, shares, scale),
            factor=_factor(rest, scale, self.least[lost]),
            lent=self.levels[near][:, unknown],
            often=[often for often, at in zip(self.often, unknown, strict=True) if at],
        )

    def _regression(self, known: Flags, lost: Flags) -> tuple[Array, Array]:
        """Slopes of lost numbers on known features, and the covariance of what is left."""
        key = known.tobytes() + lost.tobytes()
        if key not in self._maps:
            at = np.flatnonzero(lost)
            own = self.covariance[np.ix_(known, known)]
            both = self.covariance[np.ix_(known, at)]
            # Few donors of many features say little about each.
            share = max(RIDGE, len(own) / (10.0 * len(self.features)))
            ridge = share * max(float(np.trace(own)) / max(len(own), 1), 1e-12)
            slope = np.linalg.solve(own + ridge * np.eye(len(own)), both)
            rest = self.covariance[np.ix_(at, at)] - both.T @ slope
            if len(self._maps) >= 256:
                self._maps.clear()
            self._maps[key] = (slope, 0.5 * (rest + rest.T))
        return self._maps[key]


def _bandwidth(d: int, effective: float) -> float:
    """Standard deviation of a kernel, in those of the density that so many donors stand for."""
    return float(min(1.0, (4.0 / ((d + 2) * effective)) ** (1.0 / (d + 4))))


def _shrunk(means: Array, shares: Array, scale: float) -> Array:
    """Centers of kernels, drawn together so that with their own width they spread no further than `means` do."""
    middle = shares @ means
    return np.asarray(middle + math.sqrt(max(1.0 - scale**2, 0.0)) * (means - middle))


def _factor(rest: Array, scale: float, least: Array) -> Array:
    """Cholesky factor of the covariance of kernels, a little wider than what is left of the numbers."""
    if not len(rest):
        return rest
    values, vectors = np.linalg.eigh(WIDER * scale**2 * rest)
    wide = (vectors * np.maximum(values, 0.0)) @ vectors.T + np.diag(np.square(least))
    return np.asarray(np.linalg.cholesky(wide))


def donors_of(detector: Detector, grid: Grid, seed: int) -> Donors:
    """Rows of a table drawn from the fitted model, without gaps."""
    drawn = detector.sample(POOL, random_state=seed)
    values = grid.read(drawn)
    rng = np.random.default_rng([seed, 8])
    for j in np.flatnonzero(np.isnan(values).any(axis=0)):
        gaps = np.isnan(values[:, j])
        there = values[~gaps, j]
        # A column that is missing in all rows drawn: any level does for a proposal.
        values[gaps, j] = rng.choice(there, int(gaps.sum())) if len(there) else 0.0
    code = grid.code(values)
    often = [0.9 * shares + 0.1 / len(shares) for shares in grid.levels.values()]
    levels = np.minimum(code[:, grid.cells].astype(np.int64), [len(shares) - 1 for shares in often])
    features = given_features(grid, drawn, len(values))
    return Donors(code[:, grid.reals], levels, often, features, _least(grid, code), values)


def given_features(grid: Grid, X: object, n: int) -> Array:
    """Conditions among the columns of rows as features; none where they are not known."""
    given = grid.given(X)
    if given is None:
        return np.zeros((n, 0))
    assert isinstance(grid.encoder, JointEncoder)
    levels = [len(edges) for edges in grid.encoder.given_.layout()["edges"]]
    parts = [
        (given[:, k, None] == np.arange(count)).astype(np.float64) if count else given[:, k, None].astype(np.float64)
        for k, count in enumerate(levels)
    ]
    return np.concatenate(parts, axis=1)


def _least(grid: Grid, code: Array) -> Array:
    """A cell of each lattice, so that its middle stands for it; next to nothing for other numbers."""
    found = np.full(len(grid.reals), LEAST_SCALE)
    for i, k in enumerate(grid.reals):
        if grid.own.coordinates_[k][1] == "lattice":
            steps = np.diff(np.unique(code[:, k]))
            found[i] = max(float(np.median(steps)), LEAST_SCALE) if len(steps) else 1.0
    return found
