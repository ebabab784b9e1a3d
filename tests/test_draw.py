"""Drawing by recipe: the same rows in any pieces, in a band, without copies, under conditions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from anomgen import runtime
from anomgen.augment.band import Band, read_band
from anomgen.augment.constraints import Levels, Range, Where
from anomgen.augment.draw import COPY, Drawn, draw, draw_block, draw_chunks
from anomgen.augment.recipe import BLOCK, Recipe
from anomgen.detector import Detector
from anomgen.quality import CopyCheck
from tests.toys import CONDITIONAL, FAMILIES, small, tiny, toy

# The package has a function of the module's name.
drawing = import_module("anomgen.augment.draw")
asking = import_module("anomgen.augment.recipe")

N = 300


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "k": rng.integers(0, 5, n),
            "c": pd.Categorical(rng.choice(list("xyz"), n)),
            "t": pd.date_range("2026-01-01", periods=n, freq="h"),
            "m": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        }
    )


@cache
def fitted(family: str) -> Detector:
    return toy(family, contamination=0.1).fit(table())


@cache
def flow() -> Detector:
    return fitted("FlowDetector")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 1,024 rows, drawn from 1,024 raw ones on: what is said of blocks is said of any size."""
    for module, name in ((asking, "BLOCK"), (drawing, "BLOCK"), (drawing, "FIRST")):
        monkeypatch.setattr(module, name, 1024)


def equal(a: Drawn, b: Drawn) -> bool:
    same = a.rows.equals(b.rows) if isinstance(a.rows, pd.DataFrame) else np.array_equal(a.rows, b.rows)
    scores = a.scores is b.scores if a.scores is None or b.scores is None else np.array_equal(a.scores, b.scores)
    return bool(same and scores and np.array_equal(a.numbers, b.numbers))


def whole(recipe: Recipe, start: int, stop: int, chunk: int) -> Drawn:
    found: Drawn = drawing._joined(list(draw_chunks(recipe, start, stop, chunk)))
    return found


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_how_they_are_cut(family: str) -> None:
    recipe = Recipe(fitted(family), seed=3, band=(0.02, 1.0), constraints=[Range("a", -1.5, None)])
    long = whole(recipe, 0, 1300, 1300)
    assert equal(whole(recipe, 0, 1300, 170), long)
    middle = whole(recipe, 900, 1150, 100)
    assert middle.rows.equals(long.rows[900:1150].reset_index(drop=True))
    assert np.array_equal(middle.numbers, np.arange(900, 1150))
    assert (recipe.block, draw_block(recipe, 1, 20).rows.equals(long.rows[1024:1044].reset_index(drop=True))) == (
        1024,
        True,
    )
    assert not long.rows[:276].equals(long.rows[1024:].reset_index(drop=True))
    other = Recipe(fitted(family), seed=4, band=(0.02, 1.0), constraints=[Range("a", -1.5, None)])
    assert not draw_block(other, 0, 50).rows.equals(long.rows[:50])
    assert (dict(long.rows.dtypes), long.rows["a"].min() >= -1.5) == (dict(table().dtypes), True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_may_start_anywhere(family: str) -> None:
    detector = fitted(family)
    long = detector.sample(1100, 7)
    assert detector.sample(90, 7, start=1000).equals(long[1000:1090].reset_index(drop=True))
    seeded = detector.sample(5, (7, 1))
    assert seeded.equals(detector.sample(8, (7, 1))[:5])
    assert not seeded.equals(detector.sample(5, (7, 2)))
    with pytest.raises(ValueError, match="start=-1 must be"):
        detector.sample(3, 7, start=-1)


@pytest.mark.usefixtures("small_blocks")
def test_threads_draw_the_same_bits() -> None:
    recipe = Recipe(flow(), seed=1, band="typical", near=table()[:20])
    alone = [draw_block(recipe, block, 500) for block in range(6)]
    with runtime.threads(1), ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda block: draw_block(recipe, block, 500), range(6)))
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_seeded_block_is_one_threads_at_a_time() -> None:
    def numbers(seed: int) -> Any:
        with runtime.seeded(seed):
            first = torch.randn(1)
            with runtime.seeded(seed, 1):  # Blocks within blocks are no trouble.
                torch.randn(3)
            return torch.cat([first, *(torch.randn(1) for _ in range(200))])

    alone = [numbers(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(numbers, range(8)), strict=True))


