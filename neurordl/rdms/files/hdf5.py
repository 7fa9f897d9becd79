"""HDF5 in rsatoolbox's own layout, read without unpickling."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.rdms.files.held import INFLATION, Held

__all__ = ["content", "decoded", "items", "read", "read_attributes", "read_dataset"]

_DEPTH = 16
_ITEMS = 100_000
_SEARCHED = 1 << 24  # bytes of the largest file that is looked through for each of its texts


def read(source: Path, name: str | None) -> Held:
    """RDMs that rsatoolbox (``RDMs.save(path, file_type="hdf5")``) or `content` wrote."""
    if name is not None:
        raise NeurordlError(f"{source} holds one set of RDMs: leave out name={name!r}")
    try:
        with h5py.File(source, "r") as file:
            found = _read(file, source.stat().st_size)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, NeurordlError):
            raise NeurordlError(f"cannot read {source}: {error}") from error
        raise NeurordlError(
            f"cannot read {source}: it is not an HDF5 file, or it is damaged ({error}); write it again with "
            "rsatoolbox (rdms.save(path, file_type='hdf5')) or save_rdms"
        ) from error
    if "dissimilarities" not in found:
        raise NeurordlError(
            f"{source} is not in rsatoolbox's layout: it has no 'dissimilarities', but {sorted(found)}; "
            "write it with rdms.save(path, file_type='hdf5') or save_rdms"
        )
    try:
        return Held(
            found["dissimilarities"],
            "condensed",
            found.get("dissimilarity_measure"),
            dict(found.get("descriptors") or {}),
            _lists(found.get("rdm_descriptors")),
            _lists(found.get("pattern_descriptors")),
        )
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise NeurordlError(f"{source} does not hold consistent RDMs: {error}") from error


def content(rdms: RDMs) -> bytes:
    """RDMs as a file in rsatoolbox's layout; a descriptor that cannot be stored is named."""
    file = io.BytesIO()  # in memory: on a full disk HDF5 ends the process when it closes the file
    with h5py.File(file, "w") as group:
        group.attrs["rsatoolbox_version"] = metadata.version("rsatoolbox")
        _write(group, rdms.to_dict(), "")
    return file.getvalue()


def items(group: h5py.Group) -> list[tuple[str, Any]]:
    """What a group holds; links into other files are refused."""
    found = []
    if len(group) > _ITEMS:
        raise NeurordlError(f"{group.name} holds {len(group)} things, and RDM files never so many")
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise NeurordlError(f"{name!r} is a link to another file; copy what it names into this one")
        found.append((name, group[name]))
    return found


def read_dataset(item: h5py.Dataset, file_bytes: int) -> Any:
    """A dataset's values, refused before anything is allocated where the file cannot hold so many."""
    _check_type(item.dtype, item.name)
    claimed = int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
    if claimed > max(INFLATION * file_bytes, 1 << 16) or item.is_virtual or item.external:
        raise NeurordlError(
            f"{item.name} claims {claimed} bytes, which a file of {file_bytes} bytes cannot hold; it is "
            "damaged, or keeps its data in another file"
        )
    _check_texts(item, file_bytes)
    return item[()]


def _check_texts(item: h5py.Dataset, file_bytes: int) -> None:
    """Refuse texts of variable length that claim more than the file holds: HDF5 allocates on their word."""
    found = h5py.check_string_dtype(item.dtype)
    if found is None or found.length is not None:
        return  # of one length
    if 0 < file_bytes <= _SEARCHED:
        _check_heaps(Path(item.file.filename).read_bytes(), item.name)
    start = item.id.get_offset() if item.size else None
    if start is None or item.file.userblock_size:
        return  # in chunks, or packed, where their lengths are not to be had
    with open(item.file.filename, "rb") as handle:
        handle.seek(start)
        _check_lengths(handle.read(16 * item.size), item.name, file_bytes)


def _check_heaps(content: bytes, what: str) -> None:
    """Refuse a store of texts whose free space does not end with it: HDF5 would go round in it for ever.

    Layout: HDF5 File Format Specification 3.0, III.E "Global Heap", with lengths of 8 bytes.
    """
    for place in re.finditer(rb"GCOL\x01\0\0\0", content):
        at, end = place.start() + 16, place.start() + _number(content, place.start() + 8, 8)
        while at + 16 <= min(end, len(content)):
            number, size = _number(content, at, 2), _number(content, at + 8, 8)
            if number == 0 and size != end - at:
                raise NeurordlError(f"the texts beside {what} are stored in a damaged way")
            at = end if number == 0 else at + 16 + (size + 7) // 8 * 8


def _number(content: bytes, at: int, width: int) -> int:
    return int.from_bytes(content[at : at + width], "little")


