"""Choose RDMs by their descriptors, merge them, and bring data into one order by stimulus id."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.arrays import Floats, Ints, is_dataset, is_rdms, nan_mean
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import Match, check_ids, match_ids, natural_key, near_misses, possible_ids
from neurordl.io import differing, sha256_array, sha256_json
from neurordl.measures.condensed import pair_number
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import read_table
from neurordl.validate import brief, check_choice, counted, folded_html, listed

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase
    from rsatoolbox.rdm.rdms import RDMs

PROVENANCE = "provenance"
"""Descriptor of RDMs and patterns: how they were made, in JSON."""
_TEXT = 60_000  # an HDF5 attribute holds 64 kB

AVERAGED = "averaged_subjects"
"""RDM descriptor of a mean over subjects: their names, a list in JSON."""


def select_rdms(
    rdms: RDMs,
    *,
    roi: str | None = None,
    subjects: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    average: str | Sequence[str] | None = None,
) -> RDMs:
    """Choose RDMs by their descriptors, and average them over descriptors.

    Parameters
    ----------
    rdms
        RDMs with the RDM descriptor ``subject``, and where it applies ``roi``, ``session``, ``time`` or
        others.
    roi, subjects
        Values of the descriptors ``roi`` and ``subject`` to keep; None keeps all.
    select
        Further descriptors, each with the value or the values to keep: ``{"session": 1}``. A tuple (low,
        high) of a descriptor of decimal numbers, such as ``time``, keeps all from low to high, both included:
        ``{"time": (0.08, 0.12)}``; a list keeps its values.
    average
        RDM descriptors to average over, such as "session": RDMs that differ in nothing else are replaced by
        their mean.

        A pair that was not measured in all of these RDMs is averaged over those in which it was. A mean over
        "subject" has the names of the subjects in the descriptor ``averaged_subjects``, a list in JSON, so
        that a run that it taught knows them. If you average RDMs yourself, write this descriptor too.

    Returns
    -------
    RDMs
        A copy, in the order of ``rdms``, without the descriptors that were averaged over.

    Raises
    ------
    NeurordlError
        The RDMs have no such descriptor, or no such value (the message lists those they have).

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.rdm import RDMs
    >>> import neurordl as nrl
    >>> rdms = RDMs(np.ones((4, 3)), rdm_descriptors={"subject": list("aabb"), "session": [1, 2, 1, 2]})
    >>> len(nrl.select_rdms(rdms, subjects="a")), len(nrl.select_rdms(rdms, average="session"))
    (2, 2)
    """
    _check_rdms(rdms)
    wanted = dict(select or {})
    for name, value in (("roi", roi), ("subject", subjects)):
        if value is not None and name in wanted:
            raise NeurordlError(f"{name!r} is chosen twice, also in select=; choose it once")
        if value is not None:
            wanted[name] = value
    chosen = _choose(rdms, wanted)
    vectors = np.asarray(rdms.dissimilarities)[chosen]
    described = rows_of_descriptors(rdms.rdm_descriptors, chosen)
    described.pop("index", None)
    if average is not None:
        vectors, described = _average(vectors, described, (average,) if isinstance(average, str) else average)
    return _like(rdms, vectors, described)


def check_one_per_subject(rdms: RDMs) -> RDMs:
    """Return RDMs if they hold one per subject; sessions, ROIs and time points are never subjects.

    Raises
    ------
    NeurordlError
        Several RDMs of one subject (the message names the descriptors in which they differ), several RDMs
        without a ``subject``, or a subject without a single measured pair.
    """
    _check_rdms(rdms)
    subjects = subject_names(rdms)
    groups = _rows_of(subjects)
    several = {subject: rows for subject, rows in groups.items() if len(rows) > 1}
    if several:
        differing: dict[str, str] = {}
        for name in rdms.rdm_descriptors:
            texts = descriptor_values(rdms, name)
            varies = any(len({texts[row] for row in rows}) > 1 for rows in several.values())
            if varies and name not in ("index", "subject"):
                differing[name] = ", ".join(dict.fromkeys(texts))
        values = ", ".join(f"{name!r} ({values})" for name, values in differing.items())
        remedy = f"they differ in {values}: use nrl.select_rdms with select= or average="
        remedy += ", or choose a ROI with roi=" if "roi" in differing else ""
        if "subject" not in rdms.rdm_descriptors:
            problem = f"the {len(subjects)} RDMs have no descriptor 'subject', so that subjects are unknown"
            advice = f". Or, if they are one subject's, {remedy}" if differing else ""
            remedy = 'set rdms.rdm_descriptors["subject"] to their list (in the shell --each-a-subject'
            remedy += ", or --subjects-from with a file of their names)"
            raise NeurordlError(f"{problem}; {remedy}{advice}")
        if not differing:
            remedy = "they have the same descriptors: drop the repeats, or add a descriptor such as 'session'"
        subject, rows = next(iter(several.items()))
        counts = f"{len(rows)} ({len(several)} of {len(groups)} subjects have several)"
        raise NeurordlError(f"expected one RDM per subject, but subject {subject!r} has {counts}; {remedy}")
    unmeasured = ~np.isfinite(rdms.dissimilarities).any(axis=1)
    if unmeasured.any():
        names = ", ".join(np.array(subjects)[unmeasured])
        problem = f"the RDM of subject {names} has no measured pair (NaN everywhere)"
        raise NeurordlError(f"{problem}; leave it out with subjects=")
    return rdms


def rdms_html(rdms: RDMs) -> str:
    """RDMs in a notebook, which shows them so after ``import neurordl``: how many, and of what."""
    values = rdms.dissimilarities
    finite = values[np.isfinite(values)]
    rows = [["dissimilarity", rdms.dissimilarity_measure or "not known"]]
    rows.append(["values", f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "none"])
    if missing := values.size - finite.size:
        rows.append(["missing pairs", f"{missing:,} of {values.size:,}"])
    for owner, named in (("RDM", rdms.rdm_descriptors), ("stimulus", rdms.pattern_descriptors)):
        for name in sorted(set(named) - {"index"}, key=lambda name: name != "stimulus"):
            distinct = dict.fromkeys(map(str, named[name]))
            count = f"{len(distinct):,}: " if len(distinct) > 1 else ""
            rows.append([f"{name} of each {owner}" if name != owner else "stimuli", count + listed(distinct)])
    rows += [[name, f"{value!s:.200}"] for name, value in rdms.descriptors.items()]
    return folded_html(f"{counted(rdms.n_rdm, 'RDM')} of {counted(rdms.n_cond, 'stimulus')}", rows)


def rdms_by_place(
    rdms: RDMs, roi: str | Sequence[str] | None, subjects: str | Sequence[str] | None
) -> dict[str, tuple[RDMs, str, float]]:
    """One RDM per subject for each ROI and time, by its label: RDMs, ROI, and time (NaN without times)."""
    places: dict[str, tuple[RDMs, str, float]] = {}
    for name, part in _of_rois(rdms, roi, subjects):
        if "time" not in part.rdm_descriptors:
            places[name] = check_one_per_subject(part), name, np.nan
            continue
        rows = _rows_of(times_of_rdms(part).tolist())
        vectors, people = np.asarray(part.dissimilarities), len(set(subject_names(part)))
        if few := [time for time in rows if len(rows[time]) < people]:
            at = listed(f"{time:.9g} s" for time in sorted(few))
            notify(f"{len(few)} of {len(rows)} times are not those of all {people} subjects: {at}")
        for time in sorted(rows):
            label = ", ".join(filter(None, [name, f"{time:.9g} s"]))
            described = rows_of_descriptors(part.rdm_descriptors, rows[time])
            with explain(f"the RDMs at {label}", NeurordlError):
                chosen = check_one_per_subject(_like(part, vectors[rows[time]], described))
            places[label] = chosen, name, time
    return places


def times_of_rdms(rdms: RDMs) -> Floats:
    """The time of each RDM, its descriptor ``time``, as numbers in seconds.

    Raises
    ------
    NeurordlError
        A time is not a number.
    """
    with explain("the RDM descriptor 'time' holds other values than numbers, in seconds"):
        times = np.asarray(rdms.rdm_descriptors["time"], dtype=np.float64)
    if not np.isfinite(times).all():
        raise NeurordlError(
            "the RDM descriptor 'time' holds NaN or infinity; give each RDM a time in seconds"
        )
    return times


def _of_rois(
    rdms: RDMs, roi: str | Sequence[str] | None, subjects: str | Sequence[str] | None
) -> list[tuple[str, RDMs]]:
    """RDMs of these subjects in each ROI, with its name."""
    chosen = select_rdms(rdms, subjects=subjects)
    if roi is None and "roi" not in rdms.rdm_descriptors:
        return [("", chosen)]
    names = [roi] if isinstance(roi, str) else list(roi or dict.fromkeys(descriptor_values(chosen, "roi")))
    return [(name, select_rdms(chosen, roi=name)) for name in names]


def rows_of_descriptors(descriptors: Mapping[str, Any], rows: Iterable[int]) -> dict[str, list[Any]]:
    """Values of some rows of descriptors by position: a Series of a table would be read by its index."""
    places = list(rows)
    return {
        name: [values[k] for k in places]
        for name, values in zip(descriptors, map(list, descriptors.values()), strict=True)
    }


def rdm_of_row(rdms: RDMs, row: int) -> RDMs:
    """The RDM of a row as RDMs; rsatoolbox reads a descriptor that is a Series by its index."""
    return _like(
        rdms, np.asarray(rdms.dissimilarities)[[row]], rows_of_descriptors(rdms.rdm_descriptors, [row])
    )


def descriptor_values(rdms: RDMs, name: str) -> list[str]:
    """The value of an RDM descriptor for each RDM, as text (whole numbers without a point).

    Raises
    ------
    NeurordlError
        The RDMs have no such descriptor; the message lists those they have.
    """
    if name not in rdms.rdm_descriptors:
        known = ", ".join(sorted({*rdms.rdm_descriptors} - {"index"})) or "none"
        raise NeurordlError(f"the RDMs have no descriptor {name!r}; their RDM descriptors are: {known}")
    return _as_texts(list(rdms.rdm_descriptors[name]))


def subject_names(rdms: RDMs) -> tuple[str, ...]:
    """Name of each RDM's subject; ``unnamed`` where the RDMs have no descriptor ``subject``."""
    if "subject" not in rdms.rdm_descriptors:
        return ("unnamed",) * int(rdms.n_rdm)
    return tuple(descriptor_values(rdms, "subject"))


