"""The distribution of single columns: kept with the model, and given back to draws."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen import MixtureDetector, load
from anomgen.augment import draw
from anomgen.augment.matching import Matching
from anomgen.encode import Marginals, TableEncoder


def quantiles(values: np.ndarray, u: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    X = np.c_[values, np.random.default_rng(9).normal(size=len(values))]
    return Marginals.of(TableEncoder().fit(X, weight), X, weight).quantile(0, u)


def test_values_that_recur_come_back_exactly_and_as_often() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([0.1 + 0.2, 1 / 3, 2.5, np.pi], 400, p=[0.1, 0.4, 0.3, 0.2])
    values[:40] = rng.normal(10.0, 1.0, 40)
    found = quantiles(values, np.linspace(0.00125, 0.99875, 400))
    for level in (0.1 + 0.2, 1 / 3, 2.5, np.pi):
        assert (found == level).sum() == (values == level).sum()
    assert (found > 5).sum() == 40


def test_values_that_occurred_once_do_not() -> None:
    values = np.random.default_rng(1).normal(size=300)
    u = np.random.default_rng(2).random(1000)
    found = quantiles(values, u)
    assert not np.isin(found, values).any()
    assert np.abs(found - np.quantile(values, u)).max() < 0.5
    assert values.min() <= found.min() <= found.max() <= values.max()


def test_many_values_are_gathered() -> None:
    values = np.random.default_rng(3).lognormal(size=20_000)
    X = np.c_[values, values[::-1]]
    marginals = Marginals.of(TableEncoder().fit(X), X)
    assert len(marginals.pieces[0]) < 2100
    u = np.linspace(0.001, 0.999, 999)
    np.testing.assert_allclose(marginals.quantile(0, u), np.quantile(values, u), rtol=0.02)


def test_weights_count() -> None:
    values = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 20)
    weight = np.where(values == 16.0, 6.0, 1.0)
    assert quantiles(values, np.array([0.5]), weight)[0] == 16.0
    assert quantiles(values, np.array([0.5]))[0] == 4.0


def test_decimals_and_lattices_are_kept() -> None:
    rng = np.random.default_rng(4)
    cents = np.round(rng.lognormal(3, 1, 500), 2)
    found = quantiles(cents, rng.random(500))
    np.testing.assert_array_equal(found, np.round(found, 2))
    whole = rng.integers(0, 5000, 500).astype(float)
    found = quantiles(whole, rng.random(500))
    np.testing.assert_array_equal(found, np.round(found))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    x = rng.normal(size=500)
    return pd.DataFrame(
        {
            "spike": np.where(rng.random(500) < 0.6, 0.125, np.abs(x) + 1.0),
            "count": rng.poisson(3, 500),
            "other": x + rng.normal(size=500),
            "gap": np.where(rng.random(500) < 0.3, np.nan, x),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 500), unit="s"),
            "text": rng.choice(["a", "b"], 500),
        }
    )


@pytest.fixture(scope="module")
def fitted(rows: pd.DataFrame) -> Any:
    return MixtureDetector(random_state=0, contamination=0.1).fit(rows)


def test_draws_get_the_columns_of_the_training_rows(rows: pd.DataFrame, fitted: Any) -> None:
    drawn = fitted.sample(4000, random_state=1)
    matching = Matching.of(fitted)
    assert matching is not None
    mapped = matching.apply(drawn, (0,), 0)
    pd.testing.assert_series_equal(mapped.dtypes, rows.dtypes)
    assert (drawn["spike"] == 0.125).mean() < 0.01
    assert (mapped["spike"] == 0.125).mean() == pytest.approx((rows["spike"] == 0.125).mean(), abs=0.03)
    assert mapped["count"].mean() == pytest.approx(rows["count"].mean(), abs=0.15)
    assert rows["when"].min() <= mapped["when"].min()
    pd.testing.assert_series_equal(mapped["gap"].isna(), drawn["gap"].isna())
    pd.testing.assert_series_equal(mapped["text"], drawn["text"])
    order = drawn["other"].argsort().to_numpy()
    assert (np.diff(mapped["other"].to_numpy()[order]) >= 0).all()


def test_continuous_columns_do_not_shrink_to_the_values_that_were_looked_at(rows: pd.DataFrame, fitted: Any) -> None:
    drawn = draw(fitted, 30_000, seed=2).rows
    assert drawn["other"].nunique() > 29_900
    assert rows["other"].min() < drawn["other"].min()
    assert drawn["other"].max() < rows["other"].max()
    spread = np.quantile(drawn["other"], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(spread, np.quantile(rows["other"], [0.1, 0.5, 0.9]), atol=0.06)


def test_a_row_is_mapped_alike_wherever_it_is_cut(fitted: Any) -> None:
    matching = Matching.of(fitted)
    assert matching is not None
    drawn = fitted.sample(50, random_state=2)
    whole = matching.apply(drawn, (3,), 100)
    part = matching.apply(drawn.iloc[20:], (3,), 120)
    pd.testing.assert_frame_equal(whole.iloc[20:], part)


def test_it_is_saved_pickled_and_dropped_by_another_fit(rows: pd.DataFrame, fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    for copy in (load(tmp_path / "model"), pickle.loads(pickle.dumps(fitted))):
        for j, pieces in fitted.marginals_.pieces.items():
            np.testing.assert_array_equal(copy.marginals_.pieces[j], pieces)
    again = pickle.loads(pickle.dumps(fitted)).fit(rows.assign(count=7 * rows["count"]))
    assert again.marginals_.pieces[1].max() == 7 * rows["count"].max()


@pytest.mark.parametrize("marginals", ["data", "model"])
def test_draws_are_matched_unless_the_model_is_asked_for(fitted: Any, marginals: Any) -> None:
    drawn = draw(fitted, 1500, seed=1, marginals=marginals).rows
    atoms = (drawn["spike"] == 0.125).mean()
    assert atoms == pytest.approx(0.6, abs=0.05) if marginals == "data" else atoms < 0.01


def test_marginals_are_one_or_the_other(fitted: Any) -> None:
    with pytest.raises(ValueError, match="marginals='both' must be one of 'data', 'model'"):
        draw(fitted, 5, marginals="both")  # type: ignore[arg-type]


def test_near_rows_keep_what_did_not_move(rows: pd.DataFrame, fitted: Any) -> None:
    odd = rows[:20].assign(other=50.0)
    drawn = draw(fitted, 300, near=odd, strength=0.3).rows
    assert 0.5 < (drawn["other"] == 50.0).mean() < 0.95
    assert drawn.loc[drawn["other"] != 50.0, "other"].max() <= rows["other"].max()


def test_training_rows_may_have_more_columns(rows: pd.DataFrame, fitted: Any) -> None:
    drawn = draw(fitted, 50, train=rows.assign(label=1), allow_copies=False)
    assert len(drawn.rows) == 50
    assert "label" not in drawn.rows
