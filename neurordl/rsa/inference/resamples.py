"""Resamples of stimuli and subjects: the similarities in each, and its noise ceilings.

As in rsatoolbox, a resample holds a stimulus as often as it was drawn, without the pairs of a stimulus with
its copies, and its ceilings are means over the subjects in it, copies pooled but left out together. Kernels
take all resamples together; in the general way resamples are built one by one.
"""

from __future__ import annotations

import numpy as np
import torch

from neurordl.arrays import Floats, Ints
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.kernels.kernel import Resampled
from neurordl.rsa.ceilings import drawn_ceiling
from neurordl.rsa.compare import similarity

__all__ = ["expanded", "resampled"]


def resampled(
    models: Floats,
    data: Floats,
    comparison: Comparison,
    stimuli: Ints | None,
    sets: Ints,
    device: str | torch.device | None = None,
) -> Resampled:
    """Similarities and ceilings in each resample.

    Parameters
    ----------
    models, data
        Condensed RDMs (models, pairs), (subjects, pairs); NaN marks a missing pair.
    comparison
        A similarity; one of complete RDMs does not go with resampled stimuli.
    stimuli
        (resamples, stimuli) how often each was drawn; None for all of them, once.
    sets
        (sets, resamples, subjects) how often each subject is in the ceilings. Ceilings are taken on the pairs
        that every model has.
    device
        For the matrix products; rank measures stay on the CPU.
    """
    if stimuli is not None and comparison.complete:
        raise NeurordlError(
            f"{comparison.name} needs complete RDMs, and a resample of the stimuli has pairs of a stimulus "
            "with itself, which are missing; resample subjects, or compare with cosine_cov"
        )
    shared = np.asarray(np.isfinite(models).all(axis=0))
    if comparison.kernel is not None:
        resamples = comparison.kernel.resample(models, data, stimuli, sets, shared, device)
        if resamples is not None:
            return resamples
    masked = np.where(shared, data, np.nan)
    n = n_stimuli(data.shape[1])
    once = np.ones((1, n), dtype=np.int64) if stimuli is None else stimuli
    ceilings = np.full((*sets.shape[:2], 2), np.nan)
    scores = []
    for b, counts in enumerate(once):
        a, x, y = (expanded(rdms, counts) for rdms in (models, data, masked))
        scores.append(similarity(a, x, comparison))
        for row in range(sets.shape[1]) if stimuli is None else (b,):
            for k, drawn in enumerate(sets[:, row]):
                ceilings[k, row] = drawn_ceiling(y, drawn, comparison)
    return Resampled(np.stack(scores), ceilings)


def expanded(vectors: Floats, counts: Ints) -> Floats:
    """RDMs of a resample, copies and all; the pairs of a stimulus with its copies are missing."""
    if (counts == 1).all():
        return vectors
    n = len(counts)
    number = np.full((n, n), vectors.shape[1])
    i, j = np.triu_indices(n, 1)
    number[i, j] = number[j, i] = np.arange(len(i))
    drawn = np.repeat(np.arange(n), counts)
    i, j = np.triu_indices(len(drawn), 1)
    return np.column_stack([vectors, np.full(len(vectors), np.nan)])[:, number[drawn[i], drawn[j]]]
