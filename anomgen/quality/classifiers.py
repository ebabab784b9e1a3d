"""What gradient boosting makes of synthetic rows: whether it tells them from real ones, and what they teach it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from anomgen.quality.tables import Array, Column, Layout, some

Mask = NDArray[np.bool_]

MAX_ROWS = 20_000
FOLDS = 3
TARGETS = 8
"""Columns predicted in turn where no target is named."""
CLASSES = 10
"""Distinct whole numbers up to which a target is one of classes, and classes told apart; the rarer ones are one."""
QUICK: dict[str, Any] = {
    "learning_rate": 0.2,
    "max_iter": 40,
    "max_leaf_nodes": 15,
    "l2_regularization": 1.0,
    "early_stopping": False,
}
"""How a target is learned. Without regularisation rare classes make boosting of many classes diverge."""
SKILL = 0.05
"""Skill of a model of real rows below which there is nothing that synthetic rows could teach as well."""


class Auroc(NamedTuple):
    """Area under the ROC curve, with an interval of 95 %.

    Parameters
    ----------
    value, low, high : float
        0.5 where the two groups cannot be told apart.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Transfer:
    """How well a target is predicted by a model of synthetic rows, and by one of as many real rows.

    Parameters
    ----------
    target : str
    measure : {"AUROC", "R2"}
        Of classes the area under the ROC curve, each class against the rest, weighted by their frequency. Of numbers
        the explained share of the variance of their ranks.
    synthetic, real : float
        Trained on synthetic and on real rows; tested on the same held-out rows.
    """

    target: str
    measure: str
    synthetic: float
    real: float

    @property
    def ratio(self) -> float | None:
        """Synthetic over real; None where real rows teach nothing either."""
        chance = 0.5 if self.measure == "AUROC" else 0.0
        return max(self.synthetic, 0.0) / self.real if self.real > chance + SKILL else None


def two_sample_auroc(
    synthetic: Any, real: Any, *, seed: int = 0, max_rows: int = MAX_ROWS, folds: int = FOLDS
) -> Auroc:
    """How well synthetic rows are told from real ones by a classifier that has not seen them.

    Gradient boosting on equally many rows of both, cross-validated; missing values and levels as they are.

    Parameters
    ----------
    synthetic, real : frame or array
        Real rows are ones that the model was not fitted to.
    seed : int
    max_rows : int
        Rows of each used at most.
    folds : int

    Returns
    -------
    Auroc
        0.5 where they cannot be told apart, 1 where all can.

    Raises
    ------
    ValueError
        If there are fewer rows than twice the folds.

    References
    ----------
    Lopez-Paz, Oquab (2017), *Revisiting classifier two-sample tests*, arXiv:1610.06545.
    DeLong, DeLong, Clarke-Pearson (1988), Biometrics 44, 837.
    """
    real, synthetic = some(real, max_rows, seed), some(synthetic, max_rows, seed + 1)
    return told_apart(synthetic, real, seed, folds)


