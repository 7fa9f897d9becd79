"""Words beside points, set where they hide least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from neurordl.plots.style import LETTER, font_points, settle

__all__ = ["place_labels", "shortened"]

Floats = npt.NDArray[np.float64]
_MANY = 12  # names from which on they are shortened
_SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_ALIGN = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


def shortened(names: Sequence[str]) -> tuple[list[str], str]:
    """Many names without the beginning and the end that all share, and the pattern left out ("" if none)."""
    start = _common(names).rstrip("0123456789")
    rest = [name.removeprefix(start) for name in names]
    end = _common([name[::-1] for name in rest])[::-1].lstrip("0123456789")
    rest = [name.removesuffix(end) for name in rest]
    if len(names) <= _MANY or not all(rest) or not start + end:
        return list(names), ""
    return rest, f"{start}*{end}"


def _common(names: Sequence[str]) -> str:
    """The beginning that all names share."""
    first, last = min(names, default=""), max(names, default="")  # all others lie between these
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in shared)


def place_labels(ax: Axes, texts: Sequence[tuple[str, Floats, str]], points: Floats) -> None:
    """Write (text, place, colour) each on that side, near or farther off, where it hides fewest others."""
    if not texts:
        return
    ax.margins(0.12)
    ax.autoscale_view()
    settle(ax)
    ax.apply_aspect()
    dots = ax.transData.transform(points)
    frame = ax.get_window_extent()
    points_high = 1.2 * font_points("small")
    height = points_high * ax.figure.dpi / 72
    taken: list[Bbox] = []
    for text, place, colour in texts:
        centre = ax.transData.transform(place)
        wide = LETTER * height / 1.2 * len(text)
        best = None
        for reach in (0.55, 1.3, 2.2, 3.2):
            for side in _SIDES:
                box = _box(centre, side, reach * height, wide, height)
                cost = 3.0 * sum(_shared(box, other) for other in taken) / (wide * height)
                cost += 0.8 * np.count_nonzero(_inside(box.padded(0.3 * height), dots)) + 0.15 * reach
                cost += 4.0 * (1 - _shared(box, frame) / (wide * height))
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, side, reach, box)
        assert best is not None
        _, side, reach, box = best
        taken.append(box)
        offset = (points_high * reach * side[0], points_high * reach * side[1])
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6} if reach > 1 else None
        ax.annotate(
            text,
            tuple(place),
            offset,
            textcoords="offset points",
            ha=_ALIGN[side[0]][0],
            va=_ALIGN[side[1]][1],
            fontsize="small",
            color=colour,
            arrowprops=arrow,
        )


def _box(centre: Floats, side: tuple[int, int], reach: float, wide: float, high: float) -> Bbox:
    x = centre[0] + side[0] * reach + (-wide / 2 if side[0] == 0 else -wide if side[0] < 0 else 0)
    y = centre[1] + side[1] * reach + (-high / 2 if side[1] == 0 else -high if side[1] < 0 else 0)
    return Bbox.from_bounds(x, y, wide, high)


def _shared(a: Bbox, b: Bbox) -> float:
    """Area of two boxes' overlap."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(wide * high) if wide > 0 and high > 0 else 0.0


def _inside(box: Bbox, points: Floats) -> npt.NDArray[np.bool_]:
    within = (points > (box.x0, box.y0)) & (points < (box.x1, box.y1))
    return np.asarray(within.all(axis=1))
