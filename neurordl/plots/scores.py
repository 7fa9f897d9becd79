"""The classic figure: layers of a model against subjects' RDMs, with the noise ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurordl.errors import NeurordlError
from neurordl.plots.pairwise import Pairs, draw_pairs, pairs_inches, significant_pairs
from neurordl.plots.style import (
    CEILING,
    P_NAMES,
    colour_of,
    inches,
    legend,
    mark,
    marker_of,
    means_by_layer,
    names_along_x,
    need,
    new_axes,
    plain,
    sample_of,
    scaled,
    score_table,
    shown_rois,
)
from neurordl.rsa.evaluation import Evaluation

__all__ = ["plot_scores"]

_NARROW = 6  # points to a mark: ceilings behind each would be slivers


def plot_scores(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    comparisons: pd.DataFrame | bool = False,
    p: str | None = None,
    p_comparisons: str = "p_fdr",
    alpha: float = 0.05,
) -> Axes:
    """Similarity of layers with the data: mean and interval, subjects as dots, the ceiling as a band.

    Marks of layers whose mean is not above zero are open. Above the data, each layer that is better than
    others has a row: a dot at its own place, a tick at each layer that it surpasses.

    Parameters
    ----------
    scores
        What `evaluate` gave, or its table.
    roi
        ROIs to show; all by default, each in a colour, their ceilings in the same colour.
    comparisons
        Whether to show which layers differ, by the evaluation's own table; or a table with a row per ROI and
        pair of layers: ``roi, layer_a, layer_b, difference`` (a less b) and the column of ``p_comparisons``.
    p
        The column of the scores that holds p against zero: ``p_fdr`` by default, ``p`` where it is not there.
    p_comparisons
        The column of the comparisons that holds p.
    alpha
        Significant is what has p below it.

    Raises
    ------
    NeurordlError
        An unknown ROI, a column that is absent, or a layer of the comparisons that has no score.
    """
    frame = score_table(scores)
    rois = shown_rois(frame, roi)
    frame = frame[frame["roi"].isin(rois)]
    layers = list(dict.fromkeys(frame["layer"]))
    if p is None:
        p = "p_fdr" if "p_fdr" in frame and frame["p_fdr"].notna().any() else "p"
    elif p != "p":
        need(frame, (p,), "the table of scores")
    pairs = _pairs(scores, comparisons, rois, layers, p_comparisons, alpha)
    own = ax is None
    if ax is None:
        width = min(max(5.0, 2.6 + 0.35 * len(layers) * len(rois) ** 0.5), 14.0)
        ax = new_axes(width, 3.4 + pairs_inches(pairs))
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    tested = False
    for k, name in enumerate(rois):
        part = frame[frame["roi"] == name]
        tested |= _roi_scores(ax, part, layers, k, len(rois), p, alpha)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    below = names_along_x(ax, [name or "output" for name in layers])
    if own and isinstance(ax.figure, Figure):
        ax.figure.set_figheight(ax.figure.get_figheight() + below)
    measures = dict.fromkeys(frame["comparison"]) if "comparison" in frame else {}
    ax.set_ylabel(f"RDM similarity ({', '.join(measures)})" if measures else "RDM similarity")
    if pairs:
        draw_pairs(ax, pairs, min(pairs_inches(pairs) / inches(ax)[1], 0.5 if own else 0.4))
    sample = "\n".join(sample_of(frame[frame["subject"] == "mean"]))
    _legend(ax, tested, pairs, p, p_comparisons, alpha, sample)
    return plain(ax)


def _pairs(
    scores: Evaluation | pd.DataFrame,
    comparisons: pd.DataFrame | bool,
    rois: list[str],
    layers: list[str],
    p: str,
    alpha: float,
) -> list[Any]:
    if comparisons is True:
        if not isinstance(scores, Evaluation):
            raise NeurordlError(
                "comparisons=True takes what evaluate gave; beside a table give another table"
            )
        comparisons = scores.comparisons
    if comparisons is False:
        return []
    return significant_pairs(comparisons, rois, layers, p, alpha)


def _roi_scores(
    ax: Axes, frame: pd.DataFrame, layers: list[str], k: int, n_rois: int, p: str, alpha: float
) -> bool:
    """Draw ROI k of several; whether anything was tested against zero."""
    name = str(frame["roi"].iloc[0])
    means = means_by_layer(frame, layers)
    step = 1.0 if n_rois == 1 else 0.8 / n_rois
    places = np.arange(len(layers)) + step * (k - (n_rois - 1) / 2)
    room = 72 * inches(ax)[0] / len(layers) * step  # points
    bounds = means[["ceiling_lower", "ceiling_upper"]].to_numpy()
    _band(ax, bounds, places, step, k, name, alone=n_rois == 1, joined=room < _NARROW)
    dots = frame[frame["subject"] != "mean"]
    by_layer = dots.groupby("layer", sort=False)
    rank, count = by_layer.cumcount().to_numpy(), by_layer["score"].transform("size").to_numpy()
    spread = min(0.1, 0.25 * step) * (2 * rank / np.maximum(count - 1, 1) - (count > 1))
    at = places[[layers.index(name) for name in dots["layer"]]] + spread
    style: dict[str, Any] = {
        "color": colour_of(k),
        "alpha": 0.45,
        "markersize": scaled(5),
        "mew": 0,
        "zorder": 2,
    }
    ax.plot(at, dots["score"].to_numpy(dtype=float), ".", **style)  # all in one: many artists are slow
    score = means["score"].to_numpy()
    reach = np.abs(means[["ci_low", "ci_high"]].to_numpy().T - score)
    size = float(np.clip(0.35 * room, 2.5, scaled(7)))
    label = f"{name} mean".strip() + (", 95 % CI" if np.isfinite(reach).any() else "")
    mark(ax, k, places, score, label, yerr=np.nan_to_num(reach), size=size)
    for place in places[np.isnan(score)]:
        small: dict[str, Any] = {"fontsize": "xx-small", "color": colour_of(k), "rotation": 90}
        ax.text(place, 0, " undefined", ha="center", va="bottom", **small)
    values = means[p].to_numpy() if p in means else np.full(len(layers), np.nan)
    open_ = (values >= alpha) & np.isfinite(score)
    if open_.any():
        face: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgecolor": colour_of(k),
            "markersize": size,
        }
        ax.plot(places[open_], score[open_], marker_of(k), zorder=4, **face)
    return bool(np.isfinite(values).any())


def _band(
    ax: Axes,
    bounds: npt.NDArray[Any],
    places: npt.NDArray[Any],
    step: float,
    k: int,
    name: str,
    *,
    alone: bool,
    joined: bool,
) -> None:
    """The ceiling: behind all of a layer, of one ROI and where marks are too narrow; or behind each mark."""
    if not np.isfinite(bounds).any():
        return
    if alone or joined:  # a step as wide as each layer
        edges = np.repeat(np.arange(len(places) + 1) - 0.5, 2)[1:-1]
        lower, upper = np.repeat(bounds, 2, axis=0).T
    else:  # NaN separates
        half = 0.46 * step
        edges = np.stack([places - half, places + half, places + half], axis=1).ravel()
        gaps = np.full((len(places), 1, 2), np.nan)
        lower, upper = np.concatenate([np.repeat(bounds[:, None], 2, axis=1), gaps], axis=1).reshape(-1, 2).T
    shade: dict[str, Any] = {"color": CEILING} if alone else {"color": colour_of(k), "alpha": 0.22}
    ax.fill_between(edges, lower, upper, **shade, lw=0, zorder=0, label=f"{name} noise ceiling".strip())


def _legend(ax: Axes, tested: bool, pairs: Pairs, p: str, p_pairs: str, alpha: float, sample: str) -> None:
    handles, labels = ax.get_legend_handles_labels()
    grey: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    if tested:
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", markersize=scaled(6), **grey))
        labels.append(f"not above zero\n({P_NAMES.get(p, p)} ≥ {alpha:g})")
    if pairs:
        row: Any = (
            Line2D([], [], marker="o", markersize=scaled(4), **grey),
            Line2D([], [], marker="|", markersize=scaled(6), **grey),
        )
        handles.append(row)
        labels.append(f"dot better than ticks\n({P_NAMES.get(p_pairs, p_pairs)} < {alpha:g})")
    from matplotlib.legend_handler import HandlerTuple

    legend(
        ax,
        title=sample or None,
        handles=handles,
        labels=labels,
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )
