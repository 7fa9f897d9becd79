"""Fitted models, scored on stimuli and subjects that they were not fitted to: `evaluate_fitted`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from scipy import optimize

from neurordl.arrays import Bools, Floats, Ints, nan_mean
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids, natural_key
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.measures.condensed import missing_groups, n_stimuli
from neurordl.measures.kernels.similarities import InnerProducts, bounds, pooling_weights
from neurordl.progress import tracked
from neurordl.rdms.selection import rdms_by_place, reindex, stimulus_ids, stimulus_properties, subject_names
from neurordl.rsa.ceilings import ceiling, pooled, scaled_to_pool
from neurordl.rsa.compare import repeated_subjects, shared_stimuli, similarity
from neurordl.rsa.inference.infer import NO_WIDTH, Inference
from neurordl.rsa.inference.resampling import (
    Draws,
    Jackknife,
    Resampling,
    Spread,
    covariances,
    expanded,
    find_resampling,
)
from neurordl.validate import brief, check_choice, check_count, check_number

_SPLITS, _SPLITS_OF_A_RESAMPLE = 100, 2
_TOGETHER = 1000  # folds at once
_SINGULAR = 1e-10  # smallest eigenvalue of RDMs of unit length whose weights are unique
_OPTIMAL = 1e-10  # rounding of a weight, relative to the greatest inner product
_FLAT = 1e-12  # squared length of a weighted sum that is only rounding, relative to its terms
_PIVOTS = 20
_INNER = 3  # random halvings of the training stimuli, to choose a penalty
_FEWEST = 6  # training stimuli for that, three in each half


@dataclass(frozen=True)
class Ridge:
    """Least squares with a penalty on the squares of weights, for ``combine=`` of `evaluate_fitted`.

    `regress_rdms` takes it as ``fit=``, with a single penalty. Weights minimize
    ``(|y - Xw|² + penalty |w|²) / |y|²``, the RDMs of X and y being centered and of unit length (or their
    ranks; for comparisons such as cosine not centered): a penalty of 1 halves the weight of a single model.
    Of several subjects, the mean of ``|y - Xw|²`` counts.

    Parameters
    ----------
    penalty
        Above 0. Of several penalties, that one is taken with which weights from half of the training stimuli
        fit the other half best, in three random halvings: held-out stimuli do not take part in the choice.
    nonnegative
        Whether weights are 0 or more.

    Raises
    ------
    NeurordlError
        There is no penalty, or one is not above 0.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Ridge(0.1).penalty
    0.1
    >>> print(nrl.Ridge((0.1, 1, 10), nonnegative=True))
    ridge, 0 or more, 0.1, 1, 10
    """

    penalty: float | tuple[float, ...]
    nonnegative: bool = False

    def __post_init__(self) -> None:
        several = isinstance(self.penalty, Iterable)
        penalties = tuple(self.penalty) if isinstance(self.penalty, Iterable) else (self.penalty,)
        if not penalties:
            raise NeurordlError("Ridge.penalty is empty; give one above 0, or several to choose from")
        for value in penalties:
            check_number("Ridge.penalty", value, 0, open_low=True)
        if several:
            object.__setattr__(self, "penalty", penalties)

    @property
    def penalties(self) -> tuple[float, ...]:
        """The penalties to choose from, or the only one."""
        return self.penalty if isinstance(self.penalty, tuple) else (self.penalty,)

    def __str__(self) -> str:
        sign = ", 0 or more" if self.nonnegative else ""
        return f"ridge{sign}, {', '.join(f'{value:g}' for value in self.penalties)}"


Combine: TypeAlias = Literal["weighted", "select"] | Ridge


@dataclass(frozen=True)
class Folds:
    """How subjects and stimuli are split for cross-validation.

    Parameters
    ----------
    subjects, stimuli
        Number of folds; 1 does not split. A fold takes three stimuli or more.
    splits
        Number of random splits, over all of which scores are averaged. By default 100, and 2 within each
        resample of a `Bootstrap`, as in rsatoolbox: the variance that splitting adds to its resamples is
        estimated from their differences, and subtracted.
    seed
        Seed of the random splits; None splits in the order of the data, once. Within the resamples of a
        `Bootstrap` the seed of the bootstrap is used instead.

    Raises
    ------
    NeurordlError
        A number is less than 1.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Folds(splits=20).splits
    20
    """

    subjects: int = 1
    stimuli: int = 2
    splits: int | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        check_count("Folds.subjects", self.subjects)
        check_count("Folds.stimuli", self.stimuli)
        if self.splits is not None:
            check_count("Folds.splits", self.splits)
        if self.seed is not None:
            check_count("Folds.seed", self.seed, least=0)

    @property
    def hold_out(self) -> bool:
        """Whether anything is held out."""
        return max(self.subjects, self.stimuli) > 1

    def all_folds(self, n_subjects: int, n_stimuli: int) -> list[Fold]:
        """Folds of all random splits; of a single split, in the order of the data, without a seed."""
        rng = None if self.seed is None else np.random.default_rng(self.seed)
        n_splits = (self.splits or _SPLITS) if self.hold_out and rng is not None else 1
        everyone, everything = np.arange(n_subjects), np.arange(n_stimuli)
        return [fold for _ in range(n_splits) for fold in self.split(everyone, everything, rng)]

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
        What several RDMs become: a sum with weights of 0 or more ("weighted") or those of a `Ridge`, or one
        of them ("select").
    """

    __repr__ = brief

    name: str
    rdms: Floats
    combine: Combine = "weighted"

    def __post_init__(self) -> None:
        if not isinstance(self.combine, Ridge):
            check_choice("combine", self.combine, ("weighted", "select"), "or a Ridge")
        if self.rdms.ndim != 2 or not len(self.rdms):
            raise NeurordlError(f"model {self.name!r} takes RDMs (rdms, pairs), but got {self.rdms.shape}")

    @property
    def fit(self) -> str:
        """How it is fitted, for tables: "fixed", "weighted", "select", or a ridge with its penalties."""
        return str(self.combine) if len(self.rdms) > 1 else "fixed"


