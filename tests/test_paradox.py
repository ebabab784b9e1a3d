"""The likelihood paradox on real images: foreign ones are more likely than normal ones, and the default score knows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from anomgen.detector import Detector
from anomgen.families.flow import FlowDetector
from anomgen.families.vae import VAEDetector

SHAPES = (0, 2, 3, 5, 6, 8, 9)
"""Digits of curved strokes are normal; those of straight ones are foreign."""


def panel() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Training images, normal ones to judge, and foreign ones of other classes and styles."""
    loaded = load_digits()
    X = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    normal = X[np.isin(loaded.target, SHAPES)]
    normal = normal[np.random.default_rng(0).permutation(len(normal))]
    train, judged = normal[:900], normal[900:]
    foreign = {
        "ones": X[loaded.target == 1],
        "fours and sevens": X[np.isin(loaded.target, (4, 7))],
        "faint": judged // 3,
        "inverse": 255 - judged,
        "upside down": judged[:, ::-1],
    }
    return train, judged, foreign


@pytest.mark.parametrize(
    ("detector", "upside_down"),
    [(VAEDetector(max_epochs=30, contamination=0.05, random_state=0, verbose=False), 0.85),
     (FlowDetector(max_epochs=30, contamination=0.05, random_state=0, verbose=False), 0.7)],
    ids=["vae", "flow"],
)  # fmt: skip
def test_likelihood_prefers_ones_and_the_default_does_not(detector: Detector, upside_down: float) -> None:
    train, judged, foreign = panel()
    detector.fit(train)

    def auroc(scores: np.ndarray, other: np.ndarray) -> float:
        return float(roc_auc_score(np.repeat([1, 0], [len(scores), len(other)]), np.concatenate([scores, other])))

    scores = detector.score_samples(judged)
    found = {name: auroc(scores, detector.score_samples(images)) for name, images in foreign.items()}
    least = {"ones": 0.9, "fours and sevens": 0.9, "faint": 0.98, "inverse": 0.98, "upside down": upside_down}
    assert all(found[name] > bar for name, bar in least.items()), found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        likely = type(detector)(**{**detector.get_params(), "statistic": "likelihood"}).fit(train)
    paradox = auroc(likely.score_samples(judged), likely.score_samples(foreign["ones"]))
    assert paradox < 0.3
