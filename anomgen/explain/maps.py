"""Where an image is surprising: heatmaps on one scale for all images, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen import runtime
from anomgen.encode.image import as_array
from anomgen.generative import GenerativeModel, Rows, abilities
from anomgen.nn.blur import blur

Maps = NDArray[np.float32]
Pixels = NDArray[np.uint8]

MAX_MAPPED = 1_000
"""Held-out images whose pixels set the scale of heatmaps, at most."""
BLUR = 1 / 32
"""Standard deviation of the smoothing of heatmaps, in shorter sides of the image."""
LEVELS = 201
"""Points of the stored scale, evenly spaced in -log10 of the tail probability."""
RARER = 10
"""Pixels that lie beyond the last of them."""
SHOWN = (1.0, 4.0)
"""Heat where the colour of an overlay begins, and where it is full: one in 10 and one in 10,000 normal pixels."""
CHUNK = 256
"""Images drawn at a time."""


def surprise(model: GenerativeModel, rows: Rows) -> Tensor:
    r"""How surprising every pixel is to a model, in the model's own unit, lightly smoothed.

    By the first that the model is able to do of

    ==================  =============================================================================================
    ``log_prob_terms``  :math:`-\sum_c \log p(x_{cij} \mid \ldots)`: the surprise of a pixel given those before it
    ``residual``        :math:`\sum_c` of the squared error of the noise found in the pixel: a score residual
    ``reconstruct``     :math:`\sum_c (x_{cij} - \hat x_{cij})^2`
    ``log_prob``        :math:`\sum_c (\partial \log p(x) / \partial x_{cij})^2`; likewise of ``energy``, ``realness``
    ==================  =============================================================================================

    The last moves a pixel against the slope of the density: under Gaussian noise of standard deviation `s` the slope,
    times :math:`s^2`, is what the best denoiser removes (Tweedie's formula). Maps are smoothed by a Gaussian of 1/32
    of the shorter side.

    Parameters
    ----------
    model : GenerativeModel
    rows : Rows
        Images as scoring encodes them.

    Returns
    -------
    Tensor of shape (n, height, width)
        An image's map depends on nothing but the image.

    Raises
    ------
    ValueError
        If the rows are no images, or the model is able to do none of these.

    References
    ----------
    Efron (2011), *Tweedie's formula and selection bias*, Journal of the American Statistical Association 106.
    """
    if rows.images is None:
        raise ValueError("heatmaps are of images, and these are rows of a table")
    c, h, w = rows.shape
    found = _pixelwise(model, rows.z)[:, : c * h * w]
    return blur(found.reshape(-1, c, h, w).sum(1), BLUR * min(h, w))


def surprise_maps(model: GenerativeModel, rows: Rows) -> Maps:
    """The :func:`surprise` of many images, in tiles, so that a map never depends on the other images."""
    device = next((held.device for held in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    size = model.passes * sum(held.numel() for held in model.state_dict().values())
    height = runtime.tile_height(size, device, max(model.passes * model.work, 1))

    def mapped(z: Tensor, log_det: Tensor) -> Tensor:
        return surprise(model, Rows(z, log_det, rows.shape))

    columns = (rows.z.cpu(), rows.log_det.cpu())
    slope = not {"log_prob_terms", "residual", "reconstruct"} & abilities(model)
    return runtime.map_rows(mapped, columns, device=device, height=height, gradient=slope)


def map_quantiles(model: GenerativeModel, rows: Rows) -> NDArray[np.float64]:
    """The scale of heatmaps: how surprising the pixels of held-out normal images are.

    Parameters
    ----------
    model : GenerativeModel
        A fitted one.
    rows : Rows
        Normal images that did not train, as scoring encodes them; at most 1,000 are used, evenly spread.

    Returns
    -------
    ndarray of shape (2, k)
        Surprises in ascending order, and -log10 of the share of normal pixels at least as surprising as each, from 0
        to where ten pixels are left.
    """
    kept = torch.linspace(0, len(rows) - 1, min(len(rows), MAX_MAPPED)).long().to(rows.z.device)
    pixels = surprise_maps(model, Rows(rows.z[kept], rows.log_det[kept], rows.shape)).ravel()
    rarity = np.linspace(0.0, max(np.log10(pixels.size / RARER), 0.1), LEVELS)
    values = np.quantile(pixels, 1.0 - 10.0**-rarity)
    # Of equal surprises the first counts: as many pixels are at least as surprising.
    values, first = np.unique(values, return_index=True)
    return np.stack([values, rarity[first]])


def scaled(maps: NDArray[Any], quantiles: NDArray[np.float64]) -> Maps:
    r"""Heat: :math:`-\log_{10}` of the share of normal pixels that are at least as surprising.

    0 says that all normal pixels are, 2 that one in a hundred is. The scale is that of the training data, the same for
    every image and place: a normal image stays cold. Beyond the stored quantiles heat goes on linearly, as for an
    exponential tail with the slope of the last tenfold, so that no two surprises that differ become equal.

    Parameters
    ----------
    maps : ndarray
        What :func:`surprise_maps` gave.
    quantiles : ndarray of shape (2, k)
        What :func:`map_quantiles` gave.

    Returns
    -------
    ndarray of the shape of `maps`, float32
    """
    values, rarity = quantiles
    heat = np.interp(maps, values, rarity)
    tenfold = values[-1] - np.interp(rarity[-1] - 1.0, rarity, values)
    # Where all normal pixels are alike there is no slope: any other is then as rare as can be told apart.
    step = max(tenfold / min(rarity[-1] or 1.0, 1.0), 1e-6 * abs(values[-1]), 1e-12)
    beyond = (np.asarray(maps, dtype=np.float64) - values[-1]) / step
    return np.asarray(heat + np.maximum(beyond, 0.0), dtype=np.float32)


def overlay(images: Any, maps: NDArray[Any]) -> Pixels:
    """Images with their heat in colour on top: nothing below 1, then yellow, red and opaque from 4 on.

    Parameters
    ----------
    images : array of shape (n, h, w), (n, h, w, c) or (n, c, h, w), or a list of images
        ``uint8``, or numbers between 0 and 1; grey or colour. ``detector.encoder_.levels(X)`` makes such of any images.
    maps : ndarray of shape (n, height, width)
        Heat, as :meth:`anomgen.Detector.score_map` gives it; stretched where images are larger than maps.

    Returns
    -------
    ndarray of shape (n, h, w, 3), uint8

    Raises
    ------
    ValueError
        If the images are of another kind, or not as many as the maps.
    """
    colour = _colour(as_array(images))
    if len(colour) != len(maps):
        raise ValueError(f"there are {len(colour)} images and {len(maps)} maps")
    low, high = SHOWN
    heat = np.clip((_stretched(maps, colour.shape[1:3])[..., None] - low) / (high - low), 0.0, 1.0)
    flame = np.concatenate([np.full_like(heat, 255.0), 255.0 * (1.0 - heat), np.zeros_like(heat)], axis=3)
    return np.asarray(np.rint((1.0 - heat) * colour + heat * flame), dtype=np.uint8)


def save_overlays(
    folder: str | Path, images: Any, maps: NDArray[Any], names: Sequence[str] | None = None
) -> list[Path]:
    """Write every :func:`overlay` as a PNG file.

    Parameters
    ----------
    folder : path
        Made where it does not exist; files of the same names are replaced.
    images, maps
        As in :func:`overlay`; images may be a source that is read piece by piece.
    names : sequence of str, optional
        A name for each, such as those of an :class:`anomgen.data.ImageFolder`, sub-folders included; the ending
        becomes ``.png``. Numbers by default.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        If two names are the same, or one leads out of the folder.
    """
    from PIL import Image

    numbers = [f"{i:0{len(str(len(maps)))}d}" for i in range(len(maps))]
    files = [PurePosixPath(name).with_suffix(".png") for name in names] if names is not None else []
    files = files or [PurePosixPath(f"{number}.png") for number in numbers]
    _check_names(files, len(maps))
    written = [Path(folder, file) for file in files]
    for start in range(0, len(maps), CHUNK):
        part = slice(start, start + CHUNK)
        for path, picture in zip(written[part], overlay(images[part], maps[part]), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return written


def _pixelwise(model: GenerativeModel, z: Tensor) -> Tensor:
    """Surprise of every coordinate by the best of the model's abilities, shape ``(n, d)`` or more."""
    able = abilities(model)
    call: Any = model
    found: Tensor
    if "log_prob_terms" in able:
        found = -call.log_prob_terms(z)
        return found
    if "residual" in able:
        found = call.residual(z)
        return found
    if "reconstruct" in able:
        found = (z - call.reconstruct(z)).square()
        return found
    potential = next((getattr(call, name) for name in ("log_prob", "energy", "realness") if name in able), None)
    if potential is None:
        raise ValueError(
            f"{type(model).__name__} has no heatmaps: its model can neither reconstruct a row nor tell how likely it is"
        )
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (found,) = torch.autograd.grad(potential(at).sum(), at)
    return found.square()


def _colour(images: NDArray[Any]) -> Pixels:
    """Images as ``(n, h, w, 3)`` bytes."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not {1, 3} & {images.shape[1], images.shape[3]}:
        raise ValueError(f"images have shape {images.shape}; give (n, h, w), (n, h, w, c) or (n, c, h, w), c 1 or 3")
    if images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.dtype != np.uint8:
        if images.dtype.kind not in "fb" or not (np.min(images) >= 0 and np.max(images) <= 1):
            raise ValueError(
                f"images are {images.dtype} between {np.min(images):g} and {np.max(images):g}; give uint8, or numbers "
                "between 0 and 1, such as detector.encoder_.levels(X)"
            )
        images = np.rint(images * 255.0).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _stretched(maps: NDArray[Any], size: tuple[int, int]) -> Maps:
    from PIL import Image

    if maps.shape[1:] == size:
        return np.asarray(maps, dtype=np.float32)
    pictures = [Image.fromarray(np.asarray(found, dtype=np.float32)) for found in maps]
    return np.stack([np.asarray(p.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for p in pictures])


def _check_names(files: Sequence[PurePosixPath], n: int) -> None:
    if len(files) != n:
        raise ValueError(f"there are {len(files)} names and {n} maps")
    outside = next((file for file in files if file.is_absolute() or ".." in file.parts), None)
    if outside is not None:
        raise ValueError(f"name {str(outside)!r} leads out of the folder")
    if len(set(files)) < n:
        twice = next(file for file in files if files.count(file) > 1)
        raise ValueError(f"two overlays would be called {str(twice)!r}; give names that differ without their endings")
