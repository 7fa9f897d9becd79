"""From measured patterns to RDMs, in blocks; noise covariances; the reliability of RDMs over runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from neurordl.arrays import Floats, is_dataset
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import match_ids
from neurordl.io import atomic_write
from neurordl.measures.condensed import condensed_index, pair_number
from neurordl.measures.dissimilarities import (
    DISSIMILARITIES,
    Dissimilarity,
    DissimilarityLike,
    SquaredDistance,
    find_dissimilarity,
)
from neurordl.measures.kernels.distances import Sides, add_distances, checked_precision
from neurordl.progress import tracked
from neurordl.rdms.selection import PROVENANCE, provenance_text, reindex, stimulus_ids, take_rows
from neurordl.rdms.source import (
    Center,
    Source,
    Windows,
    WindowSource,
    check_rates,
    check_runs,
    coded,
    labels_of,
    parsed_record,
    times_of,
)
from neurordl.validate import brief, check_choice, listed

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase
    from rsatoolbox.rdm.rdms import RDMs

Datasets: TypeAlias = "DatasetBase | Sequence[DatasetBase] | Mapping[str, DatasetBase]"
Estimator = Literal["diagonal", "shrinkage_eye", "shrinkage_diag", "full"]

_KEPT = 1 << 28  # bytes of the patterns of all runs that are kept rather than read again for each run
_ALIKE = 0.01  # median correlation distance below which patterns are alike but for their mean
_IN_CACHE = 1 << 19


@dataclass(frozen=True, eq=False)
class Noise:
    """Estimation of the noise covariance of channels; its inverse is the noise precision.

    Parameters
    ----------
    estimator
        Estimator of the noise covariance, for noise normalization: "diagonal" (variances only),
        "shrinkage_eye" or "shrinkage_diag" (shrunk towards the identity or the diagonal), or "full". Or the
        covariance itself: an array (channels, channels), or an ``mne.Covariance``, whose channels are matched
        by name with the channel descriptor ``channel``. If it lacks rank, as after an average reference,
        patterns are whitened within its rank. Channels of several types (the channel descriptor ``type``),
        such as magnetometers and EEG, are first brought to the same mean variance, since they have other
        units; "shrinkage_eye" then shrinks towards the mean variance of each type.

        "diagonal" is univariate noise normalization. Sources: Ledoit & Wolf 2004, J. Multivar. Anal. 88:365,
        for "shrinkage_eye"; Schäfer & Strimmer 2005, Stat. Appl. Genet. Mol. Biol. 4:32, for
        "shrinkage_diag". The estimates equal those of rsatoolbox.
    residuals
        Residuals of each Dataset, with the same channels, as `read_patterns` returns them; a mapping if the
        patterns are a mapping. Their degrees of freedom are read from the observation descriptor ``dof``;
        without it, they are the number of rows minus 1. By default, the noise is estimated from the
        deviations of the measurements from the mean of their stimulus.
    by
        "pooled": one covariance for all runs. "run": one for each run; only dissimilarities across runs can
        use these.

        With "run", a pair of runs has the mean of their two covariances, as in rsatoolbox with a list of
        precisions.
    times
        For measurements over time: first and last time, in seconds, of the samples that the noise is
        estimated from, such as (-0.2, 0.0) for the baseline. By default all samples are used.

        The covariance is estimated from the trials at each sample, and averaged over samples (Guggenmos et
        al. 2018, NeuroImage 173:434).

    Raises
    ------
    NeurordlError
        The estimator or ``by`` is unknown, or something is to be estimated of a covariance that is known.

    Examples
    --------
    >>> import neurordl as nrl
    >>> noise = nrl.Noise("shrinkage_diag")
    >>> noise.estimator, noise.by
    ('shrinkage_diag', 'pooled')
    """

    __repr__ = brief

    estimator: Estimator | npt.ArrayLike
    residuals: Datasets | None = None
    by: Literal["pooled", "run"] = "pooled"
    times: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_choice("by", self.by, ("pooled", "run"))
        if isinstance(self.estimator, str):
            check_choice("noise", self.estimator, get_args(Estimator))
        elif self.residuals is not None or self.times is not None or self.by != "pooled":
            raise NeurordlError(
                "noise= is a covariance, which needs no residuals=, times= and by=; drop them"
            )
        if self.times is not None and np.shape(self.times) != (2,):
            raise NeurordlError(f"times={self.times!r}: expected the first and the last time, in seconds")

    @property
    def name(self) -> str:
        """Name of the estimator; "covariance" of one that is known."""
        return self.estimator if isinstance(self.estimator, str) else "covariance"


def compute_rdms(
    patterns: Datasets,
    dissimilarity: DissimilarityLike = "correlation",
    *,
    descriptor: str = "stimulus",
    center: Center | None = None,
    precision: npt.ArrayLike | None = None,
    noise: Estimator | Noise | npt.ArrayLike | None = None,
    windows: Windows | None = None,
    dtype: npt.DTypeLike = np.float64,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> RDMs:
    """Compute RDMs of measured patterns, one per Dataset, or one per Dataset and ROI.

    Rows of the same stimulus are averaged; stimuli keep the order of their first appearance (rsatoolbox sorts
    them). If a Dataset lacks a stimulus, or the distances of a stimulus are undefined, its pairs are NaN in
    that RDM. Patterns are read in blocks, also from a memory map, so that little memory is needed beside the
    result. Only for cross-validated dissimilarities are all patterns read at once if some stimuli were
    measured more often than others.

    Parameters
    ----------
    patterns
        A Dataset, a list of Datasets, or a mapping from subject to Dataset. The keys of a mapping become the
        RDM descriptor ``subject``, unless every key is already the value of another descriptor of its
        Dataset, as the layers of `extract_patterns` are. If channels have the descriptor ``roi``, an RDM is
        computed for each ROI.

        An array of measurements x channels becomes a Dataset with its stimulus ids:
        ``rsatoolbox.data.Dataset(array, obs_descriptors={"stimulus": ids})``. Measurements over time are a
        ``rsatoolbox.data.TemporalDataset``, (measurements, channels, times), as `read_epochs` returns: an RDM
        is computed for each time, the RDM descriptor ``time``.
    dissimilarity
        Dissimilarity of two patterns: "correlation", "cosine", "euclidean", "euclidean_root", "mahalanobis",
        "crossnobis", "poisson" or "poisson_cv".

        It can also be a `Dissimilarity`, or a function of patterns (stimuli, channels) that returns condensed
        RDMs. ``crossnobis`` and ``poisson_cv`` are cross-validated over runs: a difference between two
        patterns in one run is multiplied by that in another run, whose noise is independent, so that noise
        adds nothing to the expected distance. They therefore need the observation descriptor ``run``, with
        two runs or more. Runs are balanced if every stimulus was measured equally often in every run. In
        unbalanced runs, inner products are means over all pairs of measurements from different runs, as in
        rsatoolbox's ``calc_rdm_unbalanced``. They then depend on the mean pattern of each run, which
        ``center="run"`` removes.
    descriptor
        The observation descriptor that holds the stimulus ids.
    center
        Mean pattern to subtract before anything else: "run" (the mean over the measurements of each run) or
        "all" (the mean over all measurements). By default none is subtracted. ``correlation`` and ``cosine``
        depend on it. Euclidean distances, mahalanobis and crossnobis do not if every stimulus was measured
        equally often in every run.
    precision
        Inverse of the noise covariance, (channels, channels), symmetric and positive semidefinite, for
        ``mahalanobis`` and ``crossnobis``. It is used for all Datasets.
    noise
        Noise normalization: a `Noise`, or the name of its estimator of the covariance ("diagonal",
        "shrinkage_diag", "shrinkage_eye" or "full"). ``mahalanobis`` and ``crossnobis`` use the inverse of
        the covariance as the precision; for ``correlation`` and ``cosine``, patterns are multiplied by the
        symmetric square root of the precision (Walther et al. 2016, NeuroImage 137:188). It can also be the
        covariance itself, an array or an ``mne.Covariance``.
    windows
        Windows of time of a TemporalDataset, see `Windows`; by default each sample. The time of a window is
        the mean of those of its samples.
    dtype
        float64, or float32, which halves memory and time.
    out
        A .npy file to which the RDMs are written block by block. The returned RDMs are then a memory map of
        this file.
    progress
        Show a progress bar; by default on a terminal and in a notebook.

    Returns
    -------
    RDMs
        RDMs whose RDM descriptors are those of the Datasets (and ``roi`` and ``time``), with the pattern
        descriptor ``stimulus``. The descriptor ``provenance`` is JSON that records how patterns and RDMs were
        made.

    Warns
    -----
    UserWarning
        A Dataset lacks stimuli that others have. A cross-validated dissimilarity is computed from stimuli
        that were measured in a single run, or from unbalanced runs with a mean pattern that was not removed.
        The patterns of all stimuli are nearly the same, because they share a mean pattern. Measurements hold
        NaN or infinity, or patterns are constant, so that pairs are undefined. Samples fill no window, or the
        length of windows is rounded.

    Raises
    ------
    NeurordlError
        There are no Datasets, stimulus ids, or runs where they are needed; there are fewer than two stimuli;
        Datasets have different descriptors; the dissimilarity is unknown or needs a precision; the noise
        covariance is singular; or times do not fit the measurements or the windows.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> patterns = Dataset(np.eye(3), obs_descriptors={"stimulus": ["face", "house", "tool"]})
    >>> nrl.compute_rdms(patterns, "euclidean").dissimilarities
    array([[0.66666667, 0.66666667, 0.66666667]])
    """
    datasets, each = _datasets(patterns)
    measure = find_dissimilarity(dissimilarity)
    measure.check_name()  # it is written into the RDMs, by which others know how a network is measured
    noise = noise if isinstance(noise, Noise) or noise is None else Noise(noise)
    _check_noise(measure, precision, noise)
    residuals = _residuals(noise, patterns, len(datasets))
    if out is not None and not str(out).endswith(".npy"):
        raise NeurordlError(f"out={str(out)!r}: expected a file named .npy; save_rdms writes other formats")
    sources, whitenings, rows = list[Source](), list[_Whitening](), list[Mapping[str, Any]]()
    by_run = measure.needs_runs or center == "run"
    for number, (dataset, descriptors) in enumerate(zip(datasets, each, strict=True)):
        name = ", ".join(f"{key} {value}" for key, value in descriptors.items() if key != PROVENANCE)
        label = f"Dataset {number} ({name})" if name else f"Dataset {number}"
        for roi, channels in _rois(dataset):
            label_of_roi = label if roi is None else f"{label}, roi {roi}"
            options: dict[str, Any] = {"by_run": by_run, "channels": channels, "dtype": dtype}
            if hasattr(dataset, "time_descriptors"):
                options["windows"] = windows or Windows()
            elif windows is not None or (noise is not None and noise.times is not None):
                raise NeurordlError(f"{label} has no times, which windows= and times= choose; leave them out")
            reader = WindowSource if "windows" in options else Source
            source = reader(dataset, label_of_roi, descriptor, **options).centered(center)
            sources.append(source)
            whitenings.append(_whitening(source, measure, precision, noise, residuals[number]))
            of_roi = descriptors if roi is None else {**descriptors, "roi": roi}
            times = (
                [{"time": time} for time in source.placed.times] if isinstance(source, WindowSource) else [{}]
            )
            rows += [{**of_roi, **time} for time in times]
    described = _columns(rows, sources)
    described.pop(PROVENANCE, None)
    records = [parsed_record(row[PROVENANCE]) for row in each if PROVENANCE in row]
    stimuli = tuple(dict.fromkeys(stimulus for source in sources for stimulus in source.ids))
    _warn_of_windows(sources)
    _warn_of_stimuli(sources, stimuli)
    check_runs(sources, measure)
    shape = (len(rows), len(stimuli) * (len(stimuli) - 1) // 2)
    with nullcontext() if out is None else atomic_write(out) as aside:
        vectors: Any = np.empty(shape, dtype) if aside is None else open_memmap(aside, "w+", dtype, shape)
        parts = np.split(vectors, np.cumsum([source.n_rdms for source in sources])[:-1])
        each_part = list(zip(sources, whitenings, parts, strict=True))
        for source, whitening, part in tracked(each_part, "RDMs", progress):
            if source.ids == stimuli:
                _write(part, measure, source, whitening)
                continue
            number_of = {stimulus: number for number, stimulus in enumerate(stimuli)}
            numbers = np.array([number_of[stimulus] for stimulus in source.ids])
            row, column = (numbers[index.numpy()] for index in condensed_index(len(numbers)))
            measured = np.empty((len(part), len(row)), dtype)
            _write(measured, measure, source, whitening)
            part[:] = np.nan
            part[:, pair_number(np.minimum(row, column), np.maximum(row, column), len(stimuli))] = measured
        _warn_of_averages(parts, sources, measure)
        _warn_of_nan(parts, sources, measure)
        if aside is not None:
            vectors.flush()
    if out is not None:
        vectors = np.load(out, mmap_mode="r", allow_pickle=False)
    record: dict[str, object] = {
        "dissimilarity": measure.name,
        "center": center,
        "noise": noise and noise.name,
        "noise_by": noise and noise.by,
        "noise_from": noise and ("measurements" if noise.residuals is None else "residuals"),
        "precision": precision is not None,
        "balanced": all(source.balanced for source in sources),
    }
    if any(isinstance(source, WindowSource) for source in sources):
        record |= {"windows": asdict(windows or Windows()), "noise_times": noise and noise.times}
    from rsatoolbox.rdm.rdms import RDMs

    return RDMs(
        vectors,
        dissimilarity_measure=measure.written,
        descriptors={PROVENANCE: provenance_text(record, records)},
        rdm_descriptors=described,
        pattern_descriptors={"stimulus": list(stimuli)},
    )


def odd_even_reliability(
    patterns: DatasetBase, dissimilarity: DissimilarityLike = "correlation", **options: Any
) -> Floats:
    """Correlate the RDM of the odd runs with that of the even runs.

    Parameters
    ----------
    patterns
        Patterns with the observation descriptor ``run``. Runs are numbered in the order of their first
        appearance.
    dissimilarity, **options
        As in `neurordl.compute_rdms`. The noise is estimated from all runs.

    Returns
    -------
    array, (n_rdms,)
        Pearson's r over the pairs that were measured in both halves; NaN if there are fewer than three. r is
        the reliability of half the data; by the Spearman-Brown formula, that of all runs is 2r / (1 + r).

    Raises
    ------
    NeurordlError
        There are fewer than two runs, or fewer than four for a cross-validated dissimilarity.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> from neurordl.rdms import odd_even_reliability
    >>> geometry, ids = np.random.default_rng(0).normal(size=(8, 5)), list("abcdefgh")
    >>> measurement = nrl.simulate.Measurement(runs=4)
    >>> people = nrl.simulate.simulate_patterns(geometry, ids, 1, measurement=measurement, snr=1)
    >>> odd_even_reliability(people["s01"], "crossnobis").round(2)
    array([0.97])
    """
    measure = find_dissimilarity(dissimilarity)
    runs, run = coded(patterns, "run", "the dataset")
    needed = 4 if measure.needs_runs else 2
    if len(runs) < needed:
        raise NeurordlError(f"{measure} in two halves needs {needed} runs or more, but there are {len(runs)}")
    odd, even = (
        compute_rdms(take_rows(patterns, np.flatnonzero(run % 2 == half)), measure, **options)
        for half in (0, 1)
    )
    in_both = set(stimulus_ids(even))
    shared = [stimulus for stimulus in stimulus_ids(odd) if stimulus in in_both]
    result = np.full(len(odd), np.nan)
    for k, pair in enumerate(zip(reindex(odd, shared), reindex(even, shared), strict=True)):
        measured = np.isfinite(pair).all(axis=0)
        if measured.sum() > 2:
            result[k] = np.corrcoef(np.stack(pair)[:, measured])[0, 1]
    return result


# input


def _datasets(patterns: Any) -> tuple[list[DatasetBase], list[dict[str, Any]]]:
    """Return the Datasets, and the descriptors of each; names of a mapping are subjects."""
    single = is_dataset(patterns) or not isinstance(patterns, Iterable)
    datasets = [patterns] if single else list(patterns)
    if isinstance(patterns, Mapping):
        datasets = list(patterns.values())
    if not datasets or not all(is_dataset(dataset) for dataset in datasets):
        types = ", ".join(sorted({type(dataset).__name__ for dataset in datasets})) or "none"
        remedy = "use Dataset(array, obs_descriptors={'stimulus': ids})"
        raise NeurordlError(f"compute_rdms takes one or more rsatoolbox Datasets, not {types}; {remedy}")
    each = [dict(dataset.descriptors) for dataset in datasets]
    named = list(zip(patterns, each, strict=True)) if isinstance(patterns, Mapping) else []
    if not all(name in descriptors.values() for name, descriptors in named):
        for name, descriptors in named:
            if descriptors.setdefault("subject", name) != name:
                problem = f"the Dataset with the key {name!r} is of subject {descriptors['subject']!r}"
                remedy = "use the subjects as keys, or give each Dataset its key as a descriptor"
                raise NeurordlError(f"{problem}; {remedy}")
    return datasets, each


def _rois(dataset: DatasetBase) -> list[tuple[Any, npt.NDArray[np.intp] | None]]:
    """Return each ROI with the numbers of its channels; None twice if channels have no ROIs."""
    if "roi" not in dataset.channel_descriptors:
        return [(None, None)]
    rois = np.asarray(dataset.channel_descriptors["roi"])
    return [(roi, np.flatnonzero(rois == roi)) for roi in dict.fromkeys(rois.tolist())]


def _columns(rows: Sequence[Mapping[str, Any]], sources: Sequence[Source]) -> dict[str, list[Any]]:
    """Return the values of each descriptor, which all rows must have."""
    keys = dict.fromkeys(key for row in rows for key in row)
    source_of = chain.from_iterable([source] * source.n_rdms for source in sources)
    for row, source in zip(rows, source_of, strict=True):
        if absent := [key for key in keys if key not in row]:
            problem = f"the descriptor {absent[0]!r} is missing in {source.label}, but others have it"
            raise NeurordlError(f"{problem}; give it to all or to none")
    return {key: [row[key] for row in rows] for key in keys}


def _residuals(noise: Noise | None, patterns: Datasets, n: int) -> list[DatasetBase | None]:
    """Return residuals in the order of the patterns: by name where both have names."""
    if noise is None or noise.residuals is None:
        return [None] * n
    residuals = noise.residuals
    if isinstance(residuals, Mapping) != isinstance(patterns, Mapping):
        raise NeurordlError("residuals= must be a mapping if the patterns are one, and otherwise a list")
    if isinstance(residuals, Mapping) and isinstance(patterns, Mapping):
        if absent := [name for name in patterns if name not in residuals]:
            raise NeurordlError(f"residuals= has no Dataset for {absent[0]!r}; it has {', '.join(residuals)}")
        return [residuals[name] for name in patterns]
    rows: list[Any] = [residuals] if is_dataset(residuals) else list(residuals)
    if len(rows) != n or not all(is_dataset(dataset) for dataset in rows):
        raise NeurordlError(f"residuals= has {len(rows)} entries for {n} Datasets; give a Dataset for each")
    return rows


def _check_noise(measure: Dissimilarity, precision: npt.ArrayLike | None, noise: Noise | None) -> None:
    """Refuse a precision and a noise that a dissimilarity cannot use."""
    if precision is not None and noise is not None:
        raise NeurordlError("precision= and noise= were both given; give one of them")
    if noise is None:
        measure.check_precision(precision is not None)
    elif measure.precision == "none" and not measure.whitened_by_root:
        takes = [known.precision != "none" or known.whitened_by_root for known in DISSIMILARITIES.values()]
        able = listed(compress(DISSIMILARITIES, takes), 9)
        raise NeurordlError(f"{measure} takes no noise=; choose one of {able}")
    elif noise.by == "run" and not measure.needs_runs:
        problem = "is for dissimilarities across runs, such as crossnobis"
        raise NeurordlError(f"Noise(by='run') {problem}, and not for {measure}")


def _warn_of_windows(sources: Sequence[Source]) -> None:
    """Say once of all Datasets alike what was rounded or left out of their times."""
    alike: dict[str, list[Source]] = {}
    for source in sources:
        for remark in source.placed.remarks if isinstance(source, WindowSource) else ():
            alike.setdefault(remark, []).append(source)
    for remark, those in alike.items():
        notify(f"{labels_of(those)}: {remark}")


def _warn_of_stimuli(sources: Sequence[Source], stimuli: Sequence[str]) -> None:
    for source in sources:
        if len(source.ids) < len(stimuli):
            lacking = listed((stimulus for stimulus in stimuli if stimulus not in source.numbers), 3)
            notice = f"{source.label} has {len(source.ids)} of {len(stimuli)} stimuli"
            notify(f"{notice}; the pairs of the others ({lacking}) are NaN in its RDM")


def _warn_of_averages(
    parts: Sequence[npt.NDArray[Any]], sources: Sequence[Source], measure: Dissimilarity
) -> None:
    """Warn if block averages differ by little beside the mean that all have in common."""
    if not measure.normalized:
        return
    medians: dict[Source, float] = {}
    for rdm, source in zip(parts, sources, strict=True):
        average = isinstance(source.record, Mapping) and source.record.get("model") == "average"
        if average and source.center is None and np.isfinite(rdm).any():
            medians[source] = float(np.nanmedian(rdm))
    alike = [source for source, median in medians.items() if median < _ALIKE]
    if alike:
        notice = f"{labels_of(alike)}: the {measure} distances of block averages are tiny (median "
        notice += f"{medians[alike[0]]:.2g}), because all averages contain the mean signal; "
        notify(notice + 'subtract it with center="run" (in the shell --center run)')


def _warn_of_nan(
    parts: Sequence[npt.NDArray[Any]], sources: Sequence[Source], measure: Dissimilarity
) -> None:
    """Warn of pairs that are undefined because of NaN in the measurements, or of constant patterns."""
    for rdm, source in zip(parts, sources, strict=True):
        n_pairs = len(rdm) * (len(source.ids) * (len(source.ids) - 1) // 2)
        undefined = np.count_nonzero(~np.isfinite(rdm)) - (rdm.size - n_pairs)
        if not undefined:
            continue
        reason = "patterns are constant" if measure.normalized else ""
        try:
            source.check_finite(slice(None))
        except NeurordlError as error:
            reason = str(error)
        if reason:
            notice = f"{source.label}: {undefined} of {n_pairs} pairs are NaN, because {reason}"
            notify(notice)


# one RDM


@dataclass(frozen=True, eq=False)
class _Whitening:
    """What is done about noise: nothing, a product with a root, a precision, or a covariance of each run."""

    root: Tensor | None = None
    precision: Tensor | None = None
    offset: Tensor | None = None  # common to all patterns: distances do not depend on it, and it costs digits
    covariances: Sequence[Floats] = ()
    estimator: str = "full"

    def sides(self, patterns: Tensor) -> Sides:
        """Return patterns less the offset, and if there is a precision, their product with it beside them."""
        if self.root is not None:
            return (patterns @ self.root.to(patterns),)
        if self.precision is None or self.offset is None:
            return (patterns,)
        patterns = patterns - self.offset.to(patterns)
        return patterns, patterns @ self.precision.to(patterns)


def _whitening(
    source: Source,
    measure: Dissimilarity,
    precision: npt.ArrayLike | None,
    noise: Noise | None,
    residuals: DatasetBase | None,
) -> _Whitening:
    if noise is not None:
        covariances = _covariances(source, noise, residuals)
        if noise.by == "run":
            return _Whitening(covariances=covariances, estimator=noise.name)
        if measure.whitened_by_root:
            root = _inverse(covariances[0], noise.name, source, power=0.5)
            return _Whitening(root=torch.from_numpy(root))
        precision = _inverse(covariances[0], noise.name, source)
    if precision is None:
        return _Whitening()
    with explain("precision= is not a matrix of real numbers"):
        matrix = torch.as_tensor(np.asarray(precision, dtype=np.float64))
    checked = checked_precision(matrix, source.n_channels)
    if isinstance(source, WindowSource):
        return _Whitening(precision=checked)
    offset = source.patterns(slice(64)).double().mean(0)
    return _Whitening(precision=checked, offset=torch.where(offset.isfinite(), offset, 0))


def _write(rdms: npt.NDArray[Any], measure: Dissimilarity, source: Source, whitening: _Whitening) -> None:
    """Write the condensed RDMs of a source into ``rdms``, (RDMs, pairs), stimuli in the source's order."""
    kernel, shape, out = measure.kernel, (len(source.ids), source.n_channels), rdms[0]
    if isinstance(source, WindowSource):
        start = 0
        for block in source.blocks():
            rdms[start : start + block.n_rdms] = _by_function(measure, block, whitening).numpy()
            start += block.n_rdms
    elif kernel is None or (measure.needs_runs and (whitening.covariances or not source.balanced)):
        out[:] = _by_function(measure, source, whitening).numpy()
    elif measure.needs_runs:
        _write_across_runs(out, kernel, source, whitening)
    else:

        def sides(start: int, stop: int) -> Sides:
            patterns = check_rates(source.patterns(slice(start, stop)), measure, source.label)
            return whitening.sides(patterns) if kernel.sides is None else kernel.sides(patterns)

        plain = whitening.root is None and whitening.precision is None and kernel.sides is None
        in_memory = plain and source.in_memory()
        scale = kernel.factor(shape[1])
        add_distances(sides, shape, out, kernel.normalize, scale=scale, in_memory=in_memory)
        if kernel.root:
            np.sqrt(out, out=out)


