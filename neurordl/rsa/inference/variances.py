"""Variances of mean similarities: from resamples as rsatoolbox takes them, or by components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neurordl.arrays import Floats, Ints
from neurordl.errors import NeurordlError

_SPARE = 100  # resamples beyond one per stimulus: the variance that pairs add is then known to 14 %


class Spread(NamedTuple):
    """Variances of mean similarities, corrected for small samples; None where there is no variance."""

    models: Floats | None
    """(models,) of each model's mean."""
    differences: Floats | None
    """(models * (models - 1) / 2,) of the difference of each two models (i < j)."""
    ceilings: Floats | None
    """(models, 2) of each model's difference from the lower and the upper noise ceiling."""


class Resamples(NamedTuple):
    """The similarities that a `Variance` may use."""

    scores: Floats
    """(models, subjects) without resampling."""
    resampled: Floats
    """(resamples, models, subjects) in each resample of the stimuli."""
    counts: Ints
    """(resamples, stimuli) how often each stimulus was drawn."""
    without_each: Callable[[], Floats]
    """Returns the similarities with each stimulus left out, (stimuli, models, subjects)."""
    over_subjects: bool
    """Whether the mean generalizes to new subjects, too."""


@dataclass(frozen=True)
class Variance:
    """The variance of the resamples, as rsatoolbox takes it.

    Where stimuli are resampled its intervals are too wide: two numbers of draws multiply in each pair, so
    that the variance of single pairs is counted three times.
    """

    name = "bootstrap"
    title = ""
    """How it is written in the title of an evaluation; empty for the usual one."""
    why_undefined = ""
    """Why a model may have no variance."""

    def check(self, factors: Sequence[str]) -> None:
        """Refuse factors ("subjects", "stimuli") whose variance cannot be taken in this way."""

    def estimate(self, resamples: Resamples) -> tuple[Floats, Floats] | None:
        """Variances of models and of their differences; None for those of the resamples."""
        return None


@dataclass(frozen=True)
class ComponentVariance(Variance):
    """Variance by its components: subjects, single stimuli, and pairs of stimuli.

    A similarity of RDMs is, to first order, a mean over pairs of stimuli. The variance that belongs to single
    stimuli and the variance that belongs to pairs have different weights in a resample: a bootstrap of
    stimuli counts the variance of pairs three times, since two numbers of draws multiply, and the delete-one
    jackknife counts it twice (Efron & Stein 1981, Ann. Stat. 9:586). Here the two are separated and each is
    counted once.

    Estimand: the mean over the populations of subjects and stimuli, or, if only stimuli are resampled, over
    the population of stimuli for these subjects. With n stimuli, and covariances of the similarities of
    different subjects (so that a subject's noise is counted once, with the subjects)::

        subjects + max(jackknife - 2 (n - 1) / (n - 2) pairs, 0) + max(pairs, 0)

    subjects
        Variance of the subjects' similarities, divided by their number; 0 if only stimuli are resampled,
        where the other terms are covariances of the subjects' means.
    jackknife
        ``(n - 1) / n`` times the sum of squares of the similarities without one stimulus: the variance of
        single stimuli, and ``2 (n - 1) / (n - 2)`` times that of pairs.
    pairs
        Residual covariance of the resamples after regression on how often each stimulus was drawn:
        ``c_i c_j - 1 = (c_i - 1) + (c_j - 1) + (c_i - 1) (c_j - 1)``, of which the product remains.

    This is the variance of crossed and of dyadic clusters (Cameron, Gelbach & Miller 2011, J. Bus. Econ.
    Stat. 29:238; Aronow, Samii & Assenova 2015, Polit. Anal. 23:564), its parts bounded below by 0.
    """

    name = "components"
    title = "variances by components"
    why_undefined = (
        "no variance by components: undefined without some stimulus, or for some subject; "
        "variance='bootstrap' has one"
    )

    def check(self, factors: Sequence[str]) -> None:
        """Refuse subjects alone."""
        if "stimuli" not in factors:
            raise NeurordlError("variance='components' needs resampled stimuli: resample 'stimuli' or 'both'")

    def estimate(self, resamples: Resamples) -> tuple[Floats, Floats]:
        """Variances of models and of their differences.

        Returns
        -------
        models, differences
            (models,) and (models * (models - 1) / 2,). NaN for a model that is undefined without some
            stimulus, or for some of the subjects for whom others are defined; resamples that leave another
            model undefined are left out.

        Raises
        ------
        NeurordlError
            There are fewer than four stimuli, or fewer than 100 resamples more than stimuli.
        """
        counts, scores = resamples.counts, resamples.scores
        n, n_models = counts.shape[1], len(scores)
        if n < 4:
            raise NeurordlError(f"variance='components' needs 4 stimuli or more, not {n}")
        by_model = np.full((3, n_models, n_models), np.nan)
        known = np.isfinite(scores).any(axis=0)
        if known.any():
            resampled, without = (x[:, :, known] for x in (resamples.resampled, resamples.without_each()))
            scores = scores[:, known]
            alive = np.isfinite(scores).all(axis=1) & np.isfinite(without).all(axis=(0, 2))
            alive &= np.isfinite(resampled).any(axis=(0, 2))
            whole = np.isfinite(resampled[:, alive]).all(axis=(1, 2))
            if (spare := int(whole.sum()) - n) < _SPARE:
                raise NeurordlError(
                    f"variance='components' needs {n + _SPARE} or more defined resamples of {n} stimuli, but "
                    f"there are {n + spare}; give Bootstrap a larger n"
                )
            kept = resampled[whole][:, alive]
            basis = np.linalg.qr(np.column_stack([np.ones(len(kept)), counts[whole, 1:]]))[0]
            flat = kept.reshape(len(kept), -1)
            residuals = (flat - basis @ (basis.T @ flat)).reshape(kept.shape)
            without = without[:, alive]
            subjects = _mean_and_private(scores[None, alive])[1] * resamples.over_subjects
            pairs, private_pairs = (part / spare for part in _mean_and_private(residuals))
            jackknife, private = (
                part * (n - 1) / n for part in _mean_and_private(without - without.mean(axis=0))
            )
            if resamples.over_subjects:
                pairs, jackknife = pairs - private_pairs, jackknife - private
            rows = np.flatnonzero(alive)
            by_model[:, rows[:, None], rows] = subjects, jackknife, pairs
        variances = np.einsum("kii->ki", by_model)
        i, j = np.triu_indices(n_models, 1)
        differences = variances[:, i] + variances[:, j] - 2 * by_model[:, i, j]
        return _total(variances, n), _total(differences, n)


