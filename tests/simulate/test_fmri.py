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
from neurordl.rdms import odd_even_reliability
from neurordl.simulate import (
    Measurement,
    Scan,
    patterns_of,
    plan_study,
    simulate_fmri,
    simulate_patterns,
    simulate_subjects,
)

IDS = [f"im{k}" for k in range(12)]
TRUE = np.random.default_rng(0).standard_normal((12, 20))
STUDY = Path(__file__).parents[2] / "data" / "simulated_fmri"


def test_runs_and_repeats() -> None:
    found = simulate_patterns(
        TRUE, IDS, 2, measurement=Measurement(runs=3, repeats=2), snr=0.5, idiosyncrasy=0, seed=1
    )["s02"]
    assert found.measurements.shape == (3 * 2 * 12, 100)
    assert found.obs_descriptors["stimulus"] == IDS * 6
    assert found.obs_descriptors["run"] == [f"run-0{k}" for k in (1, 2, 3) for _ in range(24)]
    # repeats differ by noise alone, of the variance that was asked for
    cells = found.measurements.reshape(6, 12, 100)
    assert (cells - cells.mean(0)).var(ddof=0) * 6 / 5 == pytest.approx(2, rel=0.05)
    clean = simulate_patterns(
        TRUE, IDS, 2, measurement=Measurement(runs=3, repeats=2), snr=math.inf, idiosyncrasy=0, seed=1
    )["s02"]
    np.testing.assert_array_equal(clean.measurements[:12], clean.measurements[-12:])


def test_crossnobis_of_simulated_runs_is_the_known_geometry() -> None:
    found = simulate_subjects(
        TRUE,
        IDS,
        40,
        dissimilarity="crossnobis",
        measurement=Measurement(runs=4),
        snr=1.0,
        idiosyncrasy=0,
        n_channels=60,
    )
    X = TRUE - TRUE.mean(1, keepdims=True)
    expected = pdist(X / X.std(), "sqeuclidean") / 20
    z = (found.dissimilarities.mean(0) - expected) / (found.dissimilarities.std(0, ddof=1) / np.sqrt(40))
    assert abs(z).max() < 4
    naive = simulate_subjects(
        TRUE, IDS, 40, dissimilarity="euclidean", measurement=Measurement(runs=4), snr=1.0, idiosyncrasy=0
    )
    assert (naive.dissimilarities.mean(0) > expected).all()


