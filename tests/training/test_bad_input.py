"""Bad input: one error that names the thing and the remedy, and nothing left half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rsatoolbox.rdm import RDMs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from neurordl import (
    NetworkTeacher,
    NeurordlError,
    Objective,
    RDMLoss,
    RDMTeacher,
    Run,
    SoftTargetLoss,
    StimulusSet,
    TaskRatio,
    Teacher,
    TransferLoss,
    load_run,
)
from neurordl.students import build
from neurordl.training.run import load_checkpoint
from tests.helpers import random_rdms, random_stimuli, student
from tests.training.helpers import fit_with

N, M = 24, 16
IDS = [f"s{i}" for i in range(M)]


def drawn(n: int, ids: list[str] | None = None, seed: int = 0, labels: Any = None) -> StimulusSet:
    return random_stimuli(n, seed, ids, labels)


def brain(ids: list[str] = IDS, **described: Any) -> RDMs:
    return random_rdms(ids, **(described or {"subject": ["a"]}))


def train(out: Path | None = None, **changes: Any) -> Run:
    arguments: dict[str, Any] = {
        "student": student(),
        "objective": Objective(RDMLoss(RDMTeacher(brain()), "conv2")),
        "labelled": drawn(N, labels=np.arange(N) % 4),
        "stimuli": drawn(M, IDS, seed=1),
        "epochs": 2,
        "batch_size": 8,
        "stimuli_batch": 8,
        "out": out,
    }
    return fit_with(**{**arguments, **changes})


def rdm(rdms: RDMs, **options: Any) -> Objective:
    return Objective(RDMLoss(RDMTeacher(rdms, **options), "conv2"))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, so that it can be compared afterwards."""
    results = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in results}


def nan_everywhere() -> RDMs:
    rdms = brain(subject=["a", "b"])
    rdms.dissimilarities[1] = np.nan
    return rdms


def twice() -> RDMs:
    rdms = brain()
    rdms.pattern_descriptors["stimulus"] = [*IDS[:-1], "s0"]
    return rdms


def last_label(label: int) -> dict[str, Any]:
    """One wrong label, which most batches do not hold."""
    labels = np.arange(N) % 4
    labels[17] = label
    return {"labelled": drawn(N, labels=labels)}


def pairs_missing() -> RDMs:
    rdms = brain()
    rdms.dissimilarities[0, :5] = np.nan
    return rdms


CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "ids that match nothing": (
        lambda: {"stimuli": drawn(M, [f"stim_{k}" for k in range(M)])},
        r"no id of the stimuli is among the ids of the RDMs.*give both the same ids",
    ),
    "ids that match but for an extension": (
        lambda: {"stimuli": drawn(M, [f"{name}.png" for name in IDS])},
        r"16 differ only by extension, such as 's0.png' and 's0'",
    ),
    "ids that match in part": (
        lambda: {"stimuli": drawn(M, [*IDS[:-2], "x", "y"])},
        r"2 of 16 ids of the stimuli are not in the RDMs: 'x', 'y'; leave them out, or pass missing",
    ),
    "one stream whose ids match in part": (
        lambda: {"stimuli": None, "labelled": drawn(M, [*IDS[:-1], "x"], labels=np.arange(M) % 4)},
        r"1 of 16 ids of the stimuli are not in the RDMs: 'x'",
    ),
    "no ids": (
        lambda: {"stimuli": None, "labelled": [(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))]},
        r"but the images have none",
    ),
    "a duplicate id among the stimuli": (
        lambda: {"stimuli": drawn(M, [*IDS[:-1], "s0"])},
        r"'s0' occurs more than once; rename or drop",
    ),
    "a duplicate id among the RDMs": (
        lambda: {"objective": rdm(twice())},
        r"ids of the RDMs must be unique, but 's0' occurs more than once; rename or drop",
    ),
    "an RDM that is NaN everywhere": (
        lambda: {"objective": rdm(nan_everywhere())},
        r"RDM of subject b has no measured pair \(NaN everywhere\); leave it out",
    ),
    "sessions where subjects are meant": (
        lambda: {"objective": rdm(brain(subject=["a", "a"], session=[1, 2]))},
        r"subject 'a' has 2 .*they differ in 'session' .*: use nrl.select_rdms with select= or average=",
    ),
    "ROIs where subjects are meant": (
        lambda: {"objective": rdm(brain(subject=["a", "a"], roi=["IT", "EVC"]))},
        r"they differ in 'roi' .*: use nrl.select_rdms with select= or average=",
    ),
    "ROIs without subjects": (
        lambda: {"objective": rdm(brain(roi=["IT", "EVC"]))},
        r"2 RDMs have no descriptor 'subject'",
    ),
    "a ROI that is not there": (
        lambda: {"objective": rdm(brain(subject=["a"], roi=["IT"]), roi="V4")},
        r"no RDM has roi 'V4'; roi can be: IT",
    ),
    "a layer that does not exist": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), "conv4"))},
        r"\(Sequential\) has no layer 'conv4'; nearest: .*conv3",
    ),
    "a glob where a layer is meant": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), "conv*"))},
        r"'conv\*' matches \d+ layers; choose one of conv1",
    ),
    "a teacher's layer that does not exist": (
        lambda: {"objective": Objective(RDMLoss(NetworkTeacher(student(), "layer3"), "conv2"))},
        r"has no layer 'layer3'; (nearest|the first)",
    ),
    "a stimulus set of 2": (
        lambda: {"stimuli": drawn(2, IDS[:2])},
        r"2 images or stimuli: a batch needs 3 or more of them",
    ),
    "one stream of batches of 2": (
        lambda: {"stimuli": None, "labelled": drawn(M, IDS, labels=np.arange(M) % 4), "batch_size": 2},
        r"a batch of 2 stimuli is too small for an RDM",
    ),
    "batches of 2 stimuli": (
        lambda: {"stimuli_batch": 2},
        r"stimuli=2: expected a whole number of at least 3",
    ),
    "a split that leaves 2": (
        lambda: {"stimuli": drawn(5, IDS[:5]), "validation": 0.4},
        r"each part needs at least 3",
    ),
    "a label out of range": (
        lambda: last_label(4),
        r"labels run from \d to 4, but the student has 4 outputs \(labels 0 to 3\)",
    ),
    "a negative label": (lambda: last_label(-1), r"labels run from -1 to \d, but the student has 4 outputs"),
    "no labels": (lambda: {"labelled": drawn(N)}, r"this StimulusSet has no labels; give labels="),
    "a label out of range in a loader": (
        lambda: {"labelled": loader(torch.arange(N) % 5)},
        r"labels run from \d to 4, but the student has 4 outputs",
    ),
    "a label out of range in a loader's last batch": (
        lambda: {"labelled": loader(torch.tensor([0] * (N - 1) + [9]))},
        r"labels run from 0 to 9, but the student has 4 outputs",
    ),
    "labels that are not whole": (
        lambda: {"labelled": loader(torch.rand(N))},
        r"labels: expected whole numbers of shape \(n,\), got torch.float32",
    ),
    "images of other channels": (
        lambda: {"labelled": [(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)]},
        r"the student takes 1 channels, but the images are 3 x 8 x 8 and 1 x 8 x 8 \(.*channels=1$",
    ),
    "stimuli of other channels": (
        lambda: {"stimuli": StimulusSet.from_array(np.zeros((M, 8, 8, 3), dtype=np.uint8), IDS)},
        r"takes 1 channels, but the images are 1 x 8 x 8 and 3 x 8 x 8 \(.*channels=1$",
    ),
    "images that the teacher's network does not take": (
        lambda: {"objective": Objective(RDMLoss(NetworkTeacher(build("small_cnn", 4, 3), "conv2"), "conv2"))},
        r"the teacher takes 3 channels, but the images are 1 x 8 x 8",
    ),
    "an augmentation that is no function": (
        lambda: {"augment": "flip"},
        r"Batches.augment='flip': expected a function",
    ),
    "batches that are none": (
        lambda: {"labelled": [torch.rand(8, 1, 8, 8)]},
        r"each batch must be \(images, labels\) or \(images, labels, ids\)",
    ),
    "batches whose parts differ in length": (
        lambda: {"labelled": [(torch.rand(8, 1, 8, 8), torch.arange(7) % 4)]},
        r"a batch of 8 images has 7 labels",
    ),
    "a loader without a length": (lambda: {"labelled": iter(())}, r"has no len\(\); give a DataLoader"),
    "a loader without a batch": (
        lambda: {"labelled": DataLoader(TensorDataset(torch.rand(3, 1), torch.zeros(3)), 8, drop_last=True)},
        r"the loader gave no batch; check that it is not empty, that drop_last= leaves a batch",
    ),
    "a loader that does not start again": (
        lambda: {"labelled": Once()},
        r"the loader gave no batch; check .* that it can start again",
    ),
    "no labelled images": (
        lambda: {"labelled": None},
        r"labelled= is missing: pass labelled images, or stimuli=",
    ),
    "labelled images that nobody needs": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), "conv2"), task=None)},
        r"has no task, so labelled= would not be used; leave it out",
    ),
    "labels that pairs need": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), "conv2", pairs="within"))},
        r"pairs='within' needs the labels of the stimuli; give labels=",
    ),
    "pairs that cka needs": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(pairs_missing()), "conv2", comparison="cka"))},
        r"cka needs complete RDMs",
    ),
    "soft targets of other classes": (
        lambda: {"objective": Objective(SoftTargetLoss(NetworkTeacher(build("small_cnn", 7, 1))))},
        r"student has 4 outputs, the teacher 7: soft targets need the same classes",
    ),
    "a ratio to no task": (
        lambda: {
            "objective": Objective(RDMLoss(RDMTeacher(brain()), "conv2", weight=TaskRatio(1)), task=None),
            "labelled": None,
        },
        r"TaskRatio needs a task loss; give a number",
    ),
    "images that the cache does not hold": (
        lambda: {
            "objective": Objective(
                RDMLoss(NetworkTeacher(student(), "conv2", cache=drawn(9, IDS[:9])), "conv2")
            )
        },
        r"7 of 16 ids of the stimuli are not in the cached stimuli",
    ),
    "a frozen student": (
        lambda: {"student": student().requires_grad_(False)},
        r"the student has no parameter to train",
    ),
    "augmenting a loader": (
        lambda: {"labelled": loader(torch.arange(N) % 4), "augment": lambda images: images},
        r"augment= needs a StimulusSet; a loader's images",
    ),
    "a batch-norm stream that is none": (lambda: {"batchnorm": "mine"}, r"batchnorm='mine': expected one of"),
    "a schedule that is none": (lambda: {"scheduler": "step"}, r"scheduler='step': expected one of 'cosine'"),
    "a schedule that waits for a metric": (
        lambda: {"scheduler": lambda optimizer, _: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)},
        r"ReduceLROnPlateau needs a metric",
    ),
    "a learning rate that nobody takes": (
        lambda: {"lr": 0.1, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1)},
        r"with your own optimizer=, set lr and weight_decay",
    ),
    "validation without transfer losses": (
        lambda: {"objective": Objective(), "validation": 0.25},
        r"validation: without transfer losses the epoch is chosen by the task, but these have no labels",
    ),
    "fewer epochs than none": (lambda: {"epochs": -1}, r"epochs=-1: expected a whole number of at least 0"),
    "no batch": (lambda: {"batch_size": 0}, r"labelled=0: expected a whole number of at least 1"),
    "a device that is not there": (
        lambda: {"accelerator": "tpu"},
        r"accelerator='tpu', devices=1, num_nodes=1, precision='32-true' cannot be used on this machine",
    ),
    "a loss that explodes": (
        lambda: {"lr": 1e30, "scheduler": "constant"},
        r"the loss or its gradient was not finite in epoch 1 .undefined: task, rdm:conv2.; lower lr=",
    ),
}


