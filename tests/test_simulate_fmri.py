"""Simulated runs, repeats, missing cells and smooth noise; simulated NIfTI; planning; the committed study."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms.reliability import split_half
from neurordl.simulate import patterns_of, plan_study, simulate_fmri, simulate_patterns, simulate_subjects

IDS = [f"im{k}" for k in range(12)]
TRUE = np.random.default_rng(0).standard_normal((12, 20))
STUDY = Path(__file__).parents[1] / "data" / "simulated_fmri"


def test_runs_and_repeats() -> None:
    found = simulate_patterns(TRUE, IDS, 2, runs=3, repeats=2, snr=0.5, idiosyncrasy=0, seed=1)["s02"]
    assert found.measurements.shape == (3 * 2 * 12, 100)
    assert found.obs_descriptors["stimulus"] == IDS * 6
    assert found.obs_descriptors["run"] == [f"run-0{k}" for k in (1, 2, 3) for _ in range(24)]
    # repeats differ by noise alone, of the variance that was asked for
    cells = found.measurements.reshape(6, 12, 100)
    assert (cells - cells.mean(0)).var(ddof=0) * 6 / 5 == pytest.approx(2, rel=0.05)
    clean = simulate_patterns(TRUE, IDS, 2, runs=3, repeats=2, snr=math.inf, idiosyncrasy=0, seed=1)["s02"]
    np.testing.assert_array_equal(clean.measurements[:12], clean.measurements[-12:])


def test_crossnobis_of_simulated_runs_is_the_known_geometry() -> None:
    found = simulate_subjects(
        TRUE, IDS, 40, method="crossnobis", runs=4, snr=1.0, idiosyncrasy=0, n_channels=60
    )
    X = TRUE - TRUE.mean(1, keepdims=True)
    expected = pdist(X / X.std(), "sqeuclidean") / 20
    z = (found.dissimilarities.mean(0) - expected) / (found.dissimilarities.std(0, ddof=1) / np.sqrt(40))
    assert abs(z).max() < 4
    naive = simulate_subjects(TRUE, IDS, 40, method="euclidean", runs=4, snr=1.0, idiosyncrasy=0)
    assert (naive.dissimilarities.mean(0) > expected).all()


def test_smooth_noise_keeps_its_variance_and_correlates_neighbours() -> None:
    data = (
        simulate_patterns(
            np.random.default_rng(0).standard_normal((500, 4)),
            [f"i{k}" for k in range(500)],
            1,
            idiosyncrasy=0,
            snr=1e-8,
            smoothness=2.0,
            seed=3,
        )["s01"].measurements
        * 1e-4
    )
    assert data.var() == pytest.approx(1, rel=0.05)
    near = np.mean(data * np.roll(data, 1, axis=1))
    far = np.mean(data * np.roll(data, 40, axis=1))
    assert near == pytest.approx(0.5 * np.exp(-1 / 16), abs=0.03)  # half of it is smooth
    assert far == pytest.approx(0, abs=0.03)


def test_missing_stimuli_and_cells() -> None:
    found = simulate_patterns(TRUE, IDS, 6, runs=4, missing=0.25, seed=2)
    for data in found.values():
        seen = data.obs_descriptors["stimulus"]
        assert len(set(seen)) == 9
        assert min(seen.count(name) for name in set(seen)) >= 2
        assert len(seen) < 36
    assert len({frozenset(data.obs_descriptors["stimulus"]) for data in found.values()}) > 1
    with pytest.warns(UserWarning, match="9 of"):
        rdms = nrl.compute_rdms(found, "crossnobis", center="run")
    measured = np.isfinite(rdms.dissimilarities).sum(1)
    assert (measured == 9 * 8 // 2).all()


@pytest.mark.parametrize("method", ["correlation", "euclidean"])
def test_patterns_of_an_rdm(method: str) -> None:
    rows = nrl.compute_rdms(simulate_patterns(TRUE, IDS, 1, snr=math.inf, idiosyncrasy=0)["s01"], method)
    found = patterns_of(rows)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-12)
    metric = {"correlation": "correlation", "euclidean": "sqeuclidean"}[method]
    np.testing.assert_allclose(pdist(found, metric), rows.dissimilarities[0], atol=1e-10)
    again = simulate_subjects(found, IDS, 1, snr=math.inf, idiosyncrasy=0, method=method).dissimilarities[0]
    np.testing.assert_allclose(np.corrcoef(again, rows.dissimilarities[0])[0, 1], 1, atol=1e-10)


def test_rdms_without_a_geometry() -> None:
    names = {"stimulus": ["a", "b", "c"]}
    with pytest.raises(NeurordlError, match="missing pairs"):
        patterns_of(RDMs(np.array([[1.0, np.nan, 1.0]]), pattern_descriptors=dict(names)))
    with pytest.raises(NeurordlError, match="no geometry"):
        patterns_of(RDMs(np.zeros((1, 3)), pattern_descriptors=dict(names)))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"runs": 0}, "runs=0"),
        ({"repeats": 0}, "repeats=0"),
        ({"smoothness": -1.0}, "smoothness=-1"),
        ({"missing": 1.0}, "missing=1.0"),
    ],
)
def test_what_cannot_be_simulated(change: dict[str, Any], told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        simulate_patterns(TRUE, IDS, 1, **change)


# in the scanner


def test_simulated_fmri_comes_back(tmp_path: Path) -> None:
    study = simulate_fmri(
        tmp_path / "study",
        {"IT": TRUE, "EVC": TRUE[::-1]},
        IDS,
        2,
        shape=(6, 4, 3),
        runs=3,
        snr=20.0,
        idiosyncrasy=0,
        drift=2.0,
        missing=0.2,
        seed=5,
    )
    found = nrl.read_bids(study, "sim", mask=study / "atlas.nii.gz", labels=study / "atlas.tsv")
    assert list(found) == ["sub-01", "sub-02"]
    for data in found.values():
        assert data.n_channel == 72
        of_runs = [set() for _ in range(3)]
        for stimulus, run in zip(data.obs_descriptors["stimulus"], data.obs_descriptors["run"], strict=True):
            of_runs[int(run[-1]) - 1].add(stimulus)
        assert {len(shown) for shown in of_runs} == {10}
    rdms = nrl.compute_rdms(found, "crossnobis", center="run")
    X = TRUE - TRUE.mean(1, keepdims=True)
    for k, roi in enumerate(rdms.rdm_descriptors["roi"]):
        order = [IDS.index(name) for name in rdms.pattern_descriptors["stimulus"]]
        true = pdist((X if roi == "IT" else X[::-1])[order], "sqeuclidean")
        own = np.isfinite(rdms.dissimilarities[k])
        assert np.corrcoef(true[own], rdms.dissimilarities[k][own])[0, 1] > 0.75
    made = json.loads((study / "simulation.json").read_text())
    assert made["snr"] == 20.0
    with pytest.raises(NeurordlError, match="is not empty"):
        simulate_fmri(study, TRUE, IDS, 1)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"shape": (1, 1, 0)}, r"shape=\(1, 1, 0\)"),
        ({"runs": 0}, "runs=0"),
        ({"snr": 0.0}, "snr=0.0"),
        ({"autocorrelation": 1.0}, "autocorrelation=1.0"),
        ({"t_r": 0.0}, "t_r=0.0"),
    ],
)
def test_scanners_that_cannot_be(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        simulate_fmri(tmp_path / "x", TRUE, IDS, 1, **change)
    assert not (tmp_path / "x").exists()


def test_the_committed_study_is_what_its_script_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make", STUDY / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(tmp_path)
    committed = sorted(path.relative_to(STUDY / "study") for path in (STUDY / "study").rglob("*.*"))
    assert committed == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    for path in committed:
        if path.suffix == ".gz":
            import nibabel as nib

            one, other = (nib.load(root / path).get_fdata() for root in (STUDY / "study", tmp_path))
            np.testing.assert_allclose(one, other, atol=1)  # rounding may differ between machines
        elif path.suffix != ".h5":
            assert filecmp.cmp(STUDY / "study" / path, tmp_path / path, shallow=False)
    assert sum(path.stat().st_size for path in STUDY.rglob("*.*")) < 1_000_000


def test_split_halves_are_reliable_where_there_is_signal() -> None:
    good = simulate_patterns(TRUE, IDS, 1, runs=4, snr=50.0)["s01"]
    for method in ("crossnobis", "correlation"):
        found = split_half(good, method)
        assert found.shape == (1,)
        assert found[0] > 0.95
    order = np.random.default_rng(0).permutation(good.n_obs)
    from rsatoolbox.data import Dataset

    moved = Dataset(
        good.measurements[order],
        obs_descriptors={name: [values[k] for k in order] for name, values in good.obs_descriptors.items()},
    )
    runs = list(dict.fromkeys(moved.obs_descriptors["run"]))
    if {runs[0], runs[2]} in ({"run-01", "run-03"}, {"run-02", "run-04"}):
        np.testing.assert_allclose(split_half(moved, "crossnobis"), split_half(good, "crossnobis"))
    with pytest.raises(NeurordlError, match="need 4 runs or more, and there are 2"):
        split_half(simulate_patterns(TRUE, IDS, 1, runs=2)["s01"], "crossnobis")


# planning


def test_more_of_everything_finds_more() -> None:
    rival = np.random.default_rng(9).standard_normal((12, 20)) + TRUE
    table = plan_study(
        TRUE,
        IDS,
        subjects=(3, 8),
        stimuli=(6, 12),
        runs=(2, 6),
        rival=rival,
        n_simulations=12,
        snr=0.03,
        n_channels=50,
    )
    assert len(table) == 8
    assert {"n_subjects", "n_stimuli", "n_runs", "similarity", "power", "power_rival"} <= set(table)
    by = table.set_index(["n_subjects", "n_stimuli", "n_runs"])
    assert by.loc[(8, 12, 6), "power"] > by.loc[(3, 6, 2), "power"]
    assert by.loc[(8, 12, 6), "similarity"] > by.loc[(8, 12, 2), "similarity"]
    assert by.loc[(8, 12, 6), "power_rival"] >= by.loc[(3, 12, 2), "power_rival"]
    assert (table["ceiling_lower"] < table["ceiling_upper"]).all()
    again = plan_study(TRUE, IDS, subjects=(3,), runs=(2,), n_simulations=3, n_channels=50)
    assert again.equals(plan_study(TRUE, IDS, subjects=(3,), runs=(2,), n_simulations=3, n_channels=50))
    with pytest.raises(NeurordlError, match="subjects="):
        plan_study(TRUE, IDS, subjects=(1,))


def test_without_signal_the_power_is_the_level() -> None:
    table = plan_study(TRUE, IDS, subjects=(6,), runs=(2,), n_simulations=60, snr=1e-9, n_channels=20)
    assert table["power"].item() < 0.17  # 60 draws at 5 %: above this in 1 of 5,000
