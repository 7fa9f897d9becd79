"""Losses by epoch, and the effect of a teacher's geometry on the accuracy of a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import MaxNLocator

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.experiments import subtract_reference
from neurordl.measures.comparisons import COMPARISONS
from neurordl.plots import style
from neurordl.rsa.inference.infer import mean_interval
from neurordl.training.run import Run
from neurordl.validate import check_choice, check_columns

_LONG = 10  # names of this many letters leave little room for the label below
_NO_TERMS = ("epoch", "step", "lr", "seconds")
_NAMES = {
    "heldout_rdm_similarity": "RDM similarity, held-out stimuli",
    "test_accuracy": "test accuracy (share of images)",
}
_PERCENT = "test accuracy (% of images)"
_BOUNDS = {"heldout_rdm_similarity": (-1, 1), "test_accuracy": (0, 1)}
_FLAT = 1e-9  # differences, and halves of intervals, that are only rounding


def plot_training(
    run: Run | pd.DataFrame,
    ax: Axes | None = None,
    *,
    terms: Sequence[str] | None = None,
    similarity: bool = False,
    legend: bool = True,
) -> Axes:
    """Draw the loss terms of a run by epoch; those of the validation stimuli are dashed.

    A dotted line marks the epoch whose weights were kept, if validation chose one.

    Parameters
    ----------
    run
        Run of `fit`, or its history.
    ax
        Axes to draw on; by default a new one.
    terms
        Columns of the history to show, by default all losses; each with its ``val_`` column.
    similarity
        Show similarities of RDMs (1 - loss) instead of losses, for the terms whose comparison is a
        similarity. This needs a run, not only its history.
    legend
        Draw the legend, as in `plot_scores`.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        The history lacks a term or the epochs, or with ``similarity=True`` no term is a similarity.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.plots import plot_training
    >>> history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [2.0, 1.5, 1.2], "val_loss": [2.1, 1.7, 1.6]})
    >>> ax = plot_training(history)
    """
    history, record = (run, {}) if isinstance(run, pd.DataFrame) else (run.history, run.record)
    check_columns("the history", history, ["epoch", *(terms or ())])
    known = [str(name) for name in history.columns if name not in _NO_TERMS]
    bases = list(dict.fromkeys(["loss", *(name.removeprefix("val_") for name in known)]))
    shown = [name for name in bases if name in known] if terms is None else list(terms)
    if similarity:
        shown = [name for name in shown if name.removeprefix("val_") in _similarities(record)]
        if not shown:
            remedy = "give the run itself, of an RDMLoss that compares with corr or another similarity"
            raise NeurordlError(f"no term shown is 1 - a similarity of RDMs, as far as is known; {remedy}")
    shown = list(dict.fromkeys([*shown, *(f"val_{name}" for name in shown if f"val_{name}" in known)]))
    ax = ax or style.new_axes(5.6, 3.4)
    for name in shown:  # a term keeps its color whichever others are shown; the total is black
        base = name.removeprefix("val_")
        k = bases.index(base) - 1 if base in bases else 0
        color, marker = ("black", "x") if base == "loss" else (style.color_of(k), style.marker_of(k))
        dashed = name != base
        label = f"{base}, validation" if dashed else "total loss" if base == "loss" else base
        values = history[name].astype(float)
        values = 1 - values if similarity else values
        (line,) = ax.plot(history["epoch"], values, color=color, lw=style.scaled(1.4), label=label)
        line.set(ls="--" if dashed else "-")
        if len(history) <= 25:
            line.set(marker=marker, ms=style.scaled(4), mfc="white" if dashed else color)
    if best := record.get("best"):
        ax.axvline(best["epoch"], color="0.5", ls=":", lw=1, zorder=0, label=f"kept: epoch {best['epoch']}")
    ax.set(xlabel="epoch", ylabel="RDM similarity" if similarity else "loss")
    ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.legend(ax, show=legend)
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def _similarities(record: Mapping[str, Any]) -> list[str]:
    """The losses of a run that are 1 - a similarity of RDMs."""
    losses = (record.get("objective") or {}).get("losses") or {}
    measures = {name: COMPARISONS.get(loss.get("comparison")) for name, loss in losses.items()}
    return [name for name, measure in measures.items() if measure and measure.higher_is_better]


def plot_transfer(
    frame: pd.DataFrame | Run,
    ax: Axes | None = None,
    *,
    reference: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draw the test accuracy of each condition against its held-out similarity with the teacher.

    Small dots are rows. Large marks are the means of conditions with 95 % t intervals in both directions, and
    the band is the mean noise ceiling.

    A run has no accuracy for each epoch. Of it, the path of its task loss against the similarity of RDMs is
    drawn, from the first epoch (open mark) to the last. The similarity is that of the validation stimuli, or,
    without any, of the fitted ones.

    Parameters
    ----------
    frame
        Table with a row for each condition and seed and the columns ``condition``, ``test_accuracy``,
        ``heldout_rdm_similarity`` and, where there is a ceiling, ``ceiling_lower`` and ``ceiling_upper``. A
        column ``comparison`` is named on the axis. Or
        a run of `fit` with a task and an `RDMLoss` that compares with a similarity such as corr.
    ax
        Axes to draw on; by default a new one.
    reference
        Condition through whose mean dotted lines run. Conditions to the right of it came nearer to the
        geometry, and conditions below it lost accuracy.
    legend
        Draw the legend, as in `plot_scores`.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        A column or the reference is missing, or a run has no path of two epochs or more.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.plots import plot_transfer
    >>> frame = pd.DataFrame(
    ...     {
    ...         "condition": ["labels", "labels", "rdl", "rdl"],
    ...         "seed": [0, 1, 0, 1],
    ...         "test_accuracy": [0.80, 0.83, 0.93, 0.95],
    ...         "heldout_rdm_similarity": [0.38, 0.36, 0.55, 0.53],
    ...     }
    ... )
    >>> ax = plot_transfer(frame, reference="labels")
    """
    if isinstance(frame, Run):
        check_choice("reference", reference, [None], "a run has no conditions")
        return _plot_path(frame, ax, legend)
    check_columns("the table", frame, ("condition", "test_accuracy", "heldout_rdm_similarity"))
    frame = frame.astype({"condition": str})
    check_choice("reference", reference, [*frame["condition"].unique(), None])
    ax = ax or style.new_axes(5.2, 3.8)
    lower, upper = frame.reindex(columns=["ceiling_lower", "ceiling_upper"]).astype(float).mean()
    if np.isfinite([lower, upper]).all():
        ax.axvspan(lower, upper, color=style.CEILING, linewidth=0, zorder=0, label="noise ceiling")
    for k, (condition, part) in enumerate(frame.groupby("condition", sort=False)):
        x, y = (part[name].to_numpy(float) for name in ("heldout_rdm_similarity", "test_accuracy"))
        style.dots(ax, k, x, y)
        (similarity, x_reach), (accuracy, y_reach) = _mean_reach(x), _mean_reach(y)
        style.mark(ax, k, similarity, accuracy, str(condition), style.scaled(6), xerr=x_reach, yerr=y_reach)
        if condition == reference:
            ax.axvline(similarity, color="0.5", ls=":", lw=1, zorder=1)
            ax.axhline(accuracy, color="0.5", ls=":", lw=1, zorder=1)
    for axis, name in (("x", "heldout_rdm_similarity"), ("y", "test_accuracy")):
        style.end_at_bounds(ax, axis, frame[name], *(bounds_of(name, frame) or ()))
        ax.set(**{f"{axis}label": column_name(name, frame)})
    unit = "seeds" if "seed" in frame and not frame.duplicated(["condition", "seed"]).any() else "runs"
    number = style.extent(frame["condition"].value_counts())
    title = f"mean, 95 % CI (t)\nover {number} {unit} (dots)" if frame.duplicated("condition").any() else None
    handles, labels = ax.get_legend_handles_labels()
    marks = [part[0] if isinstance(part, ErrorbarContainer) else part for part in handles]  # without bars
    style.legend(ax, title, legend, handles=marks, labels=labels)
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def transfer_path(run: Run) -> dict[str, pd.DataFrame]:
    """By the name of each similarity in the history of a run: ``epoch``, ``similarity`` and ``task``."""
    history, paths = run.history, dict[str, pd.DataFrame]()
    for name in _similarities(run.record):
        column = f"val_{name}" if f"val_{name}" in history else name
        if {"task", column} <= set(history):
            columns = {"epoch": history["epoch"], "similarity": 1 - history[column], "task": history["task"]}
            path = pd.DataFrame(columns).dropna()
            paths |= {column: path} if len(path) > 1 else {}
    return paths


