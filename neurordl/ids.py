"""Match stimuli by id, never by position, and report which ids were matched."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError, notify
from neurordl.validate import brief, check_choice, folded_html, listed

_EXTENSION = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp|npy|npz|mat|nii(\.gz)?)$", re.IGNORECASE)
_DIGITS = re.compile(r"([0-9]+)")
_UNREPEAT = "rename or drop the repeats, or average over them first"
_LETTERS = ("lower", "upper", "capitalize", "title")  # methods of str
# Differences in writing between ids of the same stimulus. They are pointed out, and never matched.
_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "Unicode form": lambda text: unicodedata.normalize("NFC", text),
    "blanks": lambda text: " ".join(text.split()),
    "folder": lambda text: re.split(r"[/\\]", text)[-1],
    "extension": lambda text: _EXTENSION.sub("", text),
    "decimal point": lambda text: re.sub(r"^([0-9]+)\.0*$", r"\1", text),
    "letter case": str.casefold,
    "zero padding": lambda text: _DIGITS.sub(lambda digits: digits[0].lstrip("0") or "0", text),
}
# These are pointed out also where one side has both: files may well be named 1.png and 01.png.
_ON_ONE_SIDE = ("Unicode form", "blanks", "letter case")
_MISSING = ("", "n/a", "N/A", "nan", "NaN")  # without blanks around
_LIKE_MISSING = ("NA", "<NA>", "#N/A", "null", "NULL", "None")  # names, although other software means none


def is_missing(cell: object) -> bool:
    """Whether a cell of a table stands for no value: it is None, NaN, blank, "n/a", "N/A", "nan" or "NaN".

    All other text is text, also "NA", "null" and "None"; see `warn_of_names`.
    """
    if isinstance(cell, str):
        return cell.strip() in _MISSING
    return pd.api.types.is_scalar(cell) and bool(pd.isna(cell))  # type: ignore[call-overload]


def warn_of_names(names: Iterable[object], source: str) -> None:
    """Give a notice of names that other software writes for missing values.

    Parameters
    ----------
    names, source
        The names, and the table and column that the notice says they are in.
    """
    values = list(names)
    if doubtful := [value for value in values if isinstance(value, str) and value in _LIKE_MISSING]:
        notice = f"{source}: {listed(dict.fromkeys(doubtful), quote=True)} is taken for a name "
        notice += f"({len(doubtful)} of {len(values)} rows); if nothing was meant, write n/a"
        notify(notice)


def natural_key(text: str) -> tuple[Any, ...]:
    """Return a sort key under which ``s2`` comes before ``s10``; only equal texts have equal keys.

    Examples
    --------
    >>> sorted(["s10", "s2", "s1"], key=natural_key)
    ['s1', 's2', 's10']
    """
    parts: list[Any] = _DIGITS.split(text)
    for i in range(1, len(parts), 2):
        digits = parts[i].lstrip("0")
        parts[i] = (len(digits), digits)  # sorts as the number does, however long it is
    return (tuple(parts), text)


def check_ids(ids: Iterable[object], name: str, remedy: str = _UNREPEAT) -> tuple[str, ...]:
    """Return ids as plain strings, if they are unique and not empty.

    Parameters
    ----------
    ids
        Any iterable of strings.
    name
        What the ids belong to, for the message: "stimuli", "RDMs".
    remedy
        What to do about ids that occur more than once.

    Raises
    ------
    NeurordlError
        There are no ids, ``ids`` is a single string, or an id is not text, is blank or occurs twice.
    """
    checked = _strings(ids, name)
    if repeated := _repeated(checked):
        raise NeurordlError(f"the ids of the {name} must be unique, but {_occur(repeated)}; {remedy}")
    return checked


def _strings(ids: Iterable[object], name: str) -> tuple[str, ...]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise NeurordlError(f"the ids of the {name} must be a sequence of strings, but came as {ids!r:.60}")
    values = tuple(ids)
    if not values:
        raise NeurordlError(f"the {name} have no ids: expected at least one, got none")
    for position, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            problem = f"that at position {position} is {value!r:.60} ({type(value).__name__})"
            remedy = "convert numbers with str() (ids are compared exactly: '7' is not '007')"
            raise NeurordlError(f"the ids of the {name} must be non-empty strings, but {problem}; {remedy}")
    return tuple(str(value) for value in values)


def _repeated(ids: Sequence[str]) -> tuple[str, ...]:
    if len(set(ids)) == len(ids):
        return ()
    return tuple(value for value, count in Counter(ids).items() if count > 1)


def _occur(repeated: Sequence[str]) -> str:
    return f"{listed(repeated, quote=True)} {'occurs' if len(repeated) == 1 else 'occur'} more than once"


@dataclass(frozen=True, eq=False)
class Match:
    """Which ids of two sides were matched; ``print`` shows it as a table.

    Attributes
    ----------
    wanted
        The ids that were looked for, in their order.
    index
        (n_matched,) int64, read-only: the position of each matched id among the available ids.
    matched, missing, unused
        Ids on both sides (in the order of ``wanted``), wanted but not available, available but not wanted.
    reordered
        Whether the matched ids have another order on the two sides.
    names
        What the two sides are called.
    duplicated
        Ids that occur twice on a side. Such a match is only printed in an error.
    lacking
        For each subject without measurements of some matched ids, the number of these ids.
    """

    __repr__ = brief

    wanted: tuple[str, ...]
    index: Ints
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reordered: bool
    names: tuple[str, str] = ("stimuli", "RDMs")
    duplicated: tuple[str, ...] = ()
    lacking: Mapping[str, int] = field(default_factory=dict)

    def _cells(self) -> list[tuple[str, str, str]]:
        """What was matched or not, how many ids, and which."""
        wanted, available = self.names
        rows = {
            f"{wanted} matched with {available}": self.matched,
            f"missing (not in the {available})": self.missing,
            f"unused (not in the {wanted})": self.unused,
            "duplicated": self.duplicated,
        }
        cells = [(label, f"{len(ids)}", listed(ids, quote=True)) for label, ids in rows.items()]
        if self.lacking:
            subjects = listed(f"{subject} {count:,}" for subject, count in self.lacking.items())
            cells.append(("subjects without some of them", f"{len(self.lacking)}", subjects))
        return [*cells, ("reordered", "yes" if self.reordered else "no", "")]

    def __str__(self) -> str:
        cells = self._cells()
        width = max(len(label) for label, _, _ in cells)
        return "\n".join(f"{label:<{width}}  {count:>6}  {text}".rstrip() for label, count, text in cells)

    def _repr_html_(self) -> str:
        wanted, available = self.names
        summary = f"Match: {len(self.matched):,} {wanted} matched with {available}"
        left_out = f"{len(self.missing):,} missing, {len(self.unused):,} unused"
        return folded_html(f"{summary}, {left_out}", self._cells(), ("", "number", "ids"))


def match_ids(
    wanted: Iterable[object],
    available: Iterable[object],
    *,
    names: tuple[str, str] = ("stimuli", "RDMs"),
    missing: Literal["error", "ignore"] | None = None,
    remedy: str = "leave them out",
) -> Match:
    """Find each wanted id among the available ones, by exact equality.

    Parameters
    ----------
    wanted, available
        The ids of the two sides. The result has the order of ``wanted``.
    names
        What the two sides are called in messages and in the table.
    missing
        "error": every wanted id must be available. "ignore": ids that are not available are listed in the
        match. None, for callers without such an argument: "error", whose message then does not advise
        "ignore".
    remedy
        What helps if ids are missing, for the message.

    Raises
    ------
    NeurordlError
        An id occurs twice on a side, nothing matches, or an id is missing with ``missing="error"``. The
        message points out ids that differ only in their writing (extension, letter case, zero padding,
        folder, blanks, "1.0" and "1", Unicode form). These are never matched.

    Examples
    --------
    >>> match_ids(["s3", "s1"], ["s1", "s2", "s3"]).index
    array([2, 0])
    """
    check_choice("missing", missing, ("error", "ignore", None))
    left, right = _strings(wanted, names[0]), _strings(available, names[1])
    position = {value: number for number, value in enumerate(right)}
    matched = tuple(value for value in left if value in position)
    index = np.array([position[value] for value in matched], dtype=np.int64)
    index.setflags(write=False)
    known = set(left)
    match = Match(
        wanted=left,
        index=index,
        matched=matched,
        missing=tuple(value for value in left if value not in position),
        unused=tuple(value for value in right if value not in known),
        reordered=bool((np.diff(index) < 0).any()),
        names=names,
        duplicated=tuple(dict.fromkeys(_repeated(left) + _repeated(right))),
    )
    problem = ""
    if match.duplicated:
        remedy = _UNREPEAT
        sides = [name for name, ids in zip(names, (left, right), strict=True) if _repeated(ids)]
        problem = f"ids must be unique to be matched, but {_occur(match.duplicated)} in the "
        problem += " and the ".join(sides)
    elif not matched:
        problem = f"no id of the {names[0]} is among the ids of the {names[1]}"
        remedy = "give both the same ids"
    elif match.missing and missing != "ignore":
        shown = listed(match.missing, quote=True)
        count = f"{len(match.missing)} of {len(left)} ids of the {names[0]}"
        problem = f"{count} are not in the {names[1]}: {shown}"
        remedy += ', or pass missing="ignore"' if missing == "error" else ""
    if problem:
        remedy = remedy if match.duplicated else _cut_off(match) or remedy
        raise NeurordlError(f"{problem}{near_misses(match)}; {remedy}\n{match}")
    return match


def near_misses(match: Match) -> str:
    """Describe unmatched ids that differ only in their writing; an empty text if there are none."""
    plain = {_plain(value): value for value in reversed(match.unused)}
    pairs = [(value, plain[_plain(value)]) for value in match.missing if _plain(value) in plain]
    if not pairs:
        return ""
    return f" ({len(pairs)} differ only by {_ways(*pairs[0], tuple(_DIFFERENCES))})"


def _cut_off(match: Match) -> str:
    """How to cut a suffix off, or to write letters, if that makes ids alike; else an empty text."""
    plain = {_plain(value): value for value in reversed(match.unused)}
    pairs = [(value, plain[_plain(value)]) for value in match.missing if _plain(value) in plain]
    if not pairs:
        return ""
    longer = 0 if len(pairs[0][0]) > len(pairs[0][1]) else 1
    sides = (0, 1) if "RDM" in match.names[0] else (1, 0) if "RDM" in match.names[1] else (longer,)
    for k in sides:  # the ids of RDMs can be written anew in a line
        ending = _EXTENSION.search(pairs[0][k])
        suffix = ending[0] if ending else ""
        known = [*pairs, *((value, value) for value in match.matched)]
        cut = [pair[k].removesuffix(suffix) for pair in known]
        other = [pair[1 - k] for pair in known]
        letters = next((x for x in _LETTERS if [getattr(text, x)() for text in cut] == other), None)
        letters = "" if cut == other else letters
        of_rdms = "RDM" in match.names[k]
        if letters is None or not (suffix or letters) or (letters and not of_rdms):
            continue
        ids = 'rdms.pattern_descriptors["stimulus"]'
        call = (f".removesuffix({suffix!r})" if suffix else "") + (f".{letters}()" if letters else "")
        line = f": {ids} = [id{call} for id in {ids}]" if of_rdms else ""
        step = "write" if letters else f"cut {suffix!r} off"
        return f"{step} the ids of the {match.names[k]}{' like the others' if letters else ''}{line}"
    return ""


def similar_ids(ids: Iterable[object], noun: str = "stimuli") -> str:
    """Describe ids of one side that differ only in letter case, blanks or Unicode form; empty if none do.

    Examples
    --------
    >>> similar_ids(["face", "Face"])
    "1 of 2 ids differs from another only by letter case, such as 'face' and 'Face': they are other stimuli"
    """
    texts = [value for value in ids if isinstance(value, str)]
    firsts: dict[str, str] = {}
    pairs = []
    for text in texts:
        first = firsts.setdefault(_plain(text, _ON_ONE_SIDE), text)
        pairs += [(first, text)] if first != text else []
    if not pairs:
        return ""
    differ = (
        f"{len(pairs)} of {len(texts)} ids {'differs' if len(pairs) == 1 else 'differ'} from another only"
    )
    return f"{differ} by {_ways(*pairs[0], _ON_ONE_SIDE)}: they are other {noun}"


def _ways(value: str, near: str, names: Sequence[str]) -> str:
    """In which ways two texts differ, and the texts."""

    def differ(name: str) -> bool:
        rest = [other for other in names if other != name]
        return _plain(value, rest) != _plain(near, rest)

    ways = " and ".join(filter(differ, names)) or "letter case"
    return f"{ways}, such as {value!r} and {near!r}"


def _plain(text: str, names: Iterable[str] = _DIFFERENCES) -> str:
    """Remove differences in writing that are pointed out."""
    for name in names:
        text = _DIFFERENCES[name](text)
    return text


def other_order(ids: Sequence[str], columns: Mapping[str, Iterable[Any]]) -> str | None:
    """Name of a column with the texts of the ids, up to their writing, in another order; or None."""
    plain = [_plain(value) for value in ids]
    for name, column in columns.items():
        values = [_plain(value) if isinstance(value, str) else "" for value in column]
        if values != plain and sorted(values) == sorted(plain):
            return name
    return None


def id_column(names: Iterable[object]) -> str | None:
    """Return the name of the column of ids: ``id``, else ``stimulus``; None if neither exists."""
    columns = set(names)
    return next((name for name in ("id", "stimulus") if name in columns), None)


def possible_ids(
    columns: Mapping[str, Iterable[Any]], use: str = "rename it to 'stimulus'", noun: str = "ids"
) -> str:
    """Point out a column that could hold the ids, as all its texts differ; an empty text if none does."""
    for name, column in columns.items():
        values = list(column)
        if all(isinstance(value, str) and value for value in values) and len(set(values)) == len(values) > 1:
            return (
                f"; {name!r} has another text for each row: if these are the {noun}, {use.format(name=name)}"
            )
    return ""
