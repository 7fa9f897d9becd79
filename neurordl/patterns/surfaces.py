"""Images on cortical surfaces: GIFTI, CIFTI, FreeSurfer's annotations and nilearn's `SurfaceImage`."""

from __future__ import annotations

import gzip
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ScalarAxis, SeriesAxis
from nibabel.gifti.gifti import GiftiDataArray, GiftiMetaData

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError, notify
from neurordl.io import damage_named
from neurordl.patterns.bids import parse_name, recording
from neurordl.patterns.images import AnyImage, HeaderTime, Mask, Regions, chosen_regions, whole_numbers
from neurordl.patterns.tables import as_list
from neurordl.validate import listed

HEMISPHERES = ("left", "right")

_GIFTI = re.compile(r"(?i)\.gii(\.gz)?$")
_CIFTI = re.compile(r"(?i)\.[dp](tseries|scalar|label|conn)\.nii$")
_ANNOT = re.compile(r"(?i)\.annot$")
_SIDES = {"l": "left", "lh": "left", "left": "left", "r": "right", "rh": "right", "right": "right"}
_SIDE = re.compile(r"(?i)(?<![A-Za-z0-9-])(lh|rh|l|r|left|right)(?=[._]|$)|(?<=hemi-)(l|r)(?=[._]|$)")
_STRUCTURES = {"CIFTI_STRUCTURE_CORTEX_LEFT": "left", "CIFTI_STRUCTURE_CORTEX_RIGHT": "right"}
_PRIMARY = {"CortexLeft": "left", "CortexRight": "right"}
# names by which atlases say that a vertex is in none of their regions
_NO_REGION = re.compile(r"(?i)\?\?\?|unknown|background.*|(.*[ _-])?medial[ _-]?wall")
_REMEDY = "give a file that can be read whole"
_MILLISECONDS = 60.0  # a larger TimeStep is in milliseconds, as FreeSurfer writes it


@dataclass(frozen=True, eq=False)
class Part:
    """Vertices of a hemisphere, or voxels of a structure, that a file has values of.

    Attributes
    ----------
    structure
        "left" or "right", or CIFTI's name of a structure, such as THALAMUS_LEFT.
    places
        (n,) vertices, or (n, 3) voxel indices.
    n_vertices
        Of the whole mesh; 0 for voxels.
    file
        Where it was read from.
    names
        Names of the numbers that a file of labels has; None of other files.
    """

    structure: str
    places: Ints
    n_vertices: int
    file: str
    names: Mapping[int, str] | None = None

    def __str__(self) -> str:
        n_places = f"{len(self.places)} of " if 0 < self.n_vertices != len(self.places) else ""
        size = f"{self.n_vertices} vertices" if self.n_vertices else f"{len(self.places)} voxels"
        return f"{self.structure} ({n_places}{size})"


@dataclass(frozen=True, eq=False)
class SurfaceScan:
    """A scan of one or both hemispheres, and of voxels below the cortex if it is CIFTI.

    Attributes
    ----------
    file
        What messages and tables call it: of two files, that of the left hemisphere.
    parts
        The channels, hemisphere after hemisphere.
    data
        (volumes, channels), an array or what nibabel reads as one.
    n_volumes
        How many volumes it has; None if it has maps, not a series.
    time
        Seconds between volumes by the header.
    grid
        Shape and affine of the voxels, if there are any.
    maps
        Names of the maps that are in the file; none if some have no name.
    """

    file: str
    parts: tuple[Part, ...]
    data: Any
    n_volumes: int | None = None
    time: HeaderTime | None = None
    grid: tuple[tuple[int, ...], Floats] | None = None
    maps: tuple[str, ...] = ()

    @property
    def slices(self) -> Iterator[tuple[Part, slice]]:
        """Each part, and where its channels are."""
        start = 0
        for part in self.parts:
            yield part, slice(start, start + len(part.places))
            start += len(part.places)

    def values(self) -> npt.NDArray[Any]:
        """Read the data, (volumes, channels)."""
        with damage_named(self.file, _REMEDY):
            values = np.asarray(self.data)
            if values.dtype.kind not in "fiub" or values.ndim != 2:
                raise NeurordlError(f"{self.file} holds {values.dtype}; expected real numbers")
            return values


