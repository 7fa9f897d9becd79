"""The state of one fit, and the steps that change it."""

from __future__ import annotations

import math
import sys
import time
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.stimuli import StimulusSet
from neurordl.teachers import Batch
from neurordl.training.folder import RunFolder
from neurordl.training.objective import BatchNorm, Objective
from neurordl.training.processes import FabricProcesses, Processes
from neurordl.training.streams import FEWEST, LoaderStream, SetStream, check_labels, seed_all


class _Step(nn.Module):
    """The one module that Fabric wraps: its forward is the loss, so that processes agree on gradients."""

    def __init__(
        self, student: nn.Module, objective: Objective, batchnorm: BatchNorm, processes: Processes | None
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


class Fitter:
    """The state of one fit: what a checkpoint holds, and the steps that change it."""

    folder: RunFolder | None = None
    record: dict[str, Any]
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
        self.best: dict[str, float] = {"value": float("inf"), "epoch": -1}
        self.seen: set[str] = set()
        self.processes = FabricProcesses(fabric) if fabric.world_size > 1 else None
        self.terms = ["loss", *(["task"] if objective.task is not None else []), *objective.names]
        self.classes: int | None = None

    def look_first(self, batchnorm: BatchNorm) -> None:
        """Fail before the first step, and before anything is written, on what does not fit."""
        self.student.to(self.fabric.device)
        seed_all(self.seed, 0)
        labelled, stimuli = self._draw(self.labels, 0), self._draw(self.images, 0)
        shown = stimuli or labelled
        if self.objective.losses and shown and len(shown.images) * self.fabric.world_size < FEWEST:
            raise NeurordlError(
                f"a batch holds {len(shown.images)} stimuli, too few for an RDM to be compared; "
                f"{FEWEST} or more are needed"
            )
        self.classes = self.objective.check(self.student, labelled, stimuli, batchnorm)
        if isinstance(self.labels, SetStream) and self.classes and self.labels.labels is not None:
            check_labels(self.labels.labels, self.classes)

    def set_up(self, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, batchnorm: BatchNorm) -> None:
        """Wrap the step and the optimiser for the devices, precision and processes."""
        module = _Step(self.student, self.objective, batchnorm, self.processes)
        self.scheduler = scheduler
        self.module, self.optimizer = self.fabric.setup(module, optimizer)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.sums = torch.zeros(2, len(self.terms), device=self.fabric.device)
        self.since = time.perf_counter()

    def run(self, progress: bool) -> None:
        """All epochs, from wherever the folder's checkpoint stands."""
        try:
            self._all_epochs(progress)
        except BaseException:
            if self.folder is not None:
                self.folder.withdraw()
            raise

    def _all_epochs(self, progress: bool) -> None:
        self._restore()
        named = TextColumn("epoch {task.fields[epoch]}"), TextColumn("{task.fields[terms]}")
        columns = named[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), named[1]
        total, every = self.steps * self.epochs, self.checkpoint_every or self.steps
        lines = progress and not sys.stdout.isatty()  # a bar shows nothing in a file
        with Progress(*columns, disable=not progress or lines, transient=True) as bar:
            task = bar.add_task("fit", total=total, completed=self.step, epoch="", terms="")
            while self.step < total:
                epoch, done = divmod(self.step, self.steps)
                self._begin_epoch(epoch, done)
                for _ in range(done, self.steps):
                    self._one_step()
                    bar.update(task, completed=self.step, epoch=f"{epoch + 1}/{self.epochs}")
                    if progress and self.step % 10 == 0:  # reading the terms waits for the device
                        bar.update(task, terms=self._shown())
                    if self.step % every == 0 and self.step % self.steps:
                        self._check_finite()
                        self._save()
                self._end_epoch(epoch)
                if lines:
                    told = "  ".join(f"{name} {self.history[-1][name]:.4f}" for name in self.terms)
                    print(f"epoch {epoch + 1}/{self.epochs}  {told}", file=sys.stderr, flush=True)
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
        labelled, stimuli = self._draw(self.labels, self.step), self._draw(self.images, self.step)
        if self.objective.losses and (shown := stimuli or labelled) and shown.ids is not None:
            self.seen.update(shown.ids)
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
        values = values if self.processes is None else self.processes.mean(values)
        finite = torch.isfinite(values)
        self.sums += torch.stack([torch.where(finite, values, 0.0), finite.float()])
        self.step += 1

    def _draw(self, stream: SetStream | LoaderStream | None, step: int) -> Batch | None:
        """The batch of a step, on the device."""
        if stream is None:
            return None
        batch = stream.draw(step)
        if stream is self.labels and self.classes is not None and batch.labels is not None:
            check_labels(batch.labels, self.classes)
        return self._moved(batch)

    def _moved(self, batch: Batch) -> Batch:
        labels = batch.labels if batch.labels is None else batch.labels.to(self.fabric.device)
        return Batch(batch.images.to(self.fabric.device), batch.ids, labels)

    def _means(self) -> dict[str, float]:
        total, count = self.sums.cpu().double()
        return {name: float(value) for name, value in zip(self.terms, total / count, strict=True)}

    def _shown(self) -> str:
        return "  ".join(f"{name} {value:.3f}" for name, value in self._means().items())

    def _check_finite(self) -> None:
        """Stop before a checkpoint is written whose weights are spoilt."""
        epoch, before = divmod(self.step - 1, self.steps)
        spoilt = not all(bool(torch.isfinite(one).all()) for one in self.student.parameters())
        if spoilt or float(self.sums[1, 0]) <= before:
            raise NeurordlError(
                f"the loss or its gradient was not finite in epoch {epoch + 1}; lower lr= or weight=, or set "
                "clip_norm=. "
                "The last checkpoint, if there is one, is from before"
            )

    def _end_epoch(self, epoch: int) -> None:
        self._check_finite()
        row: dict[str, float] = {"epoch": epoch + 1, "step": self.step, **self._means()}
        for name in self.objective.names:
            if row[name] != row[name]:
                warnings.warn(
                    f"{name} was undefined on every batch of epoch {epoch + 1} and trained nothing: its "
                    "batches hold too few measured pairs, or the layer no longer responds",
                    stacklevel=2,
                )
        if self.processes is not None:
            self.processes.share_buffers(self.student)
        if self.held is not None and self.objective.losses:
            row |= self.fabric.broadcast(self._validate(self.held))  # one decides for all
            value = sum(row[f"val_{name}"] for name in self.objective.names)
            if not math.isfinite(value):
                raise NeurordlError(
                    f"validation: the losses of the {len(self.held)} validation stimuli are undefined, so no "
                    "epoch can be chosen; give more stimuli, or those that share measured pairs"
                )
            if value < self.best["value"]:
                self.best = {"value": value, "epoch": epoch + 1}
                if self.folder is not None:
                    self.folder.save_best(self.student)
                else:
                    state = self.student.state_dict().items()
                    self.best_state = {name: one.detach().clone() for name, one in state}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - self.since}
        self.history.append(row)
        self._start_epoch()
        self._save()

    def _validate(self, held: StimulusSet) -> dict[str, float]:
        """Transfer losses of the validation stimuli, each group that may share a batch in one batch."""
        found: dict[str, list[float]] = {name: [] for name in self.objective.names}
        for group in self.objective.groups(sorted(held.ids, key=natural_key)):
            part = held.subset(group)
            batch = self._moved(Batch(part.images(), part.ids, part.labels))
            for name, value in self.objective.transfer_terms(self.student, batch).items():
                if math.isfinite(value):
                    found[name].append(value)
        return {f"val_{name}": sum(one) / len(one) if one else math.nan for name, one in found.items()}

    def _save(self) -> None:
        if self.processes is not None:
            self.seen = set(self.processes.gather_list(sorted(self.seen)))
        if self.folder is None:
            return
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
            "seen": sorted(self.seen, key=natural_key),
        }
        self.folder.save(state, self.history)

    def _restore(self) -> None:
        if self.folder is None:
            return
        self.fabric.barrier()  # every process has looked at the folder before one writes to it
        state = self.folder.state()
        if state is None:
            self.folder.start()
            return
        try:
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.step, self.history, self.best = state["step"], state["history"], state["best"]
            self.sums, self.seen = state["sums"].to(self.fabric.device), set(state["seen"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise NeurordlError(
                f"{self.folder.path}: its checkpoint is not one of this run ({error}); choose another folder"
            ) from error

    def _finish(self) -> None:
        """Last weights to the folder; the best ones into the student, where there was a validation."""
        self.record["status"] = "finished"
        if self.best["epoch"] > 0:
            self.record["best"] = dict(self.best)
        if self.record["stimuli"] is None and self.seen:
            self.record["seen"] = sorted(self.seen, key=natural_key)
        if self.folder is not None:
            self.folder.finish(self.student, self.history)
            self.fabric.barrier()
        if self.best["epoch"] > 0:
            if self.folder is not None:
                self.folder.load_best(self.student)
            else:
                self.student.load_state_dict(self.best_state)
