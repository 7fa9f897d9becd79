"""The conditions of the transfer study: which losses each has, and the cells in which they are compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import neurordl as nrl
from neurordl.teachers import LayerTeacher

Losses = Sequence[tuple[nrl.TransferLoss, float]]
"""Losses, each with its share of the sum of them all."""

RATIOS = (0.125, 0.5, 2.0, 8.0, 32.0)
"""The candidates of a condition's weight: transfer losses by task loss, at the first step."""


@dataclass(frozen=True)
class Pair:
    """Layers of a student beside layers of the teacher.

    Attributes
    ----------
    last : (str, str)
        The last layer before the outputs.
    several : tuple of (str, str)
        An early, a middle and the last one.
    maps : (str, str)
        Layers whose maps have one size.
    auxiliary : tuple of str
        Layers of the student that get classifiers of their own.
    """

    last: tuple[str, str]
    several: tuple[tuple[str, str], ...] = ()
    maps: tuple[str, str] = ("", "")
    auxiliary: tuple[str, ...] = ()


TEACHER_LAYERS = ("layer2", "layer3", "avgpool", "")
"""The last one is the output."""

OUTPUTS = ("", "")
PAIRS = {
    "small_cnn": Pair(
        ("fc1", "avgpool"),
        (("conv2", "layer2"), ("conv3", "layer3"), ("fc1", "avgpool")),
        ("conv2", "layer3"),
        ("conv2", "conv3"),
    ),
    "mlp": Pair(("fc2", "avgpool")),
    "cifar_resnet": Pair(("avgpool", "avgpool")),
}


@dataclass(frozen=True)
class Cell:
    """One comparison: a data set, a student, a number of labels.

    Attributes
    ----------
    source : str
        Data set.
    student : str
        Kind of network, a key of `PAIRS`.
    labels : int or None
        Labelled images a class; None: all training images.
    stimuli : int
        Images that are shown without labels.
    seeds : int
        Repetitions.
    steps : int
        Steps of training.
    conditions : tuple of str
        Conditions, of `CONDITIONS`.
    options : mapping
        Arguments of the network.
    batch : int
        Stimuli in a batch.
    ratios : tuple of float
        The candidates of each condition's weight.
    """

    source: str
    student: str
    labels: int | None
    stimuli: int
    seeds: int
    steps: int
    conditions: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 128
    ratios: tuple[float, ...] = RATIOS

    def new_student(self, classes: int, channels: int) -> nn.Module:
        """A new student with random weights."""
        make = getattr(nrl.students, self.student)
        network: nn.Module = make(classes, channels, **self.options)
        return network


Make = Callable[[nrl.NetworkTeacher, Pair, Sequence[str]], Losses]


def _rdm(layers: tuple[tuple[str, str], ...], teacher: nrl.NetworkTeacher, **choices: Any) -> Losses:
    return [(nrl.RDMLoss(teacher[theirs], layer, **choices), 1.0) for layer, theirs in layers]


def _last(loss: Any, **options: Any) -> Make:
    """One loss on the last layer before the outputs."""
    return lambda teacher, pair, _ids: [(loss(teacher[pair.last[1]], pair.last[0], **options), 1.0)]


def _several(loss: Any, **options: Any) -> Make:
    """One loss on each of several layers, of equal weights."""
    return lambda teacher, pair, _ids: [
        (loss(teacher[theirs], layer, **options), 1.0) for layer, theirs in pair.several
    ]


def _on_maps(loss: Any) -> Make:
    return lambda teacher, pair, _ids: [(loss(teacher[pair.maps[1]], pair.maps[0]), 1.0)]


def _at_maps(loss: Any, teacher: nrl.NetworkTeacher, pair: Pair) -> Losses:
    return [(loss(teacher[theirs], layer), 1.0) for layer, theirs in (("conv1", "layer2"), pair.maps)]


def _rkd(teacher: nrl.NetworkTeacher, pair: Pair, _ids: Sequence[str]) -> Losses:
    layer, theirs = pair.last
    distance = nrl.RDMLoss(teacher[theirs], layer, "euclidean_root", "huber")
    # the paper weighs the angles twice
    return [(distance, 1.0), (nrl.AngleLoss(teacher[theirs], layer), 2.0)]


def _deep(_teacher: nrl.NetworkTeacher, pair: Pair, _ids: Sequence[str]) -> Losses:
    return [(nrl.DeepSupervisionLoss(layer), 1.0) for layer in pair.auxiliary]


