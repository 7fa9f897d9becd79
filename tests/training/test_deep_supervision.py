"""A loss on the labelled stream reads that stream and no other, and changes nothing for the stimuli."""

from __future__ import annotations

import copy
import doctest
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurordl as nrl
from neurordl.training.losses import auxiliary
from tests.helpers import random_images, random_rdms, random_stimuli, student
from tests.training.helpers import fit_with

N, M = 6, 8
IDS = [f"s{k}" for k in range(M)]
LABELS = torch.arange(N) % 4
LABELLED = (random_images(N, 1), LABELS)
STIMULI = (random_images(M, 2), IDS)  # without labels
LAYER = "conv2"


def deep(**options: Any) -> nrl.DeepSupervisionLoss:
    return nrl.DeepSupervisionLoss(LAYER, **options)


def rdm() -> nrl.RDMLoss:
    return nrl.RDMLoss(nrl.RDMTeacher(random_rdms(IDS, subject=["a"])), LAYER)


def network() -> nrl.NetworkTeacher:
    return nrl.NetworkTeacher(student(9), [LAYER, ""])


class Probe(nrl.TransferLoss):
    """Keeps what a loss of the labelled images gets."""

    layers, stream = (LAYER,), "labelled"

    def __call__(self, student: Any, teacher: Any, batch: nrl.Batch) -> Tensor:
        self.features, self.of_teacher, self.batch = student[LAYER], teacher, batch
        return student[LAYER].square().mean()


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = model.get_submodule(LAYER).register_forward_hook(lambda *args: kept.append(args[2].clone()))
    model(images)
    handle.remove()
    return kept[0]


# The value


@pytest.mark.parametrize("shape", [(N, 5, 3, 2), (N, 5)])
def test_loss_is_a_loop_over_images(shape: tuple[int, ...]) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).requires_grad_()
    loss, batch = deep(), nrl.Batch(torch.zeros(1), None, LABELS)
    value = loss({LAYER: values, "": torch.zeros(N, 4)}, {}, batch)
    weight, bias = (parameter.detach().numpy() for parameter in loss.parameters())
    assert (weight.shape, weight.dtype) == ((4, 5), np.float64)
    errors = []
    for row, label in zip(values.detach().numpy(), LABELS.tolist(), strict=True):
        means = [channel.mean() for channel in row]
        scores = [sum(w * x for w, x in zip(weight[k], means, strict=True)) + bias[k] for k in range(4)]
        errors.append(math.log(sum(math.exp(score) for score in scores)) - scores[label])
    assert math.isclose(float(value.detach()), np.mean(errors), rel_tol=1e-12)
    assert torch.autograd.gradcheck(
        lambda values, *_: loss({LAYER: values, "": torch.zeros(N, 4)}, {}, batch),
        (values, *loss.parameters()),
    )


