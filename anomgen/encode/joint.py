"""Rows and the conditions they are modelled under, as coordinates of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgen.encode.columns import Column
from anomgen.encode.frame import Dtype, Name, to_frame
from anomgen.encode.image import ImageEncoder
from anomgen.encode.rows import Encoded
from anomgen.encode.table import TableEncoder

Array = NDArray[np.float64]

MAX_LEVELS = 20
"""Distinct values up to which a numeric condition is taken for a label."""
MAX_CONDITIONS = 64
"""Combinations of conditions that a likelihood is summed over at most; of more, as many training rows stand for all."""


@dataclass(frozen=True)
class Labelled:
    """Images beside their labels; indexing takes both."""

    images: Any
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Labelled:
        return Labelled(self.images[rows], self.labels[rows])


class JointEncoder:
    """Encode rows by one encoder and their conditions by another; conditions are the last coordinates.

    Levels of conditions become their numbers, numbers are standardized; neither costs nats.

    Parameters
    ----------
    kinds, exclude
        As for :class:`TableEncoder`.
    condition : sequence of column
        Names, or positions in arrays, of the columns that are given.
    label : str, optional
        The one among `condition` that is no column of the rows but comes beside them.
    array : bool
        Whether rows that come as a frame with a label are an array without it.
    images : ImageEncoder, optional
        The unfitted encoder of the rows where they are images; `label` is then the only condition.
    """

    rows_: TableEncoder | ImageEncoder
    given_: TableEncoder
    bank_: NDArray[np.float32]
    shares_: Array

    def __init__(
        self,
        kinds: Mapping[Any, str] | None,
        exclude: Sequence[Any],
        condition: Sequence[Any],
        label: str | None = None,
        array: bool = False,
        images: ImageEncoder | None = None,
    ) -> None:
        self.images = images
        self.kinds, self.exclude, self.condition = dict(kinds or {}), tuple(exclude), tuple(condition)
        self.label, self.array = label, array

    def fit(self, x: Any, weight: Array | None = None) -> JointEncoder:
        """Decide on all columns, and remember how often each combination of conditions occurs.

        Raises
        ------
        ValueError
            As :meth:`TableEncoder.fit`; also for unknown names and for missing values among the conditions.
        """
        own, given = self._parts(x)
        for name in given:
            if given[name].isna().any():
                raise ValueError(
                    f"condition {name!r} is missing in row {int(given[name].isna().to_numpy().argmax())}; leave such "
                    "rows out, or fill in a level of their own"
                )
        columns = tuple(name for name in self.condition if name != self.label)
        kinds = {name: kind for name, kind in self.kinds.items() if name not in self.condition}
        rows = self.images or TableEncoder(kinds, (*self.exclude, *columns))
        self.rows_ = rows.fit(own, weight)
        wanted = {name: self._kind(given[name]) for name in given}
        self.given_ = TableEncoder({name: kind for name, kind in wanted.items() if kind is not None})
        self.given_.fit(given, weight)
        found = self.given_.encode(given, codes=True).z
        self.bank_, at = np.unique(found, axis=0, return_inverse=True)
        self.shares_ = np.bincount(at.ravel(), weights=weight) / (len(found) if weight is None else weight.sum())
        if len(self.bank_) > MAX_CONDITIONS:
            some = np.random.default_rng(0).choice(len(self.bank_), MAX_CONDITIONS, p=self.shares_)
            self.bank_, self.shares_ = self.bank_[some], np.full(MAX_CONDITIONS, 1.0 / MAX_CONDITIONS)
        return self

    def _kind(self, series: pd.Series) -> str | None:
        wanted = self.kinds.get(series.name)
        few = 1 < series.nunique() <= MAX_LEVELS
        return wanted or ("categorical" if few else None)

    @property
    def dim(self) -> int:
        """Number of coordinates, conditions included."""
        return self.rows_.dim + self.given_.dim

    @property
    def container_(self) -> str:
        """What rows come in: ``"frame"`` or ``"array"``."""
        return self.rows_.container_

    @property
    def names_(self) -> list[Name]:
        """All columns of the rows, those that are conditions too."""
        return self.rows_.names_

    @property
    def columns_(self) -> list[Column]:
        """The columns that are modelled, as they were understood."""
        return self.rows_.columns_

    @property
    def dtypes_(self) -> list[Dtype]:
        """What all columns of the rows hold."""
        return self.rows_.dtypes_

    def layout(self) -> dict[str, Any]:
        """The fields of the model's ``Space``."""
        own, given = self.rows_.layout(), self.given_.layout()
        both = {key: own[key] + given[key] for key in own if key != "shape"}
        condition = (False,) * self.rows_.dim + (True,) * self.given_.dim
        shape = own["shape"] if isinstance(self.rows_, ImageEncoder) else (self.dim,)
        return {**both, "shape": shape, "condition": condition}

    def encode(self, x: Any, cells: bool = False, codes: bool = False, given: pd.DataFrame | None = None) -> Encoded:
        """Encode rows, as :meth:`TableEncoder.encode`.

        Conditions are those in `given`; without it those of the training rows if bounds are asked for, else the first
        known ones stand in for conditions to be filled in.

        Raises
        ------
        ValueError
            For a condition that training did not have.
        """
        if given is None and cells:
            x, given = self._parts(x)
        own = self.rows_.encode(x, cells, codes)
        places = np.repeat(self.bank_[:1], len(own), axis=0) if given is None else self.encode_given(given)
        z = np.hstack([own.z, places])
        if own.low is own.z:
            return Encoded(z, own.log_det, z, z, own.box)
        return Encoded(z, own.log_det, np.hstack([own.low, places]), np.hstack([own.high, places]))

    def encode_given(self, given: pd.DataFrame) -> NDArray[np.float32]:
        """Coordinates of conditions, shape ``(n, k)``.

        Raises
        ------
        ValueError
            Naming condition, row and value of a missing one, or of a level that training did not have.
        """
        z = self.given_.encode(given, codes=True).z
        levels = {k: len(edges) for k, edges in enumerate(self.given_.layout()["edges"]) if edges}
        for k, (j, _) in enumerate(self.given_.coordinates_):
            column = self.given_.columns_[j]
            wrong = np.isnan(z[:, k]) | (z[:, k] >= levels.get(k, np.inf))
            if wrong.any():
                row = int(wrong.argmax())
                known = f"; known are {', '.join(map(repr, column.levels[:10]))}" if k in levels else ""
                raise ValueError(
                    f"condition {column.name!r} is {given[column.name].iloc[row]!r} in row {row}, which training did "
                    f"not have{known}"
                )
        return z

    def decode(self, z: NDArray[Any], codes: bool = False) -> Any:
        """Rows as :meth:`TableEncoder.decode` gives them, with the columns among the conditions filled in."""
        own = self.rows_.decode(z[:, : self.rows_.dim], codes)
        given = self.given_.decode(z[:, self.rows_.dim :], codes=True)
        for name in self.condition:
            if name == self.label:
                continue
            if isinstance(own, pd.DataFrame):
                own[name] = given[name]
            else:
                own[:, self.rows_.names_.index(name)] = given[name]
        return own

    def describe(self) -> list[dict[str, Any]]:
        """One row a column: what it was taken for and why."""
        given = {row["column"]: row for row in self.given_.describe()}
        own = {row["column"]: row for row in self.rows_.describe()}
        told = {name: {**row, "reason": f"condition; {row['reason']}"} for name, row in given.items()}
        return list({**own, **told}.values())

    def state(self) -> dict[str, Any]:
        """Everything learned, as JSON values."""
        return {
            "kinds": [[name, kind] for name, kind in self.kinds.items()],
            "exclude": list(self.exclude),
            "condition": list(self.condition),
            "label": self.label,
            "array": self.array,
            "rows": self.rows_.state(),
            "given": self.given_.state(),
            "bank": self.bank_.tolist(),
            "shares": self.shares_.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> JointEncoder:
        """The encoder that :meth:`state` described."""
        encoder = cls(dict(state["kinds"]), state["exclude"], state["condition"], state["label"], state["array"])
        rows = encoder_from_state(state["rows"])
        assert not isinstance(rows, JointEncoder)
        encoder.rows_ = rows
        encoder.given_ = TableEncoder.from_state(state["given"])
        encoder.bank_ = np.array(state["bank"], dtype=np.float32)
        encoder.shares_ = np.array(state["shares"], dtype=np.float64)
        return encoder

    def _parts(self, x: Any) -> tuple[Any, pd.DataFrame]:
        """Rows without a label beside them, and their conditions as a frame."""
        if isinstance(x, Labelled):
            return x.images, pd.DataFrame({self.label: x.labels})
        frame = to_frame(x)
        columns: list[Name] = list(range(x.shape[1])) if frame is None else list(frame.columns)
        unknown = [name for name in self.condition if name not in columns]
        if unknown:
            raise ValueError(f"condition= names {unknown[0]!r}, which is not a column; columns are {columns[:10]}")
        if frame is None:
            return x, pd.DataFrame({name: np.asarray(x)[:, name] for name in self.condition})
        given = frame[list(self.condition)].reset_index(drop=True)
        if self.label is None:
            return frame, given
        own = frame.drop(columns=self.label)
        return (own.to_numpy() if self.array else own), given


def image_encoder(encoder: TableEncoder | ImageEncoder | JointEncoder) -> ImageEncoder | None:
    """What encodes the images, where rows are images, with or without conditions."""
    rows = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    return rows if isinstance(rows, ImageEncoder) else None


def encoder_from_state(state: Mapping[str, Any]) -> TableEncoder | ImageEncoder | JointEncoder:
    """The encoder that `state` describes, whichever it is."""
    if "image" in state:
        return ImageEncoder.from_state(state)
    return JointEncoder.from_state(state) if "given" in state else TableEncoder.from_state(state)
