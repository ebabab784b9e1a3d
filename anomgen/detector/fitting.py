"""The steps of a fit: rows checked, encoder and model made, model trained, statistic and threshold set."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from anomgen import calibrate, explain, runtime
from anomgen.detector import calibration, sketch, state
from anomgen.detector.checks import check_parameters, validated
from anomgen.detector.stream import Stream
from anomgen.drift import Reference
from anomgen.encode import Encoded, JointEncoder, Marginals, TableEncoder, image_encoder
from anomgen.generative import GenerativeModel, Rows, Space
from anomgen.statistic import MAX_ROWS, Statistic, check_abilities, log_likelihood, make_statistic
from anomgen.train import Passes, Run, Trainer, usual_noise

if TYPE_CHECKING:
    from anomgen.detector.base import Detector
    from anomgen.detector.trained import TrainedDetector

Array = NDArray[np.float64]
Maps = NDArray[np.float32]

MIN_HELD_OUT = 100
"""Held-out rows below which there is no early stop: their mean says too little, and the rows teach more than it."""
MIN_JUDGES = 300
"""Held-out rows from which ``contamination="auto"`` reads the threshold: three of them lie below the 1 % quantile."""
PIECE = 4096
"""Images encoded and scored at a time."""
FOLDS = 3
"""Auxiliary models for the threshold of a table too short to hold rows out."""
MIN_FOLDED = 30
"""Rows below which not even that is worth while."""


def prepare(
    detector: Detector, X: Any, y: Any, sample_weight: Any, reset: bool, minimum: int
) -> tuple[Any, Array | None]:
    """Validated rows of positive weight, with labels that are a condition, and their weights."""
    check_parameters(type(detector).__name__, detector.get_params(deep=False))
    X = detector.join_label(validated(detector, X, reset=reset, minimum=minimum), y)
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


def begin(detector: Detector, X: Any, weight: Array | None) -> None:
    """Everything that comes before the first training step of a new model."""
    if len(X) < 2:
        raise ValueError(f"{type(detector).__name__} cannot learn from 1 sample; give it more rows")
    detector.seed_ = int(check_random_state(detector.random_state).randint(2**31 - 1))
    detector.encoder_ = detector.make_encoder(X).fit(X, weight)
    detector.statistic_ = make_statistic(detector.statistic, detector.usual_statistic())
    detector.model_ = state.build_model(detector)
    detector.history_ = []
    detector.row_sketch_ = np.zeros(0, dtype=np.uint64)
    calibration.drop(detector)
    check_abilities(detector.statistic_, detector.model_, Space(**detector.encoder_.layout()))


def learn(detector: Detector, X: Any, weight: Array | None, X_val: Any) -> None:
    """Train on all rows but a held-out share, or on all where the user holds some out."""
    remember(detector, *sketch.identity(X, detector.n_features_in_))
    _describe(detector, X, weight)
    rows = detector.encoder_.encode(X, cells=True, codes=detector.model_.codes)
    train, held = _split(detector, len(rows), X_val is not None)
    fitted = rows.take(train) if len(held) else rows
    held_out = rows.take(held) if len(held) else None
    if X_val is not None:
        held_out = detector.encoder_.encode(X_val, cells=True, codes=detector.model_.codes)
        remember(detector, detector.data_digest_, sketch.identity(X_val, detector.n_features_in_)[1])
    detector.history_ = []
    held_weight = weight[held] if weight is not None and len(held) else None
    judged = (fitted if held_out is None else held_out, rows)
    _train(detector, fitted, None if weight is None else weight[train], held_out, held_weight, judged)


def _describe(detector: Detector, X: Any, weight: Array | None) -> None:
    """What the columns of the training rows were like, for drift and for draws."""
    detector.reference_ = Reference.of(detector.encoder_, X, weight)
    if isinstance(detector.encoder_, TableEncoder | JointEncoder) and detector.encoder_.container_ != "images":
        detector.marginals_ = Marginals.of(detector.encoder_, X, weight)
    elif hasattr(detector, "marginals_"):
        del detector.marginals_


def remember(detector: Detector, digest: str, hashes: NDArray[np.uint64]) -> None:
    """Note which rows a model meets, besides those that it has met since it was begun."""
    detector.data_digest_ = digest
    detector.row_sketch_ = sketch.smallest(getattr(detector, "row_sketch_", hashes), hashes)


def rows_used(detector: Detector, n: int) -> int:
    """Rows of `n` that the detector's schedule looks at."""
    return Trainer(**_options(detector)).rows_used(n)


