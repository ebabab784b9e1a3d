"""The training loop: it learns, stops, recovers, repeats itself, and leaves the process as it found it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomgen.encode import Encoded, TableEncoder
from anomgen.generative import GenerativeModel, Space
from anomgen.train import Callback, Run, Trainer
from anomgen.train.adam import Adam
from anomgen.train.judge import Judge, trimmed
from anomgen.train.plan import FINAL_RATE, Plan, usual_noise, usual_steps
from anomgen.train.tensors import Batches, FlatParameters, flatten


class Gaussian(GenerativeModel):
    """A diagonal Gaussian: its optimum is known."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_std = nn.Parameter(torch.zeros(dim))

    def log_prob(self, z: Tensor) -> Tensor:
        u = (z - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * u**2 + self.log_std + 0.5 * np.log(2 * np.pi)).sum(dim=1)

    def sample(self, n: int) -> Tensor:
        return self.mean + torch.exp(self.log_std) * torch.randn(n, len(self.mean))


class Explodes(Gaussian):
    """Gives a non-finite loss in the given calls."""

    def __init__(self, dim: int, calls: set[int]) -> None:
        super().__init__(dim)
        self.calls, self.count = calls, 0

    def loss(self, z: Tensor) -> Tensor:
        self.count += 1
        return super().loss(z) * (float("nan") if self.count in self.calls else 1.0)

    def monitor(self, z: Tensor) -> Tensor:
        return super().loss(z)


def rows(n: int, dim: int = 2, seed: int = 0) -> Encoded:
    z = (np.random.default_rng(seed).normal(size=(n, dim)) * 0.5 + 2.0).astype(np.float32)
    return Encoded(z, np.zeros(n), z, z)


TRAINER = Trainer(max_epochs=60, batch_size=64, learning_rate=0.05, noise=0.0, verbose=False)


def fitted(trainer: Trainer = TRAINER, n: int = 512, **options: object) -> tuple[Gaussian, Run]:
    model = Gaussian(2)
    return model, trainer.fit(model, Space.real(2), rows(n), **options)  # type: ignore[arg-type]


class TestLearning:
    def test_reaches_the_maximum_likelihood(self) -> None:
        model, run = fitted()
        data = rows(512).z
        assert model.mean.detach().numpy() == pytest.approx(data.mean(axis=0), abs=0.02)
        assert model.log_std.exp().detach().numpy() == pytest.approx(data.std(axis=0), rel=0.03)
        assert run.history[-1]["train_nats"] > run.history[0]["train_nats"]

    def test_noise_widens_the_density(self) -> None:
        model, _ = fitted(replace(TRAINER, noise=0.5))
        assert model.log_std.exp().detach().numpy() == pytest.approx(np.hypot(rows(512).z.std(axis=0), 0.5), rel=0.05)

    def test_weights_move_the_optimum(self) -> None:
        weight = (rows(512).z[:, 0] > 2).astype(float) + 1e-3
        model, _ = fitted(weight=weight)
        assert float(model.mean[0].detach()) == pytest.approx(np.average(rows(512).z[:, 0], weights=weight), abs=0.03)

    def test_same_seed_same_bits_and_another_seed_others(self) -> None:
        first, again, other = (fitted(replace(TRAINER, seed=seed))[0] for seed in (1, 1, 2))
        assert torch.equal(first.mean, again.mean)
        assert not torch.equal(first.mean, other.mean)

    def test_weight_decay_spares_biases_and_scales(self) -> None:
        net = nn.Linear(3, 2)
        assert FlatParameters(net.parameters()).matrices.tolist() == [1.0] * 6 + [0.0] * 2
        assert not FlatParameters(Gaussian(2).parameters()).matrices.any()

        class Net(Gaussian):
            def __init__(self) -> None:
                super().__init__(2)
                self.idle = nn.Parameter(torch.ones(3, 3))

            def loss(self, z: Tensor) -> Tensor:
                return super().loss(z) + 0.0 * self.idle.sum()

        kept, shrunk = Net(), Net()
        replace(TRAINER, weight_decay=0.0).fit(kept, Space.real(2), rows(512))
        replace(TRAINER, weight_decay=0.1).fit(shrunk, Space.real(2), rows(512))
        assert torch.equal(kept.idle, torch.ones(3, 3))
        assert 0 < float(shrunk.idle.detach().max()) < 0.9

    @pytest.mark.parametrize("option", [{"ema": 0.5}, {"clip": 1e-3}, {"learning_rate": 1e-3}])
    def test_options_change_the_result(self, option: dict[str, float]) -> None:
        trainer = replace(TRAINER, max_epochs=3)
        assert not torch.equal(fitted(trainer)[0].mean, fitted(replace(trainer, **option))[0].mean)

    def test_bf16_trains_nearly_as_well(self) -> None:
        class Net(Gaussian):
            def __init__(self) -> None:
                super().__init__(2)
                self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))

            def log_prob(self, z: Tensor) -> Tensor:
                shift = self.net(torch.stack([torch.zeros_like(z[:, 0]), z[:, 0]], dim=1)) * torch.tensor([0.0, 1.0])
                return super().log_prob(z + shift.float())

        nets = {}
        for precision in ("float32", "bf16"):
            torch.manual_seed(0)
            nets[precision] = Net()
            trainer = replace(TRAINER, precision=precision, learning_rate=0.01)  # type: ignore[arg-type]
            nets[precision + " nats"] = trainer.fit(nets[precision], Space.real(2), rows(512)).history[-1]["train_nats"]  # type: ignore[assignment]
        assert not torch.equal(nets["float32"].mean, nets["bf16"].mean)
        assert nets["bf16 nats"] == pytest.approx(nets["float32 nats"], abs=0.1)


