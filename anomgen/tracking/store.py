"""Which MLflow store and experiment runs go to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def chosen_store(uri: str | None) -> Iterator[None]:
    """Make `uri` MLflow's tracking store inside the block."""
    import mlflow

    if uri is None:
        yield
        return
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def experiment_id(name: str | None) -> str | None:
    """The experiment of a name, made if there is none; None for the one that MLflow is set to."""
    import mlflow

    if name is None:
        return None
    found = mlflow.get_experiment_by_name(name)
    return str(mlflow.create_experiment(name) if found is None else found.experiment_id)
