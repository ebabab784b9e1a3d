"""Measure our detectors beside four classical ones on the ADBench tables, one fixed configuration each.

A random half of the normal rows trains, the rest and all anomalies test; no row is used twice. Tables longer than
--max-rows are thinned before the split, keeping the share of anomalies. The peers see columns standardized on the
training rows; our detectors encode the raw rows themselves. PyOD's VAE joins where it is installed
(pip install 'anomgen[bench]').

    python pipelines/benchmark_tables.py --data data --families all --seeds 3 --out tables.csv
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from anomgen import families
from anomgen.data import Dataset, cards, load_dataset, read_card


class MeanNeighbourDistance(NearestNeighbors):
    """Mean distance to the five nearest training rows, negated."""

    def score_samples(self, X):
        return -self.kneighbors(X, n_neighbors=min(5, self.n_samples_fit_))[0].mean(axis=1)


class PyodVAE(BaseEstimator):
    """PyOD's VAE with its own defaults, scored as scikit-learn has it."""

    def __init__(self, random_state: int = 0):
        self.random_state = random_state

    def fit(self, X, y=None):
        from pyod.models.vae import VAE

        self.detector_ = VAE(random_state=self.random_state, verbose=0, device="cpu").fit(X)
        return self

    def score_samples(self, X):
        return -self.detector_.decision_function(X)


def peers(n_train: int, seed: int) -> dict[str, object]:
    """Other detectors on standardized columns.

    The KDE bandwidth is Scott's rule n^(-1/(d+4)); covariances of the mixture grow by the 0.01 of our training noise.
    """
    found = {
        "kNN-5": MeanNeighbourDistance(),
        "GMM-10": GaussianMixture(min(10, n_train), reg_covar=0.01, random_state=seed),
        "KDE": KernelDensity(bandwidth="scott"),
        "IForest": IsolationForest(random_state=seed),
    }
    if importlib.util.find_spec("pyod"):
        found["PyOD VAE"] = PyodVAE(seed)
    return {name: make_pipeline(StandardScaler(), peer) for name, peer in found.items()}


def thin(dataset: Dataset, max_rows: int, seed: int) -> Dataset:
    """At most `max_rows` random rows, with the share of anomalies kept; 0 keeps all."""
    if not 0 < max_rows < len(dataset):
        return dataset
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(dataset.y == value) for value in (0, 1)]
    kept = [rng.permutation(rows)[: max(1, round(len(rows) * max_rows / len(dataset)))] for rows in classes]
    return dataset.take(np.sort(np.concatenate(kept)))


def check_leak(X: np.ndarray, train: np.ndarray, test: np.ndarray) -> int:
    """Refuse rows that train and test; count test rows that equal a training row in three standardized decimals."""
    if np.intersect1d(train, test).size:
        raise ValueError(f"{np.intersect1d(train, test).size} rows are in the training and in the test set")
    scaled = np.round(StandardScaler().fit(X[train]).transform(X), 3) + 0.0
    seen = {row.tobytes() for row in scaled[train]}
    return sum(row.tobytes() in seen for row in scaled[test])


def measure(dataset: Dataset, members: Iterable[str], seed: int) -> list[dict[str, object]]:
    """AUROC, AUPRC and seconds of every detector on one table under one seed."""
    train, test = dataset.split_rows(seed)
    X_train, X_test, y_test = dataset.split(seed)
    about = {"table": dataset.card.name, "seed": seed, "rows": len(train), "tested": len(test)}
    about["near_duplicates"] = check_leak(np.asarray(dataset.X, dtype=float), train, test)
    ours = {name: families.get(name)(random_state=seed) for name in members}
    results = []
    for name, detector in (ours | peers(len(train), seed)).items():
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = time.perf_counter()
            anomaly = -detector.fit(X_train).score_samples(X_test)
            seconds = time.perf_counter() - start
        quality = {"auroc": roc_auc_score(y_test, anomaly), "auprc": average_precision_score(y_test, anomaly)}
        results.append(about | {"method": name} | quality | {"seconds": round(seconds, 3)})
    return results


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Means over tables in percent, mean rank by AUROC, and a 95 % bootstrap interval over tables."""
    tables = results.pivot_table(["auroc", "auprc", "seconds"], "table", "method")
    found = pd.DataFrame(index=tables["auroc"].columns)
    drawn = np.random.default_rng(0).integers(len(tables), size=(10_000, len(tables)))
    for name in ("auroc", "auprc"):
        found[name] = (100 * tables[name].mean()).round(1)
        low, high = np.quantile(tables[name].to_numpy()[drawn].mean(axis=1), [0.025, 0.975], axis=0)
        found[f"{name} 95 %"] = [f"{100 * a:.1f} - {100 * b:.1f}" for a, b in zip(low, high, strict=True)]
    found["rank"] = tables["auroc"].rank(axis=1, ascending=False).mean().round(2)
    found["seconds"] = tables["seconds"].mean().round(2)
    return found.sort_values("auroc", ascending=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds adbench/NAME.npz")
    parser.add_argument("--families", nargs="+", default=["all"], help="ours by name; all, or none: the peers alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-rows", type=int, default=10_000, help="rows of a table before the split, 0 for all")
    parser.add_argument("--jobs", type=int, default=1, help="tables measured at once, one thread each")
    parser.add_argument("--out", default="benchmark_tables.csv", help="one line for each table, seed and method")
    args = parser.parse_args(arguments)
    members = families.names() if args.families == ["all"] else [name for name in args.families if name != "none"]
    names = [name for name in cards() if name.startswith("adbench_") and (args.data / read_card(name).file).is_file()]
    if not names:
        parser.error(f"--data {args.data} holds none of the tables; datasets/README.md says how to get them")
    datasets = ((seed, load_dataset(name, root=args.data)) for name in names for seed in range(args.seeds))
    jobs = (delayed(measure)(thin(dataset, args.max_rows, seed), members, seed) for seed, dataset in datasets)
    found = Parallel(n_jobs=args.jobs, verbose=5)(jobs)
    results = pd.DataFrame([line for lines in found for line in lines])
    results.to_csv(args.out, index=False)
    twins = (results["near_duplicates"] / results["tested"]).mean()
    print(summary(results).to_string())
    print(f"{len(names)} tables, {args.seeds} seeds: {args.out}; test rows equal to a training row: {twins:.1%}")


if __name__ == "__main__":
    main()
