"""The command line of drawing, filling and repairing rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen.cli.parameters import (
    UsageError,
    parse_band,
    parse_levels,
    parse_ranges,
    parse_strength,
    parse_sums,
)
from anomgen.data import make_payments
from tests.test_cli import run

# ---------------------------------------------------------------------- options as text


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_band, "rare", "rare"),
        (parse_band, "0.01:.05", (0.01, 0.05)),
        (parse_strength, "auto", "auto"),
        (parse_strength, "0.2", 0.2),
        (parse_ranges, ["age=0:120", "b = -1.5:"], [("age", 0, 120), ("b", -1.5, None)]),
        (parse_ranges, ["day=:2026-10-31"], [("day", None, "2026-10-31")]),
        (parse_levels, ["region=north, south"], [("region", ("north", "south"))]),
    ],
)
def test_texts_are_read(parse: Callable[[Any], Any], text: Any, value: Any) -> None:
    assert parse(text) == value


def test_sums_are_read_each_with_what_it_is_solved_for() -> None:
    assert parse_sums(["total=a, b", "100=c,d"], ["b", "c"]) == [("total", ("a", "b"), "b"), (100.0, ("c", "d"), "c")]
    with pytest.raises(UsageError, match="a --solve each"):
        parse_sums(["total=a,b"], [])


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_band, "0.01:x"),
        (parse_strength, "far"),
        (parse_ranges, ["age"]),
        (parse_ranges, ["age=5"]),
        (parse_ranges, ["age=:"]),
        (parse_ranges, ["t=10:00:11:00"]),
        (parse_levels, ["region"]),
    ],
)
def test_what_cannot_be_read_is_told_with_an_example(parse: Callable[[Any], Any], text: Any) -> None:
    with pytest.raises(UsageError, match=r"such as|or auto"):
        parse(text)


# ---------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that train and that are held out, anomalies, rows with gaps, and a model."""
    folder = tmp_path_factory.mktemp("sample")
    frame = make_payments(900, seed=0)[0][["amount", "hour", "channel", "verified"]]
    frame.assign(label=0)[:500].to_parquet(folder / "train.parquet", index=False)
    frame[500:].to_parquet(folder / "held_out.parquet", index=False)
    gaps = frame[500:530].assign(id=np.arange(30, dtype=np.int32)).reset_index(drop=True)
    gaps.loc[::2, "amount"] = np.nan
    gaps.to_parquet(folder / "gaps.parquet", index=False)
    odd = frame[500:520].assign(id=range(20))
    odd.loc[odd.index[:3], "amount"] = 1e7
    odd.to_csv(folder / "odd.csv", index=False)
    options = ("--label", "label", "--model", "mixture", "--contamination", "0.05", "--out", folder / "model")
    assert run("fit", folder / "train.parquet", *options) == 0
    return folder


