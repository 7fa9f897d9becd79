"""Simulated epochs: geometries when they are on, noise as it is described."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import neurordl as nrl
from neurordl.simulate import simulate_epochs

IDS = [f"s{k}" for k in range(10)]
TIMES = np.arange(20) / 100
LAYERS = {name: np.random.default_rng(k).normal(size=(10, 30)) for k, name in enumerate(("early", "late"))}
ON = {"early": TIMES < 0.1, "late": TIMES >= 0.15}


def simulated(gain: float, **options: Any) -> Any:
    return simulate_epochs(LAYERS, {name: gain * on for name, on in ON.items()}, IDS, TIMES, **options)


def test_each_geometry_is_there_when_it_is_on() -> None:
    subjects = simulated(200.0, n_subjects=3, n_channels=40, runs=3)
    assert [part.descriptors["subject"] for part in subjects] == ["s01", "s02", "s03"]
    rdms = nrl.compute_rdms(subjects, "correlation")
    order = [list(rdms.pattern_descriptors["stimulus"]).index(stimulus) for stimulus in IDS]
    for rdm, time in zip(rdms.get_matrices(), rdms.rdm_descriptors["time"], strict=True):
        for name, on in ON.items():
            error = np.abs(rdm[np.ix_(order, order)] - (1 - np.corrcoef(LAYERS[name]))).max()
            assert (error < 0.05) == on[np.searchsorted(TIMES, time)]
    again = simulated(200.0, n_subjects=1, n_channels=40, runs=3)
    np.testing.assert_array_equal(again[0].measurements, subjects[0].measurements)


def test_noise_has_unit_variance_and_memory() -> None:
    noise = simulated(0.0, runs=20, n_subjects=1)[0].measurements
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert np.mean(noise[..., 1:] * noise[..., :-1]) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    "strengths, message",
    [({"early": TIMES}, "name both alike"), (dict.fromkeys(LAYERS, TIMES[1:]), "have shape")],
)
def test_bad_input(strengths: Any, message: str) -> None:
    with pytest.raises(nrl.NeurordlError, match=message):
        simulate_epochs(LAYERS, strengths, IDS, TIMES)
