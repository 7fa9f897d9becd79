"""Checks of arguments, which pass in silence or raise one clear error, and texts that show an object."""

from __future__ import annotations

import dataclasses
import html
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

from neurordl.errors import NeurordlError

T = TypeVar("T")

_FEW, _LONG = 3, 80  # elements, and letters, that a short representation shows
_MOST_ROWS = 50  # that a notebook shows of a table
# A folder at the beginning of a path: of Linux, macOS or Windows, of a home (~) or a URL of a file.
_FOLDERS = re.compile(
    r"(?<![\w.:/\\<])(?:file://|[A-Za-z]:|~[\w.-]*)?[/\\](?:[^/\\\s'\"<>|,;:()]+[/\\])*(?=[^\s/\\])"
)


def listed(names: Iterable[object], most: int = 5, quote: bool = False, separator: str = ", ") -> str:
    """Names separated by commas; of more than ``most`` the first ones and how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c"], most=2)
    'a, b, and 1 more'
    """
    texts = [repr(name) if quote else str(name) for name in names]
    more = [f"and {len(texts) - most:,} more"] if len(texts) > most else []
    return separator.join([*texts[:most], *more])


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1.

    Examples
    --------
    >>> counted(1, "stimulus"), counted(1200, "stimulus")
    ('1 stimulus', '1,200 stimuli')
    """
    plural = {"stimulus": "stimuli", "study": "studies", "vertex": "vertices"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def brief(value: object) -> str:
    """A ``__repr__`` of dataclasses and named tuples in a line: of arrays the shape, of long lists the start.

    Examples
    --------
    >>> brief(dataclasses.make_dataclass("Ids", ["names"])(list("abcdefg")))
    "Ids(names=['a', 'b', 'c', and 4 more])"
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names = value._fields
    else:
        names = tuple(field.name for field in dataclasses.fields(value) if field.repr)  # type: ignore[arg-type]
    shown = ", ".join(f"{name}={_shortened(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({shown})"


def _shortened(value: object) -> str:
    if shape := getattr(value, "shape", None):  # of arrays, tensors and tables
        return f"{type(value).__name__} {' x '.join(map(str, shape))}"
    if isinstance(value, Collection) and not isinstance(value, str | bytes) and len(value) > _FEW:
        brackets = (
            "{}" if isinstance(value, Mapping | set | frozenset) else "()" if type(value) is tuple else "[]"
        )
        return f"{brackets[0]}{listed(map(_shortened, value), most=_FEW)}{brackets[1]}"
    text = repr(value)
    if "\n" in text:
        return type(value).__name__
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def without_paths(text: str) -> str:
    """Text in which absolute paths are cut to the names of their files or folders.

    Examples
    --------
    >>> without_paths("read from /data/study/it.h5, which holds 3 RDMs")
    'read from it.h5, which holds 3 RDMs'
    """
    for folder in (Path.cwd(), Path.home()):  # also with blanks in them
        if len(folder.parts) > 1:
            text = text.replace(f"{folder}/", "").replace(
                str(folder), folder.name if folder != Path.home() else "~"
            )
    if "\n" not in text and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()):
        return PureWindowsPath(text).name or text
    return _FOLDERS.sub("", text)


def folded_html(
    summary: str, rows: Sequence[Sequence[object]], header: Sequence[str] = (), notes: Iterable[str] = ()
) -> str:
    """HTML of an object for notebooks: a line, below which a click folds a table and notes away.

    All text is escaped and has no absolute path. Colors are those of the notebook, light or dark.

    Parameters
    ----------
    summary
        What the object is, in a line.
    rows, header
        Cells of a table and the names of its columns; the first cell of a row is its name.
    notes
        Sentences below the table.

    Examples
    --------
    >>> "&lt;b&gt;" in folded_html("2 stimuli", [["ids", "a, <b>"]])
    True
    """

    def cell(tag: str, value: object) -> str:
        style = "text-align: left; padding: 2px 12px 2px 0"
        return f'<{tag} style="{style}">{html.escape(without_paths(str(value)))}</{tag}>'

    lines = [f"<tr>{''.join(cell('th', name) for name in header)}</tr>"] if header else []
    for first, *rest in rows[:_MOST_ROWS]:
        lines.append(f"<tr>{cell('th', first)}{''.join(cell('td', value) for value in rest)}</tr>")
    more = [f"{len(rows) - _MOST_ROWS:,} more rows are not shown."] if len(rows) > _MOST_ROWS else []
    table = f"<table>{''.join(lines)}</table>" if lines else ""
    texts = "".join(f"<p>{html.escape(without_paths(note))}</p>" for note in (*more, *notes))
    title = html.escape(without_paths(summary))
    content = f'<div style="overflow-x: auto">{table}{texts}</div>'
    return f'<details open=""><summary style="cursor: pointer">{title}</summary>{content}</details>'


