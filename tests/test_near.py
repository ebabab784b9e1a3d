"""More of given rows: how far each family moves them, and that it moves them at all."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from anomgen.augment.draw import UNCHANGED, draw
from anomgen.augment.near import METHODS, Near, read_strength
from anomgen.augment.recipe import Recipe
from anomgen.detector import Detector
from anomgen.generative import abilities
from tests.toys import FAMILIES, small, tiny, toy

N = 300


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": a,
            "b": a + 0.3 * rng.normal(size=n),
            "k": rng.integers(0, 6, n),
            "c": pd.Categorical(rng.choice(list("xyz"), n)),
            "m": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        }
    )


@cache
def fitted(family: str) -> Detector:
    return toy(family, contamination=0.1, max_epochs=10).fit(table())


def odd() -> pd.DataFrame:
    """Rows far out on one side, all of one level."""
    rows = table(20, 1)
    rows["a"], rows["b"], rows["c"] = (
        rows["a"] * 0.1 + 2.5,
        rows["b"] * 0.1 + 2.5,
        pd.Categorical(["x"] * 20, list("xyz")),
    )
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_rows_are_near_the_given_ones_and_none_of_them(family: str) -> None:
    rows = odd()
    drawn = draw(fitted(family), 400, near=rows, strength=0.3, seed=1).rows
    usual = draw(fitted(family), 400, seed=1).rows
    assert drawn["a"].mean() - usual["a"].mean() > 0.8
    assert dict(drawn.dtypes) == dict(usual.dtypes)
    both = pd.concat([drawn, rows.drop_duplicates()])
    assert not both.duplicated()[len(drawn) :].any()
    # Levels move too, and mostly stay.
    assert 0.02 < (drawn["c"] != "x").mean() < 0.6
    assert drawn["k"].nunique() > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stronger_the_further(family: str) -> None:
    near = [Near(fitted(family), table()[:50], strength) for strength in (0.1, 0.5)]

    def moved(found: Near) -> tuple[float, float]:
        rows, sources = found.sample(1024, (3,))
        given = table()[:50].iloc[sources].reset_index(drop=True)
        changed = (rows["c"] != given["c"]).mean() + (rows["m"].isna() != given["m"].isna()).mean()
        return float((rows["a"] - given["a"]).abs().mean()), float(changed)

    (little, few), (far, many) = map(moved, near)
    assert 0 < little < 0.8 * far
    assert 0 < few < 0.8 * many


@pytest.mark.parametrize("family", FAMILIES)
def test_the_method_is_the_best_that_the_model_can_do(family: str) -> None:
    able = abilities(fitted(family).model_)
    method = Near(fitted(family), table()[:3]).describe()["method"]
    assert method == ("latent" if "perturb" in able else "redraw" if "sample_given" in able else "step")
    assert Recipe(fitted(family), near=table()[:3]).describe()["near"]["means"] == METHODS[method]


@pytest.mark.parametrize("family", [family for family in FAMILIES if "perturb" in abilities(fitted(family).model_)])
def test_a_latent_that_does_not_move_gives_the_row_back(family: str) -> None:
    model: Any = fitted(family).model_
    z = torch.from_numpy(fitted(family).encoder_.encode(table()[:20], codes=model.codes).z)
    with torch.no_grad():
        back, away = (model.perturb(z, strength) for strength in (1e-4, 1.0))
    there = ~z.isnan()
    assert (back - z)[there].abs().median() < 1e-3
    assert (away - z)[there].abs().median() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_that_are_kept_stay_where_a_column_can(family: str) -> None:
    if "perturb" in abilities(fitted(family).model_):
        with pytest.raises(ValueError, match=r"keep=.*in its latent space, where no column stays"):
            Near(fitted(family), table()[:30], keep=["c"])
        return
    near = Near(fitted(family), table()[:30], 0.9, keep=["c", "a"])
    assert near.describe()["keep"] == ["a", "c"]
    rows, sources = near.sample(300, (4,))
    given = table()[:30].iloc[sources].reset_index(drop=True)
    for name in ("a", "c"):
        pd.testing.assert_series_equal(rows[name], given[name])
    assert (rows["k"] != given["k"]).mean() > 0.2


def test_columns_to_keep_are_columns_of_rows_near_and_not_all_of_them() -> None:
    detector = fitted("MixtureDetector")
    with pytest.raises(ValueError, match="there is no column 'z'"):
        Near(detector, table()[:3], keep=["z"])
    with pytest.raises(ValueError, match="leaves no column that can move"):
        Near(detector, table()[:3], keep=list(table().columns))
    with pytest.raises(ValueError, match=r"keep=.* is about the rows of near="):
        draw(detector, 5, keep=["c"])


class TestUntouched:
    def rows(self) -> pd.DataFrame:
        rows = table()[:4].copy()
        rows["k"], rows["a"] = [900, 901, 902, 903], [1 / 3, 50.0, -1e7, 0.1]
        return rows

    @pytest.mark.parametrize("family", ["MixtureDetector", "AutoregressiveDetector"])
    def test_numbers_that_do_not_move_stay_to_the_bit(self, family: str) -> None:
        found, sources = Near(fitted(family), self.rows(), 0.2).sample(500, (1,))
        given = self.rows().iloc[sources].reset_index(drop=True)
        for name in ("k", "a"):
            assert 0.6 < (found[name] == given[name]).mean() < 0.95
        assert found["k"][found["k"] != given["k"]].between(0, 5).all()

    def test_a_row_that_cannot_move_is_refused(self) -> None:
        rng = np.random.default_rng(0)
        flags = pd.DataFrame({c: rng.choice(list("ab"), N) for c in "pq"})
        near = flags[:1]
        drawn = draw(tiny(contamination=0.1).fit(flags), 100, near=near)
        assert drawn.refused[UNCHANGED] > 20
        assert not (drawn.rows == near.iloc[0]).all(axis=1).any()


@pytest.mark.parametrize("family", ["MixtureDetector", "GANDetector", "FlowDetector", "VAEDetector"])
def test_levels_that_training_did_not_have_are_drawn_anew(family: str) -> None:
    frame = table()
    frame["c"] = frame["c"].astype(str)
    rows = frame[:10].copy()
    rows["c"] = "new"
    drawn = draw(toy(family, contamination=0.1).fit(frame), 300, near=rows).rows
    assert drawn["c"].value_counts(normalize=True).reindex(list("xyz"), fill_value=0).min() > 0.1


@pytest.mark.parametrize("family", ["FlowDetector", "VAEDetector", "GANDetector"])
def test_images_are_drawn_near_images(family: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (80, 8, 8), dtype=np.uint8)
    bright = images[:6].copy()
    bright[:, :4] += 180
    detector = small(family, max_epochs=1, statistic="auto").fit(np.concatenate([images, bright]))
    drawn = draw(detector, 40, near=bright, strength=0.2).rows
    assert (drawn.shape, drawn.dtype) == ((40, 8, 8), np.uint8)
    assert drawn[:, :4].mean() > drawn[:, 4:].mean() + 40
    assert not any(np.array_equal(new, old) for new in drawn for old in bright)


def test_rows_of_conditions_keep_them() -> None:
    detector = tiny(condition="c", contamination=0.1).fit(table())
    found, sources = Near(detector, table()[:30]).sample(200, (1,))
    assert found["c"].tolist() == table()["c"].iloc[sources].tolist()
    given = draw(detector, 50, near=table()[:30], condition="z").rows
    assert (given["c"] == "z").all()


def test_arrays_come_back_as_arrays() -> None:
    X = table()[["a", "b"]].to_numpy()
    detector = tiny(contamination=0.1).fit(X)
    drawn = draw(detector, 100, near=X[:1], strength="auto")
    assert np.linalg.norm(drawn.rows - X[0], axis=1).mean() < np.linalg.norm(X - X[0], axis=1).mean()


@pytest.mark.parametrize("strength", [0, 1.5, "strong", True, None, float("nan")])
def test_a_bad_strength_is_named(strength: Any) -> None:
    with pytest.raises(ValueError, match="strength="):
        read_strength(strength)


def test_rows_of_other_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="missing columns"):
        Recipe(fitted("FlowDetector"), near=table()[["a", "b"]])


@pytest.mark.parametrize("family", FAMILIES)
def test_only_numbers_that_are_drawn_anew_are_told_to_be_matched(family: str) -> None:
    told = Recipe(fitted(family), near=table()[:20]).describe()
    assert (told["marginals"] == "data") == (told["near"]["method"] == "redraw")
