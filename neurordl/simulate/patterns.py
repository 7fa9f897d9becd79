"""Simulated subjects whose representational geometry is known.

With X the patterns of the known geometry, each less its mean over channels and all scaled to unit variance,
the measured patterns of subject s are

    Y_s = sqrt(1 - i) X P_s + sqrt(i) Z_s Q_s + E_s / sqrt(snr)

- P_s, drawn for each subject, spreads the geometry over the subject's channels. It is an isometry onto
  directions without a mean over channels, so that with i = 0, no noise and more channels than X has,
  correlation distances are those of X exactly; with fewer channels it is a random projection.
- Z_s Q_s is the subject's own geometry: a few dimensions (``DIMENSIONS``), independent of X and of the other
  subjects, spread over channels in the same way. ``idiosyncrasy`` i is its share of the signal's variance.
- E_s is measurement noise, normal with unit variance, independent but for what ``smoothness`` says, and new
  for each run and repeat. ``snr`` is the signal's variance over the noise's, per channel and measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.selection import stimulus_ids

__all__ = ["DIMENSIONS", "patterns_of", "simulate_patterns", "simulate_subjects", "standardised", "whole"]

DIMENSIONS = 5

Floats = npt.NDArray[np.float64]


def simulate_patterns(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    n_subjects: int,
    *,
    n_channels: int = 100,
    idiosyncrasy: float = 0.2,
    snr: float = 1.0,
    runs: int | None = None,
    repeats: int = 1,
    smoothness: float = 0.0,
    missing: float = 0.0,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Measured patterns of subjects who share a geometry, by the model at the top of this module.

    Parameters
    ----------
    patterns
        (stimuli, channels), of the known geometry: a layer of a network, say, or `patterns_of` an RDM. Their
        mean over channels is no part of it: Euclidean distances that come back are those without it.
    ids
        Stimulus of each row.
    n_subjects
        They are called "s01", "s02" and so on; the first ones are the same however many there are.
    n_channels
        Channels (voxels, neurons) of each subject, 2 or more.
    idiosyncrasy
        Share of the signal's variance that is the subject's own, from 0 to 1.
    snr
        Variance of the signal over that of the noise, above 0; ``math.inf`` is no noise.
    runs, repeats
        How many runs, and how often a stimulus is measured in each; None is one measurement without runs.
    smoothness
        Above 0, half of the noise's variance is smooth: the standard deviation, in channels, of the normal
        kernel along the channels, which stand in a ring. (All of it smooth would leave directions without
        noise.)
    missing
        Share of the stimuli that a subject lacks, drawn for each; and, with runs, of the cells of stimulus
        and run that are lost beside (a stimulus keeps two runs where there are two).
    seed
        Of all that is random.

    Returns
    -------
    dict of subject to Dataset
        Measurements (stimuli, n_channels), with the observation descriptor ``stimulus`` and the descriptor
        ``subject`` (with runs (runs × repeats × stimuli, n_channels), also ``run``): what `PatternTeacher`
        and `compute_rdms` take.

    Raises
    ------
    NeurordlError
        Patterns of another shape, not finite or without variance, or a number out of its range.
    """
    names = check_ids(ids, "simulated patterns")
    true = standardised(patterns, len(names))
    whole(n_subjects=n_subjects, n_channels=n_channels, runs=runs or 1, repeats=repeats, seed=seed)
    if (runs is not None and runs < 1) or repeats < 1 or not smoothness >= 0 or not 0 <= missing < 1:
        raise NeurordlError(
            f"cannot simulate runs={runs}, repeats={repeats}, smoothness={smoothness}, missing={missing}: "
            "expected 1 or more, 1 or more, 0 or more, a share from 0 to below 1"
        )
    if n_subjects < 1 or n_channels < 2 or not 0 <= idiosyncrasy <= 1 or not snr > 0:
        raise NeurordlError(
            f"cannot simulate n_subjects={n_subjects}, n_channels={n_channels}, idiosyncrasy={idiosyncrasy}, "
            f"snr={snr}: expected 1 subject or more, 2 channels or more, a share from 0 to 1, an snr above 0"
        )
    subjects = {}
    for number in range(1, n_subjects + 1):
        rng = np.random.default_rng([seed, number])
        own = rng.standard_normal((len(names), DIMENSIONS))
        signal = np.sqrt(1 - idiosyncrasy) * _spread(true, n_channels, rng)
        signal += np.sqrt(idiosyncrasy) * _spread(own / own.std(), n_channels, rng)
        stimulus, run = _design(len(names), runs, repeats, missing, rng)
        measured = signal[stimulus] + _noise(len(stimulus), n_channels, smoothness, rng) / np.sqrt(snr)
        name = f"s{number:02d}"
        rows: dict[str, list[str]] = {"stimulus": [names[k] for k in stimulus]}
        if runs is not None:
            rows["run"] = [f"run-{k + 1:02d}" for k in run]
        subjects[name] = Dataset(measured, descriptors={"subject": name}, obs_descriptors=rows)
    return subjects


