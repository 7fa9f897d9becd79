"""Scores over time: courses of layers, and a picture of layers and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.transforms import blended_transform_factory

from neurordl.errors import NeurordlError
from neurordl.plots import style
from neurordl.rsa.scores import Evaluation, time_axes
from neurordl.rsa.time import MINUS
from neurordl.validate import check_choice, check_columns, counted, listed

_FEWEST = 3  # times as high as the courses: a higher noise ceiling is cut off
_ROW = 0.035  # height of a row of cluster bars, as a share of the Axes


def plot_time_course(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    clusters: pd.DataFrame | None = None,
    onsets: pd.DataFrame | None = None,
    alpha: float = 0.05,
    legend: bool = True,
) -> Axes:
    """Draw the mean similarity of layers over time, with intervals, noise ceiling, clusters and onsets.

    A line is the mean over subjects, with its 95 % interval as a band; the noise ceiling is gray. Where the
    courses would fill less than a third of the axis below it, the axis ends above the courses, and the legend
    says up to where the noise ceiling goes. Bars below the courses are significant clusters of times; a
    triangle on the axis is an onset, with its interval.

    Parameters
    ----------
    scores
        Result of `evaluate` of RDMs over time, or its table.
    ax
        Axes to draw on; by default new ones.
    roi, layers
        ROIs and layers to show; by default all. Each layer, or layer in a ROI, has a color. The noise ceiling
        is drawn where a single ROI is shown.
    clusters
        Result of `time_clusters`. Bars are drawn for clusters whose ``p_holm`` is below ``alpha``; those of a
        difference of two layers are black.
    onsets
        Result of `latencies`.
    alpha
        Significance level of clusters.
    legend
        Draw the legend.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        There are no times, a ROI or a layer is unknown, also one of the clusters, or a column is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng, ids, times = np.random.default_rng(0), list("abcdef"), np.arange(-5, 15) / 50
    >>> model = nrl.simulate.simulate_subjects(rng.normal(size=(6, 5)), ids, n_subjects=1)
    >>> noise = rng.normal(size=(8, 20, 15))  # of 8 subjects, 20 times and 15 pairs; the model begins at 0 s
    >>> measured = noise + 9 * (times >= 0)[:, None] * model.dissimilarities
    >>> people = nrl.rdms_over_time(measured, times, ids=ids, subjects=[f"s{k}" for k in range(8)])
    >>> scores = nrl.evaluate({"model": model}, people, comparison="corr")
    >>> ax = nrl.plot_time_course(scores, clusters=nrl.time_clusters(scores))
    """
    means, rois, names = _means(scores, roi, layers)
    series = [(layer, region) for region in rois for layer in names]
    ax = style.new_axes(7.0, 3.6) if ax is None else ax
    colors = style.palette(len(series))
    times = np.sort(means["time"].unique())
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    if times[0] < 0 < times[-1]:
        ax.axvline(0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    if len(rois) == 1:
        ceiling = means[means["layer"] == names[0]].sort_values("time")
        bounds = [ceiling[f"ceiling_{name}"].astype(float) for name in ("lower", "upper")]
        if np.isfinite(bounds).any():
            label = "noise ceiling"
            lower, upper = bounds
            width = style.scaled(3.0) if np.allclose(lower, upper, equal_nan=True) else 0  # of shares: a line
            ax.fill_between(
                ceiling["time"], lower, upper, color=style.CEILING, lw=width, zorder=0, label=label
            )
    for (layer, region), color in zip(series, colors, strict=True):
        part = means[(means["layer"] == layer) & (means["roi"] == region)].sort_values("time")
        label = ", ".join(filter(None, [layer or "output", region if len(rois) > 1 else ""]))
        low, high = part["ci_low"].astype(float), part["ci_high"].astype(float)
        ax.fill_between(part["time"], low, high, color=color, alpha=0.2, lw=0, zorder=2)
        ax.plot(part["time"], part["score"], color=color, lw=style.scaled(1.6), zorder=3, label=label)
    ax.set_xlim(times[0], times[-1])
    _cut_ceiling(ax, means)
    n_rows = (
        0 if clusters is None else _draw_clusters(ax, _of_layers(clusters, scores), series, colors, alpha)
    )
    _draw_onsets(ax, onsets, series, colors)
    frame = scores.frame if isinstance(scores, Evaluation) else scores
    ax.set_xlabel("time (s)" if "time" in frame else "time of the model (s)")
    ax.set_ylabel(_quantity(scores, means, " "))
    style.legend(ax, _title(means, n_rows, onsets is not None, alpha), legend)
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def _cut_ceiling(ax: Axes, means: pd.DataFrame) -> None:
    """End the axis above the courses where these are far below the noise ceiling, which is then cut off."""
    values = means[["score", "ci_low", "ci_high"]].to_numpy(float)
    drawn = [0.0, *values[np.isfinite(values)].tolist()]
    low, high = min(drawn), max(drawn)
    for band in ax.collections:
        top = band.get_datalim(ax.transData).y1
        if band.get_label() == "noise ceiling" and top - low > _FEWEST * (high - low) > 0:
            band.set_label(f"noise ceiling,\ncut off: up to {top:.2g}")
            ax.set_ylim(low - 0.08 * (high - low), high + 0.35 * (high - low))


def plot_layer_time(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | None = None,
    clusters: pd.DataFrame | None = None,
    alpha: float = 0.05,
    cmap: str = "RdBu_r",
) -> Axes:
    """Draw the mean similarity of each layer at each time as a picture, layers from top to bottom.

    Parameters
    ----------
    scores, ax
        As for `plot_time_course`.
    roi
        The ROI, if there are several.
    clusters
        Result of `time_clusters`: cells outside of significant clusters are paler.
    alpha
        Significance level of clusters (``p_holm``).
    cmap
        Name of a diverging color map of matplotlib.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        As `plot_time_course`, or there are several ROIs and none is chosen.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> from neurordl.plots import plot_layer_time
    >>> rng, ids, times = np.random.default_rng(0), list("abcdef"), np.arange(-5, 15) / 50
    >>> model = nrl.simulate.simulate_subjects(rng.normal(size=(6, 5)), ids, n_subjects=1)
    >>> noise = rng.normal(size=(8, 20, 15))  # of 8 subjects, 20 times and 15 pairs; the model begins at 0 s
    >>> measured = noise + 9 * (times >= 0)[:, None] * model.dissimilarities
    >>> people = nrl.rdms_over_time(measured, times, ids=ids, subjects=[f"s{k}" for k in range(8)])
    >>> scores = nrl.evaluate({"model": model}, people, comparison="corr")
    >>> ax = plot_layer_time(scores)
    """
    means, rois, names = _means(scores, roi, None)
    if len(rois) > 1:
        raise NeurordlError(f"a picture shows one ROI; choose roi= among {listed(rois, most=20)}")
    table = means.pivot(index="layer", columns="time", values="score").reindex(names)
    values, times = table.to_numpy(float), table.columns.to_numpy(float)
    ax = style.new_axes(7.0, min(max(2.2, 1.1 + 0.26 * len(names)), 11.0)) if ax is None else ax
    edges, rows = _edges(times), np.arange(len(names) + 1) - 0.5
    picture = _picture(ax, edges, rows, values, cmap)
    if clusters is not None:
        veil = np.tile(to_rgba("white", 0.65), (*values.shape, 1))
        for row in _significant(_of_layers(clusters, scores, False), alpha).to_dict("records"):
            if row["layer"] in names and row["roi"] == rois[0]:
                inside = (times >= row["start"]) & (times <= row["stop"])
                veil[names.index(row["layer"]), inside, 3] = 0
        ax.pcolormesh(edges, rows, veil)
    ax.invert_yaxis()
    ax.set_yticks(range(len(names)), [name or "output" for name in names])
    ax.set_xlabel("time (s)" if clusters is None else f"time (s); pale: no cluster with p < {alpha:g}")
    _color_bar(ax, picture, _quantity(scores, means, "\n"))
    return ax


def plot_model_time(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    roi: str | None = None,
    clusters: pd.DataFrame | None = None,
    alpha: float = 0.05,
    cmap: str = "RdBu_r",
) -> Axes:
    """Draw the mean similarity of a model at each of its times with the data at each of theirs.

    Parameters
    ----------
    scores, ax
        As for `plot_time_course`; the models that were evaluated are over time, too.
    layer, roi
        The model and the ROI, if there are several.
    clusters
        Result of `time_clusters`: significant clusters get an outline.
    alpha
        Significance level of clusters (``p_holm``).
    cmap
        Name of a diverging color map of matplotlib.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        The models are not over time, or there are several models or ROIs and none is chosen.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> from neurordl.plots import plot_model_time
    >>> rng, ids = np.random.default_rng(0), list("abcdef")
    >>> steps = rng.normal(size=(1, 4, 15))  # RDMs of four steps of a model
    >>> model = nrl.rdms_over_time(steps, [0.0, 0.1, 0.2, 0.3], ids=ids, subjects="model")
    >>> measured = rng.normal(size=(8, 4, 15)) + steps  # the same steps in 8 subjects, with noise
    >>> names = [f"s{k}" for k in range(8)]
    >>> people = nrl.rdms_over_time(measured, np.arange(4) / 20, ids=ids, subjects=names)
    >>> scores = nrl.evaluate({"model": model}, people, comparison="corr")
    >>> ax = plot_model_time(scores, clusters=nrl.time_clusters(scores))
    """
    frame = scores.to_frame() if isinstance(scores, Evaluation) else scores
    columns = ("layer", "roi", "model_time", "time", "subject", "score")
    remedy = "evaluate models and RDMs that both have the RDM descriptor 'time'"
    check_columns("the table of scores", frame, columns, remedy)
    means = frame[frame["subject"] == "mean"].fillna({"roi": "", "layer": ""})
    shown = {}
    for name, wanted in (("layer", layer), ("roi", roi)):
        known = list(dict.fromkeys(means[name].astype(str)))
        if wanted is None and len(known) > 1:
            raise NeurordlError(f"a picture shows one {name}; choose {name}= among {listed(known, most=20)}")
        shown[name] = known[0] if wanted is None else check_choice(name, wanted, known)
        means = means[means[name].astype(str) == shown[name]]
    table = means.pivot(index="model_time", columns="time", values="score")
    if min(table.shape) < 2:
        counts = f"{counted(table.shape[0], 'model time')} and {counted(table.shape[1], 'time')}"
        raise NeurordlError(f"the table has {counts}; a picture needs two of each")
    ax = style.new_axes(5.0, 4.0) if ax is None else ax
    x, y = _edges(table.columns.to_numpy(float)), _edges(table.index.to_numpy(float))
    picture = _picture(ax, x, y, table.to_numpy(float), cmap)
    lines = 0
    if clusters is not None:
        check_columns("clusters=", clusters, ("inside",), "give time_clusters(...) of these scores")
        for row in _significant(_of_layers(clusters, scores, False), alpha).to_dict("records"):
            if row["layer"] == shown["layer"] and row["roi"] == shown["roi"]:
                ax.add_collection(_outline(row["inside"], x, y))
                lines += 1
    for draw, edges in ((ax.axvline, x), (ax.axhline, y)):
        if edges[0] < 0 < edges[-1]:
            draw(0, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_xlabel(f"time (s); outlined: clusters, p < {alpha:g}" if lines else "time (s)")
    ax.set_ylabel(f"time of {shown['layer'] or 'the model'} (s)")
    _color_bar(ax, picture, _quantity(scores, means, "\n"))
    style.wrap_labels(ax)
    return ax


def _edges(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where the cells of times begin and end: in the middle between them."""
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[1.5 * times[0] - 0.5 * times[1]], middles, [1.5 * times[-1] - 0.5 * times[-2]]])


