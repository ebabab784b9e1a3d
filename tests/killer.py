"""Runs a job again and again in children of this process, which imports once, and kills them.

    python killer.py JOB.json      one line of JSON for every child: how it ended

The file holds ``job`` (arguments of score_files but `out`, or of export where it has ``rows``) and ``runs``, each
``{"out": ..., "call": k}`` to die at the k-th call that renames a file or flushes it to the disk, ``{"out": ...,
"after": seconds}`` to die by then, or ``{"out": ...}`` to be left in peace.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from anomgen import augment, batch, load


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = load(given["job"].pop("model"))
    for run in given["runs"]:
        began = time.perf_counter()
        child = os.fork()
        if not child:
            work(model, given["job"], run)
        if "after" in run:
            time.sleep(run["after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - began}))


def work(model: Any, job: dict[str, Any], run: dict[str, Any]) -> None:
    """Never returns."""
    die_at(run.get("call", 0))
    code = 1
    try:
        (augment.export if "rows" in job else batch.score_files)(model, out=run["out"], **job)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_at(call: int) -> None:
    """A kill takes nothing from the disk, and flushes that are left out save most of the time."""
    calls = 0

    def counted(function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    os.replace, os.fsync = counted(os.replace), counted(lambda _: None)


if __name__ == "__main__":
    main()
