"""What does a step of training with each transfer loss cost, beside labels only and beside published code?

A row is a loss. It has two or three full steps (forward, loss, backward, optimiser) of the same CIFAR
ResNet-18 on the same batches:

- labels: cross-entropy in plain torch, nothing of ours;
- ours: `Objective` with the loss;
- theirs: the same loss as RepDistiller (Tian et al. 2020) has it, imported from a checkout that you fetch
  yourself (``git clone https://github.com/HobbitLong/RepDistiller``, then ``--repdistiller RepDistiller``).
  It reads the student's features without hooks or copies. Without a checkout, and for losses that
  RepDistiller does not have, a row lacks it. Beside RDL with measured RDMs stands RKD's distance term as
  popular code writes it with torch.cdist, on the same layers.

Features of the network that teaches are drawn at random and lie ready on the device, so that rows differ in
the loss alone. Images (3 x 32 x 32) are random too: what they show does not change the time. With
``--bf16`` the student runs in bfloat16 (autocast); the losses, ours and theirs, get float32.

Steps are interleaved: a round takes the rows in random order, and the steps of a row follow each other in an
order that runs through all six. Ratios are taken within rounds; the interval of their median comes from a
bootstrap over rounds.

    python benchmarks/training.py --repdistiller RepDistiller              # 30 rounds
    python benchmarks/training.py --device cuda --bf16 --batch 64 --repdistiller RepDistiller
    python benchmarks/training.py --rounds 3 --batch 16 --width 16 --out ""   # a quick look, nothing written
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib
import itertools
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
STEPS = ("labels", "ours", "theirs")
IMAGES, CLASSES = 1024, 100  # images of which batches are drawn
RESULTS = Path(__file__).parent / "results"
Features = dict[str, Tensor]
Loss = Callable[[Features, Features], Tensor]
OurLosses = Callable[["Setting"], list[nrl.TransferLoss]]
TheirLoss = Callable[["Setting"], "Rival"]


class Ready(nrl.NetworkTeacher):
    """A network whose features of the batch lie ready: it is never run."""

    ready: Features

    def features(self, batch: nrl.Batch) -> Features:
        """The features that were drawn for this round."""
        return self.ready


@dataclass(frozen=True)
class Setting:
    """What the losses of all rows are made with; `published` are RepDistiller's modules, if any."""

    teacher: Ready
    measured: Mapping[str, nrl.RDMTeacher]
    ids: Sequence[str]
    shapes: Mapping[str, torch.Size]
    negatives: int
    published: SimpleNamespace | None


def load_published(path: str | None, device: torch.device) -> SimpleNamespace | None:
    """RepDistiller's losses, from a checkout."""
    if not path:
        return None
    if not (Path(path) / "distiller_zoo").is_dir():
        raise SystemExit(f"--repdistiller: {path} is no checkout of HobbitLong/RepDistiller")
    sys.path.insert(0, str(Path(path).resolve()))
    warnings.filterwarnings("ignore", "size_average and reduce args")  # an old argument of their kl_div
    names = "distiller_zoo", "models.util", "crd.criterion", "crd.memory"
    zoo, util, contrast, memory = (importlib.import_module(name) for name in names)
    if device.type == "cpu":  # otherwise their memory needs a GPU
        memory.AliasMethod.cuda = lambda _: None
    return SimpleNamespace(zoo=zoo, util=util, CRDLoss=contrast.CRDLoss)


class Rival(nn.Module):
    """A published loss: a function of the features of student and teacher, and the modules that it trains."""

    def __init__(self, loss: Loss, *trained: nn.Module) -> None:
        super().__init__()
        self.compute, self.trained = loss, nn.ModuleList(trained)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        return self.compute(student, teacher)


# Each loss in our code, and in theirs: functions of the setting.


def on_vectors(loss: Callable[..., nrl.TransferLoss], **options: Any) -> OurLosses:
    """One of our losses on the last features, which RepDistiller reads in most losses."""
    return lambda s: [loss(s.teacher["avgpool"], "avgpool", **options)]


