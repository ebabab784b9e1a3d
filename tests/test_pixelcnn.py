"""Autoregressive images: masses that sum to one, causality without blind spots, and the same pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.families.autoregressive import ImageAutoregressive
from anomgen.families.autoregressive.image import resampled
from anomgen.generative import Space, abilities
from anomgen.nn.logistic import PixelMixture, logistic_log_mass, logistic_sample, nearest_level
from anomgen.nn.pixelcnn import Memory, PixelCNN

LEVELS = (2 * torch.arange(256.0) + 1) / 256 - 1
SHAPES = [(1, 8, 7), (3, 5, 6), (1, 1, 1), (1, 9, 12)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(shape: tuple[int, int, int], *, seed: int = 0, scale: float = 0.2, **options: Any) -> ImageAutoregressive:
    """A small model, its weights disturbed by `scale`."""
    with runtime.seeded(seed):
        model = ImageAutoregressive(Space.pixels(*shape), **{"channels": 8, "components": 3, **options})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Rows of pixels at random."""
    levels = torch.randint(256, (n, math.prod(shape)), generator=torch.Generator().manual_seed(seed))
    return LEVELS[levels]


def outputs(n: int, mixture: PixelMixture, seed: int = 0) -> Tensor:
    """What a network might say of `n` pixels."""
    generator = torch.Generator().manual_seed(seed)
    return mixture.start[:, None, None] + torch.randn(n, mixture.outputs, 1, 1, generator=generator)


class TestLogisticMasses:
    @pytest.mark.parametrize("log_scale", [-50.0, -7.0, -3.0, 0.0, 7.0, 50.0])
    @pytest.mark.parametrize("mean", [-30.0, -1.0, 0.003, 0.99, 5.0])
    def test_sum_to_one_and_stay_finite(self, mean: float, log_scale: float) -> None:
        at = [torch.tensor(value, requires_grad=True) for value in (mean, log_scale)]
        masses = logistic_log_mass(LEVELS, *at)
        masses.sum().backward()
        assert masses.exp().double().sum().item() == pytest.approx(1.0, abs=2e-4)
        assert masses.isfinite().all()
        assert all(value.grad is not None and value.grad.isfinite() for value in at)

    def test_equal_the_difference_of_distribution_functions(self) -> None:
        mean, scale = torch.tensor(0.21).double(), torch.tensor(0.05).double()
        edges = torch.linspace(-1, 1, 257).double()
        below = ((edges - mean) / scale).sigmoid()
        below[0], below[-1] = 0.0, 1.0
        torch.testing.assert_close(
            logistic_log_mass(LEVELS.double(), mean, scale.log()).exp(), below.diff(), atol=1e-12, rtol=1e-9
        )

    def test_are_those_that_pixels_are_drawn_with(self) -> None:
        for mean, log_scale in ((0.3, -4.0), (-1.1, -2.0), (0.9, 1.0)):
            law = torch.tensor(mean), torch.tensor(log_scale)
            with runtime.seeded(0):
                drawn = logistic_sample(*(part.expand(100_000) for part in law))
            assert torch.isin(drawn, LEVELS).all()
            shares = torch.histc(drawn, 256, -1, 1) / len(drawn)
            assert (shares - logistic_log_mass(LEVELS, *law).exp()).abs().max() < 0.006

    def test_every_value_has_the_nearest_level(self) -> None:
        assert torch.equal(nearest_level(LEVELS + 0.9 / 256), LEVELS)
        assert torch.equal(nearest_level(LEVELS - 0.9 / 256), LEVELS)
        assert nearest_level(torch.tensor([-9.0, 9.0])).tolist() == [LEVELS[0], LEVELS[-1]]


