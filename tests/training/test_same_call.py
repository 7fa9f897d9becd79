"""The same call with and without losses; labels by name; what augmentation and processes must not hide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from neurordl import (
    Batch,
    NetworkTeacher,
    NeurordlError,
    Objective,
    PatternTeacher,
    RDMLoss,
    RDMTeacher,
    Run,
    SoftTargetLoss,
    StimulusSet,
    TransferLoss,
    accuracy,
    load_run,
)
from tests.helpers import random_rdms, random_stimuli, student
from tests.training.helpers import fit_with

IDS = [f"s{i}" for i in range(48)]
SIZES = {"batch_size": 4, "stimuli_batch": 8}


def labelled() -> StimulusSet:
    return random_stimuli(10, 1, [f"image{i}" for i in range(10)], labels=np.arange(10) % 4)


def stimuli(labels: Any = None) -> StimulusSet:
    return random_stimuli(48, 2, IDS, labels=labels)


def rdm_loss(**options: Any) -> RDMLoss:
    return RDMLoss(RDMTeacher(random_rdms(IDS, subject=["a"])), "conv2", **options)


@pytest.mark.parametrize("options", [{}, {"validation": 0.25}, {"steps_per_epoch": 5}])
def test_steps_and_labelled_batches_are_the_same_without_losses(options: dict[str, Any]) -> None:
    shown: dict[str, list[str]] = {}
    runs = {}
    for name, objective in {"labels": Objective(), "rdl": Objective(rdm_loss())}.items():
        digests = shown[name] = []

        def augment(images: Tensor, digests: list[str] = digests) -> Tensor:
            digests.append(str(images.sum(dim=(1, 2, 3)).tolist()))  # which images, in which order
            return images + 0.1 * torch.rand_like(images)

        torch.manual_seed(0)
        runs[name] = fit_with(
            student(),
            objective,
            labelled(),
            stimuli(np.arange(48) % 4),
            epochs=3,
            augment=augment,
            **SIZES,
            **options,
        )
    per_epoch = options.get("steps_per_epoch", 4 if "validation" in options else 6)
    for run in runs.values():
        assert run.record["settings"]["steps_per_epoch"] == per_epoch
        assert run.history["step"].tolist() == [per_epoch, 2 * per_epoch, 3 * per_epoch]
        assert run.validation_ids == runs["rdl"].validation_ids
    assert shown["labels"] == shown["rdl"]
    assert len(shown["labels"]) == 1 + 3 * per_epoch
    assert runs["labels"].fitted_ids == ()
    assert not runs["labels"].record["stimuli"]["shown"]
    assert runs["rdl"].record["stimuli"]["shown"]


def test_labels_only_says_that_stimuli_are_not_shown() -> None:
    with pytest.warns(
        UserWarning, match="48 stimuli are not shown to the student; they only set the epoch, 6 steps"
    ):
        fit_with(student(), Objective(), labelled(), stimuli(), epochs=1, **SIZES)
    with pytest.warns(UserWarning, match="batch norm has the statistics of the labelled images alone"):
        fit_with(student(batchnorm=True), Objective(), labelled(), stimuli(), epochs=1, **SIZES)


def test_steps_per_epoch_must_be_a_count() -> None:
    with pytest.raises(NeurordlError, match=r"Batches.steps_per_epoch=0"):
        fit_with(student(), Objective(), labelled(), steps_per_epoch=0)


def test_validation_of_a_labels_only_run_is_by_the_task(tmp_path: Path) -> None:
    held_out = random_stimuli(12, 5, [f"v{i}" for i in range(12)], labels=np.arange(12) % 4)
    arguments: dict[str, Any] = {"epochs": 4, "validation": held_out, "lr": 0.01, "out": tmp_path / "run"}
    run = fit_with(student(), Objective(), labelled(), **arguments)
    best = run.history["val_task"].idxmin()
    assert run.record["best"]["epoch"] == run.history["epoch"][best]
    assert run.validation_ids == held_out.ids
    with torch.no_grad():
        right = nn.functional.cross_entropy(run.student(held_out.images()), held_out.labels)
    assert float(right) == pytest.approx(run.history["val_task"][best], abs=1e-6)
    resumed = fit_with(student(), Objective(), labelled(), **arguments, resume=True)
    assert resumed.history["val_task"].tolist() == pytest.approx(run.history["val_task"].tolist())


def test_validation_images_that_are_labelled_are_left_out() -> None:
    images = stimuli(np.arange(48) % 4)
    with pytest.warns(
        UserWarning, match="5 of 12 images are among the labelled ones; .* task loss of the 7 others"
    ):
        run = fit_with(
            student(),
            Objective(),
            images.subset(IDS[:5] + IDS[20:]),
            validation=images.subset(IDS[:12]),
            epochs=1,
        )
    assert run.validation_ids == tuple(IDS[5:12])
    with pytest.raises(NeurordlError, match="4 of 4 images are among the labelled ones"):
        fit_with(student(), Objective(), images, validation=images.subset(IDS[:4]), epochs=1)


# Labels by name


class Bright(nn.Module):
    """Scores of four classes: which quarter of the columns is brightest; a parameter that is not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(1, 2)).unflatten(1, (4, 2)).mean(dim=2)


