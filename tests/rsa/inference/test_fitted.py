"""Fitted models, cross-validation and permutation: rsatoolbox's fitters and evaluations as oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.inference import bootstrap_crossval, crossval, eval_dual_bootstrap
from rsatoolbox.inference.crossvalsets import sets_k_fold
from rsatoolbox.model import ModelFixed, ModelSelect, ModelWeighted
from rsatoolbox.model.fitter import fit_mock, fit_regress_nn, fit_select
from rsatoolbox.rdm import RDMs
from rsatoolbox.util.matrix import get_v
from rsatoolbox.util.pooling import pool_rdm
from scipy.optimize import minimize, nnls
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference import resampling
from neurordl.rsa.inference.fitted import (
    Folds,
    Model,
    cross_validate,
    fit_model,
    infer_fitted,
    nonnegative,
)
from neurordl.rsa.inference.infer import interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap, Draws, Jackknife, NoResampling
from neurordl.rsa.reliability import permutation_p
from tests.helpers import random_rdms

METHODS = [name for name, entry in COMPARISONS.items() if entry.higher_is_better]

GRAM = ["cosine", "corr", "cosine_cov", "corr_cov"]
N, SUBJECTS = 12, 6


def study(seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(3, n, 5))
    rdms = np.stack([pdist(part, "sqeuclidean") for part in parts]) * np.array([1, 10, 0.1])[:, None]
    rdms /= 1e4  # rsatoolbox's least squares never end where products are large
    truth = np.concatenate([parts[0], 2 * parts[1]], axis=1)
    data = np.stack([pdist(truth + rng.normal(size=truth.shape), "sqeuclidean") for _ in range(SUBJECTS)])
    return rdms, data


def models(rdms: np.ndarray) -> list[Model]:
    return [Model("f", rdms[:1]), Model("s", rdms, "select"), Model("w", rdms, "weighted")]


def theirs(rdms: np.ndarray) -> list:
    return [ModelFixed("f", RDMs(rdms[:1])), ModelSelect("s", RDMs(rdms)), ModelWeighted("w", RDMs(rdms))]


def fit_nnls(model, data, method, pattern_idx, pattern_descriptor) -> np.ndarray:
    """rsatoolbox's ``fit_regress_nn`` through scipy, with dense covariances: its own may never end."""
    vectors = model.rdm_obj.subsample_pattern(pattern_descriptor, pattern_idx).get_vectors()
    target = pool_rdm(data, method=method).get_vectors()[0]
    kept = np.isfinite(target)
    vectors, target = vectors[:, kept], target[kept]
    if method.startswith("corr"):
        vectors, target = vectors - vectors.mean(1, keepdims=True), target - target.mean()
    if method.endswith("cov"):
        covariance = get_v(data.n_cond, None).toarray()[kept][:, kept]
        vectors, target = (np.linalg.solve(np.linalg.cholesky(covariance), x.T).T for x in (vectors, target))
    theta, _ = nnls(vectors.T, target)
    return theta / np.linalg.norm(theta)


FITTERS = [fit_mock, fit_select, fit_nnls]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("method", GRAM)
def test_fits_equal_rsatoolbox(method, missing):
    rdms, data = study()
    if missing:
        rdms[:, [3, 20]] = data[:, [3, 20]] = np.nan
    _, select, weighted = models(rdms)
    theta = fit_model(weighted, data, method)
    want = fit_regress_nn(ModelWeighted("w", RDMs(rdms)), RDMs(data), method=method)
    # it pools what is whitened by conjugate gradients
    assert_allclose(theta, want, atol=1e-4 if method.endswith("cov") else 1e-9)
    assert np.linalg.norm(theta) == pytest.approx(1)
    chosen = fit_model(select, data, method)
    assert chosen.argmax() == fit_select(ModelSelect("s", RDMs(rdms)), RDMs(data), method=method)
    assert chosen.sum() == 1


