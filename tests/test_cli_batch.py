"""The command line of batch jobs: logs, calibration, how a job ends and goes on."""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen.batch import Interrupted, ModelMismatch, SchemaError
from anomgen.batch.errors import TooManyBadRows
from anomgen.cli.exits import exit_code, report_error
from anomgen.cli.log import LOGGER, event, logging_to_stderr, plain
from anomgen.cli.parameters import UsageError, parse_bytes
from tests.test_cli import SMALL, run, start

# ---------------------------------------------------------------------- logs


def lines(text: str) -> list[dict[str, Any]]:
    """Every line is JSON, or this fails."""
    return [json.loads(line) for line in text.splitlines()]


def test_events_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("json"):
        event("part done", rows=np.int64(3), psi=float("nan"), out=Path("a/b"), most=(1, np.float32(0.5)))
        event("odd", level=logging.WARNING, text='two\nlines "quoted" é')
    done, odd = lines(capsys.readouterr().err)
    assert done.pop("ts").endswith("Z")
    assert done == {"level": "info", "event": "part done", "rows": 3, "psi": None, "out": "a/b", "most": [1, 0.5]}
    assert (odd["level"], odd["text"]) == ("warning", 'two\nlines "quoted" é')


def test_without_a_format_only_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(None), warnings.catch_warnings():
        warnings.simplefilter("always")
        event("part done", rows=3)
        warnings.warn("too few\nrows", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "anomgen: warning: too few rows\n"


def test_events_as_text_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("text"):
        event("part done", rows=3, name="a")
    told = capsys.readouterr().err
    assert told.endswith("info part done rows=3 name=a\n")
    assert told.count("\n") == 1


def test_logging_is_left_as_it_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers), warnings.showwarning
    with pytest.raises(RuntimeError), logging_to_stderr("json"):
        raise RuntimeError
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers), warnings.showwarning) == before
    event("nobody listens")
    assert capsys.readouterr().err == ""


def test_json_has_no_numbers_of_its_own() -> None:
    told = {"a": np.inf, 1: np.array([1.5, 2])[0], "b": {"c": (np.bool_(True), None)}, "d": "x"}
    assert plain(told) == {"a": None, "1": 1.5, "b": {"c": [True, None]}, "d": "x"}


