"""Variances by components: against a plain loop and known truths; what is undefined; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import RDMs
from scipy import stats
from scipy.spatial.distance import pdist, squareform

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.inference.infer import infer, interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap, Draws


def study(n_models: int = 3, n_subjects: int = 4, n: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 5))
    models = truth + rng.normal(size=(n_models, n, 5)) * np.arange(1, n_models + 1)[:, None, None]
    data = truth + 2 * rng.normal(size=(n_subjects, n, 5))
    return tuple(np.stack([pdist(one, "sqeuclidean") for one in x]) for x in (models, data))


def drawn(n_subjects: int, n: int, resample: str, size: int, seed: int) -> Draws:
    names = [list(map(str, range(k))) for k in (n_subjects, n)]
    return Bootstrap(resample, n=size, seed=seed).draw(*names)


def by_components(resample: str) -> Bootstrap:
    return Bootstrap(resample, variance="components")


def score(model: np.ndarray, data: np.ndarray, drawn: np.ndarray, method: str) -> float:
    """Similarity of two square RDMs in a resample, pair by pair."""
    a, b = [], []
    for first in range(len(drawn)):
        for second in range(first + 1, len(drawn)):
            i, j = drawn[first], drawn[second]
            if i != j and np.isfinite(model[i, j]) and np.isfinite(data[i, j]):
                a.append(model[i, j])
                b.append(data[i, j])
    if method == "cosine":
        return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
    if method == "spearman":
        a, b = stats.rankdata(a), stats.rankdata(b)
    return float(np.corrcoef(a, b)[0, 1])


def plain(
    models: np.ndarray, data: np.ndarray, method: str, counts: np.ndarray, resample: str
) -> tuple[np.ndarray, list[float]]:
    """Variances of each model and of each difference, by loops over pairs of subjects."""
    squares = [[squareform(one, checks=False) for one in x] for x in (models, data)]
    n, n_subjects = counts.shape[1], len(data)

    def scores(drawn: np.ndarray) -> np.ndarray:
        return np.array([[score(a, b, drawn, method) for b in squares[1]] for a in squares[0]])

    everyone = scores(np.arange(n))
    left_out = np.array([scores(np.delete(np.arange(n), k)) for k in range(n)])
    resamples = np.array([scores(np.repeat(np.arange(n), times)) for times in counts])

    def variance(contrast: np.ndarray) -> float:
        one, out, drawn = (np.tensordot(x, contrast, (-2, 0)) for x in (everyone, left_out, resamples))
        residuals = []
        for s in range(n_subjects):
            fit = np.linalg.lstsq(counts.astype(float), drawn[:, s], rcond=None)[0]
            residuals.append(drawn[:, s] - counts @ fit)
        jackknife, pairs, couples = 0.0, 0.0, 0
        for s in range(n_subjects):
            for t in range(n_subjects):
                if s == t and resample == "both":
                    continue
                couples += 1
                jackknife += (
                    (n - 1) / n * np.sum((out[:, s] - out[:, s].mean()) * (out[:, t] - out[:, t].mean()))
                )
                pairs += np.sum(residuals[s] * residuals[t]) / (len(counts) - n)
        jackknife, pairs = jackknife / couples, pairs / couples
        found = max(jackknife - 2 * (n - 1) / (n - 2) * pairs, 0) + max(pairs, 0)
        return found + (np.var(one, ddof=1) / n_subjects if resample == "both" else 0)

    each = np.eye(len(models))
    of_models = np.array([variance(one) for one in each])
    i, j = np.triu_indices(len(models), 1)
    return of_models, [variance(each[a] - each[b]) for a, b in zip(i, j, strict=True)]


@pytest.mark.parametrize("holed", [False, True])
@pytest.mark.parametrize("resample", ["stimuli", "both"])
@pytest.mark.parametrize("method", ["cosine", "corr", "spearman"])
def test_a_plain_loop_finds_the_same(method, resample, holed):
    models, data = study()
    if holed:
        data[1, 3] = data[2, 10:12] = np.nan
    draws = drawn(4, 9, resample, 115, 1)
    found = infer(models, data, method, by_components(resample), draws=draws)
    of_models, differences = plain(models, data, method, draws.stimuli, resample)
    assert_allclose(found.model_var, of_models, rtol=1e-9)
    assert_allclose(found.diff_var, differences, rtol=1e-9)
    usual = infer(models, data, method, Bootstrap(resample, variance="bootstrap"), draws=draws)
    for name in ("scores", "evaluations", "noise_ceiling", "variances", "noise_ceil_var"):
        assert_array_equal(getattr(found, name), getattr(usual, name))
    assert (found.dof, found.resampling.variance) == (usual.dof, "components")
    assert usual.resampling.variance == "bootstrap"


@pytest.mark.parametrize("resample", ["stimuli", "both"])
@pytest.mark.parametrize("part", ["stimuli", "pairs", "subjects' pairs"])
def test_each_component_is_counted_once(part, resample):
    """The cosine of a flat model with an RDM is a mean over pairs, here of known parts, by their length."""
    n, n_subjects = 20, 5
    i, j = np.triu_indices(n, 1)

    def draw_data(size: int, rng: np.random.Generator) -> np.ndarray:
        of_stimuli = rng.normal(size=(size, 1, n))
        values = {
            "stimuli": of_stimuli[..., i] + of_stimuli[..., j],
            "pairs": rng.normal(size=(size, 1, len(i))),
            "subjects' pairs": rng.normal(size=(size, n_subjects, len(i))),
        }[part]
        return values + np.zeros((size, n_subjects, len(i)))

    many = draw_data(2000, np.random.default_rng(2))
    truth = np.var((many.mean(-1) / np.sqrt(np.mean(many**2, axis=-1))).mean(-1))
    ratios = np.empty((60, 2))
    for k, data in enumerate(draw_data(60, np.random.default_rng(3))):
        draws = drawn(n_subjects, n, resample, 150, k)
        for place, variance in enumerate(("bootstrap", "components")):
            bootstrap = Bootstrap(resample, variance=variance)
            found = infer(np.ones((1, len(i))), data, "cosine", bootstrap, draws=draws)
            ratios[k, place] = found.model_var[0] / truth
    usual, ours = ratios.mean(axis=0)
    if part == "stimuli":
        assert 0.75 < usual < 1.1
        assert 0.85 < ours < 1.1
    else:  # parts held at 0 or more: what is not there adds something in half of the studies
        assert 2.5 < usual < 3.4
        assert 0.95 < ours < 1.6


def test_what_is_undefined_is_nan_without_harm():
    models, data = study()
    draws = drawn(4, 9, "both", 150, 1)
    want = infer(models, data, "corr", by_components("both"), draws=draws)
    flat = np.ones_like(models[:1])  # no correlation with anything
    holed = np.full_like(models[:1], np.nan)
    more = np.concatenate([models[:1], flat, holed, models[1:]])
    found = infer(more, data, "corr", by_components("both"), draws=draws)
    assert_allclose(found.model_var[[0, 3, 4]], want.model_var, rtol=1e-9)
    assert np.isnan(found.model_var[[1, 2]]).all()
    i, j = np.triu_indices(5, 1)
    live = ~np.isin(i, (1, 2)) & ~np.isin(j, (1, 2))
    assert_allclose(found.diff_var[live], want.diff_var, rtol=1e-9)
    assert np.isnan(found.diff_var[~live]).all()
    # a subject without a pair is none; one model undefined in one subject has no variance
    alone = infer(
        models,
        np.concatenate([data, holed]),
        "corr",
        by_components("stimuli"),
        draws=Draws(None, draws.stimuli),
    )
    same = infer(models, data, "corr", by_components("stimuli"), draws=Draws(None, draws.stimuli))
    assert_allclose(alone.model_var, same.model_var, rtol=1e-9)
    nothing = infer(flat, data, "corr", by_components("both"), draws=draws)
    assert np.isnan(nothing.model_var).all()
    nowhere = infer(models, np.ones_like(data), "corr", by_components("both"), draws=draws)
    assert np.isnan(nowhere.model_var).all()
    assert nowhere.diff_var.shape == (3,)


def test_one_subject_generalizes_to_stimuli_only():
    models, data = study(n_subjects=1)
    found = infer(models, data, "corr", Bootstrap("stimuli", n=150, variance="components"))
    assert (found.model_var > 0).all()
    again = infer(
        models, np.repeat(data, 3, axis=0), "corr", Bootstrap("stimuli", n=150, variance="components")
    )
    assert_allclose(again.model_var, found.model_var, rtol=1e-9)


def test_what_is_refused():
    models, data = study()
    with pytest.raises(NeurordlError, match="needs resampled stimuli"):
        by_components("subjects")
    with pytest.raises(NeurordlError, match="variance='jackknife'"):
        Bootstrap("both", variance="jackknife")
    with pytest.raises(NeurordlError, match="109 or more defined resamples of 9 stimuli, but there are 108"):
        infer(models, data, "corr", Bootstrap("both", n=108, variance="components"))
    draws = Draws.from_indices(None, np.array([[0, 1, 2]] * 200), 4, 3)
    with pytest.raises(NeurordlError, match="needs 4 stimuli or more, not 3"):
        infer(models[:, :3], data[:, :3], "corr", by_components("stimuli"), draws=draws)


def test_evaluate_takes_and_records_it():
    models, data = study()
    ids = {"stimulus": [f"s{k}" for k in range(9)]}
    teachers = RDMs(models, pattern_descriptors=ids, rdm_descriptors={"name": ["a", "b", "c"]})
    brains = RDMs(data, pattern_descriptors=ids, rdm_descriptors={"subject": list("wxyz")})
    bootstrap = Bootstrap("both", n=150, variance="components")
    found = nrl.evaluate(teachers, brains, comparison="corr", bootstrap=bootstrap)
    rsatoolbox = Bootstrap("both", n=150, variance="bootstrap")
    usual = nrl.evaluate(teachers, brains, comparison="corr", bootstrap=rsatoolbox)
    want = infer(models, data, "corr", bootstrap)
    low, high = interval(want, center="data")
    means, before = (one.to_frame().query("subject == 'mean'") for one in (found, usual))
    assert_allclose(means["ci_low"], low, atol=1e-12)
    assert_allclose(means["ci_high"], high, atol=1e-12)
    assert_allclose(means["p"], p_values(want, center="data").zero, atol=1e-12)
    assert_array_equal(means["p_ceiling"], before["p_ceiling"])
    assert (found.settings["variance"], usual.settings["variance"]) == ("components", "bootstrap")
    assert nrl.evaluate(teachers, brains, comparison="corr").settings["variance"] is None
    assert "variances by components" in found.title
    assert "variances" not in usual.title


def test_undefined_variances_have_a_reason_and_subjects_without_a_score_do_not_count():
    models, data = study(n_models=2, n_subjects=5)
    square = np.zeros((9, 9))
    square[0, 1:] = square[1:, 0] = 1  # constant once the first stimulus is left out
    models[1] = squareform(square)
    data[2] = 1.0  # says nothing
    ids = {"stimulus": [f"s{k}" for k in range(9)]}
    teachers = RDMs(models, pattern_descriptors=ids, rdm_descriptors={"name": ["a", "b"]})
    brains = RDMs(data, pattern_descriptors=ids, rdm_descriptors={"subject": list("vwxyz")})
    bootstrap = Bootstrap("both", n=300, variance="components")
    found = nrl.evaluate(teachers, brains, comparison="corr", bootstrap=bootstrap)
    means = found.to_frame().query("subject == 'mean'").set_index("layer")
    assert np.isfinite(means.loc["a", "p"])
    assert np.isnan(means.loc["b", "p"])
    assert "no variance by components" in means.loc["b", "reason"]
    assert next(iter(found.inferences.values())).dof == 3


@pytest.mark.parametrize("resample", ["stimuli", "both"])
def test_models_that_differ_by_rounding_have_no_variance_of_their_difference(resample) -> None:
    """A correlation is the same for a scaled model, but its last digits are not."""
    rng = np.random.default_rng(5)
    model, other = rng.random((2, 66))
    models = np.stack([model, *(factor * model + 0.1 for factor in (3, 1 / 7, 1e4)), other])
    inference = infer(models, model + rng.random((6, 66)), "corr", Bootstrap(resample, n=200))
    j = np.triu_indices(5, 1)[1]
    assert_array_equal(inference.diff_var[j < 4], 0)
    assert (inference.diff_var[j == 4] > 1e-5).all()
