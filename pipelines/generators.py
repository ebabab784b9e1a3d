"""Generators of rows that `benchmark_augment.py` compares: ours, and peers where they are installed.

All are fitted to the same rows, the label a column among the others. The peers take neither times nor missing
numbers, so these are prepared for them, and their rows are rounded and kept in range as SDV does around them.
CTGAN, TVAE and the copula of `copulas` are under BUSL-1.1 and belong to none of our extras:
``pip install ctgan copulas`` brings them. The copula of statsmodels (BSD) and SMOTE (MIT) come with 'anomgen[bench]'.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import distributions, version
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from anomgen import AutoregressiveDetector, FlowDetector, augment, runtime
from anomgen.detector import Detector


class Generator(Protocol):
    """What is compared; its text tells what it was given."""

    def fit(self, rows: pd.DataFrame, seed: int) -> None: ...

    def sample(self, n: int, seed: int) -> pd.DataFrame: ...


@dataclass
class Ours:
    """One of our detectors, drawn from without band or constraint; `near` the training rows where that is asked for."""

    make: Callable[..., Detector]
    options: dict[str, Any] = field(default_factory=dict)
    near: bool = False

    def __str__(self) -> str:
        told = f"{self.make.__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"
        return f"{told}, near the training rows at strength {STRENGTH}, y kept" if self.near else told

    def fit(self, rows: pd.DataFrame, seed: int) -> None:
        # The threshold plays no part in drawing; a given one saves the fits that an automatic one takes.
        fixed = {"contamination": 0.1, "random_state": seed, "verbose": False, "device": "cpu"}
        self.detector, self.rows = self.make(**self.options, **fixed).fit(rows), rows

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        return self.draw(n, seed).rows

    def draw(self, n: int, seed: int, **checked: Any) -> augment.Drawn:
        near = {"near": self.rows, "strength": STRENGTH, "keep": ["y"]} if self.near else {}
        return augment.draw(self.detector, n, seed=seed, **near, **checked)


class Themselves:
    """The training rows themselves, as a control: nothing is closer to the data, and every row is a copy."""

    def __str__(self) -> str:
        return "a control"

    def fit(self, rows: pd.DataFrame, seed: int) -> None:
        self.rows = rows

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        return self.rows.sample(n, replace=n > len(self.rows), random_state=seed).reset_index(drop=True)


class Plain:
    """Rows as peers take them, and back: times in seconds, missing numbers filled beside a column that tells them.

    Of what comes back numbers are rounded to the decimals of the training rows and kept in their range.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.dtypes = rows.dtypes
        self.empty = [name for name in rows if self.is_number(name) and rows[name].isna().any()]
        self.fill = {name: rows[name].median() for name in self.empty}
        self.discrete = [name for name in rows if not self.is_number(name) or name == "y"]
        self.discrete += [self.mask(name) for name in self.empty]
        numbers = self.encode(rows).drop(columns=self.discrete)
        self.range = numbers.agg(["min", "max"])
        self.decimals = {name: decimals(column.to_numpy()) for name, column in numbers.items()}

    def is_number(self, name: str) -> bool:
        dtype = self.dtypes[name]
        return pd.api.types.is_datetime64_any_dtype(dtype) or (
            pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
        )

    @staticmethod
    def mask(name: str) -> str:
        return f"{name} is missing"

    def encode(self, rows: pd.DataFrame) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for name in rows:
            column = rows[name]
            if name in self.empty:
                columns[self.mask(name)] = column.isna().map({False: "no", True: "yes"}).to_numpy(object)
                column = column.fillna(self.fill[name])
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                column = column.astype("datetime64[s]").astype("int64")
            discrete = not self.is_number(name)
            columns[name] = levels(column) if discrete else column.to_numpy(np.int64 if name == "y" else np.float64)
        return pd.DataFrame(columns)

    def decode(self, rows: pd.DataFrame) -> pd.DataFrame:
        columns = {}
        for name, dtype in self.dtypes.items():
            column = rows[name]
            if name in self.range:
                places, numbers = self.decimals[name], column.astype(float)
                numbers = (numbers if places is None else numbers.round(places)).clip(*self.range[name])
                column = numbers.round().astype("int64") if dtype.kind in "iuM" else numbers
            elif pd.api.types.is_bool_dtype(dtype):
                column = column.astype(str) == "True"
            elif name != "y":
                column = column.astype(object).where(column.astype(str) != MISSING, None)
            if name in self.empty:
                column = column.astype(object).where(rows[self.mask(name)].astype(str) != "yes", None)
            columns[name] = column.astype("datetime64[s]").astype(dtype) if dtype.kind == "M" else column.astype(dtype)
        return pd.DataFrame(columns).reset_index(drop=True)


