"""GANs: three networks trained in turn, a bounded discriminator, and what is measured of a game."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import anomgen
from anomgen import runtime
from anomgen.detector import ConditionalDetector
from anomgen.detector.state import build_model, load_arrays, module_arrays
from anomgen.families.gan import GAN, LOSSES, OLDER, GANDetector
from anomgen.generative import Space, abilities
from anomgen.nn.convolution import Layer
from anomgen.nn.likeness import likeness
from anomgen.nn.spectral import SpectralMLP, frozen, steepness
from anomgen.train import Callback, Run

every_loss = pytest.mark.parametrize("loss", LOSSES)


def toy(**options: Any) -> GANDetector:
    """A detector that trains in a fraction of a second."""
    return GANDetector(**{"hidden": (32, 32), "max_epochs": 20, "random_state": 0, "verbose": False, **options})


def clusters(n: int, seed: int = 0) -> np.ndarray:
    """Four clusters in the plane."""
    rng = np.random.default_rng(seed)
    rows: np.ndarray = 2.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[rng.integers(4, size=n)]
    return rows + 0.4 * rng.normal(size=(n, 2))


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def healthy() -> GANDetector:
    return toy(max_epochs=60, contamination=0.01).fit(clusters(1000))


class TestSpectral:
    def test_effective_layers_of_a_trained_discriminator_stretch_nothing(self, healthy: GANDetector) -> None:
        for weight, _ in healthy.model_.critic.layers():
            assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1.0, abs=1e-3)
        plain = toy(loss="minimax", contamination=0.01).fit(clusters(400))
        assert max(float(torch.linalg.matrix_norm(w.detach(), 2)) for w, _ in plain.model_.critic.layers()) > 1.5

    @pytest.mark.parametrize("widths", [(1, 1, (1,)), (3, 2, (200, 5)), (50, 1, (64, 64))])
    def test_any_weights_are_normalized_without_having_been_seen(
        self, widths: tuple[int, int, tuple[int, ...]]
    ) -> None:
        with runtime.seeded(1):
            network = SpectralMLP(*widths).eval()
            for _ in range(5):
                with torch.no_grad():
                    for parameter in network.parameters():
                        parameter.normal_(std=float(10 ** (4 * torch.rand(()) - 2)))
                for weight, _ in network.layers():
                    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1.0, abs=1e-3)

    def test_evaluation_keeps_nothing_and_training_keeps_directions(self) -> None:
        network = SpectralMLP(3, 1, (8,))
        before = network.get_buffer("direction0").clone()
        network.eval()(torch.ones(3, 2))
        assert torch.equal(network.get_buffer("direction0"), before)
        network.train()(torch.ones(3, 2))
        assert not torch.equal(network.get_buffer("direction0"), before)
        for _ in range(300):
            network(torch.ones(3, 2))
        trained = [weight.detach() for weight, _ in network.layers()]
        exact = [weight.detach() for weight, _ in network.eval().layers()]
        torch.testing.assert_close(trained, exact, atol=1e-3, rtol=1e-3)

    def test_the_whole_network_is_lipschitz(self) -> None:
        with runtime.seeded(0):
            network = SpectralMLP(4, 1, (32, 32)).eval()
        a, b = 3 * rows(500, 4, 1).t(), 3 * rows(500, 4, 2).t()
        change = (network(a) - network(b)).norm(dim=0)
        assert (change <= 1.001 * (a - b).norm(dim=0)).all()


class TestPenalty:
    def test_its_gradient_reaches_the_weights(self) -> None:
        weight = torch.tensor([3.0, 4.0], requires_grad=True)
        found = steepness(lambda x: weight @ x, torch.zeros(2, 3), torch.ones(2, 3))
        assert found.tolist() == pytest.approx([16.0] * 3)
        found.sum().backward()
        assert weight.grad is not None
        # d/dw 3 (|w| - 1)^2 = 6 (|w| - 1) w / |w|
        assert weight.grad.tolist() == pytest.approx([6 * 4 * 0.6, 6 * 4 * 0.8])

    def test_a_trained_critic_has_slope_one_between_real_and_generated_rows(self) -> None:
        X = clusters(600)
        options = {"loss": "wasserstein", "matching": 0.0, "negatives": 0.0, "contamination": 0.01}

        def slopes(**more: Any) -> Tensor:
            detector = toy(max_epochs=60, **options, **more).fit(X)
            model: Any = detector.model_
            real = torch.from_numpy(detector.encoder_.encode(X).z)
            with runtime.seeded(3):
                between = torch.lerp(real, model.sample(len(real)).detach(), torch.rand(len(real), 1)).requires_grad_()
            model.realness(between).sum().backward()
            assert between.grad is not None
            return between.grad.norm(dim=1)

        assert float((slopes() - 1).abs().mean()) < 0.25
        assert float((slopes(penalty=0.0) - 1).abs().mean()) > 0.35


class TestTraining:
    def test_objectives_move_disjoint_networks(self) -> None:
        model = GAN(3, critic_steps=2)
        groups = [{id(p) for p in parameters} for parameters, _ in model.objectives()]
        assert len(groups) == 4
        assert groups[0] == groups[1]
        assert not groups[0] & groups[2]
        assert not groups[0] & groups[3]
        assert not groups[2] & groups[3]
        assert set.union(*groups) == {id(p) for p in model.parameters()}

    @every_loss
    def test_each_objective_leaves_the_other_networks_alone(self, loss: str) -> None:
        model, z = GAN(3, loss=loss, hidden=(8,)), rows(20, 3)
        own = {model.loss: model.critic, model.generator_loss: model.generator, model.encoder_loss: model.encoder}
        for objective, network in own.items():
            model.zero_grad()
            objective(z).mean().backward()
            touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
            assert [getattr(model, name) for name in touched] == [network]
            # A bias of all rows alike moves no comparison of two critics' values.
            assert sum(int((p.grad != 0).any()) for p in network.parameters() if p.grad is not None) >= 3
        assert all(p.requires_grad for p in model.parameters())

    @every_loss
    @pytest.mark.parametrize("space", [Space.real(3), Space.pixels(1, 5, 6)], ids=["table", "images"])
    def test_bfloat16_training_is_finite(self, space: Space, loss: str) -> None:
        model = GAN(space, loss=loss, hidden=(8,), channels=2)
        for parameters, objective in model.objectives():
            with torch.autocast("cpu", torch.bfloat16):
                value = objective(rows(20, space.dim).clamp(-1, 1))
            value.float().mean().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)

    def test_frozen_networks_thaw_after_an_error(self) -> None:
        network = nn.Linear(2, 2)
        with pytest.raises(RuntimeError), frozen(network):  # noqa: PT012
            assert not network.weight.requires_grad
            raise RuntimeError
        assert network.weight.requires_grad

    @every_loss
    def test_every_loss_learns_where_the_rows_are(self, loss: str) -> None:
        detector = toy(loss=loss, max_epochs=40, contamination=0.01).fit(clusters(600))
        drawn = detector.sample(1000, random_state=0)
        assert np.abs(drawn.mean(0)).max() < 0.4
        assert drawn.std(0) == pytest.approx([2.04, 2.04], rel=0.2)
        assert roc_auc_score(np.r_[np.ones(500), np.zeros(500)], detector.score_samples(with_noise(500))) > 0.85

    def test_older_generators_are_kept_for_training_alone(self) -> None:
        model = GAN(2, hidden=(8,))
        names = set(model.state_dict())
        for step in range(101):
            model.on_epoch(step / 101)
            with torch.no_grad():
                model.generator.get_parameter("bias0").add_(1.0)
        assert len(model._older) == OLDER
        places = [float(older.get_parameter("bias0")[0]) for older in model._older]
        assert places == sorted(set(places))
        assert set(model.state_dict()) == names
        assert len(list(model.parameters())) == len({id(p) for group, _ in model.objectives() for p in group})
        model.on_epoch(0.0)
        assert not model._older

    def test_negatives_come_from_noise_and_from_older_generators(self) -> None:
        model, z = GAN(2, negatives=0.5, hidden=(8,)), torch.full((400, 2), 50.0)
        model.on_epoch(0.0)
        with torch.no_grad():
            model.generator.get_parameter("bias1").fill_(-90.0)
            model.on_epoch(0.5)
            model.generator.get_parameter("bias1").fill_(9.0)
            found = model._negatives(*model.condition.split(z)).mean(0)
        assert [int(((found - place).abs() < 9).sum()) for place in (50, -90, 9)] == [100, 100, 200]

    def test_a_saved_state_is_the_whole_model(self, healthy: GANDetector) -> None:
        again = build_model(healthy)
        load_arrays(again, module_arrays(healthy.model_))
        z = rows(300, 2)
        for name in ("realness", "features", "reconstruct", "monitor"):
            assert torch.equal(getattr(again, name)(z), getattr(healthy.model_, name)(z))


def with_noise(n: int) -> np.ndarray:
    """New rows of the clusters, then rows spread evenly around them but in none."""
    rng = np.random.default_rng(5)
    other = rng.uniform(-6, 6, (40 * n, 2))
    return np.vstack([clusters(n, 9), other[(np.abs(np.abs(other) - 2) > 1.2).any(1)][:n]])


class TestScores:
    def test_abilities(self) -> None:
        found = abilities(GAN(2))
        assert {"features", "realness", "reconstruct", "sample", "measure", "complaints"} <= found
        assert not {"log_prob", "energy"} & found

    @pytest.mark.parametrize("statistic", ["features", "reconstruction", "discriminator"])
    def test_statistics(self, statistic: str, healthy: GANDetector) -> None:
        detector = toy(max_epochs=60, contamination=0.01, statistic=statistic).fit(clusters(1000))
        scores = detector.score_samples(with_noise(500))
        if statistic == "features":
            assert np.array_equal(scores, healthy.score_samples(with_noise(500)))
            assert roc_auc_score(np.r_[np.ones(500), np.zeros(500)], scores) > 0.95
        z = torch.from_numpy(detector.encoder_.encode(with_noise(500)).z)
        direct = {
            "reconstruction": lambda: -detector.model_.monitor(z),
            "discriminator": lambda: detector.model_.realness(z),
            "features": lambda: torch.from_numpy(scores),
        }[statistic]()
        assert scores == pytest.approx(direct.detach().numpy(), rel=1e-4, abs=1e-4)

    def test_reconstructions_are_close_in_one_pass_and_bounded_far_away(self, healthy: GANDetector) -> None:
        model = healthy.model_
        near = torch.from_numpy(healthy.encoder_.encode(clusters(500, 3)).z)
        with torch.no_grad():
            assert float(model.monitor(near).mean()) < 0.1
            far = model.reconstruct(1000.0 * rows(50, 2))
        assert float(far.abs().max()) < 20

    def test_features_swing_less_than_the_logit_over_epochs(self) -> None:
        test, labels = with_noise(400), np.r_[np.ones(400), np.zeros(400)]
        found: dict[str, list[float]] = {"features": [], "discriminator": []}

        class Watch(Callback):
            def on_epoch_end(self, run: Run) -> None:
                model: Any = run.model
                encoder = run.detector.encoder_
                real, z = (torch.from_numpy(encoder.encode(x).z) for x in (clusters(400), test))
                with torch.no_grad(), runtime.seeded(0):
                    model.eval()
                    bank, features = model.features(real), model.features(z)
                    logit = model.realness(z)
                    model.train()
                near = torch.cdist(features, bank).topk(5, largest=False).values.mean(1)
                found["features"].append(float(roc_auc_score(labels, -near)))
                found["discriminator"].append(float(roc_auc_score(labels, logit)))

        toy(max_epochs=100, contamination=0.01, callbacks=(Watch(),)).fit(clusters(400))
        after = {name: np.array(values[len(values) // 5 :]) for name, values in found.items()}
        assert len(after["features"]) > 10
        assert np.ptp(after["features"]) < 0.05
        assert np.ptp(after["features"]) < 0.5 * np.ptp(after["discriminator"])
        assert after["features"].mean() > after["discriminator"].mean()

    def test_conditions_are_inputs_of_all_three(self) -> None:
        rng = np.random.default_rng(0)
        c = rng.integers(2, size=1000).astype(float)
        X = np.column_stack([rng.normal(size=1000) + 6 * c, c])
        detector = toy(condition=1, max_epochs=60, contamination=0.01).fit(X)
        for value in (0.0, 1.0):
            drawn = detector.sample(500, condition=value)
            assert (drawn[:, 1] == value).all()
            assert drawn[:, 0].mean() == pytest.approx(6 * value, abs=0.6)
        low, high = (detector.score_samples(X, condition=np.full(1000, value)) for value in (0.0, 1.0))
        assert ((low > high) == (c == 0)).mean() > 0.95
        model: Any = detector.model_
        z = torch.tensor([[0.2, 0.0], [0.2, 1.0]])
        for ability in (model.features, model.realness, lambda z: model.reconstruct(z)[:, 0]):
            first, second = ability(z)
            assert not torch.allclose(first, second)


class TestHealth:
    def test_a_healthy_game_is_measured_and_not_reported(self, healthy: GANDetector) -> None:
        last = healthy.history_[-1]
        assert {"logit_gap", "told_apart", "precision", "recall", "coverage", "different_bins"} <= set(last)
        assert last["coverage"] > 0.6
        assert last["different_bins"] < 0.5
        assert healthy.converged_
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            toy(max_epochs=60, contamination=0.01).fit(clusters(1000))

    def test_a_collapsed_generator_is_reported(self) -> None:
        class Collapsed(GAN):
            def _draw(self, n: int) -> Tensor:
                return super()._draw(1).expand(-1, n) * 0.0

        class CollapsedDetector(GANDetector):
            def build(self, space: Space) -> GAN:
                return Collapsed(space, hidden=self.hidden)

        detector = CollapsedDetector(hidden=(32, 32), max_epochs=20, random_state=0, verbose=False, contamination=0.01)
        with pytest.warns(ConvergenceWarning, match="the generator has collapsed"):
            detector.fit(clusters(600))
        assert not detector.converged_
        assert detector.history_[-1]["coverage"] < 0.1

    def test_the_end_of_the_training_decides_and_one_bad_check_does_not(self) -> None:
        model = GAN(2)
        good = {"coverage": 0.9, "different_bins": 0.1, "told_apart": 0.6}
        bad = {"coverage": 0.02, "different_bins": 0.9, "told_apart": 0.6}
        assert model.complaints([]) == []
        assert model.complaints([{"epoch": 1}]) == []
        assert model.complaints([bad] * 6 + [good] * 4) == []
        assert model.complaints([good] * 9 + [bad]) == []
        assert len(model.complaints([good] * 6 + [bad] * 4)) == 1
        assert len(model.complaints([bad])) == 1
        (won,) = model.complaints([{**good, "told_apart": 0.999}])
        assert "discriminator has won" in won

    def test_measures_of_like_and_unlike_rows(self) -> None:
        a, b = rows(500, 3, 1), rows(500, 3, 2)
        same = likeness(a, b)
        assert min(same["precision"], same["recall"], same["coverage"]) > 0.85
        assert same["different_bins"] < 0.25
        half = likeness(a, torch.where(b[:, :1] > 0, b, -b))
        assert half["precision"] > 0.85
        assert half["coverage"] < 0.8
        assert half["different_bins"] > 0.5
        point = likeness(a, b[:1].expand(500, 3))
        assert point["coverage"] < 0.1
        assert likeness(a, a + 100) == {"precision": 0.0, "recall": 0.0, "coverage": 0.0, "different_bins": 1.0}
        assert likeness(a[:5], b) == {}

    def test_measuring_changes_no_weight(self) -> None:
        class Silent(GAN):
            def measure(self, z: Tensor) -> dict[str, float]:
                return {}

        class SilentDetector(GANDetector):
            def build(self, space: Space) -> GAN:
                return Silent(space, hidden=self.hidden)

        a = toy(contamination=0.01).fit(clusters(300))
        b = SilentDetector(hidden=(32, 32), max_epochs=20, random_state=0, verbose=False, contamination=0.01)
        assert np.array_equal(b.fit(clusters(300)).score_samples(clusters(50, 1)), a.score_samples(clusters(50, 1)))


class TestOptions:
    def test_every_option_changes_a_score(self) -> None:
        X = clusters(300)
        base = toy(max_epochs=5, loss="wasserstein", contamination=0.01)
        others = {
            "loss": "minimax",
            "latent": 3,
            "components": 2,
            "hidden": (32,),
            "channels": 6,
            "critic_steps": 2,
            "penalty": 1.0,
            "matching": 0.0,
            "negatives": 0.0,
        }
        own = {field.name for field in fields(GANDetector)} - {field.name for field in fields(ConditionalDetector)}
        assert own == set(others)
        scores = base.fit(X).score_samples(X)
        channels = others.pop("channels")
        for name, value in others.items():
            other = toy(**{"max_epochs": 5, "loss": "wasserstein", "contamination": 0.01, name: value}).fit(X)
            assert not np.allclose(other.score_samples(X), scores), name
        features = [GAN(Space.pixels(1, 8, 8), channels=c).features(torch.zeros(1, 64)) for c in (4, channels)]
        assert features[0].shape != features[1].shape

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("loss", "logistic"),
            ("latent", 0),
            ("components", 0),
            ("hidden", ()),
            ("channels", 0),
            ("critic_steps", 0),
            ("penalty", -1.0),
            ("matching", -1.0),
            ("negatives", 1.5),
        ],
    )
    def test_bad_options_are_named(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{name}="):
            GAN(2, **{name: value})

    def test_robust_training_leaves_out_rows_that_are_reconstructed_badly(self) -> None:
        rng = np.random.default_rng(0)
        X = np.vstack([clusters(900), rng.uniform(-9, 9, (150, 2))])
        plain, robust = (toy(max_epochs=60, robust=share, contamination=0.01).fit(X) for share in (0.0, 0.15))
        stray = [
            float((np.abs(np.abs(d.sample(2000, random_state=0)) - 2) > 1.5).any(1).mean()) for d in (plain, robust)
        ]
        assert stray[1] < 0.5 * stray[0]


COLOUR = Space.pixels(3, 6, 5)
LABELLED = Space(
    COLOUR.shape,
    (*COLOUR.names, "label"),
    ("pixel",) * 90 + ("cell",),
    ((),) * 90 + ((0.0, 1.0, 2.0),),
    (False,) * 91,
    (0.0,) * 90 + (0.01,),
    (False,) * 90 + (True,),
)
"""Colour images of one of three kinds."""


def labelled(n: int) -> Tensor:
    z = 2 * torch.rand(n, 91, generator=torch.Generator().manual_seed(0)) - 1
    z[:, -1] = torch.arange(float(n)) % 3
    return z


def digits(n: int) -> np.ndarray:
    """Images of 8 x 8 pixels, of 8 bits."""
    images: np.ndarray = load_digits().images[:n]
    return np.rint(images * 255 / 16).astype(np.uint8)


class TestImages:
    @every_loss
    def test_each_objective_of_images_trains_its_own_network(self, loss: str) -> None:
        with runtime.seeded(0):
            model, z = GAN(LABELLED, loss=loss, channels=4, latent=3, components=2), labelled(12)
            own = {model.loss: model.critic, model.generator_loss: model.generator, model.encoder_loss: model.encoder}
            for objective, network in own.items():
                model.zero_grad()
                value = objective(z)
                assert value.shape == (12,)
                assert value.isfinite().all()
                value.mean().backward()
                touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
                assert [getattr(model, name) for name in touched] == [network]
                # A bias of all rows alike moves no comparison of two critics' values.
                moved = [p for p in network.parameters() if p.grad is not None and (p.grad != 0).any()]
                assert len(moved) >= len(list(network.parameters())) - 1

    def test_abilities_depend_on_the_image_and_on_what_is_given(self) -> None:
        with runtime.seeded(0):
            model = GAN(LABELLED, channels=4).eval()
            drawn = model.sample(6, labelled(6)[:, -1:])
        z = labelled(6)
        other = z.clone()
        other[:, -1] = (z[:, -1] + 1) % 3
        assert drawn.shape == (6, 91)
        assert torch.equal(drawn[:, -1], z[:, -1])
        assert drawn[:, :-1].abs().max() <= 1
        with torch.no_grad():
            for ability in (model.features, model.realness, lambda z: model.reconstruct(z)[:, :-1], model.monitor):
                found = ability(z)
                assert len(found) == 6
                assert not torch.allclose(ability(other), found)
                torch.testing.assert_close(ability(z[4:5]), found[4:5], rtol=1e-4, atol=1e-5)
            assert torch.equal(model.reconstruct(z)[:, -1], z[:, -1])
            assert set(model.measure(labelled(40))) >= {"coverage", "told_apart", "different_bins"}

    def test_defaults_of_images(self) -> None:
        table, image = GAN(784), GAN(Space.pixels(1, 28, 28))
        assert (table.latent_dim, table.work, table.rate, table.slope) == (16, 0, 1.0, 10.0)
        assert (image.latent_dim, image.slope) == (64, 1.0)
        assert image.rate < 1
        assert image.work == image.generator.work + image.encoder.work < 10e6
        assert image.features(torch.zeros(2, 784)).shape[1] <= 4096

    def test_negatives_are_images_noise_around_them_and_older_ones(self) -> None:
        with runtime.seeded(0):
            model = GAN(Space.pixels(1, 6, 6), negatives=0.5, channels=2)
            model.on_epoch(0.0)
            with torch.no_grad():
                model.generator.get_parameter("last.bias").fill_(-9.0)
                model.on_epoch(0.5)
                model.generator.get_parameter("last.bias").fill_(9.0)
                found = model._negatives(*model.condition.split(torch.zeros(400, 36)))
        assert [int(found.mean(0).isclose(torch.tensor(place), atol=0.1).sum()) for place in (-1.0, 1.0)] == [100, 200]
        assert float(found[:, :100].std(0).median()) == pytest.approx(0.22, abs=0.1)

    def test_digits_are_told_from_what_they_are_not(self, tmp_path: Any) -> None:
        images = digits(1797)
        train, test = images[:1500], images[1500:]
        options = {"channels": 6, "max_epochs": 16, "contamination": 0.01, "statistic": "features"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            detector = toy(learning_rate=1e-2, **options).fit(train)
        labels = np.r_[np.ones(len(test)), np.zeros(len(test))]
        for other in (255 - test, test[:, ::-1], test.transpose(0, 2, 1)):
            scores = detector.score_samples(np.concatenate([test, other]))
            assert roc_auc_score(labels, scores) > 0.8
        model: Any = detector.model_
        for layer in [*model.critic.layers, model.critic.head]:
            assert isinstance(layer, Layer)
            assert float(torch.linalg.matrix_norm(layer.operator().detach().flatten(1), 2)) <= 1.05
        z = torch.from_numpy(detector.encoder_.encode(test).z)
        with torch.no_grad():
            assert float(model.monitor(z).mean()) < 0.95 * float((z - z.mean(0)).square().mean())
        drawn = detector.sample(100, random_state=0)
        assert drawn.shape == (100, 8, 8)
        assert np.abs(drawn.mean(0) - train.mean(0)).mean() < 40
        assert drawn.std(0).mean() > 0.4 * train.std(0).mean()
        detector.save(tmp_path / "m")
        assert np.array_equal(anomgen.load(tmp_path / "m").score_samples(test), detector.score_samples(test))
