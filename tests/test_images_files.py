"""Folders of images: what comes out of which file, what is refused, and that nothing is read before it is asked for."""

from __future__ import annotations

import pickle
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from anomgen.data import BadImage, ImageFolder, images, pixels

SIZE = (6, 9)
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, *SIZE)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (5, *SIZE, 3)).astype(np.uint8)


def save(folder: Path, arrays: Any, pattern: str = "{:02d}.png") -> list[Path]:
    files = [folder / pattern.format(i) for i in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)
    return files


def only(tmp_path: Path, image: Image.Image, name: str = "one.png", **options: Any) -> np.ndarray:
    """What a folder gives that holds nothing but `image`."""
    image.save(tmp_path / name, **options)
    return ImageFolder(tmp_path)[0]


def spoil(file: Path, how: str) -> Path:
    """Damage a file: in its header or its pixels."""
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "text": b"not an image", "cut": content[: len(content) // 2]}[how])
    return file


# ---------------------------------------------------------------------- a sequence of images


@pytest.mark.parametrize(("arrays", "shape"), [(GREY, SIZE), (COLOUR, (*SIZE, 3))], ids=["grey", "colour"])
def test_a_folder_is_indexed_as_the_array_of_its_images(tmp_path: Path, arrays: np.ndarray, shape: Any) -> None:
    files = save(tmp_path, arrays)
    folder = ImageFolder(tmp_path)
    assert (len(folder), folder.shape, folder.image_shape, folder.dtype) == (5, (5, *shape), shape, np.uint8)
    assert folder.files == tuple(files)
    assert folder.labels is None
    for rows in (
        0,
        -1,
        slice(1, 4),
        slice(None, None, -2),
        slice(9, 12),
        [3, 0, 3],
        np.array([False, True] * 2 + [True]),
    ):
        np.testing.assert_array_equal(folder[rows], arrays[rows])
        assert folder[rows].dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(folder), arrays)
    np.testing.assert_array_equal(np.stack(list(folder)), arrays)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(folder)).read(), arrays)
    few = folder.take([4, 1])
    np.testing.assert_array_equal(few.read(), arrays[[4, 1]])
    assert (few.names, few.shape) == (("04.png", "01.png"), (2, *shape))
    assert len(folder) == 5
    with pytest.raises(IndexError):
        folder[5]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF", "JPG", "jpeg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    smooth = np.linspace(0, 200, 6 * 9).reshape(SIZE).astype(np.uint8)
    found = only(tmp_path, Image.fromarray(smooth), f"one.{suffix}")
    np.testing.assert_allclose(found, smooth, atol=8 if suffix in ("JPG", "jpeg") else 0)


def test_sub_folders_are_labels_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for place, image in zip(("good", "crack/deep", "_masks", ".cache", "."), GREY, strict=True):
        save(tmp_path / place, [image])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "loop").symlink_to(tmp_path)
    folder = ImageFolder(tmp_path)
    assert folder.names == ("00.png", "crack/deep/00.png", "good/00.png")
    assert folder.labels is not None
    assert folder.labels.tolist() == ["", "crack/deep", "good"]
    np.testing.assert_array_equal(folder.read(), GREY[[4, 1, 0]])
    named = ImageFolder([tmp_path / "good" / "00.png", tmp_path / "00.png"])
    assert named.labels is None
    np.testing.assert_array_equal(named.read(), GREY[[0, 4]])


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, GREY)
    decoded: list[str] = []
    real = pixels.read_pixels
    monkeypatch.setattr(images, "read_pixels", lambda file, *rest: decoded.append(file.name) or real(file, *rest))
    folder = ImageFolder(tmp_path)
    assert folder.take(slice(1, 4)).shape == (3, *SIZE)
    assert decoded == []
    folder[1:3]
    assert decoded == ["01.png", "02.png"]


def test_thousands_of_files_are_opened_fast(tmp_path: Path) -> None:
    content = save(tmp_path, GREY[:1])[0].read_bytes()
    for i in range(3000):
        (tmp_path / f"{i:04d}.png").write_bytes(content)
    began = time.process_time()
    assert len(ImageFolder(tmp_path)) == 3001
    assert time.process_time() - began < 3