def _contrastive(teacher: nrl.NetworkTeacher, pair: Pair, ids: Sequence[str]) -> Losses:
    layer, theirs = pair.last
    return [(nrl.ContrastiveLoss(teacher[theirs], layer, ids, negatives=4096), 1.0)]


def centred(patterns: Tensor) -> Tensor:
    """Cosine distances of the patterns of a batch less their mean."""
    units = normalize(patterns - patterns.mean(0), dim=1)
    row, column = torch.triu_indices(len(units), len(units), 1)
    return 1 - (units @ units.mT)[row, column]


class MemoryLoss(nrl.TransferLoss):
    """RDL whose stimuli also make pairs with those of the last batches, whose patterns are remembered.

    Correlation distances are compared by "corr". Pairs of two remembered patterns do not count.

    Parameters
    ----------
    teacher : LayerTeacher
        A layer of the teacher.
    layer : str
        Layer of the student.
    batches : int
        How many batches are remembered.
    """

    def __init__(self, teacher: LayerTeacher, layer: str, batches: int = 4) -> None:
        self.teacher, self.layers, self.name = teacher, (layer,), f"memory:{layer}"
        self._past: deque[tuple[Tensor, Tensor]] = deque(maxlen=batches)

    def __call__(self, student: Any, teacher: Any, batch: nrl.Batch) -> Tensor:
        """One less the correlation of the student's distances with the teacher's."""
        assert isinstance(self.teacher, LayerTeacher)
        features = student[self.layers[0]], teacher[self.teacher.layer]
        new = [normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True), dim=1) for x in features]
        row, column = torch.triu_indices(len(batch.images), len(batch.images) * (1 + len(self._past)), 1)
        similarities = [
            (units @ torch.cat([units, *past]).mT)[row, column]
            for units, past in zip(
                new, zip(*self._past, strict=True) if self._past else ((), ()), strict=True
            )
        ]
        if torch.is_grad_enabled():  # not the call before the first step
            self._past.appendleft((new[0].detach(), new[1].detach()))
        return 1 - torch.corrcoef(torch.stack(similarities))[0, 1]


CONDITIONS: dict[str, Make] = {
    "labels": lambda *_: [],
    "deep supervision": _deep,
    "RDL": _last(nrl.RDMLoss, comparison="corr"),
    "RDL, several layers": lambda teacher, pair, _: _rdm(pair.several, teacher, comparison="corr"),
    "RDL, mse": _last(nrl.RDMLoss, comparison="mse"),
    "RDL, mse, several layers": lambda teacher, pair, _: _rdm(pair.several, teacher, comparison="mse"),
    "RKD, distance": _last(nrl.RDMLoss, dissimilarity="euclidean_root", comparison="huber"),
    "RKD": _rkd,
    "SP": _last(nrl.SimilarityPreservingLoss),
    "CC": _last(nrl.CorrelationCongruenceLoss),
    "PKT": _last(nrl.ProbabilisticTransferLoss),
    "CKA": _last(nrl.RDMLoss, dissimilarity="euclidean", comparison="cka"),
    "AT": _on_maps(nrl.AttentionLoss),
    "hints": _on_maps(nrl.HintLoss),
    "CRD": _contrastive,
    "soft targets": lambda teacher, *_: [(nrl.SoftTargetLoss(teacher), 1.0)],
    "RDL + soft targets": lambda teacher, pair, _: [
        (nrl.RDMLoss(teacher[pair.last[1]], pair.last[0], comparison="corr"), 1.0),
        (nrl.SoftTargetLoss(teacher), 1.0),
    ],
    "RDL, permuted": _last(nrl.RDMLoss, comparison="corr"),
    "RDL, permuted within classes": _last(nrl.RDMLoss, comparison="corr"),
    # variants of RDL, compared on validation images
    "RDL, outputs": lambda teacher, *_: _rdm((OUTPUTS,), teacher, comparison="corr"),
    "RDL, last and outputs": lambda teacher, pair, _: _rdm((pair.last, OUTPUTS), teacher, comparison="corr"),
    "RDL, several and outputs": lambda teacher, pair, _: _rdm(
        (*pair.several, OUTPUTS), teacher, comparison="corr"
    ),
    "RDL, early": lambda teacher, pair, _: _rdm(pair.several[:1], teacher, comparison="corr"),
    "RDL, middle": lambda teacher, pair, _: _rdm(pair.several[1:2], teacher, comparison="corr"),
    "RDL, cosine distances": _last(nrl.RDMLoss, dissimilarity="cosine", comparison="corr"),
    "RDL, euclidean": _last(nrl.RDMLoss, dissimilarity="euclidean", comparison="corr"),
    "RDL, compared by cosine": _last(nrl.RDMLoss, comparison="cosine"),
    # further trials, by `neurordl.fit` only
    "AT, several maps": lambda teacher, pair, _: _at_maps(nrl.AttentionLoss, teacher, pair),
    "hints, several maps": lambda teacher, pair, _: _at_maps(nrl.HintLoss, teacher, pair),
    "RDL, falling weight": _last(nrl.RDMLoss, comparison="corr"),
    "RDL, first half only": _last(nrl.RDMLoss, comparison="corr"),
    "RDL, centred": _last(nrl.RDMLoss, dissimilarity=centred, comparison="corr"),
    "RDL, memory": _last(MemoryLoss),
    "CKA, several layers": _several(nrl.RDMLoss, dissimilarity="euclidean", comparison="cka"),
    "PKT, several layers": _several(nrl.ProbabilisticTransferLoss),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "RDL, falling weight": lambda share: 1 - share,
    "RDL, first half only": lambda share: float(share < 0.5),
}
"""The factor of a condition's weight after a share of the steps."""

