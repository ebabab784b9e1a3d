"""The log-determinant of rows, column by column."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from anomgen.encode.rows import allocate, encode_rows
from anomgen.encode.table import TableEncoder


def log_det_shares(encoder: TableEncoder, values: NDArray[np.float64], codes: bool = False) -> NDArray[np.float64]:
    """What each column adds to the log-determinant of each row.

    Parameters
    ----------
    encoder : TableEncoder
        A fitted one.
    values : ndarray of shape (n, columns that are modelled)
        What :meth:`TableEncoder.read` made of rows.
    codes : bool
        As in :meth:`TableEncoder.encode`.

    Returns
    -------
    ndarray of the shape of `values`
        In nats; rows sum to the ``log_det`` of the encoded rows.
    """
    shares = np.empty(values.shape)
    for j, column in enumerate(encoder.columns_):
        # The encoder of a table that has this column only says what it adds.
        alone = copy.copy(encoder)
        alone.columns_ = [column]
        alone._compile()
        into = allocate(alone, len(values), cells=False)
        encode_rows(alone, values[:, [j]], into, 0, codes)
        shares[:, j] = into.log_det
    return shares
