"""Simulated subjects with a known representational geometry, and the size of a study by simulation.

Let X be the patterns of the known geometry, of which each has its mean over channels subtracted and all are
scaled to unit variance. The measured patterns of subject s are

    Y_s = sqrt(1 - i) X P_s + sqrt(i) Z_s Q_s + E_s / sqrt(snr)

- P_s is drawn for each subject and spreads the geometry over the subject's channels. It is an isometry onto
  directions without a mean over channels. So with i = 0, without noise and with more channels than X has,
  correlation distances are exactly those of X; with fewer channels P_s is a random projection.
- Z_s Q_s is the geometry of this subject alone: a few dimensions, independent of X and of the other subjects,
  spread over channels in the same way. Its share of the signal's variance is the idiosyncrasy i.
- E_s is measurement noise, normal with unit variance and new for each run and repeat; it is independent
  between channels unless it is smooth. ``snr`` is the variance of the signal over that of the noise, per
  channel and measurement.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm.rdms import RDMs
from scipy.signal import lfilter

from neurordl.arrays import Floats, Ints
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import check_ids, natural_key
from neurordl.measures.comparisons import ComparisonLike, find_similarity
from neurordl.measures.dissimilarities import Dissimilarity, dissimilarity_from_text, find_dissimilarity
from neurordl.progress import tracked
from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.selection import reindex, stimulus_ids
from neurordl.rsa.inference.infer import infer_study
from neurordl.rsa.inference.resampling import Resampling, Study, find_resampling
from neurordl.validate import check_count, check_number, listed

_MEMORY = 0.9  # of the noise of simulated epochs, from a sample to the next
_DIMENSIONS = 5  # of the geometry of one subject alone


@dataclass(frozen=True)
class Measurement:
    """How the stimuli are measured in each subject.

    Attributes
    ----------
    runs, repeats
        Number of runs, and of measurements of a stimulus in each run. None simulates one run, without the
        descriptor ``run``.
    smoothness
        If above 0, half of the noise's variance is smooth along the channels, which form a ring; this is the
        standard deviation of the normal kernel in channels. (All of it smooth would leave directions without
        noise.)
    missing
        Share of the stimuli that a subject lacks, drawn for each subject, from 0 to below 1. With ``runs``,
        the same share of the other measurements (a stimulus in a run) is lost, too, but each stimulus keeps
        at least two runs if there are two.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.simulate.Measurement(runs=4).runs
    4
    """

    runs: int | None = None
    repeats: int = 1
    smoothness: float = 0.0
    missing: float = 0.0

    def __post_init__(self) -> None:
        check_count("runs", 1 if self.runs is None else self.runs)
        check_count("repeats", self.repeats)
        check_number("smoothness", self.smoothness, 0)
        check_number("missing", self.missing, 0, 1, open_high=True)

    def rows(self, n_stimuli: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Draw the stimulus and the run of each measurement."""
        n_runs = self.runs or 1
        run, _, stimulus = (index.ravel() for index in np.indices((n_runs, self.repeats, n_stimuli)))
        if self.missing == 0:
            return stimulus, run
        kept = np.ones((n_runs, n_stimuli), dtype=bool)
        n_lost = min(n_stimuli - 2, round(self.missing * n_stimuli))
        kept[:, rng.permutation(n_stimuli)[:n_lost]] = False
        if self.runs is not None:
            lost = rng.random(kept.shape) < self.missing
            for k in range(n_stimuli):
                lost[rng.permutation(n_runs)[:2], k] = False
            kept &= ~lost
        measured = kept[run, stimulus]
        return stimulus[measured], run[measured]

    def noise(self, n_rows: int, n_channels: int, rng: np.random.Generator) -> Floats:
        """Draw normal noise of unit variance, (rows, channels)."""
        noise = rng.standard_normal((n_rows, n_channels))
        if self.smoothness == 0:
            return noise
        distance = np.minimum(np.arange(n_channels), n_channels - np.arange(n_channels))
        kernel = np.exp(-((distance / self.smoothness) ** 2) / 2)
        spectrum = np.fft.rfft(kernel / np.linalg.norm(kernel))
        smooth = np.fft.irfft(np.fft.rfft(noise, axis=1) * spectrum, n=n_channels, axis=1)
        return np.asarray((smooth + rng.standard_normal(noise.shape)) / np.sqrt(2))


