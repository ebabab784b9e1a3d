"""Scoring files: what comes out, what is refused, and that neither chunks nor memory matter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from anomgen import FlowDetector, batch
from anomgen.batch import part as parts
from anomgen.batch import summary as summaries
from anomgen.data import make_payments


def tiny(**options: Any) -> FlowDetector:
    return FlowDetector(**{"max_epochs": 2, "transforms": 2, "hidden": (8,), "random_state": 0, **options})


@pytest.fixture(scope="module")
def payments() -> pd.DataFrame:
    frame, y, _ = make_payments(1000, seed=0)
    return frame.assign(id=np.arange(5000, 6000), label=y)


@pytest.fixture(scope="module")
def detector(payments: pd.DataFrame) -> FlowDetector:
    return tiny(exclude=("id",)).fit(payments.drop(columns="label"))


@pytest.fixture
def files(payments: pd.DataFrame, tmp_path: Path) -> list[Path]:
    """The same rows as CSV and Parquet."""
    payments.to_csv(tmp_path / "week1.csv", index=False)
    payments.to_parquet(tmp_path / "week2.parquet", index=False)
    return [tmp_path / "week1.csv", tmp_path / "week2.parquet"]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a job but the one that tells times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "_summary.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def results(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)


# ---------------------------------------------------------------------- what comes out


def test_scores_of_files_are_scores_of_rows(
    detector: FlowDetector, payments: pd.DataFrame, files: list[Path], tmp_path: Path
) -> None:
    summary = batch.score_files(detector, files, tmp_path / "out", keep=["id", "label"])
    expected = detector.score_samples(payments.drop(columns="label"))
    for path in files:
        scores = pd.read_parquet(tmp_path / "out" / f"{path.stem}-00000.parquet")
        assert list(scores.columns) == ["row", "source", "id", "label", "score", "is_anomaly"]
        assert np.array_equal(scores["score"], expected)
        assert np.array_equal(scores["is_anomaly"], detector.predict(payments.drop(columns="label")) == -1)
        assert np.array_equal(scores["row"], np.arange(1000))
        assert np.array_equal(scores["id"], payments["id"])
        assert np.array_equal(scores["label"], payments["label"])
        assert set(scores["source"]) == {str(path)}
    assert (summary.rows, summary.flagged) == (2000, 2 * int((expected < detector.offset_).sum()))
    assert [(file.rows, *file.parts) for file in summary.files] == [
        (1000, "week1-00000.parquet"),
        (1000, "week2-00000.parquet"),
    ]
    assert summary.quantiles["0"] == expected.min()
    assert summary.quantiles["0.5"] == pytest.approx(np.median(expected))
    assert summary.quantiles["1"] == expected.max()
    written = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert written["rows"] == 2000
    assert written["threshold"] == detector.offset_
    assert written["data_digest"] == detector.data_digest_
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_SUCCESS",
        "_manifest.ndjson",
        "_summary.json",
        "week1-00000.parquet",
        "week2-00000.parquet",
    ]


@pytest.mark.parametrize(("chunk_rows", "workers"), [(37, 1), (256, 3), (999, 2)])
def test_no_byte_depends_on_chunks_and_threads(
    detector: FlowDetector,
    files: list[Path],
    tmp_path: Path,
    chunk_rows: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP", 300)
    monkeypatch.setattr(summaries, "SAMPLE", 100)
    options: dict[str, Any] = {"keep": ["category"], "part_rows": 700}
    whole = batch.score_files(detector, files, tmp_path / "whole", **options)
    cut = batch.score_files(detector, files, tmp_path / "cut", chunk_rows=chunk_rows, workers=workers, **options)
    assert tree(tmp_path / "whole") == tree(tmp_path / "cut")
    assert whole.quantiles == cut.quantiles
    assert whole.parts == 3
    groups = pq.ParquetFile(tmp_path / "whole" / "week1-00000.parquet").metadata
    assert [groups.row_group(k).num_rows for k in range(groups.num_row_groups)] == [300, 300, 100]


def test_a_threshold_of_ones_own(detector: FlowDetector, files: list[Path], tmp_path: Path) -> None:
    summary = batch.score_files(detector, files[1], tmp_path / "out", threshold=-50.0)
    scores = results(tmp_path / "out")
    assert summary.flagged == int((scores["score"] < -50.0).sum()) == int(scores["is_anomaly"].sum()) > 0
    assert summary.threshold == -50.0


def test_a_saved_model_and_a_pattern(detector: FlowDetector, files: list[Path], tmp_path: Path) -> None:
    detector.save(tmp_path / "model")
    summary = batch.score_files(tmp_path / "model", str(tmp_path / "*.parquet"), tmp_path / "out")
    assert [file.source for file in summary.files] == [str(files[1])]
    assert summary.rows == 1000


def test_arrays(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = tiny().fit(numbers)
    np.savez(tmp_path / "rows.npz", X=numbers, label=np.arange(400))
    pd.DataFrame(numbers, columns=list("abc")).assign(day=1).to_parquet(tmp_path / "rows.parquet")
    for name, keep in (("rows.npz", "label"), ("rows.parquet", "day")):
        batch.score_files(detector, tmp_path / name, tmp_path / f"out-{name}", keep=[keep], chunk_rows=150)
        scores = results(tmp_path / f"out-{name}")
        assert np.array_equal(scores["score"], detector.score_samples(numbers))
        assert list(scores[keep]) == (list(range(400)) if keep == "label" else [1] * 400)


def test_files_of_one_name_do_not_meet(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    for place, rows in (("a/x.csv", 10), ("b/x.csv", 20), ("b/x.parquet", 30)):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write = payments[:rows].to_csv if place.endswith("csv") else payments[:rows].to_parquet
        write(tmp_path / place, index=False)
    summary = batch.score_files(detector, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert [(*file.parts, file.rows) for file in summary.files] == [
        ("x-00000.parquet", 10),
        ("x-2-00000.parquet", 20),
        ("x-3-00000.parquet", 30),
    ]
    assert len(results(tmp_path / "out")) == 60


def test_text_that_looks_like_numbers_stays_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"code": rng.choice(["007", "7", "1e3"], 300), "x": rng.normal(size=300)})
    detector = tiny().fit(frame)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    batch.score_files(detector, tmp_path / "rows.csv", tmp_path / "out")
    assert np.allclose(results(tmp_path / "out")["score"], detector.score_samples(frame), rtol=1e-6)


def test_numbers_that_begin_whole(tmp_path: Path) -> None:
    """Types come from the detector, not from the first megabytes of a file."""
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=300), "flag": np.arange(300) % 2 == 0})
    detector = tiny().fit(frame)
    (tmp_path / "rows.csv").write_text("flag,x\n" + "0,1\n" * 900_000 + "1,0.5\n,\n")
    summary = batch.score_files(detector, tmp_path / "rows.csv", tmp_path / "out")
    assert summary.rows == 900_002
    scores = results(tmp_path / "out")["score"]
    assert scores[0] == detector.score_samples(pd.DataFrame({"x": [1.0], "flag": [False]}))[0]
    assert scores[900_000] == detector.score_samples(pd.DataFrame({"x": [0.5], "flag": [True]}))[0]


def test_excluded_columns_need_not_be_there(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    shuffled = payments[payments.columns[::-1]].drop(columns=["id", "label"]).assign(more="x")
    shuffled.to_parquet(tmp_path / "rows.parquet", index=False)
    batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out")
    assert np.array_equal(results(tmp_path / "out")["score"], detector.score_samples(payments.drop(columns="label")))


def test_progress_is_told(detector: FlowDetector, files: list[Path], tmp_path: Path) -> None:
    told: list[int] = []
    batch.score_files(detector, files[1], tmp_path / "out", chunk_rows=300, progress=told.append)
    assert told == [300, 300, 300, 100]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_wrong_column_is_named_before_the_first_row(
    detector: FlowDetector, payments: pd.DataFrame, files: list[Path], tmp_path: Path, suffix: str
) -> None:
    wrong = payments.rename(columns={"balance": "balanse"}).drop(columns="country")
    wrong["hour"] = "noon"
    wrong["opened"] = 7
    wrong_file = tmp_path / f"wrong.{suffix}"
    wrong.to_csv(wrong_file, index=False) if suffix == "csv" else wrong.to_parquet(wrong_file, index=False)
    with pytest.raises(batch.SchemaError) as refused:
        batch.score_files(detector, [*files, wrong_file], tmp_path / "out")
    for part in (
        str(wrong_file),
        "'balance' is missing (it has 'balanse')",
        "'country' is missing",
        "'hour' holds text",
    ):
        assert part in str(refused.value)
    assert "'opened' holds number" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_digit_strings_are_not_numbers(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    payments.assign(hour=payments["hour"].astype(str)).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(batch.SchemaError, match=r"'hour' holds text \(.*string\), but held number in training"):
        batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out")


def test_numbers_are_not_levels(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    payments.assign(category=1).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(batch.SchemaError, match=r"'category' holds number \(int64\), but held text"):
        batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out")


def test_a_bad_cell_leaves_no_file_of_scores(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    bad = payments.astype({"hour": object})
    bad.loc[700, "hour"] = "noon"
    bad.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=r"bad\.csv.*'noon'"):
        batch.score_files(detector, tmp_path / "bad.csv", tmp_path / "out", chunk_rows=100)
    infinite = payments.assign(balance=payments["balance"].where(payments.index != 700, np.inf))
    infinite.to_parquet(tmp_path / "infinite.parquet")
    with pytest.raises(ValueError, match=r"'balance'"):
        batch.score_files(detector, tmp_path / "infinite.parquet", tmp_path / "out", chunk_rows=100)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_manifest.ndjson"}


def test_parts_done_before_a_bad_cell_stay(detector: FlowDetector, payments: pd.DataFrame, tmp_path: Path) -> None:
    infinite = payments.assign(balance=payments["balance"].where(payments.index != 700, np.inf))
    infinite.to_csv(tmp_path / "rows.csv")
    job: dict[str, Any] = {"part_rows": 250, "chunk_rows": 50, "workers": 1}
    with pytest.raises(ValueError, match=r"rows\.csv: row 700, column 'balance'"):
        batch.score_files(detector, tmp_path / "rows.csv", tmp_path / "out", **job)
    assert sorted((tmp_path / "out").glob("*.parquet"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_arrays_of_another_width(numbers: np.ndarray, detector: FlowDetector, tmp_path: Path) -> None:
    np.savez(tmp_path / "narrow.npz", X=numbers[:, :2])
    np.savez(tmp_path / "rows.npz", X=numbers, label=np.zeros(7))
    with pytest.raises(batch.SchemaError, match=r"narrow\.npz has rows of 2 numbers.* rows of 3"):
        batch.score_files(tiny().fit(numbers), tmp_path / "narrow.npz", tmp_path / "out")
    with pytest.raises(batch.SchemaError, match="'label' has 7 rows, but X has 400"):
        batch.score_files(tiny().fit(numbers), tmp_path / "rows.npz", tmp_path / "out", keep=["label"])
    with pytest.raises(batch.SchemaError, match="columns with names"):
        batch.score_files(detector, tmp_path / "rows.npz", tmp_path / "out")


def test_what_is_kept_must_be_there_and_free(detector: FlowDetector, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(batch.SchemaError, match="no column 'customer' to keep"):
        batch.score_files(detector, files, tmp_path / "out", keep=["customer"])
    with pytest.raises(ValueError, match="'score' is a column of the output"):
        batch.score_files(detector, files, tmp_path / "out", keep=["score"])


def test_an_earlier_job_is_only_replaced_on_request(detector: FlowDetector, files: list[Path], tmp_path: Path) -> None:
    batch.score_files(detector, files, tmp_path / "out")
    with pytest.raises(batch.ModelMismatch, match="its inputs were others"):
        batch.score_files(detector, files[1], tmp_path / "out")
    batch.score_files(detector, files[1], tmp_path / "out", overwrite=True)
    assert len(results(tmp_path / "out")) == 1000
    for name, content in (("notes.txt", b"mine"), ("mine.parquet", files[1].read_bytes())):
        (tmp_path / "out" / name).write_bytes(content)
        for overwrite in (True, False):
            with pytest.raises(FileExistsError, match=f"{name}, which is not"):
                batch.score_files(detector, files[1], tmp_path / "out", overwrite=overwrite)
        (tmp_path / "out" / name).unlink()
    assert len(results(tmp_path / "out")) == 1000
    (tmp_path / "out" / "_manifest.ndjson").unlink()
    with pytest.raises(FileExistsError, match="no manifest to go on by"):
        batch.score_files(detector, files[1], tmp_path / "out")
    with pytest.raises(FileExistsError, match="is a file"):
        batch.score_files(detector, files[1], files[0])


# ---------------------------------------------------------------------- around the job


def test_evaluation_is_that_of_scikit_learn(
    detector: FlowDetector, payments: pd.DataFrame, files: list[Path], tmp_path: Path
) -> None:
    batch.score_files(detector, files[1], tmp_path / "out", keep=["label"])
    badness = -detector.score_samples(payments.drop(columns="label"))
    quality = batch.evaluate(tmp_path / "out", "label")
    anomalous, flagged = payments["label"] != 0, badness > -detector.offset_
    assert quality == {
        "recall": (anomalous & flagged).sum() / anomalous.sum(),
        "precision": (anomalous & flagged).sum() / flagged.sum(),
        "auroc": roc_auc_score(payments["label"], badness),
        "auprc": average_precision_score(payments["label"], badness),
    }
    assert batch.evaluate(tmp_path / "out", "label", "1")["auroc"] == pytest.approx(1 - quality["auroc"])
    with pytest.raises(ValueError, match="no row has 2 in 'label'"):
        batch.evaluate(tmp_path / "out", "label", 2)


def test_training_rows_never_hold_the_label(payments: pd.DataFrame, files: list[Path], tmp_path: Path) -> None:
    for path in files:
        rows = batch.read_training_rows(path, "label", "0")
        assert "label" not in rows
        assert list(rows["id"]) == list(payments["id"][payments["label"] == 0])
        assert len(batch.read_training_rows(path, "label")) == 1000
        assert "label" in batch.read_training_rows(path)
    np.savez(tmp_path / "rows.npz", X=np.arange(12.0).reshape(4, 3), kind=np.array(["a", "b", "a", "c"]))
    assert np.array_equal(batch.read_training_rows(tmp_path / "rows.npz", "kind", "a"), [[0, 1, 2], [6, 7, 8]])
    with pytest.raises(ValueError, match="no row has d in 'kind', which holds a, b, c"):
        batch.read_training_rows(tmp_path / "rows.npz", "kind", "d")
    with pytest.raises(ValueError, match="label="):
        batch.read_training_rows(files, normal="0")


@pytest.mark.parametrize(
    ("labels", "normal", "expected"),
    [
        ([0, 1, 0], "0", [True, False, True]),
        ([0.0, 1.0, np.nan], 0, [True, False, False]),
        ([True, False], "False", [False, True]),
        ([True, False], 0, [False, True]),
        (["ok", "bad", None], "ok", [True, False, False]),
        (["01", "1", "x"], 1, [True, True, False]),
    ],
    ids=str,
)
def test_what_counts_as_the_normal_label(labels: list[Any], normal: Any, expected: list[bool]) -> None:
    assert batch.rows.is_normal(labels, normal).tolist() == expected


MEASURE = """
import re, sys
from pathlib import Path
from anomgen import batch
summary = batch.score_files(sys.argv[1], sys.argv[2], sys.argv[3], chunk_rows=20_000)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(summary.rows, int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    columns = [f"c{j}" for j in range(10)]
    rng = np.random.default_rng(0)
    tiny().fit(pd.DataFrame(rng.normal(size=(500, 10)), columns=columns)).save(tmp_path / "model")
    peaks = {}
    for rows in (500_000, 2_500_000):
        path = tmp_path / f"{rows}.parquet"
        pd.DataFrame(rng.normal(size=(rows, 10)), columns=columns).to_parquet(path, row_group_size=100_000)
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "model"), str(path), str(tmp_path / f"out{rows}")]
        scored, peaks[rows] = map(
            int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        )
        assert scored == rows
    assert peaks[2_500_000] < peaks[500_000] + 50, f"peak resident memory in MiB by rows: {peaks}"
