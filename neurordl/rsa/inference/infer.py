"""How sure a similarity is: its inference, intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import integrate, stats

from neurordl.arrays import Bools, Floats, Ints, is_rdms, nan_mean
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.rdms.selection import stimulus_properties, subject_names
from neurordl.rsa.compare import matched_vectors
from neurordl.rsa.inference.resampling import Draws, Resampling, Spread, Study, find_resampling
from neurordl.validate import brief, check_choice

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Center = Literal["resamples", "data"]
Correction = Literal["none", "fdr", "holm", "bonferroni"]

CORRECTIONS = ("none", "fdr", "holm", "bonferroni")
NO_WIDTH = "the interval has no width, although scores differ: take more resamples"
_FLAT = 1e-9  # a difference, or a width of an interval relative to it, that is only rounding
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class Inference:
    """How similar models are to subjects, and how sure that is.

    What rsatoolbox's ``Result`` holds (evaluations, noise_ceiling, variances, dof, cv_method) is here under
    its names and in its shapes.

    Attributes
    ----------
    comparison, resampling
        How RDMs were compared, and what was resampled.
    cv_method
        rsatoolbox's name of the evaluation.
    scores
        (models, subjects) similarities of the RDMs as they are.
    evaluations
        (1, models, subjects) as they are; (resamples, models) of subjects or stimuli; (resamples, models,
        1, 1, 3) of both: both at once, subjects only, stimuli only.
    noise_ceiling
        (2,), (2, resamples) or (2, resamples, 1, 3), lower first. NaN where a single subject was drawn.
    ceiling
        Lower and upper noise ceiling of the RDMs as they are; NaN of one subject.
    variances
        Covariance of the models' evaluations, followed by those of the two ceilings where stimuli are
        resampled; three of them for both. None of one subject without resampling.
    model_var, diff_var, noise_ceil_var
        Variance of each model's mean, of the difference of each two models (i < j), and of each model's
        difference from the two ceilings, (models, 2), with small-sample corrections.
    dof
        Degrees of freedom of the t tests.
    n_subjects, n_stimuli
        Numbers of subjects and stimuli.
    """

    __repr__ = brief

    comparison: Comparison
    resampling: Resampling
    cv_method: str
    scores: Floats
    evaluations: Floats
    noise_ceiling: Floats
    ceiling: tuple[float, float]
    variances: Floats | None
    model_var: Floats | None
    diff_var: Floats | None
    noise_ceil_var: Floats | None
    dof: int
    n_subjects: int
    n_stimuli: int

    @property
    def estimand(self) -> str:
        """What the means estimate the similarity for."""
        return self.resampling.estimand

    @property
    def means(self) -> Floats:
        """Mean evaluation of each model as rsatoolbox takes it: over resamples, where there are some."""
        means = self.evaluations
        while means.ndim > 2:
            means = nan_mean(means, -1)
        return nan_mean(means, 0)

    def estimates(self) -> dict[str, Floats]:
        """Columns of a table: each model's mean, its interval and p against zero, centered on the data."""
        low, high = interval(self, center="data")
        tested = self.model_var is not None
        p = p_values(self, center="data").zero if tested else np.full(len(self.scores), np.nan)
        return {"score": nan_mean(self.scores, 1), "ci_low": low, "ci_high": high, "p": p}

    def differences(self) -> dict[str, Floats]:
        """Columns of a table: the difference of each two models, i < j, as `estimates` has their means."""
        means = nan_mean(self.scores, 1)
        i, j = np.triu_indices(len(means), 1)
        difference, variance, tested = means[i] - means[j], self.diff_var, self.diff_var is not None
        if variance is not None and self.model_var is not None:  # of equal models it is only rounding
            rounding = 8 * _EPS * (self.model_var[i] + self.model_var[j])
            variance = np.where(variance <= rounding, 0, variance)
        reach = _reach(variance, self.dof)
        p = p_values(self, center="data").pairs[i, j] if tested else np.full(len(i), np.nan)
        return {"difference": difference, "ci_low": difference - reach, "ci_high": difference + reach, "p": p}

    @property
    def no_width(self) -> Bools:
        """(models,) whose interval has no width although their scores differ: by chance, of few resamples."""
        differences = np.fmax.reduce(self.scores, axis=1) - np.fmin.reduce(self.scores, axis=1)
        reach = _reach(self.model_var, self.dof)
        return np.asarray((differences > _FLAT) & (reach <= _FLAT * differences))


