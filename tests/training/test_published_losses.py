"""Hints, attention and decoupled distillation are those of the papers, and of the code that people use."""

from __future__ import annotations

import doctest
import inspect
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import neurordl as nrl
from neurordl.training.losses import features as features_module
from neurordl.training.losses import outputs as outputs_module
from tests.helpers import random_images, student

PARITY = Path(__file__).parent / "parity"
RELATIVE = 1e-5
LAYER = "conv2"


def teacher() -> nrl.NetworkTeacher:
    return nrl.NetworkTeacher(student(9), [LAYER, ""])


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal values by seed, as in the fixtures."""
    values = scale * np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(values.astype(np.float32))


def batch(labels: Tensor | None = None) -> nrl.Batch:
    return nrl.Batch(torch.zeros(1), None, labels)


def assert_published(file: str, case: str, value: Tensor, *inputs: Tensor, factor: float = 1.0) -> None:
    """Value and gradients are those that the published code gave, times a factor."""
    stored = np.load(PARITY / f"{file}.npz")[case] * factor
    parts = [value.detach(), *torch.autograd.grad(value, inputs)]
    assert sum(part.numel() for part in parts) == len(stored)
    slope, start = np.abs(stored[1:]).max(), 0
    for part in parts:  # the value, then the gradient of each input
        expected = torch.from_numpy(stored[start : start + part.numel()]).reshape(part.shape)
        # That of a bias before batch norm is 0, with rounding of the size of the other gradients.
        scale = max(float(expected.abs().max()), slope if part.ndim == 1 else 0.0)
        assert float((part - expected).abs().max()) <= RELATIVE * scale
        start += part.numel()


# Hints


def set_weights(module: nn.Module) -> None:
    for place, parameter in enumerate(module.parameters()):
        parameter.data = drawn(100 + place, *parameter.shape, scale=0.3)


def hint(regressor: nn.Module | None, shape: tuple[int, ...]) -> tuple[nrl.HintLoss, Tensor, Tensor]:
    """A hint with weights by seed, and features."""
    ours, theirs = drawn(1, *shape).requires_grad_(), drawn(2, 2, 5, 4, 4)
    loss = nrl.HintLoss(teacher()[LAYER], LAYER, regressor)
    if regressor is None:
        loss({LAYER: ours}, {LAYER: theirs}, batch())  # shapes the regressor
        weight, bias = loss.parameters()
        weight.data, bias.data = drawn(100, 5, 3, 1, 1, scale=0.3)[:, :, 0, 0], drawn(101, 5, scale=0.3)
    else:
        set_weights(regressor)
    return loss, ours, theirs


def published_regressor(conv: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.BatchNorm2d(5), nn.ReLU())


HINTS = {  # our regressor, the shape of the student's maps, and what the published value is divided by
    "repdistiller/HintLoss": (lambda: None, (2, 3, 4, 4), 1),
    "mdistiller/FitNet": (lambda: None, (2, 3, 4, 4), 1),
    "torchdistill/MSELoss_sum": (lambda: None, (2, 3, 4, 4), 2 * 5 * 4 * 4),
    "torchdistill/ConvReg_sum": (
        lambda: published_regressor(nn.Conv2d(3, 5, 1)),
        (2, 3, 4, 4),
        2 * 5 * 4 * 4,
    ),
    "repdistiller/ConvReg_larger": (
        lambda: published_regressor(nn.Conv2d(3, 5, 3, stride=2, padding=1)),
        (2, 3, 8, 8),
        1,
    ),
    "repdistiller/ConvReg_smaller": (
        lambda: published_regressor(nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)),
        (2, 3, 2, 2),
        1,
    ),
}
HINTS |= {f"mdistiller/{name.split('/')[1]}": case for name, case in HINTS.items() if "ConvReg_" in name}
HINTS.pop("mdistiller/ConvReg_sum")


@pytest.mark.parametrize("case", HINTS)
def test_hints_are_the_published_ones(case: str) -> None:
    regressor, shape, count = HINTS[case]
    loss, ours, theirs = hint(regressor(), shape)
    parameters = list(loss.parameters())
    value = loss({LAYER: ours}, {LAYER: theirs}, batch())
    assert_published("hint", case, value, ours, *parameters, factor=1 / count)


@pytest.mark.parametrize(
    "sizes", [((4, 4), (4, 4)), ((8, 6), (4, 3)), ((2, 6), (4, 3)), ((5, 5), (3, 3)), None]
)
def test_hint_is_a_loop_over_images_channels_and_places(sizes: Any) -> None:
    """Maps of the student and the teacher, or vectors."""
    shapes = [(3, 2), (3, 4)] if sizes is None else [(3, 2, *sizes[0]), (3, 4, *sizes[1])]
    ours, theirs = (drawn(k, *shape).double() for k, shape in enumerate(shapes))
    loss = nrl.HintLoss(teacher()[LAYER], LAYER)
    value = loss({LAYER: ours}, {LAYER: theirs}, batch()).detach()
    assert value.dtype == torch.float64
    weight, bias = (one.detach().numpy() for one in loss.parameters())
    a, b = (x.numpy().reshape(*x.shape, *([1] * (4 - x.ndim))) for x in (ours, theirs))
    height, width = (min(x.shape[axis] for x in (a, b)) for axis in (2, 3))
    errors = []
    for n in range(3):
        for c in range(4):
            prediction = sum(weight[c, k] * a[n, k] for k in range(2)) + bias[c]
            difference = pooled(prediction, height, width) - pooled(b[n, c], height, width)
            errors += list((difference**2).ravel())
    assert math.isclose(float(value), np.mean(errors), rel_tol=1e-12)


def pooled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mean over the places of each field: from the floor of its start to the ceiling of its end."""
    result = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * image.shape[0] // height, -(-(i + 1) * image.shape[0] // height))
            columns = slice(j * image.shape[1] // width, -(-(j + 1) * image.shape[1] // width))
            result[i, j] = image[rows, columns].mean()
    return result


def test_the_regressor_is_there_for_an_optimizer_before_the_first_batch() -> None:
    loss, model = nrl.HintLoss(teacher()[LAYER], "conv1"), student()
    objective = nrl.Objective(loss, task=None)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)
    values = []
    for _ in range(40):
        value, terms = objective(model, stimuli=(random_images(8), [f"s{k}" for k in range(8)]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(terms["hint:conv1"]))
    assert values[-1] < 0.5 * values[0]
    assert set(objective.state_dict()) == {f"hint:conv1.regressor.linear.{x}" for x in ("weight", "bias")}


# Attention

ATTENTION = {
    "same": ((2, 3, 4, 4), (2, 5, 4, 4)),
    "larger": ((2, 3, 8, 8), (2, 5, 4, 4)),
    "smaller": ((2, 3, 3, 3), (2, 5, 6, 6)),
    "uneven": ((2, 3, 5, 5), (2, 5, 3, 3)),
}


def attention(power: float = 2) -> nrl.AttentionLoss:
    return nrl.AttentionLoss(teacher()[LAYER], LAYER, power=power)


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_the_published_one(case: str, power: int) -> None:
    ours, theirs = (drawn(seed, *shape) for seed, shape in zip((1, 2), ATTENTION[case], strict=True))
    for library in ("repdistiller", "mdistiller")[: 2 if power == 2 else 1]:
        value = attention(power)({LAYER: ours.requires_grad_()}, {LAYER: theirs}, batch())
        assert_published("attention", f"{library}/{case}_{power}", value, ours)


def test_attention_of_torchdistill_in_both_modes() -> None:
    ours, theirs = drawn(1, 2, 3, 4, 4).requires_grad_(), drawn(2, 2, 5, 4, 4)
    value = attention()({LAYER: ours}, {LAYER: theirs}, batch())
    assert_published("attention", "torchdistill/code_2", value, ours)
    # The paper takes the length of the difference: of an image, the root of the sum of squares.
    value = attention()({LAYER: ours[:1]}, {LAYER: theirs[:1]}, batch())
    assert_published("attention", "torchdistill/paper_1", (16 * value).sqrt(), ours)


def test_odd_powers_are_of_absolute_activations() -> None:
    """As in the paper; RepDistiller's are signed, which is the same for activations behind a ReLU."""
    ours, theirs = drawn(1, 2, 3, 4, 4).abs().requires_grad_(), drawn(2, 2, 5, 4, 4).abs()
    value = attention(3)({LAYER: ours}, {LAYER: theirs}, batch())
    assert_published("attention", "repdistiller/positive_3", value, ours)
    signed = attention(3)({LAYER: drawn(1, 2, 3, 4, 4)}, {LAYER: drawn(2, 2, 5, 4, 4)}, batch())
    assert torch.equal(value, signed)
    stored = np.load(PARITY / "attention.npz")["repdistiller/same_3"]
    assert abs(stored[0] / float(signed) - 1) > 0.1


@pytest.mark.parametrize("power", [1, 2, 3, 2.5])
@pytest.mark.parametrize("sizes", [((4, 4), (4, 4)), ((8, 6), (4, 3)), ((2, 6), (4, 3))])
def test_attention_is_a_loop_over_images_and_places(sizes: Any, power: float) -> None:
    ours, theirs = drawn(1, 3, 2, *sizes[0]).double(), drawn(2, 3, 4, *sizes[1]).double()
    size = [min(lengths) for lengths in zip(*sizes, strict=True)]
    errors = []
    for n in range(3):
        maps = []
        for x in (ours[n].numpy(), theirs[n].numpy()):
            attended = np.mean([np.abs(pooled(channel, *size)) ** power for channel in x], axis=0).ravel()
            maps.append(attended / np.sqrt((attended**2).sum()))
        errors += list((maps[0] - maps[1]) ** 2)
    value = attention(power)({LAYER: ours}, {LAYER: theirs}, batch())
    assert math.isclose(float(value), np.mean(errors), rel_tol=1e-12)


class Written(TorchDispatchMode):
    """Counts the operations that write a tensor of so many numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() == self.size and not function.is_view:
            self.count += 1
        return result


def test_attention_passes_through_maps_no_more_often_than_plain_code() -> None:
    """Maps are large: each tensor of their size costs time. Other scales take some more, on a CPU."""

    def plain(maps: Tensor, goal: Tensor) -> Tensor:
        ours, theirs = (functional.normalize(x.pow(2).mean(1).flatten(1)) for x in (maps, goal))
        return (ours - theirs).pow(2).mean()

    maps, goal = (drawn(seed, 4, 8, 6, 6).requires_grad_(seed == 1) for seed in (1, 2))
    counts, gradients, loss, images = [], [], attention(), batch()
    for compute in (plain, lambda x, y: loss({LAYER: x}, {LAYER: y}, images)):
        with Written(maps.numel()) as written:
            gradients += torch.autograd.grad(compute(maps, goal), maps)
        counts.append(written.count)
    torch.testing.assert_close(*gradients)
    assert counts[1] <= 3 < counts[0]


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("scale", [1e-20, 1e-7, 1e7, 1e20])
def test_attention_of_images_of_different_scales(scale: float, power: float) -> None:
    """One image is of another scale than the others, and one is black."""
    maps, goal = drawn(1, 4, 3, 4, 4), drawn(2, 4, 3, 4, 4)
    maps[3], factors = 0, torch.tensor([1, scale, 1, 1]).view(4, 1, 1, 1)
    leaves = [(maps * factors).requires_grad_(), maps.double().requires_grad_()]
    values = [
        attention(power)({LAYER: leaf}, {LAYER: teacher.to(leaf.dtype)}, batch())
        for leaf, teacher in zip(leaves, (goal * factors, goal), strict=True)
    ]
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(*pair)[0].double() for pair in zip(values, leaves, strict=True)]
    torch.testing.assert_close(gradients[0] * factors, gradients[1], rtol=1e-4, atol=1e-8)


# Soft targets


@pytest.mark.parametrize("library", ["repdistiller", "mdistiller", "torchdistill"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name, scale", [("plain", 3.0), ("sharp", 30.0)])
def test_soft_targets_are_the_published_ones(
    name: str, scale: float, temperature: float, library: str
) -> None:
    ours, theirs = drawn(1, 8, 10, scale=scale).requires_grad_(), drawn(2, 8, 10, scale=scale)
    value = nrl.SoftTargetLoss(teacher(), temperature)({"": ours}, {"": theirs}, batch())
    factor = temperature**2 if library == "torchdistill" else 1.0  # which multiplies only a sum with the task
    assert_published("soft_targets", f"{library}/{name}_{temperature}", value, ours, factor=factor)


# Decoupled distillation

KNOBS = [(1.0, 8.0, 4.0), (0.5, 2.0, 1.0)]


def labels(n: int = 8) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 10, n))


def decoupled(alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> nrl.DecoupledLoss:
    return nrl.DecoupledLoss(teacher(), temperature, alpha, beta)


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("name, scale", [("plain", 3.0), ("sharp", 30.0)])
@pytest.mark.parametrize("library", ["mdistiller", "mmrazor"])
def test_decoupled_distillation_is_the_published_one(
    library: str, name: str, scale: float, knobs: Any
) -> None:
    ours, theirs = drawn(1, 8, 10, scale=scale).requires_grad_(), drawn(2, 8, 10, scale=scale)
    value = decoupled(*knobs)({"": ours}, {"": theirs}, batch(labels()))
    assert_published("decoupled", f"{library}/{name}_" + "_".join(map(str, knobs)), value, ours)


@pytest.mark.parametrize("alpha, beta, temperature", KNOBS)
def test_decoupled_distillation_is_a_loop_over_images(alpha: float, beta: float, temperature: float) -> None:
    ours, theirs = drawn(1, 8, 10, scale=3).double(), drawn(2, 8, 10, scale=3).double()
    total = 0.0
    for s, t, label in zip(ours.numpy(), theirs.numpy(), labels().tolist(), strict=True):
        p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (s, t))
        binary = sum(b * np.log(b / a) for a, b in ((p[label], q[label]), (1 - p[label], 1 - q[label])))
        others = [k for k in range(10) if k != label]
        p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
        total += temperature**2 * (alpha * binary + beta * (q * np.log(q / p)).sum())
    value = decoupled(alpha, beta, temperature)({"": ours}, {"": theirs}, batch(labels()))
    assert math.isclose(float(value), total / 8, rel_tol=1e-12)


def test_soft_targets_of_an_image_are_decoupled_ones_with_the_teachers_doubt_as_beta() -> None:
    for k in range(8):
        ours, theirs = (drawn(seed, 8, 10, scale=3)[k : k + 1].double() for seed in (1, 2))
        label = labels()[k : k + 1]
        doubt = 1 - float((theirs / 4).softmax(dim=1)[0, label])
        values = [
            loss({"": ours}, {"": theirs}, batch(label))
            for loss in (nrl.SoftTargetLoss(teacher()), decoupled(1.0, doubt))
        ]
        torch.testing.assert_close(*values, rtol=1e-10, atol=0)


EXTREME = {
    "sure student": ([[200.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]),
    "sure teacher": ([[1.0, 2.0, 0.0]], [[900.0, 1.0, 0.0]]),
    "all alike": ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]),
    "a class excluded": ([[1.0, 2.0, 0.0]], [[1.0, 2.0, -math.inf]]),
    "the labelled class excluded": ([[1.0, 2.0, 0.0]], [[-math.inf, 2.0, 1.0]]),
    "all others excluded": ([[1.0, 2.0, 0.0]], [[1.0, -math.inf, -math.inf]]),
}


@pytest.mark.parametrize("case", EXTREME)
def test_decoupled_distillation_is_finite(case: str) -> None:
    ours, theirs = (torch.tensor(rows) for rows in EXTREME[case])
    value = decoupled(temperature=1.0)({"": ours.requires_grad_()}, {"": theirs}, batch(torch.tensor([0])))
    (gradient,) = torch.autograd.grad(value, ours)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())
    if case == "sure student":  # mdistiller's is infinite
        p, q = np.log(np.exp([0.0, 0.0]).sum()) - 200, np.exp([0.0, 1.0, 0.0]) / np.exp([0.0, 1.0, 0.0]).sum()
        doubt = q[0] * np.log(q[0]) + (1 - q[0]) * (np.log(1 - q[0]) - p)
        rest = q[1:] / q[1:].sum()
        assert math.isclose(
            float(value.detach()), doubt + 8 * (rest * np.log(rest / 0.5)).sum(), rel_tol=1e-5
        )


@pytest.mark.parametrize("place", [0, 1])
def test_a_teachers_nan_is_not_hidden(place: int) -> None:
    theirs = torch.tensor([[1.0, 2.0, 0.0]])
    theirs[0, place] = math.nan
    value = decoupled()({"": torch.zeros(1, 3)}, {"": theirs}, batch(torch.tensor([0])))
    assert bool(value.isnan())


# All of them

LOSSES = {
    "hint": lambda: nrl.HintLoss(teacher()[LAYER], LAYER),
    "attention": attention,
    "decoupled": decoupled,
}


def inputs(name: str, n: int = 3) -> tuple[str, Tensor, Tensor]:
    layer, *shapes = ("", (n, 4), (n, 4)) if name == "decoupled" else (LAYER, (n, 2, 3, 3), (n, 4, 3, 3))
    ours, theirs = (drawn(seed, *shape).double() for seed, shape in zip((1, 2), shapes, strict=True))
    return layer, ours.requires_grad_(), theirs


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    (layer, ours, theirs), loss = inputs(name), LOSSES[name]()
    numbers = batch(torch.tensor([0, 3, 1]))
    loss({layer: ours}, {layer: theirs}, numbers)
    parameters = tuple(loss.parameters()) if isinstance(loss, nn.Module) else ()

    def value(ours: Tensor, *_: Tensor) -> Tensor:
        return loss({layer: ours}, {layer: theirs}, numbers)

    assert torch.autograd.gradcheck(value, (ours, *parameters))


@pytest.mark.parametrize("content", ["zeros", "a zero row", "constant", "duplicates", "one image", "tiny"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite(name: str, content: str) -> None:
    layer, ours, theirs = inputs(name, 1 if content == "one image" else 3)
    with torch.no_grad():
        ours = ours.float()
        if content == "tiny":
            ours *= 1e-25
        elif content == "a zero row":
            ours[1] = 0
        elif content == "duplicates":
            ours[1] = ours[0]
        elif content != "one image":
            ours[:] = 0.0 if content == "zeros" else 1.0
    loss = LOSSES[name]()
    numbers = batch(torch.tensor([0, 3, 1])[: len(ours)])
    value = loss({layer: ours.requires_grad_()}, {layer: theirs.float()}, numbers)
    (gradient,) = torch.autograd.grad(value, ours)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_left_before_the_loss(name: str) -> None:
    (layer, ours, theirs), loss = inputs(name), LOSSES[name]()
    halves = ours.bfloat16(), theirs.bfloat16()
    numbers = batch(torch.tensor([0, 3, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss({layer: halves[0]}, {layer: halves[1]}, numbers)
    assert value.dtype == torch.float32
    expected = loss({layer: halves[0].float()}, {layer: halves[1].float()}, numbers)
    assert torch.equal(value, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_each_knob_is_recorded_and_the_example_runs(name: str) -> None:
    loss = LOSSES[name]()
    knobs = set(inspect.signature(type(loss)).parameters) - {"layer"}
    assert knobs < {*loss.describe(), "layers"}
    module = outputs_module if name == "decoupled" else features_module
    examples = doctest.DocTestFinder().find(type(loss), globs={}, module=module)
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize().attempted >= 5
    assert runner.summarize().failed == 0


ERRORS = {
    "a teacher of RDMs": (
        lambda: nrl.HintLoss(nrl.PatternTeacher({"p": (np.eye(4), list("abcd"))}), LAYER),
        "HintLoss reads the features of a network, and PatternTeacher is no NetworkTeacher; make one with",
    ),
    "several layers": (lambda: nrl.AttentionLoss(teacher(), LAYER), r"AttentionLoss: .*several layers"),
    "several names": (
        lambda: nrl.HintLoss(teacher()[LAYER], [LAYER]),
        "layer: .* one HintLoss for each layer",
    ),
    "a class": (lambda: nrl.HintLoss(teacher()[LAYER], LAYER, nn.Identity), "regressor: expected Module"),
    "a power": (lambda: attention(0.5), "power=0.5"),
    "a layer of outputs": (
        lambda: nrl.DecoupledLoss(teacher()[LAYER]),
        "DecoupledLoss needs a NetworkTeacher, not LayerTeacher; give the network, without",
    ),
    "outputs of a module": (
        lambda: nrl.SoftTargetLoss(student()),
        r"SoftTargetLoss needs a NetworkTeacher, not Sequential; make one with NetworkTeacher\(network\)",
    ),
    "beta": (lambda: decoupled(1.0, -1.0), "beta=-1"),
    "no labels": (
        lambda: decoupled()({"": torch.zeros(2, 4)}, {"": torch.zeros(2, 4)}, batch()),
        "decoupled: the stimuli have no labels; give labels=, or use SoftTargetLoss",
    ),
    "labels of other classes": (
        lambda: decoupled()({"": torch.zeros(1, 4)}, {"": torch.zeros(1, 4)}, batch(torch.tensor([4]))),
        "labels run from 4 to 4, but the student has 4 outputs",
    ),
    "one class": (
        lambda: decoupled()({"": torch.zeros(1, 1)}, {"": torch.zeros(1, 1)}, batch(torch.tensor([0]))),
        "decoupled: there is a single output",
    ),
    "vectors": (
        lambda: attention()({LAYER: torch.zeros(2, 5)}, {LAYER: torch.zeros(2, 3, 4, 4)}, batch()),
        "'conv2' gives 5, the teacher's 'conv2' 3 x 4 x 4 for each image; attention needs maps",
    ),
    "a single place": (
        lambda: attention()({LAYER: torch.zeros(2, 5, 1, 1)}, {LAYER: torch.zeros(2, 3, 4, 4)}, batch()),
        "attention:conv2: .* 5 x 1 x 1, .*; attention needs several places",
    ),
    "tokens": (
        lambda: LOSSES["hint"]()({LAYER: torch.zeros(2, 7, 5)}, {LAYER: torch.zeros(2, 7, 5)}, batch()),
        "gives 7 x 5, .* for each image; a hint of neither vectors nor maps needs regressor=",
    ),
    "maps and vectors": (
        lambda: LOSSES["hint"]()({LAYER: torch.zeros(2, 5)}, {LAYER: torch.zeros(2, 3, 4, 4)}, batch()),
        "'conv2' gives 5, the teacher's 'conv2' 3 x 4 x 4 for each image; give regressor=",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_named(case: str) -> None:
    call, message = ERRORS[case]
    with pytest.raises(nrl.NeurordlError, match=message):
        call()


def test_what_cannot_be_trained_with_is_named() -> None:
    network = nrl.students.small_cnn(width=4)
    with torch.no_grad():
        network.fc1[2].weight[0, 0] = torch.nan
    with pytest.raises(nrl.NeurordlError, match=r"teacher's weights hold NaN \(fc1\.2\.weight\)"):
        nrl.NetworkTeacher(network, "fc1")
    objective = nrl.Objective(nrl.HintLoss(nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2"), "conv2"))
    arrays = np.zeros((4, 3, 16, 16), np.float32)
    for streams in ({"labelled": (arrays, torch.zeros(4).long())}, {"stimuli": (arrays,)}):
        with pytest.raises(nrl.NeurordlError, match=r"images: expected a tensor, got a ndarray; use torch"):
            objective(nrl.students.small_cnn(width=4), **streams)


def test_losses_that_were_fitted_before_are_named() -> None:
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    stimuli = nrl.StimulusSet.from_array(images, [f"s{k}" for k in range(8)], labels=torch.arange(8))
    objective = nrl.Objective(nrl.HintLoss(nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2"), "conv2"))
    settings = {"labelled": stimuli, "epochs": 1, "execution": nrl.Execution(progress=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nrl.fit(nrl.students.small_cnn(width=4), objective, **settings)
    with pytest.warns(UserWarning, match=r"hint:conv2: parameters of the loss were fitted before"):
        nrl.fit(nrl.students.small_cnn(width=4), objective, **settings)
