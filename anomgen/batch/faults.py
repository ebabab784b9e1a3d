"""Which rows a detector refuses, told before it is asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.data.bad import SHOWN, Bad
from anomgen.detector import Detector
from anomgen.encode import ImageEncoder, JointEncoder, TableEncoder
from anomgen.encode.columns import Column
from anomgen.encode.frame import codes, numbers, to_frame

Encoder = TableEncoder | ImageEncoder | JointEncoder

INFINITE = "it is infinite; give a number, or leave the cell empty"


def faults(detector: Detector, rows: Any) -> list[Bad]:
    """The rows that ``detector.score_samples`` refuses, and why.

    Parameters
    ----------
    detector : Detector
    rows : frame or array of shape (n, p), or images
        With the columns of the training rows; their order and number are not checked here.

    Returns
    -------
    list of Bad
        In the order of the rows, one entry a row: its first bad column. All other rows together have scores, each of
        them that of the row alone.
    """
    return encoder_faults(detector.encoder_, rows)


def encoder_faults(encoder: Encoder, rows: Any) -> list[Bad]:
    """As :func:`faults`, for what decides it."""
    own = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    if isinstance(own, ImageEncoder):
        return _image_faults(own, rows)
    found: dict[int, Bad] = {}
    for bad in _cells(own, rows):
        found.setdefault(bad.row, bad)
    return [found[row] for row in sorted(found)]


def _cells(encoder: TableEncoder, rows: Any) -> Iterator[Bad]:
    """Bad cells, column by column."""
    frame = to_frame(rows)
    if frame is None:
        array = np.asarray(rows)
        if array.dtype != object and not any(column.coded for column in encoder.columns_):
            yield from _array_cells(encoder, array)
            return
        frame = pd.DataFrame(array, columns=encoder.names_)
    for column in encoder.columns_:
        yield from _column_cells(encoder, column, frame[column.name])


def _array_cells(encoder: TableEncoder, array: NDArray[Any]) -> Iterator[Bad]:
    if array.dtype.kind != "f":
        return
    infinite = np.isinf(array)
    if not infinite.any():
        return
    for column in encoder.columns_:
        at = encoder.names_.index(column.name)
        for row in np.flatnonzero(infinite[:, at]).tolist():
            yield Bad(row, str(column.name), INFINITE, str(array[row, at]))


def _column_cells(encoder: TableEncoder, column: Column, series: Any) -> Iterator[Bad]:
    if column.coded:
        yield from _refused(series, lambda part: codes(part, column.levels), column.name, "it is no level")
        return
    dtype = encoder.dtypes_[encoder.names_.index(column.name)]
    what = {"datetime": "a date", "duration": "a duration"}.get(dtype.role, "a number")
    with _quiet() if dtype.role == "datetime" and series.dtype == object else nullcontext():
        reads = _refused(series, lambda part: numbers(part, dtype, column.name), column.name, f"it is not {what}")
        refused = list(reads)
    yield from refused
    good = np.delete(np.arange(len(series)), [bad.row for bad in refused])
    infinite = np.isinf(numbers(series.iloc[good], dtype, column.name)) if len(good) else np.zeros(0, bool)
    for row in good[infinite].tolist():
        yield Bad(row, str(column.name), INFINITE, _shown(series.iloc[row]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what pandas says of text that is no date."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not infer format", UserWarning)
        yield


def _refused(series: Any, read: Callable[[Any], Any], name: Any, reason: str) -> Iterator[Bad]:
    """The cells that `read` raises an error for, found by halves."""
    waiting = [(0, len(series))]
    while waiting:
        start, stop = waiting.pop()
        try:
            read(series.iloc[start:stop])
        except (ValueError, TypeError, OverflowError):
            if stop - start == 1:
                yield Bad(start, str(name), reason, _shown(series.iloc[start]))
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]


def _image_faults(encoder: ImageEncoder, images: Any) -> list[Bad]:
    pixels = np.asarray(images)
    low, high = encoder.range_
    if not len(pixels) or (pixels.dtype == np.uint8 and low <= 0 and high >= 255):
        return []
    flat = pixels.reshape(len(pixels), -1)
    outside = ~((flat >= low) & (flat <= high))
    found = []
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        at = int(outside[row].argmax())
        where = tuple(int(i) for i in np.unravel_index(at, pixels.shape[1:]))
        lost = not np.isfinite(flat[row, at])
        reason = f"its pixel {where} is {'no number' if lost else f'outside of the {low:g} to {high:g} of training'}"
        found.append(Bad(row, "", reason, str(flat[row, at])))
    return found


def _shown(value: Any) -> str:
    return str(value)[:SHOWN]
