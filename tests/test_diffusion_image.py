"""Diffusion on images: bounds against known entropies, and what every ability tells of an image."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import anomgen
from anomgen import runtime
from anomgen.families.diffusion import (
    OBJECTIVES,
    Diffusion,
    DiffusionDetector,
    ImageFlowMatching,
    ImageScoreMatching,
    ImageVariational,
)
from anomgen.generative import PIXEL_WIDTH, Space, abilities

KINDS: dict[str, type[Diffusion]] = {
    "score_matching": ImageScoreMatching,
    "ddpm": ImageVariational,
    "flow_matching": ImageFlowMatching,
}
SPACE = Space.pixels(1, 8, 8)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def within(levels: Tensor, seed: int = 0) -> Tensor:
    """Rows in model space from levels, with noise within each of them."""
    generator = torch.Generator().manual_seed(seed)
    return (levels.float() + torch.rand(levels.shape, generator=generator)) * PIXEL_WIDTH - 1


def stripes(n: int, seed: int = 0) -> Tensor:
    """Levels of images whose rows are black or grey."""
    generator = torch.Generator().manual_seed(seed)
    bright = torch.randint(2, (n, 8, 1), generator=generator)
    return (bright * 160).expand(n, 8, 8).reshape(n, 64)


def coins(n: int, seed: int = 0) -> Tensor:
    """Levels of images of independent black and white pixels: exactly one bit each."""
    return 255 * torch.randint(2, (n, 64), generator=torch.Generator().manual_seed(seed))


def make(objective: str, space: Space = SPACE, **options: Any) -> Any:
    with runtime.seeded(0):
        return KINDS[objective](space, **{"channels": 16, **options}).eval()


def train(model: Any, levels: Tensor, steps: int) -> None:
    with runtime.seeded(1):
        model.prepare((levels + 0.5) * PIXEL_WIDTH - 1)
        ((parameters, loss),) = model.objectives()
        optimizer = torch.optim.Adam(parameters, 1e-2)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
            optimizer.zero_grad()
            loss(within(levels[torch.randint(len(levels), (64,))], step)).mean().backward()
            optimizer.step()
        with torch.no_grad():
            model.conclude()


@cache
def learned(objective: str) -> Any:
    model = make(objective)
    train(model, stripes(2000), 400)
    return model


def test_the_bound_of_fair_pixels_is_just_above_one_bit() -> None:
    model = make("ddpm")
    train(model, coins(2000), 120)
    z = within(coins(500, 1), 7)
    log_width = math.log(PIXEL_WIDTH)
    with torch.no_grad(), runtime.seeded(3):
        fresh = torch.stack([model.bound(z).mean() for _ in range(20)]).mean()
        fixed = model.log_prob(z).mean()
    bits = -(fresh / 64 + log_width) / math.log(2)
    assert 0.97 < bits < 1.2
    assert fixed.item() == pytest.approx(fresh.item(), abs=0.06 * 64 * math.log(2))


def test_nothing_learned_is_no_more_likely_than_it_is() -> None:
    """Uniform pixels have eight bits; an untrained bound must not promise fewer."""
    z = within(torch.randint(256, (400, 64), generator=torch.Generator().manual_seed(0)))
    with torch.no_grad(), runtime.seeded(0):
        found = torch.stack([make("ddpm").bound(z).mean() for _ in range(20)]).mean()
    assert -(found / 64 + math.log(PIXEL_WIDTH)) / math.log(2) > 8.0


@every_objective
def test_abilities(objective: str) -> None:
    model, z = make(objective), within(stripes(3))
    has = abilities(model)
    assert {"score_norms", "residual", "reconstruct", "features"} <= has
    assert "energy" not in has
    assert ("log_prob" in has) == (objective != "score_matching")
    assert ("to_latent" in has) == (objective == "flow_matching")
    assert model.score_norms(z).shape == (3, 10)
    assert model.residual(z).shape == model.reconstruct(z).shape == (3, 64)
    assert model.passes == 10
    assert model.work == model.denoiser.work > 0


@every_objective
def test_training_and_its_judge(objective: str) -> None:
    model, untrained, z = learned(objective), make(objective), within(stripes(200, 5), 5)
    with torch.no_grad():
        assert torch.equal(model.monitor(z), model.monitor(z))
        assert not torch.equal(model.loss(z), model.loss(z))
        assert model.monitor(z).mean() < untrained.monitor(z).mean() - 1
        with runtime.seeded(0):
            fresh = torch.stack([model.loss(z).mean() for _ in range(20)]).mean().item()
    # One fixed noise, but levels spread over the rows.
    assert model.monitor(z).mean().item() == pytest.approx(fresh, rel=0.2, abs=3.0)


@every_objective
def test_score_norms_tell_foreign_images(objective: str) -> None:
    model = learned(objective)
    foreign = stripes(200, 6).reshape(-1, 8, 8).transpose(1, 2).reshape(-1, 64)
    with torch.no_grad():
        own = model.score_norms(within(stripes(200, 5), 5)).log()
        other = model.score_norms(within(foreign, 6)).log()
    away = ((other - own.mean(0)) / own.std(0)).square().mean(1)
    assert (away > ((own - own.mean(0)) / own.std(0)).square().mean(1).quantile(0.95)).float().mean() > 0.9


@every_objective
def test_the_residual_points_at_a_wrong_pixel(objective: str) -> None:
    levels = stripes(100, 5)
    spoiled = levels.clone()
    spoiled[:, 27] = 160 - spoiled[:, 27]
    with torch.no_grad():
        more = learned(objective).residual(within(spoiled, 5)) - learned(objective).residual(within(levels, 5))
    assert more.mean(0).argmax() == 27
    # Its right-hand neighbour and it pass as one square.
    assert (more.topk(2).indices == 27).any(1).float().mean() > 0.8


@every_objective
def test_reconstructions_are_of_what_was_learned(objective: str) -> None:
    levels = stripes(100, 5)
    spoiled = levels.clone()
    spoiled[:, 27] = 160 - spoiled[:, 27]
    z = within(levels, 5)
    with torch.no_grad():
        back = learned(objective).reconstruct(within(spoiled, 5))
    assert (back - z)[:, 27].abs().mean() < 0.5 * (within(spoiled, 5) - z)[:, 27].abs().mean()
    assert (back - z).square().mean() < 0.05


@every_objective
def test_samples_look_like_the_images(objective: str) -> None:
    with runtime.seeded(0), torch.no_grad():
        drawn = learned(objective).sample(200).reshape(-1, 8, 8)
    assert drawn.std(2).mean() < 0.35 * drawn.std()
    assert drawn.mean().item() == pytest.approx(within(stripes(500)).mean().item(), abs=0.15)


def test_latents_of_known_images_are_like_noise() -> None:
    model = learned("flow_matching")
    with torch.no_grad():
        own = model.to_latent(within(stripes(200, 5), 5))
        other = model.to_latent(within(coins(200, 5), 5))
    assert own.shape == (200, 64)
    # A short training and ten steps: not quite unit variance, but foreign images are far from it.
    assert 0.4 < own.square().mean() < 1.6
    assert abs(own.mean()) < 0.2
    assert other.square().mean() > 4


@every_objective
def test_an_image_is_told_by_itself_alone(objective: str) -> None:
    model, z = learned(objective), within(stripes(96, 5), 5)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1))
    for name in ("score_norms", "residual", "features", "reconstruct", "log_prob", "to_latent"):
        if name in abilities(model):
            scores = [
                runtime.map_rows(getattr(model, name), [part], device=torch.device("cpu"), height=32)
                for part in (z, z[order], z[:1])
            ]
            assert (scores[1] == scores[0][order.numpy()]).all(), name
            assert (scores[2] == scores[0][:1]).all(), name


@every_objective
def test_detectors_take_images_save_and_draw(objective: str, tmp_path: Path) -> None:
    X = stripes(150).reshape(-1, 8, 8).numpy().astype(np.uint8)
    options = {"channels": 8, "steps": 3, "max_epochs": 2, "random_state": 0, "verbose": False}
    detector = DiffusionDetector(objective=objective, statistic="features", **options).fit(X)
    detector.save(tmp_path / "m")
    again = anomgen.load(tmp_path / "m")
    assert np.array_equal(again.score_samples(X), detector.score_samples(X))
    assert detector.sample(3).shape == (3, 8, 8)
    assert isinstance(detector.model_, KINDS[objective])


def test_labels_can_be_a_condition() -> None:
    model = make(
        "ddpm",
        Space(
            (1, 2, 2), tuple("abcdy"), ("pixel",) * 4 + ("real",), ((),) * 5, (False,) * 5, (), (False,) * 4 + (True,)
        ),
    )
    with runtime.seeded(0), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        z = torch.cat([torch.rand(4, 4) - 0.5, torch.zeros(4, 1)], 1)
        z2 = z.clone()
        z2[:, 4] = 1.0
        assert not torch.allclose(model.score_norms(z), model.score_norms(z2))
        assert model.reconstruct(z2).shape == (4, 5)
        assert (model.reconstruct(z2)[:, 4] == 1.0).all()
        assert model.sample(3, torch.ones(3, 1)).shape == (3, 5)


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ({"channels": 8}, {"score_norms", "reconstruct", "sample"}),
        ({"noise_levels": (0.2, 0.8)}, {"reconstruct"}),
        ({"steps": 5}, {"sample"}),
        ({"objective": "ddpm"}, {"score_norms", "reconstruct", "sample"}),
    ],
)
def test_options_change_what_they_say(changed: dict[str, Any], moved: set[str]) -> None:
    def observed(objective: str = "score_matching", **options: Any) -> dict[str, Tensor]:
        model, z = make(objective, **{"steps": 3, **options}), within(stripes(8))
        train(model, stripes(64), 3)
        with torch.no_grad(), runtime.seeded(0):
            return {"score_norms": model.score_norms(z), "reconstruct": model.reconstruct(z), "sample": model.sample(4)}

    before, after = observed(), observed(**changed)
    assert moved <= {name for name in before if not torch.equal(before[name], after[name])}


def test_channels_are_counted() -> None:
    with pytest.raises(ValueError, match=r"channels=0.*at least 1"):
        DiffusionDetector(channels=0).build(SPACE)
