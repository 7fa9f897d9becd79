"""NIfTI images, masks and atlases: read whole, and brought to one grid; what scans and their space are."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import similar_ids
from neurordl.io import damage_named, read_json
from neurordl.patterns.tables import as_list, read_table
from neurordl.validate import brief, check_columns, listed

Image: TypeAlias = str | os.PathLike[str] | nib.Nifti1Image
# also of a surface: of "left" and "right", of one hemisphere, or of grayordinates
AnyImage: TypeAlias = Image | nib.GiftiImage | nib.Cifti2Image | Mapping[str, Any]
Labels: TypeAlias = Mapping[int, str] | pd.DataFrame | str | os.PathLike[str]

_REMEDY = "give a NIfTI image that can be read whole"
_NO_MASK = "none: all voxels"
_ROUNDING = 1e-3  # a label that was stored with a slope differs by less from a whole number
_SAME_PLACE = 1e-2  # mm, rounding of affines
_APART = 0.1  # voxels between the places of qform and sform: a qform cannot shear
_HALF = 0.5 + 1e-4  # voxels from the center of a voxel to its side, and rounding
_EXPANSIONS = {".gz": 1032.0, ".bz2": math.inf, ".zst": math.inf}  # the most that a file can expand
_MARKS = {
    ".gz": b"\x1f\x8b",
    ".bz2": b"BZh",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".xz": b"\xfd7zXZ\0",
}  # first bytes
_SPACE_REMEDY = "write the affine into the header of the image without a coordinate system"


@dataclass(frozen=True)
class Regions:
    """A mask or an atlas, with the names of its regions.

    Patterns that are read with named regions have the channel descriptor ``roi``.

    Attributes
    ----------
    image
        A NIfTI image: a binary mask, or an atlas, whose voxels have the number of their region.

        For data on a surface: GIFTI (``.label.gii``, ``.shape.gii``, ``.func.gii``), FreeSurfer's ``.annot``,
        or CIFTI (``.dlabel.nii``, ``.dscalar.nii``). ``{hemi}`` in a path stands for ``L`` and ``R``, or
        ``lh`` and ``rh``. In Python, it can also be a mapping with the files of ``left`` and ``right``, or of
        one of them, and an object of nibabel or nilearn (``SurfaceImage``).
    labels
        Names of the regions of an atlas: a TSV or CSV file with the columns ``index`` (the number of the
        region) and ``name``, or a JSON file with numbers and names. By default, atlases of surfaces have the
        names that are in their file; a name in both hemispheres is one region.

        In Python, it can also be a DataFrame or a mapping.
    rois
        Regions of an atlas to keep, by name (by default all), or the name that a binary mask is to have.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Regions("it.nii.gz", rois="IT").rois
    ('IT',)
    >>> nrl.Regions({"left": "lh.aparc.annot", "right": "rh.aparc.annot"}, rois="fusiform").rois
    ('fusiform',)
    """

    __repr__ = brief

    image: AnyImage
    labels: Labels | None = None
    rois: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.image is None:
            raise NeurordlError("labels= and rois= were given without an atlas; pass its image (--mask)")
        if self.rois is not None:
            object.__setattr__(self, "rois", tuple(as_list(self.rois, (str,), "rois")))


@dataclass(frozen=True)
class Mask:
    """Voxels of a grid, and the region of each where the regions have names.

    Attributes
    ----------
    inside
        (x, y, z), whether a voxel is in the mask.
    roi
        Name of the region of each voxel inside, in the order of ``inside``; None without names.
    name, resampled
        File of the mask, and whether it was interpolated, because its voxels lie in other places.
    """

    inside: Bools
    roi: list[str] | None
    name: str
    resampled: bool = False

    def __str__(self) -> str:
        """Say in a message where the voxels are."""
        return "of the images, without a mask" if self.name == _NO_MASK else f"in the mask {self.name}"


class HeaderTime(NamedTuple):
    """Seconds between the volumes of a series by its header, whether it names their unit, and a notice."""

    seconds: float
    has_unit: bool
    notice: str = ""


class Scan(Protocol):
    """An opened image, or the images of both hemispheres: one run, or maps."""

    @property
    def file(self) -> str:
        """What messages and tables call it."""

    @property
    def n_volumes(self) -> int | None:
        """How many volumes it has; None if it has no time axis."""

    @property
    def time(self) -> HeaderTime | None:
        """The time between volumes by its header."""


class Space(Protocol):
    """Where the channels of patterns lie: on the grid of a volume, or on surfaces."""

    @property
    def noun(self) -> str:
        """What channels are called: "voxels", "vertices", "grayordinates"."""

    def values(self, scan: Any) -> Floats:
        """Values of a scan at the channels, (volumes, channels)."""

    def channels(self, kept: Bools) -> dict[str, list[Any]]:
        """Channel descriptors of those that are kept."""

    def record(self) -> dict[str, object]:
        """What the provenance of patterns says of them."""


@dataclass(frozen=True)
class Volumes:
    """A `Scan` of a NIfTI image, 3D or 4D."""

    image: nib.Nifti1Image
    file: str

    @property
    def n_volumes(self) -> int | None:
        """How many volumes it has, None of a 3D image."""
        return int(self.image.shape[3]) if self.image.ndim == 4 else None

    @property
    def time(self) -> HeaderTime | None:
        """The time between volumes by its header."""
        return header_time(self.image)


def header_time(image: nib.Nifti1Image) -> HeaderTime:
    """Return the time between the volumes of a 4D NIfTI image by its header."""
    try:
        unit = image.header.get_xyzt_units()[1]
    except KeyError:  # a code that NIfTI does not define
        unit = "unknown"
    seconds_of = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
    step = float(image.header.get_zooms()[3]) * seconds_of.get(unit, 1.0)
    return HeaderTime(step, unit in seconds_of)


@dataclass(frozen=True)
class VolumeSpace:
    """The `Space` of voxels in a mask, on the grid of the first image."""

    mask: Mask
    grid: nib.Nifti1Image

    noun: ClassVar[str] = "voxels"

    def values(self, scan: Volumes) -> Floats:
        """Values in the mask, on the grid."""
        return values_in(scan.image, self.mask.inside, self.grid, scan.file)

    def channels(self, kept: Bools) -> dict[str, list[Any]]:
        """Voxel indices, and the region if it has a name."""
        voxels = np.nonzero(self.mask.inside)
        channels = {axis: index[kept].tolist() for axis, index in zip("xyz", voxels, strict=True)}
        return channels if self.mask.roi is None else channels | {"roi": list(compress(self.mask.roi, kept))}

    def record(self) -> dict[str, object]:
        """The mask and the grid."""
        grid = {"shape": list(map(int, self.grid.shape[:3])), "affine": self.grid.affine.tolist()}
        return {"mask": Path(self.mask.name).name, "mask_resampled": self.mask.resampled, "grid": grid}

    def __str__(self) -> str:
        return str(self.mask)


def open_volumes(
    images: Sequence[AnyImage], mask: AnyImage | Regions | None
) -> tuple[list[Volumes], VolumeSpace]:
    """Open NIfTI images, and a mask on the grid of the first one.

    Raises
    ------
    NeurordlError
        As `load_image` and `read_mask`.
    """
    scans = [Volumes(*load_image(image, "image")) for image in images]
    warn_of_forms([scan.image for scan in scans], [scan.file for scan in scans])
    return scans, VolumeSpace(read_mask(mask, scans[0].image), scans[0].image)


def load_image(image: AnyImage, role: str) -> tuple[nib.Nifti1Image, str]:
    """Open a NIfTI image without its data, and return it with the name by which messages call it.

    Parameters
    ----------
    image
        A file or a nibabel image.
    role
        What the image is, for messages: "image", "mask".

    Raises
    ------
    NeurordlError
        The file does not exist, is not a NIfTI image, or is too small for the data that its header announces.
    """
    opened: nib.Nifti1Pair
    if isinstance(image, nib.Nifti1Pair):
        opened, name = image, str(image.get_filename() or f"the {role}")
    elif not isinstance(image, str | os.PathLike):
        raise NeurordlError(f"the {role} is a {type(image).__name__}; expected a path or a NIfTI image")
    else:
        name = str(Path(image))
        if not Path(image).is_file():
            raise NeurordlError(f"there is no {role} {name}; check the path")
        with damage_named(f"the {role} {name}", _REMEDY):
            opened = _open(Path(image))
    with damage_named(name, _REMEDY):
        if opened.ndim == 5 and 1 in opened.shape[3:]:  # AFNI has the volumes of a bucket on the fifth axis
            opened = opened.slicer[:, :, :, 0] if opened.shape[3] == 1 else opened.slicer[..., 0]
        if not isinstance(opened, nib.Nifti1Image) or opened.affine is None:  # a pair of .hdr and .img
            opened = nib.Nifti1Image(opened.dataobj, opened.header.get_best_affine(), opened.header)
    return opened, name


def _open(path: Path) -> nib.Nifti1Pair:
    """Open a file, and compare its size with its header where the size tells something."""
    if not re.search(r"(?i)\.(nii|img|hdr)(\.\w+)?$", path.name):
        raise NeurordlError(
            "its name is none of NIfTI (.nii, .nii.gz, .img, .hdr); convert it to NIfTI, or to GIFTI "
            "(.func.gii) if it is on a surface"
        )
    with open(path, "rb") as stream:
        start = stream.read(6)
    packed = next((suffix for suffix, mark in _MARKS.items() if start.startswith(mark)), "")
    suffix = path.suffix if path.suffix.lower() in _MARKS else ""
    if suffix.lower() != packed:
        stored = f"compressed ({packed})" if packed else "not compressed"
        raise NeurordlError(f"{path} is {stored}, unlike its name; rename it to .nii{packed}")
    if packed == ".xz" or suffix not in (packed, packed.upper()):
        raise NeurordlError(
            f"{path}: nibabel does not read this suffix; name it .nii.gz, after compressing it so"
        )
    opened = _image_class(path).from_filename(path)
    sizes = [int(size) for size in opened.shape]
    n_bytes = math.prod(sizes) * opened.get_data_dtype().itemsize
    file = Path(str(opened.file_map["image"].filename))  # of a pair, the .img
    if not file.is_file():
        raise NeurordlError(f"{path} has no {file.name} beside it, which holds its data; copy it there")
    available, expansion = file.stat().st_size, _EXPANSIONS.get(file.suffix.lower(), 1.0)
    if n_bytes > available * expansion or min(sizes, default=0) < 1:
        raise ValueError(f"its header says {sizes}, {n_bytes} bytes, and the file has {available}")
    return opened


def _image_class(path: Path) -> type[nib.Nifti1Pair]:
    """The class of an image by its first bytes; nothing else is opened.

    ``nibabel.load`` reads the ``.mat`` beside an image of Analyze by scipy, which a damaged one can crash.
    """
    sniff = None
    for image_class in nib.imageclasses.all_image_classes:
        fits, sniff = image_class.path_maybe_image(path, sniff)
        if fits and issubclass(image_class, nib.Nifti1Pair):
            return image_class
        if fits:
            raise NeurordlError(f"{path} is a {image_class.__name__} and not NIfTI; convert it to NIfTI")
    raise ValueError("nibabel knows no such image")


def values_in(image: nib.Nifti1Image, inside: Bools, grid: nib.Nifti1Image, name: str) -> Floats:
    """Return the values of a 3D or 4D image in a mask on the grid of another image, (volumes, voxels).

    Voxels that the image does not cover are NaN.

    Raises
    ------
    NeurordlError
        The data cannot be read, or are not 3D or 4D real numbers.
    """
    if image.ndim not in (3, 4) or image.get_data_dtype().kind not in "fiub":
        content = f"{image.get_data_dtype()} of shape {image.shape}"
        raise NeurordlError(f"{name} holds {content}; expected real numbers, 3D or 4D")
    values, _ = _on_grid(image, inside, grid, "linear", name)  # (voxels,) or (voxels, volumes)
    return np.ascontiguousarray(values.reshape(len(values), -1).T, dtype=np.float64)


def _on_grid(
    image: nib.Nifti1Image,
    inside: Bools,
    grid: nib.Nifti1Image,
    interpolation: Literal["linear", "nearest"],
    name: str,
) -> tuple[npt.NDArray[Any], bool]:
    """Values of an image at some voxels of the grid of another one, and whether it was interpolated.

    Images whose voxels lie in the same places, but are stored with other or turned axes, are read as they
    are; other differences of the grids are a notice.
    """
    with damage_named(name, _REMEDY):
        data = np.asanyarray(image.dataobj)
        if same_grid(image, grid):
            return data[inside], False
        grids = f"{name} is on another grid ({describe_grid(image)}) than the images ({describe_grid(grid)})"
        if not (_has_space(image) and _has_space(grid)):
            if image.shape[:3] != grid.shape[:3]:
                raise NeurordlError(f"{grids}: without coordinates they cannot be matched; {_SPACE_REMEDY}")
            order = "voxels are matched by their order in the files"
            notify(f"{grids}: {order}; if that is wrong, {_SPACE_REMEDY}")
            return data[inside], False
        places, outside = _places(inside, grid, image)
        lost = _places(data != 0, image, grid)[1] if interpolation == "nearest" else outside[:0]
    last = np.array(data.shape[:3])[:, None] - 1
    voxels = np.clip(np.floor(places + _HALF), 0, last)
    apart = np.linalg.norm(image.affine[:3, :3] @ (places - voxels), axis=0)
    exact = bool((apart[~outside] <= _SAME_PLACE).all())
    if not exact or outside.any() or lost.any():
        text = "it is read without resampling" if exact else f"it is resampled ({interpolation})"
        text += f"; {outside.sum()} of {len(outside)} voxels lie outside of it" if outside.any() else ""
        if lost.any():
            text += f"; {lost.sum()} of its {len(lost)} voxels above 0 lie outside of the images"
        notify(f"{grids}: {text}")
    if exact or interpolation == "nearest":
        values = data[tuple(voxels.astype(int))]
    else:
        values = _interpolated(data, np.clip(places, 0, last))
    if outside.any():
        values = values.astype(np.float64) if interpolation == "linear" else values.copy()
        values[outside] = np.nan if interpolation == "linear" else 0
    return values, not exact


def _places(chosen: Bools, image: nib.Nifti1Image, other: nib.Nifti1Image) -> tuple[Floats, Bools]:
    """Where voxels of an image lie, in voxels of another one, (3, voxels), and which lie outside of it."""
    transform = np.linalg.inv(other.affine) @ image.affine
    places = transform[:3, :3] @ np.array(np.nonzero(chosen)) + transform[:3, 3:]
    if not np.isfinite(places).all():
        raise ValueError("its affine does not say where its voxels lie")
    last = np.array(other.shape[:3])[:, None] - 1
    return places, ((places < -_HALF) | (places > last + _HALF)).any(axis=0)


def _interpolated(data: npt.NDArray[Any], places: Floats) -> Floats:
    """Values between voxels, (places,) or (places, volumes)."""
    from scipy.ndimage import map_coordinates

    volumes = np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0)
    values = [map_coordinates(volume.astype(np.float64), places, order=1) for volume in volumes]
    return np.stack(values, axis=-1).reshape(-1, *data.shape[3:])


def _has_space(image: nib.Nifti1Image) -> bool:
    """Whether an image says where its voxels lie: with both codes 0, nibabel guesses it."""
    return bool(image.header["qform_code"] or image.header["sform_code"])


def same_grid(first: nib.Nifti1Image, second: nib.Nifti1Image) -> bool:
    """Return whether the voxels of two images lie in the same places, to a hundredth of a millimeter."""
    if first.shape[:3] != second.shape[:3]:
        return False
    return bool((np.abs(_moved(first, first.affine - second.affine)) <= _SAME_PLACE).all())


def _moved(image: nib.Nifti1Image, affine: Floats) -> Floats:
    """Where an affine puts the corners of an image, (3, 8)."""
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(image.shape[:3]) - 1)[:, None]
    return np.asarray((affine @ np.vstack([corners, np.ones(8)]))[:3])


def warn_of_forms(images: Sequence[nib.Nifti1Image], files: Sequence[str]) -> None:
    """Give a notice of images whose two coordinate systems, qform and sform, are not the same one."""
    apart: list[tuple[str, float]] = []
    for image, file in zip(images, files, strict=True):
        header = image.header
        with suppress(nib.spatialimages.HeaderDataError, ValueError):  # a qform that nothing reads
            if header["qform_code"] and header["sform_code"]:
                moved = _moved(image, header.get_qform() - header.get_sform())
                distance = float(np.linalg.norm(moved, axis=0).max())
                if distance > _APART * min(header.get_zooms()[:3]):
                    apart.append((file, distance))
    if apart:
        most = max(distance for _, distance in apart)
        notify(
            f"qform and sform of {len(apart)} of {len(images)} images, such as {apart[0][0]}, put voxels in "
            f"places up to {most:.3g} mm apart: the sform is taken, as nibabel does; if it is wrong, set its "
            "code to 0"
        )


def read_mask(mask: AnyImage | Regions | None, grid: nib.Nifti1Image) -> Mask:
    """Read a binary mask, or an atlas with names, on the grid of the images.

    Raises
    ------
    NeurordlError
        The image is not one 3D volume of whole numbers, an atlas lacks the name of a label or a region that
        was asked for, or no voxel is left.
    """
    if mask is None:
        return Mask(np.ones(grid.shape[:3], dtype=bool), None, _NO_MASK)
    regions = mask if isinstance(mask, Regions) else Regions(mask)
    image, name = load_image(regions.image, "mask")
    warn_of_forms([image], [name])
    name = "in memory" if name == "the mask" else name
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim != 3:
        raise NeurordlError(f"the mask {name} has shape {image.shape}; expected one 3D volume")
    everywhere = np.ones(grid.shape[:3], dtype=bool)
    data, resampled = _on_grid(image, everywhere, grid, "nearest", f"the mask {name}")
    data = data.reshape(grid.shape[:3])
    data = whole_numbers(data, name)
    if not data.any():
        if np.asanyarray(image.dataobj).any():
            problem = f"no voxel of the mask {name} lies within the images"
            raise NeurordlError(f"{problem}; check that both are in the same space (for example MNI)")
        raise NeurordlError(f"the mask {name} is empty: all its voxels are 0; take another")
    inside, roi = chosen_regions(data, name, regions)
    return Mask(inside, roi, name, resampled)


def whole_numbers(data: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the numbers of a mask, which must be whole.

    Raises
    ------
    NeurordlError
        They have fractions, or are too large.
    """
    if data.dtype.kind == "f":  # 1 may be stored as 255 times a slope
        rounded = np.round(data)
        data = np.where(np.abs(data - rounded) < _ROUNDING, rounded, data)
    values = np.unique(data)
    real = data.dtype.kind in "fiub"
    fractions = values[~np.isfinite(values) | (values != np.round(values))] if real else values
    if len(fractions):
        raise NeurordlError(f"the mask {name} has fractions such as {fractions[0]!s:.6}; threshold it first")
    if (huge := values[np.abs(values.astype(np.float64)) > 2**53]).size:
        raise NeurordlError(
            f"the mask {name} has labels such as {huge[0]:g}, beyond 2**53; threshold it first"
        )
    return data


