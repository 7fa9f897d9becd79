"""A person who is in the data under several names is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rsatoolbox.rdm import RDMs

import neurordl as nrl
from neurordl.arrays import Floats
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.compare import same_rdms
from neurordl.rsa.reliability import permutation_p, session_reliability, split_half

N = 12
PAIRS = N * (N - 1) // 2
IDS = [f"s{k:02d}" for k in range(N)]


def rdms(vectors: Floats, names: str = "abcd", **more: Any) -> RDMs:
    descriptors = {"subject": list(names), **more}
    return RDMs(
        vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors=descriptors,
        pattern_descriptors={"stimulus": IDS},
    )


def people(n: int = 4, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.abs(rng.random(PAIRS) + 0.3 * rng.standard_normal((n, PAIRS)))


def models() -> RDMs:
    vectors = np.random.default_rng(1).random((2, PAIRS))
    return RDMs(vectors, rdm_descriptors={"name": ["m", "n"]}, pattern_descriptors={"stimulus": IDS})


def evaluated(data: RDMs) -> None:
    scores = nrl.evaluate(models(), data)
    for note in scores.notes:
        warnings.warn(note, stacklevel=1)
    means = scores.frame[scores.frame["subject"] == "mean"]
    assert means["reason"].tolist() == [scores.notes[0] if scores.notes else ""] * 2, "said in the table too"


USES: dict[str, Callable[[RDMs], object]] = {
    "evaluate": evaluated,
    "evaluate_fitted": lambda data: nrl.evaluate_fitted({"m": models()}, data, bootstrap=None),
    "noise_ceiling": nrl.noise_ceiling,
    "ceiling_p": lambda data: ceiling_p(data, "corr", n_permutations=9, rng=np.random.default_rng(0)),
    "split_half": lambda data: split_half(data, "corr", n_splits=2, rng=np.random.default_rng(0)),
    "permutation_p": lambda data: permutation_p(
        models(), data, "corr", n_permutations=9, rng=np.random.default_rng(0)
    ),
    "session_reliability": lambda data: session_reliability(data, sessions=list("1212")),
}


@pytest.mark.parametrize("use", USES)
def test_a_person_with_two_names_is_named(use: str) -> None:
    vectors = people()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*same RDM")
        USES[use](rdms(vectors))
    vectors[2] = vectors[0]
    with pytest.warns(UserWarning, match=r"same RDM \(correlation above 0.999\): a.* = c.*; if they are one"):
        USES[use](rdms(vectors))


def test_every_group_is_named_once_and_only_where_it_counts() -> None:
    tripled = rdms(np.concatenate([people()] * 3), names="abcdefghijkl")
    scores = nrl.evaluate(models(), tripled)
    assert scores.notes[0].startswith(
        "subjects with the same RDM (correlation above 0.999): a = e = i, b = f = j, c = g = k, and 1 more;"
    )
    assert not nrl.evaluate(models(), tripled, subjects=list("abcd")).notes
    wide = scores.frame.set_index("subject").loc["mean"]
    narrow = nrl.evaluate(models(), tripled, subjects=list("abcd")).frame.set_index("subject").loc["mean"]
    assert ((wide["ci_high"] - wide["ci_low"]) < 0.6 * (narrow["ci_high"] - narrow["ci_low"])).all()


def outer(vectors: Floats) -> Floats:
    return np.where(np.arange(PAIRS) < 30, np.nan, vectors)


COPIES = {
    "renamed": lambda v: v,
    "rounded": lambda v: v.round(2),
    "float32": lambda v: v.astype(np.float32),
    "float16": lambda v: v.astype(np.float16),
    "scaled": lambda v: 1e-9 * v + 1e-8,
    "large": lambda v: 1e200 * v,
    "cut": outer,
}


@pytest.mark.parametrize("form", COPIES)
def test_copies_are_known_in_whatever_form(form: str) -> None:
    vectors = people(3)
    copy = np.asarray(COPIES[form](vectors), dtype=np.float64)
    np.testing.assert_array_equal(same_rdms(vectors, copy), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(same_rdms(copy, vectors), np.eye(3, dtype=bool))


def shared_outlier() -> Floats:
    vectors = people(2)
    vectors[:, 5] = 1e6
    return vectors


DIFFERENT = {
    "alike": lambda: np.stack([people(1)[0], people(1)[0] + 0.08 * np.random.default_rng(5).random(PAIRS)]),
    "an outlier in both": shared_outlier,
    "few pairs": lambda: np.where(np.arange(PAIRS) < 19, people(1), np.nan).repeat(2, axis=0),
    "constant": lambda: np.full((2, PAIRS), 0.3),
    "unmeasured": lambda: np.full((2, PAIRS), np.nan),
    "other pairs": lambda: np.where(np.arange(PAIRS) % 2 == [[0], [1]], people(1), np.nan),
}


@pytest.mark.parametrize("pair", DIFFERENT)
def test_different_rdms_are_no_copies(pair: str) -> None:
    assert not same_rdms(DIFFERENT[pair]()).any()


def test_correlations_are_those_of_numpy_on_shared_pairs() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(PAIRS)
    for noise in (0.01, 0.02, 0.03, 0.04, 0.05):  # correlations on both sides of .999
        vectors = base + noise * rng.random((6, PAIRS))
        vectors[rng.random(vectors.shape) < 0.2] = np.nan
        for i, j in np.argwhere(np.triu(np.ones((6, 6)), 1)):
            shared = np.isfinite(vectors[i]) & np.isfinite(vectors[j])
            expected = np.corrcoef(vectors[i, shared], vectors[j, shared])[0, 1] > 0.999
            assert same_rdms(vectors)[i, j] == expected
