"""Dissimilarities by name: patterns in, condensed RDM out, as differentiable torch functions.

Each takes patterns (..., n, channels) and gives (..., n(n-1)/2), row by row as in rsatoolbox and scipy, in
float64 for float64 patterns, else in float32 (whatever autocast says). A distance that is undefined (a
constant pattern under correlation, a zero one under cosine, a pattern with a NaN) is NaN, has a gradient of
exactly zero and leaves all other pairs alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.crossvalidated import crossnobis, poisson_cv, poisson_rates
from neurordl.measures.kernels.distances import condensed_index, n_stimuli, square, squared_distances
from neurordl.measures.kernels.whitening import whiten

__all__ = [
    "CROSSVALIDATED",
    "DISSIMILARITIES",
    "canonical_measure",
    "condensed_index",
    "correlation",
    "cosine",
    "crossnobis",
    "dissimilarity",
    "euclidean",
    "euclidean_root",
    "mahalanobis",
    "n_stimuli",
    "poisson",
    "poisson_cv",
    "square",
    "unmeasured_stimuli",
    "whiten",
]


def euclidean(patterns: Tensor) -> Tensor:
    """Squared Euclidean distance divided by the number of channels: what rsatoolbox calls ``euclidean``."""
    return squared_distances(patterns) / patterns.shape[-1]


def euclidean_root(patterns: Tensor) -> Tensor:
    """Root of `euclidean`, a metric; its gradient is zero where the distance is zero."""
    squared = euclidean(patterns)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1).sqrt(), squared.detach())


def correlation(patterns: Tensor) -> Tensor:
    """One minus the Pearson correlation; NaN for a pattern that is constant but for rounding."""
    return squared_distances(patterns, "centred length") / 2


def cosine(patterns: Tensor) -> Tensor:
    """One minus the cosine; NaN for a pattern of zeros."""
    return squared_distances(patterns, "length") / 2


def mahalanobis(patterns: Tensor, precision: Tensor) -> Tensor:
    """Squared Mahalanobis distance divided by the number of channels, as in rsatoolbox.

    Parameters
    ----------
    patterns
        (..., n, channels).
    precision
        (channels, channels), the inverse of the noise covariance (rsatoolbox's ``noise``), taken as constant.
        It is factored at each call: for many calls `whiten` once and take `euclidean`.

    Raises
    ------
    NeurordlError
        The precision is not a finite, symmetric, positive semidefinite matrix of that size.
    """
    return euclidean(whiten(patterns, precision))


def poisson(patterns: Tensor, prior_lambda: float = 1.0, prior_weight: float = 0.1) -> Tensor:
    """Symmetrised KL divergence of Poisson rates divided by the number of channels, as in rsatoolbox.

    Parameters
    ----------
    patterns
        (..., n, channels), rates or counts, 0 or more; NaN pairs where one is below the prior allows.
    prior_lambda, prior_weight
        The rate that is mixed in, and its weight beside one measurement.
    """
    rates, logs = poisson_rates(patterns, prior_lambda, prior_weight)
    # (a - b)(log a - log b) as a difference of two squared distances, scaled so that little cancels
    scale = _spread_of(logs).div(_spread_of(rates)).sqrt().nan_to_num(1.0, 1.0, 1.0)
    scale = torch.where(scale > 0, scale, 1.0)
    plus = squared_distances(rates * scale + logs / scale)
    return (plus - squared_distances(rates * scale - logs / scale)) / (4 * patterns.shape[-1])


def _spread_of(values: Tensor) -> Tensor:
    """Mean absolute deviation from the mean over stimuli, of what is finite; no gradient."""
    finite = torch.nan_to_num(values.detach(), 0.0, 0.0, 0.0)
    return (finite - finite.mean(-2, keepdim=True)).abs().mean((-2, -1), keepdim=True)


DISSIMILARITIES: dict[str, Callable[..., Tensor]] = {
    "euclidean": euclidean,
    "euclidean_root": euclidean_root,
    "correlation": correlation,
    "cosine": cosine,
    "mahalanobis": mahalanobis,
    "crossnobis": crossnobis,
    "poisson": poisson,
    "poisson_cv": poisson_cv,
}
# those that take (..., runs, n, channels)
CROSSVALIDATED = ("crossnobis", "poisson_cv")

# how else rsatoolbox and papers write them in `RDMs.dissimilarity_measure`, lower case, letters and digits
_WRITTEN = {
    "euclidean": "squaredeuclidean sqeuclidean euclideansquared",
    "euclidean_root": "euclideanroot rooteuclidean",
    "correlation": "pearson pearsoncorrelation 1pearson 1pearsonr 1pearsonsr 1pearsoncorrelation "
    "1correlation 1corr 1r",
    "cosine": "1cosine 1cosinesimilarity",
    "mahalanobis": "squaredmahalanobis mahalanobissquared",
    "crossnobis": "squaredcrossnobis crossvalidatedmahalanobis crossvalidatedsquaredmahalanobis ldc "
    "lineardiscriminantcontrast",
    "poisson": "poissonkl symmetrizedkl",
    "poisson_cv": "poissoncv crossvalidatedpoisson",
}


def dissimilarity(name: str | Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of a name in `DISSIMILARITIES`; any callable (..., n, channels) -> (..., pairs) as it is.

    Raises
    ------
    NeurordlError
        No such name: the message lists those there are.
    """
    if callable(name):
        return name
    if name not in DISSIMILARITIES:
        raise NeurordlError(
            f"there is no dissimilarity {name!r}; choose one of {', '.join(DISSIMILARITIES)}, or give a "
            "function (..., stimuli, channels) -> (..., pairs)"
        )
    return DISSIMILARITIES[name]


def canonical_measure(text: str | None) -> str | None:
    """The name in `DISSIMILARITIES` of a measure as rsatoolbox or a paper writes it; None if it is not known.

    "Euclidean" is read as rsatoolbox means it, squared and per channel.
    """
    plain = re.sub(r"[^a-z0-9]", "", (text or "").lower())
    for candidate in (plain, plain.removesuffix("distance"), plain.removesuffix("dissimilarity")):
        for name, others in _WRITTEN.items():
            if candidate in (name, *others.split()):
                return name
    return None


def unmeasured_stimuli(there: npt.NDArray[np.bool_]) -> list[int]:
    """Stimuli, from 0, in none of the pairs (condensed) that are there."""
    if there.all():
        return []
    n = n_stimuli(len(there))
    seen, start = np.zeros(n, dtype=bool), 0
    for row in range(n):  # row by row: the indices of all pairs take memory
        pairs = there[start : start + n - 1 - row]
        seen[row] |= pairs.any()
        seen[row + 1 :] |= pairs
        start += len(pairs)
    return [int(row) for row in np.flatnonzero(~seen)]
