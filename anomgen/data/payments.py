"""A mixed-type table of card payments with planted anomalies, drawn from a seeded recipe of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Columns = dict[str, Array]

KINDS = ("local", "global", "dependency", "cluster")

# share of payments, median amount, spread of its logarithm, busiest hour, spread of hours, share online, share abroad
MERCHANTS: dict[str, tuple[float, float, float, float, float, float, float]] = {
    "groceries": (0.30, 28.0, 0.65, 17.0, 2.5, 0.06, 0.02),
    "restaurant": (0.18, 24.0, 0.45, 20.0, 1.8, 0.10, 0.08),
    "transport": (0.14, 4.2, 0.40, 8.0, 1.5, 0.30, 0.04),
    "fuel": (0.10, 62.0, 0.30, 16.0, 4.0, 0.00, 0.06),
    "clothing": (0.10, 70.0, 0.60, 15.0, 3.0, 0.55, 0.12),
    "electronics": (0.06, 240.0, 0.80, 21.0, 2.5, 0.75, 0.15),
    "cash": (0.08, 90.0, 0.50, 12.0, 3.5, 0.00, 0.10),
    "travel": (0.04, 420.0, 0.70, 19.0, 3.0, 0.85, 0.55),
}
NAMES = np.array(list(MERCHANTS))
SHARE, MEDIAN, SPREAD, HOUR, HOURS, ONLINE, ABROAD = np.array(list(MERCHANTS.values())).T
LEISURE = np.isin(NAMES, ["restaurant", "clothing", "travel"])
WEEK = np.array([15, 15, 15, 16, 17, 14, 8]) / 100
HOME = "DE"
COUNTRIES = np.array(["AT", "FR", "NL", "IT", "ES", "GB", "US", "TH"])
KILOMETRES = np.array([500.0, 650.0, 450.0, 1000.0, 1600.0, 950.0, 7500.0, 8800.0])


def make_payments(
    n_rows: int = 10_000, anomaly_share: float = 0.02, seed: int = 0
) -> tuple[pd.DataFrame, NDArray[np.int64], Array]:
    """Draw a table of card payments, a known share of them anomalous in four known ways.

    Normal rows follow a hidden wealth and a merchant category, on which amount, balance, hour, weekday, channel,
    device, country and distance depend. Four kinds of anomaly are planted in equal shares:

    * ``local``: amount and distance three to four spreads away from what their category and country would have, and
      ordinary for another category;
    * ``global``: an amount, a balance or a count beyond any normal row's;
    * ``dependency``: every column drawn on its own from normal rows, so that each value is ordinary and the
      combination is not; only a model of the joint distribution can tell;
    * ``cluster``: a tight group of nearly equal payments, far from all others.

    Parameters
    ----------
    n_rows : int
        Rows, anomalies included; at least 10.
    anomaly_share : float
        Share of anomalies, in [0, 0.5]; their number is rounded.
    seed : int
        Equal seeds give equal tables.

    Returns
    -------
    X : DataFrame of n_rows rows
        ``amount`` (euro, cents), ``balance`` (euro, may be negative), ``hour`` (0-23), ``weekday`` (0 = Monday),
        ``category``, ``channel``, ``device``, ``country`` (text), ``opened`` (datetime, seconds), ``verified``
        (boolean), ``payments_24h`` (count) and ``distance_km``. ``distance_km`` is missing for most online payments
        and a few others, ``device`` for some online payments.
    y : ndarray of shape (n_rows,)
        1 for an anomaly.
    kind : ndarray of str, shape (n_rows,)
        The kind of anomaly, or ``"normal"``.

    Raises
    ------
    ValueError
        If `n_rows` is below 10 or `anomaly_share` outside [0, 0.5].

    Examples
    --------
    >>> X, y, kind = make_payments(1000, seed=1)
    >>> X.shape, int(y.sum())
    ((1000, 12), 20)
    """
    if n_rows < 10:
        raise ValueError(f"n_rows={n_rows}: a payments table has at least 10 rows")
    if not 0 <= anomaly_share <= 0.5:
        raise ValueError(f"anomaly_share={anomaly_share} must lie in [0, 0.5]")
    rng = np.random.default_rng(seed)
    planted = np.resize(KINDS, round(n_rows * anomaly_share))
    kind = np.concatenate([np.full(n_rows - len(planted), "normal", dtype="<U10"), np.sort(planted)])
    draw = {"normal": _normal, "local": _local, "global": _global, "dependency": _dependency, "cluster": _cluster}
    names, counts = np.unique(kind, return_counts=True)
    blocks = {name: draw[name](rng, count) for name, count in zip(names.tolist(), counts.tolist(), strict=True)}
    order = rng.permutation(n_rows)
    kind = np.repeat(names, counts)[order]
    columns = {name: np.concatenate([block[name] for block in blocks.values()])[order] for name in blocks["normal"]}
    return _frame(columns), (kind != "normal").astype(np.int64), kind


def _normal(rng: np.random.Generator, n: int) -> Columns:
    wealth = rng.normal(size=n)
    merchant = rng.choice(len(NAMES), size=n, p=SHARE)
    channel = np.where(rng.random(n) < ONLINE[merchant], "online", np.where(NAMES[merchant] == "cash", "atm", "shop"))
    large = rng.exponential(0.8, n) * (rng.random(n) < 0.04)
    amount = MEDIAN[merchant] * np.exp(0.3 * wealth + SPREAD[merchant] * rng.normal(size=n) + large)
    abroad = rng.random(n) < ABROAD[merchant]
    place = rng.choice(len(COUNTRIES), size=n, p=np.array([24, 18, 15, 13, 12, 8, 7, 3]) / 100)
    near = np.exp(1.2 + 0.25 * wealth + 0.9 * rng.normal(size=n))
    age = 3650 * rng.beta(2, 3, n) * np.exp(0.25 * wealth)
    return {
        "amount": amount,
        "balance": 1800 * np.exp(0.8 * wealth) * rng.gamma(4.0, 0.25, n) - 400 + 250 * rng.standard_t(4, n),
        "hour": np.rint(HOUR[merchant] + HOURS[merchant] * rng.normal(size=n)).astype(np.int64) % 24,
        "weekday": np.where(
            (rng.random(n) < 0.5) & LEISURE[merchant], rng.integers(4, 7, n), rng.choice(7, n, p=WEEK)
        ).astype(np.int64),
        "category": NAMES[merchant],
        "channel": channel,
        "device": _device(rng, channel),
        "country": np.where(abroad, COUNTRIES[place], HOME),
        "opened": np.rint(age * 86_400).astype(np.int64),
        "verified": rng.random(n) < np.where(channel == "atm", 0.99, 1 / (1 + (30 / amount) ** 3)),
        "payments_24h": 1 + rng.poisson(np.exp(0.2 + 0.3 * wealth + 0.4 * (amount < 15))),
        "distance_km": _missing(
            rng, np.where(abroad, KILOMETRES[place] * np.exp(0.15 * rng.normal(size=n)), near), channel
        ),
    }


def _device(rng: np.random.Generator, channel: Array) -> Array:
    n = len(channel)
    online = rng.choice(["phone", "laptop", "tablet", ""], size=n, p=[0.55, 0.32, 0.08, 0.05])
    shop = rng.choice(["contactless", "chip", "stripe"], size=n, p=[0.68, 0.30, 0.02])
    return np.select([channel == "online", channel == "shop"], [online, shop], "chip")


def _missing(rng: np.random.Generator, distance: Array, channel: Array) -> Array:
    chance = np.select([channel == "online", channel == "shop"], [0.85, 0.03], 0.0)
    return np.where(rng.random(len(distance)) < chance, np.nan, distance)


def _local(rng: np.random.Generator, n: int) -> Columns:
    rows = _normal(rng, n)
    spread = SPREAD[(rows["category"][:, None] == NAMES).argmax(1)]
    away = rng.uniform(3.0, 4.0, n) * rng.choice([-1.0, 1.0], n)
    rows["amount"] = rows["amount"] * np.exp(away * spread)
    rows["distance_km"] = rows["distance_km"] * np.exp(rng.uniform(1.5, 2.5, n) * rng.choice([-1.0, 1.0], n))
    return rows


def _global(rng: np.random.Generator, n: int) -> Columns:
    rows = _normal(rng, n)
    which = rng.integers(3, size=n)
    rows["amount"] = np.where(which == 0, rng.uniform(3e4, 3e5, n), rows["amount"])
    rows["balance"] = np.where(which == 1, rng.uniform(-2e5, -2e4, n), rows["balance"])
    rows["payments_24h"] = np.where(which == 2, rng.integers(60, 300, n), rows["payments_24h"])
    return rows


def _dependency(rng: np.random.Generator, n: int) -> Columns:
    pool = _normal(rng, n + 256)
    return {name: values[rng.integers(len(values), size=n)] for name, values in pool.items()}


def _cluster(rng: np.random.Generator, n: int) -> Columns:
    rows = _normal(rng, n)
    same = {"hour": 3, "weekday": 1, "category": "electronics", "channel": "online", "device": "laptop"}
    for name, value in (same | {"country": "TH", "verified": False}).items():
        rows[name] = np.full(n, value)
    rows["amount"] = 499.0 + rng.normal(0, 1.5, n)
    rows["balance"] = -900.0 + rng.normal(0, 40, n)
    rows["opened"] = np.rint((20 + rng.normal(0, 1, n)) * 86_400).astype(np.int64)
    rows["payments_24h"] = rng.integers(11, 15, n)
    rows["distance_km"] = 8800 * np.exp(0.02 * rng.normal(size=n))
    return rows


def _frame(columns: Columns) -> pd.DataFrame:
    import pandas as pd

    last = np.datetime64("2026-01-01T00:00:00", "s")
    frame = pd.DataFrame(columns)
    frame["amount"] = np.maximum(frame["amount"].round(2), 0.01)
    frame["balance"] = frame["balance"].round(2)
    frame["distance_km"] = np.maximum(frame["distance_km"].round(1), 0.1)
    frame["opened"] = last - columns["opened"].astype("timedelta64[s]")
    frame["device"] = frame["device"].mask(columns["device"] == "")
    return frame
