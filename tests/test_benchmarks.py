"""The benchmark jobs measure what they say, on sets that need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from anomgen.data import Dataset, load_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "pipelines" / "benchmark_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cancer() -> Dataset:
    return load_dataset("breast_cancer")


def test_a_row_that_trains_and_tests_is_refused(tables: ModuleType) -> None:
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match="2 rows are in the training and in the test set"):
        tables.check_leak(X, np.arange(12), np.arange(10, 20))


def test_near_duplicates_are_counted(tables: ModuleType) -> None:
    X = np.random.default_rng(0).normal(size=(20, 3))
    assert tables.check_leak(X, np.arange(10), np.arange(10, 20)) == 0
    X[[15, 16]] = X[[3, 4]]
    X[17] = X[5] + 1e-7
    X[18] = X[5] + 0.1
    assert tables.check_leak(X, np.arange(10), np.arange(10, 20)) == 3


@pytest.mark.parametrize("seed", range(3))
def test_no_split_leaks(tables: ModuleType, cancer: Dataset, seed: int) -> None:
    thinned = tables.thin(cancer, 300, seed)
    assert tables.check_leak(thinned.X.to_numpy(), *thinned.split_rows(seed)) == 0


def test_thinning_keeps_the_share_of_anomalies(tables: ModuleType, cancer: Dataset) -> None:
    assert tables.thin(cancer, 0, 0) is cancer
    assert tables.thin(cancer, 569, 0) is cancer
    few = tables.thin(cancer, 200, 0)
    assert len(few) == pytest.approx(200, abs=1)
    assert few.y.mean() == pytest.approx(cancer.y.mean(), abs=0.01)
    assert not np.array_equal(few.X, tables.thin(cancer, 200, 1).X)
    np.testing.assert_array_equal(few.X, tables.thin(cancer, 200, 0).X)
    assert tables.thin(cancer, 10, 0).y.sum() >= 1


def test_peers_are_sound(tables: ModuleType, cancer: Dataset) -> None:
    lines = pd.DataFrame(tables.measure(cancer, [], 0)).set_index("method")
    assert set(lines.index) - {"PyOD VAE"} == {"kNN-5", "GMM-10", "KDE", "IForest"}
    assert (lines["auroc"] > 0.9).all()
    assert (lines["auprc"] > 0.9).all()
    assert (lines["seconds"] > 0).all()
    assert (lines["rows"] + lines["tested"] == len(cancer)).all()


def test_neighbour_distance_is_the_mean_over_five(tables: ModuleType) -> None:
    scores = tables.MeanNeighbourDistance().fit([[0.0], [1.0], [2.0], [3.0], [4.0], [50.0]]).score_samples([[0.0]])
    assert scores == pytest.approx(-2.0)


def test_our_detectors_are_measured_beside_them(tables: ModuleType) -> None:
    lines = tables.measure(load_dataset("wine"), ["flow"], 0)
    assert lines[0]["method"] == "flow"
    assert lines[0]["auroc"] > 0.9


def test_summary_weighs_tables_equally_and_ranks_them(tables: ModuleType) -> None:
    lines = [
        {"table": table, "seed": seed, "method": method, "auroc": auroc, "auprc": auroc / 2, "seconds": 1.0}
        for table, seeds, scores in (("a", 1, (0.9, 0.8)), ("b", 3, (0.5, 0.7)), ("c", 1, (0.7, 0.6)))
        for seed in range(seeds)
        for method, auroc in zip(("one", "two"), scores, strict=True)
    ]
    found = tables.summary(pd.DataFrame(lines))
    assert found.index.tolist() == ["one", "two"]
    assert found["auroc"].tolist() == [70.0, 70.0]
    assert found["auprc"].tolist() == [35.0, 35.0]
    assert found["rank"].tolist() == [1.33, 1.67]
    low, high = map(float, found.loc["one", "auroc 95 %"].split(" - "))
    assert 50.0 <= low < 70.0 < high <= 90.0


def test_a_folder_without_tables_is_a_usage_error(
    tables: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tables.main(["--data", str(tmp_path), "--families", "none"])
    assert stopped.value.code == 2
    assert "datasets/README.md" in capsys.readouterr().err
