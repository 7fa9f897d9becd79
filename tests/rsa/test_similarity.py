"""Similarity of stacks of RDMs: rsatoolbox and dense formulas as oracles, masks, ties, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs
from rsatoolbox.rdm import compare as rsatoolbox_compare
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, rankdata

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.condensed import stimulus_sums
from neurordl.measures.kernels import compiled_ranks
from neurordl.measures.kernels.similarities import Grams, cosines, dense_ranks, in_threads
from neurordl.rsa.compare import similarity, why_undefined

METHODS = [name for name, entry in COMPARISONS.items() if entry.higher_is_better]
RANKED = ["spearman", "rho-a", "tau-a", "tau-b"]
GRAM_METHODS = ["cosine", "corr", "cosine_cov", "corr_cov"]

COMPLETE = [method for method in METHODS if COMPARISONS[method].complete]
HOLED = [method for method in METHODS if method not in COMPLETE]


def stack(n_rdms: int, seed: int, *, n: int = 9, kind: str = "continuous") -> np.ndarray:
    """Squared Euclidean distances of more channels than stimuli, so that every method is defined."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(n_rdms, n, 2 * n))
    if kind == "tied":
        patterns = rng.integers(0, 2, patterns.shape).astype(float)
    vectors = np.stack([pdist(one, "sqeuclidean") for one in patterns])
    return {"tiny": vectors * 1e-170, "huge": vectors * 1e170, "offset": vectors + 1e4}.get(kind, vectors)


def grams(method: str, *rdms: torch.Tensor, **options: object) -> Grams:
    return COMPARISONS[method].kernel.grams(*rdms, **options)


def oracle(a: np.ndarray, b: np.ndarray, method: str) -> np.ndarray:
    if method == "cka":
        method = "cosine_cov"  # the same where no pair is missing
    return np.asarray(rsatoolbox_compare(RDMs(a.copy()), RDMs(b.copy()), method))


@pytest.mark.parametrize("kind", ["continuous", "tied", "offset"])
@pytest.mark.parametrize("method", METHODS)
def test_equals_rsatoolbox(method, kind):
    a, b = stack(3, 0, kind=kind), stack(4, 1, kind=kind)
    assert_allclose(similarity(a, b, method), oracle(a, b, method), atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "neg_riem_dist"])
