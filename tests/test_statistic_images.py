"""Statistics of images, and those that ask for more than a likelihood."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anomgen import runtime
from anomgen.detector.state import load_arrays, module_arrays
from anomgen.encode import Encoded
from anomgen.generative import PIXEL_WIDTH, GenerativeModel, Rows, Space
from anomgen.statistic import (
    STATISTICS,
    Complexity,
    Dose,
    Likelihood,
    Statistic,
    check_abilities,
    code_length,
    statistic_class,
)
from anomgen.statistic.image import ROUNDING, energies, extremes, levels_of

SHAPE = (1, 9, 7)
CPU = torch.device("cpu")


class Bright(GenerativeModel):
    """A model with every ability in closed form: pixels are normal around 0."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z * self.scale).square().sum(1)

    def reconstruct(self, z: Tensor) -> Tensor:
        return 0.5 * z

    def features(self, z: Tensor) -> Tensor:
        return torch.cat([z, z.square()], 1)

    def score_norms(self, z: Tensor) -> Tensor:
        return torch.stack([z.norm(dim=1), (z - 1).norm(dim=1)], 1)

    def to_latent(self, z: Tensor) -> Tensor:
        return 3 * z

    def energy(self, z: Tensor) -> Tensor:
        return 0.5 * z.square().sum(1)


class Only(GenerativeModel):
    """A model with none of these abilities but those of the methods given to it."""

    scale = 1.0