def _write_across_runs(
    out: npt.NDArray[Any], kernel: SquaredDistance, source: Source, whitening: _Whitening
) -> None:
    """Write distances over pairs of runs: those of the sum over runs less those of each run."""
    runs, shape = range(len(source.runs)), (len(source.ids), source.n_channels)
    kept: list[Sides] | None = None
    if len(runs) * shape[0] * shape[1] * source.dtype.itemsize <= _KEPT:
        kept = [whitening.sides(patterns) for patterns in source.each_run(slice(None), runs)]

    def add(chosen: Sequence[int], sign: float, in_memory: bool = False) -> None:
        def sides(start: int, stop: int) -> Sides:
            if kept is None:
                parts = [whitening.sides(part) for part in source.each_run(slice(start, stop), chosen)]
            else:
                parts = [tuple(side[start:stop] for side in kept[run]) for run in chosen]
            return tuple(_total(sides) for sides in zip(*parts, strict=True))

        scale = sign * kernel.factor(shape[1]) / (len(runs) * (len(runs) - 1))
        add_distances(sides, shape, out, kernel.normalize, scale=scale, add=sign < 0, in_memory=in_memory)

    add(runs, 1.0)
    for run in runs:
        add([run], -1.0, whitening.precision is None and source.in_memory(run))


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Sum patterns, some rows at a time: what was added last is still in the cache."""
    if len(parts) == 1:
        return parts[0]
    total = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    step = max(1, _IN_CACHE // (total.shape[1] * total.element_size()))
    for start in range(0, len(total), step):
        rows = slice(start, start + step)
        torch.add(parts[0][rows], parts[1][rows], out=total[rows])
        for part in parts[2:]:
            total[rows] += part[rows]
    return total


def _by_function(measure: Dissimilarity, source: Source, whitening: _Whitening) -> Tensor:
    """Condensed RDM, or RDMs of windows, by the dissimilarity's own function, from all patterns at once."""
    options: dict[str, Tensor] = {}
    with torch.no_grad():
        if not measure.needs_runs:
            patterns = check_rates(source.patterns(), measure, source.label)
            patterns = patterns @ whitening.root.to(patterns) if whitening.root is not None else patterns
            return _distances(measure, source, patterns, whitening.precision, options)
        if not source.balanced and (whitening.covariances or not measure.unbalanced):
            term = "Noise by run" if whitening.covariances else measure
            problem = f"{term} needs every stimulus equally often in every run, and {source.label} is not so"
            raise NeurordlError(f"{problem}; take by='pooled', or leave stimuli or runs out")
        if measure.compact and source.sparse and not whitening.covariances:
            cells, options = source.compact()
            cells = check_rates(cells, measure, source.label)
            return _distances(measure, source, cells, whitening.precision, options)
        cells = check_rates(source.by_run(), measure, source.label)
        if whitening.covariances:
            # the mean over pairs of runs, each with the inverse of their mean covariance
            total, pairs = (
                torch.zeros((), dtype=cells.dtype),
                torch.combinations(torch.arange(len(source.runs))),
            )
            for pair in pairs.tolist():
                mean = (whitening.covariances[pair[0]] + whitening.covariances[pair[1]]) / 2
                precision = torch.from_numpy(_inverse(mean, whitening.estimator, source))
                total = total + _distances(measure, source, cells[..., pair, :, :], precision, options)
            return total / len(pairs)
        if not source.balanced:
            options["counts"] = torch.from_numpy(source.counts.T.astype(np.float64)).to(cells.dtype)
        return _distances(measure, source, cells, whitening.precision, options)


