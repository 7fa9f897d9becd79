"""HDF5 in rsatoolbox's layout; checks without which HDF5 itself crashes or hangs on damaged files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.rdms.files.content import MAX_INFLATION, Format, RDMContent, Struct, to_array, unstorable

__all__ = ["HDF5", "MAX_DEPTH", "CheckedFile", "to_python"]

MAX_DEPTH = 16
_MAX_ITEMS = 100_000
_MAX_SEARCHED = 1 << 24  # bytes of the largest file that is searched for its texts


class CheckedFile:
    """An open HDF5 file of which nothing is read before its claims are checked.

    HDF5 allocates whatever size a file claims, and does not return from a store of texts whose free space has
    no end. docs/decisions/damaged-files.md tells why these checks are made in this process.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._path = Path(file.filename)
        self._size = self._path.stat().st_size
        self._content = self._path.read_bytes() if self._size <= _MAX_SEARCHED else b""
        # HDF5 File Format Specification 3.0, III.E "Global Heap", with lengths of 8 bytes
        for heap in re.finditer(rb"GCOL\x01\0\0\0", self._content):
            at, end = heap.start() + 16, heap.start() + self._number(heap.start() + 8, 8)
            while at + 16 <= min(end, len(self._content)):
                number, size = self._number(at, 2), self._number(at + 8, 8)
                if number == 0 and size != end - at:
                    raise NeurordlError("its texts are stored in a damaged way")
                at = end if number == 0 else at + 16 + (size + 7) // 8 * 8

    def items(self, group: h5py.Group) -> list[tuple[str, Any]]:
        """Return what a group holds; links to other files are refused."""
        if len(group) > _MAX_ITEMS:
            raise NeurordlError(f"{group.name} holds {len(group)} items, and RDM files never so many")
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise NeurordlError(f"{name!r} is a link to another file; copy its content into this one")
        return [(name, group[name]) for name in group]

    def values(self, dataset: h5py.Dataset) -> Any:
        """Read the values of a dataset, if the file can hold as many."""
        self._check_size(dataset.dtype, dataset.shape, dataset.name, MAX_INFLATION)
        if dataset.is_virtual or dataset.external:
            raise NeurordlError(f"{dataset.name} keeps its data in another file; copy them into this one")
        if _is_text(dataset.dtype) and dataset.size and not self.file.userblock_size:
            start = dataset.id.get_offset()
            if start is not None:  # neither in chunks nor packed
                with open(self._path, "rb") as handle:
                    handle.seek(start)
                    self._check_lengths(handle.read(16 * dataset.size), dataset.name)
        return dataset[()]

    def attributes(self, item: h5py.Group | h5py.Dataset, names: Iterable[str] | None = None) -> Struct:
        """Read the attributes of a group or dataset, or those with some names."""
        result = {}
        for name in item.attrs if names is None else filter(item.attrs.__contains__, names):
            attribute, label = item.attrs.get_id(name), f"the attribute {name!r} of {item.name}"
            self._check_size(attribute.dtype, attribute.shape, label, 1)
            if _is_text(attribute.dtype):
                self._check_attribute_text(attribute, name)
            result[name] = item.attrs[name]
        return result

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self._content[at : at + width], "little")

    def _check_size(self, dtype: np.dtype[Any], shape: Any, label: str, inflation: int) -> None:
        # HDF5 crashes on some damaged types that RDM files never use.
        known = h5py.check_string_dtype(dtype) is not None or h5py.check_ref_dtype(dtype) is h5py.Reference
        if dtype.kind not in "fiubS" and not known:
            raise NeurordlError(f"{label} is of a type that RDM files do not use ({dtype}); it is damaged")
        claimed = int(np.prod(shape or (), dtype=object)) * dtype.itemsize
        if claimed > max(inflation * self._size, 1 << 16):
            raise NeurordlError(
                f"{label} claims {claimed} bytes, which a file of {self._size} bytes cannot hold; it is "
                "damaged"
            )

    def _check_lengths(self, references: bytes, label: str) -> None:
        """Check references to texts: a length of 4 bytes, then 12 bytes for the place of the text."""
        lengths = np.frombuffer(references[: len(references) // 16 * 16], "<u4")[::4]
        if (longest := max(lengths, default=0)) > self._size:
            raise NeurordlError(f"{label} claims a text of {longest} bytes: it is damaged")

    def _check_attribute_text(self, attribute: Any, name: str) -> None:
        """Find an attribute by its name and type, for HDF5 does not tell where it is; check its lengths."""
        encoded = attribute.get_type().encode()[2:]
        encoded = (
            encoded[:4] + (16).to_bytes(4, "little") + encoded[8:]
        )  # its size in the file, not in memory
        start = re.escape(name.encode()) + rb"\0{1,8}" + re.escape(encoded)
        for match in re.finditer(start + rb"(?:\0{4})?([\x01\x02])(.)(.)", self._content, re.DOTALL):
            version, rank, flags = (part[0] for part in match.groups())  # of the dataspace
            at = match.start(1) + (8 if version == 1 else 4) + 8 * rank * (2 if flags & 1 else 1)
            count = int(np.prod(attribute.shape or (), dtype=object))
            self._check_lengths(self._content[at : at + 16 * count], f"the attribute {name!r}")


def _is_text(dtype: np.dtype[Any]) -> bool:
    """Whether a type is text of variable length."""
    text = h5py.check_string_dtype(dtype)
    return text is not None and text.length is None


def to_python(value: Any) -> Any:
    """Convert bytes to text and scalars to Python's own; arrays stay arrays."""
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8")
    array = np.asarray(value)
    if array.dtype.kind in "SO":
        texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in array.ravel().tolist()]
        dtype = str if all(isinstance(text, str) for text in texts) else object
        array = np.array(texts, dtype=dtype).reshape(array.shape)
    return array.item() if array.ndim == 0 else array


def _read(source: Path, _: str | None) -> RDMContent:
    """Read RDMs that rsatoolbox (``RDMs.save(path, file_type="hdf5")``) or `save_rdms` wrote."""
    with h5py.File(source, "r") as file:
        tree = _read_group(CheckedFile(file), file)
    if "dissimilarities" not in tree:
        raise NeurordlError(
            f"{source} is not in rsatoolbox's layout: it has no 'dissimilarities', but {sorted(tree)}; "
            "write it with rdms.save(path, file_type='hdf5') or save_rdms"
        )
    return RDMContent(
        tree["dissimilarities"],
        "condensed",
        tree.get("dissimilarity_measure"),
        dict(tree.get("descriptors") or {}),
        _to_lists(tree.get("rdm_descriptors") or {}),
        _to_lists(tree.get("pattern_descriptors") or {}),
    )


def _read_group(checked: CheckedFile, group: h5py.Group, depth: int = 0) -> Struct:
    if depth > MAX_DEPTH:
        raise NeurordlError(f"{group.name} is nested more than {MAX_DEPTH} deep, or holds itself")
    result: Struct = {}
    for name, item in checked.items(group):
        if isinstance(item, h5py.Group):
            result[name] = _read_group(checked, item, depth + 1)
        elif isinstance(item, h5py.Dataset):
            result[name] = None if item.shape is None else to_python(checked.values(item))
    return result | {name: to_python(value) for name, value in checked.attributes(group).items()}


def _to_lists(group: Mapping[str, Any]) -> dict[str, list[Any]]:
    """One value per RDM or stimulus; rsatoolbox may have stored a list as a numbered group."""
    result: dict[str, list[Any]] = {}
    for name, value in group.items():
        if isinstance(value, Mapping):
            result[name] = [value[str(i)] for i in range(len(value))]
        else:
            result[name] = value.tolist() if isinstance(value, np.ndarray) else [value]
    return result


def _write(rdms: RDMs) -> bytes:
    """Store RDMs in rsatoolbox's layout, with all that they carry."""
    file = io.BytesIO()  # in memory: on a full disk HDF5 ends the process when it closes the file
    with h5py.File(file, "w") as group:
        group.attrs["rsatoolbox_version"] = metadata.version("rsatoolbox")
        _write_group(group, rdms.to_dict(), "")
    return file.getvalue()


def _write_group(group: h5py.Group, values: Mapping[str, Any], path: str) -> None:
    for name, value in values.items():
        label = f"{path}[{name!r}]" if path else name
        if not isinstance(name, str) or not name or "/" in name:
            raise unstorable(label, ".h5", "its name is not text without a slash")
        if isinstance(value, Mapping):
            _write_group(group.create_group(name), value, label)
        elif isinstance(value, str):
            group.attrs[name] = str(value)
        elif value is None:
            group[name] = h5py.Empty("f")
        else:
            array = to_array(value, label, ".h5")
            if array.dtype.kind == "U":  # as bytes, or as UTF-8 where it is not ASCII
                ascii_only = all(text.isascii() for text in array.ravel().tolist())
                array = array.astype("S" if ascii_only else h5py.string_dtype())
            group[name] = array


HDF5 = Format((".h5", ".hdf5"), _read, _write)
