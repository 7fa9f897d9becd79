"""Scores of layers: with the noise ceiling, one by one, or as a matrix of layers and ROIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.plots import style
from neurordl.rsa.scores import Evaluation, time_axes
from neurordl.validate import check_choice, check_columns, listed

# For each row: the number of the ROI, the place of the better layer, and the places of those below it.
Rows = list[tuple[int, int, list[int]]]

_NARROW = 6  # points for a mark; ceilings behind each mark would be slivers
_SAME = 1e-9  # a difference of noise ceilings that is only rounding
_COUNTS = {"n_stimuli": ("stimulus", "stimuli"), "n_subjects": ("subject", "subjects")}
_OPTIONAL = ("ci_low", "ci_high", "ceiling_lower", "ceiling_upper", "p", "p_fdr", *_COUNTS)
_OPTIONAL += ("generalizes_to", "comparison", "fitted", "family")
_CORRECTIONS = {"p": "uncorrected", "p_fdr": "FDR-corrected", "p_holm": "Holm-corrected"}


@dataclass(frozen=True)
class _Table:
    """Means over subjects, scores of subjects, ROIs and layers in order, and the column of p values."""

    means: pd.DataFrame
    subjects: pd.DataFrame
    rois: list[str]
    layers: list[str]
    p: str
    groups: int = 0

    @classmethod
    def of(cls, scores: Evaluation | pd.DataFrame, roi: str | Sequence[str] | None, p: str | None) -> _Table:
        """Read the scores of these ROIs, or of all; optional columns that are missing become NaN.

        By default p values are corrected (``p_fdr``) if the table has such a column.
        """
        frame = scores.to_frame() if isinstance(scores, Evaluation) else scores
        required = ["layer", "roi", "subject", "score", *([] if p in (None, "p") else [str(p)])]
        check_columns("the table of scores", frame, required)
        if not len(frame):
            raise NeurordlError("the table of scores is empty; there is nothing to draw")
        frame = _named(frame, "roi", "layer", "subject")
        frame = frame.assign(**{name: np.nan for name in _OPTIONAL if name not in frame})
        known = list(dict.fromkeys(frame["roi"]))
        if roi is not None and known == [""]:
            raise NeurordlError(f"roi={roi!r}: the scores have no ROIs; leave roi= out")
        rois = known if roi is None else [roi] if isinstance(roi, str) else list(roi)
        for name in rois:
            check_choice("roi", name, known)
        # the subjects' mean RDM, "group", is on another scale
        frame = frame[frame["roi"].isin(rois) & (frame["subject"] != "group")]
        is_mean = frame["subject"] == "mean"
        means, subjects = frame[is_mean], frame[~is_mean]
        p = p or ("p_fdr" if means["p_fdr"].notna().any() else "p")
        for layer in means["layer"][means.duplicated(["roi", "layer"])]:
            remedy = "choose one comparison and one set of pairs"
            drawn = {1: "plot_time_course", 2: "plots.plot_model_time"}.get(len(time_axes(means)))
            remedy = f"draw it with {drawn}" if drawn else remedy
            raise NeurordlError(f"layer {layer!r} has several means in one ROI; {remedy}")
        groups = scores.settings.get("groups") if isinstance(scores, Evaluation) else None
        return cls(means, subjects, rois, list(dict.fromkeys(frame["layer"])), p, len(set(groups or ())))

    @property
    def names(self) -> list[str]:
        """Names of the layers; the whole network's output has none."""
        return [layer or "output" for layer in self.layers]

    def places(self, k: int) -> tuple[float, Floats]:
        """The step between ROIs of a layer, and the places of ROI ``k`` along the axis of layers."""
        n_rois = len(self.rois)
        step = 1.0 if n_rois == 1 else 0.8 / n_rois
        return step, np.arange(len(self.layers), dtype=float) + step * (k - (n_rois - 1) / 2)

    @property
    def comparison(self) -> str:
        """The comparison of RDMs, or several of them."""
        return ", ".join(pd.concat([self.means, self.subjects])["comparison"].dropna().unique())

    @property
    def bounded(self) -> bool:
        """Whether similarities lie between -1 and 1, as far as is known of their comparisons."""
        measures = [COMPARISONS.get(name) for name in self.comparison.split(", ")]
        return all(measure is not None and measure.kernel is not None for measure in measures)

    def mean(self, column: str) -> Floats:
        """Values of a column for the means over subjects, (layers, ROIs); NaN where there is none."""
        table = self.means.pivot(index="layer", columns="roi", values=column)
        return table.reindex(index=self.layers, columns=self.rois).to_numpy(float)

    def undecided(self, alpha: float) -> Bools:
        """Which means are not significantly above zero, (layers, ROIs)."""
        return (self.mean(self.p) >= alpha) & np.isfinite(self.mean("score"))

    def test(self, alpha: float) -> str:
        """What the test of the means against zero found, for a legend."""
        some = bool(self.undecided(alpha).any())
        result = "not significantly above zero" if some else "all significantly above zero"
        criterion = f"one-sided p {'≥' if some else '<'} {alpha:g}"
        return f"{result}\n{_test(self.means, self.p, criterion)}"

    def sample(self, dots: bool = False) -> list[str]:
        """What the means were measured on, stimuli and subjects (drawn as dots?), and their intervals."""
        counts = []
        for name, (single, several) in _COUNTS.items():
            count = style.extent(self.means[name].dropna())
            within = f" in {self.groups} groups" if name == "n_stimuli" and self.groups else ""
            counts += [f"{count} {single if count == '1' else several}{within}"] if count else []
        counts[-1:] = [f"{counts[-1]} (dots)"] if counts and dots and len(self.subjects) else counts[-1:]
        lines = [", ".join(counts)] if counts else []
        over = [str(name) for name in self.means["generalizes_to"].dropna().unique() if name]
        if over and self.means["ci_low"].notna().any():
            lines.append(f"95 % CI over {' or '.join(over)}")
        return lines


