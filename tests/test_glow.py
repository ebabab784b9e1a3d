"""Flows on images: exact inverses, exact densities on sides of any length, and what every option changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.families.flow import FlowDetector, ImageFlow
from anomgen.generative import PIXEL_WIDTH, Space, abilities
from anomgen.nn.glow import Base, Coupling, Logit, Mix, Place, Plan
from anomgen.nn.multiscale import Edge, Scale, multiscale

SIZES = [(1, 4, 4), (1, 2, 2), (1, 3, 5), (1, 7, 4), (3, 2, 3), (2, 3, 3)]
every_coupling = pytest.mark.parametrize("coupling", ["affine", "additive"])


def labelled(channels: int, height: int, width: int) -> Space:
    """Images with a label of three levels beside them."""
    plain = Space.pixels(channels, height, width)
    edges = (*plain.edges, (0.0, 1.0, 2.0))
    return Space(
        plain.shape,
        (*plain.names, "y"),
        (*plain.kinds, "cell"),
        edges,
        (*plain.missing, False),
        (),
        (False,) * plain.dim + (True,),
    )


def make(space: Space, *, seed: int = 0, scale: float = 0.0, **options: Any) -> ImageFlow:
    """A small flow, its weights disturbed by `scale`."""
    with runtime.seeded(seed):
        flow = ImageFlow(space, **{"steps": 2, "channels": 4, **options})
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return flow


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Smooth images with noise that fills the levels, as flat rows in [-1, 1]; all of them lean the same way."""
    generator = torch.Generator().manual_seed(seed)
    c, h, w = shape
    ramp = torch.linspace(-1, 1, h)[:, None] + torch.linspace(-1, 1, w)
    amount = torch.rand(n, c, 1, 1, generator=generator)
    clean = (0.4 * amount * ramp - 0.3).clamp(-1, 1)
    levels = ((clean + 1) * 127.5).round()
    return (((levels + torch.rand(n, c, h, w, generator=generator)) / 128) - 1).flatten(1)


def train(flow: ImageFlow, z: Tensor, steps: int, rate: float = 3e-3) -> None:
    flow.prepare(z)
    optimizer = torch.optim.Adam(flow.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        flow.loss(z).mean().backward()
        optimizer.step()


@every_coupling
@pytest.mark.parametrize("shape", SIZES)
def test_density_inverse_and_jacobian(coupling: str, shape: tuple[int, int, int]) -> None:
    flow = make(Space.pixels(*shape), scale=0.2, coupling=coupling).double()
    z = images(3, *shape).double() * 0.9
    latent, log_det = flow(z)
    torch.testing.assert_close(flow.inverse(latent), z, atol=1e-9, rtol=1e-9)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], row) for row in z])
    # The fixed rotations are drawn in single precision, so that their determinants are one up to that.
    torch.testing.assert_close(log_det, jacobian.slogdet().logabsdet, atol=2e-6, rtol=1e-7)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latent).sum(1)
    torch.testing.assert_close(flow.log_prob(z), normal + log_det)
    assert (jacobian != 0).sum() > z[0].numel()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 45, 33), (1, 7, 9), (1, 64, 48)])
def test_inverse_of_trained_sizes(shape: tuple[int, int, int]) -> None:
    flow = make(Space.pixels(*shape), scale=0.03)
    z = images(4, *shape)
    flow.prepare(z)
    with torch.no_grad():
        latent = flow.to_latent(z)
        assert latent.shape == z.shape
        torch.testing.assert_close(flow.inverse(latent), z, atol=1e-4, rtol=0)


@every_coupling
def test_the_jacobian_is_constant_where_nothing_is_scaled(coupling: str) -> None:
    with runtime.seeded(0):
        network = multiscale((1, 6, 5), Plan(2, 2, 4, scaled=coupling == "affine")).double()
        for parameter in network.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        x, context = torch.randn(5, 1, 6, 5).double(), torch.zeros(5, 0).double()
    latent, located = network(x, context)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latent).sum((1, 2, 3))
    log_det = located.sum((1, 2)) - normal
    assert (log_det.std() < 1e-10) == (coupling == "additive")
    assert log_det.abs().max() > 0.1


