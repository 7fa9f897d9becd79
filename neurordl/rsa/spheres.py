"""The voxels in a sphere around each voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rsatoolbox.data.base import DatasetBase

from neurordl.errors import NeurordlError

__all__ = ["Spheres"]

Places = npt.NDArray[np.int32]
_LARGEST = 1 << 29  # voxels of a volume


class Spheres:
    """Voxels around each voxel that has enough of them, those with as many together."""

    def __init__(self, patterns: DatasetBase, radius: float, threshold: float) -> None:
        channels = patterns.channel_descriptors
        if absent := [axis for axis in "xyz" if axis not in channels]:
            raise NeurordlError(
                f"the patterns have no channel descriptor {absent[0]!r}; a searchlight needs the voxel "
                "indices x, y and z, which read_patterns gives"
            )
        at = np.stack([np.asarray(channels[axis]) for axis in "xyz"], axis=1)
        if at.dtype.kind not in "iu" or not len(at) or int(at.min()) < 0:
            raise NeurordlError("the voxel indices x, y, z must be whole numbers from 0")
        at = at.astype(np.intp)
        extent = at.max(axis=0) - at.min(axis=0) + 1
        if float(np.prod(extent, dtype=np.float64)) > _LARGEST:
            raise NeurordlError(
                f"the voxel indices x, y, z span {' x '.join(map(str, extent))} voxels: give indices, "
                "not positions in space"
            )
        reach = int(np.ceil(radius)) - 1  # distances are less than the radius
        grid = np.indices((2 * reach + 1,) * 3).reshape(3, -1).T - reach
        self.offsets = grid[np.square(grid).sum(axis=1) < radius**2]
        # the number of each voxel in a volume with a margin, so that no neighbour falls out of it
        self.at = at - at.min(axis=0) + reach
        self.volume = np.full(extent + 2 * reach, -1, dtype=np.int32)
        self.volume[tuple(self.at.T)] = np.arange(len(at))
        if int((self.volume >= 0).sum()) < len(at):
            raise NeurordlError("two voxels of the patterns have the same indices x, y, z; give each once")
        counts = np.concatenate([(part >= 0).sum(axis=1) for part in self._around(np.arange(len(at)))])
        self.centres = np.flatnonzero(counts >= threshold * len(self.offsets) - 1e-9)
        if not len(self.centres):
            best = float(counts.max() / len(self.offsets))
            scale = 10.0 ** (2 - math.floor(math.log10(best)))
            enough = math.floor(best * scale) / scale  # three digits, not more than the share
            raise NeurordlError(
                f"no voxel has {threshold:.1%} of the {len(self.offsets)} voxels nearer than {radius:g}; the "
                f"most is {counts.max()}, {best:.1%} (a slice or a thin mask has fewer): take "
                f"threshold={enough:g} or less, or a smaller radius"
            )
        self.n_voxels = counts[self.centres].astype(np.int32)
        self.places = at[self.centres].astype(np.int32)

    def _around(self, voxels: npt.NDArray[np.intp]) -> Iterator[Places]:
        """Numbers of the voxels around some, -1 where there is none: (voxels, offsets), in parts."""
        for start in range(0, len(voxels), 4096):
            around = self.at[voxels[start : start + 4096], None] + self.offsets
            yield self.volume[tuple(np.moveaxis(around, -1, 0))]

    def batches(
        self, room: int, of_voxel: int, of_centre: int
    ) -> Iterator[tuple[npt.NDArray[np.intp], Places]]:
        """Which of the centres, and the voxels around each, (centres, voxels).

        As many as there is room for, where each voxel and each centre takes so many numbers.
        """
        for number in np.unique(self.n_voxels):
            alike = np.flatnonzero(self.n_voxels == number)
            step = max(1, room // (int(number) * of_voxel + of_centre))
            for start in range(0, len(alike), step):
                part = alike[start : start + step]
                around = np.concatenate(list(self._around(self.centres[part])))
                yield part, around[around >= 0].reshape(len(part), number)