def _distances(
    measure: Dissimilarity,
    source: Source,
    patterns: Tensor,
    precision: Tensor | None,
    options: Mapping[str, Tensor],
) -> Tensor:
    """Distances of patterns by the function of a dissimilarity, also of windows with many samples."""
    if precision is not None:
        options = {**options, "precision": precision.to(patterns.dtype)}
    if not isinstance(source, WindowSource):
        return measure(patterns.clone(), **options)  # a user's function may work in place
    if source.many_samples and precision is None:
        patterns = patterns.movedim(1, -1).flatten(-2)
    elif source.many_samples and not measure.squared:
        problem = f"a precision is for {source.n_channels} channels, and patterns with all samples have more"
        raise NeurordlError(f"{problem}, which {measure} cannot add up; take Windows(average=True)")
    if measure.kernel is None:  # its function may take (stimuli, channels) only
        return torch.stack([measure(part.clone(), **options) for part in patterns])
    rdms = measure(patterns, **options)
    # the mean over samples of squared distances is that of all channels x samples
    return rdms.mean(1) if source.many_samples and precision is not None else rdms


# noise covariances


def _covariances(source: Source, noise: Noise, residuals: DatasetBase | None) -> list[Floats]:
    """Noise covariances: one of all residuals, or one of each run of the source; means over samples."""
    if not isinstance(noise.estimator, str):
        return [_known_covariance(noise.estimator, source)]
    if residuals is None and isinstance(source, WindowSource):
        each = [_estimates(part, noise, None) for part in source.each_sample(noise.times)]
    elif residuals is not None and hasattr(residuals, "time_descriptors"):
        label = f"the residuals of {source.label}"
        windows = Windows() if noise.times is None else Windows(*noise.times)
        placed = windows.place(times_of(residuals, label), label)
        samples = placed.first + np.arange(len(placed.times))
        each = [
            _estimates(source, noise, residuals, np.asarray(residuals.measurements)[:, :, k]) for k in samples
        ]
    else:
        each = [_estimates(source, noise, residuals)]
    return [np.mean(of_run, axis=0) for of_run in zip(*each, strict=True)]


