"""The training loop: it learns, stops, recovers, repeats itself, and leaves the process as it found it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomgen.generative import Space
from anomgen.train import Callback, Run
from anomgen.train.tensors import FlatParameters
from tests.train_toys import TRAINER, Gaussian, fitted, rows


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
