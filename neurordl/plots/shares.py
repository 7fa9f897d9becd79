"""Shares of variance of models: as bars, or as circles that overlap by what models share."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from scipy import ndimage, optimize

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError
from neurordl.plots import style
from neurordl.rsa.scores import Evaluation
from neurordl.validate import check_choice

_GRID = 400  # points along each side by which places for numbers are found
_ALPHA = 0.05
_SHOWN = 0.0005  # shares below are written as 0


def plot_partition(
    shares: Evaluation, ax: Axes | None = None, *, roi: str | None = None, circles: bool = False
) -> Axes:
    """Draw which share of the variance models explain alone and together.

    Bars have 95 % intervals, and dots for subjects; a bar is hollow where p is .05 or more. The band is the
    noise ceiling of the total. Circles have the areas of what each model explains, and overlap by what two of
    them share. The overlap of all three then has no free area: read the numbers. A share below 0 has no area,
    but its number.

    Parameters
    ----------
    shares
        Result of `partition_variance`.
    ax
        Axes to draw on; by default a new one.
    roi
        The ROI to draw, if there are several.
    circles
        Draw circles, of two or three models, instead of bars.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        The evaluation has no shares of variance, or of several times; the ROI is unknown; or circles are to
        show four models.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(16)]
    >>> patterns = np.random.default_rng(0).normal(size=(16, 6))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=6)
    >>> models = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=2, seed=1)
    >>> models.rdm_descriptors = {"name": ["A", "B"]}
    >>> nrl.plot_partition(nrl.partition_variance(models, people)).get_ylabel()
    'share of variance (corr)'
    """
    frame, models = shares.frame, list(shares.settings.get("models", ()))
    if not models or "total" not in shares.settings["layers"]:
        raise NeurordlError("these scores are no shares of variance; draw a result of partition_variance")
    if shares.over_time:
        raise NeurordlError("a picture of shares is of one time; choose it by select_rdms before")
    rois = list(dict.fromkeys(frame["roi"]))
    if roi is None and len(rois) > 1:
        raise NeurordlError(f"a picture of shares is of one ROI; choose roi= among {', '.join(rois)}")
    frame = frame[frame["roi"] == check_choice("roi", rois[0] if roi is None else roi, rois)]
    if circles:
        return _draw_circles(frame, models, ax)
    return _draw_bars(frame, shares.settings["layers"], models, ax)


def _draw_bars(frame: pd.DataFrame, layers: list[str], models: list[str], ax: Axes | None) -> Axes:
    if ax is None:
        ax = style.new_axes(4.4 + 0.42 * len(layers), 3.6)
    means = frame[frame["subject"] == "mean"].set_index("layer").loc[layers]
    score, low, high, p = (means[name].to_numpy(float) for name in ("score", "ci_low", "ci_high", "p"))
    bounds = means.iloc[-1][["ceiling_lower", "ceiling_upper"]].to_numpy(float)
    if np.isfinite(bounds).all():
        half = 0.006 * np.nanmax([*high, *score, *bounds])  # a crossed ceiling is a single value
        edges = bounds + np.array([-half, half]) * (bounds[0] == bounds[1])
        ax.fill_between([len(layers) - 1.45, len(layers) - 0.55], *edges[:, None], color=style.CEILING, lw=0)
    for k, name in enumerate(layers):
        color = style.color_of(k) if k < len(models) else "0.45" if name != "total" else "0.2"
        face = "white" if not p[k] < _ALPHA else color
        ax.bar(k, score[k], 0.7, facecolor=face, edgecolor=color, linewidth=style.scaled(1.2), zorder=2)
        single = frame[(frame["layer"] == name) & (frame["subject"] != "mean")]["score"].to_numpy(float)
        places = k + np.linspace(-0.2, 0.2, len(single))
        ax.plot(places, single, ".", color="0.6", ms=style.scaled(4), zorder=3)
    ax.vlines(range(len(layers)), low, high, color="black", lw=style.scaled(1.2), zorder=4)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    handles: list[Artist] = [Line2D([], [], color="0.6", marker=".", ls="", label="subjects")]
    if np.isfinite(low).any():
        handles.append(Line2D([], [], color="black", label="95 % CI"))
    if np.isfinite(p).any() and (p >= _ALPHA).any():
        handles.append(Patch(facecolor="white", edgecolor="0.2", label=f"p ≥ {_ALPHA:g}, uncorrected"))
    if np.isfinite(bounds).all():
        handles.append(Patch(color=style.CEILING, label="noise ceiling of the total"))
    style.names_along_x(ax, layers)
    ax.set_ylabel(str(means["comparison"].iloc[0]))
    style.legend(ax, handles=handles)
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def _draw_circles(frame: pd.DataFrame, models: list[str], ax: Axes | None) -> Axes:
    n = len(models)
    if n > 3:
        raise NeurordlError("the shares of four models have no picture of circles; take circles=False")
    means = frame[frame["subject"] == "mean"].set_index("layer")
    subsets = [x for size in range(1, n + 1) for x in combinations(range(n), size)]
    together = [" & ".join(models[k] for k in subset) for subset in subsets]
    names = [
        f"{'shared' if len(x) > 1 else 'unique'} {name}" for x, name in zip(subsets, together, strict=True)
    ]
    values = dict(zip(subsets, means.loc[names, "score"].astype(float), strict=True))
    areas = {x: sum(max(v, 0.0) for key, v in values.items() if {*x} <= {*key}) for x in values}
    if not np.isfinite(list(values.values())).all() or min(areas[k,] for k in range(n)) <= 0:
        raise NeurordlError("a model explains nothing, so that it has no circle; take circles=False")
    if ax is None:
        ax = style.new_axes(4.8, 3.4)
    radii = np.sqrt([areas[k,] / np.pi for k in range(n)])
    centers = _centers(radii, {(i, j): areas[i, j] for i, j in combinations(range(n), 2)})
    for k, (center, radius) in enumerate(zip(centers, radii, strict=True)):
        color = style.color_of(k)
        ax.add_patch(Circle(center, radius, facecolor=color, alpha=0.35, lw=0, label=models[k]))
        ax.add_patch(Circle(center, radius, fill=False, edgecolor=color, lw=style.scaled(1.5)))
    low, high = (centers - radii[:, None]).min(0), (centers + radii[:, None]).max(0)
    middle, size = (low + high) / 2, (high - low).max() / 2
    axes = [np.linspace(c - 1.02 * size, c + 1.02 * size, _GRID) for c in middle]
    points = np.stack(np.meshgrid(*axes), axis=-1)
    inside = np.linalg.norm(points[:, :, None] - centers, axis=-1) < radii
    outside = []
    for subset, value in values.items():
        text = f"{0 if abs(value) < _SHOWN else value:.3f}".replace("-", "−")
        region = (inside == np.isin(np.arange(n), subset)).all(axis=-1)
        if (place := _widest(region)) is None or value < 0:
            outside.append(f"{together[subsets.index(subset)]}: {text}")
        else:
            x, y = points[place]
            ax.text(x, y, text, ha="center", va="center", fontsize="small")
    total = means.loc["total"]
    lines = [*outside, f"total {total['score']:.3f}"]
    if np.isfinite(total["ceiling_upper"]):
        lines[-1] += f", noise ceiling {total['ceiling_upper']:.3f}"
    ax.text(0.5, -0.02, "\n".join(lines), transform=ax.transAxes, ha="center", va="top", fontsize="small")
    ax.set(xlim=middle[0] + np.array([-1.05, 1.05]) * size, ylim=middle[1] + np.array([-1.05, 1.05]) * size)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(str(total["comparison"]), fontsize="medium")
    style.legend(ax)
    return ax


def _centers(radii: Floats, overlaps: dict[tuple[int, int], float]) -> Floats:
    """Places of circles that overlap by these areas, or nearly, if no three circles can."""
    n = len(radii)
    distances = {(i, j): _distance(radii[i], radii[j], area) for (i, j), area in overlaps.items()}
    if n == 2:
        return np.array([[0.0, 0.0], [distances[0, 1], 0.0]])

    def misfit(flat: Floats) -> float:
        points = flat.reshape(n, 2)
        gaps = [np.linalg.norm(points[i] - points[j]) - d for (i, j), d in distances.items()]
        return float(np.square(gaps).sum())

    angles = np.pi / 2 + 2 * np.pi * np.arange(n) / n
    start = radii.mean() * np.stack([-np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(optimize.minimize(misfit, start.ravel()).x.reshape(n, 2))


def _distance(first: float, second: float, area: float) -> float:
    """Distance of two circles that overlap by an area."""
    near, far = abs(first - second), first + second
    if area <= 0:
        return far
    if area >= np.pi * min(first, second) ** 2:
        return near
    return float(optimize.brentq(lambda d: _overlap(first, second, d) - area, near, far))


def _overlap(first: float, second: float, distance: float) -> float:
    """Area that two circles share."""
    if distance <= abs(first - second):
        return float(np.pi * min(first, second) ** 2)
    if distance >= first + second:
        return 0.0
    parts = 0.0
    for a, b in ((first, second), (second, first)):
        height = (distance**2 + a**2 - b**2) / (2 * distance)  # of the chord
        parts += a**2 * np.arccos(np.clip(height / a, -1, 1)) - height * np.sqrt(max(a**2 - height**2, 0))
    return float(parts)


def _widest(region: Bools) -> tuple[int, int] | None:
    """The point of a region that is farthest from its edge; None if it is too narrow for a number."""
    depth = ndimage.distance_transform_edt(region)
    if depth.max() < 0.02 * _GRID:
        return None
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)
