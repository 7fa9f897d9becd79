"""NIfTI images and masks: reading them whole, and bringing them to one grid."""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from neurordl.errors import NeurordlError

__all__ = ["Image", "Mask", "Names", "load_image", "read_mask", "values_in"]

Image: TypeAlias = str | os.PathLike[str] | nib.Nifti1Image
Names: TypeAlias = Mapping[int, str] | pd.DataFrame | str | os.PathLike[str]
Floats = npt.NDArray[np.float64]

# what nibabel, gzip and numpy raise on files that are cut off or damaged
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
    *(zlib.error, struct.error, ImageFileError, HeaderDataError, WrapStructError),
)
_NO_MASK = "none: all voxels"
_WHOLE = 1e-3  # how far from a whole number a label may be
_DEFLATE = 1032  # the most that gzip can expand


@dataclass(frozen=True)
class Mask:
    """Voxels of a grid, and the ROI of each where the mask is an atlas.

    Attributes
    ----------
    inside
        (x, y, z), whether a voxel is in the mask.
    roi
        Name of the ROI of each voxel inside, in the order of ``inside``; None for a mask without a name.
    name, resampled
        What it was read from, and whether it was on another grid.
    """

    inside: npt.NDArray[np.bool_]
    roi: list[str] | None
    name: str
    resampled: bool = False

    def __str__(self) -> str:
        """Where voxels are, in a message."""
        return "of the images, without a mask" if self.name == _NO_MASK else f"in the mask {self.name}"


def load_image(image: Image, what: str) -> tuple[nib.Nifti1Image, str]:
    """Open a NIfTI image, without its data, and the name to call it by.

    Raises
    ------
    NeurordlError
        No such file, no NIfTI image, or a header that promises more than the file can hold.
    """
    if isinstance(image, nib.Nifti1Image):
        return image, str(image.get_filename() or f"the {what}")
    if not isinstance(image, str | os.PathLike):
        raise NeurordlError(f"the {what} is a {type(image).__name__}; expected a path or a NIfTI image")
    path = Path(image)
    if not path.is_file():
        raise NeurordlError(f"there is no {what} {path}; check the path")
    try:
        opened = nib.load(path)
    except _DAMAGE as error:
        raise _damaged(path, what, error) from error
    if not isinstance(opened, nib.Nifti1Image):
        raise NeurordlError(f"the {what} {path} is a {type(opened).__name__}; expected NIfTI (.nii, .nii.gz)")
    try:
        promised = int(np.prod([int(size) for size in opened.shape], dtype=object))
        promised *= opened.get_data_dtype().itemsize
    except _DAMAGE as error:
        raise _damaged(path, what, error) from error
    most = path.stat().st_size * (_DEFLATE if path.suffix == ".gz" else 1)
    if promised > most or min(opened.shape, default=0) < 1:
        raise NeurordlError(
            f"the {what} {path} is cut off or damaged: its header says {opened.shape}, {promised} bytes, and "
            f"the file has {path.stat().st_size}; copy or convert it again"
        )
    return opened, str(path)


def values_in(
    image: nib.Nifti1Image, inside: npt.NDArray[np.bool_], grid: nib.Nifti1Image, name: str
) -> Floats:
    """Values of a 3D or 4D image in a mask on the grid of another, (volumes, voxels).

    Raises
    ------
    NeurordlError
        The data cannot be read, or are not 3D or 4D real numbers.
    """
    if image.ndim not in (3, 4) or image.get_data_dtype().kind not in "fiub":
        raise NeurordlError(
            f"{name} holds {image.get_data_dtype()} of shape {image.shape}; expected real numbers, 3D or 4D"
        )
    data, _ = _on_grid(image, grid, "linear", name)
    chosen = data[inside]  # (voxels,) or (voxels, volumes)
    return np.ascontiguousarray(chosen.reshape(len(chosen), -1).T, dtype=np.float64)


def _on_grid(
    image: nib.Nifti1Image, grid: nib.Nifti1Image, how: str, name: str
) -> tuple[npt.NDArray[Any], bool]:
    """Values of an image on the grid of another, and whether it was resampled to it, which is told."""
    moved = not same_grid(image, grid)
    if moved:
        way = "linearly" if how == "linear" else "each voxel taking the nearest value"
        warnings.warn(
            f"{name} is on another grid ({_grid(image)}) than the images ({_grid(grid)}): it is resampled to "
            f"theirs, {way}",
            UserWarning,
            stacklevel=4,
        )
        image = resampled(image, grid, how, name)
    try:
        return np.asanyarray(image.dataobj), moved
    except _DAMAGE as error:
        raise _damaged(name, "data of", error) from error


def same_grid(one: nib.Nifti1Image, other: nib.Nifti1Image) -> bool:
    """Whether the voxels of two images lie in the same places, to a hundredth of a millimetre."""
    if one.shape[:3] != other.shape[:3]:
        return False
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(one.shape[:3]) - 1)[:, None]
    apart = (one.affine - other.affine) @ np.vstack([corners, np.ones(8)])
    return bool((np.abs(apart) <= 1e-2).all())


def resampled(image: nib.Nifti1Image, grid: nib.Nifti1Image, how: str, name: str) -> nib.Nifti1Image:
    """An image on the grid of another, by nilearn."""
    from nilearn.image import resample_img

    try:
        if how == "linear" and image.get_data_dtype().kind != "f":  # nilearn keeps the type: it would cut off
            image = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float64), image.affine)
        found: nib.Nifti1Image = resample_img(
            image,
            target_affine=grid.affine,
            target_shape=grid.shape[:3],
            interpolation=how,
            copy_header=True,
            force_resample=True,
        )
    except (*_DAMAGE, np.linalg.LinAlgError) as error:
        raise NeurordlError(
            f"{name} cannot be brought to the grid of the images ({_grid(grid)}): {error}"
        ) from error
    return found


