"""The one training loop: data, a model's objectives and a schedule in, the best averaged weights out."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomgen import runtime
from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space

WARMUP = 0.05
"""Share of the schedule over which the learning rate rises from zero."""
FINAL_RATE = 0.02
"""Share of the peak learning rate at which the cosine ends."""
STEPS_BETWEEN_CHECKS = 20
"""Held-out rows are judged once an epoch, but never after fewer steps than this."""
THREADED_WORK = 1e8
"""Parameters times batch rows above which a training step gains from more than one thread."""


class Callback:
    """Watches a fit. Override what is needed; every method receives the :class:`Run`."""

    def on_fit_begin(self, run: Run) -> None:
        """Before the first epoch."""

    def on_epoch_end(self, run: Run) -> bool | None:
        """After every entry of ``run.history``; return True to stop training."""

    def on_fit_end(self, run: Run) -> None:
        """After the best weights are restored."""

    def on_error(self, run: Run, error: BaseException) -> None:
        """When the fit ends with an exception, before it is raised."""


@dataclass
class Run:
    """What happened in one fit.

    Parameters
    ----------
    model : GenerativeModel
    info : dict
        Facts known before the first epoch: rows, coordinates, device, batch size, epochs planned, data digest.
    history : list of dict
        One entry a check: ``epoch``, ``step``, ``train_nats`` and ``held_out_nats`` (mean log-likelihood a row in the
        user's units, nats; of the training batches and of the averaged weights), ``learning_rate``, ``rows_per_s``,
        ``seconds``.
    best_epoch : int
        The epoch whose averaged weights were kept.
    stopped_because : str
        ``"schedule"``, ``"held-out nats"``, ``"callback"`` or ``"interrupted"``.
    detector : object, optional
        The detector that trains, where one does.
    """

    model: GenerativeModel
    info: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_because: str = "schedule"
    detector: Any = None


@dataclass(frozen=True)
class Trainer:
    """Fit a generative model to encoded rows by stochastic gradients.

    Resident tensors, fused AdamW on one flat parameter vector, gradient clipping, warm-up and cosine, an exponential
    moving average of the weights, and an early stop on the log-likelihood of held-out rows under fixed noise. The
    weights kept are the averaged ones of the best check.

    Parameters
    ----------
    max_epochs : int or "auto"
        Passes over the rows at most; by default as many as make ``STEPS`` optimizer steps of the batch.
    batch_size : int or "auto"
        Rows a step; by default a power of two between 32 and 1,024 that grows with the rows.
    learning_rate : float
        Peak rate of AdamW.
    weight_decay : float
        Decoupled weight decay.
    noise : float
        Standard deviation, in model space, of the Gaussian noise added to numbers in training: the density learned is
        that of the slightly blurred data.
    patience : float
        Share of the schedule without a better held-out likelihood after which training stops.
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
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    noise: float = 0.1
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

        Returns
        -------
        Run

        Raises
        ------
        FloatingPointError
            If the loss stays non-finite after the rate was lowered, naming what to change.
        """
        device = runtime.resolve_device(self.device)
        plan = Plan.make(self, len(train), constant_rate)
        facts = {"rows": len(train), "coordinates": space.dim, "device": str(device), "precision": self.precision}
        held = 0 if held_out is None else len(held_out)
        run = Run(model, {**facts, "held_out_rows": held, **plan.facts(), **(info or {})}, detector=detector)
        watchers = [*self.callbacks, *([ProgressBar()] if _person_is_looking(self.verbose) else [])]
        try:
            for watcher in watchers:
                watcher.on_fit_begin(run)
            with self._environment(model, plan.batch, device):
                _Loop(self, run, plan, space, (train, weight), (held_out, held_out_weight), device).go(watchers)
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


@dataclass(frozen=True)
class Plan:
    """How many rows a step, epochs, and steps; and the learning rate of each step."""

    batch: int
    epochs: int
    batches: int
    constant: bool

    STEPS = 2000

    @classmethod
    def make(cls, trainer: Trainer, n: int, constant: bool) -> Plan:
        """Derive the schedule from the number of rows."""
        batch = trainer.batch_size
        if batch == "auto":
            batch = 2 ** int(np.clip(round(math.log2(max(n, 1) / 16)), 5, 8 if n < 100_000 else 10))
        batches = max(1, round(n / batch))
        epochs = trainer.max_epochs
        if epochs == "auto":
            epochs = max(1, round(cls.STEPS / batches))
        return cls(batch, epochs, batches, constant)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.batches

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at `step`."""
        progress = step / self.steps
        warmth = min(1.0, (step + 1) / max(1.0, WARMUP * self.steps))
        if self.constant:
            return warmth
        return warmth * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))

    def facts(self) -> dict[str, int]:
        """The plan as numbers to log."""
        return {"batch_size": self.batch, "epochs_planned": self.epochs, "steps_planned": self.steps}


class FlatParameters:
    """Parameters of a module gathered into one vector, which they become views of.

    One tensor makes the optimizer, the clipping, the average and the snapshots single operations; for small networks
    this is a third of a training step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        start = 0
        for p in self.parameters:
            end = start + p.numel()
            p.data = self.vector.data[start:end].view_as(p)
            p.grad = self.vector.grad[start:end].view_as(p)
            start = end

    def release(self) -> None:
        """Give every parameter storage of its own again."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None