def _named(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A copy with text in these columns: a CSV brings empty text back as NaN, and "0" as a number."""
    return frame.fillna(dict.fromkeys(columns, "")).astype(dict.fromkeys(columns, str))


def _test(table: pd.DataFrame, p: str, criterion: str) -> str:
    """What was tested, and the family of a correction, for a legend."""
    families = table.get("family", pd.Series(dtype=object)).dropna().unique().tolist()
    over = " or ".join(filter(None, families)) if p in ("p_fdr", "p_holm") else ""
    correction = f"{_CORRECTIONS.get(p, p)}{' over' if over else ''}"
    return "\n".join(filter(None, [f"({criterion},", correction, over])) + ")"


def plot_scores(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    differences: pd.DataFrame | bool = False,
    p: str | None = None,
    p_differences: str = "p_fdr",
    alpha: float = 0.05,
    legend: bool = True,
) -> Axes:
    """Draw the similarity of layers with the data: means with intervals, subjects, and the noise ceiling.

    The noise ceiling is a band; equal ones of all ROIs are a single gray band. Dots are subjects, and crosses
    those on whose RDMs the run was trained. The marker of a mean is open if the mean is not significantly
    above zero. With ``differences``, each layer that is significantly better than others has a line above the
    data: a dot marks this layer, and ticks mark the layers than which it is better.

    Parameters
    ----------
    scores
        Result of `evaluate`, or its table.
    ax
        Axes to draw on; by default a new one.
    roi
        ROIs to show. By default all are shown. Each has a color, also for its noise ceiling.
    differences
        True shows which layers differ, according to ``scores.differences``. It can also be a table with a row
        for each ROI and pair of layers and the columns ``roi``, ``layer_a``, ``layer_b``, ``difference`` (a
        minus b) and the column that ``p_differences`` names.
    p
        Column of the scores with the p values against zero (one-sided). By default it is ``p_fdr``, or ``p``
        if the table has no column ``p_fdr``.
    p_differences
        Column of the differences with the p values.
    alpha
        Significance level.
    legend
        Draw the legend: beside the data, or below where the figure is narrow, such as a column of a journal.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        A ROI is unknown, a column is missing, or a layer of the differences has no score.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(12)]
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> scores = nrl.evaluate({"first": people.subset("subject", "s01")}, people)
    >>> nrl.plot_scores(scores).get_ylabel()
    'RDM similarity (rho-a)'
    """
    table = _Table.of(scores, roi, p)
    if differences is True:
        if not isinstance(scores, Evaluation):
            raise NeurordlError("differences=True needs an Evaluation; else pass a table of differences")
        differences = scores.differences
    compared = pd.DataFrame() if differences is False else differences
    rows = [] if differences is False else _significant_rows(compared, table, p_differences, alpha)
    rows_inches = style.scaled(0.085) * _n_slots(rows)
    new = ax is None
    if ax is None:
        most = min(max(style.WIDEST, 0.07 * len(table.layers)), 14.0)
        level = (
            0.085 * len(table.layers) * (max(map(len, table.names)) + 1.5)
        )  # room for names that are level
        width = max(0.35 * len(table.layers) * len(table.rois) ** 0.5, level if level < 6 else 0, 2.6)
        ax = style.new_axes(min(0.8 + width, most), 3.4 + rows_inches)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    _draw_ceilings(ax, table)
    for k in range(len(table.rois)):
        _draw_roi(ax, table, k, table.undecided(alpha)[:, k])
    ax.set_xlim(-0.6, len(table.layers) - 0.4)
    below = style.names_along_x(ax, table.names)
    if new and isinstance(ax.figure, Figure):
        ax.figure.set_figheight(ax.figure.get_figheight() + below)
    regressed = isinstance(scores, Evaluation) and "models" in scores.settings  # weights or shares
    similarity = f"RDM similarity ({table.comparison})" if table.comparison else "RDM similarity"
    ax.set_ylabel(table.comparison if regressed else similarity)
    if table.bounded:
        drawn = pd.concat([table.means, table.subjects])["score"]
        style.end_at_bounds(ax, "y", drawn, -1, 1)
    if rows:
        _draw_rows(ax, rows, min(rows_inches / style.inches(ax)[1], 0.5 if new else 0.4))
    handles, labels = map(list, ax.get_legend_handles_labels())
    if _trained(table.subjects).any():
        handles.append(_gray_mark(style.CROSS, 4))
        labels.append("training subjects")
    if np.isfinite(table.mean(table.p)).any():
        handles.append(_gray_mark("o", 6, "white" if table.undecided(alpha).any() else "0.3"))
        labels.append(table.test(alpha))
    if rows:
        handles.append((_gray_mark("o", 4), _gray_mark("|", 6)))
        tested = _test(compared, p_differences, f"two-sided p < {alpha:g}")
        labels.append(f"layer (dot) better than\nother layers (ticks)\n{tested}")
    title, pairs = "\n".join(table.sample(dots=True)) or None, {tuple: HandlerTuple(ndivide=None)}
    style.legend(ax, title, legend, grow=new, handles=handles, labels=labels, handler_map=pairs)
    style.settle(ax)
    style.names_along_x(ax, table.names)  # beside the legend there may be less room
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def _trained(subjects: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which scores are of subjects on whose RDMs the run was trained."""
    return subjects["fitted"].astype(str).str.endswith("subjects: yes").to_numpy(bool)


