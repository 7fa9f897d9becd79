"""`fit`: what it trains on, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import math
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

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
    evaluate,
    load_run,
)
from neurordl.training.objective import accuracy
from neurordl.training.streams import LoaderStream, SetStream
from tests.helpers import student
from tests.training.helpers import fit_with

N, M = 40, 24  # labelled images, stimuli
IDS = [f"s{i}" for i in range(M)]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (M, 8, 8), dtype=np.uint8)
LABELS = np.arange(N) % 4
DRAWN = np.clip(
    RNG.normal(60, 30, (N, 8, 8)) + 100 * (np.arange(8) // 2 == LABELS[:, None])[:, None, :], 0, 255
)


def labelled(order: Any = slice(None)) -> StimulusSet:
    """Four classes of a bright pair of columns in noise."""
    ids = np.array([f"image{i}" for i in range(N)])
    return StimulusSet.from_array(DRAWN.astype(np.uint8)[order], ids[order].tolist(), labels=LABELS[order])


def stimuli(order: Any = slice(None)) -> StimulusSet:
    return StimulusSet.from_array(PIXELS[order], np.array(IDS)[order].tolist())


def brain(order: Any = slice(None), subjects: Any = slice(None)) -> RDMs:
    """Three subjects' RDMs of the stimuli: of their pixels, with noise; rows and subjects in any order."""
    rng = np.random.default_rng(3)
    rows = PIXELS.reshape(M, -1).astype(float)
    squares = []
    for _ in range(3):
        patterns = rows + rng.normal(0, 40, rows.shape)
        squares.append(1 - np.corrcoef(patterns))
    kept = np.array(squares)[subjects][:, order][:, :, order]
    i, j = np.triu_indices(M, 1)
    return RDMs(
        kept[:, i, j],
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": np.array(["p0", "p1", "p2"])[subjects].tolist()},
        pattern_descriptors={"stimulus": np.array(IDS)[order].tolist()},
    )


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.student.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def train(**changes: Any) -> Run:
    """A small fit of two streams, with any argument changed."""
    arguments: dict[str, Any] = {
        "student": student(),
        "objective": Objective([RDMLoss(RDMTeacher(brain()), "conv2")]),
        "labelled": labelled(),
        "stimuli": stimuli(),
        "epochs": 2,
        "batch_size": 16,
        "stimuli_batch": 8,
    }
    return fit_with(**{**arguments, **changes})


def test_too_few_stimuli_left_out_are_pointed_out(recwarn: pytest.WarningsRecorder) -> None:
    fitted = stimuli().split(held_out=5 / M)[0]
    with pytest.warns(
        UserWarning,
        match=r"held-out stimuli: only 5 stimuli \(10 pairs\).*deviation of 0\.33 \(of a correlation\); use",
    ):
        train(stimuli=fitted, epochs=1)
    with pytest.warns(UserWarning, match=r"validation stimuli: only 4 stimuli .6 pairs"):
        train(validation=4 / M, epochs=1)
    recwarn.clear()
    train(stimuli=stimuli().split(held_out=10 / M)[0], epochs=1)
    assert not [one for one in recwarn if "pairs" in str(one.message)]


def test_both_terms_are_learned() -> None:
    run = train(epochs=25, lr=2e-2)
    first, last = run.history.iloc[0], run.history.iloc[-1]
    assert last["task"] < 0.5 * first["task"]
    assert last["rdm:conv2"] < 0.7 * first["rdm:conv2"]
    assert accuracy(run.student, labelled()) > 0.9
    assert not run.student.training
    assert list(run.history) == ["epoch", "step", "loss", "task", "rdm:conv2", "lr", "seconds"]
    # 40 labelled images in batches of 16 are 2 steps, 24 stimuli in batches of 8 are 3: the longer counts.
    assert run.history["step"].tolist() == [3 * epoch for epoch in range(1, 26)]