class Side(NamedTuple):
    """What many folds are fitted to, or scored on: how often each stimulus and each subject counts.

    Attributes
    ----------
    stimuli
        (folds, stimuli).
    subjects
        (folds, sets, subjects): several sets of subjects share the stimuli of a fold.
    """

    stimuli: Ints
    subjects: Ints


class _Moments(NamedTuple):
    """Inner products on the pairs of each fold, in one unit for each RDM."""

    models: Floats
    """(folds, rdms, rdms)"""
    cross: Floats
    """(folds, subjects, rdms): with subjects' RDMs of unit length; NaN for one without a length."""


def _moments(kernel: InnerProducts, rdms: Floats, data: Floats, counts: Ints) -> _Moments:
    """Inner products of a model's RDMs, and with subjects, where stimuli count so often, (folds, stimuli)."""
    measured = np.isfinite(rdms).all(axis=0) & np.isfinite(data[0])
    subjects, models = (torch.as_tensor(np.where(measured, x, 0)) for x in (data, rdms))
    mask = None if measured.all() else torch.as_tensor(measured)
    distinct, places = _distinct(counts)
    grams = kernel.grams(subjects, models, torch.as_tensor(distinct, dtype=torch.float64), mask, among=True)
    lengths = torch.where(grams.models > 0, grams.models, torch.nan).sqrt()
    parts = grams.data, grams.cross / lengths[..., None]
    return _Moments(*(part.numpy()[places] for part in parts))


def _distinct(counts: Ints) -> tuple[Ints, Ints]:
    """Distinct rows, and which of them each row is; rows are compared as bytes, which is fast."""
    rows = np.ascontiguousarray(counts)
    keys = rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel()
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    return counts[first], places


