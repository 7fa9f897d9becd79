"""Does the geometry of human visual cortex get into a network, and what does it cost or give?

10,000 images of CIFAR-100 (20 coarse labels) are the task; RDMs of 92 objects in EVC and IT (fMRI of 15
people; Cichy, Pantazis & Oliva 2014) are the teachers. Ten people teach, five are held out; of the stimuli a
quarter is held out in each of 4 folds. Layer and schedule are chosen beforehand by `pilot`, for each fold and
ROI, on validation stimuli out of that fold's training ones, on the training subjects, on other images and
other seeds: nothing that a fold holds out is seen in any choice made for it.

Every step resumes: what is finished is not run again.

    export NEURORDL_DATA=...                              # the data folder
    python benchmarks/brain/study.py pilot --worker 1/2 & # 80 fits, in two processes
    python benchmarks/brain/study.py pilot --worker 2/2 && wait
    python benchmarks/brain/study.py choose               # -> results/choice.json, pilot.csv
    python benchmarks/brain/study.py run --worker 1/2 &   # 147 fits and 3 untrained students
    python benchmarks/brain/study.py run --worker 2/2 && wait
    python benchmarks/brain/study.py collect              # -> results/scores.csv, ceilings.csv, settings.json
    python benchmarks/brain/report.py                     # tables and the figure, from results/ alone
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn

import neurordl as nrl
from neurordl import datasets
from neurordl.experiments import run_grid
from neurordl.io import read_json, versions, write_json, write_text
from neurordl.rdms.selection import reindex, select_rdms

HERE = Path(__file__).parent
RUNS = HERE / "runs"  # not committed: one file per finished fit
RESULTS = HERE / "results"
ROIS, LAYERS = ("EVC", "IT"), ("conv1", "conv2", "conv3", "fc1")
FITTABLE, SCHEDULES = LAYERS[1:], ("constant", "decay", "ramp")
FOLDS, SEEDS, PILOT_SEEDS = 4, (0, 1, 2), (100, 101)
WEIGHTS = (0.1, 1.0, 3.0)
CONTROL_WEIGHT = 1.0
EPOCHS, IMAGES, VALIDATION_IMAGES = 8, 10_000, 2_000
METHOD = "rho-a"


@cache
def task(part: str) -> nrl.StimulusSet:
    """Images of the task: 10,000 for training, 2,000 others for validation, and the test set."""
    if part == "test":
        images = datasets.load_cifar100_stretched("test", labels="coarse")
        # Ten test images occur in the training set as well.
        train = {
            bytes(image.numpy().tobytes())
            for image in datasets.load_cifar100_stretched("train", labels="coarse").pixels
        }
        kept = [
            name
            for name, image in zip(images.ids, images.pixels, strict=True)
            if image.numpy().tobytes() not in train
        ]
        images = images.subset(kept)
    else:
        images = datasets.load_cifar100_stretched("train", labels="coarse", limit=IMAGES + VALIDATION_IMAGES)
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
    """The 92 objects on gray, at the size of the task's images and normalised as they are."""
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
        stimuli=train,  # for labels only, they set the length of an epoch
        epochs=EPOCHS,
        seed=seed,
        batches=nrl.Batches(128, 64, augment=flips_and_shifts),
        optimization=nrl.Optimization(lr=2e-3, batchnorm="labelled"),
        # half the time on a CPU that has it; RDMs are in float32 all the same
        execution=nrl.Execution(precision="bf16-mixed", progress=False),
    )


def teaching(condition: str, roi: str) -> dict[str, Any]:
    """Arguments of the teacher."""
    return {} if condition == "category" else {"subjects": people(roi)[0], "pool": "zscore"}


def similarities(student: nn.Module, shown: nrl.StimulusSet, subjects: int) -> dict[str, float]:
    """Similarity of each layer with each training (0) or held-out (1) subject, by 'roi|layer|subject'."""
    scores: dict[str, float] = {}
    for roi in ROIS:
        frame = nrl.evaluate(
            student,
            brain(roi),
            stimuli=shown,
            layers=list(LAYERS),
            comparison=METHOD,
            subjects=people(roi)[subjects],
        ).to_frame()
        for row in frame[frame["subject"] != "mean"].itertuples():
            scores[f"{roi}|{row.layer}|{row.subject}"] = float(row.score)
    return scores


