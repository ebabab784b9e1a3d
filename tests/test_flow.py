"""Flows: exact densities, exact inverses, and what every option changes."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
import zuko
from torch import Tensor

from anomgen import families, runtime
from anomgen.families.flow import Flow, FlowDetector
from anomgen.generative import Space, abilities

KINDS: dict[str, dict[str, Any]] = {
    "additive": {"coupling": "additive"},
    "affine": {"coupling": "affine"},
    "spline": {"coupling": "spline"},
    "autoregressive-affine": {"coupling": "autoregressive"},
    "autoregressive-spline": {"coupling": "autoregressive", "univariate": "spline"},
}
BASES = ("normal", "mixture")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_base = pytest.mark.parametrize("base", BASES)


def make(kind: str, dim: int, *, seed: int = 0, scale: float = 0.0, **options: Any) -> Flow:
    """A small flow, its weights disturbed by `scale`."""
    with runtime.seeded(seed):
        flow = Flow(dim, **{"transforms": 3, "hidden": (16, 16), **KINDS[kind], **options})
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return flow


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def train(flow: Flow, z: Tensor, steps: int, rate: float = 5e-3) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        flow.loss(z).mean().backward()
        optimizer.step()


def two_moons(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=generator)
    side = (torch.rand(n, generator=generator) < 0.5).float() * 2 - 1
    moons = torch.stack([side * angle.cos() + 0.5 * side, side * (angle.sin() - 0.3)], 1)
    return moons + 0.15 * torch.randn(n, 2, generator=generator)


@every_base
@every_kind
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_prob_inverse_and_jacobian(kind: str, base: str, dim: int) -> None:
    flow = make(kind, dim, scale=0.3, base=base).double()
    z = 2 * rows(9, dim).double()
    latent, log_det = flow(z)
    back, log_inverse = flow.inverse(latent)
    torch.testing.assert_close(back, z, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(log_inverse, -log_det, atol=1e-8, rtol=1e-8)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], row) for row in z])
    torch.testing.assert_close(log_det, jacobian.slogdet().logabsdet, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(flow.log_prob(z), flow.base.log_prob(latent.t()) + log_det)
    assert not torch.allclose(latent, z)


@every_kind
@pytest.mark.parametrize("dim", [1, 3])
def test_an_untrained_flow_is_its_base(kind: str, dim: int) -> None:
    z = rows(20, dim)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(make(kind, dim).log_prob(z), expected, atol=1e-4, rtol=1e-4)


@every_kind
def test_every_parameter_learns_and_the_fit_improves(kind: str) -> None:
    for dim in (1, 4):
        flow = make(kind, dim, base="mixture")
        z = 0.5 * rows(300, dim) ** 3
        before = {name: p.clone() for name, p in flow.named_parameters()}
        start = flow.log_prob(z).mean().item()
        train(flow, z, 30)
        assert flow.log_prob(z).mean().item() > start + 0.05 * dim
        still = {name for name, p in flow.named_parameters() if (p == before[name]).all() and p.numel()}
        # Nothing flows into a network that has no inputs through its first weights.
        assert not still or (dim == 1 and all("weight" in name for name in still)), still


@every_base
@every_kind
def test_density_integrates_to_one(kind: str, base: str) -> None:
    flow = make(kind, 2, base=base)
    train(flow, two_moons(500), 60)
    axis = torch.linspace(-9, 9, 601)
    grid = torch.cartesian_prod(axis, axis)
    with torch.inference_mode():
        mass = flow.log_prob(grid).double().exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    assert mass == pytest.approx(1.0, abs=0.01)


@every_base
@every_kind
def test_samples_follow_the_density(kind: str, base: str) -> None:
    flow = make(kind, 2, base=base)
    z = two_moons(1000)
    train(flow, z, 150)
    with torch.no_grad(), runtime.seeded(3):
        drawn = flow.sample(4000)
    assert drawn.shape == (4000, 2)
    assert drawn.is_contiguous()
    with torch.no_grad():
        # The entropy under the samples' own density equals its cross-entropy only if both are one distribution.
        volume = 18.0**2
        grid = 18 * torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0)) - 9
        log_density = flow.log_prob(grid)
        entropy = -(log_density.exp() * log_density).mean().item() * volume
        assert -flow.log_prob(drawn).mean().item() == pytest.approx(entropy, abs=0.08)


@pytest.mark.parametrize("univariate", ["affine", "spline"])
def test_masked_flow_equals_zuko_with_its_weights(univariate: str) -> None:
    dim, hidden = 5, (12, 12)
    ours = make(f"autoregressive-{univariate}", dim, scale=0.3, hidden=hidden).double()
    z = 2 * rows(50, dim).double()
    x, log_det = z, torch.zeros(50).double()
    for step in ours.maps:

        def meta(x: Tensor, network: Any = step.network) -> Any:
            # zuko orders the outputs coordinate by coordinate, ours parameter by parameter.
            phi = network(x.t()).t().unflatten(-1, (-1, dim)).transpose(-1, -2)
            if univariate == "affine":
                univariate_map = zuko.transforms.MonotonicAffineTransform(*phi.unbind(-1))
            else:
                univariate_map = zuko.transforms.MonotonicRQSTransform(*phi.split([8, 8, 7], dim=-1))
            return zuko.transforms.DependentTransform(univariate_map, 1)

        x, term = zuko.transforms.AutoregressiveTransform(meta, dim).call_and_ladj(x[:, step.order])
        log_det = log_det + term
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1) + log_det
    torch.testing.assert_close(ours.log_prob(z), expected)


def test_mixture_base_equals_torch_distributions() -> None:
    flow = make("additive", 3, scale=0.4, base="mixture", components=5)
    z = rows(40, 3)
    latent, log_det = flow(z)
    scales = (flow.base.log_scales / (1 + flow.base.log_scales.abs() / math.log(1e3))).exp()
    components = torch.distributions.Independent(torch.distributions.Normal(flow.base.means, scales), 1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=flow.base.logits), components
    )
    torch.testing.assert_close(flow.log_prob(z), mixture.log_prob(latent) + log_det, atol=1e-4, rtol=1e-4)


def test_autoregressive_jacobian_is_triangular_in_its_order() -> None:
    flow = make("autoregressive-spline", 6, scale=0.3, transforms=1).double()
    z = rows(1, 6).double()[0]
    jacobian = torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], z)[:, flow.maps[0].order]
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.diagonal() > 0).all()
    assert (jacobian.tril(-1) != 0).sum() > 10


@every_kind
def test_coordinates_all_move_and_depend_on_each_other(kind: str) -> None:
    flow = make(kind, 7, scale=0.3, transforms=6).double()
    jacobian = torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], rows(1, 7).double()[0])
    assert ((jacobian != 0).sum(0) > 1).all()
    assert ((jacobian != 0).sum(1) > 1).all()


@every_kind
@pytest.mark.parametrize("dim", [1, 7, 20])
def test_a_score_depends_on_its_row_alone(kind: str, dim: int) -> None:
    flow = make(kind, dim, scale=0.2, base="mixture").eval()
    z = rows(600, dim)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    scores = [
        runtime.map_rows(flow.log_prob, [part], device=torch.device("cpu"), height=256)
        for part in (z, z[order], z[:1], z[300:411])
    ]
    assert (scores[1] == scores[0][order.numpy()]).all()
    assert scores[2] == scores[0][:1]
    assert (scores[3] == scores[0][300:411]).all()


@every_kind
def test_two_thousand_coordinates(kind: str) -> None:
    flow = make(kind, 2000, transforms=2, hidden=(8,))
    z = rows(3, 2000)
    log_prob = flow.log_prob(z)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    latent, log_det = flow(z)
    if kind in ("additive", "affine", "spline"):
        torch.testing.assert_close(flow.inverse(latent)[0], z, atol=1e-4, rtol=1e-4)
    assert log_det.shape == (3,)


@every_base
@every_kind
def test_state_and_copies_keep_the_density(kind: str, base: str) -> None:
    flow = make(kind, 5, scale=0.3, base=base)
    z = rows(10, 5)
    expected = flow.log_prob(z)
    other = make(kind, 5, seed=9, base=base)
    assert not torch.allclose(other.log_prob(z), expected)
    stream = io.BytesIO()
    torch.save(flow.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert (twin.log_prob(z) == expected).all()


def test_construction_follows_the_callers_seed_and_leaves_nothing_behind() -> None:
    z = rows(10, 5)
    scores = [make("autoregressive-spline", 5, seed=seed, scale=0.3).log_prob(z) for seed in (0, 0, 1)]
    assert (scores[0] == scores[1]).all()
    assert not torch.allclose(scores[0], scores[2])


@pytest.mark.parametrize(
    "changed",
    [
        {"coupling": "affine"},
        {"coupling": "spline"},
        {"coupling": "autoregressive"},
        {"coupling": "autoregressive", "univariate": "spline"},
        {"transforms": 4},
        {"hidden": (24,)},
        {"base": "mixture"},
        {"base": "mixture", "components": 3},
        {"coupling": "spline", "bins": 5},
    ],
)
def test_every_option_changes_the_model(changed: dict[str, Any]) -> None:
    def shapes(flow: Flow) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in flow.parameters()]

    seen = [shapes(make("additive", 5))]
    if "components" in changed or "univariate" in changed or "bins" in changed:
        seen.append(shapes(Flow(5, **{**dict(list(changed.items())[:1]), "transforms": 3, "hidden": (16, 16)})))
    assert shapes(make("additive", 5, **changed)) not in seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": "maf"}, "coupling='maf'.*'additive', 'affine', 'spline', 'autoregressive'"),
        ({"univariate": "cubic"}, "univariate='cubic'.*'affine', 'spline'"),
        ({"base": "uniform"}, "base='uniform'.*'normal', 'mixture'"),
        ({"transforms": 0}, "transforms=0.*at least 1"),
        ({"transforms": 2.5}, r"transforms=2\.5.*integer"),
        ({"transforms": True}, "transforms=True.*integer"),
        ({"components": 0}, "components=0.*at least 1"),
        ({"bins": 1}, "bins=1.*at least 2"),
        ({"hidden": ()}, r"hidden=\(\).*positive integers"),
        ({"hidden": (8, 0)}, r"hidden=\(8, 0\).*positive integers"),
        ({"hidden": 64}, "hidden=64.*positive integers"),
        ({"hidden": "64"}, "hidden='64'.*positive integers"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flow(3, **options)


def test_bfloat16_training_is_finite() -> None:
    for kind in KINDS:
        flow = make(kind, 4, scale=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow.loss(rows(50, 4)).mean()
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_detector_builds_the_flow_it_describes() -> None:
    detector = FlowDetector(coupling="autoregressive", univariate="spline", transforms=2, hidden=(8,), bins=4)
    flow = detector.build(Space.real(3))
    assert {"log_prob", "sample"} <= abilities(flow)
    assert len(flow.maps) == 2
    assert flow.maps[0].network(torch.zeros(3, 5)).shape == (11 * 3, 5)


def test_tables_get_an_additive_flow_unless_told() -> None:
    z = rows(20, 4)
    scores = []
    for options in ({}, {"coupling": "additive"}, {"coupling": "affine"}):
        with runtime.seeded(0):
            flow = FlowDetector(**options).build(Space.real(4))
            for parameter in flow.parameters():
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        scores.append(flow.log_prob(z))
    assert (scores[0] == scores[1]).all()
    assert not torch.allclose(scores[0], scores[2])


def test_the_family_is_found_though_it_is_a_package() -> None:
    assert families.all_detectors()["FlowDetector"] is FlowDetector
    assert FlowDetector.__module__ == "anomgen.families.flow.detector"
    # What a family only imports is not found twice, nor are the bases of detectors families.
    assert "ConditionalDetector" not in families.all_detectors()
