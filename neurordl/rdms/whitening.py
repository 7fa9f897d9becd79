"""Patterns whitened by a precision matrix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.rdms.distances import exact_product, floating

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
    if not (bool(exact.sum().isfinite()) or bool(exact.isfinite().all())):
        raise NeurordlError("the precision holds NaN or infinity; give a finite matrix")
    if not _symmetric(exact):
        if bool((exact - exact.mT).abs().max() > _rounding(precision)):
            raise NeurordlError("the precision is not symmetric; give (P + P.T) / 2 if that is what is meant")
        exact = (exact + exact.mT) / 2
    return exact


def _rounding(precision: Tensor) -> float:
    kind = precision.dtype if precision.is_floating_point() else torch.float64
    return math.sqrt(torch.finfo(kind).eps) * float(precision.abs().max())


def _symmetric(matrix: Tensor, tile: int = 64) -> bool:
    """Whether a matrix is exactly its transpose; by tiles, since a transposed pass over all of it is slow."""
    if matrix.device.type != "cpu":
        return torch.equal(matrix, matrix.mT)
    values = matrix.numpy()
    for top in range(0, len(values), tile):
        for left in range(top, len(values), tile):
            one = values[top : top + tile, left : left + tile]
            if not np.array_equal(one, values[left : left + tile, top : top + tile].T):
                return False
    return True
