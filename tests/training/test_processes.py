"""Two processes on one global batch give what one process gives.

Run as a script it is what two processes run: ``python -m tests.training.test_processes shared|own FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, WeightedRandomSampler

from neurordl import (
    NetworkTeacher,
    NeurordlError,
    Objective,
    PatternTeacher,
    RDMLoss,
    RDMTeacher,
    Run,
    SoftTargetLoss,
    StimulusSet,
    TaskRatio,
    load_run,
)
from neurordl.training.streams import seed_all
from tests.helpers import random_rdms, random_stimuli, student
from tests.training.helpers import fit_with, launch

N, M = 32, 20  # labelled images, stimuli
ROOT = Path(__file__).parents[2]
IDS = [f"s{i}" for i in range(M)]


def drawn(n: int, seed: int, ids: list[str] | None = None) -> StimulusSet:
    return random_stimuli(n, seed, ids, labels=np.arange(n) % 4)


def brain() -> RDMTeacher:
    return RDMTeacher(random_rdms(IDS, subject=["a", "b"]), pool="subjects")


def downhill(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)  # after one step the weights have moved by the gradient


def cases() -> dict[str, dict[str, Any]]:
    """Fits of a single step on the whole of the data: the weights then tell the gradient."""
    network = NetworkTeacher(student(batchnorm=True), ["conv2", "conv3"])
    values = np.random.default_rng(2).normal(size=(M, 30))
    patterns = PatternTeacher({"a": (values, IDS), "b": (values[::-1] + 1, IDS)}, center="all")
    common: dict[str, Any] = {
        "epochs": 1,
        "batch_size": N,
        "stimuli_batch": M,
        "optimizer": downhill,
        "scheduler": "constant",
    }
    rdm = RDMLoss(brain(), "conv2", weight=0.7)
    soft = [
        RDMLoss(network["conv2"], "conv2", weight=TaskRatio(0.5)),
        RDMLoss(network["conv3"], "fc1", comparison="cka", weight=lambda step: 0.3 + step),
        SoftTargetLoss(network, weight=2.0),
    ]
    labelled, stimuli = drawn(N, 3), drawn(M, 4, IDS)
    variants: dict[str, dict[str, Any]] = {
        "one stream": {"objective": Objective(rdm), "labelled": stimuli},
        "two streams": {"objective": Objective(rdm), "labelled": labelled, "stimuli": stimuli},
        "no task": {"objective": Objective(rdm, task=None), "stimuli": stimuli},
        "no task, one stream": {"objective": Objective(rdm, task=None), "labelled": stimuli},
        "network": {"objective": Objective(soft), "labelled": labelled},
        "patterns": {
            "objective": Objective(RDMLoss(patterns, "conv3", pairs="between", comparison="mse")),
            "labelled": labelled,
            "stimuli": stimuli,
        },
        "task that is read again": {  # in its backward, so nobody may write into it
            "objective": Objective(
                RDMLoss(brain(), "conv2", weight=TaskRatio(0.5)),
                task=lambda outputs, labels: nn.functional.cross_entropy(outputs, labels).relu(),
            ),
            "labelled": labelled,
            "stimuli": stimuli,
        },
    }
    return {name: {**common, **arguments} for name, arguments in variants.items()}


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.student.state_dict().items()}


class Listed(Dataset[Any]):
    """Images with ids, which it notes as they are asked for; interrupts at a call."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.images, self.requests, self.stop_at = drawn(M, 4, IDS).images(), list[str](), stop_at
        self.noise: list[float] = []

    def __len__(self) -> int:
        return M

    def __getitem__(self, place: int) -> tuple[Tensor, int, str]:
        self.requests.append(IDS[place])
        if len(self.requests) == self.stop_at:
            raise InterruptedError
        noise = torch.randn(1, 8, 8)
        self.noise.append(float(noise[0, 0, 0]))
        return self.images[place] + 0.1 * noise, place % 4, IDS[place]


class Batches(BatchSampler):
    """Batches of one's own."""


def of_loader(data: Dataset[Any], sampler: Sampler[int] | None = None, **changes: Any) -> dict[str, Any]:
    loader = DataLoader(data, batch_size=4, shuffle=sampler is None, sampler=sampler)
    return {
        "student": student(dropout=0.5),
        "objective": Objective(RDMLoss(brain(), "conv2")),
        "labelled": loader,
        "epochs": 3,
        **changes,
    }


