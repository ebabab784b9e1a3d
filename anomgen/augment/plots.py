"""Pictures of how synthetic rows compare with held-out ones. Matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 24
"""Columns shown at most, the least alike first."""
PAIRED = 40
"""Columns at most whose pairs are shown, those that differ most."""
LEVELS = 10
"""Levels of a discrete column shown at most, the most frequent first."""
BINS = 40
WIDE = 50
"""Columns whose range is so many times their usual values are drawn on a curved axis."""
NAMES = {"train": "training", "held_out": "held-out", "synthetic": "synthetic"}
TITLES = {"train": "real, training", "held_out": "real, held out", "synthetic": "synthetic"}
COLOURS = {"train": "#e69f00", "held_out": "#8a8a8a", "synthetic": "#0072b2"}


@dataclass(frozen=True)
class Samples:
    """Rows and scores that pictures show: ``synthetic``, ``held_out`` and ``train``, whichever there are.

    Parameters
    ----------
    rows : mapping of str to frame or array
        Tables; of images their levels, uint8 ``(n, c, h, w)``.
    scores : mapping of str to ndarray
        Empty where rows were not scored.
    """

    rows: Mapping[str, Any]
    scores: Mapping[str, NDArray[Any]]


def column_shapes(rows: Mapping[str, Any], alike: Mapping[str, float] | None = None) -> Figure:
    """One small histogram a column, of held-out and synthetic rows.

    Parameters
    ----------
    rows : mapping of str to frame or array
        ``held_out`` and ``synthetic`` tables.
    alike : mapping of str to float, optional
        How alike each column is, 1 the most: decides the order, and which columns of many are shown.
    """
    held_out, synthetic = (as_frame(rows[name]) for name in ("held_out", "synthetic"))
    common = [name for name in held_out if name in set(synthetic)]
    known = alike or {}
    shown = sorted(common, key=lambda name: known.get(str(name), 0.0))[:COLUMNS]
    figure, axes = _grid(len(shown))
    for name, axis in zip(shown, axes, strict=True):
        _shape(axis, held_out[name], synthetic[name])
        share = f"  {known[str(name)]:.2f}" if str(name) in known else ""
        axis.set_title(f"{_short(name)}{share}", fontsize=9)
    more = "" if len(shown) == len(common) else f": the {len(shown)} least alike of {len(common)}"
    _entitle(figure, f"Columns{more}", ("held_out", "synthetic"))
    return figure


def pair_differences(names: Sequence[str], alike: NDArray[Any]) -> Figure:
    """How much the dependence of each pair of columns differs; of many columns those that differ most.

    Parameters
    ----------
    names : sequence of str
    alike : ndarray of shape (d, d)
        1 where a pair depends on each other as it does in held-out rows.
    """
    from matplotlib.figure import Figure

    differ = 1.0 - np.asarray(alike, float)
    shown = np.sort(np.argsort(-differ.sum(axis=0), kind="stable")[:PAIRED])
    labels = [_short(names[place]) for place in shown]
    figure = Figure(figsize=(2.2 + 0.28 * len(shown), 1.6 + 0.28 * len(shown)), layout="constrained")
    axis = figure.subplots()
    most = max(0.1, float(differ.max()))
    picture = axis.imshow(differ[np.ix_(shown, shown)], cmap="Blues", vmin=0.0, vmax=most)
    axis.set_xticks(range(len(shown)), labels, rotation=90, fontsize=7)
    axis.set_yticks(range(len(shown)), labels, fontsize=7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
    more = "" if len(shown) == len(names) else f": {len(shown)} of {len(names)} columns"
    axis.set_title(f"Pairs, 0 is alike{more}", fontsize=11, loc="left")
    return figure


def closest_distances(synthetic: NDArray[Any], held_out: NDArray[Any], quantile: float) -> Figure:
    """Distances to the closest training row, and the one that 1 % of the held-out rows fall short of."""
    figure, (axis,) = _grid(1, width=7.0, height=3.6)
    edges = np.linspace(0.0, max(float(np.quantile(held_out, 0.98)), 1.5 * quantile) or 1.0, BINS + 1)
    for name, values in (("held_out", held_out), ("synthetic", synthetic)):
        _outline(axis, np.asarray(values, float), edges, name)
    axis.axvline(quantile, color="black", linewidth=1.0, linestyle=":")
    axis.annotate(
        "1 % of the held-out rows are nearer", (quantile, 1.0), xycoords=("data", "axes fraction"),
        xytext=(3, 2), textcoords="offset points", fontsize=8, va="bottom",
    )  # fmt: skip
    axis.set_xlabel("distance to the closest training row, in standard deviations", fontsize=9)
    _entitle(figure, "Closest training rows", ("held_out", "synthetic"))
    return figure


def score_histograms(scores: Mapping[str, NDArray[Any]]) -> Figure:
    """The model's scores of training, held-out and synthetic rows."""
    figure, (axis,) = _grid(1, width=7.0, height=3.6)
    present = [name for name in NAMES if name in scores]
    edges = _edges(np.concatenate([np.asarray(scores[name], float) for name in present]))
    for name in present:
        _outline(axis, np.asarray(scores[name], float), edges, name)
    axis.set_xlabel("score, higher is more normal", fontsize=9)
    _entitle(figure, "Scores of the model", present)
    return figure


