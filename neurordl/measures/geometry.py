"""Similarities of the geometries behind complete RDMs: bures and neg_riem_dist."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from neurordl.measures.condensed import square

__all__ = ["bures", "centred_kernels", "negative_riemannian"]


def centred_kernels(rdms: Tensor) -> Tensor:
    """The doubly centred inner products behind squared distances: (…, pairs) -> (…, stimuli, stimuli)."""
    matrix = square(rdms) / -2
    rows = matrix.mean(-1, keepdim=True)
    return matrix - rows - rows.mT + rows.mean(-2, keepdim=True)


def bures(models: Tensor, data: Tensor) -> Tensor:
    """Bures similarity of the centred kernels: (models, pairs), (data, pairs) -> (models, data).

    The trace of the root of ``√A B √A`` over the root of the product of the traces; negative eigenvalues are
    left out, of A and of the product, as in rsatoolbox. Source: Muzellec & Cuturi 2018, arXiv:1805.07594.
    """
    left, right = centred_kernels(models), centred_kernels(data)
    trace = right.diagonal(dim1=-2, dim2=-1).sum(-1)
    found = torch.full((len(left), len(right)), torch.nan, dtype=left.dtype, device=left.device)
    for row, kernel in enumerate(left):
        values, vectors = torch.linalg.eigh(kernel)
        there = values > len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        if not bool(there.any()):
            continue
        root = vectors[:, there] * values[there].sqrt()
        inner = torch.linalg.eigvalsh(root.T @ right @ root).clamp(min=0).sqrt().sum(-1)
        product = kernel.trace() * trace
        found[row] = inner / torch.where(product > 0, product, torch.nan).sqrt()
    return found


def negative_riemannian(models: Tensor, data: Tensor) -> Tensor:
    """Minus the affine-invariant distance of second moments, noise added to the model's: (models, data).

    rsatoolbox's measure and search: moments relative to the first stimulus; ``exp(s) A + exp(t) N`` is
    brought as near to B as it goes, N being the moments of independent noise. NaN where B is not positive
    definite.
    Source: Shahbazi et al. 2021, NeuroImage 239:118271.
    """
    left, right = (_moments(x).cpu().numpy() for x in (models, data))
    noise = np.eye(left.shape[1]) + 1
    found = np.full((len(left), len(right)), np.nan)
    for column, target in enumerate(right):
        try:
            factor = np.linalg.inv(np.linalg.cholesky(target))
        except np.linalg.LinAlgError:
            continue
        beside = factor @ noise @ factor.T
        for row, moments in enumerate(left):
            found[row, column] = -_nearest(factor @ moments @ factor.T, beside)
    return torch.as_tensor(found, device=models.device)


Floats = npt.NDArray[np.float64]


def _nearest(moments: Floats, noise: Floats) -> float:
    def distance(scales: Floats) -> float:
        mixed = np.exp(scales[0]) * moments + np.exp(scales[1]) * noise
        values = np.linalg.eigvalsh(mixed)
        return float(np.sqrt((np.log(values) ** 2).sum())) if values[0] > 0 else np.nan

    found = optimize.minimize(distance, (0, 0), method="Nelder-Mead")
    return float(found.fun)


def _moments(rdms: Tensor) -> Tensor:
    """Second moments behind squared distances, the first stimulus at the origin: (rdms, n - 1, n - 1)."""
    matrix = square(rdms)
    first = matrix[..., 0, 1:]
    return (first[..., :, None] + first[..., None, :] - matrix[..., 1:, 1:]) / 2
