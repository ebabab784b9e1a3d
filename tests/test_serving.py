"""A logged model behind HTTP: what it answers to good requests and to bad ones, in MLflow's own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import uvicorn
from mlflow.pyfunc import scoring_server

from anomgen import tracking
from anomgen.detector import Detector
from tests.toys import tiny


@contextmanager
def in_process(model: Path) -> Iterator[str]:
    """The address of MLflow's scoring application, in a thread of this process."""
    application = scoring_server.init(mlflow.pyfunc.load_model(str(model)))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def command_line(model: Path) -> Iterator[str]:
    """The address of ``mlflow models serve``, a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
    log = model.with_suffix(".log")
    with log.open("wb") as written:
        server = subprocess.Popen(
            [*command, "--env-manager", "local"],
            stdout=written,
            stderr=written,
            cwd=model.parent,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def post(address: str, body: dict[str, Any]) -> pd.DataFrame:
    """What the server predicts."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/invocations", data, headers), timeout=60) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


def refusal(address: str, body: dict[str, Any]) -> tuple[int, str]:
    """The code of an answer that is an error, and its text."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, body)
    with refused.value:
        return refused.value.code, refused.value.read().decode()


def split(rows: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_split": json.loads(rows.to_json(orient="split", index=False, date_format="iso", date_unit="us"))}


def check(address: str, detector: Detector, rows: pd.DataFrame) -> None:
    answer = post(address, split(rows))
    assert list(answer) == ["score", "p_value", "is_anomaly"]
    assert answer["score"].tolist() == pytest.approx(detector.score_samples(rows).tolist())
    assert answer["p_value"].tolist() == pytest.approx(detector.p_values(rows).tolist())
    assert answer["is_anomaly"].tolist() == (detector.predict(rows) == -1).tolist()
    code, text = refusal(address, {"dataframe_split": {"columns": ["length"], "data": [[170.0]]}})
    assert code == 400
    assert "missing inputs" in text
    assert "city" in text


@pytest.fixture
def calibrated(mixed: pd.DataFrame) -> Detector:
    return tiny(contamination=0.1).fit(mixed[:200]).calibrate(mixed[200:])


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server leaves a mark in the environment."""
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")


def test_a_served_model_answers(calibrated: Detector, mixed: pd.DataFrame, tmp_path: Path) -> None:
    tracking.save_model(calibrated, tmp_path / "model")
    with in_process(tmp_path / "model") as address:
        check(address, calibrated, mixed[190:210])
        records = split(mixed[:3])["dataframe_split"]
        records = [dict(zip(records["columns"], row, strict=True)) for row in records["data"]]
        assert len(post(address, {"dataframe_records": records})) == 3
        many = [{**records[0], "visits": "many"}]
        code, text = refusal(address, {"dataframe_records": many})
        assert code >= 400
        assert "visits" in text


def test_rows_without_names(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = tiny(contamination=0.1).fit(numbers)
    tracking.save_model(detector, tmp_path / "model")
    with in_process(tmp_path / "model") as address:
        answer = post(address, {"instances": numbers[:5].tolist()})
        assert list(answer) == ["score", "is_anomaly"]
        assert answer["score"].tolist() == detector.score_samples(numbers[:5]).tolist()
        assert refusal(address, {"instances": numbers[:5, :2].tolist()})[0] == 400


@pytest.mark.slow
def test_mlflow_models_serve_answers(calibrated: Detector, mixed: pd.DataFrame, tmp_path: Path) -> None:
    tracking.save_model(calibrated, tmp_path / "model")
    with command_line(tmp_path / "model") as address:
        check(address, calibrated, mixed[190:210])
