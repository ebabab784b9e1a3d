"""Variational autoencoders: bounds that hold, terms that are paid, gaps left out, and what every option changes."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

import anomgen
from anomgen import runtime
from anomgen.families.vae import VAE, VAEDetector
from anomgen.generative import Space, abilities
from anomgen.nn.latent import LATENTS, make_latent
from anomgen.nn.observation import Observation

every_latent = pytest.mark.parametrize("latent", LATENTS)
QUICK: dict[str, Any] = {"contamination": 0.1, "random_state": 0, "verbose": False}
MIXED = Space(
    (4,),
    ("x", "c", "y", "y is missing"),
    ("real", "cell", "real", "cell"),
    ((), (-0.5, 0.5, 2.0), (), (1.0,)),
    (False, False, True, False),
    (0.0, 0.01, 0.0, 0.0),
)


def make(space: int | Space, *, seed: int = 0, scale: float = 0.3, **options: Any) -> VAE:
    """A small model, its weights disturbed by `scale`."""
    with runtime.seeded(seed):
        vae = VAE(space, **{"latent_dim": 2, "hidden": (16,), "categories": 3, **options})
        with torch.no_grad():
            vae.observation.log_scale.zero_()
            for parameter in vae.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return vae


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def mixed_rows() -> Tensor:
    nan = math.nan
    return torch.tensor([[0.3, 0, 1.0, 0], [-1.0, 2, nan, 1], [2.0, 1, -0.5, 0], [0.0, 3, 0.4, 0], [0.1, 0, nan, 0]])


def train(vae: VAE, z: Tensor, steps: int, rate: float = 5e-3) -> VAE:
    optimizer = torch.optim.Adam(vae.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        vae.on_epoch(step / steps)
        optimizer.zero_grad()
        vae.loss(z[torch.randint(len(z), (256,))]).mean().backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return vae


def digits(n: int) -> np.ndarray:
    """Images of 8 x 8 pixels, of 8 bits."""
    images: np.ndarray = load_digits().images[:n]
    return np.rint(images * 255 / 16).astype(np.uint8)


def pixels(images: np.ndarray) -> Tensor:
    """Their rows in model space."""
    return torch.from_numpy((2.0 * images.reshape(len(images), -1) + 1) / 256 - 1).float()


def curve(n: int, seed: int = 0) -> np.ndarray:
    """One cause, four columns."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=n)
    return np.stack([t, np.sin(2 * t), t**2, -t], 1) + 0.1 * rng.normal(size=(n, 4))


def test_a_bound_holds_on_average_over_rows_and_banks() -> None:
    """Against the likelihood by quadrature over the one code; more draws are tighter."""
    vae = make(2, latent_dim=1, scale=0.1).double()
    z = 1.5 * rows(100, 2).double()
    grid = torch.linspace(-9, 9, 2001).double()
    with torch.no_grad(), runtime.seeded(1):
        outputs = vae.decoder(grid[None])
        joint = torch.stack([vae.observation.log_prob(outputs, row[:, None].expand(-1, 2001)) for row in z])
        truth = torch.logsumexp(joint - 0.5 * grid**2 - 0.5 * math.log(2 * math.pi), 1) + math.log(18 / 2000)
        found = {}
        for draws in (1, 8, 64):
            scores = []
            for _ in range(60):
                vae.bank = torch.randn(1, draws, 1).double()
                scores.append(vae.log_prob(z))
            found[draws] = torch.stack(scores).mean().item()
        elbo = torch.stack([vae.elbo(z) for _ in range(60)]).mean().item()
    assert elbo == pytest.approx(found[1], abs=0.3)
    assert found[1] + 0.05 < found[8] < found[64] < truth.mean().item() + 0.005
    assert found[64] == pytest.approx(truth.mean().item(), abs=0.1)