class TestPixelMixture:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("components", [1, 4])
    def test_every_channel_has_masses_given_those_before_it(self, channels: int, components: int) -> None:
        mixture = PixelMixture(channels, components)
        y = outputs(1, mixture)
        for c in range(channels):
            x = images(1, (channels, 1, 1)).view(1, channels, 1, 1).repeat(256, 1, 1, 1)
            x[:, c, 0, 0] = LEVELS
            terms = mixture.log_mass(y.expand(256, -1, -1, -1), x)[:, :, 0, 0]
            assert terms[:, c].exp().sum().item() == pytest.approx(1.0, abs=1e-4)
            assert (terms[:, :c] == terms[:1, :c]).all()
            assert c + 1 == channels or (terms[:, c + 1 :].std(0) > 1e-3).all()

    def test_the_masses_of_grey_pixels_are_those_of_the_components(self) -> None:
        mixture = PixelMixture(1, 3)
        y = outputs(1, mixture)
        logits, means, log_scales = y.view(3, 3).t()
        expected = sum(
            w * logistic_log_mass(LEVELS, m, s).exp()
            for w, m, s in zip(logits.softmax(0), means, log_scales, strict=True)
        )
        found = mixture.log_mass(y.expand(256, -1, -1, -1), LEVELS.view(256, 1, 1, 1)).exp().flatten()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)

    def test_colours_are_drawn_with_their_joint_masses(self) -> None:
        mixture = PixelMixture(3, 2)
        y = outputs(1, mixture).expand(40_000, -1, -1, -1)
        nothing = torch.zeros(40_000, 3, 1, 1)
        with runtime.seeded(0):
            x, terms = mixture.draw(y, nothing, nothing.bool())
        assert (terms == 0).all()
        # Importance weights under another law have mean one only if what is drawn has these masses.
        other = outputs(1, mixture, seed=1).expand(40_000, -1, -1, -1) * 0.2 + y * 0.8
        ratio = (mixture.log_mass(other, x) - mixture.log_mass(y, x)).sum(1).exp()
        assert ratio.mean().item() == pytest.approx(1.0, abs=0.05)
        assert ratio.std().item() > 0.1

    def test_what_is_observed_stays_and_has_its_mass(self) -> None:
        mixture = PixelMixture(3, 4)
        y, given = outputs(50, mixture), images(50, (3, 1, 1)).view(50, 3, 1, 1)
        observed = torch.tensor([False, True, True]).view(1, 3, 1, 1).expand(50, -1, -1, -1)
        x, terms = mixture.draw(y, given, observed)
        assert (x[:, 1:] == given[:, 1:]).all()
        assert not (x[:, 0] == given[:, 0]).all()
        torch.testing.assert_close(terms[:, 1:], mixture.log_mass(y, x)[:, 1:])
        assert (terms[:, 0] == 0).all()


class TestCausality:
    @every_shape
    def test_a_channel_depends_on_all_before_it_and_on_nothing_after(self, shape: tuple[int, int, int]) -> None:
        planes, height, width = shape
        model = make(shape, blocks=3).double()
        z = images(1, shape).double().requires_grad_()
        rows = [torch.autograd.grad(term, z, retain_graph=True)[0][0] for term in model.log_prob_terms(z)[0]]
        # From channels first to the order of reading: pixels, and the channels of each.
        order = torch.arange(len(rows)).view(planes, height * width).t().flatten()
        assert (torch.stack(rows)[order][:, order].triu(1) == 0).all(), "the future is seen"
        said = model.network(z.view(1, *shape))[0].sum(0)
        for i in range(height):
            for j in range(width):
                seen = (torch.autograd.grad(said[i, j], z, retain_graph=True)[0].view(shape) != 0).all(0)
                assert seen[max(0, i - 3) : i, max(0, j - 4) : j + 5].all(), f"a blind spot above {i, j}"
                assert seen[i, max(0, j - 8) : j].all(), f"a blind spot to the left of {i, j}"
                assert not seen[i, j:].any(), f"{i, j} sees itself"

    def test_far_rows_are_seen_through_the_pyramid(self) -> None:
        model = make((1, 20, 15), blocks=2)
        z = images(1, (1, 20, 15)).requires_grad_()
        model.log_prob_terms(z).view(20, 15)[19, 7].backward()
        assert z.grad is not None
        assert (z.grad.view(20, 15)[8:16] != 0).all()

    @every_shape
    def test_pixel_by_pixel_the_network_says_the_same(self, shape: tuple[int, int, int]) -> None:
        network = make(shape).network
        x = images(2, shape).view(2, *shape)
        with torch.no_grad():
            whole, canvas = network(x), network.framed(x)
            before: Memory = {}
            for i in range(shape[1]):
                above = canvas[:, :, i - 1 : i] if i else torch.zeros_like(canvas[:, :, :1])
                context = network.context(above, before)
                row: Memory = {}
                left = torch.zeros_like(canvas[:, :, :1, :1])
                for j in range(shape[2]):
                    said = network.along(left, context[..., j : j + 1], row)
                    torch.testing.assert_close(said[..., 0, 0], whole[..., i, j], atol=1e-5, rtol=1e-5)
                    left = canvas[..., i : i + 1, j : j + 1]

    def test_padding_is_not_taken_for_pixels(self) -> None:
        """A pixel of value 0 beside a border is not what lies beyond it."""
        network = make((1, 6, 6)).network
        with torch.no_grad():
            said = network(torch.zeros(1, 1, 6, 6))[0]
        assert not torch.allclose(said[:, 0, 3], said[:, 1, 3], atol=1e-4)


