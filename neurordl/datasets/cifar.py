"""CIFAR-10 and CIFAR-100 from the official binary archives, and CIFAR-100 in a compact form."""

from __future__ import annotations

import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from neurordl.datasets.download import wanted_file
from neurordl.datasets.reading import arrays, choose, first
from neurordl.errors import NeurordlError
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.tables import read_table

__all__ = ["CIFAR100_MEAN", "CIFAR100_STD", "load_cifar10", "load_cifar100", "load_cifar100_stretched"]

# of the stretched images
CIFAR100_MEAN = (0.5102, 0.4888, 0.4381)
CIFAR100_STD = (0.2823, 0.2703, 0.2907)
_CIFAR_COUNTS = {"train": 50_000, "test": 10_000}
_CIFAR10_MEMBERS = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}
_CIFAR_FILES = {"train": ("train_0.npz", "train_1.npz"), "test": ("test.npz",)}


def load_cifar10(split: Literal["train", "test"] = "train", limit: int | None = None) -> StimulusSet:
    """CIFAR-10: 50,000 training or 10,000 test photographs, RGB, 32 x 32, of 10 classes.

    Read from the official ``cifar-10-binary.tar.gz`` under ``cifar10`` in `data_root` (the python version
    holds pickles), which stays packed. Ids are "cifar10-train-00000" and so on, in the official order; the
    table has the ``name`` of each class. Source: Krizhevsky (2009).

    Raises
    ------
    NeurordlError
        The archive is missing or damaged, or holds other than it should.
    """
    members = choose(_CIFAR10_MEMBERS, split, "split of cifar10")
    path = wanted_file("cifar10", "cifar-10-binary.tar.gz")
    kept = first(_CIFAR_COUNTS[split], limit)
    records = _records(path, members, _CIFAR_COUNTS[split] // len(members), 1, kept)
    names = _class_names(path, "cifar-10-batches-bin/batches.meta.txt", 10)
    return _cifar("cifar10", split, path, records, 1, {"name": (0, names)}, 0)


def load_cifar100(
    split: Literal["train", "test"] = "train",
    labels: Literal["coarse", "fine"] = "fine",
    limit: int | None = None,
) -> StimulusSet:
    """CIFAR-100: as `load_cifar10`, of 100 fine or 20 coarse classes; the table has the names of both.

    Read from the official ``cifar-100-binary.tar.gz`` under ``cifar100`` in `data_root`.
    """
    choose(_CIFAR_COUNTS, split, "split of cifar100")
    choose({"coarse": 0, "fine": 0}, labels, "kind of labels of cifar100")
    path = wanted_file("cifar100", "cifar-100-binary.tar.gz")
    kept = first(_CIFAR_COUNTS[split], limit)
    records = _records(path, (f"cifar-100-binary/{split}.bin",), _CIFAR_COUNTS[split], 2, kept)
    columns = {
        kind: (place, _class_names(path, f"cifar-100-binary/{kind}_label_names.txt", count))
        for place, (kind, count) in enumerate((("coarse", 20), ("fine", 100)))
    }
    return _cifar("cifar100", split, path, records, 2, columns, columns[labels][0])


def _cifar(
    name: str,
    split: str,
    path: Path,
    records: npt.NDArray[np.uint8],
    n_labels: int,
    columns: dict[str, tuple[int, list[str]]],
    chosen: int,
) -> StimulusSet:
    """Records of labels, then the planes of red, green and blue, each row by row."""
    ids = [f"{name}-{split}-{place:05d}" for place in range(len(records))]
    table = pd.DataFrame({"id": ids})
    for column, (place, names) in columns.items():
        largest = records[:, place].max()
        if largest >= len(names):
            raise NeurordlError(
                f"{path} holds a label {largest}, expected 0 to {len(names) - 1}: it is damaged"
            )
        table[column] = np.array(names)[records[:, place]]
    pixels = records[:, n_labels:].reshape(-1, 3, 32, 32)
    return StimulusSet.from_array(pixels, ids, labels=records[:, chosen], table=table, source=str(path))


def _records(
    path: Path, members: tuple[str, ...], each: int, n_labels: int, limit: int
) -> npt.NDArray[np.uint8]:
    """The first records of an archive's members, each member of exactly the size it should have."""
    width, parts = n_labels + 3 * 32 * 32, []
    for member in members:
        if limit > 0:
            content = _member(path, member, each * width, min(limit, each) * width)
            parts.append(np.frombuffer(content, dtype=np.uint8).reshape(-1, width))
            limit -= each
    return np.concatenate(parts)


def _class_names(path: Path, member: str, count: int) -> list[str]:
    names = _member(path, member, None, 1 << 16).decode("ascii", "replace").split()
    if len(names) != count:
        raise NeurordlError(f"{member} in {path} has {len(names)} names, expected {count}; fetch it again")
    return names


def _member(path: Path, member: str, size: int | None, limit: int) -> bytes:
    """Bytes of a file in an archive, which is not unpacked to the disk."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            info = archive.getmember(member)
            if size is not None and info.size != size:
                raise NeurordlError(
                    f"{member} in {path} has {info.size} bytes, expected {size}; fetch it again"
                )
            handle: IO[bytes] | None = archive.extractfile(info)
            content = handle.read(limit) if handle is not None else b""
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        raise NeurordlError(f"cannot read {member} in {path}: {error}; fetch it again") from error
    if size is not None and len(content) != limit:
        raise NeurordlError(f"{member} in {path} is cut short: it is damaged, fetch it again")
    return content


def load_cifar100_stretched(
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
    files = choose(_CIFAR_FILES, split, "split of cifar100")
    choose({"coarse": 0, "fine": 0}, labels, "kind of labels of cifar100")
    wanted = first(_CIFAR_COUNTS[split], limit)
    folder = wanted_file("cifar100_stretched", files[0]).parent
    parts: list[tuple[npt.NDArray[np.uint8], pd.DataFrame]] = []
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
    held = arrays(path, "webp_bytes", "offsets", "images_per_strip", "labels", "coarse_labels", "filenames")
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