def test_rows_are_drawn_checked_measured_and_logged(
    place: Path, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ("--range", "amount=0:5000", "--levels", "channel=shop,online", "--where", "hour > 6", "--band", "typical")
    files = ("--train", place / "train.parquet", "--evaluate", place / "held_out.parquet", "--target", "verified")
    job = ("sample", place / "model", "--rows", 300, "--out", out, *asked, *files)
    assert run(*job, "--experiment", "more") == 0
    printed = capsys.readouterr().out
    rows = pd.read_parquet(out / "data")
    assert list(rows) == ["amount", "hour", "channel", "verified", "synthetic", "seed", "model_id"]
    assert len(rows) == 300
    assert rows["amount"].between(0, 5000).all()
    assert set(rows["channel"]) == {"shop", "online"}
    assert (rows["hour"] > 6).all()
    summary = json.loads((out / "_summary.json").read_text())
    for part in (
        f"{sum(summary['refused'].values()):,} of {summary['tried']:,}",
        "label",
        f"{summary['copies_refused']:,} refused",
        str(out),
    ):
        assert part in printed
    assert f"{summary['metrics']['two_sample_auroc']:.4f}" in printed
    [logged] = mlflow.search_runs(experiment_names=["more"], output_format="list")
    assert logged.info.run_id in printed
    assert logged.data.metrics["quality.two_sample_auroc"] == summary["metrics"]["two_sample_auroc"]
    card = (out / "README.md").read_text()
    assert "predicts `verified`, AUROC" in card
    assert all((out / picture).is_file() for picture in re.findall(r"!\[.+\]\((.+)\)", card))
    assert len(list((out / "plots").glob("*.png"))) == 4
    assert run(*job, "--seed", 1) == 3
    assert "seed" in capsys.readouterr().err


def test_the_first_rows_are_the_same_in_any_file(place: Path, tmp_path: Path) -> None:
    job = ("sample", place / "model", "--allow-copies", "--seed", 3)
    for n, name in ((5, "few.csv"), (700, "many.parquet")):
        assert run(*job, "-n", n, "--out", tmp_path / name) == 0
    few, many = pd.read_csv(tmp_path / "few.csv"), pd.read_parquet(tmp_path / "many.parquet")
    pd.testing.assert_frame_equal(few, many[:5], check_dtype=False)
    assert few["synthetic"].all()
    assert run(*job, "-n", 5, "--out", tmp_path / "few.csv") == 2
    assert run(*job, "-n", 9, "--out", tmp_path / "few.csv", "--overwrite") == 0
    assert len(pd.read_csv(tmp_path / "few.csv")) == 9


def test_what_was_done_as_json(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    job = ("sample", place / "model", "-n", 20, "--out", out, "--near", place / "held_out.parquet", "--strength", 0.2)
    assert run(*job, "--train", place / "train.parquet", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["files"], told["left_out"]) == (20, ["rows.csv"], ["label"])
    assert "made by moving given ones" in (tmp_path / "rows.card.md").read_text()


def test_anomalies_of_a_kind(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("sample", place / "model", "-n", 40, "--kind", "global", "--train", place / "train.parquet")
    assert run(*job, "--out", tmp_path / "odd.parquet", "--strength", 1.0) == 0
    odd = pd.read_parquet(tmp_path / "odd.parquet")
    assert list(odd)[-3:] == ["synthetic", "seed", "model_id"]
    detector = anomgen.load(place / "model")
    usual = detector.score_samples(pd.read_parquet(place / "held_out.parquet"))
    assert detector.score_samples(odd[list(odd)[:-3]]).mean() < np.quantile(usual, 0.05)
    assert "not examples of real anomalies" in (tmp_path / "odd.card.md").read_text()
    assert run(*job, "--out", tmp_path / "odd.parquet") == 2
    assert run(*job, "--out", tmp_path / "folder") == 3
    capsys.readouterr()
    for other in (("--band", "rare"), ("--target", "amount"), ("--max-tries", 5), ("--workers", 1)):
        assert run(*job, "--out", tmp_path / "new.csv", *other) == 2
        assert "--kind" in capsys.readouterr().err


def test_gaps_are_filled(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("impute", place / "model", place / "gaps.parquet")
    assert run(*job, "--out", tmp_path / "one.parquet") == 0
    printed = capsys.readouterr().out
    given, one = (pd.read_parquet(path) for path in (place / "gaps.parquet", tmp_path / "one.parquet"))
    for part in ("30 rows, 15 with gaps", "15 values", "exact conditional draws"):
        assert part in printed
    assert one["amount"].notna().all()
    assert one.dtypes.equals(given.dtypes)
    pd.testing.assert_frame_equal(one[given["amount"].notna()], given.dropna())
    assert run(*job, "--out", tmp_path / "three.csv", "--draws", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["draws"] == 3
    three = pd.read_csv(tmp_path / "three.csv")
    assert list(three["draw"]) == [0] * 30 + [1] * 30 + [2] * 30
    assert three["amount"].to_numpy()[:30] == pytest.approx(one["amount"].to_numpy())
    assert three.groupby("id")["amount"].nunique()[0] == 3
    assert run(*job, "--out", tmp_path / "three.csv") == 2
    assert run(*job, "--out", tmp_path / "x.npz") == 3
    assert run("impute", place / "model", "--out", tmp_path / "x.csv") == 2


def test_anomalies_are_repaired(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("repair", place / "model", place / "odd.csv", "--out", tmp_path / "good.parquet") == 0
    printed = capsys.readouterr().out
    given, good = pd.read_csv(place / "odd.csv"), pd.read_parquet(tmp_path / "good.parquet")
    assert list(good) == [*given, "score_before", "score_after", "reached", "changed"]
    detector = anomgen.load(place / "model")
    own = list(given)[:4]
    bad = detector.predict(given[own]) == -1
    assert bad[:3].all()
    assert f"20 rows, {bad.sum()} anomalies" in printed
    assert (detector.score_samples(good[own])[bad & good["reached"]] >= detector.offset_).all()
    assert good["reached"][:3].all()
    assert all("amount" in names for names in good["changed"][:3])
    pd.testing.assert_frame_equal(good[list(given)][~bad], given[~bad], check_dtype=False)
    assert run("repair", place / "model", tmp_path / "good.parquet", "--out", tmp_path / "again.csv") == 3
    assert "'score_before'" in capsys.readouterr().err


def test_arrays_are_filled_and_repaired(tmp_path: Path, numbers: np.ndarray) -> None:
    np.savez(tmp_path / "rows.npz", X=numbers)
    assert run("fit", tmp_path / "rows.npz", "--model", "mixture", "--out", tmp_path / "model") == 0
    gaps = np.where(np.arange(60).reshape(20, 3) % 7 == 0, np.nan, numbers[:20])
    gaps[0, 1:] = 90.0
    np.savez(tmp_path / "gaps.npz", X=gaps)
    job = (tmp_path / "model", tmp_path / "gaps.npz")
    assert run("impute", *job, "--draws", 2, "--out", tmp_path / "full.npz") == 0
    with np.load(tmp_path / "full.npz") as stored:
        assert stored["X"].shape == (2, 20, 3)
        assert np.isfinite(stored["X"]).all()
        np.testing.assert_array_equal(stored["X"][0][~np.isnan(gaps)], gaps[~np.isnan(gaps)])
        np.savez(tmp_path / "odd.npz", X=stored["X"][0])
    assert run("repair", tmp_path / "model", tmp_path / "odd.npz", "--out", tmp_path / "good.npz") == 0
    with np.load(tmp_path / "good.npz") as stored:
        assert set(stored.files) == {"X", "score_before", "score_after", "reached", "changed"}
        assert stored["changed"][0].any()
        assert stored["reached"][0]
