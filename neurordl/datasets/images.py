"""Labelled grey images: digits, MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from neurordl.datasets.download import wanted_file
from neurordl.datasets.reading import choose, first
from neurordl.errors import NeurordlError
from neurordl.stimuli import StimulusSet

__all__ = [
    "FASHION_CLASSES",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
]

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_MNIST_FILES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}


def load_digits() -> StimulusSet:
    """1,797 handwritten digits, grey, 8 x 8, with labels 0 to 9; embedded in scikit-learn, works offline.

    Its 17 grey values are spread over 0 to 255. Ids are "digits-0000" to "digits-1796".
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
    """
    from sklearn.datasets import load_digits as embedded

    digits = embedded()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{place:04d}" for place in range(len(pixels))]
    return StimulusSet.from_array(pixels, ids, labels=digits.target, source="scikit-learn load_digits")


def load_mnist(split: Literal["train", "test"] = "train", limit: int | None = None) -> StimulusSet:
    """MNIST: 60,000 training or 10,000 test digits, grey, 28 x 28, with labels 0 to 9.

    Read from the IDX ``.gz`` files under ``mnist`` in `data_root`. Ids are "mnist-train-00000" and so on;
    ``limit`` takes the first ones. Source: LeCun, Cortes and Burges.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or not the standard one in type, shape or length.
    """
    return _mnist("mnist", split, limit)


def load_fashion_mnist(split: Literal["train", "test"] = "train", limit: int | None = None) -> StimulusSet:
    """Fashion-MNIST: clothes, in the form of `load_mnist`; the table has the ``name`` of each class.

    Source: Xiao, Rasul and Vollgraf (2017).
    """
    stimuli = _mnist("fashion_mnist", split, limit)
    return _with_names(stimuli, {"name": dict(enumerate(FASHION_CLASSES))})


def _mnist(name: str, split: str, limit: int | None) -> StimulusSet:
    stem, count = choose(_MNIST_FILES, split, f"split of {name}")
    kept = first(count, limit)
    pixels = _read_idx(wanted_file(name, f"{stem}-images-idx3-ubyte.gz"), (count, 28, 28))[:kept]
    path = wanted_file(name, f"{stem}-labels-idx1-ubyte.gz")
    labels = _read_idx(path, (count,))[:kept]
    if labels.max() > 9:
        raise NeurordlError(
            f"{path.parent} holds a label {labels.max()}, expected 0 to 9: a file is damaged, replace it"
        )
    ids = [f"{name}-{split}-{place:05d}" for place in range(kept)]
    return StimulusSet.from_array(pixels, ids, labels=labels, source=str(path.parent))


def _with_names(stimuli: StimulusSet, columns: dict[str, dict[int, str]]) -> StimulusSet:
    """The names of the classes beside their numbers."""
    table = stimuli.table.assign(
        **{name: stimuli.table["label"].map(known) for name, known in columns.items()}
    )
    return replace(stimuli, table=table)


def _read_idx(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes of a known shape: nothing is allocated on the word of its header."""
    expected = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    size = math.prod(shape)
    try:
        with gzip.open(path, "rb") as handle:
            header = handle.read(len(expected))
            content = handle.read(size + 1) if header == expected else b""  # one more reaches the checksum
    except (OSError, EOFError, zlib.error) as error:
        raise NeurordlError(
            f"cannot read {path}: {error}; it is missing or damaged, fetch it again"
        ) from error
    if header != expected:
        raise NeurordlError(
            f"{path} is not an IDX file of bytes {shape}: its header is {header.hex()!r}, expected "
            f"{expected.hex()!r}; fetch it again"
        )
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise NeurordlError(
            f"{path} should hold {size} bytes after its header, but holds {found}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