def fit_model(model: Model, data: Floats, comparison: ComparisonLike) -> Floats:
    """Weights of a model's RDMs, (rdms,), that bring the model nearest to these subjects.

    "select": the RDM of the greatest mean similarity, as rsatoolbox's ``fit_select``. "weighted": the weights
    of 0 or more that maximize the mean similarity over subjects, of unit length, as its ``fit_regress_nn``,
    for comparisons that are inner products (cosine, corr and their whitened variants); for others those that
    maximize corr, where rsatoolbox searches from random starts. A `Ridge`: its weights, in the same way.

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
    everyone = np.ones((1, len(data)), dtype=np.int64)
    weights = _fit_to_pairs(model, model.rdms, data, everyone, find_similarity(comparison))[0]
    if np.isnan(weights).any():
        raise NeurordlError(
            f"model {model.name!r} cannot be fitted: it or the data are constant on training pairs"
        )
    length = float(np.linalg.norm(weights))
    return np.asarray(weights / length if length > 0 else weights)


def _fit_to_pairs(model: Model, rdms: Floats, data: Floats, subjects: Ints, comparison: Comparison) -> Floats:
    """`_fit` to RDMs (rdms, pairs) and (subjects, pairs), on pairs that all subjects of a set have.

    Returns (sets, rdms), NaN where the model cannot be fitted.
    """
    if len(rdms) == 1 or model.combine == "select":
        return _selected(None if len(rdms) == 1 else similarity(rdms, data, comparison).T, subjects)
    absent = ~np.isfinite(data)
    kept = np.isfinite(rdms).all(axis=0) & ~((subjects > 0) @ absent)
    weights = np.empty((len(subjects), len(rdms)))
    once = np.ones((1, n_stimuli(rdms.shape[1])), dtype=np.int64)
    for rows, missing in missing_groups(np.where(kept, 0, np.nan)):
        complete = replace(model, rdms=np.where(missing, np.nan, rdms))
        side = Side(once, subjects[None, rows])
        weights[rows] = _fit_by_products(complete, np.where(absent, 0, data), comparison, side)[0]
    return weights


def _fit_by_products(model: Model, data: Floats, comparison: Comparison, train: Side) -> Floats:
    """Weights (folds, sets, rdms) of a weighted sum, fitted to subjects who all have the same pairs."""
    kernel = comparison.kernel
    kernel = kernel if isinstance(kernel, InnerProducts) else InnerProducts(centered=True)
    units = np.abs(np.where(np.isfinite(model.rdms), model.rdms, 0)).max(axis=1)  # the kernel changes units
    units = np.where(units > 0, units, 1)
    rdms = model.rdms / units[:, None]
    penalties = _penalties(model, kernel, rdms, data, train)
    moments = _moments(kernel, rdms, data, train.stimuli)
    return np.asarray(_fit(model, moments, train.subjects, penalties) / units)


def _penalties(model: Model, kernel: InnerProducts, rdms: Floats, data: Floats, train: Side) -> Floats | None:
    """The penalty of a ridge for each fold and set, (folds, sets), chosen in halves of the training stimuli.

    None for other fits.
    """
    ridge, shape = model.combine, train.subjects.shape[:2]
    if not isinstance(ridge, Ridge) or len(rdms) == 1:
        return None
    if len(ridge.penalties) == 1 or not len(train.stimuli):
        return np.full(shape, ridge.penalties[0])
    total = np.zeros((len(ridge.penalties), *shape))
    for halves in _halves(train.stimuli):
        moments = _moments(kernel, rdms, data, np.concatenate(halves))
        parts = [_Moments(*(np.split(x, 2)[half] for x in moments)) for half in (0, 1)]
        for place, penalty in enumerate(ridge.penalties):
            for fitted, tested in (parts, parts[::-1]):
                weights = _fit(model, fitted, train.subjects, np.full(shape, penalty))
                similarities, empty = _similarities(np.nan_to_num(weights), tested)
                scores = _mean_over(similarities, train.subjects)
                total[place] += np.nan_to_num(np.where(empty, 0, scores))
    penalties: Floats = np.array(ridge.penalties)
    best: Floats = penalties[total.round(12).argmax(axis=0)]  # ties do not hang on rounding
    return best


def _halves(stimuli: Ints) -> list[tuple[Ints, Ints]]:
    """Random halvings of the stimuli in each fold, as counts; copies of a stimulus stay together."""
    if (fewest := int((stimuli > 0).sum(axis=1).min())) < _FEWEST:
        raise NeurordlError(
            f"a penalty is chosen in halves of {_FEWEST} training stimuli or more, and a fold has {fewest} "
            "(resamples have fewer stimuli than the data, those of a Bootstrap by a third): give Ridge one "
            "penalty, or take fewer folds"
        )
    halvings = []
    for seed in range(_INNER):
        order = np.random.default_rng(seed).permutation(stimuli.shape[1])
        rank = np.cumsum((stimuli > 0)[:, order], axis=1)[:, np.argsort(order)]
        halvings.append((np.where(rank % 2 == 1, stimuli, 0), np.where(rank % 2 == 0, stimuli, 0)))
    return halvings


def _fit(model: Model, moments: _Moments, subjects: Ints, penalties: Floats | None = None) -> Floats:
    """Weights of each fold and set of subjects, (folds, sets, rdms); NaN where the model cannot be fitted.

    ``penalties`` are those of a ridge, (folds, sets).
    """
    lengths = np.sqrt(np.maximum(np.einsum("fii->fi", moments.models), 0))
    if moments.cross.shape[2] == 1:
        return _selected(None, subjects)
    if model.combine == "select":
        return _selected(moments.cross / np.where(lengths > 0, lengths, np.nan)[:, None], subjects)
    defined = np.isfinite(moments.cross)
    goals = subjects.astype(np.float64) @ np.where(defined, moments.cross, 0)
    usable = np.asarray((subjects @ defined).max(axis=2) * lengths.max(axis=1, keepdims=True) > 0)
    if penalties is None:
        return np.where(usable[..., None], nonnegative(moments.models, goals), np.nan)
    number = np.maximum(subjects @ defined.any(axis=2, keepdims=True), 1)
    units = np.where(lengths > 0, lengths, np.inf)[:, None]
    means = goals / number / units
    products = moments.models / (units * units.swapaxes(1, 2))
    weights = _ridge_weights(model.combine, products, means, penalties) / units
    return np.where(usable[..., None], weights, np.nan)


def _ridge_weights(combine: Combine, products: Floats, goals: Floats, penalties: Floats) -> Floats:
    """Weights (folds, sets, rdms) of RDMs of unit length, those without a length being 0."""
    weights = np.empty(goals.shape)
    identity = np.eye(products.shape[1])
    for penalty in np.unique(penalties):
        chosen = penalties == penalty
        rows = chosen.any(axis=1)
        matrix = products[rows] + penalty * identity
        if isinstance(combine, Ridge) and combine.nonnegative:
            solved = nonnegative(matrix, goals[rows])
        else:
            solved = np.linalg.solve(matrix, goals[rows].swapaxes(1, 2)).swapaxes(1, 2)
        weights[rows] = np.where(chosen[rows, :, None], solved, weights[rows])
    return weights


def _selected(similarities: Floats | None, subjects: Ints) -> Floats:
    """Weight 1 for the RDM of the greatest mean similarity (…, subjects, rdms); of None there is one RDM."""
    if similarities is None:
        return np.ones((*subjects.shape[:-1], 1))
    means = _mean_over(similarities.swapaxes(-1, -2)[..., None, :, :], subjects[..., None, :])
    best = np.where(np.isnan(means), -np.inf, means.round(12)).argmax(axis=-1)  # ties do not hang on rounding
    chosen = np.eye(means.shape[-1])[best]
    return np.where(np.isnan(means).all(axis=-1, keepdims=True), np.nan, chosen)


def _mean_over(similarities: Floats, subjects: Ints) -> Floats:
    """Mean over the last axis, each subject as often as it counts; NaN where no similarity is defined."""
    defined = np.isfinite(similarities)
    total = (np.where(defined, similarities, 0) * subjects).sum(axis=-1)
    number = (defined * subjects).sum(axis=-1)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def nonnegative(grams: Floats, goals: Floats) -> Floats:
    """Weights w of 0 or more that minimize ``w'Gw - 2 w'g``, of (folds, rdms, rdms) and (folds, sets, rdms).

    All at once by block principal pivoting (Kim & Park 2011, SIAM J. Sci. Comput. 33:3261), each solution
    checked by its optimality conditions; what does not converge, or is not unique, is left to SciPy.
    """
    diagonal = np.einsum("fii->fi", grams)
    informative = diagonal > 0
    units = np.sqrt(np.where(informative, diagonal, np.inf))
    grams = grams / (units[:, :, None] * units[:, None])
    np.einsum("fii->fi", grams)[:] = 1
    goals = goals / units[:, None]
    weights = np.full(goals.shape, np.nan)
    regular = np.linalg.eigvalsh(grams)[:, 0] > _SINGULAR
    if regular.any():
        gram, goal = grams[regular], goals[regular]
        inside = _pivoted(gram, goal[:, 0], np.ones(goal[:, 0].shape, dtype=bool)) > 0
        solutions, wrong = _solved(gram, goal, inside)  # most sets have the same positive weights
        fold, row = np.nonzero(wrong.any(axis=2))
        solutions[fold, row] = _pivoted(gram[fold], goal[fold, row], inside[fold] ^ wrong[fold, row])
        weights[regular] = solutions
    for fold, row in np.argwhere(np.isnan(weights).any(axis=2)):
        values, vectors = np.linalg.eigh(grams[fold])
        kept = values > 1e-12 * values[-1]
        root, basis = np.sqrt(values[kept]), vectors[:, kept].T
        weights[fold, row] = optimize.nnls(root[:, None] * basis, basis @ goals[fold, row] / root)[0]
    return np.asarray(weights / units[:, None])


def _pivoted(grams: Floats, goals: Floats, inside: Bools) -> Floats:
    """`nonnegative` of a goal each, (goals, rdms), from a guess of which weights are positive.

    A weight moves to the other side as long as it breaks a condition; NaN where this does not end.
    """
    weights = np.full(goals.shape, np.nan)
    pending = np.arange(len(goals))
    for _ in range(_PIVOTS):
        solutions, wrong = _solved(grams[pending], goals[pending, None], inside)
        solutions, wrong = solutions[:, 0], wrong[:, 0]
        done = ~wrong.any(axis=1)
        weights[pending[done]] = solutions[done]
        pending, inside = pending[~done], (inside ^ wrong)[~done]
        if not len(pending):
            break
    return weights


def _solved(grams: Floats, goals: Floats, inside: Bools) -> tuple[Floats, Bools]:
    """Least squares with weights inside (folds, rdms) only, and which weights are not optimal then."""
    matrix = np.where(inside[:, :, None] & inside[:, None], grams, np.eye(goals.shape[2]))
    inside = inside[:, None]
    solutions = np.linalg.solve(matrix, np.where(inside, goals, 0).swapaxes(1, 2)).swapaxes(1, 2)
    rounding = _OPTIMAL * np.abs(goals).max(axis=2, keepdims=True)
    wrong = np.where(inside, solutions < -rounding, goals - solutions @ grams > rounding)
    return np.maximum(solutions, 0), wrong


def score_folds(
    model: Model, data: Floats, comparison: Comparison, train: Side, test: Side
) -> tuple[Floats, Bools]:
    """Fit a model in many folds and sets of subjects, and score it on the other side.

    Returns
    -------
    scores, empty
        (folds, sets) each: the mean similarity over the test subjects, NaN where none has one; and whether
        the prediction says nothing (no weight, or constant on the test pairs), which scores 0.
    """
    alike = len(missing_groups(data)) == 1
    if alike and isinstance(comparison.kernel, InnerProducts):
        similarities, empty = _similarities_by_products(model, data, comparison.kernel, train, test)
    else:
        similarities, empty = np.empty(test.subjects.shape), np.empty(test.subjects.shape[:2], dtype=bool)
        weighted = alike and len(model.rdms) > 1 and model.combine != "select"
        together = _fit_by_products(model, data, comparison, train) if weighted else None
        for fold in range(len(empty)):
            if together is None:
                rdms, fit_to = (expanded(x, train.stimuli[fold]) for x in (model.rdms, data))
                weights = _fit_to_pairs(model, rdms, fit_to, train.subjects[fold], comparison)
            else:
                weights = together[fold]
            weights = np.nan_to_num(weights)
            rdms, tested = (expanded(x, test.stimuli[fold]) for x in (model.rdms, data))
            predicted = weights @ rdms
            known = torch.as_tensor(predicted[:, np.isfinite(rdms).all(axis=0)])
            empty[fold] = ~weights.any(axis=1) | comparison.is_undefined(known).numpy()
            similarities[fold] = similarity(predicted, tested, comparison)
    scores = _mean_over(similarities, test.subjects)
    tested_at_all = (test.subjects > 0).any(axis=2)
    return np.where(empty & tested_at_all, comparison.uninformative, scores), empty & tested_at_all


def _similarities_by_products(
    model: Model, data: Floats, kernel: InnerProducts, train: Side, test: Side
) -> tuple[Floats, Bools]:
    """Similarities (folds, sets, subjects), and which predictions are empty, of all folds at once."""
    moments = _moments(kernel, model.rdms, data, np.concatenate([train.stimuli, test.stimuli]))
    n_folds = len(train.stimuli)
    fitted, tested = (
        _Moments(*(x[rows] for x in moments)) for rows in (slice(n_folds), slice(n_folds, None))
    )
    penalties = _penalties(model, kernel, model.rdms, data, train)
    return _similarities(np.nan_to_num(_fit(model, fitted, train.subjects, penalties)), tested)


def _similarities(weights: Floats, tested: _Moments) -> tuple[Floats, Bools]:
    """Similarities (folds, sets, subjects) of weighted sums, and which of these predictions are empty."""
    squares = ((weights @ tested.models) * weights).sum(axis=-1)
    reach = np.abs(weights) @ np.sqrt(np.maximum(np.einsum("fii->fi", tested.models), 0))[..., None]
    empty = squares <= _FLAT * reach[..., 0] ** 2
    lengths = np.sqrt(np.where(empty, np.nan, squares))
    return weights @ tested.cross.swapaxes(1, 2) / lengths[..., None], empty


def fold_ceilings(data: Floats, comparison: Comparison, train: Side, test: Side, whole: Side) -> Floats:
    """Lower and upper noise ceiling on the test pairs of each fold, (2, folds).

    The similarity of the test subjects with the pooled RDM of the training subjects (lower) and of everyone
    (upper). Where subjects are not split, the lower ceiling leaves one out.
    """
    kernel = comparison.kernel
    if isinstance(kernel, InnerProducts) and len(missing_groups(data)) == 1:
        return _ceilings_by_products(kernel, data, (train, test, whole))
    ceilings = np.full((2, len(test.stimuli)), np.nan)
    for fold in range(len(test.stimuli)):
        times, counts = whole.subjects[fold, 0], whole.stimuli[fold]
        drawn = np.repeat(np.arange(len(counts)), counts)
        i, j = np.triu_indices(len(drawn), 1)
        inside = test.stimuli[fold, drawn] > 0
        test_on = inside[i] & inside[j]
        everything = expanded(data, counts)
        everyone = pooled(scaled_to_pool(np.repeat(everything, times, axis=0), comparison), comparison)
        tested, trained = test.subjects[fold, 0], train.subjects[fold, 0]
        part = everything[:, test_on]
        scored = np.repeat(part, tested, axis=0)
        ceilings[1, fold] = nan_mean(similarity(everyone[:, test_on], scored, comparison)[0])
        if not np.array_equal(tested, trained):
            pool = pooled(scaled_to_pool(np.repeat(part, trained, axis=0), comparison), comparison)
            ceilings[0, fold] = nan_mean(similarity(pool, scored, comparison)[0])
        elif (times > 0).sum() > 1:
            ceilings[0, fold] = ceiling(part[times > 0], comparison)[0]
    return ceilings


def _ceilings_by_products(kernel: InnerProducts, data: Floats, sides: tuple[Side, Side, Side]) -> Floats:
    """`fold_ceilings` of all folds at once, from inner products of the subjects' RDMs."""
    _, test, whole = sides
    measured = np.isfinite(data[0])
    counts, places = _distinct(np.concatenate([test.stimuli, whole.stimuli]))
    on_test, on_all = np.split(places, 2)
    vectors = torch.as_tensor(np.where(measured, data, 0))
    mask = None if measured.all() else torch.as_tensor(measured)
    grams = kernel.grams(vectors[:0], vectors, torch.as_tensor(counts, dtype=torch.float64), mask, among=True)
    weights, products = pooling_weights(grams.lengths), grams.data[on_test]
    trained, tested, everyone = (torch.tensor(side.subjects[:, 0]) for side in sides)
    upper = bounds(products, everyone * weights[on_all])[1]
    if bool((trained == tested).all()):
        tested = (tested > 0).long()  # copies of a subject are left out together
        lower = bounds(products, tested * weights[on_test])[0]
    else:
        pool = trained * weights[on_test]
        with_pool = (products @ pool[..., None])[..., 0]
        squares = products.diagonal(dim1=-2, dim2=-1) * (pool * with_pool).sum(-1, keepdim=True)
        lower = with_pool / torch.where(squares > 0, squares, torch.nan).sqrt()
    means = [_mean_over(lower.numpy(), tested.numpy()), _mean_over(upper.numpy(), test.subjects[:, 0])]
    return np.stack(means)


