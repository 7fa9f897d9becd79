"""Every loss term has a gradient that reaches the student, and means what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn
from torch.nn import functional

from neurordl import (
    Batch,
    NetworkTeacher,
    NeurordlError,
    Objective,
    PatternTeacher,
    RDMLoss,
    RDMTeacher,
    SoftTargetLoss,
    TaskRatio,
)
from neurordl.measures.comparisons import COMPARISONS, corr
from neurordl.measures.dissimilarities import DISSIMILARITIES, mahalanobis
from neurordl.students import small_cnn
from tests.helpers import random_images, student

N = 16
IDS = [f"s{i}" for i in range(N)]
DIFFERENTIABLE = [name for name, one in COMPARISONS.items() if one.differentiable]
RANKS = [name for name, one in COMPARISONS.items() if not one.differentiable]
PLAIN = ["euclidean", "euclidean_root", "correlation", "cosine"]


def images(n: int = N) -> Tensor:
    return random_images(n)


def batch() -> Batch:
    return Batch(images(), IDS, torch.arange(N) % 4)


def rdms(measure: str | None, n_subjects: int = 1, missing: float = 0.0) -> RDMs:
    rng = np.random.default_rng(2)
    values = torch.from_numpy(rng.normal(size=(n_subjects, N, 30)))
    vectors = DISSIMILARITIES[measure or "correlation"](values).numpy()
    vectors[rng.random(vectors.shape) < missing] = np.nan
    return RDMs(
        vectors,
        dissimilarity_measure=measure,
        rdm_descriptors={"subject": [f"p{k}" for k in range(n_subjects)]},
        pattern_descriptors={"stimulus": IDS},
    )


def of_rdms(measure: str) -> RDMTeacher:
    return RDMTeacher(rdms(measure))


def of_patterns(measure: str) -> PatternTeacher:
    values = np.random.default_rng(3).normal(size=(N, 30))
    return PatternTeacher({"p0": (values, IDS)}, dissimilarity=measure)


def of_network(measure: str) -> NetworkTeacher:
    torch.manual_seed(5)
    return NetworkTeacher(small_cnn(4, 1), "conv3", dissimilarity=measure)


def gradients(model: nn.Module, losses: Any, **options: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss, _ = Objective(losses, task=None)(model, stimuli=batch(), **options)
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("comparison", DIFFERENTIABLE)
@pytest.mark.parametrize(
    "make, measure",
    [
        *((of_rdms, name) for name in PLAIN),
        *((make, name) for make in (of_patterns, of_network) for name in ("euclidean", "correlation")),
    ],
)
def test_each_term_alone_moves_the_student(make: Callable[[str], Any], measure: str, comparison: str) -> None:
    model, teacher = student(), make(measure)
    loss = RDMLoss(teacher, "conv2", comparison=comparison)
    assert loss.comparison == comparison
    assert loss.dissimilarity.name == measure
    kept = [value.clone() for value in (teacher._model.parameters() if make is of_network else [])]
    results = gradients(model, loss)
    assert set(results) == {"conv1.0.weight", "conv1.0.bias", "conv2.0.weight", "conv2.0.bias"}
    for name, gradient in results.items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    objective, optimizer = Objective(loss, task=None), torch.optim.Adam(model.parameters(), lr=1e-3)
    before, losses = [one.detach().clone() for one in model.parameters()], []
    for _ in range(5):
        value, terms = objective(model, stimuli=batch())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(terms["rdm:conv2"]))
    assert losses[-1] < losses[0]
    moved = [not torch.equal(one, old) for one, old in zip(model.parameters(), before, strict=True)]
    assert moved == [True] * 4 + [False] * 6  # conv1 and conv2, and nothing behind them
    for one, old in zip(teacher._model.parameters() if kept else [], kept, strict=True):
        assert torch.equal(one, old)


def test_callables_as_dissimilarity_and_comparison() -> None:
    def manhattan(patterns: Tensor) -> Tensor:
        i, j = torch.triu_indices(len(patterns), len(patterns), 1)
        return (patterns[i] - patterns[j]).abs().mean(-1)

    def difference(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        return ((a - b).abs() * weights).mean(-1)

    for results in (
        gradients(student(), RDMLoss(of_rdms("correlation"), "conv2", manhattan, difference)),
        gradients(student(), RDMLoss(of_network("correlation"), "conv2", manhattan)),
        gradients(student(), RDMLoss(of_rdms("cosine"), "conv2", comparison=corr)),
    ):
        assert results["conv1.0.weight"].abs().max() > 0
    described = RDMLoss(of_rdms("correlation"), "conv2", manhattan, difference).describe()
    assert described["dissimilarity"].endswith("manhattan")
    assert described["comparison"].endswith("difference")
    whitened = partial(mahalanobis, precision=torch.eye(4 * 2 * 2 * 2))
    loss = RDMLoss(of_rdms("correlation"), "conv2", whitened)
    assert gradients(student(), loss)["conv1.0.weight"].abs().max() > 0
    assert "0x" not in loss.describe()["dissimilarity"]


@pytest.mark.parametrize("comparison", RANKS)
def test_rank_measures_are_refused_and_the_alternatives_named(comparison: str) -> None:
    with pytest.raises(NeurordlError, match=f"{comparison} .*no gradient.*") as caught:
        RDMLoss(of_rdms("correlation"), "conv2", comparison=comparison)
    assert all(name in str(caught.value) for name in DIFFERENTIABLE)


def test_value_is_one_minus_the_correlation_of_the_two_rdms() -> None:
    model, teacher = student(), of_rdms("euclidean")
    with torch.no_grad():
        features = {"conv2": model.conv2(model.conv1(images())).flatten(1)}
    student_rdm = DISSIMILARITIES["euclidean"](features["conv2"].double()).numpy()
    expected = 1 - np.corrcoef(student_rdm, rdms("euclidean").dissimilarities[0])[0, 1]
    assert float(RDMLoss(teacher, "conv2")(features, {}, batch())) == pytest.approx(expected, abs=1e-5)


def test_defaults() -> None:
    assert RDMLoss(of_rdms("cosine"), "conv2").describe() | {"teacher": None} == {
        "loss": "RDMLoss",
        "layers": ["conv2"],
        "dissimilarity": "cosine",
        "comparison": "corr",
        "pairs": "all",
        "weight": 1.0,
        "scale": False,
        "teacher": None,
    }
    network = RDMLoss(of_network("correlation"), "conv2")
    assert (network.comparison, network.dissimilarity.name) == ("corr", "correlation")
    # A network is measured as the student is, whatever is chosen for the student.
    chosen = RDMLoss(of_network("correlation"), "conv2", "euclidean")
    assert chosen.teacher.dissimilarity.name == "euclidean"
    assert chosen.describe()["teacher"]["dissimilarity"] == "euclidean"


def test_measures_that_a_network_cannot_have() -> None:
    described = {"stimulus": [*IDS, *IDS], "run": ["a"] * N + ["b"] * N}
    noisy = Dataset(np.random.default_rng(0).normal(size=(2 * N, 9)), obs_descriptors=described)
    for teacher in (
        PatternTeacher({"p0": noisy}, dissimilarity="crossnobis"),
        PatternTeacher({"p0": noisy}, dissimilarity="mahalanobis", precision=np.eye(9)),
    ):
        with pytest.warns(UserWarning, match="student's RDMs are euclidean"):
            loss = RDMLoss(teacher, "conv2")
        assert loss.dissimilarity.name == "euclidean"
        assert gradients(student(), loss)["conv1.0.weight"].abs().max() > 0
    for wrong in ("crossnobis", "mahalanobis"):
        with pytest.raises(NeurordlError, match=f"dissimilarity='{wrong}' needs"):
            RDMLoss(of_rdms("correlation"), "conv2", wrong)
    unknown = RDMTeacher(rdms(None))
    with pytest.raises(
        NeurordlError,
        match=r"the teacher's dissimilarity is unknown; set dissimilarity= .euclidean, .*cosine",
    ):
        RDMLoss(unknown, "conv2")
    assert RDMLoss(unknown, "conv2", "cosine").dissimilarity.name == "cosine"


def test_mse_needs_a_common_unit() -> None:
    with pytest.raises(
        NeurordlError, match=r"student's RDM is euclidean and the teacher's correlation.*scale=True"
    ):
        RDMLoss(of_rdms("correlation"), "conv2", "euclidean", "mse")
    with pytest.raises(NeurordlError, match="standardized or ranked"):
        RDMLoss(RDMTeacher(rdms("correlation"), pool="zscore"), "conv2", comparison="mse")
    ranked = rdms("correlation")
    ranked.dissimilarity_measure = "correlation (ranks)"
    with pytest.raises(NeurordlError, match="standardized or ranked"):
        RDMLoss(RDMTeacher(ranked), "conv2", "correlation", "mse")
    assert RDMLoss(of_rdms("correlation"), "conv2", "correlation", "mse").comparison == "mse"
    assert RDMLoss(of_rdms("correlation"), "conv2", "euclidean", "mse", scale=True).scale


def test_scale_is_the_best_non_negative_factor() -> None:
    features = torch.randn(N, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    teacher = RDMTeacher(rdms("correlation", 3, missing=0.2), pool="subjects")
    value = float(RDMLoss(teacher, "x", "euclidean", "mse", scale=True)({"x": features}, {}, batch()))
    student_rdm = DISSIMILARITIES["euclidean"](features).numpy()
    losses = []
    for goal in rdms("correlation", 3, missing=0.2).dissimilarities:
        kept = np.isfinite(goal)
        factor = np.linalg.lstsq(student_rdm[kept, None], goal[kept], rcond=None)[0]
        assert factor > 0
        losses.append(np.mean((factor * student_rdm[kept] - goal[kept]) ** 2))
    assert value == pytest.approx(np.mean(losses), rel=1e-6)
    scaled = RDMLoss(teacher, "x", "euclidean", "mse", scale=True)({"x": 7 * features}, {}, batch())
    assert float(scaled) == pytest.approx(value, rel=1e-6)


def test_scale_carries_no_gradient_and_is_never_negative() -> None:
    """Under mse its gradient would be zero anyway, at the best factor: here the differences are absolute."""

    def apart(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        return (a - b).abs().mean(-1)

    features = torch.randn(N, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
    RDMLoss(of_rdms("correlation"), "x", "euclidean", apart, scale=True)(
        {"x": features}, {}, batch()
    ).backward()
    student_rdm, goal = (
        DISSIMILARITIES["euclidean"](features),
        of_rdms("correlation").target(batch(), {}).rdms[0],
    )
    factor = ((student_rdm * goal).sum() / student_rdm.square().sum()).detach()
    (expected,) = torch.autograd.grad((factor * student_rdm - goal).abs().mean(), features)
    torch.testing.assert_close(features.grad, expected, rtol=1e-4, atol=1e-7)
    opposed = rdms("correlation")
    opposed.dissimilarities = -opposed.dissimilarities  # the best factor would be negative
    loss = RDMLoss(RDMTeacher(opposed), "x", "euclidean", "mse", scale=True)
    value = float(loss({"x": features.detach()}, {}, batch()))
    assert value == pytest.approx(float(goal.square().mean()), rel=1e-5)


@pytest.mark.parametrize("pairs", ["all", "within", "between"])
def test_pairs_within_and_between_labels(pairs: Any) -> None:
    features = torch.randn(N, 20, generator=torch.Generator().manual_seed(1))
    teacher = RDMTeacher(rdms("euclidean", 1, missing=0.3))
    value = float(RDMLoss(teacher, "x", comparison="mse", pairs=pairs)({"x": features}, {}, batch()))
    student_rdm = DISSIMILARITIES["euclidean"](features.double()).numpy()
    goal = rdms("euclidean", 1, missing=0.3).dissimilarities[0]
    terms = []
    for k, (i, j) in enumerate(itertools.combinations(range(N), 2)):
        same = i % 4 == j % 4
        if math.isfinite(goal[k]) and pairs in ("all", "within" if same else "between"):
            terms.append((student_rdm[k] - goal[k]) ** 2)
    assert value == pytest.approx(np.mean(terms), rel=1e-4)
    with pytest.raises(NeurordlError, match="pairs='some'"):
        RDMLoss(teacher, "x", pairs="some")  # type: ignore[arg-type]


def test_pairs_need_labels() -> None:
    loss = RDMLoss(of_rdms("euclidean"), "x", pairs="within")
    with pytest.raises(NeurordlError, match="needs the labels of the stimuli"):
        loss({"x": torch.randn(N, 5)}, {}, Batch(images(), IDS))


def test_a_loss_per_subject_is_the_mean_over_those_that_are_defined() -> None:
    features = {"x": torch.randn(N, 20, requires_grad=True)}
    measured = rdms("correlation", 3)
    measured.dissimilarities[1] = 0.4  # a constant RDM correlates with nothing
    value = RDMLoss(RDMTeacher(measured, pool="subjects"), "x")(features, {}, batch())
    each = [
        float(RDMLoss(RDMTeacher(measured, subjects=[name]), "x")(features, {}, batch()).detach())
        for name in ("p0", "p1", "p2")
    ]
    assert math.isnan(each[1])
    assert float(value.detach()) == pytest.approx((each[0] + each[2]) / 2, abs=1e-6)
    value.backward()
    assert features["x"].grad is not None
    assert features["x"].grad.isfinite().all()


def test_undefined_loss_is_nan_and_has_no_gradient() -> None:
    dead = torch.zeros(N, 20, requires_grad=True)
    value = RDMLoss(of_rdms("correlation"), "x")({"x": dead}, {}, batch())
    assert value.isnan()
    torch.where(value.isfinite(), value, 0.0).backward()
    assert dead.grad is not None
    assert (dead.grad == 0).all()


def test_dead_patterns_leave_the_other_pairs_alone() -> None:
    features = torch.randn(N, 20)
    features[3] = 0
    features.requires_grad_()
    value = RDMLoss(of_rdms("correlation"), "x")({"x": features}, {}, batch())
    keep = [k for k in range(N) if k != 3]
    other = Batch(images(N - 1), [IDS[k] for k in keep])
    alone = RDMLoss(of_rdms("correlation"), "x")({"x": features[keep]}, {}, other)
    torch.testing.assert_close(value, alone)
    value.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert (features.grad[3] == 0).all()


@pytest.mark.parametrize("make", [of_rdms, of_network])
def test_rdm_is_in_single_precision_under_autocast(make: Any) -> None:
    """Distances in bfloat16 are off by 4e-3: the features may be, their RDM must not."""
    features = {"x": torch.randn(N, 200).bfloat16()}
    loss = RDMLoss(make("correlation"), "x", comparison="corr")
    taught = {"conv3": torch.randn(N, 50)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16  # autocast is on
        value = loss(features, taught, batch())
    assert value.dtype == torch.float32

    def angles(patterns: Tensor) -> Tensor:  # a measure of one's own, whose product autocast would round
        units = functional.normalize(patterns)
        return 1 - (units @ units.T)[tuple(torch.triu_indices(N, N, 1))]

    student_rdm = RDMLoss(RDMTeacher(rdms("cosine")), "x", angles, comparison="corr")
    same = RDMLoss(RDMTeacher(rdms("cosine")), "x", "cosine", comparison="corr")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(student_rdm(features, taught, batch())) == pytest.approx(
            float(same(features, taught, batch())), abs=2e-6
        )
    exact = loss({"x": features["x"].double()}, taught, batch())
    assert exact.dtype == torch.float64
    assert float(value) == pytest.approx(float(exact), abs=2e-6)


def test_weights_that_are_none() -> None:
    for wrong in (-1.0, math.nan, math.inf, "heavy"):
        with pytest.raises(
            NeurordlError, match="expected a number of at least 0; or give a function of the step"
        ):
            RDMLoss(of_rdms("cosine"), "conv2", weight=wrong)  # type: ignore[arg-type]
        if not isinstance(wrong, str):
            with pytest.raises(NeurordlError, match="TaskRatio"):
                TaskRatio(wrong)
    for measured in (np.float32(0.5), np.int64(2)):
        assert RDMLoss(of_rdms("cosine"), "conv2", weight=measured).weight == measured
    assert (
        RDMLoss(of_rdms("cosine"), "conv2", weight=TaskRatio(0.5)).describe()["weight"]
        == "TaskRatio(ratio=0.5)"
    )


def test_a_network_of_several_layers_must_say_which() -> None:
    teacher = NetworkTeacher(small_cnn(4, 1), ["conv1", "conv2"])
    with pytest.raises(
        NeurordlError, match=r"several layers \('conv1', 'conv2'\); choose one, as in teacher\['conv1'\]"
    ):
        RDMLoss(teacher, "conv2")
    assert RDMLoss(teacher["conv2"], "conv2").describe()["teacher"]["layer"] == "conv2"


def test_soft_targets_equal_their_formula() -> None:
    student_rdm, theirs = torch.randn(N, 5, requires_grad=True), torch.randn(N, 5)
    loss = SoftTargetLoss(of_network("correlation"), temperature=3.0)
    value = loss({"": student_rdm}, {"": theirs}, batch())
    p, q = ((one.double() / 3).softmax(1) for one in (theirs, student_rdm))
    expected = 9 * (p * (p.log() - q.log())).sum(1).mean()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    value.backward()
    assert student_rdm.grad is not None
    assert student_rdm.grad.abs().max() > 0
    assert float(loss({"": theirs}, {"": theirs}, batch())) == pytest.approx(0, abs=1e-6)


def test_soft_targets_are_in_single_precision() -> None:
    student_rdm, theirs = torch.randn(N, 5).bfloat16(), torch.randn(N, 5).bfloat16()
    loss = SoftTargetLoss(of_network("correlation"))
    value = loss({"": student_rdm}, {"": theirs}, batch())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss({"": student_rdm.float()}, {"": theirs.float()}, batch()))


def test_soft_targets_move_the_student_and_only_it() -> None:
    model, teacher = student(), of_network("correlation")
    before = [one.clone() for one in teacher._model.parameters()]
    results = gradients(model, SoftTargetLoss(teacher))
    assert set(results) == {name for name, _ in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in results.values())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher._model.parameters(), strict=True))
    assert all(one.grad is None for one in teacher._model.parameters())


def test_soft_targets_that_do_not_fit() -> None:
    teacher = of_network("correlation")
    with pytest.raises(NeurordlError, match="student has 7 outputs, the teacher 4"):
        SoftTargetLoss(teacher)({"": torch.randn(N, 7)}, {"": torch.randn(N, 4)}, batch())
    with pytest.raises(NeurordlError, match="output is a tensor of class scores"):
        SoftTargetLoss(teacher)({"": torch.randn(N, 7)}, {}, batch())
    with pytest.raises(NeurordlError, match="temperature=0"):
        SoftTargetLoss(teacher, temperature=0)
    with pytest.raises(NeurordlError, match="not LayerTeacher"):
        SoftTargetLoss(teacher["conv3"])  # type: ignore[arg-type]


def test_relational_distillation_and_cka_are_choices() -> None:
    """RKD's distance term (Park et al. 2019) and linear CKA (Kornblith et al. 2019), written out."""
    student_rdm, theirs = torch.randn(N, 12), torch.randn(N, 9)
    taught = {"conv3": theirs}
    rkd = RDMLoss(of_network("correlation"), "x", "euclidean_root", "huber")(
        {"x": student_rdm}, taught, batch()
    )
    i, j = torch.triu_indices(N, N, 1)
    a, b = ((one[i] - one[j]).norm(dim=1) for one in (student_rdm, theirs))
    torch.testing.assert_close(
        rkd, functional.smooth_l1_loss(a / a.mean(), b / b.mean()), rtol=1e-4, atol=1e-5
    )
    cka = RDMLoss(of_network("correlation"), "x", "euclidean", "cka")({"x": student_rdm}, taught, batch())
    a, b = student_rdm - student_rdm.mean(0), theirs - theirs.mean(0)
    expected = 1 - (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(cka, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dissimilarity", ["cosine", "correlation"])
@pytest.mark.parametrize("dead", ["student", "teacher"])
def test_cka_is_undefined_where_a_network_does_not_respond(dissimilarity: str, dead: str) -> None:
    """It needs all pairs; one dead stimulus of a network is no error in the midst of training."""
    network, features = of_network(dissimilarity), torch.randn(2, N, 20)
    features[int(dead == "teacher"), 3] = 0
    ours = features[0].clone().requires_grad_()
    value = RDMLoss(network, "x", comparison="cka")({"x": ours}, {"conv3": features[1]}, batch())
    assert value.isnan()
    value.nan_to_num(0.0).backward()
    assert ours.grad is not None
    assert (ours.grad == 0).all()
    measured = rdms(dissimilarity, missing=0.1)
    with pytest.raises(NeurordlError, match="cka needs complete RDMs"):
        RDMLoss(RDMTeacher(measured), "x", comparison="cka")({"x": torch.randn(N, 20)}, {}, batch())


@pytest.mark.parametrize("make", [of_rdms, of_network])
def test_cka_takes_the_first_image_of_a_repeated_stimulus(make: Any) -> None:
    loss = RDMLoss(make("euclidean"), "x", comparison="cka", pairs="all")
    ours, theirs = torch.randn(2, N, 20)
    rows = [0, 1, 2, 1, 3, 0, 4]
    whole = Batch(images()[rows], [IDS[row] for row in rows], torch.arange(7))
    value = loss({"x": ours[rows]}, {"conv3": theirs[rows]}, whole)
    expected = loss({"x": ours[:5]}, {"conv3": theirs[:5]}, Batch(images()[:5], IDS[:5]))
    torch.testing.assert_close(value, expected)
