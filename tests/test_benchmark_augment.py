"""The benchmark of drawn rows measures what it says, at sizes that take seconds."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen import FlowDetector
from anomgen.data import load_dataset, make_payments

PIPELINES = Path(__file__).parents[1] / "pipelines"
SHORT = {"max_epochs": 3, "hidden": (16,)}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The job under its own name, as it imports the files beside it."""
    sys.path.insert(0, str(PIPELINES))
    yield importlib.import_module("benchmark_augment")
    sys.path.remove(str(PIPELINES))


@pytest.fixture(scope="module")
def generators(bench: ModuleType) -> ModuleType:
    return bench.generators


@pytest.fixture(scope="module")
def payments() -> pd.DataFrame:
    X, y, _ = make_payments(600, anomaly_share=0.1, seed=0)
    return X.assign(y=y)


def options(tmp_path: Path, **changed: Any) -> argparse.Namespace:
    usual = {"data": None, "rows": 400, "seeds": 1, "tables": ["payments"], "jobs": 1, "samples": None}
    return argparse.Namespace(**usual | {"out": tmp_path / "lines.csv"} | changed)


# ---------------------------------------------------------------------- generators


def test_rows_come_back_as_they_were_prepared(generators: ModuleType, payments: pd.DataFrame) -> None:
    plain = generators.Plain(payments)
    encoded = plain.encode(payments)
    assert not encoded.isna().any(axis=None)
    assert {*plain.discrete} == {"category", "channel", "device", "country", "verified", "y", "distance_km is missing"}
    assert all(encoded[name].dtype.kind == "f" for name in encoded if name not in plain.discrete)
    pd.testing.assert_frame_equal(plain.decode(encoded), payments)


def test_what_peers_draw_is_rounded_and_kept_in_range(generators: ModuleType, payments: pd.DataFrame) -> None:
    plain = generators.Plain(payments)
    drawn = plain.encode(payments).assign(amount=1e9, hour=-3.4, balance=0.123456)
    back = plain.decode(drawn)
    assert (back["amount"] == payments["amount"].max()).all()
    assert (back["hour"] == payments["hour"].min()).all()
    assert (back["balance"] == 0.12).all()
    assert (back.dtypes == payments.dtypes).all()


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 20.0], 0), ([0.5, 3.0], 1), ([1.25, 0.001], 3), ([1 / 3], None)]
)
def test_decimals_of_a_column(generators: ModuleType, values: list[float], expected: int | None) -> None:
    assert generators.decimals(np.array(values)) == expected


def test_levels_are_intervals_as_wide_as_they_are_frequent(generators: ModuleType) -> None:
    rows = pd.DataFrame({"a": ["x"] * 700 + ["y"] * 300, "b": np.arange(1000.0)})
    intervals = generators.Intervals(rows, ["a"])
    encoded = intervals.encode(rows, 0)
    assert encoded["a"][:700].between(0.0, 0.7).all()
    assert encoded["a"][700:].between(0.7, 1.0).all()
    assert np.histogram(encoded["a"], 4, (0, 1))[0] == pytest.approx(250, abs=50)
    pd.testing.assert_frame_equal(intervals.decode(encoded), rows, check_dtype=False)


def test_smote_draws_new_rows_of_each_class_in_its_share(generators: ModuleType, payments: pd.DataFrame) -> None:
    drawn = generators.draw("SMOTE", payments, 300, 0)
    assert len(drawn) == 300
    assert drawn["y"].sum() == 30
    assert (drawn.dtypes == payments.dtypes).all()
    assert drawn.merge(payments).empty
    pd.testing.assert_frame_equal(drawn, generators.draw("SMOTE", payments, 300, 0))


def test_a_copula_keeps_margins_and_dependence(generators: ModuleType) -> None:
    z = np.random.default_rng(0).normal(size=(2000, 2))
    rows = pd.DataFrame({"a": np.exp(z[:, 0]), "b": z[:, 0] + z[:, 1], "y": (z[:, 1] > 1).astype(int)})
    drawn = generators.draw("copula (statsmodels)", rows, 2000, 0)
    assert drawn["a"].isin(rows["a"]).all()
    assert drawn["y"].mean() == pytest.approx(rows["y"].mean(), abs=0.03)
    spearman = [frame[["a", "b"]].corr("spearman").iloc[0, 1] for frame in (drawn, rows)]
    assert spearman[0] == pytest.approx(spearman[1], abs=0.05)