class TestStopping:
    def test_an_overfitting_model_is_stopped_and_its_best_weights_kept(self) -> None:
        trainer = replace(TRAINER, max_epochs=200, patience=0.05)
        held_out = rows(200, seed=5)
        held_out.z[:] = held_out.z * 0 + 1.0
        model, run = fitted(trainer, held_out=held_out)
        assert run.stopped_because == "held-out nats"
        assert run.history[-1]["epoch"] < 200
        assert run.best_epoch < run.history[-1]["epoch"]
        best = max(entry["held_out_nats"] for entry in run.history)
        kept = float(model.log_prob(torch.from_numpy(held_out.z)).mean().detach())
        assert kept == pytest.approx(best, abs=0.3)
        assert kept > run.history[-1]["held_out_nats"]

    def test_a_callback_can_stop(self) -> None:
        class Stop(Callback):
            def on_epoch_end(self, run: Run) -> bool:
                return len(run.history) == 2

        _, run = fitted(replace(TRAINER, callbacks=(Stop(),)))
        assert len(run.history) == 2
        assert run.stopped_because == "callback"

    def test_an_interruption_keeps_the_best_weights(self) -> None:
        class Interrupt(Callback):
            def on_epoch_end(self, run: Run) -> None:
                if len(run.history) == 20:
                    raise KeyboardInterrupt

        with pytest.warns(RuntimeWarning, match="interrupted"):
            model, run = fitted(replace(TRAINER, callbacks=(Interrupt(),)))
        assert run.stopped_because == "interrupted"
        assert float(model.mean[0].detach()) == pytest.approx(2.0, abs=0.4)

    def test_moments_of_callbacks(self) -> None:
        seen: list[str] = []

        class Watch(Callback):
            def on_fit_begin(self, run: Run) -> None:
                seen.append(f"begin {run.info['rows']}")

            def on_epoch_end(self, run: Run) -> None:
                seen.append("epoch")

            def on_fit_end(self, run: Run) -> None:
                seen.append("end")

            def on_error(self, run: Run, error: BaseException) -> None:
                seen.append(type(error).__name__)

        trainer = replace(TRAINER, max_epochs=1, callbacks=(Watch(),))
        fitted(trainer)
        assert seen == ["begin 512", "epoch", "end"]
        seen.clear()
        with pytest.raises(RuntimeError):
            trainer.fit(Gaussian(3), Space.real(2), rows(512))
        assert seen == ["begin 512", "RuntimeError"]