def _check_lengths(raw: bytes, what: str, file_bytes: int) -> None:
    """References to texts: a length of 4 bytes, then 12 that say where the text is."""
    longest = max(np.frombuffer(raw[: len(raw) // 16 * 16], "<u4")[::4], default=0)
    if longest > file_bytes:
        raise NeurordlError(f"{what} claims a text of {longest} bytes: it is damaged")


def _check_attribute_text(file: Path, name: str, found: Any, file_bytes: int) -> None:
    """As `_check_texts`; HDF5 does not say where an attribute is, so its name and type are looked for."""
    text = h5py.check_string_dtype(found.dtype)
    if text is None or text.length is not None or not 0 < file_bytes <= _SEARCHED:
        return
    kind = found.get_type().encode()[2:]
    kind = kind[:4] + (16).to_bytes(4, "little") + kind[8:]  # its size in the file, not in memory
    known = re.escape(name.encode()) + rb"\0{1,8}" + re.escape(kind)
    content = file.read_bytes()
    _check_heaps(content, f"the attribute {name!r}")
    for place in re.finditer(known + rb"(?:\0{4})?([\x01\x02])(.)(.)", content, re.DOTALL):
        version, rank, flags = (part[0] for part in place.groups())  # of the dataspace
        start = place.start(1) + (8 if version == 1 else 4) + 8 * rank * (2 if flags & 1 else 1)
        count = int(np.prod(found.shape or (), dtype=object))
        _check_lengths(content[start : start + 16 * count], f"the attribute {name!r}", file_bytes)


def read_attributes(
    item: h5py.Group | h5py.Dataset, file_bytes: int, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """The attributes of a group or dataset, or those of some names, as guarded as `read_dataset`."""
    result = {}
    for name in item.attrs if names is None else filter(item.attrs.__contains__, names):
        found = item.attrs.get_id(name)
        _check_type(found.dtype, f"the attribute {name!r} of {item.name}")
        claimed = int(np.prod(found.shape or (), dtype=object)) * found.dtype.itemsize
        if claimed > max(file_bytes, 1 << 16):
            raise NeurordlError(
                f"the attribute {name!r} of {item.name} claims {claimed} bytes: it is damaged"
            )
        _check_attribute_text(Path(item.file.filename), name, found, file_bytes)
        result[name] = item.attrs[name]
    return result


def _check_type(dtype: np.dtype[Any], what: str) -> None:
    """Numbers, text and references alone: HDF5 crashes on some damaged types that RDM files never use."""
    known = h5py.check_string_dtype(dtype) is not None or h5py.check_ref_dtype(dtype) is h5py.Reference
    if dtype.kind not in "fiubS" and not known:
        raise NeurordlError(f"{what} is of a type that RDM files do not use ({dtype}); it is damaged")


def _read(group: h5py.Group, file_bytes: int, depth: int = 0) -> dict[str, Any]:
    if depth > _DEPTH:
        raise NeurordlError(f"{group.name} is nested more than {_DEPTH} deep, or holds itself")
    result: dict[str, Any] = {}
    for name, item in items(group):
        if isinstance(item, h5py.Group):
            result[name] = _read(item, file_bytes, depth + 1)
        elif isinstance(item, h5py.Dataset):
            result[name] = None if item.shape is None else decoded(read_dataset(item, file_bytes))
    return result | {name: decoded(value) for name, value in read_attributes(group, file_bytes).items()}


def _lists(group: Any) -> dict[str, list[Any]]:
    """One value per RDM or stimulus; rsatoolbox may have stored a list as a numbered group."""
    result: dict[str, list[Any]] = {}
    for name, value in (group or {}).items():
        if isinstance(value, Mapping):
            result[name] = [value[str(i)] for i in range(len(value))]
        else:
            result[name] = value.tolist() if isinstance(value, np.ndarray) else [value]
    return result


def decoded(value: Any) -> Any:
    """Bytes as text, scalars as Python's own, arrays as they are."""
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8")
    array = np.asarray(value)
    if array.dtype.kind in "SO":
        texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in array.ravel().tolist()]
        array = np.array(texts, dtype=str if all(isinstance(t, str) for t in texts) else object).reshape(
            array.shape
        )
    return array.item() if array.ndim == 0 else array


def _write(group: h5py.Group, values: Mapping[str, Any], within: str) -> None:
    for name, value in values.items():
        label = f"{within}[{name!r}]" if within else name
        if not isinstance(name, str) or not name or "/" in name:
            raise _unstorable(label, "a name in HDF5 is text without a slash")
        if isinstance(value, Mapping):
            _write(group.create_group(name), value, label)
        elif isinstance(value, str):
            group.attrs[name] = str(value)
        elif value is None:
            group[name] = h5py.Empty("f")
        else:
            group[name] = _storable(value, label)


def _storable(value: Any, label: str) -> npt.NDArray[Any] | npt.NDArray[np.bytes_]:
    """An array that HDF5 and rsatoolbox's reader know; text as bytes, or as UTF-8 where it is not ASCII."""
    if isinstance(value, Iterable) and not isinstance(value, np.ndarray):
        value = list(value)
        if len({isinstance(item, str) for item in value}) > 1:
            raise _unstorable(label, "text and other things in one list")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _unstorable(label, str(error)) from error
    if array.dtype.kind in "US" or (
        array.dtype.kind == "O" and all(isinstance(i, str) for i in array.ravel())
    ):
        texts = array.astype(str)
        ascii_only = all(text.isascii() for text in texts.ravel().tolist())
        return texts.astype("S") if ascii_only else texts.astype(h5py.string_dtype())
    if array.dtype.kind not in "fiub":
        raise _unstorable(label, f"values of type {array.dtype}")
    return array


def _unstorable(label: str, why: str) -> NeurordlError:
    return NeurordlError(
        f"cannot store the descriptor {label}: {why}; descriptors are text or numbers, all of one kind"
    )