def study_job(condition: str, roi: str, weight: float, fold_number: str, seed: int) -> dict[str, float]:
    """One fit, scored on the held-out stimuli and subjects of its fold (labels only: of each fold)."""
    numbers = range(FOLDS) if fold_number == "all" else [int(fold_number)]
    if condition == "untrained":
        student = new_student(seed).eval()
    else:
        chosen = (
            ("conv3", "constant") if roi == "none" else choice()[roi][fold_number].values()
        )  # labels only: unused
        student = fit(condition, roi, weight, fold(numbers[0])[0], seed, *chosen).student
    result = {"test_accuracy": nrl.accuracy(student, task("test"))}
    for number in numbers:
        scores = similarities(student, fold(number)[1], subjects=1)
        result |= {f"{number}|{key}": value for key, value in scores.items()}
    return result


def choice() -> dict[str, dict[str, dict[str, str]]]:
    """Layer and schedule by ROI and fold, as `choose` left them."""
    choices: dict[str, dict[str, dict[str, str]]] = read_json(RESULTS / "choice.json")
    return choices


@cache
def fingerprint() -> dict[str, Any]:
    """What must agree between rows: settings, code and versions."""
    digest = hashlib.sha256()
    package = Path(nrl.__file__).parent
    for file in [*sorted(package.rglob("*.py")), Path(__file__)]:
        digest.update(file.read_bytes())
    settings = {"epochs": EPOCHS, "images": IMAGES, "method": METHOD, "weights": WEIGHTS}
    return {**settings, "code_sha256": digest.hexdigest(), "versions": versions()}


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


def pilot_job(
    condition: str, roi: str, fold_number: str, layer: str, schedule: str, seed: int
) -> dict[str, float]:
    """One fit on a part of a fold's training stimuli, scored on the rest of them, the validation part."""
    train, validation = fold(int(fold_number))[0].split(held_out=0.25, seed=0, stratify="category")
    student = fit(condition, roi, 1.0, train, seed, layer, schedule).student
    scores = pd.Series(similarities(student, validation, subjects=0))
    mine = scores[[key.startswith(f"{roi}|{layer}|") for key in scores.index]]
    return {
        "validation_accuracy": nrl.accuracy(student, task("validation")),
        "validation_similarity": float(mine.mean()),
    }


def not_run(**job: Any) -> dict[str, float]:
    """In place of a job when results are gathered."""
    raise SystemExit(f"not finished: {job}; run the steps before this one first")


def pilot(
    roi: str, number: str, job: Callable[..., dict[str, float]] = pilot_job
) -> tuple[dict[str, str], pd.DataFrame]:
    """Choose the layer by similarity; then the schedule by accuracy, from 90 % of the best similarity."""

    def run(layers: Sequence[str], schedules: Sequence[str]) -> pd.DataFrame:
        jobs = [
            {
                "condition": "rdl",
                "roi": roi,
                "fold_number": number,
                "layer": layer,
                "schedule": schedule,
                "seed": seed,
            }
            for layer in layers
            for schedule in schedules
            for seed in PILOT_SEEDS
        ]
        return run_grid(jobs, job, RUNS / "pilot", fingerprint=fingerprint(), progress=job is pilot_job)

    layers = run(FITTABLE, SCHEDULES[:1])
    layer = str(layers.groupby("layer")["validation_similarity"].mean().idxmax())
    schedules = run([layer], SCHEDULES)
    means = schedules.groupby("schedule")[["validation_similarity", "validation_accuracy"]].mean()
    good = means[means["validation_similarity"] >= 0.9 * means["validation_similarity"].max()]
    chosen = {"layer": layer, "schedule": str(good["validation_accuracy"].idxmax())}
    return chosen, pd.concat([layers, schedules]).drop_duplicates()


