"""Functions that take condensed arrays take RDMs too, in another order of stimuli, with the same defaults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs

from neurordl.errors import NeurordlError
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.inference.infer import infer
from neurordl.rsa.reliability import permutation_p, session_reliability, split_half

N = 7
DATA = np.random.default_rng(0).random((4, 21)) + np.arange(21) / 10
MODELS = np.random.default_rng(1).random((2, 21)) + np.arange(21) / 10
BETWEEN: dict[str, Callable] = {
    "infer": lambda models, data: infer(models, data).scores,
    "permutation_p": lambda models, data: permutation_p(models, data, n_permutations=20),
}
OF_SUBJECTS: dict[str, Callable] = {
    "ceiling_p": lambda data: ceiling_p(data, n_permutations=20),
    "split_half": lambda data: split_half(data, n_splits=5),
}


def rdms(vectors: np.ndarray, name: str) -> RDMs:
    descriptors = {name: [f"{name}{k}" for k in range(len(vectors))]}
    ids = {"stimulus": [f"s{k}" for k in range(N)]}
    return RDMs(vectors, rdm_descriptors=descriptors, pattern_descriptors=ids)


@pytest.mark.parametrize("name", OF_SUBJECTS)
def test_rdms_of_subjects_are_taken_as_containers_and_as_arrays(name):
    call = OF_SUBJECTS[name]
    assert_allclose(call(rdms(DATA, "subject")), call(DATA), rtol=0)
    assert_allclose(call(rdms(DATA, "subject")), call(rdms(DATA, "subject")), rtol=0)  # seeded by default


@pytest.mark.parametrize("name", BETWEEN)
def test_models_and_subjects_are_taken_as_containers_by_id_and_as_arrays(name):
    call = BETWEEN[name]
    models, data = rdms(MODELS, "layer"), rdms(DATA, "subject")
    want = call(MODELS, DATA)
    assert_allclose(call(models, data), want, atol=1e-12)
    data.reorder(np.arange(N)[::-1])
    assert_allclose(call(models, data), want, atol=1e-12)
    for mixed in ((models, DATA), (MODELS, data)):
        with pytest.raises(NeurordlError, match="both be RDMs, or both condensed arrays"):
            call(*mixed)


def test_sessions_are_taken_as_containers_and_as_arrays():
    names, sessions = ["a", "b", "a", "b"], ["1", "1", "2", "2"]
    both = rdms(DATA, "run")
    both.rdm_descriptors.update(subject=names, session=sessions)
    want = session_reliability(DATA, names, sessions)
    assert_allclose(session_reliability(both).same, want.same)
