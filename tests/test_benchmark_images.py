"""The benchmark on images changes, scores and sums up as it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomgen.data import Dataset, load_dataset, read_card

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_images", ROOT / "pipelines" / "benchmark_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load_dataset("digits").images.repeat(2, axis=1).repeat(2, axis=2)


@pytest.fixture
def own_sets(job: ModuleType, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets under the names of the large ones; the last 400 images test, half of the tiles has a black square."""
    labels = load_dataset("digits").labels

    def load(name: str, root: Any) -> Dataset:
        X = digits if name != "fashion_mnist" else 255 - digits
        if name != "magnetic_tile":
            return Dataset(X, None, labels, read_card("mnist"), np.arange(len(X)) >= len(X) - 400)
        wrong = np.arange(300) >= 200
        masks = np.zeros((300, 16, 16), dtype=np.uint8)
        masks[wrong, 4:10, 4:10] = 1
        X = np.where(masks > 0, 0, 255 - digits[:300])
        return Dataset(X, wrong.astype(np.int64), wrong.astype(np.int64), read_card("magnetic_tile"), masks=masks)

    monkeypatch.setattr(job, "load_dataset", load)
    # The card says 28 x 28; these are smaller.
    monkeypatch.setattr(Dataset, "images", property(lambda self: self.X))


@pytest.mark.parametrize("colour", [False, True])
def test_every_change_treats_images_alike(job: ModuleType, digits: np.ndarray, colour: bool) -> None:
    images = np.stack([digits[:40], digits[40:80], digits[80:120]], axis=3) if colour else digits[:40]
    before = images.copy()
    for name, change in job.CHANGES.items():
        found = change(images, np.random.default_rng(0))
        assert found.shape == images.shape, name
        assert found.dtype == np.uint8, name
        assert all((a != b).any() for a, b in zip(found, images, strict=True)), name
        np.testing.assert_array_equal(found, change(images, np.random.default_rng(0)), err_msg=name)
    np.testing.assert_array_equal(images, before)


def test_changes_have_the_stated_strength(job: ModuleType) -> None:
    rng = np.random.default_rng(0)
    grey = np.full((50, 28, 28), 128, dtype=np.uint8)
    assert job.CHANGES["noise"](grey, rng).std() == pytest.approx(40, abs=1)
    assert (job.CHANGES["contrast"](grey, rng) == 51).all()
    levels = job.CHANGES["constant"](grey, rng)
    assert (levels == levels[:, :1, :1]).all()
    assert len(np.unique(levels)) > 30
    dot = np.zeros((1, 28, 28), dtype=np.uint8)
    dot[0, 14, 14] = 255
    assert job.CHANGES["blur"](dot, rng)[0, 14, 14] == pytest.approx(255 / (2 * np.pi * 1.5**2), abs=1)
    assert job.CHANGES["v-flip"](dot, rng)[0, 13, 14] == job.CHANGES["h-flip"](dot, rng)[0, 14, 13] == 255
    black = job.CHANGES["patch"](grey, rng) == 0
    assert (black.sum(axis=(1, 2)) == 144).all()
    for axes in ((0, 1), (0, 2)):
        assert black.any(axis=axes)[5:23].all()
        assert not black.any(axis=axes)[[0, 1, 2, 26, 27]].any()


def test_auroc_and_its_draws(job: ModuleType) -> None:
    rng = np.random.default_rng(0)
    normal, other = rng.normal(size=150).round(1), rng.normal(1.0, size=80).round(1)
    draws = job.auroc_draws(normal, other)
    labels = np.repeat([0, 1], [150, 80])
    assert draws[0] == pytest.approx(roc_auc_score(labels, np.concatenate([normal, other])))
    resampled = [
        roc_auc_score(labels, np.concatenate([rng.choice(normal, 150), rng.choice(other, 80)])) for _ in range(300)
    ]
    assert draws[1:].std() == pytest.approx(np.std(resampled), rel=0.2)
    assert draws[1:].mean() == pytest.approx(draws[0], abs=0.01)


def test_pixel_auroc_counts_pixels_outside_of_masks_as_normal(job: ModuleType) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((12, 8, 8)) < 0.1
    good, wrong = rng.normal(size=(20, 8, 8)), rng.normal(size=(12, 8, 8)) + 1.5 * masks
    draws = job.pixel_draws(good, wrong, masks)
    labels = np.concatenate([np.zeros(good.size), masks.ravel()])
    assert draws[0] == pytest.approx(roc_auc_score(labels, np.concatenate([good.ravel(), wrong.ravel()])), abs=2e-3)
    assert len(draws) == job.DRAWS + 1
    assert 0.005 < draws[1:].std() < 0.1


