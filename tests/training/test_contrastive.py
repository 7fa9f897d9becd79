"""Contrastive representation distillation: published numbers, a plain loop, draws of negatives, memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurordl as nrl
from neurordl.arrays import Floats
from tests.helpers import random_stimuli, student
from tests.training.helpers import fit_with

PUBLISHED = np.load(Path(__file__).parent / "parity" / "contrastive.npz")
N, K, CHANNELS, WIDTHS, BATCH = 40, 12, 4, (5, 7), 6  # see tests/training/parity/README.md
IDS = [f"s{number:02}" for number in range(N)]


def make(ids: Sequence[str] | Mapping[str, int] = IDS, **options: Any) -> nrl.ContrastiveLoss:
    teacher = nrl.NetworkTeacher(student(9), "conv3")
    return nrl.ContrastiveLoss(teacher, "conv3", ids, **{"channels": CHANNELS, "negatives": K, **options})


def features(n: int = BATCH, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mine, theirs = (torch.randn(n, width, generator=generator) for width in WIDTHS)
    return mine.requires_grad_(), theirs


def value(loss: nrl.ContrastiveLoss, both: Sequence[Tensor], ids: Sequence[str]) -> Tensor:
    torch.manual_seed(1)
    return loss({"conv3": both[0]}, {"conv3": both[1]}, nrl.Batch(torch.zeros(len(ids), 1), ids))


def made(**options: Any) -> nrl.ContrastiveLoss:
    """A loss that has its parameters and memories, and no constants yet."""
    torch.manual_seed(3)
    loss = make(**options).eval()
    value(loss, features(), IDS[:BATCH])
    return loss.train()


def buffers(loss: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in loss.named_buffers()}


def assert_close(ours: Tensor, expected: Floats, scale: float | None = None) -> None:
    scale = float(np.abs(expected).max()) if scale is None else scale
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=0, atol=1e-5 * scale)


# Values


def published_inputs() -> tuple[list[Tensor], list[tuple[Tensor, Tensor, list[str], Tensor]]]:
    """Parameters and memories, and features, ids and negatives of three steps."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    linear = [drawn(*shape) for width in WIDTHS for shape in ((CHANNELS, width), (CHANNELS,))]
    memories = [drawn(N, CHANNELS) / 2 for _ in range(2)]
    steps = []
    for _ in range(3):
        mine, theirs = (drawn(BATCH, width) for width in WIDTHS)
        rows = np.sort(rng.choice(N, BATCH, replace=False))
        negatives = [rng.choice(np.delete(np.arange(N), row), K, replace=False) for row in rows]
        steps.append((mine, theirs, [IDS[row] for row in rows], torch.from_numpy(np.stack(negatives))))
    return [*linear, *memories], steps


def set_state(loss: nrl.ContrastiveLoss, state: Sequence[Tensor]) -> list[nn.Parameter]:
    """Set parameters and memories; the parameters in the order of the state."""
    parameters = [
        parameter
        for embedding in (loss.student_embedding, loss.teacher_embedding)
        for parameter in (embedding.weight, embedding.bias)
    ]
    with torch.no_grad():
        for place, new in zip([*parameters, loss.student_memory, loss.teacher_memory], state, strict=True):
            place.copy_(new)
    return parameters


