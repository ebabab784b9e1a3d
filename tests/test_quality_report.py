"""The report on synthetic rows, of tables and of images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomgen import MixtureDetector
from anomgen.data import ImageFolder, make_payments, open_source
from anomgen.encode import Labelled
from anomgen.quality import QualityReport, quality_report
from anomgen.quality.limits import limits_of


@pytest.fixture(scope="module")
def payments() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    X, y, _ = make_payments(1800, seed=3)
    X["label"] = y
    return X[:600], X[600:1200], X[1200:]


@pytest.fixture(scope="module")
def good(payments: tuple[pd.DataFrame, ...]) -> QualityReport:
    train, held_out, more = payments
    detector = MixtureDetector(components=2, contamination=0.1).fit(train.drop(columns="label"))
    return quality_report(more, held_out, train=train, target="label", detector=detector)


def test_rows_of_the_same_table_pass(good: QualityReport) -> None:
    found = good.metrics()
    assert found["column_shapes"] > 0.94
    assert good.two_sample.low < 0.5 < good.two_sample.high
    assert found["closest_nearer"] < 0.03
    assert found["copies"] == found["copies_held_out"] == 0.0
    assert good.membership is not None
    assert good.membership.low < 0.55
    assert good.reference is not None
    assert good.reference.pair_trends == pytest.approx(good.pairs.mean, abs=0.02)
    assert {name: len(scores) for name, scores in good.scores.items()} == dict.fromkeys(good.rows, 600)


def test_a_report_is_json_and_numbers(good: QualityReport) -> None:
    told = json.loads(json.dumps(good.to_dict(), allow_nan=False))
    assert told["metrics"] == good.metrics()
    assert set(told["column_shapes"]) == set(good.shapes)
    assert len(told["closest_records"]["synthetic"]) == len(told["scores"]["train"]) == 101
    assert told["transfer"][0]["target"] == "label"
    assert any("only 600 held-out rows" in sentence for sentence in told["limits"])


def test_copies_are_told(payments: tuple[pd.DataFrame, ...]) -> None:
    train, held_out, more = payments
    found = quality_report(pd.concat([train[:300], more[:300]]), held_out, train=train, target="label")
    assert found.copies is not None
    assert found.copies.share == 0.5
    assert found.metrics()["closest_nearer"] == pytest.approx(0.5, abs=0.03)
    assert sum("50" in sentence and "training row" in sentence for sentence in found.limits) == 2
    assert any("Membership was not checked" in sentence for sentence in found.limits)


def test_near_copies_are_told_beyond_what_chance_makes_of_few_rows(good: QualityReport) -> None:
    assert good.closest is not None
    near = replace(good, closest=replace(good.closest, nearer=0.03))
    few = replace(near, rows=dict.fromkeys(good.rows, 100))
    told = [" ".join(limits_of(report, {}, {}, "label")) for report in (near, few)]
    assert ["near copies." in text for text in told] == [True, False]


def test_without_training_rows_nothing_is_said_on_copies(payments: tuple[pd.DataFrame, ...]) -> None:
    _, held_out, more = payments
    changed = more.assign(amount=more["amount"] * 10).drop(columns="opened")
    found = quality_report(changed, held_out, target="verified", max_rows=400)
    assert found.closest is found.copies is found.membership is found.reference is None
    assert not {"copies", "closest_nearer", "membership_auroc"} & found.metrics().keys()
    text = " ".join(found.limits)
    for said in (
        "were not checked",
        "not compared: opened.",
        "differ most",
        "amount (",
        "400 chosen at random",
        "tells",
    ):
        assert said in text


def test_rows_from_files_and_known_scores(payments: tuple[pd.DataFrame, ...], tmp_path: object) -> None:
    train, held_out, more = payments
    path = f"{tmp_path}/train.csv"
    train.to_csv(path, index=False)
    scores = {"train": np.arange(100.0), "held_out": np.arange(100.0) - 50}
    kept = ["amount", "category", "label"]
    found = quality_report(
        more[kept], held_out[kept], train=open_source(path, chunk_rows=250), scores=scores, target="label"
    )
    assert found.rows["train"] == 600
    assert found.membership is not None
    assert found.membership.value == pytest.approx(1 - 0.5 * 0.25, abs=0.01)
    with pytest.raises(ValueError, match="train is an iterator"):
        quality_report(more, held_out, train=iter([train]))


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Images of bars, upright or lying, somewhere; and which they are."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 40, size=(600, 12, 12), dtype=np.uint8)
    lying = rng.random(600) < 0.5
    for image, flat, at, bright in zip(
        images, lying, rng.integers(1, 10, 600), rng.integers(120, 255, 600), strict=True
    ):
        (image if flat else image.T)[at : at + 2] = bright
    return images, lying


def test_images_in_the_features_of_a_classifier(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    images, lying = pictures
    parts = [Labelled(images[part], lying[part]) for part in (slice(200), slice(200, 400), slice(400, 600))]
    found = quality_report(parts[2], parts[1], train=parts[0])
    assert found.kind == "image"
    assert found.two_sample.low < 0.55
    assert found.metrics()["copies"] == 0.0
    (label,) = found.transfer
    assert label.target == "label"
    assert min(label.synthetic, label.real) > 0.9
    assert found.to_dict() == quality_report(parts[2], parts[1], train=parts[0]).to_dict()


def test_images_that_differ_and_copies(pictures: tuple[np.ndarray, np.ndarray], tmp_path: object) -> None:
    images, _ = pictures
    diagonal = np.maximum(images[400:], 200 * np.eye(12, dtype=np.uint8))
    told = quality_report(diagonal, images[200:400])
    assert told.two_sample.low > 0.8
    assert any("training rows were not given" in sentence for sentence in told.limits)
    assert any("not all images have labels" in sentence for sentence in told.limits)
    for number, image in enumerate(images[:40]):
        Image.fromarray(image).save(f"{tmp_path}/{number:03}.png")
    copied = quality_report(images[20:80], images[200:300], train=ImageFolder(str(tmp_path)))
    assert copied.copies is not None
    assert copied.copies.share == pytest.approx(1 / 3)
