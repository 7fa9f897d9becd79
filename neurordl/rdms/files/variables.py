"""Files of named variables (.npz, .mat): which of them are the RDMs, and what the others say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from neurordl.errors import NeurordlError
from neurordl.rdms.files.held import Held
from neurordl.rdms.files.shapes import could_be_rdms

__all__ = ["DESCRIPTORS", "choose"]

DESCRIPTORS = ("descriptors", "rdm_descriptors", "pattern_descriptors")
_IDS = ("stimulus", "stimuli", "stimulus_ids", "ids", "id")
_OF_RDMS = {"subject": ("subject", "subjects"), "roi": ("roi", "rois"), "session": ("session", "sessions")}
_RESERVED = {*_IDS, *DESCRIPTORS, "dissimilarity_measure", *(n for names in _OF_RDMS.values() for n in names)}
_NOT_READ = (
    "is not read: strings and other objects of MATLAB are kept in a way that is not documented, and sparse "
    "and complex arrays are no RDMs; in MATLAB, store text as cellstr(x) or char(x), numbers as full(x)"
)
# ROI | subject | session, as the MATLAB toolbox names the RDMs that it makes
_TOOLBOX_NAME = re.compile(r"([^|]+)\|([^|]+)\|\s*session\s*:?\s*([^|\s]+)\s*", re.IGNORECASE)


def choose(variables: Mapping[str, Any], name: str | None, source: Path) -> Held:
    """The RDMs among the variables of a file, with their ids and descriptors where it has them.

    Parameters
    ----------
    variables
        By name: numpy arrays; text; a list for a cell or character array; a list of dicts for a struct array;
        None for what is not read.
    name
        The one to read; None where there is only one that can be RDMs.
    source
        The file, for messages.
    """
    chosen = variables[_name(variables, name, source)]
    held = _from_struct(chosen, source) if _is_struct(chosen) else Held(chosen)
    held.notices += [
        f"{key!r} in {source} {_NOT_READ}" for key in _IDS if key in variables and variables[key] is None
    ]
    if "rdm_descriptors/index" in variables:  # save_rdms wrote it
        held.layout = "condensed"
    measure = variables.get("dissimilarity_measure")
    held.measure = measure if isinstance(measure, str) and measure else None
    for key in _IDS:
        if key in variables and (values := _each(variables[key])) is not None:
            held.pattern_descriptors["stimulus"] = values
            break
    for descriptor, keys in _OF_RDMS.items():
        for key in keys:
            if key in variables and (values := _each(variables[key])) is not None:
                held.rdm_descriptors.setdefault(descriptor, values)
    for kind in DESCRIPTORS:
        _described(held, kind, variables)
    for key, value in variables.items():
        if key not in _RESERVED and "/" not in key and (texts := _texts(value)):
            held.texts[key] = texts
    return held


def _name(variables: Mapping[str, Any], name: str | None, source: Path) -> str:
    listed = ", ".join(f"{key} ({_shape(value)})" for key, value in variables.items()) or "none"
    if name is not None:
        if name not in variables:
            raise NeurordlError(f"{source} has no variable {name!r}; it has: {listed}")
        if variables[name] is None:
            raise NeurordlError(f"{name!r} in {source} {_NOT_READ}")
        return name
    if "dissimilarities" in variables:
        return "dissimilarities"
    fitting = [
        key
        for key, value in variables.items()
        if key not in _RESERVED and "/" not in key and (_has_rdms(value) or could_be_rdms(value))
    ]
    if not fitting:
        raise NeurordlError(
            f"{source} has no variable that can be RDMs (square matrices, condensed RDMs, or a struct array "
            f"with the field RDM); it has: {listed}"
        )
    if len(fitting) > 1:
        told = ", ".join(f"{key!r} ({_shape(variables[key])})" for key in fitting)
        raise NeurordlError(f"{source} has several variables that can be RDMs: {told}; choose one by name=")
    return fitting[0]


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return " x ".join(map(str, value.shape)) or "a number"
    if _is_struct(value):
        return f"{len(value)} structs"
    if value is None:
        return "not read: in it are strings or other objects of MATLAB, sparse or complex numbers"
    return f"{len(value)} items" if isinstance(value, list) else "text"


def _is_struct(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _has_rdms(value: Any) -> bool:
    return _is_struct(value) and _field(value) is not None


def _field(structs: list[dict[str, Any]]) -> str | None:
    return next((key for key in structs[0] if key.lower() in ("rdm", "rdms")), None)


def _from_struct(structs: list[dict[str, Any]], source: Path) -> Held:
    """The MATLAB toolbox's struct arrays: a field RDM, a field name, and what else is one value for each."""
    key = _field(structs)
    if key is None:
        raise NeurordlError(
            f"the structs in {source} have no field RDM, but {', '.join(map(str, structs[0])) or 'none'}"
        )
    held = Held([one[key] for one in structs])
    for field in structs[0]:
        values = [_one(one[field]) for one in structs]
        if field != key and None not in values and len({isinstance(value, str) for value in values}) == 1:
            held.rdm_descriptors[field] = values
        elif _texts(structs[0][field]):
            _same_texts(held, field, [_texts(one[field]) for one in structs], source)
    names = held.rdm_descriptors.get("name", [])
    read = [_TOOLBOX_NAME.fullmatch(name) if isinstance(name, str) else None for name in names]
    if read and all(read) and not {"roi", "subject", "session"} & set(held.rdm_descriptors):
        parts = [[part.strip() for part in one.groups()] for one in read if one]
        for descriptor, column in zip(("roi", "subject", "session"), zip(*parts, strict=True), strict=True):
            held.rdm_descriptors[descriptor] = list(column)
        del held.rdm_descriptors["name"]  # says nothing more, and would keep sessions apart
        roi, subject, session = parts[0]
        held.notices.append(
            f"{source}: ROI, subject and session were read from the names of the {len(parts)} RDMs; "
            f"{names[0]!r} is roi {roi!r}, subject {subject!r}, session {session!r}"
        )
    return held


