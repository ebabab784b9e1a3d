"""The scikit-learn shell that every family wears."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anomgen import persist, runtime
from anomgen.detector import fitting, state, streaming
from anomgen.detector.calibration import Calibrated
from anomgen.detector.checks import takes_images, validated
from anomgen.detector.completion import Completing
from anomgen.detector.insight import Insight
from anomgen.detector.repairing import Repairing
from anomgen.encode import ImageEncoder, JointEncoder, TableEncoder
from anomgen.generative import GenerativeModel, Space
from anomgen.statistic import Statistic, make_statistic
from anomgen.train import Callback

Auto = Literal["auto"]
Array = NDArray[np.float64]


@dataclass_transform(kw_only_default=True, eq_default=False)
@dataclass(eq=False, repr=False, kw_only=True)
class Detector(Calibrated, Insight, Completing, Repairing, OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all detectors: a scikit-learn outlier detector around a generative model.

    A family subclasses it, or :class:`TrainedDetector` where gradients train the model, declares its parameters as
    annotated fields with immutable defaults, and writes :meth:`build`. Everything else, from validation to persistence,
    is here once.

    Parameters
    ----------
    statistic : str or Statistic, default="auto"
        What a row is scored by: a name of :data:`anomgen.statistic.STATISTICS` or an instance. ``"auto"`` is the
        family's own choice, the likelihood for most on tables, and ``"dose"`` on images, where likelihoods mislead.
    contamination : float or "auto", default="auto"
        Share of the training rows that `predict` flags, in (0, 0.5]. ``"auto"`` is 1 % of rows that did not train, for
        a model scores the rows it learned from higher than others: of the held-out rows where there are 300 of them;
        of three folds scored by three auxiliary models where the table is too short to hold any out (which takes three
        more fits; give a number to save them); else of the training rows. It moves the threshold only.
    kinds : mapping of column to str, optional
        What columns are to be taken for, instead of what the encoder infers: ``"constant"``, ``"binary"``,
        ``"lattice"``, ``"continuous"``, ``"heavy-tailed"``, ``"categorical"`` or ``"datetime"``.
    exclude : sequence of columns, default=()
        Columns that the model never sees.
    image_shape : tuple of int, optional
        Shape of one image, ``(height, width)`` or with channels first or last, for images that come as flat rows.
        Arrays of three or four axes, lists of images and sources need none.
    image_size : int or (height, width), optional
        Resize images to this size, in training and in scoring; by default all must have one size.
    pixel_range : (low, high) or "auto", default="auto"
        Pixel values of black and white; ``"auto"`` follows from their type, or from the training pixels. Pixels are
        rounded to 256 levels between them.
    noise : float or "auto", default="auto"
        Standard deviation of the Gaussian training noise on numbers, in standard deviations of the column; pixels get
        none but the uniform noise within their level. ``"auto"``
        is ``0.25 (n / 1000)^(-1/4)`` for n rows, between 0.05 and 0.5: like a kernel's bandwidth it falls with n.
    robust : float, default=0.0
        Share of the training rows left out as they are found unlikely, in [0, 0.5), for data that holds anomalies. It
        changes what is learned; `contamination` only moves the threshold.
    validation_fraction : float, default=0.1
        Share of the rows held out, in [0, 0.5]: they decide what training alone cannot, such as when to stop. Fewer
        than 100 such rows are not worth their loss; none are held out then.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    callbacks : sequence of Callback, default=()
        Watch the fit; see :class:`anomgen.Callback`.
    random_state : int, RandomState or None, default=None
        Seeds initialization, the order of rows, noise and samples. One int gives the same bits on a CPU.
    verbose : bool or "auto", default="auto"
        Progress bar; ``"auto"`` shows one when standard error is a terminal.

    Attributes
    ----------
    model_ : GenerativeModel
    encoder_ : TableEncoder, ImageEncoder or JointEncoder
    statistic_ : Statistic
    offset_ : float
        Threshold of `predict` on `score_samples`.
    history_ : list of dict
        One entry a check: nats, learning rate, rows/s.
    n_epochs_, best_epoch_ : int
        Epochs done, and the one whose averaged weights were kept. Where passes over the rows are few and long, an epoch
        is a part of one.
    converged_ : bool
        Whether the model found nothing wrong with its training; otherwise a ``ConvergenceWarning`` has said what.
    score_quantiles_ : ndarray of shape (1001,)
        Quantiles of the training scores.
    map_quantiles_ : ndarray of shape (2, k)
        The scale of `score_map`, where rows are images.
    reference_ : anomgen.drift.Reference
        What the training rows looked like, for `drift`.
    marginals_ : anomgen.encode.Marginals
        Quantile functions of the numeric columns of a table, for draws.
    usual_nats_ : ndarray of shape (columns,)
        What columns usually cost, for `contributions`, where the model can tell them apart.
    calibration_ : ndarray of shape (n_cal,)
        Scores of the calibration rows in rising order, after :meth:`calibrate`.
    folds_ : tuple of Detector
        The detectors that p-values come from, where it was calibrated with `folds`; else empty.
    data_digest_ : str
        sha256 of the training rows.
    row_sketch_ : ndarray of uint64
        Hashes of at most 4,096 rows met in fitting, by which calibration rows among them are noticed.
    seed_ : int
        The number that `random_state` came down to.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the training rows had column names.
    """

    default_statistic: ClassVar[str] = "likelihood"
    image_statistic: ClassVar[str] = "dose"

    statistic: str | Statistic = "auto"
    contamination: float | Auto = "auto"
    kinds: Mapping[Any, str] | None = None
    exclude: tuple[Any, ...] = ()
    image_shape: tuple[int, ...] | None = None
    image_size: int | tuple[int, int] | None = None
    pixel_range: tuple[float, float] | Auto = "auto"
    noise: float | Auto = "auto"
    robust: float = 0.0
    validation_fraction: float = 0.1
    device: str = "auto"
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

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> Self:
        """Fit encoder, model, statistic and threshold.

        Parameters
        ----------
        X : frame or array of shape (n, p), or images
            Rows taken for normal. Frames may hold numbers, booleans, dates, text levels and missing values. Images are
            an array of shape ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``, a list of arrays, a source, or flat
            rows with `image_shape`. Of files opened with :func:`anomgen.data.open_source` at most 200,000 rows, drawn
            evenly, are held in memory; they are what the model is solved for.
        y : ignored
        X_val : frame or array, optional
            Rows to hold out; by default a share of `X`.

        Raises
        ------
        ValueError
            Naming the parameter, column or row that cannot be used.
        """
        return self._fit(X, y, None, X_val)

    def _fit(self, X: Any, y: Any, sample_weight: Any, X_val: Any) -> Self:
        X, X_val = (streaming.sample_of(self, rows) if streaming.passes_by(rows) else rows for rows in (X, X_val))
        images = takes_images(self, X, True)
        X, weight = fitting.prepare(self, X, y, sample_weight, reset=True, minimum=2)
        held_out = None if X_val is None else validated(self, X_val, reset=False, minimum=1, images=images)
        fitting.begin(self, X, weight)
        fitting.learn(self, X, weight, held_out)
        return self

    def join_label(self, X: Any, y: Any) -> Any:
        """Rows with what of `y` the model uses; here nothing."""
        return X

    def make_encoder(self, X: Any) -> TableEncoder | ImageEncoder | JointEncoder:
        """The unfitted encoder of rows like `X`."""
        if not takes_images(self, X, True):
            return TableEncoder(self.kinds, self.exclude)
        given = [name for name in ("kinds", "exclude") if getattr(self, name)]
        if given:
            raise ValueError(f"{given[0]}= is about the columns of a table; images have none, so leave it out")
        return ImageEncoder(self.image_shape, self.image_size, self.pixel_range)

    def usual_statistic(self) -> str:
        """Name of the statistic that ``"auto"`` stands for, once the encoder knows what rows are."""
        return self.image_statistic if self.encoder_.container_ == "images" else self.default_statistic

    def _absorb(self) -> None:
        """Bring the model up to date; every public method that needs one calls it first."""
        check_is_fitted(self)

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
        self._absorb()
        return float(self._map_frame(X, None if hasattr(self.model_, "log_prob") else self.statistic_).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None, *, start: int = 0) -> Any:
        """Draw new rows from the fitted model, laid out as the training rows were.

        Parameters
        ----------
        n_samples : int
        random_state : int, tuple of int, RandomState or None
            None stands for the detector's own `random_state`. With one seed, the first rows of a longer draw are those
            of a shorter one. Every tuple seeds a sequence of its own.
        start : int
            Draw rows ``start .. start + n_samples`` of the endless sequence that the seed defines.

        Returns
        -------
        frame or array of shape (n_samples, p)
            With the training rows' container, columns, dtypes and levels; excluded columns are missing.
        """
        self._absorb()
        return self._decoded(*self._drawing(n_samples, random_state, start), start)

    # ------------------------------------------------------------------ persistence

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted detector to a folder of JSON and safetensors: atomic, checksummed, nothing executable.

        Callbacks and verbosity are not saved; `random_state` is saved as the seed it came down to.

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
            self.statistic_ = make_statistic(self.statistic, self.usual_statistic())
            if self.statistic_.paired:
                self.statistic_.attach(state.build_model(self))
            state.load_arrays(self.model_, arrays["model_"])
            state.load_arrays(self.statistic_, arrays["statistic_"])

    # ------------------------------------------------------------------ inner parts

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model."""
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        """Missing values and categories are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _map_frame(self, X: Any, statistic: Statistic | None) -> Array:
        X = validated(self, X, reset=False, minimum=1)
        scores = [
            fitting.map_encoded(self, self.model_, self.encoder_.encode(part, codes=self.model_.codes), statistic)
            for part in fitting.pieces(self, X)
        ]
        return np.concatenate(scores)

    def _drawing(self, n_samples: int, random_state: Any, start: int = 0) -> tuple[int, tuple[int, ...]]:
        """How many rows to draw, and the seed of the sequence that they are part of."""
        if int(n_samples) != n_samples or n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r} must be a positive integer")
        if int(start) != start or start < 0:
            raise ValueError(f"start={start!r} must be an integer of at least 0")
        if isinstance(random_state, tuple):
            return int(n_samples), tuple(int(part) for part in random_state)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        return int(n_samples), (int(generator.randint(2**31 - 1)),)

    def _decoded(self, n: int, seed: tuple[int, ...], start: int = 0, given: NDArray[np.float32] | None = None) -> Any:
        conditions = None if given is None else torch.from_numpy(given)
        z = runtime.sample_rows(
            self.model_.sample,
            n,
            seed=seed,
            device=fitting.device_of(self.model_),
            start=start,
            given=conditions,
            height=fitting.drawing_height(self.model_),
        )
        return self.encoder_.decode(z.numpy(), self.model_.codes)
