"""Exports of drawn rows: files that others read, with the types, the marks and the card they need."""

from __future__ import annotations

import decimal
import json
import os
import threading
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.exceptions import NotFittedError

from anomgen import FlowDetector, MixtureDetector, data
from anomgen.augment import Integer, Range, export, export_anomalies
from anomgen.augment.draw import COPY
from anomgen.detector import state
from anomgen.jobs.errors import ModelMismatch, SchemaError
from anomgen.jobs.manifest import MANIFEST

SMALL: dict[str, Any] = {"components": 2, "contamination": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """300 rows with a column of every Arrow type that files of records have."""
    rng = np.random.default_rng(1)
    n = 300
    amount = [decimal.Decimal(int(cents)) / 100 for cents in np.exp(rng.normal(8, 1, n))]
    moments = pa.array((1.7e12 + rng.integers(0, 10**10, n)).astype("M8[ms]"))
    days = pa.array((19_800 + rng.integers(0, 300, n)).astype("M8[D]"))
    columns = {
        "city": pa.array(rng.choice(["Ghent", "Lyon", "Turin"], n)).dictionary_encode(),
        "amount": pa.array(amount, pa.decimal128(12, 2)),
        "visits": pa.array(rng.poisson(3, n), pa.int32()),
        "weight": pa.array(np.where(rng.random(n) < 0.1, np.nan, rng.normal(70, 9, n)), pa.float32(), from_pandas=True),
        "seen": moments.cast(pa.timestamp("ms", "Europe/Brussels")),
        "day": days.cast(pa.date32()),
        "member": pa.array(rng.random(n) < 0.3),
        "shop": pa.array(rng.choice(["a", "b"], n)),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def file(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "train.parquet"
    pq.write_table(table.append_column("fraud", pa.array(np.arange(len(table)) % 2)), path)
    return path


@pytest.fixture(scope="module")
def detector(file: Path) -> MixtureDetector:
    return MixtureDetector(**SMALL).fit(data.read_table(file).drop(columns="fraud"))


@pytest.fixture(scope="module")
def plain(numbers: np.ndarray) -> MixtureDetector:
    return MixtureDetector(**SMALL).fit(numbers)


def test_a_folder_is_read_by_datasets(detector: MixtureDetector, file: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    summary = export(detector, 20_000, out, train=file, part_rows=16_384, seed=3)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == 20_000
    assert set(loaded.column_names) == {*detector.feature_names_in_, "synthetic", "seed", "model_id"}
    last = loaded[-1]
    assert (last["synthetic"], last["seed"], last["model_id"]) == (True, 3, summary.model_digest[:16])
    written = pq.read_table([out / name for name in summary.files])
    assert last["city"] == written["city"][-1].as_py()
    assert last["amount"] == written["amount"][-1].as_py()
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "_SUCCESS", MANIFEST, "_summary.json", "data", "report.json"),
    ]


def test_types_are_those_of_the_training_file(detector: MixtureDetector, table: pa.Table, file: Path) -> None:
    out = file.with_name("drawn.parquet")
    summary = export(detector, 500, out, train=file, overwrite=True)
    assert summary.left_out == ("fraud",)
    assert pq.read_schema(out).names == [*table.column_names, "synthetic", "seed", "model_id"]
    drawn = pq.read_table(out)
    for name in table.column_names:
        assert drawn.schema.field(name).type == table.schema.field(name).type, name
    assert 0.02 < drawn["weight"].null_count / 500 < 0.25
    assert set(drawn["city"].to_pylist()) <= {"Ghent", "Lyon", "Turin"}
    again = data.read_table(out)
    assert np.isfinite(detector.score_samples(again[list(detector.feature_names_in_)])).all()


def test_another_file_may_say_what_columns_are_like(detector: MixtureDetector, table: pa.Table, file: Path) -> None:
    like = file.with_name("like.parquet")
    wanted = table.schema.set(2, pa.field("visits", pa.int8())).set(1, pa.field("amount", pa.float64()))
    wanted = wanted.set(4, pa.field("seen", pa.timestamp("us", "UTC")))
    order = list(reversed(wanted))
    pq.write_table(pa.schema(order).empty_table(), like)
    out = file.with_name("alike.parquet")
    export(detector, 300, out, allow_copies=True, like=like, overwrite=True)
    assert list(pq.read_schema(out))[: len(order)] == order
    pq.write_table(pa.schema([field for field in order if field.name != "day"]).empty_table(), like)
    with pytest.raises(SchemaError, match="has no column 'day', which the model draws"):
        export(detector, 300, out, allow_copies=True, like=like, overwrite=True)
    pq.write_table(
        pa.schema([f if f.name != "weight" else pa.field("weight", pa.int32()) for f in order]).empty_table(), like
    )
    with pytest.raises(SchemaError, match=r"column 'weight' .* does not fit the type int32 .* Integer\('weight'\)"):
        export(detector, 300, out, allow_copies=True, like=like, overwrite=True)
    assert pq.read_metadata(out).num_rows == 300, "an export that fails leaves the file that was there"
    rules = [Integer("weight"), Range("weight", 0, 200)]
    export(detector, 300, out, allow_copies=True, like=like, overwrite=True, constraints=rules)
    assert pq.read_schema(out).field("weight").type == pa.int32()


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
def test_one_file(plain: MixtureDetector, numbers: np.ndarray, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "below" / f"drawn.{ending}"
    summary = export(plain, 250, out, train=numbers, seed=5)
    assert summary.files == (out.name,)
    assert summary.rows == 250
    read = data.read_table(out)
    if ending == "npz":
        with np.load(out) as arrays:
            marks = {name: arrays[name] for name in arrays if name != "X"}
    else:
        assert list(read.columns) == ["x0", "x1", "x2", "synthetic", "seed", "model_id"]
        marks = {name: read.pop(name).to_numpy() for name in ("synthetic", "seed", "model_id")}
    assert all(len(values) == 250 for values in marks.values())
    assert (marks["synthetic"].all(), set(marks["seed"]), set(marks["model_id"])) == (
        *(True, {5}, {summary.model_digest[:16]}),
    )
    longer = export(plain, 400, tmp_path / "longer.npz", train=numbers, seed=5)
    assert longer.rows == 400
    assert np.array_equal(np.asarray(read), data.read_table(tmp_path / "longer.npz")[:250])
    card = (tmp_path / "below" / "drawn.card.md").read_text()
    assert "# 250 synthetic rows" in card
    assert json.loads((tmp_path / "below" / "drawn.card.json").read_text())["facts"]["rows"] == 250
    with pytest.raises(FileExistsError, match="ask to overwrite"):
        export(plain, 250, out, train=numbers)


def test_files_may_hold_more_columns_than_the_model_draws(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"id": [f"c{i}" for i in range(300)], "a": rng.normal(size=300), "k": rng.choice(["u", "v"], 300)}
    )
    frame.assign(fraud=0)[["fraud", *frame]].to_csv(tmp_path / "train.csv", index=False)
    frame.assign(fraud=1)[:8].to_csv(tmp_path / "near.csv", index=False)
    detector = MixtureDetector(exclude=("id",), **SMALL).fit(
        data.read_table(tmp_path / "train.csv").drop(columns="fraud")
    )
    out = tmp_path / "out"
    summary = export(detector, 60, out, train=tmp_path / "train.csv", near=tmp_path / "near.csv", format="csv")
    assert summary.left_out == ("fraud",)
    drawn = data.read_table(out / "data")
    assert list(drawn.columns) == ["id", "a", "k", "synthetic", "seed", "model_id"]
    assert drawn["id"].isna().all()
    with pytest.raises(ModelMismatch, match="its option near was"):
        export(detector, 60, out, train=tmp_path / "train.csv", format="csv")


def test_copies_are_refused_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("abcdefgh"), 300) for name in "xyz"})
    detector = MixtureDetector(**SMALL).fit(frame)
    with pytest.raises(ValueError, match="copies cannot be checked"):
        export(detector, 100, tmp_path / "a.csv")
    refused = export(detector, 100, tmp_path / "a.csv", train=frame)
    assert refused.copies == refused.copies_refused == refused.refused[COPY] > 20
    rows = {tuple(row) for row in frame.to_numpy()}
    assert not rows & {tuple(row) for row in data.read_table(tmp_path / "a.csv")[list("xyz")].to_numpy()}
    kept = export(detector, 100, tmp_path / "b.csv", train=frame, allow_copies=True)
    assert (kept.copies_refused, kept.tried) == (0, 100)
    assert kept.copies == sum(tuple(row) in rows for row in data.read_table(tmp_path / "b.csv")[list("xyz")].to_numpy())
    assert export(detector, 100, tmp_path / "c.csv", allow_copies=True).copies is None


