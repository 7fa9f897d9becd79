"""What the loaders of data sets share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from neurordl.errors import NeurordlError

__all__ = ["arrays", "choose", "first"]

Value = TypeVar("Value")


def arrays(path: Path, *names: str) -> dict[str, Any]:
    """Arrays of an .npz by name, without pickle; a damaged file is an error that names it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError) as error:
        raise NeurordlError(
            f"cannot read {', '.join(names)} from {path}: {error}; fetch the file again"
        ) from error


def choose(known: Mapping[str, Value], name: str, what: str) -> Value:
    """The value of a name; an unknown name is an error that lists those that are known."""
    if name not in known:
        raise NeurordlError(f"unknown {what} {name!r}: expected one of {', '.join(known)}")
    return known[name]


def first(count: int, limit: int | None) -> int:
    """How many of ``count`` to take."""
    if limit is not None and limit < 1:
        raise NeurordlError(f"limit must be 1 or more, but is {limit!r}")
    return count if limit is None else min(count, limit)
