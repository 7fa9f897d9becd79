"""Every loss of the package in one objective: two processes are one, and a killed run resumes to the bit.

A new loss is a line in `losses`. Run as a module it is what two processes run, or the run that is killed:
``python -m tests.training.test_relatives processes|killed FOLDER``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ddp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import neurordl as nrl
from neurordl.training.objective import Processes
from tests.helpers import student
from tests.training.helpers import (
    assert_as_in_one_process,
    fit_with,
    launch,
    save_rank,
    step_of_size_one,
)
from tests.training.test_user_loss import IDS, STEPS, M, N, at_step, images, moved, same


def losses() -> list[nrl.TransferLoss]:
    """One of each, with weights by which their gradients are of one size."""
    teacher = nrl.NetworkTeacher(student(9), ["conv3", ""])
    return [
        nrl.RDMLoss(teacher["conv3"], "conv3"),
        nrl.SoftTargetLoss(teacher),
        nrl.HintLoss(teacher["conv3"], "conv2"),
        nrl.AttentionLoss(teacher["conv3"], "conv2", weight=10.0),
        nrl.DecoupledLoss(teacher),
        nrl.DeepSupervisionLoss("conv1"),
        nrl.ContrastiveLoss(teacher["conv3"], "conv2", IDS, channels=6, negatives=7, weight=0.01),
        nrl.AngleLoss(teacher["conv3"], "conv2"),
        nrl.SimilarityPreservingLoss(teacher["conv3"], "conv2"),
        nrl.CorrelationCongruenceLoss(teacher["conv3"], "conv2"),
        nrl.ProbabilisticTransferLoss(teacher["conv3"], "conv2", weight=30.0),
    ]


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "student": student(),
        "objective": nrl.Objective(losses()),
        "labelled": images(N, 1),
        "stimuli": images(M, 2, IDS),
        "epochs": 3,
        "batch_size": 8,
        "stimuli_batch": 5,
        "augment": lambda x: x + 0.1 * torch.randn_like(x),
        "validation": 0.25,
        "seed": 3,
        **changes,
    }


def weights(run: nrl.Run, objective: nrl.Objective) -> dict[str, Tensor]:
    return {**run.student.state_dict(), **objective.state_dict()}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_all_in_another_precision(precision: str) -> None:
    """Fabric converts the modules of losses too, after a first look in float32."""
    history = fit_with(**arguments(epochs=1), precision=precision).history
    assert history.notna().all(axis=None)
    assert {f"val_{name}" for name in nrl.Objective(losses()).of_stimuli} < set(history)


# Processes


def single_step() -> tuple[nrl.Objective, dict[str, Any]]:
    """One step on all of the data."""
    changes = {"batch_size": N, "stimuli_batch": M, "epochs": 1, "augment": None, "validation": None}
    settings = arguments(**changes, optimizer=step_of_size_one, scheduler="constant")
    return settings["objective"], settings


def processes(folder: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    objective, settings = single_step()
    run = fit_with(**settings, fabric=fabric)
    save_rank(folder, fabric.global_rank, weights(run, objective), run)
    note_buffers(fabric, folder)


def note_buffers(fabric: Fabric, folder: Path) -> None:
    """Which buffers the processes send before each forward, and those that they have at the end."""
    sent: list[str] = []

    class Parallel(DistributedDataParallel):
        def _sync_buffers(self) -> None:
            super()._sync_buffers()
            sent.append(" ".join(self.named_module_buffers))

    objective = nrl.Objective(losses())
    settings = arguments(student=student(batchnorm=True), objective=objective, validation=None)
    before, ddp.DistributedDataParallel = ddp.DistributedDataParallel, Parallel  # type: ignore[attr-defined, misc]
    share, Processes.share_buffers = Processes.share_buffers, lambda self, module: None  # type: ignore[method-assign]
    try:
        fit_with(**settings, fabric=fabric)
    finally:
        ddp.DistributedDataParallel, Processes.share_buffers = before, share  # type: ignore[attr-defined, misc, method-assign]
    torch.save((sent, objective.state_dict()), folder / f"{fabric.global_rank}.pt")


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    started = launch("test_relatives", "processes", tmp_path)
    objective, settings = single_step()
    run = fit_with(**settings)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 0, output
    assert moved(student().state_dict(), run.student.state_dict())
    assert_as_in_one_process(tmp_path, weights(run, objective), run)
    (sent, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)  # though nobody has sent them
    assert first["contrastive:conv2.shown"].all()
    assert len(set(sent)) == 1
    assert len(sent) >= 3
    names = set(sent[0].split())
    assert names == {f"student.{name}" for name, _ in student(batchnorm=True).named_buffers()}


# Killed and resumed


def killed(folder: Path) -> None:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    fit_with(**arguments(), scheduler=at_step(2 * STEPS - 1, kill), out=folder, checkpoint_every=2)


def test_killed_and_resumed_to_the_bit(tmp_path: Path) -> None:
    started = launch("test_relatives", "killed", tmp_path / "run")
    schedule, settings = at_step(-1, lambda: None), arguments()
    whole = fit_with(**settings, scheduler=schedule, out=tmp_path / "whole")
    output, _ = started.communicate(timeout=300)
    assert started.returncode == -signal.SIGKILL, output
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 2 * STEPS - 2
    again = arguments()
    resumed = fit_with(**again, scheduler=schedule, out=tmp_path / "run", checkpoint_every=2, resume=True)
    assert same(weights(resumed, again["objective"]), weights(whole, settings["objective"]))
    assert resumed.record == whole.record
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"), check_exact=True
    )
    for file in ("student.safetensors", "best.safetensors", "losses.safetensors", "run.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    for file in ("student.safetensors", "losses.safetensors"):  # a finished run is completed
        whole_file = (tmp_path / "run" / file).read_bytes()
        (tmp_path / "run" / file).unlink()
        fit_with(**arguments(), scheduler=schedule, out=tmp_path / "run", checkpoint_every=2, resume=True)
        assert (tmp_path / "run" / file).read_bytes() == whole_file


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"processes": processes, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
