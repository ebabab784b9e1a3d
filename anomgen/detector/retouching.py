"""Anomalous images made likely where they are hot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor

from anomgen import runtime
from anomgen.detector import fitting
from anomgen.detector.completion import check_size
from anomgen.encode import ImageEncoder, JointEncoder, image_encoder
from anomgen.encode.image import as_array

if TYPE_CHECKING:
    from anomgen.detector.base import Detector

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

DRAWN = 256
"""Images drawn, of which the likely ones lend pixels."""
NEAREST = 2
"""Of these, so many that an image may turn into."""
HEAT = (3.0, 2.0, 1.0, 0.5, 0.0)
"""Heat above which pixels may change, one after the other; at last all may."""
HALVINGS = 5
BLOCK = 64
"""Images repaired at a time."""


def retouched(detector: Detector, X: Any, bad: NDArray[np.int64], seed: int) -> tuple[NDArray[Any], Flags]:
    """Images with those in `bad` made likely where that is possible, and which pixels are others."""
    encoder = cast(ImageEncoder, image_encoder(detector.encoder_))
    images = as_array(X[: len(X)]).copy()
    changed = np.zeros(images.shape, dtype=bool)
    if not len(bad):
        return images, changed
    check_size(encoder)
    drawn = detector.sample(DRAWN, random_state=seed)
    likely = encoder.encode(drawn[detector.score_samples(drawn) >= detector.offset_], codes=True).z
    for start in range(0, len(bad), BLOCK):
        some = bad[start : start + BLOCK]
        new = _made_likely(detector, encoder, images[some], likely)
        changed[some] = new != images[some]
        images[some] = new
    return images, changed


def _made_likely(detector: Detector, encoder: ImageEncoder, images: NDArray[Any], likely: Any) -> NDArray[Any]:
    """Each image changed in the fewest pixels that are enough, by as little as is; as it was where nothing is."""
    z = encoder.encode(images, codes=True).z
    heat = detector.score_map(images)
    ends = [*_reconstructed(detector, encoder, images), *_nearest(z, likely)]
    best, done = np.zeros_like(z), np.zeros(len(z), dtype=bool)
    for level in (*HEAT, None):
        where = np.ones(heat.shape, dtype=bool) if level is None else maximum_filter(heat > level, size=(1, 3, 3))
        mask = np.repeat(where[:, None], encoder.shape_[0], axis=1).reshape(len(z), -1)
        for end in ends:
            moved = np.where(mask, end - z, 0.0)
            tried = ~done & moved.any(axis=1)
            if tried.any():
                enough = _scores(detector, encoder, images[tried], z[tried], moved[tried]) >= detector.offset_
                at = np.flatnonzero(tried)[enough]
                best[at], done[at] = moved[at], True
    return _blend(encoder, images, z, _least(detector, encoder, images, z, best, done))


def _least(
    detector: Detector, encoder: ImageEncoder, images: NDArray[Any], z: Any, moved: Any, done: Flags
) -> NDArray[Any]:
    """Moves as short as they can be for the images to stay likely."""
    low, high = np.zeros(len(z)), np.ones(len(z))
    for _ in range(HALVINGS if done.any() else 0):
        share = 0.5 * (low + high)
        scores = _scores(detector, encoder, images[done], z[done], share[done, None] * moved[done])
        enough = np.zeros(len(z), dtype=bool)
        enough[done] = scores >= detector.offset_
        high, low = np.where(enough, share, high), np.where(enough, low, share)
    return np.asarray(high[:, None] * moved)


def _scores(detector: Detector, encoder: ImageEncoder, images: NDArray[Any], z: Any, moved: Any) -> Array:
    return detector.score_samples(_blend(encoder, images, z, moved))


def _blend(encoder: ImageEncoder, images: NDArray[Any], z: Any, moved: Any) -> NDArray[Any]:
    """Images with their pixels moved in model space; those that keep their level are as they were."""
    before, after = encoder.decode(z, codes=True), encoder.decode(z + moved, codes=True)
    same = (before == after).reshape(images.shape)
    return np.where(same, images, after.reshape(images.shape)).astype(images.dtype)


def _reconstructed(detector: Detector, encoder: ImageEncoder, images: NDArray[Any]) -> list[NDArray[Any]]:
    """What the model makes of images, where it is able to: once, and of that once more."""
    model: Any = detector.model_
    if not hasattr(model, "reconstruct") or isinstance(detector.encoder_, JointEncoder):
        return []

    def reconstruct(z: Tensor) -> Tensor:
        made: Tensor = model.reconstruct(z)
        return made

    device = fitting.device_of(model)
    size = model.passes * sum(held.numel() for held in model.state_dict().values())
    height = runtime.tile_height(size, device, max(model.passes * model.work, 1))
    z, found = encoder.encode(images, codes=model.codes).z, []
    for _ in range(2):
        z = runtime.map_rows(reconstruct, (torch.from_numpy(np.clip(z, -1.0, 1.0)),), device=device, height=height)
        found.append(np.clip(z, -1.0, 1.0))
    return found


def _nearest(z: Any, likely: Any) -> list[NDArray[Any]]:
    """The likely images nearest to each, the nearest first."""
    if not len(likely):
        return []
    apart = np.stack([np.square(likely - row).sum(1) for row in z])
    order = np.argsort(apart, axis=1, kind="stable")
    return [likely[order[:, place]] for place in range(min(NEAREST, len(likely)))]
