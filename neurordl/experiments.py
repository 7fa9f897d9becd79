"""Conditions by seeds: controls, a table with a row per job, and paired differences with their intervals."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from scipy import stats
from torch import nn

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, each_notice_once, explain, notify
from neurordl.io import RUN_RECORD, differing, make_folder, read_json, versions, write_json
from neurordl.patterns.network import sha256_modules
from neurordl.progress import tracked
from neurordl.rdms.selection import sha256_rdms
from neurordl.rsa.evaluate import evaluate
from neurordl.rsa.inference.infer import mean_interval
from neurordl.stimuli import StimulusSet
from neurordl.teachers import NetworkTeacher
from neurordl.teachers.base import ById, Record, spelled
from neurordl.training.losses import TransferLoss
from neurordl.training.objective import Objective
from neurordl.training.run import (
    START,
    Run,
    describe_start,
    few_steps,
    other_start,
    read_run,
    recorded_start,
    same_runs,
    same_start,
    tell_same_runs,
)
from neurordl.training.trainer import Execution, fit, record_accuracy
from neurordl.validate import brief, check_choice, check_columns, check_count, check_type, counted, listed

SETTINGS, ROWS, RUNS = "settings.json", "rows", "runs"
CONTROLS = ("labels", "permuted", "permuted-within", "untrained")
TAUGHT = "teacher"
"""Condition of the runs that learn from the teachers as they are."""

_CEILINGS = ("ceiling_lower", "ceiling_upper")
_FIXED = ("seed", "out", "resume", "student", "objective")  # arguments of `fit` that a study sets


def fit_controls(
    student: Callable[[], nn.Module],
    losses: Callable[..., TransferLoss | Sequence[TransferLoss]],
    teachers: ById | NetworkTeacher | Sequence[ById | NetworkTeacher],
    score: Callable[[Run], Mapping[str, float]],
    out: str | Path,
    controls: Sequence[str] = ("labels", "permuted"),
    seeds: int | Sequence[int] = 5,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Fit a student with its teachers and under controls, with several seeds, and score each run.

    All conditions of a seed have the same initial weights, steps, batches, images and choice of the epoch.
    Each run is in its folder, such as ``out/runs/permuted_0``. If the study is interrupted, the same call
    goes on: finished runs are not run again, and the run that was interrupted continues from its checkpoint.

    Parameters
    ----------
    student
        Function that makes a new student. Torch is seeded before it is called.
    losses
        Function of the teachers, in their order, that makes new losses.
    teachers
        What teaches: `RDMTeacher`, `PatternTeacher`, or a `NetworkTeacher`, which for permuted controls needs
        ``cache=``.
    score
        Function of a run that returns measured values by name, such as ``test_accuracy`` and
        ``heldout_rdm_similarity``; `HeldOutScore` makes one of these two.
    out
        Folder of the study.
    controls
        Controls beside the condition "teacher": "labels" (the same losses with weight 0), "permuted" (the ids
        of the training stimuli are permuted in the teachers), "permuted-within" (they are permuted among
        stimuli of the same label) and "untrained" (the student with its initial weights).
    seeds
        Number of seeds (0, 1, ...), or the seeds themselves. Later calls may add seeds and controls.
    fingerprint
        Whatever else determines the scores, as in `run_grid`. The student's class, the losses, the
        teachers, a `HeldOutScore` and the arguments of `fit` are always in it.
    **settings
        Arguments of `fit`: ``labelled``, ``stimuli``, ``epochs`` and others. Without ``labelled`` the student
        learns from the teachers alone (``task=None``), and there is no control "labels".

    Returns
    -------
    DataFrame
        A row for each seed and condition, with the columns condition, seed, and those of `score`.

    Raises
    ------
    NeurordlError
        If a control is unknown, or needs ids, labels or labelled images that are missing; if `out` holds
        something else, or a study of other settings; or as `fit`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import neurordl as nrl
    >>> from neurordl.experiments import fit_controls
    >>> digits, quiet = nrl.datasets.load_digits(), nrl.Execution(progress=False)
    >>> labelled, test = digits.subset(digits.ids[:50]), digits.subset(digits.ids[50:100])
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(in_channels=1), cache=labelled)
    >>> with TemporaryDirectory() as folder:
    ...     table = fit_controls(
    ...         lambda: nrl.students.small_cnn(in_channels=1),
    ...         lambda teacher: nrl.SoftTargetLoss(teacher),
    ...         teacher,
    ...         lambda run: {"test_accuracy": nrl.record_accuracy(run, test)},
    ...         folder,
    ...         controls=["labels"],
    ...         seeds=2,
    ...         labelled=labelled,
    ...         epochs=1,
    ...         execution=quiet,
    ...     )
    >>> table["condition"].tolist()
    ['labels', 'teacher', 'labels', 'teacher']
    """
    names = [controls] if isinstance(controls, str) else list(controls)
    for name in names:
        check_choice("controls", name, CONTROLS)
    for name in sorted(set(_FIXED) & set(settings)):
        raise NeurordlError(f"{name}= is set by the study for each run; leave it out")
    numbers = range(check_count("seeds", seeds)) if isinstance(seeds, int | np.integer) else seeds
    chosen = [check_count("seeds", seed, 0) for seed in numbers]
    if not chosen:
        raise NeurordlError("seeds= is empty; give a number of seeds, or the seeds")
    taught = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    study = _Study(student, losses, taught, settings)
    study.check(names)
    jobs = [{"condition": name, "seed": seed} for seed in chosen for name in (*names, TAUGHT)]

    execution = settings.get("execution", Execution())
    bars = execution.progress and sys.stdout.isatty()  # of a fit: elsewhere each would leave lines
    quiet = replace(execution, progress=bars)

    def run(condition: str, seed: int) -> Mapping[str, float]:
        if execution.progress:
            place = jobs.index({"condition": condition, "seed": seed}) + 1
            print(f"{condition}, seed {seed} ({place} of {len(jobs)})", file=sys.stderr, flush=True)
        network, objective = study.make(condition, seed)
        folder = _run_folder(Path(out), condition, seed)
        changes = {"execution": quiet, **({"epochs": 0} if condition == "untrained" else {})}
        fitted = fit(network, objective, **{**settings, **changes}, seed=seed, out=folder, resume=True)
        if text := few_steps(fitted.record):
            notify(f"study: {text}")
        return score(fitted)

    with torch.random.fork_rng():
        scored = score.describe() if isinstance(score, HeldOutScore) else {}
        described = {**study.describe(chosen[0]), **scored, **(fingerprint or {})}
        starts = {seed: study.start(seed) for seed in chosen}
        folders = {
            (name, seed): _run_folder(Path(out), name, seed) for seed in chosen for name in (*names, TAUGHT)
        }
        for (_, seed), folder in folders.items():
            _check_start(folder, seed, starts[seed])
        if text := same_start(starts):
            notify(f"study: {text}")
        with each_notice_once():
            table = run_grid(jobs, run, out, fingerprint=described, progress=False)
    if text:
        finished = {key: read_run(folder) for key, folder in folders.items() if folder.is_dir()}
        repeated = same_runs({key: finished.get(key) for key in folders})
        if remedy := tell_same_runs(repeated, len(chosen)):
            notify(f"{remedy}; take a single seed, or smaller batches")
    return table


