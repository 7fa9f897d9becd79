"""Killed and resumed, a run ends as one that was never interrupted, to the bit.

Run as a script it is the run that is killed: ``python -m tests.training.test_resume KIND FOLDER STEP``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler

from neurordl import (
    NeurordlError,
    Objective,
    RDMLoss,
    RDMTeacher,
    Run,
    StimulusSet,
    TaskRatio,
    load_run,
    record_accuracy,
)
from neurordl.students import build
from tests.helpers import random_rdms
from tests.training.helpers import fit_with

N, M, STEPS = 50, 30, 4  # labelled images, stimuli, steps an epoch
ROOT = Path(__file__).parents[2]
IDS = [f"s{i}" for i in range(M)]


def drawn(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)


class StopError(Exception):
    """An interruption."""


class Augmented(Dataset[Any]):
    """Images that are drawn anew each time, from torch and from numpy; calls `now` at each image."""

    def __init__(self, now: Callable[[], None]) -> None:
        self.pixels, self.now = torch.from_numpy(drawn(N, 0) / 255).float(), now

    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        self.now()
        noise = torch.randn(8, 8) + float(np.random.rand())  # noqa: NPY002
        return (self.pixels[place] + 0.3 * noise)[None], place % 4


class Walk(Sampler[int]):
    """A walk over the images from torch's own generator: where it goes depends on where it was."""

    def __iter__(self) -> Any:
        place = 0
        for _ in range(N):
            place = (place + int(torch.randint(N, ()))) % N
            yield place

    def __len__(self) -> int:
        return N


def arguments(kind: str, now: Callable[[], None]) -> dict[str, Any]:
    """A fit with dropout, batch norm and augmentation; `now` is called in each step's augmentation."""
    rdms = random_rdms(IDS, subject=["a", "b"])
    torch.manual_seed(0)
    losses = [
        RDMLoss(RDMTeacher(rdms, pool="subjects"), "conv2"),
        RDMLoss(RDMTeacher(rdms), "fc1", comparison="cosine", weight=TaskRatio(0.1)),
    ]
    settings: dict[str, Any] = {
        "student": build("small_cnn", 4, 1, width=4, batchnorm=True, dropout=0.5),
        "objective": Objective(losses),
        "stimuli": StimulusSet.from_array(drawn(M, 2), IDS),
        "epochs": 3,
        "validation": 0.3,
        "stimuli_batch": 6,
        "seed": 5,
    }
    if kind == "set":

        def augment(images: Tensor) -> Tensor:
            now()
            return images + 0.3 * torch.randn_like(images) + float(np.random.rand())  # noqa: NPY002

        labels = np.arange(N) % 4
        images = StimulusSet.from_array(drawn(N, 0), [f"i{k}" for k in range(N)], labels=labels)
        return {**settings, "labelled": images, "augment": augment, "batch_size": 12}
    generator = torch.Generator().manual_seed(11) if kind == "own generator" else None
    order: dict[str, Any] = {"sampler": Walk()} if kind == "walk" else {"shuffle": True}
    loader = DataLoader(Augmented(now), batch_size=13, generator=generator, **order)
    return {**settings, "labelled": loader}


def counted(kind: str, step: int, then: Callable[[], None]) -> Callable[[], None]:
    """Do something in the augmentation of a step (the first call is the look before the first step)."""
    calls = 0

    def now() -> None:
        nonlocal calls
        calls += 1
        before = 1 + step if kind == "set" else 13 + step // STEPS * N + step % STEPS * 13
        if calls == before + 1:
            then()

    return now


def nothing() -> None:
    pass


def stop() -> None:
    raise StopError


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.student.state_dict().items()}