def simulate_patterns(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    n_subjects: int,
    *,
    n_channels: int = 100,
    idiosyncrasy: float = 0.2,
    snr: float = 1.0,
    measurement: Measurement = Measurement(),
    seed: int = 0,
) -> dict[str, Dataset]:
    """Simulate the patterns of subjects who share a geometry, by the model at the top of this module.

    Parameters
    ----------
    patterns
        (stimuli, channels) of the known geometry, such as a layer of a network, or `patterns_of` an RDM. The
        mean of each pattern over channels is removed, also from Euclidean distances.
    ids
        Stimulus of each row.
    n_subjects
        Number of subjects, who are called "s01", "s02" and so on. More subjects do not change the first ones.
    n_channels
        Number of channels (voxels, neurons) of each subject, at least 2.
    idiosyncrasy
        Share of the signal's variance that belongs to the subject alone, from 0 to 1.
    snr
        Variance of the signal over that of the noise, above 0; ``math.inf`` stands for no noise.
    measurement
        Runs, repeats, smoothness of the noise and missing stimuli.
    seed
        Seed of all random draws.

    Returns
    -------
    dict of subject to Dataset
        Measurements (stimuli, n_channels), or with runs (runs × repeats × stimuli, n_channels). Observation
        descriptors: ``stimulus``, with runs also ``run``. Descriptor: ``subject``.

    Raises
    ------
    NeurordlError
        The patterns have another shape, are not finite or are constant over channels, or a number is out of
        range.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> measurement = nrl.simulate.Measurement(runs=4)
    >>> data = nrl.simulate.simulate_patterns(np.eye(3), ["a", "b", "c"], 2, measurement=measurement)
    >>> data["s01"].measurements.shape
    (12, 100)
    """
    names = check_ids(ids, "simulated patterns")
    geometry = _standardize(patterns, len(names))
    check_count("n_subjects", n_subjects)
    check_count("n_channels", n_channels, 2)
    check_count("seed", seed, 0)
    check_number("idiosyncrasy", idiosyncrasy, 0, 1)
    check_snr(snr)
    subjects = {}
    for number in range(1, n_subjects + 1):
        rng = np.random.default_rng([seed, number])
        private = rng.standard_normal((len(names), _DIMENSIONS))
        signal = np.sqrt(1 - idiosyncrasy) * _spread(geometry, n_channels, rng)
        signal += np.sqrt(idiosyncrasy) * _spread(private / private.std(), n_channels, rng)
        stimulus, run = measurement.rows(len(names), rng)
        measured = signal[stimulus] + measurement.noise(len(stimulus), n_channels, rng) / np.sqrt(snr)
        rows = {"stimulus": [names[k] for k in stimulus]}
        if measurement.runs is not None:
            rows["run"] = [f"run-{k + 1:02d}" for k in run]
        name = f"s{number:02d}"
        subjects[name] = Dataset(measured, descriptors={"subject": name}, obs_descriptors=rows)
    return subjects


def check_snr(snr: float) -> None:
    """Raise an error unless a signal-to-noise ratio is above 0; it may be infinite."""
    if snr != math.inf:
        check_number("snr", snr, 0, open_low=True)


def _standardize(values: npt.ArrayLike, n_stimuli: int, name: str = "patterns") -> Floats:
    """Patterns without their mean over channels, scaled together to unit variance."""
    with explain(f"the {name} are not an array of numbers"):
        patterns = np.asarray(values, dtype=np.float64)
    if patterns.ndim != 2 or len(patterns) != n_stimuli or patterns.shape[1] < 2:
        expected = f"({n_stimuli} stimuli, 2 or more channels)"
        raise NeurordlError(f"the {name} have shape {patterns.shape}: expected {expected}")
    if not np.isfinite(patterns).all():
        raise NeurordlError(f"the {name} hold NaN or infinite values; give a complete geometry")
    centered = patterns - patterns.mean(axis=1, keepdims=True)
    scale = centered.std()
    if scale <= 1e-12 * np.abs(patterns).max():
        raise NeurordlError(f"the {name} are constant over channels: they have no geometry to simulate")
    return np.asarray(centered / scale)


def _spread(patterns: Floats, n_channels: int, rng: np.random.Generator) -> Floats:
    """Patterns (n, k) of unit variance, spread over channels: (n, n_channels), of unit variance."""
    k = patterns.shape[1]
    rank = min(k, n_channels - 1)  # one direction, the mean over channels, stays empty
    projection = np.linalg.qr(rng.standard_normal((k, rank)))[0]
    basis = rng.standard_normal((n_channels, rank))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    return np.asarray(patterns @ projection @ basis.T * np.sqrt(n_channels / rank))