def _run_folder(out: Path, condition: str, seed: int) -> Path:
    return out / RUNS / f"{condition}_{seed}"


def _check_start(folder: Path, seed: int, now: Record) -> None:
    """Refuse a student with other initial weights than the run of the same seed in the study."""
    before = recorded_start(folder)
    if START in before and now.get(START) not in (None, before[START]):
        problem = f"{folder.parents[1]} holds runs of a student with other initial weights (seed {seed}: "
        remedy = "choose another folder, or delete that one"
        raise NeurordlError(f"{problem}{other_start(before, now)}); {remedy}")


@dataclass(frozen=True, eq=False)
class HeldOutScore:
    """Score of a run for `fit_controls`: similarity on held-out stimuli, test accuracy, or both.

    Calling it with a run gives the values by name: ``heldout_rdm_similarity`` is the mean of `evaluate` on
    pairs of stimuli that the run did not use, and ``ceiling_lower`` and ``ceiling_upper`` are its noise
    ceiling, for several layers the mean of theirs; ``test_accuracy`` is that of `record_accuracy`. The
    evaluation is saved in the run's folder ``scores``, from where `neurordl.report.write_report` says how
    runs were scored.

    Attributes
    ----------
    rdms : RDMs, optional
        The data, as `evaluate` takes them.
    stimuli : StimulusSet, optional
        Images of the held-out stimuli; they are needed for `rdms`.
    layer : str or sequence of str
        Layer of the student. Of several, each is compared with the ROI at its place in `roi`, and the value
        is the mean.
    roi : str or sequence of str, optional
        ROI of the data, needed if there are several.
    test : StimulusSet, optional
        Labelled test images for the accuracy.
    settings : mapping
        Further arguments of `evaluate`, such as ``{"comparison": "corr", "bootstrap": "both"}``.

    Warns
    -----
    UserWarning
        The run was trained on held-out stimuli all the same, such as on a copy with another id.

    Raises
    ------
    NeurordlError
        There is nothing to score, images or the layer are missing, or there are several means where one is
        needed, such as those of two ROIs.

    Examples
    --------
    >>> import neurordl as nrl
    >>> from neurordl.experiments import HeldOutScore
    >>> digits, quiet = nrl.datasets.load_digits(), nrl.Execution(progress=False)
    >>> stimuli = digits.subset(digits.ids[:40])
    >>> rdms = nrl.simulate.simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3)
    >>> train, held_out = stimuli.split(held_out=0.5, seed=0)
    >>> objective = nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(rdms), layer="conv3")], task=None)
    >>> student = nrl.students.small_cnn(in_channels=1)
    >>> run = nrl.fit(student, objective, stimuli=train, epochs=1, execution=quiet)
    >>> list(HeldOutScore(rdms, held_out, layer="conv3")(run))
    ['heldout_rdm_similarity', 'ceiling_lower', 'ceiling_upper']
    """

    __repr__ = brief

    rdms: RDMs | None = None
    stimuli: StimulusSet | None = None
    layer: str | Sequence[str] = ()
    roi: str | Sequence[str] | None = None
    test: StimulusSet | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rdms is None and self.test is None:
            raise NeurordlError("there is nothing to score: give rdms= with stimuli= and layer=, or test=")
        if self.rdms is not None:
            check_type("stimuli", self.stimuli, StimulusSet, "give the held-out part of StimulusSet.split")
            if not self.pairs:
                raise NeurordlError("layer= is empty: name the layer that is compared with the RDMs")
        if wrong := sorted({"stimuli", "layers", "roi", "pairs"} & set(self.settings)):
            raise NeurordlError(f"settings: {listed(wrong)} is set by the score itself; leave it out")

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """Each layer with the ROI that it is compared with."""
        layers = [self.layer] if isinstance(self.layer, str) else list(self.layer)
        several = not (self.roi is None or isinstance(self.roi, str))
        rois: list[Any] = list(self.roi or ()) if several else [self.roi] * len(layers)
        if len(rois) != len(layers):
            raise NeurordlError(
                f"roi= names {counted(len(rois), 'ROI')} for {counted(len(layers), 'layer')}; give as many"
            )
        return list(zip(layers, rois, strict=True))

    def describe(self) -> Record:
        """What determines the scores, by name, for the settings of a study."""
        described: Record = {"test": self.test and self.test.sha256}
        described["held-out stimuli"] = self.stimuli and self.stimuli.sha256
        described["pairs"] = self.pairs
        described["scored RDMs"] = sha256_rdms(self.rdms) if self.rdms is not None else None
        return described | {name: spelled(value) for name, value in self.settings.items()}

    def __call__(self, run: Run) -> dict[str, float]:
        """The values of a run by name."""
        row = {} if self.test is None else {"test_accuracy": record_accuracy(run, self.test)}
        if self.rdms is None:
            return row
        layers, rois = (list(dict.fromkeys(names)) for names in zip(*self.pairs, strict=True))
        chosen: Record = {"stimuli": self.stimuli, "layers": layers, "roi": None if rois == [None] else rois}
        scores = evaluate(run, self.rdms, **chosen, pairs="held-out", **self.settings)
        if run.out is not None:
            scores.save(run.out / "scores")
        for leak in scores.settings["leaks"]:
            notify(f"heldout_rdm_similarity: {leak}")
        means = scores.frame[scores.frame["subject"] == "mean"]
        kept = [
            not {(layer, roi), (layer, None)}.isdisjoint(self.pairs)
            for layer, roi in zip(means["layer"], means["roi"], strict=True)
        ]
        means = means[kept]
        if len(means) != len(self.pairs):
            places = listed(dict.fromkeys(means["roi"])) + (", over time" if "time" in means else "")
            problem = f"{len(means)} means for {counted(len(self.pairs), 'layer')} (ROIs: {places})"
            raise NeurordlError(f"{problem}; choose a ROI with roi=, and a time with select_rdms")
        row["heldout_rdm_similarity"] = means["score"].mean() if len(means) > 1 else means["score"].iloc[0]
        ceilings = {name: float(means[name].mean(skipna=False)) for name in _CEILINGS}
        return row | {name: value for name, value in ceilings.items() if math.isfinite(value)}


