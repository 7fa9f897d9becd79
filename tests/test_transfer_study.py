"""The transfer study: weights, conditions and batches on small random images, the step on a plain loop."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neurordl as nrl

FOLDER = Path(__file__).parents[1] / "benchmarks" / "transfer"
NAMES = ("conditions", "fast", "setting", "study")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(FOLDER))
    modules = {name: importlib.import_module(name) for name in NAMES}
    yield modules
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def small(scripts: dict[str, Any]) -> dict[str, Any]:
    """Random images in place of the data set, and a teacher with random weights."""
    pixels = torch.randint(256, (400, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ids = [f"image{number}" for number in range(len(pixels))]
    images = nrl.StimulusSet.from_array(pixels, ids, labels=torch.arange(len(pixels)) % 10)
    study, setting = scripts["study"], scripts["setting"]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(study, "load", lambda _: setting.Parts(images, images, images))
    monkeypatch.setattr(study, "trained_network", lambda name: setting.SOURCES[name].network().eval())
    cells = scripts["conditions"].CELLS
    for name in ("mnist", "mnist, variants", "mnist, trials"):
        monkeypatch.setitem(cells, name, study.replace(cells[name], labels=10, stimuli=200))
    yield scripts
    monkeypatch.undo()


def test_labelled_images_are_no_stimuli(small: dict[str, Any]) -> None:
    labelled, stimuli = small["study"].parts(small["conditions"].CELLS["mnist"], 3)
    assert (len(labelled), len(stimuli)) == (100, 200)
    assert not set(labelled.ids) & set(stimuli.ids)
    assert torch.equal(labelled.labels.bincount(), torch.full((10,), 10))


TRIED = {
    "mnist": [
        "deep supervision", "RDL, mse, several layers", "RKD", "SP", "CC", "PKT", "CKA", "AT", "hints", "CRD",
        "soft targets", "RDL + soft targets", "RDL, permuted", "RDL, permuted within classes",
    ],
    "mnist, variants": ["RDL, several and outputs"],
    "mnist, trials": ["hints, several maps", "RDL, falling weight"],
}  # fmt: skip


@pytest.mark.parametrize("cell, condition", [(cell, name) for cell in TRIED for name in TRIED[cell]])
def test_losses_of_a_condition_are_a_ratio_of_the_task_loss(
    small: dict[str, Any], cell: str, condition: str
) -> None:
    study, spec = small["study"], small["conditions"].CELLS[cell]
    labelled, stimuli = study.parts(spec, study.PILOT_SEEDS[0])
    shown = stimuli.draw(spec.batch, 0)
    torch.manual_seed(0)
    teacher = study.teacher_of(condition, study.make_teacher("mnist", shown), shown, 0)
    if "permuted" in condition:
        ids = list(shown.ids)
        assert not torch.equal(
            teacher.features(nrl.Batch(shown.images(), ids))["avgpool"],
            study.make_teacher("mnist", shown).features(nrl.Batch(shown.images(), ids))["avgpool"],
        )
    losses = study.make_losses(cell, condition, 2.0, teacher, shown.ids)
    student = study.new_student(cell, study.PILOT_SEEDS[0])
    rows = torch.linspace(0, len(labelled) - 1, study.LABELLED).long()
    batch = (labelled.images(rows), labelled.labels[rows])
    total, terms = nrl.Objective(losses)(student, batch, (shown.images(), list(shown.ids)), step=0)
    # teachers and losses with parameters have other random weights than when the ratio was taken
    assert 1.3 * float(terms["task"]) < total.item() < 9 * float(terms["task"])
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_weights(scripts: dict[str, Any]) -> None:
    weights = scripts["conditions"].weights
    assert weights([1.0, 2.0], [3.0, 0.5], 8.0, 0.5, equal=False) == pytest.approx([1.0, 2.0])
    assert weights([1.0, 1.0], [4.0, 1.0], 8.0, 0.5, equal=True) == pytest.approx([0.5, 2.0])


def test_a_step_is_that_of_a_plain_loop(scripts: dict[str, Any]) -> None:
    fast = scripts["fast"]
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    students = []
    for _ in range(2):
        torch.manual_seed(0)
        students.append(nrl.students.small_cnn(10, 1, width=4))
    contestant = fast.Contestant(
        "a", students[0], lambda: F.cross_entropy(students[0](x), y), lambda p: torch.optim.AdamW(p, lr=0.01)
    )
    step = fast.Step([contestant], [], torch.device("cpu"))
    optimizer = torch.optim.AdamW(students[1].parameters(), lr=0.01)
    for _ in range(3):
        step()
        optimizer.zero_grad()
        F.cross_entropy(students[1](x), y).backward()
        optimizer.step()
    for mine, plain in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(mine, plain)
    state = step.state_dict()
    step()
    step.load_state_dict(state)
    assert torch.equal(next(students[0].parameters()), next(students[1].parameters()))


def test_images_are_shifted_and_mirrored(scripts: dict[str, Any]) -> None:
    pixels = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    pixels[0, 0, 4, 2] = 255
    images = scripts["fast"].Images(pixels, torch.zeros(1), (0.0,), (1.0,), torch.device("cpu"), 1, True)
    drawn = images.draw(torch.zeros(500, dtype=torch.long), torch.Generator().manual_seed(0))
    places = {tuple(place) for place in drawn[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(y, x) for y in (3, 4, 5) for x in (1, 2, 3, 5, 6, 7)}
    assert torch.equal(images.plain(slice(0, 1)) * 255, pixels.float())


def test_augmentation_of_fit_moves_images_in_the_same_range(scripts: dict[str, Any]) -> None:
    setting = scripts["setting"].SOURCES["cifar100"]
    augment = scripts["study"].augmentation("cifar100")
    black = -torch.tensor(setting.mean) / torch.tensor(setting.std)
    images = black.view(1, 3, 1, 1).expand(800, 3, 32, 32).clone()
    images[:, :, 16, 10] = 7.0
    torch.manual_seed(0)
    moved = augment(images)
    rows = (moved[:, 0] > 6.9).nonzero()
    assert len(rows) == 800
    assert (int(rows[:, 1].min()), int(rows[:, 1].max())) == (12, 20)
    assert {*range(6, 15), *range(17, 26)} == set(rows[:, 2].tolist())
    assert nn.functional.mse_loss(moved.amin((2, 3)), black.expand(800, 3)) < 1e-10
