"""Representational distance learning beside the other ways to transfer knowledge: MNIST and CIFAR-100.

A teacher network of the study (see teachers.py) is known to have seen all training images but the validation
images. A student of another architecture gets labels for some images and sees others without labels, for
which the teacher's features are known. Each condition (conditions.py) has the same steps, batches,
augmentation and initial weights; its weight is chosen among five by the accuracy on validation images, in
pilots with other seeds. The weights of the last step are tested; nothing else is selected.

    python benchmarks/transfer/study.py --quick            # a small honest version, 4 min on two cores
    python benchmarks/transfer/study.py pilots --workers 2 # finished fits are kept
    python benchmarks/transfer/study.py cells --workers 2
    python benchmarks/transfer/study.py report             # tables and figures from finished fits
    python benchmarks/transfer/on_gpu.py OUT               # pilots and cells on a GPU, side by side
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from conditions import (
    CELLS,
    CONDITIONS,
    EQUAL_PARTS,
    PAIRS,
    SCHEDULES,
    TEACHER_LAYERS,
    WEIGHT_OF,
    Cell,
    weights,
)
from rich.progress import track
from setting import RESULTS, RUNS, SOURCES, load, trained_network
from torch import Tensor, nn

import neurordl as nrl
from neurordl.experiments import paired_differences
from neurordl.io import read_json, write_json

LABELLED = 64
"""Labelled images in a batch."""

LR = 2e-3
PILOT_SEEDS = (1000, 1001)
CHOICES = RESULTS / "choices.json"


@dataclass(frozen=True)
class Job:
    """A fit: a cell, a condition, the ratio of its weight, and a seed."""

    cell: str
    condition: str
    ratio: float
    seed: int

    @property
    def pilot(self) -> bool:
        """Whether it is tested by validation images."""
        return self.seed >= PILOT_SEEDS[0]

    @property
    def file(self) -> Path:
        """Where its result is."""
        name = re.sub(r"\W+", "-", f"{self.condition}_{self.ratio:g}_{self.seed}")
        return RUNS / re.sub(r"\W+", "-", self.cell) / f"{name}.npz"


def parts(cell: Cell, seed: int) -> tuple[nrl.StimulusSet, nrl.StimulusSet]:
    """The labelled images and the stimuli of a seed. With few labels no image is both."""
    return _parts(cell.source, cell.labels, cell.stimuli, seed)


@cache
def _parts(
    source: str, labels: int | None, n_stimuli: int, seed: int
) -> tuple[nrl.StimulusSet, nrl.StimulusSet]:
    train = load(source).train
    if labels is None:
        return train, train.draw(n_stimuli, seed)
    labelled = train.draw(labels * SOURCES[source].classes, seed)
    known = set(labelled.ids)
    others = train.subset([name for name in train.ids if name not in known])
    return labelled, others.draw(n_stimuli, seed)


def make_teacher(source: str, stimuli: nrl.StimulusSet) -> nrl.NetworkTeacher:
    """The teacher, whose features of the stimuli are computed once."""
    return nrl.NetworkTeacher(trained_network(source), TEACHER_LAYERS, cache=stimuli)


def teacher_of(
    condition: str, teacher: nrl.NetworkTeacher, stimuli: nrl.StimulusSet, seed: int
) -> nrl.NetworkTeacher:
    """The teacher of a condition: for controls, with the features of other stimuli."""
    if "permuted" not in condition:
        return teacher
    within = None
    if "within" in condition:
        assert stimuli.labels is not None
        within = dict(zip(stimuli.ids, stimuli.labels.tolist(), strict=True))
    return teacher.permuted(stimuli.ids, seed, within)


def make_losses(
    cell: str, condition: str, ratio: float, teacher: nrl.NetworkTeacher, ids: Sequence[str]
) -> list[nrl.TransferLoss]:
    """The losses of a condition, with the weights that a ratio gives them."""
    made = CONDITIONS[condition](teacher, PAIRS[CELLS[cell].student], ids)
    losses, shares = [loss for loss, _ in made], [share for _, share in made]
    if losses:
        first = first_values(cell, WEIGHT_OF.get(condition, condition))
        chosen = weights(shares, first["losses"], first["task"], ratio, condition in EQUAL_PARTS)
        schedule, steps = SCHEDULES.get(condition), CELLS[cell].steps
        for loss, weight in zip(losses, chosen, strict=True):
            loss.weight = weight
            if schedule is not None:
                loss.weight = partial(_scheduled, weight, schedule, steps)
    return losses


def _scheduled(weight: float, schedule: Callable[[float], float], steps: int, step: int) -> float:
    return weight * schedule(step / steps)


@cache
def first_values(cell: str, condition: str) -> dict[str, Any]:
    """The task loss and the transfer losses before the first step, for a seed of the pilots."""
    spec, source = CELLS[cell], SOURCES[CELLS[cell].source]
    labelled, stimuli = parts(spec, PILOT_SEEDS[0])
    shown = stimuli.draw(max(spec.batch, source.classes), 0)
    torch.manual_seed(PILOT_SEEDS[0])
    student = spec.new_student(source.classes, source.channels)
    teacher = make_teacher(spec.source, shown)
    losses = [loss for loss, _ in CONDITIONS[condition](teacher, PAIRS[spec.student], shown.ids)]
    rows = torch.linspace(0, len(labelled) - 1, LABELLED).long()
    assert labelled.labels is not None
    objective = nrl.Objective(losses)
    with torch.no_grad():
        batch = (labelled.images(rows), labelled.labels[rows])
        terms = objective(student, batch, (shown.images(), list(shown.ids)))[1]
    return {"task": float(terms.pop("task")), "losses": [float(value) for value in terms.values()]}


def augmentation(source: str) -> Any:
    """Shift each image at random, and mirror half of them; black comes in from the border."""
    setting = SOURCES[source]
    black = -torch.tensor(setting.mean).view(-1, 1, 1) / torch.tensor(setting.std).view(-1, 1, 1)
    pad = setting.pad

    def augment(images: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        padded = nn.functional.pad(images - black, (pad, pad, pad, pad)) + black
        top, start = torch.randint(2 * pad + 1, (2, n, 1))
        y, x = top + torch.arange(height), torch.arange(width).expand(n, width)
        if setting.mirror:
            x = torch.where(torch.rand(n, 1) < 0.5, width - 1 - x, x)
        rows = torch.arange(n)[:, None, None, None]
        maps = torch.arange(channels)[:, None, None]
        return padded[rows, maps, y[:, None, :, None], (start + x)[:, None, None, :]]

    return augment


@cache
def _shared(cell: str, seed: int) -> tuple[nrl.StimulusSet, nrl.StimulusSet, nrl.NetworkTeacher]:
    """What all conditions of a cell and a seed have in common."""
    labelled, stimuli = parts(CELLS[cell], seed)
    return labelled, stimuli, make_teacher(CELLS[cell].source, stimuli)


def new_student(cell: str, seed: int) -> nn.Module:
    """The student of a cell with the initial weights of a seed."""
    source = SOURCES[CELLS[cell].source]
    torch.manual_seed(seed)
    return CELLS[cell].new_student(source.classes, source.channels)


def run(job: Job) -> None:
    """Fit a student by `neurordl.fit` and keep what it says of the test images, and its weights."""
    if job.file.exists():
        return
    cell = CELLS[job.cell]
    labelled, stimuli, teacher = _shared(job.cell, job.seed)
    taught = teacher_of(job.condition, teacher, stimuli, job.seed)
    student = new_student(job.cell, job.seed).to(memory_format=torch.channels_last)  # faster on a CPU
    torch.manual_seed(job.seed)  # losses with parameters
    losses = make_losses(job.cell, job.condition, job.ratio, taught, stimuli.ids)
    # that the control sees labelled images only is meant
    warnings.filterwarnings("ignore", "stimuli: no transfer loss reads stimuli")
    nrl.fit(
        student,
        nrl.Objective(losses),
        labelled,
        stimuli,
        epochs=20,
        seed=job.seed,
        batches=nrl.Batches(
            LABELLED, cell.batch, augmentation(cell.source), steps_per_epoch=cell.steps // 20
        ),
        optimization=nrl.Optimization(lr=LR),
        execution=nrl.Execution(accelerator="cpu", progress=False),
    )
    images = load(cell.source).validation if job.pilot else load(cell.source).test
    save(job, classes_of(student, images), student.state_dict())


@torch.no_grad()
def classes_of(student: nn.Module, images: nrl.StimulusSet) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The class of the largest output for each image."""
    student.eval()
    outputs = [
        student(images.images(slice(start, start + 500))).argmax(1) for start in range(0, len(images), 500)
    ]
    return torch.cat(outputs).numpy().astype(np.uint8)


