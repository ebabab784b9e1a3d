"""Rows that arrive in pieces: waiting ones, and a reservoir of those kept apart from training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.encode import Encoded, Labelled, join
from anomgen.encode.image import as_array

FIRST = 256
"""Rows gathered before the encoder is frozen."""
HELD_OUT = 0.1
"""Share of arriving rows that never trains."""
RESERVOIR = 10_000
"""Rows kept apart at most: a uniform sample of all held-out rows seen."""
STEPS_A_PIECE = 100
"""A piece is passed over until it has given about this many optimizer steps, at most ten times."""


class Stream:
    """What `partial_fit` remembers between calls."""

    def __init__(self, seed: int) -> None:
        self.waiting: list[tuple[Any, NDArray[np.float64]]] = []
        self.reservoir: Encoded | None = None
        self.seen = self.total = 0
        self._random = np.random.default_rng([seed, 3])

    @property
    def ready(self) -> bool:
        """Whether enough rows wait to decide the kinds of the columns."""
        return sum(len(weight) for _, weight in self.waiting) >= FIRST

    def add(self, x: Any, weight: NDArray[np.float64]) -> None:
        """Let rows wait."""
        self.waiting.append((x, weight))

    def release(self) -> tuple[Any, NDArray[np.float64]]:
        """All waiting rows in the order they came, and their weights."""
        pieces, weights = zip(*self.waiting, strict=True)
        self.waiting = []
        return _together(pieces), np.concatenate(weights)

    def split(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions that train and positions that are held out among `n` new rows."""
        order = self._random.permutation(n)
        # Rounding at random keeps the share right for pieces of a few rows.
        held = min(int(HELD_OUT * n + self._random.random()), n - 1)
        return np.sort(order[held:]), np.sort(order[:held])

    def keep(self, rows: Encoded) -> None:
        """Add held-out rows to the reservoir; once it is full each seen row is in it with the same probability."""
        for start in range(0, len(rows), RESERVOIR):
            self._keep(rows.take(np.arange(start, min(start + RESERVOIR, len(rows)))))

    def _keep(self, rows: Encoded) -> None:
        held = rows if self.reservoir is None else join([self.reservoir, rows])
        places = np.arange(len(held))
        if len(held) > RESERVOIR:
            places = np.arange(RESERVOIR)
            for i in range(len(held) - len(rows), len(held)):
                rank = self.seen + i - (len(held) - len(rows))
                slot = i if i < RESERVOIR else int(self._random.integers(rank + 1))
                if slot < RESERVOIR:
                    places[slot] = i
        self.seen += len(rows)
        self.reservoir = held.take(places)

    def epochs(self, n: int, batch: int = 64) -> int:
        """Passes over a piece of `n` rows."""
        return int(np.clip(STEPS_A_PIECE * batch // max(n, 1), 1, 10))


def _together(pieces: Sequence[Any]) -> Any:
    if isinstance(pieces[0], pd.DataFrame):
        return pd.concat(pieces, ignore_index=True)
    if isinstance(pieces[0], Labelled):
        labels = np.concatenate([piece.labels for piece in pieces])
        return Labelled(_together([piece.images for piece in pieces]), labels)
    return np.concatenate([as_array(piece[:]) for piece in pieces])