VARIANCES: dict[str, Variance] = {"bootstrap": Variance(), "components": ComponentVariance()}


def _mean_and_private(deviations: Floats) -> tuple[Floats, Floats]:
    """(samples, models, subjects) -> sums of squares of the mean over subjects, and each subject's part."""
    mean = deviations.mean(axis=2)
    rest = (deviations - mean[:, :, None]).transpose(1, 0, 2).reshape(deviations.shape[1], -1)
    n = deviations.shape[2]
    return mean.T @ mean, rest @ rest.T / (n * max(n - 1, 1))


def _total(parts: Floats, n: int) -> Floats:
    subjects, jackknife, pairs = parts
    single = np.maximum(jackknife - 2 * (n - 1) / (n - 2) * pairs, 0)
    return np.asarray(subjects + single + np.maximum(pairs, 0))


def covariance_with(evaluations: Floats, ceilings: Floats | None = None) -> Floats:
    """Covariance of evaluations (samples, models) and of ceilings (samples, 2), as rsatoolbox takes it.

    A model that is undefined throughout has NaN. A sample in which another model is undefined is left out;
    one in which only the ceiling is undefined is left out of the ceiling's covariances.
    """
    n_models, size = evaluations.shape[1], evaluations.shape[1]
    columns = np.flatnonzero(np.isfinite(evaluations).any(axis=0))
    together = evaluations
    if ceilings is not None and np.isfinite(ceilings).any():
        together, size = np.concatenate([evaluations, ceilings], axis=1), size + 2
    covariance = np.full((size, size), np.nan)
    for kept in (np.concatenate([columns, np.arange(n_models, size)]), columns):
        samples = together[:, kept]
        samples = samples[np.isfinite(samples).all(axis=1)]
        if len(samples) > 1:
            covariance[np.ix_(kept, kept)] = np.cov(samples.T)
    return covariance


def spread_of(variances: Floats | None, n_models: int, correct: Callable[[Floats], Floats]) -> Spread:
    """Variances of models, of their differences and from the ceilings, corrected for small samples.

    Parameters
    ----------
    variances
        Covariance of the models, with two more rows and columns for the ceilings or not, or three of them:
        of both factors resampled, of subjects only, and of stimuli only.
    n_models
        Number of models.
    correct
        Correction of variances (1 or 3, …) to (…), as of `small_sample_correction`.
    """
    if variances is None:
        return Spread(None, None, None)
    stack = variances if variances.ndim == 3 else variances[None]
    diagonal = np.einsum("kii->ki", stack)
    i, j = np.triu_indices(n_models, 1)
    models = diagonal[:, :n_models]
    differences = models[:, i] + models[:, j] - 2 * stack[:, i, j]
    ceilings = np.repeat(models[:, :, None], 2, axis=2)
    if stack.shape[1] > n_models:
        ceilings = ceilings - 2 * stack[:, :n_models, n_models:] + diagonal[:, None, n_models:]
    return Spread(correct(models), correct(differences), correct(ceilings))


def small_sample_correction(parts: Floats, sizes: Sequence[int]) -> Floats:
    """Rsatoolbox's corrections for small samples.

    One factor: the variance times ``n / (n - 1)``. Two: from the variances of both resampled at once, of
    subjects and of stimuli, ``s V_subjects + t V_stimuli - s t (V_both - V_subjects - V_stimuli)``, s and t
    being such factors; at least either alone and at most V_both (Schütt et al. 2023, eLife 12:e82566).

    Parameters
    ----------
    parts
        Variances (1, …) or (3, …).
    sizes
        Number of subjects or stimuli, or of both.
    """
    if len(parts) == 1:
        n = min(sizes)
        return np.asarray(parts[0] * n / (n - 1))
    s, t = (n / (n - 1) for n in sizes)
    both, subjects, stimuli = parts
    corrected = s * subjects + t * stimuli - s * t * (both - subjects - stimuli)
    least = np.maximum(s * subjects, t * stimuli)
    return np.asarray(np.minimum(np.maximum(corrected, least), both))
