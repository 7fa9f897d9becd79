"""Match stimuli by id, never by position, and say what was matched with what."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError

__all__ = ["Match", "check_ids", "id_column", "match_ids", "natural_key", "near_misses", "possible_ids"]

_EXTENSION = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp|npy|npz|mat|nii(\.gz)?)$", re.IGNORECASE)
_DIGITS = re.compile(r"([0-9]+)")
_SHOWN = 5
# in which ids of the same stimulus may differ; never matched, only pointed out
_WAYS: dict[str, Callable[[str], str]] = {
    "Unicode form": lambda text: unicodedata.normalize("NFC", text),
    "blanks": str.strip,
    "folder": lambda text: re.split(r"[/\\]", text)[-1],
    "extension": lambda text: _EXTENSION.sub("", text),
    "decimal point": lambda text: re.sub(r"^([0-9]+)\.0*$", r"\1", text),
    "letter case": str.casefold,
    "zero padding": lambda text: _DIGITS.sub(lambda found: found[0].lstrip("0") or "0", text),
}


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key under which ``s2`` comes before ``s10``; equal only for equal texts."""
    parts: list[Any] = _DIGITS.split(text)
    for i in range(1, len(parts), 2):
        digits = parts[i].lstrip("0")
        parts[i] = (len(digits), digits)  # orders as the number does, however long
    return (tuple(parts), text)


def check_ids(ids: Iterable[object], what: str) -> tuple[str, ...]:
    """Check that ids are text, unique and not empty.

    Parameters
    ----------
    ids
        Any iterable of strings (numpy strings become plain ones).
    what
        Whose ids they are, for the message: "stimuli", "RDMs".

    Raises
    ------
    NeurordlError
        No ids, one string instead of several, an id that is not text or is blank, or an id that occurs twice.
    """
    checked = _texts(ids, what)
    if repeated := _repeated(checked):
        raise NeurordlError(
            f"the ids of the {what} must be unique, but {_few(repeated)} {_occur(repeated)} more than once; "
            "rename or drop the repeats, or average over them first"
        )
    return checked


def _texts(ids: Iterable[object], what: str) -> tuple[str, ...]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise NeurordlError(f"the ids of the {what} must be a sequence of strings, but came as {ids!r:.60}")
    given = tuple(ids)
    if not given:
        raise NeurordlError(f"the {what} have no ids: expected at least one, got none")
    for position, value in enumerate(given):
        if not isinstance(value, str) or not value.strip():
            raise NeurordlError(
                f"the ids of the {what} must be non-empty strings, but number {position} (from 0) is "
                f"{value!r:.60} ({type(value).__name__}); convert numbers by str(), as the other side "
                "writes them ('7' is another id than '007')"
            )
    return tuple(str(value) for value in given)


def _repeated(ids: Sequence[str]) -> tuple[str, ...]:
    if len(set(ids)) == len(ids):
        return ()
    return tuple(value for value, count in Counter(ids).items() if count > 1)


@dataclass(frozen=True, eq=False)
class Match:
    """What was matched with what; ``print`` shows it as a table.

    Attributes
    ----------
    wanted
        The ids asked for, in their order.
    index
        For each matched id, in wanted order, its position among the available ids: int64, read-only.
    matched, missing, unused
        Ids on both sides (wanted order), wanted but not available, available but not wanted.
    reordered
        Whether the matched ids stand in another order on the two sides.
    what
        Names of the two sides.
    duplicated
        Ids that occur twice on a side: such a match is only ever seen printed in an error.
    lacking
        How many of the matched ids a subject has no measurement of; of those who lack none, nothing.
    """

    wanted: tuple[str, ...]
    index: npt.NDArray[np.int64]
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reordered: bool
    what: tuple[str, str] = ("stimuli", "RDMs")
    duplicated: tuple[str, ...] = ()
    lacking: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        wanted, available = self.what
        rows = [
            (f"{wanted} matched with {available}", len(self.matched), _few(self.matched)),
            (f"missing (not in the {available})", len(self.missing), _few(self.missing)),
            (f"unused (not in the {wanted})", len(self.unused), _few(self.unused)),
            ("duplicated", len(self.duplicated), _few(self.duplicated)),
        ]
        if self.lacking:
            named = [f"{name} {count:,}" for name, count in self.lacking.items()]
            more = [f"and {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
            rows.append(("subjects without some of them", len(named), ", ".join(named[:_SHOWN] + more)))
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:<{width}}  {count:>6}  {ids}".rstrip() for name, count, ids in rows]
        return "\n".join([*lines, f"{'reordered':<{width}}  {'yes' if self.reordered else 'no':>6}"])


