"""By what images are known again, under any name: a checksum of each, and a small gray copy."""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from neurordl.arrays import Bools, Ints

Bytes = npt.NDArray[np.uint8]

_DIGEST, _SIDE = 8, 10  # bytes of a checksum; pixels along a side of the gray copy
# Correlation of gray copies above which an image is nearly a copy. Of 1,000 digits of MNIST, 5 are by mistake
# among 19,000 others; JPEG of quality 75 or 3 gray levels of noise keep 98 % or more of CIFAR's images above.
_NEARLY = 0.997
_UNLIKE = 0.9  # below, images that have the same id are different images
_FLAT = 0.008  # of the range of gray: an image that varies by less has no gray copy
_MOST = 10_000  # images of a set with a gray copy each
_AT_ONCE = 256


class Copies(NamedTuple):
    """For each image, the row of the known image that it is a copy of, or -1; and whether it is identical."""

    row: Ints
    identical: Bools


def fingerprints(pixels: Tensor) -> Bytes:
    """Compute the fingerprint of each image.

    Parameters
    ----------
    pixels
        (n, channels, height, width), uint8 or floats.

    Returns
    -------
    array of uint8, (n, 108)
        A checksum of 8 bytes, and a gray copy of 10 x 10 pixels, stretched from 0 (its darkest) to 255, and
        all zeros if the image is uniform. Of more than 10,000 images, (n, 8): only the checksums.
    """
    contiguous = np.ascontiguousarray(pixels.numpy())
    texts = b"".join(hashlib.sha256(image).digest()[:_DIGEST] for image in contiguous)
    digests = np.frombuffer(texts, np.uint8).reshape(-1, _DIGEST)
    if len(pixels) > _MOST:
        return digests
    parts = (part.float().mean(1, keepdim=True) for part in torch.split(pixels, _AT_ONCE))
    side = (_SIDE, _SIDE)
    small = [interpolate(part, side, mode="bilinear", antialias=True) for part in parts]
    gray = torch.cat(small).flatten(1)
    size = 255.0 if pixels.dtype == torch.uint8 else gray.abs().amax(1, keepdim=True)
    low, high = gray.amin(1, keepdim=True), gray.amax(1, keepdim=True)
    visible = (gray.std(1, keepdim=True) > _FLAT * size) & torch.isfinite(high - low)
    stretched = (255 * (gray - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).round()
    return np.hstack([digests, torch.where(visible, stretched, 0).to(torch.uint8).numpy()])


def find_copies(images: Bytes, known: Bytes) -> Copies:
    """Find images among known ones by their fingerprints: identical ones, or else nearly the same.

    Nearly the same are those whose gray copies correlate above .997: the image saved as JPEG, in another
    brightness or contrast, or with a little noise, but not another digit of the same class.
    """
    digests, digests_too = (prints[:, :_DIGEST].copy().view("<u8")[:, 0] for prints in (images, known))
    order = np.argsort(digests_too, kind="stable")
    place = np.minimum(np.searchsorted(digests_too, digests, sorter=order), len(known) - 1)
    exact = np.where(digests_too[order[place]] == digests, order[place], -1)
    if 0 not in (images.shape[1] - _DIGEST, known.shape[1] - _DIGEST):
        alike = _centered(images[:, _DIGEST:]) @ _centered(known[:, _DIGEST:]).T
        nearest = alike.argmax(axis=1)
        nearly = alike[np.arange(len(images)), nearest] > _NEARLY
        return Copies(np.where(exact >= 0, exact, np.where(nearly, nearest, -1)), exact >= 0)
    return Copies(exact, exact >= 0)


def differ(images: Bytes, namesakes: Bytes) -> Bools:
    """Whether each image is surely another than that of the same row, although they have the same id."""
    same = (images[:, :_DIGEST] == namesakes[:, :_DIGEST]).all(axis=1)
    if 0 in (images.shape[1] - _DIGEST, namesakes.shape[1] - _DIGEST):
        return np.asarray(~same)
    small, small_too = (_centered(prints[:, _DIGEST:]) for prints in (images, namesakes))
    unlike = (small * small_too).sum(axis=1) < _UNLIKE
    return np.asarray(~same & unlike)


def _centered(small: Bytes) -> npt.NDArray[np.float32]:
    """Gray copies of mean 0 and length 1; uniform ones are 0."""
    values = small.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True) if values.size else 0
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1.0))


def encoded(prints: Bytes) -> str:
    """Fingerprints as text, for ``run.json``."""
    return base64.b64encode(prints.tobytes()).decode()


def decoded(text: str, n: int) -> Bytes:
    """Fingerprints of n images from the text of `encoded`."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(n, -1)