def test_equals_rsatoolbox_on_crossnobis_like_distances(method):
    """Negative ones, of no Euclidean geometry."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.3, 1, (3, 45)), rng.normal(0.3, 1, (4, 45))
    b[0], a[0] = np.abs(b[0]), np.abs(a[0])
    with np.errstate(invalid="ignore"):
        want = oracle(a, b, method)
    assert_allclose(similarity(a, b, method), want, atol=1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "neg_riem_dist"])
def test_large_rdms(method):
    a, b = stack(2, 3, n=120), stack(3, 4, n=120)
    assert_allclose(similarity(a, b, method), oracle(a, b, method), atol=1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "neg_riem_dist"])
@pytest.mark.parametrize("kind", ["tiny", "huge"])
def test_units_do_not_matter(method, kind):
    a, b = stack(2, 5), stack(3, 6)
    want = similarity(a, b, method)
    assert_allclose(similarity(stack(2, 5, kind=kind), b, method), want, atol=1e-8)


@pytest.mark.parametrize("method", HOLED)
@pytest.mark.parametrize("kind", ["continuous", "tied"])
def test_each_couple_is_compared_on_the_pairs_that_both_have(method, kind):
    a, b = stack(4, 7, kind=kind), stack(5, 8, kind=kind)
    rng = np.random.default_rng(9)
    a[1:, :][rng.random((3, 36)) < 0.2] = np.nan
    b[[1, 2]] = np.where(rng.random(36) < 0.3, np.nan, b[[1, 2]])  # two that miss the same
    b[3, rng.random(36) < 0.1] = np.inf
    found = similarity(a, b, method)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            missing = ~np.isfinite(one) | ~np.isfinite(other)
            pair = (np.where(missing, np.nan, x)[None] for x in (one, other))
            assert found[i, j] == pytest.approx(oracle(*pair, method)[0, 0], abs=1e-8)


@pytest.mark.parametrize("method", COMPLETE)
def test_methods_of_complete_rdms_refuse_missing_pairs(method):
    a, b = stack(2, 0), stack(2, 1)
    b[0, 3] = np.nan
    with pytest.raises(NeurordlError, match=rf"{method} needs complete RDMs.*1 of 36 pairs"):
        similarity(a, b, method)


@pytest.mark.parametrize("method", METHODS)
def test_undefined_similarities_are_nan_with_a_reason(method):
    a, b = stack(3, 10), stack(2, 11)
    a[1] = 0
    found = similarity(a, b, method)
    if method in ("rho-a", "tau-a"):
        assert (found[1] == 0).all()
    else:
        assert np.isnan(found[1]).all()
        assert why_undefined(a[1], b[0], COMPARISONS[method], ("m", "d")) != ""
    assert np.isfinite(found[[0, 2]]).all()
    a[1] = 1 / 3  # the regular simplex
    constant = similarity(a, b, method)
    if method in ("corr", "corr_cov", "spearman", "tau-b"):
        assert np.isnan(constant[1]).all()
    else:
        assert np.isfinite(constant).all()
    assert_allclose(constant[[0, 2]], oracle(a[[0, 2]], b, method), atol=1e-8)
    assert_allclose(found[[0, 2]], constant[[0, 2]])


def test_a_flat_geometry_has_no_riemannian_distance():
    line = pdist(np.arange(6.0)[:, None], "sqeuclidean")[None]
    full = stack(1, 0, n=6)
    assert np.isnan(similarity(full, line, "neg_riem_dist"))
    assert "as many dimensions" in why_undefined(full[0], line[0], COMPARISONS["neg_riem_dist"], ("m", "d"))


@pytest.mark.parametrize("method", METHODS)
def test_arrays_and_tensors(method):
    a, b = stack(3, 12), stack(2, 13)
    want = similarity(a, b, method)
    assert isinstance(want, np.ndarray)
    found = similarity(torch.tensor(a), torch.tensor(b), method)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    assert_allclose(found.numpy(), want, rtol=0, atol=0)
    single = similarity(torch.tensor(a).float(), torch.tensor(b).float(), method)
    assert_allclose(single.numpy(), want, atol=1e-3 if method == "neg_riem_dist" else 1e-5)
    assert similarity(a.tolist(), b.tolist(), method).shape == (3, 2)


@pytest.mark.parametrize("method", [m for m in METHODS if COMPARISONS[m].differentiable])
def test_the_same_as_the_differentiable_one(method):
    a, b = torch.tensor(stack(3, 14)), torch.tensor(stack(4, 15))
    if method in HOLED:
        a[1, 4], b[2, 9] = torch.nan, torch.nan
    function = COMPARISONS[method].function
    assert function is not None
    torch.testing.assert_close(similarity(a, b, method), function(a[:, None], b[None]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_many_threads_find_the_same(method):
    a, b = stack(5, 16), stack(4, 17)
    want = similarity(a, b, method)
    torch.set_num_threads(3)
    try:
        assert_allclose(similarity(a, b, method), want, rtol=1e-12)
        parts: list[slice] = []
        in_threads(parts.append, 5)
        assert sorted(k for part in parts for k in range(5)[part]) == [0, 1, 2, 3, 4]
        assert len(parts) == 3
    finally:
        torch.set_num_threads(1)


def test_nothing_and_wrong_shapes():
    a = stack(2, 0)
    for method in METHODS:
        assert similarity(a[:0], a, method).shape == (0, 2)
        assert similarity(a, a[:0], method).shape == (2, 0)
    with pytest.raises(NeurordlError, match=r"\(2, 36\) and \(2, 35\)"):
        similarity(a, a[:, 1:], "corr")
    with pytest.raises(NeurordlError, match=r"\(36,\)"):
        similarity(a[0], a, "corr")
    with pytest.raises(NeurordlError, match="not 35"):
        similarity(a[:, 1:], a[:, 1:], "corr")
    with pytest.raises(NeurordlError, match="comparison='mse'"):
        similarity(a, a, "mse")
    for method in HOLED:
        one_pair = np.full((1, 36), np.nan)
        one_pair[0, 0] = 1
        assert np.isnan(similarity(a, one_pair, method)).all()


def test_inputs_stay_as_they_were():
    a, b = stack(3, 18), stack(2, 19)
    before = a.copy(), b.copy()
    for method in METHODS:
        similarity(a, b, method)
    assert (a == before[0]).all()
    assert (b == before[1]).all()


@given(
    seed=st.integers(0, 1000), method=st.sampled_from(METHODS), kind=st.sampled_from(["continuous", "tied"])
)
def test_blind_to_the_order_of_stimuli_and_to_scale(seed, method, kind):
    a, b = stack(2, seed, n=7, kind=kind), stack(2, seed + 1, n=7, kind=kind)
    order = np.random.default_rng(seed).permutation(7)
    moved = (np.stack([squareform(squareform(x)[order][:, order]) for x in rdms]) for rdms in (a, b))
    want = similarity(a, b, method)
    # neg_riem_dist is found by a search, whose path depends on both
    assert_allclose(similarity(*moved, method), want, atol=2e-4 if method == "neg_riem_dist" else 1e-7)
    if method != "neg_riem_dist":
        assert_allclose(similarity(a * 3.7, b / 11, method), want, atol=1e-7)
        assert (np.abs(want[np.isfinite(want)]) <= 1 + 1e-9).all()
        if method != "bures":
            assert_allclose(similarity(b, a, method).T, want, atol=1e-9)


@given(seed=st.integers(0, 1000), method=st.sampled_from(RANKED))
def test_rank_measures_are_blind_to_monotone_change(seed, method):
    a, b = stack(2, seed, n=6, kind="tied"), stack(2, seed + 1, n=6, kind="tied")
    assert_allclose(similarity(np.exp(a / 10), b**3, method), similarity(a, b, method), atol=1e-12)


# whitening and resamples


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("n", [5, 6, 12])
@pytest.mark.parametrize("method", GRAM_METHODS)
def test_resamples_of_stimuli_equal_rsatoolbox(method, n, missing):
    a, b = stack(3, 20, n=n), stack(4, 21, n=n)
    measured = None
    if missing:
        lacking = np.arange(a.shape[1]) % 7 == 3
        a[:, lacking] = b[:, lacking] = np.nan
        measured = torch.tensor(~lacking)
    rng = np.random.default_rng(n)
    draws = [rng.integers(0, n, n) for _ in range(30)]
    draws.append(np.repeat(np.arange(3), [n // 2 + 1, 1, n - n // 2 - 2]))  # for 6: the singular closed form
    draws = [one for one in draws if len(set(one)) >= (4 if missing else 3)]
    counts = torch.tensor(np.array([np.bincount(one, minlength=n) for one in draws]), dtype=torch.float64)
    found = grams(method, torch.tensor(a), torch.tensor(b), counts, measured, among=True)
    for k, draw in enumerate(draws):
        left, right = (RDMs(x.copy()).subsample_pattern("index", draw) for x in (a, b))
        want = rsatoolbox_compare(left, right, method)
        assert_allclose(cosines(found)[k].numpy(), want, atol=1e-10)
        among = found.data[k] / (found.data[k].diagonal()[:, None] * found.data[k].diagonal()).sqrt()
        assert_allclose(among.numpy(), rsatoolbox_compare(right, right, method), atol=1e-10)


@pytest.mark.parametrize("method", GRAM_METHODS)
def test_a_resample_of_each_stimulus_once_is_the_whole(method):
    a, b = torch.tensor(stack(3, 22)), torch.tensor(stack(4, 23))
    once = grams(method, a, b, torch.ones(1, 9, dtype=torch.float64), among=True)
    whole = grams(method, a, b, among=True)
    scaled = [x.data.squeeze(0) / x.lengths[..., None] / x.lengths[..., None, :] for x in (once, whole)]
    torch.testing.assert_close(scaled[0].squeeze(0), scaled[1])
    torch.testing.assert_close(cosines(once)[0], cosines(whole))
    assert_allclose(cosines(whole).numpy(), similarity(a.numpy(), b.numpy(), method), atol=1e-12)


def test_an_rdm_that_is_constant_in_a_resample_is_undefined_there():
    a, b = stack(1, 24, n=6), stack(2, 25, n=6)
    i, j = np.triu_indices(6, 1)
    a[0] = np.where((i < 3) & (j < 3), 0.3, a[0])
    counts = torch.tensor([[2, 3, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64)
    for method in ("corr", "corr_cov"):
        found = cosines(grams(method, torch.tensor(a), torch.tensor(b), counts, among=True))
        assert found.isnan().tolist() == [[[True, True]], [[False, False]]]


# ranks


@pytest.mark.parametrize("pairs", [1, 2, 36, 5000])
@pytest.mark.parametrize("digits", [None, 1, 0])
def test_ranks_equal_scipy(pairs, digits):
    values = np.random.default_rng(pairs).normal(size=(3, pairs))
    values[0] *= 1e-300
    values[1] += 1e9  # many that differ in their lowest bits only
    values = values if digits is None else values.round(digits)
    values[0, 0] = -0.0
    out = np.empty_like(values)
    compiled_ranks.mean_ranks(values, out)
    assert_allclose(out, rankdata(values, axis=1), atol=0)
    ranks, order = dense_ranks(values)
    assert_allclose(ranks, rankdata(values, axis=1, method="dense") - 1, atol=0)
    assert (np.diff(np.take_along_axis(values, order, 1)) >= 0).all()


@given(seed=st.integers(0, 10_000), pairs=st.integers(2, 60), levels=st.sampled_from([2, 5, 1000]))
def test_weighted_ranks_and_tau_are_those_of_repeated_entries(seed, pairs, levels):
    rng = np.random.default_rng(seed)
    values, weights = rng.integers(0, levels, (2, pairs)), rng.integers(0, 4, pairs).astype(np.int32)
    (a, b), (order_a, order_b) = dense_ranks(values.astype(float))
    long_a, long_b = (np.repeat(x, weights) for x in values)
    out = np.empty(pairs)
    assert compiled_ranks.weighted_mean_ranks(a, order_a, weights, out) == weights.sum()
    assert_allclose(np.repeat(out, weights), rankdata(long_a) if len(long_a) else [])
    whole, ranks, order = values[0] * 1000, np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    compiled_ranks.rank(whole.astype(np.uint64), ranks, order)
    assert_allclose(ranks, a)
    assert (np.diff(whole[order]) >= 0).all()
    if len(long_a) > 1:
        with np.errstate(invalid="ignore"):
            want = kendalltau(long_a, long_b).statistic
        assert_allclose(compiled_ranks.tau(a, b, order_b, weights, True), want, atol=1e-12)
        signs = np.sign(long_a[:, None] - long_a) * np.sign(long_b[:, None] - long_b)
        size = len(long_a)
        found = compiled_ranks.tau(a, b, order_b, weights, False)
        assert found == pytest.approx(signs.sum() / (size * (size - 1)), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 40, 3000])
@pytest.mark.parametrize("pairs", [2, 3, 4097, 20_000])
def test_tau_of_many_entries_is_scipys(pairs, levels):
    rng = np.random.default_rng(pairs)
    values = rng.normal(size=(2, pairs)) if levels is None else rng.integers(0, levels, (2, pairs)) * 1.0
    values[1] += values[0]
    (a, b), (_, order_b) = dense_ranks(values)
    found = compiled_ranks.tau(a, b, order_b, None, True)
    assert_allclose(found, kendalltau(*values).statistic, atol=1e-12)


def test_tau_of_nothing_is_undefined():
    one = np.zeros(1, np.int32)
    assert np.isnan(compiled_ranks.tau(one, one, one, None, False))
    assert np.isnan(compiled_ranks.tau(one, one, one, None, True))


@pytest.mark.parametrize("n_rdms, n", [(1, 2), (3, 3), (40, 90), (3, 1100)])
def test_sums_of_stimuli_row_by_row(n_rdms, n, monkeypatch):
    rdms = torch.as_tensor(np.random.default_rng(n).random((n_rdms, n * (n - 1) // 2)))
    want = torch.stack([torch.as_tensor(squareform(one.numpy()).sum(0)) for one in rdms])
    for rows in (0, 10**9):
        monkeypatch.setattr("neurordl.measures.condensed._ROWS", rows)
        assert_allclose(stimulus_sums(rdms), want, rtol=1e-13)


@pytest.mark.parametrize("scale", [1e160, 1e-160])
def test_bures_does_not_depend_on_the_scale(scale):
    a, b = stack(3, 20), stack(4, 21)
    assert_allclose(similarity(a * scale, b * scale, "bures"), similarity(a, b, "bures"), rtol=1e-6)


@pytest.mark.parametrize("method", ["cosine", "corr", "cosine_cov", "corr_cov"])
@pytest.mark.parametrize("scale", [1, 1e200, 1e-200])
def test_one_missing_pair_or_infinite_one_leaves_the_others(method, scale):
    a, b = stack(3, 20) * scale, stack(4, 21) * scale
    want = similarity(a, b, method)
    assert np.isfinite(want).all()
    fewer = [x.copy() / scale for x in (a[1:2], b)]
    for x in fewer:
        x[:, 2] = np.nan
    masked = oracle(*fewer, method)[0]
    for hole in (np.nan, np.inf, -np.inf):
        holed = a.copy()
        holed[1, 2] = hole
        found = similarity(holed, b, method)
        assert_allclose(found[[0, 2]], want[[0, 2]], atol=1e-12)
        assert_allclose(found[1], masked, atol=1e-8)
        assert_allclose(similarity(b, holed, method), found.T, atol=1e-12)