def is_surface(image: object) -> bool:
    """Whether an image is one of a surface: by its name if it is a file, or by its type."""
    if isinstance(image, str | os.PathLike):
        name = Path(image).name
        return any(pattern.search(name) for pattern in (_GIFTI, _CIFTI, _ANNOT))
    return isinstance(image, nib.GiftiImage | nib.Cifti2Image | Mapping | tuple) or _is_surface_image(image)


def _is_surface_image(image: object) -> bool:
    """Whether it is nilearn's `SurfaceImage`; its module, slow to import, is loaded if there is one."""
    known = getattr(sys.modules.get("nilearn.surface"), "SurfaceImage", None)
    return known is not None and isinstance(image, known)


def list_images(images: Any) -> list[Any]:
    """List the images of each run; files of both hemispheres are put together by their names.

    Raises
    ------
    NeurordlError
        Some images are volumes and others surfaces.
    """
    single = (str, os.PathLike, nib.Nifti1Pair, nib.GiftiImage, nib.Cifti2Image, Mapping)
    images = [images] if _is_surface_image(images) else as_list(images, single, "images")
    surfaces = [is_surface(image) for image in images]
    if not any(surfaces):
        return list(images)
    if not all(surfaces):
        pair = [f"{images[surfaces.index(side)]!s:.120}" for side in (True, False)]
        raise NeurordlError(f"{pair[0]} is on a surface and {pair[1]} is a volume; read one sort at a time")
    groups: dict[str, dict[str, object]] = {}
    runs: list[object] = []
    for image in images:
        side = hemisphere_of(image) if isinstance(image, str | os.PathLike) else None
        if side is None:
            runs.append(image)
            continue
        both = str(Path(image).with_name(_SIDE.sub("*", Path(image).name)))
        if side in groups.setdefault(both, {}) or not groups[both]:
            groups[both] = {}
            runs.append(groups[both])
        groups[both][side] = image
    return runs


def hemisphere_of(path: str | os.PathLike[str]) -> str | None:
    """Return the hemisphere that the name of a GIFTI or FreeSurfer file says; None if it says none or both.

    Examples
    --------
    >>> hemisphere_of("sub-01_hemi-L_bold.func.gii"), hemisphere_of("rh.aparc.annot"), hemisphere_of("x.gii")
    ('left', 'right', None)
    """
    name = Path(path).name
    if _CIFTI.search(name):
        return None
    entity = parse_name(name)[0].get("hemi", "").lower()
    if entity in _SIDES:
        return _SIDES[entity]
    sides = {_SIDES[next(filter(None, match.groups())).lower()] for match in _SIDE.finditer(name)}
    return sides.pop() if len(sides) == 1 else None


def open_surface(image: Any, role: str) -> SurfaceScan:
    """Open an image of a surface, or of both hemispheres.

    Parameters
    ----------
    image
        A file, an object of nibabel or nilearn, or a mapping or tuple of the images of the hemispheres.
    role
        What the image is, for messages: "image", "mask".

    Raises
    ------
    NeurordlError
        A file is absent, damaged, or none of the formats, its hemisphere is not known or another than was
        said, or the images of the two hemispheres do not fit each other.
    """
    if isinstance(image, str | os.PathLike) and "{hemi}" in str(image):
        image = both_files(str(image))
    if isinstance(image, Mapping):
        if not image or set(image) - set(HEMISPHERES):
            raise NeurordlError(f"the {role} has the keys {listed(image)}; expected 'left' and 'right'")
        return _joined([_one_hemisphere(image[side], role, side) for side in HEMISPHERES if side in image])
    if isinstance(image, tuple):
        if not image:
            raise NeurordlError(f"the {role} is an empty tuple; give the files of the hemispheres")
        return _joined([_one_hemisphere(part, role) for part in image])
    if _is_surface_image(image):
        parts = [(side, image.data.parts[side]) for side in HEMISPHERES if side in image.data.parts]
        scans = [_scan_of(np.asarray(data).T, side, f"the {role}") for side, data in parts]
        return _joined(scans)
    is_path = isinstance(image, str | os.PathLike)
    if isinstance(image, nib.Cifti2Image) or (is_path and _CIFTI.search(str(image))):
        return _open_cifti(image, role)
    return _one_hemisphere(image, role)


