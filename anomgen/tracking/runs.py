"""Fits as MLflow runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from anomgen.detector.state import versions
from anomgen.tracking.flavor import log_model
from anomgen.tracking.store import LONGEST_VALUE, chosen_store, experiment_id
from anomgen.train import Callback, Run, default_callbacks

FLUSH_SECONDS = 5.0
"""How long metrics wait to be sent together: one call for each would cost more than small epochs do."""
BATCH_LIMIT = 1000
"""Metrics that MLflow takes in one call."""
WHEN = ("epoch", "step", "seconds")
"""Entries of the history that say when; all others are metrics."""
NOT_LOGGED = ("callbacks", "verbose")
CLASS_TAG, DATA_TAG = "anomgen.class", "anomgen.data_sha256"


@dataclass
class _Logged:
    """Where a detector's fit was logged, so that later pieces of its data go to the same run."""

    store: str
    run_id: str
    epochs: int


_last: WeakKeyDictionary[Any, _Logged] = WeakKeyDictionary()


@dataclass
class _Session:
    """An open run of one fit."""

    run_id: str
    owned: bool
    store: Any
    began: int
    first_epoch: int
    sent: int = 0
    flushed: float = 0.0


class MLflowCallback(Callback):
    """Log every fit of a detector as an MLflow run.

    Parameters and facts are logged once, at the start; nats, learning rate, rows per second and what the model measures
    of itself at every check, in batches; the best epoch, the threshold and whether training converged at the end. A fit
    that raises ends its run as FAILED, an interrupted one as KILLED.

    A fit inside ``mlflow.start_run()`` is logged into that run, and leaves it open. Where a fit is logged in it
    already, a nested run is made. All pieces that `partial_fit` learns from go to one run.

    Parameters
    ----------
    tracking_uri : str, optional
        The MLflow store, for the time of the fit; by default the one that MLflow is set to, and without one
        ``sqlite:///mlflow.db`` in the current folder.
    experiment : str, optional
        Name of the experiment, made if there is none.
    run_name : str, optional
    tags : mapping of str to str, optional
        More tags of the run.
    log_model : bool, default=False
        Log the fitted detector too, as :func:`log_model` does; not after `partial_fit`.
    registered_model_name : str, optional
        Register the logged model under this name.

    Attributes
    ----------
    run_id : str or None
        The run of the last fit.
    store : str or None
        The MLflow store of that run.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        log_model: bool = False,
        registered_model_name: str | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.tags = tags
        self.log_model = log_model
        self.registered_model_name = registered_model_name
        self.run_id: str | None = None
        self.store: str | None = None
        self._sessions: dict[int, _Session] = {}

    def on_fit_begin(self, run: Run) -> None:
        """Start a run, or join the active one, and log what is known before the first epoch."""
        import mlflow

        store = chosen_store(self.tracking_uri)
        store.__enter__()
        try:
            earlier = self._earlier(run)
            owned = self._enter_run(earlier)
        except BaseException:
            store.__exit__(None, None, None)
            raise
        active = mlflow.active_run()
        assert active is not None
        self.run_id, self.store = active.info.run_id, mlflow.get_tracking_uri()
        first_epoch = earlier.epochs if earlier else 0
        now = time.time_ns() // 1_000_000
        self._sessions[id(run)] = _Session(self.run_id, owned, store, now, first_epoch, flushed=time.monotonic())
        self._log_start(run, params=earlier is None)

    def on_epoch_end(self, run: Run) -> None:
        """Send the metrics of the last seconds."""
        session = self._sessions[id(run)]
        if time.monotonic() - session.flushed >= FLUSH_SECONDS:
            _flush(session, run)

    def on_fit_end(self, run: Run) -> None:
        """Log the rest and the model, and end the run."""
        import mlflow

        session = self._sessions[id(run)]
        _flush(session, run)
        epochs = session.first_epoch + (int(run.history[-1]["epoch"]) if run.history else 0)
        final = {"best_epoch": float(session.first_epoch + run.best_epoch)}
        if run.detector is not None:
            final["offset"] = float(run.detector.offset_)
            final["converged"] = float(run.detector.converged_)
        mlflow.log_metrics(final, step=epochs)
        mlflow.set_tag("anomgen.stopped_because", run.stopped_because)
        if run.detector is not None:
            if self.log_model and not run.info.get("piecewise"):
                log_model(run.detector, registered_model_name=self.registered_model_name, step=epochs)
            _last[run.detector] = _Logged(mlflow.get_tracking_uri(), session.run_id, epochs)
        self._close(run, "FINISHED")

    def on_error(self, run: Run, error: BaseException) -> None:
        """Send what there is and end the run as FAILED or KILLED."""
        import mlflow

        session = self._sessions.get(id(run))
        if session is None:
            return
        try:
            _flush(session, run)
            mlflow.set_tag("anomgen.error", f"{type(error).__name__}: {error}"[:LONGEST_VALUE])
        finally:
            self._close(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _earlier(self, run: Run) -> _Logged | None:
        """Where earlier pieces of this detector's data were logged."""
        import mlflow

        logged = _last.get(run.detector) if run.info.get("piecewise") and run.detector is not None else None
        return logged if logged is not None and logged.store == mlflow.get_tracking_uri() else None

    def _enter_run(self, earlier: _Logged | None) -> bool:
        """Make the right run the active one; whether it is ours to end."""
        import mlflow

        active = mlflow.active_run()
        if earlier is not None:
            if active is not None and active.info.run_id == earlier.run_id:
                return False
            mlflow.start_run(run_id=earlier.run_id, nested=active is not None)
            return True
        if active is not None and CLASS_TAG not in mlflow.get_run(active.info.run_id).data.tags:
            return False
        mlflow.start_run(
            run_name=self.run_name, experiment_id=experiment_id(self.experiment), nested=active is not None
        )
        return True

    def _log_start(self, run: Run, params: bool) -> None:
        import mlflow
        from mlflow.entities import Param, RunTag

        trained = run.model if run.detector is None else run.detector
        facts = {f"fit.{key}": value for key, value in run.info.items() if key != "data_digest"}
        if run.detector is not None:
            facts |= run.detector.get_params(deep=False)
        values = [Param(key, str(facts[key])[:LONGEST_VALUE]) for key in facts if key not in NOT_LOGGED]
        tags = {CLASS_TAG: type(trained).__name__, DATA_TAG: run.info.get("data_digest", ""), **(self.tags or {})}
        tags |= {f"version.{package}": version for package, version in versions().items()}
        mlflow.MlflowClient().log_batch(
            self._sessions[id(run)].run_id,
            params=values if params else [],
            tags=[RunTag(key, str(value)) for key, value in tags.items() if value != ""],
        )

    def _close(self, run: Run, status: str) -> None:
        import mlflow

        session = self._sessions.pop(id(run))
        try:
            if session.owned:
                mlflow.end_run(status)
        finally:
            session.store.__exit__(None, None, None)