@pytest.mark.parametrize("method", GRAM)
def test_weights_are_optimal(method):
    rdms, data = study(3)
    theta = fit_model(Model("w", rdms, "weighted"), data, method)

    def loss(logs: np.ndarray) -> float:
        return -float(similarity((np.exp(logs) @ rdms)[None], data, method).mean())

    best = minimize(
        loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-13}
    )
    assert similarity((theta @ rdms)[None], data, method).mean() >= -best.fun - 1e-8
    assert (theta >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits(method):
    rdms, data = study(4, n=8)
    for model in models(rdms):
        theta = fit_model(model, data, method)
        assert (theta >= 0).all()
        assert theta.max() > 0


def test_an_uninformative_model_rdm_gets_no_weight():
    rdms, data = study()
    want = fit_model(Model("w", rdms, "weighted"), data, "corr")
    more = np.concatenate([rdms, np.full((1, rdms.shape[1]), 0.2), rdms[:1]])
    theta = fit_model(Model("w", more, "weighted"), data, "corr")
    assert theta[3] == 0
    assert_allclose(
        similarity((theta @ more)[None], data, "corr"), similarity((want @ rdms)[None], data, "corr")
    )
    for combine in ("select", "weighted"):
        with pytest.raises(NeurordlError, match=r"(?s)model 'm' .*training"):
            fit_model(Model("m", np.ones((2, 66)), combine), data, "corr")


def test_models_are_checked():
    rdms, _ = study()
    with pytest.raises(NeurordlError, match="combine='interpolate'"):
        Model("f", rdms, "interpolate")
    with pytest.raises(NeurordlError, match="model 'f' takes RDMs"):
        Model("f", rdms[0])
    assert [model.fit for model in models(rdms)] == ["fixed", "select", "weighted"]


@pytest.mark.parametrize("k_subjects, k_stimuli", [(1, 1), (1, 3), (2, 1), (4, 2), (5, 4)])
def test_folds_are_those_of_rsatoolbox(k_subjects, k_stimuli):
    data = RDMs(np.random.default_rng(0).random((7, 91)))
    train, test, _ = sets_k_fold(data, k_rdm=k_subjects, k_pattern=k_stimuli, random=False)
    folds = Folds(k_subjects, k_stimuli).split(np.arange(7), np.arange(14))
    assert len(folds) == len(train)
    for fold, fit_to, test_on in zip(folds, train, test, strict=True):
        assert sorted(fold.train_stimuli) == sorted(fit_to[1])
        assert sorted(fold.test_stimuli) == sorted(test_on[1])
        assert sorted(fold.train_subjects) == sorted(fit_to[0].rdm_descriptors["index"])
        assert sorted(fold.test_subjects) == sorted(test_on[0].rdm_descriptors["index"])


def test_random_folds_partition_the_stimuli():
    folds = Folds(3, 4).split(np.arange(7), np.arange(14), np.random.default_rng(0))
    for fold in folds:
        assert not set(fold.train_subjects) & set(fold.test_subjects)
        assert not set(fold.train_stimuli) & set(fold.test_stimuli)
    assert sorted(s for fold in folds[:4] for s in fold.test_stimuli) == list(range(14))
    with pytest.raises(NeurordlError, match="5 folds take 15, but there are 14"):
        Folds(1, 5).split(np.arange(7), np.arange(14))
    with pytest.raises(NeurordlError, match="8 folds of subjects"):
        Folds(8, 1).split(np.arange(7), np.arange(14))


@pytest.mark.parametrize("k_subjects, k_stimuli", [(2, 3), (3, 1), (1, 2)])
@pytest.mark.parametrize("method", GRAM)
def test_cross_validation_equals_rsatoolbox(method, k_subjects, k_stimuli):
    rdms, data = study()
    train, test, ceil = sets_k_fold(RDMs(data), k_rdm=k_subjects, k_pattern=k_stimuli, random=False)
    want = crossval(theirs(rdms), RDMs(data), train, test, ceil, method=method, fitter=list(FITTERS))
    folds = Folds(k_subjects, k_stimuli).split(np.arange(SUBJECTS), np.arange(N))
    evaluations, ceilings, _ = cross_validate(models(rdms), data, method, folds)
    assert_allclose(evaluations[:2], want.evaluations[0, :2], atol=1e-10)
    assert_allclose(evaluations[2], want.evaluations[0, 2], atol=1e-4 if method.endswith("cov") else 1e-10)
    means = ceilings.mean(axis=1)
    assert means[1] == pytest.approx(want.noise_ceiling[1], abs=1e-10)
    if k_subjects > 1:
        assert means[0] == pytest.approx(want.noise_ceiling[0], abs=1e-10)
    else:  # there, subjects predict themselves
        assert means[0] < want.noise_ceiling[0]


@pytest.mark.parametrize("resample", ["subjects", "stimuli", "both"])
@pytest.mark.parametrize("method", ["corr", "cosine"])
def test_bootstrapped_cross_validation_equals_rsatoolbox(method, resample, monkeypatch):
    rdms, data = study()
    rng = np.random.default_rng(1)
    subjects, stimuli = [], []
    while len(subjects) < 6:
        one, other = rng.integers(0, SUBJECTS, SUBJECTS), rng.integers(0, N, N)
        if len(set(one)) > 2 and len(set(other)) > 6:
            subjects.append(one)
            stimuli.append(other)
    order = {
        "subjects": subjects,
        "stimuli": stimuli,
        "both": [one for pair in zip(subjects, stimuli, strict=True) for one in pair],
    }[resample]
    left = iter(order)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: next(left))
    monkeypatch.setattr(np.random, "shuffle", lambda items: None)
    options = {"k_pattern": 2, "k_rdm": 2, "N": 6, "n_cv": 2, "method": method, "fitter": list(FITTERS)}
    if resample == "both":
        want = eval_dual_bootstrap(theirs(rdms), RDMs(data), **options)
    else:
        kind = {"subjects": "rdm", "stimuli": "pattern"}[resample]
        want = bootstrap_crossval(theirs(rdms), RDMs(data), boot_type=kind, **options)
    draws = Draws.from_indices(
        None if resample == "stimuli" else subjects, None if resample == "subjects" else stimuli, SUBJECTS, N
    )
    found = infer_fitted(models(rdms), data, method, Bootstrap(resample), Folds(2, 2, seed=None), draws=draws)
    for name in ("evaluations", "noise_ceiling", "variances", "model_var", "diff_var", "noise_ceil_var"):
        assert_allclose(getattr(found, name), getattr(want, name), atol=1e-10, err_msg=name)
    assert (found.dof, found.cv_method) == (want.dof, want.cv_method)
    assert_allclose(found.means, want.get_means(), atol=1e-10)


