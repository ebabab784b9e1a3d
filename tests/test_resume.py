"""Jobs that are killed, stopped and started again: no byte differs from that of a job left in peace."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen import MixtureDetector, batch

KILLER = Path(__file__).with_name("killer.py")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a job but the one that tells times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "_summary.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def detector() -> MixtureDetector:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(400, 3)), columns=list("abc"))
    return MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows[:300]).calibrate(rows[300:])


@pytest.fixture(scope="module")
def job(detector: MixtureDetector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A Parquet file of three parts, a CSV file of two and one without rows; with bad rows, and a selection."""
    folder = tmp_path_factory.mktemp("job")
    detector.save(folder / "model")
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(230, 3)), columns=list("abc")).assign(id=np.arange(230))
    frame.loc[:9, ["a", "b", "c"]] += 20.0
    frame.loc[[3, 4, 120], "b"] = np.inf
    frame.to_parquet(folder / "p.parquet", row_group_size=40)
    frame[:110].to_csv(folder / "q.csv", index=False)
    frame[:0].to_parquet(folder / "r.parquet")
    names = [str(folder / name) for name in ("p.parquet", "q.csv", "r.parquet")]
    options = {"keep": ["id"], "fdr": 0.2, "part_rows": 80, "chunk_rows": 30, "workers": 2}
    return {"model": str(folder / "model"), "inputs": names, "on_bad_row": "quarantine", **options}


