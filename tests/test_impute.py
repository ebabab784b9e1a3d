"""Gaps filled by every family found, and what the filled values are drawn from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from anomgen.detector import Detector
from anomgen.families import all_detectors
from anomgen.families.autoregressive import AutoregressiveDetector
from anomgen.families.classical import Kernel, KernelDetector, Mixture, MixtureDetector
from anomgen.families.flow import FlowDetector
from anomgen.families.gan import GANDetector
from anomgen.families.vae import VAEDetector
from tests.toys import FAMILIES, small, toy

family = pytest.mark.parametrize("family", FAMILIES)


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    """A number, a heavy tail, a count, a level and a constant, all but the last depending on the first."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": a,
            "b": np.exp(2 * a + rng.normal(size=n)),
            "k": rng.poisson(np.exp(0.5 * a + 1)),
            "c": pd.Categorical(np.where(a + 0.3 * rng.normal(size=n) > 0, "high", "low")),
            "one": 7,
        }
    )


@pytest.fixture(scope="module")
def fitted() -> dict[str, Detector]:
    X = frame(300)
    X.loc[::7, "b"] = np.nan
    return {name: toy(name, contamination=0.1).fit(X) for name in FAMILIES}


def holed(seed: int = 1) -> pd.DataFrame:
    X = frame(80, seed)
    X["k"] = X["k"].astype("Int64")
    X["one"] = X["one"].astype("Int64")
    rng = np.random.default_rng(2)
    gaps = rng.random(X.shape) < 0.3
    gaps[:3] = True
    gaps[3:6] = False
    return X.mask(gaps)


@family
def test_every_family_fills_gaps_and_changes_nothing_else(family: str, fitted: dict[str, Detector]) -> None:
    X = holed().set_index(np.arange(80) % 9)
    before = X.copy()
    done = fitted[family].impute(X)
    pd.testing.assert_frame_equal(X, before)
    assert not done.rows.isna().any().any()
    assert (done.rows.dtypes == X.dtypes).all()
    assert done.rows.index.equals(X.index)
    kept = X.notna().to_numpy()
    assert done.rows.astype(object).to_numpy()[kept].tolist() == X.astype(object).to_numpy()[kept].tolist()
    assert set(done.rows["c"]) <= {"high", "low"}
    assert (done.rows["one"] == 7).all()
    whole = X.notna().all(axis=1).to_numpy()
    assert np.isinf(done.effective[whole]).all()
    assert (done.effective[~whole] >= 1 - 1e-9).all()
    assert np.isinf(done.effective[~whole]).all() == (done.method == "exact conditional draws")
    assert fitted[family].score_samples(done.rows).shape == (80,)


@family
def test_what_fills_a_row_depends_on_seed_and_place_alone(family: str, fitted: dict[str, Detector]) -> None:
    X, detector = holed(), fitted[family]
    first, second, third = detector.impute(X, 3, draws=3).rows
    some = np.isin(np.arange(80), [1, 66, 79])
    alone = first.mask(np.outer(some, np.ones(5, dtype=bool)) & X.isna().to_numpy())
    pd.testing.assert_frame_equal(detector.impute(alone.iloc[:70], 3).rows, first.iloc[:70])
    assert not second["a"].equals(first["a"])
    assert not second["a"].equals(third["a"])
    assert not detector.impute(X.iloc[:9], 4).rows["a"].equals(first["a"].iloc[:9])


METHODS = {
    "AutoregressiveDetector": "importance resampling over orders",
    "FlowDetector": "importance resampling",
    "GANDetector": "nearest draws",
    "KernelDetector": "exact conditional draws",
    "MixtureDetector": "exact conditional draws",
    "VAEDetector": "importance resampling by a bound of the likelihood",
}


@pytest.mark.parametrize("family", METHODS)
def test_the_method_is_named(family: str, fitted: dict[str, Detector]) -> None:
    assert fitted[family].impute(holed().iloc[:4]).method == METHODS[family]


def normal_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    covariance = 4 * np.array([[1, 0.8, 0.3], [0.8, 1, 0.5], [0.3, 0.5, 1]])
    return np.random.default_rng(seed).multivariate_normal([0, 5, -3], covariance, n), covariance


