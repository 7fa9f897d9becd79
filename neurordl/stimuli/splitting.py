"""Draws of held-out stimuli that depend on ids and a seed, not on the order of the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key

__all__ = ["draw_folds", "draw_fraction", "draw_number"]

Positions = npt.NDArray[np.int64]


def draw_fraction(ids: Sequence[str], fraction: float, seed: int, strata: Sequence[str] | None) -> Positions:
    """Positions of a random fraction of ``ids``; of each stratum the same fraction, to within one."""
    if isinstance(fraction, bool) or not 0 < fraction < 1:
        raise NeurordlError(f"held_out must be a fraction between 0 and 1, or ids, but is {fraction!r}")
    order, generator = _shuffled(ids, seed, strata)
    n_drawn = int(len(ids) * fraction + 0.5)
    # evenly spaced along a list in which strata lie side by side, from a random start
    steps = (np.arange(len(ids) + 1) * n_drawn + generator.integers(len(ids))) // len(ids)
    chosen: Positions = order[np.diff(steps) == 1]
    return chosen


def draw_folds(ids: Sequence[str], n: int, seed: int, strata: Sequence[str] | None) -> list[Positions]:
    """Positions of ``n`` random folds of ``ids``; of each stratum, and overall, as many to within one."""
    if n < 2:
        raise NeurordlError(f"the number of folds must be 2 or more, but is {n!r}")
    order, _ = _shuffled(ids, seed, strata)
    return [order[fold::n] for fold in range(n)]


def draw_number(ids: Sequence[str], n: int, seed: int, strata: Sequence[str]) -> Positions:
    """Positions of ``n`` random ids; of each stratum as many to within one, as far as it has them."""
    order, _ = _shuffled(ids, seed, None)
    seen: Counter[str] = Counter()
    turns = []
    for k in order:  # the first of each stratum before the second of any
        turns.append(seen[strata[k]])
        seen[strata[k]] += 1
    chosen: Positions = order[np.argsort(turns, kind="stable")[:n]]
    return chosen


def _shuffled(
    ids: Sequence[str], seed: int, strata: Sequence[str] | None
) -> tuple[Positions, np.random.Generator]:
    """Positions in random order, strata side by side."""
    generator = np.random.default_rng(seed)
    natural = np.array(sorted(range(len(ids)), key=lambda i: natural_key(ids[i])))
    order = natural[generator.permutation(len(ids))]
    if strata is not None:
        names = sorted(set(strata), key=natural_key)
        rank = dict(zip(names, generator.permutation(len(names)), strict=True))
        order = np.array(sorted(order, key=lambda i: rank[strata[i]]))
    return order, generator