def both_files(path: str) -> dict[str, str]:
    """The files of both hemispheres, whose names say L and R, or lh and rh."""
    for marks in (("L", "R"), ("lh", "rh")):
        files = {side: path.replace("{hemi}", mark) for side, mark in zip(HEMISPHERES, marks, strict=True)}
        if all(Path(file).is_file() for file in files.values()):
            return files
    raise NeurordlError(f"there are no files {path} with L and R, or lh and rh, for {{hemi}}; check the path")


def _joined(scans: Sequence[SurfaceScan]) -> SurfaceScan:
    """One scan of two hemispheres, the left one first."""
    ordered = sorted(scans, key=lambda scan: HEMISPHERES.index(scan.parts[0].structure))
    first, last = ordered[0], ordered[-1]
    if len(ordered) == 1:
        return first
    if len(ordered) > 2 or first.parts[0].structure == last.parts[0].structure:
        raise NeurordlError(
            f"{first.file} and {ordered[1].file} are both of the {first.parts[0].structure} hemisphere; give "
            "one file of the left and one of the right"
        )
    if recording(first.file) != recording(last.file):
        raise NeurordlError(f"{first.file} and {last.file} are of different recordings; give one run")
    if len(first.data) != len(last.data):
        counts = f"{first.file} has {len(first.data)} volumes, and {last.file} has {len(last.data)}"
        raise NeurordlError(f"{counts}; give the two hemispheres of one run")
    if first.maps and last.maps and first.maps != last.maps:
        pair = f"{first.file} has the maps {listed(first.maps)}, and {last.file} {listed(last.maps)}"
        raise NeurordlError(f"{pair}; give files with the same maps in the same order")
    if first.time and last.time and first.time != last.time:
        raise NeurordlError(
            f"{first.file} has {first.time.seconds:g} s between volumes, and {last.file} "
            f"{last.time.seconds:g} s; correct one of them"
        )
    data = np.concatenate([first.data, last.data], axis=1)
    return replace(first, parts=first.parts + last.parts, data=data, time=first.time or last.time)


def _one_hemisphere(image: Any, role: str, stated: str | None = None) -> SurfaceScan:
    """Open GIFTI or an annotation of a hemisphere, and check which one it is."""
    name = f"the {role}"
    if isinstance(image, str | os.PathLike):
        name = str(Path(image))
        if not Path(image).is_file():
            raise NeurordlError(f"there is no {role} {name}; check the path")
        if _ANNOT.search(name):
            return _open_annot(image, role, which_hemisphere(name, stated))
        if not _GIFTI.search(name):
            raise NeurordlError(
                f"the {role} {name} is none of GIFTI (.gii), FreeSurfer's .annot and CIFTI (.dtseries.nii, "
                ".dscalar.nii, .dlabel.nii), which images on a surface have; convert it"
            )
        with damage_named(f"the {role} {name}", _REMEDY):
            image = read_gifti(image)
    elif isinstance(image, np.ndarray):
        raise NeurordlError(f"the {role} is an array; put it into nilearn's SurfaceImage, or give its file")
    elif not isinstance(image, nib.GiftiImage):
        raise NeurordlError(
            f"the {role} is a {type(image).__name__}; expected a file, or an image of nibabel"
        )
    with damage_named(name, _REMEDY):
        scan = _scan_of(_gifti_values(image, name), which_hemisphere(name, stated, image), name)
        names = None
        if any(array.intent == nib.nifti1.intent_codes["NIFTI_INTENT_LABEL"] for array in image.darrays):
            names = {int(key): str(text) for key, text in image.labeltable.get_labels_as_dict().items()}
        maps = tuple(str(array.meta["Name"]) for array in image.darrays if array.meta.get("Name"))
        time = _gifti_time(_metadata(image, "TimeStep"))
        return replace(scan, time=time, parts=(replace(scan.parts[0], names=names),), maps=maps)