def read_mask(
    mask: Image | None, grid: nib.Nifti1Image, names: Names | None, rois: Sequence[str] | None
) -> Mask:
    """A binary mask, or an atlas with names, on the grid of the images.

    Raises
    ------
    NeurordlError
        Not one 3D volume, not a binary mask and no names, a value without a name, a ROI that is not there,
        or no voxel left.
    """
    if mask is None:
        if names is not None or rois is not None:
            raise NeurordlError("label names or rois were given without an atlas; pass it as mask=")
        return Mask(np.ones(grid.shape[:3], dtype=bool), None, _NO_MASK)
    image, name = load_image(mask, "mask")
    name = "in memory" if name == "the mask" else name
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim != 3:
        raise NeurordlError(f"the mask {name} has shape {image.shape}; expected one 3D volume")
    data, moved = _on_grid(image, grid, "nearest", f"the mask {name}")
    if data.dtype.kind == "f":  # 1 may be stored as 255 times a slope
        near = np.round(data)
        data = np.where(np.abs(data - near) < _WHOLE, near, data)
    values = np.unique(data)
    odd = values[~np.isfinite(values) | (values != np.round(values))] if data.dtype.kind in "fiub" else values
    if len(odd):
        raise NeurordlError(
            f"the mask {name} holds other than whole numbers, such as {odd[0]}; "
            "give 0 and 1, or an atlas of labels: threshold a map of probabilities first"
        )
    if not values.any():
        raise NeurordlError(f"the mask {name} is empty on the grid of the images: no voxel is above 0")
    if names is None:
        if len(values[values != 0]) > 1:
            raise NeurordlError(
                f"the mask {name} is an atlas ({len(values[values != 0])} labels) without names; pass "
                "labels=, a mapping of number to name or a table with the columns index and name"
            )
        if rois is not None and len(rois) != 1:
            raise NeurordlError(f"the mask {name} is binary, one ROI, and {len(rois)} names of it were given")
        inside = data != 0
        return Mask(inside, None if rois is None else [rois[0]] * int(inside.sum()), name, moved)
    return replace(_atlas(data, _label_names(names), rois, name), resampled=moved)


def _atlas(data: npt.NDArray[Any], named: Mapping[int, str], rois: Sequence[str] | None, name: str) -> Mask:
    values = [int(value) for value in np.unique(data) if value != 0]
    if absent := [value for value in values if value not in named]:
        raise NeurordlError(
            f"the atlas {name} has the labels {', '.join(map(str, absent[:5]))}, which labels= does not name"
        )
    present = {named[value] for value in values}
    wanted = [rois] if isinstance(rois, str) else list(rois or [])
    if unknown := [roi for roi in wanted if roi not in present]:
        raise NeurordlError(
            f"the atlas {name} has no ROI {', '.join(unknown)} on the grid of the images; it has "
            f"{', '.join(sorted(present))}"
        )
    kept = [value for value in values if not wanted or named[value] in wanted]
    inside = np.isin(data, kept)
    return Mask(inside, [named[int(value)] for value in data[inside]], name)


def _label_names(names: Names) -> dict[int, str]:
    """Number and name of each label; BIDS calls the columns index and name."""
    table = names if isinstance(names, Mapping | pd.DataFrame) else _names_table(names)
    if isinstance(table, pd.DataFrame):
        if absent := [column for column in ("index", "name") if column not in table]:
            raise NeurordlError(
                f"the label names have no column {absent[0]!r}, but {', '.join(map(str, table.columns))}"
            )
        pairs = list(zip(table["index"], table["name"], strict=True))
    else:
        pairs = list(table.items())
    found: dict[int, str] = {}
    for number, name in pairs:
        try:
            whole = int(number)
            if float(number) != whole:
                raise ValueError(f"{number!r} is no whole number")
        except (TypeError, ValueError, OverflowError) as error:
            raise NeurordlError(
                f"label names are whole numbers with text, such as {{1: 'V1'}}: {error}"
            ) from error
        if name is None or name != name:  # n/a: an atlas that has this label is refused
            continue
        if found.setdefault(whole, str(name)) != str(name):
            raise NeurordlError(f"label {whole} has two names, {found[whole]!r} and {str(name)!r}; give one")
    return found


def _names_table(file: object) -> Mapping[Any, Any] | pd.DataFrame:
    if not isinstance(file, str | os.PathLike):
        raise NeurordlError(f"labels= is a {type(file).__name__}; expected a mapping, a table or its file")
    path = Path(file)
    try:
        if path.suffix.lower() == ".json":
            told = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(told, dict):
                raise ValueError("it holds no names of numbers")
            return told
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except (OSError, ValueError) as error:
        raise NeurordlError(
            f"cannot read the label names {path}: {error}; expected TSV, CSV or JSON"
        ) from error


def _grid(image: nib.Nifti1Image) -> str:
    size = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0))
    return f"{' x '.join(map(str, image.shape[:3]))} voxels of {' x '.join(f'{s:.3g}' for s in size)} mm"


def _damaged(path: object, what: str, error: BaseException) -> NeurordlError:
    return NeurordlError(
        f"cannot read the {what} {path}: it is no NIfTI image, or it is cut off or damaged ({error}); copy "
        "or convert it again"
    )
