"""Constraints on drawn rows: what they keep, what they change, and what they refuse to be."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen.augment.constraints import Constraint, Integer, Levels, Range, Sum, Where, settle
from anomgen.augment.draw import draw, draw_block
from anomgen.augment.recipe import Recipe
from anomgen.detector import Detector
from tests.toys import tiny

N = 300


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 9, N), rng.uniform(1, 9, N)
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "total": a + b,
            "count": rng.integers(0, 10, N),
            "part": rng.integers(0, 10, N),
            "region": pd.Categorical(rng.choice(["north", "south", "east"], N)),
            "flag": rng.random(N) < 0.5,
            "when": pd.date_range("2026-01-01", periods=N, freq="h", tz="Europe/Berlin"),
            "gap": np.where(rng.random(N) < 0.3, np.nan, rng.normal(size=N)),
            "price": [Decimal(f"{value:.2f}") for value in rng.uniform(1, 100, N)],
            "secret": rng.normal(size=N),
        }
    )


@cache
def framed() -> Detector:
    return tiny(contamination=0.1, exclude=("secret",)).fit(table())


@cache
def plain() -> Detector:
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 4, (N, 3))
    return tiny(contamination=0.1).fit(np.column_stack([X, X.sum(1)]))


def drawn(*constraints: Constraint, detector: Detector | None = None, n: int = 100) -> Any:
    return draw(detector or framed(), n, constraints=constraints).rows


def settled(constraint: Constraint, detector: Detector | None = None) -> Any:
    return settle([constraint], detector or framed())[0]


class TestRange:
    def test_numbers_lie_within_both_bounds(self) -> None:
        rows = drawn(Range("a", 3, 6), Range("price", Decimal("10"), None))
        assert rows["a"].between(3, 6).all()
        assert min(rows["price"]) >= Decimal(10)

    def test_bounds_belong_to_the_range(self) -> None:
        rows = pd.DataFrame({"count": [1, 2, 3, 4]})
        assert Range("count", 2, 3).apply(rows)[1].tolist() == [False, True, True, False]

    @pytest.mark.parametrize(
        "low", ["2026-01-05", pd.Timestamp("2026-01-05"), datetime.datetime(2026, 1, 5), np.datetime64("2026-01-05")]
    )
    def test_dates_are_bounded_by_dates(self, low: Any) -> None:
        rows = drawn(Range("when", low, None), n=30)
        assert rows["when"].min() >= pd.Timestamp("2026-01-05", tz="Europe/Berlin")

    def test_a_date_without_a_zone_is_of_the_columns_zone(self) -> None:
        stamps = pd.date_range("2026-01-04 22:00", periods=4, freq="h", tz="Europe/Berlin")
        keep = Range("when", "2026-01-05").apply(pd.DataFrame({"when": stamps}))[1]
        assert keep.tolist() == [False, False, True, True]

    def test_what_is_missing_is_not_outside(self) -> None:
        rows = pd.DataFrame({"gap": [np.nan, -5.0, 5.0]})
        assert Range("gap", 0).apply(rows)[1].tolist() == [True, False, True]
        assert Range("gap", 0).apply(rows[:1])[1].all()

    def test_columns_of_arrays_have_numbers_or_names(self) -> None:
        for name in ("x1", 1, "1"):
            assert drawn(Range(name, 1, 2), detector=plain())[:, 1].max() <= 2

    @pytest.mark.parametrize(
        ("constraint", "message"),
        [
            (Range("aa", 0), "there is no column 'aa'; did you mean 'a'"),
            (Range("regio", 0), "did you mean 'region'"),
            (Range("region", 0), "'region' holds a category; this needs a number or datetime or duration"),
            (Range("secret", 0), "'secret' is excluded"),
            (Range("a"), "has no bound"),
            (Range("a", 3, 2), "empty: 3 is above 2"),
            (Range("a", "low"), "'low' is no bound for column 'a'"),
            (Range("a", float("nan")), "not a number"),
            (Range("when", "soon"), "'soon' is no bound for column 'when'"),
        ],
    )
    def test_what_cannot_be_is_named(self, constraint: Constraint, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Recipe(framed(), constraints=[constraint])

    def test_unknown_columns_of_arrays_are_named_too(self) -> None:
        with pytest.raises(ValueError, match="no column 'x9'; did you mean 'x"):
            settled(Range("x9", 0), plain())


class TestInteger:
    def test_values_are_rounded_before_anything_is_looked_at(self) -> None:
        rows = drawn(Range("a", 2.6, 5.4), Integer("a"))
        assert set(rows["a"]) == {3.0, 4.0, 5.0}
        assert rows["a"].dtype == np.float64

    def test_gaps_stay_and_none_is_refused(self) -> None:
        rows, keep = Integer("gap").apply(pd.DataFrame({"gap": [np.nan, 0.5, 1.5, -0.2]}))
        assert rows["gap"].tolist()[1:] == [0.0, 2.0, 0.0]
        assert np.isnan(rows["gap"][0])
        assert keep.all()

    def test_arrays_are_not_changed_in_place(self) -> None:
        before = np.array([[0.4, 1.6]])
        assert Integer(1).apply(before)[0].tolist() == [[0.4, 2.0]]
        assert before.tolist() == [[0.4, 1.6]]

    def test_only_numbers_are_rounded(self) -> None:
        with pytest.raises(ValueError, match="'flag' holds a bool; this needs a number"):
            settled(Integer("flag"))


class TestLevels:
    def test_only_named_levels_remain(self) -> None:
        rows = drawn(Levels("region", ["north", "east"]), Levels("count", ["1", 2]), Levels("flag", ["true"]))
        assert set(rows["region"]) == {"north", "east"}
        assert set(rows["count"]) == {1, 2}
        assert rows["flag"].all()
        assert list(rows["region"].cat.categories) == ["east", "north", "south"]

    def test_arrays_have_levels(self) -> None:
        X = np.random.default_rng(0).integers(0, 3, (N, 2)).astype(float)
        assert set(drawn(Levels("x0", ["2", 0]), detector=tiny(contamination=0.1).fit(X))[:, 0]) == {0.0, 2.0}

    @pytest.mark.parametrize(
        ("constraint", "message"),
        [
            (Levels("region", ["norht"]), "had no 'norht' in training; did you mean 'north'"),
            (Levels("count", [77]), "had no 77 in training"),
            (Levels("count", ["many"]), "had no 'many' in training"),
            (Levels("region", []), "no level of column 'region' is allowed"),
            (Levels("when", ["2026-01-01"]), "holds a datetime, which has no levels"),
        ],
    )
    def test_what_cannot_be_is_named(self, constraint: Constraint, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            settled(constraint)

    def test_one_text_is_no_sequence(self) -> None:
        with pytest.raises(ValueError, match="must be a sequence"):
            Levels("region", "north")


class TestSum:
    def test_the_named_part_is_solved_for_and_keeps_its_range(self) -> None:
        rows = drawn(Sum("total", ["a", "b"], "b"))
        assert np.allclose(rows["a"] + rows["b"], rows["total"])
        assert rows["b"].between(table()["b"].min(), table()["b"].max()).all()

    def test_the_total_may_be_solved_for(self) -> None:
        rows = drawn(Sum("total", ("a", "b"), "total", low=10, high=12))
        assert np.allclose(rows["a"] + rows["b"], rows["total"])
        assert rows["total"].between(10, 12).all()

    def test_the_total_may_be_a_number(self) -> None:
        rows = drawn(Sum(7.0, ["x0", "x1", "x2"], "x2"), detector=plain())
        assert rows[:, :3].sum(axis=1) == pytest.approx(np.full(100, 7.0))

    def test_whole_numbers_stay_whole(self) -> None:
        rows = drawn(Sum(12.0, ["count", "part"], "part"))
        assert (rows["count"] + rows["part"] == 12).all()
        assert rows["part"].dtype == table()["part"].dtype
        rows = drawn(Integer("a"), Integer("total"), Integer("b"), Sum("total", ["a", "b"], "b"))
        assert (rows["b"] == rows["b"].round()).all()

    def test_what_is_missing_cannot_be_added(self) -> None:
        rows = drawn(Sum("total", ["a", "gap"], "a", -100, 100))
        assert rows["gap"].notna().all()

    def test_sums_may_build_on_each_other(self) -> None:
        rows = drawn(Sum("total", ["a", "b"], "total"), Sum("total", ["gap", "price"], "gap", -200, 200))
        assert np.allclose(rows["gap"] + rows["price"].astype(float), rows["total"])

    @pytest.mark.parametrize(
        ("constraints", "message"),
        [
            ([Sum("total", ["a", "bb"], "a")], "no column 'bb'; did you mean 'b'"),
            ([Sum("total", ["a", "b"], "count")], "cannot be solved for 'count'"),
            ([Sum("total", ["a", "a"], "a")], "no column twice"),
            ([Sum("total", [], "total")], "needs parts"),
            ([Sum("total", ["a", "b"], "b", 5, 1)], "is empty: 5 to 1"),
            ([Sum("total", ["a", "region"], "a")], "'region' holds a category"),
            ([Sum("total", ["a", "b"], "a"), Sum("count", ["a", "part"], "a")], "two sums cannot both hold"),
            ([Integer("b"), Sum("total", ["a", "b"], "b")], "is to be whole, but is solved for"),
        ],
    )
    def test_what_cannot_be_is_named(self, constraints: list[Constraint], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            settle(constraints, framed())

    def test_fractions_do_not_become_whole_silently(self) -> None:
        with pytest.raises(ValueError, match=r"'count' holds whole numbers, but .* came out for it"):
            drawn(Sum("total", ["a", "count"], "count"))


class TestWhere:
    def test_predicates_and_expressions_see_columns(self) -> None:
        rows = drawn(Where("a < b and region != 'south'"), Where(lambda rows: rows["count"] > 3))
        assert ((rows["a"] < rows["b"]) & (rows["region"] != "south") & (rows["count"] > 3)).all()

    def test_expressions_of_arrays_name_columns_by_number(self) -> None:
        rows = drawn(Where("x0 < x1"), Where(lambda X: X[:, 2] < 2), detector=plain())
        assert (rows[:, 0] < rows[:, 1]).all()
        assert rows[:, 2].max() < 2

    def test_what_is_missing_counts_as_false(self) -> None:
        rows = pd.DataFrame({"gap": pd.array([1.0, None], dtype="Float64")})
        assert Where("gap > 0").apply(rows)[1].tolist() == [True, False]

    def test_refusals_are_counted_by_name(self) -> None:
        block = draw_block(Recipe(framed(), constraints=[Where("a < b", "small"), Where("count > 3")]), 0, 50)
        assert set(block.refused) == {"small", "where count > 3"}
        assert block.tried == 50 + sum(block.refused.values())

    @pytest.mark.parametrize(
        ("predicate", "message"),
        [
            ("a < nothing", "cannot be evaluated: name 'nothing' is not defined; columns are"),
            ("a +", "cannot be evaluated"),
            ("a + b", "gave float64"),
            (lambda rows: len(rows) > 0, "gave bool of shape"),
            (lambda rows: rows["a"][:3] > 0, r"of shape \(3,\)"),
            ("@pd.DataFrame", "cannot be evaluated"),
        ],
    )
    def test_what_gives_no_boolean_a_row_is_named(self, predicate: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            drawn(Where(predicate))

    def test_images_take_callables_only(self) -> None:
        images = np.zeros((3, 4, 4))
        assert Where(lambda x: x.sum((1, 2)) == 0).apply(images)[1].all()
        with pytest.raises(ValueError, match="images have no columns to name"):
            Where("x0 > 0").apply(images)


def test_constraints_are_applied_in_their_order_and_describe_themselves() -> None:
    given = [
        Where("a < b", "w"),
        Levels("flag", [True]),
        Sum("total", ["a", "b"], "b"),
        Range("a", 1),
        Integer("count"),
    ]
    done = settle(given, framed())
    told = json.loads(json.dumps([item.describe() for item in done]))
    assert [item["constraint"] for item in told] == ["integer", "sum", "where", "levels", "range"]
    assert told[1]["low"] == pytest.approx(table()["b"].min())
    assert told[2] == {"constraint": "where", "predicate": "a < b", "name": "w"}
    assert told[3]["levels"] == [True]
    assert Where(len).describe()["predicate"] == "len"


def test_other_things_are_no_constraints() -> None:
    with pytest.raises(ValueError, match="which is not a Range, Integer"):
        Recipe(framed(), constraints=["a < b"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="put it into a list"):
        Recipe(framed(), constraints=Where("a < b"))  # type: ignore[arg-type]
