"""The scoring job: chunks to scores to Parquet files, and a summary."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.batch.inputs import Input, Inputs, Mode, OnBad, open_inputs
from anomgen.batch.rows import is_normal, write_whole
from anomgen.batch.schema import image_encoder
from anomgen.data import BadFile
from anomgen.detector import Detector
from anomgen.families import load

ROW_GROUP = 131_072
"""Rows of a Parquet row group, which bound the memory of a reader; the same for any `chunk_rows`."""
SAMPLE = 100_000
"""Scores kept for the quantiles of the summary: all of a smaller job, a uniform sample of a larger one."""
LEVELS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RESULTS = ("row", "source", "score", "is_anomaly")
SUMMARY = "_summary.json"
QUARANTINE = "_quarantine.csv"
"""Name of the list of image files that could not be read: source, file, reason."""


@dataclass(frozen=True)
class ScoredFile:
    """One input file, or folder of images, and its scores.

    Parameters
    ----------
    source, output : str
        What was scored, and the name of the file of scores.
    rows, flagged : int
    bad : int
        Files of images that could not be read.
    """

    source: str
    output: str
    rows: int
    flagged: int
    bad: int = 0


@dataclass(frozen=True)
class Summary:
    """What a scoring job did.

    Parameters
    ----------
    rows, flagged : int
    bad : int
        Files of images that could not be read and have no score; ``_quarantine.csv`` names them.
    threshold : float
        Rows with a lower score are flagged.
    seconds, rows_per_s : float
    quantiles : dict of str to float
        Quantiles of the scores by level, from ``"0"``, the lowest score, to ``"1"``, the highest; of a uniform sample
        of 100,000 where there are more.
    data_digest : str
        sha256 of the detector's training rows.
    files : tuple of ScoredFile
    """

    rows: int
    flagged: int
    bad: int
    threshold: float
    seconds: float
    rows_per_s: float
    quantiles: dict[str, float]
    data_digest: str
    files: tuple[ScoredFile, ...]


def score_files(
    model: Detector | str | Path,
    inputs: Inputs,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    threshold: float | None = None,
    mode: Mode = None,
    maps: str | Path | None = None,
    chunk_rows: int = 65_536,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Score CSV, Parquet, npz or IDX files, or folders of images, in constant memory: one Parquet file of scores each.

    Its columns are ``row`` (number of the row in its file, from 0), ``source``, for folders of images ``file`` (the
    path of the image below the folder), those of `keep`, ``score`` (nats; the higher, the more normal) and
    ``is_anomaly``. It appears under its name when it is complete; the last file written is ``_summary.json``. The bytes
    of the scores do not depend on `chunk_rows`.

    Image files that cannot be read get no row. They are counted, and listed in ``_quarantine.csv`` with the reason.

    Parameters
    ----------
    model : Detector or path
        A fitted detector, or where one was saved.
    inputs : path, pattern, ImageFolder, or sequence of them
        Files, folders or patterns. Columns that the detector does not know are ignored. For a detector of images a
        folder that holds image files is read as these, resized as the training images were; image files named singly
        are scored together.
    out : path
        Folder for the scores; made if missing.
    keep : sequence of str
        Columns (arrays, in npz files) to copy into the output, such as an identifier or a label. A folder of images
        has ``"label"``, the sub-folder that an image lies in.
    threshold : float, optional
        Instead of the detector's own.
    mode : {"L", "RGB"}, optional
        Convert image files to grey or colour; see :class:`anomgen.data.ImageFolder`.
    maps : path, optional
        Folder for a PNG file of every image with its heat on top, see :func:`anomgen.explain.overlay`; with several
        inputs it gets a sub-folder for each. Files found there are only replaced with `overwrite`.
    chunk_rows : int
        Rows scored at a time; of images fewer, as memory asks for.
    overwrite : bool
        Whether scores of an earlier job are removed from `out` first.
    progress : callable, optional
        Called with the number of rows of every chunk done.

    Returns
    -------
    Summary

    Raises
    ------
    SchemaError
        Before the first row of any file is scored, naming file and columns that are missing or of another type.
    ValueError
        If a cell cannot be read, naming file, row and column; or if `maps` would be among the images.
    FileExistsError
        If `out` holds scores and `overwrite` is False, or files that are not scores; likewise if `maps` holds anything.
    """
    detector = model if isinstance(model, Detector) else load(model)
    limit = float(detector.offset_ if threshold is None else threshold)
    taken = [name for name in keep if name in RESULTS]
    if taken:
        raise ValueError(f"keep={list(keep)}: {taken[0]!r} is a column of the output already; rename it in the input")
    if maps is not None and image_encoder(detector) is None:
        raise ValueError("maps= are of images, and the detector was fitted on a table")
    on_bad: OnBad = "fail" if image_encoder(detector) is None else "quarantine"
    parts = open_inputs(detector, inputs, keep, chunk_rows, mode, on_bad)
    if maps is not None:
        _check_maps(Path(maps), parts, overwrite)
    folder = _empty_folder(Path(out), overwrite)
    tally, files, began = _Tally(), [], time.perf_counter()
    bad: list[tuple[str, ...]] = []
    for part, output in zip(parts, _outputs(parts), strict=True):
        rows, flagged, before = tally.rows, tally.flagged, len(bad)
        drawn = None if maps is None else Path(maps, output.removesuffix(".parquet")) if len(parts) > 1 else Path(maps)
        tables = _scored(detector, part, limit, tally, drawn, progress, bad)
        write_whole(folder / output, partial(_write, tables))
        files.append(ScoredFile(part.name, output, tally.rows - rows, tally.flagged - flagged, len(bad) - before))
    if bad:
        write_whole(folder / QUARANTINE, partial(_write_bad, bad))
    seconds = time.perf_counter() - began
    summary = Summary(
        rows=tally.rows,
        flagged=tally.flagged,
        bad=len(bad),
        threshold=limit,
        seconds=seconds,
        rows_per_s=tally.rows / seconds,
        quantiles=tally.quantiles(),
        data_digest=detector.data_digest_,
        files=tuple(files),
    )
    text = json.dumps(asdict(summary), indent=2) + "\n"
    write_whole(folder / SUMMARY, lambda path: path.write_text(text, encoding="utf-8"))
    return summary


