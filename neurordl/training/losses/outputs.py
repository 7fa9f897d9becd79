"""Losses on the outputs: what the teacher says of each class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.patterns.network import OUTPUT
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher, Teacher
from neurordl.teachers.base import Record
from neurordl.training.losses.base import (
    Features,
    TransferLoss,
    Weight,
    autocast_off,
    check_weight,
    full_precision,
)
from neurordl.training.streams import check_labels
from neurordl.validate import check_number


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

    Examples
    --------
    >>> import neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), layers="conv3")
    >>> nrl.SoftTargetLoss(teacher, temperature=4.0, weight=0.5).name
    'soft_targets'
    """

    name, layers = "soft_targets", (OUTPUT,)

    def __init__(self, teacher: NetworkTeacher, temperature: float = 4.0, weight: Weight = 1.0) -> None:
        self.teacher: Teacher = _output(type(self).__name__, teacher)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)
        self.weight = check_weight(weight)

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean divergence over a batch."""
        logs, goal = _log_probabilities("soft targets", student, teacher, self.temperature)
        return _divergence(logs, goal) * self.temperature**2

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {**super().describe(), "temperature": self.temperature}


class DecoupledLoss(TransferLoss):
    r"""Decoupled distillation: the teacher's doubt, and its order of the other classes (Zhao et al. 2022).

    .. math:: L = \tau^2 \left( \alpha \, KL(b^T, b^S) + \beta \, KL(q^T, q^S) \right)

    averaged over the batch. At the temperature :math:`\tau`, b holds the two probabilities of the labelled
    class and of all others, and q the probabilities of each class among these others, which sum to 1.
    `SoftTargetLoss` is the same with alpha 1 and with the teacher's probability of all others as the beta of
    an image: the surer the teacher, the less counts its order of the other classes.

    Parameters
    ----------
    teacher : NetworkTeacher
        Network with as many outputs as the student, at least two.
    temperature : float
        Divisor of the outputs.
    alpha : float
        Weight of the labelled class against the others.
    beta : float
        Weight of the probabilities within the other classes.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses. mdistiller's, the authors' code, is 1 after a rise from 0
        in the first 20 epochs: ``lambda step: min(step / (20 * steps_per_epoch), 1)``.

    Raises
    ------
    NeurordlError
        If the teacher is not a network; at the first batch, if its stimuli have no labels, or labels that
        are no outputs of the student.

    Notes
    -----
    The labels are those of the stimuli: where there is a separate stimulus stream, it must have labels, whose
    numbers are those of the student's outputs. The value is that of mdistiller. Logarithms of sums are
    computed as such here, so that a certain teacher or student (outputs that differ by more than 87 times the
    temperature) gives a number, where mdistiller's gives infinity; and the labelled class is left out of the
    others, where mdistiller subtracts 1000 from its output.

    References
    ----------
    Zhao B, Cui Q, Song R, Qiu Y, Liang J (2022). Decoupled knowledge distillation. CVPR.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn())
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> objective = nrl.Objective(nrl.DecoupledLoss(teacher))
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'decoupled']
    """

    name, layers, reads_classes = "decoupled", (OUTPUT,), True

    def __init__(
        self,
        teacher: NetworkTeacher,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        weight: Weight = 1.0,
    ) -> None:
        self.teacher: Teacher = _output(type(self).__name__, teacher)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)
        self.alpha, self.beta = check_number("alpha", alpha, 0), check_number("beta", beta, 0)
        self.weight = check_weight(weight)

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean of both divergences over a batch."""
        both = _log_probabilities(self.name, student, teacher, self.temperature)
        n_classes = both[0].shape[1]
        if batch.labels is None:
            raise NeurordlError("decoupled: the stimuli have no labels; give labels=, or use SoftTargetLoss")
        if n_classes < 2:
            raise NeurordlError("decoupled: there is a single output, and no other class; give num_classes=")
        if batch.labels.device.type == "cpu":  # on a GPU a check would stall each step
            check_labels(batch.labels, n_classes)
        labels = batch.labels[:, None]
        logs, goal = (_decoupled(part, labels) for part in both)
        doubt, order = (_divergence(*pair) for pair in zip(logs, goal, strict=True))
        return (self.alpha * doubt + self.beta * order) * self.temperature**2

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        knobs = {"temperature": self.temperature, "alpha": self.alpha, "beta": self.beta}
        return {**super().describe(), **knobs}


def _output(loss: str, teacher: object) -> LayerTeacher:
    if not isinstance(teacher, NetworkTeacher):
        layer = isinstance(teacher, LayerTeacher)
        remedy = "give the network, without [layer]" if layer else "make one with NetworkTeacher(network)"
        raise NeurordlError(f"{loss} needs a NetworkTeacher, not {type(teacher).__name__}; {remedy}")
    return LayerTeacher(teacher, OUTPUT, teacher.dissimilarity)


def _log_probabilities(
    loss: str, student: Features, teacher: Features, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, classes) of the student and of the teacher at a temperature."""
    if OUTPUT not in teacher:
        raise NeurordlError(f"{loss} need a teacher whose output is a tensor of class scores")
    outputs = full_precision(student[OUTPUT].flatten(1))
    goal = teacher[OUTPUT].flatten(1).to(outputs.dtype)
    if outputs.shape != goal.shape:
        sizes = f"the student has {outputs.shape[1]} outputs, the teacher {goal.shape[1]}"
        raise NeurordlError(f"{sizes}: {loss} need the same classes; make num_classes= the same")
    with autocast_off(outputs):
        logs, goal_logs = (functional.log_softmax(x / temperature, dim=1) for x in (outputs, goal))
    return logs, goal_logs


def _decoupled(logs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (the label, all others), and of each of the others among them, (n, classes)."""
    rest = logs.scatter(1, labels, -torch.inf)
    total = rest.logsumexp(dim=1, keepdim=True)
    binary = torch.cat([logs.gather(1, labels), total], dim=1)
    # Where a teacher excludes all others, each of them keeps its probability of 0.
    return binary, rest - total.masked_fill(total == -torch.inf, 0.0)


def _divergence(logs: Tensor, goal: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the student's probabilities from the teacher's, averaged over rows.

    A class that the teacher excludes (an output of -inf) adds nothing, as p log p goes to 0 with p.
    """
    probabilities = goal.exp()
    parts = torch.where(probabilities == 0, 0.0, probabilities * (goal - logs))
    return parts.sum() / len(parts)
