"""The benchmark of batch jobs measures what it says, at sizes that take seconds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import anomgen
from anomgen.data import load_dataset

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The job under its own name, as the processes that it starts import it."""
    sys.path.insert(0, str(PIPELINES))
    yield importlib.import_module("benchmark_batch")
    sys.path.remove(str(PIPELINES))


@pytest.fixture
def sizes(bench: ModuleType) -> Any:
    return bench.Sizes((3_000, 9_000), 1, 500, 4, 6_000, 2, 5, 20)


def test_rows_are_float32_and_the_same_for_any_number_of_them(bench: ModuleType, tmp_path: Path) -> None:
    few = pd.read_parquet(bench.write_rows(tmp_path / "few.parquet", 1_000))
    more = bench.write_rows(tmp_path / "more.parquet", bench.BLOCK + 1_000, bad=10)
    assert set(few.dtypes) == {np.dtype("float32")}
    assert few.shape == (1_000, 20)
    held = pq.ParquetFile(more)
    assert [held.metadata.row_group(k).num_rows for k in range(held.num_row_groups)] == [bench.BLOCK, 1_000]
    spoiled = np.isinf(held.read(["x0"])["x0"].to_numpy())
    assert spoiled.mean() == pytest.approx(0.1, abs=0.001)
    assert np.array_equal(pd.read_parquet(more)["x1"][:1_000], few["x1"])


def test_figures_are_judged(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = bench.Report()
    report("a", "1", True)
    report("b", "2", False)
    report("c", "3")
    assert report.missed == ["b"]
    verdicts = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert verdicts == ["reached", "MISSED", "3"]


def test_false_discoveries_and_power(bench: ModuleType) -> None:
    chosen = np.array([True, False, False, True, True, False, True])
    assert dict(bench.judged(chosen, 3)) == {"fdr": 0.25, "power": 0.75}
    assert dict(bench.judged(np.zeros(7, bool), 3)) == {"fdr": 0.0, "power": 0.0}


def test_discoveries_on_a_table(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cancer = load_dataset("breast_cancer")
    monkeypatch.setattr(bench, "load_dataset", lambda *_, **__: cancer)
    found = bench.discoveries("cancer", Path(), 20)
    normal = int((cancer.y == 0).sum())
    assert found["anomalies"] == int(cancer.y.sum())
    assert found["calibrated on"] + found["tested"] - found["anomalies"] == normal - normal // 2
    assert 0.0 <= found["fdr"] < 0.2
    assert found["power"] > 0.5


def test_the_limit_counts_the_matrix_products_of_a_score(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "one_core", lambda: 1e9)
    options = {"hidden": (32,), "transforms": 2, "coupling": "affine", "max_epochs": 1, "random_state": 0}
    detector = anomgen.FlowDetector(**options).fit(bench.table(500, 0))
    # Each of two transforms sees half of the columns and gives a shift and a scale of the other half.
    least = 2 * 2 * (10 * 32 + 32 * 20)
    assert bench.CORES * 1e9 / (3 * least) < bench.limit_rate(detector) <= bench.CORES * 1e9 / least


def test_memory_is_that_of_other_processes(
    bench: ModuleType, sizes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench.Report()
    bench.memory(report, sizes, tmp_path)
    assert report.missed == []
    assert capsys.readouterr().out.count("MB") >= 3
    summary = json.loads((tmp_path / "scores-9000" / "_summary.json").read_text())
    assert summary["rows"] == 9_000


def test_killed_jobs_are_compared(
    bench: ModuleType, sizes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench.Report()
    bench.kills(report, sizes, tmp_path)
    told = capsys.readouterr().out
    assert report.missed == [], told
    assert "4 of 4" in told
    whole = tmp_path / "whole"
    before = bench.tree(whole)
    part = sorted(whole.glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-1])
    assert bench.tree(whole) != before


def test_damaged_files_are_all_accounted_for(
    bench: ModuleType, sizes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench.Report()
    bench.malformed(report, sizes, tmp_path)
    assert report.missed == [], capsys.readouterr().out


def test_without_tables_it_is_a_usage_error(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--data", str(tmp_path), "--quick"])
    assert stopped.value.code == 2
    assert "datasets/README.md" in capsys.readouterr().err