def _known_covariance(covariance: Any, source: Source) -> Floats:
    """A covariance that is known, of the channels of a source; that of MNE by the names of its channels."""
    names, values = getattr(covariance, "ch_names", None), getattr(covariance, "data", covariance)
    with explain("noise= is neither the name of an estimator nor a covariance of real numbers"):
        matrix = np.asarray(covariance if names is None else values, dtype=np.float64)
    matrix = np.diag(matrix) if names is not None and matrix.ndim == 1 else matrix
    total = source.measurements.shape[1]
    if names is not None:
        channels = source.channel_names
        if channels is None:
            problem = f"{source.label} has no channel descriptor 'channel' to match the covariance with"
            raise NeurordlError(f"{problem}; name the channels, or give an array in their order")
        if not set(channels) & set(names):
            problem = f"no channel of {source.label} ({listed(channels)}) has a name in the covariance"
            raise NeurordlError(
                f"{problem} ({listed(names)}); name them alike, or give an array in their order"
            )
        sides, remedy = (f"channels of {source.label}", "covariance"), "pick channels that it has"
        rows = match_ids(channels, list(names), names=sides, remedy=remedy).index
        matrix = matrix[np.ix_(rows, rows)]
    scale = np.abs(matrix).max(initial=0)
    if matrix.shape != (total, total) or not scale < np.inf or np.abs(matrix - matrix.T).max() > 1e-7 * scale:
        problem = f"noise= has the shape {matrix.shape}, for {total} channels of {source.label}"
        raise NeurordlError(f"{problem}: expected a finite, symmetric covariance (channels, channels)")
    return matrix if source.channels is None else matrix[np.ix_(source.channels, source.channels)]


