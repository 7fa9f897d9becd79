"""Stimuli, or whole RDMs, as points in a plane by multidimensional scaling (MDS)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.transforms import Bbox
from rsatoolbox.rdm.rdms import RDMs
from sklearn.manifold import smacof

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.plots import style
from neurordl.plots.rdm import Pixels, categories_of, single_matrix, thumbnails
from neurordl.rdms.selection import descriptor_values, reindex, stimulus_ids
from neurordl.rsa.compare import compare
from neurordl.stimuli import StimulusSet

_REACHES = (0.55, 1.3, 2.2, 3.2)  # distances of a text from its place, in lines
_SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]


def plot_mds(
    rdms: RDMs,
    ax: Axes | None = None,
    *,
    stimuli: StimulusSet | None = None,
    categories: Mapping[str, str] | str | None = None,
    seed: int = 0,
    legend: bool = True,
) -> Axes:
    """Draw the stimuli of one RDM in a plane, by metric multidimensional scaling (SMACOF, best of 8 starts).

    Parameters
    ----------
    rdms
        One RDM without missing pairs. The square root of squared distances (``euclidean``, ``mahalanobis``
        and ``crossnobis``) is taken; negative ones become zero.
    ax
        Axes to draw on; by default a new one.
    stimuli
        Images to draw at the positions of the stimuli.
    categories
        Mapping from stimulus id to category; or the name of a pattern descriptor of the RDM, or of a column
        in the table of ``stimuli``. Each category has a color and, without images, a marker.
    seed
        Seed of the random starts.
    legend
        Draw the legend, as in `plot_scores`.

    Returns
    -------
    Axes
        The Axes with the figure. The text below the plane is Kruskal's stress-1: the root of the sum of
        squared errors of the distances, divided by the sum of their squares. The orientation and the scale of
        the plane are arbitrary.

    Raises
    ------
    NeurordlError
        There are several RDMs, missing pairs, fewer than three stimuli, or a stimulus without a category or
        an image.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=1)
    >>> axes = nrl.plot_mds(rdms)
    """
    matrix = single_matrix(rdms)
    n = len(matrix)
    if n < 3:
        raise NeurordlError(f"a plane of stimuli needs three or more, but the RDM has {n}")
    if missing := int((~np.isfinite(rdms.dissimilarities)).sum()):
        counts = f"{missing} of {rdms.dissimilarities.size} pairs are missing"
        raise NeurordlError(f"{counts}, and MDS needs all; average over subjects, or leave stimuli out")
    matrix = np.maximum(matrix, 0)
    measure = dissimilarity_from_text(str(rdms.dissimilarity_measure))
    places, stress = _scale(np.sqrt(matrix) if measure is not None and measure.squared else matrix, seed)
    labels = categories_of(rdms, categories, stimuli)
    ax = ax or style.new_axes(4.6 + style.legend_inches(labels or []), 4.6)
    _frame(ax, places, f"{n} stimuli, stress {stress:.2f}")
    codes, names = pd.factorize(np.array(labels or [""] * n))
    colors = style.palette(len(names))
    for k, name in enumerate(names):
        shown = places[codes == k] if stimuli is None else np.full((1, 2), np.nan)
        marker = style.marker_of(k) if stimuli is None else "s"
        ax.plot(*shown.T, marker, color=colors[k], markersize=style.scaled(6), label=name)
    style.legend(ax, show=legend)
    style.settle(ax)  # with the legend: the room that remains decides on the size of the images
    if stimuli is not None:
        size = float(np.clip(72 * min(style.inches(ax)) * 0.6 / np.sqrt(n), 6, 40))
        edges = [colors[k] for k in codes.tolist()] if labels else None
        _draw_images(ax, thumbnails(stimuli, stimulus_ids(rdms)), places, size, edges)
        half = 0.01 + size / 144 / min(style.inches(ax))  # of an image, as a share of the Axes
        ax.margins(half / (1 - 2 * half))
    return ax


def plot_rdm_mds(
    rdms: RDMs | Mapping[str, RDMs],
    ax: Axes | None = None,
    *,
    comparison: str = "rho-a",
    label: str | None = None,
    missing: Literal["error", "ignore"] = "error",
    seed: int = 0,
    legend: bool = True,
) -> Axes:
    """Draw whole RDMs in a plane, such as layers and subjects, at distances of 1 - their similarity.

    Parameters
    ----------
    rdms
        RDMs, or several by the name of their group, such as ``{"layers": models, "IT": it, "EVC": evc}``.
        They are matched by stimulus id.
    ax
        Axes to draw on; by default a new one.
    comparison
        Comparison of two RDMs, as in `compare`.
    label
        RDM descriptor to write beside the markers. By default it is ``layer`` or ``name``, if a group has
        one.
    missing
        "ignore" compares the stimuli that all groups share.
    seed
        Seed of the random starts.
    legend
        Draw the legend, as in `plot_scores`.

    Returns
    -------
    Axes
        The Axes with the figure, and the stress as in `plot_mds`.

    Raises
    ------
    NeurordlError
        There are fewer than three RDMs, ids do not match, or the similarity of two RDMs is undefined.

    Examples
    --------
    >>> import numpy as np
    >>> from neurordl.plots import plot_rdm_mds
    >>> from neurordl.simulate import simulate_subjects
    >>> geometry, ids = np.random.default_rng(0).normal(size=(12, 5)), [f"im{k}" for k in range(12)]
    >>> ax = plot_rdm_mds({"people": simulate_subjects(geometry, ids, n_subjects=6, seed=0)})
    """
    groups = dict(rdms) if isinstance(rdms, Mapping) else {"": rdms}
    names = [name for name, group in groups.items() for _ in range(group.n_rdm)]
    if len(names) < 3:
        raise NeurordlError(f"a plane of RDMs needs three or more, but there are {len(names)}")
    largest = max(groups, key=lambda name: groups[name].n_cond)
    ids: Sequence[str] = stimulus_ids(groups[largest])
    for name, group in groups.items():  # with "error" no group may have more ids than another
        sides = (largest or "RDMs", name or "RDMs")
        ids = match_ids(ids, stimulus_ids(group), names=sides, missing=missing).matched
    vectors = np.concatenate([reindex(group, ids) for group in groups.values()])
    stack = RDMs(vectors, pattern_descriptors={"stimulus": list(ids)})
    similarities = compare(stack, stack, comparison)
    if np.isnan(similarities).any():
        a, b = np.argwhere(np.isnan(similarities))[0]
        both = f"RDMs number {a} ({names[a]}) and {b} ({names[b]}), from 0 over all groups,"
        reason = "one is constant, or they share fewer than two measured pairs; leave it out"
        raise NeurordlError(f"the {comparison} of {both} is undefined: {reason}")
    distances = 1 - (similarities + similarities.T) / 2
    np.fill_diagonal(distances, 0)
    places, stress = _scale(np.maximum(distances, 0), seed)
    ax = ax or style.new_axes(4.6 + style.legend_inches(list(groups)), 4.6)
    note = f"{len(names)} RDMs of {len(ids)} stimuli\ndistance 1 − {comparison}, stress {stress:.2f}"
    _frame(ax, places, note)
    texts: list[tuple[str, Floats, str]] = []
    ends = np.cumsum([group.n_rdm for group in groups.values()])
    colors = style.palette(len(groups))
    for k, (name, group) in enumerate(groups.items()):
        shown = places[ends[k] - group.n_rdm : ends[k]]
        words, pattern = style.shortened(_labels(group, label))
        title = f"{name}\n{pattern}".strip()
        color, size = colors[k], style.scaled(6)
        ax.plot(*shown.T, style.marker_of(k), label=title, color=color, ms=size, alpha=0.85, mew=0)
        texts += [(word, place, color) for word, place in zip(words, shown, strict=False)]
    style.legend(ax, show=legend)
    _place_labels(ax, texts, places)
    return ax


def _labels(group: RDMs, label: str | None) -> list[str]:
    names = (label,) if label else [name for name in ("layer", "name") if name in group.rdm_descriptors]
    return [text or "output" for text in descriptor_values(group, names[0])] if names else []


def _scale(distances: Floats, seed: int) -> tuple[Floats, float]:
    """Places (n, 2) by SMACOF, turned to their principal axes, and Kruskal's stress-1."""
    largest = float(distances.max())  # the stopping rule is absolute
    if largest == 0:
        return np.zeros((len(distances), 2)), 0.0
    scaling = smacof(distances / largest, n_components=2, n_init=8, random_state=seed, max_iter=500, eps=1e-7)
    places = np.asarray(scaling[0]) * largest
    places -= places.mean(axis=0)
    places @= np.linalg.svd(places, full_matrices=False)[2].T
    places *= np.where(places[np.abs(places).argmax(axis=0), (0, 1)] < 0, -1, 1)  # no mirror by chance
    achieved = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return places, float(np.sqrt(((achieved - distances) ** 2).sum() / (achieved**2).sum()))


