"""The command line of drawing, filling and repairing rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anomgen.cli.parameters import (
    UsageError,
    parse_band,
    parse_levels,
    parse_ranges,
    parse_strength,
    parse_sums,
)

# ---------------------------------------------------------------------- options as text


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_band, "rare", "rare"),
        (parse_band, "0.01:.05", (0.01, 0.05)),
        (parse_strength, "auto", "auto"),
        (parse_strength, "0.2", 0.2),
        (parse_ranges, ["age=0:120", "b = -1.5:"], [("age", 0, 120), ("b", -1.5, None)]),
        (parse_ranges, ["day=:2026-10-31"], [("day", None, "2026-10-31")]),
        (parse_levels, ["region=north, south"], [("region", ("north", "south"))]),
    ],
)
def test_texts_are_read(parse: Callable[[Any], Any], text: Any, value: Any) -> None:
    assert parse(text) == value


def test_sums_are_read_each_with_what_it_is_solved_for() -> None:
    assert parse_sums(["total=a, b", "100=c,d"], ["b", "c"]) == [("total", ("a", "b"), "b"), (100.0, ("c", "d"), "c")]
    with pytest.raises(UsageError, match="a --solve each"):
        parse_sums(["total=a,b"], [])


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_band, "0.01:x"),
        (parse_strength, "far"),
        (parse_ranges, ["age"]),
        (parse_ranges, ["age=5"]),
        (parse_ranges, ["age=:"]),
        (parse_ranges, ["t=10:00:11:00"]),
        (parse_levels, ["region"]),
    ],
)
def test_what_cannot_be_read_is_told_with_an_example(parse: Callable[[Any], Any], text: Any) -> None:
    with pytest.raises(UsageError, match=r"such as|or auto"):
        parse(text)
