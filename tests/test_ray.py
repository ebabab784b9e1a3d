"""The Ray engine on a cluster of this machine: the same bytes as on threads, whoever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen.batch import local
from anomgen.batch import ray as engine
from anomgen.batch.inputs import open_inputs
from anomgen.batch.plan import Unit, make_plan
from anomgen.batch.scoring import Options
from anomgen.detector import Detector
from tests.toys import tiny

ray = pytest.importorskip("ray")
pytestmark = [
    # Ray says of itself what it will change, and leaves pipes to its processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROWS = 30_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=100 << 20,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny(contamination=0.1).fit(table()[:400])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that can be entered in the middle, and one that cannot."""
    folder = tmp_path_factory.mktemp("inputs")
    table().to_parquet(folder / "many.parquet", row_group_size=2_500)
    table()[:6_000].to_csv(folder / "text.csv", index=False)
    return folder


def table() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 3)), columns=["x", "y", "z"])


def plan(detector: Detector, inputs: Path, **options: Any) -> list[Unit]:
    opened = open_inputs(detector, [inputs / "many.parquet", inputs / "text.csv"], ["y"], 500, None, "fail")
    return make_plan(opened, 2_500)


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


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_worker_that_is_killed_loses_nothing(cluster: None, detector: Detector, inputs: Path, tmp_path: Path) -> None:
    units, options = plan(detector, inputs), Options(float(detector.offset_))
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    expected = {record.part: record for record in local.score_units(detector, units, here, options)}
    seen: list[int] = []
    running = engine.score_units(detector, units, there, options, workers=2, progress=seen.append)
    found = [next(running)]
    killed = workers()[0]
    os.kill(killed, signal.SIGKILL)
    assert len(files(there)) < len(expected), "everything was done before the worker was killed"
    found += running
    assert len(found) == len(expected) == 15
    assert {record.part: record for record in found} == expected
    assert files(there) == files(here)
    assert sum(seen) == ROWS + 6_000
    assert killed not in workers()
    assert ray.is_initialized(), "a cluster that was there before stays"