def infer(
    models: RDMs | npt.ArrayLike,
    data: RDMs | npt.ArrayLike,
    comparison: ComparisonLike = "rho-a",
    bootstrap: str | Resampling | None = None,
    *,
    draws: Draws | None = None,
    device: str | torch.device | None = None,
) -> Inference:
    """Compare models with subjects, with the variance over subjects, stimuli or both.

    The means estimate the mean similarity over the population of subjects for these stimuli (without a
    bootstrap, from the subjects' scores; and "subjects"), over the population of stimuli for these subjects
    ("stimuli"), or over both ("both"; Schütt et al. 2023, eLife 12:e82566).

    With the variance "bootstrap" the results equal those of rsatoolbox's ``eval_fixed``,
    ``eval_bootstrap_rdm``, ``eval_bootstrap_pattern`` and ``eval_dual_bootstrap`` with the same draws, except
    for draws of a single subject, whose ceiling is NaN here and 1 there, and of fewer than three distinct
    stimuli, which are drawn again here. `Bootstrap` says which variance is the default.

    Parameters
    ----------
    models, data
        RDMs, matched by their stimulus ids, the data with one RDM per subject; or condensed arrays (models,
        pairs) and (subjects, pairs), where NaN marks a missing pair.
    comparison
        As in `compare`.
    bootstrap
        What is resampled: "subjects", "stimuli", "both", or a `Resampling`; None resamples nothing.
    draws
        Resamples that were drawn before.
    device
        Device of matrix products; rank measures stay on the CPU.

    Raises
    ------
    NeurordlError
        The comparison or the bootstrap is unknown; there are too few subjects, stimuli or resamples; or
        stimuli are resampled where the comparison needs complete RDMs.
    """
    comparison, resampling = find_similarity(comparison), find_resampling(bootstrap)
    resampling.check(comparison)
    vectors, rdms, stimuli = matched_vectors(models, data)
    study, known = Study(vectors, rdms, comparison, device=device), dict[str, list[object]]()
    subjects: Sequence[str] = [str(k) for k in range(len(rdms))]
    if is_rdms(data):
        subjects, known = subject_names(data), stimulus_properties(data, stimuli)
    n_drawn = max((len(counts) for counts in draws or () if counts is not None), default=None)
    resampling = resampling.for_stimuli(stimuli, known, n_drawn)
    draws = resampling.draw(subjects, stimuli) if draws is None else draws
    return infer_study(study, resampling, draws)


def infer_study(
    study: Study, resampling: Resampling, draws: Draws | None, *, estimate_variance: bool = True
) -> Inference:
    """Infer as `infer` does, from a study; without ``estimate_variance`` variances are those of resamples."""
    n_subjects, n_stimuli = len(study.data), study.n_stimuli
    evaluations = resampling.evaluate(study, draws)
    variances = resampling.covariance(evaluations)
    # subjects without a score have no part in it
    n_defined = int(np.isfinite(study.scores).any(axis=0).sum()) or n_subjects
    spread = resampling.spread(variances, len(study.scores), n_defined, n_stimuli)
    estimate = None
    if estimate_variance and draws is not None and evaluations.by_subject is not None:
        estimate = resampling.variance_method.estimate(study, evaluations.by_subject, draws)
    if estimate is not None:
        spread = Spread(*estimate, spread.noise_ceil_var)
    return Inference(
        comparison=study.comparison,
        resampling=resampling,
        cv_method=resampling.cv_method,
        scores=study.scores,
        evaluations=evaluations.models,
        noise_ceiling=evaluations.ceilings,
        ceiling=study.ceiling,
        variances=variances,
        **spread._asdict(),
        dof=resampling.dof(n_defined, n_stimuli),
        n_subjects=n_subjects,
        n_stimuli=n_stimuli,
    )


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

    __repr__ = brief

    zero: Floats
    pairs: Floats
    ceiling: Floats


