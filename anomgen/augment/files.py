"""Files of rows completed or repaired, and of anomalies made for tests: what fits in memory, written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomgen.augment.columns import Columns
from anomgen.augment.layout import cast_column
from anomgen.data import Source, open_source
from anomgen.data.files import Paths
from anomgen.detector import Detector
from anomgen.jobs.whole import write_whole

DRAW = "draw"
"""Column that numbers the draws, where several are written."""
REPAIRS = {"score_before": "double", "score_after": "double", "reached": "bool", "changed": "string"}
"""Columns of a file of repaired rows, beside their own."""


@dataclass(frozen=True)
class Filled:
    """What filling the gaps of a file did.

    Parameters
    ----------
    rows : int
        Rows read.
    incomplete : int
        Those of them with a gap.
    filled : int
        Values filled, of one draw.
    draws : int
    method : str
        How the values were drawn, see :class:`anomgen.detector.completion.Completed`.
    effective : float or None
        Median of the candidates that share the weight of a row with a gap; None where draws are exact or not counted.
    """

    rows: int
    incomplete: int
    filled: int
    draws: int
    method: str
    effective: float | None


@dataclass(frozen=True)
class Mended:
    """What repairing the rows of a file did.

    Parameters
    ----------
    rows : int
        Rows read.
    anomalies : int
        Rows that the detector flags.
    reached : int
        Those of them that are likely now.
    changed : dict of str to int
        How many rows were changed in each column, the most frequent first; empty for images.
    """

    rows: int
    anomalies: int
    reached: int
    changed: dict[str, int]


def impute_file(
    detector: Detector, path: Paths, out: str | Path, *, draws: int = 1, seed: int = 0, overwrite: bool = False
) -> Filled:
    """Fill the gaps in the rows of files by draws from the model; see :meth:`anomgen.Detector.impute`.

    Parameters
    ----------
    detector : Detector
    path : path, pattern, or sequence of them
        CSV, NDJSON or Parquet files, or npz files; read whole, for what is drawn depends on a row's position.
    out : path
        A ``.csv`` or ``.parquet`` file of all columns of the input, with their types; or ``.npz`` with the array ``X``.
    draws : int
        With several, all rows are written so often, and a column (of npz files the first axis) tells the draw.
    seed : int
    overwrite : bool
        Whether a file found at `out` may be replaced.

    Returns
    -------
    Filled

    Raises
    ------
    ValueError
        If `out` is of another kind than the rows, or what the model says of the rows.
    FileExistsError
        If there is a file at `out`.
    """
    read = _Read(detector, path, Path(out), overwrite, [DRAW] if draws > 1 else [])
    completed = detector.impute(read.rows, random_state=seed, draws=draws)
    versions = completed.rows if draws > 1 else [completed.rows]
    gaps = _gaps(read.rows)
    if draws == 1:
        read.write(versions, [{}])
    else:
        read.write(versions, [{DRAW: number} for number in range(draws)], {DRAW: "int64"})
    weights = completed.effective[np.isfinite(completed.effective)]
    return Filled(
        rows=len(gaps),
        incomplete=int(gaps.any(axis=1).sum()),
        filled=int(gaps.sum() - _gaps(versions[0]).sum()),
        draws=draws,
        method=completed.method,
        effective=float(np.median(weights)) if len(weights) else None,
    )


def repair_file(
    detector: Detector, path: Paths, out: str | Path, *, seed: int = 0, sparse: bool = True, overwrite: bool = False
) -> Mended:
    """Replace the anomalies in files by the nearest likely rows; see :meth:`anomgen.Detector.repair`.

    Parameters
    ----------
    detector : Detector
    path : path, pattern, or sequence of them
        CSV, NDJSON or Parquet files, or npz files; read whole.
    out : path
        A ``.csv`` or ``.parquet`` file of all columns of the input and ``score_before``, ``score_after``, ``reached``
        and ``changed``, the names of the columns that are others; or ``.npz`` with the array ``X`` and these.
    seed : int
    sparse : bool
        Whether few columns are to change.
    overwrite : bool
        Whether a file found at `out` may be replaced.

    Returns
    -------
    Mended

    Raises
    ------
    ValueError
        If `out` is of another kind than the rows, or what the model says of the rows.
    FileExistsError
        If there is a file at `out`.
    """
    read = _Read(detector, path, Path(out), overwrite, list(REPAIRS))
    repaired = detector.repair(read.rows, random_state=seed, sparse=sparse)
    changed = np.asarray(repaired.changed, dtype=bool)
    found = {
        "score_before": repaired.before,
        "score_after": repaired.after,
        "reached": repaired.reached,
        "changed": changed if read.names is None else [", ".join(np.array(read.names)[row]) for row in changed],
    }
    read.write([repaired.rows], [found], REPAIRS)
    bad = repaired.before < detector.offset_
    names = read.names or [f"x{j}" for j in range(changed.shape[1])]
    counts = dict(zip(names, changed.sum(axis=0).tolist(), strict=True)) if changed.ndim == 2 else {}
    return Mended(
        rows=len(bad),
        anomalies=int(bad.sum()),
        reached=int((bad & repaired.reached).sum()),
        changed={name: count for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count},
    )


class _Read:
    """Files read whole: the rows as the detector takes them, and all their columns to write back."""

    def __init__(self, detector: Detector, path: Paths, out: Path, overwrite: bool, new: Sequence[str]) -> None:
        self.out = out
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} exists; name another file, or ask to overwrite")
        self.source: Source = open_source(path)
        kinds = (".csv", ".parquet") if self.source.names else (".npz",)
        if out.suffix not in kinds:
            raise ValueError(f"{out}: unknown kind of file; these rows are written to {' or '.join(kinds)}")
        taken = next((name for name in new if name in self.source.names), None)
        if taken is not None:
            raise ValueError(f"the rows have a column {taken!r}, which is written beside them; rename it")
        self.whole: Any = self.source.read()
        self.names: list[str] | None = None
        self.rows: Any = self.whole
        if self.source.names:
            columns = Columns(detector)
            own = [f"x{name}" if columns.array else str(name) for name in getattr(columns, "dtypes", ())]
            self.names = [name for name in own if name in self.source.names]
            self.rows = self.whole[self.names]
            if columns.array:
                self.rows = self.rows.to_numpy(np.float64, na_value=np.nan)

    def write(
        self,
        versions: Sequence[Any],
        beside: Sequence[Mapping[str, Any]],
        types: Mapping[str, str] | None = None,
    ) -> None:
        """Versions of the rows one after the other, each with values of new columns."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.names is None:
            arrays = {"X": np.stack(versions) if len(versions) > 1 else versions[0]}
            if len(versions) == 1:
                arrays |= {name: np.asarray(values) for name, values in beside[0].items()}
            write_whole(self.out, partial(_write_arrays, arrays))
            return
        import pyarrow as pa

        schema = pa.schema([*self.source.target, *((name, _arrow(kind)) for name, kind in (types or {}).items())])
        tables = [self._table(rows, values, schema) for rows, values in zip(versions, beside, strict=True)]
        write_whole(self.out, partial(_write_table, pa.concat_tables(tables), self.out.suffix))

    def _table(self, rows: Any, values: Mapping[str, Any], schema: Any) -> Any:
        import pyarrow as pa

        frame = self.whole.copy(deep=False)
        for place, name in enumerate(self.names or ()):
            frame[name] = rows[name] if isinstance(rows, pd.DataFrame) else rows[:, place]
        frame = frame.assign(**values)
        return pa.Table.from_arrays([cast_column(frame[field.name], field.type) for field in schema], schema=schema)


def _gaps(rows: Any) -> Any:
    """Which values are missing, a line for each row."""
    missing = rows.isna().to_numpy() if isinstance(rows, pd.DataFrame) else np.isnan(np.asarray(rows, dtype=float))
    return missing.reshape(len(missing), -1)


def _arrow(kind: str) -> Any:
    import pyarrow as pa

    return {"double": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "int64": pa.int64()}[kind]


def _write_arrays(arrays: Mapping[str, Any], place: Path) -> None:
    with place.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_table(table: Any, suffix: str, place: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    if suffix == ".parquet":
        pq.write_table(table, place, compression="zstd")
        return
    plain = [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    pc.write_csv(table.cast(pa.schema(plain)), place)
