"""Which rows are bad: those that the detector refuses, no more and no fewer, whatever file they come from."""

from __future__ import annotations

import datetime
import decimal
import gzip
import importlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomgen import MixtureDetector
from anomgen.batch.faults import faults
from anomgen.batch.inputs import open_inputs
from anomgen.data import text
from anomgen.data.bad import Bad
from anomgen.detector import Detector

PIPELINES = Path(__file__).parents[1] / "pipelines"
OPTIONS: dict[str, Any] = {"components": 1, "contamination": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def malformed() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PIPELINES))
    yield importlib.import_module("malformed")
    sys.path.remove(str(PIPELINES))


def rows(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "real": rng.normal(size=n),
            "count": rng.poisson(3.0, n),
            "flag": rng.random(n) < 0.3,
            "city": pd.Series(rng.choice(["Ghent", "Lyon", "Turin"], n), dtype=object),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
        }
    )


@pytest.fixture(scope="module")
def detector() -> Detector:
    return MixtureDetector(**OPTIONS).fit(rows(300))


CELLS: dict[str, tuple[Any, ...]] = {
    "real": (
        0.5,
        3,
        "1.5",
        "oops",
        "",
        None,
        np.inf,
        -np.inf,
        np.nan,
        "inf",
        True,
        decimal.Decimal("2.5"),
        [1.0],
        1e300,
    ),
    "count": (2, 2.5, "7", "two", None, np.inf, 2**70, {"n": 1}),
    "flag": (True, False, None, 0, "maybe", 7),
    "city": ("Lyon", "Atlantis", None, 7, np.nan, ["Lyon"], {"a": 1}, b"Lyon"),
    "seen": (pd.Timestamp("2024-01-02"), None, pd.NaT, datetime.datetime(2024, 1, 3), "2024-01-04", "soon", [1]),
}


def refuses(detector: Detector, some: pd.DataFrame) -> bool:
    try:
        detector.score_samples(some)
    except (ValueError, TypeError):
        return True
    return False


@pytest.mark.filterwarnings("ignore:Could not infer format:UserWarning")
@given(
    drawn=st.lists(
        st.tuples(*(st.sampled_from(range(len(values))) for values in CELLS.values())), min_size=1, max_size=8
    )
)
def test_a_row_is_bad_if_and_only_if_the_detector_refuses_it(detector: Detector, drawn: list[tuple[int, ...]]) -> None:
    frame = pd.DataFrame(
        {name: pd.Series([CELLS[name][one[j]] for one in drawn], dtype=object) for j, name in enumerate(CELLS)}
    )
    found = faults(detector, frame)
    bad = [one.row for one in found]
    assert bad == sorted(set(bad))
    assert bad == [row for row in range(len(frame)) if refuses(detector, frame.iloc[[row]])]
    good = np.delete(np.arange(len(frame)), bad)
    if len(good):
        together = detector.score_samples(frame.iloc[good])
        assert together.tolist() == [detector.score_samples(frame.iloc[[row]])[0] for row in good]
    assert all(one.column in frame and one.reason and len(one.value) <= 200 for one in found)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_bad_numbers_of_an_array(numbers: np.ndarray, dtype: Any) -> None:
    detector = MixtureDetector(exclude=(1,), **OPTIONS).fit(numbers)
    some = np.array(numbers[:9], dtype)
    if np.dtype(dtype).kind == "f":
        some[2, 0], some[2, 2], some[5, 1], some[7, 2], some[8, 0] = np.inf, -np.inf, np.inf, -np.inf, np.nan
    expected = [row for row in range(9) if refuses(detector, some[[row]])]
    assert [one.row for one in faults(detector, some)] == expected == ([2, 7] if np.dtype(dtype).kind == "f" else [])


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_bad_pixels(scale: float) -> None:
    images = np.random.default_rng(0).random((40, 5, 5)) * scale
    detector = MixtureDetector(**OPTIONS, statistic="typicality").fit(images)
    some = images[:8].copy()
    some[1, 2, 3], some[4, 0, 0], some[6, 4, 4], some[7, 1, 1] = np.nan, 1.5 * scale, -0.1, np.inf
    found = faults(detector, some)
    assert [one.row for one in found] == [row for row in range(8) if refuses(detector, some[[row]])] == [1, 4, 6, 7]
    assert "(2, 3)" in found[0].reason
    assert faults(detector, images) == []


