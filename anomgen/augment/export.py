"""The export of drawn rows: a model in, a folder or file of synthetic rows out, with a card that says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from anomgen.augment.columns import Columns
from anomgen.augment.constraints import Constraint
from anomgen.augment.formats import FORMATS, Format, Npz, Pictures, Tables
from anomgen.augment.given import Given, is_table, known, near_rows, open_given
from anomgen.augment.recipe import Recipe
from anomgen.augment.run import ExportSummary, Run
from anomgen.detector import Detector, state
from anomgen.encode import image_encoder
from anomgen.families import load
from anomgen.quality import CopyCheck

FILES = {".parquet": "parquet", ".csv": "csv", ".npz": "npz"}
"""Endings of a single file."""

Form = Literal["parquet", "csv", "npz", "png"]


def export(
    detector: Detector | str | Path,
    rows: int,
    out: str | Path,
    *,
    format: Form | None = None,  # noqa: A002
    seed: int = 0,
    condition: Any = None,
    band: Any = None,
    constraints: Sequence[Constraint] = (),
    marginals: Literal["data", "model"] = "data",
    near: Any = None,
    strength: Any = "auto",
    keep: Sequence[Any] = (),
    max_tries: int = 100,
    train: Any = None,
    held_out: Any = None,
    allow_copies: bool = False,
    evaluate: bool = False,
    target: str | None = None,
    like: str | Path | None = None,
    part_rows: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    log: Callable[..., None] | None = None,
) -> ExportSummary:
    """Draw rows of any number in constant memory, choose and check them, write them, and say in a card what they are.

    An `out` that ends in ``.parquet``, ``.csv`` or ``.npz`` is one file, which appears when it is complete, with
    ``NAME.card.md`` and ``NAME.card.json`` beside it. Any other is a folder that ``datasets.load_dataset(out)`` reads:

    ===================================  ===========================================================================
    ``README.md``, ``report.json``       the card, for people and for programs
    ``data/train-00000-of-00004...``     the rows of tables and npz files, in parts
    ``train/00000/00000000.png`` ...     images, in a folder for every part; its ``metadata.parquet`` has
                                         ``file_name``, ``label`` (of a model fitted with labels) and ``score``
    ``_manifest.ndjson``                 what the job is, and which of its parts are done
    ``_summary.json``, ``_SUCCESS``      what it did; written last
    ===================================  ===========================================================================

    Rows have three more columns (arrays, in npz files): ``synthetic``, which is true, ``seed`` and ``model_id``.

    An export to a folder that is started again with the same model and options goes on where it was stopped. But for
    ``_summary.json``, which tells times, no byte of the parts depends on `workers` or on how often that happened. Asked
    to stop by SIGTERM or Ctrl-C it finishes the part it is at.

    Parameters
    ----------
    detector : Detector or path
        A fitted detector, or where one was saved.
    rows : int
        Rows to write.
    out : path
    format : {"parquet", "csv", "npz", "png"}, optional
        Of the parts of a folder: ``"parquet"`` by default, ``"png"`` for images, which may also be ``"npz"``.
    seed, condition, band, constraints, marginals, near, strength, keep, max_tries
        What is drawn, and which of it is kept: see :class:`~anomgen.augment.Recipe`. `near` may be a path, too.
    train : path, pattern, sequence of them, or rows, optional
        The rows that the model was fitted to. Drawn rows that are equal to one of them are refused. Columns that the
        model does not draw are ignored.
    held_out : likewise, optional
        Rows that it was not fitted to. In discrete tables, where rows are equal by chance, they tell how many copies
        are to be expected anyway; see :class:`anomgen.quality.CopyCheck`. `evaluate` needs them.
    allow_copies : bool
        Keep copies, and count them if there is `train`. Without `train`, copies cannot be told, and have to be allowed.
    evaluate : bool
        Measure at most 20,000 of the rows against `held_out`, and `train` where it is given, for the card; see
        :func:`anomgen.quality.quality_report`.
    target : str, optional
        With `evaluate`: the column that classifiers trained on the rows are to predict.
    like : path, optional
        A file whose columns, in their order and with their types, the tables have: int32, decimals, time zones,
        dictionaries. By default `train`, where it is a file. Its other columns are left out. Labels that were given
        beside the training rows come last where it has no column ``y``; columns that the model was told to exclude are
        written, without values, where it has them.
    part_rows : int, optional
        Rows of a part, a multiple of 16,384, or of 1,024 for images. 262,144 rows or 1,024 images by default.
    workers : int, optional
        Threads; one for each core by default.
    overwrite : bool
        Begin anew: an export found in `out`, or a file of that name, is removed first.
    progress : callable, optional
        Called with the number of rows of every block done.
    log : callable, optional
        Called with the name of an event and keyword arguments about it: ``begin``, ``part``, ``evaluate``, ``end``.

    Returns
    -------
    ExportSummary

    Raises
    ------
    ValueError
        For options that do not fit the model, for neither `train` nor `allow_copies`, and where too few drawn rows are
        kept: the message says what refused them.
    SchemaError
        If the model draws a column that `like` does not have, or a value that does not fit its type; a ``ValueError``.
    ModelMismatch
        If `out` holds rows of another model or of other options, naming what differs; a ``SchemaError``.
    FileExistsError
        If `out` is a file, or holds files that no export wrote.
    Interrupted
        If the job was asked to stop before it was done, or another one is at work in `out`.
    """
    detector = detector if isinstance(detector, Detector) else load(detector)
    detector._absorb()
    place = Path(out)
    _check_options(rows, train, held_out, allow_copies, evaluate, target)
    if part_rows is not None and place.suffix in FILES:
        raise ValueError(f"part_rows={part_rows}: {place} has no parts; name a folder, which has no ending")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    if target is not None:
        # Told now, and not when all is drawn.
        if detector.encoder_.container_ == "images":
            raise ValueError(f"target={target!r}: images are told by their labels, without a target; leave it out")
        Columns(detector).find(target)
    identity = state.identity(detector)
    marks = {"synthetic": True, "seed": int(seed), "model_id": identity["sha256"][:16]}
    form = make_format(detector, marks, place, format, like, train)
    known_rows, others = (None if one is None else open_given(detector, one) for one in (train, held_out))
    recipe = Recipe(
        detector,
        seed=seed,
        condition=condition,
        band=band,
        constraints=constraints,
        marginals=marginals,
        near=near_rows(detector, near),
        strength=strength,
        keep=keep,
        max_tries=max_tries,
        check=None if known_rows is None else _check(detector, known_rows, others),
        allow_copies=allow_copies,
    )
    run = Run(recipe, form, identity, known_rows, others, target if evaluate else None, evaluate, log or _silent)
    if place.suffix in FILES:
        return run.to_file(place, rows, workers, overwrite, progress)
    return run.to_folder(place, rows, part_rows, workers, overwrite, progress)


def make_format(
    detector: Detector,
    marks: Mapping[str, Any],
    out: Path,
    name: str | None = None,
    like: str | Path | None = None,
    train: Any = None,
) -> Format:
    """The format of an export; tables are like the training rows where these are files and nothing else is given.

    Raises
    ------
    ValueError
        If the rows of the model cannot be written to such a file.
    """
    encoder = image_encoder(detector.encoder_)
    ending = FILES.get(out.suffix)
    if ending is not None and name not in (None, ending):
        raise ValueError(f"format={name!r} does not fit the name {out.name}; leave one of them out")
    name = ending or name or ("parquet" if encoder is None else "png")
    known_names = ("parquet", "csv", "npz") if encoder is None else ("png", "npz")
    if (out.suffix and ending is None) or name not in known_names:
        kinds = [suffix for suffix, one in FILES.items() if one in known_names]
        raise ValueError(
            f"{out}: unknown kind of file; these rows are written to {', '.join(kinds)}, or to a folder with format= "
            f"{', '.join(map(repr, known_names))}"
        )
    if like is not None and name not in ("parquet", "csv"):
        raise ValueError(f"like={str(like)!r}: {name} files have no columns to be like those of a table; leave it out")
    if name == "png" and encoder is not None:
        return Pictures(detector, marks, encoder)
    if name == "npz":
        return Npz(detector, marks)
    kind = FORMATS[name]
    assert issubclass(kind, Tables)
    if like is None and detector.encoder_.container_ == "frame" and is_table(train):
        like = train
    return kind(detector, marks, like)


def _check_options(
    rows: int, train: Any, held_out: Any, allow_copies: bool, evaluate: bool, target: str | None
) -> None:
    if isinstance(rows, bool) or int(rows) != rows or rows < 1:
        raise ValueError(f"rows={rows!r} must be a positive integer")
    if train is None and not allow_copies:
        raise ValueError("copies cannot be checked: name the training rows with train=, or allow them (allow_copies)")
    if evaluate and held_out is None:
        raise ValueError("evaluate= needs held_out=, rows that the model was not fitted to")
    if held_out is not None and train is None and not evaluate:
        raise ValueError(
            "held_out= is what rows are measured by, or copies of train=; ask for evaluate, or give train="
        )
    if target is not None and not evaluate:
        raise ValueError(f"target={target!r} is what evaluate= measures by; ask for that, too")


def _check(detector: Detector, train: Given, held_out: Given | None) -> CopyCheck:
    """What tells copies of the training rows."""
    columns = None if detector.encoder_.container_ == "images" else known(detector)
    return CopyCheck(train.chunks(), None if held_out is None else held_out.chunks(), columns=columns)


def _silent(*_: Any, **__: Any) -> None:
    pass
