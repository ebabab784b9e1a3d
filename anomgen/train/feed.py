"""Where a fit takes its batches from: rows that are held, or rows that pass by."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen.encode import Encoded, join
from anomgen.train.judge import mean_of, trimmed
from anomgen.train.tensors import Batches

Array = NDArray[np.float64]
Batch = tuple[Tensor, Tensor | None]
Make = Callable[[Encoded], Batches]
Losses = Callable[[Batches], Array]
T = TypeVar("T")


class Passes(Protocol):
    """Training rows that are too many to hold: they pass by, as often as they are asked for."""

    @property
    def sample(self) -> Encoded:
        """Some of them, evenly drawn, that are held."""

    @property
    def mixed(self) -> int:
        """Rows mixed at a time."""

    def __len__(self) -> int:
        """Rows of a pass."""

    def blocks(self, number: int) -> Iterator[Encoded]:
        """All rows once, in blocks of any height; each pass has an order of its own."""


class Feed(Protocol):
    """What the loop asks of its rows."""

    known: Batches
    """The rows, or as many of them as are held."""
    log_det: float
    """Mean of the log-determinants."""

    def __len__(self) -> int:
        """Rows of a pass."""

    def batches(self, steps: int) -> Generator[Batch]:
        """Rows with fresh noise and their weights, `steps` batches a pass, without end."""

    def leave_out(self, share: float, losses: Losses) -> None:
        """Let the `share` of the highest `losses` no longer train."""


class Resident:
    """Rows that are held, in an order drawn anew for every pass."""

    def __init__(self, rows: Encoded, weight: Array | None, make: Make) -> None:
        self.known = make(rows)
        self.log_det = mean_of(rows.log_det, weight)
        self.given = weight
        self._weigh(weight)

    def __len__(self) -> int:
        return len(self.known)

    def batches(self, steps: int) -> Generator[Batch]:
        """Rows with fresh noise and their weights, `steps` batches a pass, without end."""
        while True:
            order = torch.randperm(len(self), device=self.known.z.device)
            for index in order.tensor_split(steps):
                z = self.known.draw(index)
                yield z, None if self.weight is None else self.weight.index_select(0, index)

    def leave_out(self, share: float, losses: Losses) -> None:
        """Let the `share` of the highest `losses` no longer train."""
        self._weigh(trimmed(losses(self.known), share, self.given))

    def _weigh(self, weight: Array | None) -> None:
        device = self.known.z.device
        self.weight = None if weight is None else torch.from_numpy(weight / weight.mean()).float().to(device)


class Passing:
    """Rows that pass by: half of those held leave to train, in random order, and others take their place.

    The next rows are read while these train.
    """

    def __init__(self, passes: Passes, make: Make) -> None:
        self.passes, self.make = passes, make
        self.known = make(passes.sample)
        self.log_det = mean_of(passes.sample.log_det, None)
        self.weigh: Callable[[Batches], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.passes)

    def batches(self, steps: int) -> Generator[Batch]:
        """Rows with fresh noise and their weights, `steps` batches a pass, without end."""
        ends = np.linspace(0, len(self), steps + 1).astype(np.int64)
        for number in count():
            done, rest = 0, list[Encoded]()
            for part in self._mixed(number):
                rows = join([*rest, part])
                # As many whole batches as there are.
                last = int(np.searchsorted(ends, ends[done] + len(rows), side="right")) - 1
                taken = int(ends[last] - ends[done])
                if taken:
                    yield from self._draws(rows.take(np.arange(taken)), np.diff(ends[done : last + 1]))
                done, rest = last, [rows.take(np.arange(taken, len(rows)))]

    def leave_out(self, share: float, losses: Losses) -> None:
        """Let rows train no longer whose losses are among the `share` of the highest ones of the rows held."""
        limit = np.quantile(losses(self.known), 1.0 - share)
        self.weigh = lambda rows: torch.from_numpy((losses(rows) <= limit) / (1.0 - share)).float().to(rows.z.device)

    def _draws(self, rows: Encoded, sizes: NDArray[np.int64]) -> Generator[Batch]:
        some = self.make(rows)
        weight = None if self.weigh is None else self.weigh(some)
        for index in torch.arange(len(some), device=some.z.device).split(sizes.tolist()):
            yield some.draw(index), None if weight is None else weight.index_select(0, index)

    def _mixed(self, number: int) -> Iterator[Encoded]:
        """The rows of a pass in random order, some at a time."""
        half = max(self.passes.mixed // 2, 1)
        pool: list[Encoded] = []
        with closing(ahead(_gathered(self.passes.blocks(number), half))) as parts:
            for part in parts:
                rows = join([*pool, part])
                order = torch.randperm(len(rows)).numpy()
                pool = [rows.take(order[:half])]
                if len(rows) > half:
                    yield rows.take(order[half:])
        yield from pool


def ahead(items: Iterator[T]) -> Generator[T]:
    """The items, each of them made while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _gathered(blocks: Iterable[Encoded], rows: int) -> Iterator[Encoded]:
    """Blocks joined to at least so many rows; the last one may have fewer."""
    held: list[Encoded] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= rows:
            yield join(held)
            held = []
    if held:
        yield join(held)
