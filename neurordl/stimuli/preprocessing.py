"""From image files and arrays to pixels of one size and number of channels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key

__all__ = ["IMAGENET", "Preprocessing", "array_pixels", "image_paths", "read_images"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels with which networks trained on ImageNet expect their images."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA")


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a network; kept with a run and applied again when it is evaluated.

    Attributes
    ----------
    size
        Height and width; None leaves images as they are. One number stands for a square.
    channels
        1 (grey) or 3 (RGB).
    mean, std
        One number per channel, on the scale where 0 is black and 1 white (float arrays: on their own scale);
        "imagenet" stands for those of networks that were trained on ImageNet, None for 0 and 1.

    Raises
    ------
    NeurordlError
        A size that is not positive, another number of channels, a mean or std that does not fit them.
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            given = cast(Any, self.size)
            sides = given if isinstance(given, Sequence) else (given, given)
            if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
                raise NeurordlError(f"size must be one or two positive whole numbers, but is {given!r}")
            object.__setattr__(self, "size", (int(sides[0]), int(sides[1])))
        if self.channels not in (1, 3):
            raise NeurordlError(f"channels must be 1 (grey) or 3 (RGB), but is {self.channels!r}")
        for name, imagenet in zip(("mean", "std"), IMAGENET, strict=True):
            if (numbers := getattr(self, name)) is None:
                continue
            numbers = imagenet if isinstance(numbers, str) and numbers == "imagenet" else numbers
            values = tuple(float(number) for number in np.atleast_1d(numbers))
            if len(values) != self.channels or not np.isfinite(values).all():
                raise NeurordlError(f"{name} must be {self.channels} finite numbers, but is {numbers!r}")
            if name == "std" and min(values) <= 0:
                raise NeurordlError(f"std must be above 0, but is {numbers!r}")
            object.__setattr__(self, name, values)

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the names that `StimulusSet.from_folder` takes; for ``run.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild what `as_dict` gave, also after a way through JSON."""
        if unknown := set(values) - set(cls.__dataclass_fields__):
            raise NeurordlError(
                f"unknown preprocessing {sorted(unknown)}: expected size, channels, mean, std"
            )
        return cls(**values)


def image_paths(folder: Path) -> list[Path]:
    """Image files of a folder, in natural order of their names; none, or two with one id, are an error."""
    if not folder.is_dir():
        raise NeurordlError(f"the stimulus folder {folder} does not exist or is not a folder; check the path")
    paths = [p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise NeurordlError(f"no images in {folder}: expected files that end in {', '.join(_SUFFIXES)}")
    paths.sort(key=lambda path: (natural_key(path.stem), path.name))
    for one, two in itertools.pairwise(paths):
        if one.stem == two.stem:
            raise NeurordlError(
                f"{one} and {two.name} would both have the id {one.stem!r}; rename or drop one"
            )
    return paths


def read_images(paths: Sequence[Path], prepared: Preprocessing) -> tuple[Tensor, Preprocessing]:
    """Decode, convert and resize image files.

    Returns
    -------
    tuple
        Pixels (n, channels, height, width), uint8, and the preprocessing with its size filled in.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, transparent or deeper than 8 bits, or sizes differ and no size was given.
    """
    first = _read(paths[0], prepared)
    _, height, width = first.shape
    pixels = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for place, path in enumerate(paths):
        image = first if place == 0 else _read(path, prepared)
        if image.shape != first.shape:
            raise NeurordlError(
                f"images differ in size: {paths[0]} is {height} x {width}, {path} is {image.shape[1]} x "
                f"{image.shape[2]} (height x width); give size=, which resizes them all"
            )
        pixels[place] = image
    return torch.from_numpy(pixels), replace(prepared, size=(height, width))


def _read(path: Path, prepared: Preprocessing) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise NeurordlError(f"the image {path} does not exist; check the path") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise NeurordlError(
            f"cannot read the image {path}: {error}; it is damaged or no image, replace it"
        ) from error
    if image.mode not in _MODES:
        raise NeurordlError(
            f"the image {path} has pixels of type {image.mode!r}, expected 8 bits; save it as 8-bit RGB"
        )
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise NeurordlError(
            f"the image {path} is partly transparent and what was behind it is not known; "
            "save it without transparency on the background that was shown"
        )
    return _fitted(image, prepared)


def _fitted(image: Image.Image, prepared: Preprocessing) -> npt.NDArray[np.uint8]:
    """(channels, height, width) of an image, converted and resized."""
    image = image.convert("L" if prepared.channels == 1 else "RGB")
    if prepared.size is not None and image.size != prepared.size[::-1]:
        image = image.resize(prepared.size[::-1], Image.Resampling.BILINEAR)
    values = np.asarray(image)
    return values[None] if prepared.channels == 1 else np.moveaxis(values, 2, 0)


def array_pixels(
    array: npt.ArrayLike | Tensor, size: int | Sequence[int] | None, channels: int | None
) -> tuple[Tensor, Preprocessing]:
    """Pixels (n, channels, height, width) of an array: a copy, uint8 from whole numbers, float32 from floats.

    Raises
    ------
    NeurordlError
        A shape other than (n, H, W), (n, H, W, C), (n, C, H, W) with C of 1 or 3, whole numbers outside 0 to
        255, floats that are not finite, or a resize or greying of floats, whose scale is not known.
    """
    values = _channels_first(array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array))
    if values.dtype.kind in "iu":
        if values.min() < 0 or values.max() > 255:
            raise NeurordlError(
                f"whole-number pixels must lie in 0 to 255, but reach from {values.min()} to {values.max()}; "
                "scale them, or give floats"
            )
    elif values.dtype.kind != "f" or not np.isfinite(values).all():
        raise NeurordlError(
            f"pixels must be whole numbers or finite floats, but are {values.dtype}; clean the array"
        )
    if channels == 3 and values.shape[1] == 1:
        values = np.repeat(values, 3, axis=1)
    prepared = Preprocessing(
        cast(Any, values.shape[2:] if size is None else size), channels or values.shape[1]
    )
    target = (len(values), prepared.channels, *cast("tuple[int, int]", prepared.size))
    if values.shape == target:
        kind = np.float32 if values.dtype.kind == "f" else np.uint8
        return torch.from_numpy(np.array(values, dtype=kind, order="C")), prepared
    if values.dtype.kind == "f":
        raise NeurordlError(
            "an array of floats is not resized or turned to grey here; do it before, or give uint8"
        )
    pixels = np.empty(target, dtype=np.uint8)
    for place, image in enumerate(values.astype(np.uint8)):
        pixels[place] = _fitted(
            Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)), prepared
        )
    return torch.from_numpy(pixels), prepared


def _channels_first(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.ndim == 3 and values.size:
        return values[:, None]
    first, last = (values.ndim == 4 and values.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last or not values.size:
        raise NeurordlError(
            f"images must be an array (n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1 or 3 and no other "
            f"axis like it, but its shape is {values.shape}; rearrange it"
        )
    return values if first else np.moveaxis(values, 3, 1)
