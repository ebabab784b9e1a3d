"""Tables in files, read in chunks of one type a column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomgen import data
from anomgen.data import text


@pytest.fixture
def table() -> pd.DataFrame:
    """1,000 rows of every Arrow type a user's file is likely to have, integers and texts missing only at the end."""
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=1000),
            "count": pd.array(rng.integers(0, 9, 1000), dtype="Int64"),
            "flag": pd.array(rng.random(1000) < 0.5, dtype="boolean"),
            "word": rng.choice(["a", "b", "c"], 1000),
            "when": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 10**7, 1000), unit="s").astype("m8[us]"),
        }
    )
    frame.loc[950:, ["real", "count", "flag", "word"]] = pd.NA
    return frame


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.name.endswith("csv"):
        frame.to_csv(path, index=False)
    elif path.name.endswith("csv.gz"):
        frame.to_csv(path, index=False, compression="gzip")
    else:
        frame.to_parquet(path, index=False, row_group_size=300)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.pq"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 300, 1000, 5000])
def test_chunks_are_the_file_in_order_with_one_type_a_column(
    tmp_path: Path, table: pd.DataFrame, name: str, chunk_rows: int
) -> None:
    if chunk_rows == 1:
        table = table.iloc[920:980].reset_index(drop=True)
    path = write(table, tmp_path / name)
    source = data.open_source(path, chunk_rows=chunk_rows)
    chunks = list(source.chunks())
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1)
    assert source.names == tuple(table.columns)
    assert source.files == (path,)
    assert source.rows == (None if "csv" in name else len(table))
    assert all(chunk.dtypes.equals(chunks[0].dtypes) for chunk in chunks)
    whole = data.read_table(path)
    pd.testing.assert_frame_equal(pd.concat(chunks), whole)
    pd.testing.assert_frame_equal(whole, table, check_dtype=False)
    assert whole.dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_columns_are_chosen_and_ordered(tmp_path: Path, table: pd.DataFrame, name: str) -> None:
    path = write(table, tmp_path / name)
    chosen = data.read_table(path, columns=["word", "real"])
    pd.testing.assert_frame_equal(chosen, table[["word", "real"]], check_dtype=False)
    assert data.open_source(path, ["word", "real"]).schema["real"] == "double"
    with pytest.raises(ValueError, match=r"t\.\w+: there is no column 'words'; it has 'word'"):
        data.open_source(path, columns=["words"])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    peaks = []
    for rows in (200_000, 1_000_000):
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({f"x{j}": rng.normal(size=rows) for j in range(8)}), path, row_group_size=50_000)
        before, peak, seen = pa.total_allocated_bytes(), 0, 0
        for chunk in data.open_source(path, chunk_rows=20_000).chunks():
            peak = max(peak, pa.total_allocated_bytes() - before)
            seen += len(chunk)
        assert seen == rows
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]


def test_a_csv_cell_that_comes_late_cannot_change_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 4096)
    lines = [f"{i},{i}.5,w{i}" for i in range(5000)]
    path = tmp_path / "late.csv"
    path.write_text("\n".join(["id,amount,word", *lines, "5000,oops,w", "5001,1.0,w"]) + "\n")
    source = data.open_source(path, chunk_rows=1000)
    assert source.schema == {"id": "int64", "amount": "double", "word": "string"}
    with pytest.raises(ValueError, match=r"late\.csv: row 5,000, column 'amount': .*'oops'"):
        list(source.chunks())
    with pytest.raises(ValueError, match=r"row 5,000, column 'amount'"):
        data.read_table(path, columns=["word", "amount"])
    assert data.read_table(path, types={"amount": "string"})["amount"].iloc[5000] == "oops"
    path.write_text("\n".join(["id,amount,word", *lines, "1.5,1.0,w"]) + "\n")
    with pytest.raises(ValueError, match=r"row 5,000, column 'id': it is not a whole number"):
        data.read_table(path)
    assert data.read_table(path, types={"id": "double"})["id"].iloc[-1] == 1.5