def save(job: Job, predictions: Any, state: Mapping[str, Tensor]) -> None:
    """Write a result aside, then in its place."""
    job.file.parent.mkdir(parents=True, exist_ok=True)
    beside = job.file.with_suffix(".part.npz")
    arrays = {f"weights/{key}": value.cpu().numpy() for key, value in state.items()}
    np.savez(beside, predictions=predictions, **arrays)
    beside.replace(job.file)


def score(job: Job) -> float:
    """The accuracy of a finished fit."""
    images = load(CELLS[job.cell].source)
    labels = (images.validation if job.pilot else images.test).labels
    assert labels is not None
    with np.load(job.file) as result:
        return float((result["predictions"] == labels.numpy()).mean())


def pilots(cell: str) -> list[Job]:
    """The candidates of each condition's weight, on other seeds."""
    tried = [name for name in CELLS[cell].conditions if name not in WEIGHT_OF and name != "labels"]
    ratios = CELLS[cell].ratios
    return [Job(cell, name, ratio, seed) for seed in PILOT_SEEDS for name in tried for ratio in ratios]


def choose(cell: str) -> dict[str, Any]:
    """The ratio of each condition: the best of its pilots; the first values make it a weight."""
    scores: dict[str, dict[float, list[float]]] = {}
    for job in pilots(cell):
        if not job.file.exists():
            continue
        scores.setdefault(job.condition, {}).setdefault(job.ratio, []).append(score(job))
    choices = {}
    for condition, values in scores.items():
        means = {ratio: float(np.mean(each)) for ratio, each in values.items()}
        best = max(means, key=lambda ratio: means[ratio])
        choices[condition] = {
            "ratio": best,
            "first values": first_values(cell, condition),
            "validation accuracy": {f"{ratio:g}": round(mean, 4) for ratio, mean in means.items()},
        }
    return choices


