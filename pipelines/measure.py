"""What the benchmarks measure with: rows, clocks, peak memory, the rate of matrix products, and what is told."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIM = 20


def table(n: int, seed: int) -> np.ndarray:
    """Standardized rows of eight bent clusters."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(0)
    cluster = rng.integers(8, size=n)
    z = rng.normal(size=(n, DIM)) * shape.uniform(0.2, 0.8, (8, DIM))[cluster] + shape.normal(size=(8, DIM))[cluster]
    z[:, 1::2] += 0.8 * np.sin(2 * z[:, ::2])
    return ((z - z.mean(0)) / z.std(0)).astype(np.float32)


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """CPU-seconds of an action, or seconds of another clock."""
    start = clock()
    action()
    return clock() - start


def duel(
    mine: Callable[[], object],
    other: Callable[[], object],
    turns: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the ratios of neighbouring turns."""
    pairs = [(seconds(mine, clock), seconds(other, clock)) for _ in range(turns)]
    return (*map(statistics.median, zip(*pairs, strict=True)), statistics.median(b / a for a, b in pairs))  # type: ignore[return-value]


def matmul_rate() -> float:
    """Operations a CPU-second of a large matrix product, which no network exceeds."""
    a = torch.randn(1024, 1024)
    return max(2 * 1024**3 / seconds(lambda: a @ a) for _ in range(10))


def peak_megabytes() -> float:
    """Peak memory of this process so far. Not ru_maxrss, which a child on Linux inherits from what started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_child(script: str, *arguments: object) -> Any:
    """What a fresh process of `script` prints, as JSON, when it is started with ``--child`` and these arguments."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


class Report:
    """Prints figures, and whether they are what they have to be."""

    def __init__(self, judge: bool = True) -> None:
        self.judge = judge
        self.missed: list[str] = []

    def __call__(self, what: str, figure: str, reached: bool | None = None) -> None:
        judged = self.judge and reached is not None
        print(f"{what:44s} {figure}{('   reached' if reached else '   MISSED') if judged else ''}", flush=True)
        if judged and not reached:
            self.missed.append(what)
