"""What the figures share: colors, marks and sizes, layout, names along an axis, and checks of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import ScaledTranslation

# Okabe and Ito's colors without the yellow, which is invisible on paper; black is the last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CEILING = "0.85"
CROSS = "x"
SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
LETTER = 0.6  # mean width of a letter, in heights of the font
_MARKERS = "osD^vPp"
_LONG = 24  # longer names are shortened below an axis
_NARROWEST = 1.8  # inches that a legend leaves to the Axes; a wider one stands below them
_LOW = 4.5  # inches of a figure that a legend beside it may need
WIDEST = 9.6  # inches of a new figure, as wide as the page of a report, which would make a wider one smaller
_LEAST = 16  # letters in a line of a label
_MANY = 12  # more names than these are shortened beside points


def color_of(k: int) -> str:
    """Color of series ``k``."""
    return COLOURS[k % len(COLOURS)]


def palette(n: int) -> list[str]:
    """Colors of ``n`` series in one figure, all different."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    return [to_hex(colormaps["turbo"](place)) for place in np.linspace(0.04, 0.96, n)]


def marker_of(k: int) -> str:
    """Marker of series ``k``. It changes at another rate than the color, so that pairs of the two differ."""
    return _MARKERS[(k + k // len(COLOURS)) % len(_MARKERS)]


def scaled(points: float) -> float:
    """Size of a mark that suits a font of 10 points, for the font size in ``rcParams``."""
    return points * float(plt.rcParams["font.size"]) / 10


def font_points(size: float | str) -> float:
    """Font size in points, from a size as ``rcParams`` spell it."""
    return float(FontProperties(size=size).get_size_in_points())


def mark(ax: Axes, k: int, x: Any, y: Any, label: str, size: float, **errors: Any) -> None:
    """Draw the marks of series ``k`` with their error bars."""
    errors |= {"capsize": size / 3, "elinewidth": scaled(1.4)}
    ax.errorbar(x, y, fmt=marker_of(k), color=color_of(k), label=label, ms=size, zorder=3, **errors)


def dots(ax: Axes, k: int, x: Any, y: Any, crossed: bool = False) -> None:
    """Draw the single values behind the marks of series ``k``, as dots or as crosses."""
    color = color_of(k)
    marker, size, edge, opacity = (CROSS, 4, 1.1, 0.75) if crossed else (".", 6, 0, 0.5)
    ax.plot(x, y, marker, c=color, alpha=opacity, ms=scaled(size), mew=edge, zorder=2)


def new_axes(width: float, height: float) -> Axes:
    """Axes in a new figure of this size in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes, as far as they are known before it is drawn."""
    box, dpi = ax.get_window_extent(), ax.figure.dpi
    return max(box.width / dpi, 0.1), max(box.height / dpi, 0.1)


def settle(ax: Axes) -> None:
    """Lay the figure out now. The single pass when it is drawn is too few for square Axes and cuts labels."""
    if isinstance(ax.figure, Figure) and (engine := ax.figure.get_layout_engine()):
        for _ in range(4):
            engine.execute(ax.figure)


def end_at_bounds(ax: Axes, axis: str, values: Any, low: float, high: float) -> None:
    """Let an axis end where its quantity does, if all values are within; their intervals may reach beyond."""
    values = np.asarray(values, dtype=float).ravel()
    values = values[np.isfinite(values)]
    limits = np.array(getattr(ax, f"get_{axis}lim")())
    ends = np.clip(limits, low, high)
    if not len(values) or values.min() < low or values.max() > high or (ends == limits).all():
        return
    ax.set(**{f"{axis}lim": ends})
    for line in ax.lines:
        if line.get_marker() not in ("None", "|", "_"):  # marks at the end are drawn whole
            line.set_clip_on(False)


def hide_frame(ax: Axes) -> Axes:
    """Hide the upper and the right side of the frame."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def bar_beside(ax: Axes, picture: ScalarMappable, share: float = 1.0) -> Colorbar:
    """A color bar along the upper ``share`` of an Axes, whatever the shape of the Axes."""
    if ax.figure.get_layout_engine() is None:  # the bar takes its room from the Axes
        bar = ax.figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.03)
    else:
        width = 0.16 / inches(ax)[0]
        beside = ax.inset_axes((1 + width / 2, 1 - share, width, share))
        bar = ax.figure.colorbar(picture, cax=beside)
    bar.outline.set_visible(False)
    return bar


def legend(
    ax: Axes, title: str | None = None, show: bool = True, *, grow: bool = False, **options: Any
) -> None:
    """A legend that never covers the data: beside the Axes, or below its labels where these are narrow.

    None where nothing has a label, or without ``show``. Labels of the x axis are set before. With ``grow``,
    for a new figure, the figure grows by the legend, so that the Axes keep their size.
    """
    if not show or not (ax.get_legend_handles_labels()[1] or "handles" in options):
        return
    options |= {"title": title, "fontsize": "small", "title_fontsize": "small"}
    options |= {"frameon": False, "alignment": "left"}
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
    drawn, figure = ax.legend(**{**beside, **options}), ax.get_figure(root=True)
    assert figure is not None
    extent = drawn.get_window_extent()
    width, height = extent.width / figure.dpi, extent.height / figure.dpi
    before = figure.get_size_inches()
    if grow and before[0] + width <= WIDEST and height <= max(0.9 * before[1], _LOW):
        figure.set_size_inches(before[0] + width, max(before[1], height / 0.9))
        return
    if "loc" in options or (not grow and width < inches(ax)[0] - _NARROWEST):
        return
    drawn.remove()
    settle(ax)
    room, labels = (ax.get_tightbbox() or ax.bbox).width, ax.xaxis.get_tightbbox()
    depth = (ax.get_window_extent().y0 - labels.y0) / figure.dpi if labels is not None else 0
    below = ax.transAxes + ScaledTranslation(0, -depth - 0.06, ax.figure.dpi_scale_trans)
    options |= {"fontsize": "x-small", "title_fontsize": "x-small", "labelspacing": 0.3, "handlelength": 1.5}
    options |= {"loc": "upper right", "bbox_to_anchor": (1, 0), "bbox_transform": below, "borderaxespad": 0}
    for columns in (4, 3, 2, 1):
        extent = ax.legend(**options, ncols=columns).get_window_extent()
        if extent.width <= room:
            break
    if grow:
        figure.set_figheight(before[1] + extent.height / figure.dpi)


def wrap_labels(ax: Axes) -> None:
    """Break the lines of the labels of Axes, once all else is drawn, so that they stay in the figure."""
    settle(ax)
    box, end, dpi = ax.get_window_extent(), ax.figure.bbox.max, ax.figure.dpi
    rooms = [min(a + b, 2 * c - a - b) for (a, b), c in zip(box.get_points().T, end, strict=True)]
    rooms[0] = min(rooms[0], 1.5 * box.width)  # there may be other Axes at the sides
    if ax.xaxis.label.get_horizontalalignment() == "right":  # below the names of the y axis, too
        rooms[0] = box.x1 - (ax.yaxis.get_tightbbox() or box).x0
    for label, room in zip((ax.xaxis.label, ax.yaxis.label), rooms, strict=True):
        size = font_points(label.get_fontsize())
        text = wrapped(label.get_text(), room / dpi, size)
        needed = LETTER * size / 72 * max(map(len, text.split("\n")))
        label.set(text=text, fontsize=size * min(1, max(room / dpi / needed, 0.7)) if text else size)


def wrapped(text: str, room: float, size: float) -> str:
    """Text of a font size with its lines broken to the room, in inches."""
    letters = max(int(72 * room / (LETTER * size)), _LEAST)
    return "\n".join(part for line in text.split("\n") for part in wrap(line, letters) or [""])


def legend_inches(names: Sequence[str]) -> float:
    """Approximate width of a legend of these names."""
    size = font_points("small")
    return 0.5 + LETTER * size * max(map(len, names), default=0) / 72 if any(names) else 0.0


def names_along_x(ax: Axes, names: Sequence[str]) -> float:
    """Names at 0, 1, ... on the x axis: level, slanted or upright, as small as necessary.

    What long names share is left out and written below. Returns the inches that the names need below the axis
    beyond those of level names.
    """
    names, pattern = elided(names)
    ax.set_xticks(range(len(names)), names)
    if pattern:
        ax.set_xlabel(pattern, fontsize="small", color="0.3")
    size = font_points(plt.rcParams["xtick.labelsize"])
    room = 72 * inches(ax)[0] / len(names)  # points
    longest = max(map(len, names))
    if LETTER * size * (longest + 1) < room:
        return 0.0
    if 1.6 * size < room and longest <= _LONG and len(names) <= 20:
        plt.setp(ax.get_xticklabels(), **SLANTED)
        return LETTER * size * longest * 0.71 / 72
    size = min(max(0.95 * room, 4.5), 0.85 * size)
    ax.tick_params(axis="x", rotation=90, labelsize=size)
    return LETTER * size * longest / 72


def elided(names: Sequence[str]) -> tuple[list[str], str]:
    """Names that fit below an axis, and the pattern of what was left out of all of them ("" if nothing was).

    Where a name is long, whole parts between dots that all names share are left out at either end. Names that
    are still long lose their middle, unless two of them would become the same.
    """
    if len(names) < 2 or max(map(len, names)) <= _LONG:
        return list(names), ""
    parts = [name.split(".") for name in names]
    most = min(map(len, parts)) - 1  # each name keeps a part
    start = min(_n_shared(parts), most)
    end = min(_n_shared([part[::-1] for part in parts]), most - start)
    rest = [".".join(part[start : len(part) - end]) for part in parts]
    half = _LONG // 2 - 1
    short = [name if len(name) <= _LONG else f"{name[:half]}…{name[-half:]}" for name in rest]
    rest = short if len(set(short)) == len(set(rest)) else rest
    shared = [*parts[0][:start], "*", *parts[0][len(parts[0]) - end :]]
    return rest, ".".join(shared) if start or end else ""


def shortened(names: Sequence[str]) -> tuple[list[str], str]:
    """Many names without the beginning and the end that all share, and the pattern left out ("" if none)."""
    if len(names) <= _MANY:
        return list(names), ""
    start = names[0][: _n_shared(names)].rstrip("0123456789")
    rest = [name.removeprefix(start)[::-1] for name in names]
    end = rest[0][: _n_shared(rest)][::-1].lstrip("0123456789")
    if not start + end or not all(len(name) > len(end) for name in rest):
        return list(names), ""
    return [name[::-1].removesuffix(end) for name in rest], f"{start}*{end}"


def _n_shared(sequences: Sequence[Sequence[str]]) -> int:
    """Number of the first elements, or letters, that all sequences share."""
    return sum(1 for _ in takewhile(lambda x: len(set(x)) == 1, zip(*sequences, strict=False)))


def extent(counts: Iterable[float]) -> str:
    """The smallest and the largest count, such as "3 to 4", or the only one; empty for no counts."""
    numbers = sorted(map(int, counts))
    return " to ".join(dict.fromkeys(map(str, numbers[:1] + numbers[-1:])))
