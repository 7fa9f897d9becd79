"""Reads MATLAB's .mat files of version 5, none of them beyond the bytes that it has."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[Any]
Struct: TypeAlias = dict[str, Any]

MAX_INFLATION = 1040
"""Deflate makes at most 1,032 bytes of one: a file that claims more is damaged."""
MAX_DEPTH = 16
MAX_BYTES = 1 << 31  # of a variable, by the definition of version 5
_MAX_ELEMENTS = 1_000_000


class Cells(list[Any]):
    """A cell array or struct array of MATLAB in the order of its RDMs(:), with its shape."""

    def __init__(self, items: Iterable[Any], shape: Sequence[int] = ()) -> None:
        super().__init__(items)
        self.shape = tuple(shape)

    @property
    def n_axes(self) -> int:
        """Number of axes along which it holds more than one item."""
        return sum(length > 1 for length in self.shape)


def is_mat5(source: Path) -> bool:
    """Whether a file says that it is a .mat of version 5, to which MATLAB's -v6 and -v7 belong."""
    with open(source, "rb") as handle:
        return handle.read(128)[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def to_text(codes: Values) -> str | list[str]:
    """Text of the UTF-16 or Unicode codes of a character array, one text per row."""
    if not codes.size:
        return ""
    rows = ["".join(map(chr, row)) for row in codes.reshape(-1, codes.shape[-1]).tolist()]
    texts = [row.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for row in rows]
    return texts[0].rstrip("\0") if len(texts) == 1 else [text.rstrip("\0").rstrip() for text in texts]


# By MathWorks, "MAT-File Format", Level 5 MAT-files

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_UTF8 = 16
_STORED = dict(zip(range(1, 7), ("i1", "u1", "i2", "u2", "i4", "u4"), strict=True))
_STORED |= {7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODES = {1: "u1", 2: "u1", 4: "u2", 17: "u2", 18: "u4"}  # of characters
CLASSES = dict(zip(range(6, 16), ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), strict=True))


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
        size = struct.unpack(self.order + "I", start[4:])[0] if len(start) == 8 else MAX_BYTES
        if size >= min(MAX_BYTES, MAX_INFLATION * len(packed)):
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
        if array_class not in (_CELL, _STRUCT, _CHAR, *CLASSES):
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
            value = to_text(self.characters(data, math.prod(shape)).reshape(shape, order="F"))
        else:
            stored_type, stored, _ = self.split(data, tuple(_STORED))
            array = self.array(stored, _STORED[stored_type], math.prod(shape)).reshape(shape, order="F")
            value = None if is_complex else array.astype(bool if is_logical else CLASSES[array_class])
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