WEIGHT_OF = {"RDL, permuted": "RDL", "RDL, permuted within classes": "RDL"}
"""Conditions that take the weight of another one."""

EQUAL_PARTS = ("RDL + soft targets",)
"""Conditions in which each loss makes as large a part of the sum at the first step."""

_NAMES = list(CONDITIONS)
TRIALS = ("RDL", *_NAMES[_NAMES.index("AT, several maps") : _NAMES.index("CKA, several layers")])
LAYERS = ("RDL, several layers", "CKA, several layers", "PKT, several layers")
VARIANTS = tuple(_NAMES[_NAMES.index("RDL, outputs") : _NAMES.index("AT, several maps")])
ALL = tuple(_NAMES[: _NAMES.index("RDL, outputs")])
MOST = ("labels", "RDL", "RKD", "SP", "soft targets", "RDL + soft targets", "RDL, permuted")
FEW = ("labels", "RDL", "soft targets", "RDL, permuted")

CELLS = {
    "mnist": Cell("mnist", "small_cnn", 10, 10_000, 10, 1560, ALL, {"width": 16}),
    "mnist, mlp": Cell("mnist", "mlp", 10, 10_000, 5, 1560, MOST, {"image_size": 28}),
    "mnist, 60 labels": Cell("mnist", "small_cnn", 60, 10_000, 5, 1560, MOST, {"width": 16}),
    "mnist, all labels": Cell("mnist", "small_cnn", None, 10_000, 5, 1560, MOST, {"width": 16}),
    "cifar100": Cell("cifar100", "small_cnn", 50, 20_000, 5, 3120, ALL, {"width": 16}),
    "cifar100, all labels": Cell("cifar100", "small_cnn", None, 20_000, 3, 6240, MOST, {"width": 16}),
    "cifar100, resnet8": Cell("cifar100", "cifar_resnet", 50, 20_000, 3, 3120, FEW, {"depth": 8}),
}
FURTHER: list[str] = []
"""Cells of further trials, on validation images only."""

for _source, _main in (("mnist", CELLS["mnist"]), ("cifar100", CELLS["cifar100"])):
    CELLS[f"{_source}, variants"] = replace(_main, conditions=VARIANTS)
    _further = {
        "layers": replace(_main, conditions=LAYERS, ratios=(0.5, 2.0, 8.0)),
        "trials": replace(_main, conditions=TRIALS, ratios=(2.0,)),
        **{
            f"batch of {size}": replace(_main, conditions=("RDL",), ratios=(2.0,), batch=size)
            for size in (32, 64, 256)
        },
    }
    FURTHER += [f"{_source}, {name}" for name in _further]
    CELLS.update({f"{_source}, {name}": cell for name, cell in _further.items()})


def weights(shares: Sequence[float], values: Sequence[float], task: float, ratio: float, equal: bool) -> Any:
    """The weights with which losses of these first values have a sum of ``ratio`` times the task loss."""
    if equal:
        return [ratio * task / (len(values) * value) for value in values]
    total = sum(share * value for share, value in zip(shares, values, strict=True))
    return [ratio * task * share / total for share in shares]
