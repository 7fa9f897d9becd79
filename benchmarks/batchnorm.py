"""Which images should set the statistics of batch norm? Students with batch norm under four choices.

Two streams of images pass a student in each step: labelled images and the teacher's stimuli. Under "labelled"
and "stimuli" the batches of that stream set the statistics, and the other stream is normalized by the running
ones; under "both" each stream is normalized by its own batch; under "joint" they pass as one batch. Teachers:
a network on MNIST (100 labels, 1,000 unlabelled images), and the IT and EVC of 10 people (fMRI RDMs of the
92-image set, a quarter of the stimuli and 5 people held out) beside CIFAR-100's 20 coarse labels. Students: a
shallow and a deep network. Conditions are paired by seed: initial weights and images.

    python benchmarks/batchnorm.py --workers 2     # finished fits are kept in benchmarks/results/batchnorm
    python benchmarks/batchnorm.py --report        # the table only
    python benchmarks/batchnorm.py --controls      # the same fits without losses, and with losses of weight 0
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

import neurordl as nrl
from neurordl import datasets
from neurordl.experiments import run_grid
from neurordl.io import write_text

RUNS = Path(__file__).parent / "runs" / "batchnorm"
RESULTS = Path(__file__).parent / "results"
MODES = ("labelled", "stimuli", "both", "joint")
CONTROLS = ("labels, no stimuli=", "labels", "weight 0")
TEACHERS = ("network", "network, soft targets", "EVC", "IT")
STUDENTS = ("shallow", "deep")
SEEDS = (0, 1, 2)
STEPS = 300
QUIET = nrl.Execution(progress=False)


def new_student(student: str, seed: int, classes: int, channels: int) -> nn.Module:
    """The same initial weights for each condition of a seed."""
    torch.manual_seed(seed)
    if student == "shallow":
        return nrl.students.small_cnn(classes, channels, width=16, batchnorm=True)
    return nrl.students.resnet18(classes, channels, width=8)


@cache
def mnist() -> tuple[nrl.StimulusSet, nrl.StimulusSet, nrl.StimulusSet, nn.Module]:
    """100 labelled and 1,000 other images, 2,000 test images, and the teacher, which knows 5,000 labels."""
    images = datasets.load_mnist("train", limit=10_000)
    torch.manual_seed(1000)
    network = nrl.students.small_cnn(10, 1, batchnorm=True)
    nrl.fit(network, nrl.Objective(), images.subset(images.ids[:5000]), None, 8, seed=1000, execution=QUIET)
    rest = images.subset(images.ids[5000:])
    labelled = rest.draw(100, seed=0)
    unlabelled = rest.subset([name for name in rest.ids if name not in set(labelled.ids)][:1000])
    return labelled, unlabelled, datasets.load_mnist("test", limit=2000), network


def fit_mnist(teacher: str, student: str, mode: str, seed: int) -> dict[str, float]:
    """Accuracy on test images, and the similarity of the RDM of 500 of them with the teacher's."""
    labelled, unlabelled, test, network = mnist()
    layers = {"shallow": "fc1", "deep": "avgpool"}
    taught = nrl.NetworkTeacher(network, layers="fc1")
    losses: list[Any] = [nrl.RDMLoss(taught["fc1"], layers[student], comparison="mse", weight=10.0)]
    if "soft" in teacher:
        losses.append(nrl.SoftTargetLoss(taught))
    network_student = new_student(student, seed, 10, 1)
    _fit(network_student, losses, mode, labelled, unlabelled, seed, nrl.Batches(labelled=50, stimuli=50))
    shown = test.subset(test.ids[:500])
    rdms = [
        nrl.compute_rdms(nrl.extract_patterns(model, shown, layer)[layer], "correlation")
        for model, layer in ((network_student, layers[student]), (network, "fc1"))
    ]
    return {
        "accuracy": nrl.accuracy(network_student, test),
        "similarity": float(nrl.compare(*rdms, "rho-a").mean()),
    }


