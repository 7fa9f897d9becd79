"""What the pictures share: colours, marks, legends, and the tables they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage

from neurordl.errors import NeurordlError
from neurordl.rsa.evaluation import Evaluation

__all__ = [
    "CEILING",
    "COLOURS",
    "LETTER",
    "P_NAMES",
    "bar_beside",
    "colour_of",
    "font_points",
    "inches",
    "legend",
    "legend_inches",
    "mark",
    "marker_of",
    "means_by_layer",
    "named_rows",
    "names_along_x",
    "need",
    "new_axes",
    "plain",
    "sample_of",
    "scaled",
    "score_table",
    "settle",
    "shown_rois",
]

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours without the yellow, which paper swallows; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CEILING = "0.85"
P_NAMES = {"p": "p", "p_fdr": "FDR-corrected p", "p_holm": "Holm-corrected p"}
_MARKERS = "osD^vPp"
_LONG = 24  # letters of a name from which on it is shortened below an axis
LETTER = 0.6  # mean width of a letter, in heights of the font


def colour_of(k: int) -> str:
    """Colour of series k."""
    return COLOURS[k % len(COLOURS)]


def marker_of(k: int) -> str:
    """Marker of series k: turns at another rate than the colour, so that no pair comes twice soon."""
    return _MARKERS[(k + k // len(COLOURS)) % len(_MARKERS)]


def scaled(points: float) -> float:
    """A size of marks chosen for letters of 10 points, for those that ``rcParams`` ask for."""
    return points * float(plt.rcParams["font.size"]) / 10


def mark(ax: Axes, k: int, x: Any, y: Any, label: str, *, size: float = 7, **reach: Any) -> None:
    """The marks of series k, with error bars."""
    style: dict[str, Any] = {"markersize": size, "capsize": size / 3, "elinewidth": scaled(1.4), "zorder": 3}
    ax.errorbar(x, y, fmt=marker_of(k), color=colour_of(k), label=label, **reach, **style)


def new_axes(width: float, height: float) -> Axes:
    """An Axes in a figure of its own, in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes as far as they are known before it is drawn."""
    box, dpi = ax.get_window_extent(), ax.figure.dpi
    return max(box.width / dpi, 0.1), max(box.height / dpi, 0.1)


def settle(ax: Axes) -> None:
    """Lay the figure out now: the pass that drawing makes is too few for square Axes, and cuts labels."""
    if isinstance(ax.figure, Figure) and (engine := ax.figure.get_layout_engine()):
        for _ in range(4):
            engine.execute(ax.figure)


def bar_beside(ax: Axes, picture: AxesImage, share: float = 1.0) -> Colorbar:
    """A colour bar along the upper ``share`` of an Axes, whatever shape the Axes takes."""
    if ax.figure.get_layout_engine() is None:  # nobody will make room for it: the Axes gives some
        bar = ax.figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03)
    else:
        width = 0.16 / inches(ax)[0]
        beside = ax.inset_axes((1 + width / 2, 1 - share, width, share))
        bar = ax.figure.colorbar(picture, cax=beside)
    bar.outline.set_visible(False)
    return bar


def legend(ax: Axes, **options: Any) -> None:
    """A legend beside the data, never over them; none where nothing is named."""
    if ax.get_legend_handles_labels()[1] or "handles" in options:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
        style: dict[str, Any] = {"fontsize": "small", "title_fontsize": "small", "alignment": "left"}
        ax.legend(frameon=False, **style, **place, **options)


def sample_of(means: pd.DataFrame) -> list[str]:
    """What rows of means were measured on: stimuli, subjects; and what their intervals are over."""
    told = []
    for column, one in (("n_stimuli", "stimulus"), ("n_subjects", "subject")):
        if column in means and len(found := means[column].dropna().astype(int).unique()):
            low, high = min(found), max(found)
            many = {"stimulus": "stimuli"}.get(one, f"{one}s")
            told.append(f"{low} {one if high == 1 else many}" if low == high else f"{low} to {high} {many}")
    lines = [", ".join(told)] if told else []
    over = [str(to) for to in means.get("generalises_to", pd.Series(dtype=str)).dropna().unique() if to]
    if over and ("ci_low" not in means or means["ci_low"].notna().any()):
        lines.append(f"95 % CI over {' or '.join(over)}")
    return lines


def legend_inches(names: Sequence[str]) -> float:
    """About the width of a legend of these names."""
    size = font_points("small")
    return 0.5 + LETTER * size * max(map(len, names), default=0) / 72 if any(names) else 0.0


def plain(ax: Axes) -> Axes:
    """Without the frame's upper and right side."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def names_along_x(ax: Axes, names: Sequence[str]) -> float:
    """Names at 0, 1, ... on the x axis: level, slanted or upright, as small as they must be.

    What long names share is left out and written below. Returns the inches that they need below the axis,
    beyond those of level ones.
    """
    names, pattern = elided(names)
    ax.set_xticks(range(len(names)), names)
    if pattern:
        ax.set_xlabel(pattern, fontsize="small", color="0.3")
    size = font_points(plt.rcParams["xtick.labelsize"])
    room = 72 * inches(ax)[0] / len(names)  # points
    longest = max(map(len, names))
    if LETTER * size * longest < room:
        return 0.0
    if 1.6 * size < room and longest <= 24 and len(names) <= 20:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
        return LETTER * size * longest * 0.71 / 72
    size = min(max(0.95 * room, 4.5), 0.85 * size)
    ax.tick_params(axis="x", rotation=90, labelsize=size)
    return LETTER * size * longest / 72


