"""Transfer losses: what pulls a student towards its teacher, and how each is weighted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import ComparisonLike, find_comparison
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
from neurordl.teachers.base import Record, spelled
from neurordl.validate import check_choice, check_number, check_type, listed

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class TaskRatio:
    """A weight that keeps a transfer loss at a fixed ratio to the task loss, at each step.

    The weight is computed anew at each step and treated as a constant: it has no gradient.

    Attributes
    ----------
    ratio : float
        Weighted transfer loss divided by the task loss.

    Examples
    --------
    >>> half_the_task_loss = TaskRatio(0.5)
    """

    ratio: float

    def __post_init__(self) -> None:
        check_number("TaskRatio.ratio", self.ratio, 0)


Weight = float | Callable[[int], float] | TaskRatio


def check_weight(weight: Weight) -> Weight:
    """Return the weight if it is a number of 0 or more, a function of the step or a `TaskRatio`."""
    if isinstance(weight, TaskRatio) or (callable(weight) and not isinstance(weight, nn.Module)):
        return weight
    return check_number("weight", weight, 0, remedy="or give a function of the step, or TaskRatio(ratio)")


def weight_at(step: int | None, loss: TransferLoss, value: Tensor, task: Tensor | None) -> float | Tensor:
    """The weight of a loss at a step, at which it has this value and the task loss that one."""
    weight = loss.weight
    if isinstance(weight, TaskRatio):
        if task is None:
            raise NeurordlError("TaskRatio needs a task loss; give a number where task=None")
        ratio = weight.ratio * task.detach() / value.detach().abs().clamp(min=1e-12)
        return torch.where(torch.isfinite(ratio), ratio, 0.0)
    if not callable(weight):
        return weight
    if step is None:
        raise NeurordlError("a weight is a function of the step: pass step= to the objective")
    return check_number(f"{loss.name}: weight(step={step})", float(weight(step)), 0)


def _describe_weight(weight: Weight) -> Any:
    """A weight for the record; a schedule by some of its values, because many functions share a name."""
    if isinstance(weight, TaskRatio) or not callable(weight):
        return spelled(weight)
    values = {}
    with suppress(Exception):  # a schedule may be defined for the steps of its run only
        for step in (0, 1, 10, 100, 1000):
            values[str(step)] = float(weight(step))
    return {"schedule": spelled(weight), "at": values}


class TransferLoss:
    """Base class of transfer losses, with defaults for everything but the loss itself.

    A loss compares features of the student with those of a teacher. Derive your own from this class and
    define ``__call__``; or, if it has parameters, derive it from ``torch.nn.Module`` too and define
    ``forward``. `fit` then trains the parameters with the student's, also across processes, keeps them in
    checkpoints and writes those of the last epoch to ``losses.safetensors``, apart from the student. Lazy
    modules of torch are given their shape before the first step.

    Every module that such a loss holds is trained with it; a network that teaches belongs in a
    `NetworkTeacher`. The loss is also called once before the first step, and on validation stimuli:
    ``self.training`` is False then, and buffers should not be updated.

    Attributes
    ----------
    name : str
        Name of its term in the history. By default it is the name of the class in lower case. A derived class
        keeps the name of its parent unless it sets its own.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses; 1 by default.
    layers : tuple of str
        Layers of the student that it reads, as in ``named_modules()``; ``""`` is the student's output.
    teacher : Teacher, optional
        Teacher, whose ids are matched with those of the stimuli. For a `NetworkTeacher`, pass one of its
        layers: ``teacher["layer3"]``.

    Notes
    -----
    The loss is called with three arguments and returns a scalar tensor. ``student`` and ``teacher`` map the
    names of layers to features in their own shape, such as (n, channels, height, width); ``teacher`` is empty
    unless the teacher is a network. ``batch`` is the `Batch` of the same n stimuli: the stimulus batch where
    there are two streams, otherwise the labelled batch.

    If the loss is undefined on a batch, return ``torch.tensor(torch.nan)``: the loss is then left out of the
    sum. A NaN that is computed from the features makes gradients NaN and stops the run.

    Examples
    --------
    A hint (Romero et al. 2015): a 1 x 1 convolution predicts the maps of a teacher's layer. Both maps must
    have the same height and width; otherwise resize one of them, for example with ``adaptive_avg_pool2d``.

    >>> import neurordl as nrl
    >>> class Hint(nrl.TransferLoss, torch.nn.Module):
    ...     layers = ("conv2",)
    ...
    ...     def __init__(self, teacher, channels):
    ...         super().__init__()
    ...         self.teacher = teacher
    ...         self.regressor = torch.nn.LazyConv2d(channels, kernel_size=1)
    ...
    ...     def forward(self, student, teacher, batch):
    ...         prediction = self.regressor(student["conv2"])
    ...         return torch.nn.functional.mse_loss(prediction, teacher[self.teacher.layer])
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2")
    >>> objective = nrl.Objective(Hint(teacher["conv2"], channels=64))
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'hint']
    """

    name: str = ""
    weight: Weight = 1.0
    layers: tuple[str, ...] = ()
    teacher: Teacher | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = cls.name or cls.__name__.lower()

    if TYPE_CHECKING:  # a module's own __call__ must come first

        def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
            """The loss of a batch."""

    @property
    def network(self) -> NetworkTeacher | None:
        """The network that is run on each batch for the teacher's features, if the teacher is one."""
        return self.teacher.network if isinstance(self.teacher, LayerTeacher) else None

    def __repr__(self) -> str:
        layers = ", ".join(layer or "output" for layer in layers_of(self))
        return (
            f"{type(self).__name__}({self.teacher!r:.300}, {layers}, weight={_describe_weight(self.weight)})"
        )

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {
            "loss": type(self).__name__,
            "layers": layers_of(self),
            "weight": _describe_weight(self.weight),
            "teacher": self.teacher.describe() if self.teacher is not None else None,
        }


