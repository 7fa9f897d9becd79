"""RDM files: the HDF5 layout of rsatoolbox, read without unpickling and written whole or not at all."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs

from neurordl.artifacts import write_aside
from neurordl.errors import NeurordlError
from neurordl.rdms.distances import n_stimuli

__all__ = ["load_rdms", "save_rdms"]

_SUFFIXES = (".h5", ".hdf5")


def load_rdms(path: str | os.PathLike[str]) -> RDMs:
    """Read RDMs that rsatoolbox (``RDMs.save(path, file_type="hdf5")``) or `save_rdms` wrote.

    Parameters
    ----------
    path
        A file named ``.h5`` or ``.hdf5``.

    Returns
    -------
    RDMs
        With its descriptors; text is ``str``, whether stored as text or as bytes. Pairs may be NaN (missing).

    Warns
    -----
    UserWarning
        The file names no stimuli (no pattern descriptor ``stimulus``). They are not made up: give them before
        anything is matched.

    Raises
    ------
    NeurordlError
        No such file, another format, a damaged file, another layout, or an RDM without a single finite pair.
    """
    source = Path(path)
    _check_name(source, "read")
    if not source.is_file():
        raise NeurordlError(f"there is no RDM file {source}; check the path")
    try:
        with h5py.File(source, "r") as file:
            found = _read(file)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NeurordlError(
            f"cannot read {source}: it is not an HDF5 file, or it is damaged ({error}); write it again with "
            "rsatoolbox (rdms.save(path, file_type='hdf5')) or save_rdms"
        ) from error
    if "dissimilarities" not in found:
        raise NeurordlError(
            f"{source} is not in rsatoolbox's layout: it has no 'dissimilarities', but {sorted(found)}; "
            "write it with rdms.save(path, file_type='hdf5') or save_rdms"
        )
    rdms = _rdms(found, source)
    _check_values(rdms, str(source))
    if "stimulus" not in rdms.pattern_descriptors:
        others = [name for name in rdms.pattern_descriptors if name != "index"]
        warnings.warn(
            f"{source} does not say which stimuli its {rdms.n_cond} rows are; before matching set "
            "rdms.pattern_descriptors['stimulus'] to their ids"
            + (f" (the file has the pattern descriptors {', '.join(others)})" if others else ""),
            UserWarning,
            stacklevel=2,
        )
    return rdms


def save_rdms(rdms: RDMs, path: str | os.PathLike[str]) -> None:
    """Write RDMs in rsatoolbox's own HDF5 layout, which `load_rdms` and ``rsatoolbox.rdm.load_rdm`` read.

    Parameters
    ----------
    rdms
        Their descriptors hold text, numbers or None, alone or in lists and arrays of one kind.
    path
        A file named ``.h5`` or ``.hdf5``, in a folder that exists; a file already there is replaced.

    Raises
    ------
    NeurordlError
        Another format is asked for, a descriptor cannot be stored, an RDM is NaN everywhere, or the file
        cannot be written (nothing is left of it then).
    """
    target = Path(path)
    _check_name(target, "write")
    if not isinstance(rdms, RDMs):
        raise NeurordlError(f"save_rdms takes rsatoolbox RDMs, not {type(rdms).__name__}")
    _check_values(rdms, "the RDMs to save")
    content = io.BytesIO()  # in memory first: on a full disk HDF5 ends the process when it closes the file
    with h5py.File(content, "w") as file:
        file.attrs["rsatoolbox_version"] = metadata.version("rsatoolbox")
        _write(file, rdms.to_dict(), "")
    with write_aside(target) as aside:
        aside.write_bytes(content.getbuffer())


def _check_name(path: Path, verb: str) -> None:
    if path.suffix.lower() in _SUFFIXES:
        return
    why = (
        "unpickling a file can run any code"
        if path.suffix.lower() in (".pkl", ".pickle")
        else "not supported"
    )
    raise NeurordlError(
        f"cannot {verb} RDMs as {path.name!r} ({why}): RDM files are HDF5 in rsatoolbox's layout, named .h5 "
        "or .hdf5; convert with rdms.save(path, file_type='hdf5') in rsatoolbox"
    )


def _rdms(found: dict[str, Any], source: Path) -> RDMs:
    """RDMs of what a file holds, checked, for rsatoolbox takes any number of pairs."""
    values = np.atleast_2d(np.asarray(found["dissimilarities"]))
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise NeurordlError(
            f"the dissimilarities in {source} must be numbers, (RDMs, pairs), not {values.dtype} of shape "
            f"{values.shape}"
        )
    try:
        n_stimuli(values.shape[1])
        return RDMs(
            values if values.dtype.kind == "f" else values.astype(np.float64),
            dissimilarity_measure=found.get("dissimilarity_measure"),
            descriptors=dict(found.get("descriptors") or {}),
            rdm_descriptors=_lists(found.get("rdm_descriptors")),
            pattern_descriptors=_lists(found.get("pattern_descriptors")),
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise NeurordlError(f"{source} does not hold consistent RDMs: {error}") from error


def _check_values(rdms: RDMs, what: str) -> None:
    for number, vector in enumerate(rdms.dissimilarities):
        finite = np.isfinite(vector)
        problem = None if finite.any() else "has no measured pair (it is NaN everywhere)"
        if problem is None and not (finite | np.isnan(vector)).all():
            problem = "holds infinite dissimilarities"
        if problem is None:
            continue
        names = ", ".join(f"{k} {v[number]}" for k, v in rdms.rdm_descriptors.items() if k != "index")
        raise NeurordlError(
            f"{what}: RDM {number}{f' ({names})' if names else ''} {problem}; leave it out or compute it anew"
        )


def _lists(group: Any) -> dict[str, list[Any]]:
    """One value per RDM or stimulus; rsatoolbox may have stored a list as a numbered group."""
    result: dict[str, list[Any]] = {}
    for name, value in (group or {}).items():
        if isinstance(value, Mapping):
            result[name] = [value[str(i)] for i in range(len(value))]
        else:
            result[name] = value.tolist() if isinstance(value, np.ndarray) else [value]
    return result


def _read(group: h5py.Group) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            result[name] = _read(item)
        else:
            result[name] = None if item.shape is None else _decoded(item[()])
    return result | {name: _decoded(value) for name, value in group.attrs.items()}


def _decoded(value: Any) -> Any:
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
