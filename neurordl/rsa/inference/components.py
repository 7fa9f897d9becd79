"""Variance of a mean similarity by its components: subjects, stimuli, and pairs of stimuli.

A similarity of RDMs is, to first order, a mean over pairs of stimuli. What belongs to single stimuli
and what belongs to pairs alone weigh differently in a resample: a bootstrap of stimuli counts the variance of
pairs three times, since two numbers of draws multiply, and the delete-one jackknife twice (Efron & Stein
1981, Ann. Stat. 9:586). Here the two are told apart and each is counted once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison
from neurordl.rsa.inference.resamples import resampled

__all__ = ["component_variances"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# resamples beyond one per stimulus: what pairs bring is then known to 14 %
_SPARE = 100


def component_variances(
    models: Floats,
    data: Floats,
    comparison: Comparison,
    stimuli: Ints,
    resamples: Floats,
    scores: Floats,
    over_subjects: bool,
    device: str | torch.device | None = None,
) -> tuple[Floats, Floats]:
    """Variances of the models' mean similarities, and of the difference of each two of them (i < j).

    Estimand: the mean over the populations of subjects and stimuli, or, not ``over_subjects``, over that of
    stimuli for these subjects.

    With n stimuli, and covariances of the similarities of different subjects (so that what a subject's own
    noise brings is counted once, with the subjects)::

        subjects + max(jackknife - 2 (n - 1) / (n - 2) pairs, 0) + max(pairs, 0)

    subjects
        Variance of the subjects' similarities, divided by their number; 0 if not ``over_subjects``, where the
        others are covariances of the subjects' means.
    jackknife
        ``(n - 1) / n`` times the sums of squares of similarities with one stimulus left out: those of single
        stimuli, and ``2 (n - 1) / (n - 2)`` times that of pairs.
    pairs
        Residual covariance of the resamples once they are regressed on how often each stimulus was drawn:
        ``c_i c_j - 1 = (c_i - 1) + (c_j - 1) + (c_i - 1) (c_j - 1)``, of which the product is left.

    This is the variance of crossed and of dyadic clusters (Cameron, Gelbach & Miller 2011, J. Bus. Econ.
    Stat. 29:238; Aronow, Samii & Assenova 2015, Polit. Anal. 23:564), its parts held at 0 or more.

    Parameters
    ----------
    models, data, comparison, device
        As in `resampled`.
    stimuli
        (resamples, stimuli) how often each was drawn.
    resamples, scores
        (resamples, models, subjects) similarities in these, and (models, subjects) without resampling.
    over_subjects
        Whether the mean is to hold for new subjects.

    Returns
    -------
    models, differences
        (models,) and (models * (models - 1) / 2,). NaN for a model that is undefined for some of the subjects
        for whom others are defined, or without some stimulus; resamples that leave another undefined are
        left out.

    Raises
    ------
    NeurordlError
        Fewer than four stimuli, or fewer than 100 resamples more than stimuli.
    """
    n = stimuli.shape[1]
    if n < 4:
        raise NeurordlError(f"variance='components' leaves out each stimulus: it takes 4 or more, not {n}")
    there = np.isfinite(scores).any(axis=0)
    if not there.any():
        return np.full(len(models), np.nan), np.full(len(models) * (len(models) - 1) // 2, np.nan)
    data, scores, resamples = data[there], scores[:, there], resamples[:, :, there]
    without = 1 - np.eye(n, dtype=np.int64)
    left_out = resampled(
        models, data, comparison, without, np.ones((0, n, len(data)), dtype=np.int64), device
    )
    alive = np.isfinite(scores).all(axis=1) & np.isfinite(left_out.scores).all(axis=(0, 2))
    alive &= np.isfinite(resamples).any(axis=(0, 2))
    whole = np.isfinite(resamples[:, alive]).all(axis=(1, 2))
    if (spare := int(whole.sum()) - n) < _SPARE:
        raise NeurordlError(
            f"variance='components' takes {n + _SPARE} resamples or more for {n} stimuli, and there are "
            f"{n + spare} in which all is defined; give a larger n_bootstrap"
        )
    kept = resamples[whole][:, alive]
    basis = np.linalg.qr(np.column_stack([np.ones(len(kept)), stimuli[whole, 1:]]))[0]
    flat = kept.reshape(len(kept), -1)
    residuals = (flat - basis @ (basis.T @ flat)).reshape(kept.shape)
    subjects, own = _covariances(scores[None, alive])[1], int(over_subjects)
    pairs, private = (one / spare for one in _covariances(residuals))
    jackknife, apart = (one * (n - 1) / n for one in _covariances(_centred(left_out.scores[:, alive])))
    if over_subjects:
        pairs, jackknife = pairs - private, jackknife - apart
    at = np.flatnonzero(alive)
    found = np.full((3, len(models), len(models)), np.nan)
    found[:, at[:, None], at] = own * subjects, jackknife, pairs
    variances = np.einsum("kii->ki", found)
    i, j = np.triu_indices(len(models), 1)
    differences = variances[:, i] + variances[:, j] - 2 * found[:, i, j]
    return _sum(variances, n), _sum(differences, n)


def _centred(scores: Floats) -> Floats:
    return np.asarray(scores - scores.mean(axis=0))


def _covariances(deviations: Floats) -> tuple[Floats, Floats]:
    """(samples, models, subjects) -> sums of squares of the mean over subjects, and each subject's part."""
    mean = deviations.mean(axis=2)
    rest = (deviations - mean[:, :, None]).transpose(1, 0, 2).reshape(deviations.shape[1], -1)
    n = deviations.shape[2]
    return mean.T @ mean, rest @ rest.T / (n * max(n - 1, 1))


def _sum(parts: Floats, n: int) -> Floats:
    subjects, jackknife, pairs = parts
    return np.asarray(
        subjects + np.maximum(jackknife - 2 * (n - 1) / (n - 2) * pairs, 0) + np.maximum(pairs, 0)
    )