def _frame(ax: Axes, places: Floats, note: str) -> None:
    """A plane without scales, as large as the places need, with a note below."""
    ax.set_aspect("equal", adjustable="box")
    ax.update_datalim(places)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.8")
    ax.set_xlabel(note, loc="right", fontsize="small", color="0.3")


def _draw_images(ax: Axes, images: Pixels, places: Floats, size: float, edges: Sequence[str] | None) -> None:
    """Draw images of ``size`` points at places in the data, framed in the colors ``edges``."""
    width = max(0.6, size / 18) if edges else 0
    for image, place, edge in zip(images, places, edges or ["none"] * len(images), strict=True):
        picture = OffsetImage(image, zoom=size / max(image.shape[:2]), interpolation="antialiased")
        frame = {"linewidth": width, "color": edge}  # filled: no paper shows between frame and image
        box = AnnotationBbox(picture, tuple(place), pad=0.06, bboxprops=frame)
        box.set_zorder(3)
        ax.add_artist(box)


def _place_labels(ax: Axes, texts: Sequence[tuple[str, Floats, str]], points: Floats) -> None:
    """Write each (text, place, color) on the side, near or farther off, where it hides the least."""
    if not texts:
        return
    ax.margins(0.12)
    ax.autoscale_view()
    style.settle(ax)
    ax.apply_aspect()
    dots, frame = ax.transData.transform(points), ax.get_window_extent()
    line = 1.2 * style.font_points("small")  # points
    height = line * ax.figure.dpi / 72  # pixels
    taken: list[Bbox] = []
    for text, place, color in texts:
        options: list[tuple[float, float, tuple[int, int], Bbox]] = []
        size = np.array([style.LETTER * height / 1.2 * len(text), height])
        center = ax.transData.transform(place)
        for reach, side in itertools.product(_REACHES, _SIDES):
            corner = center + reach * height * np.array(side) + (np.array(side) - 1) / 2 * size
            box = Bbox.from_bounds(*corner, *size)
            hidden = box.padded(0.3 * height).count_contains(dots)
            overlap, inside = (sum(_shared_area(box, b) for b in boxes) for boxes in (taken, [frame]))
            cost = 0.8 * hidden + 0.15 * reach + (3 * overlap - 4 * inside) / size.prod()
            options.append((round(cost, 9), reach, side, box))
        _, reach, side, box = min(options, key=lambda option: option[0])
        taken.append(box)
        offset = (line * reach * side[0], line * reach * side[1])
        arrow = {"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.6} if reach > 1 else None
        label = ax.annotate(text, tuple(place), offset, textcoords="offset points", arrowprops=arrow)
        label.set(ha=("center", "left", "right")[side[0]], va=("center", "bottom", "top")[side[1]])
        label.set(fontsize="small", color=color)


def _shared_area(a: Bbox, b: Bbox) -> float:
    """The area of the overlap of two boxes (``Bbox.intersection`` takes many times as long)."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0
