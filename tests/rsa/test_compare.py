"""Similarity, noise ceilings and intervals, with rsatoolbox as the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.inference import boot_noise_ceiling, eval_fixed
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from rsatoolbox.rdm import compare as rsatoolbox_compare
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.rdms.selection import select_rdms
from neurordl.rsa.ceilings import noise_ceiling
from neurordl.rsa.compare import compare, why_undefined
from neurordl.rsa.inference.infer import mean_interval

N = 9
IDS = [f"s{k}" for k in range(N)]
# The others take complete RDMs: test_similarity.py.
METHODS = [name for name, entry in COMPARISONS.items() if entry.higher_is_better and not entry.complete]
NO_TIES_BROKEN = [method for method in METHODS if method not in ("rho-a", "tau-a")]


def stack(n_rdms: int, seed: int, *, digits: int | None = None, ids: list[str] = IDS) -> RDMs:
    vectors = np.random.default_rng(seed).random((n_rdms, len(ids) * (len(ids) - 1) // 2)) + 0.1
    if digits is not None:
        vectors = vectors.round(digits)
    return RDMs(
        vectors,
        rdm_descriptors={"subject": [f"p{k}" for k in range(n_rdms)]},
        pattern_descriptors={"stimulus": list(ids)},
    )


def shuffled(rdms: RDMs, seed: int) -> RDMs:
    order = np.random.default_rng(seed).permutation(rdms.n_cond)
    matrices = rdms.get_matrices()[:, order][:, :, order]
    names = rdms.pattern_descriptors["stimulus"]
    return RDMs(
        matrices,
        rdm_descriptors=dict(rdms.rdm_descriptors),
        pattern_descriptors={"stimulus": [names[k] for k in order]},
    )


def rsatoolbox_ceiling(rdms: RDMs, method: str) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tau: pooled as averaged ranks
        return boot_noise_ceiling(rdms, method=method)


@pytest.mark.parametrize("digits", [None, 1], ids=["continuous", "tied"])
@pytest.mark.parametrize("method", METHODS)
def test_equals_rsatoolbox(method, digits):
    models, data = stack(3, 1, digits=digits), stack(4, 2, digits=digits)
    assert_allclose(compare(models, data, method), rsatoolbox_compare(models, data, method), atol=1e-12)
    assert_allclose(noise_ceiling(data, method), rsatoolbox_ceiling(data, method), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_matched_by_id(method):
    models, data = stack(2, 3, digits=1), stack(3, 4, digits=1)
    want = compare(models, data, method)
    assert_array_equal(compare(shuffled(models, 5), shuffled(data, 6), method), want)
    # rsatoolbox itself scores the same data differently in another order
    assert abs(rsatoolbox_compare(models, shuffled(models, 5), method)[0, 0] - 1) > 0.1
    assert_allclose(noise_ceiling(shuffled(data, 7), method), noise_ceiling(data, method), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_missing_pairs_are_masked_pair_of_rdms_by_pair_of_rdms(method):
    models, data = stack(3, 8), stack(4, 9)
    rng = np.random.default_rng(10)
    for rdms in (models, data):
        rdms.dissimilarities[rng.random(rdms.dissimilarities.shape) < 0.15] = np.nan
    data.dissimilarities[0] = np.where(np.isnan(data.dissimilarities[0]), 0.5, data.dissimilarities[0])
    got = compare(models, data, method)
    for i, a in enumerate(models.dissimilarities):
        for j, b in enumerate(data.dissimilarities):
            missing = np.isnan(a) | np.isnan(b)
            a2, b2 = (RDMs(np.where(missing, np.nan, v)[None]) for v in (a, b))
            assert got[i, j] == pytest.approx(rsatoolbox_compare(a2, b2, method)[0, 0], abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_stimulus_is_the_same_as_one_that_is_not_there(method):
    models, data = stack(2, 11), stack(3, 12)
    fewer = [
        RDMs(r.get_matrices()[:, 1:, 1:], pattern_descriptors={"stimulus": IDS[1:]}) for r in (models, data)
    ]
    want = compare(*fewer, method)
    data.dissimilarities[:, : N - 1] = np.nan
    assert_allclose(compare(models, data, method), want, atol=1e-10)
    fewer[1].rdm_descriptors["subject"] = data.rdm_descriptors["subject"]
    assert_allclose(noise_ceiling(data, method), noise_ceiling(fewer[1], method), atol=1e-10)


def test_undefined_is_nan_and_only_where_it_is():
    models, data = stack(3, 13), stack(2, 14)
    models.dissimilarities[1] = 0.3
    data.dissimilarities[1, 1:] = np.nan  # a single pair is left
    for method in NO_TIES_BROKEN:
        got = compare(models, data, method)
        assert np.isnan(got[:, 1]).all()
        assert np.isfinite(got[[0, 2], 0]).all()
        assert np.isfinite(got[1, 0]) == method.startswith("cosine")
    for method in ("rho-a", "tau-a"):  # expected values under random tie breaking: zero by definition
        assert compare(models, data, method)[1, 0] == 0
    models.dissimilarities[1] = 0
    assert np.isnan(compare(models, data, "cosine")[1, 0])


def test_undefined_scores_have_a_reason():
    values, constant, absent = np.arange(3.0), np.ones(3), np.full(3, np.nan)
    for model, data, told in (
        (absent, values, "the RDM of a has no defined value"),
        (values, absent, "the RDM of b has no defined value"),
        (np.array([1, np.nan, np.nan]), values, "1 pairs"),
        (values, constant, "the RDM of b is constant"),
    ):
        assert told in why_undefined(model, data, COMPARISONS["corr"], ("a", "b"))
    assert "is zero" in why_undefined(0 * values, values, COMPARISONS["cosine"], ("a", "b"))


def test_compare_refuses_what_it_cannot_match():
    models, data = stack(1, 0), stack(1, 1, ids=[f"t{k}" for k in range(N)])
    with pytest.raises(NeurordlError, match="no id of the models"):
        compare(models, data)
    wider = stack(1, 2, ids=[*IDS, "extra"])
    assert compare(models, wider).shape == (1, 1)
    with pytest.raises(NeurordlError, match="extra"):
        compare(wider, models)
    assert_allclose(compare(wider, models, missing="ignore"), compare(models, wider))
    with pytest.raises(NeurordlError, match="3 shared stimuli"):
        compare(stack(1, 3, ids=IDS[:2]), data=models)
    with pytest.raises(NeurordlError, match="no stimulus ids"):
        compare(models, RDMs(np.ones((1, 36))))
    with pytest.raises(NeurordlError, match=r"'spearmann'.*'spearman', .*'tau-b'"):
        compare(models, models, "spearmann")


@settings(max_examples=20)
@given(seed=st.integers(0, 100), method=st.sampled_from(METHODS))
def test_order_of_subjects_changes_nothing(seed, method):
    data = stack(4, seed, digits=1)
    data.dissimilarities[:3, :3] = np.nan  # pooled ranks are no whole numbers then, and tie all the same
    turned = data[[2, 0, 3, 1]]
    assert_allclose(noise_ceiling(turned, method), noise_ceiling(data, method), atol=1e-12)


def test_the_ceiling_pools_what_was_measured():
    """A pair missing in one subject is pooled over the others; rsatoolbox goes by the first subject."""
    rng = np.random.default_rng(0)
    shape = (6, 36)
    data = stack(6, 0)
    data.dissimilarities[:] = rng.random(36) + rng.normal(0, 0.2, shape)
    full = noise_ceiling(data, "spearman")
    data.dissimilarities[rng.random(shape) < 0.1] = np.nan
    holed = noise_ceiling(data, "spearman")
    assert_allclose(holed, full, atol=0.1)
    assert np.isfinite(holed).all()
    assert holed[0] < holed[1]


@pytest.mark.parametrize(
    "method, scale",
    [
        ("cosine", lambda x: x / np.linalg.norm(x) * len(x) ** 0.5),
        ("corr", lambda x: (x - x.mean()) / x.std()),
        ("spearman", lambda x: rankdata(x) / (len(x) + 1)),  # of few pairs and of many: from 0 to 1
    ],
)
def test_the_ceiling_with_missing_pairs_is_that_of_a_plain_loop(method, scale):
    data = stack(4, 3)
    for k, row in enumerate(data.dissimilarities):
        row[np.random.default_rng(k).random(36) < 0.2 * k] = np.nan
    scaled = np.full((4, 36), np.nan)
    for row, values in zip(scaled, data.dissimilarities, strict=True):
        row[~np.isnan(values)] = scale(values[~np.isnan(values)])
    bounds = []
    for k, row in enumerate(data.dissimilarities):
        for pooled in (np.nanmean(np.delete(scaled, k, axis=0), axis=0), np.nanmean(scaled, axis=0)):
            both = np.where(np.isnan(pooled) | np.isnan(row), np.nan, [pooled, row])
            bounds.append(rsatoolbox_compare(RDMs(both[:1]), RDMs(both[1:]), method)[0, 0])
    lower, upper = noise_ceiling(data, method)
    assert lower == pytest.approx(np.mean(bounds[::2]), abs=1e-12)
    # no mean RDM is nearest to subjects who miss different pairs: see test_ceilings
    assert upper > np.mean(bounds[1::2])


def test_the_ceiling_is_refused_where_it_means_nothing():
    with pytest.raises(NeurordlError, match="two subjects or more"):
        noise_ceiling(stack(1, 0))
    data = stack(4, 0)
    data.rdm_descriptors = {"subject": ["a", "a", "b", "b"], "session": [1, 2, 1, 2]}
    with pytest.raises(NeurordlError, match="'session'"):
        noise_ceiling(data)
    assert len(noise_ceiling(select_rdms(data, average="session"))) == 2
    with pytest.raises(NeurordlError, match="no descriptor 'subject'"):
        noise_ceiling(RDMs(data.dissimilarities))
    with pytest.raises(NeurordlError, match="comparison='rho'"):
        noise_ceiling(data, "rho")


def test_interval_and_p_are_those_of_eval_fixed():
    data, models = stack(7, 20), stack(3, 21)
    for k in range(3):
        models.dissimilarities[k] += k * data.dissimilarities.mean(axis=0)
    result = eval_fixed([ModelFixed(f"m{k}", models[k]) for k in range(3)], data, method="corr")
    low, high = result.get_ci(0.95)
    for k, scores in enumerate(compare(models, data, "corr")):
        got = mean_interval(scores)
        want = (result.get_means()[k], low[k], high[k], result.test_zero()[k], 7)
        assert_allclose(got, want, atol=1e-12)


def test_interval_of_too_few():
    assert_array_equal(mean_interval(np.array([0.4, np.nan])), (0.4, np.nan, np.nan, np.nan, 1))
    assert mean_interval(np.array([np.nan]))[-1] == 0
    mean, low, high, p, n = mean_interval(np.array([0.2, np.nan, 0.4]))
    assert (mean, n) == (pytest.approx(0.3), 2)
    assert low < 0 < mean < high
    assert 0 < p < 0.5


@pytest.mark.parametrize("roi, want", [("evc", (0.242, 0.392)), ("it", (0.453, 0.542))])
def test_ceilings_of_cichy_2014(data_root, roi, want):
    with np.load(data_root / "images92" / "cichy2014_fmri.npz", allow_pickle=False) as found:
        vectors = np.stack([squareform(m, checks=False) for m in found[roi]])
        ids = [str(value) for value in found["ids"]]
    rdms = RDMs(
        vectors,
        rdm_descriptors={"subject": [f"s{k:02d}" for k in range(15)]},
        pattern_descriptors={"stimulus": ids},
    )
    assert_allclose(noise_ceiling(rdms, "spearman"), want, atol=5e-4)


def test_ceiling_of_kriegeskorte_2008_after_averaging_sessions(data_root):
    with np.load(data_root / "images92" / "kriegeskorte2008.npz", allow_pickle=False) as found:
        vectors = np.stack([squareform(m, checks=False) for m in found["human_it"].reshape(8, 92, 92)])
        subjects = [str(name) for name in found["human_subjects"] for _ in range(2)]
    rdms = RDMs(vectors, rdm_descriptors={"subject": subjects, "session": [1, 2] * 4})
    with pytest.raises(NeurordlError, match="'session'"):
        noise_ceiling(rdms, "spearman")
    assert_allclose(
        noise_ceiling(select_rdms(rdms, average="session"), "spearman"), (0.372, 0.666), atol=5e-4
    )
