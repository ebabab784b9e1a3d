"""Arrays in files: npz and IDX."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from anomgen import data


def test_a_flipped_byte_in_an_npz_file_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.zeros((1000, 4)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz"):
        list(data.open_source(tmp_path / "x.npz", chunk_rows=100).chunks())


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
    write_idx(tmp_path / name, X, 8, 16 + 30)
    assert len(next(data.open_source(tmp_path / name).chunks())) == 2, "what there is comes before the error"
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