def chosen_ratio(source: str, condition: str) -> float:
    """The ratio that the pilots of a data set chose; 0 without transfer losses."""
    if condition == "labels":
        return 0.0
    return float(read_json(CHOICES)[source][WEIGHT_OF.get(condition, condition)]["ratio"])


def fits(name: str) -> list[Job]:
    """The fits of a cell, seed by seed."""
    cell = CELLS[name]
    return [
        Job(name, condition, chosen_ratio(cell.source, condition), seed)
        for seed in range(cell.seeds)
        for condition in cell.conditions
    ]


def write_choices() -> None:
    """Keep the choices of the data sets whose pilots are finished."""
    done = [name for name in ("mnist", "cifar100") if all(job.file.exists() for job in pilots(name))]
    write_json(CHOICES, {name: choose(name) for name in done})


def unpack(bundle: Path) -> int:
    """Write each result of a bundle of `on_gpu.py` in its place; the number of results."""
    with np.load(bundle) as arrays:
        for place, text in enumerate(arrays["jobs"]):
            cell, condition, ratio, seed = str(text).split("|")
            own = f"{place}/"
            state = {
                key.removeprefix(own): torch.from_numpy(arrays[key]).float()
                for key in arrays.files
                if key.startswith(own)
            }
            save(Job(cell, condition, float(ratio), int(seed)), arrays["predictions"][place], state)
        return len(arrays["jobs"])


def run_all(jobs: Sequence[Job], workers: int) -> None:
    """Run the fits that are not finished, in processes of one thread."""
    missing = [job for job in jobs if not job.file.exists()]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} fits are finished")
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in track(pool.map(run, missing), "fits", total=len(missing)):
            pass


QUICK = ("labels", "RDL", "soft targets", "RDL + soft targets", "RDL, permuted")


def quick(workers: int, seeds: int = 3) -> pd.DataFrame:
    """A small version: MNIST with 10 labels a class and 2,000 other images, 300 steps, on test images."""
    CELLS["quick"] = replace(CELLS["mnist"], stimuli=2_000, steps=300, seeds=seeds, conditions=QUICK)
    start, jobs = time.time(), fits("quick")
    finished = sum(job.file.exists() for job in jobs)
    with ProcessPoolExecutor(workers, initializer=_quick_worker, initargs=(CELLS["quick"],)) as pool:
        list(track(pool.map(run, jobs), "fits", total=len(jobs)))
    rows = pd.DataFrame(
        [{"condition": job.condition, "seed": job.seed, "accuracy": score(job)} for job in jobs]
    )
    print(f"{len(jobs) - finished} fits in {time.time() - start:.0f} s; {finished} were finished before")
    return rows


def _quick_worker(cell: Cell) -> None:
    torch.set_num_threads(1)
    CELLS["quick"] = cell


def main() -> None:
    """Run a part of the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["pilots", "cells", "report", "import"])
    parser.add_argument("bundles", nargs="*", type=Path, help="files of on_gpu.py, for import")
    parser.add_argument("--cell", choices=list(CELLS), action="append", help="only these cells")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (2)")
    parser.add_argument("--quick", action="store_true", help="a small version in minutes")
    options = parser.parse_args()
    names = options.cell or list(CELLS)
    if options.quick:
        rows = quick(options.workers)
        print(rows.groupby("condition", sort=False)["accuracy"].agg(["mean", "std"]).round(4))
        print(paired_differences(rows, "accuracy", reference="labels"))
    elif options.part == "pilots":
        run_all(
            [job for name in names if options.cell or name in SOURCES for job in pilots(name)],
            options.workers,
        )
        write_choices()
    elif options.part == "cells":
        run_all([job for name in names for job in fits(name)], options.workers)
    elif options.part == "import":
        print(sum(map(unpack, options.bundles)), "results")
        write_choices()
    elif options.part == "report":
        from report import main as report

        report()
    else:
        parser.error("name a part, or --quick")


if __name__ == "__main__":
    main()
