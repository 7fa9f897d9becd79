"""What a student is trained on: a task loss and any number of transfer losses, summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Any, Literal, get_args

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import Match
from neurordl.patterns.network import as_input, explain_unfit, frozen_eval, read_layers, unwrapped
from neurordl.stimuli import StimulusSet
from neurordl.students.loading import READ_FROM
from neurordl.teachers import Batch
from neurordl.teachers.base import ById, Record, spelled
from neurordl.training.losses import (
    Features,
    Stream,
    TransferLoss,
    check_loss,
    layers_of,
    stream_of,
    weight_at,
)
from neurordl.training.run import TRAINED_CLASSES, Run
from neurordl.training.streams import (
    FEWEST,
    Labelled,
    as_trained,
    check_batch,
    check_labels,
    class_names,
    each_once,
    tell_class_order,
)
from neurordl.validate import check_choice, listed

BatchNorm = Literal["labelled", "stimuli", "both", "joint"]
Task = Callable[[Tensor, Tensor], Tensor] | Literal["cross_entropy"]


class Processes:
    """The processes of ``torch.distributed``, which share one batch. `fit` makes it itself.

    In a loop of your own over several processes, pass ``processes=Processes()`` to the objective: its RDMs
    are then of the stimuli of all processes, and not of those of each process. Call the objective in the
    forward of the module that ``DistributedDataParallel`` wraps, which averages gradients over processes.
    Every process must have as many stimuli.

    The gradient of a gathered tensor is the sum over processes of the gradients that they send back. Each
    process computes the same loss of the same global batch, and the gradients of parameters are averaged
    over processes: together, this is the gradient of one process with the global batch.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The processes; by default all of them.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> class Loss(torch.nn.Module):
    ...     def __init__(self, student, objective):
    ...         super().__init__()
    ...         self.student, self.objective = student, objective
    ...
    ...     def forward(self, labelled, stimuli):
    ...         return self.objective(self.student, labelled, stimuli, processes=nrl.Processes())[0]

    In each process that torchrun starts, after ``init_process_group()``::

        parallel = torch.nn.parallel.DistributedDataParallel(Loss(student, objective))
        parallel((images, labels), (stimulus_images, ids)).backward()

    A single process can be a group, too:

    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> processes = nrl.Processes()
    >>> torch.distributed.destroy_process_group()
    """

    def __init__(self, group: Any = None) -> None:
        if not _world(group):
            raise NeurordlError("Processes: call torch.distributed.init_process_group() first")
        self._group = group

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks, with gradient."""
        rows: Tensor = _Gather.apply(tensor.contiguous(), self._group)  # type: ignore[no-untyped-call]
        return rows

    def gather_list(self, items: Sequence[str]) -> list[str]:
        """The items of all processes, in the order of their ranks."""
        parts: list[Any] = [None] * _world(self._group)
        torch.distributed.all_gather_object(parts, list(items), group=self._group)
        return [item for part in parts for item in part]

    @contextmanager
    def same_random(self, device: torch.device) -> Iterator[None]:
        """Random numbers are those of the first process; afterwards each process has its own again."""
        devices = [device] if device.type == "cuda" else []
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        parts: list[Any] = [None] * _world(self._group)
        torch.distributed.all_gather_object(parts, states, group=self._group)
        if torch.distributed.get_rank(self._group) == 0:
            yield
            return
        with torch.random.fork_rng(devices):
            torch.set_rng_state(parts[0][0])
            for state in parts[0][1:]:
                torch.cuda.set_rng_state(state, device)
            yield

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers of the first one, where batch norm has made them different."""
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes, without gradient."""
        copy = tensor.detach().clone()  # it is reduced in place
        torch.distributed.all_reduce(copy, group=self._group)
        return copy / _world(self._group)


class _Gather(torch.autograd.Function):
    """The rows of all processes; its gradient is the sum of those that the processes send back."""

    @staticmethod
    def forward(context: Any, rows: Tensor, group: Any) -> Tensor:
        """All rows, in the order of the ranks."""
        context.group = group
        parts = [torch.empty_like(rows) for _ in range(_world(group))]
        torch.distributed.all_gather(parts, rows, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of this process's rows."""
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total, group=context.group)
        return total.chunk(_world(context.group))[torch.distributed.get_rank(context.group)], None


def _world(group: Any = None) -> int:
    """The number of processes of ``torch.distributed``; 0 where it has not been started."""
    distributed = torch.distributed
    return (
        distributed.get_world_size(group)
        if distributed.is_available() and distributed.is_initialized()
        else 0
    )