def _plot_path(run: Run, ax: Axes | None, legend: bool) -> Axes:
    """Task loss against similarity, epoch by epoch."""
    if not (paths := transfer_path(run)):
        problem = "the run has no two epochs with a task loss and a similarity of RDMs"
        raise NeurordlError(f"{problem}; train longer, with a task and an RDMLoss of corr")
    ax = ax or style.new_axes(5.2, 3.8)
    for k, (column, path) in enumerate(paths.items()):
        x, y = path["similarity"].to_numpy(), path["task"].to_numpy()
        stimuli = "validation stimuli" if column.startswith("val_") else "fitted stimuli"
        (line,) = ax.plot(x, y, color=style.color_of(k), lw=style.scaled(1.2), ms=style.scaled(4))
        line.set(marker=style.marker_of(k), label=f"{column.removeprefix('val_')}, {stimuli}")
        ax.plot(x[0], y[0], style.marker_of(k), mfc="white", mec=style.color_of(k), ms=style.scaled(6))
        for place in (0, -1):
            text = f"epoch {path['epoch'].iloc[place]:.0f}"
            ax.annotate(text, (x[place], y[place]), (4, 4), textcoords="offset points", fontsize="x-small")
    ax.set(xlabel="RDM similarity with the teacher", ylabel="task loss, labelled images in training")
    style.legend(ax, None, legend)
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def plot_paired(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    value: str = "heldout_rdm_similarity",
    reference: str = "labels",
    pair: Sequence[str] = ("seed",),
    legend: bool = True,
) -> Axes:
    """Draw paired differences of each condition from a reference, with their means and 95 % t intervals.

    Parameters
    ----------
    frame
        Table with a row for each condition and pair: the columns ``condition``, ``value`` and those of
        ``pair``. A column ``comparison`` says what similarities are.
    ax
        Axes to draw on; by default a new one.
    value
        Column that is compared.
    reference
        Condition that is subtracted from each of the others.
    pair
        Columns that say which rows belong together, such as seed and fold.
    legend
        Write below the axis what means, intervals and dots are of.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        A column or the reference is missing, a pair occurs twice, or no pair is complete.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.plots import plot_paired
    >>> frame = pd.DataFrame(
    ...     {
    ...         "condition": ["labels", "labels", "rdl", "rdl"],
    ...         "seed": [0, 1, 0, 1],
    ...         "heldout_rdm_similarity": [0.38, 0.36, 0.55, 0.53],
    ...     }
    ... )
    >>> ax = plot_paired(frame, reference="labels")
    """
    differences = subtract_reference(frame, value, reference=reference, pair=pair)
    conditions, compared = list(frame["condition"].unique()), list(map(str, differences))
    counts = differences.count()
    for name in counts.index[counts == 0]:
        raise NeurordlError(f"{name!r} and {reference!r} have no pair in common; check pair=")
    ax = ax or style.new_axes(5.2, 1.2 + 0.5 * len(compared))
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    for place, name in enumerate(compared):
        k, values = conditions.index(name), differences[name].dropna().to_numpy()
        style.dots(ax, k, values, place + np.linspace(0.12, 0.28, len(values)))
        mean, reach = _mean_reach(values)
        style.mark(ax, k, mean, place, name, style.scaled(6), xerr=reach)
        if len(values) > 1 and reach < _FLAT:
            text = f"{'equal' if abs(mean) < _FLAT else 'the same'} in each pair"
            text_at = ax.annotate(text, (mean, place), (8, 0), textcoords="offset points", va="center")
            behind = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1}
            text_at.set(size="small", bbox=behind)  # over the line at zero
    if (bounds := bounds_of(value, frame)) is not None:
        low, high = bounds
        style.end_at_bounds(ax, "x", differences, low - high, high - low)
    ax.set_yticks(range(len(compared)), compared)
    ax.set_ylim(len(compared) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    note = f"\nmean, 95 % CI (t) over {style.extent(counts) or 0} pairs (dots: each {', '.join(pair)})"
    text = f"{column_name(value, frame)}: difference from {reference}{note if legend else ''}"
    ax.set_xlabel(text, loc="right" if max(map(len, compared)) > _LONG else "center")
    style.wrap_labels(ax)
    return style.hide_frame(ax)


def column_name(column: str, frame: pd.DataFrame) -> str:
    """What a column of measured values holds, and in which unit, as far as the table says."""
    measures = frame["comparison"].dropna().unique() if "comparison" in frame else ()
    unit = f" ({', '.join(map(str, measures))})" if len(measures) and "similarity" in column else ""
    name = _PERCENT if _in_percent(column, frame) else _NAMES.get(column, column)
    return f"{name}{unit}"


def bounds_of(column: str, frame: pd.DataFrame) -> tuple[float, float] | None:
    """The least and the largest value that a measure can have, if that is known."""
    return (0, 100) if _in_percent(column, frame) else _BOUNDS.get(column)


def _in_percent(column: str, frame: pd.DataFrame) -> bool:
    """Whether accuracies are in percent, and no shares: some are above 1."""
    return column == "test_accuracy" and bool((frame[column].astype(float) > 1).any())


def _mean_reach(values: Floats) -> tuple[float, float]:
    """Mean of the defined values and half the width of its 95 % t interval (0 for a single value)."""
    mean, _, high, _, _ = mean_interval(values)
    return float(mean), float(np.nan_to_num(high - mean))
