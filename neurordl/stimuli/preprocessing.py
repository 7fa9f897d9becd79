"""From image files and arrays to pixels of one size and number of channels."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import natural_key
from neurordl.io import damage_named
from neurordl.validate import check_choice, check_number, listed

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels with which networks trained on ImageNet expect their images."""

_SUFFIXES: tuple[str, ...] = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
)
_SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_ROUNDING = 1.5  # pixels
_ORIENTATION = 274  # the tag of EXIF
_GRAY = ("1", "L", "LA")  # modes of Pillow without colors
_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA")


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a network. A run records it, and ``evaluate`` applies it again.

    Attributes
    ----------
    size
        Height and width in pixels; one number stands for a square, and None leaves images as they are.
    channels
        Number of channels: 1 (gray) or 3 (RGB).
    mean, std
        Numbers that are subtracted from each channel, and by which it is then divided, on a scale from 0
        (black) to 1 (white), or on their own scale for float arrays. "imagenet" stands for the values that
        networks trained on ImageNet use; None leaves the step out.
    crop
        Side of the part around the center of each image that is kept before resizing, as a share of the
        largest part with the proportions of ``size``: 1 keeps this part, and 0.875 what networks trained on
        ImageNet are mostly tested on (224 of 256 pixels). By default the whole image is squashed to the size.

    Raises
    ------
    NeurordlError
        The size is not positive, the number of channels differs, mean or std do not fit it, or crop is not
        above 0 and at most 1, or has no size.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Preprocessing(size=32, channels=1).size
    (32, 32)
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            size: Any = self.size
            sides = size if isinstance(size, Sequence) else (size, size)
            if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
                raise NeurordlError(f"size={size!r}: expected one or two positive whole numbers")
            object.__setattr__(self, "size", (int(sides[0]), int(sides[1])))
        if self.channels not in (1, 3):
            raise NeurordlError(f"channels={self.channels!r}: expected 1 (gray) or 3 (RGB)")
        for name, imagenet in zip(("mean", "std"), IMAGENET, strict=True):
            if (numbers := getattr(self, name)) is None:
                continue
            values = imagenet if isinstance(numbers, str) and numbers == "imagenet" else numbers
            values = np.atleast_1d(values).tolist()
            if len(values) != self.channels:
                raise NeurordlError(f"{name}={numbers!r}: expected {self.channels} numbers, or 'imagenet'")
            low = 0 if name == "std" else -math.inf
            checked = tuple(check_number(name, value, low, open_low=True) for value in values)
            object.__setattr__(self, name, checked)
        if self.crop is not None:
            check_number("crop", self.crop, 0, 1, open_low=True)
            if self.size is None:
                raise NeurordlError(f"crop={self.crop!r} needs size=, whose proportions it keeps")

    def box(self, width: int, height: int) -> tuple[float, float, float, float] | None:
        """Return left, upper, right and lower side of what `crop` keeps of an image; None for all of it."""
        if self.crop is None or self.size is None:
            return None
        scale = self.crop * min(width / self.size[1], height / self.size[0])
        half = self.size[1] * scale / 2, self.size[0] * scale / 2
        x, y = max(width / 2 - half[0], 0.0), max(height / 2 - half[1], 0.0)
        return x, y, width - x, height - y

    def as_dict(self) -> Mapping[str, Any]:
        """Return plain values by name, for ``run.json``; `from_dict` takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Preprocessing:
        """Make an object from values by name, also from what `as_dict` gave and JSON kept."""
        for name in values:
            check_choice("preprocessing", name, tuple(cls.__dataclass_fields__))
        return cls(**cast("Mapping[str, Any]", values))


def image_paths(folder: Path, labels: object = None) -> tuple[list[Path], list[str]]:
    """List the image files of a folder in natural order, and the names of what else it holds.

    Hidden files and the file of the ``labels`` are not named.

    Raises
    ------
    NeurordlError
        There is no such folder, no image in it, or two images would have one id.
    """
    if not folder.is_dir():
        raise NeurordlError(f"the stimulus folder {folder} does not exist; check the path")
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = [path for path in visible if path.suffix.lower() in _SUFFIXES]
    if not paths:
        raise NeurordlError(f"no images in {folder}: expected files that end in {', '.join(_SUFFIXES)}")
    paths.sort(key=lambda path: (natural_key(path.stem), path.name))
    for path, following in itertools.pairwise(paths):
        if path.stem == following.stem:
            raise NeurordlError(
                f"{path} and {following.name} would both have the id {path.stem!r}; rename one"
            )
    table = Path(labels).resolve() if isinstance(labels, str | Path) else None
    rest = [p for p in visible if p.suffix.lower() not in _SUFFIXES and p.resolve() != table]
    return paths, sorted((f"{path.name}/" if path.is_dir() else path.name for path in rest), key=natural_key)


def read_images(paths: Sequence[Path], prepared: Preprocessing) -> tuple[Tensor, Preprocessing]:
    """Decode, turn, convert and resize image files.

    Parameters
    ----------
    paths
        The files.
    prepared
        The preprocessing; its size is None if all images have the same size and keep it.

    Returns
    -------
    tuple
        Pixels (n, channels, height, width), uint8, and the preprocessing with its size filled in.

    Warns
    -----
    UserWarning
        Images were turned as their EXIF orientation says, have other proportions than the size, or are gray
        and read as RGB; at the caller of the caller.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, transparent, deeper than 8 bits or in another format, it has several
        frames, or sizes differ and no size was given.
    """
    squashed, gray = list[str](), list[str]()
    first, turned = _read(paths[0], prepared, squashed, gray)
    pixels = np.empty((len(paths), *first.shape), dtype=np.uint8)
    names = [paths[0].name] if turned else []
    for position, path in enumerate(paths):
        image, turned = (first, False) if position == 0 else _read(path, prepared, squashed, gray)
        names += [path.name] if turned else []
        if image.shape != first.shape:
            sizes = [f"{height} x {width}" for _, height, width in (first.shape, image.shape)]
            both = f"{paths[0]} is {sizes[0]}, {path} is {sizes[1]} (height x width)"
            raise NeurordlError(f"images differ in size: {both}; give size=, which resizes them all")
        pixels[position] = image
    if names:
        notify(
            f"{len(names)} of {len(paths)} images were turned or mirrored as their EXIF orientation says: "
            f"{listed(names)}; if they were shown as they are stored, remove the tag",
        )
    if squashed:
        notify(
            f"{len(squashed)} of {len(paths)} images have other proportions than size= and were squashed or "
            f"stretched to it: {listed(squashed)}; crop=1 keeps the middle instead, if that was shown",
        )
    if gray and prepared.channels == 3:
        notify(
            f"{len(gray)} of {len(paths)} images are gray, and are read as RGB with three equal channels: "
            f"{listed(gray)}; channels=1 reads them as gray, for a network with one input channel",
        )
    return torch.from_numpy(pixels), replace(prepared, size=first.shape[1:])


def _read(
    path: Path, prepared: Preprocessing, squashed: list[str], gray: list[str]
) -> tuple[npt.NDArray[np.uint8], bool]:
    """The pixels of a file as viewers show it, and whether it was turned for that.

    Its name is added to `squashed` if its proportions change by more than rounding to whole pixels, and to
    `gray` if the file has no colors.
    """
    with damage_named(path, "save it again"), Image.open(path) as image:
        if image.format not in _FORMATS:
            raise NeurordlError(f"the image {path} is in the format {image.format}: save it as PNG")
        # The second frame of an MPO, as cameras write them, is a preview or the view of the other eye.
        if image.format != "MPO" and (n_frames := getattr(image, "n_frames", 1)) > 1:
            raise NeurordlError(f"{path} has {n_frames} frames; save the frame that was shown")
        if _is_deep(image):
            raise NeurordlError(f"the image {path} has more than 8 bits for each color: save it as 8-bit RGB")
        # before it is decoded: Pillow turns a TIFF then, and the tag is gone
        is_turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        picture = ImageOps.exif_transpose(image)
    if picture.mode not in _MODES:
        raise NeurordlError(f"the image {path} has pixels of type {picture.mode!r}: save it as 8-bit RGB")
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise NeurordlError(f"{path} is partly transparent; save it on the background that was shown")
    if prepared.size is not None and prepared.crop is None:
        scales = [new / old for new, old in zip(prepared.size[::-1], picture.size, strict=True)]
        if max(prepared.size) * (1 - min(scales) / max(scales)) > _ROUNDING:
            squashed.append(path.name)
    if picture.mode in _GRAY:
        gray.append(path.name)
    return _convert(picture, prepared), is_turned


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow would cut the colors of a file that is not yet decoded down to 8 bits."""
    options = " ".join(str(tile[3]) for tile in image.tile)
    highest = max(map(int, re.findall("[0-9]+", options)), default=0) if image.format == "PPM" else 0
    return highest > 255 or re.search(";16[BLN]", options) is not None


