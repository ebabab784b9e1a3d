"""Data sets by name: a card says where a file comes from and what it holds; nothing unverified is returned."""

from __future__ import annotations

import hashlib
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgen.data.payments import make_payments

Array = NDArray[Any]

FORMATS = ("npz", "csv", "generator")
SPLITS = ("half", "parts", "content")


class DatasetNotFound(FileNotFoundError):
    """The file of a data set is not there; the message says what to download and where to put it."""


class ChecksumError(ValueError):
    """A file does not hold the rows its card promises."""


@dataclass(frozen=True)
class Card:
    """What is known of a data set, read from ``NAME.toml``.

    Parameters
    ----------
    name, title, description : str
        Name to load it by, a title, and what a row and an anomaly are.
    source, licence : str
        Where it was published, and under which terms.
    get : str
        How to get the file; ``{path}`` stands for where it has to lie.
    format : {"npz", "csv", "generator"}
        ``"csv"`` is plain numbers with the label in the last column; ``"generator"`` needs no file.
    file : str
        Path below `root`, or inside `package` when that is given.
    package : str
        An installed package that ships the file, or ``""``.
    skip_rows : int
        Lines before the numbers of a CSV file.
    sha256 : str
        Checksum of the content, see :func:`content_sha256`; empty for a generator.
    rows, n_columns : int
        Size of the table, or number of images and pixels.
    columns : tuple of str
        Column names, empty where the publisher gave none.
    kinds : dict
        Kind of a column by name, where known, in the words of the table encoder.
    normal, anomaly : tuple
        Labels of normal and of anomalous rows; both empty where the labels are classes.
    split : {"half", "parts", "content"}
        What :meth:`Dataset.split` does.
    arrays : tuple of dict
        For npz: for each part the accepted names of its rows (``x``), labels (``labels``) and, where there are, masks
        (``masks``).
    image : tuple of int
        ``(height, width)`` where rows are grey images that come as columns, and also for images that come as such.
    white : int
        The brightest value of their pixels; black is 0.
    options : dict
        For a generator: its arguments.
    """

    name: str
    title: str
    description: str
    source: str
    licence: str
    get: str
    format: str
    rows: int
    n_columns: int
    split: str
    file: str = ""
    package: str = ""
    skip_rows: int = 0
    sha256: str = ""
    columns: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    normal: tuple[int | str, ...] = ()
    anomaly: tuple[int | str, ...] = ()
    arrays: tuple[Mapping[str, Any], ...] = ()
    image: tuple[int, ...] = ()
    white: int = 255
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows, labels and card of a data set.

    Parameters
    ----------
    X : DataFrame, or ndarray of shape (n, d) or (n, height, width)
        The rows: a frame where columns have names; images are uint8.
    y : ndarray of shape (n,) or None
        1 for an anomaly and 0 for a normal row; None where the labels are classes, see :meth:`one_class`.
    labels : ndarray of shape (n,)
        Labels as published: classes, or the kind of a planted anomaly.
    card : Card
        Where it comes from.
    test : ndarray of bool, shape (n,), or None
        The rows set aside for testing where the data set comes divided.
    masks : ndarray of shape (n, height, width), or None
        Which pixels are anomalous, where that is known: not 0.
    """

    X: Any
    y: Array | None
    labels: Array
    card: Card
    test: NDArray[np.bool_] | None = None
    masks: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> NDArray[np.uint8]:
        """The rows as grey images, uint8 of shape (n, height, width), 0 black and 255 white.

        Raises
        ------
        ValueError
            If the card does not say that they are any.
        """
        if not self.card.image:
            raise ValueError(f"{self.card.name} holds no images")
        pixels = np.asarray(self.X).reshape(-1, *self.card.image)
        return np.rint(pixels * (255 / self.card.white)).astype(np.uint8) if self.card.white != 255 else pixels

    def take(self, rows: Array) -> Dataset:
        """The data set reduced to `rows`, given by position."""
        return replace(
            self,
            X=_take(self.X, rows),
            y=None if self.y is None else self.y[rows],
            labels=self.labels[rows],
            test=None if self.test is None else self.test[rows],
            masks=None if self.masks is None else self.masks[rows],
        )

    def one_class(self, normal: Sequence[int | str]) -> Dataset:
        """The data set with the classes `normal` as normal rows and every other class as anomalies."""
        unknown = sorted(set(normal) - set(self.labels.tolist()))
        if unknown or not normal:
            raise ValueError(f"normal={list(normal)}: the classes of {self.card.name} are {np.unique(self.labels)}")
        return replace(self, y=(~np.isin(self.labels, list(normal))).astype(np.int64))

    def split_rows(self, seed: int = 0) -> tuple[Array, Array]:
        """Positions of the training and of the test rows, both ascending and disjoint; see :meth:`split`."""
        if self.y is None:
            raise ValueError(
                f"{self.card.name} has classes and no anomalies: name the normal ones, dataset.one_class([0]).split()"
            )
        normal = np.flatnonzero(self.y == 0)
        if self.test is not None:
            return normal[~self.test[normal]], np.flatnonzero(self.test)
        train = np.sort(np.random.default_rng(seed).permutation(normal)[: len(normal) // 2])
        return train, np.setdiff1d(np.arange(len(self)), train)

    def split(self, seed: int = 0) -> tuple[Any, Any, Array]:
        """Divide into normal training rows and labelled test rows, as one-class detection is measured.

        Parameters
        ----------
        seed : int
            Draws the random half of the normal rows that trains; all other rows test and no row is used twice. It has
            no say for a set that comes divided: there the normal rows of the training part train.

        Returns
        -------
        X_train : like X
            Normal rows only.
        X_test : like X
        y_test : ndarray of shape (n_test,)
            1 for an anomaly.

        Raises
        ------
        ValueError
            If the labels are classes: :meth:`one_class` says which are normal.
        """
        train, test = self.split_rows(seed)
        assert self.y is not None
        return _take(self.X, train), _take(self.X, test), self.y[test]


def cards() -> list[str]:
    """Names of all data sets, sorted."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def read_card(name: str) -> Card:
    """The card of a data set.

    Raises
    ------
    ValueError
        If there is no such card (the closest names are given) or a field is wrong.
    """
    if name not in cards():
        close = get_close_matches(name, cards(), n=3, cutoff=0.4) or cards()
        raise ValueError(f"there is no data set {name!r}; the closest names: {', '.join(close)}")
    entries = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    kinds = {column: kind for kind, columns in entries.pop("kinds", {}).items() for column in columns}
    for key in ("columns", "normal", "anomaly", "arrays", "image"):
        entries[key] = tuple(entries.get(key, ()))
    card = Card(kinds=kinds, **entries)
    if card.name != name or card.format not in FORMATS or card.split not in SPLITS:
        raise ValueError(f"card {name}: name={card.name!r}, format={card.format!r} or split={card.split!r} is wrong")
    return card


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Read a data set and verify that it is the one its card describes.

    Parameters
    ----------
    name : str
        One of :func:`cards`.
    root : path, optional
        The folder that holds the downloaded files; by default ``data`` below the current one.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If there is no such data set, or the file cannot be read.
    DatasetNotFound
        If the file is not there; the message says how to get it.
    ChecksumError
        If the file does not hold the rows the card promises.

    Examples
    --------
    >>> dataset = load_dataset("wine")
    >>> X_train, X_test, y_test = dataset.split(seed=0)
    >>> X_train.shape, int(y_test.sum())
    ((59, 13), 59)
    """
    card = read_card(name)
    if card.format == "generator":
        frame, y, kind = make_payments(**card.options)
        return Dataset(frame, y, kind, card)
    path = _locate(card, Path("data") if root is None else Path(root))
    X, labels, test, masks = _read_csv(card, path) if card.format == "csv" else _read_npz(card, path)
    if card.split == "content":
        X, labels, test = _by_content(X, labels)
    found = content_sha256(X, labels, masks)
    if found != card.sha256:
        raise ChecksumError(
            f"{path} is not {card.title}: the SHA-256 of its content is {found}, the card says {card.sha256}. "
            f"Delete the file and get it again: {_how(card, path)}"
        )
    anomalous = np.isin(labels, list(card.anomaly)).astype(np.int64) if card.anomaly else None
    return Dataset(_named(X, card.columns), anomalous, labels, card, test, masks)


def content_sha256(X: Array, labels: Array, masks: Array | None = None) -> str:
    r"""SHA-256 of rows and labels, whatever file, compression, memory order or number type they were stored in.

    The digest of the text ``"X <type> <shape>\n"`` and the bytes of the rows, then of the same for the labels; in C
    order and little-endian, rows as ``float64`` with ``-0.0`` as ``0.0`` (images, that is more than two dimensions, as
    ``uint8``), labels as ``int64``, and masks, where there are, as ``uint8``. The shape is written as in Python:
    ``(150, 4)``.
    """
    digest = hashlib.sha256()
    parts = [("X", X, "<f8" if X.ndim <= 2 else "|u1"), ("labels", labels, "<i8")]
    for name, array, kind in parts if masks is None else [*parts, ("masks", masks, "|u1")]:
        plain = np.ascontiguousarray(array, dtype=kind)
        digest.update(f"{name} {np.dtype(kind).name} {plain.shape}\n".encode())
        digest.update((plain + 0.0 if kind == "<f8" else plain).tobytes())
    return digest.hexdigest()


def _folder() -> Path:
    """The cards inside an installed wheel, or those of a checkout."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "cards", package.parent / "datasets") if path.is_dir())