@pytest.mark.parametrize("latent", ["horseshoe", "rectified", "piecewise"])
def test_bounds_of_other_priors_approach_the_likelihood_by_brute_force(latent: str) -> None:
    vae = make(2, latent=latent, latent_dim=1, draws=8000, scale=0.1).double()
    z = rows(20, 2).double()
    with torch.no_grad(), runtime.seeded(1):
        code = vae.code.sample(200_000, z)
        outputs = vae.decoder(code)
        truth = torch.stack(
            [vae.observation.log_prob(outputs, r[:, None].expand(-1, 200_000)).logsumexp(0) for r in z]
        ) - math.log(200_000)
    torch.testing.assert_close(vae.log_prob(z), truth, atol=0.1, rtol=0.0)


def test_categorical_codes_are_scored_exactly() -> None:
    vae = make(2, latent="discrete")
    assert vae.likelihood == "exact"
    assert vae.passes == 9
    axis = torch.linspace(-12, 12, 401)
    with torch.inference_mode():
        mass = vae.log_prob(torch.cartesian_prod(axis, axis)).double().exp().sum().item() * 0.06**2
    assert mass == pytest.approx(1.0, abs=0.01)
    codes, log_share = vae.code.enumerate()  # type: ignore[operator]
    z = rows(5, 2)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_share),
        torch.distributions.Independent(
            torch.distributions.Normal(vae.decoder(codes).t(), vae.observation.log_scale_of().exp().t()), 1
        ),
    )
    torch.testing.assert_close(vae.log_prob(z), mixture.log_prob(z), atol=1e-4, rtol=1e-4)


def test_a_missing_value_is_marginalized() -> None:
    """The exact likelihood without a level is the sum over its levels, without a number the integral over it."""
    vae = make(MIXED, latent="discrete")
    z = mixed_rows()[2:3]
    with torch.no_grad():
        levels = z.repeat(4, 1)
        levels[:, 1] = torch.arange(4.0)
        without = z.clone()
        without[:, 1] = math.nan
        assert vae.log_prob(without).item() == pytest.approx(vae.log_prob(levels).logsumexp(0).item(), abs=1e-5)
        grid = torch.linspace(-20, 20, 4001)
        numbers = z.repeat(4001, 1)
        numbers[:, 2] = grid
        without = z.clone()
        without[:, 2] = math.nan
        integral = vae.log_prob(numbers).logsumexp(0) + math.log(0.01)
        assert vae.log_prob(without).item() == pytest.approx(integral.item(), abs=1e-3)


def test_the_encoder_is_told_what_is_missing() -> None:
    vae = make(MIXED)
    known, gap = mixed_rows()[2:3], mixed_rows()[2:3]
    known[:, 2], gap[:, 2] = 0.0, math.nan
    assert not torch.equal(vae.latent(known), vae.latent(gap))
    # In a column that had no gap in training one looks like the mean, and has no term.
    known[:, 0], gap = 0.0, known.clone()
    gap[:, 0] = math.nan
    assert torch.equal(vae.latent(known), vae.latent(gap))
    assert vae.log_prob(gap).isfinite()
    assert (vae.log_prob(gap) != vae.log_prob(known)).all()


@pytest.mark.parametrize("decoder", ["gaussian", "student"])
def test_decoder_likelihoods_equal_torch_distributions(decoder: str) -> None:
    with runtime.seeded(0):
        observation = Observation(MIXED, decoder)
        outputs = torch.randn(observation.width, 5)
        with torch.no_grad():
            for parameter in observation.parameters():
                parameter.add_(torch.randn_like(parameter))
    x, scale = mixed_rows().t(), observation.log_scale_of().exp()
    if decoder == "gaussian":
        law: Any = torch.distributions.Normal(outputs[:2], scale)
    else:
        law = torch.distributions.StudentT(observation.freedom().expand(2, 5), outputs[:2], scale)
    numbers = law.log_prob(x[[0, 2]].nan_to_num(0.0)).masked_fill(x[[0, 2]].isnan(), 0.0).sum(0)
    shares = torch.cat([outputs[2:5].softmax(0) * 0.99, torch.full((1, 5), 0.01)])
    levels = shares.gather(0, x[1:2].long()).log() + outputs[5:].log_softmax(0).gather(0, x[3:].long())
    torch.testing.assert_close(observation.log_prob(outputs, x), numbers + levels[0], atol=1e-5, rtol=1e-5)
    drawn = observation.sample(outputs[:, :1].expand(-1, 20_000))
    centre = outputs[:2, 0]
    torch.testing.assert_close(drawn[[0, 2]].median(1).values, centre.detach(), atol=0.2, rtol=0.0)
    assert (drawn[1] == 0).double().mean().item() == pytest.approx(outputs[2:5, 0].softmax(0)[0].item(), abs=0.02)