@every_shape
def test_terms_sum_to_the_probability(shape: tuple[int, int, int]) -> None:
    model = make(shape)
    z = images(40, shape)
    with torch.no_grad():
        terms = model.log_prob_terms(z)
        assert terms.shape == z.shape
        assert (terms < 0).all()
        torch.testing.assert_close(terms.sum(1), model.log_prob(z))
    assert model.loss(z).shape == (40,)


def test_the_masses_of_the_next_pixel_sum_to_the_probability_of_those_before() -> None:
    model = make((1, 3, 3), scale=0.3)
    for pixel in (0, 3, 8):
        z = images(1, (1, 3, 3), seed=pixel).repeat(256, 1)
        z[:, pixel] = LEVELS
        with torch.no_grad():
            terms = model.log_prob_terms(z)
        assert terms[:, pixel].exp().sum().item() == pytest.approx(1.0, abs=1e-4)
        torch.testing.assert_close(terms[:, :pixel], terms[:1, :pixel].expand(256, -1))


def test_a_uniform_model_has_eight_bits_a_pixel() -> None:
    model = ImageAutoregressive(Space.pixels(1, 4, 4), channels=8, components=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.network.head.get_parameter("bias").copy_(torch.tensor([0.0, 0.0, 6.0]))
        inner = (images(20, (1, 4, 4)) / 2.02).view(20, 16)
        bits = -model.log_prob_terms(nearest_level(inner)) / math.log(2)
    # So wide a logistic is flat in between; all else is in the tails, which the outermost levels take.
    assert (bits - bits.mean()).abs().max() < 1e-3


@every_shape
def test_drawn_images_follow_the_probability(shape: tuple[int, int, int]) -> None:
    model, other = make(shape, scale=0.1), make(shape, scale=0.1)
    with torch.no_grad(), runtime.seeded(0):
        for parameter in other.parameters():
            parameter.add_(0.003 * torch.randn_like(parameter))
        z = model.sample(1500)
        assert z.shape == (1500, math.prod(shape))
        assert torch.isin(z, LEVELS).all()
        ratio = (other.log_prob(z) - model.log_prob(z)).exp()
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.05)
    assert ratio.std().item() > 1e-3


def test_gaps_are_drawn_given_what_comes_after_them() -> None:
    model = make((1, 2, 1), scale=0.4, seed=2)
    given = torch.tensor([[math.nan, LEVELS[200]]]).expand(300, -1)
    with torch.no_grad(), runtime.seeded(1):
        drawn = model.sample_given(given, ~given.isnan(), particles=128)
        grid = torch.stack([LEVELS, LEVELS[200].expand(256)], 1)
        exact = model.log_prob(grid).softmax(0).cumsum(0)
        prior = model.log_prob_terms(grid)[:, 0].exp().cumsum(0)
    assert (drawn[:, 1] == LEVELS[200]).all()
    found = torch.histc(drawn[:, 0], 256, -1, 1).cumsum(0) / 300
    assert (exact - prior).abs().max() > 0.25, "what comes after should matter"
    assert (found - exact).abs().max() < 0.12


