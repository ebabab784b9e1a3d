"""The contract of detectors on images, run over every family found."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import anomgen
from anomgen import runtime
from anomgen.detector import Detector
from tests.toys import CONDITIONAL, FAMILIES, LIKELY, small

family = pytest.mark.parametrize("family", FAMILIES)
likely = pytest.mark.parametrize("family", LIKELY)
conditional = pytest.mark.parametrize("family", CONDITIONAL)


def digits() -> np.ndarray:
    """1,797 handwritten digits of 8 x 8 pixels."""
    return np.rint(load_digits().images * (255 / 16)).astype(np.uint8)


def colour(n: int = 120, height: int = 7, width: int = 9) -> np.ndarray:
    """Random discs on random grounds, in colour."""
    rng = np.random.default_rng(0)
    i, j = np.mgrid[:height, :width]
    centre = rng.uniform(2, height - 2, (n, 2, 1, 1))
    disc = (i - centre[:, 0]) ** 2 + (j - centre[:, 1]) ** 2 < 5
    ground = rng.integers(0, 100, (n, 1, 1, 3))
    return np.where(disc[..., None], 200, ground).astype(np.uint8)


@family
class TestImages:
    def test_scores_samples_and_files(self, family: str, tmp_path: Any) -> None:
        X = digits()[:160]
        detector = small(family).fit(X[:120])
        scores = detector.score_samples(X)
        assert scores.shape == (160,)
        assert np.isfinite(scores).all()
        drawn = detector.sample(3)
        assert (drawn.shape, drawn.dtype) == ((3, 8, 8), np.uint8)
        assert np.array_equal(detector.sample(2), drawn[:2])
        detector.save(tmp_path / "model")
        assert np.array_equal(anomgen.load(tmp_path / "model").score_samples(X), scores)
        assert np.array_equal(pickle.loads(pickle.dumps(detector)).score_samples(X), scores)

    def test_a_score_depends_on_nothing_but_its_image(self, family: str) -> None:
        X = digits()[:150]
        detector = small(family).fit(X[:110])
        scores = detector.score_samples(X)
        order = np.random.default_rng(1).permutation(len(X))
        for count in (1, 2, 3):
            with runtime.threads(count):
                assert np.array_equal(detector.score_samples(X[order]), scores[order])
                assert np.array_equal(detector.score_samples(X[17:18]), scores[17:18])
                assert np.array_equal(detector.score_samples(np.asfortranarray(X[5:100])), scores[5:100])

    def test_layouts_score_alike(self, family: str) -> None:
        X = colour()
        detector = small(family).fit(X)
        scores = detector.score_samples(X)
        first = small(family).fit(np.moveaxis(X, 3, 1))
        assert np.array_equal(first.score_samples(np.moveaxis(X, 3, 1)), scores)
        flat = small(family, image_shape=(7, 9, 3)).fit(X.reshape(len(X), -1))
        assert np.array_equal(flat.score_samples(X.reshape(len(X), -1)), scores)
        unit = small(family).fit(X / 255)
        assert np.array_equal(unit.score_samples(X / 255), scores)
        assert detector.sample(2).shape == (2, 7, 9, 3)
        assert first.sample(2).shape == (2, 3, 7, 9)
        assert flat.sample(2).shape == (2, 189)

    def test_images_of_other_sizes_are_refused_or_resized(self, family: str) -> None:
        X = colour()
        with pytest.raises(ValueError, match="image_size="):
            small(family).fit(X).score_samples(colour(4, 9, 9))
        detector = small(family, image_size=(6, 6)).fit(X)
        assert detector.score_samples(colour(4, 9, 9)).shape == (4,)
        with pytest.raises(ValueError, match="shape"):
            detector.score_samples(X[..., 0])

    def test_the_range_of_pixels_matters(self, family: str) -> None:
        X = digits()[:60] // 2
        half = small(family).fit(X)
        full = small(family, pixel_range=(0, 127)).fit(X)
        assert not np.array_equal(full.score_samples(X), half.score_samples(X))
        assert np.array_equal(small(family).fit(X / 255).score_samples(X / 255), half.score_samples(X))

    def test_bad_pixels_are_named(self, family: str) -> None:
        X = digits()[:60] / 255
        detector = small(family).fit(X)
        X[7, 1, 2] = np.nan
        with pytest.raises(ValueError, match=r"image 7 has a pixel that is nan at \(1, 2\)"):
            detector.score_samples(X)
        with pytest.raises(ValueError, match="image 7"):
            small(family).fit(X)

    def test_heat_is_where_the_image_is_odd(self, family: str, tmp_path: Any) -> None:
        X = digits()[:200]
        detector = small(family, max_epochs=150).fit(X[:100], X_val=X[100:150])
        odd = X[150:].copy()
        odd[:, :3, :3] = np.random.default_rng(0).integers(0, 256, (50, 3, 3))
        heat = detector.score_map(odd)
        assert heat.shape == (50, 8, 8)
        assert (heat >= 0).all()
        assert heat[:, :3, :3].mean() > heat[:, 4:, 4:].mean() + 0.2
        # On one scale for all images: normal ones are cold.
        assert (detector.score_map(X[150:])[:, :3, :3] > 2).mean() < 0.05
        assert np.array_equal(detector.score_map(odd[3:4]), heat[3:4])
        detector.save(tmp_path / "model")
        assert np.array_equal(anomgen.load(tmp_path / "model").score_map(odd), heat)
        with pytest.raises(ValueError, match="table"):
            small(family).fit(np.random.default_rng(0).normal(size=(40, 2))).score_map(np.zeros((3, 2)))

    def test_options_of_tables_are_refused(self, family: str) -> None:
        for option in ({"exclude": (0,)}, {"kinds": {0: "continuous"}}):
            with pytest.raises(ValueError, match=next(iter(option))):
                small(family, **option).fit(digits()[:40])


def test_a_table_after_images_leaves_no_heatmaps() -> None:
    detector = small(FAMILIES[0]).fit(digits()[:60])
    assert hasattr(detector, "map_quantiles_")
    assert not hasattr(detector.fit(np.random.default_rng(0).normal(size=(60, 2))), "map_quantiles_")


@likely
def test_plain_likelihood_warns_once(family: str) -> None:
    detector = small(family, statistic="likelihood")
    with pytest.warns(UserWarning, match="likelihood") as caught:
        detector.fit(digits()[:60])
    assert len([one for one in caught if one.category is UserWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.score_samples(digits()[:60])


@conditional
def test_labels_are_conditions(family: str) -> None:
    X, y = digits()[:200], load_digits().target[:200] % 2
    detector: Detector = small(family, condition="y").fit(X, y)
    given: Any = detector
    assert given.score_samples(X[:5]).shape == (5,)
    other = given.score_samples(X[:5], condition=1 - y[:5])
    assert not np.array_equal(other, given.score_samples(X[:5], condition=y[:5]))
    assert given.sample(2, condition=1).shape == (2, 8, 8)
    with pytest.raises(ValueError, match="did not have"):
        given.sample(2, condition=3)