@pytest.mark.parametrize(
    "detector",
    [
        FlowDetector(transforms=2, hidden=(16,), max_epochs=40),
        MixtureDetector(components=2),
        AutoregressiveDetector(hidden=(16,), max_epochs=60),
        VAEDetector(latent_dim=2, hidden=(16,), max_epochs=60),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_values_are_drawn_from_the_conditional_of_a_gaussian(detector: Detector) -> None:
    X, covariance = normal_rows(800, 0)
    detector.set_params(noise=0.0, contamination=0.1, random_state=0, verbose=False).fit(X)
    for gone in ([1], [1, 2]):
        kept = [j for j in range(3) if j not in gone]
        row = np.array([1.0, np.nan, -4.0])
        row[gone] = np.nan
        filled = detector.impute(np.tile(row, (250, 1))).rows[:, gone]
        slope = covariance[np.ix_(gone, kept)] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
        mean = np.array([0, 5, -3])[gone] + slope @ (row[kept] - np.array([0, 5, -3])[kept])
        left = covariance[np.ix_(gone, gone)] - slope @ covariance[np.ix_(kept, gone)]
        spread = np.sqrt(np.diag(left))
        assert filled.mean(0) == pytest.approx(mean, abs=0.35 * spread.max())
        assert filled.std(0) == pytest.approx(spread, rel=0.25)
        if len(gone) == 2:
            truth = left[0, 1] / spread.prod()
            assert np.corrcoef(filled.T)[0, 1] == pytest.approx(truth, abs=0.25)


@pytest.mark.parametrize(
    "detector", [FlowDetector(coupling="affine", transforms=4, hidden=(16,), max_epochs=40), KernelDetector()]
)
def test_levels_and_counts_follow_what_is_observed(detector: Detector) -> None:
    X = frame(800)[["a", "k", "c"]]
    detector.set_params(contamination=0.1, random_state=0, verbose=False).fit(X)
    gone = pd.DataFrame({"a": np.repeat([-1.5, 1.5], 80), "k": np.nan, "c": None})
    filled = detector.impute(gone).rows
    low, high = filled.iloc[:80], filled.iloc[80:]
    assert (low["c"] == "low").mean() > 0.85
    assert (high["c"] == "high").mean() > 0.85
    assert low["k"].mean() < 2.2
    assert high["k"].mean() > 4
    assert filled["k"].isin(range(int(X["k"].max()) + 1)).all()


def test_weights_correct_what_donors_propose() -> None:
    """Two levels of a skewed density: the share of candidates is not theirs, the share of draws is."""
    rng = np.random.default_rng(0)
    X = np.where(rng.random((600, 1)) < 0.5, -4.0, 4.0) + rng.normal(size=(600, 2))
    X[:, 1] = np.abs(X[:, 0]) + 0.5 * rng.normal(size=600)
    flow = FlowDetector(base="mixture", hidden=(16,), max_epochs=60, noise=0.0, contamination=0.1, random_state=0)
    detector = flow.set_params(verbose=False).fit(X)
    filled = detector.impute(np.tile([[np.nan, 4.0]], (200, 1)))
    drawn = filled.rows[:, 0]
    assert 0.35 < (drawn > 0).mean() < 0.65
    assert (np.abs(np.abs(drawn) - 4) < 1.5).mean() > 0.8
    assert 1 < np.median(filled.effective) <= 128


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_mixtures_draw_from_their_exact_conditional(covariance: str) -> None:
    rng = np.random.default_rng(0)
    centers = np.array([[-3.0, 0.0, 1.0], [3.0, 1.0, -1.0]])
    X = centers[rng.integers(2, size=800)] + rng.normal(size=(800, 3)) @ np.array([[1, 0.7, 0], [0, 1, 0], [0.4, 0, 1]])
    torch.manual_seed(0)
    model = Mixture(3, components=2, covariance=covariance)
    model.fit_closed_form(torch.from_numpy(X).float(), None, None, torch.zeros(3))
    check_conditional(model, seed=1)


def test_kernels_draw_from_their_exact_conditional() -> None:
    torch.manual_seed(0)
    model = Kernel(3, bandwidth=0.5)
    model.fit_closed_form(torch.randn(40, 3) * 2, torch.rand(40), None, torch.tensor([0.1, 0.3, 0.0]))
    check_conditional(model, seed=1)


def check_conditional(model: Any, seed: int) -> None:
    """Draws of the second coordinate given the others, against the joint density on a line."""
    given = torch.tensor([[0.3, math.nan, 0.2]]).repeat(20_000, 1)
    torch.manual_seed(seed)
    drawn = model.sample_given(given, ~given.isnan())
    assert torch.equal(drawn[:, ::2], given[:, ::2])
    line = torch.linspace(-12, 12, 2001)
    rows = torch.stack([torch.full_like(line, 0.3), line, torch.full_like(line, 0.2)], 1)
    density = model.log_prob(rows).double().softmax(0)
    mean = float((density * line).sum())
    assert float(drawn[:, 1].mean()) == pytest.approx(mean, abs=0.05)
    spread = float((density * (line - mean) ** 2).sum() ** 0.5)
    assert float(drawn[:, 1].std()) == pytest.approx(spread, rel=0.04)
    below = float(density[line < mean + spread].sum())
    assert float((drawn[:, 1] < mean + spread).float().mean()) == pytest.approx(below, abs=0.02)


def test_conditions_among_the_columns_are_given() -> None:
    rng = np.random.default_rng(0)
    kind = rng.choice(["x", "y"], 600)
    X = pd.DataFrame(
        {"kind": kind, "a": rng.normal(size=600) + np.where(kind == "x", 5, -5), "b": rng.normal(size=600)}
    )
    flow = FlowDetector(condition="kind", hidden=(16,), max_epochs=40, contamination=0.1, random_state=0, verbose=False)
    detector = flow.fit(X)
    gone = X.iloc[:60].copy()
    gone["a"] = np.nan
    filled = detector.impute(gone).rows
    assert (filled["kind"] == gone["kind"]).all()
    assert filled.loc[filled["kind"] == "x", "a"].mean() > 3
    assert filled.loc[filled["kind"] == "y", "a"].mean() < -3
    gone.loc[4, "kind"] = None
    with pytest.raises(ValueError, match=r"condition 'kind' is .* in row 4"):
        detector.impute(gone)


def test_columns_that_lost_their_type_get_that_of_training() -> None:
    X = frame(200)
    detector = MixtureDetector(components=1, contamination=0.1, random_state=0, verbose=False).fit(X)
    gone = X.iloc[:10].copy()
    gone["c"] = np.nan
    gone["k"] = gone["k"].astype(float).where(gone.index > 4)
    filled = detector.impute(gone).rows
    assert filled["c"].dtype == "category"
    assert filled["k"].dtype == float
    assert not filled.isna().any().any()
    narrow = X.iloc[:10].copy()
    narrow["c"] = pd.Categorical([None, *["low"] * 9], categories=["low"])
    narrow.loc[0, ["a", "b"]] = [3.0, 400.0]
    assert detector.impute(narrow).rows["c"].iloc[0] == "high"


def test_types_that_cannot_hold_what_they_get_become_those_of_training() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=200), "t": pd.Timestamp("2024-01-01") + pd.to_timedelta(range(200), "h")})
    detector = MixtureDetector(components=1, contamination=0.1, random_state=0, verbose=False).fit(X)
    whole = pd.DataFrame({"a": [9, 0], "t": X["t"][:2]})
    repaired = detector.repair(whole)
    assert repaired.rows["a"][0] % 1 > 0
    assert repaired.rows["a"][1] == 0
    assert repaired.reached.all()
    for times in (X["t"][:9].astype(str), X["t"][:9].astype(object)):
        gone = pd.DataFrame({"a": X["a"][:9], "t": times})
        gone.loc[4, "t"] = None
        filled = detector.impute(gone).rows
        assert filled["t"].dtype == X["t"].dtype
        assert filled["t"].drop(4).equals(X["t"][:9].drop(4))
        detector.score_samples(filled)


