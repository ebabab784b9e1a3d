"""More of given rows: drawn near them, by whatever way the model knows to move a row."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen import runtime
from anomgen.detector import Detector, fitting
from anomgen.detector.checks import data_digest, validated
from anomgen.encode import JointEncoder, image_encoder
from anomgen.generative import Space, abilities
from anomgen.train.tensors import Batches

STRENGTH = 0.3
"""How far ``strength="auto"`` goes."""
MOST = 1_000_000
"""Rows at most whose neighbourhood is drawn from."""

METHODS = {
    "latent": "perturbed in the model's latent space",
    "redraw": "some columns drawn anew given the others",
    "step": "a step in encoded space towards another of the rows, with noise, and levels of drawn rows",
}


class Near:
    """Rows drawn near given ones.

    Every row starts from one of the given rows, chosen evenly. How it moves is the best that the model can do:

    ``"latent"``
        Where the model maps rows to a latent and back (flows, VAEs): the latent is moved a part of the way to a fresh
        draw of it.
    ``"redraw"``
        Where it draws columns given others (``sample_given``): each column is drawn anew with probability `strength`,
        at least one.
    ``"step"``
        Elsewhere: numbers and pixels move a random share, `strength` at most, of the way towards another of the given
        rows, and get normal noise of a tenth of `strength` standard deviations; levels and gaps become those of the
        other row with half the probability `strength`, and those of a row that the model draws with a tenth of it.

    Parameters
    ----------
    detector : Detector
        Fitted.
    rows : frame, array or images
        Laid out as the training rows were; anomalies are welcome.
    strength : float or "auto"
        In (0, 1]: 0 would be the given row, 1 has little to do with it. ``"auto"`` is 0.3.
    condition : value or mapping, optional
        Conditions to draw under instead of those of the rows.

    Raises
    ------
    ValueError
        For rows that the detector could not score, or a strength outside (0, 1].
    """

    def __init__(self, detector: Detector, rows: Any, strength: Any = "auto", *, condition: Any = None) -> None:
        self.detector, self.strength = detector, read_strength(strength)
        self.given = validated(detector, rows, reset=False, minimum=1)
        self.given = self.given[: len(self.given)] if image_encoder(detector.encoder_) is not None else self.given
        if len(self.given) > MOST:
            raise ValueError(f"near= has {len(self.given):,} rows; {MOST:,} are the most, so give a sample of them")
        model, encoder = detector.model_, detector.encoder_
        self.space = Space(**encoder.layout())
        self.device = fitting.device_of(model)
        able = abilities(model)
        self.method = "latent" if "perturb" in able else "redraw" if "sample_given" in able else "step"
        encoded = _encoded(detector, self.given, condition)
        self._rows = Batches(encoded, self.space, 0.0, self.device, model.codes)
        self._columns = _columns_of(encoder, self.space)

    def describe(self) -> dict[str, Any]:
        """What was done to which rows, as JSON values."""
        return {
            "rows": len(self.given),
            "sha256": data_digest(self.given),
            "strength": self.strength,
            "method": self.method,
            "means": METHODS[self.method],
        }

    def sample(self, n: int, seed: tuple[int, ...], start: int = 0) -> tuple[Any, NDArray[np.int64]]:
        """Rows ``start .. start + n`` of the endless sequence that `seed` defines, and the given rows they are near."""
        model = self.detector.model_
        height = fitting.drawing_height(model)
        drawn = runtime.sample_rows(self._tile, n, seed=seed, device=self.device, start=start, height=height).numpy()
        rows = self.detector.encoder_.decode(drawn[:, :-1], model.codes)
        return rows, drawn[:, -1].astype(np.int64)

    def same(self, rows: Any, sources: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are no other than the given rows that they come from."""
        if isinstance(rows, pd.DataFrame):
            before = self.given[list(rows.columns)].iloc[sources]
            each = [_equal(rows[name].to_numpy(object), before[name].to_numpy(object)) for name in rows.columns]
            return np.asarray(np.logical_and.reduce(each))
        before = np.asarray(self.given[sources])
        return np.asarray(_equal(rows, before).reshape(len(rows), -1).all(axis=1))

    def _tile(self, n: int) -> Tensor:
        """Rows in model space with the number of their given row behind, by torch's current generator."""
        index = torch.randint(len(self._rows), (n,), device=self.device)
        z = self._rows.draw(index, blurred=False)
        model: Any = self.detector.model_
        if self.method == "latent":
            moved = model.perturb(z, self.strength)
        elif self.method == "redraw":
            moved = model.sample_given(z, ~self._chosen(n, self.strength))
        else:
            moved = self._step(z)
        return torch.cat([moved, index[:, None].to(moved.dtype)], 1)

    def _chosen(self, n: int, share: float, least: bool = True) -> Tensor:
        """Coordinates of columns chosen with probability `share`, shape ``(n, d)``: `least` one column a row."""
        width = int(self._columns.max()) + 1
        draws = torch.rand(n, width, device=self.device)
        chosen = draws < share
        if least:
            chosen |= draws == draws.amin(1, keepdim=True)
        spread = chosen[:, self._columns.clamp(min=0)]
        return spread & (self._columns >= 0)

    def _step(self, z: Tensor) -> Tensor:
        """The row a part of the way to another one, its levels partly those of others."""
        n, model = len(z), cast(Any, self.detector.model_)
        other = self._rows.draw(torch.randint(len(self._rows), (n,), device=self.device), blurred=False)
        fresh = model.sample(n, z[:, self.space.modelled :]) if any(self.space.condition) else model.sample(n)
        share = self.strength * torch.rand(n, 1, device=self.device)
        real = torch.tensor([kind in ("real", "lattice", "pixel") for kind in self.space.kinds], device=self.device)
        noise = 0.1 * self.strength * torch.randn_like(z)
        moved = torch.where(real, z + share * (other - z) + noise, z)
        # A gap cannot be moved towards: where either is missing, the row stays as it is.
        moved = torch.where(moved.isnan(), z, moved)
        whole = self._discrete
        for source, chance in ((other, 0.5), (fresh, 0.1)):
            taken = self._chosen(n, chance * self.strength, least=False) & whole
            moved = torch.where(taken, source, moved)
        return torch.where(torch.tensor(self.space.condition, device=self.device), z, moved)

    @property
    def _discrete(self) -> Tensor:
        """Coordinates of columns that hold levels or gaps."""
        by_column: dict[int, bool] = {}
        kinds = zip(self._columns.tolist(), self.space.kinds, strict=True)
        for column, kind in kinds:
            by_column[column] = by_column.get(column, False) or kind == "cell"
        return torch.tensor([by_column[c] for c in self._columns.tolist()], device=self.device)


