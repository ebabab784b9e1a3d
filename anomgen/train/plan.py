"""Schedules derived from the number of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

WARMUP = 0.05
"""Share of the schedule over which the learning rate rises from zero."""
FINAL_RATE = 0.02
"""Share of the peak learning rate at which the cosine ends."""
PARTS = 10
"""Epochs that a schedule of few, long passes is cut into at most: warm-ups and the choice of weights need some."""
LONG = 500
"""Steps that an epoch has at least where it is less than a pass."""


def usual_steps(n: int) -> float:
    """Optimizer steps for `n` rows: ``40 sqrt(n)`` between 300 and 3,000, so that few rows are not learned by heart."""
    return float(np.clip(40.0 * math.sqrt(n), 300.0, 3000.0))


def usual_noise(n: int) -> float:
    """Training noise for `n` rows: ``0.25 (n / 1000)^(-1/4)`` between 0.05 and 0.5 standard deviations.

    As with a kernel's bandwidth, the fewer rows there are the more each one has to stand for its neighbourhood.
    """
    return float(np.clip(0.25 * (max(n, 1) / 1000.0) ** -0.25, 0.05, 0.5))


@dataclass(frozen=True)
class Plan:
    """The schedule of a fit, and the learning rate of each step.

    Parameters
    ----------
    batch : int
        Rows a step.
    batches : int
        Steps of a pass over the rows.
    steps : int
        Optimizer steps in all.
    epochs : int
        Parts of the schedule: passes over the rows or, where these are few and long, parts of them with 500 steps or
        more.
    constant : bool
        Whether the learning rate stays after warm-up.
    """

    batch: int
    batches: int
    steps: int
    epochs: int
    constant: bool

    @classmethod
    def make(cls, max_epochs: int | Literal["auto"], batch_size: int | Literal["auto"], n: int, constant: bool) -> Plan:
        """Derive the schedule from the number of rows; an automatic one may be shorter than one pass over them."""
        usual = 2 ** int(np.clip(round(math.log2(max(n, 1) / 16)), 5, 8 if n < 100_000 else 10))
        batch = usual if batch_size == "auto" else min(batch_size, max(n, 1))
        batches = max(1, round(n / batch))
        passes = max(1, round(usual_steps(n) / batches)) if max_epochs == "auto" else max_epochs
        steps = passes * batches
        if max_epochs == "auto" and passes == 1:
            steps = min(steps, round(usual_steps(n)))
        epochs = max(passes, min(PARTS, steps // LONG))
        return cls(batch, batches, steps, epochs, constant)

    @property
    def length(self) -> int:
        """Steps of an epoch; the last one may have fewer."""
        return -(-self.steps // self.epochs)

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at `step`."""
        progress = step / self.steps
        warmth = min(1.0, (step + 1) / max(1.0, WARMUP * self.steps))
        if self.constant:
            return warmth
        return warmth * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))

    def facts(self) -> dict[str, int]:
        """The plan as numbers to log."""
        return {"batch_size": self.batch, "epochs_planned": self.epochs, "steps_planned": self.steps}
