"""Optimiser and schedule of a fit: good defaults, or one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau

from neurordl.errors import NeurordlError
from neurordl.training.objective import BatchNorm
from neurordl.validate import check_choice, check_count, check_number

Scheduler = Callable[[torch.optim.Optimizer, int], LRScheduler] | Literal["cosine", "constant"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Optimization:
    """How `fit` changes the student's weights.

    Attributes
    ----------
    optimizer : callable, optional
        Function parameters -> optimizer, with its own `lr` and `weight_decay`. AdamW by default.
    lr, weight_decay : float, optional
        Learning rate and weight decay of the default optimizer: 1e-3 and 1e-4 by default.
    scheduler : "cosine", "constant", or callable
        Schedule of the learning rate. It advances at each step. A callable is a function (optimizer, number
        of steps) -> scheduler, which must not need a metric.
    clip_norm : float, optional
        Gradients are clipped to this norm.
    batchnorm : {"labelled", "stimuli", "both"}
        Which of two streams is normalized by the statistics of its own batches and updates the running
        statistics. The other one is normalized by the running statistics. Stimulus batches are small and
        their images differ from the labelled ones, and evaluation uses the running statistics, so that
        "labelled" fits the geometry of the stimuli as it will be evaluated.

    Examples
    --------
    >>> Optimization(lr=3e-4, scheduler="constant").lr
    0.0003
    """

    optimizer: MakeOptimizer | None = None
    lr: float | None = None
    weight_decay: float | None = None
    scheduler: Scheduler = "cosine"
    clip_norm: float | None = None
    batchnorm: BatchNorm = "labelled"

    def __post_init__(self) -> None:
        check_choice("batchnorm", self.batchnorm, get_args(BatchNorm))
        if not callable(self.scheduler):
            remedy = "or give a function (optimizer, steps) -> scheduler"
            check_choice("scheduler", self.scheduler, ("cosine", "constant"), remedy)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, 0, open_low=True)
        for name in ("lr", "weight_decay"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        if self.optimizer is not None and (self.lr, self.weight_decay) != (None, None):
            raise NeurordlError(
                "lr= and weight_decay= are those of the default optimizer; set them in your own optimizer="
            )


@dataclass(frozen=True)
class Execution:
    """Where `fit` runs, and what it keeps and shows meanwhile.

    Attributes
    ----------
    accelerator, devices, precision
        Arguments of ``lightning_fabric.Fabric``: ``"cuda"``, 2, ``"bf16-mixed"``. Across several processes an
        RDM loss is computed on the batch of all of them.
    fabric : lightning_fabric.Fabric, optional
        Your own fabric, in place of these three. Across several processes an objective with ``task=None``
        needs a strategy that finds unused parameters.
    deterministic : bool, optional
        Use deterministic algorithms; by default on the CPU only.
    checkpoint_every : int, optional
        Steps between checkpoints. One is always written at the end of each epoch.
    progress : bool
        Show a progress bar with the terms of the loss.
    """

    accelerator: str = "auto"
    devices: int | list[int] = 1
    precision: Any = "32-true"
    fabric: Fabric | None = None
    deterministic: bool | None = None
    checkpoint_every: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.fabric is not None and (self.accelerator, self.devices, self.precision) != (
            "auto",
            1,
            "32-true",
        ):
            raise NeurordlError(
                "accelerator=, devices=, precision= are those of the default fabric; set them in your own "
                "fabric="
            )
        if self.checkpoint_every is not None:
            check_count("checkpoint_every", self.checkpoint_every)


def optimizer_of(student: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """The optimizer of all parameters that are trained."""
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not parameters:
        raise NeurordlError("the student has no parameter to train (requires_grad is False everywhere)")
    if settings.optimizer is not None:
        return settings.optimizer(parameters)
    lr = 1e-3 if settings.lr is None else settings.lr
    weight_decay = 1e-4 if settings.weight_decay is None else settings.weight_decay
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


def scheduler_of(optimizer: torch.optim.Optimizer, scheduler: Scheduler, total: int) -> LRScheduler:
    """The schedule over `total` steps."""
    if scheduler == "cosine":
        return CosineAnnealingLR(optimizer, max(total, 1))
    if scheduler == "constant":
        return LambdaLR(optimizer, lambda _step: 1.0)
    made = scheduler(optimizer, total)
    if isinstance(made, ReduceLROnPlateau):
        raise NeurordlError(
            "scheduler: ReduceLROnPlateau waits for a metric, and schedulers advance here at every step "
            "without one; choose another, such as 'cosine'"
        )
    return made
