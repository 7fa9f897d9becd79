"""What an evaluation says beside its table: pairs that were not measured, few pairs, RDMs that repeat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.rdm import RDMs
from torch import nn

import neurordl as nrl
from neurordl.measures.comparisons import few_pairs
from neurordl.rsa.inference.resampling import Bootstrap
from neurordl.rsa.scores import Coverage, Subjects, repeated_layers
from tests.helpers import random_rdms

N = 12
IDS = [f"s{k}" for k in range(N)]
FIRST, SECOND = np.triu_indices(N, 1)


def brain(rois: tuple[str, ...] = ("IT",), subjects: int = 6) -> RDMs:
    names = [(f"p{k}", roi) for roi in rois for k in range(subjects)]
    subjects_of_rois = {"subject": [subject for subject, _ in names], "roi": [roi for _, roi in names]}
    return random_rdms(IDS, seed=0, **subjects_of_rois)


def models() -> RDMs:
    return random_rdms(IDS, measure=None, name=["a", "b"])


def without(data: RDMs, row: int, stimuli: int) -> RDMs:
    """The first stimuli were not measured in one RDM."""
    data.dissimilarities[row, stimuli > FIRST] = np.nan
    return data


def test_complete_rdms_need_no_note() -> None:
    found = nrl.evaluate(models(), brain(), comparison="corr")
    assert not [note for note in found.notes if "measured" in note or "identical RDMs" in note]
    assert ", all pairs of 12 stimuli;" in found.title


def test_unmeasured_pairs_are_noted(tmp_path: Path) -> None:
    data = without(without(brain(), 4, 3), 1, 1)
    data.dissimilarities[2, -1] = np.nan  # a pair whose stimuli are measured otherwise
    found = nrl.evaluate(models(), data, comparison="corr")
    (note,) = (note for note in found.notes if "measured" in note)
    assert note == (
        "p1: 55 of 66 pairs measured (no pair of 1 stimulus); p2: 65 of 66 pairs measured; "
        "p4: 36 of 66 pairs measured (no pair of 3 stimuli)"
    )
    assert "all pairs of 12 stimuli, as far as they were measured" in found.title
    assert note in str(found)
    found.save(tmp_path)
    kept = json.loads((tmp_path / "evaluation.json").read_text())["settings"]["measured"]["IT"]
    assert kept["pairs"] == {"p0": 66, "p1": 55, "p2": 65, "p3": 66, "p4": 36, "p5": 66}
    assert kept["stimuli"] == {"p0": 0, "p1": 1, "p2": 0, "p3": 0, "p4": 3, "p5": 0}


def test_notices_about_many_subjects_and_rois_are_short() -> None:
    data = brain(("EVC", "IT"))
    for row in range(5):
        without(data, row, 1)
    found = nrl.evaluate(models(), data, comparison="corr")
    (note,) = (note for note in found.notes if "measured" in note)
    assert note == "EVC: p0, p1, p2, and 2 more: 55 of 66 pairs measured (no pair of 1 stimulus)"
    for row in range(6, 11):
        without(data, row, 1)
    (note,) = (note for note in nrl.evaluate(models(), data, comparison="corr").notes if "measured" in note)
    assert note.startswith("p0, p1, p2, and 2 more: 55 of 66")


def seen_by_three(n_shared: int) -> RDMs:
    """RDMs of three people, who saw the same first stimuli, and others that nobody else saw."""
    data = random_rdms(IDS, seed=0, subject=["p0", "p1", "p2"])
    alone = np.array_split(np.arange(n_shared, len(IDS)), 3)
    i, j = np.triu_indices(len(IDS), 1)
    for row, mine in enumerate(alone):
        seen = np.isin(np.arange(len(IDS)), [*range(n_shared), *mine])
        data.dissimilarities[row, ~(seen[i] & seen[j])] = np.nan
    return data


def test_ceilings_of_people_who_saw_other_stimuli(tmp_path: Path) -> None:
    """A lower ceiling of a few shared pairs, or none, is said: scores are those of all pairs."""
    data = seen_by_three(3)
    found = nrl.evaluate(models(), data, comparison="corr")
    shared = (np.isfinite(data.dissimilarities).sum(axis=0) > 1).sum()
    every = np.isfinite(data.dissimilarities).any(axis=0).sum()
    said = f"noise ceiling: {shared} of {every} pairs were measured in two subjects or more; the lower bound"
    assert [note for note in found.notes if note.startswith(said)]
    found.save(tmp_path)
    kept = json.loads((tmp_path / "evaluation.json").read_text())["settings"]["measured"]
    (kept,) = kept.values()
    assert kept["shared"] == [shared, every]
    assert not any("in two subjects" in note for note in nrl.evaluate(models(), brain()).notes)

    alone = nrl.evaluate(models(), seen_by_three(0), comparison="corr")
    means = alone.to_frame().query("subject == 'mean'")
    assert means["ceiling_lower"].isna().all()
    assert means["score"].notna().all()
    assert means["reason"].str.startswith("no pair was measured in two subjects: no lower noise").all()
    assert len([note for note in alone.notes if "two subjects" in note]) == 1


def test_few_pairs_are_those_that_are_measured() -> None:
    data = brain()
    data.dissimilarities[:, FIRST < 7] = np.nan  # 5 stimuli are left
    notes = nrl.evaluate(models(), data, comparison="corr").notes
    (note,) = (note for note in notes if "by chance" in note)
    assert note.startswith("only 10 of the 66 pairs of 12 stimuli: by chance alone, scores vary with a ")
    assert few_pairs(12, 10).split(": ")[1] == note.split(": ")[1]


@pytest.mark.parametrize("bootstrap, told", [(None, True), ("subjects", True), ("stimuli", False)])
def test_intervals_over_stimuli_show_few_stimuli(bootstrap: str | None, told: bool) -> None:
    nine = models().subset_pattern("stimulus", IDS[:9])
    found = nrl.evaluate(nine, brain(), comparison="corr", bootstrap=bootstrap and Bootstrap(bootstrap, n=20))
    (note,) = (note for note in found.notes if "by chance" in note)
    assert ("intervals over subjects do not include this" in note) is told


def test_counts_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    data = np.where(rng.random((5, len(FIRST))) < 0.2, 1.0, np.nan)
    stack = np.where(rng.random((2, len(FIRST))) < 0.5, 1.0, np.nan)
    keep = rng.random(len(FIRST)) < 0.7
    names, pooled = [f"p{k}" for k in range(5)], [True, True, False, True, False]
    found = Coverage.of(stack, data, Subjects(tuple(names), tuple(pooled), ()), keep)
    anyone = 0
    for pair in range(len(FIRST)):
        seen = any(data[k, pair] == 1 for k in range(5) if pooled[k])
        anyone += bool(keep[pair] and seen and (stack[:, pair] == 1).any())
    assert found.compared == anyone
    assert found.requested == keep.sum()
    for k, name in enumerate(names):
        pairs = [(FIRST[p], SECOND[p]) for p in range(len(FIRST)) if keep[p] and data[k, p] == 1]
        assert found.pairs[name] == len(pairs)
        assert found.stimuli[name] == N - len({one for pair in pairs for one in pair})


def test_layers_with_the_same_rdm_are_named() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh())
    network = nn.Sequential(block, nn.Flatten(), nn.Linear(48, 5))
    pixels = np.random.default_rng(2).random((N, 1, 6, 6)).astype(np.float32)
    shown = nrl.StimulusSet.from_array(pixels, ids=IDS)
    found = nrl.evaluate(network, brain(), stimuli=shown, comparison="corr", layers=["0", "0.*", "2"])
    (note,) = (note for note in found.notes if "identical RDMs" in note)
    assert "identical RDMs: 0 = 0.1; the corrections" in note
    assert note in str(found)
    top = nrl.evaluate(network, brain(), stimuli=shown, comparison="corr", layers=["0", "2"])
    assert not [note for note in top.notes if "identical RDMs" in note]


def test_repeats_are_by_value() -> None:
    a, b = np.random.default_rng(4).random((2, 10))
    holes = np.where(np.arange(10) < 2, np.nan, a)
    undefined = np.full(10, np.nan)
    told = repeated_layers(list("uvwxyz"), np.stack([holes, b, holes, undefined, undefined, a]))
    assert "identical RDMs: u = w; " in told
    assert repeated_layers(["v", "z"], np.stack([a, b])) == ""
    assert repeated_layers(["x", "y"], np.stack([a, np.nextafter(a, 2)])) == ""
    assert repeated_layers(["x", "y"], np.stack([np.zeros(3), -np.zeros(3)])) != ""
    many = repeated_layers(list("abcdefgh"), np.repeat(np.arange(4.0), 2)[:, None] + np.arange(3.0))
    assert "a = b, c = d, e = f, and 1 more; " in many


def test_few_resamples_are_said() -> None:
    for n, few in ((99, True), (100, False)):
        found = nrl.evaluate(models(), brain(), comparison="corr", bootstrap=Bootstrap("subjects", n=n))
        notes = [note for note in found.notes if "resamples" in note]
        assert (
            notes == ["there are only 99 resamples: intervals and p depend on their seed; take n=1000"] * few
        )
        assert all(note in str(found) for note in notes)
    assert not [
        note for note in nrl.evaluate(models(), brain(), comparison="corr").notes if "resamples" in note
    ]
    named = {"a": models()[0]}
    with pytest.warns(UserWarning, match="there are only 5 resamples"):
        nrl.evaluate_fitted(named, brain(), bootstrap=Bootstrap("subjects", n=5))


def test_an_interval_without_width_is_said() -> None:
    """All resamples are alike, so that nothing varies but the subjects that were drawn."""

    class Same(nrl.Resampling):
        factors = ("subjects",)
        n = 100

        def draw_subjects(self, subjects: Sequence[str], size: int, rng: np.random.Generator) -> Any:
            return np.ones((size, len(subjects)), dtype=int)

    found = nrl.evaluate(models(), brain(), comparison="corr", bootstrap=Same())
    means = found.frame[found.frame["subject"] == "mean"]
    assert means["ci_low"].to_numpy() == pytest.approx(means["ci_high"].to_numpy(), abs=1e-12)
    told = "the interval has no width, although scores differ: take more resamples"
    assert means["reason"].tolist() == [told] * 2
    assert f"IT: {told}" in found.notes
    halves = nrl.Folds(subjects=2, stimuli=1, seed=None)
    with pytest.warns(UserWarning, match="model 'a': the interval has no width"):
        nrl.evaluate_fitted({"a": models()[0]}, brain(), bootstrap=Same(), folds=halves)
    alike = brain()
    alike.dissimilarities[:] = alike.dissimilarities[0]
    reasons = nrl.evaluate(models(), alike, comparison="corr", bootstrap=Same()).frame["reason"]
    assert told not in set(reasons)


class Dark(nn.Module):
    """A network that gives NaN for a black image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return torch.where(flat.amax(1, keepdim=True) == 0, torch.nan, flat)


