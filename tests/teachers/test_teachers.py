"""Teachers answer with the right RDM of the right stimuli, whatever the order of anything."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs, calc_rdm
from torch import Tensor, nn

import neurordl as nrl
from neurordl import (
    Batch,
    NetworkTeacher,
    NeurordlError,
    PatternTeacher,
    RDMLoss,
    RDMTeacher,
    StimulusSet,
    Target,
)
from neurordl.ids import natural_key
from neurordl.measures.dissimilarities import correlation, euclidean, mahalanobis
from neurordl.rdms import select_rdms
from neurordl.rdms import source as source_module
from neurordl.rdms.selection import reindex
from neurordl.students import small_cnn
from tests.helpers import random_rdms

IDS = [f"s{i}" for i in range(12)]
RNG = np.random.default_rng(0)


def brain(n_subjects: int = 3, ids: Sequence[str] = IDS, missing: float = 0.0, **described: Any) -> RDMs:
    rdms = random_rdms(ids, **(described or {"subject": [f"p{k}" for k in range(n_subjects)]}))
    rdms.dissimilarities += np.arange(n_subjects)[:, None]
    rdms.dissimilarities[np.random.default_rng(2).random(rdms.dissimilarities.shape) < missing] = np.nan
    return rdms


def batch_of(ids: Sequence[str] | None, n: int = 0) -> Batch:
    return Batch(torch.zeros(n or len(ids or ()), 1, 8, 8), ids)


def answer(teacher: Any, ids: Sequence[str]) -> Target:
    target = teacher.target(batch_of(ids), {})
    assert target.rdms.dtype == target.weights.dtype == torch.float32
    assert target.rdms.isfinite().all()
    assert target.rdms.shape == target.weights.shape
    return target


def by_loop(rdms: RDMs, ids: Sequence[str]) -> np.ndarray:
    """Entries of each RDM looked up by name in its square form, float64."""
    squares = rdms.get_matrices()
    place = {name: row for row, name in enumerate(rdms.pattern_descriptors["stimulus"])}
    pairs = list(itertools.combinations(ids, 2))
    return np.array([[one[place[a], place[b]] for a, b in pairs] for one in squares])


# RDMTeacher


def test_batch_rdm_is_that_of_its_ids_in_their_order() -> None:
    rdms = brain(1)
    teacher = RDMTeacher(rdms)
    for _ in range(20):
        ids = list(RNG.permutation(IDS)[: RNG.integers(3, 12)])
        target = answer(teacher, ids)
        np.testing.assert_allclose(target.rdms, by_loop(rdms, ids), rtol=1e-6)
        assert (target.weights == 1).all()


def test_batch_rdm_is_what_rsatoolbox_selects() -> None:
    rdms = brain(2)
    ids = list(RNG.permutation(IDS)[:7])
    kept = rdms.subset_pattern("stimulus", ids)  # in the order of the RDMs, whatever was asked for
    target = answer(RDMTeacher(rdms, pool="subjects"), list(kept.pattern_descriptors["stimulus"]))
    np.testing.assert_allclose(target.rdms, kept.dissimilarities, rtol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "zscore", "subjects"])
def test_pooling_with_missing_pairs_equals_a_loop(pool: Any) -> None:
    rdms = brain(4, missing=0.3)
    vectors = by_loop(rdms, sorted(IDS, key=natural_key))
    vectors[:, 0] = np.nan  # measured by nobody
    rdms.dissimilarities = vectors
    ids = list(RNG.permutation(IDS))
    target = answer(RDMTeacher(rdms, pool=pool), ids)
    by_subject = by_loop(rdms, ids)
    if pool == "zscore":
        full = by_loop(rdms, IDS)
        for k, own in enumerate(full):
            own = own[np.isfinite(own)]
            by_subject[k] = (by_subject[k] - own.mean()) / own.std()
    if pool == "subjects":
        expected, weights = by_subject, np.isfinite(by_subject)
    else:
        expected = np.full((1, by_subject.shape[1]), np.nan)
        for pair in range(by_subject.shape[1]):
            values = [value for value in by_subject[:, pair] if np.isfinite(value)]
            if values:
                expected[0, pair] = sum(values) / len(values)
        weights = np.isfinite(expected)
    np.testing.assert_array_equal(target.weights, weights)
    np.testing.assert_allclose(target.rdms, np.nan_to_num(expected), atol=1e-5)


def test_standardised_constant_rdm_is_zero() -> None:
    rdms = brain(2)
    rdms.dissimilarities[0] = 0.3
    target = answer(RDMTeacher(rdms, pool="zscore", subjects=["p0"]), IDS)
    assert (target.rdms == 0).all()


@pytest.mark.parametrize("pool", ["mean", "subjects"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_reliability_weights_equal_a_loop(pool: Any, shrinkage: float) -> None:
    rdms = brain(5, missing=0.15)
    teacher = RDMTeacher(rdms, pool=pool, pair_weights="reliability", shrinkage=shrinkage)
    vectors = by_loop(rdms, IDS)
    scored = np.array([(own - np.nanmean(own)) / np.nanstd(own) for own in vectors])
    spread = np.array(
        [
            np.var(column[np.isfinite(column)], ddof=1) if np.isfinite(column).sum() > 1 else np.nan
            for column in scored.T
        ]
    )
    mean = np.nanmean(spread)
    spread = np.where(np.isnan(spread), mean, (1 - shrinkage) * spread + shrinkage * mean)
    weights = 1 / spread
    weights /= weights[np.isfinite(vectors).any(0)].mean()
    measured = np.isfinite(vectors)
    expected = measured * weights
    if pool == "mean":
        expected = measured.any(0, keepdims=True) * weights
    np.testing.assert_allclose(answer(teacher, IDS).weights, expected, rtol=1e-5)
    assert (shrinkage == 1.0) == np.allclose(expected[expected > 0], 1.0)


@pytest.mark.parametrize("pool", ["mean", "zscore", "subjects"])
@pytest.mark.parametrize("pair_weights", [None, "reliability"])
def test_held_out_pairs_have_no_part_in_what_is_taught(pool: Any, pair_weights: Any) -> None:
    rdms, train = brain(5, missing=0.1), IDS[: len(IDS) * 2 // 3]
    changed, alone = copy.deepcopy(rdms), rdms.subset_pattern("stimulus", list(train))
    names = list(rdms.pattern_descriptors["stimulus"])
    i, j = np.triu_indices(len(names), 1)
    trained = np.isin(names, train)
    held_out = ~(trained[i] & trained[j])
    changed.dissimilarities[:, held_out] = 5 * np.random.default_rng(1).random((5, held_out.sum())) ** 3
    targets = []
    for source in (rdms, changed, alone):
        teacher = RDMTeacher(source, pool=pool, pair_weights=pair_weights)
        control = teacher.permuted(train, seed=1)
        teacher.prepare(train)
        control.prepare(train[::-1])
        both = [answer(teacher, train), answer(control, train)]
        targets.append([values for target in both for values in (target.rdms, target.weights)])
    for before, after, only in zip(*targets, strict=True):
        np.testing.assert_array_equal(before, after)
        np.testing.assert_allclose(before, only, rtol=1e-6, atol=1e-6)


def test_reliability_weights_that_are_not_defined() -> None:
    with pytest.raises(NeurordlError, match="at least two subjects, but there is one"):
        RDMTeacher(brain(1), pair_weights="reliability")
    same = brain(2)
    same.dissimilarities[1] = same.dissimilarities[0]
    with pytest.raises(NeurordlError, match="no variance across subjects; use shrinkage"):
        RDMTeacher(same, pair_weights="reliability", shrinkage=0.0)
    apart = brain(2)
    apart.dissimilarities[0, :30], apart.dissimilarities[1, 30:] = np.nan, np.nan
    with pytest.raises(NeurordlError, match="pairs that at least two subjects have"):
        RDMTeacher(apart, pair_weights="reliability")
    with pytest.raises(NeurordlError, match="shrinkage=2: expected a number of at least 0 and of at most 1"):
        RDMTeacher(brain(3), pair_weights="reliability", shrinkage=2)
    for wrong in ({"pair_weights": "noise"}, {"pool": "median"}, {"missing": "drop"}):
        with pytest.raises(NeurordlError, match=r"expected"):
            RDMTeacher(brain(3), **wrong)


def test_infinite_dissimilarity_is_a_missing_pair() -> None:
    rdms = brain(2)
    rdms.dissimilarities[:, 3] = np.inf
    for pool in ("mean", "zscore", "subjects"):
        target = answer(RDMTeacher(rdms, pool=pool), IDS)  # type: ignore[arg-type]
        assert (target.weights[:, 3] == 0).all()
        assert (target.weights.sum(1) == 65).all()


def test_stimulus_that_came_twice_makes_no_pair_with_itself() -> None:
    ids = ["s3", "s1", "s3", "s0", "s0"]
    pairs = list(itertools.combinations(ids, 2))
    for teacher in (
        RDMTeacher(brain(1)),
        PatternTeacher(patterns(1)),
        PatternTeacher(runs(), dissimilarity="crossnobis"),
    ):
        target = answer(teacher, ids)
        for k, (a, b) in enumerate(pairs):
            assert target.weights[0, k] == (a != b)
            if a != b:
                alone = answer(teacher, [a, b]).rdms[0, 0]
                torch.testing.assert_close(target.rdms[0, k], alone, rtol=1e-4, atol=1e-6)


def test_unknown_stimuli() -> None:
    teacher = RDMTeacher(brain(1))
    with pytest.raises(NeurordlError, match=r"1 of 4 ids .*'zzz'"):
        teacher.target(batch_of(["s1", "zzz", "s2", "s3"]), {})
    with pytest.raises(NeurordlError, match="but the images have none"):
        teacher.target(batch_of(None, 4), {})
    lenient = RDMTeacher(brain(1), missing="ignore")
    ids = ["s1", "zzz", "s2", "yyy"]
    target = answer(lenient, ids)
    known = [i for i, (a, b) in enumerate(itertools.combinations(ids, 2)) if {a, b} <= set(IDS)]
    assert target.weights[0].nonzero().flatten().tolist() == known
    assert target.rdms[0, known[0]] == answer(lenient, ["s1", "s2"]).rdms[0, 0]
    assert lenient.groups(ids) == [["s1", "s2"]]
    assert lenient.match(ids).missing == ("zzz", "yyy")


def test_a_match_reports_which_subjects_lack_stimuli() -> None:
    data = brain()
    first, second = np.triu_indices(len(IDS), 1)
    data.dissimilarities[1, (first < 2) | (second < 2)] = np.nan  # s0 and s1
    data.dissimilarities[2, -1] = np.nan  # one pair, of stimuli that are measured otherwise
    teacher = RDMTeacher(data)
    name = teacher.subjects[1]
    assert teacher.match(IDS).lacking == {name: 2}
    assert f"subjects without some of them       1  {name} 2" in str(teacher.match(IDS))
    assert teacher.match(IDS[1:]).lacking == {name: 1}
    assert teacher.match(IDS[2:]).lacking == {}
    assert "subjects without" not in str(teacher.match(IDS[2:]))
    assert sum(teacher.permuted(IDS, seed=0).match(IDS).lacking.values()) == 2
    people = patterns()
    full = PatternTeacher(people)
    assert full.match(IDS).lacking == {}
    last = full.subjects[-1]
    values, ids = people[last]
    people[last] = (np.asarray(values)[3:], list(ids)[3:])
    assert PatternTeacher(people).match(IDS).lacking == {last: 3}
    assert PatternTeacher(people).prepare(IDS[2:]).lacking == {last: 1}


def test_order_of_rows_and_subjects_changes_nothing() -> None:
    rdms = brain(4, missing=0.2)
    order, people = RNG.permutation(12), RNG.permutation(4)
    ids = [IDS[k] for k in order]
    shuffled = RDMs(
        by_loop(rdms, ids)[people],
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": [f"p{k}" for k in people]},
        pattern_descriptors={"stimulus": ids},
    )
    for options in ({}, {"pool": "zscore"}, {"pool": "subjects"}, {"pair_weights": "reliability"}):
        one, other = RDMTeacher(rdms, **options), RDMTeacher(shuffled, **options)
        requested = list(RNG.permutation(IDS)[:8])
        assert torch.equal(answer(one, requested).rdms, answer(other, requested).rdms)
        assert torch.equal(answer(one, requested).weights, answer(other, requested).weights)
        assert one.describe() == other.describe()


def test_checksums_are_of_the_ids_too() -> None:
    """The same numbers under other ids are another teacher, which a run is not continued with."""
    others, exchanged = [*IDS[:-1], "other"], [IDS[1], IDS[0], *IDS[2:]]
    teachers = [RDMTeacher(random_rdms(ids, 2, subject=["a", "b"])) for ids in (IDS, others, exchanged)]
    assert len({teacher.describe()["sha256"] for teacher in teachers}) == 3
    values = np.random.default_rng(0).normal(size=(24, 5))
    datasets = [Dataset(values[:12], obs_descriptors={"stimulus": ids}) for ids in (IDS, others, exchanged)]
    described = [PatternTeacher({"p0": dataset}).describe()["sha256"]["p0"] for dataset in datasets]
    assert len(set(described)) == 3
    checksums = set()
    for first in ([1] * 12, [2, *[1] * 11]):
        columns = {"stimulus": [*IDS, *IDS], "run": [*first, *(3 - run for run in first)]}
        teacher = PatternTeacher({"p0": Dataset(values, obs_descriptors=columns)}, dissimilarity="crossnobis")
        checksums.add(teacher.describe()["sha256"]["p0"])
    assert len(checksums) == 2


def test_subjects_are_named_as_the_evaluation_names_them() -> None:
    assert RDMTeacher(brain(2, subject=[2.0, 1.0])).subjects == ("1", "2")
    assert RDMTeacher(brain(2, subject=["p10", "p9"])).subjects == ("p9", "p10")
    alone = brain(1, roi=["IT"])
    assert RDMTeacher(alone).subjects == ("unnamed",)


def test_rois_and_sessions_are_chosen_or_averaged() -> None:
    described = {"subject": ["a", "a", "b", "b"], "session": [1, 2, 1, 2], "roi": ["IT"] * 4}
    rdms = brain(4, **described)
    loop = by_loop(rdms, IDS)
    with pytest.raises(NeurordlError, match="'session'"):
        RDMTeacher(rdms)
    chosen = RDMTeacher(select_rdms(rdms, select={"session": 2}), roi="IT", subjects=["a"])
    np.testing.assert_allclose(answer(chosen, IDS).rdms[0], loop[1], rtol=1e-6)
    averaged = RDMTeacher(select_rdms(rdms, average="session"), pool="subjects")
    np.testing.assert_allclose(answer(averaged, IDS).rdms, [loop[:2].mean(0), loop[2:].mean(0)], rtol=1e-6)


# Permuted controls


def test_a_permuted_subset_is_centred_by_the_patterns_that_it_answers_with() -> None:
    """Stimuli trained on swap among themselves, but not all stimuli that a subject saw are trained on."""
    by_subject = {"a": patterns(1)["p0"], "b": (patterns(2)["p1"][0][:6], IDS[:6])}
    teacher = PatternTeacher(by_subject, center="all", pool="subjects")
    control = teacher.permuted(IDS[:9], seed=1)
    control.prepare(IDS[3:9])
    true = [control.ids[row] for row in control.rows(IDS[3:9])]
    assert set(true) != set(IDS[3:9])
    for name, (values, ids) in by_subject.items():
        rows = [ids.index(one) for one in true if one in ids]
        assert control._centered is not None
        removed = control._centered[name].removed
        np.testing.assert_allclose(removed[0], values[rows].mean(0), rtol=1e-5, atol=1e-6)


def permutation_of(teacher: Any, control: Any, ids: Sequence[str]) -> dict[str, str]:
    """Which stimulus the control answers with for each id, found from its whole RDM alone."""
    whole = {
        frozenset(pair): value
        for pair, value in zip(
            itertools.combinations(IDS, 2), answer(teacher, IDS).rdms[0].tolist(), strict=True
        )
    }
    by_subject = dict(zip(itertools.combinations(ids, 2), answer(control, ids).rdms[0].tolist(), strict=True))
    source = {value: pair for pair, value in whole.items()}
    matches: dict[str, set[str]] = {}
    for (a, b), value in by_subject.items():
        nearest = min(source, key=lambda other: abs(other - value))
        assert abs(nearest - value) < 1e-5
        for one in (a, b):
            matches[one] = matches.get(one, set(source[nearest])) & source[nearest]
    assert all(len(names) == 1 for names in matches.values())  # rows and columns moved together
    return {one: next(iter(names)) for one, names in matches.items()}


@pytest.mark.parametrize("teacher_name", ["rdm", "pattern"])
def test_permuted_moves_rows_and_columns_together(teacher_name: str) -> None:
    teacher = RDMTeacher(brain(1)) if teacher_name == "rdm" else PatternTeacher(patterns(1))
    train = IDS[:9]
    before = answer(teacher, IDS).rdms
    control = teacher.permuted(train, seed=3)
    moved = permutation_of(teacher, control, IDS)
    assert sorted(moved.values()) == sorted(IDS)
    assert {moved[name] for name in train} == set(train)
    assert [moved[name] for name in IDS[9:]] == IDS[9:]  # stimuli that are not trained on stay
    assert any(moved[name] != name for name in train)
    assert torch.equal(answer(teacher, IDS).rdms, before)  # the teacher itself stays as it was
    again = teacher.permuted(list(RNG.permutation(train)), seed=3)
    assert permutation_of(teacher, again, IDS) == moved  # one a seed, whatever the order
    assert permutation_of(teacher, teacher.permuted(train, seed=4), IDS) != moved
    assert control.describe()["control"]["permuted"] == 3
    assert again.describe() == control.describe() != teacher.permuted(train, seed=4).describe()
    assert teacher.describe()["control"] is None


def test_a_teacher_prints_what_it_is() -> None:
    teacher = RDMTeacher(brain(roi=["IT"] * 3, subject=["a", "b", "c"]), roi="IT")
    assert repr(teacher) == "RDMTeacher(IT, 3 subjects, 12 stimuli)"
    assert repr(teacher.permuted(IDS, 4)) == "RDMTeacher(IT, 3 subjects, 12 stimuli, permuted with seed 4)"
    network = NetworkTeacher(small_cnn(), ["conv1", "conv2"])
    assert repr(network["conv1"]) == "NetworkTeacher(Sequential, 'conv1', 'conv2')['conv1']"


def test_permuted_within_categories() -> None:
    teacher = RDMTeacher(brain(1))
    category = {name: "ab"[k % 2] for k, name in enumerate(IDS)}
    moved = permutation_of(teacher, teacher.permuted(IDS, 0, within=category), IDS)
    assert all(category[a] == category[b] for a, b in moved.items())
    assert sum(a != b for a, b in moved.items()) > 3
    with pytest.raises(NeurordlError, match="stimulus 's3' has no category"):
        teacher.permuted(IDS, 0, within={name: 1 for name in IDS if name != "s3"})
    with pytest.raises(NeurordlError, match="no category has two stimuli"):
        teacher.permuted(IDS, 0, within={name: name for name in IDS})
    with pytest.raises(NeurordlError, match="'zzz'"):
        teacher.permuted([*IDS, "zzz"], 0)
    with pytest.raises(NeurordlError, match="'s0' occurs more than once"):
        teacher.permuted([*IDS, "s0"], 0)


# PatternTeacher


def patterns(n_subjects: int = 3, n_channels: int = 20) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    base = rng.normal(size=(12, n_channels))
    return {f"p{k}": (base + rng.normal(size=base.shape), IDS) for k in range(n_subjects)}


def runs(n_runs: int = 4, n_channels: int = 20) -> dict[str, Dataset]:
    """One subject's Dataset, its rows in random order, each stimulus once a run; runs have offsets."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(12, n_channels))
    rows = [(run, k) for run in range(n_runs) for k in range(12)]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    values = np.array([base[k] + rng.normal(size=n_channels) + 3 * run for run, k in rows])
    described = {"stimulus": [IDS[k] for _, k in rows], "run": [f"run{run}" for run, _ in rows]}
    return {"p0": Dataset(values, obs_descriptors=described)}


