"""What a report says: the sections of a run, of its evaluations, of several runs, and of a study."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from neurordl.experiments import (
    CONTROLS,
    TAUGHT,
    all_differences,
    paired_differences,
)
from neurordl.io import sha256_file, sha256_state
from neurordl.plots import (
    plot_layer_roi,
    plot_model_time,
    plot_paired,
    plot_scores,
    plot_time_course,
    plot_training,
    plot_transfer,
)
from neurordl.plots.training import bounds_of, column_name, transfer_path
from neurordl.report.page import Block, Figure, Notes, Section, Table, Text, draw, ids_text, number
from neurordl.report.time import TimeTests
from neurordl.rsa.inference.infer import mean_interval
from neurordl.rsa.scores import p_text, rows_of_means, time_axes
from neurordl.teachers.base import Record
from neurordl.training.run import (
    BEST,
    CHECKPOINT_NAME,
    LAST,
    Run,
    few_steps,
    same_runs,
    same_start,
    tell_same_runs,
)
from neurordl.validate import counted, listed

_MOST_ROIS, _MOST_CELLS, _MOST_GROUPS, _MOST_MEASURES = 12, 600, 6, 4  # that figures have room for
_WIDEST = 4  # columns of values that paper has room for
_MOST_DIFFERENCES = 60  # that a table has room for on paper
_FEW = 12  # values that the description of a figure reads out, and layers that a sentence names
_LONG = 1000  # letters of a list of values that a table has room for
OF_TEACHER = "of the network that teaches"
"""End of the name of an RDM that is not of a ROI, but of a layer of the network that teaches."""
_DRAWN = re.compile(r"\d+ of \d+ drawn by seed \d+$")  # in the source of images
_SCORED = ("test_accuracy", "heldout_rdm_similarity")
_CEILINGS = ("ceiling_lower", "ceiling_upper")
_FLAT = 1e-9  # a width of an interval that is only rounding
_CONDITIONS = {
    TAUGHT: "as described",
    "labels": "the same losses with weight 0",
    "permuted": "the ids of the training stimuli were permuted in the teacher",
    "permuted-within": "the ids were permuted in the teacher among stimuli of the same label",
    "untrained": "the initial weights, without a step of training",
}
_CHECKSUM = re.compile("[0-9a-f]{64}")
_CITED = {
    "rdl": "McClure, P. & Kriegeskorte, N. (2016). Representational distance learning for deep neural "
    "networks. Frontiers in Computational Neuroscience 10:131. https://doi.org/10.3389/fncom.2016.00131",
    "rsa": "Kriegeskorte, N., Mur, M. & Bandettini, P. (2008). Representational similarity analysis: "
    "connecting the branches of systems neuroscience. Frontiers in Systems Neuroscience 2:4. "
    "https://doi.org/10.3389/neuro.06.004.2008",
    "ceiling": "Nili, H. et al. (2014). A toolbox for representational similarity analysis. PLoS "
    "Computational Biology 10:e1003553. https://doi.org/10.1371/journal.pcbi.1003553 (noise ceilings)",
    "bootstrap": "Schütt, H. H. et al. (2023). Statistical inference on representational geometries. eLife "
    "12:e82566. https://doi.org/10.7554/eLife.82566",
    "fdr": "Benjamini, Y. & Hochberg, Y. (1995). Controlling the false discovery rate. Journal of the Royal "
    "Statistical Society B 57:289–300.",
    "clusters": "Maris, E. & Oostenveld, R. (2007). Nonparametric statistical testing of EEG- and MEG-data. "
    "Journal of Neuroscience Methods 164:177–190. https://doi.org/10.1016/j.jneumeth.2007.03.024",
}


@dataclass(frozen=True, eq=False)
class Scores:
    """The table of an evaluation, and its record as `Evaluation.save` writes it."""

    frame: pd.DataFrame
    record: Mapping[str, Any]
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    roi_differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    name: str = "evaluation"
    tests: TimeTests = field(default_factory=TimeTests)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the evaluation."""
        settings: Mapping[str, Any] = self.record.get("settings") or {}
        return settings

    @property
    def noun(self) -> str:
        """What was compared: layers of a network, or models."""
        return "model" if self.settings.get("dissimilarity") in (None, "as given") else "layer"

    @property
    def means(self) -> pd.DataFrame:
        """The rows of means, and of the mean RDM; over time, those of the highest mean of a layer."""
        return rows_of_means(self.frame)


@dataclass(frozen=True, eq=False)
class Entry:
    """A run and its evaluations, or only one of the two; and the folder that they were read from."""

    name: str
    run: Run | None = None
    scores: Sequence[Scores] = ()
    folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """The table of a study, with its columns of measured values and the condition to subtract.

    ``settings`` are those that were recorded with it, and ``runs`` its finished runs by name, such as
    "teacher_0", with their evaluations; both are empty where only the table is known.
    """

    name: str
    frame: pd.DataFrame
    measures: Sequence[str]
    reference: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Columns that say which rows belong together."""
        apart = ("condition", "comparison", *_CEILINGS)
        return [str(name) for name in self.frame if name not in (*self.measures, *apart)]

    @property
    def entries(self) -> list[Entry | None]:
        """The run of each row, as far as they are known."""
        if "seed" not in self.frame:
            return [None] * len(self.frame)
        pairs = zip(self.frame["condition"], self.frame["seed"], strict=True)
        return [self.runs.get(f"{condition}_{seed}") for condition, seed in pairs]

    @property
    def taught(self) -> Run | None:
        """A run with the teacher as it is, if this is a study of `fit_controls`."""
        controlled = set(self.frame["condition"]) <= {*CONTROLS, TAUGHT} and "losses" in self.settings
        rows = zip(self.frame["condition"], self.entries, strict=True)
        runs = (entry.run for condition, entry in rows if condition == TAUGHT and entry is not None)
        return next(runs, None) if controlled else None

    def scored(self, measure: str) -> pd.Series | None:
        """A mean of an evaluation that is the value of a row, if all rows have such means of one kind."""
        means = []
        for entry, value in zip(self.entries, self.frame[measure], strict=True):
            tables = [part.means for part in (entry.scores if entry else ())]
            equal = [
                row for table in tables for _, row in table.iterrows() if abs(row["score"] - value) < _FLAT
            ]
            if pd.notna(value) and not equal:
                return None
            means += equal[:1]
        same = ["layer", "roi", "subject", "comparison", "pairs", "n_stimuli", "n_subjects", "dissimilarity"]
        kinds = {tuple(row[same].astype(str)) for row in means}
        return means[0] if len(kinds) == 1 else None

    @property
    def starts(self) -> str:
        """Says that all seeds start from the same weights, if they do and the study is one of seeds alone."""
        if self.units != ["seed"]:
            return ""
        runs = [entry.run if entry is not None else None for entry in self.entries]
        starts = {
            seed: run.record["student"] if run else {}
            for seed, run in zip(self.frame["seed"], runs, strict=True)
        }
        return same_start(starts)

    @cached_property
    def repeated(self) -> list[str]:
        """Conditions whose seeds are one run."""
        if not self.starts:
            return []
        keys = zip(self.frame["condition"], self.frame["seed"], strict=True)
        runs = [entry.run if entry is not None else None for entry in self.entries]
        return same_runs(dict(zip(keys, runs, strict=True)))

    @property
    def once(self) -> pd.DataFrame:
        """The table for figures: what is one run has one row, unless others are compared with its rows."""
        again = self.frame.duplicated("condition") & self.frame["condition"].isin(self.repeated)
        needed = self.reference not in self.repeated or set(self.frame["condition"]) - set(self.repeated)
        return self.frame[~(again & ~(self.frame["condition"].eq(self.reference) & bool(needed)))]

    @property
    def units(self) -> list[str]:
        """The keys that are numbers, such as seeds: what means and intervals are over."""
        return [name for name in self.keys if pd.api.types.is_numeric_dtype(self.frame[name])]

    def groups(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Parts of the table, by the keys that are text, such as an experiment."""
        by = [name for name in self.keys if name not in self.units]
        parts = self.frame.groupby(by, sort=False) if by else [((), self.frame)]
        for values, part in parts:
            yield ", ".join(map(str, values)), part