def _sides(folds: Sequence[Fold], subjects: Ints, stimuli: Ints) -> tuple[Side, Side, Side]:
    """Training side and test side of folds, and their whole resamples (folds, subjects), (folds, stimuli)."""

    def chosen(counts: Ints, parts: Sequence[Ints]) -> Ints:
        inside = np.zeros(counts.shape, dtype=np.int64)
        for row, part in zip(inside, parts, strict=True):
            row[part] = 1
        return counts * inside

    train = [chosen(stimuli, [fold.train_stimuli for fold in folds])]
    train += [chosen(subjects, [fold.train_subjects for fold in folds])[:, None]]
    test = [chosen(stimuli, [fold.test_stimuli for fold in folds])]
    test += [chosen(subjects, [fold.test_subjects for fold in folds])[:, None]]
    return Side(*train), Side(*test), Side(stimuli, subjects[:, None])


def cross_validate(
    models: Sequence[Model],
    data: Floats,
    comparison: ComparisonLike,
    folds: Sequence[Fold],
    subjects: Ints | None = None,
    stimuli: Ints | None = None,
) -> tuple[Floats, Floats, Bools]:
    """Mean similarity over the test subjects of each fold, on its test stimuli, of models fitted to the rest.

    Equal to rsatoolbox's ``crossval`` with ``fit_select`` and ``fit_regress_nn``, but for predictions that
    say nothing (no weight, or constant on the test pairs): they score 0 here. They estimate the similarity,
    on new stimuli and with new subjects, of the model fitted to as much data as a fold has.

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
        How often each is in the resample of a fold, (subjects,) or (folds, subjects), and so with stimuli; by
        default once.

    Returns
    -------
    evaluations, ceilings, empty
        (models, folds); (2, folds) as `fold_ceilings` has them; and (models, folds) whether the prediction
        says nothing.
    """
    comparison = find_similarity(comparison)
    sizes = len(data), n_stimuli(data.shape[1])
    times, counts = (
        np.broadcast_to(np.ones(n, dtype=np.int64) if drawn is None else drawn, (len(folds), n))
        for drawn, n in zip((subjects, stimuli), sizes, strict=True)
    )
    train, test, whole = _sides(folds, times, counts)
    scored = [score_folds(model, data, comparison, train, test) for model in models]
    evaluations, empty = (np.stack(parts)[..., 0] for parts in zip(*scored, strict=True))
    return evaluations, fold_ceilings(data, comparison, train, test, whole), empty


