"""What a fast way to compute a comparison provides."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints, nan_mean
from neurordl.measures.condensed import missing_groups


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

        None where the kernel has no `resample_measured`, or where subjects miss different ones of the shared
        pairs.

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
        if len(missing_groups(np.where(shared, data, np.nan))) > 1:
            return None
        models_of, subjects_of = missing_groups(models), missing_groups(data)
        scores = np.full((1 if counts is None else len(counts), len(models), len(data)), np.nan)
        common = shared & np.isfinite(data).all(axis=0)
        bounds = None
        for (rows, absent), (columns, absent_in_data) in itertools.product(models_of, subjects_of):
            measured = ~(absent | absent_in_data)
            whole = bounds is None and len(subjects_of) == 1 and bool((measured == common).all())
            drawn = sets if whole else None
            part = self.resample_measured(models[rows], data[columns], measured, counts, drawn, device)
            if part is None:
                return None
            scores[:, np.array(rows)[:, None], columns] = part[0]
            bounds = part[1] if whole else bounds
        if bounds is None:
            part = self.resample_measured(models[:0], data, common, counts, sets, device)
            if part is None:
                return None
            bounds = part[1]
        several = (sets > 0).sum(axis=-1) > 1
        return Resampled(scores, np.where(several[..., None], nan_mean(bounds, -1), np.nan))

    def resample_measured(
        self,
        models: Floats,
        data: Floats,
        measured: Bools,
        counts: Ints | None,
        sets: Ints | None,
        device: str | torch.device | None = None,
    ) -> tuple[Floats, Floats] | None:
        """Scores, and each subject's bounds in the sets, of RDMs that all have the measured pairs.

        Parameters
        ----------
        models, data, counts, sets, device
            As in `resample`; without sets no bounds are computed.
        measured
            (pairs,) which pairs count; the values of the others mean nothing.

        Returns
        -------
        scores, bounds
            (resamples, models, subjects), and (sets, resamples, 2, subjects), NaN for a subject who was not
            drawn.
        """
        return None
