"""Pilots and cells of the transfer study on a GPU, all students of a cell side by side in one CUDA graph.

The same images, losses, weights, steps and seeds as `study.run`, which fits one student after another with
`neurordl.fit`; batches and augmentation have other random numbers. Results are written as bundles, which
`study.py import OUT` unpacks.

    python benchmarks/transfer/on_gpu.py OUT pilots:mnist cells:mnist "cells:mnist, mlp"
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import CELLS
from fast import Contestant, Step, cosine, predictions
from setting import load
from study import (
    LABELLED,
    LR,
    Job,
    fits,
    make_losses,
    make_teacher,
    new_student,
    parts,
    pilots,
    save,
    teacher_of,
    write_choices,
)
from teachers import on_device
from torch import Tensor, nn

import neurordl as nrl


class Taught(nrl.NetworkTeacher):
    """A teacher whose features of the current batch lie ready."""

    def __init__(self, teacher: nrl.NetworkTeacher, stimuli: nrl.StimulusSet, device: torch.device) -> None:
        self.__dict__.update(teacher.__dict__)
        assert teacher._ids is not None
        rows = torch.from_numpy(teacher._ids.rows(stimuli.ids))
        self.tables = {name: table[rows].to(device) for name, table in teacher._cache(device).items()}
        self.current: dict[str, Tensor] = {}

    def features(self, batch: nrl.Batch) -> dict[str, Tensor]:
        """The features of the current batch."""
        return self.current


class Group:
    """What all students of a seed share: batches of labelled images and of stimuli, and their teachers."""

    def __init__(self, name: str, seed: int, controls: Sequence[str], device: torch.device) -> None:
        cell = CELLS[name]
        self.labelled_set, self.stimulus_set = parts(cell, seed)
        self.labelled = on_device(self.labelled_set, cell.source, device, augment=True)
        self.stimuli = on_device(self.stimulus_set, cell.source, device)
        shared = make_teacher(cell.source, self.stimulus_set)
        self.teachers = {
            condition: Taught(
                teacher_of(condition, shared, self.stimulus_set, seed), self.stimulus_set, device
            )
            for condition in {"": "", **dict.fromkeys(c for c in controls if "permuted" in c)}
        }
        self.x = self.labelled.plain(slice(0, LABELLED)).clone()
        self.y = self.labelled.labels[:LABELLED].clone()
        self.rows = torch.arange(cell.batch, device=device)
        self.shown = self.stimuli.plain(self.rows)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device
        self.passes: dict[str, Any] = {}

    def prepare(self) -> None:
        """The stimuli of the batch, and the teachers' features of them."""
        self.shown = self.stimuli.plain(self.rows)
        for teacher in self.teachers.values():
            teacher.current = {name: table[self.rows] for name, table in teacher.tables.items()}

    def draw(self) -> None:
        """The next batches; a pass goes through all images in full batches."""
        rows = self._next("labelled", len(self.labelled), LABELLED)
        self.x.copy_(self.labelled.draw(rows, self.generator))
        self.y.copy_(self.labelled.labels[rows])
        self.rows.copy_(self._next("stimuli", len(self.stimuli), len(self.rows)))

    def _next(self, stream: str, n: int, size: int) -> Tensor:
        order, place = self.passes.get(stream, (None, n))
        if place + size > n:
            order, place = torch.randperm(n, generator=self.generator, device=self.device), 0
        self.passes[stream] = (order, place + size)
        rows: Tensor = order[place : place + size]
        return rows


