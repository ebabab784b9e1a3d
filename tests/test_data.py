"""Cards and their checksums, the payments recipe, and files read in chunks."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anomgen.data
from anomgen import data
from anomgen.data import catalog, text
from anomgen.encode import TableEncoder

SHIPPED = {
    "breast_cancer": (569, 30, 212),
    "wine": (178, 13, 59),
    "digits": (1797, 64, 178),
    "payments": (10_000, 12, 200),
}


def test_import_is_light() -> None:
    code = "import sys, anomgen.data; print([m for m in ('pandas', 'pyarrow', 'sklearn', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", data.cards())
def test_every_card_is_whole(name: str) -> None:
    card = data.read_card(name)
    assert card.title
    assert card.description
    assert card.source
    assert card.licence
    assert card.get
    assert card.rows > 0
    assert card.n_columns > 0
    assert len(card.columns) in (0, card.n_columns)
    assert set(card.kinds) <= set(card.columns)
    assert bool(card.normal) == bool(card.anomaly)
    assert not set(card.normal) & set(card.anomaly)
    assert not card.image or card.image[0] * card.image[1] == card.n_columns
    assert (card.format == "generator") == (len(card.sha256) != 64)
    if card.format == "npz":
        assert "https://" in card.get
        assert "{path}" in card.get
        assert card.arrays


def test_the_cards_that_are_promised() -> None:
    names = data.cards()
    assert sum(name.startswith("adbench_") for name in names) == 22
    assert {"mnist", "fashion_mnist", "magnetic_tile", *SHIPPED} <= set(names)


@pytest.mark.parametrize("name", SHIPPED)
def test_sets_that_need_no_download(name: str) -> None:
    dataset = data.load_dataset(name)
    rows, columns, anomalies = SHIPPED[name]
    assert dataset.X.shape == (rows, columns) == (dataset.card.rows, dataset.card.n_columns)
    assert dataset.y is not None
    assert int(dataset.y.sum()) == anomalies
    assert tuple(dataset.X.columns) == dataset.card.columns
    assert set(np.unique(dataset.labels)) == {*dataset.card.normal, *dataset.card.anomaly}


def test_labels_mean_what_the_card_says() -> None:
    dataset = data.load_dataset("breast_cancer")
    malignant = dataset.X["mean_radius"][dataset.y == 1]
    assert malignant.mean() > dataset.X["mean_radius"][dataset.y == 0].mean() + 3


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match=r"'adbench_cardo'.*adbench_cardio"):
        data.load_dataset("adbench_cardo")


def test_absent_file_says_what_to_get_and_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DatasetNotFound) as caught:
        data.load_dataset("adbench_cardio")
    text = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert "Classical/6_cardio.npz" in text
    assert "data/adbench/cardio.npz" in text
    assert str(tmp_path / "data") in text
    with pytest.raises(data.DatasetNotFound, match=r"elsewhere/images/mnist\.npz"):
        data.load_dataset("mnist", root="elsewhere")


def test_wrong_content_names_both_sums(tmp_path: Path) -> None:
    (tmp_path / "adbench").mkdir()
    X, y = np.zeros((1831, 21)), np.zeros(1831)
    np.savez(tmp_path / "adbench" / "cardio.npz", X=X, y=y)
    with pytest.raises(data.ChecksumError) as caught:
        data.load_dataset("adbench_cardio", root=tmp_path)
    assert data.content_sha256(X, y) in str(caught.value)
    assert data.read_card("adbench_cardio").sha256 in str(caught.value)


class Trap:
    """Shouts when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (Path.write_text, (Path("sprung"), "!"))  # type: ignore[return-value]


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adbench").mkdir()
    np.savez(tmp_path / "adbench" / "cardio.npz", X=np.array([[Trap()]]), y=np.zeros(1))
    with pytest.raises(ValueError, match=r"cardio\.npz cannot be read"):
        data.load_dataset("adbench_cardio", root=tmp_path)
    with pytest.raises(ValueError, match=r"cardio\.npz.*unpickled"):
        data.read_table("adbench/cardio.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adbench").mkdir()
    (tmp_path / "adbench" / "cardio.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cardio\.npz cannot be read"):
        data.load_dataset("adbench_cardio", root=tmp_path)


