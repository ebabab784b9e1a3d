"""Cards and their checksums, and the sets they describe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anomgen.data
from anomgen import data
from anomgen.data import catalog

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


def test_everything_public_is_there() -> None:
    assert all(hasattr(anomgen.data, name) for name in anomgen.data.__all__)
