"""Models that share variance, against plain loops; what is undefined; what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs
from scipy import stats
from scipy.spatial.distance import pdist, squareform

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.inference.infer import infer_study
from neurordl.rsa.inference.resampling import Draws, Study, expanded
from neurordl.rsa.regression import shared_pairs

METHODS = ["corr", "spearman"]


def geometry(n_rdms: int, n: int = 9, seed: int = 0, tied: bool = False) -> np.ndarray:
    """Condensed RDMs that share a geometry."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=(n, 4))
    points = [common + rng.normal(size=(n, 4)) for _ in range(n_rdms)]
    rdms = np.stack([pdist(x, "sqeuclidean") for x in points])
    return rdms.round(-1) if tied else rdms


def as_rdms(vectors: np.ndarray, **descriptors) -> RDMs:
    n = len(squareform(vectors[0], checks=False))
    ids = {"stimulus": [f"s{k}" for k in range(n)]}
    return RDMs(vectors, rdm_descriptors=descriptors, pattern_descriptors=ids)


def brains(vectors: np.ndarray) -> RDMs:
    return as_rdms(vectors, subject=[f"p{k}" for k in range(len(vectors))])


def named(vectors: np.ndarray, names: str = "ab") -> RDMs:
    return as_rdms(vectors, name=list(names[: len(vectors)]))


def left(rdm: np.ndarray, covariates: np.ndarray, method: str) -> np.ndarray:
    """What is left of an RDM, or of its ranks, by least squares of one RDM."""
    if method == "spearman":
        rdm, covariates = stats.rankdata(rdm), stats.rankdata(covariates, axis=1)
    basis = np.column_stack([np.ones_like(rdm), covariates.T])
    return rdm - basis @ np.linalg.lstsq(basis, rdm, rcond=None)[0]


def partial(model: np.ndarray, rdm: np.ndarray, covariates: np.ndarray, method: str) -> float:
    return float(stats.pearsonr(left(model, covariates, method), left(rdm, covariates, method))[0])


def bounds(data: np.ndarray, covariates: np.ndarray, method: str, times: np.ndarray) -> tuple[float, float]:
    """Noise ceiling of subjects, drawn so often: pooled are RDMs of unit variance."""
    rest = np.stack([left(x, covariates, method) for x in data])
    rest /= rest.std(axis=1, keepdims=True)
    lower, upper = [], []
    for k in np.flatnonzero(times):
        others = np.where(np.arange(len(data)) == k, 0, times)
        lower.append(np.corrcoef(others @ rest, rest[k])[0, 1])
        upper.append(np.corrcoef(times @ rest, rest[k])[0, 1])
    return float(np.mean(lower)), float(np.mean(upper))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_covariates", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_plain_loop_finds_the_same(method, n_covariates, tied):
    models, data, covariates = (
        geometry(k, seed=seed, tied=tied) for seed, k in enumerate((2, 4, n_covariates))
    )
    controls = nrl.Partial(named(covariates, "xyz"), method)
    scores = nrl.evaluate(named(models), brains(data), comparison=controls, bootstrap=None)
    found = scores.inferences[""]
    want = [[partial(a, b, covariates, method) for b in data] for a in models]
    assert_allclose(found.scores, want, atol=1e-10)
    assert_allclose(found.ceiling, bounds(data, covariates, method, np.ones(4)), atol=1e-10)
    assert scores.frame["comparison"].unique() == [f"partial {method}"]
    assert f"controlled for {', '.join('xyz'[:n_covariates])}" in scores.title
    means = scores.frame[scores.frame["subject"] == "mean"]
    assert_allclose(means["p"], stats.ttest_1samp(want, 0, axis=1, alternative="greater").pvalue, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_everything_is_regressed_anew_in_a_resample(method):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    comparison = nrl.Partial(named(covariates), method).for_stimuli([f"s{k}" for k in range(9)])
    rng = np.random.default_rng(0)
    subjects = np.array([[2, 1, 0, 1], [1, 1, 1, 1], [0, 3, 1, 0]])
    stimuli = np.stack([np.bincount(rng.integers(0, 9, 9), minlength=9) for _ in range(3)])
    found = infer_study(
        Study(models, data, comparison),
        nrl.Bootstrap("both", n=3, variance="bootstrap"),
        Draws(subjects, stimuli),
    )
    for b, (times, counts) in enumerate(zip(subjects, stimuli, strict=True)):
        a, x, c = (expanded(rdms, counts) for rdms in (models, data, covariates))
        kept = np.isfinite(a[0])
        a, x, c = (rdms[:, kept] for rdms in (a, x, c))
        scores = np.array([[partial(model, rdm, c, method) for rdm in x] for model in a])
        assert_allclose(found.evaluations[b, :, 0, 0, 2], scores.mean(axis=1), atol=1e-10)
        assert_allclose(found.evaluations[b, :, 0, 0, 0], scores @ times / times.sum(), atol=1e-10)
        assert_allclose(found.noise_ceiling[:, b, 0, 0], bounds(x, c, method, times), atol=1e-10)
        assert_allclose(found.noise_ceiling[:, b, 0, 1], bounds(data, covariates, method, times), atol=1e-10)


def test_without_shared_variance_it_is_the_correlation():
    models, data = geometry(2, seed=2), geometry(4, seed=4)
    flat = nrl.Partial(named(np.ones((1, 36))), "corr")
    found = nrl.evaluate(named(models), brains(data), comparison=flat)
    want = nrl.evaluate(named(models), brains(data), comparison="corr")
    assert_allclose(found.inferences[""].scores, want.inferences[""].scores, atol=1e-12)
    assert_allclose(found.inferences[""].ceiling, want.inferences[""].ceiling, atol=1e-12)
    huge = nrl.evaluate(
        named(models * 1e150),
        brains(data * 1e-150),
        comparison=nrl.Partial(named(models[:1] * 1e-200), "corr"),
    )
    small = nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(named(models[:1]), "corr"))
    assert_allclose(huge.inferences[""].scores, small.inferences[""].scores, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_covariates_explain_is_undefined(method):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    models[0] = covariates[1] if method == "spearman" else covariates[0] + 3 * covariates[1]
    repeated = np.concatenate([covariates, covariates[:1]])
    controls = nrl.Partial(named(repeated, "xyz"), method)
    scores = nrl.evaluate(named(models), brains(data), comparison=controls, bootstrap="both")
    means = scores.frame[scores.frame["subject"] == "mean"].set_index("layer")
    assert np.isnan(means.loc["a", "score"])
    assert "what x, y, z leave of one RDM is constant" in means.loc["a", "reason"]
    want = [partial(models[1], x, covariates, method) for x in data]
    assert_allclose(means.loc["b", "score"], np.mean(want), atol=1e-10)
    assert np.isfinite(means.loc["b", ["ci_low", "ci_high", "p"]].astype(float)).all()


def test_pairs_that_one_rdm_misses_are_left_out_of_all():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    data[1, 3] = data[2, 10:12] = covariates[0, 20] = models[1, 0] = np.nan
    gone = np.concatenate([models, np.full((1, 36), np.nan)])
    with pytest.warns(UserWarning, match="5 of 36 pairs of stimuli are left out, since a subject, a model"):
        scores = nrl.evaluate(
            named(gone, "abc"), brains(data), comparison=nrl.Partial(named(covariates), "spearman")
        )
    kept = np.isfinite(np.concatenate([models, data, covariates])).all(axis=0)
    want = [[partial(a[kept], b[kept], covariates[:, kept], "spearman") for b in data] for a in models]
    assert_allclose(scores.inferences[""].scores[:2], want, atol=1e-10)
    want = bounds(data[:, kept], covariates[:, kept], "spearman", np.ones(4))
    assert_allclose(scores.inferences[""].ceiling, want, atol=1e-10)
    group = scores.group_rows().set_index("layer")["score"]
    mean = np.nanmean(data, axis=0)
    assert_allclose(
        group["a"], partial(models[0, kept], mean[kept], covariates[:, kept], "spearman"), atol=1e-10
    )
    few = data.copy()
    few[0, :32] = np.nan
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(NeurordlError, match="4 pairs of stimuli are measured"),
    ):
        nrl.evaluate(named(models), brains(few), comparison=nrl.Partial(named(covariates)))


