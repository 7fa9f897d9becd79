"""The folder of a run: what is written, when, and what may be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from neurordl.errors import NeurordlError
from neurordl.ids import Match
from neurordl.io import (
    CHECKPOINT,
    atomic_write,
    check_run_folder,
    read_json,
    sha256_array,
    versions,
    write_json,
)
from neurordl.stimuli import StimulusSet
from neurordl.training.objective import Objective
from neurordl.training.run import (
    BEST,
    HISTORY,
    LAST,
    RECORD,
    load_checkpoint,
    load_student,
    save_checkpoint,
    save_student,
)

# What must agree for a run to be resumed: the rest of the record says when and where.
_SAME = ("settings", "optimizer", "objective", "student", "stimuli", "labelled")


def describe_fit(
    settings: Mapping[str, Any],
    student: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    labelled: object,
    train: StimulusSet | None,
    held: StimulusSet | None,
    matches: Mapping[str, Match],
) -> dict[str, Any]:
    """What ``run.json`` records of a fit, before it starts."""
    defaults = {
        key: value
        for key, value in optimizer.defaults.items()
        if isinstance(value, int | float | str | tuple)
    }
    stimuli = None
    if train is not None:
        stimuli = {
            "fitted": list(train.ids) if objective.losses else [],
            "validation": list(held.ids) if held is not None else [],
            "held_out": list(train.held_out_ids),
            **_describe_set(train),
        }
    elif isinstance(labelled, StimulusSet) and objective.losses:
        stimuli = {
            "fitted": list(labelled.ids),
            "validation": [],
            "held_out": list(labelled.held_out_ids),
            **_describe_set(labelled),
        }
    record = {
        "status": "running",
        "settings": dict(settings),
        "optimizer": {"class": type(optimizer).__name__, **defaults},
        "objective": objective.describe(),
        "student": {
            "class": type(student).__name__,
            "parameters": sum(parameter.numel() for parameter in student.parameters()),
            "spec": getattr(student, "build_spec", None),
        },
        "stimuli": stimuli,
        "labelled": _describe_set(labelled)
        if isinstance(labelled, StimulusSet)
        else {"source": type(labelled).__name__},
        "matches": {name: str(match) for name, match in matches.items()},
        "versions": versions(),
    }
    # As it will be read from the file, so that a record in memory and one from disk are the same.
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def _describe_set(stimuli: StimulusSet) -> dict[str, Any]:
    return {
        "source": stimuli.source,
        "n": len(stimuli),
        "sha256": stimuli.sha256,
        "pixels_sha256": sha256_array(stimuli.pixels),
        "preprocessing": stimuli.preprocessing.as_dict(),
    }


class RunFolder:
    """Writes a run's files, each aside and then renamed.

    Parameters
    ----------
    out : path
        A new or empty folder, or one with the same run if `resume`.
    record : dict
        What ``run.json`` will hold.
    resume : bool
    writes : bool
        Whether this process is the one that writes.

    Raises
    ------
    NeurordlError
        If the folder holds another run, or something else.
    """

    def __init__(self, out: str | Path, record: dict[str, Any], resume: bool, writes: bool) -> None:
        self.path, self.record, self.resume, self.writes = Path(out), record, resume, writes
        self._made: list[Path] = []
        self._withdrawable = False
        check_run_folder(out, resume)
        if (self.path / RECORD).is_file():
            self._check_same(read_json(self.path / RECORD))

    def _check_same(self, before: Mapping[str, Any]) -> None:
        different = [
            (f"{part}.{key}" if isinstance(now, Mapping) else part) + _values(now, then, key)
            for part in _SAME
            for now, then in [(self.record[part], before.get(part))]
            for key in (
                _different_keys(now, then) if isinstance(now, Mapping) else ([part] if now != then else [])
            )
        ]
        if different:
            raise NeurordlError(
                f"out: {self.path} holds another run, which differs in {', '.join(different)}; "
                "choose another folder, or give what that run was given"
            )

    def start(self) -> None:
        """Make the folder and say in it what runs."""
        if self.writes:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self._withdrawable = not (self.path / RECORD).is_file()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise NeurordlError(
                    f"out: {self.path} cannot be made ({error.strerror}); choose another folder"
                ) from error
            write_json(self.path / RECORD, self.record)

    def withdraw(self) -> None:
        """Leave no trace of a run that failed before its first checkpoint."""
        if not self._withdrawable:
            return
        with suppress(OSError):
            for name in (RECORD, HISTORY, BEST):
                (self.path / name).unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()

    def state(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one."""
        path = self.path / CHECKPOINT
        return load_checkpoint(path) if self.resume and path.is_file() else None

    def save(self, state: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
        """Write the checkpoint and the history."""
        if self.writes:
            save_checkpoint(state, self.path / CHECKPOINT)
            self._withdrawable = False
            self._save_history(history)

    def _save_history(self, history: Sequence[Mapping[str, float]]) -> None:
        with atomic_write(self.path / HISTORY) as aside:
            pd.DataFrame(history).to_csv(aside, index=False)

    def save_best(self, student: nn.Module) -> None:
        """Write the weights that did best so far."""
        if self.writes:
            save_student(student, self.path / BEST)

    def load_best(self, student: nn.Module) -> None:
        """Read them back."""
        load_student(student, self.path / BEST)

    def finish(self, student: nn.Module, history: Sequence[Mapping[str, float]]) -> None:
        """Write the history, the last weights, and the record of the run, now finished."""
        if self.writes:
            self._save_history(history)  # again: it may have been killed between checkpoint and history
            save_student(student, self.path / LAST)
            write_json(self.path / RECORD, self.record)


def _values(now: object, then: object, key: str) -> str:
    """Both values of a setting, where they are short."""
    if not isinstance(now, Mapping) or not isinstance(then, Mapping):
        return ""
    both = [str(one.get(key, "nothing")) for one in (then, now)]
    return f" ({both[0]} there, {both[1]} here)" if max(map(len, both)) <= 40 else ""


def _different_keys(now: Mapping[str, Any], then: object) -> list[str]:
    if not isinstance(then, Mapping):
        return ["all"]
    return [key for key in {**now, **then} if now.get(key) != then.get(key)]