def test_an_overfitted_model_gains_nothing_on_new_stimuli():
    rng = np.random.default_rng(5)
    noise = np.stack([pdist(rng.normal(size=(N, 4)), "sqeuclidean") for _ in range(20)])
    data = np.stack([pdist(rng.normal(size=(N, 4)), "sqeuclidean") for _ in range(4)])
    model = Model("noise", noise, "weighted")
    fitted = similarity((fit_model(model, data, "corr") @ noise)[None], data, "corr").mean()
    folds = Folds(1, 3).split(np.arange(4), np.arange(N), rng)
    held_out, _, _ = cross_validate([model], data, "corr", folds)
    assert fitted > 0.2
    assert held_out.mean() < fitted / 2


def test_what_infer_fitted_refuses_and_gives():
    rdms, data = study()
    few = Bootstrap("both", n=4)
    once = infer_fitted(models(rdms), data, "corr", NoResampling())
    with pytest.raises(NeurordlError, match=r"Folds.stimuli=0: expected a whole number of at least 1"):
        Folds(stimuli=0, subjects=2)
    assert once.model_var is None
    assert once.evaluations.shape == (1, 3, 200)
    assert infer_fitted(models(rdms), data, "corr", NoResampling(), Folds(splits=3)).scores.shape == (3, 6)
    found = infer_fitted(models(rdms), data, "rho-a", few, Folds(subjects=2))
    assert found.evaluations.shape == (4, 3, 4, 2, 3)
    assert np.isfinite(found.evaluations).all()
    unsplit = infer_fitted(models(rdms), data, "corr", few, Folds(stimuli=1))
    assert unsplit.evaluations.shape == (4, 3, 1, 1, 3)
    with pytest.raises(NeurordlError, match=r"Folds\(splits=2\)"):
        infer_fitted(models(rdms), data, "corr", few, Folds(splits=1))
    with pytest.raises(NeurordlError, match="distinct stimuli"):
        infer_fitted(models(rdms), data, "corr", few, Folds(stimuli=4))
    with pytest.raises(NeurordlError, match="complete RDMs"):
        infer_fitted(models(rdms), data, "cka", few)


# the jackknife, by plain loops


