"""What a fit's losses, or similarities, did by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.plots.style import colour_of, legend, marker_of, need, new_axes, plain, scaled
from neurordl.training.run import Run

__all__ = ["plot_training"]

_NO_TERMS = ("epoch", "step", "lr", "seconds")


def plot_training(
    run: Run | pd.DataFrame,
    ax: Axes | None = None,
    *,
    terms: Sequence[str] | None = None,
    similarity: bool = False,
) -> Axes:
    """Terms of a run's history by epoch; those of the validation stimuli dashed, with open marks.

    The epoch whose weights were kept is a dotted line, where validation chose one.

    Parameters
    ----------
    run
        A run of `fit`, or its history.
    terms
        Columns of the history to show; by default all losses. A term brings its ``val_`` column along.
    similarity
        Show similarities of RDMs instead of their losses: 1 - loss, for terms whose comparison is a
        similarity (not ``mse``, nor a function of one's own); needs the run, which knows the comparisons.

    Raises
    ------
    NeurordlError
        A term that the history does not have, a history without epochs, or ``similarity=True`` where no term
        is one.
    """
    history = run if isinstance(run, pd.DataFrame) else run.history
    need(history, ("epoch",), "the history")
    record: Mapping[str, Any] = {} if isinstance(run, pd.DataFrame) else run.record
    known = [str(name) for name in history.columns if name not in _NO_TERMS]
    if terms is not None:
        need(history, terms, "the history")
    shown = list(terms) if terms is not None else [name for name in known if not name.startswith("val_")]
    if similarity:
        alike = _similarities(record)
        shown = [name for name in shown if name.removeprefix("val_") in alike]
        if not shown:
            raise NeurordlError(
                "no term shown is 1 - a similarity of RDMs, as far as is known; give the run itself, of an "
                "RDMLoss that compares with corr, cosine or another similarity"
            )
    shown = list(dict.fromkeys([*shown, *(f"val_{name}" for name in shown if f"val_{name}" in known)]))
    ax = ax or new_axes(5.6, 3.4)
    for name in shown:
        values = history[name].astype(float)
        _line(ax, name, history["epoch"], 1 - values if similarity else values, known)
    if best := record.get("best"):
        ax.axvline(best["epoch"], color="0.5", ls=":", lw=1, zorder=0, label=f"kept: epoch {best['epoch']}")
    ax.set_xlabel("epoch")
    ax.set_ylabel("RDM similarity" if similarity else "loss")
    ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(ax)
    return plain(ax)


def _similarities(record: Mapping[str, Any]) -> set[str]:
    losses = record.get("objective", {}).get("losses", {})
    spelled = {name: loss.get("comparison") for name, loss in losses.items()}
    return {name for name, how in spelled.items() if how in COMPARISONS and COMPARISONS[how].higher_is_better}


def _line(ax: Axes, name: str, epochs: Any, values: Any, known: Sequence[str]) -> None:
    """A term keeps its colour whichever others are shown; the total is black."""
    base = name.removeprefix("val_")
    bases = [other for other in dict.fromkeys(one.removeprefix("val_") for one in known) if other != "loss"]
    validation = name != base
    label = f"{base}, validation" if validation else "total loss" if base == "loss" else base
    colour = "black" if base == "loss" else colour_of(bases.index(base))
    style: dict[str, Any] = {
        "color": colour,
        "label": label,
        "lw": scaled(1.4),
        "ls": "--" if validation else "-",
    }
    if len(epochs) <= 25:
        marker = "x" if base == "loss" else marker_of(bases.index(base))
        style |= {"marker": marker, "ms": scaled(4), "mfc": "white" if validation else colour}
    ax.plot(epochs, values, **style)
