"""numpy's .npy and .npz: arrays are neither unpickled nor allocated on the word of a header."""

from __future__ import annotations

import io
import math
import sys
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from neurordl.errors import NeurordlError
from neurordl.mat5 import MAX_INFLATION, Struct, Values
from neurordl.rdms.files.content import (
    Format,
    RDMContent,
    UnreadableError,
    content_of_tree,
    content_of_variables,
    flatten,
    to_array,
    unstorable,
)
from neurordl.validate import listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MAX_MEMBERS = 10_000
_NET2BRAIN = {"rdm", "stimuli_name", "layer_name", "meta"}


def _read_npy(source: Path, _: str | None) -> RDMContent:
    """Read one array, of any shape that RDMs can have; it has no descriptors."""
    with open(source, "rb") as handle:
        return RDMContent(_read_array(handle, source.stat().st_size, str(source)))


def _read_npz(source: Path, name: str | None) -> RDMContent:
    """Read the RDMs of an archive of arrays."""
    with open(source, "rb") as handle:
        _refuse_pickle(handle, str(source))
    arrays: Struct = {}
    with zipfile.ZipFile(source) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"it holds {len(members)} arrays, and RDM files never so many")
        for member in members:
            key, claimed, stored = member.filename[: -len(".npy")], member.file_size, member.compress_size
            label = f"{key!r} in {source}"
            if key in arrays:
                raise ValueError(f"it has the array {key!r} twice")
            if stored > source.stat().st_size or claimed > max(MAX_INFLATION * stored, 1 << 12):
                raise ValueError(f"{key!r} claims {claimed} bytes, but only {stored} are stored")
            try:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UnreadableError(
                        f"{label} is packed in a way that numpy does not use; save it with numpy"
                    )
                with archive.open(member) as handle:
                    array = _read_array(handle, claimed, label)
                arrays[key] = str(array) if array.ndim == 0 and array.dtype.kind == "U" else array
            except UnreadableError as error:
                arrays[key] = error
    if "rdm_descriptors/index" in arrays and name in (None, "dissimilarities"):  # save_rdms wrote it
        return _read_tree(arrays)
    if arrays.keys() >= _NET2BRAIN and name in (None, "rdm"):
        return _read_layer(arrays)
    return content_of_variables(arrays, name)


def _read_layer(arrays: Struct) -> RDMContent:
    """The RDM of a layer as Net2Brain writes it; with several times, an RDM for each."""
    values, names, layer = (arrays[name] for name in ("rdm", "stimuli_name", "layer_name"))
    if isinstance(values, UnreadableError):
        raise values
    content = RDMContent(values, "condensed")
    if isinstance(names, np.ndarray) and names.dtype.kind == "U":
        content.pattern_descriptors["stimulus"] = names.tolist()
    if isinstance(layer, str):
        content.rdm_descriptors["layer"] = [layer] * (1 if values.ndim == 1 else len(values))
    content.notices.append(
        "its dissimilarity is only in a pickle, 'meta', which is not read: name it by measure= "
        "('correlation' is Net2Brain's default)"
    )
    return content


def _read_tree(arrays: Struct) -> RDMContent:
    unread = [error for error in arrays.values() if isinstance(error, UnreadableError)]
    if isinstance(arrays["dissimilarities"], UnreadableError):
        raise arrays["dissimilarities"]
    content = content_of_tree(_nest({k: v for k, v in arrays.items() if not isinstance(v, UnreadableError)}))
    content.notices += [f"{len(unread)} items in it are not read: {listed(unread)}"] if unread else []
    return content


def _nest(arrays: Struct) -> Struct:
    tree: Struct = {}
    for path, array in arrays.items():
        *groups, last = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = array if np.ndim(array) else np.asarray(array).item()
    return tree


def _refuse_pickle(handle: IO[bytes], label: str) -> None:
    start = handle.read(2)
    handle.seek(0)
    if start in _PICKLE:
        raise UnreadableError(
            f"{label} is a pickle under another name, which can run any code; use save_rdms"
        )


def _read_array(handle: IO[bytes], size: int, label: str) -> Values:
    """Read an array whose header claims exactly what the ``size`` bytes hold."""
    _refuse_pickle(handle, label)
    version = np.lib.format.read_magic(handle)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for field names beyond ASCII, which no RDM has
        raise UnreadableError(
            f"{label} is in version {version[0]}.{version[1]} of numpy's format, not 1 or 2"
        )
    read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read_header(handle)
    if dtype.hasobject:
        problem = "holds Python objects, whose pickles can run any code"
        raise UnreadableError(f"{label} {problem}; save it as numbers or text")
    claimed, stored = math.prod(shape) * dtype.itemsize, size - handle.tell()
    if claimed != stored or (dtype.itemsize == 0 and math.prod(shape) > size):
        raise ValueError(f"{label} claims an array of {claimed} bytes, but has {max(0, stored)}")
    handle.seek(0)
    array = np.lib.format.read_array(handle, allow_pickle=False)  # to its end, where a checksum may be
    codes = np.frombuffer(array.tobytes(), f"{dtype.byteorder}u4") if dtype.kind == "U" else np.zeros(0)
    if codes.max(initial=0) > sys.maxunicode:
        raise ValueError(f"{label} has text with characters that do not exist")
    return array


def _write_npy(rdms: RDMs) -> bytes:
    """Store (RDMs, pairs) in their precision."""
    if rdms.n_cond == 2 and rdms.n_rdm > 1:
        raise NeurordlError(f"{rdms.n_rdm} RDMs of two stimuli would come back from .npy as one; write .h5")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(rdms.dissimilarities), allow_pickle=False)
    return file.getvalue()


def _write_npz(rdms: RDMs) -> bytes:
    """Store arrays ``dissimilarities``, ``pattern_descriptors/stimulus`` and so on; the measure as text."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, value in flatten(rdms.to_dict(), ".npz"):
            if value is None and path == "dissimilarity_measure":
                continue
            if value is None:
                raise unstorable(path, ".npz", "it is None")
            array = np.asarray(to_array(value, path, ".npz"), order="C")
            with archive.open(f"{path}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)
    return file.getvalue()


NPY = Format((".npy",), _read_npy, _write_npy, keeps=())
NPZ = Format((".npz",), _read_npz, _write_npz, has_variables=True)