def bars(names: str, classes: str = "abcd", wrong: int = 0) -> StimulusSet:
    """An image for each letter, a bar at its place; the last `wrong` ones have the bar of another."""
    pixels = np.zeros((len(names), 8, 8), dtype=np.uint8)
    for row, name in enumerate(names):
        place = "abcd".index(name) if name in "abcd" else 0
        place = (place + (row >= len(names) - wrong)) % 4
        pixels[row, :, 2 * place : 2 * place + 2] = 200
    listed = sorted(set(names)) if classes == "own" else list(classes)
    ids = [f"{name}{row}" for row, name in enumerate(names)]
    return StimulusSet.from_array(pixels, ids, labels=list(names), classes=listed)


class Folder(Dataset[Any]):
    """Like torchvision's ImageFolder: names of the classes that it holds, and labels that number these."""

    def __init__(self, images: StimulusSet) -> None:
        self.images, self.classes = images, list(images.classes or ())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.images.images([place])[0], int(self.images.labels[place])


def fitted(out: Path | None = None) -> Run:
    return fit_with(Bright(), Objective(), bars("abcdabcd"), epochs=1, lr=1e-6, out=out)


@pytest.mark.parametrize("make", [lambda images: images, Folder], ids=["set", "data set"])
def test_accuracy_of_a_set_that_lacks_a_class(make: Any, tmp_path: Path) -> None:
    run = fitted(tmp_path / "run")
    assert run.classes == ("a", "b", "c", "d")
    lacking = bars("bcdbcdbc", "own", wrong=2)
    assert lacking.classes == ("b", "c", "d")
    for network in (run, run.student, load_run(tmp_path / "run", Bright())):
        assert accuracy(network, make(lacking)) == 6 / 8
        assert accuracy(network, make(bars("dcba", "dcba"))) == 1.0
    with pytest.raises(NeurordlError, match="not trained on 'x', but on 'a', 'b', 'c', 'd'"):
        accuracy(run, make(bars("abx", "own")))
    assert accuracy(run, bars("ab", "abx")) == 1.0  # no image is of x


def test_accuracy_of_numbers_is_by_number() -> None:
    images = bars("bcdb", "own")
    assert accuracy(Bright(), images) == 0.0  # a network that was not fitted knows no names
    numbers = StimulusSet.from_array(images.pixels.numpy(), images.ids, labels=[1, 2, 3, 1])
    assert accuracy(fitted(), numbers) == 1.0


