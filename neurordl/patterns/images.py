"""NIfTI images, masks and atlases: read whole, and brought to one grid."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.affines import voxel_sizes

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError
from neurordl.io import damage_named, read_json
from neurordl.patterns.tables import as_list, read_table
from neurordl.validate import check_columns, listed

Image: TypeAlias = str | os.PathLike[str] | nib.Nifti1Image
Labels: TypeAlias = Mapping[int, str] | pd.DataFrame | str | os.PathLike[str]

_REMEDY = "give a NIfTI image that can be read whole"
_NO_MASK = "none: all voxels"
_ROUNDING = 1e-3  # a label that was stored with a slope differs by less from a whole number
_DEFLATE = 1032  # the most that gzip can expand


@dataclass(frozen=True)
class Regions:
    """A mask or an atlas, with the names of its regions.

    Patterns that are read with named regions have the channel descriptor ``roi``.

    Attributes
    ----------
    image
        A NIfTI image: a binary mask, or an atlas, whose voxels have the number of their region.
    labels
        Names of the regions of an atlas: a TSV or CSV file with the columns ``index`` (the number of the
        region) and ``name``, or a JSON file with numbers and names.

        In Python, it can also be a DataFrame or a mapping.
    rois
        Regions of an atlas to keep, by name (by default all), or the name that a binary mask is to have.

    Examples
    --------
    >>> Regions("it.nii.gz", rois="IT").rois
    ('IT',)
    """

    image: Image
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
        File of the mask, and whether it was on another grid.
    """

    inside: Bools
    roi: list[str] | None
    name: str
    resampled: bool = False

    def __str__(self) -> str:
        """Say in a message where the voxels are."""
        return "of the images, without a mask" if self.name == _NO_MASK else f"in the mask {self.name}"


def load_image(image: Image, role: str) -> tuple[nib.Nifti1Image, str]:
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
    if isinstance(image, nib.Nifti1Image):
        return image, str(image.get_filename() or f"the {role}")
    if not isinstance(image, str | os.PathLike):
        raise NeurordlError(f"the {role} is a {type(image).__name__}; expected a path or a NIfTI image")
    path = Path(image)
    if not path.is_file():
        raise NeurordlError(f"there is no {role} {path}; check the path")
    with damage_named(f"the {role} {path}", _REMEDY):
        opened = nib.load(path)
        if not isinstance(opened, nib.Nifti1Image):
            raise TypeError(f"it is a {type(opened).__name__}")
        sizes = [int(size) for size in opened.shape]
        n_bytes = math.prod(sizes) * opened.get_data_dtype().itemsize
        available = path.stat().st_size
        if n_bytes > available * (_DEFLATE if path.suffix == ".gz" else 1) or min(sizes, default=0) < 1:
            raise ValueError(f"its header says {sizes}, {n_bytes} bytes, and the file has {available}")
    return opened, str(path)


def values_in(image: nib.Nifti1Image, inside: Bools, grid: nib.Nifti1Image, name: str) -> Floats:
    """Return the values of a 3D or 4D image in a mask on the grid of another image, (volumes, voxels).

    Raises
    ------
    NeurordlError
        The data cannot be read, or are not 3D or 4D real numbers.
    """
    if image.ndim not in (3, 4) or image.get_data_dtype().kind not in "fiub":
        content = f"{image.get_data_dtype()} of shape {image.shape}"
        raise NeurordlError(f"{name} holds {content}; expected real numbers, 3D or 4D")
    data, _ = _on_grid(image, grid, "linear", name)
    values = data[inside]  # (voxels,) or (voxels, volumes)
    return np.ascontiguousarray(values.reshape(len(values), -1).T, dtype=np.float64)


def _on_grid(
    image: nib.Nifti1Image, grid: nib.Nifti1Image, interpolation: Literal["linear", "nearest"], name: str
) -> tuple[npt.NDArray[Any], bool]:
    """Values of an image on the grid of another one, and whether it was resampled, which is a notice."""
    from nilearn.image import resample_to_img

    if resampled := not same_grid(image, grid):
        grids = f"another grid than the images ({_differences(image, grid)})"
        warnings.warn(f"{name} is on {grids}: it is resampled ({interpolation})", stacklevel=4)
    with damage_named(name, _REMEDY):
        if resampled:
            # nilearn keeps the type of an image, which would round interpolated values
            if interpolation == "linear" and image.get_data_dtype().kind != "f":
                image = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float64), image.affine)
            settings = {"interpolation": interpolation, "copy_header": True, "force_resample": True}
            image = resample_to_img(image, grid, **settings)
        return np.asanyarray(image.dataobj), resampled