def test_what_is_not_installed_is_named(generators: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(generators.missing()) <= {"CTGAN", "TVAE", "copula (copulas)", "copula (statsmodels)"}
    monkeypatch.setitem(generators.PEERS, "SMOTE", "a-distribution-nobody-has")
    assert generators.missing()["SMOTE"] == "a-distribution-nobody-has"


# ---------------------------------------------------------------------- panels


def test_halves_share_no_row_and_the_share_of_anomalies(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cancer = load_dataset("breast_cancer")
    monkeypatch.setattr(bench, "load_dataset", lambda *_, **__: cancer)
    train, held_out = bench.halves("cardio", None, 400, 0)
    assert len(train) == len(held_out) == 200
    assert train["y"].mean() == pytest.approx(cancer.y.mean(), abs=0.01)
    assert held_out["y"].mean() == pytest.approx(cancer.y.mean(), abs=0.01)
    assert train.merge(held_out).empty


def test_rows_of_peers_are_kept_for_the_same_rows_and_settings(
    bench: ModuleType, generators: ModuleType, payments: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, seconds = bench.draw("SMOTE", "payments", payments, 0, tmp_path)
    drawn: list[str] = []
    monkeypatch.setattr(generators, "draw", lambda method, rows, *_: drawn.append(method) or rows)
    again, as_long = bench.draw("SMOTE", "payments", payments, 0, tmp_path)
    pd.testing.assert_frame_equal(first, again)
    assert as_long == pytest.approx(seconds, abs=0.01)
    assert drawn == []
    bench.draw("SMOTE", "payments", payments[1:], 0, tmp_path)
    bench.draw("SMOTE", "payments", payments, 1, tmp_path)
    bench.draw("training rows", "payments", payments, 0, tmp_path)
    bench.draw("training rows", "payments", payments, 0, tmp_path)
    assert drawn == ["SMOTE", "SMOTE", "training rows", "training rows"]


def test_fidelity_tells_copies_from_drawn_rows(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench.Report()
    bench.fidelity(report, options(tmp_path, methods=["SMOTE", "training rows"]))
    lines = pd.read_csv(tmp_path / "lines.csv").set_index("method")
    control, smote = lines.loc["training rows"], lines.loc["SMOTE"]
    assert control["off"] < 0.1 < smote["off"]
    assert control["gap"] == pytest.approx(0.0, abs=1e-9)
    assert control["nearer than 1 %"] > 0.9
    assert control["shapes"] > smote["shapes"]
    assert "defaults of imbalanced-learn" in capsys.readouterr().out
    assert report.missed == []


def test_ours_is_judged_by_the_best_peer(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"flow": (0.1, 0.2), "SMOTE": (0.2, 0.1), "CTGAN": (0.3, 0.3)}

    def measure(method: str, table: str, seed: int, _: argparse.Namespace) -> dict[str, Any]:
        off, gap = told[method]
        return {"table": table, "seed": seed, "method": method, "given": "", "seconds": 1.0, "off": off, "gap": gap}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench.generators, "missing", dict)
    report = bench.Report()
    bench.fidelity(report, options(tmp_path, methods=list(told), tables=["pima", "vowels"], seeds=2))
    assert report.missed == ["flow: trained on drawn from on real rows"]
    assert "0.200; best peer 0.100 (SMOTE)" in capsys.readouterr().out


def test_the_summary_weighs_tables_equally(bench: ModuleType) -> None:
    lines = [
        {"table": table, "seed": seed, "method": "flow", "given": "g", "rows": 9, "seconds": 1.0, "off": off}
        for table, seeds, off in (("a", 1, 0.1), ("b", 3, 0.2), ("c", 1, 0.9))
        for seed in range(seeds)
    ]
    found = bench.summary(pd.DataFrame(lines))
    assert found.loc["flow", "off"] == 0.2
    assert found.loc["flow", "given"] == "g"
    assert "rows" not in found


def test_our_copies_are_refused_and_counted(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = bench.generators.Ours(FlowDetector, SHORT)
    monkeypatch.setitem(bench.generators.GENERATORS, "flow", lambda: ours)
    report = bench.Report()
    bench.copies(report, options(tmp_path, methods=["flow", "SMOTE"]))
    assert report.missed == []
    told = capsys.readouterr().out
    assert "membership" in told
    assert "SMOTE" not in told


def test_help_for_rare_classes_is_judged_by_every_other_way(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oversampling = importlib.import_module("oversampling")
    found = {"none": (0.2, 0.3, 0.4), "random": (0.3, 0.5, 0.1), "SMOTE": (0.2, 0.2, 0.2), "ADASYN": (0.6, 0.7, 0.8)}
    found["ours"] = (0.3, 0.4, 0.5)
    lines = [
        {"table": table, "method": method, "seed": 0, "ap": ap, "seconds": 1.0}
        for method, aps in found.items()
        for table, ap in zip("abc", aps, strict=True)
    ]
    monkeypatch.setattr(oversampling, "run", lambda *_, **__: lines)
    report = bench.Report()
    bench.rare(report, options(tmp_path))
    assert report.missed == ["average precision: ours, random", "average precision: ours, ADASYN"]
    assert "0.400 beside 0.300; ahead by +0.100 on the median table" in capsys.readouterr().out


def test_a_child_tells_seconds_and_memory(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bench.fitted(tmp_path / "flow", FlowDetector(**SHORT))
    bench.child(str(model), "0", "")
    bench.child(str(model), "3000", str(tmp_path / "rows"))
    empty, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert whole["peak"] >= empty["peak"] > 0
    assert whole["tried"] > 3_000
    assert len(pd.read_parquet(tmp_path / "rows" / "data")) == 3_000


def test_without_tables_it_is_a_usage_error(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--data", str(tmp_path), "--only", "fidelity"])
    assert stopped.value.code == 2
    assert "datasets/README.md" in capsys.readouterr().err