def _picture(ax: Axes, x: Any, y: Any, values: npt.NDArray[np.float64], cmap: str) -> QuadMesh:
    """Cells in colors that are symmetric around 0; those without a value are gray."""
    largest = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    colors = colormaps[cmap].with_extremes(bad="0.9")
    return ax.pcolormesh(x, y, values, cmap=colors, vmin=-largest, vmax=largest)


def _quantity(scores: Evaluation | pd.DataFrame, means: pd.DataFrame, separator: str) -> str:
    """What scores are: similarities of RDMs, or of a regression weights or shares of variance."""
    comparison = ", ".join(means["comparison"].dropna().unique()) if "comparison" in means else ""
    if isinstance(scores, Evaluation) and "models" in scores.settings:
        return comparison
    return f"RDM similarity{separator}({comparison})" if comparison else "RDM similarity"


def _color_bar(ax: Axes, picture: QuadMesh, quantity: str) -> None:
    bar = style.bar_beside(ax, picture)
    bar.set_label(quantity)
    ax.spines[:].set_visible(False)


def _outline(inside: Any, x: Any, y: Any) -> LineCollection:
    """Lines around cells, (model times, times): along each side beyond which a cell is not inside."""
    padded = np.pad(np.asarray(inside, dtype=bool), 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = [[(x[k], y[j]), (x[k + 1], y[j])] for j, k in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = [[(x[k], y[j]), (x[k], y[j + 1])] for j, k in zip(rows, columns, strict=True)]
    lines = LineCollection(level + upright, colors="black", linewidths=style.scaled(1.2), capstyle="round")
    lines.set_clip_on(False)  # half of a line at the border would be cut off
    return lines


def _means(
    scores: Evaluation | pd.DataFrame, roi: str | Sequence[str] | None, layers: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The means over subjects of some ROIs and layers, and the names of these."""
    frame = scores.to_frame() if isinstance(scores, Evaluation) else scores
    columns = (
        "layer",
        "roi",
        "time",
        "subject",
        "score",
        "ci_low",
        "ci_high",
        "ceiling_lower",
        "ceiling_upper",
    )
    remedy = "evaluate RDMs with the RDM descriptor 'time'"
    if time_axes(frame) == ["model_time"]:
        frame = frame.rename(columns={"model_time": "time"})
    check_columns("the table of scores", frame, columns, remedy)
    if "model_time" in frame:
        raise NeurordlError("the scores are over model times and times; draw them with plots.plot_model_time")
    means = frame[frame["subject"] == "mean"]
    means = means.fillna({"roi": "", "layer": ""}).astype({"roi": str, "layer": str})
    if means["time"].nunique() < 2:
        raise NeurordlError(f"the table has {means['time'].nunique()} times with means; a course needs two")
    known = list(dict.fromkeys(means["roi"])), list(dict.fromkeys(means["layer"]))
    chosen = []
    for name, wanted, available in zip(("roi", "layers"), (roi, layers), known, strict=True):
        each = available if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
        chosen.append([check_choice(name, value, available) for value in each])
    return means[means["roi"].isin(chosen[0]) & means["layer"].isin(chosen[1])], chosen[0], chosen[1]


def _significant(clusters: pd.DataFrame, alpha: float) -> pd.DataFrame:
    check_columns(
        "clusters=", clusters, ("layer", "roi", "start", "stop", "p_holm"), "give time_clusters(...)"
    )
    return clusters[clusters["p_holm"] < alpha]


def _of_layers(
    clusters: pd.DataFrame, scores: Evaluation | pd.DataFrame, differences: bool = True
) -> pd.DataFrame:
    """Clusters, checked to be those of layers of the scores, or of differences of these."""
    check_columns("clusters=", clusters, ("layer",), "give time_clusters(...)")
    frame = scores.frame if isinstance(scores, Evaluation) else scores
    known = set(frame["layer"].fillna(""))
    names = dict.fromkeys(clusters["layer"].fillna(""))
    parts = {name: name.split(MINUS) if differences and name not in known else [name] for name in names}
    if foreign := [name for name in names if not known.issuperset(parts[name])]:
        problem = f"clusters= are of {listed(foreign)}, and the scores of {listed(sorted(known))}"
        remedy = "" if differences else "; differences are drawn by plot_time_course"
        raise NeurordlError(f"{problem}: give time_clusters(...) of these scores{remedy}")
    return clusters


def _draw_clusters(
    ax: Axes,
    clusters: pd.DataFrame,
    series: Sequence[tuple[str, str]],
    colors: Sequence[str],
    alpha: float,
) -> int:
    """Draw a row of bars below the data for each course that has a significant cluster; how many rows."""
    table = _significant(clusters, alpha)
    several = len({roi for _, roi in series}) > 1
    pairs = dict.fromkeys(zip(table["layer"], table["roi"], strict=True))
    differences = [
        pair
        for pair in pairs
        if pair not in series and {(part, pair[1]) for part in pair[0].split(MINUS)} <= set(series)
    ]
    series, colors = [*series, *differences], [*colors, *["black"] * len(differences)]
    rows = [pair for pair in series if ((table["layer"] == pair[0]) & (table["roi"] == pair[1])).any()]
    low, high = ax.get_ylim()
    share = _ROW * (len(rows) + 1)
    ax.set_ylim(high - (high - low) / (1 - share), high)  # room below, which no tick is in
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])
    place = blended_transform_factory(ax.transData, ax.transAxes)
    for k, pair in enumerate(rows):
        height = share - _ROW * (k + 1)
        for row in table[(table["layer"] == pair[0]) & (table["roi"] == pair[1])].to_dict("records"):
            color = colors[series.index(pair)]
            extent = [row["start"], row["stop"]]
            (bar,) = ax.plot(
                extent, [height] * 2, color=color, lw=style.scaled(3), transform=place, solid_capstyle="butt"
            )
        if pair in differences:
            bar.set_label(", ".join(pair) if several else pair[0])
    return len(rows)


def _draw_onsets(
    ax: Axes, onsets: pd.DataFrame | None, series: Sequence[tuple[str, str]], colors: Sequence[str]
) -> None:
    """Draw onsets on the time axis, with their intervals."""
    if onsets is None:
        return
    check_columns(
        "onsets=", onsets, ("layer", "roi", "onset", "onset_low", "onset_high"), "give latencies(...)"
    )
    place = blended_transform_factory(ax.transData, ax.transAxes)
    for row in onsets[onsets["onset"].notna()].to_dict("records"):
        if (row["layer"], row["roi"]) in series:
            color = colors[series.index((row["layer"], row["roi"]))]
            size = style.scaled(7)
            ax.plot(row["onset"], 0, "^", color=color, ms=size, transform=place, clip_on=False, zorder=5)
            extent = [row["onset_low"], row["onset_high"]]
            ax.plot(
                extent, [0, 0], color=color, lw=style.scaled(2.5), transform=place, clip_on=False, zorder=4
            )


def _title(means: pd.DataFrame, n_rows: int, onsets: bool, alpha: float) -> str:
    """What the courses were measured on, and what bars and triangles mean."""
    subjects = style.extent(means["n_subjects"].dropna()) if "n_subjects" in means else ""
    lines = [f"{subjects} subjects"] if subjects else []
    if means["ci_low"].notna().any():
        lines.append("bands: 95 % CI")
    lines += [f"bars: clusters, p < {alpha:g}"] if n_rows else []
    lines += ["triangles: onsets, 95 % CI"] if onsets else []
    return "\n".join(lines)
