"""The sum that a student is trained on: one pass per network, weights as asked for, terms by name."""

from __future__ import annotations

import copy
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neurordl import (
    Batch,
    HintLoss,
    NetworkTeacher,
    NeurordlError,
    Objective,
    PatternTeacher,
    RDMLoss,
    RDMTeacher,
    SoftTargetLoss,
    TaskRatio,
    TransferLoss,
)
from neurordl.students import small_cnn
from neurordl.training.trainer import Step
from tests.helpers import random_images, random_rdms, student

N = 12
IDS = [f"s{i}" for i in range(N)]


def images(seed: int = 1, n: int = N) -> Tensor:
    return random_images(n, seed)


LABELS = torch.arange(N) % 4
LABELLED = (images(1), LABELS)
STIMULI = (3 * images(2) + 1, IDS)


def brain() -> RDMTeacher:
    return RDMTeacher(random_rdms(IDS, seed=0))


def network(layers: Any = "conv2") -> NetworkTeacher:
    torch.manual_seed(7)
    return NetworkTeacher(small_cnn(4, 1, width=4, batchnorm=True, dropout=0.5), layers)


def count_calls(model: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    return seen


def test_sum_and_terms_by_name() -> None:
    model = student()
    losses = [
        RDMLoss(brain(), "conv2", weight=2.0),
        RDMLoss(brain(), "conv2", comparison="cosine", weight=0.5),
        RDMLoss(brain(), "conv3", weight=0.0),
    ]
    total, terms = Objective(losses)(model, LABELLED, STIMULI)
    assert list(terms) == ["task", "rdm:conv2#1", "rdm:conv2#2", "rdm:conv3"]
    assert not any(term.requires_grad for term in terms.values())
    expected = terms["task"] + 2 * terms["rdm:conv2#1"] + 0.5 * terms["rdm:conv2#2"]
    torch.testing.assert_close(total.detach(), expected)
    torch.testing.assert_close(terms["task"], functional.cross_entropy(model(LABELLED[0]), LABELS).detach())


def test_gradient_is_that_of_the_sum_written_out() -> None:
    model = student()
    loss = RDMLoss(brain(), "conv2", weight=3.0)
    Objective(loss)(model, LABELLED, STIMULI)[0].backward()
    got = {name: one.grad for name, one in model.named_parameters()}
    model.zero_grad()
    features = model.conv2(model.conv1(STIMULI[0])).flatten(1)
    by_hand = functional.cross_entropy(model(LABELLED[0]), LABELS) + 3 * loss(
        {"conv2": features}, {}, Batch(STIMULI[0], IDS)
    )
    by_hand.backward()
    for name, one in model.named_parameters():
        torch.testing.assert_close(got[name], one.grad)


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("task", ["cross_entropy", None])
def test_each_network_runs_once_a_batch(two: bool, task: Any) -> None:
    model = student()
    teacher, other = network(["conv1", "conv2", "conv3"]), network(["fc1"])
    seen, first, second = count_calls(model), count_calls(teacher._model), count_calls(other._model)
    objective = Objective(
        [
            *(RDMLoss(teacher[name], name) for name in ("conv1", "conv2", "conv3")),
            RDMLoss(other, "fc1"),
            SoftTargetLoss(teacher),
        ],
        task=task,
    )
    objective(model, LABELLED, STIMULI if two else None)
    for calls in (seen, first, second):  # the first pass has a probe of each network
        calls.clear()
    objective(model, LABELLED, STIMULI if two else None)
    shown = STIMULI[0] if two else LABELLED[0]
    expected = [LABELLED[0]] * (task is not None) + [shown] * (two or task is None)
    assert [id(one) for one in seen] == [id(one) for one in expected]
    assert [id(one) for one in first] == [id(one) for one in second] == [id(shown)]


def test_teacher_never_moves_and_is_nowhere_in_the_student() -> None:
    model, teacher = student(batchnorm=True), network(["conv2", "fc1"])
    objective = Objective([RDMLoss(teacher["conv2"], "conv2"), SoftTargetLoss(teacher)])
    state = copy.deepcopy(teacher._model.state_dict())
    names_of_student = set(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(3):
        model.train()
        optimizer.zero_grad()
        objective(model, LABELLED, step=step)[0].backward()
        optimizer.step()
        assert not any(module.training for module in teacher._model.modules())
    for name, value in teacher._model.state_dict().items():  # running statistics too
        assert torch.equal(value, state[name]), name
    assert set(model.state_dict()) == names_of_student
    theirs = {id(one) for one in teacher._model.parameters()}
    assert not theirs & {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert not isinstance(objective, nn.Module)
    assert not isinstance(teacher, nn.Module)


def test_one_stream_is_two_with_the_same_images() -> None:
    model = student()
    objective = Objective([RDMLoss(brain(), "conv2")])
    one, terms = objective(model, (*LABELLED, IDS))
    two, rest = objective(model, LABELLED, (LABELLED[0], IDS))
    torch.testing.assert_close(one, two)
    assert terms == rest
    alone, _ = Objective([RDMLoss(brain(), "conv2")], task=None)(model, stimuli=(LABELLED[0], IDS))
    torch.testing.assert_close(alone.detach(), terms["rdm:conv2"])
    by_batch, _ = objective(model, Batch(LABELLED[0], IDS, LABELS))
    torch.testing.assert_close(by_batch, one)


def test_labels_of_the_stimuli_reach_the_loss() -> None:
    objective = Objective([RDMLoss(brain(), "conv2", pairs="within")])
    with pytest.raises(NeurordlError, match="needs the labels of the stimuli"):
        objective(student(), LABELLED, STIMULI)
    _, terms = objective(student(), LABELLED, (*STIMULI, LABELS))
    _, other = objective(student(), LABELLED, (*STIMULI, LABELS.flip(0) // 2))
    assert terms["rdm:conv2"] != other["rdm:conv2"]


# Weights


def test_weight_schedule_by_step() -> None:
    model = student()
    objective = Objective([RDMLoss(brain(), "conv2", weight=lambda step: 0.1 * step)])
    for step in (0, 3, 10):
        total, terms = objective(model, LABELLED, STIMULI, step=step)
        torch.testing.assert_close(total.detach(), terms["task"] + 0.1 * step * terms["rdm:conv2"])
    with pytest.raises(NeurordlError, match="pass step="):
        objective(model, LABELLED, STIMULI)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_schedule_gives_what_a_weight_may_be(value: float) -> None:
    """A negative one would push away from the teacher; NaN would be blamed on the learning rate."""
    objective = Objective([RDMLoss(brain(), "conv2", weight=lambda step: value if step == 2 else 1.0)])
    objective(student(), LABELLED, STIMULI, step=1)
    with pytest.raises(NeurordlError, match=rf"rdm:conv2: weight\(step=2\)={value}: expected a number"):
        objective(student(), LABELLED, STIMULI, step=2)


def test_a_schedule_that_ends_with_its_run_can_be_described() -> None:
    tables = [0.0, 0.5, 1.0], [0.0, 0.4]
    losses = [RDMLoss(brain(), "conv2", weight=values.__getitem__) for values in tables]
    first, second = (loss.describe()["weight"]["at"] for loss in losses)
    assert (first, second) == ({"0": 0.0, "1": 0.5}, {"0": 0.0, "1": 0.4})


def test_losses_from_any_iterable() -> None:
    layers = ["conv1", "conv2"]
    assert Objective(RDMLoss(brain(), layer) for layer in layers).names == [f"rdm:{one}" for one in layers]


@pytest.mark.parametrize("ratio", [0.0, 0.5, 3.0])
def test_task_ratio_is_held_at_each_step(ratio: float) -> None:
    model = student()
    objective = Objective(
        [RDMLoss(brain(), "conv2", weight=TaskRatio(ratio)), SoftTargetLoss(network(), weight=2.0)]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tasks = []
    for _ in range(4):
        total, terms = objective(model, LABELLED, STIMULI)
        transfer = total.detach() - terms["task"] - 2 * terms["soft_targets"]
        torch.testing.assert_close(transfer, ratio * terms["task"], rtol=1e-4, atol=1e-5)
        tasks.append(float(terms["task"]))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert len(set(tasks)) == 4  # the task loss went elsewhere, and the term with it


def test_task_ratio_carries_no_gradient() -> None:
    model = student()
    plain, balanced = RDMLoss(brain(), "conv2"), RDMLoss(brain(), "conv2", weight=TaskRatio(2.0))
    _, terms = Objective(plain)(model, LABELLED, STIMULI)
    factor = float(2 * terms["task"] / terms["rdm:conv2"])
    gradients_found = []
    for loss in (RDMLoss(brain(), "conv2", weight=factor), balanced):
        model.zero_grad()
        Objective(loss)(model, LABELLED, STIMULI)[0].backward()
        gradients_found.append(model.conv1[0].weight.grad.clone())
    torch.testing.assert_close(*gradients_found)
    with pytest.raises(NeurordlError, match="TaskRatio needs a task loss"):
        Objective(balanced, task=None)(model, stimuli=STIMULI)


def test_undefined_term_is_left_out_of_the_sum() -> None:
    model = student()
    with torch.no_grad():
        model.conv2[0].weight.zero_()
        model.conv2[0].bias.fill_(-1)  # a dead layer
    for weight in (1.0, TaskRatio(0.5)):
        objective = Objective([RDMLoss(brain(), "conv2", weight=weight)])
        with pytest.warns(UserWarning, match="rdm:conv2: undefined.*12 stimuli.*a layer may have died"):
            total, terms = objective(model, LABELLED, STIMULI)
        assert terms["rdm:conv2"].isnan()
        torch.testing.assert_close(total.detach(), terms["task"])
        model.zero_grad()
        total.backward()
        assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_stimuli_are_told_once(n: int) -> None:
    model, objective = student(), Objective([RDMLoss(network()["conv2"], "conv2"), RDMLoss(brain(), "conv3")])
    few = (STIMULI[0][:n], IDS[:n])
    with pytest.warns(UserWarning, match=f"rdm:conv2, rdm:conv3: undefined.*batch of {n}.*3 stimuli or more"):
        objective(model, LABELLED, few)[0].backward()
    assert all(one.grad.isfinite().all() for one in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(model, LABELLED, few)


@pytest.mark.parametrize("kind", [SoftTargetLoss, HintLoss, RDMLoss])
@pytest.mark.parametrize("weight", [1.0, 2.0, TaskRatio(0.5)])
def test_nan_features_of_a_teacher_give_no_nan_gradients(kind: Any, weight: Any) -> None:
    """They may come from finite weights, by overflow."""
    failed = small_cnn(4, 1, width=4)
    failed.conv2.register_forward_hook(lambda _module, _given, output: output * math.nan)
    teacher = NetworkTeacher(failed, ["conv2", ""])
    on_output = kind is SoftTargetLoss
    loss = kind(teacher, weight=weight) if on_output else kind(teacher["conv2"], "conv2", weight=weight)
    model, objective = student(), Objective(loss)
    with pytest.warns(UserWarning, match="undefined"):
        total, terms = objective(model, LABELLED, STIMULI)
    total.backward()
    assert terms[loss.name].isnan()
    torch.testing.assert_close(total.detach(), terms["task"])
    gradients = [one.grad for one in (*model.parameters(), *objective.parameters()) if one.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_infinite_term_is_not_left_out() -> None:
    """It is no lack of data: the loss has diverged."""

    class Diverged(TransferLoss):
        layers = ("conv2",)

        def __call__(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
            return student["conv2"].sum() * math.inf

    assert Objective(Diverged())(student(), LABELLED, STIMULI)[0].isinf()


# Batch norm


def running(model: nn.Module) -> list[Tensor]:
    return [value.clone() for name, value in model.state_dict().items() if "running" in name]


def moved_by(model: nn.Module, *streams: Tensor) -> list[Tensor]:
    """Running statistics after the student has seen these batches in training."""
    model = copy.deepcopy(model).train()
    for given in streams:
        model(given)
    return running(model)


@pytest.mark.parametrize("batchnorm", ["labelled", "stimuli", "both", "joint"])
def test_which_stream_moves_the_running_statistics(batchnorm: Any) -> None:
    model = student(batchnorm=True).train()
    moved_by(model, LABELLED[0])
    streams = {"labelled": [LABELLED[0]], "stimuli": [STIMULI[0]], "both": [LABELLED[0], STIMULI[0]]}
    streams["joint"] = [torch.cat([LABELLED[0], STIMULI[0]])]
    expected = moved_by(model, *streams[batchnorm])
    modes = [module.training for module in model.modules()]
    Objective([RDMLoss(brain(), "conv2")])(model, LABELLED, STIMULI, batchnorm=batchnorm)
    # Layers behind the one that is read see the stimuli too: the whole student runs.
    for got, want in zip(running(model), expected, strict=True):
        torch.testing.assert_close(got, want)
    assert [module.training for module in model.modules()] == modes


def test_a_single_stream_always_moves_the_running_statistics() -> None:
    for objective, given in (
        (Objective([RDMLoss(brain(), "conv2")], task=None), {"stimuli": STIMULI}),
        (Objective([RDMLoss(brain(), "conv2")]), {"labelled": (STIMULI[0], LABELS, IDS)}),
    ):
        model = student(batchnorm=True).train()
        expected = moved_by(model, STIMULI[0])
        objective(model, **given, batchnorm="labelled")
        for got, want in zip(running(model), expected, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("batchnorm", ["labelled", "stimuli"])
def test_gradient_of_the_other_stream_is_of_the_statistics_it_was_given(batchnorm: Any) -> None:
    """A pass in eval mode reads the running statistics in its backward: nothing may move them between."""
    model = student(batchnorm=True).train()
    loss = RDMLoss(brain(), "conv2")
    objective = Objective([loss])
    total, _ = objective(model, LABELLED, STIMULI, batchnorm=batchnorm)
    total.backward()
    got = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    # The same loss in double precision by a fresh student, whose statistics are set beforehand.
    fresh = student(batchnorm=True).double()
    other = STIMULI[0] if batchnorm == "labelled" else LABELLED[0]
    moving = LABELLED[0] if batchnorm == "labelled" else STIMULI[0]
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d)]
    fresh.train()(moving.double())  # moves them, once
    for module in norms:
        module.eval()
    fixed = read(fresh, other)
    for module in norms:
        module.train()
        module.momentum = 0.0
    live = read(fresh, moving)
    outputs, features = (live, fixed) if batchnorm == "labelled" else (fixed, live)
    by_hand = functional.cross_entropy(outputs[0], LABELS) + loss(
        {"conv2": features[1]}, {}, Batch(STIMULI[0], IDS)
    )
    by_hand.backward()
    for name, one in fresh.named_parameters():
        torch.testing.assert_close(got[name].double(), one.grad, rtol=1e-3, atol=1e-5)


def read(model: nn.Module, given: Tensor) -> tuple[Tensor, Tensor]:
    hidden = model.conv2(model.conv1(given.double()))
    return model.fc2(model.fc1(model.conv3(hidden))), hidden.flatten(1)


class Own(TransferLoss):
    """A loss without a teacher."""

    layers = ("conv2",)

    def __call__(self, features: Any, teacher: Any, batch: Batch) -> Tensor:
        return features["conv2"].square().mean()


def patterns() -> PatternTeacher:
    return PatternTeacher({"a": (np.random.default_rng(0).normal(size=(N, 9)), IDS)})


def losses_of(*teachers: Any) -> Objective:
    return Objective([RDMLoss(teacher, "conv2", comparison="corr") for teacher in teachers])


CHOICES: dict[str, tuple[Any, Any]] = {
    "RDMs": (lambda: losses_of(brain()), "joint"),
    "permuted RDMs": (lambda: losses_of(brain().permuted(IDS, 0)), "joint"),
    "weight 0": (lambda: Objective(RDMLoss(brain(), "conv2", weight=0.0)), "joint"),
    "patterns and RDMs": (lambda: losses_of(patterns(), brain()), "joint"),
    "network": (lambda: losses_of(network()), "both"),
    "soft targets": (lambda: Objective(SoftTargetLoss(network())), "both"),
    "network and RDMs": (lambda: losses_of(network(), brain()), "both"),
    "a loss of one's own": (lambda: Objective([Own(), RDMLoss(brain(), "conv2")]), "both"),
    "labels only": (lambda: Objective(), "labelled"),
    "no task": (lambda: Objective(RDMLoss(brain(), "conv2"), task=None), "stimuli"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_batch_norm_by_the_kind_of_teacher(name: str) -> None:
    make, right = CHOICES[name]
    labelled, stimuli = Batch(LABELLED[0], None, LABELS), Batch(*STIMULI)
    assert make().choose_batchnorm(student(batchnorm=True), labelled, stimuli) == right
    assert make().choose_batchnorm(student(), labelled, stimuli) is None
    larger = Batch(torch.rand(N, 1, 10, 10), IDS)
    expected = "both" if right == "joint" else right
    assert make().choose_batchnorm(student(batchnorm=True), labelled, larger) == expected
    if right != "stimuli":
        assert make().choose_batchnorm(student(batchnorm=True), labelled, None) == "labelled"
    models = [student(batchnorm=True), student(batchnorm=True)]  # a call without a choice makes this choice
    values = [
        make()(model, LABELLED, STIMULI, batchnorm=batchnorm)[0]
        for model, batchnorm in zip(models, (None, right), strict=True)
    ]
    assert torch.equal(*values)
    assert all(torch.equal(*pair) for pair in zip(*map(running, models), strict=True))


class Named(nn.Module):
    """A network whose outputs are a mapping, as those of Hugging Face."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Any]:
        return {"aux": [images.mean(dim=1)], "logits": self.network(images), "scale": torch.ones(())}


@pytest.mark.parametrize("wrap", [lambda network: network, Named], ids=["tensor", "mapping"])
def test_a_joint_pass_is_a_loop_written_by_hand(wrap: Any) -> None:
    loss = RDMLoss(brain(), "conv2" if wrap is not Named else "network.conv2", weight=3.0)
    trained, by_hand = wrap(student(batchnorm=True)).train(), student(batchnorm=True).train()
    descents = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (trained, by_hand)]
    kept: list[Tensor] = []
    by_hand.conv2.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    for _ in range(3):
        total, terms = Objective(loss)(trained, LABELLED, STIMULI, batchnorm="joint")
        total.backward()
        outputs = by_hand(torch.cat([LABELLED[0], STIMULI[0]]))[:N]
        task = functional.cross_entropy(outputs, LABELS)
        term = loss({loss.layer: kept[-1][N:]}, {}, Batch(STIMULI[0], IDS))
        (task + 3 * term).backward()
        for descent in descents:
            descent.step()
            descent.zero_grad()
        torch.testing.assert_close(list(terms.values()), [task.detach(), term.detach()], rtol=0, atol=1e-6)
    states = trained.state_dict().values(), by_hand.state_dict().values()
    for got, right in zip(*states, strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-6)


def test_what_a_joint_pass_cannot_do() -> None:
    objective = losses_of(brain())
    with pytest.raises(
        NeurordlError, match=r"shapes are \(1, 8, 8\) and \(1, 10, 10\); choose batchnorm='both'"
    ):
        objective(student(), LABELLED, (torch.rand(N, 1, 10, 10), IDS), batchnorm="joint")

    class Wrapped(Named):
        def forward(self, images: Tensor) -> Any:
            return SimpleNamespace(logits=self.network(images))

    objective = Objective(RDMLoss(brain(), "network.conv2"))
    with pytest.raises(
        NeurordlError, match=r"cannot divide outputs of type SimpleNamespace .* choose batchnorm"
    ):
        objective(Wrapped(student()), LABELLED, STIMULI, batchnorm="joint")
    assert objective(Wrapped(student()), LABELLED, STIMULI)[0].isfinite()


# The task


def test_any_task() -> None:
    def margin(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.multi_margin_loss(outputs, labels)

    model = student()
    total, terms = Objective(task=margin)(model, LABELLED)
    torch.testing.assert_close(total, margin(model(LABELLED[0]), LABELS))
    assert list(terms) == ["task"]
    described = Objective(task=margin).describe()["task"]
    assert described.endswith("margin")
    smooth = Objective(task=nn.CrossEntropyLoss(label_smoothing=0.1))
    assert smooth(model, LABELLED)[0] != Objective()(model, LABELLED)[0]
    assert "0x" not in smooth.describe()["task"]


def test_cross_entropy_is_in_single_precision() -> None:
    model = student().bfloat16()
    given = LABELLED[0].bfloat16()
    total, _ = Objective()(model, (given, LABELS))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, functional.cross_entropy(model(given).float(), LABELS))


def test_ids_share_a_batch_only_where_every_teacher_lets_them() -> None:
    values = np.random.default_rng(0).normal(size=(N, 5))
    one = PatternTeacher({"a": (values[:8], IDS[:8]), "b": (values[4:], IDS[4:])})
    two = RDMTeacher(random_rdms(seed=0, ids=IDS[:10]), missing="ignore")
    objective = Objective([RDMLoss(two, "conv2"), RDMLoss(one, "conv2"), RDMLoss(brain(), "conv2")])
    assert objective.groups(IDS) == [IDS[:8], IDS[4:10]]


def test_labels_only_reads_no_layer() -> None:
    model = student()
    total, terms = Objective()(model, LABELLED, STIMULI)  # stimuli that no loss asks for
    assert list(terms) == ["task"]
    torch.testing.assert_close(total, functional.cross_entropy(model(LABELLED[0]), LABELS))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda o, m: Objective([], task=None), "needs a task, or at least one"),
        (lambda o, m: Objective(task="accuracy"), "task='accuracy'"),  # type: ignore[arg-type]
        (lambda o, m: o(m), "labelled= is missing"),
        (
            lambda o, m: o(m, None, STIMULI),
            r"labelled= is missing: pass labelled images, or stimuli= and an objective with task=None",
        ),
        (
            lambda o, m: o(m, LABELLED[0], STIMULI),
            r"labelled: expected \(images, labels\) or \(images, labels, ids\), got Tensor",
        ),
        (lambda o, m: o(m, (LABELLED[0],), STIMULI), "has no labels"),
        (lambda o, m: o(m, LABELLED), "but the images have none"),
        (
            lambda o, m: o(m, (LABELLED[0], LABELS + 1), STIMULI),
            "labels run from 1 to 4, but the student has 4",
        ),
        (lambda o, m: o(m, (LABELLED[0], LABELS - 1), STIMULI), "labels run from -1 to 2"),
        (lambda o, m: o(m, (LABELLED[0], LABELS.float()), STIMULI), "expected whole numbers"),
        (
            lambda o, m: o(m, LABELLED, STIMULI, batchnorm="none"),
            "batchnorm='none': expected one of None, 'labelled'",
        ),
        (lambda o, m: o(m, LABELLED, (STIMULI[0], ["x", *IDS[1:]])), "'x'"),
        (lambda o, m: Objective([RDMLoss(brain(), "conv9")])(m, LABELLED, STIMULI), "nearest: conv"),
        (
            lambda o, m: Objective()(nn.Identity(), LABELLED),
            r"needs a tensor \(images, classes\), but the student returned one of shape",
        ),
        (lambda o, m: o(m, LABELLED, (STIMULI[0], IDS[:-1])), "a batch of 12 images has 11 ids"),
        (lambda o, m: o(m, (LABELLED[0], LABELS[1:]), STIMULI), "a batch of 12 images has 11 labels"),
        (lambda o, m: o(m, (LABELLED[0], LABELS.tolist()), STIMULI), "labels: expected a tensor, got a list"),
        (
            lambda o, m: Objective(brain()),
            "RDMTeacher is not a TransferLoss, because it has no name, weight, .*; use RDMLoss",
        ),
    ],
)
def test_wrong_use(call: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        call(Objective([RDMLoss(brain(), "conv2")]), student())


def test_a_loss_of_ones_own() -> None:
    """Losses are anything with these attributes: here, small features."""

    class Small:
        name, weight, layers, network, teacher = "small", 0.1, ("conv1", ""), None, None

        def __call__(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
            assert teacher == {}
            assert batch.ids == IDS
            return student["conv1"].square().mean() + student[""].square().mean()

        def describe(self) -> dict[str, Any]:
            return {"loss": "Small"}

    model = student()
    total, terms = Objective([Small(), RDMLoss(brain(), "conv2")])(model, LABELLED, STIMULI)
    torch.testing.assert_close(total.detach(), terms["task"] + 0.1 * terms["small"] + terms["rdm:conv2"])
    total.backward()
    assert model.fc2[1].weight.grad.abs().max() > 0


def test_a_custom_training_loop_learns() -> None:
    model = student()
    objective = Objective([RDMLoss(network(), "conv2", comparison="corr")])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for step in range(30):
        loss, terms = objective(model, labelled=LABELLED, stimuli=STIMULI, step=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: float(value) for name, value in terms.items()})
    assert history[-1]["task"] < 0.9 * history[0]["task"]
    assert history[-1]["rdm:conv2"] < 0.5 * history[0]["rdm:conv2"]


def test_terms_of_validation_stimuli() -> None:
    model = student(batchnorm=True, dropout=0.5).train()
    objective = Objective([RDMLoss(brain(), "conv2", weight=5.0), SoftTargetLoss(network())])
    before = running(model)
    first = objective.transfer_terms(model, Batch(*STIMULI))
    assert first == objective.transfer_terms(model, Batch(*STIMULI))
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, running(model), strict=True))
    assert list(first) == ["rdm:conv2", "soft_targets"]
    frozen = copy.deepcopy(model).eval()
    _, terms = Objective([RDMLoss(brain(), "conv2")], task=None)(frozen, stimuli=STIMULI)
    assert first["rdm:conv2"] == pytest.approx(float(terms["rdm:conv2"]), abs=1e-6)
    assert Objective().transfer_terms(model, Batch(*STIMULI)) == {}
    assert math.isfinite(first["soft_targets"])


def check(model: nn.Module, objective: Objective, labelled: Batch | None, stimuli: Batch | None) -> list[int]:
    """Check a first step on these batches; return the numbers of classes that were set."""
    classes = list[int]()
    streams: Any = SimpleNamespace(device="cpu", seed=0, world=1, set_classes=classes.append)
    streams.draw = lambda step: (labelled, stimuli)
    Step(model, objective, "labelled", None).check(streams)
    return classes


def test_check_goes_through_one_step_without_training() -> None:
    model = student(batchnorm=True, dropout=0.5).train()
    state = copy.deepcopy(model.state_dict())
    objective = Objective([RDMLoss(brain(), "conv2")])
    labelled, stimuli = Batch(LABELLED[0], None, LABELS), Batch(*STIMULI)
    assert check(model, objective, labelled, stimuli) == [4]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert check(model, Objective([RDMLoss(brain(), "conv2")], task=None), None, stimuli) == []
    with pytest.raises(NeurordlError, match=r"takes 1 channels, .* are 3 x 8 x 8 and 1 x 8 x 8 "):
        check(model, objective, Batch(torch.zeros(N, 3, 8, 8), None, LABELS), stimuli)
    with pytest.raises(NeurordlError, match=r"are 3 x 8 x 8 \(.*, or make the student with in_channels=3$"):
        check(model, objective, Batch(torch.zeros(N, 3, 8, 8), None, LABELS), None)
    with pytest.raises(NeurordlError, match=r"parameters torch.float64; call student.float\(\)"):
        check(student().double(), objective, labelled, stimuli)


def test_a_loss_is_not_shaped_in_inference_mode() -> None:
    """Its parameters could not be trained; the message says what can be done instead."""
    network = NetworkTeacher(student(9), "conv2")
    objective = Objective(HintLoss(network, "conv2"))
    labelled = random_images(4), torch.arange(4)
    with torch.inference_mode(), pytest.raises(NeurordlError, match=r"make it under torch\.no_grad\(\)"):
        objective(student(), labelled)
    with torch.no_grad():
        objective(student(), labelled)
    with torch.inference_mode():
        objective(student(), labelled)
    objective(student(), labelled)[0].backward()


@pytest.mark.parametrize(
    ("result", "message"),
    [(lambda outputs: outputs.mean(1), "not one of shape \\(4,\\)"), (lambda outputs: 1.0, "not float")],
)
def test_a_task_returns_a_scalar(result: Any, message: str) -> None:
    objective = Objective(task=lambda outputs, labels: result(outputs))
    with pytest.raises(NeurordlError, match=rf"^task: it must return a tensor of shape \(\), {message}"):
        objective(student(), (random_images(4), torch.arange(4)))


def test_backward_where_no_term_is_defined_changes_nothing() -> None:
    network, model = NetworkTeacher(student(9), "conv2"), student()
    objective = Objective(RDMLoss(network["conv2"], "conv2", pairs="within"), task=None)
    stimuli = random_images(6), [f"s{k}" for k in range(6)], torch.arange(6)  # no two of one label
    with pytest.warns(UserWarning, match="undefined"):
        loss, terms = objective(model, stimuli=stimuli)
    loss.backward()
    assert terms["rdm:conv2"].isnan()
    assert all(parameter.grad is None for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    defined = Objective(RDMLoss(network["conv2"], "conv2"), task=None)
    assert not defined(model, stimuli=stimuli)[0].requires_grad  # a mistake is not hidden


def test_an_empty_batch_is_named() -> None:
    with pytest.raises(NeurordlError, match="the batch has no images"):
        Objective()(student(), (random_images(4)[:0], torch.arange(0)))
