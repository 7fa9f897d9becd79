"""A comparison of a user's own script is one object, and works in everything that takes one.

Those here have the formula of a built-in one, whose numbers they must give in the general way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from scipy.stats import rankdata
from torch import Tensor

import neurordl as nrl
from neurordl.measures.comparisons import COMPARISONS, mean_ranks
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.reliability import permutation_p, split_half

N, SUBJECTS = 6, 3
IDS = [f"s{k}" for k in range(N)]


def pearson(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    def centered(rdms: Tensor) -> Tensor:
        return rdms - (weights * rdms).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)

    a, b = centered(a), centered(b)
    product = (weights * a * b).sum(-1)
    return product / (weights * a * a).sum(-1).sqrt() / (weights * b * b).sum(-1).sqrt()


def standard(values: np.ndarray, n_pairs: int) -> np.ndarray:
    return (values - values.mean()) / values.std()


def rank_correlation(models: Tensor, data: Tensor) -> Tensor:
    a, b = (rankdata(rdms.numpy(), axis=1) for rdms in (models, data))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return torch.from_numpy(a @ b.T / lengths)


PEARSON = nrl.Comparison("pearson", pearson, pool=standard, undefined="constant")
RANKS = nrl.Comparison("ranks", similarity=rank_correlation, pool=mean_ranks, undefined="constant")
OF = {"pearson": "corr", "ranks": "spearman"}


@pytest.fixture(params=["pearson", "ranks", "registered"])
def comparison(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The comparison as a user passes it: the object, or the name that was registered."""
    if request.param == "registered":
        nrl.register(PEARSON)
    yield {"pearson": PEARSON, "ranks": RANKS}.get(request.param, "pearson")
    COMPARISONS.pop("pearson", None)


def built_in(comparison: Any) -> str:
    return OF[getattr(comparison, "name", comparison)]