class _Autolog(MLflowCallback):
    """The callback of :func:`autolog`; leaves a fit alone that has an MLflow callback of its own."""

    def on_fit_begin(self, run: Run) -> None:
        own = getattr(run.detector, "callbacks", ())
        if not any(isinstance(callback, MLflowCallback) for callback in own):
            super().on_fit_begin(run)

    def on_epoch_end(self, run: Run) -> None:
        if id(run) in self._sessions:
            super().on_epoch_end(run)

    def on_fit_end(self, run: Run) -> None:
        if id(run) in self._sessions:
            super().on_fit_end(run)


def autolog(
    disable: bool = False,
    *,
    log_models: bool = True,
    registered_model_name: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> None:
    """Log every fit of a detector in this process from now on, as :class:`MLflowCallback` does, with its model.

    Parameters
    ----------
    disable : bool, default=False
        Stop logging instead.
    log_models : bool, default=True
        Whether to log the fitted detector; never after `partial_fit`.
    registered_model_name : str, optional
        Register every logged model under this name.
    tracking_uri, experiment : str, optional
        As in :class:`MLflowCallback`.

    Examples
    --------
    >>> autolog()
    >>> autolog(disable=True)
    """
    default_callbacks[:] = [callback for callback in default_callbacks if not isinstance(callback, _Autolog)]
    if not disable:
        options = {"log_model": log_models, "registered_model_name": registered_model_name}
        default_callbacks.append(_Autolog(tracking_uri, experiment, **options))  # type: ignore[arg-type]


def _flush(session: _Session, run: Run) -> None:
    """Send the entries of the history that were not sent yet."""
    import mlflow
    from mlflow.entities import Metric

    metrics = [
        Metric(
            key,
            float(value),
            session.began + int(1000 * entry["seconds"]),
            session.first_epoch + int(entry["epoch"]),
        )
        for entry in run.history[session.sent :]
        for key, value in entry.items()
        if key not in WHEN
    ]
    client = mlflow.MlflowClient()
    for start in range(0, len(metrics), BATCH_LIMIT):
        client.log_batch(session.run_id, metrics=metrics[start : start + BATCH_LIMIT])
    session.sent, session.flushed = len(run.history), time.monotonic()
