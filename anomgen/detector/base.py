"""The scikit-learn shell that every family wears."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import chain
from numbers import Integral
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from anomgen import calibrate, persist, runtime
from anomgen.detector import state
from anomgen.detector.checks import check_parameters, chunks, data_digest, validated
from anomgen.detector.stream import Stream
from anomgen.encode import Encoded, TableEncoder
from anomgen.generative import GenerativeModel, Rows, Space
from anomgen.statistic import MAX_ROWS, Statistic, check_abilities, log_likelihood, make_statistic
from anomgen.train import Callback, Trainer

Auto = Literal["auto"]
Array = NDArray[np.float64]

MIN_HELD_OUT = 30
"""Held-out rows below which there is no early stop: their mean says too little."""


@dataclass_transform(kw_only_default=True, eq_default=False)
@dataclass(eq=False, repr=False, kw_only=True)
class Detector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all detectors: a scikit-learn outlier detector around a generative model.

    A family subclasses it, declares its parameters as annotated fields with immutable defaults, and writes
    :meth:`build`. Everything else, from validation to persistence, is here once.

    Parameters
    ----------
    statistic : str or Statistic, default="auto"
        What a row is scored by: ``"likelihood"``, ``"typicality"`` or an instance. ``"auto"`` is the family's own
        choice, the likelihood for tables.
    contamination : float or "auto", default="auto"
        Share of the training rows that `predict` flags, in (0, 0.5]; ``"auto"`` flags 1 %. It moves the threshold only.
    kinds : mapping of column to str, optional
        What columns are to be taken for, instead of what the encoder infers: ``"constant"``, ``"binary"``,
        ``"lattice"``, ``"continuous"``, ``"heavy-tailed"``, ``"categorical"`` or ``"datetime"``.
    exclude : sequence of columns, default=()
        Columns that the model never sees.
    noise : float, default=0.1
        Standard deviation of the Gaussian training noise on numbers, in standard deviations of the column.
    max_epochs : int or "auto", default="auto"
        Passes over the training rows at most; ``"auto"`` derives them from the number of rows.
    batch_size : int or "auto", default="auto"
        Rows an optimizer step; ``"auto"`` derives it from the number of rows. It never changes a score.
    learning_rate : float
        Peak learning rate.
    weight_decay : float
        Decoupled weight decay of AdamW.
    patience : float
        Share of the schedule without a better held-out likelihood after which training stops.
    validation_fraction : float, default=0.1
        Share of the rows held out for stopping, in [0, 0.5]; 0, or too few rows, means a fixed schedule.
    warm_start : bool, default=False
        Whether `fit` continues from the weights and the encoder of the last one.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    precision : {"float32", "bf16"}, default="float32"
        Arithmetic of training. Scores are always computed in float32 and summed in float64.
    compile : bool, default=False
        Compile the heavy pointwise kernels, where a compiler is found.
    callbacks : sequence of Callback, default=()
        Watch the fit; see :class:`anomgen.Callback`.
    random_state : int, RandomState or None, default=None
        Seeds initialization, the order of rows, noise and samples. One int gives the same bits on a CPU.
    verbose : bool or "auto", default="auto"
        Progress bar; ``"auto"`` shows one when standard error is a terminal.

    Attributes
    ----------
    model_ : GenerativeModel
    encoder_ : TableEncoder
    statistic_ : Statistic
    offset_ : float
        Threshold of `predict` on `score_samples`.
    history_ : list of dict
        One entry a check: nats, learning rate, rows/s.
    n_epochs_, best_epoch_ : int
        Epochs done, and the one whose averaged weights were kept.
    score_quantiles_ : ndarray of shape (1001,)
        Quantiles of the training scores.
    data_digest_ : str
        sha256 of the training rows.
    seed_ : int
        The number that `random_state` came down to.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the training rows had column names.
    """

    default_statistic: ClassVar[str] = "likelihood"

    statistic: str | Statistic = "auto"
    contamination: float | Auto = "auto"
    kinds: Mapping[Any, str] | None = None
    exclude: tuple[Any, ...] = ()
    noise: float = 0.1
    max_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate: float = Trainer.learning_rate
    weight_decay: float = Trainer.weight_decay
    patience: float = Trainer.patience
    validation_fraction: float = 0.1
    warm_start: bool = False
    device: str = "auto"
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    callbacks: tuple[Callback, ...] = ()
    random_state: Any = None
    verbose: bool | Auto = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make every subclass a keyword-only dataclass, and refuse defaults that would be silently ignored."""
        super().__init_subclass__(**kwargs)
        inherited = {
            field.name for base in cls.__mro__[1:] if hasattr(base, "__dataclass_fields__") for field in fields(base)
        }
        for name in inherited & set(vars(cls)) - set(inspect.get_annotations(cls)):
            raise TypeError(f"{cls.__name__}.{name} overrides a parameter's default without an annotation; annotate it")
        dataclass(eq=False, repr=False, kw_only=True)(cls)

    def build(self, space: Space) -> GenerativeModel:
        """Make the untrained model of rows in `space`: the one method a family must write."""
        raise NotImplementedError(f"{type(self).__name__} must define build(space)")

    # ------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, X_val: Any = None) -> Self:
        """Fit encoder, model, statistic and threshold.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows taken for normal. Frames may hold numbers, booleans, dates, text levels and missing values.
        y : ignored
        sample_weight : array of shape (n,), optional
            Non-negative weight of every row; rows of weight 0 are left out.
        X_val : frame or array, optional
            Rows held out for stopping; by default a share of `X`.

        Raises
        ------
        ValueError
            Naming the parameter, column or row that cannot be used.
        FloatingPointError
            If training diverges twice in a row.
        """
        continued = self.warm_start and hasattr(self, "model_")
        X, weight = self._prepare(X, sample_weight, reset=not continued, minimum=2)
        if not continued:
            self._begin(X, weight)
        self.data_digest_ = data_digest(X)
        self._stream = None
        rows = self.encoder_.encode(X, cells=True)
        train, held = self._split(len(rows), X_val is not None)
        fitted = rows.take(train) if len(held) else rows
        held_out = rows.take(held) if len(held) else None
        if X_val is not None:
            held_out = self.encoder_.encode(validated(self, X_val, reset=False, minimum=1), cells=True)
        self.history_: list[dict[str, float]] = []
        self._train(fitted, _at(weight, train), held_out, _at(weight, held) if len(held) else None)
        self._conclude(fitted, fitted if held_out is None else held_out, rows)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from rows that arrive in pieces.

        Rows are gathered until there are 256, or until a score is asked for; then the encoder is frozen. A tenth of the
        rows is kept apart, at most 10,000 of them in a reservoir, and gives the held-out nats, the statistic and the
        threshold; the others train. Levels that appear later count as unseen.

        Parameters
        ----------
        X : frame or array of shape (n, p)
        y : ignored
        sample_weight : array of shape (n,), optional

        Raises
        ------
        ValueError
            As `fit`.
        """
        X, weight = self._prepare(X, sample_weight, reset=not self.__sklearn_is_fitted__(), minimum=1)
        if getattr(self, "_stream", None) is None:
            self._stream = Stream(check_random_state(self.random_state).randint(2**31 - 1))
        self._stream.add(X, np.ones(len(X)) if weight is None else weight)
        if hasattr(self, "model_") or self._stream.ready:
            self._absorb()
        return self

    def _absorb(self) -> None:
        """Train on the rows that `partial_fit` has gathered."""
        stream = getattr(self, "_stream", None)
        if stream is None or not stream.waiting:
            return
        X, weight = stream.release()
        if not hasattr(self, "model_"):
            self._begin(X, weight)
            self.history_ = []
        self.data_digest_ = data_digest(X)
        rows = self.encoder_.encode(X, cells=True)
        train, held = stream.split(len(rows))
        stream.keep(rows.take(held))
        enough = stream.reservoir is not None and len(stream.reservoir) >= MIN_HELD_OUT
        epochs = stream.epochs(len(train)) if self.max_epochs == "auto" else self.max_epochs
        fitted = rows.take(train)
        self._train(fitted, weight[train], stream.reservoir if enough else None, None, epochs, constant_rate=True)
        judged = stream.reservoir if enough else rows
        self._conclude(fitted, judged, judged)

    def _prepare(self, X: Any, sample_weight: Any, reset: bool, minimum: int) -> tuple[Any, Array | None]:
        """Validated rows of positive weight, and their weights."""
        check_parameters(type(self).__name__, self.get_params(deep=False))
        X = validated(self, X, reset=reset, minimum=minimum)
        if sample_weight is None:
            return X, None
        probe = np.empty((len(X), 1))
        weight = np.asarray(_check_sample_weight(sample_weight, probe, dtype=np.float64, ensure_non_negative=True))
        kept = np.flatnonzero(weight > 0)
        if len(kept) < minimum:
            raise ValueError(
                f"sample_weight is positive for {len(kept)} sample(s), all others are zero: at least {minimum} needed"
            )
        if len(kept) < len(weight):
            X, weight = (X.iloc[kept] if isinstance(X, pd.DataFrame) else X[kept]), weight[kept]
        return X, weight

    def _begin(self, X: Any, weight: Array | None) -> None:
        """Everything that comes before the first training step of a new model."""
        if len(X) < 2:
            raise ValueError(f"{type(self).__name__} cannot learn from 1 sample; give it more rows")
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.statistic_ = make_statistic(self.statistic, self.default_statistic)
        self.encoder_ = TableEncoder(self.kinds, self.exclude).fit(X, weight)
        self.model_ = state.build_model(self)
        check_abilities(self.statistic_, self.model_)

    def _split(self, n: int, given: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of training and of held-out rows; none of these where the user gave some, or there are too few."""
        held = 0 if given else round(self.validation_fraction * n)
        order = np.random.default_rng(self.seed_).permutation(n)
        return (np.sort(order[held:]), np.sort(order[:held])) if held >= MIN_HELD_OUT else (np.arange(n), order[:0])

    def _train(
        self,
        rows: Encoded,
        weight: Array | None,
        held_out: Encoded | None,
        held_weight: Array | None,
        max_epochs: int | Auto | None = None,
        constant_rate: bool = False,
    ) -> None:
        params = self.get_params(deep=False)
        options = {field.name: params[field.name] for field in fields(Trainer) if field.name in params}
        options |= {"callbacks": tuple(self.callbacks), "seed": self.seed_, "max_epochs": max_epochs or self.max_epochs}
        run = Trainer(**options).fit(
            self.model_,
            Space(**self.encoder_.layout()),
            rows,
            weight=weight,
            held_out=held_out,
            held_out_weight=held_weight,
            constant_rate=constant_rate,
            detector=self,
            info={"data_digest": self.data_digest_, "columns": int(self.n_features_in_)},
        )
        self.history_ = [*self.history_, *run.history]
        self.n_epochs_ = int(run.history[-1]["epoch"]) if run.history else 0
        self.best_epoch_ = run.best_epoch

    def _conclude(self, train: Encoded, held_out: Encoded, scored: Encoded) -> None:
        """Fit the statistic, then set the threshold from the scores of `scored`."""
        self.statistic_.to(self._device())
        self.statistic_.fit(self.model_, self._rows(held_out), self._rows(train))
        scores = self._map(scored, self.statistic_)
        self.score_quantiles_ = calibrate.quantiles(scores)
        self.offset_ = calibrate.threshold(scores, self.contamination)

    # ------------------------------------------------------------------ scoring

    def score_samples(self, X: Any) -> Array:
        """Score rows: the higher, the more normal.

        With the likelihood this is ``log p(x)`` of every row, nats in the user's own units: densities of continuous
        columns, masses of discrete ones.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        ndarray of shape (n,), float64
            A row's score depends on nothing but the row.
        """
        check_is_fitted(self)
        self._absorb()
        return self._map_frame(X, self.statistic_)

    def decision_function(self, X: Any) -> Array:
        """``score_samples(X) - offset_``: negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """+1 for normal rows, -1 for anomalies."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def anomaly_score(self, X: Any) -> Array:
        """``-score_samples(X)``: the higher, the more anomalous, as other toolkits have it."""
        return -self.score_samples(X)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows, nats, whatever the statistic; the statistic where the model has none.

        Parameters
        ----------
        X : frame or array of shape (n, p)
        y : ignored
        """
        check_is_fitted(self)
        self._absorb()
        return float(self._map_frame(X, None if hasattr(self.model_, "log_prob") else self.statistic_).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw new rows from the fitted model, laid out as the training rows were.

        Parameters
        ----------
        n_samples : int
        random_state : int, RandomState or None
            None stands for the detector's own `random_state`. With one seed, the first rows of a longer draw are those
            of a shorter one.

        Returns
        -------
        frame or array of shape (n_samples, p)
            With the training rows' container, columns, dtypes and levels; excluded columns are missing.
        """
        check_is_fitted(self)
        self._absorb()
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} must be a positive integer")
        generator = check_random_state(self.random_state if random_state is None else random_state)
        seed = int(generator.randint(2**31 - 1))
        z = runtime.sample_rows(self.model_.sample, int(n_samples), seed=seed, device=self._device())
        return self.encoder_.decode(z.numpy())

    def set_threshold(self, threshold: float | None = None, *, contamination: float | Auto | None = None) -> Self:
        """Move the threshold of `predict` without refitting.

        Parameters
        ----------
        threshold : float, optional
            Rows scored below it are anomalies.
        contamination : float or "auto", optional
            Instead: the share of the training rows to flag, read from their stored quantiles.

        Raises
        ------
        ValueError
            Unless exactly one of the two is given.
        """
        check_is_fitted(self)
        self._absorb()
        if (threshold is None) == (contamination is None):
            raise ValueError("give set_threshold either threshold= or contamination=")
        if threshold is not None:
            self.offset_ = float(threshold)
        else:
            self.offset_ = calibrate.threshold_from(self.score_quantiles_, contamination or "auto")
        return self

    def describe(self) -> list[dict[str, Any]]:
        """What every column was taken for and why, one dict a column."""
        check_is_fitted(self)
        self._absorb()
        return self.encoder_.describe()

    # ------------------------------------------------------------------ persistence

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted detector to a folder of JSON and safetensors: atomic, checksummed, nothing executable.

        Callbacks, verbosity and an optimizer's state are not saved; `random_state` is saved as the seed it came down to.

        Parameters
        ----------
        path : path
            The folder to make.
        overwrite : bool
            Whether a saved model found there may be replaced.

        Raises
        ------
        FileExistsError
            If something is there already.

        See Also
        --------
        anomgen.load : the way back.
        """
        check_is_fitted(self)
        self._absorb()
        name = type(self).__name__
        config = state.to_config(self, name, type(self.statistic_).__name__)
        persist.write_folder(path, config, state.to_arrays(self), state.card(self, name), overwrite=overwrite)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling between processes of one machine: arrays are numpy, so that it loads without a GPU."""
        held = dict(super().__getstate__())
        for key in ("model_", "statistic_"):
            if key in held:
                held[key] = state.module_arrays(held[key])
        return held

    def __setstate__(self, held: dict[str, Any]) -> None:
        """Rebuild the networks from arrays."""
        arrays = {key: held.pop(key) for key in ("model_", "statistic_") if key in held}
        super().__setstate__(held)
        if arrays:
            self.model_ = state.build_model(self)
            self.statistic_ = make_statistic(self.statistic, self.default_statistic)
            state.load_arrays(self.model_, arrays["model_"])
            state.load_arrays(self.statistic_, arrays["statistic_"])

    # ------------------------------------------------------------------ inner parts

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model, or rows waiting to become one."""
        stream = getattr(self, "_stream", None)
        return hasattr(self, "model_") or (stream is not None and bool(stream.waiting))

    def __sklearn_tags__(self) -> Any:
        """Missing values and categories are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _device(self) -> torch.device:
        first = next(chain(self.model_.parameters(), self.model_.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    def _map_frame(self, X: Any, statistic: Statistic | None) -> Array:
        X = validated(self, X, reset=False, minimum=1)
        return np.concatenate([self._map(self.encoder_.encode(part), statistic) for part in chunks(X)])

    def _map(self, rows: Encoded, statistic: Statistic | None) -> Array:
        """Scores of encoded rows under a statistic, or their log-likelihoods."""

        def score(z: Tensor, log_det: Tensor) -> Tensor:
            part = Rows(z, log_det)
            return log_likelihood(self.model_, part) if statistic is None else statistic(self.model_, part)

        columns = (torch.from_numpy(rows.z), torch.from_numpy(rows.log_det))
        gradient = statistic is not None and statistic.gradient
        with runtime.compiling(self.compile):
            return runtime.map_rows(score, columns, device=self._device(), gradient=gradient)

    def _rows(self, rows: Encoded) -> Rows:
        """At most ``MAX_ROWS`` rows, evenly spread, on the model's device."""
        kept = np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(np.int64)
        device = self._device()
        return Rows(torch.from_numpy(rows.z[kept]).to(device), torch.from_numpy(rows.log_det[kept]).to(device))


def _at(weight: Array | None, rows: NDArray[np.int64]) -> Array | None:
    return None if weight is None else weight[rows]
