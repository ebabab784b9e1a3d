"""The columns of exported tables: types as in a file, and columns that say the rows are synthetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomgen.augment.draw import Drawn
from anomgen.augment.given import known
from anomgen.data import open_source
from anomgen.detector import Detector
from anomgen.encode import JointEncoder, TableEncoder
from anomgen.encode.frame import Dtype, build_series
from anomgen.jobs.errors import SchemaError

MARKS = ("synthetic", "seed", "model_id")
"""Columns that every export has beside those of the rows."""


class Layout:
    """How drawn rows become Arrow tables of one schema.

    Parameters
    ----------
    detector : Detector
        Fitted on a table.
    marks : mapping of str to value
        The values of :data:`MARKS`.
    like : path, optional
        A file whose columns, their order and their types the tables have. Those that the training rows did not have,
        such as a label, are left out: `left_out`. Labels given beside these rows are added if the file has none.

    Raises
    ------
    SchemaError
        If the model draws a column that is not in `like`, or one that no file can hold.
    ValueError
        If a column has the name of a mark.
    """

    def __init__(self, detector: Detector, marks: Mapping[str, Any], like: str | Path | None = None) -> None:
        import pyarrow as pa

        encoder = detector.encoder_
        self.marks = dict(marks)
        self.array = encoder.container_ == "array"
        self.names = [f"x{name}" if self.array else str(name) for name in encoder.names_]
        fields = [
            pa.field(name, _type_of(dtype, name)) for name, dtype in zip(self.names, encoder.dtypes_, strict=True)
        ]
        self.label: str | None = None
        if isinstance(encoder, JointEncoder) and encoder.label is not None:
            self.label = encoder.label
            fields.append(pa.field(self.label, _label_type(encoder.given_, self.label)))
        self._check_free([field.name for field in fields])
        self.like, self.left_out = None if like is None else str(like), ()
        if like is not None:
            fields = self._as_in(open_source(like).target, fields, set(known(detector)))
        self.own = tuple(field.name for field in fields)
        own = {"synthetic": pa.bool_(), "seed": pa.int64(), "model_id": pa.string()}
        self.schema = pa.schema([*fields, *(pa.field(name, own[name]) for name in MARKS)])

    @property
    def types(self) -> dict[str, str]:
        """Arrow types as text."""
        return {field.name: str(field.type) for field in self.schema}

    def table(self, drawn: Drawn) -> Any:
        """The rows as a table of the schema.

        Raises
        ------
        SchemaError
            If a value does not fit its type, naming the column.
        """
        import pyarrow as pa

        rows = drawn.rows
        columns: dict[str, Any] = {
            name: rows.iloc[:, j] if isinstance(rows, pd.DataFrame) else pd.Series(rows[:, j])
            for j, name in enumerate(self.names)
        }
        if self.label is not None:
            columns[self.label] = pd.Series(drawn.labels)
        n = len(drawn.numbers)
        arrays = [self._fitted(columns[name], self.schema.field(name)) for name in self.own]
        arrays += [pa.repeat(pa.scalar(self.marks[name], self.schema.field(name).type), n) for name in MARKS]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _check_free(self, names: list[str]) -> None:
        for name in MARKS:
            if name in names:
                raise ValueError(
                    f"the rows have a column {name!r}, where an export says that rows are synthetic; rename it in the "
                    "training rows"
                )

    def _as_in(self, target: Any, fields: list[Any], drawn: set[str]) -> list[Any]:
        """Of the fields of another file those that the rows have, which are at least those that are `drawn`."""
        if target is None:
            raise SchemaError(f"{self.like} holds an array, which has no columns to be like; name a table")
        missing = sorted(drawn - set(target.names))
        if missing:
            raise SchemaError(
                f"{self.like} has no column {missing[0]!r}, which the model draws; name a file with all of its columns"
            )
        own = {field.name for field in fields}
        self.left_out = tuple(name for name in target.names if name not in own)
        beside = [field for field in fields if field.name == self.label and field.name not in target.names]
        return [field.remove_metadata() for field in target if field.name in own] + beside

    def _fitted(self, series: Any, field: Any) -> Any:
        import pyarrow as pa

        try:
            array = cast_column(series, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            where = "" if self.like is None else f" that it has in {self.like}"
            raise SchemaError(
                f"column {field.name!r} was drawn with a value that does not fit the type {field.type}{where}: "
                f"{error}; draw whole numbers by Integer({field.name!r}), bound it by Range, or give another like="
            ) from None
        if array.null_count and not field.nullable:
            raise SchemaError(
                f"column {field.name!r} may not be missing in {self.like}, but was in a drawn row; constrain it by "
                f"Where, or give another like="
            )
        return array


def _type_of(dtype: Dtype, name: str) -> Any:
    """The Arrow type that a column is stored as without a file to be like."""
    import pyarrow as pa

    if dtype.text == "decimal":
        # Python's decimals have no one precision.
        return pa.float64()
    one: Any = np.array([0.0]) if dtype.role != "category" else np.array([*dtype.levels[:1], "text"][:1], dtype=object)
    try:
        found = _arrow(build_series(one, dtype)).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"column {name!r} holds levels of several types, which no file can hold: {error}") from None
    if pa.types.is_dictionary(found):
        return pa.dictionary(found.index_type, _plain(found.value_type), found.ordered)
    return _plain(found)


def _plain(found: Any) -> Any:
    """Text of up to 2 GiB: what pandas stores it as, not every reader knows."""
    import pyarrow as pa

    return pa.string() if pa.types.is_large_string(found) else found


def _label_type(encoder: TableEncoder, label: str) -> Any:
    """The type of labels that came beside the rows."""
    import pyarrow as pa

    dtype = encoder.dtypes_[encoder.names_.index(label)]
    levels = next(column.levels for column in encoder.columns_ if column.name == label)
    # Labels that are objects are told by what they are.
    return pa.array(list(levels)).type if dtype.text == "object" and levels else _type_of(dtype, label)


def cast_column(series: Any, kind: Any) -> Any:
    """A column as an array of a type, or an Arrow error."""
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        series = pd.Series(series.to_numpy(np.float64, na_value=np.nan))
    array = _arrow(series)
    if array.type == kind:
        return array
    if pa.types.is_dictionary(array.type) and pa.types.is_dictionary(kind):
        # The levels as they are known, those that were not drawn too.
        return pa.DictionaryArray.from_arrays(
            array.indices.cast(kind.index_type), array.dictionary.cast(kind.value_type), ordered=kind.ordered
        )
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_dictionary(kind):
        return array.cast(kind.value_type).dictionary_encode().cast(kind)
    return array.cast(kind, safe=not _coarser(array.type, kind))


def _arrow(series: Any) -> Any:
    """A column as an array of the type that it has."""
    import pyarrow as pa

    zone = getattr(series.dtype, "tz", None)
    if zone is not None:
        # Arrow reads such a column in a way that pandas is about to drop; times without a zone are taken for UTC.
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    array = pa.Array.from_pandas(series)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array if zone is None else array.cast(pa.timestamp(array.type.unit, str(zone)))


def _coarser(one: Any, other: Any) -> bool:
    """Whether times of one type are cut off to be times of the other."""
    import pyarrow as pa

    steps = ["ns", "us", "ms", "s"]
    if pa.types.is_timestamp(one) and pa.types.is_date(other):
        return True
    if pa.types.is_temporal(one) and type(one) is type(other) and hasattr(one, "unit"):
        return steps.index(other.unit) > steps.index(one.unit)
    return False
