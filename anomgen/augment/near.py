"""More of given rows: drawn near them, by whatever way the model knows to move a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgen import runtime
from anomgen.augment.columns import Columns, numbers_of, stored
from anomgen.augment.matching import Matching
from anomgen.detector import Detector, fitting
from anomgen.detector.checks import data_digest, validated
from anomgen.encode import JointEncoder, image_encoder
from anomgen.encode.frame import Name
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
        other row with half the probability `strength`, and those of a row that the model draws with a quarter of it.

    Levels that training did not have are drawn anew. A number that does not move is kept to the bit, even beyond the
    range of the training rows; one that moves comes out as a model draws it, on its grid and within the range of that.

    Parameters
    ----------
    detector : Detector
        Fitted.
    rows : frame, array or images
        Laid out as the training rows were; anomalies are welcome.
    strength : float or "auto"
        In (0, 1]: 0 would be the given row, 1 has little to do with it. ``"auto"`` is 0.3.
    keep : sequence of column
        Columns that stay as they are in the row that is moved, such as a label; not where rows move in a latent space.
    condition : value or mapping, optional
        Conditions to draw under instead of those of the rows.
    matched : bool
        Whether numbers that are drawn anew get the distribution that their columns had in training; see
        :class:`~anomgen.augment.matching.Matching`. Numbers that only move are left as they come out.

    Raises
    ------
    ValueError
        For rows that the detector could not score, a strength outside (0, 1], or columns that cannot be kept.
    """

    def __init__(
        self,
        detector: Detector,
        rows: Any,
        strength: Any = "auto",
        *,
        keep: Sequence[Name] = (),
        condition: Any = None,
        matched: bool = False,
    ) -> None:
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
        self.matching = Matching.of(detector) if matched and self.method == "redraw" else None
        self._rows = Batches(encoded, self.space, 0.0, self.device, model.codes)
        self._columns = _columns_of(encoder, self.space)
        self.keep = self._kept(keep)
        self._still = torch.isin(self._columns, torch.tensor([j for j, _ in self.keep], dtype=torch.int64))
        self._unseen = torch.from_numpy(_unseen(encoder, self.space, self.given)).to(self.device)
        self._numbers = _numbers_at(encoder)

    def describe(self) -> dict[str, Any]:
        """What was done to which rows, as JSON values."""
        return {
            "rows": len(self.given),
            "sha256": data_digest(self.given),
            "strength": self.strength,
            **({"keep": [str(name) for _, name in self.keep]} if self.keep else {}),
            "method": self.method,
            "means": METHODS[self.method],
        }

    def sample(self, n: int, seed: tuple[int, ...], start: int = 0) -> tuple[Any, NDArray[np.int64]]:
        """Rows ``start .. start + n`` of the endless sequence that `seed` defines, and the given rows they are near."""
        model, dim = self.detector.model_, self.space.dim
        height = fitting.drawing_height(model)
        drawn = runtime.sample_rows(self._tile, n, seed=seed, device=self.device, start=start, height=height).numpy()
        rows, sources = self.detector.encoder_.decode(drawn[:, :dim], model.codes), drawn[:, dim].astype(np.int64)
        if self.matching is not None:
            rows = self.matching.apply(rows, seed, start)
        for name, at in self._numbers.items():
            # A number that did not move is the given one, which decoding would round, or take into the training range.
            kept = (drawn[:, dim + 1 :][:, at] == 0).all(axis=1)
            if kept.any():
                before, now = numbers_of(self.given, name)[0][sources], numbers_of(rows, name)[0]
                rows = stored(rows, name, np.where(kept, before, now))
        return rows, sources

    def same(self, rows: Any, sources: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are no other than the given rows that they come from."""
        if isinstance(rows, pd.DataFrame):
            before = self.given[list(rows.columns)].iloc[sources]
            each = [_equal(rows[name].to_numpy(object), before[name].to_numpy(object)) for name in rows.columns]
            return np.asarray(np.logical_and.reduce(each))
        before = np.asarray(self.given[sources])
        return np.asarray(_equal(rows, before).reshape(len(rows), -1).all(axis=1))

    def _tile(self, n: int) -> Tensor:
        """Rows in model space by torch's current generator; behind each the number of its given row, and what moved."""
        index = torch.randint(len(self._rows), (n,), device=self.device)
        z = self._rows.draw(index, blurred=False)
        model: Any = self.detector.model_
        unseen = self._unseen[index]
        if bool(unseen.any()):
            z = torch.where(unseen, self._fresh(z), z)
        if self.method == "latent":
            moved = model.perturb(z, self.strength)
        elif self.method == "redraw":
            moved = model.sample_given(z, ~self._chosen(n, self.strength))
        else:
            moved = self._step(z)
        parts = [moved, index[:, None].to(z.dtype)]
        if self._numbers:
            parts.append(((moved != z) & ~(moved.isnan() & z.isnan())).to(z.dtype))
        return torch.cat(parts, 1)

    def _fresh(self, z: Tensor) -> Tensor:
        """Rows drawn from the model under the conditions of rows `z`."""
        model: Any = self.detector.model_
        given = z[:, self.space.modelled :]
        drawn: Tensor = model.sample(len(z), given) if given.shape[1] else model.sample(len(z))
        return drawn

    def _chosen(self, n: int, share: float, least: bool = True) -> Tensor:
        """Coordinates of columns chosen with probability `share`, shape ``(n, d)``: `least` one column a row."""
        width = int(self._columns.max()) + 1
        draws = torch.rand(n, width, device=self.device)
        draws[:, self._columns[self._still]] = torch.inf
        chosen = draws < share
        if least:
            chosen |= draws == draws.amin(1, keepdim=True)
        spread = chosen[:, self._columns.clamp(min=0)]
        return spread & (self._columns >= 0)

    def _step(self, z: Tensor) -> Tensor:
        """The row a part of the way to another one, its levels partly those of others."""
        n = len(z)
        other = self._rows.draw(torch.randint(len(self._rows), (n,), device=self.device), blurred=False)
        fresh = self._fresh(z)
        share = self.strength * torch.rand(n, 1, device=self.device)
        real = torch.tensor([kind in ("real", "lattice", "pixel") for kind in self.space.kinds], device=self.device)
        noise = 0.1 * self.strength * torch.randn_like(z)
        moved = torch.where(real, z + share * (other - z) + noise, z)
        # A gap cannot be moved towards: where either is missing, the row stays as it is.
        moved = torch.where(moved.isnan(), z, moved)
        whole = self._discrete
        for source, chance in ((other, 0.5), (fresh, 0.25)):
            taken = self._chosen(n, chance * self.strength, least=False) & whole
            moved = torch.where(taken, source, moved)
        still = torch.tensor(self.space.condition) | self._still
        return torch.where(still.to(self.device), z, moved)

    def _kept(self, keep: Sequence[Name]) -> list[tuple[int, Name]]:
        """Numbers and names of the columns to keep."""
        names = [keep] if isinstance(keep, str | int) else list(keep)
        if not names:
            return []
        columns, encoder = Columns(self.detector), self.detector.encoder_
        found = {columns.find(name) for name in names}
        if self.method == "latent":
            raise ValueError(
                f"keep={names!r}: {type(self.detector).__name__} moves rows in its latent space, where no column stays "
                "as it is; fit it with condition= for these columns, or use a family that redraws columns, such as "
                "AutoregressiveDetector"
            )
        kept = [(j, column.name) for j, column in enumerate(encoder.columns_) if column.name in found]
        if {j for j, _ in kept} >= set(self._columns.tolist()) - {-1}:
            raise ValueError(f"keep={names!r} leaves no column that can move")
        return kept

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
    number = isinstance(strength, float | int | np.number) and not isinstance(strength, bool)
    if not number or not 0 < float(strength) <= 1:
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


def _unseen(encoder: Any, space: Space, rows: Any) -> NDArray[np.bool_]:
    """Which coordinates of rows stand for a level that training did not have, shape ``(n, d)``."""
    last = [levels - 1 if share > 0 else -1 for levels, share in zip(space.levels, space.unseen, strict=True)]
    own: Any = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    found = np.zeros((len(rows), space.dim), dtype=bool)
    if max(last[: space.modelled]) >= 0:
        own_rows = own.encode(rows, codes=True).z
        found[:, : space.modelled] = own_rows == np.array(last[: space.modelled])
    return found


def _numbers_at(encoder: Any) -> dict[Name, list[int]]:
    """Coordinates of every column of numbers or dates of a table."""
    if image_encoder(encoder) is not None:
        return {}
    own: Any = encoder.rows_ if isinstance(encoder, JointEncoder) else encoder
    at: dict[Name, list[int]] = {}
    for k, (j, _) in enumerate(own.coordinates_):
        if own.columns_[j].is_real:
            at.setdefault(own.columns_[j].name, []).append(k)
    return at


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Element by element, missing values being equal."""
    gone = pd.isna(a) & pd.isna(b)
    return np.asarray(gone | np.asarray(np.equal(a, b, where=~(pd.isna(a) | pd.isna(b)), out=np.zeros(a.shape, bool))))
