r"""Conformal p-values: how often a normal row scores as low as this one, with no assumption but exchangeability.

With scores :math:`s_1, \dots, s_n` of normal rows that the model has not seen, the p-value of a score :math:`s` is

.. math:: p = \frac{1 + \#\{i : s_i \le s\}}{n + 1} = \frac{r}{n + 1}

where :math:`r` in 1 .. n + 1 is its rank. For a new normal row :math:`P(p \le \alpha) \le \alpha`: on the average over
calibration sets, in finite samples, whatever the model and the distribution of its scores.

References
----------
Bates, Candès, Lei, Romano, Sesia (2023). Testing for outliers with conformal p-values. Annals of Statistics 51.
Barber, Candès, Ramdas, Tibshirani (2021). Predictive inference with the jackknife+. Annals of Statistics 49.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

EVEN = 1 + 1e-12
"""Levels that are equal as real numbers may differ in the last bits as floats; they are compared with this slack."""


def checked(calibration: ArrayLike) -> Array:
    """Calibration scores in rising order.

    Raises
    ------
    ValueError
        If there are none, or one is not finite.
    """
    scores = np.asarray(calibration, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"calibration has shape {scores.shape}: give one score for each of at least one normal row")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"calibration row {row} scores {scores[row]}: calibration scores must be finite")
    return scores if (scores[:-1] <= scores[1:]).all() else np.sort(scores)


def ranks(calibration: ArrayLike, scores: ArrayLike) -> Ints:
    """One plus the number of calibration scores that are not above a score, for each of `scores`; in 1 .. n + 1.

    Parameters
    ----------
    calibration : array of shape (n,)
    scores : array of shape (m,)

    Returns
    -------
    ndarray of shape (m,), int64
        ``levels(n)[ranks]`` are the p-values; their histogram is all that :func:`rank_cutoff` needs.
    """
    return 1 + _counts([calibration], [scores], "right")


def cross_ranks(calibrations: Sequence[ArrayLike], scores: Sequence[ArrayLike]) -> Ints:
    """Ranks against calibration sets of several models, which share a table out.

    Parameters
    ----------
    calibrations : sequence of K arrays
        Scores of the rows of each fold, by the model that was fitted without them; n rows in all.
    scores : sequence of K arrays of shape (m,)
        Scores of the new rows by each of these models.

    Returns
    -------
    ndarray of shape (m,), int64
        In 1 .. n + 1.
    """
    return 1 + _counts(calibrations, scores, "right")


def levels(n: int, confidence: float | None = None) -> Array:
    r"""The p-value of every rank among `n` calibration rows.

    Parameters
    ----------
    n : int
    confidence : float in (0, 1), optional
        Make the p-values valid *given* the calibration set, for this share of calibration sets: at every level at once,
        no more than ``alpha`` of all normal rows have ``p <= alpha``. This is the adjustment of Bates et al. (2023,
        section 3) by the generalized Simes inequality, in closed form: with :math:`k = \lfloor n / 2 \rfloor`,
        :math:`\delta` = 1 - confidence and :math:`i = n + 1 - r`,

        .. math:: p_r = 1 - \left(\delta\, \frac{i (i - 1) \cdots (i - k + 1)}{n (n - 1) \cdots (n - k + 1)}
            \right)^{1/k}

        It is sharp for small p-values: the smallest is about :math:`2 \log(1/\delta) / n`.

    Returns
    -------
    ndarray of shape (n + 2,)
        Entry r belongs to rank r; entry 0, which is no rank, is 0.
    """
    if confidence is None:
        return np.arange(n + 2) / (n + 1)
    check_confidence(confidence)
    k = max(n // 2, 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    falling = log_factorial[k:] - log_factorial[: n - k + 1]
    bound = np.ones(n + 2)
    # Rank r stands for i = n + 1 - r, and the product is zero for i < k.
    bound[1 : n - k + 2] = -np.expm1((np.log1p(-confidence) + falling[::-1] - falling[-1]) / k)
    bound[0] = 0.0
    return bound


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence!r} must be a number in (0, 1), such as 0.9")


def p_values(
    calibration: ArrayLike,
    scores: ArrayLike,
    *,
    randomize: bool = False,
    rows: ArrayLike | None = None,
    seed: int = 0,
    confidence: float | None = None,
) -> Array:
    """Conformal p-values of scores; low scores are anomalous.

    Parameters
    ----------
    calibration : array of shape (n,)
        Scores of normal rows that the model has not seen, in any order.
    scores : array of shape (m,)
    randomize : bool
        Break ties, also that with the row itself, by chance: ``(#{s_i < s} + U (1 + #{s_i = s})) / (n + 1)``, which is
        exactly uniform on normal rows. By default ties count against the row: at most uniform, and a function of the
        score alone.
    rows : array of shape (m,), optional
        Row numbers, by default 0 .. m - 1: `U` is a hash of seed and row number, see :func:`uniforms`.
    seed : int
    confidence : float in (0, 1), optional
        Valid given the calibration set, for this share of calibration sets; see :func:`levels`.

    Returns
    -------
    ndarray of shape (m,)
        In (0, 1].

    Raises
    ------
    ValueError
        For scores that are not numbers, or `randomize` together with `confidence`.

    Examples
    --------
    >>> p_values([-1.0, 0.0, 1.0, 2.0], [-5.0, 0.0, 9.0])
    array([0.2, 0.6, 1. ])
    """
    return cross_p_values([calibration], [scores], randomize=randomize, rows=rows, seed=seed, confidence=confidence)


def cross_p_values(
    calibrations: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    *,
    randomize: bool = False,
    rows: ArrayLike | None = None,
    seed: int = 0,
    confidence: float | None = None,
) -> Array:
    r"""Conformal p-values against K models, each calibrated on the rows that it was fitted without.

    Every row of a small table calibrates, and none is lost to training. What is proven is less than for one set that no
    model has seen: :math:`P(p \le \alpha) \le 2 \alpha + \min\{2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)\}`
    (Barber et al. 2021, theorem 4, for folds of one size); for models that hardly depend on single rows it is about
    :math:`\alpha`.

    Parameters
    ----------
    calibrations, scores
        As for :func:`cross_ranks`.
    randomize, rows, seed, confidence
        As for :func:`p_values`; a confidence can be had with one model only.

    Returns
    -------
    ndarray of shape (m,)
    """
    if confidence is not None and len(calibrations) > 1:
        raise ValueError("confidence= needs calibration rows that no model was fitted to: calibrate without folds=")
    if randomize and confidence is not None:
        raise ValueError("randomize=True and confidence= exclude each other: bounds for a calibration set have no ties")
    n = sum(np.size(calibration) for calibration in calibrations)
    most = _counts(calibrations, scores, "right")
    if not randomize:
        return levels(n, confidence)[1 + most]
    less = _counts(calibrations, scores, "left")
    numbers = np.arange(len(most)) if rows is None else np.asarray(rows)
    if numbers.shape != most.shape:
        raise ValueError(f"{len(most)} scores but rows has shape {numbers.shape}: give one number for each")
    return (less + uniforms(seed, numbers) * (1 + most - less)) / (n + 1)


def uniforms(seed: int, rows: ArrayLike) -> Array:
    """Numbers in (0, 1) that are functions of seed and row number alone, however rows are cut into chunks.

    Entry i of the sequence of SplitMix64 started at the hash of the seed: its upper 52 bits, plus a half.

    References
    ----------
    Steele, Lea, Flood (2014). Fast splittable pseudorandom number generators. OOPSLA.
    """
    start = mixed(np.array([seed % 2**64], dtype=np.uint64))
    bits = mixed(start + np.asarray(rows).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def mixed(x: Hashes) -> Hashes:
    """The hash of SplitMix64, a bijection."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _counts(calibrations: Sequence[ArrayLike], scores: Sequence[ArrayLike], side: Literal["left", "right"]) -> Ints:
    """How many calibration scores lie below each score, those equal to it included with ``side="right"``."""
    pairs = zip(calibrations, scores, strict=True)
    each = [np.searchsorted(checked(known), _scores(new), side=side) for known, new in pairs]
    return np.asarray(np.sum(each, axis=0, dtype=np.int64))


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores have shape {values.shape}: give one score a row")
    if np.isnan(values).any():
        raise ValueError(f"row {int(np.flatnonzero(np.isnan(values))[0])} scores nan: a rank needs a number")
    return values
