"""Anomalies made likely by every family found: what changes, what stays, and how far it goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen.detector import Detector
from anomgen.families.classical import MixtureDetector
from anomgen.families.flow import FlowDetector
from tests.toys import FAMILIES, small, toy

family = pytest.mark.parametrize("family", FAMILIES)


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    """Numbers, of which the second follows the first, a count, a level and a time."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": a,
            "b": 2 * a + 0.3 * rng.normal(size=n),
            "k": rng.poisson(3, n),
            "c": rng.choice(["x", "y", "z"], n, p=[0.5, 0.3, 0.2]),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
        }
    )


def planted(X: pd.DataFrame) -> pd.DataFrame:
    """The rows, with one value far off in each of the first six."""
    X = X.copy()
    X.loc[:2, "a"] += 40.0
    X.loc[3:5, "b"] -= 60.0
    return X


@pytest.fixture(scope="module")
def fitted() -> dict[str, Detector]:
    # Few tests say anything about a family's fit; what a likely row is, it decides itself.
    return {name: toy(name, max_epochs=10, contamination=0.1).fit(frame(300)) for name in FAMILIES}


@family
def test_every_family_makes_rows_likely_and_leaves_normal_ones(family: str, fitted: dict[str, Detector]) -> None:
    detector = fitted[family]
    X = planted(frame(30, 1)).set_index(np.arange(30) + 7)
    before = X.copy()
    done = detector.repair(X)
    pd.testing.assert_frame_equal(X, before)
    assert np.array_equal(done.before, detector.score_samples(X))
    assert np.array_equal(done.after, detector.score_samples(done.rows))
    assert np.array_equal(done.reached, done.after >= detector.offset_)
    assert done.reached.all()
    bad = done.before < detector.offset_
    assert bad[:6].all()
    assert not done.changed[~bad].to_numpy().any()
    pd.testing.assert_frame_equal(done.rows[~bad], X[~bad])
    assert done.changed[bad].any(axis=1).all()
    assert (done.changed[bad].sum(axis=1) < X.shape[1]).all()
    assert (done.rows.dtypes == X.dtypes).all()
    assert done.rows.index.equals(X.index)
    assert (done.changed.to_numpy() == (done.rows != X).to_numpy()).all()
    pd.testing.assert_frame_equal(detector.repair(X.iloc[:4]).rows, done.rows.iloc[:4])


@pytest.mark.parametrize("family", ["AutoregressiveDetector", "GANDetector"])
def test_levels_may_stay_where_distance_is_kept_short(family: str, fitted: dict[str, Detector]) -> None:
    done = fitted[family].repair(planted(frame(6, 1)), sparse=False)
    assert done.reached.all()
    assert done.changed[["a", "b"]].to_numpy().all()


@pytest.fixture(scope="module")
def exact() -> MixtureDetector:
    X = np.random.default_rng(0).normal(size=(1500, 6))
    X[:, 1] = X[:, 0] + 0.2 * X[:, 1]
    detector = MixtureDetector(components=1, noise=0.0, contamination=0.02, random_state=0, verbose=False)
    return detector.fit(X)


def test_the_one_wrong_value_is_found_and_moved_no_further_than_needed(exact: MixtureDetector) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 6)) * 0.7
    X[:, 1] = X[:, 0] + 0.2 * rng.normal(size=40)
    X[:, 4] += 12.0
    done = exact.repair(X)
    assert done.reached.all()
    assert (done.changed.sum(1) == 1).mean() > 0.9
    only = done.changed[:, 4] & (done.changed.sum(1) == 1)
    assert only.mean() > 0.9
    assert (np.abs(done.rows[only, 4]) < 4.5).all()
    # The value nearest to the wrong one that is still likely: a little further, and the row is none.
    further = done.rows.copy()
    further[:, 4] += 0.25
    assert (exact.score_samples(further)[only] < exact.offset_).all()


def test_a_value_that_only_its_partner_makes_wrong(exact: MixtureDetector) -> None:
    X = np.zeros((10, 6))
    X[:, 0], X[:, 1] = 1.5, -1.5
    done = exact.repair(X)
    assert done.reached.all()
    assert (done.changed.sum(1) == 1).all()
    assert done.changed[:, :2].any(axis=1).all()


