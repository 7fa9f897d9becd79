"""Geometry and robustness in the report: tables, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import figures
import measured
import pandas as pd
from compared import BASELINE, METHOD, interval, is_variant, markdown, shown, slug, title
from conditions import CELLS, PAIRS
from measured import STRENGTHS, layer_pairs, similarity_name
from scipy.stats import spearmanr
from setting import RESULTS
from study import Job

from neurordl.experiments import paired_differences

MAIN = ("mnist", "cifar100")
"""Cells whose students see worse images."""


GEOMETRY = """## Geometry

Similarity of student and teacher, layer by layer: the Pearson correlation of their RDMs (correlation
distance) of 1,000 test images, as many of each class; mean over seeds, ± SD for the last layer before the
outputs, for which also the rank correlation (Spearman) is given. All pairs of layers of each seed are in
[geometry.csv](geometry.csv).
"""
PLANES = """### Test images in a plane

Metric multidimensional scaling of 200 test images of 10 classes at the last layer before the outputs, seed
0; colors are classes. Orientation and scale are arbitrary.
"""
ROBUSTNESS = """## Robustness

Does geometry buy robustness? Accuracy on 5,000 test images with Gaussian noise, blur and less contrast,
mean of five strengths each; differences are paired over seeds, with 95 % t intervals. A student that is
better on clean images is often better on worse ones, too: it is called more robust only if it is better on
worse images and also keeps a larger share of its accuracy on clean images; less robust if it keeps less. At
the strongest corruptions all students come near chance. All strengths are in
[robustness.csv](robustness.csv).
"""


def sections(predictions: Mapping[Job, Any], cells: Mapping[str, tuple[Any, ...]], workers: int) -> list[str]:
    """Measure what is not yet measured (0 workers: nothing), draw, and write the sections of the report."""
    jobs = [job for job in measured.jobs_of(predictions, workers > 0) if job["cell"] in cells]
    settings: dict[str, Any] = {"images": measured.N_SHOWN, "dissimilarity": "correlation"}
    rows = measured.table_of("geometry", jobs, measured.geometry, settings, workers)
    text = [GEOMETRY] if len(rows) else []
    for cell, (table, _, _) in cells.items():
        part = rows[rows["cell"] == cell]
        if len(part):
            figures.similarity(cell, part, table)
            text += geometry_section(cell, part, table)
    for cell in [cell for cell in MAIN if cell in cells]:
        figures.planes(cell, jobs)
    pictures = [f"mds_{slug(cell)}.png" for cell in MAIN if (RESULTS / f"mds_{slug(cell)}.png").exists()]
    text += [PLANES, *(f"![{name}]({name})\n" for name in pictures)] if pictures else []
    best = {cell: each[2] for cell, each in cells.items()}
    jobs = [
        job
        for job in jobs
        if job["cell"] in MAIN
        and job["condition"] in (BASELINE, "soft targets", METHOD, "RDL + soft targets", best[job["cell"]])
    ]
    settings = {"strengths": STRENGTHS, "images": measured.N_WORSE}
    rows = measured.table_of("robustness", jobs, measured.robustness, settings, workers)
    text += [ROBUSTNESS] if len(rows) else []
    for cell in [cell for cell in MAIN if len(rows) and (rows["cell"] == cell).any()]:
        part = rows[rows["cell"] == cell]
        figures.robustness(cell, part)
        text += robustness_section(cell, part, best[cell])
    return text


def geometry_section(cell: str, rows: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Similarities by layer, and their relation to accuracy."""
    pairs = layer_pairs(cell)
    names = [" ".join((*pair, "corr")) for pair in pairs]
    last = similarity_name(cell)
    ranked = similarity_name(cell, "spearman")
    means = rows.groupby("condition")[[*names, ranked]].mean().sort_values(last, ascending=False)
    spread = rows.groupby("condition")[last].std()
    counts = rows.groupby("condition")["seed"].count()
    accuracy = table.groupby("condition")["accuracy"].mean()
    body = []
    for name, values in means.iterrows():
        score = f"{accuracy[name]:.2f}" if name in accuracy else ""
        cells = [f"{values[key]:.3f}" + (f" ± {spread[name]:.3f}" if key == last else "") for key in names]
        body.append([str(name), *cells, f"{values[ranked]:.3f}", score])
    header = ["condition", *(" ~ ".join(pair) for pair in pairs)]
    header += [f"{' ~ '.join(PAIRS[CELLS[cell].student].last)}, ranks", "accuracy, %"]
    both = [name for name in means.index if name in accuracy]
    rho = spearmanr(means.loc[both, last], accuracy[both]).statistic
    n = "-".join(map(str, sorted({counts.min(), counts.max()})))
    text = (
        f"Seeds: {n}. Over the {len(both)} conditions, the rank correlation of similarity with accuracy is "
    )
    text += f"{rho:.2f}."
    if {METHOD, BASELINE} <= set(rows["condition"]):
        steps = paired_differences(rows, last, reference=BASELINE).set_index("condition")
        chosen = [name for name in steps.index if is_variant(name) or name == "RDL, permuted"]
        parts = [f"{shown(name)} {_short(steps.loc[name])}" for name in chosen]
        text += f" Similarity less that of labels only: {'; '.join(parts)}."
    figures = [f"similarity_{slug(cell)}.png"]
    links = [f"![{name}]({name})\n" for name in figures if (RESULTS / name).exists()]
    return [f"### {title(cell)}\n", text + "\n", *links, markdown(body, header), ""]


