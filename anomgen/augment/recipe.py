"""What rows are asked for: everything that draws follow from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anomgen.augment.band import Band
from anomgen.augment.columns import is_whole
from anomgen.augment.constraints import Constraint, settle
from anomgen.augment.matching import Matching
from anomgen.augment.near import Near
from anomgen.augment.pinned import Pinned
from anomgen.detector import Detector
from anomgen.encode import JointEncoder
from anomgen.quality import CopyCheck

BLOCK = 16_384
"""Kept rows of one block: what a seed is given to, and what is drawn whole or in part by one call."""
IMAGE_BLOCK = 1024
"""Kept images of one block: larger than rows of tables, and slower to come by."""
MARGINALS = ("data", "model")


@dataclass(frozen=True)
class Recipe:
    """Everything that kept rows follow from: one recipe always gives the same rows, in any pieces.

    Parameters
    ----------
    detector : Detector
        Fitted.
    seed : int
        Of the endless sequence of rows.
    condition : value or mapping of condition to value, optional
        Draw all rows under this condition, where the detector was fitted with conditions; by default, conditions are
        drawn as often as they occur in training. Models that draw columns given others take a mapping of any columns.
    band : (low, high), "typical", "rare" or None
        Keep rows whose score lies between these quantiles of the training rows' scores:
        see :class:`~anomgen.augment.band.Band`. ``"typical"`` is (0.05, 1), ``"rare"`` is (0.01, 0.05).
    constraints : sequence of Constraint
        What rows have to satisfy. Applied in this order: :class:`Integer`, :class:`Sum`, then the others.
    marginals : {"data", "model"}
        Whether the numbers of every column are brought to the distribution that they had in training, see
        :class:`~anomgen.augment.matching.Matching`, or stay as the model draws them.
    near : rows, optional
        Make more of these rows instead of drawing any: see :class:`~anomgen.augment.near.Near`.
    strength : float or "auto"
        How far from `near` rows may go, in (0, 1]; ``"auto"`` is 0.3.
    keep : sequence of column
        Columns of `near` rows that stay as they are, such as a label.
    max_tries : int
        Raw rows drawn for each kept row at most, on average over a block.
    check : CopyCheck, optional
        Tells rows that are copies of training rows.
    allow_copies : bool
        Whether copies are counted and kept; otherwise they are counted and refused.

    Raises
    ------
    ValueError
        Naming the parameter that cannot be used.
    """

    detector: Detector
    seed: int = 0
    condition: Any = None
    band: Any = None
    constraints: Sequence[Constraint] = ()
    marginals: Literal["data", "model"] = "data"
    near: Any = None
    strength: Any = "auto"
    keep: Sequence[Any] = ()
    max_tries: int = 100
    check: CopyCheck | None = None
    allow_copies: bool = False

    limits: Band | None = field(init=False, repr=False)
    matching: Matching | None = field(init=False, repr=False)
    nearby: Near | None = field(init=False, repr=False)
    pinned: Pinned | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check everything, and settle what follows from the detector."""
        for name, least, most in (("seed", 0, 2**32 - 1), ("max_tries", 1, 10**9)):
            value = getattr(self, name)
            if not is_whole(value) or not least <= int(value) <= most:
                raise ValueError(f"{name}={value!r} must be a whole number from {least} to {most:,}")
        if self.marginals not in MARGINALS:
            raise ValueError(f"marginals={self.marginals!r} must be one of {', '.join(map(repr, MARGINALS))}")
        self.detector._absorb()
        nearby = None if self.near is None else self._nearby()
        matched = Matching.of(self.detector) if self.marginals == "data" and nearby is None else None
        settled: dict[str, Any] = {
            "matching": matched if nearby is None else nearby.matching,
            "pinned": _pinned(self.detector, self.condition),
            "limits": None if self.band is None else Band.of(self.detector, self.band),
            "constraints": settle(self.constraints, self.detector),
            "nearby": nearby,
        }
        if self.strength != "auto" and self.near is None:
            raise ValueError(f"strength={self.strength!r} is how far to go from the rows of near=, and there are none")
        if len(self.keep) and self.near is None:
            raise ValueError(f"keep={self.keep!r} is about the rows of near=, and there are none")
        if settled["pinned"] is not None and self.near is not None:
            raise ValueError(
                "near= and condition= of columns cannot both be asked for; the rows near say what they are"
            )
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def _nearby(self) -> Near:
        more = {"keep": self.keep, "condition": self.condition, "matched": self.marginals == "data"}
        return Near(self.detector, self.near, self.strength, **more)

    @property
    def block(self) -> int:
        """Kept rows of one block: `BLOCK`, or `IMAGE_BLOCK`."""
        return IMAGE_BLOCK if self.detector.encoder_.container_ == "images" else BLOCK

    def matched(self, rows: Any, seed: tuple[int, int], start: int) -> Any:
        """Raw rows from `start` on, brought to the distribution of the training columns where that is asked for."""
        if self.matching is None:
            return rows
        return self.matching.apply(rows, seed, start, () if self.pinned is None else self.pinned.names)

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON values, without the detector."""
        return {
            "seed": int(self.seed),
            "condition": _told(self.condition),
            "band": None if self.limits is None else self.limits.describe(),
            "constraints": [item.describe() for item in self.constraints],
            "marginals": None if self.matching is None else self.marginals,
            "near": None if self.nearby is None else self.nearby.describe(),
            "max_tries": int(self.max_tries),
            "copies": None
            if self.check is None
            else {"train": self.check.digest, "allowed": self.check.allowed, "kept": self.allow_copies},
            "block": self.block,
        }


def _pinned(detector: Any, condition: Any) -> Pinned | None:
    """What draws rows under one condition, unless the detector was fitted with conditions and does so itself."""
    if condition is None:
        return None
    values = list(condition.values()) if isinstance(condition, Mapping) else [condition]
    if any(np.ndim(value) for value in values):
        raise ValueError("condition= must be one value, or one for each condition, that all rows are drawn under")
    if isinstance(detector.encoder_, JointEncoder):
        known = detector.encoder_.given_.names_
        unknown = [name for name in condition if name not in known] if isinstance(condition, Mapping) else []
        if unknown:
            raise ValueError(f"condition= names {unknown[0]!r}, which the detector was not fitted with; it has {known}")
        detector.sample_conditions(1, (0,), condition=condition)
        return None
    if not isinstance(condition, Mapping):
        raise ValueError(
            f"{type(detector).__name__} was fitted without condition=; name the column, as in condition={{'column': "
            f"{condition!r}}}"
        )
    return Pinned(detector, condition)


def _told(value: Any) -> Any:
    """A condition as JSON values."""
    if isinstance(value, Mapping):
        return {str(name): _told(item) for name, item in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
