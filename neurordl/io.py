"""Files: atomic writing, JSON and tables, checksums, and the versions of the libraries in use."""

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
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurordl.errors import NeurordlError, explain, notify

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

RUN_RECORD = "run.json"
"""A folder holds a run if it has this file."""
CHECKPOINT = "last.ckpt"
"""A run is resumed from this file."""

_RECORDED = ("torch", "numpy", "rsatoolbox", "lightning-fabric", "scipy", "pandas", "pillow", "safetensors")
_HASH_BYTES = 1 << 24
DECIMAL_COMMA = re.compile(r"\s*[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?\s*")


def check_folder(out: str | os.PathLike[str]) -> None:
    """Refuse an output folder that is a file, lies in a file, or may not be written to; create nothing."""
    path = Path(out)
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), Path())
    if not existing.is_dir():
        raise NeurordlError(f"out: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise NeurordlError(f"out: no permission to write in {existing}; choose another folder")


def check_run_folder(out: str | os.PathLike[str], resume: bool) -> None:
    """Refuse a folder in which a run can neither start nor, with `resume`, continue."""
    path = Path(out)
    check_folder(path)
    holds_run = (path / RUN_RECORD).is_file()
    if holds_run and not resume:
        remedy = "choose another folder, or resume it with resume=True"
        raise NeurordlError(f"{path} already holds a run; {remedy}")
    # Files that begin with a dot may be remains of a write that was killed.
    if not holds_run and path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise NeurordlError(f"out: {path} is not empty and holds no run; choose another folder")


def make_folder(path: Path, remedy: str = "choose another") -> None:
    """Make a folder, and those that it lies in; a `NeurordlError` says why it cannot be made."""
    with explain(f"cannot make the folder {path}", OSError, remedy):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file completely or not at all.

    Parameters
    ----------
    path
        The file to write, in a folder that exists. An existing file is replaced, or kept if writing fails.

    Yields
    ------
    Path
        A temporary name beside ``path`` with the same suffix, to which the block writes. If the block ends
        without an exception, the file is flushed to the disk and renamed to ``path``, otherwise removed.

    Raises
    ------
    NeurordlError
        If the folder is missing, ``path`` is a folder, nothing was written, or the system refused to write
        (a full disk, no permission), also where torch or safetensors wrapped the system's error. An
        ``OSError`` about another file is raised unchanged.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise NeurordlError(f"cannot write {target}: the folder {target.parent} does not exist; create it")
    if target.is_dir():
        raise NeurordlError(f"cannot write {target}: it is a folder; give the name of a file")
    # numpy and matplotlib choose the format by the suffix
    aside = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, target)
    except Exception as error:
        cause = _system_error(error)
        if cause is None or (cause.filename and Path(cause.filename) not in (aside, target)):
            raise
        raise NeurordlError(f"cannot write {target}: {write_problem(cause)}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    with suppress(OSError):  # makes the renaming durable where the system can flush a folder
        _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind an exception: torch has it in the context, safetensors in the text."""
    for candidate in (error, error.__context__):
        if isinstance(candidate, OSError):
            return candidate
    number = re.search(r"\(os error ([0-9]+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def write_problem(error: OSError) -> str:
    """Say why the system refused to write, and what helps."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or write to another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; write to another folder or change its permissions"
    if error.errno == errno.ENOENT:
        return "nothing was written, or the folder was removed meanwhile; check the folder and try again"
    return f"{error}; check the folder and the free space on its disk"


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file with `atomic_write`, whose errors it raises."""
    with atomic_write(path) as aside:
        aside.write_bytes(content)


def write_folder(path: Path, contents: Mapping[str, bytes], suffixes: Sequence[str]) -> None:
    """Write a folder of files completely or not at all; an earlier folder is replaced.

    Parameters
    ----------
    path
        The folder.
    contents
        What its files hold, by their names. Without any, there is no folder afterwards.
    suffixes
        An earlier folder is replaced only if all that it holds are files with these suffixes.

    Raises
    ------
    NeurordlError
        An earlier folder holds other things, or the system refused to write.
    """
    if path.exists():
        strange = [] if path.is_dir() else [path]
        strange = strange or [x for x in path.iterdir() if not x.is_file() or x.suffix not in suffixes]
        if strange:
            kinds = " and ".join(suffixes)
            problem = f"{strange[0]} is none of the {kinds} files that are replaced there; move it away"
            raise NeurordlError(f"cannot write the folder {path}: {problem}")
    aside, earlier = (path.with_name(f".{path.name}.{secrets.token_hex(4)}") for _ in range(2))
    try:
        aside.mkdir()
        for name, content in contents.items():
            (aside / name).write_bytes(content)
            _flush(aside / name)
        if path.exists():
            os.replace(path, earlier)
        if contents:
            os.replace(aside, path)
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        if earlier.exists():
            os.replace(earlier, path)
        raise NeurordlError(f"cannot write the folder {path}: {write_problem(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with `atomic_write`, whose errors it raises."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write ``obj`` as indented JSON with `atomic_write`; paths become text, arrays and tensors become lists.

    Raises
    ------
    NeurordlError
        If ``obj`` holds something that JSON cannot express, such as NaN, or if the file cannot be written.
    """
    with explain(f"cannot write {path} as JSON", remedy="give numbers, text, lists, dicts, None"):
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    raise TypeError(f"JSON cannot express the {type(value).__name__} {value!r:.60}")


@contextmanager
def damage_named(path: str | os.PathLike[str], remedy: str = "write it again") -> Iterator[None]:
    """Turn whatever is raised while a file is read into a `NeurordlError` with its name and a remedy."""
    try:
        yield
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        if isinstance(error, NeurordlError):
            if str(path) in str(error):
                raise
            problem = str(error)
        elif isinstance(error, OSError) and error.filename:
            problem = f"{error.strerror}; check the path"
        else:
            reason = str(error) or type(error).__name__
            suffix = Path(path).suffix.lower() or "valid"
            problem = f"it is damaged, or not a {suffix} file ({reason}); {remedy}"
        raise NeurordlError(f"cannot read {path}: {problem}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; any failure is a `NeurordlError`."""
    with damage_named(path), explain("it is not text in UTF-8", UnicodeDecodeError):
        content = Path(path).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            raise NeurordlError(f"{path} is compressed; decompress it (gunzip)")
        return content.decode("utf-8-sig")


def read_cells(
    path: str | os.PathLike[str], *, uneven: Literal["refuse", "pad", "keep"] = "refuse"
) -> tuple[list[list[str]], bool]:
    """Read the cells of a CSV or TSV file as text, in UTF-8 with or without a byte order mark.

    Tabs separate the cells of ``.tsv`` and ``.tab`` files, commas those of ``.csv``; in a file with another
    suffix tabs do where the first line has one. A ``.csv`` file is read with semicolons where every line has
    equally many of them and each comma can only be a decimal comma, as Excel writes it in many countries.

    Parameters
    ----------
    path
        The file.
    uneven
        What to do about rows of other lengths than the first. "pad": fill short rows with blank cells, and
        drop blank cells beyond the first row.

    Returns
    -------
    (list, bool)
        The cells as text, row by row, without the lines that have no text; and whether semicolons separate
        them and some numbers have decimal commas, which are kept.

    Raises
    ------
    NeurordlError
        The file cannot be read, is empty or not text, its separators are others than those of its suffix, or
        a row has another length than the first.
    """
    with damage_named(path):
        text, suffix = read_text(path), Path(path).suffix.lower()
        tabs = suffix in (".tsv", ".tab") or (suffix != ".csv" and "\t" in text.partition("\n")[0])
        by_semicolons = _split_by_semicolons(text) if suffix == ".csv" else None
        rows = by_semicolons or _split(text, "\t" if tabs else ",")
        if not rows:
            raise NeurordlError("it is empty")
        width = len(rows[0])
        if by_semicolons is None and (width == 1 or any(len(row) != width for row in rows)):
            for mark, name in (("\t", "tabs"), (";", "semicolons")):
                if all(any(mark in cell for cell in row) for row in rows):
                    remedy = "semicolons with decimal commas, as many in each line, and no points"
                    raise NeurordlError(
                        f"it is separated by {name}; use tabs in .tsv, commas in .csv (or {remedy})"
                    )
        if uneven == "pad":
            rows = [row + [""] * (width - len(row)) for row in rows]
            rows = [row[:width] if not any(map(str.strip, row[width:])) else row for row in rows]
        for number, row in enumerate(rows if uneven != "keep" else ()):
            if len(row) != width:
                raise NeurordlError(f"row {number} (from 0) has {len(row)} cells, but the first has {width}")
    return rows, by_semicolons is not None and any("," in cell for row in rows for cell in row)


def _split(text: str, delimiter: str) -> list[list[str]]:
    """Rows of cells; a quotation mark that takes other cells or rows into its cell is refused."""
    rows, line = [], 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    remedy = "in a cell that begins with one, write it twice and put the whole cell in quotation marks"
    problem = "the quotation marks in line {} (from 1) do not belong together"
    try:
        for row in reader:
            if any(delimiter in cell and (delimiter == "\t" or "\n" in cell) for cell in row):
                raise NeurordlError(f"{problem.format(line)}; {remedy}")
            line = reader.line_num + 1
            if len(row) > 1 or (row and row[0].strip()):
                rows.append(row)
    except csv.Error as error:
        if '"' not in text:
            raise
        raise NeurordlError(f"{problem.format(line)} ({error}); {remedy}") from error
    return rows


def _split_by_semicolons(text: str) -> list[list[str]] | None:
    """The rows of a table whose cells semicolons separate, or None where that is not certain."""
    if ";" not in text or "\t" in text:
        return None
    try:
        rows = _split(text, ";")
    except (csv.Error, NeurordlError):
        return None
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return None
    commas = [cell for row in rows for cell in row if "," in cell]
    points = any("." in cell and is_number(cell) for row in rows for cell in row)
    # Beside decimal points, 1,234 may be a thousand.
    certain = all(map(DECIMAL_COMMA.fullmatch, commas)) and not (commas and points)
    return rows if certain else None


def is_number(cell: str) -> bool:
    """Whether a cell of a table is a number, with a decimal point if it has decimals."""
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

    rows, decimal_commas = read_cells(path, uneven="pad")
    while len(rows[0]) > 1 and not any(row[-1].strip() for row in rows):  # separators at the ends of lines
        rows = [row[:-1] for row in rows]
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(rows[0])]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise NeurordlError(f"{path} has two columns {repeated[0]!r}; leave one")
    frame = pd.DataFrame(rows[1:], columns=names, dtype=str)
    if decimal_commas:
        notify(f"{path} was read with semicolons between cells and decimal commas")
        numbers = frame.columns.difference(list(keep))
        frame[numbers] = frame[numbers].replace(",", ".", regex=True)
    return frame


def differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Keys under which two records differ, each with both values where these are short."""
    different = []
    for key in {**now, **before}:
        # as text, for losses in another order would take each other's parameters
        if json.dumps(now.get(key)) != json.dumps(before.get(key)):
            values = f" ({before.get(key, 'nothing')} before, {now.get(key, 'nothing')} now)"
            different.append(key + (values if len(values) <= 90 else ""))
    return different


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; if it is missing, unreadable or malformed, a `NeurordlError` names it."""
    with damage_named(path):
        return json.loads(Path(path).read_bytes())


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the content of a file, in hexadecimal; a `NeurordlError` names an unreadable file."""
    with damage_named(path), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_array(array: np.ndarray[Any, Any] | torch.Tensor) -> str:
    """SHA-256 of the dtype, shape and values of an array or a tensor, in hexadecimal.

    An array and a tensor with the same values have the same checksum, whatever their memory layout and byte
    order. A memory-mapped array is read block by block.

    Raises
    ------
    NeurordlError
        If the array holds Python objects.
    """
    import numpy as np

    dtype = "bfloat16" if str(array.dtype) == "torch.bfloat16" else ""
    if dtype:  # numpy has no such type, so that the bits are hashed
        import torch

        array = torch.as_tensor(array).view(torch.int16)
    values = np.atleast_1d(array if isinstance(array, np.ndarray) else np.asarray(array.detach().cpu()))
    if values.dtype.hasobject:
        raise NeurordlError("cannot compute the checksum of Python objects; convert them to numbers or text")
    stored = values.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{dtype or stored.str} {tuple(array.shape)} ".encode())
    step = max(1, _HASH_BYTES // max(1, math.prod(values.shape[1:]) * values.itemsize))
    for start in range(0, len(values), step):
        digest.update(np.ascontiguousarray(values[start : start + step], dtype=stored).tobytes())
    return digest.hexdigest()


def json_text(obj: object) -> str:
    """An object as JSON in a line; paths become text, arrays and tensors become lists."""
    return json.dumps(obj, default=_plain)


def sha256_json(obj: object) -> str:
    """SHA-256 of what `write_json` would write: texts, numbers, and lists and dictionaries of them."""
    return hashlib.sha256(json_text(obj).encode()).hexdigest()


def sha256_state(state: Mapping[str, torch.Tensor]) -> str | None:
    """SHA-256 of a network's ``state_dict()``, in hexadecimal; None of a quantized or a lazy network."""
    with suppress(AttributeError, TypeError, RuntimeError, ValueError):
        lines = "".join(f"{name} {sha256_array(tensor)}\n" for name, tensor in state.items())
        return hashlib.sha256(lines.encode()).hexdigest()
    return None


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries on which results depend, without importing them."""
    from importlib import metadata  # slow to import, and not needed for the help of the shell

    installed = {"neurordl": "not installed", "python": platform.python_version()}
    for name in ("neurordl", *_RECORDED):
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed
