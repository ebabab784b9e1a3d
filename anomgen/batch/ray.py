"""The Ray engine: units of a job as rows of a Ray Dataset, one detector an actor, parts into one shared folder."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from anomgen import runtime
from anomgen.batch import local
from anomgen.batch.part import Record
from anomgen.batch.plan import Unit
from anomgen.batch.scoring import Options
from anomgen.detector import Detector
from anomgen.jobs.whole import PARTIAL
from anomgen.jobs.workers import default_workers

ATTEMPTS = 4
"""How often a unit is given to a worker: Ray would start one that dies over a unit again for ever."""
HALT = f".halt{PARTIAL}"
"""File in the folder of scores that tells workers, on whatever machine, to begin no more parts."""
TALLY = f".unit-{{}}{PARTIAL}"
"""File there that counts how often a unit was begun, until it is done."""
POLL_SECONDS = 0.2


def score_units(
    detector: Detector,
    units: Sequence[Unit],
    folder: Path,
    options: Options,
    *,
    done: Collection[str] = (),
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Score units on a Ray cluster, as :func:`anomgen.batch.local.score_units` does on one machine.

    The cluster is the one that Ray is connected to; else that of the environment variable ``RAY_ADDRESS``; else one on
    this machine, for the time of the job. All machines must see inputs and `folder` under the same paths. Every worker
    is an actor that holds the detector, on one core or, where the cluster has GPUs, on one GPU; it scores a unit at a
    time with the local engine, so that parts have the same bytes on the same type of machine.

    A worker that dies is started again and scores its unit again; one over which four have died ends the job.

    Parameters
    ----------
    detector : Detector
    units : sequence of Unit
    folder : Path
        Exists.
    options : Options
    done : collection of str
        Names of parts that need not be written.
    workers : int, optional
        Actors; one for each GPU of the cluster, or for each core, by default, and no more than units.
    stop : callable
        Asked all the time; parts that were begun by then are finished.
    progress : callable, optional
        Called with the number of rows of every part done.

    Yields
    ------
    Record
        Of every part of a unit, when the unit is done; units come in any order.

    Raises
    ------
    ImportError
        If Ray is not installed.
    RuntimeError
        If workers die over a unit again and again, naming it, or cannot be started.
    """
    if not units:
        return
    halt = folder.resolve() / HALT
    halt.unlink(missing_ok=True)
    with _cluster(workers or min(default_workers(), len(units))) as ray, _watching(stop, halt):
        job = ray.put((detector, list(units), folder.resolve(), options, frozenset(done), Path.cwd()))
        outcomes = _outcomes(ray, job, len(units), workers)
        try:
            yield from _unpacked(outcomes, progress)
        except (Exception, GeneratorExit):
            # Workers that are dropped in the middle of a part would have Ray complain; these end with it.
            halt.touch()
            deque(outcomes, maxlen=0)
            raise


def _unpacked(outcomes: Iterator[bytes], progress: Callable[[int], None] | None) -> Iterator[Record]:
    for outcome in outcomes:
        records, error = pickle.loads(outcome)
        if error is not None:
            raise error
        for record in records:
            if progress is not None:
                progress(record.rows + record.bad)
            yield record


class _Worker:
    """An actor: scores the units that it is sent the numbers of."""

    def __init__(self, job: Any) -> None:
        import ray

        self.detector, self.units, self.folder, self.options, self.done, here = ray.get(job)
        # Names of inputs are written beside the scores as they were given, and may be relative.
        with suppress(OSError):
            os.chdir(here)
        # Detectors travel on the CPU.
        device = runtime.resolve_device("auto")
        for member in (self.detector, *getattr(self.detector, "folds_", ())):
            member.model_.to(device)
            member.statistic_.to(device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"outcome": np.array([self._outcome(number) for number in batch["unit"]], dtype=object)}

    def _outcome(self, number: int) -> bytes:
        """The records of a unit, or the error that it caused: one that Ray need not understand."""
        try:
            with _attempt(self.folder / TALLY.format(number), self.units[number]):
                return pickle.dumps((list(self._score(self.units[number])), None))
        except Exception as error:
            return pickle.dumps(([], error))

    def _score(self, unit: Unit) -> Iterator[Record]:
        stop = (self.folder / HALT).exists
        return local.score_units(self.detector, [unit], self.folder, self.options, done=self.done, workers=1, stop=stop)


@contextmanager
def _attempt(tally: Path, unit: Unit) -> Iterator[None]:
    """Count how often a unit was begun, until it is done."""
    with tally.open("ab") as file:
        file.write(b".")
    if tally.stat().st_size > ATTEMPTS:
        raise RuntimeError(
            f"{unit.input.name}, rows from {unit.span.start:,} on: {ATTEMPTS} workers died over them; if it was for "
            "lack of memory, take smaller parts or fewer workers"
        )
    yield
    tally.unlink(missing_ok=True)


def _outcomes(ray: Any, job: Any, units: int, workers: int | None) -> Iterator[bytes]:
    """What the workers send back, in the order in which they are ready."""
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    size = min(workers or gpus or int(has.get("CPU", 1)), units)
    resources = {"num_cpus": 0, "num_gpus": 1} if gpus else {"num_cpus": 1}
    rows = ray.data.from_items([{"unit": number} for number in range(units)], override_num_blocks=units)
    outcomes = rows.map_batches(
        _Worker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        **resources,
    )
    found = iter(outcomes.iter_rows())
    try:
        while True:
            # What Ray has to say of workers that die is no result of the job.
            with redirect_stdout(sys.stderr):
                row = next(found, None)
            if row is None:
                return
            yield row["outcome"]
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"the workers of Ray could not go on: {str(error).strip().splitlines()[-1]}. What they have done stays; "
            "start the job again to go on from there"
        ) from error


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Ray, connected to a cluster; to one of its own for the time of the block if there is no other."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray: pip install 'anomgen[ray]'") from error

    ours = not ray.is_initialized()
    if ours:
        _connect(ray, workers)
    context = ray.data.DataContext.get_current()
    bars, logger = context.enable_progress_bars, logging.getLogger("ray.data")
    level = logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
        if ours:
            with redirect_stdout(sys.stderr):
                ray.shutdown()


def _connect(ray: Any, workers: int) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine that calls nobody."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    told = "RAY_USAGE_STATS_ENABLED" in os.environ
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
    finally:
        if not told:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the job in the middle of its parts.
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def _watching(stop: Callable[[], bool], halt: Path) -> Iterator[None]:
    """Leave the file `halt` as soon as `stop` is true; it goes with the block, and so do the tallies beside it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if stop():
                halt.touch()
                return

    thread = threading.Thread(target=watch, name="anomgen-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        halt.unlink(missing_ok=True)
        for tally in halt.parent.glob(TALLY.format("*")):
            tally.unlink(missing_ok=True)