def test_a_reconstruction_misses_what_the_decoder_does_not_expect() -> None:
    vae = make(MIXED)
    z = mixed_rows()
    missed = z - vae.reconstruct(z)
    x = z.t()
    outputs = vae.decoder(vae.latent(z).t())
    levels = vae.observation.levels.log_prob(outputs[2:], x[[1, 3]]).exp()
    torch.testing.assert_close(missed[:, [1, 3]].t(), levels - 1)
    torch.testing.assert_close(missed[:, 0], z[:, 0] - outputs[0])


@every_latent
def test_loss_is_the_bound_in_nats_and_its_gradient_obeys_the_options(latent: str) -> None:
    z = rows(50, 3)

    def gradient(progress: float = 1.0, **options: Any) -> tuple[float, Tensor]:
        vae = make(3, latent=latent, **options)
        vae.on_epoch(progress)
        vae.code.anneal(1.0)
        with runtime.seeded(0):
            loss = vae.loss(z).mean()
        loss.backward()
        return loss.item(), vae.encoder.dense.layers()[-1][1].grad.clone()  # type: ignore[union-attr]

    vae = make(3, latent=latent)
    vae.code.anneal(1.0)
    with runtime.seeded(0):
        value = -vae.elbo(z).mean().item()
    plain = gradient()
    assert plain[0] == pytest.approx(value, rel=1e-5)
    for options in ({"beta": 3.0}, {"free_bits": 1000.0}, {"progress": 0.2, "warmup": 0.5}):
        found = gradient(**options)
        assert found[0] == pytest.approx(value, rel=1e-5)
        assert not torch.allclose(found[1], plain[1], rtol=1e-2)
    torch.testing.assert_close(gradient(0.2, warmup=0.5)[1], gradient(beta=0.4)[1])
    torch.testing.assert_close(gradient(0.2, warmup=0.0)[1], plain[1])


