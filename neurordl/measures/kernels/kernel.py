"""What a fast way to compute a comparison provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

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