def averaged_subjects(rdms: RDMs) -> list[tuple[str, ...]]:
    """For each RDM, the subjects it is the mean of, by the descriptor of `select_rdms`; () without it."""
    if AVERAGED not in rdms.rdm_descriptors:
        return [()] * int(rdms.n_rdm)
    return [_names_in(text) for text in descriptor_values(rdms, AVERAGED)]


def _names_in(text: str) -> tuple[str, ...]:
    """Names in a list in JSON, or, as earlier versions wrote them, separated by commas."""
    if not text.startswith("["):
        return tuple(text.split(", ")) if text else ()
    with explain(f"the descriptor {AVERAGED} is no list in JSON: {text!r:.60}", ValueError):
        return tuple(map(str, json.loads(text)))


def stimulus_ids(rdms: RDMs) -> tuple[str, ...]:
    """Ids of the stimuli, from the pattern descriptor ``stimulus``, in the order of rows.

    Raises
    ------
    NeurordlError
        The descriptor is absent, or holds something other than unique, non-empty text.
    """
    _check_rdms(rdms)
    values = rdms.pattern_descriptors.get("stimulus")
    if values is None:
        problem = f"the RDMs ({rdms.n_cond} stimuli) have no stimulus ids, and are not matched by position"
        remedy = 'set rdms.pattern_descriptors["stimulus"] to the list of ids in the order of the rows'
        raise NeurordlError(f"{problem}; {remedy}{possible_ids(rdms.pattern_descriptors)}")
    return check_ids((v.decode() if isinstance(v, bytes) else v for v in values), "RDMs")