def loader(labels: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(N, 1, 8, 8), labels), batch_size=8)


class OfTensors(Teacher):
    """A teacher of one's own that forgets `Target`."""

    dissimilarity = "euclidean"

    def target(self, batch: Any, features: Any) -> Any:
        return torch.rand(1, 28)


class Forgetful(TransferLoss):
    """A loss that reads a layer that it does not name."""

    layers = ("conv1",)

    def __call__(self, student: Any, teacher: Any, batch: Any) -> torch.Tensor:
        return student["conv2"].sum()


class Once:
    """An iterable that can be gone through once."""

    def __init__(self) -> None:
        self.batches = iter([(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)])

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return self.batches


CASES |= {
    "a loss in place of an objective": (
        lambda: {"objective": RDMLoss(RDMTeacher(brain()), "conv2")},
        r"objective: expected Objective, got RDMLoss; write Objective\(loss\)",
    ),
    "stimuli that are a batch": (
        lambda: {"stimuli": (torch.rand(M, 1, 8, 8), IDS)},
        r"stimuli: expected StimulusSet, got tuple; make one with StimulusSet.from_array",
    ),
    "RDMs in place of a teacher": (
        lambda: {"objective": Objective(RDMLoss(brain(), "conv2"))},  # type: ignore[arg-type]
        r"RDMLoss: RDMs is not a teacher; wrap it: RDMTeacher\(rdms\)",
    ),
    "a network in place of a teacher": (
        lambda: {"objective": Objective(RDMLoss(student(), "conv2"))},  # type: ignore[arg-type]
        r"is not a teacher; wrap it: NetworkTeacher\(network",
    ),
    "arguments in another order": (
        lambda: {"objective": Objective(RDMLoss("conv2", RDMTeacher(brain())))},  # type: ignore[arg-type]
        r"RDMLoss: str is not a teacher; make one, such as RDMTeacher\(rdms\)",
    ),
    "several layers": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), ["conv1", "conv2"]))},  # type: ignore[arg-type]
        r"layer: expected str, got list; give one name, and make an RDMLoss for each layer",
    ),
    "a teacher that returns a tensor": (
        lambda: {"objective": Objective(RDMLoss(OfTensors(), "conv2"))},
        r"the teacher's target\(\): expected Target, got Tensor; return Target\(rdms, weights\)",
    ),
    "a loss that reads another layer": (
        lambda: {"objective": Objective(Forgetful())},
        r"forgetful fails: 'conv2'; if this is a layer of the student, add it to layers",
    ),
    "losses by name": (
        lambda: {"objective": Objective({"rdm": RDMLoss(RDMTeacher(brain()), "conv2")})},  # type: ignore[arg-type]
        r"losses: dict is not a TransferLoss",
    ),
    "a comparison of two arguments": (
        lambda: {"objective": Objective(RDMLoss(RDMTeacher(brain()), "conv2", comparison=lambda a, b: a))},
        r"its function must take .a, b, weights.: two RDMs, and the weights of their pairs",
    ),
    "an optimizer that is made": (
        lambda: {"optimizer": torch.optim.SGD(student().parameters(), 0.1)},
        r"optimizer: SGD is not a function; write a function, such as lambda parameters",
    ),
    "one batch in place of batches": (
        lambda: {"labelled": (torch.rand(8, 1, 8, 8), torch.arange(8) % 4)},
        r"but one is a Tensor; if this is a single batch, give \[\(images, labels\)\]",
    ),
    "one-hot labels": (
        lambda: {"labelled": loader(torch.eye(N, dtype=torch.int64))},
        r"use labels.argmax\(1\) for one-hot labels",
    ),
    "images in bytes": (
        lambda: {"labelled": [(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 4)]},
        r"they are torch.uint8, the parameters torch.float32; convert them, as in images.float\(\) / 255",
    ),
    "a small share for validation": (
        lambda: {"validation": 0.01},
        r"16 stimuli cannot be split into 16 for training and 0 held out",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_one_clear_error_and_nothing_written(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    (tmp_path / "here").mkdir()
    for out in (tmp_path / "new" / "run", tmp_path / "here"):
        with pytest.raises(NeurordlError, match=f"(?s){message}"):
            train(**{"out": out, **make()})
        assert list(contents(tmp_path)) == [str(tmp_path / "here")]


def test_unreadable_image(tmp_path: Path) -> None:
    for name in IDS:
        Image.fromarray(np.full((8, 8), 99, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    whole = (tmp_path / "s3.png").read_bytes()
    for damaged in (b"", b"not an image", whole[: len(whole) // 2]):
        (tmp_path / "s3.png").write_bytes(damaged)
        with pytest.raises(NeurordlError, match=r"cannot read .*s3\.png: it is damaged"):
            StimulusSet.from_folder(tmp_path, channels=1)


def test_single_subject_has_no_reliability() -> None:
    with pytest.raises(NeurordlError, match="needs at least two subjects, but there is one"):
        RDMTeacher(brain(), pair_weights="reliability")


# Folders


def test_folder_that_holds_another_run(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(
        NeurordlError, match="already holds a run; choose another folder, or resume it with resume=True"
    ):
        train(tmp_path / "run")
    with pytest.raises(
        NeurordlError, match=r"holds another run, which differs in seed \(0 before, 1 now\); choose"
    ):
        train(tmp_path / "run", seed=1, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "part",
    [
        {"settings": "x"},
        {"objective": ["x"]},
        {"objective": {"losses": ["a"]}},
        {"objective": {"losses": {"rdm:conv2": "x"}}},
        {"labelled": "x"},
        {"stimuli": 3},
        {"notices": [["x"]]},
        {"notices": "x"},
        {"notices": 3},
    ],
    ids=str,
)
def test_a_damaged_record_is_not_resumed(part: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, epochs=1)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text(json.dumps({**record, **part}), encoding="utf-8")
    with pytest.raises(NeurordlError, match=r"run\.json: it is damaged|holds another run"):
        train(out, epochs=1, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_folder_that_holds_something_else(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("1")
    (tmp_path / "file").write_text("2")
    before = contents(tmp_path)
    with pytest.raises(NeurordlError, match="is not empty and holds no run; choose another folder"):
        train(tmp_path / "thesis", resume=resume)
    with pytest.raises(NeurordlError, match=r"file is a file; give a folder"):
        train(tmp_path / "file", resume=resume)
    assert contents(tmp_path) == before


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("2")
    with pytest.raises(NeurordlError, match=r"file is a file; give a folder"):
        train(tmp_path / "file" / "run")


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"holds no run \(run.json is missing\)"):
        load_run(tmp_path)
    train(tmp_path / "run")
    for name, message in (
        ("history.csv", r"cannot read .*history.csv"),
        ("student.safetensors", r"cannot read .*student\.safetensors: it is damaged"),
        ("run.json", r"run\.json"),
    ):
        copy = tmp_path / name
        shutil.copytree(tmp_path / "run", copy)
        (copy / name).write_bytes(b"")
        with pytest.raises(NeurordlError, match=message):
            load_run(copy)


def test_altered_files_of_a_run_are_named(tmp_path: Path) -> None:
    """JSON and CSV of the right form with values that are not those of a run."""
    train(tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    record = json.loads(text)
    texts = [("run.json", json.dumps(value)) for value in ([], None, "x", 3)]
    for key, value in (
        ("student", None),
        ("student", "x"),
        ("student", {"class": "MLP", "spec": 1.0}),
        ("student", {"class": "MLP", "spec": {"name": 1.0, "num_classes": 3}}),
        ("stimuli", "x"),
        ("labelled", [1]),
        ("objective", None),
        ("objective", {"losses": [1]}),
        ("best", {"value": 1.0, "epoch": {}}),
        ("best", [1]),
        ("notices", [{}]),
    ):
        texts.append(("run.json", json.dumps({**record, key: value})))
    history = (tmp_path / "run" / "history.csv").read_text()
    texts += [("history.csv", history.replace("\n1,", f"\n{value},", 1)) for value in ("x", "inf", "", "\t")]
    texts.append(("history.csv", history.replace("step", "stop", 1)))
    for name, changed in texts:
        (tmp_path / "run" / "run.json").write_text(text)
        (tmp_path / "run" / name).write_text(changed)
        with pytest.raises(NeurordlError, match=rf"cannot read .*run.{name}"):
            load_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "trained_on": ["nan"]}))
    with pytest.raises(NeurordlError, match=r"cannot read .*run.json"):
        train(tmp_path / "run", resume=True)


# Checkpoints


def test_corrupt_checkpoint(tmp_path: Path) -> None:
    """Truncated or with a flipped byte: an error, or (in what holds no data) the same checkpoint."""
    out = tmp_path / "run"
    whole = train(out)
    path = out / "last.ckpt"
    data = path.read_bytes()
    state = load_checkpoint(path)
    for kept in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        before = contents(out)
        with pytest.raises(NeurordlError, match=r"last.ckpt: it is damaged.*delete it to start again"):
            train(out, resume=True)
        assert contents(out) == before
    noticed = 0
    places = np.random.default_rng(0).choice(len(data), 150, replace=False)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << int(place) % 8]) + data[place + 1 :])
        try:
            results = load_checkpoint(path)
        except NeurordlError:
            noticed += 1
            continue
        assert results["step"] == state["step"]
        assert results["history"] == state["history"]
        for name, value in state["student"].items():
            assert torch.equal(results["student"][name], value)
    assert noticed > 100
    path.unlink()  # the remedy
    again = train(out, resume=True)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value)


def test_checkpoint_of_something_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out)
    torch.save({"weights": torch.ones(3)}, out / "last.ckpt")
    with pytest.raises(NeurordlError, match="its checkpoint is not one of this run"):
        train(out, resume=True)


def test_checkpoint_with_code_is_not_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out)

    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"student": Code()}, out / "last.ckpt")
    with pytest.raises(NeurordlError, match="damaged"):
        train(out, resume=True)
    assert not (tmp_path / "ran").exists()