def test_half_precision_is_left_before_the_loss() -> None:
    values, loss = random_images(N).flatten(1).bfloat16(), deep()
    batch = nrl.Batch(torch.zeros(1), None, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss({LAYER: values, "": torch.zeros(N, 4)}, {}, batch)
    assert torch.equal(value, loss({LAYER: values.float(), "": torch.zeros(N, 4)}, {}, batch))


def test_a_classifier_of_ones_own_needs_no_output() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    loss = deep(classifier=classifier)
    assert loss.layers == (LAYER,)
    nrl.Objective(loss)(student(), LABELLED, STIMULI)
    assert classifier[1].weight.shape == (4, 32)
    assert "LazyLinear" not in loss.describe()["classifier"]


def test_its_record_is_the_same_in_another_process_and_its_repr_names_no_teacher() -> None:
    """Addresses in memory would make a resumed run another one."""

    class Head(nn.Linear):
        def extra_repr(self) -> str:
            return f"activation=<function relu at {id(self):#x}>"

    loss = deep(classifier=Head(5, 4))
    assert loss.describe() == deep(classifier=Head(5, 4)).describe()
    assert repr(loss) == f"DeepSupervisionLoss({LAYER}, weight=1.0)"


# The stream


@pytest.mark.parametrize("batchnorm", ["labelled", "stimuli", "both", "joint"])
def test_features_are_those_of_the_labelled_images(batchnorm: Any) -> None:
    model, probe = student(batchnorm=True).train(), Probe()
    by_hand = copy.deepcopy(model)
    _, terms = nrl.Objective([rdm(), probe])(model, LABELLED, STIMULI, batchnorm=batchnorm)
    assert probe.batch.images is LABELLED[0]
    assert torch.equal(probe.batch.labels, LABELS)
    assert probe.of_teacher == {}
    if batchnorm == "joint":
        expected = features_of(by_hand, torch.cat([LABELLED[0], STIMULI[0]]))[:N]
    elif batchnorm == "stimuli":  # the labelled images are normalized by running statistics
        by_hand(STIMULI[0])
        expected = features_of(by_hand.eval(), LABELLED[0])
    else:
        expected = features_of(by_hand, LABELLED[0])
    torch.testing.assert_close(probe.features, expected, rtol=1e-6, atol=1e-6)
    assert list(terms) == ["task", "rdm:conv2", "probe"]
    alone = student(batchnorm=True).train()
    _, without = nrl.Objective(rdm())(alone, LABELLED, STIMULI, batchnorm=batchnorm)
    for name, value in without.items():
        assert torch.equal(value, terms[name])


@pytest.mark.parametrize("order", [1, -1])
def test_terms_keep_their_names_in_any_order(order: int) -> None:
    model = student()
    losses = [rdm(), deep(weight=0.5), nrl.RDMLoss(network()[LAYER], "conv3", weight=2.0)][::order]
    total, terms = nrl.Objective(losses)(model, LABELLED, STIMULI)
    assert list(terms) == ["task", *(loss.name for loss in losses)]
    weights = {"task": 1.0, **{loss.name: loss.weight for loss in losses}}
    torch.testing.assert_close(total.detach(), sum(weights[name] * terms[name] for name in terms))
    pooled = features_of(model, LABELLED[0]).mean(dim=(2, 3))
    expected = nn.functional.cross_entropy(
        next(x for x in losses if x.name[0] == "d").classifier(pooled), LABELS
    )
    torch.testing.assert_close(terms["deep_supervision:conv2"], expected.detach())


def test_in_a_single_stream() -> None:
    shown = (*LABELLED, [f"s{k}" for k in range(N)])
    _, terms = nrl.Objective([rdm(), deep()])(student(), shown)
    assert all(value.isfinite() for value in terms.values())
    _, alone = nrl.Objective(deep(), task=None)(student(), LABELLED)
    assert list(alone) == ["deep_supervision:conv2"]


BATCHNORM = {  # losses, and the choice for both streams
    "alone": (lambda: [deep()], "labelled"),
    "beside RDMs": (lambda: [rdm(), deep()], "joint"),
    "beside a network": (lambda: [nrl.RDMLoss(network()[LAYER], LAYER), deep()], "both"),
}


@pytest.mark.parametrize("task", ["cross_entropy", None])
@pytest.mark.parametrize("case", BATCHNORM)
def test_choice_of_batch_norm_is_that_without_the_loss(case: str, task: Any) -> None:
    make, right = BATCHNORM[case]
    batches = nrl.Batch(*LABELLED[:1], None, LABELS), nrl.Batch(STIMULI[0], IDS)
    model = student(batchnorm=True)
    assert nrl.Objective(make(), task=task).choose_batchnorm(model, *batches) == right
    if case != "alone":
        assert nrl.Objective(make()[:1]).choose_batchnorm(model, *batches) == right


def test_alone_it_shows_no_stimuli() -> None:
    model, shapes = student(), []
    model.register_forward_hook(lambda module, inputs, output: shapes.append(len(inputs[0])))
    objective = nrl.Objective(deep())
    objective(model, LABELLED, STIMULI)
    shapes.clear()  # of the probes that look for the axis of the images
    objective(model, LABELLED, STIMULI)
    assert shapes == [N]


def test_a_network_may_teach_on_the_labelled_images() -> None:
    class Labelled(nrl.DecoupledLoss):
        stream = "labelled"

    model, teacher = student(), network()
    _, terms = nrl.Objective(Labelled(teacher))(model, LABELLED, STIMULI)
    _, expected = nrl.Objective(nrl.DecoupledLoss(teacher))(model, LABELLED)
    assert torch.equal(terms["decoupled"], expected["decoupled"])


# In fit


def images(n: int, seed: int, ids: list[str] | None = None, labels: Any = None) -> nrl.StimulusSet:
    return random_stimuli(n, seed, ids, labels=labels)


def fitted(*losses: nrl.TransferLoss, **changes: Any) -> nrl.Run:
    settings: dict[str, Any] = {
        "labelled": images(12, 1, labels=np.arange(12) % 4),
        "stimuli": images(M, 2, IDS),
        "batch_size": 6,
        "stimuli_batch": 4,
        "epochs": 2,
        **changes,
    }
    return fit_with(student(batchnorm=True), nrl.Objective(losses), **settings)


def test_beside_others_it_changes_neither_validation_nor_batch_norm() -> None:
    runs = [fitted(rdm(), *more, validation=0.5, stimuli_batch=3) for more in ([], [deep()])]
    assert [run.record["settings"]["optimization.batchnorm"] for run in runs] == ["joint"] * 2
    validated = [[name for name in run.history if name.startswith("val_")] for run in runs]
    assert validated == [["val_rdm:conv2"]] * 2
    assert runs[1].history["deep_supervision:conv2"].notna().all()
    assert runs[1].record["best"]["value"] == runs[1].history["val_rdm:conv2"].min()


def test_alone_it_is_trained_like_the_task() -> None:
    shown = images(M, 2, IDS, labels=np.arange(M) % 4)
    runs = []
    for losses in ([], [deep(weight=0.0)], [deep()]):
        with pytest.warns(
            UserWarning, match="no transfer loss reads stimuli, so the 4 stimuli are not shown"
        ):
            runs.append(fitted(*losses, stimuli=shown, validation=0.5))
    plain, weightless, trained = runs
    for run in runs[1:]:
        for part in ("stimuli", "settings"):
            assert run.record[part] == plain.record[part]
    assert plain.record["settings"]["optimization.batchnorm"] == "labelled"
    assert weightless.history["val_task"].tolist() == plain.history["val_task"].tolist()
    weights = [next(run.student.parameters()) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert trained.record["objective"]["losses"]["deep_supervision:conv2"]["parameters"] == 8 * 4 + 4


def test_it_needs_no_batch_of_three() -> None:
    fitted(deep(), stimuli=None, batch_size=2, epochs=1)


NAMES = ["cat", "dog", "fox", "owl"]


class OnClasses(nrl.TransferLoss):
    """A loss of one's own that reads the classes of the stimuli."""

    layers, reads_classes = ("",), True

    def __call__(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(student[""], batch.labels)


READERS = {"decoupled": lambda: nrl.DecoupledLoss(network()), "onclasses": OnClasses}


@pytest.mark.parametrize("term", READERS)
def test_classes_of_stimuli_are_matched_by_name(term: str) -> None:
    """The stimuli lack the first class, so that their own numbers are others."""
    labelled = images(12, 1, labels=[NAMES[k % 4] for k in range(12)])
    named = images(M, 2, IDS, labels=[NAMES[1 + k % 3] for k in range(M)])
    numbered = images(M, 2, IDS, labels=[1 + k % 3 for k in range(M)])
    runs = [
        fitted(READERS[term](), labelled=labelled, stimuli=shown, validation=0.5)
        for shown in (named, numbered)
    ]
    for name in (term, f"val_{term}"):
        assert runs[0].history[name].tolist() == runs[1].history[name].tolist()


class Choosy(nrl.TransferLoss):
    """A loss of one's own that refuses a stimulus."""

    layers = (LAYER,)

    def check_stimuli(self, ids: Any) -> None:
        if IDS[1] in ids:
            raise nrl.NeurordlError(f"choosy: {IDS[1]} is not for me")

    def __call__(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        raise AssertionError("no step is taken")


def test_a_loss_may_refuse_stimuli_before_the_first_step() -> None:
    with pytest.raises(nrl.NeurordlError, match=f"choosy: {IDS[1]} is not for me"):
        fitted(Choosy())


# What does not fit


class Known(nrl.TransferLoss):
    layers, stream = (LAYER,), "labelled"

    def __init__(self) -> None:
        self.teacher = rdm().teacher

    def __call__(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return student[LAYER].mean()


class Elsewhere(Probe):
    stream = "both"


def call(loss: nrl.TransferLoss, features: Tensor, labels: Tensor | None = LABELS) -> Tensor:
    return loss({LAYER: features, "": torch.zeros(N, 4)}, {}, nrl.Batch(torch.zeros(1), None, labels))


ERRORS = {
    "a teacher by id": (
        lambda: nrl.Objective(Known()),
        "known reads the labelled images, and its teacher knows stimuli by their ids; give it",
    ),
    "a stream": (lambda: nrl.Objective(Elsewhere()), "probe: stream='both': expected one of"),
    "no labelled images": (
        lambda: nrl.Objective(deep(), task=None)(student(), stimuli=STIMULI),
        "labelled= is missing: .* an objective without deep_supervision:conv2",
    ),
    "no labels": (lambda: call(deep(), torch.zeros(N, 5), None), "the labelled batch has no labels"),
    "tokens": (
        lambda: call(deep(), torch.zeros(N, 7, 5)),
        "gives 7 x 5 for each image, .*; give classifier=",
    ),
    "maps of scores": (
        lambda: call(deep(classifier=nn.Conv2d(5, 4, 1)), torch.zeros(N, 5, 2, 2)),
        r"the classifier gives \(6, 4, 2, 2\) for 6 images; it must give \(images, classes\)",
    ),
    "too few classes": (
        lambda: call(deep(classifier=nn.Linear(5, 3)), torch.zeros(N, 5)),
        "labels run from 0 to 3",
    ),
    "a class": (lambda: deep(classifier=nn.Linear), "classifier: expected Module, got type"),
    "several layers": (
        lambda: nrl.DeepSupervisionLoss([LAYER]),
        "make one DeepSupervisionLoss for each layer",
    ),
    "nothing to choose the epoch": (
        lambda: fit_with(
            student(),
            nrl.Objective(deep(), task=None),
            images(12, 1, labels=np.arange(12) % 4),
            images(M, 2, IDS, labels=np.arange(M) % 4),
            validation=0.5,
        ),
        "validation: the objective has no task, and no transfer loss reads stimuli",
    ),
    "unlabelled stimuli of a loss of one's own": (
        lambda: fitted(OnClasses()),
        "onclasses: 8 stimuli or validation images have no labels; give them labels, or leave the loss out",
    ),
    "unlabelled stimuli of decoupled distillation": (
        lambda: fitted(nrl.DecoupledLoss(network())),
        "decoupled: 8 stimuli or validation images have no labels; give them labels, or leave the loss out",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_named(case: str) -> None:
    make, message = ERRORS[case]
    with pytest.raises(nrl.NeurordlError, match=message):
        make()


def test_the_example_runs() -> None:
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(nrl.DeepSupervisionLoss, globs={}, module=auxiliary):
        runner.run(example)
    assert runner.summarize().attempted >= 5
    assert runner.summarize().failed == 0