def _design(
    n: int, runs: int | None, repeats: int, missing: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Stimulus and run of each measurement."""
    shape = (runs or 1, repeats, n)
    run, _, stimulus = (part.ravel() for part in np.indices(shape))
    if missing == 0:
        return stimulus, run
    seen = np.ones(n, dtype=bool)
    seen[rng.permutation(n)[: min(n - 2, round(missing * n))]] = False
    kept = np.broadcast_to(seen, (runs or 1, n)).copy()
    if runs is not None:
        lost = rng.random((runs, n)) < missing
        for k in range(n):
            lost[rng.permutation(runs)[:2], k] = False
        kept &= ~lost
    at = kept[run, stimulus]
    return stimulus[at], run[at]


def _noise(rows: int, channels: int, smoothness: float, rng: np.random.Generator) -> Floats:
    """Normal noise of unit variance, half of it smoothed along the channels."""
    noise = rng.standard_normal((rows, channels))
    if smoothness == 0:
        return noise
    away = np.minimum(np.arange(channels), channels - np.arange(channels))
    kernel = np.exp(-((away / smoothness) ** 2) / 2)
    spectrum = np.fft.rfft(kernel / np.linalg.norm(kernel))
    smooth = np.fft.irfft(np.fft.rfft(noise, axis=1) * spectrum, n=channels, axis=1)
    return np.asarray((smooth + rng.standard_normal(noise.shape)) / np.sqrt(2))


def patterns_of(rdms: RDMs, number: int = 0) -> Floats:
    """Patterns that have the geometry of an RDM, for `simulate_patterns` and `simulate_fmri`.

    Parameters
    ----------
    rdms, number
        The RDM to take. Correlation and cosine distances give patterns with these distances; others are
        taken for squared Euclidean ones (up to a factor), as crossnobis distances estimate them.

    Returns
    -------
    array, (stimuli, stimuli + 1)
        Without a mean over channels. What of an RDM no patterns can have (negative eigenvalues: noise) is
        left out.

    Raises
    ------
    NeurordlError
        A pair is missing, or all are equal to 0.
    """
    matrix = rdms.get_matrices()[number]
    names = stimulus_ids(rdms)
    if not np.isfinite(matrix).all():
        raise NeurordlError("the RDM has missing pairs (NaN); a geometry has to be whole")
    n = len(names)
    measure = dissimilarity_from_text(rdms.dissimilarity_measure)
    if measure is not None and measure.kernel is not None and measure.kernel.normalize != "none":
        inner = 1 - matrix
    else:
        centre = np.eye(n) - 1 / n
        inner = -centre @ matrix @ centre / 2
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    if values[-1] <= 0 or not matrix.any():
        raise NeurordlError("the RDM has no geometry: its dissimilarities are 0")
    # directions that sum to 0 over channels, so that removing that mean changes nothing
    flat = np.linalg.qr(np.column_stack([np.ones(n + 1), np.eye(n + 1)[:, :n]]))[0][:, 1:]
    return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)) @ flat.T)


def simulate_subjects(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    n_subjects: int,
    *,
    method: str = "correlation",
    **options: Any,
) -> RDMs:
    """RDMs of the patterns of `simulate_patterns`, whose parameters these are.

    Parameters
    ----------
    method
        As in `neurordl.compute_rdms`; those across runs need ``runs=``.
    **options
        Of `simulate_patterns`.

    Returns
    -------
    RDMs
        One per subject, with the RDM descriptor ``subject`` and the pattern descriptor ``stimulus``.
    """
    return compute_rdms(list(simulate_patterns(patterns, ids, n_subjects, **options).values()), method)


def whole(**numbers: object) -> None:
    """Refuse what is no whole number of 0 or more."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 0:
            raise NeurordlError(f"{name}={number!r}: expected a whole number")


def standardised(given: npt.ArrayLike, n: int, what: str = "patterns") -> Floats:
    """Patterns without their mean over channels, scaled together to unit variance."""
    try:
        patterns = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise NeurordlError(f"the {what} are no array of numbers: {error}") from error
    if patterns.ndim != 2 or len(patterns) != n or patterns.shape[1] < 2:
        raise NeurordlError(
            f"the {what} have shape {patterns.shape}: expected ({n} stimuli, 2 or more channels)"
        )
    if not np.isfinite(patterns).all():
        raise NeurordlError(f"the {what} hold NaN or infinite values; give the geometry whole")
    centred = patterns - patterns.mean(axis=1, keepdims=True)
    spread = centred.std()
    if spread <= 1e-12 * np.abs(patterns).max():
        raise NeurordlError(f"the {what} are constant over channels: they have no geometry to simulate")
    return np.asarray(centred / spread)


def _spread(patterns: Floats, n_channels: int, rng: np.random.Generator) -> Floats:
    """Patterns (n, k) of unit variance, spread over channels: (n, n_channels), of unit variance."""
    k = patterns.shape[1]
    rank = min(k, n_channels - 1)  # one direction, the mean over channels, stays empty
    kept = np.linalg.qr(rng.standard_normal((k, rank)))[0]
    basis = rng.standard_normal((n_channels, rank))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    return np.asarray(patterns @ kept @ basis.T * np.sqrt(n_channels / rank))
