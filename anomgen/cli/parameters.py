"""Detector parameters written as text: ``hidden=64,64``."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

NOT_SETTABLE = ("callbacks", "verbose", "warm_start")


class UsageError(ValueError):
    """Something typed that cannot be meant."""


def parse_parameters(detector: type[Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Parameters of a detector class from ``name=value`` texts.

    A value is a Python literal where it reads as one, else text; a parameter that holds a sequence takes its items
    separated by commas.

    Raises
    ------
    UsageError
        For a text without ``=``, and for an unknown name, with the closest known ones.
    """
    defaults = {field.name: field.default for field in fields(detector) if field.name not in NOT_SETTABLE}
    parsed: dict[str, Any] = {}
    for name, text in _parted(assignments, "--set", "hidden=64,64"):
        name = name.replace("-", "_")
        if name not in defaults:
            close = get_close_matches(name, defaults, n=3) or sorted(defaults)
            raise UsageError(f"{detector.__name__} has no parameter {name!r}; did you mean {', '.join(close)}?")
        parsed[name] = _value(text, isinstance(defaults[name], tuple))
    return parsed


def parse_conditions(assignments: Iterable[str]) -> dict[str, Any]:
    """Values by name from ``name=value`` texts; a value is a Python literal where it reads as one, else text.

    Raises
    ------
    UsageError
        For a text without ``=``.
    """
    return {name: _literal(text) for name, text in _parted(assignments, "--condition", "region=north")}


def parse_bytes(text: str) -> float:
    """Bytes from a number with a unit: ``1GiB``, ``500 MB``, ``65536``.

    Raises
    ------
    UsageError
        For anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B?)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"--memory {text}: write it as a number of bytes with a unit, such as 500MB or 2GiB")
    return float(found[1]) * math.pow(1024 if found[3] else 1000, " KMGT".index((found[2] or " ").upper()))


def _parted(assignments: Iterable[str], option: str, example: str) -> Iterator[tuple[str, str]]:
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UsageError(f"{option} {assignment}: write it as name=value, such as {example}")
        yield name, text


def _value(text: str, sequence: bool) -> Any:
    if sequence and text[:1] not in ("(", "["):
        return tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
    return _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
