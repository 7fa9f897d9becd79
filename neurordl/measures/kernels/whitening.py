"""Patterns whitened by a precision matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.kernels.distances import exact_product, floating

__all__ = ["checked_precision", "factor_of", "whiten"]


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
    factor = factor_of(precision.detach(), channels).to(patterns)
    mean = patterns.detach().mean(-2, keepdim=True)  # a large offset would cost digits in the product
    return exact_product(patterns - torch.where(mean.isfinite(), mean, 0), factor)


def factor_of(precision: Tensor, channels: int) -> Tensor:
    """L with L Lᵀ = precision, in float64; `whiten` says what is refused."""
    exact = checked_precision(precision, channels)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(exact)
    if not bool(failed):
        return factor
    values, vectors = torch.linalg.eigh(exact)
    if bool(values[0] < -_rounding(precision)):
        raise NeurordlError(
            f"the precision is not positive semidefinite (smallest eigenvalue {float(values[0]):.3g}); "
            "give the inverse of a covariance, a shrunken one if need be"
        )
    factor = vectors * values.clamp_min(0).sqrt()
    return factor


def checked_precision(precision: Tensor, channels: int) -> Tensor:
    """A precision in float64, finite and symmetric; whether it is positive semidefinite is not looked at."""
    if tuple(precision.shape) != (channels, channels):
        raise NeurordlError(
            f"the precision of {channels} channels is a {channels} x {channels} matrix, not of shape "
            f"{tuple(precision.shape)}"
        )
    exact = precision.double()
    if not _symmetric(exact):
        if not bool(exact.isfinite().all()):
            raise NeurordlError("the precision holds NaN or infinity; give a finite matrix")
        if bool((exact - exact.mT).abs().max() > _rounding(precision)):
            raise NeurordlError("the precision is not symmetric; give (P + P.T) / 2 if that is what is meant")
        exact = (exact + exact.mT) / 2
    return exact


def _rounding(precision: Tensor) -> float:
    kind = precision.dtype if precision.is_floating_point() else torch.float64
    return math.sqrt(torch.finfo(kind).eps) * float(precision.abs().max())


def _symmetric(matrix: Tensor) -> bool:
    """Whether a matrix is finite and, but for rounding, its own transpose.

    Both are multiplied by a random vector (Freivalds 1977): comparing each number with its mirror image takes
    several times as long, for it goes across the memory.
    """
    random = torch.Generator().manual_seed(0)
    probe = torch.randn(len(matrix), generator=random, dtype=matrix.dtype).to(matrix.device)
    there, back = matrix @ probe, probe @ matrix
    differ, most = (there - back).abs().max(), there.abs().max()
    return bool(most.isfinite() & (differ <= 1e-12 * most))  # a NaN makes both NaN