def test_each_teacher_teaches_through_fit() -> None:
    patterns = {"p0": (PIXELS.reshape(M, -1).astype(float), IDS)}
    teachers = {
        "rdm": RDMTeacher(brain(), pool="subjects", pair_weights="reliability"),
        "pattern": PatternTeacher(patterns, center="all"),
        "network": NetworkTeacher(student(9), "conv3"),
        "cached": NetworkTeacher(student(9), "conv3", cache=stimuli()),
    }
    for name, teacher in teachers.items():
        run = train(
            objective=Objective(RDMLoss(teacher, "conv2", comparison="corr"), task=None),
            labelled=None,
            epochs=12,
            lr=2e-2,
        )
        values = run.history["rdm:conv2"]
        assert values.iloc[-1] < 0.8 * values.iloc[0], name
        assert list(run.history)[2:4] == ["loss", "rdm:conv2"]


def test_teacher_moves_in_no_fit_and_is_in_no_file(tmp_path: Path) -> None:
    teacher = NetworkTeacher(student(9, batchnorm=True), ["conv2", ""])
    before = {name: value.clone() for name, value in teacher._model.state_dict().items()}
    objective = Objective([RDMLoss(teacher["conv2"], "conv2"), SoftTargetLoss(teacher)])
    model = student(batchnorm=True)
    run = train(student=model, objective=objective, stimuli=None, out=tmp_path / "run")
    assert same(before, teacher._model.state_dict())
    names = set(model.state_dict())
    assert set(safetensors.torch.load_file(tmp_path / "run" / "student.safetensors")) == names
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert set(state["student"]) == names
    assert len(state["optimizer"]["state"]) == len(list(model.parameters()))
    assert run.record["objective"]["losses"]["rdm:conv2"]["teacher"]["model"] == "Sequential"


def test_same_seed_same_student_and_another_seed_another() -> None:
    one, two, other = (weights(train(seed=seed)) for seed in (0, 0, 1))
    assert same(one, two)
    assert not same(one, other)


def test_a_student_that_comes_in_eval_mode_is_trained_all_the_same() -> None:
    """As after an earlier fit: its dropout and batch norm must be those of training."""
    runs = [train(student=student(batchnorm=True, dropout=0.5).train(mode)) for mode in (True, False)]
    assert same(*map(weights, runs))


def test_callers_random_state_and_settings_are_left_alone() -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    objective = Objective(RDMLoss(RDMTeacher(brain()), "conv2"))
    model, images, shown = student(dropout=0.5), labelled(), stimuli()
    torch.manual_seed(5)
    fit_with(model, objective, images, shown, 1, seed=1, augment=lambda x: x + torch.randn_like(x))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
    assert random.random() == expected[2]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("deterministic", [None, False, True])
def test_deterministic_algorithms_while_it_fits(deterministic: bool | None, before: bool) -> None:
    """By default on the CPU; never turned off for a caller who has them on; put back as they were."""
    seen: set[bool] = set()

    def look(images: Tensor) -> Tensor:
        seen.add(torch.are_deterministic_algorithms_enabled())
        return images

    def state() -> tuple[bool, bool]:
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warns

    torch.use_deterministic_algorithms(before, warn_only=before)
    try:
        train(deterministic=deterministic, augment=look, epochs=1)
        after = state()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == {before or deterministic is not False}
    assert after == (before, before)


def test_order_of_the_data_changes_nothing() -> None:
    """Images, stimuli, rows of the RDMs and subjects, each in another order: the same weights to the bit."""
    one, two, three = (
        np.random.default_rng(seed).permutation(size) for seed, size in ((1, N), (2, M), (3, M))
    )
    for pool in ("mean", "subjects"):
        results, scores, histories = [], [], []
        for given in (slice(None), slice(None), slice(None), slice(None)), (one, two, three, [2, 0, 1]):
            teacher = RDMTeacher(brain(given[2], given[3]), pool=pool, pair_weights="reliability")
            shown, held_out = stimuli(given[1]).split(0.3, seed=4)
            run = train(
                objective=Objective(RDMLoss(teacher, "conv2")),
                labelled=labelled(given[0]),
                stimuli=shown,
                validation=0.3,
                epochs=3,
            )
            results.append(weights(run))
            histories.append(run.history.drop(columns="seconds"))
            frame = evaluate(
                run, brain(given[2], given[3]), stimuli=held_out, layers="conv2", comparison="corr"
            ).to_frame()
            scores.append(frame.set_index("subject")[["score", "ceiling_lower", "ceiling_upper"]])
            assert set(run.held_out_ids) == set(held_out.ids)
        assert same(*results)
        pd.testing.assert_frame_equal(*histories, check_exact=True)
        pd.testing.assert_frame_equal(scores[0], scores[1], check_like=True, rtol=1e-6)


