"""Where maps of a group lie: the voxels of a grid, or the vertices of meshes."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

import nibabel as nib
import numpy as np
from scipy.sparse import block_array, csr_array
from scipy.sparse.csgraph import connected_components

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, explain
from neurordl.io import damage_named
from neurordl.patterns.images import AnyImage, Mask, Regions, describe_grid, load_image, read_mask, same_grid
from neurordl.patterns.meshes import Mesh, areas_of, edges_of, mesh_bytes, read_meshes
from neurordl.patterns.surfaces import (
    HEMISPHERES,
    is_surface,
    map_suffix,
    maps_bytes,
    on_whole_meshes,
    open_surface,
    read_surface_mask,
)
from neurordl.rsa.map_tests import Design, MapTest, Tested, run_by_nilearn, run_on_mesh
from neurordl.validate import listed

if TYPE_CHECKING:
    from nilearn.surface import PolyMesh, SurfaceImage

MapImage: TypeAlias = "nib.Nifti1Image | SurfaceImage"

_SAME_PLACE = 1e-2  # mm, rounding of coordinates
_PEAKS = 4  # of a cluster, as nilearn's table has


class Peak(NamedTuple):
    """A peak of a cluster: its number, its letter, its place, and the size of the cluster."""

    cluster: int
    letter: str
    place: tuple[int, ...]
    extent: float
    n_places: int


class MapSpace(Protocol):
    """Where values of maps lie. Values of a map have the shape of the space.

    Attributes
    ----------
    noun, nouns
        What a place is called.
    shape
        Of the values.
    position_columns, extent_columns
        Columns of a table of peaks: where they are, and how large their cluster is.
    """

    noun: ClassVar[str]
    nouns: ClassVar[str]
    position_columns: ClassVar[tuple[str, ...]]
    extent_columns: ClassVar[tuple[str, str]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values of a map."""

    def check_same(self, other: Any, names: tuple[str, str]) -> str:
        """Refuse another space in which values lie in other places; the names are those of the two maps.

        Returns a note on what differs and is allowed; empty if there is nothing.
        """

    def read(self, image: Any, place: int) -> Floats:
        """Values of a map of an image."""

    def image(self, values: Floats) -> MapImage:
        """An image of a map."""

    def contents(self, image: Any, names: Sequence[str]) -> dict[str, bytes]:
        """What files with the maps of an image hold, by the ends of their names."""

    def mesh_files(self) -> dict[str, bytes]:
        """What files with meshes hold, by their names; empty if there are none."""

    def mask(self, mask: AnyImage | Regions) -> Mask:
        """A mask or an atlas, of the shape of the space."""

    def smoothed(self, values: Floats, fwhm: float) -> Floats:
        """Values of all people, (people, *shape), smoothed by a kernel of this width in mm."""

    def run(self, test: MapTest, design: Design, values: Floats, inside: Bools) -> Tested:
        """Test values (people, places inside)."""

    def peaks(self, shown: Floats, min_distance: float) -> list[Peak]:
        """The peaks of the clusters of values that are not 0, of either sign, the highest first."""

    def positions(self, places: Sequence[tuple[int, ...]]) -> list[Sequence[object]]:
        """Where places are: a value for each of ``position_columns``."""

    def where(self, place: tuple[int, ...]) -> str:
        """Where a place is, in words."""


