"""Searchlight RSA: the RDM around each voxel or vertex, compared with models and not kept."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import Match, match_ids
from neurordl.io import write_bytes
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.measures.condensed import square
from neurordl.measures.dissimilarities import Dissimilarity, DissimilarityLike, find_dissimilarity
from neurordl.measures.kernels.distances import distance_matrices
from neurordl.measures.kernels.similarities import InnerProducts
from neurordl.measures.kernels.similarities import Partial as PartialKernel
from neurordl.patterns.meshes import Mesh, Surface, read_meshes
from neurordl.patterns.surfaces import HEMISPHERES, map_suffix, maps_bytes
from neurordl.progress import progress_bar
from neurordl.rdms.selection import stimulus_ids
from neurordl.rdms.source import Center, Source, check_rates, check_runs
from neurordl.rsa.compare import model_vectors, similarity
from neurordl.rsa.neighborhoods import (
    Grid,
    Neighborhoods,
    Patches,
    Places,
    Spheres,
    grid_of,
    on_surface,
    radius_text,
)
from neurordl.rsa.regression import Partial
from neurordl.validate import check_choice, check_number, check_path, check_type, folded_html, listed

if TYPE_CHECKING:
    import nibabel as nib
    from nilearn.surface import SurfaceImage

Compare = Callable[[Tensor], Tensor]  # from the voxels around each center

_BYTES = 4 << 20  # patterns and RDMs of the centers that are computed at once: they stay in the cache
_DESCRIP = 80  # bytes of the header's field
_FLAT = 1e-6  # of the length of an RDM: what is less may be rounding
_EXPLAINED = 1e-3  # of its squared length, which covariates leave: a difference of nearly equal numbers


@dataclass(frozen=True, eq=False)
class Searchlight:
    """How similar models are to the RDM around each voxel, or around each vertex of a surface.

    Attributes
    ----------
    models
        Names.
    scores
        (models, centers) similarities; NaN where undefined.
    centers
        (centers, 3) voxel indices x, y, z; on a surface (centers, 2), 0 for the left and 1 for the right
        hemisphere, and the vertex.
    n_voxels
        (centers,) how many voxels or vertices each RDM was computed from.
    match
        Which stimuli of patterns and models were matched.
    settings
        Radius, threshold, dissimilarity, comparison, how the patterns were centered, and ``n_left_out``: how
        many voxels or vertices have data and are no centers, since their neighborhoods have too little.
    grid
        Shape and affine of the images, if they are known, as for the patterns of `read_patterns`.
    surface
        The mesh of each hemisphere; None in a volume.
    """

    models: tuple[str, ...]
    scores: Floats
    centers: Places
    n_voxels: Places
    match: Match
    settings: Mapping[str, Any]
    grid: Grid | None = None
    surface: Mapping[str, Mesh] | None = None

    def image(self, like: str | os.PathLike[str] | nib.Nifti1Image | None = None) -> nib.Nifti1Image:
        """Return the maps as a NIfTI image (x, y, z, models); NaN where there is no center.

        Parameters
        ----------
        like
            An image on the grid of the patterns, such as their mask, whose units and codes of qform and sform
            are copied. It can be left out if ``grid`` is known.

        Raises
        ------
        NeurordlError
            The image is on another grid, a center lies outside it, the grid is not known, or the maps are on
            a surface.
        """
        import nibabel as nib

        if self.surface is not None:
            raise NeurordlError(
                "these maps are on a surface and no NIfTI image: to_gifti() writes them, and surface_image() "
                "gives nilearn's image"
            )
        source = self._on_grid(like)
        maps = np.full((*source.shape[:3], len(self.models)), np.nan, dtype=np.float32)
        maps[tuple(self.centers.T)] = self.scores.T
        image = nib.Nifti1Image(maps, source.affine)
        image.header["xyzt_units"] = source.header["xyzt_units"] & 7
        qform, sform = source.get_qform(coded=True), source.get_sform(coded=True)
        if qform[1] or sform[1]:  # with neither, the affine is that of shape and voxel size
            image.set_sform(*sform)
            image.set_qform(*qform)
        if (names := ", ".join(self.models)).isascii() and len(names) <= _DESCRIP:
            image.header["descrip"] = names
        return image

    def surface_image(self, model: str | None = None) -> SurfaceImage:
        """Return the maps as nilearn's ``SurfaceImage``, float32; NaN where there is no center.

        Parameters
        ----------
        model
            Name of a model, whose map is (vertices,) for each hemisphere, as nilearn's plots take it. By
            default the maps of all models, (vertices, models).

        Raises
        ------
        NeurordlError
            The maps are those of a volume, or there is no such model.

        Examples
        --------
        >>> import numpy as np
        >>> from rsatoolbox.data import Dataset
        >>> import neurordl as nrl
        >>> corners = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])  # in mm
        >>> mesh = (corners, np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]))
        >>> channels = {"hemisphere": ["left"] * 4, "vertex": [0, 1, 2, 3]}
        >>> names = {"stimulus": list("abcdef")}
        >>> patterns = Dataset(np.random.default_rng(0).normal(size=(6, 4)), {}, names, channels)
        >>> model = nrl.compute_rdms(Dataset(np.eye(6)[:, :3], obs_descriptors=names), "euclidean")
        >>> maps = nrl.searchlight(patterns, model, surface={"left": mesh}, radius="10 mm")
        >>> maps.surface_image().shape
        (4, 1)
        """
        from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

        names = self.models if model is None else (check_choice("model", model, self.models),)
        maps = {
            side: np.ascontiguousarray(np.stack([values[name] for name in names], axis=1))
            for side, values in self._by_hemisphere().items()
        }
        maps = maps if model is None else {side: values[:, 0] for side, values in maps.items()}
        meshes = {side: InMemoryMesh(*self.surface[side][:2]) for side in maps} if self.surface else {}
        return SurfaceImage(PolyMesh(**meshes), maps)

    def to_gifti(self, path: str | os.PathLike[str]) -> dict[str, Path]:
        """Write the maps of each hemisphere into a GIFTI file; NaN where there is no center.

        A file has an array for each model, float32, with the name of the model.

        Parameters
        ----------
        path
            Such as "maps/sub-01" or "maps/sub-01.func.gii", for ``maps/sub-01_hemi-L.func.gii`` and
            ``maps/sub-01_hemi-R.func.gii``. Existing files are replaced.

        Returns
        -------
        dict of hemisphere to Path
            The files.

        Raises
        ------
        NeurordlError
            The maps are those of a volume, or a file cannot be written.

        Examples
        --------
        After ``maps = nrl.searchlight(patterns, models, surface=meshes, radius="10 mm")``::

            maps.to_gifti("maps/sub-01")
        """
        stem = re.sub(r"(?i)(\.func)?\.gii$", "", str(check_path("path", path)))
        files = {}
        for side, maps in self._by_hemisphere().items():
            files[side] = Path(f"{stem}{map_suffix(side)}")
            write_bytes(files[side], maps_bytes(np.stack(list(maps.values()), axis=1), self.models, side))
        return files

    def _by_hemisphere(self) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
        """The map of each model on each hemisphere that has a center, (vertices,)."""
        if self.surface is None:
            raise NeurordlError("these maps are those of a volume, not of a surface; take image()")
        maps: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
        for number, side in enumerate(HEMISPHERES):
            chosen = self.centers[:, 0] == number
            for name, scores in zip(self.models, self.scores if chosen.any() else (), strict=False):
                values = np.full(len(self.surface[side].coordinates), np.nan, dtype=np.float32)
                values[self.centers[chosen, 1]] = scores[chosen]
                maps.setdefault(side, {})[name] = values
        return maps

    def _on_grid(self, like: str | os.PathLike[str] | nib.Nifti1Image | None) -> nib.Nifti1Image:
        """An image on the grid of the patterns: the one given, checked, or an empty one."""
        import nibabel as nib

        from neurordl.patterns.images import load_image, same_grid

        known = None
        if self.grid is not None:
            known = nib.Nifti1Image(np.broadcast_to(np.float32(0), self.grid.shape), self.grid.affine)
            known.header.set_xyzt_units("mm")
        image = known if like is None else like
        if image is None:
            raise NeurordlError("the grid of these patterns is not known; pass like=, an image on it")
        source, name = load_image(image, "image")
        if known is not None and not same_grid(source, known):
            grids = [
                f"{x.shape[:3]} and the affine {x.affine[:3].round(4).tolist()}" for x in (source, known)
            ]
            raise NeurordlError(
                f"{name} has the shape {grids[0]}, and the images of the patterns {grids[1]}; give one of "
                "those images, or leave out like="
            )
        if source.ndim < 3 or bool((self.centers >= np.array(source.shape[:3])).any()):
            raise NeurordlError(
                f"{name} of the shape {source.shape} has no voxel {self.centers.max(axis=0).tolist()}, a "
                "center; give an image on the grid of the patterns, such as their mask"
            )
        return source

    def _cells(self) -> list[tuple[str, str]]:
        """Models, centers and range of the scores, and what was matched."""
        few, most = self.n_voxels.min(), self.n_voxels.max()
        noun = "voxels" if self.surface is None else "vertices"
        radius, measure, comparison = (
            self.settings[name] for name in ("radius", "dissimilarity", "comparison")
        )
        if isinstance(controlled := self.settings.get("controlled"), list):
            comparison = f"{comparison}, controlled for {listed(controlled)}"
        centers = f"{len(self.centers)}, of {few if few == most else f'{few} to {most}'} {noun} each"
        if n_left_out := self.settings["n_left_out"]:
            share = f"{100 * self.settings['threshold']:.4g}%"
            centers += f"; {n_left_out} {noun} with data in less than {share} of theirs are left out"
        cells = [
            ("searchlight", f"radius {radius_text(radius)}, {measure}, models compared by {comparison}"),
            ("centers", centers),
            ("matched", f"{len(self.match.matched)} stimuli; {len(self.match.unused)} only in the models"),
        ]
        for name, scores in zip(self.models, self.scores, strict=True):
            defined = scores[np.isfinite(scores)]
            undefined, text = len(scores) - len(defined), "NaN"
            if len(defined):
                text = f"{defined.min():.3f} to {defined.max():.3f}, mean {defined.mean():.3f}"
                text += f", {undefined} NaN" if undefined else ""
            cells.append((name, text))
        return cells

    def __str__(self) -> str:
        return "\n".join(f"{name:<11}  {text}" for name, text in self._cells())

    def _repr_html_(self) -> str:
        (_, summary), *cells = self._cells()
        return folded_html(f"Searchlight: {summary}", cells)

    __repr__ = __str__


def searchlight(
    patterns: DatasetBase,
    models: RDMs | Mapping[str, RDMs],
    *,
    radius: float | str = 3.0,
    surface: Surface | None = None,
    threshold: float = 1.0,
    dissimilarity: DissimilarityLike = "correlation",
    comparison: ComparisonLike | Partial = "corr",
    descriptor: str = "stimulus",
    center: Center | None = None,
    dtype: npt.DTypeLike = np.float64,
    progress: bool | None = None,
) -> Searchlight:
    """Compare models with the RDM of the voxels around each voxel, or of the vertices around each vertex.

    RDMs are computed for many centers at once, compared, and not kept, so that little memory is needed.
    Source: Kriegeskorte, Goebel & Bandettini 2006, PNAS 103:3863. Each call is for one subject; inference on
    the population needs a test over the maps of several subjects.

    Parameters
    ----------
    patterns
        Patterns with the channel descriptors ``x``, ``y``, ``z``, voxel indices, as from `read_patterns` with
        a mask; or on a surface ``hemisphere`` and ``vertex``. Rows of the same stimulus are averaged.
    models
        Model RDMs, as in `evaluate`: they must have every stimulus of the patterns.
    radius
        Radius in voxels, or in millimeters as text, "8 mm", if the grid of the images is known. A sphere has
        all voxels whose distance from its center is less than the radius (rsatoolbox's ``radius``, in
        voxels).

        On a surface it is text: millimeters along the edges of the mesh, "10 mm", or the number of the
        nearest vertices with data, "100 vertices", the center among them.
    surface
        The mesh of each hemisphere, which makes it a searchlight on the surface (Oosterhof et al. 2011,
        NeuroImage 56:593): a mapping {"left": "lh.midthickness.surf.gii", "right": ...} of GIFTI files,
        geometries of FreeSurfer (``lh.white``), meshes of nilearn or pairs (coordinates, faces); nilearn's
        ``PolyMesh``; or a path in which ``{hemi}`` stands for ``L`` and ``R``, or ``lh`` and ``rh``. Take a
        surface that keeps distances (midthickness, white or pial, not inflated).

        Neighbors are never in the other hemisphere. Vertices without data, such as those of the medial wall,
        are no neighbors, but paths lead over them.
    threshold
        Smallest share of a sphere's voxels, or of the vertices within the radius, that must have data. With
        1.0, centers at the edge of the mask, of the volume or of the medial wall are left out; with less,
        their RDMs are computed from the voxels that have data. (rsatoolbox does not count voxels outside the
        volume.)
    dissimilarity
        A dissimilarity that takes no precision; ``crossnobis`` and ``poisson_cv`` need the observation
        descriptor ``run``.
    comparison
        Comparison of two RDMs, as in `compare`, or `Partial`, which controls for covariates.
    descriptor, center
        As in `compute_rdms`.
    dtype
        float64, or float32, which takes half the time.
    progress
        Show a progress bar; by default on a terminal and in a notebook.

    Warns
    -----
    UserWarning
        All scores are NaN; the radius is in voxels that are not cubes; a mesh is inflated; or there are the
        problems with stimuli and runs of which `compute_rdms` warns.

    Raises
    ------
    NeurordlError
        There are no voxel indices, or two voxels have the same; a mesh cannot be read, or has other vertices
        than the images; no sphere has enough voxels; the models lack
        stimuli; the dissimilarity or the comparison is unknown; or the radius is so small that spheres have
        one voxel, and the dissimilarity is undefined.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> whole = np.random.default_rng(0).normal(size=(6, 27))
    >>> grid = dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1), strict=True))
    >>> names = {"stimulus": list("abcdef")}
    >>> brain = Dataset(whole, obs_descriptors=names, channel_descriptors=grid)
    >>> model = nrl.compute_rdms(Dataset(np.eye(6)[:, :3], obs_descriptors=names), "euclidean")
    >>> maps = nrl.searchlight(brain, model, radius=2, comparison="corr")
    >>> maps.scores.shape
    (1, 1)
    """
    check_type(
        "patterns",
        patterns,
        DatasetBase,
        "call searchlight once for the Dataset of each subject, or group_searchlight for all",
    )
    partial = comparison if isinstance(comparison, Partial) else None
    comparison = find_similarity(comparison.comparison if isinstance(comparison, Partial) else comparison)
    measure = find_dissimilarity(dissimilarity)
    if measure.precision == "required":
        raise NeurordlError(f"{measure} needs a precision: whiten the patterns first, and choose euclidean")
    check_number("threshold", threshold, 0, 1, open_low=True)
    by_run = measure.needs_runs or center == "run"
    source = Source(patterns, "the dataset", descriptor, by_run=by_run, dtype=dtype).centered(center)
    if not isinstance(models, RDMs | Mapping):
        raise NeurordlError(
            f"models: expected RDMs, or a dict from name to RDMs, got {type(models).__name__}; for a "
            "network's RDMs, write compute_rdms(extract_patterns(network, stimuli, layers), 'correlation')"
        )
    if not isinstance(models, RDMs) and not len(models):
        raise NeurordlError("models= is empty; give model RDMs")
    check_runs([source], measure)
    try:
        source.check_finite(slice(None))
    except NeurordlError as error:
        text = f"{error}; spheres with such channels are compared on the pairs that remain"
        notify(text)
    first = models if isinstance(models, RDMs) else next(iter(models.values()))
    match = match_ids(source.ids, stimulus_ids(first), names=("patterns", "models"))
    named = model_vectors(models, source.ids, "all")
    if partial is not None:
        comparison = partial.for_stimuli(source.ids)
        if (n_pairs := len(source.ids) * (len(source.ids) - 1) // 2) < len(partial.names) + 3:
            problem = f"{n_pairs} pairs of stimuli are too few to control for {len(partial.names)} covariates"
            raise NeurordlError(f"{problem}; choose fewer covariates")
    stack = torch.from_numpy(np.stack(list(named.values())))
    meshes = None if surface is None else read_meshes(surface)
    around = _around(patterns, radius, meshes, threshold)
    normalize = measure.kernel.normalize if measure.kernel is not None else None
    if around.single and normalize == "centered length":
        noun = "voxel" if meshes is None else "vertex"
        raise NeurordlError(
            f"radius={radius_text(radius)} is a single {noun}, where {measure} distances are undefined; take "
            "more"
        )
    values, options = _by_run(source, measure) if measure.needs_runs else (source.patterns()[None], {})
    check_rates(values, measure, source.label)
    by_voxel = values.permute(2, 0, 1).contiguous()  # (voxels, runs, stimuli): gathered rows are contiguous
    rdms_of = _rdms_of(by_voxel, measure, options)

    def general(voxels: Tensor) -> Tensor:
        return similarity(stack, rdms_of(voxels), comparison)

    compare = _by_products(by_voxel, measure, comparison, stack, general)
    scores = np.empty((len(stack), len(around.places)))
    with progress_bar("searchlight", len(around.places), progress) as advance, torch.no_grad():
        room = _BYTES // source.dtype.itemsize
        for part, voxels in around.batches(room, by_voxel[0].numel(), 2 * len(stack[0])):
            scores[:, part] = compare(torch.from_numpy(voxels)).numpy()
            advance(len(part))
    if np.isnan(scores).all():
        _, voxels = next(around.batches(1, 1, 1))
        reason = _why_undefined(rdms_of(torch.from_numpy(voxels)))
        notify(f"all scores are NaN: {reason}")
    names = {"dissimilarity": measure.name, "comparison": comparison.name}
    settings: dict[str, object] = {"radius": radius, "threshold": threshold, **names, "center": center}
    settings |= {} if partial is None else {"controlled": partial.names}
    settings["n_left_out"] = around.n_left_out
    space = (None, meshes) if meshes is not None else (grid_of(patterns), None)
    return Searchlight(tuple(named), scores, around.places, around.n_channels, match, settings, *space)


def _around(
    patterns: DatasetBase, radius: float | str, meshes: Mapping[str, Mesh] | None, threshold: float
) -> Neighborhoods:
    """The voxels or vertices around each center."""
    if meshes is not None:
        return Patches(patterns, meshes, radius, threshold)
    if on_surface(patterns):
        raise NeurordlError(
            "these patterns lie on a surface: pass surface=, the meshes of the left and right hemisphere (of "
            "CIFTI, choose the voxels by the channel descriptor structure for a searchlight in the volume)"
        )
    return Spheres(patterns, radius, threshold)


def _gathered(by_voxel: Tensor, voxels: Tensor) -> Tensor:
    """Patterns around some centers: (centers, voxels, runs, stimuli)."""
    return by_voxel.index_select(0, voxels.flatten()).reshape(*voxels.shape, *by_voxel.shape[1:])


def _by_run(source: Source, measure: Dissimilarity) -> tuple[Tensor, dict[str, Tensor]]:
    """Patterns by run, (runs, stimuli, voxels), and what a measure takes with them if runs are unbalanced."""
    if measure.compact and source.sparse:
        return source.compact()
    values = source.by_run()
    counts = None if source.balanced else torch.from_numpy(source.counts.T.astype(np.float64)).to(values)
    return values, {} if counts is None else {"counts": counts}


def _rdms_of(by_voxel: Tensor, measure: Dissimilarity, options: Mapping[str, Tensor]) -> Compare:
    """Function from the voxels around some centers to their RDMs, (centers, pairs)."""
    by_run = by_voxel.shape[1] > 1

    def rdms(voxels: Tensor) -> Tensor:
        patterns = _gathered(by_voxel, voxels).permute(0, 2, 3, 1)
        return measure(patterns if by_run else patterns[:, 0], **options)

    return rdms


def _why_undefined(rdms: Tensor) -> str:
    defined = rdms[rdms.isfinite()]
    if not len(defined):
        return "no distance is defined: patterns hold NaN, are constant, or were measured in one run only"
    if float(defined.max() - defined.min()) <= 1e-6 * float(defined.abs().max()):
        return "the RDMs are constant"
    return "the models are constant, or have too few of the pairs"


def _by_products(
    by_voxel: Tensor, measure: Dissimilarity, comparison: Comparison, models: Tensor, general: Compare
) -> Compare:
    """Compare where distances and the comparison both are inner products: nothing is condensed.

    The general way is taken by other measures, by models or covariates with missing pairs, and by centers
    with an undefined distance, a constant RDM, patterns that are nearly equal, or an RDM that covariates
    explain.
    """
    kernel, distances_of = comparison.kernel, measure.kernel
    basis = kernel.basis() if isinstance(kernel, PartialKernel) else models[:0]
    plain = isinstance(kernel, InnerProducts) and not kernel.whitened
    if basis is None or not (plain or isinstance(kernel, PartialKernel)) or measure.needs_runs:
        return general
    if distances_of is None or distances_of.root or distances_of.sides is not None:
        return general
    n, normalize = by_voxel.shape[-1], distances_of.normalize
    centered = not isinstance(kernel, InnerProducts) or kernel.centered
    weights = models - models.mean(-1, keepdim=True) if centered else models
    weights = weights - weights @ basis.mT @ basis  # what covariates leave
    lengths = torch.linalg.vector_norm(weights, dim=-1)
    if not bool((lengths > _FLAT * torch.linalg.vector_norm(models, dim=-1)).all()):  # constant, or missing
        return general
    weights = square(weights / lengths[:, None]).flatten(1).to(by_voxel.dtype)
    controls = square(basis).flatten(1).to(by_voxel.dtype)

    def compare(voxels: Tensor) -> Tensor:
        patterns = _gathered(by_voxel, voxels)[:, :, 0]
        distances, mean, sound = distance_matrices(patterns, normalize)
        if centered:
            distances.sub_(mean[:, None, None]).diagonal(dim1=-2, dim2=-1).zero_()
        vectors = distances.flatten(1)
        length = torch.linalg.vector_norm(vectors, dim=-1) / math.sqrt(2)
        share = 1 - (controls @ vectors.mT / 2 / length).square().sum(0)  # of the squared length
        scores: Tensor = (weights @ vectors.mT / 2 / (length * share.clamp(min=0).sqrt())).double()
        unsure = ~(sound & (length > _FLAT * n * mean) & (share > _EXPLAINED))
        if bool(unsure.any()):
            scores[:, unsure] = general(voxels[unsure])
        return scores

    return compare
