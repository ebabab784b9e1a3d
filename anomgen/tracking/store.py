"""Which MLflow store and experiment runs go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

LONGEST_VALUE = 6000
"""Characters that MLflow takes as the value of a parameter or a tag."""


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


@contextmanager
def run_in(uri: str | None, experiment: str | None, name: str | None) -> Iterator[Any]:
    """The run that is active, which stays open, or else one of this name that ends with the block."""
    import mlflow

    with chosen_store(uri):
        active = mlflow.active_run()
        opened: Any = (
            mlflow.start_run(run_name=name, experiment_id=experiment_id(experiment))
            if active is None
            else nullcontext(active)
        )
        with opened as run:
            yield run


def set_tags(tags: Mapping[str, Any]) -> None:
    """Tag the active run with what is known."""
    import mlflow

    mlflow.set_tags({key: str(value)[:LONGEST_VALUE] for key, value in tags.items() if value is not None})
