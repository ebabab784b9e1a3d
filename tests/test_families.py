"""What every model of every family owes as a density."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomgen import families
from anomgen.generative import Space, abilities
from tests.toys import FAMILIES, learned, toy

family = pytest.mark.parametrize("family", FAMILIES)


def two_moons(n: int, seed: int = 0) -> np.ndarray:
    from sklearn.datasets import make_moons

    X: np.ndarray = make_moons(n, noise=0.1, random_state=seed)[0]
    return X


@family
class TestDensity:
    def test_integrates_to_one_in_the_users_units(self, family: str) -> None:
        X = two_moons(1000) * np.array([30.0, 0.2]) + np.array([-5.0, 100.0])
        detector = learned(family, statistic="likelihood").fit(X)
        span = X.max(axis=0) - X.min(axis=0)
        axes = [np.linspace(lo - 2 * s, hi + 2 * s, 400) for lo, hi, s in zip(X.min(0), X.max(0), span, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        cell = np.prod([axis[1] - axis[0] for axis in axes])
        assert np.exp(detector.score_samples(grid)).sum() * cell == pytest.approx(1.0, abs=0.01)

    def test_masses_of_levels_sum_to_one(self, family: str) -> None:
        import pandas as pd

        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"c": rng.choice(list("abcd"), 800, p=[0.5, 0.3, 0.15, 0.05]), "k": rng.poisson(2, 800)})
        detector = learned(family, statistic="likelihood").fit(frame)
        everything = pd.DataFrame([(c, k) for c in [*"abcd", "new"] for k in range(-12, 40)], columns=["c", "k"])
        assert np.exp(detector.score_samples(everything)).sum() == pytest.approx(1.0, abs=0.05)

    def test_learns_the_entropy_of_a_gaussian(self, family: str, full: bool) -> None:
        mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 2.0]])
        rng = np.random.default_rng(0)
        n = 20_000 if full else 6000
        X, test = rng.normal(size=(n, 3)) @ mixing, rng.normal(size=(20_000, 3)) @ mixing
        entropy = 1.5 * np.log(2 * np.pi * np.e) + np.log(abs(np.linalg.det(mixing)))
        detector = learned(family, max_epochs="auto", noise=0.0).fit(X)
        assert -detector.score(test) == pytest.approx(entropy, abs=0.05)


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
