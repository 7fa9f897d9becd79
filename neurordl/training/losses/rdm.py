"""Transfer losses: what pulls a student towards its teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison, find_comparison
from neurordl.measures.condensed import condensed_index
from neurordl.measures.dissimilarities import (
    DISSIMILARITIES,
    Dissimilarity,
    DissimilarityLike,
    find_dissimilarity,
    network_dissimilarity,
)
from neurordl.patterns.network import OUTPUT
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher, Target, Teacher
from neurordl.training.weights import Weight, check_weight, describe_weight

Features = Mapping[str, Tensor]


class Loss(Protocol):
    """What the objective needs of a transfer loss."""

    @property
    def name(self) -> str:
        """Its name among the terms."""

    @property
    def weight(self) -> Weight:
        """Applied by the objective."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The student's layers that it reads."""

    @property
    def network(self) -> NetworkTeacher | None:
        """The teacher's network that it reads, if there is one."""

    @property
    def teacher(self) -> Teacher | None:
        """The teacher whose ids are matched, if there is one."""

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The loss of a batch, unweighted; NaN if it is undefined there."""

    def describe(self) -> dict[str, Any]:
        """What `run.json` records."""


class RDMLoss:
    """Pull the RDM of one of the student's layers towards a teacher's (RDL, McClure & Kriegeskorte 2016).

    A dissimilarity makes the student's RDM, a comparison sets it against the teacher's. RDL, the distance
    term of relational knowledge distillation (``"euclidean_root"`` with ``"huber"``; Park et al. 2019) and
    CKA (``"euclidean"`` with ``"cka"``; Kornblith et al. 2019) are choices of the two.

    Parameters
    ----------
    teacher : Teacher
        Or a `NetworkTeacher` that reads a single layer.
    layer : str
        Of the student, as in its ``named_modules()``.
    dissimilarity : str or callable, optional
        A name in ``DISSIMILARITIES`` or a function (n, channels) -> (n_pairs,). The teacher's own by default;
        euclidean where the teacher's needs a noise model (crossnobis, mahalanobis).
    comparison : str, Comparison or callable, optional
        A differentiable comparison, its name in ``COMPARISONS``, or a function (a, b, weights) -> loss.
        ``"corr"`` by default, and ``"mse"`` against a network, which is measured in the same way. A
        similarity s gives the loss 1 - s.
    pairs : {"all", "within", "between"}
        Pairs that count: all, or those of the same or of different labels (the batch then needs labels).
    weight : float, callable of the step, or TaskRatio
        Applied by the `Objective`.
    scale : bool
        Multiply the student's RDM by the non-negative factor that fits the teacher's best (least squares,
        without gradient) before comparing: lets ``"mse"`` compare RDMs of different measures.

    Raises
    ------
    NeurordlError
        If a name is unknown, a measure needs what a network does not have, a rank measure is asked for, or
        ``mse`` would compare RDMs that differ in measure.
    """

    def __init__(
        self,
        teacher: Teacher | NetworkTeacher,
        layer: str,
        dissimilarity: DissimilarityLike | None = None,
        comparison: str | Comparison | Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        pairs: Literal["all", "within", "between"] = "all",
        weight: Weight = 1.0,
        scale: bool = False,
    ) -> None:
        if pairs not in ("all", "within", "between"):
            raise NeurordlError(f"pairs={pairs!r}: expected 'all', 'within' or 'between'")
        self.teacher: Teacher = _single_layer(teacher)
        if isinstance(self.teacher, LayerTeacher) and dissimilarity is not None:
            self.teacher = self.teacher.measured_by(dissimilarity)
        self.network = self.teacher.network if isinstance(self.teacher, LayerTeacher) else None
        self.layer, self.layers = layer, (layer,)
        self.name = f"rdm:{layer}"
        self.weight, self.pairs, self.scale = check_weight(weight), pairs, scale
        self.dissimilarity = (
            _measure_for_student(self.teacher)
            if dissimilarity is None
            else network_dissimilarity(dissimilarity)
        )
        if not self.dissimilarity.differentiable:
            raise NeurordlError(
                f"dissimilarity={self.dissimilarity.name!r} has no gradient and cannot train a network; "
                "choose another one for the student"
            )
        if comparison is None:
            comparison = "corr" if self.network is None else "mse"
        chosen = find_comparison(comparison, higher_is_better=False)
        self._compare, self.comparison = chosen.loss, chosen.name
        if chosen.same_unit and not scale:
            self._refuse_other_units()

    def _refuse_other_units(self) -> None:
        theirs = self.teacher.dissimilarity
        if theirs is not None:
            theirs = find_dissimilarity(theirs)
        if getattr(self.teacher, "transformed", False):
            raise NeurordlError(
                "comparison='mse' against a standardised or ranked RDM has no common unit; "
                "use 'corr', or scale=True"
            )
        if theirs != self.dissimilarity:
            raise NeurordlError(
                f"comparison='mse' between the teacher's {theirs and theirs.name!r} and the student's "
                f"{self.dissimilarity.name!r} RDM has no common unit; use 'corr', give the same "
                "dissimilarity, or scale=True"
            )

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean over the teacher's RDMs of the loss of each; those that are undefined are left out."""
        patterns = student[self.layer].flatten(1)
        # Distances in bfloat16 are off by 4e-3, whatever the precision of the network may be.
        with torch.autocast(patterns.device.type, enabled=False):
            rdm = self.dissimilarity(patterns if patterns.dtype == torch.float64 else patterns.float())
            target = self.teacher.target(batch, teacher)
            rdm, weights = self._measured(rdm, target, batch)
            goal = target.rdms.to(rdm.dtype)
            if self.scale:
                rdm = rdm * _scale(rdm.detach(), goal, weights)
            values = self._compare(rdm.expand_as(goal), goal, weights)
        defined = torch.isfinite(values)
        mean = torch.where(defined, values, 0.0).sum() / defined.sum().clamp(min=1)
        return torch.where(defined.any(), mean, torch.nan)

    def _measured(self, rdm: Tensor, target: Target, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's RDM (1, n_pairs) without undefined pairs, and each pair's weight."""
        defined = torch.isfinite(rdm)
        weights = target.weights.to(rdm.dtype) * defined
        if self.pairs != "all":
            if batch.labels is None:
                raise NeurordlError(
                    f"pairs={self.pairs!r} needs the labels of the stimuli; give the StimulusSet labels"
                )
            i, j = condensed_index(len(batch.labels), batch.labels.device)
            same = (batch.labels[i] == batch.labels[j]).to(rdm.device)
            weights = weights * (same if self.pairs == "within" else ~same)
        return torch.where(defined, rdm, 0.0)[None], weights

    def describe(self) -> dict[str, Any]:
        """The choices made, and the teacher."""
        return {
            "loss": "RDMLoss",
            "layer": self.layer,
            "dissimilarity": self.dissimilarity.name,
            "comparison": self.comparison,
            "pairs": self.pairs,
            "weight": describe_weight(self.weight),
            "scale": self.scale,
            "teacher": self.teacher.describe(),
        }


class SoftTargetLoss:
    """Knowledge distillation: match the teacher's softened outputs (Hinton, Vinyals & Dean 2015).

    The Kullback-Leibler divergence of the student's class probabilities from the teacher's, both at a
    temperature, times its square, mean over the batch.

    Parameters
    ----------
    teacher : NetworkTeacher
        With as many outputs as the student.
    temperature : float
    weight : float, callable of the step, or TaskRatio
    """

    def __init__(self, teacher: NetworkTeacher, temperature: float = 4.0, weight: Weight = 1.0) -> None:
        if not isinstance(teacher, NetworkTeacher):
            raise NeurordlError(
                f"SoftTargetLoss needs the outputs of a NetworkTeacher, not a {type(teacher).__name__}"
            )
        if not 0 < temperature < math.inf:
            raise NeurordlError(f"temperature={temperature}: expected a number above 0")
        self.network: NetworkTeacher | None = teacher
        self.teacher: Teacher | None = LayerTeacher(teacher, OUTPUT, teacher.dissimilarity)
        self.temperature, self.weight = temperature, check_weight(weight)
        self.layers, self.name = (OUTPUT,), "soft_targets"

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The divergence of a batch."""
        if OUTPUT not in teacher:
            raise NeurordlError("the teacher puts out no tensor of class scores, which soft targets need")
        own, theirs = student[OUTPUT].flatten(1).float(), teacher[OUTPUT].flatten(1).float()
        if own.shape != theirs.shape:
            raise NeurordlError(
                f"the student has {own.shape[1]} outputs, the teacher {theirs.shape[1]}: soft targets need "
                "the same classes; give the student as many"
            )
        own, theirs = (functional.log_softmax(one / self.temperature, dim=1) for one in (own, theirs))
        return functional.kl_div(own, theirs, reduction="batchmean", log_target=True) * self.temperature**2

    def describe(self) -> dict[str, Any]:
        """The choices made, and the teacher."""
        teacher = self.network.describe() if self.network else None
        return {
            "loss": "SoftTargetLoss",
            "temperature": self.temperature,
            "weight": describe_weight(self.weight),
            "teacher": teacher,
        }


def _single_layer(teacher: Teacher | NetworkTeacher) -> Teacher:
    if not isinstance(teacher, NetworkTeacher):
        return teacher
    if len(teacher.layers) != 1:
        names = ", ".join(map(repr, teacher.layers))
        raise NeurordlError(
            f"the teacher reads several layers: say which, as in teacher[{teacher.layers[0]!r}] (of {names})"
        )
    return teacher[teacher.layers[0]]


def _measure_for_student(teacher: Teacher) -> Dissimilarity:
    if teacher.dissimilarity is None:
        raise NeurordlError(
            "the teacher's RDMs do not say how they were measured; give RDMLoss(dissimilarity=...) for the "
            "student: "
            + ", ".join(name for name, measure in DISSIMILARITIES.items() if not measure.lacking_in_network)
        )
    theirs = find_dissimilarity(teacher.dissimilarity)
    chosen = theirs.of_network()
    if chosen != theirs:
        warnings.warn(
            f"the teacher's RDMs are {theirs}, which single responses cannot have: the student's are "
            f"{chosen}; give RDMLoss(dissimilarity=...) to choose",
            stacklevel=3,
        )
    return chosen


def _scale(rdm: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    """The non-negative least-squares factor of each target, (n_rdms, 1)."""
    product = (weights * rdm * goal).sum(-1, keepdim=True)
    return (product / (weights * rdm * rdm).sum(-1, keepdim=True).clamp(min=1e-30)).clamp(min=0)