def match_ids(
    wanted: Iterable[object],
    available: Iterable[object],
    *,
    what: tuple[str, str] = ("stimuli", "RDMs"),
    missing: Literal["error", "ignore"] = "error",
) -> Match:
    """Find each wanted id among the available ones, by exact equality.

    Parameters
    ----------
    wanted, available
        The two sides; the answer is in the order of ``wanted``.
    what
        Names of the two sides, for messages and the table.
    missing
        "error": every wanted id must be available. "ignore": those that are not are listed in the match.

    Raises
    ------
    NeurordlError
        An id occurs twice on a side, nothing matches, or an id is missing and may not be. Ids that differ
        only in how they are written (extension, letter case, zero padding, folder, blanks, "1.0" and "1",
        Unicode form) are pointed out; they are never matched.
    """
    if missing not in ("error", "ignore"):
        raise NeurordlError(f'missing must be "error" or "ignore", but is {missing!r}')
    left, right = _texts(wanted, what[0]), _texts(available, what[1])
    place = {value: position for position, value in enumerate(right)}
    matched = tuple(value for value in left if value in place)
    index = np.array([place[value] for value in matched], dtype=np.int64)
    index.setflags(write=False)
    asked = set(left)
    match = Match(
        wanted=left,
        index=index,
        matched=matched,
        missing=tuple(value for value in left if value not in place),
        unused=tuple(value for value in right if value not in asked),
        reordered=bool((np.diff(index) < 0).any()),
        what=what,
        duplicated=tuple(dict.fromkeys(_repeated(left) + _repeated(right))),
    )
    if problem := _problem(match, right, missing):
        raise NeurordlError(f"{problem}\n{match}")
    return match


def _problem(match: Match, right: tuple[str, ...], missing: str) -> str | None:
    wanted, available = match.what
    if match.duplicated:
        sides = [name for name, ids in zip(match.what, (match.wanted, right), strict=True) if _repeated(ids)]
        return (
            f"ids must be unique to be matched, but {_few(match.duplicated)} {_occur(match.duplicated)} more "
            f"than once in the {' and the '.join(sides)}; rename or drop the repeats, or average over them "
            "first"
        )
    if not match.matched:
        near = near_misses(match)
        return f"no id of the {wanted} is among the ids of the {available}{near}; give both the same ids"
    if match.missing and missing == "error":
        return (
            f"{len(match.missing)} of {len(match.wanted)} ids of the {wanted} are not in the {available}: "
            f'{_few(match.missing)}{near_misses(match)}; leave these {wanted} out, or pass missing="ignore"'
        )
    return None


def near_misses(match: Match) -> str:
    """Unmatched ids that differ only in how they are written, in words; empty if none."""
    other = {_loose(value): value for value in reversed(match.unused)}
    pairs = [(value, other[_loose(value)]) for value in match.missing if _loose(value) in other]
    if not pairs:
        return ""
    value, near = pairs[0]
    ways = [name for name in _WAYS if _loose(value, leave=name) != _loose(near, leave=name)]
    differ = " and ".join(ways) or "letter case"
    return f" ({len(pairs)} differ only by {differ}, such as {value!r} and {near!r})"


def id_column(names: Iterable[object]) -> str | None:
    """The column of a table that holds the ids: ``id``, or else ``stimulus``; None if there is neither."""
    known = set(names)
    return next((name for name in ("id", "stimulus") if name in known), None)


def possible_ids(columns: Mapping[str, Iterable[Any]], use: str = "rename it to 'stimulus'") -> str:
    """The descriptor or column that could be the ids, for it has another text in each row, in words."""
    for name, values in columns.items():
        own = list(values)
        if all(isinstance(one, str) and one for one in own) and len(set(own)) == len(own) > 1:
            return f"; {name!r} has another text for each row: if these are the ids, {use.format(name=name)}"
    return ""


def _loose(text: str, leave: str = "") -> str:
    """Drop the differences in writing that are pointed out, except the one to leave."""
    for name, plain in _WAYS.items():
        text = text if name == leave else plain(text)
    return text


def _occur(ids: Sequence[str]) -> str:
    return "occurs" if len(ids) == 1 else "occur"


def _few(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(value) for value in ids[:_SHOWN])
    return shown + (f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