def images(n: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Rows:
    """Soft grey images: pixels in the lower half, alike along a row."""
    c, h, w = shape
    generator = np.random.default_rng(seed)
    smooth = generator.random((n, c, h, 1)) * 80 + generator.random((n, c, h, w)) * 40
    z = (2 * np.floor(smooth) + 1) / 256 - 1
    return Rows(torch.from_numpy(z.reshape(n, -1)).float(), torch.zeros(n, dtype=torch.float64), shape)


def scores(statistic: Statistic, model: GenerativeModel, rows: Rows) -> np.ndarray:
    """Scores in tiles, as a detector computes them."""

    def score(z: Tensor, log_det: Tensor) -> Tensor:
        return statistic(model, Rows(z, log_det, rows.shape))

    columns = (rows.z, rows.log_det)
    return runtime.map_rows(score, columns, device=CPU, height=32, gradient=statistic.gradient)


def fitted(name: str, model: GenerativeModel, shape: tuple[int, ...] = SHAPE) -> Statistic:
    statistic = STATISTICS[name]()
    if statistic.paired:
        statistic.attach(Bright(2.0))
    statistic.fit(model, images(300, 1, shape), images(600, 2, shape))
    return statistic


MANY = ["complexity", "ratio", "gradient", "score_norms", "latent_fit", "features", "dose"]


class TestContract:
    @pytest.mark.parametrize("shape", [SHAPE, (3, 8, 8)], ids=["grey", "colour"])
    @pytest.mark.parametrize("name", MANY)
    def test_a_score_is_a_function_of_its_image(self, name: str, shape: tuple[int, ...]) -> None:
        model, some = Bright(), images(70, 3, shape)
        statistic = fitted(name, model, shape)
        crowd = scores(statistic, model, some)
        assert crowd.dtype == np.float64
        assert np.isfinite(crowd).all()
        order = np.random.default_rng(0).permutation(70)
        shuffled = Rows(some.z[order], some.log_det[order], shape)
        assert np.array_equal(scores(statistic, model, shuffled), crowd[order])
        for i in (0, 33, 69):
            assert scores(statistic, model, Rows(some.z[i : i + 1], some.log_det[i : i + 1], shape))[0] == crowd[i]

    @pytest.mark.parametrize("name", MANY)
    def test_the_state_is_all_that_was_learned(self, name: str) -> None:
        model, some = Bright(), images(40, 3)
        statistic = fitted(name, model)
        again = STATISTICS[name](**statistic.get_options())
        if again.paired:
            again.attach(Bright(7.0))
        load_arrays(again, module_arrays(statistic))
        assert np.array_equal(scores(again, model, some), scores(statistic, model, some))

    @pytest.mark.parametrize("name", MANY)
    def test_a_fit_repeats(self, name: str) -> None:
        model, some = Bright(), images(40, 3)
        torch.manual_seed(len(name))
        first = scores(fitted(name, model), model, some)
        assert np.array_equal(scores(fitted(name, model), model, some), first)

    def test_classes_are_found_by_their_names(self) -> None:
        assert all(statistic_class(kind.__name__) is kind for kind in STATISTICS.values())
        assert statistic_class("Surprise") is None

    @pytest.mark.parametrize("name", ["complexity", "dose"])
    def test_tables_are_refused(self, name: str) -> None:
        statistic, table = STATISTICS[name](), Rows(torch.zeros(9, 4), torch.zeros(9), (4,))
        with pytest.raises(ValueError, match="scores images, and these are rows of a table; use statistic='auto'"):
            check_abilities(statistic, Bright(), Space.real(4))
        with pytest.raises(ValueError, match="scores images, and these are rows of a table"):
            statistic.fit(Bright(), table, table)
        check_abilities(statistic, Bright(), Space.pixels(*SHAPE))

    def test_likelihoods_of_images_come_with_a_warning(self, recwarn: pytest.WarningsRecorder) -> None:
        check_abilities(Likelihood(), Bright(), Space.real(4))
        check_abilities(Dose(), Bright(), Space.pixels(*SHAPE))
        assert not recwarn
        check_abilities(Likelihood(), Bright(), Space.pixels(*SHAPE))
        assert "simple images are likely whatever they show" in str(recwarn.pop(UserWarning).message)
        assert not recwarn

    def test_a_second_model_is_for_those_that_ask(self) -> None:
        with pytest.raises(TypeError, match="Likelihood has no use for a second model"):
            Likelihood().attach(Bright())
        encoded = Encoded(np.zeros((2, 4), np.float32), np.zeros(2), *[np.zeros((2, 4), np.float32)] * 2)
        assert Likelihood().auxiliary(encoded, Space.real(4), np.random.default_rng(0)) is None


class TestImages:
    def test_levels_survive_the_noise_in_their_intervals(self) -> None:
        level = torch.arange(256)
        z = (2 * level + 1) / 256 - 1
        for shift in (-0.499, 0.0, 0.499):
            assert torch.equal(levels_of(z + shift * PIXEL_WIDTH).long(), level)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_code_length_is_that_of_the_file(self, channels: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 5, channels), dtype=np.uint8)
        pixels[1] = 7
        z = torch.from_numpy((2.0 * pixels.transpose(0, 3, 1, 2) + 1) / 256 - 1).float()
        expected = []
        for picture in pixels:
            file = io.BytesIO()
            Image.fromarray(picture if channels == 3 else picture[:, :, 0]).save(file, "PNG")
            expected.append(len(file.getvalue()) * 8 * np.log(2))
        assert code_length(z).tolist() == pytest.approx(expected)
        assert expected[0] > expected[1]

    def test_complexity_pays_for_the_code(self) -> None:
        some = images(5)
        some.log_det += 2.0
        expected = -0.5 * some.z.double().square().sum(1) + 2.0 + code_length(some.z.reshape(-1, *SHAPE))
        assert Complexity()(Bright(), some).tolist() == pytest.approx(expected.tolist(), rel=1e-6)

    def test_energies_are_those_of_octaves(self) -> None:
        board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).reshape(1, 1, 8, 8)
        half = torch.cat([torch.ones(1, 1, 8, 4), -torch.ones(1, 1, 8, 4)], 3)
        found = (energies(torch.cat([board + 0.5, half])).exp() - ROUNDING).tolist()
        assert found[0] == pytest.approx([1.0, 0.0, 0.0, 0.25], abs=1e-6)
        assert found[1] == pytest.approx([0.0, 0.0, 1.0, 0.0], abs=1e-6)

    def test_colour_has_an_energy_of_its_own(self) -> None:
        grey, red = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4)
        red[:, 0] = 0.9
        found = energies(torch.cat([grey, red]))[:, -1].exp() - ROUNDING
        assert found.tolist() == pytest.approx([0.0, 2 * 0.3**2], abs=1e-6)

    def test_odd_sizes_and_single_rows_of_pixels(self) -> None:
        assert energies(torch.zeros(2, 1, 7, 13)).shape == (2, 3)
        assert energies(torch.zeros(2, 1, 1, 5)).shape == (2, 1)

    def test_extremes_are_those_of_every_channel(self) -> None:
        image = torch.zeros(1, 2, 2, 2)
        image[0, 1, 0, 0] = 0.99
        # 0 lies on the edge of level 128, 0.99 in level 254.
        assert extremes(image).tolist() == [[1 / 256, 1 / 256, 1 / 256, 253 / 256]]