def test_a_csv_cell_that_does_not_fit_is_no_new_kind_of_column(tmp_path: Path) -> None:
    path = tmp_path / "stray.csv"
    path.write_text("amount\n" + "1.5\n" * 40 + "?\n" + "2\n" * 10)
    with pytest.raises(ValueError, match=r"stray\.csv: row 40, column 'amount': '\?' is not a number"):
        data.open_source(path)
    path.write_text("code\n" + "7\nA3\n" * 40)
    assert data.read_table(path)["code"].iloc[1] == "A3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "there are no rows"),
        ("a,a\n1,2\n", r"columns \['a'\] appear more than once"),
        ("a,b\n1,2\n3\n", "row 1: it has 1 cells, not 2"),
        ("a,b\n1,\xff\xfe\n", "row 0, column 'b': it is not UTF-8"),
    ],
)
def test_a_csv_file_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        data.read_table(path)


@pytest.mark.parametrize("name", ["bad.parquet", "bad.npz", "bad.csv.gz"])
@pytest.mark.parametrize("content", [b"", b"neither one nor the other"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        data.open_source(tmp_path / name)


def test_a_truncated_parquet_or_npz_file_is_named(tmp_path: Path, table: pd.DataFrame) -> None:
    write(table, tmp_path / "whole.parquet")
    np.savez_compressed(tmp_path / "whole.npz", X=np.random.default_rng(0).normal(size=(500, 4)))
    for name in ("whole.parquet", "whole.npz"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=name):
            data.read_table(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    for place in ("no.csv", "no*.parquet", "no/where.npz"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*no"):
            data.open_source(tmp_path / place)
    with pytest.raises(FileNotFoundError, match=r"holds no \.parquet"):
        data.open_source(tmp_path)
    (tmp_path / "x.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"x\.xlsx: unknown kind of file; known are \.parquet"):
        data.open_source(tmp_path / "x.xlsx")
    with pytest.raises(ValueError, match="chunk_rows=0"):
        data.open_source(tmp_path / "x.csv", chunk_rows=0)


def test_folders_patterns_and_lists_in_the_order_of_their_paths(tmp_path: Path, table: pd.DataFrame) -> None:
    (tmp_path / "day=2").mkdir()
    write(table.iloc[600:], tmp_path / "day=2" / "a.parquet")
    write(table.iloc[:300], tmp_path / "day.csv")
    write(table.iloc[300:600], tmp_path / "day.parquet")
    (tmp_path / "_SUCCESS.csv").write_text("")
    (tmp_path / ".hidden.csv").write_text("")
    whole = data.read_table(tmp_path)
    pd.testing.assert_frame_equal(whole, table, check_dtype=False)
    source = data.open_source(tmp_path, chunk_rows=200)
    assert [file.name for file in source.files] == ["day.csv", "day.parquet", "a.parquet"]
    assert source.rows is None
    assert [len(chunk) for chunk in source.chunks()] == [200, 100, 200, 100, 200, 200]
    assert [chunk.index[0] for chunk in source.chunks()] == [0, 200, 300, 500, 600, 800]
    pattern = data.open_source(str(tmp_path / "**" / "*.parquet"))
    assert [file.name for file in pattern.files] == ["day.parquet", "a.parquet"]
    assert pattern.rows == 700
    backwards = data.read_table([tmp_path / "day.parquet", tmp_path / "day.csv"])
    assert backwards["real"].iloc[0] == table["real"].iloc[300]


def test_files_of_one_source_must_fit_together(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "b": [1.0, 2.0]}).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame({"b": [3, 4], "a": [3, 4]}).to_parquet(tmp_path / "2.parquet")
    whole = data.read_table(tmp_path)
    assert whole["b"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert list(whole) == ["a", "b"]
    pd.DataFrame({"a": ["x"], "b": [1.0]}).to_parquet(tmp_path / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet: .*x"):
        data.read_table(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet: there is no column 'b'"):
        data.open_source(tmp_path)
    pd.DataFrame({"a": [1], "b": [1.0], "c": [0]}).to_parquet(tmp_path / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet: the columns \['c'\] are not in the first file"):
        data.open_source(tmp_path)
    assert len(data.read_table(tmp_path, columns=["a", "b"])) == 5
    np.savez(tmp_path / "4.npz", X=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="cannot be read as one source"):
        data.open_source(tmp_path)


def test_the_types_of_training_read_the_file_to_score(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("shop,n\nA1,1\n7,2\n")
    (tmp_path / "score.csv").write_text("shop,n\n7,3\n")
    schema = data.open_source(tmp_path / "train.csv").schema
    assert data.read_table(tmp_path / "score.csv", types=schema)["shop"].tolist() == ["7"]
    frame = pd.DataFrame({"c": pd.Categorical(["7"]), "t": pd.to_datetime(["2024-01-01"], utc=True)})
    frame.to_parquet(tmp_path / "train.parquet")
    schema = data.open_source(tmp_path / "train.parquet").schema
    (tmp_path / "score.csv").write_text("c,t\n7,2024-01-01T00:00:00Z\n")
    scored = data.read_table(tmp_path / "score.csv", types=schema)
    assert scored["c"].tolist() == ["7"]
    assert scored["t"].iloc[0] == frame["t"].iloc[0]
    with pytest.raises(ValueError, match="'number' of column 'c' is no Arrow type"):
        data.open_source(tmp_path / "score.csv", types={"c": "number"})


def test_parquet_from_pandas_brings_its_columns_and_no_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "c": pd.Categorical(["u", "v"])}, index=pd.Index([5, 9]))
    frame.to_parquet(tmp_path / "indexed.parquet")
    whole = data.read_table(tmp_path / "indexed.parquet")
    assert list(whole) == ["x", "c"]
    assert whole.index.tolist() == [0, 1]
    assert isinstance(whole["c"].dtype, pd.CategoricalDtype)


def test_labels_of_a_table_and_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,label\n1.0,ok\n2.0,fraud\n")
    assert data.read_label(tmp_path / "t.csv", "label").tolist() == ["ok", "fraud"]
    with pytest.raises(ValueError, match="no column 'labels'; it has 'label'"):
        data.read_label(tmp_path / "t.csv", "labels")
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)), y=np.arange(2))
    with pytest.raises(ValueError, match=r"t\.npz: there is no array 'z' among \['X', 'y'\]"):
        data.read_label(tmp_path / "t.npz", "z")


@pytest.mark.parametrize("name", ["t.ndjson", "t.jsonl.gz"])
def test_lines_of_json_are_a_table(tmp_path: Path, table: pd.DataFrame, name: str) -> None:
    texts = table.assign(when=table["when"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    texts.to_json(tmp_path / name, orient="records", lines=True, double_precision=15)
    source = data.open_source(tmp_path / name, chunk_rows=300)
    assert [len(chunk) for chunk in source.chunks()] == [300, 300, 300, 100]
    pd.testing.assert_frame_equal(source.read(), table, check_dtype=False, rtol=1e-12)
    assert source.read().dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": "x"}\n', "row 1, column 'a': 'x' is of another type"),
        ('{"a": 1}\n[2]\n{"a": 3}\n', "row 1: the line is no JSON object"),
        ('{"a": 1}\n{"a": 2} {"a": 3}\n', "row 1: the line is no JSON object"),
        ("[1]\n[2]\n", "it holds no JSON objects"),
    ],
)
def test_lines_of_json_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.ndjson").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.ndjson: .*{message}"):
        data.read_table(tmp_path / "bad.ndjson")


def test_folders_that_name_a_value_are_columns(tmp_path: Path) -> None:
    for month in ("01", "__HIVE_DEFAULT_PARTITION__"):
        for label in ("a%20b", "7"):
            folder = tmp_path / "t" / f"month={month}" / f"label={label}"
            folder.mkdir(parents=True)
            pd.DataFrame({"x": [0.0, 1.0], "label": ["own", "own"]}).to_parquet(folder / "own.parquet")
            pd.DataFrame({"x": [0.0, 1.0]}).to_csv(folder / "x.csv", index=False)
    with pytest.raises(ValueError, match=r"there is no column|are not in the first file"):
        data.open_source(tmp_path / "t" / "month=01", columns=["month"])
    whole = data.read_table(tmp_path / "t")
    assert data.open_source(tmp_path / "t").schema == {"x": "double", "label": "large_string", "month": "int64"}
    assert whole["month"].isna().tolist() == [False] * 8 + [True] * 8
    assert sorted(whole["label"].unique()) == ["7", "a b", "own"]
    assert data.read_label(tmp_path / "t", "month")[:2].tolist() == [1, 1]
    assert data.read_label(str(tmp_path / "t" / "month=01" / "*" / "*.csv"), "label").tolist() == [
        "7",
        "7",
        "a b",
        "a b",
    ]
    with pytest.raises(ValueError, match=r"label=a b: it is not a whole number"):
        data.open_source(tmp_path / "t", types={"label": "int64"})
