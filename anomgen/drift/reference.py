"""What training rows looked like, and how far new ones are from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.drift.cells import KINDS, Array, Cells, Counts, Shift
from anomgen.encode import ImageEncoder, JointEncoder, Labelled, TableEncoder, image_encoder
from anomgen.encode.frame import to_frame
from anomgen.encode.image import as_array

Encoder = TableEncoder | ImageEncoder | JointEncoder
State = dict[str, Any]

MAX_ROWS = 200_000
"""Training rows that the reference is made of, at most."""
MAX_IMAGES = 4_096
"""The same of images, which have to be decoded."""
PIECE = 65_536
"""Rows of a table read at a time."""
IMAGES = 256
"""Images read at a time."""
PARTS = ("edges", "places", "counts")


@dataclass(frozen=True)
class Drift:
    """How far rows have moved from the training rows.

    Parameters
    ----------
    rows : int
        New rows.
    reference_rows : int
        Training rows that they are compared with.
    columns : tuple of Shift
        One for every column of a table that is modelled; of images, their brightness and their contrast.
    score : Shift or None
        Of the score, against that of rows that did not train. None where no row was scored, or where training had no
        such rows.
    """

    rows: int
    reference_rows: int
    columns: tuple[Shift, ...]
    score: Shift | None

    @property
    def worst(self) -> Shift:
        """The column that has moved farthest beyond what is expected."""
        return max(self.columns, key=lambda shift: shift.excess)

    def above(self, limit: float) -> tuple[Shift, ...]:
        """What has moved by more than `limit`, the score included, the farthest first.

        The index is counted less its expectation where nothing has moved, and only where it is `significant`, so that
        a short file does not alarm.
        """
        if not limit >= 0:
            raise ValueError(f"limit={limit!r} of the population stability index must be a number of at least 0")
        every = (*self.columns, *([] if self.score is None else [self.score]))
        found = [shift for shift in every if shift.significant and shift.excess > limit]
        return tuple(sorted(found, key=lambda shift: -shift.excess))

    def exceeds(self, limit: float) -> bool:
        """Whether any column or the score is :meth:`above` `limit`."""
        return bool(self.above(limit))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""

        def values(shift: Shift) -> dict[str, Any]:
            return {"psi": shift.psi, "expected": shift.expected, "ks": shift.ks, "significant": shift.significant}

        return {
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "worst": self.worst.name,
            "score": None if self.score is None else values(self.score),
            "columns": {shift.name: values(shift) for shift in self.columns},
        }


@dataclass(frozen=True)
class Reference:
    """What the training rows looked like, column by column, and the scores of rows like them.

    Parameters
    ----------
    encoder : TableEncoder, ImageEncoder or JointEncoder
        The fitted one, which reads rows.
    columns : tuple of Cells
    score : Cells, optional

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(5000, 2))
    >>> reference = Reference.of(TableEncoder().fit(X), X)
    >>> counter = reference.counter()
    >>> counter.add(X[:1000] + [0.0, 1.0])
    >>> drift = reference.report(counter.state())
    >>> drift.worst.name, drift.exceeds(0.25)
    ('1', True)
    """

    encoder: Encoder
    columns: tuple[Cells, ...]
    score: Cells | None = None

    @classmethod
    def of(cls, encoder: Encoder, rows: Any, weight: Array | None = None) -> Reference:
        """Decide on the cells of every column from training rows, and count these.

        Parameters
        ----------
        encoder : TableEncoder, ImageEncoder or JointEncoder
            One fitted on such rows.
        rows : frame, array or images
            At most 200,000 rows are used, or 4,096 images, evenly spread.
        weight : ndarray of shape (n,), optional
            Rows are then taken as often as they weigh.
        """
        picked = _picked(len(rows), MAX_ROWS if image_encoder(encoder) is None else MAX_IMAGES, weight)
        values = np.concatenate(list(_read(encoder, rows, picked)))
        columns = (
            Cells.of(name, np.ascontiguousarray(values[:, j]), levels)
            for j, (name, levels) in enumerate(_names(encoder))
        )
        return cls(encoder, tuple(columns))

    def with_scores(self, scores: Array | None) -> Reference:
        """The reference with the scores of rows that did not train; with None, without any."""
        return replace(self, score=None if scores is None else Cells.of("score", np.asarray(scores, np.float64)))

    def extended(self, rows: Any) -> Reference:
        """The reference with further training rows, in the cells that it has; the scores stay."""
        counter = self.counter()
        counter.add(rows)
        both = zip(self.columns, counter.columns, strict=True)
        return replace(self, columns=tuple(replace(cells, counts=cells.counts + more) for cells, more in both))

    def counter(self) -> Counter:
        """A counter of new rows."""
        return Counter(self)

    def report(self, state: Mapping[str, Any]) -> Drift:
        """Compare the rows that a counter has seen with the training rows.

        Parameters
        ----------
        state : mapping
            What :meth:`Counter.state` or :meth:`Counter.merge` gave.

        Raises
        ------
        ValueError
            If it was counted for another model.
        """
        scored = [self.score] if self.score is not None and any(state["score"]) else []
        # Where every part of a job was empty there may be no counts at all.
        columns = state["columns"] or [[0] * len(cells.counts) for cells in self.columns]
        every, found = [*self.columns, *scored], [*columns, *([state["score"]] if scored else [])]
        if [len(cells.counts) for cells in every] != [len(counts) for counts in found]:
            raise ValueError("these rows were counted for another model; count them again with a counter of this one")
        shifts = [
            cells.shift(np.array(counts, dtype=np.int64), len(every))
            for cells, counts in zip(every, found, strict=True)
        ]
        score = shifts.pop() if scored else None
        return Drift(int(state["rows"]), int(self.columns[0].counts.sum()), tuple(shifts), score)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The reference as arrays; the names of columns are the encoder's."""
        every = [*self.columns, *([] if self.score is None else [self.score])]
        arrays: dict[str, NDArray[Any]] = {"kinds": np.array([KINDS.index(cells.kind) for cells in every])}
        for name in PARTS:
            parts = [getattr(cells, name) for cells in every]
            arrays[name] = np.concatenate(parts)
            arrays[f"{name}_sizes"] = np.array([len(part) for part in parts])
        return arrays

    @classmethod
    def from_arrays(cls, encoder: Encoder, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """The inverse of :meth:`arrays`."""
        names = [*(name for name, _ in _names(encoder)), "score"]
        kinds = [KINDS[kind] for kind in arrays["kinds"].tolist()]
        parts = [np.split(arrays[name], np.cumsum(arrays[f"{name}_sizes"])[:-1]) for name in PARTS]
        every = [Cells(*fields) for fields in zip(names, kinds, *parts, strict=False)]
        width = len(names) - 1
        return cls(encoder, tuple(every[:width]), every[width] if len(every) > width else None)


class Counter:
    """Counts rows in the cells of a reference, whatever their order and however they are cut.

    Parameters
    ----------
    reference : Reference
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.rows = 0
        self.columns = [np.zeros_like(cells.counts) for cells in reference.columns]
        self.score = np.zeros(0 if reference.score is None else len(reference.score.counts), dtype=np.int64)

    def add(self, rows: Any, scores: Array | None = None) -> None:
        """Count rows, and their scores.

        Parameters
        ----------
        rows : frame, array or images
            As the detector scores them.
        scores : ndarray of shape (n,), optional
        """
        for values in _read(self.reference.encoder, rows):
            self.rows += len(values)
            for j, cells in enumerate(self.reference.columns):
                self.columns[j] += cells.count(np.ascontiguousarray(values[:, j]))
        if scores is not None and self.reference.score is not None:
            self.score += self.reference.score.count(np.asarray(scores, dtype=np.float64))

    def state(self) -> State:
        """The counts as JSON values: whole numbers, at most 50 a column."""
        return {
            "rows": self.rows,
            "columns": [counts.tolist() for counts in self.columns],
            "score": self.score.tolist(),
        }

    @staticmethod
    def merge(states: Iterable[Mapping[str, Any]]) -> State:
        """The state of one counter that had seen the rows of all."""
        every = list(states)
        columns = [np.sum(parts, axis=0).tolist() for parts in zip(*(one["columns"] for one in every), strict=True)]
        score = np.sum([one["score"] for one in every], axis=0).astype(np.int64).tolist() if every else []
        return {"rows": sum(one["rows"] for one in every), "columns": columns, "score": score}


def _names(encoder: Encoder) -> list[tuple[str, int | None]]:
    """Name of every column that is compared, with its number of levels where it has positions of them."""
    if image_encoder(encoder) is not None:
        return [("brightness", None), ("contrast", None)]
    return [(str(column.name), len(column.levels) if column.coded else None) for column in encoder.columns_]


def _read(encoder: Encoder, rows: Any, picked: Counts | None = None) -> Iterator[Array]:
    """Values of all columns that are compared, in pieces of shape ``(n, k)``; NaN where missing.

    Of all rows, or of those `picked`. Conditions are left out: without them a row is scored whatever they are.
    """

    def pieces(size: int) -> Iterator[tuple[int, slice | Counts]]:
        for start in range(0, len(rows) if picked is None else len(picked), size):
            yield start, slice(start, start + size) if picked is None else picked[start : start + size]

    own = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    if isinstance(own, TableEncoder):
        frame = to_frame(rows)
        held = np.asarray(rows) if frame is None else frame.iloc
        for start, part in pieces(PIECE):
            yield own.read(held[part], start)
        return
    images = rows.images if isinstance(rows, Labelled) else rows
    for start, part in pieces(IMAGES):
        levels = own.levels(as_array(images[part], start), start)
        flat = levels.reshape(len(levels), -1)
        yield np.stack([flat.mean(1), flat.std(1)], 1) / 255.0


def _picked(n: int, limit: int, weight: Array | None) -> Counts:
    """Numbers of at most `limit` of `n` rows, evenly spread over their weight."""
    count = min(n, limit)
    if weight is None:
        return np.linspace(0, n - 1, count).astype(np.int64)
    reach = np.cumsum(weight)
    found: Counts = np.searchsorted(reach, (np.arange(count) + 0.5) * (reach[-1] / count))
    return np.minimum(found, n - 1)
