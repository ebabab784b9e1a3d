"""What every model of every family owes as a density."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from anomgen import families
from anomgen.data import load_dataset
from anomgen.generative import Space, abilities
from tests.toys import BOUND, ESTIMATE, EXACT, FAMILIES, LIKELY, UNIVERSAL, learned, model_of, toy

family = pytest.mark.parametrize("family", FAMILIES)


def two_moons(n: int, seed: int = 0) -> np.ndarray:
    from sklearn.datasets import make_moons

    X: np.ndarray = make_moons(n, noise=0.1, random_state=seed)[0]
    return X


def mass(family: str) -> float:
    """The integral of the density that a family learned, on a grid in the user's units."""
    X = two_moons(1000) * np.array([30.0, 0.2]) + np.array([-5.0, 100.0])
    detector = learned(family, statistic="likelihood").fit(X)
    span = X.max(axis=0) - X.min(axis=0)
    axes = [np.linspace(lo - 2 * s, hi + 2 * s, 400) for lo, hi, s in zip(X.min(0), X.max(0), span, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    return float(np.exp(detector.score_samples(grid)).sum() * cell)


@pytest.mark.parametrize("family", EXACT)
def test_an_exact_density_integrates_to_one_in_the_users_units(family: str) -> None:
    assert mass(family) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("family", BOUND)
def test_a_bound_integrates_to_at_most_one(family: str) -> None:
    assert 0.5 < mass(family) <= 1.01


@pytest.mark.parametrize("family", ESTIMATE)
def test_an_estimated_density_integrates_to_nearly_one(family: str) -> None:
    assert mass(family) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("family", LIKELY)
def test_masses_of_levels_sum_to_one(family: str) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": rng.choice(list("abcd"), 800, p=[0.5, 0.3, 0.15, 0.05]), "k": rng.poisson(2, 800)})
    detector = learned(family, statistic="likelihood", contamination=0.1).fit(frame)
    everything = pd.DataFrame([(c, k) for c in [*"abcd", "new"] for k in range(-12, 40)], columns=["c", "k"])
    total = np.exp(detector.score_samples(everything)).sum()
    assert total <= 1.05
    assert total > (0.5 if family in BOUND else 0.9 if family in ESTIMATE else 0.95)


def gaussian(n: int, seed: int) -> tuple[np.ndarray, float]:
    mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 2.0]])
    entropy = 1.5 * np.log(2 * np.pi * np.e) + np.log(abs(np.linalg.det(mixing)))
    return np.random.default_rng(seed).normal(size=(n, 3)) @ mixing, float(entropy)


