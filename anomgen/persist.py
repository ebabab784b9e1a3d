"""A fitted model as a folder of JSON and safetensors: atomic, checksummed, nothing executable. Knows no class."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
"""Version of the folder's layout."""
CONFIG, WEIGHTS, CARD, SUMS = "config.json", "model.safetensors", "README.md", "SHA256SUMS"


class FormatError(ValueError):
    """A saved model that is damaged, incomplete, of a newer format, or not ours."""


def write_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model folder all at once: readers see the old one, or the whole new one.

    Parameters
    ----------
    path : path
        The folder to make.
    config : mapping
        JSON values.
    tensors : mapping of str to ndarray
    card : str
        The model card, Markdown.
    overwrite : bool
        Whether an existing model folder may be replaced.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is False, or if it is not a model folder.
    """
    from safetensors.numpy import save

    target = Path(path)
    if target.exists() and not (overwrite and is_model(target)):
        hint = (
            "pass overwrite=True to replace it" if is_model(target) else "it is not a saved model; choose another path"
        )
        raise FileExistsError(f"{target} exists: {hint}")
    text = json.dumps({"format": FORMAT, **config}, indent=2, allow_nan=False, ensure_ascii=False)
    contiguous = {name: np.array(value, order="C") for name, value in tensors.items()}
    files = {CONFIG: text.encode() + b"\n", WEIGHTS: save(contiguous), CARD: card.encode()}
    files[SUMS] = _sums(files)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, content in files.items():
            with (staged / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        staged.chmod(0o755)
        _swap(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def read_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read and verify a model folder.

    Returns
    -------
    config : dict
    tensors : dict of str to ndarray

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FormatError
        If any byte changed since it was written, a file is missing, or the folder is not a saved model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist")
    if not is_model(folder):
        raise FormatError(f"{folder} is not a saved anomgen model: it needs {CONFIG}, {WEIGHTS}, {CARD} and {SUMS}")
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    stored, actual = (folder / SUMS).read_bytes(), _sums(files)
    if stored != actual:
        recorded = stored.split(b"\n")
        wrong = [name for name, line in zip(files, actual.split(b"\n"), strict=False) if line not in recorded]
        raise FormatError(
            f"{folder} is damaged: {', '.join(wrong) or SUMS} changed since the model was saved; restore it from a copy"
        )
    try:
        config: dict[str, Any] = json.loads(files[CONFIG])
        version = config["format"]
        if version > FORMAT:
            raise FormatError(f"{folder} has format {version}, newer than {FORMAT}; upgrade anomgen to read it")
        return config, load(files[WEIGHTS])
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FormatError(f"{folder} is not a saved anomgen model: {type(error).__name__}: {error}") from None


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder with the four files of a saved model."""
    return all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS, CARD, SUMS))


def digest(path: str | os.PathLike[str]) -> str:
    """Identity of a saved model: the sha256 of its list of checksums."""
    return hashlib.sha256((Path(path) / SUMS).read_bytes()).hexdigest()


def _sums(files: Mapping[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in (CONFIG, WEIGHTS, CARD)]
    return "".join(lines).encode()


def _swap(staged: Path, target: Path) -> None:
    if not target.exists():
        staged.replace(target)
        return
    # A folder cannot replace a full one in one step: the old one steps aside and returns if the second move fails.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.replace(aside / "model")
    try:
        staged.replace(target)
    except BaseException:
        (aside / "model").replace(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
