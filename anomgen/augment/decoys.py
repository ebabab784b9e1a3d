"""A file of anomalies made for tests of detectors, with the card that says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from anomgen.augment.anomalies import synthetic_anomalies
from anomgen.augment.card import Facts, write_card
from anomgen.augment.draw import Drawn
from anomgen.augment.export import FILES, make_format
from anomgen.augment.given import known, open_given
from anomgen.augment.run import ExportSummary, check_free
from anomgen.detector import Detector, state
from anomgen.jobs.whole import arriving
from anomgen.quality import CopyCheck


def export_anomalies(
    detector: Detector,
    rows: int,
    out: str | Path,
    *,
    kind: str = "local",
    strength: Any = "auto",
    seed: int = 0,
    train: Any = None,
    allow_copies: bool = False,
    like: str | Path | None = None,
    overwrite: bool = False,
) -> ExportSummary:
    """Write anomalies of a known kind to one file, with the columns and the card of an export.

    Parameters
    ----------
    detector : Detector
        Fitted to a table.
    rows : int
    out : path
        A ``.parquet``, ``.csv`` or ``.npz`` file.
    kind, strength, seed
        See :func:`~anomgen.augment.synthetic_anomalies`.
    train, allow_copies, like, overwrite
        See :func:`~anomgen.augment.export`.

    Returns
    -------
    ExportSummary

    Raises
    ------
    ValueError
        For what cannot be used, and if an anomaly is equal to a training row.
    FileExistsError
        If there is a file at `out`.
    """
    began, place = time.perf_counter(), Path(out)
    if place.suffix not in FILES:
        raise ValueError(f"{place}: anomalies are written to one file; give it an ending: {', '.join(FILES)}")
    check_free(place, overwrite)
    if train is None and not allow_copies:
        raise ValueError("copies cannot be checked: name the training rows with train=, or allow them (allow_copies)")
    detector._absorb()
    identity = state.identity(detector)
    marks = {"synthetic": True, "seed": int(seed), "model_id": identity["sha256"][:16]}
    form = make_format(detector, marks, place, like=like, train=train)
    made = synthetic_anomalies(detector, rows, kind, strength=strength, seed=seed)
    given = None if train is None else open_given(detector, train)
    check = None if given is None else CopyCheck(given.chunks(), columns=known(detector))
    copies = None if check is None else int(check.matches(made).sum())
    if copies and not allow_copies:
        raise ValueError(
            f"{copies:,} of {rows:,} anomalies are equal to training rows; choose another kind or more strength, or "
            "allow copies (allow_copies)"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with arriving(place) as hidden, form.sink(hidden, rows) as add:
        add(form.convert(Drawn(made, None, np.arange(rows), None, rows, {}, copies or 0)))
    facts: Facts = {
        "kind": "tabular",
        "rows": rows,
        "tried": rows,
        "refused": {},
        "copies": {"checked": False} if copies is None else {"checked": True, "found": copies},
        "family": identity["class"],
        "model_digest": identity["sha256"],
        "data_digest": identity["data_digest"],
        "recipe": {"seed": int(seed), "kind": kind, "strength": strength},
        "versions": state.versions(),
        "data": place.name,
        "columns": form.types,
        "train": None if given is None else given.told(check),
    }
    write_card(place, facts)
    seconds = time.perf_counter() - began
    return ExportSummary(
        rows=rows,
        tried=rows,
        refused={},
        copies=copies,
        copies_refused=0,
        left_out=(),
        seconds=seconds,
        rows_per_s=rows / seconds,
        resumed=0,
        parts=1,
        model_digest=identity["sha256"],
        seed=int(seed),
        metrics={},
        files=(place.name,),
    )