@pytest.mark.parametrize("library", ["repdistiller", "torchdistill", "mdistiller"])
def test_three_steps_are_those_of_published_code(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constants come from the first step, and each step reads what the one before has remembered."""
    state, steps = published_inputs()
    loss = made()
    parameters = set_state(loss, state)
    for expected, (mine, theirs, ids, negatives) in zip(PUBLISHED[f"{library}/steps"], steps, strict=True):
        monkeypatch.setattr(loss, "_draw", lambda _rows, negatives=negatives: negatives)
        mine.requires_grad_()
        total = value(loss, (mine, theirs), ids)
        gradients = torch.autograd.grad(total, [mine, *parameters])
        assert_close(total, expected[:1])
        start = 1
        for gradient in gradients:
            part = expected[start : start + gradient.numel()]
            assert_close(gradient.flatten(), part)
            start += gradient.numel()
        assert start == len(expected)
    memories = torch.stack([loss.student_memory, loss.teacher_memory])
    assert_close(memories, PUBLISHED[f"{library}/memories"])


def plain(
    loss: nrl.ContrastiveLoss, both: tuple[Tensor, Tensor], rows: Sequence[int], drawn: Tensor
) -> float:
    """The formula as a loop, in float64; the constants are those of this batch."""
    embedded, memories = [], []
    for embedding, memory, x in zip(
        (loss.student_embedding, loss.teacher_embedding),
        (loss.student_memory, loss.teacher_memory),
        both,
        strict=True,
    ):
        weight, bias, values = (t.detach().double().numpy() for t in (embedding.weight, embedding.bias, x))
        out = values @ weight.T + bias
        embedded.append(out / np.linalg.norm(out, axis=1, keepdims=True))
        memories.append(memory.double().numpy())
    total = 0.0
    for anchors, memory in ((embedded[0], memories[1]), (embedded[1], memories[0])):
        scores = [
            [np.exp(anchors[i] @ memory[row] / loss.temperature) for row in [rows[i], *drawn[i].tolist()]]
            for i in range(len(rows))
        ]
        constant = np.mean(scores) * len(loss.ids)
        noise = loss.negatives / len(loss.ids)
        for positive, *others in scores:
            total -= np.log(positive / constant / (positive / constant + noise + 1e-7))
            total -= sum(np.log(noise / (other / constant + noise + 1e-7)) for other in others)
    return total / len(rows)


@pytest.mark.parametrize("negatives", [1, K, N - 1])
def test_the_value_is_that_of_a_plain_loop(negatives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, both, rows = made(negatives=negatives), features(seed=4), [1, 3, 4, 8, 9, 30]
    drawn = loss._draw(torch.tensor(rows))
    monkeypatch.setattr(loss, "_draw", lambda _: drawn)
    expected = plain(loss, both, rows, drawn)
    assert float(value(loss, both, [IDS[row] for row in rows]).detach()) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_the_value() -> None:
    loss = made()
    value(loss, features(), IDS[:BATCH])  # sets the constants, which have no gradient
    loss = loss.double().eval()
    mine, theirs = (x.detach().double() for x in features(seed=5))
    assert torch.autograd.gradcheck(
        lambda x, *_: value(loss, (x, theirs), IDS[:BATCH]), [mine.requires_grad_(), *loss.parameters()]
    )


def test_it_pulls_towards_the_same_image_and_learns() -> None:
    """Trained embeddings tell the teacher's features of an image from those of others."""
    torch.manual_seed(0)
    theirs = torch.randn(N, WIDTHS[1])
    mine = theirs @ torch.randn(WIDTHS[1], WIDTHS[0])
    loss = made(negatives=N)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    values = []
    for _ in range(150):
        total = value(loss, (mine, theirs), IDS)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(total.detach()))
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[1:11])
    nearest = (loss.student_memory @ loss.teacher_memory.T).argmax(dim=1)
    assert float((nearest == torch.arange(N)).float().mean()) > 0.5


def test_maps_are_averaged_over_places_and_other_shapes_are_flattened() -> None:
    flat, maps = made(), made()
    mine, theirs = features(seed=6)
    spread = torch.randn(BATCH, WIDTHS[0], 3, 2)
    spread = spread - spread.mean(dim=(2, 3), keepdim=True) + mine.detach()[:, :, None, None]
    expected = value(flat, (mine, theirs), IDS[:BATCH])
    both = spread, theirs[:, :, None]
    assert float(value(maps, both, IDS[:BATCH])) == pytest.approx(float(expected), rel=1e-5)


def test_mixed_precision_does_not_reach_it() -> None:
    usual, mixed = made(), made()
    expected = value(usual, features(seed=7), IDS[:BATCH])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value(mixed, features(seed=7), IDS[:BATCH]), expected)
    half = value(made(), [x.detach().bfloat16() for x in features(seed=7)], IDS[:BATCH])
    assert half.dtype == torch.float32


@pytest.mark.parametrize("fault", ["zeros", "equal", "one image", "repeated ids", "large"])
def test_gradients_are_finite_everywhere(fault: str) -> None:
    loss = made(temperature=0.01 if fault == "large" else 0.07)
    mine, theirs = (x.detach() for x in features())
    ids = IDS[:BATCH]
    if fault == "zeros":
        mine, theirs = mine * 0, theirs * 0
        nn.init.zeros_(loss.student_embedding.bias)
        nn.init.zeros_(loss.teacher_embedding.bias)
    elif fault == "equal":
        mine, theirs = mine[:1].expand(BATCH, -1), theirs[:1].expand(BATCH, -1)
    elif fault == "one image":
        mine, theirs, ids = mine[:1], theirs[:1], ids[:1]
    elif fault == "repeated ids":
        ids = [IDS[0]] * BATCH
    else:
        mine, theirs = mine * 1e4, theirs * 1e4
    mine = mine.clone().requires_grad_()
    for _ in range(2):
        total = value(loss, (mine, theirs), ids)
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(x.grad).all() for x in (mine, *loss.parameters()) if x.grad is not None)
    assert all(torch.isfinite(buffer).all() for buffer in loss.buffers())


# Negatives


def classes_of(label: Callable[[int], int]) -> dict[str, int]:
    return {stimulus: label(number) for number, stimulus in enumerate(IDS)}