def test_labels_beside_the_rows_are_exported(numbers: np.ndarray, tmp_path: Path) -> None:
    labels = np.where(numbers[:, 0] > 0, "high", "low")
    detector = FlowDetector(hidden=(8,), max_epochs=2, condition="y", contamination=0.1, random_state=0)
    detector.fit(numbers, labels)
    export(detector, 2_000, tmp_path / "both.parquet", allow_copies=True)
    drawn = pd.read_parquet(tmp_path / "both.parquet")
    assert abs((drawn["y"] == "high").mean() - (labels == "high").mean()) < 0.05
    export(detector, 50, tmp_path / "one.npz", allow_copies=True, condition="low")
    with np.load(tmp_path / "one.npz") as arrays:
        assert set(arrays["y"]) == {"low"}


def test_the_training_file_may_lack_labels_and_columns_that_were_excluded(numbers: np.ndarray, tmp_path: Path) -> None:
    rows = pd.DataFrame(numbers, columns=list("abc"))
    rows.to_parquet(tmp_path / "train.parquet")
    flow = FlowDetector(hidden=(8,), max_epochs=1, condition="y", contamination=0.1, random_state=0)
    for detector, last in (
        (flow.fit(rows, np.where(numbers[:, 0] > 0, "high", "low")), ["y"]),
        (MixtureDetector(**SMALL, exclude=["id"]).fit(rows.assign(id=np.arange(len(rows)))), []),
    ):
        export(detector, 20, tmp_path / "drawn.parquet", train=tmp_path / "train.parquet", overwrite=True)
        assert pq.read_schema(tmp_path / "drawn.parquet").names == [*"abc", *last, "synthetic", "seed", "model_id"]


