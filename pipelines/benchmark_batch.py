"""Measure the batch jobs: memory, speed beside peers, kills, false discoveries, damaged files. Every figure in one run.

    memory     peak of a job over float32 Parquet, above that of a process which only loads the model
    speed      rows/s of jobs with the default flow and with a VAE of PyOD's network: as a share of what scoring the
               same rows from memory reaches, beside PyOD's VAE and isolation forest (rows in memory, both cores), and
               in multiples of the time that the matrix products alone would take
    kills      jobs ended by SIGKILL at random moments and around every rename, then resumed: the files have to be those
               of a job that nothing disturbed
    fdr        false discoveries and power at --fdr on the ADBench tables below --data; of the normal rows one half
               trains, and what is left is split anew into calibration and test rows for every draw
    malformed  damaged files and rows from a seeded generator: every row is scored or reported

It ends with code 1 where a figure is missed; --quick takes sizes that show that everything runs, not what it reaches.

    python pipelines/benchmark_batch.py --data data
    python pipelines/benchmark_batch.py --quick --only memory speed kills
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import malformed as damage
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmark_tables import thin
from joblib import Parallel, delayed
from killing import Job, tree
from measure import DIM, Report, duel, matmul_rate, peak_megabytes, run_child, table
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch.utils.flop_counter import FlopCounterMode

from anomgen import Detector, FlowDetector, VAEDetector, batch, calibrate, load, runtime
from anomgen.data import cards, load_dataset, read_card

PARTS = ("memory", "speed", "kills", "fdr", "malformed")
CORES = os.cpu_count() or 1
BLOCK = 131_072
"""Rows of a row group."""
PYOD = {"hidden": (128, 64, 32), "latent_dim": 2, "draws": 1}
"""PyOD's VAE as it comes, in our words."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: tuple[int, int] = (1_000_000, 10_000_000)
    turns: int = 3
    peer_rows: int = 200_000
    kills: int = 50
    kill_rows: int = 400_000
    tables: int = 22
    draws: int = 50
    malformed: int = 1_000


QUICK = Sizes((50_000, 200_000), 1, 4_000, 4, 60_000, 2, 10, 40)


# ---------------------------------------------------------------------- what is scored


def write_rows(path: Path, rows: int, bad: int = 0) -> Path:
    """Float32 columns x0, x1 ... in row groups, one in memory at a time; an infinity in every `bad`-th row."""
    names = [f"x{column}" for column in range(DIM)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, BLOCK):
            block = table(BLOCK, 1 + start)[: rows - start]
            if bad:
                block[::bad, 0] = np.inf
            writer.write_table(pa.table(list(np.asfortranarray(block).T), schema=schema), BLOCK)
    return path


def fitted(folder: Path, detector: Detector, calibrated: bool = True) -> Path:
    """The folder of a model of such rows: what is measured does not depend on how long it trained."""
    rows = pd.DataFrame(table(20_000, 0), columns=[f"x{column}" for column in range(DIM)])
    short = detector.set_params(max_epochs=2, random_state=0, verbose=False, device="cpu")
    short.fit(rows[:10_000])
    if calibrated:
        short.calibrate(rows[10_000:])
    short.save(folder)
    return folder


# ---------------------------------------------------------------------- memory


def memory(report: Report, sizes: Sizes, place: Path) -> None:
    model = fitted(place / "flow", FlowDetector())
    empty = float(run_child(__file__, "empty", model, "", ""))
    peaks = []
    for rows in sizes.rows:
        file = write_rows(place / f"{rows}.parquet", rows)
        told = run_child(__file__, "job", model, file, place / f"scores-{rows}")
        peaks.append(told["peak"] - empty)
        rate = f"{told['rows_per_s']:,.0f} rows/s"
        report(f"{rows:,} rows: memory above {empty:.0f} MB", f"{peaks[-1]:.0f} MB ({rate})", peaks[-1] < 700)
        if told["rows"] != rows:
            raise RuntimeError(f"{told['rows']:,} of {rows:,} rows were scored")
    report("growth from the one to the other", f"{peaks[1] - peaks[0]:.0f} MB", peaks[1] - peaks[0] < 70)


def child(what: str, model: str, file: str, out: str) -> None:
    """A process whose memory is measured from outside: a whole job, or one without rows."""
    if what == "empty":
        load(model)
        print(peak_megabytes())
        return
    summary = batch.score_files(model, file, out)
    print(json.dumps({"peak": peak_megabytes(), "rows": summary.rows, "rows_per_s": summary.rows_per_s}))


# ---------------------------------------------------------------------- speed