def test_a_network_that_is_undefined_for_a_stimulus_says_so() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (N, 4, 4), dtype=np.uint8)
    pixels[3] = 0
    stimuli = nrl.StimulusSet.from_array(pixels, IDS)
    scores = nrl.evaluate(Dark(), brain(), stimuli=stimuli, layers=[""])
    assert scores.notes[0].startswith("not all layers have all 66 pairs of stimuli (output has 55): each is")
    with pytest.warns(UserWarning, match=r"layer '' gives NaN or infinity for 1 of 12 stimuli: 's3'"):
        patterns = nrl.extract_patterns(Dark(), stimuli, [""])
    with pytest.warns(
        UserWarning, match=r"11 of 66 pairs are NaN, because .* \(stimuli 's3', channels 0, 1,"
    ):
        nrl.compute_rdms(patterns[""])


@pytest.mark.parametrize("comparison", ["corr", "rho-a"])
def test_intervals_beyond_what_a_similarity_can_be_are_counted(comparison: str) -> None:
    """Two subjects: one is the model, the other its contrary."""
    model = models().subset("name", "a")
    values = np.concatenate([model.dissimilarities, 1 - model.dissimilarities])
    data = RDMs(
        values, rdm_descriptors={"subject": ["p0", "p1"]}, pattern_descriptors={"stimulus": list(IDS)}
    )
    found = nrl.evaluate(model, data, comparison=comparison)  # type: ignore[arg-type]
    mean = found.frame[found.frame["subject"] == "mean"]
    assert mean["ci_high"].item() > 1
    assert any(note.startswith("1 interval reaches beyond -1 or 1") for note in found.notes)
    assert any("take more subjects, or" in note for note in found.notes)
    stimuli = nrl.Bootstrap("stimuli", n=150)
    found = nrl.evaluate(models(), data, comparison="corr", bootstrap=stimuli)
    found = replace(found, frame=found.frame.assign(ci_high=2.0))
    assert any("t intervals of few stimuli are symmetric" in note for note in found.notes)
    many = nrl.evaluate(models(), brain(), comparison=comparison)  # type: ignore[arg-type]
    assert not any("beyond -1 or 1" in note for note in many.notes)


def test_a_stimulus_that_all_lack_is_said_once() -> None:
    ids = [f"s{k}" for k in range(8)]
    data = random_rdms(ids, seed=2, subject=[f"p{k}" for k in range(9)])
    data.dissimilarities[:, :7] = np.nan  # the first stimulus
    notes = nrl.evaluate({"a": random_rdms(ids, seed=1)}, data).notes
    assert [note for note in notes if "measured" in note] == [
        "each of 9 subjects: 21 of 28 pairs measured (no pair of 1 stimulus)"
    ]


def test_a_constant_model_has_a_note_where_its_similarity_is_0_by_definition() -> None:
    ids = [f"s{k}" for k in range(12)]
    data, models = random_rdms(ids, seed=2, subject=list("abcd")), random_rdms(ids, layer=["good", "flat"])
    models.dissimilarities[1] = 0.7
    text = "flat: all dissimilarities are the same, which predicts no order: rho-a is 0 by definition, and p"
    notes = nrl.evaluate(models, data, comparison="rho-a").notes
    assert [note for note in notes if note.startswith(text)]
    notes = nrl.evaluate(models, data, comparison="corr").notes  # it is NaN, with its reason
    assert not [note for note in notes if "by definition" in note]
