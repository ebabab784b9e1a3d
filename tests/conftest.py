"""One thread, no telemetry, reduced or full counts, and the tables and stores that many tests start from."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# Without it scikit-learn skips its check of array API input.
os.environ["SCIPY_ARRAY_API"] = "1"

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch

hypothesis.settings.register_profile("reduced", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", max_examples=300, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="full counts: more seeds, more examples, larger samples")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "reduced")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need a GPU where there is none."""
    if torch.cuda.is_available():
        return
    without = [item for item in items if item.get_closest_marker("gpu")]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full counts were asked for: ``seeds = range(20 if full else 3)``."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def template_db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store; making one takes ten seconds of migrations, so it is kept in pytest's cache."""
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    kept = request.config.cache.mkdir("anomgen") / f"mlflow-{mlflow.__version__}.db"  # type: ignore[union-attr]
    if not kept.exists():
        made = tmp_path_factory.mktemp("template") / "mlflow.db"
        SqlAlchemyStore(f"sqlite:///{made}", str(made.parent / "artifacts")).engine.dispose()
        # The default experiment remembers where its artifacts go; without it the copy's owner makes its own.
        with sqlite3.connect(made) as connection:
            connection.execute("DELETE FROM experiments")
        connection.close()
        arriving = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, arriving)
        arriving.replace(kept)
    return kept


@pytest.fixture
def tracking_uri(template_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a store of one's own, current until the test ends; artifacts go below the current folder."""
    import mlflow

    shutil.copyfile(template_db, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    # What a test chooses as its experiment, MLflow would keep for the tests after it.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    yield uri
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_experiment(experiment_id="0")
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="session")
def numbers() -> np.ndarray:
    """400 rows of three dependent normal columns; read-only."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 2.0]]) + [0.0, 5.0, -100.0]
    X.setflags(write=False)
    return X


@pytest.fixture
def mixed() -> pd.DataFrame:
    """300 rows with a column of every kind: real, heavy-tailed, count, flag, category, time, constant, missing."""
    rng = np.random.default_rng(1)
    n = 300
    city = rng.choice(["Ghent", "Lyon", "Turin"], size=n, p=[0.6, 0.3, 0.1])
    length = rng.normal(170.0, 8.0, size=n)
    frame = pd.DataFrame(
        {
            "length": length,
            "amount": np.exp(rng.normal(3.0, 1.5, size=n)),
            "visits": rng.poisson(3.0, size=n),
            "member": rng.random(n) < 0.3,
            "city": pd.Categorical(city),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 30 * 86_400, size=n), unit="s"),
            "version": 7,
            "weight": 0.9 * length - 90.0 + rng.normal(0.0, 5.0, size=n),
        }
    )
    frame.loc[rng.random(n) < 0.1, "weight"] = np.nan
    return frame
