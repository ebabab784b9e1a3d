"""Rows that pass by: all of them train, mixed, and learning comes to what it comes to with rows that are held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.encode import Encoded
from anomgen.generative import Space
from anomgen.train.feed import Passing, Resident, ahead
from anomgen.train.plan import Plan
from anomgen.train.tensors import Batches
from tests.train_toys import TRAINER, Gaussian, Solved, contaminated, rows

MAKE = partial(Batches, space=Space.real(2), noise=0.0, device=torch.device("cpu"))


class Blocks:
    """Passes over rows in memory, in blocks; odd passes go backwards."""

    def __init__(self, rows: Encoded, height: int = 50, mixed: int = 128) -> None:
        self.rows, self.height, self.mixed = rows, height, mixed
        self.sample = rows.take(np.arange(0, len(rows), 3))
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, number: int) -> Iterator[Encoded]:
        starts = range(0, len(self.rows), self.height)
        for start in reversed(starts) if number % 2 else starts:
            self.read.append(start)
            yield self.rows.take(np.arange(start, min(start + self.height, len(self.rows))))


def numbered(n: int) -> Encoded:
    z = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return Encoded(z, np.zeros(n), z, z)


def passed(feed: Passing | Resident, steps: int, passes: int = 1) -> list[Tensor]:
    with runtime.seeded(0):
        return [z for z, _ in islice(feed.batches(steps), steps * passes)]


@pytest.mark.parametrize(("n", "steps", "height", "mixed"), [(1000, 9, 50, 128), (37, 5, 1, 8), (300, 300, 7, 1000)])
def test_every_row_trains_once_a_pass_in_batches_as_high_as_those_of_rows_held(
    n: int, steps: int, height: int, mixed: int
) -> None:
    feed = Passing(Blocks(numbered(n), height, mixed), MAKE)
    batches = passed(feed, steps, passes=3)
    for number in range(3):
        own = torch.cat(batches[number * steps : (number + 1) * steps])[:, 0]
        assert sorted(own.tolist()) == numbered(n).z[:, 0].tolist()
    held = passed(Resident(numbered(n), None, MAKE), steps)
    assert {len(z) for z in batches} == {len(z) for z in held}


def test_rows_are_mixed_as_far_as_the_buffer_reaches_and_anew_in_every_pass() -> None:
    batches = passed(Passing(Blocks(numbered(1000), mixed=400), MAKE), 20, passes=3)
    first, third = (torch.cat(batches[20 * number : 20 * number + 20])[:, 0] / 2 for number in (0, 2))
    assert not torch.equal(first, third)
    moved = (first - torch.arange(1000)).abs()
    assert 50 < moved.mean() < 400
    # A row leaves with rows that came up to half a buffer before it.
    assert moved[:200].max() < 400


def test_one_seed_gives_one_order() -> None:
    feeds = [Passing(Blocks(numbered(500)), MAKE) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(passed(feed, 7, 2) for feed in feeds), strict=True))


def test_bounds_of_cells_come_along() -> None:
    z = numbered(400).z
    feed = Passing(Blocks(Encoded(z, np.zeros(400), z - 0.5, z + 0.5)), MAKE)
    seen = torch.cat(passed(feed, 8)).sort(0).values
    assert ((seen - torch.from_numpy(z)).abs() <= 0.5).all()
    assert (seen != torch.from_numpy(z)).any()


def test_what_is_not_asked_for_is_not_read() -> None:
    blocks = Blocks(numbered(10_000), height=100, mixed=400)
    batches = Passing(blocks, MAKE).batches(100)
    for _ in islice(batches, 3):
        pass
    batches.close()
    assert 3 <= len(blocks.read) <= 12


def test_a_fault_of_reading_is_raised_where_the_rows_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_learning_comes_to_the_same() -> None:
    models = [Gaussian(2), Gaussian(2)]
    trainer = replace(TRAINER, max_epochs=40)
    runs = [
        trainer.fit(model, Space.real(2), train, held_out=rows(200, seed=9))
        for model, train in zip(models, (rows(2000), Blocks(rows(2000))), strict=True)
    ]
    assert models[1].mean.detach().numpy() == pytest.approx(models[0].mean.detach().numpy(), abs=0.02)
    assert runs[1].history[-1]["held_out_nats"] == pytest.approx(runs[0].history[-1]["held_out_nats"], abs=0.01)
    for key in ("rows", "steps_planned", "noise"):
        assert runs[0].info[key] == runs[1].info[key]


def test_a_schedule_shorter_than_a_pass_ends_within_it() -> None:
    plan = Plan.make("auto", "auto", 10_000_000, constant=False)
    assert (plan.steps, plan.batches, plan.epochs, plan.length) == (3000, 9766, 6, 500)
    blocks = Blocks(rows(2000), height=20, mixed=100)
    trainer = replace(TRAINER, max_epochs="auto", batch_size=1)
    run = trainer.fit(Gaussian(2), Space.real(2), blocks)
    assert run.history[-1]["step"] == round(40 * 2000**0.5) < 2000
    assert len(blocks.read) < 2000 / 20


def test_long_passes_are_cut_into_epochs_and_end_with_the_schedule() -> None:
    progress: list[float] = []

    class Watches(Gaussian):
        def on_epoch(self, share: float) -> None:
            progress.append(share)

    run = replace(TRAINER, max_epochs=1, batch_size=4).fit(Watches(2), Space.real(2), rows(6003))
    assert [entry["step"] for entry in run.history] == [501, 1002, 1501]
    assert progress == pytest.approx([0, 1 / 3, 2 / 3])


def test_the_least_likely_rows_that_pass_by_do_not_train() -> None:
    z = contaminated()
    train = Encoded(z, np.zeros(len(z)), z, z)
    plain, robust = Gaussian(2), Gaussian(2)
    for model, share in ((plain, 0.0), (robust, 0.25)):
        replace(TRAINER, robust=share, weight_decay=0.0).fit(model, Space.real(2), Blocks(train))
    far = torch.full((1, 2), 5.0)
    with torch.no_grad():
        assert float(plain.log_prob(far)) > -8
        assert float(robust.log_prob(far)) < -12


def test_a_model_that_knows_its_solution_is_solved_on_the_sample() -> None:
    model = Solved()
    run = TRAINER.fit(model, Space.real(2), Blocks(rows(900)))
    assert model.calls == [300]
    assert run.info["rows"] == 900