class OnDevice(nrl.ContrastiveLoss):
    """The contrastive loss with the rows of a batch known on the device; no id occurs twice."""

    group: Group
    table: Tensor

    def _rows(self, ids: Any) -> Any:
        return np.zeros(len(self.group.rows), dtype=np.int64) if ids is None else super()._rows(ids)

    def _places(self, rows: Any, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at, places = self.table[self.group.rows], torch.arange(len(self.group.rows), device=device)
        return at, at, places, places


def contestant(job: Job, group: Group, lr: Tensor) -> Contestant:
    """The student of a job with its losses."""
    teacher = group.teachers[job.condition if job.condition in group.teachers else ""]
    student = new_student(job.cell, job.seed).to(group.device).train()
    torch.manual_seed(job.seed)
    losses = make_losses(job.cell, job.condition, job.ratio, teacher, group.stimulus_set.ids)
    objective = nrl.Objective(losses)
    for loss in losses:
        if isinstance(loss, nrl.ContrastiveLoss):
            loss.__class__ = OnDevice
            loss.group = group
            loss.table = torch.from_numpy(nrl.ContrastiveLoss._rows(loss, group.stimulus_set.ids)).to(
                group.device
            )
    objective.loss_modules.to(group.device)
    norms = any(isinstance(module, nn.BatchNorm2d) for module in student.modules())

    def loss() -> Tensor:
        labelled = nrl.Batch(group.x, None, group.y)
        stimuli = nrl.Batch(group.shown) if losses else None
        # without batch norm one pass of both streams is the same as two
        batchnorm = ("both" if norms else "joint") if losses else "labelled"
        return objective(student, labelled, stimuli, batchnorm=batchnorm)[0]

    with torch.no_grad():  # shapes of losses with parameters
        for module in objective.loss_modules:
            module.eval()
        group.prepare()
        loss()
        objective.loss_modules.train()
    make = partial(
        torch.optim.AdamW, lr=lr, weight_decay=1e-4, fused=True, capturable=group.device.type == "cuda"
    )
    return Contestant(str(job), student, loss, make, list(objective.loss_modules))


def run(jobs: Sequence[Job], steps: int, device: torch.device, limit: float) -> dict[Job, Contestant]:
    """Train the students of some jobs of one cell side by side."""
    start = time.time()
    groups = {
        seed: Group(jobs[0].cell, seed, [job.condition for job in jobs], device)
        for seed in {job.seed for job in jobs}
    }
    lr = torch.tensor(LR, device=device)
    contestants = {}
    for job in jobs:
        try:
            contestants[job] = contestant(job, groups[job.seed], lr)
        except Exception as error:
            print("LEFT OUT", job, repr(error)[:300], flush=True)
    if device.type == "cuda":
        for condition in {job.condition for job in contestants}:
            tried = next(job for job in contestants if job.condition == condition)
            try:
                Step([contestants[tried]], [groups[tried.seed].prepare], device).capture()
            except Exception as error:
                print("CANNOT BE RECORDED", condition, repr(error)[:300], flush=True)
                contestants = {job: each for job, each in contestants.items() if job.condition != condition}
    step = Step(list(contestants.values()), [group.prepare for group in groups.values()], device)
    print(f"{len(contestants)} students ready after {time.time() - start:.0f} s", flush=True)
    times: list[float] = []
    for number in range(steps):
        for group in groups.values():
            group.draw()
        lr.fill_(LR * cosine(number, steps))
        step()
        if number in (0, 20, 40, steps - 1):
            if device.type == "cuda":
                torch.cuda.synchronize()
            print(f"step {number}: {time.time() - start:.1f} s", flush=True)
            times.append(time.time())
        if number == 40 and (expected := (times[2] - times[1]) / 20 * steps) > limit:
            raise SystemExit(f"it would take {expected:.0f} s, more than the limit of {limit:.0f} s")
    bad = [job for job, each in contestants.items() if not torch.isfinite(each.value)]
    print("not finite:", bad, flush=True)
    return contestants


def bundle(results: dict[Job, Contestant], out: Path, name: str, device: torch.device, weights: int) -> None:
    """Write predictions of all students, and the weights (float16) of those of the first seeds."""
    jobs = list(results)
    images = load(CELLS[jobs[0].cell].source)
    shown = on_device(images.validation if jobs[0].pilot else images.test, CELLS[jobs[0].cell].source, device)
    classes = {
        job: predictions(each.student, shown).cpu().numpy().astype(np.uint8) for job, each in results.items()
    }
    truth = shown.labels.cpu().numpy()
    for job in jobs:
        print(
            job.cell, job.condition, job.ratio, job.seed, f"{(classes[job] == truth).mean():.4f}", flush=True
        )
    arrays = {
        "jobs": np.array([f"{job.cell}|{job.condition}|{job.ratio!r}|{job.seed}" for job in jobs]),
        "predictions": np.stack([classes[job] for job in jobs]),
    }
    for place, job in enumerate(jobs):
        if job.seed < weights:
            for key, value in results[job].student.state_dict().items():
                arrays[f"{place}/{key}"] = value.detach().cpu().half().numpy()
        save(job, classes[job], {})
    np.savez_compressed(out / f"{re.sub(r'[^a-z0-9]+', '_', name)}.npz", **arrays)


def main() -> None:
    """Run pilots and cells in the order in which they are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("work", nargs="+", help="pilots:CELL or cells:CELL")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial")
    parser.add_argument("--only", help="one condition, for a trial")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds that training may take")
    parser.add_argument("--weights", type=int, default=5, help="weights are kept of the first seeds")
    options = parser.parse_args()
    device = torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    for work in options.work:
        part, name = work.split(":")
        jobs = pilots(name) if part == "pilots" else fits(name)
        if options.only:
            jobs = [job for job in jobs if job.condition == options.only]
        results = run(jobs, options.steps or CELLS[name].steps, device, options.limit)
        bundle(results, options.out, work, device, 0 if part == "pilots" else options.weights)
        if part == "pilots":
            write_choices()
        del results
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
