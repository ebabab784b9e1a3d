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
    """How many rows a step, epochs, and steps; and the learning rate of each step."""

    batch: int
    epochs: int
    batches: int
    constant: bool

    @classmethod
    def make(cls, max_epochs: int | Literal["auto"], batch_size: int | Literal["auto"], n: int, constant: bool) -> Plan:
        """Derive the schedule from the number of rows."""
        given = batch_size
        usual = 2 ** int(np.clip(round(math.log2(max(n, 1) / 16)), 5, 8 if n < 100_000 else 10))
        batch = usual if given == "auto" else min(given, max(n, 1))
        batches = max(1, round(n / batch))
        planned = max_epochs
        epochs = max(1, round(usual_steps(n) / batches)) if planned == "auto" else planned
        return cls(batch, epochs, batches, constant)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.batches

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
