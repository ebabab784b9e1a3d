"""Fit, score, save and load with an installed anomgen, away from its repository."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import anomgen

X = np.random.default_rng(0).normal(size=(200, 4))
detector = anomgen.FlowDetector(max_epochs=3, random_state=0).fit(X)
scores = detector.score_samples(X)
with tempfile.TemporaryDirectory() as folder:
    detector.save(Path(folder) / "model")
    again = anomgen.load(Path(folder) / "model")
assert np.array_equal(again.score_samples(X), scores)
assert np.isfinite(scores).all()
assert set(detector.predict(X)) == {-1, 1}
assert len(anomgen.load_dataset("breast_cancer").X) == 569
print("anomgen", anomgen.__version__, "from", Path(anomgen.__file__).parent)