MISSING = "is missing"


def levels(column: pd.Series) -> NDArray[Any]:
    """Text of every value, missing ones a level of their own."""
    return column.astype(object).where(column.notna(), MISSING).astype(str).to_numpy(object)


def decimals(values: NDArray[np.float64]) -> int | None:
    """The fewest decimals, up to 13, that all of these numbers have; None where some have more."""
    return next((k for k in range(14) if np.array_equal(np.round(values, k), values)), None)


class Peer(ABC):
    """What all peers share: prepared rows, seeds, and silence about what their own dependencies announce."""

    needs = ""

    def __str__(self) -> str:
        return f"defaults of {self.needs} {version(self.needs)}"

    def fit(self, rows: pd.DataFrame, seed: int) -> None:
        self.plain = Plain(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seeded(seed)
            self.learn(self.plain.encode(rows), seed)

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seeded(seed + 1)
            return self.plain.decode(self.draw(n, seed))

    @abstractmethod
    def learn(self, rows: pd.DataFrame, seed: int) -> None: ...

    @abstractmethod
    def draw(self, n: int, seed: int) -> pd.DataFrame: ...


def seeded(seed: int) -> None:
    """The global generators that peers draw from."""
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@dataclass
class Ctgan(Peer):
    """CTGAN or TVAE (Xu et al. 2019) with the defaults of the package, 300 epochs among them."""

    name: str
    epochs: int = 300
    needs = "ctgan"

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.epochs} epochs"

    def learn(self, rows: pd.DataFrame, seed: int) -> None:
        import ctgan

        self.model = getattr(ctgan, self.name)(epochs=self.epochs, enable_gpu=False)
        self.model.set_random_state(seed)
        self.model.fit(rows, discrete_columns=self.plain.discrete)

    def draw(self, n: int, seed: int) -> pd.DataFrame:
        return self.model.sample(n)