def told_apart(synthetic: Any, real: Any, seed: int = 0, folds: int = FOLDS) -> Auroc:
    """As :func:`two_sample_auroc`, of all rows that are given."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    # Levels are those of both: by those of one alone the other would be told, where levels are many and each is rare.
    layout = Layout.of(real, synthetic)
    synthetic, real = layout.read(synthetic), layout.read(real)
    n = min(len(synthetic), len(real))
    if n < 2 * folds:
        raise ValueError(f"{n} rows are too few for a two-sample test in {folds} folds")
    rng = np.random.default_rng([seed, 2])
    X = np.concatenate([part[rng.permutation(len(part))[:n]] for part in (real, synthetic)])
    y = np.repeat([0, 1], n)

    def fold(split: tuple[Any, Any]) -> tuple[float, float]:
        learned, tested = split
        model = HistGradientBoostingClassifier(categorical_features=layout.discrete, random_state=seed)
        chance = model.fit(_some_value(X[learned]), y[learned]).predict_proba(X[tested])[:, 1]
        return _delong(chance[y[tested] == 1], chance[y[tested] == 0])

    told = np.array(_each(fold, StratifiedKFold(folds, shuffle=True, random_state=seed).split(X, y)))
    value, error = float(told[:, 0].mean()), float(np.sqrt(told[:, 1].sum()) / folds)
    return _interval(value, error)


def membership(train_scores: Any, held_out_scores: Any) -> Auroc:
    """How well rows that a model was fitted to are told from others by the model's score.

    Parameters
    ----------
    train_scores, held_out_scores : array of shape (n,)
        Scores of the same model, higher where a row is likelier.

    Returns
    -------
    Auroc
        0.5 where training rows are scored like others; above it the model has learned them by heart, and rows drawn
        from it may tell of them.

    References
    ----------
    Yeom, Giacomelli, Fredrikson, Jha (2018), *Privacy risk in machine learning*, arXiv:1709.01604.
    """
    train, others = (np.asarray(x, dtype=np.float64).ravel() for x in (train_scores, held_out_scores))
    value, variance = _delong(train, others)
    return _interval(value, float(np.sqrt(variance)))


def transfer(
    synthetic: Any,
    held_out: Any,
    train: Any = None,
    *,
    target: str | int | None = None,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
) -> tuple[Transfer, ...]:
    """Train on synthetic rows, test on real ones; and the same trained on as many real rows.

    Parameters
    ----------
    synthetic, held_out : frame or array
    train : frame or array, optional
        Real rows to train on. By default half of the held-out rows; the other half is tested on.
    target : column, optional
        What to predict from the other columns. By default at most eight columns in turn, evenly spread.
    seed : int
    max_rows : int
        Rows used at most of each table.

    Returns
    -------
    tuple of Transfer
        One for each target that has two values at least among the rows to train on and to test on.

    References
    ----------
    Esteban, Hyland, Rätsch (2017), *Real-valued (medical) time series generation*, arXiv:1706.02633.
    """
    held_out, synthetic = some(held_out, max_rows, seed), some(synthetic, max_rows, seed + 1)
    train = None if train is None else some(train, max_rows, seed + 2)
    real = [held_out] if train is None else [held_out, train]
    layout = Layout.of(*real, others=[synthetic])
    read = None if train is None else layout.read(train)
    return taught(layout, layout.read(synthetic), layout.read(held_out), read, target=target, seed=seed)


def taught(
    layout: Layout, synthetic: Array, held_out: Array, train: Array | None, *, target: str | int | None, seed: int
) -> tuple[Transfer, ...]:
    """As :func:`transfer`, of tables that have been read."""
    rng = np.random.default_rng([seed, 3])
    if train is None:
        order = rng.permutation(len(held_out))
        train, held_out = held_out[order[: len(order) // 2]], held_out[order[len(order) // 2 :]]
    n = min(len(synthetic), len(train))
    learned = [part[rng.permutation(len(part))[:n]] for part in (synthetic, train)]
    d = len(layout.columns)
    evenly = np.linspace(0, d - 1, min(d, TARGETS)).round().astype(int).tolist()
    places = evenly if target is None else [_place(layout, target)]

    def one(j: int) -> Transfer | None:
        return _predict(layout, j, learned[0], learned[1], held_out, seed)

    found = _each(one, places) if d > 1 else []
    return tuple(one for one in found if one is not None)


def _place(layout: Layout, target: str | int) -> int:
    name = f"x{target}" if isinstance(target, int) and f"x{target}" in layout.names else str(target)
    if name not in layout.names:
        raise ValueError(f"target {target!r} is no column of all tables; they have {', '.join(layout.names[:10])}")
    return layout.names.index(name)


def _predict(layout: Layout, j: int, synthetic: Array, train: Array, held_out: Array, seed: int) -> Transfer | None:
    """Predict column `j` from the others; None where it has one value only."""
    column, others = layout.columns[j], np.arange(len(layout.columns)) != j
    synthetic, train, held_out = (part[~np.isnan(part[:, j])] for part in (synthetic, train, held_out))
    if min(len(np.unique(train[:, j])), len(np.unique(held_out[:, j]))) < 2:
        return None
    classes = _is_class(column, train[:, j])
    targets = [part[:, j] for part in (synthetic, train, held_out)]
    targets = _merged(targets, train[:, j]) if classes else _ranks(targets, train[:, j])
    score = _classified if classes else _explained
    values = [
        score(part[:, others], target, held_out[:, others], targets[2], layout.discrete[others], seed)
        for part, target in zip((synthetic, train), targets[:2], strict=True)
    ]
    return Transfer(column.name, "AUROC" if classes else "R2", *values)


def _is_class(column: Column, values: Array) -> bool:
    return column.levels is not None or (column.whole and len(np.unique(values)) <= CLASSES)


def _merged(targets: list[Array], real: Array) -> list[Array]:
    """Targets with the classes that are rare among `real` ones as one."""
    values, times = np.unique(real, return_counts=True)
    known = values[np.argsort(-times, kind="stable")[:CLASSES]]
    return [np.where(np.isin(target, known), target, -1.0) for target in targets]


def _ranks(targets: list[Array], real: Array) -> list[Array]:
    """Targets as shares of `real` ones below them: a few large values do not decide everything."""
    known = np.sort(real)
    return [
        (np.searchsorted(known, x, side="left") + np.searchsorted(known, x, side="right")) / (2.0 * len(known))
        for x in targets
    ]


def _classified(X: Array, y: Array, X_test: Array, y_test: Array, discrete: Mask, seed: int) -> float:
    """The AUROC of each class against the rest, weighted; one half where all rows to learn from are of one class."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    classes = np.unique(y)
    if len(classes) < 2:
        return 0.5
    model = HistGradientBoostingClassifier(categorical_features=discrete, random_state=seed, **QUICK)
    model.fit(_some_value(X), y)
    chance = model.predict_proba(X_test)
    found, weight = [], []
    for value in np.unique(y_test):
        own = y_test == value
        likely = chance[:, classes == value].sum(1)
        found.append(_delong(likely[own], likely[~own])[0] if (~own).any() else 0.5)
        weight.append(own.sum())
    return float(np.average(found, weights=weight))