def plain_similarity(a: np.ndarray, b: np.ndarray, method: str, used: np.ndarray, n: int) -> float:
    """Similarity of two condensed RDMs of n stimuli on the pairs that are used and measured in both."""
    used = used & np.isfinite(a) & np.isfinite(b)
    a, b = a[used], b[used]
    if method == "spearman":
        a, b, method = rankdata(a), rankdata(b), "corr"
    if method == "corr":
        a, b = a - a.mean(), b - b.mean()
    if method == "cosine_cov":
        root = np.linalg.cholesky(get_v(n, None).toarray()[used][:, used])
        a, b = np.linalg.solve(root, a), np.linalg.solve(root, b)
    lengths = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / lengths) if lengths > 1e-12 else np.nan


def plain_weights(rdms: np.ndarray, data: np.ndarray, method: str, used: np.ndarray, n: int) -> np.ndarray:
    """SciPy's non-negative least squares against the sum of the subjects at unit length."""
    used = used & np.isfinite(rdms).all(0) & np.isfinite(data).all(0)
    x, y = rdms[:, used], data[:, used]
    if method in ("corr", "spearman"):
        x, y = (part - part.mean(1, keepdims=True) for part in (x, y))
    if method == "cosine_cov":
        root = np.linalg.cholesky(get_v(n, None).toarray()[used][:, used])
        x, y = (np.linalg.solve(root, part.T).T for part in (x, y))
    return nnls(x.T, (y / np.linalg.norm(y, axis=1, keepdims=True)).sum(0))[0]


def plain_score(model: Model, data: np.ndarray, method: str, folds: list, keep: tuple) -> float:
    """Mean over folds, of the subjects and stimuli that are kept only: rows are deleted."""
    n = round((1 + np.sqrt(1 + 8 * data.shape[1])) / 2)
    i, j = np.triu_indices(n, 1)
    scores = []
    for fold in folds:
        subjects, stimuli = (
            [[k for k in part if k in kept] for part in parts]
            for parts, kept in (
                ((fold.train_subjects, fold.test_subjects), keep[0]),
                ((fold.train_stimuli, fold.test_stimuli), keep[1]),
            )
        )
        fit_to, test_on = (np.isin(i, part) & np.isin(j, part) for part in stimuli)
        train, test = (data[part] for part in subjects)
        if not len(test):
            continue
        if len(model.rdms) == 1:
            prediction = model.rdms[0]
        elif model.combine == "select":
            means = [
                np.nanmean([plain_similarity(rdm, row, method, fit_to, n) for row in train])
                for rdm in model.rdms
            ]
            prediction = model.rdms[int(np.argmax(np.round(means, 12)))]
        else:
            prediction = plain_weights(model.rdms, train, method, fit_to, n) @ model.rdms
        known = prediction[test_on & np.isfinite(prediction)]
        if np.ptp(known) <= 1e-12 * np.abs(known).max():
            scores.append(0.0)
        else:
            scores.append(np.mean([plain_similarity(prediction, row, method, test_on, n) for row in test]))
    return float(np.mean(scores))


def plain_jackknife(model: Model, data: np.ndarray, method: str, folds: list, pairs: list) -> list[float]:
    """Score, and variance of subjects, of stimuli, of their interaction and of pairs of stimuli."""
    n, m = len(data), round((1 + np.sqrt(1 + 8 * data.shape[1])) / 2)
    table = np.empty((n + 1, m + 1))
    for a in range(n + 1):
        for b in range(m + 1):
            keep = set(range(n)) - {a - 1}, set(range(m)) - {b - 1}
            table[a, b] = plain_score(model, data, method, folds, keep)
    subjects = (n - 1) / n * sum((table[1:, 0] - table[1:, 0].mean()) ** 2)
    stimuli = (m - 1) / m * sum((table[0, 1:] - table[0, 1:].mean()) ** 2)
    effects = table[0, 0] - table[1:, :1] - table[:1, 1:] + table[1:, 1:]
    effects = effects - effects.mean(0) - effects.mean(1)[:, None] + effects.mean()
    interaction = (n - 1) / n * (m - 1) / m * (effects**2).sum()
    second = []
    for i, j in pairs:
        without = plain_score(model, data, method, folds, (set(range(n)), set(range(m)) - {i, j}))
        second.append((table[0, 0] - table[0, 1 + i] - table[0, 1 + j] + without) ** 2)
    second = m * (m - 1) / 2 * np.mean(second)
    return [table[0, 0], subjects, stimuli, interaction, second]


def plain_variances(
    subjects: float, stimuli: float, interaction: float, second: float
) -> tuple[float, float]:
    """Variance of stimuli, and of subjects and stimuli, with that of several stimuli counted less often."""
    share = max(1 / (1 + second / stimuli), 0.5) if stimuli > 0 else 1
    return share * stimuli, max(subjects + share * (stimuli - interaction), subjects, share * stimuli)


