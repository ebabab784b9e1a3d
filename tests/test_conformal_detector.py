"""Calibrated detectors: p-values and selections, what is refused, what saving keeps and what a refit drops."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import anomgen
from anomgen import MixtureDetector, calibrate
from anomgen.detector import sketch
from anomgen.persist import FormatError, read_folder, write_folder
from anomgen.train import Callback, default_callbacks
from tests.toys import FAMILIES, tiny, toy


def table(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)) + shift


def mixture(**params: Any) -> MixtureDetector:
    return MixtureDetector(**{"contamination": 0.1, "random_state": 0, "verbose": False, **params})


@pytest.fixture(scope="module")
def fitted() -> MixtureDetector:
    return mixture().fit(table(400, 0))


@pytest.fixture
def calibrated(fitted: MixtureDetector) -> MixtureDetector:
    return copy.deepcopy(fitted).calibrate(table(199, 1))


@pytest.fixture(scope="module")
def folded() -> MixtureDetector:
    return mixture().fit(table(120, 0)).calibrate(table(120, 0), folds=4)


ROWS = np.vstack([table(60, 2), table(6, 3, 9.0)])


def test_p_values_are_those_of_the_scores(calibrated: MixtureDetector) -> None:
    scores, known = calibrated.score_samples(ROWS), calibrated.score_samples(table(199, 1))
    assert np.array_equal(calibrated.calibration_, np.sort(known))
    assert calibrated.folds_ == ()
    assert np.array_equal(calibrated.p_values(ROWS), calibrate.p_values(known, scores))
    assert np.array_equal(calibrated.ranks(ROWS), calibrate.ranks(known, scores))
    assert np.array_equal(calibrated.ranks(ROWS, scores=scores), calibrated.ranks(ROWS))
    for options in ({"randomize": True, "seed": 3}, {"confidence": 0.9}):
        assert np.array_equal(calibrated.p_values(ROWS, **options), calibrate.p_values(known, scores, **options))
        expected = calibrate.benjamini_hochberg(calibrated.p_values(ROWS, **options), 0.3)
        assert expected.any()
        assert np.array_equal(calibrated.select(ROWS, 0.3, **options), expected)


def test_selected_are_the_rows_far_out(calibrated: MixtureDetector) -> None:
    selected = calibrated.select(ROWS, fdr=0.1)
    assert selected[60:].all()
    assert selected[:60].sum() <= 3
    assert selected.dtype == bool


def test_a_p_value_depends_on_its_row_only(calibrated: MixtureDetector, folded: MixtureDetector) -> None:
    order = np.random.default_rng(0).permutation(len(ROWS))
    for detector in (calibrated, folded):
        p = detector.p_values(ROWS)
        assert np.array_equal(detector.p_values(ROWS[order]), p[order])
        assert np.array_equal(np.concatenate([detector.p_values(ROWS[i : i + 1]) for i in (0, 61)]), p[[0, 61]])


def test_folds_are_detectors_that_have_not_seen_their_rows(folded: MixtureDetector) -> None:
    assert [len(member.calibration_) for member in folded.folds_] == [30] * 4
    below = [(member.calibration_ <= member.score_samples(ROWS)[:, None]).sum(1) for member in folded.folds_]
    assert np.array_equal(folded.ranks(ROWS), 1 + sum(below))
    assert folded.p_values(ROWS) == pytest.approx((1 + sum(below)) / 121)
    assert np.array_equal(folded.calibration_, np.sort(np.concatenate([m.calibration_ for m in folded.folds_])))
    # Each row calibrates the one model that was fitted without it.
    seen = sketch.smallest(sketch.row_hashes(table(120, 0)))
    unseen = [np.setdiff1d(seen, member.row_sketch_) for member in folded.folds_]
    assert [len(rows) for rows in unseen] == [30] * 4
    assert np.array_equal(sketch.smallest(*unseen), seen)
    assert len({json.dumps(member.encoder_.state()) for member in folded.folds_}) == 4


def test_folds_do_not_give_a_confidence(folded: MixtureDetector) -> None:
    with pytest.raises(ValueError, match="without folds="):
        folded.p_values(ROWS, confidence=0.9)
    with pytest.raises(ValueError, match="without folds="):
        folded.select(ROWS, confidence=0.9)


@pytest.mark.parametrize("folds", [1, 61, 2.5])
def test_folds_must_be_possible(fitted: MixtureDetector, folds: Any) -> None:
    with pytest.raises(ValueError, match="folds="):
        copy.deepcopy(fitted).calibrate(table(120, 0), folds=folds)


def test_folds_take_one_label_a_row(fitted: MixtureDetector) -> None:
    with pytest.raises(ValueError, match="y has 121 labels for 120 rows"):
        fitted.calibrate(table(120, 0), np.zeros(121), folds=2)


def test_nothing_is_known_before_the_calibration_or_after_a_fit(calibrated: MixtureDetector) -> None:
    calls = (
        lambda d: d.p_values(ROWS),
        lambda d: d.select(ROWS),
        lambda d: d.ranks(ROWS),
        lambda d: d.set_threshold(false_positive_rate=0.1),
    )
    for detector in (mixture().fit(table(100, 0)), calibrated.fit(table(100, 0))):
        for call in calls:
            with pytest.raises(ValueError, match=r"detector\.calibrate\(X_normal\)"):
                call(detector)
        assert not hasattr(detector, "calibration_")


def test_rows_that_wait_are_learned_before_a_calibration_counts() -> None:
    detector = tiny(contamination=0.1).partial_fit(table(300, 0))
    detector.calibrate(table(150, 1)).p_values(ROWS)
    detector.partial_fit(table(50, 2))
    with pytest.raises(ValueError, match="a new fit drops the calibration"):
        detector.p_values(ROWS)


def test_the_threshold_by_rate_flags_what_has_no_larger_p_value(calibrated: MixtureDetector) -> None:
    p = calibrated.p_values(ROWS)
    other = copy.deepcopy(calibrated).calibrate(table(199, 1), false_positive_rate=0.05)
    assert calibrated.set_threshold(false_positive_rate=0.05).offset_ == other.offset_
    assert np.array_equal(calibrated.predict(ROWS) == -1, p <= 0.05)
    before = calibrated.offset_
    with pytest.raises(ValueError, match="needs 999"):
        calibrated.set_threshold(false_positive_rate=0.001)
    with pytest.raises(ValueError, match="needs 999"):
        calibrated.calibrate(table(100, 8), false_positive_rate=0.001)
    assert (calibrated.offset_, len(calibrated.calibration_)) == (before, 199)
    for wrong in ({}, {"threshold": 1.0, "false_positive_rate": 0.1}, {"contamination": 0.1, "threshold": 1.0}):
        with pytest.raises(ValueError, match="one of threshold="):
            calibrated.set_threshold(**wrong)


def test_the_threshold_of_folds_is_read_from_all_of_them(folded: MixtureDetector) -> None:
    detector = copy.deepcopy(folded).set_threshold(false_positive_rate=0.1)
    assert detector.offset_ == folded.calibration_[11]
    assert 0.01 < (detector.predict(table(2000, 9)) == -1).mean() < 0.2


@pytest.mark.parametrize("way", ["save", "pickle"])
@pytest.mark.parametrize("which", ["calibrated", "folded"])
def test_a_calibration_is_kept(request: pytest.FixtureRequest, tmp_path: Path, way: str, which: str) -> None:
    detector = request.getfixturevalue(which)
    if way == "save":
        detector.save(tmp_path / "m")
        again = anomgen.load(tmp_path / "m")
        card = (tmp_path / "m" / "README.md").read_text()
        assert ("Calibrated on 120 normal rows by 4 models" in card) == (which == "folded")
    else:
        again = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(again.calibration_, detector.calibration_)
    assert len(again.folds_) == len(detector.folds_)
    assert np.array_equal(again.p_values(ROWS), detector.p_values(ROWS))
    assert np.array_equal(again.row_sketch_, detector.row_sketch_)
    again.save(tmp_path / "again")
    assert np.array_equal(anomgen.load(tmp_path / "again").p_values(ROWS), detector.p_values(ROWS))


def test_trained_networks_with_labels_are_cross_calibrated_too(tmp_path: Path) -> None:
    X, y = table(90, 0), np.repeat(["a", "b"], 45)
    detector = tiny(condition="y", contamination=0.1).fit(X, y)
    with pytest.warns(UserWarning, match="calibrated on 90 rows"):
        detector.calibrate(X, y, folds=2)
    detector.save(tmp_path / "m")
    assert np.array_equal(anomgen.load(tmp_path / "m").p_values(ROWS), detector.p_values(ROWS))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_calibrated_and_kept(name: str, tmp_path: Path) -> None:
    X = table(240, 0)
    detector = toy(name, contamination=0.1).fit(X[:120]).calibrate(X[120:])
    p = detector.p_values(ROWS)
    assert ((p > 0) & (p <= 1)).all()
    detector.save(tmp_path / "split")
    assert np.array_equal(anomgen.load(tmp_path / "split").p_values(ROWS), p)
    p = detector.calibrate(X[:120], folds=2).p_values(ROWS)
    detector.save(tmp_path / "cross")
    assert np.array_equal(anomgen.load(tmp_path / "cross").p_values(ROWS), p)
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).p_values(ROWS), p)


def test_a_damaged_calibration_is_told(folded: MixtureDetector, tmp_path: Path) -> None:
    folded.save(tmp_path / "m")
    config, arrays = read_folder(tmp_path / "m")
    config.pop("format")
    for number, wrong in enumerate(("folds.1.calibration", "folds.3.model.means", "folds.0.score_quantiles")):
        kept = {key: value for key, value in arrays.items() if key != wrong}
        assert len(kept) == len(arrays) - 1
        write_folder(tmp_path / str(number), config, kept, "")
        with pytest.raises(FormatError):
            anomgen.load(tmp_path / str(number)).p_values(ROWS)


def test_fits_of_folds_are_not_watched(fitted: MixtureDetector) -> None:
    class Watch(Callback):
        began = 0

        def on_fit_begin(self, run: Any) -> None:
            Watch.began += 1

    watch = Watch()
    default_callbacks.append(watch)
    try:
        detector = mixture(callbacks=(watch,)).fit(table(120, 0))
        told = Watch.began
        detector.calibrate(table(120, 0), folds=2)
        assert default_callbacks == [watch]
    finally:
        default_callbacks.remove(watch)
    assert told
    assert Watch.began == told


def test_training_rows_do_not_calibrate(fitted: MixtureDetector) -> None:
    with pytest.raises(ValueError, match="are the rows that the model was fitted to"):
        fitted.calibrate(table(400, 0))
    assert not hasattr(fitted, "calibration_")


def test_a_share_of_training_rows_is_noticed(fitted: MixtureDetector) -> None:
    detector = copy.deepcopy(fitted)
    with pytest.warns(UserWarning, match="about 20% of the distinct rows"):
        detector.calibrate(np.vstack([table(400, 0)[:40], table(160, 5)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.calibrate(np.vstack([table(400, 0)[:15], table(185, 5)]))


def test_rows_held_out_count_as_met() -> None:
    held = table(110, 6)
    detector = mixture().fit(table(200, 0), X_val=held)
    with pytest.warns(UserWarning, match="about 100% of the distinct rows"):
        detector.calibrate(held)


def test_rows_of_all_fits_that_made_a_model_count_as_met() -> None:
    detector = tiny(warm_start=True, contamination=0.1).fit(table(200, 0)).fit(table(200, 5))
    with pytest.warns(UserWarning, match="about 100% of the distinct rows"):
        detector.calibrate(table(200, 0))
    detector.set_params(warm_start=False).fit(table(200, 5)).calibrate(table(200, 0))


def test_equal_rows_of_a_table_of_levels_are_no_sign() -> None:
    def levels(seed: int) -> pd.DataFrame:
        return pd.DataFrame(np.random.default_rng(seed).integers(0, 3, size=(300, 2)).astype(str), columns=["a", "b"])

    mixture().fit(levels(0)).calibrate(levels(1))


def test_few_rows_are_told_what_they_cannot_do(fitted: MixtureDetector) -> None:
    detector = copy.deepcopy(fitted)
    with pytest.warns(UserWarning, match=r"no p-value is below 0\.05"):
        detector.calibrate(table(19, 1))
    with pytest.warns(UserWarning, match=r"6 of 66 rows .* 109 calibration rows are enough for 6"):
        assert not detector.select(ROWS, fdr=0.1).any()
    detector.calibrate(table(109, 1))
    assert detector.select(ROWS, fdr=0.1)[60:].all()


def test_frames_with_missing_values_and_levels(mixed: pd.DataFrame) -> None:
    detector = mixture().fit(mixed[:150]).calibrate(mixed[150:])
    assert detector.select(mixed[:20].assign(length=900.0), fdr=0.2).all()


def test_images(full: bool) -> None:
    images = np.random.default_rng(0).integers(0, 255, size=(260, 6, 6), dtype=np.uint8)
    detector = mixture(statistic="likelihood")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector.fit(images[:120])
    with pytest.warns(UserWarning, match="about 14%"):
        detector.calibrate(images[100:240])
    assert detector.p_values(images[240:]).shape == (20,)


# ---------------------------------------------------------------------- hashes of rows


def test_equal_rows_have_equal_hashes_whatever_holds_them() -> None:
    X = np.round(table(50, 0) * 10)
    X[3, 1] = np.nan
    X[4] = -0.0
    frame = pd.DataFrame(X, columns=list("abc"))
    hashes = sketch.row_hashes(X)
    assert len(np.unique(hashes)) == 50
    for same in (frame, frame.astype("Float64"), frame.astype(np.float32), frame.assign(a=frame["a"].astype(int))):
        assert np.array_equal(sketch.row_hashes(same), hashes)
    assert np.array_equal(sketch.row_hashes(X.astype(np.float32)), hashes)
    assert np.array_equal(sketch.row_hashes(X[::-1]), hashes[::-1])
    changed = X[:, ::-1] != X
    assert not (sketch.row_hashes(X[:, ::-1]) == hashes)[changed.any(axis=1)].any()


def test_texts_times_and_categories_are_hashed_by_value() -> None:
    frame = pd.DataFrame(
        {"t": ["x", "y", None], "c": pd.Categorical(["p", "q", "p"]), "d": pd.to_datetime(["2024", "2025", "2026"])}
    )
    hashes = sketch.row_hashes(frame)
    assert len(set(hashes)) == 3
    assert np.array_equal(sketch.row_hashes(frame[1:]), hashes[1:])
    assert np.array_equal(sketch.row_hashes(frame.assign(c=frame["c"].cat.reorder_categories(["q", "p"]))), hashes)


def test_small_numbers_do_not_collide() -> None:
    grid = np.array(np.meshgrid(range(100), range(100), range(5))).reshape(3, -1).T.astype(float)
    assert len(np.unique(sketch.row_hashes(grid))) == len(grid)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_sketch_estimates_the_share_of_rows_met(share: float) -> None:
    train, again = table(40_000, 0), round(share * 10_000)
    kept = sketch.smallest(*(sketch.row_hashes(part) for part in np.array_split(train, 7)))
    assert len(kept) == sketch.SIZE
    assert np.array_equal(kept, sketch.smallest(sketch.row_hashes(train)))
    rows = np.vstack([train[:again], table(10_000 - again, 1)])
    assert sketch.met_again(kept, sketch.row_hashes(rows)) == pytest.approx(share, abs=0.05)


def test_identity_of_pieces_and_of_images_with_labels() -> None:
    from anomgen.encode import Labelled

    images = np.random.default_rng(0).integers(0, 255, size=(40, 5, 5), dtype=np.uint8)
    digest, hashes = sketch.identity(Labelled(images, np.arange(40)), 25)
    assert digest != sketch.identity(images, 25)[0]
    assert np.array_equal(hashes, sketch.identity(images, 25)[1])
    assert len(hashes) == 40