@dataclass(frozen=True, eq=False)
class GridSpace:
    """The `MapSpace` of voxels: how many there are along x, y, z, and the affine (4, 4) to mm."""

    shape: tuple[int, ...]
    affine: Floats

    noun: ClassVar[str] = "voxel"
    nouns: ClassVar[str] = "voxels"
    position_columns: ClassVar[tuple[str, ...]] = ("x", "y", "z")
    extent_columns: ClassVar[tuple[str, str]] = ("mm3", "n_voxels")

    def check_same(self, other: MapSpace, names: tuple[str, str]) -> str:
        """Compare the places of voxels."""
        if not isinstance(other, GridSpace):
            raise _of_two_sorts(names)
        grids = [nib.Nifti1Image(np.broadcast_to(np.int8(0), x.shape), x.affine) for x in (self, other)]
        if not same_grid(*grids):
            described = [f"{name} has {describe_grid(x)}" for name, x in zip(names, grids, strict=True)]
            raise NeurordlError(
                f"the maps of {' and '.join(names)} are on different grids: {', '.join(described)}; read the "
                "patterns of all people in one space, such as MNI, or resample maps (nilearn's "
                "resample_to_img)"
            )
        return ""

    def read(self, image: nib.Nifti1Image, place: int) -> Floats:
        """Values of a map of a NIfTI image."""
        with damage_named(image.get_filename() or "a map in memory", "give a map that can be read whole"):
            data = image.dataobj[..., place] if image.ndim == 4 else np.asanyarray(image.dataobj)
            return np.array(data, dtype=np.float64)

    def image(self, values: Floats) -> nib.Nifti1Image:
        """A NIfTI image of a map."""
        return nib.Nifti1Image(values, self.affine)

    def contents(self, image: nib.Nifti1Image, names: Sequence[str]) -> dict[str, bytes]:
        """A compressed NIfTI file."""
        return {".nii.gz": gzip.compress(image.to_bytes(), mtime=0)}

    def mesh_files(self) -> dict[str, bytes]:
        """None."""
        return {}

    def mask(self, mask: AnyImage | Regions) -> Mask:
        """A mask or an atlas on the grid."""
        return read_mask(mask, nib.Nifti1Image(np.broadcast_to(np.int8(0), self.shape), self.affine))

    def smoothed(self, values: Floats, fwhm: float) -> Floats:
        """Volumes smoothed by nilearn."""
        from nilearn.image import smooth_img

        images = (nib.Nifti1Image(volume, self.affine) for volume in values)
        return np.stack([smooth_img(image, fwhm).get_fdata() for image in images])

    def run(self, test: MapTest, design: Design, values: Floats, inside: Bools) -> Tested:
        """Test voxels and clusters by nilearn."""
        from nilearn.maskers import NiftiMasker

        mask = _with_margin(nib.Nifti1Image(inside.astype(np.int8), self.affine))
        return run_by_nilearn(test, design, values, NiftiMasker(mask_img=mask, reports=False).fit())

    def peaks(self, shown: Floats, min_distance: float) -> list[Peak]:
        """The peaks of nilearn's ``get_clusters_table``; clusters are joined by faces."""
        from nilearn.reporting import get_clusters_table

        if not shown.any():
            return []
        with warnings.catch_warnings():  # a tail without clusters
            warnings.filterwarnings("ignore", "No clusters found|Attention: No clusters")
            table, labels = get_clusters_table(
                _with_margin(nib.Nifti1Image(shown, self.affine)),
                stat_threshold=float(np.abs(shown[shown != 0]).min()) / 2,  # all that is not 0
                two_sided=bool((shown < 0).any()),
                min_distance=min_distance,
                return_label_maps=True,
            )
        clusters, peaks, numbers = [np.asarray(image.dataobj) for image in labels], [], dict[str, int]()
        inverse = np.linalg.inv(self.affine)
        extracted = table["Cluster ID"].astype(str).str.extract(r"(\d+)(.*)").to_numpy()
        places = nib.affines.apply_affine(inverse, table[["X", "Y", "Z"]].to_numpy(float)).round().astype(int)
        for (name, letter), place in zip(extracted, places, strict=True):
            number = numbers.setdefault(name, len(numbers) + 1)  # nilearn leaves some out between two tails
            at = tuple(place + 1)
            size = next(int(np.sum(x == x[at])) for x in clusters if x[at] > 0)
            volume = size * abs(np.linalg.det(self.affine[:3, :3]))
            peaks.append(Peak(number, letter, tuple(map(int, place)), volume, size))
        return peaks

    def positions(self, places: Sequence[tuple[int, ...]]) -> list[Sequence[object]]:
        """Millimeters along x, y, z."""
        voxels = np.array(places, dtype=np.float64).reshape(-1, 3)
        return list(nib.affines.apply_affine(self.affine, voxels).round(3).tolist())

    def where(self, place: tuple[int, ...]) -> str:
        """Millimeters."""
        x, y, z = self.affine[:3, :3] @ place + self.affine[:3, 3]
        return f"{x:.0f}, {y:.0f}, {z:.0f} mm"


