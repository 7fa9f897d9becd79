"""Dissimilarities by name: patterns in, condensed RDM out, as differentiable torch functions.

Each takes patterns (..., n, channels) and gives (..., n(n-1)/2), row by row as in rsatoolbox and scipy, in
float64 for float64 patterns, else in float32 (whatever autocast says). A distance that is undefined (a
constant pattern under correlation, a zero one under cosine, a pattern with a NaN) is NaN, has a gradient of
exactly zero and leaves all other pairs alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.rdms.distances import (
    condensed_index,
    exact_product,
    floating,
    n_stimuli,
    square,
    squared_distances,
)

__all__ = [
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
    "square",
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


def crossnobis(patterns: Tensor, precision: Tensor | None = None) -> Tensor:
    """Cross-validated squared Mahalanobis distance divided by the number of channels.

    Leaves one run out: the mean over runs of (this run's difference) · (mean difference of the others). It is
    zero on average for equal patterns, so it can be negative. Equal to rsatoolbox's for balanced runs.
    Source: Walther et al. 2016, NeuroImage 137:188.

    Parameters
    ----------
    patterns
        (..., runs, n, channels), two runs or more.
    precision
        (channels, channels) as for `mahalanobis`; none is the identity.

    Returns
    -------
    Tensor
        (..., n(n-1)/2); NaN where either pattern is missing (NaN) in any run.

    Raises
    ------
    NeurordlError
        Fewer than two runs, or a precision that `mahalanobis` refuses.
    """
    patterns = floating(patterns)
    if patterns.ndim < 3 or patterns.shape[-3] < 2:
        raise NeurordlError(
            "crossnobis needs patterns (..., runs, stimuli, channels) with at least 2 runs, not shape "
            f"{tuple(patterns.shape)}; with a single run take mahalanobis or euclidean"
        )
    if precision is not None:
        patterns = whiten(patterns, precision)
    runs, channels = patterns.shape[-3], patterns.shape[-1]
    # the sum over pairs of different runs is that over all pairs of runs less that of each run with itself
    together = squared_distances(patterns.sum(-3))
    alone = squared_distances(patterns).sum(-2)
    return (together - alone) / (runs * (runs - 1) * channels)


def whiten(patterns: Tensor, precision: Tensor) -> Tensor:
    """Patterns (..., n, channels) less their mean over stimuli, times a factor of the precision.

    Euclidean distances of the result are Mahalanobis distances of the patterns; where there are more channels
    than the precision has rank, the result is as wide all the same.

    Raises
    ------
    NeurordlError
        The precision is not a finite, symmetric, positive semidefinite (channels, channels) matrix.
    """
    patterns = floating(patterns)
    channels = patterns.shape[-1]
    if tuple(precision.shape) != (channels, channels):
        raise NeurordlError(
            f"the precision of {channels} channels is a {channels} x {channels} matrix, not of shape "
            f"{tuple(precision.shape)}"
        )
    factor = _factor(precision.detach()).to(patterns)
    mean = patterns.detach().mean(-2, keepdim=True)  # a large offset would cost digits in the product
    return exact_product(patterns - torch.where(mean.isfinite(), mean, 0), factor)


def _factor(precision: Tensor) -> Tensor:
    """L with L Lᵀ = precision, in float64."""
    exact = precision.double()
    largest = exact.abs().max()
    if not bool(largest.isfinite()):
        raise NeurordlError("the precision holds NaN or infinity; give a finite matrix")
    rounding = math.sqrt(torch.finfo(precision.dtype if precision.is_floating_point() else torch.float64).eps)
    if bool((exact - exact.mT).abs().max() > rounding * largest):
        raise NeurordlError("the precision is not symmetric; give (P + P.T) / 2 if that is what is meant")
    exact = (exact + exact.mT) / 2
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(exact)
    if not bool(failed):
        return factor
    values, vectors = torch.linalg.eigh(exact)
    if bool(values[0] < -rounding * largest):
        raise NeurordlError(
            f"the precision is not positive semidefinite (smallest eigenvalue {float(values[0]):.3g}); "
            "give the inverse of a covariance, a shrunken one if need be"
        )
    factor = vectors * values.clamp_min(0).sqrt()
    return factor


DISSIMILARITIES: dict[str, Callable[..., Tensor]] = {
    "euclidean": euclidean,
    "euclidean_root": euclidean_root,
    "correlation": correlation,
    "cosine": cosine,
    "mahalanobis": mahalanobis,
    "crossnobis": crossnobis,
}

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
