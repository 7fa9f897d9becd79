"""Optimiser and schedule of a fit: good defaults, or one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau

from neurordl.errors import NeurordlError

Scheduler = Callable[[torch.optim.Optimizer, int], LRScheduler] | Literal["cosine", "constant"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def optimizer_of(
    student: nn.Module, make: MakeOptimizer | None, lr: float | None, weight_decay: float | None
) -> torch.optim.Optimizer:
    """The optimiser asked for, AdamW by default, of all parameters that are trained."""
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not parameters:
        raise NeurordlError("the student has no parameter to train (requires_grad is False everywhere)")
    if make is None:
        lr, weight_decay = (1e-3 if lr is None else lr), (1e-4 if weight_decay is None else weight_decay)
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    if lr is not None or weight_decay is not None:
        raise NeurordlError(
            "lr= and weight_decay= are those of the default optimizer; set them in your own optimizer="
        )
    return make(parameters)


def scheduler_of(optimizer: torch.optim.Optimizer, scheduler: Scheduler, total: int) -> LRScheduler:
    """The schedule asked for, over so many steps."""
    if scheduler == "cosine":
        return CosineAnnealingLR(optimizer, max(total, 1))
    if scheduler == "constant":
        return LambdaLR(optimizer, lambda _step: 1.0)
    if callable(scheduler):
        made = scheduler(optimizer, total)
        if isinstance(made, ReduceLROnPlateau):
            raise NeurordlError(
                "scheduler: ReduceLROnPlateau waits for a metric, and schedulers step here at every step "
                "without one; choose another, such as 'cosine'"
            )
        return made
    raise NeurordlError(
        f"scheduler={scheduler!r}: expected 'cosine', 'constant' or a function (optimizer, steps) -> "
        "scheduler"
    )