def layers_of(loss: TransferLoss) -> list[str]:
    """The layers of the student that a loss reads; a single name may be a text."""
    return [loss.layers] if isinstance(loss.layers, str) else list(loss.layers)


def check_loss(loss: Any) -> TransferLoss:
    """Return an object if it has all that `Objective` needs of a loss; the error lists what it lacks."""
    needed = ("name", "weight", "layers", "teacher", "network", "describe")
    missing = [name for name in needed if not hasattr(loss, name)]
    is_module = isinstance(loss, nn.Module)
    if isinstance(loss, type):
        raise NeurordlError(f"losses: {loss.__name__} is a class; give an object of it")
    if not callable(loss) or (is_module and type(loss).forward is nn.Module.forward):
        missing.append("forward" if is_module else "__call__")
    if missing:
        remedy = "use RDMLoss(teacher, layer=...), or derive your own from neurordl.TransferLoss"
        lacking = f"{type(loss).__name__} is not a TransferLoss, because it has no {', '.join(missing)}"
        raise NeurordlError(f"losses: {lacking}; {remedy}")
    if is_module and "_modules" not in vars(loss):
        raise NeurordlError(f"losses: __init__ of {type(loss).__name__} does not call super().__init__()")
    if isinstance(loss.teacher, NetworkTeacher):
        example = f"teacher[{loss.teacher.layers[0]!r}]"
        raise NeurordlError(f"{loss.name}: its teacher is a network; give one of its layers, as in {example}")
    check_weight(loss.weight)
    checked: TransferLoss = loss
    return checked


