"""Losses on relations between stimuli: gradients, precision, and their formulas as plain loops in float64."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import neurordl as nrl
from neurordl.training.losses import relations
from tests.helpers import random_rdms, student
from tests.training.test_user_loss import IDS, M, images

Array = npt.NDArray[np.float64]


Make = Callable[[nrl.NetworkTeacher], nrl.TransferLoss]


def congruence(**knobs: Any) -> Make:
    return lambda teacher: nrl.CorrelationCongruenceLoss(teacher["conv3"], "conv2", **knobs)


# Each loss, and those of its choices that have code of their own: conv2 of the student is fitted to conv3.
LOSSES: dict[str, Make] = {
    "angle": lambda teacher: nrl.AngleLoss(teacher["conv3"], "conv2"),
    "similarity": lambda teacher: nrl.SimilarityPreservingLoss(teacher["conv3"], "conv2"),
    "congruence": congruence(),
    "congruence, exact": congruence(order=None),
    "congruence, bilinear": congruence(kernel="bilinear"),
    "probabilities": lambda teacher: nrl.ProbabilisticTransferLoss(teacher["conv3"], "conv2"),
}
each = pytest.mark.parametrize("name", LOSSES)


def network(**options: Any) -> nrl.NetworkTeacher:
    return nrl.NetworkTeacher(student(9), ["conv3"], **options)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(loss: nrl.TransferLoss, patterns: Tensor, goal: Tensor) -> Tensor:
    return loss({"conv2": patterns}, {"conv3": goal}, nrl.Batch(patterns, None, torch.arange(len(goal)) % 4))


def seeded(name: str) -> nrl.TransferLoss:
    torch.manual_seed(1)
    return LOSSES[name](network())


@each
@pytest.mark.parametrize("shape", [(6, 5), (5, 2, 3, 2)])
def test_gradient_is_that_of_the_value(name: str, shape: tuple[int, ...]) -> None:
    loss, goal = seeded(name), features(shape[0], 4, *shape[2:], seed=2)
    patterns = features(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value(loss, x, goal), (patterns,))
    assert value(loss, patterns, goal) > 0
    assert value(loss, patterns.float(), goal.float()).dtype == torch.float32


def degenerate(patterns: Tensor) -> dict[str, Tensor]:
    """Features of which some or all are alike, zero, constant, tiny or opposite."""
    duplicates, zero, opposite = (patterns.clone() for _ in range(3))
    duplicates[2], zero[3], opposite[1] = patterns[0], 0, -patterns[0]
    return {
        "duplicates": duplicates,
        "one of zeros": zero,
        "opposite": opposite,
        "constant": torch.ones_like(patterns),
        "zeros": torch.zeros_like(patterns),
        "tiny": 1e-12 * patterns,
        "far from 0": patterns + 1e4,
    }


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_not_large_for_degenerate_features(name: str, dtype: torch.dtype) -> None:
    loss, goal = seeded(name), features(6, 4, seed=2).to(dtype)
    for which, patterns in degenerate(features(6, 5).to(dtype)).items():
        patterns.requires_grad_()
        result = value(loss, patterns, goal)
        result.backward()
        assert result.isfinite(), which
        assert patterns.grad is not None
        assert patterns.grad.isfinite().all(), which
        scale = patterns.detach().abs().max()
        assert patterns.grad.abs().max() * scale < 1e3 * (1 + result.detach()), which
    for which, taught in degenerate(goal).items():
        patterns = features(6, 5).to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(value(loss, patterns, taught), patterns)
        assert gradient.isfinite().all(), which


@each
def test_batch_of_a_single_stimulus_is_left_out(name: str) -> None:
    result = value(seeded(name), features(1, 5).requires_grad_(), features(1, 4))
    assert result.shape == ()
    assert result.isnan()
    assert not result.requires_grad


@each
def test_half_precision_is_computed_in_single(name: str) -> None:
    loss, patterns, goal = seeded(name), features(6, 5).bfloat16(), features(6, 4).bfloat16()
    expected = value(loss, patterns.float(), goal.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = value(loss, patterns, goal)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    exact = value(loss, patterns.double(), goal.double())
    assert float(result) == pytest.approx(float(exact), rel=1e-5)


@each
def test_only_the_layer_and_what_precedes_it_learns(name: str) -> None:
    model, taught = student(), network()
    objective = nrl.Objective(LOSSES[name](taught), task=None)
    shown = (images(M, 2, IDS).images(), IDS)
    loss, terms = objective(model, stimuli=shown)
    loss.backward()
    assert list(terms) == objective.names
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"conv1.0.weight", "conv1.0.bias", "conv2.0.weight", "conv2.0.bias"}
    assert all(parameter.grad is None for parameter in taught._model.parameters())
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        loss, _ = objective(model, stimuli=shown)
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]


@each
def test_teachers_that_have_no_features_are_refused(name: str) -> None:
    class Measured:
        def __getitem__(self, layer: str) -> nrl.RDMTeacher:
            return nrl.RDMTeacher(random_rdms(IDS))

    loss = type(seeded(name)).__name__
    with pytest.raises(nrl.NeurordlError, match=rf"^{loss} reads .*RDMTeacher is no NetworkTeacher; make"):
        LOSSES[name](Measured())  # type: ignore[arg-type]


@each
def test_its_record_holds_its_knobs(name: str) -> None:
    described = seeded(name).describe()
    assert described["teacher"]["layer"] == "conv3"
    assert described["layers"] == ["conv2"]
    for knob in name.split(", ")[1:]:
        assert {"exact": described.get("order", 0) is None}.get(knob, knob in described.values())


@pytest.mark.parametrize("loss", sorted({type(make(network())) for make in LOSSES.values()}, key=str))
def test_examples_of_docstrings_run(loss: type) -> None:
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(loss, loss.__name__, globs={}):
        runner.run(example)
    assert runner.summarize().attempted >= 5
    assert runner.summarize().failed == 0


# Their formulas


def angle(student: Array, teacher: Array) -> float:
    n, total = len(student), 0.0

    def cosine(x: Array, i: int, j: int, k: int) -> float:
        first, second = x[i] - x[j], x[k] - x[j]
        lengths = np.linalg.norm(first) * np.linalg.norm(second)
        return float(first @ second / lengths) if lengths else 0.0

    for i in range(n):
        for j in range(n):
            for k in range(n):
                difference = abs(cosine(student, i, j, k) - cosine(teacher, i, j, k))
                total += difference**2 / 2 if difference < 1 else difference - 0.5
    return total / n**3


def mean_square(matrix: Callable[[Array], Array], student: Array, teacher: Array) -> float:
    first, second, n = matrix(student), matrix(teacher), len(student)
    return sum((first[i, j] - second[i, j]) ** 2 for i in range(n) for j in range(n)) / n**2


def rows_of_unit_length(x: Array) -> Array:
    products = np.array([[a @ b for b in x] for a in x])
    return np.array([row / math.sqrt(sum(row**2)) for row in products])


def kernel(x: Array, gamma: float = 0.4, order: int | None = 2) -> Array:
    units = [row / np.linalg.norm(row) for row in x]

    def entry(a: Array, b: Array) -> float:
        if order is None:
            return math.exp(-gamma * sum((a - b) ** 2))
        terms = [(2 * gamma * (a @ b)) ** p / math.factorial(p) for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(terms)

    return np.array([[entry(a, b) for b in units] for a in units])


def probabilities(student: Array, teacher: Array) -> float:
    n = len(student)

    def picked(x: Array) -> Array:
        units = [row / np.linalg.norm(row) for row in x]
        return np.array([[1 + a @ b for b in units] / sum(1 + a @ b for b in units) for a in units])

    p, q = picked(teacher), picked(student)
    return sum(p[i, j] * math.log(p[i, j] / q[i, j]) for i in range(n) for j in range(n)) / n**2


CASES: dict[str, tuple[type, dict[str, Any], Callable[[Array, Array], float]]] = {
    "angle": (nrl.AngleLoss, {}, angle),
    "similarity": (nrl.SimilarityPreservingLoss, {}, partial(mean_square, rows_of_unit_length)),
    "congruence": (nrl.CorrelationCongruenceLoss, {}, partial(mean_square, kernel)),
    "order 5": (
        nrl.CorrelationCongruenceLoss,
        {"gamma": 1.5, "order": 5},
        partial(mean_square, partial(kernel, gamma=1.5, order=5)),
    ),
    "exact": (
        nrl.CorrelationCongruenceLoss,
        {"order": None},
        partial(mean_square, partial(kernel, order=None)),
    ),
    "bilinear": (
        nrl.CorrelationCongruenceLoss,
        {"kernel": "bilinear"},
        partial(mean_square, lambda x: np.array([[a @ b for b in x] for a in x])),
    ),
    "probabilities": (nrl.ProbabilisticTransferLoss, {}, probabilities),
}


def of_x(loss: nrl.TransferLoss, student: Tensor, teacher: Tensor) -> float:
    return float(loss({"x": student}, {"conv3": teacher}, nrl.Batch(student)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("positive", [False, True])
def test_value_is_that_of_a_plain_loop(name: str, positive: bool) -> None:
    make, knobs, plain = CASES[name]
    student, teacher = features(9, 3, 2, 2), features(9, 7, seed=3)
    if positive:  # as after a ReLU
        student, teacher = student.abs() + 1, teacher.abs()
    expected = plain(student.flatten(1).numpy(), teacher.numpy())
    loss = make(network(), "x", **knobs)
    close = 1e-5 if name == "probabilities" else 1e-12  # PKT adds 1e-7 to probabilities
    assert of_x(loss, student, teacher) == pytest.approx(expected, rel=close)
    assert of_x(loss, student.float(), teacher.float()) == pytest.approx(expected, rel=2e-5)


def test_angles_of_near_stimuli_are_exact() -> None:
    """From products in float32, the distance of patterns that differ in their fourth digit is noise."""
    student, teacher = features(6, 40).float(), features(6, 40, seed=3).float()
    student[1] = student[0] + 1e-4 * student[1]
    student += 10
    expected = angle(student.double().numpy(), teacher.double().numpy())
    assert of_x(nrl.AngleLoss(network(), "x"), student, teacher) == pytest.approx(expected, rel=1e-4)
    student[1] = student[0]
    expected = angle(student.double().numpy(), teacher.double().numpy())
    assert of_x(nrl.AngleLoss(network(), "x"), student, teacher) == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_similar_features_keep_their_digits() -> None:
    """A plain sum is off by 1e-3: what is left of it is small beside its terms."""
    student = features(64, 512).relu()
    teacher = (student + 0.1 * features(64, 512, seed=3)).relu()
    loss = nrl.ProbabilisticTransferLoss(network(), "x")
    expected = of_x(loss, student, teacher)
    assert of_x(loss, student.float(), teacher.float()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("step", [1, 3])
def test_angles_of_some_stimuli_at_a_time_add_up(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns, goal, loss = features(8, 5).requires_grad_(), features(8, 4, seed=1), seeded("angle")

    def with_gradient() -> tuple[Tensor, Tensor]:
        total = value(loss, patterns, goal)
        return total.detach(), *torch.autograd.grad(total, patterns)

    expected = with_gradient()
    monkeypatch.setattr(relations, "_ANGLES", step * 8**2)
    for part, whole in zip(with_gradient(), expected, strict=True):
        torch.testing.assert_close(part, whole)


def test_angles_need_three_stimuli() -> None:
    loss = nrl.AngleLoss(network(), "x")
    assert math.isnan(of_x(loss, features(2, 4), features(2, 5)))
    assert of_x(loss, features(3, 4), features(3, 5)) > 0


def test_knobs_that_are_none() -> None:
    make = nrl.CorrelationCongruenceLoss
    with pytest.raises(nrl.NeurordlError, match=r"kernel='rbf'.*gaussian.*bilinear"):
        make(network(), "x", kernel="rbf")  # type: ignore[arg-type]
    with pytest.raises(nrl.NeurordlError, match="gamma=0: expected a number above 0"):
        make(network(), "x", gamma=0)
    with pytest.raises(nrl.NeurordlError, match="order=0: expected a whole number of at least 1; or None"):
        make(network(), "x", order=0)
    with pytest.raises(nrl.NeurordlError, match=r"layer: .*make one AngleLoss for each layer"):
        nrl.AngleLoss(network(), ["x"])  # type: ignore[arg-type]
    with pytest.raises(nrl.NeurordlError, match="weight=-1"):
        nrl.AngleLoss(network(), "x", weight=-1)


def test_layers_are_chosen_as_for_other_losses() -> None:
    several = nrl.NetworkTeacher(nrl.students.small_cnn(4, 1), ["conv1", "conv2"])
    with pytest.raises(nrl.NeurordlError, match=r"^AngleLoss: the teacher has several layers"):
        nrl.AngleLoss(several, "x")
    loss = nrl.AngleLoss(several["conv2"], "x")
    assert (loss.name, loss.teacher.layer) == ("angle:x", "conv2")


SCALE_FREE: dict[str, Callable[[Any], Any]] = {
    "attention": lambda layer: nrl.AttentionLoss(layer, "conv3"),
    "angle": lambda layer: nrl.AngleLoss(layer, "conv3"),
    "similarity": lambda layer: nrl.SimilarityPreservingLoss(layer, "conv3"),
    "congruence": lambda layer: nrl.CorrelationCongruenceLoss(layer, "conv3"),
    "probabilistic": lambda layer: nrl.ProbabilisticTransferLoss(layer, "conv3"),
    "rdm": lambda layer: nrl.RDMLoss(layer, "conv3"),
    "distances": lambda layer: nrl.RDMLoss(layer, "conv3", "euclidean_root", "huber"),
    **{
        comparison: lambda layer, comparison=comparison: nrl.RDMLoss(layer, "conv3", "euclidean", comparison)
        for comparison in ("cka", "corr", "cosine_cov")
    },
}


@pytest.mark.parametrize("scale", [1e-20, 1e-7, 1e7, 1e18])
@pytest.mark.parametrize("name", SCALE_FREE)
def test_features_of_any_scale_give_the_loss_and_gradient_of_float64(name: str, scale: float) -> None:
    """Squares of such features vanish or overflow in float32; a stimulus has features of 0, two are equal."""
    layer = nrl.NetworkTeacher(nrl.students.small_cnn(width=8), "conv3")["conv3"]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 16, 4, 4, generator=generator).relu() for _ in range(2))
    student[3] = 0
    student[5] = student[4]
    values, gradients = [], []
    for dtype, factor in ((torch.float32, scale), (torch.float64, 1.0)):
        features = (student * factor).to(dtype).requires_grad_()
        batch = nrl.Batch(torch.zeros(8, 3, 8, 8), [f"s{k}" for k in range(8)])
        value = SCALE_FREE[name](layer)({"conv3": features}, {"conv3": (teacher * factor).to(dtype)}, batch)
        value.backward()
        assert features.grad is not None
        values.append(value.detach().double())
        gradients.append(features.grad.double() * factor)
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=0)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


def test_a_scaled_rdm_may_be_of_features_of_any_scale() -> None:
    """With scale=True the student's unit does not matter, and the teacher's does."""
    layer = nrl.NetworkTeacher(nrl.students.small_cnn(width=8), "conv3")["conv3"]
    loss = nrl.RDMLoss(layer, "conv3", "euclidean", "mse", scale=True)
    student, teacher = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    batch = nrl.Batch(torch.zeros(8, 3, 8, 8), [f"s{k}" for k in range(8)])
    values = [float(loss({"conv3": student * x}, {"conv3": teacher}, batch)) for x in (1, 1e-20, 1e18)]
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-5)
    assert float(loss({"conv3": student}, {"conv3": 2 * teacher}, batch)) == pytest.approx(
        16 * values[0], rel=1e-5
    )


def test_a_stimulus_that_is_not_finite_leaves_the_others_their_scale() -> None:
    layer = nrl.NetworkTeacher(nrl.students.small_cnn(width=8), "conv3")["conv3"]
    student, teacher = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    loss, ids = nrl.RDMLoss(layer, "conv3", "euclidean"), [f"s{k}" for k in range(8)]
    rest = loss({"conv3": student[2:]}, {"conv3": teacher[2:]}, nrl.Batch(torch.zeros(6, 3, 8, 8), ids[2:]))
    student[0], student[1] = torch.nan, torch.inf
    student.requires_grad_()
    value = loss({"conv3": student}, {"conv3": teacher}, nrl.Batch(torch.zeros(8, 3, 8, 8), ids))
    torch.testing.assert_close(value, rest)
    value.backward()
    assert student.grad is not None
    assert student.grad[2:].isfinite().all()
    assert student.grad[2:].abs().max() > 0