def _explained(X: Array, y: Array, X_test: Array, y_test: Array, discrete: Mask, seed: int) -> float:
    """The explained share of the variance; 0 where there is nothing to learn from."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import r2_score

    if not len(y):
        return 0.0
    model = HistGradientBoostingRegressor(categorical_features=discrete, random_state=seed, **QUICK)
    model.fit(_some_value(X), y)
    return float(r2_score(y_test, model.predict(X_test)))


def _some_value(X: Array) -> Array:
    """Rows to learn from; a column without any value, which boosting cannot cut, is constant instead."""
    return np.where(np.isnan(X).all(0), 0.0, X)


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Results of fits that do not depend on each other, one thread each.

    Threads that share a small fit wait for each other most of the time, on a busy machine nearly all of it.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Every thread has an OpenMP count of its own; those of linear algebra are the whole process's, and are left alone.
    def alone(item: Any) -> Any:
        with threadpool_limits(1, user_api="openmp"):
            return function(item)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(alone, items))


def _delong(likely: Array, others: Array) -> tuple[float, float]:
    """The AUROC of `likely` scores above `others`, and its variance."""
    m, n = len(likely), len(others)
    both = rankdata(np.concatenate([likely, others]))
    first = (both[:m] - rankdata(likely)) / n
    second = 1.0 - (both[m:] - rankdata(others)) / m
    spread = sum(float(np.var(x, ddof=1)) / len(x) for x in (first, second) if len(x) > 1)
    return float(first.mean()), spread


def _interval(value: float, error: float) -> Auroc:
    return Auroc(value, max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0))