def simulate_epochs(
    layers: Mapping[str, npt.ArrayLike],
    strengths: Mapping[str, npt.ArrayLike],
    ids: Sequence[str],
    times: npt.ArrayLike,
    *,
    n_subjects: int = 12,
    n_channels: int = 32,
    runs: int = 4,
    seed: int = 0,
) -> list[TemporalDataset]:
    """Simulate the MEG or EEG epochs of subjects in whom several geometries follow each other in time.

    Each geometry is spread over a subject's channels, as in `simulate_patterns`, and multiplied by its
    strength at each time. Noise of unit variance is added to each channel and trial, correlated over samples
    (autoregressive, 0.9 from one sample to the next).

    Parameters
    ----------
    layers
        Patterns (stimuli, features) of each geometry, by name; they are standardized.
    strengths
        The strength of each geometry at each time, (times,), by name: the standard deviation of the signal
        over that of the noise.
    ids
        Stimulus ids, in the order of the patterns.
    times
        Times of the samples, in seconds.
    n_subjects, n_channels
        Numbers of subjects and channels.
    runs
        Runs of each subject, with a trial for each stimulus.
    seed
        Seed of the simulation.

    Returns
    -------
    list of TemporalDataset
        One for each subject, as `read_epochs` returns: measurements (trials, channels, times) with the
        descriptors ``stimulus`` and ``run``, in random order.

    Raises
    ------
    NeurordlError
        Names, patterns, strengths and times do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> times = np.arange(10) / 100
    >>> epochs = nrl.simulate.simulate_epochs(
    ...     {"first": np.eye(4)}, {"first": times > 0.05}, list("abcd"), times, n_subjects=2
    ... )
    >>> epochs[0].measurements.shape
    (16, 32, 10)
    """
    names, seconds = check_ids(ids, "simulated epochs"), np.asarray(times, dtype=np.float64)
    for name, count in (("n_subjects", n_subjects), ("runs", runs)):
        check_count(name, count)
    check_count("n_channels", n_channels, 3)
    if set(layers) != set(strengths) or not layers:
        both = f"strengths= are of {listed(strengths)}, and layers= of {listed(layers)}"
        raise NeurordlError(f"{both}; name both alike")
    patterns = {name: _standardize(layers[name], len(names), f"patterns of {name!r}") for name in layers}
    gains = {name: np.asarray(strengths[name], dtype=np.float64) for name in layers}
    for name, gain in gains.items():
        if gain.shape != seconds.shape or seconds.ndim != 1:
            raise NeurordlError(
                f"the strengths of {name!r} have shape {gain.shape}, and times {seconds.shape}"
            )
    subjects = []
    for number in range(n_subjects):
        rng = np.random.default_rng([seed, number])
        signal = np.zeros((len(names), n_channels, len(seconds)))
        for name, values in patterns.items():
            signal += _spread(values, n_channels, rng)[:, :, None] * gains[name]
        order = np.concatenate([rng.permutation(len(names)) for _ in range(runs)])
        noise = rng.standard_normal((len(order), n_channels, len(seconds)))
        noise[..., 1:] *= np.sqrt(1 - _MEMORY**2)
        noise = lfilter([1.0], [1.0, -_MEMORY], noise, axis=-1)
        subjects.append(
            TemporalDataset(
                signal[order] + noise,
                descriptors={"subject": f"s{number + 1:02d}"},
                obs_descriptors={
                    "stimulus": [names[k] for k in order],
                    "run": np.repeat(np.arange(runs), len(names)).tolist(),
                },
                time_descriptors={"time": seconds.tolist()},
            )
        )
    return subjects


def simulate_subjects(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    n_subjects: int,
    *,
    dissimilarity: str | Dissimilarity = "correlation",
    **options: Any,
) -> RDMs:
    """Simulate the RDMs of subjects who share a geometry: those of the patterns of `simulate_patterns`.

    Parameters
    ----------
    patterns, ids, n_subjects
        As in `simulate_patterns`.
    dissimilarity
        As in `neurordl.compute_rdms`. A cross-validated one needs ``measurement=Measurement(runs=...)``.
    **options
        ``n_channels``, ``idiosyncrasy``, ``snr``, ``measurement`` and ``seed`` of `simulate_patterns`.

    Returns
    -------
    RDMs
        One per subject, with the RDM descriptor ``subject`` and the pattern descriptor ``stimulus``.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> nrl.simulate.simulate_subjects(np.eye(3), ["a", "b", "c"], n_subjects=2, snr=10).n_rdm
    2
    """
    subjects = simulate_patterns(patterns, ids, n_subjects, **options)
    return compute_rdms(list(subjects.values()), dissimilarity)


