"""Which losses are RDL under another name: the rows of the table in `docs/transfer_losses.md`.

Published code gives the same values and gradients, and so does `RDMLoss` with the choices of the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from torch import Tensor
from torch.nn import functional

import neurordl as nrl
from tests.training.test_relations import network

PARITY = Path(__file__).parent / "parity"
PAGE = (Path(__file__).parents[2] / "docs" / "transfer_losses.md").read_text(encoding="utf-8")
Loss = Callable[[Tensor, Tensor], Tensor]


def ours(loss: nrl.TransferLoss) -> Loss:
    """A loss of the package as a function of the features of student and teacher."""
    return lambda student, teacher: loss({"x": student}, {"conv3": teacher}, nrl.Batch(student))


def rdm(dissimilarity: Any, comparison: Any) -> Loss:
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
    ("cka", "cka_similarity"): rdm("euclidean", "cka"),
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


# The table


def of_the_page() -> dict[str, Any]:
    """The comparisons and the dissimilarity that the page defines."""
    names: dict[str, Any] = {}
    exec(BLOCKS[1], names)
    return names


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
CODE = of_the_page()


def test_weights_of_the_page_make_the_losses_twice_the_task_loss() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)
    first = names["first"]
    total = sum(loss.weight * float(first[loss.name]) for loss in names["losses"])
    assert total == pytest.approx(2 * float(first["task"]), rel=1e-5)


def of_unit_length(loss: Loss) -> Loss:
    def on_units(student: Tensor, teacher: Tensor) -> Tensor:
        return loss(*(functional.normalize(patterns.flatten(1)) for patterns in (student, teacher)))

    return on_units


def similarity_with_one_norm(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity preserving of patterns less their mean, with one norm for each matrix."""
    centered = (patterns.flatten(1) - patterns.flatten(1).mean(0) for patterns in (student, teacher))
    first, second = (patterns @ patterns.T for patterns in centered)
    return (first / first.norm() - second / second.norm()).square().mean()


def linear_cka(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CKA from products of features, less their mean."""
    x, y = (patterns.flatten(1) - patterns.flatten(1).mean(0) for patterns in (student, teacher))
    return 1 - (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def times_two_over_entries(loss: Loss) -> Loss:
    return lambda student, teacher: 2 / len(student) ** 2 * loss(student, teacher)


def exact(order: int | None, gamma: float) -> Loss:
    return ours(nrl.CorrelationCongruenceLoss(network(), "x", gamma=gamma, order=order))


def kernel(patterns: Tensor) -> Tensor:
    """1 minus the Gaussian kernel itself, from Euclidean distances of patterns of unit length."""
    distances = torch.pdist(functional.normalize(patterns))
    return 1 - (-0.7 * distances.square()).exp()


def congruence(patterns: Tensor) -> Tensor:
    values: Tensor = CODE["congruence"](patterns, gamma=1.1, order=4)
    return values


def distance_on_all_entries(student: Tensor, teacher: Tensor) -> Tensor:
    """The distance term as its authors' code takes it: over matrices with their diagonals."""
    flat = (patterns.flatten(1) for patterns in (student, teacher))
    first, second = ((patterns[:, None] - patterns).square().sum(-1) for patterns in flat)
    apart = ~torch.eye(len(student), dtype=torch.bool)
    roots = [torch.where(apart, torch.where(apart, part, 1).sqrt(), 0) for part in (first, second)]
    return functional.smooth_l1_loss(*(root / root[apart].mean() for root in roots))


ROWS: dict[str, tuple[Loss, Loss]] = {
    "linear CKA": (linear_cka, rdm("euclidean", "cka")),
    "RKD, distances": (distance_on_all_entries, DISTANCE),
    "RKD, angles": (ANGLE, rdm("euclidean", CODE["angles"])),
    "PKT": (PROBABILITIES, rdm("cosine", CODE["neighbors"])),
    "CC": (CONGRUENCE, on_all_entries(rdm(CODE["congruence"], "mse"))),
    "CC of another order": (exact(4, 1.1), on_all_entries(rdm(congruence, "mse"))),
    "CC without a series": (exact(None, 0.7), on_all_entries(rdm(kernel, "mse"))),
    "CC, bilinear": (of_unit_length(BILINEAR), on_all_entries(rdm("cosine", "mse"))),
    "SP": (of_unit_length(SIMILARITY), rdm("cosine", CODE["rows"])),
    "SP with one norm": (similarity_with_one_norm, times_two_over_entries(rdm("euclidean", "cka"))),
}


def drawn(seed: int, maps: bool) -> tuple[Tensor, Tensor]:
    shapes = [(11, 6, 3, 2), (11, 5, 2, 2)] if maps else [(11, 30), (11, 9)]
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, generator=random) for shape in shapes)
    return (student.relu(), teacher.relu() + 0.1) if maps else (student, teacher)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("maps", [False, True])
def test_relative_is_an_rdm_loss(row: str, seed: int, maps: bool) -> None:
    student, teacher = drawn(seed, maps)
    (value, gradient), (expected, slope) = (value_and_gradient(loss, student, teacher) for loss in ROWS[row])
    assert value == pytest.approx(expected, rel=1e-5)
    largest = float(slope.abs().max())
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-5 * largest)
    assert largest > 1e-6


