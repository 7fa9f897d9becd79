"""Files that are whole or absent: write aside then rename; tables as text; checksums; versions."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

__all__ = [
    "CHECKPOINT",
    "RUN_RECORD",
    "TableCells",
    "check_folder",
    "check_run_folder",
    "read_cells",
    "read_frame",
    "read_json",
    "read_text",
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
_DECIMAL_COMMA = re.compile(r"\s*[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?\s*")


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


class TableCells(NamedTuple):
    """The cells of a table, as `read_cells` reads them.

    Attributes
    ----------
    rows
        The cells as text, row by row; lines without text are left out.
    decimal_commas
        Whether semicolons separate the cells and some numbers have decimal commas. The commas stay in
        ``rows``; `with_points` replaces them.
    """

    rows: list[list[str]]
    decimal_commas: bool

    def with_points(self) -> list[list[str]]:
        """The rows with decimal points instead of decimal commas."""
        if not self.decimal_commas:
            return self.rows
        return [[cell.replace(",", ".") if "," in cell else cell for cell in row] for row in self.rows]


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; any failure is a `NeurordlError`."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NeurordlError(f"cannot read the table {path}: it is not text in UTF-8 ({error})") from error
    except OSError as error:
        raise NeurordlError(f"cannot read the table {path}: {error.strerror or error}") from error


def read_cells(path: str | os.PathLike[str], *, pad: bool = False) -> TableCells:
    """Read the cells of a CSV or TSV file as text, in UTF-8 with or without a byte order mark.

    Tabs separate the cells of ``.tsv`` and ``.tab`` files, commas those of ``.csv``; in a file with another
    suffix tabs do where the first line has one. A ``.csv`` file is read with semicolons where every line has
    equally many of them and each comma can only be a decimal comma, as Excel writes it in many countries.

    Parameters
    ----------
    path
        The file.
    pad
        Fill short rows with blank cells, and drop blank cells beyond the first row; otherwise all rows must
        have the same length.

    Raises
    ------
    NeurordlError
        The file cannot be read, is empty or not text, its separators are others than those of its suffix, or
        a row has another length than the first.
    """
    source = Path(path)
    text = read_text(source)
    suffix = source.suffix.lower()
    tabs = suffix in (".tsv", ".tab") or (suffix != ".csv" and "\t" in text.partition("\n")[0])
    by_semicolons = _split_by_semicolons(text) if suffix == ".csv" else None
    try:
        rows = by_semicolons or _split(text, "\t" if tabs else ",")
    except csv.Error as error:
        raise NeurordlError(f"cannot read the table {source}: {error}") from error
    if not rows:
        raise NeurordlError(f"cannot read the table {source}: it is empty")
    width = len(rows[0])
    if by_semicolons is None and (width == 1 or any(len(row) != width for row in rows)):
        for mark, name in (("\t", "tabs"), (";", "semicolons")):
            if all(any(mark in cell for cell in row) for row in rows):
                raise NeurordlError(
                    f"cannot read the table {source}: it is separated by {name}; use tabs in .tsv, commas in "
                    ".csv (or semicolons with decimal commas, as many in each line, and no points)"
                )
    if pad:
        rows = [row + [""] * (width - len(row)) for row in rows]
        rows = [row[:width] if not any(cell.strip() for cell in row[width:]) else row for row in rows]
    for number, row in enumerate(rows):
        if len(row) != width:
            raise NeurordlError(
                f"cannot read the table {source}: row {number} (from 0) has {len(row)} cells, but the first "
                f"has {width}; expected a rectangular table"
            )
    commas = by_semicolons is not None and any("," in cell for row in rows for cell in row)
    return TableCells(rows, commas)


def _split(text: str, delimiter: str) -> list[list[str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [row for row in rows if len(row) > 1 or (row and row[0].strip())]


def _split_by_semicolons(text: str) -> list[list[str]] | None:
    """The rows of a table whose cells semicolons separate, or None where that is not certain."""
    if ";" not in text or "\t" in text:
        return None
    try:
        rows = _split(text, ";")
    except csv.Error:
        return None
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return None
    commas = [cell for row in rows for cell in row if "," in cell]
    points = any("." in cell and _is_number(cell) for row in rows for cell in row)
    # Beside decimal points, 1,234 may be a thousand.
    certain = all(map(_DECIMAL_COMMA.fullmatch, commas)) and not (commas and points)
    return rows if certain else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def read_frame(path: str | os.PathLike[str], *, keep: Sequence[str] = ("id", "stimulus")) -> pd.DataFrame:
    """Read a CSV or TSV file with a header into a DataFrame of text; blank cells are empty text.

    Separators, encoding and decimal commas are those of `read_cells`; short rows are filled with blank cells.

    Parameters
    ----------
    path
        The file.
    keep
        Columns in which commas are never decimal commas, such as ids.

    Warns
    -----
    UserWarning
        The file has semicolons between cells and decimal commas, which became points.

    Raises
    ------
    NeurordlError
        As `read_cells`, or two columns have the same name.
    """
    import pandas as pd

    cells = read_cells(path, pad=True)
    names = [name if name.strip() else f"Unnamed: {place}" for place, name in enumerate(cells.rows[0])]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise NeurordlError(f"{path} has two columns {repeated[0]!r}; leave one")
    frame = pd.DataFrame(cells.rows[1:], columns=names, dtype=str)
    if cells.decimal_commas:
        warnings.warn(
            f"{path} was read with semicolons between cells and decimal commas", UserWarning, stacklevel=2
        )
        points = pd.DataFrame(cells.with_points()[1:], columns=names, dtype=str)
        frame = points.assign(**{name: frame[name] for name in keep if name in names})
    return frame


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
