"""numpy's .npy and .npz, without pickle and without trusting a header's word."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.rdms.files.held import INFLATION, Held
from neurordl.rdms.files.variables import DESCRIPTORS, choose

__all__ = ["npy_content", "npz_content", "read_npy", "read_npz"]

_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MEMBERS = 10_000


def read_npy(source: Path, name: str | None) -> Held:
    """One array, of any shape that RDMs can have; it names nothing."""
    if name is not None:
        raise NeurordlError(f"{source} holds one array: leave out name={name!r}")
    with open(source, "rb") as handle:
        return Held(_array(handle, source.stat().st_size, str(source)))


def read_npz(source: Path, name: str | None) -> Held:
    """The RDMs of an archive of arrays; see `choose`."""
    with open(source, "rb") as handle:
        _no_pickle(handle, str(source))
    with zipfile.ZipFile(source) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len({member.filename for member in members}) < len(members):
            raise NeurordlError(f"{source} has an array twice under one name: it is damaged, write it again")
        if len(members) > _MEMBERS:
            raise NeurordlError(f"{source} holds {len(members)} arrays, and RDM files never so many")
        arrays: dict[str, Any] = {}
        for member in members:
            label = f"{member.filename.removesuffix('.npy')!r} in {source}"
            claimed, stored = member.file_size, member.compress_size
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NeurordlError(f"{label} is packed in a way that numpy does not use; save it with numpy")
            if stored > source.stat().st_size or claimed > max(INFLATION * stored, 1 << 12):
                raise NeurordlError(
                    f"{label} claims {claimed} bytes, but only {stored} are stored: it is damaged"
                )
            with archive.open(member) as handle:
                array = _array(handle, claimed, label)
            text = array.ndim == 0 and array.dtype.kind == "U"
            arrays[member.filename.removesuffix(".npy")] = str(array) if text else array
    return choose(arrays, name, source)


def _no_pickle(handle: IO[bytes], label: str) -> None:
    start = handle.read(2)
    handle.seek(0)
    if start in _PICKLE:
        raise NeurordlError(
            f"{label} is a pickle under another name, and unpickling a file can run any code; save the "
            "arrays with numpy.save, numpy.savez or save_rdms"
        )


def _array(handle: IO[bytes], size: int, label: str) -> npt.NDArray[Any]:
    """An array of which the header says just what the ``size`` bytes hold."""
    _no_pickle(handle, label)
    version = np.lib.format.read_magic(handle)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(handle)
    else:  # 3.0 is for field names beyond ASCII, which no RDM has
        raise NeurordlError(f"{label} is in version {version[0]}.{version[1]} of numpy's format, not 1 or 2")
    if dtype.hasobject:
        raise NeurordlError(
            f"{label} holds Python objects, which are pickled, and unpickling a file can run any code; save "
            "it as numbers or text"
        )
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise NeurordlError(f"{label} says that its shape is {shape}: it is damaged")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - handle.tell() or (dtype.itemsize == 0 and math.prod(shape) > size):
        raise NeurordlError(
            f"{label} claims an array of {claimed} bytes, but has {max(0, size - handle.tell())}: it is "
            "damaged"
        )
    handle.seek(0)
    return np.lib.format.read_array(handle, allow_pickle=False)  # to its end, where a checksum may be


def npy_content(rdms: RDMs) -> bytes:
    """(RDMs, pairs), in their own precision."""
    if rdms.n_cond == 2 and rdms.n_rdm > 1:
        raise NeurordlError(
            f"{rdms.n_rdm} RDMs of two stimuli would come back from a .npy as one RDM in a column; write .h5"
        )
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(rdms.dissimilarities), allow_pickle=False)
    return file.getvalue()


def npz_content(rdms: RDMs) -> bytes:
    """Arrays ``dissimilarities``, ``pattern_descriptors/stimulus`` and so on; the measure as text."""
    arrays: dict[str, npt.NDArray[Any]] = {"dissimilarities": np.ascontiguousarray(rdms.dissimilarities)}
    if rdms.dissimilarity_measure is not None:
        arrays["dissimilarity_measure"] = np.array(str(rdms.dissimilarity_measure))
    for kind in DESCRIPTORS:
        arrays |= _named(getattr(rdms, kind), kind, kind)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)
    return file.getvalue()


def _named(values: Mapping[str, Any], path: str, label: str) -> dict[str, npt.NDArray[Any]]:
    """Descriptors under names with slashes, as HDF5 has groups."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in values.items():
        within = f"{label}[{name!r}]"
        if not isinstance(name, str) or not name or "/" in name:
            raise _unstorable(within, "under a name that is not text without a slash")
        if isinstance(value, Mapping):
            arrays |= _named(value, f"{path}/{name}", within)
        else:
            arrays[f"{path}/{name}"] = _storable(value, within)
    return arrays


def _storable(value: Any, label: str) -> npt.NDArray[Any]:
    values = list(value) if isinstance(value, list | tuple) else value
    mixed = isinstance(values, list) and len({isinstance(one, str) for one in values}) > 1
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _unstorable(label, str(error)) from error
    if mixed or array.dtype.kind not in "fiubU":
        raise _unstorable(label, "neither text nor numbers, all of one kind")
    if array.dtype.kind == "U" and _ends_in_nul(value):
        raise _unstorable(label, "text that ends in a NUL character, which numpy drops")
    return array


def _ends_in_nul(value: Any) -> bool:
    return any(str(text).endswith("\0") for text in ([value] if isinstance(value, str) else value))


def _unstorable(label: str, why: str) -> NeurordlError:
    return NeurordlError(f"cannot store the descriptor {label} in .npz: it is {why}; change it, or write .h5")
