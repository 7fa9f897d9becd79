"""Which losses are RDL under another name: equal in value and gradient to published code and to `RDMLoss`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import neurordl as nrl
from tests.training.test_relations import network

PARITY = Path(__file__).parent / "parity"
Loss = Callable[[Tensor, Tensor], Tensor]


def ours(loss: nrl.TransferLoss) -> Loss:
    """A loss of the package as a function of the features of student and teacher."""
    return lambda student, teacher: loss({"x": student}, {"conv3": teacher}, nrl.Batch(student))


def rdm(dissimilarity: nrl.Dissimilarity | str, comparison: nrl.Comparison | str) -> Loss:
    return ours(nrl.RDMLoss(network(), "x", dissimilarity, comparison))


def share(student: Tensor) -> float:
    """Pairs of two different stimuli as a share of all n²: what a mean over all takes in besides adds 0."""
    return 1 - 1 / len(student)


def on_all_entries(loss: Loss) -> Loss:
    return lambda student, teacher: share(student) * loss(student, teacher)


def norm_on_all_entries(loss: Loss) -> Loss:
    """The norm over n² where the loss is the mean of squares."""
    return lambda student, teacher: loss(student, teacher).sqrt() / len(student)


def similarity_by_sums(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity preserving with rows divided by the sums of their magnitudes, as torchdistill has it."""
    rows = [patterns.flatten(1) @ patterns.flatten(1).T for patterns in (student, teacher)]
    first, second = (row / row.abs().sum(1, keepdim=True) for row in rows)
    return (first - second).square().mean()


DISTANCE = on_all_entries(rdm("euclidean_root", "huber"))
ANGLE = ours(nrl.AngleLoss(network(), "x"))
SIMILARITY = ours(nrl.SimilarityPreservingLoss(network(), "x"))
CONGRUENCE = ours(nrl.CorrelationCongruenceLoss(network(), "x"))
BILINEAR = ours(nrl.CorrelationCongruenceLoss(network(), "x", "bilinear"))
PROBABILITIES = ours(nrl.ProbabilisticTransferLoss(network(), "x"))

PUBLISHED: dict[tuple[str, str], Loss] = {
    **{("distance", name): DISTANCE for name in ("repdistiller", "torchdistill", "mdistiller")},
    **{("angle", name): ANGLE for name in ("repdistiller", "torchdistill", "mdistiller")},
    **{("similarity", name): SIMILARITY for name in ("repdistiller", "mdistiller")},
    ("similarity", "torchdistill"): similarity_by_sums,
    ("congruence", "knowledge_distillation_zoo"): CONGRUENCE,
    ("congruence", "torchdistill"): norm_on_all_entries(CONGRUENCE),
    ("congruence", "torchdistill_bilinear"): norm_on_all_entries(BILINEAR),
    **{("probabilities", name): PROBABILITIES for name in ("repdistiller", "torchdistill", "mdistiller")},
    ("cka", "ckatorch"): rdm("euclidean", "cka"),
}


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[float, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert student.grad is not None
    return float(value.detach()), student.grad


@pytest.mark.parametrize("file, implementation", PUBLISHED)
@pytest.mark.parametrize("shape", ["flat", "maps"])
def test_published_code_gives_the_same(file: str, implementation: str, shape: str) -> None:
    with np.load(PARITY / f"{file}.npz") as entries:
        student, teacher = (torch.from_numpy(entries[f"{part}/{shape}"]) for part in ("student", "teacher"))
        expected = torch.from_numpy(entries[f"{implementation}/{shape}"])
    value, gradient = value_and_gradient(PUBLISHED[file, implementation], student, teacher)
    assert value == pytest.approx(float(expected[0]), rel=1e-5)
    largest = float(expected[1:].abs().max())
    torch.testing.assert_close(gradient.flatten(), expected[1:], rtol=0, atol=1e-5 * largest)
    assert largest > 1e-4
