"""Checks of the parameters that families share: each error names the parameter, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse anything but one of `allowed`.

    Raises
    ------
    ValueError
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not valid; choose one of {', '.join(map(repr, allowed))}")


def check_counts(least: int = 1, **values: object) -> None:
    """Refuse anything but integers of at least `least`.

    Raises
    ------
    ValueError
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r} is not valid; give an integer of at least {least}")


def check_number(name: str, value: object, low: float, high: float = float("inf")) -> None:
    """Refuse anything but a number in ``[low, high]``.

    Raises
    ------
    ValueError
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        upper = f" and at most {high:g}" if high < float("inf") else ""
        raise ValueError(f"{name}={value!r} is not valid; give a number of at least {low:g}{upper}")


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True and False.

    Raises
    ------
    ValueError
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not valid; give True or False")


def check_widths(hidden: object, name: str = "hidden") -> None:
    """Refuse anything but one or more positive integers.

    Raises
    ------
    ValueError
    """
    widths = list(hidden) if isinstance(hidden, Iterable) and not isinstance(hidden, str) else []
    if not widths or any(isinstance(w, bool) or not isinstance(w, Integral) or w < 1 for w in widths):
        raise ValueError(f"{name}={hidden!r} is not valid; give one or more positive integers, such as (128, 128)")