def test_content_sum_ignores_storage_and_sees_every_value() -> None:
    X = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    y = np.array([0, 1, 0])
    same = data.content_sha256(X, y)
    assert same == data.content_sha256(np.asfortranarray(X.astype(np.int16)), y.astype(np.uint8))
    assert same == data.content_sha256(np.where(X == 0, -0.0, X).astype(">f8"), y.astype(float))
    assert same != data.content_sha256(np.where(X == 3, 3 + 1e-9, X), y)
    assert same != data.content_sha256(X[[1, 0, 2]], y)
    assert same != data.content_sha256(X.reshape(2, 3), y)
    assert same != data.content_sha256(X, 1 - y)


@pytest.fixture
def own_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the cards instead of the package's."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(catalog, "_folder", lambda: folder)
    return folder


def write_card(folder: Path, name: str, split: str, sha256: str, arrays: str, more: str = "") -> None:
    text = "".join(f'{key} = "x"\n' for key in ("title", "description", "source", "licence", "get"))
    text += f'name = "{name}"\nformat = "npz"\nfile = "{name}.npz"\nsplit = "{split}"\nsha256 = "{sha256}"\n'
    (folder / f"{name}.toml").write_text(f"{text}rows = 1\nn_columns = 1\n{more}{arrays}")


ARRAYS = """
[[arrays]]
part = "train"
x = ["train_images", "x_train"]
labels = ["train_labels", "y_train"]
[[arrays]]
part = "test"
x = ["test_images", "x_test"]
labels = ["test_labels", "y_test"]
"""


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, size=(140, 4, 4)).astype(np.uint8), np.repeat([0, 1], 70)