def chosen_regions(
    data: npt.NDArray[Any], name: str, regions: Regions, names: Mapping[int, str] | None = None
) -> tuple[Bools, list[str] | None]:
    """Return which places of a mask or an atlas are used, and the region of each, if regions have names.

    Parameters
    ----------
    data, name
        Whole numbers of the mask, some above 0, and its file.
    regions
        What was asked for.
    names
        Names of the numbers that the file itself has; ``regions.labels`` takes their place.

    Raises
    ------
    NeurordlError
        As `read_mask`.
    """
    values = np.unique(data)
    numbers = values[values != 0].astype(int).tolist()
    rois = regions.rois
    if regions.labels is not None:
        names = _label_names(regions.labels)
    if names is not None:
        if unnamed := [number for number in numbers if number not in names]:
            raise NeurordlError(f"the atlas {name} has the labels {listed(unnamed)} without names in labels=")
        present = {names[number] for number in numbers}
        if unknown := [roi for roi in rois or () if roi not in present]:
            raise NeurordlError(f"the atlas {name} has no ROI {unknown[0]}; it has {listed(sorted(present))}")
        if similar := similar_ids(sorted(present), "regions"):
            notify(f"the atlas {name}: {similar}")
        numbers = [number for number in numbers if not rois or names[number] in rois]
    elif len(numbers) > 1:
        raise NeurordlError(f"the atlas {name} has {len(numbers)} labels without names; pass labels=")
    elif rois is not None:
        if len(rois) != 1:
            raise NeurordlError(f"the mask {name} is binary, one ROI, but rois= has {len(rois)} names")
        names = {numbers[0]: rois[0]}
    inside = np.isin(data, numbers)
    return inside, None if names is None else [names[int(value)] for value in data[inside]]