def check_choice(name: str, value: T, choices: Sequence[object], remedy: str = "") -> T:
    """Return ``value`` if it is one of ``choices``.

    Raises
    ------
    NeurordlError
        It is not: the message names the argument, the value and the choices.

    Examples
    --------
    >>> check_choice("center", "run", (None, "run", "all"))
    'run'
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        expected = listed(choices, most=40, quote=True)
        raise NeurordlError(f"{name}={value!r}: expected one of {expected}{'; ' if remedy else ''}{remedy}")
    return value


def check_type(name: str, value: object, expected: type, remedy: str = "") -> None:
    """Raise an error unless ``value`` is an object of a class.

    Raises
    ------
    NeurordlError
        It is not: the message names the argument, both classes and the remedy.
    """
    if not isinstance(value, expected):
        types = f"expected {expected.__name__}, got {type(value).__name__}"
        raise NeurordlError(f"{name}: {types}{'; ' if remedy else ''}{remedy}")


def check_path(name: str, value: object) -> Path:
    """Return ``value`` as a path if it is text or a path.

    Raises
    ------
    NeurordlError
        It is neither.
    """
    if not isinstance(value, str | os.PathLike):
        raise NeurordlError(f"{name}={value!r:.60}: expected a path, got {type(value).__name__}")
    return Path(value)


def check_columns(name: str, columns: Iterable[object], wanted: Iterable[object], remedy: str = "") -> None:
    """Raise an error that names the first wanted column that a table lacks, and the columns that it has.

    Raises
    ------
    NeurordlError
        A column is missing.
    """
    known = list(columns)
    if missing := [column for column in wanted if column not in known]:
        names = f"its columns are {listed(known, most=40)}" if known else "it is empty"
        raise NeurordlError(f"{name} has no column {missing[0]!r}: {names}{'; ' if remedy else ''}{remedy}")


def check_count(name: str, value: object, least: int = 1, remedy: str = "") -> int:
    """Return ``value`` as an int if it is a whole number of at least ``least``.

    Raises
    ------
    NeurordlError
        It is not a whole number (nor is True or False), or it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise NeurordlError(
            f"{name}={value!r}: expected a whole number of at least {least}{'; ' if remedy else ''}{remedy}"
        )
    return int(value)


def check_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    remedy: str = "",
) -> float:
    """Return ``value`` as a float if it is a finite number from ``low`` to ``high``.

    Parameters
    ----------
    name, value
        The argument.
    low, high
        The range, both ends included.
    open_low, open_high
        Exclude ``low`` or ``high`` itself.
    remedy
        What helps, at the end of the message.

    Raises
    ------
    NeurordlError
        It is not a number, not finite, or out of the range.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    inside = low <= number <= high and not (open_low and number == low) and not (open_high and number == high)
    if not math.isfinite(number) or not inside:
        least = "" if low == -math.inf else f" above {low:g}" if open_low else f" of at least {low:g}"
        most = "" if high == math.inf else f" {'below' if open_high else 'of at most'} {high:g}"
        extent = f"a number{least}{' and' if least and most else ''}{most}"
        raise NeurordlError(f"{name}={value!r}: expected {extent}{'; ' if remedy else ''}{remedy}")
    return number
