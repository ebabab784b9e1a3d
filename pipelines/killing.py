"""Scoring jobs in processes that are killed, or kill themselves between two steps."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomgen import batch


@dataclass(frozen=True)
class Job:
    """A job with two passes and bad rows, in processes that die when told to."""

    model: Path
    file: Path
    part_rows: int
    context: Any

    def start(self, out: Path, deadly: int = 0) -> Any:
        """A process that kills itself right after its `deadly`-th rename, which it counts in `calls`."""
        calls = self.context.Value("q", 0)
        process = self.context.Process(target=work, args=(self.model, self.file, out, self.part_rows, deadly, calls))
        process.start()
        return process, calls

    def finish(self, out: Path) -> int:
        """Run to the end, and count renames."""
        process, calls = self.start(out)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the job for {out} ended with {process.exitcode}")
        return int(calls.value)


def work(model: Path, file: Path, out: Path, part_rows: int, deadly: int, calls: Any) -> None:
    rename = os.replace

    def counted(*arguments: Any, **options: Any) -> None:
        rename(*arguments, **options)
        with calls.get_lock():
            calls.value += 1
            if calls.value == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted
    batch.score_files(model, file, out, fdr=0.5, part_rows=part_rows, on_bad_row="quarantine", max_bad_fraction=1.0)


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files but the summary, which holds times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "_summary.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
