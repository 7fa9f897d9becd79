"""What does a step of training with RDL cost, beside labels only and beside RKD's distance term?

Three full steps (forward, loss, backward, optimiser) of the same CIFAR ResNet-18 on the same batches:

- labels: cross-entropy in plain torch, nothing of ours;
- rdl: `Objective` with an `RDMLoss` (correlation, corr) on layer2, layer3 and layer4 against precomputed
  RDMs of the same images: one stream, the labelled batches carry ids;
- rkd: the distance term of relational knowledge distillation (Park et al. 2019) on the same layers as
  popular code writes it: torch.cdist of the flattened features, divided by the mean of the distances that
  are not zero, smooth L1 against the teacher's. The teacher's features are precomputed and lie ready.

Steps are interleaved: a triple has all three, in an order that runs through all six. Ratios are taken
within triples; the interval of their median comes from a bootstrap over triples. Images (3 x 32 x 32) and
teachers are random: what they show does not change the time.

    python benchmarks/training.py                                 # 30 triples, minutes on two free cores
    python benchmarks/training.py --pairs 3 --batch 16 --out ""   # a quick look, nothing written
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import itertools
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn
from torch.nn import functional as F

import neurordl as nrl
from neurordl.io import versions, write_json, write_text
from neurordl.measures.comparisons import find_comparison
from neurordl.measures.dissimilarities import DISSIMILARITIES

LAYERS = ("layer2", "layer3", "layer4")
STEPS = ("labels", "rdl", "rkd")
IMAGES, CLASSES = 1024, 10
AIM, LIMIT = 1.02, 1.05
RESULTS = Path(__file__).parent / "results"
Features = dict[str, Tensor]


def make_teachers(ids: list[str]) -> dict[str, nrl.RDMTeacher]:
    """A teacher per layer, each with a precomputed RDM of all images."""
    teachers = {}
    for layer in LAYERS:
        rdm = DISSIMILARITIES["correlation"](torch.randn(len(ids), 64)).numpy()[None]
        described = {"stimulus": ids}
        teachers[layer] = nrl.RDMTeacher(RDMs(rdm, "correlation", pattern_descriptors=described))
    return teachers


def read_features(student: nn.Module, images: Tensor) -> tuple[Tensor, Features]:
    """Outputs and the features of the layers, without hooks or copies: the cheapest way there is."""
    kept = {}
    for name, layer in student.named_children():
        images = layer(images)
        if name in LAYERS:
            kept[name] = images.flatten(1)
    return images, kept


def student_features(images: Tensor) -> Features:
    """Features of a new student."""
    with torch.no_grad():
        return read_features(nrl.students.resnet18(CLASSES).to(images.device), images)[1]


def rkd_distance(features: Tensor, goal_features: Tensor) -> Tensor:
    """RKD's distance term, as popular code has it."""
    with torch.no_grad():
        goal = torch.cdist(goal_features, goal_features)
        goal = goal / goal[goal > 0].mean()
    distances = torch.cdist(features, features)
    distances = distances / distances[distances > 0].mean()
    return F.smooth_l1_loss(distances, goal)


class Contestant:
    """A student of its own with its optimiser, and one of the three losses."""

    def __init__(self, student: nn.Module, loss: Callable[[nn.Module, nrl.Batch, Features], Tensor]) -> None:
        self.student, self.loss = student, loss
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(self, batch: nrl.Batch, theirs: Features) -> None:
        self.optimizer.zero_grad()
        self.loss(self.student, batch, theirs).backward()
        self.optimizer.step()


def make_contestants(teachers: dict[str, nrl.RDMTeacher], device: torch.device) -> dict[str, Contestant]:
    student = nrl.students.resnet18(CLASSES).to(device)
    objective = nrl.Objective([nrl.RDMLoss(teacher, layer) for layer, teacher in teachers.items()])

    def labels(student: nn.Module, batch: nrl.Batch, _: Features) -> Tensor:
        return F.cross_entropy(student(batch.images), batch.labels)

    def rdl(student: nn.Module, batch: nrl.Batch, _: Features) -> Tensor:
        return objective(student, labelled=(batch.images, batch.labels, batch.ids))[0]

    def rkd(student: nn.Module, batch: nrl.Batch, theirs: Features) -> Tensor:
        outputs, features = read_features(student, batch.images)
        terms = [rkd_distance(features[layer], theirs[layer]) for layer in LAYERS]
        return F.cross_entropy(outputs, batch.labels) + sum(terms)

    losses = zip(STEPS, (labels, rdl, rkd), strict=True)
    return {name: Contestant(copy.deepcopy(student), loss) for name, loss in losses}


