"""The encoder: kinds, units, masses, gaps, dtypes and errors."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from anomgen.encode import TableEncoder
from anomgen.encode.transform import CLIP, Maps, soft_clip, soft_clip_log_slope, soft_unclip

RNG = np.random.default_rng(0)
N = 300


def restored(encoder: TableEncoder) -> TableEncoder:
    return TableEncoder.from_state(json.loads(json.dumps(encoder.state(), allow_nan=False)))


def kind_of(values: Any, **options: Any) -> str:
    return TableEncoder(**options).fit(pd.DataFrame({"x": values, "y": RNG.normal(size=len(values))})).columns_[0].kind


COLUMNS = {
    "constant": np.full(N, 3.0),
    "binary": RNG.integers(0, 2, N) * 7.5,
    "lattice": RNG.poisson(4, N).astype(float),
    "continuous": RNG.normal(5, 3, N),
    "heavy-tailed": RNG.standard_cauchy(N),
}


class TestKinds:
    @pytest.mark.parametrize("kind", COLUMNS)
    @pytest.mark.parametrize("factor", [1.0, 1e-7, 3.3, 1e9])
    def test_kind_is_inferred_whatever_the_unit(self, kind: str, factor: float) -> None:
        assert kind_of(COLUMNS[kind] * factor) == kind

    def test_irregular_few_values_are_a_lattice(self) -> None:
        assert kind_of(RNG.choice([0.0, 1.0, np.pi, 10.0], N)) == "lattice"

    def test_rounded_measurements_are_a_lattice_with_their_step(self) -> None:
        encoder = TableEncoder().fit(np.round(RNG.normal(size=(N, 1)), 2))
        assert encoder.columns_[0].kind == "lattice"
        assert encoder.columns_[0].step == pytest.approx(0.01, rel=1e-9)

    def test_step_is_a_common_divisor_of_the_gaps(self) -> None:
        values = RNG.choice([0.0, 0.6, 1.0, 3.0], N)
        assert TableEncoder().fit(values[:, None]).columns_[0].step == pytest.approx(0.2)

    @pytest.mark.parametrize("n", [3, 10, 50, 1000])
    def test_single_precision_noise_is_no_lattice(self, n: int) -> None:
        x = np.random.default_rng(n).normal(size=(n, 20)).astype(np.float32)
        assert {column.kind for column in TableEncoder().fit(x).columns_} <= {"continuous", "heavy-tailed"}

    def test_kinds_and_exclude_override(self) -> None:
        frame = pd.DataFrame({"a": RNG.poisson(3, N), "b": RNG.normal(size=N), "id": [f"u{i}" for i in range(N)]})
        encoder = TableEncoder(kinds={"a": "categorical", "b": "heavy-tailed"}, exclude=["id"]).fit(frame)
        assert [row["kind"] for row in encoder.describe()] == ["categorical", "heavy-tailed", "excluded"]
        assert "asked for" in encoder.describe()[1]["reason"]
        assert encoder.decode(encoder.encode(frame).z)["id"].isna().all()

    def test_positions_name_the_columns_of_arrays(self) -> None:
        encoder = TableEncoder(kinds={1: "categorical"}, exclude=[0]).fit(RNG.poisson(3, (N, 3)).astype(float))
        assert [row["kind"] for row in encoder.describe()] == ["excluded", "categorical", "lattice"]
        assert np.isnan(encoder.decode(np.zeros((2, encoder.dim)))[:, 0]).all()

    def test_text_as_numbers_and_dates_on_request(self) -> None:
        frame = pd.DataFrame(
            {"n": RNG.normal(size=N).astype(str), "d": ["2024-01-02", "2024-03-01", "2024-02-03"] * 100}
        )
        encoder = TableEncoder(kinds={"n": "continuous", "d": "datetime"}).fit(frame)
        assert [column.kind for column in encoder.columns_] == ["continuous", "datetime"]

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            ({"zz": "lattice"}, "'zz'"),
            ({"x": "latice"}, "latice"),
            ({"x": "binary"}, "not 2"),
            ({"x": "constant"}, "'x'"),
        ],
    )
    def test_bad_kinds_are_named(self, kinds: dict[str, str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TableEncoder(kinds=kinds).fit(pd.DataFrame({"x": RNG.normal(size=N)}))


class TestMaps:
    MAPS = Maps(
        *(np.array(v) for v in ([1.0, -3.0], [2.0, 0.5], [False, True], [0, -40.0], [0, 25.0], [0, 0.3], [1, 1.7]))
    )

    @given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
    def test_inverse_and_slope(self, a: float, b: float) -> None:
        x = np.array([[a, b]])
        z = self.MAPS.forward(x)
        assert self.MAPS.inverse(z) == pytest.approx(x, rel=1e-6, abs=1e-6)
        step = 1e-4 * (1 + np.abs(x))
        slope = (self.MAPS.forward(x + step) - self.MAPS.forward(x - step)) / (2 * step)
        assert np.log(slope) == pytest.approx(self.MAPS.log_slope(x), abs=2e-3)

    def test_monotone_and_finite_to_the_end_of_floats(self) -> None:
        x = np.concatenate([-np.logspace(308, -3, 500), np.logspace(-3, 308, 500)])
        z = self.MAPS.forward(np.stack([x, x], axis=1))
        assert np.isfinite(z).all()
        assert np.isfinite(self.MAPS.log_slope(np.stack([x, x], axis=1))).all()
        assert (np.diff(z[np.abs(x) < 1e290], axis=0) > 0).all()

    def test_soft_clip_is_identity_inside_and_continuous(self) -> None:
        z = np.linspace(-CLIP, CLIP, 101)
        assert (soft_clip(z) == z).all()
        assert (soft_clip_log_slope(z) == 0).all()
        far = np.array([-1e9, -50.0, 11.0, 1e12])
        assert soft_unclip(soft_clip(far)) == pytest.approx(far, rel=1e-9)


class TestMass:
    def test_level_masses_and_unseen_sum_to_one_under_a_normal_model(self) -> None:
        frame = pd.DataFrame({"c": RNG.choice(list("abcd"), N, p=[0.7, 0.2, 0.08, 0.02])})
        encoder = TableEncoder().fit(frame)
        rows = encoder.encode(pd.DataFrame({"c": [*"abcd", "new"]}))
        mass = np.exp(rows.log_det - 0.5 * (rows.z[:, 0] ** 2 + np.log(2 * np.pi)))
        shares = frame["c"].value_counts(normalize=True).sort_index().to_numpy()
        assert mass[:4] == pytest.approx(shares, rel=1e-3)
        assert mass.sum() == pytest.approx(1.0, abs=1e-4)
        assert mass[4] < mass[:4].min()

    def test_lattice_cells_tile_the_line(self) -> None:
        x = RNG.poisson(5, N).astype(float)
        encoder = TableEncoder().fit(x[:, None])
        rows = encoder.encode(np.arange(12.0)[:, None], cells=True)
        assert rows.high[:-1] == pytest.approx(rows.low[1:], abs=1e-5)
        assert np.exp(rows.log_det) == pytest.approx((rows.high - rows.low)[:, 0], rel=1e-4)

    @pytest.mark.parametrize("levels", [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, np.pi, 10.0]])
    def test_off_lattice_value_is_below_its_nearest_level(self, levels: list[float]) -> None:
        encoder = TableEncoder().fit(RNG.choice(levels, N)[:, None])
        on, off = (encoder.encode(np.array([[v]])) for v in (levels[2], levels[2] + 0.2))
        assert off.z == on.z
        assert off.log_det < on.log_det - 5

    @pytest.mark.parametrize("far", [1e3, 1e12, 1e300, -1e300])
    def test_far_lattice_values_are_finite(self, far: float) -> None:
        encoder = TableEncoder().fit(np.stack([RNG.poisson(5, N), RNG.choice([0, 1, np.pi], N)], axis=1))
        rows = encoder.encode(np.array([[far, far]]))
        assert np.isfinite(rows.z).all()
        assert np.isfinite(rows.log_det).all()

    def test_a_changed_constant_costs_its_unseen_mass(self) -> None:
        x = np.stack([np.full(N, 2.0), RNG.normal(size=N)], axis=1)
        encoder = TableEncoder().fit(x)
        assert encoder.dim == 1
        same, changed = (encoder.encode(np.array([[v, 0.0]])).log_det for v in (2.0, 2.5))
        assert same - changed == pytest.approx(-np.log(encoder.columns_[0].unseen), rel=1e-3)

    def test_cells_are_as_wide_as_levels_are_frequent(self) -> None:
        encoder = TableEncoder().fit(pd.DataFrame({"b": [True] * 30 + [False] * 70}))
        edges = encoder.layout()["edges"][0]
        assert edges[0] == pytest.approx(ndtri(0.7), abs=1e-3)
        assert len(edges) == 2


class TestUnits:
    @pytest.mark.parametrize("factor", [1e-6, 0.1, 7.0, 1e5])
    def test_rescaling_moves_only_the_log_det_of_real_columns(self, factor: float) -> None:
        x = np.stack(list(COLUMNS.values()), axis=1)
        names = list(COLUMNS)
        before = TableEncoder().fit(x)
        for j, name in enumerate(names):
            y = x.copy()
            y[:, j] *= factor
            after = TableEncoder().fit(y)
            assert [c.kind for c in after.columns_] == [c.kind for c in before.columns_]
            a, b = before.encode(x), after.encode(y)
            assert b.z == pytest.approx(a.z, abs=2e-5)
            shift = -np.log(factor) if name in ("continuous", "heavy-tailed") else 0.0
            assert b.log_det - a.log_det == pytest.approx(shift, abs=1e-6)


class TestMissing:
    def test_missing_is_an_atom_of_its_own(self) -> None:
        x = RNG.normal(size=(N, 2))
        x[:60, 0] = np.nan
        encoder = TableEncoder().fit(x)
        layout = encoder.layout()
        assert layout["names"] == ("0", "0 is missing", "1")
        assert layout["missing"] == (True, False, False)
        rows = encoder.encode(x, cells=True)
        assert (rows.z[:60, 0] == 0).all()
        assert np.isinf(rows.low[:60, 0]).all()
        assert np.isfinite(rows.low[60:, 0]).all()
        assert np.isnan(encoder.decode(rows.z)[:, 0]).tolist() == [True] * 60 + [False] * 240

    def test_density_of_a_missing_value_is_divided_out(self) -> None:
        x = RNG.normal(size=(N, 1))
        x[:60] = np.nan
        row = TableEncoder().fit(x).encode(np.array([[np.nan]]))
        # Under a standard normal model the value's density and its correction cancel: only the mask's mass is left.
        log_p = row.log_det - 0.5 * (row.z**2 + np.log(2 * np.pi)).sum()
        assert np.exp(log_p) == pytest.approx(0.2, rel=1e-3)

    @pytest.mark.parametrize("kind", ["continuous", "lattice", "binary", "constant"])
    def test_a_gap_where_training_had_none_costs_the_unseen_mass(self, kind: str) -> None:
        x = np.stack([COLUMNS[kind], RNG.normal(size=N)], axis=1)
        encoder = TableEncoder().fit(x)
        row = encoder.encode(np.array([[np.nan, 0.0]]))
        reference = TableEncoder().fit(x[:, 1:]).encode(np.array([[0.0]]))
        own = row.log_det - reference.log_det - (0 if kind == "constant" else 0.5 * np.log(2 * np.pi))
        assert own == pytest.approx(np.log(encoder.columns_[0].unseen), abs=1e-9)

    def test_a_constant_with_gaps_keeps_only_its_mask(self) -> None:
        x = np.where(RNG.random((N, 1)) < 0.3, np.nan, 4.0)
        encoder = TableEncoder().fit(x)
        assert encoder.layout()["names"] == ("0 is missing",)
        assert np.array_equal(encoder.decode(encoder.encode(x).z), x, equal_nan=True)


def gappy(values: Any) -> pd.Series:
    return pd.Series(values).mask(np.random.default_rng(3).random(N) < 0.1)


DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(k)) for k in RNG.integers(0, 99, N)]
DECIMALS = [decimal.Decimal(f"{v:.2f}") for v in RNG.normal(size=N)]
EXACT = {
    "int8": RNG.integers(-5, 5, N).astype("int8"),
    "uint8": RNG.integers(0, 200, N).astype("uint8"),
    "Int64 with gaps": gappy(pd.Series(RNG.integers(0, 50, N), dtype="Int64")),
    "boolean with gaps": gappy(pd.Series(RNG.random(N) < 0.3, dtype="boolean")),
    "bool": RNG.random(N) < 0.4,
    "object bool": pd.Series(RNG.random(N) < 0.4).astype(object),
    "arrow int": pd.Series(RNG.integers(0, 9, N), dtype="int64[pyarrow]"),
    "arrow bool": pd.Series(RNG.random(N) < 0.5, dtype="bool[pyarrow]"),
    "arrow text": pd.Series(RNG.choice(["a", "b"], N), dtype="string[pyarrow]"),
    "arrow dictionary": pd.Series(
        pd.arrays.ArrowExtensionArray(pa.array(RNG.choice(["x", "y"], N)).dictionary_encode())
    ),
    "arrow decimal": pd.Series(DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    "arrow date": pd.Series(DAYS, dtype="date32[day][pyarrow]"),
    "date objects": pd.Series(DAYS, dtype=object),
    "text with gaps": gappy(pd.Series(RNG.choice(["x", "y", "z"], N), dtype="str")),
    "category": pd.Categorical(RNG.choice(["a", "b", "c"], N)),
    "ordered category": pd.Categorical(RNG.choice(["lo", "hi"], N), categories=["lo", "mid", "hi"], ordered=True),
    "whole-number category": pd.Categorical(RNG.integers(0, 3, N)),
}
CLOSE = {
    "float32": RNG.normal(size=N).astype("float32"),
    "Float64": pd.array(RNG.normal(size=N), dtype="Float64"),
    "arrow float with gaps": gappy(pd.Series(RNG.normal(size=N), dtype="double[pyarrow]")),
    "decimal objects": pd.Series([decimal.Decimal(str(float(v))) for v in RNG.normal(size=N)], dtype=object),
    "timestamp": gappy(pd.Series(pd.date_range("2020", periods=N, freq="h"))),
    "timestamp with zone": pd.Series(pd.date_range("2020", periods=N, freq="h", tz="Europe/Paris")),
    "arrow timestamp": pd.Series(pd.date_range("2020", periods=N, freq="h")).astype("timestamp[us][pyarrow]"),
    "datetime objects": pd.Series([datetime.datetime(2024, 1, 1 + k % 28, k % 24) for k in range(N)], dtype=object),
    "timedelta": pd.to_timedelta(RNG.random(N) * 1e5, unit="s"),
}


class TestRoundTrip:
    @pytest.mark.parametrize("name", EXACT)
    def test_discrete_columns_come_back_exactly(self, name: str) -> None:
        frame = pd.DataFrame({"x": EXACT[name], "y": RNG.normal(size=N)})
        encoder = restored(TableEncoder().fit(frame))
        back = encoder.decode(encoder.encode(frame).z)
        pd.testing.assert_frame_equal(back[["x"]], frame[["x"]])

    @pytest.mark.parametrize("name", CLOSE)
    def test_real_columns_come_back_to_single_precision(self, name: str) -> None:
        frame = pd.DataFrame({"x": CLOSE[name]})
        encoder = restored(TableEncoder().fit(frame))
        back = encoder.decode(encoder.encode(frame).z)["x"]
        assert back.dtype == frame["x"].dtype
        assert (back.isna() == frame["x"].isna()).all()
        assert type(back.dropna().iloc[0]) is type(frame["x"].dropna().iloc[0])
        first, second = (encoder.encode(pd.DataFrame({"x": column})).z for column in (frame["x"], back))
        assert second == pytest.approx(first, abs=1e-5)

    def test_arrays_come_back_as_arrays(self) -> None:
        x = RNG.normal(size=(N, 3)).astype(np.float32)
        encoder = TableEncoder().fit(x)
        back = encoder.decode(encoder.encode(x).z)
        assert back.dtype == np.float32
        assert back == pytest.approx(x, abs=1e-5)

    def test_rounded_numbers_come_back_as_they_were_written(self) -> None:
        x = np.round(RNG.normal(2, 1, size=(N, 1)), 2)
        encoder = restored(TableEncoder().fit(x))
        assert np.array_equal(encoder.decode(encoder.encode(x).z), x)
        thirds = RNG.integers(0, 9, (N, 1)) / 3
        assert TableEncoder().fit(thirds).columns_[0].decimals == -1

    @pytest.mark.parametrize("kind", ["continuous", "heavy-tailed"])
    def test_rounded_numbers_come_back_rounded_whatever_their_kind(self, kind: str) -> None:
        values = np.round(np.exp(RNG.normal(3, 1, (N, 1))), 2)
        encoder = TableEncoder(kinds={0: kind}).fit(values)
        drawn = encoder.decode(RNG.normal(size=(50, 1)))
        assert np.array_equal(drawn, np.round(drawn, 2))
        assert not np.array_equal(drawn, np.round(drawn, 1))

    def test_counts_stay_in_the_training_range(self) -> None:
        x = RNG.poisson(2, (N, 1)).astype(float)
        encoder = TableEncoder().fit(x)
        back = encoder.decode(np.array([[-9.0], [0.0], [9.0]]))
        assert back.min() == 0
        assert back.max() == x.max()

    def test_state_restores_the_same_bits(self, mixed: pd.DataFrame) -> None:
        encoder = TableEncoder().fit(mixed)
        a, b = encoder.encode(mixed, cells=True), restored(encoder).encode(mixed, cells=True)
        for name in ("z", "log_det", "low", "high"):
            assert np.array_equal(getattr(a, name), getattr(b, name))

    def test_bounds_hold_the_scoring_point(self, mixed: pd.DataFrame) -> None:
        encoder = TableEncoder().fit(mixed)
        rows = encoder.encode(mixed, cells=True)
        cell = np.array([kind == "cell" for kind in encoder.layout()["kinds"]])
        low, high = rows.low.copy(), rows.high.copy()
        low[:, cell], high[:, cell] = ndtri(low[:, cell]), ndtri(high[:, cell])
        assert (low <= rows.z).all()
        assert (rows.z <= high).all()


class TestBadInput:
    @pytest.mark.parametrize("value", [np.inf, -np.inf])
    def test_infinity_names_column_and_row(self, value: float) -> None:
        frame = pd.DataFrame({"a": RNG.normal(size=N), "b": RNG.normal(size=N)})
        encoder = TableEncoder().fit(frame)
        frame.loc[17, "b"] = value
        for act in (encoder.encode, TableEncoder().fit):
            with pytest.raises(ValueError, match=r"infinity: column 'b', row 17"):
                act(frame)
        x = RNG.normal(size=(N, 2))
        encoder = TableEncoder().fit(x)
        x[3, 1] = value
        with pytest.raises(ValueError, match="column 1, row 3"):
            encoder.encode(x)

    def test_all_missing_names_column(self) -> None:
        with pytest.raises(ValueError, match="'void' has only missing values"):
            TableEncoder().fit(pd.DataFrame({"a": RNG.normal(size=N), "void": np.nan}))

    def test_text_in_a_numeric_column_names_column_and_row(self) -> None:
        frame = pd.DataFrame({"a": RNG.normal(size=N)})
        encoder = TableEncoder().fit(frame)
        bad = frame.astype(object)
        bad.loc[5, "a"] = "oops"
        with pytest.raises(ValueError, match=r"'a' is numeric, but row 5 holds 'oops'"):
            encoder.encode(bad)

    def test_mixed_text_and_numbers_name_the_row(self) -> None:
        values: list[Any] = list(range(N))
        values[7] = "seven"
        with pytest.raises(ValueError, match=r"'a' mixes numbers and text \(row 7"):
            TableEncoder().fit(pd.DataFrame({"a": values}))

    def test_free_text_is_refused_and_can_be_excluded(self) -> None:
        frame = pd.DataFrame({"note": [f"text {i}" for i in range(N)], "a": RNG.normal(size=N)})
        with pytest.raises(ValueError, match=r"'note' looks like free text .* exclude"):
            TableEncoder().fit(frame)
        assert TableEncoder(exclude=["note"]).fit(frame).dim == 1

    def test_nothing_varies(self) -> None:
        with pytest.raises(ValueError, match="every column is constant"):
            TableEncoder().fit(np.ones((N, 3)))

    def test_duplicate_names(self) -> None:
        with pytest.raises(ValueError, match="'a' appears more than once"):
            TableEncoder().fit(pd.DataFrame(RNG.normal(size=(N, 2)), columns=["a", "a"]))

    def test_objects_and_complex_are_named(self) -> None:
        with pytest.raises(TypeError, match="'a' holds a dict"):
            TableEncoder().fit(pd.DataFrame({"a": [{}] * N}))
        with pytest.raises(ValueError, match="'a': complex"):
            TableEncoder().fit(pd.DataFrame({"a": np.ones(N) * 1j}))

    def test_excluding_everything(self) -> None:
        with pytest.raises(ValueError, match="leaves no column"):
            TableEncoder(exclude=[0]).fit(np.ones((N, 1)))

    def test_a_text_column_name_of_another_type(self) -> None:
        with pytest.raises(ValueError, match="tuple"):
            TableEncoder().fit(pd.DataFrame({("a", 1): RNG.normal(size=N)}))


def test_pieces_change_nothing(mixed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TableEncoder().fit(mixed)
    whole = encoder.encode(mixed, cells=True)
    monkeypatch.setattr("anomgen.encode.table.PIECE", 7 * mixed.shape[1])
    pieces = encoder.encode(mixed, cells=True)
    for name in ("z", "log_det", "low", "high"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))
    mixed.loc[50, "length"] = np.inf
    with pytest.raises(ValueError, match="row 50"):
        encoder.encode(mixed)


def test_weights_count_as_repetitions() -> None:
    x = np.stack([RNG.normal(size=N), RNG.integers(0, 2, N)], axis=1)
    weight = RNG.integers(1, 4, N).astype(float)
    weighted = TableEncoder().fit(x, weight)
    repeated = TableEncoder().fit(np.repeat(x, weight.astype(int), axis=0))
    assert weighted.columns_[0].center == pytest.approx(repeated.columns_[0].center)
    assert weighted.columns_[0].scale == pytest.approx(repeated.columns_[0].scale)
    assert weighted.columns_[1].shares == pytest.approx(repeated.columns_[1].shares)


class TestCodes:
    """What models get that give levels a probability of their own."""

    def test_levels_become_numbers_and_gaps_nan(self) -> None:
        frame = pd.DataFrame({"c": ["b", "a", None, "b"] * 30, "x": [1.5, np.nan, 2.5, 0.5] * 30})
        encoder = TableEncoder().fit(frame)
        rows = encoder.encode(frame.assign(c=frame["c"].replace("b", "new")), codes=True)
        names = encoder.layout()["names"]
        c, c_gone, x, x_gone = (rows.z[:4, names.index(n)] for n in ("c", "c is missing", "x", "x is missing"))
        assert c[[0, 1, 3]].tolist() == [2, 0, 2]
        assert np.isnan(c[2])
        assert c_gone.tolist() == [0, 0, 1, 0]
        assert np.isnan(x[1])
        assert x_gone.tolist() == [0, 1, 0, 0]

    def test_only_maps_and_boxes_are_left_in_the_log_determinant(self) -> None:
        frame = pd.DataFrame({"c": ["b", "a", "c", "b"] * 30, "x": np.arange(120) ** 0.5})
        encoder = TableEncoder().fit(frame)
        slope = -np.log(encoder.columns_[1].scale) - np.log(encoder.columns_[1].spread)
        assert encoder.encode(frame, codes=True).log_det == pytest.approx(np.full(120, slope))

    def test_a_gap_that_training_had_not_costs_its_probability(self) -> None:
        frame = pd.DataFrame({"x": RNG.normal(size=100), "y": RNG.normal(size=100)})
        encoder = TableEncoder().fit(frame)
        known, gone = (encoder.encode(f, codes=True).log_det[0] for f in (frame, frame.assign(x=np.nan)))
        assert gone - known == pytest.approx(np.log(encoder.columns_[0].unseen) + np.log(encoder.columns_[0].scale))

    def test_bounds_are_those_of_boxes_only(self) -> None:
        frame = pd.DataFrame({"c": list("abca") * 25, "k": RNG.poisson(3, 100), "x": RNG.normal(size=100)})
        frame.loc[3, "x"] = np.nan
        encoder = TableEncoder().fit(frame)
        rows = encoder.encode(frame, cells=True, codes=True)
        c, k, x = (encoder.layout()["names"].index(name) for name in "ckx")
        assert np.array_equal(rows.low[:, c], rows.z[:, c])
        assert (rows.low[:, k] < rows.high[:, k]).all()
        assert np.isnan(rows.low[3, x])

    def test_decoding_gives_the_rows_back(self, mixed: pd.DataFrame) -> None:
        encoder = TableEncoder().fit(mixed)
        back = encoder.decode(encoder.encode(mixed, codes=True).z, codes=True)
        assert back["city"].equals(mixed["city"])
        assert back["member"].equals(mixed["member"])
        assert back["visits"].equals(mixed["visits"])
        assert back["weight"].isna().equals(mixed["weight"].isna())
        assert back["length"].to_numpy() == pytest.approx(mixed["length"].to_numpy(), rel=1e-5)

    def test_the_layout_tells_what_unseen_levels_weigh(self) -> None:
        frame = pd.DataFrame({"c": list("abca") * 25, "x": RNG.normal(size=100)})
        frame.loc[3, "x"] = np.nan
        layout = TableEncoder().fit(frame).layout()
        told = dict(zip(layout["names"], layout["unseen"], strict=True))
        assert told == {"c": pytest.approx(0.01 / 101), "x": 0.0, "x is missing": 0.0}


@pytest.mark.parametrize(("unit", "seconds"), [("D", 86_400), ("h", 3_600), ("min", 60), ("s", 1)])
def test_whole_days_hours_minutes_and_seconds_come_back_whole(unit: str, seconds: int) -> None:
    rng = np.random.default_rng(0)
    when = pd.Timestamp("2024-02-28") + pd.to_timedelta(rng.integers(0, 400, 200), unit=unit)
    encoder = TableEncoder().fit(pd.DataFrame({"when": when, "x": rng.normal(size=200)}))
    drawn = encoder.decode(rng.normal(size=(500, 2)))["when"]
    assert ((drawn - pd.Timestamp("1970-01-01")) % pd.Timedelta(seconds, "s") == pd.Timedelta(0)).all()
    assert drawn.nunique() > 50
