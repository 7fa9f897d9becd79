"""Ranks of RDMs, compiled.

Every array here is a plain numpy one on the CPU, without missing values. The functions let go of the GIL, so
that the caller can run several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["compiled", "dense_ranks", "mean_ranks", "sort_integers", "weighted_mean_ranks"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call, kept on disk for the next process."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@compiled
def _order(values: Floats, order: Ints) -> None:
    """Stable ascending order of finite values.

    By radix, on the 33 bits from the highest in which any two values differ; the few that are alike in these
    are then compared.
    """
    pairs = len(values)
    top = np.uint64(1) << np.uint64(63)
    keys, bits = np.empty(pairs, np.uint64), values.view(np.uint64)
    differ = np.uint64(0)
    for k in range(pairs):
        key = bits[k]
        if key == top:
            key = np.uint64(0)  # minus zero
        keys[k] = ~key if key & top else key | top
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
            here = counts[digit, value]
            counts[digit, value] = start
            start += here
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
        _sort_alike(keys, source, np.uint64(shift))
    if source is not order:
        order[:] = source


@compiled
def _sort_alike(keys: npt.NDArray[np.uint64], order: Ints, shift: np.uint64) -> None:
    """Sort, steadily, each run of keys that are the same but for their lowest bits."""
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
def mean_ranks(vectors: Floats, out: Floats) -> None:
    """Ranks from 1 of each row (rdms, pairs), ties sharing their mean: scipy's ``rankdata``."""
    order = np.empty(vectors.shape[1], np.int32)
    for row in range(vectors.shape[0]):
        values, ranks = vectors[row], out[row]
        _order(values, order)
        start = 0
        while start < len(order):
            value, stop = values[order[start]], start + 1
            while stop < len(order) and values[order[stop]] == value:
                stop += 1
            for k in range(start, stop):
                ranks[order[k]] = (start + stop + 1) / 2
            start = stop


@compiled
def dense_ranks(vectors: Floats, ranks: Ints, order: Ints) -> None:
    """Dense ranks from 0 of each row (ties share one, none is skipped), and the order that sorts it."""
    for row in range(vectors.shape[0]):
        values, here = vectors[row], order[row]
        _order(values, here)
        rank = np.int32(0)
        for k in range(len(here)):
            if k and values[here[k]] != values[here[k - 1]]:
                rank += np.int32(1)
            ranks[row, here[k]] = rank


@compiled
def weighted_mean_ranks(ranks: Ints, order: Ints, weights: Ints, out: Floats) -> int:
    """Mean ranks of one RDM in which pair k stands ``weights[k]`` times; their total number is returned.

    What is not there (weight 0) gets a rank that means nothing.
    """
    below, start = 0, 0
    while start < len(order):
        rank = ranks[order[start]]
        stop, here = start, 0
        while stop < len(order) and ranks[order[stop]] == rank:
            here += weights[order[stop]]
            stop += 1
        for k in range(start, stop):
            out[order[k]] = below + (here + 1) / 2
        below += here
        start = stop
    return below


@compiled
def sort_integers(values: npt.NDArray[np.int64], ranks: Ints, order: Ints) -> None:
    """Dense ranks and order of integers of 0 or more, such as sums of ranks."""
    largest = np.int64(0)
    for value in values:
        largest = max(largest, value)
    source = np.arange(len(values)).astype(np.int32)
    target = order
    shift = 0
    while shift == 0 or largest >> shift:
        counts = np.zeros(2049, np.int32)
        for value in values:
            counts[((value >> shift) & 2047) + 1] += 1
        for k in range(2048):
            counts[k + 1] += counts[k]
        for k in range(len(source)):
            digit = (values[source[k]] >> shift) & 2047
            target[counts[digit]] = source[k]
            counts[digit] += 1
        source, target = target, source
        shift += 11
    if source is not order:
        order[:] = source
    rank = np.int32(0)
    for k in range(len(order)):
        if k and values[order[k]] != values[order[k - 1]]:
            rank += np.int32(1)
        ranks[order[k]] = rank
