"""Ranks of RDMs, Kendall's tau of them, and both in resamples of the stimuli: compiled by numba.

Every array is a plain numpy array on the CPU without missing values. The functions release the GIL, so that
several can run in threads. RDMs are sorted once: a resample and a tau count what is sorted already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core import event

from neurordl.arrays import Bools, Floats
from neurordl.arrays import Ints as Longs
from neurordl.progress import announce

Ints = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Layout = tuple[int, bool, bool]
F = TypeVar("F", bound=Callable[..., Any])


class _Announcement(event.Listener):
    """Says once that functions of this folder are compiled, before the first; numba's cache is silent."""

    announced = False

    def on_start(self, event: Any) -> None:
        """See numba's events: this one starts only where the cache has no compiled function."""
        module = event.data["dispatcher"].py_func.__module__
        if not self.announced and module.startswith(__package__):
            self.announced = True
            announce("comparisons by rank are compiled for this machine, which takes a minute or so, once")

    def on_end(self, event: Any) -> None:
        """Nothing."""


_ANNOUNCEMENT = _Announcement()
event.register("numba:compile", _ANNOUNCEMENT)  # type: ignore[no-untyped-call]


def compiled(function: F) -> F:
    """Compile at the first call, kept on disk for the next process."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@compiled
def _keys(values: Floats) -> Keys:
    """Whole numbers in the order of finite values."""
    top = np.uint64(1) << np.uint64(63)
    keys, bits = np.empty(len(values), np.uint64), values.view(np.uint64)
    for k in range(len(values)):
        keys[k] = ~bits[k] if values[k] < 0 else bits[k] | top  # the same for zero and minus zero
    return keys


@compiled
def _sort_runs(keys: Keys, order: Ints, shift: np.uint64) -> None:
    """Sort each run of keys that differ in their lowest bits only; the sort is stable."""
    start = 0
    while start < len(keys):
        stop, sorted_already = start + 1, True
        while stop < len(keys) and keys[stop] >> shift == keys[start] >> shift:
            sorted_already = sorted_already and keys[stop] >= keys[stop - 1]
            stop += 1
        if not sorted_already and stop - start > 32:
            by = np.argsort(keys[start:stop], kind="mergesort")
            keys[start:stop] = keys[start:stop][by]
            order[start:stop] = order[start:stop][by]
        elif not sorted_already:
            for k in range(start + 1, stop):
                key, moved, to = keys[k], order[k], k
                while to > start and keys[to - 1] > key:
                    keys[to], order[to] = keys[to - 1], order[to - 1]
                    to -= 1
                keys[to], order[to] = key, moved
        start = stop


@compiled
def rank(keys: Keys, ranks: Ints, order: Ints) -> None:
    """Dense ranks from 0 (ties share a rank and no rank is skipped), and the stable order that sorts.

    By radix, on the 33 bits from the highest in which any two keys differ; the few that agree
    in these are then compared. The keys are overwritten.
    """
    pairs = len(keys)
    differ = np.uint64(0)
    for k in range(pairs):
        differ |= keys[k] ^ keys[0]
    length = 0
    while length < 64 and differ >> np.uint64(length):
        length += 1
    shift = max(0, length - 33)
    digits = (length - shift + 10) // 11
    counts = np.zeros((3, 2048), np.int32)
    for k in range(pairs):
        order[k] = k
        key = keys[k] >> np.uint64(shift)
        for digit in range(digits):
            counts[digit, (key >> np.uint64(11 * digit)) & np.uint64(2047)] += 1
    keys_to, source, target = np.empty_like(keys), order, np.empty_like(order)
    for digit in range(digits):
        start = 0
        for value in range(2048):
            count = counts[digit, value]
            counts[digit, value] = start
            start += count
        by = np.uint64(shift + 11 * digit)
        for k in range(pairs):
            value = (keys[k] >> by) & np.uint64(2047)
            to = counts[digit, value]
            counts[digit, value] = to + 1
            keys_to[to] = keys[k]
            target[to] = source[k]
        keys, keys_to = keys_to, keys
        source, target = target, source
    if shift:
        _sort_runs(keys, source, np.uint64(shift))
    if source is not order:
        order[:] = source
    rank = np.int32(0)
    for k in range(pairs):
        if k and keys[k] != keys[k - 1]:
            rank += np.int32(1)
        ranks[order[k]] = rank


@compiled
def weighted_mean_ranks(ranks: Ints, order: Ints, weights: Ints | None, out: Floats) -> int:
    """Mean ranks of an RDM in which pair k occurs ``weights[k]`` times; returns the sum of the weights.

    Without weights, each pair occurs once. A pair with a weight of 0 gets a rank that means nothing.
    """
    below, start = 0, 0
    while start < len(order):
        rank = ranks[order[start]]
        stop, times = start, 0
        while stop < len(order) and ranks[order[stop]] == rank:
            times += 1 if weights is None else weights[order[stop]]
            stop += 1
        for k in range(start, stop):
            out[order[k]] = below + (times + 1) / 2
        below += times
        start = stop
    return below


@compiled
def mean_ranks(vectors: Floats, out: Floats) -> None:
    """Ranks from 1 of each row (rdms, pairs), ties sharing their mean: scipy's ``rankdata``."""
    ranks, order = np.empty(vectors.shape[1], np.int32), np.empty(vectors.shape[1], np.int32)
    for row in range(vectors.shape[0]):
        rank(_keys(vectors[row]), ranks, order)
        weighted_mean_ranks(ranks, order, None, out[row])


