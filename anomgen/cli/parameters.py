"""Detector parameters written as text: ``hidden=64,64``."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Sequence
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


def parse_band(text: str) -> str | tuple[float, float]:
    """Two shares from ``0.01:0.05``, or the name of a band.

    Raises
    ------
    UsageError
        For anything else.
    """
    low, colon, high = text.partition(":")
    if not colon:
        return text
    try:
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"--band {text}: write it as two shares, such as 0.01:0.05, or typical or rare") from None


def parse_ranges(assignments: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Column and bounds from ``age=0:120``; a side left empty is no bound.

    Raises
    ------
    UsageError
        For any other text.
    """
    example = "age=0:120"
    ranges = []
    for name, text in _parted(assignments, "--range", example):
        bounds = text.split(":")
        if len(bounds) != 2 or not any(bounds):
            raise UsageError(
                f"--range {name}={text}: write it as column=low:high, such as {example}; times of day: --where"
            )
        low, high = (_literal(bound.strip()) if bound.strip() else None for bound in bounds)
        ranges.append((name, low, high))
    return ranges


def parse_levels(assignments: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Column and levels from ``region=north,south``.

    Raises
    ------
    UsageError
        For any other text.
    """
    parted = _parted(assignments, "--levels", "region=north,south")
    return [(name, tuple(level.strip() for level in text.split(","))) for name, text in parted]


def parse_sums(assignments: Sequence[str], solve: Sequence[str]) -> list[tuple[str | float, tuple[str, ...], str]]:
    """Total, parts and the column to solve for, from ``total=a,b,c`` each with one of `solve`; a total may be a number.

    Raises
    ------
    UsageError
        For any other text, or another number of columns to solve for.
    """
    if len(assignments) != len(solve):
        raise UsageError(f"--sum needs a --solve each, a column of it: {len(assignments)} and {len(solve)} are given")
    parted = _parted(assignments, "--sum", "total=a,b,c")
    return [
        (_total(total), tuple(part.strip() for part in text.split(",")), solved)
        for (total, text), solved in zip(parted, solve, strict=True)
    ]


def parse_strength(text: str) -> str | float:
    """A share, or ``auto``.

    Raises
    ------
    UsageError
        For anything else.
    """
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--strength {text}: write a share above 0 and up to 1, or auto") from None


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


def _total(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _value(text: str, sequence: bool) -> Any:
    if sequence and text[:1] not in ("(", "["):
        return tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
    return _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
