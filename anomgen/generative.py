"""The contract between an encoder, a generative model and everything that uses a fitted one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

Objective = tuple[Iterable[nn.Parameter], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Space:
    """What an encoder tells a model about the rows it will see.

    Parameters
    ----------
    shape : tuple of int
        Event shape of one encoded row: ``(d,)`` for a table.
    names : tuple of str
        A label for each coordinate, in order.
    kinds : tuple of {"real", "lattice", "cell"}
        ``"real"``: a density lives here. ``"lattice"``: a number known up to a box of fixed width. ``"cell"``: a level
        of a discrete column, an interval of the standard normal distribution as wide as the level is frequent.
    edges : tuple of tuple of float
        For a cell coordinate the inner edges between its levels in model space, ascending (the last level is the one
        for values never seen in training); empty for the others.
    missing : tuple of bool
        Whether a coordinate may stand for a missing value.

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

    @property
    def dim(self) -> int:
        """Number of coordinates of one row."""
        return len(self.names)

    @classmethod
    def real(cls, dim: int) -> Space:
        """A space of `dim` real coordinates, as standardized arrays have."""
        return cls((dim,), tuple(f"x{j}" for j in range(dim)), ("real",) * dim, ((),) * dim, (False,) * dim)


@dataclass
class Rows:
    r"""Encoded rows as a statistic sees them.

    Parameters
    ----------
    z : Tensor of shape (n, \\*event), float32
        The rows in model space.
    log_det : Tensor of shape (n,), float64
        Log-determinant of the encoder and log-widths of its cells, in nats.
    """

    z: Tensor
    log_det: Tensor


class GenerativeModel(nn.Module):
    """A model of encoded rows ``z`` of shape ``(n, *event)``.

    A family writes :meth:`sample` and either ``log_prob`` or its own :meth:`loss`. Abilities are methods that exist or
    do not: ``log_prob(z)``, ``log_prob_terms(z)``, ``reconstruct(z)``, ``realness(z)``, ``features(z)``,
    ``sample_given(z, observed)``. Never define one that raises.
    """

    codes = False
    """Whether the model receives integer codes on cell coordinates and returns their probability mass."""

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, *event)`` with torch's current generator."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(n)")

    def loss(self, z: Tensor) -> Tensor:
        """Training loss of every row, shape ``(n,)``; the negative log-likelihood in nats unless overridden."""
        log_prob: Callable[[Tensor], Tensor] = self.log_prob  # type: ignore[assignment]
        return -log_prob(z)

    def objectives(self) -> list[Objective]:
        """Pairs ``(parameters, loss)`` optimized in turn on every batch."""
        return [(self.parameters(), self.loss)]

    def on_epoch(self, progress: float) -> None:
        """Called before every epoch with the share of the schedule done, in [0, 1]."""

    def monitor(self, z: Tensor) -> Tensor:
        """What held-out rows are judged by: a loss of every row under fixed noise, shape ``(n,)``."""
        return self.loss(z)


def abilities(model: nn.Module) -> set[str]:
    """The public methods of `model` beyond those of any torch module."""
    return {name for name in dir(model) if not name.startswith("_") and callable(getattr(model, name, None))} - set(
        dir(nn.Module)
    )


def missing_abilities(model: nn.Module, needs: Iterable[str]) -> list[str]:
    """Those of `needs` that `model` lacks, sorted."""
    return sorted(set(needs) - abilities(model))