def _convert(image: Image.Image, prepared: Preprocessing) -> npt.NDArray[np.uint8]:
    """(channels, height, width) of an image, converted, cropped and resized."""
    image = image.convert("L" if prepared.channels == 1 else "RGB")
    if prepared.size is not None and (image.size != prepared.size[::-1] or prepared.crop is not None):
        box = prepared.box(*image.size)
        image = image.resize(prepared.size[::-1], Image.Resampling.BILINEAR, box=box)
    values = np.asarray(image)
    return values[None] if prepared.channels == 1 else np.moveaxis(values, 2, 0)


def array_pixels(
    array: npt.ArrayLike | Tensor, preprocessing: Mapping[str, object]
) -> tuple[Tensor, Preprocessing]:
    """Copy the pixels of an array, (n, channels, height, width): uint8 of whole numbers, float32 of floats.

    Parameters
    ----------
    array
        (n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1 or 3.
    preprocessing
        Fields of `Preprocessing`; size and channels are those of the array by default.

    Raises
    ------
    NeurordlError
        The array has another shape, whole numbers outside 0 to 255 or floats that are not finite, or floats
        would have to be cropped, resized or turned to gray, which needs their scale.
    """
    with explain("the images are not an array", ValueError, "give all the same shape"):
        array = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    values = _channels_first(array)
    floats = values.dtype.kind == "f"
    if values.dtype.kind in "iu":
        if values.min() < 0 or values.max() > 255:
            extent = f"{values.min()} to {values.max()}"
            raise NeurordlError(f"whole-number pixels must lie in 0 to 255, but reach from {extent}")
    elif not floats or not np.isfinite(values).all():
        raise NeurordlError(f"pixels must be whole numbers or finite floats, but are {values.dtype}")
    if preprocessing.get("channels") == 3 and values.shape[1] == 1:
        values = np.repeat(values, 3, axis=1)
    defaults = {"size": values.shape[2:], "channels": values.shape[1]}
    chosen = {name: value for name, value in preprocessing.items() if value is not None}
    prepared = Preprocessing.from_dict({**defaults, **chosen})
    target = (len(values), prepared.channels, *(prepared.size or ()))
    if values.shape == target and prepared.crop is None:
        pixels = np.array(values, dtype=np.float32 if floats else np.uint8, order="C")
    elif floats:
        raise NeurordlError("an array of floats is not cropped, resized or turned to gray; give uint8")
    else:
        pixels = np.empty(target, dtype=np.uint8)
        for position, image in enumerate(values.astype(np.uint8)):
            picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
            pixels[position] = _convert(picture, prepared)
    return torch.from_numpy(pixels), prepared


def _channels_first(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.ndim == 3 and values.size:
        return values[:, None]
    first, last = (values.ndim == 4 and values.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last or not values.size:
        expected = "(n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1 or 3 and no other axis like it"
        raise NeurordlError(f"images must be an array {expected}, but its shape is {values.shape}")
    return values if first else np.moveaxis(values, 3, 1)
