"""What a run's folder keeps, whatever is taken from it or goes wrong."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neurordl import NetworkTeacher, NeurordlError, Objective, RDMLoss, StimulusSet
from neurordl.students import load_weights, small_cnn
from neurordl.training.run import same_start
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


def test_a_run_is_not_resumed_from_another_checkpoint(tmp_path: Path) -> None:
    """Neither under another name nor under the same one; that of the run goes on, also once trained."""
    images, student = _tiny()
    for name, seed in (("first", 1), ("second", 2)):
        torch.manual_seed(seed)
        torch.save(small_cnn(2, 1, width=2).state_dict(), tmp_path / f"{name}.pth")

    def resume(student: torch.nn.Module, name: str = "") -> None:
        if name:
            load_weights(student, tmp_path / name)
        return fit_with(student, Objective(), images, epochs=1, out=tmp_path / "run", resume=True)

    run = resume(student, "first.pth")
    record = run.record["student"]
    assert (record["checkpoint"], record["sha256_weights"]) == ("first.pth", record["sha256_checkpoint"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="resume:")
        assert resume(student).record == resume(_tiny()[1], "first.pth").record == run.record
    with pytest.raises(NeurordlError, match=r"other initial weights .*\(first.pth before, second.pth now\)"):
        resume(_tiny()[1], "second.pth")
    with pytest.raises(NeurordlError, match=r"\(first.pth before, no checkpoint now\)"):
        resume(_tiny()[1])
    (tmp_path / "second.pth").replace(tmp_path / "first.pth")
    with pytest.raises(NeurordlError, match=r"\(first.pth has changed\)"):
        resume(_tiny()[1], "first.pth")
    for name in ("checkpoint", "sha256_checkpoint", "sha256_weights"):  # as an earlier version wrote it
        del record[name]
    (tmp_path / "run" / "run.json").write_text(json.dumps(run.record))
    assert "checkpoint" not in resume(_tiny()[1], "first.pth").record["student"]


def test_a_run_goes_on_with_its_own_random_weights(tmp_path: Path) -> None:
    """Whoever has not seeded them can go on; a notice says that the new ones are not used."""
    images, student = _tiny()
    run = fit_with(student, Objective(), images, epochs=1, out=tmp_path / "run")
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="resume: the student has other initial weights .*torch.manual_seed"):
        again = fit_with(
            small_cnn(2, 1, width=2), Objective(), images, epochs=1, out=tmp_path / "run", resume=True
        )
    assert again.record["student"] == run.record["student"]
    for name, value in run.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value)


def test_a_checkpoint_is_named_where_the_weights_were_changed_since(tmp_path: Path) -> None:
    images, student = _tiny()
    torch.save(student.state_dict(), tmp_path / "mine.pth")
    load_weights(student, tmp_path / "mine.pth")
    torch.nn.init.normal_(student.fc2[1].weight)  # a new head
    run = fit_with(student, Objective(), images, epochs=1)
    assert run.record["student"]["checkpoint"] == "mine.pth, changed before training"
    out = {"epochs": 1, "out": tmp_path / "run", "resume": True}
    load_weights(student, tmp_path / "mine.pth")
    torch.nn.init.normal_(student.fc2[1].weight)
    first = fit_with(student, Objective(), images, **out)
    assert fit_with(student, Objective(), images, **out).record == first.record  # the same student again
    fresh = _tiny()[1]
    load_weights(fresh, tmp_path / "mine.pth")
    with pytest.raises(NeurordlError, match="other initial weights"):  # without the run's head
        fit_with(fresh, Objective(), images, **out)


def test_seeds_with_equal_weights_are_named() -> None:
    """All of them, some of them, and none; what is not known is not said."""
    starts = [{"sha256_weights": text} for text in ("a", "b", "a", "c", "b")]
    assert same_start(dict(enumerate(starts))).startswith("seeds 0, 2 and seeds 1, 4 start from the same")
    assert same_start(dict(enumerate([*starts[:1], {}, {}]))) == ""
    assert same_start({0: starts[0], 1: starts[1]}) == ""
    assert same_start({0: starts[0], 2: starts[2]}).startswith("all 2 seeds start")
