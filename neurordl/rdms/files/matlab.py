"""MATLAB's .mat: version 5 is read here, version 7.3 through h5py; version 5 is written by scipy."""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.rdms.files.content import (
    MAX_INFLATION,
    Cells,
    Format,
    RDMContent,
    Struct,
    UnreadableError,
    Values,
    content_of_variables,
    to_array,
    unstorable,
)
from neurordl.rdms.files.hdf5 import MAX_DEPTH, CheckedFile, to_python
from neurordl.rdms.files.meadows import content_of_meadows

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_MAX_BYTES = 1 << 31  # of a variable, by the definition of version 5
_MAX_ELEMENTS = 1_000_000


def _read(source: Path, name: str | None) -> RDMContent:
    """Read the RDMs of a .mat file of version 5 or 7.3."""
    with open(source, "rb") as handle:
        start = handle.read(128)
    if start[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
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


def _to_text(codes: Values) -> str | list[str]:
    """Text of the UTF-16 or Unicode codes of a character array, one text per row."""
    if not codes.size:
        return ""
    rows = ["".join(map(chr, row)) for row in codes.reshape(-1, codes.shape[-1]).tolist()]
    texts = [row.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for row in rows]
    return texts[0].rstrip("\0") if len(texts) == 1 else [text.rstrip("\0").rstrip() for text in texts]


# Version 5, by MathWorks, "MAT-File Format", Level 5 MAT-files

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_UTF8 = 16
_STORED = dict(zip(range(1, 7), ("i1", "u1", "i2", "u2", "i4", "u4"), strict=True))
_STORED |= {7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODES = {1: "u1", 2: "u1", 4: "u2", 17: "u2", 18: "u4"}  # of characters
_CLASSES = dict(zip(range(6, 16), ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), strict=True))
_NUMBERS = ("", "double", "single", "logical", *(np.dtype(dtype).name for dtype in _CLASSES.values()))


def read_mat5(source: Path) -> Struct:
    """Read the variables of a file of version 5: arrays, text, lists (cells), lists of dicts (structs).

    Objects, MATLAB's strings, functions, sparse and complex numbers are None.

    Raises
    ------
    ValueError, struct.error, zlib.error
        The file is cut short, damaged, claims more than it holds, or has a variable twice.
    """
    content = source.read_bytes()
    elements = _Elements("<" if content[126:128] == b"IM" else ">")
    rest = memoryview(content)[128:]
    variables: Struct = {}
    while rest:
        element_type, data, following = elements.split(rest)
        name, value, _ = elements.matrix(elements.inflate(data) if element_type == _COMPRESSED else rest)
        rest = following
        if name in variables:
            raise ValueError(f"the variable {name!r} comes twice")
        if name:
            variables[name] = value
    return variables


class _Elements:
    """Reads the elements of a file, none of them beyond the bytes that it has."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.count = 0

    def split(self, view: memoryview, expected: tuple[int, ...] = ()) -> tuple[int, memoryview, memoryview]:
        """Split the first element off: its type, its data, and what follows."""
        self.count += 1
        if self.count > _MAX_ELEMENTS:
            raise ValueError(f"it has more than {_MAX_ELEMENTS} parts")
        if len(view) < 8:
            raise ValueError("it ends in the middle")
        element_type, size = struct.unpack(self.order + "II", view[:8])
        if element_type >> 16:  # at most four bytes, which follow the type at once
            element_type, size, start, end = element_type & 0xFFFF, element_type >> 16, 4, 8
            if size > 4:
                raise ValueError("an element is larger than its place")
        else:
            start, end = 8, 8 + size + (0 if element_type == _COMPRESSED else -size % 8)
        if start + size > len(view):
            raise ValueError(f"an element claims {size} bytes, more than there are")
        if expected and element_type not in expected:
            raise ValueError(f"an element is of type {element_type} in the place of type {expected[0]}")
        return element_type, view[start : start + size], view[end:]

    def inflate(self, packed: memoryview) -> memoryview:
        """Unpack a variable of the size that its first bytes say, if that much can be in it at all."""
        stream = zlib.decompressobj()
        start = stream.decompress(packed, 8)
        size = struct.unpack(self.order + "I", start[4:])[0] if len(start) == 8 else _MAX_BYTES
        if size >= min(_MAX_BYTES, MAX_INFLATION * len(packed)):
            raise ValueError(f"a variable claims {size} bytes, but only {len(packed)} are stored")
        content = stream.decompress(stream.unconsumed_tail, size) if size else b""
        if stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:  # its checksum is at the end
            raise ValueError(f"a variable claims {size} bytes, but more or less are stored")
        return memoryview(start + content)

    def matrix(self, view: memoryview, depth: int = 0) -> tuple[str, Any, memoryview]:
        """Read one variable, field or cell: its name, its value, and what follows."""
        _, data, rest = self.split(view, (_MATRIX,))
        if depth > MAX_DEPTH:
            raise ValueError("an array is nested too deep")
        if not data:
            return "", np.empty((0, 0)), rest
        _, flags, data = self.split(data, (6,))
        word, _ = struct.unpack(self.order + "II", flags)
        array_class, is_complex, is_logical = word & 0xFF, bool(word & 0x800), bool(word & 0x200)
        if array_class not in (_CELL, _STRUCT, _CHAR, *_CLASSES):
            name_type, name, data = self.split(data)
            if name_type == 5:  # only objects have no dimensions before their name
                name = self.split(data)[1]
            return bytes(name).decode("latin-1"), None, rest
        _, sizes, data = self.split(data, (5,))
        if len(sizes) % 4 or not 8 <= len(sizes) <= 128:
            raise ValueError("an array has no dimensions")
        shape = struct.unpack(f"{self.order}{len(sizes) // 4}I", sizes)
        _, label, data = self.split(data, (1, 2, 16))
        if array_class == _CELL:
            value: Any = Cells(self.cells(data, math.prod(shape), depth), shape)
        elif array_class == _STRUCT:
            value = Cells(self.structs(data, math.prod(shape), depth), shape)
        elif array_class == _CHAR:
            value = _to_text(self.characters(data, math.prod(shape)).reshape(shape, order="F"))
        else:
            stored_type, stored, _ = self.split(data, tuple(_STORED))
            array = self.array(stored, _STORED[stored_type], math.prod(shape)).reshape(shape, order="F")
            value = None if is_complex else array.astype(bool if is_logical else _CLASSES[array_class])
        return bytes(label).decode("latin-1"), value, rest

    def array(self, stored: memoryview, dtype: str, count: int) -> Values:
        """Numbers as they are stored, exactly as many as claimed."""
        n_stored, remainder = divmod(len(stored), int(dtype[1]))
        if count != n_stored or remainder:
            raise ValueError(f"it claims {count} values, but holds {n_stored}")
        return np.frombuffer(stored, self.order + dtype)

    def characters(self, data: memoryview, count: int) -> Values:
        """The codes of text; UTF-8 is decoded."""
        stored_type, stored, _ = self.split(data, (_UTF8, *_CODES))
        if stored_type != _UTF8:
            return self.array(stored, _CODES[stored_type], count)
        text = bytes(stored).decode()
        for bits in (32, 16):  # MATLAB counts characters beyond 16 bits twice
            codes = np.frombuffer(text.encode(f"utf-{bits}-le"), f"<u{bits // 8}")
            if len(codes) == count:
                return codes
        raise ValueError(f"it claims {count} characters, but holds {len(text)}")

    def cells(self, data: memoryview, count: int, depth: int) -> list[Any]:
        """The values of a cell array, or the fields of structs, in MATLAB's order."""
        if 8 * count > len(data):
            raise ValueError(f"it claims {count} cells or fields in {len(data)} bytes")
        values = []
        for _ in range(count):
            _, value, data = self.matrix(data, depth + 1)
            values.append(value)
        return values

    def structs(self, data: memoryview, count: int, depth: int) -> list[Struct]:
        """A struct array in MATLAB's order, each struct as a dict."""
        _, width, data = self.split(data, (5,))
        _, names, data = self.split(data, (1, 2))
        size = struct.unpack(self.order + "I", width)[0] if len(width) == 4 else 0
        if not 0 < size <= 64 or len(names) % size:
            raise ValueError("the names of a struct's fields do not fit")
        fields = [bytes(names[k : k + size]).split(b"\0")[0].decode() for k in range(0, len(names), size)]
        if len(set(fields)) < len(fields) or not all(map(str.isidentifier, fields)):
            raise ValueError("the fields of a struct have no proper names")
        values = iter(self.cells(data, count * len(fields), depth))
        return [{name: next(values) for name in fields} for _ in range(count if fields else 0)]


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
        return _to_text(np.atleast_2d(np.asarray(values, dtype="<u2").T))
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

    if rdms.n_rdm * rdms.n_cond**2 * np.asarray(rdms.dissimilarities).itemsize >= _MAX_BYTES:
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
