"""Which rows are exact copies of training rows, and how many of them are to be expected anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.encode.image import as_array
from anomgen.quality.hashes import Hashes, Words, columns_of, holds_images, image_hashes, pieces, row_hashes

Mask = NDArray[np.bool_]

JUDGED = 65_536
"""Training rows, the first, by which a table is told to be discrete or not."""
ONCE = 0.5
"""Share of values seen once above which a column of fractions or times is continuous: its values do not repeat."""


class CopyCheck:
    """Tell rows that are exact copies of training rows.

    Rows are compared by hashes of 64 bits of the values in their columns, by name: 1, 1.0 and a category of 1 are
    equal, and so are a text and a category of it, or one moment in two units. Numbers are compared in double precision:
    0.1 in single precision is another number. Images are compared pixel by pixel.

    This is a check for copies. It does not show that nothing about single training rows can be inferred from others.

    Parameters
    ----------
    train : frame, array, images, source, or iterator of such pieces
        The training rows; an iterator, or whatever has ``chunks()``, is read piece by piece.
    held_out : likewise, optional
        Rows of the same kind that the model was not fitted to. On a discrete table, where rows repeat by chance, exact
        matches count only beyond the rate at which these match.
    columns : sequence of str, optional
        The columns to compare: those that drawn rows have, where `train` has more. All of `train` by default. The
        columns of an array are ``x0``, ``x1`` ...

    Attributes
    ----------
    allowed : float
        Share of matching rows that is no evidence of copying: the match rate of the held-out rows. 0 without them, and
        for tables with a continuous column, where no two rows are equal by chance.
    digest : str
        The sha256 of the training rows, whatever their order and the pieces they came in.
    rows : int
        Training rows.
    discrete : bool
        Whether no column is continuous.

    Raises
    ------
    ValueError
        If there are no rows, a column is missing or holds another kind of value than in training, or if the held-out
        rows are the training rows.

    Examples
    --------
    >>> import numpy as np
    >>> CopyCheck(np.array([[1.0, 2.0], [3.0, 4.0]])).matches(np.array([[3, 4], [4, 3]]))
    array([ True, False])
    """

    def __init__(self, train: Any, held_out: Any = None, *, columns: Sequence[Any] | None = None) -> None:
        self._columns = None if columns is None else tuple(map(str, columns))
        self._kinds: dict[str, str] = {}
        self._shape: tuple[int, ...] | None = None
        parts, judged, self.rows = [np.zeros(0, dtype=np.uint64)], _Judge(), 0
        for piece in pieces(train):
            parts.append(self._hashes(piece, judged))
            self.rows += len(parts[-1])
        if not self.rows:
            raise ValueError("there are no training rows to check copies against")
        hashes = np.sort(np.concatenate(parts))
        self.digest = _digest(hashes, self._columns)
        self._known = hashes[np.append(True, hashes[1:] != hashes[:-1])]
        self.discrete = not judged.continuous()
        self._met, self._of = (0, 1) if held_out is None else self._rate(held_out)
        self.allowed = self._met / self._of

    def matches(self, rows: Any) -> Mask:
        """Which rows are equal to a training row in all compared columns; others may have more columns.

        Raises
        ------
        ValueError
            If a compared column is missing or holds another kind of value than in training, or images another shape.
        """
        return self._among(self._hashes(rows))

    def refuse(self, matches: Mask, kept_before: int, copies_before: int) -> Mask:
        r"""Which of consecutive rows are refused as copies.

        A match is kept as long as matches are no more than the allowed share of all rows kept so far, and refused
        otherwise: row by row, so that cutting rows into pieces changes nothing.

        Parameters
        ----------
        matches : ndarray of bool
            What :meth:`matches` says of the rows, in order.
        kept_before, copies_before : int
            Rows kept before them, and how many of these were matches.

        Returns
        -------
        ndarray of bool
        """
        refused = np.zeros(len(matches), dtype=bool)
        if self._met == self._of or not matches.any():
            return refused
        if not self._met:
            return matches.copy()
        others = kept_before - copies_before + np.cumsum(~matches)[matches]
        # With m of n held-out rows matching, c copies beside N other rows are allowed if c / (c + N) <= m / n.
        most = np.maximum(self._met * others // (self._of - self._met), copies_before)
        number = np.arange(1, len(most) + 1)
        kept = number + np.minimum(copies_before, np.minimum.accumulate(most - number))
        refused[matches] = np.diff(kept, prepend=copies_before) == 0
        return refused

    def _among(self, hashes: Hashes) -> Mask:
        place = np.searchsorted(self._known, hashes)
        return np.asarray(self._known[np.minimum(place, len(self._known) - 1)] == hashes)

    def _rate(self, held_out: Any) -> tuple[int, int]:
        """Held-out rows that match, and all; none count as matching in a table where matches are no chance."""
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *(self._hashes(piece) for piece in pieces(held_out))])
        if not len(hashes):
            raise ValueError("there are no held-out rows; leave held_out= out if there are none")
        if _digest(np.sort(hashes), self._columns) == self.digest:
            raise ValueError("the held-out rows are the training rows; give rows that the model was not fitted to")
        return (int(self._among(hashes).sum()), len(hashes)) if self.discrete else (0, len(hashes))

    def _hashes(self, piece: Any, judge: _Judge | None = None) -> Hashes:
        if holds_images(piece):
            images = as_array(piece)
            self._same_shape(images.shape[1:])
            return image_hashes(images)
        if self._shape is not None:
            raise ValueError(f"the rows are a table, but training rows are images of shape {self._shape}")
        found = columns_of(piece, self._columns)
        if self._columns is None:
            self._columns = tuple(column.name for column in found)
        for column in found:
            self._same_kind(column)
        if judge is not None:
            judge.add(found)
        return row_hashes(found)

    def _same_shape(self, shape: tuple[int, ...]) -> None:
        if self._kinds:
            raise ValueError(f"the rows are images of shape {shape}, but training rows are a table")
        self._shape = self._shape or shape
        if shape != self._shape:
            raise ValueError(f"images have shape {shape}, training images {self._shape}; bring them to one shape")

    def _same_kind(self, column: Words) -> None:
        if column.kind is not None and self._kinds.setdefault(column.name, column.kind) != column.kind:
            raise ValueError(
                f"column {column.name!r} holds {column.kind} where it held {self._kinds[column.name]} before, so that "
                "no row could be equal; read both with the same types"
            )


class _Judge:
    """Whether a table has a column whose values do not repeat, by its first rows."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str | None, list[Hashes]]] = {}
        self.rows = 0

    def add(self, columns: list[Words]) -> None:
        if self.rows >= JUDGED or not columns:
            return
        for column in columns:
            kind, parts = self.seen.get(column.name, (None, []))
            self.seen[column.name] = (kind or column.kind, [*parts, column.words[: JUDGED - self.rows]])
        self.rows += len(columns[0].words)

    def continuous(self) -> bool:
        return any(_repeats_not(kind, np.concatenate(parts)) for kind, parts in self.seen.values())


def _repeats_not(kind: str | None, words: Hashes) -> bool:
    if kind not in ("number", "time"):
        return False
    numbers = words.view(np.float64)
    if kind == "number" and not (np.isfinite(numbers) & (numbers != np.floor(numbers))).any():
        return False
    times = np.unique(words, return_counts=True)[1]
    return bool(np.count_nonzero(times == 1) > ONCE * len(words))


def _digest(hashes: Hashes, columns: tuple[str, ...] | None) -> str:
    names = "\0".join(sorted(columns or ()))
    return hashlib.sha256(names.encode() + b"\0\0" + np.ascontiguousarray(hashes).tobytes()).hexdigest()