JACKKNIVES = [
    ("corr", Folds(1, 2, splits=2), "none"),
    ("cosine", Folds(2, 2, splits=1), "none"),
    ("cosine_cov", Folds(1, 2, splits=1, seed=4), "alike"),
    ("corr", Folds(3, 1, splits=1), "alike"),
    ("corr", Folds(1, 2, splits=1), "unlike"),
    ("spearman", Folds(2, 2, splits=1), "none"),
    ("spearman", Folds(1, 2, splits=1), "unlike"),
]


@pytest.mark.parametrize("method, folds, missing", JACKKNIVES)
def test_the_jackknife_equals_plain_loops(method, folds, missing, monkeypatch):
    monkeypatch.setattr(resampling, "_COUPLES", 8)
    pairs = Jackknife("both").pairs(np.arange(13), folds.stimuli).tolist()
    assert len({tuple(pair) for pair in pairs if pair[0] < pair[1]}) == 8
    rdms, data = study(2, n=13)  # with fewer, weights of three RDMs are not unique in a fold
    rdms, data = rdms * 1e3, data[:5]
    if missing == "alike":
        data[:, 7] = rdms[:, 11] = np.nan
    if missing == "unlike":
        data[0, 3] = data[1, [5, 20]] = np.nan
    models = [Model("f", rdms[:1]), Model("s", rdms[1:], "select"), Model("w", rdms, "weighted")]
    parts = folds.all_folds(5, 13)
    found = infer_fitted(models, data, method, Jackknife("both"), folds)
    assert found.dof == 4
    for k, model in enumerate(models):
        want = plain_jackknife(model, data, method, parts, pairs)
        assert found.means[k] == pytest.approx(want[0], abs=1e-10)
        assert_allclose(found.variances[:, k, k], want[1:], rtol=1e-7, atol=1e-12, err_msg=model.name)
        alone, both = plain_variances(*want[1:])
        assert found.model_var[k] == pytest.approx(both, rel=1e-7)
        assert infer_fitted([model], data, method, Jackknife("subjects"), folds).model_var == pytest.approx(
            [want[1]], rel=1e-7
        )
        assert infer_fitted([model], data, method, Jackknife("stimuli"), folds).model_var == pytest.approx(
            [alone], rel=1e-7
        )
    difference = found.variances[:, 0, 0] + found.variances[:, 2, 2] - 2 * found.variances[:, 0, 2]
    assert found.diff_var[1] == pytest.approx(plain_variances(*difference)[1])
    assert np.isnan(found.noise_ceil_var).all()


@pytest.mark.parametrize("n_rdms", [2, 8, 12])
def test_weights_equal_nnls_of_scipy(n_rdms):
    rng = np.random.default_rng(n_rdms)
    patterns = rng.normal(size=(6, 9, n_rdms)) + rng.normal(size=(6, 9, 1))
    goals = rng.normal(size=(6, 5, 9)) + 0.3
    grams = patterns.swapaxes(1, 2) @ patterns
    grams[0, :, 0] = grams[0, 0] = 0  # a constant RDM
    found = nonnegative(grams, goals @ patterns * (grams[:, None].diagonal(axis1=-2, axis2=-1) > 0))
    patterns[0, :, 0] = 0
    for fold in range(6):
        for row in range(5):
            want, residual = nnls(patterns[fold], goals[fold, row])
            theirs = np.linalg.norm(patterns[fold] @ found[fold, row] - goals[fold, row])
            assert theirs == pytest.approx(residual, abs=1e-8)
            if n_rdms < 9:
                assert_allclose(found[fold, row], want, atol=1e-8)


def test_splits_add_less_than_5_percent_of_the_variance():
    rng = np.random.default_rng(3)
    for signal in (True, False):
        parts = rng.normal(size=(3, 20, 4))
        rdms = np.stack([pdist(part, "sqeuclidean") for part in parts])
        truth = parts.transpose(1, 0, 2).reshape(20, -1) if signal else rng.normal(size=(20, 12))
        data = np.stack([pdist(truth + rng.normal(size=(20, 12)), "sqeuclidean") for _ in range(8)])
        model = [Model("w", rdms, "weighted")]
        folds = [Folds(seed=seed) for seed in range(12)]
        scores = [cross_validate(model, data, "corr", x.all_folds(8, 20))[0].mean() for x in folds]
        found = infer_fitted(model, data, "corr", Jackknife("both"), folds[0])
        assert found.means[0] == pytest.approx(scores[0])
        assert np.var(scores, ddof=1) < 0.05 * found.model_var[0]
        again = infer_fitted(model, data, "corr", Jackknife("both"), folds[0])
        assert (again.means, again.model_var) == (found.means, found.model_var)


