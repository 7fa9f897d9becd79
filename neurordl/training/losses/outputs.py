"""Losses on the outputs: what the teacher says of each class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.patterns.network import OUTPUT
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher, Teacher
from neurordl.teachers.base import Record
from neurordl.training.losses.base import Features, TransferLoss, Weight, check_weight
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