def elided(names: Sequence[str]) -> tuple[list[str], str]:
    """Names that fit below an axis, and what all share, which is left out of long ones ("" if nothing).

    Whole parts between dots are left out at either end; of what is still long, the middle, as long as no two
    names become the same.
    """
    if len(names) < 2 or max(map(len, names)) <= _LONG:
        return list(names), ""
    parts = [name.split(".") for name in names]
    fewest = min(map(len, parts)) - 1  # a part is left to each
    start = next((k for k in range(fewest) if len({part[k] for part in parts}) > 1), fewest)
    fewest -= start
    end = next((k for k in range(fewest) if len({part[-1 - k] for part in parts}) > 1), fewest)
    rest = [".".join(part[start : len(part) - end]) for part in parts]
    half = _LONG // 2 - 1
    short = [name if len(name) <= _LONG else f"{name[:half]}…{name[-half:]}" for name in rest]
    rest = short if len(set(short)) == len(set(rest)) else rest
    shared = [*parts[0][:start], "*", *parts[0][len(parts[0]) - end :]]
    return rest, ".".join(shared) if start or end else ""


def font_points(size: float | str) -> float:
    """A size of letters as ``rcParams`` spell it, in points."""
    return float(FontProperties(size=size).get_size_in_points())


def need(frame: pd.DataFrame, columns: Sequence[str], what: str = "the table") -> None:
    """Refuse a table without these columns; the error lists those it has."""
    if absent := [name for name in columns if name not in frame.columns]:
        known = ", ".join(map(str, frame.columns))
        raise NeurordlError(f"{what} has no column {', '.join(absent)!r}; it has: {known}")


def score_table(scores: Evaluation | pd.DataFrame) -> pd.DataFrame:
    """The table of an evaluation, with the names of layers and ROIs as text."""
    frame = scores.to_frame() if isinstance(scores, Evaluation) else scores
    need(frame, ("layer", "roi", "subject", "score"), "the table of scores")
    if not len(frame):
        raise NeurordlError("the table of scores is empty; there is nothing to draw")
    named = named_rows(frame, "roi", "layer", "subject")
    return named[named["subject"] != "group"]  # the subjects' mean RDM: another scale


def named_rows(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A copy with text in these columns: a CSV brings empty text back as NaN, and "0" as a number."""
    return frame.fillna(dict.fromkeys(columns, "")).astype(dict.fromkeys(columns, str))


def shown_rois(frame: pd.DataFrame, roi: str | Sequence[str] | None) -> list[str]:
    """The ROIs asked for, all by default; one that no score has is an error."""
    known = list(dict.fromkeys(frame["roi"]))
    rois = known if roi is None else [roi] if isinstance(roi, str) else list(roi)
    if unknown := [name for name in rois if name not in known]:
        raise NeurordlError(f"no score has roi {unknown[0]!r}; there are: {', '.join(known)}")
    return rois


def means_by_layer(frame: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    """Rows of the mean over subjects of one ROI, indexed by layer; absent ones and columns are NaN."""
    rows = frame[frame["subject"] == "mean"]
    if (twice := rows["layer"].duplicated()).any():
        raise NeurordlError(
            f"layer {rows['layer'][twice].iloc[0]!r} has several means in one ROI; choose one comparison "
            "and one set of pairs"
        )
    tests = [name for name in rows.columns if name == "p" or name.startswith("p_")]
    columns = ["score", "ci_low", "ci_high", "ceiling_lower", "ceiling_upper", *tests]
    return rows.set_index("layer").reindex(index=list(layers), columns=columns).astype(float)
