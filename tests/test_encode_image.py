"""Images in and out of model space: layouts, ranges, sizes, and what a level costs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomgen.data import ImageFolder
from anomgen.encode import ImageEncoder, encoder_from_state, is_images
from anomgen.generative import PIXEL_WIDTH, Space


def some(n: int = 5, shape: tuple[int, ...] = (6, 7), dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(dtype)


LAYOUTS = {
    "grey": ((6, 7), None, (1, 6, 7)),
    "channels last": ((6, 7, 3), None, (3, 6, 7)),
    "one channel last": ((6, 7, 1), None, (1, 6, 7)),
    "channels first": ((3, 6, 7), None, (3, 6, 7)),
    "flat": ((42,), (6, 7), (1, 6, 7)),
    "flat colour, channels last": ((126,), (6, 7, 3), (3, 6, 7)),
    "flat colour, channels first": ((126,), (3, 6, 7), (3, 6, 7)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_comes_back_as_it_was(layout: str) -> None:
    given, shape, inner = LAYOUTS[layout]
    images = some(shape=given)
    encoder = ImageEncoder(shape).fit(images)
    assert encoder.shape_ == inner
    assert Space(**encoder.layout()) == Space.pixels(*inner)
    for codes in (False, True):
        back = encoder.decode(encoder.encode(images, codes=codes).z, codes)
        assert back.dtype == images.dtype
        assert np.array_equal(back, images)


def test_channels_lie_where_the_space_says() -> None:
    images = some(shape=(6, 7, 3))
    z = ImageEncoder().fit(images).encode(images, codes=True).z
    assert z.reshape(5, 3, 6, 7)[2, 1, 4, 5] == pytest.approx((2 * int(images[2, 4, 5, 1]) + 1) / 256 - 1)


def test_pixels_fill_their_intervals() -> None:
    images = some(n=200)
    encoder = ImageEncoder().fit(images)
    scored, trained = encoder.encode(images), encoder.encode(images, cells=True)
    assert trained.box == pytest.approx(PIXEL_WIDTH)
    shift = scored.z - trained.z
    assert np.abs(shift).max() <= PIXEL_WIDTH / 2 + 1e-7
    # One draw of noise, the same for every row, and not the same for every pixel.
    assert np.allclose(shift, shift[:1], atol=1e-6)
    assert shift[0].std() == pytest.approx(PIXEL_WIDTH / 12**0.5, rel=0.3)
    assert np.array_equal(encoder.encode(images[3:4]).z, scored.z[3:4])
    # A uniform density of 1/2 on [-1, 1] has 8 bits a pixel.
    bits = -(encoder.dim * np.log(0.5) + scored.log_det) / np.log(2) / encoder.dim
    assert bits == pytest.approx(8.0)
    assert (encoder.encode(images, codes=True).log_det == 0).all()


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (some(), (0, 255)),
        (some().astype("uint16") * 257, (0, 65535)),
        (some() > 99, (0, 1)),
        (some() / 255, (0, 1)),
        (some() / 127.5 - 1, (-1, 1)),
        (some().astype("float32"), (0, 255)),
        (some() // 16 * 1.0, (0, 15)),
        (some().astype("int64"), (0, 255)),
    ],
    ids=["uint8", "uint16", "bool", "unit", "signed", "float of 255", "few levels", "int64"],
)
def test_ranges_follow_from_types_and_values(images: np.ndarray, expected: tuple[float, float]) -> None:
    encoder = ImageEncoder().fit(images)
    assert encoder.range_ == expected
    assert encoder.decode(encoder.encode(images).z).dtype == images.dtype
    assert np.allclose(encoder.decode(encoder.encode(images).z), images, atol=(expected[1] - expected[0]) / 510)


def test_levels_are_equal_however_pixels_are_scaled() -> None:
    images = some()
    z = ImageEncoder().fit(images).encode(images).z
    assert np.array_equal(ImageEncoder().fit(images / 255).encode(images / 255).z, z)
    scaled = images * 3.0 - 100
    assert np.array_equal(ImageEncoder(pixel_range=(-100, 665)).fit(scaled).encode(scaled).z, z)


def test_resizing_is_the_same_at_fit_and_in_scoring() -> None:
    images = some(shape=(12, 9, 3))
    encoder = ImageEncoder(size=(6, 5)).fit(images)
    assert encoder.shape_ == (3, 6, 5)
    z = encoder.encode(images, codes=True).z
    assert np.array_equal(encoder.encode(images[2:3], codes=True).z, z[2:3])
    assert encoder.encode(some(shape=(30, 40, 3)), codes=True).z.shape == (5, 90)
    flat = np.full((3, 20, 20), 77, dtype=np.uint8)
    flat[0] += 1
    assert (ImageEncoder(size=8).fit(flat).decode(ImageEncoder(size=8).fit(flat).encode(flat).z)[1] == 77).all()


def test_state_goes_through_json() -> None:
    images = some(shape=(6, 7, 3)) / 255
    encoder = ImageEncoder(size=4).fit(images)
    again = encoder_from_state(json.loads(json.dumps(encoder.state())))
    assert isinstance(again, ImageEncoder)
    assert np.array_equal(again.encode(images).z, encoder.encode(images).z)
    assert (
        again.describe()
        == encoder.describe()
        == [{"column": "image", "kind": "colour 4 x 4", "reason": "float64 of 0 to 1, resized", "missing": 0.0}]
    )


def broken(value: float) -> np.ndarray:
    images = some() / 255
    images[3, 2, 1] = value
    return images


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({}, some(shape=(6, 7, 4)), "transparency"),
        ({}, some(shape=(6, 7, 2)), "neither 1 nor 3 channels"),
        ({}, some(shape=(3, 7, 1)), "first or last"),
        ({}, some(shape=(2, 3, 6, 7)), "images have shape"),
        ({"shape": (6, 6)}, some(shape=(42,)), r"image_shape=\(6, 6\) does not fit"),
        ({}, [some(1)[0], some(1, shape=(6, 8))[0]], "images 0 and 1 differ in shape"),
        ({}, broken(np.nan), r"image 3 has a pixel that is nan at \(2, 1\)"),
        ({}, broken(np.inf), "inf"),
        ({}, broken(-700.0), r"pixel_range=\(low, high\)"),
        ({"pixel_range": (0, 1)}, broken(1.5), "image 3 has a pixel of 1.5"),
        ({}, np.full((4, 3, 3), 7, dtype=np.uint8), "all images are the same"),
        ({}, np.array([[["a"]]]), "not numbers"),
    ],
)
def test_what_cannot_be_read_is_named(options: dict[str, Any], images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder(**options).fit(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some(shape=(6, 8)), "image_size="),
        (some(shape=(6, 7, 3)), "shape"),
        (some(shape=(42,)), "shape"),
        (some().astype(float) + 200, "image 0 has a pixel of 4"),
    ],
)
def test_other_images_than_in_training_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder().fit(some()).encode(images)


def test_what_is_taken_for_images() -> None:
    assert is_images(some())
    assert is_images([some(1)[0]])
    assert is_images(some(shape=(6, 7, 3)))
    assert not is_images(some(shape=(7,)))
    assert not is_images([[1.0, 2.0]])
    assert not is_images([])


def test_the_size_of_a_source_is_remembered(tmp_path: Any) -> None:
    for i, image in enumerate(some(4, (12, 10))):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    encoder = ImageEncoder().fit(ImageFolder(tmp_path, size=(6, 5)))
    assert encoder.shape_ == (1, 6, 5)
    assert encoder.encode(some(2, (12, 10))).z.shape == (2, 30)