def read_gifti(path: str | os.PathLike[str]) -> nib.GiftiImage:
    """Read GIFTI, also if it is compressed as a whole."""
    if Path(path).suffix.lower() == ".gz":
        with gzip.open(path) as stream:
            image: nib.GiftiImage = nib.GiftiImage.from_bytes(stream.read())
    else:
        image = nib.GiftiImage.from_filename(path)
    return image


def side_meta(side: str) -> GiftiMetaData:
    """What a GIFTI file says of its hemisphere."""
    return GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.title()}"})


def map_suffix(side: str) -> str:
    """How the name of the GIFTI file with the maps of a hemisphere ends, as in BIDS."""
    return f"_hemi-{side[0].upper()}.func.gii"


def maps_bytes(values: npt.NDArray[Any], names: Sequence[str], side: str) -> bytes:
    """Maps of a hemisphere, (vertices, maps), as GIFTI (``.func.gii``): a named array each, float32."""
    options = {"intent": "NIFTI_INTENT_NONE", "datatype": "NIFTI_TYPE_FLOAT32"}
    arrays = [
        GiftiDataArray(np.ascontiguousarray(column, dtype=np.float32), meta={"Name": name}, **options)
        for name, column in zip(names, values.T, strict=True)
    ]
    content: bytes = nib.GiftiImage(meta=side_meta(side), darrays=arrays).to_bytes()
    return content


def on_whole_meshes(scan: SurfaceScan) -> dict[str, Floats]:
    """Values of a scan on each hemisphere, (vertices, volumes), NaN where there is none, without voxels."""
    maps: dict[str, Floats] = {}
    values = scan.values()
    for part, place in scan.slices:
        if part.n_vertices:
            whole = np.full((part.n_vertices, len(values)), np.nan)
            whole[part.places] = values[:, place].T
            maps[part.structure] = whole
    if n_lost := sum(len(part.places) for part in scan.parts if not part.n_vertices):
        notify(f"{scan.file}: {n_lost} voxels below the cortex are not on a surface, and are left out")
    return maps


def _gifti_values(image: nib.GiftiImage, name: str) -> npt.NDArray[Any]:
    """The maps or volumes of GIFTI, (volumes, vertices): an array each, or an array (vertices, volumes)."""
    codes = nib.nifti1.intent_codes
    if not image.darrays:
        raise NeurordlError(f"{name} holds no data; write it again")
    for array in image.darrays:
        if array.intent in (codes["NIFTI_INTENT_POINTSET"], codes["NIFTI_INTENT_TRIANGLE"]):
            raise NeurordlError(f"{name} holds a mesh and no data on it; give the file with the data")
        if array.intent == codes["NIFTI_INTENT_NODE_INDEX"]:
            raise NeurordlError(f"{name} holds values of some vertices only; write it with all vertices")
    arrays = [np.asarray(array.data) for array in image.darrays]
    if any(array.ndim not in (1, 2) or len(array) != len(arrays[0]) for array in arrays):
        shapes = listed(array.shape for array in arrays)
        raise NeurordlError(f"{name} has arrays of the shapes {shapes}; expected as many vertices in each")
    return np.concatenate([array.reshape(len(array), -1).T for array in arrays])