def sha256_rdms(rdms: RDMs) -> str:
    """SHA-256 of RDMs with their stimulus ids, subjects, ROIs, sessions and times, in hexadecimal.

    It is the same for any order of the stimuli and of the RDMs, and for float32 and float64.
    """
    available = stimulus_ids(rdms)
    ids = sorted(available, key=natural_key)
    named = [name for name in ("subject", "roi", "session", "time") if name in rdms.rdm_descriptors]
    names = [descriptor_values(rdms, name) for name in named]
    rows = []
    for k, vector in enumerate(np.asarray(rdms.dissimilarities)):  # one by one: a copy of all may not fit
        values = _reordered(vector[None], available, ids)
        values[np.isnan(values)] = np.nan  # of one kind
        rows.append([*(column[k] for column in names), sha256_array(values)])
    return sha256_json([ids, named, sorted(rows)])


def stimulus_properties(rdms: RDMs, ids: Sequence[str]) -> dict[str, list[object]]:
    """Pattern descriptors beside the ids, such as "category": a value for each of these stimuli."""
    rows = {stimulus: row for row, stimulus in enumerate(stimulus_ids(rdms))}
    return {
        name: [values[rows[stimulus]] for stimulus in ids]
        for name, values in rdms.pattern_descriptors.items()
        if name not in ("index", "stimulus")
    }


def _check_rdms(rdms: object) -> None:
    if not is_rdms(rdms):
        array = 'rsatoolbox.rdm.RDMs(array, pattern_descriptors={"stimulus": ids})'
        remedy = f"read a file with nrl.load_rdms, or wrap an array: {array}"
        raise NeurordlError(f"expected rsatoolbox RDMs, but got {type(rdms).__name__}; {remedy}")


def reindex(rdms: RDMs, ids: Sequence[str]) -> Floats:
    """Condensed RDMs of some stimuli, in the order asked for.

    Parameters
    ----------
    rdms
        RDMs with stimulus ids.
    ids
        Stimuli, each once, all among those of the RDMs.

    Returns
    -------
    array, (n_rdms, n * (n - 1) / 2)
        A float64 copy, row-major upper triangle; missing pairs stay NaN.

    Raises
    ------
    NeurordlError
        An id that the RDMs do not have, or one that occurs twice.
    """
    return _reordered(np.asarray(rdms.dissimilarities), stimulus_ids(rdms), ids)


