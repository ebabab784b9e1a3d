"""The oversampler: imbalanced-learn's own checks, and what it promises of its rows."""

from __future__ import annotations

import datetime
import decimal
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from imblearn.pipeline import make_pipeline
from imblearn.utils.estimator_checks import estimator_checks_generator
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestNeighbors

from anomgen import GenerativeOverSampler, KernelDetector


@pytest.fixture(scope="module")
def rare() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(size=(300, 3)), rng.normal([4.0, -4.0, 0.0], 0.5, size=(12, 3))]
    return X, np.r_[np.zeros(300, int), np.ones(12, int)]


# As imblearn's parametrize_with_checks, which hands over a generator that pytest 9 warns of.
CHECKS = [
    pytest.param(sampler, check, id=f"{check.func.__name__}-{seed}")
    for seed in (None, 0)
    for sampler, check in estimator_checks_generator(GenerativeOverSampler(random_state=seed))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_imbalanced_learn_has_no_objection(estimator, check):
    check(estimator)


def test_given_rows_stay_and_new_rows_follow(rare):
    X, y = rare
    X_more, y_more = GenerativeOverSampler(sampling_strategy=0.5, random_state=1).fit_resample(X, y)
    assert np.array_equal(X_more[:312], X)
    assert np.array_equal(y_more[:312], y)
    assert (y_more[312:] == 1).all()
    assert len(X_more) == 300 + 150


def test_new_rows_vary_and_stay_out_of_the_other_class(rare):
    X, y = rare
    X_more, _ = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    new = X_more[len(X) :]
    assert len(np.unique(new.round(9), axis=0)) > 0.9 * len(new)
    z, given = (new - X.mean(0)) / X.std(0), (X - X.mean(0)) / X.std(0)
    to_own, to_others = (
        NearestNeighbors(n_neighbors=1).fit(given[y == label]).kneighbors(z)[0][:, 0] for label in (1, 0)
    )
    assert (to_own <= to_others + 0.02).all()


def test_strength_is_how_far_rows_go(rare):
    X, y = rare
    moved = []
    for strength in (0.1, 0.5, 1.0):
        more, _ = GenerativeOverSampler(strength=strength, random_state=0).fit_resample(X, y)
        moved.append(NearestNeighbors(n_neighbors=1).fit(X[y == 1]).kneighbors(more[len(X) :])[0].mean())
    assert moved[0] < moved[1] < moved[2]


def test_one_seed_gives_the_same_rows_and_another_does_not(rare):
    X, y = rare
    first, again, other = (GenerativeOverSampler(random_state=s).fit_resample(X, y)[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_seed_the_rows_decide(rare):
    X, y = rare
    first, again = (GenerativeOverSampler().fit_resample(X, y)[0] for _ in range(2))
    changed = GenerativeOverSampler().fit_resample(X + np.eye(len(X), 3) * 1e-6, y)[0]
    assert np.array_equal(first, again)
    assert np.abs(first - changed).max() > 0.1


def test_frames_of_every_kind_come_back_as_they_were(mixed):
    frame = mixed.assign(note=[f"note {i}" for i in range(len(mixed))], never=np.nan)
    label = pd.Series(np.where(np.arange(len(frame)) % 20 == 0, "fraud", "fine"), name="label")
    more, labels = GenerativeOverSampler(random_state=0).fit_resample(frame, label)
    assert list(more.columns) == list(frame.columns)
    assert (more.dtypes == frame.dtypes).all()
    pd.testing.assert_frame_equal(more.iloc[: len(frame)], frame)
    assert labels.value_counts().to_dict() == {"fine": 285, "fraud": 285}
    new = more.iloc[len(frame) :]
    assert set(new["note"]) <= set(frame["note"])
    assert new["never"].isna().all()
    for name in frame.columns:
        assert bool(new[name].isna().any()) <= bool(frame[name].isna().any()), name
        if frame[name].nunique() < 10:
            assert set(new[name].dropna()) <= set(frame[name].dropna()), name


def test_cells_that_are_objects_come_back_as_objects():
    rng = np.random.default_rng(0)
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(i)) for i in rng.integers(300, size=100)]
    cents = [decimal.Decimal(int(i)) / 100 for i in rng.integers(1000, size=100)]
    frame = pd.DataFrame({"day": days, "price": cents, "none": [None] * 100, "mixed": [1, "a"] * 50}, dtype=object)
    y = np.arange(100) % 7 == 0
    more, _ = GenerativeOverSampler(random_state=0).fit_resample(frame, y)
    new = more.iloc[100:]
    assert {type(value) for value in new["day"]} == {datetime.date}
    assert {type(value) for value in new["price"]} == {decimal.Decimal}
    assert new["none"].isna().all()
    assert set(new["mixed"]) == {1, "a"}
    array, _ = GenerativeOverSampler(random_state=0).fit_resample(frame[["price", "mixed"]].to_numpy(), y)
    assert array.dtype == object
    assert set(array[100:, 1]) == {1, "a"}


def test_times_stay_whole_days_hours_or_seconds():
    rng = np.random.default_rng(0)
    numbers = rng.integers(1000, size=(200, 4))
    start = pd.Timestamp("2024-01-01")
    frame = pd.DataFrame(
        {
            "day": start + pd.to_timedelta(numbers[:, 0], unit="D"),
            "hour": start.tz_localize("Europe/Berlin") + pd.to_timedelta(numbers[:, 1], unit="h"),
            "lasts": pd.Series(pd.to_timedelta(numbers[:, 2], unit="s")).astype("duration[s][pyarrow]"),
            "any": start + pd.to_timedelta(numbers[:, 3] * 1001, unit="ms"),
        }
    )
    more, _ = GenerativeOverSampler(random_state=0).fit_resample(frame, np.arange(200) % 10 == 0)
    assert (more.dtypes == frame.dtypes).all()
    new = more.iloc[200:]
    assert (new["day"] == new["day"].dt.floor("D")).all()
    assert (new["hour"] == new["hour"].dt.floor("h")).all()
    assert (new["lasts"].astype("timedelta64[ms]").dt.microseconds == 0).all()
    assert (new["any"] != new["any"].dt.floor("s")).any()
    assert not set(new["day"]) <= set(frame["day"])


def test_columns_of_arrays_without_values_stay_empty(rare):
    X = np.column_stack([rare[0], np.full(len(rare[0]), np.nan)])
    more, _ = GenerativeOverSampler(random_state=0).fit_resample(X, rare[1])
    assert np.array_equal(np.isnan(more).all(axis=0), [False, False, False, True])
    assert not np.isnan(more[:, :3]).any()


def test_other_frames_are_sent_back(rare):
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X is a polars.* give X.to_pandas\(\)"):
        GenerativeOverSampler().fit_resample(polars.DataFrame(rare[0]), rare[1])


def test_whole_numbers_stay_whole_in_arrays_and_their_type():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 1000, size=(200, 2)).astype(np.int16)
    y = np.arange(200) % 10 == 0
    more, labels = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    assert more.dtype == np.int16
    assert labels.dtype == bool
    assert (np.bincount(labels) == 180).all()


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_rows_come_back_sparse(rare, kind):
    X, y = rare
    more, _ = GenerativeOverSampler(random_state=0).fit_resample(kind(X), y)
    dense, _ = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    assert sparse.issparse(more)
    assert more.format == kind(X).format
    assert np.allclose(more.toarray(), dense)


