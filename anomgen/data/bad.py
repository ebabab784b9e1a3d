"""A row, or a whole file, that cannot be used, and why."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN = 200
"""Characters of a value that are kept."""


@dataclass(frozen=True)
class Bad:
    """What is wrong with a row.

    Parameters
    ----------
    row : int
        Its number in its file, from 0; -1 where it is the file that cannot be read, or not further.
    column : str
        Empty where it is the whole row.
    reason : str
    value : str
        What was found there, at most 200 characters of it.
    """

    row: int
    column: str
    reason: str
    value: str = ""

    def __post_init__(self) -> None:
        # Half a character, which JSON can write and UTF-8 cannot, is shown by its number.
        shown = self.value[:SHOWN].encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "value", shown[:SHOWN])

    def __str__(self) -> str:
        where = [f"row {self.row:,}"] if self.row >= 0 else []
        where += [f"column {self.column!r}"] if self.column else []
        shown = f" ({self.value!r})" if self.value else ""
        return f"{', '.join(where)}: {self.reason}{shown}" if where else f"{self.reason}{shown}"
