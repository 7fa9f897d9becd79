"""Weights of transfer losses: numbers, schedules over steps, and ratios to the task loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from neurordl.errors import NeurordlError
from neurordl.teachers.base import spelled


@dataclass(frozen=True)
class TaskRatio:
    """A weight that holds a transfer loss at a ratio to the task loss, at each step.

    ``TaskRatio(0.5)`` scales the term so that its value is half the task loss; the scale carries no gradient.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < math.inf:
            raise NeurordlError(f"TaskRatio({self.ratio}): expected a finite number of 0 or more")


Weight = float | Callable[[int], float] | TaskRatio


def check_weight(weight: Weight) -> Weight:
    """A finite number of 0 or more, a callable or a `TaskRatio`; an error otherwise."""
    if isinstance(weight, TaskRatio) or callable(weight):
        return weight
    if isinstance(weight, Real) and 0 <= float(weight) < math.inf:
        return float(weight)
    raise NeurordlError(
        f"weight={weight!r}: expected a number of 0 or more, a function of the step, or TaskRatio(ratio)"
    )


def at_step(weight: Callable[[int], float], step: int | None, name: str) -> float:
    """The value of a schedule, which must be what a weight may be."""
    if step is None:
        raise NeurordlError("a weight is a function of the step: pass step= to the objective")
    now = float(weight(step))
    if not 0 <= now < math.inf:
        raise NeurordlError(
            f"the weight of {name} is {now} at step {step}: its function must give a finite number of 0 or "
            "more"
        )
    return now


def describe_weight(weight: Weight) -> Any:
    """A weight for the record; a schedule by some of its values, since its name does not tell two apart."""
    if isinstance(weight, TaskRatio) or not callable(weight):
        return spelled(weight)
    at = {}
    for step in (0, 1, 10, 100, 1000):
        try:
            at[str(step)] = float(weight(step))
        except Exception:  # it may know the steps of its run only
            break
    return {"schedule": spelled(weight), "at": at}
