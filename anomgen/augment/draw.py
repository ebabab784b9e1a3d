"""New rows from a fitted detector: drawn, constrained, filtered by their scores, checked for copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.augment.columns import is_whole
from anomgen.augment.constraints import Constraint
from anomgen.augment.given import known
from anomgen.augment.recipe import BLOCK, Recipe
from anomgen.detector import Detector, fitting
from anomgen.encode import JointEncoder
from anomgen.quality import CopyCheck

Array = NDArray[np.float64]

FIRST = 2048
"""Raw rows of a table drawn at first: as many as small models score at a time."""
COPY, UNCHANGED = "copy of a training row", "no other than the row it is near"
"""What refusals of the copy check, and of rows that did not move, are counted under."""
CREDIT = 10
"""Kept rows that a block is given before its refusals are judged: by chance alone the first ones may take long."""


class Drawn(NamedTuple):
    """Kept rows and what they cost.

    Parameters
    ----------
    rows : frame or array
        Laid out as the training rows were.
    scores : ndarray of float64 or None
        ``score_samples`` of the rows, without their condition; None where no band needed them.
    numbers : ndarray of int64
        Positions of the rows in the endless sequence of kept rows.
    labels : ndarray or None
        Labels that came beside the training rows (``condition="y"``) and that these rows were drawn under.
    tried : int
        Raw rows drawn, up to the last one kept.
    refused : dict of str to int
        How many of them each constraint, the band, or the copy check refused: each row by the first that did.
    copies : int
        Rows equal to a training row among those that passed everything else, refused or kept.
    """

    rows: Any
    scores: Array | None
    numbers: NDArray[np.int64]
    labels: NDArray[Any] | None
    tried: int
    refused: dict[str, int]
    copies: int


def draw(
    detector: Detector,
    n: int,
    *,
    seed: int = 0,
    condition: Any = None,
    band: Any = None,
    constraints: Sequence[Constraint] = (),
    marginals: Literal["data", "model"] = "data",
    near: Any = None,
    strength: Any = "auto",
    keep: Sequence[Any] = (),
    max_tries: int = 100,
    train: Any = None,
    allow_copies: bool = True,
    held_out: Any = None,
) -> Drawn:
    """Draw `n` rows that satisfy everything asked for, in memory.

    Parameters
    ----------
    detector : Detector
        Fitted.
    n : int
        Rows to keep.
    seed, condition, band, constraints, marginals, near, strength, keep, max_tries, allow_copies
        See :class:`Recipe`.
    train, held_out : rows, optional
        Training rows that copies are told by, and others that tell how often rows are equal by chance:
        see :class:`~anomgen.quality.CopyCheck`.

    Returns
    -------
    Drawn

    Raises
    ------
    ValueError
        For what cannot be used, or when too few rows are kept: the message says what refused them.

    Examples
    --------
    >>> from anomgen import MixtureDetector
    >>> from anomgen.augment import Range, draw
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> drawn = draw(MixtureDetector(random_state=0).fit(X), 100, constraints=[Range("x0", 0, None)])
    >>> len(drawn.rows), bool(drawn.rows[:, 0].min() >= 0)
    (100, True)
    """
    if not is_whole(n) or n < 1:
        raise ValueError(f"n={n!r} must be a positive integer")
    detector._absorb()
    names = None if detector.encoder_.container_ == "images" else known(detector)
    check = None if train is None else CopyCheck(train, held_out, columns=names)
    recipe = Recipe(
        detector,
        seed=seed,
        condition=condition,
        band=band,
        constraints=constraints,
        marginals=marginals,
        near=near,
        strength=strength,
        keep=keep,
        max_tries=max_tries,
        check=check,
        allow_copies=allow_copies,
    )
    return _joined(list(draw_chunks(recipe, 0, int(n))))


def draw_chunks(recipe: Recipe, start: int, stop: int, chunk_rows: int | None = None) -> Iterator[Drawn]:
    """Rows `start` to `stop` of the endless sequence of a recipe, at most `chunk_rows`, by default a block, at a time.

    What the rows of a block cost is counted with the first of its rows that is asked for.
    """
    held: tuple[int, Drawn] | None = None
    size, height = recipe.block, chunk_rows or recipe.block
    for first in range(start, stop, height):
        last, parts = min(first + height, stop), []
        for block in range(first // size, -(-last // size)):
            new = held is None or held[0] != block
            if held is None or new:
                held = block, draw_block(recipe, block, min(size, stop - block * size))
            low, high = max(first - block * size, 0), min(last - block * size, size)
            parts.append(_cut(held[1], low, high, counted=new))
        yield _joined(parts)


def draw_block(recipe: Recipe, block: int, rows: int | None = None) -> Drawn:
    """The first `rows` kept rows, by default all, of one block of a recipe.

    Rows are drawn in pieces that grow, and that depend on the recipe and the block alone.

    Raises
    ------
    ValueError
        If fewer than one in `max_tries` raw rows is kept; the message says what refused how many.
    """
    rows = recipe.block if rows is None else rows
    if not 1 <= rows <= recipe.block:
        raise ValueError(f"rows={rows!r} must be from 1 to {recipe.block:,}, the rows of a block")
    parts: list[Drawn] = []
    tried = kept = copies = 0
    while kept < rows:
        piece = _raw(recipe, block, tried, _next_piece(recipe, tried, kept))
        piece.pass_through(recipe, kept, copies)
        parts.append(piece.first(rows - kept, block * recipe.block + kept))
        tried, kept = tried + parts[-1].tried, kept + len(parts[-1].numbers)
        copies += parts[-1].copies - parts[-1].refused.get(COPY, 0)
        if kept < rows and tried >= recipe.max_tries * (kept + CREDIT):
            raise ValueError(_too_few(recipe, block, kept, _joined(parts)))
    return _joined(parts)


class _Piece:
    """Raw rows on their way: those still there, their positions among all of the piece, and what refused others."""

    def __init__(self, rows: Any, labels: NDArray[Any] | None) -> None:
        self.rows, self.labels, self.scores = rows, labels, cast(Array | None, None)
        self.tried = len(rows)
        self.there = np.arange(self.tried)
        self.copies = self.there[:0]
        self.refused: dict[str, NDArray[np.int64]] = {}

    def keep(self, mask: NDArray[np.bool_], name: str) -> None:
        """Let only rows in the mask go on."""
        if mask.all():
            return
        self.refused[name] = np.append(self.refused.get(name, self.there[:0]), self.there[~mask])
        self.rows, self.there = _rows_in(self.rows, mask), self.there[mask]
        self.labels = None if self.labels is None else self.labels[mask]
        self.scores = None if self.scores is None else self.scores[mask]

    def pass_through(self, recipe: Recipe, kept: int, copies: int) -> None:
        """Apply constraints, band and copy check after `kept` rows of the block, `copies` of them copies."""
        for item in recipe.constraints:
            if len(self.there):
                self.rows, mask = item.apply(self.rows)
                self.keep(mask, item.name)
        if recipe.limits is not None and len(self.there):
            self.scores = recipe.detector.score_samples(self.rows)
            self.keep(recipe.limits.keeps(self.scores), recipe.limits.name)
        if recipe.check is not None and len(self.there):
            found = recipe.check.matches(self.rows)
            self.copies = self.there[found]
            if not recipe.allow_copies:
                self.keep(~recipe.check.refuse(found, kept, copies), COPY)

    def first(self, wanted: int, number: int) -> Drawn:
        """The first `wanted` rows, numbered from `number` on, or all there are; and what the raw rows so far cost."""
        n = min(wanted, len(self.there))
        tried = int(self.there[n - 1]) + 1 if n == wanted else self.tried
        return Drawn(
            self.rows[:n],
            None if self.scores is None else self.scores[:n],
            np.arange(number, number + n),
            None if self.labels is None else self.labels[:n],
            tried,
            {name: count for name, at in self.refused.items() if (count := int((at < tried).sum()))},
            int((self.copies < tried).sum()),
        )


def _raw(recipe: Recipe, block: int, start: int, n: int) -> _Piece:
    """Raw rows ``start .. start + n`` of a block."""
    detector: Any = recipe.detector
    seed = (int(recipe.seed), block)
    if recipe.pinned is not None:
        return _Piece(recipe.matched(recipe.pinned.sample(n, seed, start), seed, start), None)
    given = {} if recipe.condition is None else {"condition": recipe.condition}
    encoder, labels = detector.encoder_, None
    if isinstance(encoder, JointEncoder) and encoder.label is not None:
        labels = detector.sample_conditions(n, seed, start=start, **given)[encoder.label].to_numpy()
    if recipe.nearby is None:
        return _Piece(recipe.matched(detector.sample(n, seed, start=start, **given), seed, start), labels)
    rows, sources = recipe.nearby.sample(n, seed, start)
    piece = _Piece(rows, labels)
    piece.keep(~recipe.nearby.same(rows, sources), UNCHANGED)
    return piece


def _next_piece(recipe: Recipe, tried: int, kept: int) -> int:
    """Raw rows to draw next: as many as so far while a block begins, then what its rest will take."""
    size, tile = recipe.block, fitting.drawing_height(recipe.detector.model_)
    least = max(tile, FIRST) if size == BLOCK else tile
    rest = size - tried if tried < size else int(1.05 * (size - kept) * tried / max(kept, 1))
    return min(-(-rest // tile) * tile, max(tried, least), size)


def _too_few(recipe: Recipe, block: int, kept: int, drawn: Drawn) -> str:
    """Why the rows of a block are too few, and what to change."""
    causes = sorted(drawn.refused.items(), key=lambda cause: -cause[1])
    told = "; ".join(f"{name}: {count / drawn.tried:.2%}" for name, count in causes)
    remedy = (
        "Loosen the first of these"
        if causes[0][0] != COPY
        else (
            "Where rows are equal by chance, give held_out=, which tells how many copies are none, or set allow_copies"
        )
    )
    return (
        f"only {kept:,} of {drawn.tried:,} drawn rows were kept in block {block}, fewer than one in "
        f"max_tries={recipe.max_tries}. Refused by {told}. {remedy}, or raise max_tries"
    )


def _rows_in(rows: Any, mask: NDArray[np.bool_]) -> Any:
    return rows[mask].reset_index(drop=True) if isinstance(rows, pd.DataFrame) else rows[mask]


def _cut(drawn: Drawn, low: int, high: int, counted: bool) -> Drawn:
    """Rows `low` to `high` of those of a block, with what the block cost or none of it."""
    cost: tuple[int, dict[str, int], int] = (drawn.tried, drawn.refused, drawn.copies) if counted else (0, {}, 0)
    scores, labels = (None if part is None else part[low:high] for part in (drawn.scores, drawn.labels))
    return Drawn(drawn.rows[low:high], scores, drawn.numbers[low:high], labels, *cost)


def _joined(parts: Sequence[Drawn]) -> Drawn:
    """Rows one after the other, and what they cost together."""
    refused: dict[str, int] = {}
    for part in parts:
        for name, count in part.refused.items():
            refused[name] = refused.get(name, 0) + count
    some = [part for part in parts if len(part.numbers)] or parts[:1]

    def joined(index: int) -> Any:
        each: list[Any] = [part[index] for part in some]
        if each[0] is None:
            return None
        if isinstance(each[0], pd.DataFrame):
            return pd.concat(each, ignore_index=True) if len(each) > 1 else each[0].reset_index(drop=True)
        return np.concatenate(each) if len(each) > 1 else each[0]

    tried, copies = sum(part.tried for part in parts), sum(part.copies for part in parts)
    return Drawn(joined(0), joined(1), joined(2), joined(3), tried, refused, copies)
