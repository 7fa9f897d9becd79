"""Tables and the figure of the brain study, from what `study.py run` left, into results/.

Similarity is the mean over held-out subjects, folds and seeds; its interval comes from a crossed bootstrap
(10,000 draws) that resamples folds, seeds and held-out subjects at once, so that it speaks of other stimuli,
other students and other people. With 4 folds of the same 92 objects, 3 seeds and 5 people it is too narrow:
in simulations a nominal 95 % interval of this kind covered about 80 %. Hence the t intervals of `by_factor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from rsatoolbox.rdm import RDMs
from scipy import stats
from study import (
    CONTROL_WEIGHT,
    EPOCHS,
    FOLDS,
    IMAGES,
    METHOD,
    RESULTS,
    ROIS,
    RUNS,
    SEEDS,
    brain,
    fingerprint,
    fold,
    people,
    study_jobs,
)

import neurordl as nrl
from neurordl.artifacts import read_json, versions, write_aside, write_json, write_text
from neurordl.experiments import run_grid
from neurordl.rdms.selection import reindex, select_rdms

DRAWS = 10_000
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
Cube = npt.NDArray[np.float64]


def finished() -> pd.DataFrame:
    """All rows of the study; one that is missing is an error."""

    def missing(**job: Any) -> dict[str, float]:
        raise SystemExit(f"not finished: {job}; run study.py first")

    return run_grid(study_jobs(), missing, RUNS / "study", fingerprint=fingerprint(), progress=False)


def long_table() -> pd.DataFrame:
    """A row for each fit, fold and held-out subject: similarity at the fitted layer, and accuracy."""
    frame, choice = finished(), read_json(RESULTS / "choice.json")
    rows: list[dict[str, Any]] = []
    for job in frame.to_dict("records"):
        name = f"rdl {job['weight']:g}" if job["condition"] == "rdl" else str(job["condition"])
        for roi in ROIS if job["roi"] == "none" else [job["roi"]]:
            layer = choice[roi]["layer"]
            for number in range(FOLDS) if job["fold_number"] == "all" else [int(job["fold_number"])]:
                for subject in people(roi)[1]:
                    similarity = job[f"{number}|{roi}|{layer}|{subject}"]
                    at = {
                        "condition": name,
                        "roi": roi,
                        "fold": number,
                        "seed": job["seed"],
                        "subject": subject,
                    }
                    rows.append({**at, "similarity": similarity, "accuracy": job["test_accuracy"]})
    return pd.DataFrame(rows)


def cube(table: pd.DataFrame, value: str) -> Cube:
    """(folds, seeds, subjects) of one condition and ROI."""
    wide = table.set_index(["fold", "seed", "subject"])[value].sort_index()
    return wide.to_numpy().reshape(FOLDS, len(SEEDS), -1)


@cache
def draws(subjects: int) -> list[npt.NDArray[np.int64]]:
    """The same resamples of folds, seeds and subjects for every condition, so that differences are paired."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, n, (DRAWS, n)) for n in (FOLDS, len(SEEDS), subjects)]


def resampled(values: Cube) -> npt.NDArray[np.float64]:
    """Means of the crossed bootstrap."""
    folds, seeds, subjects = draws(values.shape[2])
    return values[folds[:, :, None, None], seeds[:, None, :, None], subjects[:, None, None, :]].mean(
        (1, 2, 3)
    )


