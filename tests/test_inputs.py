"""Inputs of a scoring job: what files are opened, how they are cut, and what is left out of them."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anomgen import MixtureDetector, batch
from anomgen.batch.inputs import Bad, Chunk, Input, Span, open_inputs
from anomgen.data import text
from anomgen.data.remote import filesystem, remote
from anomgen.detector import Detector

OPTIONS: dict[str, Any] = {"components": 1, "contamination": 0.1, "random_state": 0}
N = 300


def make_rows(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "real": rng.normal(size=n),
            "count": rng.poisson(3.0, n),
            "flag": rng.random(n) < 0.3,
            "city": rng.choice(["Ghent", "Lyon", "007"], n),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
        }
    )


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return make_rows(N)


@pytest.fixture(scope="module")
def detector(frame: pd.DataFrame) -> Detector:
    return MixtureDetector(exclude=("id",), **OPTIONS).fit(frame)


@pytest.fixture(scope="module")
def scores(detector: Detector, frame: pd.DataFrame) -> np.ndarray:
    return detector.score_samples(frame)


def write(frame: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".csv" in path.name:
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False, row_group_size=40)
    else:
        lines = [json.dumps(row, default=lambda when: when.isoformat()) for row in frame.to_dict("records")]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(opened: list[Input], rows: int = 100) -> list[Chunk]:
    return [chunk for one in opened for span in one.spans(rows) for chunk in one.chunks(span)]


def scored(detector: Detector, chunks: list[Chunk]) -> np.ndarray:
    return np.concatenate([detector.score_samples(chunk.rows) for chunk in chunks if chunk.rows is not None])


def numbers_of(chunks: list[Chunk]) -> list[int]:
    return [int(number) for chunk in chunks for number in chunk.numbers]


def bad_of(chunks: list[Chunk]) -> list[Bad]:
    return [bad for chunk in chunks for bad in chunk.bad]


KINDS = ("a.parquet", "a.csv", "a.csv.gz", "a.ndjson", "a.jsonl", "a.jsonl.gz")


# ---------------------------------------------------------------------- files of every kind


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_every_kind_of_file_holds_the_same_rows(
    detector: Detector, frame: pd.DataFrame, scores: np.ndarray, tmp_path: Path, name: str, chunk_rows: int
) -> None:
    path = write(frame[frame.columns[::-1]].assign(more="x"), tmp_path / name)
    [one] = open_inputs(detector, path, ["id", "city"], chunk_rows)
    chunks = read([one])
    assert (one.name, one.stem) == (str(path), "a")
    assert numbers_of(chunks) == list(range(N))
    assert all(0 < len(chunk.numbers) == chunk.seen <= chunk_rows and not chunk.bad for chunk in chunks)
    np.testing.assert_array_equal(scored(detector, chunks), scores)
    assert np.concatenate([chunk.kept["id"] for chunk in chunks]).tolist() == list(range(N))
    assert [city for chunk in chunks for city in chunk.kept["city"]] == frame["city"].tolist()


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
def test_blocks_of_text_end_anywhere(
    detector: Detector, frame: pd.DataFrame, scores: np.ndarray, tmp_path: Path, name: str, monkeypatch: Any
) -> None:
    quoted = frame.assign(note=["a\nb, c"] * N)
    path = write(quoted, tmp_path / name)
    for block in (150, 997, 5000):
        monkeypatch.setattr(text, "BLOCK", block)
        chunks = read(open_inputs(detector, path, ["note"]))
        np.testing.assert_array_equal(scored(detector, chunks), scores)
        assert {note for chunk in chunks for note in chunk.kept["note"]} == {"a\nb, c"}


def test_parquet_is_cut_at_row_groups(detector: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "a.parquet")
    [one] = open_inputs(detector, path, chunk_rows=16)
    assert one.spans(100) == [Span(0, 120), Span(120, 240), Span(240, 300)]
    assert one.spans(10_000) == [Span(0, 300)]
    assert numbers_of(list(one.chunks(Span(120, 240)))) == list(range(120, 240))


@pytest.mark.parametrize("name", ["none.parquet", "none.csv", "none.csv.gz"])
def test_a_file_without_rows_fits(detector: Detector, frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    for how in ("fail", "quarantine"):
        opened = open_inputs(detector, write(frame[:0], tmp_path / name), on_bad=how)  # type: ignore[arg-type]
        assert read(opened) == []


def test_dates_may_come_late(detector: Detector, frame: pd.DataFrame, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text, "BLOCK", 1000)
    late = frame.assign(seen=frame["seen"].where(frame.index > 100))
    for how in ("fail", "quarantine"):
        chunks = read(open_inputs(detector, write(late, tmp_path / "a.csv"), on_bad=how))  # type: ignore[arg-type]
        np.testing.assert_array_equal(scored(detector, chunks), detector.score_samples(late))


def test_arrays_are_cut_where_they_can_be_entered(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = MixtureDetector(**OPTIONS).fit(numbers)
    np.savez(tmp_path / "plain.npz", X=numbers, label=np.arange(400))
    np.savez_compressed(tmp_path / "packed.npz", X=numbers, label=np.arange(400))
    np.savez(tmp_path / "turned.npz", X=np.asfortranarray(numbers), label=np.arange(400))
    content = bytes([0, 0, 0x0E, 2]) + b"".join(side.to_bytes(4, "big") for side in numbers.shape)
    (tmp_path / "a.idx").write_bytes(content + numbers.astype(">f8").tobytes())
    cut = [Span(0, 150), Span(150, 300), Span(300, 400)]
    for name, spans in (
        ("plain.npz", cut),
        ("packed.npz", [Span(0, 400)]),
        ("turned.npz", [Span(0, 400)]),
        ("a.idx", cut),
    ):
        [one] = open_inputs(detector, tmp_path / name, ["label"] if name != "a.idx" else [], chunk_rows=70)
        assert one.spans(150) == spans, name
        assert len(one.spans(1)) <= (16 if name.endswith("npz") else 400)
        for span in spans:
            chunks = list(one.chunks(span))
            assert numbers_of(chunks) == list(range(span.start, span.stop or 0))
            np.testing.assert_array_equal(
                np.concatenate([chunk.rows for chunk in chunks]), numbers[span.start : span.stop]
            )
            for chunk in chunks if name != "a.idx" else []:
                assert chunk.kept["label"].tolist() == chunk.numbers.tolist()


def test_a_fingerprint_tells_content_not_time(detector: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a.parquet", "a.csv", "a.jsonl.gz"):
        path = write(frame, tmp_path / name)
        [one] = open_inputs(detector, path)
        before = one.fingerprint()
        assert json.loads(json.dumps(before)) == before
        shutil.copy(path, tmp_path / f"copy-{name}")
        assert open_inputs(detector, tmp_path / f"copy-{name}")[0].fingerprint() == before
        write(frame.assign(real=frame["real"].where(frame.index != 150, 0.125)), path)
        assert one.fingerprint() != before


def test_inputs_can_be_pickled(detector: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in KINDS:
        [one] = open_inputs(detector, write(frame, tmp_path / name), ["id"])
        again = pickle.loads(pickle.dumps(one))
        assert again.name == one.name
        assert numbers_of(read([again])) == list(range(N))


def test_numbers_of_an_array_may_begin_whole(numbers: np.ndarray, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text, "BLOCK", 200)
    detector = MixtureDetector(**OPTIONS).fit(numbers)
    (tmp_path / "a.csv").write_text("a,b,c\n" + "1,2,3\n" * 100 + "0.5,1.5,oops\n0.5,1.5,2.5\n")
    with pytest.raises(ValueError, match="row 100, column 'c'"):
        read(open_inputs(detector, tmp_path / "a.csv"))
    chunks = read(open_inputs(detector, tmp_path / "a.csv", on_bad="skip"))
    assert numbers_of(chunks) == [*range(100), 101]
    assert scored(detector, chunks)[-1] == detector.score_samples([[0.5, 1.5, 2.5]])[0]


# ---------------------------------------------------------------------- bad rows


def test_bad_rows_are_named_or_left_out(
    detector: Detector, frame: pd.DataFrame, scores: np.ndarray, tmp_path: Path
) -> None:
    path = write(frame, tmp_path / "a.csv")
    lines = path.read_text().split("\n")
    lines[3] = "2,oops,1,True,Lyon,2024-01-01"
    lines[11] = "10,1.5,1"
    lines[251] = "250,inf,1,True,Lyon,2024-01-01"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.csv: row 2, column 'real': .*'oops'"):
        read(open_inputs(detector, path))
    for chunk_rows in (8, 1000):
        for how in ("quarantine", "skip"):
            chunks = read(open_inputs(detector, path, ["id"], chunk_rows, on_bad=how))  # type: ignore[arg-type]
            assert [(bad.row, bad.column) for bad in bad_of(chunks)] == [(2, "real"), (10, ""), (250, "real")]
            assert sum(chunk.seen for chunk in chunks) == N
            assert numbers_of(chunks) == [row for row in range(N) if row not in (2, 10, 250)]
            np.testing.assert_array_equal(scored(detector, chunks), scores[numbers_of(chunks)])
            position = 0
            for chunk in chunks:
                within = [*chunk.numbers.tolist(), *(bad.row for bad in chunk.bad)]
                assert sorted(within) == list(range(position, position + chunk.seen))
                position += chunk.seen
                assert (chunk.rows is None) == (not len(chunk.numbers)) == (not chunk.kept)


def test_an_open_quotation_costs_its_own_line(detector: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "a.csv")
    lines = path.read_text().split("\n")
    lines[41] = lines[41].replace(",", ',"', 1)
    path.write_text("\n".join(lines))
    chunks = read(open_inputs(detector, path, on_bad="skip"))
    assert [bad.row for bad in bad_of(chunks)] == [40]
    assert "never closed" in bad_of(chunks)[0].reason
    assert len(numbers_of(chunks)) == N - 1


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_rows_before_the_damage_are_kept(
    detector: Detector, scores: np.ndarray, tmp_path: Path, name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(text, "BLOCK", 2048)
    rng = np.random.default_rng(1)
    many = make_rows(3000).assign(real=rng.normal(size=3000))
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(
            pa.Table.from_pandas(many, preserve_index=False), path, row_group_size=500, write_page_checksum=True
        )
        content = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(3).column(1)
        content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(write(many, path).read_bytes()[:-8000])
    with pytest.raises(ValueError, match=name):
        read(open_inputs(detector, path), 3000)
    chunks = read(open_inputs(detector, path, chunk_rows=100, on_bad="quarantine"), 3000)
    found = numbers_of(chunks)
    assert found == list(range(len(found)))
    assert (len(found) == 1500) if name == "a.parquet" else 500 < len(found) < 2950
    np.testing.assert_array_equal(scored(detector, chunks), detector.score_samples(many.iloc[found]))
    assert [bad.row for bad in bad_of(chunks)] == [-1]
    assert "cannot be read further" in bad_of(chunks)[0].reason


def test_a_file_that_does_not_fit_among_those_that_do(detector: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    for kind in ("csv", "parquet", "ndjson"):
        write(frame, tmp_path / f"good.{kind}")
        write(frame.drop(columns="city"), tmp_path / f"lacks.{kind}")
        write(frame.assign(real="x"), tmp_path / f"text.{kind}")
        (tmp_path / f"empty.{kind}").touch()
    with pytest.raises(ValueError, match="empty"):
        open_inputs(detector, tmp_path)
    with pytest.raises(batch.SchemaError, match="column 'city' is missing"):
        open_inputs(detector, [tmp_path / "good.csv", tmp_path / "lacks.csv"])
    with pytest.raises(batch.SchemaError, match="column 'real' holds text"):
        open_inputs(detector, [tmp_path / "text.csv", tmp_path / "text.parquet"], on_bad="skip")
    opened = open_inputs(detector, tmp_path, on_bad="quarantine")
    assert len(opened) == 12
    for one in opened:
        chunks = read([one])
        if one.stem == "good":
            assert numbers_of(chunks) == list(range(N))
        else:
            [bad] = bad_of(chunks)
            assert (bad.row, numbers_of(chunks)) == (-1, [])
            assert one.fingerprint()["size"] == Path(one.name).stat().st_size
            wanted = {"lacks": "'city' is missing", "text": "'real' holds text", "empty": "the file is empty"}
            assert wanted[one.stem] in bad.reason


def test_images_unlike_those_of_the_training(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 7)).astype(np.uint8)
    detector = MixtureDetector(**OPTIONS, statistic="typicality").fit(images)
    (tmp_path / "tiles" / "b").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(images[i]).save(tmp_path / "tiles" / f"{i}.png")
    Image.fromarray(images[0, :5]).save(tmp_path / "tiles" / "1a.png")
    Image.fromarray(np.repeat(images[0][:, :, None], 3, 2)).save(tmp_path / "tiles" / "0a.png")
    (tmp_path / "tiles" / "2a.png").write_bytes((tmp_path / "tiles" / "2.png").read_bytes()[:50])
    (tmp_path / "tiles" / "b" / "c.png").mkdir()
    [one] = open_inputs(detector, tmp_path / "tiles", ["label"], chunk_rows=4, on_bad="quarantine")
    assert one.spans(5) == [Span(0, 5), Span(5, 9)]
    chunks = read([pickle.loads(pickle.dumps(one))], 5)
    assert numbers_of(chunks) == [0, 2, 4, 6, 7, 8]
    assert [(bad.row, bad.value) for bad in bad_of(chunks)] == [(1, "0a.png"), (3, "1a.png"), (5, "2a.png")]
    for bad, why in zip(bad_of(chunks), ("mode='L'", "5 x 7 pixels, not the 6 x 7", "cannot be read"), strict=True):
        assert why in bad.reason
    np.testing.assert_array_equal(scored(detector, chunks), detector.score_samples(images[:6]))
    assert sum(chunk.seen for chunk in chunks) == 9
    before = one.fingerprint()
    Image.fromarray(images[9]).save(tmp_path / "tiles" / "3.png")
    assert one.fingerprint() != before
    with pytest.raises(ValueError, match=r"0a\.png|2a\.png"):
        open_inputs(detector, tmp_path / "tiles")


# ---------------------------------------------------------------------- folders that are columns, and URLs


def test_folders_that_are_columns_are_scored_and_kept(frame: pd.DataFrame, tmp_path: Path) -> None:
    for city, some in frame.groupby("city"):
        for flag, few in some.groupby("flag"):
            kind = "parquet" if flag else "csv"
            write(few.drop(columns=["city", "flag"]), tmp_path / "t" / f"city={city}" / f"flag={flag}" / f"x.{kind}")
    train = batch.read_training_rows(tmp_path / "t")
    assert sorted(train.columns) == sorted(frame.columns)
    detector = MixtureDetector(exclude=("id",), **OPTIONS).fit(frame)
    expected = dict(zip(frame["id"], detector.score_samples(frame), strict=True))
    opened = open_inputs(detector, tmp_path / "t", ["id", "city"])
    assert len(opened) == 6
    chunks = read(opened)
    found = {
        int(i): score
        for chunk in chunks
        for i, score in zip(chunk.kept["id"], detector.score_samples(chunk.rows), strict=True)
    }
    assert found == expected
    assert {city for chunk in chunks for city in chunk.kept["city"]} == {"Ghent", "Lyon", "007"}
    [one] = open_inputs(detector, tmp_path / "t" / "city=007" / "flag=False" / "x.csv")
    assert set(read([one])[0].rows["city"]) == {"007"}
    (tmp_path / "t" / "city=Lyon" / "flag=False").rename(tmp_path / "t" / "city=Lyon" / "flag=perhaps")
    with pytest.raises(ValueError, match="flag=perhaps"):
        open_inputs(detector, tmp_path / "t")
    assert sum(bad.row for bad in bad_of(read(open_inputs(detector, tmp_path / "t", on_bad="skip")))) == -1


@pytest.fixture
def memory(frame: pd.DataFrame, tmp_path: Path) -> Any:
    """The same rows behind URLs that fsspec knows and Arrow does not."""
    held = fsspec.filesystem("memory")
    for name in KINDS:
        path = write(frame, tmp_path / name)
        held.pipe(f"/bucket/day=1/{name}", path.read_bytes())
    yield held
    held.rm("/bucket", recursive=True)


def test_urls_are_read_as_files_are(detector: Detector, scores: np.ndarray, tmp_path: Path, memory: Any) -> None:
    for base in (f"file://{tmp_path}", "memory://bucket/day=1"):
        opened = open_inputs(detector, base, ["id"])
        assert [one.stem for one in opened] == ["a"] * 6
        for one, name in zip(opened, sorted(KINDS), strict=True):
            assert one.name == f"{base}/{name}"
            np.testing.assert_array_equal(scored(detector, read([one])), scores)
            assert one.fingerprint() == open_inputs(detector, tmp_path / name)[0].fingerprint()
            assert numbers_of(read([pickle.loads(pickle.dumps(one))])) == list(range(N))
        [one] = open_inputs(detector, f"{base}/*.parquet")
        assert one.name == f"{base}/a.parquet"
        with pytest.raises(FileNotFoundError, match=r"no\.csv"):
            open_inputs(detector, f"{base}/no.csv")
    assert len(open_inputs(detector, "memory://bucket/**/*.csv*", ["day"])) == 2


def test_arrays_behind_urls(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = MixtureDetector(**OPTIONS).fit(numbers)
    np.savez(tmp_path / "a.npz", X=numbers, label=np.arange(400))
    [one] = open_inputs(detector, f"file://{tmp_path}/a.npz", ["label"])
    assert np.concatenate([chunk.kept["label"] for chunk in read([one])]).tolist() == list(range(400))


def test_a_scheme_decides_who_opens_a_url() -> None:
    url = "s3://key:secret@bucket/day%201/a.parquet?region=eu-west-1&scheme=http"
    system, path = filesystem(url)
    assert isinstance(system, fs.S3FileSystem)
    assert (system.region, path) == ("eu-west-1", "bucket/day 1/a.parquet")
    assert remote(url).name == "a.parquet"
    assert "secret" not in str(remote(url))
    assert isinstance(filesystem("memory://bucket/a.csv")[0], fs.PyFileSystem)
    with pytest.raises(ValueError, match=r"odd://bucket/a\.csv: .*odd"):
        filesystem("odd://bucket/a.csv")