def evaluate(out: str | Path, label: str, normal: Any = 0) -> dict[str, float]:
    """How well the scores of a job tell anomalies from normal rows.

    Parameters
    ----------
    out : path
        The folder that :func:`score_files` filled, with `label` among the columns kept.
    label : str
    normal : object
        The label of normal rows; rows with any other are anomalies.

    Returns
    -------
    dict
        ``auroc``, the area under the ROC curve, and ``auprc``, the average precision of the anomalies; ``recall`` and
        ``precision`` of the flags: the share of anomalies that is flagged, and of flagged rows that are anomalies.

    Raises
    ------
    ValueError
        If there are not both normal rows and anomalies.
    """
    import pyarrow.parquet as pq
    from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

    columns = [label, "score", "is_anomaly"]
    tables = [pq.read_table(path, columns=columns) for path in sorted(Path(out).glob("*.parquet"))]
    scores = np.concatenate([table["score"].to_numpy() for table in tables])
    flagged = np.concatenate([table["is_anomaly"].to_numpy() for table in tables])
    anomalous = np.concatenate([~is_normal(table[label].to_pandas(), normal) for table in tables])
    if anomalous.all() or not anomalous.any():
        raise ValueError(
            f"{'no' if anomalous.all() else 'every'} row has {normal} in {label!r}: scores can only be judged by "
            "normal rows and anomalies together"
        )
    return {
        "auroc": float(roc_auc_score(anomalous, -scores)),
        "auprc": float(average_precision_score(anomalous, -scores)),
        "recall": float(recall_score(anomalous, flagged)),
        "precision": float(precision_score(anomalous, flagged, zero_division=0.0)),
    }


class _Tally:
    """Counts and a uniform sample of the scores seen so far, however they are cut into chunks."""

    def __init__(self) -> None:
        self.rows = self.flagged = 0
        self._lowest, self._highest = np.inf, -np.inf
        self._random = np.random.default_rng(0)
        self._keys, self._sample = np.empty(0), np.empty(0)

    def add(self, scores: NDArray[np.float64], flagged: NDArray[np.bool_]) -> None:
        self.rows += len(scores)
        self.flagged += int(flagged.sum())
        self._lowest = min(self._lowest, float(scores.min()))
        self._highest = max(self._highest, float(scores.max()))
        # Every row draws a key; the rows with the lowest ones are a uniform sample.
        keys = np.concatenate([self._keys, self._random.random(len(scores))])
        kept = np.argsort(keys)[:SAMPLE]
        self._keys, self._sample = keys[kept], np.concatenate([self._sample, scores])[kept]

    def quantiles(self) -> dict[str, float]:
        between = np.quantile(self._sample, LEVELS).tolist()
        return {"0": self._lowest, **{str(p): q for p, q in zip(LEVELS, between, strict=True)}, "1": self._highest}


