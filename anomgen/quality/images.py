"""Images as features of a small classifier that is trained for the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from anomgen import runtime
from anomgen.encode import ImageEncoder, Labelled, is_source
from anomgen.encode.image import as_array
from anomgen.quality.tables import some
from anomgen.train.adam import Adam

MAX_ROWS = 5_000
FEATURES = 32
SIDE = 64
"""Larger images are resized to this side."""
BATCH = 64
EPOCHS, STEPS = 4, (100, 300)
"""How often the classifier sees every image, and how many batches that are at least and at most."""
RATE, DECAY = 2e-3, 0.01
LABEL = "label"

CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.flip(3),
    lambda x: x.flip(2),
    lambda x: x.flip(2, 3),
    lambda x: x.roll(x.shape[3] // 2, 3),
    lambda x: -x,
    lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    lambda x: x + 0.2 * torch.randn_like(x),
)
"""What may be done to an image, for the classifier to tell: what generators get wrong shows in the same features."""


def pick(rows: Any, most: int, seed: int) -> Any:
    """At most so many images, chosen at random; with their labels, where they have some."""
    bare = rows.images if isinstance(rows, Labelled) else rows
    if not is_source(bare) and callable(getattr(bare, "chunks", None)):
        return some(bare, most, seed)
    n = len(bare)
    kept = np.sort(np.random.default_rng([seed, 0x1A6]).permutation(n)[:most])
    found = as_array([bare[i] for i in kept.tolist()] if isinstance(bare, list | tuple) else bare[kept])
    return Labelled(found, np.asarray(rows.labels)[kept]) if isinstance(rows, Labelled) else found


def features(raw: Mapping[str, Any], seed: int) -> tuple[dict[str, pd.DataFrame], str | None]:
    """Tables of the features of images, and the name of the column of labels, where all have them.

    The classifier learns to tell what was done to the images, and their labels where they have some, on the training
    images, or without them on the held-out ones.

    Parameters
    ----------
    raw : mapping of str to images or Labelled
        ``"held_out"``, ``"synthetic"`` and maybe ``"train"``, each in one array.
    seed : int

    Returns
    -------
    tables : dict of str to DataFrame
    target : str or None
    """
    bare = {name: rows.images if isinstance(rows, Labelled) else rows for name, rows in raw.items()}
    labelled = all(isinstance(rows, Labelled) for rows in raw.values())
    learned = "train" if "train" in raw else "held_out"
    encoder = ImageEncoder().fit(bare[learned])
    if max(encoder.shape_[1:]) > SIDE:
        encoder = ImageEncoder(size=SIDE).fit(bare[learned])
    encoded = {
        name: torch.from_numpy(encoder.encode(images, codes=True).z).reshape(-1, *encoder.shape_)
        for name, images in bare.items()
    }
    codes = torch.from_numpy(np.unique(raw[learned].labels, return_inverse=True)[1]) if labelled else None
    with runtime.threads(1), runtime.seeded(seed):
        eye = _trained(encoded[learned], codes)
        seen = {name: _seen(eye, images) for name, images in encoded.items()}
    tables = {name: pd.DataFrame(found).add_prefix("f") for name, found in seen.items()}
    for name, table in tables.items() if labelled else ():
        table[LABEL] = pd.Series(raw[name].labels).astype("category")
    return tables, LABEL if labelled else None


class Eye(nn.Module):
    """A small convolutional network: features, and from them what was done to an image and what is on it.

    Parameters
    ----------
    channels, side : int
        Of the images.
    classes : int
        Labels; 0 where there are none.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2 if side > SIDE // 2 else 1, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(48 * 9, FEATURES),
        )
        self.change = nn.Linear(FEATURES, len(CHANGES))
        self.label = nn.Linear(FEATURES, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features of images, shape ``(n, 32)``."""
        found: Tensor = self.body(x)
        return found


def _trained(images: Tensor, codes: Tensor | None) -> Eye:
    eye = Eye(images.shape[1], max(images.shape[2:]), 0 if codes is None else int(codes.max()) + 1)
    weights = list(eye.parameters())
    vector = parameters_to_vector(weights).detach()
    vector_to_parameters(vector, weights)  # from here on they are parts of it
    adam = Adam(vector, torch.ones_like(vector))
    for _ in range(int(np.clip(EPOCHS * len(images) // BATCH, *STEPS))):
        rows = torch.randint(len(images), (BATCH,))
        which = torch.randint(len(CHANGES), (BATCH,))
        loss = F.cross_entropy(eye.change(F.relu(eye(_changed(images[rows], which)))), which)
        if codes is not None:
            loss = loss + F.cross_entropy(eye.label(F.relu(eye(images[rows]))), codes[rows])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])
        adam.step(gradient, RATE, DECAY)
    return eye.eval()


def _changed(images: Tensor, which: Tensor) -> Tensor:
    """Every image with one thing done to it."""
    found = images.clone()
    for number, change in enumerate(CHANGES):
        chosen = which == number
        if chosen.any():
            found[chosen] = change(images[chosen])
    return found


def _seen(eye: Eye, images: Tensor) -> NDArray[np.float64]:
    height = max((1 << 22) // math.prod(images.shape[1:]), 1)
    with torch.inference_mode():
        return np.asarray(torch.cat([eye(part) for part in images.split(height)]).double().numpy())