def test_peers_measure_what_they_say(job: ModuleType, digits: np.ndarray) -> None:
    peers = job.methods([], 0)
    assert set(peers) == {"PNG size", "PCA-64", "kNN-5 in PCA-64"}
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, size=(50, 16, 16), dtype=np.uint8)
    for name, peer in peers.items():
        peer.fit(digits[:400])
        assert job.auroc_draws(-peer.score_samples(digits[1000:1100]), -peer.score_samples(noisy))[0] > 0.95, name
    nearest = peers["kNN-5 in PCA-64"]
    rows = nearest._inside(digits[:400])
    expected = np.sort(np.linalg.norm(rows - nearest._inside(digits[1500:1501]), axis=1))[:5].mean()
    assert nearest.score_samples(digits[1500:1501]) == pytest.approx(-expected, rel=1e-4)
    spoiled = digits[1500:1501].copy()
    spoiled[0, :4, :4] = 255
    heat = peers["PCA-64"].score_map(spoiled)
    assert heat.shape == (1, 16, 16)
    assert heat[0, :4, :4].mean() > 3 * heat[0, 8:, 8:].mean()


def test_trials_test_nothing_that_trained(job: ModuleType, own_sets: None) -> None:
    made = list(job.trials(job.PANELS, Path(), 0, rows=0, tested=100, classes=2))
    assert [trial.panel for trial in made] == [
        "fashion_mnist",
        "mnist",
        *["one class of fashion_mnist"] * 2,
        *["one class of mnist"] * 2,
        "magnetic_tile",
    ]
    for trial in made:
        trained = {image.tobytes() for image in trial.train}
        tested = {image.tobytes() for image in trial.normal}
        assert not trained & tested
        for kind in set(trial.others) - set(job.CHANGES):
            assert not (trained | tested) & {image.tobytes() for image in trial.others[kind]}, (trial.panel, kind)
    pair = made[1]
    assert set(pair.others) == {"fashion_mnist", *job.CHANGES}
    assert {len(images) for images in (pair.normal, *pair.others.values())} == {100}
    upright = {image.tobytes() for image in pair.others["v-flip"][:, ::-1]}
    assert not upright & {image.tobytes() for image in pair.normal}
    assert len(pair.train) == 1397
    assert len(next(job.trials(["mnist"], Path(), 0, 50, 10, 1)).train) == 50
    assert (len(made[-1].train), len(made[-1].normal), len(made[-1].others["defects"])) == (160, 40, 100)


def test_our_detectors_are_measured_too(job: ModuleType, own_sets: None, tmp_path: Path) -> None:
    (trial,) = job.trials(["magnetic_tile"], Path(), 0, 0, 100, 1)
    detector = job.families.get("kernel")(random_state=0)
    image, pixels = job.measure(trial, "kernel", detector, 0)
    assert (image["set"], pixels["set"], image["tested"]) == ("defects", "defects, pixels", 140)
    assert image["auroc"] > 0.9
    assert image["low"] <= image["auroc"] <= image["high"]
    assert pixels["auroc"] != image["auroc"]
    assert min(image["fit_seconds"], image["images_per_s"]) > 0
    job.draw_maps(trial, {"kernel": detector}, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as figure:
        assert figure.width > 1000


def test_the_schedule_of_our_detectors_can_be_cut(job: ModuleType) -> None:
    made = job.methods(["vae", "kernel"], 3, 20)
    assert (made["vae"].max_epochs, made["vae"].random_state, made["kernel"].random_state) == (20, 3, 3)
    assert job.methods(["vae"], 3)["vae"].max_epochs == "auto"


def test_passes_are_those_of_networks(job: ModuleType, digits: np.ndarray) -> None:
    detector = job.methods(["diffusion"], 0, 1)["diffusion"].set_params(statistic="reconstruction")
    detector.fit(digits[:130, ::2, ::2])
    assert job.passes(detector, digits[:64, ::2, ::2]) == len(detector.model_.levels)
    assert job.passes(job.PngSize().fit(digits[:10]), digits[:10]) == 0


def test_summary_takes_mean_and_minimum_over_sets(job: ModuleType) -> None:
    lines = [
        {"panel": "p", "method": "one", "seed": seed, "set": kind, "fit_seconds": 1.0 + seed, "images_per_s": 10.0}
        | {"passes": 2.0, "draws": np.array([value, value - 0.1, value + 0.1])}
        for seed in range(2)
        for kind, value in (("a", 0.8 + 0.1 * seed), ("b", 0.6 - 0.1 * seed), ("a, pixels", 0.1))
    ]
    found = job.summary(pd.DataFrame(lines)).loc[("p", "one")]
    assert (found["mean"], found["min"]) == (pytest.approx(0.7), pytest.approx(0.55))
    assert (found["mean 95 %"], found["min 95 %"]) == ("0.605 - 0.795", "0.455 - 0.645")
    assert (found["fit s"], found["images/s"], found["passes"]) == (1.5, 10.0, 2.0)


def test_the_job_writes_tables_figures_and_a_run(
    job: ModuleType, own_sets: None, tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    out = tmp_path / "out"
    job.main(["--data=unused", "--families=none", "--quick", f"--out={out}", "--panels", "magnetic_tile"])
    assert {path.name for path in out.iterdir()} == {"results.csv", "summary.csv", "auroc.png"}
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 3 + 1
    assert results["auroc"].between(0, 1).all()
    (run,) = mlflow.search_runs(experiment_names=["benchmark_images"], output_format="list")
    auroc = results.query("set == 'defects' and method == 'PCA-64'")["auroc"].item()
    assert run.data.metrics["magnetic_tile/PCA-64/mean"] == pytest.approx(auroc)
    assert "magnetic_tile" in capsys.readouterr().out
