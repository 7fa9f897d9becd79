"""Which layers surpass which: a row for each better one, readable with dozens of layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neurordl.errors import NeurordlError
from neurordl.plots.style import colour_of, inches, named_rows, need, scaled

__all__ = ["Pairs", "draw_pairs", "pairs_inches", "significant_pairs"]

# for each row: the ROI's number, the place of the better layer, the places of those it surpasses
Pairs = list[tuple[int, int, list[int]]]


def significant_pairs(
    comparisons: pd.DataFrame, rois: Sequence[str], layers: Sequence[str], p: str, alpha: float
) -> Pairs:
    """Rows to draw, by ROI and place of the better layer.

    Raises
    ------
    NeurordlError
        A column that is absent, a layer without a score, or a pair that occurs twice in a ROI.
    """
    need(comparisons, ("roi", "layer_a", "layer_b", "difference", p), "the table of comparisons")
    frame = named_rows(comparisons, "roi", "layer_a", "layer_b")
    frame = frame[frame["roi"].isin(list(rois))]
    for name in (*frame["layer_a"], *frame["layer_b"]):
        if name not in layers:
            raise NeurordlError(f"the comparisons name layer {name!r}, which has no score in the table")
    seen: set[tuple[str, frozenset[str]]] = set()
    rows: dict[tuple[int, int], list[int]] = {}
    columns = (frame[name] for name in ("roi", "layer_a", "layer_b", "difference", p))
    for roi, a, b, difference, value in zip(*columns, strict=True):
        pair = (roi, frozenset((a, b)))
        if pair in seen:
            raise NeurordlError(
                f"the comparisons hold the layers {a!r} and {b!r} twice for ROI {roi!r}; drop one"
            )
        seen.add(pair)
        if value < alpha and abs(difference) > 0:  # not where either is NaN
            better, worse = (a, b) if difference > 0 else (b, a)
            rows.setdefault((rois.index(roi), layers.index(better)), []).append(layers.index(worse))
    return [(k, better, sorted(worse)) for (k, better), worse in sorted(rows.items())]


def pairs_inches(rows: Pairs) -> float:
    """The height that the rows ask for."""
    return scaled(0.085) * _slots(rows) if rows else 0.0


def _slots(rows: Pairs) -> float:
    return len(rows) + len({k for k, _, _ in rows}) + 0.25  # a free one below each ROI, some room above


def draw_pairs(ax: Axes, rows: Pairs, share: float) -> None:
    """Rows in the upper ``share`` of the Axes, for which the data make room; the y axis ends below them."""
    low, high = ax.get_ylim()
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
    ax.set_ylim(low, low + (high - low) / (1 - share))
    ax.set_yticks(ticks)
    ax.spines["left"].set_bounds(low, high)
    across = ax.get_xaxis_transform()
    ax.yaxis.label.set_y((1 - share) / 2)
    groups = sorted({k for k, _, _ in rows})
    slots = _slots(rows)
    heights = 1 - share * (np.arange(len(rows)) + 0.75 + [groups.index(k) for k, _, _ in rows]) / slots
    size = min(scaled(4), 0.8 * 72 * share * inches(ax)[1] / slots)  # points
    for (k, better, worse), height in zip(rows, heights, strict=True):
        colour = colour_of(k)
        ends = [min(better, *worse), max(better, *worse)]
        ax.plot(ends, [height] * 2, "-", color=colour, lw=scaled(0.6), alpha=0.6, transform=across, zorder=2)
        ticks_at = [height] * len(worse)
        ax.plot(
            worse, ticks_at, "|", color=colour, markersize=size, mew=scaled(1), transform=across, zorder=3
        )
        ax.plot([better], [height], "o", color=colour, markersize=size, mew=0, transform=across, zorder=3)
