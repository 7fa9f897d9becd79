"""Ridge weights of fitted models: scikit-learn and plain loops as oracle, and fitted models over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs
from scipy.optimize import nnls
from scipy.stats import spearmanr
from sklearn import linear_model

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.inference.fitted import Fold, Folds, Model, Ridge, cross_validate, fit_model, infer_fitted
from neurordl.rsa.inference.resampling import Jackknife

N, SUBJECTS, FEATURES = 14, 5, 20


def study(seed: int = 0, missing: bool = False) -> tuple[Any, Any]:
    """RDMs of features in different units, of which three count, and of subjects with noise."""
    rng = np.random.default_rng(seed)
    i, j = np.triu_indices(N, 1)
    points = rng.normal(size=(FEATURES, N))
    features = (points[:, i] - points[:, j]) ** 2
    data = 2 * features[0] + features[1] - 0.5 * features[2]
    data = data * rng.uniform(1, 9, (SUBJECTS, 1)) + rng.normal(size=(SUBJECTS, len(i)))
    features *= 10.0 ** rng.integers(-6, 6, (FEATURES, 1))
    if missing:
        data[rng.random(data.shape) < 0.05] = np.nan
    return features, data


def unit(rows: Any) -> Any:
    rows = np.atleast_2d(rows)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def loop(features: Any, data: Any, penalty: float, positive: bool = False) -> Any:
    """Weights of features, by scikit-learn, or by NNLS of SciPy with rows for the penalty; not scaled."""
    lengths = np.linalg.norm(features - features.mean(axis=1, keepdims=True), axis=1)
    x, y = unit(features).T, unit(data).mean(axis=0)
    if positive:
        rows = np.vstack([x, np.sqrt(penalty) * np.eye(len(features))])
        return nnls(rows, np.concatenate([y, np.zeros(len(features))]))[0] / lengths
    return linear_model.Ridge(penalty, fit_intercept=False, solver="cholesky").fit(x, y).coef_ / lengths


def pairs_of(stimuli: Any) -> Any:
    inside = np.zeros(N, dtype=bool)
    inside[stimuli] = True
    i, j = np.triu_indices(N, 1)
    return inside[i] & inside[j]


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("comparison", ["corr", "spearman"])
def test_weights_equal_those_of_other_packages(penalty: float, positive: bool, comparison: str) -> None:
    features, data = study()
    found = fit_model(Model("f", features, Ridge(penalty, positive)), data, comparison)
    expected = loop(features, data, penalty, positive)
    assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-9)
    assert (found < 0).any() != positive


def test_constant_features_have_no_weight() -> None:
    features, data = study()
    features[3] = 2.0
    found = fit_model(Model("f", features, Ridge(0.1)), data, "corr")
    assert found[3] == 0
    expected = loop(np.delete(features, 3, axis=0), data, 0.1)
    assert_allclose(np.delete(found, 3), expected / np.linalg.norm(expected), atol=1e-9)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("comparison", ["corr", "spearman"])
@pytest.mark.parametrize("positive", [False, True])
def test_scores_on_held_out_stimuli_equal_a_loop(missing: bool, comparison: str, positive: bool) -> None:
    features, data = study(1, missing)
    folds = Folds(stimuli=2, splits=3, seed=4).all_folds(SUBJECTS, N)
    model = Model("f", features, Ridge(0.3, positive))
    scores = cross_validate([model], data, comparison, folds)[0][0]
    for fold, score in zip(folds, scores, strict=True):
        train, test = pairs_of(fold.train_stimuli), pairs_of(fold.test_stimuli)
        train &= np.isfinite(data).all(axis=0)
        predicted = loop(features[:, train], data[:, train], 0.3, positive) @ features
        each = []
        for row in data:
            both = test & np.isfinite(row)
            x, y = predicted[both], row[both]
            each.append(spearmanr(x, y)[0] if comparison == "spearman" else np.corrcoef(x, y)[0, 1])
        assert score == pytest.approx(np.mean(each), abs=1e-9)


def halves(stimuli: Any) -> list[tuple[Any, Any]]:
    parts = []
    for seed in range(3):
        order = [k for k in np.random.default_rng(seed).permutation(N) if k in set(stimuli)]
        parts.append((order[::2], order[1::2]))
    return parts


def test_a_penalty_is_chosen_within_the_training_stimuli() -> None:
    features, data = study(2)
    penalties = (0.01, 1.0, 100.0)
    chosen = []
    for fold in Folds(stimuli=2, splits=6, seed=1).all_folds(SUBJECTS, N):
        totals = []
        for penalty in penalties:
            total = 0.0
            for first, second in halves(fold.train_stimuli):
                for fit_to, score_on in ((first, second), (second, first)):
                    train, test = pairs_of(fit_to), pairs_of(score_on)
                    predicted = loop(features[:, train], data[:, train], penalty) @ features[:, test]
                    total += np.mean([np.corrcoef(predicted, row[test])[0, 1] for row in data])
            totals.append(total)
        best = penalties[int(np.argmax(totals))]
        chosen.append(best)
        for comparison in ("corr", "spearman"):
            found, expected = (
                cross_validate([Model("f", features, Ridge(x))], data, comparison, [fold])[0]
                for x in (penalties, best)
            )
            assert_allclose(found, expected, atol=1e-12)
    assert len(set(chosen)) > 1
    # what happens in held-out pairs does not matter
    fold = Fold(np.arange(SUBJECTS), np.arange(7), np.arange(SUBJECTS), np.arange(7, 14))
    changed = np.where(pairs_of(np.arange(7)), data, 7.0 * np.arange(data.shape[1]))
    weights = [
        fit_model(Model("f", features[:, pairs_of(fold.train_stimuli)], Ridge(penalties)), x, "corr")
        for x in (data[:, pairs_of(fold.train_stimuli)], changed[:, pairs_of(fold.train_stimuli)])
    ]
    assert_allclose(*weights)


def test_a_jackknife_fits_without_each_stimulus_and_subject() -> None:
    rng, n = np.random.default_rng(3), 18
    i, j = np.triu_indices(n, 1)
    points = rng.normal(size=(4, n))
    features = (points[:, i] - points[:, j]) ** 2
    data = features[0] + features[1] + rng.normal(size=(SUBJECTS, len(i)))
    model, folds = Model("f", features, Ridge((0.1, 1.0))), Folds(stimuli=2, splits=4)
    inference = infer_fitted([model], data, "corr", Jackknife("both"), folds)
    assert inference.model_var is not None
    assert inference.model_var > 0
    once = cross_validate([model], data, "corr", folds.all_folds(SUBJECTS, n))[0]
    assert_allclose(inference.scores, once)


def containers(seed: int = 0, time: bool = False) -> tuple[dict[str, RDMs], RDMs]:
    features, data = study(seed)
    ids = {"stimulus": [f"s{k}" for k in range(N)]}
    names: dict[str, list[Any]] = {"subject": [f"p{k}" for k in range(SUBJECTS)]}
    if time:
        later = np.random.default_rng(9).normal(size=data.shape) + data / 10
        data, names = np.concatenate([data, later]), {"subject": names["subject"] * 2}
        names["time"] = [0.1] * SUBJECTS + [0.2] * SUBJECTS
    named = {"features": RDMs(features, pattern_descriptors=ids)}
    named["whole"] = RDMs(features.sum(axis=0)[None], pattern_descriptors=ids)
    return named, RDMs(data, rdm_descriptors=names, pattern_descriptors=ids)


def test_evaluate_fitted_takes_a_ridge() -> None:
    named, brain = containers()
    ridge = nrl.Ridge((0.01, 0.1, 1), nonnegative=True)
    table = nrl.evaluate_fitted(named, brain, combine=ridge, bootstrap=None)
    assert table["fit"].tolist() == ["ridge, 0 or more, 0.01, 0.1, 1", "fixed"]
    assert table["score"][0] > table["score"][1]
    free = nrl.evaluate_fitted(named, brain, combine=nrl.Ridge(0.05), bootstrap=None)
    assert free["score"][0] > 0.5


def test_many_features_are_better_with_a_penalty() -> None:
    """With nearly as many features as training pairs, weights without a penalty fit noise."""
    means, n = [], 24
    i, j = np.triu_indices(n, 1)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(60, n))
        features = (points[:, i] - points[:, j]) ** 2
        data = features[:10].sum(axis=0) + 12 * rng.normal(size=(SUBJECTS, len(i)))
        folds = Folds(stimuli=2, splits=10).all_folds(SUBJECTS, n)
        several = [Model("a", features, Ridge((1e-3, 0.1, 1, 10))), Model("b", features, Ridge(1e-6))]
        means.append(cross_validate(several, data, "corr", folds)[0].mean(axis=1))
    chosen, without = np.mean(means, axis=0)
    assert chosen > without + 0.05


@pytest.mark.parametrize("combine", ["weighted", "select", Ridge(0.1)])
def test_fitted_models_over_time_are_those_of_each_time(combine: Any) -> None:
    named, brain = containers(time=True)
    options: dict[str, Any] = {"combine": combine, "bootstrap": "subjects", "folds": Folds(splits=5)}
    table = nrl.evaluate_fitted(named, brain, **options)
    assert list(table)[:3] == ["model", "roi", "time"]
    assert table["time"].tolist() == [0.1, 0.1, 0.2, 0.2]
    for time, part in table.groupby("time"):
        alone = nrl.select_rdms(brain, select={"time": time})
        del alone.rdm_descriptors["time"]
        expected = nrl.evaluate_fitted(named, alone, **options)
        pd.testing.assert_frame_equal(part.drop(columns="time").reset_index(drop=True), expected)


@pytest.mark.parametrize(
    ("penalty", "told"),
    [(0, "Ridge.penalty=0"), (-1.0, "Ridge.penalty"), ((), "is empty"), ((0.1, 0), "Ridge.penalty")],
)
def test_penalties_are_above_0(penalty: Any, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        Ridge(penalty)


def test_what_cannot_be_chosen() -> None:
    named, brain = containers()
    with pytest.raises(NeurordlError, match="halves of 6 training stimuli or more, and a fold has 5"):
        cross_validate(
            [Model("f", study()[0], Ridge((0.1, 1.0)))],
            study()[1],
            "corr",
            [Fold(np.arange(SUBJECTS), np.arange(5), np.arange(SUBJECTS), np.arange(5, N))],
        )
    with pytest.raises(NeurordlError, match="penalties to choose from, and nothing is held out"):
        nrl.regress_rdms(named["features"], brain, fit=Ridge((0.1, 1.0)))
    with pytest.raises(NeurordlError, match="or a Ridge"):
        nrl.evaluate_fitted(named, brain, combine="ridge")  # type: ignore[arg-type]


def test_regression_takes_a_ridge_of_weights_of_0_or_more() -> None:
    features, data = study()
    ids = {"stimulus": [f"s{k}" for k in range(N)]}
    models = RDMs(features[:4], rdm_descriptors={"name": list("abcd")}, pattern_descriptors=ids)
    brain = RDMs(data, rdm_descriptors={"subject": list("vwxyz")}, pattern_descriptors=ids)
    frame = nrl.regress_rdms(models, brain, fit=Ridge(0.2, nonnegative=True)).frame
    x = unit(features[:4]).T
    for subject, row in zip("vwxyz", unit(data), strict=True):
        rows = np.vstack([x, np.sqrt(0.2) * np.eye(4)])
        expected = nnls(rows, np.concatenate([row, np.zeros(4)]))[0]
        found = frame[(frame["subject"] == subject) & (frame["layer"] != "R²")]
        assert_allclose(found["score"], expected, atol=1e-9)
    assert "ridge, 0 or more, 0.2" in frame["comparison"].iloc[0]


def test_a_penalty_is_chosen_under_each_resampling() -> None:
    """Over subjects alone no fold lacks a stimulus, so that there is none to choose a penalty in."""
    rng, ids = np.random.default_rng(0), [f"s{k}" for k in range(18)]
    features, data = rng.random((6, 153)), rng.random((SUBJECTS, 153))
    data += features[0]
    models = {"features": RDMs(features, pattern_descriptors={"stimulus": ids})}
    names = {"subject": [f"p{k}" for k in range(SUBJECTS)]}
    people = RDMs(data, rdm_descriptors=names, pattern_descriptors={"stimulus": ids})
    rows = [
        nrl.evaluate_fitted(
            models, people, combine=Ridge((0.1, 1.0)), folds=Folds(splits=4), bootstrap=scheme
        )
        for scheme in (None, "subjects", "stimuli", "both")
    ]
    scores = [row["score"].item() for row in rows]
    assert_allclose(scores, scores[0], atol=1e-12)
    assert all(row["ci_low"].item() < row["score"].item() for row in rows[1:])
    with pytest.raises(NeurordlError, match="those of a Bootstrap by a third"):
        nrl.evaluate_fitted(
            models, people, combine=Ridge((0.1, 1.0)), bootstrap=nrl.Bootstrap("stimuli", n=20)
        )
