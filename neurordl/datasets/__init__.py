"""Named public data sets: what is known of each (`REGISTRY`), `fetch`, and loaders.

They lie in the folder that the environment variable NEURORDL_DATA names, or else in the user's cache.
"""

from __future__ import annotations

from collections.abc import Callable

from neurordl.datasets.brain import (
    IMAGES92_IDS,
    IMAGES92_RDMS,
    BrainData,
    Haxby,
    HaxbySlice,
    load_brain,
    load_haxby2001,
    load_haxby2001_slice,
    load_images92,
    load_images92_rdms,
)
from neurordl.datasets.cifar import (
    CIFAR100_MEAN,
    CIFAR100_STD,
    load_cifar10,
    load_cifar100,
    load_cifar100_stretched,
)
from neurordl.datasets.download import data_root, fetch, folder_of, status
from neurordl.datasets.images import load_digits, load_fashion_mnist, load_mnist
from neurordl.datasets.registry import REGISTRY, DataSet, File, known
from neurordl.stimuli import StimulusSet

__all__ = [
    "CIFAR100_MEAN",
    "CIFAR100_STD",
    "DATASETS",
    "IMAGES92_IDS",
    "IMAGES92_RDMS",
    "REGISTRY",
    "BrainData",
    "DataSet",
    "File",
    "Haxby",
    "HaxbySlice",
    "data_root",
    "fetch",
    "folder_of",
    "known",
    "load_brain",
    "load_cifar10",
    "load_cifar100",
    "load_cifar100_stretched",
    "load_digits",
    "load_fashion_mnist",
    "load_haxby2001",
    "load_haxby2001_slice",
    "load_images92",
    "load_images92_rdms",
    "load_mnist",
    "status",
]

DATASETS: dict[str, Callable[..., StimulusSet]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "cifar100_stretched": load_cifar100_stretched,
    "images92": load_images92,
}