def infer_fitted(
    models: Sequence[Model],
    data: Floats,
    comparison: ComparisonLike,
    resampling: Resampling,
    folds: Folds | None = None,
    *,
    draws: Draws | None = None,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
    progress: bool | None = False,
) -> Inference:
    """Cross-validated models with the variance over subjects, stimuli or both.

    The score is the mean over many random splits. A `Jackknife` leaves out subjects and stimuli, and fits and
    scores again in the same splits. With a bootstrap, models are fitted and scored in several random splits
    of each resample; what splitting adds to the variance is taken off (Schütt et al. 2023, eLife 12:e82566):
    evaluations equal rsatoolbox's ``bootstrap_crossval`` and, for "both", its ``eval_dual_bootstrap``; a draw
    that is too small for the folds is drawn again here.

    Parameters
    ----------
    models, data, comparison
        As in `cross_validate`.
    resampling
        How the variance is estimated; `NoResampling` has none.
    folds
        How subjects and stimuli are split.
    draws
        Resamples that were drawn before.
    names
        Names of the subjects and of the stimuli, for a scheme that draws by name; by default their numbers.
    progress
        Show a progress bar.

    Returns
    -------
    Inference
        ``scores`` are (models, folds of all splits) of all data; ``evaluations`` the same in a leading
        dimension, or those of resamples (resamples, models, folds, splits), followed by the three bootstraps
        for "both". Differences from the noise ceiling have no variance with a jackknife.

    Warns
    -----
    UserWarning
        A model says nothing in some folds, which score 0; or splitting varies so much that the bootstrap has
        no variance.
    """
    comparison, folds = find_similarity(comparison), folds or Folds()
    n, stimuli = len(data), n_stimuli(data.shape[1])
    parts = folds.all_folds(n, stimuli)
    scores, bounds, empty = cross_validate(models, data, comparison, parts)
    for model, rows in zip(models, empty, strict=True):
        if rows.any():
            note = f"model {model.name!r}: all weights are 0, or its prediction is constant, in {rows.sum()}"
            notify(f"{note} of {len(rows)} folds: score {comparison.uninformative:g}")
    evaluations, ceilings, variances = scores[None], bounds, None
    if isinstance(resampling, Jackknife):
        resampling.check_folds(n, stimuli, folds.subjects, folds.stimuli)
        units = resampling.units(names[1] if names else [str(k) for k in range(stimuli)])[1]
        times, counts = resampling.left_out(n, units)
        pairs = resampling.pairs(units, folds.stimuli)
        without = (pairs[:, :, None] != units).all(axis=1).astype(np.int64)
        without_each, without_pairs = (
            _scores_without(models, data, comparison, parts, subjects, kept, progress)
            for subjects, kept in ((times, counts), (times[:1], without))
        )
        variances = resampling.covariance_of(without_each, pairs, without_pairs[:, 0])
    elif resampling.resamples:
        resampling.check(comparison)
        drawn = _bootstrapped(models, data, comparison, resampling, folds, draws, names, progress)
        evaluations, ceilings, variances = drawn
    spread = resampling.spread(variances, len(models), n, stimuli)
    if spread.model_var is not None and (spread.model_var < 0).any():
        spread = Spread(*(None if part is None else np.where(part < 0, np.nan, part) for part in spread))
        notify(
            "a variance without that of the splits is below 0, so that it has no interval: take more splits "
            "in each resample, as Folds(splits=10), or Jackknife",
        )
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