def entry_sections(entry: Entry, several: bool = False) -> Iterator[Section]:
    """The sections of a run and its evaluations; of several, each has its name as a heading."""
    level = 3 if several else 2
    run, scores = entry.run, sorted(entry.scores, key=lambda part: part.settings.get("pairs") != "held-out")
    scores = _named(scores)
    yield Section(entry.name if several else "Methods", list(map(Text, _methods(run, scores))))
    yield Section("What was matched with what", list(_matched(run, scores)), level)
    if run is not None:
        yield Section("Training", list(_training(run)), level)
    for part in scores:
        which = f"{part.settings.get('pairs') or 'all'} pairs"
        nouns = f"{_capital(part.noun)}s"
        yield Section(f"{nouns} against the noise ceiling: {which}", list(_layers(part, which)), level)
    yield Section("Notices", list(_notices(run, scores)), level)
    records: dict[str, Mapping[str, Any]] = {"run": run.record} if run is not None else {}
    records |= {part.name: part.record for part in scores}
    yield Section("Settings, versions and checksums", list(_settings(run, records)), level)


def _named(scores: Sequence[Scores]) -> list[Scores]:
    """Evaluations with a name that no other has, such as "evaluation of held-out pairs"."""
    names = [f"evaluation of {part.settings.get('pairs', 'all')} pairs" for part in scores]
    numbered = [f"{name} ({names[: k + 1].count(name)})" for k, name in enumerate(names)]
    names = [long if names.count(name) > 1 else name for name, long in zip(names, numbered, strict=True)]
    return [replace(part, name=name) for part, name in zip(scores, names, strict=True)]


def _methods(run: Run | None, scores: Sequence[Scores]) -> Iterator[str]:
    """Paragraphs for a paper, with what the records say and nothing else."""
    if run is not None:
        yield " ".join(_training_sentences(run))
    for part in scores:
        yield " ".join(_scoring_sentences(part))
    records = [*([run.record] if run is not None else []), *(part.record for part in scores)]
    used = dict.fromkeys(
        f"neurordl {versions['neurordl']} and PyTorch {versions['torch']}"
        for record in records
        if {"neurordl", "torch"} <= set(versions := record.get("versions") or {})
    )
    if used:
        yield f"The software was {' and '.join(used)}."


def _training_sentences(run: Run) -> Iterator[str]:
    record = run.record
    yield _fit_sentence(run, f"seed {(record.get('settings') or {}).get('seed')}")
    yield from _task_sentences(run)
    if tested := record.get("test"):
        yield f"Of {_test_images(tested)} it classified {tested['accuracy']:.1%} correctly."
    yield from _stimuli_sentence(run)
    if best := record.get("best"):
        yield f"The weights are those of epoch {best['epoch']}, whose validation loss was lowest."


def _fit_sentence(run: Run, seeds: str) -> str:
    settings, optimizer, student = (
        run.record.get(name) or {} for name in ("settings", "optimizer", "student")
    )
    network = (student.get("spec") or {}).get("name") or student.get("class")
    steps = f" of {counted(settings['steps_per_epoch'], 'step')}" if "steps_per_epoch" in settings else ""
    start = f", with the weights of {student[CHECKPOINT_NAME]}," if CHECKPOINT_NAME in student else ""
    knobs = [
        f"{text} {optimizer[name]:g}"
        for name, text in (("lr", "learning rate"), ("weight_decay", "weight decay"))
        if isinstance(optimizer.get(name), int | float)
    ]
    schedule = settings.get("optimization.scheduler")
    knobs += [f"{schedule} schedule"] if isinstance(schedule, str) else []
    batches = [
        f"{number(settings[f'batches.{name}'])} {text}"
        for name, text in (("labelled", "labelled images"), ("stimuli", "stimuli"))
        if settings.get(f"batches.{name}") and run.record.get(name)
    ]
    knobs += [f"batches of at most {' and '.join(batches)}"] if batches else []
    return (
        f"The student ({network}, {counted(student['parameters'], 'parameter')}){start} was trained for "
        f"{counted(settings['epochs'], 'epoch')}{steps} with {optimizer.get('class')} "
        f"({', '.join([*knobs, seeds])})."
    )


def _task_sentences(run: Run) -> Iterator[str]:
    objective, labelled = run.record.get("objective") or {}, run.record.get("labelled") or {}
    losses = objective.get("losses") or {}
    if objective.get("task") and labelled:
        size = f"{counted(labelled['n'], 'labelled image')}" if "n" in labelled else "labelled images"
        classes = f" of {len(run.classes)} classes" if run.classes else ""
        drawn = _DRAWN.search(str(labelled.get("source") or ""))
        of_all = f" ({drawn[0]})" if drawn else ""
        yield f"Its task ({objective['task']}) had {size}{classes}{of_all}."
    if losses and not objective.get("task"):
        yield "It had no task: it learned from the teacher alone."
    for loss in losses.values():
        yield _loss_sentence(loss)
    if not losses:
        yield "No transfer loss was used: the student learned from labels only."


def _test_images(tested: Record) -> str:
    known = f", of which {number(tested['trained_on'])} were trained on," if tested["trained_on"] else ""
    return f"{number(tested['n'])} test images{known}"


def _stimuli_sentence(run: Run) -> Iterator[str]:
    counts = {"fitted": run.fitted_ids, "used to choose the epoch": run.validation_ids}
    counts |= {"held out": run.held_out_ids}
    stimuli = [f"{number(len(ids))} were {use}" for use, ids in counts.items() if ids]
    if stimuli:
        yield f"Of the stimuli, {_joined(stimuli)}."
    shown = {name for part in run.trained_on[0]["labelled"] for name in part["ids"]}
    if labels := [name for name in run.held_out_ids if name in shown]:
        yield f"Labels of {len(labels)} of the held-out ones were trained on, by their ids: {listed(labels)}."


