"""What a fast way to compute a comparison provides, and what the fast ways share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints


class Resampled(NamedTuple):
    """Similarities and noise ceilings in resamples of stimuli and subjects."""

    scores: Floats
    """(resamples, models, subjects) similarities with each subject, drawn or not."""
    ceilings: Floats
    """(sets, resamples, 2) lower and upper noise ceiling of each set of subjects; NaN where a single subject
    was drawn (rsatoolbox says 1)."""


class Kernel(ABC):
    """A fast way to compute a comparison for stacks of RDMs, their noise ceilings and their resamples.

    Only `similarity` has to be written. The other methods may return None: the caller then takes the general
    way, which calls `similarity` once for each ceiling or resample.
    """

    propagates_missing: bool = False
    """Whether `similarity` without ``measured`` is NaN for each RDM that misses a pair."""

    @abstractmethod
    def similarity(self, models: Tensor, data: Tensor, measured: Tensor | None = None) -> Tensor:
        """Similarities (models, data) of RDMs (models, pairs) and (data, pairs) that miss the same pairs.

        Parameters
        ----------
        models, data
            Condensed RDMs in float64.
        measured
            (pairs,) which pairs count; the values of the others mean nothing. By default all of them.
        """

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Lower and upper noise ceiling of each subject, from RDMs (subjects, pairs) as in `similarity`."""
        return None

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor | None:
        """Lower noise ceiling of each subject, (permutations, subjects), of permuted stimuli.

        Parameters
        ----------
        rdms
            Complete RDMs (subjects, pairs).
        orders
            (permutations, subjects, stimuli): the stimulus that takes the place of each.
        """
        return None

    def permutable(self, models: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Kernel]:
        """RDMs prepared once for many permutations of stimuli, and the kernel that compares them then."""
        return models, data, self

    def resample(
        self,
        models: Floats,
        data: Floats,
        counts: Ints | None,
        sets: Ints,
        shared: Bools,
        device: str | torch.device | None = None,
    ) -> Resampled | None:
        """Similarities and ceilings in many resamples.

        Parameters
        ----------
        models, data
            Condensed RDMs (models, pairs) and (subjects, pairs); NaN marks a missing pair.
        counts
            (resamples, stimuli) how often each stimulus was drawn; None for each of them once.
        sets
            (sets, resamples, subjects) how often each subject is in the ceilings.
        shared
            (pairs,) the pairs that ceilings are taken on.
        device
            Device of the matrix products.
        """
        return None


def missing_groups(vectors: Floats | Tensor) -> list[tuple[list[int], Bools]]:
    """Rows that miss the same pairs, with the mask of these pairs."""
    stack = torch.as_tensor(vectors)
    if bool(stack.sum().isfinite()):  # a single pass, without a mask of them all
        return [(list(range(len(stack))), np.zeros(stack.shape[1], dtype=bool))] if len(stack) else []
    finite = stack.isfinite().cpu().numpy()
    groups: dict[bytes, tuple[list[int], Bools]] = {}
    for row, missing in enumerate(~finite):
        groups.setdefault(np.packbits(missing).tobytes(), ([], missing))[0].append(row)
    return list(groups.values())


def in_threads(work: Callable[[slice], None], size: int) -> None:
    """Do compiled work, which releases the GIL, on parts of some rows, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), size)
    if threads < 2:
        work(slice(0, size))
        return
    ends = [size * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, map(slice, ends[:-1], ends[1:])))