@compiled
def dense_ranks(vectors: Floats, ranks: Ints, order: Ints) -> None:
    """`rank` of each row (rdms, pairs)."""
    for row in range(vectors.shape[0]):
        rank(_keys(vectors[row]), ranks[row], order[row])


@compiled
def _inversions(ranks: Ints, below: Ints, weights: Ints | None) -> int:
    """Number of pairs in descending order; ``below[v]`` is how many entries are less than v.

    With weights, entry k occurs ``weights[k]`` times. numba compiles the function with and without them.

    A stable sort, bit by bit from the highest: an entry without the bit passes the entries of its block that
    have it and came earlier. No values are compared, so that no branch is mispredicted, and the indices are
    unsigned, so that numba does not check them for being negative.
    """
    source = ranks.view(np.uint32)
    target, unit = np.empty_like(source), np.uint64(1)
    if weights is not None:
        carried, carried_to = weights.view(np.uint32), np.empty_like(source)
    n = len(below) - 1
    bit = 0
    while (1 << bit) < n:
        bit += 1
    inversions = 0
    while bit > 0:
        bit -= 1
        shift = np.uint32(bit)
        for block in range(0, n, 2 << bit):
            low, high = below[block], below[min(block + (2 << bit), n)]
            middle = np.uint64(below[min(block + (1 << bit), n)])
            zero, passed, weighted = np.uint64(low), np.uint64(0), np.uint64(0)
            for k in range(np.uint64(low), np.uint64(high)):
                value = source[k]
                has = np.uint64((value >> shift) & np.uint32(1))
                without = unit - has
                to = without * zero + has * (k - zero + middle)
                target[to] = value
                if weights is None:
                    passed += without * k
                else:
                    weight = np.uint64(carried[k])
                    carried_to[to] = weight
                    weighted += without * weight * passed
                    passed += has * weight
                zero += without
            if weights is None:
                passing = np.int64(zero) - low  # the j-th of them passes all before it but j
                inversions += int(np.int64(passed) - passing * low - passing * (passing - 1) // 2)
            else:
                inversions += int(weighted)
        source, target = target, source
        if weights is not None:
            carried, carried_to = carried_to, carried
    return inversions


@compiled
def concordance(a: Ints, b: Ints, order_b: Ints, weights: Ints | None) -> tuple[int, int, int, int]:
    """Concordant minus discordant pairs of entries of two dense rankings, ties of each, number of pairs.

    Entry k occurs ``weights[k]`` times; without weights, once.
    """
    n_a, n_b = a.max() + 1, b.max() + 1
    if weights is None and n_a == n_b == len(a):  # no ties: only b in the order of a matters
        in_order = np.empty_like(a)
        in_order[a] = b
        each = len(a) * (len(a) - 1) // 2
        return each - 2 * _inversions(in_order, np.arange(n_a + 1).astype(np.int32), None), 0, 0, each
    counts_a, counts_b = np.zeros(n_a, np.int64), np.zeros(n_b, np.int64)
    starts, below = np.zeros(n_a + 1, np.int32), np.zeros(n_b + 1, np.int32)
    for k in range(len(a)):
        weight = 1 if weights is None else weights[k]
        if weight:
            counts_a[a[k]] += weight
            counts_b[b[k]] += weight
            starts[a[k] + 1] += 1
            below[b[k] + 1] += 1
    for k in range(n_a):
        starts[k + 1] += starts[k]
    for k in range(n_b):
        below[k + 1] += below[k]
    present = starts[n_a]
    source = np.empty(present, np.int32)
    carried = np.empty(present, np.int32)
    last, run = np.full(n_a, -1, np.int32), np.zeros(n_a, np.int64)
    both, total = 0, 0
    for k in order_b:  # in ascending b: within one value of a, b ascends too
        weight = 1 if weights is None else weights[k]
        if weight:
            group, value = a[k], b[k]
            source[starts[group]] = value
            if weights is not None:
                carried[starts[group]] = weight
            starts[group] += 1
            run[group] = run[group] + weight if last[group] == value else weight
            last[group] = value
            both += weight * (run[group] - weight) + weight * (weight - 1) // 2
            total += weight
    if weights is None:
        discordant = _inversions(source, below, None)
    else:
        discordant = _inversions(source, below, carried)
    pairs = total * (total - 1) // 2
    tied_a = (counts_a * (counts_a - 1) // 2).sum()
    tied_b = (counts_b * (counts_b - 1) // 2).sum()
    return pairs - tied_a - tied_b + both - 2 * discordant, tied_a, tied_b, pairs


@compiled
def tau(a: Ints, b: Ints, order_b: Ints, weights: Ints | None, corrected: bool) -> float:
    """Kendall's tau-a, or tau-b (corrected for ties; NaN of a constant), of two dense rankings."""
    excess, tied_a, tied_b, pairs = concordance(a, b, order_b, weights)
    if not corrected:
        return excess / pairs if pairs else np.nan
    if tied_a == pairs or tied_b == pairs:
        return np.nan
    value: float = excess / np.sqrt(pairs - tied_a) / np.sqrt(pairs - tied_b)
    return max(-1.0, min(1.0, value))


@compiled
def resample(ranks: Ints, order: Ints, counts: Longs, measured: Bools) -> tuple[Ints, Ints, Ints, Floats]:
    """How often each drawn pair occurs, and dense ranks, order and centered mean ranks of each RDM on these.

    Parameters
    ----------
    ranks, order
        Dense ranks of all pairs, (rdms, pairs), and the order that sorts them.
    counts
        (stimuli,) how often each was drawn.
    measured
        (pairs,) which pairs were measured; the ranks of the others mean nothing.
    """
    pairs = ranks.shape[1]
    place = np.full(pairs, -1, np.int32)
    weights = np.empty(pairs, np.int32)
    size, pair, total = 0, 0, 0
    for i in range(len(counts)):
        for j in range(i + 1, len(counts)):
            weight = counts[i] * counts[j]
            if weight and measured[pair]:
                place[pair], weights[size] = size, weight
                size += 1
                total += weight
            pair += 1
    weights = weights[:size].copy()
    dense, sorts = np.empty((len(ranks), size), np.int32), np.empty((len(ranks), size), np.int32)
    means = np.empty((len(ranks), size))
    for row in range(len(ranks)):
        at, rank, last = 0, np.int32(-1), np.int32(-1)
        for k in order[row]:
            to = place[k]
            if to >= 0:
                if ranks[row, k] != last:
                    last = ranks[row, k]
                    rank += np.int32(1)
                dense[row, to], sorts[row, at] = rank, to
                at += 1
        weighted_mean_ranks(dense[row], sorts[row], weights, means[row])
    means -= (total + 1) / 2
    return weights, dense, sorts, means


@compiled
def _product(a: Floats, b: Floats, weights: Ints, normalized: bool) -> float:
    """Spearman's rho (normalized) or rho-a of centered mean ranks."""
    # A loop, since a dot product of BLAS would start threads within ours.
    product, square_a, square_b, total = 0.0, 0.0, 0.0, 0.0
    for k in range(len(weights)):
        weighted = weights[k] * a[k]
        product += weighted * b[k]
        square_a += weighted * a[k]
        square_b += weights[k] * b[k] * b[k]
        total += weights[k]
    if total < 2:
        return np.nan
    if not normalized:
        return product * 12 / (total**3 - total)
    squares = square_a * square_b
    return float(product / np.sqrt(squares)) if squares > 0 else np.nan


@compiled
def scores(weights: Ints, dense: Ints, order: Ints, means: Floats, layout: Layout) -> Floats:
    """Similarity of the first RDMs with the others, (models, data).

    Parameters
    ----------
    weights, dense, order, means
        From `resample`.
    layout
        How many RDMs are models; and of `Ranks` ``products`` and ``normalized``.
    """
    split, products, normalized = layout
    out = np.empty((split, len(dense) - split))
    for i in range(split):
        for j in range(split, len(dense)):
            if products:
                out[i, j - split] = _product(means[i], means[j], weights, normalized)
            else:
                out[i, j - split] = tau(dense[i], dense[j], order[j], weights, normalized)
    return out


@compiled
def bounds(
    weights: Ints, dense: Ints, order: Ints, means: Floats, layout: Layout, sets: Longs, out: Floats
) -> None:
    """Similarity of each subject with the others' pooled ranks, and with those of all.

    Parameters
    ----------
    weights, dense, order, means, layout
        As in `scores`.
    sets
        (sets, subjects) how often each was drawn; a subject who was not gets no value.
    out
        (sets, 1, subjects) for the lower bounds or (sets, 2, subjects) for both, filled in.
    """
    split, products, normalized = layout
    size, n, total = len(weights), sets.shape[1], weights.sum()
    doubled = (2 * means[split:] + (total + 1)).astype(np.int64)  # ranks are whole or half
    values = np.empty(size, np.int64)
    ranks, sort, pooled = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size)
    for drawn_set in range(len(sets)):
        drawn, everyone = sets[drawn_set], np.zeros(size, np.int64)
        for j in range(n):
            everyone += drawn[j] * doubled[j]
        for omitted in range(n + out.shape[1] - 1):  # the last: nobody
            values[:] = everyone
            if omitted < n:
                if not drawn[omitted]:
                    continue
                values -= drawn[omitted] * doubled[omitted]
            rank(values.view(np.uint64), ranks, sort)
            if products:
                weighted_mean_ranks(ranks, sort, weights, pooled)
                pooled -= (total + 1) / 2
            for j in range(n):
                if drawn[j] and omitted in (j, n):
                    subject = split + j
                    if products:
                        value = _product(pooled, means[subject], weights, normalized)
                    else:
                        value = tau(ranks, dense[subject], order[subject], weights, normalized)
                    out[drawn_set, omitted // n, j] = value


@compiled
def tournament(ranks: Floats, known: Ints, first: int, last: int, out: Longs) -> None:
    """How each pair stands against all others in the mean of the subjects who have both.

    Parameters
    ----------
    ranks, known
        (subjects, pairs) centered mean ranks of each subject among the subject's pairs, and which these are,
        1 or 0; ranks of others mean nothing.
    first, last
        The pairs to take, the last not included.
    out
        (4, pairs, subjects) filled in for these pairs, against the others of each subject: how many are below
        less how many are above in the mean; how many stand alike in mean and subject less how many stand
        otherwise; and how many are not tied in the mean, and not tied in the subject.
    """
    size = ranks.shape[1]
    sizes = known.sum(axis=1).astype(np.float64)
    units = 12 / np.maximum(sizes**3 - sizes, 1)  # an RDM of few pairs has as large a part in the mean
    rounding = 1e-13 * (units * sizes).sum()
    total, sign = np.empty(size), np.empty(size, np.int32)
    for pair in range(first, last):
        total[:] = 0
        for subject in range(len(ranks)):
            if known[subject, pair]:
                rank, both, row, unit = ranks[subject, pair], known[subject], ranks[subject], units[subject]
                for other in range(size):
                    total[other] += both[other] * unit * (rank - row[other])
        for other in range(size):
            sign[other] = np.int32(total[other] > rounding) - np.int32(total[other] < -rounding)
        for subject in range(len(ranks)):
            standing, alike, decided, untied = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
            if known[subject, pair]:
                rank, both, row = ranks[subject, pair], known[subject], ranks[subject]
                for other in range(size):
                    mean = both[other] * sign[other]
                    single = np.int32(rank > row[other]) - np.int32(rank < row[other])
                    standing += mean
                    alike += mean * single
                    decided += mean * mean
                    untied += both[other] * single * single
            out[0, pair, subject], out[1, pair, subject] = standing, alike
            out[2, pair, subject], out[3, pair, subject] = decided, untied


@compiled
def permuted(squares: Floats, orders: Keys, out: Floats) -> None:
    """Condensed RDMs of permuted stimuli; indices are unsigned, so that none is checked for being negative.

    Parameters
    ----------
    squares
        (subjects, stimuli, stimuli) a value for each two stimuli.
    orders
        (permutations, subjects, stimuli): the stimulus that takes the place of each.
    out
        (permutations, subjects, pairs) filled in.
    """
    unit, n = np.uint64(1), np.uint64(squares.shape[1])
    for subject in range(len(squares)):  # whose matrix stays in the cache
        for permutation in range(len(orders)):
            order, to, pair = orders[permutation, subject], out[permutation, subject], np.uint64(0)
            for i in range(n - unit):
                row = squares[subject, order[i]]
                for j in range(i + unit, n):
                    to[pair] = row[order[j]]
                    pair += unit


@compiled
def permuted_bounds(squares: Floats, orders: Keys, normalized: bool, out: Floats) -> None:
    """Lower bounds of rho-a or rho (normalized) of permuted stimuli.

    Parameters
    ----------
    squares
        (subjects, stimuli, stimuli) centered mean ranks of each subject.
    orders
        (1, subjects, stimuli): the stimulus that takes the place of each.
    out
        (1, 1, subjects) filled in.
    """
    means = np.empty((len(squares), squares.shape[1] * (squares.shape[1] - 1) // 2))
    permuted(squares, orders, means.reshape((1, *means.shape)))
    unused = np.empty((len(means), 0), np.int32)
    once = np.ones(means.shape[1], np.int32)
    bounds(once, unused, unused, means, (0, True, normalized), np.ones((1, len(means)), np.int64), out)
