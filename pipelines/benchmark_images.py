"""Measure our detectors beside three measures without a model on panels of images, one fixed configuration each.

Fashion-MNIST and MNIST are normal in turn, to be told from the other one and from their own held-out images after each
of eight changes; one class of each is normal and the rest is not; magnetic tiles without defects train (80 %, drawn by
the seed) and those with defects are to be found, and their pixels. Only held-out images are tested, and those that are
changed are others than those taken for normal. A change treats all images alike, on levels from 0 to 255:

    v-flip, h-flip   upside down; left to right
    constant         all pixels of one level, drawn evenly for each image
    noise            Gaussian, standard deviation 40, cut off at black and white
    blur             Gaussian, standard deviation 1.5 pixels
    contrast         levels times 0.4
    JPEG             saved at quality 10
    patch            a square of 3/7 of the sides is black, its middle drawn from the middle third of the image

AUROC has a 95 % interval by resampling test images; a panel counts by its mean and by its minimum over its sets.
--quick takes 2,000 training images for 10 epochs, 500 of each set, one class of each data set and one seed.

    python pipelines/benchmark_images.py --data data --families vae gan --seeds 3 --out out/images
    python pipelines/benchmark_images.py --data data --families vae --quick
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import mlflow
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from anomgen import families, load_dataset
from anomgen.explain import overlay

mpl.use("Agg")
from matplotlib import pyplot as plt

PANELS = ("fashion_mnist", "mnist", "one_class", "magnetic_tile")
OTHER = {"fashion_mnist": "mnist", "mnist": "fashion_mnist"}
DRAWS = 500
BINS = 2_000


def constant(images, rng):
    levels = rng.integers(0, 256, size=(len(images), *(1,) * (images.ndim - 1)), dtype=np.uint8)
    return np.broadcast_to(levels, images.shape)


def noise(images, rng):
    return as_levels(images + rng.normal(0.0, 40.0, size=images.shape))


def blur(images, _):
    sigma = (0.0, 1.5, 1.5, 0.0)[: images.ndim]
    return as_levels(gaussian_filter(images.astype(float), sigma))


def jpeg(images, _):
    return np.stack([np.asarray(Image.open(compressed(image, "JPEG", quality=10))) for image in images])


def missing_patch(images, rng):
    found = images.copy()
    sides = np.array(images.shape[1:3])
    size = np.rint(sides * 3 / 7).astype(int)
    middles = rng.uniform(sides / 3, 2 * sides / 3, size=(len(images), 2))
    for image, (top, left) in zip(found, np.rint(middles - size / 2).astype(int), strict=True):
        image[top : top + size[0], left : left + size[1]] = 0
    return found


CHANGES: dict[str, Callable] = {
    "v-flip": lambda images, _: images[:, ::-1],
    "h-flip": lambda images, _: images[:, :, ::-1],
    "constant": constant,
    "noise": noise,
    "blur": blur,
    "contrast": lambda images, _: as_levels(images * 0.4),
    "JPEG": jpeg,
    "patch": missing_patch,
}


def as_levels(values):
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def compressed(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file


class PngSize(BaseEstimator):
    """How close the size of an image as PNG is to the usual one: minus the distance of its logarithm to the median."""

    def fit(self, X, y=None):
        self.usual_ = np.median(self._log_size(X[:: max(1, len(X) // 5_000)]))
        return self

    def score_samples(self, X):
        return -np.abs(self._log_size(X) - self.usual_)

    def _log_size(self, X):
        return np.log([compressed(image, "PNG").tell() for image in X])


class PcaResidual(BaseEstimator):
    """Minus the squared distance to the plane of the first 64 principal components."""

    def fit(self, X, y=None):
        rows = X.reshape(len(X), -1) / np.float32(255)
        self.plane_ = PCA(min(64, *np.subtract(rows.shape, 1)), svd_solver="randomized", random_state=0).fit(rows)
        return self

    def score_samples(self, X):
        return -self._residual(X).mean(axis=1)

    def score_map(self, X):
        maps = self._residual(X).reshape(*X.shape[:3], -1).sum(axis=3)
        return gaussian_filter(maps, (0.0, *2 * (min(X.shape[1:3]) / 32,)))

    def _residual(self, X):
        rows = X.reshape(len(X), -1) / np.float32(255)
        return np.square(rows - self.plane_.inverse_transform(self.plane_.transform(rows)))


class PcaNeighbours(PcaResidual):
    """Minus the mean distance to the five nearest training images, in 64 principal components."""

    score_map = None

    def fit(self, X, y=None):
        super().fit(X)
        self.bank_ = NearestNeighbors(n_neighbors=min(5, len(X))).fit(self._inside(X))
        return self

    def score_samples(self, X):
        return -self.bank_.kneighbors(self._inside(X))[0].mean(axis=1)

    def _inside(self, X):
        return self.plane_.transform(X.reshape(len(X), -1) / np.float32(255))


def methods(members: list[str], seed: int, max_epochs: int = 0) -> dict[str, object]:
    """Our detectors, trained for `max_epochs` at most where that is given, and what they are measured beside."""
    ours = {name: families.get(name)(random_state=seed) for name in members}
    for detector in ours.values():
        if max_epochs and hasattr(detector, "max_epochs"):
            detector.set_params(max_epochs=max_epochs)
    peers = {"PNG size": PngSize(), "PCA-64": PcaResidual(), "kNN-5 in PCA-64": PcaNeighbours()}
    return ours | peers


@dataclass(frozen=True)
class Trial:
    """Images to learn from, held-out ones of their kind, and sets of others, with masks of what is wrong in them."""

    panel: str
    train: np.ndarray
    normal: np.ndarray
    others: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def trials(panels: list[str], data: Path, seed: int, rows: int, tested: int, classes: int) -> Iterator[Trial]:
    """The trials of panels; at most `rows` images train and `tested` of a set test, 0 for all."""
    for panel in panels:
        if panel == "one_class":
            for name in OTHER:
                yield from one_class(name, data, seed, rows, tested, classes)
        elif panel == "magnetic_tile":
            yield tiles(data, seed)
        else:
            yield changed(panel, data, seed, rows, tested)


def changed(name: str, data: Path, seed: int, rows: int, tested: int) -> Trial:
    rng = np.random.default_rng(seed)
    train, test = parts(load_dataset(name, root=data), rng)
    _, other = parts(load_dataset(OTHER[name], root=data), rng)
    count = min(tested or len(test), len(test) // 2)
    normal, own = test[:count], test[count : 2 * count]
    others = {OTHER[name]: other[:count]}
    others |= {kind: np.ascontiguousarray(change(own, rng)) for kind, change in CHANGES.items()}
    return Trial(name, train[: rows or None], normal, others, {})


def one_class(name: str, data: Path, seed: int, rows: int, tested: int, classes: int) -> Iterator[Trial]:
    dataset = load_dataset(name, root=data)
    for label in np.unique(dataset.labels)[:classes]:
        rng = np.random.default_rng(seed)
        own = dataset.labels == label
        train, normal = parts(dataset.take(np.flatnonzero(own)), rng)
        _, rest = parts(dataset.take(np.flatnonzero(~own)), rng)
        others = {f"class {label}": rest[: tested or None]}
        yield Trial(f"one class of {name}", train[: rows or None], normal[: tested or None], others, {})


def tiles(data: Path, seed: int) -> Trial:
    dataset = load_dataset("magnetic_tile", root=data)
    good = np.random.default_rng(seed).permutation(np.flatnonzero(dataset.y == 0))
    train, normal = np.split(dataset.images[good], [round(0.8 * len(good))])
    wrong = dataset.y == 1
    others, masks = {"defects": dataset.images[wrong]}, {"defects": dataset.masks[wrong]}
    return Trial("magnetic_tile", train, normal, others, masks)


def parts(dataset, rng) -> list[np.ndarray]:
    """Training and test images, each in an order drawn by `rng`."""
    return [dataset.images[rng.permutation(np.flatnonzero(part))] for part in (~dataset.test, dataset.test)]


def measure(trial: Trial, name: str, detector, seed: int) -> list[dict[str, object]]:
    """One line for each set: AUROC with its draws, seconds to fit, images scored a second, passes an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.perf_counter()
        detector.fit(trial.train)
    fitted = time.perf_counter()
    normal = -detector.score_samples(trial.normal)
    speed = len(trial.normal) / (time.perf_counter() - fitted)
    about = {"panel": trial.panel, "method": name, "seed": seed, "train": len(trial.train)}
    about |= {"fit_seconds": fitted - began, "images_per_s": speed, "passes": passes(detector, trial.normal[:64])}
    lines = []
    for kind, images in trial.others.items():
        draws = auroc_draws(normal, -detector.score_samples(images))
        lines.append(about | {"set": kind, "tested": len(normal) + len(images)} | interval(draws))
        if kind in trial.masks and getattr(detector, "score_map", None) is not None:
            good = detector.score_map(trial.normal)
            draws = pixel_draws(good, detector.score_map(images), trial.masks[kind] > 0)
            lines.append(lines[-1] | {"set": f"{kind}, pixels"} | interval(draws))
    return lines