# ---------------------------------------------------------------------- kinds of pixels


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = GREY[0] > 128
    np.testing.assert_array_equal(only(tmp_path, Image.fromarray(bits)), np.where(bits, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept_and_scaled_on_request(tmp_path: Path, suffix: str) -> None:
    deep = RNG.integers(0, 65536, SIZE).astype(np.uint16)
    found = only(tmp_path, Image.fromarray(deep), f"one.{suffix}")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, deep)
    np.testing.assert_array_equal(ImageFolder(tmp_path, mode="L")[0], np.rint(deep / 257))
    resized = ImageFolder(tmp_path, size=(3, 4))[0]
    assert (resized.dtype, resized.shape) == (np.uint16, (3, 4))
    assert resized.mean() == pytest.approx(deep.mean(), rel=0.1)


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (4, 3)).astype(np.uint8)
    numbers = RNG.integers(0, 4, SIZE).astype(np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(only(tmp_path, image), colours[numbers])
    greys = np.repeat(colours[:, :1], 3, axis=1)
    image.putpalette(greys.tobytes())
    np.testing.assert_array_equal(only(tmp_path, image), greys[numbers][..., 0])


def with_alpha(mode: str, opaque: bool) -> tuple[Image.Image, np.ndarray]:
    base = COLOUR[0] if mode == "RGBA" else GREY[0]
    image = Image.fromarray(base)
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[0, 0] = 255 if opaque else 254
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    return image, base


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_where_it_hides_nothing(tmp_path: Path, mode: str) -> None:
    image, base = with_alpha(mode, opaque=True)
    np.testing.assert_array_equal(only(tmp_path, image), base)
    with_alpha(mode, opaque=False)[0].save(tmp_path / "one.png")
    with pytest.raises(BadImage, match=r"one\.png: it has transparent pixels"):
        ImageFolder(tmp_path).read()


@pytest.mark.parametrize("kind", ["L", "RGB", "P", "I;16"])
def test_a_transparent_colour_counts_as_alpha(tmp_path: Path, kind: str) -> None:
    if kind == "P":
        image = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(SIZE) % 4)
        image.putpalette(bytes([9, 0, 0, 0, 9, 0, 0, 0, 9, 9, 9, 9]))
        there: Any = 3
        absent: Any = bytes([255] * 4)
    else:
        flat = np.full((*SIZE, 3) if kind == "RGB" else SIZE, 7, np.uint16 if kind == "I;16" else np.uint8)
        image = Image.fromarray(flat)
        there, absent = ((7, 7, 7), (8, 7, 7)) if kind == "RGB" else (7, 8)
    assert image.mode == kind
    assert only(tmp_path, image, transparency=absent).shape[:2] == SIZE
    with pytest.raises(BadImage, match="transparent"):
        only(tmp_path, image, transparency=there)


def test_cmyk_is_converted_on_request(tmp_path: Path) -> None:
    Image.fromarray(COLOUR[0]).convert("CMYK").save(tmp_path / "ink.tif")
    with pytest.raises(BadImage, match=r"ink\.tif: its colours are CMYK; pass mode='RGB'"):
        ImageFolder(tmp_path)
    np.testing.assert_allclose(ImageFolder(tmp_path, mode="RGB")[0], COLOUR[0], atol=1)
    assert ImageFolder(tmp_path, mode="L").shape == (1, *SIZE)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones(SIZE, np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(BadImage, match=r"deep\.tif: its pixels are of the kind F; convert it to 8 or 16 bits"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_images_come_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    blocks = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((8, 8))).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(blocks).save(tmp_path / f"one.{suffix}", exif=exif)
    upright = {1: blocks, 2: blocks[:, ::-1], 3: blocks[::-1, ::-1], 6: np.rot90(blocks, -1), 8: np.rot90(blocks)}
    folder = ImageFolder(tmp_path)
    assert folder.image_shape == upright[orientation].shape
    np.testing.assert_allclose(folder[0], upright[orientation], atol=6)


@pytest.mark.parametrize("orientation", [0, 9, b"Exif\0\0not what it says"])
def test_metadata_that_make_no_sense_spoil_no_image(tmp_path: Path, orientation: Any) -> None:
    exif: Any = orientation
    if not isinstance(orientation, bytes):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(only(tmp_path, Image.fromarray(GREY[0]), exif=exif), GREY[0])


# ---------------------------------------------------------------------- one size and one kind


def test_mixed_sizes_are_named_or_resized(tmp_path: Path) -> None:
    save(tmp_path, [*GREY[:2], np.tile(GREY[2], (2, 3))])
    with pytest.raises(
        ValueError, match=r"00\.png has 6 x 9 pixels and .*02\.png has 12 x 27 \(height x width\).*size="
    ):
        ImageFolder(tmp_path)
    folder = ImageFolder(tmp_path, size=SIZE)
    np.testing.assert_array_equal(folder[:2], GREY[:2])
    assert ImageFolder(tmp_path, size=4).shape == (3, 4, 4)
    with pytest.raises(ValueError, match=r"size=\(0, 4\)"):
        ImageFolder(tmp_path, size=(0, 4))


def test_reduction_averages_instead_of_skipping(tmp_path: Path) -> None:
    """Every other pixel is white: without antialiasing some of the reduced ones would be black or white."""
    save(tmp_path, [np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255])
    np.testing.assert_allclose(ImageFolder(tmp_path, size=8)[0], 127.5, atol=1)


def test_grey_and_colour_do_not_mix_unless_converted(tmp_path: Path) -> None:
    save(tmp_path, [GREY[0], COLOUR[0]])
    with pytest.raises(ValueError, match=r"00\.png is grey and .*01\.png is colour; .*mode='L' or mode='RGB'"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, mode="L").shape == (2, *SIZE)
    both = ImageFolder(tmp_path, mode="RGB").read()
    np.testing.assert_array_equal(both[0], np.repeat(GREY[0][..., None], 3, axis=2))
    np.testing.assert_array_equal(both[1], COLOUR[0])
    with pytest.raises(ValueError, match="mode='grey' must be one of"):
        ImageFolder(tmp_path, mode="grey")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("how", "reason"), [("empty", "it is empty"), ("text", "it is no image"), ("cut", "cannot be read as an image")]
)
def test_a_bad_file_is_named_or_left_out(tmp_path: Path, how: str, reason: str) -> None:
    save(tmp_path / "day", GREY)
    spoil(tmp_path / "day" / "03.png", how)
    with pytest.raises(BadImage, match=rf"03\.png: .*{reason}"):
        ImageFolder(tmp_path).read()
    folder = ImageFolder(tmp_path, on_bad="quarantine")
    assert len(folder) == 4
    np.testing.assert_array_equal(folder.read(), GREY[[0, 1, 2, 4]])
    [bad] = folder.bad
    assert bad.file == "day/03.png"
    assert reason in bad.reason


