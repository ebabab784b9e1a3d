"""What the commands print on standard output, and the bar that a person sees."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomgen.cli.log import LOGGER, plain


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact a line, names in a column of their own; None is left out."""
    shown = {name: str(value) for name, value in facts.items() if value is not None}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")


def print_json(told: Mapping[str, Any]) -> None:
    """The same for machines."""
    print(json.dumps(plain(told), indent=2, ensure_ascii=False))


def print_table(rows: list[dict[str, Any]]) -> None:
    """An empty line, then rows under a header of their keys."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    console.print()
    console.print(table)


def share(part: int, whole: int) -> str:
    """A count and its share."""
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.2%})"


def bad_files(bad: Sequence[Any]) -> str | None:
    """How many files were left out, and the first of them."""
    return f"{len(bad):,} unreadable files, first {bad[0].file}: {bad[0].reason}" if bad else None


@contextmanager
def row_counter(done: str) -> Iterator[Callable[[int], None] | None]:
    """A line on standard error that counts rows, where a person is looking and events are not shown."""
    if not sys.stderr.isatty() or LOGGER.isEnabledFor(logging.INFO):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(f"{{task.completed:,.0f}} rows {done}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(done, total=None)
        yield lambda rows: progress.advance(task, rows)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to work for a place that is taken before the work is done."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; name another place, or pass --overwrite")