@pytest.mark.parametrize(
    "dissimilarity, comparison, relative",
    [("euclidean", "angles", ANGLE), ("cosine", "neighbors", PROBABILITIES)],
)
def test_measured_rdms_teach_the_same(dissimilarity: str, comparison: str, relative: Loss) -> None:
    student, teacher = drawn(4, maps=False)
    ids = [f"s{k}" for k in range(len(teacher))]
    measured = Dataset(teacher.double().numpy(), obs_descriptors={"stimulus": ids})
    rdms = nrl.compute_rdms(measured, dissimilarity=dissimilarity)
    loss = nrl.RDMLoss(nrl.RDMTeacher(rdms), "x", comparison=CODE[comparison])
    value = loss({"x": student}, {}, nrl.Batch(student, ids))
    assert float(value) == pytest.approx(float(relative(student, teacher)), rel=1e-5)


def test_the_table_has_these_rows() -> None:
    table = PAGE.split("## What is RDL under another name")[1]
    for name in (name for name in ROWS if name not in ("CC of another order", "CC without a series")):
        assert re.search(rf"^\| {name.replace('SP with', 'SP .* with')}\b", table, flags=re.MULTILINE), name
    assert sorted(set(CODE) & {"angles", "neighbors", "rows", "congruence"}) == sorted(
        set(re.findall(r"RDMLoss\(teacher, layer, .*?(angles|neighbors|rows|congruence)", table))
    )


def turned(patterns: Tensor) -> Tensor:
    """Patterns after a rotation of all their units, which changes no RDM."""
    flat = patterns.flatten(1)
    random = torch.randn(flat.shape[1], flat.shape[1], generator=torch.Generator().manual_seed(5))
    return (flat @ torch.linalg.qr(random)[0]).view_as(patterns)


@pytest.mark.parametrize("name", ["euclidean", "euclidean_root", "cosine"])
def test_rdm_stays_where_patterns_are_turned(name: str) -> None:
    student, teacher = drawn(1, maps=True)
    loss = rdm(name, "mse")
    torch.testing.assert_close(loss(turned(student), teacher), loss(student, teacher), rtol=1e-4, atol=0)


def others() -> dict[str, nrl.TransferLoss]:
    """The losses that are no RDL, which read a layer of the student, or its output."""
    torch.manual_seed(1)
    teacher = network()
    ids = [f"s{k}" for k in range(11)]
    return {
        "HintLoss": nrl.HintLoss(teacher, "x"),
        "AttentionLoss": nrl.AttentionLoss(teacher, "x"),
        "ContrastiveLoss": nrl.ContrastiveLoss(teacher, "x", ids, channels=6, negatives=5),
        "SoftTargetLoss": nrl.SoftTargetLoss(teacher),
        "DecoupledLoss": nrl.DecoupledLoss(teacher),
        "DeepSupervisionLoss": nrl.DeepSupervisionLoss("x"),
    }


@pytest.mark.parametrize("name", others())
def test_no_rdl_changes_where_patterns_are_turned(name: str) -> None:
    loss = others()[name]
    student, teacher = drawn(1, maps=True)
    goal = {"conv3": teacher, "": torch.randn(11, 36)}
    batch = nrl.Batch(student, [f"s{k}" for k in range(11)], torch.arange(11))

    def value(patterns: Tensor) -> float:
        return float(loss({"x": patterns, "": patterns.flatten(1)}, goal, batch).detach())

    value(student)  # makes the parameters
    if isinstance(loss, torch.nn.Module):
        loss.eval()
    assert value(student) == value(student)
    assert abs(value(turned(student)) / value(student) - 1) > 1e-3
    assert re.search(rf"^\| `.*`{name}`|^\| `{name}`.* \| no \|", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("loss", [SIMILARITY, BILINEAR])
def test_lengths_count_where_no_rdm_has_them(loss: Loss) -> None:
    """Two students with the same RDM, of Euclidean or of cosine distances, have different losses."""
    student, teacher = drawn(2, maps=False)
    same_euclidean, same_cosine = student + 1, student * torch.linspace(0.5, 2, len(student))[:, None]
    for other, dissimilarity in ((same_euclidean, "euclidean"), (same_cosine, "cosine")):
        same = rdm(dissimilarity, "mse")
        torch.testing.assert_close(same(other, teacher), same(student, teacher), rtol=1e-4, atol=0)
        assert abs(float(loss(other, teacher)) / float(loss(student, teacher)) - 1) > 1e-2


def test_page_lists_each_loss() -> None:
    needs = PAGE.split("## What is RDL")[0]
    classes = [getattr(nrl, name) for name in nrl.__all__ if isinstance(getattr(nrl, name), type)]
    names = [made.__name__ for made in classes if issubclass(made, nrl.TransferLoss)]
    assert len(names) >= 10
    for name in set(names) - {"TransferLoss"}:
        assert f"\n| `{name}` |" in needs, name