def learn_passing(detector: Detector, rows: Passes, held_out: Encoded | None, sample: Any, scored: Encoded) -> None:
    """Train on rows that pass by; what takes one look comes from a `sample` of them, encoded as `scored`."""
    _describe(detector, sample, None)
    detector.history_ = []
    _train(detector, rows, None, held_out, None, (rows.sample if held_out is None else held_out, scored))


def learn_piece(detector: TrainedDetector, stream: Stream) -> None:
    """Train on the rows that wait in a stream; if they cannot be used, all but the last piece go on waiting."""
    pieces = list(stream.waiting)
    X, weight = stream.release()
    new = not hasattr(detector, "model_")
    try:
        if new:
            begin(detector, X, weight)
        rows = detector.encoder_.encode(X, cells=True, codes=detector.model_.codes)
    except (ValueError, TypeError):
        stream.waiting = pieces if len(X) < 2 else pieces[:-1]
        raise
    stream.total += len(X)
    if new:
        _describe(detector, X, weight)
    elif hasattr(detector, "reference_"):
        detector.reference_ = detector.reference_.extended(X)
    remember(detector, *sketch.identity(X, detector.n_features_in_))
    train, held = stream.split(len(rows))
    stream.keep(rows.take(held))
    reservoir = stream.reservoir if stream.reservoir is not None and len(stream.reservoir) >= MIN_HELD_OUT else None
    fitted = rows.take(train)
    # What "auto" derives from the rows must not take one small piece for all there is.
    plan = {
        "max_epochs": stream.epochs(len(train)) if detector.max_epochs == "auto" else detector.max_epochs,
        "noise": usual_noise(stream.total) if detector.noise == "auto" else detector.noise,
        "seed": (detector.seed_ + stream.total) % 2**31,
    }
    judged = rows if reservoir is None else reservoir
    _train(detector, fitted, weight[train], reservoir, None, (judged, judged), plan)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters or buffers lie."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def drawing_height(model: GenerativeModel) -> int:
    """Rows that a model draws at a time, under one seed."""
    return runtime.IMAGE_SAMPLE_TILE if model.work else runtime.SAMPLE_TILE


def pieces(detector: Detector, X: Any) -> Iterator[Any]:
    """Rows as they are encoded and scored at a time: tables whole, images in pieces.

    Pixels in model space take four times the memory of bytes.
    """
    height = PIECE if detector.encoder_.container_ == "images" else max(len(X), 1)
    return (X[start : start + height] if height < len(X) else X for start in range(0, len(X), height))


def map_encoded(
    detector: Detector, model: GenerativeModel, rows: Encoded, statistic: Statistic | None, given: bool = False
) -> Array:
    """Scores of encoded rows by any model of the detector's making, in tiles; log-likelihoods without a statistic.

    Where rows have conditions, the score is the logarithm of the mean exponential score over all of them, unless they
    are `given`.
    """
    device = device_of(model)
    encoder = detector.encoder_
    rows, shape = settled(detector, rows), event_shape(detector)
    summed = isinstance(encoder, JointEncoder) and not given
    bank = torch.from_numpy(encoder.bank_).to(device) if summed else None
    shares = torch.from_numpy(np.log(encoder.shares_)).to(device) if summed else None

    def score_one(z: Tensor, log_det: Tensor) -> Tensor:
        part = Rows(z, log_det, shape)
        return log_likelihood(model, part) if statistic is None else statistic(model, part)

    def score(z: Tensor, log_det: Tensor) -> Tensor:
        if bank is None or shares is None:
            return score_one(z, log_det)
        own = z[:, : z.shape[1] - bank.shape[1]]
        each = [score_one(torch.cat([own, c.expand(len(z), -1)], 1), log_det) for c in bank]
        return torch.logsumexp(torch.stack(each) + shares[:, None], 0)

    columns = (torch.from_numpy(rows.z), torch.from_numpy(rows.log_det))
    gradient = statistic is not None and statistic.gradient
    held = chain(model.state_dict().values(), () if statistic is None else statistic.state_dict().values())
    size = model.passes * sum(tensor.numel() for tensor in held)
    height = runtime.tile_height(size, device, model.passes * model.work)
    with runtime.compiling(detector.get_params(deep=False).get("compile", False)):
        return runtime.map_rows(score, columns, device=device, height=height, gradient=gradient)