def _loss_sentence(loss: Record) -> str:
    teacher = loss.get("teacher") or {}
    layers = " and ".join(str(name) or "output" for name in loss.get("layers") or ())
    subjects, pooled = teacher.get("subjects") or (), teacher.get("pool") == "mean"
    source = [str(teacher.get("model") or teacher.get("teacher"))]
    if subjects:
        averaged = ", averaged" if pooled and len(subjects) > 1 else ""
        source = [f"{counted(len(subjects), 'subject')}{averaged}"]
    source += [
        f"{name} {teacher[key]}" for name, key in (("ROI", "roi"), ("layer", "layer")) if teacher.get(key)
    ]
    weight = loss.get("weight")
    weighted = f"with weight {f'{weight:g}' if isinstance(weight, int | float) else weight}"
    if "comparison" in loss:
        source += [f"{teacher['dissimilarity']} dissimilarities"] if teacher.get("dissimilarity") else []
        text = (
            f"The RDM of layer {layers} ({loss.get('dissimilarity')} dissimilarities) was fitted to that of "
        )
        text += f"the teacher ({', '.join(source)}), compared by {loss['comparison']}, {weighted}"
    else:
        text = f"{loss.get('loss')}{f' on layer {layers}' if layers else ''} was added {weighted}"
        text += f" (teacher: {', '.join(source)})" if teacher else ""
    return text + (f"; as a control, {control}." if (control := _control(loss)) else ".")


def _control(loss: Record) -> str:
    if loss.get("weight") == 0:
        return "the loss had no effect (weight 0)"
    control = (loss.get("teacher") or {}).get("control") or {}
    within = " within groups" if control.get("within") else ""
    return f"the ids of the teacher were permuted{within} (seed {control['permuted']})" if control else ""


def _scoring_sentences(scores: Scores) -> Iterator[str]:
    settings, means = scores.settings, scores.means[scores.means["subject"] == "mean"]
    people = scores.frame[~scores.frame["subject"].isin(["mean", "group"])]["subject"].nunique()
    rois, layers = [name for name in means["roi"].unique() if name], list(means["layer"].unique())
    named = f" ({', '.join(name or 'output' for name in layers)})" if len(layers) <= _FEW else ""
    nouns = f"each of {len(layers)} {scores.noun}s" if len(layers) > 1 else f"a {scores.noun}"
    measure = "" if scores.noun == "model" else f", by {settings['dissimilarity']} dissimilarities,"
    if networks := settings.get("networks"):
        measure = f" of {_joined(networks)}{measure}"
    where = f" in {listed(rois, most=6)}" if rois else ""
    subjects = f"each of {number(people)} subjects" if people != 1 else "a subject"
    pairs = f"on {settings.get('pairs')} pairs of {number(settings.get('n_stimuli'))} stimuli"
    controls = settings.get("controlled") or []
    beyond = f"; {listed(controls, most=6)} {'were' if len(controls) > 1 else 'was'} controlled for"
    if models := settings.get("models"):  # of a regression: rows are not models
        yield (
            f"The RDM of {subjects}{where} was regressed on those of {len(models)} models "
            f"({listed(models, most=6)}) {pairs}{beyond if controls else ''}. The table has the "
            f"{settings.get('comparison')}."
        )
    else:
        yield (
            f"The RDM of {nouns}{named}{measure} was compared with that of {subjects}{where} by "
            f"{settings.get('comparison')} {pairs}{beyond if controls else ''}."
        )
    if "time" in scores.frame:
        times = scores.frame["time"].dropna()
        n_times = counted(times.nunique(), "time")
        yield f"The RDMs were those of {n_times} from {number(times.min())} to {number(times.max())} s."
    yield from scores.tests.sentences()
    pooled = sorted({int(n) for n in means["n_subjects"].dropna() if n})
    if pooled and pooled != [people]:
        new = " whose RDMs were not fitted" if means["fitted"].str.endswith("subjects: no").all() else ""
        sizes = " to ".join(map(str, dict.fromkeys([pooled[0], pooled[-1]])))
        yield f"Means are over the {sizes} of them{new}."
    yield from (f"{_capital(text)}." for text in settings.get("leaks", ()))
    over = next((name for name in means["generalizes_to"] if name), "")
    if means["ci_low"].notna().any():
        test = settings.get("test", "one-sided, mean above zero")
        tested = f"Intervals (95 %, two-sided) and p-values ({test})"
        yield f"{tested} {_inference(scores, over)}."
    if families := [name for name in means["family"].unique() if name]:
        yield f"P-values were corrected by the false discovery rate over {' and '.join(families)}."
    if means["ceiling_lower"].notna().any():
        yield "The noise ceiling was computed from the same subjects and pairs as the means."


def _inference(scores: Scores, over: str) -> str:
    """Where intervals and p-values come from."""
    settings = scores.settings
    if not settings.get("bootstrap"):
        return f"come from a t test over subjects and generalize to new {over}"
    seed = (settings.get("seeds") or {}).get("bootstrap")
    resamples = f"{number(settings.get('n_bootstrap'))} resamples of {over}"
    resamples += f" ({counted(len(set(settings['groups'])), 'group')})" if settings.get("groups") else ""
    resamples += (
        f", with variances by {settings['variance']}" if settings.get("variance") == "components" else ""
    )
    return (
        f"come from {resamples}{f' (seed {seed})' if seed is not None else ''}, and generalize to new {over}"
    )


def _matched(run: Run | None, scores: Sequence[Scores]) -> Iterator[Block]:
    if run is not None:
        for name, text in (run.record.get("matches") or {}).items():
            cells = [re.split(r"\s{2,}", line.strip(), maxsplit=2) for line in str(text).splitlines()]
            rows = [[*row, "", ""][:3] for row in cells]
            yield Table(f"Training, {name}: matched by id", ("", "number", "ids"), rows)
            for part, ids in (run.record.get("unmatched") or {}).get(name, {}).items():
                yield from _folded_ids(f"Training, {name}: {part} ids", ids)
        parts = {"fitted": run.fitted_ids, "validation": run.validation_ids, "held out": run.held_out_ids}
        rows = [[name, number(len(ids))] for name, ids in parts.items()]
        yield Table("Stimuli of the run", ("stimuli", "number"), rows)
        if run.fitted_subjects:
            yield Text(f"Subjects whose data were fitted: {ids_text(run.fitted_subjects)}.")
        for name, ids in parts.items():
            yield from _folded_ids(f"Ids of the stimuli: {name}", ids)
    for part in scores:
        match = part.record.get("match") or {}
        names = {"matched": "matched", "missing": "not in the RDMs", "unused": "only in the RDMs"}
        rows = [[text, number(len(match.get(name, ())))] for name, text in names.items()]
        rows += [["scored", number(part.settings.get("n_stimuli"))]]
        rows += [["in another order in the RDMs", number(match.get("reordered"))]]
        yield Table(f"{_capital(part.name)}: stimuli and RDMs, matched by id", ("stimuli", "number"), rows)
        for name in ("missing", "unused"):
            yield from _folded_ids(f"{_capital(part.name)}: ids {names[name]}", match.get(name, ()))


