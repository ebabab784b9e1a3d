"""What every drawn row has to satisfy, and how rows are made to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.columns import Columns, numbers_of, stored, wanted_level, wanted_number
from anomgen.encode.frame import Name

Mask = NDArray[np.bool_]


class Constraint:
    """Base of constraints: immutable, applied to rows laid out as the training rows were.

    A missing value is neither in a range nor among levels, and neither refuses a row; use :class:`Where` to ask for
    values that are there.
    """

    stage: ClassVar[int] = 2
    """Whether it rounds (0), solves (1) or only looks (2): constraints are applied in this order."""

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        raise NotImplementedError(f"{type(self).__name__} must define name")

    def settled(self, columns: Columns) -> Self:
        """The constraint with what it takes from the training rows filled in.

        Raises
        ------
        ValueError
            If a column does not exist, or is not of a kind that can be constrained like this.
        """
        return self

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows, changed where the constraint changes them, and which of them it keeps."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(rows)")

    def describe(self) -> dict[str, Any]:
        """The constraint as JSON values."""
        raise NotImplementedError(f"{type(self).__name__} must define describe()")


@dataclass(frozen=True)
class Range(Constraint):
    """Values of a number or date column within bounds.

    Parameters
    ----------
    column : str or int
        A name; for arrays ``"x0"``, ``"x1"`` ... or a position.
    low, high : number, date or None
        Bounds, both allowed; None for no bound. Dates may be text, such as ``"2026-01-31"``.
    """

    column: Name
    low: Any = None
    high: Any = None

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        return f"range {self.column}={_shown(self.low)}:{_shown(self.high)}"

    def settled(self, columns: Columns) -> Self:
        """The same, with the column's own name."""
        column = columns.find(self.column, "number", "datetime", "duration")
        low, high = (wanted_number(bound, columns.dtypes[column], column) for bound in (self.low, self.high))
        if low is None and high is None:
            raise ValueError(f"the range of column {column!r} has no bound; give low or high")
        if low is not None and high is not None and low > high:
            raise ValueError(f"the range of column {column!r} is empty: {self.low!r} is above {self.high!r}")
        return replace(self, column=column)

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows as they are, and which of them lie within the bounds."""
        values, dtype = numbers_of(rows, self.column)
        keep = np.ones(len(values), dtype=bool)
        if np.isnan(values).all():
            return rows, keep
        low, high = (wanted_number(bound, dtype, self.column) for bound in (self.low, self.high))
        if low is not None:
            keep &= ~(values < low)
        if high is not None:
            keep &= ~(values > high)
        return rows, keep

    def describe(self) -> dict[str, Any]:
        """The range as JSON values."""
        return {"constraint": "range", "column": self.column, "low": _plain(self.low), "high": _plain(self.high)}


@dataclass(frozen=True)
class Integer(Constraint):
    """Whole numbers only: values are rounded to the nearest, halves to the even one, before anything else is looked at.

    Parameters
    ----------
    column : str or int
        A column of numbers.
    """

    stage: ClassVar[int] = 0

    column: Name

    @property
    def name(self) -> str:
        """What refusals are counted under; there are none."""
        return f"integer {self.column}"

    def settled(self, columns: Columns) -> Self:
        """The same, with the column's own name."""
        return replace(self, column=columns.find(self.column, "number"))

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows with the column rounded, all kept."""
        values, _ = numbers_of(rows, self.column)
        return stored(rows, self.column, np.rint(values)), np.ones(len(values), dtype=bool)

    def describe(self) -> dict[str, Any]:
        """The constraint as JSON values."""
        return {"constraint": "integer", "column": self.column, "how": "rounded to the nearest whole number"}


@dataclass(frozen=True)
class Levels(Constraint):
    """Only some of a column's levels.

    Parameters
    ----------
    column : str or int
    levels : sequence
        Those allowed; every one of them was in training.
    """

    column: Name
    levels: Sequence[Any]

    def __post_init__(self) -> None:
        """Take any sequence but text."""
        if isinstance(self.levels, str):
            raise ValueError(f"levels={self.levels!r} of column {self.column!r} must be a sequence of levels")
        object.__setattr__(self, "levels", tuple(self.levels))

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        return f"levels {self.column}={','.join(map(str, self.levels))}"

    def settled(self, columns: Columns) -> Self:
        """The same, with the column's own name and levels of its own type."""
        column = columns.find(self.column)
        if not self.levels:
            raise ValueError(f"no level of column {column!r} is allowed; name at least one")
        known, role = columns.known[column], columns.role(column)
        return replace(self, column=column, levels=tuple(wanted_level(level, role, known) for level in self.levels))

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows as they are, and which of them have an allowed level."""
        series: Any = (
            rows[self.column] if isinstance(rows, pd.DataFrame) else pd.Series(numbers_of(rows, self.column)[0])
        )
        return rows, (series.isin(list(self.levels)) | series.isna()).to_numpy(dtype=bool)

    def describe(self) -> dict[str, Any]:
        """The constraint as JSON values."""
        return {"constraint": "levels", "column": self.column, "levels": [_plain(level) for level in self.levels]}


@dataclass(frozen=True)
class Sum(Constraint):
    """Parts that add up to a total: one named column is solved for, and has to come out within its range.

    Parameters
    ----------
    total : str, int or float
        The column that is the sum, or a number (a float, so that it is no position).
    parts : sequence of column
        The columns that are added.
    solve : column
        The one of them, or the total, that is computed from the others; what was drawn for it is dropped.
    low, high : float or None
        Bounds of the column solved for; by default the range it had in training.

    Notes
    -----
    Rows in which one of the others is missing are refused. Columns that are rounded by :class:`Integer` are so before.
    """

    stage: ClassVar[int] = 1

    total: Any
    parts: Sequence[Name]
    solve: Name
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Take any sequence of columns."""
        if isinstance(self.parts, str):
            raise ValueError(f"parts={self.parts!r} of the sum {self.total!r} must be a sequence of columns")
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        return f"sum {self.total}={'+'.join(map(str, self.parts))}, range of {self.solve}"

    @property
    def inputs(self) -> tuple[Name, ...]:
        """The columns that it is computed from."""
        named = self.parts if isinstance(self.total, float) else (self.total, *self.parts)
        return tuple(column for column in named if column != self.solve)

    def settled(self, columns: Columns) -> Self:
        """The same, with the columns' own names, and the training range where no bounds are given."""
        parts = tuple(columns.find(part, "number") for part in self.parts)
        total = float(self.total) if isinstance(self.total, float) else columns.find(self.total, "number")
        solve = columns.find(self.solve, "number")
        named = [*parts, *([] if isinstance(total, float) else [total])]
        if not parts or len(set(named)) < len(named):
            raise ValueError(f"the sum {total!r} = {list(parts)} needs parts, and no column twice")
        if solve not in named:
            raise ValueError(f"the sum cannot be solved for {solve!r}, which is not in it; choose from {named}")
        least, most = columns.range(solve)
        low, high = (least if self.low is None else self.low), (most if self.high is None else self.high)
        if low > high:
            raise ValueError(f"the range of column {solve!r}, which the sum is solved for, is empty: {low} to {high}")
        return replace(self, total=total, parts=parts, solve=solve, low=low, high=high)

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows with the column solved for, and which of them it came out well in."""
        total: Any = self.total if isinstance(self.total, float) else numbers_of(rows, self.total)[0]
        values = {part: numbers_of(rows, part)[0] for part in self.parts}
        others = sum((v for part, v in values.items() if part != self.solve), np.zeros(len(rows)))
        solved = others if self.solve not in self.parts else total - others
        keep = ~np.isnan(solved)
        if self.low is not None:
            keep &= ~(solved < self.low)
        if self.high is not None:
            keep &= ~(solved > self.high)
        return stored(rows, self.solve, solved), keep

    def describe(self) -> dict[str, Any]:
        """The constraint as JSON values."""
        told = {"constraint": "sum", "total": self.total, "parts": list(self.parts), "solve": self.solve}
        return told | {"low": _plain(self.low), "high": _plain(self.high)}


@dataclass(frozen=True)
class Where(Constraint):
    """Rows for which a condition of the user's is true.

    Parameters
    ----------
    predicate : callable or str
        Takes some of the rows, as the detector's `sample` gives them, and returns one boolean a row, which must follow
        from that row alone; or an expression of columns, such as ``"amount < balance"``, which pandas evaluates (for
        arrays of ``x0``, ``x1`` ...). What is missing counts as false. Images take callables only.
    label : str, optional
        What refusals are counted under; by default the expression, or the callable's name. An export that goes on tells
        callables by their names alone: give one that changes another name.
    """

    predicate: Callable[[Any], Any] | str
    label: str | None = None

    @property
    def name(self) -> str:
        """What refusals are counted under."""
        return self.label or f"where {self._text()}"

    def apply(self, rows: Any) -> tuple[Any, Mask]:
        """The rows as they are, and those for which the predicate is true."""
        found: Any = self.predicate(rows) if callable(self.predicate) else self._evaluated(rows)
        if isinstance(found, pd.Series) and found.dtype != bool:
            told = found.dropna().map(lambda value: isinstance(value, bool | np.bool_))
            found = found.to_numpy(dtype=object, na_value=False).astype(bool) if told.all() else found
        mask = np.asarray(found)
        if mask.shape != (len(rows),) or mask.dtype != bool:
            raise ValueError(
                f"{self.name} gave {mask.dtype} of shape {mask.shape} for {len(rows)} rows, not one boolean a row"
            )
        return rows, mask

    def describe(self) -> dict[str, Any]:
        """The constraint as JSON values: of a callable only its name."""
        return {"constraint": "where", "predicate": self._text(), "name": self.name}

    def _text(self) -> str:
        if isinstance(self.predicate, str):
            return self.predicate
        return str(getattr(self.predicate, "__qualname__", type(self.predicate).__name__))

    def _evaluated(self, rows: Any) -> Any:
        if np.ndim(rows) != 2:
            raise ValueError(f"{self.name}: images have no columns to name; give a callable that takes images")
        frame = rows
        if not isinstance(rows, pd.DataFrame):
            frame = pd.DataFrame(rows, columns=[f"x{j}" for j in range(rows.shape[1])])
        try:
            return frame.eval(self.predicate, engine="python", local_dict={}, global_dict={})
        except Exception as error:
            columns = list(frame.columns[:10])
            raise ValueError(f"{self.name} cannot be evaluated: {error}; columns are {columns}") from error


def settle(constraints: Sequence[Constraint], detector: Any) -> tuple[Constraint, ...]:
    """Constraints checked against a fitted detector, in the order they are applied in: round, solve, look.

    Raises
    ------
    ValueError
        For what is not a constraint, a column that does not exist, or constraints of which one undoes another.
    """
    given: Any = constraints
    if isinstance(given, Constraint):
        raise ValueError("constraints= must be a sequence, not one of them alone: put it into a list")
    wrong = [item for item in given if not isinstance(item, Constraint)]
    if wrong:
        raise ValueError(f"constraints= holds {wrong[0]!r}, which is not a Range, Integer, Levels, Sum or Where")
    columns = Columns(detector)
    done = sorted((item.settled(columns) for item in constraints), key=lambda item: item.stage)
    _check_sums([item for item in done if isinstance(item, Sum)], {i.column for i in done if isinstance(i, Integer)})
    return tuple(done)


def _check_sums(sums: Sequence[Sum], whole: set[Name]) -> None:
    """No sum may change what another one, or the rounding, has settled."""
    fixed: set[Name] = set()
    for item in sums:
        if item.solve in fixed:
            raise ValueError(
                f"two sums cannot both hold: {item.name} changes {item.solve!r}, which an earlier one uses; give it "
                "first, or solve for another column"
            )
        fixed |= {item.solve, *item.inputs}
        even = not isinstance(item.total, float) or item.total.is_integer()
        if item.solve in whole and not (even and set(item.inputs) <= whole):
            raise ValueError(
                f"column {item.solve!r} is to be whole, but is solved for in {item.name}; make all its other columns "
                "whole instead"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
