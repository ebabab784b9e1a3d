"""What a detector checks at its public door."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import validate_data

from anomgen.encode import is_images, is_source
from anomgen.encode.frame import to_frame
from anomgen.encode.image import as_array


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any], bool]:
    def allowed(value: Any) -> bool:
        real = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        return real and (low < value if above else low <= value) and value <= high

    return allowed


def _sides(value: Any, least: int, most: int) -> bool:
    listed = list(value) if isinstance(value, list | tuple) else []
    whole = all(isinstance(side, Integral) and int(side) >= 1 for side in listed)
    return least <= len(listed) <= most and whole


def _two_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and bool(value[0] < value[1])


def _count_or_auto(value: Any) -> bool:
    return value == "auto" if isinstance(value, str) else isinstance(value, Integral) and int(value) >= 1


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "contamination": (
        lambda v: v == "auto" if isinstance(v, str) else _number(0, 0.5, above=True)(v),
        "'auto' or a number in (0, 0.5]",
    ),
    "kinds": (lambda v: v is None or isinstance(v, Mapping), "a mapping of columns to kinds, or None"),
    "exclude": (lambda v: not isinstance(v, str) and hasattr(v, "__iter__"), "a sequence of columns"),
    "condition": (lambda v: isinstance(v, str | int) or hasattr(v, "__iter__"), "a column, or a sequence of columns"),
    "noise": (lambda v: v == "auto" if isinstance(v, str) else _number(0, 10)(v), "'auto' or a number in [0, 10]"),
    "image_shape": (lambda v: v is None or _sides(v, 2, 3), "None, (height, width) or these with channels"),
    "image_size": (
        lambda v: v is None or (isinstance(v, Integral) and int(v) >= 1) or _sides(v, 2, 2),
        "None, a positive integer or (height, width)",
    ),
    "pixel_range": (lambda v: v == "auto" if isinstance(v, str) else _two_numbers(v), "'auto' or (low, high)"),
    "robust": (lambda v: _number(0, 0.5)(v) and v < 0.5, "a share in [0, 0.5)"),
    "max_epochs": (_count_or_auto, "'auto' or a positive integer"),
    "batch_size": (_count_or_auto, "'auto' or a positive integer"),
    "learning_rate": (_number(0, 10, above=True), "a positive number"),
    "weight_decay": (_number(0, 10), "a number in [0, 10]"),
    "patience": (_number(0, 1, above=True), "a share of the schedule in (0, 1]"),
    "validation_fraction": (_number(0, 0.5), "a share in [0, 0.5]"),
    "precision": (lambda v: v in ("float32", "bf16"), "'float32' or 'bf16'"),
    "verbose": (lambda v: v == "auto" or isinstance(v, bool | np.bool_ | int), "True, False or 'auto'"),
}


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Check all parameters that every detector has.

    Raises
    ------
    ValueError
        Naming every bad one, its value and what is allowed.
    """
    wrong = [
        f"{key}={parameters[key]!r} must be {allowed}"
        for key, (rule, allowed) in RULES.items()
        if key in parameters and not rule(parameters[key])
    ]
    if wrong:
        raise ValueError(f"{name}: {'; '.join(wrong)}")


def validated(detector: Any, x: Any, *, reset: bool, minimum: int, images: bool | None = None) -> Any:
    """Rows checked as scikit-learn does: a pandas frame for anything with columns, else a numeric array, or images.

    Whether they are `images` follows from the detector, unless given.

    Raises
    ------
    ValueError
        For wrong widths, wrong column names, too few rows.
    """
    if takes_images(detector, x, reset) if images is None else images:
        return _validated_images(detector, x, reset, minimum)
    frame = to_frame(x)
    if frame is None:
        return validate_data(
            detector,
            x,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=minimum,
        )
    if not reset:
        _check_names(detector, frame)
    validate_data(detector, frame, reset=reset, skip_check_array=True)
    if len(frame) < minimum or not frame.shape[1]:
        rows, columns = frame.shape
        lacking = f"{rows} sample(s)" if len(frame) < minimum else "0 feature(s)"
        raise ValueError(
            f"Found a frame with {lacking} (shape=({rows}, {columns})) while a minimum of "
            f"{minimum if len(frame) < minimum else 1} is required by {type(detector).__name__}"
        )
    return frame


def takes_images(detector: Any, x: Any, reset: bool) -> bool:
    """Whether rows are to be read as images: those of a new fit, or of a detector that was fitted on images."""
    if reset:
        return detector.image_shape is not None or is_images(x)
    return hasattr(detector, "encoder_") and detector.encoder_.container_ == "images"


def _validated_images(detector: Any, x: Any, reset: bool, minimum: int) -> Any:
    """Images as one array, or the source that reads them; the encoder checks their shapes and values."""
    images = x if is_source(x) else as_array(x)
    if len(images) < minimum:
        name = type(detector).__name__
        raise ValueError(f"Found {len(images)} sample(s) while a minimum of {minimum} images is required by {name}")
    if reset:
        detector.n_features_in_ = int(np.prod(as_array(images[:1]).shape[1:]))
        if hasattr(detector, "feature_names_in_"):
            del detector.feature_names_in_
    return images


def _check_names(detector: Any, frame: pd.DataFrame) -> None:
    """Name exactly which columns are missing or new, which scikit-learn's own message lists only in part."""
    known = getattr(detector, "feature_names_in_", None)
    if known is None or list(known) == list(frame.columns):
        return
    missing = [name for name in known if name not in frame.columns]
    extra = [name for name in frame.columns if name not in known]
    if missing or extra:
        raise ValueError(
            f"The feature names should match those that were passed during fit: missing columns {missing}, "
            f"unknown columns {extra}"
        )


class FrameDigest:
    """The sha256 of a frame that comes in pieces, however it is cut."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._begun = False

    def add(self, x: pd.DataFrame) -> None:
        """Go on with these rows."""
        if not self._begun:
            self._digest.update(",".join(map(str, x.columns)).encode())
            self._begun = True
        hashed = pd.util.hash_pandas_object(x.astype({c: str for c in x if x[c].dtype == object}), index=False)
        self._digest.update(hashed.to_numpy().tobytes())

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._digest.hexdigest()


def data_digest(x: Any) -> str:
    """The sha256 of rows, whatever their container: of their bytes, or of pandas' row hashes."""
    if isinstance(x, pd.DataFrame):
        digest = FrameDigest()
        digest.add(x)
        return digest.hexdigest()
    shape = f"{x.dtype}{x.shape}".encode()
    plain = x.astype(str) if x.dtype == object else x
    return hashlib.sha256(shape + np.ascontiguousarray(plain).tobytes()).hexdigest()