# ---------------------------------------------------------------------- codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("x"), 1),
        (KeyError("x"), 1),
        (UsageError("x"), 2),
        (FileNotFoundError("x"), 2),
        (FileExistsError("x"), 2),
        (SchemaError("x"), 3),
        (ModelMismatch("x"), 3),
        (anomgen.FormatError("x"), 3),
        (TooManyBadRows("x"), 4),
        (Interrupted("x"), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_an_error_ends_a_command(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("json"):
        assert report_error(TooManyBadRows("12 of 20 rows\nare bad")) == 4
    [line] = lines(capsys.readouterr().err)
    del line["ts"]
    told = {"error": "TooManyBadRows", "message": "12 of 20 rows are bad", "exit_code": 4}
    assert line == {"level": "error", "event": "failed", **told}


def test_usage_errors_are_events_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fit", "--out", tmp_path / "new"], ["fit", "x.csv", "--ouut", "new"], ["nonsense"]):
        assert run(*arguments, "--log-format", "json") == 2
        [line] = lines(capsys.readouterr().err)
        assert (line["event"], line["error"], line["exit_code"]) == ("failed", "UsageError", 2)
    assert run("fit", "--log-format", "xml") == 2


def test_the_format_of_logs_comes_from_the_environment(
    numbers: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "rows.npz", X=numbers)
    monkeypatch.setenv("ANOMGEN_LOG_FORMAT", "json")
    assert run("fit", tmp_path / "rows.npz", "--out", tmp_path / "model", *SMALL) == 0
    captured = capsys.readouterr()
    assert [line["event"] for line in lines(captured.err)] == ["fitting", "fitted"]
    assert "400 rows of 3 columns" in captured.out


# ---------------------------------------------------------------------- calibration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal rows that train, that calibrate and that are new, with some that are far out; a calibrated model."""
    folder = tmp_path_factory.mktemp("batch")
    rng = np.random.default_rng(0)
    for name, n in (("train", 400), ("calibrate", 300), ("new", 1_000)):
        frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"]).assign(id=np.arange(n))
        if name == "new":
            frame.loc[:39, "b"] += 12.0
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    options = ("--set", "exclude=id", "--calibrate", folder / "calibrate.parquet", *SMALL)
    assert run("fit", folder / "train.parquet", "--out", folder / "model", *options) == 0
    return folder


@pytest.fixture
def bare(place: Path, tmp_path: Path) -> Path:
    """The same model, not calibrated."""
    assert run("fit", place / "train.parquet", "--out", tmp_path / "bare", "--set", "exclude=id", *SMALL) == 0
    return tmp_path / "bare"


def test_calibrate_is_what_fit_calibrates(place: Path, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = anomgen.load(bare)
    assert run("calibrate", bare, place / "calibrate.parquet") == 0
    assert "on 300 normal rows" in capsys.readouterr().out
    after, fitted = anomgen.load(bare), anomgen.load(place / "model")
    assert np.array_equal(after.calibration_, fitted.calibration_)
    assert after.offset_ == before.offset_
    rows = pd.read_parquet(place / "new.parquet")
    assert np.array_equal(after.score_samples(rows), before.score_samples(rows))
    assert np.array_equal(after.p_values(rows), fitted.p_values(rows))
    assert run("show", bare) == 0
    assert "on 300 normal rows" in capsys.readouterr().out


def test_calibrate_moves_the_threshold(place: Path, bare: Path, tmp_path: Path) -> None:
    options = ("--false-positive-rate", 0.05, "--out", tmp_path / "other")
    assert run("calibrate", bare, place / "calibrate.parquet", *options) == 0
    assert not hasattr(anomgen.load(bare), "calibration_")
    rows = pd.read_parquet(place / "calibrate.parquet")
    assert (anomgen.load(tmp_path / "other").predict(rows) == -1).mean() <= 0.05


def test_calibrate_by_folds_takes_the_training_rows(place: Path, bare: Path) -> None:
    assert run("calibrate", bare, place / "train.parquet") == 3
    assert run("calibrate", bare, place / "train.parquet", "--folds", 2) == 0
    detector = anomgen.load(bare)
    assert len(detector.calibration_) == 400
    assert detector.p_values(pd.read_parquet(place / "new.parquet")).max() <= 1.0


def test_calibrate_refuses(place: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("calibrate", bare) == 2
    assert run("calibrate", "models:/x@champion", place / "train.parquet") == 2
    assert "--out" in capsys.readouterr().err
    assert run("calibrate", bare, place / "train.parquet", "--folds", 1) == 2
    assert run("calibrate", bare, place / "calibrate.parquet", "--false-positive-rate", 1e-6) == 3
    assert "999,999" in capsys.readouterr().err
    assert run("calibrate", bare, place / "calibrate.parquet", "--out", bare) == 2
    assert not hasattr(anomgen.load(bare), "calibration_")


# ---------------------------------------------------------------------- fits larger than memory


def test_fit_passes_over_what_is_larger_than_memory(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--set", "exclude=id", "--memory", "1kB", "--log-format", "json", *SMALL)
    assert run("fit", place / "train.parquet", "--out", tmp_path / "model", *options) == 0
    captured = capsys.readouterr()
    fitting, fitted = lines(captured.err)
    assert (fitting["in_memory"], fitted["rows"]) == (False, 400)
    assert "400 rows of 4 columns" in captured.out
    assert run("fit", place / "train.parquet", "--out", tmp_path / "other", "--memory", "much") == 2


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65_536), ("500 MB", 5e8), ("1.5gib", 1.5 * 2**30), ("2K", 2_000), ("1TB", 1e12)]
)
def test_sizes_as_text(text: str, size: float) -> None:
    assert parse_bytes(text) == size


# ---------------------------------------------------------------------- jobs


def test_a_job_with_every_decision(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ("--keep", "id", "--fdr", 0.2, "--part-rows", 300, "--workers", 2)
    assert run("score", place / "model", place / "new.parquet", "--out", out, *options) == 0
    printed = capsys.readouterr().out
    scores = pd.read_parquet(out)
    results = ["score", "p_value", "is_anomaly", "selected"]
    assert list(scores.columns) == ["row", "source", "id", *results]
    detector, rows = anomgen.load(place / "model"), pd.read_parquet(place / "new.parquet")
    assert np.array_equal(scores["p_value"], detector.p_values(rows))
    assert np.array_equal(scores["selected"], detector.select(rows, fdr=0.2))
    assert scores["selected"][:40].all()
    assert f"{scores['selected'].sum()} of 1,000" in printed
    assert f"{scores['is_anomaly'].sum()} of 1,000" in printed
    assert len(list(out.glob("*.parquet"))) > 1
    assert (out / "_SUCCESS").exists()


def test_the_columns_that_tell(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "autoregressive", "--set", "exclude=id", "--set", "hidden=8,8", "--max-epochs", 2)
    assert run("fit", place / "train.parquet", "--out", tmp_path / "model", *options) == 0
    job = ("score", tmp_path / "model", place / "new.parquet", "--out", tmp_path / "out")
    assert run(*job, "--explain", 2) == 0
    scores = pd.read_parquet(tmp_path / "out")
    assert all(first == "b" for first, _ in scores["top_features"][:40])
    assert run("score", place / "model", place / "new.parquet", "--out", tmp_path / "other", "--explain", 2) == 3
    assert "FlowDetector" in capsys.readouterr().err


def test_a_second_start_does_nothing(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("score", place / "model", place / "new.parquet", "--out", tmp_path / "out")
    assert run(*job) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert run(*job) == 0
    assert "all of it before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert run(*job, "--threshold", "-5") == 3
    assert "threshold" in capsys.readouterr().err


def test_the_summary_as_json_and_events(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--json", "--log-format", "json", "--part-rows", 300)
    assert run("score", place / "model", place / "new.parquet", "--out", tmp_path / "out", *options) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["rows"], summary["bad"]) == (1_000, 0)
    assert summary["drift"]["columns"].keys() == {"a", "b", "c"}
    events = lines(captured.err)
    assert [line["event"] for line in events][:1] == ["begin"]
    assert sum(line["rows"] for line in events if line["event"] == "part") == 1_000
    assert events[-1]["event"] == "end"


def test_a_tracked_job(place: Path, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = ("score", place / "model", place / "new.parquet", "--out", tmp_path / "out", "--experiment", "nightly")
    assert run(*job, "--json") == 0
    captured = capsys.readouterr()
    [logged] = mlflow.search_runs(experiment_names=["nightly"], output_format="list")
    assert json.loads(captured.out)["run"] == logged.info.run_id
    assert logged.data.metrics["rows"] == 1_000
    assert captured.err == ""


def test_alerts_end_a_finished_job_with_5(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifted = pd.read_parquet(place / "new.parquet") + {"a": 2.0, "b": 0.0, "c": 0.0, "id": 0}
    shifted.to_parquet(tmp_path / "shifted.parquet", index=False)
    for name, gate, file, code in (
        ("calm", ("--fail-on-drift", 1.0), place / "calibrate.parquet", 0),
        ("drift", ("--fail-on-drift", 0.5), tmp_path / "shifted.parquet", 5),
        ("few", ("--fail-on-flagged", 0.9), tmp_path / "shifted.parquet", 0),
        ("many", ("--fail-on-flagged", 0.01), tmp_path / "shifted.parquet", 5),
    ):
        assert run("score", place / "model", file, "--out", tmp_path / name, *gate) == code
        captured = capsys.readouterr()
        assert ("--fail-on" in captured.err) == (code == 5)
        assert (tmp_path / name / "_SUCCESS").exists()
        told = {"calm": "none beyond chance", "drift": "a most, by an index"}
        assert told.get(name, "scored") in captured.out


def test_a_file_without_rows(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_parquet(place / "new.parquet")[:0].to_parquet(tmp_path / "none.parquet")
    assert run("score", place / "model", tmp_path / "none.parquet", "--out", tmp_path / "out") == 0
    assert "0 of 0 (0.00%)" in capsys.readouterr().out


def test_bad_rows(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_parquet(place / "new.parquet")
    rows.loc[[7, 500], "c"] = np.inf
    rows.to_parquet(tmp_path / "new.parquet", index=False)

    def job(name: str, *options: Any) -> int:
        return run("score", place / "model", tmp_path / "new.parquet", "--out", tmp_path / name, *options)

    assert job("fail") == 3
    assert "row 7, column 'c'" in capsys.readouterr().err
    assert job("list", "--on-bad-row", "quarantine") == 0
    assert "2 of 1,000" in capsys.readouterr().out
    listed = pd.read_parquet(tmp_path / "list" / "_quarantine")
    assert listed[["row", "column"]].values.tolist() == [[7, "c"], [500, "c"]]
    assert len(pd.read_parquet(tmp_path / "list")) == 998
    assert job("skip", "--on-bad-row", "skip") == 0
    assert not (tmp_path / "skip" / "_quarantine").exists()
    assert job("most", "--on-bad-row", "skip", "--max-bad-fraction", 0.001) == 4
    assert "max_bad_fraction" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_stop_goes_on(place: Path, tmp_path: Path, stop: signal.Signals) -> None:
    rows = pd.read_parquet(place / "new.parquet")
    pd.concat([rows] * 300).to_parquet(tmp_path / "long.parquet", index=False, row_group_size=10_000)
    out = tmp_path / "out"
    job = ("score", place / "model", tmp_path / "long.parquet", "--out", out, "--part-rows", 10_000)
    scoring = start(*job)
    while scoring.poll() is None and not list(out.glob("*.parquet")):
        time.sleep(0.02)
    scoring.send_signal(stop)
    _, told = scoring.communicate(timeout=60)
    assert scoring.returncode == 75, told
    assert "start" in told
    assert "Traceback" not in told
    assert not (out / "_SUCCESS").exists()
    assert not list(out.glob(".*"))
    done = len(list(out.glob("*.parquet")))
    assert 0 < done < 30
    assert run(*job) == 0
    assert json.loads((out / "_summary.json").read_text())["resumed"] == done
    assert (pd.read_parquet(out, columns=["row"])["row"] == np.arange(300_000)).all()


def test_the_tour_of_batch_jobs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL):
        if kind == "python":
            exec(block, names)
        else:
            for line in block.splitlines():
                assert run(*shlex.split(line.removeprefix("anomgen "))) == 0, line
    scores = pd.read_parquet("scores")
    assert scores["selected"].sum() == names["found"].sum()
    assert len(scores) == len(names["rest"])
    assert {path.name for path in Path("scores").iterdir()} >= {"_manifest.ndjson", "_summary.json", "_SUCCESS"}
