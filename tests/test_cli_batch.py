"""The command line of batch jobs: logs, calibration, how a job ends and goes on."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anomgen
from anomgen.batch import SchemaError
from anomgen.batch.errors import Interrupted, ModelMismatch, TooManyBadRows
from anomgen.cli.exits import exit_code, report_error
from anomgen.cli.log import LOGGER, event, logging_to_stderr, plain
from anomgen.cli.parameters import UsageError
from tests.test_cli import SMALL, run

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
