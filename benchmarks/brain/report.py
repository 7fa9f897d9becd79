"""Tables and the figure of the brain study, from what `study.py collect` left in results/; needs no data.

Similarity is that of the layer chosen for the fold, with people who did not teach, on stimuli that were not
fitted: the mean over folds, seeds and people. Brackets are 95 % intervals that generalize to other folds,
seeds and people at once (`neurordl.experiments.crossed_interval`); differences are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from study import CONTROL_WEIGHT, METHOD, RESULTS, ROIS, choice

from neurordl.experiments import crossed_interval
from neurordl.io import atomic_write, write_text

ORDER = [
    "untrained",
    "labels",
    "rdl 0.1",
    "rdl 1",
    "rdl 3",
    "permuted within category",
    "permuted",
    "category",
]
COLOURS = {
    "untrained": "#999999",
    "labels": "#000000",
    "rdl 0.1": "#9fd4f3",
    "rdl 1": "#0072b2",
    "rdl 3": "#00405f",
    "permuted within category": "#e69f00",
    "permuted": "#d55e00",
    "category": "#009e73",
}
FACTORS = ["fold", "seed", "subject"]
CONTROLS = {
    "untrained": "untrained",
    "labels": "labels",
    "permuted": "permuted",
    "within": "permuted within category",
}


def cube(table: pd.DataFrame, value: str) -> npt.NDArray[np.float64]:
    """(folds, seeds, people) of one condition and ROI."""
    wide = table.set_index(FACTORS)[value].sort_index()
    return wide.to_numpy().reshape([table[factor].nunique() for factor in FACTORS])


def summary(table: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """A row for each ROI and condition: similarity and accuracy, their intervals, and paired differences."""
    rows = []
    for roi in ROIS:
        mine = table[(table["roi"] == roi) & table["fitted_layer"]]
        cubes = {
            (str(name), value): cube(part, value)
            for name, part in mine.groupby("condition")
            for value in ("similarity", "accuracy")
        }
        for name in ORDER:
            row: dict[str, Any] = {"roi": roi, "condition": name}
            for value in ("similarity", "accuracy"):
                scores = cubes[name, value]
                comparisons = {"": scores}
                for short, control in CONTROLS.items():
                    other_weight = name.startswith("rdl") and name != f"rdl {CONTROL_WEIGHT:g}"
                    if control != name and (control in ("untrained", "labels") or not other_weight):
                        comparisons[f"_minus_{short}"] = scores - cubes[control, value]
                for suffix, values in comparisons.items():
                    names = (f"{value}{suffix}", f"{value}{suffix}_low", f"{value}{suffix}_high")
                    row |= dict(zip(names, crossed_interval(values), strict=True))
            rows.append(row | ceilings.loc[roi].to_dict())
    return pd.DataFrame(rows)


def by_fold(table: pd.DataFrame) -> pd.DataFrame:
    """Similarity under RDL at the controls' weight less each control, fold by fold."""
    wide = table[table["fitted_layer"]].pivot_table("similarity", ["roi", "fold"], "condition")
    rdl = wide[f"rdl {CONTROL_WEIGHT:g}"]
    frame = pd.DataFrame({f"rdl - {control}": rdl - wide[control] for control in CONTROLS.values()})
    return frame.reset_index().astype({"fold": str})


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Similarity of every layer of students without a teacher: the fitted layer need not be their best."""
    alone = table[table["condition"].isin(["labels", "untrained"])]
    return alone.pivot_table("similarity", ["roi", "condition"], "layer").reset_index()


def draw(frame: pd.DataFrame) -> Figure:
    """Accuracy against held-out similarity, a panel for each ROI; bars are of the difference from labels."""
    figure = Figure(figsize=(6.6, 5.0), layout="constrained")
    for axes, roi in zip(figure.subplots(1, len(ROIS)), ROIS, strict=True):
        part = frame[frame["roi"] == roi].set_index("condition")
        labels = part.loc["labels"]
        axes.axhspan(labels["ceiling_lower"], labels["ceiling_upper"], color="0.88", label="noise ceiling")
        axes.axhline(
            labels["training_subjects"], color="0.45", ls=":", lw=1.2, label="training subjects' RDM"
        )
        axes.axhline(
            part.loc["untrained", "similarity"], color="#999999", ls="--", lw=1, label="untrained student"
        )
        for line, value in ((axes.axhline, "similarity"), (axes.axvline, "accuracy")):
            line(labels[value], color="black", lw=0.8, alpha=0.5)
        fitted = part.loc[["labels", "rdl 0.1", "rdl 1", "rdl 3"]]
        axes.plot(fitted["accuracy"], fitted["similarity"], color="#0072b2", lw=1, alpha=0.5, zorder=1)
        for name in ORDER[1:]:  # the accuracy of the untrained is chance: it would stretch the axis
            row, reach = part.loc[name], {}
            for axis, value in (("xerr", "accuracy"), ("yerr", "similarity")):
                if name != "labels":
                    mean = row[f"{value}_minus_labels"]
                    low, high = row[f"{value}_minus_labels_low"], row[f"{value}_minus_labels_high"]
                    reach[axis] = [[mean - low], [high - mean]]
            style = {"fmt": "os^D"[ORDER.index(name) % 4], "color": COLOURS[name], "ms": 7, "lw": 1.3}
            label = name.replace("rdl", "RDL, weight")
            axes.errorbar(row["accuracy"], row["similarity"], **reach, **style, label=label)
        axes.set_title(f"{roi} as the teacher", fontsize=11)
        axes.set_xlabel("test accuracy (20 classes)", fontsize=10)
        axes.locator_params(nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
    text = f"similarity with held-out subjects,\nheld-out stimuli ({METHOD})"
    figure.axes[0].set_ylabel(text, fontsize=10)
    handles, names = axes.get_legend_handles_labels()
    title = "bars: 95 % intervals of the paired difference from labels;\n"
    title += "those that do not cross its line are significant"
    place = {"loc": "outside lower center", "ncols": 3, "frameon": False, "columnspacing": 1.2}
    figure.legend(handles, names, title=title, fontsize=10, title_fontsize=10, **place)
    return figure


def text(frame: pd.DataFrame) -> str:
    """The tables in Markdown."""

    def shown(row: Any, name: str) -> str:
        if name not in row or np.isnan(row[name]):
            return ""
        return f"{row[name]:.3f} [{row[name + '_low']:.3f}, {row[name + '_high']:.3f}]"

    lines = ["<!-- written by report.py -->", ""]
    for roi in ROIS:
        part = frame[frame["roi"] == roi]
        first = part.iloc[0]
        chosen = ", ".join(f"{cell['layer']} {cell['schedule']}" for cell in choice()[roi].values())
        lines += [
            f"### {roi}",
            "",
            f"Noise ceiling {first['ceiling_lower']:.3f} to {first['ceiling_upper']:.3f}; "
            f"the training subjects' mean RDM reaches {first['training_subjects']:.3f}. "
            f"Layer and schedule of the four folds: {chosen}.",
            "",
            "| condition | similarity | - untrained | - labels | - permuted | - permuted within | accuracy "
            "| - labels |",
            "|---|---|---|---|---|---|---|---|",
        ]
        ends = ("", "_minus_untrained", "_minus_labels", "_minus_permuted", "_minus_within")
        names = [*(f"similarity{end}" for end in ends), "accuracy", "accuracy_minus_labels"]
        for row in part.to_dict("records"):
            lines.append("| " + " | ".join([row["condition"], *(shown(row, name) for name in names)]) + " |")
        lines.append("")
    return "\n".join(lines)


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(frame.columns), ["---"] * len(frame.columns)]
    rows += [
        [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in frame.to_numpy()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Write everything."""
    table = pd.read_csv(RESULTS / "scores.csv")
    frame = summary(table, pd.read_csv(RESULTS / "ceilings.csv").set_index("roi"))
    write_text(RESULTS / "summary.csv", frame.to_csv(index=False, float_format="%.5f"))
    tables = [
        text(frame),
        f"### RDL at weight {CONTROL_WEIGHT:g} less each control, by fold\n",
        markdown(by_fold(table)),
        "\n### Students without a teacher, every layer\n",
        markdown(by_layer(table)),
    ]
    write_text(RESULTS / "tables.md", "\n".join(tables) + "\n")
    with atomic_write(RESULTS / "accuracy_similarity.png") as aside:
        draw(frame).savefig(aside, dpi=150)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