def shared(folder: Path) -> None:
    """Many fits by the same two processes."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy=DDPStrategy(find_unused_parameters=True))
    fabric.launch()
    for name, arguments in cases().items():
        run = fit_with(student(), **arguments, fabric=fabric)
        safetensors.torch.save_file(weights(run), folder / f"{name} {fabric.global_rank}.safetensors")
        run.history.to_csv(folder / f"{name} {fabric.global_rank}.csv", index=False)
    stimuli = drawn(M, 4, IDS)
    objective = Objective(RDMLoss(brain(), "conv2"))
    variants = {"labelled": drawn(N, 3), "stimuli": stimuli, "validation": 0.3, "batch_size": 8, "epochs": 3}
    for mode in ("both", "joint"):
        run = fit_with(student(batchnorm=True), objective, **variants, fabric=fabric, batchnorm=mode)
        safetensors.torch.save_file(weights(run), folder / f"{mode} {fabric.global_rank}.safetensors")
        run.history.to_csv(folder / f"{mode} {fabric.global_rank}.csv", index=False)
    report: dict[str, Any] = {"set noise": list[float]()}

    def augment(images: Tensor) -> Tensor:
        report["set noise"].append(float(torch.rand(())))
        return images

    fit_with(student(), Objective(), drawn(N, 3), epochs=2, batch_size=8, augment=augment, fabric=fabric)
    data = Listed()
    whole = fit_with(**of_loader(data), fabric=fabric)
    report["asked"] = data.requests[4:]  # four in the look before the first step
    report["noise"] = data.noise[4:]
    report["fitted"] = whole.fitted_ids
    for seed in (0, 1):
        twice = [Listed(), Listed()]  # again from the start, as when a run is resumed
        for one in twice:
            sampler = WeightedRandomSampler([1.0] * M, M, generator=torch.Generator())  # with replacement
            fit_with(**of_loader(one, sampler, seed=seed), fabric=fabric)
        report[f"sampler {seed}"] = [one.requests[4:] for one in twice]
        report[f"sampler noise {seed}"] = twice[0].noise[4:]
    other = Listed()
    fit_with(**of_loader(other, seed=1), fabric=fabric)
    report["other seed"] = other.requests[4:]
    try:
        fit_with(
            **of_loader(Listed(stop_at=4 + 10 + 6)), fabric=fabric, out=folder / "run", checkpoint_every=1
        )
    except InterruptedError:
        report["interrupted"] = True
    resumed = fit_with(
        **of_loader(Listed()), fabric=fabric, out=folder / "run", checkpoint_every=1, resume=True
    )
    report["resumed"] = all(
        torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items()
    )
    report["history"] = whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))
    report["fitted again"] = resumed.fitted_ids
    for key, arguments in {
        "again": of_loader(Listed(), out=folder / "run"),
        "list": of_loader(Listed(), labelled=[(drawn(M, 4).images(), torch.arange(M) % 4)]),
        "batches": of_loader(
            Listed(), labelled=DataLoader(Listed(), batch_sampler=Batches(range(M), 4, False))
        ),
        "layer": of_loader(Listed(), objective=Objective(RDMLoss(brain(), "conv9"))),
    }.items():
        try:
            fit_with(**arguments, fabric=fabric)
        except NeurordlError as error:
            report[key] = str(error)
    (folder / f"told {fabric.global_rank}.json").write_text(json.dumps(report))


def own(folder: Path) -> None:
    """A fit that launches its processes itself; who renames files is noted."""
    replace: Callable[..., None] = os.replace

    def noted(source: Any, target: Any) -> None:
        with (folder / f"writes {os.environ.get('LOCAL_RANK', '0')}.txt").open("a") as notes:
            notes.write(f"{Path(target).name}\n")
        replace(source, target)

    os.replace = noted
    data = Listed()
    arguments = of_loader(
        data, labelled=data, stimuli=drawn(M, 4, IDS), validation=0.3, batch_size=8, stimuli_batch=8
    )
    fit_with(**arguments, devices=2, accelerator="cpu", out=folder / "out", checkpoint_every=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left what they found."""
    folder: Path = tmp_path_factory.mktemp("processes")
    started = []
    for role in ("shared", "own"):
        (folder / role).mkdir()
        started.append(launch("test_processes", role, folder / role))
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    return folder


