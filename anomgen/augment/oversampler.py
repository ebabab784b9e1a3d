"""More rows of scarce classes, on imbalanced-learn's interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Real, StrOptions
from sklearn.utils.validation import validate_data

from anomgen.augment.near import Near
from anomgen.augment.recombination import Array, Bools, EncodedTable, Integers, Recombination
from anomgen.detector import Detector

try:
    from imblearn.over_sampling.base import BaseOverSampler
    from imblearn.utils import check_target_type
    from imblearn.utils._validation import _check_X
except ImportError as error:
    raise ImportError("GenerativeOverSampler needs imbalanced-learn: pip install 'anomgen[sampling]'") from error

STRENGTH = 0.5
"""How far ``strength="auto"`` goes where there is no detector."""
BANK = 5000
"""Rows at most, on either side, that a new row is compared with; of more, that many are drawn at random."""
TRIES = 8
"""How often a row is drawn before it stays the row it started from."""


class GenerativeOverSampler(BaseOverSampler):  # type: ignore[misc]
    r"""Make more rows of scarce classes, so that a classifier learns their surroundings and not a few points.

    It is made for a handful of labelled anomalies among many normal rows, and works for any number of classes. In the
    space of the table encoder, where numbers are standardized and heavy tails bent, a new row of a class starts from
    one of its rows, `a`, each in turn; moves towards another, `b`; is shaken; and takes some columns from a row `o` of
    the other classes:

    .. math::

        z_j = \begin{cases} o_j & u_j < p \\ a_j + t\,(b_j - a_j) + 0.2\,s\,\sigma_j\,\varepsilon_j & \text{else, of
        numbers} \\ b_j \text{ with probability } t,\ a_j & \text{else, of levels and of gaps} \end{cases}
        \qquad p,\ t \sim U(0, s),\quad u_j \sim U(0, 1),\quad \varepsilon_j \sim N(0, 1)

    with the strength `s` and the class's standard deviations :math:`\sigma_j`. What the strange columns teach is that
    not all columns of an anomaly have to be anomalous at once. A row whose nearest neighbour among the given rows is of
    another class is refused and drawn again, at most eight times; then it remains `a`. So new rows stay out of other
    classes' territory. Numbers come back on the grid of their column (whole numbers stay whole), times at full days,
    hours, minutes or seconds where all given ones are, all other values are values that were given.

    Parameters
    ----------
    detector : Detector, optional
        Draw the new rows with a density model instead of the formula: a copy of it is fitted to all rows, and moves the
        class's rows as :func:`anomgen.augment.draw` does with `near`. What is refused stays the same.
    sampling_strategy : float, str, dict or callable, default="auto"
        Which classes get how many rows, as in imbalanced-learn: ``"auto"`` makes all as frequent as the majority, a
        float is the wanted ratio of two classes, a dict gives the wanted number of rows of each class.
    strength : float or "auto", default="auto"
        How far new rows go from those they start from, in (0, 1]; ``"auto"`` is 0.5, with a detector 0.3.
    random_state : int, RandomState or None, default=None
        With None the seed follows from the rows, so that the same rows always give the same result.

    Attributes
    ----------
    sampling_strategy_ : dict
        How many rows each class gets.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the rows had column names.

    Raises
    ------
    ValueError
        Naming the parameter or column that cannot be used.

    See Also
    --------
    anomgen.augment.draw : rows of a fitted detector, without labels.

    Notes
    -----
    Frames may hold numbers, booleans, dates, text, categories and missing values; arrays may hold text; sparse
    matrices come back sparse but are dense in between. Where the classes have more than 5,000 rows, a random 5,000 of
    each side are what new rows are compared with.

    References
    ----------
    Chawla, Bowyer, Hall, Kegelmeyer (2002), *SMOTE: synthetic minority over-sampling technique*, JAIR 16: a step
    towards another row of the class.

    Menardi, Torelli (2014), *Training and assessing classification rules with imbalanced data*, Data Mining and
    Knowledge Discovery 28: the noise.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.r_[rng.normal(size=(200, 2)), rng.normal(4.0, 1.0, size=(10, 2))]
    >>> y = np.r_[np.zeros(200, int), np.ones(10, int)]
    >>> X_more, y_more = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    >>> np.bincount(y_more).tolist()
    [200, 200]
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **BaseOverSampler._parameter_constraints,
        "detector": [Detector, None],
        "strength": [Interval(Real, 0, 1, closed="right"), StrOptions({"auto"})],
    }

    def __init__(
        self,
        detector: Detector | None = None,
        *,
        sampling_strategy: Any = "auto",
        strength: float | Literal["auto"] = "auto",
        random_state: Any = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.detector = detector
        self.strength = strength
        self.random_state = random_state

    def _check_X_y(self, X: Any, y: Any) -> tuple[Any, Any, bool]:
        """As the base class, but frames, text and missing values pass."""
        if hasattr(X, "to_pandas"):
            raise TypeError(f"X is a {type(X).__module__} table, and new rows come as pandas: give X.to_pandas()")
        y, one_hot = check_target_type(y, indicate_one_vs_all=True)
        X = _check_X(X)
        validate_data(self, X=X, y=y, reset=True, skip_check_array=True)
        return X, y, one_hot

    def _fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        table, y = EncodedTable(X), np.asarray(y)
        rng = np.random.default_rng(self._seed(table, y))
        detector = self._fitted(table, rng)
        wanted = {label: n for label, n in self.sampling_strategy_.items() if n}
        z = [self._more(table, y == label, n, detector, rng) for label, n in wanted.items()]
        labels = [np.full(n, label, dtype=y.dtype) for label, n in wanted.items()]
        return table.extended(np.concatenate([table.z[:0], *z])), np.concatenate([y, *labels])

    def _seed(self, table: EncodedTable, y: NDArray[Any]) -> int:
        if self.random_state is not None:
            return int(check_random_state(self.random_state).randint(2**31 - 1))
        classes = np.unique(y, return_inverse=True)[1].astype(np.int64)
        return int.from_bytes(hashlib.sha256(table.values.tobytes() + classes.tobytes()).digest()[:4])

    def _fitted(self, table: EncodedTable, rng: np.random.Generator) -> Detector | None:
        if self.detector is None:
            return None
        if self.detector.exclude:
            raise ValueError(f"detector= leaves out {self.detector.exclude[0]!r}, but new rows need every column")
        detector: Detector = clone(self.detector)
        if detector.random_state is None:
            detector.set_params(random_state=int(rng.integers(2**31)))
        return detector.fit(table.rows)

    def _more(
        self, table: EncodedTable, own: Bools, n: int, detector: Detector | None, rng: np.random.Generator
    ) -> Array:
        """Coordinates of `n` new rows of the class that `own` marks."""
        propose = self._proposals(table, own, detector, rng)
        sides = [_nearest(table.z[side], rng) for side in (own, ~own)]
        sources = rng.permutation(np.resize(np.flatnonzero(own), n))
        z: Array = table.z[sources]
        refused = np.arange(n)
        for _ in range(TRIES):
            drawn = propose(sources[refused])
            to_own, to_others = (side.kneighbors(drawn)[0][:, 0] for side in sides)
            kept = to_own <= to_others
            z[refused[kept]] = drawn[kept]
            refused = refused[~kept]
            if not len(refused):
                break
        return z

    def _proposals(
        self, table: EncodedTable, own: Bools, detector: Detector | None, rng: np.random.Generator
    ) -> Callable[[Integers], Array]:
        """What draws the coordinates of one row for each of some of the class's rows, which it is near."""
        if detector is None:
            strength = STRENGTH if self.strength == "auto" else float(self.strength)
            recombination = Recombination(table, own, strength)
            return lambda sources: recombination.draw(sources, rng)
        near = Near(detector, table.rows[own], self.strength)
        return lambda sources: table.encode(near.sample(len(sources), (int(rng.integers(2**31)),))[0])

    def __sklearn_tags__(self) -> Any:
        """Text and missing values are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        return tags


def _nearest(z: Array, rng: np.random.Generator) -> NearestNeighbors:
    """What finds the nearest of at most `BANK` of these rows."""
    some = z if len(z) <= BANK else z[rng.choice(len(z), BANK, replace=False)]
    return NearestNeighbors(n_neighbors=1).fit(some)