def _gifti_time(step: object) -> HeaderTime | None:
    """Seconds between volumes by the metadata of GIFTI, whose unit depends on the software."""
    try:
        seconds = float(str(step))
    except ValueError:
        return None
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    if seconds > _MILLISECONDS:
        notice = f"TimeStep {seconds:g} is read as milliseconds, as FreeSurfer writes it"
        return HeaderTime(seconds / 1000, True, notice)
    return HeaderTime(seconds, True)


def _scan_of(values: npt.NDArray[Any], side: str, name: str) -> SurfaceScan:
    """A scan of a whole hemisphere from its values, (volumes, vertices) or (vertices,)."""
    values = np.atleast_2d(values)
    part = Part(side, np.arange(values.shape[1]), values.shape[1], name)
    return SurfaceScan(name, (part,), values, len(values) if len(values) > 1 else None)


def _metadata(image: nib.GiftiImage, key: str) -> str | None:
    """A value in the metadata of GIFTI, of the image or of one of its arrays."""
    metas = [image.meta, *(array.meta for array in image.darrays)]
    return next((meta[key] for meta in metas if key in meta), None)


def which_hemisphere(name: str, stated: str | None, image: nib.GiftiImage | None = None) -> str:
    """Return the hemisphere of a file, by what was stated, its name and its header.

    Raises
    ------
    NeurordlError
        They contradict each other, or none says which it is.
    """
    in_header = None if image is None else _metadata(image, "AnatomicalStructurePrimary")
    if in_header is not None and in_header not in _PRIMARY:
        raise NeurordlError(f"{name} is of {in_header}; only the left and right cortex are read")
    sources = {"it is given as": stated, "its name says": hemisphere_of(name)}
    sources["its header says"] = _PRIMARY.get(in_header or "")
    claims = {source: side for source, side in sources.items() if side is not None}
    if len(set(claims.values())) > 1:
        contrary = ", ".join(f"{source} {side}" for source, side in claims.items())
        raise NeurordlError(f"{name}: which hemisphere is it? {contrary}; correct what is wrong")
    if not claims:
        raise NeurordlError(
            f"{name}: neither its name nor its header says which hemisphere it is; give "
            "{'left': ..., 'right': ...}, or name it hemi-L or hemi-R"
        )
    return next(iter(claims.values()))


def _open_annot(path: str | os.PathLike[str], role: str, side: str) -> SurfaceScan:
    with damage_named(f"the {role} {path}", _REMEDY):
        labels, _, texts = nib.freesurfer.io.read_annot(path)
        # vertices without a region have -1 in nibabel, and an atlas has 0 for them
        names = {number + 1: text.decode() for number, text in enumerate(texts)}
        scan = _scan_of(np.asarray(labels, dtype=np.int64) + 1, side, str(Path(path)))
        return replace(scan, parts=(replace(scan.parts[0], names=names),))


def _open_cifti(image: Any, role: str) -> SurfaceScan:
    """Open dense CIFTI: a series, maps or labels of grayordinates."""
    name = f"the {role}"
    if not isinstance(image, nib.Cifti2Image):
        path, name = Path(image), str(Path(image))
        if not path.is_file():
            raise NeurordlError(f"there is no {role} {name}; check the path")
        with damage_named(f"the {role} {name}", _REMEDY):
            image = nib.Cifti2Image.from_filename(path)
            n_bytes = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
            if n_bytes > path.stat().st_size:
                raise ValueError(
                    f"its header says {image.shape}, and the file has {path.stat().st_size} bytes"
                )
    with damage_named(name, _REMEDY):
        if image.ndim != 2:
            raise NeurordlError(f"{name} has {image.ndim} axes; expected maps or volumes of grayordinates")
        along, model = (image.header.get_axis(axis) for axis in (0, 1))
        if not isinstance(model, BrainModelAxis) or not isinstance(
            along, SeriesAxis | ScalarAxis | LabelAxis
        ):
            raise NeurordlError(f"{name} is not dense CIFTI (.dtseries.nii, .dscalar.nii or .dlabel.nii)")
        time, names = None, None
        if isinstance(along, SeriesAxis):
            time = HeaderTime(float(along.step), along.unit == "SECOND")
        if isinstance(along, LabelAxis):
            names = {int(number): str(label[0]) for number, label in along.label[0].items()}
        parts = tuple(_cifti_parts(model, name, names))
        grid = None
        if any(not part.n_vertices for part in parts):
            grid = (tuple(map(int, model.volume_shape)), np.asarray(model.affine, dtype=np.float64))
        n_volumes = len(along) if isinstance(along, SeriesAxis) else None
        maps = tuple(map(str, along.name)) if isinstance(along, ScalarAxis) else ()
        return SurfaceScan(name, parts, image.dataobj, n_volumes, time, grid, maps)


