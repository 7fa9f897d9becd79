"""The structure of .mat files of version 5, checked before scipy reads them.

A damaged or hostile file can claim arrays of any size, and scipy allocates on its word. Here every element is
followed to its end, so that what is passed on claims no more than it holds. The layout is that of MathWorks,
"MAT-File Format", on Level 5 files.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Literal

from neurordl.errors import NeurordlError
from neurordl.rdms.files.held import INFLATION

__all__ = ["BIGGEST", "checked_mat5"]

_MATRIX, _COMPRESSED = 14, 15
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)
_DEPTH = 16
_ELEMENTS = 1_000_000
BIGGEST = 1 << 31  # of a variable, by the format's own account


class _DamageError(Exception):
    pass


@dataclass
class _Element:
    kind: int
    start: int
    size: int
    after: int  # where the next one begins


@dataclass
class _Walk:
    data: bytes
    order: Literal["little", "big"]
    elements: int = 0

    def word(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], self.order)

    def element(self, at: int, end: int) -> _Element:
        self.elements += 1
        if self.elements > _ELEMENTS:
            raise _DamageError(f"it has more than {_ELEMENTS} parts")
        if at + 8 > end:
            raise _DamageError("it ends in the middle")
        first = self.word(at)
        if first >> 16:  # four bytes or fewer, in the tag itself
            found = _Element(first & 0xFFFF, at + 4, first >> 16, at + 8)
            if found.size > 4:
                raise _DamageError("an element is larger than its place")
            return found
        size = self.word(at + 4)
        padded = size if first == _COMPRESSED else size + -size % 8
        if at + 8 + size > end:
            raise _DamageError(f"an element claims {size} bytes, more than there are")
        return _Element(first, at + 8, size, min(at + 8 + padded, end))

    def matrix(self, at: int, end: int, depth: int = 0) -> tuple[int, str, bool]:
        """Follow one variable, field or cell; its end, its name, and whether scipy is to read it."""
        whole = self.element(at, end)
        if whole.kind != _MATRIX or depth > _DEPTH:
            raise _DamageError(f"an element is of kind {whole.kind}, or nested too deep")
        if whole.size == 0:
            return whole.after, "", True
        stop = whole.start + whole.size
        flags = self.element(whole.start, stop)
        if flags.kind != 6 or flags.size != 8:
            raise _DamageError("an array has no flags")
        kind, is_complex = self.word(flags.start) & 0xFF, bool(self.word(flags.start) & 0x800)
        if kind not in (_CELL, _STRUCT, _CHAR, *_NUMBERS):
            # objects, MATLAB's strings, functions, sparse matrices: no RDMs
            return whole.after, self._name_of_other(flags.after, stop), False
        dims = self.element(flags.after, stop)
        if dims.kind != 5 or dims.size % 4 or not 8 <= dims.size <= 128:
            raise _DamageError("an array has no dimensions")
        shape = [self.word(dims.start + k) for k in range(0, dims.size, 4)]
        name = self.element(dims.after, stop)
        if name.kind not in (1, 2, 16):
            raise _DamageError("an array has no name")
        label = self.data[name.start : name.start + name.size].decode("latin-1")
        count = math.prod(shape)
        if max(shape) >= BIGGEST or (0 in shape and max(shape) > _ELEMENTS):
            raise _DamageError(f"an array claims the shape {shape}")
        readable = self._content(kind, count, name.after, stop, depth)
        return whole.after, label, readable and not is_complex

    def _name_of_other(self, at: int, stop: int) -> str:
        """The name of what is not read; objects have no dimensions before it."""
        found = self.element(at, stop)
        if found.kind == 5:
            found = self.element(found.after, stop)
        return self.data[found.start : found.start + found.size].decode("latin-1") if found.kind == 1 else ""

    def _content(self, kind: int, count: int, at: int, stop: int, depth: int) -> bool:
        if kind in (_CELL, _STRUCT):
            if kind == _STRUCT:
                length = self.element(at, stop)
                names = self.element(length.after, stop)
                width = self.word(length.start) if length.kind == 5 and length.size == 4 else 0
                if not 0 < width <= 64 or names.size % width or names.kind not in (1, 2):
                    raise _DamageError("the names of a struct's fields do not fit")
                fields = [
                    self.data[k : k + width].split(b"\0")[0]
                    for k in range(names.start, names.start + names.size, width)
                ]
                if len(set(fields)) < len(fields) or not all(
                    name.isidentifier() for name in map(_ascii, fields)
                ):
                    raise _DamageError("the fields of a struct have no proper names")
                count, at = count * len(fields), names.after
            if 8 * count > stop - at:
                raise _DamageError(f"it claims {count} cells or fields in {stop - at} bytes")
            readable = True
            for _ in range(count):
                at, _, inner = self.matrix(at, stop, depth + 1)
                readable &= inner
            return readable
        values = self.element(at, stop)
        if values.kind not in _SIZES or values.size % _SIZES[values.kind]:
            raise _DamageError(f"values are of kind {values.kind}")
        held = values.size // _SIZES[values.kind]
        if (count > held) if kind == _CHAR else (count != held):
            raise _DamageError(f"it claims {count} values, but holds {held}")
        return True


def _ascii(name: bytes) -> str:
    return name.decode("ascii", "replace")


def checked_mat5(content: bytes, label: str) -> tuple[bytes, list[str]]:
    """The same file without compression and what is not read (objects and the like), whose names come along.

    Raises
    ------
    NeurordlError
        The file is cut short, damaged, claims more than it holds, or has a variable twice.
    """
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    # bytes 116 to 124 say where MATLAB keeps its objects: these are left out
    parts, names, at = [content[:116] + bytes(8) + content[124:128]], set[str](), 128
    left_out = []
    outer = _Walk(content, order)
    try:
        while at < len(content):
            found = outer.element(at, len(content))
            data = content[at : found.after]
            if found.kind == _COMPRESSED:
                data = _inflate(content[found.start : found.start + found.size], order)
            _, name, readable = _Walk(data, order).matrix(0, len(data))
            at = found.after
            if not name:
                continue
            if name in names:
                raise _DamageError(f"the variable {name!r} comes twice")
            names.add(name)
            if not readable:
                left_out.append(name)
                continue
            parts.append(data + bytes(-len(data) % 8))
    except (_DamageError, zlib.error) as error:
        raise NeurordlError(f"cannot read {label}: {error}; it is damaged, save it again") from error
    return b"".join(parts), left_out


def _inflate(packed: bytes, order: Literal["little", "big"]) -> bytes:
    """One variable, of the size that its own first bytes say, if so much can be in there at all."""
    stream = zlib.decompressobj()
    start = stream.decompress(packed, 8)
    size = int.from_bytes(start[4:8], order)
    if len(start) < 8 or size > min(BIGGEST, INFLATION * len(packed)):
        raise _DamageError(f"a variable claims {size} bytes, but only {len(packed)} are stored")
    content = stream.decompress(stream.unconsumed_tail, size) if size else b""
    beyond = stream.decompress(stream.unconsumed_tail, 1)
    if beyond or not stream.eof:  # its checksum comes at the end
        raise _DamageError(f"a variable claims {size} bytes, but more or less are stored")
    return start + content
