"""What tests of several folders share: random RDMs and images, and a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor, nn

from neurordl import StimulusSet, students


def random_rdms(
    ids: Sequence[str], n: int = 1, seed: int = 1, measure: str | None = "correlation", **descriptors: Any
) -> RDMs:
    """RDMs with independent values from 0 to 1; descriptors such as ``subject`` also give their number."""
    n = len(next(iter(descriptors.values()))) if descriptors else n
    return RDMs(
        np.random.default_rng(seed).random((n, len(ids) * (len(ids) - 1) // 2)),
        dissimilarity_measure=measure,
        rdm_descriptors=descriptors,
        pattern_descriptors={"stimulus": list(ids)},
    )


def random_stimuli(
    n: int, seed: int = 0, ids: Sequence[str] | None = None, labels: npt.ArrayLike | None = None
) -> StimulusSet:
    """Gray images of 8 x 8 random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return StimulusSet.from_array(pixels, ids or [f"i{k}" for k in range(n)], labels=labels)


def random_images(n: int, seed: int = 1) -> Tensor:
    """A batch of images, (n, 1, 8, 8)."""
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def student(seed: int = 0, **options: Any) -> nn.Module:
    """A small network of four classes for gray images, with the weights of a seed."""
    torch.manual_seed(seed)
    return students.small_cnn(4, 1, width=4, **options)