def _locate(card: Card, root: Path) -> Path:
    if card.package:
        spec = find_spec(card.package)
        if spec is None or spec.origin is None:
            raise DatasetNotFound(f"{card.name} is shipped by {card.package}, which is not installed: {card.get}")
        path = Path(spec.origin).parent / card.file
    else:
        path = root / card.file
    if not path.is_file():
        searched = card.package or f"root={str(root)!r}, that is {root.resolve()}"
        raise DatasetNotFound(f"{card.name}: there is no file {card.file} in {searched}. {_how(card, path)}")
    return path


def _how(card: Card, path: Path) -> str:
    return card.get.replace("{path}", str(path)).strip()


def _read_csv(card: Card, path: Path) -> tuple[Array, Array, None, None]:
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=card.skip_rows, ndmin=2)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a table of numbers: {error}") from error
    return values[:, :-1], values[:, -1].astype(np.int64), None, None


def _read_npz(card: Card, path: Path) -> tuple[Array, Array, NDArray[np.bool_] | None, Array | None]:
    def joined(kind: str) -> Array:
        return np.concatenate([_first(stored, part[kind]) for part in card.arrays])

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            X, labels = joined("x"), joined("labels").astype(np.int64)
            masks = joined("masks") if "masks" in card.arrays[0] else None
            train = len(_first(stored, card.arrays[0]["labels"]))
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as {card.title}: {error}") from error
    return X, labels, np.arange(len(labels)) >= train if len(card.arrays) > 1 else None, masks


def _named(X: Array, columns: Sequence[str]) -> Any:
    if not columns:
        return X
    import pandas as pd

    return pd.DataFrame(X, columns=list(columns))


def _first(stored: Mapping[str, Array], names: Sequence[str]) -> Array:
    """The first of several accepted arrays; publishers name the same one differently."""
    for name in names:
        if name in stored:
            return stored[name]
    raise ValueError(f"it has the arrays {sorted(stored)}, not {' or '.join(names)}")


def _by_content(X: Array, labels: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Rows in the order of their own SHA-256; of each class the first seventh tests.

    A set published under several divisions is then the same everywhere.
    """
    digests = [hashlib.sha256(bytes([y]) + x.tobytes()).hexdigest() for x, y in zip(X, labels, strict=True)]
    order = np.argsort(digests, kind="stable")
    X, labels = X[order], labels[order]
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[rows[: len(rows) // 7]] = True
    return X, labels, test


def _take(X: Any, rows: Array) -> Any:
    return X.iloc[rows].reset_index(drop=True) if hasattr(X, "iloc") else X[rows]
