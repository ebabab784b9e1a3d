"""One image file: what its header says, and its pixels, by rules that are the same for every file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Readers of Pillow that a file may reach, whatever its name: others run programs or are rarely tested."""
MAX_PIXELS = 1 << 26
"""Pixels of the largest image read, 8,192 x 8,192: a file of some kilobytes can announce far more than memory holds."""
KINDS = {"L": "grey", "I;16": "grey of 16 bits", "RGB": "colour", "CMYK": "CMYK"}
"""What an image is read as, by Pillow's name for it."""
READ_AS = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "I;16"),
    **dict.fromkeys(("RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "HSV"), "RGB"),
    "CMYK": "CMYK",
}


class BadImage(ValueError):
    """A file that holds no image to be used; the message names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class Header(NamedTuple):
    """What a file says of its image before any pixel is decoded."""

    kind: str
    """One of :data:`KINDS`."""
    size: tuple[int, int]
    """Height and width, upright."""


def read_header(path: Path) -> Header:
    """Kind and size of the image in a file, without its pixels.

    Raises
    ------
    BadImage
        If the file is none of :data:`FORMATS`, announces more than :data:`MAX_PIXELS`, or has pixels of another kind.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) >= 5
        return Header(_kind(path, image), (width, height) if turned else (height, width))


def read_pixels(path: Path, kind: str, size: tuple[int, int] | None) -> NDArray[Any]:
    """The image in a file, upright.

    Parameters
    ----------
    path : Path
    kind : {"L", "RGB", "I;16"}
        What to convert it to.
    size : (height, width), optional
        Resize it to this.

    Returns
    -------
    ndarray of uint8, or of uint16 for ``"I;16"``
        Of shape ``(height, width)``, or ``(height, width, 3)`` for ``"RGB"``.

    Raises
    ------
    BadImage
        If the pixels are damaged or cut off, or some are transparent.
    """
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        found = _kind(path, opened)
        # Asked before the pixels are there: metadata that come behind them would contradict the header.
        turned = _orientation(opened) > 1
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened) if turned else opened
        if image.has_transparency_data:
            image = _opaque(path, image, found)
        if found == "I;16":
            # Pillow clips 16 bits to 8 instead of scaling them, and resizes only one of their byte orders.
            deep = np.asarray(image).astype(np.uint16)
            image = Image.fromarray(deep if kind == "I;16" else np.rint(deep / 257).astype(np.uint8))
        elif image.mode not in (found, "CMYK"):
            image = image.convert(found)
        if image.mode != kind:
            image = image.convert(kind)
        if size is not None and image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.array(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image opened by Pillow; whatever is wrong with it becomes a `BadImage`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Other warnings are about metadata that nothing here looks at.
            warnings.simplefilter("ignore", UserWarning)
            # Given a path, Pillow maps plain TIFF files into memory and mixes up the sides of turned ones.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.height:,} x {image.width:,}")
                yield image
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(path, f"it announces more than {MAX_PIXELS:,} pixels ({error}); reduce it first") from error
    except UnidentifiedImageError as error:
        reason = f"it is no image in one of the formats {', '.join(FORMATS)}" if path.stat().st_size else "it is empty"
        raise BadImage(path, reason) from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise BadImage(path, f"it cannot be read as an image: {str(error) or type(error).__name__}") from error


def _kind(path: Path, image: Image.Image) -> str:
    if image.mode in ("P", "PA"):
        colours = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
        return "L" if (colours == colours[:, :1]).all() else "RGB"
    if image.mode == "I" and image.format == "PNG":
        return "I;16"
    if image.mode not in READ_AS:
        raise BadImage(path, f"its pixels are of the kind {image.mode}; convert it to 8 or 16 bits a channel")
    return READ_AS[image.mode]


def _orientation(image: Image.Image) -> int:
    """Orientation by EXIF, 1 to 8; 1, upright, for metadata that make no sense. Pillow turns TIFF files by itself."""
    from PIL import ExifTags

    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's readers raise almost anything on damaged metadata, which spoil no pixel
        return 1
    return found if found in range(1, 9) else 1


def _opaque(path: Path, image: Image.Image, kind: str) -> Image.Image:
    """The image without its alpha channel, which hides nothing."""
    if kind == "I;16":
        seen = not (np.asarray(image) == image.info["transparency"]).any()
    else:
        image = image.convert("RGBA")
        seen = np.asarray(image.getchannel("A")).min() == 255
    if not seen:
        raise BadImage(path, "it has transparent pixels; paste it onto a background first")
    return image
