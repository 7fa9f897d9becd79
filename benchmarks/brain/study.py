"""Does the geometry of human visual cortex get into a network, and what does it cost or give?

10,000 images of CIFAR-100 (20 coarse labels) are the task; RDMs of 92 objects in EVC and IT (fMRI of 15
people; Cichy, Pantazis & Oliva 2014) are the teachers. Ten people teach, five are held out; of the stimuli a
quarter is held out in each of 4 folds. Layer and schedule are chosen beforehand by `pilot`, on validation
stimuli out of the training ones of fold 0, on the training subjects, on other images and other seeds.

Every step resumes: what is finished is not run again.

    export NEURORDL_DATA=...                              # the data folder
    python benchmarks/brain/study.py pilot                # choose layer and schedule -> results/choice.json
    python benchmarks/brain/study.py run --worker 1/2 &   # the study, in two processes
    python benchmarks/brain/study.py run --worker 2/2 && wait
    python benchmarks/brain/report.py                     # tables and the figure -> results/
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn

import neurordl as nrl
from neurordl import datasets
from neurordl.artifacts import read_json, write_json
from neurordl.experiments import run_grid

HERE = Path(__file__).parent
RUNS = HERE / "runs"  # not committed: one file per finished fit
RESULTS = HERE / "results"
ROIS, LAYERS = ("EVC", "IT"), ("conv1", "conv2", "conv3", "fc1")
FOLDS, SEEDS, PILOT_SEEDS = 4, (0, 1, 2), (100, 101)
WEIGHTS = (0.1, 1.0, 3.0)
CONTROL_WEIGHT = 1.0
EPOCHS, IMAGES, VALIDATION_IMAGES = 8, 10_000, 2_000
METHOD = "rho-a"


@cache
def task(part: str) -> nrl.StimulusSet:
    """Images of the task: 10,000 for training, 2,000 others for validation, and the test set."""
    if part == "test":
        images = datasets.load_cifar100("test", labels="coarse")
        # Ten test images occur in the training set as well.
        train = {
            bytes(one.numpy().tobytes()) for one in datasets.load_cifar100("train", labels="coarse").pixels
        }
        kept = [
            name
            for name, one in zip(images.ids, images.pixels, strict=True)
            if one.numpy().tobytes() not in train
        ]
        images = images.subset(kept)
    else:
        images = datasets.load_cifar100("train", labels="coarse", limit=IMAGES + VALIDATION_IMAGES)
        images = images.subset(images.ids[:IMAGES] if part == "train" else images.ids[IMAGES:])
    return normalised(images)


def normalised(images: nrl.StimulusSet) -> nrl.StimulusSet:
    """The same images with CIFAR-100's mean and standard deviation."""
    pixels = images.pixels.permute(0, 2, 3, 1).numpy()
    mean, std = datasets.CIFAR100_MEAN, datasets.CIFAR100_STD
    return nrl.StimulusSet.from_array(
        pixels, images.ids, labels=images.labels, mean=mean, std=std, source=images.source
    )


@cache
def stimuli() -> nrl.StimulusSet:
    """The 92 objects on grey, at the size of the task's images and normalised as they are."""
    shown = datasets.load_images92(size=32)
    pixels = shown.pixels.permute(0, 2, 3, 1).numpy()
    return nrl.StimulusSet.from_array(
        pixels,
        shown.ids,
        table=shown.table,
        mean=datasets.CIFAR100_MEAN,
        std=datasets.CIFAR100_STD,
        source=shown.source,
    )


@cache
def fold(number: int) -> tuple[nrl.StimulusSet, nrl.StimulusSet]:
    """Training and held-out stimuli, each category held out in proportion."""
    return stimuli().folds(FOLDS, seed=0, stratify="category")[number]


@cache
def brain(roi: str) -> RDMs:
    """RDMs of 15 people."""
    return datasets.load_images92_rdms("cichy_it" if roi == "IT" else "cichy_evc")


def people(roi: str) -> tuple[list[str], list[str]]:
    """Training subjects and held-out subjects (every third)."""
    names = [str(name) for name in brain(roi).rdm_descriptors["subject"]]
    return [name for place, name in enumerate(names) if place % 3 != 2], names[2::3]


