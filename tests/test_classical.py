"""Mixtures and kernels: equal to scikit-learn's, exact in their noise, and chosen by held-out likelihood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor

from anomgen import runtime
from anomgen.families import classical
from anomgen.families.classical import Kernel, KernelDetector, Mixture, MixtureDetector
from anomgen.generative import Space, abilities
from anomgen.nn.normals import Normals, stacked


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    """Two clusters of dependent columns."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) / math.sqrt(dim)
    side = (torch.rand(n, 1, generator=generator) < 0.3).float()
    return torch.randn(n, dim, generator=generator) @ (0.3 * mixing + 0.2 * torch.eye(dim)) + 2 * side - 0.6


def fitted(model: Any, z: Tensor, *, noise: float = 0.0, seed: int = 0, **given: Any) -> Any:
    blur = torch.full((z.shape[1],), noise) if isinstance(noise, float) else noise
    with runtime.seeded(seed):
        model.fit_closed_form(z, given.get("weight"), given.get("held_out"), blur)
    return model


def random_normals(kind: str, dim: int, size: int = 3) -> tuple[Normals, Any]:
    """A mixture, and scikit-learn's with the same parameters."""
    generator = np.random.default_rng(0)
    means, shares = 2 * generator.normal(size=(size, dim)), generator.dirichlet(np.ones(size))
    spread = 0.5 * generator.normal(size=(size, dim, dim)) / math.sqrt(dim)
    covariances = spread @ spread.transpose(0, 2, 1) + 0.05 * np.eye(dim)
    covariances = covariances * np.eye(dim) if kind == "diag" else covariances
    lower = np.linalg.inv(np.linalg.cholesky(covariances))
    factors = np.diagonal(lower, axis1=1, axis2=2)[..., None] if kind == "diag" else lower
    theirs = GaussianMixture(size, covariance_type="full")
    theirs.weights_, theirs.means_, theirs.covariances_ = shares, means, covariances
    theirs.precisions_cholesky_ = lower.transpose(0, 2, 1)
    ours = Normals(*(torch.from_numpy(np.array(a)).float() for a in (shares, means[..., None], factors)))
    return ours, theirs


class TestMixture:
    @pytest.mark.parametrize("dim", [1, 2, 30])
    @pytest.mark.parametrize("kind", ["full", "diag"])
    def test_density_equals_scikit_learns(self, kind: str, dim: int) -> None:
        ours, theirs = random_normals(kind, dim)
        z = 3 * rows(200, dim)
        expected = theirs.score_samples(z.double().numpy())
        np.testing.assert_allclose(ours.log_prob(z.t()).numpy(), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("kind", ["full", "diag"])
    def test_samples_have_the_moments_of_the_density(self, kind: str) -> None:
        ours, _ = random_normals(kind, 3)
        _, theirs = random_normals(kind, 3)
        with runtime.seeded(0):
            drawn = ours.sample(40_000).double().numpy()
        mean = theirs.weights_ @ theirs.means_
        centred = theirs.means_ - mean
        within = np.einsum("k,kij->ij", theirs.weights_, theirs.covariances_)
        assert drawn.mean(1) == pytest.approx(mean, abs=0.05)
        assert np.cov(drawn) == pytest.approx(within + centred.T @ (theirs.weights_[:, None] * centred), abs=0.1)

    @pytest.mark.parametrize("kind", ["full", "tied", "diag"])
    def test_one_size_is_scikit_learns_solution(self, kind: str) -> None:
        z = rows(400, 3)
        ours = fitted(Mixture(3, components=2, covariance=kind), z)
        theirs = GaussianMixture(2, covariance_type=kind, reg_covar=classical.LEAST_VARIANCE, tol=1e-6).fit(z.double())
        assert ours.log_prob(z).numpy() == pytest.approx(theirs.score_samples(z.double()), abs=0.02)
        assert ours.factors.shape == (2, 3, 1 if kind == "diag" else 3)
        same = torch.equal(ours.factors[0], ours.factors[1])
        assert same == (kind == "tied")

    def test_noise_is_added_to_the_variance_of_numbers_alone(self) -> None:
        z = rows(500, 3)
        blur = torch.tensor([0.4, 0.4, 0.0])
        model = fitted(Mixture(3, components=1), z, noise=blur)
        lower = torch.linalg.inv(model.factors[0].double())
        expected = torch.cov(z.t().double(), correction=0) + torch.diag(blur.double().square())
        expected[2, 2] += classical.LEAST_VARIANCE
        torch.testing.assert_close(lower @ lower.t(), expected, atol=1e-5, rtol=1e-4)

    def test_sizes_are_chosen_by_rows_that_did_not_train(self) -> None:
        z = rows(600, 2)
        for given in ({}, {"held_out": rows(200, 2, seed=1)}):
            model = fitted(Mixture(2), z, **given)
            best = fitted(Mixture(2, components=2), z)
            single = fitted(Mixture(2, components=1), z)
            new = rows(2000, 2, seed=2)
            assert model.log_prob(new).mean() > single.log_prob(new).mean() + 0.2
            assert model.log_prob(new).mean() > best.log_prob(new).mean() - 0.03
            assert float(model.shares.sum()) == pytest.approx(1.0, abs=1e-5)
            assert len(model.shares) < sum(k for k in classical.SIZES if k <= 600 / classical.ROWS_A_COMPONENT)

    def test_one_normal_needs_one_component(self) -> None:
        z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        model = fitted(Mixture(2), z, held_out=torch.randn(1000, 2, generator=torch.Generator().manual_seed(1)))
        new = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(2))
        entropy = 1 + math.log(2 * math.pi)
        assert -float(model.log_prob(new).mean()) == pytest.approx(entropy, abs=0.02)

    def test_wide_rows_get_a_model_of_their_size(self) -> None:
        z = torch.randn(300, 1500, generator=torch.Generator().manual_seed(0))
        assert fitted(Mixture(1500), z, noise=0.3, held_out=z[:50]).factors.shape[1:] == (1500, 1)
        assert fitted(Mixture(600), z[:, :600], noise=0.3, held_out=z[:50, :600]).factors.shape == (1, 600, 600)

    def test_em_sees_so_many_rows_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        z = rows(500, 2)
        everything = fitted(Mixture(2, components=2), z).means.clone()
        monkeypatch.setattr(classical, "MAX_ROWS", 100)
        assert not torch.equal(fitted(Mixture(2, components=2), z).means, everything)

    def test_em_that_does_not_end_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classical, "ITERATIONS", 1)
        monkeypatch.setattr(classical, "TOLERANCE", 1e-9)
        with pytest.warns(ConvergenceWarning, match=r"within 1 iterations for components=5"):
            detector = MixtureDetector(components=5, random_state=0, verbose=False, contamination=0.1).fit(rows(300, 2))
        assert not detector.converged_
        monkeypatch.undo()
        assert MixtureDetector(components=5, random_state=0, verbose=False).fit(rows(300, 2)).converged_