def contact_sheet(rows: Mapping[str, Any], side: int = 8) -> Figure:
    """The first held-out images, or training images where there are no others, beside the first synthetic ones."""
    from matplotlib.figure import Figure

    real = "held_out" if "held_out" in rows else "train"
    present = [name for name in (real, "synthetic") if name in rows]
    figure = Figure(figsize=(4.2 * len(present), 4.5), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(present))), present, strict=True):
        axis.imshow(_tiled(np.asarray(rows[name])[: side * side], side), cmap="gray", vmin=0, vmax=255)
        axis.set_title(TITLES[name], fontsize=11)
        axis.axis("off")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=110, facecolor="white", metadata={"Software": None})


def as_frame(rows: Any) -> pd.DataFrame:
    """A table; the columns of an array are x0, x1, ..."""
    if isinstance(rows, pd.DataFrame):
        return rows
    return pd.DataFrame(np.asarray(rows)).add_prefix("x")


def _shape(axis: Axes, held_out: pd.Series[Any], synthetic: pd.Series[Any]) -> None:
    """Bars of levels, or histograms of numbers and times."""
    draw: Callable[..., None] = _numbers if _is_wide(held_out) else _levels
    draw(axis, held_out.dropna(), synthetic.dropna())
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    missing = held_out.isna().mean(), synthetic.isna().mean()
    if max(missing) > 0:
        axis.text(
            0.98, 0.96, f"missing {missing[0]:.1%} / {missing[1]:.1%}",
            fontsize=6.5, ha="right", va="top", transform=axis.transAxes,
        )  # fmt: skip


def _is_wide(values: pd.Series[Any]) -> bool:
    """Whether a column is a number or a time of more values than there are bars."""
    ordered = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return (ordered or pd.api.types.is_datetime64_any_dtype(values)) and values.nunique() > LEVELS


def _numbers(axis: Axes, held_out: pd.Series[Any], synthetic: pd.Series[Any]) -> None:
    real, drawn = _as_numbers(held_out), _as_numbers(synthetic)
    edges, scale = _edges(real), _scale(real)
    if pd.api.types.is_datetime64_any_dtype(held_out):
        _date_axis(axis)
    elif (real == np.rint(real)).all() and np.ptp(edges) <= 20 * BINS:
        step = np.ceil((np.ptp(edges) + 1) / BINS)
        edges = np.arange(np.floor(edges[0]) - 0.5, edges[-1] + step, step)
    elif np.ptp(edges) > WIDE * scale:
        low, high = np.arcsinh(edges[0] / scale), np.arcsinh(edges[-1] / scale)
        edges = scale * np.sinh(np.linspace(low, high, BINS + 1))
        axis.set_xscale("asinh", linear_width=scale)
    if not pd.api.types.is_datetime64_any_dtype(held_out):
        _number_axis(axis, edges, scale)
    _outline(axis, real, edges, "held_out")
    _outline(axis, drawn, edges, "synthetic")


def _scale(values: NDArray[np.float64]) -> float:
    """About how large the usual values are; a column whose range is far wider is drawn on a curved axis."""
    return float(np.quantile(np.abs(values), 0.25)) or float(np.abs(values).mean()) or 1.0 if len(values) else 1.0


