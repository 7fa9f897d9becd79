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
    Keys,
    Layout,
    _product,
    compiled,
    rank,
    resample,
    tau,
    weighted_mean_ranks,
)

F = TypeVar("F", bound=Callable[..., Any])
InnerLayout = tuple[int, bool]
Whitening = tuple[Floats, Floats, Floats, Floats]
Sums = tuple[float, float, float]
_ROUNDING = 1e-13  # of a squared length, relative to the numbers that it is the difference of


def summing(function: F) -> F:
    """Compile as `compiled` does, with sums in any order."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))


@compiled
def drawn_pairs(counts: Longs) -> tuple[Keys, Floats]:
    """Which pairs were drawn, and how often."""
    n = len(counts)
    places, weights = np.empty(n * (n - 1) // 2, np.uint64), np.empty(n * (n - 1) // 2)
    size, pair = 0, 0
    for i in range(n):
        for j in range(i + 1, n):
            if counts[i] and counts[j]:
                places[size], weights[size] = pair, counts[i] * counts[j]
                size += 1
            pair += 1
    return places[:size].copy(), weights[:size].copy()


@compiled
def _columns(values: Floats, places: Keys) -> tuple[Floats, Floats]:
    """Some columns of values, 0 for NaN, and 1 or 0 for whether they are numbers."""
    out, known = np.empty((len(values), len(places))), np.empty((len(values), len(places)))
    for row in range(len(values)):
        source, target, mask = values[row], out[row], known[row]
        for k in range(len(places)):
            value = source[places[k]]
            mask[k] = 1.0 if value == value else 0.0
            target[k] = value if value == value else 0.0
    return out, known


@summing
def _sums(a: Floats, b: Floats, weights: Floats) -> tuple[float, float, float]:
    """Weighted sums of a, of its squares, and of its products with b."""
    total, square, product = 0.0, 0.0, 0.0
    for k in range(len(weights)):
        weighted = weights[k] * a[k]
        total += weighted
        square += weighted * a[k]
        product += weighted * b[k]
    return total, square, product


@summing
def _sums_of_rest(pooled: Floats, b: Floats, weights: Floats, share: Floats, times: float) -> Sums:
    """`_sums` of the mean of the other subjects: what is pooled without b, by the share of each."""
    total, square, product = 0.0, 0.0, 0.0
    for k in range(len(weights)):
        a = (pooled[k] - times * b[k]) * share[k]
        weighted = weights[k] * a
        total += weighted
        square += weighted * a
        product += weighted * b[k]
    return total, square, product


@summing
def _add(to: Floats, values: Floats, times: float) -> None:
    for k in range(len(to)):
        to[k] += times * values[k]


@summing
def _shares(number: Floats, omitted: float, share: Floats) -> bool:
    """One over the number of the others, 0 without others; whether there are pairs without others."""
    fewest = np.inf
    for k in range(len(number)):
        rest = number[k] - omitted
        share[k] = 1 / max(rest, 0.5) if rest > 0 else 0.0
        fewest = min(fewest, rest if number[k] > 0 else np.inf)
    return fewest <= 0


@compiled
def _itself(values: Floats, known: Floats, weights: Floats) -> Sums:
    """The sum of the weights of known values, of these values, and of their squares."""
    total, square, _ = _sums(values, values, weights)
    return _sums(known, values, weights)[0], total, square


@compiled
def _squared_length(square: float, total: float, size: float, centered: bool) -> float:
    """Sum of squares, less that of the mean if centered; 0 where only rounding remains."""
    if not centered or size <= 0:
        return square
    of_mean = total * total / size
    length = square - of_mean
    return length if length > _ROUNDING * (square + of_mean) else 0.0


@compiled
def _cosine(sums: Sums, sums_b: Sums, centered: bool) -> float:
    """Cosine, or correlation, of a and b from `_sums` and `_itself` of b."""
    sum_a, square_a, product = sums
    size, sum_b, square_b = sums_b
    if size < 2:
        return np.nan
    squares = _squared_length(square_a, sum_a, size, centered) * _squared_length(
        square_b, sum_b, size, centered
    )
    if centered:
        product -= sum_a * sum_b / size
    return float(product / np.sqrt(squares)) if squares > 0 else np.nan


@summing
def _dot(a: Floats, b: Floats) -> float:
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@summing
def _stimulus_sums(values: Floats, out: Floats) -> None:
    """Sum of the pairs of each stimulus."""
    n, start = len(out), 0
    out[:] = 0
    for i in range(n):
        row, after, total = values[start : start + n - 1 - i], out[i + 1 :], 0.0
        for j in range(len(row)):
            total += row[j]
            after[j] += row[j]
        out[i] += total
        start += n - 1 - i


@summing
def _whitening(used: Floats, counts: Floats) -> Whitening:
    """The whitening by `similarities`' K of drawn stimuli, which `_whitened` takes.

    Times how often each stimulus was drawn, K is symmetric: it has Cholesky's factor, or is diagonal plus
    rank one if the pairs used are all pairs of some of the stimuli.

    Returns
    -------
    counts, ones, metric, factor
        How often each was drawn, the sums of an RDM of ones, the weights (stimuli + 1) that make the products
        of whitened sums, and the factor, with its diagonal inverted; it is empty if it is not needed.
    """
    n, ones, metric = len(counts), np.empty_like(counts), np.empty(len(counts) + 1)
    _stimulus_sums(used, ones)
    known, inside, total = 0, 0, 0.0
    for k in range(len(used)):
        known += used[k] > 0
    for i in range(n):
        if ones[i] > 0:
            inside, total = inside + 1, total + counts[i]
    simple, spread = 2 * known == inside * (inside - 1), 1.0
    for i in range(n):
        diagonal = total + 2 - 2 * counts[i]
        simple = simple and diagonal != 0
        metric[i] = -1 / (counts[i] * diagonal) if diagonal != 0 else 0.0
        spread += counts[i] / diagonal if ones[i] > 0 and diagonal != 0 else 0.0
    if simple:
        metric[n] = 1 / spread
        return counts, ones, metric, np.empty((0, 0))
    metric[:n], metric[n] = -1, 0
    factor, pair = np.empty((n, n)), 0
    for i in range(n):
        factor[i, i] = ones[i] + 2 * counts[i]
        for j in range(i + 1, n):
            factor[j, i] = used[pair]
            pair += 1
    for i in range(n):
        for j in range(i):
            factor[i, j] = (factor[i, j] - _dot(factor[i, :j], factor[j, :j])) * factor[j, j]
        factor[i, i] = 1 / np.sqrt(factor[i, i] - _dot(factor[i, :i], factor[i, :i]))
    return counts, ones, metric, factor


@summing
def _whitened(
    pooled: Floats,
    b: Floats,
    used: Floats,
    share: Floats,
    times: float,
    whitening: Whitening,
    size: float,
    sums: Floats,
) -> Sums:
    """`_sums_of_rest`, and fill in the whitened sums of each stimulus, less the mean if there is a size."""
    counts, ones, metric, factor = whitening
    n, total, square, product = len(counts), 0.0, 0.0, 0.0
    weighted = np.empty(len(used))
    for k in range(len(used)):
        a = (pooled[k] - times * b[k]) * share[k]
        weighted[k] = used[k] * a
        total += weighted[k]
        square += weighted[k] * a
        product += weighted[k] * b[k]
    _stimulus_sums(weighted, sums[:n])
    sums[n] = 0
    if size > 0:
        _add(sums[:n], ones, -total / size)
    if len(factor):
        for i in range(n):
            sums[i] = (sums[i] - _dot(factor[i, :i], sums[:i])) * factor[i, i]
    else:
        for i in range(n):  # divided by the diagonal
            sums[n] -= sums[i] * counts[i] * metric[i]
    return total, square, product


@compiled
def _whitened_cosine(sums: Sums, a: Floats, sums_b: Sums, b: Floats, metric: Floats, centered: bool) -> float:
    """`_cosine` with the products of the whitened sums a and b."""
    sum_a, square_a, product = sums
    size, sum_b, square_b = sums_b
    square_a = _squared_length(square_a, sum_a, size, centered)
    square_b = _squared_length(square_b, sum_b, size, centered)
    if size < 2 or not square_a * square_b > 0:
        return np.nan
    if centered:
        product -= sum_a * sum_b / size
    product += _sums(a, b, metric)[2]
    return float(product / np.sqrt((square_a + _sums(a, a, metric)[1]) * (square_b + _sums(b, b, metric)[1])))


@compiled
def _whitened_scores(
    x: Floats,
    known: Floats,
    complete: list[bool],
    row: int,
    weights: Floats,
    whitening: Whitening,
    centered: bool,
    out: Floats,
) -> None:
    """`_inner_scores` of whitened RDMs."""
    subject, share = x[row], np.ones(len(weights))
    every = weights * known[row]
    usual = _itself(subject, known[row], every)
    length = len(whitening[0]) + 1
    left, right, right_of_part = np.empty(length), np.empty(length), np.empty(length)
    _whitened(subject, subject, every, share, 0.0, whitening, usual[0] * centered, right)
    for k in range(len(out)):
        used, sums_b, chosen, b = every, usual, whitening, right
        if not complete[k]:
            used = every * known[k]
            sums_b, b = _itself(subject, known[k], used), right_of_part
            chosen = _whitening(used, whitening[0])
            _whitened(subject, subject, used, share, 0.0, chosen, sums_b[0] * centered, b)
        sums = _whitened(x[k], subject, used, share, 0.0, chosen, sums_b[0] * centered, left)
        out[k] = _whitened_cosine(sums, left, sums_b, b, chosen[2], centered)


@compiled
def _inner_scores(
    x: Floats,
    known: Floats,
    complete: list[bool],
    row: int,
    weights: Floats,
    centered: bool,
    out: Floats,
) -> None:
    """Scores of the models, which are the first rows, with the subject of another row."""
    subject, every = x[row], weights * known[row]
    usual = _itself(subject, known[row], every)
    for k in range(len(out)):
        used, sums_b = every, usual
        if not complete[k]:
            used = every * known[k]
            sums_b = _itself(subject, known[k], used)
        out[k] = _cosine(_sums(x[k], subject, used), sums_b, centered)


@compiled
def inner_sample(
    values: Floats,
    shared: Floats,
    counts: Longs,
    drawn: Floats | None,
    layout: InnerLayout,
    sets: Longs,
    scores: Floats,
    out: Floats,
) -> None:
    """Scores and ceilings of a resample under the cosine or the correlation, whitened or not.

    Parameters
    ----------
    values
        (models and subjects, pairs) RDMs; NaN marks a missing pair.
    shared
        (pairs,) 1 for those that ceilings are taken on, else 0.
    counts
        (stimuli,) how often each was drawn.
    drawn
        The counts above 0, if RDMs are whitened. None, which is a type of its own, leaves the code for
        whitening out: it takes long to compile.
    layout
        How many RDMs are models, and whether they are centered.
    sets
        (sets, subjects) how often each is in the ceilings.
    scores, out
        (models, subjects) and (sets, 2, subjects) filled in; unknown values are NaN already.
    """
    split, centered = layout
    places, weights = drawn_pairs(counts)
    x, known = _columns(values, places)
    complete = [_itself(known[row], known[row], known[row])[0] == len(places) for row in range(split)]
    columns = range(len(x) - split)
    alike = weights.copy()
    for k in range(len(places)):
        alike[k] *= shared[places[k]]
    if drawn is None:
        for column in columns if split else range(0):
            _inner_scores(x, known, complete, split + column, weights, centered, scores[:, column])
        if len(sets):
            _inner_bounds(x[split:], known[split:], alike, None, centered, sets, out)
    else:
        whitenings = [_whitening(weights * known[split + column], drawn) for column in columns]
        for column in columns if split else range(0):
            whitening, out_of = whitenings[column], scores[:, column]
            _whitened_scores(x, known, complete, split + column, weights, whitening, centered, out_of)
        if len(sets):
            if shared.min() < 1:
                whitenings = [_whitening(alike * known[split + column], drawn) for column in columns]
            _inner_bounds(x[split:], known[split:], alike, whitenings, centered, sets, out)


@summing
def _inner_bounds(
    x: Floats,
    known: Floats,
    weights: Floats,
    whitenings: list[Whitening] | None,
    centered: bool,
    sets: Longs,
    out: Floats,
) -> None:
    """Ceilings of a resample, whitened if there are whitenings."""
    size, once = len(weights), np.ones(len(weights))
    n_sums = 0 if whitenings is None else len(whitenings[0][0]) + 1
    solved, of_pool = np.empty((len(x), n_sums)), np.empty(n_sums)
    used, units = np.zeros(x.shape), np.zeros(len(x))  # a unit of 0: without a length
    sizes = np.zeros(len(x))
    for subject in range(len(x)):
        _add(used[subject], known[subject] * weights, 1.0)
        sizes[subject], total, square = _itself(x[subject], known[subject], used[subject])
        length = _squared_length(square, total, sizes[subject], centered)
        units[subject] = np.sqrt(sizes[subject] / length) if length > 0 else 0.0
        mean = total / sizes[subject] if centered and length > 0 else 0.0
        for k in range(size):
            x[subject, k] = (x[subject, k] - mean) * units[subject] * known[subject, k]
        if whitenings is not None:
            values, unit = x[subject], sizes[subject] * centered
            _whitened(values, values, used[subject], once, 0.0, whitenings[subject], unit, solved[subject])
    pooled, number, share = np.empty(size), np.empty(size), np.empty(size)
    for chosen in range(len(sets)):
        drawn = sets[chosen]
        if (drawn > 0).sum() < 2:
            continue
        pooled[:], number[:] = 0, 0
        for subject in range(len(x)):
            if drawn[subject] and units[subject]:
                _add(pooled, x[subject], float(drawn[subject]))
                _add(number, known[subject], float(drawn[subject]))
        for copies in range(drawn.max() + 1):  # left out, of the subjects with so many; 0: nobody is
            if copies and not (drawn == copies).any():
                continue
            alone = _shares(number, float(copies), share)
            for subject in range(len(x)):
                if not (drawn[subject] and units[subject]) or copies not in (0, drawn[subject]):
                    continue
                values, weighted = x[subject], used[subject]
                sums_b = sizes[subject], 0.0, sizes[subject]  # the sum is used if centered only
                if alone:  # pairs that no other subject has
                    weighted = weighted * (share > 0)
                    sums_b = _itself(values, known[subject], weighted)
                bound = 0 if copies else 1
                if whitenings is None:
                    sums = _sums_of_rest(pooled, values, weighted, share, float(copies))
                    out[chosen, bound, subject] = _cosine(sums, sums_b, centered)
                else:
                    whitening, b, unit = whitenings[subject], solved[subject], sums_b[0] * centered
                    if alone:
                        whitening, b = _whitening(weighted, whitening[0]), np.empty(n_sums)
                        _whitened(values, values, weighted, once, 0.0, whitening, unit, b)
                    sums = _whitened(pooled, values, weighted, share, float(copies), whitening, unit, of_pool)
                    score = _whitened_cosine(sums, of_pool, sums_b, b, whitening[2], centered)
                    out[chosen, bound, subject] = score


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
    used, both = np.empty(len(weights), np.int32), np.empty(len(weights), np.int32)
    for column in range(split, len(ranks) if split else 0):
        total = 0
        for k in range(len(places)):
            used[k] = weights[k] if known[column, places[k]] else 0
            total += used[k]
        first = np.empty(len(weights))
        _centered_ranks(dense[column], sorts[column], used, first)
        for row in range(split):
            common = 0
            for k in range(len(places)):
                both[k] = used[k] if known[row, places[k]] else 0
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
    means, used, totals = np.empty((n, size)), np.empty((n, size)), np.zeros(n, np.int64)
    for subject in range(n):
        totals[subject] = weighted_mean_ranks(dense[subject], sorts[subject], masks[subject], means[subject])
        used[subject] = means[subject] - (totals[subject] + 1) / 2
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
                    value = _rank_similarity(pair, both, used[subject], usual, layout)
                    out[chosen, omitted // n, subject] = value
