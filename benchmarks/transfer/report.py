"""Statistics, tables and figures of the transfer study, from finished fits.

The classes that each student gave to the test images are kept in results/predictions.npz, so that all
statistics can be computed again without the fits, without images and without a GPU.

    python benchmarks/transfer/report.py              # all that can be said of the fits that are finished
    python benchmarks/transfer/report.py --tables     # measures no student: as kept in results/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import figures
import numpy as np
import numpy.typing as npt
import pandas as pd
from compared import (
    BASELINE,
    BOTH,
    MARGIN,
    METHOD,
    TITLES,
    best_variant,
    comparisons,
    equals,
    interval,
    is_rival,
    is_variant,
    listing,
    markdown,
    p_text,
    shown,
    slug,
    title,
    verdict,
)
from conditions import CELLS, FURTHER, RATIOS, WEIGHT_OF
from sections import sections as further_sections
from setting import RESULTS, SOURCES, load
from study import CHOICES, Job, chosen_ratio, pilots, score

from neurordl.io import atomic_write, read_json, write_text

PREDICTIONS = RESULTS / "predictions.npz"
# --- finished fits ------------------------------------------------------------------------------------------


def planned() -> list[Job]:
    """The fits of all cells whose weights are chosen."""
    chosen = read_json(CHOICES) if CHOICES.exists() else {}
    return [
        Job(name, condition, chosen_ratio(cell.source, condition), seed)
        for name, cell in CELLS.items()
        for condition in cell.conditions
        if cell.source in chosen
        and BASELINE in cell.conditions
        and (condition == BASELINE or WEIGHT_OF.get(condition, condition) in chosen[cell.source])
        for seed in range(cell.seeds)
    ]


def gather() -> tuple[dict[Job, npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.uint8]]]:
    """Predictions of the finished fits and labels of the test images, and keep them in results/.

    Fits whose files are elsewhere are taken from what was kept before.
    """
    predictions, labels = _kept()
    known = dict(predictions)
    predictions = {}
    for job in planned():
        if job.file.exists():
            with np.load(job.file) as result:
                predictions[job] = result["predictions"].astype(np.uint8)
        elif job in known:
            predictions[job] = known[job]
    for source in {CELLS[job.cell].source for job in predictions} - set(labels):
        truth = load(source).test.labels
        assert truth is not None
        labels[source] = truth.numpy().astype(np.uint8)
    same = predictions.keys() == known.keys()
    if not same or any((known[job] != each).any() for job, each in predictions.items()):
        _keep(predictions, labels)
    return predictions, labels


def _kept() -> tuple[dict[Job, npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.uint8]]]:
    predictions: dict[Job, npt.NDArray[np.uint8]] = {}
    labels: dict[str, npt.NDArray[np.uint8]] = {}
    if PREDICTIONS.exists():
        with np.load(PREDICTIONS) as file:
            labels = {name.removeprefix("labels/"): file[name] for name in file if name.startswith("labels/")}
            for name in file:
                if name.startswith("jobs/"):
                    cell = name.removeprefix("jobs/")
                    jobs = [str(text).split("|") for text in file[name]]
                    table = file[f"classes/{cell}"]
                    for place, (condition, ratio, seed) in enumerate(jobs):
                        predictions[Job(cell, condition, float(ratio), int(seed))] = table[:, place]
    return predictions, labels


def _keep(predictions: Mapping[Job, npt.NDArray[np.uint8]], labels: Mapping[str, Any]) -> None:
    """Images are rows: students mostly agree on an image, so that this order is the smallest file."""
    arrays: dict[str, Any] = {f"labels/{source}": each for source, each in labels.items()}
    for cell in {job.cell: None for job in predictions}:
        jobs = [job for job in predictions if job.cell == cell]
        arrays[f"jobs/{cell}"] = np.array([f"{job.condition}|{job.ratio!r}|{job.seed}" for job in jobs])
        arrays[f"classes/{cell}"] = np.stack([predictions[job] for job in jobs], axis=1)
    with atomic_write(PREDICTIONS) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def accuracies(predictions: Mapping[Job, Any], labels: Mapping[str, Any]) -> pd.DataFrame:
    """A row per fit, with its accuracy in percent."""
    rows = [
        {
            "cell": job.cell,
            "condition": job.condition,
            "ratio": job.ratio,
            "seed": job.seed,
            "accuracy": 100 * float((classes == labels[CELLS[job.cell].source]).mean()),
        }
        for job, classes in predictions.items()
    ]
    return pd.DataFrame(rows, columns=["cell", "condition", "ratio", "seed", "accuracy"])


# --- tables and sentences -----------------------------------------------------------------------------------


def cell_table(table: pd.DataFrame, steps: pd.DataFrame, best: str) -> str:
    """The conditions of a cell, by accuracy."""
    methods = [name for name in dict.fromkeys((METHOD, best)) if name in set(table["condition"])]
    header = ["condition", "weight", "accuracy, %", "SD", "- labels", "p"]
    for method in methods:
        header += [f"{shown(method)} - it", "p", "competitive"]
    indexed = steps.set_index(["first", "second"])
    groups = table.groupby("condition", sort=False)
    order = groups["accuracy"].mean().sort_values(ascending=False).index
    rows = []
    for name in order:
        part = groups.get_group(name)
        ratio = "" if name == BASELINE else f"{part['ratio'].iloc[0]:g}"
        bold = f"**{name}**" if name in methods else name
        row = [bold, ratio, f"{part['accuracy'].mean():.2f}", f"{part['accuracy'].std():.2f}"]
        pairs = [(name, BASELINE), *((method, name) for method in methods)]
        for place, pair in enumerate(pairs):
            known = pair in indexed.index and not (place and name == BASELINE)  # the column before says it
            step = indexed.loc[pair] if known else None
            row += ["", ""] if step is None else [interval(step), p_text(step["p_holm"])]
            if place:
                judged = step is not None and is_rival(name)
                row.append(str(step["competitive"]) if judged else "")
        rows.append(row)
    return markdown(rows, header)


def improvement(steps: pd.DataFrame, method: str) -> tuple[str, str]:
    """Whether a method is better than labels only: a word, and a sentence."""
    step = steps.set_index(["first", "second"]).loc[(method, BASELINE)]
    words = {"better": "confirmed", "worse": "contradicted", "no": "not confirmed"}
    text = f"{shown(method)} - labels: {interval(step)} points, p {equals(step['p_holm'])}."
    return words[verdict(step)], text


def competitiveness(steps: pd.DataFrame, method: str) -> tuple[str, str]:
    """Whether a method is competitive with other ways to learn from a teacher: a word, and sentences."""
    rivals = steps[(steps["first"] == method) & steps["second"].map(is_rival)]
    names = {
        key: list(rivals.loc[rivals["competitive"] == key, "second"]) for key in ("yes", "no", "undecided")
    }
    verdicts = rivals.apply(verdict, axis=1)
    ahead, behind = (list(rivals.loc[verdicts == word, "second"]) for word in ("better", "worse"))
    n_yes, n = len(names["yes"]), len(rivals)
    word = "confirmed" if n_yes == n else "qualified" if n_yes else "not confirmed"
    word = "contradicted" if len(names["no"]) == n else word
    text = f"{shown(method)} is competitive with {n_yes} of {n} rivals"
    text += f" ({listing(names['yes'])})" if names["yes"] else ""
    text += f", not with {listing(names['no'])}" if names["no"] else ""
    text += f"; undecided: {listing(names['undecided'])}" if names["undecided"] else ""
    text += f". Significantly better than {listing(ahead) or 'none'}, worse than {listing(behind) or 'none'}."
    return word, text


MEANINGS = {
    "RDL, permuted": {
        "better": "the teacher's geometry of the images matters",
        "no": "no effect of the geometry is shown",
        "worse": "the teacher's geometry does harm",
    },
    "RDL, permuted within classes": {
        "better": "the geometry within classes matters, not only that of the classes",
        "no": "no effect of the geometry within classes is shown",
        "worse": "the geometry within classes does harm",
    },
    BOTH[0]: {
        "better": "RDL adds to soft targets",
        "no": "it is not shown that RDL adds to soft targets, or takes away",
        "worse": "RDL takes away from soft targets",
    },
}
"""What it means that RDL is better than with a permuted teacher, or worse, or neither; and what it adds."""


def controls(steps: pd.DataFrame) -> list[str]:
    """What the permuted teachers say of the gain, and what RDL adds to soft targets."""
    pairs = [*((METHOD, name) for name in MEANINGS if name != BOTH[0]), BOTH]
    indexed, lines = steps.set_index(["first", "second"]), []
    for pair in pairs:
        if pair in indexed.index:
            step = indexed.loc[pair]
            meaning = MEANINGS[pair[0] if pair == BOTH else pair[1]][verdict(step)]
            names = f"{shown(pair[0])} - {shown(pair[1])}"
            lines.append(f"{names}: {interval(step)} points, p {equals(step['p_holm'])}: {meaning}.")
    return lines


def sentences(name: str, table: pd.DataFrame, steps: pd.DataFrame, best: str) -> str:
    """The abstract's sentence, judged for a cell."""
    cell = CELLS[name]
    methods = list(dict.fromkeys((METHOD, best)))
    gains = [improvement(steps, method) for method in methods]
    ranks = [competitiveness(steps, method) for method in methods]

    def words(results: Sequence[tuple[str, str]]) -> str:
        rest = f" (best variant: **{results[1][0]}**)" if len(results) > 1 else ""
        return f"**{results[0][0]}**{rest}. {' '.join(text for _, text in results)}"

    errors = 100 - table.loc[table["condition"] == METHOD, "accuracy"].mean()
    margin = f"The margin is {-100 * MARGIN / errors:.0f} % of the errors of {METHOD}."
    if errors <= -MARGIN:
        margin += " It is as large as all of its errors: hardly any rival could fail this test."
    depth = f"cifar_resnet of {SOURCES[cell.source].depth} layers"
    other = f"cifar_resnet of {cell.options['depth']} layers" if "depth" in cell.options else cell.student
    lines = [
        '"Significantly improved visual classification performance when compared to baseline networks that '
        f'did not use transfer learning": {words(gains)}',
        *controls(steps),
        f'"Competitive with other transfer learning techniques": {words(ranks)} {margin}',
        '"While allowing for architectural differences between student and teacher": '
        f"**{gains[0][0]}** for a student {other} and a teacher {depth}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


# --- the report ---------------------------------------------------------------------------------------------


@cache
def validation(source: str) -> dict[str, Any]:
    """What the pilots chose."""
    chosen: dict[str, Any] = read_json(CHOICES)[source]
    return chosen


def compare_cells(predictions: Mapping[Job, Any], labels: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """For each cell the accuracies, the comparisons, and the best variant of RDL."""
    frame, result = accuracies(predictions, labels), {}
    for name, table in frame.groupby("cell", sort=False):
        cell = CELLS[str(name)]
        right = {
            (job.condition, job.seed): classes == labels[cell.source]
            for job, classes in predictions.items()
            if job.cell == name
        }
        conditions = list(table["condition"].unique())
        best = best_variant(validation(cell.source), conditions)
        if {BASELINE, METHOD} <= set(conditions):
            result[str(name)] = (table, comparisons(table, right, best), best)
    return result


def summary_table(cells: Mapping[str, tuple[Any, ...]]) -> str:
    """A line for each cell."""
    rows = []
    for name, (table, steps, best) in cells.items():
        counts = table.groupby("condition")["seed"].count()
        n = "-".join(map(str, sorted({counts.min(), counts.max()})))
        row = [title(name), n]
        for method in dict.fromkeys((METHOD, best)):
            step = steps.set_index(["first", "second"]).loc[(method, BASELINE)]
            rivals = steps[(steps["first"] == method) & steps["second"].map(is_rival)]["competitive"]
            tally = ", ".join(
                f"{word} {number}"
                for word in ("yes", "no", "undecided")
                if (number := (rivals == word).sum())
            )
            row += [] if method == METHOD else [shown(method)]
            word = competitiveness(steps, method)[0]
            row += [f"{interval(step)} ({improvement(steps, method)[0]})", f"{tally} ({word})"]
        rows.append([*row, *[""] * (7 - len(row))])
    header = ["cell", "seeds", "RDL - labels", "competitive with rivals"]
    header += ["other variant by validation", "it - labels", "competitive with rivals"]
    return markdown(rows, header)


def pilot_scores() -> pd.DataFrame:
    """Accuracies on validation images, in percent, of the finished pilots and of those kept in results/."""
    keys, file = ["cell", "condition", "ratio", "seed"], RESULTS / "pilots.csv"
    rows = [
        {
            "cell": job.cell,
            "condition": job.condition,
            "ratio": job.ratio,
            "seed": job.seed,
            "accuracy": 100 * score(job),
        }
        for name in CELLS
        for job in pilots(name)
        if job.file.exists()
    ]
    tables = [pd.DataFrame(rows)] if rows else []
    tables += [pd.read_csv(file)] if file.exists() else []
    if not tables:
        return pd.DataFrame(columns=[*keys, "accuracy"])
    table = pd.concat(tables, ignore_index=True).drop_duplicates(keys)
    write_text(file, table.to_csv(index=False, float_format="%.6g"))
    return table


def pilots_table(table: pd.DataFrame) -> str:
    """Validation accuracies by weight, the best one bold; means of the seeds."""
    ratios = sorted(table["ratio"].unique())
    rows = []
    for (cell, name), part in table.groupby(["cell", "condition"], sort=False):
        means = part.groupby("ratio")["accuracy"].mean()
        texts = {ratio: f"{mean:.2f}" for ratio, mean in means.items()}
        texts[means.idxmax()] = f"**{means.max():.2f}**"
        rows.append([str(cell), str(name), *(texts.get(ratio, "") for ratio in ratios)])
    return markdown(rows, ["cell", "condition", *(f"{ratio:g}" for ratio in ratios)])


def overview(cells: Mapping[str, tuple[Any, ...]]) -> str:
    """The verdicts of all cells in sentences."""
    gains = [improvement(steps, METHOD)[0] for _, steps, _ in cells.values()]
    ranks = [competitiveness(steps, METHOD)[0] for _, steps, _ in cells.values()]

    def tally(words: Sequence[str]) -> str:
        order = [
            word for word in ("confirmed", "qualified", "not confirmed", "contradicted") if word in words
        ]
        return ", ".join(f"{word} in {words.count(word)}" for word in order)

    return (
        f'With RDL on one layer, in {len(cells)} cells: "significantly improved visual classification '
        'performance when compared to baseline networks that did not use transfer learning" is '
        f'{tally(gains)}; "competitive with other transfer learning techniques" is {tally(ranks)}. A cell is '
        "a data set, a number of labels and a student of another architecture or depth than the teacher."
    )


def variants_table(table: pd.DataFrame) -> str:
    """RDL, its variants and soft targets with their best weight, and each data set's accuracy."""
    chosen = table[table["condition"].map(lambda name: is_variant(name) or name == "soft targets")]
    chosen = chosen.assign(source=[CELLS[cell].source for cell in chosen["cell"]])
    chosen = chosen.assign(batch=[CELLS[cell].batch for cell in chosen["cell"]])
    means = chosen.groupby(["condition", "batch", "source", "ratio"])["accuracy"].mean()
    best = means.loc[means.groupby(["condition", "batch", "source"]).idxmax()].reset_index("ratio")
    order = best["accuracy"].unstack("source").rank().mean(axis=1).sort_values(ascending=False).index
    rows = []
    for name, batch in order:
        row = [name, str(batch)]
        for source in TITLES:
            known = (name, batch, source) in best.index
            values = best.loc[(name, batch, source)] if known else None
            row += ["", ""] if values is None else [f"{values['accuracy']:.2f}", f"{values['ratio']:g}"]
        rows.append(row)
    header = ["condition", "stimuli in a batch"]
    return markdown(rows, [*header, *(text for name in TITLES.values() for text in (name, "weight"))])


def pilots_section() -> list[str]:
    """What validation images say of weights, of variants of RDL, and of the number of stimuli in a batch."""
    table = pilot_scores()
    if table.empty:
        return []
    main, further = table["cell"].isin(read_json(CHOICES)), table["cell"].isin(FURTHER)
    chosen = read_json(CHOICES)
    edges = {
        ratio: [
            f"{shown(name)} ({TITLES[source]})"
            for source, part in chosen.items()
            for name, each in part.items()
            if each["ratio"] == ratio
        ]
        for ratio in (min(RATIOS), max(RATIOS))
    }
    note = "; ".join(f"{ratio:g} for {', '.join(names)}" for ratio, names in edges.items() if names)
    text = ["## Choice of weights\n", f"{PILOTS} At the edge of the candidates: {note or 'none'}.\n"]
    text += [pilots_table(table[main]), ""]
    variants = ~main & ~further
    if variants.any():
        text += ["## Variants of RDL\n", f"{VARIANTS}\n", variants_table(table[~further]), ""]
        text += ["By weight:\n", pilots_table(table[variants]), ""]
    if further.any():
        text += ["## Further trials\n", *further_trials(table[further]), ""]
    return text


def further_trials(table: pd.DataFrame) -> list[str]:
    """Trials with few weights, both seeds beside each other, and how far the seeds lie apart."""
    keys = ["cell", "condition", "ratio"]
    scores = table.pivot_table(index=keys, columns="seed", values="accuracy", sort=False)
    spread = (scores.max(axis=1) - scores.min(axis=1)).groupby(lambda key: CELLS[key[0]].source).max()
    apart = " and ".join(f"{value:.1f} points ({TITLES[name]})" for name, value in spread.items())
    scores["mean"] = scores.mean(axis=1, skipna=False)
    rows = [
        [cell, condition, f"{ratio:g}", *("" if np.isnan(x) else f"{x:.2f}" for x in values)]
        for (cell, condition, ratio), values in zip(scores.index, scores.to_numpy(), strict=True)
    ]
    note = (
        f"{TRIED} The seeds of a row lie up to {apart} apart: smaller differences of conditions say little.\n"
    )
    return [note, markdown(rows, ["cell", "condition", "weight", *map(str, scores.columns)])]


PILOTS = "Accuracy on 5,000 validation images by the weight: mean of two seeds that are not tested."
VARIANTS = "Accuracy on validation images with the best of five weights, mean of two seeds; by mean rank."
TRIED = (
    "Accuracy on validation images of fits by `neurordl.fit` on a CPU, with few weights; what is not in the "
    "table was not run."
)
INTRODUCTION = """# Representational distance learning beside other ways to transfer knowledge: results

Written by `python benchmarks/transfer/report.py` from the predictions in `predictions.npz`; all sentences
and verdicts are computed. Words in quotation marks are from the abstract of McClure & Kriegeskorte (2016),
of which no more could be read.

- *Accuracy*: percent of 10,000 test images; SD over seeds.
- *Differences*: percentage points, paired over seeds, with 95 % t intervals. They hold for other seeds
  (labelled images, stimuli, initial weights) and these test images.
- *p*: McNemar's exact test (`scipy.stats.binomtest` of the discordant images) of the two students of each
  seed. It holds for other test images and these students. Seeds share the test images, so their discordant
  images are not pooled: p is twice the median over seeds, which is valid for any dependence (Rüger 1978),
  with Holm's correction over all tests of a cell.
- *Significant*: the interval leaves out 0, and p < .05.
- *Columns*: "- labels" is the condition less labels only; "RDL - it" is RDL less the condition.
- *Conditions* are explained in [which transfer loss?](../../../docs/transfer_losses.md) and in
  [the study](../README.md).
- *Verdicts*: an improvement is confirmed if it is significant, contradicted if the opposite is, and not
  confirmed otherwise. "Competitive" is confirmed if RDL is competitive with all rivals, qualified if with
  some of them, contradicted if it is worse than all by more than the margin, and not confirmed otherwise.
  "Allowing for architectural differences" has the verdict of the improvement, for that pair of networks.
- *Competitive*: the interval of the difference lies above -1 point (no: below; undecided: around it).
  Rivals are other ways to learn from the teacher; deep supervision, which has none, is not counted.
- *Weight*: transfer losses by task loss at the first step, the best of five on validation images with two
  other seeds in the cell of 10 (MNIST) or 50 (CIFAR-100) labels a class and a small_cnn; other cells of the
  data set take the same weights. The best variant of RDL is that of the same pilots.
"""


def write(cells: Mapping[str, tuple[Any, ...]], sections: Sequence[str]) -> None:
    """Write the tables."""
    tables = pd.concat([table for table, _, _ in cells.values()])
    steps = pd.concat([each.assign(cell=name) for name, (_, each, _) in cells.items()])
    write_text(RESULTS / "fits.csv", tables.to_csv(index=False, float_format="%.6g"))
    columns = ["cell", *(column for column in steps.columns if column != "cell")]
    write_text(RESULTS / "comparisons.csv", steps[columns].to_csv(index=False, float_format="%.5g"))
    text = [INTRODUCTION, "## In short\n", overview(cells) + "\n", summary_table(cells), ""]
    for name, (table, each, best) in cells.items():
        counts = table.groupby("condition")["seed"].count()
        cell = CELLS[name]
        part_of = f"{counts.max()} of " if counts.max() < cell.seeds else ""
        few = [f"{key}: {n}" for key, n in counts.items() if n < counts.max()]
        note = f"; fewer of {', '.join(few)}" if few else ""
        absent = [key for key in cell.conditions if key not in counts.index]
        note += f"; not run: {listing(absent)}" if absent else ""
        stimuli = f"{cell.stimuli:,} stimuli, {cell.steps:,} steps, {part_of}{cell.seeds} seeds{note}."
        text += [f"## {title(name)}\n", stimuli + "\n", sentences(name, table, each, best) + "\n"]
        pictures = [f"{kind}_{slug(name)}.png" for kind in ("accuracy", "rivals")]
        text += [f"![{file}]({file})\n" for file in pictures if (RESULTS / file).exists()]
        text += [cell_table(table, each, best), ""]
    counts_figure = "label_counts.png"
    if (RESULTS / counts_figure).exists():
        text += ["## Errors by the number of labels\n", f"![{counts_figure}]({counts_figure})\n"]
    text += [*sections, *pilots_section()]
    write_text(RESULTS / "README.md", "\n".join(text).rstrip() + "\n")


def report(workers: int = 2) -> None:
    """Write all results; without workers only from what was measured before."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    predictions, labels = gather()
    cells = compare_cells(predictions, labels)
    if not cells:
        print("no cell has finished fits of both labels and RDL")
        return
    figures.draw(cells)
    write(cells, further_sections(predictions, cells, workers))
    print(f"{len(predictions)} fits of {len(planned())}: see {RESULTS / 'README.md'}")


def main(arguments: Sequence[str] = ()) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="measure no student")
    parser.add_argument("--workers", type=int, default=2, help="processes that measure students")
    options = parser.parse_args(arguments)
    report(0 if options.tables else options.workers)


if __name__ == "__main__":
    main(sys.argv[1:])
