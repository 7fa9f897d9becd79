"""Layers by ROIs, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from neurordl.errors import NeurordlError
from neurordl.plots.style import (
    LETTER,
    P_NAMES,
    bar_beside,
    font_points,
    inches,
    means_by_layer,
    need,
    new_axes,
    sample_of,
    score_table,
    shown_rois,
)
from neurordl.rsa.evaluation import Evaluation

__all__ = ["plot_layer_roi"]


def plot_layer_roi(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    relative_to: Literal["ceiling_lower", "ceiling_upper"] | None = None,
    p: str = "p",
    alpha: float = 0.05,
    cmap: str = "RdBu_r",
) -> Axes:
    """Mean similarity of every layer with every ROI, as colour and number.

    Numbers in brackets do not differ from zero. White is zero, whatever the other scores are.

    Parameters
    ----------
    scores
        What `evaluate` gave, or its table.
    roi
        ROIs to show, in this order; all by default.
    relative_to
        Divide each mean by this bound of its noise ceiling. Where the bound is undefined or not positive,
        so is the quotient, and the cell is grey.
    p, alpha
        The column that holds p against zero, and below what it is significant.
    cmap
        A diverging colour map of matplotlib.

    Raises
    ------
    NeurordlError
        An unknown ROI, bound or a column that is absent.
    """
    frame = score_table(scores)
    rois = shown_rois(frame, roi)
    frame = frame[frame["roi"].isin(rois)]
    if p != "p":
        need(frame, (p,), "the table of scores")
    if relative_to not in (None, "ceiling_lower", "ceiling_upper"):
        raise NeurordlError(f"relative_to={relative_to!r}: expected 'ceiling_lower', 'ceiling_upper' or None")
    layers = list(dict.fromkeys(frame["layer"]))
    means = [means_by_layer(frame[frame["roi"] == name], layers) for name in rois]
    values = np.stack([table["score"].to_numpy() for table in means], axis=1)
    if relative_to is not None:
        bounds = np.stack([table[relative_to].to_numpy() for table in means], axis=1)
        values = np.where(bounds > 0, values / np.where(bounds > 0, bounds, 1), np.nan)
    tests = np.stack([table[p] if p in table else table["score"] * np.nan for table in means], axis=1)
    names = [name or "output" for name in layers]
    if ax is None:
        width = 2.2 + 0.08 * max(map(len, names)) + 0.75 * len(rois)
        ax = new_axes(width, min(max(2.4, 1.1 + 0.24 * len(layers)), 11.0))
    _cells(ax, values, tests < alpha, np.isfinite(tests), cmap)
    wide, high = inches(ax)
    ax.set_yticks(range(len(layers)), names)
    size = font_points(plt.rcParams["ytick.labelsize"])
    ax.tick_params(axis="y", labelsize=min(size, max(72 * 0.9 * high / len(layers), 4.5)))
    ax.set_xticks(range(len(rois)), rois)
    if LETTER * size * max(map(len, rois)) > 72 * wide / len(rois):
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    lines = sample_of(frame[frame["subject"] == "mean"])[:1]  # no interval is drawn
    if np.isfinite(tests).any():
        lines.append(f"( ): {P_NAMES.get(p, p)} ≥ {alpha:g} against zero")
    ax.set_xlabel("\n".join(lines), fontsize="small")
    bar = bar_beside(ax, ax.images[0])
    bar.ax.set_ylim(min(0.0, np.nanmin(values, initial=0)), max(0.0, np.nanmax(values, initial=0)) or 1)
    comparison = frame["comparison"].iloc[0] if "comparison" in frame else ""
    unit = f"share of {relative_to.replace('ceiling_', '')} ceiling" if relative_to else ""
    note = ", ".join(part for part in (unit, comparison) if part)
    bar.set_label(f"RDM similarity\n({note})" if note else "RDM similarity")
    return ax


def _cells(ax: Axes, values: Any, significant: Any, tested: Any, cmap: str) -> None:
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    colours = colormaps[cmap].with_extremes(bad="0.9")
    picture = ax.imshow(values, cmap=colours, vmin=-(largest or 1), vmax=largest or 1, aspect="auto")
    wide, high = inches(ax)
    cell_wide, cell_high = 72 * wide / values.shape[1], 72 * high / values.shape[0]
    size = float(np.clip(min(0.62 * cell_high, cell_wide / 4), 4, 9))
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
        if tested[row, column] and not significant[row, column] and not np.isnan(value):
            text = f"({text})"
        red, green, blue, _ = picture.to_rgba(value)
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 and not np.isnan(value)
        colour = "white" if dark else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
