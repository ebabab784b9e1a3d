"""Synthetic anomalies: less likely than ordinary rows, each in its own way."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomgen.augment.anomalies import KINDS, synthetic_anomalies
from anomgen.detector import Detector
from tests.toys import small, tiny, toy

N, NUMBERS = 400, ["a", "b", "k", "m", "t"]


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": a,
            "b": 2 * a + 0.2 * rng.normal(size=n),
            "k": np.rint(3 * a + rng.normal(size=n)).astype(int),
            "c": pd.Categorical(np.where(a + 0.2 * rng.normal(size=n) > 0, "x", "y")),
            "t": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.round(a * 3600), unit="s"),
            "m": np.where(rng.random(n) < 0.2, np.nan, a + 0.1 * rng.normal(size=n)),
        }
    )


@cache
def fitted(family: str) -> Detector:
    return toy(family, contamination=0.1, max_epochs=20).fit(table())


@pytest.mark.parametrize("family", ["MixtureDetector", "KernelDetector", "FlowDetector"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_score_below_ordinary_draws(family: str, kind: str) -> None:
    detector = fitted(family)
    made = synthetic_anomalies(detector, 100, kind, seed=1)
    scores, usual = detector.score_samples(made), detector.score_samples(detector.sample(200, 5))
    assert (scores[:, None] < usual).mean() > 0.9
    assert np.median(scores) < np.quantile(usual, 0.1)
    assert dict(made.dtypes) == dict(detector.sample(2).dtypes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_rows(kind: str) -> None:
    detector = fitted("MixtureDetector")
    first = synthetic_anomalies(detector, 30, kind, seed=1)
    assert first.equals(synthetic_anomalies(detector, 30, kind, seed=1))
    assert not first.equals(synthetic_anomalies(detector, 30, kind, seed=2))
    assert len(first) == 30


class TestKinds:
    def made(self, kind: str, **options: Any) -> pd.DataFrame:
        found: pd.DataFrame = synthetic_anomalies(fitted("MixtureDetector"), 200, kind, **options)
        return found

    def test_local_ones_have_ordinary_values(self) -> None:
        rows, X = self.made("local", X=table()), table()
        for name in X:
            assert rows[name].dropna().isin(X[name]).all()
        changed = [(~rows[["a", "b"]].apply(tuple, axis=1).isin(X[["a", "b"]].apply(tuple, axis=1))).mean()]
        assert changed[0] > 0.3

    def test_global_ones_leave_the_range_of_some_column(self) -> None:
        rows, X = self.made("global", X=table()), table()
        outside = sum(
            (rows[name].notna() & ~rows[name].between(X[name].min(), X[name].max())).astype(int) for name in NUMBERS
        )
        assert np.array_equal(outside, np.full(200, round(len(NUMBERS) / 2)))

    def test_dependencies_are_gone(self) -> None:
        rows = self.made("dependency", X=table())
        assert np.corrcoef(table()["a"], table()["b"])[0, 1] > 0.98
        assert abs(np.corrcoef(rows["a"], rows["b"])[0, 1]) < 0.8
        assert rows["a"].isin(table()["a"]).all()

    def test_clusters_are_tight_and_outside(self) -> None:
        rows, X = self.made("cluster", X=table()), table()
        for name in NUMBERS:
            middle = rows[name].median()
            assert not X[name].min() <= middle <= X[name].max()
        assert rows["b"].std() < 0.2 * X["b"].std()
        assert rows["c"].value_counts(normalize=True).max() > 0.85

    @pytest.mark.parametrize("kind", ["local", "global", "cluster"])
    def test_strength_takes_them_further(self, kind: str) -> None:
        detector = fitted("MixtureDetector")
        weak, strong = (np.median(detector.score_samples(self.made(kind, strength=s))) for s in (0.1, 0.9))
        assert strong < weak


def test_arrays_and_conditions_are_welcome() -> None:
    X = table()[["a", "b"]].to_numpy()
    made = synthetic_anomalies(tiny(contamination=0.1).fit(X), 10, "global")
    assert (made.shape, made.dtype) == ((10, 2), X.dtype)
    detector = tiny(condition="c", contamination=0.1).fit(table())
    assert set(synthetic_anomalies(detector, 40, "dependency")["c"]) == {"x", "y"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "odd"}, "kind='odd' must be one of 'local', 'global'"),
        ({"n": 0}, "n=0 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"strength": 3}, "strength=3 must be"),
        ({"X": table()[["a"]]}, "missing columns"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_anomalies(fitted("MixtureDetector"), **{"n": 5, **options})


def test_tables_without_the_columns_are_refused() -> None:
    rng = np.random.default_rng(0)
    flags = pd.DataFrame({c: rng.choice(list("ab"), 300) for c in "pq"})
    detector = tiny(contamination=0.1).fit(flags)
    for kind in ("global", "cluster"):
        with pytest.raises(ValueError, match="1 columns of numbers or dates, but the table has 0"):
            synthetic_anomalies(detector, 5, kind)
    one = tiny(contamination=0.1).fit(rng.normal(size=(300, 1)))
    with pytest.raises(ValueError, match="2 columns that vary, but the table has 1"):
        synthetic_anomalies(one, 5, "local")
    images = small("VAEDetector", max_epochs=1).fit(rng.integers(0, 255, (60, 6, 6), dtype=np.uint8))
    with pytest.raises(ValueError, match="images have none"):
        synthetic_anomalies(images, 5)
