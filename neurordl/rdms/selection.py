"""Choose RDMs by their descriptors, check that each subject has one, and order them by stimulus ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs

from neurordl.arrays import Floats, Ints
from neurordl.errors import NeurordlError
from neurordl.ids import check_ids, match_ids, possible_ids
from neurordl.measures.condensed import pair_number, triangle_start

__all__ = [
    "as_text",
    "check_one_per_subject",
    "descriptor_values",
    "reindex",
    "select_rdms",
    "stimulus_ids",
    "subject_names",
    "take_rows",
]


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
        Further descriptors, each with the value or the values to keep: ``{"session": 1}``.
    average
        RDM descriptors to average over, such as "session": RDMs that differ in these only are replaced by
        their mean.

        A pair that is missing in some of them is the mean of the others.

    Returns
    -------
    RDMs
        A copy, in the order of ``rdms``, without the descriptors that were averaged over.

    Raises
    ------
    NeurordlError
        The RDMs have no such descriptor, or no such value (the message lists those they have); or the subject
        would be averaged over.

    Examples
    --------
    >>> rdms = RDMs(np.ones((4, 3)), rdm_descriptors={"subject": list("aabb"), "session": [1, 2, 1, 2]})
    >>> len(select_rdms(rdms, subjects="a")), len(select_rdms(rdms, average="session"))
    (2, 2)
    """
    _check_rdms(rdms)
    wanted = dict(select or {})
    for name, value in (("roi", roi), ("subject", subjects)):
        if value is not None and name in wanted:
            raise NeurordlError(f"{name!r} is chosen twice, also in select=; choose it once")
        if value is not None:
            wanted[name] = value
    kept = _pick(rdms, wanted)
    vectors = np.asarray(rdms.dissimilarities)[kept]
    described = {
        name: [values[k] for k in kept] for name, values in rdms.rdm_descriptors.items() if name != "index"
    }
    if average is not None:
        vectors, described = _average(vectors, described, (average,) if isinstance(average, str) else average)
    # containers are copied, since rsatoolbox writes into those it is given
    return RDMs(
        vectors,
        dissimilarity_measure=rdms.dissimilarity_measure,
        descriptors=dict(rdms.descriptors),
        rdm_descriptors=described,
        pattern_descriptors={name: list(values) for name, values in rdms.pattern_descriptors.items()},
    )


def descriptor_values(rdms: RDMs, name: str) -> list[str]:
    """The value of an RDM descriptor for each RDM, as text (whole numbers without a point).

    Raises
    ------
    NeurordlError
        The RDMs have no such descriptor; the message lists those they have.
    """
    if name not in rdms.rdm_descriptors:
        known = ", ".join(sorted(rdms.rdm_descriptors)) or "none"
        raise NeurordlError(f"the RDMs have no descriptor {name!r}; their RDM descriptors are: {known}")
    return _as_texts(list(rdms.rdm_descriptors[name]))


def subject_names(rdms: RDMs) -> tuple[str, ...]:
    """Name of each RDM's subject; ``unnamed`` where the RDMs carry no descriptor ``subject``."""
    if "subject" not in rdms.rdm_descriptors:
        return ("unnamed",) * int(rdms.n_rdm)
    return tuple(descriptor_values(rdms, "subject"))


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
        raise NeurordlError(
            f"the RDMs ({rdms.n_cond} stimuli) carry no stimulus ids, and position does not tell; set "
            'rdms.pattern_descriptors["stimulus"] to the list of ids in the order of the rows'
            + possible_ids(rdms.pattern_descriptors)
        )
    return check_ids((v.decode() if isinstance(v, bytes) else v for v in values), "RDMs")


