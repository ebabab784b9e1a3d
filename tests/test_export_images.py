"""Exports of drawn images: folders that datasets reads, PNG by PNG."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anomgen import VAEDetector, augment
from anomgen.augment import export
from anomgen.augment.given import open_given
from anomgen.data import ImageFolder
from anomgen.encode import Labelled
from anomgen.quality import CopyCheck

SMALL: dict[str, Any] = {"max_epochs": 1, "contamination": 0.1, "random_state": 0}
SIDE = 8


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(90, 25, (200, 1, 1)) + rng.normal(0, 20, (200, SIDE, SIDE)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector(images: np.ndarray) -> VAEDetector:
    labels = np.where(images.mean((1, 2)) > 90, "bright", "dark")
    return VAEDetector(condition="y", **SMALL).fit(images, labels)


@pytest.fixture(scope="module")
def folder(detector: VAEDetector, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("images") / "out"
    summary = export(detector, 1_100, out, train=images, held_out=images[::-1][:50], workers=2, allow_copies=True)
    assert summary.files == ("train/00000", "train/00001")
    return out


def test_a_folder_of_images_is_read_by_datasets(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cache = str(tmp_path / "cache")
    for how in ((str(folder),), ("imagefolder", None, str(folder))):
        loaded = datasets.load_dataset(*how, cache_dir=cache)["train"]
        assert len(loaded) == 1_100
        assert set(loaded.column_names) == {"image", "label", "score", "synthetic", "seed", "model_id"}
        last = loaded[-1]
        assert (last["synthetic"], last["seed"], last["image"].size) == (True, 0, (SIDE, SIDE))


def test_files_hold_what_was_drawn(folder: Path, detector: VAEDetector) -> None:
    drawn = augment.draw(detector, 1_100)
    read = ImageFolder(folder / "train").read()
    assert np.array_equal(read, drawn.rows)
    about = pq.read_table(folder / "train" / "00001" / "metadata.parquet")
    assert about["file_name"].to_pylist() == [f"{number:08d}.png" for number in range(1024, 1100)]
    assert about["label"].to_pylist() == drawn.labels[1024:].tolist()
    np.testing.assert_array_equal(about["score"].to_numpy(), detector.score_samples(drawn.rows[1024:]))
    assert (folder / "plots" / "images.png").is_file()


def test_parts_that_are_damaged_are_drawn_again(folder: Path, detector: VAEDetector, images: np.ndarray) -> None:
    first = folder / "train" / "00000" / "00000007.png"
    before = first.read_bytes()
    first.write_bytes(b"damaged")
    again = export(detector, 1_100, folder, train=images, held_out=images[::-1][:50], allow_copies=True)
    assert (again.resumed, again.parts) == (1, 2)
    assert first.read_bytes() == before
    (folder / "train" / "mine.png").write_bytes(before)
    with pytest.raises(FileExistsError, match="holds train, which is not the output of an export"):
        export(detector, 1_100, folder, train=images, allow_copies=True, overwrite=True)


@pytest.mark.parametrize("form", ["colour", "first", "unit"])
def test_images_keep_their_layout(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 255, (60, SIDE, SIDE, 3)).astype(np.uint8)
    forms = {"colour": colour, "first": colour.transpose(0, 3, 1, 2), "unit": colour[..., 0] / 255.0}
    detector = VAEDetector(**SMALL).fit(forms[form])
    export(detector, 5, tmp_path / "drawn.npz", train=forms[form], seed=1)
    rows = augment.draw(detector, 5, seed=1).rows
    with np.load(tmp_path / "drawn.npz") as stored:
        assert stored["X"].dtype == rows.dtype
        np.testing.assert_array_equal(stored["X"], rows)
        assert stored["synthetic"].all()
    export(detector, 5, tmp_path / "drawn", train=forms[form], seed=1)
    levels = np.rint(rows * 255).astype(np.uint8) if form == "unit" else rows
    read = ImageFolder(tmp_path / "drawn" / "train").read()
    np.testing.assert_array_equal(read, levels.transpose(0, 2, 3, 1) if form == "first" else levels)
    with pytest.raises(ValueError, match=r"written to \.npz, or to a folder with format= 'png', 'npz'"):
        export(detector, 5, tmp_path / "drawn.csv", allow_copies=True)


def sorted_by_label(images: np.ndarray, labels: np.ndarray, folder: Path) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number}.png")
    return folder


@pytest.mark.parametrize("form", ["png", "npz"])
def test_training_on_drawn_images_with_labels_is_judged(
    detector: VAEDetector, images: np.ndarray, tmp_path: Path, form: Any
) -> None:
    labels = np.where(images.mean((1, 2)) > 90, "bright", "dark")
    np.savez(tmp_path / "train.npz", X=images[:120], y=labels[:120])
    train: Any = tmp_path / "train.npz" if form == "png" else Labelled(images[:120], labels[:120])
    held_out = sorted_by_label(images[120:], labels[120:], tmp_path / "held_out")
    job: dict[str, Any] = {"train": train, "held_out": held_out, "evaluate": True, "format": form}
    found = export(detector, 60, tmp_path / "out", **job).metrics
    assert found["transfer_real"] > 0.9
    assert "transfer_synthetic" in found
    with pytest.raises(ValueError, match="target='label': images are told by their labels"):
        export(detector, 60, tmp_path / "more", target="label", **job)


def test_training_images_from_files_are_compared_at_the_size_of_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "train").mkdir()
    for number in range(40):
        large = rng.integers(0, 255, (2 * SIDE, 2 * SIDE)).astype(np.uint8)
        Image.fromarray(large).save(tmp_path / "train" / f"{number}.png")
    detector = VAEDetector(image_size=SIDE, **SMALL).fit(ImageFolder(tmp_path / "train", size=SIDE))
    summary = export(detector, 6, tmp_path / "out", train=tmp_path / "train")
    assert (summary.copies, summary.rows) == (0, 6)
    given = open_given(detector, tmp_path / "train")
    check = CopyCheck(given.chunks())
    assert check.matches(ImageFolder(tmp_path / "train", size=SIDE).read()).all()
