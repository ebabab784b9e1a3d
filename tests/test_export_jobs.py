"""Exports that are killed, stopped and started again, by any number of threads: no byte differs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen import FlowDetector, MixtureDetector
from anomgen.augment import ExportSummary, Interrupted, Range, Recipe, draw_chunks, export
from tests.test_resume import run_and_kill, tree

BLOCK = 16_384


@pytest.fixture(scope="module")
def detector() -> MixtureDetector:
    rows = np.random.default_rng(0).normal(size=(300, 2))
    return MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows)


@pytest.fixture(scope="module")
def job(detector: MixtureDetector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three parts, the last one short."""
    folder = tmp_path_factory.mktemp("job")
    detector.save(folder / "model")
    np.savez(folder / "train.npz", X=np.random.default_rng(0).normal(size=(300, 2)))
    return {
        "model": str(folder / "model"),
        "rows": 2 * BLOCK + 500,
        "band": "typical",
        "train": str(folder / "train.npz"),
        "part_rows": BLOCK,
    }


@pytest.fixture(scope="module")
def whole(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export, left in peace."""
    out = tmp_path_factory.mktemp("whole")
    summary = run(job, out, workers=2)
    assert (summary.rows, summary.resumed, summary.parts) == (2 * BLOCK + 500, 0, 3)
    return out


def run(job: dict[str, Any], out: Path, **more: Any) -> ExportSummary:
    options = {**job, **more}
    return export(options.pop("model"), options.pop("rows"), out, **options)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_and_larger_parts_change_no_row(job: dict[str, Any], whole: Path, tmp_path: Path, workers: int) -> None:
    run(job, tmp_path / "out", workers=workers)
    assert tree(tmp_path / "out") == tree(whole)


def test_threads_that_draw_from_a_network_do_not_disturb_each_other(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(300, 3))
    flow = FlowDetector(hidden=(8,), max_epochs=2, contamination=0.1, random_state=0).fit(X)
    for workers in (1, 4):
        options: dict[str, Any] = {"workers": workers, "band": "typical", "allow_copies": True, "part_rows": BLOCK}
        export(flow, 2 * BLOCK + 100, tmp_path / str(workers), **options)
    assert tree(tmp_path / "1") == tree(tmp_path / "4")
    last = pd.read_parquet(sorted((tmp_path / "4" / "data").iterdir())[-1])
    drawn = next(draw_chunks(Recipe(flow, band="typical"), 2 * BLOCK, 2 * BLOCK + 100))
    np.testing.assert_array_equal(last[["x0", "x1", "x2"]].to_numpy(), drawn.rows)


def test_an_export_that_is_killed_goes_on(job: dict[str, Any], whole: Path, tmp_path: Path, full: bool) -> None:
    calls = range(1, 44) if full else (7, 14, 19)
    outs = [tmp_path / f"out{call}" for call in calls]
    runs = [{"out": str(out), "call": call} for call, out in zip(calls, outs, strict=True)]
    ended = run_and_kill({**job, "workers": 2}, runs, tmp_path)
    lived = [one["code"] == 0 for one in ended]
    # A complete run has some 40 such calls: at the last numbers there is none to die at.
    assert lived == sorted(lived)
    assert not any(lived[:3])
    assert {one["code"] for one in ended} <= {0, -signal.SIGKILL}
    assert any(lived) == full
    for out in outs:
        summary = run(job, out)
        assert tree(out) == tree(whole), out
        assert summary.rows == 2 * BLOCK + 500
        assert not list(out.rglob("*.partial"))


def test_a_job_that_is_asked_to_stop_ends_its_part(job: dict[str, Any], tmp_path: Path) -> None:
    def asking() -> Any:
        """Asks once: the second signal would end the process."""
        left = [signal.SIGTERM]
        return lambda _: os.kill(os.getpid(), left.pop()) if left else None

    before = signal.getsignal(signal.SIGTERM)
    # One thread looks two blocks ahead, so of more parts some are left.
    longer = {**job, "rows": 6 * BLOCK}
    with pytest.raises(Interrupted, match=r"stopped after \d of 6 parts .* start the same job again"):
        run(longer, tmp_path / "out", workers=1, progress=asking())
    assert signal.getsignal(signal.SIGTERM) is before
    done = len(list((tmp_path / "out" / "data").iterdir()))
    assert 0 < done < 6
    with pytest.raises(Interrupted, match="an export to a folder can be resumed"):
        run({**longer, "part_rows": None}, tmp_path / "out.npz", workers=1, progress=asking())
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    summary = run(longer, tmp_path / "out")
    assert (summary.resumed, summary.parts) == (done, 6)


def test_what_is_damaged_is_written_again(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    assert run(job, out).complete_before
    second = sorted((out / "data").iterdir())[1]
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    (out / "_SUCCESS").unlink()
    summary = run(job, out)
    assert (summary.resumed, summary.complete_before) == (2, False)
    assert tree(out) == tree(whole)
    sorted((out / "data").iterdir())[0].unlink()
    (out / "README.md").unlink()
    assert run(job, out).resumed == 2
    assert tree(out) == tree(whole)


def test_one_job_at_a_time(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def other(_: int) -> None:
        def start() -> None:
            try:
                run(job, tmp_path / "out")
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()

    run(job, tmp_path / "out", progress=other)
    assert failed
    assert all(isinstance(error, Interrupted) for error in failed)
    assert tree(tmp_path / "out") == tree(whole)


def test_what_the_parts_cost_is_written_down(job: dict[str, Any], tmp_path: Path) -> None:
    summary = run(job, tmp_path / "out", constraints=[Range("x0", 0, None)], part_rows=2 * BLOCK)
    lines = [json.loads(line) for line in (tmp_path / "out" / "_manifest.ndjson").read_text().splitlines()]
    assert [line["rows"] for line in lines[1:]] == [2 * BLOCK, 500]
    assert sum(line["tried"] for line in lines[1:]) == summary.tried == summary.rows + sum(summary.refused.values())
    limits = [count for name, count in summary.refused.items() if name.startswith("range")]
    assert limits[0] > 0.45 * summary.tried
    told = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert (told["rows"], told["refused"]) == (summary.rows, summary.refused)