def _split(detector: Detector, n: int, given: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training and of held-out rows; none of these where the user gave some, or there are too few."""
    held = 0 if given else round(detector.validation_fraction * n)
    order = np.random.default_rng(detector.seed_).permutation(n)
    return (np.sort(order[held:]), np.sort(order[:held])) if held >= MIN_HELD_OUT else (np.arange(n), order[:0])


def _folded_scores(detector: Detector, rows: Encoded, weight: Array | None) -> Array | None:
    """Scores of rows by models that did not train on them, where the automatic threshold needs them.

    A table too short to hold rows out is cut into three folds; each is scored by an auxiliary model of the other two.
    The scores of training rows themselves would flag most new rows of a short table.
    """
    if detector.contamination != "auto" or len(rows) < MIN_FOLDED:
        return None
    trainer = Trainer(**_options(detector))
    space = Space(**detector.encoder_.layout())
    order = np.random.default_rng([detector.seed_, 4]).permutation(len(rows))
    scores = np.empty(len(rows))
    for fold in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, fold)
        model, statistic = state.build_model(detector), copy.deepcopy(detector.statistic_)
        some, share = rows.take(rest), None if weight is None else weight[rest]
        trainer.fit(model, space, some, weight=share, watched=False)
        _train_second(detector, trainer, statistic, some, share)
        train = _rows(detector, model, some)
        statistic.to(device_of(model)).fit(model, train, train)
        scores[fold] = map_encoded(detector, model, rows.take(fold), statistic)
    return scores


def _train_second(
    detector: Detector, trainer: Trainer, statistic: Statistic, rows: Encoded, weight: Array | None
) -> None:
    """Give a statistic the second model that it asks for, trained on the rows it makes of the training rows."""
    if not statistic.paired:
        return
    space = Space(**detector.encoder_.layout())
    made = statistic.auxiliary(rows, space, np.random.default_rng([detector.seed_, 6]))
    second = state.build_model(detector)
    statistic.attach(second)
    if made is not None:
        trainer.fit(second, space, made, weight=weight, watched=False)


def _options(detector: Detector) -> dict[str, Any]:
    """The trainer's options among the detector's parameters."""
    params = detector.get_params(deep=False)
    options = {field.name: params[field.name] for field in fields(Trainer) if field.name in params}
    return options | {"callbacks": tuple(detector.callbacks), "seed": detector.seed_}


def _train(
    detector: Detector,
    rows: Encoded | Passes,
    weight: Array | None,
    held_out: Encoded | None,
    held_weight: Array | None,
    judged: tuple[Encoded, Encoded],
    piece: dict[str, Any] | None = None,
) -> None:
    """Train the model, then fit the statistic on the first of `judged` and set the threshold from the second.

    `piece` replaces options of the trainer for rows that arrive in pieces.
    """
    calibration.drop(detector)
    facts = {
        "data_digest": detector.data_digest_,
        "columns": int(detector.n_features_in_),
        "piecewise": piece is not None,
    }

    def finish(run: Run) -> None:
        detector.history_ = [*detector.history_, *run.history]
        detector.n_epochs_ = int(run.history[-1]["epoch"]) if run.history else 0
        detector.best_epoch_ = run.best_epoch
        complaints = run.model.complaints(run.history)
        detector.converged_ = not complaints
        for complaint in complaints:
            warnings.warn(f"{type(detector).__name__}: {complaint}", ConvergenceWarning, stacklevel=2)
        known = rows if isinstance(rows, Encoded) else rows.sample
        alone = known is rows and held_out is None and piece is None
        folded = _folded_scores(detector, known, weight) if alone else None
        _train_second(detector, trainer, detector.statistic_, known, weight)
        _conclude(detector, known, *judged, folded, held_out is not None)

    trainer = Trainer(**(_options(detector) | (piece or {})))
    trainer.fit(
        detector.model_,
        Space(**detector.encoder_.layout()),
        rows,
        weight=weight,
        held_out=held_out,
        held_out_weight=held_weight,
        constant_rate=piece is not None,
        detector=detector,
        info=facts,
        finish=finish,
    )


def _conclude(
    detector: Detector, train: Encoded, held_out: Encoded, scored: Encoded, folded: Array | None, apart: bool
) -> None:
    """Fit the statistic, then set the threshold from the scores of `scored`, or from more honest ones.

    Those are `folded`, or the scores of `held_out` where these rows are `apart`, and did not train.
    """
    model, statistic = detector.model_, detector.statistic_
    statistic.to(device_of(model))
    judges = _rows(detector, model, held_out)
    statistic.fit(model, judges, _rows(detector, model, train))
    _keep_scales(detector, model, judges)
    scores = map_encoded(detector, model, scored, statistic)
    detector.score_quantiles_ = calibrate.quantiles(scores)
    honest = folded
    if honest is None and apart:
        honest = scores if held_out is scored else map_encoded(detector, model, held_out, statistic)
    if hasattr(detector, "reference_"):
        detector.reference_ = detector.reference_.with_scores(honest)
    # A model scores the rows it learned from higher than others; a share asked for in numbers is of the training rows,
    # as in scikit-learn.
    if detector.contamination == "auto" and honest is not None and (folded is not None or len(honest) >= MIN_JUDGES):
        scores = honest
    detector.offset_ = calibrate.threshold(scores, detector.contamination)


def _keep_scales(detector: Detector, model: GenerativeModel, judges: Rows) -> None:
    """Remember on which scale rows are explained, and nothing of an earlier fit on other rows."""
    for name in ("map_quantiles_", "usual_nats_"):
        if hasattr(detector, name):
            delattr(detector, name)
    if judges.images is not None:
        detector.map_quantiles_ = explain.map_quantiles(model, judges)
    elif not explain.missing_for_columns(model, detector.encoder_):
        detector.usual_nats_ = explain.usual_nats(model, cast(TableEncoder, detector.encoder_), judges)


def score_maps(detector: Detector, X: Any) -> Maps:
    """Heat of every pixel of images, on the scale of held-out normal ones."""
    model, shape, maps = detector.model_, event_shape(detector), []
    device = device_of(model)
    for part in pieces(detector, X):
        rows = detector.encoder_.encode(part, codes=model.codes)
        z, log_det = torch.from_numpy(rows.z).to(device), torch.from_numpy(rows.log_det).to(device)
        maps.append(explain.scaled(explain.surprise_maps(model, Rows(z, log_det, shape)), detector.map_quantiles_))
    return np.concatenate(maps)


def event_shape(detector: Detector) -> tuple[int, ...]:
    """Shape of what is modelled of a row."""
    images = image_encoder(detector.encoder_)
    return (detector.encoder_.dim,) if images is None else images.shape_


def settled(detector: Detector, rows: Encoded) -> Encoded:
    """Rows encoded for training as scoring encodes them: pixels with the noise that is fixed."""
    images = image_encoder(detector.encoder_)
    if not rows.box or images is None:
        return rows
    z = rows.z.copy()
    z[:, : images.dim] += images.noise
    return Encoded(z, rows.log_det, z, z)


def _rows(detector: Detector, model: GenerativeModel, rows: Encoded) -> Rows:
    """At most ``MAX_ROWS`` rows, evenly spread, on the model's device."""
    kept = np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(np.int64)
    some, device = settled(detector, rows.take(kept)), device_of(model)
    z, log_det = torch.from_numpy(some.z).to(device), torch.from_numpy(some.log_det).to(device)
    return Rows(z, log_det, event_shape(detector))
