"""An RDM as a matrix, and small images of its stimuli."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from rsatoolbox.rdm.rdms import RDMs
from scipy import stats
from scipy.spatial.distance import squareform

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.plots import style
from neurordl.rdms.selection import PROVENANCE, stimulus_ids
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import check_stimuli
from neurordl.validate import listed

Pixels = npt.NDArray[Any]
Blocks = Sequence[tuple[int, int]]

_NOT_MEASURED = "0.75"
_THUMBNAIL = 0.24  # inches, the least
_NAMED = 30  # up to so many stimuli are named in the margin


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
    legend: bool = True,
) -> Axes:
    """Draw one RDM as a matrix. Its stimuli are sorted by category where categories are given.

    Parameters
    ----------
    rdms
        One RDM. The diagonal is white, missing pairs are gray.
    ax
        Axes to draw on; by default a new one.
    categories
        Mapping from stimulus id to category; or the name of a pattern descriptor of the RDM, or of a column
        in the table of ``stimuli``. Categories are sorted by their first occurrence, and the stimuli of a
        category keep the order of the RDM.
    stimuli
        Images, which are matched by id and drawn along both sides. Where there is no room for all of them,
        each category shows some, each beside its own row.
    rank
        Show percentiles among the measured pairs: ranks from 0 (the smallest) to 100, with mean ranks for
        ties.
    vmin, vmax
        Values at the ends of the color map, by default those of this RDM. Set them to compare figures.
    colorbar
        Draw a color bar.
    cmap
        Name of a color map of matplotlib.
    legend
        Draw the legend above the matrix, where pairs are missing.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        There are several RDMs, or a stimulus has no category or no image.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.rdm import RDMs
    >>> import neurordl as nrl
    >>> rdms = RDMs(np.array([[0.2, 0.4, 0.6]]), pattern_descriptors={"stimulus": ["a", "b", "c"]})
    >>> ax = nrl.plot_rdm(rdms, categories={"a": "face", "b": "tool", "c": "face"})
    """
    matrix = single_matrix(rdms)
    n = len(matrix)
    labels = categories_of(rdms, categories, stimuli)
    names = labels or [""] * n
    order = sorted(range(n), key=lambda k: names.index(names[k]))
    images = None if stimuli is None else thumbnails(stimuli, [stimulus_ids(rdms)[k] for k in order])
    matrix = (_percentiles(matrix) if rank else matrix)[np.ix_(order, order)]
    np.fill_diagonal(matrix, np.nan)
    ax = ax or (style.new_axes(4.6, 3.8) if images is None else style.new_axes(6.2, 5.2))
    picture = ax.imshow(matrix, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    _mark_missing(ax, matrix, legend)
    ax.tick_params(length=0)
    names = [names[k] for k in order]
    edges = [k for k in range(1, n) if names[k] != names[k - 1]]
    blocks = list(zip([0, *edges], [*edges, n], strict=True))
    share = 1.0 if images is None else _draw_images(ax, images, blocks)
    if colorbar:
        bar = style.bar_beside(ax, picture, share)
        bar.set_label(_values_text(rdms, rank))
    if labels is not None:
        _mark_categories(ax, names, blocks)
    elif images is None and n <= _NAMED and "stimulus" in rdms.pattern_descriptors:
        _name_rows(ax, list(range(n)), list(stimulus_ids(rdms)))
    else:
        ax.set(xlabel="stimulus", ylabel="stimulus")
        if images is not None:
            ax.set(xticks=[], yticks=[])
    style.wrap_labels(bar.ax if colorbar else ax)
    return ax


def _values_text(rdms: RDMs, rank: bool) -> str:
    """What the values of RDMs are: the unit is certain of those that this package has computed."""
    name = rdms.dissimilarity_measure or "measure unknown"
    measure = dissimilarity_from_text(name) if PROVENANCE in rdms.descriptors else None
    if rank:
        return f"dissimilarity ({name}),\npercentile of the measured pairs"
    unit = f",\n{measure.unit}" if measure and measure.unit else ""
    return f"dissimilarity ({name}{unit})"


def single_matrix(rdms: RDMs) -> Floats:
    """The matrix of a single RDM; several are an error."""
    if len(rdms) != 1:
        raise NeurordlError(f"one RDM is drawn at a time, not {len(rdms)}; index them, as in rdms[0]")
    return np.array(rdms.get_matrices()[0], dtype=float)


def categories_of(
    rdms: RDMs, categories: Mapping[str, str] | str | None, stimuli: StimulusSet | None = None
) -> list[str] | None:
    """The category of each stimulus, in the order of the RDM; None without ``categories``."""
    if categories is None:
        return None
    if isinstance(categories, str) and categories in rdms.pattern_descriptors:
        return [str(value) for value in rdms.pattern_descriptors[categories]]
    ids = stimulus_ids(rdms)
    if isinstance(categories, str):
        if stimuli is None or categories not in stimuli.table:
            known = listed(sorted({*rdms.pattern_descriptors} - {"index"}), most=40) or "none"
            known += f"; the table of the stimuli: {listed(stimuli.table, most=40)}" if stimuli else ""
            raise NeurordlError(f"the RDMs have no pattern descriptor {categories!r}; they have {known}")
        categories = dict(zip(stimuli.ids, stimuli.table[categories], strict=True))
    if missing := [stimulus for stimulus in ids if stimulus not in categories]:
        raise NeurordlError(f"{len(missing)} stimuli have no category, such as {missing[0]!r}; give each one")
    return [str(categories[stimulus]) for stimulus in ids]


def thumbnails(stimuli: StimulusSet, ids: Sequence[str]) -> Pixels:
    """RGB images of these ids, (n, height, width, 3), as they were before normalization."""
    check_stimuli(stimuli)
    pixels = np.moveaxis(stimuli.subset(ids).pixels.numpy(), 1, -1)
    if pixels.dtype != np.uint8:  # floats are on a scale of their own
        low, high = float(stimuli.pixels.min()), float(stimuli.pixels.max())
        pixels = (pixels - low) / ((high - low) or 1.0) if low < 0 or high > 1 else pixels
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _percentiles(matrix: Floats) -> Floats:
    values = matrix[np.triu_indices(len(matrix), 1)]
    finite = np.isfinite(values)
    ranks = stats.rankdata(np.where(finite, values, np.nan), nan_policy="omit")
    return np.asarray(squareform(100 * (ranks - 1) / max(int(finite.sum()) - 1, 1)))


def _mark_missing(ax: Axes, matrix: Floats, legend: bool) -> None:
    missing = ~np.isfinite(matrix) & ~np.eye(len(matrix), dtype=bool)
    if missing.any():
        shade = np.ma.masked_array(np.ones(matrix.shape), ~missing)
        ax.imshow(shade, cmap=ListedColormap([_NOT_MEASURED]), interpolation="nearest")
        patch = Patch(color=_NOT_MEASURED, label="not measured")
        corner = partial(style.legend, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
        corner(ax, None, legend, handles=[patch], handlelength=1)


def _draw_images(ax: Axes, images: Pixels, blocks: Blocks) -> float:
    """Draw images along the left and the lower side of a matrix, inside the Axes.

    Returns the share of the Axes' sides that the matrix keeps.
    """
    n = len(images)
    size = max(1.0, _THUMBNAIL * n / min(style.inches(ax)))  # cells
    near, far = 0.15 * size, 1.07 * size
    for stimulus, center in _spread([(k, k + 1) for k in range(n)] if size == 1 else blocks, size):
        low, high = center - 0.46 * size, center + 0.46 * size
        for extent in ((-0.5 - far, -0.5 - near, high, low), (low, high, n - 0.5 + far, n - 0.5 + near)):
            ax.imshow(images[stimulus], extent=extent, interpolation="antialiased", clip_on=False)
    ax.spines[:].set_visible(False)
    ax.set_xlim(-0.5 - 1.3 * size, n - 0.5)
    ax.set_ylim(n - 0.5 + 1.3 * size, -0.5)
    return n / (n + 1.3 * size)


def _spread(blocks: Blocks, size: float) -> list[tuple[int, float]]:
    """Stimuli whose images, ``size`` cells long, fit along blocks of cells [start, end), and their centers.

    They are spread evenly over each block. Where blocks are narrower than an image, some go without.
    """
    chosen: list[tuple[int, float]] = []
    for start, end in blocks:
        count = max(1, int((end - start) / size + 1e-9))
        for k in range(count):
            center = start + (k + 0.5) * (end - start) / count
            stimulus = int(center)
            center = min(max(center, size / 2), blocks[-1][1] - size / 2) - 0.5
            if not chosen or center - chosen[-1][1] >= size - 1e-9:
                chosen.append((stimulus, center))
    return chosen


def _mark_categories(ax: Axes, labels: Sequence[str], blocks: Blocks) -> None:
    """Draw lines between the blocks of categories, and write the name of each beside it."""
    n = len(labels)
    narrowest = 72 * min(style.inches(ax)) / n * min(end - start for start, end in blocks)  # points
    width = float(np.clip(0.08 * narrowest, 0.2, 0.8))
    edges = [start - 0.5 for start, _ in blocks[1:]]
    for draw in (ax.hlines, ax.vlines):
        draw(edges, -0.5, n - 0.5, color="white", linewidth=width)
    _name_rows(ax, [(a + b - 1) / 2 for a, b in blocks], [labels[a] for a, _ in blocks])


def _name_rows(ax: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Write the same names on both sides, as small as the narrowest gap asks for but still readable."""
    size = style.font_points(plt.rcParams["ytick.labelsize"])
    cells = abs(float(np.subtract(*ax.get_ylim())))
    gap = 72 * min(style.inches(ax)) * min(np.diff(places), default=cells) / cells
    ax.set_yticks(places, names)
    ax.set_xticks(places, names, **(style.SLANTED if gap > 1.5 * size else {"rotation": 90}))
    ax.tick_params(axis="both", labelsize=float(np.clip(0.95 * gap, 4.5, size)))