def _cifti_parts(model: BrainModelAxis, name: str, names: Mapping[int, str] | None) -> Iterator[Part]:
    for structure, _, of_structure in model.iter_structures():
        if structure not in of_structure.nvertices:
            short = structure.removeprefix("CIFTI_STRUCTURE_")
            yield Part(short, np.asarray(of_structure.voxel, dtype=np.int64), 0, name, names)
            continue
        if structure not in _STRUCTURES:
            raise NeurordlError(f"{name} has a surface of {structure}; only those of the cortex are read")
        vertices = np.asarray(of_structure.vertex, dtype=np.int64)
        n_vertices = int(of_structure.nvertices[structure])
        if len(vertices) and not 0 <= vertices.min() <= vertices.max() < n_vertices:
            raise NeurordlError(f"{name} has vertices beyond the {n_vertices} of {structure}; write it again")
        yield Part(_STRUCTURES[structure], vertices, n_vertices, name, names)


@dataclass(frozen=True, eq=False)
class SurfaceSpace:
    """The `Space` of vertices, and of voxels below the cortex if images are CIFTI.

    Attributes
    ----------
    first
        The first image, which all others must be like.
    inside, roi
        Which of its channels are used, and the region of each of these; None without names.
    mask
        Files of the mask, none without one.
    """

    first: SurfaceScan
    inside: Bools
    roi: list[str] | None
    mask: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """What channels are called."""
        on_surface = {part.n_vertices > 0 for part in self.first.parts}
        return "grayordinates" if len(on_surface) > 1 else "vertices" if True in on_surface else "voxels"

    def values(self, scan: SurfaceScan) -> Floats:
        """Values at the channels, (volumes, channels); the image must have the parts of the first one."""
        if not _alike(scan, self.first):
            apart = (
                f"{self.first.file} has {listed(self.first.parts)}, and {scan.file} has {listed(scan.parts)}"
            )
            raise NeurordlError(f"{apart}; read images of one space, all with the same hemispheres")
        return np.ascontiguousarray(scan.values()[:, self.inside], dtype=np.float64)

    def channels(self, kept: Bools) -> dict[str, list[Any]]:
        """Hemisphere and vertex; with voxels also their indices and structure, -1 where there is none."""
        chosen = np.flatnonzero(self.inside)[kept]
        sizes = [len(part.places) for part in self.first.parts]
        side = [_side(part) for part in self.first.parts]
        vertex = [
            part.places if part.n_vertices else np.full(len(part.places), -1) for part in self.first.parts
        ]
        channels: dict[str, list[Any]] = {}
        if self.noun != "voxels":
            channels["hemisphere"] = np.repeat(side, sizes)[chosen].tolist()
            channels["vertex"] = np.concatenate(vertex)[chosen].tolist()
        if self.noun != "vertices":
            voxels = [
                part.places if not part.n_vertices else np.full((len(part.places), 3), -1)
                for part in self.first.parts
            ]
            indices = np.concatenate(voxels)[chosen]
            channels |= {axis: index.tolist() for axis, index in zip("xyz", indices.T, strict=True)}
            names = [f"CORTEX_{side.upper()}" if side in HEMISPHERES else side for side in self._structures]
            channels["structure"] = np.repeat(names, sizes)[chosen].tolist()
        if self.roi is not None:
            channels["roi"] = list(compress(self.roi, kept))
        return channels

    @property
    def _structures(self) -> list[str]:
        return [part.structure for part in self.first.parts]

    def record(self) -> dict[str, object]:
        """The mask, the size of the meshes, and the grid if there are voxels."""
        meshes = {part.structure: part.n_vertices for part in self.first.parts if part.n_vertices}
        record: dict[str, object] = {
            "mask": ", ".join(Path(file).name for file in self.mask) or f"none: all {self.noun}",
            "mask_resampled": False,
            "surface": meshes,
        }
        if self.first.grid is not None:
            shape, affine = self.first.grid
            record["grid"] = {"shape": list(shape), "affine": affine.tolist()}
        return record

    def __str__(self) -> str:
        return f"in the mask {self.mask[0]}" if self.mask else "of the images, without a mask"


