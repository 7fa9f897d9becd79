"""Noise ceilings and reliabilities against rsatoolbox and plain loops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rsatoolbox.inference import boot_noise_ceiling
from rsatoolbox.rdm import RDMs
from scipy.optimize import minimize
from scipy.spatial.distance import pdist

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.kernels.similarities import bounds
from neurordl.rsa import ceilings
from neurordl.rsa.ceilings import ceiling, ceiling_p, noise_ceiling, pooled, scaled_to_pool, subject_bounds
from neurordl.rsa.compare import similarity
from neurordl.rsa.reliability import session_reliability, split_half

METHODS = [name for name, entry in COMPARISONS.items() if entry.higher_is_better]


def subjects(n_subjects: int, seed: int, *, noise: float = 1.0, n: int = 8, kind: str = "") -> np.ndarray:
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(n, 12)) + noise * rng.normal(size=(n_subjects, n, 12))
    if kind == "tied":
        patterns = patterns.round()
    return np.stack([pdist(one, "sqeuclidean") for one in patterns])


def looped(vectors: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    comparison = COMPARISONS[method]
    scaled = scaled_to_pool(vectors, comparison)
    lower = [
        similarity(pooled(np.delete(scaled, k, 0), comparison), vectors[k : k + 1], method)[0, 0]
        for k in range(len(vectors))
    ]
    return np.array(lower), similarity(pooled(scaled, comparison), vectors, method)[0]


@pytest.mark.parametrize("kind", ["", "tied"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("cka", "bures")])
def test_equals_rsatoolbox(method, kind):
    for n_subjects in (2, 5):
        data = subjects(n_subjects, 0, kind=kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tau: pooled as averaged ranks
            want = boot_noise_ceiling(RDMs(data), method=method)
        assert_allclose(ceiling(data, method), want, atol=1e-8 if method == "neg_riem_dist" else 1e-12)


@given(seed=st.integers(0, 1000), n_subjects=st.integers(2, 6), method=st.sampled_from(METHODS))
def test_the_closed_form_is_that_of_the_loop(seed, n_subjects, method):
    data = subjects(n_subjects, seed, n=6, kind="tied" if seed % 2 else "")
    lower, upper = subject_bounds(data, method)
    want = looped(data, method)
    assert_allclose(lower, want[0], atol=1e-10)
    assert_allclose(upper, want[1], atol=1e-10)
    if method in ("cosine", "corr"):
        assert lower.mean() <= upper.mean() + 1e-12


@pytest.mark.parametrize("method", ["corr", "cosine", "spearman", "rho-a", "corr_cov", "tau-a"])
def test_a_subject_without_a_geometry_is_pooled_with_nobody(method):
    data = subjects(4, 1)
    data[2] = 0 if method == "cosine" else 0.5
    lower, upper = subject_bounds(data, method)
    want_lower, want_upper = subject_bounds(data[[0, 1, 3]], method)
    if method in ("corr", "cosine", "corr_cov"):
        assert_allclose(lower[[0, 1, 3]], want_lower, atol=1e-12)
        assert_allclose(upper[[0, 1, 3]], want_upper, atol=1e-12)
        assert np.isnan(lower[2])
    for found, want in zip((lower, upper), looped(data, method), strict=True):
        assert_allclose(found, want, atol=1e-12)


def test_large():
    data = subjects(3, 2, n=150)
    for method in ("corr_cov", "spearman"):
        assert_allclose(ceiling(data, method), boot_noise_ceiling(RDMs(data), method=method), atol=1e-10)


def test_subjects_that_cancel_have_no_pooled_rdm():
    gram = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    lower, upper = bounds(gram, torch.ones(2, dtype=torch.float64))
    assert_allclose(lower.numpy(), [-1, -1])
    assert upper.isnan().all()


def test_one_subject_is_refused():
    for call in (subject_bounds, ceiling):
        with pytest.raises(NeurordlError, match="two subjects or more"):
            call(subjects(1, 0), "corr")
    with pytest.raises(NeurordlError, match="two subjects or more"):
        split_half(subjects(1, 0), "corr", rng=np.random.default_rng(0))


@pytest.mark.parametrize("method", ["corr", "cosine", "rho-a"])
def test_whether_subjects_agree_better_than_by_chance(method):
    rng = np.random.default_rng(0)
    assert ceiling_p(subjects(5, 3, noise=0.5), method, n_permutations=99, rng=rng) == 0.01
    unrelated = [
        ceiling_p(
            np.concatenate([subjects(1, 10 * k + j) for j in range(4)]), method, n_permutations=39, rng=rng
        )
        for k in range(40)
    ]
    assert 0.35 < np.mean(unrelated) < 0.65
    assert np.mean(np.array(unrelated) <= 0.05) <= 0.15
    constant = np.full((3, 28), 0.5) * (method != "cosine")
    p = ceiling_p(constant, method, n_permutations=9, rng=rng)
    assert p == 1 if method == "rho-a" else np.isnan(p)


def test_split_half():
    data = subjects(5, 4)
    found = split_half(data, "corr", n_splits=6, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    scaled = (data - data.mean(1, keepdims=True)) / data.std(1, keepdims=True)
    for value in found:
        order = rng.permutation(5)
        halves = scaled[order[:2]].mean(0), scaled[order[2:4]].mean(0)
        assert value == pytest.approx(np.corrcoef(*halves)[0, 1])
    stepped = split_half(data, "corr", n_splits=6, rng=np.random.default_rng(1), spearman_brown=True)
    assert_allclose(stepped, 2 * found / (1 + found))


def test_spearman_brown_reaches_the_reliability_of_all():
    both = subjects(40, 5, n=40, noise=2)
    first, second = (scaled_to_pool(part, COMPARISONS["corr"]).mean(0) for part in (both[:20], both[20:]))
    stepped = split_half(both[:20], "corr", n_splits=50, rng=np.random.default_rng(0), spearman_brown=True)
    assert stepped.mean() == pytest.approx(np.corrcoef(first, second)[0, 1], abs=0.05)


def test_session_reliability():
    own = subjects(3, 6, noise=0.8)
    rng = np.random.default_rng(0)
    data = np.concatenate([own, own]) + rng.normal(0, 3, (6, 28))
    names, sessions = ["a", "b", "c"] * 2, ["1"] * 3 + ["2"] * 3
    found = session_reliability(data, names, sessions, "corr")
    matrix = np.corrcoef(data)[:3, 3:]
    assert found.subjects == ("a", "b", "c")
    assert_allclose(found.same, matrix.diagonal())
    for k in range(3):
        others = [m for m in range(3) if m != k]
        assert found.other[k] == pytest.approx(np.mean([*matrix[k, others], *matrix[others, k]]))
    assert (found.same > found.other).all()
    lone = session_reliability(data[:4], names[:4], sessions[:4], "corr")
    assert np.isnan(lone.same[1])
    assert np.isfinite(lone.other).all()
    with pytest.raises(NeurordlError, match="two sessions"):
        session_reliability(data[:3], names[:3], sessions[:3], "corr")
    with pytest.raises(NeurordlError, match="6 RDMs, 3 subjects"):
        session_reliability(data, names[:3], sessions, "corr")


def test_reliabilities_take_rdms_as_well_as_arrays():
    data = subjects(4, 7, noise=0.8)
    sessions = {"subject": ["a", "b", "a", "b"], "session": ["1", "1", "2", "2"]}
    found = session_reliability(RDMs(data, rdm_descriptors=sessions), comparison="corr")
    want = session_reliability(data, sessions["subject"], sessions["session"], "corr")
    assert found.subjects == want.subjects == ("a", "b")
    assert_allclose(found.same, want.same)
    assert_allclose(found.other, want.other)
    named = RDMs(data, rdm_descriptors={"subject": list("abcd")})
    for function in (ceiling_p, split_half):
        values = [function(x, "corr", rng=np.random.default_rng(0)) for x in (named, data)]
        assert_allclose(*values)
    with pytest.raises(NeurordlError, match="subject 'a' has 2"):
        ceiling_p(RDMs(data, rdm_descriptors=sessions), "corr", rng=np.random.default_rng(0))


def test_a_ceiling_of_noise_is_a_notice() -> None:
    rng = np.random.default_rng(0)
    subjects = {"subject": [f"s{k}" for k in range(5)]}
    noise, shared = rng.random((5, 45)), rng.random((1, 45))
    with pytest.warns(
        UserWarning, match=r"no evidence that the subjects agree \(permutation test.*may be chance"
    ):
        noise_ceiling(RDMs(noise, rdm_descriptors=subjects))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise_ceiling(RDMs(noise + 3 * shared, rdm_descriptors=subjects))


def partly_measured(pattern: str, noise: float, seed: int, n: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A true RDM of two unlike halves of stimuli, and subjects with units of their own who miss pairs."""
    rng = np.random.default_rng(seed)
    i, j = np.triu_indices(n, 1)
    second = np.arange(n) >= n // 2
    patterns = rng.normal(size=(n, 5)) * np.where(second, 1, 0.3)[:, None] + 3 * second[:, None]
    true = pdist(patterns, "sqeuclidean")
    data = true + noise * true.std() * rng.normal(size=(8, len(true)))
    data *= rng.uniform(0.2, 5, size=(8, 1))
    for k, row in enumerate(data):
        seen = {
            "one stimulus each": np.arange(n) != k,
            "halves": (np.arange(n) < n // 2 + 3) ^ ((k % 2) * (np.arange(n) % (n // 2) > 2)).astype(bool),
            "a third of the stimuli": rng.random(n) > 0.33,
            "pairs": np.ones(n, dtype=bool),
            "nearly nothing": np.arange(n) < (3 if k == 0 else n),
        }[pattern]
        missing = ~(seen[i] & seen[j])
        row[missing | (rng.random(len(i)) < 0.4) if pattern == "pairs" else missing] = np.nan
    return true, data


@pytest.mark.parametrize("noise", [0, 0.05, 0.1, 0.2])
@pytest.mark.parametrize(
    "pattern", ["one stimulus each", "halves", "a third of the stimuli", "pairs", "nearly nothing"]
)
@pytest.mark.parametrize("method", ["corr", "cosine", "spearman", "rho-a", "tau-a", "tau-b", "corr_cov"])
def test_the_true_model_is_never_above_the_upper_ceiling(method, pattern, noise):
    for seed in range(2):
        true, data = partly_measured(pattern, noise, seed)
        reached = np.nanmean(similarity(true[None], data, method))
        lower, upper = ceiling(data, method)
        assert lower <= upper
        assert reached <= upper + 1e-8


@pytest.mark.parametrize("kind", ["", "tied"])
@pytest.mark.parametrize("method", ["spearman", "rho-a", "tau-a", "tau-b"])
def test_the_fitted_upper_ceiling_of_complete_rdms_is_that_of_their_mean_ranks(method, kind):
    data = subjects(5, 3, kind=kind)
    kernel = COMPARISONS[method].kernel
    assert_allclose(kernel.fitted_upper(data), subject_bounds(data, method)[1], atol=1e-12)


@pytest.mark.parametrize("method", ["corr", "cosine"])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_no_rdm_is_nearer_than_the_upper_ceiling(method: str, noise: float) -> None:
    rng = np.random.default_rng(1)
    data = rng.random(15) + noise * rng.random((4, 15))
    for k, row in enumerate(data):
        row[rng.permutation(15)[: 2 + k]] = np.nan

    def distance(rdm: np.ndarray) -> float:
        scores = []
        for row in data:
            x, y = (values[~np.isnan(row)] for values in (rdm, row))
            if method == "corr":
                x, y = x - x.mean(), y - y.mean()
            scores.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        return -float(np.mean(scores))

    best = max(-minimize(distance, rng.random(15)).fun for _ in range(4))
    assert subject_bounds(data, COMPARISONS[method])[1].mean() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("method", ["corr", "rho-a"])
def test_permutations_fit_no_upper_ceiling(method, monkeypatch):
    """It took 99 fits in each table of subjects who miss different pairs, for bounds that nobody read."""
    vectors = np.random.default_rng(0).random((3, 15))
    vectors[np.arange(3), np.arange(3)] = np.nan
    monkeypatch.setattr(ceilings, "_fitted_upper", None)
    with pytest.raises(TypeError):
        ceilings.subject_bounds(vectors, method)
    assert 0 < ceilings.ceiling_p(vectors, method, n_permutations=20) <= 1