def same_grid(first: nib.Nifti1Image, second: nib.Nifti1Image) -> bool:
    """Return whether the voxels of two images lie in the same places, to a hundredth of a millimeter."""
    if first.shape[:3] != second.shape[:3]:
        return False
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(first.shape[:3]) - 1)[:, None]
    distances = (first.affine - second.affine) @ np.vstack([corners, np.ones(8)])
    return bool((np.abs(distances) <= 1e-2).all())


def read_mask(mask: Image | Regions | None, grid: nib.Nifti1Image) -> Mask:
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
    name = "in memory" if name == "the mask" else name
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim != 3:
        raise NeurordlError(f"the mask {name} has shape {image.shape}; expected one 3D volume")
    data, resampled = _on_grid(image, grid, "nearest", f"the mask {name}")
    if data.dtype.kind == "f":  # 1 may be stored as 255 times a slope
        rounded = np.round(data)
        data = np.where(np.abs(data - rounded) < _ROUNDING, rounded, data)
    values = np.unique(data)
    real = data.dtype.kind in "fiub"
    fractions = values[~np.isfinite(values) | (values != np.round(values))] if real else values
    if len(fractions):
        raise NeurordlError(f"the mask {name} has fractions such as {fractions[0]!s:.6}; threshold it first")
    numbers = values[values != 0].astype(int).tolist()
    if not numbers:
        if np.asanyarray(image.dataobj).any():
            problem = f"no voxel of the mask {name} lies within the images"
            raise NeurordlError(f"{problem}; check that both are in the same space (for example MNI)")
        raise NeurordlError(f"the mask {name} is empty: all its voxels are 0; take another")
    names, rois = None, regions.rois
    if regions.labels is not None:
        names = _label_names(regions.labels)
        if unnamed := [number for number in numbers if number not in names]:
            raise NeurordlError(f"the atlas {name} has the labels {listed(unnamed)} without names in labels=")
        present = {names[number] for number in numbers}
        if unknown := [roi for roi in rois or () if roi not in present]:
            raise NeurordlError(f"the atlas {name} has no ROI {unknown[0]}; it has {listed(sorted(present))}")
        numbers = [number for number in numbers if not rois or names[number] in rois]
    elif len(numbers) > 1:
        raise NeurordlError(f"the atlas {name} has {len(numbers)} labels without names; pass labels=")
    elif rois is not None:
        if len(rois) != 1:
            raise NeurordlError(f"the mask {name} is binary, one ROI, but rois= has {len(rois)} names")
        names = {numbers[0]: rois[0]}
    inside = np.isin(data, numbers)
    roi = None if names is None else [names[int(value)] for value in data[inside]]
    return Mask(inside, roi, name, resampled)


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
        problem = f"{wrong.iloc[0]!r} is not a whole number"
        raise NeurordlError(f"labels= needs whole numbers with names ({{1: 'V1'}}): {problem}")
    for label, name in zip(numbers.astype(int), table["name"], strict=True):
        # n/a is refused only where the atlas has this label
        if not pd.isna(name) and names.setdefault(label, str(name)) != str(name):
            raise NeurordlError(f"label {label} has two names, {names[label]!r} and {str(name)!r}; give one")
    return names


def _differences(*images: nib.Nifti1Image) -> str:
    """What differs between the grids of two images."""
    grids = []
    for affine, shape in ((image.affine, image.shape) for image in images):
        millimeters = voxel_sizes(affine), affine[:3, 3]
        size, origin = (" x ".join(f"{value + 0.0:.5g}" for value in values) for values in millimeters)
        grids.append((" x ".join(map(str, shape[:3])), size, origin, "".join(nib.aff2axcodes(affine))))
    rows = zip(("shape", "voxel size in mm", "origin in mm", "axes"), *grids, strict=True)
    return "; ".join(f"{name} {a} instead of {b}" for name, a, b in rows if a != b) or "another rotation"