def _label_names(labels: Labels) -> dict[int, str]:
    """Number and name of each label; BIDS calls the columns index and name."""
    if isinstance(labels, str | os.PathLike) and Path(labels).suffix.lower() == ".json":
        labels = read_json(labels)
    if isinstance(labels, Mapping):
        labels = pd.DataFrame({"index": list(labels), "name": list(labels.values())}, dtype=object)
    table = read_table(labels, "labels=")
    check_columns("the table of label names", table, ("index", "name"))
    names: dict[int, str] = {}
    numbers = pd.to_numeric(table["index"], errors="coerce").astype(np.float64)
    if (wrong := table["index"][numbers % 1 != 0]).size:
        number = wrong.iloc[0]
        problem = f"{number if isinstance(number, float) else repr(number)} is not a whole number"
        raise NeurordlError(f"labels= needs whole numbers with names ({{1: 'V1'}}): {problem}")
    for label, name in zip(numbers.astype(int), table["name"], strict=True):
        if not pd.api.types.is_scalar(name):
            raise NeurordlError(
                f"labels= needs names of one text each: label {label} has the name {name!r:.40}"
            )
        # n/a is refused only where the atlas has this label
        if not pd.isna(name) and names.setdefault(label, str(name)) != str(name):
            raise NeurordlError(f"label {label} has two names, {names[label]!r} and {str(name)!r}; give one")
    return names


def describe_grid(image: nib.Nifti1Image) -> str:
    """Return the size, voxels and place of an image, for messages."""
    size = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0))
    shape = f"{' x '.join(map(str, image.shape[:3]))} voxels of {' x '.join(f'{s:.3g}' for s in size)} mm"
    if not _has_space(image):
        return f"{shape}, without a coordinate system: the codes of qform and sform are 0"
    axes = "".join(map(str, nib.aff2axcodes(image.affine)))
    return f"{shape}, axes {axes}, origin {', '.join(f'{x:.4g}' for x in image.affine[:3, 3])}"
