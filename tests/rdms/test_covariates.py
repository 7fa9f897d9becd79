"""RDMs of simple properties of images and of tables, against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from scipy import optimize, signal, stats
from scipy.spatial.distance import pdist

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms.covariates import gabor_energies
from neurordl.rsa.inference.fitted import Model, fit_model


def images(n: int = 5, size: int = 32, channels: int = 3) -> nrl.StimulusSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return nrl.StimulusSet.from_array(pixels, [f"s{k}" for k in range(n)])


def by_name(rdms) -> dict[str, np.ndarray]:
    return dict(zip(rdms.rdm_descriptors["name"], rdms.dissimilarities, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_properties_of_images_are_those_of_numpy(channels):
    stimuli = images(channels=channels)
    values = stimuli.pixels.numpy().astype(float) / 255
    gray = values[:, 0]
    if channels == 3:
        gray = 0.299 * values[:, 0] + 0.587 * values[:, 1] + 0.114 * values[:, 2]
    flat = gray.reshape(5, -1)
    found = by_name(nrl.image_rdms(stimuli))
    assert_allclose(found["pixels"], pdist(flat, "correlation"), atol=1e-10)
    assert_allclose(found["luminance"], pdist(flat.mean(1)[:, None]), atol=1e-12)
    assert_allclose(found["contrast"], pdist(flat.std(1)[:, None]), atol=1e-12)
    assert_allclose(
        by_name(nrl.image_rdms(stimuli, "euclidean"))["pixels"], pdist(flat, "sqeuclidean") / 1024, atol=1e-12
    )


def test_gabor_energies_are_those_of_a_plain_convolution():
    picture = np.random.default_rng(0).random((32, 32))
    found = gabor_energies(torch.as_tensor(picture[None]))[0].numpy()
    assert found.shape == (8, 8, 8)  # waves of 8 and 4 pixels; 2 are too short
    k = 0
    for wave in (8, 4):
        for angle in np.arange(4) * np.pi / 4:
            reach = int(np.ceil(2.5 * 0.56 * wave))
            padded, energy = np.pad(picture, reach, mode="reflect"), 0
            y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            envelope = np.exp(-(x**2 + y**2) / 2 / (0.56 * wave) ** 2)
            along = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wave
            even = envelope * (np.cos(along) - (envelope * np.cos(along)).sum() / envelope.sum())
            for kernel in (even, envelope * np.sin(along)):
                energy = energy + signal.correlate2d(padded, kernel / envelope.sum(), mode="valid") ** 2
            means = np.sqrt(energy).reshape(8, 4, 8, 4).mean(axis=(1, 3))
            assert_allclose(found[k], means, atol=1e-10)
            k += 1


def test_gabor_energies_see_orientation_and_not_phase():
    place = torch.arange(64, dtype=torch.float64) * 2 * np.pi / 8
    waves = torch.stack([torch.cos(place + phase).expand(64, 64) for phase in (0.0, 1.0)])
    across, along = gabor_energies(waves), gabor_energies(waves.mT.contiguous())
    middle = (slice(None), slice(None), slice(3, 5), slice(3, 5))
    assert_allclose(across[middle][0], across[middle][1], rtol=0.02, atol=1e-12)
    assert across[middle][0].mean(dim=(1, 2)).argmax() == 4  # waves of 8 pixels, upright
    assert along[middle][0].mean(dim=(1, 2)).argmax() == 6
    uniform = gabor_energies(torch.full((1, 64, 64), 0.7, dtype=torch.float64))
    assert_allclose(uniform, 0, atol=1e-12)


def test_large_images_are_made_smaller_without_aliases():
    """Of noise in 192 x 192 pixels, the means of 3 x 3 remain, of a third of the contrast."""
    rng = np.random.default_rng(0)
    large = gabor_energies(torch.as_tensor(rng.normal(size=(4, 192, 192))))
    small = gabor_energies(torch.as_tensor(rng.normal(size=(4, 64, 64))))
    assert large.shape == small.shape
    assert 0.2 < float(large.mean() / small.mean()) < 0.45


def test_decimal_pixels_are_those_of_whole_numbers():
    stimuli = images()
    decimal = nrl.StimulusSet.from_array(
        stimuli.pixels.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255, list(stimuli.ids)
    )
    for measure in ("correlation", "euclidean"):
        found, want = (nrl.image_rdms(x, measure).dissimilarities for x in (decimal, stimuli))
        assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("size", [6, 100])
def test_images_may_be_of_any_size(size):
    found = nrl.image_rdms(images(size=size))
    assert np.isfinite(found.dissimilarities).all()


def test_columns_of_a_table(tmp_path):
    table = pd.DataFrame(
        {
            "stimulus": ["s1", "s2", "s3", "s4"],
            "task": ["see", "hear", "see", None],
            "rating": [1, 2.5, np.nan, 7],
            "face": [True, False, True, True],
        }
    )
    found = nrl.property_rdms(table)
    assert found.pattern_descriptors["stimulus"] == ["s1", "s2", "s3", "s4"]
    rdms = by_name(found)
    assert_array_equal(rdms["task"], [1, 0, np.nan, 1, np.nan, np.nan])
    assert_array_equal(rdms["rating"], [1.5, np.nan, 6, np.nan, 4.5, np.nan])
    assert_array_equal(rdms["face"], [1, 0, 0, 1, 1, 0])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert_array_equal(nrl.property_rdms(tmp_path / "table.csv", ["face"]).dissimilarities[0], rdms["face"])
    with pytest.raises(NeurordlError, match="no column but 'stimulus'"):
        nrl.property_rdms(table[["stimulus"]])
    with pytest.raises(NeurordlError, match="motion"):
        nrl.property_rdms(table, ["motion"])


def test_features_are_weighted_on_some_stimuli_and_scored_on_others():
    rng = np.random.default_rng(0)
    values, ids = rng.normal(size=(24, 10)), [f"s{k}" for k in range(24)]
    patterns = Dataset(
        values, obs_descriptors={"stimulus": ids}, channel_descriptors={"half": ["a"] * 4 + ["b"] * 6}
    )
    features, halves = nrl.feature_rdms(patterns), nrl.feature_rdms(patterns, "half")
    for k, vector in enumerate(features.dissimilarities):
        assert_allclose(vector, pdist(values[:, [k]], "sqeuclidean"), atol=1e-12)
    assert features.rdm_descriptors["name"] == [str(k) for k in range(10)]
    assert_allclose(by_name(halves)["b"], pdist(values[:, 4:], "sqeuclidean") / 6, atol=1e-12)
    true = np.array([3.0, 2, 1, 0, 0, 0, 0, 0, 0, 0])
    data = true @ features.dissimilarities + rng.normal(size=(5, 276))
    people = RDMs(data, rdm_descriptors={"subject": list("vwxyz")}, pattern_descriptors={"stimulus": ids})
    table = nrl.evaluate_fitted(
        {"units": features, "sum": nrl.compute_rdms(patterns, "euclidean")}, people, bootstrap=None
    ).set_index("model")["score"]
    assert table["units"] > 0.9 > 0.7 > table["sum"]
    weights = fit_model(Model("units", features.dissimilarities), data, "corr")
    centered = features.dissimilarities - features.dissimilarities.mean(axis=1, keepdims=True)
    want = optimize.nnls(centered.T, stats.zscore(data, axis=1).mean(axis=0))[0]
    assert_allclose(weights, want / np.linalg.norm(want), atol=1e-8)
    repeated = Dataset(np.concatenate([values, values + 1]), obs_descriptors={"stimulus": ids * 2})
    assert_allclose(nrl.feature_rdms(repeated).dissimilarities, features.dissimilarities, atol=1e-12)
    with pytest.raises(NeurordlError, match="by='area' is no channel descriptor"):
        nrl.feature_rdms(patterns, "area")
