"""The payments recipe: what its rows and its anomalies are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomgen import data
from anomgen.encode import TableEncoder


@pytest.fixture(scope="module")
def payments() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    return data.make_payments(20_000, anomaly_share=0.1, seed=1)


@given(n=st.integers(10, 300), share=st.floats(0, 0.5), seed=st.integers(0, 2**63 - 1))
def test_payments_of_any_size(n: int, share: float, seed: int) -> None:
    X, y, kind = data.make_payments(n, share, seed)
    assert len(X) == len(y) == len(kind) == n
    assert int(y.sum()) == round(n * share)
    np.testing.assert_array_equal(y, kind != "normal")
    counts = [int((kind == name).sum()) for name in ("local", "global", "dependency", "cluster")]
    assert sum(counts) == y.sum()
    assert max(counts) - min(counts) <= 1
    again, _, _ = data.make_payments(n, share, seed)
    pd.testing.assert_frame_equal(X, again)
    types = data.make_payments(10, 0)[0].dtypes
    assert X.dtypes.equals(types)


def test_payments_differ_by_seed_and_refuse_nonsense() -> None:
    assert not data.make_payments(50, seed=0)[0].equals(data.make_payments(50, seed=1)[0])
    with pytest.raises(ValueError, match="n_rows=9"):
        data.make_payments(9)
    with pytest.raises(ValueError, match=r"anomaly_share=0\.7"):
        data.make_payments(100, 0.7)


def test_payments_leave_global_random_state_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    data.make_payments(20)
    assert np.random.random() == before  # noqa: NPY002


def test_payments_look_like_payments(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, y, _ = payments
    normal = X[y == 0]
    np.testing.assert_allclose(normal["amount"] * 100, (normal["amount"] * 100).round(), atol=1e-6)
    assert normal["amount"].min() > 0
    assert normal["amount"].skew() > 5
    assert 0.02 < (normal["balance"] < 0).mean() < 0.4
    assert set(normal["hour"]) <= set(range(24))
    assert set(normal["weekday"]) == set(range(7))
    assert normal["opened"].dtype.kind == "M"
    assert normal["verified"].dtype == bool
    missing = normal["distance_km"].isna().groupby(normal["channel"]).mean()
    assert missing["online"] > 0.8
    assert missing["shop"] < 0.05
    assert missing["atm"] == 0
    assert normal.loc[normal["device"].isna(), "channel"].unique().tolist() == ["online"]


def test_payments_columns_depend_on_one_another(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, y, _ = payments
    normal = X[y == 0]
    median = normal.groupby("category")["amount"].median()
    assert median["travel"] > 50 * median["transport"]
    hours = normal.groupby("category")["hour"].median()
    assert hours["transport"] < 10
    assert hours["restaurant"] > 18
    assert normal["distance_km"][normal["country"] != "DE"].median() > 100 * normal["distance_km"].median()
    assert np.corrcoef(normal["balance"], normal["payments_24h"])[0, 1] > 0.1


def test_each_kind_of_anomaly_is_what_it_is_called(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, _, kind = payments
    normal = X[kind == "normal"]
    logs = np.log(normal["amount"]).groupby(normal["category"])
    local = X[kind == "local"]
    away = (np.log(local["amount"]) - local["category"].map(logs.mean())) / local["category"].map(logs.std())
    assert 2 < away.abs().median() < 4
    assert local["amount"].between(normal["amount"].min() / 3, 3 * normal["amount"].max()).mean() > 0.95
    extreme = X[kind == "global"]
    beyond = [extreme["amount"] > normal["amount"].max(), extreme["balance"] < normal["balance"].min()]
    assert np.all(beyond[0] | beyond[1] | (extreme["payments_24h"] > normal["payments_24h"].max()))
    cluster = X[kind == "cluster"]
    assert cluster["amount"].std() < 3
    assert set(cluster["country"]) == {"TH"}
    assert cluster["distance_km"].min() > 100 * normal["distance_km"].median()


def test_dependency_anomalies_are_ordinary_in_every_column_and_not_together(
    payments: tuple[pd.DataFrame, np.ndarray, np.ndarray],
) -> None:
    X, _, kind = payments
    normal, broken = X[kind == "normal"], X[kind == "dependency"]
    for name in X:
        if X[name].dtype.kind in "fiM":
            values = pd.to_numeric(normal[name]).rank(pct=True)
            cuts = pd.to_numeric(normal[name]).quantile([0.25, 0.5, 0.75])
            shares = [(pd.to_numeric(broken[name]) <= cut).mean() for cut in cuts]
            expected = [(pd.to_numeric(normal[name]) <= cut).mean() for cut in cuts]
            np.testing.assert_allclose(shares, expected, atol=0.08, err_msg=name)
            assert values.notna().any()
        else:
            assert set(broken[name].dropna()) <= set(normal[name].dropna())
    pairs = set(zip(normal["channel"], normal["device"].fillna(""), normal["category"], strict=True))
    unknown = [
        pair not in pairs
        for pair in zip(broken["channel"], broken["device"].fillna(""), broken["category"], strict=True)
    ]
    assert np.mean(unknown) > 0.3


def test_payments_recipe_is_frozen() -> None:
    """The published table is this one: a change of the recipe needs a new card."""
    X, y, kind = data.make_payments(200, 0.1, seed=0)
    assert X["category"].value_counts().to_dict() == FROZEN["category"]
    assert int(X["hour"].sum()) == FROZEN["hour"]
    assert int(X["payments_24h"].sum()) == FROZEN["payments_24h"]
    assert np.flatnonzero(y).tolist()[:5] == FROZEN["anomalies"]
    assert kind[np.flatnonzero(y)[0]] == FROZEN["kind"]


FROZEN: dict[str, object] = {
    "category": {
        "cash": 15,
        "clothing": 20,
        "electronics": 17,
        "fuel": 24,
        "groceries": 58,
        "restaurant": 34,
        "transport": 25,
        "travel": 7,
    },
    "hour": 2986,
    "payments_24h": 956,
    "anomalies": [0, 26, 30, 53, 55],
    "kind": "global",
}


def test_card_kinds_are_accepted_by_the_encoder() -> None:
    dataset = data.load_dataset("payments")
    encoder = TableEncoder(kinds=dict(dataset.card.kinds)).fit(dataset.X[dataset.y == 0])
    assert {column["column"]: column["kind"] for column in encoder.describe()} == dataset.card.kinds
