"""Measure what oversamplers do for a classifier that knows twenty anomalies: ours, imbalanced-learn's, and none.

Twenty random anomalies of a table, or half of them where there are fewer than forty, and half of its normal rows, 5,000
at most, train scikit-learn's histogram gradient boosting as it comes; 20,000 of the other rows at most are ranked by it
and tell its average precision. Every method has one configuration and the same rows, and makes the anomalies as many as
the normal rows; ADASYN is left with the rows as they are where it refuses them.

    pip install 'anomgen[sampling]'
    python pipelines/oversampling.py --data data --seeds 3 --out oversampling.csv
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from imblearn.over_sampling import ADASYN, SMOTE, RandomOverSampler
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from anomgen import GenerativeOverSampler
from anomgen.data import cards, load_dataset, read_card

LABELLED, NORMAL, TESTED = 20, 5_000, 20_000
METHODS = ("none", "random", "SMOTE", "ADASYN", "ours")


def samplers(labelled: int, seed: int) -> dict[str, Any]:
    """Every method; neighbours are five, or as many as so few anomalies have."""
    neighbours = min(5, labelled - 1)
    found = (
        None,
        RandomOverSampler(random_state=seed),
        SMOTE(k_neighbors=neighbours, random_state=seed),
        ADASYN(n_neighbors=neighbours, random_state=seed),
        GenerativeOverSampler(random_state=seed),
    )
    return dict(zip(METHODS, found, strict=True))


def split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows that train, anomalies first, and of those that test; the latter keep the table's shares."""
    rng = np.random.default_rng(seed)
    rare, common = (rng.permutation(np.flatnonzero(y == label)) for label in (1, 0))
    labelled, normal = min(LABELLED, len(rare) // 2), min(NORMAL, len(common) // 2)
    rare_left, common_left = rare[labelled:], common[normal:]
    share = min(1.0, TESTED / (len(rare_left) + len(common_left)))
    tested = [part[: max(10, round(share * len(part)))] for part in (rare_left, common_left)]
    return np.concatenate([rare[:labelled], common[:normal]]), np.concatenate(tested)


def resampled(sampler: Any, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a sampler makes of these; these where there is none, or ADASYN refuses them."""
    if sampler is None:
        return X, y
    try:
        return sampler.fit_resample(X, y)
    except (RuntimeError, ValueError):
        if isinstance(sampler, ADASYN):
            return X, y
        raise


def measure(name: str, X: np.ndarray, y: np.ndarray, seed: int) -> list[dict[str, object]]:
    """Average precision and seconds of every method on one table under one seed."""
    train, test = split(y, seed)
    results = []
    for method, sampler in samplers(int(y[train].sum()), seed).items():
        with threadpool_limits(1):
            start = time.perf_counter()
            rows, labels = resampled(sampler, X[train], y[train])
            seconds = round(time.perf_counter() - start, 3)
            # Early stopping would set aside some of the few anomalies, and begins by itself at 10,000 rows.
            classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed).fit(rows, labels)
            ap = average_precision_score(y[test], classifier.predict_proba(X[test])[:, 1])
        results.append({"table": name, "method": method, "seed": seed, "ap": ap, "seconds": seconds})
    return results


def run(data: Path, tables: Sequence[str] | None = None, seeds: int | Iterable[int] = 3) -> list[dict[str, object]]:
    """One line for each table, seed and method; by default all tables found in the folder."""
    numbers = range(seeds) if isinstance(seeds, int) else list(seeds)
    names = [f"adbench_{table}" for table in tables] if tables else _found(data)
    loaded = ((name, load_dataset(name, root=data)) for name in names)
    rows = ((name.removeprefix("adbench_"), np.asarray(of.X, dtype=float), np.asarray(of.y)) for name, of in loaded)
    return [line for name, X, y in rows for seed in numbers for line in measure(name, X, y, seed)]


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Over tables: median and mean of the average precision, and ours beside each: median lead, tables won and lost."""
    tables = results.pivot_table("ap", "table", "method")[[*METHODS]]
    lead = tables[["ours"]].to_numpy() - tables
    return pd.DataFrame(
        {
            "median": tables.median(),
            "mean": tables.mean(),
            "rank": tables.rank(axis=1, ascending=False).mean(),
            "ours ahead by": lead.median(),
            "won": (lead > 0).sum(),
            "lost": (lead < 0).sum(),
            "seconds": results.groupby("method")["seconds"].mean(),
        }
    ).loc[[*METHODS]]


def _found(data: Path) -> list[str]:
    return [name for name in cards() if name.startswith("adbench_") and (data / read_card(name).file).is_file()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds adbench/NAME.npz")
    parser.add_argument("--tables", nargs="+", help="some tables, as cardio vowels; all found by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", default="oversampling.csv", help="one line for each table, seed and method")
    options = parser.parse_args(arguments)
    found = pd.DataFrame(run(options.data, options.tables, range(options.first, options.first + options.seeds)))
    found.to_csv(options.out, index=False)
    print(found.pivot_table("ap", "table", "method")[[*METHODS]].round(3).to_string())
    print(f"\n{summary(found).round(4).to_string()}")


if __name__ == "__main__":
    main()
