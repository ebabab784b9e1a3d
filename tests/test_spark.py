"""A logged model as a function of Spark, in a local session. Needs the extra ``spark``, and Java."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from anomgen import tracking
from anomgen.detector import Detector
from tests.toys import tiny

pytest.importorskip("pyspark")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") or "JAVA_HOME" in os.environ), reason="needs Java"),
    # PySpark says that it is not made for pandas 3, and uses what the next one will change.
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        options = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2", "spark.log.level": "ERROR"}
        session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
        yield session
        session.stop()
    logging.getLogger("py4j").setLevel(logging.WARNING)


def scored(spark: Any, rows: pd.DataFrame, detector: Detector, folder: Path) -> pd.DataFrame:
    """What the model answers to the columns of a Spark table, four partitions of it."""
    tracking.save_model(detector, folder)
    score = mlflow.pyfunc.spark_udf(spark, str(folder), env_manager="local")
    columns = [name for name in rows if name != "id"]
    table = spark.createDataFrame(rows).repartition(4)
    return table.select("id", score(*columns).alias("found")).select("id", "found.*").toPandas()


def test_a_table_of_every_kind_of_column(spark: Any, mixed: pd.DataFrame, tmp_path: Path) -> None:
    detector = tiny(contamination=0.1).fit(mixed[:200]).calibrate(mixed[200:])
    rows = mixed.astype({"city": str}).assign(id=range(len(mixed)))
    found = scored(spark, rows, detector, tmp_path / "model").sort_values("id")
    assert list(found) == ["id", "score", "p_value", "is_anomaly"]
    assert found["id"].tolist() == rows["id"].tolist()
    assert np.array_equal(found["score"], detector.score_samples(mixed))
    assert np.array_equal(found["p_value"], detector.p_values(mixed))
    assert np.array_equal(found["is_anomaly"], detector.predict(mixed) == -1)


def test_rows_without_names(spark: Any, numbers: np.ndarray, tmp_path: Path) -> None:
    detector = tiny(contamination=0.1).fit(numbers)
    rows = pd.DataFrame(numbers, columns=["x", "y", "z"]).assign(id=range(len(numbers)))
    found = scored(spark, rows, detector, tmp_path / "model").sort_values("id")
    assert list(found) == ["id", "score", "is_anomaly"]
    assert np.array_equal(found["score"], detector.score_samples(numbers))
