"""Similarities and noise ceilings of a resample in which RDMs miss different pairs: compiled by numba.

Each two RDMs are compared on the pairs that both have, and each pair is pooled over the subjects who have it.
Pairs that were not drawn are left out first; those that an RDM misses have a weight of 0. Every sum may be
taken in any order, so that several numbers are added at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from neurordl.arrays import Bools, Floats
from neurordl.arrays import Ints as Longs
from neurordl.measures.kernels.compiled_ranks import (
    Ints,
    Layout,
    _product,
    compiled,
    rank,
    resample,
    tau,
    weighted_mean_ranks,
)

F = TypeVar("F", bound=Callable[..., Any])
_ROUNDING = 1e-13  # of a squared length, relative to the numbers that it is the difference of


def summing(function: F) -> F:
    """Compile as `compiled` does, with sums in any order."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))


@compiled
def drawn_pairs(counts: Longs) -> tuple[Longs, Floats]:
    """Which pairs were drawn, and how often."""
    n = len(counts)
    places, weights = np.empty(n * (n - 1) // 2, np.int64), np.empty(n * (n - 1) // 2)
    size, pair = 0, 0
    for i in range(n):
        for j in range(i + 1, n):
            if counts[i] and counts[j]:
                places[size], weights[size] = pair, counts[i] * counts[j]
                size += 1
            pair += 1
    return places[:size].copy(), weights[:size].copy()


@compiled
def _columns(values: Floats, places: Longs) -> Floats:
    out = np.empty((len(values), len(places)))
    for row in range(len(values)):
        for k in range(len(places)):
            out[row, k] = values[row, places[k]]
    return out


@compiled
def _squared_length(square: float, total: float, size: float, centered: bool) -> float:
    """Sum of squares, less that of the mean if centered; 0 where only rounding remains."""
    if not centered:
        return square
    of_mean = total * total / size
    length = square - of_mean
    return length if length > _ROUNDING * (square + of_mean) else 0.0


@summing
def _cosine(a: Floats, b: Floats, weights: Floats, known: Floats, centered: bool) -> float:
    """Cosine, or correlation, of two RDMs that are 0 where unknown, on the pairs that count and are known."""
    size, sum_a, sum_b, square_a, square_b, product = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(len(weights)):
        weight = weights[k] * known[k]
        weighted_a, weighted_b = weight * a[k], weight * b[k]
        size += weight
        sum_a += weighted_a
        sum_b += weighted_b
        square_a += weighted_a * a[k]
        square_b += weighted_b * b[k]
        product += weighted_a * b[k]
    if size < 2:
        return np.nan
    squares = _squared_length(square_a, sum_a, size, centered) * _squared_length(
        square_b, sum_b, size, centered
    )
    if centered:
        product -= sum_a * sum_b / size
    return float(product / np.sqrt(squares)) if squares > 0 else np.nan


@compiled
def inner_sample(
    values: Floats,
    known: Floats,
    shared: Floats,
    counts: Longs,
    layout: tuple[int, bool],
    sets: Longs,
    scores: Floats,
    out: Floats,
) -> None:
    """Scores and ceilings of a resample under the cosine or, centered, the correlation.

    Parameters
    ----------
    values, known
        (models and subjects, pairs) RDMs that are 0 where unknown, and 1 or 0 for known or not.
    shared
        (pairs,) 1 for those that ceilings are taken on, else 0.
    counts
        (stimuli,) how often each was drawn.
    layout
        How many RDMs are models, and whether they are centered.
    sets
        (sets, subjects) how often each is in the ceilings.
    scores, out
        (models, subjects) and (sets, 2, subjects) filled in; unknown values are NaN already.
    """
    split, centered = layout
    places, weights = drawn_pairs(counts)
    x, measured = _columns(values, places), _columns(known, places)
    for column in range(scores.shape[1] if split else 0):
        own_weights = weights * measured[split + column]
        for row in range(split):
            scores[row, column] = _cosine(x[row], x[split + column], own_weights, measured[row], centered)
    if len(sets):
        weights *= shared[places]
        _inner_bounds(x[split:], measured[split:], weights, centered, sets, out)


@summing
def _inner_bounds(
    x: Floats, known: Floats, weights: Floats, centered: bool, sets: Longs, out: Floats
) -> None:
    size = len(weights)
    units = np.zeros(len(x))  # of each subject, 0 of one without a length
    for subject in range(len(x)):
        own, times, total, square = weights * known[subject], 0.0, 0.0, 0.0
        for k in range(size):
            times += own[k]
            total += own[k] * x[subject, k]
            square += own[k] * x[subject, k] * x[subject, k]
        if times > 0:
            length = _squared_length(square, total, times, centered)
            units[subject] = np.sqrt(times / length) if length > 0 else 0.0
            mean = total / times if centered else 0.0
            for k in range(size):
                x[subject, k] = (x[subject, k] - mean) * units[subject] * known[subject, k]
    pooled, number, share, enough = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    rest = np.empty(size)
    for chosen in range(len(sets)):
        drawn = sets[chosen]
        if (drawn > 0).sum() < 2:
            continue
        pooled[:], number[:] = 0, 0
        for subject in range(len(x)):
            if drawn[subject] and units[subject]:
                for k in range(size):
                    pooled[k] += drawn[subject] * x[subject, k]
                    number[k] += drawn[subject] * known[subject, k]
        for omitted in range(
            drawn.max() + 1
        ):  # how many copies are left out, of subjects with so many; 0: none
            if omitted and not (drawn == omitted).any():
                continue
            for k in range(size):
                enough[k] = 1.0 if number[k] > omitted else 0.0
                share[k] = enough[k] / max(number[k] - omitted, 1.0)
            for subject in range(len(x)):
                if drawn[subject] and units[subject] and omitted in (0, drawn[subject]):
                    for k in range(size):
                        rest[k] = (pooled[k] - omitted * x[subject, k]) * share[k] * known[subject, k]
                    own = weights * known[subject]
                    value = _cosine(rest, x[subject], own, enough, centered)
                    out[chosen, 0 if omitted else 1, subject] = value


@compiled
def rank_sample(
    ranks: Ints,
    order: Ints,
    known: Bools,
    shared: Bools,
    counts: Longs,
    layout: Layout,
    sets: Longs,
    scores: Floats,
    out: Floats,
) -> None:
    """Scores and ceilings of a resample under a measure of ranks; see `inner_sample`.

    Parameters
    ----------
    ranks, order
        Dense ranks of all pairs, (models and subjects, pairs), and the order that sorts them; ranks of
        unknown pairs mean nothing.
    known, shared, counts, layout, sets, scores, out
        As in `inner_sample`; the layout is that of `compiled_ranks.scores`.
    """
    split = layout[0]
    everywhere = np.ones(ranks.shape[1], np.bool_)
    weights, dense, sorts, _ = resample(ranks, order, counts, everywhere)
    places = drawn_pairs(counts)[0]
    own, both = np.empty(len(weights), np.int32), np.empty(len(weights), np.int32)
    for column in range(split, len(ranks) if split else 0):
        total = 0
        for k in range(len(places)):
            own[k] = weights[k] if known[column, places[k]] else 0
            total += own[k]
        first = np.empty(len(weights))
        _centered_ranks(dense[column], sorts[column], own, first)
        for row in range(split):
            common = 0
            for k in range(len(places)):
                both[k] = own[k] if known[row, places[k]] else 0
                common += both[k]
            pair = dense[row], sorts[row], dense[column], sorts[column]
            scores[row, column - split] = _rank_similarity(pair, both, first, common == total, layout)
    if len(sets):
        masks = np.empty((len(ranks) - split, len(places)), np.int32)
        for subject in range(len(masks)):
            for k in range(len(places)):
                pair_known = known[split + subject, places[k]] and shared[places[k]]
                masks[subject, k] = weights[k] if pair_known else 0
        _rank_bounds(masks, dense[split:], sorts[split:], layout, sets, out)


@compiled
def _centered_ranks(dense: Ints, sorts: Ints, weights: Ints, out: Floats) -> int:
    total = weighted_mean_ranks(dense, sorts, weights, out)
    out -= (total + 1) / 2
    return total


@compiled
def _rank_similarity(
    pair: tuple[Ints, Ints, Ints, Ints], weights: Ints, second: Floats, usual: bool, layout: Layout
) -> float:
    """Similarity of two rankings; ``second`` has the centered ranks of the second, if those are usual."""
    dense, sorts, dense_b, sorts_b = pair
    _, products, normalized = layout
    if not products:
        return float(tau(dense, dense_b, sorts_b, weights, normalized))
    a = np.empty(len(weights))
    _centered_ranks(dense, sorts, weights, a)
    b = second
    if not usual:
        b = np.empty(len(weights))
        _centered_ranks(dense_b, sorts_b, weights, b)
    return float(_product(a, b, weights, normalized))


@compiled
def _rank_bounds(masks: Ints, dense: Ints, sorts: Ints, layout: Layout, sets: Longs, out: Floats) -> None:
    n, size = masks.shape
    means, own, totals = np.empty((n, size)), np.empty((n, size)), np.zeros(n, np.int64)
    for subject in range(n):
        totals[subject] = weighted_mean_ranks(dense[subject], sorts[subject], masks[subject], means[subject])
        own[subject] = means[subject] - (totals[subject] + 1) / 2
    pooled, number, values = np.empty(size), np.empty(size, np.int64), np.empty(size, np.int64)
    ranks, sort, weights = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
    for chosen in range(len(sets)):
        drawn = sets[chosen]
        if (drawn > 0).sum() < 2:
            continue
        pooled[:], number[:], weights[:] = 0, 0, 0
        for subject in range(n):
            if drawn[subject]:
                for k in range(size):
                    weights[k] = max(weights[k], masks[subject, k])
        whole = weights.sum() + 1
        for subject in range(n):
            times = drawn[subject]
            for k in range(size if times else 0):
                if masks[subject, k]:
                    pooled[k] += times * (means[subject, k] / ((totals[subject] + 1) / whole))
                    number[k] += times
        for omitted in range(n + 1):  # the last: nobody
            if omitted < n and not drawn[omitted]:
                continue
            for k in range(size):
                value, times = pooled[k], number[k]
                if omitted < n and masks[omitted, k]:
                    value -= drawn[omitted] * (means[omitted, k] / ((totals[omitted] + 1) / whole))
                    times -= drawn[omitted]
                weights[k] = times > 0
                values[k] = np.int64(np.rint(value / times * 1e6)) if times > 0 else 0  # ties, not rounding
            rank(values.view(np.uint64), ranks, sort)
            for subject in range(n):
                if drawn[subject] and omitted in (subject, n):
                    both = masks[subject] * weights
                    pair = ranks, sort, dense[subject], sorts[subject]
                    usual = both.sum() == totals[subject]
                    value = _rank_similarity(pair, both, own[subject], usual, layout)
                    out[chosen, omitted // n, subject] = value
