"""Rank measures in one resample of the stimuli, compiled: no RDM is sorted again, only what is pooled is.

Methods are numbered as in ``RANKED``: spearman, rho-a, tau-a, tau-b.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurordl.measures.kernels.concordance import tau
from neurordl.measures.kernels.ranks import compiled, sort_integers, weighted_mean_ranks

__all__ = ["ceilings", "resample", "scores"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@compiled
def resample(
    ranks: Ints, order: Ints, counts: Longs, kept: npt.NDArray[np.bool_]
) -> tuple[Ints, Ints, Ints, Floats]:
    """Pairs that were drawn: how often, and of each RDM dense ranks, order and mean ranks less the mean.

    Parameters
    ----------
    ranks, order
        Dense ranks of all pairs, (rdms, pairs), and the order that sorts them.
    counts
        (stimuli,) how often each was drawn.
    kept
        (pairs,) which pairs were measured; whatever the ranks of the others are, they do not count.
    """
    pairs = ranks.shape[1]
    place = np.full(pairs, -1, np.int32)
    weights = np.empty(pairs, np.int32)
    size, pair, total = 0, 0, 0
    for i in range(len(counts)):
        for j in range(i + 1, len(counts)):
            weight = counts[i] * counts[j]
            if weight and kept[pair]:
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
def _product(a: Floats, b: Floats, weights: Ints, code: int) -> float:
    """Method 0 or 1 of mean ranks less their mean."""
    product, square_a, square_b, total = 0.0, 0.0, 0.0, 0.0
    for k in range(len(weights)):
        product += weights[k] * a[k] * b[k]
        square_a += weights[k] * a[k] * a[k]
        square_b += weights[k] * b[k] * b[k]
        total += weights[k]
    if total < 2:
        return np.nan
    if code == 1:
        return product * 12 / (total**3 - total)
    if square_a * square_b > 0:
        return float(product / np.sqrt(square_a) / np.sqrt(square_b))
    return np.nan


@compiled
def scores(weights: Ints, dense: Ints, order: Ints, means: Floats, split: int, code: int) -> Floats:
    """Similarity of the first ``split`` RDMs with the others, (models, data)."""
    out = np.empty((split, len(dense) - split))
    for i in range(split):
        for j in range(split, len(dense)):
            if code < 2:
                out[i, j - split] = _product(means[i], means[j], weights, code)
            else:
                out[i, j - split] = tau(dense[i], dense[j], order[j], weights, code == 3)
    return out


@compiled
def ceilings(
    weights: Ints,
    dense: Ints,
    order: Ints,
    means: Floats,
    split: int,
    code: int,
    sets: Longs,
    out: Floats,
) -> None:
    """Mean over a set of subjects of their similarity with the others' pooled ranks, and with all: (sets, 2).

    Parameters
    ----------
    sets
        (sets, subjects) how often each was drawn; fewer than two distinct ones leave ``out`` as it is.
    """
    size, n = len(weights), len(dense) - split
    total = np.int64(0)
    for weight in weights:
        total += weight
    doubled = np.empty((n, size), np.int64)  # mean ranks are whole or half
    for j in range(n):
        for k in range(size):
            doubled[j, k] = np.int64(2 * means[split + j, k] + (total + 1))
    values, pooled = np.empty(size, np.int64), np.empty(size)
    ranks, sort = np.empty(size, np.int32), np.empty(size, np.int32)
    for which in range(len(sets)):
        drawn = sets[which]
        if (drawn > 0).sum() < 2:
            continue
        everyone = np.zeros(size, np.int64)
        for j in range(n):
            everyone += drawn[j] * doubled[j]
        found, defined = np.zeros(2), np.zeros(2)
        for left_out in range(-1, n):  # -1: nobody
            if left_out >= 0 and not drawn[left_out]:
                continue
            values[:] = everyone
            if left_out >= 0:
                values -= drawn[left_out] * doubled[left_out]
            sort_integers(values, ranks, sort)
            if code < 2:
                weighted_mean_ranks(ranks, sort, weights, pooled)
                pooled -= (total + 1) / 2
            for j in range(n):
                if not drawn[j] or (left_out >= 0 and j != left_out):
                    continue
                own = split + j
                if code < 2:
                    value = _product(pooled, means[own], weights, code)
                else:
                    value = tau(ranks, dense[own], order[own], weights, code == 3)
                bound = 0 if left_out >= 0 else 1
                if not np.isnan(value):
                    found[bound] += value
                    defined[bound] += 1
        for bound in range(2):
            out[which, bound] = found[bound] / defined[bound] if defined[bound] else np.nan
