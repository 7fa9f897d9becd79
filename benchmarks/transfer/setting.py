"""What the transfer study trains on: images and their parts, teachers, and where results are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import nn

import neurordl as nrl
from neurordl import datasets
from neurordl.datasets.loaders import CIFAR100_MEAN, CIFAR100_STD

HERE = Path(__file__).resolve().parent
TEACHERS = HERE / "teachers"
RUNS = HERE.parent / "runs" / "transfer"
RESULTS = HERE / "results"
N_VALIDATION = 5_000


@dataclass(frozen=True)
class Source:
    """A data set of the study.

    Attributes
    ----------
    classes, channels, size : int
        Number of classes, and channels and pixels of an image.
    mean, std : tuple of float
        Of each channel.
    pad : int
        Largest shift of an augmented image, in pixels.
    mirror : bool
        Whether augmented images are mirrored.
    depth : int
        Layers of the teacher, a `cifar_resnet` of width 16.
    """

    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    mirror: bool
    depth: int

    def network(self, depth: int | None = None) -> nn.Module:
        """A new network of the teacher's kind."""
        return nrl.students.cifar_resnet(self.classes, self.channels, depth=depth or self.depth)


SOURCES = {
    "mnist": Source(10, 1, 28, (0.1307,), (0.3081,), pad=2, mirror=False, depth=8),
    "cifar100": Source(100, 3, 32, CIFAR100_MEAN, CIFAR100_STD, pad=4, mirror=True, depth=20),
}


@dataclass(frozen=True)
class Parts:
    """Training images, which the teacher has seen; validation images, to choose by; test images."""

    train: nrl.StimulusSet
    validation: nrl.StimulusSet
    test: nrl.StimulusSet


@cache
def load(name: str) -> Parts:
    """The parts of a data set. Training images that are test or validation images too are left out."""
    reader = {"mnist": datasets.load_mnist, "cifar100": datasets.load_cifar100_stretched}[name]
    train, test = (_normalized(name, reader(split)) for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train.ids))
    validation = train.subset([train.ids[row] for row in np.sort(order[:N_VALIDATION])])
    seen = {image.numpy().tobytes() for part in (validation, test) for image in part.pixels}
    rest = [train.ids[row] for row in np.sort(order[N_VALIDATION:])]
    others = train.subset(rest)
    kept = [
        name for name, image in zip(rest, others.pixels, strict=True) if image.numpy().tobytes() not in seen
    ]
    return Parts(others.subset(kept), validation, test)


def _normalized(name: str, images: nrl.StimulusSet) -> nrl.StimulusSet:
    source = SOURCES[name]
    made: nrl.StimulusSet = nrl.StimulusSet.from_array(
        images.pixels, images.ids, labels=images.labels, mean=source.mean, std=source.std
    )
    return made


def teacher_file(name: str) -> Path:
    """Where the weights of a teacher are."""
    return TEACHERS / f"{name}.safetensors"


def trained_network(name: str) -> nn.Module:
    """The trained teacher network of a data set, in eval mode."""
    network = SOURCES[name].network()
    network.load_state_dict(load_file(teacher_file(name)))
    return network.eval()
