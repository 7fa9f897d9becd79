"""Tables beside images: events, confounds, one row per volume; each found by the entities of BIDS names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids

__all__ = [
    "Table",
    "entities",
    "fmriprep_confounds",
    "matched",
    "read_confounds",
    "read_events",
    "read_tsv",
    "table_name",
]

Table: TypeAlias = str | os.PathLike[str] | pd.DataFrame
_IDENTITY = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run")
_MISSING = ("", "n/a", "N/A", "nan", "NaN")


def entities(path: object) -> dict[str, str]:
    """What a BIDS file name says of the recording: ``sub``, ``ses``, ``task``, ``run`` and so on."""
    name = Path(str(path)).name
    found = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9+]+)(?=[_.])", name))
    return {key: found[key] for key in _IDENTITY if key in found}


def table_name(table: object, number: int) -> str:
    """The file of a table, or the number of what came as a DataFrame."""
    return f"table {number + 1}" if isinstance(table, pd.DataFrame) else str(table)


def matched(images: Sequence[str], tables: Sequence[Table], what: str) -> list[int]:
    """For each image, which table is its own: by BIDS entities where all names have them, else by order.

    Warns
    -----
    UserWarning
        By order, and the names of files do not tell whether it is right.

    Raises
    ------
    NeurordlError
        Another number of tables than of images (without entities), an image without its table, or names that
        contradict the order.
    """
    known = [{} if isinstance(table, pd.DataFrame) else entities(table) for table in tables]
    shared = set.intersection(*(set(found) for found in [*map(entities, images), *known]))
    keys = [key for key in _IDENTITY if key in shared]
    own = ["_".join(f"{key}-{entities(image)[key]}" for key in keys) for image in images]
    if keys and len(set(own)) == len(images):
        theirs = ["_".join(f"{key}-{found[key]}" for key in keys) for found in known]
        places = [int(place) for place in match_ids(own, theirs, names=("images", what)).index]
    elif len(tables) != len(images):
        raise NeurordlError(
            f"{len(images)} images came with {len(tables)} {what}; give one for each image, in the same "
            "order, or BIDS names (run-01, ...) by which they are matched"
        )
    else:
        places = list(range(len(images)))
        _in_order(images, tables, what)
        if not keys:
            _tell_of_names(images, tables, what)
    for image, place in zip(images, places, strict=True):
        told = entities(image)
        if clash := [key for key in told if known[place].get(key, told[key]) != told[key]]:
            raise NeurordlError(
                f"{image} would go with the {what} {tables[place]}, which are of another {clash[0]}; give "
                "them in the order of the images, or names that all have the same entities (sub-, ses-, run-)"
            )
    return places


def _in_order(images: Sequence[str], tables: Sequence[Table], what: str) -> None:
    """Refuse files that are numbered alike and come in two orders (run10 sorts before run2)."""
    sides = [
        [] if isinstance(name, pd.DataFrame) else re.findall("[0-9]+", Path(str(name)).name.split(".")[0])
        for name in [*images, *tables]
    ]
    numbers = [int(found[-1]) if found else None for found in sides]
    one, other = numbers[: len(images)], numbers[len(images) :]
    if None in one or len(set(one)) < len(one) or set(one) != set(other) or one == other:
        return
    k = next(k for k in range(len(one)) if one[k] != other[k])
    raise NeurordlError(
        f"the images and the {what} are numbered alike but come in different orders: {images[k]} would go "
        f"with {tables[k]}; give both in one order, or BIDS names (run-01, ...) by which they are matched"
    )


def _tell_of_names(images: Sequence[str], tables: Sequence[Table], what: str) -> None:
    """Warn of files that nothing but their order pairs: no name shares with its own what others lack."""
    files = [str(table) for table in tables if not isinstance(table, pd.DataFrame)]
    if len(images) < 2 or len(files) < len(tables) or len(set(images)) < len(images):  # in memory
        return
    if not all(map(set.intersection, _own_words(images), _own_words(files))):
        warnings.warn(
            f"names do not tell which {what} belong to which image; they were paired in the order given: "
            f"{Path(images[0]).name} with {Path(files[0]).name}, and so on",
            UserWarning,
            stacklevel=5,
        )


def _own_words(names: Sequence[str]) -> list[set[str]]:
    """Words and numbers of each name that not all names have."""
    found = [
        {word.lstrip("0") for word in re.findall("[a-z]+|[0-9]+", Path(name).name.lower())} for name in names
    ]
    return [words - set.intersection(*found) for words in found]


def read_tsv(table: Table, name: str) -> pd.DataFrame:
    """A TSV or CSV file (by its suffix) as text, or a copy of a DataFrame; ``n/a`` is missing."""
    if isinstance(table, pd.DataFrame):
        if not table.columns.is_unique:
            twice = table.columns[table.columns.duplicated()][0]
            raise NeurordlError(f"{name} has two columns {twice!r}; leave one")
        return table.copy()
    if not isinstance(table, str | os.PathLike):
        raise NeurordlError(f"{name} is a {type(table).__name__}; expected a TSV or CSV file or a DataFrame")
    path = Path(table)
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        frame = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise NeurordlError(f"cannot read {name}: {error}; expected TSV or CSV text in UTF-8") from error
    return frame.mask(frame.isin(_MISSING))


def read_events(table: Table, name: str, condition: str, length: float) -> pd.DataFrame:
    """Events of a run in time order: onset and duration in seconds, and the condition's name.

    Parameters
    ----------
    table, name
        BIDS ``events.tsv`` or a DataFrame, and what to call it.
    condition
        The column with the names of the stimuli or conditions; rows without one are left out.
    length
        Of the run, in seconds.

    Raises
    ------
    NeurordlError
        A column is missing or holds text, no event is left, or an event lies outside the run.
    """
    frame = read_tsv(table, name)
    if absent := [column for column in ("onset", "duration", condition) if column not in frame]:
        raise NeurordlError(
            f"{name} has no column {absent[0]!r}, but {', '.join(map(str, frame.columns)) or 'none'}; BIDS "
            "events have onset, duration and trial_type (condition= names another column)"
        )
    frame = frame.reset_index(drop=True)
    frame = frame[frame[condition].notna()]
    if frame.empty:
        raise NeurordlError(f"{name} has no event with a {condition}")
    found = pd.DataFrame({"condition": frame[condition].map(_text)})
    for column in ("onset", "duration"):
        found[column] = pd.to_numeric(frame[column], errors="coerce")
        if not np.isfinite(found[column]).all():
            raise NeurordlError(
                f"{name}: {column} is not a number in row {found.index[~np.isfinite(found[column])][0] + 1} "
                f"(from 1, below the header)"
            )
    onset, duration = found["onset"], found["duration"]
    # the last event may end a little after the scanner stopped
    outside = (onset < 0) | (onset >= length) | (duration < 0) | (onset + duration / 2 > length)
    if outside.any():
        row = found[outside].iloc[0]
        raise NeurordlError(
            f"{name}: the event {row['condition']!r} from {row['onset']:g} s to "
            f"{row['onset'] + row['duration']:g} s lies outside the run, which lasts {length:g} s "
            f"({int(outside.sum())} such events); onsets and durations are in seconds; check that events and "
            "image belong together, and t_r, or leave these rows out"
        )
    return found.sort_values("onset", kind="stable", ignore_index=True)


def _text(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def read_confounds(table: Table, name: str, columns: Sequence[str] | None, volumes: int) -> pd.DataFrame:
    """Regressors of no interest, (volumes, columns).

    A missing value in the first volume (the derivatives of fMRIPrep have none) becomes 0.

    Raises
    ------
    NeurordlError
        A column is missing, not numbers, or the rows are not as many as the volumes.
    """
    frame = read_tsv(table, name)
    wanted = (
        list(frame.columns) if columns is None else [columns] if isinstance(columns, str) else list(columns)
    )
    if absent := [column for column in wanted if column not in frame]:
        raise NeurordlError(f"{name} has no column {absent[0]!r}, but {', '.join(map(str, frame.columns))}")
    found: pd.DataFrame = frame[wanted].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if len(found) != volumes:
        raise NeurordlError(f"{name} has {len(found)} rows, and its image {volumes} volumes")
    found.iloc[:1] = found.iloc[:1].fillna(0.0)
    if not np.isfinite(found.to_numpy()).all():
        bad = found.columns[~np.isfinite(found.to_numpy()).all(axis=0)]
        raise NeurordlError(f"{name}: the column {bad[0]!r} has values that are missing or no numbers")
    clean: pd.DataFrame = found.reset_index(drop=True)
    return clean


def fmriprep_confounds(
    name: str, strategy: Sequence[str], volumes: int
) -> tuple[pd.DataFrame, npt.NDArray[np.int64] | None]:
    """Confounds that fMRIPrep wrote beside an image, and the volumes that are kept."""
    from nilearn.interfaces.fmriprep import load_confounds

    try:
        confounds, kept = load_confounds(
            name, strategy=[strategy] if isinstance(strategy, str) else list(strategy)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NeurordlError(f"no confounds of fMRIPrep for {name}: {error}") from error
    if len(confounds) != volumes:
        raise NeurordlError(
            f"fMRIPrep's confounds of {name} have {len(confounds)} rows, and the image {volumes} volumes"
        )
    return confounds.reset_index(drop=True), None if kept is None else np.asarray(kept, dtype=np.int64)