@pytest.mark.parametrize("name", list(cases()))
def test_two_processes_give_the_loss_and_gradient_of_one(name: str, results: Path) -> None:
    start = student().state_dict()
    run = fit_with(student(), **cases()[name])
    moved = {
        key: start[key] - value for key, value in weights(run).items()
    }  # the gradient: one step of size 1
    assert max(float(one.abs().max()) for one in moved.values()) > 1e-2
    for rank in range(2):
        other = safetensors.torch.load_file(results / "shared" / f"{name} {rank}.safetensors")
        for key, gradient in moved.items():
            torch.testing.assert_close(start[key] - other[key], gradient, rtol=0, atol=1e-5)
        history = pd.read_csv(results / "shared" / f"{name} {rank}.csv").drop(columns="seconds")
        pd.testing.assert_frame_equal(history, run.history.drop(columns="seconds"), rtol=0, atol=1e-5)


def test_a_loader_is_shared_out_and_resumed(results: Path) -> None:
    report = [json.loads((results / "shared" / f"told {rank}.json").read_text()) for rank in range(2)]
    requests = [one["asked"] for one in report]
    assert [len(one) for one in requests] == [30, 30]
    passes = [[*requests[0][k : k + 10], *requests[1][k : k + 10]] for k in (0, 10, 20)]
    for one in passes:
        assert sorted(one) == sorted(IDS)  # each image once, by one of the two
    assert passes[0] != passes[1] != passes[2]
    assert report[0]["other seed"] != requests[0]
    for one in report:
        assert one["interrupted"]
        assert one["resumed"]
        assert one["history"]
        assert sorted(one["fitted"]) == sorted(one["fitted again"]) == sorted(IDS)
        assert "already holds a run" in one["again"]
        assert "several processes cannot share a list" in one["list"]
        assert "cannot share a Batches; give the DataLoader sampler=" in one["batches"]
        assert "no layer 'conv9'" in one["layer"]


@pytest.mark.parametrize("mode", ["both", "joint"])
def test_students_of_all_processes_are_the_same_with_batch_norm(mode: str, results: Path) -> None:
    """Running statistics are of each process's own images: those of the first are kept, and validated."""
    one, other = (
        safetensors.torch.load_file(results / "shared" / f"{mode} {rank}.safetensors") for rank in (0, 1)
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    first, second = (pd.read_csv(results / "shared" / f"{mode} {rank}.csv") for rank in (0, 1))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_processes_augment_differently(results: Path) -> None:
    report = [json.loads((results / "shared" / f"told {rank}.json").read_text()) for rank in range(2)]
    for name in ("noise", "sampler noise 0", "set noise"):
        noise = [one[name][1:] for one in report]  # but in the look before the first step
        assert len(noise[0]) == len(noise[1]) > 6
        assert not set(noise[0]) & set(noise[1])


def test_a_custom_sampler_is_divided_by_the_seed(results: Path) -> None:
    report = [json.loads((results / "shared" / f"told {rank}.json").read_text()) for rank in range(2)]
    for one in report:
        assert one["sampler 0"][0] == one["sampler 0"][1]
        assert one["sampler 0"][0] != one["sampler 1"][0]
    one, other = (part["sampler 0"][0][:10] for part in report)
    seed_all(0, 0)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    drawn = [IDS[k] for k in WeightedRandomSampler([1.0] * M, M, generator=generator)]
    assert sorted([*one, *other]) == sorted(drawn)  # two halves of one order


def test_fit_launches_processes_and_writes_once(results: Path) -> None:
    folder = results / "own"
    run = load_run(folder / "out")
    assert run.record["settings"]["processes"] == 2
    assert len(run.validation_ids) == 6
    assert run.history["val_rdm:conv2"].notna().all()
    assert run.trained_on[0]["labelled"] == [{"ids": IDS, "images": None}]  # those of both processes
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "best.safetensors",
        "history.csv",
        "last.ckpt",
        "run.json",
        "student.safetensors",
    ]
    names = (folder / "writes 0.txt").read_text().split()
    assert names.count("run.json") == 2  # when it starts and when it ends
    assert names.count("student.safetensors") == 1
    assert not (folder / "writes 1.txt").exists()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"shared": shared, "own": own}[sys.argv[1]](Path(sys.argv[2]))
