"""Simulated subjects whose representational geometry is known.

With X the patterns of the known geometry, each less its mean over channels and all scaled to unit variance,
the measured patterns of subject s are

    Y_s = sqrt(1 - i) X P_s + sqrt(i) Z_s Q_s + E_s / sqrt(snr)

- P_s, drawn for each subject, spreads the geometry over the subject's channels. It is an isometry onto
  directions without a mean over channels, so that with i = 0, no noise and more channels than X has,
  correlation distances are those of X exactly; with fewer channels it is a random projection.
- Z_s Q_s is the subject's own geometry: a few dimensions (``DIMENSIONS``), independent of X and of the other
  subjects, spread over channels in the same way. ``idiosyncrasy`` i is its share of the signal's variance.
- E_s is measurement noise, independent and normal with unit variance. ``snr`` is the signal's variance over
  the noise's, per channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.matching import check_ids
from neurordl.rdms.compute import compute_rdms

__all__ = ["DIMENSIONS", "simulate_patterns", "simulate_subjects"]

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
    seed: int = 0,
) -> dict[str, Dataset]:
    """Measured patterns of subjects who share a geometry, by the model at the top of this module.

    Parameters
    ----------
    patterns
        (stimuli, channels), of the known geometry: a layer of a network, say.
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
    seed
        Of all that is random.

    Returns
    -------
    dict of subject to Dataset
        Measurements (stimuli, n_channels), with the observation descriptor ``stimulus`` and the descriptor
        ``subject``: what `PatternTeacher` and `compute_rdms` take.

    Raises
    ------
    NeurordlError
        Patterns of another shape, not finite or without variance, or a number out of its range.
    """
    names = check_ids(ids, "simulated patterns")
    true = _standardised(np.asarray(patterns, dtype=np.float64), len(names))
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
        measured = signal + rng.standard_normal(signal.shape) / np.sqrt(snr)
        name = f"s{number:02d}"
        subjects[name] = Dataset(
            measured, descriptors={"subject": name}, obs_descriptors={"stimulus": list(names)}
        )
    return subjects


def simulate_subjects(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    n_subjects: int,
    *,
    n_channels: int = 100,
    idiosyncrasy: float = 0.2,
    snr: float = 1.0,
    seed: int = 0,
) -> RDMs:
    """RDMs (correlation distance) of the patterns of `simulate_patterns`, whose parameters these are.

    Returns
    -------
    RDMs
        One per subject, with the RDM descriptor ``subject`` and the pattern descriptor ``stimulus``.
    """
    subjects = simulate_patterns(
        patterns,
        ids,
        n_subjects,
        n_channels=n_channels,
        idiosyncrasy=idiosyncrasy,
        snr=snr,
        seed=seed,
    )
    return compute_rdms(list(subjects.values()), method="correlation")


def _standardised(patterns: Floats, n: int) -> Floats:
    """Patterns without their mean over channels, scaled together to unit variance."""
    if patterns.ndim != 2 or len(patterns) != n or patterns.shape[1] < 2:
        raise NeurordlError(
            f"the patterns have shape {patterns.shape}: expected ({n} stimuli, 2 or more channels)"
        )
    if not np.isfinite(patterns).all():
        raise NeurordlError("the patterns hold NaN or infinite values; give the geometry whole")
    centred = patterns - patterns.mean(axis=1, keepdims=True)
    spread = centred.std()
    if spread <= 1e-12 * np.abs(patterns).max():
        raise NeurordlError("the patterns are constant over channels: they have no geometry to simulate")
    return np.asarray(centred / spread)


def _spread(patterns: Floats, n_channels: int, rng: np.random.Generator) -> Floats:
    """Patterns (n, k) of unit variance, spread over channels: (n, n_channels), of unit variance."""
    k = patterns.shape[1]
    rank = min(k, n_channels - 1)  # one direction, the mean over channels, stays empty
    kept = np.linalg.qr(rng.standard_normal((k, rank)))[0]
    basis = rng.standard_normal((n_channels, rank))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    return np.asarray(patterns @ kept @ basis.T * np.sqrt(n_channels / rank))