def test_the_density_integrates_to_one() -> None:
    flow = make(Space.pixels(1, 2, 2))
    train(flow, images(400, 1, 2, 2), 60)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Importance sampling: from images of the flow itself, blurred so widely that all of its mass is covered.
        with runtime.seeded(2):
            center = flow.sample(60_000)
        mean, std = center.mean(0), 1.5 * center.std(0)
        drawn = mean + std * torch.randn(60_000, 4, generator=generator)
        inside = (drawn.abs() <= 1).all(1)
        proposal = torch.distributions.Normal(mean, std).log_prob(drawn).sum(1)
        mass = ((flow.log_prob(drawn) - proposal).exp() * inside).mean().item()
    assert mass == pytest.approx(1.0, abs=0.05)


def test_uniform_noise_has_eight_bits_at_best() -> None:
    flow = make(Space.pixels(1, 4, 4))
    z = 2 * torch.rand(4000, 16, generator=torch.Generator().manual_seed(0)) - 1
    train(flow, z[:2000], 40, 1e-2)
    with torch.no_grad():
        bits = -(flow.log_prob(z[2000:]) + 16 * math.log(PIXEL_WIDTH)).mean().item() / 16 / math.log(2)
    assert 7.99 < bits < 8.06


def test_actnorm_starts_with_mean_zero_and_variance_one() -> None:
    mix = Mix(6)
    x = 3 * torch.randn(50, 6, 4, 3) * torch.arange(1, 7)[:, None, None] + 5
    mix.prepare(x)
    # The mix that follows is a rotation, which keeps whitened channels of mean zero as they are.
    std, mean = torch.std_mean((x - mix.shift[:, None, None]) * mix.log_scale.exp()[:, None, None], (0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(6), atol=1e-2, rtol=0)
    y, _ = mix(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(6), atol=1e-4, rtol=0)
    assert y.square().mean().item() == pytest.approx(1.0, abs=1e-3)


def test_a_prepared_flow_standardizes_its_latents_once() -> None:
    flow, z = make(Space.pixels(1, 8, 8)), images(400, 1, 8, 8)
    assert not flow.prepared
    before = flow.log_prob(z).mean().item()
    kept = z.clone()
    flow.prepare(z)
    assert (z == kept).all()
    with torch.no_grad():
        latent = flow.to_latent(z)
        assert latent.mean().item() == pytest.approx(0.0, abs=0.05)
        assert latent.std().item() == pytest.approx(1.0, abs=0.05)
        assert flow.log_prob(z).mean().item() > before + 64
    state = copy.deepcopy(flow.state_dict())
    flow.prepare(-z)
    assert all((value == state[name]).all() for name, value in flow.state_dict().items())
    other = make(Space.pixels(1, 8, 8), seed=5)
    other.load_state_dict(state)
    assert other.prepared
    assert (other.log_prob(z) == flow.log_prob(z)).all()


def test_flat_images_do_not_break_the_start() -> None:
    flow = make(Space.pixels(1, 6, 6))
    z = torch.full((50, 36), -1 + PIXEL_WIDTH / 2)
    flow.prepare(z)
    assert flow.log_prob(z).isfinite().all()


def test_scales_are_bounded_and_unlike_images_have_a_finite_density() -> None:
    coupling = Coupling((2, 3, 3), 3, Plan(1, 1, 4))
    coupling.network.last.bias.data.fill_(1e6)
    _, log_det = coupling(torch.randn(2, 3, 3, 3), torch.randn(2, 2, 3, 3), torch.zeros(2, 0))
    assert 8.9 < log_det.min() <= log_det.max() <= 9
    flow = make(Space.pixels(1, 16, 16), scale=0.2, steps=4)
    z = torch.randint(0, 2, (4, 256), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    assert flow.log_prob(z).isfinite().all()


@pytest.mark.parametrize("channels", [2, 5])
def test_mix_is_an_affine_map_of_known_determinant(channels: int) -> None:
    mix = Mix(channels).double()
    for parameter in mix.parameters():
        parameter.data.normal_()
    mix.log_scale.data.mul_(0.3)
    x = torch.randn(4, channels, 3, 2).double()
    y, log_det = mix(x)
    torch.testing.assert_close(mix.inverse(y), x)
    matrix = mix.matrix() * mix.log_scale.exp()
    torch.testing.assert_close(log_det, matrix.slogdet().logabsdet, atol=2e-6, rtol=0)
    torch.testing.assert_close(y[0, :, 1, 1], matrix @ (x[0, :, 1, 1] - mix.shift))
    assert not torch.allclose(mix.matrix(), mix.rotation)


def test_logit_is_exact_and_stays_finite() -> None:
    logit = Logit(1e-3)
    x = torch.linspace(-1, 1, 41).double().requires_grad_()
    y, log_derivative = logit(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_derivative[1:-1], slope.log()[1:-1])
    torch.testing.assert_close(logit.inverse(y), x)
    beyond, terms = logit(torch.tensor([-5.0, 5.0]))
    assert beyond.isfinite().all()
    assert terms.isfinite().all()
    assert logit.inverse(torch.tensor([-100.0, 100.0])).tolist() == [-1.0, 1.0]


def test_steps_move_what_they_should() -> None:
    plan = Plan(1, 1, 4)
    coupling = Coupling((2, 3, 3), 3, plan)
    x, still, context = torch.randn(2, 3, 3, 3), torch.randn(2, 2, 3, 3), torch.zeros(2, 0)
    assert (coupling(x, still, context)[0] == x).all()
    coupling.network.last.weight.data.normal_()
    y, log_det = coupling(x, still, context)
    assert not torch.allclose(y, x)
    assert log_det.shape == (2, 3, 3)
    torch.testing.assert_close(coupling.inverse(y, still, context), x)
    place = Place((3, 3, 3))
    place.prepare(7 * x + 1)
    torch.testing.assert_close(place(7 * x + 1)[0].mean(0), torch.zeros(3, 3, 3), atol=1e-4, rtol=0)
    base = Base((3, 3, 3), 0, plan)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(base(x, still, context)[1], expected)


def test_scales_follow_the_size() -> None:
    def depth(*shape: int, scales: int = 3) -> list[type]:
        found, part = [], multiscale(shape, Plan(scales, 1, 2))  # type: ignore[arg-type]
        while part is not None:
            found.append(type(part))
            part = part.inner  # type: ignore[assignment]
        return found

    assert depth(1, 4, 4) == [Scale]
    assert depth(1, 28, 28) == [Scale, Scale, Edge, Edge, Scale]
    assert depth(1, 28, 28, scales=1) == [Scale]
    assert depth(1, 64, 64) == [Scale] * 3
    assert depth(1, 5, 4) == [Edge, Scale]


@every_coupling
def test_terms_sum_to_the_density_and_lie_where_it_arises(coupling: str) -> None:
    flow = make(Space.pixels(3, 13, 12), coupling=coupling)
    z = images(60, 3, 13, 12)
    train(flow, z, 15)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob_terms(z).sum(1), flow.log_prob(z))
        for row, column in ((2, 9), (8, 3), (12, 5)):
            odd = z.clone().unflatten(1, (3, 13, 12))
            odd[:, :, row, column] *= -1
            change = (flow.log_prob_terms(odd.flatten(1)) - flow.log_prob_terms(z)).mean(0).reshape(3, 13, 12).sum(0)
            # Blocks of the last scale are 4 by 4 pixels, and networks look beyond.
            near = change[max(0, row - 6) : row + 7, max(0, column - 6) : column + 7].sum()
            assert near < 0
            assert near < 0.7 * change.sum()


def test_training_improves_the_fit_with_every_parameter() -> None:
    flow, z = make(labelled(1, 7, 9)), images(100, 1, 7, 9)
    z = torch.cat([z, torch.arange(100.0)[:, None] % 3], 1)
    flow.prepare(z)
    before = {name: p.detach().clone() for name, p in flow.named_parameters()}
    start = flow.log_prob(z).mean().item()
    train(flow, z, 15)
    assert flow.log_prob(z).mean().item() > start + 5
    # The triangles of a mix are half unused.
    assert not [name for name, p in flow.named_parameters() if (p == before[name]).all()]


def test_conditions_enter_the_density() -> None:
    flow = make(labelled(1, 4, 4))
    z = images(200, 1, 4, 4)
    label = torch.arange(200.0)[:, None] % 3
    bright = torch.cat([(0.3 * z + 0.6 * (label - 1)).clamp(-1, 1), label], 1)
    train(flow, bright, 80, 1e-2)
    wrong = torch.cat([bright[:, :-1], (label + 1) % 3], 1)
    with torch.no_grad():
        assert (flow.log_prob(bright) > flow.log_prob(wrong)).float().mean() > 0.9
        drawn = flow.sample(200, label)
    assert drawn.shape == (200, 17)
    assert (drawn[:, -1:] == label).all()
    means = [drawn[label[:, 0] == k, :-1].mean().item() for k in range(3)]
    assert means[0] < means[1] - 0.2 < means[2] - 0.4


@every_coupling
def test_samples_are_images_like_those_of_training(coupling: str) -> None:
    flow = make(Space.pixels(1, 7, 6), coupling=coupling, channels=8)
    z = images(400, 1, 7, 6)
    train(flow, z, 60)
    with torch.no_grad(), runtime.seeded(1):
        drawn = flow.sample(400)
    assert drawn.shape == (400, 42)
    assert drawn.abs().max() <= 1
    assert (drawn.mean(0) - z.mean(0)).abs().max() < 0.2
    assert 0.5 < drawn.std(0).mean() / z.std(0).mean() < 2


def test_features_are_bounded_and_tell_images_apart() -> None:
    for shape, most in (((1, 28, 28), 4096), ((3, 64, 64), 4096), ((1, 7, 9), 48)):
        flow = make(Space.pixels(*shape))
        features = flow.features(images(3, *shape))
        assert features.shape[0] == 3
        assert shape[1] <= features.shape[1] <= most
        assert features.std(0).min() > 0


def test_a_score_depends_on_its_row_alone() -> None:
    flow = make(Space.pixels(1, 9, 8), scale=0.05).eval()
    z = images(150, 1, 9, 8)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    scores = [
        runtime.map_rows(flow.log_prob, [part], device=torch.device("cpu"), height=32)
        for part in (z, z[order], z[:1], z[70:111])
    ]
    assert (scores[1] == scores[0][order.numpy()]).all()
    assert scores[2] == scores[0][:1]
    assert (scores[3] == scores[0][70:111]).all()


def test_bfloat16_training_is_finite() -> None:
    flow = make(Space.pixels(1, 7, 8), scale=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow.loss(images(20, 1, 7, 8)).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("changed", [{"coupling": "additive"}, {"scales": 1}, {"steps": 3}, {"channels": 6}])
def test_every_option_changes_the_model(changed: dict[str, Any]) -> None:
    def shapes(**options: Any) -> list[tuple[int, ...]]:
        flow = FlowDetector(**{"steps": 2, "channels": 4, **options}).build(Space.pixels(1, 16, 16))
        return [tuple(p.shape) for p in flow.parameters()]

    assert shapes(**changed) != shapes()


def test_detector_builds_the_flow_that_rows_need() -> None:
    flow = FlowDetector(steps=1, channels=4).build(Space.pixels(1, 28, 28))
    assert isinstance(flow, ImageFlow)
    assert {"log_prob", "log_prob_terms", "sample", "to_latent", "features"} <= abilities(flow)
    work = 14 * 14 * 4 * (9 * 2 + 4 + 9 * 4)
    assert work < flow.work < 4 * work
    default = FlowDetector().build(Space.pixels(1, 28, 28))
    assert default.work < 15e6
    assert any(part.scaled for part in default.modules() if isinstance(part, Coupling))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"coupling": "spline"}, (1, 4, 4), "coupling='spline'.*'affine', 'additive'"),
        ({"scales": 0}, (1, 4, 4), "scales=0.*at least 1"),
        ({"steps": 0}, (1, 4, 4), "steps=0.*at least 1"),
        ({"channels": 0.5}, (1, 4, 4), r"channels=0\.5.*integer"),
        ({}, (1, 1, 9), r"\(1, 1, 9\).*2 by 2"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFlow(Space.pixels(*shape), **options)
