"""The parts of the training loop: schedule, judge, optimizer, and rows with fresh noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomgen.encode import TableEncoder
from anomgen.generative import GenerativeModel, Space
from anomgen.train.adam import Adam
from anomgen.train.judge import Judge
from anomgen.train.plan import FINAL_RATE, Plan, usual_noise, usual_steps
from anomgen.train.tensors import Batches, FlatParameters, flatten
from tests.train_toys import TRAINER, Gaussian, fitted, rows


class TestPlan:
    @pytest.mark.parametrize("n", [1, 2, 30, 500, 20_000, 1_000_000])
    def test_every_row_is_used_and_the_budget_is_kept(self, n: int) -> None:
        plan = Plan.make("auto", "auto", n, constant=False)
        assert plan.batches * plan.batch >= 0.6 * n
        assert plan.epochs >= 1
        assert plan.steps <= max(1.5 * usual_steps(n), plan.batches)

    def test_rate_warms_up_then_falls(self) -> None:
        plan = Plan.make(100, 10, 100, constant=False)
        rates = [plan.rate(step) for step in range(plan.steps)]
        top = int(np.argmax(rates))
        assert rates[0] < 0.1
        assert rates[top] > 0.95
        assert all(a >= b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
        assert rates[-1] == pytest.approx(FINAL_RATE, abs=0.01)
        assert Plan.make(100, 10, 100, constant=True).rate(999) == 1.0

    def test_a_short_table_loses_no_row(self) -> None:
        seen: set[float] = set()

        class Records(Gaussian):
            def loss(self, z: Tensor) -> Tensor:
                seen.update(z[:, 0].tolist())
                return super().loss(z)

        data = rows(37)
        replace(TRAINER, max_epochs=1, batch_size=16).fit(Records(2), Space.real(2), data)
        assert seen == set(data.z[:, 0].tolist())

    def test_noise_falls_and_steps_rise_with_the_rows(self) -> None:
        sizes = [2, 50, 1000, 10**5, 10**7]
        assert usual_noise(1000) == pytest.approx(0.25)
        assert all(usual_noise(a) >= usual_noise(b) > 0 for a, b in pairwise(sizes))
        assert all(usual_steps(a) <= usual_steps(b) for a, b in pairwise(sizes))
        _, run = fitted(replace(TRAINER, noise="auto", max_epochs=1))
        assert run.info["noise"] == usual_noise(512)


class TestJudge:
    def test_accepts_what_cannot_be_told_apart_from_the_best(self) -> None:
        rng = np.random.default_rng(0)
        judge, base = Judge(), rng.normal(size=400)
        assert judge(base) == (pytest.approx(base.mean()), True)
        jitter = rng.normal(size=400)
        jitter -= jitter.mean()
        assert judge(base + jitter + 0.04)[1]
        assert not judge(base + jitter + 0.06)[1]
        assert not judge(base + 1e-6)[1]
        assert judge(base - 0.5)[1]
        assert not judge(base + jitter)[1]
        assert not judge(base * np.nan)[1]

    def test_weights_decide_which_rows_count(self) -> None:
        judge = Judge(np.array([1.0, 0.0, 1.0]))
        judge(np.zeros(3))
        assert judge(np.array([-1.0, 99.0, -1.0])) == (-1.0, True)


class TestAdam:
    @pytest.mark.parametrize("decay", [0.0, 0.3])
    def test_equals_torchs(self, decay: float) -> None:
        ours = torch.linspace(-1, 1, 50)
        theirs = nn.Parameter(ours.clone())
        adam = Adam(ours, torch.ones(50))
        reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=decay)
        generator = torch.Generator().manual_seed(0)
        for step in range(60):
            gradient = torch.randn(50, generator=generator) + ours
            theirs.grad = gradient.clone()
            rate = 0.1 / (1 + step)
            reference.param_groups[0]["lr"] = rate
            reference.step()
            adam.step(gradient, rate, decay)
        assert ours.numpy() == pytest.approx(theirs.detach().numpy(), rel=1e-4, abs=1e-6)


class TestTensors:
    def test_flat_parameters_are_views_until_released(self) -> None:
        net = nn.Linear(3, 2)
        before = net.weight.detach().clone()
        flat = FlatParameters(net.parameters())
        assert torch.equal(net.weight, before)
        flat.vector.data.zero_()
        assert not net.weight.any()
        flat.release()
        flat.vector.data.fill_(1.0)
        assert not net.weight.any()
        assert net.weight.grad is None

    def test_two_objectives_train_in_turn_and_may_repeat(self) -> None:
        class Two(GenerativeModel):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

            def objectives(self):  # type: ignore[no-untyped-def]
                first = ([self.a], lambda z: (self.a - 1.0) ** 2 + 0 * z[:, 0])
                second = ([self.b], lambda z: (self.b - self.a.detach()) ** 2 + 0 * z[:, 0])
                return [first, second, second]

            def monitor(self, z: Tensor) -> Tensor:
                return (self.b - 1.0) ** 2 + 0 * z[:, 0]

        model = Two()
        assert len(flatten(Two())[1]) == 2
        replace(TRAINER, weight_decay=0.0).fit(model, Space.real(2), rows(512))
        assert float(model.a.detach()) == pytest.approx(1.0, abs=0.05)
        assert float(model.b.detach()) == pytest.approx(1.0, abs=0.05)

    def test_half_shared_groups_are_refused(self) -> None:
        class Shared(Gaussian):
            def objectives(self):  # type: ignore[no-untyped-def]
                return [([self.mean], self.loss), ([self.mean, self.log_std], self.loss)]

        with pytest.raises(ValueError, match="share some but not all"):
            flatten(Shared(2))

    def test_draws_stay_in_their_cells(self, mixed) -> None:  # type: ignore[no-untyped-def]
        encoder = TableEncoder().fit(mixed)
        space = Space(**encoder.layout())
        encoded = encoder.encode(mixed, cells=True)
        batches = Batches(encoded, space, 0.0, torch.device("cpu"))
        everything = torch.arange(len(batches))
        torch.manual_seed(0)
        a, b = batches.draw(everything).numpy(), batches.draw(everything).numpy()
        cell = np.array([kind == "cell" for kind in space.kinds])
        gap = np.isinf(encoded.low)
        inside = torch.special.ndtr(torch.from_numpy(a)).numpy()
        value = np.where(cell, inside, a)
        assert ((value >= encoded.low - 1e-5) & (value <= encoded.high + 1e-5)).all()
        exact = (encoded.low == encoded.high) & ~gap
        assert np.array_equal(a[exact], encoded.z[exact])
        assert (a[gap] != b[gap]).all()
        assert abs(a[gap].mean()) < 0.5
        assert (a[:, cell] != b[:, cell]).mean() > 0.99

    def test_noise_spares_cells(self, mixed) -> None:  # type: ignore[no-untyped-def]
        encoder = TableEncoder().fit(mixed)
        space = Space(**encoder.layout())
        batches = Batches(encoder.encode(mixed, cells=True), space, 0.7, torch.device("cpu"))
        assert [bool(b) for b in batches.blur] == [kind != "cell" for kind in space.kinds]