def in_zoo(name: str, layer: str, *options: Any) -> TheirLoss:
    """A loss of RepDistiller that has no parameters, on one layer."""

    def make(s: Setting) -> Rival:
        loss = getattr(s.published.zoo, name)(*options)
        return Rival(lambda student, teacher: loss(student[layer], teacher[layer]))

    return make


def lists_in_zoo(name: str, layers: Sequence[str]) -> TheirLoss:
    """A loss of RepDistiller that takes lists of features and gives one of terms."""

    def make(s: Setting) -> Rival:
        loss = getattr(s.published.zoo, name)()
        return Rival(
            lambda student, teacher: sum(loss([student[x] for x in layers], [teacher[x] for x in layers]))
        )

    return make


def rkd(s: Setting) -> list[nrl.TransferLoss]:
    layer, vectors = "avgpool", s.teacher["avgpool"]
    distance = nrl.RDMLoss(vectors, layer, "euclidean_root", "huber", weight=25.0)
    return [distance, nrl.AngleLoss(vectors, layer, weight=50.0)]


def rkd_of_layers(s: Setting) -> Rival:
    return Rival(
        lambda student, teacher: sum(
            rkd_distance(student[layer].flatten(1), teacher[layer].flatten(1)) for layer in LAYERS
        )
    )