def test_zero_weights_score_zero_and_are_counted():
    """A model whose RDMs are opposite to the data has no weight; it scored NaN, and vanished, before."""
    _, data = study()
    model = Model("opposite", 1 - data[:2] / data.max(), "weighted")
    for comparison in ("corr", "spearman", "tau-a"):
        with pytest.warns(UserWarning, match="model 'opposite': all weights are 0.* in 20 of 20 folds"):
            found = infer_fitted([model], data, comparison, NoResampling(), Folds(splits=10))
        assert_allclose(found.scores, 0)
    halves = np.repeat([0, 1], 6)
    groups = (halves[:, None] != halves)[np.triu_indices(12, 1)].astype(float)
    with pytest.warns(UserWarning, match=r"model 'groups': .* in 2 of 2 folds: score 0"):
        found = infer_fitted([Model("groups", groups[None])], data, "corr", NoResampling(), Folds(seed=None))
    assert_allclose(found.scores, 0)  # each half holds a single group
    with pytest.warns(UserWarning, match="score nan"):
        infer_fitted([model], data, "neg_riem_dist", NoResampling(), Folds(splits=1))


def test_a_jackknife_is_for_fitted_models():
    named, brain = containers()
    with pytest.raises(NeurordlError, match=r"a Jackknife is for evaluate_fitted.*Bootstrap\('stimuli'\)"):
        nrl.evaluate(named["several"], brain, bootstrap=nrl.Jackknife("stimuli"))
    with pytest.raises(NeurordlError, match="resample='rois'"):
        nrl.Jackknife("rois")
    frame = nrl.evaluate_fitted(named, brain)
    pd.testing.assert_frame_equal(frame, nrl.evaluate_fitted(named, brain, bootstrap=nrl.Jackknife("both")))
    assert set(frame["generalizes_to"]) == {"subjects and stimuli"}
    assert frame[["score", "ci_low", "ci_high", "p"]].notna().to_numpy().all()
    alone = nrl.evaluate_fitted(named, brain, subjects="p1", bootstrap="stimuli")
    assert alone["p"].notna().all()


# permutation


@pytest.mark.parametrize("method", ["corr", "spearman", "tau-a", "cosine", "corr_cov"])
def test_permutation(method, monkeypatch):
    rdms, data = study(6)
    rng = np.random.default_rng(0)
    found = permutation_p(rdms, data, method, n_permutations=99, rng=rng)
    assert found[1] == 0.01  # it is in the truth
    monkeypatch.setattr("neurordl.rsa.ceilings._STACK", 1)
    again = permutation_p(rdms, data, method, n_permutations=99, rng=np.random.default_rng(0))
    assert_allclose(again, found)


def test_permutation_is_level_under_the_null():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(60):
        a, b = (np.stack([pdist(rng.normal(size=(8, 3)), "sqeuclidean")]) for _ in range(2))
        p.append(permutation_p(a, b, "corr", n_permutations=39, rng=rng)[0])
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    constant = permutation_p(np.ones((1, 28)), b, "corr", n_permutations=3, rng=rng)
    assert np.isnan(constant).all()


# by id, from containers


def containers(seed: int = 0) -> tuple[dict[str, RDMs], RDMs]:
    rdms, data = study(seed)
    ids = [f"s{k}" for k in range(N)]
    named = {"one": RDMs(rdms[:1]), "several": RDMs(rdms)}
    for own in named.values():
        own.pattern_descriptors["stimulus"] = ids
    brain = RDMs(
        data,
        rdm_descriptors={"subject": [f"p{k}" for k in range(SUBJECTS)], "roi": ["IT"] * SUBJECTS},
        pattern_descriptors={"stimulus": ids},
    )
    return named, brain


