"""Files behind a URL: opened, listed and matched through Arrow's file systems, or those of fsspec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: Any) -> bool:
    """Whether a path is a URL such as ``s3://bucket/day.parquet``."""
    return isinstance(path, str) and URL.match(path) is not None


@dataclass(frozen=True)
class Remote:
    """A file behind a URL, with those methods of a path that readers use.

    Parameters
    ----------
    base : str
        The URL that leads to the file system; it may hold options, such as ``?region=eu-west-1``, and credentials.
    path : str
        The place of the file there.
    """

    base: str
    path: str

    def __str__(self) -> str:
        """Its URL without options and credentials."""
        shown, root = _plain(self.base), filesystem(self.base)[1]
        return shown if self.path == root else shown.rstrip("/") + self.path.removeprefix(root.rstrip("/"))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last ending of its name."""
        return Path(self.name).suffix

    @property
    def parent(self) -> Remote:
        """The folder it lies in."""
        return Remote(self.base, self.path.rpartition("/")[0])

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.base, f"{self.path.rstrip('/')}/{name}")

    def is_file(self) -> bool:
        """Whether it is there and no folder."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        import pyarrow.fs as fs

        return bool(self._info().type == fs.FileType.Directory)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The bytes of the file, to be read in any order; nothing is written."""
        return filesystem(self.base)[0].open_input_file(self.path)  # type: ignore[no-any-return]

    def stream(self) -> Any:
        """The bytes of the file in order, unpacked where its name says that they are packed."""
        return filesystem(self.base)[0].open_input_stream(self.path, compression="detect")

    def below(self) -> list[Remote]:
        """All files of the folder, at any depth, in the order of their paths."""
        import pyarrow.fs as fs

        system = filesystem(self.base)[0]
        found = system.get_file_info(fs.FileSelector(self.path, recursive=True))
        return [Remote(self.base, info.path) for info in sorted(found, key=lambda info: info.path) if info.is_file]

    def _info(self) -> Any:
        return filesystem(self.base)[0].get_file_info(self.path)


def remote(url: str) -> Remote:
    """The file or folder that a URL stands for."""
    return Remote(url, filesystem(url)[1])


def filesystem(url: str) -> tuple[Any, str]:
    """The Arrow file system of a URL, and the path there.

    Arrow's own (``file``, ``s3``, ``gs``, ``abfs``, ``hdfs``) where there is one, else that which fsspec knows by this
    scheme.

    Raises
    ------
    ValueError
        If nobody knows the scheme, or a package for it is missing.
    """
    import pyarrow as pa
    import pyarrow.fs as fs

    try:
        return fs.FileSystem.from_uri(url)  # type: ignore[no-any-return]
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise ValueError(f"{_plain(url)}: {error}") from error
    import fsspec  # type: ignore[import-untyped]

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{_plain(url)}: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), str(path)


def matching(url: str) -> list[Remote]:
    """The files and folders whose URL matches a pattern: ``*`` within a name, ``**`` for any number of folders."""
    fixed = re.split(r"[*\[]", url, maxsplit=1)[0].rpartition("/")[0]
    root = remote(fixed)
    rest = url[len(fixed) + 1 :]
    pattern = re.compile("".join(_piece(part) for part in re.split(r"(\*\*/|\*|\[[^\]]*\])", rest)))
    start = len(root.path.rstrip("/")) + 1
    return [file for file in root.below() if pattern.fullmatch(file.path[start:])] if root.is_dir() else []


def _piece(part: str) -> str:
    """A part of a pattern as a regular expression."""
    if part.startswith("[") and part.endswith("]"):
        return part.replace("[!", "[^")
    return {"**/": "(?:[^/]+/)*", "*": "[^/]*"}.get(part, re.escape(part))


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
