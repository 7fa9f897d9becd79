"""What a student is trained on: a task loss and any number of transfer losses, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from neurordl.errors import NeurordlError, explain
from neurordl.ids import Match
from neurordl.patterns.network import as_input, frozen_eval, read_layers
from neurordl.teachers import Batch
from neurordl.teachers.base import Record, spelled
from neurordl.training.losses import Features, TransferLoss, check_loss, layers_of, weight_at
from neurordl.training.streams import Labelled, check_batch, check_labels, each_once
from neurordl.validate import check_choice

BatchNorm = Literal["labelled", "stimuli", "both"]
Task = Callable[[Tensor, Tensor], Tensor] | Literal["cross_entropy"]


class Processes:
    """The processes of a fabric, which share one batch.

    The gradient of a gathered tensor is the sum over processes of the gradients that they send back. Each
    process computes the same loss of the same global batch, and Fabric averages the gradients of parameters
    over processes: together, this is the gradient of one process with the global batch.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks, with gradient."""
        rows = self._fabric.all_gather(tensor.contiguous(), sync_grads=tensor.requires_grad)
        return rows.flatten(0, 1)  # type: ignore[union-attr]

    def gather_list(self, items: Sequence[str]) -> list[str]:
        """The items of all processes, in the order of their ranks."""
        parts: list[Any] = [None] * self._fabric.world_size
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers of the first one, where batch norm has made them different."""
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes, without gradient."""
        copy = tensor.detach().clone()  # Fabric reduces in place
        return self._fabric.all_reduce(copy, reduce_op="mean")  # type: ignore[return-value]


class Objective:
    """The sum of a task loss and weighted transfer losses.

    The student is run once on each stream, and each teacher once on the stimuli; all losses share these
    features. Without a stimulus stream, the labelled images are the stimuli.

    Parameters
    ----------
    losses : TransferLoss, or several
        Transfer losses: `RDMLoss`, `SoftTargetLoss`, or your own (see `TransferLoss`). None: labels only.
    task : "cross_entropy", callable (outputs, labels) -> loss, or None
        Task loss. None trains on the transfer losses alone.

    Examples
    --------
    In a training loop of your own, call the objective like a loss function:

    >>> loss, terms = objective(student, labelled=(images, labels), stimuli=(images, ids))  # doctest: +SKIP

    Move losses with parameters to the student's device, and give their parameters to the optimizer:

    >>> objective.loss_modules.to(device)  # doctest: +SKIP
    >>> torch.optim.AdamW([*student.parameters(), *objective.parameters()])  # doctest: +SKIP
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
        self._layers = list(dict.fromkeys(layer for loss in self.losses for layer in layers_of(loss)))
        self._networks = dict.fromkeys(loss.network for loss in self.losses if loss.network is not None)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the losses that have some, for the optimizer of your own training loop."""
        return self.loss_modules.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and buffers of the losses, under the names of their terms."""
        losses = zip(self.names, self.losses, strict=True)
        states = {name: loss.state_dict() for name, loss in losses if isinstance(loss, nn.Module)}
        return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}

    def __call__(
        self,
        student: nn.Module,
        labelled: Batch | Sequence[Any] | None = None,
        stimuli: Batch | Sequence[Any] | None = None,
        *,
        step: int | None = None,
        batchnorm: BatchNorm = "labelled",
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
        batchnorm : {"labelled", "stimuli", "both"}
            The stream that is normalized by the statistics of its own batch and updates the running
            statistics of batch norm. The other stream is normalized by the running statistics, as in
            evaluation.
        processes : Processes, optional
            Set by `fit` across processes.

        Returns
        -------
        loss : Tensor, ()
            Weighted sum of the terms.
        terms : dict of str to Tensor
            Each term by name, unweighted and detached: ``task``, ``rdm:<layer>``, ``soft_targets``. A term
            that is undefined on this batch is NaN and is left out of the sum.

        Raises
        ------
        NeurordlError
            If a stream is missing, labels are out of range, or ids are unknown.
        """
        check_choice("batchnorm", batchnorm, get_args(BatchNorm))
        labelled = _as_batch("labelled", labelled, ("images", "labels", "ids"))
        stimuli = _as_batch("stimuli", stimuli, ("images", "ids", "labels")) or labelled
        if stimuli is None or (self.task is not None and labelled is None):
            raise NeurordlError(
                "labelled= is missing: pass labelled images, or stimuli= and an objective with task=None"
            )
        outputs, features = self._read(student, labelled, stimuli, batchnorm)
        total, terms = torch.zeros((), device=stimuli.images.device), dict[str, Tensor]()
        if self.task is not None and labelled is not None:
            terms["task"] = self.task_loss(outputs, labelled.labels)
            total = total + terms["task"]
        values = self._transfer(features, stimuli, processes)
        level = terms.get("task")
        if processes is not None and level is not None:
            level = processes.mean(level)
        for loss, (name, value) in zip(self.losses, values.items(), strict=True):
            weight = weight_at(step, loss, value, level)
            # An undefined term must not spoil the sum: it has no gradient and counts as 0.
            total = total + weight * torch.where(torch.isfinite(value), value, 0.0)
            terms[name] = value
        return total, {name: value.detach() for name, value in terms.items()}

    def _read(
        self, student: nn.Module, labelled: Batch | None, stimuli: Batch, batchnorm: BatchNorm
    ) -> tuple[Any, Features]:
        """The student's outputs for the labelled batch and its features for the stimuli, a pass for each."""
        if self.task is None or labelled is None:
            return None, read_layers(student, stimuli.images, self._layers)[1]
        if stimuli is labelled or not self._layers:
            return read_layers(student, labelled.images, self._layers)
        passes = {"labelled": (labelled.images, list[str]()), "stimuli": (stimuli.images, self._layers)}
        results = {}
        # The stream that updates the running statistics goes first: the gradient of the other one is
        # computed with the statistics that it was normalized by.
        for stream in sorted(passes, key=lambda stream: stream != batchnorm):
            with _fixed_batchnorm(student, batchnorm not in (stream, "both")):
                results[stream] = read_layers(student, *passes[stream])
        return results["labelled"][0], results["stimuli"][1]

    def _transfer(self, features: Features, batch: Batch, processes: Processes | None) -> dict[str, Tensor]:
        """The value of each transfer loss on the batch of all processes."""
        by_network: dict[Any, Features] = {network: network.features(batch) for network in self._networks}
        if processes is not None and self.losses:
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
        for name, loss in zip(self.names, self.losses, strict=True):
            with explain(f"{name} fails", KeyError, "if this is a layer of the student, add it to layers"):
                value = values[name] = loss(features, by_network.get(loss.network, {}), batch)
            if not isinstance(value, Tensor) or value.ndim:
                raise NeurordlError(f"{name}: a loss must return a tensor of shape (), not {_shape(value)}")
        return values

    def task_loss(self, outputs: Any, labels: Tensor | None) -> Tensor:
        """The task loss of the outputs for a labelled batch."""
        if labels is None:
            raise NeurordlError("the labelled batch has no labels: pass labelled=(images, labels)")
        if callable(self.task):
            return self.task(outputs, labels)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            needed = "cross_entropy needs a tensor (images, classes)"
            raise NeurordlError(f"{needed}, but the student returned {_shape(outputs)}; pass task=function")
        if labels.device.type == "cpu":  # on a GPU a check would stall each step: `fit` checks before
            check_labels(labels, outputs.shape[1])
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        return functional.cross_entropy(outputs, labels)

    def transfer_terms(self, student: nn.Module, batch: Batch) -> dict[str, float]:
        """Each transfer loss, unweighted, of stimuli that are not trained on; in eval mode, no gradient."""
        if not self.losses:
            return {}
        with frozen_eval(student, self.loss_modules):
            features = read_layers(student, as_input(batch.images, student), self._layers)[1]
            return {name: float(value) for name, value in self._transfer(features, batch, None).items()}

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

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch according to every teacher."""
        groups = [list(ids)]
        for loss in self.losses:
            if loss.teacher is not None:
                groups = [part for group in groups for part in loss.teacher.groups(group) if part]
        return groups

    def describe(self) -> Record:
        """What ``run.json`` records: the task and each loss, with its class and its number of parameters."""
        losses = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            losses[name] = loss.describe()
            if isinstance(loss, nn.Module):
                count = sum(parameter.numel() for parameter in loss.parameters())
                losses[name] |= {"class": type(loss).__name__, "parameters": count}
        return {"task": spelled(self.task), "losses": losses}


def _shape(value: object) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _as_batch(stream: str, batch: Batch | Sequence[Any] | None, names: tuple[str, ...]) -> Batch | None:
    if batch is None or isinstance(batch, Batch):
        return batch
    if not isinstance(batch, tuple | list) or not 1 <= len(batch) <= 3:
        expected = f"({', '.join(names[:2])}) or ({', '.join(names)})"
        raise NeurordlError(f"{stream}: expected {expected}, got {type(batch).__name__}")
    return check_batch(Batch(**dict(zip(names, batch, strict=False))))


@contextmanager
def _fixed_batchnorm(student: nn.Module, fixed: bool) -> Iterator[None]:
    """While `fixed`, batch norm uses its running statistics and does not update them."""
    norms = [module for module in student.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in norms:
        module.training = not fixed
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


def accuracy(student: nn.Module, labelled: Labelled, batch_size: int = 512) -> float:
    """Share of images whose largest output is their label, in eval mode.

    Parameters
    ----------
    student : torch.nn.Module
        Network (n, channels, height, width) -> (n, classes).
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
        If there are no labels, or they are out of the range of the outputs.
    """
    correct = total = 0
    with frozen_eval(student):
        for batch in each_once(labelled, batch_size):
            if batch.labels is None:
                raise NeurordlError("labelled: the batches have no labels")
            outputs = student(as_input(batch.images, student))
            check_labels(batch.labels, outputs.shape[1])
            correct += int((outputs.argmax(dim=1).cpu() == batch.labels).sum())
            total += len(batch.labels)
    return correct / total
