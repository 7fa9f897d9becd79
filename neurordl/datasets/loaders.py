"""Loaders of the public data sets: labelled images, the 92 objects with their RDMs, Haxby et al. (2001)."""

from __future__ import annotations

import gzip
import json
import math
import struct
import tarfile
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from rsatoolbox.rdm.rdms import RDMs

from neurordl.arrays import Floats
from neurordl.datasets.registry import REGISTRY, fetch_haxby, folder_of, require_file
from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.io import damage_named
from neurordl.mat5 import read_mat5
from neurordl.rdms.files import load_rdms
from neurordl.rdms.files.content import Interpretation, condense
from neurordl.rdms.selection import Alignment, align
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import read_table
from neurordl.validate import brief, check_choice, check_count

CIFAR100_MEAN = (0.5102, 0.4888, 0.4381)
CIFAR100_STD = (0.2823, 0.2703, 0.2907)
"""Mean and standard deviation of the channels of `load_cifar100_stretched`."""

Split = Literal["train", "test"]
Labels = Literal["coarse", "fine"]
Pixels = npt.NDArray[np.uint8]

_MNIST_FILES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_CIFAR_COUNTS = {"train": 50_000, "test": 10_000}


# Labelled images


def load_digits() -> StimulusSet:
    """Load 1,797 handwritten digits, gray, 8 x 8, with labels 0 to 9; scikit-learn contains them.

    The 17 gray values are spread over 0 to 255. Ids are "digits-0000" to "digits-1796".
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.datasets.load_digits()
    StimulusSet(1797 stimuli, 1 x 8 x 8, 10 classes, source='scikit-learn load_digits')
    """
    from sklearn.datasets import load_digits as embedded

    digits = embedded()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{number:04d}" for number in range(len(pixels))]
    return StimulusSet.from_array(pixels, ids, labels=digits.target, source="scikit-learn load_digits")


def load_mnist(split: Split = "train", limit: int | None = None) -> StimulusSet:
    """Load MNIST: 60,000 training or 10,000 test digits, gray, 28 x 28, with labels 0 to 9.

    The images are read from the IDX ``.gz`` files under ``mnist`` in `data_root`. Ids are "mnist-train-00000"
    and so on. Source: LeCun, Cortes and Burges.

    Parameters
    ----------
    split
        "train" or "test".
    limit
        The number of images to load, from the first; None loads all.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or not the standard one in type, shape or length.

    Examples
    --------
    >>> import neurordl as nrl
    >>> train = nrl.datasets.load_mnist("train", limit=1000)
    >>> train.ids[-1], train.images([0]).shape
    ('mnist-train-00999', torch.Size([1, 1, 28, 28]))
    """
    return _load_mnist("mnist", split, limit)


def load_fashion_mnist(split: Split = "train", limit: int | None = None) -> StimulusSet:
    """Load Fashion-MNIST: clothes, in the form of `load_mnist`; the table has the ``name`` of each class.

    Source: Xiao, Rasul and Vollgraf (2017).

    Examples
    --------
    >>> import neurordl as nrl
    >>> test = nrl.datasets.load_fashion_mnist("test")
    >>> len(test), list(test.table.columns)
    (10000, ['name', 'label'])
    """
    return _load_mnist("fashion_mnist", split, limit)


def _load_mnist(name: str, split: Split, limit: int | None) -> StimulusSet:
    stem, count = _MNIST_FILES[check_choice("split", split, list(_MNIST_FILES))]
    kept = _limited(count, limit)
    pixels = _read_idx(require_file(name, f"{stem}-images-idx3-ubyte.gz"), (count, 28, 28))[:kept]
    path = require_file(name, f"{stem}-labels-idx1-ubyte.gz")
    labels = _read_idx(path, (count,))[:kept]
    if labels.max() > 9:
        raise NeurordlError(f"{path} is damaged: a label {labels.max()}, expected 0 to 9; fetch it again")
    table = _numbered(f"{name}-{split}", kept)
    if classes := REGISTRY[name].classes:
        table["name"] = np.array(classes)[labels]
    return StimulusSet.from_array(pixels, table["id"], labels=labels, table=table, source=str(path.parent))


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, check_count("limit", limit))