class TestBand:
    def test_only_scores_between_the_quantiles_are_kept(self) -> None:
        detector = flow()
        drawn = draw(detector, 200, band=(0.1, 0.4), seed=2)
        low, high = np.quantile(detector.score_samples(table()), [0.1, 0.4])
        assert drawn.scores is not None
        assert low - 0.05 <= drawn.scores.min() <= drawn.scores.max() <= high + 0.05
        assert drawn.scores == pytest.approx(detector.score_samples(drawn.rows), rel=1e-5)
        assert set(drawn.refused) == {"band 0.1:0.4"}
        assert drawn.tried == 200 + sum(drawn.refused.values())

    def test_rare_rows_are_rarer_than_typical_ones(self) -> None:
        rare, typical = (draw(flow(), 100, band=band).scores for band in ("rare", "typical"))
        assert rare is not None
        assert typical is not None
        assert rare.max() <= typical.min()
        assert (read_band("rare"), read_band([0, 0.5])) == ((0.01, 0.05), (0.0, 0.5))

    def test_the_ends_are_open(self) -> None:
        band = Band.of(flow(), (0.0, 1.0))
        assert band.keeps(np.array([-1e9, 1e9])).all()
        assert band.describe() == {"low": 0.0, "high": 1.0, "floor": None, "ceiling": None}
        assert draw(flow(), 50).scores is None

    @pytest.mark.parametrize("band", ["odd", (0.5, 0.1), (0.1,), (-0.1, 1), (0.2, 1.2), ("a", "b"), 0.5])
    def test_what_is_no_band_is_refused(self, band: Any) -> None:
        with pytest.raises(ValueError, match="band="):
            Recipe(flow(), band=band)


class TestCopies:
    def data(self) -> tuple[Detector, pd.DataFrame]:
        rng = np.random.default_rng(0)
        flags = pd.DataFrame({c: rng.choice(list("ab"), N) for c in "pqr"})
        return tiny(contamination=0.1).fit(flags), flags

    def test_copies_are_refused_and_counted(self) -> None:
        detector, flags = self.data()
        some = flags[(flags["p"] == "a") & (flags["q"] == "a")]
        drawn = draw(detector, 200, train=some, allow_copies=False)
        assert not CopyCheck(some).matches(drawn.rows).any()
        assert drawn.refused[COPY] == drawn.copies > 10

    def test_allowed_copies_are_counted_and_kept(self) -> None:
        detector, flags = self.data()
        drawn = draw(detector, 200, train=flags[flags["p"] == "a"])
        assert drawn.copies == CopyCheck(flags[flags["p"] == "a"]).matches(drawn.rows).sum() > 10
        assert (drawn.refused, drawn.tried) == ({}, 200)

    def test_on_discrete_tables_only_what_is_beyond_the_held_out_rate_is_refused(self) -> None:
        detector, flags = self.data()
        some = flags[flags["p"] == "a"]
        drawn = draw(detector, 400, train=some, held_out=flags[::2], allow_copies=False)
        rate = CopyCheck(some, flags[::2]).allowed
        assert 0.2 < CopyCheck(some).matches(drawn.rows).mean() <= rate
        assert equal(drawn, whole(Recipe(detector, check=CopyCheck(some, flags[::2])), 0, 400, 90))

    def test_where_all_are_copies_the_error_says_so(self) -> None:
        detector, flags = self.data()
        with pytest.raises(ValueError, match=r"only 0 of 2,048 drawn .* training row: 100.00%\. .* give held_out="):
            draw(detector, 5, train=flags, allow_copies=False)


class TestTooFew:
    def test_the_error_names_what_refused_which_share(self) -> None:
        never = [Range("a", -9, 9), Levels("c", ["x"]), Where(lambda rows: rows["a"] > 50, "far out")]
        with pytest.raises(ValueError, match=r"max_tries=20\. Refused by .* Loosen the first") as caught:
            draw(flow(), 10, constraints=never, max_tries=20)
        shares = dict(
            cause.split(": ") for cause in str(caught.value).split("Refused by ")[1].split(". ")[0].split("; ")
        )
        assert set(shares) == {"levels c=x", "far out"}
        assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=0.02)

    def test_more_tries_let_more_pass(self) -> None:
        some = [Where(lambda rows: rows["a"] > np.quantile(table()["a"], 0.97), "high")]
        with pytest.raises(ValueError, match="high"):
            draw(flow(), 500, constraints=some, max_tries=5)
        assert len(draw(flow(), 500, constraints=some, max_tries=1000).rows) == 500


