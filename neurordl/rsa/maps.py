"""What a searchlight found: printed, and as NIfTI maps on the grid that the patterns were read from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rsatoolbox.data.base import DatasetBase

from neurordl.errors import NeurordlError
from neurordl.ids import Match

if TYPE_CHECKING:
    import nibabel as nib

__all__ = ["Grid", "Searchlight", "grid_of"]

Floats = npt.NDArray[np.float64]
_DESCRIP = 80  # bytes of the header's field


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
        (models, centres) similarities; NaN where undefined.
    centres
        (centres, 3) voxel indices x, y, z.
    n_voxels
        (centres,) how many voxels each RDM was computed from.
    match
        Which stimuli of patterns and models were matched.
    settings
        Radius, threshold, dissimilarity, comparison, and what was removed first.
    grid
        Shape and affine of the images, where patterns tell, as those of `read_patterns` do.
    """

    models: tuple[str, ...]
    scores: Floats
    centres: npt.NDArray[np.int32]
    n_voxels: npt.NDArray[np.int32]
    match: Match
    settings: Mapping[str, Any]
    grid: Grid | None = None

    def image(self, like: str | os.PathLike[str] | nib.Nifti1Image | None = None) -> nib.Nifti1Image:
        """Maps as a NIfTI image (x, y, z, models); NaN where there is no centre.

        Parameters
        ----------
        like
            An image on the grid of the patterns, such as their mask, whose units and codes of qform and sform
            are taken. May be left out where ``grid`` is known.

        Raises
        ------
        NeurordlError
            The image is on another grid, a centre lies outside it, or the grid is not known.
        """
        return _image(self.scores, self.centres, self.models, self.grid, like)

    def __str__(self) -> str:
        """Models, centres and range of the scores, and what was matched."""
        few, most = self.n_voxels.min(), self.n_voxels.max()
        lines = [
            f"searchlight  radius {self.settings['radius']:g}, {self.settings['dissimilarity']}, models "
            f"compared by {self.settings['comparison']}",
            f"centres      {len(self.centres)}, of {few if few == most else f'{few} to {most}'} voxels each",
            f"matched      {len(self.match.matched)} stimuli; {len(self.match.unused)} only in the models",
        ]
        for name, scores in zip(self.models, self.scores, strict=True):
            there = scores[np.isfinite(scores)]
            told = f"{there.min():.3f} to {there.max():.3f}, mean {there.mean():.3f}" if len(there) else "NaN"
            lost = f", {len(scores) - len(there)} NaN" if 0 < len(there) < len(scores) else ""
            lines.append(f"{name:<11}  {told}{lost}")
        return "\n".join(lines)

    __repr__ = __str__


def grid_of(patterns: DatasetBase) -> Grid | None:
    """The grid of the images, where the provenance of the patterns tells it."""
    try:
        told = json.loads(patterns.descriptors["provenance"])["grid"]
        affine = np.array(told["affine"], dtype=np.float64)
        shape = tuple(int(size) for size in told["shape"])
    except (KeyError, TypeError, ValueError):
        return None
    return Grid(shape, affine) if len(shape) == 3 and affine.shape == (4, 4) else None


def _image(
    values: Floats,
    at: npt.NDArray[np.int32],
    names: Sequence[str],
    grid: Grid | None,
    like: str | os.PathLike[str] | nib.Nifti1Image | None,
) -> nib.Nifti1Image:
    """Maps (x, y, z, names) of values (names, voxels) at voxel indices (voxels, 3); NaN elsewhere."""
    import nibabel as nib

    from neurordl.patterns.images import load_image, same_grid

    known = None
    if grid is not None:
        known = nib.Nifti1Image(np.broadcast_to(np.float32(0), grid.shape), grid.affine)
        known.header.set_xyzt_units("mm")
    if like is None:
        if known is None:
            raise NeurordlError(
                "these patterns do not tell their grid, as those of read_patterns do; pass like=, an image "
                "on it"
            )
        source, name = known, "the grid of the patterns"
    else:
        source, name = load_image(like, "image")
    shape = tuple(source.shape[:3])
    if known is not None and not same_grid(source, known):
        raise NeurordlError(
            f"{name} has the shape {shape} and the affine {_row(source.affine)}, and the images of the "
            f"patterns {known.shape} and {_row(known.affine)}; give one of those images, or leave out like="
        )
    if len(shape) < 3 or bool((at >= np.array(shape)).any()):
        raise NeurordlError(
            f"{name} has the shape {source.shape}, and there are centres up to the voxel "
            f"{at.max(axis=0).tolist()}; give an image on the grid of the patterns, such as their mask"
        )
    maps = np.full((*shape, len(names)), np.nan, dtype=np.float32)
    maps[tuple(at.T)] = values.T
    image = nib.Nifti1Image(maps, source.affine)
    _as_header(image, source)
    if (told := ", ".join(names)).isascii() and len(told) <= _DESCRIP:
        image.header["descrip"] = told
    return image


def _as_header(image: nib.Nifti1Image, source: nib.Nifti1Image) -> None:
    """Units of space and codes of qform and sform as in another image of the same grid."""
    image.header["xyzt_units"] = source.header["xyzt_units"] & 7
    qform, sform = source.get_qform(coded=True), source.get_sform(coded=True)
    if qform[1] or sform[1]:  # with neither, the affine is that of shape and voxel size
        image.set_sform(*sform)
        image.set_qform(*qform)


def _row(affine: Floats) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])
