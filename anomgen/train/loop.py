"""The training loop: batches, steps, checks on held-out rows, and the weights worth keeping."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen import runtime
from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space
from anomgen.train.adam import Adam
from anomgen.train.feed import Batch, Feed, Passes, Passing, Resident
from anomgen.train.judge import Judge, mean_of
from anomgen.train.plan import Plan, usual_noise
from anomgen.train.run import Callback, Run
from anomgen.train.tensors import Batches, flatten

if TYPE_CHECKING:
    from anomgen.train.trainer import Trainer

STEPS_BETWEEN_CHECKS = 20
"""Held-out rows are judged once an epoch, but never after fewer steps than this."""
MEASURED = 1000
"""Rows that a model's signs of health are measured on at most."""
TRUSTED = 0.1
"""Share of the schedule after which the model is good enough to tell which rows to leave out."""

Weighted = tuple[Encoded | Passes, NDArray[np.float64] | None]
Held = tuple[Encoded | None, NDArray[np.float64] | None]


class Loop:
    """State of one fit."""

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        plan: Plan,
        space: Space,
        rows: Weighted,
        held: Held,
        device: torch.device,
    ) -> None:
        self.trainer, self.run, self.plan, self.space, self.device = trainer, run, plan, space, device
        (train, weight), (held_out, held_weight) = rows, held
        noise = usual_noise(len(train)) if trainer.noise == "auto" else trainer.noise
        run.info["noise"] = noise
        make = partial(Batches, space=space, noise=noise, device=device, codes=run.model.codes)
        self.feed: Feed = Resident(train, weight, make) if isinstance(train, Encoded) else Passing(train, make)
        run.model.prepare(self.feed.known.z)
        self.names = ("train_nats", "held_out_nats") if run.model.nats else ("train_loss", "held_out_loss")
        self.objectives, self.flats = flatten(run.model)
        self.scale, self.accepted = 1.0, True
        self._new_optimizers()
        self.averages = {key: flat.vector.detach().clone() for key, flat in self.flats.items()}
        self.best = self._copy(self.averages)
        self.step = 0
        self.held = None if held_out is None else self._fix_noise(make(held_out))
        self.held_log_det = 0.0 if held_out is None else mean_of(held_out.log_det, held_weight)
        self.judge = Judge(held_weight, trainer.robust)

    @property
    def rate(self) -> float:
        """Peak learning rate as it is now."""
        return self.trainer.learning_rate * self.run.model.rate * self.scale

    def go(self, watchers: list[Callback]) -> None:
        """Train until the schedule ends or something stops it, and load the weights worth keeping."""
        every = max(1, STEPS_BETWEEN_CHECKS // self.plan.length)
        failures, last_good, stale = 0, self._copy(self.averages), 0.0
        begun = time.perf_counter()
        batches = self.feed.batches(self.plan.batches)
        try:
            for epoch in range(1, self.plan.epochs + 1):
                self.run.model.on_epoch((epoch - 1) / self.plan.epochs)
                loss = self._epoch(batches)
                if epoch % every and epoch != self.plan.epochs:
                    continue
                entry = self._check(epoch, loss, time.perf_counter() - begun)
                if not math.isfinite(entry[self.names[0]]) or not self._finite():
                    failures += 1
                    self._recover(failures, last_good)
                    continue
                failures, last_good = 0, self._copy(self.averages)
                self.run.history.append(entry)
                stale = 0.0 if self.accepted else stale + every
                if self.accepted:
                    self.best, self.run.best_epoch = last_good, epoch
                if self.trainer.robust and epoch >= TRUSTED * self.plan.epochs:
                    self.feed.leave_out(self.trainer.robust, self._judged)
                stop = [watcher.on_epoch_end(self.run) for watcher in watchers]
                if any(stop):
                    self.run.stopped_because = "callback"
                    break
                if self.held is not None and self.run.model.judged and stale > self.trainer.patience * self.plan.epochs:
                    self.run.stopped_because = "held-out nats"
                    break
        except KeyboardInterrupt:
            self.run.stopped_because = "interrupted"
            warnings.warn("training interrupted: the best weights so far are kept", RuntimeWarning, stacklevel=4)
        finally:
            batches.close()
            for key, flat in self.flats.items():
                flat.vector.data.copy_(self.best[key])
                flat.release()

    def _epoch(self, batches: Iterator[Batch]) -> Tensor:
        total, rows = torch.zeros((), device=self.device), 0
        for z, weight in islice(batches, min(self.plan.length, self.plan.steps - self.step)):
            losses = [self._step(key, objective, z, weight) for key, objective in self.objectives]
            total += losses[0] * len(z)
            rows += len(z)
            self.step += 1
        return total / rows

    def _step(self, key: int, objective: Any, z: Tensor, weight: Tensor | None) -> Tensor:
        flat, optimizer = self.flats[key], self.optimizers[key]
        rate = self.rate * self.plan.rate(self.step)
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
        nats = self.run.model.nats
        entry = {
            "epoch": epoch,
            "step": self.step,
            self.names[0]: self.feed.log_det - float(loss) if nats else float(loss),
            "learning_rate": self.rate * self.plan.rate(self.step - 1),
            "rows_per_s": self.step / self.plan.batches * len(self.feed) / seconds,
            "seconds": seconds,
        }
        with self._averaged():
            if self.held is not None:
                loss_now, accepted = self.judge(losses_of(self.run.model, self.held))
                self.accepted = accepted or not self.run.model.judged
                entry[self.names[1]] = self.held_log_det - loss_now if nats else loss_now
            entry |= self.run.model.measure(self.sample if self.held is None else self.held[:MEASURED])
        return entry

    @cached_property
    def sample(self) -> Tensor:
        """Some training rows under fixed noise."""
        rows = self.feed.known
        with runtime.seeded(self.trainer.seed, 3, device=self.device):
            some = torch.linspace(0, len(rows) - 1, min(len(rows), MEASURED), device=self.device)
            return rows.draw(some.long())

    def _judged(self, rows: Batches) -> NDArray[np.float64]:
        """Losses of rows under the averaged weights and fixed noise."""
        with self._averaged():
            return losses_of(self.run.model, self._fix_noise(rows))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        current = {key: flat.vector.detach().clone() for key, flat in self.flats.items()}
        self._load(self.averages)
        self.run.model.eval()
        # Measuring may draw, but shall not change what training draws next.
        with torch.no_grad(), runtime.seeded(self.trainer.seed, 4, device=self.device):
            yield
        self.run.model.train()
        self._load(current)

    def _recover(self, failures: int, last_good: dict[int, Tensor]) -> None:
        if failures > 1:
            z = self.feed.known.z.flatten(1).nan_to_num(0.0).abs()
            widest = int(z.amax(dim=0).argmax())
            raise FloatingPointError(
                f"the training loss is not finite even at learning_rate={self.trainer.learning_rate * self.scale:g}; "
                f"lower learning_rate, or look at column {self.space.names[widest]!r}, which reaches "
                f"{float(z[:, widest].max()):.3g} standard deviations"
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

    def _fix_noise(self, rows: Batches) -> Tensor:
        with runtime.seeded(self.trainer.seed, 2, device=self.device):
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


def losses_of(model: GenerativeModel, z: Tensor) -> NDArray[np.float64]:
    """What the model judges rows by, one loss a row."""
    with torch.no_grad():
        losses = torch.cat([model.monitor(part) for part in z.split(256 if model.work else 4096)])
    return np.asarray(losses.double().cpu().numpy())
