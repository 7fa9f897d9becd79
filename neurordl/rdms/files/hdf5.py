"""HDF5 in rsatoolbox's layout; checks without which HDF5 itself crashes or hangs on damaged files."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from neurordl.errors import NeurordlError
from neurordl.mat5 import MAX_DEPTH, MAX_INFLATION, Struct
from neurordl.rdms.files.content import (
    DESCRIPTORS,
    Format,
    RDMContent,
    UnreadableError,
    content_of_tree,
    content_of_variables,
    flatten,
)
from neurordl.validate import listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_MAX_ITEMS = 100_000
_NOTE = "origin"
_MAX_SEARCHED = 1 << 24  # bytes of the largest file that is searched for its texts


class CheckedFile:
    """An open HDF5 file of which nothing is read before its claims are checked.

    HDF5 allocates whatever size a file claims, and does not return from a store of texts whose free space has
    no end. docs/decisions/0023-readers-trust-no-header.md tells why these checks are made in this process.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        path = Path(file.filename)
        self._size = path.stat().st_size
        if self._size <= _MAX_SEARCHED:
            self._check_texts(path.read_bytes())

    def _check_texts(self, content: bytes) -> None:
        """Check the stores of texts of variable length ("Global Heap" in HDF5) and the references to them.

        A reference is the length of a text (4 bytes), the place of its store (8) and its number in it (4).
        """
        stores, end = [], 0
        for match in re.finditer(rb"GCOL\x01\0\0\0", content):
            if (start := match.start()) < end:
                continue  # within the store before it
            stores.append(start - self.file.userblock_size)
            at, end = start + 16, start + struct.unpack_from("<Q", content, start + 8)[0]
            while at + 16 <= end:
                number, _, size = struct.unpack_from("<H6sQ", content, at)
                if number == 0 and size != end - at:
                    raise ValueError("its texts are stored in a damaged way")
                at = end if number == 0 else at + 16 + (size + 7) // 8 * 8
        words = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
        too_long = np.flatnonzero((words[:-3] > self._size) & (words[2:-1] == 0) & (words[3:] > 0))
        if (references := too_long[np.isin(words[too_long + 1], stores)]).size:
            raise ValueError(f"it claims a text of {words[references[0]]} bytes")

    def items(self, group: h5py.Group) -> list[tuple[str, Any]]:
        """Return what a group holds; a link to another file, or to nowhere, is `UnreadableError`."""
        if len(group) > _MAX_ITEMS:
            raise ValueError(f"{group.name} holds {len(group)} items, and RDM files never so many")
        return [(name, self._item(group, name)) for name in group]

    def _item(self, group: h5py.Group, name: str) -> Any:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return UnreadableError(f"{name!r} is a link to another file; copy its content into this one")
        if isinstance(link, h5py.SoftLink) and group.get(name) is None:
            return UnreadableError(f"{name!r} is a link to {link.path!r}, which the file does not have")
        return group[name]

    def values(self, dataset: h5py.Dataset) -> Any:
        """Read the values of a dataset, if the file can hold as many."""
        self._check_size(dataset.dtype, dataset.shape, dataset.name, MAX_INFLATION)
        if dataset.is_virtual or dataset.external:
            raise UnreadableError(f"{dataset.name} keeps its data in another file; copy them into this one")
        return dataset[()]

    def attributes(self, item: h5py.Group | h5py.Dataset, names: Iterable[str] | None = None) -> Struct:
        """Read the attributes of a group or dataset, or those with some names."""
        result = {}
        for name in item.attrs if names is None else filter(item.attrs.__contains__, names):
            attribute, label = item.attrs.get_id(name), f"the attribute {name!r} of {item.name}"
            self._check_size(attribute.dtype, attribute.shape, label, 1)
            result[name] = item.attrs[name]
        return result

    def _check_size(self, dtype: np.dtype[Any], shape: Any, label: str, inflation: int) -> None:
        # HDF5 crashes on some damaged types that RDM files never use.
        known = h5py.check_string_dtype(dtype) is not None or h5py.check_ref_dtype(dtype) is h5py.Reference
        if dtype.kind not in "fiubS" and not known:
            raise UnreadableError(f"{label} is of a type that RDM files do not use ({dtype})")
        claimed = int(np.prod(shape or (), dtype=object)) * dtype.itemsize
        if claimed > max(inflation * self._size, 1 << 16):
            problem = f"{label} is damaged, or empty in most places: it claims {claimed} bytes"
            raise UnreadableError(f"{problem}, and the file has {self._size}")


