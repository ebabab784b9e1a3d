"""Boltzmann machines: free energy, normalizing constant, chains, and stacks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

import anomgen
from anomgen import runtime
from anomgen.families.boltzmann import PARTICLES, Boltzmann, BoltzmannDetector, DeepBelief, _Bernoulli
from anomgen.generative import Space, abilities


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Two clusters, 4 standard deviations apart along one diagonal."""
    generator = np.random.default_rng(seed)
    side = np.where(generator.random(n) < 0.3, 1.0, -1.0)
    return generator.normal(size=(n, 2)) + side[:, None] * np.array([2.0, 2.0])


def make(dim: int = 3, units: int = 8, *, scale: float = 1.0, seed: int = 0) -> Boltzmann:
    """A machine with random weights."""
    with runtime.seeded(seed):
        model = Boltzmann(dim, units=units)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
            model.machine.log_scale.mul_(0.3)
    return model


def states(units: int) -> Tensor:
    """All binary vectors, as columns."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units))).t()


@torch.no_grad()
def exact_log_z(model: Boltzmann) -> float:
    """The normalizing constant by a sum over all hidden states, each of which leaves a normal integral."""
    machine = model.machine.double()
    hidden = states(len(machine.hidden_bias)).double()
    exponent = (machine.hidden_bias * hidden).sum(0) + 0.5 * (machine.weight.t() @ hidden).square().sum(0)
    scales = machine.log_scales.sum() + 0.5 * math.log(2 * math.pi) * len(machine.log_scale)
    found = float(exponent.logsumexp(0) + scales)
    machine.float()
    return found


def detector(**options: Any) -> BoltzmannDetector:
    common: dict[str, Any] = {"random_state": 0, "verbose": False, "contamination": 0.1, "noise": 0.1, "units": 8}
    return BoltzmannDetector(**(common | options))


@pytest.fixture(scope="module")
def trained() -> BoltzmannDetector:
    return detector().fit(rows(1500))


class TestMachine:
    def test_free_energy_is_minus_the_log_of_the_sum_over_hidden_states(self) -> None:
        model = make().double()
        machine, z = model.machine, torch.randn(20, 3, dtype=torch.float64)
        hidden = states(8).double()
        y = machine.standard(z.t())
        joint = (
            -0.5 * y.square().sum(0)[:, None]
            + (machine.weight @ y).t() @ hidden
            + (machine.hidden_bias * hidden).sum(0)
        )
        torch.testing.assert_close(model.energy(z), -joint.logsumexp(1))

    def test_gradient_of_the_energy(self) -> None:
        model = make(scale=0.5).double()
        z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(model.energy, (z,))
        machine = model.machine

        def energy(weight: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
            named = {"machine.weight": weight, "machine.hidden_bias": bias, "machine.log_scale": log_scale}
            return torch.func.functional_call(
                _Energy(model), {f"model.{k}": v for k, v in named.items()}, (z.detach(),)
            )

        inputs = tuple(
            p.detach().clone().requires_grad_() for p in (machine.weight, machine.hidden_bias, machine.log_scale)
        )
        assert torch.autograd.gradcheck(energy, inputs)

    def test_hidden_units_and_rows_drawn_given_each_other_follow_the_joint(self) -> None:
        model = make(2, 2)
        machine = model.machine
        hidden = torch.tensor([[1.0], [0.0]])
        with runtime.seeded(0), torch.no_grad():
            drawn = machine.draw(hidden.expand(-1, 50_000))
            mean = machine.visible_bias + machine.log_scales.exp() * machine.weight[:1].t()
            torch.testing.assert_close(drawn.mean(1, keepdim=True), mean, atol=0.02, rtol=0.0)
            torch.testing.assert_close(drawn.std(1), machine.log_scales.exp()[:, 0], atol=0.02, rtol=0.0)
            y = machine.standard(mean)
            joint = states(2).t() @ (machine.weight @ y + machine.hidden_bias)
            expected = states(2) @ joint.softmax(0)
        torch.testing.assert_close(machine.up(mean).detach(), expected)

    @pytest.mark.parametrize(("units", "scale"), [(1, 1.0), (6, 0.5), (10, 1.0), (12, 1.5)])
    def test_annealed_log_z_is_that_of_enumeration(self, units: int, scale: float) -> None:
        model = make(3, units, scale=scale)
        with runtime.seeded(1), torch.no_grad():
            model.conclude()
        assert float(model.log_z) == pytest.approx(exact_log_z(model), abs=0.15)
        assert 0.02 < model.effective <= 1.0

    def test_annealed_particles_are_samples_of_the_machine(self) -> None:
        model = make(2, 6)
        drawn = []
        for seed in range(20):
            with runtime.seeded(seed), torch.no_grad():
                model.conclude()
                drawn.append(model.machine.particles)
        machine = model.machine
        hidden = states(6)
        share = ((machine.hidden_bias * hidden).sum(0) + 0.5 * (machine.weight.t() @ hidden).square().sum(0)).softmax(0)
        means = machine.visible_bias + machine.log_scales.exp() * (machine.weight.t() @ hidden)
        torch.testing.assert_close(torch.cat(drawn, 1).mean(1), (means * share).sum(1).detach(), atol=0.25, rtol=0.0)

    def test_chains_move_in_training_only(self) -> None:
        model = make()
        z = torch.randn(10, 3)
        for training in (True, False):
            model.train(training)
            before = model.machine.particles.clone()
            model.loss(z)
            assert torch.equal(before, model.machine.particles) != training

    def test_the_expected_gradient_is_that_of_the_likelihood(self) -> None:
        model = make(2, 5, scale=0.7).eval()
        z = torch.randn(500, 2)
        with runtime.seeded(0), torch.no_grad():
            many = []
            for _ in range(40):
                model.conclude()
                many.append(model.machine.particles.clone())
        model.machine.particles = torch.cat(many, 1)
        model.loss(z).mean().backward()
        ours = model.machine.weight.grad.clone()
        model.zero_grad()
        machine = model.machine
        hidden = states(5)
        exponent = (machine.hidden_bias * hidden).sum(0) + 0.5 * (machine.weight.t() @ hidden).square().sum(0)
        (model.energy(z).mean() + exponent.logsumexp(0)).backward()
        torch.testing.assert_close(ours, machine.weight.grad, atol=0.08, rtol=0.05)


class _Energy(torch.nn.Module):
    def __init__(self, model: Boltzmann) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.energy(z)


class TestFit:
    def test_the_density_of_two_clusters_is_learned(self, trained: BoltzmannDetector) -> None:
        new = rows(4000, seed=1)
        parts = [
            math.log(share) - 0.5 * ((new - side * 2.0) ** 2).sum(1) - math.log(2 * math.pi)
            for share, side in ((0.3, 1.0), (0.7, -1.0))
        ]
        entropy = -np.logaddexp(*parts).mean()
        one_normal = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.cov(new.T))[1]
        assert -trained.score(new) < entropy + 0.15
        assert -trained.score(new) < one_normal - 0.15

    def test_estimated_nats_integrate_to_one(self, trained: BoltzmannDetector) -> None:
        axis = np.linspace(-12, 12, 300)
        grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        total = np.exp(trained.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
        assert total == pytest.approx(1.0, abs=0.05)
        machine = trained.model_
        assert float(machine.log_z) == pytest.approx(exact_log_z(machine), abs=0.05)

    def test_samples_have_the_moments_of_the_data(self, trained: BoltzmannDetector) -> None:
        drawn, X = trained.sample(8000), rows(20_000, seed=2)
        assert drawn.mean(0) == pytest.approx(X.mean(0), abs=0.3)
        assert np.cov(drawn.T) == pytest.approx(np.cov(X.T), abs=0.6)
        assert (drawn.sum(1) > 0).mean() == pytest.approx(0.3, abs=0.08)

    def test_log_z_belongs_to_the_final_weights(self, trained: BoltzmannDetector) -> None:
        before = float(trained.model_.log_z)
        again = detector(warm_start=True, max_epochs=3).fit(rows(1500))
        assert float(again.model_.log_z) == pytest.approx(exact_log_z(again.model_), abs=0.05)
        assert float(again.model_.log_z) != before

    def test_energy_and_likelihood_order_rows_alike(self, trained: BoltzmannDetector) -> None:
        new = rows(200, seed=3)
        by_energy = detector(statistic="energy").fit(rows(1500)).score_samples(new)
        difference = by_energy - trained.score_samples(new)
        assert np.ptp(difference) < 1e-4
        assert difference[0] == pytest.approx(float(trained.model_.log_z), abs=1e-4)

    def test_an_estimate_that_few_chains_carry_is_reported(self) -> None:
        model = Boltzmann(2)
        assert model.complaints([]) == []
        model.effective = 0.001
        assert "log Z" in model.complaints([])[0]

    def test_the_loss_is_no_likelihood_and_stops_nothing(self, trained: BoltzmannDetector) -> None:
        model = trained.model_
        assert (model.likelihood, model.nats, model.judged, model.universal) == ("estimate", False, False, False)
        assert "train_loss" in trained.history_[0]


class TestStack:
    def test_energy_of_two_layers_bounds_the_log_density(self) -> None:
        """With few units the sum over all hidden states of both layers is within reach."""
        with runtime.seeded(0):
            model = DeepBelief(2, layers=2, units=5)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(0.5 * torch.randn_like(parameter))
        first, top = model.machines
        z, hidden = torch.randn(50, 2), states(5)
        with torch.no_grad():
            log_prior = -top.free_energy(hidden)
            log_given = -torch.stack([first.surprise(z.t(), h[:, None].expand(-1, 50)) for h in hidden.t()], 1)
            exact = (log_given + log_prior).logsumexp(1)
            bound = -model.energy(z)
        assert (bound <= exact + 1e-4).all()
        assert float((exact - bound).mean()) < 1.5

    def test_surprise_is_a_mean_over_hidden_states(self) -> None:
        machine = make(3, 4).machine
        z, hidden = torch.randn(7, 3), torch.rand(4, 1, generator=torch.Generator().manual_seed(0))
        every = states(4)
        share = torch.where(every > 0, hidden, 1 - hidden).prod(0)
        with torch.no_grad():
            each = torch.stack([machine.surprise(z.t(), h[:, None].expand(-1, 7)) for h in every.t()], 1)
            torch.testing.assert_close(machine.surprise(z.t(), hidden.expand(-1, 7)), each @ share)

    def test_a_binary_machine_is_normalized_by_its_conditionals(self) -> None:
        with runtime.seeded(0):
            machine = _Bernoulli(4, 3)
            with torch.no_grad():
                machine.weight.normal_()
                machine.visible_bias.normal_()
        every = states(4)
        hidden = torch.tensor([[1.0], [0.0], [1.0]])
        with torch.no_grad():
            total = (-machine.surprise(every, hidden.expand(-1, 16))).exp().sum()
            joint = torch.stack(
                [
                    (machine.visible_bias * every).sum(0)
                    + (h[:, None] * (machine.weight @ every + machine.hidden_bias)).sum(0)
                    for h in states(3).t()
                ]
            )
            torch.testing.assert_close(machine.free_energy(every), -joint.logsumexp(0))
        assert float(total) == pytest.approx(1.0, abs=1e-5)

    def test_layers_learn_one_after_another(self) -> None:
        model = DeepBelief(2, layers=3, units=4).train()
        z = torch.randn(30, 2)
        for progress, learning in ((0.0, 0), (0.32, 0), (0.34, 1), (0.67, 2), (0.99, 2)):
            model.on_epoch(progress)
            model.zero_grad()
            before = [machine.particles.clone() for machine in model.machines]
            model.loss(z).mean().backward()
            moved = [
                machine.weight.grad is not None and bool((machine.weight.grad != 0).any()) for machine in model.machines
            ]
            assert moved == [layer == learning for layer in range(3)]
            still = [torch.equal(a, machine.particles) for a, machine in zip(before, model.machines, strict=True)]
            assert still == [layer != learning for layer in range(3)]

    def test_a_stack_is_scored_by_its_energy(self, tmp_path: Any) -> None:
        X = rows(600)
        stack = detector(layers=2).fit(X)
        assert type(stack.statistic_).__name__ == "Energy"
        assert "log_prob" not in abilities(stack.model_)
        far = np.array([[0.0, 0.0], [12.0, -12.0], [1e3, 1e3], [1e6, 1e6], [1e100, 1e100]])
        scores = stack.score_samples(np.vstack([X[:1], far[1:]]))
        assert np.isfinite(scores).all()
        assert (np.diff(scores) < 0).all()
        new = rows(2000, seed=4)
        assert (stack.score_samples(new) > stack.score_samples([[4.0, -4.0]])).mean() > 0.95
        assert stack.sample(2000).mean(0) == pytest.approx(X.mean(0), abs=0.6)
        stack.save(tmp_path / "stack")
        assert np.array_equal(anomgen.load(tmp_path / "stack").score_samples(new), stack.score_samples(new))
        with pytest.raises(ValueError, match="Likelihood needs log_prob, which DeepBelief lacks"):
            detector(layers=2, statistic="likelihood").fit(X)

    def test_every_machine_of_a_stack_changes(self) -> None:
        with runtime.seeded(detector().fit(rows(200)).seed_):
            before = DeepBelief(2, layers=2, units=8).state_dict()
        after = detector(layers=2, max_epochs=4).fit(rows(200)).model_.state_dict()
        assert all(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 0}, "units=0.*at least 1"),
        ({"layers": 0}, "layers=0.*at least 1"),
        ({"layers": 1.5}, r"layers=1\.5.*integer"),
        ({"layers": 2, "units": 2.5}, r"units=2\.5.*integer"),
        ({"gibbs": 0}, "gibbs=0.*at least 1"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoltzmannDetector(**options).build(Space.real(3))


@pytest.mark.parametrize(
    "options", [{"units": 4}, {"gibbs": 3}, {"layers": 2}, {"learning_rate": 1e-3}, {"weight_decay": 0.5}]
)
def test_every_option_changes_scores(options: dict[str, Any]) -> None:
    X = rows(200)
    base, other = (detector(max_epochs=10, statistic="energy", **o).fit(X) for o in ({}, options))
    assert np.abs(base.score_samples(X) - other.score_samples(X)).max() > 1e-3


def test_chains_are_as_many_as_stated() -> None:
    assert Boltzmann(5).machine.particles.shape == (5, PARTICLES)


def test_a_poor_estimate_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomgen.families.boltzmann.LEAST_EFFECTIVE", 1.1)
    with pytest.warns(ConvergenceWarning, match="estimate of log Z"):
        assert not detector(max_epochs=2).fit(rows(100)).converged_