def _same_texts(held: Held, field: str, each: list[list[str] | None], source: Path) -> None:
    """A field with texts for each stimulus: one order for all RDMs, or they do not belong together."""
    if any(one != each[0] for one in each):
        if field.lower() in _IDS:
            raise NeurordlError(
                f"the RDMs in {source} name their stimuli in the field {field!r}, and not all alike; bring "
                "them into one order and save them again"
            )
    elif field.lower() in _IDS:
        held.pattern_descriptors.setdefault("stimulus", list(each[0] or ()))
    else:
        held.texts[field] = list(each[0] or ())


def _texts(value: Any) -> list[str] | None:
    """Several texts."""
    values = None if isinstance(value, str) else _each(value)
    return values if values and all(isinstance(one, str) for one in values) else None


def _one(value: Any) -> str | int | float | bool | None:
    """A single text or number, or None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiub":
        number: int | float | bool = value.item()
        return number
    return None


def _each(value: Any) -> list[Any] | None:
    """One value per stimulus or RDM: text or numbers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubSU":
        if sum(length != 1 for length in value.shape) > 1:
            return None  # a table, or pictures of the stimuli
        flat: list[Any] = value.ravel().tolist()
        return [one.decode() if isinstance(one, bytes) else one for one in flat]
    if isinstance(value, list) and value:
        values = [_one(one) for one in value]
        return None if None in values else values
    return None


def _described(held: Held, kind: str, variables: Mapping[str, Any]) -> None:
    """Descriptors as `save_rdms` lays them out: a struct (.mat), or names with slashes (.npz)."""
    named = {key.split("/", 1)[1]: value for key, value in variables.items() if key.startswith(f"{kind}/")}
    whole = variables.get(kind)
    if _is_struct(whole) and len(whole) == 1:
        named |= whole[0]
    for key, value in named.items():
        if kind == "descriptors":
            *groups, last = key.split("/")
            place = held.descriptors
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = _plain(value)
        else:
            # save_rdms keeps rows of numbers in .npz; what is not text or numbers is left out
            several = f"{kind}/{key}" in variables and np.ndim(value) > 1
            values = value.tolist() if several else _each(value)
            if values is not None:
                getattr(held, kind)[key] = values


def _plain(value: Any) -> Any:
    if _is_struct(value) and len(value) == 1:
        return {key: _plain(one) for key, one in value[0].items()}
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value