def patterns_of(rdms: RDMs, number: int = 0) -> Floats:
    """Find patterns that have the geometry of an RDM, for `simulate_patterns` and `simulate_fmri`.

    Parameters
    ----------
    rdms, number
        RDMs, and the number of the one to use. Correlation and cosine distances are reproduced as such; other
        dissimilarities are read as squared Euclidean distances (up to a factor), which crossnobis distances
        estimate.

    Returns
    -------
    array, (stimuli, stimuli + 1)
        Patterns with a mean of 0 over channels. Negative eigenvalues, which are noise, are left out.

    Raises
    ------
    NeurordlError
        A pair is missing, or all dissimilarities are 0.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=1)
    >>> nrl.simulate.patterns_of(rdms).shape
    (4, 5)
    """
    matrix = rdms.get_matrices()[number]
    if not np.isfinite(matrix).all():
        raise NeurordlError("the RDM has missing pairs (NaN); give a complete geometry")
    n = len(stimulus_ids(rdms))
    measure = dissimilarity_from_text(rdms.dissimilarity_measure)
    inner = 1 - matrix
    if measure is None or not measure.normalized:
        centering = np.eye(n) - 1 / n
        inner = -centering @ matrix @ centering / 2
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    if values[-1] <= 0 or not matrix.any():
        raise NeurordlError("the RDM has no geometry: its dissimilarities are 0")
    # directions that sum to 0 over channels, so that removing this mean changes nothing
    basis = np.linalg.qr(np.column_stack([np.ones(n + 1), np.eye(n + 1)[:, :n]]))[0][:, 1:]
    return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)) @ basis.T)


