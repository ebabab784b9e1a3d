"""Detectors whose model is trained by gradients: schedule, weights of rows, and rows that arrive in pieces."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anomgen.detector import fitting, streaming
from anomgen.detector.base import Auto, Detector
from anomgen.detector.checks import takes_images, validated
from anomgen.detector.stream import Stream
from anomgen.train import Trainer


class TrainedDetector(Detector):
    """Base of detectors whose model is trained by stochastic gradients.

    Parameters
    ----------
    max_epochs : int or "auto", default="auto"
        Passes over the training rows at most; ``"auto"`` derives them from the number of rows.
    batch_size : int or "auto", default="auto"
        Rows an optimizer step; ``"auto"`` derives it from the number of rows. It never changes a score.
    learning_rate : float
        Peak learning rate.
    weight_decay : float
        Decoupled weight decay of weight matrices; biases and scales are left alone.
    patience : float
        Share of the schedule without an acceptable held-out likelihood after which training stops.
    warm_start : bool, default=False
        Whether `fit` continues from the weights and the encoder of the last one.
    precision : {"float32", "bf16"}, default="float32"
        Arithmetic of training. Scores are always computed in float32 and summed in float64.
    compile : bool, default=False
        Compile the heavy pointwise kernels, where a compiler is found.

    See Also
    --------
    Detector : the parameters that all detectors have.
    """

    max_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate: float = Trainer.learning_rate
    weight_decay: float = Trainer.weight_decay
    patience: float = Trainer.patience
    warm_start: bool = False
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False

    _stream = cast("Stream | None", None)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, X_val: Any = None) -> Self:
        """Fit encoder, model, statistic and threshold.

        Parameters
        ----------
        X : frame or array of shape (n, p), or source
            Rows taken for normal. Frames may hold numbers, booleans, dates, text levels and missing values. Files
            opened with :func:`anomgen.data.open_source` are not held in memory: they are passed over as often as the
            schedule asks, see :class:`anomgen.data.FileRows`.
        y : array of shape (n,), optional
            Labels, used where they are a condition; ignored otherwise.
        sample_weight : array of shape (n,), optional
            Non-negative weight of every row; rows of weight 0 are left out.
        X_val : frame or array, or a pair of it and its labels, optional
            Rows held out for stopping; by default a share of `X`.

        Raises
        ------
        ValueError
            Naming the parameter, column or row that cannot be used.
        FloatingPointError
            If training diverges twice in a row.
        """
        if streaming.passes_by(X):
            self._stream = None
            streaming.fit(self, X, y, sample_weight, X_val)
            return self
        continued = self.warm_start and hasattr(self, "model_")
        images = takes_images(self, X, True)
        X, weight = fitting.prepare(self, X, y, sample_weight, reset=not continued, minimum=2)
        held_out = None if X_val is None else self._validated_pair(X_val, images)
        if not continued:
            fitting.begin(self, X, weight)
        self._stream = None
        fitting.learn(self, X, weight, held_out)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from rows that arrive in pieces.

        Rows are gathered until there are 256, or until a score is asked for; then the encoder is frozen. A tenth of the
        rows is kept apart, at most 10,000 of them in a reservoir, and gives the held-out nats, the statistic and the
        threshold; the others train. Levels that appear later count as unseen.

        Parameters
        ----------
        X : frame or array of shape (n, p)
        y : array of shape (n,), optional
            As for `fit`.
        sample_weight : array of shape (n,), optional

        Raises
        ------
        ValueError
            As `fit`.
        """
        X, weight = fitting.prepare(self, X, y, sample_weight, reset=not self.__sklearn_is_fitted__(), minimum=1)
        stream = self._stream
        if stream is None:
            stream = Stream(check_random_state(self.random_state).randint(2**31 - 1))
            self._stream = stream
        stream.add(X, np.ones(len(X)) if weight is None else weight)
        if hasattr(self, "model_") or stream.ready:
            fitting.learn_piece(self, stream)
        return self

    def _validated_pair(self, X_val: Any, images: bool) -> Any:
        rows, y = X_val if isinstance(X_val, tuple) else (X_val, None)
        return self.join_label(validated(self, rows, reset=False, minimum=1, images=images), y)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model, or rows waiting to become one."""
        return hasattr(self, "model_") or (self._stream is not None and bool(self._stream.waiting))

    def _absorb(self) -> None:
        """Train on the rows that `partial_fit` has gathered; every public method that needs a model calls it first."""
        check_is_fitted(self)
        stream = self._stream
        if stream is not None and stream.waiting:
            fitting.learn_piece(self, stream)
