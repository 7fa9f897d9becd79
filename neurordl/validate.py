"""Checks of arguments that the whole package shares: each passes in silence or raises one clear error."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from neurordl.errors import NeurordlError

T = TypeVar("T")


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