def p_values(
    inference: Inference, *, correction: Correction = "none", center: Center = "resamples"
) -> PValues:
    """Test models by t against zero, each other and the lower noise ceiling: rsatoolbox's defaults.

    A p-value generalizes to what was resampled, as ``inference.estimand`` says.

    Parameters
    ----------
    inference
        The result of `infer`.
    correction
        Correction for many tests, within each of the three families: "fdr" (Benjamini & Hochberg 1995),
        "holm" or "bonferroni" (family-wise), or "none" as in rsatoolbox.
    center
        Where means are taken: of the "resamples", as in rsatoolbox, or of the "data" as they are.

    Raises
    ------
    NeurordlError
        There is no variance (one subject, not resampled), or the correction is unknown.
    """
    check_choice("correction", correction, CORRECTIONS)
    if inference.model_var is None or inference.diff_var is None or inference.noise_ceil_var is None:
        raise NeurordlError("one subject, not resampled, has no variance to test with; resample the stimuli")
    means, dof = _means(inference, center), inference.dof
    lower = inference.ceiling[0] if center == "data" else float(nan_mean(inference.noise_ceiling[0]))
    i, j = np.triu_indices(len(means), 1)

    def two_sided(differences: Floats, variances: Floats) -> Floats:
        return correct(2 * stats.t.sf(np.abs(differences) / _sem(variances), dof), correction)

    pairs = np.ones((len(means), len(means)))
    pairs[i, j] = pairs[j, i] = two_sided(means[i] - means[j], inference.diff_var)
    zero = correct(stats.t.sf(means / _sem(inference.model_var), dof), correction)
    return PValues(zero, pairs, two_sided(means - lower, inference.noise_ceil_var[:, 0]))


def interval(inference: Inference, *, center: Center = "resamples") -> tuple[Floats, Floats]:
    """95 % bounds of each mean by t, (models,) each: rsatoolbox's ``get_ci``; NaN without variance."""
    means, reach = _means(inference, center), _reach(inference.model_var, inference.dof)
    return means - reach, means + reach


def _reach(variance: Floats | None, dof: int) -> Floats:
    """Half the width of 95 % intervals by t; NaN without a variance."""
    if variance is None:
        return np.asarray(np.nan)
    return np.asarray(stats.t.ppf(0.975, dof) * np.sqrt(np.maximum(variance, 0)))


def _means(inference: Inference, center: Center) -> Floats:
    check_choice("center", center, ("resamples", "data"))
    return inference.means if center == "resamples" else nan_mean(inference.scores, 1)


def _sem(variance: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(variance, _EPS)))


def mean_interval(scores: Floats) -> tuple[Floats, Floats, Floats, Floats, Ints]:
    """Mean over subjects, its 95 % t interval and p against zero (one-sided): rsatoolbox's ``eval_fixed``.

    The mean estimates that over the population of subjects, for these stimuli.

    Parameters
    ----------
    scores
        (..., subjects) one score per subject; NaN scores are left out.

    Returns
    -------
    mean, low, high, p, n
        (...,) each. The interval and p are NaN with fewer than two defined scores.
    """
    n = np.isfinite(scores).sum(axis=-1)
    mean = nan_mean(scores, -1)[()]  # a number of a single row
    variance = nan_mean((scores - mean[..., None]) ** 2, -1) / np.maximum(n - 1, 1)
    reach = stats.t.ppf(0.975, n - 1) * np.sqrt(variance)
    return mean, mean - reach, mean + reach, stats.t.sf(mean / _sem(variance), n - 1), n


def correct(p: Floats, correction: Correction) -> Floats:
    """Correct the p-values of one family; NaN ones are not counted as tests and stay NaN."""
    corrected = np.array(p, dtype=np.float64)
    tests = np.flatnonzero(np.isfinite(corrected))
    if correction == "none" or not len(tests):
        return corrected
    if correction == "fdr":
        corrected[tests] = stats.false_discovery_control(corrected[tests])
    elif correction == "bonferroni":
        corrected[tests] = np.minimum(1, corrected[tests] * len(tests))
    else:
        order = tests[np.argsort(corrected[tests])]
        steps = np.maximum.accumulate(corrected[order] * np.arange(len(tests), 0, -1))
        corrected[order] = np.minimum(1, steps)
    return corrected


def bayes_factor(t: float, n: int, scale: float) -> float:
    """How much likelier a t of n paired differences is if there is an effect than if there is none (BF10).

    Under the alternative the standardized effect has a Cauchy distribution of this scale around 0, and its
    variance Jeffreys' prior: "JZS", equation 1 of Rouder et al. 2009 (Psychon. Bull. Rev. 16:225).
    """
    dof = n - 1

    def weight(log_g: float) -> float:
        spread = 1 + n * scale**2 * np.exp(log_g)
        likelihood = ((1 + t**2 / dof) / (1 + t**2 / (spread * dof))) ** (n / 2) / np.sqrt(spread)
        return float(likelihood * np.exp(-log_g / 2 - np.exp(-log_g) / 2) / np.sqrt(2 * np.pi))

    if not np.isfinite(t) or n < 2:
        return np.nan
    return float(integrate.quad(weight, -10, 60, points=[-1, 2, 6, 12], limit=200, epsabs=0, epsrel=1e-10)[0])
