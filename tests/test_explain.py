"""Heatmaps: surprise where the surprising pixels are, on one scale for all images, and pictures of it."""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anomgen import explain, runtime
from anomgen.generative import GenerativeModel, Rows
from anomgen.nn.blur import blur

SHAPE = (3, 9, 12)
DIM = 3 * 9 * 12


class Noise(GenerativeModel):
    """Images of standard normal pixels, with the abilities asked for."""

    def __init__(self, *able: str) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(DIM))
        for name in able:
            setattr(self, name, MethodType(globals()[f"_{name}"], self))

    def sample(self, n: int) -> Tensor:
        return torch.randn(n, DIM)


def _log_prob_terms(self: Any, z: Tensor) -> Tensor:
    return -0.5 * z.square() - 0.9


def _residual(self: Any, z: Tensor) -> Tensor:
    return z.square()


def _reconstruct(self: Any, z: Tensor) -> Tensor:
    return torch.zeros_like(z)


def _log_prob(self: Any, z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(1)


def _energy(self: Any, z: Tensor) -> Tensor:
    return 0.5 * z.square().sum(1)


def _realness(self: Any, z: Tensor) -> Tensor:
    return -z.square().sum(1)


ABILITIES = ["log_prob_terms", "residual", "reconstruct", "log_prob", "energy", "realness"]


def rows(n: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(n, DIM, generator=generator), torch.zeros(n, dtype=torch.float64), SHAPE)


@pytest.fixture(scope="module")
def spotted() -> Rows:
    """Images with one pixel, (2, 7), that is far out in one channel of the second image."""
    found = rows(3)
    assert found.images is not None
    found.images[1, 2, 2, 7] = 9.0
    return found


@pytest.mark.parametrize("ability", ABILITIES)
def test_the_spot_is_hottest_whatever_the_model_is_able_to_do(ability: str, spotted: Rows) -> None:
    maps = explain.surprise_maps(Noise(ability), spotted)
    assert maps.shape == (3, 9, 12)
    assert np.unravel_index(int(maps.argmax()), maps.shape) == (1, 2, 7)


def test_abilities_are_taken_in_the_stated_order(spotted: Rows) -> None:
    each = [explain.surprise_maps(Noise(*ABILITIES[first:]), spotted) for first in range(len(ABILITIES))]
    for found, name in zip(each, ABILITIES, strict=True):
        np.testing.assert_array_equal(found, explain.surprise_maps(Noise(name), spotted))


def test_surprise_sums_channels_and_is_smoothed_by_a_gaussian(spotted: Rows) -> None:
    raw = spotted.z.square().reshape(-1, *SHAPE).sum(1)
    found = explain.surprise(Noise("residual"), spotted)
    torch.testing.assert_close(found, blur(raw, 9 / 32))
    # A Gaussian of this width, cut off after one pixel.
    side = np.exp(-0.5 * (32 / 9) ** 2)
    line = np.array([side, 1.0, side]) / (1.0 + 2 * side)
    expected = float(line @ raw[1, 1:4, 6:9].double().numpy() @ line)
    assert float(found[1, 2, 7]) == pytest.approx(expected, rel=1e-5)


def test_smoothing_keeps_a_constant_and_one_pixel_wide_images() -> None:
    torch.testing.assert_close(blur(torch.full((2, 9, 5), 3.0), 2.0), torch.full((2, 9, 5), 3.0))
    lone = torch.randn(2, 1, 7)
    torch.testing.assert_close(blur(lone, 2.0), lone)


def test_the_slope_is_squared_in_every_pixel(spotted: Rows) -> None:
    for name in ("log_prob", "energy"):
        torch.testing.assert_close(
            explain.surprise(Noise(name), spotted), explain.surprise(Noise("residual"), spotted), msg=name
        )


def test_given_conditions_have_no_heat(spotted: Rows) -> None:
    joint = Rows(torch.cat([spotted.z, torch.full((3, 2), 50.0)], 1), spotted.log_det, SHAPE)
    np.testing.assert_array_equal(
        explain.surprise_maps(Noise("residual"), joint), explain.surprise_maps(Noise("residual"), spotted)
    )


@pytest.mark.parametrize("ability", ["residual", "log_prob"])
def test_a_map_depends_on_nothing_but_its_image(ability: str) -> None:
    model, many = Noise(ability), rows(70)
    whole = explain.surprise_maps(model, many)
    lone = explain.surprise_maps(model, Rows(many.z[40:41], many.log_det[40:41], SHAPE))
    np.testing.assert_array_equal(whole[40], lone[0])
    with runtime.threads(2):
        np.testing.assert_array_equal(whole, explain.surprise_maps(model, many))


def test_tables_and_models_without_means_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of a table"):
        explain.surprise(Noise("residual"), Rows(torch.zeros(2, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match="Noise has no heatmaps"):
        explain.surprise(Noise(), rows(2))


def test_heat_is_the_rarity_among_normal_pixels() -> None:
    model = Noise("residual")
    scale = explain.map_quantiles(model, rows(600))
    assert scale.shape[0] == 2
    assert (np.diff(scale[0]) > 0).all()
    assert (np.diff(scale[1]) > 0).all()
    heat = explain.scaled(explain.surprise_maps(model, rows(600, seed=1)), scale)
    assert heat.dtype == np.float32
    assert 0.0 <= heat.min() < 0.01
    for level in (0.5, 1.0, 2.0, 3.0):
        assert np.log10((heat >= level).mean()) == pytest.approx(-level, abs=0.1)


def test_the_scale_is_that_of_training_never_of_an_image(spotted: Rows) -> None:
    model = Noise("residual")
    heat = explain.scaled(explain.surprise_maps(model, spotted), explain.map_quantiles(model, rows(600)))
    assert heat[1, 2, 7] > 4
    assert max(heat[0].max(), heat[2].max()) < 4


def test_heat_goes_on_beyond_the_rarest_normal_pixel() -> None:
    scale = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 2.0, 3.0]])
    np.testing.assert_allclose(explain.scaled(np.array([0.0, 1.0, 3.0, 8.0, 12.0, 80.0]), scale), [0, 0, 1.5, 3, 4, 21])
    few = np.array([[1.0, 2.0], [0.0, 0.5]])
    np.testing.assert_allclose(explain.scaled(np.array([2.0, 4.0]), few), [0.5, 1.5])