def stack(n_rdms: int, descriptor: str, seed: int, missing: bool = False) -> RDMs:
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(0).random(N * (N - 1) // 2)
    vectors = shared + rng.normal(0, 0.4, (n_rdms, len(shared)))
    if missing:
        vectors[rng.random(vectors.shape) < 0.1] = np.nan
    return RDMs(
        vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={descriptor: [f"{descriptor[0]}{k}" for k in range(n_rdms)]},
        pattern_descriptors={"stimulus": list(IDS)},
    )


def models(missing: bool = False) -> RDMs:
    return stack(3, "layer", 1, missing)


def brain(missing: bool = False) -> RDMs:
    return stack(SUBJECTS, "subject", 2, missing)


@pytest.mark.parametrize("missing", [False, True])
def test_similarities_and_ceilings(comparison: Any, missing: bool) -> None:
    same, a, b = built_in(comparison), models(missing), brain(missing)
    assert_allclose(nrl.compare(a, b, comparison), nrl.compare(a, b, same), atol=1e-10)
    ceilings = [nrl.noise_ceiling(b, x) for x in (comparison, same)]
    assert_allclose(*(lower for lower, _ in ceilings), atol=1e-10)
    # where subjects miss different pairs, the upper one is a climb, for which a function needs a gradient
    if missing and comparison is RANKS:
        assert ceilings[0][1] <= ceilings[1][1]
        with pytest.warns(UserWarning, match="upper noise ceiling is that of their mean RDM, and no bound"):
            nrl.noise_ceiling(b, comparison)
    else:
        assert_allclose(*(upper for _, upper in ceilings), atol=1e-6 if missing else 1e-10)
    halves = [split_half(b, x, n_splits=5, rng=np.random.default_rng(0)) for x in (comparison, same)]
    assert_allclose(*halves, atol=1e-10)


CASES = [
    (None, False),
    (nrl.Bootstrap("subjects", n=8), False),
    (nrl.Bootstrap("subjects", n=8), True),
    (nrl.Bootstrap("stimuli", n=8), True),
    (nrl.Bootstrap("both", n=8), False),
    (nrl.Bootstrap("stimuli", n=N + 102, variance="components"), False),
    (nrl.Bootstrap("both", n=N + 102, variance="components"), False),
]


@pytest.mark.parametrize("bootstrap, missing", CASES)
def test_evaluations(comparison: Any, bootstrap: Any, missing: bool) -> None:
    options = {"bootstrap": bootstrap, "missing": "error"}
    found = nrl.evaluate(models(missing), brain(missing), comparison=comparison, **options)
    want = nrl.evaluate(models(missing), brain(missing), comparison=built_in(comparison), **options)
    name = getattr(comparison, "name", comparison)
    assert set(found.frame["comparison"]) == {name}
    assert found.settings["comparison"] == name
    no_bound = missing and comparison is RANKS  # see `test_similarities_and_ceilings`
    columns = want.frame.columns.drop(["comparison", "ceiling_upper"])
    pd.testing.assert_frame_equal(found.frame[columns], want.frame[columns], rtol=0, atol=1e-9)
    if not no_bound:
        uppers = (x.frame["ceiling_upper"] for x in (found, want))
        assert_allclose(*uppers, atol=1e-6 if missing else 1e-9, rtol=0)
    pd.testing.assert_frame_equal(found.differences, want.differences, rtol=0, atol=1e-9)
    ceilings = () if no_bound else ("noise_ceiling", "variances", "noise_ceil_var")
    for attribute in ("scores", "evaluations", "model_var", *ceilings):
        values = (getattr(x.inferences[""], attribute) for x in (found, want))
        climbed = missing and attribute in ceilings
        assert_allclose(*values, atol=1e-6 if climbed else 1e-10, rtol=0, err_msg=attribute)


def test_p_values_by_permutation(comparison: Any) -> None:
    p = [
        (
            permutation_p(models(), brain(), x, n_permutations=39, rng=np.random.default_rng(0)),
            ceiling_p(brain(), x, n_permutations=39, rng=np.random.default_rng(0)),
        )
        for x in (comparison, built_in(comparison))
    ]
    assert_allclose(p[0][0], p[1][0])
    assert p[0][1] == p[1][1] < 0.05


def test_fitted_models(comparison: Any) -> None:
    named = {"single": models()[0], "several": models()}
    folds = nrl.Folds(subjects=2, stimuli=1)
    options = {"bootstrap": nrl.Bootstrap("both", n=5), "combine": "select", "folds": folds}
    found, want = (
        nrl.evaluate_fitted(named, brain(), comparison=x, **options)
        for x in (comparison, built_in(comparison))
    )
    columns = want.columns.drop("comparison")
    pd.testing.assert_frame_equal(found[columns], want[columns], rtol=0, atol=1e-10)


def test_searchlight(comparison: Any) -> None:
    voxels = np.argwhere(np.ones((4, 4, 4)))
    data = Dataset(
        np.random.default_rng(3).normal(size=(N, len(voxels))),
        obs_descriptors={"stimulus": list(IDS)},
        channel_descriptors=dict(zip("xyz", voxels.T.tolist(), strict=True)),
    )
    found, want = (
        nrl.searchlight(data, models(), radius=2, comparison=x).scores
        for x in (comparison, built_in(comparison))
    )
    assert_allclose(found, want, atol=1e-10)


def test_what_is_undefined(comparison: Any) -> None:
    constant = models()
    constant.dissimilarities[1] = 0.5
    scores = nrl.evaluate(constant, brain(), comparison=comparison)
    frame = scores.frame[scores.frame["layer"] == "l1"]
    assert frame["score"].isna().all()
    assert "layer 'l1' is constant" in frame["reason"].iloc[0]


@pytest.mark.parametrize("choice", ["object", "function", "name"])
def test_it_trains(choice: str) -> None:
    torch.manual_seed(0)
    teacher = nrl.RDMTeacher(brain())
    comparison = {"object": PEARSON, "name": "pearson"}.get(choice)
    if choice == "function":
        comparison = lambda a, b, weights: 1 - pearson(a, b, weights)  # noqa: E731
    if choice == "name":
        nrl.register(PEARSON)
    pixels = np.random.default_rng(4).integers(0, 256, (N, 8, 8), dtype=np.uint8)
    stimuli = nrl.StimulusSet.from_array(pixels, IDS, labels=np.arange(N) % 3)
    histories = []
    for option in (comparison, "corr"):
        torch.manual_seed(0)
        student = nrl.students.small_cnn(3, 1, width=4)
        loss = nrl.RDMLoss(teacher, "conv3", comparison=option)
        run = nrl.fit(
            *(student, nrl.Objective([loss]), stimuli, stimuli),
            epochs=2,
            execution=nrl.Execution(progress=False),
        )
        histories.append(run.history["rdm:conv3"].to_numpy())
    COMPARISONS.pop("pearson", None)
    assert_allclose(histories[0], histories[1], rtol=1e-4)


def test_a_comparison_without_a_gradient_does_not_train() -> None:
    for comparison in (RANKS, nrl.Comparison("steps", pearson, differentiable=False)):
        with pytest.raises(nrl.NeurordlError, match=rf"{comparison.name} has no gradient.*mse, corr"):
            nrl.RDMLoss(nrl.RDMTeacher(brain()), "conv3", comparison=comparison)


def test_a_function_is_a_similarity() -> None:
    assert_allclose(
        nrl.compare(models(), brain(), pearson), nrl.compare(models(), brain(), "corr"), atol=1e-10
    )


def test_a_comparison_does_not_take_the_name_of_another() -> None:
    """Otherwise tables would say "corr" of something else; an equal comparison may have its name."""

    def cosine(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        return pearson(a, b, weights)

    cosine.__qualname__ = "cosine"
    for other in (nrl.Comparison("corr", pearson), cosine, nrl.Comparison("rho-a", None, rank_correlation)):
        with pytest.raises(nrl.NeurordlError, match="has the name of another comparison"):
            nrl.compare(models(), brain(), other)
        with pytest.raises(nrl.NeurordlError, match="has the name of another comparison"):
            nrl.evaluate(models(), brain(), comparison=other)
    equal = replace(COMPARISONS["corr"])
    assert_allclose(nrl.compare(models(), brain(), equal), nrl.compare(models(), brain(), "corr"))


def test_what_is_refused() -> None:
    with pytest.raises(nrl.NeurordlError, match="'nothing' needs a function, a similarity or a kernel"):
        nrl.Comparison("nothing")
    with pytest.raises(nrl.NeurordlError, match="undefined='flat'"):
        nrl.Comparison("wrong", pearson, undefined="flat")
    with pytest.raises(nrl.NeurordlError, match="'corr' cannot be registered"):
        nrl.register(nrl.Comparison("corr", pearson))
    with pytest.raises(nrl.NeurordlError, match="'apart' is a distance"):
        nrl.compare(models(), brain(), nrl.Comparison("apart", pearson, higher_is_better=False))
    whole = nrl.Comparison("whole", lambda a, b, weights: pearson(a, b, weights).mean())
    with pytest.raises(nrl.NeurordlError, match=r"'whole' .* values of (the )?shape \(3,\)"):
        nrl.compare(models(), brain(), whole)
    complete = nrl.Comparison("complete", pearson, complete=True)
    with pytest.raises(nrl.NeurordlError, match=r"complete needs complete RDMs.*missing"):
        nrl.compare(models(missing=True), brain(), complete)
    with pytest.raises(nrl.NeurordlError, match="complete needs complete RDMs, and a resample"):
        nrl.evaluate(models(), brain(), comparison=complete, bootstrap="stimuli")


def test_a_loss_refuses_weights_that_the_comparison_cannot_take() -> None:
    def loss(comparison: Any, missing: bool, **options: Any) -> float:
        teacher = nrl.RDMTeacher(brain(missing), **options)
        features = {"layer": torch.rand(N, 4, generator=torch.Generator().manual_seed(0))}
        return float(nrl.RDMLoss(teacher, "layer", comparison=comparison)(features, {}, batch))

    batch = nrl.Batch(torch.zeros(N, 1), IDS)
    complete = nrl.Comparison("complete", pearson, complete=True)
    assert loss(complete, False) == loss(PEARSON, False)
    with pytest.raises(nrl.NeurordlError, match="complete needs complete RDMs without pair weights"):
        loss(complete, True, pool="subjects")
    assert np.isfinite(loss(PEARSON, True))
    with pytest.raises(nrl.NeurordlError, match="pearson takes pairs as measured"):
        loss(PEARSON, False, pair_weights="reliability")
    elementwise = lambda a, b, weights: weights * (a - b) ** 2  # noqa: E731
    with pytest.raises(nrl.NeurordlError, match=r"returned values of shape \(1, 15\) for 1 RDMs"):
        loss(elementwise, False)
    weighted = nrl.Comparison("weighted", pearson, weighted=True)
    want = loss("corr", False, pair_weights="reliability")
    assert loss(weighted, False, pair_weights="reliability") == pytest.approx(want, abs=1e-6)


def test_a_function_without_weights_is_refused() -> None:
    with pytest.raises(nrl.NeurordlError, match=r"'c2': its function must take \(a, b, weights\)"):
        nrl.Comparison("c2", lambda a, b: (a * b).sum(-1))
    nrl.Comparison("c3", torch.lerp)  # a function in C