def speed(report: Report, sizes: Sizes, place: Path) -> None:
    """Jobs from file to file in turns with their peers, wall-clock, all on every core."""
    try:
        from pyod.models.iforest import IForest
        from pyod.models.vae import VAE
    except ImportError as error:
        sys.exit(f"speed is measured beside PyOD ({error}): pip install 'anomgen[bench]'")
    file = write_rows(place / "speed.parquet", sizes.rows[0])
    frame = pd.read_parquet(file)
    few, train = frame[: sizes.peer_rows].to_numpy(), table(20_000, 0)
    one, every = (IForest(random_state=0, n_jobs=jobs).fit(train) for jobs in (1, CORES))
    vae = VAE(epoch_num=1, dropout_rate=0.0, verbose=0, device=torch.device("cpu"), random_state=0).fit(train)
    peers: dict[str, list[tuple[str, Callable[[], object], float | None]]] = {
        "flow": [
            ("PyOD's isolation forest as it comes", lambda: one.decision_function(few), 1.0),
            (f"PyOD's isolation forest, n_jobs={CORES}", lambda: every.decision_function(few), None),
        ],
        "VAE": [
            ("PyOD's VAE as it comes, batches of 32", lambda: vae.decision_function(few), 5.0),
            ("PyOD's VAE, batches of 4,096", lambda: vae.decision_function(few, batch_size=4_096), None),
        ],
    }
    for name, detector in (("flow", FlowDetector()), ("VAE", VAEDetector(**PYOD))):
        loaded = load(fitted(place / f"speed-{name}", detector, calibrated=False))

        def job(detector: Detector = loaded) -> object:
            return batch.score_files(detector, file, place / "speed", overwrite=True)

        job()
        ours, theirs, ratio = duel(job, lambda d=loaded: d.score_samples(frame), sizes.turns, time.perf_counter)
        rate, limit = len(frame) / ours, limit_rate(loaded)
        report(f"{name} from file to file", f"{rate:,.0f} rows/s, {limit / rate:.1f} x the matmul limit")
        told = f"{len(frame) / theirs:,.0f} rows/s; the job has {ratio:.0%} of it"
        report(f"{name} from memory", told, ratio >= 0.8 if name == "flow" else None)
        for peer, score, factor in peers[name]:
            ours, theirs, ratio = duel(job, score, sizes.turns, time.perf_counter)
            times = ratio * len(frame) / len(few)
            told = f"{len(few) / theirs:,.0f} rows/s; our {name} is {times:.1f} times as fast"
            report(peer, told, None if factor is None else times >= factor)


def limit_rate(detector: Detector) -> float:
    """Rows a second that all cores would score if nothing but matrix products took time."""
    rows = torch.zeros(256, DIM)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        detector.model_.log_prob(rows)
    return CORES * one_core() * len(rows) / counter.get_total_flops()


def one_core() -> float:
    """Operations a second of large matrix products on one core."""
    with runtime.threads(1):
        return matmul_rate()


# ---------------------------------------------------------------------- kills


