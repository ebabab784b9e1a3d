"""What happens while a command runs, on standard error: warnings and errors, and every event where a format is chosen.

The formats are lines of text for people, and for machines one JSON object a line: ``ts`` (UTC), ``level``, ``event``
and the fields of the event.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]
LOGGER = logging.getLogger("anomgen")


def event(name: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log that something happened; shown where a format is chosen, or where it is a warning."""
    LOGGER.log(level, name, extra={"fields": fields})


@contextmanager
def logging_to_stderr(chosen: Format | None) -> Iterator[None]:
    """Show events, and Python's warnings as events, while a block runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter({"json": JsonLines, "text": TextLines, None: ForPeople}[chosen]())
    before = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.WARNING if chosen is None else logging.INFO)
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = _log_warning
        try:
            yield
        finally:
            LOGGER.removeHandler(handler)
            LOGGER.level, LOGGER.propagate = before


class JsonLines(logging.Formatter):
    """One JSON object a line; numbers that JSON lacks are null."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of an event."""
        told = {"ts": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(plain({**told, **_fields(record)}), ensure_ascii=False, allow_nan=False)


class TextLines(logging.Formatter):
    """Time, level, event and ``name=value`` of its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of an event."""
        told = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        return " ".join(f"{_time(record)} {record.levelname.lower()} {record.getMessage()} {told}".split())


class ForPeople(logging.Formatter):
    """What a warning or an error says, without the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of an event."""
        kind = "" if record.levelno >= logging.ERROR else f"{record.levelname.lower()}: "
        return f"anomgen: {kind}{_fields(record).get('message', record.getMessage())}"


def plain(value: Any) -> Any:
    """A value of JSON: numpy's numbers as Python's, what is not finite as None, paths and the like as text."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, Sequence) else str(value)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    event("warning", level=logging.WARNING, category=category.__name__, message=text)
