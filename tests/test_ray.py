"""The Ray engine on a cluster of this machine: the same bytes as on threads, whoever is killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen import batch
from anomgen.batch import ray as engine
from anomgen.batch.chunks import Span
from anomgen.batch.plan import Unit
from anomgen.detector import Detector
from tests.toys import tiny

ray = pytest.importorskip("ray")
pytestmark = [
    # Ray says of itself what it will change, and leaves pipes to its processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROWS, SHORT = 30_000, 6_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, object_store_memory=100 << 20, **options)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(ROWS, 3)), columns=["x", "y", "z"]).assign(id=range(ROWS))


@pytest.fixture(scope="module")
def detector(rows: pd.DataFrame) -> Detector:
    normal = rows.drop(columns="id")
    return tiny(contamination=0.1).fit(normal[:400]).calibrate(normal[400:900])


@pytest.fixture
def job(detector: Detector, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job of 12 units of a file that can be entered in the middle, and one of a file that cannot."""
    monkeypatch.chdir(tmp_path)
    rows.to_parquet("many.parquet", row_group_size=2_500)
    rows[:SHORT].to_csv("text.csv", index=False)
    return {"model": detector, "inputs": ["many.parquet", "text.csv"], "keep": ["id"], "part_rows": 2_500}


def tree(folder: str) -> dict[str, bytes]:
    """All files of a job but the summary, which tells times."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    assert found.pop("_summary.json")
    return found


def workers() -> list[int]:
    """The processes of actors below this one."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return [process for process, name in names.items() if name.startswith("ray::MapWorker") and is_ours(process)]


def test_a_worker_that_is_killed_loses_nothing(
    cluster: None, job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    killed, seen = [], []

    def kill_one(rows: int) -> None:
        seen.append(rows)
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    expected = batch.score_files(**job, out="here", fdr=0.5)
    found = batch.score_files(**job, out="there", fdr=0.5, engine="ray", workers=2, progress=kill_one)
    assert tree("there") == tree("here")
    assert len(seen) == found.parts == 15
    assert sum(seen) == found.rows == expected.rows == ROWS + SHORT
    assert found.quantiles == expected.quantiles
    assert killed[0] not in workers()
    assert ray.is_initialized(), "a cluster that was there before stays"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_job_that_was_stopped_goes_on_with_any_engine(cluster: None, job: dict[str, Any]) -> None:
    batch.score_files(**job, out="here")
    before = signal.getsignal(signal.SIGTERM)
    seen: list[int] = []

    def stop_once(rows: int) -> None:
        if not seen:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(rows)

    with pytest.raises(batch.Interrupted):
        batch.score_files(**job, out="there", engine="ray", workers=1, progress=stop_once)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(Path("there").rglob(".*")), "nothing is left half done"
    second = batch.score_files(**job, out="there", engine="ray", workers=1)
    assert 0 < second.resumed < second.parts
    assert tree("there") == tree("here")
    assert batch.score_files(**job, out="there").resumed == second.parts
    Path("there/many-00003.parquet").unlink()
    assert batch.score_files(**job, out="there").resumed == second.parts - 1
    assert tree("there") == tree("here")


@pytest.mark.slow
def test_bad_rows_are_those_of_the_local_engine(cluster: None, job: dict[str, Any], rows: pd.DataFrame) -> None:
    rows.assign(x=rows["x"].mask(rows["id"] == 4_321, np.inf)).to_parquet("many.parquet", row_group_size=2_500)
    refused = []
    for chosen in ("local", "ray"):
        with pytest.raises(ValueError, match=r"many\.parquet.*4,?321.*x") as error:
            batch.score_files(**job, out=f"fail-{chosen}", engine=chosen)
        refused.append(str(error.value))
        batch.score_files(**job, out=chosen, engine=chosen, on_bad_row="quarantine")
    assert refused[0] == refused[1]
    assert tree("ray") == tree("local")
    assert "_quarantine/many-00001.parquet" in tree("ray")


ALONE = """
import os, signal, sys
from anomgen import batch
if __name__ == "__main__":
    handlers = signal.getsignal(signal.SIGTERM)
    summary = batch.score_files("model", ["text.csv"], "alone", engine="ray", part_rows=2_500, workers=1)
    import ray
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == handlers
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    print(summary.rows)
"""


@pytest.mark.slow
def test_without_a_cluster_the_job_has_one_of_its_own(job: dict[str, Any], detector: Detector) -> None:
    detector.save("model")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(SHORT)]


@pytest.mark.slow
@pytest.mark.gpu
def test_a_gpu_scores_alike(cluster: None, job: dict[str, Any]) -> None:
    batch.score_files(**job, out="here")
    batch.score_files(**job, out="there", engine="ray")
    here, there = pd.read_parquet("here"), pd.read_parquet("there")
    np.testing.assert_allclose(there["score"], here["score"], rtol=1e-4)
    pd.testing.assert_frame_equal(there[["row", "source", "id"]], here[["row", "source", "id"]])


def test_a_unit_that_kills_every_worker_ends_the_job(tmp_path: Path) -> None:
    class Named:
        name = "poison.parquet"

    unit, tally = Unit(Named(), Span(5_000, 6_000), "poison", 2, 1_000), tmp_path / "tally"  # type: ignore[arg-type]
    for _ in range(engine.ATTEMPTS):
        next(engine._attempt.__wrapped__(tally, unit))  # as if the worker had died there
    with pytest.raises(RuntimeError, match=r"poison\.parquet, rows from 5,000 on: 4 workers died"):
        next(engine._attempt.__wrapped__(tally, unit))
    tally.unlink()
    with engine._attempt(tally, unit):
        assert tally.exists()
    assert not tally.exists()


def test_all_workers_are_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.001)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    (tmp_path / engine.TALLY.format(7)).touch()
    with engine._watching(stop, tmp_path / engine.HALT):
        while not (tmp_path / engine.HALT).exists():
            pass
        assert len(asked) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_units_asks_for_no_cluster(detector: Detector, tmp_path: Path) -> None:
    options = engine.Options(0.0)
    assert list(engine.score_units(detector, [], tmp_path, options)) == []


def test_errors_of_a_job_can_travel() -> None:
    for kind in (batch.Interrupted, batch.ModelMismatch, batch.SchemaError, batch.TooManyBadRows):
        sent = pickle.loads(pickle.dumps(kind("row 3")))
        assert (type(sent), str(sent)) == (kind, "row 3")