class Objective:
    """The sum of a task loss and weighted transfer losses.

    The student is run once on each stream, and each teacher once on the stimuli; all losses share these
    features. Without a stimulus stream, the labelled images are the stimuli. The task, and losses such as
    `DeepSupervisionLoss`, read the labelled images; without other losses, the stimuli are not shown.

    Parameters
    ----------
    losses : TransferLoss, or several
        Transfer losses, such as `RDMLoss` and `SoftTargetLoss`, or your own (see `TransferLoss`). None:
        labels only.
    task : "cross_entropy", callable (outputs, labels) -> loss, or None
        Task loss. None trains on the transfer losses alone.

    Examples
    --------
    In a training loop of your own, call the objective like a loss function:

    >>> import torch
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> stimuli, labelled = digits.subset(digits.ids[:20]), digits.subset(digits.ids[20:40])
    >>> rdms = nrl.simulate.simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3)
    >>> objective = nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(rdms), layer="conv3")])
    >>> matches = objective.prepare(stimuli.ids)
    >>> student = nrl.students.small_cnn(in_channels=1)
    >>> images, labels = labelled.images(), labelled.labels
    >>> loss, terms = objective(student, labelled=(images, labels), stimuli=(stimuli.images(), stimuli.ids))
    >>> sorted(terms)
    ['rdm:conv3', 'task']

    Move losses with parameters to the student's device, and give their parameters to the optimizer:

    >>> modules = objective.loss_modules.to("cpu")
    >>> optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()])
    """

    def __init__(
        self, losses: Iterable[TransferLoss] | TransferLoss = (), task: Task | None = "cross_entropy"
    ) -> None:
        if isinstance(losses, str | Mapping):
            check_loss(losses)  # raises an error
        self.losses = [check_loss(loss) for loss in (losses if isinstance(losses, Iterable) else [losses])]
        if isinstance(task, str):
            remedy = "or give a function (outputs, labels) -> loss"
            check_choice("task", task, ("cross_entropy", None), remedy)
        if task is None and not self.losses:
            raise NeurordlError("an objective needs a task, or at least one transfer loss")
        self.task = task
        self.names = _unique([loss.name for loss in self.losses])
        self.loss_modules = nn.ModuleList(loss for loss in self.losses if isinstance(loss, nn.Module))
        named: dict[Stream, dict[str, TransferLoss]] = {"stimuli": {}, "labelled": {}}
        for name, loss in zip(self.names, self.losses, strict=True):
            named[stream_of(loss)][name] = loss
        self.of_stimuli, self.of_labelled = named["stimuli"], named["labelled"]
        self._layers = {stream: _layers(losses.values()) for stream, losses in named.items()}
        self._every_layer = _layers(self.losses)
        self._examined = self._notified = False  # whether values were looked at, and a notice given

    @property
    def reads_labelled(self) -> bool:
        """Whether the task or a loss reads the labelled images, beside stimuli."""
        return self.task is not None or bool(self.of_labelled)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the losses that have some, for the optimizer of your own training loop."""
        return self.loss_modules.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and buffers of the losses, under the names of their terms."""
        losses = zip(self.names, self.losses, strict=True)
        states = {name: loss.state_dict() for name, loss in losses if isinstance(loss, nn.Module)}
        return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give the losses the parameters and buffers of `state_dict`, or those of ``losses.safetensors``.

        Raises
        ------
        NeurordlError
            The state is that of other losses.
        """
        modules = {
            name: loss
            for name, loss in zip(self.names, self.losses, strict=True)
            if isinstance(loss, nn.Module)
        }
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
        for key, value in state.items():
            name = max((name for name in modules if key.startswith(f"{name}.")), key=len, default="")
            if not name:
                known = listed(modules, quote=True) or "none with parameters"
                raise NeurordlError(f"the state has {key!r}, which is of no loss; the losses are {known}")
            parts[name][key.removeprefix(f"{name}.")] = value
        for name, loss in modules.items():
            with explain(f"the state does not fit the loss {name!r}", RuntimeError, "make the same losses"):
                loss.load_state_dict(parts[name])

    def __call__(
        self,
        student: nn.Module,
        labelled: Batch | Sequence[Any] | None = None,
        stimuli: Batch | Sequence[Any] | None = None,
        *,
        step: int | None = None,
        batchnorm: BatchNorm | None = None,
        processes: Processes | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step and all of its terms.

        Parameters
        ----------
        student : torch.nn.Module
            Network that is trained.
        labelled : (images, labels) or (images, labels, ids), or Batch
            Labelled images.
        stimuli : (images, ids), or Batch, optional
            Stimuli; by default the labelled images.
        step : int, optional
            Number of the step, for weights that are functions of it.
        batchnorm : {"labelled", "stimuli", "both", "joint"}, optional
            The images whose statistics batch norm uses, as in `Optimization`; by default chosen by the kind
            of teacher (`choose_batchnorm`).
        processes : Processes, optional
            The processes that share the batch. It is needed in your own loop over several processes, where
            ``Processes()`` takes all of them.

        Returns
        -------
        loss : Tensor, ()
            Weighted sum of the terms.
        terms : dict of str to Tensor
            Each term by name, unweighted and detached: ``task``, ``rdm:<layer>``, ``soft_targets``. A term
            that is undefined on this batch, such as the RDM of two stimuli, is NaN and is left out of the
            sum: it has no gradient, and where no other term has one, ``backward`` changes nothing. At the
            first time there is a notice (on a GPU, only at the first call).

        Raises
        ------
        NeurordlError
            If a stream is missing, labels are out of range, ids are unknown, or there are several processes
            and no `processes`.
        """
        check_choice("batchnorm", batchnorm, (None, *get_args(BatchNorm)))
        if processes is None and self.losses and _world() > 1:
            problem = (
                f"torch.distributed has {_world()} processes: RDMs would be of the stimuli of each alone"
            )
            remedy = "pass processes=nrl.Processes() to the objective, for those of all processes"
            raise NeurordlError(f"{problem}; {remedy}")
        labelled = _as_batch("labelled", labelled, ("images", "labels", "ids"))
        stimuli = _as_batch("stimuli", stimuli, ("images", "ids", "labels"))
        batchnorm = batchnorm or self.choose_batchnorm(student, labelled, stimuli)
        return self.compute(student, labelled, stimuli, step, batchnorm, processes, checked=False)

    def choose_batchnorm(
        self, student: nn.Module, labelled: Batch | None, stimuli: Batch | None
    ) -> BatchNorm | None:
        """The images whose statistics batch norm should use, by the kind of teacher.

        Parameters
        ----------
        student : torch.nn.Module
            Network that is trained.
        labelled, stimuli : Batch or None
            A batch of each stream.

        Returns
        -------
        {"labelled", "stimuli", "both", "joint"}, or None
            "joint" if all teachers are measured (`RDMTeacher`, `PatternTeacher`) and both streams have images
            of one shape, otherwise "both": a network, or a loss or teacher of your own, is among them. Losses
            of the labelled images do not count. Where the student sees one stream only, that stream. None
            without batch norm: nothing is to be chosen.
        """
        if not has_batchnorm(student):
            return None
        if not self.reads_labelled or labelled is None:
            return "stimuli"
        if not self._layers["stimuli"] or stimuli is None or stimuli is labelled:
            return "labelled"
        measured = all(isinstance(loss.teacher, ById) for loss in self.of_stimuli.values())
        alike = labelled.images.shape[1:] == stimuli.images.shape[1:]
        return "joint" if measured and alike else "both"

    def compute(
        self,
        student: nn.Module,
        labelled: Batch | Sequence[Any] | None,
        stimuli: Batch | Sequence[Any] | None,
        step: int | None,
        batchnorm: BatchNorm | None,
        processes: Processes | None,
        checked: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As a call of the objective, on the stimuli of this process alone without `processes`.

        Without `batchnorm`, the student has no batch norm, or takes the statistics of each batch. Labels that
        are `checked` are not checked again.
        """
        labelled = _as_batch("labelled", labelled, ("images", "labels", "ids"))
        stimuli = _as_batch("stimuli", stimuli, ("images", "ids", "labels")) or labelled
        if stimuli is None or (self.reads_labelled and labelled is None):
            remedy = f"without {listed(self.of_labelled)}" if self.of_labelled else "with task=None"
            raise NeurordlError(
                f"labelled= is missing: pass labelled images, or stimuli= and an objective {remedy}"
            )
        if torch.is_inference_mode_enabled() and any(map(is_lazy, self.parameters())):
            problem = (
                "parameters of losses get their shape at the first call, and could not be trained if it is"
            )
            raise NeurordlError(f"{problem} in torch.inference_mode(); make it under torch.no_grad()")
        outputs, features = self._read(student, labelled, stimuli, batchnorm)
        parts, terms = list[Tensor](), dict[str, Tensor]()
        if self.task is not None and labelled is not None:
            terms["task"] = self.task_loss(outputs, labelled.labels, checked)
            parts.append(terms["task"])
        batches = {"stimuli": stimuli, "labelled": labelled or stimuli}
        values: dict[str, Tensor] = {}
        for stream, losses in (("stimuli", self.of_stimuli), ("labelled", self.of_labelled)):
            values |= _transfer(losses, features[stream], batches[stream], processes)
        undefined = () if checked else self._undefined(values, stimuli)
        level = terms.get("task")
        if processes is not None and level is not None:
            level = processes.mean(level)
        for name, loss in zip(self.names, self.losses, strict=True):
            value = values[name] = values[name].detach() if name in undefined else values[name]
            weight = weight_at(step, loss, value, level)
            # An undefined term must not spoil the sum: it has no gradient and counts as 0.
            defined = value.nan_to_num(0.0, math.inf, -math.inf)
            parts.append(defined if isinstance(weight, float) and weight == 1 else weight * defined)
            terms[name] = value
        total = reduce(torch.add, parts)
        if undefined and not total.requires_grad and torch.is_grad_enabled():
            total = total + total.new_zeros((), requires_grad=True)  # backward() has no effect, and no error
        return total, {name: value.detach() for name, value in terms.items()}

    def _undefined(self, values: Mapping[str, Tensor], stimuli: Batch) -> list[str]:
        """Names of the terms that are NaN, with a notice at the first time; a GPU is asked only once."""
        examined, self._examined = self._examined, True
        if examined and any(value.device.type != "cpu" for value in values.values()):
            return []  # it would wait for each step
        names = [name for name, value in values.items() if value.isnan()]
        if names and not self._notified:
            self._notified = True
            n = len(stimuli.images)
            reason = "a layer may have died, features may be NaN, or too few pairs of stimuli be measured"
            reason = f"{FEWEST} stimuli or more are needed" if n < FEWEST else reason
            text = f"{listed(names)}: undefined (NaN) on a batch of {n} stimuli, so left out of the sum"
            notify(f"{text}; {reason}. Look at the terms: later batches are left out without a notice")
        return names

    def _read(
        self, student: nn.Module, labelled: Batch | None, stimuli: Batch, batchnorm: BatchNorm | None
    ) -> tuple[Any, dict[str, Features]]:
        """The student's outputs for the labelled batch, and its features for each stream."""
        layers, every = self._layers, self._every_layer
        if not self.reads_labelled or labelled is None:
            return None, {"stimuli": read_layers(student, stimuli.images, every)[1], "labelled": {}}
        if stimuli is labelled or not layers["stimuli"]:
            outputs, features = read_layers(student, labelled.images, every)
            return outputs, {"stimuli": features, "labelled": features}
        if batchnorm == "joint":
            return self._read_jointly(student, labelled.images, stimuli.images)
        passes = {
            "labelled": (labelled.images, layers["labelled"]),
            "stimuli": (stimuli.images, layers["stimuli"]),
        }
        results = {}
        # The stream that updates the running statistics goes first: the gradient of the other one is
        # computed with the statistics that it was normalized by.
        for stream in sorted(passes, key=lambda stream: stream != batchnorm):
            own_statistics = batchnorm in (stream, "both", None)
            with nullcontext() if own_statistics else _fixed_batchnorm(student):
                results[stream] = read_layers(student, *passes[stream])
        return results["labelled"][0], {stream: features for stream, (_, features) in results.items()}

    def _read_jointly(
        self, student: nn.Module, labelled: Tensor, stimuli: Tensor
    ) -> tuple[Any, dict[str, Features]]:
        """The same from one pass of all images as one batch."""
        remedy = "choose batchnorm='both'"
        shapes = tuple(labelled.shape[1:]), tuple(stimuli.shape[1:])
        if shapes[0] != shapes[1]:
            problem = "batchnorm='joint' makes one batch of labelled images and stimuli, but their shapes are"
            raise NeurordlError(f"{problem} {shapes[0]} and {shapes[1]}; {remedy}")
        n, images = len(labelled), torch.cat([labelled, stimuli])
        outputs, features = read_layers(student, images, self._every_layer)
        of_labelled = first_rows(outputs, n, len(images))
        if of_labelled is None:
            problem = f"batchnorm='joint' cannot divide outputs of type {type(outputs).__name__}"
            raise NeurordlError(f"{problem} between labelled images and stimuli; {remedy}")
        first = {name: features[name][:n] for name in self._layers["labelled"]}
        second = {name: features[name][n:] for name in self._layers["stimuli"]}
        return of_labelled, {"labelled": first, "stimuli": second}

    def task_loss(self, outputs: Any, labels: Tensor | None, checked: bool = False) -> Tensor:
        """The task loss of the outputs for a labelled batch."""
        if labels is None:
            raise NeurordlError("the labelled batch has no labels: pass labelled=(images, labels)")
        if callable(self.task):
            value = self.task(outputs, labels)
            if not isinstance(value, Tensor) or value.ndim:
                raise NeurordlError(f"task: it must return a tensor of shape (), not {_shape(value)}")
            return value
        outputs = class_scores(outputs, "cross_entropy", "pass task=function")
        if labels.device.type == "cpu" and not checked:  # on a GPU a check would stall each step
            check_labels(labels, outputs.shape[1])
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        return functional.cross_entropy(outputs, labels)

    def task_term(self, student: nn.Module, images: StimulusSet, batch_size: int) -> float:
        """The task loss of images that are not trained on; in eval mode, no gradient."""
        total = 0.0
        with frozen_eval(student):
            for batch in each_once(images, batch_size):
                inputs = as_input(batch.images, student)
                labels = None if batch.labels is None else batch.labels.to(inputs.device)
                with explain_unfit(student, [inputs], "student"):
                    value = self.task_loss(student(inputs), labels)
                total += float(value) * len(batch.images)
        return total / len(images)

    def transfer_terms(self, student: nn.Module, batch: Batch) -> dict[str, float]:
        """Each loss of the stimuli, unweighted, of some not trained on; in eval mode, no gradient."""
        if not self.of_stimuli:
            return {}
        with frozen_eval(student, self.loss_modules):
            features = read_layers(student, as_input(batch.images, student), self._layers["stimuli"])[1]
            values = _transfer(self.of_stimuli, features, batch, None)
            return {name: float(value) for name, value in values.items()}

    def prepare(self, ids: Sequence[str] | None, validation: Sequence[str] | None = None) -> dict[str, Match]:
        """Match the ids of training and validation stimuli with each teacher, once, before the first step."""
        matches = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            if loss.teacher is not None and ids is not None:
                if match := loss.teacher.prepare(ids):
                    matches[name] = match
                if validation is not None:
                    loss.teacher.match(validation)
        return matches

    def check_stimuli(self, ids: Sequence[str]) -> None:
        """Raise an error if a loss cannot be trained with these stimuli."""
        for loss in self.of_stimuli.values():
            if (check := getattr(loss, "check_stimuli", None)) is not None:  # not of the base class
                check(ids)

    def class_readers(self) -> list[str]:
        """Names of the losses that compare labels of the stimuli with the student's outputs."""
        return [name for name, loss in self.of_stimuli.items() if getattr(loss, "reads_classes", False)]

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch according to every teacher."""
        groups = [list(ids)]
        for loss in self.losses:
            if loss.teacher is not None:
                groups = [part for group in groups for part in loss.teacher.groups(group) if part]
        return groups

    def __repr__(self) -> str:
        return f"Objective({spelled(self.task)} + [{listed(map(repr, self.losses), most=3)}])"

    def describe(self) -> Record:
        """What ``run.json`` records: the task and each loss, with its class and its number of parameters."""
        losses = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            losses[name] = loss.describe()
            if isinstance(loss, nn.Module):
                count = sum(parameter.numel() for parameter in loss.parameters())
                losses[name] |= {"class": type(loss).__name__, "parameters": count}
        return {"task": spelled(self.task), "losses": losses}


def _layers(losses: Iterable[TransferLoss]) -> list[str]:
    """The layers of the student that losses read, each named once."""
    return list(dict.fromkeys(layer for loss in losses for layer in layers_of(loss)))


def _transfer(
    losses: Mapping[str, TransferLoss], features: Features, batch: Batch, processes: Processes | None
) -> dict[str, Tensor]:
    """The value of each loss of one stream on the batch of all processes."""
    if not losses:
        return {}
    networks = dict.fromkeys(loss.network for loss in losses.values() if loss.network is not None)
    by_network: dict[Any, Features] = {network: network.features(batch) for network in networks}
    if processes is not None:
        features, *of_networks = (
            {name: processes.gather(tensor) for name, tensor in part.items()}
            for part in (features, *by_network.values())
        )
        by_network = dict(zip(by_network, of_networks, strict=True))
        batch = Batch(
            batch.images,  # of this process only: losses read features, and the device
            processes.gather_list(batch.ids) if batch.ids is not None else None,
            processes.gather(batch.labels) if batch.labels is not None else None,
        )
    values = {}
    # A loss that draws random numbers is the same in every process.
    with nullcontext() if processes is None else processes.same_random(batch.images.device):
        for name, loss in losses.items():
            with explain(f"{name} fails", KeyError, "if this is a layer of the student, add it to layers"):
                value = values[name] = loss(features, by_network.get(loss.network, {}), batch)
            if not isinstance(value, Tensor) or value.ndim:
                raise NeurordlError(f"{name}: a loss must return a tensor of shape (), not {_shape(value)}")
    return values


def class_scores(outputs: Any, user: str, remedy: str) -> Tensor:
    """The tensor (images, classes) of a network's outputs: they themselves, or their ``logits``."""
    scores = outputs
    if not isinstance(outputs, Tensor):
        named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        scores = outputs if named is None else named
    if isinstance(scores, Tensor) and scores.ndim == 2:
        return scores
    needed = f"{user} needs a tensor (images, classes)"
    raise NeurordlError(f"{needed}, but the student returned {_shape(outputs)}; {remedy}")


def _shape(value: object) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _as_batch(stream: str, batch: Batch | Sequence[Any] | None, names: tuple[str, ...]) -> Batch | None:
    if batch is None or isinstance(batch, Batch):
        return batch
    if not isinstance(batch, tuple | list) or not 1 <= len(batch) <= 3:
        expected = f"({', '.join(names[:2])}) or ({', '.join(names)})"
        raise NeurordlError(f"{stream}: expected {expected}, got {type(batch).__name__}")
    return check_batch(Batch(**dict(zip(names, batch, strict=False))))


def first_rows(outputs: Any, n: int, total: int) -> Any:
    """A network's outputs for the first n of all images; None where they cannot be divided."""
    try:
        part = apply_to_collection(
            outputs, Tensor, lambda part: part[:n] if len(part.shape) and len(part) == total else part
        )
    except ValueError:  # a frozen dataclass
        return None
    return None if part is outputs else part


def has_batchnorm(student: nn.Module) -> bool:
    """Whether a network has a layer of batch norm."""
    return any(isinstance(module, _BatchNorm) for module in student.modules())


@contextmanager
def _fixed_batchnorm(student: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics and does not update them."""
    norms = [module for module in student.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in norms:
        module.training = False
    try:
        yield
    finally:
        for module in norms:
            module.training = True


def _unique(names: list[str]) -> list[str]:
    """Names, numbered if they occur more than once."""
    return [
        name if names.count(name) == 1 else f"{name}#{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def accuracy(student: nn.Module | Run, labelled: Labelled, batch_size: int = 512) -> float:
    """Share of images whose largest output is their label, in eval mode.

    A student that was fitted to labels with names keeps the names: labels of another set with names, which
    may have fewer classes or another order, are matched by name. Otherwise label k is output k.

    Parameters
    ----------
    student : torch.nn.Module or Run
        Network (n, channels, height, width) -> (n, classes), or -> outputs with such ``logits``.
    labelled : StimulusSet with labels, DataLoader, Dataset, or sized iterable of batches
        Labelled images, as in `fit`.
    batch_size : int
        Images in a batch of a StimulusSet or Dataset.

    Returns
    -------
    float
        A share from 0 to 1.

    Raises
    ------
    NeurordlError
        If there are no labels, they are out of the range of the outputs, the outputs have no scores of
        classes, or a class is none of those in training.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> 0 <= nrl.accuracy(nrl.students.small_cnn(in_channels=1), digits) <= 1
    True
    """
    network = student.student if isinstance(student, Run) else student
    names, trained = class_names(labelled), getattr(unwrapped(network), TRAINED_CLASSES, None)
    if trained is None and (start := getattr(unwrapped(network), READ_FROM, None)) is not None:
        tell_class_order(labelled, start[0])
    correct = total = 0
    with frozen_eval(network):
        for batch in each_once(labelled, batch_size):
            if batch.labels is None:
                raise NeurordlError("labelled: the batches have no labels")
            images = as_input(batch.images, network)
            with explain_unfit(network, [images], "student"):
                outputs = network(images)
            scores = class_scores(outputs, "accuracy", "wrap it in a module that returns them")
            labels = as_trained(batch.labels.cpu(), names, trained)
            check_labels(labels, scores.shape[1])
            correct += int((scores.argmax(dim=1).cpu() == labels).sum())
            total += len(labels)
    return correct / total