@pytest.mark.parametrize("shape", [(1, 8, 7), (3, 5, 6)], ids=str)
def test_what_is_observed_of_images_stays(shape: tuple[int, int, int]) -> None:
    model = make(shape)
    z = images(9, shape)
    observed = torch.rand(z.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    with torch.no_grad():
        drawn = model.sample_given(torch.where(observed, z, math.nan), observed, particles=200)
    assert (drawn[observed] == z[observed]).all()
    assert torch.isin(drawn, LEVELS).all()
    assert not (drawn == z).all()


def test_particles_are_chosen_as_their_weights_say() -> None:
    log_weight = torch.tensor([[0.5, 1.0], [0.25, 1.0], [0.25, 1.0], [0.0, 1.0]]).log()
    with runtime.seeded(0):
        chosen = torch.stack([resampled(log_weight) for _ in range(50)])
    assert (chosen[:, :, 1] == torch.arange(4)).all(), "equal ones all stay"
    counts = torch.stack([(chosen[:, :, 0] == k).sum(1) for k in range(4)], 1)
    assert (counts == torch.tensor([2, 1, 1, 0])).all()


def test_features_are_few_and_look_at_the_image() -> None:
    for shape, channels in (((1, 8, 7), 8), ((3, 40, 30), 32)):
        model = make(shape, channels=channels)
        with torch.no_grad():
            a, b = model.features(images(2, shape))
        assert a.ndim == 1
        assert len(a) <= 4096
        assert (a != b).float().mean() > 0.5


def test_a_score_depends_on_its_image_alone() -> None:
    shape = (1, 9, 12)
    model = make(shape)
    z = images(100, shape)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for function in (model.log_prob, model.features):
        scores = [
            runtime.map_rows(function, [part], device=torch.device("cpu"), height=32)
            for part in (z, z[order], z[:1], z[30:71])
        ]
        assert (scores[1] == scores[0][order.numpy()]).all()
        assert (scores[2] == scores[0][:1]).all()
        assert (scores[3] == scores[0][30:71]).all()


def test_every_parameter_learns_and_the_fit_improves() -> None:
    model = make((1, 8, 8), scale=0.0)
    ramp = torch.linspace(-0.8, 0.8, 8)
    z = nearest_level((ramp[:, None] * ramp).flatten() + 0.1 * torch.randn(64, 64, generator=torch.Generator()))
    start = model.log_prob(z).mean().item()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.train().parameters(), 5e-3 * model.rate)
    for _ in range(50):
        optimizer.zero_grad()
        model.loss(z).mean().backward()
        optimizer.step()
    assert model.log_prob(z).mean().item() > start + 30
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still, still


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 30)], ids=str)
def test_work_is_that_of_the_convolutions(shape: tuple[int, int, int]) -> None:
    network = PixelCNN(shape, 12, 16, 3, torch.zeros(12))
    found = 0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal found
        at = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        found += module.weight.numel() * at.shape[2] * at.shape[3]

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)
    network(torch.zeros(1, *shape))
    assert network.work == pytest.approx(found, rel=0.06)


def test_half_precision_is_not_let_into_masses() -> None:
    model = make((1, 8, 7), scale=0.05)
    z = images(30, (1, 8, 7))
    with torch.no_grad():
        exact = model.log_prob(z)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.log_prob(z)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.02 * exact.abs().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels=0.*at least 1"),
        ({"blocks": 1.5}, "blocks=1.5.*integer"),
        ({"components": True}, "components=True.*integer"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make((1, 4, 4), **options)


def test_options_and_abilities() -> None:
    sizes = {
        sum(parameter.numel() for parameter in make((1, 8, 8), **options).parameters())
        for options in ({}, {"channels": 4}, {"blocks": 1}, {"components": 5})
    }
    assert len(sizes) == 4
    model = make((1, 8, 8))
    assert {"log_prob", "log_prob_terms", "sample", "sample_given", "features"} <= abilities(model)
    assert model.work > sum(parameter.numel() for parameter in model.parameters())