def test_few_columns_or_a_short_way(exact: MixtureDetector) -> None:
    X = np.random.default_rng(1).normal(size=(30, 6)) * 5
    few, near = exact.repair(X), exact.repair(X, sparse=False)
    assert few.reached.all()
    assert near.reached.all()
    assert few.changed.sum() < 0.85 * near.changed.sum()
    ways = [np.linalg.norm(done.rows - X, axis=1)[few.before < exact.offset_].mean() for done in (few, near)]
    assert ways[1] < ways[0]


def test_levels_gaps_and_rounded_numbers_are_repaired() -> None:
    X = frame(500)
    X["k"] = X["k"].astype("Int64")
    X.loc[::50, "k"] = pd.NA
    X["cents"] = (100 * X["b"]).round().astype("int32")
    detector = MixtureDetector(contamination=0.02, random_state=0, verbose=False).fit(X)
    odd = X.iloc[1:7].copy()
    odd.loc[[1, 2], "c"] = "never seen"
    odd.loc[3, "cents"] = 5000
    odd.loc[4, "seen"] = pd.Timestamp("1990-01-01")
    odd.loc[5, "k"] = 60
    done = detector.repair(odd)
    bad = done.before < detector.offset_
    assert bad[:5].all()
    assert done.reached.all()
    assert (done.rows.dtypes == odd.dtypes).all()
    assert set(done.rows["c"]) <= {"x", "y", "z"}
    assert done.rows["seen"].min() > pd.Timestamp("2023-11-01")
    assert done.changed.loc[1:2, "c"].all()
    assert done.changed.sum(axis=1).max() <= 2


def test_conditional_scores_are_repaired_too() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"kind": rng.choice(["x", "y"], 400), "a": rng.normal(size=400), "b": rng.normal(size=400)})
    flow = FlowDetector(
        condition="kind", hidden=(16,), max_epochs=20, contamination=0.05, random_state=0, verbose=False
    )
    detector = flow.fit(X)
    odd = X.iloc[:5].copy()
    odd["b"] = 30.0
    done = detector.repair(odd)
    assert done.reached.all()
    assert (done.rows["kind"] == odd["kind"]).all()
    assert done.changed["b"].all()


def test_what_cannot_be_reached_stays_as_it_was(exact: MixtureDetector) -> None:
    X = np.random.default_rng(1).normal(size=(5, 6))
    before = exact.offset_
    try:
        exact.set_threshold(1e9)
        done = exact.repair(X)
    finally:
        exact.set_threshold(before)
    assert not done.reached.any()
    assert not done.changed.any()
    assert np.array_equal(done.rows, X)


def bumps(n: int, seed: int = 0) -> np.ndarray:
    """Images of 8 by 8 pixels with one bright bump."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8]
    centre = rng.uniform(2, 5, (2, n, 1, 1))
    bright = 255 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 4)
    return np.clip(bright + rng.normal(0, 8, bright.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("VAEDetector", {"max_epochs": 12, "statistic": "reconstruction"}),
        ("MixtureDetector", {"components": 2}),
    ],
)
def test_images_are_repaired_where_they_are_hot(family: str, options: dict[str, Any]) -> None:
    detector = small(family, **options).fit(bumps(250))
    X = bumps(10, 1)
    X[:6, :2, :3] = 255
    done = detector.repair(X)
    bad = done.before < detector.offset_
    assert bad[:6].all()
    assert done.rows.dtype == np.uint8
    assert done.changed.shape == X.shape
    assert np.array_equal(done.changed, done.rows != X)
    assert not done.changed[~bad].any()
    assert not done.changed[~done.reached].any()
    assert done.reached[:6].mean() >= 0.5
    fixed = np.flatnonzero(done.reached[:6])
    corner = done.changed[fixed, :2, :3].mean()
    assert corner > done.changed[fixed, 3:, 4:].mean()
    assert np.array_equal(done.after >= detector.offset_, done.reached)
    assert np.array_equal(detector.repair(X[:3]).rows, done.rows[:3])


def test_images_of_another_size_are_refused() -> None:
    detector = MixtureDetector(image_size=4, components=1, contamination=0.1, random_state=0, verbose=False)
    detector.fit(bumps(60))
    X = bumps(3)
    X[0] = 255 - X[0]
    with pytest.raises(ValueError, match="image_size"):
        detector.repair(X)
