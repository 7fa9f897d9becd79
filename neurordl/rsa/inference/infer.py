"""How sure a similarity is: over subjects, stimuli or both, as `infer` finds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.rsa.compare import check_stacks
from neurordl.rsa.inference.components import component_variances
from neurordl.rsa.inference.draws import Draws, Resample, draw
from neurordl.rsa.inference.resamples import resampled
from neurordl.rsa.inference.tests import covariances, extract_variances

__all__ = ["ESTIMANDS", "Inference", "Variance", "check_variance", "infer"]

Floats = npt.NDArray[np.float64]
Variance = Literal["bootstrap", "components"]

ESTIMANDS = {
    "none": "the population of subjects, for these stimuli",
    "subjects": "the population of subjects, for these stimuli",
    "stimuli": "the population of stimuli, for these subjects",
    "both": "the populations of subjects and of stimuli",
}
# rsatoolbox's names
_CV_METHODS = {
    "none": "fixed",
    "subjects": "bootstrap_rdm",
    "stimuli": "bootstrap_pattern",
    "both": "dual_bootstrap",
}


@dataclass(frozen=True, eq=False)
class Inference:
    """How similar models are to subjects, and how sure that is.

    What rsatoolbox's ``Result`` holds (evaluations, noise_ceiling, variances, dof, cv_method) is here under
    its names and in its shapes.

    Attributes
    ----------
    comparison, resample, cv_method, estimand
        How it was compared and resampled, rsatoolbox's name of that, and what the means generalise to.
    scores
        (models, subjects) similarities of the RDMs as they are.
    evaluations
        (1, models, subjects) as they are; (resamples, models) of subjects or stimuli; (resamples, models,
        1, 1, 3) of both: both at once, subjects only, stimuli only.
    noise_ceiling
        (2,), (2, resamples) or (2, resamples, 1, 3), lower first. NaN where one subject is alone.
    ceiling
        Lower and upper noise ceiling of the RDMs as they are; NaN of one subject.
    variances
        Covariance of the models' evaluations, where stimuli are resampled with those of the two ceilings
        behind; three of them for both. None where one subject leaves none.
    model_var, diff_var, noise_ceil_var
        Variance of each model's mean, of the difference of each two models (i < j), and of each model's
        from the two ceilings, (models, 2), with rsatoolbox's small-sample corrections; the former two by
        components where these were asked for.
    dof
        Degrees of freedom of the t tests.
    n_subjects, n_stimuli
        How many there were.
    variance
        How the variances of models and their differences were taken.
    """

    comparison: Comparison
    resample: Resample
    cv_method: str
    estimand: str
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
    variance: Variance = "bootstrap"

    @property
    def means(self) -> Floats:
        """Mean evaluation of each model as rsatoolbox takes it: over resamples, where there are some."""
        found = self.evaluations
        while found.ndim > 2:
            found = nan_mean(found, -1)
        return nan_mean(found, 0)


def infer(
    models: Floats,
    data: Floats,
    comparison: str | Comparison,
    *,
    resample: Resample = "none",
    n_bootstrap: int = 1000,
    rng: np.random.Generator | None = None,
    draws: Draws | None = None,
    variance: Variance = "bootstrap",
    device: str | torch.device | None = None,
) -> Inference:
    """Compare models with subjects, with the variance over subjects, stimuli or both.

    Estimand: the mean similarity over the population of subjects for these stimuli ("none", from the
    subjects' scores, and "subjects", by bootstrap); over the population of stimuli for these subjects
    ("stimuli"); over both ("both", the two-factor bootstrap of Schütt et al. 2023, eLife 12:e82566). Equal to
    rsatoolbox's ``eval_fixed``, ``eval_bootstrap_rdm``, ``eval_bootstrap_pattern`` and
    ``eval_dual_bootstrap`` with the same draws, but for draws of one subject alone, whose ceiling is NaN
    here and 1 there, and of fewer than three distinct stimuli, which are drawn again here.

    Parameters
    ----------
    models, data
        Condensed RDMs (models, pairs) and (subjects, pairs), one per subject; NaN marks a missing pair.
    comparison
        As in `compare`.
    resample
        What is resampled.
    n_bootstrap
        How many resamples.
    rng
        Where they come from.
    draws
        Resamples drawn before (`neurordl.rsa.inference.draws.draw`), instead.
    variance
        "bootstrap": rsatoolbox's, which is too wide where stimuli are resampled (it counts what belongs to
        pairs of stimuli three times). "components": of the models and their differences by
        `component_variances`, each part counted once; the ceilings' stay as they are.
    device
        For matrix products; rank measures stay on the CPU.

    Raises
    ------
    NeurordlError
        Unknown comparison, resample or variance; components where no stimuli are resampled, or of too few
        resamples; no rng; subjects resampled where there is one, stimuli where the comparison takes complete
        RDMs.
    """
    comparison = find_similarity(comparison)
    models, data = (np.asarray(x, dtype=np.float64) for x in (models, data))
    if resample not in _CV_METHODS:
        raise NeurordlError(f"unknown resample {resample!r}; choose one of {', '.join(_CV_METHODS)}")
    check_variance(variance, resample)
    stimuli = check_stacks(models, data)
    if not len(models) or not len(data):
        raise NeurordlError(f"there is nothing to compare: {len(models)} models and {len(data)} subjects")
    alive = np.asarray(np.isfinite(models).any(axis=1))
    if alive.any() and not alive.all():  # RDMs without a single pair say nothing of the others
        options: dict[str, Any] = {
            "resample": resample,
            "n_bootstrap": n_bootstrap,
            "rng": rng,
            "draws": draws,
            "variance": variance,
        }
        return _among(infer(models[alive], data, comparison, device=device, **options), alive)
    n = len(data)
    if draws is None and resample != "none":
        if rng is None:
            raise NeurordlError("resamples are drawn by a generator: give rng=numpy.random.default_rng(seed)")
        draws = draw(n, stimuli, resample, n_bootstrap, rng)
    whole = resampled(models, data, comparison, None, np.ones((1, 1, n), dtype=np.int64), device)
    scores, bounds = whole.scores[0], whole.ceilings[0, 0]
    if draws is None:
        evaluations, noise_ceiling, by_subject = scores[None], bounds, None
    else:
        evaluations, noise_ceiling, by_subject = _evaluations(
            models, data, comparison, resample, draws, scores, device
        )
    variances = covariances(resample, evaluations, noise_ceiling, n)
    spread = extract_variances(
        variances,
        len(models),
        None if resample == "stimuli" else n,
        stimuli if resample in ("stimuli", "both") else None,
    )
    if variance == "components":
        assert draws is not None
        assert draws.stimuli is not None
        assert by_subject is not None
        assert spread[2] is not None
        measured = draws.stimuli, by_subject, scores
        own = component_variances(models, data, comparison, *measured, resample == "both", device)
        spread = own[0], own[1], spread[2]
        n = int(np.isfinite(scores).any(axis=0).sum()) or n  # others are in none of these
    dof = {"stimuli": stimuli, "both": min(n, stimuli)}.get(resample, n) - 1
    return Inference(
        *(
            comparison,
            resample,
            _CV_METHODS[resample],
            ESTIMANDS[resample],
            scores,
            evaluations,
            noise_ceiling,
        ),
        *((float(bounds[0]), float(bounds[1])), variances, *spread, dof, len(data), stimuli, variance),
    )


def check_variance(variance: str, resample: str) -> None:
    """Refuse a variance that there is not, or not of what is resampled."""
    if variance not in ("bootstrap", "components"):
        raise NeurordlError(f"unknown variance {variance!r}; choose 'bootstrap' or 'components'")
    if variance == "components" and resample not in ("stimuli", "both"):
        raise NeurordlError(
            f"variance 'components' is of resampled stimuli, not of {resample!r}: resample "
            "'stimuli' or 'both'"
        )


def _among(found: Inference, alive: npt.NDArray[np.bool_]) -> Inference:
    """An inference on some models as one on all of them, NaN for the others."""
    place, size = np.flatnonzero(alive), len(alive)

    def spread(values: Floats, axis: int) -> Floats:
        shape = list(values.shape)
        shape[axis] = size
        out = np.full(shape, np.nan)
        out[(slice(None),) * axis + (place,)] = values
        return out

    variances = found.variances
    if variances is not None:
        extra = variances.shape[-1] - len(place)
        kept = np.concatenate([place, np.arange(size, size + extra)])
        out = np.full((*variances.shape[:-2], size + extra, size + extra), np.nan)
        out[..., kept[:, None], kept] = variances
        variances = out
    n_subjects = None if found.resample == "stimuli" else found.n_subjects
    n_stimuli = found.n_stimuli if found.resample in ("stimuli", "both") else None
    model_var, diff_var, noise_ceil_var = extract_variances(variances, size, n_subjects, n_stimuli)
    if found.variance == "components":
        assert found.model_var is not None
        assert found.diff_var is not None
        i, j = np.triu_indices(size, 1)
        model_var, diff_var = spread(found.model_var, 0), np.full(len(i), np.nan)
        diff_var[alive[i] & alive[j]] = found.diff_var
    return replace(
        found,
        scores=spread(found.scores, 0),
        evaluations=spread(found.evaluations, 1),
        variances=variances,
        model_var=model_var,
        diff_var=diff_var,
        noise_ceil_var=noise_ceil_var,
    )


def _evaluations(
    models: Floats,
    data: Floats,
    comparison: Comparison,
    resample: Resample,
    draws: Draws,
    scores: Floats,
    device: str | torch.device | None,
) -> tuple[Floats, Floats, Floats | None]:
    """Evaluations and ceilings of resamples in rsatoolbox's shapes; similarities with subjects in them."""
    subjects, stimuli = draws.subjects, draws.stimuli
    if (subjects is None) == (resample != "stimuli") or (stimuli is None) == (resample != "subjects"):
        raise NeurordlError(
            f"the draws do not go with resample={resample!r}: they must be of what is resampled"
        )
    only_subjects = only_stimuli = by_subject = None
    if subjects is not None:
        # ceilings on the pairs that every model has, here too
        there = np.where(np.isfinite(models).all(axis=0), data, np.nan)
        found = resampled(models[:0], there, comparison, None, subjects[None], device)
        only_subjects = _weighted_mean(scores[None], subjects), found.ceilings[0].T
    if stimuli is not None:
        everyone = np.ones((len(stimuli), len(data)), dtype=np.int64)
        sets = everyone[None] if subjects is None else np.stack([subjects, everyone])
        found = resampled(models, data, comparison, stimuli, sets, device)
        by_subject = found.scores
        only_stimuli = _weighted_mean(found.scores, everyone), found.ceilings[-1].T
    if only_stimuli is None or only_subjects is None:
        one = only_subjects or only_stimuli
        assert one is not None
        return *one, by_subject
    assert subjects is not None
    parts = [(_weighted_mean(found.scores, subjects), found.ceilings[0].T), only_subjects, only_stimuli]
    evaluations = np.stack([part[0] for part in parts], axis=-1)[:, :, None, None]
    return evaluations, np.stack([part[1] for part in parts], axis=-1)[:, :, None], by_subject


def _weighted_mean(scores: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Mean over the subjects drawn, those without a score left out: (resamples, models)."""
    defined = np.isfinite(scores)
    total = np.einsum("bmd,bd->bm", np.where(defined, scores, 0), counts)
    number = np.einsum("bmd,bd->bm", defined, counts)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))
