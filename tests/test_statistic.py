"""Statistics: likelihood, typicality, and how they are chosen."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import anomgen
from anomgen.generative import GenerativeModel, Rows
from anomgen.statistic import (
    STATISTICS,
    Discriminator,
    Energy,
    Features,
    Likelihood,
    Reconstruction,
    Statistic,
    Typicality,
    check_abilities,
    make_statistic,
)
from tests.toys import toy


class Normal(GenerativeModel):
    def log_prob(self, z: Tensor) -> Tensor:
        return -(0.5 * z**2 + 0.5 * np.log(2 * np.pi)).sum(dim=1)


class Silent(GenerativeModel):
    pass


def rows(z: Any, log_det: float = 0.0) -> Rows:
    z = torch.as_tensor(z, dtype=torch.float32)
    return Rows(z, torch.full((len(z),), log_det, dtype=torch.float64))


def test_likelihood_adds_the_log_determinant_in_double_precision() -> None:
    score = Likelihood()(Normal(), rows([[0.0], [1.0]], log_det=3.0))
    assert score.dtype == torch.float64
    assert score.tolist() == pytest.approx([3 - 0.9189385, 2.5 - 0.9189385])


def test_typicality_is_highest_at_the_typical_likelihood() -> None:
    held_out = rows(np.random.default_rng(0).normal(size=(5000, 20)))
    typicality = Typicality()
    typicality.fit(Normal(), held_out, held_out)
    radius = torch.tensor([0.0, 3.0, np.sqrt(20.0), 6.0, 9.0])
    direction = torch.ones(20) / np.sqrt(20.0)
    score = typicality(Normal(), rows(radius[:, None] * direction))
    assert score.argmax() == 2
    assert score[2] == pytest.approx(0.0, abs=0.2)
    assert float(typicality.expected) == pytest.approx(-10 - 10 * np.log(2 * np.pi), abs=0.2)


def test_names_instances_and_auto() -> None:
    assert isinstance(make_statistic("auto", "likelihood"), Likelihood)
    assert isinstance(make_statistic("typicality", "likelihood"), Typicality)
    given = Typicality()
    assert make_statistic(given, "likelihood") is not given
    with pytest.raises(ValueError, match="'surprise' is unknown; choose from 'auto', 'likelihood', 'complexity'"):
        make_statistic("surprise", "likelihood")


def test_a_missing_ability_names_both() -> None:
    with pytest.raises(ValueError, match="Typicality needs log_prob, which Silent lacks"):
        check_abilities(Typicality(), Silent())
    check_abilities(Typicality(), Normal())


class Scaled(Statistic):
    """A statistic from outside, with an option and a gradient."""

    options = ("factor",)
    gradient = True

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, model: GenerativeModel, rows: Rows) -> Tensor:
        with torch.enable_grad():
            z = rows.z.clone().requires_grad_()
            slope = torch.autograd.grad(model.log_prob(z).sum(), z)[0]  # type: ignore[operator]
        return -self.factor * slope.double().norm(dim=1)


def test_a_statistic_of_ones_own_scores_saves_and_loads(tmp_path: Any, numbers: np.ndarray) -> None:
    three = toy("FlowDetector", statistic=Scaled(3.0)).fit(numbers)
    one = toy("FlowDetector", statistic=Scaled(1.0)).fit(numbers)
    assert three.score_samples(numbers) == pytest.approx(3 * one.score_samples(numbers))
    three.save(tmp_path / "m")
    with pytest.raises(anomgen.FormatError, match="Scaled, which is not registered"):
        anomgen.load(tmp_path / "m")
    anomgen.register(Scaled)
    try:
        loaded = anomgen.load(tmp_path / "m")
        assert np.array_equal(loaded.score_samples(numbers), three.score_samples(numbers))
        loaded.save(tmp_path / "again")
        assert np.array_equal(anomgen.load(tmp_path / "again").score_samples(numbers), three.score_samples(numbers))
        # Whatever is made of the loaded one is scored alike.
        assert np.array_equal(pickle.loads(pickle.dumps(loaded)).score_samples(numbers), three.score_samples(numbers))
        loaded.calibrate(numbers, folds=2)
        assert [member.statistic_.factor for member in loaded.folds_] == [3.0, 3.0]
        loaded.save(tmp_path / "folds")
        assert np.array_equal(anomgen.load(tmp_path / "folds").p_values(numbers), loaded.p_values(numbers))
    finally:
        STATISTICS.pop("scaled")


class Described(Normal):
    """Every ability that a statistic may ask for, in closed form."""

    def energy(self, z: Tensor) -> Tensor:
        return 0.5 * (z**2).sum(dim=1)

    def reconstruct(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    def features(self, z: Tensor) -> Tensor:
        return z * torch.tensor([1.0, 3.0])

    def realness(self, z: Tensor) -> Tensor:
        return z[:, 0]

    def score_norms(self, z: Tensor) -> Tensor:
        return z.abs() + 1.0

    def to_latent(self, z: Tensor) -> Tensor:
        return z


def test_energy_is_a_log_density_up_to_a_constant() -> None:
    z = [[0.0, 0.0], [1.0, 2.0]]
    energy, likelihood = Energy()(Described(), rows(z, 3.0)), Likelihood()(Described(), rows(z, 3.0))
    assert energy.dtype == torch.float64
    assert (energy - likelihood).tolist() == pytest.approx([np.log(2 * np.pi)] * 2)


def test_reconstruction_is_the_mean_squared_error_of_what_is_there() -> None:
    score = Reconstruction()(Described(), rows([[1.0, 3.0], [float("nan"), 2.0]]))
    assert score.tolist() == pytest.approx([-5.0, -2.0])


def test_the_discriminators_logit_is_passed_on() -> None:
    assert Discriminator()(Described(), rows([[1.5, 0.0]])).tolist() == [1.5]


def test_distances_between_features_are_free_of_their_scales() -> None:
    train = rows(np.random.default_rng(0).normal(size=(3000, 2)))
    statistic = Features(neighbours=5)
    statistic.fit(Described(), train, train)
    scores = statistic(Described(), rows([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])).tolist()
    assert scores[1] == pytest.approx(scores[2], rel=0.3)
    assert scores[1] < scores[0] - 2.0


def test_only_names_of_abilities_that_exist_are_used() -> None:
    for kind in STATISTICS.values():
        check_abilities(kind(), Described())
        if not kind.needs:
            continue
        with pytest.raises(ValueError, match="which Silent lacks"):
            check_abilities(kind(), Silent())
