"""The nearest likely row: what would have to be different for an anomaly to be none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.detector import fitting, retouching
from anomgen.detector.borrowing import Borrower
from anomgen.detector.checks import validated
from anomgen.detector.completion import seed_of
from anomgen.detector.donors import given_features
from anomgen.detector.grid import Grid
from anomgen.encode import image_encoder

if TYPE_CHECKING:
    from anomgen.detector.base import Detector

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK = 64
"""Rows repaired at a time."""
STEPS = 3
"""Columns that are replaced one after the other before whole rows are tried."""
TRIED = 16
"""Columns that each of these steps tries at most, those furthest from the nearest likely rows."""
LENT = 8
"""Values that a column tries: so many given the rest of its row, and as many of the nearest likely rows."""
WHOLE = 4
"""Nearest likely rows that a row may turn into."""
FAR = 4.0
"""Squared distance, in standard deviations, from which a column counts no more: rows that differ in few are near."""
HALVINGS = 8
MARGIN = 1e-3
"""What a repaired row must score above the threshold, in quartile ranges of the training scores: rounding to the
type of a column costs some of it."""


@dataclass(frozen=True)
class Repaired:
    """Rows made likely, and what that took.

    Parameters
    ----------
    rows : frame, array or images
        Laid out as the rows given.
    changed : DataFrame or ndarray of bool, of the shape of the rows
        Which cells or pixels are others.
    before, after : ndarray of shape (n,)
        Scores.
    reached : bool ndarray of shape (n,)
        Whether the row now scores at least ``offset_``; one that could not be made to is as it was.
    """

    rows: Any
    changed: Any
    before: Array
    after: Array
    reached: Flags


class Repairing:
    """What every detector does about anomalies."""

    offset_: float

    def repair(self, X: Any, *, random_state: Any = None, sparse: bool = True) -> Repaired:
        """The nearest likely row of every anomaly: a counterfactual, which scores at least ``offset_``.

        In tables, columns are replaced one after the other by values that suit the rest of the row, up to three; where
        that does not do, the row becomes one of the nearest likely rows drawn from the model. Columns are then given
        back as long as the row stays likely, and numbers moved back as far as they can be. It is a search, which finds
        a near row and not surely the nearest.

        In images, what is hot in :meth:`score_map` turns into what the model reconstructs there, into a smooth surface
        between the pixels around it, or into a likely image drawn from the model; first the hottest pixels only, then
        more.

        Parameters
        ----------
        X : frame or array of shape (n, p), or images
            Rows that score at least ``offset_`` come back as they are.
        random_state : int, RandomState or None
            Of the rows drawn; None stands for the detector's own `random_state`.
        sparse : bool
            Whether few columns are to change, much if need be. Otherwise all columns may, and the distance in model
            space is what is kept short.

        Returns
        -------
        Repaired

        Raises
        ------
        ValueError
            If images are not of the size that the model has.

        Examples
        --------
        >>> import numpy as np
        >>> from anomgen import MixtureDetector
        >>> X = np.random.default_rng(0).normal(size=(400, 3))
        >>> detector = MixtureDetector(random_state=0, verbose=False).fit(X)
        >>> repaired = detector.repair([[0.0, 9.0, 0.0]])
        >>> repaired.changed, bool(repaired.rows[0, 1] < 4)
        (array([[False,  True, False]]), True)
        """
        detector = cast("Detector", self)
        detector._absorb()
        X = validated(detector, X, reset=False, minimum=1)
        seed = seed_of(detector, random_state)
        before = detector.score_samples(X)
        bad = np.flatnonzero(before < self.offset_)
        if image_encoder(detector.encoder_) is not None:
            rows, changed = retouching.retouched(detector, X, bad, seed)
        else:
            rows, changed = _repaired(detector, X, bad, seed, sparse)
        after = before.copy()
        if len(bad):
            after[bad] = detector.score_samples(_some(rows, bad))
        return Repaired(rows, changed, before, after, after >= self.offset_)


def _repaired(detector: Detector, X: Any, bad: NDArray[np.int64], seed: int, sparse: bool) -> tuple[Any, Any]:
    grid = Grid(detector.encoder_)
    values = grid.read(X)
    fixed, rough = values[bad].copy(), values[bad].copy()
    if len(bad):
        bench = _Bench(detector, grid, X, values, seed)
        for start in range(0, len(bad), BLOCK):
            some = slice(start, start + BLOCK)
            fixed[some], rough[some] = bench.repair(bad[some], sparse)
    rows = grid.put(X, bad, _differ(fixed, values[bad]), fixed)
    if len(bad):
        # What a column's type makes of a number may just miss the threshold: those stay where they were before.
        missed = detector.score_samples(_some(rows, bad)) < detector.offset_
        fixed[missed] = rough[missed]
        rows = grid.put(X, bad, _differ(fixed, values[bad]), fixed)
    flags = np.zeros((len(values), len(grid.own.names_)), dtype=bool)
    for j, column in enumerate(grid.own.columns_):
        flags[bad, grid.own.names_.index(column.name)] = _differ(fixed, values[bad])[:, j]
    changed = pd.DataFrame(flags, index=X.index, columns=X.columns) if isinstance(X, pd.DataFrame) else flags
    return rows, changed


def _some(rows: Any, at: NDArray[np.int64]) -> Any:
    return rows.iloc[at] if isinstance(rows, pd.DataFrame) else rows[at]


def _differ(a: Array, b: Array) -> Flags:
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


class _Bench:
    """Everything that repairs of one table share."""

    def __init__(self, detector: Detector, grid: Grid, X: Any, values: Array, seed: int) -> None:
        self.detector, self.grid, self.values, self.seed = detector, grid, values, seed
        self.borrower = Borrower(detector, grid, seed)
        self.features = given_features(grid, X, len(values))
        quartiles = np.quantile(detector.score_quantiles_, [0.25, 0.75])
        self.target = detector.offset_ + MARGIN * float(quartiles[1] - quartiles[0])
        drawn = self.borrower.donors.values
        self.likely = drawn[self.score(drawn) >= self.target]
        self.code = grid.code(self.likely)

    def score(self, values: Array) -> Array:
        """Scores of rows."""
        detector = self.detector
        rows = self.grid.encode(values, detector.model_.codes)
        return np.asarray(fitting.map_encoded(detector, detector.model_, rows, detector.statistic_))

    def apart(self, one: Array, other: Array) -> Array:
        """Squared distance of codes in every column, shape ``(..., columns)``."""
        grid = self.grid
        each = np.zeros((*np.broadcast_shapes(one.shape, other.shape)[:-1], len(grid.own.columns_)))
        gaps = np.isnan(one) | np.isnan(other)
        away = np.where(gaps, 1.0, np.square(one - other))
        each[..., grid.columns[grid.reals]] = away[..., grid.reals]
        mismatch = gaps | (one != other)
        each[..., grid.columns[grid.cells]] = 2.0 * mismatch[..., grid.cells]
        return each

    def repair(self, rows: NDArray[np.int64], sparse: bool) -> tuple[Array, Array]:
        """Some rows made likely, before and after the last step, which moves numbers back."""
        given = self.values[rows]
        if not len(self.likely):
            return given, given
        apart = self.apart(self.grid.code(given)[:, None], self.code[None])
        order = np.argsort(np.minimum(apart, FAR).sum(2) if sparse else apart.sum(2), axis=1, kind="stable")
        best, cost = given.copy(), np.full(len(rows), np.inf)
        for place in range(min(WHOLE, order.shape[1])):
            self._keep(
                given,
                self._given_back(given, self.likely[order[:, place]]) if sparse else self.likely[order[:, place]],
                sparse,
                best,
                cost,
            )
        if sparse:
            self._keep(given, self._given_back(given, self._stepped(rows, given, order)), sparse, best, cost)
        return self._moved_back(given, best, sparse), best

    def _keep(self, given: Array, found: Array, sparse: bool, best: Array, cost: Array) -> None:
        """Take over rows that are likely at less cost than the best so far: fewer columns, then less distance."""
        apart = self.apart(self.grid.code(given), self.grid.code(found)).sum(1)
        price = 1e6 * _differ(given, found).sum(1) + apart if sparse else apart
        price = np.where(self.score(found) >= self.target, price, np.inf)
        better = price < cost
        best[better], cost[better] = found[better], price[better]

    def _stepped(self, rows: NDArray[np.int64], given: Array, order: NDArray[np.int64]) -> Array:
        """Rows with one column after the other replaced, each time the one that helps most."""
        current, done = given.copy(), np.zeros(len(rows), dtype=bool)
        nearest = self.likely[order[:, :LENT]]
        away = np.minimum(
            self.apart(
                self.grid.code(given)[:, None],
                self.grid.code(nearest.reshape(-1, given.shape[1])).reshape(*nearest.shape[:2], -1),
            ),
            FAR,
        ).mean(1)
        away[:, [column.kind == "constant" for column in self.grid.own.columns_]] = FAR
        columns = np.argsort(-away, axis=1, kind="stable")[:, :TRIED]
        for step in range(min(STEPS, given.shape[1])):
            open_rows = np.flatnonzero(~done)
            if not len(open_rows):
                break
            at, some = columns[open_rows], np.arange(len(open_rows))
            made = np.repeat(current[open_rows, None], at.shape[1], axis=1)
            made = np.repeat(made[:, :, None], 2 * LENT, axis=2)
            for c in range(at.shape[1]):
                lent = self._lent(rows[open_rows], current[open_rows], at[:, c], step)
                near = nearest[open_rows, :, at[:, c]]
                near = np.pad(near, ((0, 0), (0, LENT - near.shape[1])), mode="edge")
                made[some, c, :, at[:, c]] = np.concatenate([lent, near], axis=1)
            flat = made.reshape(len(open_rows), -1, given.shape[1])
            scores = self.score(flat.reshape(-1, given.shape[1])).reshape(flat.shape[:2])
            chosen = scores.argmax(1)
            helped = scores[some, chosen] > self.score(current[open_rows])
            current[open_rows[helped]] = flat[some, chosen][helped]
            done[open_rows] = (scores[some, chosen] >= self.target) | ~helped
        return current

    def _lent(self, rows: NDArray[np.int64], current: Array, column: NDArray[np.int64], step: int) -> Array:
        """Values of one column of each row that suit the rest of it, shape ``(n, LENT)``."""
        gaps = np.zeros(current.shape, dtype=bool)
        some = np.arange(len(rows))
        gaps[some, column] = True
        rngs = [np.random.default_rng([self.seed, int(row), int(j), step]) for row, j in zip(rows, column, strict=True)]
        code = self.grid.code(current)
        made, _ = self.borrower.candidates(code, gaps | np.isnan(current), self.features[rows], LENT, rngs, False)
        return self.grid.decode(made).reshape(len(rows), LENT, -1)[some, :, column]

    def _given_back(self, given: Array, found: Array) -> Array:
        """Rows with every column as it was given where they stay likely, tried in the order of what that costs."""
        current = found.copy()
        differ = _differ(given, found)
        width = given.shape[1]
        loss = np.full(given.shape, -np.inf)
        for j in np.flatnonzero(differ.any(axis=0)):
            mine = differ[:, j]
            tried = current[mine].copy()
            tried[:, j] = given[mine, j]
            loss[mine, j] = self.score(tried)
        order = np.argsort(-loss, axis=1, kind="stable")
        for place in range(width):
            at = order[:, place]
            some = np.flatnonzero(differ[np.arange(len(given)), at])
            if not len(some):
                break
            tried = current[some].copy()
            tried[np.arange(len(some)), at[some]] = given[some, at[some]]
            likely = self.score(tried) >= self.target
            current[some[likely]] = tried[likely]
        return current

    def _moved_back(self, given: Array, found: Array, sparse: bool) -> Array:
        """Rows with numbers moved back towards where they were, as far as they stay likely."""
        grid, current = self.grid, found.copy()
        start = grid.code(given)
        reals = [(int(grid.columns[k]), int(k)) for k in grid.reals]
        groups = [[pair] for pair in reals] if sparse else [reals]
        for group in groups:
            columns, places = [j for j, _ in group], [k for _, k in group]
            differ = _differ(given, current)[:, columns]
            some = np.flatnonzero(differ.any(axis=1) & ~np.isnan(start[:, places]).any(axis=1))
            if not len(some):
                continue
            end = grid.code(current[some])
            low, high = np.zeros(len(some)), np.ones(len(some))
            for _ in range(HALVINGS):
                share = 0.5 * (low + high)
                code = end.copy()
                code[:, places] = start[some][:, places] + share[:, None] * (end - start[some])[:, places]
                tried = current[some].copy()
                tried[:, columns] = np.where(differ[some], grid.decode(code)[:, columns], tried[:, columns])
                likely = self.score(tried) >= self.target
                high, low = np.where(likely, share, high), np.where(likely, low, share)
                current[some[likely]] = tried[likely]
        return current
