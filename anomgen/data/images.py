"""Images in a folder tree, decoded when they are asked for."""

from __future__ import annotations

import copy
import os
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


class Like(NamedTuple):
    """What images have to be like."""

    channels: int
    size: tuple[int, int]
    """Height and width."""


class ImageFolder:
    """Images of a folder tree as a sequence: its length and shape are known at once, pixels are decoded when indexed.

    Detectors take it as they take an array; nothing but the images asked for is ever in memory.

    Parameters
    ----------
    path : path, or sequence of paths
        A folder, whose ``.png``, ``.jpg``, ``.jpeg``, ``.bmp``, ``.tif`` and ``.tiff`` files at any depth are read in
        the order of their paths (names that begin with ``.`` or ``_`` are left out, links to folders not followed); or
        files, in the order given.
    size : int or (height, width), optional
        Resize every image to this, without regard to its proportions: by Pillow, bilinear with antialiasing, that is a
        triangle filter as wide as the reduction. By default all must have one size. A detector that is to score files
        by itself has to know the size, too: ``image_size=``.
    mode : {"L", "RGB"}, optional
        Convert every image to 8-bit grey or colour. By default all must be of one kind.
    on_bad : {"fail", "quarantine"}
        What a file does that cannot be read: raise an error that names it, or be left out and listed in :attr:`bad`.
    like : Like, optional
        What a detector expects: a file whose image differs counts as one that cannot be read.

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
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for name, side in (("a.png", 4), ("b.png", 6)):
    ...         Image.new("L", (side, side), 255).save(Path(folder, name))
    ...     images = ImageFolder(folder, size=2)
    ...     images.shape, images.names, images[0].tolist()
    ((2, 2, 2), ('a.png', 'b.png'), [[255, 255], [255, 255]])
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
        like: Like | None = None,
    ) -> None:
        if mode not in MODES or on_bad not in ON_BAD:
            raise ValueError(f"mode={mode!r} must be one of {MODES} and on_bad={on_bad!r} one of {ON_BAD}")
        self.path = path
        self.size = None if size is None else _two(size)
        self.mode = mode
        self.on_bad = on_bad
        self.like = like
        self._root: Path | None = None
        # Names rather than paths, which take ten times the memory.
        if isinstance(path, str | Path):
            self._root, self._names = Path(path), find_images(path)
        else:
            self._names = [Path(file).as_posix() for file in path]
        if not self._names:
            raise FileNotFoundError(f"{path} holds no {', '.join(SUFFIXES)} file")
        self._found = self._names
        self._bad: list[BadFile] = []
        self._checked = False
        self._kind, self._shape = self._scan()
        self._checked = on_bad == "fail"

    # ------------------------------------------------------------------ what is there

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of the images."""
        return tuple(map(self._file, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """The path of every file below the folder, with slashes; as it was given where there is no folder."""
        self._check()
        return tuple(self._names)

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
        return len(self._names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, shape={self.shape})"

    # ------------------------------------------------------------------ pixels

    def __getitem__(self, rows: Any) -> Pixels:
        """Decode one image by its number, or several by a slice, numbers or a mask, as in an array."""
        self._check()
        if isinstance(rows, int | np.integer):
            return self._decode(self._names[rows])
        numbers = np.arange(len(self._names))[rows]
        images = np.empty((len(numbers), *self.image_shape), self.dtype)
        for image, i in zip(images, numbers, strict=True):
            image[...] = self._decode(self._names[i])
        return images

    def __iter__(self) -> Iterator[Pixels]:
        return map(self._decode, self.names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return self.read().astype(dtype or self.dtype, copy=False)

    def read(self) -> Pixels:
        """All images as one array."""
        return self[:]

    def take(self, rows: Any) -> Self:
        """The folder reduced to the images `rows`, not yet decoded."""
        few, names = copy.copy(self), self.names
        few._found = few._names = [names[i] for i in np.arange(len(names))[rows]]
        return few

    def chunks(self, rows: int) -> Iterator[tuple[list[str], Pixels]]:
        """Names and pixels in order, `rows` files at a time, decoded once.

        Under quarantine chunks are shorter by the files that could not be decoded, which are in :attr:`bad` afterwards.
        """
        good: list[str] = []
        bad: list[BadFile] = []
        for start in range(0, len(self._names), rows):
            before, images = len(good), []
            for name in self._names[start : start + rows]:
                try:
                    images.append(self._decode(name))
                    good.append(name)
                except BadImage as error:
                    bad.append(self._left_out(name, error))
            if images:
                yield good[before:], np.stack(images)
        self._settle(good, bad)
        self._checked = True

    @property
    def found(self) -> list[str]:
        """The names of all files, bad ones too."""
        return self._found

    @property
    def refused(self) -> dict[str, str]:
        """The files found bad so far, by their headers at least, and why; no pixels are decoded for it."""
        return dict(self._bad)

    def decode(self, name: str) -> Pixels:
        """The image in the file of this name.

        Raises
        ------
        BadImage
            If it cannot be read.
        """
        return self._decode(name)

    def file(self, name: str) -> Path:
        """The path of the file of this name."""
        return self._file(name)

    # ------------------------------------------------------------------ inner parts

    def _scan(self) -> tuple[str, tuple[int, int]]:
        """Read all headers; the kind and the size that the images are to have."""
        good, bad, first = [], [], None
        for name in self._names:
            try:
                header = self._header(self._file(name))
            except BadImage as error:
                bad.append(self._left_out(name, error))
                continue
            if first is None:
                self.first, first = self._file(name), header
            try:
                self._compare(name, header, first)
            except ValueError as error:
                if self.like is None:
                    raise
                bad.append(self._left_out(name, BadImage(self._file(name), str(error))))
                continue
            good.append(name)
        self._settle(good, bad)
        assert first is not None
        return self.mode or first.kind, self.size or first.size

    def _header(self, file: Path) -> Header:
        header = read_header(file)
        if header.kind == "CMYK" and self.mode is None:
            raise BadImage(file, "its colours are CMYK; pass mode='RGB' or mode='L' to convert")
        if self.like is not None:
            self._check_like(file, header, self.like)
        return header

    def _check_like(self, file: Path, header: Header, like: Like) -> None:
        kind = self.mode or header.kind
        if (3 if kind == "RGB" else 1) != like.channels:
            asked = f"mode={'RGB' if like.channels == 3 else 'L'!r}"
            raise BadImage(file, f"it is {KINDS[kind]}, unlike the images of the training; convert with {asked}")
        if self.size is None and header.size != like.size:
            sides = [f"{height} x {width}" for height, width in (header.size, like.size)]
            raise BadImage(file, f"it has {sides[0]} pixels, not the {sides[1]} of the training")

    def _compare(self, name: str, header: Header, first: Header) -> None:
        """Refuse an image that differs from the first one in what cannot differ."""
        if self.mode is None and header.kind != first.kind:
            raise ValueError(
                f"images differ in kind: {self.first} is {KINDS[first.kind]} and {self._file(name)} is "
                f"{KINDS[header.kind]}; convert all to one with mode='L' or mode='RGB'"
            )
        if self.size is None and header.size != first.size:
            sizes = [f"{height} x {width}" for height, width in (first.size, header.size)]
            raise ValueError(
                f"images differ in size: {self.first} has {sizes[0]} pixels and {self._file(name)} has {sizes[1]} "
                "(height x width); resize all to one with size=, or image_size= of a detector"
            )

    def _left_out(self, name: str, error: BadImage) -> BadFile:
        """What to write down of a bad file, unless it is an error: files that were good before stay expected."""
        if self.on_bad == "fail" or self._checked:
            raise error
        return BadFile(name, error.reason)

    def _settle(self, good: list[str], bad: list[BadFile]) -> None:
        self._bad += bad
        if not good:
            first = self._bad[0]
            raise ValueError(f"none of {len(self._bad):,} images can be read; {first.file}: {first.reason}")
        self._names = good

    def _check(self) -> None:
        """Decode all files once where bad ones are to be left out and nobody looked yet."""
        if not self._checked:
            for _ in self.chunks(1):
                pass

    def _decode(self, name: str) -> Pixels:
        return read_pixels(self._file(name), self._kind, self._shape)

    def _file(self, name: str) -> Path:
        return Path(name) if self._root is None else self._root / name


def find_images(folder: str | Path) -> list[str]:
    """Image files of a folder, at any depth, in the order of their paths; links to folders are not followed.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name one that holds images, or a list of image files")
    return list(_below(str(folder), ""))


def is_image(name: str) -> bool:
    """Whether a file has the name of an image."""
    return name.lower().endswith(SUFFIXES)


def _below(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if entry.name[0] not in "._"), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, f"{prefix}{entry.name}/")
        elif is_image(entry.name) and entry.is_file():
            yield prefix + entry.name


def _two(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < 1:
        raise ValueError(f"size={size!r} must be a positive number of pixels, or (height, width)")
    return int(height), int(width)