def test_publishers_parts_are_kept(own_cards: Path, tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    X, labels = pictures
    order = np.random.default_rng(0).permutation(140)
    X, labels = X[order], labels[order]
    write_card(own_cards, "parted", "parts", data.content_sha256(X, labels), ARRAYS)
    np.savez(tmp_path / "parted.npz", x_train=X[:100], y_train=labels[:100], x_test=X[100:], y_test=labels[100:])
    dataset = data.load_dataset("parted", root=tmp_path)
    assert dataset.X.dtype == np.uint8
    assert dataset.y is None
    assert dataset.test is not None
    with pytest.raises(ValueError, match="one_class"):
        dataset.split()
    train, test, y_test = dataset.one_class([1]).split(seed=5)
    np.testing.assert_array_equal(train, X[:100][labels[:100] == 1])
    np.testing.assert_array_equal(test, X[100:])
    np.testing.assert_array_equal(y_test, labels[100:] == 0)
    with pytest.raises(ValueError, match=r"the classes of parted are \[0 1\]"):
        dataset.one_class([7])


def test_split_by_content_is_the_same_for_every_arrangement(
    own_cards: Path, tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    X, labels = pictures
    found = []
    for seed, cut in ((0, 90), (1, 33)):
        order = np.random.default_rng(seed).permutation(140)
        names = {"train_images": X[order[:cut]], "train_labels": labels[order[:cut]]}
        np.savez(tmp_path / "free.npz", **names, test_images=X[order[cut:]], test_labels=labels[order[cut:]])
        if not found:
            write_card(own_cards, "free", "content", "", ARRAYS)
            with pytest.raises(data.ChecksumError) as caught:
                data.load_dataset("free", root=tmp_path)
            write_card(own_cards, "free", "content", str(caught.value).split("content is ")[1][:64], ARRAYS)
        found.append(data.load_dataset("free", root=tmp_path))
    np.testing.assert_array_equal(found[0].X, found[1].X)
    np.testing.assert_array_equal(found[0].test, found[1].test)
    assert found[0].test is not None
    np.testing.assert_array_equal(np.bincount(found[0].labels[found[0].test]), [10, 10])


def test_masks_come_with_their_images(own_cards: Path, tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    X, labels = pictures
    masks = (X > 200).astype(np.uint8)
    arrays = '[[arrays]]\nx = ["images"]\nlabels = ["defect"]\nmasks = ["masks"]\n'
    more = "normal = [0]\nanomaly = [1]\nimage = [4, 4]\n"
    np.savez(tmp_path / "tiles.npz", images=X, defect=labels, masks=masks)
    write_card(own_cards, "tiles", "half", data.content_sha256(X, labels), arrays, more)
    with pytest.raises(data.ChecksumError):
        data.load_dataset("tiles", root=tmp_path)
    write_card(own_cards, "tiles", "half", data.content_sha256(X, labels, masks), arrays, more)
    dataset = data.load_dataset("tiles", root=tmp_path)
    _, test = dataset.split_rows(0)
    assert dataset.masks is not None
    np.testing.assert_array_equal(dataset.masks, masks)
    np.testing.assert_array_equal(dataset.images, X)
    np.testing.assert_array_equal(dataset.take(test).masks, masks[test])
    np.savez(tmp_path / "tiles.npz", images=X, defect=labels, other=masks)
    with pytest.raises(ValueError, match=r"tiles\.npz cannot be read as x: .*not masks"):
        data.load_dataset("tiles", root=tmp_path)


def test_rows_of_pixels_are_images_too() -> None:
    digits = data.load_dataset("digits")
    assert digits.masks is None
    assert (digits.images.shape, digits.images.dtype, digits.images.max()) == ((1797, 8, 8), np.uint8, 255)
    np.testing.assert_array_equal(digits.images.reshape(1797, 64), np.rint(digits.X.to_numpy() * 255 / 16))
    with pytest.raises(ValueError, match="wine holds no images"):
        _ = data.load_dataset("wine").images


def test_a_card_that_contradicts_itself_is_refused(own_cards: Path) -> None:
    write_card(own_cards, "odd", "thirds", "", ARRAYS)
    with pytest.raises(ValueError, match=r"card odd.*thirds"):
        data.read_card("odd")


@given(seed=st.integers(0, 2**32 - 1))
def test_split_uses_every_row_once_and_trains_on_normal_rows_only(seed: int) -> None:
    dataset = data.load_dataset("wine")
    train, test = dataset.split_rows(seed)
    assert dataset.y is not None
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(dataset)))
    assert not dataset.y[train].any()
    assert len(train) == int((dataset.y == 0).sum()) // 2
    X_train, X_test, y_test = dataset.split(seed)
    np.testing.assert_array_equal(X_train, dataset.X.iloc[train])
    np.testing.assert_array_equal(X_test, dataset.X.iloc[test])
    np.testing.assert_array_equal(y_test, dataset.y[test])


def test_splits_depend_on_the_seed_alone() -> None:
    dataset = data.load_dataset("wine")
    assert np.array_equal(dataset.split_rows(4)[0], dataset.split_rows(4)[0])
    assert not np.array_equal(dataset.split_rows(4)[0], dataset.split_rows(5)[0])


def test_take_keeps_rows_and_labels_together() -> None:
    dataset = data.load_dataset("digits")
    few = dataset.take(np.array([5, 0, 9]))
    np.testing.assert_array_equal(few.labels, dataset.labels[[5, 0, 9]])
    np.testing.assert_array_equal(few.X, dataset.X.iloc[[5, 0, 9]])
    assert few.y is not None
    assert dataset.y is not None
    np.testing.assert_array_equal(few.y, dataset.y[[5, 0, 9]])
    assert len(few) == 3


# ------------------------------------------------------------------------------------------------------------- payments


@pytest.fixture(scope="module")
def payments() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    return data.make_payments(20_000, anomaly_share=0.1, seed=1)


@given(n=st.integers(10, 300), share=st.floats(0, 0.5), seed=st.integers(0, 2**63 - 1))
def test_payments_of_any_size(n: int, share: float, seed: int) -> None:
    X, y, kind = data.make_payments(n, share, seed)
    assert len(X) == len(y) == len(kind) == n
    assert int(y.sum()) == round(n * share)
    np.testing.assert_array_equal(y, kind != "normal")
    counts = [int((kind == name).sum()) for name in ("local", "global", "dependency", "cluster")]
    assert sum(counts) == y.sum()
    assert max(counts) - min(counts) <= 1
    again, _, _ = data.make_payments(n, share, seed)
    pd.testing.assert_frame_equal(X, again)
    types = data.make_payments(10, 0)[0].dtypes
    assert X.dtypes.equals(types)


def test_payments_differ_by_seed_and_refuse_nonsense() -> None:
    assert not data.make_payments(50, seed=0)[0].equals(data.make_payments(50, seed=1)[0])
    with pytest.raises(ValueError, match="n_rows=9"):
        data.make_payments(9)
    with pytest.raises(ValueError, match=r"anomaly_share=0\.7"):
        data.make_payments(100, 0.7)


def test_payments_leave_global_random_state_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    data.make_payments(20)
    assert np.random.random() == before  # noqa: NPY002


def test_payments_look_like_payments(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, y, _ = payments
    normal = X[y == 0]
    np.testing.assert_allclose(normal["amount"] * 100, (normal["amount"] * 100).round(), atol=1e-6)
    assert normal["amount"].min() > 0
    assert normal["amount"].skew() > 5
    assert 0.02 < (normal["balance"] < 0).mean() < 0.4
    assert set(normal["hour"]) <= set(range(24))
    assert set(normal["weekday"]) == set(range(7))
    assert normal["opened"].dtype.kind == "M"
    assert normal["verified"].dtype == bool
    missing = normal["distance_km"].isna().groupby(normal["channel"]).mean()
    assert missing["online"] > 0.8
    assert missing["shop"] < 0.05
    assert missing["atm"] == 0
    assert normal.loc[normal["device"].isna(), "channel"].unique().tolist() == ["online"]


def test_payments_columns_depend_on_one_another(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, y, _ = payments
    normal = X[y == 0]
    median = normal.groupby("category")["amount"].median()
    assert median["travel"] > 50 * median["transport"]
    hours = normal.groupby("category")["hour"].median()
    assert hours["transport"] < 10
    assert hours["restaurant"] > 18
    assert normal["distance_km"][normal["country"] != "DE"].median() > 100 * normal["distance_km"].median()
    assert np.corrcoef(normal["balance"], normal["payments_24h"])[0, 1] > 0.1


def test_each_kind_of_anomaly_is_what_it_is_called(payments: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    X, _, kind = payments
    normal = X[kind == "normal"]
    logs = np.log(normal["amount"]).groupby(normal["category"])
    local = X[kind == "local"]
    away = (np.log(local["amount"]) - local["category"].map(logs.mean())) / local["category"].map(logs.std())
    assert 2 < away.abs().median() < 4
    assert local["amount"].between(normal["amount"].min() / 3, 3 * normal["amount"].max()).mean() > 0.95
    extreme = X[kind == "global"]
    beyond = [extreme["amount"] > normal["amount"].max(), extreme["balance"] < normal["balance"].min()]
    assert np.all(beyond[0] | beyond[1] | (extreme["payments_24h"] > normal["payments_24h"].max()))
    cluster = X[kind == "cluster"]
    assert cluster["amount"].std() < 3
    assert set(cluster["country"]) == {"TH"}
    assert cluster["distance_km"].min() > 100 * normal["distance_km"].median()


def test_dependency_anomalies_are_ordinary_in_every_column_and_not_together(
    payments: tuple[pd.DataFrame, np.ndarray, np.ndarray],
) -> None:
    X, _, kind = payments
    normal, broken = X[kind == "normal"], X[kind == "dependency"]
    for name in X:
        if X[name].dtype.kind in "fiM":
            values = pd.to_numeric(normal[name]).rank(pct=True)
            cuts = pd.to_numeric(normal[name]).quantile([0.25, 0.5, 0.75])
            shares = [(pd.to_numeric(broken[name]) <= cut).mean() for cut in cuts]
            expected = [(pd.to_numeric(normal[name]) <= cut).mean() for cut in cuts]
            np.testing.assert_allclose(shares, expected, atol=0.08, err_msg=name)
            assert values.notna().any()
        else:
            assert set(broken[name].dropna()) <= set(normal[name].dropna())
    pairs = set(zip(normal["channel"], normal["device"].fillna(""), normal["category"], strict=True))
    unknown = [
        pair not in pairs
        for pair in zip(broken["channel"], broken["device"].fillna(""), broken["category"], strict=True)
    ]
    assert np.mean(unknown) > 0.3


def test_payments_recipe_is_frozen() -> None:
    """The published table is this one: a change of the recipe needs a new card."""
    X, y, kind = data.make_payments(200, 0.1, seed=0)
    assert X["category"].value_counts().to_dict() == FROZEN["category"]
    assert int(X["hour"].sum()) == FROZEN["hour"]
    assert int(X["payments_24h"].sum()) == FROZEN["payments_24h"]
    assert np.flatnonzero(y).tolist()[:5] == FROZEN["anomalies"]
    assert kind[np.flatnonzero(y)[0]] == FROZEN["kind"]


FROZEN: dict[str, object] = {
    "category": {
        "cash": 15,
        "clothing": 20,
        "electronics": 17,
        "fuel": 24,
        "groceries": 58,
        "restaurant": 34,
        "transport": 25,
        "travel": 7,
    },
    "hour": 2986,
    "payments_24h": 956,
    "anomalies": [0, 26, 30, 53, 55],
    "kind": "global",
}


def test_card_kinds_are_accepted_by_the_encoder() -> None:
    dataset = data.load_dataset("payments")
    encoder = TableEncoder(kinds=dict(dataset.card.kinds)).fit(dataset.X[dataset.y == 0])
    assert {column["column"]: column["kind"] for column in encoder.describe()} == dataset.card.kinds


# -------------------------------------------------------------------------------------------------------------- sources


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


def test_a_flipped_byte_in_an_npz_file_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.zeros((1000, 4)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz"):
        list(data.open_source(tmp_path / "x.npz", chunk_rows=100).chunks())


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


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [True, False])
def test_npz_rows_in_chunks(tmp_path: Path, order: str, compressed: bool) -> None:
    X = np.array(np.random.default_rng(0).normal(size=(101, 3)), order=order, dtype=np.float32)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "x.npz", X=X, y=np.arange(101), other=np.zeros((2, 2)))
    source = data.open_source(tmp_path / "x.npz", chunk_rows=25)
    chunks = list(source.chunks())
    assert [len(chunk) for chunk in chunks] == [25, 25, 25, 25, 1]
    assert source.rows == 101
    assert source.names == ()
    assert source.schema == {}
    np.testing.assert_array_equal(np.concatenate(chunks), X)
    np.testing.assert_array_equal(data.read_table(tmp_path / "x.npz", columns=[2, 0]), X[:, [2, 0]])
    np.testing.assert_array_equal(data.read_label(tmp_path / "x.npz", "y"), np.arange(101))
    chunks[0][:] = 0
    with pytest.raises(ValueError, match=r"no column 'a'; an array has positions 0 to 2"):
        data.open_source(tmp_path / "x.npz", columns=["a"])


def test_npz_without_an_array_called_X(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", rows=np.ones((4, 2)), y=np.arange(4))
    assert data.read_table(tmp_path / "x.npz").shape == (4, 2)
    np.savez(tmp_path / "x.npz", rows=np.ones((4, 2)), more=np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"it has \['rows', 'more'\]"):
        data.read_table(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", X=np.ones(4))
    with pytest.raises(ValueError, match=r"X has shape \(4,\)"):
        data.read_table(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", X=np.ones((5, 2, 3), np.uint8))
    np.savez(tmp_path / "y.npz", X=np.ones((2, 2, 3), np.uint8))
    assert data.read_table(tmp_path).shape == (7, 2, 3)
    np.savez(tmp_path / "y.npz", X=np.ones((2, 3)))
    with pytest.raises(ValueError, match="differ in shape"):
        data.read_table(tmp_path)


def write_idx(path: Path, array: np.ndarray, code: int, cut: int | None = None) -> Path:
    head = bytes([0, 0, code, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    content = (head + array.astype(array.dtype.newbyteorder(">")).tobytes())[:cut]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["x.idx", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "x.idx.gz"])
def test_idx_images_in_chunks(tmp_path: Path, name: str) -> None:
    X = np.random.default_rng(0).integers(0, 256, (11, 4, 3)).astype(np.uint8)
    path = write_idx(tmp_path / name, X, 0x08)
    write_idx(tmp_path / "labels.idx", np.arange(11, dtype=np.uint8), 0x08)
    source = data.open_source(path, chunk_rows=4)
    assert (source.rows, [len(chunk) for chunk in source.chunks()]) == (11, [4, 4, 3])
    np.testing.assert_array_equal(data.read_table(path), X)
    np.testing.assert_array_equal(data.read_label(path, "labels.idx"), np.arange(11))
    with pytest.raises(ValueError, match="none called 'label'"):
        data.read_label(path, "label")
    with pytest.raises(ValueError, match=r"labels\.idx: X has shape \(11,\).*only labels have one"):
        data.open_source(tmp_path / "labels.idx")
    with pytest.raises(ValueError, match="labels have one dimension"):
        data.read_label(path, name)


@pytest.mark.parametrize(("kind", "code"), [("i1", 9), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)])
def test_idx_numbers_of_every_type(tmp_path: Path, kind: str, code: int) -> None:
    X = (100 * np.random.default_rng(0).normal(size=(5, 3))).astype(kind)
    found = data.read_table(write_idx(tmp_path / "x.idx", X, code))
    assert found.dtype == X.dtype
    np.testing.assert_array_equal(found, X)


@pytest.mark.parametrize("name", ["x.idx", "x.idx.gz"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, name: str) -> None:
    X = np.zeros((5, 4, 3), np.uint8)
    for cut, message in ((3, "no IDX file"), (9, "cut off in its header"), (16 + 30, "ends in row 2 of 5")):
        with pytest.raises(ValueError, match=rf"x\.idx.*{message}"):
            data.read_table(write_idx(tmp_path / name, X, 8, cut))
    with pytest.raises(ValueError, match="no IDX file"):
        data.open_source(write_idx(tmp_path / name, X, 7))
    if name.endswith("gz"):
        path = write_idx(tmp_path / name, X, 8)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"x\.idx\.gz"):
            data.read_table(path)


def test_npz_files_of_images(tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=X, masks=X > 9, defect=np.arange(5))
    np.testing.assert_array_equal(data.read_table(tmp_path / "x.npz"), X)
    np.savez(tmp_path / "x.npz", pictures=np.asfortranarray(X), y=np.arange(5))
    [part] = data.open_source(tmp_path / "x.npz").chunks()
    np.testing.assert_array_equal(part, X)
    assert part.flags.c_contiguous
    np.savez(tmp_path / "x.npz", train=X, test=X)
    with pytest.raises(ValueError, match=r"in the only one of two or more dimensions; it has \['train', 'test'\]"):
        data.read_table(tmp_path / "x.npz")


def test_labels_of_a_table_and_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,label\n1.0,ok\n2.0,fraud\n")
    assert data.read_label(tmp_path / "t.csv", "label").tolist() == ["ok", "fraud"]
    with pytest.raises(ValueError, match="no column 'labels'; it has 'label'"):
        data.read_label(tmp_path / "t.csv", "labels")
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)), y=np.arange(2))
    with pytest.raises(ValueError, match=r"t\.npz: there is no array 'z' among \['X', 'y'\]"):
        data.read_label(tmp_path / "t.npz", "z")


def test_everything_public_is_there() -> None:
    assert all(hasattr(anomgen.data, name) for name in anomgen.data.__all__)