def _estimates(
    source: Source, noise: Noise, residuals: DatasetBase | None, rows: npt.NDArray[Any] | None = None
) -> list[Floats]:
    """Estimated noise covariances: one, or one of each run; ``rows`` may stand for the residuals."""
    label = f"the residuals of {source.label}"
    if residuals is None:
        rows, dof = source.within()
        if dof < 1:
            problem = (
                f"{source.label} has no repeats of its {len(source.ids)} stimuli to estimate the noise from"
            )
            raise NeurordlError(f"{problem}; give residuals=, or the covariance itself as noise=")
        runs, run = source.runs, source.run
        dof_of = [dof / len(rows) * count for count in np.bincount(run).tolist()]
    else:
        rows = np.asarray(residuals.measurements) if rows is None else rows
        total = source.measurements.shape[1]
        if rows.ndim != 2 or rows.shape[1] != total:
            raise NeurordlError(f"{label} have shape {rows.shape}; expected {total} columns (channels)")
        rows = rows if source.channels is None else rows[:, source.channels]
        dof, dofs = float(len(rows) - 1), residuals.obs_descriptors.get("dof")
        if noise.by == "run" or dofs is not None:
            runs, run = coded(residuals, "run", label)
            dof_of = [count - 1.0 for count in np.bincount(run).tolist()]
        if dofs is not None:
            with explain(f"the observation descriptor 'dof' of {label} holds no numbers"):
                values = np.array([float(value) for value in dofs])
            dof_of = [float(values[run == number][0]) for number in range(len(runs))]
            dof = sum(dof_of)
    if noise.by == "pooled":
        return [_of_types(rows, dof, noise.name, source, source.label)]
    if absent := [name for name in source.runs if name not in runs]:
        raise NeurordlError(f"{label} have no run {absent[0]!r}")
    return [
        _of_types(rows[run == k], dof_of[k], noise.name, source, f"{source.label}, run {runs[k]}")
        for k in map(runs.index, source.runs)
    ]


