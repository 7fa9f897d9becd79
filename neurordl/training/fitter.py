"""The state of one fit, and the steps that change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from neurordl.errors import NeurordlError
from neurordl.stimuli import StimulusSet
from neurordl.teachers import Batch
from neurordl.training.folder import RunFolder
from neurordl.training.objective import BatchNorm, Objective, check_labels
from neurordl.training.streams import LoaderStream, SetStream, seed_all

Item = TypeVar("Item")
Scheduler = Callable[[torch.optim.Optimizer, int], LRScheduler] | Literal["cosine", "constant"]


class _Step(nn.Module):
    """The one module that Fabric wraps: its forward returns the loss, so that all processes agree on gradients."""

    def __init__(
        self, student: nn.Module, objective: Objective, batchnorm: BatchNorm, processes: _Processes | None
    ) -> None:
        super().__init__()
        self.student = student
        self.objective, self.batchnorm, self.processes = objective, batchnorm, processes

    def forward(
        self, labelled: tuple[Any, ...] | None, stimuli: tuple[Any, ...] | None, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(
            self.student, labelled, stimuli, step=step, batchnorm=self.batchnorm, processes=self.processes
        )


class _Processes:
    """Gathers over Fabric's processes, in the order of their ranks."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def gather(self, tensor: Tensor) -> Tensor:
        every = self._fabric.all_gather(tensor.contiguous(), sync_grads=tensor.requires_grad)
        return every.flatten(0, 1)  # type: ignore[union-attr]

    def gather_list(self, items: Sequence[Item]) -> list[Item]:
        parts: list[Any] = [None] * self._fabric.world_size
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def mean(self, tensor: Tensor) -> Tensor:
        return self._fabric.all_reduce(tensor, reduce_op="mean")  # type: ignore[return-value]


