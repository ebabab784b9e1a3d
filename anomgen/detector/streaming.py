"""Fits to files larger than memory: a sample of the rows decides what is decided once, and all of them train."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from anomgen.calibrate.conformal import uniforms
from anomgen.data import FileRows, Source
from anomgen.data.files import several
from anomgen.data.tables import frame_of
from anomgen.detector import fitting, sketch
from anomgen.detector.checks import FrameDigest, check_parameters
from anomgen.encode import Encoded

if TYPE_CHECKING:
    from anomgen.detector.base import Detector
    from anomgen.detector.trained import TrainedDetector

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

HELD_SHARE = 4
"""One row in so many of the sample is held out at most."""
BUFFER_CELLS = 1 << 24
"""Encoded numbers in the buffer at most: wide rows are mixed fewer at a time."""


@dataclass(frozen=True)
class Survey:
    """What one look at all rows tells.

    Parameters
    ----------
    count : int
        Rows.
    sample : DataFrame
        Rows drawn evenly from all of them, in order; all of them where they are few.
    numbers, keys : ndarray
        The number of every row of the sample, and the key that it was drawn by: the lowest ones are in the sample.
    digest, hashes
        See :mod:`anomgen.detector.sketch`.
    """

    count: int
    sample: pd.DataFrame
    numbers: Numbers
    keys: Array
    digest: str
    hashes: NDArray[np.uint64]


class Dealt:
    """Training rows in model space, dealt at random to files that each fit the buffer; passes read these in any order.

    Whatever the order of the rows was, any part of a pass is a random sample of them; and rows are read from their own
    files, and encoded, once.

    Parameters
    ----------
    folder : Path
        Where to put the files.
    count : int
        Rows there are to train on; no more have to be added than the schedule looks at.
    sample : Encoded
        Some of them.
    buffer_rows : int
        Rows mixed at a time; fewer where they are wide.
    seed : int
        Decides who gets which row, and the orders of the files.
    """

    def __init__(self, folder: Path, count: int, sample: Encoded, buffer_rows: int, seed: int) -> None:
        self.folder, self.count, self.sample, self.seed = folder, count, sample, seed
        self.mixed = min(buffer_rows, max(BUFFER_CELLS // sample.z.shape[1], 2))
        self.files: list[Path] = []
        self._parts = 1 if sample.low is sample.z else 3
        self._random = np.random.default_rng([seed, 7])

    def __len__(self) -> int:
        return self.count

    def deal(self, blocks: Iterable[Encoded], count: int) -> int:
        """Write blocks of about `count` rows in all, and count them.

        Raises
        ------
        OSError
            If there is not enough room for them.
        """
        self._check_room(count)
        self.files = [self.folder / f"{number}.f32" for number in range(max(2 * count // self.mixed, 1))]
        written = 0
        for block in blocks:
            written += len(block)
            numbers = np.hstack([block.z, block.low, block.high][: self._parts])
            given = self._random.integers(len(self.files), size=len(numbers))
            order = np.argsort(given, kind="stable")
            ends = np.searchsorted(given[order], np.arange(len(self.files) + 1))
            for path, start, end in zip(self.files, ends[:-1], ends[1:], strict=True):
                # Opened anew each time: there may be more of them than a process may hold open.
                with path.open("ab") as file:
                    file.write(numbers[order[start:end]].tobytes())
        return written

    def blocks(self, number: int) -> Iterator[Encoded]:
        """The rows that were dealt; each pass has an order of its own."""
        width, parts = self.sample.z.shape[1], self._parts
        for at in np.random.default_rng([self.seed, 8, number]).permutation(len(self.files)):
            held = np.fromfile(self.files[at], np.float32).reshape(-1, parts * width)
            z, *bounds = (np.ascontiguousarray(part) for part in np.hsplit(held, parts))
            # Training asks for no log-determinants.
            yield Encoded(z, np.zeros(len(z)), *(bounds or (z, z)))

    def _check_room(self, count: int) -> None:
        needed, free = 4 * self._parts * self.sample.z.shape[1] * count, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"{count:,} rows take {needed / 1e9:.1f} GB in {self.folder.parent}, where {free / 1e9:.1f} GB are "
                "left; set the environment variable TMPDIR to a folder with more room"
            )


def passes_by(X: Any) -> bool:
    """Whether rows are read from files as they are needed."""
    return isinstance(X, Source | FileRows)


def sample_of(detector: Detector, X: Any) -> Any:
    """Rows drawn evenly from files, for a model that looks at no more of them; few rows, and arrays, are read whole."""
    if isinstance(X, Source) and not X.names:
        return X.read()
    rows = _file_rows(X)
    return survey(rows, _seed(detector), detector.exclude).sample


def fit(detector: TrainedDetector, X: Any, y: Any, sample_weight: Any, X_val: Any) -> None:
    """Fit a detector to the rows of files."""
    check_parameters(type(detector).__name__, detector.get_params(deep=False))
    if isinstance(X, Source) and not X.names:
        detector.fit(X.read(), y, sample_weight, X_val=X_val)
        return
    given = "y" if y is not None else "sample_weight" if sample_weight is not None else None
    if given is not None:
        raise ValueError(f"{given}= does not go with rows that are read from files: make it a column, or read the rows")
    held_out = sample_of(detector, X_val) if passes_by(X_val) else X_val
    rows, seed = _file_rows(X), _seed(detector)
    known = survey(rows, seed, detector.exclude)
    if known.count == len(known.sample):
        detector.fit(known.sample, X_val=held_out)
    else:
        _fit_passing(detector, rows, known, seed, held_out)


def _fit_passing(detector: TrainedDetector, rows: FileRows, known: Survey, seed: int, X_val: Any) -> None:
    """Fit to more rows than the sample has: those of the lowest keys are held out, the others train."""
    continued = detector.warm_start and hasattr(detector, "model_")
    with _numbered(known.numbers):
        sample, _ = fitting.prepare(detector, known.sample, None, None, reset=not continued, minimum=2)
        if not continued:
            fitting.begin(detector, sample, None)
        encoded = _encode(detector, sample)
    fitting.remember(detector, known.digest, known.hashes)
    held_out, bound, held = None, 0.0, 0
    if X_val is not None:
        X_val = detector._validated_pair(X_val, images=False)
        held_out = _encode(detector, X_val)
        fitting.remember(detector, known.digest, sketch.identity(X_val, detector.n_features_in_)[1])
    elif (held := _held(detector, known)) > 0:
        bound = float(np.partition(known.keys, held - 1)[held - 1])
        held_out = encoded.take(np.flatnonzero(known.keys <= bound))
    trained = encoded.take(np.flatnonzero(known.keys > bound))
    with TemporaryDirectory(prefix="anomgen-") as folder:
        dealt = Dealt(Path(folder), known.count - held, trained, rows.buffer_rows, seed)
        used = fitting.rows_used(detector, len(dealt))
        # Keys are uniform, so that about as many rows have keys up to here as train; rather some more.
        last = bound + (1.0 - bound) * (used + 5.0 * used**0.5) / len(dealt) if used < len(dealt) else 1.0
        written = dealt.deal(_blocks(detector, rows, seed, bound, last), used)
        if used == len(dealt) != written:
            raise ValueError(f"{rows} changed while it was read: it had {known.count:,} rows")
        fitting.learn_passing(detector, dealt, held_out, sample, encoded)


def _held(detector: TrainedDetector, known: Survey) -> int:
    """How many rows are held out: a share of all, as far as the sample goes."""
    held = min(round(detector.validation_fraction * known.count), len(known.sample) // HELD_SHARE)
    return held if held >= fitting.MIN_HELD_OUT else 0


def _blocks(detector: TrainedDetector, rows: FileRows, seed: int, first: float, last: float) -> Iterator[Encoded]:
    """The rows whose keys are above `first` and not above `last`."""
    for numbers, table in rows.in_order():
        keys = uniforms(seed, numbers)
        kept = np.flatnonzero((keys > first) & (keys <= last))
        if len(kept):
            with _numbered(numbers[kept]):
                block = _encode(detector, frame_of(table.take(kept), 0))
            yield block


def survey(rows: FileRows, seed: int, exclude: Any = ()) -> Survey:
    """Look at all rows once.

    Raises
    ------
    ValueError
        For an infinite number outside the columns of `exclude`, naming column and row.
    """
    lowest, digest = _Lowest(rows.sample_rows), FrameDigest()
    hashes = np.zeros(0, dtype=np.uint64)
    count = 0
    for numbers, table in rows.in_order():
        if not len(numbers):
            continue
        frame = frame_of(table, 0)
        _check_finite(frame, numbers, exclude, rows)
        digest.add(frame)
        hashes = sketch.smallest(hashes, sketch.row_hashes(frame))
        lowest.add(uniforms(seed, numbers), numbers, table)
        count += len(numbers)
    keys, at, table = lowest.rows()
    return Survey(count, frame_of(table, 0), at, keys, digest.hexdigest(), hashes)


class _Lowest:
    """The rows of the lowest keys among all that were added, in their order."""

    def __init__(self, most: int) -> None:
        self.most, self.bound, self.held = most, np.inf, 0
        self.parts: list[tuple[Array, Numbers, Any]] = []

    def add(self, keys: Array, numbers: Numbers, table: Any) -> None:
        kept = np.flatnonzero(keys < self.bound)
        if len(kept):
            self.parts.append((keys[kept], numbers[kept], table.take(kept)))
            self.held += len(kept)
        if self.held > 2 * self.most:
            self.rows()

    def rows(self) -> tuple[Array, Numbers, Any]:
        import pyarrow as pa

        keys, numbers = (np.concatenate([part[i] for part in self.parts]) for i in (0, 1))
        table = pa.concat_tables([part[2] for part in self.parts])
        if len(keys) > self.most:
            kept = np.sort(np.argpartition(keys, self.most - 1)[: self.most])
            keys, numbers, table = keys[kept], numbers[kept], table.take(kept)
            self.bound = float(keys.max())
        self.parts, self.held = [(keys, numbers, table)], len(keys)
        return self.parts[0]


def _check_finite(frame: pd.DataFrame, numbers: Numbers, exclude: Any, rows: FileRows) -> None:
    for name in frame.columns:
        if name not in exclude and pd.api.types.is_float_dtype(frame[name].dtype):
            infinite = np.flatnonzero(np.isinf(frame[name].to_numpy(dtype=np.float64, na_value=np.nan)))
            if len(infinite):
                raise ValueError(
                    f"{several(rows.source.files)}: column {name!r}, row {numbers[infinite[0]]} is infinite (rows are "
                    "counted from 0 through all files); replace it by a number or by a missing value"
                )


@contextmanager
def _numbered(numbers: Numbers) -> Iterator[None]:
    """Name rows in errors by their number in the files."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"\brow (\d+)", lambda found: f"row {numbers[int(found[1])]}", str(error))
        raise type(error)(text) from error


def _encode(detector: Detector, rows: Any) -> Encoded:
    encoded: Encoded = detector.encoder_.encode(rows, cells=True, codes=detector.model_.codes)
    return encoded


def _file_rows(X: Any) -> FileRows:
    return X if isinstance(X, FileRows) else FileRows(X)


def _seed(detector: Detector) -> int:
    return int(check_random_state(detector.random_state).randint(2**31 - 1))
