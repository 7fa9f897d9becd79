"""Pictures: each function draws on the Axes ``ax`` (a new one if none is given) and returns it.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; markers differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.rdms.selection import stimulus_ids
from neurordl.rsa.evaluation import Evaluation
from neurordl.rsa.inference import mean_interval

__all__ = ["COLOURS", "plot_paired", "plot_rdm", "plot_scores", "plot_transfer"]

# Okabe and Ito's colours without the yellow, which paper swallows; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPp"
_CEILING = "0.85"
_NAMES = {"heldout_rdm_similarity": "RDM similarity, held-out stimuli", "test_accuracy": "test accuracy"}


def plot_scores(
    scores: Evaluation | pd.DataFrame, ax: Axes | None = None, *, roi: str | Sequence[str] | None = None
) -> Axes:
    """Similarity of layers with the data: mean and interval, subjects as dots, the ceiling as a band.

    Parameters
    ----------
    scores
        What `evaluate` gave, or its table.
    roi
        ROIs to show; all by default, each in a colour, their ceilings in the same colour.
    """
    frame = scores.to_frame() if isinstance(scores, Evaluation) else scores
    # a CSV brings empty text back as NaN, and "0" as a number
    frame = frame.fillna({"roi": "", "layer": ""}).astype({"roi": str, "layer": str})
    rois = list(dict.fromkeys(frame["roi"])) if roi is None else [roi] if isinstance(roi, str) else list(roi)
    if unknown := [name for name in rois if name not in set(frame["roi"])]:
        known = ", ".join(dict.fromkeys(frame["roi"]))
        raise NeurordlError(f"no score has roi {unknown[0]!r}; there are: {known}")
    layers = list(dict.fromkeys(frame["layer"]))
    longest, many = max(map(len, layers)), len(layers) > 20
    width = min(max(5.0, 2.6 + 0.35 * len(layers) * len(rois) ** 0.5), 14.0)
    ax = ax or _new_axes(width, 3.4 + many * 0.06 * longest)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    for k, name in enumerate(rois):
        part = frame[frame["roi"] == name]
        offset = 0.0 if len(rois) == 1 else 0.5 * (k / (len(rois) - 1) - 0.5)
        _roi_scores(ax, part, layers, offset, k, name, alone=len(rois) == 1)
    ax.set_xticks(range(len(layers)), [name or "output" for name in layers])
    room = ax.get_window_extent().width / ax.figure.dpi / len(layers)
    if many:
        ax.tick_params(axis="x", rotation=90, labelsize="x-small")
    elif longest * 0.1 > room:  # a letter is about a tenth of an inch wide
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylabel(f"RDM similarity ({frame['method'].iloc[0]})")
    _legend(ax)
    return _plain(ax)


def _roi_scores(
    ax: Axes, frame: pd.DataFrame, layers: list[str], offset: float, k: int, name: str, *, alone: bool
) -> None:
    colour = COLOURS[k % len(COLOURS)]
    means = frame[frame["subject"] == "mean"].set_index("layer").reindex(layers)
    bounds = means[["ceiling_lower", "ceiling_upper"]].to_numpy(dtype=float)
    if np.isfinite(bounds).any():
        edges = np.repeat(np.arange(len(layers) + 1) - 0.5, 2)[1:-1]  # a step as wide as each layer
        lower, upper = np.repeat(bounds, 2, axis=0).T
        shade: dict[str, Any] = {"color": _CEILING} if alone else {"color": colour, "alpha": 0.2}
        ax.fill_between(edges, lower, upper, **shade, lw=0, zorder=0, label=f"{name} noise ceiling".strip())
    places = np.arange(len(layers)) + offset
    for layer, dots in frame[frame["subject"] != "mean"].groupby("layer"):
        values = dots["score"].to_numpy(dtype=float)
        spread = np.linspace(-0.1, 0.1, len(values)) if len(values) > 1 else np.zeros(1)
        place = places[layers.index(str(layer))]
        ax.plot(place + spread, values, ".", color=colour, alpha=0.35, markersize=4, zorder=2)
    score = means["score"].to_numpy(dtype=float)
    reach = np.abs(means[["ci_low", "ci_high"]].to_numpy(dtype=float).T - score)
    size, label = 7 if len(layers) <= 20 else 4, f"{name} mean, 95 % CI".strip()
    _mark(ax, k, places, score, label, yerr=np.nan_to_num(reach), size=size)


def plot_rdm(
    rdms: RDMs,
    ax: Axes | None = None,
    *,
    categories: Mapping[str, str] | str | None = None,
    cmap: str = "viridis",
) -> Axes:
    """One RDM as a matrix, its stimuli sorted by category where categories are given.

    Parameters
    ----------
    rdms
        One RDM; missing pairs are white.
    categories
        Category of each stimulus by id, or the pattern descriptor that holds it. Categories come in the order
        in which they first occur, within each the stimuli in that of the RDM.
    cmap
        A colour map of matplotlib.

    Raises
    ------
    NeurordlError
        Several RDMs, or a stimulus without a category.
    """
    if len(rdms) != 1:
        raise NeurordlError(
            f"one RDM is drawn at a time, but there are {len(rdms)}; index them, as in rdms[0]"
        )
    labels = _categories(rdms, categories)
    order = list(range(rdms.n_cond))
    if labels is not None:
        first = {label: place for place, label in reversed(list(enumerate(labels)))}
        order.sort(key=lambda k: first[labels[k]])
    matrix = np.array(rdms.get_matrices()[0], dtype=float)[np.ix_(order, order)]
    np.fill_diagonal(matrix, np.nan)
    ax = ax or _new_axes(4.6, 3.8)
    picture = ax.imshow(matrix, cmap=cmap, interpolation="nearest")
    bar = ax.figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label(f"dissimilarity ({rdms.dissimilarity_measure or 'measure unknown'})")
    ax.tick_params(length=0)
    if labels is None:
        ax.set_xlabel("stimulus")
        ax.set_ylabel("stimulus")
    else:
        _mark_categories(ax, [labels[k] for k in order])
    return ax


def _categories(rdms: RDMs, categories: Mapping[str, str] | str | None) -> list[str] | None:
    if categories is None:
        return None
    if isinstance(categories, str):
        if categories not in rdms.pattern_descriptors:
            known = ", ".join(sorted(rdms.pattern_descriptors))
            raise NeurordlError(f"the RDMs have no pattern descriptor {categories!r}; they have: {known}")
        return [str(value) for value in rdms.pattern_descriptors[categories]]
    ids = stimulus_ids(rdms)
    if without := [stimulus for stimulus in ids if stimulus not in categories]:
        raise NeurordlError(
            f"{len(without)} stimuli have no category, such as {without[0]!r}; give one for each stimulus"
        )
    return [str(categories[stimulus]) for stimulus in ids]


def _mark_categories(ax: Axes, labels: Sequence[str]) -> None:
    """Lines between blocks of one category, and its name beside each block."""
    edges = [k for k in range(1, len(labels)) if labels[k] != labels[k - 1]]
    for edge in edges:
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
        ax.axvline(edge - 0.5, color="white", linewidth=0.8)
    starts = [0, *edges]
    centres = [(a + b - 1) / 2 for a, b in zip(starts, [*edges, len(labels)], strict=True)]
    names = [labels[k] for k in starts]
    ax.set_xticks(centres, names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(centres, names)


def plot_transfer(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Test accuracy against held-out similarity: what the geometry gave, and what it cost.

    Parameters
    ----------
    frame
        A row per condition and seed: ``condition, test_accuracy, heldout_rdm_similarity`` and, where there is
        a ceiling, ``ceiling_lower, ceiling_upper``. Small dots are rows, large marks their mean by condition
        with 95 % intervals (t) both ways, the band is the mean noise ceiling.
    """
    _need(frame, ("condition", "test_accuracy", "heldout_rdm_similarity"))
    ax = ax or _new_axes(5.2, 3.8)
    if {"ceiling_lower", "ceiling_upper"} <= set(frame.columns):
        lower, upper = (
            float(frame[name].astype(float).mean()) for name in ("ceiling_lower", "ceiling_upper")
        )
        if np.isfinite([lower, upper]).all():
            ax.axvspan(lower, upper, color=_CEILING, linewidth=0, zorder=0, label="noise ceiling")
    for k, condition in enumerate(dict.fromkeys(frame["condition"])):
        part = frame[frame["condition"] == condition]
        x = part["heldout_rdm_similarity"].to_numpy(dtype=float)
        y = part["test_accuracy"].to_numpy(dtype=float)
        ax.plot(x, y, ".", color=COLOURS[k % len(COLOURS)], alpha=0.35, markersize=5, zorder=2)
        (across, along), (up, along_y) = _mean_reach(x), _mean_reach(y)
        _mark(ax, k, across, up, str(condition), xerr=along, yerr=along_y)
    ax.set_xlabel(_NAMES["heldout_rdm_similarity"])
    ax.set_ylabel(_NAMES["test_accuracy"])
    _legend(ax)
    return _plain(ax)