def _scores_without(
    models: Sequence[Model],
    data: Floats,
    comparison: Comparison,
    folds: Sequence[Fold],
    times: Ints,
    counts: Ints,
    progress: bool | None,
) -> Floats:
    """Scores over these folds where subjects and stimuli count so often: (counts, times, models)."""
    total, number = np.zeros((2, len(counts), len(times), len(models)))
    step = max(1, _TOGETHER // max(len(counts), 1))
    for start in tracked(range(0, len(folds), step), "left out", progress):
        parts = folds[start : start + step]
        whole = (np.broadcast_to(np.int64(1), (len(parts), x.shape[1])) for x in (times, counts))
        train, test = (
            Side(
                (side.stimuli[:, None] * counts).reshape(-1, counts.shape[1]),
                np.repeat(side.subjects * times, len(counts), axis=0),
            )
            for side in _sides(parts, *whole)[:2]
        )
        for k, model in enumerate(models):
            scores = score_folds(model, data, comparison, train, test)[0].reshape(
                len(parts), *total.shape[:2]
            )
            total[..., k] += np.where(np.isfinite(scores), scores, 0).sum(axis=0)
            number[..., k] += np.isfinite(scores).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def _bootstrapped(
    models: Sequence[Model],
    data: Floats,
    comparison: Comparison,
    resampling: Resampling,
    folds: Folds,
    draws: Draws | None,
    names: tuple[Sequence[str], Sequence[str]] | None,
    progress: bool | None,
) -> tuple[Floats, Floats, Floats]:
    """Evaluations and ceilings in resamples, and their covariance without what splitting adds."""
    if folds.hold_out and folds.splits == 1:
        raise NeurordlError("the variance of splitting takes two splits or more: Folds(splits=2)")
    if getattr(resampling, "variance", None) == "components":
        raise NeurordlError("variance='components' is for models that are not fitted; take a Jackknife")
    rng = None if folds.seed is None else np.random.default_rng(resampling.seed)
    if draws is None:
        numbers = ([str(k) for k in range(size)] for size in (len(data), n_stimuli(data.shape[1])))
        subjects, stimuli = names or numbers
        draws = resampling.draw(subjects, stimuli, fewest=(folds.subjects, 3 * folds.stimuli), rng=rng)
    assert draws is not None
    bootstraps = [draws]
    if len(draws.factors) > 1:
        bootstraps += [Draws(draws.subjects, None), Draws(None, draws.stimuli)]
    results = [_resampled_folds(models, data, comparison, part, folds, rng, progress) for part in bootstraps]
    evaluations, ceilings = (np.stack([result[k] for result in results], axis=-1) for k in range(2))
    variances = _without_splitting(evaluations, ceilings)
    if len(bootstraps) == 1:
        return evaluations[..., 0], ceilings[..., 0], variances[0]
    return evaluations, ceilings, variances


def _resampled_folds(
    models: Sequence[Model],
    data: Floats,
    comparison: Comparison,
    draws: Draws,
    folds: Folds,
    rng: np.random.Generator | None,
    progress: bool | None,
) -> tuple[Floats, Floats]:
    """Evaluations (resamples, models, folds, splits) and ceilings (2, resamples, splits)."""
    size = max(len(counts) for counts in draws if counts is not None)
    sizes = len(data), n_stimuli(data.shape[1])
    drawn = [
        np.ones((size, n), dtype=np.int64) if counts is None else counts
        for counts, n in zip(draws, sizes, strict=True)
    ]
    splits = (folds.splits or _SPLITS_OF_A_RESAMPLE) if folds.hold_out else 1
    n_folds = folds.subjects * folds.stimuli
    evaluations = np.empty((size, len(models), n_folds, splits))
    ceilings = np.empty((2, size, splits))
    step = max(1, _TOGETHER // (splits * n_folds))
    for start in tracked(range(0, size, step), "resamples", progress):
        rows = slice(start, start + step)
        times, counts = (x[rows] for x in drawn)
        parts = [
            fold
            for row in zip(times, counts, strict=True)
            for _ in range(splits)
            for fold in folds.split(np.flatnonzero(row[0]), np.flatnonzero(row[1]), rng)
        ]
        repeated = (np.repeat(x, splits * n_folds, axis=0) for x in (times, counts))
        scores, bounds, _ = cross_validate(models, data, comparison, parts, *repeated)
        by_split = scores.reshape(len(models), len(times), splits, n_folds)
        evaluations[rows] = by_split.transpose(1, 0, 3, 2)
        ceilings[:, rows] = nan_mean(bounds.reshape(2, len(times), splits, n_folds), 3)
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
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = "both",
    missing: Literal["error", "ignore"] = "error",
    progress: bool | None = None,
) -> pd.DataFrame:
    """Fit models to some stimuli or subjects, and score them on the others, by cross-validation.

    The scores estimate the mean similarity, over the population that ``generalizes_to`` names, of a model
    fitted to as much data as all folds but one contain. They are means over 100 random splits (see `Folds`),
    which add at most about 5 % to their variance in simulations. In a split they equal those of rsatoolbox's
    ``crossval``; stimuli are matched by id. A fold in which all weights are 0, or in which the prediction is
    constant, scores 0.

    Parameters
    ----------
    models
        RDMs by the name of the model: one RDM is taken as it is, several are fitted.
    rdms
        The data: RDMs, one per subject in each ROI. With the RDM descriptor ``time``, models are fitted and
        scored at each time, as in each ROI.
    combine
        What several RDMs become: a sum with weights of 0 or more ("weighted"); a sum with the weights of a
        `Ridge`, for RDMs that are many or alike; or one of them ("select").
    comparison
        Comparison of two RDMs, which is also maximized by the fit: see
        `neurordl.rsa.inference.fitted.fit_model`.
    folds
        How subjects and stimuli are split; by default into two folds of the stimuli.
    roi, subjects, missing
        As in `evaluate`.
    bootstrap
        What intervals and p-values generalize to: "subjects", "stimuli" or "both", by a `Jackknife`, which
        leaves out each of them. Or a `Bootstrap` or other `Resampling`: with a bootstrap of few stimuli (12,
        say) intervals are far too wide. None computes the scores only.
    progress
        Show a progress bar; by default on a terminal and in a notebook.

    Returns
    -------
    DataFrame
        A row for each ROI (and ``time``) and model: the score over the folds of all splits, its 95 % interval
        and one-sided p against zero (NaN for ``bootstrap=None``), and the noise ceiling on the same folds.

    Warns
    -----
    UserWarning
        Folds score 0 since a model says nothing in them, with their number; there are fewer than 100
        resamples; or an interval has no width although the scores differ, or a bootstrap no variance.

    Raises
    ------
    NeurordlError
        Ids do not match, the models are of different stimuli, there are more folds than there can be, also
        without a subject or a stimulus; nothing is held out from a fitted model, or a subject has several
        RDMs.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(16)]
    >>> patterns = np.random.default_rng(0).normal(size=(16, 6))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> layers = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=2, seed=1)
    >>> table = nrl.evaluate_fitted({"two layers": layers}, people, bootstrap=None)
    >>> table["model"].tolist()
    ['two layers']
    """
    comparison, folds = find_similarity(comparison), folds or Folds()
    named = find_resampling(bootstrap)
    resampling = Jackknife(bootstrap) if isinstance(bootstrap, str) else named
    if not isinstance(models, Mapping) or not models:
        raise NeurordlError("models= must be a mapping from the name of each model to its RDMs")
    if not isinstance(combine, Ridge):
        check_choice("combine", combine, ("weighted", "select"), "or a Ridge")
    fitted = [name for name, stack in models.items() if len(stack) > 1]
    if fitted and not folds.hold_out:
        raise NeurordlError(f"model {fitted[0]!r} is fitted, and nothing is held out: take Folds(stimuli=2)")
    match = match_ids(shared_stimuli(models), stimulus_ids(rdms), names=("models", "RDMs"), missing=missing)
    ids = tuple(sorted(match.matched, key=natural_key))
    resampling = resampling.for_stimuli(ids, stimulus_properties(rdms, ids), fitted=True)
    stack = [Model(str(name), reindex(group, ids), combine) for name, group in models.items()]
    frames, notes = [], [resampling.note]
    parts = list(rdms_by_place(rdms, roi, subjects).values())
    over_time = "time" in rdms.rdm_descriptors
    for brain, place, time in tracked(parts, "ROIs and times" if over_time else "ROIs", progress):
        names = subject_names(brain), ids
        inference = infer_fitted(
            stack, reindex(brain, ids), comparison, resampling, folds, names=names, progress=progress
        )
        columns = {
            "model": [model.name for model in stack],
            "roi": place,
            **({"time": time} if over_time else {}),
            **inference.estimates(),  # first, since pandas prints "..." for the middle of a wide table
            "ceiling_lower": inference.ceiling[0],
            "ceiling_upper": inference.ceiling[1],
            "fit": [model.fit for model in stack],
            "comparison": comparison.name,
            "generalizes_to": resampling.generalizes_to if resampling.resamples else "",
            "k_subjects": folds.subjects,
            "k_stimuli": folds.stimuli,
            "n_subjects": inference.n_subjects,
            "n_stimuli": inference.n_stimuli,
        }
        frames.append(pd.DataFrame(columns))
        notes.append(repeated_subjects(names[0], reindex(brain, ids)))
        notes += [f"model {model.name!r}: {NO_WIDTH}" for model in compress(stack, inference.no_width)]
    for note in dict.fromkeys(filter(None, notes)):
        notify(note)
    return pd.concat(frames, ignore_index=True)
