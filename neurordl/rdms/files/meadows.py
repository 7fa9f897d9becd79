"""Exports of Meadows (meadows-research.com): .mat of one or several participants, and trees in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError
from neurordl.mat5 import Struct, Values
from neurordl.measures.condensed import pair_number
from neurordl.rdms.files.content import Format, RDMContent, n_stimuli
from neurordl.validate import counted, listed

_VECTOR, _NAMES = "rdmutv", "stimuli"  # and after an underscore the participant, where there are several
_PARTICIPANT = re.compile(r"Meadows_.+_v_v[^_]+_([^_]+)(?:_(\d+))?_[^_]+")
_TASK = "multiarrange"
_SUFFIX = re.compile(r"\.(png|jpe?g|gif|bmp|tiff?|webp|mp3|mp4|ogg|wav|webm)$", re.IGNORECASE)
_EXPECTED = (
    "expected a tree of Meadows: tasks with their stimuli and rdm, or participants with such tasks by name"
)


@dataclass(frozen=True)
class _Arrangement:
    """The RDM of a participant in a task; what is not known is empty."""

    subject: str
    task: str
    names: Sequence[Any]
    values: Any


def content_of_meadows(variables: Mapping[str, Any], source: Path) -> RDMContent | None:
    """The RDMs of all participants in a .mat file of Meadows; None if it is not one."""
    vectors = [key for key in variables if re.fullmatch(f"{_VECTOR}(_.+)?", key)]
    if not vectors or f"{_NAMES}{vectors[0].removeprefix(_VECTOR)}" not in variables:
        return None
    participant, index = _of_file(source)
    arrangements = []
    for key in vectors:
        ending = key.removeprefix(_VECTOR)
        if f"{_NAMES}{ending}" not in variables:
            raise NeurordlError(f"{key!r} has no names beside it, {_NAMES + ending!r}; export it again")
        subject = ending[1:].replace("_", "-") or participant
        task = participant if ending and not index else ""
        names, vector = variables[f"{_NAMES}{ending}"], variables[key]
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not isinstance(vector, np.ndarray):
            raise NeurordlError(f"{key!r} and {_NAMES + ending!r} hold no numbers and names; export it again")
        arrangements.append(_Arrangement(subject, task, names, np.ravel(vector)))
    return _to_content(arrangements)


def _of_file(source: Path) -> tuple[str, str]:
    """What the name of an export ends in: the participant (or the task), and the number of the task."""
    match = _PARTICIPANT.fullmatch(source.stem)
    return (match[1], match[2] or "") if match else ("", "")


def _read(source: Path, _: str | None) -> RDMContent:
    """Read the multiple arrangements in a tree: of a task, of a participant, or of several participants."""
    tree = json.loads(source.read_bytes())
    arrangements, notices, without = [], list[str](), list[str]()
    for subject, tasks in _participants(tree, source):
        of_subject = list(_arrangements(subject, tasks, notices))
        arrangements += of_subject
        without += [] if of_subject else [subject or source.name]
    if not arrangements:
        raise NeurordlError(f"it has no task of multiple arrangements ({_TASK}) with an rdm; {_EXPECTED}")
    content = _to_content(arrangements)
    if without:
        left_out = f"{counted(len(without), 'participant')} without an RDM: left out"
        notices.append(f"{left_out} ({listed(without)})")
    content.notices = notices + content.notices
    return content


def _participants(tree: Any, source: Path) -> Iterator[tuple[str, list[Any]]]:
    """Each participant of a tree, with the tasks."""
    trees: Struct = {}
    if isinstance(tree, dict):
        named = not ("tasks" in tree or "rdm" in tree)
        trees = tree if named else {_of_file(source)[0]: tree}
    if not trees or not all(isinstance(part, dict) for part in trees.values()):
        raise NeurordlError(_EXPECTED)
    for subject, part in trees.items():
        tasks = part.get("tasks", [part] if "rdm" in part else [])
        if not isinstance(tasks, list):
            raise NeurordlError(f"the tasks of {subject or 'the participant'} are no list; {_EXPECTED}")
        yield subject, tasks


def _arrangements(subject: str, tasks: Sequence[Any], notices: list[str]) -> Iterator[_Arrangement]:
    titles = list[str]()
    for number, task in enumerate(tasks, 1):
        about = task.get("task") if isinstance(task, dict) else None
        if not isinstance(about, dict) or about.get("task_type") != _TASK:
            continue
        title = str(about.get("name", f"task {number}"))
        label = f"the task {title!r}{' of ' if subject else ''}{subject}"
        stimuli = task.get("stimuli")
        if not task.get("rdm") or not stimuli:
            notices.append(f"{label} has no RDM: left out")
            continue
        if not all(isinstance(stimulus, dict) and "name" in stimulus for stimulus in stimuli):
            raise NeurordlError(f"{label} has stimuli without a name; export it again")
        if (status := task.get("status", "finished")) != "finished":
            notices.append(f"{label} was not finished ({status}); its RDM is read")
        titles.append(title if title not in titles else f"{title} ({number})")
        names = [stimulus["name"] for stimulus in stimuli]
        yield _Arrangement(subject, titles[-1], names, task["rdm"])


def _to_content(arrangements: Sequence[_Arrangement]) -> RDMContent:
    """RDMs of all stimuli that anyone arranged, matched by name; pairs that one lacks are NaN."""
    checked = [_checked(arrangement) for arrangement in arrangements]
    stimuli = list(dict.fromkeys(name for names, _ in checked for name in names))
    content = RDMContent(_spread(checked, stimuli), "condensed")
    if lacking := sum(len(names) < len(stimuli) for names, _ in checked):
        content.notices.append(
            f"{lacking} of {len(checked)} RDMs lack some of the {len(stimuli)} stimuli; their pairs are NaN"
        )
    suffixes = {match[0] for name in stimuli if (match := _SUFFIX.search(name))}
    bare = [_SUFFIX.sub("", name) for name in stimuli]
    if suffixes and len(set(bare)) == len(bare):
        content.notices.append(f"the ids are the names of its stimuli without {listed(sorted(suffixes))}")
        stimuli = bare
    content.pattern_descriptors["stimulus"] = stimuli
    for name in ("subject", "task"):
        values = [getattr(arrangement, name) for arrangement in arrangements]
        if all(values):
            content.rdm_descriptors[name] = values
    return content


def _checked(arrangement: _Arrangement) -> tuple[list[str], Values]:
    """The names of the stimuli, each once, and as many dissimilarities as they have pairs."""
    names, label = list(map(str, arrangement.names)), arrangement.subject or "the participant"
    if arrangement.task:
        label += f" in {arrangement.task!r}"
    values: npt.NDArray[np.float64] = np.asarray(arrangement.values, dtype=np.float64)  # null becomes NaN
    if values.ndim != 1 or n_stimuli(values.size) != len(names):
        raise NeurordlError(
            f"the RDM of {label} has {values.size} values for {len(names)} stimuli, which have "
            f"{len(names) * (len(names) - 1) // 2} pairs; export it again"
        )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise NeurordlError(f"{label} has the stimulus {repeated[0]!r} twice; give each its own name")
    return names, values


def _spread(checked: Sequence[tuple[list[str], Values]], stimuli: Sequence[str]) -> Values:
    """Condensed RDMs of these stimuli, in their order, (RDMs, pairs); what is not measured is NaN."""
    place = {name: number for number, name in enumerate(stimuli)}
    spread = np.full((len(checked), len(stimuli) * (len(stimuli) - 1) // 2), np.nan)
    for row, (names, values) in zip(spread, checked, strict=True):
        places = np.array([place[name] for name in names])
        first, second = (places[index] for index in np.triu_indices(len(names), 1))
        row[pair_number(np.minimum(first, second), np.maximum(first, second), len(stimuli))] = values
    return spread


JSON = Format((".json",), _read)
