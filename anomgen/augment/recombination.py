"""New rows of a class made of its rows and of others: the tables they come from, and how they are mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from anomgen.encode import TableEncoder
from anomgen.encode.rows import decode_rows

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

NOISE = 0.2
"""Noise on numbers, in standard deviations of their class, of strength 1."""

TEXT = ("string", "mixed", "mixed-integer")
"""What pandas calls columns of text, or of text and numbers."""


class EncodedTable:
    """Rows of any container beside their coordinates in the space of the table encoder, and the way back.

    Columns of text are levels, however many values they have; those with nothing but missing values stay aside.

    Parameters
    ----------
    X : frame, ndarray or sparse matrix of shape (n, p)

    Attributes
    ----------
    rows : frame or ndarray
        What the encoder sees: dense, and a frame where cells are objects.
    values : ndarray of shape (n, columns)
        As :meth:`~anomgen.encode.TableEncoder.read` gives them.
    z : ndarray of shape (n, d)
        Coordinates.
    column : ndarray of shape (d,)
        Which column a coordinate belongs to.
    numeric : bool ndarray of shape (d,)
        Whether it is a number, which can be moved; levels and gaps can only be exchanged.
    gone : bool ndarray of shape (n, d)
        Where the column's value is missing.
    """

    def __init__(self, X: Any) -> None:
        self._given = X
        self.rows = _dense(X)
        frame = pd.DataFrame(self.rows)
        found = {name: pd.api.types.infer_dtype(column) for name, column in frame.items()}
        empty = [name for name in frame.columns if frame[name].isna().all()]
        levels = {name: "categorical" for name, kind in found.items() if kind in TEXT and name not in empty}
        self._encoder = TableEncoder(levels, empty).fit(self.rows)
        self.values = self._encoder.read(self.rows)
        self.z = self.encode(self.rows)
        coordinates = self._encoder.coordinates_
        self.column = np.array([j for j, _ in coordinates])
        self.numeric = np.array([role in ("real", "lattice") for _, role in coordinates])
        self.gone = np.isnan(self.values)[:, self.column]

    def encode(self, rows: Any) -> Array:
        """Coordinates of rows laid out as :attr:`rows`."""
        return self._encoder.encode(rows).z.astype(np.float64)

    def extended(self, z: Array) -> Any:
        """The rows that were given, as they came, and after them those at coordinates `z`."""
        found = decode_rows(self._encoder, z, codes=False)
        new = self._encoder.write(found, len(z))
        X = self._given
        if isinstance(X, pd.DataFrame):
            return pd.concat([self.rows, new[list(X.columns)].astype(self.rows.dtypes)], ignore_index=True)
        if isinstance(self.rows, pd.DataFrame):
            new = new.to_numpy(dtype=object)
        if sparse.issparse(X):
            return sparse.vstack([X, sparse.csr_array(new.astype(X.dtype))], format=X.format)
        return np.concatenate([X, new.astype(X.dtype)])


@dataclass(frozen=True)
class Recombination:
    """Draws of rows near a class's rows: see :class:`anomgen.GenerativeOverSampler` for the formula.

    Parameters
    ----------
    table : EncodedTable
    own : bool ndarray of shape (n,)
        Which rows are the class's.
    strength : float
        In (0, 1].
    """

    table: EncodedTable
    own: Bools
    strength: float

    def draw(self, sources: Integers, rng: np.random.Generator) -> Array:
        """Coordinates of one new row for each of the rows numbered `sources`, shape ``(len(sources), d)``."""
        table, n = self.table, len(sources)
        partners, strangers = (rng.choice(np.flatnonzero(side), n) for side in (self.own, ~self.own))
        step, share = rng.uniform(0.0, self.strength, (2, n, 1))
        a, b = table.z[sources], table.z[partners]
        noise = NOISE * self.strength * table.z[self.own].std(axis=0) * rng.standard_normal(a.shape)
        both = table.numeric & ~table.gone[sources] & ~table.gone[partners]
        near = np.where(both, a + step * (b - a) + noise, np.where(self._chosen(step, rng), b, a))
        return np.where(self._chosen(share, rng), table.z[strangers], near)

    def _chosen(self, share: Array, rng: np.random.Generator) -> Bools:
        """A random share of the columns of every row, as coordinates."""
        columns = rng.random((len(share), self.table.values.shape[1])) < share
        return np.asarray(columns[:, self.table.column])


def _dense(X: Any) -> Any:
    if isinstance(X, pd.DataFrame):
        held = {name: dtype for name, dtype in X.dtypes.items() if isinstance(dtype, pd.SparseDtype)}
        return X.astype({name: dtype.subtype for name, dtype in held.items()}) if held else X
    if sparse.issparse(X):
        return X.toarray()
    return pd.DataFrame(X) if X.dtype.kind in "OUS" else X