def read_strength(strength: Any) -> float:
    """The number that a strength stands for.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a number in (0, 1].
    """
    if isinstance(strength, str) and strength == "auto":
        return STRENGTH
    if not isinstance(strength, float | int | np.number) or not 0 < float(strength) <= 1:
        raise ValueError(f"strength={strength!r} must be 'auto' or a number in (0, 1]")
    return float(strength)


def _encoded(detector: Detector, rows: Any, condition: Any) -> Any:
    """Rows as training encodes them, under the conditions given or their own."""
    encoder, codes = detector.encoder_, detector.model_.codes
    if not isinstance(encoder, JointEncoder):
        return encoder.encode(rows, cells=True, codes=codes)
    if condition is not None:
        given = detector._given(condition, len(rows))
        return encoder.encode(rows, cells=True, codes=codes, given=given)
    if encoder.label is not None:
        raise ValueError(
            "the detector was fitted with labels beside its rows; say with condition= which near= rows have"
        )
    return encoder.encode(rows, cells=True, codes=codes)


def _columns_of(encoder: Any, space: Space) -> Tensor:
    """Number of the column that every coordinate belongs to, a value and its mask the same; -1 for conditions."""
    own: Any = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    known = range(space.modelled) if image_encoder(encoder) is not None else [j for j, _ in own.coordinates_]
    return torch.tensor([*known, *([-1] * sum(space.condition))])


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Element by element, missing values being equal."""
    gone = pd.isna(a) & pd.isna(b)
    return np.asarray(gone | np.asarray(np.equal(a, b, where=~(pd.isna(a) | pd.isna(b)), out=np.zeros(a.shape, bool))))
