"""Synthetic anomalies made from a fitted density, for testing detectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.columns import Columns, is_whole, numbers_of, stored
from anomgen.augment.near import read_strength
from anomgen.detector import Detector
from anomgen.detector.checks import validated
from anomgen.encode.frame import Name

Mask = NDArray[np.bool_]

CANDIDATES = 4
"""Rows made for each one returned: the one that scores lowest."""
LEAST = 1000
"""Ordinary rows drawn at least: their ranges and values are what anomalies are made from."""
TIGHT = 0.1
"""Spread of a cluster, as a share of that of ordinary rows."""


def synthetic_anomalies(
    detector: Detector, n: int, kind: str = "local", X: Any = None, *, strength: Any = "auto", seed: int = 0
) -> Any:
    """Make anomalies of a known kind from ordinary rows of a table.

    ``"local"``
        A share `strength` of the columns, at least one, takes values of another row: each value is plausible, but not
        beside the others.
    ``"global"``
        Half of the columns that hold numbers or dates leave the range of ordinary rows, by `strength` times its width
        on average.
    ``"dependency"``
        A share `strength` of the columns, at least two, is drawn each for itself: their values are ordinary, but none
        depends on another.
    ``"cluster"``
        A tight group of rows that lies outside the ranges by `strength` times their widths, with one level in every
        column of levels but for one row in ten.

    Of four candidates for every row the one that the detector scores lowest is taken; of the places of a cluster
    likewise.

    Parameters
    ----------
    detector : Detector
        Fitted to a table.
    n : int
        Rows to make.
    kind : {"local", "global", "dependency", "cluster"}
    X : frame or array, optional
        Ordinary rows to start from; by default they are drawn from the detector.
    strength : float or "auto"
        In (0, 1]; ``"auto"`` is 0.3, and 1 for ``"dependency"``.
    seed : int

    Returns
    -------
    frame or array of shape (n, p)
        Laid out as the training rows were.

    Raises
    ------
    ValueError
        For images, an unknown kind, or a table that has no columns such anomalies could be in.

    References
    ----------
    Han, Hu, Huang, Jiang, Zhao (2022), *ADBench: Anomaly Detection Benchmark*, NeurIPS (the four kinds).

    Examples
    --------
    >>> from anomgen import MixtureDetector
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> detector = MixtureDetector(random_state=0).fit(X)
    >>> odd = synthetic_anomalies(detector, 50, "global")
    >>> bool(detector.score_samples(odd).max() < np.median(detector.score_samples(X)))
    True
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, KINDS))}")
    if not is_whole(n) or n < 1:
        raise ValueError(f"n={n!r} must be a positive integer")
    if not is_whole(seed) or seed < 0:
        raise ValueError(f"seed={seed!r} must be an integer of at least 0")
    detector._absorb()
    columns = Columns(detector)
    if columns.images:
        raise ValueError("synthetic anomalies are made of the columns of a table; images have none")
    share = 1.0 if kind == "dependency" and strength == "auto" else read_strength(strength)
    rng = np.random.default_rng([int(seed), list(KINDS).index(kind)])
    wanted = CANDIDATES * int(n)
    ordinary = validated(detector, X, reset=False, minimum=2) if X is not None else None
    if ordinary is None:
        ordinary = detector.sample(max(wanted, LEAST), (int(seed), list(KINDS).index(kind)))
    made, group = KINDS[kind](_Maker(ordinary, columns, rng), wanted, share)
    scores = detector.score_samples(made).reshape(CANDIDATES, int(n))
    best = np.full(int(n), scores.mean(axis=1).argmin()) if group else scores.argmin(axis=0)
    return _taken(made, best * int(n) + np.arange(n))