def test_the_adversary_learns_and_teaches() -> None:
    X = curve(300)
    plain, judged = (
        VAEDetector(adversarial=weight, hidden=(16,), max_epochs=5, **QUICK).fit(X) for weight in (0.0, 1.0)
    )
    groups = [set(map(id, parameters)) for parameters, _ in judged.model_.objectives()]
    assert len(groups) == 2
    assert not groups[0] & groups[1]
    assert len(plain.model_.objectives()) == 1
    assert not np.allclose(plain.score_samples(X), judged.score_samples(X), atol=1e-3)
    z = torch.from_numpy(judged.encoder_.encode(X, codes=True).z)
    vae = make(4, adversarial=1.0)
    discriminator = list(vae.discriminator.parameters())  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(discriminator, 1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        losses.append(vae.discrimination(z).mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_collapse_is_measured_and_reported() -> None:
    X = curve(400)
    options = {
        "latent_dim": 3,
        "hidden": (32,),
        "random_state": 0,
        "contamination": 0.1,
        "verbose": False,
        "max_epochs": 40,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        healthy = VAEDetector(**options).fit(X)
    assert healthy.converged_
    assert all(1 <= entry["active_units"] <= 3 for entry in healthy.history_[1:])
    with pytest.warns(ConvergenceWarning, match="collapsed onto the prior.*lower beta"):
        collapsed = VAEDetector(beta=200.0, warmup=0.0, **options).fit(X)
    assert not collapsed.converged_
    assert collapsed.history_[-1]["active_units"] == 0
    assert healthy.score(X) > collapsed.score(X) + 1.0


@pytest.mark.parametrize("statistic", ["likelihood", "typicality", "reconstruction", "features"])
def test_statistics_find_a_row_off_the_curve(statistic: str) -> None:
    detector = VAEDetector(statistic=statistic, max_epochs=40, hidden=(32,), **QUICK)
    detector.fit(curve(500))
    test = np.vstack([curve(100, seed=1), [[2.0, 2.0, -9.0, 9.0]]])
    assert detector.score_samples(test).argmin() == 100
    assert np.array_equal(detector.score_samples(test[7:9]), detector.score_samples(test)[7:9])


def test_a_feature_step_of_a_pipeline() -> None:
    X = curve(300)
    detector = VAEDetector(latent_dim=2, hidden=(16,), max_epochs=30, **QUICK)
    with pytest.raises(NotFittedError):
        detector.get_feature_names_out()
    codes = detector.fit_transform(X)
    assert codes.shape == (300, 2)
    assert list(detector.get_feature_names_out()) == ["vaedetector0", "vaedetector1"]
    assert np.array_equal(detector.transform(X[5:9]), codes[5:9])
    assert np.array_equal(detector.transform(X[::-1]), codes[::-1])
    frame = detector.set_output(transform="pandas").transform(X)
    assert list(frame.columns) == ["vaedetector0", "vaedetector1"]
    y = X[:, 0] > 0
    assert make_pipeline(VAEDetector(**detector.get_params()), LogisticRegression()).fit(X, y).score(X, y) > 0.9
    shares = VAEDetector(latent="discrete", latent_dim=2, categories=3, max_epochs=2, **QUICK).fit_transform(X)
    assert shares.reshape(300, 2, 3).sum(2) == pytest.approx(1.0, abs=1e-5)


def test_conditions_are_given_to_both_networks() -> None:
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b"], 600, p=[0.7, 0.3])
    shift = np.where(group == "a", -2.0, 2.0)
    frame = pd.DataFrame({"g": group, "x": shift + rng.normal(size=600), "y": rng.normal(size=600) - shift})
    detector = VAEDetector(condition="g", hidden=(32,), max_epochs=80, **QUICK).fit(frame)
    drawn = {g: detector.sample(500, condition=g, random_state=0)["x"].mean() for g in "ab"}
    assert drawn["a"] == pytest.approx(-2.0, abs=0.4)
    assert drawn["b"] == pytest.approx(2.0, abs=0.4)
    given = np.stack([detector.score_samples(frame, condition=g) for g in "ab"])
    shares = np.log([(group == g).mean() for g in "ab"])[:, None]
    total = np.logaddexp(*(given + shares))
    assert detector.score_samples(frame) == pytest.approx(total, abs=1e-5)
    means = np.stack([detector.transform(frame, condition=g) for g in "ab"])
    weight = np.exp(given + shares - total)[..., None]
    assert detector.transform(frame) == pytest.approx((weight * means).sum(0), abs=1e-4)
    assert not np.allclose(means[0], means[1])


def test_the_network_of_other_toolkits_can_be_had() -> None:
    vae = VAE(20, hidden=(128, 64, 32), latent_dim=2, draws=1)
    encoder = [tuple(weight.shape) for weight, _ in vae.encoder.dense.layers()]
    decoder = [tuple(weight.shape) for weight, _ in vae.decoder.dense.layers()]
    assert encoder == [(128, 20), (64, 128), (32, 64), (4, 32)]
    assert decoder == [(32, 2), (64, 32), (128, 64), (20, 128)]


@every_latent
def test_abilities_shapes_and_state(latent: str) -> None:
    vae, z = make(MIXED, latent=latent), mixed_rows()
    assert {"log_prob", "reconstruct", "latent", "features", "elbo"} <= abilities(vae)
    with torch.inference_mode():
        scores = vae.log_prob(z)
        assert scores.shape == vae.monitor(z).shape == vae.loss(z).shape == (5,)
        assert scores.isfinite().all()
        assert vae.latent(z).shape == (5, vae.code.width)
        with runtime.seeded(2):
            drawn = vae.sample(500)
    assert drawn.shape == (500, 4)
    assert set(drawn[:, 1].tolist()) == {0.0, 1.0, 2.0}
    other = make(MIXED, latent=latent, seed=9)
    assert not torch.allclose(other.log_prob(z), scores)
    other.load_state_dict(vae.state_dict())
    assert torch.equal(other.log_prob(z), scores)


@every_latent
def test_saved_detectors_score_the_same(latent: str, mixed: pd.DataFrame, tmp_path: Any) -> None:
    detector = VAEDetector(latent=latent, hidden=(8,), categories=3, max_epochs=2, **QUICK)
    scores = detector.fit(mixed).score_samples(mixed)
    detector.save(tmp_path / "m")
    loaded = anomgen.load(tmp_path / "m")
    assert np.array_equal(loaded.score_samples(mixed), scores)
    assert np.array_equal(loaded.transform(mixed), detector.transform(mixed))


OTHERS: dict[str, Any] = {
    "latent": "piecewise",
    "latent_dim": 3,
    "categories": 3,
    "pieces": 3,
    "hidden": (24,),
    "channels": 6,
    "decoder": "student",
    "beta": 3.0,
    "free_bits": 1.0,
    "warmup": 0.0,
    "draws": 3,
    "adversarial": 1.0,
}


@pytest.mark.parametrize("name", [name for name in inspect.signature(VAE).parameters if name != "space"])
def test_every_option_changes_scores(name: str) -> None:
    X = digits(60) if name == "channels" else curve(200)
    kind = {"categories": "discrete", "pieces": "piecewise"}.get(name, "normal")
    base = {
        "latent": kind,
        "latent_dim": 2,
        "hidden": (16,),
        "channels": 4,
        "max_epochs": 6,
        "random_state": 0,
        "contamination": 0.1,
        "verbose": False,
        "statistic": "reconstruction" if name == "channels" else "likelihood",
    }
    scores = [VAEDetector(**{**base, **changed}).fit(X).score_samples(X) for changed in ({}, {name: OTHERS[name]})]
    assert not np.allclose(*scores, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "gamma"}, "latent='gamma'.*'normal', 'horseshoe'"),
        ({"latent_dim": 0}, "latent_dim=0.*at least 1"),
        ({"decoder": "laplace"}, "decoder='laplace'.*'gaussian', 'student'"),
        ({"beta": -1.0}, "beta=-1.*at least 0"),
        ({"free_bits": "many"}, "free_bits='many'.*number"),
        ({"warmup": 1.5}, r"warmup=1\.5.*at most 1"),
        ({"draws": 0}, "draws=0.*at least 1"),
        ({"adversarial": -0.1}, r"adversarial=-0\.1.*at least 0"),
        ({"hidden": ()}, r"hidden=\(\).*positive integers"),
        ({"channels": 0}, "channels=0.*at least 1"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAE(3, **options)


@every_latent
def test_bfloat16_training_is_finite(latent: str) -> None:
    vae = make(MIXED, latent=latent, adversarial=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vae.loss(mixed_rows()).mean() + vae.discrimination(mixed_rows()).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    image = make(Space.pixels(1, 5, 6), latent=latent, channels=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = image.loss(rows(4, 30).clamp(-1, 1)).mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image.parameters())


LABELLED = Space(
    (3, 6, 5),
    (*Space.pixels(3, 6, 5).names, "label"),
    ("pixel",) * 90 + ("cell",),
    ((),) * 90 + ((0.0, 1.0, 2.0),),
    (False,) * 91,
    (0.0,) * 90 + (0.01,),
    (False,) * 90 + (True,),
)
"""Colour images of one of three kinds."""


class TestImages:
    def test_the_masses_of_all_images_sum_to_one(self) -> None:
        """Of two pixels, by codes that are summed over; those of bounds sum to less."""
        levels = pixels(np.arange(256))
        every = torch.cartesian_prod(levels[:, 0], levels[:, 0])
        options: dict[str, Any] = {"channels": 2, "latent_dim": 1}
        with torch.no_grad():
            exact = make(Space.pixels(1, 1, 2), latent="discrete", **options).log_prob(every)
            bound = make(Space.pixels(1, 1, 2), draws=8, **options).log_prob(every)
        assert exact.double().exp().sum().item() == pytest.approx(1.0, abs=1e-4)
        assert bound.double().exp().sum().item() < 1.05

    @every_latent
    def test_abilities_of_every_code_and_of_images_with_labels(self, latent: str) -> None:
        vae = make(LABELLED, latent=latent, channels=4, adversarial=1.0, scale=0.1)
        with runtime.seeded(0):
            x = torch.cat([2 * torch.randint(256, (6, 90)) + 1, torch.full((6, 1), 256.0)], 1) / 256 - 1
            x[:, -1] = torch.tensor([0.0, 1, 2, 0, 1, 2])
            losses = [loss(x) for _, loss in vae.objectives()]
            drawn = vae.sample(4, x[:4, -1:])
        assert len(losses) == 2
        assert all(loss.shape == (6,) and loss.isfinite().all() for loss in losses)
        sum(loss.sum() for loss in losses).backward()  # type: ignore[union-attr]
        assert all(p.grad is not None for p in [*vae.encoder.parameters(), *vae.decoder.parameters()])
        with torch.no_grad():
            scores, made = vae.log_prob(x), vae.reconstruct(x)
            assert torch.equal(made[:, -1], x[:, -1])
            assert made.abs().max() <= 2
            assert vae.features(x).shape[0] == 6
            assert vae.latent(x).shape == (6, vae.code.width)
            torch.testing.assert_close(vae.log_prob(x[2:3]), scores[2:3], rtol=1e-4, atol=1e-3)
            other = x.clone()
            other[:, -1] = 2 - x[:, -1]
            assert (vae.log_prob(other) != scores)[x[:, -1] != 1].all()
        levels = (drawn[:, :-1] + 1) * 128 - 0.5
        assert torch.equal(levels, levels.round())
        assert levels.min() >= 0
        assert levels.max() <= 255

    def test_codes_of_labelled_and_of_plain_images_are_summed_alike(self) -> None:
        plain = make(Space.pixels(1, 5, 4), latent="discrete", channels=4, latent_dim=1)
        with runtime.seeded(0):
            x = (2 * torch.randint(256, (7, 20)) + 1) / 256 - 1
        codes, log_share = plain.code.enumerate()  # type: ignore[operator]
        with torch.no_grad():
            each = [plain.observation.log_prob(plain.decoder(c[:, None].expand(-1, 7)), x.t()) for c in codes.t()]
            torch.testing.assert_close(plain.log_prob(x), (torch.stack(each) + log_share[:, None]).logsumexp(0))

    def test_defaults_of_images(self) -> None:
        table, image = VAE(784), VAE(Space.pixels(1, 28, 28))
        assert (table.passes, table.work, table.rate, table.code.units) == (16, 0, 1.0, 16)
        assert (image.passes, image.code.units) == (2, 32)
        assert image.rate < 1
        assert image.work == image.encoder.work + image.decoder.work
        # An image costs a pass of the encoder and of two decoders, its features and its reconstruction another two.
        assert 3 * image.encoder.work + 3 * image.decoder.work < 25e6
        assert image.features(torch.zeros(2, 784)).shape[1] <= 4096

    def test_labels_of_images_are_given_or_averaged_over(self) -> None:
        images, y = digits(200), np.where(load_digits().target[:200] < 5, "low", "high")
        detector = VAEDetector(condition="y", channels=4, latent_dim=3, max_epochs=4, statistic="likelihood", **QUICK)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector.fit(images, y)
        each = np.stack([detector.score_samples(images, condition=c) for c in ("low", "high")])
        shares = np.log([(y == c).mean() for c in ("low", "high")])[:, None]
        assert detector.score_samples(images) == pytest.approx(np.logaddexp(*(each + shares)), rel=1e-4)
        means = [detector.transform(images, condition=c) for c in ("low", "high")]
        assert not np.allclose(*means)
        average, low, high = detector.transform(images), np.minimum(*means), np.maximum(*means)
        assert ((average >= low - 1e-4) & (average <= high + 1e-4)).all()
        assert detector.sample(3, random_state=0, condition="low").shape == (3, 8, 8)

    @pytest.mark.parametrize(("side", "beta", "warmup"), [(8, 1.0, 0.5), (20, 400 / 196, 0.12), (28, 4.0, 1 / 32)])
    def test_codes_of_larger_images_cost_more_and_sooner(self, side: int, beta: float, warmup: float) -> None:
        derived = VAE(Space.pixels(1, side, side), channels=2)
        assert (derived.beta, derived.warmup) == pytest.approx((beta, warmup), rel=0.01)
        given = VAE(Space.pixels(1, side, side), channels=2, beta=1.5, warmup=0.2)
        assert (given.beta, given.warmup) == (1.5, 0.2)

    def test_images_are_compared_by_what_is_seen_and_by_codes(self) -> None:
        model = VAE(Space.pixels(1, 9, 7), channels=2, latent_dim=3)
        found = model.features(torch.zeros(4, 63))
        assert sum(model.feature_parts) == found.shape[1]
        assert torch.equal(found[:, -3:], model.latent(torch.zeros(4, 63)))

    def test_digits_are_learned_within_seconds(self, tmp_path: Any) -> None:
        images = digits(1797)
        train, test = images[:1500], images[1500:]
        detector = VAEDetector(channels=8, latent_dim=12, max_epochs=40, statistic="reconstruction", **QUICK)
        scores = detector.fit(train).score_samples(test)
        mean = pixels(train).mean(0)
        error = (pixels(test) - mean).square().mean()
        assert -scores.mean() < 0.5 * error.item()
        assert detector.history_[-1]["active_units"] >= 4
        bits = -detector.score(test) / 64 / math.log(2)
        assert 3.0 < bits < 5.2
        assert np.array_equal(detector.score_samples(test[3:5]), scores[3:5])
        codes = detector.transform(test)
        assert codes.shape == (297, 12)
        assert np.array_equal(detector.transform(test[::-1]), codes[::-1])
        drawn = detector.sample(200, random_state=0)
        assert drawn.shape == (200, 8, 8)
        assert drawn.dtype == np.uint8
        assert np.abs(drawn.mean(0) - train.mean(0)).mean() < 20
        detector.save(tmp_path / "m")
        assert np.array_equal(anomgen.load(tmp_path / "m").score_samples(test), scores)


CAUSES = {"horseshoe": (2, 6, 2), "rectified": (4, 12, 6), "piecewise": (2, 6, 2), "discrete": (2, 6, 2)}
"""Units that make rows of each kind, columns of these, and units of the models."""


def drawn_from(kind: str, n: int, seed: int) -> Tensor:
    """Rows whose codes come from a prior, mixed linearly, under little noise."""
    causes, columns, _ = CAUSES[kind]
    with runtime.seeded(99):
        code = make_latent(kind, causes, columns, categories=4)
        for parameter in code.parameters():
            parameter.data = torch.full_like(parameter, -1.2)
            if kind == "piecewise":
                parameter.data = 2 * torch.randn_like(parameter)
        mixing = torch.randn(columns, code.width)
    with runtime.seeded(seed), torch.no_grad():
        codes = code.sample(4 * n, mixing)
        # A horseshoe has no mean: its farthest codes would decide the mean of a likelihood.
        codes = codes[:, codes.abs().amax(0) < 8][:, :n]
        return (mixing @ codes + 0.1 * torch.randn(columns, n)).t()


@pytest.mark.parametrize("latent", CAUSES)
def test_each_prior_wins_on_rows_of_its_own(latent: str) -> None:
    """Held-out nats against a normal prior with codes as wide, the same networks and as many steps."""
    z, held_out = drawn_from(latent, 2000, 1), drawn_from(latent, 2000, 2)
    nats = {}
    for kind in ("normal", latent):
        with runtime.seeded(0):
            units = 8 if (latent, kind) == ("discrete", "normal") else CAUSES[latent][2]
            vae = VAE(z.shape[1], latent=kind, latent_dim=units, categories=4, hidden=(32,), draws=32)
            train(vae, z, 500)
        with torch.no_grad():
            nats[kind] = vae.log_prob(held_out).mean().item()
    assert nats[latent] > nats["normal"] + 0.05, nats