def kills(report: Report, sizes: Sizes, place: Path) -> None:
    """Kill each job once, resume it, and compare what it leaves with what one leaves that nothing disturbed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anomgen.batch", "anomgen.families"])
    file = write_rows(place / "killed.parquet", sizes.kill_rows, bad=997)
    job = Job(fitted(place / "killed", FlowDetector()), file, sizes.kill_rows // 7, context)
    job.finish(place / "first")
    began = time.perf_counter()
    renames = job.finish(place / "whole")
    duration = time.perf_counter() - began
    whole = tree(place / "whole")
    deadly = np.linspace(1, renames, sizes.kills // 2).astype(int).tolist()
    delays = np.random.default_rng(0).uniform(0, duration, sizes.kills - len(deadly)).tolist()
    struck = equal = 0
    for number, (call, delay) in enumerate([(call, None) for call in deadly] + [(0, delay) for delay in delays]):
        out = place / f"killed-{number}"
        process, _ = job.start(out, call)
        process.join(delay)
        process.kill()
        process.join()
        struck += process.exitcode == -signal.SIGKILL
        job.finish(out)
        equal += tree(out) == whole
        shutil.rmtree(out)
    told = f"{equal} of {sizes.kills} resumed runs equal byte for byte"
    report(f"{struck} kills, {len(deadly)} of them at {renames} renames", told, equal == sizes.kills)
    parts = [pd.read_parquet(part, columns=["row"]) for part in sorted((place / "whole").rglob("*.parquet"))]
    rows = np.sort(pd.concat(parts)["row"])
    report("rows lost or doubled", "none", np.array_equal(rows, np.arange(sizes.kill_rows)))


# ---------------------------------------------------------------------- false discoveries


def fdr(report: Report, sizes: Sizes, data: Path) -> None:
    names = [name for name in cards() if name.startswith("adbench_") and (data / read_card(name).file).is_file()]
    jobs = (delayed(discoveries)(name, data, sizes.draws) for name in names[-sizes.tables :])
    found = pd.DataFrame(Parallel(n_jobs=CORES)(jobs)).set_index("table")
    print(found.round(3).to_string())
    mean, least = found.mean(), found[found["power"] > 0]
    told = f"{mean['fdr']:.3f} at a power of {mean['power']:.2f}"
    report(f"mean FDR of {len(found)} tables at q = 0.1", told, mean["fdr"] <= 0.1)
    report("the model's own threshold", f"FDR {mean['fdr of threshold']:.3f}, power {mean['power of threshold']:.2f}")
    told = f"FDR {least['fdr'].mean():.3f}, power {least['power'].mean():.2f}" if len(least) else "none"
    report(f"the {len(least)} tables with discoveries", told)


def discoveries(name: str, data: Path, draws: int) -> dict[str, Any]:
    """One fit; then, of the normal rows left, in every draw one half calibrates and the other is tested."""
    torch.set_num_threads(1)
    dataset = thin(load_dataset(name, root=data), 10_000, 0)
    train, rest, labels = dataset.split(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        detector = FlowDetector(random_state=0, verbose=False, device="cpu").fit(train)
    scores, anomalous = detector.score_samples(rest), labels == 1
    normal, planted = scores[~anomalous], scores[anomalous]
    rng, told = np.random.default_rng(0), []
    for _ in range(draws):
        calibration, tested = np.array_split(rng.permutation(normal), 2)
        seen = np.concatenate([tested, planted])
        p = calibrate.p_values(np.sort(calibration), seen)
        chosen = {"": calibrate.benjamini_hochberg(p, 0.1), " of threshold": seen < detector.offset_}
        told.append(
            {f"{what}{how}": value for how, mask in chosen.items() for what, value in judged(mask, len(tested))}
        )
    return {
        "table": name,
        "calibrated on": len(calibration),
        "tested": len(seen),
        "anomalies": len(planted),
        **pd.DataFrame(told).mean().to_dict(),
    }


def judged(mask: np.ndarray, normal: int) -> list[tuple[str, float]]:
    """The share of false discoveries and of anomalies found; normal rows come first."""
    return [("fdr", mask[:normal].sum() / max(1, mask.sum())), ("power", mask[normal:].mean())]


# ---------------------------------------------------------------------- damaged files


def malformed(report: Report, sizes: Sizes, place: Path) -> None:
    train = damage.clean_rows(400)
    short = FlowDetector(max_epochs=2, random_state=0, verbose=False, device="cpu")
    detectors = {False: clone(short).fit(train), True: clone(short).fit(train[damage.NUMBERS].to_numpy())}
    told, complaints = dict.fromkeys(("scored", "listed", "refused"), 0), []
    signal.signal(signal.SIGALRM, hangs)
    for seed in range(sizes.malformed):
        case = damage.malformed(seed, place)
        clean = case.clean[damage.NUMBERS].to_numpy() if case.array else case.clean
        signal.alarm(60)
        error, scores, bad = outcome(detectors[case.array], case.path, place / "scores")
        signal.alarm(0)
        wrong = damage.complaint(case, error, scores, bad, detectors[case.array].score_samples(clean))
        complaints += [f"seed {seed}, {case.kind}: {wrong}"] if wrong else []
        for what, count in (("scored", len(scores)), ("listed", len(bad)), ("refused", error is not None)):
            told[what] += count
    figure = f"{told['scored']:,} rows scored, {told['listed']:,} listed, {told['refused']} files refused"
    report(f"{sizes.malformed:,} damaged files", f"{figure}, {len(complaints)} complaints", not complaints)
    print(*complaints, sep="\n", end="\n" if complaints else "")


def hangs(*_: object) -> None:
    raise TimeoutError("a job over a few rows takes more than a minute")


def outcome(detector: Detector, file: Path, out: Path) -> tuple[Exception | None, dict[int, float], list[int]]:
    """What a job ends with, the scores by number of the row, and the numbers of the rows listed as bad."""
    try:
        options: dict[str, Any] = {"on_bad_row": "quarantine", "max_bad_fraction": 1.0, "overwrite": True}
        summary = batch.score_files(detector, file, out, **options)
    except Exception as error:
        return error, {}, []
    scores = pd.concat([pd.read_parquet(part) for part in sorted(out.glob("*.parquet"))])
    listed = [pd.read_parquet(part) for part in sorted((out / batch.QUARANTINE).glob("*.parquet"))]
    bad = [row for part in listed for row in part["row"] if row >= 0]
    if summary.rows != len(scores) or summary.bad < len(bad):
        return AssertionError(f"the summary counts {summary.rows} rows and {summary.bad} bad ones"), {}, []
    return None, dict(zip(scores["row"], scores["score"], strict=True)), bad


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds adbench/NAME.npz")
    parser.add_argument("--quick", action="store_true", help="small sizes: two minutes instead of half an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts instead of all")
    parser.add_argument("--place", type=Path, help="folder for files of two gigabytes; by default a temporary one")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(CORES)
    if options.child:
        child(*options.child)
        return 0
    if "fdr" in options.only and (options.data is None or not (options.data / "adbench").is_dir()):
        parser.error("fdr needs the tables: --data names their folder, datasets/README.md says how to get them")
    report, sizes = Report(not options.quick), QUICK if options.quick else Sizes()
    print(f"{CORES} cores, torch {torch.__version__}, one core {one_core() / 1e9:.0f} GFLOP/s", flush=True)
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        for part in options.only:
            folder = Path(place, part)
            folder.mkdir()
            globals()[part](report, sizes, options.data if part == "fdr" else folder)
            shutil.rmtree(folder)
    if report.missed:
        print(f"missed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