def choose() -> None:
    """Gather the pilot: what was chosen for each ROI and fold, and the table it was chosen from."""
    choices: dict[str, dict[str, dict[str, str]]] = {roi: {} for roi in ROIS}
    frames = []
    for roi in ROIS:
        for number in map(str, range(FOLDS)):
            choices[roi][number], frame = pilot(roi, number, not_run)
            frames.append(frame)
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / "pilot.csv", pd.concat(frames).to_csv(index=False, float_format="%.4f"))
    write_json(RESULTS / "choice.json", choices)
    print(json.dumps(choices, indent=2))


def study(jobs: Sequence[dict[str, Any]], job: Callable[..., dict[str, float]] = study_job) -> pd.DataFrame:
    """Rows of the study."""
    settings = {"choice": choice(), **fingerprint()}
    return run_grid(jobs, job, RUNS / "study", fingerprint=settings, progress=job is study_job)


def collect() -> None:
    """Gather the study into results/: a row for each fit, fold, layer and held-out person; the ceilings."""
    rows: list[dict[str, Any]] = []
    for done in study(study_jobs(), not_run).to_dict("records"):
        name = f"rdl {done['weight']:g}" if done["condition"] == "rdl" else str(done["condition"])
        for roi in ROIS if done["roi"] == "none" else [done["roi"]]:
            for number in map(str, range(FOLDS)) if done["fold_number"] == "all" else [done["fold_number"]]:
                at = {"condition": name, "roi": roi, "fold": number, "seed": done["seed"]}
                for layer in LAYERS:
                    fitted = layer == choice()[roi][number]["layer"]
                    for person in people(roi)[1]:
                        score = done[f"{number}|{roi}|{layer}|{person}"]
                        where = {"layer": layer, "fitted_layer": fitted, "subject": person}
                        rows.append({**at, **where, "similarity": score, "accuracy": done["test_accuracy"]})
    write_text(RESULTS / "scores.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.5f"))
    bounds = pd.DataFrame([{"roi": roi, **ceilings(roi)} for roi in ROIS])
    write_text(RESULTS / "ceilings.csv", bounds.to_csv(index=False, float_format="%.5f"))
    subjects = {roi: dict(zip(("training", "held_out"), people(roi), strict=True)) for roi in ROIS}
    more = {"seeds": SEEDS, "pilot_seeds": PILOT_SEEDS, "folds": FOLDS, "subjects": subjects}
    write_json(RESULTS / "settings.json", {**fingerprint(), **more, "choice": choice()})


def ceilings(roi: str) -> dict[str, float]:
    """Bounds of the held-out subjects, mean over folds; and what the training subjects' RDM reaches."""
    train, held_out = people(roi)
    bounds = []
    for number in range(FOLDS):
        ids = fold(number)[1].ids
        shown = cut(select_rdms(brain(roi), subjects=held_out), ids)
        vectors = reindex(select_rdms(brain(roi), subjects=train), ids)
        pooled = (vectors - vectors.mean(1, keepdims=True)) / vectors.std(1, keepdims=True)
        teacher = nrl.compare(cut(shown, ids, pooled.mean(0, keepdims=True)), shown, METHOD).mean()
        bounds.append([*nrl.noise_ceiling(shown, METHOD), float(teacher)])
    names = ("ceiling_lower", "ceiling_upper", "training_subjects")
    return dict(zip(names, np.mean(bounds, axis=0).tolist(), strict=True))


def cut(rdms: RDMs, ids: Sequence[str], vectors: np.ndarray[Any, Any] | None = None) -> RDMs:
    """RDMs of these stimuli, or other vectors in their place."""
    return RDMs(
        reindex(rdms, ids) if vectors is None else vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": list(rdms.rdm_descriptors["subject"])} if vectors is None else None,
        pattern_descriptors={"stimulus": list(ids)},
    )


def main() -> None:
    """Take one step of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["pilot", "choose", "run", "collect"])
    parser.add_argument("--worker", default="1/1", help="this process's share of pilot or run, as in 1/2")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    number, workers = map(int, arguments.worker.split("/"))
    share = slice(number - 1, None, workers)
    if arguments.step == "pilot":
        for roi, place in [(roi, str(place)) for place in range(FOLDS) for roi in ROIS][share]:
            pilot(roi, place)
    elif arguments.step == "run":
        study(study_jobs()[share])
    else:
        {"choose": choose, "collect": collect}[arguments.step]()


if __name__ == "__main__":
    main()
