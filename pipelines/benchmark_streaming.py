"""Measure fits to files that are never in memory at once: their peak memory, and their nats beside a fit in memory.

The rows are float32 Parquet in the order of their first column, the worst there is. Memory is that of a process which
fits, above one which has the same packages loaded and has fitted 1,000 rows; nats are those of new rows. It ends with
code 1 where the nats of the smaller table lie further apart than --noise, or memory grows by more than 50 MB.

    python pipelines/benchmark_streaming.py
    python pipelines/benchmark_streaming.py --rows 20000 40000 --sample 5000 --epochs 2
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measure import peak_megabytes, run_child, table

from anomgen import FlowDetector
from anomgen.data import FileRows, open_source

DRAWN = 1_000_000
"""Rows drawn at a time."""
GROUP = 131_072
"""Rows of a row group."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=(1_000_000, 5_000_000), metavar=("FEW", "MANY"))
    parser.add_argument("--sample", type=int, default=200_000, help="rows that a fit to files holds")
    parser.add_argument("--epochs", type=int, help="passes over the rows; by default as the number of rows asks for")
    parser.add_argument("--hidden", type=int, nargs="+", default=(16,), help="width of the flow's networks")
    parser.add_argument("--noise", type=float, default=0.3, help="nats that two fits may lie apart, as two seeds do")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("HOW", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_rows(path: Path, rows: int) -> Path:
    """Rows of 20 numbers, in the order of the first one."""
    parts = [table(min(DRAWN, rows - start), seed) for seed, start in enumerate(range(0, rows, DRAWN))]
    X = np.concatenate(parts)
    X = X[np.argsort(X[:, 0])]
    pq.write_table(pa.table({f"x{j}": column for j, column in enumerate(X.T)}), path, row_group_size=GROUP)
    return path


def child(how: str, file: str, given: argparse.Namespace) -> dict[str, float]:
    """Fit in a process of its own, and tell how it went."""
    torch.set_num_threads(given.threads)
    source = open_source(file)
    detector = FlowDetector(
        hidden=tuple(given.hidden), max_epochs=given.epochs or "auto", random_state=0, verbose=False
    )
    begun = time.perf_counter()
    if how == "empty":
        detector.set_params(max_epochs=1, contamination=0.1).fit(next(source.chunks())[:1000])
    else:
        detector.fit(source.read() if how == "memory" else FileRows(source, sample_rows=given.sample))
    new = pd.DataFrame(table(50_000, 999)).add_prefix("x")
    seconds, peak = time.perf_counter() - begun, peak_megabytes()
    return {"peak": peak, "seconds": seconds, "nats": detector.score(new), **detector.history_[-1]}


def main(given: argparse.Namespace) -> int:
    passed_on = ["--sample", given.sample, "--threads", given.threads, "--hidden", *given.hidden]
    passed_on += ["--epochs", given.epochs] if given.epochs else []
    with tempfile.TemporaryDirectory() as folder:
        few, many = (write_rows(Path(folder) / f"{rows}.parquet", rows) for rows in given.rows)

        def run(how: str, file: Path) -> Any:
            return run_child(__file__, how, file, *passed_on)

        empty = run("empty", few)["peak"]
        told = {name: run(how, file) for name, how, file in (
            (f"{given.rows[0]:,} rows in memory", "memory", few),
            (f"{given.rows[0]:,} rows from files", "files", few),
            (f"{given.rows[1]:,} rows from files", "files", many),
        )}  # fmt: skip
    print(f"{'':28s} {'nats':>9s} {'MB above':>9s} {'steps':>6s} {'seconds':>8s}   ({empty:.0f} MB without rows)")
    for name, fit in told.items():
        print(f"{name:28s} {fit['nats']:9.3f} {fit['peak'] - empty:9.0f} {fit['step']:6.0f} {fit['seconds']:8.0f}")
    held, passed, more = told.values()
    apart, growth = abs(held["nats"] - passed["nats"]), more["peak"] - passed["peak"]
    print(f"apart by {apart:.3f} nats; {growth:+.0f} MB with {given.rows[1] / given.rows[0]:.0f} times the rows")
    return int(apart > given.noise or growth > 50)


if __name__ == "__main__":
    given = options()
    if given.child:
        print(json.dumps(child(*given.child, given)))
    else:
        sys.exit(main(given))
