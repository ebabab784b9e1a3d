"""Which columns make a row of a table surprising."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen import runtime
from anomgen.encode import ImageEncoder, JointEncoder, TableEncoder
from anomgen.encode.shares import log_det_shares
from anomgen.generative import GenerativeModel, Rows, abilities

Array = NDArray[np.float64]

MAX_JUDGED = 2_048
"""Rows that tell what a column usually costs, at most."""


def missing_for_columns(model: GenerativeModel, encoder: TableEncoder | ImageEncoder | JointEncoder) -> str:
    """Why the model cannot tell columns apart; empty where it can."""
    if isinstance(encoder, ImageEncoder):
        return "it was fitted on images, which have no columns: score_map tells where an image is surprising"
    if "log_prob_terms" not in abilities(model):
        return "its model has one likelihood for the whole row; an AutoregressiveDetector has one for every column"
    return "its rows are modelled given conditions" if isinstance(encoder, JointEncoder) else ""


def contributions(model: GenerativeModel, encoder: TableEncoder, rows: Any, usual: Array | None = None) -> pd.DataFrame:
    r"""What every column adds to minus the log-likelihood of every row.

    A column's share is :math:`-\log p(x_j \mid \text{columns before it})`, the mask for missing values and the
    encoder's own log-determinant included, averaged as the model averages its orders.

    Parameters
    ----------
    model : GenerativeModel
        With ``log_prob_terms``.
    encoder : TableEncoder
        The fitted one.
    rows : frame or array of shape (n, p)
    usual : ndarray of shape (columns,), optional
        What columns usually cost, see :func:`usual_nats`; taken off where there is a value. That of a missing one is
        the logarithm of a probability already, which needs no other to be compared with.

    Returns
    -------
    DataFrame of shape (n, columns that are modelled)
        In nats. Without `usual` its rows sum to minus ``log p(x)``, up to the rounding of single precision.
    """
    call: Any = model
    device = next((held.device for held in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    size = model.passes * sum(held.numel() for held in model.state_dict().values())
    height = runtime.tile_height(size, device, model.passes * model.work)

    def terms(z: Tensor) -> Tensor:
        found: Tensor = call.log_prob_terms(z)
        return found

    z = torch.from_numpy(encoder.encode(rows, codes=model.codes).z)
    values = encoder.read(rows)
    nats = -log_det_shares(encoder, values, model.codes)
    found = runtime.map_rows(terms, (z,), device=device, height=height).astype(np.float64)
    for k, (j, _) in enumerate(encoder.coordinates_):
        nats[:, j] -= found[:, k]
    if usual is not None:
        nats -= np.where(np.isnan(values), 0.0, usual)
    return pd.DataFrame(nats, columns=[column.name for column in encoder.columns_])


def usual_nats(model: GenerativeModel, encoder: TableEncoder, rows: Rows) -> Array:
    """What every column usually costs: the median of its :func:`contributions` where it has a value.

    Parameters
    ----------
    model, encoder
        As in :func:`contributions`.
    rows : Rows
        Normal ones that did not train where there are any, encoded as scoring does; at most 2,048 are used.

    Returns
    -------
    ndarray of shape (columns,)
    """
    kept = torch.linspace(0, len(rows) - 1, min(len(rows), MAX_JUDGED)).long()
    some = encoder.decode(rows.z.cpu()[kept].numpy(), model.codes)
    found = contributions(model, encoder, some).mask(np.isnan(encoder.read(some)))
    return np.asarray(found.median().fillna(0.0), dtype=np.float64)


def top_contributors(frame: pd.DataFrame, k: int) -> list[list[str]]:
    """Names of the `k` columns that contribute most to each row, the largest first; of equal ones the first.

    Parameters
    ----------
    frame : DataFrame of shape (n, columns)
        What ``detector.contributions(X)`` gave.
    k : int
        All columns where there are fewer.
    """
    if k < 1:
        raise ValueError(f"k={k!r} contributors cannot be named; ask for at least 1")
    order = np.argsort(-frame.to_numpy(), axis=1, kind="stable")[:, :k]
    found: list[list[str]] = np.array([str(name) for name in frame.columns], dtype=object)[order].tolist()
    return found
