"""Diffusion: energies, bounds, velocities, and what every option changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.families.diffusion import (
    OBJECTIVES,
    Bounded,
    Diffusion,
    DiffusionDetector,
    FlowMatching,
    ScoreMatching,
    VariationalDiffusion,
)
from anomgen.generative import Space, abilities
from anomgen.nn.denoiser import Denoiser, EnergyDenoiser
from anomgen.nn.noise import kurtosis_scale, usual_level

KINDS: dict[str, type[Diffusion]] = {
    "score_matching": ScoreMatching,
    "ddpm": VariationalDiffusion,
    "flow_matching": FlowMatching,
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
bounded = pytest.mark.parametrize("objective", ["ddpm", "flow_matching"])


def make(objective: str, dim: int | Space, *, seed: int = 0, shake: float = 0.0, **options: Any) -> Any:
    """A small model, its weights disturbed by `shake`."""
    with runtime.seeded(seed):
        model = KINDS[objective](dim, **{"hidden": (32, 32), **options})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shake * torch.randn_like(parameter))
    return model


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def train(model: Diffusion, z: Tensor, steps: int, batch: int = 256, rate: float = 1e-2) -> None:
    with runtime.seeded(1):
        pairs = [(loss, torch.optim.Adam(parameters, rate)) for parameters, loss in model.objectives()]
        for step in range(steps):
            part = z[torch.randint(len(z), (batch,))]
            for loss, optimizer in pairs:
                for group in optimizer.param_groups:
                    group["lr"] = rate * (1 - step / steps)
                optimizer.zero_grad()
                loss(part).mean().backward()
                optimizer.step()


def two_blobs(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = (torch.rand(n, 1, generator=generator) < 0.5).float() * 2 - 1
    return torch.cat([0.9 * side, torch.zeros(n, 1)], 1) + 0.4 * torch.randn(n, 2, generator=generator)


def log_blobs(z: Tensor) -> Tensor:
    """The exact log-density of `two_blobs`."""
    means = torch.tensor([[0.9, 0.0], [-0.9, 0.0]])
    each = -(z[:, None] - means).square().sum(-1) / (2 * 0.16) - math.log(2 * math.pi * 0.16) - math.log(2)
    return torch.logsumexp(each, 1)


def repeat(model: Bounded, z: Tensor, banks: int) -> Tensor:
    """The bound of every row under several banks of noise, shape ``(banks, n)``."""
    found = []
    for seed in range(banks):
        with runtime.seeded(seed):
            other = type(model)(z.shape[1], hidden=model.hidden)
        other.denoiser = model.denoiser
        with torch.no_grad():
            found.append(other.log_prob(z))
    return torch.stack(found)


class TestNetworks:
    def test_the_noise_is_the_gradient_of_the_energy(self) -> None:
        with runtime.seeded(0):
            net = EnergyDenoiser(4, 2, (16, 16)).double()
            for parameter in net.parameters():
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        noisy = rows(9, 4).double().t().requires_grad_()
        scale = torch.tensor([[0.5], [1.0], [1.5], [2.0]]).double()
        level = torch.linspace(0.1, 3.0, 9).double()
        energy, noise = net(noisy, scale, level, rows(9, 2, 1).double().t())
        (gradient,) = torch.autograd.grad(energy.sum(), noisy)
        torch.testing.assert_close(noise, scale * level * gradient)
        assert (energy > 0).all()

    def test_untrained_networks_know_standard_normal_data(self) -> None:
        noisy, level = rows(50, 3).t(), torch.linspace(0.05, 5.0, 50)
        expected = noisy * level / (1 + level**2)
        torch.testing.assert_close(Denoiser(3, 0, (8,))(noisy, level, noisy[:0]), expected)
        energy, noise = EnergyDenoiser(3, 0, (8,))(noisy, torch.ones(3, 1), level, noisy[:0])
        torch.testing.assert_close(noise, expected)
        torch.testing.assert_close(energy, 0.5 * (noisy**2 / (1 + level**2)).sum(0))

    @pytest.mark.parametrize("network", [Denoiser, EnergyDenoiser])
    def test_level_and_context_matter(self, network: Any) -> None:
        with runtime.seeded(0):
            net = network(2, 1, (16, 16))
            for parameter in net.parameters():
                parameter.data.add_(0.3 * torch.randn_like(parameter))
        x, ones, scale = rows(5, 2).t(), torch.ones(5), () if network is Denoiser else (torch.ones(2, 1),)

        def found(level: float, context: float) -> Tensor:
            out = net(x, *scale, level * ones, context * ones[None])
            return out if network is Denoiser else out[1]

        # The level enters an untrained network as well, by its preconditioning; the features do so on top of that.
        assert not torch.allclose(found(1.0, 0.0), found(1.0, 1.0))
        before = found(2.0, 0.0)
        net.frequencies.zero_()
        assert not torch.allclose(found(2.0, 0.0), before)


class TestBounds:
    @bounded
    def test_an_untrained_bound_is_the_standard_normal_density(self, objective: str) -> None:
        z = 2 * rows(30, 3)
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        torch.testing.assert_close(make(objective, 3).log_prob(z), expected)

    @bounded
    def test_the_bound_is_a_bound_on_average_over_rows_and_banks_and_tight(self, objective: str) -> None:
        model = make(objective, 2, hidden=(64, 64))
        train(model, two_blobs(20_000), 500)
        test = two_blobs(2000, 5)
        each = repeat(model, test, 60).mean(1) - log_blobs(test).mean()
        error = each.std() / math.sqrt(len(each))
        assert -0.2 < each.mean() < 2 * error
        # Far better than the normal density it starts from.
        start = torch.distributions.Normal(0.0, 1.0).log_prob(test).sum(1).mean() - log_blobs(test).mean()
        assert each.mean() > start + 0.3

    def test_a_levelled_bank_bounds_on_average_over_rows_and_integrates_to_at_most_one(self) -> None:
        rows_, test = two_blobs(20_000), two_blobs(2000, 5)
        model = make("ddpm", 2, hidden=(64, 64))
        train(model, rows_, 500)
        axis = torch.linspace(-6, 6, 121)
        grid = torch.cartesian_prod(axis, axis)
        raw, levelled, masses = [], [], []
        for seed in range(6):
            with runtime.seeded(seed), torch.no_grad():
                bank = type(model)(2, hidden=(64, 64))
                bank.denoiser = model.denoiser
                bank.prepare(rows_)
                raw.append(bank.log_prob(test).mean().item())
                bank.conclude()
                levelled.append((bank.log_prob(test) - log_blobs(test)).mean().item())
                masses.append(bank.log_prob(grid).double().exp().sum().item() * 0.1**2)
        assert np.std(levelled) < 0.2 * np.std(raw)
        assert max(levelled) < 0.02
        # A single bank still has noise that depends on the row.
        assert 0.8 < np.mean(masses) <= 1.01
        assert max(masses) <= 1.03

    def test_a_wrong_model_is_no_higher(self) -> None:
        """Disturbed weights lower the mean bound: it is a bound whatever the network."""
        z = rows(3000, 2)
        truth = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1).mean()
        for seed in range(3):
            found = repeat(make("ddpm", 2, seed=seed, shake=0.1), z, 20).mean()
            assert found < truth

    def test_training_and_monitor_are_the_bound(self) -> None:
        model = make("ddpm", 2, shake=0.05)
        z = rows(4000, 2)
        with runtime.seeded(0), torch.no_grad():
            fresh = torch.stack([model.loss(z).mean() for _ in range(20)])
            banks = -repeat(model, z, 40).mean(1)
        spread = 3 * math.hypot(fresh.std() / math.sqrt(20), banks.std() / math.sqrt(40))
        assert fresh.mean().item() == pytest.approx(banks.mean().item(), abs=spread)
        assert torch.equal(model.monitor(z), -model.log_prob(z))

    def test_velocity_error_is_that_of_straight_lines(self) -> None:
        model = make("flow_matching", 2, shake=0.1)
        x, noise, u = rows(6, 2).t(), rows(6, 2, 1).t(), torch.linspace(0.05, 0.95, 6)
        found = model._velocity_error(x, x[:0], u, noise)
        t = 1 / (1 + usual_level(u))
        between = t * x + (1 - t) * noise
        guess = model.denoiser(between / t, (1 - t) / t, x[:0])
        velocity = (between - (1 - t) * guess) / t - guess
        torch.testing.assert_close(found, (velocity - (x - noise)).square().sum(0), rtol=1e-3, atol=1e-4)


class TestEnergies:
    def test_energy_is_the_log_density_of_blurred_rows_up_to_a_constant(self) -> None:
        model = make("score_matching", 2, hidden=(64, 64), noise_levels=(0.5,))
        train(model, two_blobs(20_000), 600)
        test = two_blobs(2000, 5)
        with torch.no_grad():
            energy = model.potential(test.t(), model.scale, torch.full((2000,), 0.5), test.t()[:0])[0]
        means, variance = torch.tensor([[0.9, 0.0], [-0.9, 0.0]]), 0.16 + 0.25
        log_density = torch.logsumexp(-(test[:, None] - means).square().sum(-1) / (2 * variance), 1)
        assert torch.corrcoef(torch.stack([-energy, log_density]))[0, 1] > 0.97
        assert (energy + log_density).std() < 0.1

    def test_the_second_term_sharpens(self) -> None:
        """For normal data of variance v the score lies between the blurred and the sharp energy."""
        model = make("score_matching", 1, noise_levels=(0.5,))
        train(model, 0.7 * rows(20_000, 1), 500)
        z = torch.tensor([[0.0], [1.4]])
        with torch.no_grad():
            blurred = model.potential(z.t(), model.scale, torch.full((2,), 0.5), z.t()[:0])[0].diff().item()
            found = model.energy(z).diff().item()
        assert blurred == pytest.approx(1.4**2 / (2 * 0.74), rel=0.15)
        assert blurred < found < 1.4**2 / (2 * 0.49) * 1.05

    def test_kurtosis_sets_the_noise_of_each_column_once(self) -> None:
        z = rows(5000, 3)
        z[:, 1] = z[:, 1].sign()
        z[:, 2] = z[:, 2] ** 5
        model = make("score_matching", 3, noise_scale="kurtosis")
        model.prepare(z)
        expected = []
        for column in z.double().numpy().T:
            middle = np.sort(column)[100:-100]
            middle = middle - middle.mean()
            expected.append(np.clip(1 + 0.33 * ((middle**4).mean() / (middle**2).mean() ** 2 - 3), 0.2, 6.0))
        assert model.scale.ravel().numpy() == pytest.approx(np.array(expected), rel=1e-4)
        assert model.scale[1] < model.scale[0] < model.scale[2]
        before = model.scale.clone()
        model.prepare(10 * z**3)
        assert torch.equal(model.scale, before)
        equal = make("score_matching", 3)
        equal.prepare(z)
        assert (equal.scale == 1).all()

    def test_kurtosis_of_constant_columns_is_that_of_a_normal(self) -> None:
        assert kurtosis_scale(torch.ones(2, 50)).tolist() == [1.0, 1.0]

    def test_noise_scales_survive_saving(self, tmp_path: Any) -> None:
        import anomgen

        X = np.random.default_rng(0).normal(size=(300, 3))
        X[:, 1] = np.sign(X[:, 1]) + 0.01 * X[:, 1]
        detector = DiffusionDetector(noise_scale="kurtosis", hidden=(8,), max_epochs=2, random_state=0, verbose=False)
        detector.fit(X).save(tmp_path / "m")
        again = anomgen.load(tmp_path / "m")
        assert not (detector.model_.scale == 1).all()
        assert torch.equal(again.model_.scale, detector.model_.scale)
        assert np.array_equal(again.score_samples(X), detector.score_samples(X))
        again.partial_fit(X)
        assert torch.equal(again.model_.scale, detector.model_.scale)


@every_objective
class TestAll:
    def test_samples_follow_the_data(self, objective: str) -> None:
        model = make(objective, 2, hidden=(64, 64))
        train(model, two_blobs(20_000), 500)
        with runtime.seeded(0), torch.no_grad():
            drawn = model.sample(4000)
        assert drawn.shape == (4000, 2)
        assert drawn.is_contiguous()
        entropy = -log_blobs(two_blobs(4000, 3)).mean().item()
        assert -log_blobs(drawn).mean().item() == pytest.approx(entropy, abs=0.2)
        assert drawn.abs().mean(0).numpy() == pytest.approx(two_blobs(4000, 3).abs().mean(0).numpy(), abs=0.08)
        assert (drawn[:, 0] > 0).float().mean().item() == pytest.approx(0.5, abs=0.08)

    def test_monitor_has_fixed_noise_and_loss_fresh(self, objective: str) -> None:
        model, z = make(objective, 3, shake=0.1), rows(20, 3)
        assert torch.equal(model.monitor(z), model.monitor(z))
        assert not torch.equal(model.loss(z), model.loss(z))

    def test_training_improves_what_judges_it(self, objective: str) -> None:
        model, z = make(objective, 2), two_blobs(3000)
        before = model.monitor(z).mean().item()
        train(model, z, 150)
        assert model.monitor(z).mean().item() < before - 0.05

    def test_a_score_depends_on_its_row_alone(self, objective: str) -> None:
        model, z = make(objective, 7, shake=0.2).eval(), rows(600, 7)
        ability = model.energy if objective == "score_matching" else model.log_prob
        order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
        scores = [
            runtime.map_rows(ability, [part], device=torch.device("cpu"), height=256)
            for part in (z, z[order], z[:1], z[300:411])
        ]
        assert (scores[1] == scores[0][order.numpy()]).all()
        assert scores[2] == scores[0][:1]
        assert (scores[3] == scores[0][300:411]).all()

    def test_far_rows_score_ever_lower(self, objective: str) -> None:
        X = np.random.default_rng(0).normal(size=(300, 3))
        detector = DiffusionDetector(objective=objective, hidden=(32,), max_epochs=3, random_state=0, verbose=False)
        far = X[:1] + np.array([0, 10.0, 1e3, 1e6, 1e12, 1e100, 1e300])[:, None]
        scores = detector.fit(X).score_samples(far)
        assert np.isfinite(scores).all()
        assert (np.diff(scores) < 0).all()

    def test_conditions_move_scores_and_samples(self, objective: str) -> None:
        rng = np.random.default_rng(0)
        y = rng.integers(2, size=1500)
        X = rng.normal(0.0, 0.5, size=(1500, 2)) + 3.0 * y[:, None]
        options = {"condition": "y", "hidden": (64, 64), "max_epochs": 40, "random_state": 0, "verbose": False}
        detector = DiffusionDetector(objective=objective, **options).fit(X, y)
        for label in (0, 1):
            drawn = detector.sample(500, condition=label)
            assert drawn[:, :2].mean(0) == pytest.approx([3.0 * label] * 2, abs=0.5)
        right = detector.score_samples(X[:200], condition=y[:200])
        assert (right > detector.score_samples(X[:200], condition=1 - y[:200])).mean() > 0.9

    def test_reconstruction_removes_noise(self, objective: str) -> None:
        model, z = make(objective, 2), torch.cat([two_blobs(3000)[:, :1]] * 2, 1)
        train(model, z, 300)
        off = z[:200] + torch.tensor([0.4, -0.4])
        with torch.no_grad():
            back = model.reconstruct(off)
        assert (back[:, 0] - back[:, 1]).abs().mean() < 0.5 * (off[:, 0] - off[:, 1]).abs().mean()

    def test_abilities_and_passes(self, objective: str) -> None:
        model = make(objective, 2, noise_levels=(0.3, 0.5, 1.0))
        has = abilities(model)
        assert ("log_prob" in has) == (objective != "score_matching")
        assert ("energy" in has) == (objective == "score_matching")
        assert model.nats == (objective == "ddpm")
        assert model.passes == (3 if objective == "score_matching" else 10)
        expected = "energy" if objective == "score_matching" else "likelihood"
        assert DiffusionDetector(objective=objective).default_statistic == expected

    def test_bfloat16_training_is_finite(self, objective: str) -> None:
        model = make(objective, 4, shake=0.1)
        for parameters, objective_loss in model.objectives():
            with torch.autocast("cpu", torch.bfloat16):
                loss = objective_loss(rows(50, 4)).float().mean()
            loss.backward()
            assert all(p.grad.isfinite().all() for p in parameters)


DATA = np.random.default_rng(3).normal(size=(200, 3)) ** 3


def observed(**options: Any) -> list[np.ndarray]:
    """Scores, reconstruction errors and samples of a tiny fit."""
    small = {"hidden": (8, 8), "max_epochs": 4, "contamination": 0.1, "random_state": 0, "verbose": False}
    detector = DiffusionDetector(**{**small, **options}).fit(DATA)
    z = torch.from_numpy(detector.encoder_.encode(DATA).z)
    with torch.no_grad():
        reconstructed = detector.model_.reconstruct(z).numpy()
    return [detector.score_samples(DATA), reconstructed, detector.sample(5)]


@pytest.mark.parametrize(
    ("base", "changed", "moved"),
    [
        ({}, {"objective": "ddpm"}, {0, 1, 2}),
        ({}, {"objective": "flow_matching"}, {0, 1, 2}),
        ({"objective": "ddpm"}, {"objective": "flow_matching"}, {0, 1, 2}),
        ({}, {"noise_levels": (1.0,)}, {0, 1}),
        ({}, {"noise_levels": (0.25, 0.5, 1.0)}, {0, 1}),
        ({"objective": "ddpm"}, {"noise_levels": (1.0,)}, {1}),
        ({}, {"noise_scale": "kurtosis"}, {0}),
        ({"objective": "ddpm"}, {"bound_levels": 2}, {0}),
        ({"objective": "flow_matching"}, {"bound_levels": 2}, {0}),
        ({}, {"hidden": (16,)}, {0, 1, 2}),
        ({}, {"steps": 5}, {2}),
        ({}, {"noise": 0.3}, {0, 1, 2}),
    ],
)
def test_every_option_changes_an_observable(base: dict[str, Any], changed: dict[str, Any], moved: set[int]) -> None:
    pairs = zip(
        observed(**base), observed(**base, **changed) if not base else observed(**{**base, **changed}), strict=True
    )
    differs = {k for k, (a, b) in enumerate(pairs) if not np.array_equal(a, b)}
    assert moved <= differs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "vdm"}, "objective='vdm'.*'score_matching', 'ddpm', 'flow_matching'"),
        ({"noise_levels": ()}, r"noise_levels=\(\).*one to 10"),
        ({"noise_levels": (0.5,) * 11}, "noise_levels=.*one to 10"),
        ({"noise_levels": (0.5, 0.0)}, r"noise_levels=0\.0.*at least 0\.01"),
        ({"noise_scale": "std"}, "noise_scale='std'.*'equal', 'kurtosis'"),
        ({"objective": "ddpm", "bound_levels": 6}, "bound_levels=6.*at most 5"),
        ({"objective": "ddpm", "bound_levels": 0}, "bound_levels=0.*at least 1"),
        ({"hidden": ()}, r"hidden=\(\).*positive integers"),
        ({"steps": 0}, "steps=0.*at least 1"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionDetector(**options).build(Space.real(3))
