"""Tables beside images: events, confounds, and one row per volume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import is_missing, warn_of_names
from neurordl.io import read_frame
from neurordl.patterns.models import RESPONSE
from neurordl.validate import brief, check_columns, listed

Table: TypeAlias = str | os.PathLike[str] | pd.DataFrame
_ROUNDED = 0.01  # seconds, of onsets and durations
_TABLES = (str, os.PathLike, pd.DataFrame)


def as_list(values: Any, single: tuple[type, ...] = _TABLES, name: str = "tables") -> list[Any]:
    """Return one value or several values as a list; ``single`` are the types of one value."""
    if isinstance(values, single):
        return [values]
    if not isinstance(values, Iterable):
        raise NeurordlError(f"{name}= is {values!r:.60}; expected one or several values of its type")
    return list(values)


def table_name(table: object, number: int) -> str:
    """Return the file of a table, or the number of a DataFrame."""
    return f"DataFrame {number + 1}" if isinstance(table, pd.DataFrame) else str(table)


def read_table(table: Table, name: str) -> pd.DataFrame:
    """Read a TSV or CSV file as text, or copy a DataFrame.

    Missing values are those of the DataFrame, and in both cells that are blank, "n/a", "N/A", "nan" or "NaN".
    All other text is text, also "NA", "null" and "None".

    Raises
    ------
    NeurordlError
        The file cannot be read, or two columns have the same name.
    """
    if not isinstance(table, _TABLES):
        raise NeurordlError(f"{name} is a {type(table).__name__}; expected a TSV or CSV file or a DataFrame")
    if not isinstance(table, pd.DataFrame):
        table = read_frame(table)
    if repeated := table.columns[table.columns.duplicated()].tolist():
        raise NeurordlError(f"{name} has two columns {repeated[0]!r}; leave one")
    return table.mask(table.map(is_missing))


def read_events(
    table: Table, name: str, condition: str, length: float
) -> tuple[pd.DataFrame, pd.Series[bool]]:
    """Read the events of a run in time order, and which rows of the table have no name.

    Events have the columns ``condition``, ``onset`` and ``duration`` in seconds.

    Parameters
    ----------
    table, name
        BIDS ``events.tsv`` or a DataFrame, and what messages call it.
    condition
        The column with the names of the stimuli or conditions. Rows without a name (see `read_table`) are
        left out.
    length
        Length of the run in seconds. Events may begin before the run, as in BIDS, if their response reaches
        it.

    Warns
    -----
    UserWarning
        Rows have a name that other software writes for none; or a condition has two events at once, or one
        that begins before another has ended.

    Raises
    ------
    NeurordlError
        A column is missing or holds text, no event is left, an event lies outside the run, or a row is
        repeated.
    """
    frame = read_table(table, name)
    remedy = "BIDS events have onset, duration and trial_type (condition= names another column)"
    check_columns(name, frame, ("onset", "duration", condition), remedy)
    frame = frame.reset_index(drop=True)
    unnamed = frame[condition].isna()
    if unnamed.all():
        raise NeurordlError(f"{name} has no event with a {condition}; condition= names another column")
    frame = frame[~unnamed]
    warn_of_names(frame[condition], f"{name}, column {condition!r}")
    events = pd.DataFrame({"condition": frame[condition].map(name_of)})
    for column in ("onset", "duration"):
        events[column] = pd.to_numeric(frame[column], errors="coerce")
        if not (finite := np.isfinite(events[column])).all():
            row = events.index[~finite][0] + 1
            raise NeurordlError(f"{name}: {column} is not a number in row {row}; fill in a number of seconds")
    onset, duration = events["onset"], events["duration"]
    # the last event may end a little after the scanner stopped, and a response begin before it started
    outside = (onset + duration <= -RESPONSE) | (onset >= length) | (duration < 0)
    outside |= onset + duration / 2 > length
    if outside.any():
        stimulus, start, seconds = events[outside].iloc[0]
        problem = f"{outside.sum()} of {len(events)} events lie outside the run, which lasts {length:g} s"
        first = f"{stimulus!r} from {start:g} s to {start + seconds:g} s"
        raise NeurordlError(f"{name}: {problem}, such as {first}; check that times are in seconds, and t_r")
    _check_repeated(events, frame, name)
    events = events.sort_values("onset", kind="stable", ignore_index=True)
    _warn_of_overlaps(events, name)
    return events, unnamed


def warn_of_unnamed(unnamed: Sequence[tuple[str, pd.Series[bool]]], condition: str) -> None:
    """Give one notice of the rows of all runs that have no name; each run has its table and its rows."""
    runs = [(name, rows) for name, rows in unnamed if rows.any()]
    if not runs:
        return
    n_unnamed, n_rows = (sum(map(count, (rows for _, rows in unnamed))) for count in (sum, len))
    (name, rows), where, example = runs[0], runs[0][0], ""
    if len(unnamed) > 1:
        where, example = f"{len(runs)} of {len(unnamed)} runs", f" of {name}"
    which = f"{'such as ' if example else ''}rows {listed(rows.index[rows] + 1)}{example}"
    notify(
        f"{where}: {n_unnamed} of {n_rows} events have no {condition} (blank or n/a) and are not modeled, "
        f"{which} (from 1, below the header); give them a name to model them, and leave_out= it if you need "
        "no pattern"
    )


def _warn_of_overlaps(events: pd.DataFrame, name: str) -> None:
    """Give a notice of events that begin before an earlier one of the same condition has ended."""
    ends = events["onset"] + events["duration"]
    before = ends.groupby(events["condition"]).transform(lambda times: times.cummax().shift())
    same = events.duplicated(["condition", "onset"])  # has its own notice
    overlapping = events[(before - events["onset"] > _ROUNDED) & ~same]
    if len(overlapping):
        row = overlapping.index[0]
        event = f"{events['condition'][row]!r} at {events['onset'][row]:g} s, until {before[row]:g} s"
        notify(
            f"{name}: {len(overlapping)} of {len(events)} events begin before an earlier one of the same "
            f"condition has ended, such as {event}: a GLM adds their responses; check the durations"
        )


def _check_repeated(events: pd.DataFrame, frame: pd.DataFrame, name: str) -> None:
    """Refuse rows that are listed twice; a notice of those that have the same name and time only."""
    for rows, exact in ((frame.astype(str), True), (events[["condition", "onset"]], False)):
        if (again := rows.index[rows.duplicated()]).size:
            first = rows.index[(rows == rows.loc[again[0]]).all(axis=1)][0]
            event = f"the event {events['condition'][first]!r} at {events['onset'][first]:g} s"
            notice = (
                f"{name}: rows {first + 1} and {again[0] + 1} (from 1, below the header) both are {event}"
            )
            if exact:
                raise NeurordlError(f"{notice} ({len(again)} such); leave one of each")
            notify(f"{notice}, which is modeled twice ({len(again)} such)")


def name_of(value: object) -> str:
    """Return a name as text; numbers that are whole have no fraction."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Confounds:
    """Regressors of no interest for the GLM of each run.

    Attributes
    ----------
    tables
        Confounds of each run: a TSV or CSV file with one row per volume.

        A table can also be a DataFrame. A missing value in the first volume, as in the derivatives of
        fMRIPrep, becomes 0.
    columns
        Columns of the confounds to use. By default all that hold a value are used.
    fmriprep
        Strategies of nilearn's ``load_confounds``, such as "motion", "wm_csf" or "scrub". The confounds are
        read from the files that fMRIPrep writes beside each image. Volumes that a strategy excludes are left
        out of the GLM.

    Raises
    ------
    NeurordlError
        ``columns`` without ``tables``.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Confounds(fmriprep=["motion", "wm_csf"]).fmriprep
    ['motion', 'wm_csf']
    """

    __repr__ = brief

    tables: Table | Sequence[Table] | None = None
    columns: str | Sequence[str] | None = None
    fmriprep: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.columns is not None and self.tables is None:
            raise NeurordlError("columns= needs tables=, whose columns it chooses")
        for name, single in (("tables", _TABLES), ("columns", (str,)), ("fmriprep", (str,))):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_list(values, single, name))

    def read(
        self, image: str, n_volumes: int, position: int | None = None
    ) -> tuple[pd.DataFrame | None, Ints | None]:
        """Read the confounds of one run.

        Parameters
        ----------
        image, n_volumes
            File of the image, and the number of its volumes.
        position
            Position of the run's table in ``tables``; None reads none.

        Returns
        -------
        (DataFrame or None, array or None)
            Regressors (volumes, columns), and the volumes to keep; None stands for no regressors, and for all
            volumes.

        Raises
        ------
        NeurordlError
            A column is missing or does not hold numbers, or there is not one row for each volume.
        """
        from nilearn.interfaces.fmriprep import load_confounds

        frames, kept = [], None
        if self.fmriprep is not None:
            remedy = "images need the names that fMRIPrep gives them, and its confounds in the same folder"
            with explain(f"cannot load fMRIPrep's confounds of {image}", remedy=remedy):
                frame, kept = load_confounds(image, strategy=list(self.fmriprep))
            frames.append(frame.reset_index(drop=True))
        if position is not None:
            table = as_list(self.tables)[position]
            name = table_name(table, position)
            frame = read_table(table, name)
            if self.columns is not None:
                check_columns(name, frame, self.columns)
                frame = frame[self.columns]
            if (empty := frame.columns[frame.isna().all()].tolist()) and self.columns is None:
                notice = f"{name}: {len(empty)} of {frame.shape[1]} confounds hold no value and are left out"
                notify(f"{notice}: {listed(empty)}")
                frame = frame.drop(columns=empty)
            elif empty:
                raise NeurordlError(
                    f"{name}: the confound {empty[0]!r} holds no value; take it out of columns="
                )
            frame = frame.apply(pd.to_numeric, errors="coerce").astype(np.float64)
            frame.iloc[:1] = frame.iloc[:1].fillna(0.0)
            if not (finite := np.isfinite(frame.to_numpy()).all(axis=0)).all():
                column = frame.columns[~finite][0]
                raise NeurordlError(f"{name}: values in column {column!r} are missing or not numbers")
            frames.append(frame.reset_index(drop=True))
        for frame in frames:
            if len(frame) != n_volumes:
                counts = f"{len(frame)} rows for {n_volumes} volumes"
                raise NeurordlError(f"confounds of {image} have {counts}; they need a row for each volume")
        return (pd.concat(frames, axis=1) if frames else None), None if kept is None else np.asarray(kept)
