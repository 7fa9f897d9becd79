"""Variances of evaluations, and the tests they give: against zero, each other and the noise ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    from neurordl.rsa.inference.infer import Inference

__all__ = [
    "CORRECTIONS",
    "PValues",
    "correct",
    "covariance_with",
    "covariances",
    "extract_variances",
    "interval",
    "mean_interval",
    "p_values",
]

Floats = npt.NDArray[np.float64]
Centre = Literal["resamples", "data"]
Correction = Literal["none", "fdr", "holm", "bonferroni"]

CORRECTIONS = ("none", "fdr", "holm", "bonferroni")
_EPS = float(np.finfo(float).eps)


def covariances(resample: str, evaluations: Floats, noise_ceiling: Floats, n_subjects: int) -> Floats | None:
    """Covariance of the evaluations as rsatoolbox takes it, with the ceilings where stimuli are resampled.

    A model that is undefined throughout has NaN. A resample in which another is undefined is left out; one in
    which only the ceiling is, of the ceiling's.
    """
    if resample == "none":
        if n_subjects < 2:
            return None
        return np.atleast_2d(covariance_with(evaluations[0].T)) * (n_subjects - 1) / n_subjects**2
    if resample == "subjects":
        return covariance_with(evaluations)
    if resample == "stimuli":
        return covariance_with(evaluations, noise_ceiling.T)
    parts = [(evaluations[:, :, 0, 0, k], noise_ceiling[:, :, 0, k].T) for k in range(3)]
    return np.stack([covariance_with(*part) for part in parts])


def covariance_with(evaluations: Floats, ceilings: Floats | None = None) -> Floats:
    """(samples, models), (samples, 2) -> covariance; the models' own from every sample that defines them."""
    n_models, size = evaluations.shape[1], evaluations.shape[1]
    columns = np.flatnonzero(np.isfinite(evaluations).any(axis=0))
    together = evaluations
    if ceilings is not None and np.isfinite(ceilings).any():
        together, size = np.concatenate([evaluations, ceilings], axis=1), size + 2
    found = np.full((size, size), np.nan)
    for kept in (np.concatenate([columns, np.arange(n_models, size)]), columns):
        samples = together[:, kept]
        samples = samples[np.isfinite(samples).all(axis=1)]
        if len(samples) > 1:
            found[np.ix_(kept, kept)] = np.cov(samples.T)
    return found


def extract_variances(
    variances: Floats | None, n_models: int, n_subjects: int | None, n_stimuli: int | None
) -> tuple[Floats, Floats, Floats] | tuple[None, None, None]:
    """Variances of models, of their differences (i < j), and from the ceilings, corrected for small samples.

    rsatoolbox's formulae. One factor: times ``n / (n - 1)``. Two: from the covariances of both at once, of
    subjects and of stimuli, ``s V_subjects + t V_stimuli - s t (V_both - V_subjects - V_stimuli)``, s and t
    being such factors; at least either alone and at most V_both (Schütt et al. 2023, eLife 12:e82566).

    Parameters
    ----------
    variances
        Covariance of the models, with two rows and columns more for the ceilings or not, or three of them.
    n_models, n_subjects, n_stimuli
        How many; None for a factor that was not resampled.
    """
    if variances is None:
        return None, None, None
    stack = variances if variances.ndim == 3 else variances[None]
    own = np.einsum("kii->ki", stack)
    i, j = np.triu_indices(n_models, 1)
    models = own[:, :n_models]
    differences = models[:, i] + models[:, j] - 2 * stack[:, i, j]
    ceilings = np.repeat(models[:, :, None], 2, axis=2)
    if stack.shape[1] > n_models:
        ceilings = ceilings - 2 * stack[:, :n_models, n_models:] + own[:, None, n_models:]
    found = [_corrected(one, n_subjects, n_stimuli) for one in (models, differences, ceilings)]
    return found[0], found[1], found[2]


def _corrected(parts: Floats, n_subjects: int | None, n_stimuli: int | None) -> Floats:
    numbers = [n for n in (n_subjects, n_stimuli) if n is not None]
    if len(parts) == 1:
        n = min(numbers)
        return np.asarray(parts[0] * n / (n - 1))
    s, t = (n / (n - 1) for n in numbers)
    both, subjects, stimuli = parts
    found = s * subjects + t * stimuli - s * t * (both - subjects - stimuli)
    return np.asarray(np.minimum(np.maximum(np.maximum(found, s * subjects), t * stimuli), both))


