"""The trainer: one loop for every family."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from anomgen import runtime
from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space, abilities
from anomgen.train.feed import Passes
from anomgen.train.judge import Judge, mean_of, trimmed
from anomgen.train.loop import Held, Loop, losses_of
from anomgen.train.plan import Plan, usual_noise
from anomgen.train.run import Callback, ProgressBar, Run, default_callbacks
from anomgen.train.tensors import Batches

THREADED_WORK = 1e8
"""Multiplications of a batch above which a training step gains from more than one thread."""
ROUNDS = 5
"""Solutions in closed form, each of the rows that the last one found likely, where some rows are left out."""


@dataclass(frozen=True)
class Trainer:
    """Fit a generative model to encoded rows by stochastic gradients.

    Rows are held on the device, or pass by and are mixed on their way. Adam with decoupled weight decay on one flat
    parameter vector, gradient clipping, warm-up and cosine, an exponential moving average of the weights, and an early
    stop on the log-likelihood of held-out rows under fixed noise. The weights kept are the averaged ones of the last
    check that is not significantly worse than the best one (by one standard error of the difference, row by row): a
    handful of held-out rows shall not end a schedule by chance.

    Parameters
    ----------
    max_epochs : int or "auto"
        Passes over the rows at most; by default as many as make ``40 sqrt(n)`` optimizer steps, 300 to 3,000. Of more
        than three million rows these are less than one pass. Few passes of more than 500 steps are cut into up to ten
        epochs.
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
    robust : float
        Share of the rows left out of training, for data that holds anomalies: after every epoch the averaged weights
        judge all rows, and those of the highest losses do not train in the next. Held-out losses are trimmed alike.
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
    robust: float = 0.0
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
        train: Encoded | Passes,
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
        train : Encoded or Passes
            Rows with the bounds of their cells; or rows that are too many to hold, and pass by. A model that is solved
            instead is solved on the sample of these.
        held_out : Encoded, optional
            Without such rows the whole schedule runs and its last weights stay.
        weight, held_out_weight : ndarray of shape (n,), optional
            Weight of every row's loss; rows that pass by have none.
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
        solved = "fit_closed_form" in abilities(model)
        plan = Plan.make(self.max_epochs, self.batch_size, len(train), constant_rate)
        facts = {"rows": len(train), "coordinates": space.dim, "device": str(device), "precision": self.precision}
        held = 0 if held_out is None else len(held_out)
        planned = {"epochs_planned": 1} if solved else plan.facts()
        run = Run(model, {**facts, "held_out_rows": held, **planned, **(info or {})}, detector=detector)
        bar = [ProgressBar()] if _person_is_looking(self.verbose) else []
        watchers = [*self.callbacks, *default_callbacks, *bar] if watched else []
        try:
            for watcher in watchers:
                watcher.on_fit_begin(run)
            judges = (held_out, held_out_weight)
            with self._environment(model, plan.batch, device):
                if solved:
                    known = train if isinstance(train, Encoded) else train.sample
                    self._solve(run, space, (known, weight), judges, device, watchers)
                else:
                    Loop(self, run, plan, space, (train, weight), judges, device).go(watchers)
                    with torch.no_grad():
                        model.conclude()
            if finish is not None:
                finish(run)
            for watcher in watchers:
                watcher.on_fit_end(run)
        except BaseException as error:
            for watcher in watchers:
                watcher.on_error(run, error)
            raise
        return run

    def rows_used(self, n: int) -> int:
        """Rows of `n` that the schedule looks at: all, unless there are so many that it ends within the first pass."""
        plan = Plan.make(self.max_epochs, self.batch_size, n, constant=False)
        return min(n, plan.steps * -(-n // plan.batches))

    def _solve(
        self,
        run: Run,
        space: Space,
        rows: tuple[Encoded, NDArray[np.float64] | None],
        held: Held,
        device: torch.device,
        watchers: list[Callback],
    ) -> None:
        """Fit a model that knows its solution; where rows are left out, again without those it finds unlikely."""
        (train, weight), (held_out, held_weight) = rows, held
        begun = time.perf_counter()
        run.info["noise"] = usual_noise(len(train)) if self.noise == "auto" else self.noise
        batches = Batches(train, space, run.info["noise"], device, run.model.codes)
        z = batches.draw(torch.arange(len(train), device=device), blurred=False)
        judged = None
        if held_out is not None:
            others = Batches(held_out, space, 0.0, device, run.model.codes)
            judged = others.draw(torch.arange(len(others), device=device))
        kept = np.ones(len(train)) if weight is None else weight
        model: Any = run.model
        for _ in range(ROUNDS if self.robust else 1):
            some = torch.from_numpy(np.flatnonzero(kept > 0)).to(device)
            share = None if weight is None else torch.from_numpy(kept[kept > 0]).to(device)
            model.fit_closed_form(z[some], share, judged, batches.blur)
            losses = losses_of(model, z)
            before, kept = kept, trimmed(losses, self.robust, weight)
            if np.array_equal(before, kept):
                break
        seconds = time.perf_counter() - begun
        entry = {"epoch": 1, "step": 1, "train_nats": mean_of(train.log_det - losses, kept)}
        if held_out is not None and judged is not None:
            entry["held_out_nats"] = (
                mean_of(held_out.log_det, held_weight) - Judge(held_weight, self.robust)(losses_of(model, judged))[0]
            )
        run.history.append({**entry, "rows_per_s": len(train) / seconds, "seconds": seconds})
        run.best_epoch = 1
        for watcher in watchers:
            watcher.on_epoch_end(run)

    @contextmanager
    def _environment(self, model: GenerativeModel, batch: int, device: torch.device) -> Iterator[None]:
        work = max(sum(p.numel() for p in model.parameters()), model.work) * batch
        count = torch.get_num_threads() if work > THREADED_WORK or device.type != "cpu" else 1
        model.to(device).train()
        with runtime.threads(count), runtime.seeded(self.seed, 1, device=device), runtime.compiling(self.compile):
            yield
        model.eval()


def _person_is_looking(verbose: bool | Literal["auto"]) -> bool:
    return sys.stderr.isatty() if verbose == "auto" else verbose
