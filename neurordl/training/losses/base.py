"""What all transfer losses share: their weights, and all that `Objective` asks of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from neurordl.errors import NeurordlError
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher, Teacher
from neurordl.teachers.base import Record, spelled
from neurordl.validate import check_choice, check_number, check_type, listed

Features = Mapping[str, Tensor]
Stream = Literal["stimuli", "labelled"]


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
    >>> import neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2")
    >>> loss = nrl.RDMLoss(teacher["conv2"], "conv1", weight=nrl.TaskRatio(0.5))  # half of the task's loss
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


# attributes of every loss, and of every module, that are no settings or are recorded otherwise
_NO_SETTINGS = ("name", "layer", "layers", "weight", "training", "same_in_processes")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | None)


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
    stream : {"stimuli", "labelled"}
        Images that it reads where there are two streams: the stimuli, or the labelled images. A loss of the
        labelled images has no teacher, or a network without a cache. It has no validation term: validation
        images are stimuli.
    same_in_processes : tuple of str
        Its buffers, by name, that are a function of what the loss is called with, so that each process has
        the same: `fit` shares them at the start and at the end of an epoch only, and not in each step.
    reads_classes : bool
        Whether it compares labels of the stimuli with the student's outputs. `fit` then requires them, and
        gives them the numbers of the labelled images' classes, by name.

    Notes
    -----
    The loss is called with three arguments and returns a scalar tensor. ``student`` and ``teacher`` map the
    names of layers to features in their own shape, such as (n, channels, height, width); ``teacher`` is empty
    unless the teacher is a network. ``batch`` is the `Batch` of the same n stimuli: the batch of its stream
    where there are two, otherwise the labelled batch.

    If the loss is undefined on a batch, return ``torch.tensor(torch.nan)``: the loss is then left out of the
    sum. A NaN that is computed from the features makes gradients NaN and stops the run.

    Examples
    --------
    A hint (Romero et al. 2015): a 1 x 1 convolution predicts the maps of a teacher's layer. Both maps must
    have the same height and width; otherwise resize one of them, for example with ``adaptive_avg_pool2d``.

    >>> import torch
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
    stream: Stream = "stimuli"
    same_in_processes: tuple[str, ...] = ()
    reads_classes: bool = False

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

    def check_stimuli(self, ids: Sequence[str]) -> None:
        """Raise an error if it cannot be trained with these stimuli; `fit` calls it before the first step."""

    def __repr__(self) -> str:
        teacher = [] if self.teacher is None else [f"{self.teacher!r:.300}"]
        parts = [*teacher, *(layer or "output" for layer in layers_of(self))]
        return f"{type(self).__name__}({', '.join(parts)}, weight={_describe_weight(self.weight)})"

    def describe(self) -> Record:
        """What ``run.json`` records of the loss, and runs with the same settings share.

        These are its class, layers, weight and teacher, and, unless a subclass defines this method, its
        attributes that are numbers, texts, or tuples and lists of them.
        """
        record = {
            "loss": type(self).__name__,
            "layers": layers_of(self),
            "weight": _describe_weight(self.weight),
            "teacher": self.teacher.describe() if self.teacher is not None else None,
        }
        if type(self).describe is TransferLoss.describe:
            no_settings = {*record, *_NO_SETTINGS}
            attributes = {key: value for key, value in vars(self).items() if key not in no_settings}
            record |= {key: value for key, value in attributes.items() if key[0] != "_" and _is_plain(value)}
        return record


class LayerLoss(TransferLoss):
    """Base class of losses on a layer of the student and one of a network that teaches."""

    teacher: LayerTeacher

    def _set_layers(self, teacher: LayerTeacher | NetworkTeacher, layer: str, weight: Weight) -> None:
        user = type(self).__name__
        self.teacher = network_layer(user, teacher)
        check_type("layer", layer, str, f"give one name, and make one {user} for each layer")
        self.layer, self.layers, self.name = layer, (layer,), f"{self.name}:{layer}"
        self.weight = check_weight(weight)


def network_layer(loss: str, teacher: object) -> LayerTeacher:
    """The layer of a network that teaches: the chosen one, or the only one of a `NetworkTeacher`.

    Raises
    ------
    NeurordlError
        If the teacher is not a network, or has several layers; the message names the loss.
    """
    if isinstance(teacher, NetworkTeacher):
        if len(teacher.layers) != 1:
            example, names = f"teacher[{teacher.layers[0]!r}]", listed(teacher.layers, quote=True)
            problem = f"{loss}: the teacher has several layers ({names})"
            raise NeurordlError(f"{problem}; choose one, as in {example}")
        return teacher[teacher.layers[0]]
    if not isinstance(teacher, LayerTeacher):
        problem = f"{loss} reads the features of a network, and {type(teacher).__name__} is no NetworkTeacher"
        raise NeurordlError(f"{problem}; make one with NetworkTeacher(network, layers='layer3')")
    return teacher


def full_precision(features: Tensor) -> Tensor:
    """Features in float32, or in float64 if they are so already: half precision is too coarse for a loss."""
    return features if features.dtype == torch.float64 else features.float()


def of_size_one(patterns: Tensor) -> Tensor:
    """Patterns (n, channels) divided by the largest finite magnitude of all, which is taken as a constant.

    The squares neither vanish nor overflow. For a loss that does not depend on the scale of the features,
    value and gradient are the same.
    """
    largest = patterns.detach().abs().amax(1).nan_to_num(0.0, 0.0, 0.0).amax()
    return patterns * largest.clamp(min=torch.finfo(patterns.dtype).tiny).reciprocal()


def autocast_off(features: Tensor) -> torch.autocast:
    """A context in which mixed precision is off on the device of these features."""
    return torch.autocast(features.device.type, enabled=False)


def shape_by_features(linear: nn.Module, features: Tensor, outputs: int) -> None:
    """Shape a ``LazyLinear(0)``, once, by features (n, ..., channels) and the number of its outputs."""
    if isinstance(linear, nn.LazyLinear):
        linear.out_features = outputs
        linear.to(features.device, features.dtype)(features[:1])


def passed(module: nn.Module, features: Tensor) -> Tensor:
    """The output of a loss's module, in full precision; "bf16-true" has made the module one of bfloat16."""
    dtypes = (x.dtype for x in module.parameters() if x.dtype.is_floating_point)
    output: Tensor = module(features.to(next(dtypes, features.dtype)))
    return full_precision(output)


def layers_of(loss: TransferLoss) -> list[str]:
    """The layers of the student that a loss reads; a single name may be a text."""
    return [loss.layers] if isinstance(loss.layers, str) else list(loss.layers)


def stream_of(loss: TransferLoss) -> Stream:
    """The stream that a loss reads: the stimuli, unless it says otherwise."""
    return getattr(loss, "stream", "stimuli")


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
    stream = check_choice(f"{loss.name}: stream", stream_of(loss), get_args(Stream))
    by_id = loss.teacher is not None and (loss.network is None or loss.network.cached)
    if stream == "labelled" and by_id:
        problem = f"{loss.name} reads the labelled images, and its teacher knows stimuli by their ids"
        raise NeurordlError(f"{problem}; give it a NetworkTeacher without cache=, or let it read the stimuli")
    check_weight(loss.weight)
    checked: TransferLoss = loss
    return checked