class TestConditions:
    @pytest.mark.parametrize("family", CONDITIONAL)
    def test_rows_of_a_condition_are_cut_like_others(self, family: str) -> None:
        detector = toy(family, contamination=0.1, condition="c", max_epochs=1).fit(table())
        recipe = Recipe(detector, seed=1, condition={"c": "y"})
        drawn = whole(recipe, 0, 40, 40)
        assert (drawn.rows["c"] == "y").all()
        assert equal(whole(recipe, 0, 40, 15), drawn)
        free = detector.sample(1500, 3)
        assert detector.sample(100, 3, start=1000).equals(free[1000:1100].reset_index(drop=True))
        assert set(free["c"]) == set("xyz")

    def test_labels_beside_the_rows_come_beside_the_draws(self) -> None:
        rng = np.random.default_rng(0)
        y = rng.choice(["low", "high"], N)
        X = np.where(y == "low", -3.0, 3.0)[:, None] + rng.normal(size=(N, 2))
        detector = tiny(condition="y", contamination=0.1, max_epochs=20).fit(X, y)
        drawn = draw(detector, 300, constraints=[Range("x0", None, 6)], seed=1)
        assert drawn.labels is not None
        low, high = (drawn.rows[drawn.labels == label].mean() for label in ("low", "high"))
        assert low < -1 < 1 < high
        only = draw(detector, 50, condition="high")
        assert only.labels is not None
        assert set(only.labels) == {"high"}
        near = draw(detector, 300, near=X[:5], condition="low").labels
        assert near is not None
        assert set(near) == {"low"}
        with pytest.raises(ValueError, match="say with condition= which near= rows have"):
            draw(detector, 5, near=X[:5])

    def test_a_condition_that_cannot_be_given_is_refused(self) -> None:
        with pytest.raises(ValueError, match="fitted without condition=; name the column, as in"):
            Recipe(flow(), condition="x")
        with pytest.raises(ValueError, match="cannot draw columns given others; keep the rows wanted by Levels"):
            Recipe(flow(), condition={"c": "x"})
        detector = tiny(condition="c", contamination=0.1).fit(table())
        with pytest.raises(ValueError, match="must be one value"):
            Recipe(detector, condition=["x", "y"])
        with pytest.raises(ValueError, match="which training did not have"):
            Recipe(detector, condition="new")
        with pytest.raises(ValueError, match="names 'm', which the detector was not fitted with; it has"):
            Recipe(detector, condition={"c": "x", "m": 1})

    @pytest.mark.parametrize("family", [f for f in FAMILIES if hasattr(fitted(f).model_, "sample_given")])
    def test_models_that_draw_given_columns_take_any(self, family: str) -> None:
        recipe = Recipe(fitted(family), seed=1, condition={"c": "y", "k": "3", "a": 1 / 3, "t": "2026-01-05"})
        drawn = whole(recipe, 0, 60, 60)
        assert equal(whole(recipe, 0, 60, 25), drawn)
        told = drawn.rows[["c", "k", "a", "t"]].drop_duplicates()
        assert told.iloc[0].tolist() == ["y", 3, 1 / 3, pd.Timestamp("2026-01-05")]
        assert (len(told), drawn.rows["m"].nunique() > 20) == (1, True)
        assert dict(drawn.rows.dtypes) == dict(table().dtypes)
        for condition, message in (
            ({"b": 1}, "no column 'b'"),
            ({"c": "new"}, "had no 'new' in training"),
            ({"a": None}, "'a' has no value"),
            ({"t": "soon"}, "no bound"),
        ):
            with pytest.raises(ValueError, match=message):
                Recipe(fitted(family), condition=condition)
        with pytest.raises(ValueError, match="cannot both be asked for"):
            Recipe(fitted(family), condition={"c": "y"}, near=table()[:3])

    def test_columns_follow_those_that_are_given(self) -> None:
        X = np.random.default_rng(0).normal(size=(N, 1)) * [1.0, 2.0]
        rows = draw(toy("MixtureDetector", contamination=0.1).fit(X), 100, condition={"x0": 1}).rows
        assert (rows[:, 0] == 1).all()
        assert rows[:, 1].mean() == pytest.approx(2, abs=0.4)

    def test_conditions_of_images_are_drawn_a_tile_at_a_time(self) -> None:
        rng = np.random.default_rng(0)
        images, y = rng.integers(0, 255, (60, 6, 6), dtype=np.uint8), rng.integers(0, 2, 60)
        detector: Any = small("VAEDetector", condition="y", max_epochs=1).fit(images, y)
        long = detector.sample(200, 5)
        assert np.array_equal(detector.sample(30, 5, start=120), long[120:150])
        told = detector.sample_conditions(200, 5)["y"]
        assert np.array_equal(detector.sample_conditions(30, 5, start=120)["y"], told[120:150])
        assert set(told) == {0, 1}
        recipe = Recipe(detector, seed=1, constraints=[Where(lambda x: x.reshape(len(x), -1).mean(1) > 0, "lit")])
        drawn = whole(recipe, 0, 150, 150)
        assert drawn.rows.shape == (150, 6, 6)
        assert equal(whole(recipe, 0, 150, 40), drawn)


class TestRecipe:
    def test_it_describes_itself(self) -> None:
        import json

        frame = table()
        recipe = Recipe(
            flow(), seed=5, band="rare", constraints=[Range("t", "2026-01-02")], near=frame[:3], check=CopyCheck(frame)
        )
        told = json.loads(json.dumps(recipe.describe()))
        assert (told["seed"], told["block"], told["max_tries"]) == (5, BLOCK, 100)
        assert told["band"]["low"] == 0.01
        assert told["constraints"] == [{"constraint": "range", "column": "t", "low": "2026-01-02", "high": None}]
        assert (told["near"]["rows"], told["near"]["method"], told["near"]["strength"]) == (3, "latent", 0.3)
        assert told["copies"] == {"train": recipe.check.digest, "allowed": 0.0, "kept": False}  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "options", [{"seed": -1}, {"seed": 0.5}, {"max_tries": 0}, {"strength": 2, "near": table()}]
    )
    def test_bad_parameters_are_named(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            Recipe(flow(), **options)

    def test_bad_counts_are_named(self) -> None:
        with pytest.raises(ValueError, match="n=0 must be"):
            draw(flow(), 0)
        with pytest.raises(ValueError, match="rows=0 must be"):
            draw_block(Recipe(flow()), 0, 0)
