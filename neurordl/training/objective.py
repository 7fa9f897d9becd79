"""What a student is trained on: the task and any number of transfer losses, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from neurordl.errors import NeurordlError
from neurordl.ids import Match
from neurordl.patterns.network import as_input, frozen_eval, read_layers, why_unfit
from neurordl.teachers import Batch
from neurordl.teachers.base import spelled
from neurordl.training.losses.rdm import Loss
from neurordl.training.processes import Processes
from neurordl.training.streams import check_batch, check_labels
from neurordl.training.weights import TaskRatio, at_step

BatchNorm = Literal["labelled", "stimuli", "both"]
Task = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """The sum of a task loss and weighted transfer losses.

    Each distinct network (the student on each stream, each teacher) runs once per batch, and its features go
    to whoever asked for them. Without a stimulus stream, the labelled images are the stimuli.

    Parameters
    ----------
    losses : Loss, or several
        `RDMLoss`, `SoftTargetLoss`, or your own with the same attributes. None: labels only.
    task : "cross_entropy", callable (outputs, labels) -> loss, or None
        None trains on the transfer losses alone.

    Examples
    --------
    In a loop of your own:

    >>> loss, terms = objective(student, labelled=(images, labels), stimuli=(images, ids))  # doctest: +SKIP
    """

    def __init__(
        self,
        losses: Iterable[Loss] | Loss = (),
        task: Literal["cross_entropy"] | Task | None = "cross_entropy",
    ) -> None:
        self.losses: list[Loss] = list(losses) if isinstance(losses, Iterable) else [losses]
        for loss in self.losses:
            if not hasattr(loss, "layers"):
                raise NeurordlError(
                    f"losses: a {type(loss).__name__} is no loss; RDMLoss(teacher, layer=...) makes one of a "
                    "teacher"
                )
        if isinstance(task, str) and task != "cross_entropy":
            raise NeurordlError(
                f"task={task!r}: expected 'cross_entropy', a function (outputs, labels) -> loss, or None"
            )
        if task is None and not self.losses:
            raise NeurordlError("an objective needs a task, or at least one transfer loss")
        self.task = task
        self.names = _unique([loss.name for loss in self.losses])
        self._layers = list(dict.fromkeys(layer for loss in self.losses for layer in loss.layers))
        networks = (loss.network for loss in self.losses)
        self._networks = list({id(network): network for network in networks if network is not None}.values())

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
        labelled : (images, labels) or (images, labels, ids), or Batch
        stimuli : (images, ids), or Batch, optional
            The labelled images themselves by default.
        step : int, optional
            Needed by weights that are functions of the step.
        batchnorm : {"labelled", "stimuli", "both"}
            Which stream's batches normalise by, and update, batch-norm statistics where there are two; in the
            other pass the running statistics are used as they will be when the student is evaluated.
        processes : Processes, optional
            Set by `fit` across processes.

        Returns
        -------
        loss : Tensor, ()
        terms : dict of str to Tensor
            Each term by name, unweighted and detached: ``task``, ``rdm:<layer>``, ``soft_targets``. NaN:
            undefined on this batch, and left out of the sum.

        Raises
        ------
        NeurordlError
            If a stream is missing, labels are out of range, or ids are unknown.
        """
        labels_batch = _as_batch(labelled, ("images", "labels", "ids"))
        own_stimuli = _as_batch(stimuli, ("images", "ids", "labels"))
        batch = own_stimuli or labels_batch
        if batch is None or (self.task is not None and labels_batch is None):
            raise NeurordlError(
                "this objective has a task: pass labelled=(images, labels), or make it with task=None"
            )
        if batchnorm not in get_args(BatchNorm):
            raise NeurordlError(f"batchnorm={batchnorm!r}: expected one of {', '.join(get_args(BatchNorm))}")
        outputs, features = self._read(student, labels_batch, batch, batchnorm)
        total, terms = torch.zeros((), device=batch.images.device), dict[str, Tensor]()
        if self.task is not None and labels_batch is not None:
            terms["task"] = self._task_loss(outputs, labels_batch.labels)
            total = total + terms["task"]
        for name, loss, value in self._transfer(features, batch, processes):
            weight = self._weight(loss, value, terms.get("task"), step, processes)
            # An undefined term must not spoil the sum: it has no gradient and counts as 0.
            total = total + weight * torch.where(torch.isfinite(value), value, 0.0)
            terms[name] = value
        return total, {name: value.detach() for name, value in terms.items()}

    def _read(
        self, student: nn.Module, labelled: Batch | None, stimuli: Batch, batchnorm: BatchNorm
    ) -> tuple[Any, dict[str, Tensor]]:
        """The student's outputs for the labelled batch and its features for the stimuli, a pass for each."""
        if self.task is None or labelled is None:
            return None, read_layers(student, stimuli.images, self._layers)[1]
        if stimuli is labelled or not self._layers:
            return read_layers(student, labelled.images, self._layers)
        passes = {"labelled": (labelled.images, list[str]()), "stimuli": (stimuli.images, self._layers)}
        done = {}
        # Who updates the running statistics goes first: the other's gradient is of those it was given.
        for part in sorted(passes, key=lambda part: part != batchnorm):
            with _fixed_batchnorm(student, batchnorm not in (part, "both")):
                done[part] = read_layers(student, *passes[part])
        return done["labelled"][0], done["stimuli"][1]

    def _transfer(
        self, features: dict[str, Tensor], batch: Batch, processes: Processes | None
    ) -> Iterator[tuple[str, Loss, Tensor]]:
        """Each transfer loss on the batch of all processes."""
        taught = {id(network): network.features(batch) for network in self._networks}
        if processes is not None and self.losses:
            features = {name: processes.gather(tensor) for name, tensor in features.items()}
            taught = {
                key: {name: processes.gather(one) for name, one in kept.items()}
                for key, kept in taught.items()
            }
            batch = Batch(
                batch.images,  # own ones only: losses read features, and the device
                processes.gather_list(batch.ids) if batch.ids is not None else None,
                processes.gather(batch.labels) if batch.labels is not None else None,
            )
        for name, loss in zip(self.names, self.losses, strict=True):
            yield name, loss, loss(features, taught.get(id(loss.network), {}), batch)

    def _task_loss(self, outputs: Any, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise NeurordlError("the labelled batch has no labels: pass labelled=(images, labels)")
        if callable(self.task):
            return self.task(outputs, labels)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise NeurordlError(
                "cross-entropy needs a student that puts out (stimuli, classes); give task= for another one"
            )
        if labels.device.type == "cpu":  # on a GPU looking would stall each step: `fit` looks before
            check_labels(labels, outputs.shape[1])
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        return functional.cross_entropy(outputs, labels)

    def _weight(
        self, loss: Loss, value: Tensor, task: Tensor | None, step: int | None, processes: Processes | None
    ) -> float | Tensor:
        weight = loss.weight
        if isinstance(weight, TaskRatio):
            if task is None:
                raise NeurordlError("TaskRatio needs a task loss; give a number where task=None")
            level = task.detach() if processes is None else processes.mean(task)
            ratio = weight.ratio * level / value.detach().abs().clamp(min=1e-12)
            return torch.where(torch.isfinite(ratio), ratio, 0.0)
        if callable(weight):
            return at_step(weight, step, loss.name)
        return weight

    def transfer_terms(self, student: nn.Module, batch: Batch) -> dict[str, float]:
        """Each transfer loss, unweighted, of stimuli that are not trained on; in eval mode, no gradient."""
        if not self.losses:
            return {}
        with frozen_eval(student):
            features = read_layers(student, as_input(batch.images, student), self._layers)[1]
            return {name: float(value) for name, _, value in self._transfer(features, batch, None)}

    def prepare(self, ids: Sequence[str] | None, validation: Sequence[str] | None = None) -> dict[str, Match]:
        """Match the training and validation stimuli with each teacher, once, before the first step."""
        matches = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            if loss.teacher is not None and ids is not None:
                if match := loss.teacher.prepare(ids):
                    matches[name] = match
                if validation is not None:
                    loss.teacher.match(validation)
        return matches

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch: those that every teacher lets share one."""
        groups = [list(ids)]
        for loss in self.losses:
            if loss.teacher is not None:
                groups = [part for group in groups for part in loss.teacher.groups(group) if part]
        return groups

    def check(
        self, student: nn.Module, labelled: Batch | None, stimuli: Batch | None, batchnorm: BatchNorm
    ) -> int | None:
        """Go through one step without training, so that what does not fit fails before anything is written.

        Returns
        -------
        int or None
            The student's number of classes, where the task is cross-entropy.

        Raises
        ------
        NeurordlError
            Whatever a step raises, and images that the student does not take.
        """
        shown = [batch.images for batch in (labelled, stimuli) if batch is not None]
        with frozen_eval(student):
            try:
                outputs = [student(images) for images in shown]
            except RuntimeError as error:
                raise NeurordlError(why_unfit(student, shown, error, "student")) from error
            if self.task == "cross_entropy" and labelled is not None and isinstance(outputs[0], Tensor):
                labels = labelled.labels  # looked at on the CPU: a wrong one would break a GPU's context
                self._task_loss(outputs[0].cpu(), labels if labels is None else labels.cpu())
            try:
                self(student, labelled, stimuli, step=0, batchnorm=batchnorm)
            except RuntimeError as error:
                raise NeurordlError(
                    f"no step can be made, because the teacher's network, the task or a loss fails: {error}"
                ) from error
        return int(outputs[0].shape[1]) if self.task == "cross_entropy" else None

    def describe(self) -> dict[str, Any]:
        """The task and each loss."""
        return {
            "task": spelled(self.task),
            "losses": {name: loss.describe() for name, loss in zip(self.names, self.losses, strict=True)},
        }


def _as_batch(given: Batch | Sequence[Any] | None, names: tuple[str, str, str]) -> Batch | None:
    if given is None or isinstance(given, Batch):
        return given
    if isinstance(given, Tensor) or not 1 <= len(given) <= 3:
        raise NeurordlError(f"a batch is a tuple ({', '.join(names)}), of which the last may be left out")
    return check_batch(Batch(**dict(zip(names, given, strict=False))))


@contextmanager
def _fixed_batchnorm(student: nn.Module, fixed: bool) -> Iterator[None]:
    """Batch norm with running statistics, not updated, while `fixed`."""
    norms = (
        [module for module in student.modules() if isinstance(module, _BatchNorm) and module.training]
        if fixed
        else []
    )
    for module in norms:
        module.training = False
    try:
        yield
    finally:
        for module in norms:
            module.training = True


def _unique(names: list[str]) -> list[str]:
    """Names with a number where one occurs again."""
    return [
        name if names.count(name) == 1 else f"{name}#{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]