@pytest.fixture(scope="module")
def whole(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job, left in peace."""
    out = tmp_path_factory.mktemp("whole")
    summary = score(job, out)
    assert [(file.rows, file.bad, len(file.parts)) for file in summary.files] == [(227, 3, 3), (108, 2, 2), (0, 0, 1)]
    assert summary.selected
    return out


def score(job: dict[str, Any], out: Path, **more: Any) -> batch.Summary:
    options = {**job, **more}
    return batch.score_files(options.pop("model"), options.pop("inputs"), out, **options)


def run_and_kill(job: dict[str, Any], runs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """How each of several runs ended, of which some are killed."""
    (folder / "job.json").write_text(json.dumps({"job": job, "runs": runs}))
    command = [sys.executable, str(KILLER), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---------------------------------------------------------------------- kills


@pytest.mark.timeout(900)  # at full counts 230 runs of a job
def test_a_kill_before_any_rename_or_flush(job: dict[str, Any], whole: Path, tmp_path: Path, full: bool) -> None:
    """Among them every point between the rename of a part and its line in the manifest."""
    step = 1 if full else 12
    calls = range(1, 120, step)
    runs = [run for k in calls for run in ({"out": str(tmp_path / f"{k}"), "call": k}, {"out": str(tmp_path / f"{k}")})]
    ends = run_and_kill(job, runs, tmp_path)
    killed = [end["code"] == -signal.SIGKILL for end in ends[::2]]
    assert sum(killed) * step > 60
    assert killed == sorted(killed, reverse=True), "killed at every call that there was"
    assert not all(killed), "and all calls were tried"
    assert [end["code"] for end in ends[1::2]] == [0] * len(calls)
    expected = tree(whole)
    for k in calls:
        assert tree(tmp_path / f"{k}") == expected, f"killed at call {k}"


def test_kills_at_random_moments(job: dict[str, Any], whole: Path, tmp_path: Path, full: bool) -> None:
    """One job is killed and started again until it is done."""
    usual = run_and_kill(job, [{"out": str(tmp_path / "usual")}] * 2, tmp_path)[0]["seconds"]
    chance = random.Random(0)
    jobs = range(8 if full else 2)
    runs = [
        {"out": str(tmp_path / f"{j}"), **({"after": chance.uniform(0, usual)} if k < 3 else {})}
        for j in jobs
        for k in range(4)
    ]
    ends = run_and_kill(job, runs, tmp_path)
    assert -signal.SIGKILL in [end["code"] for end in ends]
    assert {end["code"] for end in ends} <= {0, -signal.SIGKILL}
    assert tree(tmp_path / "usual") == tree(whole)
    for j in jobs:
        assert tree(tmp_path / f"{j}") == tree(whole)


# ---------------------------------------------------------------------- stops and reruns


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_at_the_end_of_a_part(
    job: dict[str, Any], whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    told: list[int] = []

    def stop(rows: int) -> None:
        told.append(rows)
        if len(told) == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(batch.Interrupted, match="start the same job again to go on"):
        score(job, tmp_path / "out", progress=stop, workers=1)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    there = tree(tmp_path / "out")
    parts = [name for name in there if name.endswith(".parquet") and not name.startswith("_")]
    assert 0 < len(parts) < 6
    assert all(name in parts for name in ("p-00000.parquet",))
    assert len(there["_manifest.ndjson"].splitlines()) == 1 + len(parts)
    summary = score(job, tmp_path / "out")
    assert summary.resumed == len(parts)
    assert tree(tmp_path / "out") == tree(whole)


def test_two_jobs_do_not_work_in_one_folder(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    def meanwhile(_: int) -> None:
        with pytest.raises(batch.Interrupted, match=r"another job is at work in .*out; start this one again"):
            score(job, tmp_path / "out")
        with pytest.raises(batch.Interrupted, match="another job is at work"):
            score(job, tmp_path / "out", overwrite=True)

    score(job, tmp_path / "out", progress=meanwhile)
    assert tree(tmp_path / "out") == tree(whole)


def test_a_job_outside_the_main_thread(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=score, args=(job, tmp_path / "out"))
    thread.start()
    thread.join()
    assert tree(tmp_path / "out") == tree(whole)


def test_a_job_that_is_done_does_nothing(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    told: list[int] = []
    again = score(job, out, progress=told.append)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    assert told == []
    assert again.resumed == again.parts == 6
    assert again.complete_before
    assert again.rows_per_s == 0.0
    written = json.loads((out / "_summary.json").read_text())
    assert again.quantiles == written["quantiles"]
    assert (again.rows, again.selected, again.drift) == (written["rows"], written["selected"], written["drift"])
    assert written["resumed"] == 0


@pytest.mark.parametrize("damage", ["gone", "changed", "quarantine"])
def test_a_part_that_is_damaged_is_scored_again(job: dict[str, Any], whole: Path, tmp_path: Path, damage: str) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    part = out / "_quarantine" / "p-00001.parquet" if damage == "quarantine" else out / "p-00001.parquet"
    part.unlink() if damage == "gone" else part.write_bytes(part.read_bytes()[:-1] + b"?")
    summary = score(job, out)
    assert summary.resumed == 5
    assert summary.rows_per_s * summary.seconds == pytest.approx(len(pd.read_parquet(whole / "p-00001.parquet")))
    assert tree(out) == tree(whole)


def test_another_job_is_refused(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    inputs = [shutil.copy(path, tmp_path) for path in job["inputs"]]
    rows = pd.DataFrame(np.random.default_rng(3).normal(size=(400, 3)), columns=list("abc"))
    other = MixtureDetector(components=1, contamination=0.1, random_state=0).fit(rows[:300]).calibrate(rows[300:])
    for change, message in (
        ({"model": other}, "its model has sha256"),
        ({"fdr": 0.1}, "its option fdr was 0.2 and is 0.1 now"),
        ({"part_rows": 50}, "its option part_rows"),
        ({"on_bad_row": "skip"}, "its option on_bad_row"),
        ({"threshold": 1.5}, "its option threshold"),
        ({"keep": []}, "its option keep"),
        ({"inputs": job["inputs"][:2]}, "its inputs were others"),
        ({"inputs": inputs}, "has changed or was not among its inputs"),
    ):
        with pytest.raises(batch.ModelMismatch, match=message):
            score(job, out, **change)
    assert issubclass(batch.ModelMismatch, batch.SchemaError)
    assert tree(out) == tree(whole)
    score(job, out, fdr=None, overwrite=True)
    assert "selected" not in pd.read_parquet(out)


def test_inputs_that_change_are_refused(job: dict[str, Any], tmp_path: Path) -> None:
    """By what is in them, not by the time they were written."""
    inputs = [Path(shutil.copy(path, tmp_path)) for path in job["inputs"]]
    here = {**job, "inputs": [str(path) for path in inputs]}
    score(here, tmp_path / "out")
    os.utime(inputs[1])
    score(here, tmp_path / "out")
    text = inputs[1].read_text()
    inputs[1].write_text(text[:-3] + "9" + text[-2:])
    with pytest.raises(batch.ModelMismatch, match=r"q\.csv has changed"):
        score(here, tmp_path / "out")


def test_what_cannot_matter_may_change(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "q-00001.parquet").unlink()
    score(job, out, chunk_rows=7, workers=3, max_bad_fraction=0.9)
    assert tree(out) == tree(whole)


def test_a_job_of_which_nothing_is_done_may_change(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.parquet: row 3, column 'b'"):
        score(job, tmp_path / "out", on_bad_row="fail")
    assert set(tree(tmp_path / "out")) == {"_manifest.ndjson"}
    score(job, tmp_path / "out")


def test_a_torn_line_of_the_manifest_is_written_again(job: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    content = (whole / "_manifest.ndjson").read_bytes()
    ends = [k + 1 for k, byte in enumerate(content) if byte == ord("\n")]
    for cut in (ends[0], ends[2] - 1, ends[2] + 1, ends[5] + 10, ends[6] + 5, ends[7] + 5, len(content) - 1):
        out = shutil.copytree(whole, tmp_path / f"{cut}")
        (out / "_manifest.ndjson").write_bytes(content[:cut])
        (out / "_SUCCESS").unlink()
        score(job, out)
        assert tree(out) == tree(whole), f"cut after {cut} bytes"
