"""What training asks of several processes, and Fabric's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

Item = TypeVar("Item")


class Processes(Protocol):
    """What the objective asks of several processes; `fit` answers, and one process needs none."""

    def gather(self, tensor: Tensor) -> Tensor:
        """All processes' rows, in the order of their ranks, with gradient."""

    def gather_list(self, items: Sequence[Item]) -> list[Item]:
        """All processes' items, in the order of their ranks."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes, without gradient; a new tensor."""


class FabricProcesses:
    """The processes that Fabric launched.

    The gradient of a gathered tensor is the sum over processes of what each sends back. Each computes the
    same loss of the same global batch, and Fabric averages parameters' gradients over processes: together,
    the gradient of one process with the global batch.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def gather(self, tensor: Tensor) -> Tensor:
        """All processes' rows."""
        every = self._fabric.all_gather(tensor.contiguous(), sync_grads=tensor.requires_grad)
        return every.flatten(0, 1)  # type: ignore[union-attr]

    def gather_list(self, items: Sequence[Item]) -> list[Item]:
        """All processes' items."""
        parts: list[Any] = [None] * self._fabric.world_size
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, which a training step leaves different (batch norm)."""
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes."""
        own = tensor.detach().clone()  # Fabric reduces in place
        return self._fabric.all_reduce(own, reduce_op="mean")  # type: ignore[return-value]