def hints(s: Setting) -> list[nrl.TransferLoss]:
    """With a regressor like theirs."""
    channels = s.shapes["layer2"][1]
    regressor = nn.Sequential(nn.LazyConv2d(channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    return [nrl.HintLoss(s.teacher["layer2"], "layer2", regressor, weight=100.0)]


def their_hints(s: Setting) -> Rival:
    regressor, loss = s.published.util.ConvReg(*[s.shapes["layer2"]] * 2), s.published.zoo.HintLoss()
    return Rival(lambda student, teacher: loss(regressor(student["layer2"]), teacher["layer2"]), regressor)


def their_congruence(s: Setting) -> Rival:
    """With linear embeddings, which ours does not have; their formula is another, too."""
    loss, width = s.published.zoo.Correlation(), s.shapes["avgpool"][1]
    mine, theirs = (s.published.util.LinearEmbed(width, 128) for _ in range(2))
    return Rival(lambda x, y: loss(mine(x["avgpool"]), theirs(y["avgpool"])), mine, theirs)


def their_contrast(s: Setting) -> Rival:
    """It draws its negatives itself, on the device."""
    width = s.shapes["avgpool"][1]
    sizes = {"s_dim": width, "t_dim": width, "feat_dim": 128, "n_data": len(s.ids)}
    loss = s.published.CRDLoss(SimpleNamespace(**sizes, nce_k=s.negatives, nce_t=0.07, nce_m=0.5))
    return Rival(lambda x, y: loss(x["avgpool"], y["avgpool"], y["rows"]), loss)


@dataclass(frozen=True)
class Row:
    """A loss: how we make it, and how a rival does, which may need a checkout of theirs."""

    ours: OurLosses
    theirs: TheirLoss | None = None
    checkout: bool = True


STAGES = ("layer1", *LAYERS)
ROWS = {
    "rdl": Row(
        lambda s: [nrl.RDMLoss(teacher, layer) for layer, teacher in s.measured.items()],
        rkd_of_layers,
        checkout=False,
    ),
    "rdl, network": Row(on_vectors(nrl.RDMLoss)),
    "rkd": Row(rkd, in_zoo("RKDLoss", "avgpool")),
    "sp": Row(
        lambda s: [nrl.SimilarityPreservingLoss(s.teacher["layer4"], "layer4")],
        lists_in_zoo("Similarity", ["layer4"]),
    ),
    "cc": Row(on_vectors(nrl.CorrelationCongruenceLoss), their_congruence),
    "pkt": Row(on_vectors(nrl.ProbabilisticTransferLoss), in_zoo("PKT", "avgpool")),
    "cka": Row(on_vectors(nrl.RDMLoss, dissimilarity="euclidean", comparison="cka")),
    "at": Row(
        lambda s: [nrl.AttentionLoss(s.teacher[layer], layer) for layer in STAGES],
        lists_in_zoo("Attention", STAGES),
    ),
    "hints": Row(hints, their_hints),
    "crd": Row(
        lambda s: [nrl.ContrastiveLoss(s.teacher["avgpool"], "avgpool", s.ids, negatives=s.negatives)],
        their_contrast,
    ),
    "soft targets": Row(lambda s: [nrl.SoftTargetLoss(s.teacher)], in_zoo("DistillKL", "", 4.0)),
    "decoupled": Row(lambda s: [nrl.DecoupledLoss(s.teacher)]),
    "deep supervision": Row(lambda s: [nrl.DeepSupervisionLoss(layer, weight=0.3) for layer in LAYERS]),
}


def make_teachers(ids: list[str]) -> dict[str, nrl.RDMTeacher]:
    """A teacher per layer, each with a precomputed RDM of all images."""
    teachers = {}
    for layer in LAYERS:
        rdm = DISSIMILARITIES["correlation"](torch.randn(len(ids), 64)).numpy()[None]
        described = {"stimulus": ids}
        teachers[layer] = nrl.RDMTeacher(RDMs(rdm, "correlation", pattern_descriptors=described))
    return teachers


def read_features(student: nn.Module, images: Tensor) -> Features:
    """The features of all layers, and the outputs as "", without hooks or copies: the cheapest way."""
    kept = {}
    for name, layer in student.named_children():
        images = kept[name] = layer(images)
    return {**kept, "": images}


def student_features(student: nn.Module, images: Tensor) -> Features:
    """Features that have no gradient."""
    with torch.no_grad():
        return read_features(student, images)


def rkd_distance(features: Tensor, goal_features: Tensor) -> Tensor:
    """RKD's distance term, as popular code has it."""
    with torch.no_grad():
        goal = torch.cdist(goal_features, goal_features)
        goal = goal / goal[goal > 0].mean()
    distances = torch.cdist(features, features)
    distances = distances / distances[distances > 0].mean()
    return F.smooth_l1_loss(distances, goal)


class Contestant:
    """A student of its own with its optimiser, and one of the steps; the loss may have parameters."""

    def __init__(self, student: nn.Module, bf16: bool) -> None:
        self.student, self.bf16 = copy.deepcopy(student), bf16
        self.device = next(student.parameters()).device

    def train(self, batch: nrl.Batch, ready: Features) -> None:
        """Make what is made at a first call, then the optimizer."""
        self.loss(batch, ready)
        parameters = [*self.student.parameters(), *self.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(self, batch: nrl.Batch, ready: Features) -> None:
        self.optimizer.zero_grad()
        self.loss(batch, ready).backward()
        self.optimizer.step()

    def parameters(self) -> list[nn.Parameter]:
        return []

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Labels(Contestant):
    def loss(self, batch: nrl.Batch, _: Features) -> Tensor:
        with self.autocast():
            outputs = self.student(batch.images)
        return F.cross_entropy(outputs.float(), batch.labels)


class Ours(Contestant):
    def __init__(self, student: nn.Module, bf16: bool, losses: list[nrl.TransferLoss], ready: Ready) -> None:
        super().__init__(student, bf16)
        self.objective, self.teacher = nrl.Objective(losses), ready
        self.objective.loss_modules.to(self.device)

    def loss(self, batch: nrl.Batch, ready: Features) -> Tensor:
        self.teacher.ready = ready
        with self.autocast():
            return self.objective(self.student, labelled=(batch.images, batch.labels, batch.ids))[0]

    def parameters(self) -> list[nn.Parameter]:
        return list(self.objective.parameters())


class Theirs(Contestant):
    def __init__(self, student: nn.Module, bf16: bool, rival: Rival) -> None:
        super().__init__(student, bf16)
        self.rival = rival.to(self.device)

    def loss(self, batch: nrl.Batch, ready: Features) -> Tensor:
        with self.autocast():
            features = read_features(self.student, batch.images)
        if self.bf16:
            features = {name: values.float() for name, values in features.items()}
        transfer = self.rival(features, ready)
        return F.cross_entropy(features[""], batch.labels) + transfer.sum()

    def parameters(self) -> list[nn.Parameter]:
        return list(self.rival.parameters())


def make_contestants(
    student: nn.Module, setting: Setting, args: argparse.Namespace
) -> dict[str, dict[str, Contestant]]:
    """The contestants of each row; labels only is the same one in all of them."""
    labels = Labels(student, args.bf16)
    contestants: dict[str, dict[str, Contestant]] = {}
    for name in args.rows or ROWS:
        row = ROWS[name]
        steps = {"labels": labels, "ours": Ours(student, args.bf16, row.ours(setting), setting.teacher)}
        if row.theirs and (setting.published or not row.checkout):
            steps["theirs"] = Theirs(student, args.bf16, row.theirs(setting))
        contestants[name] = steps
    return contestants


def seconds(work: Callable[[], Any], device: torch.device) -> tuple[float, float, Any]:
    """Wall and CPU seconds of some work, and what it gave."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def draw(
    setting: Setting, rng: np.random.Generator, n: int, device: torch.device
) -> tuple[nrl.Batch, Features]:
    """A batch, and a teacher's features of it, with the rows of its ids."""
    rows = rng.choice(IMAGES, n, replace=False)
    images, labels = torch.randn(n, 3, 32, 32, device=device), torch.randint(CLASSES, (n,), device=device)
    ready = {name: torch.rand(n, *shape[1:], device=device) for name, shape in setting.shapes.items()}
    ready["rows"] = torch.from_numpy(rows).to(device)
    return nrl.Batch(images, [setting.ids[row] for row in rows], labels), ready


def race(args: argparse.Namespace, student: nn.Module, setting: Setting) -> pd.DataFrame:
    """Wall and CPU seconds of each step of each row in each round; the file is written after every round."""
    rng, device = np.random.default_rng(args.seed), torch.device(args.device)
    contestants = make_contestants(student, setting, args)
    for contestant in dict.fromkeys(step for steps in contestants.values() for step in steps.values()):
        contestant.train(*draw(setting, rng, args.batch, device))
    orders, names = list(itertools.permutations(STEPS)), list(contestants)
    rows: list[dict[str, Any]] = []
    end = time.perf_counter() + 60 * args.minutes
    for number in range(-args.warmup, args.rounds):
        if rows and time.perf_counter() > end:
            break
        if number % len(orders) == 0:
            rng.shuffle(orders)
        rng.shuffle(names)
        for place, name in enumerate(names):
            order = [step for step in orders[(number + place) % len(orders)] if step in contestants[name]]
            batch, ready = draw(setting, rng, args.batch, device)
            row: dict[str, Any] = {"round": number + 1, "loss": name, "order": " ".join(order)}
            for step in order:
                work = partial(contestants[name][step].step, batch, ready)
                row[f"{step}_seconds"], row[f"{step}_cpu_seconds"], _ = seconds(work, device)
            if number >= 0:
                rows.append(row)
        print(f"round {number + 1}", end=" ", flush=True)
        if args.out and rows:
            write_text(Path(args.out) / "training.csv", pd.DataFrame(rows).to_csv(index=False))
    return pd.DataFrame(rows)


def median_ratio(above: pd.Series, below: pd.Series, draws: int = 10_000) -> dict[str, float]:
    """Median over rounds of a ratio, with the percentile interval of a bootstrap over rounds."""
    ratios = (above / below).to_numpy()
    picked = np.random.default_rng(0).integers(0, len(ratios), (draws, len(ratios)))
    low, high = np.quantile(np.median(ratios[picked], axis=1), (0.025, 0.975))
    return {"ratio": float(np.median(ratios)), "ci_low": float(low), "ci_high": float(high)}


def summarise(times: pd.DataFrame) -> pd.DataFrame:
    """For each loss and pair of steps, the median of the ratio of wall and of CPU seconds."""
    rows = []
    for name in dict.fromkeys(times["loss"]):
        part = times[times["loss"] == name].dropna(axis=1)
        for unit, (above, below) in itertools.product(
            ("seconds", "cpu_seconds"), (("ours", "labels"), ("theirs", "labels"), ("ours", "theirs"))
        ):
            if {f"{above}_{unit}", f"{below}_{unit}"} <= set(part):
                ratio = median_ratio(part[f"{above}_{unit}"], part[f"{below}_{unit}"])
                medians = {
                    "above": part[f"{above}_{unit}"].median(),
                    "below": part[f"{below}_{unit}"].median(),
                }
                rows.append({"loss": name, "unit": unit, "ratio of": f"{above}/{below}", **ratio, **medians})
    return pd.DataFrame(rows)


def time_parts(args: argparse.Namespace, student: nn.Module, setting: Setting) -> pd.DataFrame:
    """Median seconds of each part of RDL's losses, and of RKD's as a whole, on features of the student."""
    rng = np.random.default_rng(args.seed)
    batch, _ = draw(setting, rng, args.batch, torch.device(args.device))
    features, rows = student_features(student, batch.images), []
    for layer in LAYERS:
        kept = features[layer].flatten(1)
        taken = [time_layer(layer, kept, setting.measured[layer], batch) for _ in range(args.repeats)]
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


def show(summary: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Print the answer, and where RDL's time goes."""
    for unit in ("seconds", "cpu_seconds"):
        print(f"\n\nratios of {unit.replace('_', ' ')} of a step: median [95 % interval]")
        part = summary[summary["unit"] == unit]
        shown = part.assign(
            text=[f"{row.ratio:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" for row in part.itertuples()]
        )
        table = shown.pivot(index="loss", columns="ratio of", values="text")
        print(table.loc[part["loss"].unique(), part["ratio of"].unique()].fillna("").to_string())
    slower = summary[(summary["ratio of"] == "ours/theirs") & (summary["unit"] == "seconds")]
    slower = slower[slower["ci_low"] > 1]["loss"]
    print(f"slower than theirs, by the whole interval: {', '.join(slower) or 'none'}")
    if len(parts):
        print("\nparts of rdl, milliseconds")
        table = parts.pivot(index="part", columns="layer", values="seconds").loc[parts["part"].unique()] * 1e3
        print(table.assign(total=table.sum(axis=1)).round(2).to_string())


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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a training step with each transfer loss costs.")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), metavar="LOSS", help=f"of: {', '.join(ROWS)}"
    )
    parser.add_argument("--repdistiller", metavar="PATH", help="a checkout of HobbitLong/RepDistiller")
    parser.add_argument("--rounds", "--pairs", type=int, default=30, help="rounds of all rows (30)")
    parser.add_argument("--minutes", type=float, default=60, help="no round starts later than this (60)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=64, help="maps of the student's stem (64)")
    parser.add_argument("--memory", type=int, default=50_000, help="stimuli that crd remembers (50000)")
    parser.add_argument("--negatives", type=int, default=16_384, help="of crd, for each image (16384)")
    parser.add_argument("--bf16", action="store_true", help="the student runs in bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warmup", type=int, default=2, help="rounds that are not counted (2)")
    parser.add_argument("--repeats", type=int, default=15, help="of the parts of rdl (15)")
    parser.add_argument("--keep-memory", action="store_true", help="glibc keeps freed memory: less noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(RESULTS), help="folder; '' writes nothing")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> tuple[nn.Module, Setting]:
    """The student, and what losses are made with."""
    device = torch.device(args.device)
    student = nrl.students.resnet18(CLASSES, width=args.width).to(device)
    names = [name for name, _ in student.named_children()]
    examples = student_features(student, torch.randn(2, 3, 32, 32, device=device))
    shapes = {name: examples[name].shape for name in (*names, "")}
    ids = [f"image{number}" for number in range(args.memory)]
    published = load_published(args.repdistiller, device)
    teacher, measured = Ready(student, names), make_teachers(ids[:IMAGES])
    return student, Setting(teacher, measured, ids, shapes, args.negatives, published)


def main() -> None:
    args = arguments()
    if args.keep_memory:
        keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    student, setting = prepare(args)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    summary = summarise(race(args, student, setting))
    parts = (
        time_parts(args, student, setting)
        if "rdl" in (args.rows or ROWS) and args.repeats
        else pd.DataFrame()
    )
    if args.out:
        record = {"ratios": summary.to_dict("records"), **machine(args)}
        write_json(Path(args.out) / "training.json", record)
        if len(parts):
            write_text(Path(args.out) / "training_parts.csv", parts.to_csv(index=False))
    show(summary, parts)


if __name__ == "__main__":
    main()
