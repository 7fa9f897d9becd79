"""THINGS-fMRI, on a miniature of its layout, against an independent reading."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

import neurordl as nrl
from neurordl.datasets import load_things, load_things_stimuli
from neurordl.errors import NeurordlError
from tests.datasets import miniatures
from tests.datasets.large.helpers import trained


@pytest.fixture(scope="module", params=[False, True], ids=["in one piece", "in chunks"])
def things(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return miniatures.things(tmp_path_factory.mktemp("things"), subject=3, chunks=request.param)


def read_things(folder: Path) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    place = folder / "betas_csv"
    with h5py.File(place / "sub-03_ResponseData.h5") as file:
        values = file["ResponseData/block0_values"][:].T
    tables = (pd.read_csv(place / f"sub-03_{part}Metadata.csv") for part in ("Stimulus", "Voxel"))
    return values, *tables


def test_equals_an_independent_reading(things: Path, tmp_path: Path) -> None:
    values, trials, voxels = read_things(things)
    patterns = load_things(things, 3, {"FFA": ("lFFA", "rFFA"), "V1": "V1"})
    chosen = np.flatnonzero(voxels["lFFA"] + voxels["rFFA"] + voxels["V1"])
    np.testing.assert_array_equal(patterns.measurements, values[:, chosen].astype(np.float32))
    rows, channels = patterns.obs_descriptors, patterns.channel_descriptors
    assert list(rows["stimulus"]) == [file.removesuffix(".jpg") for file in trials["stimulus"]]
    assert list(rows["concept"]) == trials["concept"].tolist()
    assert list(rows["trial_type"]) == trials["trial_type"].tolist()
    assert list(rows["session"]) == [f"ses-{k:02d}" for k in trials["session"]]
    pairs = zip(trials["session"], trials["run"], strict=True)
    assert list(rows["run"]) == [f"ses-{a:02d}_run-{b:02d}" for a, b in pairs]
    tests = np.array(rows["trial_type"]) == "test"
    assert sorted(np.array(rows["repeat"])[tests], key=int) == sorted(
        [str(k) for k in range(1, 13)] * 4, key=int
    )
    assert list(channels["roi"]) == np.where(voxels["V1"] == 1, "V1", "FFA")[chosen].tolist()
    for axis in "xyz":
        assert list(channels[axis]) == voxels[f"voxel_{axis}"].to_numpy()[chosen].tolist()

    some = load_things(
        things / "betas_csv", "sub-03", "IT", sessions=[11, 2], standardize=True, cache=tmp_path
    )
    columns = voxels["IT"].to_numpy() == 1
    for session in (2, 11):
        expected = scipy.stats.zscore(values[trials["session"] == session][:, columns], axis=0)
        part = some.measurements[np.array(some.obs_descriptors["session"]) == f"ses-{session:02d}"]
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(some.measurements, np.memmap)
    assert load_things(things, 3, "brain", sessions=[1]).measurements.shape == (10, 60)
    line_break = load_things(things, 3, "glasser-p9-\n46v")
    np.testing.assert_array_equal(
        line_break.measurements, values[:, voxels["glasser-p9-\n46v"] == 1].astype(np.float32)
    )


def test_release_without_concepts_in_a_folder_of_another_name(things: Path, tmp_path: Path) -> None:
    expected = load_things(things, 3, "V1")
    folder = shutil.copytree(things / "betas_csv", tmp_path / "tables")
    path = folder / "sub-03_StimulusMetadata.csv"
    pd.read_csv(path).drop(columns="concept").to_csv(path, index=False)
    patterns = load_things(folder, 3, "V1")
    assert patterns.obs_descriptors == expected.obs_descriptors
    np.testing.assert_array_equal(patterns.measurements, expected.measurements)


def test_tables_in_another_order_than_the_responses(things: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(things, tmp_path / "copy")
    path = folder / "betas_csv" / "sub-03_VoxelMetadata.csv"
    table = pd.read_csv(path)
    table.sort_values("nc_testset").to_csv(path, index=False)
    with pytest.raises(NeurordlError, match="have other voxels, or others first, by their voxel_id"):
        load_things(folder, 3, "V1")
    path.write_bytes((things / "betas_csv" / path.name).read_bytes())
    path = folder / "betas_csv" / "sub-03_StimulusMetadata.csv"
    pd.read_csv(path).sort_values("stimulus").to_csv(path, index=False)
    with pytest.raises(NeurordlError, match=r"StimulusMetadata\.csv is not in the order of trial_id"):
        load_things(folder, 3, "V1")


def test_in_several_blocks(things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_things(things, 3, "brain").measurements
    monkeypatch.setattr("neurordl.datasets.large.reading._AT_ONCE", 7 * 120 * 8)
    np.testing.assert_array_equal(load_things(things, 3, "brain").measurements, expected)


def test_images_and_teacher(things: Path) -> None:
    patterns = load_things(things, 3, "IT")
    stimuli = load_things_stimuli(things, patterns.obs_descriptors["stimulus"], size=16)
    assert stimuli.ids == tuple(dict.fromkeys(patterns.obs_descriptors["stimulus"]))
    again = load_things_stimuli(things / "object_images" / "thing1", size=24)
    assert again.ids == ("thing1_14s",)
    with Image.open(things / "object_images" / "thing1" / "thing1_14s.jpg") as image:
        np.testing.assert_array_equal(again.pixels[0].numpy().transpose(1, 2, 0), np.asarray(image))
    trained(patterns, stimuli, nrl.PatternTeacher(patterns, min_reliability=-1))
    rdms = nrl.compute_rdms(patterns, "correlation")
    trained(patterns, stimuli, nrl.RDMTeacher(rdms))
    tested = patterns.subset_obs("trial_type", "test")
    tested.obs_descriptors["run"] = tested.obs_descriptors["session"]
    assert nrl.compute_rdms(tested, "crossnobis").n_cond == 4


def test_bad_input(things: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"roi": "FFA"}, "'FFA' is no column of ROIs in .*it has V1, lFFA"),
        ({"roi": "nc_testset"}, "no column of ROIs"),
        ({"roi": "empty"}, "marks no voxel as 'empty'"),
        ({"roi": ["IT", "lFFA"]}, "a channel has one ROI"),
        ({"subject": 1}, "sub-01_StimulusMetadata.csv is not in .*figshare"),
        ({"subject": 4}, "subject"),
        ({"sessions": [13]}, "sessions= has 13, but sub-03 has the sessions 1 to 12"),
    ):
        arguments: dict[str, Any] = {"subject": 3, "roi": "IT", **options}
        with pytest.raises(NeurordlError, match=message):
            load_things(things, **arguments)
    folder = shutil.copytree(things, tmp_path / "copy")
    path = folder / "betas_csv" / "sub-03_VoxelMetadata.csv"
    pd.read_csv(path)[:-1].to_csv(path, index=False)
    with pytest.raises(NeurordlError, match=r"has 60 voxels, and sub-03_VoxelMetadata.csv has 59"):
        load_things(folder, 3, "IT")
    path = folder / "betas_csv" / "sub-03_StimulusMetadata.csv"
    pd.read_csv(path)[:-1].to_csv(path, index=False)
    with pytest.raises(NeurordlError, match=r"has 0 arrays of \(voxels, 119 trials\)"):
        load_things(folder, 3, "IT")
    table = pd.read_csv(path)
    table.astype({"run": str}).assign(run="first").to_csv(path, index=False)
    with pytest.raises(NeurordlError, match="'run' should be whole numbers"):
        load_things(folder, 3, "IT")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(NeurordlError, match="no column 'trial_type'"):
        load_things(folder, 3, "IT")
    miniatures.save_images(folder / "object_images" / "more", ["thing1_14s.png"])
    with pytest.raises(NeurordlError, match="both have the id 'thing1_14s'"):
        load_things_stimuli(folder, ["thing1_14s"])
    with pytest.raises(NeurordlError, match=r"object_images is not in .*osf.io"):
        load_things_stimuli(tmp_path / "nowhere")
