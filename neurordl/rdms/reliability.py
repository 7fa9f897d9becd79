"""How reliable an RDM is: its correlation between the odd and the even runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rsatoolbox.data import Dataset

from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import DissimilarityLike, find_dissimilarity
from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.sources import coded

__all__ = ["odd_even_reliability"]


def odd_even_reliability(
    patterns: Dataset, dissimilarity: DissimilarityLike = "correlation", **options: Any
) -> npt.NDArray[np.float64]:
    """Correlation of the RDM of the odd runs with that of the even ones.

    Parameters
    ----------
    patterns
        With the observation descriptor ``run``; odd and even by order of first appearance.
    dissimilarity, **options
        As in `neurordl.compute_rdms`; the noise is that of all runs.

    Returns
    -------
    array, (n_rdms,)
        Pearson's r over the pairs that both halves have; NaN where there are fewer than three. It is that of
        half the data: by Spearman and Brown's formula the whole has 2r / (1 + r).

    Raises
    ------
    NeurordlError
        Too few runs: four for dissimilarities across runs, else two.
    """
    runs, run = coded(patterns, "run", "the patterns")
    measure = find_dissimilarity(dissimilarity)
    needed = 4 if measure.needs_runs else 2
    if len(runs) < needed:
        raise NeurordlError(f"halves with {measure} need {needed} runs or more, and there are {len(runs)}")
    halves = []
    for half in (0, 1):
        at = np.flatnonzero(run % 2 == half)
        own = {name: [values[row] for row in at] for name, values in patterns.obs_descriptors.items()}
        halves.append(
            compute_rdms(
                Dataset(
                    np.asarray(patterns.measurements)[at],
                    descriptors=dict(patterns.descriptors),
                    obs_descriptors=own,
                    channel_descriptors=dict(patterns.channel_descriptors),
                ),
                measure,
                **options,
            )
        )
    odd, even = halves
    place = {str(name): k for k, name in enumerate(even.pattern_descriptors["stimulus"])}
    shared = [name for name in map(str, odd.pattern_descriptors["stimulus"]) if name in place]
    pairs = np.triu_indices(len(shared), 1)
    there = {str(name): k for k, name in enumerate(odd.pattern_descriptors["stimulus"])}
    left = odd.get_matrices()[:, [there[name] for name in shared]][:, :, [there[name] for name in shared]]
    right = even.get_matrices()[:, [place[name] for name in shared]][:, :, [place[name] for name in shared]]
    found = np.full(len(left), np.nan)
    for k, (one, other) in enumerate(zip(left, right, strict=True)):
        both = np.isfinite(one[pairs]) & np.isfinite(other[pairs])
        if both.sum() > 2:
            found[k] = np.corrcoef(one[pairs][both], other[pairs][both])[0, 1]
    return found
