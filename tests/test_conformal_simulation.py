"""What calibration promises, simulated: p-values of normal rows, false discoveries and power over fresh sets."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from anomgen import KernelDetector, MixtureDetector, calibrate
from anomgen.calibrate import OnlineDiscovery

Q = 0.1


class World:
    """A fitted detector and the scores of many rows that it has not seen, to draw calibration and test sets from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.detector = MixtureDetector(random_state=0, verbose=False).fit(self.rows(rng, 500))
        self.normal = self.detector.score_samples(self.rows(rng, 40_000))
        self.odd = self.detector.score_samples(self.anomalies(rng, 8_000))

    @staticmethod
    def rows(rng: np.random.Generator, n: int) -> np.ndarray:
        # Two groups and a heavy tail: no score that has a name.
        return rng.standard_t(9, size=(n, 2)) + 4 * rng.integers(0, 2, size=(n, 1))

    @classmethod
    def anomalies(cls, rng: np.random.Generator, n: int) -> np.ndarray:
        far = rng.uniform(0.2, 2.4, size=(n, 1)) * np.array([[4.0, -3.0]])
        return cls.rows(rng, n) + far

    def draw(self, rng: np.random.Generator, n: int, m: int, odd: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of `n` calibration rows and of `m` others, and which `odd` of these are anomalies."""
        normal = rng.choice(self.normal, n + m - odd, replace=False)
        anomaly = rng.permutation(m) < odd
        scores = np.empty(m)
        scores[~anomaly], scores[anomaly] = normal[n:], rng.choice(self.odd, odd, replace=False)
        return normal[:n], scores, anomaly


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def false_share(selected: np.ndarray, anomaly: np.ndarray) -> float:
    return float((selected & ~anomaly).sum() / max(selected.sum(), 1))


def at_most(values: list[float] | np.ndarray, limit: float, errors: float = 2.0) -> bool:
    return bool(np.mean(values) <= limit + errors * np.std(values) / np.sqrt(len(values)))


def test_p_values_of_normal_rows_are_uniform(world: World) -> None:
    rng, levels = np.random.default_rng(1), np.array([0.01, 0.05, 0.1, 0.3, 0.5, 0.9])
    plain, random = [], []
    for i in range(200):
        known, scores, _ = world.draw(rng, 199, 200, 0)
        plain.append((calibrate.p_values(known, scores)[:, None] <= levels).mean(0))
        random.append((calibrate.p_values(known, scores, randomize=True, seed=i)[:, None] <= levels).mean(0))
    for shares in (np.array(plain), np.array(random)):
        error = shares.std(0) / np.sqrt(200)
        assert (np.abs(shares.mean(0) - levels) <= 3 * error).all()


@pytest.mark.parametrize("odd", [0, 10, 100, 300])
def test_the_rate_of_false_discoveries_holds_over_fresh_calibration_sets(world: World, odd: int) -> None:
    rng, rates, found, plain_rates, plain_found = np.random.default_rng(odd), [], [], [], []
    for _ in range(200):
        known, scores, anomaly = world.draw(rng, 1000, 1000, odd)
        selected, flagged = calibrate.p_values(known, scores), scores < world.detector.offset_
        selected = calibrate.benjamini_hochberg(selected, Q)
        rates.append(false_share(selected, anomaly))
        plain_rates.append(false_share(flagged, anomaly))
        if odd:
            found.append(selected[anomaly].mean())
            plain_found.append(flagged[anomaly].mean())
    assert at_most(rates, Q)
    # The threshold at 1 % reports mostly normal rows where anomalies are rare, and leaves some where they are many.
    if odd <= 10:
        assert np.mean(plain_rates) > 0.4
    if odd == 300:
        assert np.mean(found) > np.mean(plain_found) + 0.03
        assert np.mean(found) > 0.6


def test_a_detector_selects_as_simulated(world: World) -> None:
    rng, rates, found = np.random.default_rng(3), [], []
    for _ in range(10):
        X = np.vstack([world.rows(rng, 270), world.anomalies(rng, 130)])
        world.detector.calibrate(world.rows(rng, 400))
        selected = world.detector.select(X, fdr=Q)
        rates.append(false_share(selected, np.arange(400) >= 270))
        found.append(selected[270:].mean())
    assert at_most(rates, Q)
    assert np.mean(found) > 0.5


def test_given_the_set_the_rate_holds_for_as_many_sets_as_confidence_says(world: World) -> None:
    rng, excess = np.random.default_rng(4), {None: [], 0.9: []}
    rate, sets, odd = 0.1, 200, 150
    for _ in range(sets):
        known, scores, _ = world.draw(rng, 300, 20_000, odd)
        for confidence, seen in excess.items():
            # The share of normal rows at each level, given this calibration set.
            p = calibrate.p_values(known, scores, confidence=confidence)
            seen.append(max(np.mean(p <= level) - level for level in (0.05, rate, 0.2)) > odd / 20_000 + 0.002)
    assert np.mean(excess[0.9]) <= 0.1
    assert np.mean(excess[None]) > 0.3


def test_cross_conformal_p_values_of_a_short_table(full: bool) -> None:
    rng, cross, own, rates, found = np.random.default_rng(5), [], [], [], []
    for seed in range(100 if full else 10):
        X, new = rng.normal(size=(60, 2)), rng.normal(size=(500, 2))
        detector = KernelDetector(bandwidth=0.3, noise=0.1, contamination=0.1, random_state=seed, verbose=False).fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            detector.calibrate(X, folds=6)
        cross.append((detector.p_values(new) <= 0.1).mean())
        selected = detector.select(np.vstack([new[:30], rng.normal(8.0, 1.0, size=(10, 2))]), fdr=0.2)
        rates.append(false_share(selected, np.arange(40) >= 30))
        found.append(selected[30:].mean())
        own.append((calibrate.p_values(detector.score_samples(X), detector.score_samples(new)) <= 0.1).mean())
    # Twice the level is what is proven, the level what is met; scores of training rows themselves are far from it.
    assert at_most(cross, 0.1, errors=3.0)
    assert np.mean(own) > 0.25
    assert at_most(rates, 0.2, errors=3.0)
    assert np.mean(found) > 0.8


@pytest.mark.parametrize("odd", [0, 100])
@pytest.mark.parametrize("kind", ["independent", "split", "random", "bound"])
def test_rows_one_by_one(world: World, kind: str, odd: int, full: bool) -> None:
    rng, rates, found = np.random.default_rng(6), [], []
    order = np.sort(world.normal)
    for seed in range(500 if full else 100):
        known, scores, anomaly = world.draw(rng, 5000, 2000, odd)
        if kind == "independent":
            # Against all rows of the world: as good as the true distribution.
            p = calibrate.p_values(order, scores)
        else:
            confidence = 0.9 if kind == "bound" else None
            p = calibrate.p_values(known, scores, randomize=kind == "random", seed=seed, confidence=confidence)
        selected = OnlineDiscovery(Q).test(p)
        rates.append(false_share(selected, anomaly))
        found.append(selected[anomaly].mean() if odd else 0.0)
    assert at_most(rates, Q)
    if odd and kind in ("independent", "random"):
        assert np.mean(found) > 0.2


def test_a_level_below_the_smallest_p_value_finds_nothing(world: World) -> None:
    stream, n = OnlineDiscovery(Q), 100
    known, scores, anomaly = world.draw(np.random.default_rng(7), n, 500, 100)
    assert stream.level < 1 / (n + 1)
    assert not stream.test(calibrate.p_values(known, scores)).any()
    assert anomaly.any()
