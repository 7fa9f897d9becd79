"""A transfer loss with parameters, made by a user in one object, works wherever a loss does.

Run as a module it is what two processes run, or the run that is killed:
``python -m tests.training.test_user_loss processes|killed FOLDER``.
"""

from __future__ import annotations

import doctest
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import neurordl as nrl
import neurordl.training.losses.base
from tests.helpers import random_stimuli, student
from tests.training.helpers import (
    assert_as_in_one_process,
    fit_with,
    launch,
    save_rank,
    step_of_size_one,
)

N, M, STEPS = 32, 20, 4  # labelled images, stimuli, steps of an epoch
IDS = [f"s{i}" for i in range(M)]


class Hint(nrl.TransferLoss, nn.Module):
    """Romero et al. (2015): a 1 x 1 convolution predicts the maps of a teacher's layer.

    The number of the student's maps is not known before the first batch.
    """

    layers = ("conv2",)

    def __init__(self, teacher: nrl.NetworkTeacher, weight: float = 1.0) -> None:
        super().__init__()
        self.teacher, self.weight = teacher["conv3"], weight
        self.regressor = nn.LazyConv2d(16, kernel_size=1)

    def forward(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: nrl.Batch
    ) -> Tensor:
        assert student["conv2"].shape[1:] == (8, 2, 2)
        assert teacher["conv3"].shape[1:] == (16, 2, 2)
        return nn.functional.mse_loss(self.regressor(student["conv2"]), teacher["conv3"])


def images(n: int, seed: int, ids: list[str] | None = None) -> nrl.StimulusSet:
    return random_stimuli(n, seed, ids, labels=np.arange(n) % 4)


def teacher(**options: Any) -> nrl.NetworkTeacher:
    return nrl.NetworkTeacher(student(9), ["conv3"], **options)


