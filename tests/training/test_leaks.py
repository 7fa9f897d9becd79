"""What leaks from training into the scores is in the column ``fitted`` and in a note, with names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from torch import Tensor, nn

import neurordl as nrl
from neurordl.students.loading import load_weights
from neurordl.training.run import Run, load_run

N, PEOPLE = 24, "abcd"
IDS = [f"s{k:02d}" for k in range(N)]
PAIRS = N * (N - 1) // 2
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, 12, 12, 3), dtype=np.uint8)
VECTORS = RNG.random((4, PAIRS))
PATTERNS = {name: RNG.standard_normal((N, 20)) for name in PEOPLE}
QUIET = nrl.Execution(progress=False)


def images(pixels: Any = PIXELS, ids: list[str] = IDS) -> nrl.StimulusSet:
    return nrl.StimulusSet.from_array(pixels, ids, labels=np.arange(len(ids)) % 3)


TRAIN, HELD_OUT = images().split(held_out=0.5, seed=0)


def rdms(vectors: Any = VECTORS, names: Any = PEOPLE, ids: Any = IDS) -> RDMs:
    return RDMs(
        vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": list(names)},
        pattern_descriptors={"stimulus": list(ids)},
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))


def fit(teacher: Any = None, student: nn.Module | None = None, **options: Any) -> Run:
    teacher = teacher or nrl.RDMTeacher(rdms(), subjects=["a", "b"])
    task = "cross_entropy" if "labelled" in options else None
    loss = nrl.RDMLoss(teacher, layer="0", dissimilarity="correlation")
    options = {"stimuli": TRAIN, "epochs": 1, "execution": QUIET, **options}
    return nrl.fit(student or network(), nrl.Objective(loss, task=task), **options)


def score(
    run: Any, data: RDMs | None = None, stimuli: nrl.StimulusSet = HELD_OUT
) -> tuple[dict[str, str], str]:
    """The column ``fitted`` by subject, and the notes on leaks."""
    scores = nrl.evaluate(run, data or rdms(), stimuli=stimuli, layers=["0"], comparison="corr")
    assert scores.notes[: len(scores.settings["leaks"])] == scores.settings["leaks"]
    return dict(zip(scores.frame["subject"], scores.frame["fitted"], strict=True)), "; ".join(
        scores.settings["leaks"]
    )


def test_nothing_is_said_where_nothing_leaks() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="student:|labelled:")
        run = fit(labelled=TRAIN)
    fitted, notes = score(run)
    assert notes == ""
    assert fitted == {
        name: f"stimuli: no, subjects: {known}"
        for name, known in zip([*PEOPLE, "mean"], ["yes", "yes", "no", "no", "no"], strict=True)
    }


# labels of held-out stimuli

SOME = HELD_OUT.ids[:5]


def as_batches(labelled: nrl.StimulusSet) -> list[tuple[Tensor, Tensor, list[str]]]:
    return [(labelled.images(), labelled.labels, list(labelled.ids))]


LABELLED: dict[str, Callable[[], Any]] = {
    "the same ids": lambda: images().subset([*TRAIN.ids, *SOME]),
    "other ids": lambda: images(ids=[f"x{k}" for k in range(N)]).subset([f"x{IDS.index(s)}" for s in SOME]),
    "batches with ids": lambda: as_batches(images().subset([*TRAIN.ids, *SOME])),
}


@pytest.mark.parametrize("source", LABELLED)
def test_labels_of_held_out_stimuli_that_were_trained_on(source: str, tmp_path: Path) -> None:
    run = fit(labelled=LABELLED[source](), out=tmp_path / "run")
    for again in (run, load_run(tmp_path / "run", network())):
        fitted, notes = score(again)
        assert fitted["c"] == "stimuli: no (labels of 5), subjects: no"
        assert notes == f"labels of 5 of the 12 held-out stimuli were trained on: {', '.join(SOME)}"


def test_fit_says_that_held_out_stimuli_are_labelled() -> None:
    with pytest.warns(UserWarning, match=r"5 of the 12 held-out stimuli are among the labelled.*s\d\d"):
        fit(labelled=LABELLED["the same ids"]())


def test_another_image_of_the_same_id_is_another_image() -> None:
    other = images(np.random.default_rng(9).integers(0, 256, PIXELS.shape, dtype=np.uint8))
    assert score(fit(labelled=other)) == score(fit())


def test_labels_of_a_control_without_losses() -> None:
    run = nrl.fit(network(), nrl.Objective(), labelled=images(), epochs=1, execution=QUIET)
    fitted, notes = score(run)
    assert fitted["a"] == "stimuli: no (labels of 12), subjects: no"
    assert notes.endswith(f"trained on: {', '.join(HELD_OUT.ids[:5])}, and 7 more")


@pytest.mark.parametrize(
    ("pairs", "stimuli"),
    [("held-out", "no"), ("all", "some"), ("cross", "one of each pair"), ("fitted", "yes")],
)
def test_leaks_are_those_of_held_out_stimuli_in_whatever_pairs(pairs: Any, stimuli: str) -> None:
    run = fit(labelled=LABELLED["the same ids"]())
    scores = nrl.evaluate(run, rdms(), stimuli=images(), layers=["0"], comparison="corr", pairs=pairs)
    leak = "" if pairs == "fitted" else " (labels of 5)"
    assert set(scores.frame["fitted"].str.split(", subjects").str[0]) == {f"stimuli: {stimuli}{leak}"}
    assert all("5 of the 12 held-out" in note for note in scores.settings["leaks"])


# copies

ROWS = [IDS.index(stimulus) for stimulus in HELD_OUT.ids[:4]]
ORIGINALS = [IDS.index(stimulus) for stimulus in TRAIN.ids[:4]]
COPIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "identical": (lambda x: x, "4 identical, 0 nearly"),
    "darker": (lambda x: (0.9 * x).astype(np.uint8), "0 identical, 4 nearly"),
    "noisy": (
        lambda x: np.clip(x + RNG.normal(0, 2, x.shape), 0, 255).astype(np.uint8),
        "0 identical, 4 nearly",
    ),
}


@pytest.mark.parametrize("change", COPIES)
def test_held_out_images_that_are_copies_of_fitted_ones(change: str) -> None:
    pixels = PIXELS.copy()
    pixels[ROWS] = COPIES[change][0](pixels[ORIGINALS])
    train, held_out = images(pixels).split(held_out=0.5, seed=0)
    for options in (
        {"stimuli": train},
        {"stimuli": train.subset(train.ids[4:]), "validation": train.subset(train.ids[:4])},
    ):
        fitted, notes = score(fit(**options), stimuli=held_out)
        assert fitted["c"] == "stimuli: no (copies: 4), subjects: no"
        assert notes.startswith(
            f"4 of the 12 held-out stimuli are copies of fitted images ({COPIES[change][1]}): "
        )
        assert f"{held_out.ids[0]} of {train.ids[0]}, {held_out.ids[1]} of {train.ids[1]}" in notes


# earlier runs


def continued(run: Run, folder: Path) -> nn.Module:
    return run.student


def from_folder(run: Run, folder: Path) -> nn.Module:
    return load_run(folder, network()).student


def from_weights(run: Run, folder: Path) -> nn.Module:
    student = network()
    (folder.parent / "copy.safetensors").write_bytes((folder / "student.safetensors").read_bytes())
    load_weights(student, folder.parent / "copy.safetensors")
    return student


def from_old_folder(run: Run, folder: Path) -> nn.Module:
    record = json.loads((folder / "run.json").read_text())
    del record["trained_on"]
    (folder / "run.json").write_text(json.dumps(record))
    return load_run(folder, network()).student


@pytest.mark.parametrize("source", [continued, from_folder, from_weights, from_old_folder])
def test_a_student_that_was_fitted_before(source: Callable[[Run, Path], nn.Module], tmp_path: Path) -> None:
    taught = nrl.RDMTeacher(rdms(), subjects=["c"])
    first = fit(taught, stimuli=images().subset(SOME), out=tmp_path / "run")
    student = source(first, tmp_path / "run")
    with pytest.warns(UserWarning, match="student: it was fitted before, to 5 images"):
        second = fit(student=student, out=tmp_path / "second")
    for run in (second, load_run(tmp_path / "second", network())):
        fitted, notes = score(run)
        assert [fitted[name][-3:] for name in "abcd"] == ["yes", "yes", "yes", " no"]
        assert fitted["d"] == "stimuli: no (by an earlier run: 5), subjects: no"
        assert notes == (
            "an earlier run trained the network, or one that taught it, on 5 of the 12 held-out stimuli: "
            + ", ".join(SOME)
        )


def test_a_network_that_teaches_may_have_been_fitted_before() -> None:
    first = fit(stimuli=images().subset(SOME))
    teacher = nrl.NetworkTeacher(first.student, layers=["0"])
    fitted, _ = score(fit(teacher["0"]))
    assert fitted["c"] == "stimuli: no (by an earlier run: 5), subjects: no"
    assert fitted["a"].endswith("yes")


def test_the_network_of_a_run_knows_what_it_was_trained_on() -> None:
    fitted, notes = score(fit().student, stimuli=images())
    assert set(fitted.values()) == {"unknown (by an earlier run: 12)"}
    assert "on 12 of the 24" in notes


def keeping_features() -> nn.Module:
    student = network()
    student.register_forward_hook(lambda module, inputs, output: vars(module).update(kept=output))
    return student


def with_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(network()[0]), *network()[1:])


@pytest.mark.parametrize("validation", [None, 0.3])
@pytest.mark.parametrize("make", [network, keeping_features, with_weight_norm])
def test_a_later_fit_does_not_change_an_earlier_run(
    make: Callable[[], nn.Module], validation: float | None
) -> None:
    student = make()
    first = fit(student=student, validation=validation)
    before = {name: values.clone() for name, values in first.student.state_dict().items()}
    record = json.dumps(first.record)
    for name, values in student.state_dict().items():
        assert torch.equal(values, before[name]), "the student is trained in place"
    fit(student=student, labelled=images(), epochs=2)
    assert any(not torch.equal(values, before[name]) for name, values in student.state_dict().items())
    assert all(torch.equal(values, before[name]) for name, values in first.student.state_dict().items())
    assert json.dumps(first.record) == record
    assert nrl.accuracy(student, images()) >= 0


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
def test_a_wrapper_does_not_hide_what_its_network_was_trained_on(wrap: Any) -> None:
    student = network()
    fit(student=wrap(student), stimuli=images().subset(SOME))
    for trained in (student, wrap(student)):
        assert score(trained)[0]["c"] == "unknown (by an earlier run: 5)"
    with pytest.warns(UserWarning, match="it was fitted before, to 5 images"):
        assert len(fit(student=wrap(student)).trained_on) == 2


def test_a_resumed_run_keeps_what_came_before_it(tmp_path: Path) -> None:
    student = fit(stimuli=images().subset(SOME)).student
    fit(student=student, out=tmp_path / "run", epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="student:")
        again = fit(student=network(), out=tmp_path / "run", epochs=2, resume=True)
    assert "(by an earlier run: 5)" in score(again)[0]["c"]


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fit(out=path, epochs=2, labelled=LABELLED["batches with ids"]())
    record, state = json.loads((path / "run.json").read_text()), torch.load(path / "last.ckpt")
    del record["trained_on"], state["labelled"]
    (path / "run.json").write_text(json.dumps(record))
    torch.save(state, path / "last.ckpt")
    again = fit(out=path, epochs=2, labelled=LABELLED["batches with ids"](), resume=True)
    assert len(again.history) == 2
    assert score(again)[0]["c"] == "stimuli: no, subjects: no"  # the ids of its batches were not kept


def test_a_student_that_cannot_be_copied_is_shared_with_a_notice() -> None:
    class Alone(nn.Sequential):
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("no copies")

    student = Alone(*network())
    with pytest.warns(UserWarning, match="cannot be copied.*no copies"):
        assert fit(student=student).student is student


# subjects

ORDER = np.random.default_rng(3).permutation(N)


def some_stimuli(ids: Any) -> RDMs:
    data = rdms(names="wxyz")
    return data.subset_pattern("stimulus", list(ids))


def shuffled(vectors: Any) -> RDMs:
    data = rdms(vectors, "wxyz")
    data.reorder(ORDER)
    return data


def lacking(vectors: Any) -> Any:
    return np.where(np.random.default_rng(2).random(vectors.shape) < 0.3, np.nan, vectors)


PEOPLE_AGAIN: dict[str, Callable[[], RDMs]] = {
    "renamed": lambda: rdms(names="wxyz"),
    "rounded": lambda: rdms(VECTORS.round(3), "wxyz"),
    "float32": lambda: rdms(VECTORS.astype(np.float32), "wxyz"),
    "float16 in another order": lambda: shuffled(VECTORS.astype(np.float16)),
    "scaled": lambda: rdms(1e-7 * VECTORS, "wxyz"),
    "close together": lambda: rdms(1 + 1e-3 * VECTORS, "wxyz"),
    "with missing pairs": lambda: rdms(lacking(VECTORS), "wxyz"),
    "held-out stimuli only": lambda: some_stimuli(HELD_OUT.ids),
    "prefixed": lambda: rdms(1 - VECTORS, ["sub-a", "sub-b", "sub-c", "sub-d"]),
}
NUMBERED = [(["sub-01", "sub-02", "sub-03", "sub-04"], ["1", "2"]), (["1", "2", "3", "4"], ["s01", "s02"])]


@pytest.mark.parametrize("form", PEOPLE_AGAIN)
def test_people_who_taught_are_known_again(form: str) -> None:
    fitted, notes = score(fit(), PEOPLE_AGAIN[form]())
    values = list(fitted.values())
    assert [value.rpartition(" ")[2] for value in values] == ["yes", "yes", "no", "no", "no"]
    renamed = "subjects who taught under another name, by their RDMs: w = a, x = b"
    assert notes == ("" if form == "prefixed" else renamed)


@pytest.mark.parametrize(("names", "taught"), NUMBERED)
def test_names_with_prefixes_and_zeros_are_the_same(names: list[str], taught: list[str]) -> None:
    run = fit(nrl.RDMTeacher(rdms(VECTORS[:2], taught)))
    assert [value[-3:] for value in score(run, rdms(1 - VECTORS, names))[0].values()] == ["yes"] * 2 + [
        " no"
    ] * 3


@pytest.mark.parametrize("center", [None, "all"])
@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
def test_people_of_a_pattern_teacher_are_known_again(dissimilarity: str, center: Any) -> None:
    patterns = {name: (PATTERNS[name], IDS) for name in "ab"}
    teacher = nrl.PatternTeacher(patterns, dissimilarity=dissimilarity, center=center)
    datasets = []
    for name in PEOPLE:
        values = PATTERNS[name]
        if center is not None:
            values = values - values[[IDS.index(stimulus) for stimulus in TRAIN.ids]].mean(0)
        descriptors = {"subject": f"new {name}"}
        datasets.append(Dataset(values, descriptors=descriptors, obs_descriptors={"stimulus": IDS}))
    fitted, notes = score(fit(teacher), nrl.compute_rdms(datasets, dissimilarity))
    assert [value[-3:] for value in fitted.values()] == ["yes", "yes", " no", " no", " no"]
    assert notes.endswith("by their RDMs: new a = a, new b = b")


def test_people_with_similar_rdms_are_not_the_same() -> None:
    base = RNG.random(PAIRS)
    alike = base + 0.03 * RNG.standard_normal((4, PAIRS))  # r = .99
    run = fit(nrl.RDMTeacher(rdms(alike[:2], "ab")))
    fitted, notes = score(run, rdms(alike[2:], "yz"))
    assert [value[-3:] for value in fitted.values()] == [" no"] * 3
    assert notes == ""


# means


def own_mean() -> RDMs:
    return rdms(VECTORS[:3].mean(0, keepdims=True), ["group_mean"])


def described_mean() -> RDMs:
    mean = own_mean()
    mean.rdm_descriptors["averaged_subjects"] = ["a, b, c"]
    return mean


MEANS: dict[str, Callable[[], RDMs]] = {
    "select_rdms": lambda: nrl.select_rdms(rdms(), subjects=["a", "b", "c"], average="subject"),
    "a descriptor": described_mean,
}


@pytest.mark.parametrize("source", MEANS)
@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["sub-a", "sub-b", "sub-c", "sub-d"]])
def test_a_mean_that_taught_holds_its_members(source: str, names: list[str], tmp_path: Path) -> None:
    nrl.save_rdms(MEANS[source](), tmp_path / "mean.h5")
    run = fit(nrl.RDMTeacher(nrl.load_rdms(tmp_path / "mean.h5")))
    assert run.fitted_subjects == ("a", "b", "c")
    fitted, _ = score(run, rdms(names=names))
    assert [value[-3:] for value in fitted.values()] == ["yes", "yes", "yes", " no", " no"]


def test_a_mean_of_the_scored_people_is_known_without_their_names() -> None:
    fitted, notes = score(fit(nrl.RDMTeacher(own_mean())), rdms(VECTORS[:3], "xyz"))
    assert [value[-3:] for value in fitted.values()] == ["yes"] * 4
    assert notes == "the mean RDM of 3 of the 3 subjects taught, as group_mean"


@pytest.mark.parametrize("noise", [1.0, 0.05])  # with little noise, means of others correlate above .999 too
@pytest.mark.parametrize("missing", [False, True])
def test_a_mean_of_all_but_one_of_the_scored_people(noise: float, missing: bool) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.random(PAIRS) + noise * rng.random((6, PAIRS))
    if missing:
        vectors[:, ::7] = np.nan
    mean = rdms(vectors[[0, 1, 2, 4, 5]].mean(0, keepdims=True), ["others"])
    fitted, notes = score(fit(nrl.RDMTeacher(mean)), rdms(vectors, "uvwxyz"))
    assert [value[-3:] for value in fitted.values()] == ["yes", "yes", "yes", " no", "yes", "yes", " no"]
    assert notes == "the mean RDM of 5 of the 6 subjects taught, as others"


def test_the_mean_of_other_people_is_not_that_of_the_scored() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.random(PAIRS) + 0.05 * rng.random((40, PAIRS))
    run = fit(nrl.RDMTeacher(rdms(vectors[:20].mean(0, keepdims=True), ["others"])))
    names = [f"n{k}" for k in range(20)]
    fitted, notes = score(run, rdms(vectors[20:], names))
    assert np.corrcoef(vectors[:20].mean(0), vectors[20:].mean(0))[0, 1] > 0.999
    assert {value[-3:] for value in fitted.values()} == {" no"}
    assert notes == ""


def test_a_mean_is_scored_by_its_members() -> None:
    for members, status in ((["a", "b"], "yes"), (["b", "c"], "some"), (["c", "d"], "no")):
        mean = nrl.select_rdms(rdms(), subjects=members, average="subject")
        assert score(fit(), mean)[0]["unnamed"] == f"stimuli: no, subjects: {status}"


# records


@pytest.mark.parametrize(
    "damage",
    [
        lambda shown: shown[0]["stimuli"][0].update(images="AAAA"),
        lambda shown: shown[0]["rdms"][0].update(subjects=["a"]),
        lambda shown: shown[0].pop("labelled"),
        lambda shown: shown.append("run"),
    ],
)
def test_a_damaged_record_is_named(damage: Callable[[Any], Any], tmp_path: Path) -> None:
    fit(out=tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    damage(record["trained_on"])
    path.write_text(json.dumps(record))
    with pytest.raises(nrl.NeurordlError, match=r"run\.json"):
        load_run(tmp_path / "run", network())


@pytest.mark.parametrize("record", ["[1]", '[{"stimuli": []}]'])
def test_weights_with_a_damaged_record_are_not_trained(record: str, tmp_path: Path) -> None:
    student, path = network(), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(student.state_dict(), path, {"trained_on": record})
    load_weights(student, path)
    for use in (lambda: fit(student=student), lambda: score(student)):
        with pytest.raises(nrl.NeurordlError, match=r"of what .* trained on is damaged"):
            use()