def test_order_of_a_label_file_changes_nothing(tmp_path: Path) -> None:
    from PIL import Image

    for place in range(N):
        Image.fromarray(DRAWN[place].astype(np.uint8)).save(tmp_path / f"image{place}.png")
    rows = [f"image{place},class{LABELS[place]}" for place in range(N)]
    results = []
    for order in (range(N), np.random.default_rng(0).permutation(N)):
        (tmp_path / "labels.csv").write_text("\n".join(["id,label", *(rows[place] for place in order)]))
        images = StimulusSet.from_folder(tmp_path, channels=1, labels=tmp_path / "labels.csv")
        results.append(weights(train(labelled=images)))
    assert same(*results)
    assert same(results[0], weights(train()))


# What is written


def test_folder_and_record(tmp_path: Path) -> None:
    shown, held_out = stimuli().split(0.25, seed=1)
    out = tmp_path / "runs" / "one"
    teacher = RDMTeacher(brain(), subjects=["p0", "p2"])
    run = train(
        objective=Objective(RDMLoss(teacher, "conv2")),
        stimuli=shown,
        validation=0.25,
        out=out,
        seed=3,
        student=student(3),
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "best.safetensors",
        "history.csv",
        "last.ckpt",
        "run.json",
        "student.safetensors",
    ]
    record = json.loads((out / "run.json").read_text())
    assert record == run.record
    assert record["status"] == "finished"
    assert record["settings"]["seed"] == 3
    assert record["objective"]["losses"]["rdm:conv2"]["teacher"]["sha256"] == teacher.sha256
    assert set(record["versions"]) > {"neurordl", "torch", "python"}
    assert record["labelled"]["sha256"] == labelled().sha256
    assert run.held_out_ids == held_out.ids
    assert set(run.fitted_ids) | set(run.validation_ids) == set(shown.ids)
    assert not set(run.fitted_ids) & set(run.validation_ids)
    assert len(run.validation_ids) == 5  # round(0.25 * 18)
    assert run.fitted_subjects == ("p0", "p2")
    assert run.preprocessing == shown.preprocessing
    assert "24 stimuli" not in record["matches"]["rdm:conv2"]
    pd.testing.assert_frame_equal(pd.read_csv(out / "history.csv"), run.history)
    again = load_run(out)
    assert same(weights(again), weights(run))
    assert again.record == run.record
    assert not again.student.training
    assert again.fitted_ids == run.fitted_ids
    pd.testing.assert_frame_equal(again.history, run.history)
    with pytest.raises(NeurordlError, match="weights='first': expected one of 'best', 'last'"):
        load_run(out, weights="first")  # type: ignore[arg-type]
    last = load_run(out, weights="last")
    assert same(weights(last), safetensors.torch.load_file(out / "student.safetensors"))
    memory = train(
        objective=Objective(RDMLoss(teacher, "conv2")),
        stimuli=shown,
        validation=0.25,
        seed=3,
        student=student(3),
    )
    assert same(weights(memory), weights(run))
    assert memory.record == run.record
    assert memory.out is None


def test_students_that_were_not_built_by_name(tmp_path: Path) -> None:
    def plain() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4))

    run = train(student=plain(), objective=Objective(RDMLoss(RDMTeacher(brain()), "1")), out=tmp_path / "run")
    with pytest.raises(NeurordlError, match=r"Sequential.*pass load_run\(out, student=...\)"):
        load_run(tmp_path / "run")
    assert same(weights(load_run(tmp_path / "run", plain())), weights(run))
    with pytest.raises(NeurordlError, match="are not those of this Linear"):
        load_run(tmp_path / "run", nn.Linear(2, 2))


# Validation