def _side(part: Part) -> str:
    """The hemisphere of a part; "none" of structures that have none, such as the brain stem."""
    return next((side for side in HEMISPHERES if part.structure.lower().endswith(side)), "none")


def _alike(scan: SurfaceScan, other: SurfaceScan) -> bool:
    """Whether two scans have the same channels."""
    if [part.structure for part in scan.parts] != [part.structure for part in other.parts]:
        return False
    pairs = list(zip(scan.parts, other.parts, strict=True))
    same = all(a.n_vertices == b.n_vertices and np.array_equal(a.places, b.places) for a, b in pairs)
    return same and _same_grid(scan, other)


def _same_grid(scan: SurfaceScan, other: SurfaceScan) -> bool:
    if scan.grid is None or other.grid is None:
        return scan.grid is other.grid
    return scan.grid[0] == other.grid[0] and bool(np.allclose(scan.grid[1], other.grid[1], atol=1e-3))


def open_surfaces(
    images: Iterable[Any], mask: AnyImage | Regions | None
) -> tuple[list[SurfaceScan], SurfaceSpace]:
    """Open images of a surface, and a mask or an atlas on it.

    Raises
    ------
    NeurordlError
        As `open_surface`; or mask and images are of different hemispheres or meshes.
    """
    scans = [open_surface(image, "image") for image in images]
    first = replace(scans[0], data=None)
    if mask is None:
        n_channels = sum(len(part.places) for part in first.parts)
        return scans, SurfaceSpace(first, np.ones(n_channels, dtype=bool), None)
    regions = mask if isinstance(mask, Regions) else Regions(mask)
    return scans, _in_regions(regions, first)


def read_surface_mask(mask: AnyImage | Regions, sizes: Mapping[str, int]) -> Mask:
    """Read a mask or an atlas on the vertices of both hemispheres, which have so many, the left one first.

    Raises
    ------
    NeurordlError
        As `open_surface`, or the mask is of another mesh.
    """
    parts = tuple(Part(side, np.arange(size), size, "the maps") for side, size in sizes.items())
    space = _in_regions(
        mask if isinstance(mask, Regions) else Regions(mask), SurfaceScan("the maps", parts, None)
    )
    return Mask(space.inside, space.roi, ", ".join(space.mask))