def assert_same(one: Run, other: Run) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert one.record == other.record
    pd.testing.assert_frame_equal(
        one.history.drop(columns="seconds"), other.history.drop(columns="seconds"), check_exact=True
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KINDS = ["set", "loader"]


def test_killed_in_the_middle_of_an_epoch_and_resumed(tmp_path: Path) -> None:
    step = 2 * STEPS - 1  # in the second epoch, one step after a checkpoint and two after the epoch's start
    killed = {
        kind: subprocess.Popen(
            [sys.executable, "-m", "tests.training.test_resume", kind, str(tmp_path / kind), str(step)],
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for kind in KINDS
    }
    whole = {kind: fit_with(**arguments(kind, nothing), out=tmp_path / f"{kind} whole") for kind in KINDS}
    for kind, process in killed.items():
        _, output = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, output
        state = torch.load(tmp_path / kind / "last.ckpt", weights_only=True)
        assert state["step"] == step - 1
        resumed = fit_with(**arguments(kind, nothing), out=tmp_path / kind, checkpoint_every=2, resume=True)
        assert_same(resumed, whole[kind])
        one, other = files(tmp_path / kind), files(tmp_path / f"{kind} whole")
        assert set(one) == set(other)
        for name in ("student.safetensors", "best.safetensors", "run.json"):
            assert one[name] == other[name], name


@pytest.mark.parametrize("kind", [*KINDS, "own generator", "walk"])
def test_interrupted_at_any_step(kind: str, tmp_path: Path) -> None:
    whole = fit_with(**arguments(kind, nothing))
    out = tmp_path / "run"
    done = 0
    for step in (2, 4, 11):  # each time a little further, in one folder
        replayed = done if kind == "set" else done // STEPS * STEPS
        broken = arguments(kind, counted(kind, step - replayed, stop))
        with pytest.raises(StopError):
            fit_with(**broken, out=out, checkpoint_every=1, resume=True)
        done = step
        assert torch.load(out / "last.ckpt", weights_only=True)["step"] == step
    assert_same(fit_with(**arguments(kind, nothing), out=out, checkpoint_every=1, resume=True), whole)


def test_loader_whose_worker_augments(tmp_path: Path) -> None:
    def schedule(stop_at: int | None) -> Callable[..., LambdaLR]:
        def make(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
            return LambdaLR(optimizer, lambda step: stop() if step == stop_at else 1 / (1 + step))  # type: ignore[func-returns-value]

        return make

    def train(stop_at: int | None, **options: Any) -> Run:
        loader = DataLoader(Augmented(nothing), batch_size=13, shuffle=True, num_workers=1)
        settings = {**arguments("loader", nothing), "labelled": loader, "epochs": 2}
        return fit_with(**settings, scheduler=schedule(stop_at), **options)

    whole = train(None)
    with pytest.raises(StopError):
        train(STEPS + 3, out=tmp_path / "run", checkpoint_every=2)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == STEPS + 2
    assert_same(train(None, out=tmp_path / "run", resume=True), whole)


def test_stimuli_seen_before_the_interruption_are_fitted_ones(tmp_path: Path) -> None:
    batches = [(torch.rand(5, 1, 8, 8), torch.arange(5) % 4, IDS[k : k + 5]) for k in (0, 5, 10, 15)]

    def train(stop_at: int | None) -> Run:
        def make(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
            return LambdaLR(optimizer, lambda step: stop() if step == stop_at else 1.0)  # type: ignore[func-returns-value]

        settings = {**arguments("loader", nothing), "labelled": batches, "stimuli": None, "validation": None}
        return fit_with(
            **{**settings, "epochs": 1}, scheduler=make, out=tmp_path / "run", checkpoint_every=1, resume=True
        )

    with pytest.raises(StopError):
        train(3)
    assert sorted(train(None).fitted_ids) == sorted(IDS[:20])


def test_a_run_keeps_its_batch_norm_when_it_is_resumed(tmp_path: Path) -> None:
    """Also one that was started when "labelled" was the default."""
    whole = fit_with(**arguments("set", nothing), batchnorm="labelled")
    with pytest.raises(StopError):
        fit_with(**arguments("set", counted("set", 5, stop)), batchnorm="labelled", out=tmp_path / "run")
    for _ in range(2):  # continued, then finished
        assert_same(fit_with(**arguments("set", nothing), out=tmp_path / "run", resume=True), whole)
    new = fit_with(**arguments("set", nothing), out=tmp_path / "new", resume=True)
    assert new.record["settings"]["optimization.batchnorm"] == "joint"


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = fit_with(**arguments("set", nothing), out=out)
    before = files(out)

    def fail() -> None:
        raise AssertionError("it trains")

    again = fit_with(**arguments("set", counted("set", 0, fail)), out=out, resume=True)
    assert_same(again, whole)
    assert again.history["seconds"].tolist() == whole.history["seconds"].tolist()
    assert files(out) == before

    test = StimulusSet.from_array(drawn(6, 7), [f"t{k}" for k in range(6)], labels=[0, 1, 2] * 2)
    record_accuracy(again, test)  # is kept, and nothing is written anew
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert fit_with(**arguments("set", counted("set", 0, fail)), out=out, resume=True).record == again.record
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_interrupted_before_the_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    with pytest.raises(StopError):
        fit_with(**arguments("set", counted("set", 2, stop)), out=out)
    assert not (tmp_path / "new").exists()
    folder_before = tmp_path / "there"
    folder_before.mkdir()
    with pytest.raises(StopError):
        fit_with(**arguments("set", counted("set", 2, stop)), out=folder_before)
    assert list(folder_before.iterdir()) == []
    resumed = fit_with(
        **arguments("set", nothing), out=folder_before, resume=True
    )  # nothing to go on from: a new run
    assert_same(resumed, fit_with(**arguments("set", nothing)))


def test_a_run_that_is_not_finished_is_not_read_as_one(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fit_with(**arguments("set", counted("set", 9, stop)), out=tmp_path / "run")
    assert (tmp_path / "run" / "best.safetensors").is_file()
    with pytest.raises(NeurordlError, match=r"has not finished; call fit\(..., resume=True\)"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 6}, "seed"),
        ({"lr": 0.1}, "lr"),
        ({"epochs": 4}, "epochs"),
        ({"stimuli_batch": 5}, "batches.stimuli"),
        ({"student": build("small_cnn", 4, 1, width=8)}, "student.parameters"),
        ({"stimuli": StimulusSet.from_array(drawn(M, 3), IDS)}, "stimuli.sha256"),
        ({"validation": 0.4}, "stimuli.fitted"),
        ({"augment": None}, "batches.augment"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"scheduler": "constant"}, "scheduler"),
        ({"batchnorm": "both"}, "batchnorm"),
        ({"objective": Objective(), "validation": None}, "losses"),
    ],
)
def test_another_run_is_not_resumed(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit_with(**{**arguments("set", nothing), "epochs": 1}, out=out)
    before = files(out)
    with pytest.raises(NeurordlError, match=f"holds another run, which differs in .*{named}"):
        fit_with(**{**arguments("set", nothing), "epochs": 1, **change}, out=out, resume=True)
    assert files(out) == before


def test_measures_of_the_teacher_are_part_of_the_run(tmp_path: Path) -> None:
    """Shrinkage, precision, permutations: what changes the target changes the run."""
    rdms = RDMs(
        np.random.default_rng(1).random((3, 435)),
        rdm_descriptors={"subject": list("abc")},
        pattern_descriptors={"stimulus": IDS},
    )
    described = [
        RDMTeacher(rdms, pair_weights="reliability", shrinkage=shrinkage).describe()
        for shrinkage in (0.5, 0.6)
    ]
    assert described[0] != described[1]
    one, two = (
        RDMTeacher(rdms).permuted(IDS, 0, within=dict.fromkeys(IDS, 0) | {"s0": 1, "s1": k}) for k in (0, 1)
    )
    assert one.describe() != two.describe()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder, step = sys.argv[1:]

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    fit_with(**arguments(kind, counted(kind, int(step), kill)), out=folder, checkpoint_every=2)