class Batches:
    """Training rows on the device; draws fresh noise between the bounds of every cell."""

    def __init__(self, rows: Encoded, space: Space, noise: float, device: torch.device) -> None:
        self.exact = rows.low is rows.z
        self.z = torch.from_numpy(rows.z).to(device)
        self.low = self.z if self.exact else torch.from_numpy(rows.low).to(device)
        self.width = self.z if self.exact else torch.from_numpy(_width(rows)).to(device)
        self.gaps = not self.exact and bool(torch.isinf(self.low).any())
        cells = [k for k, kind in enumerate(space.kinds) if kind == "cell"]
        self.cells = torch.tensor(cells, dtype=torch.int64, device=device)
        blur = torch.full((space.dim,), noise, device=device)
        blur[self.cells] = 0.0
        self.blur = blur.reshape(space.shape)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.z)

    def draw(self, index: Tensor) -> Tensor:
        """Rows at `index` with fresh noise."""
        z = self.z.index_select(0, index) if self.exact else self._between(index)
        if self.gaps:
            noise = torch.randn_like(z)
            return torch.where(torch.isinf(self.low.index_select(0, index)), noise, z.addcmul(self.blur, noise))
        return z.addcmul_(self.blur, torch.randn_like(z)) if self.noise > 0 else z

    def _between(self, index: Tensor) -> Tensor:
        low, width = self.low.index_select(0, index), self.width.index_select(0, index)
        z = torch.addcmul(low, width, torch.rand_like(low))
        if len(self.cells):
            inside = z.index_select(1, self.cells).clamp_(1e-6, 1 - 1e-6)
            z.index_copy_(1, self.cells, torch.special.ndtri(inside))
        return z


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
        self.rows = Batches(train, space, trainer.noise, device)
        self.log_det = _mean(train.log_det, weight)
        self.weight = None if weight is None else torch.from_numpy(weight / weight.mean()).float().to(device)
        self.objectives, self.flats = _flatten(run.model)
        self.scale = 1.0
        self._new_optimizers()
        self.averages = {key: flat.vector.detach().clone() for key, flat in self.flats.items()}
        self.best = self._copy(self.averages)
        self.best_nats = -math.inf
        self.step = 0
        self.held = None if held_out is None else self._fix_noise(held_out)
        self.held_log_det = 0.0 if held_out is None else _mean(held_out.log_det, held_weight)
        self.held_weight = held_weight

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
                judged = entry.get("held_out_nats", math.inf)
                if self.held is None or judged > self.best_nats:
                    self.best_nats, self.best, stale = judged, last_good, 0.0
                    self.run.best_epoch = epoch
                else:
                    stale += every
                if any([watcher.on_epoch_end(self.run) for watcher in watchers]):
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
        optimizer.param_groups[0]["lr"] = rate
        assert flat.vector.grad is not None
        flat.vector.grad.zero_()
        with self._autocast():
            losses = objective(z)
        loss = losses.float().mean() if weight is None else (losses.float() * weight).mean()
        loss.backward()
        norm = torch.linalg.vector_norm(flat.vector.grad)
        flat.vector.grad.mul_((self.trainer.clip / (norm + 1e-6)).clamp_(max=1.0))
        optimizer.step()
        # The average's memory grows with the steps done, so that it never remembers the initial weights.
        decay = min(self.trainer.ema, self.step / (self.step + 10.0))
        self.averages[key].lerp_(flat.vector.detach(), 1.0 - decay)
        return loss.detach()

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
            judged = torch.cat(losses).double().cpu().numpy()
            entry["held_out_nats"] = self.held_log_det - _mean(judged, self.held_weight)
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
        trainer = self.trainer
        self.optimizers = {
            key: torch.optim.AdamW(
                [flat.vector], lr=trainer.learning_rate, weight_decay=trainer.weight_decay, fused=True
            )
            for key, flat in self.flats.items()
        }

    def _fix_noise(self, held_out: Encoded) -> Tensor:
        with runtime.seeded(self.trainer.seed, 2, device=self.device):
            rows = Batches(held_out, self.space, self.trainer.noise, self.device)
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


class ProgressBar(Callback):
    """A bar on standard error with the nats of the last check."""

    def on_fit_begin(self, run: Run) -> None:
        """Open the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[nats]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("fit", total=run.info["epochs_planned"], nats="")
        self._progress.start()

    def on_epoch_end(self, run: Run) -> None:
        """Move the bar."""
        entry = run.history[-1]
        nats = entry.get("held_out_nats", entry["train_nats"])
        self._progress.update(self._task, completed=entry["epoch"], nats=f"{nats:.3f} nats")

    def on_fit_end(self, run: Run) -> None:
        """Close the bar."""
        self._progress.stop()

    def on_error(self, run: Run, error: BaseException) -> None:
        """Close the bar."""
        if hasattr(self, "_progress"):
            self._progress.stop()


def _flatten(model: GenerativeModel) -> tuple[list[tuple[int, Any]], dict[int, FlatParameters]]:
    """Objectives with the number of the parameter group each one moves; groups are equal or disjoint."""
    groups: dict[tuple[int, ...], int] = {}
    flats: dict[int, FlatParameters] = {}
    objectives = []
    for parameters, loss in model.objectives():
        listed = list(parameters)
        ids = tuple(id(p) for p in listed)
        if ids not in groups:
            if any(set(ids) & set(other) for other in groups):
                raise ValueError(f"{type(model).__name__}.objectives(): two groups share some but not all parameters")
            groups[ids] = len(groups)
            flats[groups[ids]] = FlatParameters(listed)
        objectives.append((groups[ids], loss))
    return objectives, flats


def _width(rows: Encoded) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return rows.high - rows.low


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64] | None) -> float:
    return float(np.average(values, weights=weight))


def _person_is_looking(verbose: bool | Literal["auto"]) -> bool:
    return sys.stderr.isatty() if verbose == "auto" else verbose