def _gray_mark(marker: str, size: float, face: str = "0.3") -> Line2D:
    """A mark for the legend."""
    return Line2D([], [], marker=marker, mfc=face, ms=style.scaled(size), color="0.3", ls="")


def _draw_roi(ax: Axes, table: _Table, k: int, hollow: Bools) -> None:
    """Draw the scores of ROI ``k``, with open marks where ``hollow``."""
    name, n_layers = table.rois[k], len(table.layers)
    score, low, high = (table.mean(column)[:, k] for column in ("score", "ci_low", "ci_high"))
    step, places = table.places(k)
    room = 72 * style.inches(ax)[0] / n_layers * step  # points
    dots = table.subjects[table.subjects["roi"] == name]
    by_layer = dots.groupby("layer", sort=False)
    rank, count = by_layer.cumcount().to_numpy(), by_layer["score"].transform("size").to_numpy()
    spread = min(0.1, 0.25 * step) * (2 * rank / np.maximum(count - 1, 1) - (count > 1))
    x = places[[table.layers.index(layer) for layer in dots["layer"]]] + spread
    color = style.color_of(k)
    for trained in (False, True):  # all in one call, since many artists are slow
        drawn = _trained(dots) == trained
        if drawn.any():
            style.dots(ax, k, x[drawn], dots["score"].to_numpy(float)[drawn], crossed=trained)
    reach = np.abs(np.stack([low, high]) - score)
    size = float(np.clip(0.4 * room, 3, style.scaled(7)))
    label = f"{name} mean".strip() + (", 95 % CI" if np.isfinite(reach).any() else "")
    style.mark(ax, k, places, score, label, size, yerr=np.nan_to_num(reach))
    for place in places[np.isnan(score)]:
        ax.text(place, 0, " undefined", ha="center", va="bottom", size="xx-small", color=color, rotation=90)
    if hollow.any():
        marker = style.marker_of(k)
        ax.plot(places[hollow], score[hollow], marker, zorder=4, mfc="white", mec=color, ms=size)