class Fitter:
    """The state of one fit: what a checkpoint holds, and the steps that change it."""

    folder: RunFolder | None = None
    clip_norm: float | None = None
    checkpoint_every: int | None = None

    def __init__(
        self,
        fabric: Fabric,
        student: nn.Module,
        objective: Objective,
        labels: SetStream | LoaderStream | None,
        images: SetStream | None,
        held: StimulusSet | None,
        steps: int,
        epochs: int,
        seed: int,
    ) -> None:
        self.fabric, self.student, self.objective = fabric, student, objective
        self.labels, self.images, self.held = labels, images, held
        self.steps, self.epochs, self.seed = steps, epochs, seed
        self.step, self.history = 0, list[dict[str, float]]()
        self.best = {"value": float("inf"), "epoch": -1}
        self.terms = ["loss", *(["task"] if objective.task is not None else []), *objective.names]
        self.classes: int | None = None

    def look_first(self) -> None:
        """Fail before the first step on images, layers or labels that do not fit."""
        self.student.to(self.fabric.device)
        for stream in (self.labels, self.images):
            if stream is not None:
                seed_all(self.seed, 0)
                stream.begin()
                batch = stream.draw(0)
                classes = self.objective.check(self.student, batch.images.to(self.fabric.device))
                if stream is self.labels:
                    self.classes = classes

    def set_up(self, optimizer: torch.optim.Optimizer, scheduler: Scheduler, batchnorm: BatchNorm) -> None:
        """Wrap the step and the optimiser for the devices, precision and processes."""
        processes = _Processes(self.fabric) if self.fabric.world_size > 1 else None
        module = _Step(self.student, self.objective, batchnorm, processes)
        self.scheduler = _scheduler(optimizer, scheduler, self.steps * self.epochs)
        self.module, self.optimizer = self.fabric.setup(module, optimizer)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.sums = torch.zeros(2, len(self.terms), device=self.fabric.device)
        self.since = time.perf_counter()

    def run(self, progress: bool) -> None:
        """All epochs, from wherever the folder's checkpoint stands."""
        self._restore()
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
        )
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task(
                "fit", total=self.steps * self.epochs, completed=self.step, epoch="", terms=""
            )
            while self.step < self.steps * self.epochs:
                epoch, done = divmod(self.step, self.steps)
                self._begin_epoch(epoch, done)
                for _ in range(done, self.steps):
                    self._one_step()
                    bar.update(
                        task,
                        completed=self.step,
                        epoch=f"{epoch + 1}/{self.epochs}",
                        terms=self._shown() if not bar.disable else "",
                    )
                    if (
                        self.checkpoint_every
                        and self.step % self.checkpoint_every == 0
                        and self.step % self.steps
                    ):
                        self._save()
                self._end_epoch(epoch)
        self._finish()

    def _begin_epoch(self, epoch: int, done: int) -> None:
        """Start the streams; replay a loader's draws where an epoch is resumed in its middle."""
        self.student.train()
        for stream in (self.labels, self.images):
            if stream is not None:
                stream.begin()
        for step in range(epoch * self.steps, epoch * self.steps + done):
            seed_all(self.seed, step, self.fabric.global_rank)
            for stream in (self.labels, self.images):
                if stream is not None:
                    stream.skip(step)

    def _one_step(self) -> None:
        # Seeded by step, so that a resumed run needs no generator's state.
        seed_all(self.seed, self.step, self.fabric.global_rank)
        labelled = self._move(self.labels)
        stimuli = self._move(self.images)
        # As plain tuples: Fabric rewrites what it passes on (mixed precision), which a frozen Batch refuses.
        loss, terms = self.module(
            labelled and (labelled.images, labelled.labels, labelled.ids),
            stimuli and (stimuli.images, stimuli.ids, stimuli.labels),
            self.step,
        )
        self.fabric.backward(loss)
        if self.clip_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        values = torch.stack([loss.detach(), *(terms[name] for name in self.terms[1:])]).float()
        finite = torch.isfinite(values)
        self.sums += torch.stack([torch.where(finite, values, 0.0), finite.float()])
        self.step += 1

    def _move(self, stream: SetStream | LoaderStream | None) -> Batch | None:
        if stream is None:
            return None
        batch = stream.draw(self.step)
        if stream is self.labels and self.classes is not None and batch.labels is not None:
            check_labels(batch.labels, self.classes)
        labels = batch.labels if batch.labels is None else batch.labels.to(self.fabric.device)
        return Batch(batch.images.to(self.fabric.device), batch.ids, labels)

    def _means(self) -> dict[str, float]:
        total, count = self.sums.cpu().double()
        return {name: float(value) for name, value in zip(self.terms, total / count, strict=True)}

    def _shown(self) -> str:
        return "  ".join(f"{name} {value:.3f}" for name, value in self._means().items())

    def _end_epoch(self, epoch: int) -> None:
        row: dict[str, float] = {"epoch": epoch + 1, "step": self.step, **self._means()}
        if row["loss"] != row["loss"] or float(self.sums[1, 0]) < self.steps:
            raise NeurordlError(
                f"the loss was not finite in epoch {epoch + 1}; lower lr= or weight=, or set clip_norm=. "
                "The last checkpoint, from before, is whole"
            )
        if self.held is not None and self.objective.losses:
            row |= self._validate()
            value = sum(row[f"val_{name}"] for name in self.objective.names)
            if value < self.best["value"]:
                self.best = {"value": value, "epoch": epoch + 1}
                if self.folder is not None:
                    self.folder.save_best(self.student)
                else:
                    self.best_state = {
                        name: one.detach().clone() for name, one in self.student.state_dict().items()
                    }
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - self.since}
        self.history.append(row)
        self._start_epoch()
        self._save()

    def _validate(self) -> dict[str, float]:
        """Transfer losses of the validation stimuli, each group that may share a batch in one batch."""
        assert self.held is not None
        rows: list[dict[str, float]] = []
        for group in self.objective.groups(self.held.ids):
            part = self.held.subset(group)
            images = part.images().to(self.fabric.device)
            batch = Batch(
                images, part.ids, None if part.labels is None else part.labels.to(self.fabric.device)
            )
            rows.append(self.objective.transfer_terms(self.student, batch))
        return {f"val_{name}": sum(row[name] for row in rows) / len(rows) for name in self.objective.names}

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
        }
        self.folder.save(state, self.history)

    def _restore(self) -> None:
        state = self.folder.state() if self.folder is not None else None
        if state is None:
            if self.folder is not None:
                self.folder.start()
            return
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.history, self.best = state["step"], state["history"], state["best"]
        self.sums = state["sums"].to(self.fabric.device)

    def _finish(self) -> None:
        """Last weights to the folder; the best ones into the student, where there was a validation."""
        if self.folder is not None:
            self.folder.finish(self.student, self.best)
            self.fabric.barrier()
        if self.best["epoch"] > 0:
            if self.folder is not None:
                self.folder.load_best(self.student)
            else:
                self.student.load_state_dict(self.best_state)


def _scheduler(optimizer: torch.optim.Optimizer, scheduler: Scheduler, total: int) -> LRScheduler:
    if scheduler == "cosine":
        return CosineAnnealingLR(optimizer, max(total, 1))
    if scheduler == "constant":
        return LambdaLR(optimizer, lambda _step: 1.0)
    if callable(scheduler):
        return scheduler(optimizer, total)
    raise NeurordlError(
        f"scheduler={scheduler!r}: expected 'cosine', 'constant' or a function (optimizer, steps) -> scheduler"
    )