@dataclass(frozen=True)
class _Study:
    """What all runs of `fit_controls` share; its attributes are those arguments."""

    student: Callable[[], nn.Module]
    losses: Callable[..., TransferLoss | Sequence[TransferLoss]]
    teachers: Sequence[Any]
    settings: Mapping[str, Any]

    @property
    def images(self) -> Any:
        """The stimuli, which are the labelled images where there are no others."""
        stimuli = self.settings.get("stimuli")
        return self.settings.get("labelled") if stimuli is None else stimuli

    def check(self, controls: Sequence[str]) -> None:
        """Raise an error if the teachers or the stimuli cannot be permuted as the controls need it."""
        if self.settings.get("labelled") is None and "labels" in controls:
            problem = "the control 'labels' trains on labelled images alone, and there are none"
            raise NeurordlError(f"{problem}; pass labelled=, or take 'permuted' and 'untrained' as controls")
        if set(controls) <= {"labels", "untrained"}:
            return
        if not isinstance(self.images, StimulusSet):
            problem = f"permuted controls exchange ids, and {type(self.images).__name__} may have none"
            raise NeurordlError(f"{problem}; give a StimulusSet as stimuli=")
        groups = self.categories() if "permuted-within" in controls else None
        for teacher in self.teachers:
            if not hasattr(teacher, "permuted"):
                problem = f"a {type(teacher).__name__} cannot be permuted"
                raise NeurordlError(f"{problem}; give an RDMTeacher, a PatternTeacher or a NetworkTeacher")
            teacher.permuted(self.images.ids, 0, groups)

    def categories(self) -> dict[str, int]:
        """The label of each stimulus."""
        if self.images.labels is None:
            problem = "permuted-within: the stimuli have no labels within which ids could be permuted"
            raise NeurordlError(f"{problem}; give them labels, or leave this control out")
        return dict(zip(self.images.ids, self.images.labels.tolist(), strict=True))

    def make(self, condition: str, seed: int) -> tuple[nn.Module, Objective]:
        """The student and the objective of a run, with the same random numbers for all conditions."""
        torch.manual_seed(seed)
        network, teachers = self.student(), self.teachers
        if condition.startswith("permuted"):
            groups = self.categories() if condition == "permuted-within" else None
            teachers = [teacher.permuted(self.images.ids, seed, groups) for teacher in teachers]
        losses = self.losses(*teachers)
        losses = list(losses) if isinstance(losses, Sequence) else [losses]
        for loss in losses:
            if condition == "labels" and loss.teacher is not None:
                loss.weight = 0.0
        no_task: dict[str, Any] = {"task": None} if self.settings.get("labelled") is None else {}
        return network, Objective(losses, **no_task)

    def start(self, seed: int) -> Record:
        """The weights of the student of a seed, before it is trained."""
        torch.manual_seed(seed)
        return describe_start(self.student())

    def describe(self, seed: int) -> Record:
        """What all runs must share, by name, with the defaults of `fit`."""
        student, objective = self.make(TAUGHT, seed)
        losses = objective.losses
        defaults = {name: part.default for name, part in inspect.signature(fit).parameters.items()}
        described: Record = {}
        for name, value in {**defaults, **self.settings}.items():
            if isinstance(value, Execution):
                described["precision"] = spelled(value.precision)
            elif isinstance(value, StimulusSet):
                described[name] = value.sha256
            elif is_dataclass(value):
                described |= {f"{name}.{key}": spelled(part) for key, part in vars(value).items()}
            elif name not in _FIXED:
                described[name] = spelled(value)
        described["version"] = versions()["neurordl"]
        spec = getattr(student, "build_spec", None)
        described["student"] = [type(student).__name__, spec, sha256_modules(student)]
        described["losses"] = [loss.name for loss in losses]
        for k, loss in enumerate(losses):
            described |= {f"loss {k + 1}, {key}": value for key, value in loss.describe().items()}
        return described