class TestRecovery:
    def test_one_bad_epoch_is_undone_at_a_lower_rate(self) -> None:
        model = Explodes(2, {200})
        with pytest.warns(RuntimeWarning, match=r"learning rate is 0\.005"):
            run = TRAINER.fit(model, Space.real(2), rows(512))
        assert torch.isfinite(model.mean).all()
        assert run.history[-1]["learning_rate"] < 0.005
        assert all(np.isfinite(entry["train_nats"]) for entry in run.history)

    def test_twice_in_a_row_is_an_error_naming_the_column(self) -> None:
        data = rows(512)
        data.z[3, 1] = 44.0
        space = replace(Space.real(2), names=("a", "price"))
        with pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match="'price', which reaches 44"):
            TRAINER.fit(Explodes(2, set(range(150, 400))), space, data)


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


def test_nothing_global_changes() -> None:
    torch.manual_seed(3)
    state, count = torch.get_rng_state(), torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == count


def test_a_bar_is_drawn_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(replace(TRAINER, max_epochs=3, verbose=True))
    assert "fit" in capsys.readouterr().err
    fitted(replace(TRAINER, max_epochs=3))
    assert not capsys.readouterr().err


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device='warp'"):
        fitted(replace(TRAINER, device="warp"))


def contaminated(share: float = 0.2, n: int = 1000) -> np.ndarray:
    """Standard normal rows, and a distant cluster of others."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    X[: int(share * n)] = rng.normal(size=(int(share * n), 2)) * 0.3 + 5.0
    return X.astype(np.float32)


class TestRobust:
    @pytest.mark.parametrize("held", [False, True])
    def test_the_least_likely_share_does_not_train(self, held: bool) -> None:
        z = contaminated()
        rows = Encoded(z, np.zeros(len(z)), z, z)
        plain, robust = (Gaussian(2) for _ in range(2))
        for model, share in ((plain, 0.0), (robust, 0.25)):
            trainer = replace(TRAINER, robust=share, weight_decay=0.0)
            trainer.fit(model, Space.real(2), rows, held_out=rows if held else None)
        far = torch.full((1, 2), 5.0)
        with torch.no_grad():
            assert float(plain.log_prob(far)) > -8
            assert float(robust.log_prob(far)) < -12
            assert robust.log_prob(torch.zeros(1, 2)) > plain.log_prob(torch.zeros(1, 2))

    def test_given_weights_still_count(self) -> None:
        z = contaminated(0.0)
        weight = np.where(z[:, 0] > 0, 4.0, 1.0)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        model = Gaussian(2)
        replace(TRAINER, robust=0.05).fit(model, Space.real(2), rows, weight=weight)
        assert model.mean.detach()[0] > 0.2

    def test_trimming_takes_the_highest_losses_and_never_all(self) -> None:
        assert trimmed(np.array([3.0, 1.0, 2.0, 5.0]), 0.5).tolist() == [0, 1, 1, 0]
        assert trimmed(np.array([3.0, 1.0]), 0.49).tolist() == [1, 1]
        assert trimmed(np.array([3.0, 1.0, 0.0]), 0.4, np.array([2.0, 3.0, 4.0])).tolist() == [0, 3, 4]

    def test_a_judge_that_trims_is_blind_to_the_worst_rows(self) -> None:
        losses = np.r_[np.ones(98), 1e6, 1e6]
        assert Judge(trim=0.02)(losses)[0] == 1.0
        judge = Judge(trim=0.02)
        judge(losses)
        assert judge(np.r_[np.ones(98), 1e9, 1e9])[1]
        assert not judge(np.r_[np.full(98, 2.0), 0.0, 0.0])[1]


class Solved(GenerativeModel):
    """A normal law that knows its solution."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("variance", torch.ones(2))
        self.calls: list[int] = []

    def fit_closed_form(self, z: Tensor, weight: Tensor | None, held_out: Tensor | None, blur: Tensor) -> None:
        self.calls.append(len(z))
        share = torch.ones(len(z)) if weight is None else weight.float()
        self.mean.copy_((z * share[:, None]).sum(0) / share.sum())
        self.variance.copy_(((z - self.mean).square() * share[:, None]).sum(0) / share.sum() + blur.square())

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean, self.variance.sqrt()).log_prob(z).sum(1)