@dataclass(frozen=True, eq=False)
class MeshSpace:
    """The `MapSpace` of the vertices of meshes, those of the left hemisphere first."""

    meshes: Mapping[str, Mesh]

    noun: ClassVar[str] = "vertex"
    nouns: ClassVar[str] = "vertices"
    position_columns: ClassVar[tuple[str, ...]] = ("hemisphere", "vertex", "x", "y", "z")
    extent_columns: ClassVar[tuple[str, str]] = ("mm2", "n_vertices")

    @property
    def sizes(self) -> dict[str, int]:
        """How many vertices each hemisphere has."""
        return {side: len(mesh.coordinates) for side, mesh in self.meshes.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of vertices of both hemispheres."""
        return (sum(self.sizes.values()),)

    @cached_property
    def neighbors(self) -> csr_array:
        """Which vertices share an edge, (vertices, vertices)."""
        graphs = []
        for mesh in self.meshes.values():
            ends, n = edges_of(mesh), len(mesh.coordinates)
            pairs = np.concatenate(ends), np.concatenate(ends[::-1])
            graphs.append(csr_array((np.ones(len(pairs[0]), dtype=np.int8), pairs), shape=(n, n)))
        diagonal = [[graph if i == j else None for j in range(len(graphs))] for i, graph in enumerate(graphs)]
        return csr_array(block_array(diagonal))

    def by_side(self, values: Floats) -> dict[str, Floats]:
        """Values of each hemisphere."""
        ends = np.cumsum(list(self.sizes.values()))[:-1]
        return dict(zip(self.meshes, np.split(values, ends), strict=True))

    def check_same(self, other: MapSpace, names: tuple[str, str]) -> str:
        """Compare the triangles of the meshes; vertices of people may lie in other places."""
        if not isinstance(other, MeshSpace):
            raise _of_two_sorts(names)
        problem = "have other triangles"
        if self.sizes != other.sizes:
            problem = " and ".join(
                f"{name} has {listed(f'{side} {size:,}' for side, size in x.sizes.items())} vertices"
                for name, x in zip(names, (self, other), strict=True)
            )
        elif all(
            mesh.faces is other.meshes[side].faces or np.array_equal(mesh.faces, other.meshes[side].faces)
            for side, mesh in self.meshes.items()
        ):
            pairs = [(mesh.coordinates, other.meshes[side].coordinates) for side, mesh in self.meshes.items()]
            if all(a is b or np.allclose(a, b, atol=_SAME_PLACE) for a, b in pairs):
                return ""
            return (
                f"meshes have other coordinates than that of {names[0]}, from which distances and areas are"
            )
        raise NeurordlError(
            f"the maps of {' and '.join(names)} are on different meshes: {problem}; read the patterns of all "
            "people in one space, such as fsaverage5"
        )

    def read(self, image: SurfaceImage, place: int) -> Floats:
        """Values of a map of an image; NaN on a hemisphere that it lacks."""
        parts = []
        for side, size in self.sizes.items():
            values = np.asarray(image.data.parts[side]) if side in image.data.parts else np.full(size, np.nan)
            parts.append(values if values.ndim == 1 else values[:, place])
        return np.concatenate(parts).astype(np.float64)

    def image(self, values: Floats) -> SurfaceImage:
        """Nilearn's image of a map."""
        return surface_image(self.meshes, self.by_side(values))

    def contents(self, image: SurfaceImage, names: Sequence[str]) -> dict[str, bytes]:
        """A GIFTI file of each hemisphere, with an array for each map."""
        stack = np.stack([self.read(image, place) for place in range(len(names))], axis=1)
        return {
            map_suffix(side): maps_bytes(values, names, side) for side, values in self.by_side(stack).items()
        }

    def mesh_files(self) -> dict[str, bytes]:
        """A GIFTI file with the mesh of each hemisphere, by its name."""
        return {mesh_name(side): mesh_bytes(mesh, side) for side, mesh in self.meshes.items()}

    def mask(self, mask: AnyImage | Regions) -> Mask:
        """A mask or an atlas on the vertices."""
        return read_surface_mask(mask, self.sizes)

    def smoothed(self, values: Floats, fwhm: float) -> Floats:
        """Maps smoothed along the mesh by nilearn."""
        from nilearn.image import smooth_img

        image = surface_image(self.meshes, self.by_side(values.T))
        with explain("nilearn did not smooth maps on a surface", remedy="install a newer nilearn"):
            image = smooth_img(image, fwhm)
        return np.concatenate([np.asarray(image.data.parts[side]) for side in self.meshes]).T

    def run(self, test: MapTest, design: Design, values: Floats, inside: Bools) -> Tested:
        """Test vertices by nilearn, and clusters by MNE."""
        return run_on_mesh(test, design, values, self.neighbors[inside][:, inside])

    def peaks(self, shown: Floats, min_distance: float) -> list[Peak]:
        """Vertices that no neighbor exceeds, apart from each other; clusters are joined by edges."""
        areas = np.concatenate([areas_of(mesh) for mesh in self.meshes.values()])
        points = np.concatenate([mesh.coordinates for mesh in self.meshes.values()])
        heights, clusters, crests = np.abs(shown), [], np.zeros(self.shape, dtype=bool)
        for sign in (1, -1):
            of_sign = np.maximum(sign * shown, 0)
            vertices = np.flatnonzero(of_sign)
            highest = self.neighbors.multiply(of_sign).max(axis=1).toarray().ravel()
            crests |= (of_sign > 0) & (of_sign >= highest)
            count, labels = connected_components(self.neighbors[vertices][:, vertices], directed=False)
            clusters += [vertices[labels == label] for label in range(count)]
        peaks: list[Peak] = []
        for number, vertices in enumerate(sorted(clusters, key=lambda x: -heights[x].max()), start=1):
            chosen: list[int] = []
            tops = vertices[crests[vertices]]
            for vertex in tops[np.argsort(-heights[tops], kind="stable")].tolist():
                apart = np.linalg.norm(points[chosen] - points[vertex], axis=1)
                if len(chosen) < _PEAKS and (apart >= min_distance).all():
                    chosen.append(vertex)
            extent = float(areas[vertices].sum()), len(vertices)
            peaks += [
                Peak(number, letter, (vertex,), *extent)
                for letter, vertex in zip(("", "a", "b", "c"), chosen, strict=False)
            ]
        return peaks

    def positions(self, places: Sequence[tuple[int, ...]]) -> list[Sequence[object]]:
        """Hemisphere, vertex, and x, y, z on the mesh."""
        rows: list[Sequence[object]] = []
        for (place,) in places:
            side, vertex = self._vertex(place)
            rows.append([side, vertex, *self.meshes[side].coordinates[vertex].round(3).tolist()])
        return rows

    def where(self, place: tuple[int, ...]) -> str:
        """The hemisphere and the vertex."""
        side, vertex = self._vertex(place[0])
        return f"vertex {vertex} of the {side} hemisphere"

    def _vertex(self, place: int) -> tuple[str, int]:
        for side, size in self.sizes.items():
            if place < size:
                return side, int(place)
            place -= size
        raise IndexError(place)


def _of_two_sorts(names: tuple[str, str]) -> NeurordlError:
    text = f"of the maps of {' and '.join(names)}, one is a volume and the other on a surface"
    return NeurordlError(f"{text}; give maps of one sort")


def mesh_name(side: str) -> str:
    """Name of the file with the mesh of a hemisphere, in a folder of maps."""
    return f"hemi-{side[0].upper()}.surf.gii"


def surface_image(meshes: Mapping[str, Mesh], values: Mapping[str, Any]) -> SurfaceImage:
    """Nilearn's image of values on meshes."""
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    mesh: PolyMesh = PolyMesh(**{side: InMemoryMesh(*meshes[side][:2]) for side in values})
    return SurfaceImage(mesh, dict(values))


def space_of(image: MapImage) -> MapSpace:
    """Where the values of an image lie."""
    if isinstance(image, nib.Nifti1Image):
        return GridSpace(tuple(map(int, image.shape[:3])), np.asarray(image.affine, dtype=np.float64))
    return MeshSpace(read_meshes(image.mesh))


def count_maps(image: MapImage) -> int:
    """How many maps an image has."""
    n_axes = 3 if isinstance(image, nib.Nifti1Image) else 1
    return int(image.shape[n_axes]) if len(image.shape) > n_axes else 1


def open_map(image: Any, role: str, meshes: Mapping[str, Mesh] | None = None) -> tuple[MapImage, str]:
    """Open maps of a person: an image of a volume or of a surface, and the name by which messages call it.

    Parameters
    ----------
    image
        What `load_image` or `open_surface` take.
    role
        What the image is, for messages.
    meshes
        The mesh of each hemisphere; nilearn's ``SurfaceImage`` has its own.

    Raises
    ------
    NeurordlError
        As `load_image` and `open_surface`; or files of a surface have no mesh, or one of another size.
    """
    if not is_surface(image):
        opened, name = load_image(image, role)
        if opened.ndim not in (3, 4):
            raise NeurordlError(f"{name} has shape {opened.shape}; expected maps of three dimensions")
        return opened, name
    if hasattr(image, "mesh"):
        return image, f"the {role}"
    scan = open_surface(image, role)
    if meshes is None:
        raise NeurordlError(
            f"{scan.file} is on a surface, whose mesh it does not have; give the files and the mesh to "
            "load_maps, by surface="
        )
    values = on_whole_meshes(scan)
    for side, maps in values.items():
        size = len(meshes[side].coordinates) if side in meshes else 0
        if size != len(maps):
            raise NeurordlError(
                f"{scan.file} has {len(maps)} vertices in the {side} hemisphere, and surface= has {size}; "
                "give the mesh of the space of the maps"
            )
    return surface_image(meshes, {side: values[side] for side in HEMISPHERES if side in values}), scan.file


def _with_margin(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image with zeros around it: nilearn takes the lowest label of clusters for the background."""
    affine = np.array(image.affine)
    affine[:3, 3] -= affine[:3, :3].sum(axis=1)
    return type(image)(np.pad(np.asarray(image.dataobj), 1), affine)