def _folded_ids(title: str, ids: Sequence[str]) -> Iterator[Block]:
    if ids:
        yield Text(ids_text(ids), f"{title} ({len(ids):,})")


def _training(run: Run) -> Iterator[Block]:
    history = run.history
    if not len(history) or not history["epoch"].any():
        yield Text("The run has no epochs: its student has its initial weights.")
        return
    if text := few_steps(run.record):
        yield Text(f"{_capital(text)}.")
    first, last = history.iloc[0], history.iloc[-1]
    terms = [str(name) for name in history if name not in ("epoch", "step", "lr", "seconds")]
    changes = [f"{name} from {number(first[name])} to {number(last[name])}" for name in terms]
    text = f"Losses by epoch, from epoch {number(first['epoch'])} to {number(last['epoch'])}: "
    yield draw(partial(plot_training, run), "Training curves", f"{text}{'; '.join(changes)}.")
    if paths := transfer_path(run):
        ends = [f"{name} from {number(x.iloc[0])} to {number(x.iloc[-1])}" for name, x in _ends(paths)]
        text = "Task loss of labelled images against the similarity with the teacher, epoch by epoch from "
        text += "the open mark. Down and to the right, both were learned."
        title, spoken = "Task loss and similarity by epoch", f"{text} {_capital('; '.join(ends))}."
        yield draw(partial(plot_transfer, run), title, spoken, text)
    kept = (run.record.get("best") or {}).get("epoch")
    shown = history[history["epoch"].isin([first["epoch"], last["epoch"], kept])]
    rows = [[number(row["epoch"]), *(number(row[name], 4) for name in terms)] for _, row in shown.iterrows()]
    note = f"; the weights of epoch {kept} were kept" if kept else ""
    yield Table(f"First and last epoch{note}", ("epoch", *terms), rows)
    every = [[number(value, 4) for value in row] for row in history.to_numpy().tolist()]
    yield Table("All epochs", list(map(str, history)), every, folded=True)


def _ends(paths: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, pd.Series]]:
    """The values along the path of task loss and similarities, by name."""
    yield "task loss", next(iter(paths.values()))["task"]
    for column, path in paths.items():
        yield f"similarity ({column})", path["similarity"]


def _layers(scores: Scores, which: str) -> Iterator[Block]:
    frame, means = scores.frame, scores.means
    yield Text(f"{scores.record.get('title') or 'Mean similarities of RDMs'}.")
    rois = list(dict.fromkeys(frame["roi"]))
    chosen = rois[:_MOST_ROIS] if len(rois) > 1 else None
    text = "Means with their intervals, subjects as dots, and the noise ceiling as a band."
    if len(rois) > _MOST_ROIS:
        text += f" Shown are the first {_MOST_ROIS} of {len(rois)} ROIs."
    title, spoken = f"{_capital(scores.noun)}s and the noise ceiling, {which}", f"{text} {_spoken(means)}"
    axes = time_axes(frame)
    over_time, shown = bool(axes), scores.tests.drawn(list(frame["layer"]))
    if groups := set(scores.settings.get("groups") or ()):
        text += f" The stimuli come in {len(groups)} groups."
    for roi in rois[:_MOST_ROIS] if over_time else ():
        text = f"Means over time{f' in {roi}' if roi else ''} with their intervals, and the noise ceiling."
        spoken = f"{text} {_spoken(means[means['roi'] == roi])}"
        if len(axes) == 1:
            drawing = partial(plot_time_course, frame, roi=roi, onsets=scores.tests.onsets, **shown)
            yield draw(drawing, title, spoken, text)
            continue
        text = f"Means at each time of the model and of the data{f' in {roi}' if roi else ''}."
        for layer in list(dict.fromkeys(frame["layer"]))[:_MOST_ROIS]:
            drawing = partial(plot_model_time, frame, layer=layer, roi=roi, **shown)
            yield draw(drawing, f"{layer or 'the model'}: {title}", spoken, text)
    if not over_time:
        yield draw(partial(plot_scores, frame, roi=chosen), title, spoken, text)
    if not over_time and len(rois) > 1 and frame["layer"].nunique() > 1 and len(means) <= _MOST_CELLS:
        text = f"The mean similarity of each {scores.noun} with each ROI."
        text += " Numbers in brackets, if there are any, are not significantly above zero (one-sided)."
        yield draw(partial(plot_layer_roi, frame), f"{_capital(scores.noun)}s by ROIs, {which}", text)
    at = "model time × time (s)" if len(axes) > 1 else "time (s)"
    header = (scores.noun, "ROI", at, "which", "mean", "95 % interval", "p, one-sided", "p, FDR")
    rows = [
        [
            str(row["layer"]) or "output",
            str(row["roi"]),
            " × ".join(f"{row[name]:.4g}" for name in axes),
            "" if row["subject"] == "mean" else "of the mean RDM",
            number(row["score"]),
            _span(row["ci_low"], row["ci_high"]),
            _p(row["p"]),
            _p(row["p_fdr"]),
            _span(row["ceiling_lower"], row["ceiling_upper"]),
            number(row["n_subjects"]),
            str(row["fitted"]),
            str(row["reason"]),
        ]
        for _, row in means.iterrows()
    ]
    caption = f"{'Highest means' if over_time else 'Means'} over subjects{_tested(means)}"
    columns = (*header, "noise ceiling", "subjects", "fitted", "note")
    yield _nonempty(Table(caption, columns, rows))
    yield from map(_nonempty, scores.tests.blocks(scores.noun))
    if over_time:
        yield Text(
            "Evaluation.save and neurordl compare write the scores at all times into scores.csv, and "
            "differences of each two into differences.csv."
        )
    else:
        yield from _differences(scores)


def _tested(means: pd.DataFrame) -> str:
    """What p and the intervals of a table of means are, for its caption."""
    if means["p"].isna().all():
        return ""
    return "; p is one-sided, for a mean above zero, and the 95 % intervals are two-sided"


def _differences(scores: Scores) -> Iterator[Block]:
    """Each two layers or models in a ROI, and each two ROIs of a layer, where both have been compared."""
    noun = scores.noun
    caption = f"Differences of each two {noun}s"
    yield from _pairs(scores.differences, ("layer_a", "layer_b", "roi"), (f"{noun}s", "ROI"), caption)
    caption = f"Differences of each two ROIs in a {noun}, in the same subjects"
    yield from _pairs(scores.roi_differences, ("roi_a", "roi_b", "layer"), ("ROIs", noun), caption)


def _pairs(
    frame: pd.DataFrame, columns: tuple[str, str, str], header: tuple[str, str], caption: str
) -> Iterator[Table]:
    """A folded table of differences of what two columns name, in what the third names."""
    if not len(frame):
        return
    first = frame if len(frame) <= _MOST_DIFFERENCES else frame.nsmallest(_MOST_DIFFERENCES, "p").sort_index()
    rows = []
    for _, row in first.iterrows():
        a, b, beside = (str(row[name]) or ("output" if "layer" in name else "") for name in columns)
        equal = abs(row[["ci_low", "ci_high"]]).max() < _FLAT
        reach = "equal" if equal else _span(row["ci_low"], row["ci_high"])
        cells = [f"{a} \u2212 {b}", beside, number(row["difference"]), reach]
        rows.append([*cells, _p(row["p"]), _p(row["p_fdr"])])
    families = _joined([name for name in frame["family"].unique() if name])
    over = f"; the FDR is over {families}" if families else ""
    caption += f", with 95 % intervals and two-sided p{over}"
    if len(first) < len(frame):
        caption += f". Shown are the {len(first)} of {len(frame):,} with the smallest p"
    titles = (*header, "difference", "95 % interval", "p, two-sided", "p, FDR")
    yield _nonempty(Table(caption, titles, rows, folded=True))


