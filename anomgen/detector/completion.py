"""Gaps filled by draws from the model, given what is observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from anomgen import runtime
from anomgen.detector import borrowing, fitting
from anomgen.detector.checks import validated
from anomgen.detector.grid import Grid
from anomgen.encode import ImageEncoder, image_encoder
from anomgen.encode.image import as_array

if TYPE_CHECKING:
    from anomgen.detector.base import Detector

Array = NDArray[np.float64]

TILE, IMAGE_TILE = 64, 32
"""Rows, and images, that are completed at a time."""


@dataclass(frozen=True)
class Completed:
    r"""Rows without gaps, and how they were filled.

    Parameters
    ----------
    rows : frame, array or images; or a list of them
        Laid out as the rows given; where several draws were asked for, a list with one such table for each.
    method : str
        ``"exact conditional draws"``; what else a model that draws given a part calls its way;
        ``"importance resampling"``: candidates of a known density are chosen by how likely the model finds them, or
        a bound or an estimate says so; ``"nearest draws"``: values of rows drawn from the model that agree best with
        what is observed, numbers moved along their regression on it.
    effective : ndarray of shape (n,)
        Candidates that share the weight of a row, :math:`(\sum w)^2 / \sum w^2`: below ten or so, draws of the same
        row resemble each other more than they should. Infinite where draws are exact or nothing was missing; NaN where
        the model does not count them.
    """

    rows: Any
    method: str
    effective: Array


class Completing:
    """What every detector does about gaps."""

    def impute(self, X: Any, random_state: Any = None, *, draws: int = 1) -> Completed:
        """Fill missing values by draws from the model, given all that is observed in their row or image.

        Models with ``sample_given`` draw by themselves. Of others on tables, 4,096 rows are drawn; those most like a
        row lend it values, from which candidates are made and weighed by their likelihood. Where a model has no
        likelihood, and on images, whose hundreds of missing pixels would leave all weight to one candidate, the nearest
        draws lend theirs as they are.

        Parameters
        ----------
        X : frame or array of shape (n, p), or images
            Missing pixels are NaN, in images of a type that has it.
        random_state : int, RandomState or None
            None stands for the detector's own `random_state`. A row's values depend on it, on the row and on its
            position, not on other rows.
        draws : int
            How often each gap is filled. The first draw is the same for any number.

        Returns
        -------
        Completed
            Its `rows` are a copy of `X`: what was observed is as it was, and excluded columns keep their gaps.

        Raises
        ------
        ValueError
            If images are not of the size that the model has, or a condition is missing: conditions are given, not
            modelled.

        Examples
        --------
        >>> import numpy as np
        >>> from anomgen import MixtureDetector
        >>> a = np.random.default_rng(0).normal(size=400)
        >>> detector = MixtureDetector(noise=0.05, random_state=0, verbose=False).fit(np.stack([a, 2 * a], axis=1))
        >>> completed = detector.impute([[1.0, np.nan]])
        >>> completed.method, bool(1 < completed.rows[0, 1] < 3)
        ('exact conditional draws', True)
        """
        detector = cast("Detector", self)
        detector._absorb()
        if int(draws) != draws or draws < 1:
            raise ValueError(f"draws={draws!r} must be a positive integer")
        X = validated(detector, X, reset=False, minimum=1)
        seed = seed_of(detector, random_state)
        images = image_encoder(detector.encoder_)
        fill = _fill_table if images is None else _fill_images
        filled, method, effective = fill(detector, X, seed, int(draws))
        return Completed(filled[0] if draws == 1 else filled, method, effective)


def seed_of(detector: Detector, random_state: Any) -> int:
    """The number that a random state comes down to."""
    generator = check_random_state(detector.random_state if random_state is None else random_state)
    return int(generator.randint(2**31 - 1))


def method_of(detector: Detector) -> str:
    """How the detector's model fills gaps."""
    model = detector.model_
    if hasattr(model, "sample_given"):
        return model.drawing
    return borrowing.method_of(detector)


def _fill_table(detector: Detector, X: Any, seed: int, draws: int) -> tuple[list[Any], str, Array]:
    grid = Grid(detector.encoder_)
    given, values = grid.given(X), grid.read(X)
    gaps = np.isnan(values)
    rows = np.flatnonzero(gaps.any(axis=1))
    effective = np.full(len(values), np.inf)
    if not len(rows):
        return [X.copy() for _ in range(draws)], method_of(detector), effective
    if hasattr(detector.model_, "sample_given"):
        found, effective[rows] = _drawn_table(detector, grid, values, given, rows, seed, draws)
    else:
        found, effective[rows] = borrowing.borrowed(detector, grid, X, values, rows, seed, draws)
    return [grid.put(X, rows, gaps[rows], each) for each in found], method_of(detector), effective


