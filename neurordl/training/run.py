"""What a fit leaves behind: the student, its history, and the folder that says how it came about."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from neurordl import students
from neurordl.errors import NeurordlError
from neurordl.io import RUN_RECORD, atomic_write, read_json
from neurordl.stimuli import Preprocessing

RECORD, HISTORY = RUN_RECORD, "history.csv"
LAST, BEST = "student.safetensors", "best.safetensors"


@dataclass
class Run:
    """A fitted student and how it was fitted.

    Attributes
    ----------
    student : torch.nn.Module
        With the weights that did best on the validation stimuli, if there were any; else the last.
    history : pandas.DataFrame
        A row per epoch: epoch, step, loss, each term, ``val_`` terms, lr, seconds.
    record : dict
        What ``run.json`` holds: settings, objective, ids, subjects, versions, checksums.
    out : Path or None
        The run's folder.
    """

    student: nn.Module
    history: pd.DataFrame
    record: dict[str, Any] = field(repr=False)
    out: Path | None = None

    def _ids(self, part: str) -> tuple[str, ...]:
        return tuple((self.record.get("stimuli") or {}).get(part, ()))

    @property
    def fitted_ids(self) -> tuple[str, ...]:
        """Stimuli whose geometry was fitted; where a loader brought them, those that it showed."""
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
    def fitted_subjects(self) -> tuple[str, ...]:
        """Subjects whose RDMs or patterns were fitted."""
        losses = self.record["objective"]["losses"].values()
        named = [name for loss in losses for name in (loss.get("teacher") or {}).get("subjects", ())]
        return tuple(dict.fromkeys(named))

    @property
    def fitted_rdms(self) -> frozenset[str]:
        """Checksums of the subjects' RDMs that were fitted: they are known again under other names."""
        losses = self.record["objective"]["losses"].values()
        return frozenset(one for loss in losses for one in (loss.get("teacher") or {}).get("rdm_sha256", ()))

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the stimuli were preprocessed."""
        given = (self.record.get("stimuli") or self.record.get("labelled") or {}).get("preprocessing")
        return Preprocessing.from_dict(given) if given else None


def save_student(student: nn.Module, path: Path) -> None:
    """Write a student's weights as safetensors."""
    state = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in student.state_dict().items()
    }
    with atomic_write(path) as aside:
        aside.write_bytes(safetensors.torch.save(state))


def load_student(student: nn.Module, path: Path) -> None:
    """Read a student's weights; nothing is unpickled."""
    try:
        state = safetensors.torch.load(path.read_bytes())
        student.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise NeurordlError(
            f"{path}: these weights cannot be read into {type(student).__name__}: {error}"
        ) from error


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write everything that a resumed run needs, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(_plain(state), buffer)
    with atomic_write(path) as aside:
        aside.write_bytes(buffer.getbuffer())


def _plain(state: Any) -> Any:
    """The same without numpy's scalars (a learning rate out of logspace), which are refused on reading."""
    if isinstance(state, Mapping):
        return {_plain(key): _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [*map(_plain, state)] if isinstance(state, list) else (*map(_plain, state),)
    return state.item() if isinstance(state, np.generic) else state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without unpickling code; damaged data are an error, whichever byte it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    except Exception as error:  # damaged bytes raise nearly anything
        raise NeurordlError(
            f"{path}: this checkpoint is damaged ({error}); delete it to start again"
        ) from error
    raise NeurordlError(f"{path}: this checkpoint is damaged (in {damaged}); delete it to start again")


def load_run(
    out: str | Path, student: nn.Module | None = None, weights: Literal["best", "last"] = "best"
) -> Run:
    """Read a run from its folder.

    Parameters
    ----------
    out : path
        The folder that `fit` wrote.
    student : torch.nn.Module, optional
        Needed where the student was not made by ``neurordl.students.build``.
    weights : {"best", "last"}
        Best on the validation stimuli, where there were any, or last.

    Returns
    -------
    Run

    Raises
    ------
    NeurordlError
        If the folder holds no finished run, or its weights do not fit.
    """
    if weights not in ("best", "last"):
        raise NeurordlError(f"weights={weights!r}: expected 'best' or 'last'")
    folder = Path(out)
    if not (folder / RECORD).is_file():
        raise NeurordlError(f"{folder} holds no run ({RECORD} is missing)")
    record = read_json(folder / RECORD)
    path = folder / (BEST if weights == "best" and "best" in record else LAST)
    if record.get("status") != "finished":
        raise NeurordlError(
            f"{folder} holds a run that has not finished; call fit(..., resume=True), in the shell train "
            "--resume"
        )
    if student is None:
        spec = record["student"].get("spec")
        if not spec:
            kind = record["student"]["class"]
            raise NeurordlError(
                f"{folder}: how its student ({kind}) is made is not recorded; pass load_run(out, student=...)"
            )
        student = students.build(**spec)
    load_student(student, path)
    try:
        history = pd.read_csv(folder / HISTORY)
    except (OSError, ValueError) as error:
        raise NeurordlError(f"{folder / HISTORY} cannot be read: {error}; fit the run again") from error
    return Run(student.eval(), history, record, folder)
