"""From measured patterns to RDMs, in the order given, with no more memory than the result and a block."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.io import atomic_write
from neurordl.measures.condensed import condensed_index
from neurordl.measures.dissimilarities import DissimilarityLike, find_dissimilarity
from neurordl.rdms import notices
from neurordl.rdms.measure import Whitening, check_options, fill
from neurordl.rdms.noise import Datasets, Estimator, Noise
from neurordl.rdms.sources import Centre, Source

__all__ = ["compute_rdms"]

Ids = tuple[str, ...]

_TEXT = 60_000  # an HDF5 attribute holds 64 kB
PROVENANCE = "provenance"


def compute_rdms(
    patterns: Datasets,
    dissimilarity: DissimilarityLike = "correlation",
    *,
    descriptor: str = "stimulus",
    center: Centre | None = None,
    precision: npt.ArrayLike | None = None,
    noise: Estimator | Noise | None = None,
    dtype: npt.DTypeLike = np.float64,
    out: str | os.PathLike[str] | None = None,
) -> RDMs:
    """RDMs of measured patterns, one per Dataset, or one per Dataset and ROI.

    Rows of the same stimulus are averaged; stimuli keep the order of their first appearance (rsatoolbox sorts
    them). A stimulus that some Datasets lack has missing pairs (NaN) in their RDMs, as has a pattern whose
    distances are undefined. Patterns are read in blocks: beside the result, memory is that of a block (and of
    the measurements, unless they are a memory map), but for dissimilarities across runs that are not
    balanced.

    Parameters
    ----------
    patterns
        A Dataset, several, or several by name: the name is the ``subject``, unless it is the value of one of
        the Dataset's own descriptors (``layer``, say). With the channel descriptor ``roi`` each ROI has an
        RDM of its own.
    dissimilarity
        A name in `DISSIMILARITIES`, a `Dissimilarity`, or a function of patterns (stimuli, channels) that
        returns condensed RDMs. ``crossnobis`` and
        ``poisson_cv`` leave out one run at a time: the rows need the observation descriptor ``run``, two or
        more. Where a run lacks a stimulus or has more of it, inner products are means over all pairs of
        measurements from different runs, as in rsatoolbox's ``calc_rdm_unbalanced``; unlike balanced
        distances these see the mean pattern of a run, so remove it (``center="run"``).
    descriptor
        The observation descriptor that holds the stimulus ids.
    center
        The mean pattern over measurements that is removed first: that of each run, that of all, or none.
        ``correlation`` and ``cosine`` depend on it; balanced distances do not.
    precision
        (channels, channels), symmetric and positive semidefinite, the same for all, for ``mahalanobis`` and
        ``crossnobis``. It is not factored: an indefinite one is refused where a squared distance is negative.
    noise
        How the noise covariance is estimated, whose inverse is the precision: a `Noise`, or its estimator
        ("diagonal", "shrinkage_diag", "shrinkage_eye" or "full"). For ``mahalanobis`` and ``crossnobis``; for
        ``correlation`` and ``cosine`` patterns are multiplied by the symmetric root of the precision (Walther
        et al. 2016, NeuroImage 137:188).
    dtype
        float64, or float32, which halves memory and time.
    out
        An .npy file to write the RDMs to, block by block; what is returned is a memory map of it.

    Returns
    -------
    RDMs
        With the Datasets' descriptors (and ``roi``) as RDM descriptors, the pattern descriptor ``stimulus``,
        and the descriptor ``provenance``, JSON of how patterns and RDMs were made.

    Warns
    -----
    UserWarning
        A Dataset lacks stimuli that others have, or has some in a single run, for dissimilarities across
        runs. Runs are not balanced and have a mean pattern that ``crossnobis`` sees. Block averages are all
        alike.

    Raises
    ------
    NeurordlError
        No Dataset, no ids, fewer than two stimuli, a single run, descriptors that some Datasets lack, a
        dissimilarity that does not exist or lacks its precision, or a noise covariance that is singular.
    """
    datasets, described = _datasets(patterns)
    measure = find_dissimilarity(dissimilarity)
    if isinstance(noise, str):
        noise = Noise(noise)
    given = real_dtype(dtype)
    kind = torch.float32 if given == np.float32 else torch.float64
    if given not in (np.float32, np.float64) or center not in (None, *get_args(Centre)):
        raise NeurordlError(
            f"dtype={dtype!r}, center={center!r}: expected float64 or float32, and None, 'run' or 'all'"
        )
    check_options(measure, precision, noise)
    left = _residuals(noise, patterns, len(datasets))
    records = described.pop(PROVENANCE, None)
    sources, columns = _sources(
        datasets, left, described, descriptor, (measure, center, precision, noise, kind)
    )
    stimuli = tuple(dict.fromkeys(stimulus for source, _ in sources for stimulus in source.ids))
    alone = [source for source, _ in sources]
    notices.of_stimuli(alone, stimuli)
    notices.of_pairs(alone, measure)
    notices.of_runs(alone, measure)
    shape = (len(sources), len(stimuli) * (len(stimuli) - 1) // 2)
    with nullcontext() if out is None else atomic_write(_npy(out)) as aside:
        vectors: Any
        if aside is None:
            vectors = np.empty(shape, dtype)
        else:
            vectors = np.lib.format.open_memmap(aside, "w+", np.dtype(dtype), shape)
        for (source, whitening), row in zip(sources, vectors, strict=True):
            if source.ids == stimuli:
                fill(row, measure, source, whitening)
            else:
                own = np.empty(len(source.ids) * (len(source.ids) - 1) // 2, dtype)
                fill(own, measure, source, whitening)
                row[:] = _placed(source.ids, own, stimuli)
        notices.of_means(vectors, alone, measure)
        if aside is not None:
            vectors.flush()
    if out is not None:
        vectors = np.load(out, mmap_mode="r", allow_pickle=False)
    how: dict[str, Any] = {
        "dissimilarity": measure.name,
        "center": center,
        "noise": None if noise is None else noise.estimator,
        "noise_by": None if noise is None else noise.by,
    }
    if noise is not None:
        how["noise_from"] = "measurements" if noise.residuals is None else "residuals"
    how |= {"precision": precision is not None, "balanced": all(source.balanced for source, _ in sources)}
    return RDMs(
        vectors,
        dissimilarity_measure=measure.written,
        descriptors={PROVENANCE: _record(how, records)},
        rdm_descriptors=columns,
        pattern_descriptors={"stimulus": list(stimuli)},
    )


def real_dtype(given: Any) -> np.dtype[Any] | None:
    """A numpy dtype; None where there is none."""
    try:
        found: np.dtype[Any] = np.dtype(given)
        return found
    except (TypeError, ValueError):
        return None


def _npy(out: str | os.PathLike[str]) -> str:
    if not str(out).endswith(".npy"):
        raise NeurordlError(f"out={str(out)!r}: expected a file named .npy; save_rdms writes other formats")
    return os.fspath(out)


def _record(how: Mapping[str, Any], records: Sequence[Any] | None) -> str:
    """JSON of how RDMs were made, and of how each Dataset was where it says so."""
    told = []
    for record in records or []:
        try:
            told.append(json.loads(record))
        except (TypeError, ValueError):
            told.append(str(record))
    text = json.dumps({**how, "patterns": told}, ensure_ascii=False)
    return text if len(text.encode()) <= _TEXT else json.dumps({**how, "patterns": f"{len(told)}, too long"})


def _sources(
    datasets: Sequence[DatasetBase],
    residuals: Sequence[DatasetBase | None],
    described: dict[str, list[Any]],
    descriptor: str,
    options: tuple[Any, ...],
) -> tuple[list[tuple[Source, Whitening]], dict[str, list[Any]]]:
    """One source for each Dataset and ROI, and the descriptors of their RDMs."""
    measure, center, precision, noise, kind = options
    by_run = measure.needs_runs
    sources: list[tuple[Source, Whitening]] = []
    columns: dict[str, list[Any]] = {key: [] for key in described}
    for number, dataset in enumerate(datasets):
        rois = dataset.channel_descriptors.get("roi")
        whole = {None: None} if rois is None else dict.fromkeys(np.asarray(rois).tolist())
        for roi in whole:
            label = _label(described, number) + ("" if roi is None else f", roi {roi}")
            channels = None if roi is None else np.flatnonzero(np.asarray(rois) == roi)
            source = Source(
                dataset, label, descriptor, by_run=by_run, center=center, channels=channels, dtype=kind
            )
            if by_run and len(source.runs) < 2:
                raise NeurordlError(
                    f"{measure} needs two or more runs, and {label} has a single run, {source.runs[0]!r}; "
                    "choose another dissimilarity"
                )
            whitening = Whitening(source, measure, precision, noise, residuals[number])
            sources.append((source, whitening))
            for key, values in described.items():
                columns[key].append(values[number])
            if rois is not None:
                columns.setdefault("roi", []).append(roi)
    if any(len(values) != len(sources) for values in columns.values()):
        raise NeurordlError(
            "'roi' is a descriptor of some Datasets and a channel descriptor of others; give it to all alike"
        )
    return sources, columns


def _residuals(noise: Noise | None, patterns: Datasets, n: int) -> list[DatasetBase | None]:
    """Residuals in the order of the patterns: by name where both have names."""
    if noise is None or noise.residuals is None:
        return [None] * n
    residuals = noise.residuals
    if isinstance(residuals, Mapping) != isinstance(patterns, Mapping):
        raise NeurordlError("patterns by name take residuals by the same names, and others take a list")
    if isinstance(residuals, Mapping) and isinstance(patterns, Mapping):
        if absent := [name for name in patterns if name not in residuals]:
            raise NeurordlError(f"residuals= has none for {absent[0]!r}, but {', '.join(residuals)}")
        return [residuals[name] for name in patterns]
    given: list[Any] = [residuals] if isinstance(residuals, DatasetBase) else list(residuals)
    if len(given) != n or not all(isinstance(one, DatasetBase) for one in given):
        raise NeurordlError(f"residuals= has {len(given)} for {n} Datasets; give a Dataset for each")
    return given


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
    told = ", ".join(f"{key} {values[number]}" for key, values in described.items() if key != PROVENANCE)
    return f"Dataset {number} ({told})" if told else f"Dataset {number}"


def _placed(ids: Ids, vector: npt.NDArray[Any], stimuli: Ids) -> npt.NDArray[Any]:
    """A condensed RDM over ``ids`` as one over ``stimuli``, NaN where a stimulus is not among them."""
    if ids == stimuli:
        return vector
    position = {stimulus: number for number, stimulus in enumerate(stimuli)}
    at = np.array([position[stimulus] for stimulus in ids])
    row, column = (index.numpy() for index in condensed_index(len(ids)))
    matrix = np.full((len(stimuli), len(stimuli)), np.nan, vector.dtype)
    matrix[at[row], at[column]] = matrix[at[column], at[row]] = vector
    condensed: npt.NDArray[Any] = matrix[np.triu_indices(len(stimuli), 1)]
    return condensed
