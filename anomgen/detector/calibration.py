"""From the scores of a detector to decisions: its threshold, conformal p-values, and selections with few false ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from anomgen import calibrate
from anomgen.detector import sketch
from anomgen.detector.checks import validated
from anomgen.encode import is_source
from anomgen.train import default_callbacks

if TYPE_CHECKING:
    from anomgen.detector.base import Detector

Array = NDArray[np.float64]

USUAL = 99
"""Calibration rows for p-values of 0.01: below, the calibration says what it cannot do."""
SPREAD = ("continuous", "heavy-tailed", "datetime")
"""Kinds of columns whose values hardly ever occur twice, so that equal rows are the same rows."""


class Calibrated:
    """What every detector decides by: a threshold, and p-values once it is calibrated."""

    calibration_: Array
    folds_: tuple[Detector, ...]
    offset_: float

    def set_threshold(
        self,
        threshold: float | None = None,
        *,
        contamination: float | Literal["auto"] | None = None,
        false_positive_rate: float | None = None,
    ) -> Self:
        """Move the threshold of `predict` without refitting.

        Parameters
        ----------
        threshold : float, optional
            Rows scored below it are anomalies.
        contamination : float or "auto", optional
            Instead: the share of the training rows to flag, read from their stored quantiles.
        false_positive_rate : float, optional
            Instead: the share of new normal rows to flag at most, read from the scores of the calibration rows, see
            :meth:`calibrate`.

        Raises
        ------
        ValueError
            Unless exactly one of the three is given; for a rate also if the detector is not calibrated, or on too few
            rows.
        """
        detector = cast("Detector", self)
        detector._absorb()
        if [threshold, contamination, false_positive_rate].count(None) != 2:
            raise ValueError("give set_threshold one of threshold=, contamination= and false_positive_rate=")
        if threshold is not None:
            self.offset_ = float(threshold)
        elif contamination is not None:
            self.offset_ = calibrate.threshold_from(detector.score_quantiles_, contamination)
        elif false_positive_rate is not None:
            self.offset_ = calibrate.rate_threshold(_scores(detector), false_positive_rate)
        return self

    def calibrate(
        self, X_normal: Any, y: Any = None, *, false_positive_rate: float | None = None, folds: int | None = None
    ) -> Self:
        """Learn from normal rows what low scores are worth: for `p_values`, `select` and thresholds by rate.

        Parameters
        ----------
        X_normal : frame or array of shape (n, p), or images
            Normal rows, drawn like those to be judged. Without `folds`, rows that the model has **not** been fitted to
            and that were not held out by it: it scores those too high, and new normal rows would look anomalous.
        y : array of shape (n,), optional
            Labels where `folds` fits a detector that has them as its condition; ignored otherwise.
        false_positive_rate : float, optional
            Move the threshold of `predict`, so that at most this share of new normal rows is flagged.
        folds : int, optional
            For tables too small to spare rows, cross-conformal calibration: `X_normal` are all normal rows, also those
            of training, and are cut into this many folds; for each a detector like this one, encoder and all, is fitted
            to the other folds and calibrated on it. P-values take scores by all of these. They are saved with the model
            and multiply its size, its fit and the time to score for p-values. `score_samples` and `predict` stay those
            of this detector: a threshold moved by the rate is approximate then, for it was read from scores of others.

        Returns
        -------
        self
            With `calibration_`, and `folds_` where asked for; any further fit drops both.

        Raises
        ------
        ValueError
            If rows are those of training, or too few for the rate: with the number it needs; if there are not as many
            labels as rows to cut into folds.

        Warns
        -----
        UserWarning
            If more than a tenth of the rows were met in training; if there are fewer than 99, and no rate was asked
            for.

        See Also
        --------
        p_values, select
        anomgen.calibrate : the arithmetic, and what it guarantees.
        """
        detector = cast("Detector", self)
        detector._absorb()
        rows = validated(detector, X_normal, reset=False, minimum=1)
        n = len(rows)
        if false_positive_rate is not None:
            calibrate.rate_rank(n, false_positive_rate)
        if folds is None:
            _check_unseen(detector, rows, y)
            members: tuple[Detector, ...] = ()
            scores = calibrate.checked(detector.score_samples(rows))
        else:
            members = _fold_detectors(detector, rows, y, folds)
            scores = np.sort(np.concatenate([member.calibration_ for member in members]))
        self.calibration_, self.folds_ = scores, members
        if false_positive_rate is not None:
            self.offset_ = calibrate.rate_threshold(scores, false_positive_rate)
        elif n < USUAL:
            warnings.warn(
                f"{type(self).__name__} is calibrated on {n:,} rows: no p-value is below {1 / (n + 1):.2g}, and a "
                f"selection among m rows at level q has at least {1 / (n + 1):.2g} m / q rows or none; p-values of "
                f"0.01 need {USUAL} rows",
                UserWarning,
                stacklevel=2,
            )
        return self

    def ranks(self, X: Any, *, scores: Array | None = None) -> NDArray[np.int64]:
        """Rank of every row among the calibration rows: one plus how many of these score no higher, in 1 .. n + 1.

        Parameters
        ----------
        X : frame or array of shape (m, p), or images
        scores : ndarray of shape (m,), optional
            What `score_samples` gave for `X`, where it is known already and need not be computed again. A detector
            calibrated with `folds` scores rows by all of its models and has no use for it.

        Returns
        -------
        ndarray of shape (m,), int64
            A function of the row alone. ``calibrate.levels(len(detector.calibration_))[ranks]`` are its p-values, and
            the histogram of ranks is all that :func:`anomgen.calibrate.rank_cutoff` needs to select.
        """
        detector = cast("Detector", self)
        calibration = _scores(detector)
        if scores is None or self.folds_:
            return calibrate.cross_ranks(*_against(detector, X))
        return calibrate.ranks(calibration, scores)

    def p_values(self, X: Any, *, randomize: bool = False, seed: int = 0, confidence: float | None = None) -> Array:
        """Conformal p-values: the probability that a normal row scores as low as this one.

        Parameters
        ----------
        X : frame or array of shape (m, p), or images
        randomize : bool
            Break ties by chance, so that p-values of normal rows are exactly uniform. By default ties count against
            the row, which makes them at most uniform, and functions of the row alone.
        seed : int
            With the number of the row in `X`, decides the chance.
        confidence : float in (0, 1), optional
            Valid given the calibration rows, for this share of all sets of them, instead of on the average over sets;
            see :func:`anomgen.calibrate.levels`. Not with `folds`.

        Returns
        -------
        ndarray of shape (m,)
            In (0, 1]; ``P(p <= alpha) <= alpha`` for normal rows, whatever the model. With `folds` only about twice as
            much is proven, see :func:`anomgen.calibrate.cross_p_values`.

        Raises
        ------
        ValueError
            If the detector is not calibrated.
        """
        calibrations, scores = _against(cast("Detector", self), X)
        return calibrate.cross_p_values(calibrations, scores, randomize=randomize, seed=seed, confidence=confidence)

    def select(
        self,
        X: Any,
        fdr: float = 0.1,
        *,
        randomize: bool = False,
        seed: int = 0,
        confidence: float | None = None,
    ) -> NDArray[np.bool_]:
        """Which rows to report as anomalies, so that the expected share of normal ones among them is at most `fdr`.

        Benjamini-Hochberg on the p-values of all rows of `X`: unlike `predict`, it depends on the rows beside. With
        `folds` the share is not proven, for the p-values come from several models.

        Parameters
        ----------
        X : frame or array of shape (m, p), or images
        fdr : float
            In (0, 1).
        randomize, seed, confidence
            As for `p_values`.

        Returns
        -------
        ndarray of shape (m,), bool

        Raises
        ------
        ValueError
            If the detector is not calibrated.

        Warns
        -----
        UserWarning
            If rows lie below all calibration rows but these are too few to select any: k of m rows need n calibration
            rows with ``n + 1 >= m / (fdr k)``.
        """
        calibrations, scores = _against(cast("Detector", self), X)
        p = calibrate.cross_p_values(calibrations, scores, randomize=randomize, seed=seed, confidence=confidence)
        selected = calibrate.benjamini_hochberg(p, fdr)
        counts = np.bincount(calibrate.cross_ranks(calibrations, scores))
        lacking = None if selected.any() else calibrate.shortage(counts, len(self.calibration_), fdr, confidence)
        if lacking:
            warnings.warn(f"{type(self).__name__}: {lacking}", UserWarning, stacklevel=2)
        return selected


def drop(detector: Detector) -> None:
    """Forget the calibration: the model changes."""
    for name in ("calibration_", "folds_"):
        if hasattr(detector, name):
            delattr(detector, name)


def _scores(detector: Detector) -> Array:
    detector._absorb()
    if not hasattr(detector, "calibration_"):
        raise ValueError(
            f"{type(detector).__name__} is not calibrated; call detector.calibrate(X_normal) with normal rows that it "
            "was not fitted to (a new fit drops the calibration)"
        )
    return detector.calibration_


def _against(detector: Detector, X: Any) -> tuple[list[Array], list[Array]]:
    """Calibration scores of each model that judges rows, and its scores of `X`."""
    _scores(detector)
    members = detector.folds_ or (detector,)
    return [member.calibration_ for member in members], [member.score_samples(X) for member in members]


def _check_unseen(detector: Detector, rows: Any, y: Any) -> None:
    """Refuse the training rows themselves; warn of a share of them."""
    joined = rows if y is None else detector.join_label(rows, y)
    digest, hashes = sketch.identity(joined, detector.n_features_in_)
    if digest == detector.data_digest_:
        raise ValueError(
            "X_normal are the rows that the model was fitted to, which it scores higher than new ones: calibrate on "
            "other normal rows, or pass folds=5 to calibrate on these by cross-validation"
        )
    known = getattr(detector, "row_sketch_", None)
    spread = detector.encoder_.container_ == "images" or any(row["kind"] in SPREAD for row in detector.describe())
    again = sketch.met_again(known, hashes) if known is not None and spread else 0.0
    if again > sketch.TOLERATED:
        warnings.warn(
            f"about {again:.0%} of the distinct rows of X_normal were met in training, which scores them higher than "
            "new ones, so that new normal rows will look anomalous: calibrate on rows that the model has not seen, or "
            "pass folds=5",
            UserWarning,
            stacklevel=3,
        )


def _fold_detectors(detector: Detector, rows: Any, y: Any, folds: int) -> tuple[Detector, ...]:
    """Detectors like this one, each fitted without a fold of the rows and calibrated on it."""
    if folds != int(folds) or not 2 <= folds <= len(rows) // 2:
        raise ValueError(f"folds={folds!r} must be a whole number from 2 to half the {len(rows):,} rows")
    rows = rows[:] if is_source(rows) else rows
    labels = None if y is None else np.asarray(y)
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"y has {len(labels):,} labels for {len(rows):,} rows: give one for each")
    order = np.random.default_rng([detector.seed_, 7]).permutation(len(rows))
    made = []
    for fold in np.array_split(order, folds):
        rest = np.setdiff1d(order, fold)
        # A share in numbers saves the models that an automatic threshold would train; nothing asks for it here.
        member = clone(detector).set_params(callbacks=(), contamination=0.1, random_state=detector.seed_)
        with _unlogged():
            member.fit(_take(rows, rest), None if labels is None else labels[rest])
        member.calibration_, member.folds_ = calibrate.checked(member.score_samples(_take(rows, np.sort(fold)))), ()
        del member.reference_
        if hasattr(member, "marginals_"):
            del member.marginals_
        made.append(member)
    return tuple(made)


def _take(rows: Any, at: NDArray[np.int64]) -> Any:
    return rows.iloc[at] if isinstance(rows, pd.DataFrame) else rows[at]


@contextmanager
def _unlogged() -> Iterator[None]:
    """Fits inside are parts of another one and not logged as runs."""
    kept = list(default_callbacks)
    default_callbacks.clear()
    try:
        yield
    finally:
        default_callbacks[:] = kept