def _draw_ceilings(ax: Axes, table: _Table) -> None:
    """Draw the noise ceilings: a single gray band where all ROIs have the same, else one for each ROI.

    ROIs with equal ceilings have one color and one name in the legend. Bands are behind whole layers, or
    behind each mark where there is room.
    """
    bounds = np.stack([table.mean(name) for name in ("ceiling_lower", "ceiling_upper")])
    groups: list[list[int]] = []
    for k in range(len(table.rois)):
        same = (group for group in groups if _close(bounds[:, :, group[0]], bounds[:, :, k]))
        group = next(same, None)
        if group is not None:
            group.append(k)
        elif np.isfinite(bounds[:, :, k]).any():
            groups.append([k])
    n_layers, step = len(table.layers), table.places(0)[0]
    gray = len(groups) == 1
    joined = gray or 72 * style.inches(ax)[0] / n_layers * step < _NARROW
    half = 0.5 if joined else 0.46 * step
    for group in groups:
        color, opacity = (style.CEILING, None) if gray else (style.color_of(group[0]), 0.22)
        names = [table.rois[k] for k in group] if not gray or len(table.rois) == 1 else []
        between = "\n" if len(names) > 1 else " "
        label = between.join(filter(None, [listed(names, most=2, separator="; "), "noise ceiling"]))
        for k in group[:1] if joined else group:
            centers = np.arange(n_layers) if joined else table.places(k)[1]
            edges = np.stack([centers - half, centers + half, centers + half], axis=1).ravel()
            lower, upper = np.repeat(bounds[:, :, k], 3, axis=1)
            if not joined:
                lower[2::3] = np.nan  # separates the bands
            label = label if k == group[0] else ""
            ax.fill_between(edges, lower, upper, color=color, alpha=opacity, lw=0, zorder=0, label=label)


def _close(a: Floats, b: Floats) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=_SAME, equal_nan=True))