@pytest.mark.parametrize("by_class", [False, True])
def test_negatives_are_others_each_at_most_once_and_uniform(by_class: bool) -> None:
    label = (lambda row: row % 3) if by_class else (lambda row: row)
    loss = make(classes_of(label) if by_class else IDS)
    rows = torch.tensor([0, 7, 39])
    counts = np.zeros((3, N))
    torch.manual_seed(0)
    for _ in range(400):
        for place, drawn in enumerate(loss._draw(rows).tolist()):
            assert len(set(drawn)) == len(drawn) == K
            counts[place, drawn] += 1
    for row, count in zip(rows.tolist(), counts, strict=True):
        others = np.array([label(row) != label(number) for number in range(N)])
        assert not count[~others].any()
        share = K / others.sum()
        z = (count[others] - 400 * share) / np.sqrt(400 * share * (1 - share))
        assert np.abs(z).max() < 4


@pytest.mark.parametrize(
    ("ids", "most"),
    [(IDS, N - 1), (classes_of(lambda row: row % 2), N // 2), (classes_of(lambda row: row // 30), 10)],
)
def test_there_are_at_most_as_many_negatives_as_others(ids: Any, most: int) -> None:
    loss = make(ids, negatives=16384)
    assert loss.negatives == loss.describe()["negatives"] == most
    assert loss._draw(torch.tensor([0, N - 1])).shape == (2, most)


def test_neither_the_order_of_the_batch_nor_of_the_ids_matters() -> None:
    mine, theirs = (x.detach() for x in features(seed=8))
    values, memories = [], []
    for order, ids in ((range(BATCH), IDS), ([5, 2, 0, 1, 4, 3], IDS[::-1])):
        loss = made(ids=ids)
        torch.manual_seed(1)
        rows = list(order)
        values.append(float(value(loss, (mine[rows], theirs[rows]), [IDS[row] for row in rows]).detach()))
        memories.append(loss.teacher_memory)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    torch.testing.assert_close(*memories)


def test_negatives_follow_torchs_random_numbers() -> None:
    loss = make()
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(loss._draw(torch.arange(5)).sort(dim=1).values)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# Memories


def test_constants_are_those_of_the_first_batch_of_training() -> None:
    loss = made()
    assert loss.log_constants.isinf().all()
    value(loss, features(), IDS[:BATCH])
    first = loss.log_constants.clone()
    assert first.isfinite().all()
    value(loss, features(seed=1), IDS[BATCH : 2 * BATCH])
    assert torch.equal(loss.log_constants, first)


def test_rows_of_the_batch_move_and_no_others() -> None:
    loss, ids = made(momentum=0.25), [IDS[4], IDS[2], IDS[4]]
    before, both = buffers(loss), tuple(x.detach()[:3] for x in features(seed=9))
    new = nn.functional.normalize(loss.teacher_embedding(both[1]), dim=1).detach()
    value(loss, both, ids)
    old = before["teacher_memory"]
    expected = old.clone()
    for row, place in ((4, 0), (2, 1)):  # of an id that occurs twice, the first image
        expected[row] = nn.functional.normalize(0.25 * old[row] + 0.75 * new[place], dim=0)
    torch.testing.assert_close(loss.teacher_memory, expected)


def test_eval_changes_nothing_and_answers_for_unknown_ids() -> None:
    loss = made()
    value(loss, features(), IDS[:BATCH])
    loss.eval()
    before, both = buffers(loss), features(300, seed=10)
    names = [f"new{number}" for number in range(300)]
    with torch.no_grad():
        first, again = (value(loss, both, names) for _ in range(2))
        assert torch.isfinite(first)
        assert torch.equal(first, again)
        parts = [value(loss, [x[s] for x in both], names[s]) for s in (slice(0, 100), slice(100, 300))]
    assert float(first) == pytest.approx(float(parts[0] + 2 * parts[1]) / 3, rel=1e-5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())
    loss.train()
    with pytest.raises(
        nrl.NeurordlError, match=r"contrastive:conv3: 300 of 300 images have an id that is not"
    ):
        value(loss, both, names)


def test_an_unknown_image_has_the_other_networks_embedding_as_its_positive() -> None:
    loss, both = made(), features(seed=11)
    value(loss, features(), IDS[:BATCH])
    loss.eval()
    drawn = loss._draw(torch.tensor([-1]))
    loss._draw = lambda rows: drawn.expand(len(rows), -1)  # type: ignore[method-assign]
    expected = value(loss, both, [f"new{number}" for number in range(BATCH)])
    rows = [row for row in range(N) if row not in drawn[0].tolist()][:BATCH]  # that no negative reads
    with torch.no_grad():
        for name, features_ in zip(("student", "teacher"), both, strict=True):
            embedded = getattr(loss, f"{name}_embedding")(features_)
            getattr(loss, f"{name}_memory")[rows] = nn.functional.normalize(embedded, dim=1)
    known = value(loss, both, [IDS[row] for row in rows])
    assert float(known.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


# In fit


def test_fit_remembers_training_stimuli_alone() -> None:
    """The look before the first step and the validation leave the memories alone."""
    stimuli = random_stimuli(20, 2, IDS[:20])
    train, validation = stimuli.split(held_out=0.25, seed=1)
    for ids in (train.ids, IDS):
        loss = make(ids)
        fit_with(
            student=student(),
            objective=nrl.Objective(loss, task=None),
            stimuli=train,
            validation=validation,
            stimuli_batch=5,
            epochs=2,
        )
        lengths = loss.student_memory.norm(dim=1)
        shown = torch.tensor([stimulus in train.ids for stimulus in loss.ids])
        torch.testing.assert_close(lengths[shown], torch.ones(len(train)))
        assert not torch.isclose(lengths[~shown], torch.tensor(1.0)).any()


def test_validation_does_not_read_rows_that_were_never_trained() -> None:
    """A share of the stimuli is taken for validation after the loss was made with the ids of all."""
    stimuli = random_stimuli(20, 2, IDS[:20])
    loss = make(stimuli.ids)
    fit_with(
        student(), nrl.Objective(loss, task=None), stimuli=stimuli, stimuli_batch=5, epochs=1, validation=0.25
    )
    loss.eval()
    shown = loss.shown
    assert int(shown.sum()) == 15
    nn.init.normal_(loss.student_memory[~shown])
    unseen = [stimulus for stimulus, known in zip(loss.ids, shown, strict=True) if not known]
    both = torch.randn(5, 16), torch.randn(5, 16)
    loss._draw = lambda rows: torch.arange(K).expand(len(rows), -1)  # type: ignore[method-assign]
    expected = value(loss, both, [f"new{number}" for number in range(5)])
    assert torch.equal(value(loss, both, unseen), expected)


def test_ids_are_checked_before_the_first_step(tmp_path: Path) -> None:
    stimuli = random_stimuli(20, 2, IDS[:20])
    with pytest.raises(nrl.NeurordlError, match="1 of 20 images have an id that is not in ids= \\(s07\\)"):
        fit_with(
            student(),
            nrl.Objective(make([stimulus for stimulus in IDS if stimulus != "s07"])),
            stimuli=stimuli,
            stimuli_batch=5,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_it_can_read_the_labelled_images() -> None:
    class OfLabelled(nrl.ContrastiveLoss):
        stream = "labelled"

    images = random_stimuli(8, 3, IDS[20:28], labels=np.arange(8) % 4)
    loss = OfLabelled(nrl.NetworkTeacher(student(9), "conv3"), "conv3", images.ids, channels=4)
    rdm = nrl.RDMLoss(loss.teacher, "conv3")
    fit_with(student(), nrl.Objective([loss, rdm]), images, random_stimuli(20, 2, IDS[:20]), epochs=1)
    assert bool(loss.shown.all())


def test_the_start_follows_the_seed_of_fit() -> None:
    def memories(seed: int, before: int) -> Tensor:
        loss = make(IDS, momentum=0.999999)
        torch.manual_seed(before)
        model = student()
        fit_with(
            student=model,
            objective=nrl.Objective(loss, task=None),
            stimuli=random_stimuli(20, 2, IDS[:20]),
            stimuli_batch=5,
            epochs=1,
            seed=seed,
        )
        return loss.student_memory[20:]

    assert torch.equal(memories(0, 1), memories(0, 2))
    assert not torch.equal(memories(0, 1), memories(1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a", "a"]}, "the ids of the ContrastiveLoss must be unique"),
        ({"ids": ["a"]}, "there are no negatives; give ids= of two ids or more"),
        ({"ids": {"a": 1, "b": 1}}, "there are no negatives; give ids= of two classes or more"),
        ({"negatives": 0}, "negatives"),
        ({"temperature": 0.0}, "temperature"),
        ({"momentum": 1.0}, "momentum"),
        ({"channels": 0}, "channels"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(nrl.NeurordlError, match=message):
        make(**changes)


def test_bad_use_is_named() -> None:
    with pytest.raises(nrl.NeurordlError, match=r"ContrastiveLoss .*RDMTeacher.* NetworkTeacher"):
        nrl.ContrastiveLoss(nrl.RDMTeacher.__new__(nrl.RDMTeacher), "conv3", IDS)  # type: ignore[arg-type]
    with pytest.raises(nrl.NeurordlError, match="memories are read by id, but the images have none"):
        nrl.Objective(make(), task=None)(student(), stimuli=nrl.Batch(random_stimuli(4, 1).images()))