def seconds(work: Callable[[], Any], device: torch.device) -> tuple[float, float, Any]:
    """Wall and CPU seconds of some work, and what it gave."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def race(args: argparse.Namespace, ids: list[str], teachers: dict[str, nrl.RDMTeacher]) -> pd.DataFrame:
    """Wall and CPU seconds of each step of each triple; the file is written anew after every triple."""
    device, rng = torch.device(args.device), np.random.default_rng(args.seed)
    contestants = make_contestants(teachers, device)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(CLASSES, (IMAGES,))
    some = student_features(images[:2].to(device))
    orders = list(itertools.permutations(STEPS))
    rows: list[dict[str, Any]] = []
    end = time.perf_counter() + 60 * args.minutes
    for number in range(-args.warmup, args.pairs):
        if rows and time.perf_counter() > end:
            break
        if number % len(orders) == 0:
            rng.shuffle(orders)
        order = orders[number % len(orders)]
        chosen = rng.choice(IMAGES, args.batch, replace=False)
        batch = nrl.Batch(
            images[chosen].to(device), [ids[number] for number in chosen], labels[chosen].to(device)
        )
        theirs = {
            layer: torch.rand(args.batch, features.shape[1], device=device)
            for layer, features in some.items()
        }
        row: dict[str, Any] = {"triple": number + 1, "order": " ".join(order)}
        for name in order:
            wall, cpu, _ = seconds(partial(contestants[name].step, batch, theirs), device)
            row |= {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu}
        print("  ".join(f"{name} {row[f'{name}_seconds']:.3f}" for name in STEPS), flush=True)
        if number >= 0:
            rows.append(row)
            if args.out:
                write_text(Path(args.out) / "training.csv", pd.DataFrame(rows).to_csv(index=False))
    return pd.DataFrame(rows)


def median_ratio(above: pd.Series, below: pd.Series, draws: int = 10_000) -> dict[str, float]:
    """Median over triples of a ratio, with the percentile interval of a bootstrap over triples."""
    ratios = (above / below).to_numpy()
    picked = np.random.default_rng(0).integers(0, len(ratios), (draws, len(ratios)))
    low, high = np.quantile(np.median(ratios[picked], axis=1), (0.025, 0.975))
    return {"ratio": float(np.median(ratios)), "ci_low": float(low), "ci_high": float(high)}


def summarise(times: pd.DataFrame) -> dict[str, Any]:
    """Median seconds of each step and the ratios, of wall and of CPU time."""
    summary: dict[str, Any] = {"triples": len(times)}
    for unit in ("seconds", "cpu_seconds"):
        summary[f"median_{unit}"] = {name: float(times[f"{name}_{unit}"].median()) for name in STEPS}
        for above, below in (("rdl", "labels"), ("rdl", "rkd"), ("rkd", "labels")):
            ratio = median_ratio(times[f"{above}_{unit}"], times[f"{below}_{unit}"])
            summary[f"{above}/{below} {unit}"] = ratio
    return summary


def time_parts(args: argparse.Namespace, ids: list[str], teachers: dict[str, nrl.RDMTeacher]) -> pd.DataFrame:
    """Median seconds of each part of our losses, and of RKD's as a whole, on features of the student."""
    device = torch.device(args.device)
    batch = nrl.Batch(torch.randn(args.batch, 3, 32, 32, device=device), ids[: args.batch])
    rows = []
    for layer, kept in student_features(batch.images).items():
        taken = [time_layer(layer, kept, teachers[layer], batch) for _ in range(args.repeats)]
        for part in taken[0]:
            rows.append((layer, kept.shape[1], part, statistics.median(times[part] for times in taken)))
    return pd.DataFrame(rows, columns=["layer", "channels", "part", "seconds"])


