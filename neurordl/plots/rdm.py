"""An RDM as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from rsatoolbox.rdm.rdms import RDMs
from scipy import stats

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.plots.style import bar_beside, font_points, inches, new_axes, settle
from neurordl.plots.thumbnails import spread, strip, thumbnails
from neurordl.rdms.selection import stimulus_ids
from neurordl.stimuli import StimulusSet

__all__ = ["categories_of", "one_rdm", "plot_rdm"]

Floats = npt.NDArray[np.float64]
_NOT_MEASURED = "0.75"
_THUMBNAIL = 0.24  # inches, the least
_NAMED = 30  # stimuli that are named one by one


def plot_rdm(
    rdms: RDMs,
    ax: Axes | None = None,
    *,
    categories: Mapping[str, str] | str | None = None,
    stimuli: StimulusSet | None = None,
    rank: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    cmap: str = "viridis",
) -> Axes:
    """One RDM as a matrix, its stimuli sorted by category where categories are given.

    Parameters
    ----------
    rdms
        One RDM. The diagonal is white, missing pairs are grey.
    categories
        Category of each stimulus by id, or the pattern descriptor, or the column of the stimuli's table, that
        holds it. Categories come in the order in which they first occur, within each the stimuli in that of
        the RDM.
    stimuli
        Images, matched by id and drawn along both sides: of every stimulus where there is room, else of some
        in each category, each beside its own row.
    rank
        Show percentiles among the measured pairs: ranks from 0 (the smallest) to 100, ties at their mean.
    vmin, vmax
        Ends of the colours, to draw several RDMs alike; by default those of this RDM.
    colorbar
        Whether to draw one.
    cmap
        A colour map of matplotlib.

    Raises
    ------
    NeurordlError
        Several RDMs, or a stimulus without a category or an image.
    """
    matrix = one_rdm(rdms)
    labels = categories_of(rdms, categories, stimuli)
    order = list(range(rdms.n_cond))
    if labels is not None:
        first = {label: place for place, label in reversed(list(enumerate(labels)))}
        order.sort(key=lambda k: first[labels[k]])
    images = None if stimuli is None else thumbnails(stimuli, [stimulus_ids(rdms)[k] for k in order])
    matrix = matrix[np.ix_(order, order)]
    if rank:
        matrix = _percentiles(matrix)
    np.fill_diagonal(matrix, np.nan)
    ax = ax or (new_axes(4.6, 3.8) if images is None else new_axes(6.2, 5.2))
    picture = ax.imshow(matrix, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    _mark_missing(ax, matrix)
    ax.tick_params(length=0)
    sorted_labels = None if labels is None else [labels[k] for k in order]
    blocks = _blocks(sorted_labels or [""] * len(order))
    share = 1.0 if images is None else _thumbnails(ax, images, blocks)
    if colorbar:
        measure = rdms.dissimilarity_measure or "measure unknown"
        bar = bar_beside(ax, picture, share)
        bar.set_label(f"dissimilarity ({measure}{', percentile' if rank else ''})")
    if sorted_labels is not None:
        _mark_categories(ax, sorted_labels, blocks)
    elif images is None and len(order) <= _NAMED and "stimulus" in rdms.pattern_descriptors:
        _name_rows(ax, list(range(len(order))), list(stimulus_ids(rdms)))
    else:
        ax.set(xlabel="stimulus", ylabel="stimulus")
        if images is not None:
            ax.set(xticks=[], yticks=[])
    settle(ax)
    return ax


def one_rdm(rdms: RDMs) -> Floats:
    """The matrix of the only RDM; several are an error."""
    if len(rdms) != 1:
        raise NeurordlError(
            f"one RDM is drawn at a time, but there are {len(rdms)}; index them, as in rdms[0]"
        )
    return np.array(rdms.get_matrices()[0], dtype=float)


def categories_of(
    rdms: RDMs, categories: Mapping[str, str] | str | None, stimuli: StimulusSet | None = None
) -> list[str] | None:
    """The category of each stimulus, in the order of the RDM; None without ``categories``."""
    if categories is None:
        return None
    if isinstance(categories, str):
        if categories in rdms.pattern_descriptors:
            return [str(value) for value in rdms.pattern_descriptors[categories]]
        if stimuli is None or categories not in stimuli.table:
            known = ", ".join(sorted(rdms.pattern_descriptors))
            more = f"; the table of the stimuli: {', '.join(map(str, stimuli.table))}" if stimuli else ""
            raise NeurordlError(
                f"the RDMs have no pattern descriptor {categories!r}; they have: {known}{more}"
            )
        index = match_ids(stimulus_ids(rdms), stimuli.ids, names=("RDMs", "stimuli")).index
        return [str(value) for value in stimuli.table[categories].iloc[index]]
    ids = stimulus_ids(rdms)
    if without := [stimulus for stimulus in ids if stimulus not in categories]:
        raise NeurordlError(
            f"{len(without)} stimuli have no category, such as {without[0]!r}; give one for each stimulus"
        )
    return [str(categories[stimulus]) for stimulus in ids]


def _percentiles(matrix: Floats) -> Floats:
    rows, columns = np.triu_indices(len(matrix), 1)
    values = matrix[rows, columns]
    measured = np.isfinite(values)
    ranked = np.full(len(values), np.nan)
    ranked[measured] = 100 * (stats.rankdata(values[measured]) - 1) / max(int(measured.sum()) - 1, 1)
    found = np.full(matrix.shape, np.nan)
    found[rows, columns] = found[columns, rows] = ranked
    return found


def _blocks(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each run of one label."""
    edges = [k for k in range(1, len(labels)) if labels[k] != labels[k - 1]]
    return list(zip([0, *edges], [*edges, len(labels)], strict=True))