def _check_rdms(rdms: object) -> None:
    if not isinstance(rdms, RDMs):
        raise NeurordlError(
            f"expected rsatoolbox RDMs, which say of which stimuli they are, but got {type(rdms).__name__}; "
            "read a file by nrl.load_rdms, or wrap an array: "
            'rsatoolbox.rdm.RDMs(array, pattern_descriptors={"stimulus": ids})'
        )


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
    vectors = np.asarray(rdms.dissimilarities)
    available = stimulus_ids(rdms)
    if tuple(ids) == available:
        return vectors.astype(np.float64, copy=True)
    position = match_ids(ids, available).index
    result = np.empty((len(vectors), len(position) * (len(position) - 1) // 2))
    for k, first in enumerate(position[:-1]):  # by rows: index arrays of all pairs would outweigh the RDMs
        others = position[k + 1 :]
        pairs = pair_number(np.minimum(first, others), np.maximum(first, others), len(available))
        start = triangle_start(len(position), k)
        result[:, start : start + len(others)] = vectors[:, pairs]
    return result


def take_rows(dataset: Any, rows: Sequence[int] | Ints) -> Any:
    """Return a copy of a Dataset with some of its observations; a TemporalDataset keeps its times."""
    result = copy(dataset)
    result.measurements = np.asanyarray(dataset.measurements)[rows]
    result.n_obs = len(rows)
    result.descriptors = dict(dataset.descriptors)
    result.channel_descriptors = dict(dataset.channel_descriptors)
    result.obs_descriptors = {
        name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]
        for name, values in dataset.obs_descriptors.items()
    }
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
    enough = (n for n in (6, 9, 12) if len({as_text(one, n) for one in numbers}) == len(numbers))
    return next(enough, 17)


def _as_texts(values: Sequence[Any]) -> list[str]:
    digits = _digits(values)
    return [as_text(value, digits) for value in values]


def _pick(rdms: RDMs, wanted: Mapping[str, Any]) -> list[int]:
    keep = np.ones(rdms.n_rdm, dtype=bool)
    asked: dict[str, list[str]] = {}
    for name, value in wanted.items():
        values = descriptor_values(rdms, name)
        single = isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray | set)
        digits = _digits(list(rdms.rdm_descriptors[name]))
        asked[name] = [as_text(v, digits) for v in ((value,) if single else value)]
        if unknown := [v for v in asked[name] if v not in values]:
            known = ", ".join(dict.fromkeys(values))
            raise NeurordlError(f"no RDM has {name} {', '.join(unknown)!r}; the values there are: {known}")
        keep &= np.isin(values, asked[name])
    kept = [int(k) for k in np.flatnonzero(keep)]
    for name, values in asked.items():
        left = {descriptor_values(rdms, name)[k] for k in kept}
        if absent := [v for v in values if v not in left]:
            others = " and ".join(f"{n} {', '.join(v)}" for n, v in asked.items() if n != name)
            raise NeurordlError(f"no RDM of {name} {', '.join(absent)} has {others}; leave it out")
    if not kept:
        raise NeurordlError("no RDM was chosen: subjects= or select= holds an empty list; name a value")
    return kept


def _average(
    vectors: npt.NDArray[Any], described: dict[str, list[Any]], names: Sequence[str]
) -> tuple[npt.NDArray[Any], dict[str, list[Any]]]:
    for name in names:
        if name == "subject":
            raise NeurordlError("subjects are pooled, not averaged over: leave 'subject' out of average=")
        if name not in described:
            known = ", ".join(sorted(described)) or "none"
            raise NeurordlError(f"cannot average over {name!r}; the RDM descriptors are: {known}")
    others = {name: values for name, values in described.items() if name not in names}
    groups: dict[tuple[str, ...], list[int]] = {}
    texts = [_as_texts(values) for values in others.values()]
    for k in range(len(vectors)):
        groups.setdefault(tuple(values[k] for values in texts), []).append(k)
    means = np.full((len(groups), vectors.shape[1]), np.nan)
    for mean, members in zip(means, groups.values(), strict=True):
        stack = vectors[members].astype(np.float64)
        count = np.isfinite(stack).sum(axis=0)
        np.divide(np.where(np.isfinite(stack), stack, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    return means, {name: [values[k[0]] for k in groups.values()] for name, values in others.items()}


def check_one_per_subject(rdms: RDMs) -> RDMs:
    """Return RDMs if they hold one per subject; sessions, ROIs and time points are never subjects.

    Raises
    ------
    NeurordlError
        Several RDMs of one subject (the message names the descriptors in which they differ), several RDMs
        without a ``subject``, or a subject without a single measured pair.
    """
    _check_rdms(rdms)
    described = {name: list(values) for name, values in rdms.rdm_descriptors.items() if name != "index"}
    subjects = subject_names(rdms)
    rows: dict[str, list[int]] = {}
    for k, subject in enumerate(subjects):
        rows.setdefault(subject, []).append(k)
    several = {subject: members for subject, members in rows.items() if len(members) > 1}
    if several:
        texts = {name: _as_texts(values) for name, values in described.items() if name != "subject"}
        differing = [
            name
            for name, values in texts.items()
            if any(len({values[k] for k in members}) > 1 for members in several.values())
        ]
        values = ", ".join(f"{name!r} ({', '.join(dict.fromkeys(texts[name]))})" for name in differing)
        remedy = f"they differ in {values}: use nrl.select_rdms with select= or average= for that"
        remedy += ", or choose a ROI by roi=" if "roi" in differing else ""
        if "subject" not in described:
            raise NeurordlError(
                f"the {len(subjects)} RDMs carry no descriptor 'subject', and position does not tell; set "
                'rdms.rdm_descriptors["subject"] to the list of subjects'
                + (f". Or, if they are one subject's, {remedy}" if differing else "")
            )
        if not differing:
            remedy = "no descriptor tells them apart: drop the repeats or add one, such as 'session'"
        subject, members = next(iter(several.items()))
        raise NeurordlError(
            f"expected one RDM per subject, but subject {subject!r} has {len(members)} "
            f"({len(several)} of {len(rows)} subjects have several); {remedy}"
        )
    measured = np.isfinite(rdms.dissimilarities).any(axis=1)
    if not measured.all():
        empty = [name for name, any_pair in zip(subjects, measured, strict=True) if not any_pair]
        raise NeurordlError(
            f"the RDM of subject {', '.join(empty)} has no measured pair (NaN everywhere); leave it "
            "out by subjects="
        )
    return rdms
