"""Which rows to report, so that the share of false reports stays below a level: the false-discovery rate."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgen.calibrate.conformal import EVEN, check_confidence, levels


def benjamini_hochberg(p: ArrayLike, fdr: float) -> NDArray[np.bool_]:
    r"""Which of m hypotheses to reject, with a false-discovery rate of at most `fdr`.

    All with :math:`p \le p_{(k)}`, where :math:`k` is the largest number with :math:`p_{(k)} \le \mathrm{fdr}\, k / m`.
    Holds for independent p-values, and for conformal ones that share a calibration set (Bates et al. 2023, theorem 2);
    for cross-conformal ones, of several models, it is not proven.

    Parameters
    ----------
    p : array of shape (m,)
    fdr : float
        In (0, 1).

    Returns
    -------
    ndarray of shape (m,), bool

    References
    ----------
    Benjamini, Hochberg (1995). Controlling the false discovery rate. JRSS B 57.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.02, 0.5, 0.9], fdr=0.1)
    array([ True,  True, False, False])
    """
    check_level(fdr)
    values = checked_p(p)
    ordered = np.sort(values)
    rank = np.arange(1, len(values) + 1)
    passed = np.flatnonzero(ordered * len(values) <= fdr * rank * EVEN)
    return np.asarray(values <= ordered[passed[-1]]) if len(passed) else np.zeros(len(values), dtype=bool)


def rank_cutoff(counts: ArrayLike, n: int, fdr: float, confidence: float | None = None) -> int:
    """The largest rank to select: Benjamini-Hochberg from a histogram of ranks, identical to that on the p-values.

    Conformal p-values take at most n + 1 values, so that rows need not be held to be compared with each other.

    Parameters
    ----------
    counts : array of at most n + 2 integers
        How many rows have each rank: ``np.bincount(ranks, minlength=n + 2)``; of two files it is the sum.
    n : int
        Calibration rows.
    fdr : float
        In (0, 1).
    confidence : float in (0, 1), optional
        Take the p-values that are valid given the calibration set, see :func:`levels`.

    Returns
    -------
    int
        Rows of this rank and below are selected; 0 for none.
    """
    check_level(fdr)
    each = _histogram(counts, n)
    up_to, total = np.cumsum(each), int(each.sum())
    passed = np.flatnonzero((levels(n, confidence) * total <= fdr * up_to * EVEN) & (each > 0))
    return int(passed[-1]) if len(passed) else 0


def least_discoveries(n: int, rows: int, fdr: float, confidence: float | None = None) -> int:
    """The fewest rows of `rows` that can be selected with `n` calibration rows: ``ceil(rows / (fdr (n + 1)))``.

    The smallest p-value is ``1 / (n + 1)``; fewer rows than this are not selected however far out they lie.
    """
    check_level(fdr)
    return max(math.ceil(rows * float(levels(n, confidence)[1]) / fdr / EVEN), 1)


def needed(rows: int, fdr: float, discoveries: int, confidence: float | None = None) -> int:
    """Calibration rows needed to select `discoveries` of `rows`: ``ceil(rows / (fdr discoveries)) - 1``."""
    check_level(fdr)
    if not 1 <= discoveries <= rows:
        raise ValueError(f"discoveries={discoveries} must be in 1 .. {rows}, the number of rows")
    smallest = fdr * discoveries / rows
    if confidence is None:
        return max(math.ceil(1 / smallest / EVEN) - 1, 1)
    check_confidence(confidence)
    return 2 * max(math.ceil(math.log(1 - confidence) / math.log1p(-smallest) / EVEN), 1)


def shortage(counts: ArrayLike, n: int, fdr: float, confidence: float | None = None) -> str | None:
    """Why nothing is selected although rows lie below all calibration rows, and how many of these would do.

    Parameters
    ----------
    counts, n, fdr, confidence
        As for :func:`rank_cutoff`.

    Returns
    -------
    str or None
        None where something is selected, or nothing stands out.
    """
    each = _histogram(counts, n)
    total, out = int(each.sum()), int(each[1])
    if not out or rank_cutoff(each, n, fdr, confidence):
        return None
    least = least_discoveries(n, total, fdr, confidence)
    return (
        f"{out:,} of {total:,} rows score below all {n:,} calibration rows, but none can be selected at fdr={fdr:g}: "
        f"so few calibration rows need {least:,} such rows; {needed(total, fdr, out, confidence):,} calibration rows "
        f"are enough for {out:,}"
    )


def check_level(fdr: float) -> None:
    """Refuse what is no level of the false-discovery rate."""
    if not 0.0 < fdr < 1.0:
        raise ValueError(f"fdr={fdr!r} must be a number in (0, 1)")


def checked_p(p: ArrayLike) -> NDArray[np.float64]:
    """P-values in their order; refuse what are none."""
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"p-values have shape {values.shape}: give one a row")
    if np.isnan(values).any() or (values < 0).any() or (values > 1).any():
        raise ValueError("p-values must lie in [0, 1]")
    return values


def _histogram(counts: ArrayLike, n: int) -> NDArray[np.int64]:
    given = np.asarray(counts)
    if given.ndim != 1 or len(given) > n + 2 or (len(given) and given[0]):
        raise ValueError(f"counts must hold the number of rows of each rank 0 .. {n + 1}, none of rank 0")
    each = np.zeros(n + 2, dtype=np.int64)
    each[: len(given)] = given
    return each
