"""What a run's folder keeps, whatever is taken from it or goes wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neurordl import NetworkTeacher, NeurordlError, Objective, RDMLoss, StimulusSet
from neurordl.students import small_cnn
from neurordl.training.trainer import Trainer
from tests.training.helpers import fit_with


def _tiny() -> tuple[StimulusSet, torch.nn.Module]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = StimulusSet.from_array(pixels, [f"i{k}" for k in range(16)], labels=[k % 2 for k in range(16)])
    torch.manual_seed(0)
    return images, small_cnn(2, 1, width=2)


def test_a_run_whose_learning_rate_is_of_numpy_can_be_resumed(tmp_path: Path) -> None:
    images, student = _tiny()
    lr = np.logspace(-4, -2, 3)[1]
    fit_with(student, Objective(), images, epochs=1, lr=lr, out=tmp_path / "run")
    run = fit_with(student, Objective(), images, epochs=1, lr=lr, out=tmp_path / "run", resume=True)
    assert run.record["status"] == "finished"


def test_a_kill_between_checkpoint_and_history_loses_no_row(tmp_path: Path) -> None:
    images, student = _tiny()
    fit_with(student, Objective(), images, epochs=2, out=tmp_path / "run")
    whole = (tmp_path / "run" / "history.csv").read_text()
    (tmp_path / "run" / "history.csv").write_text("".join(whole.splitlines(keepends=True)[:2]))
    fit_with(student, Objective(), images, epochs=2, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "history.csv").read_text() == whole


def test_starting_again_without_a_checkpoint_and_failing_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, student = _tiny()
    fit_with(student, Objective(), images, epochs=1, out=tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").unlink()
    before = {file.name for file in (tmp_path / "run").iterdir()}

    def fails(_: Trainer) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(Trainer, "_one_step", fails)
    with pytest.raises(RuntimeError, match="no more memory"):
        fit_with(student, Objective(), images, epochs=1, out=tmp_path / "run", resume=True)
    assert {file.name for file in (tmp_path / "run").iterdir()} == before


def test_weights_spoilt_by_their_gradient_reach_no_checkpoint(tmp_path: Path) -> None:
    images, student = _tiny()

    def finite_loss_spoilt_gradient(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(outputs, labels)
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    objective = Objective(task=finite_loss_spoilt_gradient)
    with pytest.raises(NeurordlError, match="gradient was not finite"):
        fit_with(student, objective, images, epochs=1, out=tmp_path / "run", checkpoint_every=1)
    assert not (tmp_path / "run").exists()


def test_schedules_of_one_name_are_recorded_as_different() -> None:
    teacher = NetworkTeacher(small_cnn(2, 1, width=2), "conv1")
    one, other = (
        RDMLoss(teacher, "conv1", weight=lambda step, height=height: height) for height in (0.1, 30.0)
    )
    assert one.describe()["weight"] != other.describe()["weight"]