def category_rdm() -> RDMs:
    """0 within a category, 1 between."""
    table = stimuli().table["category"]
    values = table.to_numpy()
    same = values[:, None] == values[None]
    return RDMs(
        (~same).astype(float)[None],
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": ["category"]},
        pattern_descriptors={"stimulus": list(table.index)},
    )


def new_student(seed: int) -> nn.Module:
    """The same initial weights for each condition of a seed."""
    torch.manual_seed(seed)
    student = nrl.students.build("small_cnn", num_classes=20, in_channels=3, width=16)
    return student.to(memory_format=torch.channels_last)  # twice as fast on a CPU


def flips_and_shifts(images: Tensor) -> Tensor:
    """Each image mirrored or not, and moved by up to 2 pixels."""
    mirrored = torch.rand(len(images)) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    down, right = (int(number) for number in torch.randint(-2, 3, (2,)))
    return images.roll((down, right), dims=(-2, -1))


def scheduled(weight: float, schedule: str, total: int) -> float | Callable[[int], float]:
    """Weight of the RDM loss at each step; each schedule has the same mean weight."""
    if schedule == "constant":
        return weight
    if schedule == "decay":
        return lambda step: weight * (1 + math.cos(math.pi * step / total))
    if schedule == "ramp":
        return lambda step: weight * 2 * step / total
    raise ValueError(schedule)


