"""Threads that work on what one thread hands out, and takes back in that order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

WORKERS = 16
"""Threads, unless more are asked for: beyond, the one thread that reads or writes is not fast enough for them."""

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """A thread for each core that the process may use."""
    cores = os.cpu_count() or 1
    with suppress(AttributeError):
        cores = len(os.sched_getaffinity(0))
    return min(cores, WORKERS)


def in_order(
    tasks: Iterable[tuple[T, Callable[[], R] | None]], workers: int, begin: Callable[[], None]
) -> Iterator[tuple[T, R | None]]:
    """Run tasks on threads, and give what they return in the order of the tasks: so the threads cannot be told from it.

    Parameters
    ----------
    tasks : iterable of (what it is, callable or None)
        None takes its turn without anything to do. At most two more than `workers` are looked at ahead, so that memory
        is bounded.
    workers : int
    begin : callable
        Run by every thread first.
    """
    pool = ThreadPoolExecutor(workers, "anomgen", begin)
    ahead: deque[tuple[T, Future[R] | None]] = deque()

    def first() -> tuple[T, R | None]:
        what, future = ahead.popleft()
        return what, None if future is None else future.result()

    try:
        for what, task in tasks:
            ahead.append((what, None if task is None else pool.submit(task)))
            while len(ahead) > workers + 1:
                yield first()
        while ahead:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)