def _fill_images(detector: Detector, X: Any, seed: int, draws: int) -> tuple[list[Any], str, Array]:
    images = as_array(X[: len(X)])
    encoder = cast(ImageEncoder, image_encoder(detector.encoder_))
    encoder.levels(images[:0])  # refuses those of another shape
    gaps = np.isnan(images)
    rows = np.flatnonzero(gaps.reshape(len(images), -1).any(axis=1))
    effective = np.full(len(images), np.inf)
    if not len(rows):
        return [images.copy() for _ in range(draws)], method_of(detector), effective
    check_size(encoder)
    # Pixels whose level depends on what stands in a gap are the gaps, whatever the layout.
    dark, bright = (encoder.encode(np.where(gaps[rows], end, images[rows]), codes=True).z for end in encoder.range_)
    z = np.where(dark == bright, dark, np.nan)
    if hasattr(detector.model_, "sample_given"):
        everything = np.zeros((len(images), z.shape[1]), dtype=np.float32)
        everything[rows] = z
        found, effective[rows] = _drawn(detector, everything, rows, IMAGE_TILE, seed, draws)
        if not detector.model_.codes:
            found = [np.clip(each, -1.0, 1.0) for each in found]
    else:
        found, effective[rows] = borrowing.nearest_images(detector, z, rows, seed, draws)
    filled = []
    for each in found:
        whole = images.copy()
        decoded = encoder.decode(each, codes=True).reshape(images[rows].shape)
        whole[rows] = np.where(gaps[rows], decoded, images[rows])
        filled.append(whole)
    return filled, method_of(detector), effective


def check_size(encoder: ImageEncoder) -> None:
    """Refuse to change pixels of images that the model sees at another size."""
    if encoder.size is not None:
        raise ValueError(
            f"the model sees images of {encoder.shape_[1:]}, and cannot fill the pixels of others; resize "
            "them beforehand, and fit without image_size"
        )


# ---------------------------------------------------------------------- models that draw given a part


def _drawn_table(
    detector: Detector,
    grid: Grid,
    values: Array,
    given: NDArray[np.float32] | None,
    rows: NDArray[np.int64],
    seed: int,
    draws: int,
) -> tuple[list[Array], Array]:
    codes = detector.model_.codes
    gaps = np.isnan(values)
    # What is filled in is a value, so that the mask has to say that there is one.
    z = grid.encode(np.where(gaps, _middles(grid), values), codes, given).z
    own = len(grid.own.coordinates_)
    value_of = np.ones(own, dtype=bool)
    value_of[grid.masks] = False
    z[:, :own][gaps[:, grid.columns] & value_of] = np.nan
    found, effective = _drawn(detector, z, rows, TILE, seed, draws)
    return [_decoded(grid, each[:, :own], codes) for each in found], effective


def _middles(grid: Grid) -> Array:
    """Some value of every column."""
    return np.array(
        [
            (0.0 if column.coded else column.levels[0]) if column.levels else column.center
            for column in grid.own.columns_
        ]
    )


def _decoded(grid: Grid, z: Array, codes: bool) -> Array:
    if codes:
        return grid.decode(z.astype(np.float64))
    return grid.decode(grid.codes_of(z.astype(np.float64)))


def _drawn(
    detector: Detector, z: NDArray[np.float32], rows: NDArray[np.int64], height: int, seed: int, draws: int
) -> tuple[list[Any], Array]:
    """Rows with NaN drawn given the rest, and how many candidates shared the weight."""
    model: Any = detector.model_
    counted = getattr(model, "draw_given", None)

    def complete(_: int, given: Tensor) -> Tensor:
        if counted is None:
            drawn: Tensor = model.sample_given(given, ~given.isnan())
            return drawn
        drawn, effective = counted(given, ~given.isnan())
        return torch.cat([drawn, effective[:, None]], 1)

    done = [_tiles(complete, detector, z, rows, height, each) for each in seeds_of(seed, draws)]
    if counted is not None:
        return [each[:, :-1] for each in done], done[0][:, -1].astype(np.float64)
    exact = model.drawing == "exact conditional draws"
    return done, np.full(len(rows), np.inf if exact else np.nan)


def seeds_of(seed: int, draws: int) -> Iterator[int]:
    """A seed for each draw; the first is `seed` itself."""
    yield seed
    for number in range(1, draws):
        yield int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _tiles(
    complete: Callable[..., Tensor],
    detector: Detector,
    z: NDArray[np.float32],
    rows: NDArray[np.int64],
    height: int,
    seed: int,
) -> NDArray[np.float32]:
    """The given rows of what `complete` makes of all; tiles without any are left out."""
    device, parts = fitting.device_of(detector.model_), []
    for tile in np.unique(rows // height):
        start = int(tile) * height
        some = torch.from_numpy(z[start : start + height])
        found = runtime.sample_rows(
            complete, len(some), seed=seed, device=device, start=start, given=some, height=height
        )
        parts.append(found.numpy()[rows[(rows >= start) & (rows < start + height)] - start])
    return np.concatenate(parts)
