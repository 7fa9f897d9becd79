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


def icosphere(subdivisions: int = 1, radius: float = 50.0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Coordinates and triangles of a sphere: 12, 42, 162, 642, ... vertices, as of FreeSurfer's templates."""
    golden = (1 + 5**0.5) / 2
    points = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    vertices = [tuple(np.roll(point, turn)) for turn in range(3) for point in points]
    apart = np.linalg.norm(np.array(vertices)[:, None] - np.array(vertices), axis=-1)
    near = (apart > 0) & (apart < 2.1)
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    coordinates = np.array(vertices, dtype=float)
    for _ in range(subdivisions):
        triangles = np.array(faces)
        edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        unique, which = np.unique(edges, axis=0, return_inverse=True)
        a, b, c = len(coordinates) + which.reshape(-1, 3).T
        i, j, k = triangles.T
        coordinates = np.concatenate([coordinates, coordinates[unique].mean(axis=1)])
        faces = np.concatenate(
            [np.stack(t, 1) for t in ((i, a, c), (a, j, b), (c, b, k), (a, b, c))]
        ).tolist()
    lengths = np.linalg.norm(coordinates, axis=1, keepdims=True)
    return radius * coordinates / lengths, np.array(faces, dtype=np.int32)
