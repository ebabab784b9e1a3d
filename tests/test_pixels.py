"""Pixels under a decoder: masses that sum to one, and draws, means and imitations that follow them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.generative import Space
from anomgen.nn.observation import Observation, make_observation
from anomgen.nn.pixels import LEAST, Pixels

LEVELS = (2 * torch.arange(256.0) + 1) / 256 - 1
LAWS = [(0.3, -2.0), (-1.4, 0.5), (0.99, -50.0), (-0.5, -3.0), (3.0, 3.0), (0.003, 2.0)]


def pixel(location: float, raw: float) -> tuple[Pixels, Tensor]:
    """One pixel, and what a decoder says of it."""
    return Pixels(Space.pixels(1, 1, 1)).requires_grad_(False), torch.tensor([[location], [raw]])


def masses(location: float, raw: float) -> Tensor:
    pixels, outputs = pixel(location, raw)
    return pixels.log_prob(outputs, LEVELS[None]).double().exp()


@pytest.mark.parametrize(("location", "raw"), LAWS)
def test_masses_of_a_pixel_sum_to_one_and_give_its_mean(location: float, raw: float) -> None:
    found = masses(location, raw)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
    pixels, outputs = pixel(location, raw)
    mean = float(pixels.expected(outputs, LEVELS[None, :1]))
    # The closed form moves no probability within a level, the masses move it to the middle.
    assert mean == pytest.approx(float(found @ LEVELS.double()), abs=1 / 256)


@pytest.mark.parametrize(("location", "raw"), LAWS[:4])
def test_draws_follow_the_masses_and_lie_on_levels(location: float, raw: float) -> None:
    pixels, outputs = pixel(location, raw)
    with runtime.seeded(0):
        drawn = pixels.sample(outputs.expand(-1, 40_000))[0]
        near = pixels.imitate(outputs.expand(-1, 40_000))[0]
    levels = ((drawn + 1) * 128 - 0.5).round().long()
    assert torch.equal(LEVELS[levels], drawn)
    share = levels.bincount(minlength=256) / len(levels)
    assert float((share - masses(location, raw)).abs().max()) < 0.01
    assert near.abs().max() <= 1
    assert float(near.mean()) == pytest.approx(float(drawn.mean()), abs=0.02)


def test_images_add_up_pixel_by_pixel_and_blocks_are_locations_then_scales() -> None:
    pixels = Pixels(Space.pixels(2, 2, 3)).requires_grad_(False)
    with runtime.seeded(0):
        outputs, x = torch.randn(24, 5), LEVELS[torch.randint(256, (12, 5))]
        pixels.log_scale.normal_()
    total = torch.zeros(5)
    for j in range(12):
        one, _ = pixel(0.0, 0.0)
        one.log_scale.copy_(pixels.log_scale[j : j + 1])
        total += one.log_prob(outputs[[j, 12 + j]], x[j : j + 1])
    torch.testing.assert_close(pixels.log_prob(outputs, x), total)
    torch.testing.assert_close(pixels.log_prob(outputs[:, :1], x)[0], total[0])


def test_a_wrong_certainty_costs_a_bounded_number_of_nats_and_teaches() -> None:
    pixels, _ = pixel(0.0, 0.0)
    outputs = torch.tensor([[-5.0], [-100.0]], requires_grad=True)
    worst = pixels.log_prob(outputs, LEVELS[None, -1:])
    assert worst.item() > -6.1 * torch.tensor(-LEAST).exp().item()
    worst.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad[0] > 0


def test_an_imitation_passes_gradients_on() -> None:
    pixels, _ = pixel(0.0, 0.0)
    outputs = torch.tensor([[0.1], [-1.0]], requires_grad=True)
    with runtime.seeded(0):
        pixels.imitate(outputs.expand(-1, 100)).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad != 0).all()


def test_the_event_shape_decides() -> None:
    assert isinstance(make_observation(Space.pixels(1, 2, 2)), Pixels)
    assert isinstance(make_observation(Space.real(4)), Observation)
    for space in (Space.real(4), Space.pixels(1, 2, 2)):
        with pytest.raises(ValueError, match="decoder='laplace'"):
            make_observation(space, "laplace")
