"""Parts of statistics: densities of statistics, slopes, latents, background models, banks of features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from anomgen.detector.state import load_arrays, module_arrays
from anomgen.encode import Encoded
from anomgen.generative import PIXEL_WIDTH, Rows, Space
from anomgen.statistic import (
    Features,
    GradientNorm,
    LatentFit,
    Ratio,
    ScoreNorms,
)
from anomgen.statistic.density import Mixture, Surprise
from anomgen.statistic.features import IMAGE_BANK, MAX_BANK, _nearest
from anomgen.statistic.local import LocalResidual
from anomgen.statistic.scores import anderson_darling
from tests.test_statistic_images import Bright, Only, images


class TestDensity:
    def test_one_component_is_a_shrunken_normal(self) -> None:
        values = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 2)) * [1.0, 5.0] + [3.0, 0.0])
        mixture = Mixture()
        mixture.fit(values)
        assert len(mixture.weights) == 1
        standard = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-4).sqrt()
        covariance = standard.t() @ standard / 400 + 0.05 * torch.eye(2)
        normal = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
        assert mixture(values[:9]).tolist() == pytest.approx(normal.log_prob(standard[:9]).tolist(), abs=1e-3)

    @pytest.mark.parametrize(("rows", "components"), [(499, 1), (500, 2), (1300, 5), (4000, 10)])
    def test_components_follow_the_rows(self, rows: int, components: int) -> None:
        mixture = Mixture()
        mixture.fit(torch.from_numpy(np.random.default_rng(0).normal(size=(rows, 2))))
        assert len(mixture.weights) == components

    def test_surprise_is_minus_the_log_tail_and_goes_on(self) -> None:
        surprise = Surprise()
        values = torch.from_numpy(np.random.default_rng(0).exponential(size=20_000))
        surprise.fit(values)
        assert surprise(torch.tensor([0.5, 1.0, 2.0, 4.0])).tolist() == pytest.approx([0.5, 1.0, 2.0, 4.0], rel=0.05)
        assert surprise(torch.tensor([20.0])).item() == pytest.approx(20.0, rel=0.15)
        assert surprise(torch.tensor([-1.0])).item() == 0.0

    def test_surprise_of_values_that_repeat_is_finite(self) -> None:
        surprise = Surprise(least=0.5)
        surprise.fit(torch.ones(300))
        found = surprise(torch.tensor([0.0, 1.5, 2.0]))
        assert found[0] == 0.0
        assert found[2] - found[1] == pytest.approx(np.log(10), rel=1e-6)


class TestScores:
    def test_gradient_norms_are_compared_with_typical_ones(self) -> None:
        statistic = GradientNorm()
        held_out = Rows(torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.zeros(2, dtype=torch.float64))
        statistic.fit(Bright(2.0), held_out, held_out)
        assert float(statistic.expected) == pytest.approx(np.log(4 * 5.0))
        z = torch.tensor([[5.0, 0.0], [10.0, 0.0], [0.0, 2.5]])
        found = statistic(Bright(2.0), Rows(z, torch.zeros(3, dtype=torch.float64)))
        assert found.tolist() == pytest.approx([0.0, -np.log(2), -np.log(2)], abs=1e-5)

    def test_conditions_and_missing_values_have_no_slope(self) -> None:
        class Masked(Bright):
            def log_prob(self, z: Tensor) -> Tensor:
                return -0.5 * (z.nan_to_num(0.0) * self.scale).square().sum(1)

        statistic = GradientNorm()
        z = torch.tensor([[2.0, float("nan"), 9.0]])
        rows = Rows(z, torch.zeros(1, dtype=torch.float64), (2,))
        statistic.fit(Masked(), rows, rows)
        assert float(statistic.expected) == pytest.approx(np.log(2.0))

    def test_score_norms_far_from_all_others_are_unlikely(self) -> None:
        model = Bright()
        statistic = ScoreNorms()
        statistic.fit(model, images(300, 1), images(300, 1))
        vector = model.score_norms(images(300, 1).z).double().log()
        assert statistic(model, images(300, 1)).tolist() == pytest.approx(statistic.mixture(vector).tolist(), abs=1e-6)
        bright = images(20, 5)
        bright.z += 1.0
        assert statistic(model, bright).max() < statistic(model, images(300, 1)).min()

    def test_anderson_darling_is_that_of_the_tables(self) -> None:
        x = np.array([-1.2, 0.3, 0.1, 2.0, -0.4])
        u, i = np.sort(norm.cdf(x)), np.arange(1, 6)
        by_hand = -5 - np.mean((2 * i - 1) * (np.log(u) + np.log(1 - u[::-1])))
        assert anderson_darling(torch.tensor([x.tolist()])).item() == pytest.approx(by_hand, rel=1e-6)

    def test_latents_that_fit_worse_or_better_than_usual_are_unlikely(self) -> None:
        class Latent(Only):
            def to_latent(self, z: Tensor) -> Tensor:
                return z

        def drawn(n: int, seed: int) -> np.ndarray:
            return np.random.default_rng(seed).normal(size=(n, 64))

        def as_rows(z: np.ndarray, shape: tuple[int, ...] = (1, 8, 8)) -> Rows:
            return Rows(torch.from_numpy(z).float(), torch.zeros(len(z), dtype=torch.float64), shape)

        for shape in ((1, 8, 8), (64,)):
            statistic = LatentFit()
            statistic.fit(Latent(), as_rows(drawn(500, 0), shape), as_rows(drawn(500, 0), shape))
            usual = statistic(Latent(), as_rows(drawn(200, 1), shape))
            perfect = norm.ppf((np.random.default_rng(3).permutation(64) + 0.5) / 64)[None]
            odd = np.concatenate([drawn(1, 2) * 2.0, drawn(1, 2) + 1.0, perfect])
            assert statistic(Latent(), as_rows(odd, shape)).max() < usual.quantile(0.05), shape
        sorted_rows = np.sort(drawn(1, 4), axis=1)
        statistic = LatentFit()
        statistic.fit(Latent(), as_rows(drawn(500, 0)), as_rows(drawn(500, 0)))
        assert statistic(Latent(), as_rows(sorted_rows)).max() < statistic(Latent(), as_rows(drawn(200, 1))).min()


class TestRatio:
    def encoded(self, space: Space, codes: bool, n: int = 400) -> Encoded:
        generator = np.random.default_rng(0)
        z = ((2.0 * generator.integers(0, 256, (n, space.dim)) + 1) / 256 - 1).astype(np.float32)
        half = np.float32(0 if codes else 0.5 * PIXEL_WIDTH)
        return Encoded(z, np.zeros(n), z if codes else z - half, z if codes else z + half)

    @pytest.mark.parametrize("codes", [False, True])
    def test_pixels_move_to_other_levels_with_their_intervals(self, codes: bool) -> None:
        space = Space.pixels(1, 6, 6)
        rows = self.encoded(space, codes)
        before = rows.z.copy()
        made = Ratio(mutation=0.3).auxiliary(rows, space, np.random.default_rng(1))
        assert np.array_equal(rows.z, before)
        moved = made.z != rows.z
        assert moved.mean() == pytest.approx(0.3 * 255 / 256, abs=0.02)
        level = (made.z + 1) * 128 - 0.5
        assert np.array_equal(level, np.rint(level))
        assert made.z.min() > -1
        assert made.z.max() < 1
        if codes:
            assert made.low is made.z
        else:
            assert np.allclose(made.high - made.low, PIXEL_WIDTH)
            assert np.allclose(0.5 * (made.low + made.high), made.z)

    def test_conditions_of_images_stay(self) -> None:
        base = Space.pixels(1, 4, 4)
        space = Space(
            base.shape, (*base.names, "label"), (*base.kinds, "cell"), (*base.edges, ()), (False,) * 17,
            condition=(False,) * 16 + (True,),
        )  # fmt: skip
        rows = self.encoded(space, True)
        rows.z[:, 16] = 5.0
        made = Ratio(mutation=1.0).auxiliary(rows, space, np.random.default_rng(1))
        assert (made.z[:, 16] == 5.0).all()

    def test_columns_of_tables_take_values_of_other_rows(self) -> None:
        space = Space(
            (3,), ("a", "b", "b is missing"), ("real", "real", "cell"), ((), (), (0.0,)), (False, True, False)
        )
        z = np.arange(3000, dtype=np.float32).reshape(1000, 3)
        rows = Encoded(z, np.zeros(1000), z - 0.5, z + 0.5)
        made = Ratio(mutation=0.4).auxiliary(rows, space, np.random.default_rng(1))
        moved = made.z != z
        assert moved.mean(0) == pytest.approx([0.4, 0.4, 0.4], abs=0.05)
        assert np.array_equal(moved[:, 1], moved[:, 2])
        assert not np.array_equal(moved[:, 0], moved[:, 1])
        assert np.array_equal(made.z[:, 2] - made.z[:, 1], np.ones(1000))
        assert (np.mod(made.z, 3) == [0, 1, 2]).all()
        assert np.array_equal(made.low, made.z - 0.5)

    def test_the_background_is_subtracted(self) -> None:
        statistic = Ratio()
        some = images(5)
        some.log_det += 9.0
        with pytest.raises(ValueError, match="Ratio needs a second model"):
            statistic.fit(Bright(), some, some)
        statistic.attach(Bright(2.0))
        statistic.fit(Bright(), some, some)
        expected = 1.5 * some.z.double().square().sum(1)
        assert statistic(Bright(), some).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert "background.scale" in statistic.state_dict()

    def test_a_background_sized_by_data_loads(self) -> None:
        class Kernel(Bright):
            sized_by_data = ("rows",)

            def __init__(self, n: int) -> None:
                super().__init__()
                self.register_buffer("rows", torch.ones(n))

        saved, empty = Ratio(), Ratio()
        saved.attach(Kernel(5))
        empty.attach(Kernel(0))
        load_arrays(empty, module_arrays(saved))
        assert len(empty.state_dict()["background.rows"]) == 5

    @pytest.mark.parametrize("mutation", [0.0, 1.5])
    def test_a_share_is_a_share(self, mutation: float) -> None:
        with pytest.raises(ValueError, match=f"mutation={mutation} must be a share"):
            Ratio(mutation)


class TestFeatures:
    def test_directions_keep_their_proportions(self) -> None:
        class Stretched(Only):
            def features(self, z: Tensor) -> Tensor:
                return z[:, :2] * torch.tensor([1.0, 3.0])

        z = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 4))).float()
        train = Rows(z, torch.zeros(3000, dtype=torch.float64), (1, 2, 2))
        statistic = Features(neighbours=5)
        statistic.fit(Stretched(), train, train)
        assert statistic.bank.var(0).mean().item() == pytest.approx(1.0, rel=0.05)
        far = Rows(torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]), torch.zeros(2, dtype=torch.float64), (1, 2, 2))
        near, wide = (-statistic(Stretched(), far)).tolist()
        # Units of the mean standard deviation, sqrt((1 + 9) / 2).
        assert near == pytest.approx(6.0 / 5**0.5, rel=0.2)
        assert wide == pytest.approx(3 * 6.0 / 5**0.5, rel=0.2)

    def test_parts_of_features_count_alike(self) -> None:
        class Both(Only):
            feature_parts = (2, 1)

            def features(self, z: Tensor) -> Tensor:
                return torch.cat([z[:, :2], 100 * z[:, 2:3]], 1)

        z = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 4))).float()
        train = Rows(z, torch.zeros(3000, dtype=torch.float64), (1, 2, 2))
        statistic = Features()
        statistic.fit(Both(), train, train)
        far = torch.tensor([[9.0, 0, 0, 0], [0, 0, 9.0, 0]])
        one, other = (-statistic(Both(), Rows(far, torch.zeros(2, dtype=torch.float64), (1, 2, 2)))).tolist()
        # The second part is a single number, which has the variance of both numbers of the first.
        assert other / one == pytest.approx(2**0.5, rel=0.15)
        assert torch.allclose(statistic.shares, torch.tensor([1, 1, 2**0.5 / 100]), rtol=0.1)

    def test_what_lies_outside_of_the_directions_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Turned(Only):
            def features(self, z: Tensor) -> Tensor:
                return torch.stack([3 * z[:, 0] + z[:, 1], 3 * z[:, 0] - z[:, 1]], 1)

        monkeypatch.setattr("anomgen.statistic.features.DIRECTIONS", 1)
        z = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 4))).float()
        train = Rows(z, torch.zeros(4000, dtype=torch.float64), (1, 2, 2))
        statistic = Features()
        statistic.fit(Turned(), train, train)
        found = Turned().features(torch.tensor([[1.0, 2.0, 0, 0]]))
        # The first direction holds 3 z0, of unit variance after scaling; z1 lies across.
        projected = statistic.project(found)
        assert projected.abs().item() == pytest.approx(1.0, rel=0.1)
        assert statistic.left_out(found, projected).item() == pytest.approx(4 / 9, rel=0.1)

    def test_a_row_that_trained_is_not_its_own_neighbour(self) -> None:
        train = images(300)
        statistic = Features(neighbours=1)
        statistic.fit(Bright(), train, train)
        assert (statistic(Bright(), train) < -0.01).all()

    def test_large_banks_are_searched_exactly(self) -> None:
        generator = torch.Generator().manual_seed(0)
        bank, some = torch.randn(MAX_BANK + 24, 6, generator=generator), torch.randn(40, 6, generator=generator)
        bank = bank[: len(bank) // 16 * 16]
        found = _nearest(some, bank, 6).sort(1).values
        assert torch.equal(found, torch.cdist(some, bank).topk(6, largest=False).indices.sort(1).values)

    def test_many_images_are_all_remembered(self) -> None:
        class Two(Only):
            def features(self, z: Tensor) -> Tensor:
                return z[:, :2]

        n = MAX_BANK + 21
        z = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 4))).float()
        train = Rows(z, torch.zeros(n, dtype=torch.float64), (1, 2, 2))
        statistic = Features()
        statistic.fit(Two(), train, train)
        assert IMAGE_BANK > n - 16 <= len(statistic.bank) <= n
        assert len(statistic.bank) % 16 == 0
        assert torch.isfinite(statistic(Two(), Rows(z[:9], train.log_det[:9], (1, 2, 2)))).all()


class TestLocalResidual:
    def images(self, n: int, seed: int) -> torch.Tensor:
        """Smooth images: sums of two waves."""
        rng = np.random.default_rng(seed)
        i, j = np.mgrid[:16, :12] / 8
        a, b = rng.normal(size=(2, n, 1, 1))
        smooth = 0.3 * (a * np.sin(i) + b * np.cos(j)) + rng.normal(0, 0.01, (n, 16, 12))
        return torch.from_numpy(smooth[:, None]).float()

    def test_a_small_defect_stands_out_of_a_strong_pattern(self) -> None:
        local, normal = LocalResidual(), self.images(200, 3)
        local.fit(self.images(300, 1), self.images(100, 2))
        scratched = normal.clone()
        scratched[:, :, 9:11, 4:6] += 0.05
        assert (local(scratched)[:, None] > local(normal)).double().mean() > 0.99
        # The same energy spread over the image is none of its business.
        dimmed = normal + 0.05 * 2 / (16 * 12) ** 0.5
        assert (local(dimmed)[:, None] > local(normal)).double().mean() < 0.9

    def test_every_image_is_its_own_measure(self) -> None:
        local, normal = LocalResidual(), self.images(64, 3)
        local.fit(self.images(300, 1), self.images(100, 2))
        order = torch.randperm(64)
        assert torch.equal(local(normal[order]), local(normal)[order])

    def test_few_images_of_many_pixels(self) -> None:
        local = LocalResidual()
        local.fit(self.images(6, 1), self.images(3, 2))
        assert local.span.shape == (192, 3)
        assert torch.isfinite(local(self.images(5, 3))).all()
        np.testing.assert_allclose((local.span.t() @ local.span).numpy(), np.eye(3), atol=1e-4)