def test_chunks_decode_once_and_leave_bad_files_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save(tmp_path, GREY)
    spoil(files[0], "text")
    spoil(files[3], "cut")
    decoded: list[str] = []
    real = pixels.read_pixels
    monkeypatch.setattr(images, "read_pixels", lambda file, *rest: decoded.append(file.name) or real(file, *rest))
    folder = ImageFolder(tmp_path, on_bad="quarantine")
    parts = list(folder.chunks(2))
    assert [names for names, _ in parts] == [["01.png", "02.png"], ["04.png"]]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), GREY[[1, 2, 4]])
    assert [bad.file for bad in folder.bad] == ["00.png", "03.png"]
    assert len(folder) == 3
    assert decoded == ["01.png", "02.png", "03.png", "04.png"]


def test_a_file_that_goes_bad_later_is_an_error(tmp_path: Path) -> None:
    files = save(tmp_path, GREY)
    folder = ImageFolder(tmp_path, on_bad="quarantine")
    assert len(folder) == 5
    files[2].unlink()
    with pytest.raises(BadImage, match=r"02\.png: .*No such file"):
        folder.read()
    with pytest.raises(BadImage, match=r"02\.png"):
        list(folder.chunks(2))


def test_a_flipped_byte_among_the_pixels_is_noticed(tmp_path: Path) -> None:
    [file] = save(tmp_path, RNG.integers(0, 256, (1, 40, 40)).astype(np.uint8))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadImage, match=r"00\.png"):
        ImageFolder(tmp_path).read()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \.png"):
        ImageFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")
    spoil(save(tmp_path, GREY[:1])[0], "text")
    with pytest.raises(ValueError, match=r"none of 1 images can be read; 00\.png: it is no image"):
        ImageFolder(tmp_path, on_bad="quarantine")


@pytest.mark.parametrize("side", [8193, 12_000, 60_000])
def test_an_image_that_announces_too_much_is_not_decoded(tmp_path: Path, side: int) -> None:
    """A file of a few bytes whose header promises gigabytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(BadImage, match=r"bomb\.png: it announces more than 67,108,864 pixels"):
        ImageFolder(tmp_path)
    save(tmp_path, GREY)
    assert [bad.file for bad in ImageFolder(tmp_path, on_bad="quarantine").bad] == ["bomb.png"]


def test_only_readers_of_the_formats_named_are_reached(tmp_path: Path) -> None:
    """A GIF that calls itself PNG is no PNG, and neither is PostScript, which would be run."""
    Image.fromarray(GREY[0]).save(tmp_path / "one.png", format="GIF")
    with pytest.raises(BadImage, match=r"no image in one of the formats PNG, JPEG, BMP, TIFF"):
        ImageFolder(tmp_path)
