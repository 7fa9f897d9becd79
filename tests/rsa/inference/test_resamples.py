"""Resamples with rsatoolbox's functions as oracle, fed the same draws; what is undefined; what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rsatoolbox.inference import (
    Result,
    eval_bootstrap_pattern,
    eval_bootstrap_rdm,
    eval_dual_bootstrap,
    eval_fixed,
)
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from scipy import stats
from scipy.spatial.distance import pdist

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.rsa.ceilings import drawn_ceiling
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference import resampling
from neurordl.rsa.inference.infer import CORRECTIONS, Inference, correct, infer, interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap, Draws, Study, expanded

METHODS = [name for name, entry in COMPARISONS.items() if entry.higher_is_better]

RESAMPLED = ["cosine", "corr", "cosine_cov", "corr_cov", "spearman", "rho-a", "tau-a", "tau-b"]


def study(
    n_models: int = 3, n_subjects: int = 5, n: int = 8, seed: int = 0, tied: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 6))
    models = truth + rng.normal(size=(n_models, n, 6)) * np.arange(1, n_models + 1)[:, None, None]
    data = truth + rng.normal(size=(n_subjects, n, 6))
    if tied:
        models, data = models.round(), data.round()
    return tuple(np.stack([pdist(one, "sqeuclidean") for one in x]) for x in (models, data))


def draw(n_subjects: int, n: int, resample: str, size: int, rng: np.random.Generator, **options) -> Draws:
    names = [list(map(str, range(k))) for k in (n_subjects, n)]
    return Bootstrap(resample, n=size).draw(*names, rng=rng, **options)


def indices(n_subjects: int, n: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws that both sides take: two subjects or more, three stimuli or more."""
    rng = np.random.default_rng(seed)
    subjects, stimuli = [], []
    while len(subjects) < count:
        one, other = rng.integers(0, n_subjects, n_subjects), rng.integers(0, n, n)
        if len(set(one)) > 1 and len(set(other)) > 2:
            subjects.append(one)
            stimuli.append(other)
    return np.array(subjects), np.array(stimuli)


