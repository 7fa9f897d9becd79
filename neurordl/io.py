"""Files that are whole or absent: write aside then rename; checksums; versions."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "CHECKPOINT",
    "RUN_RECORD",
    "check_folder",
    "check_run_folder",
    "read_json",
    "sha256_array",
    "sha256_file",
    "sha256_state",
    "versions",
    "write_aside",
    "write_json",
    "write_text",
]

RUN_RECORD = "run.json"
"""The file by which a folder holds a run."""
CHECKPOINT = "last.ckpt"
"""The file from which a run goes on."""

_RECORDED = ("torch", "numpy", "rsatoolbox", "lightning-fabric", "scipy", "pandas", "pillow", "safetensors")
_HASH_BYTES = 1 << 24


def check_folder(out: str | os.PathLike[str]) -> None:
    """Refuse a folder for output that is a file, lies in one, or may not be written to; nothing is made."""
    path = Path(out)
    there = next((one for one in (path, *path.parents) if one.exists()), Path())
    if path.exists() and not path.is_dir():
        raise NeurordlError(f"out: {path} is a file; give a folder")
    if not there.is_dir():
        raise NeurordlError(f"out: {path} cannot be made ({there} is a file); choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise NeurordlError(f"out: no permission to write in {there}; choose another folder")


def check_run_folder(out: str | os.PathLike[str], resume: bool) -> None:
    """Refuse a folder in which no run can start, or, if `resume`, go on."""
    path = Path(out)
    check_folder(path)
    if (path / RUN_RECORD).is_file():
        if not resume:
            raise NeurordlError(
                f"out: {path} holds a run already; choose another folder, or go on with resume=True (in the "
                "shell: --resume)"
            )
    # What a killed write left begins with a dot.
    elif path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise NeurordlError(f"out: {path} is not empty and holds no run; choose another folder")


@contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Parameters
    ----------
    path
        The file to write, in a folder that exists; a file already there is replaced, on failure left alone.

    Yields
    ------
    Path
        A name beside ``path``, with the same suffix, not yet created: write there. When the block ends
        without an exception the file is flushed to the disk and renamed to ``path``; otherwise it is removed.

    Raises
    ------
    NeurordlError
        The folder is missing, ``path`` is a folder, nothing was written, or the system refused (a full disk,
        no permission), also where safetensors, or torch given an open file, wrapped its error: the message
        names ``path``, the cause is kept. An ``OSError`` about some other file passes through unchanged.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise NeurordlError(
            f"cannot write {target}: the folder {target.parent} does not exist; create it first"
        )
    if target.is_dir():
        raise NeurordlError(f"cannot write {target}: it is a folder; give the name of a file")
    # the suffix is kept: numpy and matplotlib choose what to write by it
    aside = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, target)
    except Exception as error:
        refused = _refusal(error)
        if refused is None or (refused.filename and Path(refused.filename) not in (aside, target)):
            raise
        raise NeurordlError(f"cannot write {target}: {_reason(refused)}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself, where folders can be flushed; the file is whole either way
        _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal(error: Exception) -> OSError | None:
    """The system's error behind an exception: torch hides it in the context, safetensors in the text."""
    for candidate in (error, error.__context__):
        if isinstance(candidate, OSError):
            return candidate
    told = re.search(r"\(os error ([0-9]+)\)", str(error))
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or write to another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; write to another folder or change its permissions"
    if error.errno == errno.ENOENT:
        return "nothing was written, or the folder was removed meanwhile; check the folder and try again"
    return f"{error}; check the folder and the free space on its disk"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 through `write_aside`, whose errors it raises."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write ``obj`` as indented JSON through `write_aside`, in the order given.

    Paths become text and numpy values plain ones.

    Raises
    ------
    NeurordlError
        ``obj`` holds what JSON has no word for (NaN and infinity too), or the file cannot be written.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise NeurordlError(
            f"cannot write {path} as JSON: {error}; give numbers, text, lists, dicts, None"
        ) from error
    write_text(path, text + "\n")


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r:.60} has no JSON form")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a missing, unreadable or malformed one is a `NeurordlError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise NeurordlError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise NeurordlError(
            f"{path} is not valid JSON ({error}); it is damaged or another kind of file"
        ) from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal; an unreadable file is a `NeurordlError` that names it."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise NeurordlError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def sha256_array(array: np.ndarray[Any, Any] | torch.Tensor) -> str:
    """SHA-256 of dtype, shape and values, in hexadecimal.

    The same for an array and a tensor of the same values, whatever their memory layout and byte order. A
    memory-mapped array is read block by block. Python objects, whose bytes are addresses, are refused.
    """
    import numpy as np

    kind = str(array.dtype)
    if kind == "torch.bfloat16":  # numpy has no such type: its bits are hashed
        import torch

        array = torch.as_tensor(array).view(torch.int16)
    values = array if isinstance(array, np.ndarray) else np.asarray(array.detach().cpu())
    if values.dtype.hasobject:
        raise NeurordlError(
            "cannot take the checksum of an array of Python objects; convert it to numbers or text"
        )
    values = values.reshape(1) if values.ndim == 0 else values
    stored = values.dtype.newbyteorder("<")
    label = "bfloat16" if kind == "torch.bfloat16" else stored.str
    digest = hashlib.sha256(f"{label} {tuple(array.shape)} ".encode())
    row_bytes = max(1, math.prod(values.shape[1:]) * values.itemsize)
    step = max(1, _HASH_BYTES // row_bytes)
    for start in range(0, len(values), step):
        digest.update(np.ascontiguousarray(values[start : start + step], dtype=stored).tobytes())
    return digest.hexdigest()


def sha256_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names and values of a network's weights, as ``state_dict()`` gives them."""
    lines = "".join(f"{name} {sha256_array(tensor)}\n" for name, tensor in state.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that results depend on; imports none of them."""
    from importlib import metadata  # slow beside the rest of this module, which the shell's help imports

    found = {"neurordl": "not installed", "python": platform.python_version()}
    for name in ("neurordl", *_RECORDED):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