def time_layer(layer: str, kept: Tensor, teacher: nrl.RDMTeacher, batch: nrl.Batch) -> dict[str, float]:
    """Seconds of the parts of one layer's losses, once each."""
    taken: dict[str, float] = {}

    def note(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        taken[part], _, result = seconds(partial(work, *arguments), kept.device)
        return result

    patterns, theirs = kept.clone().requires_grad_(), torch.rand_like(kept)
    note("copy of the features", kept.clone)
    rdm = note("patterns to RDM, forward", DISSIMILARITIES["correlation"], patterns)
    target = note("teacher's RDM", teacher.target, batch, {})
    leaf = rdm.detach()[None].requires_grad_()
    value = note("comparison, forward", find_comparison("corr").loss, leaf, target.rdms, target.weights)
    note("comparison, backward", value.sum().backward)
    (pull,) = note("patterns to RDM, backward", torch.autograd.grad, rdm, patterns, torch.randn_like(rdm))
    note("sum of gradients", torch.add, pull, theirs)
    loss = note("whole loss, forward", nrl.RDMLoss(teacher, layer), {layer: patterns}, {}, batch)
    note("whole loss, backward", torch.autograd.grad, loss, patterns)
    loss = note("rkd, forward", rkd_distance, patterns, theirs)
    note("rkd, backward", torch.autograd.grad, loss, patterns)
    return taken


def show(summary: dict[str, Any], parts: pd.DataFrame) -> None:
    """Print the answer, and where our time goes."""
    print(f"\nmedians of {summary['triples']} triples: wall and CPU seconds of a step")
    for name in STEPS:
        wall, cpu = (summary[f"median_{unit}"][name] for unit in ("seconds", "cpu_seconds"))
        print(f"  {name:<8}{wall:8.3f} {cpu:8.3f}")
    for key, value in summary.items():
        if "/" in key:
            print(f"  {key:<24}{value['ratio']:7.4f}  [{value['ci_low']:.4f}, {value['ci_high']:.4f}]")
    ratio, beside = summary["rdl/labels seconds"]["ratio"], summary["rdl/rkd seconds"]["ci_low"]
    print(f"rdl/labels: aim {AIM} {_met(ratio <= AIM)}, limit {LIMIT} {_met(ratio <= LIMIT)}")
    print(f"rdl/rkd: interval includes or lies below 1 {_met(beside <= 1)}")
    print("\nparts, milliseconds")
    table = parts.pivot(index="part", columns="layer", values="seconds").loc[parts["part"].unique()] * 1e3
    print(table.assign(total=table.sum(axis=1)).round(2).to_string())


def _met(yes: bool) -> str:
    return "met" if yes else "not met"


def keep_memory() -> None:
    """Let glibc keep what is freed: no step pays for new pages, whose price varies."""
    library = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # from malloc.h
    if not (library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, 2**31 - 1)):
        raise SystemExit("--keep-memory: this system's malloc does not take the settings")


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were taken on and with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else None
    return {
        "command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        "versions": versions(),
        "system": platform.system(),
        "processor": names[0] if names else platform.processor(),
        "processors": len(names) or None,
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step with RDL costs.")
    parser.add_argument("--pairs", type=int, default=30, help="triples of steps (30)")
    parser.add_argument("--minutes", type=float, default=60, help="no triple starts later than this (60)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warmup", type=int, default=2, help="triples that are not counted (2)")
    parser.add_argument("--repeats", type=int, default=15, help="of the parts (15)")
    parser.add_argument("--keep-memory", action="store_true", help="glibc keeps freed memory: less noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(RESULTS), help="folder; '' writes nothing")
    args = parser.parse_args()
    if args.keep_memory:
        keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ids = [f"image{number}" for number in range(IMAGES)]
    teachers = make_teachers(ids)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    summary = summarise(race(args, ids, teachers))
    parts = time_parts(args, ids, teachers)
    if args.out:
        write_json(Path(args.out) / "training.json", {**summary, **machine(args)})
        write_text(Path(args.out) / "training_parts.csv", parts.to_csv(index=False))
    show(summary, parts)


if __name__ == "__main__":
    main()