def theirs(
    models: np.ndarray, data: np.ndarray, method: str, resample: str, drawn: tuple, monkeypatch
) -> Result:
    """Evaluate by rsatoolbox, whose draws are replaced."""
    subjects, stimuli = drawn
    order = {
        "none": [],
        "subjects": list(subjects),
        "stimuli": list(stimuli),
        "both": [one for pair in zip(subjects, stimuli, strict=True) for one in pair],
    }[resample]
    left: Iterator[np.ndarray] = iter(order)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: next(left))
    fixed = [ModelFixed(f"m{k}", RDMs(one[None])) for k, one in enumerate(models)]
    function = {
        "none": eval_fixed,
        "subjects": eval_bootstrap_rdm,
        "stimuli": eval_bootstrap_pattern,
        "both": eval_dual_bootstrap,
    }[resample]
    options = {} if resample == "none" else {"N": len(subjects)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tau: pooled as averaged ranks
        return function(fixed, RDMs(data), method=method, **options)


def ours(models, data, method, resample, drawn) -> Inference:
    if resample == "none":
        return infer(models, data, method)
    subjects = drawn[0] if resample in ("subjects", "both") else None
    stimuli = drawn[1] if resample in ("stimuli", "both") else None
    n = int((1 + (1 + 8 * data.shape[1]) ** 0.5) / 2)
    return infer(models, data, method, resample, draws=Draws.from_indices(subjects, stimuli, len(data), n))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("resample", ["none", "subjects", "stimuli", "both"])
@pytest.mark.parametrize("method", RESAMPLED)
def test_the_same_draws_give_the_estimates_of_rsatoolbox(method, resample, tied, monkeypatch):
    models, data = study(tied=tied)
    drawn = indices(5, 8, 12)
    found, want = (
        ours(models, data, method, resample, drawn),
        theirs(models, data, method, resample, drawn, monkeypatch),
    )
    for name in ("evaluations", "noise_ceiling", "variances", "model_var", "diff_var", "noise_ceil_var"):
        assert_allclose(getattr(found, name), getattr(want, name), atol=1e-10, rtol=0, err_msg=name)
    assert found.dof == want.dof
    assert found.cv_method == want.cv_method
    assert_allclose(found.means, want.get_means(), atol=1e-10)
    for got, right in zip(interval(found), want.get_ci(0.95), strict=True):
        assert_allclose(got, right, atol=1e-9)
    p = p_values(found)
    pairwise, zero, ceiling = want.test_all()
    assert_allclose(p.zero, zero, atol=1e-8)
    assert_allclose(p.pairs - np.eye(3), pairwise - np.diag(np.diag(pairwise)), atol=1e-8)
    assert_allclose(p.ceiling, ceiling, atol=1e-8)


@pytest.mark.parametrize("resample", ["subjects", "stimuli", "both"])
@pytest.mark.parametrize("method", ["corr", "corr_cov", "spearman"])
def test_larger_studies(method, resample, monkeypatch):
    models, data = study(2, 4, 40)
    drawn = indices(4, 40, 4)
    found = ours(models, data, method, resample, drawn)
    want = theirs(models, data, method, resample, drawn, monkeypatch)
    for name in ("evaluations", "noise_ceiling", "variances"):
        assert_allclose(getattr(found, name), getattr(want, name), atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["bures", "cka", "neg_riem_dist"])
def test_methods_of_complete_rdms_resample_subjects(method):
    data, models = (
        np.stack([pdist(x, "sqeuclidean") for x in np.random.default_rng(k).normal(size=(3 - k, 5, 7))])
        for k in (0, 1)
    )
    found = infer(models, data, method, Bootstrap("subjects", n=3))
    assert found.evaluations.shape == (3, 2)
    assert np.isfinite(found.scores).all()
    for resample in ("stimuli", "both"):
        with pytest.raises(NeurordlError, match=f"{method} needs complete RDMs"):
            infer(models, data, method, resample)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    method=st.sampled_from(RESAMPLED),
    tied=st.booleans(),
    holed=st.sampled_from(["no", "models", "alike", "apart"]),
)
def test_the_fast_ways_are_those_of_resamples_built_one_by_one(seed, method, tied, holed):
    rng = np.random.default_rng(seed)
    models, data = study(3, 4, 7, seed, tied)
    if holed == "models":
        models[0, rng.random(21) < 0.2] = np.nan
    if holed == "alike":
        data[:, rng.random(21) < 0.2] = np.nan
    if holed == "apart":
        data[rng.random(data.shape) < 0.1] = np.nan
    drawn = draw(
        4, 7, "both", 6, rng, fewest=(1, 4)
    )  # of three stimuli, subjects may cancel but for rounding
    comparison = COMPARISONS[method]
    sets = np.stack([drawn.subjects, np.ones_like(drawn.subjects)])
    whole = Study(models, data, comparison)
    found = whole.resample(drawn.stimuli, sets)
    everywhere = np.isfinite(models).all(axis=0)
    for b, counts in enumerate(drawn.stimuli):
        a, x = (expanded(rdms, counts) for rdms in (models, data))
        y = expanded(np.where(everywhere, data, np.nan), counts)
        want = similarity(a, x, method)
        assert_allclose(found.scores[b], want, atol=1e-9)
        for k in range(2):
            bounds = np.add(drawn_ceiling(y, sets[k, b], comparison), [0, whole.fitted_gain])
            assert_allclose(found.ceilings[k, b], bounds, atol=1e-9)


