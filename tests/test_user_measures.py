"""Measures and bootstraps that a user makes: one object each, and they work in everything that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from rsatoolbox.data import Dataset
from scipy.spatial.distance import pdist
from torch import Tensor

import neurordl as nrl
from neurordl.measures.dissimilarities import DISSIMILARITIES
from neurordl.simulate import simulate_patterns

IDS = [f"im{number:02d}" for number in range(12)]
GEOMETRY = np.random.default_rng(0).normal(size=(12, 6))


def city_block(patterns: Tensor) -> Tensor:
    n = patterns.shape[-2]
    rows, columns = torch.triu_indices(n, n, offset=1)
    return (patterns[..., rows, :] - patterns[..., columns, :]).abs().mean(-1)


@pytest.fixture
def registered() -> Iterator[None]:
    nrl.register(nrl.Dissimilarity("city block", city_block, aliases=("manhattan",)))
    yield
    del DISSIMILARITIES["city block"]


def patterns() -> dict[str, Dataset]:
    return simulate_patterns(GEOMETRY, IDS, 3, n_channels=20, snr=20, seed=0)


def expected(data: Dataset) -> np.ndarray:
    return pdist(data.measurements, "cityblock") / data.n_channel


@pytest.mark.parametrize("measure", ["city block", "object", "function"])
def test_rdms(measure: str, registered: None) -> None:
    choices = {"object": nrl.Dissimilarity("blocks", city_block), "function": city_block}
    rdms = nrl.compute_rdms(patterns(), choices.get(measure, measure))
    assert_allclose(rdms.dissimilarities, [expected(data) for data in patterns().values()], atol=1e-12)
    assert rdms.dissimilarity_measure == {"object": "blocks", "function": "city_block"}.get(measure, measure)


@pytest.mark.parametrize("suffix", [".h5", ".mat", ".npz"])
def test_files_keep_its_name(suffix: str, registered: None, tmp_path: Path) -> None:
    rdms = nrl.compute_rdms(patterns(), "city block")
    nrl.save_rdms(rdms, tmp_path / f"rdms{suffix}")
    loaded = nrl.load_rdms(tmp_path / f"rdms{suffix}")
    assert loaded.dissimilarity_measure == "city block"
    assert_allclose(loaded.dissimilarities, rdms.dissimilarities)
    assert str(nrl.RDMTeacher(loaded).dissimilarity) == "city block"


def test_aliases_of_files_are_known(registered: None) -> None:
    rdms = nrl.compute_rdms(patterns(), "city block")
    rdms.dissimilarity_measure = "Manhattan"
    assert str(nrl.RDMTeacher(rdms).dissimilarity) == "city block"


def test_it_trains_and_is_evaluated(registered: None) -> None:
    stimuli = nrl.StimulusSet.from_array(np.random.default_rng(1).random((12, 8, 8)).astype("f4"), IDS)
    torch.manual_seed(0)
    student = nrl.students.small_cnn(4, 1, width=4)
    rdms = nrl.compute_rdms(nrl.extract_patterns(student, stimuli, "conv2"), "city block")
    rdms.rdm_descriptors["subject"] = ["s1"]
    scores = nrl.evaluate(student, rdms, stimuli=stimuli, layers="conv2").to_frame()
    assert_allclose(scores.loc[scores["subject"] == "s1", "score"], 1)

    loss = nrl.RDMLoss(nrl.RDMTeacher(nrl.compute_rdms(patterns(), "city block")), "conv2")
    assert str(loss.dissimilarity) == "city block"
    objective = nrl.Objective(loss, task=None)
    execution = nrl.Execution(progress=False)
    run = nrl.fit(student, objective, stimuli=stimuli, epochs=8, seed=0, execution=execution)
    assert run.history["rdm:conv2"].iloc[-1] < run.history["rdm:conv2"].iloc[0]


def test_measured_patterns_teach_with_it(registered: None) -> None:
    teacher = nrl.PatternTeacher(patterns(), dissimilarity="city block")
    batch = nrl.Batch(torch.zeros(12, 1, 8, 8), ids=IDS)
    teacher.prepare(IDS)
    target = teacher.target(batch, {})
    mean = np.mean([expected(data) for data in patterns().values()], axis=0)
    assert_allclose(target.rdms, mean[None], atol=1e-5)


def test_searchlight(registered: None) -> None:
    rng = np.random.default_rng(2)
    voxels = np.indices((4, 4, 4)).reshape(3, -1)
    data = Dataset(
        rng.normal(size=(12, 64)),
        obs_descriptors={"stimulus": IDS},
        channel_descriptors=dict(zip("xyz", voxels.tolist(), strict=True)),
    )
    model = nrl.compute_rdms(Dataset(GEOMETRY, obs_descriptors={"stimulus": IDS}), "euclidean")
    result = nrl.searchlight(data, model, radius=2, dissimilarity="city block")
    near = ((voxels - voxels[:, 21:22]) ** 2).sum(0) < 4  # the voxel (1, 1, 1)
    rdm = pdist(data.measurements[:, near], "cityblock")
    scores = dict(zip(map(tuple, np.asarray(result.centers).tolist()), result.scores[0], strict=True))
    assert_allclose(scores[1, 1, 1], np.corrcoef(rdm, model.dissimilarities[0])[0, 1], atol=1e-10)
