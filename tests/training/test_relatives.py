"""Every loss of the package in one objective: two processes are one, and a killed run resumes to the bit.

A new loss is a line in `losses`. Run as a module it is what two processes run, or the run that is killed:
``python -m tests.training.test_relatives processes|killed FOLDER``.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

import neurordl as nrl
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


# Extreme features

# Losses that do not depend on the scale of the features, and have their numbers at scales whose squares are no
# float32; distances beside them have theirs from 1e-19 to 1e18.
SCALE_FREE = {
    "attention": lambda teacher: nrl.AttentionLoss(teacher, "conv2"),
    "attention, power 3": lambda teacher: nrl.AttentionLoss(teacher, "conv2", power=3),
    "angle": lambda teacher: nrl.AngleLoss(teacher, "conv2"),
    "similarity": lambda teacher: nrl.SimilarityPreservingLoss(teacher, "conv2"),
    "congruence": lambda teacher: nrl.CorrelationCongruenceLoss(teacher, "conv2"),
    "congruence, exact": lambda teacher: nrl.CorrelationCongruenceLoss(teacher, "conv2", order=None),
    "probabilities": lambda teacher: nrl.ProbabilisticTransferLoss(teacher, "conv2"),
    "rdm": lambda teacher: nrl.RDMLoss(teacher, "conv2"),
    "rdm, euclidean": lambda teacher: nrl.RDMLoss(teacher, "conv2", "euclidean"),
    "rdm, cka": lambda teacher: nrl.RDMLoss(teacher, "conv2", "euclidean", "cka"),
}
CONTENTS = ["any", "a zero row", "a constant map", "duplicates", "three stimuli"]


def extreme(content: str, seed: int) -> Tensor:
    n = 3 if content == "three stimuli" else 6
    maps = torch.randn(n, 5, 4, 4, generator=torch.Generator().manual_seed(seed))
    if content == "a zero row":
        maps[1] = 0
    elif content == "a constant map":
        maps[2] = 0.7
    elif content == "duplicates":
        maps[3] = maps[1]
    return maps


def value_and_gradient(loss: nrl.TransferLoss, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    ours = ours.clone().requires_grad_()
    ids, labels = IDS[: len(ours)], torch.arange(len(ours)) % 3
    torch.manual_seed(0)  # of negatives
    student_features = {"conv2": ours, "": ours.flatten(1)[:, :10]}
    teacher_features = {"conv3": theirs, "": theirs.flatten(1)[:, :10]}
    value = loss(student_features, teacher_features, nrl.Batch(ours, ids, labels))
    (gradient,) = torch.autograd.grad(value, ours)
    return value.detach().double(), gradient.double()


def assert_near(values: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], scale: float = 1.0) -> None:
    torch.testing.assert_close(values[0], wanted[0], rtol=1e-4, atol=1e-7)
    size = float(wanted[1].abs().max())
    torch.testing.assert_close(values[1] * scale, wanted[1], rtol=0, atol=1e-4 * size + 1e-9)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", SCALE_FREE)
def test_losses_without_a_scale_are_those_of_float64_at_any(name: str, content: str) -> None:
    ours, theirs = extreme(content, 1), extreme("any", 2)[: len(extreme(content, 1))]
    loss = SCALE_FREE[name](nrl.NetworkTeacher(student(9), ["conv3"])["conv3"])
    wanted = value_and_gradient(loss, ours.double(), theirs.double())
    if name == "rdm, cka" and content == "any":
        assert wanted[0] > 0.01
    for scale in (1e-18, 1e-7, 1e7, 1e18) if name.startswith("rdm") else (1e-20, 1e-7, 1e7, 1e20):
        assert_near(value_and_gradient(loss, ours * scale, theirs), wanted, scale)
        assert_near(value_and_gradient(loss, ours, theirs * scale), wanted)


@pytest.mark.parametrize("place", [1, 2, 4, 5, 6], ids=lambda place: losses()[place].name)
@pytest.mark.parametrize("content", CONTENTS)
def test_losses_with_a_scale_are_those_of_a_copy_in_float64(content: str, place: int) -> None:
    ours, theirs = extreme(content, 1), extreme("any", 2)[: len(extreme(content, 1))]
    loss = losses()[place]
    if isinstance(loss, torch.nn.Module):
        torch.manual_seed(1)
        value_and_gradient(loss, ours, theirs)  # which shapes it
        loss.eval()  # so that memories stay
    exact = copy.deepcopy(loss).double() if isinstance(loss, torch.nn.Module) else loss
    for scale in (1e-20, 1e-7, 1e7, 1e15):  # the sum of the squares of 1e18 is no float32
        for factors in ((scale, 1.0), (1.0, scale)):
            pair = ours * factors[0], theirs * factors[1]
            wanted = value_and_gradient(exact, *(x.double() for x in pair))
            assert_near(value_and_gradient(loss, *pair), wanted)


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


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    started = launch("test_relatives", "processes", tmp_path)
    objective, settings = single_step()
    run = fit_with(**settings)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 0, output
    assert moved(student().state_dict(), run.student.state_dict())
    assert_as_in_one_process(tmp_path, weights(run, objective), run)


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"processes": processes, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