def run_grid(
    jobs: Sequence[Mapping[str, Any]],
    function: Callable[..., Mapping[str, float]],
    out: str | Path | None = None,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run a function on every job and collect the rows; finished jobs are not run again.

    Parameters
    ----------
    jobs
        Keyword arguments of each call, plain values: ``{"condition": "rdl", "seed": 0}``. All have the same
        keys, and no two are alike.
    function
        Function ``function(**job)`` that returns a mapping of names to measured values.
    out
        Folder. Each row is written when it is finished, as one JSON file under ``out/rows`` named after its
        job. Rows that exist are read; rows of other jobs are not changed. By default nothing is written.
    fingerprint
        Whatever else determines the rows (settings, versions, checksums), as JSON. It is saved with the rows,
        so that rows of different settings are never mixed.
    progress
        Show a progress bar; by default on a terminal and in a notebook.

    Returns
    -------
    DataFrame
        A row per job, in their order: the job's keys, then the values (NaN if undefined).

    Raises
    ------
    NeurordlError
        If jobs have different keys, or two jobs are the same; if the rows in `out` are of other settings; or
        if a file is damaged.

    Examples
    --------
    >>> from neurordl.experiments import run_grid
    >>> jobs = [{"condition": condition, "seed": seed} for seed in range(2) for condition in ("a", "b")]
    >>> table = run_grid(jobs, lambda condition, seed: {"score": seed + (condition == "b")}, progress=False)
    >>> table["score"].tolist()
    [0.0, 1.0, 1.0, 2.0]
    """
    out = None if out is None else Path(out)
    if not jobs or any(set(job) != set(jobs[0]) for job in jobs):
        raise NeurordlError(f"{len(jobs)} jobs: expected one or more, all with the same keys")
    jobs = [
        {key: int(value) if isinstance(value, np.integer) else value for key, value in job.items()}
        for job in jobs
    ]
    names = [_file_name(job) for job in jobs]
    if repeated := [dict(job) for job, name in zip(jobs, names, strict=True) if names.count(name) > 1]:
        raise NeurordlError(f"jobs: {repeated[0]} occurs twice; each must differ")
    if out is not None:
        _open_folder(out, json.loads(json.dumps(fingerprint or {}, default=str)))
    rows = []
    named = list(zip(jobs, names, strict=True))
    for job, name in tracked(named, "jobs", progress):
        file = out / ROWS / name if out is not None else None
        if file is None or not file.is_file():
            result = function(**job)
            check_type("the result of function", result, Mapping, "return a dict, such as {'score': 0.5}")
            with explain(f"the result of {dict(job)} is not a number for each name: {dict(result)}"):
                values = {key: float(value) for key, value in result.items()}
            if file is not None:  # JSON has no NaN
                plain = {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
                write_json(file, {"job": dict(job), "values": plain})
        else:
            values = _read_values(file, job)
        rows.append({**job, **values})
    return pd.DataFrame(rows)


def _file_name(job: Mapping[str, Any]) -> str:
    """A readable name; the checksum keeps jobs apart that differ only in what a file name cannot hold."""
    with explain(f"the job {dict(job)} cannot be written as JSON", remedy="use texts and plain numbers"):
        plain = json.dumps(dict(job), sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9_.+-]+", "-", "_".join(map(str, job.values())))[:80].lstrip(".")
    return f"{readable}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}.json"


def _open_folder(out: Path, fingerprint: Mapping[str, Any]) -> None:
    settings, rows = out / SETTINGS, out / ROWS
    if settings.is_file():
        earlier = read_json(settings)
        if different := differing(fingerprint, earlier if isinstance(earlier, dict) else {}):
            difference = f"rows of other settings, which differ in {', '.join(different)}"
            raise NeurordlError(f"{out} holds {difference}; choose another folder, or delete that one")
    elif rows.is_dir() and any(rows.iterdir()):
        raise NeurordlError(f"{out} holds rows of unknown settings ({SETTINGS} is missing); choose another")
    elif (out / RUN_RECORD).is_file():
        raise NeurordlError(f"{out} holds a run; choose another folder for a study")
    make_folder(rows)
    if not settings.is_file():
        write_json(settings, fingerprint)


def _read_values(file: Path, job: Mapping[str, Any]) -> dict[str, float]:
    """The values of a finished row; undefined ones come back as NaN."""
    row = read_json(file)
    with explain(f"{file} is not a row of a grid", remedy="delete it to run its job again"):
        same, values = row["job"] == dict(job), {key: float(value) for key, value in row["values"].items()}
    if not same:
        raise NeurordlError(f"{file} holds the row of another job; delete it to run this one again")
    return values


def paired_differences(
    frame: pd.DataFrame,
    value: str,
    condition: str = "condition",
    *,
    reference: str,
    pair: Sequence[str] = ("seed",),
    by: Sequence[str] = (),
) -> pd.DataFrame:
    """Mean difference of each condition from a reference, over pairs, with its 95 % t interval.

    Parameters
    ----------
    frame
        A row per condition and pair.
    value
        Column that is compared.
    condition
        Column with the conditions.
    reference
        Condition that is subtracted from each other one.
    pair
        Columns with the same values in rows that belong together.
    by
        Columns of `pair` to group by, such as ``("experiment",)``: there is a mean for each of their values.

    Returns
    -------
    DataFrame
        Columns ``by``, ``condition``, ``difference``, ``ci_low``, ``ci_high``, ``n`` (pairs in which both
        values are defined). The interval is NaN for fewer than two pairs.

    Raises
    ------
    NeurordlError
        If a column or the reference does not exist, or a condition occurs twice in a pair.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.experiments import paired_differences
    >>> pairs = {"condition": ["a", "b"] * 2, "seed": [0, 0, 1, 1]}
    >>> table = pd.DataFrame({**pairs, "score": [1.0, 1.5, 2.0, 2.5]})
    >>> paired_differences(table, "score", reference="a")["difference"].tolist()
    [0.5]
    """
    check_columns("pair=", pair, by)
    differences = subtract_reference(frame, value, condition, reference=reference, pair=pair)
    rows = []
    for group, part in differences.groupby(list(by), sort=False) if by else [((), differences)]:
        mean, low, high, _, n = mean_interval(part.to_numpy().T)
        columns = {condition: part.columns, "difference": mean, "ci_low": low, "ci_high": high, "n": n}
        rows.append(pd.DataFrame({**dict(zip(by, group, strict=True)), **columns}))
    return pd.concat(rows, ignore_index=True)


def all_differences(
    frame: pd.DataFrame, value: str, *, reference: str, pair: Sequence[str] = ("seed",)
) -> pd.DataFrame:
    """`paired_differences` of each two conditions once, those from the reference first.

    Parameters
    ----------
    frame, value, reference, pair
        As in `paired_differences`.

    Returns
    -------
    DataFrame
        With the column ``reference``, for the condition that is subtracted.

    Raises
    ------
    NeurordlError
        As in `paired_differences`.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.experiments import all_differences
    >>> pairs = {"condition": ["labels", "permuted", "teacher"] * 2, "seed": [0] * 3 + [1] * 3}
    >>> table = pd.DataFrame({**pairs, "score": [0.5, 0.4, 0.7, 0.6, 0.5, 0.9]})
    >>> all_differences(table, "score", reference="labels")[["condition", "reference"]].values.tolist()
    [['permuted', 'labels'], ['teacher', 'labels'], ['teacher', 'permuted']]
    """
    names = sorted(dict.fromkeys(frame["condition"]), key=lambda name: name != reference)
    parts = [
        paired_differences(
            frame[frame["condition"].isin(names[k:])], value, reference=name, pair=pair
        ).assign(reference=name)
        for k, name in enumerate(names[:-1])
    ]
    return pd.concat(parts, ignore_index=True)


def subtract_reference(
    frame: pd.DataFrame, value: str, condition: str = "condition", *, reference: str, pair: Sequence[str]
) -> pd.DataFrame:
    """Subtract a reference from each other condition: a row for each pair, and a column for each condition.

    The arguments are those of `paired_differences`. Where a value is absent or undefined, it is NaN.

    Examples
    --------
    >>> import pandas as pd
    >>> from neurordl.experiments import subtract_reference
    >>> pairs = {"condition": ["a", "b"] * 2, "seed": [0, 0, 1, 1]}
    >>> table = pd.DataFrame({**pairs, "score": [1.0, 1.5, 2.0, 2.5]})
    >>> subtract_reference(table, "score", reference="a", pair=["seed"])["b"].tolist()
    [0.5, 0.5]
    """
    check_columns("the table", frame, (condition, value, *pair))
    conditions = list(frame[condition].unique())
    check_choice("reference", reference, conditions)
    if frame.duplicated([condition, *pair]).any():
        raise NeurordlError(
            f"a {condition} occurs twice with the same {', '.join(pair)}; add columns to pair="
        )
    table = frame.pivot(index=list(pair), columns=condition, values=value).astype(float)
    compared = [name for name in conditions if name != reference]
    return table[compared].sub(table[reference], axis=0)


def crossed_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean over crossed factors (folds, seeds, people), and a t interval for new levels of every factor.

    The variance of the mean is taken as the sum of the variances over each factor's own means. Variance that
    factors share is counted more than once. The interval is wide if a factor has few levels. It assumes that
    effects are about normal: of normal effects, 95 % intervals covered the truth in 95 % of simulations, and
    of skewed (exponential) effects of 5 seeds and 12 or 30 subjects in 91 to 92 %. Degrees of freedom:
    Satterthwaite (1946, Biometrics Bulletin 2:110).

    Parameters
    ----------
    values
        One axis per factor, a value in every cell: (folds, seeds, people).
    confidence
        Between 0 and 1.

    Returns
    -------
    mean, low, high
        All the same if nothing varies.

    Raises
    ------
    NeurordlError
        If a cell has no finite value, there is no axis, or an axis has a single level.

    Examples
    --------
    >>> import numpy as np
    >>> from neurordl.experiments import crossed_interval
    >>> mean, low, high = crossed_interval(np.array([[1.0, 2.0], [2.0, 3.0]]))
    >>> mean, low < mean < high
    (2.0, True)
    """
    if not values.ndim or min(values.shape) < 2 or not np.isfinite(values).all():
        shape = f"{values.shape} with {int((~np.isfinite(values)).sum())} undefined cells"
        needed = "a finite number in every cell and two or more levels of each factor"
        raise NeurordlError(f"crossed values need {needed}, but have shape {shape}")
    axes = range(values.ndim)
    means = [values.mean(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    parts = np.array([mean.var(ddof=1) / len(mean) for mean in means])
    mean, variance = float(values.mean()), float(parts.sum())
    if variance <= (np.finfo(float).eps * np.abs(values).max()) ** 2:
        return mean, mean, mean
    freedom = variance**2 / (parts**2 / (np.array(values.shape) - 1)).sum()
    low, high = stats.t.interval(confidence, freedom, mean, math.sqrt(variance))
    return mean, float(low), float(high)
