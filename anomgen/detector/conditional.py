"""Detectors that model rows given conditions: columns of the rows, or labels beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.detector import fitting
from anomgen.detector.checks import takes_images, validated
from anomgen.detector.trained import TrainedDetector
from anomgen.encode import ImageEncoder, JointEncoder, Labelled, TableEncoder
from anomgen.encode.frame import to_frame

Array = NDArray[np.float64]

LABEL = "y"


class ConditionalDetector(TrainedDetector):
    r"""Base of detectors that can model rows given conditions, :math:`p(x \mid c)`.

    Without a condition at scoring, a row is scored by the sum over the conditions met in training,
    :math:`\log \sum_c p(c)\, p(x \mid c)`.

    Parameters
    ----------
    condition : column, sequence of column, or "y", default=()
        Columns that are given instead of modelled; ``"y"`` stands for the labels passed to `fit`, unless a column has
        that name. Text and numbers of at most 20 distinct values are labels, other numbers enter as they are. Where
        training had more than 64 combinations, 64 of its rows stand for all of them in the sum.

    See Also
    --------
    TrainedDetector, Detector : the parameters that these have.
    """

    condition: Any = ()

    _beside = False
    _labelled_array = False

    def score_samples(self, X: Any, condition: Any = None) -> Array:
        """Score rows: the higher, the more normal.

        With the likelihood this is ``log p(x)`` of every row, nats in the user's own units: densities of continuous
        columns, masses of discrete ones.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Columns that are conditions have to be there but are not looked at.
        condition : value, array of shape (n,), mapping of condition to these, or frame, optional
            Score ``log p(x | c)`` under these conditions instead of the sum over all.

        Returns
        -------
        ndarray of shape (n,), float64
            A row's score depends on nothing but the row.

        Raises
        ------
        ValueError
            For a condition that training did not have, or where the detector has none.
        """
        if condition is None:
            return super().score_samples(X)
        self._absorb()
        X = validated(self, X, reset=False, minimum=1)
        given, scores, done = self._given(condition, len(X)), [], 0
        for part in fitting.pieces(self, X):
            known = given.iloc[done : done + len(part)].reset_index(drop=True)
            rows = self.encoder_.encode(part, codes=self.model_.codes, given=known)
            scores.append(fitting.map_encoded(self, self.model_, rows, self.statistic_, given=True))
            done += len(part)
        return np.concatenate(scores)

    def sample(self, n_samples: int = 1, random_state: Any = None, *, start: int = 0, condition: Any = None) -> Any:
        """Draw new rows from the fitted model, laid out as the training rows were.

        Parameters
        ----------
        n_samples : int
        random_state : int, tuple of int, RandomState or None
            None stands for the detector's own `random_state`. With one seed, the first rows of a longer draw are those
            of a shorter one. Every tuple seeds a sequence of its own.
        start : int
            Draw rows ``start .. start + n_samples`` of the endless sequence that the seed defines.
        condition : value, array of shape (n_samples,), mapping of condition to these, or frame, optional
            Conditions of the rows; by default drawn as often as they occur in training, where that had more than 64
            combinations from 64 of its rows.

        Returns
        -------
        frame or array of shape (n_samples, p)
            With the training rows' container, columns, dtypes and levels; excluded columns are missing.

        Raises
        ------
        ValueError
            For a condition that training did not have, or where the detector has none.
        """
        self._absorb()
        if not isinstance(self.encoder_, JointEncoder):
            if condition is not None:
                self._given(condition, n_samples)
            return super().sample(n_samples, random_state, start=start)
        n, seed = self._drawing(n_samples, random_state, start)
        return self._decoded(n, seed, start, self._conditions(n, seed, start, condition))

    def sample_conditions(
        self, n_samples: int = 1, random_state: Any = None, *, start: int = 0, condition: Any = None
    ) -> pd.DataFrame:
        """The conditions that `sample`, given the same seed, draws rows under: one column each.

        Parameters
        ----------
        n_samples, random_state, start, condition
            As for :meth:`sample`.

        Raises
        ------
        ValueError
            For a condition that training did not have, or where the detector has none.
        """
        self._absorb()
        encoder = self.encoder_
        if not isinstance(encoder, JointEncoder):
            raise ValueError(f"{type(self).__name__} was fitted without condition=, so rows are drawn under none")
        n, seed = self._drawing(n_samples, random_state, start)
        found = encoder.given_.decode(self._conditions(n, seed, start, condition), codes=True)
        return pd.DataFrame(found)

    def _conditions(self, n: int, seed: tuple[int, ...], start: int, condition: Any) -> NDArray[np.float32]:
        """Coordinates of conditions: those given, or drawn in tiles as rows are."""
        encoder = self.encoder_
        assert isinstance(encoder, JointEncoder)
        if condition is not None:
            return encoder.encode_given(self._given(condition, n))
        height = fitting.drawing_height(self.model_)
        first, last = start // height, -(-(start + n) // height)
        tiles = [
            np.random.default_rng([*seed, 5, tile]).choice(len(encoder.bank_), height, p=encoder.shares_)
            for tile in range(first, last)
        ]
        return encoder.bank_[np.concatenate(tiles)[start - first * height :][:n]]

    def join_label(self, X: Any, y: Any) -> Any:
        """Rows with the labels that are a condition as one more column."""
        if self._label(X) is None:
            return X
        if y is None:
            raise ValueError(f"condition={self.condition!r} needs labels: call fit(X, y), with X_val=(X, y) if given")
        if takes_images(self, X, True):
            return Labelled(X, np.asarray(y).ravel())
        labels = pd.Series(np.asarray(y) if to_frame(y) is None else np.asarray(y).ravel())
        if len(labels) != len(X):
            raise ValueError(f"X has {len(X)} rows but y has {len(labels)}")
        frame = to_frame(X)
        self._labelled_array = frame is None
        frame = pd.DataFrame(X) if frame is None else frame.copy()
        frame[LABEL] = labels.to_numpy()
        return frame

    def make_encoder(self, X: Any) -> TableEncoder | ImageEncoder | JointEncoder:
        """The unfitted encoder of rows like `X` and of their conditions."""
        names = self._condition_names()
        if not names:
            return super().make_encoder(X)
        if isinstance(X, Labelled):
            images = super().make_encoder(X.images)
            assert isinstance(images, ImageEncoder)
            return JointEncoder(None, (), names, LABEL, images=images)
        label = LABEL if LABEL in names and self._beside else None
        return JointEncoder(self.kinds, self.exclude, names, label, self._labelled_array)

    def _condition_names(self) -> tuple[Any, ...]:
        return (self.condition,) if isinstance(self.condition, str | int) else tuple(self.condition)

    def _label(self, X: Any) -> str | None:
        names = self._condition_names()
        if names and takes_images(self, X, True) and names != (LABEL,):
            raise ValueError(f"condition={self.condition!r}: images have no columns; only condition='y' can be given")
        frame = to_frame(X)
        self._beside = LABEL in self._condition_names() and (frame is None or LABEL not in frame.columns)
        return LABEL if self._beside else None

    def _given(self, condition: Any, n: int) -> pd.DataFrame:
        """Conditions as a frame of `n` rows."""
        names = self._condition_names()
        if not names:
            raise ValueError(f"{type(self).__name__} was fitted without condition=, so none can be given")
        frame = to_frame(condition)
        if frame is not None:
            given = {name: frame[name].to_numpy() for name in names if name in frame.columns}
        elif isinstance(condition, Mapping):
            given = {name: condition[name] for name in names if name in condition}
        else:
            given = {names[0]: condition}
        if len(given) < len(names):
            missing = next(name for name in names if name not in given)
            raise ValueError(f"condition {missing!r} is not given; pass a mapping or a frame with {list(names)}")
        lengths = {name: n if np.ndim(value) == 0 else len(value) for name, value in given.items()}
        for name, length in lengths.items():
            if length != n:
                raise ValueError(f"condition {name!r} has {length} values for {n} rows")
        # Without their index: rows and conditions belong together by position.
        plain = {name: value if np.ndim(value) == 0 else np.asarray(value) for name, value in given.items()}
        return pd.DataFrame(plain, index=range(n))