def test_every_scarce_class_grows():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [100, 20, 1])
    X = rng.normal(size=(121, 2)) + 5 * y[:, None]
    more, labels = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    assert (np.bincount(labels) == 100).all()
    assert abs(more[labels == 2].mean() - 10) < 1


def test_a_detector_draws_the_rows_instead(rare):
    X, y = rare
    detector = KernelDetector(contamination=0.1, bandwidth=0.3)
    sampler = GenerativeOverSampler(detector, random_state=0)
    drawn, _ = sampler.fit_resample(X, y)
    again, _ = clone(sampler).fit_resample(X, y)
    mixed_rows, _ = GenerativeOverSampler(random_state=0).fit_resample(X, y)
    assert not hasattr(detector, "model_")
    assert np.array_equal(drawn, again)
    assert not np.array_equal(drawn, mixed_rows)
    assert np.abs(drawn[312:].mean(0) - [4, -4, 0]).max() < 1


def test_a_detector_must_know_every_column(rare):
    with pytest.raises(ValueError, match="leaves out 1"):
        GenerativeOverSampler(KernelDetector(exclude=(1,))).fit_resample(*rare)


def test_a_strength_beyond_one_is_refused(rare):
    with pytest.raises(ValueError, match="'strength' parameter of GenerativeOverSampler"):
        GenerativeOverSampler(strength=1.5).fit_resample(*rare)


def test_it_helps_in_a_pipeline(rare):
    plain = HistGradientBoostingClassifier(max_iter=5)
    model = make_pipeline(GenerativeOverSampler(strength=0.4), plain)
    assert model.get_params()["generativeoversampler__strength"] == 0.4
    with_it, without = (cross_val_score(m, *rare, scoring="average_precision", cv=2).mean() for m in (model, plain))
    assert with_it > without


# ---------------------------------------------------------------------- the benchmark


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
    found = importlib.import_module("oversampling")
    sys.path.pop(0)
    return found


@pytest.mark.parametrize(("rare", "labelled"), [(15, 7), (100, 20)])
def test_the_benchmark_trains_on_few_anomalies_and_tests_on_other_rows(bench, rare, labelled):
    y = np.repeat([0, 1], [30_000, rare])
    train, test = bench.split(y, seed=0)
    assert not np.intersect1d(train, test).size
    assert y[train].sum() == labelled
    assert (y[train][:labelled] == 1).all()
    assert len(train) == 5_000 + labelled
    assert abs(len(test) - 20_000) < 10
    assert np.array_equal(train, bench.split(y, seed=0)[0])
    assert not np.array_equal(train, bench.split(y, seed=1)[0])


def test_the_benchmark_measures_every_method_on_the_same_rows(bench, rare):
    X, y = rare
    found = pd.DataFrame(bench.measure("clusters", X, y, seed=0))
    assert list(found["method"]) == list(bench.METHODS)
    assert found["ap"].between(0, 1).all()
    told = bench.summary(found)
    lead = found.set_index("method")["ap"].rsub(float(found["ap"].iloc[-1]))
    assert np.allclose(told["ours ahead by"], lead[list(bench.METHODS)])


def test_the_benchmark_leaves_rows_as_they_are_only_for_adasyn(bench):
    X, y = np.r_[np.zeros((50, 2)), np.ones((10, 2))], np.repeat([0, 1], [50, 10])
    sampler = bench.samplers(10, 0)["ADASYN"]
    assert bench.resampled(sampler, X, y)[0] is X
    with pytest.raises(ValueError, match="nothing to learn from"):
        bench.resampled(GenerativeOverSampler(), np.zeros((60, 2)), y)
