"""The denoiser of images: what it knows before training, what it learns, and what its answers depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.generative import PIXEL_WIDTH, Space
from anomgen.nn.denoiser import Denoiser
from anomgen.nn.unet import ENDS, FEATURES, UNet, denoiser_of, noise_of_level

SHAPES = [(1, 8, 8), (3, 7, 5), (1, 1, 3), (2, 33, 20)]


def make(shape: tuple[int, int, int], given: int = 0, channels: int = 8, shake: float = 0.0) -> UNet:
    with runtime.seeded(0):
        net = UNet(shape, given, channels)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(shake * torch.randn_like(parameter))
    return net.eval()


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Columns of pixels between the extremes."""
    return torch.rand(math.prod(shape), n, generator=torch.Generator().manual_seed(seed)) - 0.5


def empty(n: int) -> Tensor:
    return torch.empty(0, n)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_and_any_number_of_channels(shape: tuple[int, int, int]) -> None:
    net, x = make(shape, shake=0.1), images(4, shape)
    found = net(x, torch.full((4,), 0.3), empty(4))
    assert found.shape == x.shape
    assert found.isfinite().all()
    assert net.features(x, torch.full((4,), 0.3), empty(4)).shape[0] == 4


def test_untrained_it_knows_standard_normal_pixels() -> None:
    x, level = images(2, (1, 8, 8)) * 0.5, torch.tensor([0.05, 0.2])
    found = make((1, 8, 8))(x, level, empty(2))
    torch.testing.assert_close(found, x * level / (1 + level**2), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("extreme", [0, 1])
def test_pixels_taken_for_extreme_have_the_noise_of_that_level(extreme: int) -> None:
    net, noise, level = make((2, 4, 4)), 0.5 * torch.randn(32, 3), torch.tensor([0.001, 0.02, 1.0])
    before = net(ENDS[extreme] + level * noise, level, empty(3))
    # For each of the 4 pixels of a square: 2 channels between, 2 black, 2 white.
    net.last.bias.data.reshape(4, 3, 2)[:, 1 + extreme] = 30.0
    x = ENDS[extreme] + level * noise
    expected = noise_of_level((x - ENDS[extreme]).t(), level[:, None])[0].t()
    torch.testing.assert_close(net(x, level, empty(3)), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(before, expected, atol=1e-2)


@pytest.mark.parametrize("level", [5e-4, 2e-3, 0.01, 0.0389, 0.0391, 0.3, 3.0])
def test_noise_of_a_known_level_is_the_posterior_mean(level: float) -> None:
    inside = torch.linspace(-PIXEL_WIDTH / 2, PIXEL_WIDTH / 2, 20_001, dtype=torch.float64)
    away = torch.tensor([-0.004, 0.0, 0.003, 0.0078, 0.01 + level])
    noise, log_density = noise_of_level(away[None], torch.tensor([[level]]))
    for k, a in enumerate(away.double()):
        each = (a - inside) / level
        weight = (-0.5 * each.square()).exp()
        density = weight.mean() / (level * math.sqrt(2 * math.pi))
        if density < 1e-12:
            continue
        assert noise[0, k].item() == pytest.approx(((each * weight).mean() / weight.mean()).item(), rel=2e-3, abs=2e-3)
        assert log_density[0, k].item() == pytest.approx(density.log().item(), rel=2e-3, abs=5e-3)


def test_pixels_far_from_an_extreme_give_finite_answers_at_all_levels() -> None:
    level = torch.logspace(-4, 2, 13)
    x = torch.linspace(-3, 3, 64)[:, None].expand(-1, 13)
    found = make((1, 8, 8), shake=0.3)(x, level, empty(13))
    assert found.isfinite().all()


def test_an_image_looks_across_its_whole_area_and_at_all_channels() -> None:
    net = make((2, 12, 12), shake=0.2)
    x = images(1, (2, 12, 12))
    changed = x.clone()
    changed[-1] += 0.3
    moved = (net(changed, torch.ones(1), empty(1)) - net(x, torch.ones(1), empty(1))).abs()[:, 0]
    assert moved[0] > 0
    assert moved[:144].mean() > 0


def test_level_and_context_matter() -> None:
    net, x = make((1, 6, 6), given=2, shake=0.2), images(3, (1, 6, 6))
    level = torch.full((3,), 0.4)
    before = net(x, level, torch.zeros(2, 3))
    assert not torch.allclose(before, net(x, level, torch.ones(2, 3)))
    net.frequencies.zero_()
    assert not torch.allclose(before, net(x, level, torch.zeros(2, 3)))


def test_images_pass_alone_as_they_do_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, level = make((1, 8, 8), shake=0.2), images(64, (1, 8, 8)), torch.rand(64) + 0.1
    with torch.no_grad():
        whole, seen = net(x, level, empty(64)), net.features(x, level, empty(64))
        monkeypatch.setattr("anomgen.nn.unet.CACHED", 16 * 4 * 4 * 8 + 1)
        torch.testing.assert_close(net(x, level, empty(64)), whole)
        torch.testing.assert_close(net.features(x, level, empty(64)), seen)
    assert net._at_once(x) == 64
    with torch.no_grad():
        assert net._at_once(x) == 16


def test_features_are_at_most_so_many() -> None:
    net = make((1, 64, 64), channels=32)
    found = net.features(images(2, (1, 64, 64)), torch.ones(2), empty(2))
    assert 500 < found.shape[1] <= FEATURES


def test_work_is_counted() -> None:
    net = make((1, 8, 8), channels=8)
    # One scale of 4 x 4 squares: pointwise layers and two blocks.
    first, last, block = (12 + 1) * 8, (8 + 1) * 12, 8 * 25 + 8 + (8 + 1) * 16 + (16 + 1) * 8
    assert net.work == 16 * (first + last + 2 * block)
    assert make((1, 16, 16)).work > 3 * net.work


def test_the_event_shape_chooses_the_network() -> None:
    assert isinstance(denoiser_of(Space.pixels(3, 6, 5), 0, (8,), 8), UNet)
    assert isinstance(denoiser_of(Space.real(3), 0, (8,), 8), Denoiser)


def test_it_learns_what_neighbours_tell() -> None:
    """Stripes of random height: a pixel's row tells it, so the error falls far below that of single pixels."""
    net = make((1, 8, 8)).train()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    with runtime.seeded(1):
        for step in range(150):
            x = (torch.rand(1, 8, 1, 64) - 0.5).expand(1, 8, 8, 64).reshape(64, 64)
            noise, level = torch.randn(64, 64), torch.full((64,), 0.3)
            loss = (net(x + level * noise, level, empty(64)) - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 0:
                start = loss.item()
    assert loss.item() < 0.5 * start