def fit_brain(roi: str, student: str, mode: str, seed: int) -> dict[str, float]:
    """Accuracy on test images, and the similarity of held-out stimuli's RDM with held-out people's."""
    images = datasets.load_cifar100_stretched("train", labels="coarse", limit=6000)
    test = datasets.load_cifar100_stretched("test", labels="coarse", limit=2000)
    shown, held_out = datasets.load_images92(size=32).folds(4, seed=0, stratify="category")[seed % 4]
    rdms = datasets.load_images92_rdms("cichy_it" if roi == "IT" else "cichy_evc")
    people = [str(name) for name in rdms.rdm_descriptors["subject"]]
    layer = {"shallow": "conv3", "deep": "layer3"}[student]
    teacher = nrl.RDMTeacher(nrl.select_rdms(rdms, subjects=[p for k, p in enumerate(people) if k % 3 != 2]))
    network = new_student(student, seed, 20, 3)
    losses = [nrl.RDMLoss(teacher, layer=layer, weight=1.0)]
    _fit(network, losses, mode, images, shown, seed, nrl.Batches(labelled=64, stimuli=69))
    scores = nrl.evaluate(
        network, rdms, stimuli=held_out, layers=[layer], comparison="rho-a", subjects=people[2::3]
    ).to_frame()
    similarity = scores.loc[scores["subject"] == "mean", "score"].iloc[0]
    return {"accuracy": nrl.accuracy(network, test), "similarity": float(similarity)}


def _fit(
    student: nn.Module,
    losses: list[Any],
    mode: str,
    labelled: nrl.StimulusSet,
    stimuli: nrl.StimulusSet,
    seed: int,
    batches: nrl.Batches,
) -> None:
    epochs = round(STEPS / max(len(labelled) // batches.labelled, len(stimuli) // batches.stimuli))
    for loss in losses:
        loss.weight = 0.0 if mode == "weight 0" else loss.weight
    optimization = nrl.Optimization(lr=2e-3, batchnorm=mode if mode in MODES else None)
    nrl.fit(
        student,
        nrl.Objective([] if mode.startswith("labels") else losses),
        labelled,
        None if mode == "labels, no stimuli=" else stimuli,
        epochs,
        seed=seed,
        batches=batches,
        optimization=optimization,
        execution=QUIET,
    )


def job(teacher: str, student: str, mode: str, seed: int) -> dict[str, float]:
    """One fit."""
    function = fit_mnist if teacher.startswith("network") else fit_brain
    return function(teacher, student, mode, seed)


def jobs(controls: bool) -> list[dict[str, Any]]:
    """All fits, seed by seed, so that a study that is cut short is balanced."""
    teachers, modes = (("network", "IT"), CONTROLS) if controls else (TEACHERS, MODES)
    return [
        {"teacher": teacher, "student": student, "mode": mode, "seed": seed}
        for seed, teacher, student, mode in product(SEEDS, teachers, STUDENTS, modes)
    ]


def part(number: int, workers: int, controls: bool) -> None:
    """Every ``workers``-th fit."""
    torch.set_num_threads(1)
    mine = jobs(controls)[number::workers]
    run_grid(mine, job, RUNS, fingerprint={"steps": STEPS}, progress=number == 0)


def report(controls: bool) -> None:
    """Gather the fits: mean over seeds, and paired differences from the first mode with their error."""
    modes = CONTROLS[::-1] if controls else MODES
    rows = run_grid(jobs(controls), job, RUNS, fingerprint={"steps": STEPS}, progress=False)
    name = "labels_only.csv" if controls else "batchnorm.csv"
    write_text(RESULTS / name, rows.to_csv(index=False, float_format="%.4f"))
    by = ["teacher", "student", "mode"]
    values = rows.set_index([*by, "seed"])[["accuracy", "similarity"]].unstack("mode")
    for measure in ("accuracy", "similarity"):
        table = values[measure]
        means = table.groupby(["teacher", "student"]).mean()[list(modes)]
        differences = table.sub(table[modes[0]], axis=0).groupby(["teacher", "student"])
        error = differences.sem()[list(modes)]
        print(f"\n{measure}: mean over seeds (standard error of the difference from '{modes[0]}')\n")
        print("| teacher | student |", " | ".join(modes), "|\n" + "|---" * (2 + len(modes)) + "|")
        for names, row in means.iterrows():
            cells = [f"{row[mode]:.3f} ({error.loc[names, mode]:.3f})" for mode in modes]
            print("|", " | ".join([*names, *cells]), "|")


def main() -> None:
    """Run the fits that are not finished, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (2)")
    parser.add_argument("--report", action="store_true", help="only gather finished fits")
    parser.add_argument("--controls", action="store_true", help="fits without losses, and of weight 0")
    options = parser.parse_args()
    if not options.report:
        workers, controls = options.workers, options.controls
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(part, range(workers), [workers] * workers, [controls] * workers))
    report(options.controls)


if __name__ == "__main__":
    main()
