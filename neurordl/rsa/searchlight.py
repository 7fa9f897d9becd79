"""Searchlight RSA: the RDM of the voxels around each voxel, compared with models and not kept."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import Match, match_ids
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.measures.condensed import square
from neurordl.measures.dissimilarities import Dissimilarity, DissimilarityLike, find_dissimilarity
from neurordl.measures.kernels.distances import distance_matrices
from neurordl.measures.kernels.similarities import InnerProducts
from neurordl.measures.kernels.similarities import Partial as PartialKernel
from neurordl.progress import progress_bar
from neurordl.rdms.selection import stimulus_ids
from neurordl.rdms.source import Center, Source, check_rates, check_runs
from neurordl.rsa.compare import model_vectors, similarity
from neurordl.rsa.regression import Partial
from neurordl.validate import check_number, check_type, folded_html, listed

if TYPE_CHECKING:
    import nibabel as nib

Places = npt.NDArray[np.int32]
Compare = Callable[[Tensor], Tensor]  # from the voxels around each center

_BYTES = 4 << 20  # patterns and RDMs of the centers that are computed at once: they stay in the cache
_LARGEST = 1 << 29  # voxels of a volume
_WIDEST = 999  # voxels of a radius
_DESCRIP = 80  # bytes of the header's field
_FLAT = 1e-6  # of the length of an RDM: what is less may be rounding
_EXPLAINED = 1e-3  # of its squared length, which covariates leave: a difference of nearly equal numbers


class Grid(NamedTuple):
    """Where voxels lie: how many there are along x, y, z, and the affine (4, 4) from their indices to mm."""

    shape: tuple[int, ...]
    affine: Floats


@dataclass(frozen=True, eq=False)
class Searchlight:
    """How similar models are to the RDM around each voxel.

    Attributes
    ----------
    models
        Names.
    scores
        (models, centers) similarities; NaN where undefined.
    centers
        (centers, 3) voxel indices x, y, z.
    n_voxels
        (centers,) how many voxels each RDM was computed from.
    match
        Which stimuli of patterns and models were matched.
    settings
        Radius, threshold, dissimilarity, comparison, and how the patterns were centered.
    grid
        Shape and affine of the images, if they are known, as for the patterns of `read_patterns`.
    """

    models: tuple[str, ...]
    scores: Floats
    centers: Places
    n_voxels: Places
    match: Match
    settings: Mapping[str, object]
    grid: Grid | None = None

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
            The image is on another grid, a center lies outside it, or the grid is not known.
        """
        import nibabel as nib

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
        radius, measure, comparison = (
            self.settings[name] for name in ("radius", "dissimilarity", "comparison")
        )
        if isinstance(controlled := self.settings.get("controlled"), list):
            comparison = f"{comparison}, controlled for {listed(controlled)}"
        cells = [
            ("searchlight", f"radius {_text(radius)}, {measure}, models compared by {comparison}"),
            ("centers", f"{len(self.centers)}, of {few if few == most else f'{few} to {most}'} voxels each"),
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
    threshold: float = 1.0,
    dissimilarity: DissimilarityLike = "correlation",
    comparison: ComparisonLike | Partial = "corr",
    descriptor: str = "stimulus",
    center: Center | None = None,
    dtype: npt.DTypeLike = np.float64,
    progress: bool | None = None,
) -> Searchlight:
    """Compare models with the RDM of the voxels in a sphere around each voxel.

    RDMs are computed for many centers at once, compared, and not kept, so that little memory is needed.
    Source: Kriegeskorte, Goebel & Bandettini 2006, PNAS 103:3863. Each call is for one subject; inference on
    the population needs a test over the maps of several subjects.

    Parameters
    ----------
    patterns
        Patterns with the channel descriptors ``x``, ``y``, ``z``, voxel indices, as from `read_patterns` with
        a mask. Rows of the same stimulus are averaged.
    models
        Model RDMs, as in `evaluate`: they must have every stimulus of the patterns.
    radius
        Radius in voxels, or in millimeters as text, "8 mm", if the grid of the images is known. A sphere has
        all voxels whose distance from its center is less than the radius (rsatoolbox's ``radius``, in
        voxels).
    threshold
        Smallest share of a sphere's voxels that must have data. With 1.0, centers at the edge of the mask or
        of the volume are left out; with less, their RDMs are computed from the voxels that have data.
        (rsatoolbox does not count voxels outside the volume.)
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
        All scores are NaN; the radius is in voxels that are not cubes; or there are the problems with stimuli
        and runs of which `compute_rdms` warns.

    Raises
    ------
    NeurordlError
        There are no voxel indices, or two voxels have the same; no sphere has enough voxels; the models lack
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
    grid = _grid_of(patterns)
    check_number("threshold", threshold, 0, 1, open_low=True)
    by_run = measure.needs_runs or center == "run"
    source = Source(patterns, "the dataset", descriptor, by_run=by_run, dtype=dtype).centered(center)
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
    spheres = _Spheres(patterns, _extent(radius, grid), threshold)
    normalize = measure.kernel.normalize if measure.kernel is not None else None
    if len(spheres.offsets) == 1 and normalize == "centered length":
        raise NeurordlError(
            f"radius={_text(radius)} is a single voxel, where {measure} distances are undefined; take more"
        )
    values = source.by_run() if measure.needs_runs else source.patterns()[None]
    check_rates(values, measure, source.label)
    by_voxel = values.permute(2, 0, 1).contiguous()  # (voxels, runs, stimuli): gathered rows are contiguous
    rdms_of = _rdms_of(by_voxel, measure, source)

    def general(voxels: Tensor) -> Tensor:
        return similarity(stack, rdms_of(voxels), comparison)

    compare = _by_products(by_voxel, measure, comparison, stack, general)
    scores = np.empty((len(stack), len(spheres.centers)))
    with progress_bar("searchlight", len(spheres.centers), progress) as advance, torch.no_grad():
        room = _BYTES // source.dtype.itemsize
        for part, voxels in spheres.batches(room, by_voxel[0].numel(), 2 * len(stack[0])):
            scores[:, part] = compare(torch.from_numpy(voxels)).numpy()
            advance(len(part))
    if np.isnan(scores).all():
        _, voxels = next(spheres.batches(1, 1, 1))
        reason = _why_undefined(rdms_of(torch.from_numpy(voxels)))
        notify(f"all scores are NaN: {reason}")
    names = {"dissimilarity": measure.name, "comparison": comparison.name}
    settings: dict[str, object] = {"radius": radius, "threshold": threshold, **names, "center": center}
    settings |= {} if partial is None else {"controlled": partial.names}
    return Searchlight(tuple(named), scores, spheres.places, spheres.n_voxels, match, settings, grid)


def _grid_of(patterns: DatasetBase) -> Grid | None:
    """The grid of the images, from the provenance of the patterns; None if it is not recorded."""
    try:
        record = json.loads(patterns.descriptors["provenance"])["grid"]
        affine = np.array(record["affine"], dtype=np.float64)
        shape = tuple(int(size) for size in record["shape"])
    except (KeyError, TypeError, ValueError):
        return None
    return Grid(shape, affine) if len(shape) == 3 and affine.shape == (4, 4) else None


def _text(radius: object) -> str:
    return f"{radius:g}" if isinstance(radius, Real) else str(radius)


def _extent(radius: float | str, grid: Grid | None) -> tuple[float, Floats]:
    """A radius, and the axes of the voxels in its unit, (3, 3); a notice where voxels are no cubes."""
    if not isinstance(radius, str):
        voxels = check_number("radius", radius, 0, _WIDEST, open_low=True, remedy="or millimeters: '8 mm'")
        sizes = np.ones(3) if grid is None else np.linalg.norm(grid.affine[:3, :3], axis=0)
        if sizes.max() > 1.1 * sizes.min():
            size, reach = (" x ".join(f"{x:.3g}" for x in sides) for sides in (sizes, voxels * sizes))
            notice = f"radius={voxels:g} voxels of {size} mm is a radius of {reach} mm along x, y and z"
            sphere = f"{voxels * np.cbrt(sizes.prod()):.3g} mm"
            notify(f"{notice}; for spheres take radius={sphere!r}")
        return voxels, np.eye(3)
    number = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*mm\s*", radius)
    if number is None or float(number[1]) == 0:
        raise NeurordlError(f"radius={radius!r}: expected a number of voxels, or millimeters such as '8 mm'")
    if grid is None:
        raise NeurordlError(f"radius={radius!r}: the voxel size of these patterns is not known; give voxels")
    # rounding of an affine adds no voxel
    return float(number[1]) * (1 - 1e-6), grid.affine[:3, :3]


def _gathered(by_voxel: Tensor, voxels: Tensor) -> Tensor:
    """Patterns around some centers: (centers, voxels, runs, stimuli)."""
    return by_voxel.index_select(0, voxels.flatten()).reshape(*voxels.shape, *by_voxel.shape[1:])


def _rdms_of(by_voxel: Tensor, measure: Dissimilarity, source: Source) -> Compare:
    """Function from the voxels around some centers to their RDMs, (centers, pairs)."""
    by_run, options = by_voxel.shape[1] > 1, dict[str, Tensor]()
    if by_run and not source.balanced:
        options["counts"] = torch.from_numpy(source.counts.T.astype(np.float64)).to(by_voxel)

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


class _Spheres:
    """Voxels around each voxel that has enough of them; spheres of equal size are batched together."""

    def __init__(self, patterns: DatasetBase, extent: tuple[float, Floats], threshold: float) -> None:
        voxels = _voxel_indices(patterns)
        sides = voxels.max(axis=0) - voxels.min(axis=0) + 1
        if float(np.prod(sides, dtype=np.float64)) > _LARGEST:
            raise NeurordlError(
                f"x, y, z span {' x '.join(map(str, sides))} voxels: give indices, not positions in space"
            )
        radius, axes = extent
        with explain("the affine of the images cannot be inverted", np.linalg.LinAlgError):
            widest = radius * np.linalg.norm(np.linalg.inv(axes), axis=1)  # in voxels along x, y, z
        if widest.max() > _WIDEST:
            raise NeurordlError(f"the radius is {widest.max():.4g} voxels; take at most {_WIDEST}")
        reach = np.ceil(widest).astype(int) - 1  # distances are less than the radius
        grid = np.indices(2 * reach + 1).reshape(3, -1).T - reach
        self.offsets = grid[np.square(grid @ axes.T).sum(axis=1) < radius**2]
        # the number of each voxel in a volume with a margin, so that no neighbor is outside of it
        self.voxels = voxels - voxels.min(axis=0) + reach
        self.volume = np.full(sides + 2 * reach, -1, dtype=np.int32)
        self.volume[tuple(self.voxels.T)] = np.arange(len(voxels))
        if int((self.volume >= 0).sum()) < len(voxels):
            raise NeurordlError("two voxels of the patterns have the same indices x, y, z; give each once")
        counts = np.concatenate([(part >= 0).sum(axis=1) for part in self._around(np.arange(len(voxels)))])
        self.centers = np.flatnonzero(counts >= threshold * len(self.offsets) - 1e-9)
        if not len(self.centers):
            best = float(counts.max() / len(self.offsets))
            scale = 10.0 ** (2 - math.floor(math.log10(best)))
            enough = math.floor(best * scale) / scale  # three digits, not more than the share
            raise NeurordlError(
                f"no voxel has {threshold:.1%} of the {len(self.offsets)} voxels of a sphere; the "
                f"most is {counts.max()}, {best:.1%} (a slice or a thin mask has fewer): take "
                f"threshold={enough:g} or less, or a smaller radius"
            )
        self.n_voxels = counts[self.centers].astype(np.int32)
        self.places = voxels[self.centers].astype(np.int32)

    def _around(self, voxels: npt.NDArray[np.intp]) -> Iterator[Places]:
        """Numbers of the voxels around some, -1 where there is none: (voxels, offsets), in parts."""
        for start in range(0, len(voxels), 4096):
            around = self.voxels[voxels[start : start + 4096], None] + self.offsets
            yield self.volume[tuple(np.moveaxis(around, -1, 0))]

    def batches(
        self, room: int, per_voxel: int, per_center: int
    ) -> Iterator[tuple[npt.NDArray[np.intp], Places]]:
        """Numbers of some centers, and the voxels around each, (centers, voxels).

        A batch has as many centers as there is room for, where each voxel and each center takes so many
        numbers.
        """
        for size in np.unique(self.n_voxels):
            alike = np.flatnonzero(self.n_voxels == size)
            step = max(1, room // (int(size) * per_voxel + per_center))
            for start in range(0, len(alike), step):
                part = alike[start : start + step]
                around = np.concatenate(list(self._around(self.centers[part])))
                yield part, around[around >= 0].reshape(len(part), size)


def _voxel_indices(patterns: DatasetBase) -> npt.NDArray[np.intp]:
    """Voxel indices x, y, z of the channels, (voxels, 3)."""
    channels: Mapping[str, Any] = patterns.channel_descriptors
    if absent := [axis for axis in "xyz" if axis not in channels]:
        raise NeurordlError(f"no channel descriptor {absent[0]!r}: a searchlight needs voxel indices x, y, z")
    voxels = np.stack([np.asarray(channels[axis]) for axis in "xyz"], axis=1)
    if voxels.dtype.kind not in "iu" or not len(voxels) or int(voxels.min()) < 0:
        raise NeurordlError("the voxel indices x, y, z must be whole numbers from 0")
    return voxels.astype(np.intp)