def plot_paired(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "heldout_rdm_similarity",
    reference: str = "labels",
    pair: Sequence[str] = ("seed",),
) -> Axes:
    """Differences of each condition from a reference, paired, with their means and 95 % intervals (t).

    Parameters
    ----------
    frame
        A row per condition and pair: ``condition``, the columns of ``pair`` and ``value``.
    value
        The column compared.
    reference
        The condition subtracted from each other one.
    pair
        Columns that say which rows belong together, such as seed and fold.

    Raises
    ------
    NeurordlError
        A column or the reference is absent, a pair occurs twice, or none is complete.
    """
    _need(frame, ("condition", value, *pair))
    conditions = [str(name) for name in dict.fromkeys(frame["condition"])]
    if reference not in conditions:
        raise NeurordlError(f"no condition is called {reference!r}; there are: {', '.join(conditions)}")
    if frame.duplicated(["condition", *pair]).any():
        raise NeurordlError(
            f"some rows share condition, {', '.join(pair)}; name in pair= what else tells them apart"
        )
    table = frame.pivot(index=list(pair), columns="condition", values=value).astype(float)
    others = [name for name in conditions if name != reference]
    ax = ax or _new_axes(5.2, 1.2 + 0.5 * len(others))
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    for place, name in enumerate(others):
        differences = (table[name] - table[reference]).dropna().to_numpy()
        if not len(differences):
            raise NeurordlError(
                f"{name!r} and {reference!r} have no pair in common; check the columns in pair="
            )
        k = conditions.index(name)
        spread = place + np.linspace(0.12, 0.28, len(differences))
        ax.plot(differences, spread, ".", color=COLOURS[k % len(COLOURS)], alpha=0.35, markersize=5, zorder=2)
        mean, reach = _mean_reach(differences)
        _mark(ax, k, mean, place, name, xerr=reach)
    ax.set_yticks(range(len(others)), others)
    ax.set_ylim(len(others) - 0.4, -0.6)
    ax.set_xlabel(f"{_NAMES.get(value, value)}: difference from {reference}")
    return _plain(ax)


def _need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if absent := [name for name in columns if name not in frame.columns]:
        known = ", ".join(map(str, frame.columns))
        raise NeurordlError(f"the table has no column {', '.join(absent)!r}; it has: {known}")


def _mean_reach(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the defined values and half the width of its 95 % t interval (0 for a single value)."""
    mean, _, high, _, _ = mean_interval(values)
    return mean, float(np.nan_to_num(high - mean))


def _mark(ax: Axes, k: int, x: Any, y: Any, label: str, *, size: int = 7, **reach: Any) -> None:
    """The marks of series k, with error bars."""
    # colours and markers turn at different rates, so that no pair of them comes twice soon
    marker = _MARKERS[(k + k // len(COLOURS)) % len(_MARKERS)]
    style: dict[str, Any] = {"markersize": size, "capsize": size / 3, "elinewidth": 1.4, "zorder": 3}
    ax.errorbar(x, y, fmt=marker, color=COLOURS[k % len(COLOURS)], label=label, **reach, **style)


def _new_axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _legend(ax: Axes) -> None:
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