def passes(detector, images) -> float:
    """How often the busiest layer runs for a tile of images that is scored; 0 without networks."""
    if not hasattr(detector, "model_"):
        return 0.0
    calls: dict[object, int] = {}

    def count(module, *_):
        calls[module] = calls.get(module, 0) + 1

    layers = [layer for layer in detector.model_.modules() if list(layer.parameters(recurse=False))]
    hooks = [module.register_forward_hook(count) for module in [*layers, detector.statistic_]]
    detector.score_samples(images)
    for hook in hooks:
        hook.remove()
    tiles = calls.pop(detector.statistic_, 1)
    return max(calls.values(), default=0) / tiles


def auroc_draws(normal, other):
    """AUROC, and its values when the test images of both kinds are drawn again with replacement."""
    above = (other > normal[:, None]) + np.float32(0.5) * (other == normal[:, None])
    left, right = (shares(len(scores), seed) for seed, scores in enumerate((normal, other)))
    return np.concatenate([[above.mean(dtype=float)], ((left @ above) * right).sum(axis=1)])


def pixel_draws(good, wrong, masks):
    """The same for pixels, images being drawn: pixels in masks are anomalous, all others of both kinds are normal."""
    edges = np.unique(np.quantile(np.concatenate([good.ravel(), wrong.ravel()]), np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = [np.searchsorted(edges, maps) for maps in (good, wrong)]
    clear = histograms(bins[0], np.ones(good.shape, bool), len(edges) + 1)
    own, marked = (histograms(bins[1], where, len(edges) + 1) for where in (~masks, masks))

    def auroc(weight_good, weight_wrong):
        below, hits = weight_good @ clear + weight_wrong @ own, weight_wrong @ marked
        under = below.cumsum(axis=-1) - below / 2
        return (under * hits).sum(axis=-1) / below.sum(axis=-1) / hits.sum(axis=-1)

    drawn = auroc(*(shares(len(maps), seed) * len(maps) for seed, maps in enumerate((good, wrong))))
    return np.concatenate([[auroc(np.ones(len(good)), np.ones(len(wrong)))], drawn])


def histograms(bins, where, count):
    return np.stack([np.bincount(row[kept], minlength=count) for row, kept in zip(bins, where, strict=True)])


def shares(n, seed):
    """How often each of `n` images is drawn, as shares, one row for each draw."""
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float32) / n


def interval(draws) -> dict[str, object]:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {"auroc": float(draws[0]), "low": float(low), "high": float(high), "draws": draws}


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and minimum of every panel with 95 % intervals, seconds of a fit, images a second, passes."""
    lines = []
    for (panel, method), part in results.groupby(["panel", "method"], sort=False):
        images = part[~part["set"].str.endswith(", pixels")]
        each = np.stack([np.mean(list(some), axis=0) for _, some in images.groupby("set", sort=False)["draws"]])
        line = {"panel": panel, "method": method}
        for name, draws in (("mean", each.mean(axis=0)), ("min", each.min(axis=0))):
            found = interval(draws)
            line |= {name: found["auroc"], f"{name} 95 %": f"{found['low']:.3f} - {found['high']:.3f}"}
        line |= {"fit s": images["fit_seconds"].mean(), "images/s": images["images_per_s"].mean()}
        lines.append(line | {"passes": images["passes"].mean()})
    return pd.DataFrame(lines).set_index(["panel", "method"])


def draw_table(results: pd.DataFrame, path: Path) -> None:
    """The AUROC of every method on every set as coloured squares."""
    table = results.pivot_table("auroc", "method", ["panel", "set"], sort=False)
    figure, axes = plt.subplots(figsize=(2.5 + 0.55 * table.shape[1], 2.5 + 0.35 * len(table)), layout="constrained")
    axes.imshow(table, cmap="RdYlGn", vmin=0.5, vmax=1.0, aspect="auto")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(table.shape[1]), [f"{panel}: {kind}" for panel, kind in table.columns], rotation=90)
    axes.set_yticks(range(len(table)), table.index)
    axes.set_title("AUROC, mean over seeds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_maps(trial: Trial, fitted: dict[str, object], path: Path) -> None:
    """Anomalous images, their masks, and the heatmaps of our detectors on top of them."""
    (kind, masks), *_ = trial.masks.items()
    chosen = np.linspace(0, len(masks) - 1, 12).astype(int)
    images = trial.others[kind][chosen]
    rows = {"image": images, "mask": (masks[chosen] > 0) * np.uint8(255)}
    rows |= {name: overlay(images, detector.score_map(images)) for name, detector in fitted.items()}
    figure, axes = plt.subplots(len(rows), 12, figsize=(13, 1.2 * len(rows)), squeeze=False, layout="constrained")
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for cell, picture in zip(line, pictures, strict=True):
            cell.imshow(picture, cmap="gray", vmin=0, vmax=255)
            cell.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds images/NAME.npz")
    parser.add_argument("--families", nargs="+", default=["vae"], help="ours by name; none: the peers alone")
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=PANELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="training images of a trial at most, 0 for all")
    parser.add_argument("--max-epochs", type=int, default=0, help="epochs of a fit at most, 0 for the default schedule")
    parser.add_argument("--out", type=Path, default=Path("benchmark_images"), help="folder for the CSV and the figures")
    parser.add_argument("--quick", action="store_true", help="a small size that ends within 10 minutes on two cores")
    args = parser.parse_args(arguments)
    members = [name for name in args.families if name != "none"]
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = 1 if args.quick else args.seeds
    size = {"rows": 2_000, "tested": 500, "classes": 1} if args.quick else {"rows": args.rows, "tested": 2_000}
    lines: list[dict[str, object]] = []
    for seed in range(seeds):
        for trial in trials(args.panels, args.data, seed, **({"classes": 10} | size)):
            fitted = methods(members, seed, args.max_epochs or 10 * args.quick)
            for name, detector in fitted.items():
                lines += (found := measure(trial, name, detector, seed))
                each = ", ".join(f"{line['set']} {line['auroc']:.3f}" for line in found)
                print(f"seed {seed}, {trial.panel}, {name}, {found[0]['fit_seconds']:.0f} s: {each}", flush=True)
            results = pd.DataFrame(lines)
            results.drop(columns="draws").to_csv(args.out / "results.csv", index=False)
            ours = {name: detector for name, detector in fitted.items() if name in members}
            if trial.masks and ours:
                draw_maps(trial, ours, args.out / "maps.png")
    draw_table(results, args.out / "auroc.png")
    totals = summary(results)
    totals.to_csv(args.out / "summary.csv")
    print(totals.round(3).to_string())
    log(totals, args, members, seeds)


def log(totals: pd.DataFrame, args: argparse.Namespace, members: list[str], seeds: int) -> None:
    """The summary as metrics of one MLflow run, files beside them."""
    with redirect_stderr(io.StringIO()):  # MLflow tells of every table that it makes in a new store
        mlflow.set_experiment("benchmark_images")
    with mlflow.start_run():
        mlflow.log_params({"families": " ".join(members), "seeds": seeds, "rows": args.rows, "quick": args.quick})
        for (panel, method), line in totals.iterrows():
            name = f"{panel}/{method}".replace(" ", "_")
            mlflow.log_metrics({f"{name}/{key}": line[key] for key in ("mean", "min")})
        mlflow.log_artifacts(str(args.out))


if __name__ == "__main__":
    main()