def _nonempty(table: Table) -> Table:
    """A table without the columns, beside the first, in which nothing stands."""
    used = [
        k for k in range(len(table.header)) if k == 0 or any(row[k] not in ("", "–") for row in table.rows)
    ]
    header = [table.header[k] for k in used]
    return Table(table.caption, header, [[row[k] for k in used] for row in table.rows], table.folded)


def _spoken(means: pd.DataFrame) -> str:
    """The means in words, for those who do not see the figure."""
    texts = []
    for _, row in means[means["subject"] == "mean"].iterrows():
        name = f"{row['layer'] or 'output'}{f' in {row.roi}' if row['roi'] else ''}"
        ceiling = _span(row["ceiling_lower"], row["ceiling_upper"])
        texts.append(f"{name} {number(row['score'])}" + (f" (ceiling {ceiling})" if ceiling != "–" else ""))
    more = f"; {len(texts) - _FEW} more are in the table" if len(texts) > _FEW else ""
    return f"Means: {'; '.join(texts[:_FEW])}{more}."


def _joined(texts: Sequence[str]) -> str:
    """Texts as in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _span(low: Any, high: Any) -> str:
    return f"{number(low)}\u00a0to\u00a0{number(high)}" if pd.notna(low) and pd.notna(high) else "–"


def _p(value: Any) -> str:
    return p_text(value).replace(" ", "\u00a0") or "–"


def _notices(run: Run | None, scores: Sequence[Scores]) -> Iterator[Block]:
    lines: list[str] = []
    unknown = []
    if run is not None:
        lines += [f"Training: {text}" for text in run.record.get("notices", ())]
        unknown += [] if "notices" in run.record else ["run"]
    for part in scores:
        notes = [*part.settings.get("notices", ()), *part.record.get("notes", ())]
        lines += [f"{_capital(part.name)}: {text}" for text in notes]
        unknown += [] if "notes" in part.record else [part.name]
    if lines:
        yield Notes(list(dict.fromkeys(lines)))
    if unknown:
        yield Text(f"Notices of {listed(unknown)} were not recorded by the version that wrote it.")
    elif not lines:
        yield Text("There were no notices.")


def flattened(record: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a nested record; long lists, and values that are all the same, are counted."""
    if isinstance(record, Mapping):
        values = list(record.values())
        if len(values) > 2 and all(type(value) is int and value == values[0] for value in values):
            yield name, f"{values[0]}, each of {len(values)}"
            return
        for key, value in record.items():
            yield from flattened(value, ".".join(filter(None, [name, str(key)])))
    elif isinstance(record, Sequence) and not isinstance(record, str):
        text = ", ".join(map(_in_words, record)) or "–"
        yield name, text if len(record) <= 20 and len(text) <= _LONG else f"{len(record):,} values"
    else:
        worded = record is None or isinstance(record, bool)
        yield (
            name,
            number(record) if worded else f"{record:.6g}" if isinstance(record, float) else str(record),
        )


def _in_words(value: Any) -> str:
    """A value inside of a list: of a mapping such as a network's build, its names and values."""
    if not isinstance(value, Mapping):
        return str(value)
    named = {"name": value["name"]} if "name" in value else {}
    rest = ", ".join(f"{key} {part}" for key, part in value.items() if key not in named)
    return f"{value['name']} ({rest})" if named else rest


_LISTED = ("settings", "optimizer", "objective", "student", "stimuli", "labelled", "match")


def weight_checksums(run: Run) -> list[list[str]]:
    """The checksums of the files with weights, or of the weights of a run without files, with their names."""
    paths = [run.out / name for name in (LAST, BEST) if run.out and (run.out / name).is_file()]
    state = None if paths else sha256_state(run.student.state_dict())
    sums = [[f"file {path.name}", sha256_file(path)] for path in paths]
    return sums + ([["the student's weights", state]] if state else [])


