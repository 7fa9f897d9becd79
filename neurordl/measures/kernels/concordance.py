"""Kendall's tau of RDMs that were ranked before, compiled: counted without sorting again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurordl.measures.kernels.ranks import compiled

__all__ = ["concordance", "tau"]

Ints = npt.NDArray[np.int32]


@compiled
def _inversions(ranks: Ints, below: Ints) -> int:
    """Pairs that stand in descending order; ``below[v]`` is how many entries are less than v.

    Sorted bit by bit from the highest, steadily: an entry without the bit passes those of its block that
    have it and came earlier. Nothing is compared, so no branch is guessed wrong; and unsigned, so that no
    place is looked at for being negative.
    """
    source = ranks.view(np.uint32)
    target, one = np.empty_like(source), np.uint64(1)
    n = len(below) - 1
    bit = 0
    while (1 << bit) < n:
        bit += 1
    found = 0
    while bit > 0:
        bit -= 1
        shift = np.uint32(bit)
        for block in range(0, n, 2 << bit):
            low, high = below[block], below[min(block + (2 << bit), n)]
            middle = np.uint64(below[min(block + (1 << bit), n)])
            zero, places = np.uint64(low), np.uint64(0)
            for k in range(np.uint64(low), np.uint64(high)):
                value = source[k]
                has = np.uint64((value >> shift) & np.uint32(1))
                without = one - has
                target[without * zero + has * (k - zero + middle)] = value
                zero += without
                places += without * k
            passing = np.int64(zero) - low  # of those, the j-th passes all before it but j
            found += np.int64(places) - passing * low - passing * (passing - 1) // 2
        source, target = target, source
    return found


@compiled
def _weighted_inversions(ranks: Ints, weights: Ints, below: Ints) -> int:
    """`_inversions` in which entry k stands ``weights[k]`` times."""
    source, carried = ranks.view(np.uint32), weights.view(np.uint32)
    target, carried_to, one = np.empty_like(source), np.empty_like(carried), np.uint64(1)
    n = len(below) - 1
    bit = 0
    while (1 << bit) < n:
        bit += 1
    found = np.uint64(0)
    while bit > 0:
        bit -= 1
        shift = np.uint32(bit)
        for block in range(0, n, 2 << bit):
            low, high = below[block], below[min(block + (2 << bit), n)]
            middle = np.uint64(below[min(block + (1 << bit), n)])
            zero, passed = np.uint64(low), np.uint64(0)
            for k in range(np.uint64(low), np.uint64(high)):
                value, weight = source[k], np.uint64(carried[k])
                has = np.uint64((value >> shift) & np.uint32(1))
                without = one - has
                to = without * zero + has * (k - zero + middle)
                target[to] = value
                carried_to[to] = weight
                found += without * weight * passed
                passed += has * weight
                zero += without
        source, target = target, source
        carried, carried_to = carried_to, carried
    return int(found)


@compiled
def concordance(a: Ints, b: Ints, order_b: Ints, weights: Ints) -> tuple[int, int, int, int]:
    """Concordant less discordant pairs of entries of two dense rankings, ties of each, number of pairs.

    Entry k stands ``weights[k]`` times; without weights (an empty array), once.
    """
    n_a, n_b = a.max() + 1, b.max() + 1
    weighted = len(weights) > 0
    if not weighted and n_a == n_b == len(a):  # no ties: only b in the order of a is to be looked at
        in_order = np.empty_like(a)
        in_order[a] = b
        each = len(a) * (len(a) - 1) // 2
        return each - 2 * _inversions(in_order, np.arange(n_a + 1).astype(np.int32)), 0, 0, each
    counts_a, counts_b = np.zeros(n_a, np.int64), np.zeros(n_b, np.int64)
    starts, below = np.zeros(n_a + 1, np.int32), np.zeros(n_b + 1, np.int32)
    for k in range(len(a)):
        weight = weights[k] if weighted else 1
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
    carried = np.empty(present if weighted else 0, np.int32)
    last, run = np.full(n_a, -1, np.int32), np.zeros(n_a, np.int64)
    both, total = 0, 0
    for k in order_b:  # in ascending b: within one value of a, b ascends too
        weight = weights[k] if weighted else 1
        if weight:
            group, value = a[k], b[k]
            source[starts[group]] = value
            if weighted:
                carried[starts[group]] = weight
            starts[group] += 1
            run[group] = run[group] + weight if last[group] == value else weight
            last[group] = value
            both += weight * (run[group] - weight) + weight * (weight - 1) // 2
            total += weight
    if weighted:
        discordant = _weighted_inversions(source, carried, below)
    else:
        discordant = _inversions(source, below)
    pairs = total * (total - 1) // 2
    tied_a = (counts_a * (counts_a - 1) // 2).sum()
    tied_b = (counts_b * (counts_b - 1) // 2).sum()
    return pairs - tied_a - tied_b + both - 2 * discordant, tied_a, tied_b, pairs


@compiled
def tau(a: Ints, b: Ints, order_b: Ints, weights: Ints, corrected: bool) -> float:
    """Kendall's tau-a, or tau-b (corrected for ties; NaN of a constant), of two dense rankings."""
    excess, tied_a, tied_b, pairs = concordance(a, b, order_b, weights)
    if not corrected:
        return excess / pairs if pairs else np.nan
    if tied_a == pairs or tied_b == pairs:
        return np.nan
    found: float = excess / np.sqrt(pairs - tied_a) / np.sqrt(pairs - tied_b)
    return max(-1.0, min(1.0, found))