@dataclass(frozen=True, eq=False)
class PValues:
    """p-values, corrected as asked.

    Attributes
    ----------
    zero
        (models,) one-sided: the similarity is above zero.
    pairs
        (models, models) two-sided: two models differ; 1 on the diagonal.
    ceiling
        (models,) two-sided: the model differs from the lower noise ceiling.
    """

    zero: Floats
    pairs: Floats
    ceiling: Floats


def p_values(found: Inference, *, correction: Correction = "none", centre: Centre = "resamples") -> PValues:
    """Test models by t against zero, each other and the lower noise ceiling: rsatoolbox's defaults.

    Estimand: that of the inference (``found.estimand``): a p-value generalises to what was resampled.

    Parameters
    ----------
    found
        What `infer` gave.
    correction
        For many tests, within each of the three families: "fdr" (Benjamini & Hochberg 1995), "holm" or
        "bonferroni" (family-wise), or "none" as rsatoolbox gives them.
    centre
        Where the mean is taken: of the "resamples", as rsatoolbox does, or of the "data" as they are.

    Raises
    ------
    NeurordlError
        No variance (one subject, not resampled), or an unknown correction.
    """
    if correction not in CORRECTIONS:
        raise NeurordlError(f"unknown correction {correction!r}; choose one of {', '.join(CORRECTIONS)}")
    if found.model_var is None or found.diff_var is None or found.noise_ceil_var is None:
        raise NeurordlError("one subject, not resampled, has no variance to test with; resample the stimuli")
    means, dof = _means(found, centre), found.dof
    lower = float(np.nanmean(found.noise_ceiling[0])) if np.isfinite(found.noise_ceiling[0]).any() else np.nan
    if centre == "data":
        lower = found.ceiling[0]
    i, j = np.triu_indices(len(means), 1)
    two_sided = [
        2 * stats.t.sf(np.abs(difference) / _sem(variance), dof)
        for difference, variance in (
            (means[i] - means[j], found.diff_var),
            (means - lower, found.noise_ceil_var[:, 0]),
        )
    ]
    pairs = np.ones((len(means), len(means)))
    pairs[i, j] = pairs[j, i] = correct(two_sided[0], correction)
    zero = stats.t.sf(means / _sem(found.model_var), dof)
    return PValues(correct(zero, correction), pairs, correct(two_sided[1], correction))


def interval(found: Inference, *, level: float = 0.95, centre: Centre = "resamples") -> tuple[Floats, Floats]:
    """Bounds of each model's mean by t, (models,) each: rsatoolbox's ``get_ci``; NaN without a variance."""
    means = _means(found, centre)
    if found.model_var is None:
        return np.full(means.shape, np.nan), np.full(means.shape, np.nan)
    reach = stats.t.ppf((1 + level) / 2, found.dof) * np.sqrt(np.maximum(found.model_var, 0))
    return means - reach, means + reach


def _means(found: Inference, centre: Centre) -> Floats:
    if centre not in ("resamples", "data"):
        raise NeurordlError(f"unknown centre {centre!r}; choose 'resamples' or 'data'")
    if centre == "resamples":
        return found.means
    return nan_mean(found.scores, 1)


def mean_interval(scores: Floats) -> tuple[float, float, float, float, int]:
    """Mean over subjects, its 95 % t interval and p against zero (one-sided): rsatoolbox's ``eval_fixed``.

    Estimand: the mean over the population of subjects, for these stimuli.

    Parameters
    ----------
    scores
        One score per subject; NaN ones are left out.

    Returns
    -------
    mean, low, high, p, n
        The interval and p are NaN with fewer than two defined scores.
    """
    defined = scores[np.isfinite(scores)]
    n = len(defined)
    if n < 2:
        return (float(defined[0]) if n else np.nan), np.nan, np.nan, np.nan, n
    mean, variance = float(defined.mean()), float(defined.var(ddof=1)) / n
    reach = float(stats.t.ppf(0.975, n - 1)) * np.sqrt(variance)
    p = float(stats.t.sf(mean / np.sqrt(max(variance, np.finfo(float).eps)), n - 1))
    return mean, mean - reach, mean + reach, p, n


def _sem(variance: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(variance, _EPS)))


def correct(p: Floats, correction: Correction) -> Floats:
    """Correct p-values of one family; NaN ones are no tests and stay."""
    out = np.array(p, dtype=np.float64)
    there = np.flatnonzero(np.isfinite(out))
    if correction == "none" or not len(there):
        return out
    if correction == "fdr":
        out[there] = stats.false_discovery_control(out[there])
    elif correction == "bonferroni":
        out[there] = np.minimum(1, out[there] * len(there))
    else:
        order = there[np.argsort(out[there])]
        steps = np.maximum.accumulate(out[order] * np.arange(len(there), 0, -1))
        out[order] = np.minimum(1, steps)
    return out