def test_smooth_noise_keeps_its_variance_and_correlates_neighbours() -> None:
    data = (
        simulate_patterns(
            np.random.default_rng(0).standard_normal((500, 4)),
            [f"i{k}" for k in range(500)],
            1,
            idiosyncrasy=0,
            snr=1e-8,
            measurement=Measurement(smoothness=2.0),
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
    found = simulate_patterns(TRUE, IDS, 6, measurement=Measurement(runs=4, missing=0.25), seed=2)
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
    again = simulate_subjects(
        found, IDS, 1, snr=math.inf, idiosyncrasy=0, dissimilarity=method
    ).dissimilarities[0]
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
        Measurement(**change)


# in the scanner


def test_simulated_fmri_comes_back(tmp_path: Path) -> None:
    study = simulate_fmri(
        tmp_path / "study",
        {"IT": TRUE, "EVC": TRUE[::-1]},
        IDS,
        2,
        scan=Scan(shape=(6, 4, 3), runs=3, drift=2.0, missing=0.2),
        snr=20.0,
        idiosyncrasy=0,
        seed=5,
    )
    found = nrl.read_bids(study, "sim", mask=nrl.Regions(study / "atlas.nii.gz", labels=study / "atlas.tsv"))
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
        ({"shape": (1, 1, 0)}, r"shape\[2\]=0"),
        ({"runs": 0}, "runs=0"),
        ({"snr": 0.0}, "snr=0.0"),
        ({"autocorrelation": 1.0}, "autocorrelation=1.0"),
        ({"t_r": 0.0}, "t_r=0.0"),
        ({"t_r": math.nan}, "t_r=nan"),
        ({"t_r": 500.0}, "a simulated run with t_r=500.0: nilearn cannot make the design matrix"),
        ({"smoothness": math.nan}, "smoothness=nan"),
        ({"drift": math.nan}, "drift=nan"),
        ({"shape": (4, 4)}, "expected three numbers"),
        ({"shape": (4, 4, 2.5)}, r"shape\[2\]=2.5: expected a whole number"),
        ({"n_subjects": 0}, "n_subjects=0"),
        ({"n_subjects": 1.5}, "n_subjects=1.5: expected a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"patterns": TRUE * np.nan}, "hold NaN"),
        ({"patterns": {}}, "each of 0 ROIs"),
        ({"patterns": {"atlas": TRUE}}, "'atlas' cannot name a ROI"),
        ({"patterns": {"a/b": TRUE}}, "'a/b' cannot name a ROI"),
        ({"task": "a_b"}, "task='a_b'"),
        ({"hrf_model": "foo"}, "cannot make the design matrix: .*foo"),
        ({"hrf_model": "fir"}, "several regressors for each condition"),
    ],
)
def test_scanners_that_cannot_be(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    def simulate() -> None:
        of_scan = {name: value for name, value in change.items() if name in Scan.__dataclass_fields__}
        call = {"folder": tmp_path / "x", "patterns": TRUE, "ids": IDS, "n_subjects": 1, **change}
        simulate_fmri(**{k: call[k] for k in call if k not in of_scan}, scan=Scan(**of_scan))

    with pytest.raises(NeurordlError, match=told):
        simulate()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("autocorrelation", [0.0, 0.3, 0.95, -0.9])
def test_noise_is_as_variable_at_first_as_at_last(autocorrelation: float) -> None:
    scan = Scan(shape=(20, 20, 20), smoothness=0.0, autocorrelation=autocorrelation)
    noise = scan.noise(40, np.random.default_rng(0))
    np.testing.assert_allclose(noise.reshape(40, -1).var(axis=1), 1, atol=0.1)
    lagged = (noise[1:] * noise[:-1]).mean()
    np.testing.assert_allclose(lagged, autocorrelation, atol=0.02)


def test_no_noise_is_written_as_such(tmp_path: Path) -> None:
    study = simulate_fmri(tmp_path / "x", TRUE, IDS, 1, scan=Scan(runs=1), snr=math.inf)
    assert json.loads((study / "simulation.json").read_text())["snr"] == "inf"


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
        elif path.suffix == ".h5":
            one, other = (nrl.load_rdms(root / path).dissimilarities for root in (STUDY / "study", tmp_path))
            np.testing.assert_allclose(one, other, rtol=1e-10)
        else:
            assert filecmp.cmp(STUDY / "study" / path, tmp_path / path, shallow=False)
    assert sum(path.stat().st_size for path in STUDY.rglob("*.*")) < 1_000_000


def test_split_halves_are_reliable_where_there_is_signal() -> None:
    good = simulate_patterns(TRUE, IDS, 1, measurement=Measurement(runs=4), snr=50.0)["s01"]
    for method in ("crossnobis", "correlation"):
        found = odd_even_reliability(good, method)
        assert found.shape == (1,)
        assert found[0] > 0.95
    from rsatoolbox.data import Dataset

    # run-03, run-02, run-01, run-04: the same halves, in another order
    order = np.concatenate([np.arange(12) + 12 * run for run in (2, 1, 0, 3)])
    moved = Dataset(
        good.measurements[order],
        obs_descriptors={name: [values[k] for k in order] for name, values in good.obs_descriptors.items()},
    )
    np.testing.assert_allclose(
        odd_even_reliability(moved, "crossnobis"), odd_even_reliability(good, "crossnobis")
    )
    weak = simulate_patterns(TRUE, IDS, 1, measurement=Measurement(runs=4), snr=0.2)["s01"]
    of_halves = [
        nrl.compute_rdms(
            Dataset(weak.measurements[at], obs_descriptors={"stimulus": IDS * 2, "run": [1] * 12 + [2] * 12}),
            "crossnobis",
        ).dissimilarities[0]
        for at in (np.r_[0:12, 24:36], np.r_[12:24, 36:48])
    ]
    np.testing.assert_allclose(odd_even_reliability(weak, "crossnobis")[0], np.corrcoef(*of_halves)[0, 1])
    with pytest.raises(NeurordlError, match="needs 4 runs or more, but there are 2"):
        odd_even_reliability(
            simulate_patterns(TRUE, IDS, 1, measurement=Measurement(runs=2))["s01"], "crossnobis"
        )


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
    table = plan_study(
        *(TRUE, IDS), subjects=(6,), runs=(2,), n_simulations=200, snr=1e-9, n_channels=20, alpha=0.2
    )
    assert 0.11 < table["power"].item() < 0.30  # 200 draws at 20 %: outside in less than 1 of 1,000


@pytest.mark.parametrize("is_true", [True, False])
def test_planning_equals_a_loop_of_its_own(is_true: bool) -> None:
    """Studies drawn, measured and tested by numpy and scipy alone, to the precision of 400 of them."""

    from scipy.stats import ttest_1samp, ttest_rel, zscore

    rng = np.random.default_rng(5)
    rival, n_channels, snr, own = TRUE + 1.2 * rng.standard_normal(TRUE.shape), 30, 0.1, 0.3
    model = TRUE if is_true else TRUE + 0.6 * rng.standard_normal(TRUE.shape)
    found = plan_study(
        *(model, IDS),
        **{"subjects": (5,), "runs": (2,), "rival": rival, "n_simulations": 400, "seed": 3},
        **{"snr": snr, "idiosyncrasy": own, "n_channels": n_channels},
        **({} if is_true else {"truth": TRUE}),
    ).iloc[0]

    def spread(patterns: Any) -> Any:
        rank = min(patterns.shape[1], n_channels - 1)
        basis = rng.standard_normal((n_channels, rank))
        basis = np.linalg.qr(basis - basis.mean(0))[0]
        into = np.linalg.qr(rng.standard_normal((patterns.shape[1], rank)))[0]
        return patterns @ into @ basis.T * np.sqrt(n_channels / rank)

    truth = TRUE - TRUE.mean(1, keepdims=True)
    models = [pdist(rows - rows.mean(1, keepdims=True), "sqeuclidean") for rows in (model, rival)]
    one, other = np.triu_indices(12, 1)
    rows = []
    for _ in range(400):
        vectors = []
        for _ in range(5):
            private = rng.standard_normal((12, 5))
            signal = np.sqrt(1 - own) * spread(truth / truth.std())
            signal += np.sqrt(own) * spread(private / private.std())
            runs = signal + rng.standard_normal((2, 12, n_channels)) / np.sqrt(snr)
            step = runs[:, one] - runs[:, other]
            vectors.append((step[0] * step[1]).mean(axis=1))
        similar = np.array([[np.corrcoef(model, vector)[0, 1] for vector in vectors] for model in models])
        scaled = zscore(vectors, axis=1)
        lower = [np.corrcoef(vectors[k], np.delete(scaled, k, 0).mean(0))[0, 1] for k in range(5)]
        upper = [np.corrcoef(vectors[k], scaled.mean(0))[0, 1] for k in range(5)]
        above = ttest_1samp(similar[0], 0, alternative="greater").pvalue < 0.05
        step = ttest_rel(*similar)
        better = step.pvalue < 0.05 and step.statistic > 0
        rows.append([similar[0].mean(), np.mean(lower), np.mean(upper), above, better])
    names = ["similarity", "ceiling_lower", "ceiling_upper", "power", "power_rival"]
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(400)
    z = (found[names].to_numpy(float) - mean) / (error * np.sqrt(2))
    assert abs(z).max() < 3.5, dict(zip(names, z, strict=True))
    assert 0.1 < mean[3] < 0.9  # else nothing could be told


@pytest.mark.parametrize(
    ("comparison", "bootstrap", "inference"),
    [
        ("corr", None, "t over subjects"),
        ("cosine", None, "t over subjects"),
        ("corr", "subjects", "Bootstrap of subjects"),
        ("corr", nrl.Bootstrap("stimuli", n=200, seed=1, variance="bootstrap"), "Bootstrap of stimuli"),
        (
            "corr",
            nrl.Bootstrap("both", n=200, variance="bootstrap"),
            "Bootstrap of subjects and stimuli",
        ),
        (
            "cosine",
            nrl.Bootstrap("both", n=200),
            "Bootstrap of subjects and stimuli, variances by components",
        ),
        (
            "corr",
            nrl.Bootstrap(
                "stimuli", n=200, groups={stimulus: k // 2 for k, stimulus in enumerate(reversed(IDS))}
            ),
            "Bootstrap of groups of stimuli, variances by components",
        ),
    ],
)
def test_power_is_that_of_the_evaluation_that_will_be_used(
    comparison: str, bootstrap: Any, inference: str
) -> None:
    rival = TRUE + np.random.default_rng(5).standard_normal(TRUE.shape)
    numbers = {"snr": 0.06, "n_channels": 20, "measurement": Measurement(runs=2)}
    plan = plan_study(
        *(TRUE, IDS),
        **{"subjects": (3, 5), "runs": (2,), "rival": rival, "n_simulations": 6, "seed": 3, **numbers},
        **{"comparison": comparison, "bootstrap": bootstrap},
    )
    assert plan[["comparison", "inference"]].to_numpy().tolist() == [[comparison, inference]] * 2
    centred = np.stack([model - model.mean(1, keepdims=True) for model in (TRUE, rival)])
    vectors = np.stack([pdist(model, "sqeuclidean") for model in centred])
    models = RDMs(vectors, pattern_descriptors={"stimulus": IDS}, rdm_descriptors={"name": ["a", "b"]})
    columns = ["similarity", "ceiling_lower", "ceiling_upper", "power", "power_rival"]
    for _, row in plan.iterrows():
        seen = []
        for k in range(6):
            drawn = int(np.random.SeedSequence([3, k]).generate_state(1)[0])
            rdms = simulate_subjects(TRUE, IDS, 5, dissimilarity="crossnobis", seed=drawn, **numbers)
            some = [f"s{n + 1:02d}" for n in range(row["n_subjects"])]
            scores = nrl.evaluate(models, rdms, comparison=comparison, bootstrap=bootstrap, subjects=some)
            mean = scores.frame[scores.frame["subject"] == "mean"].iloc[0]
            step = scores.differences.iloc[0]
            better = step["p"] < 0.05 and step["difference"] > 0
            seen.append(
                [mean["score"], mean["ceiling_lower"], mean["ceiling_upper"], mean["p"] < 0.05, better]
            )
        np.testing.assert_allclose(row[columns].astype(float), np.mean(seen, axis=0), rtol=1e-9)
    assert 0 < plan["power"].sum() < 2  # else nothing was tested


def test_a_mean_over_channels_is_no_part_of_the_geometry() -> None:
    shifted = TRUE + 3 * np.random.default_rng(2).standard_normal((12, 1))
    options = {"subjects": (3,), "runs": (2,), "n_simulations": 2, "snr": math.inf, "idiosyncrasy": 0}
    found = plan_study(shifted, IDS, rival=TRUE + np.eye(12, 20), **options)
    np.testing.assert_allclose(found["similarity"], 1)
    np.testing.assert_allclose(found["power_rival"], 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"subjects": ()}, r"subjects=\(\)"),
        ({"subjects": 5}, "subjects=5"),
        ({"stimuli": ()}, r"stimuli=\(\)"),
        ({"runs": (2.5,)}, "runs=2.5"),
        ({"alpha": 2}, "alpha=2"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"rival": np.ones(12)}, r"patterns of the rival have shape \(12,\)"),
        ({"rival": np.ones((12, 3))}, "patterns of the rival are constant"),
        ({"rival": np.full((12, 3), np.nan)}, "patterns of the rival hold NaN"),
        ({"truth": np.ones(12)}, r"patterns of the truth have shape \(12,\)"),
        ({"patterns": [["a"] * 3] * 12}, "not an array of numbers"),
        ({"measurement": Measurement(missing=0.8), "stimuli": (4,)}, "too few pairs"),
    ],
)
def test_plans_that_cannot_be(change: dict[str, Any], told: str) -> None:
    call = {"patterns": TRUE, "ids": IDS, "subjects": (3,), "runs": (2,), "n_simulations": 2}
    with pytest.raises(NeurordlError, match=told):
        plan_study(**{**call, **change})
