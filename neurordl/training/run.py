"""The folder of a run and what it holds: the student, its history, its record, and the checkpoint."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

from neurordl import io, students
from neurordl.errors import NeurordlError, notify
from neurordl.patterns.network import unwrapped
from neurordl.rsa.leaks import Exposure, check_exposures, shown_images
from neurordl.stimuli import Preprocessing, StimulusSet
from neurordl.students.loading import READ_FROM, TRAINED_ON, load_weights
from neurordl.teachers.base import Record
from neurordl.validate import brief, check_choice, counted, folded_html, listed

if TYPE_CHECKING:
    from neurordl.rsa.scores import Evaluation

History = Sequence[Mapping[str, float]]
HISTORY = "history.csv"
LAST, BEST, LOSSES = "student.safetensors", "best.safetensors", "losses.safetensors"

TRAINED_CLASSES = "trained_classes"
"""Attribute of a fitted student: names of its classes, in the order of its outputs, or None."""

# Parts of the record that must agree when a run is resumed: the others say when and where it ran.
_SAME = ("settings", "optimizer", "objective", "student", "stimuli", "labelled")

# Of the student in the record: its weights before training, the name of a checkpoint, and the weights there.
START, CHECKPOINT_NAME, CHECKPOINT_SUM = _START = ("sha256_weights", "checkpoint", "sha256_checkpoint")

_FEW_STEPS = 50
_NO_TERM = ("epoch", "step", "lr", "seconds")  # columns of a history


@dataclass
class Run:
    """A fitted student and how it was fitted.

    Attributes
    ----------
    student : torch.nn.Module
        Student with the weights of its best epoch on the validation stimuli, or, without validation, of its
        last epoch. It knows the names of its classes, which `accuracy` reads.
    history : pandas.DataFrame
        A row per epoch: epoch, step, loss, each term, ``val_`` terms, lr (after the last step of the epoch)
        and seconds.
    record : dict
        The content of ``run.json``: settings, objective, ids, subjects, versions, checksums.
    out : Path or None
        Folder of the run.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> student, quiet = nrl.students.small_cnn(in_channels=1), nrl.Execution(progress=False)
    >>> run = nrl.fit(student, nrl.Objective(), digits.subset(digits.ids[:50]), epochs=2, execution=quiet)
    >>> len(run.history)
    2
    """

    __repr__ = brief

    student: nn.Module
    history: pd.DataFrame
    record: Record = field(repr=False)
    out: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.student, nn.Module):
            setattr(unwrapped(self.student), TRAINED_CLASSES, self.classes)
            setattr(unwrapped(self.student), TRAINED_ON, self.trained_on)

    def _repr_html_(self) -> str:
        losses = listed((self.record.get("objective") or {}).get("losses") or (), most=6) or "none"
        n, name = len(self.history), self.out.name if self.out is not None else ""
        summary = f"Run{f' {name}' if name else ''}: {counted(n, 'epoch')}"
        summary += f", transfer losses: {losses}"
        tail = self.history.tail(10)
        rows = [[f"{value:.4g}" for value in row] for row in tail.to_numpy(float).tolist()]
        rest = [f"These are the last {len(tail)} of {n} epochs."] if n > len(tail) else []
        if best := self.record.get("best"):
            rest.append(f"The weights of epoch {best['epoch']} were kept.")
        return folded_html(summary, rows, list(map(str, tail)), rest)

    def _ids(self, part: str) -> tuple[str, ...]:
        return tuple((self.record.get("stimuli") or {}).get(part, ()))

    def _teachers(self) -> list[Record]:
        return [loss.get("teacher") or {} for loss in self.record["objective"]["losses"].values()]

    @property
    def fitted_ids(self) -> tuple[str, ...]:
        """Stimuli whose geometry was fitted: those of the set, or those in the batches of the loader."""
        return self._ids("fitted") or tuple(self.record.get("seen", ()))

    @property
    def validation_ids(self) -> tuple[str, ...]:
        """Stimuli on which the epoch was chosen."""
        return self._ids("validation")

    @property
    def held_out_ids(self) -> tuple[str, ...]:
        """Stimuli that the split left out."""
        return self._ids("held_out")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the student's outputs, if the labelled images had names."""
        names = (self.record.get("labelled") or {}).get("classes")
        return tuple(names) if names else None

    @property
    def fitted_subjects(self) -> tuple[str, ...]:
        """Subjects whose RDMs or patterns were fitted."""
        names = [name for teacher in self._teachers() for name in teacher.get("subjects", ())]
        known = self.record.get(TRAINED_ON)  # also the members of a mean; old records lack it
        return tuple(dict.fromkeys(known[0]["subjects"] if known else names))

    @property
    def trained_on(self) -> list[Record]:
        """What the run has shown to its student, then what earlier runs had, to it or to its teachers."""
        ids, names = [*self.fitted_ids, *self.validation_ids], list(self.fitted_subjects)
        old = {"stimuli": [{"ids": ids, "images": None}], "labelled": [], "subjects": names, "rdms": []}
        return list(self.record.get(TRAINED_ON) or [old])

    @property
    def fitted_rdms(self) -> frozenset[str]:
        """Checksums of the subjects' RDMs that were fitted, by which they are recognized if renamed."""
        return frozenset(digest for teacher in self._teachers() for digest in teacher.get("rdm_sha256", ()))

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the stimuli were preprocessed."""
        images = self.record.get("stimuli") or self.record.get("labelled") or {}
        settings = images.get("preprocessing")
        return Preprocessing.from_dict(settings) if settings else None

    def to_html(
        self,
        path: str | os.PathLike[str],
        scores: Evaluation | Sequence[Evaluation] = (),
        title: str = "",
        figures: bool = True,
    ) -> Path:
        """Write a report of the run as one HTML file; see `neurordl.report.write_report`.

        Parameters
        ----------
        path
            The file to write, named ``.html``.
        scores
            Evaluations of the run to report with it, such as those of held-out and of fitted pairs.
        title
            Heading of the page; by default the name of the run's folder.
        figures
            Write the figures also as PDF and SVG, into a folder beside the file.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        NeurordlError
            The file cannot be written.
        """
        from neurordl.report import write_report

        name = title or (self.out.resolve().name if self.out else "Run")
        parts: list[Run | Evaluation] = [self, *(scores if isinstance(scores, Sequence) else [scores])]
        return write_report(path, {name: parts}, figures=figures)

    def load_stimuli(self, folder: str | Path | None = None) -> StimulusSet:
        """Read the images of the stimuli, prepared as they were for the run.

        Parameters
        ----------
        folder : path, optional
            Folder with the images; by default the one that the run's stimuli were read from.

        Returns
        -------
        StimulusSet
            All images of the folder, fitted or held out.

        Raises
        ------
        NeurordlError
            If the run does not know its folder, or the images are others than those that were fitted.
        """
        record, ids = self.record["stimuli"] or {}, self.fitted_ids
        folder = folder or record.get("source")
        if not folder or self.preprocessing is None:
            raise NeurordlError(f"{self.out} does not record the folder of its stimuli; pass the folder")
        stimuli = StimulusSet.from_folder(folder, **self.preprocessing.as_dict())
        before = record.get("pixels_sha256")
        comparable = before and ids and set(ids) <= set(stimuli.ids)
        if comparable and io.sha256_array(stimuli.subset(ids).pixels) != before:
            problem = f"the images in {folder} are not those that the run was fitted on, but have their names"
            raise NeurordlError(f"{problem}; give the folder of the original ones")
        return stimuli


def exposures(
    student: nn.Module,
    teachers: Iterable[object],
    stimuli: Sequence[StimulusSet | None],
    labelled: object,
) -> list[Exposure]:
    """What a run is about to show to a student, then what earlier runs have shown to it or to its teachers.

    Parameters
    ----------
    student
        The network.
    teachers
        Those of the transfer losses, who name their subjects.
    stimuli
        Those that are fitted, and those by which the epoch is chosen.
    labelled
        The labelled images.
    """
    labels = [labelled] if isinstance(labelled, StimulusSet) else []
    each_once = {id(teacher): teacher for teacher in teachers}.values()
    taught: list[Exposure] = [getattr(teacher, "exposure", dict)() for teacher in each_once]
    now = {
        "stimuli": [shown_images(part) for part in stimuli if part is not None],
        "labelled": [shown_images(part) for part in labels if all(part is not shown for shown in stimuli)],
        "subjects": list(dict.fromkeys(name for part in taught for name in part.get("subjects", ()))),
        "rdms": [sketch for part in taught for sketch in part.get("rdms", ())],
    }
    before = [getattr(unwrapped(student), TRAINED_ON, []), *(part.get("before", ()) for part in taught)]
    earlier: list[Exposure] = []
    for exposure in chain(*before):
        earlier += [exposure] if exposure not in earlier else []
    return [now, *earlier]


def describe_start(student: nn.Module) -> Record:
    """The weights of a student before it is trained: their checksum, and the checkpoint of their origin."""
    student = unwrapped(student)
    start: Record = {START: io.sha256_state(student.state_dict())}
    part = next((part for part in student.modules() if hasattr(part, READ_FROM)), None)
    if part is not None:
        name, before = getattr(part, READ_FROM)
        changed = before != io.sha256_state(part.state_dict())
        start[CHECKPOINT_NAME] = f"{name}, changed before training" if changed else name
        start[CHECKPOINT_SUM] = before
    return start


def recorded_start(folder: Path) -> Record:
    """`describe_start` of the run in a folder; empty if it holds no run, or one of an earlier version."""
    path = folder / io.RUN_RECORD
    with io.damage_named(path, "choose another folder"):
        student = io.read_json(path)["student"] if path.is_file() else {}
        return {name: student[name] for name in _START if student.get(name)}


def other_start(before: Record, now: Record) -> str:
    """From where two students with different weights have them, for a message."""
    first, second = (part.get(CHECKPOINT_NAME, "no checkpoint") for part in (before, now))
    if first == second:
        return f"{first} has changed" if CHECKPOINT_NAME in now else "no checkpoint is known"
    return f"{first} before, {second} now"


def same_start(starts: Mapping[int, Record]) -> str:
    """Say which seeds have runs with the same initial weights; empty if they have not, or if unknown."""
    seeds: dict[str, list[int]] = {}
    for seed, start in starts.items():
        if start.get(START) is not None:
            seeds.setdefault(start[START], []).append(seed)
    alike = [group for group in seeds.values() if len(group) > 1]
    if not alike:
        return ""
    if len(alike[0]) < len(starts):
        groups = " and ".join(f"seeds {listed(group)}" for group in alike)
        return f"{groups} start from the same weights; intervals over seeds take them for replicates"
    name = next(iter(starts.values())).get(CHECKPOINT_NAME)
    text = f"all {len(starts)} seeds start from the same weights{f' (checkpoint {name})' if name else ''}"
    rest = "the order of the data, augmentation, dropout and which ids are permuted"
    return f"{text}; intervals over seeds vary with {rest} alone"


def same_runs(runs: Mapping[tuple[str, int], Run | None]) -> list[str]:
    """Conditions whose runs of all seeds are one run, but for rounding.

    They start from the same weights, and the terms of the loss in the first epoch are equal, as they are
    where each step has all images: then nothing random is left that could differ.

    Parameters
    ----------
    runs
        Runs by condition and seed.
    """
    same = []
    for condition in dict.fromkeys(name for name, _ in runs):
        parts = {seed: run for (name, seed), run in runs.items() if name == condition}
        finished = {seed: run for seed, run in parts.items() if run is not None and len(run.history)}
        starts = {seed: run.record["student"] for seed, run in finished.items()}
        sums = {start.get(START) for start in starts.values()}
        if len(finished) < max(len(parts), 2) or len(sums) > 1 or None in sums:
            continue
        first = [run.history.iloc[0] for run in finished.values()]
        names = [name for name in first[0].index if name not in _NO_TERM and not name.startswith("val_")]
        terms = np.array([row.reindex(names).to_numpy(float) for row in first])
        if np.allclose(terms, terms[0], rtol=1e-5, atol=1e-6, equal_nan=True):
            same.append(condition)
    return same


def few_steps(record: Record) -> str:
    """Say that a run had too few steps for its student to learn much; empty if it had more, or none."""
    settings = record.get("settings") or {}
    epochs, steps = settings.get("epochs") or 0, settings.get("steps_per_epoch") or 0
    if not 0 < epochs * steps < _FEW_STEPS:
        return ""
    parts = f"epochs: {epochs}, steps in each: {steps}"
    text = f"only {counted(epochs * steps, 'step')} in all ({parts}), in which a student hardly moves"
    return f"{text}; take more epochs, or smaller batches"


def tell_same_runs(conditions: Sequence[str], n_seeds: int) -> str:
    """Say that the seeds of these conditions are one run; empty without any."""
    if not conditions:
        return ""
    trained = [name for name in conditions if name != "untrained"]
    why = ", for each step has all images" if trained else ""
    text = f"{listed(conditions, quote=False)}: the {n_seeds} seeds are one run but for rounding{why}"
    return f"{text}, and an interval over them would mean nothing"


def load_run(
    out: str | Path, student: nn.Module | None = None, weights: Literal["best", "last"] = "best"
) -> Run:
    """Read a run from its folder.

    Parameters
    ----------
    out : path
        The folder that `fit` wrote.
    student : torch.nn.Module, optional
        Network that the weights are read into. It is needed if the student was not made by
        ``neurordl.students.build``.
    weights : {"best", "last"}
        Weights of the best epoch on the validation stimuli, if there were any, or of the last epoch.

    Returns
    -------
    Run
        The run, its student in eval mode.

    Raises
    ------
    NeurordlError
        If the folder holds no finished run, or its weights do not fit.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> labelled = digits.subset(digits.ids[:50])
    >>> student, quiet = nrl.students.small_cnn(in_channels=1), nrl.Execution(progress=False)
    >>> with TemporaryDirectory() as folder:
    ...     run = nrl.fit(student, nrl.Objective(), labelled, epochs=1, execution=quiet, out=folder)
    ...     again = nrl.load_run(folder)
    >>> len(again.history)
    1
    """
    check_choice("weights", weights, ("best", "last"))
    run, folder, remedy = read_run(out), Path(out), "fit the run again"
    with io.damage_named(folder / io.RUN_RECORD, remedy):
        spec, name = run.record["student"].get("spec"), run.record["student"]["class"]
    if student is None and not spec:
        reason = f"how its student ({name}) is made is not recorded"
        raise NeurordlError(f"{folder}: {reason}; pass load_run(out, student=...), or --student")
    with io.damage_named(folder / io.RUN_RECORD, remedy):
        run = replace(run, student=(students.build(**spec) if student is None else student).eval())
    best = weights == "best" and "best" in run.record
    load_weights(unwrapped(run.student), folder / (BEST if best else LAST))
    setattr(unwrapped(run.student), TRAINED_ON, run.trained_on)
    return run


def read_run(out: str | Path) -> Run:
    """The record and the history of a finished run; its student is an empty network."""
    folder, remedy = Path(out), "fit the run again"
    if not (folder / io.RUN_RECORD).is_file():
        raise NeurordlError(f"{folder} holds no run ({io.RUN_RECORD} is missing)")
    record = io.read_json(folder / io.RUN_RECORD)
    with io.damage_named(folder / io.RUN_RECORD, remedy):
        unfinished = record.get("status") != "finished"
    if unfinished:
        remedy = "call fit(..., resume=True), or repeat the command"
        raise NeurordlError(f"the run in {folder} has not finished; {remedy}")
    with io.damage_named(folder / io.RUN_RECORD, remedy):
        run = Run(nn.Identity(), pd.DataFrame(), record, folder)
        for part in ("fitted_ids", "validation_ids", "fitted_subjects", "fitted_rdms", "preprocessing"):
            getattr(run, part)
        int(record["best"]["epoch"] if "best" in record else 0)
        check_exposures(run.trained_on)
        _notices(record)
    with io.damage_named(folder / HISTORY, remedy):
        run.history = pd.read_csv(folder / HISTORY)
        numbers = run.history.select_dtypes("number")
        if list(run.history) != list(numbers) or not np.isfinite(numbers[["epoch", "step"]]).all(axis=None):
            raise ValueError("its columns must be numbers, of epochs and steps")
    return run


def recorded_setting(out: str | Path, name: str) -> Any:
    """A setting of the run in a folder; None if the folder holds no run, or none with this setting."""
    path = Path(out) / io.RUN_RECORD
    with io.damage_named(path, "choose another folder"):
        return io.read_json(path)["settings"].get(name) if path.is_file() else None


def _notices(record: Record) -> list[str]:
    """The notices of a recorded run."""
    notices = record.get("notices", [])
    if not isinstance(notices, list) or not all(isinstance(text, str) for text in notices):
        raise ValueError("its notices must be texts")
    return notices


class RunFolder:
    """Writes the files of a run, each of them whole or not at all.

    Without a folder nothing is written, and the best weights are kept in memory.

    Parameters
    ----------
    out : path, optional
        A new or empty folder, or one with the same run if `resume`.
    record : dict
        The content of ``run.json``.
    resume : bool
        Continue from the checkpoint in the folder.
    writes : bool
        Whether this process is the one that writes.

    Raises
    ------
    NeurordlError
        If the folder holds another run, or something else.
    """

    def __init__(self, out: str | Path | None, record: Record, resume: bool, writes: bool) -> None:
        self.path, self.record, self.resume = Path(out or ""), record, resume
        self._in_memory, self.writes = out is None, writes and out is not None
        self._new: list[Path] = []  # what a run that fails before its first checkpoint leaves behind
        self._best: dict[str, Tensor] = {}
        self.finished = False
        if out is not None:
            io.check_run_folder(out, resume)
            if (self.path / io.RUN_RECORD).is_file():
                earlier = io.read_json(self.path / io.RUN_RECORD)
                self._check_same(earlier)
                self._check_start(trained=record[TRAINED_ON][1:] == earlier.get(TRAINED_ON))
                if TRAINED_ON in earlier:  # the student is made anew, and knows of no run before
                    with io.damage_named(self.path / io.RUN_RECORD, "choose another folder"):
                        check_exposures(earlier[TRAINED_ON])
                    record[TRAINED_ON] = earlier[TRAINED_ON]
                with io.damage_named(self.path / io.RUN_RECORD, "choose another folder"):
                    notices = _notices(earlier)
                record["notices"] = list(dict.fromkeys([*notices, *record["notices"]]))
                whole = all((self.path / name).is_file() for name in (io.CHECKPOINT, LAST))
                self.finished = whole and earlier.get("status") == "finished"
                record.update(earlier if self.finished else {})  # with the accuracy on test images, too

    def _check_same(self, earlier: Mapping[str, Any]) -> None:
        different: dict[str, str] = {}  # by name: a setting of the optimizer replaces that of `Optimization`
        with io.damage_named(self.path / io.RUN_RECORD, "choose another folder"):
            for part in _SAME:
                parts = [record.get(part) or {} for record in (self.record, earlier)]
                if part == "student":  # with what it began has its own check
                    parts = [{k: v for k, v in x.items() if k not in _START} for x in parts]
                texts = io.differing(*map(_settings, parts)) if all(parts) else [part] if any(parts) else []
                prefix = "" if part in ("settings", "optimizer", "objective", *texts) else f"{part}."
                texts = [prefix + text.removeprefix("optimization.") for text in texts]
                different |= {text.partition(" (")[0]: text for text in texts}
        if different:
            problem = f"out: {self.path} holds another run, which differs in {listed(different.values())}"
            raise NeurordlError(f"{problem}; choose another folder, or repeat the arguments of that run")

    def _check_start(self, trained: bool) -> None:
        """Refuse a student from another checkpoint; of one with other random weights, say so.

        The student of an interrupted fit may be passed again: it was trained in the same run, and read from
        the same checkpoint.
        """
        student, before = self.record["student"], recorded_start(self.path)
        now = {name: student.pop(name) for name in _START if name in student}
        student |= before  # the run keeps that with which it began
        known = None not in (before.get(START), now.get(START))
        origins = [start.get(CHECKPOINT_SUM) for start in (before, now)]
        again = trained and origins[0] == origins[1]
        if not known or again or before[START] in (now[START], origins[1]):
            return
        problem = f"resume: the student has other initial weights than that of the run in {self.path}"
        if CHECKPOINT_NAME in {**before, **now}:
            remedy = "choose another folder, or read the same checkpoint"
            raise NeurordlError(f"{problem} ({other_start(before, now)}); {remedy}")
        remedy = "call torch.manual_seed before you make it, or choose another folder for a new run"
        notify(f"{problem}, which keeps its own: what you passed is not trained; {remedy}")

    def start(self) -> None:
        """Make the folder and write the record of a run that has started."""
        if self.writes:
            if not (self.path / io.RUN_RECORD).is_file():
                self._new = [self.path / name for name in (io.RUN_RECORD, HISTORY, BEST)]
                self._new += [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            io.make_folder(self.path)
            io.write_json(self.path / io.RUN_RECORD, self.record)

    def withdraw(self) -> None:
        """Remove all traces of a run that failed before its first checkpoint."""
        with suppress(OSError):
            for path in self._new:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

    def load(self) -> Record | None:
        """The checkpoint to continue from, if there is one."""
        path = self.path / io.CHECKPOINT
        return load_checkpoint(path) if self.resume and path.is_file() else None

    def save(self, state: Mapping[str, Any], history: History) -> None:
        """Write the checkpoint and the history."""
        if self.writes:
            buffer = BytesIO()
            torch.save(_without_numpy(state), buffer)
            io.write_bytes(self.path / io.CHECKPOINT, buffer.getbuffer())
            self._new = []
            self._save_history(history)

    def _save_history(self, history: History) -> None:
        path, text = self.path / HISTORY, pd.DataFrame(history).to_csv(index=False)
        if not path.is_file() or path.read_bytes() != text.encode():
            io.write_text(path, text)

    def save_best(self, student: nn.Module) -> None:
        """Keep the weights of the best epoch so far."""
        if self._in_memory:
            self._best = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
        elif self.writes:
            _save_weights(student.state_dict(), self.path / BEST, self.record)

    def load_best(self, student: nn.Module) -> None:
        """Read the weights of the best epoch into the student."""
        if self._in_memory:
            student.load_state_dict(self._best)
        else:
            load_weights(student, self.path / BEST)

    def finish(self, student: nn.Module, losses: Mapping[str, Tensor], history: History) -> None:
        """Write the history, and, of a run that has just finished, the last weights and the record.

        Of a run that had finished, the file of the losses is written again where it is missing.
        """
        if self.writes:
            self._save_history(history)  # again: the run may have been killed after a checkpoint
        if self.writes and not self.finished:
            _save_weights(student.state_dict(), self.path / LAST, self.record)
        if self.writes and losses and not (self.finished and (self.path / LOSSES).is_file()):
            _save_weights(losses, self.path / LOSSES, self.record)
        if self.writes and not self.finished:  # last: it says that the others are there
            io.write_json(self.path / io.RUN_RECORD, self.record)


def _settings(part: Mapping[str, Any]) -> Record:
    """A part of the record; names of losses come first, then each setting of each loss."""
    losses: Record = part.get("losses", {})
    flat = {f"{name}.{key}": value for name, loss in losses.items() for key, value in loss.items()}
    return {"losses": list(losses), **{key: value for key, value in part.items() if key != "losses"}, **flat}


def _save_weights(weights: Mapping[str, Tensor], path: Path, record: Record) -> None:
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    shown = {TRAINED_ON: json.dumps(record.get(TRAINED_ON, []))}  # which stays with copies of the file
    io.write_bytes(path, safetensors.torch.save(state, shown))


def _without_numpy(state: Any) -> Any:
    """The same without numpy's scalars (a learning rate out of logspace), which are refused on reading."""
    if isinstance(state, Mapping):
        return {_without_numpy(key): _without_numpy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_without_numpy, state))
    return state.item() if isinstance(state, np.generic) else state


def load_checkpoint(path: Path) -> Record:
    """Read a checkpoint without unpickling code; any damaged byte is an error."""
    with io.damage_named(path, "delete it to start again"):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state: Record = torch.load(path, map_location="cpu", weights_only=True)
    return state