class TestClosedForm:
    def test_is_solved_once_on_all_rows_without_noise(self) -> None:
        z = contaminated(0.0)
        model = Solved()
        run = Trainer(noise=0.5, verbose=False).fit(model, Space.real(2), Encoded(z, np.ones(len(z)), z, z))
        assert model.calls == [1000]
        assert model.mean.numpy() == pytest.approx(z.mean(axis=0), abs=1e-6)
        assert model.variance.numpy() == pytest.approx(z.var(axis=0) + 0.25, abs=1e-4)
        assert run.history[0]["train_nats"] == pytest.approx(1.0 + float(model.log_prob(torch.from_numpy(z)).mean()))
        assert run.info["epochs_planned"] == run.best_epoch == len(run.history) == 1

    def test_weights_and_held_out_rows_reach_it(self) -> None:
        z = contaminated(0.0)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        weight = np.where(z[:, 0] > 0, 1.0, 0.0)
        model = Solved()
        run = Trainer(noise=0.0, verbose=False).fit(model, Space.real(2), rows, weight=weight, held_out=rows)
        assert model.mean[0] > 0.5
        assert run.history[0]["held_out_nats"] == pytest.approx(float(model.log_prob(torch.from_numpy(z)).mean()))

    def test_robust_rounds_leave_out_what_the_last_one_found_unlikely(self) -> None:
        z = contaminated()
        plain, robust = Solved(), Solved()
        Trainer(noise=0.0, verbose=False).fit(plain, Space.real(2), Encoded(z, np.zeros(len(z)), z, z))
        Trainer(noise=0.0, robust=0.25, verbose=False).fit(robust, Space.real(2), Encoded(z, np.zeros(len(z)), z, z))
        assert robust.calls[0] == 1000
        assert set(robust.calls[1:]) == {750}
        assert plain.mean.mean() > 0.9
        assert robust.mean.abs().mean() < 0.2


class TestSelfReports:
    def test_measures_enter_the_history_and_change_no_training(self) -> None:
        class Talkative(Gaussian):
            def measure(self, z: Tensor) -> dict[str, float]:
                return {"rows": float(len(z)), "draw": float(torch.rand(()))}

        z = contaminated(0.0, 1500)
        rows = Encoded(z, np.zeros(len(z)), z, z)
        quiet, talkative = Gaussian(2), Talkative(2)
        for model in (quiet, talkative):
            run = Trainer(max_epochs=5, verbose=False).fit(model, Space.real(2), rows)
        assert {entry["rows"] for entry in run.history} == {1000.0}
        assert torch.equal(quiet.mean, talkative.mean)

    def test_a_loss_that_is_no_likelihood_is_not_called_nats(self) -> None:
        class Other(Gaussian):
            nats = False
            judged = False

        z = contaminated(0.0)
        rows = Encoded(z, np.full(len(z), 100.0), z, z)
        run = Trainer(max_epochs=200, learning_rate=0.5, verbose=False).fit(
            Other(2), Space.real(2), rows, held_out=rows.take(np.arange(100))
        )
        assert set(run.history[0]) >= {"train_loss", "held_out_loss"}
        assert not set(run.history[0]) & {"train_nats", "held_out_nats"}
        assert run.history[0]["train_loss"] < 50
        assert run.stopped_because == "schedule"
        assert run.best_epoch == 200
