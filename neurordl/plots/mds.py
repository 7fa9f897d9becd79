"""Stimuli, or whole RDMs, in a plane: as near as they are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from rsatoolbox.rdm.rdms import RDMs
from sklearn.manifold import smacof

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.plots.labels import place_labels, shortened
from neurordl.plots.rdm import categories_of, one_rdm
from neurordl.plots.style import colour_of, inches, legend, legend_inches, marker_of, new_axes, scaled, settle
from neurordl.plots.thumbnails import thumbnails, thumbnails_at
from neurordl.rdms.selection import descriptor_values, reindex, stimulus_ids
from neurordl.rsa.evaluation import compare
from neurordl.stimuli import StimulusSet

__all__ = ["plot_mds", "plot_rdm_mds"]

Floats = npt.NDArray[np.float64]
_SQUARED = ("euclidean", "mahalanobis", "crossnobis")  # as rsatoolbox means them


def plot_mds(
    rdms: RDMs,
    ax: Axes | None = None,
    *,
    stimuli: StimulusSet | None = None,
    categories: Mapping[str, str] | str | None = None,
    seed: int = 0,
) -> Axes:
    """Stimuli of one RDM in a plane, by metric multidimensional scaling (SMACOF, the best of eight starts).

    Parameters
    ----------
    rdms
        One RDM without missing pairs. Of the measures that rsatoolbox squares (``euclidean``,
        ``mahalanobis``, ``crossnobis``) the square root is taken, negative ones being zero.
    stimuli
        Images, drawn at the places of the stimuli.
    categories
        Category of each stimulus by id, or the pattern descriptor, or the column of the stimuli's table, that
        holds it; each has a colour (and, without images, a marker).
    seed
        Of the starts.

    Returns
    -------
    Axes
        Below it stands Kruskal's stress-1: the root of the sum of squared errors of the distances over that
        of their squares. Orientation and scale of the plane mean nothing.

    Raises
    ------
    NeurordlError
        Several RDMs, missing pairs, fewer than three stimuli, or a stimulus without category or image.
    """
    matrix = one_rdm(rdms)
    n = len(matrix)
    upper = matrix[np.triu_indices(n, 1)]
    if n < 3:
        raise NeurordlError(f"a plane of stimuli needs three or more, but the RDM has {n}")
    if absent := int((~np.isfinite(upper)).sum()):
        raise NeurordlError(
            f"{absent} of {len(upper)} pairs are missing, and MDS needs all; average over subjects, or leave "
            "out the stimuli concerned"
        )
    if rdms.dissimilarity_measure in _SQUARED:
        matrix = np.sqrt(np.maximum(matrix, 0))
    labels = categories_of(rdms, categories, stimuli)
    places, stress = _plane(np.maximum(matrix, 0), seed)
    ax = ax or new_axes(4.6 + legend_inches(labels or []), 4.6)
    _frame(ax, places, stress, f"{n} stimuli")
    kinds = list(dict.fromkeys(labels or [""]))
    of = np.array([kinds.index(label) for label in labels or [""] * n])
    for k, kind in enumerate(kinds):
        style: dict[str, Any] = {"color": colour_of(k), "markersize": scaled(6), "label": kind}
        shown = places[of == k] if stimuli is None else np.full((1, 2), np.nan)
        ax.plot(*shown.T, marker_of(k) if stimuli is None else "s", **style)
    if labels:
        legend(ax)
    settle(ax)  # with its legend: the room that is left decides on the size of the images
    if stimuli is not None:
        size = float(np.clip(72 * min(inches(ax)) * 0.6 / np.sqrt(n), 6, 40))
        edges = [colour_of(k) for k in of] if labels else None
        thumbnails_at(ax, thumbnails(stimuli, stimulus_ids(rdms)), places, size, edges)
        half = 0.01 + size / 144 / min(inches(ax))  # of an image, as a share of the Axes
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
) -> Axes:
    """Whole RDMs in a plane, such as layers and subjects: the distance of two is 1 - their similarity.

    Parameters
    ----------
    rdms
        RDMs, or several by the name of their group, such as ``{"layers": models, "IT": it, "EVC": evc}``.
        Matched by stimulus id.
    comparison
        How RDMs are compared, as in `compare`.
    label
        The RDM descriptor that is written beside the marks. By default ``layer`` or ``name`` where a group
        has one; subjects are not named.
    missing
        "ignore" compares the stimuli that all groups share.
    seed
        Of the starts of the scaling; see `plot_mds`.

    Raises
    ------
    NeurordlError
        Fewer than three RDMs, ids that do not match, or two RDMs whose similarity is undefined.
    """
    groups = dict(rdms) if isinstance(rdms, Mapping) else {"": rdms}
    names = [name for name, group in groups.items() for _ in range(group.n_rdm)]
    if len(names) < 3:
        raise NeurordlError(f"a plane of RDMs needs three or more, but there are {len(names)}")
    alike, shared = _similarities(groups, comparison, missing)
    if np.isnan(alike).any():
        one, two = np.argwhere(np.isnan(alike))[0]
        raise NeurordlError(
            f"the {comparison} of RDMs number {one} ({names[one]}) and {two} ({names[two]}), from 0 over all "
            "groups, is undefined: one is constant, or they share fewer than two measured pairs; leave it out"
        )
    distances = 1 - (alike + alike.T) / 2
    np.fill_diagonal(distances, 0)
    places, stress = _plane(np.maximum(distances, 0), seed)
    ax = ax or new_axes(4.6 + legend_inches(list(groups)), 4.6)
    _frame(ax, places, stress, f"{len(names)} RDMs of {shared} stimuli\ndistance 1 − {comparison}")
    texts: list[tuple[str, Floats, str]] = []
    start = 0
    for k, (name, group) in enumerate(groups.items()):
        here = places[start : start + group.n_rdm]
        start += group.n_rdm
        words, pattern = shortened(_texts(group, label))
        style: dict[str, Any] = {"color": colour_of(k), "markersize": scaled(6), "alpha": 0.85, "mew": 0}
        ax.plot(*here.T, marker_of(k), label=f"{name}\n{pattern}".strip(), **style)
        texts += [(word, place, colour_of(k)) for word, place in zip(words, here, strict=False)]
    if any(ax.get_legend_handles_labels()[1]):
        legend(ax)
    place_labels(ax, texts, places)
    return ax


def _similarities(
    groups: Mapping[str, RDMs], comparison: str, missing: Literal["error", "ignore"]
) -> tuple[Floats, int]:
    """(all RDMs, all RDMs), on the stimuli of all groups, and how many these are."""
    first, *others = groups.items()
    ids: Sequence[str] = stimulus_ids(first[1])
    for name, group in others:
        what = (first[0] or "RDMs", name)
        ids = match_ids(ids, stimulus_ids(group), names=what, missing=missing).matched
        if missing == "error":  # nor may the others have more
            match_ids(stimulus_ids(group), ids, names=what[::-1])
    stack = RDMs(
        np.concatenate([reindex(group, ids) for group in groups.values()]),
        pattern_descriptors={"stimulus": list(ids)},
    )
    return compare(stack, stack, comparison), len(ids)


def _texts(group: RDMs, label: str | None) -> list[str]:
    names = (label,) if label else [name for name in ("layer", "name") if name in group.rdm_descriptors]
    return [text or "output" for text in descriptor_values(group, names[0])] if names else []


def _plane(distances: Floats, seed: int) -> tuple[Floats, float]:
    """Places (n, 2) by SMACOF, turned to their principal axes, and Kruskal's stress-1."""
    scale = float(distances.max())  # the stopping rule is absolute
    if scale == 0:
        return np.zeros((len(distances), 2)), 0.0
    options: dict[str, Any] = {"n_init": 8, "random_state": seed, "max_iter": 500, "eps": 1e-7}
    places = np.asarray(smacof(distances / scale, n_components=2, **options)[0]) * scale
    places -= places.mean(axis=0)
    places = places @ np.linalg.svd(places, full_matrices=False)[2].T
    places *= np.where(places[np.abs(places).argmax(axis=0), (0, 1)] < 0, -1, 1)  # no mirror by chance
    found = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return places, float(np.sqrt(((found - distances) ** 2).sum() / (found**2).sum()))


def _frame(ax: Axes, places: Floats, stress: float, note: str = "") -> None:
    """A plane without scales, as large as the places need, with the stress below."""
    ax.set_aspect("equal", adjustable="box")
    ax.update_datalim(places)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.8")
    text = ", ".join(part for part in (note, f"stress {stress:.2f}") if part)
    ax.set_xlabel(text, loc="right", fontsize="small", color="0.3")
