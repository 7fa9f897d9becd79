"""Fitted models, scored on stimuli and subjects that they were not fitted to, within resamples or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.measures.condensed import n_stimuli
from neurordl.rsa.ceilings import ceiling, pooled, scaled_to_pool
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference.draws import Draws, Resample, draw
from neurordl.rsa.inference.infer import ESTIMANDS, Inference
from neurordl.rsa.inference.models import Model, fit_model
from neurordl.rsa.inference.resamples import expanded
from neurordl.rsa.inference.tests import covariance_with, extract_variances

__all__ = ["Fold", "cross_validate", "infer_fitted", "k_folds"]

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

_CV_METHODS = {
    "none": "crossvalidation",
    "subjects": "bootstrap_crossval_rdm",
    "stimuli": "bootstrap_crossval_pattern",
    "both": "dual_bootstrap",
}


@dataclass(frozen=True, eq=False)
class Fold:
    """Subjects and stimuli, by number, to fit to and to score on; the same on both sides where not split."""

    train_subjects: Longs
    train_stimuli: Longs
    test_subjects: Longs
    test_stimuli: Longs


def k_folds(
    subjects: Longs, stimuli: Longs, k_subjects: int, k_stimuli: int, rng: np.random.Generator | None
) -> list[Fold]:
    """Split subjects and stimuli, as rsatoolbox does: each fold of subjects with each of the stimuli.

    Parameters
    ----------
    subjects, stimuli
        Distinct numbers.
    k_subjects, k_stimuli
        How many folds of each; 1 does not split.
    rng
        Shuffles; None keeps the order.

    Raises
    ------
    NeurordlError
        More folds than subjects, or fewer than three stimuli in a fold.
    """
    if k_subjects < 1 or k_stimuli < 1 or k_subjects > len(subjects):
        raise NeurordlError(
            f"{k_subjects} folds of subjects and {k_stimuli} of stimuli cannot be made of {len(subjects)} "
            "subjects: take from 1 (no split) to as many as there are"
        )
    if len(stimuli) < 3 * k_stimuli:
        raise NeurordlError(
            f"a fold takes 3 stimuli or more, so {k_stimuli} folds take {3 * k_stimuli}, but there are "
            f"{len(stimuli)}; take fewer folds"
        )
    folds = []
    for train_subjects, test_subjects in _split(subjects, k_subjects, rng):
        for train_stimuli, test_stimuli in _split(stimuli, k_stimuli, rng):
            folds.append(Fold(train_subjects, train_stimuli, test_subjects, test_stimuli))
    return folds


def _split(items: Longs, k: int, rng: np.random.Generator | None) -> list[tuple[Longs, Longs]]:
    items = items if rng is None else rng.permutation(items)
    size, more = divmod(len(items), k)
    groups = [items[i * size : (i + 1) * size] for i in range(k)]
    groups = [np.append(group, items[-1 - i]) if i < more else group for i, group in enumerate(groups)]
    if k == 1:
        return [(items, items)]
    return [(items[~np.isin(items, group)], group) for group in groups]


def cross_validate(
    models: Sequence[Model], data: Floats, comparison: str | Comparison, folds: Sequence[Fold]
) -> tuple[Floats, Floats]:
    """Mean similarity over the test subjects of each fold, on its test stimuli, of models fitted to the rest.

    Equal to rsatoolbox's ``crossval`` with ``fit_select`` and ``fit_regress_nn``. Estimand: the similarity,
    on new stimuli and with new subjects, of the model fitted to as much data as a fold has; no variance of it
    is known from one cross-validation (`infer_fitted` resamples).

    Parameters
    ----------
    models
        Fixed ones are scored on the same folds.
    data
        Condensed RDMs (subjects, pairs).
    comparison
        As in `compare`.
    folds
        As of `k_folds`.

    Returns
    -------
    evaluations, ceilings
        (models, folds), and (2, folds): similarity of the test subjects with the pooled RDM of the training
        subjects (lower) and of everyone (upper). Where subjects are not split, the lower leaves one out
        (rsatoolbox then takes subjects as their own prediction).
    """
    comparison = find_similarity(comparison)
    n = n_stimuli(data.shape[1])
    return _scored(
        models, [model.rdms for model in models], data, np.arange(len(data)), np.arange(n), comparison, folds
    )


def _scored(
    models: Sequence[Model],
    rdms: Sequence[Floats],
    data: Floats,
    subjects: Longs,
    stimuli: Longs,
    comparison: Comparison,
    folds: Sequence[Fold],
) -> tuple[Floats, Floats]:
    """`cross_validate` of a resample, in which subjects and stimuli carry their numbers, and may repeat."""
    i, j = np.triu_indices(len(stimuli), 1)
    everyone = pooled(scaled_to_pool(data, comparison), comparison)[0]
    evaluations, ceilings = np.full((len(models), len(folds)), np.nan), np.full((2, len(folds)), np.nan)
    for f, fold in enumerate(folds):
        fitted, tested = (np.isin(stimuli, part) for part in (fold.train_stimuli, fold.test_stimuli))
        fit_to, test_on = (there[i] & there[j] for there in (fitted, tested))
        train = data[np.isin(subjects, fold.train_subjects)]
        test = data[np.isin(subjects, fold.test_subjects)][:, test_on]
        thetas = [
            fit_model(model, train[:, fit_to], comparison, own[:, fit_to])
            for model, own in zip(models, rdms, strict=True)
        ]
        predicted = [theta @ own[:, test_on] for theta, own in zip(thetas, rdms, strict=True)]
        evaluations[:, f] = nan_mean(similarity(np.stack(predicted), test, comparison), 1)
        ceilings[1, f] = nan_mean(similarity(everyone[None, test_on], test, comparison)[0])
        if not np.array_equal(fold.train_subjects, fold.test_subjects):
            others = pooled(scaled_to_pool(train[:, test_on], comparison), comparison)
            ceilings[0, f] = nan_mean(similarity(others, test, comparison)[0])
        elif len(np.unique(subjects)) > 1:
            rows = np.unique(subjects, return_index=True)[1]
            ceilings[0, f] = ceiling(data[rows][:, test_on], comparison)[0]
    return evaluations, ceilings


def infer_fitted(
    models: Sequence[Model],
    data: Floats,
    comparison: str | Comparison,
    *,
    resample: Resample = "both",
    k_subjects: int = 1,
    k_stimuli: int = 2,
    n_bootstrap: int = 1000,
    n_cv: int = 2,
    rng: np.random.Generator | None,
    draws: Draws | None = None,
) -> Inference:
    """Cross-validated models with the variance over subjects, stimuli or both, by bootstrap.

    Within each resample, every fold is fitted on what the others hold, in ``n_cv`` random splits; what
    splitting adds to the variance is taken off (Schütt et al. 2023, eLife 12:e82566). Estimand: that of
    `infer`, for models fitted to as much data as a fold has. As rsatoolbox's ``bootstrap_crossval`` and, for
    "both", its ``eval_dual_bootstrap``; a draw too small for the folds is drawn again here.

    Parameters
    ----------
    models, data, comparison
        As in `cross_validate`.
    resample
        "subjects", "stimuli", "both", or "none": one cross-validation, without a variance.
    k_subjects, k_stimuli
        Folds; 1 does not split.
    n_bootstrap, n_cv
        Resamples, and splits of each: 2 or more, if anything is split.
    rng
        Draws and splits come from it; without one, which takes ``draws``, the order is kept.
    draws
        Resamples drawn before.

    Returns
    -------
    Inference
        ``scores`` are (models, folds) of a cross-validation of all data; ``evaluations`` (resamples, models,
        folds, splits), with the three bootstraps behind for "both".
    """
    comparison = find_similarity(comparison)
    if resample not in ESTIMANDS:
        raise NeurordlError(f"unknown resample {resample!r}; choose one of {', '.join(ESTIMANDS)}")
    if resample in ("stimuli", "both") and comparison.complete:
        raise NeurordlError(
            f"{comparison.name} needs complete RDMs; resample subjects, or compare with cosine_cov"
        )
    n, stimuli = len(data), n_stimuli(data.shape[1])
    split = (k_subjects, k_stimuli)
    whole = k_folds(np.arange(n), np.arange(stimuli), *split, rng)
    scores, bounds = cross_validate(models, data, comparison, whole)
    n_cv = n_cv if max(split) > 1 else 1
    if max(split) > 1 and n_cv < 2 and resample != "none":
        raise NeurordlError("what splitting adds to the variance takes two splits or more: give n_cv=2")
    means = nan_mean(bounds, 1)
    common: dict[str, Any] = {
        "comparison": comparison,
        "resample": resample,
        "estimand": ESTIMANDS[resample],
    }
    common |= {
        "scores": scores,
        "cv_method": _CV_METHODS[resample],
        "ceiling": (float(means[0]), float(means[1])),
    }
    common |= {"n_subjects": n, "n_stimuli": stimuli}
    if resample == "none":
        nothing: dict[str, Any] = dict.fromkeys(("variances", "model_var", "diff_var", "noise_ceil_var"))
        return Inference(**common, evaluations=scores[None], noise_ceiling=bounds, dof=0, **nothing)
    if draws is None:
        if rng is None:
            raise NeurordlError("resamples are drawn by a generator: give rng=numpy.random.default_rng(seed)")
        draws = draw(n, stimuli, resample, n_bootstrap, rng, k_subjects, 3 * k_stimuli)
    kinds = ("both", "subjects", "stimuli") if resample == "both" else (resample,)
    parts = [
        _resampled_folds(models, data, comparison, Draws(*_only(draws, kind)), split, n_cv, rng)
        for kind in kinds
    ]
    evaluations, ceilings = (np.stack([part[k] for part in parts], axis=-1) for k in range(2))
    variances = _without_splitting(resample, evaluations, ceilings, n_cv)
    spread = extract_variances(
        variances,
        len(models),
        None if resample == "stimuli" else n,
        None if resample == "subjects" else stimuli,
    )
    if resample != "both":
        evaluations, ceilings = evaluations[..., 0], ceilings[..., 0]
    dof = {"stimuli": stimuli, "both": min(n, stimuli)}.get(resample, n) - 1
    common |= dict(zip(("model_var", "diff_var", "noise_ceil_var"), spread, strict=True))
    return Inference(
        **common,
        evaluations=evaluations,
        noise_ceiling=ceilings,
        variances=variances,
        dof=dof,
    )


def _only(draws: Draws, kind: str) -> tuple[Longs | None, Longs | None]:
    return (
        draws.subjects if kind in ("subjects", "both") else None,
        draws.stimuli if kind in ("stimuli", "both") else None,
    )


def _resampled_folds(
    models: Sequence[Model],
    data: Floats,
    comparison: Comparison,
    draws: Draws,
    split: tuple[int, int],
    n_cv: int,
    rng: np.random.Generator | None,
) -> tuple[Floats, Floats]:
    """(resamples, models, folds, splits) and (2, resamples, splits)."""
    size = len(draws.subjects if draws.subjects is not None else draws.stimuli)  # type: ignore[arg-type]
    n = n_stimuli(data.shape[1])
    evaluations = np.empty((size, len(models), split[0] * split[1], n_cv))
    ceilings = np.empty((2, size, n_cv))
    for b in range(size):
        times = np.ones(len(data), dtype=np.int64) if draws.subjects is None else draws.subjects[b]
        counts = np.ones(n, dtype=np.int64) if draws.stimuli is None else draws.stimuli[b]
        rdms = [expanded(model.rdms, counts) for model in models]
        subjects, stimuli = np.repeat(np.arange(len(data)), times), np.repeat(np.arange(n), counts)
        sample = expanded(data, counts)[subjects]
        for repeat in range(n_cv):
            folds = k_folds(np.flatnonzero(times), np.flatnonzero(counts), *split, rng)
            found = _scored(models, rdms, sample, subjects, stimuli, comparison, folds)
            evaluations[b, :, :, repeat], ceilings[:, b, repeat] = found[0], nan_mean(found[1], 1)
    return evaluations, ceilings


def _without_splitting(resample: str, evaluations: Floats, ceilings: Floats, n_cv: int) -> Floats:
    """Covariance, less what the random splits add: from one split and the mean of n to infinitely many."""
    over_folds = evaluations.mean(axis=2)  # (resamples, models, splits, kinds)

    def covariance(models: Floats, bounds: Floats) -> Floats:
        kinds = range(models.shape[-1])
        return np.stack([covariance_with(models[..., k], bounds[..., k].T) for k in kinds])

    found = covariance(over_folds.mean(axis=2), ceilings.mean(axis=2))
    if n_cv > 1:
        single = [covariance(over_folds[:, :, k], ceilings[:, :, k]) for k in range(n_cv)]
        found = (n_cv * found - np.mean(single, axis=0)) / (n_cv - 1)
    return found if resample == "both" else found[0]