def _in_regions(regions: Regions, first: SurfaceScan) -> SurfaceSpace:
    """Read which channels of the images are in a mask or an atlas, and their regions."""
    atlas = open_surface(regions.image, "mask")
    name = atlas.file
    if atlas.data.shape[0] != 1:
        raise NeurordlError(f"the mask {name} has {atlas.data.shape[0]} maps; expected one")
    values = whole_numbers(atlas.values(), name)
    numbers, names = values[0], None
    if regions.labels is None and any(part.names for part in atlas.parts):
        numbers, names = _numbered_by_name(atlas, values[0], regions)
    aligned = np.zeros(sum(len(part.places) for part in first.parts), dtype=numbers.dtype)
    of_structure = {part.structure: (part, place) for part, place in atlas.slices}
    for part, place in first.slices:
        if part.structure in of_structure:
            other, chosen = of_structure[part.structure]
            aligned[place] = _aligned(part, other, numbers[chosen], _same_grid(first, atlas))
    if not set(of_structure) & {part.structure for part in first.parts}:
        raise NeurordlError(
            f"the mask {name} is of {listed(atlas.parts)}, and {first.file} of {listed(first.parts)}; give "
            "the mask of the same hemisphere"
        )
    if not aligned.any():
        if numbers.any():
            raise NeurordlError(f"no region of the mask {name} lies in {first.file}; check that both fit")
        raise NeurordlError(f"the mask {name} is empty; take another")
    inside, roi = chosen_regions(aligned, name, regions, names)
    wanted = np.unique(aligned[inside] if regions.rois else numbers[numbers != 0])
    lost = Counter(
        {part.structure: int(np.isin(numbers[place], wanted).sum()) for part, place in atlas.slices}
    )
    total = lost.total()
    lost -= Counter(
        {part.structure: int(np.isin(aligned[place], wanted).sum()) for part, place in first.slices}
    )
    if lost:
        counts = listed(f"{structure} ({count})" for structure, count in lost.items())
        number = f"{lost.total():,} of {total:,} places"
        notify(f"{number} in the regions of {name} are not in the images and left out: {counts}")
    return SurfaceSpace(first, inside, roi, tuple(dict.fromkeys(part.file for part in atlas.parts)))


def _aligned(part: Part, other: Part, numbers: npt.NDArray[Any], same_grid: bool) -> npt.NDArray[Any]:
    """Numbers of a mask at the places of a part of the images, 0 where the mask has none."""
    if part.n_vertices != other.n_vertices:
        raise NeurordlError(
            f"the mask {other.file} has {other.n_vertices} vertices in the {other.structure} hemisphere, and "
            f"{part.file} has {part.n_vertices}; give a mask of the same mesh"
        )
    if part.n_vertices:
        whole = np.zeros(part.n_vertices, dtype=numbers.dtype)
        whole[other.places] = numbers
        return np.asarray(whole[part.places])
    if not same_grid:
        raise NeurordlError(f"the mask {other.file} and {part.file} have voxels of different grids")
    shape = np.maximum(part.places.max(axis=0), other.places.max(axis=0)) + 1
    volume = np.zeros(shape, dtype=numbers.dtype)
    volume[tuple(other.places.T)] = numbers
    return np.asarray(volume[tuple(part.places.T)])


def _numbered_by_name(
    atlas: SurfaceScan, values: npt.NDArray[Any], regions: Regions
) -> tuple[Ints, dict[int, str]]:
    """Numbers from 1 for the names in the file, so that a name has one number in both hemispheres."""
    codes: dict[str, int] = {}
    numbers = np.zeros(len(values), dtype=np.int64)
    unnamed: dict[str, int] = {}
    for part, place in atlas.slices:
        names = part.names or {}
        labels, of_vertex = np.unique(values[place], return_inverse=True)
        if absent := [int(label) for label in labels if label != 0 and int(label) not in names]:
            raise NeurordlError(
                f"the atlas {part.file} has the labels {listed(absent)} without names; pass labels="
            )
        new = np.zeros(len(labels), dtype=np.int64)
        for k, label in enumerate(labels):
            text = names.get(int(label), "???")
            if not _NO_REGION.fullmatch(text) or text in (regions.rois or ()):
                new[k] = codes.setdefault(text, len(codes) + 1)
            elif text != "???":
                unnamed[text] = unnamed.get(text, 0) + int((of_vertex == k).sum())
        numbers[place] = new[of_vertex]
    if unnamed:
        counts = listed(f"{text!r} ({count})" for text, count in unnamed.items())
        files = ", ".join(dict.fromkeys(part.file for part in atlas.parts))
        notify(f"the atlas {files}: vertices that are in no region are left out: {counts}")
    return numbers, {number: text for text, number in codes.items()}
