"""Rows given conditions: what is summed over, what is given, what is drawn, for every family that can."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import anomgen
from anomgen.detector.state import build_model
from anomgen.encode import JointEncoder
from anomgen.families.flow import FlowDetector
from tests.toys import CONDITIONAL, LIKELY, learned, toy

family = pytest.mark.parametrize("family", CONDITIONAL)
likely = pytest.mark.parametrize("family", [name for name in CONDITIONAL if name in LIKELY])


def shops(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """Two numbers whose place depends on a label that is twice as often "a" as "b"."""
    rng = np.random.default_rng(seed)
    shop = rng.choice(["a", "b"], n, p=[2 / 3, 1 / 3])
    X = rng.normal(size=(n, 2)) + np.where(shop == "a", 4.0, -4.0)[:, None] * [1.0, 0.0]
    return pd.DataFrame({"x": X[:, 0], "shop": shop, "y1": X[:, 1]})


@family
class TestEveryFamily:
    def test_drawn_rows_follow_their_condition(self, family: str) -> None:
        rows = shops()
        detector = learned(family, condition="shop", contamination=0.1).fit(rows)
        for shop, place in (("a", 4.0), ("b", -4.0)):
            drawn = detector.sample(400, random_state=0, condition=shop)
            assert (drawn["shop"] == shop).all()
            assert drawn["x"].mean() == pytest.approx(place, abs=1.0)
        mixed = detector.sample(2000, random_state=0)
        assert (mixed["shop"] == "a").mean() == pytest.approx((rows["shop"] == "a").mean(), abs=0.05)
        assert list(mixed.columns) == ["x", "shop", "y1"]
        assert (mixed.dtypes == rows.dtypes).all()

    def test_a_row_in_the_wrong_place_for_its_condition_scores_low(self, family: str) -> None:
        rows = shops()
        detector = learned(family, condition="shop", contamination=0.1).fit(rows)
        right = detector.score_samples(rows, condition=rows["shop"])
        wrong = detector.score_samples(rows, condition=np.where(rows["shop"] == "a", "b", "a"))
        assert (right > wrong).mean() > 0.9

    def test_without_a_condition_all_are_summed_over(self, family: str) -> None:
        rows = shops()
        detector = toy(family, condition="shop").fit(rows)
        shares = rows["shop"].value_counts(normalize=True)
        each = [detector.score_samples(rows, condition=shop) + np.log(shares[shop]) for shop in ("a", "b")]
        assert detector.score_samples(rows) == pytest.approx(np.logaddexp(*each), abs=1e-6)
        other = rows.assign(shop="b")
        assert np.array_equal(detector.score_samples(other), detector.score_samples(rows))
        assert (detector.predict(rows) == np.where(detector.score_samples(rows) >= detector.offset_, 1, -1)).all()

    def test_a_score_given_its_condition_depends_on_nothing_but_its_row(self, family: str) -> None:
        rows = shops()
        detector = toy(family, condition="shop").fit(rows)
        order = np.random.default_rng(0).permutation(len(rows))
        given, summed = detector.score_samples(rows, condition=rows["shop"]), detector.score_samples(rows)
        shuffled = rows.iloc[order]
        assert np.array_equal(detector.score_samples(shuffled, condition=shuffled["shop"]), given[order])
        assert np.array_equal(detector.score_samples(shuffled), summed[order])

    def test_saving_and_pickling_keep_every_bit(self, family: str, tmp_path: Any) -> None:
        rows = shops()
        detector = toy(family, condition="shop").fit(rows)
        detector.save(tmp_path / "m")
        for copy in (anomgen.load(tmp_path / "m"), pickle.loads(pickle.dumps(detector))):
            assert np.array_equal(copy.score_samples(rows), detector.score_samples(rows))
            assert copy.sample(9, random_state=1).equals(detector.sample(9, random_state=1))
            assert copy.sample(9, random_state=1, condition="b").equals(
                detector.sample(9, random_state=1, condition="b")
            )

    def test_labels_beside_the_rows(self, family: str) -> None:
        rows = shops()
        X, y = rows[["x", "y1"]].to_numpy(), (rows["shop"] == "a").to_numpy().astype(int)
        detector = learned(family, condition="y", contamination=0.1).fit(X, y)
        assert detector.score_samples(X).shape == (600,)
        assert detector.n_features_in_ == 2
        drawn = detector.sample(300, random_state=0, condition=1)
        assert isinstance(drawn, np.ndarray)
        assert drawn.mean(axis=0)[0] == pytest.approx(4.0, abs=1.0)
        with pytest.raises(ValueError, match="needs labels"):
            toy(family, condition="y").fit(X)

    def test_rows_that_arrive_in_pieces(self, family: str) -> None:
        rows = shops()
        X, y = rows[["x", "y1"]].to_numpy(), rows["shop"].to_numpy()
        detector = toy(family, condition="y")
        for start in range(0, 600, 100):
            detector.partial_fit(X[start : start + 100], y[start : start + 100])
        assert detector.sample(3, condition="b").shape == (3, 2)
        by_column = toy(family, condition="shop").partial_fit(rows[:300]).partial_fit(rows[300:])
        assert np.isfinite(by_column.score_samples(rows)).all()


@likely
def test_the_sum_over_conditions_is_a_density_of_the_other_columns(family: str) -> None:
    rows = shops()
    detector = learned(family, condition="shop", statistic="likelihood", contamination=0.1).fit(rows)
    axis = np.linspace(-14, 14, 280)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    frame = pd.DataFrame({"x": grid[:, 0], "shop": "a", "y1": grid[:, 1]})
    cell = (axis[1] - axis[0]) ** 2
    for scores in (detector.score_samples(frame), detector.score_samples(frame, condition="b")):
        assert 0.5 < np.exp(scores).sum() * cell <= 1.01


def flow(**params: Any) -> FlowDetector:
    return FlowDetector(**{"max_epochs": 3, "hidden": (16,), "random_state": 0, "verbose": False, **params})


class TestGivenConditions:
    def test_every_way_to_give_one(self) -> None:
        rows = shops().assign(hour=np.random.default_rng(0).normal(size=600))
        detector = flow(condition=("shop", "hour")).fit(rows)
        given = rows[["shop", "hour"]]
        by_frame = detector.score_samples(rows, condition=given)
        assert np.array_equal(detector.score_samples(rows, condition=rows), by_frame)
        assert np.array_equal(detector.score_samples(rows, condition=dict(given)), by_frame)
        constant = detector.score_samples(rows, condition={"shop": "a", "hour": 0.5})
        assert np.array_equal(constant, detector.score_samples(rows, condition=given.assign(shop="a", hour=0.5)))
        assert not np.array_equal(constant, by_frame)
        assert detector.sample(4, condition={"shop": ["a", "b", "a", "b"], "hour": 0.0})["shop"].tolist() == list(
            "abab"
        )

    def test_any_cut_of_a_draw_gives_the_same_rows(self) -> None:
        detector = flow(condition="shop").fit(shops())
        long = detector.sample(1500, random_state=1)
        assert detector.sample(7, random_state=1).equals(long[:7])
        shops_wanted = np.array(["a", "b"])[np.arange(1500) % 2]
        given = detector.sample(1500, random_state=1, condition=shops_wanted)
        assert detector.sample(7, random_state=1, condition=shops_wanted[:7]).equals(given[:7])

    @pytest.mark.parametrize("options", [{"coupling": "autoregressive"}, {"coupling": "spline"}, {"base": "mixture"}])
    def test_every_flow_takes_conditions_exactly(self, options: dict[str, str]) -> None:
        detector = flow(condition="shop", **options).fit(shops())
        model = detector.model_
        z = torch.cat([torch.randn(50, 2), torch.arange(50)[:, None] % 2], 1)
        with torch.no_grad():
            latent, log_det = model(z)
            back, inverse = model.inverse(latent, z[:, 2:])
        assert torch.allclose(back, z, atol=1e-4)
        assert torch.allclose(log_det, -inverse, atol=1e-4)

    def test_positions_name_the_columns_of_an_array(self) -> None:
        rows = shops()
        X = np.column_stack([rows["x"], rows["shop"] == "a", rows["y1"]])
        detector = flow(condition=(1,), max_epochs=40).fit(X)
        drawn = detector.sample(200, random_state=0, condition=1.0)
        assert (drawn[:, 1] == 1).all()
        assert drawn[:, 0].mean() == pytest.approx(4.0, abs=1.0)

    def test_a_condition_costs_no_nats(self) -> None:
        """Its unit moves no score, and a model that ignores it scores the other columns alone."""
        rows = shops().assign(hour=np.random.default_rng(0).normal(size=600))
        scores = flow(condition="hour").fit(rows).score_samples(rows)
        scaled = rows.assign(hour=60 * rows["hour"])
        assert flow(condition="hour").fit(scaled).score_samples(scaled) == pytest.approx(scores, abs=1e-3)

    def test_more_conditions_than_can_be_summed_over_are_represented_by_some(self) -> None:
        rows = shops().assign(hour=np.random.default_rng(0).normal(size=600))
        encoder = flow(condition="hour").fit(rows).encoder_
        assert isinstance(encoder, JointEncoder)
        assert len(encoder.bank_) == 64
        assert encoder.shares_.sum() == pytest.approx(1.0)

    def test_describe_tells_conditions(self) -> None:
        told = {row["column"]: row for row in flow(condition="shop").fit(shops()).describe()}
        assert told["shop"]["reason"].startswith("condition")
        assert told["x"]["kind"] == "continuous"

    def test_held_out_rows_with_labels(self) -> None:
        rows = shops()
        X, y = rows[["x", "y1"]], rows["shop"]
        detector = flow(condition="y").fit(X[:500], y[:500], X_val=(X[500:], y[500:]))
        assert "held_out_nats" in detector.history_[-1]


class TestBadConditions:
    def test_unknown_column(self) -> None:
        with pytest.raises(ValueError, match="condition= names 'town'"):
            flow(condition="town").fit(shops())

    def test_unseen_level(self) -> None:
        detector = flow(condition="shop").fit(shops())
        with pytest.raises(ValueError, match=r"condition 'shop' is 'c' in row 1.*known are 'a', 'b'"):
            detector.score_samples(shops(3), condition=["a", "c", "b"])
        with pytest.raises(ValueError, match="'c' in row 0"):
            detector.sample(2, condition="c")

    def test_missing_in_training(self) -> None:
        rows = shops()
        rows.loc[4, "shop"] = None
        with pytest.raises(ValueError, match="condition 'shop' is missing in row 4"):
            flow(condition="shop").fit(rows)

    def test_none_to_give(self) -> None:
        detector = flow().fit(shops())
        with pytest.raises(ValueError, match="fitted without condition="):
            detector.score_samples(shops(), condition="a")
        with pytest.raises(ValueError, match="fitted without condition="):
            detector.sample(2, condition="a")

    def test_incomplete_or_of_wrong_length(self) -> None:
        rows = shops().assign(hour=1.0)
        rows.loc[::2, "hour"] = 2.0
        detector = flow(condition=("shop", "hour")).fit(rows)
        with pytest.raises(ValueError, match="condition 'hour' is not given"):
            detector.sample(2, condition={"shop": "a"})
        with pytest.raises(ValueError, match="condition 'shop' has 3 values for 2 rows"):
            detector.sample(2, condition={"shop": ["a", "a", "b"], "hour": 1.0})


def test_without_conditions_nothing_changes() -> None:
    rows = shops()
    plain = flow().fit(rows)
    assert build_model(plain).condition.width == 0
    assert np.array_equal(flow(condition=()).fit(rows).score_samples(rows), plain.score_samples(rows))
