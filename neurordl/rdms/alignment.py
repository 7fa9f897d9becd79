"""RDMs, patterns, stimuli and tables of the same stimuli, brought into one order by id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import Match, match_ids, near_misses
from neurordl.rdms.selection import reindex, stimulus_ids, take_rows
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import read_table

__all__ = ["Alignment", "align"]

Alignable = RDMs | DatasetBase | StimulusSet | pd.DataFrame | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Alignment(Mapping[str, Any]):
    """Things of the same stimuli in the same order, by name; ``print`` shows what was matched with what.

    Attributes
    ----------
    ids
        The stimuli, in the order of the first thing.
    things
        The aligned copies, under the names they were given.
    matches
        For each thing but the first, how the first one's ids were found in it; see `Match`.
    repeats
        Patterns with several rows of a stimulus, and how many stimuli those are.
    """

    ids: tuple[str, ...]
    things: dict[str, Any]
    matches: dict[str, Match]
    repeats: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        """An aligned thing by its name."""
        return self.things[name]

    def __iter__(self) -> Any:
        """The names, in the order given."""
        return iter(self.things)

    def __len__(self) -> int:
        return len(self.things)

    def __str__(self) -> str:
        return _table(self.matches, self.repeats, next(iter(self.things)), len(self.ids))


def align(
    things: Mapping[str, Alignable] | None = None,
    /,
    *,
    missing: Literal["error", "ignore"] = "error",
    **named: Alignable,
) -> Alignment:
    """Bring RDMs, patterns, stimuli and tables together by stimulus id.

    Parameters
    ----------
    things, named
        Two or more, by names of your choice: RDMs (pattern descriptor ``stimulus``), a Dataset (observation
        descriptor ``stimulus``; all rows of a stimulus are kept, in their order), a StimulusSet, a table (a
        DataFrame or a CSV or TSV file with a column ``id`` or ``stimulus``; in a DataFrame it may be the
        index). The first one gives the order, and says which stimuli are wanted: what others have beyond is
        left out.
    missing
        "error": every stimulus of the first must be in all others. "ignore": those that are in all are kept.

    Returns
    -------
    Alignment
        A mapping from name to aligned copy; ``print`` it to see how many were matched, missing, unused and
        reordered.

    Raises
    ------
    NeurordlError
        Fewer than two things, a thing without ids, an id that occurs twice, or stimuli that are missing. Ids
        that differ only in how they are written (see `match_ids`) are pointed out, never matched.

    Examples
    --------
    >>> aligned = align(stimuli=stimuli, rdms=rdms, labels="labels.csv")  # doctest: +SKIP
    >>> print(aligned)  # doctest: +SKIP
    >>> aligned["rdms"]  # doctest: +SKIP
    """
    given = {**(things or {}), **named}
    if len(given) < 2:
        raise NeurordlError(
            "align takes two or more things by name, as in align(stimuli=stimuli, rdms=rdms), and got "
            f"{', '.join(given) or 'none'}"
        )
    if missing not in ("error", "ignore"):
        raise NeurordlError(f'missing must be "error" or "ignore", but is {missing!r}')
    opened = {name: _opened(thing, name) for name, thing in given.items()}
    ids = {name: _ids(thing, name) for name, thing in opened.items()}
    repeats = {
        name: sum(count > 1 for count in Counter(own).values())
        for name, own in ids.items()
        if isinstance(opened[name], DatasetBase)
    }
    unique = {name: tuple(dict.fromkeys(own)) if name in repeats else own for name, own in ids.items()}
    first, *others = given
    matches: dict[str, Match] = {}
    problems = []
    for name in others:
        try:
            matches[name] = match_ids(unique[first], unique[name], names=(first, name), missing=missing)
        except NeurordlError as error:
            problems.append(str(error))
    if problems:
        raise NeurordlError("\n\n".join(problems))
    lacking = {stimulus for match in matches.values() for stimulus in match.missing}
    kept = tuple(stimulus for stimulus in unique[first] if stimulus not in lacking)
    if not kept:
        raise NeurordlError(f"no stimulus is in all of {', '.join(given)}; align fewer of them")
    done = {name: _taken(thing, ids[name], kept) for name, thing in opened.items()}
    return Alignment(kept, done, matches, {name: count for name, count in repeats.items() if count})


def _opened(thing: Any, name: str) -> Any:
    if isinstance(thing, RDMs | DatasetBase | StimulusSet):
        return thing
    if isinstance(thing, pd.DataFrame | str | os.PathLike):
        return read_table(thing, "id")
    raise NeurordlError(
        f"{name} is {type(thing).__name__}; align takes rsatoolbox RDMs and Datasets, StimulusSets, "
        "DataFrames, and names of CSV or TSV files (load_rdms reads RDM files)"
    )


def _ids(thing: Any, name: str) -> tuple[str, ...]:
    if isinstance(thing, StimulusSet):
        return thing.ids
    if isinstance(thing, pd.DataFrame):
        return tuple(thing.index)
    if isinstance(thing, RDMs):
        return stimulus_ids(thing)
    if "stimulus" not in thing.obs_descriptors:
        known = ", ".join(map(str, thing.obs_descriptors)) or "none"
        raise NeurordlError(
            f"the patterns {name} lack the observation descriptor 'stimulus' (they have {known}); set "
            "obs_descriptors['stimulus'] to the id of each row"
        )
    given = thing.obs_descriptors["stimulus"]
    # a list is not made an array, which would turn a missing name among texts into the text 'nan'
    return tuple(one.decode() if isinstance(one, bytes) else one for one in given)


def _taken(thing: Any, own: Sequence[str], ids: Sequence[str]) -> Any:
    """A copy with these stimuli, in this order."""
    if isinstance(thing, StimulusSet):
        return thing.subset(ids)
    if isinstance(thing, RDMs):
        place = match_ids(ids, own).index
        vectors = reindex(thing, ids).astype(np.asarray(thing.dissimilarities).dtype, copy=False)
        return RDMs(
            vectors,
            dissimilarity_measure=thing.dissimilarity_measure,
            descriptors=dict(thing.descriptors),
            rdm_descriptors={k: list(v) for k, v in thing.rdm_descriptors.items() if k != "index"},
            pattern_descriptors={
                k: [list(v)[i] for i in place] for k, v in thing.pattern_descriptors.items() if k != "index"
            },
        )
    if isinstance(thing, pd.DataFrame):
        return thing.loc[list(ids)]
    rows: dict[str, list[int]] = {}
    for row, stimulus in enumerate(own):
        rows.setdefault(stimulus, []).append(row)
    order = [row for stimulus in ids for row in rows[stimulus]]
    return take_rows(thing, order)


def _table(matches: Mapping[str, Match], repeats: Mapping[str, int], first: str, kept: int) -> str:
    """A row for each thing, as wide as its names are long."""
    wanted = len(next(iter(matches.values())).wanted)
    head = ("", "matched", "missing", "unused", "repeated", "reordered")
    rows: list[tuple[str, ...]] = [(first, str(wanted), "0", "0", str(repeats.get(first, 0)), "")]
    for name, match in matches.items():
        counts = (len(match.matched), len(match.missing), len(match.unused), repeats.get(name, 0))
        rows.append((name, *map(str, counts), "yes" if match.reordered else "no"))
    width = max(len(row[0]) for row in rows)
    lines = [
        "  ".join([row[0].ljust(width), *(cell.rjust(9) for cell in row[1:])]).rstrip()
        for row in [head, *rows]
    ]
    lines.append(f"{kept} of {wanted} stimuli of {first} are in all, in its order")
    for name, match in matches.items():
        for what, ids in (("missing in", match.missing), ("unused in", match.unused)):
            if ids:
                shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
                near = near_misses(match) if what == "missing in" else ""
                lines.append(f"{what} {name}: {shown}{near}")
    return "\n".join(lines)
