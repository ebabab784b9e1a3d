"""Tables as numbers that can be compared: decided once, by the real rows, for all tables of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.encode.frame import to_frame
from anomgen.quality.hashes import MISSING, Hashes, Words, columns_of, pieces

Array = NDArray[np.float64]

FLAG = 2
"""Distinct values up to which a number is a level and not a quantity."""
MAX_LEVELS = 250
"""Levels told apart, the most frequent; the rarer ones are one, and so are those that no real row has."""


@dataclass(frozen=True)
class Column:
    """A column as the real rows have it.

    Parameters
    ----------
    name : str
    kind : str or None
        ``"number"``, ``"time"``, ``"text"``; None where no real row has a value.
    levels : ndarray of uint64 or None
        Words of the levels told apart; None for numbers and times.
    rarer : ndarray of uint64
        Words of the levels that are one.
    whole : bool
        Whether all values are whole numbers.
    """

    name: str
    kind: str | None
    levels: Hashes | None
    rarer: Hashes
    whole: bool

    @classmethod
    def of(cls, found: Words) -> Column:
        """Decide by the real values of a column."""
        words, times = np.unique(found.words[found.words != MISSING], return_counts=True)
        numbers = words.view(np.float64)
        whole = found.kind == "number" and bool((numbers == np.rint(numbers)).all())
        if found.kind in ("number", "time") and len(words) > FLAG:
            return cls(found.name, found.kind, None, words[:0], whole)
        ordered = words[np.argsort(-times, kind="stable")]
        return cls(found.name, found.kind, np.sort(ordered[:MAX_LEVELS]), np.sort(ordered[MAX_LEVELS:]), whole)

    def read(self, found: Words) -> Array:
        """Numbers, or positions of levels; NaN where missing."""
        if None not in (found.kind, self.kind) and found.kind != self.kind:
            raise ValueError(
                f"column {self.name!r} holds {found.kind} in one table and {self.kind} in another; "
                "read both with the same types"
            )
        missing = found.words == MISSING
        if found.kind == "number" and np.isinf(found.words.view(np.float64)).any():
            raise ValueError(f"column {self.name!r} holds infinite values; replace them by numbers or missing values")
        if self.levels is None:
            values = found.words.view(np.int64 if self.kind == "time" else np.float64).astype(np.float64)
        else:
            k = len(self.levels)
            values = np.full(len(missing), k + 1.0)
            values[np.isin(found.words, self.rarer)] = k
            if k:
                place = np.minimum(np.searchsorted(self.levels, found.words), k - 1)
                known = self.levels[place] == found.words
                values[known] = place[known]
        values[missing] = np.nan
        return values

    @property
    def size(self) -> int:
        """Positions of levels, those of rarer and of unseen ones included; 0 for numbers."""
        return 0 if self.levels is None else len(self.levels) + 2


@dataclass(frozen=True)
class Layout:
    """The columns that all tables of a comparison have in common, in the order of the first real one.

    Parameters
    ----------
    columns : tuple of Column
    """

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, *real: Any, others: Sequence[Any] = ()) -> Layout:
        """Decide by `real` tables on the columns that the `others` have too.

        Raises
        ------
        ValueError
            If there is no common column, or one holds another kind of value in another table.
        """
        read = [columns_of(table) for table in real]
        names = [{column.name for column in columns_of(table)} for table in (*real, *others)]
        common = [column.name for column in read[0] if all(column.name in some for some in names)]
        if not common:
            raise ValueError(f"no column is in all tables; the first has {', '.join(sorted(names[0])[:10])}")
        named = [{column.name: column for column in one} for one in read]
        return cls(tuple(Column.of(_joined([one[name] for one in named])) for name in common))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def discrete(self) -> NDArray[np.bool_]:
        """Which columns hold levels."""
        return np.array([column.levels is not None for column in self.columns])

    def read(self, table: Any) -> Array:
        """Numbers and positions of levels, shape ``(n, columns)``; NaN where missing."""
        found = columns_of(table, self.names)
        return np.column_stack([column.read(words) for column, words in zip(self.columns, found, strict=True)])


def some(rows: Any, most: int, seed: int = 0) -> Any:
    """At most so many rows of a table, or images, chosen at random: the same ones in whatever pieces they come."""
    rng = np.random.default_rng([seed, 0x9A11])
    kept: list[Any] = []
    ranks = np.zeros(0)
    for piece in pieces(rows):
        table = to_frame(piece)
        part = table if table is not None else np.asarray(piece)
        new = rng.random(len(part))
        ranks = np.concatenate([ranks, new])
        kept.append(part)
        if len(ranks) > 2 * most:
            kept, ranks = _fewer(kept, ranks, most)
    if not len(ranks):
        raise ValueError("there are no rows to compare")
    return _fewer(kept, ranks, most)[0][0]


def size_of(rows: Any) -> int | None:
    """How many rows there are, where that is known without reading them."""
    told = getattr(rows, "rows", None)
    return len(rows) if hasattr(rows, "__len__") else told if isinstance(told, int) else None


def _fewer(parts: list[Any], ranks: Array, most: int) -> tuple[list[Any], Array]:
    """The rows of the lowest ranks, in their order."""
    chosen = np.sort(np.argpartition(ranks, most - 1)[:most]) if len(ranks) > most else np.arange(len(ranks))
    if isinstance(parts[0], pd.DataFrame):
        whole: Any = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
        return [whole.iloc[chosen].reset_index(drop=True)], ranks[chosen]
    return [np.concatenate(parts)[chosen]], ranks[chosen]


def _joined(parts: list[Words]) -> Words:
    kinds = {part.kind for part in parts} - {None}
    if len(kinds) > 1:
        raise ValueError(
            f"column {parts[0].name!r} holds {' and '.join(sorted(map(str, kinds)))} in different tables; "
            "read all with the same types"
        )
    return Words(parts[0].name, next(iter(kinds), None), np.concatenate([part.words for part in parts]))