@pytest.mark.parametrize("combine", ["weighted", "select"])
def test_evaluate_fitted_is_infer_fitted_matched_by_id(combine):
    named, brain = containers()
    folds, bootstrap = Folds(subjects=2), Bootstrap("both", n=10, seed=1)
    options = {"combine": combine, "folds": folds, "bootstrap": bootstrap}
    frame = nrl.evaluate_fitted(named, brain, **options)
    own = [
        Model("one", named["one"].dissimilarities),
        Model("several", named["several"].dissimilarities, combine),
    ]
    found = infer_fitted(own, brain.dissimilarities, "corr", bootstrap, folds)
    assert_allclose(frame["score"], found.scores.mean(1))
    assert_allclose(frame[["ci_low", "ci_high"]].to_numpy().T, interval(found, center="data"))
    assert_allclose(frame["p"], p_values(found, center="data").zero)
    assert frame["fit"].tolist() == ["fixed", combine]
    assert set(frame["generalizes_to"]) == {"subjects and stimuli"}
    order = np.random.default_rng(0).permutation(N)
    turned = RDMs(
        brain.get_matrices()[:, order][:, :, order],
        rdm_descriptors=dict(brain.rdm_descriptors),
        pattern_descriptors={"stimulus": [f"s{k}" for k in order]},
    )
    pd.testing.assert_frame_equal(nrl.evaluate_fitted(named, turned, **options), frame)
    once = nrl.evaluate_fitted(named, brain, combine=combine, bootstrap=None)
    assert once[["ci_low", "ci_high", "p"]].isna().to_numpy().all()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"folds": Folds(stimuli=5)}, "5 folds take 15, but there are 12"),
        ({"folds": Folds(stimuli=20)}, "20 folds take 60, but there are 12"),
        ({"folds": Folds(subjects=7)}, "7 folds of subjects"),
        ({"folds": Folds(stimuli=1)}, "'several' is fitted, and nothing is held out"),
        ({"folds": Folds(stimuli=3), "bootstrap": Bootstrap("both")}, "9 or more distinct stimuli each"),
        (
            {"folds": Folds(stimuli=4)},
            "a fold would have fewer than 3 of 12 stimuli in 4",
        ),
        ({"folds": Folds(subjects=6), "subjects": ["p1", "p2", "p3"]}, "6 folds of subjects"),
        ({"subjects": "p1"}, r"without a subject, .* of 1 in 1 fold\(s\)"),
        (
            {"folds": Folds(subjects=2), "subjects": ["p0", "p1"]},
            r"no subject would remain.* of 2 in 2 fold\(s\)",
        ),
        ({"bootstrap": "rdm"}, "bootstrap='rdm'"),
        ({"combine": "mean"}, "combine='mean'"),
        ({"comparison": "pearson"}, "comparison='pearson'"),
        ({"subjects": "p9"}, "p9"),
    ],
)
def test_evaluate_fitted_refuses(options, told):
    named, brain = containers()
    with pytest.raises(NeurordlError, match=told):
        nrl.evaluate_fitted(named, brain, **options)


def test_evaluate_fitted_refuses_models_of_other_stimuli():
    named, brain = containers()
    named["one"].pattern_descriptors["stimulus"] = [f"t{k}" for k in range(N)]
    with pytest.raises(NeurordlError, match="'one' and 'several' have different stimuli"):
        nrl.evaluate_fitted(named, brain)
    with pytest.raises(NeurordlError, match="no id of the models"):
        nrl.evaluate_fitted({"one": named["one"]}, brain)
    with pytest.raises(NeurordlError, match="mapping from the name"):
        nrl.evaluate_fitted(brain, brain)


def test_the_default_variance_of_a_bootstrap_is_chosen_in_one_place():
    ids = [f"s{k}" for k in range(12)]
    assert Bootstrap("both").for_stimuli(ids, {}).variance == "components"
    assert Bootstrap("both").for_stimuli(ids, {}, fitted=True).variance == "bootstrap"
    assert Bootstrap("both", variance="components").for_stimuli(ids, {}, fitted=True).variance == "components"
    assert Bootstrap("subjects").for_stimuli(ids, {}, fitted=True).variance is None


def test_the_printed_table_shows_scores() -> None:
    ids = [f"s{k}" for k in range(16)]
    table = nrl.evaluate_fitted(
        {"model": random_rdms(ids)}, random_rdms(ids, subject=list("abc")), bootstrap=None
    )
    with pd.option_context("display.width", 80, "display.max_columns", 0, "display.expand_frame_repr", False):
        head = str(table).split("\n")[0].split()
    assert head[:3] == ["model", "roi", "score"]