class RDMLoss(TransferLoss):
    """Pull the RDM of one of the student's layers towards a teacher's (RDL, McClure & Kriegeskorte 2016).

    The student's RDM is computed with a dissimilarity and compared with the teacher's RDM. RDL, the distance
    term of relational knowledge distillation (``"euclidean_root"`` with ``"huber"``; Park et al. 2019) and
    CKA (``"euclidean"`` with ``"cka"``; Kornblith et al. 2019) are choices of these two.

    Parameters
    ----------
    teacher : Teacher
        Teacher, or a `NetworkTeacher` with a single layer.
    layer : str
        Layer of the student whose RDM is fitted, as in its ``named_modules()``.

        The output of the layer is flattened: each of its units is a channel.
    dissimilarity : str, Dissimilarity or callable, optional
        Dissimilarity of the student's patterns, such as "correlation", "cosine" or "euclidean". By default
        the teacher's own, or "euclidean" where the teacher's needs repeated measurements or a noise model
        (crossnobis, mahalanobis).

        It can also be a `Dissimilarity`, or a differentiable function (n, channels) -> (n_pairs,).
    comparison : str, Comparison or callable, optional
        Comparison of the two RDMs: "corr", "cosine", "corr_cov", "cosine_cov", "cka", "mse" or "huber". The
        default is "corr" for measured RDMs.

        If the teacher is a network, the default is "mse", because both RDMs then have the same unit. It can
        also be a differentiable `Comparison`, or a function (a, b, weights) -> loss. The loss of a similarity
        s is 1 - s.
    pairs : {"all", "within", "between"}
        Pairs of stimuli that count: all of them, those with the same label, or those with different labels.
        The last two need labels in the batch.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses.
    scale : bool
        Rescale the student's RDM before the comparison, so that ``"mse"`` can be used with RDMs in different
        units. The factor is fitted by least squares, is not negative, and has no gradient.

    Raises
    ------
    NeurordlError
        If a name is unknown, the dissimilarity needs what a network does not have, the comparison has no
        gradient, or ``mse`` would compare RDMs in different units.
    """

    def __init__(
        self,
        teacher: Teacher | NetworkTeacher,
        layer: str,
        dissimilarity: DissimilarityLike | None = None,
        comparison: ComparisonLike | None = None,
        pairs: Literal["all", "within", "between"] = "all",
        weight: Weight = 1.0,
        scale: bool = False,
    ) -> None:
        self.teacher: Teacher = _single_layer(teacher)
        if isinstance(self.teacher, LayerTeacher) and dissimilarity is not None:
            self.teacher = LayerTeacher(self.teacher.network, self.teacher.layer, dissimilarity)
        check_type("layer", layer, str, "give one name, and make an RDMLoss for each layer")
        self.layer, self.layers, self.name = layer, (layer,), f"rdm:{layer}"
        self.pairs = check_choice("pairs", pairs, ("all", "within", "between"))
        self.weight, self.scale = check_weight(weight), scale
        if dissimilarity is None:
            self.dissimilarity = _dissimilarity_for_student(self.teacher)
        else:
            self.dissimilarity = network_dissimilarity(dissimilarity)
        if not self.dissimilarity.differentiable:
            raise NeurordlError(f"dissimilarity={self.dissimilarity.name!r} has no gradient; take another")
        if comparison is None:
            comparison = "corr" if self.network is None else "mse"
        chosen = find_comparison(comparison, higher_is_better=False)
        self._compare, self.comparison = chosen.loss, chosen.name
        if chosen.same_unit and not scale:
            self._check_same_unit()

    def _check_same_unit(self) -> None:
        theirs = getattr(self.teacher, "dissimilarity", None)
        if getattr(self.teacher, "transformed", False):
            difference = "the teacher's RDM is standardized or ranked and has no unit"
        elif theirs is None or find_dissimilarity(theirs) != self.dissimilarity:
            difference = f"the student's RDM is {self.dissimilarity} and the teacher's {theirs}"
        else:
            return
        remedy = "use 'corr', the same dissimilarity for both, or scale=True"
        raise NeurordlError(f"{self.comparison!r} compares absolute values, but {difference}; {remedy}")

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean loss over the teacher's RDMs for which it is defined."""
        patterns = student[self.layer].flatten(1)
        # Distances in bfloat16 are off by 4e-3, so they are computed in float32 whatever the network's.
        with torch.autocast(patterns.device.type, enabled=False):
            rdm = self.dissimilarity(patterns if patterns.dtype == torch.float64 else patterns.float())
            target = self.teacher.target(batch, teacher)
            check_type("the teacher's target()", target, Target, "return Target(rdms, weights)")
            rdm, weights = self._measured_pairs(rdm, target, batch)
            goal = target.rdms.to(rdm.dtype)
            if self.scale:
                rdm = rdm * _best_scale(rdm.detach(), goal, weights)
            values = self._compare(rdm.expand_as(goal), goal, weights)
        if values.shape not in ((), goal.shape[:1]):
            shape = f"{tuple(values.shape)} for {len(goal)} RDMs; return one value for each RDM"
            raise NeurordlError(f"comparison {self.comparison!r} returned values of shape {shape}")
        defined = torch.isfinite(values)
        mean = torch.where(defined, values, 0.0).sum() / defined.sum().clamp(min=1)
        return torch.where(defined.any(), mean, torch.nan)

    def _measured_pairs(self, rdm: Tensor, target: Target, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's RDM (1, n_pairs) with 0 at undefined pairs, and the weight of each pair."""
        defined = torch.isfinite(rdm)
        weights = target.weights.to(rdm.dtype) * defined
        if self.pairs != "all":
            if batch.labels is None:
                raise NeurordlError(f"pairs={self.pairs!r} needs the labels of the stimuli; give labels=")
            i, j = condensed_index(len(batch.labels), batch.labels.device)
            same = (batch.labels[i] == batch.labels[j]).to(rdm.device)
            weights = weights * (same if self.pairs == "within" else ~same)
        return torch.where(defined, rdm, 0.0)[None], weights

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {
            **super().describe(),
            "dissimilarity": self.dissimilarity.name,
            "comparison": self.comparison,
            "pairs": self.pairs,
            "scale": self.scale,
        }


class SoftTargetLoss(TransferLoss):
    """Knowledge distillation: match the teacher's softened outputs (Hinton, Vinyals & Dean 2015).

    The loss is the Kullback-Leibler divergence of the student's class probabilities from the teacher's, both
    at a temperature, times the square of the temperature, averaged over the batch.

    Parameters
    ----------
    teacher : NetworkTeacher
        Network with as many outputs as the student.
    temperature : float
        Divisor of the outputs.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses.
    """

    name, layers = "soft_targets", (OUTPUT,)

    def __init__(self, teacher: NetworkTeacher, temperature: float = 4.0, weight: Weight = 1.0) -> None:
        if not isinstance(teacher, NetworkTeacher):
            raise NeurordlError(f"SoftTargetLoss needs a NetworkTeacher, not {type(teacher).__name__}")
        self.teacher: Teacher = LayerTeacher(teacher, OUTPUT, teacher.dissimilarity)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)
        self.weight = check_weight(weight)

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean divergence over a batch."""
        if OUTPUT not in teacher:
            raise NeurordlError("soft targets need a teacher whose output is a tensor of class scores")
        outputs, goal = (features[OUTPUT].flatten(1).float() for features in (student, teacher))
        if outputs.shape != goal.shape:
            sizes = f"the student has {outputs.shape[1]} outputs, the teacher {goal.shape[1]}"
            raise NeurordlError(f"{sizes}: soft targets need the same classes; make num_classes= the same")
        logs, goal_logs = (functional.log_softmax(x / self.temperature, dim=1) for x in (outputs, goal))
        probabilities = goal_logs.exp()
        # A class that the teacher excludes (an output of -inf) adds nothing, as p log p goes to 0 with p.
        parts = torch.where(probabilities == 0, 0.0, probabilities * (goal_logs - logs))
        return parts.sum() / len(parts) * self.temperature**2

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {**super().describe(), "temperature": self.temperature}


def _single_layer(teacher: Teacher | NetworkTeacher) -> Teacher:
    if not isinstance(teacher, NetworkTeacher):
        if not hasattr(teacher, "target"):
            wrappers = {RDMs: "RDMTeacher(rdms)", nn.Module: "NetworkTeacher(network, layers='layer3')"}
            makers = [maker for type_, maker in wrappers.items() if isinstance(teacher, type_)]
            remedy = f"wrap it: {makers[0]}" if makers else "make one, such as RDMTeacher(rdms)"
            raise NeurordlError(f"RDMLoss: {type(teacher).__name__} is not a teacher; {remedy}")
        return teacher
    if len(teacher.layers) != 1:
        example, names = f"teacher[{teacher.layers[0]!r}]", listed(teacher.layers, quote=True)
        raise NeurordlError(f"the teacher has several layers ({names}); choose one, as in {example}")
    return teacher[teacher.layers[0]]


def _dissimilarity_for_student(teacher: Teacher) -> Dissimilarity:
    """The teacher's own dissimilarity, or the one by which a network is measured in its place."""
    if (measured_by := getattr(teacher, "dissimilarity", None)) is None:
        usable = [name for name, measure in DISSIMILARITIES.items() if not measure.lacking_in_network]
        raise NeurordlError(
            f"the teacher's dissimilarity is unknown; set dissimilarity= ({', '.join(usable)})"
        )
    theirs = find_dissimilarity(measured_by)
    chosen = theirs.of_network()
    if chosen != theirs:
        warnings.warn(
            f"the teacher's RDMs are {theirs}, which needs {theirs.lacking_in_network or 'measured data'}. A "
            f"network has none: the student's RDMs are {chosen}; choose another with dissimilarity=",
            stacklevel=3,
        )
    return chosen


def _best_scale(rdm: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    """The non-negative least-squares factor of each target, (n_rdms, 1)."""
    product = (weights * rdm * goal).sum(-1, keepdim=True)
    return (product / (weights * rdm * rdm).sum(-1, keepdim=True).clamp(min=1e-30)).clamp(min=0)
