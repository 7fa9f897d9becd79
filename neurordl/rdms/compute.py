"""From measured patterns to RDMs, in float64, in the order given."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.rdms import dissimilarity as measures
from neurordl.rdms.distances import condensed_index

__all__ = ["compute_rdms"]

Floats = npt.NDArray[np.float64]
Ids = tuple[str, ...]

# what rsatoolbox writes into `RDMs.dissimilarity_measure`
_MEASURE = {"euclidean": "squared euclidean", "mahalanobis": "squared mahalanobis"}


def compute_rdms(
    patterns: DatasetBase | Sequence[DatasetBase] | Mapping[str, DatasetBase],
    method: str | Callable[..., Tensor] = "correlation",
    *,
    descriptor: str = "stimulus",
    precision: npt.ArrayLike | None = None,
) -> RDMs:
    """RDMs of measured patterns, one per Dataset.

    Rows of the same stimulus are averaged; stimuli keep the order of their first appearance (rsatoolbox sorts
    them). A stimulus that some Datasets lack has missing pairs (NaN) in their RDMs, as has a pattern whose
    distances are undefined.

    Parameters
    ----------
    patterns
        A Dataset, several, or several by name: the name is the ``subject``, unless it is the value of one of
        the Dataset's own descriptors (``layer``, say).
    method
        A name in `DISSIMILARITIES`, or a function of patterns (stimuli, channels). ``crossnobis`` leaves out
        one run at a time: the rows need the observation descriptor ``run``, with every stimulus equally often
        in every run.
    descriptor
        The observation descriptor that holds the stimulus ids.
    precision
        (channels, channels), the same for all, for ``mahalanobis`` (which needs it) and ``crossnobis``.

    Returns
    -------
    RDMs
        With the Datasets' descriptors as RDM descriptors and the pattern descriptor ``stimulus``.

    Warns
    -----
    UserWarning
        A Dataset lacks stimuli that others have.

    Raises
    ------
    NeurordlError
        No Dataset, no ids, fewer than two stimuli, runs that are not balanced, descriptors that some Datasets
        lack, or a method that does not exist or lacks its precision.
    """
    datasets, described = _datasets(patterns)
    measure = measures.dissimilarity(method)
    name = method if isinstance(method, str) else getattr(method, "__name__", "a function")
    options = _options(name, precision)
    found = []
    for number, dataset in enumerate(datasets):
        ids, values = _patterns(dataset, descriptor, _label(described, number), by_run=name == "crossnobis")
        with torch.no_grad():
            found.append((ids, measure(torch.from_numpy(values), *options).numpy()))
    stimuli = tuple(dict.fromkeys(stimulus for ids, _ in found for stimulus in ids))
    for number, (ids, _) in enumerate(found):
        own = set(ids)
        if lacking := [stimulus for stimulus in stimuli if stimulus not in own]:
            warnings.warn(
                f"{_label(described, number)} has {len(ids)} of {len(stimuli)} stimuli; the pairs of the "
                f"others ({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}) are NaN in its RDM",
                UserWarning,
                stacklevel=2,
            )
    return RDMs(
        np.stack([_placed(ids, vector, stimuli) for ids, vector in found]),
        dissimilarity_measure=_MEASURE.get(name, name),
        rdm_descriptors=described,
        pattern_descriptors={"stimulus": list(stimuli)},
    )


def _datasets(patterns: Any) -> tuple[list[DatasetBase], dict[str, list[Any]]]:
    """The Datasets, and for each descriptor its value in every one of them."""
    names: list[str] | None = None
    if isinstance(patterns, DatasetBase):
        datasets = [patterns]
    elif isinstance(patterns, Mapping):
        names, datasets = list(patterns), list(patterns.values())
    else:
        datasets = list(patterns) if isinstance(patterns, Iterable) else [patterns]
    if not datasets or not all(isinstance(dataset, DatasetBase) for dataset in datasets):
        came = ", ".join(sorted({type(dataset).__name__ for dataset in datasets})) or "none"
        raise NeurordlError(f"compute_rdms takes one or more rsatoolbox Datasets, and got {came}")
    each = [copy.deepcopy(dict(dataset.descriptors)) for dataset in datasets]
    if names is not None and not all(name in own.values() for name, own in zip(names, each, strict=True)):
        for name, own in zip(names, each, strict=True):
            if own.setdefault("subject", name) != name:
                raise NeurordlError(
                    f"the Dataset under {name!r} says that it is of subject {own['subject']!r}; let the "
                    "names be the subjects, or give what they are as a descriptor of each Dataset"
                )
    keys = list(dict.fromkeys(key for own in each for key in own))
    for key in keys:
        lacking = [number for number, own in enumerate(each) if key not in own]
        if lacking:
            raise NeurordlError(
                f"the descriptor {key!r} is missing in Dataset {lacking[0]} (from 0) of {len(datasets)}, "
                "while others have it; give it to all or to none"
            )
    return datasets, {key: [own[key] for own in each] for key in keys}


def _label(described: Mapping[str, list[Any]], number: int) -> str:
    told = ", ".join(f"{key} {values[number]}" for key, values in described.items())
    return f"Dataset {number} ({told})" if told else f"Dataset {number}"


def _options(name: str, precision: npt.ArrayLike | None) -> tuple[Tensor, ...]:
    if precision is not None:
        if name not in ("mahalanobis", "crossnobis"):
            raise NeurordlError(
                f"{name} takes no precision; choose mahalanobis or crossnobis, or leave it out"
            )
        return (torch.as_tensor(np.asarray(precision, dtype=np.float64)),)
    if name == "mahalanobis":
        raise NeurordlError(
            "mahalanobis needs precision=, the inverse of the noise covariance of the channels"
        )
    return ()


def _patterns(dataset: DatasetBase, descriptor: str, label: str, *, by_run: bool) -> tuple[Ids, Floats]:
    """Stimulus ids and mean patterns, (stimuli, channels), or (runs, stimuli, channels) by run."""
    measurements = np.asanyarray(dataset.measurements)
    if measurements.ndim != 2 or measurements.dtype.kind not in "fiub":
        raise NeurordlError(
            f"the measurements of {label} must be real numbers, (observations, channels), not "
            f"{measurements.dtype} of shape {measurements.shape}; average over time first, where there is any"
        )
    ids, stimulus = _coded(dataset, descriptor, label)
    if len(ids) < 2:
        raise NeurordlError(f"{label} has a single stimulus, {ids[0]!r}; an RDM needs two or more")
    for name in ids:
        if not isinstance(name, str) or not name:
            raise NeurordlError(
                f"stimulus ids are text, and {label} has {name!r} ({type(name).__name__}); use str()"
            )
    names = tuple(str(name) for name in ids)
    if not by_run:
        return names, _means(measurements, stimulus, len(ids))
    return names, _run_means(dataset, measurements, names, stimulus, label)


def _run_means(
    dataset: DatasetBase,
    measurements: npt.NDArray[Any],
    names: Ids,
    stimulus: npt.NDArray[np.intp],
    label: str,
) -> Floats:
    """Mean patterns by run, (runs, stimuli, channels), of a balanced design."""
    runs, run = _coded(dataset, "run", label)
    cell = run * len(names) + stimulus
    counts = np.bincount(cell, minlength=len(runs) * len(names))
    problem = None
    if len(runs) < 2:
        problem = f"a single run, {runs[0]!r}"
    elif (counts != counts[0]).any():
        odd = int(np.argmax(counts != counts[0]))
        problem = (
            f"stimulus {names[odd % len(names)]!r} {counts[odd]} times in run {runs[odd // len(names)]!r} "
            f"and {names[0]!r} {counts[0]} times in run {runs[0]!r}"
        )
    if problem:
        raise NeurordlError(
            f"crossnobis needs two or more runs with every stimulus equally often in each, and {label} has "
            f"{problem}; choose a balanced part, or another method"
        )
    return _means(measurements, cell, len(counts)).reshape(len(runs), len(names), -1)


def _coded(dataset: DatasetBase, descriptor: str, label: str) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """Values of an observation descriptor in order of first appearance, and each row's number among them."""
    if descriptor not in dataset.obs_descriptors:
        raise NeurordlError(
            f"{label} has no observation descriptor {descriptor!r}; it has "
            f"{', '.join(map(repr, dataset.obs_descriptors)) or 'none'}"
        )
    values = np.asarray(dataset.obs_descriptors[descriptor]).tolist()
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.fromiter((numbers[value] for value in values), np.intp, len(values))


def _means(measurements: npt.NDArray[Any], group: npt.NDArray[np.intp], n_groups: int) -> Floats:
    """Mean row of each group, all groups being there."""
    if len(group) == n_groups and (np.diff(group) == 1).all():  # nothing to average, nothing to move
        return np.array(measurements, dtype=np.float64)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(n_groups))
    sums = np.add.reduceat(np.asarray(measurements)[order], starts, axis=0, dtype=np.float64)
    means: Floats = sums / np.bincount(group, minlength=n_groups)[:, None]
    return means


def _placed(ids: Ids, vector: Floats, stimuli: Ids) -> Floats:
    """A condensed RDM over ``ids`` as one over ``stimuli``, NaN where a stimulus is not among them."""
    if ids == stimuli:
        return vector
    position = {stimulus: number for number, stimulus in enumerate(stimuli)}
    at = np.array([position[stimulus] for stimulus in ids])
    row, column = (index.numpy() for index in condensed_index(len(ids)))
    matrix = np.full((len(stimuli), len(stimuli)), np.nan)
    matrix[at[row], at[column]] = matrix[at[column], at[row]] = vector
    condensed: Floats = matrix[np.triu_indices(len(stimuli), 1)]
    return condensed
