"""Exports whose training, held-out and near rows come in another container than the model was fitted on."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomgen import MixtureDetector, data
from anomgen.augment import export

SMALL: dict[str, Any] = {"components": 2, "contamination": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(400, 3))


@pytest.fixture(scope="module")
def files(numbers: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training rows, held-out rows and rows to be near, as tables, of which the last has no column x1."""
    folder = tmp_path_factory.mktemp("files")
    frame = pd.DataFrame(numbers, columns=["x0", "x1", "x2"])
    parts = {"train": frame[:300], "held_out": frame[300:], "near": frame[:5].drop(columns="x1")}
    for name, part in parts.items():
        part.to_csv(folder / f"{name}.csv", index=False)
    return {name: folder / f"{name}.csv" for name in parts}


@pytest.fixture(scope="module")
def partly(numbers: np.ndarray) -> MixtureDetector:
    """Fitted on an array, of which it was told to leave out a column."""
    return MixtureDetector(**SMALL, exclude=[1]).fit(numbers[:300])


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_rows_of_an_array_may_be_measured_by_tables(
    partly: MixtureDetector, numbers: np.ndarray, files: dict[str, Path], tmp_path: Path, ending: str
) -> None:
    first, second = (tmp_path / f"{name}{ending}" for name in ("a", "b"))
    told = {"train": files["train"], "held_out": files["held_out"]}
    by_files = export(partly, 200, first, evaluate=True, **told).metrics
    in_memory = export(partly, 200, second, evaluate=True, train=numbers[:300], held_out=numbers[300:]).metrics
    assert by_files == pytest.approx(in_memory)
    assert by_files["column_shapes"] > 0.7


def test_rows_near_those_of_a_table_are_of_an_array(
    partly: MixtureDetector, numbers: np.ndarray, files: dict[str, Path], tmp_path: Path
) -> None:
    export(partly, 50, tmp_path / "a.npz", near=files["near"], train=numbers[:300])
    export(partly, 50, tmp_path / "b.npz", near=numbers[:5], train=numbers[:300])
    drawn, same = (np.load(tmp_path / f"{name}.npz")["X"] for name in "ab")
    np.testing.assert_allclose(drawn[:, [0, 2]], same[:, [0, 2]])
    assert np.isnan(drawn[:, 1]).all()


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_types_of_every_kind_are_read_back_for_the_card(tmp_path: Path, form: Any) -> None:
    rng = np.random.default_rng(1)
    n = 300
    columns = {
        "price": pa.array(
            [decimal.Decimal(int(cents)) / 100 for cents in rng.integers(100, 999, n)], pa.decimal128(8, 2)
        ),
        "grade": pa.array(rng.choice([1, 2, 3], n)).dictionary_encode(),
        "when": pa.array((1.7e12 + rng.integers(0, 10**10, n)).astype("M8[ms]")).cast(pa.timestamp("ms", "UTC")),
    }
    for name, rows in (("train", slice(0, 200)), ("held_out", slice(200, n))):
        pq.write_table(pa.table({key: values[rows] for key, values in columns.items()}), tmp_path / f"{name}.parquet")
    told = {name: tmp_path / f"{name}.parquet" for name in ("train", "held_out")}
    detector = MixtureDetector(**SMALL).fit(data.read_table(told["train"]))
    summary = export(detector, 200, tmp_path / "out", format=form, evaluate=True, **told)
    assert summary.metrics["column_shapes"] > 0.7
