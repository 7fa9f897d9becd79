"""MATLAB's .mat: version 5 through scipy once its structure is checked, version 7.3 through h5py."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.rdms.files.hdf5 import decoded, items, read_attributes, read_dataset
from neurordl.rdms.files.held import Held
from neurordl.rdms.files.matlab_check import BIGGEST, checked_mat5
from neurordl.rdms.files.shapes import matrix_of
from neurordl.rdms.files.variables import choose

__all__ = ["mat5_variables", "mat_content", "read_mat"]

_DEPTH = 16
_WHOLE = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_NUMBERS = ("", "double", "single", "logical", *_WHOLE)


def read_mat(source: Path, name: str | None) -> Held:
    """The RDMs of a .mat file; see `choose`."""
    with open(source, "rb") as handle:
        start = handle.read(128)
    if start[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        return choose(mat5_variables(source), name, source)
    if h5py.is_hdf5(source):
        with h5py.File(source, "r") as file:
            size = source.stat().st_size
            variables = {
                key: _value(file, item, size) for key, item in items(file) if not key.startswith("#")
            }
        return choose(variables, name, source)
    raise NeurordlError(
        f"{source} is not a .mat file of version 5 or 7.3, or it is damaged; save it again in MATLAB with "
        "-v7 or -v7.3"
    )


# Version 5


def mat5_variables(source: Path) -> dict[str, Any]:
    """The variables of a file of version 5; None for those that are not read (objects, sparse, complex)."""
    whole, left_out = checked_mat5(source.read_bytes(), str(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = scipy.io.loadmat(io.BytesIO(whole), mat_dtype=True, struct_as_record=True)
    found = {key: _plain(value) for key, value in loaded.items() if not key.startswith("__")}
    return found | dict.fromkeys(left_out)


def _plain(value: Any) -> Any:
    """Structs as lists of dicts in MATLAB's order, cells as lists, one row of text as text."""
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.names:
        names = value.dtype.names
        return [{name: _plain(one[name]) for name in names} for one in value.ravel(order="F")]
    if value.dtype.kind == "O":
        return [_plain(one) for one in value.ravel(order="F")]
    if value.dtype.kind == "U":
        texts = [str(text) for text in value.ravel()]
        return texts[0] if len(texts) == 1 else [text.rstrip() for text in texts] or ""
    return value


# Version 7.3


def _value(file: h5py.File, item: Any, size: int, depth: int = 0) -> Any:
    if depth > _DEPTH:
        raise NeurordlError(f"{item.name} is nested more than {_DEPTH} deep, or holds itself")
    if isinstance(item, h5py.Group):
        return _structs(file, item, size, depth)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return None
    attributes = read_attributes(item, size, ("MATLAB_class", "MATLAB_empty"))
    kind = attributes.get("MATLAB_class", b"")
    kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    if "MATLAB_empty" in attributes:
        return "" if kind == "char" else [] if kind in ("cell", "struct") else np.empty((0, 0))
    values = read_dataset(item, size)
    if h5py.check_ref_dtype(item.dtype) is not None:  # a cell array
        return [_value(file, file[ref], size, depth + 1) if ref else None for ref in np.ravel(values)]
    if kind == "char":
        rows = np.atleast_2d(np.asarray(values, dtype="<u2").T)
        texts = [row.tobytes().decode("utf-16-le", "replace") for row in np.ascontiguousarray(rows)]
        return texts[0] if len(texts) == 1 else [text.rstrip() for text in texts]
    if not kind and item.dtype.kind in "SO":
        return decoded(values)  # text as others write it
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or kind not in _NUMBERS:
        return None  # of MATLAB's strings and other objects the file has only where they are kept
    return array.T if kind else array  # MATLAB's columns come first; others' HDF5 files are in their order


def _structs(file: h5py.File, group: h5py.Group, size: int, depth: int) -> list[dict[str, Any]]:
    """A struct, or a struct array, whose fields are datasets of references."""
    fields = dict(items(group))
    arrays = {
        name: item
        for name, item in fields.items()
        if isinstance(item, h5py.Dataset)
        and h5py.check_ref_dtype(item.dtype) is not None
        and "MATLAB_class" not in item.attrs
    }
    if not arrays:
        return [{name: _value(file, item, size, depth + 1) for name, item in fields.items()}]
    # references are stored with the axes turned round: their order is that of MATLAB's RDMs(:)
    columns = {name: np.ravel(read_dataset(item, size)) for name, item in arrays.items()}
    count = min(len(column) for column in columns.values())
    return [
        {
            name: _value(file, file[column[k]], size, depth + 1) if column[k] else None
            for name, column in columns.items()
        }
        for k in range(count)
    ]