class Intervals:
    """Levels as uniform numbers in intervals as wide as the levels are frequent, and back."""

    def __init__(self, rows: pd.DataFrame, names: Iterable[str]) -> None:
        self.shares = {name: rows[name].value_counts(normalize=True) for name in names}

    def encode(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        rng, found = np.random.default_rng(seed), rows.copy()
        for name, share in self.shares.items():
            low = (share.cumsum() - share).reindex(rows[name]).to_numpy()
            found[name] = low + rng.uniform(size=len(rows)) * share.reindex(rows[name]).to_numpy()
        return found

    def decode(self, rows: pd.DataFrame) -> pd.DataFrame:
        found = rows.copy()
        for name, share in self.shares.items():
            place = np.searchsorted(share.cumsum().to_numpy(), rows[name].to_numpy(float), side="right")
            found[name] = share.index.to_numpy()[np.minimum(place, len(share) - 1)]
        return found


class Copulas(Peer):
    """Gaussian copula of the package copulas; its default picks each margin among its univariate distributions."""

    needs = "copulas"

    def learn(self, rows: pd.DataFrame, seed: int) -> None:
        from copulas.multivariate import GaussianMultivariate

        self.intervals = Intervals(rows, self.plain.discrete)
        self.model = GaussianMultivariate(random_state=seed)
        self.model.fit(self.intervals.encode(rows, seed))

    def draw(self, n: int, seed: int) -> pd.DataFrame:
        return self.intervals.decode(self.model.sample(n))


class EmpiricalCopula(Peer):
    """Gaussian copula of statsmodels, correlations from Kendall's tau, with the quantiles of the training rows."""

    needs = "statsmodels"

    def learn(self, rows: pd.DataFrame, seed: int) -> None:
        from statsmodels.distributions.copula.api import GaussianCopula
        from statsmodels.stats.correlation_tools import corr_clipped

        self.intervals = Intervals(rows, self.plain.discrete)
        numbers = self.intervals.encode(rows, seed)
        self.sorted = numbers.apply(lambda column: np.sort(column.to_numpy()))
        size = numbers.shape[1]
        # Correlations found pair by pair need not be those of any rows.
        pairs = GaussianCopula(k_dim=size).fit_corr_param(numbers.to_numpy())
        self.model = GaussianCopula(corr_clipped(pairs, threshold=1e-6), k_dim=size)

    def draw(self, n: int, seed: int) -> pd.DataFrame:
        places = np.minimum((self.model.rvs(n, rng=seed) * len(self.sorted)).astype(int), len(self.sorted) - 1)
        quantiles = np.take_along_axis(self.sorted.to_numpy(), places, axis=0)
        return self.intervals.decode(pd.DataFrame(quantiles, columns=self.sorted.columns))


class Smote(Peer):
    """SMOTE between neighbours of each class, SMOTENC where columns hold levels; only the new rows are kept."""

    needs = "imbalanced-learn"

    def learn(self, rows: pd.DataFrame, seed: int) -> None:
        self.rows = rows

    def draw(self, n: int, seed: int) -> pd.DataFrame:
        from imblearn.over_sampling import SMOTE, SMOTENC

        X, y = self.rows.drop(columns="y"), self.rows["y"]
        share = y.value_counts()
        wanted = dict(zip(share.index, np.diff(np.round(np.cumsum([0, *share]) * n / len(y)).astype(int)), strict=True))
        found: dict[str, Any] = {
            "sampling_strategy": {value: share[value] + wanted[value] for value in wanted},
            "k_neighbors": min(5, share.min() - 1),
            "random_state": seed,
        }
        text = [name for name in self.plain.discrete if name != "y"]
        sampler = SMOTENC(categorical_features=text, **found) if text else SMOTE(**found)
        more, label = sampler.fit_resample(X, y)
        return more.assign(y=label)[len(y) :].sample(frac=1, random_state=seed)


SHARP = {"conditional": "mixtures", "noise": 0.02}
"""Draws are as blurred as the training noise, which is wider by default, where detection profits from it."""
STRENGTH = 0.5
"""Half of the columns are drawn anew: rows are then about as far from the training rows as others of the data."""
GENERATORS: dict[str, Callable[[], Generator]] = {
    "autoregressive": lambda: Ours(AutoregressiveDetector, SHARP),
    "autoregressive, near": lambda: Ours(AutoregressiveDetector, SHARP, near=True),
    "flow": lambda: Ours(FlowDetector),
    "CTGAN": lambda: Ctgan("CTGAN"),
    "TVAE": lambda: Ctgan("TVAE"),
    "copula (copulas)": Copulas,
    "copula (statsmodels)": EmpiricalCopula,
    "SMOTE": Smote,
    "training rows": Themselves,
}
OURS = [name for name, make in GENERATORS.items() if isinstance(make(), Ours)]
PEERS = {name: peer.needs for name, make in GENERATORS.items() if isinstance(peer := make(), Peer)}


def missing() -> dict[str, str]:
    """The distribution that each peer lacks here."""
    installed = {package: any(distributions(name=package)) for package in PEERS.values()}
    return {name: package for name, package in PEERS.items() if not installed[package]}


def draw(name: str, rows: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Rows of one generator fitted to `rows`, by one thread."""
    generator = GENERATORS[name]()
    with runtime.threads(1):
        generator.fit(rows, seed)
        return generator.sample(n, seed)