def _reordered(vectors: npt.NDArray[Any], available: Sequence[str], ids: Sequence[str]) -> Floats:
    """Condensed RDMs of the stimuli ``available``, as a copy with those of ``ids``."""
    if tuple(ids) == tuple(available):
        return vectors.astype(np.float64, copy=True)
    position = match_ids(ids, available).index
    result = np.empty((len(vectors), len(position) * (len(position) - 1) // 2))
    for k, first in enumerate(position[:-1]):  # by rows: index arrays of all pairs would outweigh the RDMs
        later = position[k + 1 :]
        pairs = pair_number(np.minimum(first, later), np.maximum(first, later), len(available))
        start = pair_number(k, k + 1, len(position))
        result[:, start : start + len(later)] = vectors[:, pairs]
    return result


def take_rows(dataset: Any, rows: Sequence[int] | Ints) -> Any:
    """Return a copy of a Dataset with some of its observations; a TemporalDataset keeps its times."""
    result = copy(dataset)
    result.measurements = np.asanyarray(dataset.measurements)[rows]
    result.n_obs = len(rows)
    result.descriptors = dict(dataset.descriptors)
    result.channel_descriptors = dict(dataset.channel_descriptors)
    arrays = {name: x[rows] for name, x in dataset.obs_descriptors.items() if isinstance(x, np.ndarray)}
    result.obs_descriptors = rows_of_descriptors(dataset.obs_descriptors, rows) | arrays
    return result


def as_text(value: object, digits: int = 6) -> str:
    """A value of a descriptor as text, whole numbers without a point."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else f"{float(value):.{digits}g}"
    return str(value)


def _digits(values: Sequence[Any]) -> int:
    """Digits that keep numbers apart: few where they do, so that 0.1 finds a float32 of a file."""
    numbers = {float(value) for value in values if isinstance(value, float | np.floating) and value == value}
    enough = (n for n in (6, 9, 12) if len({as_text(number, n) for number in numbers}) == len(numbers))
    return next(enough, 17)


def _as_texts(values: Sequence[Any]) -> list[str]:
    digits = _digits(values)
    return [as_text(value, digits) for value in values]


def _rows_of(keys: Iterable[Hashable]) -> dict[Any, list[int]]:
    """Return the rows of each key, in order of first appearance."""
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return rows


def _like(
    rdms: RDMs, vectors: npt.NDArray[Any], described: Mapping[str, Any], order: Sequence[int] | None = None
) -> RDMs:
    """Return RDMs of the same stimuli, or some; containers are copied, for rsatoolbox writes into them."""
    stimuli = {name: list(values) for name, values in rdms.pattern_descriptors.items()}
    if order is not None:
        stimuli = {name: [values[k] for k in order] for name, values in stimuli.items() if name != "index"}
    from rsatoolbox.rdm.rdms import RDMs

    return RDMs(
        vectors,
        dissimilarity_measure=rdms.dissimilarity_measure,
        descriptors=dict(rdms.descriptors),
        rdm_descriptors={name: list(values) for name, values in described.items() if name != "index"},
        pattern_descriptors=stimuli,
    )


def _choose(rdms: RDMs, wanted: Mapping[str, Any]) -> list[int]:
    """Return the rows of the RDMs whose descriptors have the wanted values."""
    keep = np.ones(rdms.n_rdm, dtype=bool)
    columns = {name: descriptor_values(rdms, name) for name in wanted}
    choices: dict[str, list[str]] = {}
    for name, value in wanted.items():
        if is_window(rdms, name, value):
            value = _within(rdms, name, value)
        single = isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray | set)
        digits = _digits(list(rdms.rdm_descriptors[name]))
        choices[name] = [as_text(choice, digits) for choice in ((value,) if single else value)]
        if unknown := [choice for choice in choices[name] if choice not in columns[name]]:
            known = ", ".join(dict.fromkeys(columns[name]))
            raise NeurordlError(f"no RDM has {name} {', '.join(unknown)!r}; {name} can be: {known}")
        keep &= np.isin(columns[name], choices[name])
    rows = [int(row) for row in np.flatnonzero(keep)]
    for name, values in choices.items():
        if absent := sorted(set(values) - {columns[name][row] for row in rows}):
            rest = " and ".join(f"{other} {', '.join(v)}" for other, v in choices.items() if other != name)
            raise NeurordlError(f"no RDM of {name} {', '.join(absent)} has {rest}; leave it out")
    if not rows:
        raise NeurordlError("subjects= or select= is an empty list, which chooses no RDM")
    return rows


def is_window(rdms: RDMs, name: str, value: object) -> bool:
    """Whether a choice is a window: (low, high) of ``time``, or of another descriptor of decimal numbers."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(x, float | int) for x in value):
        return False
    return name == "time" or any(
        isinstance(x, float | np.floating) for x in rdms.rdm_descriptors.get(name, ())
    )


def _within(rdms: RDMs, name: str, window: tuple[float, float]) -> list[object]:
    """Values of a descriptor in a window, both ends included."""
    values, (low, high) = list(rdms.rdm_descriptors[name]), window
    near = 1e-9 * max(abs(low), abs(high))
    inside = [value for value in dict.fromkeys(values) if low - near <= value <= high + near]
    if not inside:
        extent = f"from {as_text(min(values))} to {as_text(max(values))}"
        raise NeurordlError(f"no RDM has {name} from {low:g} to {high:g}; its values are {extent}")
    return inside


def _average(
    vectors: npt.NDArray[Any], described: dict[str, list[Any]], names: Sequence[str]
) -> tuple[npt.NDArray[Any], dict[str, list[Any]]]:
    for name in names:
        if name not in described:
            known = ", ".join(sorted(described)) or "none"
            raise NeurordlError(f"cannot average over {name!r}; the RDM descriptors are: {known}")
    kept = {name: values for name, values in described.items() if name not in names}
    texts = [_as_texts(values) for values in kept.values()]
    groups = list(_rows_of(zip(*texts, strict=True) if texts else [()] * len(vectors)).values())
    means = np.stack([nan_mean(vectors[rows].astype(np.float64), axis=0) for rows in groups])
    means_of = {name: [values[rows[0]] for rows in groups] for name, values in kept.items()}
    if "subject" in names:  # who they are is known from their names only
        people = _as_texts(described["subject"])
        names_of = [list(dict.fromkeys(people[row] for row in rows)) for rows in groups]
        means_of[AVERAGED] = [json.dumps(group, ensure_ascii=False) for group in names_of]
    return means, means_of


# merging


def merge_rdms(
    rdms: Mapping[str, RDMs] | Sequence[RDMs], *, missing: Literal["error", "ignore", "nan"] = "error"
) -> RDMs:
    """Merge RDMs of several subjects, sessions or ROIs into one object, by stimulus id.

    Parameters
    ----------
    rdms
        RDMs of the same dissimilarity with stimulus ids; the keys of a mapping are their names in messages.
    missing
        "error": all RDMs must have the same stimuli, in any order. "ignore": stimuli that some RDMs lack are
        left out. "nan": all stimuli are kept, and the pairs that an RDM lacks are NaN.

    Returns
    -------
    RDMs
        All RDMs in the order in which they came, as copies; stimuli in the order of the first ones. Their RDM
        descriptors are those that all have; ``descriptors`` in which they differ become RDM descriptors.

    Warns
    -----
    UserWarning
        Stimuli are left out, pairs become NaN, or descriptors are left out, because some RDMs lack them or
        they differ.

    Raises
    ------
    NeurordlError
        RDMs are of different dissimilarities or stimuli, some have a subject, ROI or session and others not,
        two RDMs have the same descriptors, or as `neurordl.align`. The message names them.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> both = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=2)
    >>> parts = [nrl.select_rdms(both, subjects=subject) for subject in ("s02", "s01")]
    >>> nrl.merge_rdms(parts).rdm_descriptors["subject"]
    ['s02', 's01']
    """
    check_choice("missing", missing, ("error", "ignore", "nan"))
    named = dict(rdms) if isinstance(rdms, Mapping) else {f"RDMs {k}": part for k, part in enumerate(rdms)}
    if not named:
        raise NeurordlError("there are no RDMs to merge; give those of one subject or more")
    ids = dict[str, tuple[str, ...]]()
    for name, part in named.items():
        with explain(name, NeurordlError):
            ids[name] = stimulus_ids(part)
    _check_measures(named)
    stimuli = _merged_stimuli(ids, missing)
    descriptors, described = _merged_descriptors(named)
    check_distinct(described, [name for name, part in named.items() for _ in range(part.n_rdm)])
    dtype = np.result_type(*(np.asarray(part.dissimilarities).dtype for part in named.values()))
    from rsatoolbox.rdm.rdms import RDMs

    return RDMs(
        np.concatenate([_spread(part, stimuli) for part in named.values()]).astype(dtype, copy=False),
        dissimilarity_measure=next(iter(named.values())).dissimilarity_measure,
        descriptors=descriptors,
        rdm_descriptors=described,
        pattern_descriptors={"stimulus": list(stimuli), **_merged_properties(named, stimuli)},
    )


def _check_measures(named: Mapping[str, RDMs]) -> None:
    """Refuse RDMs of different dissimilarities; other settings with which they were made are a notice."""
    first = next(iter(named))
    texts = {name: part.dissimilarity_measure for name, part in named.items()}
    measures = {name: dissimilarity_from_text(text) or text for name, text in texts.items()}
    if other := next((name for name in named if measures[name] != measures[first]), None):
        words = [repr(texts[name]) if texts[name] else "unknown" for name in (first, other)]
        both = f"the dissimilarity in {first} is {words[0]}, and in {other} {words[1]}"
        remedy = "compute them with one dissimilarity, or name it by measure= where a file does not"
        raise NeurordlError(f"{both}: they have no common scale; {remedy}")
    records = {name: _record(part) for name, part in named.items()}
    for name, record in records.items():
        if different := differing(_settings(record), _settings(records[first])):
            notify(f"{name} was computed with other settings than {first}: {', '.join(different)}")


def _record(rdms: RDMs) -> dict[str, object]:
    """The record of how RDMs were computed; an empty one where there is none, or none that can be read."""
    try:
        record = json.loads(rdms.descriptors[PROVENANCE])
    except (KeyError, TypeError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _settings(record: Mapping[str, Any]) -> dict[str, object]:
    """What was chosen, in the record of `compute_rdms`; the rest is of the patterns."""
    return {name: value for name, value in record.items() if name not in ("patterns", "balanced")}


def provenance_text(record: Mapping[str, Any], patterns: Sequence[Any]) -> str:
    """The descriptor ``provenance`` of RDMs: JSON of settings, and of what is known of their patterns."""
    text = json.dumps({**record, "patterns": patterns}, ensure_ascii=False)
    if len(text.encode()) > _TEXT:
        return json.dumps({**record, "patterns": f"{len(patterns)}, too long"})
    return text


def _merged_stimuli(ids: Mapping[str, tuple[str, ...]], missing: str) -> tuple[str, ...]:
    """The stimuli of merged RDMs, in the order of their first appearance."""
    every = tuple(dict.fromkeys(chain.from_iterable(ids.values())))
    first, *rest = ids
    if missing == "error":
        for name in rest:
            for pair in ((first, name), (name, first)):
                match_ids(ids[pair[0]], ids[pair[1]], names=pair, missing="error")
    if missing == "nan":
        for name, available in ids.items():
            if len(available) < len(every):
                lacking = listed((stimulus for stimulus in every if stimulus not in set(available)), 3)
                counts = f"{name} has {len(available)} of {len(every)} stimuli"
                notify(f"{counts}; the pairs of the others ({lacking}) are NaN")
        return every
    shared = set.intersection(*map(set, ids.values()))
    if len(shared) < 2:
        raise NeurordlError(
            f"{len(shared)} of {len(every)} stimuli are in all of {listed(ids)}; expected two"
        )
    if dropped := [stimulus for stimulus in every if stimulus not in shared]:
        where = f"{len(dropped)} of {len(every)} stimuli are not in all of {listed(ids)}"
        notify(f"{where} and were left out: {listed(dropped)}")
    return tuple(stimulus for stimulus in every if stimulus in shared)


def _merged_descriptors(named: Mapping[str, RDMs]) -> tuple[dict[str, object], dict[str, list[Any]]]:
    """What describes all merged RDMs, and each of them."""
    parts = list(named.values())
    texts = [{k: json.dumps(v, default=str) for k, v in part.descriptors.items()} for part in parts]
    same = {k: v for k, v in parts[0].descriptors.items() if all(t.get(k) == texts[0][k] for t in texts)}
    if all(PROVENANCE in part.descriptors for part in parts) and PROVENANCE not in same:
        same[PROVENANCE] = _merged_provenance(list(map(_record, parts)))
    tables: list[dict[str, list[Any]]] = []
    for part in parts:
        moved = {k: [v] * part.n_rdm for k, v in part.descriptors.items() if k not in same and np.isscalar(v)}
        tables.append({**moved, **part.rdm_descriptors})
        tables[-1].pop("index", None)
        if any(AVERAGED in other.rdm_descriptors for other in parts):
            tables[-1].setdefault(AVERAGED, ["[]"] * part.n_rdm)
    described, dropped = dict[str, list[Any]](), list[str]()
    for key in dict.fromkeys(chain.from_iterable(tables)):
        lacking = [name for name, table in zip(named, tables, strict=True) if key not in table]
        if lacking and key in ("subject", "roi", "session"):
            having = next(name for name in named if name not in lacking)
            remedy = f"name the {key} of each when you load them (load_rdms), or merge those that have it"
            raise NeurordlError(f"the RDMs of {lacking[0]} have no {key}, and those of {having} do; {remedy}")
        if lacking:
            dropped.append(key)
        else:
            described[key] = [value for table in tables for value in table[key]]
    if dropped := [key for key in dropped if key != PROVENANCE]:
        notify(f"{len(dropped)} descriptors are left out, which some RDMs lack: {listed(dropped)}")
    return same, described


def _merged_provenance(records: Sequence[dict[str, object]]) -> str:
    """One record of RDMs that were computed alike, or the records of all."""
    if any(_settings(record) != _settings(records[0]) for record in records):
        return provenance_text({"merged": len(records)}, records)
    patterns = [record["patterns"] for record in records if "patterns" in record]
    every = [part for parts in patterns for part in (parts if isinstance(parts, list) else [parts])]
    balanced = {"balanced": all(record.get("balanced") for record in records)}
    return provenance_text({**_settings(records[0]), **balanced}, every)


def check_distinct(described: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    """Refuse two RDMs of the same subject, ROI, session and whatever else describes them.

    Parameters
    ----------
    described
        RDM descriptors.
    names
        Where each RDM comes from, for the message.
    """
    texts = {key: _as_texts(list(values)) for key, values in described.items() if key != "index"}
    for values, rows in _rows_of(zip(*texts.values(), strict=True) if texts else [()] * len(names)).items():
        if len(rows) > 1:
            described_as = " ".join(f"{key} {value}" for key, value in zip(texts, values, strict=True))
            both = " and ".join(dict.fromkeys(names[row] for row in rows[:2]))
            problem = f"{len(rows)} RDMs have the same descriptors ({described_as or 'none'}), in {both}"
            remedy = "name the subject, ROI or session of each when you load them (load_rdms)"
            raise NeurordlError(f"{problem}; leave one out, or {remedy}")


def _merged_properties(named: Mapping[str, RDMs], stimuli: Sequence[str]) -> dict[str, list[Any]]:
    """Pattern descriptors beside the ids that all RDMs have and that agree."""
    tables = [part.pattern_descriptors for part in named.values()]
    properties, dropped = dict[str, list[Any]](), list[str]()
    for key in dict.fromkeys(chain.from_iterable(tables)):
        if key in ("index", "stimulus"):
            continue
        values = dict[str, object]()
        pairs = [pair for t in tables for pair in zip(t["stimulus"], t.get(key, ()), strict=key in t)]
        alike = all(as_text(values.setdefault(as_text(s), value)) == as_text(value) for s, value in pairs)
        if alike and all(key in table for table in tables):
            properties[key] = [values[stimulus] for stimulus in stimuli]
        else:
            dropped.append(key)
    if dropped:
        notify(f"properties of the stimuli are left out, in which RDMs differ: {listed(dropped)}")
    return properties


def _spread(rdms: RDMs, stimuli: Sequence[str]) -> Floats:
    """Condensed RDMs of these stimuli, in their order; the pairs of stimuli that they lack are NaN."""
    available, n = set(stimulus_ids(rdms)), len(stimuli)
    places = np.flatnonzero([stimulus in available for stimulus in stimuli])
    vectors = reindex(rdms, [stimuli[k] for k in places.tolist()])
    if len(places) == n:
        return vectors
    row, column = (places[index] for index in np.triu_indices(len(places), 1))
    result = np.full((len(vectors), n * (n - 1) // 2), np.nan)
    result[:, pair_number(row, column, n)] = vectors
    return result


# alignment

Alignable: TypeAlias = "RDMs | DatasetBase | StimulusSet | pd.DataFrame | str | os.PathLike[str]"


@dataclass(frozen=True, eq=False)
class Alignment(Mapping[str, Any]):
    """Data with the same stimuli in the same order; index it by name, and print it to see the matches.

    Attributes
    ----------
    ids
        Ids of the stimuli, in the order of the first data.
    things
        Aligned copies of the data, by name.
    matches
        For each name but the first, how the ids of the first data were matched with these data; see `Match`.
    repeats
        For the names of patterns with repeated stimuli, the number of stimuli that are repeated.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=2)
    >>> model = rdms.subset_pattern("stimulus", ["d", "b", "a"])
    >>> aligned = nrl.align({"brain": rdms, "model": model}, missing="ignore")
    >>> aligned.ids
    ('a', 'b', 'd')
    """

    __repr__ = brief

    ids: tuple[str, ...]
    things: dict[str, Any]
    matches: dict[str, Match]
    repeats: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        """Return aligned data by name."""
        return self.things[name]

    def __iter__(self) -> Any:
        """Iterate over the names."""
        return iter(self.things)

    def __len__(self) -> int:
        return len(self.things)

    def __str__(self) -> str:
        first, wanted = next(iter(self.things)), len(next(iter(self.matches.values())).wanted)
        rows: dict[str, tuple[object, ...]] = {first: (wanted, 0, 0, self.repeats.get(first, 0), "")}
        for name, match in self.matches.items():
            counts = (len(match.matched), len(match.missing), len(match.unused), self.repeats.get(name, 0))
            rows[name] = (*counts, "yes" if match.reordered else "no")
        head = ["matched", "missing", "unused", "repeated", "reordered"]
        lines = [pd.DataFrame(list(rows.values()), index=list(rows), columns=head).to_string()]
        lines.append(f"{len(self.ids)} of the {wanted} ids of {first!r} are in all data, in its order")
        for name, match in self.matches.items():
            for label, ids in (("missing in", match.missing), ("unused in", match.unused)):
                if ids:
                    near = near_misses(match) if ids is match.missing else ""
                    lines.append(f"{label} {name}: {listed(ids)}{near}")
        return "\n".join(lines)


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
        Two or more data, by names of your choice: RDMs (with the pattern descriptor ``stimulus``), a Dataset
        (with the observation descriptor ``stimulus``; all rows of a stimulus are kept), a StimulusSet, or a
        table (a DataFrame or a CSV or TSV file with a column ``id`` or ``stimulus``; in a DataFrame it may be
        the index). The first data determine the stimuli and their order; other stimuli are left out.
    missing
        "error": every stimulus of the first data must be in all others. "ignore": the stimuli that all have
        are kept.

    Returns
    -------
    Alignment
        A mapping from name to aligned copy; ``print`` it to see how many were matched, missing, unused and
        reordered.

    Raises
    ------
    NeurordlError
        There are fewer than two data, data without ids, an id that occurs twice, or a missing stimulus. The
        message points out ids that differ only in their writing; these are never matched.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> model = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=1)
    >>> brain = model.subset_pattern("stimulus", ["d", "b", "a"])
    >>> aligned = nrl.align({"brain": brain, "model": model}, missing="ignore")
    >>> print(aligned)  # doctest: +NORMALIZE_WHITESPACE
           matched  missing  unused  repeated reordered
    brain        3        0       0         0
    model        3        0       1         0        no
    3 of the 3 ids of 'brain' are in all data, in its order
    unused in model: c
    >>> aligned["model"].pattern_descriptors["stimulus"]
    ['a', 'b', 'd']
    """
    if isinstance(things, Mapping):
        named = {**things, **named}
    if len(named) < 2 or not isinstance(things, Mapping | None):
        expected = "two or more data by name, as in align(stimuli=stimuli, rdms=rdms)"
        raise NeurordlError(f"align takes {expected}, and got {', '.join(named) or 'none'}")
    check_choice("missing", missing, ("error", "ignore"))
    opened = {name: _opened(thing, name) for name, thing in named.items()}
    rows = {name: _rows_of(_ids(thing, name)) for name, thing in opened.items()}
    counts = {name: sum(len(places) > 1 for places in rows[name].values()) for name in rows}
    repeats = {name: count for name, count in counts.items() if count}
    first, *rest = named
    matches: dict[str, Match] = {}
    problems = []
    for name in rest:
        try:
            matches[name] = match_ids(rows[first], rows[name], names=(first, name), missing=missing)
        except NeurordlError as error:
            problems.append(str(error))
    if problems:
        raise NeurordlError("\n\n".join(problems))
    lacking = {stimulus for match in matches.values() for stimulus in match.missing}
    ids = tuple(stimulus for stimulus in rows[first] if stimulus not in lacking)
    if not ids:
        raise NeurordlError(f"no stimulus is in all of {', '.join(named)}; align fewer of them")
    aligned = {name: _in_order(thing, rows[name], ids) for name, thing in opened.items()}
    return Alignment(ids, aligned, matches, repeats)


def _opened(thing: Any, name: str) -> Any:
    if is_rdms(thing) or is_dataset(thing) or isinstance(thing, StimulusSet):
        return thing
    if isinstance(thing, pd.DataFrame | str | os.PathLike):
        return read_table(thing, "id")
    expected = "rsatoolbox RDMs and Datasets, StimulusSets, DataFrames, and names of CSV or TSV files"
    raise NeurordlError(
        f"{name} is {type(thing).__name__}; align takes {expected} (load_rdms reads RDM files)"
    )


def _ids(thing: Any, name: str) -> tuple[str, ...]:
    if isinstance(thing, StimulusSet):
        return thing.ids
    if isinstance(thing, pd.DataFrame):
        return tuple(thing.index)
    if is_rdms(thing):
        return stimulus_ids(thing)
    if "stimulus" not in thing.obs_descriptors:
        problem = f"the patterns {name} lack the observation descriptor 'stimulus'"
        known = listed(thing.obs_descriptors, 99) or "none"
        raise NeurordlError(f"{problem} (they have {known}); set it to the id of each row")
    # a list is not made an array, which would turn a missing name among texts into the text 'nan'
    values = thing.obs_descriptors["stimulus"]
    return tuple(value.decode() if isinstance(value, bytes) else value for value in values)


def _in_order(thing: Any, rows: Mapping[str, Sequence[int]], ids: Sequence[str]) -> Any:
    """Return a copy with these stimuli, in this order."""
    if isinstance(thing, StimulusSet):
        return thing.subset(ids)
    if isinstance(thing, pd.DataFrame):
        return thing.loc[list(ids)]
    order = [row for stimulus in ids for row in rows[stimulus]]
    if is_rdms(thing):
        vectors = reindex(thing, ids).astype(np.asarray(thing.dissimilarities).dtype, copy=False)
        return _like(thing, vectors, thing.rdm_descriptors, order)
    return take_rows(thing, order)