def two_scales(n: int, seed: int) -> tuple[np.ndarray, float]:
    """A narrow and a broad normal in one place, two coordinates, equally frequent."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) * np.where(rng.random(n) < 0.5, 0.2, 1.0)[:, None]
    many = np.random.default_rng(99)
    Z = many.normal(size=(200_000, 2)) * np.where(many.random(200_000) < 0.5, 0.2, 1.0)[:, None]
    density = sum(0.5 * multivariate_normal(np.zeros(2), scale**2).pdf(Z) for scale in (0.2, 1.0))
    return X, float(-np.log(density).mean())


@pytest.mark.parametrize("family", EXACT)
def test_an_exact_family_learns_the_entropy_of_a_gaussian(family: str, full: bool) -> None:
    X, entropy = gaussian(20_000 if full else 6000, 0)
    detector = learned(family, max_epochs="auto", noise=0.0).fit(X)
    assert -detector.score(gaussian(20_000, 1)[0]) == pytest.approx(entropy, abs=0.05)


@pytest.mark.parametrize("family", UNIVERSAL)
def test_a_universal_family_learns_the_entropy_of_two_scales(family: str, full: bool) -> None:
    X, entropy = two_scales(20_000 if full else 6000, 0)
    detector = learned(family, max_epochs="auto", noise=0.0).fit(X)
    assert -detector.score(two_scales(20_000, 1)[0]) == pytest.approx(entropy, abs=0.05)


@pytest.mark.parametrize("family", BOUND)
def test_a_bound_does_not_promise_more_than_the_entropy(family: str, full: bool) -> None:
    X, entropy = gaussian(20_000 if full else 6000, 0)
    detector = learned(family, max_epochs="auto", noise=0.0).fit(X)
    assert entropy - 0.02 < -detector.score(gaussian(20_000, 1)[0]) < entropy + 0.5


def ring(n: int, seed: int) -> np.ndarray:
    """Eight narrow modes on a circle."""
    rng = np.random.default_rng(seed)
    angle = rng.integers(8, size=n) * np.pi / 4
    return 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.1, (n, 2))


def payments(n: int, seed: int) -> pd.DataFrame:
    """Normal rows of the mixed table, disjoint for the seeds 0 and 1."""
    found = load_dataset("payments")
    normal = found.X[found.y == 0]
    chosen = np.random.default_rng(7).permutation(len(normal))[seed * n : (seed + 1) * n]
    return normal.iloc[chosen].reset_index(drop=True)


def two_sample_auroc(a: Any, b: Any) -> float:
    """How well gradient boosting tells two sets of rows apart, by five-fold cross-validation."""
    rows = pd.concat([pd.DataFrame(a), pd.DataFrame(b)], ignore_index=True)
    for name in rows.columns:
        if pd.api.types.is_datetime64_any_dtype(rows[name]):
            rows[name] = rows[name].astype("int64")
        elif not pd.api.types.is_numeric_dtype(rows[name]):
            rows[name] = pd.factorize(rows[name], sort=True)[0]
    labels = np.repeat([0, 1], [len(a), len(b)])
    model = HistGradientBoostingClassifier(random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(model, rows.astype(float), labels, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(labels, found))


TARGETS = {"two moons": two_moons, "ring": ring, "payments": payments}
# Drawn rows are as blurred as the rows that trained: who wants sharp ones asks for little noise, and of a family for
# more than its default where that is made for the ranking of anomalies.
SHARP: dict[str, dict[str, Any]] = {
    "AutoregressiveDetector": {"conditional": "mixtures"},
    "FlowDetector": {"coupling": "autoregressive", "univariate": "spline"},
    "VAEDetector": {"latent": "piecewise", "adversarial": 1.0, "max_epochs": 300},
}
# Known to fall short, and by how much (README): strict, so that an improvement is noticed.
SHORT = {
    ("BoltzmannDetector", "two moons"): 0.79,
    ("BoltzmannDetector", "ring"): 0.98,
    ("BoltzmannDetector", "payments"): 0.90,
    ("DiffusionDetector", "payments"): 0.78,
    ("GANDetector", "payments"): 0.87,
    ("KernelDetector", "payments"): 0.96,
    ("MixtureDetector", "payments"): 0.83,
    ("VAEDetector", "payments"): 0.81,
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@family
def test_samples_are_hard_to_tell_from_the_data(family: str, target: str, request: pytest.FixtureRequest) -> None:
    if (family, target) in SHORT:
        reason = f"measured {SHORT[family, target]:.2f}"
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))
    data, test = TARGETS[target](2000, 0), TARGETS[target](2000, 1)
    numbers = pd.DataFrame(test).select_dtypes("number").dropna()
    normal = np.random.default_rng(0).multivariate_normal(numbers.mean(), numbers.cov(), size=2000)
    assert two_sample_auroc(numbers, pd.DataFrame(normal, columns=numbers.columns)) > 0.80
    detector = families.get(family)(noise=0.05, random_state=0, verbose=False, **SHARP.get(family, {})).fit(data)
    drawn = detector.sample(2000, random_state=1)
    limit = 0.65 if family in EXACT else 0.75 if "realness" in abilities(model_of(family)) else 0.70
    assert two_sample_auroc(test, drawn) <= limit


@family
def test_models_match_their_space(family: str) -> None:
    torch.manual_seed(0)
    model = toy(family).build(Space.real(3))
    with torch.no_grad():
        drawn = model.sample(5)
        assert drawn.shape == (5, 3)
        assert model.loss(drawn).shape == (5,)
        assert model.monitor(drawn).shape == (5,)
        if "log_prob" in abilities(model):
            assert model.log_prob(drawn).shape == (5,)  # type: ignore[operator]


@family
def test_every_family_has_a_page(family: str) -> None:
    text = families.get(family).__doc__ or ""
    for part in ("Parameters", "References", "Examples", ".. math::"):
        assert part in text, part
    for name in families.get(family).__annotations__:
        assert f"{name} :" in text, f"{name} is not documented"


def test_names_are_those_of_the_files() -> None:
    assert "flow" in families.names()
    assert families.get("flow") is families.get("FlowDetector")
