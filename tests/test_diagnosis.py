"""The paradox of likelihoods, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomgen.diagnosis import Diagnosis, diagnose
from anomgen.statistic import code_length
from tests.toys import toy


def pictures(n: int, seed: int, flat: bool = False) -> np.ndarray:
    """Noisy pictures around a bright bar, or flat grey ones."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 60, (n, 8, 8))
    x[:, 2:6, 3:5] += 120
    return (
        np.broadcast_to(generator.integers(60, 90, (n, 1, 1)), x.shape).astype(np.uint8) if flat else x.astype(np.uint8)
    )


def test_figures_are_those_of_the_scores() -> None:
    detector = toy("MixtureDetector", statistic="likelihood")
    with pytest.warns(UserWarning, match="simple images are likely"):
        detector.fit(pictures(300, 0))
    normal, other = pictures(50, 1), pictures(40, 2, flat=True)
    found = diagnose(detector, normal, other)
    assert (found.normal, found.other, found.statistic) == (50, 40, "Likelihood")
    likelihood = detector.score_samples(np.concatenate([normal, other]))
    above = likelihood[:50, None] > likelihood[None, 50:]
    assert found.likelihood == found.default == pytest.approx(above.mean())
    middles = (2 * torch.from_numpy(np.concatenate([normal, other])).float() + 1) / 256 - 1
    code = code_length(middles[:, None]).numpy()
    assert found.code == 1.0
    assert found.correlation == pytest.approx(np.corrcoef(likelihood, code)[0, 1], abs=1e-6)


def test_the_default_does_without_the_paradox() -> None:
    detector = toy("MixtureDetector").fit(pictures(300, 0))
    found = diagnose(detector, pictures(50, 1), pictures(40, 2, flat=True))
    assert found.statistic == "Dose"
    assert found.default > 0.95


def test_it_prints_a_table() -> None:
    lines = str(Diagnosis(1200, 40, -0.934, 0.031, 0.986, 0.999, "Dose")).splitlines()
    assert lines[0].endswith("AUROC of 1,200 normal over 40 other images")
    assert [line.split()[-1] for line in lines[1:]] == ["0.031", "0.986", "0.999", "-0.934"]
    assert "Dose, the detector's score" in lines[3]


def test_a_model_without_likelihood_has_none() -> None:
    detector = toy("GANDetector").fit(pictures(150, 0))
    found = diagnose(detector, pictures(20, 1), pictures(20, 2, flat=True))
    assert found.likelihood is None
    assert found.correlation is None
    assert "none" in str(found).splitlines()[1]
    assert "correlation" not in str(found)


def test_tables_are_refused(numbers: np.ndarray) -> None:
    detector = toy("MixtureDetector").fit(numbers)
    with pytest.raises(ValueError, match="diagnose is about images, and this MixtureDetector was fitted on a table"):
        diagnose(detector, numbers, numbers)