def test_dates_that_are_text_are_read_one_by_one(tmp_path: Path) -> None:
    frame = rows(300)[["real"]].assign(day=rows(300)["seen"].dt.strftime("%Y-%m-%d"))
    detector = MixtureDetector(kinds={"day": "datetime"}, **OPTIONS).fit(frame)
    frame.loc[[3, 5, 8], "day"] = ["02/25/2024", "soon", None]
    frame.to_parquet(tmp_path / "days.parquet")
    [one] = open_inputs(detector, tmp_path / "days.parquet", on_bad="quarantine")
    [chunk] = one.chunks(one.spans(1000)[0])
    assert [(bad.row, bad.column, bad.value) for bad in chunk.bad] == [(5, "day", "soon")]
    scores = detector.score_samples(chunk.rows)
    assert scores[3] == detector.score_samples(frame.iloc[[3]])[0]


def outcome(detector: Detector, path: Path) -> tuple[Exception | None, dict[int, float], list[int]]:
    """What a job would write down: an error, or scores and bad rows by their numbers."""
    scores: dict[int, float] = {}
    bad: list[int] = []
    try:
        for one in open_inputs(detector, path, chunk_rows=7, on_bad="quarantine"):
            for chunk in (chunk for span in one.spans(10) for chunk in one.chunks(span)):
                assert chunk.seen == len(chunk.numbers) + len(chunk.bad)
                bad += [found.row for found in chunk.bad]
                if chunk.rows is not None:
                    scores |= dict(
                        zip(chunk.numbers.tolist(), detector.score_samples(chunk.rows).tolist(), strict=True)
                    )
    except Exception as error:  # what it may be is judged by the caller
        return error, scores, bad
    return None, scores, bad


def test_damaged_files_lose_no_row(malformed: ModuleType, tmp_path: Path, full: bool) -> None:
    train = malformed.clean_rows(400)
    detectors = {
        False: MixtureDetector(**OPTIONS).fit(train),
        True: MixtureDetector(**OPTIONS).fit(train[malformed.NUMBERS].to_numpy()),
    }
    kinds, complaints = set(), []
    for seed in range(2000 if full else 50):
        case = malformed.malformed(seed, tmp_path)
        clean = case.clean[malformed.NUMBERS].to_numpy() if case.array else case.clean
        expected = detectors[case.array].score_samples(clean)
        error, scores, bad = outcome(detectors[case.array], case.path)
        told = malformed.complaint(case, error, scores, bad, expected)
        complaints += [f"seed {seed}, {case.kind}: {told}"] if told else []
        kinds.add(case.path.name.partition(".")[2])
    assert complaints == []
    assert len(kinds) == 6


def test_half_a_character_can_be_listed() -> None:
    bad = Bad(3, "city", "it is no text", "\ud800" * 300)
    assert bad.value.startswith("\\ud800")
    assert len(bad.value.encode()) == 200


def test_what_a_complaint_is_about(malformed: ModuleType, tmp_path: Path) -> None:
    """The judge of the test above sees what it is there to see."""
    path = tmp_path / "some.csv"
    case = malformed.Malformed(path, "", False, rows(3), frozenset({0, 1}), frozenset({2}), False)
    clean = np.array([1.0, 2.0, 3.0])
    right = {0: 1.0, 1: 2.0}
    assert malformed.complaint(case, None, right, {2}, clean) is None
    assert "without a score: rows [1]" in malformed.complaint(case, None, {0: 1.0}, {2}, clean)
    assert "another score: rows [0]" in malformed.complaint(case, None, {0: 1.5, 1: 2.0}, {2}, clean)
    assert "bad and scored: rows [2]" in malformed.complaint(case, None, {**right, 2: 3.0}, set(), clean)
    assert "not listed: rows [2]" in malformed.complaint(case, None, right, set(), clean)
    assert "scored and bad: rows [0]" in malformed.complaint(case, None, right, {0, 2}, clean)
    assert "it was refused" in malformed.complaint(case, ValueError("some.csv: no"), {}, set(), clean)
    assert "it raised IndexError" in malformed.complaint(case, IndexError("some.csv"), {}, set(), clean)


def test_a_packed_file_that_breaks_off_keeps_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 1000)
    content = b"a\n" + b"".join(b"%.9f\n" % value for value in np.random.default_rng(0).normal(size=2000))
    packed = gzip.compress(content)[:-2000]
    (tmp_path / "x.csv.gz").write_bytes(packed)
    unpacked = zlib.decompressobj(31).decompress(packed)
    target = pa.schema([("a", pa.float64())])
    found: list[int] = []
    with pytest.raises(OSError, match="runcated"):
        found.extend(row for piece in text.csv_pieces(tmp_path / "x.csv.gz", target) for row in piece.numbers)
    assert found == list(range(unpacked[: len(unpacked) // 1000 * 1000].count(b"\n") - 1))
