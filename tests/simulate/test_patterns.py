from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist

from neurordl.errors import NeurordlError
from neurordl.simulate import simulate_patterns, simulate_subjects

IDS = [f"im{k}" for k in range(40)]
TRUE = np.random.default_rng(0).gamma(1.0, size=(40, 12)) + 3


def test_without_noise_distances_are_exactly_those_of_the_known_geometry():
    rdms = simulate_subjects(TRUE, IDS, 3, n_channels=20, idiosyncrasy=0, snr=math.inf, seed=1)
    assert_allclose(rdms.dissimilarities, np.tile(pdist(TRUE, "correlation"), (3, 1)), atol=1e-10)
    assert rdms.dissimilarity_measure == "correlation"
    assert [str(name) for name in rdms.rdm_descriptors["subject"]] == ["s01", "s02", "s03"]
    assert list(rdms.pattern_descriptors["stimulus"]) == IDS


@pytest.mark.parametrize("snr, idiosyncrasy", [(4.0, 0.3), (0.5, 0.0), (1.0, 1.0)])
def test_variances_are_as_stated(snr, idiosyncrasy):
    rng = np.random.default_rng(3)
    true, ids = rng.standard_normal((400, 30)), [f"i{k}" for k in range(400)]
    noisy = simulate_patterns(true, ids, 4, n_channels=50, idiosyncrasy=idiosyncrasy, snr=snr)
    clean = simulate_patterns(true, ids, 4, n_channels=50, idiosyncrasy=idiosyncrasy, snr=math.inf)
    for name, dataset in noisy.items():
        signal = clean[name].measurements
        noise = dataset.measurements - signal
        assert signal.var() == pytest.approx(1, rel=0.1)
        assert noise.var() == pytest.approx(1 / snr, rel=0.03)
        # what the known geometry explains of the signal: all but the subject's own share
        X = true - true.mean(axis=1, keepdims=True)
        explained = X @ np.linalg.lstsq(X, signal, rcond=None)[0]
        # the known patterns also span 29 of 400 dimensions of anything unrelated
        chance = 29 / 400
        assert explained.var() == pytest.approx(1 - idiosyncrasy * (1 - chance), abs=0.06)


def test_subjects_agree_more_with_less_noise():
    def agreement(**options: float) -> float:
        found = simulate_subjects(TRUE, IDS, 6, n_channels=40, seed=2, **options).dissimilarities
        return float(np.corrcoef(found)[np.triu_indices(6, 1)].mean())

    by_noise = [agreement(snr=snr, idiosyncrasy=0.1) for snr in (0.1, 1, 10)]
    by_share = [agreement(snr=10.0, idiosyncrasy=share) for share in (0.9, 0.4, 0.0)]
    assert by_noise == sorted(by_noise)
    assert by_share == sorted(by_share)
    assert agreement(snr=10.0, idiosyncrasy=1.0) == pytest.approx(0, abs=0.1)


def test_fewer_channels_than_the_geometry_has_project_it():
    true, ids = np.random.default_rng(5).standard_normal((30, 500)), [f"i{k}" for k in range(30)]
    patterns = simulate_patterns(true, ids, 1, n_channels=100, idiosyncrasy=0, snr=math.inf)[
        "s01"
    ].measurements
    assert patterns.shape == (30, 100)
    assert_allclose(patterns.mean(axis=1), 0, atol=1e-12)
    assert_allclose(pdist(patterns, "correlation"), pdist(true, "correlation"), atol=0.45)


def test_a_seed_gives_the_same_subjects_however_many():
    few, many = (simulate_patterns(TRUE, IDS, n, seed=7) for n in (2, 4))
    assert list(many) == ["s01", "s02", "s03", "s04"]
    for name in few:
        assert_allclose(few[name].measurements, many[name].measurements, rtol=0)
    other = simulate_patterns(TRUE, IDS, 2, seed=8)["s01"].measurements
    assert not np.allclose(few["s01"].measurements, other)
    assert not np.allclose(few["s01"].measurements, few["s02"].measurements)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"patterns": TRUE[:5]}, "shape"),
        ({"patterns": TRUE[0]}, "shape"),
        ({"patterns": np.where(TRUE > 5, np.nan, TRUE)}, "NaN"),
        ({"patterns": np.ones((40, 12))}, "constant"),
        ({"ids": [*IDS[:-1], IDS[0]]}, "im0"),
        ({"n_subjects": 0}, "n_subjects=0"),
        ({"n_channels": 1}, "n_channels=1"),
        ({"idiosyncrasy": 1.5}, "idiosyncrasy=1.5"),
        ({"snr": 0.0}, "snr=0.0"),
        ({"snr": math.nan}, "snr=nan"),
    ],
)
def test_what_cannot_be_simulated_is_refused(change, told):
    with pytest.raises(NeurordlError, match=told):
        simulate_patterns(**{"patterns": TRUE, "ids": IDS, "n_subjects": 2, **change})


def test_a_projected_geometry_has_unit_variance():
    true, ids = np.random.default_rng(5).standard_normal((200, 300)), [f"i{k}" for k in range(200)]
    found = simulate_patterns(true, ids, 1, n_channels=30, idiosyncrasy=0, snr=math.inf)["s01"]
    assert found.measurements.var() == pytest.approx(1, rel=0.1)