class Outputs:
    """Like the outputs of a network of Hugging Face."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap", [lambda x: {"hidden": x[:, :1], "logits": x}, Outputs], ids=["dict", "object"]
)
def test_accuracy_of_outputs_with_logits(wrap: Any) -> None:
    class Wrapped(Bright):
        def forward(self, images: Tensor) -> Any:
            return wrap(super().forward(images))

    assert accuracy(Wrapped(), bars("abcd", wrong=1)) == 3 / 4
    run = fit_with(Wrapped(), Objective(), bars("abcd"), epochs=1)
    assert np.isfinite(run.history["task"]).all()


def test_accuracy_of_outputs_without_logits() -> None:
    class Wrapped(Bright):
        def forward(self, images: Tensor) -> Any:
            return {"hidden": super().forward(images)}

    with pytest.raises(
        NeurordlError, match=r"accuracy needs a tensor \(images, classes\), but the student returned"
    ):
        accuracy(Wrapped(), bars("abcd"))


# Networks that check the size of images, and wrapped ones


class Choosy(nn.Module):
    """Like a ViT of timm or Hugging Face: images of another size are an error of its own."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.conv1, self.error = nn.Conv2d(1, 4, 3), error

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != 16:
            raise self.error(f"input size {images.shape[-1]} doesn't match 16")
        return self.conv1(images).mean(dim=(2, 3))


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_images_of_another_size_are_an_error_of_the_package(error: type[Exception]) -> None:
    images = labelled()
    network = NetworkTeacher(Choosy(error), "conv1")
    cached = NetworkTeacher(Choosy(error), "conv1", cache=images)
    uses = {
        "student": [
            lambda: fit_with(Choosy(error), Objective(), images),
            lambda: accuracy(Choosy(error), images),
        ],
        "teacher": [
            lambda loss=loss: fit_with(student(), Objective(loss), images)
            for loss in (RDMLoss(network, "conv2"), RDMLoss(cached, "conv2"), SoftTargetLoss(network))
        ],
    }
    for role, calls in uses.items():
        for call in calls:
            with pytest.raises(
                NeurordlError, match=f"the {role} does not take images of 1 x 8 x 8 .* size 8"
            ):
                call()