def _significant_rows(differences: pd.DataFrame, table: _Table, p: str, alpha: float) -> Rows:
    """The rows to draw, by ROI and place of the better layer."""
    columns = ["roi", "layer_a", "layer_b", "difference", p]
    check_columns("the table of differences", differences, columns)
    frame = _named(differences, "roi", "layer_a", "layer_b")
    frame = frame[frame["roi"].isin(table.rois)]
    if unknown := {*frame["layer_a"], *frame["layer_b"]} - {*table.layers}:
        raise NeurordlError(f"the differences name layer {min(unknown)!r}, which has no score in the table")
    rows: dict[tuple[int, int], list[int]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    for roi, a, b, difference, p_value in frame[columns].itertuples(index=False):
        pair = (roi, frozenset((a, b)))
        if pair in seen:
            raise NeurordlError(f"the differences hold {a!r} and {b!r} twice for ROI {roi!r}; drop one")
        seen.add(pair)
        if p_value < alpha and abs(difference) > 0:  # not where either is NaN
            better, worse = (a, b) if difference > 0 else (b, a)
            key = (table.rois.index(roi), table.layers.index(better))
            rows.setdefault(key, []).append(table.layers.index(worse))
    return [(k, better, sorted(worse)) for (k, better), worse in sorted(rows.items())]


def _n_slots(rows: Rows) -> float:
    """The height of rows in rows: there is a free one below each ROI, and some room above."""
    return len(rows) + len({k for k, _, _ in rows}) + 0.25 if rows else 0


def _draw_rows(ax: Axes, rows: Rows, share: float) -> None:
    """Draw rows in the upper ``share`` of the Axes, for which the data make room; the y axis ends below."""
    low, high = ax.get_ylim()
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
    ax.set_ylim(low, low + (high - low) / (1 - share))
    ax.set_yticks(ticks)
    ax.spines["left"].set_bounds(low, high)
    ax.yaxis.label.set_y((1 - share) / 2)
    across = ax.get_xaxis_transform()
    rois = sorted({k for k, _, _ in rows})
    heights = 1 - share * (np.arange(len(rows)) + 0.75 + [rois.index(k) for k, _, _ in rows]) / _n_slots(rows)
    size = min(style.scaled(4), 0.8 * 72 * share * style.inches(ax)[1] / _n_slots(rows))  # points
    for (k, better, worse), height in zip(rows, heights, strict=True):
        draw = partial(ax.plot, color=style.color_of(k), ms=size, transform=across)
        ends = [min(better, *worse), max(better, *worse)]
        draw(ends, [height] * 2, "-", lw=style.scaled(0.6), alpha=0.6, zorder=2)
        draw(worse, [height] * len(worse), "|", mew=style.scaled(1), zorder=3)
        draw(better, height, "o", mew=0, zorder=3)


def plot_layer_roi(
    scores: Evaluation | pd.DataFrame,
    ax: Axes | None = None,
    *,
    roi: str | Sequence[str] | None = None,
    relative_to: Literal["ceiling_lower", "ceiling_upper"] | None = None,
    p: str | None = None,
    alpha: float = 0.05,
    cmap: str = "RdBu_r",
    legend: bool = True,
) -> Axes:
    """Draw the mean similarity of every layer with every ROI as a colored matrix with numbers.

    Numbers in brackets are not significantly above zero (one-sided). Zero is always white.

    Parameters
    ----------
    scores
        Result of `evaluate`, or its table.
    ax
        Axes to draw on; by default a new one.
    roi
        ROIs to show, in this order; by default all.
    relative_to
        Bound of the noise ceiling by which each mean is divided. If the bound is undefined or not positive,
        the cell is gray.
    p
        Column of the scores with the p values against zero, as in `plot_scores`.
    alpha
        Significance level.
    cmap
        Name of a diverging color map of matplotlib.
    legend
        Write below the matrix what was measured, and what the brackets say.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        A ROI or a bound is unknown, or a column is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(12)]
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> people.rdm_descriptors["roi"] = ["IT"] * 5
    >>> scores = nrl.evaluate({"first": people.subset("subject", "s01")}, people)
    >>> axes = nrl.plot_layer_roi(scores)
    """
    table = _Table.of(scores, roi, p)
    check_choice("relative_to", relative_to, ("ceiling_lower", "ceiling_upper", None))
    values, p_values = table.mean("score"), table.mean(table.p)
    if relative_to is not None:
        bounds = table.mean(relative_to)
        values = np.where(bounds > 0, values / np.where(bounds > 0, bounds, 1), np.nan)
    n_layers, n_rois = values.shape
    if ax is None:
        width = 2.2 + 0.08 * max(map(len, table.names)) + 0.75 * n_rois
        ax = style.new_axes(width, min(max(2.4, 1.1 + 0.24 * n_layers), 11.0))
    _draw_cells(ax, values, p_values >= alpha, cmap)
    room = 0.9 * 72 * style.inches(ax)[1] / n_layers  # points
    size = style.font_points(plt.rcParams["ytick.labelsize"])
    ax.set_yticks(range(n_layers), table.names, fontsize=float(np.clip(room, 4.5, size)))
    style.names_along_x(ax, table.rois)
    as_models = table.means.get("dissimilarity", pd.Series(["as measured"])).eq("as given").all()
    ax.set_ylabel("model" if as_models else "layer")
    lines = ["ROI" if any(table.rois) else "", ax.get_xlabel()]
    lines += table.sample()[: 1 if legend else 0]  # no interval is drawn
    if np.isfinite(p_values).any() and legend:
        marked = "( ): " if table.undecided(alpha).any() else ""
        lines.append(f"{marked}{table.test(alpha)}")
    ax.set_xlabel("\n".join(filter(None, lines)), fontsize="small", color="black")
    bar = style.bar_beside(ax, ax.images[0])
    bar.ax.set_ylim(min(0.0, np.nanmin(values, initial=0)), max(0.0, np.nanmax(values, initial=0)) or 1)
    unit = f"share of {relative_to.replace('ceiling_', '')} ceiling" if relative_to else ""
    note = ", ".join(part for part in (unit, table.comparison) if part)
    bar.set_label(f"RDM similarity\n({note})" if note else "RDM similarity")
    style.wrap_labels(bar.ax)
    return ax


def _draw_cells(ax: Axes, values: Floats, in_brackets: Bools, cmap: str) -> None:
    """Draw the colored cells with their numbers."""
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    colors = colormaps[cmap].with_extremes(bad="0.9")
    picture = ax.imshow(values, cmap=colors, vmin=-(largest or 1), vmax=largest or 1, aspect="auto")
    width, height = style.inches(ax)
    size = min(0.62 * 72 * height / values.shape[0], 72 * width / values.shape[1] / 4)
    dark = picture.to_rgba(values)[..., :3] @ (0.3, 0.59, 0.11) < 0.5
    size = float(np.clip(size, 4, 9))
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
        text = f"({text})" if in_brackets[row, column] and not np.isnan(value) else text
        color = "white" if dark[row, column] else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