def _mark_missing(ax: Axes, matrix: Floats) -> None:
    missing = ~np.isfinite(matrix) & ~np.eye(len(matrix), dtype=bool)
    if missing.any():
        shade = np.ma.masked_array(np.ones(matrix.shape), ~missing)
        ax.imshow(shade, cmap=ListedColormap([_NOT_MEASURED]), interpolation="nearest")
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        patch = Patch(color=_NOT_MEASURED, label="not measured")
        ax.legend(handles=[patch], frameon=False, fontsize="small", handlelength=1, **place)


def _thumbnails(ax: Axes, images: npt.NDArray[Any], blocks: Sequence[tuple[int, int]]) -> float:
    """Images beside the matrix; the share of the Axes that is left to it."""
    n = len(images)
    size = max(1.0, _THUMBNAIL * n / min(inches(ax)))  # cells
    shown = spread([(k, k + 1) for k in range(n)] if size == 1 else blocks, size)
    ax.spines[:].set_visible(False)
    return strip(ax, images[[stimulus for stimulus, _ in shown]], [at for _, at in shown], size, n)


def _mark_categories(ax: Axes, labels: Sequence[str], blocks: Sequence[tuple[int, int]]) -> None:
    """Lines between blocks of one category, and its name beside each block."""
    n = len(labels)
    narrowest = 72 * min(inches(ax)) / n * min(end - start for start, end in blocks)  # points
    inside: dict[str, Any] = {"color": "white", "linewidth": float(np.clip(0.08 * narrowest, 0.2, 0.8))}
    for edge, _ in blocks[1:]:
        ax.plot([-0.5, n - 0.5], [edge - 0.5] * 2, **inside)
        ax.plot([edge - 0.5] * 2, [-0.5, n - 0.5], **inside)
    _name_rows(ax, [(a + b - 1) / 2 for a, b in blocks], [labels[a] for a, _ in blocks])


def _name_rows(ax: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """The same names on both sides, as small as the narrowest gap asks for, down to what can be read."""
    size = font_points(plt.rcParams["ytick.labelsize"])
    cells = abs(float(np.subtract(*ax.get_ylim())))
    gap = 72 * min(inches(ax)) * min(np.diff(places), default=cells) / cells
    ax.set_yticks(places, names)
    if gap > 1.5 * size:
        ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(places, names, rotation=90)
    ax.tick_params(axis="both", labelsize=float(np.clip(0.95 * gap, 4.5, size)))
