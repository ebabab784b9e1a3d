"""Images to rows of pixels in model space, and back: layout, size, range and quantization, decided once at fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anomgen.encode.columns import Column
from anomgen.encode.frame import Dtype, Name
from anomgen.encode.rows import Encoded

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

LEVELS = 256
"""Values of a pixel: 8 bits."""
WIDTH = 2.0 / LEVELS
"""Width of the interval around each of them in model space, where they fill [-1, 1]."""
PIECE = 4_194_304
"""Pixels of images encoded at a time."""
KNOWN = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""Ranges that a type implies."""
GUESSED = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Ranges that other numbers may turn out to have, the first that holds all of them."""
DARKEST = 128.0
"""Largest value below which numbers are not taken for 8-bit levels: their own maximum is the brightest there is."""


def is_images(x: Any) -> bool:
    """Whether `x` is an array or a list of images, or a source of them, rather than a table."""
    if isinstance(x, list | tuple):
        return len(x) > 0 and getattr(x[0], "ndim", 0) >= 2
    return is_source(x) or len(getattr(x, "shape", ())) >= 3


def is_source(x: Any) -> bool:
    """Whether `x` says that it reads images when it is indexed, rather than holding them."""
    return bool(getattr(x, "is_image_source", False))


class ImageEncoder:
    r"""Turn images into rows of pixels between -1 and 1, exactly accounted.

    A pixel has one of 256 levels `k`; its place in model space is the middle of the `k`-th of 256 equal intervals,

    .. math:: z = \frac{2 k + 1}{256} - 1 .

    Densities of `z` become probabilities of images by the width of that interval: the log-determinant is
    :math:`d \log(2 / 256)`, and a uniform density has 8 bits a pixel. Such models see pixels with uniform noise that
    fills the interval, fresh in training and the same for all rows in scoring, so that the mean score is a lower bound
    of the mean log-probability.

    Parameters
    ----------
    shape : tuple of int, optional
        ``(height, width)``, ``(height, width, channels)`` or ``(channels, height, width)`` of one image, for rows that
        come flat or whose layout is ambiguous; otherwise the arrays tell.
    size : int or (height, width), optional
        Resize every image to this size; by default that of a source that resizes, or else all must have one size.
    pixel_range : (low, high) or "auto"
        Values of black and white. ``"auto"`` is the whole range of ``uint8``, ``uint16`` or ``bool``; other numbers are
        taken for [0, 1], [-1, 1] or [0, 255], whichever first holds all training pixels, but for [0, max] where nothing
        exceeds 127.

    Notes
    -----
    Other than 256 levels are rounded to them. Resizing is bilinear with antialiasing (Pillow's ``reducing`` filter), on
    levels, the same at fit and in scoring.

    References
    ----------
    Theis, van den Oord, Bethge (2016), *A note on the evaluation of generative models*, arXiv:1511.01844.

    Examples
    --------
    >>> encoder = ImageEncoder().fit(np.array([[[0, 255]], [[255, 0]]], dtype=np.uint8))
    >>> encoder.shape_, encoder.encode(np.array([[[0, 255]]], dtype=np.uint8), codes=True).z
    ((1, 1, 2), array([[-0.99609375,  0.99609375]], dtype=float32))
    """

    container_ = "images"

    shape_: tuple[int, int, int]
    given_: tuple[int, ...]
    range_: tuple[float, float]
    dtype_: str
    layout_: Literal["grey", "last", "first"]

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        size: int | Sequence[int] | None = None,
        pixel_range: Sequence[float] | Literal["auto"] = "auto",
    ) -> None:
        self.shape = None if shape is None else tuple(int(side) for side in shape)
        self.size = None if size is None else ((size, size) if isinstance(size, int) else (int(size[0]), int(size[1])))
        self.pixel_range = pixel_range if isinstance(pixel_range, str) else tuple(float(v) for v in pixel_range)

    # ------------------------------------------------------------------ fitting

    def fit(self, x: Any, weight: Array | None = None) -> ImageEncoder:
        """Decide on layout, size and range from the training images.

        Parameters
        ----------
        x : array of shape (n, h, w), (n, h, w, c), (n, c, h, w) or (n, h * w * c), list of images, or a source of them
        weight : ignored

        Raises
        ------
        ValueError
            For an ambiguous or unusable shape, an alpha channel, mixed sizes, pixels missing, infinite or outside of
            `pixel_range`, or images that are all the same.
        """
        first = as_array(x[:1])
        # What a source was told to resize to holds for the files of later jobs too.
        told = getattr(x, "size", None) if is_source(x) else None
        self.size = self.size or told
        self.given_ = first.shape[1:]
        self.dtype_ = str(first.dtype)
        height, width, channels = self._layout_of(first.shape)
        self.shape_ = (channels, *(self.size or (height, width)))
        self.range_ = self._range_of(x)
        if self._all_same(x):
            raise ValueError("all images are the same: there is nothing to learn from; give images that differ")
        return self

    def _layout_of(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels of images in an array of this shape."""
        inner = shape[1:] if self.shape is None else self.shape
        if self.shape is not None and shape[1:] not in (self.shape, (int(np.prod(self.shape)),)):
            raise ValueError(f"image_shape={self.shape} does not fit rows of shape {shape[1:]}")
        if len(inner) == 2:
            self.layout_ = "grey"
            return inner[0], inner[1], 1
        if len(inner) != 3:
            raise ValueError(
                f"images have shape {inner}; give (height, width), (height, width, channels) or (channels, height, "
                "width), or flat rows with image_shape="
            )
        last, first = inner[2] in (1, 3), inner[0] in (1, 3)
        if last and first and self.shape is None and inner[0] != inner[2]:
            raise ValueError(
                f"images of shape {inner} may have their channels first or last; pass image_shape=(height, width) with "
                "the channel axis squeezed out, or flat rows"
            )
        if not last and not first:
            alpha = " (a fourth channel is transparency: paste images onto a background first)"
            raise ValueError(
                f"images of shape {inner} have neither 1 nor 3 channels{alpha if 4 in (inner[0], inner[2]) else ''}"
            )
        self.layout_ = "last" if last else "first"
        return (inner[0], inner[1], inner[2]) if last else (inner[1], inner[2], inner[0])

    def _range_of(self, x: Any) -> tuple[float, float]:
        if not isinstance(self.pixel_range, str):
            return (self.pixel_range[0], self.pixel_range[1])
        if self.dtype_ in KNOWN:
            return KNOWN[self.dtype_]
        ends = []
        for start, part in self._pieces(x):
            _check_finite(part, start)
            ends.append((float(part.min()), float(part.max())))
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        if low >= 0 and 1 < high < DARKEST:
            return (0.0, high)
        found = next((known for known in GUESSED if known[0] <= low and high <= known[1]), None)
        if found is None:
            raise ValueError(
                f"pixels lie between {low:g} and {high:g}; say what is black and white: pixel_range=(low, high)"
            )
        return found

    def _all_same(self, x: Any) -> bool:
        first = None
        for start, part in self._pieces(x):
            levels = self.levels(part, start)
            first = levels[:1] if first is None else first
            if (levels != first).any():
                return False
        return True

    # ------------------------------------------------------------------ what the model is told

    @property
    def dim(self) -> int:
        """Pixels times channels."""
        return int(np.prod(self.shape_))

    @property
    def names_(self) -> list[Name]:
        """The one thing that a row holds."""
        return ["image"]

    @property
    def columns_(self) -> list[Column]:
        """No columns."""
        return []

    @property
    def dtypes_(self) -> list[Dtype]:
        """No columns."""
        return []

    def layout(self) -> dict[str, Any]:
        """The fields of the model's ``Space``."""
        c, h, w = self.shape_
        names = tuple(f"pixel {i}, {j} of channel {k}" for k in range(c) for i in range(h) for j in range(w))
        dim = len(names)
        kinds, edges, missing = ("pixel",) * dim, ((),) * dim, (False,) * dim
        return {
            "shape": self.shape_,
            "names": names,
            "kinds": kinds,
            "edges": edges,
            "missing": missing,
            "unseen": (0.0,) * dim,
        }

    def describe(self) -> list[dict[str, Any]]:
        """One row: what the images were taken for."""
        c, h, w = self.shape_
        colour = "grey" if c == 1 else "colour"
        resized = "" if self.size is None else ", resized"
        reason = f"{self.dtype_} of {self.range_[0]:g} to {self.range_[1]:g}{resized}"
        return [{"column": "image", "kind": f"{colour} {h} x {w}", "reason": reason, "missing": 0.0}]

    # ------------------------------------------------------------------ rows in and out

    def encode(self, x: Any, cells: bool = False, codes: bool = False) -> Encoded:
        """Encode images.

        Parameters
        ----------
        x : as in :meth:`fit`
        cells : bool
            Whether training will draw noise between the bounds of pixels; otherwise fixed noise is added here.
        codes : bool
            Whether pixels stay at their middles, for models that give levels a probability of their own; `log_det` then
            leaves that to the model.

        Raises
        ------
        ValueError
            For images of another size, layout or range than in training, naming the image.
        """
        z = np.empty((len(x), self.dim), dtype=np.float32)
        for start, part in self._pieces(x):
            z[start : start + len(part)] = self.levels(part, start).reshape(len(part), -1)
        z += 0.5
        z *= WIDTH
        z -= 1.0
        if not cells and not codes:
            z += self.noise
        log_det = np.full(len(z), 0.0 if codes else self.dim * np.log(WIDTH))
        return Encoded(z, log_det, z, z, WIDTH if cells and not codes else 0.0)

    def decode(self, z: NDArray[Any], codes: bool = False) -> Any:
        """Images in the user's layout, range and type from rows `z` of shape (n, d), at the size of the model."""
        levels = np.clip(np.floor((np.asarray(z, dtype=np.float64) + 1.0) / WIDTH), 0, LEVELS - 1)
        return self.from_levels(levels.reshape(len(z), *self.shape_))

    def from_levels(self, levels: NDArray[Any]) -> Any:
        """Images in the user's layout, range and type from levels ``(n, c, h, w)``, at the size of the model."""
        low, high = self.range_
        images: Array = low + levels * ((high - low) / (LEVELS - 1))
        images = images[:, 0] if self.layout_ == "grey" else images
        images = images.transpose(0, 2, 3, 1) if self.layout_ == "last" else images
        images = images.reshape(len(levels), -1) if len(self.given_) == 1 else images
        whole = np.dtype(self.dtype_).kind in "iub"
        return np.ascontiguousarray(np.rint(images) if whole else images).astype(self.dtype_)

    def levels(self, images: NDArray[Any], first: int = 0) -> Pixels:
        """Levels ``(n, c, h, w)`` of images as the user has them; `first` is the number of the first, for messages."""
        self._check_shape(images.shape[1:], first)
        low, high = self.range_
        if str(images.dtype) == "uint8" and (low, high) == KNOWN["uint8"]:
            found = images
        else:
            _check_finite(images, first)
            values = np.asarray(images, dtype=np.float64)
            outside = (values < low) | (values > high)
            if outside.any():
                at = np.unravel_index(int(outside.argmax()), outside.shape)
                raise ValueError(
                    f"image {first + int(at[0])} has a pixel of {values[at]:g}, outside of the {low:g} to {high:g} of "
                    "training pixels; scale images alike, or fit with pixel_range=(low, high)"
                )
            found = np.rint((values - low) * ((LEVELS - 1) / (high - low))).astype(np.uint8)
        if found.ndim == 2 and self.shape is not None:
            found = found.reshape(len(found), *self.shape)
        if self.layout_ == "grey":
            found = found[:, None]
        elif self.layout_ == "last":
            found = found.transpose(0, 3, 1, 2)
        return found if found.shape[2:] == self.shape_[1:] else _resized(found, self.shape_[1:])

    def _check_shape(self, shape: tuple[int, ...], first: int) -> None:
        allowed = {self.given_} | ({self.shape} if self.shape else set())
        if shape in allowed:
            return
        axes = {"grey": (), "last": (2,), "first": (0,)}[self.layout_]
        same = len(shape) == len(self.given_) and all(shape[axis] == self.given_[axis] for axis in axes)
        if self.size is not None and same and len(shape) > 1:
            return
        raise ValueError(
            f"images from {first} on have shape {shape}, but those in training had {self.given_}"
            + ("; fit with image_size= to have all resized to one size" if same and self.size is None else "")
        )

    @cached_property
    def noise(self) -> NDArray[np.float32]:
        """One draw of the noise within pixels, the same for all images."""
        return ((np.random.default_rng(self.dim).random(self.dim) - 0.5) * WIDTH).astype(np.float32)

    def _pieces(self, x: Any) -> Iterator[tuple[int, NDArray[Any]]]:
        """Images in pieces, each with the number of its first one."""
        height = max(1, PIECE // max(int(np.prod(self.given_)), 1))
        for start in range(0, len(x), height):
            yield start, as_array(x[start : start + height], start)

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Everything learned, as JSON values."""
        return {
            "image": list(self.shape_),
            "shape": None if self.shape is None else list(self.shape),
            "size": None if self.size is None else list(self.size),
            "pixel_range": self.pixel_range if isinstance(self.pixel_range, str) else list(self.pixel_range),
            "given": list(self.given_),
            "range": list(self.range_),
            "dtype": self.dtype_,
            "layout": self.layout_,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ImageEncoder:
        """The encoder that :meth:`state` described."""
        encoder = cls(state["shape"], state["size"], state["pixel_range"])
        c, h, w = state["image"]
        encoder.shape_, encoder.given_ = (c, h, w), tuple(state["given"])
        encoder.range_ = (state["range"][0], state["range"][1])
        encoder.dtype_, encoder.layout_ = state["dtype"], state["layout"]
        return encoder


def as_array(x: Any, first: int = 0) -> NDArray[Any]:
    """Images as one array.

    Raises
    ------
    ValueError
        Naming two images of a list that differ in size.
    """
    if isinstance(x, list | tuple):
        for i, image in enumerate(x):
            if np.shape(image) != np.shape(x[0]):
                raise ValueError(
                    f"images {first} and {first + i} differ in shape, {np.shape(x[0])} and {np.shape(image)}; resize "
                    "them to one size first"
                )
    array = np.asarray(x)
    if array.dtype == object or array.dtype.kind not in "iubf":
        raise ValueError(f"images hold {array.dtype}, not numbers")
    return array


def _check_finite(images: NDArray[Any], first: int) -> None:
    if images.dtype.kind != "f":
        return
    wrong = ~np.isfinite(images)
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise ValueError(
            f"image {first + at[0]} has a pixel that is {images[at]} at {at[1:]} ({int(wrong.sum())} such pixels); "
            "leave such images out or fill the pixels in"
        )


def _resized(images: Pixels, size: tuple[int, int]) -> Pixels:
    from PIL import Image

    out = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for i, image in enumerate(images):
        for c, channel in enumerate(image):
            picture = Image.fromarray(np.ascontiguousarray(channel))
            out[i, c] = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return out