def fit(
    condition: str, roi: str, weight: float, train: nrl.StimulusSet, seed: int, layer: str, schedule: str
) -> nrl.Run:
    """One student under one condition."""
    losses = []
    if condition != "labels":
        teacher = nrl.RDMTeacher(
            category_rdm() if condition == "category" else brain(roi), **teaching(condition, roi)
        )
        if condition == "permuted":
            teacher = teacher.permuted(train.ids, seed)
        elif condition == "permuted within category":
            teacher = teacher.permuted(train.ids, seed, within=train.table["category"].to_dict())
        total = EPOCHS * (IMAGES // 128)
        losses = [nrl.RDMLoss(teacher, layer=layer, weight=scheduled(weight, schedule, total))]
    return nrl.fit(
        new_student(seed),
        nrl.Objective(losses),
        labelled=task("train"),
        stimuli=train if losses else None,
        epochs=EPOCHS,
        seed=seed,
        batch_size=128,
        stimuli_batch=64,
        lr=2e-3,
        precision="bf16-mixed",  # half the time on a CPU that has it; RDMs are in float32 all the same
        augment=flips_and_shifts,
        progress=False,
    )


def teaching(condition: str, roi: str) -> dict[str, Any]:
    """Arguments of the teacher."""
    return {} if condition == "category" else {"subjects": people(roi)[0], "pool": "zscore"}


def similarities(student: nn.Module, shown: nrl.StimulusSet, subjects: int) -> dict[str, float]:
    """Similarity of each layer with each training (0) or held-out (1) subject, by 'roi|layer|subject'."""
    found: dict[str, float] = {}
    for roi in ROIS:
        frame = nrl.evaluate(
            student,
            brain(roi),
            stimuli=shown,
            layers=list(LAYERS),
            method=METHOD,
            subjects=people(roi)[subjects],
        ).to_frame()
        for row in frame[frame["subject"] != "mean"].itertuples():
            found[f"{roi}|{row.layer}|{row.subject}"] = float(row.score)
    return found


def study_job(condition: str, roi: str, weight: float, fold_number: str, seed: int) -> dict[str, float]:
    """One fit, scored on the held-out stimuli and subjects of its fold (labels only: of each fold)."""
    numbers = range(FOLDS) if fold_number == "all" else [int(fold_number)]
    if condition == "untrained":
        student = new_student(seed).eval()
    else:
        choice = read_json(RESULTS / "choice.json").get(roi, {"layer": "conv3", "schedule": "constant"})
        student = fit(
            condition, roi, weight, fold(numbers[0])[0], seed, choice["layer"], choice["schedule"]
        ).student
    result = {"test_accuracy": nrl.accuracy(student, task("test"))}
    for number in numbers:
        scores = similarities(student, fold(number)[1], subjects=1)
        result |= {f"{number}|{key}": value for key, value in scores.items()}
    return result


def fingerprint() -> dict[str, Any]:
    """What must agree between rows, besides the code."""
    choice = read_json(RESULTS / "choice.json")
    return {"choice": choice, "epochs": EPOCHS, "images": IMAGES, "method": METHOD}


def study_jobs() -> list[dict[str, Any]]:
    """All fits of the study."""
    jobs: list[dict[str, Any]] = []
    for seed in SEEDS:
        for condition in ("untrained", "labels"):
            jobs.append(
                {"condition": condition, "roi": "none", "weight": 0.0, "fold_number": "all", "seed": seed}
            )
        for number in map(str, range(FOLDS)):
            for roi in ROIS:
                at = {"roi": roi, "fold_number": number, "seed": seed}
                jobs += [{"condition": "rdl", "weight": weight, **at} for weight in WEIGHTS]
                for condition in ("permuted", "permuted within category", "category"):
                    jobs.append({"condition": condition, "weight": CONTROL_WEIGHT, **at})
    return jobs


def pilot_job(condition: str, roi: str, layer: str, schedule: str, seed: int) -> dict[str, float]:
    """One fit on the training part of fold 0's training stimuli, scored on their validation part."""
    train, validation = fold(0)[0].split(held_out=0.25, seed=0, stratify="category")
    student = fit(condition, roi, 1.0, train, seed, layer, schedule).student
    scores = pd.Series(similarities(student, validation, subjects=0))
    mine = scores[[key.startswith(f"{roi}|{layer}|") for key in scores.index]]
    return {
        "validation_accuracy": nrl.accuracy(student, task("validation")),
        "validation_similarity": float(mine.mean()),
    }


def pilot(rois: Sequence[str]) -> None:
    """Choose the layer by similarity; then the schedule by accuracy, from 90 % of the best similarity."""
    settings = {"epochs": EPOCHS, "images": IMAGES, "method": METHOD}
    choice: dict[str, Any] = {}
    frames = []
    for roi in rois:
        jobs = [
            _pilot(roi, layer, "constant", seed)
            for layer in ("conv2", "conv3", "fc1")
            for seed in PILOT_SEEDS
        ]
        layers = run_grid(jobs, pilot_job, RUNS / "pilot", fingerprint=settings, progress=True)
        layer = str(layers.groupby("layer")["validation_similarity"].mean().idxmax())
        jobs = [
            _pilot(roi, layer, name, seed) for name in ("constant", "decay", "ramp") for seed in PILOT_SEEDS
        ]
        schedules = run_grid(jobs, pilot_job, RUNS / "pilot", fingerprint=settings, progress=True)
        means = schedules.groupby("schedule")[["validation_similarity", "validation_accuracy"]].mean()
        good = means[means["validation_similarity"] >= 0.9 * means["validation_similarity"].max()]
        choice[roi] = {"layer": layer, "schedule": str(good["validation_accuracy"].idxmax())}
        frames += [layers, schedules]
    if len(rois) < len(ROIS):
        return
    RESULTS.mkdir(exist_ok=True)
    pd.concat(frames).drop_duplicates().to_csv(RESULTS / "pilot.csv", index=False, float_format="%.4f")
    write_json(RESULTS / "choice.json", choice)
    print(json.dumps(choice, indent=2))


def _pilot(roi: str, layer: str, schedule: str, seed: int) -> dict[str, Any]:
    return {"condition": "rdl", "roi": roi, "layer": layer, "schedule": schedule, "seed": seed}


def main() -> None:
    """Run the pilot, or a worker's share of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["pilot", "run"])
    parser.add_argument("--worker", default="1/1", help="this process's share, as in 1/2")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    number, workers = map(int, arguments.worker.split("/"))
    if arguments.step == "pilot":
        pilot(ROIS[number - 1 :: workers])
        return
    jobs = study_jobs()[number - 1 :: workers]
    run_grid(jobs, study_job, RUNS / "study", fingerprint=fingerprint(), progress=True)


if __name__ == "__main__":
    main()
