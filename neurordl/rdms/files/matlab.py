"""MATLAB's .mat: version 5 is read by `mat5` and written by scipy, version 7.3 is read by h5py."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.mat5 import CLASSES, MAX_BYTES, MAX_DEPTH, Cells, Struct, is_mat5, read_mat5, to_text
from neurordl.rdms.files.content import (
    Format,
    RDMContent,
    UnreadableError,
    content_of_variables,
    to_array,
    unstorable,
)
from neurordl.rdms.files.hdf5 import CheckedFile, to_python
from neurordl.rdms.files.meadows import content_of_meadows

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_NUMBERS = ("", "double", "single", "logical", *(np.dtype(dtype).name for dtype in CLASSES.values()))


def _read(source: Path, name: str | None) -> RDMContent:
    """Read the RDMs of a .mat file of version 5 or 7.3."""
    if is_mat5(source):
        return _content(read_mat5(source), source, name)
    if not h5py.is_hdf5(source):
        problem = "it is damaged, or not a .mat file of version 5 or 7.3"
        raise NeurordlError(f"{problem}; save it again in MATLAB with -v7 or -v7.3")
    with h5py.File(source, "r") as file:
        checked = CheckedFile(file)
        variables: Struct = {}
        for key, item in checked.items(file):
            if key[0] != "#":
                try:
                    variables[key] = _value(checked, item)
                except UnreadableError as error:
                    variables[key] = error
    return _content(variables, source, name)


def _content(variables: Struct, source: Path, name: str | None) -> RDMContent:
    content = content_of_meadows(variables, source) if name is None else None
    return content_of_variables(variables, name) if content is None else content


# Version 7.3


def _value(checked: CheckedFile, item: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"{item.name} is nested more than {MAX_DEPTH} deep, or holds itself")
    if isinstance(item, h5py.Group):
        return _structs(checked, item, depth)
    if isinstance(item, UnreadableError):
        raise item
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return None
    attributes = checked.attributes(item, ("MATLAB_class", "MATLAB_empty"))
    matlab_class = str(to_python(attributes.get("MATLAB_class", "")))
    if "MATLAB_empty" in attributes:
        empty: Struct = {"char": "", "cell": [], "struct": []}
        return empty.get(matlab_class, np.empty((0, 0)))
    values = checked.values(item)
    if _is_references(item):  # a cell array
        # MATLAB's columns come first, so that this is the order of its cells(:)
        return Cells((_referenced(checked, cell, depth) for cell in np.ravel(values)), item.shape[::-1])
    if matlab_class == "char":
        return to_text(np.atleast_2d(np.asarray(values, dtype="<u2").T))
    if not matlab_class and item.dtype.kind in "SO":
        return to_python(values)  # text as other programs write it
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or matlab_class not in _NUMBERS:
        return None  # of MATLAB's strings and other objects the file has only where they are kept
    return array.T if matlab_class else array  # MATLAB's columns come first; others' files are in their order


def _referenced(checked: CheckedFile, reference: Any, depth: int) -> Any:
    return _value(checked, checked.file[reference], depth + 1) if reference else None


def _structs(checked: CheckedFile, group: h5py.Group, depth: int) -> list[Struct]:
    """A struct, or a struct array, whose fields are datasets of references."""
    fields = dict(checked.items(group))
    # references are stored with the axes turned round: their order is that of MATLAB's RDMs(:)
    columns = {
        name: np.ravel(checked.values(item))
        for name, item in fields.items()
        if _is_references(item) and "MATLAB_class" not in item.attrs
    }
    if not columns:
        return [{name: _value(checked, item, depth + 1) for name, item in fields.items()}]
    rows = zip(*columns.values(), strict=False)
    structs = (
        {name: _referenced(checked, reference, depth) for name, reference in zip(columns, row, strict=True)}
        for row in rows
    )
    return Cells(structs, fields[next(iter(columns))].shape[::-1])


def _is_references(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is not None


# Writing


def _write(rdms: RDMs) -> bytes:
    """Store a struct array ``RDMs`` with the fields RDM, name and one for each RDM descriptor, in version 5.

    The MATLAB toolbox reads it. ``stimulus`` is a cell array of ids; what else the RDMs carry is in
    ``dissimilarity_measure``, ``pattern_descriptors`` and ``descriptors``.
    """
    import scipy.io

    if rdms.n_rdm * rdms.n_cond**2 * np.asarray(rdms.dissimilarities).itemsize >= MAX_BYTES:
        size = f"{rdms.n_rdm} RDMs of {rdms.n_cond} stimuli"
        raise NeurordlError(f"{size} are larger than the 2 GB of a .mat file; write .h5")
    columns = _columns(rdms.rdm_descriptors, "rdm_descriptors")
    if "name" not in columns:
        known = [columns[key] for key in ("roi", "subject", "session") if key in columns]
        names = [" | ".join(map(str, values)) for values in zip(*known, strict=True)]
        columns = {"name": names or [f"RDM {k}" for k in range(rdms.n_rdm)]} | columns
    structs = np.empty((1, rdms.n_rdm), dtype=[(name, object) for name in ("RDM", *columns)])
    for k, vector in enumerate(np.asarray(rdms.dissimilarities)):
        structs[0, k] = (squareform(vector, checks=False), *(values[k] for values in columns.values()))
    variables: Struct = {"RDMs": structs}
    if rdms.dissimilarity_measure is not None:
        variables["dissimilarity_measure"] = str(rdms.dissimilarity_measure)
    patterns: Struct = {}
    for name, values in _columns(rdms.pattern_descriptors, "pattern_descriptors").items():
        dtype = object if isinstance(values[0], str) else None  # a cell array of texts, or a row of numbers
        patterns[name] = np.array(values, dtype=dtype)[None]
    if "stimulus" in patterns:
        variables["stimulus"] = patterns.pop("stimulus")
    if patterns:
        variables["pattern_descriptors"] = patterns
    if rdms.descriptors:
        variables["descriptors"] = _to_struct(rdms.descriptors, "descriptors")
    file = io.BytesIO()
    scipy.io.savemat(file, variables, long_field_names=True, do_compression=True, oned_as="row")
    return file.getvalue()


def _columns(descriptors: Mapping[str, Any], group: str) -> dict[str, list[Any]]:
    """Descriptors with one text or number per RDM or stimulus, as lists."""
    columns = {}
    for path, name, array in _fields(descriptors, group):
        if np.ndim(array) != 1:
            raise unstorable(path, ".mat", "it is not one text or number for each RDM or stimulus")
        columns[name] = array.tolist()
    return columns


def _to_struct(descriptors: Mapping[str, Any], group: str) -> Struct:
    """Descriptors of the whole: text, numbers, matrices of numbers, and structs of these."""
    struct: Struct = {}
    for path, name, value in _fields(descriptors, group):
        if isinstance(value, Mapping):
            struct[name] = _to_struct(value, path)
        elif value.ndim == 0 or (value.ndim == 2 and value.dtype.kind != "U"):
            struct[name] = value if value.ndim else value.item()
        else:
            problem = "it is not text, a number, a matrix of numbers or a mapping of these"
            raise unstorable(path, ".mat", problem)
    return struct


def _fields(descriptors: Mapping[str, Any], group: str) -> Iterator[tuple[str, str, Any]]:
    """Descriptors with their paths and names, as arrays or mappings, if a MATLAB struct can hold them."""
    for name, value in descriptors.items():
        path, problem = f"{group}/{name}", ""
        array: Any = value if isinstance(value, Mapping) else to_array(value, path, ".mat")
        texts = np.ravel(array).tolist() if getattr(array, "dtype", np.dtype(float)).kind == "U" else ()
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", name):
            problem = "a field in MATLAB starts with a letter and is named by up to 63 letters, digits and _"
        elif group == "rdm_descriptors" and name.lower() in ("rdm", "rdms"):
            problem = "this is the name of the field with the RDM itself"
        elif wide := [text for text in texts if any(ord(letter) > 0xFFFF for letter in text)]:
            problem = f"the text {wide[0]!r:.40} has a character that MATLAB's text does not hold"
        if problem:
            raise unstorable(path, ".mat", problem)
        yield path, name, array


MATLAB = Format((".mat",), _read, _write, has_variables=True)