def test_pixels_that_are_all_alike_have_a_scale_too() -> None:
    same = Rows(torch.ones(20, DIM), torch.zeros(20, dtype=torch.float64), SHAPE)
    scale = explain.map_quantiles(Noise("residual"), same)
    heat = explain.scaled(np.array([0.0, 3.0, 3.1, 4.0]), scale)
    assert np.isfinite(heat).all()
    assert heat[0] == 0
    assert heat[3] > heat[2] > 1


def test_many_images_are_thinned_for_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.maps, "MAX_MAPPED", 3)
    many = rows(9)
    few = Rows(many.z[[0, 4, 8]], many.log_det[[0, 4, 8]], SHAPE)
    model = Noise("residual")
    np.testing.assert_array_equal(explain.map_quantiles(model, many), explain.map_quantiles(model, few))


def test_cold_pixels_show_the_image_and_hot_ones_the_colour() -> None:
    images = np.full((1, 2, 2), 80, dtype=np.uint8)
    pictures = explain.overlay(images, np.array([[[0.0, 1.0], [4.0, 9.0]]]))
    assert pictures.dtype == np.uint8
    assert pictures.tolist() == [[[[80, 80, 80], [80, 80, 80]], [[255, 0, 0], [255, 0, 0]]]]
    half = explain.overlay(images, np.full((1, 2, 2), 2.5))
    assert half[0, 0, 0].tolist() == [168, 104, 40]


@pytest.mark.parametrize(
    "images",
    [
        np.full((2, 4, 5), 51, dtype=np.uint8),
        np.full((2, 4, 5, 1), 51, dtype=np.uint8),
        np.full((2, 4, 5, 3), 51, dtype=np.uint8),
        np.full((2, 3, 4, 5), 51, dtype=np.uint8),
        np.full((2, 1, 4, 5), 0.2),
        [np.full((4, 5), 0.2)] * 2,
    ],
)
def test_images_of_every_layout_become_colour(images: Any) -> None:
    pictures = explain.overlay(images, np.zeros((2, 4, 5)))
    assert pictures.shape == (2, 4, 5, 3)
    assert (pictures == 51).all()


def test_maps_are_stretched_to_larger_images() -> None:
    heat = np.zeros((1, 2, 2))
    heat[0, 1, 1] = 9.0
    pictures = explain.overlay(np.zeros((1, 8, 6, 3), dtype=np.uint8), heat)
    assert pictures.shape == (1, 8, 6, 3)
    assert pictures[0, 7, 5].tolist() == [255, 0, 0]
    assert (pictures[0, :3, :2] == 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 4, 5), 2.0), "float64 between 2 and 2; give uint8"),
        (np.full((2, 4, 5), np.nan), "give uint8"),
        (np.zeros((2, 4, 5, 4), dtype=np.uint8), "c 1 or 3"),
        (np.zeros((3, 4, 5), dtype=np.uint8), "3 images and 2 maps"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain.overlay(images, np.zeros((2, 4, 5)))


def test_overlays_are_written_as_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain.maps, "CHUNK", 4)
    images = np.random.default_rng(0).integers(0, 256, size=(11, 4, 5), dtype=np.uint8)
    heat = np.random.default_rng(1).uniform(0, 5, size=(11, 4, 5))
    files = explain.save_overlays(tmp_path / "new", images, heat)
    assert [files[i].name for i in (0, 1, -1)] == ["00.png", "01.png", "10.png"]
    found = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_array_equal(found, explain.overlay(images, heat))
    named = explain.save_overlays(tmp_path, images[:2], heat[:2], names=["crack/a.jpg", "b.tif"])
    assert named == [tmp_path / "crack" / "a.png", tmp_path / "b.png"]
    assert all(file.is_file() for file in named)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"], "1 names and 2 maps"),
        (["../a.png", "b"], "leads out of the folder"),
        (["/a.png", "b"], "leads out of the folder"),
        (["a.png", "a.jpg"], "would be called 'a.png'"),
    ],
)
def test_names_that_would_be_lost_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain.save_overlays(tmp_path / "new", np.zeros((2, 4, 5), dtype=np.uint8), np.zeros((2, 4, 5)), names)
    assert not (tmp_path / "new").exists()
