"""How many threads a job takes."""

from __future__ import annotations

import os
from contextlib import suppress

WORKERS = 16
"""Threads, unless more are asked for: beyond, one thread does not read, or draw, fast enough."""


def default_workers() -> int:
    """A thread for each core that the process may use."""
    cores = os.cpu_count() or 1
    with suppress(AttributeError):
        cores = len(os.sched_getaffinity(0))
    return min(cores, WORKERS)
