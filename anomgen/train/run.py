"""What a fit leaves behind, and who watches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from anomgen.generative import GenerativeModel


class Callback:
    """Watches a fit. Override what is needed; every method receives the :class:`Run`."""

    def on_fit_begin(self, run: Run) -> None:
        """Before the first epoch."""

    def on_epoch_end(self, run: Run) -> bool | None:
        """After every entry of ``run.history``; return True to stop training."""

    def on_fit_end(self, run: Run) -> None:
        """After the best weights are restored and, where a detector trains, its threshold is set."""

    def on_error(self, run: Run, error: BaseException) -> None:
        """When the fit ends with an exception, before it is raised."""


default_callbacks: list[Callback] = []
"""Watch every fit of this process, besides its own callbacks."""


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
        user's units, nats, under the training noise; of the training batches and of the averaged weights; instead
        ``train_loss`` and ``held_out_loss`` where a model's loss is not in nats), ``learning_rate``, ``rows_per_s``,
        ``seconds``, and what the model measures of itself.
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
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=console.is_terminal)
        self._task = self._progress.add_task("fit", total=run.info["epochs_planned"], nats="")
        self._progress.start()

    def on_epoch_end(self, run: Run) -> None:
        """Move the bar."""
        entry = run.history[-1]
        name = next(n for n in ("held_out_nats", "train_nats", "held_out_loss", "train_loss") if n in entry)
        shown = f"{entry[name]:.3f} {'nats' if name.endswith('nats') else 'loss'}"
        self._progress.update(self._task, completed=entry["epoch"], nats=shown)

    def on_fit_end(self, run: Run) -> None:
        """Close the bar."""
        self._progress.stop()

    def on_error(self, run: Run, error: BaseException) -> None:
        """Close the bar."""
        if hasattr(self, "_progress"):
            self._progress.stop()