def _scored(
    detector: Detector,
    part: Input,
    threshold: float,
    tally: _Tally,
    maps: Path | None,
    progress: Callable[[int], None] | None,
    bad: list[tuple[str, ...]],
) -> Iterator[Any]:
    """One Arrow table of results a chunk."""
    import pyarrow as pa

    start = 0
    for chunk in (chunk for span in part.spans(ROW_GROUP) for chunk in part.chunks(span)):
        bad += [(part.name, one.value, one.reason) for one in chunk.bad]
        if chunk.rows is None:
            continue
        rows, kept = chunk.rows, chunk.kept
        scores = detector.score_samples(rows)
        flagged = scores < threshold
        tally.add(scores, flagged)
        end = start + len(scores)
        yield pa.table(
            {
                "row": pa.array(np.arange(start, end)),
                "source": pa.repeat(part.name, len(scores)),
                **{name: pa.array(values, from_pandas=True) for name, values in kept.items()},
                "score": scores,
                "is_anomaly": flagged,
            }
        )
        if maps is not None:
            _draw(detector, rows, maps, kept.get("file", [f"{row}.png" for row in range(start, end)]))
        start = end
        if progress is not None:
            progress(len(scores))


def _draw(detector: Detector, images: Any, folder: Path, names: Sequence[str]) -> None:
    """A picture of every image with its heat on top; those of other formats keep their ending before that of PNG."""
    from anomgen.explain import save_overlays

    encoder = image_encoder(detector)
    assert encoder is not None
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names]
    save_overlays(folder, encoder.levels(images), detector.score_map(images), files)


def _write(tables: Iterable[Any], path: Path) -> None:
    """Write tables of any height in row groups of one height."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = iter(tables)
    held = next(tables)
    with pq.ParquetWriter(path, held.schema, compression="zstd") as writer:
        for table in tables:
            held = pa.concat_tables([held, table.cast(held.schema)])
            while len(held) >= ROW_GROUP:
                writer.write_table(held.slice(0, ROW_GROUP).combine_chunks(), ROW_GROUP)
                held = held.slice(ROW_GROUP)
        if len(held):
            writer.write_table(held.combine_chunks(), ROW_GROUP)


def _write_bad(bad: Sequence[tuple[str, ...]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("source", *BadFile._fields), *bad])


def _outputs(parts: Sequence[Input]) -> list[str]:
    """A name for every output: that of its input, numbered where two inputs have the same."""
    names: list[str] = []
    for part in parts:
        stem, number = part.stem, 1
        while f"{stem}.parquet" in names:
            number += 1
            stem = f"{part.stem}-{number}"
        names.append(f"{stem}.parquet")
    return names


def _check_maps(folder: Path, parts: Sequence[Input], overwrite: bool) -> None:
    """Refuse a folder where pictures would replace others, above all the images themselves."""
    here = folder.resolve()
    for part in parts:
        there = Path(part.name).resolve()
        if there.is_dir() and (here == there or here in there.parents or there in here.parents):
            raise ValueError(
                f"maps={str(folder)!r} and the images in {part.name} lie one in the other; name another folder"
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(
            f"{folder} exists and is not empty; name another folder for the maps, or ask to overwrite"
        )


def _empty_folder(folder: Path, overwrite: bool) -> Path:
    """A folder without files: made, or cleared of the scores of an earlier job."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder for the scores")
    found = sorted(folder.iterdir()) if folder.exists() else []
    foreign = [path for path in found if not _is_ours(path)]
    if foreign:
        raise FileExistsError(f"{folder} holds {foreign[0].name}, which is not the output of a scoring job")
    if found and not overwrite:
        raise FileExistsError(f"{folder} holds the scores of an earlier job; name another folder, or ask to overwrite")
    for path in found:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_ours(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.name in (SUMMARY, QUARANTINE) or path.name.endswith(".partial"):
        return True
    try:
        return path.suffix == ".parquet" and set(RESULTS) <= set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return False
