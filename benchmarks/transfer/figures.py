"""Figures of the transfer study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from compared import BASELINE, MARGIN, METHOD, NO_TRANSFER, TITLES, is_rival, is_variant, shown, slug, title
from conditions import CELLS, MOST, PAIRS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from measured import STRENGTHS, similarity_name, student_of
from setting import RESULTS, load, trained_network

import neurordl as nrl
from neurordl.io import atomic_write
from neurordl.plots.mds import _place_labels
from neurordl.rsa.inference.infer import mean_interval

GROUPS = {  # Okabe and Ito's colors: color, marker
    "RDL": ("#0072B2", "o"),
    "RDL + soft targets": ("#CC79A7", "D"),
    "RDL, permuted teacher": ("#E69F00", "X"),
    "other transfer": ("#009E73", "s"),
    "no teacher": ("#000000", "^"),
}
LINES = {
    "labels": ("#000000", "^", "-"),
    "RDL": ("#0072B2", "o", "-"),
    "RKD": ("#56B4E9", "s", "--"),
    "SP": ("#009E73", "v", "--"),
    "soft targets": ("#D55E00", "P", "--"),
    "RDL + soft targets": ("#CC79A7", "D", "-"),
    "RDL, permuted": ("#E69F00", "X", ":"),
}
"""Color, marker and line of a condition where conditions are lines."""

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100}
N_PLANE, PLANE_CLASSES = 200, 10
NEARLY_ALL = 95
"""Where students are better than this, in percent, errors are drawn, on a logarithmic axis."""

MANY = 5
"""A figure shows the differences from more rivals than this."""


def group_of(condition: str) -> str:
    """The group of a condition."""
    if is_variant(condition):
        return "RDL"
    if "permuted" in condition:
        return "RDL, permuted teacher"
    if condition in GROUPS:
        return condition
    return "no teacher" if condition in (*NO_TRANSFER, "untrained") else "other transfer"


def save(figure: Figure, name: str) -> None:
    """Write a figure into results/."""
    with atomic_write(RESULTS / name) as beside:
        figure.savefig(beside, format="png", dpi=160)
    plt.close(figure)


def legend_of_groups(figure: Figure, groups: Sequence[str]) -> None:
    """The groups, below all Axes."""
    handles = [
        Line2D([], [], color=color, marker=marker, ls="", ms=5, label=name)
        for name, (color, marker) in GROUPS.items()
        if name in groups
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")


def reach(values: Any) -> tuple[float, float]:
    """Mean, and half of its 95 % t interval."""
    mean, _, high, _, _ = mean_interval(np.asarray(values, dtype=float))
    return float(mean), float(np.nan_to_num(high - mean))


@plt.rc_context(STYLE)
def accuracies(cell: str, table: pd.DataFrame) -> None:
    """The conditions of a cell, the best on top; dots are seeds, and a line goes through labels only."""
    errors = table["accuracy"].max() > NEARLY_ALL
    values = 100 - table["accuracy"] if errors else table["accuracy"]
    groups = values.groupby(table["condition"])
    order = list(groups.mean().sort_values(ascending=not errors).index)
    figure, ax = plt.subplots(figsize=(5.2, 1.3 + 0.21 * len(order)), layout="constrained")
    ax.axvline(groups.mean()[BASELINE], color="0.5", lw=1, ls="--", zorder=1)
    for place, name in enumerate(order):
        color, marker = GROUPS[group_of(name)]
        part = groups.get_group(name).to_numpy()
        mean, half = reach(part)
        ax.plot(part, np.full(len(part), place - 0.22), ".", color=color, alpha=0.45, ms=4, mew=0)
        ax.errorbar(mean, place + 0.08, xerr=half, fmt=marker, color=color, ms=5, capsize=2.5, zorder=3)
    ax.set_yticks(range(len(order)), [shown(name) for name in order])
    ax.set_ylim(-0.7, len(order) - 0.4)
    ax.grid(axis="x", color="0.92", zorder=0)
    if errors:
        plain_log(ax.xaxis)
        ax.invert_xaxis()
    ax.set_xlabel(f"{'errors' if errors else 'accuracy'}, % (mean, 95 % CI; dots: seeds)")
    ax.set_title(title(cell), fontsize="medium", loc="right")
    legend_of_groups(figure, [group_of(name) for name in order])
    save(figure, f"accuracy_{slug(cell)}.png")


@plt.rc_context(STYLE)
def margins(cell: str, steps: pd.DataFrame, best: str) -> None:
    """RDL and its best variant less each rival, beside the margin of what is competitive."""
    methods = list(dict.fromkeys((METHOD, best)))
    rivals = steps[steps["second"].map(is_rival)].set_index("first")
    order = list(rivals.loc[[METHOD]].sort_values("difference")["second"])
    figure, ax = plt.subplots(figsize=(5.2, 1.2 + 0.26 * len(order)), layout="constrained")
    ax.axvline(0, color="0.5", lw=1, zorder=1)
    for shift, method in zip((0.13, -0.13) if len(methods) > 1 else (0,), methods, strict=True):
        rows = rivals.loc[[method]].set_index("second").loc[order]
        color, marker = ("#0072B2", "o") if method == METHOD else ("#D55E00", "D")
        half = (rows["high"] - rows["difference"]).to_numpy()
        places = np.arange(len(order)) + shift
        style = {"fmt": marker, "color": color, "ms": 4.5, "capsize": 2.5, "lw": 1.2, "zorder": 3}
        ax.errorbar(rows["difference"], places, xerr=half, label=shown(method), **style)
    low, high = ax.get_xlim()
    low = min(low, MARGIN - 1)
    ax.axvspan(low, MARGIN, color="0.9", lw=0, zorder=0)
    ax.set_xlim(low, high)
    ax.set_yticks(range(len(order)), [shown(name) for name in order])
    ax.set_xlabel("accuracy less that of the rival, points (mean, 95 % CI)\ngray: worse by more than a point")
    ax.set_title(title(cell), fontsize="medium", loc="right")
    if len(methods) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save(figure, f"rivals_{slug(cell)}.png")


@plt.rc_context(STYLE)
def label_counts(cells: Mapping[str, tuple[Any, ...]]) -> None:
    """Error by the number of labels."""
    chosen = {
        source: [
            name for name in cells if CELLS[name].source == source and CELLS[name].student == "small_cnn"
        ]
        for source in TITLES
    }
    chosen = {source: names for source, names in chosen.items() if len(names) > 1}
    if not chosen:
        return
    figure, axes = plt.subplots(
        1, len(chosen), figsize=(3.2 * len(chosen), 3.5), layout="constrained", squeeze=False
    )
    for ax, (source, names) in zip(axes[0], chosen.items(), strict=True):
        counts = [CELLS[name].labels or "all" for name in names]
        for k, name in enumerate(MOST):
            color, marker, line = LINES[name]
            parts = [cells[cell][0].set_index("condition")["accuracy"] for cell in names]
            points = [(x, *reach(100 - part[[name]])) for x, part in enumerate(parts) if name in part]
            if points:
                x, mean, half = np.array(points).T
                style = {"c": color, "marker": marker, "ls": line, "ms": 4.5, "capsize": 2, "lw": 1.2}
                ax.errorbar(x + 0.03 * (k - 3), mean, half, label=shown(name), **style)
        ax.set_xticks(range(len(names)), map(str, counts))
        ax.set_xlim(-0.3, len(names) - 0.7)
        plain_log(ax.yaxis)
        ax.grid(axis="y", color="0.92", zorder=0)
        ax.set(xlabel="labels a class", title=TITLES[source])
    axes[0, 0].set_ylabel("errors on test images, %")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize="small",
    )
    save(figure, "label_counts.png")


def plain_log(axis: Any) -> None:
    """A logarithmic axis of plain numbers, if its largest number is much larger than its smallest."""
    low, high = axis.get_view_interval()
    low = max(low, axis.get_data_interval()[0] * 0.9)
    if high / low < 3:
        return
    name = axis.axis_name
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    steps = [1, 2, 5] if high / low > 5 else [1, 1.5, 2, 3, 4, 5, 7]
    ticks = [step * 10.0**power for power in range(-2, 3) for step in steps]
    axis.set_ticks([tick for tick in ticks if low <= tick <= high])
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


@plt.rc_context(STYLE)
def similarity(cell: str, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    """Accuracy against similarity with the teacher at the last layer before the outputs."""
    figure, ax = plt.subplots(figsize=(5.2, 4.3), layout="constrained")
    texts, points, groups = [], [], []
    errors = table["accuracy"].max() > NEARLY_ALL
    both = table.merge(rows, on=["cell", "condition", "seed"], suffixes=("", "_"))
    for name, part in both.groupby("condition", sort=False):
        color, marker = GROUPS[group_of(str(name))]
        x, x_half = reach(part[similarity_name(cell)])
        y, y_half = reach(100 - part["accuracy"] if errors else part["accuracy"])
        ax.errorbar(x, y, y_half, x_half, fmt=marker, color=color, ms=5, elinewidth=0.8, zorder=3)
        points.append((x, y))
        texts.append((shown(str(name)), np.array([x, y]), color))
        groups.append(group_of(str(name)))
    untrained = rows.loc[rows["condition"] == "untrained", similarity_name(cell)]
    if len(untrained):
        ax.axvline(untrained.mean(), color="0.5", ls=":", lw=1, zorder=1)
        ax.annotate(
            "untrained", (untrained.mean(), 1), (2, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", rotation=90, va="top", fontsize="small", color="0.4",
        )  # fmt: skip
    layers = PAIRS[CELLS[cell].student].last
    ax.set_xlabel(f"similarity of RDMs, student's {layers[0]} and teacher's {layers[1]} (Pearson)")
    ax.set_ylabel(f"{'errors' if errors else 'accuracy'} on test images, %")
    ax.set_title(title(cell), fontsize="medium", loc="right")
    legend_of_groups(figure, groups)
    if errors:
        plain_log(ax.yaxis)
        ax.invert_yaxis()
        ax.set_xscale("function", functions=(np.arctanh, np.tanh))  # Fisher's z
        ax.set_xticks([0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98])
    with plt.rc_context({"font.size": 8}):
        _place_labels(ax, texts, np.array(points))
    for text in ax.texts:
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    save(figure, f"similarity_{slug(cell)}.png")


@plt.rc_context(STYLE)
def planes(cell: str, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Test images of ten classes in a plane: teacher, untrained student, labels only, RDL."""
    present = {
        job["condition"]: job for job in jobs if job["cell"] == cell and job["seed"] == 0 and job["present"]
    }
    source = CELLS[cell].source
    if not {"untrained", BASELINE, METHOD} <= set(present):
        return
    test = load(source).test
    assert test.labels is not None
    classes = np.unique(test.labels.numpy())[:: len(np.unique(test.labels.numpy())) // PLANE_CLASSES]
    names = [name for name, label in zip(test.ids, test.labels.tolist(), strict=True) if label in classes]
    images = test.subset(names).draw(N_PLANE, 0)
    assert images.labels is not None
    categories = dict(zip(images.ids, map(str, images.labels.tolist()), strict=True))
    layer, theirs = PAIRS[CELLS[cell].student].last
    networks = {"teacher": (trained_network(source), theirs)}
    for name, word in (("untrained", "untrained student"), (BASELINE, "labels only"), (METHOD, "RDL")):
        job = present[name]
        networks[word] = (student_of(cell, name, job["ratio"], 0), layer)
    figure, axes = plt.subplots(2, 2, figsize=(5.2, 5.4), layout="constrained")
    with plt.rc_context({"font.size": 7}):
        for ax, (word, (network, name)) in zip(axes.flat, networks.items(), strict=True):
            rdms = nrl.compute_rdms(nrl.extract_patterns(network, images, name), "correlation")
            nrl.plot_mds(rdms, ax, categories=categories, legend=False)
            ax.set_title(f"{word}, {name}", fontsize=9)
            ax.set_aspect("equal", adjustable="datalim")
            ax.spines[:].set_visible(True)
            for mark in ax.lines:
                mark.set(markersize=3.2, alpha=0.8, markeredgewidth=0)
    figure.suptitle(f"{title(cell)}: {N_PLANE} test images of {len(classes)} classes", fontsize=9)
    save(figure, f"mds_{slug(cell)}.png")


@plt.rc_context(STYLE)
def robustness(cell: str, rows: pd.DataFrame) -> None:
    """Accuracy by the strength of noise, blur and contrast."""
    strengths = STRENGTHS[CELLS[cell].source]
    figure, axes = plt.subplots(1, 3, figsize=(6.6, 2.9), layout="constrained", sharey=True)
    labels = {"noise": "SD of noise", "blur": "SD of blur, pixels", "contrast": "contrast"}
    clean = {"noise": 0.0, "blur": 0.0, "contrast": 1.0}
    for ax, (corruption, steps) in zip(axes, strengths.items(), strict=True):
        for name, part in rows.groupby("condition", sort=False):
            color, marker, line = LINES.get(str(name), ("#56B4E9", "s", "-"))
            x = [clean[corruption], *steps]
            points = [reach(part["clean"]), *(reach(part[f"{corruption} {step:g}"]) for step in steps)]
            mean, half = np.array(points).T
            ax.errorbar(
                x,
                mean,
                half,
                c=color,
                marker=marker,
                ls=line,
                ms=4,
                lw=1.2,
                capsize=2,
                label=shown(str(name)),
            )
        ax.set_xlabel(labels[corruption])
        ax.grid(axis="y", color="0.92", zorder=0)
    axes[2].invert_xaxis()
    axes[0].set_ylabel("accuracy on test images, %")
    figure.suptitle(title(cell), fontsize="medium")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    save(figure, f"robustness_{slug(cell)}.png")


def draw(cells: Mapping[str, tuple[Any, ...]]) -> None:
    """The figures that need accuracies only."""
    for cell, (table, steps, best) in cells.items():
        accuracies(cell, table)
        if steps["second"].map(is_rival).sum() > MANY:
            margins(cell, steps, best)
    label_counts(cells)