# Writing


def mat_content(rdms: RDMs) -> bytes:
    """Version 5: a struct array ``RDMs`` with the fields RDM, name and one for each RDM descriptor.

    The MATLAB toolbox reads it. ``stimulus`` is a cell array of ids; what else the RDMs carry is in
    ``dissimilarity_measure``, ``pattern_descriptors`` and ``descriptors``.
    """
    if rdms.n_rdm * rdms.n_cond**2 * np.asarray(rdms.dissimilarities).itemsize >= BIGGEST:
        raise NeurordlError(
            f"{rdms.n_rdm} RDMs of {rdms.n_cond} stimuli are larger than the 2 GB that .mat of version 5 "
            "holds; write .h5"
        )
    described = {name: _column(v, f"rdm_descriptors[{name!r}]") for name, v in rdms.rdm_descriptors.items()}
    _field_names(described, "rdm_descriptors")
    fields = ["RDM", *(["name"] if "name" not in described else []), *described]
    structs = np.empty((1, rdms.n_rdm), dtype=[(name, object) for name in fields])
    for k, vector in enumerate(np.asarray(rdms.dissimilarities)):
        structs["RDM"][0, k] = matrix_of(vector)
        for name, values in described.items():
            structs[name][0, k] = values[k]
        if "name" not in described:
            known = [described[key][k] for key in ("roi", "subject", "session") if key in described]
            structs["name"][0, k] = " | ".join(map(str, known)) or f"RDM {k}"
    content: dict[str, Any] = {"RDMs": structs}
    if rdms.dissimilarity_measure is not None:
        content["dissimilarity_measure"] = _text(str(rdms.dissimilarity_measure), "dissimilarity_measure")
    patterns = {n: _column(v, f"pattern_descriptors[{n!r}]") for n, v in rdms.pattern_descriptors.items()}
    if "stimulus" in patterns:
        content["stimulus"] = _cell(patterns.pop("stimulus"))
    if patterns:
        _field_names(patterns, "pattern_descriptors")
        content["pattern_descriptors"] = {name: _cell(values) for name, values in patterns.items()}
    if rdms.descriptors:
        content["descriptors"] = _struct(rdms.descriptors, "descriptors")
    file = io.BytesIO()
    scipy.io.savemat(file, content, long_field_names=True, do_compression=True, oned_as="row")
    return file.getvalue()


def _column(values: Any, label: str) -> list[Any]:
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if len({isinstance(one, str) for one in listed}) > 1:
        raise _unstorable(label, "text and other things in one list")
    for one in listed:
        if isinstance(one, str):
            _text(one, label)
        elif not isinstance(one, int | float | np.number | np.bool_):
            raise _unstorable(label, f"a value of type {type(one).__name__}")
    return listed


def _cell(values: list[Any]) -> np.ndarray[Any, Any]:
    """A row of numbers, or a cell array of texts."""
    if not isinstance(values[0], str):
        return np.asarray(values)[None]
    cell = np.empty((1, len(values)), dtype=object)
    cell[0, :] = values
    return cell


def _struct(values: Mapping[str, Any], label: str) -> dict[str, Any]:
    _field_names(values, label)
    result: dict[str, Any] = {}
    for name, value in values.items():
        within = f"{label}[{name!r}]"
        if isinstance(value, Mapping):
            result[name] = _struct(value, within)
        elif isinstance(value, str):
            result[name] = _text(value, within)
        elif isinstance(value, int | float | np.number | np.bool_) or _is_matrix(value):
            result[name] = value
        else:
            raise _unstorable(within, "not text, a number, a matrix of numbers or a mapping of these")
    return result


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiub"


def _field_names(names: Mapping[str, Any], label: str) -> None:
    for name in names:
        if not (isinstance(name, str) and name.isascii() and name.isidentifier()) or len(name) > 63:
            raise _unstorable(
                f"{label}[{name!r}]", "a field in MATLAB is named by up to 63 letters, digits and _"
            )
        if name.startswith("_"):
            raise _unstorable(f"{label}[{name!r}]", "a field in MATLAB starts with a letter")
        if label == "rdm_descriptors" and name.lower() in ("rdm", "rdms"):
            raise _unstorable(f"{label}[{name!r}]", "this is the name of the field with the RDM itself")


def _text(text: str, label: str) -> str:
    if text and (text != text.rstrip("\0") or any(ord(letter) > 0xFFFF for letter in text)):
        raise _unstorable(label, f"the text {text!r:.40} has a character that MATLAB's text does not hold")
    return text


def _unstorable(label: str, why: str) -> NeurordlError:
    return NeurordlError(f"cannot store the descriptor {label} in .mat: {why}; change it, or write .h5")