def test_stacking_finds_the_shares_of_a_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator)
    x = torch.where(torch.rand(20_000, generator=generator) < 0.25, 0.1 * x, x).double()
    parts = torch.stack([torch.distributions.Normal(0.0, scale).log_prob(x) for scale in (0.1, 1.0, 5.0)])
    assert stacked(parts).tolist() == pytest.approx([0.25, 0.75, 0.0], abs=0.02)


class TestKernel:
    @pytest.mark.parametrize("dim", [1, 4, 40])
    def test_density_equals_scikit_learns(self, dim: int) -> None:
        z, new = rows(1300, dim), rows(300, dim, seed=1)
        weight = torch.rand(1300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
        model = fitted(Kernel(dim, bandwidth=0.2), z, weight=weight)
        # One leaf, for its sums over many lose all digits here.
        theirs = KernelDensity(bandwidth=0.2, leaf_size=1300).fit(z.double(), sample_weight=weight.numpy())
        np.testing.assert_allclose(model.log_prob(new).numpy(), theirs.score_samples(new.double()), rtol=1e-4)

    def test_rows_close_to_a_far_center_keep_their_digits(self) -> None:
        z = torch.cat([rows(50, 2), torch.full((1, 2), 700.0)])
        model = fitted(Kernel(2, bandwidth=0.05), z)
        near = model.log_prob(torch.tensor([[700.0, 700.05], [700.0, 700.1]]))
        assert float(near[0] - near[1]) == pytest.approx(1.5, abs=1e-2)

    def test_a_weight_is_a_row_so_many_times(self) -> None:
        z = rows(60, 3)
        weight = torch.arange(60, dtype=torch.float64) % 4
        kept = weight > 0
        one = fitted(Kernel(3, bandwidth=0.3), z[kept], weight=weight[kept])
        many = fitted(Kernel(3, bandwidth=0.3), z.repeat_interleave(weight.long(), 0))
        new = rows(50, 3, seed=1)
        torch.testing.assert_close(one.log_prob(new), many.log_prob(new))
        assert not torch.allclose(one.log_prob(new), fitted(Kernel(3, bandwidth=0.3), z).log_prob(new))

    def test_weights_decide_the_bandwidth_too(self) -> None:
        z = torch.cat([0.05 * rows(300, 2), rows(300, 2)])
        heavy = torch.cat([torch.full((300,), 50.0), torch.ones(300)]).double()
        narrow, even = (fitted(Kernel(2), z, weight=weight).scales[0] for weight in (heavy, None))
        assert narrow < 0.8 * even

    def test_the_detector_hands_weights_on(self) -> None:
        X, weight = rows(200, 2).numpy(), np.where(np.arange(200) < 100, 5.0, 1.0)
        options: dict[str, Any] = {"random_state": 0, "verbose": False, "contamination": 0.1, "noise": 0.1}
        detector = KernelDetector(**options).fit(X, sample_weight=weight)
        shares = detector.model_.shares.numpy()
        assert shares[:100] == pytest.approx(5 * shares[100:])
        given = KernelDetector(**options).fit(X, X_val=rows(100, 2, seed=3).numpy())
        assert "held_out_nats" in given.history_[0]

    def test_the_bandwidth_is_the_likeliest(self) -> None:
        z, held_out, new = rows(800, 2), rows(300, 2, seed=1), rows(3000, 2, seed=2)
        for given in ({}, {"held_out": held_out}):
            chosen = float(fitted(Kernel(2), z, **given).log_prob(new).mean())
            others = [
                float(fitted(Kernel(2, bandwidth=width), z).log_prob(new).mean()) for width in np.geomspace(0.02, 2, 20)
            ]
            assert chosen > max(others) - 0.02
            assert chosen > min(others) + 1.0

    def test_noise_is_the_least_width_of_numbers_alone(self) -> None:
        z = 0.01 * rows(300, 2)
        model = fitted(Kernel(2, bandwidth=0.1), z, noise=torch.tensor([0.4, 0.0]))
        assert model.scales.tolist() == pytest.approx([math.hypot(0.4, 0.1), 0.1])
        searched = fitted(Kernel(2), rows(300, 2), noise=0.5)
        assert (searched.scales >= 0.5).all()

    def test_long_tables_are_thinned(self) -> None:
        model = fitted(Kernel(2, bank=100, bandwidth=0.3), rows(300, 2))
        assert model.centers.shape == (100, 2)
        assert KernelDetector(bank=50, random_state=0, verbose=False).fit(rows(200, 2)).model_.centers.shape == (50, 2)

    def test_samples_scatter_around_the_centers(self) -> None:
        z = rows(400, 2)
        model = fitted(Kernel(2, bandwidth=0.5), z)
        with runtime.seeded(0):
            drawn = model.sample(40_000)
        torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.03, rtol=0.0)
        expected = torch.cov(z.t(), correction=0) + 0.25 * torch.eye(2)
        torch.testing.assert_close(torch.cov(drawn.t()), expected, atol=0.05, rtol=0.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mixture(2, components=0), "components=0.*at least 1"),
        (lambda: Mixture(2, components="many"), "components='many'.*integer"),  # type: ignore[arg-type]
        (lambda: Mixture(2, covariance="round"), "covariance='round'.*'auto', 'full', 'tied', 'diag'"),
        (lambda: Kernel(2, bandwidth=0.0), r"bandwidth=0\.0.*at least 0\.01 and at most 4"),
        (lambda: Kernel(2, bandwidth="scott"), "bandwidth='scott'"),  # type: ignore[arg-type]
        (lambda: Kernel(2, bank=0), "bank=0.*at least 1"),
    ],
)
def test_invalid_options_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MixtureDetector, {"components": 3}),
        (MixtureDetector, {"covariance": "diag"}),
        (MixtureDetector, {"covariance": "tied"}),
        (KernelDetector, {"bandwidth": 0.9}),
        (KernelDetector, {"bank": 100}),
        (MixtureDetector, {"noise": 0.5}),
        (KernelDetector, {"noise": 0.9}),
    ],
)
def test_every_option_changes_scores(kind: Any, options: dict[str, Any]) -> None:
    X = rows(300, 3).numpy()
    common: dict[str, Any] = {"random_state": 0, "verbose": False, "contamination": 0.1}
    base, other = kind(**common).fit(X), kind(**common, **options).fit(X)
    assert np.abs(base.score_samples(X) - other.score_samples(X)).max() > 0.01


def test_rows_left_out_do_not_shape_the_density() -> None:
    X = np.vstack([rows(300, 2), np.full((20, 2), 6.0) + 0.1 * rows(20, 2).numpy()])
    for kind in (MixtureDetector, KernelDetector):
        common: dict[str, Any] = {"random_state": 0, "verbose": False, "contamination": 0.1}
        naive, robust = kind(**common).fit(X), kind(**common, robust=0.07).fit(X)
        assert robust.score_samples(X[-20:]).max() < naive.score_samples(X[-20:]).min()


def test_what_the_models_can_do() -> None:
    for detector in (MixtureDetector(), KernelDetector()):
        model = detector.build(Space.real(2))
        assert {"log_prob", "fit_closed_form"} <= abilities(model)
        assert model.likelihood == "exact"
        assert not list(model.parameters())
        assert not hasattr(detector, "partial_fit")
        assert not {"max_epochs", "learning_rate"} & set(detector.get_params())
