"""Neighborhoods of a searchlight: spheres of voxels, and patches of vertices on a mesh."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from rsatoolbox.data.base import DatasetBase
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError, explain, notify
from neurordl.patterns.meshes import Mesh, edges_of
from neurordl.patterns.surfaces import HEMISPHERES
from neurordl.rdms.source import parsed_record
from neurordl.validate import check_number

Places = npt.NDArray[np.int32]
Indices = npt.NDArray[np.intp]

_LARGEST = 1 << 29  # voxels of a volume
_WIDEST = 999  # voxels of a radius
_MILLIMETERS = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*mm\s*")
_VERTICES = re.compile(r"\s*([0-9]+)\s*vertices\s*")
_ROUNDING = 1e-6  # of a radius: rounding of an affine or of lengths adds no channel
_AT_ONCE = 128  # centers whose distances are found together
_KEPT = 1 << 25  # numbers of neighbors that are kept; beyond, they are found twice


class Neighborhoods(Protocol):
    """What a searchlight visits: the channels around each center that has enough of them.

    Attributes
    ----------
    n_channels
        (centers,) how many channels are around each.
    places
        (centers, axes) where the centers lie.
    n_left_out
        How many channels are no centers, since too few of the channels around them have data.
    single
        Whether no center has another channel than itself.
    """

    n_channels: Places
    places: Places
    n_left_out: int
    single: bool

    def batches(self, room: int, per_channel: int, per_center: int) -> Iterator[tuple[Indices, Places]]:
        """Numbers of some centers, and the channels around each, (centers, channels).

        A batch has as many centers as there is room for, where each channel and each center takes so many
        numbers.
        """


class Grid(NamedTuple):
    """Where voxels lie: how many there are along x, y, z, and the affine (4, 4) from their indices to mm."""

    shape: tuple[int, ...]
    affine: Floats


def grid_of(patterns: DatasetBase) -> Grid | None:
    """The grid of the images, from the provenance of the patterns; None if it is not recorded."""
    try:
        record = json.loads(patterns.descriptors["provenance"])["grid"]
        affine = np.array(record["affine"], dtype=np.float64)
        shape = tuple(int(size) for size in record["shape"])
    except (KeyError, TypeError, ValueError):
        return None
    return Grid(shape, affine) if len(shape) == 3 and affine.shape == (4, 4) else None


def radius_text(radius: object) -> str:
    """Write a radius."""
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
    number = _MILLIMETERS.fullmatch(radius)
    if number is None or float(number[1]) == 0:
        raise NeurordlError(f"radius={radius!r}: expected a number of voxels, or millimeters such as '8 mm'")
    if grid is None:
        raise NeurordlError(f"radius={radius!r}: the voxel size of these patterns is not known; give voxels")
    return float(number[1]) * (1 - _ROUNDING), grid.affine[:3, :3]


class Spheres:
    """Voxels around each voxel that has enough of them; spheres of equal size are batched together."""

    def __init__(self, patterns: DatasetBase, radius: float | str, threshold: float) -> None:
        voxels = _voxel_indices(patterns)
        sides = voxels.max(axis=0) - voxels.min(axis=0) + 1
        if float(np.prod(sides, dtype=np.float64)) > _LARGEST:
            raise NeurordlError(
                f"x, y, z span {' x '.join(map(str, sides))} voxels: give indices, not positions in space"
            )
        radius, axes = _extent(radius, grid_of(patterns))
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
        self.n_left_out = len(voxels) - len(self.centers)
        self.n_channels = counts[self.centers].astype(np.int32)
        self.places = voxels[self.centers].astype(np.int32)
        self.single = len(self.offsets) == 1

    def _around(self, voxels: Indices) -> Iterator[Places]:
        """Numbers of the voxels around some, -1 where there is none: (voxels, offsets), in parts."""
        for start in range(0, len(voxels), 4096):
            around = self.voxels[voxels[start : start + 4096], None] + self.offsets
            yield self.volume[tuple(np.moveaxis(around, -1, 0))]

    def batches(self, room: int, per_channel: int, per_center: int) -> Iterator[tuple[Indices, Places]]:
        """Numbers of some centers, and the voxels around each; see `Neighborhoods`."""
        for size in np.unique(self.n_channels):
            alike = np.flatnonzero(self.n_channels == size)
            step = max(1, room // (int(size) * per_channel + per_center))
            for start in range(0, len(alike), step):
                part = alike[start : start + step]
                around = np.concatenate(list(self._around(self.centers[part])))
                yield part, around[around >= 0].reshape(len(part), size)


def _voxel_indices(patterns: DatasetBase) -> Indices:
    """Voxel indices x, y, z of the channels, (voxels, 3)."""
    channels: Mapping[str, Any] = patterns.channel_descriptors
    if absent := [axis for axis in "xyz" if axis not in channels]:
        raise NeurordlError(f"no channel descriptor {absent[0]!r}: a searchlight needs voxel indices x, y, z")
    voxels = np.stack([np.asarray(channels[axis]) for axis in "xyz"], axis=1)
    if voxels.dtype.kind not in "iu" or not len(voxels) or int(voxels.min()) < 0:
        raise NeurordlError("the voxel indices x, y, z must be whole numbers from 0")
    return voxels.astype(np.intp)


class Patches:
    """Vertices around each vertex with data, along the edges of its mesh; hemispheres are apart.

    Distances are the shortest paths along edges, also over vertices without data, which are no neighbors
    themselves. A patch has the vertices that are nearer than a radius, or a number of the nearest ones.
    """

    def __init__(
        self, patterns: DatasetBase, meshes: Mapping[str, Mesh], radius: float | str, threshold: float
    ) -> None:
        sides, vertices = _vertex_indices(patterns, meshes)
        self.reach = _reach(radius)
        self.sides = [
            _Hemisphere(meshes[side], np.where(sides == side, vertices, -1))
            for side in HEMISPHERES
            if ((sides == side) & (vertices >= 0)).any()
        ]
        counts = np.zeros((2, len(vertices)), dtype=np.int64)  # with data, and of all vertices in reach
        self.blocks: list[_Block] | None = []
        n_kept = 0
        for block in self._find():
            counts[:, block.centers] = block.sizes, block.whole
            n_kept += len(block.channels)
            if n_kept > _KEPT:
                self.blocks = None
            elif self.blocks is not None:
                self.blocks.append(block)
        enough = (counts[1] > 0) & (counts[0] >= threshold * counts[1] - 1e-9)
        if not enough.any():
            best = float((counts[0] / np.maximum(counts[1], 1)).max())
            less = math.floor(best * 1000) / 1000
            raise NeurordlError(
                f"no patch of radius={radius!r} has data in {threshold:.1%} of its vertices; the most is "
                f"{best:.1%}: take threshold={less:g} or less, or a smaller radius"
            )
        self.n_left_out = int(((counts[1] > 0) & ~enough).sum())
        self.number = np.cumsum(enough) - 1  # of each center among those that have enough
        self.number[~enough] = -1
        self.n_channels = counts[0][enough].astype(np.int32)
        of_side = (sides == HEMISPHERES[1]).astype(np.int32)
        self.places = np.stack([of_side, vertices.astype(np.int32)], axis=1)[enough]
        self.single = int(self.n_channels.max()) == 1
        if n_lost := int((vertices < 0).sum()):
            notify(f"{n_lost} of {len(vertices)} channels are voxels, which are not on the surface: left out")

    def _find(self) -> Iterator[_Block]:
        for hemisphere in self.sides:
            yield from hemisphere.blocks(self.reach)

    def batches(self, room: int, per_channel: int, per_center: int) -> Iterator[tuple[Indices, Places]]:
        """Numbers of some centers, and the vertices around each; see `Neighborhoods`."""
        for blocks in self._gathered():
            centers = np.concatenate([block.centers for block in blocks])
            sizes = np.concatenate([block.sizes for block in blocks])
            channels = np.concatenate([block.channels for block in blocks])
            starts = np.cumsum(sizes) - sizes
            chosen = self.number[centers] >= 0
            for size in np.unique(sizes[chosen]):
                alike = np.flatnonzero(chosen & (sizes == size))
                step = max(1, room // (int(size) * per_channel + per_center))
                for start in range(0, len(alike), step):
                    part = alike[start : start + step]
                    yield self.number[centers[part]], channels[starts[part][:, None] + np.arange(size)]

    def _gathered(self) -> Iterator[list[_Block]]:
        """Blocks together, as many as have a share of the neighbors that are kept in memory."""
        gathered, n_gathered = list[_Block](), 0
        for block in self._find() if self.blocks is None else self.blocks:
            gathered.append(block)
            n_gathered += len(block.channels)
            if n_gathered > _KEPT // 4:
                yield gathered
                gathered, n_gathered = [], 0
        if gathered:
            yield gathered


class _Reach(NamedTuple):
    """How far a patch reaches: a distance in mm, or a number of vertices."""

    distance: float
    n_vertices: int | None


class _Block(NamedTuple):
    """Some centers near each other, and the channels around each, one after the other."""

    centers: Indices
    sizes: Ints
    whole: Ints
    channels: Places


class _Hemisphere:
    """The graph of a mesh, and the channel of each of its vertices."""

    def __init__(self, mesh: Mesh, vertices: Indices) -> None:
        points = self.points = mesh.coordinates
        self.channel = np.full(len(points), -1, dtype=np.int32)
        used = np.flatnonzero(vertices >= 0)
        self.channel[vertices[used]] = used
        first, second = edges_of(mesh)
        lengths = np.linalg.norm(points[first] - points[second], axis=1)
        ends = np.concatenate([first, second]), np.concatenate([second, first])
        self.graph = csr_array((np.tile(lengths, 2), ends), shape=(len(points), len(points)))
        self.tree = KDTree(points)
        # the radius of a disc with one vertex with data on a regular mesh, a first guess
        self.spacing = float(lengths.mean()) if len(lengths) else 1.0
        self.spacing *= math.sqrt(math.sqrt(3) / 2 / math.pi * len(points) / len(used))

    def blocks(self, reach: _Reach) -> Iterator[_Block]:
        """The vertices around each vertex with data, for centers that are near each other."""
        order = self.tree.indices  # neighbors of space are neighbors in it
        order = order[self.channel[order] >= 0]
        for start in range(0, len(order), _AT_ONCE):
            centers = order[start : start + _AT_ONCE]
            if reach.n_vertices is None:
                yield self._within(centers, reach.distance)
            else:
                yield from self._nearest(centers, reach.n_vertices)

    def _distances(self, centers: Indices, limit: float) -> tuple[Indices, Floats]:
        """Vertices that can be reached, and the distances to them, (centers, vertices), infinite beyond.

        A path is at least as long as the straight line, so that a ball holds all paths below the limit.
        """
        middle = self.points[centers].mean(axis=0)
        ball = limit + float(np.linalg.norm(self.points[centers] - middle, axis=1).max())
        around, graph = np.arange(len(self.points)), self.graph
        if math.isfinite(limit):
            around = np.sort(self.tree.query_ball_point(middle, ball * (1 + _ROUNDING)))
            graph = graph[around][:, around]
        at = np.searchsorted(around, centers)
        return around, np.asarray(dijkstra(graph, indices=at, limit=limit), dtype=np.float64)

    def _within(self, centers: Indices, distance: float) -> _Block:
        around, distances = self._distances(centers, distance)
        near = np.isfinite(distances)
        channels = self.channel[around]
        chosen = near & (channels >= 0)
        columns = np.nonzero(chosen)[1]
        sizes, whole = chosen.sum(axis=1), near.sum(axis=1)
        return _Block(self.channel[centers].astype(np.intp), sizes, whole, channels[columns])

    def _nearest(self, centers: Indices, n_vertices: int) -> Iterator[_Block]:
        """The nearest vertices with data, of equally near ones the first."""
        limit = 1.5 * self.spacing * math.sqrt(n_vertices)
        widest = 4 * float(np.ptp(self.points, axis=0).max())
        while len(centers):
            around, distances = self._distances(centers, limit)
            used = self.channel[around] >= 0
            distances, channels = distances[:, used], self.channel[around][used]
            # of those for which the limit was too small, distances are found again
            enough = np.isfinite(distances).sum(axis=1) >= (n_vertices if limit < math.inf else 0)
            near = _smallest(distances[enough], n_vertices)
            whole = np.full(len(near), n_vertices)
            numbers = self.channel[centers[enough]].astype(np.intp)
            yield _Block(numbers, near.sum(axis=1), whole, channels[np.nonzero(near)[1]])
            centers = centers[~enough]
            limit = 1.5 * limit if limit < widest else math.inf


def _smallest(distances: Floats, number: int) -> Bools:
    """Which are the smallest distances of each row, of equal ones the first; infinite ones are none."""
    if distances.shape[1] <= number:
        return np.isfinite(distances)
    last = np.partition(distances, number - 1, axis=1)[:, number - 1, None]
    nearer, equal = distances < last, distances == last
    room = number - nearer.sum(axis=1, keepdims=True)
    first = equal & (np.cumsum(equal, axis=1) <= room)
    return np.asarray((nearer | first) & np.isfinite(distances), dtype=bool)


def _reach(radius: float | str) -> _Reach:
    text = radius if isinstance(radius, str) else ""
    if (number := _MILLIMETERS.fullmatch(text)) and float(number[1]) > 0:
        return _Reach(float(number[1]) * (1 - _ROUNDING), None)
    if (number := _VERTICES.fullmatch(text)) and int(number[1]) > 0:
        return _Reach(math.inf, int(number[1]))
    raise NeurordlError(
        f"radius={radius!r}: on a surface, give millimeters along it, such as '10 mm', or a number of the "
        "nearest vertices, such as '100 vertices'"
    )


def on_surface(patterns: DatasetBase) -> bool:
    """Whether channels are vertices of a surface."""
    return bool((np.asarray(patterns.channel_descriptors.get("vertex", [-1])) != -1).any())


def _vertex_indices(patterns: DatasetBase, meshes: Mapping[str, Mesh]) -> tuple[npt.NDArray[Any], Indices]:
    """Hemisphere and vertex of each channel; the vertex is -1 of those that are voxels."""
    channels: Mapping[str, Any] = patterns.channel_descriptors
    if absent := [name for name in ("hemisphere", "vertex") if name not in channels]:
        raise NeurordlError(
            f"no channel descriptor {absent[0]!r}: a searchlight on a surface needs hemisphere and vertex, "
            "which read_patterns gives; leave out surface= for a volume"
        )
    sides, vertices = np.asarray(channels["hemisphere"]).astype(str), np.asarray(channels["vertex"])
    if vertices.dtype.kind not in "iu" or int(vertices.min(initial=0)) < -1:
        raise NeurordlError("the descriptor vertex must be whole numbers from 0")
    vertices = vertices.astype(np.intp)
    of_surface = vertices >= 0
    if not of_surface.any():
        raise NeurordlError("the patterns have no vertex, only voxels; leave out surface=")
    if strange := sorted({*sides[of_surface].tolist()} - {*HEMISPHERES}):
        raise NeurordlError(f"the descriptor hemisphere has {strange[0]!r}; expected 'left' or 'right'")
    record = parsed_record(patterns.descriptors.get("provenance"))
    record = record if isinstance(record, dict) else {}
    for side in dict.fromkeys(sides[of_surface]):
        of_side = vertices[of_surface & (sides == side)]
        if side not in meshes:
            raise NeurordlError(
                f"surface= has no mesh of the {side} hemisphere, where {len(of_side)} vertices lie; give it, "
                "or patterns of the other hemisphere"
            )
        mesh, images = meshes[side], record.get("images") or ["the patterns"]
        recorded = (record.get("surface") or {}).get(side)
        n_vertices = len(mesh.coordinates)
        if recorded not in (None, n_vertices) or int(of_side.max()) >= n_vertices:
            size = recorded or f"vertex {of_side.max()}"
            raise NeurordlError(
                f"{mesh.name} has {n_vertices} vertices, and the {side} hemisphere of {images[0]} "
                f"has {size}; give the mesh of the space of the images"
            )
        if len(np.unique(of_side)) < len(of_side):
            raise NeurordlError(f"two channels are the same vertex of the {side} hemisphere; give each once")
    return sides, vertices
