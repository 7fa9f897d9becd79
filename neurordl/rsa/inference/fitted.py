"""Fitted models, scored on stimuli and subjects that they were not fitted to: `evaluate_fitted`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from scipy import optimize

from neurordl.arrays import Floats, Ints, nan_mean
from neurordl.errors import NeurordlError
from neurordl.ids import match_ids, natural_key
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.kernels.similarities import InnerProducts
from neurordl.rdms.selection import rdms_by_roi, reindex, stimulus_ids, subject_names
from neurordl.rsa.ceilings import ceiling, pooled, scaled_to_pool
from neurordl.rsa.compare import shared_stimuli, similarity
from neurordl.rsa.inference.infer import NO_WIDTH, Inference
from neurordl.rsa.inference.resampling import Draws, Resampling, covariances, expanded, find_resampling
from neurordl.validate import check_choice, check_count

Combine = Literal["weighted", "select"]


@dataclass(frozen=True)
class Folds:
    """How subjects and stimuli are split for cross-validation.

    Parameters
    ----------
    subjects, stimuli
        Number of folds; 1 does not split. A fold takes three stimuli or more.
    splits
        Number of random splits of each resample. The variance that splitting adds is estimated from their
        differences, and subtracted.
    seed
        Seed of the random splits; None splits in the order of the data. With a bootstrap, its seed is used
        instead.

    Raises
    ------
    NeurordlError
        A number is less than 1.
    """

    subjects: int = 1
    stimuli: int = 2
    splits: int = 2
    seed: int | None = 0

    def __post_init__(self) -> None:
        check_count("Folds.subjects", self.subjects)
        check_count("Folds.stimuli", self.stimuli)
        check_count("Folds.splits", self.splits)
        if self.seed is not None:
            check_count("Folds.seed", self.seed, least=0)

    @property
    def hold_out(self) -> bool:
        """Whether anything is held out."""
        return max(self.subjects, self.stimuli) > 1

    def split(self, subjects: Ints, stimuli: Ints, rng: np.random.Generator | None = None) -> list[Fold]:
        """Split subjects and stimuli, as rsatoolbox does: each fold of subjects with each of the stimuli.

        Parameters
        ----------
        subjects, stimuli
            Distinct numbers.
        rng
            Generator that shuffles; None keeps the order.

        Raises
        ------
        NeurordlError
            There are more folds than subjects, or fewer than three stimuli in a fold.
        """
        if self.subjects > len(subjects):
            raise NeurordlError(
                f"{self.subjects} folds of subjects take as many subjects, not {len(subjects)}"
            )
        if len(stimuli) < 3 * self.stimuli:
            raise NeurordlError(
                f"a fold takes 3 stimuli or more, so {self.stimuli} folds take {3 * self.stimuli}, but there "
                f"are {len(stimuli)}; take fewer folds"
            )
        return [
            Fold(train_subjects, train_stimuli, test_subjects, test_stimuli)
            for train_subjects, test_subjects in _split(subjects, self.subjects, rng)
            for train_stimuli, test_stimuli in _split(stimuli, self.stimuli, rng)
        ]


class Fold(NamedTuple):
    """Subjects and stimuli, by number, to fit to and to score on; the same on both sides where not split."""

    train_subjects: Ints
    train_stimuli: Ints
    test_subjects: Ints
    test_stimuli: Ints


def _split(items: Ints, k: int, rng: np.random.Generator | None) -> list[tuple[Ints, Ints]]:
    items = items if rng is None else rng.permutation(items)
    size, more = divmod(len(items), k)
    groups = [items[i * size : (i + 1) * size] for i in range(k)]
    groups = [np.append(group, items[-1 - i]) if i < more else group for i, group in enumerate(groups)]
    if k == 1:
        return [(items, items)]
    return [(items[~np.isin(items, group)], group) for group in groups]


@dataclass(frozen=True, eq=False)
class Model:
    """A model: one RDM, or several of which one is selected or that are added up.

    Attributes
    ----------
    name
        Its name.
    rdms
        Condensed RDMs (rdms, pairs); a single one is not fitted.
    combine
        What several RDMs become: a sum with weights of 0 or more ("weighted"), or one of them ("select").
    """

    name: str
    rdms: Floats
    combine: Combine = "weighted"

    def __post_init__(self) -> None:
        check_choice("combine", self.combine, ("weighted", "select"))
        if self.rdms.ndim != 2 or not len(self.rdms):
            raise NeurordlError(f"model {self.name!r} takes RDMs (rdms, pairs), but got {self.rdms.shape}")

    @property
    def fit(self) -> str:
        """How it is fitted, for tables: "fixed", "weighted" or "select"."""
        return self.combine if len(self.rdms) > 1 else "fixed"


def fit_model(model: Model, data: Floats, comparison: ComparisonLike) -> Floats:
    """Weights of a model's RDMs, (rdms,), that bring the model nearest to these subjects.

    "select": the RDM of the greatest mean similarity, as rsatoolbox's ``fit_select``. "weighted": the weights
    of 0 or more that maximize the mean similarity over subjects, of unit length, as its ``fit_regress_nn``,
    for comparisons that are inner products (cosine, corr and their whitened variants); for others those that
    maximize corr, where rsatoolbox searches from random starts.

    Parameters
    ----------
    model
        The model to fit.
    data
        Condensed RDMs (subjects, pairs) to fit it to: the training subjects' on the training stimuli.
    comparison
        As in `compare`.

    Raises
    ------
    NeurordlError
        No RDM of the model, or of the subjects, is informative on these pairs.
    """
    comparison, rdms = find_similarity(comparison), model.rdms
    if len(rdms) == 1:
        return np.ones(1)
    if model.combine == "select":
        scores = nan_mean(similarity(rdms, data, comparison), 1)
        if not np.isfinite(scores).any():
            raise NeurordlError(f"no RDM of model {model.name!r} has a similarity with the training data")
        return np.asarray(np.arange(len(rdms)) == np.nanargmax(scores), dtype=np.float64)
    kernel = (
        comparison.kernel if isinstance(comparison.kernel, InnerProducts) else InnerProducts(centered=True)
    )
    return _weights(model.name, rdms, data, kernel)


def _weights(name: str, rdms: Floats, data: Floats, kernel: InnerProducts) -> Floats:
    """Non-negative least squares against the pooled subjects, from inner products only."""
    kept = np.isfinite(rdms).all(axis=0) & np.isfinite(data).all(axis=0)
    stack = np.where(kept, np.concatenate([rdms, data]), 0)
    units = np.abs(stack).max(axis=1, initial=0)  # removed here, since the kernel may change units
    scaled = torch.as_tensor(stack / np.where(units > 0, units, 1)[:, None])
    measured = None if kept.all() else torch.as_tensor(kept)
    gram, k = kernel.grams(scaled[:0], scaled, measured=measured, among=True).data.numpy(), len(rdms)
    lengths = np.sqrt(np.maximum(gram.diagonal(), 0))
    usable = np.flatnonzero(lengths[k:] > 0) + k
    values, vectors = np.linalg.eigh(gram[:k, :k])
    positive = values > 1e-12 * values.max()
    if not positive.any() or not len(usable):
        raise NeurordlError(f"model {name!r} cannot be fitted: it or the data are constant on training pairs")
    goal = (gram[:k, usable] / lengths[usable]).sum(axis=1)
    root, basis = np.sqrt(values[positive]), vectors[:, positive].T
    weights, _ = optimize.nnls(root[:, None] * basis, basis @ goal / root)
    weights = weights / np.where(units[:k] > 0, units[:k], 1)
    length = float(np.linalg.norm(weights))
    return weights / length if length > 0 else np.asarray(weights)


def cross_validate(
    models: Sequence[Model],
    data: Floats,
    comparison: ComparisonLike,
    folds: Sequence[Fold],
    subjects: Ints | None = None,
    stimuli: Ints | None = None,
) -> tuple[Floats, Floats]:
    """Mean similarity over the test subjects of each fold, on its test stimuli, of models fitted to the rest.

    Equal to rsatoolbox's ``crossval`` with ``fit_select`` and ``fit_regress_nn``. They estimate the
    similarity, on new stimuli and with new subjects, of the model fitted to as much data as a fold has; no
    variance is known from one cross-validation (`infer_fitted` resamples).

    Parameters
    ----------
    models
        Fixed models are scored on the same folds.
    data
        Condensed RDMs (subjects, pairs).
    comparison
        As in `compare`.
    folds
        Folds of `Folds.split`.
    subjects, stimuli
        How often each is in a resample, (subjects,) and (stimuli,); by default once.

    Returns
    -------
    evaluations, ceilings
        (models, folds), and (2, folds): similarity of the test subjects with the pooled RDM of the training
        subjects (lower) and of everyone (upper). Where subjects are not split, the lower ceiling leaves one
        out (rsatoolbox then takes subjects as their own prediction).
    """
    comparison = find_similarity(comparison)
    counts = np.ones(n_stimuli(data.shape[1]), dtype=np.int64) if stimuli is None else stimuli
    times = np.ones(len(data), dtype=np.int64) if subjects is None else subjects
    subjects, stimuli = (np.repeat(np.arange(len(x)), x) for x in (times, counts))
    models = [replace(model, rdms=expanded(model.rdms, counts)) for model in models]
    data = expanded(data, counts)[subjects]
    i, j = np.triu_indices(len(stimuli), 1)
    everyone = pooled(scaled_to_pool(data, comparison), comparison)[0]
    evaluations, ceilings = np.full((len(models), len(folds)), np.nan), np.full((2, len(folds)), np.nan)
    for f, fold in enumerate(folds):
        fitted, tested = (np.isin(stimuli, part) for part in (fold.train_stimuli, fold.test_stimuli))
        fit_to, test_on = (chosen[i] & chosen[j] for chosen in (fitted, tested))
        train = data[np.isin(subjects, fold.train_subjects)]
        test = data[np.isin(subjects, fold.test_subjects)][:, test_on]
        predicted = [
            fit_model(replace(model, rdms=model.rdms[:, fit_to]), train[:, fit_to], comparison)
            @ model.rdms[:, test_on]
            for model in models
        ]
        evaluations[:, f] = nan_mean(similarity(np.stack(predicted), test, comparison), 1)
        ceilings[1, f] = nan_mean(similarity(everyone[None, test_on], test, comparison)[0])
        if not np.array_equal(fold.train_subjects, fold.test_subjects):
            pooled_rdm = pooled(scaled_to_pool(train[:, test_on], comparison), comparison)
            ceilings[0, f] = nan_mean(similarity(pooled_rdm, test, comparison)[0])
        elif len(np.unique(subjects)) > 1:
            rows = np.unique(subjects, return_index=True)[1]
            ceilings[0, f] = ceiling(data[rows][:, test_on], comparison)[0]
    return evaluations, ceilings


def infer_fitted(
    models: Sequence[Model],
    data: Floats,
    comparison: ComparisonLike,
    bootstrap: str | Resampling | None = "both",
    folds: Folds | None = None,
    *,
    draws: Draws | None = None,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Inference:
    """Cross-validated models with the variance over subjects, stimuli or both, by bootstrap.

    Within each resample, every fold is fitted on what the others hold, in several random splits; what
    splitting adds to the variance is taken off (Schütt et al. 2023, eLife 12:e82566). The means estimate
    what those of `infer` do, for models fitted to as much data as a fold has. They equal rsatoolbox's
    ``bootstrap_crossval`` and, for "both", its ``eval_dual_bootstrap``; a draw that is too small for the
    folds is drawn again here.

    Parameters
    ----------
    models, data, comparison
        As in `cross_validate`.
    bootstrap
        As in `infer`; None cross-validates once, without a variance.
    folds
        How subjects and stimuli are split.
    draws
        Resamples that were drawn before.
    names
        Names of the subjects and of the stimuli, for a scheme that draws by name; by default their numbers.

    Returns
    -------
    Inference
        ``scores`` are (models, folds) of a cross-validation of all data; ``evaluations`` (resamples, models,
        folds, splits), followed by the three bootstraps for "both".
    """
    comparison, resampling = find_similarity(comparison), find_resampling(bootstrap)
    folds = folds or Folds()
    resampling.check(comparison)
    n, stimuli = len(data), n_stimuli(data.shape[1])
    seed = resampling.seed if resampling.resamples else folds.seed
    rng = None if folds.seed is None else np.random.default_rng(seed)
    parts = folds.split(np.arange(n), np.arange(stimuli), rng)
    scores, bounds = cross_validate(models, data, comparison, parts)
    evaluations, ceilings, variances = scores[None], bounds, None
    if resampling.resamples:
        if folds.hold_out and folds.splits < 2:
            raise NeurordlError("the variance of splitting takes two splits or more: Folds(splits=2)")
        if draws is None:
            subjects, items = names or ([str(k) for k in range(size)] for size in (n, stimuli))
            draws = resampling.draw(subjects, items, fewest=(folds.subjects, 3 * folds.stimuli), rng=rng)
        assert draws is not None
        bootstraps = [draws]
        if len(draws.factors) > 1:
            bootstraps += [Draws(draws.subjects, None), Draws(None, draws.stimuli)]
        results = [_resampled_folds(models, data, comparison, part, folds, rng) for part in bootstraps]
        evaluations, ceilings = (np.stack([result[k] for result in results], axis=-1) for k in range(2))
        variances = _without_splitting(evaluations, ceilings)
        if len(bootstraps) == 1:
            evaluations, ceilings, variances = evaluations[..., 0], ceilings[..., 0], variances[0]
    spread = resampling.spread(variances, len(models), n, stimuli)
    lower, upper = nan_mean(bounds, 1)
    cv_method = resampling.cv_method.replace("bootstrap_", "bootstrap_crossval_")
    return Inference(
        comparison=comparison,
        resampling=resampling,
        cv_method=cv_method.replace("fixed", "crossvalidation"),
        scores=scores,
        evaluations=evaluations,
        noise_ceiling=ceilings,
        ceiling=(float(lower), float(upper)),
        variances=variances,
        **spread._asdict(),
        dof=resampling.dof(n, stimuli) if resampling.resamples else 0,
        n_subjects=n,
        n_stimuli=stimuli,
    )


def _resampled_folds(
    models: Sequence[Model],
    data: Floats,
    comparison: Comparison,
    draws: Draws,
    folds: Folds,
    rng: np.random.Generator | None,
) -> tuple[Floats, Floats]:
    """Evaluations (resamples, models, folds, splits) and ceilings (2, resamples, splits)."""
    size = max(len(counts) for counts in draws if counts is not None)
    once = [np.ones((size, n), dtype=np.int64) for n in (len(data), n_stimuli(data.shape[1]))]
    by_subject, by_stimulus = (
        same if counts is None else counts for counts, same in zip(draws, once, strict=True)
    )
    splits = folds.splits if folds.hold_out else 1
    evaluations = np.empty((size, len(models), folds.subjects * folds.stimuli, splits))
    ceilings = np.empty((2, size, splits))
    for b, (times, counts) in enumerate(zip(by_subject, by_stimulus, strict=True)):
        drawn = np.flatnonzero(times), np.flatnonzero(counts)
        parts = [fold for _ in range(splits) for fold in folds.split(*drawn, rng)]
        scores, bounds = cross_validate(models, data, comparison, parts, times, counts)
        evaluations[b] = scores.reshape(len(models), splits, -1).swapaxes(1, 2)
        ceilings[:, b] = nan_mean(bounds.reshape(2, splits, -1), 2)
    return evaluations, ceilings


def _without_splitting(evaluations: Floats, ceilings: Floats) -> Floats:
    """Covariance without what random splits add: from one split and the mean of n to infinitely many."""
    over_folds = evaluations.mean(axis=2)  # (resamples, models, splits, bootstraps)
    n_splits = over_folds.shape[2]
    of_means = covariances(over_folds.mean(axis=2), ceilings.mean(axis=2))
    if n_splits == 1:
        return of_means
    single = [covariances(over_folds[:, :, k], ceilings[:, :, k]) for k in range(n_splits)]
    return np.asarray((n_splits * of_means - np.mean(single, axis=0)) / (n_splits - 1))


def evaluate_fitted(
    models: Mapping[str, RDMs],
    rdms: RDMs,
    *,
    combine: Combine = "weighted",
    comparison: ComparisonLike = "corr",
    folds: Folds | None = None,
    roi: str | Sequence[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = None,
    missing: Literal["error", "ignore"] = "error",
) -> pd.DataFrame:
    """Fit models to some stimuli or subjects, and score them on the others, by cross-validation.

    The scores estimate the mean similarity, over the population that ``generalizes_to`` names, of a model
    fitted to as much data as all folds but one contain. They equal those of rsatoolbox's ``crossval`` and
    ``bootstrap_crossval``; stimuli are matched by id.

    Parameters
    ----------
    models
        RDMs by the name of the model: one RDM is taken as it is, several are fitted.
    rdms
        The data: RDMs, one per subject in each ROI.
    combine
        What several RDMs become: a sum with weights of 0 or more ("weighted"), or one of them ("select").
    comparison
        Comparison of two RDMs, which is also maximized by the fit: see
        `neurordl.rsa.inference.fitted.fit_model`.
    folds
        How subjects and stimuli are split; by default into two folds of the stimuli.
    roi, subjects, missing
        As in `evaluate`.
    bootstrap
        What is resampled: "subjects", "stimuli", "both", or a `Bootstrap` or other `Resampling`.

    Returns
    -------
    DataFrame
        A row for each ROI and model: the score over the folds of all data, its 95 % interval and one-sided p
        against zero (NaN without bootstrap), and the noise ceiling on the same folds.

    Warns
    -----
    UserWarning
        There are fewer than 100 resamples, or an interval has no width although the scores differ.

    Raises
    ------
    NeurordlError
        Ids do not match, the models are of different stimuli, there are more folds than there can be, nothing
        is held out from a fitted model, or a subject has several RDMs.
    """
    comparison, resampling = find_similarity(comparison), find_resampling(bootstrap)
    folds = folds or Folds()
    if not isinstance(models, Mapping) or not models:
        raise NeurordlError("models= must be a mapping from the name of each model to its RDMs")
    check_choice("combine", combine, ("weighted", "select"))
    fitted = [name for name, stack in models.items() if len(stack) > 1]
    if fitted and not folds.hold_out:
        raise NeurordlError(f"model {fitted[0]!r} is fitted, and nothing is held out: take Folds(stimuli=2)")
    match = match_ids(shared_stimuli(models), stimulus_ids(rdms), names=("models", "RDMs"), missing=missing)
    ids = tuple(sorted(match.matched, key=natural_key))
    stack = [Model(str(name), reindex(group, ids), combine) for name, group in models.items()]
    frames, notes = [], [resampling.note]
    for place, brain in rdms_by_roi(rdms, roi, subjects).items():
        names = subject_names(brain), ids
        inference = infer_fitted(stack, reindex(brain, ids), comparison, bootstrap, folds, names=names)
        columns = {
            "model": [model.name for model in stack],
            "fit": [model.fit for model in stack],
            "roi": place,
            "comparison": comparison.name,
            **inference.estimates(),
            "ceiling_lower": inference.ceiling[0],
            "ceiling_upper": inference.ceiling[1],
            "generalizes_to": resampling.generalizes_to if resampling.resamples else "",
            "n_subjects": inference.n_subjects,
            "n_stimuli": inference.n_stimuli,
            "k_subjects": folds.subjects,
            "k_stimuli": folds.stimuli,
        }
        frames.append(pd.DataFrame(columns))
        notes += [f"model {model.name!r}: {NO_WIDTH}" for model in compress(stack, inference.no_width)]
    for note in filter(None, notes):
        warnings.warn(note, stacklevel=2)
    return pd.concat(frames, ignore_index=True)
