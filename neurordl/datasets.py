"""Named data sets, read from this machine: scikit-learn's digits, and what the folder NEURORDL_DATA holds."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from neurordl.errors import NeurordlError
from neurordl.matching import match_ids
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.tables import read_table

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

__all__ = [
    "CIFAR100_MEAN",
    "CIFAR100_STD",
    "DATASETS",
    "IMAGES92_IDS",
    "IMAGES92_RDMS",
    "data_root",
    "load_cifar100",
    "load_digits",
    "load_images92",
    "load_images92_rdms",
    "load_mnist",
]

Value = TypeVar("Value")

CIFAR100_MEAN = (0.5102, 0.4888, 0.4381)
CIFAR100_STD = (0.2823, 0.2703, 0.2907)
IMAGES92_IDS = tuple(f"stim_{number:03d}" for number in range(1, 93))
# name -> file, array in it, ROI
IMAGES92_RDMS = {
    "cichy_it": ("cichy2014_fmri.npz", "it", "IT"),
    "cichy_evc": ("cichy2014_fmri.npz", "evc", "EVC"),
    "human_it": ("kriegeskorte2008.npz", "human_it", "IT"),
    "monkey_it": ("kriegeskorte2008.npz", "monkey_it", "IT"),
}
_MNIST_FILES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_CIFAR_COUNTS = {"train": 50_000, "test": 10_000}
_CIFAR_FILES = {"train": ("train_0.npz", "train_1.npz"), "test": ("test.npz",)}


def data_root() -> Path:
    """The folder that the environment variable NEURORDL_DATA names; unset, or no folder, is an error."""
    named = os.environ.get("NEURORDL_DATA", "")
    if not named:
        raise NeurordlError(
            "the environment variable NEURORDL_DATA is not set: it must name the folder that holds the data "
            "sets (mnist, cifar100_stretched, images92), as in: export NEURORDL_DATA=/path/to/data"
        )
    if not Path(named).is_dir():
        raise NeurordlError(f"NEURORDL_DATA names {named}, which is not a folder; set it to the data folder")
    return Path(named)


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
    stem, count = _choose(_MNIST_FILES, split, "split of mnist")
    folder = data_root() / "mnist"
    kept = _first(count, limit)
    pixels = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz", (count, 28, 28))[:kept]
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", (count,))[:kept]
    if labels.max() > 9:
        raise NeurordlError(
            f"{folder} holds a label {labels.max()}, expected 0 to 9: a file is damaged, replace it"
        )
    ids = [f"mnist-{split}-{place:05d}" for place in range(kept)]
    return StimulusSet.from_array(pixels, ids, labels=labels, source=str(folder))


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


def load_cifar100(
    split: Literal["train", "test"] = "train",
    labels: Literal["coarse", "fine"] = "fine",
    limit: int | None = None,
) -> StimulusSet:
    """CIFAR-100 with stretched contrast, RGB, 32 x 32: 50,000 training or 10,000 test images.

    Read from ``cifar100_stretched`` in `data_root`, in the official order; ``limit`` takes (and decodes) the
    first ones. Ids are the official file names; one that comes again in a split gets "~2". The table has the
    names of both classes, ``fine`` and ``coarse``. Normalise with `CIFAR100_MEAN` and `CIFAR100_STD`.
    Each image was stretched by itself to reach from 0 to 255: fine for comparing methods, but accuracies are
    not those published for CIFAR-100. 14 training images are duplicates, and 10 test images are in the
    training set too. Source: Krizhevsky (2009); the stretched images are those of the GitHub repository
    cfederer/TrainCNNsWithNeuralData.

    Raises
    ------
    NeurordlError
        A file is missing or damaged, or holds other than its description says.
    """
    files = _choose(_CIFAR_FILES, split, "split of cifar100")
    _choose({"coarse": 0, "fine": 0}, labels, "kind of labels of cifar100")
    folder = data_root() / "cifar100_stretched"
    parts: list[tuple[npt.NDArray[np.uint8], pd.DataFrame]] = []
    wanted = _first(_CIFAR_COUNTS[split], limit)
    for name in files:
        if wanted > 0:
            parts.append(_read_strips(folder / name, wanted))
            wanted -= len(parts[-1][1])
    if wanted > 0:
        raise NeurordlError(f"{folder} holds {wanted} images too few for {split!r}; fetch it again")
    pixels = np.concatenate([images for images, _ in parts])
    rows = pd.concat([rows for _, rows in parts], ignore_index=True)
    repeat = rows.groupby("file").cumcount() + 1
    ids = [name if n == 1 else f"{name}~{n}" for name, n in zip(rows["file"], repeat, strict=True)]
    table = pd.DataFrame({"id": ids})
    named = read_table(folder / "class_names.tsv", "fine_name", "fine_label", "coarse_name", "coarse_label")
    for kind in ("fine", "coarse"):
        names = (
            named.reset_index().drop_duplicates(f"{kind}_label").set_index(f"{kind}_label")[f"{kind}_name"]
        )
        table[kind] = rows[kind].map(names)
    return StimulusSet.from_array(pixels, ids, labels=rows[labels], table=table, source=str(folder))


def _read_strips(path: Path, limit: int) -> tuple[npt.NDArray[np.uint8], pd.DataFrame]:
    """Images cut from lossless WebP strips, and their labels and file names; the first ``limit`` of them."""
    held = _arrays(path, "webp_bytes", "offsets", "images_per_strip", "labels", "coarse_labels", "filenames")
    code, offsets = held["webp_bytes"], held["offsets"]
    try:
        rows = pd.DataFrame({"fine": held["labels"], "coarse": held["coarse_labels"]}, dtype=np.int64)
        rows["file"] = np.char.decode(held["filenames"], "ascii")
        count, per_strip = len(rows), int(held["images_per_strip"])
        whole = (offsets[0], offsets[-1], len(offsets)) == (0, len(code), -(-count // per_strip) + 1)
        if not whole or per_strip < 1 or (np.diff(offsets) <= 0).any() or code.dtype != np.uint8:
            raise ValueError("the offsets do not fit the images")
    except (ValueError, TypeError, LookupError, ZeroDivisionError) as error:
        raise NeurordlError(f"{path} contradicts itself ({error}): it is damaged, fetch it again") from error
    rows = rows[:limit]
    pixels = np.empty((len(rows), 32, 32, 3), dtype=np.uint8)
    for strip, start in enumerate(range(0, len(rows), per_strip)):
        try:
            with Image.open(BytesIO(code[offsets[strip] : offsets[strip + 1]].tobytes())) as image:
                values = np.asarray(image)
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise NeurordlError(f"cannot decode strip {strip} of {path}: {error}; fetch it again") from error
        if values.shape != (32 * min(per_strip, count - start), 32, 3):
            raise NeurordlError(f"strip {strip} of {path} has shape {values.shape}, not that of its images")
        images = values.reshape(-1, 32, 32, 3)[: len(rows) - start]
        pixels[start : start + len(images)] = images
    return pixels, rows


def load_images92(
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> StimulusSet:
    """The 92 objects of Kriegeskorte et al. (2008, Neuron 60:1126) on the grey that was shown, 175 x 175.

    Read from ``images92`` in `data_root`. Ids are `IMAGES92_IDS`; the table has ``name_by_eye``, ``category``
    and binary category columns; no labels. The arguments are those of `Preprocessing`.
    """
    folder = data_root() / "images92"
    stimuli = StimulusSet.from_folder(
        folder / "stimuli", size, channels, mean, std, labels=folder / "stimuli.tsv"
    )
    if stimuli.ids != IMAGES92_IDS:
        raise NeurordlError(f"{folder} must hold stim_001 to stim_092, but holds others; fetch it again")
    return stimuli


def load_images92_rdms(which: str) -> RDMs:
    """Measured RDMs of the 92 objects of `load_images92`, one of `IMAGES92_RDMS`.

    "cichy_it", "cichy_evc": fMRI, 15 subjects (Cichy, Pantazis & Oliva 2014). "human_it": fMRI, 4 subjects in
    2 sessions each, an RDM per session; "monkey_it": electrophysiology, one RDM (Kriegeskorte et al. 2008).
    All are 1 - Pearson between response patterns.

    Returns
    -------
    RDMs
        Rdm descriptors ``subject``, ``roi`` (``session`` for "human_it"); pattern descriptor ``stimulus``.
    """
    from rsatoolbox.rdm.rdms import RDMs

    file, key, roi = _choose(IMAGES92_RDMS, which, "RDMs of images92")
    path = data_root() / "images92" / file
    held = _arrays(path, key, "ids", *(["human_subjects"] if which == "human_it" else []))
    ids = held["ids"].tolist()
    match_ids(IMAGES92_IDS, ids, what=("stimuli of images92", f"RDMs in {path}"))
    given = held[key].astype(np.float64)
    matrices = given.reshape(-1, *given.shape[-2:])
    if matrices.shape[1:] != (len(ids), len(ids)) or not np.array_equal(matrices, matrices.swapaxes(1, 2)):
        raise NeurordlError(
            f"{key!r} in {path} should be symmetric {len(ids)} x {len(ids)} matrices; fetch it again"
        )
    descriptors: dict[str, list[str]] = {
        "subject": [f"cichy{place:02d}" for place in range(1, len(matrices) + 1)]
    }
    if which == "human_it":
        people, sessions = held["human_subjects"].tolist(), [str(n + 1) for n in range(given.shape[1])]
        descriptors = {"subject": [p for p in people for _ in sessions], "session": sessions * len(people)}
    elif which == "monkey_it":
        descriptors = {"subject": ["monkey"]}
    rows, columns = np.triu_indices(len(ids), 1)
    return RDMs(
        matrices[:, rows, columns],
        dissimilarity_measure="correlation",
        rdm_descriptors={**descriptors, "roi": [roi] * len(matrices)},
        pattern_descriptors={"stimulus": ids},
    )


def _arrays(path: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError) as error:
        raise NeurordlError(
            f"cannot read {', '.join(names)} from {path}: {error}; fetch the file again"
        ) from error


def _choose(known: Mapping[str, Value], name: str, what: str) -> Value:
    if name not in known:
        raise NeurordlError(f"unknown {what} {name!r}: expected one of {', '.join(known)}")
    return known[name]


def _first(count: int, limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise NeurordlError(f"limit must be 1 or more, but is {limit!r}")
    return count if limit is None else min(count, limit)


DATASETS: dict[str, Callable[..., StimulusSet]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar100": load_cifar100,
    "images92": load_images92,
}