def _numbered(prefix: str, count: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{prefix}-{number:05d}" for number in range(count)]})


def _read_idx(path: Path, shape: tuple[int, ...]) -> Pixels:
    """Read an IDX file of bytes, whose header and size must be those of a known shape."""
    expected = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    with damage_named(path, "fetch it again"), gzip.open(path, "rb") as handle:
        header = handle.read(len(expected))
        if header != expected:
            raise ValueError(f"its header is {header.hex()!r}, expected {expected.hex()!r} for bytes {shape}")
        content = handle.read(math.prod(shape) + 1)  # to the checksum, which follows the last byte
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def load_cifar10(split: Split = "train", limit: int | None = None) -> StimulusSet:
    """Load CIFAR-10: 50,000 training or 10,000 test photographs, RGB, 32 x 32, of 10 classes.

    The images are read from the official ``cifar-10-binary.tar.gz`` under ``cifar10`` in `data_root` (the
    Python version contains pickles), which stays packed. Ids are "cifar10-train-00000" and so on, in the
    official order; the table has the ``name`` of each class. Source: Krizhevsky (2009).

    Parameters
    ----------
    split
        "train" or "test".
    limit
        The number of images to load, from the first; None loads all.

    Raises
    ------
    NeurordlError
        The archive is missing or damaged, or its content is not what it should be.

    Examples
    --------
    >>> import neurordl as nrl
    >>> test = nrl.datasets.load_cifar10("test", limit=1000)
    >>> len(test), test.images([0]).shape
    (1000, torch.Size([1, 3, 32, 32]))
    """
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    batches = {"train": train, "test": ["test_batch.bin"]}
    classes = {"name": ("batches.meta.txt", 10)}
    return _load_cifar("cifar10", "cifar-10-batches-bin", batches, classes, split, "name", limit)


def load_cifar100(split: Split = "train", labels: Labels = "fine", limit: int | None = None) -> StimulusSet:
    """Load CIFAR-100 with 100 fine or 20 coarse classes, like `load_cifar10`; the table has both names.

    The images are read from the official ``cifar-100-binary.tar.gz`` under ``cifar100`` in `data_root`.

    Examples
    --------
    >>> import neurordl as nrl
    >>> test = nrl.datasets.load_cifar100("test", labels="coarse", limit=1000)
    >>> len(test), list(test.table.columns)
    (1000, ['coarse', 'fine', 'label'])
    """
    check_choice("labels", labels, ("coarse", "fine"))
    batches = {"train": ["train.bin"], "test": ["test.bin"]}
    classes = {"coarse": ("coarse_label_names.txt", 20), "fine": ("fine_label_names.txt", 100)}
    return _load_cifar("cifar100", "cifar-100-binary", batches, classes, split, labels, limit)


def _load_cifar(
    name: str,
    folder: str,
    batches: dict[str, list[str]],
    classes: dict[str, tuple[str, int]],
    split: Split,
    labels: str,
    limit: int | None,
) -> StimulusSet:
    """Read an official archive in binary form, which is not unpacked to the disk.

    Each image has a byte for each label, then the planes of red, green and blue, row by row.

    Parameters
    ----------
    name, folder
        The data set, and the folder in its archive.
    batches
        For each split, the files in the folder, with equally many images.
    classes
        For each label, a column of the table: the file with the names of the classes, and their number.
    split, labels, limit
        The part to load, the column that becomes the labels, and the number of images.
    """
    files = batches[check_choice("split", split, list(batches))]
    path = require_file(name, REGISTRY[name].files[0].name)
    total, width = _CIFAR_COUNTS[split], len(classes) + 3 * 32 * 32
    count, each = _limited(total, limit), total // len(files)
    table, content = _numbered(f"{name}-{split}", count), b""
    with damage_named(path, "fetch it again"), tarfile.open(path, "r:gz") as archive:
        for file in files[: math.ceil(count / each)]:
            member = archive.getmember(f"{folder}/{file}")
            if member.size != each * width:
                raise ValueError(f"{file} has {member.size} bytes, expected {each * width}")
            content += archive.extractfile(member).read(count * width - len(content))  # type: ignore[union-attr]
        images = np.frombuffer(content, dtype=np.uint8).reshape(count, width)
        for place, (column, (file, n_classes)) in enumerate(classes.items()):
            text = archive.extractfile(f"{folder}/{file}").read(1 << 16)  # type: ignore[union-attr]
            names, largest = np.array(text.decode("ascii", "replace").split()), images[:, place].max()
            if len(names) != n_classes or largest >= n_classes:
                raise ValueError(f"it has {len(names)} of {n_classes} classes, and a label {largest}")
            table[column] = names[images[:, place]]
    pixels, chosen = images[:, len(classes) :].reshape(-1, 3, 32, 32), images[:, list(classes).index(labels)]
    return StimulusSet.from_array(pixels, table["id"], labels=chosen, table=table, source=str(path))


def load_cifar100_stretched(
    split: Split = "train", labels: Labels = "fine", limit: int | None = None
) -> StimulusSet:
    """Load CIFAR-100 with stretched contrast, RGB, 32 x 32: 50,000 training or 10,000 test images.

    The images are read from ``cifar100_stretched`` in `data_root`, in the official order. Ids are the
    official file names; one that recurs in a split gets "~2". The table has the names of both classes,
    ``fine`` and ``coarse``. Normalize with `CIFAR100_MEAN` and `CIFAR100_STD`. Each image was stretched by
    itself to reach from 0 to 255, which is fine for a comparison of methods, but accuracies are not those
    published for CIFAR-100. 14 training images are duplicates, and 10 test images are in the training set
    too. Source: Krizhevsky (2009); the stretched images are those of the GitHub repository
    cfederer/TrainCNNsWithNeuralData.

    Parameters
    ----------
    split
        "train" or "test".
    labels
        The 100 "fine" or the 20 "coarse" classes.
    limit
        The number of images to load (and to decode), from the first; None loads all.

    Raises
    ------
    NeurordlError
        A file is missing or damaged, or its content is not what its description says.

    Examples
    --------
    >>> import neurordl as nrl
    >>> train = nrl.datasets.load_cifar100_stretched("train", limit=20)
    >>> len(train), list(train.table.columns)
    (20, ['fine', 'coarse', 'label'])
    """
    check_choice("split", split, list(_CIFAR_COUNTS))
    check_choice("labels", labels, ("coarse", "fine"))
    files = ["train_0.npz", "train_1.npz"] if split == "train" else ["test.npz"]
    missing = _limited(_CIFAR_COUNTS[split], limit)
    folder = require_file("cifar100_stretched", files[0]).parent
    parts: list[tuple[Pixels, pd.DataFrame]] = []
    for name in files:
        if missing > 0:
            parts.append(_read_strips(folder / name, missing))
            missing -= len(parts[-1][1])
    if missing > 0:
        raise NeurordlError(f"{folder} lacks {missing} images of {split!r}; fetch it again")
    rows = pd.concat([rows for _, rows in parts], ignore_index=True)
    repeat = rows.groupby("file").cumcount() + 1
    ids = [name if n == 1 else f"{name}~{n}" for name, n in zip(rows["file"], repeat, strict=True)]
    table = pd.DataFrame({"id": ids})
    columns = ("fine_name", "fine_label", "coarse_name", "coarse_label")
    classes = read_table(folder / "class_names.tsv", *columns).reset_index()
    for label in ("fine", "coarse"):
        names = dict(zip(classes[f"{label}_label"], classes[f"{label}_name"], strict=True))
        table[label] = rows[label].map(names)
    pixels = np.concatenate([images for images, _ in parts])
    return StimulusSet.from_array(pixels, ids, labels=rows[labels], table=table, source=str(folder))


def _read_strips(path: Path, limit: int) -> tuple[Pixels, pd.DataFrame]:
    """Cut the first ``limit`` images from lossless WebP strips; also their labels and file names."""
    names = ("webp_bytes", "offsets", "images_per_strip", "labels", "coarse_labels", "filenames")
    code, offsets, per_strip, fine, coarse, files = _read_arrays(path, *names)
    with damage_named(path, "fetch it again"):
        rows = pd.DataFrame({"fine": fine, "coarse": coarse}, dtype=np.int64)
        rows["file"] = np.char.decode(files, "ascii")
        count, each = len(rows), int(per_strip)
        complete = (offsets[0], offsets[-1], len(offsets)) == (0, len(code), -(-count // each) + 1)
        if not complete or each < 1 or (np.diff(offsets) <= 0).any() or code.dtype != np.uint8:
            raise ValueError("the offsets do not fit the images")
        strips = []
        for strip, start in enumerate(range(0, min(limit, count), each)):
            with Image.open(BytesIO(code[offsets[strip] : offsets[strip + 1]].tobytes())) as image:
                strips.append(np.asarray(image))
            if strips[-1].shape != (32 * min(each, count - start), 32, 3):
                raise ValueError(f"strip {strip} has shape {strips[-1].shape}, not that of its images")
        return np.concatenate(strips).reshape(-1, 32, 32, 3)[:limit], rows[:limit]


def _read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Read arrays of an .npz by name, without pickle."""
    with damage_named(path, "fetch it again"), np.load(path, allow_pickle=False) as archive:
        return [archive[name] for name in names]


# The 92 objects

IMAGES92_IDS = tuple(f"stim_{number:03d}" for number in range(1, 93))
# name -> file of the compact form, array in it, ROI
IMAGES92_RDMS = {
    "cichy_it": ("cichy2014_fmri.npz", "it", "IT"),
    "cichy_evc": ("cichy2014_fmri.npz", "evc", "EVC"),
    "human_it": ("kriegeskorte2008.npz", "human_it", "IT"),
    "monkey_it": ("kriegeskorte2008.npz", "monkey_it", "IT"),
}
_SUPPLEMENT = "Kriegeskorte_Neuron2008_supplementalData.mat"
_MAX_JSON_BYTES = 1 << 25  # of an unpacked file of RDMs, which have 3 MB


def load_images92(
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> StimulusSet:
    """Load the 92 objects of Kriegeskorte et al. (2008, Neuron 60:1126) on their gray background, 175 x 175.

    They are read from ``images92`` in `data_root`: from the folder ``stimuli`` with ``stimuli.tsv`` where it
    exists, or else from the paper's supplement, whose images are the same. Ids are `IMAGES92_IDS`; the table
    has ``category`` and binary category columns (from the folder also ``name_by_eye``). There are no labels.
    The parameters are those of `Preprocessing`.

    Examples
    --------
    >>> import neurordl as nrl
    >>> stimuli = nrl.datasets.load_images92(size=64)
    >>> stimuli.ids[0], stimuli.images().shape
    ('stim_001', torch.Size([92, 3, 64, 64]))
    """
    options: Any = {"size": size, "channels": channels, "mean": mean, "std": std}
    folder = folder_of("images92")
    if (folder / "stimuli").is_dir():
        stimuli = StimulusSet.from_folder(folder / "stimuli", labels=folder / "stimuli.tsv", **options)
        if stimuli.ids != IMAGES92_IDS:
            raise NeurordlError(f"{folder} must hold stim_001 to stim_092, but holds others; fetch it again")
        return stimuli
    path = require_file("images92", _SUPPLEMENT)
    with damage_named(path, "fetch it again"):
        structs = read_mat5(path)["stimuli_92objs"]
        pixels = np.stack([item["image"] for item in structs]).astype(np.uint8).reshape(92, 175, 175, 3)
        table = pd.DataFrame({"category": [item["category"] for item in structs]}, index=list(IMAGES92_IDS))
        for name in ("human", "face", "animal", "natural"):
            table[name] = [int(item[name].item()) for item in structs]
    return StimulusSet.from_array(pixels, IMAGES92_IDS, table=table, source=str(path), **options)


def load_images92_rdms(name: str) -> RDMs:
    """Load measured RDMs of the 92 objects of `load_images92`.

    All are 1 - Pearson between response patterns. They are read from ``images92`` in `data_root`: from the
    compact ``.npz`` files where they exist, or else from the official ones, whose numbers have more digits.

    Parameters
    ----------
    name
        One of `IMAGES92_RDMS`. "cichy_it" and "cichy_evc": fMRI, 15 subjects (Cichy, Pantazis & Oliva 2014).
        "human_it": fMRI, 4 subjects in 2 sessions each, an RDM per session; "monkey_it": electrophysiology,
        one RDM (Kriegeskorte et al. 2008).

    Returns
    -------
    RDMs
        With the RDM descriptors ``subject`` and ``roi`` (and ``session`` for "human_it"), and the pattern
        descriptor ``stimulus``.

    Examples
    --------
    >>> import neurordl as nrl
    >>> rdms = nrl.datasets.load_images92_rdms("cichy_it")
    >>> rdms.n_rdm, rdms.n_cond, rdms.rdm_descriptors["subject"][:2]
    (15, 92, ['cichy01', 'cichy02'])
    """
    file, key, roi = IMAGES92_RDMS[check_choice("name", name, list(IMAGES92_RDMS))]
    path = folder_of("images92") / file
    if path.is_file():
        ids, vectors, people = _compact_rdms(path, key)
    else:
        ids = list(IMAGES92_IDS)
        vectors, people = _cichy_rdms(key) if name.startswith("cichy") else _kriegeskorte_rdms(key)
    if name.startswith("cichy"):
        people = {"subject": [f"cichy{number:02d}" for number in range(1, len(vectors) + 1)]}
    elif name == "monkey_it":
        people = {"subject": ["monkey"]}
    return RDMs(
        vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={**people, "roi": [roi] * len(vectors)},
        pattern_descriptors={"stimulus": ids},
    )


People = dict[str, list[str]]


def _compact_rdms(path: Path, key: str) -> tuple[list[str], Floats, People]:
    values, names = _read_arrays(path, key, "ids")
    ids = names.tolist()
    match_ids(IMAGES92_IDS, ids, names=("stimuli of images92", f"RDMs in {path}"))
    n, matrices = len(ids), values.astype(np.float64).reshape(-1, *values.shape[-2:])
    if matrices.shape[1:] != (n, n) or not np.array_equal(matrices, matrices.swapaxes(1, 2)):
        raise NeurordlError(f"{key!r} in {path} should be symmetric {n} x {n} matrices; fetch it again")
    vectors = matrices[:, *np.triu_indices(n, 1)]
    if key != "human_it":
        return ids, vectors, {}
    subjects, sessions = _read_arrays(path, "human_subjects")[0], [str(k + 1) for k in range(values.shape[1])]
    repeated = np.repeat(subjects, len(sessions)).tolist()
    return ids, vectors, {"subject": repeated, "session": sessions * len(subjects)}


def _cichy_rdms(area: str) -> tuple[Floats, People]:
    path = require_file("cichy2014", f"92images_fmri_{area.upper()}_RDMs.gzip")
    with damage_named(path, "fetch it again"), gzip.open(path, "rb") as handle:
        content = json.loads(handle.read(_MAX_JSON_BYTES))
        matrices = np.array(content["data"], dtype=np.float64).reshape(15, 92, 92)
    return condense(matrices, str(path), Interpretation("square")), {}  # symmetric but for the last digits


def _kriegeskorte_rdms(key: str) -> tuple[Floats, People]:
    human = key == "human_it"
    path = require_file("images92", "92_brainRDMs.mat" if human else _SUPPLEMENT)
    # the documentation of these files says that names are read
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        rdms = load_rdms(path, name="RDMs" if human else "RDMs_mIT_hIT_fig1", ids=list(IMAGES92_IDS))
    vectors, described = np.asarray(rdms.dissimilarities, dtype=np.float64), rdms.rdm_descriptors
    if not human:
        return vectors[[str(name).startswith("mIT") for name in described["name"]]][:1], {}
    people = pd.DataFrame(described, dtype=str)[["subject", "session"]].sort_values(["subject", "session"])
    return vectors[people.index], {name: people[name].tolist() for name in ("subject", "session")}


class BrainData(NamedTuple):
    """Stimuli, RDMs and labels (a table by id) in one order; ``report`` says what was matched with what.

    Examples
    --------
    >>> import neurordl as nrl
    >>> stimuli, rdms, labels, report = nrl.datasets.load_brain("images92", size=64)
    >>> list(stimuli.ids) == list(labels.index) == rdms.pattern_descriptors["stimulus"]
    True
    """

    stimuli: StimulusSet
    rdms: RDMs
    labels: pd.DataFrame
    report: Alignment

    def __repr__(self) -> str:
        return brief(self)


def load_brain(name: str, **preprocessing: Any) -> BrainData:
    """Load stimuli, RDMs and labels of "images92" (human IT) or "cichy2014" (EVC and IT), matched by id.

    The other keyword arguments (``size``, ``channels``, ``mean``, ``std``) are those of `load_images92`.

    Examples
    --------
    >>> import neurordl as nrl
    >>> brain = nrl.datasets.load_brain("cichy2014", size=64)
    >>> len(brain.stimuli), sorted(set(brain.rdms.rdm_descriptors["roi"])), brain.rdms.n_rdm
    (92, ['EVC', 'IT'], 30)
    """
    check_choice("name", name, ("images92", "cichy2014"))
    names = ("human_it",) if name == "images92" else ("cichy_evc", "cichy_it")
    stimuli = load_images92(**preprocessing)
    parts = {part: load_images92_rdms(part) for part in names}
    report = align({"stimuli": stimuli, **parts, "labels": stimuli.table})
    rdms, *more = (report[part] for part in names)
    for part in more:
        rdms.append(part)
    return BrainData(report["stimuli"], rdms, report["labels"], report)


# Haxby's faces and houses


class HaxbySlice(NamedTuple):
    """Files of one slice: ``bold`` and ``events`` by run, the brain's ``mask``, ``tr`` in seconds.

    Examples
    --------
    >>> import neurordl as nrl
    >>> bold, events, mask, tr = nrl.datasets.load_haxby2001_slice()
    >>> len(bold) == len(events)
    True
    """

    bold: list[Path]
    events: list[Path]
    mask: Path
    tr: float

    def __repr__(self) -> str:
        return brief(self)


def load_haxby2001_slice() -> HaxbySlice:
    """Find one axial slice of one subject of Haxby et al. (2001) in ``haxby2001_slice`` of `data_root`.

    There are 12 runs of 121 volumes and 8 categories, with one block of each per run; the events are shifted
    by the hemodynamic lag already. Source: the git repository PyMVPA/PyMVPA at 20f0335f, mvpa2/data (MIT).

    Examples
    --------
    >>> import neurordl as nrl
    >>> haxby = nrl.datasets.load_haxby2001_slice()
    >>> len(haxby.bold), haxby.events[0].name, haxby.tr
    (12, 'sub-001_task-objectviewing_run-01_events.tsv', 2.5)
    """
    stems = [f"sub-001_task-objectviewing_run-{run:02d}_" for run in range(1, 13)]
    bold = [require_file("haxby2001_slice", f"{stem}slice_bold.nii.gz") for stem in stems]
    events = [require_file("haxby2001_slice", f"{stem}events.tsv") for stem in stems]
    return HaxbySlice(bold, events, require_file("haxby2001_slice", "slice_brain_mask.nii.gz"), 2.5)


class Haxby(NamedTuple):
    """Files of one subject: ``bold``, ``labels`` (a row per volume), ``masks`` by name, ``tr`` in seconds.

    Examples
    --------
    >>> import neurordl as nrl
    >>> bold, labels, masks, tr = nrl.datasets.load_haxby2001(subject=1)
    >>> "stimulus" in labels, "vt" in masks
    (True, True)
    """

    bold: Path
    labels: pd.DataFrame
    masks: dict[str, Path]
    tr: float

    def __repr__(self) -> str:
        return brief(self)


def load_haxby2001(subject: int = 2) -> Haxby:
    """Load the files of one subject of Haxby et al. (2001); nilearn downloads them where they are missing.

    nilearn keeps them under ``haxby2001`` in `data_root`. The labels have a row per volume, with the columns
    ``stimulus`` (the category, "rest" between blocks) and ``run``, and are shifted by the hemodynamic lag
    already. They are therefore a table for `neurordl.read_betas`, which gives a pattern for each volume,
    without any detrending::

        haxby = load_haxby2001()
        volumes = read_betas(haxby.bold, haxby.labels, haxby.masks["vt"], subject="sub-2")
        names = [name for name in dict.fromkeys(haxby.labels["stimulus"]) if name != "rest"]
        rdms = compute_rdms(volumes.subset_obs("stimulus", names), "crossnobis")

    Parameters
    ----------
    subject
        The number of the subject, 1 to 6.

    Raises
    ------
    NeurordlError
        The subject is unknown, the download fails, or the numbers of labels and of volumes differ.

    Examples
    --------
    >>> import neurordl as nrl
    >>> haxby = nrl.datasets.load_haxby2001(subject=2)
    >>> list(haxby.labels.columns), list(haxby.masks), haxby.tr
    (['stimulus', 'run'], ['brain', 'vt', 'face', 'house'], 2.5)
    """
    check_choice("subject", subject, range(1, 7))
    import nibabel

    files = fetch_haxby(subject)
    bold = Path(files.func[0])
    with damage_named(bold, "fetch it again"):
        labels = pd.read_csv(files.session_target[0], sep=" ")
    volumes = nibabel.load(bold).shape[3]  # type: ignore[attr-defined]
    if volumes != len(labels) or list(labels.columns) != ["labels", "chunks"]:
        raise NeurordlError(f"{bold} has {volumes} volumes, but {len(labels)} labels; fetch it again")
    masks = {"brain": Path(files.mask)}
    for name in ("vt", "face", "house"):
        if paths := files.get(f"mask_{name}"):
            masks[name] = Path(paths[0])
    return Haxby(bold, labels.rename(columns={"labels": "stimulus", "chunks": "run"}), masks, 2.5)


DATASETS: dict[str, Callable[..., StimulusSet]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "cifar100_stretched": load_cifar100_stretched,
    "images92": load_images92,
}
"""The loaders of images by name."""
