"""False discoveries among rows that arrive one by one and are decided at once."""

from __future__ import annotations

from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from anomgen.calibrate.discovery import check_level, checked_p

SCALE = 0.079
"""Makes the weights of :func:`_weight` sum to 0.999."""
BLOCK = 4096
"""Tests whose levels are worked out at a time."""


class OnlineDiscovery:
    r"""Reports anomalies as they arrive, with a false-discovery rate of at most `fdr` at any time: LORD++.

    Test t is at the level

    .. math:: \alpha_t = w_0 \gamma_t + (\mathrm{fdr} - w_0) \gamma_{t - \tau_1}
        + \mathrm{fdr} \sum_{j \ge 2} \gamma_{t - \tau_j}

    with the times :math:`\tau_j < t` of the discoveries so far, :math:`w_0` = fdr / 2 and
    :math:`\gamma_t \propto \log(\max(t, 2)) / (t\, e^{\sqrt{\log t}})`. Levels fall until something is found, and rise
    with every discovery.

    What is proven assumes **p-values of normal rows that are independent of each other** and at most uniform. Split
    conformal p-values share their calibration set and are not independent: if it happens to be unlucky, all tests are.
    P-values with ``confidence=`` are independent given the calibration set, so that the rate holds with that
    confidence. Either way the smallest p-value is about ``1 / (n + 1)``, and once the level is below, nothing can be
    found: see `level`.

    Parameters
    ----------
    fdr : float
        In (0, 1).

    References
    ----------
    Ramdas, Yang, Wainwright, Jordan (2017). Online control of the false discovery rate with decaying memory. NeurIPS.

    Examples
    --------
    >>> stream = OnlineDiscovery(fdr=0.1)
    >>> stream.test(1e-4), stream.test(0.3)
    (True, False)
    """

    def __init__(self, fdr: float) -> None:
        check_level(fdr)
        self.fdr = float(fdr)
        self.tested = 0
        self.discoveries: list[int] = []

    @property
    def level(self) -> float:
        """Level of the next test: a p-value must not exceed it."""
        return float(self._levels(np.array([self.tested + 1]))[0])

    @overload
    def test(self, p: float) -> bool: ...
    @overload
    def test(self, p: NDArray[np.float64]) -> NDArray[np.bool_]: ...
    def test(self, p: Any) -> Any:
        """Decide the next p-value, or several in their order; True reports an anomaly."""
        values = checked_p([p] if np.ndim(p) == 0 else p)
        parts = [self._decide(values[start : start + BLOCK]) for start in range(0, len(values), BLOCK)]
        found = np.concatenate([np.zeros(0, dtype=bool), *parts])
        return bool(found[0]) if np.ndim(p) == 0 else found

    def state(self) -> dict[str, Any]:
        """Everything there is to remember, as JSON values."""
        return {"fdr": self.fdr, "tested": self.tested, "discoveries": list(self.discoveries)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Go on from what :meth:`state` gave."""
        made = cls(state["fdr"])
        made.tested, made.discoveries = int(state["tested"]), [int(time) for time in state["discoveries"]]
        return made

    def _decide(self, p: NDArray[np.float64]) -> NDArray[np.bool_]:
        times = self.tested + 1 + np.arange(len(p))
        level, found, done = self._levels(times), np.zeros(len(p), dtype=bool), 0
        while len(hits := np.flatnonzero(p[done:] <= level[done:])):
            at = done + int(hits[0])
            found[at] = True
            self.discoveries.append(int(times[at]))
            done = at + 1
            level[done:] += self._wealth(len(self.discoveries)) * _weight(times[done:] - times[at])
        self.tested += len(p)
        return found

    def _levels(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Levels of coming tests as long as nothing more is found."""
        level = self.fdr / 2 * _weight(times)
        for number, time in enumerate(self.discoveries, start=1):
            level += self._wealth(number) * _weight(times - time)
        return level

    def _wealth(self, number: int) -> float:
        """What a discovery earns; the first one pays for the initial levels."""
        return self.fdr / 2 if number == 1 else self.fdr


def _weight(t: NDArray[np.int64]) -> NDArray[np.float64]:
    log = np.log(t)
    return np.asarray(SCALE * np.maximum(log, np.log(2.0)) / (t * np.exp(np.sqrt(log))))