def _short(row: Any) -> str:
    return f"{row['difference']:+.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def over_strengths(source: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on clean images, and means over strengths, of each corruption and of all."""
    result = rows[["cell", "condition", "seed", "clean"]].copy()
    for corruption, strengths in STRENGTHS[source].items():
        result[corruption] = rows[[f"{corruption} {strength:g}" for strength in strengths]].mean(axis=1)
    result["all"] = result[list(STRENGTHS[source])].mean(axis=1)
    return result


def robust_pairs(conditions: Sequence[str], best: str) -> list[tuple[str, str]]:
    """Conditions to compare."""
    pairs = [
        (method, other) for other in (BASELINE, "soft targets") for method in dict.fromkeys((METHOD, best))
    ]
    pairs += [("soft targets", BASELINE), ("RDL + soft targets", "soft targets")]
    return [pair for pair in pairs if set(pair) <= set(conditions)]


def robustness_section(cell: str, rows: pd.DataFrame, best: str) -> list[str]:
    """Does geometry buy robustness? Accuracies on worse images, and shares of those on clean ones."""
    source = CELLS[cell].source
    means = over_strengths(source, rows)
    means["kept"] = 100 * means["all"] / means["clean"]
    columns = ["clean", *STRENGTHS[source], "all", "kept"]
    header = [*columns[:-1], "share of clean kept, %"]
    by_condition = means.groupby("condition", sort=False)[columns].mean()
    body = [[str(name), *(f"{value:.2f}" for value in values)] for name, values in by_condition.iterrows()]
    text = [f"### {title(cell)}\n", f"Seeds: {means['seed'].nunique()}.\n"]
    text += [markdown(body, ["accuracy, %", *header]), ""]
    body, lines = [], []
    for first, second in robust_pairs(list(by_condition.index), best):
        steps = {name: _step(means, name, first, second) for name in columns}
        body.append([f"{shown(first)} - {shown(second)}", *map(interval, steps.values())])
        words = f"accuracy on worse images {_word(steps['all'])}, share kept {_word(steps['kept'])}"
        answer = robust(steps["all"], steps["kept"])
        lines.append(f"- {shown(first)} beside {shown(second)}: **{answer}** ({words}).")
    figure = f"robustness_{slug(cell)}.png"
    text += [f"![{figure}]({figure})\n"] if (RESULTS / figure).exists() else []
    return [*text, markdown(body, ["difference, points", *header]), "", *lines, ""]


def robust(accuracy: pd.Series, kept: pd.Series) -> str:
    """Whether a method is more robust: better on worse images, and not only because it is on clean ones."""
    if accuracy["low"] > 0 and kept["low"] > 0:
        return "more robust"
    return "less robust" if kept["high"] < 0 else "not shown to be more robust"


def _word(step: pd.Series) -> str:
    return "higher" if step["low"] > 0 else "lower" if step["high"] < 0 else "not shown to differ"


def _step(table: pd.DataFrame, value: str, first: str, second: str) -> pd.Series:
    both = table[table["condition"].isin((first, second))]
    row = paired_differences(both, value, reference=second).iloc[0]
    return row.rename({"ci_low": "low", "ci_high": "high"})
