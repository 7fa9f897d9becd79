"""compute_rdms: noise, centring, unbalanced runs, Poisson, ROIs and blocks, beside rsatoolbox."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.data.noise import cov_from_measurements, cov_from_residuals, cov_from_unbalanced
from rsatoolbox.rdm import calc_rdm
from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced
from scipy.spatial.distance import pdist

from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import find_dissimilarity, poisson, poisson_cv
from neurordl.measures.kernels import distances
from neurordl.rdms import compute_rdms, load_rdms, save_rdms
from neurordl.rdms.compute import Noise, covariance
from neurordl.rdms.source import Source, check_runs

IDS = ["s10", "s2", "s1", "cat", "Ant", "z"]
RUNS, CHANNELS = 4, 8
METHODS = {
    "diagonal": "diag",
    "full": "full",
    "shrinkage_eye": "shrinkage_eye",
    "shrinkage_diag": "shrinkage_diag",
}


def measured(keep: Any = None, repeats: int = 1, seed: int = 0, **more: Any) -> Dataset:
    """Positive rates of six stimuli in four runs, rows in a mixed order."""
    rng = np.random.default_rng(seed)
    n = RUNS * len(IDS) * repeats
    rows = rng.permutation(n) if keep is None else rng.permutation(np.flatnonzero(keep))
    values = rng.gamma(2.0, 2.0, (n, CHANNELS))
    return Dataset(
        values[rows],
        descriptors={"subject": "s1"},
        obs_descriptors={
            "stimulus": [IDS[k % len(IDS)] for k in rows],
            "run": [f"r{(k // len(IDS)) % RUNS}" for k in rows],
        },
        **more,
    )


def holes() -> Dataset:
    keep = np.ones(RUNS * len(IDS) * 2, bool)
    keep[[0, 7, 15, 23, 24, 31, 33, 40]] = False
    return measured(keep, repeats=2)


def square_by_name(rdms: Any) -> Any:
    names = [str(name) for name in rdms.pattern_descriptors["stimulus"]]
    at = [names.index(name) for name in IDS]
    return rdms.get_matrices()[0][np.ix_(at, at)]


def same(ours: Any, theirs: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(square_by_name(ours), square_by_name(theirs), atol=atol, rtol=1e-10)


def residual_rows(n: int = 60, seed: int = 5) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, CHANNELS)) @ rng.standard_normal((CHANNELS, CHANNELS))


def as_residuals(rows: Any, **more: Any) -> Dataset:
    runs = [f"r{k % RUNS}" for k in range(len(rows))]
    return Dataset(rows, obs_descriptors={"run": runs, **more})


# noise


@pytest.mark.parametrize("noise", METHODS)
@pytest.mark.parametrize("shape", [(60, 8), (9, 8), (400, 30)])
def test_covariances_equal_rsatoolbox(noise: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal(shape) * rng.gamma(2, size=shape[1]) + 3
    rows[:, 0] += rows[:, 1]
    for dof in (len(rows) - 1, len(rows) - 3):
        expected = cov_from_residuals(rows, dof=dof, method=METHODS[noise])
        np.testing.assert_allclose(covariance(rows, dof, noise, "x"), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("noise", METHODS)
@pytest.mark.parametrize("method", ["mahalanobis", "crossnobis"])
def test_noise_from_residuals(method: str, noise: Any) -> None:
    data, rows = measured(repeats=2), residual_rows()
    precision = np.linalg.inv(cov_from_residuals(rows, dof=52, method=METHODS[noise]))
    dof = [13] * len(rows)
    ours = compute_rdms(data, method, noise=Noise(noise, as_residuals(rows, dof=dof)))
    same(ours, calc_rdm(data, method, descriptor="stimulus", noise=precision, cv_descriptor="run"))
    precision = np.linalg.inv(cov_from_residuals(rows, method=METHODS[noise]))
    ours = compute_rdms(data, method, noise=Noise(noise, Dataset(rows)))
    same(ours, calc_rdm(data, method, descriptor="stimulus", noise=precision, cv_descriptor="run"))


@pytest.mark.parametrize("noise", METHODS)
def test_noise_from_measurements(noise: Any) -> None:
    for data in (measured(repeats=2), holes()):
        precision = np.linalg.inv(cov_from_unbalanced(data, "stimulus", method=METHODS[noise]))
        theirs = calc_rdm(data, "mahalanobis", descriptor="stimulus", noise=precision)
        same(compute_rdms(data, "mahalanobis", noise=noise), theirs)


def test_covariances_of_measurements_have_other_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    ids, runs = np.divmod(np.arange(300), 3)
    rows = rng.normal(size=(300, 4)) + 5 * rng.normal(size=(100, 4))[ids]  # noise of variance 1
    data = Dataset(rows, obs_descriptors={"stimulus": [f"s{k}" for k in ids], "run": runs.tolist()})
    left, dof = Source(data, "x", by_run=True).centered(None).within()
    ours = covariance(left, dof, "diagonal", "x")
    np.testing.assert_allclose(np.diag(ours), 1, atol=0.2)
    assert dof == 200
    np.testing.assert_allclose(ours, cov_from_unbalanced(data, "stimulus", method="diag"), rtol=1e-10)
    theirs = cov_from_measurements(data, "stimulus", method="diag")
    np.testing.assert_allclose(theirs * 297 / 200, ours, rtol=1e-10)


def few_in_a_run() -> Dataset:
    """Measurements as in NSD: each stimulus three times, in some of many runs, also twice in a run."""
    rng = np.random.default_rng(4)
    stimulus = rng.permutation(np.repeat(np.arange(30), 3))
    run = np.sort(rng.integers(0, 40, 90))
    rows = rng.gamma(3, size=(90, 5)) + rng.gamma(3, size=(30, 5))[stimulus]
    return Dataset(rows, obs_descriptors={"stimulus": [f"s{k}" for k in stimulus], "run": run.tolist()})


@pytest.mark.parametrize(
    "method, options",
    [
        ("crossnobis", {}),
        ("crossnobis", {"center": "run"}),
        ("crossnobis", {"noise": "shrinkage_diag"}),
        ("poisson_cv", {}),
    ],
)
def test_runs_of_few_stimuli_are_not_filled_up(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is that of the measurements, not that of runs x stimuli; numbers are those of the whole."""
    data = few_in_a_run()
    with monkeypatch.context() as patched:
        patched.setattr(Source, "sparse", False)
        expected = compute_rdms(data, method, **options).dissimilarities
    with monkeypatch.context() as patched:
        patched.setattr(Source, "by_run", lambda *_: pytest.fail("patterns were filled up"))
        ours = compute_rdms(data, method, **options)
    np.testing.assert_allclose(ours.dissimilarities, expected, rtol=1e-10, atol=1e-12)
    if method == "crossnobis" and not options:
        theirs = calc_rdm_unbalanced(data, method=method, descriptor="stimulus", cv_descriptor="run")
        names = list(ours.pattern_descriptors["stimulus"])
        order = [names.index(name) for name in theirs.pattern_descriptors["stimulus"]]
        np.testing.assert_allclose(
            ours.get_matrices()[0][np.ix_(order, order)], theirs.get_matrices()[0], rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_means_of_many_runs_are_noticed(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = few_in_a_run()
    run = np.array(data.obs_descriptors["run"])
    data.measurements = data.measurements - data.measurements.mean(axis=0)
    data.measurements += shift * np.random.default_rng(0).normal(size=(40, 5))[run]
    measure, found = find_dissimilarity("crossnobis"), []
    for sparse in (True, False):
        monkeypatch.setattr(Source, "sparse", sparse)
        monkeypatch.setattr("neurordl.rdms.source._AT_ONCE", 1 << 10)
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            check_runs([Source(data, "x", by_run=True)], measure)
        found.append([str(notice.message) for notice in notices])
    assert found[0] == found[1]
    assert any("contain the mean pattern of each run" in text for text in found[0]) is (shift > 0)


@pytest.mark.parametrize("center", [None, "run", "all"])
def test_degrees_of_freedom_of_measurements(center: Any) -> None:
    # 2 stimuli, 3 runs, of variance 1: the means of stimuli, and of runs where removed, take what is free
    stimulus, run = np.divmod(np.arange(6), 3)
    data = Dataset(
        np.random.default_rng(0).normal(size=(6, 40_000)),
        obs_descriptors={"stimulus": [f"s{k}" for k in stimulus], "run": run.tolist()},
    )
    source = Source(data, "x", by_run=True).centered(center)
    left, dof = source.within()
    assert dof == (2 if center == "run" else 4)
    assert (left**2).sum() / dof / 40_000 == pytest.approx(1, abs=0.03)


def test_noise_of_each_run_equals_a_list_of_precisions() -> None:
    data, rows = measured(), residual_rows(200)
    ours = compute_rdms(data, "crossnobis", noise=Noise("shrinkage_diag", as_residuals(rows), by="run"))
    each = [np.linalg.inv(cov_from_residuals(rows[k::RUNS])) for k in range(RUNS)]
    same(ours, calc_rdm(data, "crossnobis", descriptor="stimulus", noise=each, cv_descriptor="run"), 1e-9)


@pytest.mark.parametrize("method", ["correlation", "cosine"])
def test_normalised_patterns_under_other_measures(method: str) -> None:
    data, rows = measured(), residual_rows()
    values, vectors = np.linalg.eigh(cov_from_residuals(rows, method="full"))
    root = vectors / np.sqrt(values) @ vectors.T
    ours = compute_rdms(data, method, noise=Noise("full", Dataset(rows)))
    names = np.asarray(data.obs_descriptors["stimulus"])
    order = ours.pattern_descriptors["stimulus"]
    means = np.stack([data.measurements[names == name].mean(0) for name in order])
    np.testing.assert_allclose(ours.dissimilarities[0], pdist(means @ root, method), atol=1e-10)


def test_singular_noise_is_one_clear_error() -> None:
    data = measured()
    few = Dataset(residual_rows(5))
    with pytest.raises(
        NeurordlError, match=r"Dataset 0 \(subject s1\) is singular .*8 channels, rank 4.*shrin"
    ):
        compute_rdms(data, "crossnobis", noise=Noise("full", few))
    rows = residual_rows()
    rows[:, 3] = 1.0
    for noise in ("diagonal", "shrinkage_diag"):
        with pytest.raises(NeurordlError, match=r"singular with noise='\w+'.*variance"):
            compute_rdms(data, "mahalanobis", noise=Noise(noise, Dataset(rows)))
    assert np.isfinite(
        compute_rdms(data, "crossnobis", noise=Noise("shrinkage_diag", few)).dissimilarities
    ).all()


# runs that are not balanced


@pytest.mark.parametrize("precise", [False, True])
def test_unbalanced_crossnobis(precise: bool) -> None:
    data = holes()
    half = np.random.default_rng(3).standard_normal((CHANNELS, 12))
    noise = half @ half.T if precise else None
    theirs = calc_rdm_unbalanced(data, "crossnobis", descriptor="stimulus", cv_descriptor="run", noise=noise)
    same(compute_rdms(data, "crossnobis", precision=noise), theirs)
    # balanced runs give the balanced numbers by either way
    whole = measured(repeats=2)
    theirs = calc_rdm_unbalanced(whole, "crossnobis", descriptor="stimulus", cv_descriptor="run", noise=noise)
    same(compute_rdms(whole, "crossnobis", precision=noise), theirs)


def test_a_stimulus_of_a_single_run_has_missing_pairs() -> None:
    keep = np.ones(RUNS * len(IDS), bool)
    keep[[0, 6, 12]] = False
    with pytest.warns(UserWarning, match=rf"5 of 15 pairs are not measured \({IDS[0]} is in one run only\)"):
        matrix = square_by_name(compute_rdms(measured(keep), "crossnobis"))
    assert np.isnan(matrix[0, 1:]).all()
    assert np.isfinite(matrix[1:, 1:]).all()


def test_centering_runs_that_lack_a_stimulus_is_noticed() -> None:
    keep = np.ones(RUNS * len(IDS), bool)
    keep[[0, 9, 13]] = False
    data = measured(keep)
    data.measurements = data.measurements - 4  # no mean but that of noise
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = compute_rdms(data, "crossnobis")
    means = 500 + 5 * np.random.default_rng(5).standard_normal((RUNS, CHANNELS))
    run = list(dict.fromkeys(data.obs_descriptors["run"]))
    of_run = np.array([run.index(one) for one in data.obs_descriptors["run"]])
    data.measurements = data.measurements + means[of_run]
    with pytest.warns(UserWarning, match='so that .* center="run"') as told:
        seen = compute_rdms(data, "crossnobis")
    assert len(told) == 1
    assert all(gap in str(told[0].message) for gap in ("s10 in r0", "cat in r1", "s2 in r2"))
    theirs = calc_rdm_unbalanced(data, "crossnobis", descriptor="stimulus", cv_descriptor="run")
    assert np.abs(square_by_name(seen)).max() > 50 * np.abs(square_by_name(plain)).max()
    same(seen, theirs, atol=1e-6)
    for own, options in ((data, {"center": "run"}), (data, {"dissimilarity": "euclidean"}), (measured(), {})):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compute_rdms(own, **{"dissimilarity": "crossnobis", **options})


def test_runs_of_other_length_hide_their_mean() -> None:
    once, twice = measured(), measured(repeats=2)
    runs = list(dict.fromkeys(once.obs_descriptors["run"]))
    rows = [k for k, run in enumerate(twice.obs_descriptors["run"]) if run == runs[0]]
    rest = [k for k, run in enumerate(once.obs_descriptors["run"]) if run != runs[0]]
    offset = np.random.default_rng(1).standard_normal((len(runs), CHANNELS)) * 30
    found = []
    for scale in (0, 1):
        values = np.concatenate([twice.measurements[rows], once.measurements[rest]])
        names = {
            name: [twice.obs_descriptors[name][k] for k in rows]
            + [once.obs_descriptors[name][k] for k in rest]
            for name in ("stimulus", "run")
        }
        values = values + scale * offset[[runs.index(run) for run in names["run"]]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(compute_rdms(Dataset(values, obs_descriptors=names), "crossnobis"))
    np.testing.assert_allclose(found[1].dissimilarities, found[0].dissimilarities, atol=1e-9)


def test_block_averages_that_are_all_alike() -> None:
    data = measured()
    data.measurements = 500 * (1 + np.arange(CHANNELS)) + data.measurements
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_rdms(data, "correlation")  # of what nobody said that it is averages
    data.descriptors["provenance"] = json.dumps({"model": "average"})
    for method in ("correlation", "cosine"):
        with pytest.warns(UserWarning, match=f'the {method} distances .* are tiny .*center="run"'):
            compute_rdms(data, method)
    data.channel_descriptors = {"roi": ["IT"] * 3 + ["EVC"] * (CHANNELS - 3)}
    with pytest.warns(UserWarning, match="roi IT and 1 more: the cosine") as told:
        compute_rdms(data, "cosine")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_rdms(data, "correlation", center="run")
        compute_rdms(data, "euclidean")


def test_unbalanced_crossnobis_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    keep = np.ones(RUNS * len(IDS), bool)
    keep[[0, 9, 16, 23]] = False
    true = rng.standard_normal((len(IDS), CHANNELS))
    rows = np.flatnonzero(keep)
    found = []
    for _ in range(500):
        data = measured(keep)
        names = [IDS.index(name) for name in data.obs_descriptors["stimulus"]]
        data.measurements = true[names] + rng.standard_normal((len(rows), CHANNELS))
        found.append(square_by_name(compute_rdms(data, "crossnobis"))[np.triu_indices(len(IDS), 1)])
    z = (np.mean(found, 0) - pdist(true, "sqeuclidean") / CHANNELS) / (np.std(found, 0) / np.sqrt(500))
    assert abs(z).max() < 3.6  # Bonferroni, 15 pairs, below 1 in 100


# Poisson


def test_poisson() -> None:
    data = measured(repeats=2)
    same(compute_rdms(data, "poisson"), calc_rdm(data, "poisson", descriptor="stimulus"))
    assert compute_rdms(data, "poisson").dissimilarity_measure == "poisson"
    zeros = Dataset(np.array([[0.0, 3], [2, 0], [0, 0]]), obs_descriptors={"stimulus": ["a", "b", "c"]})
    theirs = calc_rdm(zeros, "poisson", descriptor="stimulus").dissimilarities
    np.testing.assert_allclose(compute_rdms(zeros, "poisson").dissimilarities, theirs, atol=1e-12)
    with pytest.raises(NeurordlError, match=r"rates or counts of 0 or more.*has -"):
        compute_rdms(data, "poisson", center="all")


def test_poisson_of_near_duplicates_and_extremes() -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(2.0, 50.0, 40)
    x = np.stack([base, base, base * (1 + 1e-6), base * 1e3, np.zeros(40)])
    found = poisson(torch.from_numpy(x)).numpy()
    rates = (x + 0.1) / 1.1
    i, j = np.triu_indices(5, 1)
    expected = ((rates[i] - rates[j]) * (np.log(rates[i]) - np.log(rates[j]))).mean(1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert found[0] == 0
    assert poisson(torch.tensor([[-1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])).isnan().tolist() == [
        True,
        True,
        False,
    ]


def test_poisson_cv_is_the_mean_over_all_runs() -> None:
    data = measured()
    # rsatoolbox keeps the fold of the last run only: give each run its turn
    folds = []
    for last in range(RUNS):
        turned = measured()
        turned.obs_descriptors["run"] = [
            "z" if run == f"r{last}" else run for run in data.obs_descriptors["run"]
        ]
        folds.append(
            square_by_name(calc_rdm(turned, "poisson_cv", descriptor="stimulus", cv_descriptor="run"))
        )
    ours = square_by_name(compute_rdms(data, "poisson_cv"))
    np.testing.assert_allclose(ours, np.mean(folds, 0), atol=1e-10)
    same(
        compute_rdms(data, "poisson_cv"),
        calc_rdm_unbalanced(data, "poisson_cv", descriptor="stimulus", cv_descriptor="run"),
    )
    keep = np.ones(RUNS * len(IDS), bool)
    keep[[0, 9, 16, 23]] = False
    data = measured(keep)
    same(
        compute_rdms(data, "poisson_cv"),
        calc_rdm_unbalanced(data, "poisson_cv", descriptor="stimulus", cv_descriptor="run"),
    )


def test_poisson_gradients() -> None:
    x = torch.tensor(np.random.default_rng(0).gamma(2.0, 2.0, (3, 4, 5)), requires_grad=True)
    assert torch.autograd.gradcheck(poisson, (x,))
    assert torch.autograd.gradcheck(poisson_cv, (x,))
    counts = torch.tensor([[1.0, 1, 0, 2], [1, 1, 1, 1], [1, 0, 2, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: poisson_cv(y, counts), (x,))


# centring


@pytest.mark.parametrize("method", ["correlation", "cosine", "crossnobis", "euclidean"])
@pytest.mark.parametrize("data", [measured(), measured(repeats=2), holes()], ids=["one", "two", "holes"])
def test_centring(method: str, data: Dataset) -> None:
    values = np.asarray(data.measurements)
    runs = np.asarray(data.obs_descriptors["run"])
    by_run = values - np.stack([values[runs == run].mean(0) for run in runs])
    for center, moved in (("all", values - values.mean(0)), ("run", by_run)):
        expected = compute_rdms(Dataset(moved, obs_descriptors=dict(data.obs_descriptors)), method)
        found = compute_rdms(data, method, center=center)
        np.testing.assert_allclose(found.dissimilarities, expected.dissimilarities, atol=1e-12)
        assert json.loads(found.descriptors["provenance"])["center"] == center


# ROIs and subjects


def test_an_atlas_gives_an_rdm_for_each_roi(tmp_path: Path) -> None:
    rois = ["IT", "V1", "IT", "V1", "IT", "V1", "V1", "IT"]
    data = {name: measured(seed=k, channel_descriptors={"roi": rois}) for k, name in enumerate(("s1", "s2"))}
    for k, name in enumerate(data):
        data[name].descriptors = {"subject": name, "provenance": json.dumps({"images": [f"{k}.nii"]})}
    rows = {name: Dataset(residual_rows(seed=k)) for k, name in enumerate(data)}
    found = compute_rdms(data, "crossnobis", noise=Noise("shrinkage_eye", rows))
    assert found.rdm_descriptors["subject"] == ["s1", "s1", "s2", "s2"]
    assert found.rdm_descriptors["roi"] == ["IT", "V1", "IT", "V1"]
    assert "provenance" not in found.rdm_descriptors
    made = json.loads(found.descriptors["provenance"])
    assert [part["images"] for part in made["patterns"]] == [["0.nii"], ["1.nii"]]
    assert made["noise"] == "shrinkage_eye"
    for k, (subject, roi) in enumerate((s, r) for s in data for r in ("IT", "V1")):
        at = [place for place, name in enumerate(rois) if name == roi]
        alone = Dataset(
            data[subject].measurements[:, at], obs_descriptors=dict(data[subject].obs_descriptors)
        )
        left = Dataset(rows[subject].measurements[:, at])
        expected = compute_rdms(alone, "crossnobis", noise=Noise("shrinkage_eye", left))
        ids = alone.obs_descriptors["stimulus"]
        order = list(dict.fromkeys(ids))
        full = found.subset("index", k).get_matrices()[0]
        place = [found.pattern_descriptors["stimulus"].index(name) for name in order]
        np.testing.assert_allclose(full[np.ix_(place, place)], expected.get_matrices()[0], atol=1e-12)
    save_rdms(found, tmp_path / "it.h5")
    again = load_rdms(tmp_path / "it.h5")
    assert list(again.rdm_descriptors["roi"]) == found.rdm_descriptors["roi"]


# blocks, memory, files


@pytest.mark.parametrize(
    "method", ["euclidean", "correlation", "cosine", "crossnobis", "poisson", "mahalanobis"]
)
def test_blocks_change_nothing(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n, channels = 210, 12
    values = rng.gamma(2.0, 2.0, (2 * n, channels))
    values[5] = values[9]
    values[n + 5] = values[n + 9]
    values[[7, n + 7]] = 3.0
    values[11, 2] = np.nan
    data = Dataset(
        values, obs_descriptors={"stimulus": [f"s{k}" for k in range(n)] * 2, "run": [0] * n + [1] * n}
    )
    options = {"precision": np.eye(channels) + 0.1} if method == "mahalanobis" else {}
    whole = compute_rdms(data, method, **options).dissimilarities
    monkeypatch.setattr(distances, "_KEPT", 0)
    monkeypatch.setattr(distances, "_BLOCK", 64 * channels * 8)
    found = compute_rdms(data, method, out=tmp_path / "rdm.npy", **options)
    assert isinstance(found.dissimilarities, np.memmap)
    np.testing.assert_allclose(found.dissimilarities, whole, atol=1e-12, rtol=1e-12)
    single = compute_rdms(data, method, dtype=np.float32, **options)
    assert single.dissimilarities.dtype == np.float32
    np.testing.assert_allclose(single.dissimilarities, whole, atol=2e-5, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rdm.npy"]


MEMORY = """
import resource, sys
import numpy as np
from rsatoolbox.data import Dataset
from neurordl.rdms import compute_rdms

n, channels, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None
ids = [f"s{k}" for k in range(n)]
first = np.random.default_rng(0).standard_normal((200, 300), dtype=np.float32)
compute_rdms(Dataset(first, obs_descriptors={"stimulus": ids[:200]}), "correlation")
values = np.random.default_rng(0).standard_normal((n, channels), dtype=np.float32)
data = Dataset(values, obs_descriptors={"stimulus": ids})
held = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")][0] * 1024
result = 0 if out else n * (n - 1) // 2 * 4
soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
vm = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")][0] * 1024
limit = 0.5 * (values.nbytes + n * (n - 1) // 2 * 4) + result
resource.setrlimit(resource.RLIMIT_DATA, (int(vm + limit), hard))
rdms = compute_rdms(data, "correlation", dtype=np.float32, out=out)
a, b = values[3].astype(float), values[n - 1].astype(float)
pair = 3 * n - 3 * 4 // 2 + n - 1 - 3 - 1
assert abs(rdms.dissimilarities[0, pair] - (1 - np.corrcoef(a, b)[0, 1])) < 1e-5
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits anonymous memory on Linux only")
@pytest.mark.parametrize("n, channels, to_disk", [(2100, 16_500, False), (7000, 5000, True)])
def test_memory_is_the_result_and_a_block(n: int, channels: int, to_disk: bool, tmp_path: Path) -> None:
    """Half of input and result is all that the system gives beyond them."""
    out = str(tmp_path / "rdm.npy") if to_disk else ""
    command = [sys.executable, "-c", MEMORY, str(n), str(channels), out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dissimilarity": "crossnobis", "noise": "ledoit"},
            "noise='ledoit': expected one of 'diagonal', 'shrinkage_eye'",
        ),
        ({"dissimilarity": "euclidean", "noise": "full"}, "euclidean takes no noise=.*mahalanobis"),
        ({"dissimilarity": "poisson", "precision": np.eye(8)}, "takes no precision"),
        ({"dissimilarity": "crossnobis", "noise": "full", "precision": np.eye(8)}, "both given"),
        (
            {"dissimilarity": "crossnobis", "noise": Noise("full", Dataset(np.ones((30, 7))))},
            "expected 8 columns",
        ),
        (
            {"dissimilarity": "crossnobis", "noise": Noise("full", {"s1": Dataset(np.ones((3, 8)))})},
            "must be a mapping",
        ),
        ({"dissimilarity": "crossnobis", "noise": Noise("full", [1])}, "a Dataset for each"),
        (
            {"dissimilarity": "crossnobis", "noise": Noise("full", Dataset(np.full((30, 8), np.nan)))},
            "finite numbers",
        ),
        (
            {"dissimilarity": "mahalanobis", "noise": Noise("full", by="run")},
            "for dissimilarities across runs",
        ),
        ({"center": "mean"}, "center='mean': expected one of None, 'run', 'all'"),
        ({"dtype": np.int64}, "expected float64 or float32"),
        ({"dtype": "double precision"}, "dtype='double precision': expected float64 or float32"),
        ({"dtype": [1]}, "expected float64 or float32"),
        ({"out": "rdms.h5"}, "expected a file named .npy"),
        ({"out": "no/such/folder/rdms.npy"}, "the folder no/such/folder does not exist"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(measured(), **options)


@pytest.mark.parametrize("noise_by", ["pooled", "run"])
@pytest.mark.parametrize(
    ("dof", "message"),
    [
        ("many", "'dof' of the residuals of .* holds no numbers"),
        (None, "holds no numbers"),
        (np.nan, "with nan degrees of freedom"),
        (np.inf, "with inf degrees of freedom"),
        (0, "with 0 degrees of freedom"),
    ],
)
def test_degrees_of_freedom_that_are_none(noise_by: str, dof: Any, message: str) -> None:
    rows = as_residuals(residual_rows())
    rows.obs_descriptors["dof"] = [dof] * len(rows.measurements)
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(measured(), "crossnobis", noise=Noise("shrinkage_eye", rows, noise_by))


def test_a_grouping_of_noise_that_does_not_exist() -> None:
    with pytest.raises(NeurordlError, match="by='subject': expected one of 'pooled', 'run'"):
        Noise("full", by="subject")  # type: ignore[arg-type]


def test_run_noise_needs_runs_and_balance() -> None:
    rows = as_residuals(residual_rows())
    with pytest.raises(NeurordlError, match="every stimulus equally often"):
        compute_rdms(holes(), "crossnobis", noise=Noise("shrinkage_eye", rows, by="run"))
    other = Dataset(residual_rows(), obs_descriptors={"run": ["x"] * 60})
    with pytest.raises(NeurordlError, match="have no run 'r"):
        compute_rdms(measured(), "crossnobis", noise=Noise("shrinkage_eye", other, by="run"))


def test_one_run_is_not_enough() -> None:
    for method in ("crossnobis", "poisson_cv"):
        with pytest.raises(NeurordlError, match=f"{method} needs two or more runs.*a single run, 'r0'"):
            compute_rdms(measured(np.arange(24) < 6), method)


def test_centring_with_holes_is_refused() -> None:
    data = measured()
    data.measurements[0, 0] = np.nan
    with pytest.raises(NeurordlError, match="hold NaN or infinity in 1 of"):
        compute_rdms(data, center="all")


@pytest.mark.parametrize("method", ["crossnobis", "correlation", "mahalanobis"])
@pytest.mark.parametrize("noise", [*METHODS, "covariance"])
def test_channels_of_several_types_are_whitened_whatever_their_units(method: str, noise: str) -> None:
    data, rng = measured(repeats=2), np.random.default_rng(3)
    rows = rng.standard_normal((80, CHANNELS)) @ rng.normal(size=(CHANNELS, CHANNELS))
    types = ["mag", "eeg", "eeg", "mag", "grad", "grad", "mag", "eeg"]
    units = np.array([{"mag": 1e-14, "eeg": 1e-5, "grad": 1e-12}[kind] for kind in types])

    def rdms(factors: Any) -> Any:
        scaled = Dataset(
            data.measurements * factors, {}, data.obs_descriptors, channel_descriptors={"type": types}
        )
        known = np.cov(rows.T) * np.outer(factors, factors)
        given = known if noise == "covariance" else Noise(noise, Dataset(rows * factors))  # type: ignore[arg-type]
        return compute_rdms(scaled, method, noise=given).dissimilarities

    np.testing.assert_allclose(rdms(units), rdms(np.ones(CHANNELS)), rtol=1e-9)
    if method != "correlation" and noise == "covariance":  # no magnetometer is left out as a rounding error
        expected = compute_rdms(data, method, precision=np.linalg.inv(np.cov(rows.T)))
        np.testing.assert_allclose(rdms(units), expected.dissimilarities, rtol=1e-9)


@pytest.mark.parametrize("by", ["pooled", "run"])
def test_noise_within_runs_of_several_types(by: Any) -> None:
    data = measured(repeats=3)
    types = ["mag"] * 4 + ["eeg"] * 4
    units = np.repeat([1e-14, 1e-5], 4)
    scaled, plain = (
        Dataset(data.measurements * factor, {}, data.obs_descriptors, channel_descriptors={"type": types})
        for factor in (units, np.ones(8))
    )
    ours, expected = (
        compute_rdms(x, "crossnobis", noise=Noise("shrinkage_diag", by=by)) for x in (scaled, plain)
    )
    np.testing.assert_allclose(ours.dissimilarities, expected.dissimilarities, rtol=1e-9)