def to_python(value: Any) -> Any:
    """Convert bytes to text and scalars to Python's own; arrays stay arrays."""
    if isinstance(value, h5py.Empty):
        return None
    array = np.asarray(value)
    if array.dtype.kind in "SO":
        texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in array.ravel().tolist()]
        dtype = str if all(isinstance(text, str) for text in texts) else object
        array = np.array(texts, dtype=dtype).reshape(array.shape)
    return array.item() if array.ndim == 0 else array


def _read(source: Path, name: str | None) -> RDMContent:
    """Read RDMs that rsatoolbox (``RDMs.save(path, file_type="hdf5")``) or `save_rdms` wrote; or an array."""
    with h5py.File(source, "r") as file:
        unread: list[str] = []
        tree = _read_group(CheckedFile(file), file, unread)
    arrays = [value for value in tree.values() if isinstance(value, np.ndarray) and value.ndim > 2]
    if "dissimilarities" not in tree and arrays:
        return content_of_variables(tree, name)
    if "dissimilarities" not in tree:
        problem = f"it is not in rsatoolbox's layout (no 'dissimilarities', but {sorted(tree)})"
        raise NeurordlError(f"{problem}; use save_rdms")
    content = content_of_tree(tree)
    content.notices += [f"{len(unread)} items in it are not read: {listed(unread)}"] if unread else []
    return content


def _read_group(checked: CheckedFile, group: h5py.Group, unread: list[str], depth: int = 0) -> Struct:
    if depth > MAX_DEPTH:
        raise ValueError(f"{group.name} is nested more than {MAX_DEPTH} deep, or holds itself")
    result: Struct = {}
    for name, item in checked.items(group):
        try:
            if isinstance(item, UnreadableError):
                raise item
            if isinstance(item, h5py.Group):
                result[name] = _read_group(checked, item, unread, depth + 1)
            elif isinstance(item, h5py.Dataset):
                result[name] = None if item.shape is None else to_python(checked.values(item))
        except UnreadableError as error:
            if depth == 0 and name == "dissimilarities":
                raise
            unread.append(str(error))
    for name in group.attrs:
        try:
            result |= {key: to_python(value) for key, value in checked.attributes(group, [name]).items()}
        except UnreadableError as error:
            unread.append(str(error))
    return result


def write_hdf5(rdms: RDMs, note: str = "") -> bytes:
    """Store RDMs in rsatoolbox's layout, with all that they carry, and a note for `read_note`."""
    file = io.BytesIO()  # in memory: on a full disk HDF5 ends the process when it closes the file
    with h5py.File(file, "w") as root:
        if note:
            root[_NOTE] = np.bytes_(note.encode())  # no attribute, which holds 64 kB
        root.attrs["rsatoolbox_version"] = metadata.version("rsatoolbox")
        for group in DESCRIPTORS:
            root.create_group(group)  # rsatoolbox reads all of them, also where they are empty
        for path, value in flatten(rdms.to_dict(), ".h5"):
            group, _, name = path.rpartition("/")
            if isinstance(value, str):
                root.require_group(f"/{group}").attrs[name] = value
            elif value is None:
                root[path] = h5py.Empty("f")
            elif value.dtype.kind == "U":  # as bytes, or as UTF-8 where it is not ASCII
                ascii_only = all(text.isascii() for text in value.ravel().tolist())
                root[path] = value.astype("S" if ascii_only else h5py.string_dtype())
            else:
                root[path] = value
    return file.getvalue()


def read_note(path: Path) -> str:
    """The note in a file of RDMs; empty where there is none, or where the file is not HDF5."""
    try:
        with h5py.File(path, "r") as file:
            return str(to_python(CheckedFile(file).values(file[_NOTE])))
    except (OSError, KeyError, ValueError, AttributeError):
        return ""


HDF5 = Format((".h5", ".hdf5"), _read, write_hdf5)
