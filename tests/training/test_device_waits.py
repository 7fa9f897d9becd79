"""A training step never waits for a GPU: no look at values, no copy that blocks.

Steps run on torch's "meta" device, which takes the paths of a GPU without having one, under a mode that
refuses every operation that would wait. The first step may wait, as it shapes layers and fills caches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import neurordl as nrl
from neurordl.measures import comparisons
from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.dissimilarities import DISSIMILARITIES, mahalanobis
from neurordl.measures.kernels import distances
from neurordl.training.streams import Streams
from tests.helpers import random_images, random_rdms, random_stimuli, student
from tests.training.test_relatives import losses
from tests.training.test_user_loss import IDS

N = len(IDS)
COMPARED = [name for name, measure in COMPARISONS.items() if measure.differentiable]
OF_NETWORKS = [name for name, measure in DISSIMILARITIES.items() if not measure.lacking_in_network]
LOOKS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_check_errors", "bincount", "repeat_interleave",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


class NoWaits(TorchDispatchMode):
    """Refuses operations whose result the program, or a copy that blocks, waits for; counts kernels."""

    launched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = func.overloadpacket.__name__, kwargs or {}
        tensors = [part for part in args if isinstance(part, Tensor)]
        on_device = any(tensor.device.type == "meta" for tensor in tensors)
        result = func(*args, **options)
        self.launched += on_device and not func.is_view and name not in ("detach", "_unsafe_view")
        assert not (name in LOOKS and on_device), f"{func} waits for the device"
        if name.startswith("index") and on_device and isinstance(args[1], list | tuple):
            masks = (part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1])
            assert not any(masks), f"{func} with a mask waits for the device"
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            free = options.get("non_blocking") or True in args[2:] or not source.ndim
            assert free or source.device == result.device, f"{func} from {source.device} waits"
        return result


def batch(device: str = "meta", ids: list[str] = IDS) -> nrl.Batch:
    labels = torch.arange(len(ids)) % 4
    return nrl.Batch(random_images(len(ids)).to(device), ids, labels.to(device))


def step(objective: nrl.Objective, network: nn.Module, stimuli: nrl.Batch) -> dict[str, Tensor]:
    loss, terms = objective(network, labelled=(stimuli.images, stimuli.labels, stimuli.ids), step=1)
    loss.backward()
    return terms


def train(*terms: nrl.TransferLoss, stimuli: nrl.Batch | None = None) -> None:
    """A step on the CPU and two on the device; the last must not wait."""
    objective, network, stimuli = nrl.Objective(terms), student(), stimuli or batch()
    step(objective, network, batch("cpu"))
    objective.loss_modules.to("meta")
    network.to("meta")
    step(objective, network, stimuli)
    with NoWaits():
        assert len(step(objective, network, stimuli)) == 1 + len(terms)


def network_teacher(**options: Any) -> nrl.NetworkTeacher:
    return nrl.NetworkTeacher(student(9), ["conv3", ""], **options)


@pytest.mark.parametrize("dissimilarity", OF_NETWORKS)
def test_rdms(dissimilarity: str) -> None:
    """With each comparison."""
    teacher = network_teacher(dissimilarity=dissimilarity)["conv3"]
    train(*(nrl.RDMLoss(teacher, "conv3", comparison=comparison) for comparison in COMPARED))


def test_losses() -> None:
    train(*losses())


def test_knobs() -> None:
    knobs: list[dict[str, Any]] = [
        {"pairs": "within"},
        {"scale": True},
        {"weight": nrl.TaskRatio(0.5)},
        {"weight": lambda step: 0.1},
        {"dissimilarity": partial(mahalanobis, precision=torch.eye(64))},
    ]
    teacher = network_teacher()["conv3"]
    train(*(nrl.RDMLoss(teacher, "conv3", **options) for options in knobs))


def measured(**options: Any) -> nrl.RDMTeacher:
    rdms = random_rdms(IDS, subject=["p1", "p2", "p3"])
    rdms.dissimilarities[0, :5] = np.nan
    return nrl.RDMTeacher(rdms, **options)


def patterns(dissimilarity: str, **options: Any) -> nrl.PatternTeacher:
    rng = np.random.default_rng(0)
    describe = {"stimulus": IDS * 2, "run": np.repeat([0, 1], N)}
    datasets = {name: Dataset(rng.random((2 * N, 6)), obs_descriptors=describe) for name in "ab"}
    return nrl.PatternTeacher(datasets, dissimilarity=dissimilarity, **options)


def cached() -> nrl.NetworkTeacher:
    return network_teacher(cache=random_stimuli(N, ids=IDS))


TEACHERS: dict[str, Callable[[], nrl.Teacher]] = {
    **{f"rdms, {pool}": partial(measured, pool=pool) for pool in ("mean", "zscore", "subjects")},
    "rdms with weights": partial(measured, pair_weights="reliability"),
    "rdms of some": partial(measured, missing="ignore"),
    **{name: partial(patterns, name) for name in DISSIMILARITIES if name != "mahalanobis"},
    "mahalanobis": partial(patterns, "mahalanobis", precision=np.eye(6)),
    "z-scored patterns": partial(patterns, "euclidean", pool="zscore"),
    "cached": lambda: cached()["conv3"],
    "permuted": lambda: cached().permuted(IDS, seed=1)["conv3"],
}


@pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS)
def test_teachers(make: Callable[[], nrl.Teacher]) -> None:
    """With a stimulus that comes twice."""
    train(nrl.RDMLoss(make(), "conv3", "correlation", "corr"), stimuli=batch(ids=[*IDS[:-1], IDS[0]]))


def test_batches_of_fit() -> None:
    streams: Any = SimpleNamespace(device=torch.device("meta"))
    with NoWaits():
        sent = Streams.on_device(streams, batch("cpu"))
    assert sent.images.device == streams.device


# Values: what a GPU computes, on the CPU


def near_patterns() -> Tensor:
    """Patterns of which many are nearly or exactly alike, with an offset."""
    patterns = torch.randn(40, 1500)
    patterns[1::2] = patterns[::2] + 1e-4 * torch.randn(20, 1500)
    patterns[10:14] = patterns[20]
    return patterns + 3


def with_gradient(name: str, patterns: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    patterns = patterns.clone().requires_grad_()
    rdm = DISSIMILARITIES[name](patterns)
    rdm.backward(weights.to(rdm.dtype))
    assert patterns.grad is not None
    return rdm.detach(), patterns.grad


@pytest.mark.parametrize("name", ["euclidean", "euclidean_root", "correlation", "cosine"])
def test_near_patterns_in_doubles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns, weights = near_patterns(), torch.rand(780) - 0.5
    expected, pull = with_gradient(name, patterns.double(), weights)
    monkeypatch.setattr(distances, "_fit_for_doubles", lambda batch: batch.dtype == torch.float32)
    rdm, gradient = with_gradient(name, patterns, weights)
    assert rdm.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(rdm.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient.double(), pull, rtol=1e-4, atol=1e-6 * float(pull.abs().max()))


@pytest.mark.parametrize("channels", [4096, 4097])  # with products in parts, and at once
def test_columns_in_memory_in_doubles(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns, weights = torch.rand(channels, 6).mT, torch.rand(15)
    expected, pull = with_gradient("correlation", patterns, weights)
    monkeypatch.setattr(distances, "_fit_for_doubles", lambda batch: batch.dtype == torch.float32)
    rdm, gradient = with_gradient("correlation", patterns, weights)
    torch.testing.assert_close(rdm, expected)
    torch.testing.assert_close(gradient, pull)


@pytest.mark.parametrize("name", OF_NETWORKS)
@pytest.mark.parametrize("value", [0.3, torch.nan, torch.inf])
def test_an_undefined_pattern_in_doubles(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = torch.rand(2, 7, 50)
    patterns[0, 2, 1:], patterns[1, 4] = 1.0, 0.3
    patterns[0, 2, 0] = value
    weights = torch.rand(2, 21)
    expected, pull = with_gradient(name, patterns, weights)
    monkeypatch.setattr(distances, "_fit_for_doubles", lambda batch: batch.dtype == torch.float32)
    rdm, gradient = with_gradient(name, patterns, weights)
    torch.testing.assert_close(rdm, expected, equal_nan=True)
    torch.testing.assert_close(gradient, pull)


def test_a_precision_is_factored_once_and_again_if_it_changes() -> None:
    precision, patterns = torch.eye(3) + 0.5, torch.rand(4, 3)
    first = distances._factor_once(precision, patterns)
    torch.testing.assert_close(first @ first.mT, precision)
    assert distances._factor_once(precision, patterns) is first
    precision += torch.eye(3)
    again = distances._factor_once(precision, patterns)
    torch.testing.assert_close(again @ again.mT, precision)


def some_rdms() -> tuple[Tensor, Tensor, Tensor]:
    """Three RDMs, of which the last is constant but for rounding, beside two; pairs are missing in all."""
    a, b, weights = torch.rand(3, 1, 120) + 5, torch.rand(2, 120), torch.rand(2, 120)
    a[2] = 1e6 / 3 + torch.rand(120).round() / 32
    a[0, 0, 3], b[1, 5], weights[0, 8] = torch.nan, torch.inf, 0.0
    return a, b, weights


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", ["corr", "cosine"])
def test_cosines_in_doubles(name: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    *rdms, weights = some_rdms()
    compared = COMPARISONS[name].loss

    def with_gradients(*rdms: Tensor) -> list[Tensor]:
        leaves = [rdm.clone().requires_grad_() for rdm in rdms]
        value = compared(*leaves, weights if weighted else None)
        pulls = torch.autograd.grad(value, leaves, torch.arange(6.0).view(3, 2).to(value.dtype))
        return [value.detach(), *pulls]

    expected = with_gradients(*(rdm.double() for rdm in rdms))
    flat = with_gradients(*rdms)[0].isnan()  # what is constant up to the rounding of float32
    monkeypatch.setattr(comparisons, "_fit_for_doubles", lambda a, b: a.dtype == torch.float32)
    value, *pulls = with_gradients(*rdms)
    assert value.dtype == pulls[0].dtype == torch.float32
    assert torch.equal(value.isnan(), flat)
    assert bool(flat[2].all()) is (name == "corr")
    torch.testing.assert_close(value.double()[~flat], expected[0][~flat], rtol=1e-6, atol=0)
    torch.testing.assert_close(pulls[0].double()[:2], expected[1][:2], rtol=1e-5, atol=1e-9)
    if name == "corr":
        assert (pulls[0][2] == 0).all()
    else:
        torch.testing.assert_close(pulls[1].double(), expected[2], rtol=1e-5, atol=1e-9)


def test_few_operations() -> None:
    """The launch of each takes time: a loss of three layers once had nearly 800."""
    teacher, stimuli = measured(), batch()
    loss = nrl.RDMLoss(teacher, "conv3", "correlation", "corr")
    patterns = torch.rand(N, 64, device="meta", requires_grad=True)
    for counter in (NoWaits(), NoWaits()):
        with counter:
            loss({"conv3": patterns}, {}, stimuli).backward()
    assert counter.launched <= 76, counter.launched


def test_the_mode_sees_what_waits() -> None:
    values = torch.ones(3, device="meta")
    waiting: list[Callable[[], object]] = [
        lambda: values[values > 0],
        lambda: torch.ones(3).to("meta"),
        lambda: bool(values.any()),
        lambda: values.nonzero(),
    ]
    for work in waiting:
        with NoWaits(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            work()