def _number_axis(axis: Axes, edges: NDArray[np.float64], scale: float) -> None:
    """Few marks, on round numbers, written short: 25k."""
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator

    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(5))
    else:
        axis.xaxis.set_major_locator(FixedLocator(_marks(edges, scale)))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _marks(edges: NDArray[np.float64], scale: float) -> list[float]:
    """Zero and powers of ten that stand far enough apart on a curved axis, the largest first."""
    powers = 10.0 ** np.arange(18, -13, -1)
    low, high = np.arcsinh(edges[[0, -1]] / scale)
    kept: list[float] = []
    for mark in [0.0, *np.stack([powers, -powers], axis=1).ravel()]:
        apart = all(abs(np.arcsinh(mark / scale) - np.arcsinh(other / scale)) > (high - low) / 6 for other in kept)
        if edges[0] <= mark <= edges[-1] and apart:
            kept.append(mark)
    return kept


def _date_axis(axis: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=5)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axis.xaxis.get_offset_text().set_fontsize(7)


def _as_numbers(values: pd.Series[Any]) -> NDArray[np.float64]:
    """Numbers as they are, times as days since 1970, which is what Matplotlib's axes of dates take."""
    if pd.api.types.is_datetime64_any_dtype(values):
        start = pd.Timestamp(0, tz=values.dt.tz)
        return np.asarray((values - start) / pd.Timedelta(days=1), np.float64)
    return values.to_numpy(np.float64)


def _levels(axis: Axes, held_out: pd.Series[Any], synthetic: pd.Series[Any]) -> None:
    counts = held_out.astype(str).value_counts(normalize=True)
    drawn = synthetic.astype(str).value_counts(normalize=True)
    ordered = pd.api.types.is_numeric_dtype(held_out)
    shown = list(counts.index[:LEVELS])
    shown = sorted(shown, key=float) if ordered and not pd.api.types.is_bool_dtype(held_out) else shown
    places = np.arange(len(shown) + 1)
    for shift, name, shares in ((-0.2, "held_out", counts), (0.2, "synthetic", drawn)):
        heights = [
            *(float(shares.get(level, 0.0)) for level in shown),
            float(shares.drop(shown, errors="ignore").sum()),
        ]
        last = len(heights) - (not any(shares.drop(shown, errors="ignore").sum() for shares in (counts, drawn)))
        axis.bar(places[:last] + shift, heights[:last], width=0.4, color=COLOURS[name])
    names = [*(_short(level, 12) for level in shown), "others"][:last]
    turned = sum(map(len, names)) > 26
    axis.set_xticks(places[:last], names, fontsize=6.5)
    axis.tick_params(axis="x", rotation=35 if turned else 0, length=0)
    for label in axis.get_xticklabels() if turned else ():
        label.set(ha="right", rotation_mode="anchor")


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins over all but the farthest 0.2 % of the values; what lies beyond is in the outermost ones."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [0.001, 0.999]) if len(finite) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1, dtype=np.float64)


def _outline(axis: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], name: str) -> None:
    """A histogram as shares: filled for held-out rows, a line for the others."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    filled = name == "held_out"
    axis.stairs(
        counts / max(len(values), 1), edges,
        fill=filled, alpha=0.6 if filled else 1.0, color=COLOURS[name], linewidth=1.4, zorder=1 if filled else 2,
    )  # fmt: skip


def _grid(count: int, width: float = 2.3, height: float = 1.8) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    wide = min(count, 4)
    tall = -(-count // wide)
    figure = Figure(figsize=(max(width * wide, 4.0), height * tall + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(tall, wide, squeeze=False)).ravel()
    for axis in axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, list(axes[:count])


def _entitle(figure: Figure, title: str, present: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    marks = [Patch(color=COLOURS[name], label=NAMES[name]) for name in present]
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), fontsize=9, frameon=False)
    figure.text(0.01, 0.995, title, fontsize=11, ha="left", va="top")


def _tiled(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images ``(n, c, h, w)`` as one picture, `side` a row, with a white line between."""
    _, channels, height, width = images.shape
    sheet = np.full((side * (height + 1), side * (width + 1), channels), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // side) * (height + 1), (number % side) * (width + 1)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet[:, :, 0] if channels == 1 else sheet


def _short(name: object, longest: int = 18) -> str:
    text = str(name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
