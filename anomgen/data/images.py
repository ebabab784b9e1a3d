"""Images in a folder tree, decoded when they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from anomgen.data.pixels import KINDS, SUFFIXES, BadImage, Header, read_header, read_pixels

Pixels = NDArray[Any]
ON_BAD = ("fail", "quarantine")
MODES = (None, "L", "RGB")


class BadFile(NamedTuple):
    """A file that was left out, and why."""

    file: str
    """Its path below the folder."""
    reason: str


class ImageFolder:
    """Images of a folder tree as a sequence: its length and shape are known at once, pixels are decoded when indexed.

    Detectors take it as they take an array; nothing but the images asked for is ever in memory.

    Parameters
    ----------
    path : path, or sequence of paths
        A folder, whose ``.png``, ``.jpg``, ``.jpeg``, ``.bmp``, ``.tif`` and ``.tiff`` files at any depth are read in
        the order of their paths (names that begin with ``.`` or ``_`` are left out); or files, in the order given.
    size : int or (height, width), optional
        Resize every image to this, without regard to its proportions: by Pillow, bilinear with antialiasing, that is a
        triangle filter as wide as the reduction. By default all must have one size.
    mode : {"L", "RGB"}, optional
        Convert every image to 8-bit grey or colour. By default all must be of one kind.
    on_bad : {"fail", "quarantine"}
        What a file does that cannot be read: raise an error that names it, or be left out and listed in :attr:`bad`.

    Raises
    ------
    FileNotFoundError
        If there is no image.
    BadImage
        If a file is no image, or announces more than 67,108,864 pixels; a ``ValueError``. Pixels that turn out to be
        damaged, cut off or transparent raise it when they are decoded.
    ValueError
        If images differ in size without `size`, or grey and colour are mixed without `mode`: naming two files; also
        under quarantine, for nobody can tell which of the two is wrong.

    Notes
    -----
    The headers of all files are read when the folder is opened. Under quarantine the pixels of all files are decoded
    once before the first answer that depends on how many are good; :meth:`chunks` needs no pass of its own.

    What files hold, and what comes out:

    ==================================  ==============================================================
    grey, 8 bits                        as it is, ``(h, w)``
    colour, 8 bits a channel            as it is, ``(h, w, 3)``; of 16 bits a channel the upper 8
    grey, 16 bits                       ``uint16``, 0 to 65,535; under `mode` divided by 257
    1 bit                               0 and 255
    palette                             grey where all its colours are, otherwise colour
    alpha channel, transparent colour   dropped where every pixel is opaque, otherwise a bad file
    CMYK                                converted under `mode`, otherwise a bad file
    32 bits, floats, other colours      a bad file
    EXIF orientation                    applied: images come upright
    several images in one file          the first
    ==================================  ==============================================================

    Examples
    --------
    >>> images = ImageFolder("tiles", size=64)  # doctest: +SKIP
    >>> images.shape, images[:32].dtype, images.labels[0]  # doctest: +SKIP
    ((1344, 64, 64), dtype('uint8'), 'Blowhole')
    """

    is_image_source = True
    first: Path
    """The file whose size and kind all others are compared with."""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        size: int | tuple[int, int] | None = None,
        mode: Literal["L", "RGB"] | None = None,
        on_bad: Literal["fail", "quarantine"] = "fail",
    ) -> None:
        if mode not in MODES or on_bad not in ON_BAD:
            raise ValueError(f"mode={mode!r} must be one of {MODES} and on_bad={on_bad!r} one of {ON_BAD}")
        self.path = path
        self.size = None if size is None else _two(size)
        self.mode = mode
        self.on_bad = on_bad
        self._root = Path(path) if isinstance(path, str | Path) else None
        self._files = find_images(path)
        self._bad: list[BadFile] = []
        self._checked = False
        headers = self._headers()
        self.first = self._files[0]
        self._kind = mode or _one_kind(self._files, headers)
        self._shape = self.size or _one_size(self._files, headers)
        self._checked = on_bad == "fail"

    # ------------------------------------------------------------------ what is there

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of the images."""
        self._check()
        return tuple(self._files)

    @property
    def names(self) -> tuple[str, ...]:
        """The path of every file below the folder."""
        return tuple(map(self._name, self.files))

    @property
    def labels(self) -> NDArray[np.str_] | None:
        """The sub-folder of every image, such as ``"crack"`` or ``"test/crack"``; None where there are none."""
        found = [name.rpartition("/")[0] for name in self.names] if self._root else []
        return np.array(found) if any(found) else None

    @property
    def bad(self) -> tuple[BadFile, ...]:
        """The files left out under quarantine, in the order of their paths, and why."""
        self._check()
        return tuple(sorted(self._bad))

    @property
    def dtype(self) -> np.dtype[Any]:
        """``uint8``, or ``uint16`` for grey of 16 bits."""
        return np.dtype(np.uint16 if self._kind == "I;16" else np.uint8)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """``(height, width)`` of every image, or ``(height, width, 3)``."""
        return (*self._shape, 3) if self._kind == "RGB" else self._shape

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, height, width)``, or ``(n, height, width, 3)``."""
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        self._check()
        return len(self._files)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, shape={self.shape})"

    # ------------------------------------------------------------------ pixels

    def __getitem__(self, rows: Any) -> Pixels:
        """Decode one image by its number, or several by a slice, numbers or a mask, as in an array."""
        self._check()
        if isinstance(rows, int | np.integer):
            return self._decode(self._files[rows])
        numbers = np.arange(len(self._files))[rows]
        images = np.empty((len(numbers), *self.image_shape), self.dtype)
        for image, i in zip(images, numbers, strict=True):
            image[...] = self._decode(self._files[i])
        return images

    def __iter__(self) -> Iterator[Pixels]:
        return map(self._decode, self.files)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return self.read().astype(dtype or self.dtype, copy=False)

    def read(self) -> Pixels:
        """All images as one array."""
        return self[:]

    def take(self, rows: Any) -> Self:
        """The folder reduced to the images `rows`, not yet decoded."""
        few, files = copy.copy(self), self.files
        few._files = [files[i] for i in np.arange(len(files))[rows]]
        return few

    def chunks(self, rows: int) -> Iterator[tuple[list[str], Pixels]]:
        """Names and pixels in order, `rows` files at a time, decoded once.

        Under quarantine chunks are shorter by the files that could not be decoded, which are in :attr:`bad` afterwards.
        """
        good: list[Path] = []
        bad: list[BadFile] = []
        for start in range(0, len(self._files), rows):
            before, images = len(good), []
            for file in self._files[start : start + rows]:
                try:
                    images.append(self._decode(file))
                    good.append(file)
                except BadImage as error:
                    bad.append(self._left_out(file, error))
            if images:
                yield list(map(self._name, good[before:])), np.stack(images)
        self._settle(good, bad)
        self._checked = True

    # ------------------------------------------------------------------ inner parts

    def _headers(self) -> list[Header]:
        good, bad, headers = [], [], []
        for file in self._files:
            try:
                header = read_header(file)
                if header.kind == "CMYK" and self.mode is None:
                    raise BadImage(file, "its colours are CMYK; pass mode='RGB' or mode='L' to convert")
                headers.append(header)
                good.append(file)
            except BadImage as error:
                bad.append(self._left_out(file, error))
        self._settle(good, bad)
        return headers

    def _left_out(self, file: Path, error: BadImage) -> BadFile:
        """What to write down of a bad file, unless it is an error: files that were good before stay expected."""
        if self.on_bad == "fail" or self._checked:
            raise error
        return BadFile(self._name(file), error.reason)

    def _settle(self, good: list[Path], bad: list[BadFile]) -> None:
        self._bad += bad
        if not good:
            first = self._bad[0]
            raise ValueError(f"none of {len(self._bad):,} images can be read; {first.file}: {first.reason}")
        self._files = good

    def _check(self) -> None:
        """Decode all files once where bad ones are to be left out and nobody looked yet."""
        if not self._checked:
            for _ in self.chunks(1):
                pass

    def _decode(self, file: Path) -> Pixels:
        return read_pixels(file, self._kind, self._shape)

    def _name(self, file: Path) -> str:
        return (file.relative_to(self._root) if self._root else file).as_posix()


def find_images(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Image files of a folder, in the order of their paths, or those named.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if not isinstance(path, str | Path):
        files = [Path(file) for file in path]
    else:
        place = Path(path)
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place}; name one that holds images, or a list of image files")
        below = (file.relative_to(place) for file in place.rglob("*") if is_image(file))
        files = [place / file for file in sorted(below) if not any(part[0] in "._" for part in file.parts)]
    if not files:
        raise FileNotFoundError(f"{path} holds no {', '.join(SUFFIXES)} file")
    return files


def is_image(file: Path) -> bool:
    """Whether a file has the name of an image."""
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _two(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < 1:
        raise ValueError(f"size={size!r} must be a positive number of pixels, or (height, width)")
    return int(height), int(width)


def _one_size(files: Sequence[Path], headers: Sequence[Header]) -> tuple[int, int]:
    for file, header in zip(files, headers, strict=True):
        if header.size != headers[0].size:
            sizes = [f"{h} x {w}" for h, w in (headers[0].size, header.size)]
            raise ValueError(
                f"images differ in size: {files[0]} has {sizes[0]} pixels and {file} has {sizes[1]} (height x width); "
                "resize all to one with size=, or image_size= of a detector"
            )
    return headers[0].size


def _one_kind(files: Sequence[Path], headers: Sequence[Header]) -> str:
    for file, header in zip(files, headers, strict=True):
        if header.kind != headers[0].kind:
            kinds = [KINDS[kind] for kind in (headers[0].kind, header.kind)]
            raise ValueError(
                f"images differ in kind: {files[0]} is {kinds[0]} and {file} is {kinds[1]}; convert all to one with "
                "mode='L' or mode='RGB'"
            )
    return headers[0].kind