def test_subjects_who_share_only_the_covariate_do_not_agree():
    """The permutation test is of what the covariates leave, which is noise in all but a few studies."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shared = pdist(rng.normal(size=(10, 3)))
        data = shared + 0.5 * rng.normal(size=(5, 45))
        ids = [f"s{k}" for k in range(10)]
        comparison = nrl.Partial(as_rdms(shared[None], name=["x"]), "corr").for_stimuli(ids)
        p.append(ceiling_p(data, comparison, n_permutations=99))
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) <= 0.15


def test_covariates_are_matched_by_id():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 1)))
    order = np.random.default_rng(0).permutation(9)
    moved = squareform(squareform(covariates[0])[np.ix_(order, order)])[None]
    shuffled = RDMs(
        moved, rdm_descriptors={"name": ["x"]}, pattern_descriptors={"stimulus": [f"s{k}" for k in order]}
    )
    found, want = (
        nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(x)).inferences[""].scores
        for x in (shuffled, named(covariates))
    )
    assert_allclose(found, want, atol=1e-12)
    fewer = RDMs(covariates[:, :28], pattern_descriptors={"stimulus": [f"s{k}" for k in range(8)]})
    with pytest.raises(NeurordlError, match="s8"):
        nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(fewer))


def test_what_is_refused():
    covariates = named(geometry(1))
    for method in ("rho-a", "cosine", "tau-a", "corr_cov", "cka"):
        with pytest.raises(NeurordlError, match="has no partial form; take corr, spearman"):
            nrl.Partial(covariates, method)
    with pytest.raises(NeurordlError, match="has no RDM"):
        nrl.Partial(covariates.subsample("name", []))
    with pytest.raises(NeurordlError, match="expected"):
        nrl.Partial([1, 2])
    with pytest.raises(NeurordlError, match="repeats a name"):
        nrl.Partial(named(geometry(2), "aa"))
    with pytest.raises(NeurordlError, match="comparison"):
        nrl.compare(covariates, covariates, nrl.Partial(covariates))


def test_shared_pairs_without_holes_say_nothing():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found, want in zip(shared_pairs(models, data, covariates), (models, data), strict=True):
            assert_allclose(found, want)