class TestDose:
    def odd(self, kind: str) -> Rows:
        rows = images(40, 9)
        picture = rows.z.reshape(-1, *SHAPE)
        if kind == "noise":
            picture = images(40, 9).z[:, torch.randperm(63, generator=torch.Generator().manual_seed(0))]
        elif kind == "constant":
            picture = torch.full_like(picture, 1 / 256)
        else:
            picture = picture + 0.75
        return Rows(picture.reshape(40, -1).contiguous(), rows.log_det, SHAPE)

    @pytest.mark.parametrize(
        ("able", "held_out"),
        [
            (("features", "reconstruct", "log_prob"), 600),
            (("features", "reconstruct", "log_prob"), 100),
            (("score_norms",), 100),
            (("reconstruct",), 100),
            (("log_prob",), 100),
            (("energy",), 100),
            ((), 100),
        ],
        ids=lambda given: "+".join(given) or "nothing" if isinstance(given, tuple) else str(given),
    )
    def test_odd_images_rank_below_normal_ones_whatever_a_model_can_do(
        self, able: tuple[str, ...], held_out: int
    ) -> None:
        model = type("Able", (Only,), {name: getattr(Bright, name) for name in able})()
        statistic = Dose()
        statistic.fit(model, images(held_out, 1), images(800, 2))
        normal = statistic(model, images(200, 3))
        for kind in ("noise", "constant", "bright"):
            ranked = (statistic(model, self.odd(kind))[:, None] < normal).double().mean()
            assert ranked > 0.94, kind

    @pytest.mark.parametrize("able", ["score_norms", "reconstruct", "log_prob", "energy"])
    def test_what_the_model_says_of_an_image_counts(self, able: str) -> None:
        class Deaf(Only):
            def features(self, z: Tensor) -> Tensor:
                return z[:, :3]

        found = []
        for model in (Deaf(), type("Says", (Deaf,), {able: getattr(Bright, able)})()):
            statistic = Dose()
            statistic.fit(model, images(100, 1), images(200, 2))
            found.append(statistic(model, images(20, 3)))
        assert not torch.equal(*found)

    @pytest.mark.parametrize("n", [2, 12])
    def test_a_handful_of_images_is_enough(self, n: int) -> None:
        few, statistic = images(n), Dose()
        statistic.fit(Bright(), few, few)
        assert torch.isfinite(statistic(Bright(), images(9, 5))).all()

    def test_it_adds_up_its_surprises(self) -> None:
        model, statistic = Bright(), Dose()
        statistic.fit(model, images(300, 1), images(600, 2))
        some = self.odd("bright")
        shades = statistic.range_surprise(-statistic.range(extremes(some.images)))
        assert (shades > np.log(100)).all()
        projected = statistic.features.project(model.features(some.z))
        seen = statistic.feature_surprise(statistic.features.distance(projected))
        placed = statistic.local_surprise(statistic.local(some.images))
        rest = -statistic(model, some) - 2 * seen - placed - (shades - np.log(100))
        vector = statistic._look(model, some)[1]
        assert vector.shape == (40, 3 + 2 + 3)
        assert rest.tolist() == pytest.approx(statistic.surprise(-statistic.statistics(vector)).tolist())
        assert (rest > 0).all()

    def test_held_out_images_are_hardly_surprising(self) -> None:
        model, statistic, held_out = Bright(), Dose(), images(1000, 1)
        statistic.fit(model, held_out, images(600, 2))
        # Surprises of normal rows are exponential with mean one.
        assert -statistic(model, held_out).mean() == pytest.approx(4.0, rel=0.1)