@pytest.mark.parametrize("holed", ["a stimulus each", "pairs", "nearly nothing", "a model of NaN", "layers"])
@pytest.mark.parametrize("method", RESAMPLED)
def test_subjects_who_miss_different_pairs_are_resampled_as_one_by_one(method, holed, monkeypatch):
    n = 11
    models, data = study(3, 5, n, 1)
    rng = np.random.default_rng(0)
    i, j = np.triu_indices(n, 1)
    if holed == "a stimulus each":
        for k, row in enumerate(data):
            row[(i == k) | (j == k)] = np.nan
    else:
        data[rng.random(data.shape) < 0.15] = np.nan
    if holed == "nearly nothing":
        data[0, 3:] = np.nan
    if holed == "a model of NaN":
        models[0] = np.nan
    if holed == "layers":
        models[rng.random(models.shape) < 0.1] = np.nan
    drawn = draw(5, n, "both", 5, rng, fewest=(1, 5))
    drawn.stimuli[0] = [6, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]  # a whitened 0 / 0, unless taken in another way
    sets = np.stack([drawn.subjects, np.ones_like(drawn.subjects)])
    whole = Study(models, data, COMPARISONS[method])
    calls = (drawn.stimuli, sets), (None, sets[:1])
    with monkeypatch.context() as patch:
        assert whole.fitted_gain >= 0
        patch.setattr(resampling, "drawn_ceiling", None)
        patch.setattr(resampling, "expanded", None)
        found = [whole.resample(*call) for call in calls]
    monkeypatch.setattr(type(COMPARISONS[method].kernel), "resample", lambda *args: None)
    for fast, call in zip(found, calls, strict=True):
        slow = whole.resample(*call)
        if call[0] is not None:
            assert_allclose(fast.scores, slow.scores, atol=1e-10)
        assert_allclose(fast.ceilings, slow.ceilings, atol=1e-10)


@pytest.mark.parametrize("method", RESAMPLED)
def test_a_layer_that_misses_pairs_does_not_slow_the_others_down(method, monkeypatch):
    """A dead stimulus in one layer, one that no subject saw: no resample is built by itself."""
    models, data = study(3, 4, 9)
    dead = np.zeros((9, 9), dtype=bool)
    dead[2] = dead[:, 2] = True
    models[1, dead[np.triu_indices(9, 1)]] = np.nan
    data[:, 5] = np.nan
    drawn = indices(4, 9, 5)
    want = ours(models[[0, 2]], data, method, "both", drawn)
    monkeypatch.setattr(resampling, "expanded", None)
    monkeypatch.setattr(resampling, "drawn_ceiling", None)
    found = ours(models, data, method, "both", drawn)
    assert_allclose(found.evaluations[:, [0, 2]], want.evaluations, atol=1e-12)
    assert_allclose(found.scores[[0, 2]], want.scores, atol=1e-12)


@pytest.mark.parametrize("method", ["corr", "rho-a"])
def test_all_ceilings_are_on_the_pairs_that_every_model_has(method):
    models, data = study(2, 4, 9)
    models[0, :8] = np.nan
    fewer = np.where(np.isnan(models[0]), np.nan, data)
    drawn = indices(4, 9, 5)
    for resample in ("none", "subjects", "both"):
        found, want = (ours(models[:1], x, method, resample, drawn) for x in (data, fewer))
        assert_allclose(found.noise_ceiling, want.noise_ceiling, atol=1e-12)


def test_the_chance_of_enough_distinct_ones():
    assert resampling._chance_of_distinct(3, 3) == pytest.approx(6 / 27)
    assert resampling._chance_of_distinct(4, 3) == pytest.approx(1 - (4 + 6 * 14) / 256)
    assert resampling._chance_of_distinct(5, 1) == pytest.approx(1)
    assert resampling._chance_of_distinct(2, 3) == 0
    many = draw(40, 5, "stimuli", 4000, np.random.default_rng(0), fewest=(1, 1)).stimuli
    assert resampling._chance_of_distinct(5, 3) == pytest.approx(((many > 0).sum(1) >= 3).mean(), abs=0.02)


def test_batches_and_threads_find_the_same(monkeypatch):
    models, data = study(4, 5, 9)
    drawn = indices(5, 9, 30)
    before = {method: ours(models, data, method, "both", drawn) for method in RESAMPLED}
    monkeypatch.setattr(
        "neurordl.measures.kernels.similarities._BYTES", 4000
    )  # many parts, of resamples and of pairs
    torch.set_num_threads(3)
    try:
        for method, want in before.items():
            found = ours(models, data, method, "both", drawn)
            assert_allclose(found.evaluations, want.evaluations, atol=1e-12)
            assert_allclose(found.noise_ceiling, want.noise_ceiling, atol=1e-12)
    finally:
        torch.set_num_threads(1)