def test_best_epoch_on_validation_stimuli(tmp_path: Path) -> None:
    """Uphill in the second half: an earlier epoch is best, and its weights come back."""
    objective = Objective(RDMLoss(NetworkTeacher(student(9), "conv3"), "conv2", comparison="corr"), task=None)
    shown = stimuli().subset(IDS[:12])
    held_out = StimulusSet.from_array(
        PIXELS[:12], [f"copy{k}" for k in range(12)]
    )  # what is learned shows there

    def turn(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 if step < steps // 2 else -1)

    runs = [
        train(
            objective=objective,
            labelled=None,
            stimuli=shown,
            validation=held_out,
            epochs=16,
            scheduler=turn,
            lr=1e-2,
            stimuli_batch=12,
            out=out,
        )
        for out in (None, tmp_path / "run")
    ]
    for run in runs:
        values = run.history["val_rdm:conv2"]
        best = int(values.idxmin())
        assert 3 < best < 12
        assert run.record["best"] == {"value": values[best], "epoch": best + 1}
        terms = objective.transfer_terms(run.student, Batch(held_out.images(), held_out.ids))
        assert terms["rdm:conv2"] == pytest.approx(values[best], abs=1e-6)
    assert same(weights(runs[0]), weights(runs[1]))
    last = safetensors.torch.load_file(tmp_path / "run" / "student.safetensors")
    assert not same(last, weights(runs[1]))
    assert same(weights(load_run(tmp_path / "run")), weights(runs[1]))
    assert same(weights(load_run(tmp_path / "run", weights="last")), last)


def test_the_batch_size_of_a_loader_is_recorded() -> None:
    data = TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 4)
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(data), 3, drop_last=False)
    for labelled, expected in (
        (DataLoader(data, batch_size=6), 6),
        (DataLoader(data, batch_sampler=sampler), None),
        (list(DataLoader(data, batch_size=6)), None),
        (data, 5),
    ):
        run = train(objective=Objective(), labelled=labelled, stimuli=None, batch_size=5, epochs=1)
        assert run.record["settings"]["batches.labelled"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": lambda parameters: None}, "optimizer: .*expected Optimizer, got NoneType"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: LBFGS computes the loss .* several times in a step"),
        ({"scheduler": lambda optimizer, steps: None}, "scheduler: the function returned NoneType"),
        ({"augment": lambda images: images[:4]}, "augment: the function returned 4 images; .* batch of 16"),
        ({"augment": lambda images: None}, "augment: the function returned NoneType"),
    ],
)
def test_functions_of_the_user_return_what_is_needed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NeurordlError, match=f"^{message}"):
        train(**changes)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_trained_without_gradients(mode: Any) -> None:
    with (
        mode(),
        pytest.raises(NeurordlError, match=r"^fit is called in torch\.no_grad\(\) or inference_mode"),
    ):
        train()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_may_be_any_whole_numbers(dtype: torch.dtype) -> None:
    images, labels = labelled().images(), labelled().labels
    runs = [
        train(objective=Objective(), labelled=[(images, labels.to(kept))], stimuli=None, epochs=1)
        for kept in (torch.int64, dtype)
    ]
    assert same(weights(runs[0]), weights(runs[1]))