def plan_study(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    *,
    subjects: Sequence[int] = (5, 10, 20),
    stimuli: Sequence[int] | None = None,
    runs: Sequence[int] = (2, 4, 8),
    rival: npt.ArrayLike | None = None,
    dissimilarity: str | Dissimilarity = "crossnobis",
    comparison: ComparisonLike = "corr",
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = None,
    n_simulations: int = 50,
    alpha: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Simulate studies of several sizes to see how similar a model is and how often it is detected.

    Each simulated study draws its stimuli anew from all stimuli, and is tested as `neurordl.evaluate` tests
    it with the same ``comparison`` and ``bootstrap``: plan with those that you will use. The default, a t
    test over subjects, is about new subjects and the same stimuli. Inference about new subjects and new
    stimuli ("both") detects less, and with the variance "bootstrap" less than with "components".

    Parameters
    ----------
    patterns, ids
        The geometry of the model, (stimuli, channels), as in `simulate_patterns`, which is also the true one
        unless ``truth`` is given. Its mean over channels, and those of the others, are removed before
        anything is simulated or compared.
    subjects, stimuli, runs
        Numbers to try, in all combinations; by default all stimuli.
    rival
        Patterns of another model, (stimuli, channels), which the model has to beat.
    dissimilarity
        As in `neurordl.compute_rdms`. Models are measured by it if it normalizes patterns (correlation,
        cosine), else by Euclidean distances.
    comparison, bootstrap
        As in `neurordl.evaluate`.
    n_simulations
        Number of studies for each combination.
    alpha
        Level of the tests.
    seed
        Seed of all random draws.
    **options
        ``snr`` (take it from a pilot study), ``idiosyncrasy``, ``n_channels`` and ``measurement`` of
        `simulate_patterns`; ``truth``: patterns of the true geometry, (stimuli, channels), if the model is
        not all of it, such as `patterns_of` the mean RDM of a pilot study; and ``progress``: whether a
        progress bar is shown.

    Returns
    -------
    DataFrame
        One row per combination, with the ``comparison``, the name of the ``inference`` and means over
        studies: ``similarity`` of the model to a subject; ``ceiling_lower`` and ``ceiling_upper``, the
        similarity of a subject to the mean of the others and of all; ``power``, the share of studies in which
        the model is significantly similar (one-sided); with a rival also ``power_rival``, the share in
        which it is significantly more similar than the rival (two-sided, as `Evaluation.differences`).

    Warns
    -----
    UserWarning
        The test of some studies is undefined; they count as not significant.

    Raises
    ------
    NeurordlError
        A number is out of range, or as in `simulate_patterns`.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(12)]
    >>> geometry = np.random.default_rng(0).normal(size=(12, 6))
    >>> sizes = {"subjects": (4, 8), "runs": (2,), "n_simulations": 2}
    >>> table = nrl.simulate.plan_study(geometry, ids, snr=0.2, **sizes)
    >>> len(table)
    2
    """
    names = check_ids(ids, "simulated patterns")
    stimuli = [len(names)] if stimuli is None else stimuli
    for name, numbers, least in (("subjects", subjects, 2), ("stimuli", stimuli, 4), ("runs", runs, 1)):
        if not isinstance(numbers, Iterable) or not list(numbers):
            raise NeurordlError(f"{name}={numbers!r}: expected a list of one or more whole numbers")
        for number in numbers:
            check_count(name, number, least)
    if max(stimuli) > len(names):
        raise NeurordlError(f"stimuli={max(stimuli)}: the geometry has only {len(names)} stimuli")
    check_count("n_simulations", n_simulations)
    check_count("seed", seed, 0)
    check_number("alpha", alpha, 0, 1, open_low=True, open_high=True)
    models = [_standardize(patterns, len(names))]
    truth = _standardize(options.pop("truth", patterns), len(names), "patterns of the truth")
    if rival is not None:
        models.append(_standardize(rival, len(names), "patterns of the rival"))
    comparison, resampling = find_similarity(comparison), find_resampling(bootstrap)
    resampling.check(comparison)
    measurement = options.pop("measurement", Measurement())
    studies, progress = [], options.pop("progress", None)
    planned = list(product(stimuli, runs, range(n_simulations)))
    for n_stimuli, n_runs, k in tracked(planned, "studies", progress):
        options["measurement"] = replace(measurement, runs=n_runs)
        of_models, measured = _simulate_study(
            [truth, *models], names, n_stimuli, max(subjects), dissimilarity, [seed, k], options
        )
        shown = sorted(stimulus_ids(measured), key=natural_key)
        study = Study(reindex(of_models, shown), reindex(measured, shown), comparison)
        if not np.isfinite(study.scores).all():
            problem = "a subject has too few pairs, or equal distances"
            raise NeurordlError(f"with {n_stimuli} stimuli {problem}; try more stimuli, or less missing=")
        for n in subjects:  # the first subjects of each study
            size = {"n_subjects": n, "n_stimuli": n_stimuli, "n_runs": n_runs}
            some = study.of_subjects(np.arange(max(subjects)) < n)
            scheme = resampling.for_stimuli(shown, {})
            studies.append(size | {"inference": scheme.title} | _score(some, shown, scheme, alpha))
    table = pd.DataFrame(studies)
    powers = table.filter(like="power")
    if untested := int(powers.isna().any(axis=1).sum()):
        share = f"{untested} of {len(table)} simulated studies"
        notify(f"the test of {share} is undefined: they count as not significant")
    table[powers.columns] = powers.fillna(0.0)
    table = table.groupby([*size, "inference"], sort=False, as_index=False).mean()
    table.insert(len(size), "comparison", comparison.name)
    return table


def _simulate_study(
    geometries: Sequence[Floats],
    names: Sequence[str],
    n_stimuli: int,
    n_subjects: int,
    dissimilarity: str | Dissimilarity,
    seed: Sequence[int],
    options: dict[str, Any],
) -> tuple[RDMs, RDMs]:
    """RDMs of the models and of the subjects of one simulated study; the first geometry is the true one."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:n_stimuli])
    shown = [names[k] for k in chosen]
    entropy = int(np.random.SeedSequence(seed).generate_state(1)[0])
    data = simulate_patterns(geometries[0][chosen], shown, n_subjects, seed=entropy, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the stimuli that are missing on purpose
        measured = compute_rdms(data, dissimilarity, progress=False)
    measure = find_dissimilarity(dissimilarity)
    datasets = [Dataset(model[chosen], obs_descriptors={"stimulus": shown}) for model in geometries[1:]]
    models = compute_rdms(datasets, measure if measure.normalized else "euclidean", progress=False)
    return models, measured


def _score(study: Study, stimuli: Sequence[str], resampling: Resampling, alpha: float) -> dict[str, float]:
    """Similarity, noise ceiling and tests of one study, the model before its rival; NaN where undefined."""
    draws = resampling.draw([str(k) for k in range(len(study.data))], stimuli)
    inference = infer_study(study, resampling, draws)
    lower, upper = inference.ceiling
    scores = {"similarity": float(study.scores[0].mean()), "ceiling_lower": lower, "ceiling_upper": upper}
    p = inference.estimates()["p"][0]
    scores["power"] = float(p < alpha) if np.isfinite(p) else np.nan
    if len(study.models) > 1:
        better, p = (inference.differences()[name][0] for name in ("difference", "p"))
        scores["power_rival"] = float(p < alpha and better > 0) if np.isfinite(p) else np.nan
    return scores