def arguments(hint: nn.Module | None = None, **changes: Any) -> dict[str, Any]:
    """Two streams, the hint beside an RDM loss of the same teacher."""
    taught = hint.teacher if isinstance(hint, Hint) else teacher()["conv3"]
    return {
        "student": student(),
        "objective": nrl.Objective([hint or Hint(taught.network), nrl.RDMLoss(taught, "conv3")]),
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


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return all(not torch.equal(value, after[name]) for name, value in before.items())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_in_a_loop_of_ones_own() -> None:
    model, hint = student(), Hint(teacher())
    objective = nrl.Objective(hint, task=None)
    shown = images(M, 2, IDS)
    batch = (shown.images(), shown.ids)
    objective(model, stimuli=batch)  # gives the regressor its shape
    assert [tuple(value.shape) for value in objective.parameters()] == [(16, 8, 1, 1), (16,)]
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    values = []
    for _ in range(60):
        loss, terms = objective(model, stimuli=batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(terms["hint"]))
    assert values[-1] < 0.3 * values[0]
    assert set(before) == {"hint.regressor.weight", "hint.regressor.bias"}
    assert moved(before, objective.state_dict())


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("stream", ["one", "two"])
def test_fit_trains_the_hint_in_one_and_in_two_streams(stream: str, cached: bool) -> None:
    shown = images(M, 2, IDS)
    hint = Hint(teacher(cache=shown if cached else None))
    changes: dict[str, Any] = {"epochs": 20, "lr": 1e-2, "augment": None}
    if stream == "one":
        changes |= {"labelled": shown, "stimuli": None, "validation": None}
    history = fit_with(**arguments(hint, **changes)).history
    assert history["hint"].iloc[-1] < 0.5 * history["hint"].iloc[0]


def test_parameters_are_in_the_optimizer_the_record_and_a_separate_file(tmp_path: Path) -> None:
    hint = Hint(teacher(), weight=0.5)
    run = fit_with(**arguments(hint, out=tmp_path / "run"))
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    count = len(list(run.student.parameters()))
    assert len(state["optimizer"]["state"]) == count + 2
    assert run.record["optimizer"]["class"] == "AdamW"
    described = run.record["objective"]["losses"]["hint"]
    assert (described["class"], described["parameters"], described["weight"]) == ("Hint", 16 * 8 + 16, 0.5)
    assert described["teacher"]["teacher"] == "NetworkTeacher"
    assert run.record["student"]["parameters"] == sum(value.numel() for value in student().parameters())
    names = set(student().state_dict())
    for file in ("student.safetensors", "best.safetensors"):
        assert set(safetensors.torch.load_file(tmp_path / "run" / file)) == names
    losses = safetensors.torch.load_file(tmp_path / "run" / "losses.safetensors")
    assert same(losses, {f"hint.{name}": value for name, value in hint.state_dict().items()})
    again = nrl.load_run(tmp_path / "run")
    assert set(again.student.state_dict()) == names
    assert same(again.student.state_dict(), run.student.state_dict())


def test_a_run_without_parameters_in_its_losses_has_no_such_file(tmp_path: Path) -> None:
    objective = nrl.Objective(nrl.RDMLoss(teacher(), "conv3"))
    fit_with(**arguments(objective=objective, epochs=1, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "losses.safetensors").exists()


def test_initial_parameters_follow_the_seed_and_not_the_callers_random_state() -> None:
    def initial(seed: int, before: int) -> dict[str, Tensor]:
        hint = Hint(teacher())
        settings = arguments(hint, seed=seed, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        torch.manual_seed(before)
        fit_with(**settings)
        return hint.state_dict()

    assert same(initial(0, 1), initial(0, 2))
    assert not same(initial(0, 1), initial(1, 1))


def test_buffers_of_a_loss_are_those_of_training_alone() -> None:
    """The look before the first step and the validation leave the statistics of batch norm alone."""

    class Normed(Hint):
        def __init__(self, taught: nrl.NetworkTeacher) -> None:
            super().__init__(taught)
            self.regressor = nn.Sequential(nn.LazyConv2d(16, 1), nn.LazyBatchNorm2d())

    hint = Normed(teacher())
    run = fit_with(**arguments(hint))
    assert int(hint.regressor[1].num_batches_tracked) == run.history["step"].iloc[-1]


# Processes


def single_step(hint: Hint) -> dict[str, Any]:
    """One step on all of the data, so that the weights tell the gradient."""
    changes = {"batch_size": N, "stimuli_batch": M, "epochs": 1, "augment": None, "validation": None}
    return arguments(hint, **changes, optimizer=step_of_size_one, scheduler="constant")


def weights_with(hint: Hint, run: nrl.Run) -> dict[str, Tensor]:
    return {
        **run.student.state_dict(),
        **{f"hint.{key}": value for key, value in hint.state_dict().items()},
    }


def processes(folder: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    hint = Hint(teacher())
    run = fit_with(**single_step(hint), fabric=fabric)
    save_rank(folder, fabric.global_rank, weights_with(hint, run), run)


def test_two_processes_train_the_hint_as_one_does(tmp_path: Path) -> None:
    started = launch("test_user_loss", "processes", tmp_path)
    hint = Hint(teacher())
    run = fit_with(**single_step(hint))
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 0, output
    assert moved(student().state_dict(), run.student.state_dict())
    assert_as_in_one_process(tmp_path, weights_with(hint, run), run)


# Killed and resumed


def at_step(number: int, action: Callable[[], Any]) -> Callable[..., LambdaLR]:
    """A schedule that does something at a step."""

    def make(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: (action() if step == number else None) or 1 / (1 + step))

    return make


def killed(folder: Path) -> None:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    fit_with(**arguments(), scheduler=at_step(2 * STEPS - 1, kill), out=folder, checkpoint_every=2)


def test_killed_and_resumed_to_the_bit(tmp_path: Path) -> None:
    started = launch("test_user_loss", "killed", tmp_path / "run")
    hint = Hint(teacher())
    schedule = at_step(-1, lambda: None)
    whole = fit_with(**arguments(hint), scheduler=schedule, out=tmp_path / "whole")
    output, _ = started.communicate(timeout=300)
    assert started.returncode == -signal.SIGKILL, output
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 2 * STEPS - 2
    resumed_hint = Hint(teacher())
    resumed = fit_with(
        **arguments(resumed_hint), scheduler=schedule, out=tmp_path / "run", checkpoint_every=2, resume=True
    )
    assert same(resumed.student.state_dict(), whole.student.state_dict())
    assert same(resumed_hint.state_dict(), hint.state_dict())
    assert resumed.record == whole.record
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"), check_exact=True
    )
    for file in ("student.safetensors", "best.safetensors", "losses.safetensors", "run.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert "hint" in json.loads((tmp_path / "run" / "run.json").read_text())["objective"]["losses"]


def test_another_hint_is_another_run(tmp_path: Path) -> None:
    fit_with(**arguments(epochs=1), out=tmp_path / "run")
    with pytest.raises(nrl.NeurordlError, match=r"differs in hint\.weight \("):
        fit_with(**arguments(Hint(teacher(), 2.0), epochs=1), out=tmp_path / "run", resume=True)


def test_losses_in_another_order_are_another_run(tmp_path: Path) -> None:
    """Their parameters are in the checkpoint by number."""

    def objective(*names: str) -> nrl.Objective:
        taught = teacher()
        hints = [Hint(taught) for _ in names]
        for hint, name in zip(hints, names, strict=True):
            hint.name = name
        return nrl.Objective(hints)

    fit_with(**arguments(objective=objective("first", "second"), epochs=1), out=tmp_path / "run")
    again = arguments(objective=objective("second", "first"), epochs=1)
    with pytest.raises(nrl.NeurordlError, match=r"differs in losses \(\['first', 'second'\] before"):
        fit_with(**again, out=tmp_path / "run", resume=True)


# What a loss must have


def test_one_error_lists_all_that_an_object_lacks() -> None:
    class Nameless(nn.Module):
        layers = ("conv2",)

    with pytest.raises(
        nrl.NeurordlError,
        match=r"Nameless is not a .*, because it has no name, weight, teacher, network, describe, forward;",
    ):
        nrl.Objective(Nameless())  # type: ignore[arg-type]

    class Silent(nrl.TransferLoss):
        pass

    with pytest.raises(nrl.NeurordlError, match="Silent is not a TransferLoss, because it has no __call__;"):
        nrl.Objective(Silent())


def test_what_is_no_loss_is_named() -> None:
    with pytest.raises(nrl.NeurordlError, match="Hint is a class; give an object of it"):
        nrl.Objective([Hint])  # type: ignore[list-item]
    hint = Hint(teacher())
    hint.teacher = teacher()  # type: ignore[assignment]
    with pytest.raises(nrl.NeurordlError, match=r"its teacher is a network; .* as in teacher\['conv3'\]"):
        nrl.Objective(hint)


def test_a_loss_that_is_no_scalar_is_named() -> None:
    class Rows(nrl.TransferLoss):
        layers = "conv2"  # type: ignore[assignment]

        def __call__(self, student: Any, teacher: Any, batch: Any) -> Tensor:
            return student["conv2"].flatten(1).mean(dim=1)

    assert Rows().describe()["layers"] == ["conv2"]
    with pytest.raises(nrl.NeurordlError, match=r"rows: a loss must return a tensor of shape \(\), not one"):
        nrl.Objective(Rows(), task=None)(student(), stimuli=(images(4, 1).images(), IDS[:4]))


def test_the_example_of_the_base_class_runs() -> None:
    examples = doctest.DocTestFinder().find(
        nrl.TransferLoss, globs={"torch": torch}, module=neurordl.training.losses.base
    )
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize().attempted >= 6
    assert runner.summarize().failed == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"processes": processes, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))


class Margin(nrl.TransferLoss):
    layers = ("conv2",)

    def __init__(self, margin: float, names: tuple[str, ...] = ("a", "b")) -> None:
        self.margin, self.names, self.function, self._cache = margin, names, torch.relu, 3

    def __call__(self, student: Any, teacher: Any, batch: nrl.Batch) -> Tensor:
        return (student["conv2"].square().mean() - self.margin).relu()


def test_settings_of_a_loss_are_recorded() -> None:
    described = Margin(0.3).describe()
    assert described["margin"] == 0.3
    assert described["names"] == ("a", "b")
    assert not {"function", "_cache", "name", "training"} & set(described)


def test_a_run_is_not_continued_with_another_margin_or_dropout(tmp_path: Path) -> None:
    def run(margin: float, dropout: float) -> None:
        network = nn.Sequential()
        network.add_module("conv2", nn.Conv2d(1, 4, 3))
        network.add_module("drop", nn.Dropout(dropout))
        network.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)))
        digits = nrl.datasets.load_digits()
        shown = digits.subset(digits.ids[:32])
        nrl.fit(
            network,
            nrl.Objective([Margin(margin)]),
            shown,
            shown,
            1,
            out=tmp_path / "run",
            resume=True,
        )

    run(0.1, 0.1)
    for margin, dropout, part in ((0.9, 0.1, r"margin\.margin \(0\.1 before"), (0.1, 0.9, "sha256_modules")):
        with pytest.raises(nrl.NeurordlError, match=part):
            run(margin, dropout)


def test_losses_take_back_their_state() -> None:
    def objective() -> nrl.Objective:
        return nrl.Objective([nrl.HintLoss(nrl.NetworkTeacher(student(9), "conv3"), "conv2")])

    first, second, shown = objective(), objective(), images(8, 0)
    for each in (first, second):
        each(student(), (shown.images(), shown.labels))
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    assert not same(first.state_dict(), second.state_dict())
    second.load_state_dict(first.state_dict())
    assert same(first.state_dict(), second.state_dict())
    fresh = objective()
    fresh.load_state_dict(first.state_dict())
    assert same(first.state_dict(), fresh.state_dict())
    with pytest.raises(nrl.NeurordlError, match=r"'x\.weight', which is of no loss; the losses are 'hint"):
        second.load_state_dict({"x.weight": torch.zeros(1)})
    with pytest.raises(nrl.NeurordlError, match="does not fit the loss 'hint:conv2'"):
        second.load_state_dict({})