class Undefined(TransferLoss):
    """As the page on own losses has it: a tensor without gradient, here in every second batch or in all."""

    layers = ("conv2",)

    def __init__(self, every: int) -> None:
        self.every, self.calls = every, 0

    def __call__(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        self.calls += 1
        return torch.tensor(torch.nan) if self.calls % self.every == 0 else student["conv2"].square().mean()


def test_batches_without_a_gradient_are_left_out(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"labelled": None, "stimuli_batch": 4, "epochs": 2}
    run = train(objective=Objective(Undefined(2), task=None), **settings)
    assert run.history["undefined"].notna().all()
    frozen = student()
    for parameter in (*frozen.conv1.parameters(), *frozen.conv2.parameters()):
        parameter.requires_grad_(False)
    rdm = RDMLoss(NetworkTeacher(student(9), "conv3"), "conv2")
    for changes, name in (
        ({"objective": Objective(Undefined(1), task=None)}, "undefined"),
        ({"objective": Objective(rdm, task=None), "student": frozen}, "rdm:conv2"),
    ):
        expected = rf"^no parameter is trained: all that {name} read is frozen \(requires_grad=False\), or"
        with pytest.raises(NeurordlError, match=expected):
            train(**{**settings, **changes})


class Big(TransferLoss):
    name, layers = "big", ("conv2",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
        return self.factor * student["conv2"].square().mean()


def test_a_loss_that_decides_which_epoch_is_best_is_named(tmp_path: Path) -> None:
    rdm = RDMLoss(NetworkTeacher(student(9), "conv3"), "conv2")
    settings: dict[str, Any] = {"validation": 0.4, "epochs": 2, "out": tmp_path / "run"}
    expected = (
        r"^validation: .*unweighted sum of the losses, of which big decides most \(big [\de.+]+, "
        r"rdm:conv2 \d\.\d+ in the first epoch\); compare the columns val_\.\.\. .*or leave validation= out"
    )
    with pytest.warns(UserWarning, match=expected):
        run = train(objective=Objective([rdm, Big(1e4)]), **settings)
    (notice,) = [text for text in run.record["notices"] if "decides most" in text]
    assert f"big {run.history['val_big'][0]:.3g}, rdm:conv2 {run.history['val_rdm:conv2'][0]:.3g}" in notice
    for losses in ([Big(1e4)], [rdm, Big(1.0)], [rdm]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(objective=Objective(losses), **{**settings, "out": None, "epochs": 1})
        assert not any("decides most" in str(one.message) for one in caught)


def test_validation_within_what_a_subject_saw() -> None:
    """Its losses are the mean over groups that may share a batch, as in training."""
    values = PIXELS.reshape(M, -1).astype(float)
    teacher = PatternTeacher({"a": (values[:14], IDS[:14]), "b": (values[10:], IDS[10:])}, center="all")
    objective = Objective(RDMLoss(teacher, "conv2"))
    held_out, shown = stimuli().subset(IDS[::2]), stimuli().subset(IDS[1::2])
    run = train(objective=objective, stimuli=shown, validation=held_out, epochs=1)
    groups = [[name for name in seen if name in held_out.ids] for seen in (IDS[:14], IDS[10:])]
    each = [
        objective.transfer_terms(run.student, Batch(held_out.subset(ids).images(), ids))["rdm:conv2"]
        for ids in groups
    ]
    assert each[0] != each[1]
    assert run.history["val_rdm:conv2"].iloc[0] == pytest.approx(np.mean(each), abs=1e-6)


def test_validation_that_does_not_fit() -> None:
    with pytest.raises(NeurordlError, match=r"validation: stimuli are also trained on \(s3\)"):
        train(validation=stimuli().subset(IDS[:4]), stimuli=stimuli().subset(IDS[3:]))
    with pytest.raises(
        NeurordlError, match="validation= is a part of the stimuli, or goes with them; pass stimuli= too"
    ):
        train(validation=0.2, stimuli=None)
    with pytest.raises(NeurordlError, match="losses of the validation stimuli are undefined"):
        train(validation=stimuli().subset(IDS[:2]), stimuli=stimuli().subset(IDS[2:]))
    for options in ({"size": 16}, {"channels": 3}, {"mean": [0.5]}):
        other = StimulusSet.from_array(PIXELS[:4], IDS[:4], **options)
        with pytest.raises(NeurordlError, match=r"validation: its images are prepared otherwise"):
            train(validation=other, stimuli=stimuli().subset(IDS[4:]))
    unknown = StimulusSet.from_array(PIXELS[:4], list("abcd"))
    with pytest.raises(NeurordlError, match="'a', 'b', 'c', 'd'"):
        train(validation=unknown)


# Streams


def test_every_stimulus_in_turn_and_never_a_held_out_one() -> None:
    stream = SetStream(stimuli(), 10, seed=0, groups=[IDS])
    assert len(stream) == 2
    passes = [[name for step in range(2) for name in stream.draw(2 * k + step).ids or ()] for k in range(40)]
    assert all(len(set(one)) == 20 for one in passes)  # none twice in a pass
    assert {name for one in passes for name in one} == set(IDS)
    assert len({tuple(one) for one in passes}) == 40
    assert SetStream(stimuli(), 10, seed=0, groups=[IDS]).draw(7).ids == stream.draw(7).ids
    assert SetStream(stimuli(), 10, seed=1, groups=[IDS]).draw(7).ids != stream.draw(7).ids
    assert SetStream(stimuli(), 10, seed=0).draw(7).ids != stream.draw(7).ids
    grouped = SetStream(stimuli(), 4, seed=0, groups=[IDS[:12], IDS[12:]])
    firsts = [(grouped.draw(step).ids or ())[0] in IDS[:12] for step in range(60)]
    assert all(sum(firsts[k : k + 6]) == 3 for k in range(0, 60, 6))  # both groups in each pass,
    assert len({tuple(firsts[k : k + 6]) for k in range(0, 60, 6)}) > 3  # their batches in any order
    for step in range(4):  # each image under its own id
        batch = stream.draw(step)
        torch.testing.assert_close(batch.images, stimuli().subset(batch.ids or ()).images())


def test_processes_share_a_batch_out() -> None:
    parts = [SetStream(labelled(), 9, seed=0, share=(rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [5, 5]  # batches of 8, the same number in each
    for step in range(7):
        names = [name for part in parts for name in part.draw(step).ids or ()]
        assert len(set(names)) == 8


def test_batches_stay_within_what_a_subject_saw() -> None:
    values = PIXELS.reshape(M, -1).astype(float)
    teacher = PatternTeacher({"a": (values[:14], IDS[:14]), "b": (values[10:], IDS[10:])})
    deterministic: list[list[str]] = []
    original = teacher.target
    teacher.target = lambda batch, features: (
        deterministic.append(list(batch.ids or ())) or original(batch, features)
    )  # type: ignore[method-assign, func-returns-value]
    train(objective=Objective(RDMLoss(teacher, "conv2")), stimuli_batch=5, epochs=10)
    assert len(deterministic) > 10
    assert all(set(ids) <= set(IDS[:14]) or set(ids) <= set(IDS[10:]) for ids in deterministic)
    assert {name for ids in deterministic for name in ids} == set(IDS)


def test_stimuli_that_the_teacher_does_not_know_are_left_out_if_asked() -> None:
    known = brain().subset_pattern("stimulus", IDS[:16])
    teacher = RDMTeacher(known, missing="ignore")
    run = train(objective=Objective(RDMLoss(teacher, "conv2")))
    assert math.isfinite(run.history["rdm:conv2"].iloc[-1])
    assert "missing (not in the RDMs)" in run.record["matches"]["rdm:conv2"]


def arrays() -> tuple[Tensor, Tensor]:
    return labelled().images(), torch.from_numpy(LABELS)


class Named(Dataset[Any]):
    """Images with labels and ids."""

    def __len__(self) -> int:
        return M

    def __getitem__(self, place: int) -> tuple[Tensor, int, str]:
        return torch.from_numpy(PIXELS[place] / 255).float()[None], place % 4, IDS[place]


def test_loaders_data_sets_and_lists_of_batches() -> None:
    images, labels = arrays()
    runs = {
        "loader": train(labelled=DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)),
        "data set": train(labelled=TensorDataset(images, labels)),
        "list": train(labelled=[(images[:16], labels[:16]), (images[16:], labels[16:])]),
    }
    for name, run in runs.items():
        assert run.history["task"].notna().all(), name
    assert runs["loader"].record["labelled"] == {"source": "DataLoader"}


def test_shuffled_loader_follows_the_seed_whatever_its_generator() -> None:
    images, labels = arrays()

    def loader(generator: torch.Generator | None) -> DataLoader[Any]:
        return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, generator=generator)

    used = torch.Generator().manual_seed(3)
    torch.rand(10, generator=used)
    one, two = (weights(train(labelled=loader(given), seed=1)) for given in (torch.Generator(), used))
    assert same(one, two)
    assert not same(one, weights(train(labelled=loader(torch.Generator()), seed=2)))
    assert same(weights(train(labelled=loader(None), seed=1)), weights(train(labelled=loader(None), seed=1)))


def test_a_short_loader_starts_again_within_the_epoch() -> None:
    images, labels = arrays()
    numbered = TensorDataset(images, torch.arange(N), labels)
    stream = LoaderStream(DataLoader(numbered, batch_size=16, shuffle=True), seed=0)
    drawn = [stream.draw(step).labels for step in range(6)]
    assert [len(one) for one in drawn if one is not None] == [16, 16, 8, 16, 16, 8]
    first, second = (torch.cat([one for one in part if one is not None]) for part in (drawn[:3], drawn[3:]))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(N))
    assert first.tolist() != second.tolist()


def test_ids_that_a_loader_brings_are_the_fitted_ones(tmp_path: Path) -> None:
    run = train(labelled=DataLoader(Named(), batch_size=8), stimuli=None, out=tmp_path / "run")
    assert run.record["stimuli"] is None
    assert set(run.fitted_ids) == set(IDS) == set(load_run(tmp_path / "run").fitted_ids)
    assert run.fitted_subjects == ("p0", "p1", "p2")
    numbered = [
        (images, labels, torch.arange(len(images))) for images, labels, _ in DataLoader(Named(), batch_size=8)
    ]
    other = RDMs(
        np.random.default_rng(0).random((1, 28)),
        dissimilarity_measure="correlation",
        pattern_descriptors={"stimulus": [str(k) for k in range(8)]},
    )
    run = train(labelled=numbered, stimuli=None, objective=Objective(RDMLoss(RDMTeacher(other), "conv2")))
    assert run.fitted_ids == tuple(str(k) for k in range(8))


def test_one_stream_of_labelled_stimuli() -> None:
    images = StimulusSet.from_array(PIXELS, IDS, labels=np.arange(M) % 4)
    run = train(labelled=images, stimuli=None)
    assert run.fitted_ids == images.ids
    assert run.preprocessing == images.preprocessing
    assert run.history["rdm:conv2"].notna().all()


def test_labels_only_records_no_fitted_stimuli() -> None:
    run = train(objective=Objective(), stimuli=stimuli())
    assert run.fitted_ids == ()
    assert run.record["stimuli"]["held_out"] == []
    assert list(run.history) == ["epoch", "step", "loss", "task", "lr", "seconds"]
    assert not run.record["stimuli"]["shown"]


# Options


def test_augment_optimizer_scheduler_and_clipping() -> None:
    seen: list[int] = []

    def augment(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images + torch.randn_like(images)

    base, noisy = weights(train()), weights(train(augment=augment))
    assert not same(base, noisy)
    assert set(seen) == {16}
    assert same(noisy, weights(train(augment=augment)))
    sgd = train(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), scheduler="constant")
    assert sgd.record["optimizer"]["class"] == "SGD"
    assert sgd.history["lr"].tolist() == [0.1, 0.1]
    before = student()
    still = train(student=student(), clip_norm=1e-9, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    for old, new in zip(before.parameters(), still.student.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=1e-7)
    assert train(lr=1e-2).history["lr"].tolist() == pytest.approx([5e-3, 0.0])  # a cosine to zero
    with pytest.raises(NeurordlError, match="scheduler='linear'"):
        train(scheduler="linear")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resume": True}, "resume= and checkpoint_every= need the folder"),
        ({"checkpoint_every": 2}, "resume= and checkpoint_every= need the folder"),
        ({"checkpoint_every": 0, "out": "run"}, "checkpoint_every=0: expected a whole number of at least 1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0: expected a number above 0"),
        (
            {"fabric": Fabric(accelerator="cpu", devices=1), "precision": "bf16-mixed"},
            "with your own fabric=",
        ),
        ({"precision": "bf17"}, "precision='bf17' cannot be used on this machine"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        train(**options)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision: str) -> None:
    teacher = NetworkTeacher(student(9), "conv3")
    exact = train(objective=Objective(RDMLoss(teacher, "conv2")), validation=0.3)
    other = train(objective=Objective(RDMLoss(teacher, "conv2")), validation=0.3, precision=precision)
    assert other.record["settings"]["precision"] == precision
    for column in ("task", "rdm:conv2", "val_rdm:conv2"):
        np.testing.assert_allclose(other.history[column], exact.history[column], rtol=0.1, atol=0.01)
    if precision == "bf16-mixed":
        assert all(one.dtype == torch.float32 for one in other.student.parameters())


@pytest.mark.parametrize("batchnorm", ["labelled", "stimuli", "both", "joint"])
def test_running_statistics_are_those_of_the_stream_asked_for(batchnorm: Any) -> None:
    """Stimuli far brighter than the labelled images show which ones were averaged."""
    bright = StimulusSet.from_array(np.full((M, 1, 8, 8), 50.0) + RNG.normal(size=(M, 1, 8, 8)), IDS)
    run = train(student=student(batchnorm=True), stimuli=bright, batchnorm=batchnorm, epochs=3, lr=1e-5)
    largest = float(run.student.conv1[1].running_mean.abs().max())
    assert (largest > 5) == (batchnorm != "labelled")
    assert run.record["settings"]["optimization.batchnorm"] == batchnorm


def test_the_choice_for_batch_norm_is_recorded() -> None:
    network = NetworkTeacher(student(9), "conv3")
    for objective, right in (
        (Objective(RDMLoss(RDMTeacher(brain()), "conv2")), "joint"),
        (Objective(RDMLoss(network, "conv2")), "both"),
        (Objective(), "labelled"),
    ):
        runs = [
            train(student=student(batchnorm=True), objective=objective, epochs=1, batchnorm=batchnorm)
            for batchnorm in (None, right)
        ]
        assert runs[0].record == runs[1].record
        assert runs[0].record["settings"]["optimization.batchnorm"] == right
        assert same(*map(weights, runs))


@dataclass(frozen=True)
class Frozen:
    logits: Tensor


@pytest.mark.parametrize("outputs", [Frozen, lambda logits: SimpleNamespace(logits=logits)])
def test_both_is_chosen_where_outputs_cannot_be_divided(outputs: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = student(batchnorm=True)

        def forward(self, images: Tensor) -> Any:
            return outputs(self.network(images))

    objective = Objective(RDMLoss(RDMTeacher(brain()), "network.conv2"))
    run = train(student=Wrapped(), objective=objective, epochs=1)
    assert run.record["settings"]["optimization.batchnorm"] == "both"
    with pytest.raises(NeurordlError, match="cannot divide outputs of type"):
        train(student=Wrapped(), objective=objective, epochs=1, batchnorm="joint")


def test_a_student_without_batch_norm_is_trained_as_before() -> None:
    """No pass is joined: dropout draws the same numbers, and each stream keeps its own batch."""
    runs = [train(student=student(dropout=0.5), batchnorm=choice) for choice in (None, "labelled", "both")]
    assert same(weights(runs[0]), weights(runs[1]))
    assert same(weights(runs[0]), weights(runs[2]))
    assert runs[0].record["settings"]["optimization.batchnorm"] is None


def test_a_term_that_is_undefined_all_along_is_pointed_out() -> None:
    dead = student()
    with torch.no_grad():
        dead.conv2[0].weight.zero_()
        dead.conv2[0].bias.fill_(-1)
    with pytest.warns(UserWarning, match="rdm:conv2 was undefined on every batch of epoch 1"):
        run = train(student=dead, epochs=1)
    assert run.history["rdm:conv2"].isna().all()
    assert run.history["loss"].notna().all()


def test_accuracy() -> None:
    images, labels = arrays()
    model = student(batchnorm=True, dropout=0.5).train()
    with torch.no_grad():
        right = float((model.eval()(images).argmax(1) == labels).float().mean())
    model.train()
    for given in (
        labelled(),
        TensorDataset(images, labels),
        DataLoader(TensorDataset(images, labels), 7),
        [(images, labels)],
    ):
        assert accuracy(model, given, batch_size=9) == pytest.approx(right)
    assert model.training
    assert accuracy(model.double(), labelled()) == pytest.approx(right)
    with pytest.raises(NeurordlError, match="have no labels"):
        accuracy(model, stimuli())