def _of_types(rows: npt.NDArray[Any], dof: float, estimator: str, source: Source, label: str) -> Floats:
    """Estimated covariance of channels that may be of several types."""
    if not source.types_of_channels().any() or not np.isfinite(rows).all():
        return covariance(rows, dof, estimator, label)
    units = _units(rows.var(axis=0, dtype=np.float64), source)
    return covariance(rows * units, dof, estimator, label) / np.outer(units, units)


def _units(variances: Floats, source: Source) -> Floats:
    """Factors that give the channels of each type a mean variance of 1."""
    types = source.types_of_channels()
    means = np.bincount(types, variances) / np.bincount(types)
    return np.asarray(1 / np.sqrt(np.where(means > 0, means, 1.0)))[types]


def covariance(residuals: npt.NDArray[np.floating], dof: float, estimator: str, label: str) -> Floats:
    """Estimate the covariance of channels as rsatoolbox does.

    Parameters
    ----------
    residuals
        (observations, channels); their mean is removed.
    dof
        Degrees of freedom of the residuals.
    estimator
        As in `Noise`.
    label
        What messages call the residuals.

    Returns
    -------
    array, (channels, channels)

    Raises
    ------
    NeurordlError
        Residuals that are not finite, or too few of them.
    """
    rows = np.asarray(residuals, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not 1 <= dof < np.inf or not np.isfinite(rows).all():
        problem = f"cannot be estimated from {rows.shape} residuals with {dof:g} degrees of freedom"
        expected = "finite numbers, (observations, channels), with 1 degree or more"
        raise NeurordlError(f"the noise of {label} {problem}: expected {expected}")
    rows = rows - rows.mean(axis=0)
    n = len(rows)
    if estimator == "diagonal":
        return np.diag(np.einsum("ij,ij->j", rows, rows) / dof)
    products = rows.T @ rows
    if estimator == "full":
        return np.asarray(products / dof)
    squares = (rows**2).T @ rows**2
    if estimator == "shrinkage_eye":
        sample = products / n
        target = np.trace(sample) / len(sample) * np.eye(len(sample))
        spread = float(((sample - target) ** 2).sum())
        error = min(spread, float((squares / n - sample**2).sum()) / n)
        share = error / spread if spread > 0 else 1.0
        return np.asarray((share * target + (1 - share) * sample) * n / dof)
    sample = products / dof
    variance = np.diag(sample)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = products / np.sqrt(np.outer(variance, variance)) / (n - 1)
        of_squares = squares / np.outer(variance, variance) / (n - 1)
    off = ~np.eye(len(sample), dtype=bool) & np.isfinite(correlations)
    uncertain = n / dof**2 * (of_squares - correlations**2)[off].sum()
    total = (correlations[off] ** 2).sum()
    share = min(max(uncertain / total, 0.0), 1.0) if total > 0 else 1.0
    return np.asarray(sample * np.where(np.eye(len(sample), dtype=bool), 1.0, 1 - share))


def _inverse(matrix: Floats, estimator: str, source: Source, power: float = 1.0) -> Floats:
    """Return the inverse of a covariance, or a root of it; refuse an estimate that is singular.

    Whether it is singular is judged where channels of all types have the same mean variance: in volts and
    teslas, magnetometers would be rounding errors beside EEG. A root is symmetric there.
    """
    label, several = source.label, source.types_of_channels().any()
    units = _units(np.diag(matrix), source) if several else np.ones(len(matrix))
    values, vectors = np.linalg.eigh(matrix * np.outer(units, units) if several else matrix)
    floor = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    rank = int((values > floor).sum())
    if rank < len(values) and estimator == "covariance" and rank:
        of_all = f"has rank {rank} of {len(values)} channels"
        notify(f"{label}: the covariance {of_all}; patterns are whitened within it")
        values, vectors = values[values > floor], vectors[:, values > floor]
    elif rank < len(values):
        remedy = "drop channels without variance" if estimator != "full" else "take noise='shrinkage_diag'"
        problem = f"the noise covariance of {label} is singular with noise={estimator!r}"
        counts = f"{len(values)} channels, rank {rank}"
        raise NeurordlError(f"{problem}: {counts}; {remedy}, or give more residuals")
    inverse = (vectors / values**power) @ vectors.T
    return np.asarray(
        inverse * (units[:, None] if power < 1 else np.outer(units, units)) if several else inverse
    )