def test_arrays_keep_their_type() -> None:
    X = normal_rows(200, 0)[0].astype(np.float32)
    detector = MixtureDetector(components=1, contamination=0.1, random_state=0, verbose=False).fit(X)
    X[:5, 0] = np.nan
    filled = detector.impute(X).rows
    assert filled.dtype == np.float32
    assert np.array_equal(filled[:, 1:], X[:, 1:])
    assert not np.isnan(filled).any()
    with pytest.raises(ValueError, match=r"draws=0 must be a positive integer"):
        detector.impute(X, draws=0)


def stripes(n: int, seed: int = 0) -> np.ndarray:
    """Images of 8 by 8 pixels: the brightness of a row is that of its left half again on the right."""
    rng = np.random.default_rng(seed)
    made: np.ndarray = np.repeat(rng.integers(20, 230, (n, 8, 1)), 8, axis=2) + rng.integers(-8, 9, (n, 8, 8))
    return made.astype(np.uint8)


@pytest.mark.parametrize("family", ["FlowDetector", "GANDetector", "MixtureDetector", "VAEDetector"])
def test_images_are_filled(family: str) -> None:
    whole = stripes(40, 1)
    detector = (
        small(family, max_epochs=15, components=2) if family == "MixtureDetector" else small(family, max_epochs=4)
    )
    detector.fit(stripes(200))
    X = whole.astype(np.float64)
    X[::2, 2:6, 4:] = np.nan
    done = detector.impute(X, draws=2)
    first, second = done.rows
    assert first.dtype == X.dtype
    kept = ~np.isnan(X)
    assert np.array_equal(first[kept], whole[kept])
    assert ((first >= 0) & (first <= 255)).all()
    assert not np.array_equal(first, second)
    assert np.array_equal(detector.impute(X[:9]).rows, first[:9])
    assert done.method == ("exact conditional draws" if family == "MixtureDetector" else "nearest draws")
    if family == "MixtureDetector":
        assert np.abs(first - whole)[~kept].mean() < 25
    assert np.isinf(done.effective[1::2]).all()
    with pytest.raises(ValueError, match=r"images from 0 on have shape \(4, 4\)"):
        detector.impute(whole[:, :4, :4])


def test_every_family_is_known_to_the_tests() -> None:
    assert set(METHODS) <= set(all_detectors())
    assert GANDetector.__name__ in METHODS
