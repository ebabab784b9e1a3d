"""The trainer: one loop for every family."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomgen import runtime
from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space
from anomgen.train.adam import Adam
from anomgen.train.judge import Judge
from anomgen.train.plan import Plan, usual_noise
from anomgen.train.run import Callback, ProgressBar, Run, default_callbacks
from anomgen.train.tensors import Batches, flatten

STEPS_BETWEEN_CHECKS = 20
"""Held-out rows are judged once an epoch, but never after fewer steps than this."""
THREADED_WORK = 1e8
"""Parameters times batch rows above which a training step gains from more than one thread."""


@dataclass(frozen=True)
class Trainer:
    """Fit a generative model to encoded rows by stochastic gradients.

    Resident tensors, Adam with decoupled weight decay on one flat parameter vector, gradient clipping, warm-up and
    cosine, an exponential moving average of the weights, and an early stop on the log-likelihood of held-out rows under
    fixed noise. The weights kept are the averaged ones of the last check that is not significantly worse than the best
    one (by one standard error of the difference, row by row): a handful of held-out rows shall not end a schedule by
    chance.

    Parameters
    ----------
    max_epochs : int or "auto"
        Passes over the rows at most; by default as many as make ``40 sqrt(n)`` optimizer steps, 300 to 3,000.
    batch_size : int or "auto"
        Rows a step; by default a power of two between 32 and 1,024 that grows with the rows.
    learning_rate : float
        Peak rate of Adam.
    weight_decay : float
        Decoupled weight decay of weight matrices; biases and scales are left alone.
    noise : float or "auto"
        Standard deviation, in model space, of the Gaussian noise added to numbers in training: the density learned is
        that of the slightly blurred data. By default it falls with the fourth root of the number of rows.
    patience : float
        Share of the schedule without an acceptable held-out likelihood after which training stops.
    ema : float
        Decay a step of the weight average at its longest; it averages over at most a tenth of the steps done.
    clip : float
        Largest norm of the gradient.
    device, precision, compile
        Where and how to compute: ``"auto"``, ``"cpu"`` or ``"cuda"``; ``"float32"`` or ``"bf16"`` autocast; whether
        heavy pointwise kernels are compiled.
    seed : int
        Seeds the order of rows and the noise.
    verbose : bool or "auto"
        Progress bar; ``"auto"`` shows one when standard error is a terminal.
    callbacks : tuple of Callback
    """

    max_epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    noise: float | Literal["auto"] = "auto"
    patience: float = 0.3
    ema: float = 0.995
    clip: float = 5.0
    device: str = "auto"
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    seed: int = 0
    verbose: bool | Literal["auto"] = "auto"
    callbacks: tuple[Callback, ...] = ()

    def fit(
        self,
        model: GenerativeModel,
        space: Space,
        train: Encoded,
        *,
        weight: NDArray[np.float64] | None = None,
        held_out: Encoded | None = None,
        held_out_weight: NDArray[np.float64] | None = None,
        constant_rate: bool = False,
        detector: Any = None,
        info: dict[str, Any] | None = None,
        finish: Callable[[Run], None] | None = None,
        watched: bool = True,
    ) -> Run:
        """Train `model` in place.

        Parameters
        ----------
        model : GenerativeModel
        space : Space
        train, held_out : Encoded
            Rows with the bounds of their cells; without `held_out` the whole schedule runs and its last weights stay.
        weight, held_out_weight : ndarray of shape (n,), optional
            Weight of every row's loss.
        constant_rate : bool
            Keep the learning rate after warm-up, for rows that arrive in pieces.
        detector : object, optional
            Handed to callbacks as ``run.detector``.
        info : dict, optional
            More facts for ``run.info``.
        finish : callable, optional
            What completes the detector, before callbacks hear that the fit has ended.
        watched : bool
            Whether callbacks and a person see this fit; auxiliary models train unseen.

        Returns
        -------
        Run

        Raises
        ------
        FloatingPointError
            If the loss stays non-finite after the rate was lowered, naming what to change.
        """
        device = runtime.resolve_device(self.device)
        plan = Plan.make(self.max_epochs, self.batch_size, len(train), constant_rate)
        facts = {"rows": len(train), "coordinates": space.dim, "device": str(device), "precision": self.precision}
        held = 0 if held_out is None else len(held_out)
        run = Run(model, {**facts, "held_out_rows": held, **plan.facts(), **(info or {})}, detector=detector)
        bar = [ProgressBar()] if _person_is_looking(self.verbose) else []
        watchers = [*self.callbacks, *default_callbacks, *bar] if watched else []
        try:
            for watcher in watchers:
                watcher.on_fit_begin(run)
            with self._environment(model, plan.batch, device):
                _Loop(self, run, plan, space, (train, weight), (held_out, held_out_weight), device).go(watchers)
            if finish is not None:
                finish(run)
            for watcher in watchers:
                watcher.on_fit_end(run)
        except BaseException as error:
            for watcher in watchers:
                watcher.on_error(run, error)
            raise
        return run

    @contextmanager
    def _environment(self, model: nn.Module, batch: int, device: torch.device) -> Iterator[None]:
        work = sum(p.numel() for p in model.parameters()) * batch
        count = torch.get_num_threads() if work > THREADED_WORK or device.type != "cpu" else 1
        model.to(device).train()
        with runtime.threads(count), runtime.seeded(self.seed, 1, device=device), runtime.compiling(self.compile):
            yield
        model.eval()


class _Loop:
    """State of one fit."""

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        plan: Plan,
        space: Space,
        rows: tuple[Encoded, NDArray[np.float64] | None],
        held: tuple[Encoded | None, NDArray[np.float64] | None],
        device: torch.device,
    ) -> None:
        self.trainer, self.run, self.plan, self.space, self.device = trainer, run, plan, space, device
        (train, weight), (held_out, held_weight) = rows, held
        self.noise = usual_noise(len(train)) if trainer.noise == "auto" else trainer.noise
        run.info["noise"] = self.noise
        self.rows = Batches(train, space, self.noise, device)
        self.log_det = _mean(train.log_det, weight)
        self.weight = None if weight is None else torch.from_numpy(weight / weight.mean()).float().to(device)
        self.objectives, self.flats = flatten(run.model)
        self.scale, self.accepted = 1.0, True
        self._new_optimizers()
        self.averages = {key: flat.vector.detach().clone() for key, flat in self.flats.items()}
        self.best = self._copy(self.averages)
        self.step = 0
        self.held = None if held_out is None else self._fix_noise(held_out)
        self.held_log_det = 0.0 if held_out is None else _mean(held_out.log_det, held_weight)
        self.judge = Judge(held_weight)

    def go(self, watchers: list[Callback]) -> None:
        every = max(1, STEPS_BETWEEN_CHECKS // self.plan.batches)
        failures, last_good, stale = 0, self._copy(self.averages), 0.0
        begun = time.perf_counter()
        try:
            for epoch in range(1, self.plan.epochs + 1):
                self.run.model.on_epoch((epoch - 1) / self.plan.epochs)
                loss = self._epoch()
                if epoch % every and epoch != self.plan.epochs:
                    continue
                entry = self._check(epoch, loss, time.perf_counter() - begun)
                if not math.isfinite(entry["train_nats"]) or not self._finite():
                    failures += 1
                    self._recover(failures, last_good)
                    continue
                failures, last_good = 0, self._copy(self.averages)
                self.run.history.append(entry)
                stale = 0.0 if self.accepted else stale + every
                if self.accepted:
                    self.best, self.run.best_epoch = last_good, epoch
                stop = [watcher.on_epoch_end(self.run) for watcher in watchers]
                if any(stop):
                    self.run.stopped_because = "callback"
                    break
                if self.held is not None and stale > self.trainer.patience * self.plan.epochs:
                    self.run.stopped_because = "held-out nats"
                    break
        except KeyboardInterrupt:
            self.run.stopped_because = "interrupted"
            warnings.warn("training interrupted: the best weights so far are kept", RuntimeWarning, stacklevel=4)
        finally:
            for key, flat in self.flats.items():
                flat.vector.data.copy_(self.best[key])
                flat.release()

    def _epoch(self) -> Tensor:
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.rows), device=self.device)
        for index in order.tensor_split(self.plan.batches):
            z = self.rows.draw(index)
            weight = None if self.weight is None else self.weight.index_select(0, index)
            losses = [self._step(key, objective, z, weight) for key, objective in self.objectives]
            total += losses[0] * len(index)
            self.step += 1
        return total / len(self.rows)

    def _step(self, key: int, objective: Any, z: Tensor, weight: Tensor | None) -> Tensor:
        flat, optimizer = self.flats[key], self.optimizers[key]
        rate = self.trainer.learning_rate * self.scale * self.plan.rate(self.step)
        assert flat.vector.grad is not None
        flat.vector.grad.zero_()
        with self._autocast():
            losses = objective(z)
        loss = losses.float().mean() if weight is None else (losses.float() * weight).mean()
        loss.backward()
        norm = torch.linalg.vector_norm(flat.vector.grad)
        flat.vector.grad.mul_((self.trainer.clip / (norm + 1e-6)).clamp_(max=1.0))
        optimizer.step(flat.vector.grad, rate, self.trainer.weight_decay)
        # The average's memory grows with the steps done, so that it never remembers the initial weights.
        decay = min(self.trainer.ema, self.step / (self.step + 10.0))
        self.averages[key].lerp_(flat.vector.detach(), 1.0 - decay)
        detached: Tensor = loss.detach()
        return detached

    def _check(self, epoch: int, loss: Tensor, seconds: float) -> dict[str, float]:
        entry = {
            "epoch": epoch,
            "step": self.step,
            "train_nats": self.log_det - float(loss),
            "learning_rate": self.trainer.learning_rate * self.scale * self.plan.rate(self.step - 1),
            "rows_per_s": epoch * len(self.rows) / seconds,
            "seconds": seconds,
        }
        if self.held is not None:
            with self._averaged(), torch.no_grad():
                losses = [self.run.model.monitor(part) for part in self.held.split(4096)]
            loss_now, self.accepted = self.judge(torch.cat(losses).double().cpu().numpy())
            entry["held_out_nats"] = self.held_log_det - loss_now
        return entry

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        current = {key: flat.vector.detach().clone() for key, flat in self.flats.items()}
        self._load(self.averages)
        self.run.model.eval()
        yield
        self.run.model.train()
        self._load(current)

    def _recover(self, failures: int, last_good: dict[int, Tensor]) -> None:
        if failures > 1:
            widest = int(self.rows.z.flatten(1).abs().amax(dim=0).argmax())
            raise FloatingPointError(
                f"the training loss is not finite even at learning_rate={self.trainer.learning_rate * self.scale:g}; "
                f"lower learning_rate, or look at column {self.space.names[widest]!r}, which reaches "
                f"{float(self.rows.z.flatten(1)[:, widest].abs().max()):.3g} standard deviations"
            )
        self.scale *= 0.1
        self._load(last_good)
        self.averages = self._copy(last_good)
        self._new_optimizers()
        rate = self.trainer.learning_rate * self.scale
        warnings.warn(
            f"the training loss was not finite; the last good weights are restored and the learning rate is {rate:g}",
            RuntimeWarning,
            stacklevel=5,
        )

    def _new_optimizers(self) -> None:
        self.optimizers = {key: Adam(flat.vector.data, flat.matrices) for key, flat in self.flats.items()}

    def _fix_noise(self, held_out: Encoded) -> Tensor:
        with runtime.seeded(self.trainer.seed, 2, device=self.device):
            rows = Batches(held_out, self.space, self.noise, self.device)
            return rows.draw(torch.arange(len(rows), device=self.device))

    def _autocast(self) -> Any:
        if self.trainer.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(flat.vector).all()) for flat in self.flats.values())

    def _load(self, state: dict[int, Tensor]) -> None:
        for key, flat in self.flats.items():
            flat.vector.data.copy_(state[key])

    def _copy(self, state: dict[int, Tensor]) -> dict[int, Tensor]:
        return {key: value.clone() for key, value in state.items()}


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64] | None) -> float:
    return float(np.average(values, weights=weight))


def _person_is_looking(verbose: bool | Literal["auto"]) -> bool:
    return sys.stderr.isatty() if verbose == "auto" else verbose