# A full disk


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "file", ["run.json", "last.ckpt", "history.csv", "best.safetensors", "student.safetensors"]
)
def test_full_disk(call: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the first writing of a file: nothing is left of it, or all that was whole."""
    out = tmp_path / "run"
    working = getattr(os, call)

    def full(what: Any, *rest: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{what}") if call == "fsync" else str(what)
        stem, suffix = file.split(".")
        if Path(name).name.startswith(f".{stem}.") and name.endswith(suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return working(what, *rest)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(NeurordlError, match=rf"cannot write .*{file}.*the disk is full; free some space"):
        train(out, validation=0.3)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # nothing half-written
    if file in ("run.json", "last.ckpt", "best.safetensors"):  # before the first checkpoint was whole
        assert not out.exists()
    else:
        assert load_checkpoint(out / "last.ckpt")["step"] > 0
    resumed, whole = train(out, validation=0.3, resume=True), train(validation=0.3)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value)


def test_loss_that_explodes_between_checkpoints(tmp_path: Path) -> None:
    """The checkpoint that stays is one from before."""
    out = tmp_path / "run"
    steps = 0

    def spoilt(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        loss = nn.functional.cross_entropy(outputs, labels)
        return loss * (
            float("nan") if steps > 3 else 1.0
        )  # the look before the first step, two steps, spoilt

    objective = Objective(RDMLoss(RDMTeacher(brain()), "conv2"), task=spoilt)
    with pytest.raises(NeurordlError, match="the loss or its gradient was not finite in epoch 1"):
        train(out, objective=objective, checkpoint_every=2, batch_size=4)
    state = load_checkpoint(out / "last.ckpt")
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["student"].values())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_loss_or_gradient_alone_that_is_not_finite(what: str, tmp_path: Path) -> None:
    def spoilt(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(outputs, labels)
        return loss + (torch.nan if what == "loss" else (0 * outputs.sum()).abs().sqrt())

    with pytest.raises(NeurordlError, match="the loss or its gradient was not finite in epoch 1"):
        train(tmp_path / "run", objective=Objective(task=spoilt))
    assert not (tmp_path / "run").exists()


def test_disk_full_in_the_middle_of_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes themselves find no room, at the third checkpoint: the second one stays, whole."""
    out, writes = tmp_path / "run", 0
    working = Path.write_bytes

    def full(self: Path, data: Any) -> int:
        nonlocal writes
        writes += self.suffix == ".ckpt"
        if writes == 3:
            working(self, bytes(data)[: len(bytes(data)) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return working(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NeurordlError, match=r"cannot write .*last.ckpt.*the disk is full"):
        train(out, epochs=4)
    monkeypatch.undo()
    assert load_checkpoint(out / "last.ckpt")["step"] == 2 * 3  # two epochs of three steps
    assert sorted(path.name for path in out.iterdir()) == ["history.csv", "last.ckpt", "run.json"]
    resumed, whole = train(out, epochs=4, resume=True), train(epochs=4)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value)
