"""Loaders of large public data sets, on miniatures of their layouts, against independent readings."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from PIL import Image

import neurordl as nrl
from neurordl.datasets import (
    NSD_ROIS,
    find_dataset,
    load_algonauts,
    load_algonauts_stimuli,
    load_bold5000,
    load_bold5000_stimuli,
    load_nsd,
    load_nsd_stimuli,
    load_things,
    load_things_stimuli,
    nsd_shared_ids,
)
from neurordl.errors import NeurordlError
from tests.datasets import miniatures


def trained(patterns: Any, stimuli: nrl.StimulusSet, teacher: Any) -> None:
    """Train for an epoch on the images of patterns, and see that the weights changed."""
    torch.manual_seed(0)
    student = nrl.students.small_cnn(width=8)
    before = [weights.detach().clone() for weights in student.parameters()]
    objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv2")], task=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*undefined")
        run = nrl.fit(student, objective, stimuli=stimuli, epochs=1, batches=nrl.Batches(stimuli=16))
    assert np.isfinite(run.history["loss"]).all()
    weights = [weights.detach() for weights in run.student.parameters()]
    assert any(not torch.equal(new, old) for new, old in zip(weights, before, strict=True))


# NSD


@pytest.fixture(scope="module")
def nsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.nsd(tmp_path_factory.mktemp("nsd"), subject=1)


def read_nsd(folder: Path, atlas: str, wanted: list[int], sessions: list[int]) -> tuple[Any, list[str], Any]:
    """Betas, ids and places by h5py, nibabel and scipy alone, voxel by voxel."""
    base = folder / "nsddata"
    design = scipy.io.loadmat(base / "experiments" / "nsd" / "nsd_expdesign.mat")
    roi = nib.load(base / "ppdata" / "subj01" / "func1pt8mm" / "roi" / f"{atlas}.nii.gz").get_fdata()
    places = np.argwhere(np.isin(roi, wanted))
    values, ids = [], []
    for session in sessions:
        name = f"nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session{session:02d}"
        with h5py.File(folder / f"{name}.hdf5") as file:
            values.append(np.stack([file["betas"][:, z, y, x] / 300 for x, y, z in places], axis=1))
        for trial in range((session - 1) * 12, session * 12):
            image = design["subjectim"][0, design["masterordering"][0, trial] - 1] - 1
            ids.append(f"nsd-{image:05d}")
    return np.concatenate(values), ids, places


def test_nsd_equals_an_independent_reading(nsd: Path) -> None:
    patterns = load_nsd(nsd, 1, "nsdgeneral")
    values, ids, places = read_nsd(nsd, "nsdgeneral", [1], list(range(1, 41)))
    assert patterns.measurements.shape == (480, len(places))
    assert patterns.measurements.dtype == np.float32
    np.testing.assert_allclose(patterns.measurements, values, rtol=1e-6)
    rows, channels = patterns.obs_descriptors, patterns.channel_descriptors
    assert list(rows["stimulus"]) == ids
    assert list(rows["session"][:13]) == ["ses-01"] * 12 + ["ses-02"]
    assert list(rows["run"][:7]) == [f"ses-01_run-0{run}" for run in (1, 1, 1, 1, 2, 2, 3)]
    assert list(rows["repeat"][:1]) == ["1"]
    assert rows["repeat"][-1] == str(ids.count(ids[-1]))
    np.testing.assert_array_equal(np.stack([channels[axis] for axis in "xyz"], axis=1), places)
    assert set(channels["roi"]) == {"nsdgeneral"}
    assert patterns.descriptors["subject"] == "subj01"
    record = json.loads(patterns.descriptors["provenance"])
    assert record["grid"]["shape"] == list(miniatures.SHAPE)  # for maps of a searchlight
    assert record["standardize"] is False
    assert record["betas"] == "betas_fithrf_GLMdenoise_RR"


def test_nsd_rois_by_file_by_name_and_joined(nsd: Path) -> None:
    faces = load_nsd(nsd, "subj01", "floc-faces", sessions=[2, 1])
    values, ids, _ = read_nsd(nsd, "floc-faces", [1, 2, 3, 4, 5], [1, 2])
    np.testing.assert_allclose(faces.measurements, values, rtol=1e-6)
    assert list(faces.obs_descriptors["stimulus"]) == ids
    assert set(faces.channel_descriptors["roi"]) == set(NSD_ROIS["floc-faces"])

    pair = load_nsd(nsd, 1, ["FFA-1", "FFA-2"], sessions=[1])
    for name, label in (("FFA-1", 2), ("FFA-2", 3)):
        chosen = np.array(pair.channel_descriptors["roi"]) == name
        expected, *_ = read_nsd(nsd, "floc-faces", [label], [1])
        np.testing.assert_allclose(pair.measurements[:, chosen], expected, rtol=1e-6)

    joined = load_nsd(nsd, 1, {"FFA": ("FFA-1", "FFA-2")}, sessions=[1])
    np.testing.assert_array_equal(joined.measurements, pair.measurements)
    assert set(joined.channel_descriptors["roi"]) == {"FFA"}

    # without a table of its labels, the names are those that NSD publishes
    v1 = load_nsd(nsd, 1, "prf-visualrois/V1d", sessions=[1])
    np.testing.assert_allclose(v1.measurements, read_nsd(nsd, "prf-visualrois", [2], [1])[0], rtol=1e-6)
    left = load_nsd(nsd, 1, "lh.floc-faces/OFA", sessions=[1])
    np.testing.assert_allclose(left.measurements, read_nsd(nsd, "lh.floc-faces", [1], [1])[0], rtol=1e-6)
    brain = load_nsd(nsd, 1, "brain", sessions=[1])
    assert brain.measurements.shape == (12, 4 * 3 * 4)
    mask = nsd / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "brainmask.nii.gz"
    for roi in (mask, str(mask), nib.load(mask), nrl.Regions(mask, rois="all")):
        np.testing.assert_array_equal(load_nsd(nsd, 1, roi, sessions=[1]).measurements, brain.measurements)


@pytest.mark.parametrize("chunks", [None, (3, 2, 2, 2), (12, 1, 1, 1)])
def test_nsd_from_hdf5_however_it_is_stored(
    nsd: Path, tmp_path: Path, chunks: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    expected, *_ = read_nsd(folder, "floc-faces", [1, 2, 3, 4, 5], [1])
    (path,) = folder.rglob("betas_session01.hdf5")
    with h5py.File(path) as file:
        values = file["betas"][:]
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=values, chunks=chunks)
    for at_once in (1 << 26, 1000):
        monkeypatch.setattr("neurordl.datasets.large._AT_ONCE", at_once)
        patterns = load_nsd(folder, 1, "floc-faces", sessions=[1])
        np.testing.assert_allclose(patterns.measurements, expected, rtol=1e-6)


def test_nsd_from_nifti(nsd: Path, tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    (path,) = folder.rglob("betas_session01.hdf5")
    with h5py.File(path) as file:
        miniatures.save_volume(path.with_suffix(".nii.gz"), file["betas"][:].T)
    expected = load_nsd(folder, 1, "floc-faces", sessions=[1])
    path.unlink()
    patterns = load_nsd(folder, 1, "floc-faces", sessions=[1])
    np.testing.assert_array_equal(patterns.measurements, expected.measurements)


def test_nsd_says_what_it_leaves_out_and_how_many_sessions(tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, subject=4)
    path = sorted(folder.rglob("betas_session*.hdf5"))[7]
    image = nib.load(folder / "nsddata/ppdata/subj04/func1pt8mm/roi/floc-faces.nii.gz")
    places = np.argwhere(np.asanyarray(image.dataobj) > 0)
    with h5py.File(path, "a") as file:
        for x, y, z in places[[3, 8]]:
            file["betas"][:, z, y, x] = 0
    with pytest.warns(UserWarning, match="subj04 completed 30 of 40 sessions") as notices:
        patterns = load_nsd(folder, 4, "floc-faces", cache=tmp_path / "cache")
    texts = [str(notice.message) for notice in notices]
    assert any(f"dropped 2 of {len(places)} channels: 0 with NaN or infinity, 2 without" in t for t in texts)
    assert patterns.measurements.shape == (360, len(places) - 2)
    kept = np.delete(places, [3, 8], axis=0)
    np.testing.assert_array_equal(patterns.channel_descriptors["z"], kept[:, 2])
    with pytest.warns(UserWarning, match="dropped 2"):
        in_memory = load_nsd(folder, 4, "floc-faces")
    np.testing.assert_array_equal(in_memory.measurements, patterns.measurements)
    with pytest.warns(UserWarning, match=r"2 of .* channels were dropped when .*npy was written"):
        again = load_nsd(folder, 4, "floc-faces", cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.measurements, patterns.measurements)


def test_cache_is_a_memory_map_and_is_never_stale(nsd: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = load_nsd(nsd, 1, "floc-faces", sessions=[1, 2]).measurements
    first = load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache).measurements
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, expected)
    files = set(cache.iterdir())
    written = [path.stat().st_mtime_ns for path in sorted(files)]
    load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache)
    assert set(cache.iterdir()) == files
    assert [path.stat().st_mtime_ns for path in sorted(files)] == written
    other = [
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 3], cache=cache),
        load_nsd(nsd, 1, "OFA", sessions=[1, 2], cache=cache),
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], standardize=True, cache=cache),
    ]
    assert len(set(cache.iterdir())) == 4 * len(files)
    assert other[1].measurements.shape[1] < first.shape[1]
    changed = shutil.copytree(nsd, tmp_path / "nsd")
    with h5py.File(next(changed.rglob("betas_session01.hdf5")), "a") as file:
        file["betas"][:] += 1
    again = load_nsd(changed, 1, "floc-faces", sessions=[1, 2], cache=cache)
    np.testing.assert_allclose(again.measurements[:12], expected[:12] + 1 / 300, rtol=1e-4, atol=1e-5)
    damaged = next(path for path in files if "kept" not in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(NeurordlError, match=r"cannot read .*remove it"):
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache)


def test_a_full_disk_leaves_nothing_in_the_cache(
    nsd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse, raising=False)
    with pytest.raises(NeurordlError, match="the disk is full"):
        load_nsd(nsd, 1, "floc-faces", sessions=[1], cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_standardized_sessions(nsd: Path) -> None:
    raw = load_nsd(nsd, 1, "nsdgeneral", sessions=[1, 5]).measurements.astype(np.float64)
    patterns = load_nsd(nsd, 1, "nsdgeneral", sessions=[1, 5], standardize=True).measurements
    for part in (slice(0, 12), slice(12, 24)):
        expected = scipy.stats.zscore(raw[part], axis=0)
        np.testing.assert_allclose(patterns[part], expected, rtol=1e-4, atol=1e-5)


def test_nsd_images_have_the_ids_of_the_trials(nsd: Path) -> None:
    patterns = load_nsd(nsd, 1, "OFA", sessions=[1, 2, 3])
    stimuli = load_nsd_stimuli(nsd, patterns.obs_descriptors["stimulus"])
    assert stimuli.ids == tuple(dict.fromkeys(patterns.obs_descriptors["stimulus"]))
    with h5py.File(next(nsd.rglob("nsd_stimuli.hdf5"))) as file:
        images = file["imgBrick"][:]
    for number, name in enumerate(stimuli.ids):
        pixels = stimuli.pixels[number].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels, images[int(name.removeprefix("nsd-"))])
    small = load_nsd_stimuli(nsd, size=8)
    assert small.pixels.shape == (600, 3, 8, 8)
    shared = nsd_shared_ids(nsd)
    design = scipy.io.loadmat(nsd / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat")
    assert [int(name[4:]) + 1 for name in shared] == design["sharedix"].ravel().tolist()
    assert small.subset(shared).ids == shared
    with pytest.raises(NeurordlError, match="nsd-00999"):
        load_nsd_stimuli(nsd, ["nsd-00001", "nsd-00999"])


def test_nsd_teaches(nsd: Path, tmp_path: Path) -> None:
    patterns = load_nsd(nsd, 1, "nsdgeneral", cache=tmp_path / "cache")
    stimuli = load_nsd_stimuli(nsd, patterns.obs_descriptors["stimulus"], size=16)
    trained(patterns, stimuli, nrl.PatternTeacher(patterns))
    rdms = nrl.compute_rdms(patterns, "correlation")
    assert rdms.n_cond == 90
    means = [
        patterns.measurements[np.array(patterns.obs_descriptors["stimulus"]) == name].mean(axis=0)
        for name in rdms.pattern_descriptors["stimulus"]
    ]
    expected = 1 - np.corrcoef(np.array(means, dtype=np.float64))
    np.testing.assert_allclose(rdms.get_matrices()[0], expected, atol=1e-5)
    trained(patterns, stimuli, nrl.RDMTeacher(rdms))
    # cross-validated over the presentations of each image
    patterns.obs_descriptors["run"] = patterns.obs_descriptors["repeat"]
    trained(patterns, stimuli, nrl.PatternTeacher(patterns, dissimilarity="crossnobis"))


def test_two_people_of_nsd_share_some_images(nsd: Path, tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, subject=2, sessions=3)
    people = {
        "subj01": load_nsd(nsd, 1, "nsdgeneral", sessions=[1, 2, 3]),
        "subj02": load_nsd(folder, 2, "nsdgeneral", sessions=[1, 2, 3]),
    }
    first, second = (set(patterns.obs_descriptors["stimulus"]) for patterns in people.values())
    both = first & second
    assert both <= set(nsd_shared_ids(nsd))
    assert len(both) > 1
    teacher = nrl.PatternTeacher(people)
    ids = [*sorted(both)[:2], sorted(first - second)[0], sorted(second - first)[0]]
    teacher.prepare(ids)
    target = teacher.target(nrl.Batch(torch.zeros(4, 3, 8, 8), ids), {})
    # pairs in condensed order; those of an image of one person with one of the other were seen by no one
    assert (target.weights > 0).sum(dim=0).tolist() == [1, 1, 1, 1, 1, 0]
    for name, pair in (("subj01", (0, 2)), ("subj02", (1, 3))):
        patterns = people[name]
        stimuli = np.array(patterns.obs_descriptors["stimulus"])
        means = [patterns.measurements[stimuli == ids[k]].mean(axis=0) for k in pair]
        number = {(0, 2): 1, (1, 3): 4}[pair]
        expected = 1 - np.corrcoef(np.array(means, dtype=np.float64))[0, 1]
        assert float(target.rdms[0, number]) == pytest.approx(expected, abs=1e-5)
    stimuli = load_nsd_stimuli(nsd, [*first, *second], size=16)
    trained(people["subj01"], stimuli, teacher)


def test_registry_sends_to_the_loaders() -> None:
    for name in ("nsd", "NSD", "algonauts", "things", "bold5000"):
        with pytest.raises(NeurordlError, match=f"load_{name.lower()} reads it from the folder"):
            find_dataset(name)


@pytest.mark.parametrize(
    ("gone", "options", "message"),
    [
        ("nsd_expdesign.mat", {}, r"nsddata/experiments/nsd/nsd_expdesign.mat is not in .*Register at https"),
        ("betas_session02.hdf5", {}, r"func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session02.hdf5 is not in"),
        ("", {"roi": "floc-bodies"}, "'floc-bodies' is no ROI of subj01; it has Kastner2015, floc-faces"),
        ("", {"roi": "V1v"}, r"'V1v' is in Kastner2015, prf-visualrois: write 'Kastner2015/V1v'"),
        ("", {"roi": "floc-faces/EBA"}, "EBA"),
        ("", {"roi": ["floc-faces", "nsdgeneral"]}, "channels are in .* a channel has one ROI"),
        ("", {"roi": []}, r"roi= is \[\]"),
        ("", {"subject": 9}, "subject"),
        ("", {"subject": "01"}, "subject"),
        ("", {"sessions": [1, 41]}, "sessions= has 41, but subj01 has the sessions 1 to 40"),
        ("", {"sessions": []}, "give different numbers"),
        ("", {"betas": "betas_assumehrf"}, "betas_assumehrf/betas_session01.hdf5 is not in"),
    ],
)
def test_nsd_bad_input(nsd: Path, tmp_path: Path, gone: str, options: dict[str, Any], message: str) -> None:
    folder = nsd
    if gone:
        folder = shutil.copytree(nsd, tmp_path / "nsd")
        next(folder.rglob(gone)).unlink()
    arguments = {"subject": 1, "roi": "nsdgeneral", "sessions": [1, 2], **options}
    with pytest.raises(NeurordlError, match=message):
        load_nsd(folder, **arguments)


def test_nsd_files_of_another_shape(nsd: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nsd, tmp_path / "nsd")
    path = next(folder.rglob("betas_session03.hdf5"))
    with h5py.File(path, "w") as file:
        file["betas"] = np.zeros((11, 6, 4, 5), dtype=np.int16)
    with pytest.raises(NeurordlError, match=r"betas_session03.hdf5 has shape \(5, 4, 6, 11\), expected"):
        load_nsd(folder, 1)
    path.write_bytes(b"no file")
    with pytest.raises(NeurordlError, match=r"betas_session03.hdf5 is damaged"):
        load_nsd(folder, 1)
    with pytest.raises(NeurordlError, match="does not exist"):
        load_nsd(tmp_path / "nowhere", 1)


# Algonauts 2023


@pytest.fixture(scope="module")
def algonauts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.algonauts(tmp_path_factory.mktemp("algonauts"), subject=2)


def test_algonauts_equals_an_independent_reading(algonauts: Path, tmp_path: Path) -> None:
    base = algonauts / "subj02"
    published = {  # in the pickles, which are not read
        "floc-faces": ["Unknown", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
        "prf-visualrois": ["Unknown", "V1", "V1"],
        "streams": [
            "Unknown",
            "early",
            "midventral",
            "midlateral",
            "midparietal",
            "ventral",
            "lateral",
            "parietal",
        ],
    }
    for roi, group, labels in (
        ("FFA-2", "floc-faces", [3]),
        ({"V1": ("V1v", "V1d")}, "prf-visualrois", [1, 2]),
        ("streams", "streams", [1, 2, 3, 4, 5, 6, 7]),
    ):
        patterns = load_algonauts(algonauts, 2, roi)
        sides, vertices, names = [], [], []
        for side in ("lh", "rh"):
            mask = np.load(base / "roi_masks" / f"{side}.{group}_challenge_space.npy")
            chosen = np.isin(mask, labels)
            sides.append(np.load(base / f"training_split/training_fmri/{side}_training_fmri.npy")[:, chosen])
            every = np.load(base / "roi_masks" / f"{side}.all-vertices_fsaverage_space.npy")
            vertices += np.flatnonzero(every)[chosen].tolist()
            names += [published[group][k] for k in mask[chosen]]
        np.testing.assert_array_equal(patterns.measurements, np.concatenate(sides, axis=1))
        channels = patterns.channel_descriptors
        assert list(channels["vertex"]) == vertices
        assert list(channels["roi"]) == names
        assert list(channels["hemisphere"]) == ["lh"] * sides[0].shape[1] + ["rh"] * sides[1].shape[1]
        in_file = load_algonauts(algonauts, "subj02", roi, cache=tmp_path)
        assert isinstance(in_file.measurements, np.memmap)
        np.testing.assert_array_equal(in_file.measurements, patterns.measurements)
    assert load_algonauts(algonauts, 2, "all-vertices").measurements.shape == (40, 55)


def test_algonauts_images_are_those_of_the_rows(algonauts: Path) -> None:
    patterns = load_algonauts(algonauts, 2, "early")
    files = sorted((algonauts / "subj02/training_split/training_images").iterdir())
    assert patterns.obs_descriptors["stimulus"] == [path.stem.partition("_")[2] for path in files]
    stimuli = load_algonauts_stimuli(algonauts, 2)
    assert list(stimuli.ids) == patterns.obs_descriptors["stimulus"]
    for number in (0, 17, 39):
        expected = np.asarray(Image.open(files[number]))
        np.testing.assert_array_equal(stimuli.pixels[number].numpy().transpose(1, 2, 0), expected)
    some = load_algonauts_stimuli(algonauts, 2, stimuli.ids[5:8], size=12)
    assert (some.ids, some.pixels.shape) == (stimuli.ids[5:8], (3, 3, 12, 12))


def test_algonauts_teaches(algonauts: Path) -> None:
    patterns = load_algonauts(algonauts, 2, ["ventral", "lateral"])
    stimuli = load_algonauts_stimuli(algonauts, 2, size=16)
    trained(patterns, stimuli, nrl.PatternTeacher(patterns))
    rdms = nrl.compute_rdms(patterns, "correlation")
    assert sorted(rdms.rdm_descriptors["roi"]) == ["lateral", "ventral"]
    trained(patterns, stimuli, nrl.RDMTeacher(rdms, select={"roi": "ventral"}))


def test_algonauts_bad_input(algonauts: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"roi": "FFA"}, "FFA"),
        ({"roi": {"FFA": "FFA"}}, "FFA"),
        ({"subject": 1}, r"subj01/training_split/training_images is not in .*form of the challenge"),
        ({"roi": ["streams", "prf-visualrois"]}, "a channel has one ROI"),
    ):
        arguments: dict[str, Any] = {"subject": 2, "roi": "early", **options}
        with pytest.raises(NeurordlError, match=message):
            load_algonauts(algonauts, **arguments)
    folder = shutil.copytree(algonauts, tmp_path / "copy")
    base = folder / "subj02"
    np.save(base / "roi_masks" / "lh.streams_challenge_space.npy", np.zeros(30, dtype=int))
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.zeros(25, dtype=int))
    with pytest.raises(NeurordlError, match="no vertex in 'early'"):
        load_algonauts(folder, 2, "early")
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.zeros(26, dtype=int))
    with pytest.raises(NeurordlError, match=r"rh.streams_challenge_space.npy has shape \(26,\)"):
        load_algonauts(folder, 2, "early")
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.array({"a": 1}), allow_pickle=True)
    with pytest.raises(NeurordlError, match="cannot read"):
        load_algonauts(folder, 2, "early")
    image = next((base / "training_split" / "training_images").iterdir())
    image.rename(image.with_name("spare.png"))
    with pytest.raises(NeurordlError, match="39 images"):
        load_algonauts(folder, 2, "V1v")
    for path in (base / "training_split" / "training_images").iterdir():
        path.unlink()
    miniatures.save_images(base / "training_split" / "training_images", ["train-0001_nsd-00013.png"])
    with pytest.raises(NeurordlError, match="there are 1 training images"):
        load_algonauts(folder, 2, "V1v")


# THINGS-fMRI


@pytest.fixture(scope="module", params=[False, True], ids=["in one piece", "in chunks"])
def things(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return miniatures.things(tmp_path_factory.mktemp("things"), subject=3, chunks=request.param)


def read_things(folder: Path) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    place = folder / "betas_csv"
    with h5py.File(place / "sub-03_ResponseData.h5") as file:
        values = file["ResponseData/block0_values"][:].T
    tables = (pd.read_csv(place / f"sub-03_{part}Metadata.csv") for part in ("Stimulus", "Voxel"))
    return values, *tables


def test_things_equals_an_independent_reading(things: Path, tmp_path: Path) -> None:
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


def test_things_in_several_blocks(things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_things(things, 3, "brain").measurements
    monkeypatch.setattr("neurordl.datasets.large._AT_ONCE", 7 * 120 * 8)
    np.testing.assert_array_equal(load_things(things, 3, "brain").measurements, expected)


def test_things_images_and_teacher(things: Path) -> None:
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


def test_things_bad_input(things: Path, tmp_path: Path) -> None:
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


# BOLD5000


@pytest.fixture(scope="module")
def bold5000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.bold5000(tmp_path_factory.mktemp("bold5000"), subject=4)


@pytest.mark.filterwarnings("ignore:CSI4 completed 9 of 15")
def test_bold5000_equals_an_independent_reading(bold5000: Path, tmp_path: Path) -> None:
    names = (bold5000 / "CSI4_imgnames.txt").read_text().splitlines()
    ids = [name.removeprefix("rep_").rpartition(".")[0] for name in names]
    arrays = bold5000 / "BOLD5000_GLMsingle_ROI_betas" / "py"
    sides = [
        np.load(arrays / f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{side}PPA.npy")
        for side in ("LH", "RH")
    ]
    patterns = load_bold5000(bold5000, "CSI4", {"PPA": ("LHPPA", "RHPPA")})
    np.testing.assert_array_equal(patterns.measurements, np.concatenate(sides, axis=1))
    rows = patterns.obs_descriptors
    assert list(rows["stimulus"]) == ids
    assert pd.Series(rows["session"]).value_counts()["ses-01"] == 370  # 10 runs of 37 trials
    assert rows["run"][369:371] == ["ses-01_run-10", "ses-02_run-01"]
    assert set(patterns.channel_descriptors["roi"]) == {"PPA"}
    assert patterns.channel_descriptors["hemisphere"] == ["lh"] * 4 + ["rh"] * 3
    both = load_bold5000(bold5000, 4, "PPA", cache=tmp_path)
    np.testing.assert_array_equal(both.measurements, patterns.measurements)
    assert isinstance(both.measurements, np.memmap)
    some = load_bold5000(bold5000, 4, ["RHLOC", "LHPPA"], sessions=[2, 9])
    assert set(some.channel_descriptors["roi"]) == {"RHLOC", "LHPPA"}
    loc = np.load(arrays / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_RHLOC.npy")
    part = np.r_[370:703, 3108 - 370 : 3108]
    np.testing.assert_array_equal(some.measurements, np.concatenate([sides[0], loc], axis=1)[part])
    assert list(some.obs_descriptors["stimulus"]) == np.array(ids)[part].tolist()

    brain = load_bold5000(bold5000, 4, "brain", sessions=[2, 3], standardize=True)
    mask = nib.load(bold5000 / "CSI4_brainmask.nii.gz").get_fdata() > 0
    for session in (2, 3):
        image = nib.load(bold5000 / f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz")
        expected = scipy.stats.zscore(image.get_fdata()[mask].T, axis=0)
        part = brain.measurements[np.array(brain.obs_descriptors["session"]) == f"ses-{session:02d}"]
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
    places = np.stack([brain.channel_descriptors[axis] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(places, np.argwhere(mask))
    by_mask = load_bold5000(bold5000, 4, bold5000 / "CSI4_brainmask.nii.gz", sessions=[2])
    assert by_mask.measurements.shape == (333, mask.sum())


def test_bold5000_says_how_many_sessions(bold5000: Path) -> None:
    with pytest.warns(UserWarning, match="CSI4 completed 9 of 15 sessions"):
        load_bold5000(bold5000, 4, "LHPPA")


def test_bold5000_images_and_teacher(bold5000: Path) -> None:
    patterns = load_bold5000(bold5000, 4, "PPA", sessions=[1])
    ids = list(dict.fromkeys(patterns.obs_descriptors["stimulus"]))[:60]
    stimuli = load_bold5000_stimuli(bold5000 / "BOLD5000_Stimuli", ids, size=16)
    assert list(stimuli.ids) == ids
    with pytest.warns(UserWarning, match="other proportions"):
        load_bold5000_stimuli(bold5000, ids, size=(8, 16))
    trained(patterns, stimuli, nrl.PatternTeacher(patterns))
    rdms = nrl.compute_rdms(patterns, "correlation")
    trained(patterns, stimuli, nrl.RDMTeacher(rdms))


def test_bold5000_bad_input(bold5000: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"roi": "FFA"}, "'FFA' is no ROI of CSI4; it has EarlyVis, LOC, PPA, LHEarlyVis"),
        ({"roi": ["PPA", "LHPPA"]}, "a channel has one ROI"),
        ({"roi": ["PPA", "brain"]}, "'brain' is not combined with"),
        ({"subject": 1}, r"CSI1_imgnames.txt is not in"),
        ({"subject": "CS4"}, "subject"),
        ({"sessions": [10]}, "sessions= has 10, but CSI4 has the sessions 1 to 9"),
        ({"roi": "brain", "sessions": [7]}, r"ses-07.nii.gz is not in .*bold5000-dataset.github.io"),
        ({"betas": "TYPEC-FITHRF-GLMDENOISE"}, "TYPEC-FITHRF-GLMDENOISE"),
    ):
        arguments: dict[str, Any] = {"subject": 4, "roi": "PPA", "sessions": [1], **options}
        with pytest.raises(NeurordlError, match=message):
            load_bold5000(bold5000, **arguments)
    folder = shutil.copytree(bold5000, tmp_path / "copy")
    path = next(folder.rglob("*_LHPPA.npy"))
    np.save(path, np.load(path)[:-1])
    with pytest.raises(NeurordlError, match=r"has shape \(3107, 4\), expected 3108 trials"):
        load_bold5000(folder, 4, "PPA")
    path = folder / "CSI4_imgnames.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(NeurordlError, match="names 3107 images, and CSI4 has 84 runs of 37 trials"):
        load_bold5000(folder, 4, "PPA")


def test_the_page_quotes_the_measured_figures() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "howto" / "large_sets.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[2:4]
        for line in page[page.index("## What it takes") :].splitlines()
        if line[:1] == "|"
    ]
    quoted = [tuple(float(cell) for cell in row) for row in rows[2:]]
    measured = pd.read_csv(root / "benchmarks" / "results" / "large_plan.csv", index_col="case")
    for case, (seconds, memory) in zip(
        ("session", "load", "open", "images", "train", "rdms"), quoted, strict=True
    ):
        assert seconds == pytest.approx(measured.loc[case, "cpu_seconds"], abs=0.05 if seconds < 1 else 0.5)
        assert memory == pytest.approx(measured.loc[case, "growth_mb"], abs=1)
