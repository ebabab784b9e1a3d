"""Anomalous images made likely where they are hot."""

from __future__ import annotations

from collections.abc import Iterator
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
HOTTEST, HEAT = (0.7, 0.4), (3.0, 2.0, 1.0, 0.5)
"""Heat above which pixels may change: as shares of an image's hottest, then as it is; at last all may."""
ROUNDS = 3
"""How often what remains hot is changed again."""
SWEEPS = 100
MEDIAN_TO_DEVIATION = 1.4826
"""Standard deviation of normal noise of a median absolute value of 1."""
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
    """Each image changed where it is hottest, then elsewhere, by as little as is enough; as it was where nothing is."""
    z = encoder.encode(images, codes=True).z
    current, done = z.copy(), np.zeros(len(z), dtype=bool)
    for _ in range(ROUNDS):
        left = np.flatnonzero(~done)
        if not len(left):
            break
        found, scores = _step(detector, encoder, images[left], z[left], current[left], likely)
        current[left], done[left] = found, scores >= detector.offset_
    moved = np.where(done[:, None], current - z, 0.0)
    return _blend(encoder, images, z, _least(detector, encoder, images, z, moved, done))


def _step(
    detector: Detector, encoder: ImageEncoder, images: NDArray[Any], z: Any, current: Any, likely: Any
) -> tuple[NDArray[Any], Array]:
    """Images, as they are now in model space, changed in the least part that is enough; else as helps most."""
    now = _blend(encoder, images, z, current - z)
    heat = detector.score_map(now)
    ends = [*_reconstructed(detector, encoder, now), *_nearest(current, likely)]
    best, scores = current.copy(), detector.score_samples(now)
    for where in _parts(heat):
        left = np.flatnonzero(scores < detector.offset_)
        if not len(left):
            break
        mask = np.repeat(where[left, None], encoder.shape_[0], axis=1).reshape(len(left), -1)
        some = [*(end[left] for end in ends), *_spread(current[left], where[left], encoder.shape_)]
        tried = np.stack([np.where(mask, end, current[left]) for end in some])
        found = np.reshape(
            _scores(
                detector,
                encoder,
                np.tile(images[left], (len(some), *(1,) * (images.ndim - 1))),
                np.tile(z[left], (len(some), 1)),
                (tried - z[left]).reshape(-1, z.shape[1]),
            ),
            tried.shape[:2],
        )
        # Of those that are enough the one that moves least, else the likeliest.
        way = np.square(tried - current[left]).sum(2)
        chosen = np.where(found >= detector.offset_, 1.0 / (1.0 + way), -np.inf).argmax(0)
        chosen = np.where((found >= detector.offset_).any(0), chosen, found.argmax(0))
        at = np.arange(len(left))
        better = found[chosen, at] > scores[left]
        best[left[better]] = tried[chosen, at][better]
        scores[left[better]] = found[chosen, at][better]
    return best, scores


def _parts(heat: NDArray[Any]) -> Iterator[Flags]:
    """Growing parts of images: what is hot beside the hottest pixel, what is hot beside those of normal images, all."""
    most = heat.max(axis=(1, 2), keepdims=True)
    for share in HOTTEST:
        yield heat > share * most
    for level in (*(share * most for share in HOTTEST), *HEAT):
        yield maximum_filter(heat > level, size=(1, 3, 3))
    yield np.ones(heat.shape, dtype=bool)


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


def _spread(z: Any, where: Flags, shape: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images with the pixels `where` as smooth as they can be given the others; and as grainy as the others are."""
    some = where & ~where.all(axis=(1, 2), keepdims=True)
    hidden = np.broadcast_to(some[:, None], (len(z), *shape))
    found = z.reshape(hidden.shape)
    count = np.maximum((~hidden).sum((2, 3), keepdims=True), 1)
    found = np.where(hidden, np.where(hidden, 0.0, found).sum((2, 3), keepdims=True) / count, found)
    for _ in range(SWEEPS):
        found = np.where(hidden, _around(found), found)
    # The difference of a pixel's noise from the mean of four others has 5/4 of its variance.
    rest = np.nanmedian(np.where(hidden, np.nan, np.abs(found - _around(found))), axis=(2, 3), keepdims=True)
    grain = rest * MEDIAN_TO_DEVIATION / 1.25**0.5
    noise = np.random.default_rng(0).normal(size=shape)
    grainy = np.clip(np.where(hidden, found + grain * noise, found), -1.0, 1.0)
    return found.reshape(z.shape).astype(z.dtype), grainy.reshape(z.shape).astype(z.dtype)


def _around(found: Array) -> Array:
    """Mean of the four neighbours of every pixel."""
    edged = np.pad(found, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    beside = edged[:, :, 1:-1, :-2] + edged[:, :, 1:-1, 2:]
    return np.asarray(0.25 * (beside + edged[:, :, :-2, 1:-1] + edged[:, :, 2:, 1:-1]))


def _nearest(z: Any, likely: Any) -> list[NDArray[Any]]:
    """The likely images nearest to each, the nearest first."""
    if not len(likely):
        return []
    apart = np.stack([np.square(likely - row).sum(1) for row in z])
    order = np.argsort(apart, axis=1, kind="stable")
    return [likely[order[:, place]] for place in range(min(NEAREST, len(likely)))]
