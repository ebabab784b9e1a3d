"""What a fitted detector tells about rows beyond their score: why they are surprising, and how far they have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen import explain
from anomgen.detector import fitting
from anomgen.detector.checks import validated
from anomgen.drift import Drift, Reference
from anomgen.encode import TableEncoder

if TYPE_CHECKING:
    from anomgen.detector.base import Detector


class Insight:
    """What every detector tells about rows, the training rows among them."""

    reference_: Reference
    usual_nats_: NDArray[np.float64]

    def describe(self) -> list[dict[str, Any]]:
        """What every column was taken for and why, one dict a column."""
        detector = cast("Detector", self)
        detector._absorb()
        report: list[dict[str, Any]] = detector.encoder_.describe()
        return report

    def contributions(self, X: Any, *, relative: bool = True) -> pd.DataFrame:
        r"""What every column adds to how unlikely each row is, in nats.

        Parameters
        ----------
        X : frame or array of shape (n, p)
        relative : bool
            Whether what a column usually costs is taken off, the median of held-out rows: small units make a number
            costly in every row. Columns then compare: 0 is nothing unusual. Otherwise rows sum to minus ``log p(x)``.

        Returns
        -------
        DataFrame of shape (n, columns that are modelled)
            A row depends on nothing but the row.

        Raises
        ------
        ValueError
            If the model cannot tell columns apart, naming the family that can.

        See Also
        --------
        anomgen.explain.top_contributors : the names of the largest.
        score_map : the same of images.
        """
        detector = cast("Detector", self)
        detector._absorb()
        lacking = explain.missing_for_columns(detector.model_, detector.encoder_)
        if lacking:
            raise ValueError(f"{type(self).__name__} cannot say what each column contributes: {lacking}")
        encoder = cast(TableEncoder, detector.encoder_)
        if relative and not hasattr(self, "usual_nats_"):
            raise ValueError(
                f"this {type(self).__name__} was saved before models knew what columns usually cost: fit it again, or "
                "pass relative=False"
            )
        X = validated(self, X, reset=False, minimum=1)
        return explain.contributions(detector.model_, encoder, X, self.usual_nats_ if relative else None)

    def drift(self, X: Any) -> Drift:
        """How far rows have moved from the training rows: population stability and Kolmogorov-Smirnov.

        Parameters
        ----------
        X : frame or array of shape (n, p), or images

        Returns
        -------
        Drift
            Of every column, or of brightness and contrast of images, and of the score.

        Raises
        ------
        ValueError
            If the model is of an earlier version, which kept no reference.

        See Also
        --------
        anomgen.drift.Reference : the same for rows that come in pieces.
        """
        detector = cast("Detector", self)
        detector._absorb()
        if not hasattr(self, "reference_"):
            raise ValueError(
                f"this {type(self).__name__} was saved before models knew what their training rows looked like: fit it "
                "again to measure drift"
            )
        counter = self.reference_.counter()
        X = validated(self, X, reset=False, minimum=1)
        counter.add(X, None if self.reference_.score is None else detector.score_samples(X))
        return self.reference_.report(counter.state())

    def score_map(self, X: Any) -> NDArray[np.float32]:
        """Heat of every pixel of images: how rare its surprise is among pixels of normal images.

        Parameters
        ----------
        X : images
            As :meth:`fit` takes them.

        Returns
        -------
        ndarray of shape (n, height, width), float32
            ``-log10`` of the share of pixels of held-out normal images that are at least as surprising, at the size of
            the model: 2 is one pixel in a hundred. Channels are summed. One scale for all images, so that normal ones
            stay cold.

        Raises
        ------
        ValueError
            If the detector was fitted on a table.

        See Also
        --------
        anomgen.explain.surprise : what surprise is for which model.
        anomgen.explain.save_overlays : pictures of images with their heat.
        """
        detector = cast("Detector", self)
        detector._absorb()
        if detector.encoder_.container_ != "images":
            raise ValueError(f"{type(self).__name__} was fitted on a table: heatmaps are of images")
        return fitting.score_maps(detector, validated(self, X, reset=False, minimum=1))