class _Maker:
    """Ordinary rows, and the ways to spoil them; every way gives rows and whether the candidates are groups."""

    def __init__(self, ordinary: Any, columns: Columns, rng: np.random.Generator) -> None:
        self.ordinary, self.rng = ordinary, rng
        self.names: list[Name] = [name for name in columns.known if columns.known[name].kind != "constant"]
        self.numbers = [name for name in self.names if columns.known[name].is_real]

    def local(self, n: int, share: float) -> tuple[Any, bool]:
        """Some columns of other rows."""
        return self._mixed(n, share, 1), False

    def dependency(self, n: int, share: float) -> tuple[Any, bool]:
        """Columns that no longer depend on each other."""
        return self._mixed(n, share, 2), False

    def far(self, n: int, share: float) -> tuple[Any, bool]:
        """Numbers beyond their range."""
        self._need(self.numbers, 1, "columns of numbers or dates")
        rows = self._some(n)
        for name, mask in zip(self.numbers, self._chosen(n, len(self.numbers), 0.5, 1).T, strict=True):
            values, _ = numbers_of(rows, name)
            beyond = self._beyond(name, n, share * self.rng.uniform(0.5, 1.5, n))
            rows = _stored(rows, name, np.where(mask, beyond, values))
        return rows, False

    def cluster(self, n: int, share: float) -> tuple[Any, bool]:
        """Tight groups outside, one for each candidate."""
        self._need(self.numbers, 1, "columns of numbers or dates")
        rows, size = self._some(n), n // CANDIDATES
        group = np.arange(n) // size
        for name in self.numbers:
            center = self._beyond(name, CANDIDATES, np.full(CANDIDATES, share))
            values, _ = numbers_of(rows, name)
            spread = np.nan_to_num(values - np.nanmedian(values))
            rows = _stored(rows, name, center[group] + TIGHT * spread)
        levels = [name for name in self.names if name not in self.numbers]
        others = _taken(self._some(CANDIDATES), group)
        for name in levels:
            rows = _replaced(rows, name, self.rng.random(n) > TIGHT, others)
        return rows, True

    def _mixed(self, n: int, share: float, least: int) -> Any:
        """Rows that have some columns from as many other rows."""
        self._need(self.names, 2, "columns that vary")
        rows = self._some(n)
        for name, mask in zip(self.names, self._chosen(n, len(self.names), share, least).T, strict=True):
            rows = _replaced(rows, name, mask, self._some(n))
        return rows

    def _need(self, names: list[Name], least: int, what: str) -> None:
        if len(names) < least:
            raise ValueError(f"such anomalies need {least} {what}, but the table has {len(names)}; choose another kind")

    def _some(self, n: int) -> Any:
        """Ordinary rows, drawn evenly."""
        return _taken(self.ordinary, self.rng.integers(len(self.ordinary), size=n))

    def _chosen(self, n: int, width: int, share: float, least: int) -> Mask:
        """A share of the columns for every row, shape ``(n, width)``."""
        count = max(least, round(share * width))
        return np.asarray(self.rng.random((n, width)).argsort(axis=1).argsort(axis=1) < count)

    def _beyond(self, name: Name, n: int, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values outside the range of a column by a share of its width, on either side; by one at least if whole."""
        values, _ = numbers_of(self.ordinary, name)
        low, high = np.nanmin(values), np.nanmax(values)
        least = 1.0 if np.array_equal(values, np.rint(values), equal_nan=True) else 0.0
        by = np.maximum(share * max(high - low, np.finfo(float).tiny), least)
        return np.asarray(np.where(self.rng.random(n) < 0.5, low - by, high + by))


KINDS: dict[str, Callable[[_Maker, int, float], tuple[Any, bool]]] = {
    "local": _Maker.local,
    "global": _Maker.far,
    "dependency": _Maker.dependency,
    "cluster": _Maker.cluster,
}
"""Kinds of synthetic anomalies, and how each is made."""


def _taken(rows: Any, index: NDArray[np.int64]) -> Any:
    return rows.iloc[index].reset_index(drop=True) if isinstance(rows, pd.DataFrame) else rows[index]


def _replaced(rows: Any, name: Name, mask: Mask, others: Any) -> Any:
    """A copy of the rows with a column of others where the mask says so."""
    if isinstance(rows, pd.DataFrame):
        out = rows.copy(deep=False)
        out[name] = rows[name].where(~mask, others[name])
        return out
    out = rows.copy()
    out[mask, name] = others[mask, name]
    return out


def _stored(rows: Any, name: Name, values: NDArray[np.float64]) -> Any:
    """A copy of the rows with other values in a column, rounded where the column holds whole numbers."""
    whole = isinstance(rows, pd.DataFrame) and pd.api.types.is_integer_dtype(rows[name].dtype)
    return stored(rows, name, np.rint(values) if whole else values)
