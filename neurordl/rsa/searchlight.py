"""Searchlight RSA: the RDM of the voxels around each voxel, compared with models and not kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.measures.condensed import square
from neurordl.measures.dissimilarities import Dissimilarity, DissimilarityLike, find_dissimilarity
from neurordl.measures.kernels.distances import Normalize, distance_matrices
from neurordl.measures.kernels.products import InnerProducts
from neurordl.rdms.selection import stimulus_ids
from neurordl.rdms.source import Center, Source, check_dtype, check_rates, warn_of_runs
from neurordl.rsa.compare import similarity
from neurordl.rsa.inputs import model_vectors
from neurordl.rsa.maps import Searchlight, grid_of
from neurordl.rsa.spheres import Spheres

__all__ = ["Searchlight", "searchlight"]

# Patterns and RDMs of the centres that are computed at once: they stay in the cache.
_BYTES = 4 << 20
_WIDEST = 1000  # voxels of a radius


def searchlight(
    patterns: DatasetBase,
    models: RDMs | Mapping[str, RDMs],
    *,
    radius: float = 3.0,
    threshold: float = 1.0,
    dissimilarity: DissimilarityLike = "correlation",
    comparison: str | Comparison = "corr",
    descriptor: str = "stimulus",
    center: Center | None = None,
    dtype: npt.DTypeLike = np.float64,
    progress: bool = False,
) -> Searchlight:
    """Compare models with the RDM of the voxels in a sphere around each voxel.

    RDMs are computed for many centres at once, compared, and not kept: memory is the patterns and a block.
    Source: Kriegeskorte, Goebel & Bandettini 2006, PNAS 103:3863. One subject a call; what a map means for
    the population is for a test over subjects' maps.

    Parameters
    ----------
    patterns
        With the channel descriptors ``x``, ``y``, ``z``, voxel indices, as from `read_patterns` with a mask.
        Rows of the same stimulus are averaged.
    models
        Model RDMs, as in `evaluate`: they must have every stimulus of the patterns.
    radius
        Voxels nearer to the centre than this, in voxels, belong to it (rsatoolbox's ``radius``).
    threshold
        Share of the sphere's voxels that must be there for a centre to be one; those outside of the mask and
        of the volume are not (rsatoolbox does not count the latter). Only voxels that are there are used.
    dissimilarity
        A name in `DISSIMILARITIES` that takes no precision; ``crossnobis`` and ``poisson_cv`` take the
        observation descriptor ``run``.
    comparison
        How RDMs are compared, as in `compare`.
    descriptor, center
        As in `compute_rdms`.
    dtype
        float64, or float32, which takes half the time.
    progress
        Show a progress bar.

    Warns
    -----
    UserWarning
        All scores are NaN; and of stimuli and runs, as `compute_rdms`.

    Raises
    ------
    NeurordlError
        No voxel indices, or two voxels of one; no centre has enough voxels; stimuli that the models lack;
        unknown names; a radius or threshold that makes no sphere; a sphere of one voxel, which has
        no correlation.
    """
    comparison = find_similarity(comparison)
    measure = _measure(dissimilarity)
    kind = check_dtype(dtype)
    numbers = isinstance(radius, Real) and isinstance(threshold, Real)
    if not numbers or not 0 < radius < _WIDEST or not 0 < threshold <= 1:
        raise NeurordlError(
            f"radius={radius!r}, threshold={threshold!r}: expected a radius above 0, in voxels, and a share "
            "of the sphere above 0 and up to 1"
        )
    by_run = measure.needs_runs
    source = Source(
        patterns, "the patterns", descriptor, by_run=by_run or center == "run", dtype=kind
    ).centered(center)
    if by_run and len(source.runs) < 2:
        raise NeurordlError(f"{measure} needs two or more runs, and the patterns have a single one")
    if not isinstance(models, RDMs) and not len(models):
        raise NeurordlError("models= is empty; give model RDMs")
    warn_of_runs([source], measure)
    first = models if isinstance(models, RDMs) else next(iter(models.values()))
    match = match_ids(source.ids, stimulus_ids(first), names=("patterns", "models"))
    named = model_vectors(models, source.ids, "all")
    stack = torch.from_numpy(np.stack(list(named.values())))
    around = Spheres(patterns, radius, threshold)
    normalize = measure.kernel.normalize if measure.kernel is not None else None
    if len(around.offsets) == 1 and normalize == "centered length":
        raise NeurordlError(
            f"radius={radius:g} makes spheres of a single voxel, where {measure} distances are undefined; "
            "take a radius above 1, or another dissimilarity"
        )
    values = source.by_run() if by_run else source.patterns()[None]
    check_rates(values, measure, source.label)
    by_voxel = values.permute(2, 0, 1).contiguous()  # (voxels, runs, stimuli): what is gathered lies together
    distances = _distances(by_voxel, measure, source)

    def general(voxels: Tensor) -> Tensor:
        return similarity(stack, distances(voxels), comparison)

    compare: Compare = general
    plain = measure.kernel is not None and not measure.kernel.root and measure.kernel.sides is None
    if (
        isinstance(comparison.kernel, InnerProducts)
        and not comparison.kernel.whitened
        and normalize is not None
        and plain
        and not by_run
    ):
        compare = _as_products(by_voxel, normalize, comparison.kernel.centered, stack, general)
    scores = np.empty((len(stack), len(around.centres)))
    with Progress(transient=True, disable=not progress) as bar, torch.no_grad():
        task = bar.add_task("searchlight", total=len(around.centres))
        for part, voxels in around.batches(_BYTES // kind.itemsize, by_voxel[0].numel(), 2 * len(stack[0])):
            scores[:, part] = compare(torch.from_numpy(voxels)).numpy()
            bar.advance(task, len(part))
    if np.isnan(scores).all():
        _, voxels = next(around.batches(1, 1, 1))
        why = _why_undefined(distances(torch.from_numpy(voxels)))
        warnings.warn(f"all scores are NaN: {why}", UserWarning, stacklevel=2)
    settings = {
        "radius": radius,
        "threshold": threshold,
        "dissimilarity": measure.name,
        "comparison": comparison.name,
        "center": center,
    }
    return Searchlight(
        tuple(named), scores, around.places, around.n_voxels, match, settings, grid_of(patterns)
    )


def _measure(choice: DissimilarityLike) -> Dissimilarity:
    measure = find_dissimilarity(choice)
    if measure.precision == "required":
        raise NeurordlError(
            f"{measure} takes a precision for each sphere, which is not here; whiten the patterns first, "
            "and choose euclidean"
        )
    return measure


Compare = Callable[[Tensor], Tensor]  # voxels around some centres to what is of each centre


def _gathered(by_voxel: Tensor, voxels: Tensor) -> Tensor:
    """Patterns around some centres: (centres, voxels, runs, stimuli)."""
    return by_voxel.index_select(0, voxels.flatten()).reshape(*voxels.shape, *by_voxel.shape[1:])


def _distances(by_voxel: Tensor, measure: Callable[..., Tensor], source: Source) -> Compare:
    """Voxels around some centres, (centres, voxels), to RDMs (centres, pairs)."""
    by_run, options = by_voxel.shape[1] > 1, dict[str, Any]()
    if by_run and not source.balanced:
        options["counts"] = torch.from_numpy(source.counts.T.astype(np.float64)).to(by_voxel)

    def rdms(voxels: Tensor) -> Tensor:
        patterns = _gathered(by_voxel, voxels).permute(0, 2, 3, 1)
        return measure(patterns if by_run else patterns[:, 0], **options)

    return rdms


def _why_undefined(rdm: Tensor) -> str:
    there = rdm[rdm.isfinite()]
    if not len(there):
        return (
            "no distance is defined, since patterns hold NaN, are constant, or were measured in one run only"
        )
    if float(there.max() - there.min()) <= 1e-6 * float(there.abs().max()):
        return "the RDMs are constant"
    return "the models are constant, or have too few of the pairs"


def _as_products(
    by_voxel: Tensor, normalize: Normalize, centered: bool, models: Tensor, general: Compare
) -> Compare:
    """The same where distances come of inner products, and so does the comparison: nothing is condensed.

    Centres with an undefined distance, a constant RDM or patterns that are nearly alike, and models with
    missing pairs, take the other way.
    """
    n = by_voxel.shape[-1]
    weights = models - models.mean(-1, keepdim=True) if centered else models
    lengths = torch.linalg.vector_norm(weights, dim=-1)
    if not bool((lengths > 1e-6 * torch.linalg.vector_norm(models, dim=-1)).all()):  # constant, or missing
        return general
    weights = square(weights / lengths[:, None]).flatten(1).to(by_voxel.dtype)

    def compare(voxels: Tensor) -> Tensor:
        patterns = _gathered(by_voxel, voxels)[:, :, 0]
        distances, mean, sound = distance_matrices(patterns, normalize)
        if centered:
            distances.sub_(mean[:, None, None]).diagonal(dim1=-2, dim2=-1).zero_()
        found = distances.flatten(1)
        length = torch.linalg.vector_norm(found, dim=-1) / math.sqrt(2)
        scores: Tensor = (weights @ found.mT / 2 / length).double()
        unsure = ~(sound & (length > 1e-6 * n * mean))
        if bool(unsure.any()):
            scores[:, unsure] = general(voxels[unsure])
        return scores

    return compare
