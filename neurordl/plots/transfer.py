"""What a teacher's geometry gave a student, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neurordl.errors import NeurordlError
from neurordl.plots.style import CEILING, Floats, colour_of, legend, mark, need, new_axes, plain, scaled
from neurordl.rsa.inference.tests import mean_interval

__all__ = ["plot_paired", "plot_transfer"]

_DOTS: dict[str, Any] = {"marker": ".", "linestyle": "", "alpha": 0.5, "markeredgewidth": 0, "zorder": 2}
_NAMES = {"heldout_rdm_similarity": "RDM similarity, held-out stimuli", "test_accuracy": "test accuracy"}


def plot_transfer(frame: pd.DataFrame, ax: Axes | None = None, *, reference: str | None = None) -> Axes:
    """Test accuracy against held-out similarity: what the geometry gave, and what it cost.

    Parameters
    ----------
    frame
        A row per condition and seed: ``condition, test_accuracy, heldout_rdm_similarity`` and, where there is
        a ceiling, ``ceiling_lower, ceiling_upper``. Small dots are rows, large marks their mean by condition
        with 95 % intervals (t) both ways, the band is the mean noise ceiling.
    reference
        A condition through whose mean dotted lines run: to their right the geometry came nearer, below them
        accuracy was lost.

    Raises
    ------
    NeurordlError
        A column or the reference is absent.
    """
    need(frame, ("condition", "test_accuracy", "heldout_rdm_similarity"))
    ax = ax or new_axes(5.2, 3.8)
    if {"ceiling_lower", "ceiling_upper"} <= set(frame.columns):
        lower, upper = (
            float(frame[name].astype(float).mean()) for name in ("ceiling_lower", "ceiling_upper")
        )
        if np.isfinite([lower, upper]).all():
            ax.axvspan(lower, upper, color=CEILING, linewidth=0, zorder=0, label="noise ceiling")
    conditions = [str(name) for name in dict.fromkeys(frame["condition"])]
    if reference is not None:
        _check_reference(reference, conditions)
    counts = frame.groupby(frame["condition"].astype(str)).size()
    what = "seeds" if "seed" in frame and not frame.duplicated(["condition", "seed"]).any() else "runs"
    many = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    for k, condition in enumerate(conditions):
        part = frame[frame["condition"].astype(str) == condition]
        x = part["heldout_rdm_similarity"].to_numpy(dtype=float)
        y = part["test_accuracy"].to_numpy(dtype=float)
        ax.plot(x, y, color=colour_of(k), **_DOTS, markersize=scaled(7))
        (across, along), (up, along_y) = _mean_reach(x), _mean_reach(y)
        mark(ax, k, across, up, condition, size=scaled(6), xerr=along, yerr=along_y)
        if condition == reference:
            lines: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1, "zorder": 1}
            ax.axvline(across, **lines)
            ax.axhline(up, **lines)
    ax.set_xlabel(_NAMES["heldout_rdm_similarity"])
    ax.set_ylabel(_NAMES["test_accuracy"])
    legend(ax, title=f"mean, 95 % CI (t)\nover {many} {what}")
    return plain(ax)


def plot_paired(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "heldout_rdm_similarity",
    reference: str = "labels",
    pair: Sequence[str] = ("seed",),
) -> Axes:
    """Differences of each condition from a reference, paired, with their means and 95 % intervals (t).

    Parameters
    ----------
    frame
        A row per condition and pair: ``condition``, the columns of ``pair`` and ``value``.
    value
        The column compared.
    reference
        The condition subtracted from each other one.
    pair
        Columns that say which rows belong together, such as seed and fold.

    Raises
    ------
    NeurordlError
        A column or the reference is absent, a pair occurs twice, or none is complete.
    """
    need(frame, ("condition", value, *pair))
    conditions = [str(name) for name in dict.fromkeys(frame["condition"])]
    _check_reference(reference, conditions)
    if frame.duplicated(["condition", *pair]).any():
        raise NeurordlError(
            f"some rows share condition, {', '.join(pair)}; name in pair= what else tells them apart"
        )
    table = frame.pivot(index=list(pair), columns="condition", values=value).astype(float)
    others = [name for name in conditions if name != reference]
    ax = ax or new_axes(5.2, 1.2 + 0.5 * len(others))
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    counts = set[int]()
    for place, name in enumerate(others):
        differences = (table[name] - table[reference]).dropna().to_numpy()
        if not len(differences):
            raise NeurordlError(
                f"{name!r} and {reference!r} have no pair in common; check the columns in pair="
            )
        counts.add(len(differences))
        k = conditions.index(name)
        spread = place + np.linspace(0.12, 0.28, len(differences))
        ax.plot(
            differences, spread, ".", color=colour_of(k), alpha=0.5, markersize=scaled(5), mew=0, zorder=2
        )
        mean, reach = _mean_reach(differences)
        mark(ax, k, mean, place, name, size=scaled(6), xerr=reach)
    many = " to ".join(map(str, sorted({min(counts, default=0), max(counts, default=0)})))
    ax.set_yticks(range(len(others)), others)
    ax.set_ylim(len(others) - 0.4, -0.6)
    over = f"mean, 95 % CI (t) over {many} pairs ({', '.join(pair)})"
    ax.set_xlabel(f"{_NAMES.get(value, value)}: difference from {reference}\n{over}")
    return plain(ax)


def _check_reference(reference: str, conditions: Sequence[str]) -> None:
    if reference not in conditions:
        raise NeurordlError(f"no condition is called {reference!r}; there are: {', '.join(conditions)}")


def _mean_reach(values: Floats) -> tuple[float, float]:
    """Mean of the defined values and half the width of its 95 % t interval (0 for a single value)."""
    mean, _, high, _, _ = mean_interval(values)
    return mean, float(np.nan_to_num(high - mean))