def test_a_subject_alone_has_no_ceiling():
    models, data = study()
    alone = np.array([[0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [1, 1, 2, 3, 3], [0, 2, 2, 4, 4]])
    stimuli = np.tile(np.arange(8), (4, 1))
    stimuli[:, 0] = [3, 4, 5, 6]
    for method in ("corr", "spearman", "tau-a"):
        found = ours(models, data, method, "both", (alone, stimuli))
        assert np.isnan(found.noise_ceiling[:, 0, 0, :2]).all()
        assert np.isfinite(found.noise_ceiling[:, 0, 0, 2]).all()
        assert np.isfinite(found.noise_ceiling[:, 1:]).all()
        assert np.isfinite(found.model_var).all()
        assert np.isfinite(found.noise_ceil_var).all()
        own = found.evaluations[:, :, 0, 0, 0]
        assert_allclose(found.variances[0][:3, :3], np.cov(own.T))


def test_draws():
    rng = np.random.default_rng(0)
    few = draw(3, 4, "both", 500, rng)
    assert (few.subjects.sum(1) == 3).all()
    assert (few.stimuli.sum(1) == 4).all()
    assert ((few.stimuli > 0).sum(1) >= 3).all()
    again = draw(3, 4, "both", 500, np.random.default_rng(0))
    assert (again.stimuli == few.stimuli).all()
    many = draw(50, 60, "both", 2000, rng)
    assert_allclose(many.subjects.mean(0), 1, atol=0.1)
    assert_allclose(many.stimuli.mean(0), 1, atol=0.1)
    assert draw(1, 5, "stimuli", 3, rng).subjects is None
    with pytest.raises(NeurordlError, match="one subject cannot be resampled"):
        draw(1, 5, "both", 3, rng)
    for n in (2, 3):  # all draws that are left of three stimuli are the same
        with pytest.raises(NeurordlError, match="3 or more distinct stimuli"):
            draw(4, n, "stimuli", 3, rng)
    with pytest.raises(NeurordlError, match="n=1: expected a whole number of at least 2"):
        draw(4, 5, "stimuli", 1, rng)
    with pytest.raises(NeurordlError, match="resample 1 holds fewer than three distinct"):
        Draws.from_indices(None, [[0, 1, 2], [0, 1, 1]], 3, 3)
    for wrong in ([[0, 3, 2]], [[-1, 0, 2]], [0, 1, 2], [[0.5, 1, 2]]):
        with pytest.raises(NeurordlError, match="indices from 0 to 2"):
            Draws.from_indices(wrong, None, 3, 3)


def test_what_is_refused():
    models, data = study()
    with pytest.raises(NeurordlError, match="bootstrap='rdm'"):
        infer(models, data, "corr", "rdm")
    with pytest.raises(NeurordlError, match="resample='rdm'"):
        Bootstrap("rdm")
    with pytest.raises(NeurordlError, match="comparison='pearson'"):
        infer(models, data, "pearson")
    stimuli = draw(5, 8, "stimuli", 3, np.random.default_rng(0))
    for resample in ("both", "subjects", None):
        with pytest.raises(NeurordlError, match="draws"):
            infer(models, data, "corr", resample, draws=stimuli)
    one = infer(models, data[:1], "corr")
    assert one.model_var is None
    assert np.isnan(interval(one)).all()
    with pytest.raises(NeurordlError, match="no variance"):
        p_values(one)
    for options in ({"correction": "fwer"}, {"center": "mean"}):
        with pytest.raises(NeurordlError, match="expected one of"):
            p_values(infer(models, data, "corr"), **options)


def test_one_subject_generalizes_to_stimuli_only():
    models, data = study(2, 1, 12)
    found = infer(models, data, "corr", Bootstrap("stimuli", n=50))
    assert np.isnan(found.ceiling).all()
    assert np.isnan(found.noise_ceiling).all()
    assert found.variances is not None
    assert found.variances.shape == (2, 2)
    p = p_values(found)
    assert np.isfinite(p.zero).all()
    assert np.isnan(p.ceiling).all()
    assert "stimuli" in found.estimand


def test_what_is_undefined_is_nan_without_harm():
    models, data = study()
    models[1] = 0.5
    found = infer(models, data, "corr", Bootstrap("both", n=20))
    assert np.isnan(found.means[1])
    assert np.isfinite(found.model_var).tolist() == [True, False, True]
    assert np.isfinite(p_values(found).zero).tolist() == [True, False, True]
    data[2] = 0.1
    again = infer(models[[0, 2]], data, "corr", Bootstrap("both", n=20))
    assert np.isnan(again.scores[:, 2]).all()
    assert np.isfinite(again.means).all()
    assert np.isfinite(again.noise_ceiling).mean() > 0.9  # but for one subject beside the constant one
    assert (again.model_var > 0).all()


@pytest.mark.parametrize("resample", ["stimuli", "both"])
@pytest.mark.parametrize("method", RESAMPLED)
def test_models_that_miss_different_pairs(method, resample):
    """Each is scored as if it were alone; ceilings are of the pairs that all models have."""
    models, data = study()
    drawn = draw(5, 8, resample, 6, np.random.default_rng(0))
    models[0, 3], models[1, 5], models[2, 6] = np.nan, np.nan, np.nan
    found = infer(models, data, method, resample, draws=drawn)
    for k in range(3):
        alone = infer(models[k : k + 1], data, method, resample, draws=drawn)
        assert_allclose(found.scores[k], alone.scores[0], atol=1e-12)
        assert_allclose(found.evaluations[:, k], alone.evaluations[:, 0], atol=1e-12)
    data[:, [3, 5, 6]] = np.nan
    shared = infer(models[:1], data, method, resample, draws=drawn)
    assert_allclose(found.noise_ceiling, shared.noise_ceiling, atol=1e-12)


def test_a_ceiling_that_is_undefined_where_subjects_are_drawn():
    models, data = study(n_subjects=2)
    drawn = Draws.from_indices([[0, 0], [1, 1]], [[0, 1, 2, 3], [4, 5, 6, 7]], 2, 8)
    found = infer(models, data, "corr", "both", draws=drawn)
    assert np.isnan(found.noise_ceiling[..., :2]).all()
    assert np.isfinite(found.noise_ceiling[..., 2]).all()
    assert found.variances.shape == (3, 3, 3)
    assert np.isfinite(found.variances).all()


def test_the_center_may_be_the_data():
    models, data = study(n=12)
    found = infer(models, data, "corr", Bootstrap("both", n=200))
    low, high = interval(found, center="data")
    assert_allclose((low + high) / 2, found.scores.mean(1))
    t = found.scores.mean(1) / np.sqrt(found.model_var)
    assert_allclose(p_values(found, center="data").zero, stats.t.sf(t, 4))


def test_corrections():
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.005])
    assert_allclose(correct(p, "none"), p)
    assert_allclose(correct(p, "bonferroni"), [0.04, 0.16, 0.12, np.nan, 0.02])
    assert_allclose(correct(p, "holm"), [0.03, 0.06, 0.06, np.nan, 0.02])
    assert_allclose(correct(p, "fdr"), [0.02, 0.04, 0.04, np.nan, 0.02])
    for name in CORRECTIONS:
        assert np.isnan(correct(np.array([np.nan]), name)).all()
    models, data = study()
    plain, corrected = (p_values(infer(models, data, "corr"), correction=c) for c in ("none", "holm"))
    i, j = np.triu_indices(3, 1)
    assert_allclose(corrected.pairs[i, j], correct(plain.pairs[i, j], "holm"))
    assert_allclose(corrected.zero, correct(plain.zero, "holm"))
    assert (np.diag(corrected.pairs) == 1).all()


def test_every_method_is_resampled_or_refused():
    assert {*RESAMPLED, "bures", "cka", "neg_riem_dist"} == set(METHODS)