def test_a_compiled_student_is_saved_under_plain_names(tmp_path: Path) -> None:
    compiled = torch.compile(student(), backend="eager")
    arguments: dict[str, Any] = {"epochs": 1, "validation": 0.25, **SIZES}
    run = fit_with(compiled, Objective(rdm_loss()), labelled(), stimuli(), out=tmp_path / "run", **arguments)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert list(checkpoint["student"]) == list(student().state_dict())
    assert run.record["student"]["class"] == "Sequential"
    for network in (None, student(3), torch.compile(student(4), backend="eager")):
        loaded = load_run(tmp_path / "run", network)
        pairs = zip(compiled.parameters(), loaded.student.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


# Augmented images


def test_augmented_images_of_a_cached_teacher_are_refused() -> None:
    images = random_stimuli(12, 3, IDS[:12], labels=np.arange(12) % 4)
    cached = NetworkTeacher(student(), "conv2", cache=images)
    arguments: dict[str, Any] = {"augment": lambda images: images.flip(-1), "epochs": 1}
    for loss in (RDMLoss(cached, "conv2"), SoftTargetLoss(cached)):
        with pytest.raises(
            NeurordlError, match=r"augment= changes .* from its cache .* make it without cache="
        ):
            fit_with(student(), Objective(loss), images, **arguments)
        fit_with(student(), Objective(loss), images, images, **arguments)
    live = NetworkTeacher(student(), "conv2")
    run = fit_with(student(), Objective(RDMLoss(live, "conv2")), images, lr=0.0, **arguments)
    assert run.history["rdm:conv2"][0] == pytest.approx(0, abs=1e-6)  # the same network sees the same images
    patterns = PatternTeacher({"a": (np.random.default_rng(0).normal(size=(12, 9)), IDS[:12])})
    for measured in (
        rdm_loss(),
        RDMLoss(patterns, "conv2"),
        RDMLoss(patterns.permuted(IDS[:12], 0), "conv2"),
    ):
        with pytest.warns(UserWarning, match="RDMs are of the originals"):
            fit_with(student(), Objective(measured), images, **arguments)
    control = RDMLoss(cached.permuted(IDS[:12], 0)["conv2"], "conv2")
    with pytest.raises(NeurordlError, match=r"augment= changes .* from its cache"):
        fit_with(student(), Objective([rdm_loss(), control]), images, **arguments)
    with pytest.raises(NeurordlError, match="augment= changes the labelled images only"):
        fit_with(student(), Objective(rdm_loss(), task=None), stimuli=stimuli(), **arguments)


# Undefined losses


class Fixed(nn.Module):
    """Outputs that are given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs[: len(images)]


@pytest.mark.parametrize("mask", [False, True])
def test_soft_targets_of_a_teacher_that_excludes_a_class(mask: bool) -> None:
    goal, outputs = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    goal[:, 2] = -torch.inf
    if mask:
        outputs[:, 2] = -torch.inf
    model = Fixed(outputs)
    loss = SoftTargetLoss(NetworkTeacher(Fixed(goal)), temperature=2.0)
    value, _ = Objective(loss, task=None)(model, stimuli=(torch.zeros(4, 1, 2, 2), IDS[:4]))
    value.backward()
    p, q = (torch.softmax(x.double() / 2, 1).detach().numpy() for x in (goal, outputs))
    others = [0, 1, 3, 4]
    right = 4 * (p[:, others] * np.log(p[:, others] / q[:, others])).sum() / 4
    assert float(value.detach()) == pytest.approx(right, rel=1e-5)
    np.testing.assert_allclose(model.outputs.grad, 4 * (q - p) / 2 / 4, atol=1e-6)


class Overflowing(Fixed):
    """Finite weights whose output is NaN."""

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = super().forward(images) * torch.inf * 0
        return outputs


def test_soft_targets_of_a_nan_are_not_hidden() -> None:
    loss = SoftTargetLoss(NetworkTeacher(Overflowing(torch.ones(4, 5))))
    _, terms = Objective(loss, task=None)(
        Fixed(torch.zeros(4, 5)), stimuli=(torch.zeros(4, 1, 2, 2), IDS[:4])
    )
    assert torch.isnan(terms["soft_targets"])


class Undefined(TransferLoss):
    """A loss of one's own that is never defined."""

    layers = ("conv2",)

    def __call__(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        return torch.tensor(torch.nan)


def test_an_undefined_loss_names_its_cause() -> None:
    with pytest.warns(UserWarning, match="undefined was undefined .*: it returned NaN or infinity"):
        fit_with(student(), Objective(Undefined()), labelled(), stimuli(), epochs=1)
    with pytest.raises(NeurordlError, match=r"validation stimuli are undefined \(undefined\); they are NaN"):
        fit_with(student(), Objective(Undefined()), labelled(), stimuli(), epochs=1, validation=0.3)


# Launchers


@pytest.mark.parametrize(
    ("local", "options", "remedy"),
    [
        ("2", "", "devices=2, num_nodes=1"),
        ("1", "", "devices=1, num_nodes=2"),
        ("2", "devices=3", "devices=2, num_nodes=1"),
    ],
)
def test_a_world_of_a_launcher_that_was_not_asked_for(
    local: str, options: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    settings = {"devices": int(options[-1])} if options else {}
    with pytest.raises(NeurordlError, match=re.escape(f"execution=Execution({remedy})")):
        fit_with(student(), Objective(), labelled(), **settings)


LOOP = """
import torch
from torch.nn.parallel import DistributedDataParallel
from neurordl import NeurordlError, Objective, Processes, RDMLoss, RDMTeacher, fit, Execution
from tests.helpers import random_rdms, student
from tests.training.test_same_call import IDS, labelled, rdm_loss, stimuli
from tests.training.helpers import fit_with

torch.set_num_threads(1)
TWO = {"devices": 2, "accelerator": "cpu"}
run = fit_with(student(), Objective(rdm_loss()), labelled(), stimuli(), epochs=1, **TWO)
assert run.record["settings"]["processes"] == 2
rank, images = torch.distributed.get_rank(), stimuli().images()[:12]
objective = Objective(rdm_loss(), task=None)
mine = (images[rank::2], IDS[rank:12:2])
try:
    objective(student(), stimuli=mine)
except NeurordlError as error:
    assert "pass processes=nrl.Processes()" in str(error), error
else:
    raise AssertionError("RDMs of each process")


class Loss(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return objective(self.network, stimuli=batch, processes=Processes())[0]


network, alone = student(), student()
alone.load_state_dict(network.state_dict())
parallel = DistributedDataParallel(Loss(network), find_unused_parameters=True)
loss = parallel(mine)
loss.backward()
right, _ = objective.compute(alone, None, (images, IDS[:12]), None, "labelled", None)
right.backward()
torch.testing.assert_close(loss, right, atol=1e-6, rtol=0)
for ours, theirs in zip(network.parameters(), alone.parameters()):
    if theirs.grad is not None:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
print("as one process")
"""


def test_a_loop_of_ones_own_over_two_processes(tmp_path: Path) -> None:
    """Under torchrun: `fit` takes its processes; an objective refuses RDMs of each process, or gathers."""
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        str(script),
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("as one process") == 2