@pytest.mark.parametrize("measure", ["correlation", "euclidean", "euclidean_root", "cosine"])
@pytest.mark.parametrize("pool", ["mean", "subjects"])
def test_patterns_teach_as_their_rdms_do(measure: str, pool: Any) -> None:
    by_subject = patterns()
    teacher = PatternTeacher(by_subject, dissimilarity=measure, pool=pool)
    function = {"correlation": correlation, "euclidean": euclidean}.get(measure)
    if function is None:
        from neurordl.measures.dissimilarities import DISSIMILARITIES

        function = DISSIMILARITIES[measure]
    vectors = np.stack([function(torch.from_numpy(values)).numpy() for values, _ in by_subject.values()])
    rdms = RDMs(
        vectors,
        dissimilarity_measure=measure,
        rdm_descriptors={"subject": list(by_subject)},
        pattern_descriptors={"stimulus": IDS},
    )
    other = RDMTeacher(rdms, pool=pool)
    for ids in (IDS, list(RNG.permutation(IDS)[:6])):
        torch.testing.assert_close(answer(teacher, ids).rdms, answer(other, ids).rdms, rtol=1e-4, atol=1e-5)
    assert teacher.dissimilarity == other.dissimilarity
    assert teacher.dissimilarity.name == measure


@pytest.mark.parametrize("center", [None, "all", "run"])
def test_repeats_and_centring_equal_a_loop(center: Any) -> None:
    """Repeats are averaged; the mean pattern is that of the training stimuli, whatever the batch."""
    by_subject = runs()
    train, ids = IDS[:8], ["s11", "s2", "s7", "s9"]
    teacher = PatternTeacher(by_subject, center=center)
    if center is not None:
        with pytest.raises(NeurordlError, match=r"call teacher.prepare\(ids\)"):
            teacher.target(batch_of(ids), {})
    teacher.prepare(train)
    dataset = by_subject["p0"]
    values = dataset.measurements.astype(float)
    names, run = (np.array(dataset.obs_descriptors[key]) for key in ("stimulus", "run"))
    trained = np.isin(names, train)
    if center == "all":
        values = values - values[trained].mean(0)
    if center == "run":
        values = np.stack(
            [row - values[trained & (run == r)].mean(0) for row, r in zip(values, run, strict=True)]
        )
    means = np.stack([values[names == name].mean(0) for name in ids])
    expected = correlation(torch.from_numpy(means))
    torch.testing.assert_close(answer(teacher, ids).rdms[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_centring_of_one_fit_does_not_reach_a_control_or_another_fit() -> None:
    teacher = PatternTeacher(runs(), center="all")
    teacher.prepare(IDS[:6])
    before = answer(teacher, IDS).rdms
    control = teacher.permuted(IDS[:8], 0)
    control.prepare(IDS[:8])
    assert torch.equal(answer(teacher, IDS).rdms, before)
    teacher.prepare(IDS[:8])
    assert not torch.equal(answer(teacher, IDS).rdms, before)


def test_run_without_training_stimulus() -> None:
    dataset = runs()["p0"]
    keep = [
        k
        for k, (name, run) in enumerate(
            zip(dataset.obs_descriptors["stimulus"], dataset.obs_descriptors["run"], strict=True)
        )
        if run != "run3" or name == "s11"
    ]
    described = {key: [dataset.obs_descriptors[key][k] for k in keep] for key in ("stimulus", "run")}
    teacher = PatternTeacher(
        {"p0": Dataset(dataset.measurements[keep], obs_descriptors=described)}, center="run"
    )
    teacher.prepare(IDS[:8])
    answer(teacher, IDS[:8])
    with pytest.raises(NeurordlError, match="no training stimulus of subject p0 is in run run3"):
        teacher.target(batch_of(IDS), {})


@pytest.mark.parametrize("with_precision", [False, True])
def test_crossnobis_equals_rsatoolbox(with_precision: bool) -> None:
    by_subject = runs()
    rng = np.random.default_rng(4)
    root = rng.normal(size=(20, 20))
    precision = root @ root.T / 20 + np.eye(20) if with_precision else None
    teacher = PatternTeacher(by_subject, dissimilarity="crossnobis", precision=precision)
    expected = calc_rdm(
        by_subject["p0"], method="crossnobis", descriptor="stimulus", cv_descriptor="run", noise=precision
    )
    ids = list(RNG.permutation(IDS)[:7])
    np.testing.assert_allclose(answer(teacher, ids).rdms, by_loop(expected, ids), rtol=2e-3, atol=1e-3)


def test_a_precision_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = [
        PatternTeacher(by_subject, dissimilarity=measure, precision=np.eye(20) + 0.1)
        for by_subject, measure in ((patterns(1), "mahalanobis"), (runs(), "crossnobis"))
    ]
    for name in ("cholesky_ex", "eigh"):
        monkeypatch.setattr(torch.linalg, name, lambda *_: pytest.fail("factored again"))
    for teacher in teachers:
        assert (answer(teacher, IDS).weights == 1).all()


def test_precisions_that_are_not_used_or_do_not_fit() -> None:
    with pytest.raises(NeurordlError, match="correlation takes no precision"):
        PatternTeacher(patterns(1), precision=np.eye(20))
    with pytest.raises(NeurordlError, match="20 x 20 matrix, not"):
        PatternTeacher(patterns(1), dissimilarity="mahalanobis", precision=np.eye(19))


def test_precision_by_subject() -> None:
    by_subject = patterns(2)
    matrices = {"p1": np.diag(np.arange(1.0, 21.0)), "p0": np.eye(20)}
    teacher = PatternTeacher(by_subject, dissimilarity="mahalanobis", precision=matrices, pool="subjects")
    target = answer(teacher, IDS).rdms
    for k, name in enumerate(("p0", "p1")):
        expected = mahalanobis(torch.from_numpy(by_subject[name][0]), torch.from_numpy(matrices[name]))
        torch.testing.assert_close(target[k].double(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(NeurordlError, match="precision: no matrix for p1"):
        PatternTeacher(by_subject, dissimilarity="mahalanobis", precision={"p0": np.eye(20)})
    with pytest.raises(NeurordlError, match="needs a noise covariance"):
        PatternTeacher(by_subject, dissimilarity="mahalanobis")
    assert (
        teacher.describe()
        != PatternTeacher(
            by_subject, dissimilarity="mahalanobis", precision=np.eye(20), pool="subjects"
        ).describe()
    )


def test_memory_map_is_read_by_rows(tmp_path: Path) -> None:
    values = patterns(1)["p0"][0].astype(np.float32)
    np.save(tmp_path / "betas.npy", values)
    mapped = np.load(tmp_path / "betas.npy", mmap_mode="r")
    teacher = PatternTeacher({"p0": (mapped, IDS)})
    assert teacher._sources["p0"].measurements is mapped  # not read into memory
    ids = list(RNG.permutation(IDS)[:6])
    assert torch.equal(answer(teacher, ids).rdms, answer(PatternTeacher({"p0": (values, IDS)}), ids).rdms)
    assert teacher.describe() == PatternTeacher({"p0": (values, IDS)}).describe()


def two_who_saw_others() -> dict[str, Any]:
    """a saw s0 to s7, b saw s4 to s11."""
    values = patterns(1)["p0"][0]
    return {"b": (values[4:], IDS[4:]), "a": (values[:8], IDS[:8])}


@pytest.mark.parametrize("pool", ["mean", "zscore", "subjects"])
def test_subjects_with_different_stimuli(pool: Any) -> None:
    teacher = PatternTeacher(two_who_saw_others(), pool=pool)
    assert teacher.subjects == ("a", "b")
    assert [sorted(group) for group in teacher.groups(IDS)] == [sorted(IDS[:8]), sorted(IDS[4:])]
    assert PatternTeacher(two_who_saw_others(), batches="shared").groups(IDS) == [IDS[4:8]]
    with pytest.raises(NeurordlError, match="share 1 stimuli, too few"):
        PatternTeacher(two_who_saw_others(), batches="shared").groups([*IDS[:5], *IDS[8:]])
    ids = ["s1", "s5", "s10", "s6"]
    pairs = list(itertools.combinations(ids, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = answer(teacher, ids)
        answer(teacher, ["s0", "s1", "s2"])  # which b never saw
    seen = {"a": set(IDS[:8]), "b": set(IDS[4:])}
    measured = np.array([[{x, y} <= seen[name] for x, y in pairs] for name in "ab"])
    expected = measured if pool == "subjects" else measured.any(0, keepdims=True)
    np.testing.assert_array_equal(target.weights, expected)
    assert teacher.describe()["measured_stimuli"] == pytest.approx(8 / 12)


def test_permuted_groups_follow_the_patterns() -> None:
    control = PatternTeacher(two_who_saw_others()).permuted(IDS, 1)
    for group in control.groups(IDS):
        assert (answer(control, group).weights > 0).all()


def test_order_of_subjects_and_rows_changes_no_pattern_rdm() -> None:
    by_subject = patterns()
    order = RNG.permutation(12)
    other = {name: (by_subject[name][0][order], [IDS[k] for k in order]) for name in reversed(by_subject)}
    for options in ({}, {"center": "all"}, {"pool": "subjects"}, {"pool": "zscore"}):
        one, two = PatternTeacher(by_subject, **options), PatternTeacher(other, **options)
        for teacher in (one, two):
            teacher.prepare(IDS[:9])
        torch.testing.assert_close(answer(one, IDS).rdms, answer(two, IDS).rdms, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "by_subject, options, message",
    [
        (lambda: [], {}, "expected a mapping from subject"),
        (lambda: {}, {}, "expected a mapping from subject"),
        (lambda: {"a": (np.zeros((3, 4)), ["x", "y"])}, {}, r"patterns of a have shape \(3, 4\)"),
        (lambda: {"a": np.zeros((3, 4))}, {}, "patterns of a are a ndarray; expected a Dataset"),
        (
            lambda: {"a": (np.zeros((2, 4)), ["x", "y"], [1, 1])},
            {},
            "a tuple of 3; expected a Dataset, which",
        ),
        (lambda: {"a": (np.zeros((2, 4)), ["x", "x"])}, {}, "'x' occurs more than once; pass a Dataset"),
        (lambda: {"a": (np.zeros((2, 4)), ["x", "x"])}, {}, "'x' occurs more than once"),
        (lambda: {"a": Dataset(np.zeros((3, 4)))}, {}, "subject a has no .*'stimulus'"),
        (lambda: patterns(1), {"center": "run"}, "has no .*'run'"),
        (lambda: patterns(1), {"dissimilarity": "crossnobis"}, "has no .*'run'"),
        (lambda: patterns(1), {"dissimilarity": "pearson"}, "dissimilarity='pearson'"),
        (lambda: patterns(1), {"center": "batch"}, "center='batch'"),
        (lambda: patterns(1), {"batches": "all"}, "batches='all'"),
    ],
)
def test_patterns_that_do_not_fit(by_subject: Any, options: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        PatternTeacher(by_subject(), **options)


def test_patterns_with_holes_are_named_before_training() -> None:
    by_subject = patterns(2)
    by_subject["p1"][0][:, 3] = np.nan  # a voxel outside the measured volume
    with pytest.raises(NeurordlError, match="measurements of subject p1 hold NaN or infinity in 1 of"):
        PatternTeacher(by_subject).prepare(IDS)


def unbalanced() -> dict[str, Dataset]:
    """Runs without some measurements: one stimulus is in a single run, another twice in a run."""
    dataset = runs()["p0"]
    names = np.array(dataset.obs_descriptors["stimulus"])
    rows = np.ones(len(names), bool)
    rows[np.flatnonzero(names == "s3")[1:]] = False
    rows[np.flatnonzero(names == "s7")[:2]] = False
    chosen = [*np.flatnonzero(rows), int(np.flatnonzero(names == "s9")[0])]
    described = {
        key: [list(values)[row] for row in chosen] for key, values in dataset.obs_descriptors.items()
    }
    values = dataset.measurements[chosen].copy()
    values[-1] += 0.5
    return {"p0": Dataset(values, obs_descriptors=described)}


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.filterwarnings("ignore:Dataset 0")
def test_repeats_that_are_not_balanced_teach_as_their_rdms_do(precise: bool) -> None:
    precision = np.eye(20) + 0.1 if precise else None
    rdms = nrl.compute_rdms(unbalanced(), "crossnobis", center="run", precision=precision)
    teacher = PatternTeacher(unbalanced(), dissimilarity="crossnobis", center="run", precision=precision)
    with pytest.warns(UserWarning, match=r"11 of 66 pairs are not measured \(s3 is in one run only\)"):
        teacher.prepare(IDS)
    target = answer(teacher, IDS)
    expected = reindex(rdms, IDS)[0]
    np.testing.assert_allclose(
        target.rdms[0][target.weights[0] > 0], expected[np.isfinite(expected)], rtol=1e-4
    )
    assert (target.weights[0] == 0).sum() == 11
    few = answer(teacher, ["s9", "s3", "s7", "s1"])
    np.testing.assert_array_equal(few.weights[0] == 0, [1, 0, 0, 1, 1, 0])


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.filterwarnings("ignore:subject p0", "ignore:Dataset 0")
def test_runs_of_few_stimuli_are_not_filled_up(precise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(IDS, 3))
    described = {"stimulus": names.tolist(), "run": np.sort(rng.integers(0, 20, len(names))).tolist()}
    data = {"p0": Dataset(rng.normal(size=(len(names), 20)), obs_descriptors=described)}
    precision = np.eye(20) + 0.1 if precise else None
    expected = reindex(nrl.compute_rdms(data, "crossnobis", precision=precision), IDS)[0]
    teacher = PatternTeacher(data, dissimilarity="crossnobis", precision=precision)
    monkeypatch.setattr(source_module.Source, "by_run", lambda *_: pytest.fail("patterns were filled up"))
    teacher.prepare(IDS)
    target = answer(teacher, IDS)
    known = np.isfinite(expected)
    np.testing.assert_array_equal(target.weights[0] > 0, known)
    np.testing.assert_allclose(target.rdms[0][known], expected[known], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:subject p0")
def test_means_of_runs_are_found_without_all_patterns_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def by_run(self: Any, stimuli: slice = slice(None)) -> Tensor:
        patterns = read(self, stimuli)
        sizes.append(patterns.shape[-2])
        return patterns

    read = source_module.Source.by_run
    monkeypatch.setattr(source_module.Source, "by_run", by_run)
    monkeypatch.setattr(source_module, "_AT_ONCE", 1)
    with pytest.warns(UserWarning, match="crossnobis distances contain the mean pattern of each run"):
        PatternTeacher(unbalanced(), dissimilarity="crossnobis").prepare(IDS)
    assert sizes == [1] * 12


def test_a_dissimilarity_that_takes_no_counts_refuses_unbalanced_runs() -> None:
    measure = nrl.Dissimilarity("of runs", lambda x: euclidean(x.mean(0)), needs_runs=True)
    teacher = PatternTeacher(unbalanced(), dissimilarity=measure)
    with pytest.raises(NeurordlError, match="needs each stimulus equally often in every run, but subject p0"):
        teacher.target(batch_of(IDS), {})


def repeated(n_repeats: Any = 3, n_channels: int = 40) -> tuple[dict[str, Dataset], Any]:
    """One subject; the first half of the channels is signal and noise, the second noise only."""
    rng = np.random.default_rng(4)
    counts = np.broadcast_to(n_repeats, len(IDS))
    names = np.repeat(IDS, counts)
    base = dict(zip(IDS, rng.normal(size=(len(IDS), n_channels // 2)), strict=True))
    values = rng.normal(size=(len(names), n_channels))
    values[:, : n_channels // 2] += 3 * np.stack([base[name] for name in names])
    order = rng.permutation(len(names))
    return {"p0": Dataset(values[order], obs_descriptors={"stimulus": names[order].tolist()})}, base


@pytest.mark.parametrize("step", [1 << 24, 1])
@pytest.mark.parametrize("n_repeats", [2, 3, [1, 2, 3, 4, 5, 2, 2, 1, 3, 2, 2, 4]])
def test_reliable_channels_are_chosen_by_training_stimuli(
    n_repeats: Any, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_AT_ONCE", step)
    by_subject, _ = repeated(n_repeats)
    names = np.array(by_subject["p0"].obs_descriptors["stimulus"])
    values = by_subject["p0"].measurements
    train = IDS[:9]
    halves = [[], []]
    for name in train:
        rows = values[names == name]
        if len(rows) > 1:
            halves[0].append(rows[::2].mean(0))
            halves[1].append(rows[1::2].mean(0))
    first, second = map(np.stack, halves)
    expected = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)])
    kept = np.flatnonzero(expected >= 0.5)
    teacher = PatternTeacher(by_subject, min_reliability=0.5)
    with pytest.raises(NeurordlError, match="needs the training stimuli"):
        answer(teacher, IDS)
    with pytest.warns(UserWarning, match=f"{len(kept)} of 40 channels have a split-half .* {len(first)} tra"):
        teacher.prepare(train)
    other = PatternTeacher({"p0": Dataset(values[:, kept], obs_descriptors={"stimulus": names.tolist()})})
    torch.testing.assert_close(answer(teacher, IDS).rdms, answer(other, IDS).rdms)
    assert teacher.describe()["channels"] == {"p0": len(kept)}
    assert 15 < len(kept) < 30


def test_bad_reliabilities_are_refused() -> None:
    by_subject, _ = repeated()
    for problem, options in (
        ("of at least -1", {"min_reliability": 2}),
        ("precision= is of all", {"min_reliability": 0.1, "precision": np.eye(40)}),
    ):
        with pytest.raises(NeurordlError, match=problem):
            PatternTeacher(by_subject, dissimilarity="mahalanobis", **options)
    with pytest.raises(NeurordlError, match=r"0 of 40 channels .*the best has"):
        PatternTeacher(by_subject, min_reliability=1.0).prepare(IDS)
    with pytest.raises(NeurordlError, match="0 training stimuli have repeats"):
        PatternTeacher(repeated(1)[0], min_reliability=0.1).prepare(IDS)


@pytest.mark.filterwarnings("ignore:subject p0")
@pytest.mark.parametrize("n_repeats", [3, [1, 2, 3, 4, 5, 2, 2, 1, 3, 2, 2, 4]])
def test_targets_across_repeats_are_unbiased(n_repeats: Any) -> None:
    """Repeats numbered as runs: crossnobis is that of the signal; pairs without repeats weigh 0."""
    rng = np.random.default_rng(5)
    counts = np.broadcast_to(n_repeats, len(IDS))
    names, run = np.repeat(IDS, counts), np.concatenate([np.arange(count) for count in counts])
    signal = rng.normal(size=(len(IDS), 6))
    expected = euclidean(torch.from_numpy(signal)).numpy()
    described = {"stimulus": names.tolist(), "run": run.tolist()}
    sums, squares, n_draws = np.zeros((2, 66)), np.zeros(66), 2000
    clean = np.repeat(signal, counts, axis=0)
    for _ in range(n_draws):
        values = clean + 2 * rng.normal(size=clean.shape)
        teacher = PatternTeacher(
            {"p0": Dataset(values, obs_descriptors=described)}, dissimilarity="crossnobis"
        )
        target = answer(teacher, IDS)
        sums += np.stack([target.rdms[0].nan_to_num().numpy(), target.weights[0].numpy()])
        squares += target.rdms[0].nan_to_num().numpy() ** 2
    measured = sums[1] > 0
    i, j = np.triu_indices(12, 1)
    np.testing.assert_array_equal(measured, (counts[i] > 1) & (counts[j] > 1))
    mean = sums[0] / n_draws
    error = np.sqrt((squares / n_draws - mean**2) / n_draws)
    assert np.abs((mean - expected)[measured] / error[measured]).max() < 4


def test_callable_dissimilarity_reads_the_same_in_every_process() -> None:
    described = PatternTeacher(patterns(1), dissimilarity=euclidean).describe()
    assert described["dissimilarity"] == "euclidean"
    described = PatternTeacher(patterns(1), dissimilarity=Measure()).describe()
    assert "0x" not in described["dissimilarity"]


class Measure:
    def __call__(self, values: Tensor) -> Tensor:
        return euclidean(values)


# NetworkTeacher


def shown(n: int = 12) -> StimulusSet:
    pixels = np.random.default_rng(5).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return StimulusSet.from_array(pixels, IDS[:n])


def test_network_is_copied_frozen_and_in_eval_mode() -> None:
    model = small_cnn(4, 1, batchnorm=True, dropout=0.5).train()
    teacher = NetworkTeacher(model, ["conv2", "conv3"])
    images = shown().images()
    before = teacher.features(Batch(images))
    state = copy.deepcopy(teacher._model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(images).square().sum().backward()  # the original goes on training
    optimizer.step()
    teacher._model.train()  # and someone switches the mode
    after = teacher.features(Batch(images))
    for name, value in before.items():
        assert torch.equal(value, after[name])
        assert not value.requires_grad
    assert all(torch.equal(state[name], value) for name, value in teacher._model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher._model.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_of_a_network() -> None:
    model = small_cnn(4, 1).eval()
    teacher = NetworkTeacher(model, "conv*")
    assert teacher.layers == ["conv1", "conv1.0", "conv1.1", "conv1.2", *teacher.layers[4:]]
    images = shown().images()
    features = teacher.features(Batch(images))
    with torch.no_grad():
        expected = correlation(model.conv1(images).flatten(1))
    target = teacher["conv1"].target(Batch(images), features)
    torch.testing.assert_close(target.rdms[0], expected)
    assert teacher["conv1"].match(["anything"]) is None
    assert teacher["conv1"].groups(["a", "b"]) == [["a", "b"]]
    with pytest.raises(NeurordlError, match="the teacher's layer='fc1': expected one of 'conv1'"):
        teacher["fc1"]
    with pytest.raises(NeurordlError, match="no layer 'conv9'"):
        NetworkTeacher(model, "conv9")
    for wrong, message in (
        ("pearson", "dissimilarity='pearson'"),
        ("mahalanobis", "precision"),
        ("crossnobis", "repeats"),
    ):
        with pytest.raises(NeurordlError, match=message):
            NetworkTeacher(model, "conv1", dissimilarity=wrong)


def test_undefined_pairs_of_a_network_have_no_weight() -> None:
    images = shown().images()
    teacher = NetworkTeacher(nn.Sequential(nn.Flatten(), nn.Identity()), "1")
    images[2] = 0.5  # a constant pattern has no correlation
    batch = Batch(images)
    target = teacher["1"].target(batch, teacher.features(batch))
    assert target.rdms.isfinite().all()
    undefined = [2 in pair for pair in itertools.combinations(range(12), 2)]
    np.testing.assert_array_equal(target.weights[0] == 0, undefined)


@pytest.mark.parametrize("cache", [False, True])
def test_stimulus_that_came_twice_makes_no_pair_with_itself_in_a_network(cache: bool) -> None:
    teacher = NetworkTeacher(small_cnn(4, 1), "conv2", cache=shown() if cache else None)
    rows = [3, 1, 3, 0, 0]
    ids = [IDS[row] for row in rows]
    batch = Batch(shown().images(rows), ids)
    target = teacher["conv2"].target(batch, teacher.features(batch))
    different = [rows[i] != rows[j] for i, j in itertools.combinations(range(5), 2)]
    np.testing.assert_array_equal(target.weights[0].bool(), different)
    plain = teacher["conv2"].target(Batch(batch.images), teacher.features(batch))
    assert plain.weights.min() == 1  # without ids nobody knows
    torch.testing.assert_close(target.rdms, plain.rdms, rtol=0, atol=0)


def test_a_stimulus_drawn_twice_changes_no_loss() -> None:
    """The loss is that of the pairs of different stimuli: one drawn twice is no agreement for nothing."""
    teacher = NetworkTeacher(small_cnn(4, 1), "conv2")
    rows = [0, 1, 2, 3, 3]
    batch = Batch(shown().images(rows), [IDS[row] for row in rows])
    student = torch.randn(5, 7)
    student[4] = student[3]
    loss = RDMLoss(teacher, "any", dissimilarity="euclidean", comparison="mse")
    pairs = [(i, j) for i, j in itertools.combinations(range(5), 2) if rows[i] != rows[j]]
    theirs = teacher.features(batch)["conv2"].double()
    expected = np.mean(
        [float(((student[i] - student[j]).double() ** 2).mean() - ((theirs[i] - theirs[j]) ** 2).mean()) ** 2
         for i, j in pairs]
    )  # fmt: skip
    assert float(loss({"any": student}, teacher.features(batch), batch)) == pytest.approx(expected, rel=1e-4)


def test_cache_runs_once_and_is_looked_up_by_id() -> None:
    model = small_cnn(4, 1, batchnorm=True).eval()
    shuffled = shown().subset(np.random.default_rng(0).permutation(shown().ids).tolist())
    live, cached = NetworkTeacher(model, "conv2"), NetworkTeacher(model, "conv2", cache=shuffled)
    calls: list[int] = []
    cached._model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    place = {name: row for row, name in enumerate(IDS)}
    for _ in range(3):
        ids = list(RNG.permutation(IDS)[:7])
        images = shown().images([place[name] for name in ids])
        want = live.features(Batch(images))
        got = cached.features(Batch(torch.zeros_like(images), ids))  # the images are not looked at
        for name in ("conv2", ""):
            torch.testing.assert_close(got[name], want[name])
    assert calls == [2, len(IDS)]  # a probe for the axes of the stimuli, and all
    with pytest.raises(NeurordlError, match="'zzz'"):
        cached["conv2"].match(["s1", "s2", "zzz"])
    with pytest.raises(NeurordlError, match="but the images have none"):
        cached.features(Batch(images))


@pytest.mark.parametrize("cache", [False, True])
def test_network_runs_outside_the_students_autocast(cache: bool) -> None:
    """Live and cached features are those of the teacher's own precision, wherever they are asked for."""
    model = small_cnn(4, 1).eval()
    want = NetworkTeacher(model, "conv2").features(Batch(shown().images(), IDS))
    teacher = NetworkTeacher(model, "conv2", cache=shown() if cache else None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(shown().images()).dtype == torch.bfloat16  # what the student gets
        got = teacher.features(Batch(shown().images(), IDS))
    for name in ("conv2", ""):
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=0)
    half = NetworkTeacher(model.bfloat16(), "conv2", cache=shown() if cache else None)
    assert half.features(Batch(shown().images(), IDS))["conv2"].dtype == torch.bfloat16


def test_permuted_network() -> None:
    model = small_cnn(4, 1).eval()
    with pytest.raises(NeurordlError, match="cache=stimuli"):
        NetworkTeacher(model, "conv2").permuted(IDS, 0)
    teacher = NetworkTeacher(model, "conv2", cache=shown())
    control = teacher.permuted(IDS, 0)
    own, other = (one.features(batch_of(IDS))["conv2"] for one in (teacher, control))
    rows = [next(k for k in range(12) if torch.equal(own[k], row)) for row in other]
    assert sorted(rows) == list(range(12))
    assert rows != list(range(12))
    assert control.describe() != teacher.describe()


def test_network_whose_output_nobody_asks_for_may_put_out_anything() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> list[str]:
            self.body(x.flatten(1))
            return ["boxes"]

    for cache in (None, shown()):
        features = NetworkTeacher(Detector(), "body", cache=cache).features(Batch(shown().images(), IDS))
        assert list(features) == ["body"]


def test_network_whose_output_has_no_row_for_a_stimulus_may_be_read_elsewhere() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.body(x.flatten(1))
            return rows @ rows.T  # 12 x 12 for 12 stimuli

    teacher = NetworkTeacher(Tokens(), "body")
    assert list(teacher.features(Batch(shown().images()))) == ["body"]
    with pytest.raises(NeurordlError, match=r"shape \(12, 12\) for 12 stimuli and \(2, 2\) for 2"):
        NetworkTeacher(Tokens()).features(Batch(shown().images()))


def test_network_description_changes_with_its_weights() -> None:
    model = small_cnn(4, 1)
    first = NetworkTeacher(model, "conv1")["conv1"].describe()
    assert first == NetworkTeacher(copy.deepcopy(model), "conv1")["conv1"].describe()
    with torch.no_grad():
        model.conv1[0].bias += 1
    assert first != NetworkTeacher(model, "conv1")["conv1"].describe()


def test_categories_of_a_permuted_control_are_a_mapping() -> None:
    rdms = RDMs(np.random.default_rng(0).random((1, 6)), pattern_descriptors={"stimulus": list("abcd")})
    with pytest.raises(NeurordlError, match=r"within=\[.*expected a mapping from id to category"):
        RDMTeacher(rdms).permuted(list("abcd"), seed=0, within=["x", "x", "y", "y"])


def test_a_dataset_of_one_subject_teaches_as_it_is() -> None:
    values = np.random.default_rng(0).random((4, 5))
    dataset = Dataset(values, {"subject": "sub-07"}, {"stimulus": list("abcd")})
    assert PatternTeacher(dataset).subjects == ("sub-07",)
    assert PatternTeacher(Dataset(values, obs_descriptors={"stimulus": list("abcd")})).subjects == (
        "unnamed",
    )


@pytest.mark.skipif("none" in torch.backends.quantized.engine, reason="torch has no engine for int8 here")
def test_a_quantized_network_teaches() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on its newer package
        quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    teacher = NetworkTeacher(quantized, "1")
    assert teacher.describe()["sha256"] is None
    target = teacher["1"].target(batch_of(IDS), teacher.features(batch_of(IDS)))
    assert target.rdms.isfinite().all()


def over_time() -> RDMs:
    names = [(f"p{k}", time) for k in range(3) for time in (0.0, 0.05, 0.1, 0.15)]
    return random_rdms(IDS, subject=[name for name, _ in names], time=[time for _, time in names])


@pytest.mark.parametrize("pool", ["mean", "subjects"])
def test_a_window_of_times_is_averaged_for_each_subject(pool: Any) -> None:
    rdms = over_time()
    with pytest.warns(UserWarning, match=r"mean of 3 RDMs \(time 0.05 to 0.15\)"):
        teacher = RDMTeacher(rdms, select={"time": (0.05, 0.15)}, pool=pool)
    expected = rdms.dissimilarities.reshape(3, 4, -1)[:, 1:].mean(axis=1)
    expected = expected.mean(axis=0, keepdims=True) if pool == "mean" else expected
    np.testing.assert_allclose(answer(teacher, IDS).rdms.numpy(), expected, atol=1e-6)
    assert teacher.subjects == ("p0", "p1", "p2")
    assert teacher.describe()["select"] == {"time": [0.05, 0.15]}
    assert "select" not in RDMTeacher(brain()).describe()


def test_windows_on_several_layers_train_a_network() -> None:
    early, late = (RDMTeacher(over_time(), select={"time": window}) for window in ((0.0, 0.05), (0.1, 0.15)))
    objective = nrl.Objective(
        [RDMLoss(early, layer="conv1", comparison="corr"), RDMLoss(late, layer="conv3", comparison="corr")],
        task=None,
    )
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    stimuli = StimulusSet.from_array(images, IDS)
    run = nrl.fit(small_cnn(4, 1, width=4), objective, stimuli=stimuli, epochs=1)
    losses = run.record["objective"]["losses"].values()
    assert [loss["teacher"]["select"]["time"] for loss in losses] == [[0.0, 0.05], [0.1, 0.15]]


def test_choices_that_are_no_windows() -> None:
    rdms = over_time()
    assert len(select_rdms(rdms, select={"time": [0.0, 0.15]})) == 6
    assert len(select_rdms(rdms, select={"time": (0.0, 0.15)})) == 12
    rdms.rdm_descriptors["session"] = [1, 2, 3, 4] * 3
    assert len(select_rdms(rdms, select={"session": (1, 3)})) == 6
    with pytest.raises(NeurordlError, match="have several"):
        RDMTeacher(rdms, select={"time": [0.0, 0.15]})
    with pytest.raises(NeurordlError, match=r"no RDM has time from 1 to 2; its values are from 0 to 0\.15"):
        RDMTeacher(rdms, select={"time": (1, 2)})
