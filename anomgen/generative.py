"""The contract between an encoder, a generative model and everything that uses a fitted one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

Objective = tuple[Iterable[nn.Parameter], Callable[[Tensor], Tensor]]

PIXEL_LEVELS = 256
"""Values that a pixel can have: 8 bits."""
PIXEL_WIDTH = 2.0 / PIXEL_LEVELS
"""Width of the interval around each of them in model space, where they fill [-1, 1]."""


@dataclass(frozen=True)
class Space:
    """What an encoder tells a model about the rows it will see.

    Parameters
    ----------
    shape : tuple of int
        Event shape of what is modelled: ``(d,)`` for a table, ``(channels, height, width)`` for images. Encoded rows
        are flat all the same, of shape ``(n, dim)``: the shape tells networks who is whose neighbour.
    names : tuple of str
        A label for each coordinate, in order.
    kinds : tuple of {"real", "lattice", "cell", "pixel"}
        ``"real"``: a density lives here. ``"lattice"``: a number known up to a box of fixed width. ``"cell"``: a level
        of a discrete column, an interval of the standard normal distribution as wide as the level is frequent.
        ``"pixel"``: one of 256 levels, the middles of equal intervals of [-1, 1].
    edges : tuple of tuple of float
        For a cell coordinate the inner edges between its levels in model space, ascending; empty for the others.
    missing : tuple of bool
        Whether a coordinate may stand for a missing value.
    unseen : tuple of float
        Probability set aside for the last level of a cell coordinate, the one for values never seen in training; 0
        where every level was seen, and for the other kinds. Zeros unless given.
    condition : tuple of bool
        Which coordinates are given rather than modelled: the last ones of a row, levels as their numbers. False unless
        given.

    Examples
    --------
    >>> Space((1,), ("x",), ("real",), ((),), (False,)).dim
    1
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    missing: tuple[bool, ...]
    unseen: tuple[float, ...] = ()
    condition: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what is left out."""
        object.__setattr__(self, "unseen", self.unseen or (0.0,) * len(self.names))
        object.__setattr__(self, "condition", self.condition or (False,) * len(self.names))

    @property
    def dim(self) -> int:
        """Number of coordinates of one row."""
        return len(self.names)

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, height and width where rows are images."""
        return (self.shape[0], self.shape[1], self.shape[2]) if len(self.shape) == 3 else None

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of each cell coordinate, the one for unseen values included; 0 for the other kinds."""
        return tuple(
            len(edges) + 1 if kind == "cell" else 0 for kind, edges in zip(self.kinds, self.edges, strict=True)
        )

    @property
    def modelled(self) -> int:
        """Number of coordinates that are not a condition: the first ones."""
        return self.dim - sum(self.condition)

    @classmethod
    def real(cls, dim: int) -> Space:
        """A space of `dim` real coordinates, as standardized arrays have."""
        return cls((dim,), tuple(f"x{j}" for j in range(dim)), ("real",) * dim, ((),) * dim, (False,) * dim)

    @classmethod
    def pixels(cls, channels: int, height: int, width: int) -> Space:
        """The space of images of one size."""
        names = tuple(
            f"pixel {i}, {j} of channel {c}" for c in range(channels) for i in range(height) for j in range(width)
        )
        dim = len(names)
        return cls((channels, height, width), names, ("pixel",) * dim, ((),) * dim, (False,) * dim)


@dataclass
class Rows:
    r"""Encoded rows as a statistic sees them.

    Parameters
    ----------
    z : Tensor of shape (n, dim), float32
        The rows in model space.
    log_det : Tensor of shape (n,), float64
        Log-determinant of the encoder and log-widths of its cells, in nats.
    shape : tuple of int
        Event shape of what is modelled of a row; ``(dim,)`` unless given.
    """

    z: Tensor
    log_det: Tensor
    shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.z)

    @property
    def images(self) -> Tensor | None:
        """The rows as images ``(n, channels, height, width)`` where they are, without their conditions."""
        if len(self.shape) != 3:
            return None
        c, h, w = self.shape
        return self.z[:, : c * h * w].reshape(-1, c, h, w)

    def split(self, size: int) -> list[Rows]:
        """The rows in parts of at most `size`."""
        parts = zip(self.z.split(size), self.log_det.split(size), strict=True)
        return [Rows(z, log_det, self.shape) for z, log_det in parts]


class GenerativeModel(nn.Module):
    """A model of encoded rows ``z`` of shape ``(n, dim)``; of images too, whose event shape only networks look at.

    A family writes :meth:`sample` and either ``log_prob`` or its own :meth:`loss`. Abilities are methods that exist or
    do not: ``log_prob(z)``, ``log_prob_terms(z)`` of shape ``(n, dim)`` that sums to it, ``energy(z)`` (minus an
    unnormalized log-density), ``reconstruct(z)``, ``features(z)``, ``realness(z)``, ``latent(z)``,
    ``sample_given(z, observed)``, ``perturb(z, strength)`` (rows near others), ``fit_closed_form(z, weight, held_out,
    blur)``. Never define one that raises.

    The attributes below may be set on the class or on an instance.
    """

    codes: ClassVar[bool] = False
    """Whether the model receives level numbers on cell coordinates, NaN on missing ones, the middles of pixels, and
    returns the probability mass of levels and pixels; otherwise levels arrive as points of a standard normal
    distribution, missing values as noise, and pixels with uniform noise that fills their interval."""
    likelihood: Literal["exact", "bound", "estimate"] = "exact"
    """What ``log_prob`` is: the log-density of a normalized model, a lower bound of one, or an estimate."""
    drawing: ClassVar[str] = "exact conditional draws"
    """What ``sample_given`` does, where there is one."""
    universal: bool = False
    """Whether the model comes close to any continuous density, given width and rows."""
    nats: bool = True
    """Whether :meth:`loss` and :meth:`monitor` are negative log-likelihoods in nats, or bounds of them."""
    judged: bool = True
    """Whether :meth:`monitor` on held-out rows decides which weights are kept and when training stops."""
    passes: int = 1
    """Rows the networks see for each row scored, such as draws of a latent; keeps the tiles of scoring in cache."""
    work: int = 0
    """Multiplications for a row in one pass of the networks, where they are more than the parameters; 0 otherwise."""
    rate: float = 1.0
    """Factor on the learning rate that suits the networks."""
    feature_parts: tuple[int, ...] = ()
    """Widths of the parts of ``features``, each of which counts alike where images are compared; one by default."""
    sized_by_data: tuple[str, ...] = ()
    """Buffers, by their name in the state, whose shape the training rows decide; loading takes theirs from the file."""

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, dim)`` with torch's current generator.

        A model of a space with conditions takes a second argument, the conditions of the rows, shape ``(n, k)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample(n)")

    def loss(self, z: Tensor) -> Tensor:
        """Training loss of every row, shape ``(n,)``; the negative log-likelihood in nats unless overridden."""
        log_prob: Callable[[Tensor], Tensor] = self.log_prob  # type: ignore[assignment]
        return -log_prob(z)

    def objectives(self) -> list[Objective]:
        """Pairs ``(parameters, loss)`` optimized in turn on every batch; a pair may come more than once."""
        return [(self.parameters(), self.loss)]

    def prepare(self, z: Tensor) -> None:
        """Called with the training rows, without noise, before they train."""

    def on_epoch(self, progress: float) -> None:
        """Called before every epoch with the share of the schedule done, in [0, 1]."""

    def conclude(self) -> None:
        """Called after training, on the weights that were kept: what follows from them is computed here."""

    def monitor(self, z: Tensor) -> Tensor:
        """What rows are judged by: a loss of every row under fixed noise, shape ``(n,)``."""
        return self.loss(z)

    def measure(self, z: Tensor) -> dict[str, float]:
        """Signs of health under the averaged weights, at every check, on held-out rows or else on training rows."""
        return {}

    def complaints(self, history: Sequence[Mapping[str, float]]) -> list[str]:
        """What went wrong in a training, from its record: one sentence each, with what to do about it."""
        return []


def abilities(model: nn.Module) -> set[str]:
    """The public methods of `model` beyond those of any torch module."""
    return {name for name in dir(model) if not name.startswith("_") and callable(getattr(model, name, None))} - set(
        dir(nn.Module)
    )


def missing_abilities(model: nn.Module, needs: Iterable[str]) -> list[str]:
    """Those of `needs` that `model` lacks, sorted."""
    return sorted(set(needs) - abilities(model))