def interval(values: Cube) -> tuple[float, float, float]:
    """Mean and 95 % interval."""
    low, high = np.quantile(resampled(values), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def cut(rdms: RDMs, ids: Sequence[str], vectors: Cube | None = None) -> RDMs:
    """RDMs of these stimuli, or other vectors in their place."""
    return RDMs(
        reindex(rdms, ids) if vectors is None else vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": list(rdms.rdm_descriptors["subject"])} if vectors is None else None,
        pattern_descriptors={"stimulus": list(ids)},
    )


def ceilings(roi: str) -> dict[str, float]:
    """Bounds of the held-out subjects, mean over folds; and what the training subjects' RDM reaches."""
    train, held = people(roi)
    found = []
    for number in range(FOLDS):
        ids = fold(number)[1].ids
        shown = cut(select_rdms(brain(roi), subjects=held), ids)
        vectors = reindex(select_rdms(brain(roi), subjects=train), ids)
        pooled = ((vectors - vectors.mean(1, keepdims=True)) / vectors.std(1, keepdims=True)).mean(
            0, keepdims=True
        )
        teacher = nrl.compare(cut(shown, ids, pooled), shown, METHOD).mean()
        found.append([*nrl.noise_ceiling(shown, METHOD), float(teacher)])
    return dict(
        zip(("ceiling_lower", "ceiling_upper", "training_subjects"), np.mean(found, axis=0), strict=True)
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each ROI and condition: similarity and accuracy, their intervals, and paired differences."""
    rows = []
    for roi in ROIS:
        mine = table[table["roi"] == roi]
        cubes = {
            name: {value: cube(part, value) for value in ("similarity", "accuracy")}
            for name, part in mine.groupby("condition")
        }
        for name in ORDER:
            row: dict[str, Any] = {"roi": roi, "condition": name}
            for value in ("similarity", "accuracy"):
                own = cubes[name][value]
                comparisons = {"": own, "_minus_labels": own - cubes["labels"][value]}
                if (
                    not name.startswith("rdl") or name == f"rdl {CONTROL_WEIGHT:g}"
                ):  # controls are at its weight
                    comparisons |= {"_minus_permuted": own - cubes["permuted"][value]}
                    comparisons |= {"_minus_within": own - cubes["permuted within category"][value]}
                for suffix, values in comparisons.items():
                    names = (f"{value}{suffix}", f"{value}{suffix}_low", f"{value}{suffix}_high")
                    row |= dict(zip(names, interval(values), strict=True))
            rows.append(row | ceilings(roi))
    return pd.DataFrame(rows)


def by_factor(table: pd.DataFrame) -> pd.DataFrame:
    """RDL at the controls' weight less each control: t intervals over folds and people, and fold 0.

    The pilot that chose layer and schedule saw fold 0's training stimuli: held-out ones of other folds.
    """
    rows = []
    for roi in ROIS:
        parts = {
            name: cube(part, "similarity") for name, part in table[table["roi"] == roi].groupby("condition")
        }
        for control in ("labels", "permuted", "permuted within category"):
            difference = parts[f"rdl {CONTROL_WEIGHT:g}"] - parts[control]
            row: dict[str, Any] = {"roi": roi, "beside": control, "difference": difference.mean()}
            for name, means in (("folds", difference.mean((1, 2))), ("people", difference.mean((0, 1)))):
                reach = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means)
                row |= {f"{name}_low": means.mean() - reach, f"{name}_high": means.mean() + reach}
            rows.append(row | {"fold_0": difference[0].mean()})
    return pd.DataFrame(rows)


def by_layer() -> pd.DataFrame:
    """Similarity of every layer of students without a teacher: the fitted layer need not be their best."""
    frame = finished()
    rows = []
    for job in frame[frame["roi"] == "none"].to_dict("records"):
        for key, value in job.items():
            if key.count("|") == 3:
                _, roi, layer, _ = key.split("|")
                rows.append({"condition": job["condition"], "roi": roi, "layer": layer, "similarity": value})
    return pd.DataFrame(rows).groupby(["roi", "condition", "layer"])["similarity"].mean().unstack()


def draw(frame: pd.DataFrame) -> Figure:
    """Accuracy against held-out similarity, a panel for each ROI."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, roi in zip(figure.subplots(1, len(ROIS)), ROIS, strict=True):
        part = frame[frame["roi"] == roi].set_index("condition")
        first = part.iloc[0]
        axes.axhspan(first["ceiling_lower"], first["ceiling_upper"], color="0.88", label="noise ceiling")
        axes.axhline(first["training_subjects"], color="0.45", ls=":", lw=1.2, label="training subjects' RDM")
        fitted = part.loc[["labels", "rdl 0.1", "rdl 1", "rdl 3"]]
        axes.plot(fitted["accuracy"], fitted["similarity"], color="#0072b2", lw=1, alpha=0.5, zorder=1)
        for name in ORDER:
            if name == "untrained":
                continue  # its accuracy is chance: it would stretch the axis
            row = part.loc[name]
            reach = [
                [[row[value] - row[f"{value}_low"]], [row[f"{value}_high"] - row[value]]]
                for value in ("accuracy", "similarity")
            ]
            axes.errorbar(
                row["accuracy"],
                row["similarity"],
                xerr=reach[0],
                yerr=reach[1],
                fmt="os^D"[ORDER.index(name) % 4],
                color=COLOURS[name],
                ms=7,
                lw=1.3,
                label=name.replace("rdl", "RDL, weight"),
            )
        axes.axhline(
            part.loc["untrained", "similarity"], color="#999999", ls="--", lw=1, label="untrained student"
        )
        axes.axhline(0, color="0.8", lw=0.8, zorder=0)
        axes.set(xlabel="test accuracy (20 classes)", ylabel=f"similarity with held-out subjects ({METHOD})")
        axes.set_title(f"{roi} as the teacher: held-out stimuli", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, frameon=False)
    return figure


def text(frame: pd.DataFrame, choice: dict[str, Any]) -> str:
    """The tables in Markdown."""

    def shown(row: Any, name: str) -> str:
        if np.isnan(row[name]):
            return ""
        return f"{row[name]:.3f} [{row[name + '_low']:.3f}, {row[name + '_high']:.3f}]"

    lines = ["<!-- written by report.py -->", ""]
    for roi in ROIS:
        part = frame[frame["roi"] == roi]
        first = part.iloc[0]
        lines += [
            f"### {roi}: layer {choice[roi]['layer']}, schedule {choice[roi]['schedule']}",
            "",
            f"Noise ceiling {first['ceiling_lower']:.3f} to {first['ceiling_upper']:.3f}; "
            f"the training subjects' mean RDM reaches {first['training_subjects']:.3f}.",
            "",
            "| condition | similarity | - labels | - permuted | - permuted within | accuracy | - labels |",
            "|---|---|---|---|---|---|---|",
        ]
        ends = ("", "_minus_labels", "_minus_permuted", "_minus_within")
        names = [*(f"similarity{end}" for end in ends), "accuracy", "accuracy_minus_labels"]
        for row in part.to_dict("records"):
            lines.append("| " + " | ".join([row["condition"], *(shown(row, name) for name in names)]) + " |")
        lines.append("")
    return "\n".join(lines)


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(frame.columns), ["---"] * len(frame.columns)]
    rows += [
        [f"{one:.3f}" if isinstance(one, float) else str(one) for one in row] for row in frame.to_numpy()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Write everything."""
    table = long_table()
    frame = summary(table)
    choice = read_json(RESULTS / "choice.json")
    write_text(RESULTS / "scores.csv", table.to_csv(index=False, float_format="%.5f"))
    write_text(RESULTS / "summary.csv", frame.to_csv(index=False, float_format="%.5f"))
    factors, layers = by_factor(table), by_layer()
    tables = [
        text(frame, choice),
        "### RDL at weight 1 less each control: 95 % t intervals over folds, and over people\n",
        markdown(factors),
        "\n### Students without a teacher, every layer\n",
        markdown(layers.reset_index()),
    ]
    write_text(RESULTS / "tables.md", "\n".join(tables) + "\n")
    write_text(RESULTS / "by_factor.csv", factors.to_csv(index=False, float_format="%.5f"))
    record = {
        "choice": choice,
        "seeds": list(SEEDS),
        "folds": FOLDS,
        "epochs": EPOCHS,
        "images": IMAGES,
        "method": METHOD,
    }
    subjects = {roi: dict(zip(("training", "held_out"), people(roi), strict=True)) for roi in ROIS}
    write_json(RESULTS / "settings.json", {**record, "subjects": subjects, "versions": versions()})
    with write_aside(RESULTS / "accuracy_similarity.png") as aside:
        draw(frame).savefig(aside, dpi=150)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