def _settings(run: Run | None, records: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    sums: list[list[str]] = []
    for name, record in records.items():
        known = {key: record[key] for key in _LISTED if record.get(key) and key != "match"}
        if isinstance(settings := known.get("settings"), Mapping):
            known["settings"] = {key: _same_at_all_times(value) for key, value in settings.items()}
        flat = [row for row in flattened(known) if not row[0].endswith(("ids", ".notices"))]
        rows = [[key.removeprefix("settings."), value] for key, value in flat if "sha256" not in key]
        yield Table(f"Settings and seeds of the {name}", ("setting", "value"), rows, folded=True)
        sums += [[f"{name}: {key}", value] for key, value in flat if "sha256" in key and value != "–"]
    sums += weight_checksums(run) if run is not None else []
    versions = {name: record.get("versions") or {} for name, record in records.items()}
    libraries = dict.fromkeys(chain.from_iterable(versions.values()))
    rows = [[library, *(part.get(library, "–") for part in versions.values())] for library in libraries]
    yield Table("Versions", ("library", *versions), rows)
    yield Table("Checksums (SHA-256)", ("of", "checksum"), sums, folded=True)


def _same_at_all_times(value: Any) -> Any:
    """A setting of each time, as a setting of all times if it is the same at each."""
    over_time = isinstance(value, Mapping) and len(value) > 1 and all(key.endswith(" s") for key in value)
    if (
        not over_time
        or len({str(sorted(part) if isinstance(part, list) else part) for part in value.values()}) > 1
    ):
        return value
    rois = {key.rpartition(", ")[0] for key in value}
    where = f"all {len(value) // len(rois)} times" + (f", {', '.join(sorted(rois))}" if any(rois) else "")
    return {where: next(iter(value.values()))}


def side_by_side(entries: Sequence[Entry]) -> Section:
    """Several runs or evaluations: what differs between them, and their scores."""
    return Section(
        "Side by side", [*_differing(entries), *_accuracies_beside(entries), *_scores_beside(entries)]
    )


def _accuracies_beside(entries: Sequence[Entry]) -> Iterator[Block]:
    """Accuracy against held-out similarity in the layer that was fitted, a point for each run."""
    records = {entry.name: entry.run.record for entry in entries if entry.run is not None}
    losses = [loss for record in records.values() for loss in record["objective"]["losses"].values()]
    layers = {name for loss in losses if "comparison" in loss for name in loss["layers"]}
    rows = []
    for entry in entries:
        tested = records.get(entry.name, {}).get("test")
        held_out = [part.means for part in entry.scores if part.settings.get("pairs") == "held-out"]
        if tested and held_out:
            means = pd.concat(held_out).query("subject == 'mean'")
            means = means[means["layer"].isin(layers)].assign(condition=entry.name)
            rows += [means.assign(test_accuracy=tested["accuracy"])] if len(means) == 1 else []
    if len(rows) > 1:
        frame = pd.concat(rows, ignore_index=True).rename(columns={"score": "heldout_rdm_similarity"})
        yield _transfer_figure(frame, "Accuracy and similarity of the runs")


def _differing(entries: Sequence[Entry]) -> Iterator[Block]:
    runs = {entry.name: entry.run for entry in entries if entry.run is not None}
    if len(runs) < 2:
        return
    flat = {name: dict(_summary(run)) for name, run in runs.items()}
    keys = dict.fromkeys(chain.from_iterable(flat.values()))
    rows = [[key, *(part.get(key, "–") for part in flat.values())] for key in keys]
    # a knob of a loss that a run lacks is no difference of its own
    rows = [
        row
        for row in rows
        if len(set(row[1:]) - ({"–"} if row[0].startswith("objective.losses.") else set())) > 1
    ]
    yield from _in_parts(Table("What differs between the runs", ("", *flat), rows), len(flat))


def _summary(run: Run) -> Iterator[tuple[str, str]]:
    """What a run is and came to, by name, to set it beside others."""
    losses = (run.record.get("objective") or {}).get("losses") or {}
    yield "transfer losses", ", ".join(losses) or "none"
    yield "control", "; ".join(dict.fromkeys(filter(None, map(_control, losses.values())))) or "–"
    yield "fitted stimuli", number(len(run.fitted_ids))
    yield "held-out stimuli", number(len(run.held_out_ids))
    for name in ("task", "loss"):
        if name in run.history and len(run.history):
            yield f"{name}, last epoch", number(run.history[name].iloc[-1], 4)
    yield "test accuracy", number((run.record.get("test") or {}).get("accuracy"), 4)
    yield "epoch kept", number((run.record.get("best") or {}).get("epoch"))
    parts = {name: run.record.get(name) or {} for name in ("settings", "optimizer", "objective", "student")}
    for name, value in flattened(parts):
        if "sha256" not in name and ".control" not in name:
            yield name.removeprefix("settings."), value


def _scores_beside(entries: Sequence[Entry]) -> Iterator[Block]:
    tables: dict[str, list[pd.DataFrame]] = {}
    for entry in entries:
        for part in (scores for scores in entry.scores if "time" not in scores.frame):
            roi = part.frame["roi"].map(lambda name, first=entry.name: f"{first}, {name}" if name else first)
            beside = part.frame.assign(entry=entry.name, region=part.frame["roi"], roi=roi)
            tables.setdefault(str(part.settings.get("pairs")), []).append(beside)
    for pairs in sorted(tables, key=lambda name: name != "held-out"):
        frame = pd.concat(tables[pairs], ignore_index=True)
        means = frame[frame["subject"] == "mean"]
        if means["entry"].nunique() < 2 or means.duplicated(["roi", "layer"]).any():
            continue
        if means["roi"].nunique() <= _MOST_ROIS:
            text = f"Mean similarity on {pairs} pairs, with intervals, subjects as dots, and noise ceilings."
            title, spoken = f"Side by side, {pairs} pairs", f"{text} {_spoken(means)}"
            yield draw(partial(plot_scores, frame), title, spoken, text)
        yield from _unequal(means)
        names = list(dict.fromkeys(means["entry"]))
        cells = {
            (
                str(row.layer),
                str(row.region),
                str(row.entry),
            ): f"{number(row.score)} ({_span(row.ci_low, row.ci_high)})"
            for row in means.itertuples()
        }
        places = dict.fromkeys((layer, region) for layer, region, _ in cells)
        rows = [
            [layer or "output", region, *(cells.get((layer, region, name), "–") for name in names)]
            for layer, region in places
        ]
        caption = f"Mean similarity with 95 % interval, {pairs} pairs"
        yield from _in_parts(_nonempty(Table(caption, ("layer", "ROI", *names), rows)), len(names))


def _in_parts(table: Table, n_values: int) -> Iterator[Table]:
    """A table with many columns of values as several that fit on paper, each with the columns before them."""
    n_names = len(table.header) - n_values
    for start in range(n_names, len(table.header), _WIDEST):
        columns = [*range(n_names), *range(len(table.header))[start : start + _WIDEST]]
        header, *rows = ([line[k] for k in columns] for line in (table.header, *table.rows))
        caption = table.caption if start == n_names else f"{table.caption} (continued)"
        yield replace(table, caption=caption, header=header, rows=rows)


def _unequal(means: pd.DataFrame) -> Iterator[Block]:
    """A warning where means are over other numbers of stimuli or subjects."""
    sizes = {
        str(name): ", ".join(
            f"{' or '.join(map(number, sorted(set(part[f'n_{unit}'].dropna()))))} {unit}"
            for unit in ("stimuli", "subjects")
        )
        for name, part in means.groupby("entry", sort=False)
    }
    if len(set(sizes.values())) > 1:
        texts = "; ".join(f"{name}: {size}" for name, size in sizes.items())
        yield Text(f"Not the same data ({texts}): differences are not of the conditions alone.")


def grid_sections(grid: Grid) -> Iterator[Section]:
    """The sections of a study: how it was done, means and paired differences, notices, and the settings."""
    conditions = dict.fromkeys(grid.frame["condition"])
    seeds = f" with {counted(grid.frame['seed'].nunique(), 'seed')}" if "seed" in grid.frame else ""
    text = f"{counted(len(grid.frame), 'run')} of {counted(len(conditions), 'condition')} "
    text += f"({listed(conditions, most=8)}){seeds}."
    yield Section(f"Study: {grid.name}", [Text(text), *_sizes(grid)])
    yield Section("Methods", [Text(text) for text in _study_methods(grid)], 3)
    for k, (group, frame) in enumerate(grid.groups()):
        part = replace(grid, frame=frame)
        title = f"Conditions side by side{f': {group}' if group else ''}"
        figures = list(_grid_figures(part, group)) if k < _MOST_GROUPS else []
        yield Section(title, [*figures, *_grid_tables(part)])
    yield Section("Notices of the study", list(_study_notices(grid)))
    yield Section("Settings of the study", list(_study_settings(grid)))


def _study_methods(grid: Grid) -> Iterator[str]:
    """Paragraphs for a paper: training, controls, scores, intervals and tests, as far as recorded."""
    run, conditions = grid.taught, list(dict.fromkeys(grid.frame["condition"]))
    if run is not None:
        seeds = sorted(grid.frame["seed"].unique())
        chosen = "the weights are those of the epoch with the lowest validation loss"
        yield " ".join(
            [
                _fit_sentence(
                    run, f"{'seed' if len(seeds) == 1 else 'seeds'} {_joined(list(map(str, seeds)))}"
                ),
                *_task_sentences(run),
                f"It was trained in {counted(len(conditions), 'condition')}: "
                f"{'; '.join(f'{name} ({_CONDITIONS[name]})' for name in conditions)}.",
                f"All {'trained ' * ('untrained' in conditions)}conditions of a seed had the same initial "
                "weights, batches and number of steps"
                f"{f', and {chosen}' if run.record.get('best') else ''}.",
                *_stimuli_sentence(run),
            ]
        )
    parts = [part for entry in grid.entries if entry is not None for part in entry.scores]
    leaks = dict.fromkeys(text for part in parts for text in part.settings.get("leaks", ()))
    if scored := [*_measure_sentences(grid), *(f"{_capital(text)}." for text in leaks)]:
        yield " ".join(scored)
    yield " ".join(_interval_sentences(grid))
    if run is not None and {"neurordl", "torch"} <= set(versions := run.record.get("versions") or {}):
        yield f"The software was neurordl {versions['neurordl']} and PyTorch {versions['torch']}."


def _measure_sentences(grid: Grid) -> Iterator[str]:
    """What each measure is of, where the records of the runs have its values."""
    if tested := _tested_images(grid):
        yield f"Test accuracy is the share of {tested} that were classified correctly."
    for measure in grid.measures:
        if (mean := grid.scored(measure)) is None:
            continue
        new = ", whose RDMs were not fitted" if str(mean["fitted"]).endswith("subjects: no") else ""
        where = f" in {mean['roi']}" if mean["roi"] else ""
        with_those = f"those of {counted(int(mean['n_subjects']), 'subject')}{where}{new}"
        if mean["roi"].endswith(OF_TEACHER):
            with_those = f"that of {mean['roi']}"
        yield (
            f"{_capital(column_name(measure, grid.frame))}: the mean {mean['comparison']} of the RDM of "
            f"{mean['layer'] or 'the output'} ({mean['dissimilarity']} dissimilarities) with {with_those}, "
            f"on {mean['pairs']} pairs of "
            f"{number(mean['n_stimuli'])} stimuli."
        )
    known = any(grid.scored(measure) is not None for measure in grid.measures)
    if known and set(_CEILINGS) <= set(grid.frame) and grid.frame[list(_CEILINGS)].notna().all(axis=None):
        yield "The noise ceiling is that of the same subjects and pairs, as the mean over runs."


def _grid_tables(grid: Grid) -> Iterator[Block]:
    frame, labels = grid.frame, [_label(measure, grid) for measure in grid.measures]
    conditions = list(dict.fromkeys(frame["condition"]))
    rows = []
    for name in conditions:
        part = frame[frame["condition"] == name]
        single = name in grid.repeated
        cells = [_mean(part[measure].head(1) if single else part[measure]) for measure in grid.measures]
        ceiling = part.reindex(columns=list(_CEILINGS)).astype(float).mean()
        rows.append([name, number(len(part)), *cells, _span(*ceiling)])
    caption = f"Means over {_over(grid)}, with 95 % t intervals"
    yield _nonempty(Table(caption, ("condition", "rows", *labels, "noise ceiling"), rows))
    rows = []
    for measure, label in (
        zip(grid.measures, labels, strict=True) if len(conditions) > 1 and grid.keys else ()
    ):
        for row in all_differences(frame, measure, reference=grid.reference, pair=grid.keys).itertuples():
            names = f"{row.condition} \u2212 {row.reference}"
            rows.append([label, names, _difference(row, grid), number(row.n)])
    if rows:
        pairs = _joined(grid.units or grid.keys)
        caption = f"Differences paired by {pairs}, with 95 % t intervals over {_over(grid)}"
        yield Table(caption, ("measure", "conditions", "difference", "pairs"), rows)
    every = [[number(value, 4) for value in row] for row in frame.to_numpy(dtype=object).tolist()]
    yield Table(f"All {len(frame):,} rows", list(map(str, frame)), every, folded=True)


def _over(grid: Grid) -> str:
    """What means and intervals are over, such as "3 seeds"."""
    if grid.units == ["seed"]:
        return counted(grid.frame["seed"].nunique(), "seed")
    return _joined(grid.units) or "rows"


def _mean(values: pd.Series) -> str:
    mean, low, high, _, n = mean_interval(values.to_numpy(float))
    lacking = f", of {n}" if n < len(values) else ""
    return f"{_with_interval(mean, low, high, n)}{lacking}" if n else "undefined"


def _difference(row: Any, grid: Grid) -> str:
    """The difference in a row of `paired_differences`, with its interval; of one run each there is none."""
    if {row.condition, getattr(row, "reference", grid.reference)} <= set(grid.repeated):
        return f"{number(row.difference)} (one run each)"
    return _with_interval(row.difference, row.ci_low, row.ci_high, row.n, "none (equal")


def _with_interval(mean: Any, low: Any, high: Any, n: Any, zero: str = "0 (the same") -> str:
    """A mean and its interval; in words where all values are the same, or there is only a single one."""
    if n < 2:
        return f"{number(mean)} (a single value)" if n else "undefined"
    if high - low < _FLAT:
        return f"{zero if abs(mean) < _FLAT else f'{number(mean)} (the same'} in all {n})"
    return f"{number(mean)} ({_span(low, high)})"


def _tested_images(grid: Grid) -> str:
    """The test images of a study, if the values of its table are those in the records of its runs."""
    texts = set()
    for entry, value in zip(grid.entries, grid.frame.get("test_accuracy", []), strict=False):
        tested = entry.run.record.get("test") if entry is not None and entry.run is not None else None
        if not tested or abs(tested["accuracy"] - value) > _FLAT:
            return ""
        texts.add(_test_images(tested))
    return texts.pop() if len(texts) == 1 else ""


def _interval_sentences(grid: Grid) -> Iterator[str]:
    """What intervals are over, and how differences were tested."""
    over = _joined(grid.units) or "rows"
    if grid.starts:
        yield (
            f"Intervals are 95 % t intervals over seeds. {_capital(grid.starts)}; they say nothing about "
            "other weights, stimuli or subjects."
        )
        if text := tell_same_runs(grid.repeated, grid.frame["seed"].nunique()):
            yield f"{_capital(text)}."
    elif grid.units == ["seed"]:
        yield (
            "Intervals are 95 % t intervals over seeds: they say how far means vary with the initial weights "
            "and batches, for these images, stimuli and subjects, and nothing about new stimuli or subjects."
        )
        labelled = [
            (entry.run.record.get("labelled") or {}) if entry and entry.run else {} for entry in grid.entries
        ]
        if len({part.get("sha256") for part in labelled}) == 1 and _DRAWN.search(
            str(labelled[0].get("source"))
        ):
            yield "All seeds had one draw of labelled images, so that intervals do not hold for other draws."
    else:
        yield f"Intervals are 95 % t intervals over {over}, whose rows are taken as independent."
    beyond = [
        not low <= bound <= high
        for measure in grid.measures
        for low, high in filter(None, [bounds_of(measure, grid.frame)])
        if grid.frame[measure].dropna().between(low, high).all()
        for _, part in grid.frame.groupby("condition")
        for bound in mean_interval(part[measure].to_numpy(float))[1:3]
        if pd.notna(bound)
    ]
    if any(beyond):
        yield "They are symmetric, and of few rows may reach beyond what an accuracy or a similarity can be."
    conditions = grid.frame["condition"].nunique()
    if conditions > 1 and grid.keys:
        n = conditions * (conditions - 1) // 2 * len(grid.measures) * len(list(grid.groups()))
        yield (
            f"Conditions were compared in pairs of the same {over}: {counted(n, 'difference')} with an "
            "interval each, not corrected for their number. No p-values were computed."
        )


def _sizes(grid: Grid) -> Iterator[Block]:
    """How many stimuli, subjects and images the study has, as far as its runs say."""
    sizes: dict[str, set[int]] = {}
    for entry in grid.entries:
        if entry is None or entry.run is None:
            continue
        run = entry.run
        counts = {
            "stimuli, fitted": len(run.fitted_ids),
            "stimuli, used to choose the epoch": len(run.validation_ids),
            "stimuli, held out": len(run.held_out_ids),
            "subjects, fitted": len(run.fitted_subjects),
            "labelled images": (run.record.get("labelled") or {}).get("n", 0),
            "test images": (run.record.get("test") or {}).get("n", 0),
        }
        for part in entry.scores:
            counts[f"stimuli, scored on {part.settings.get('pairs')} pairs"] = part.settings.get(
                "n_stimuli", 0
            )
            pooled = part.means["n_subjects"].dropna()
            counts["subjects, scored"] = int(pooled.max()) if len(pooled) else 0
        for name, n in counts.items():
            sizes.setdefault(name, set()).add(n)
    rows = [[name, " or ".join(map(number, sorted(ns)))] for name, ns in sizes.items() if ns != {0}]
    if rows:
        yield Table("Sizes", ("of", "number"), rows)


def _label(measure: str, grid: Grid) -> str:
    """The name of a measure, with the comparison that a similarity is, if it is known."""
    scored = grid.scored(measure)
    frame = grid.frame if scored is None else grid.frame.assign(comparison=scored["comparison"])
    return column_name(measure, frame)


def _study_notices(grid: Grid) -> Iterator[Block]:
    """The notices of all runs and their evaluations, each once, with the number of runs."""
    runs: dict[str, int] = {}
    entries = [entry for entry in grid.entries if entry is not None]
    for entry in entries:
        lines = [
            line
            for block in _notices(entry.run, entry.scores)
            if isinstance(block, Notes)
            for line in block.lines
        ]
        for line in lines:
            runs[line] = runs.get(line, 0) + 1
    runs_of_all = [entry.run for entry in grid.entries if entry is not None and entry.run is not None]
    few = dict.fromkeys(few_steps(run.record) for run in runs_of_all)
    texts = [*few, grid.starts, tell_same_runs(grid.repeated, len(set(grid.frame.get("seed", ()))))]
    of_study = [f"Study: {text}" for text in texts if text]
    if runs or of_study:
        yield Notes([*of_study, *(f"{line} ({counted(n, 'run')})" for line, n in runs.items())])
    elif entries:
        yield Text("There were no notices.")


def _study_settings(grid: Grid) -> Iterator[Block]:
    """What was recorded with the table, and, of a study of controls, the records of a taught run."""
    if not grid.settings:
        yield Text("The report was made from a table alone, which has no settings.")
    flat = list(flattened(grid.settings))
    sums = [row for row in flat if "sha256" in row[0] or _CHECKSUM.fullmatch(row[1])]
    rows = [list(row) for row in flat if row not in sums and row[1] != "–"]
    if rows:
        caption = "Settings of all runs, as recorded; what was not set is left out"
        yield Table(caption, ("setting", "value"), rows)
    if sums:
        yield Table("Checksums (SHA-256) of what all runs share", ("of", "checksum"), sums, folded=True)
    for condition, entry in zip(grid.frame["condition"], grid.entries, strict=True):
        if entry is not None and entry.run is grid.taught and entry.run is not None:
            records: dict[str, Mapping[str, Any]] = {f"run {entry.name} ({condition})": entry.run.record}
            records |= {f"{part.name} of {entry.name}": part.record for part in entry.scores}
            yield from _settings(None, records)


def _grid_figures(grid: Grid, group: str) -> Iterator[Figure]:
    frame, reference, of = grid.once, grid.reference, f" ({group})" if group else ""
    if (scored := grid.scored(_SCORED[1]) if _SCORED[1] in frame else None) is not None:
        frame = frame.assign(comparison=scored["comparison"])
    if set(_SCORED) <= set(frame) and frame[list(_SCORED)].notna().any(axis=None):
        yield _transfer_figure(frame, f"Accuracy and similarity{of}", reference)
    if frame["condition"].nunique() < 2 or not grid.keys:
        return
    for measure in grid.measures[:_MOST_MEASURES]:
        differences = paired_differences(frame, measure, reference=reference, pair=grid.keys)
        if not (differences["n"] > 0).all():
            continue
        spoken = [f"{row.condition} {_difference(row, grid)}" for row in differences.itertuples()]
        pairs = f"paired by {_joined(grid.units or grid.keys)}"
        text = f"Differences in {_label(measure, grid)} from {reference}, {pairs}, with 95 % t intervals "
        text += f"over {_over(grid)}: {'; '.join(spoken)}."
        plot = partial(plot_paired, frame, value=measure, reference=reference, pair=grid.keys)
        yield draw(plot, f"Paired differences of {measure}{of}", text)


def _transfer_figure(frame: pd.DataFrame, title: str, reference: str | None = None) -> Figure:
    means = frame.groupby("condition", sort=False)[list(_SCORED)].mean()
    spoken = "; ".join(f"{name} {number(y)} and {number(x)}" for name, y, x in means.itertuples())
    text = "Accuracy on test images against similarity of RDMs on held-out stimuli. "
    text += "" if frame.duplicated("condition").any() else "Each mark is a single run, without an interval. "
    text += "Accuracy and similarity: "
    return draw(partial(plot_transfer, frame, reference=reference), title, f"{text}{spoken}.")


def citations(entries: Sequence[Entry], grids: Sequence[Grid], version: str) -> Section:
    """What to cite, according to what was used."""
    used = {"rdl": bool(grids)} | dict.fromkeys(("rsa", "ceiling", "bootstrap", "fdr", "clusters"), False)
    for grid in grids:
        used["rsa"] |= any(grid.scored(measure) is not None for measure in grid.measures)
        used["ceiling"] |= set(_CEILINGS) <= set(grid.frame)
    for entry in entries:
        losses = (entry.run.record.get("objective") or {}).get("losses") or {} if entry.run else {}
        used["rdl"] |= any("comparison" in loss for loss in losses.values())
        for part in entry.scores:
            used["rsa"] = True
            used["ceiling"] |= bool(part.means["ceiling_lower"].notna().any())
            used["bootstrap"] |= bool(part.settings.get("bootstrap"))
            used["fdr"] |= bool(part.means["p_fdr"].notna().any())
            used["clusters"] |= bool(part.tests.clusters)
    software = f"neurordl (version {version}), the neurordl developers. Its file CITATION.cff has the entry."
    return Section("How to cite", [Notes([software, *(text for name, text in _CITED.items() if used[name])])])