def test_what_is_refused_before_a_row_is_drawn(
    detector: MixtureDetector, plain: MixtureDetector, numbers: np.ndarray, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"allow_copies": True}
    with pytest.raises(ValueError, match="npz holds numbers only, and column 'city' is"):
        export(detector, 10, tmp_path / "a.npz", **given)
    with pytest.raises(ValueError, match="unknown kind of file"):
        export(plain, 10, tmp_path / "a.xlsx", **given)
    with pytest.raises(ValueError, match=r"format='csv' does not fit the name a\.parquet"):
        export(plain, 10, tmp_path / "a.parquet", format="csv", **given)
    with pytest.raises(ValueError, match=r"unknown kind of file; these rows are written to \.parquet"):
        export(plain, 10, tmp_path / "a", format="png", **given)
    with pytest.raises(ValueError, match=r"part_rows=20000 must be a multiple of 16,384, .* 16,384 is one"):
        export(plain, 10, tmp_path / "a", part_rows=20_000, **given)
    with pytest.raises(ValueError, match="rows=0 must be a positive integer"):
        export(plain, 0, tmp_path / "a", **given)
    with pytest.raises(ValueError, match="evaluate= needs held_out="):
        export(plain, 10, tmp_path / "a", evaluate=True, **given)
    with pytest.raises(ValueError, match="target='x0' is what evaluate= measures by"):
        export(plain, 10, tmp_path / "a", target="x0", **given)
    with pytest.raises(ValueError, match="no column 'x7'; did you mean 'x"):
        export(plain, 10, tmp_path / "a", target="x7", evaluate=True, held_out=numbers, **given)
    for name, options in (
        ("a.parquet", {"part_rows": 16_384}),
        ("a", {"workers": 0}),
        ("a.npz", {"like": tmp_path / "like.csv"}),
        ("a", {"held_out": numbers}),
        ("a", {"strength": 0.5}),
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            export(plain, 10, tmp_path / name, **options, **given)
    with pytest.raises(NotFittedError):
        export(MixtureDetector(), 10, tmp_path / "a", **given)
    frame = pd.DataFrame(numbers, columns=["a", "b", "seed"])
    with pytest.raises(ValueError, match="the rows have a column 'seed'"):
        export(MixtureDetector(**SMALL).fit(frame), 10, tmp_path / "a", **given)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_ours_is_left_alone(plain: MixtureDetector, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match="holds data, which is not the output of an export"):
        export(plain, 10, tmp_path, allow_copies=True, overwrite=True)
    (tmp_path / "data" / "thesis.parquet").rename(tmp_path / "README.md")
    with pytest.raises(FileExistsError, match=r"holds README\.md"):
        export(plain, 10, tmp_path, allow_copies=True, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_folders_beside_a_file_are_left_alone(plain: MixtureDetector, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "README.md").write_text("mine")
    (tmp_path / "lake.parquet").mkdir()
    (tmp_path / "lake.parquet" / "part-0.parquet").write_text("mine")
    for write in (export, export_anomalies):
        write(plain, 10, tmp_path / "rows.parquet", allow_copies=True, overwrite=True)
        assert "synthetic" in (tmp_path / "rows.card.md").read_text()
        assert [(file.name, file.read_text()) for file in (tmp_path / "rows").iterdir()] == [("README.md", "mine")]
        with pytest.raises(FileExistsError, match=r"lake\.parquet is a folder"):
            write(plain, 10, tmp_path / "lake.parquet", allow_copies=True, overwrite=True)
        assert (tmp_path / "lake.parquet" / "part-0.parquet").read_text() == "mine"


def test_rows_that_wait_to_be_learned_are_learned_first(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = FlowDetector(hidden=(8,), max_epochs=1, contamination=0.1, random_state=0).partial_fit(numbers)
    summary = export(detector, 10, tmp_path / "a.npz", train=numbers)
    assert summary.model_digest == state.digest_of(detector)


def test_threads_end_with_an_export_that_fails(plain: MixtureDetector, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as held:
        export(plain, 40_000, tmp_path / "a.parquet", allow_copies=True, workers=2, progress=fail)
    assert held.tb is not None, "which keeps what was at work when it failed"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("anomgen")]
    assert not list(tmp_path.iterdir())


def test_another_recipe_is_told(plain: MixtureDetector, numbers: np.ndarray, tmp_path: Path) -> None:
    export(plain, 10, tmp_path / "out", train=numbers)
    for changed, told in (
        ({"seed": 1}, "its option seed was 0 and is 1 now"),
        ({"band": "rare"}, "its option band was None"),
        ({"constraints": [Range("x0", 0, None)]}, "its option constraints was"),
        ({"train": numbers[:300]}, "train"),
    ):
        with pytest.raises(ModelMismatch, match=told):
            export(plain, 10, tmp_path / "out", **{"train": numbers, **changed})
    other = MixtureDetector(**{**SMALL, "components": 1}).fit(numbers)
    with pytest.raises(ModelMismatch, match="its model has sha256"):
        export(other, 10, tmp_path / "out", train=numbers)
    replaced = export(other, 10, tmp_path / "out", train=numbers, overwrite=True)
    assert (replaced.rows, replaced.resumed) == (10, 0)
    assert export(other, 10, tmp_path / "out", train=numbers).complete_before


def test_what_is_measured_is_in_the_card(plain: MixtureDetector, numbers: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "held.npz", X=numbers[:150])
    given = {"train": numbers[150:], "held_out": tmp_path / "held.npz"}
    out = tmp_path / "out"
    before = export(plain, 600, out, **given)
    assert (before.metrics, (out / "plots").exists()) == ({}, False)
    parts = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    summary = export(plain, 600, out, **given, evaluate=True, target="x0")
    assert summary.complete_before
    assert 0.8 < summary.metrics["column_shapes"] <= 1
    told = json.loads((out / "report.json").read_text())
    assert told["report"]["rows"] == {"synthetic": 600, "held_out": 150, "train": 250}
    assert told["facts"]["held_out"]["files"] == [str(tmp_path / "held.npz")]
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir()} == parts
    assert (out / "plots" / "scores.png").is_file()
    assert (out / "_SUCCESS").exists()
    # The card keeps what was measured when the same job is started again.
    export(plain, 600, out, **given)
    assert json.loads((out / "report.json").read_text()) == told
