"""NSD, on a miniature of its layout, against an independent reading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

import neurordl as nrl
from neurordl.datasets import NSD_ROIS, load_nsd, load_nsd_stimuli, nsd_shared_ids
from neurordl.errors import NeurordlError
from tests.datasets import miniatures
from tests.datasets.large.helpers import trained


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


def test_equals_an_independent_reading(nsd: Path) -> None:
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


def test_rois_by_file_by_name_and_joined(nsd: Path) -> None:
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
def test_from_hdf5_however_it_is_stored(
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
        monkeypatch.setattr("neurordl.datasets.large.reading._AT_ONCE", at_once)
        patterns = load_nsd(folder, 1, "floc-faces", sessions=[1])
        np.testing.assert_allclose(patterns.measurements, expected, rtol=1e-6)


def test_from_nifti(nsd: Path, tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    (path,) = folder.rglob("betas_session01.hdf5")
    with h5py.File(path) as file:
        miniatures.save_volume(path.with_suffix(".nii.gz"), file["betas"][:].T)
    expected = load_nsd(folder, 1, "floc-faces", sessions=[1])
    path.unlink()
    patterns = load_nsd(folder, 1, "floc-faces", sessions=[1])
    np.testing.assert_array_equal(patterns.measurements, expected.measurements)


def test_says_what_it_leaves_out_and_how_many_sessions(tmp_path: Path) -> None:
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


def test_labels_without_names_are_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    path = folder / "nsddata/ppdata/subj01/func1pt8mm/roi/floc-faces.nii.gz"
    count = (np.asanyarray(nib.load(path).dataobj) == 4).sum()
    names = folder / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab"
    names.write_text("0 Unknown\n1 OFA\n2 FFA-1\n3 FFA-2\n5 aTL-faces\n")
    with pytest.warns(UserWarning, match=f"{count} voxels with labels that have no name, 4, are left out"):
        patterns = load_nsd(folder, 1, "floc-faces", sessions=[1])
    assert set(patterns.channel_descriptors["roi"]) == {"OFA", "FFA-1", "FFA-2", "aTL-faces"}
    recwarn.clear()
    load_nsd(folder, 1, "floc-faces/OFA", sessions=[1])
    assert not recwarn.list
    with pytest.raises(NeurordlError, match="'nsdgeneral/V1': nsdgeneral has no names of labels"):
        load_nsd(folder, 1, "nsdgeneral/V1", sessions=[1])


def test_a_part_of_the_sessions_was_downloaded(tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, sessions=3)
    with pytest.raises(NeurordlError, match=r"session04.hdf5 is not in .* pass sessions=\[1, 2, 3\]\. Regis"):
        load_nsd(folder, 1, "nsdgeneral")


def test_images_have_the_ids_of_the_trials(nsd: Path) -> None:
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
    assert load_nsd_stimuli(nsd, shared[3], size=8).ids == (shared[3],)
    with pytest.raises(NeurordlError, match="nsd-00999"):
        load_nsd_stimuli(nsd, ["nsd-00001", "nsd-00999"])
    for ids, options, message in (
        ([], {}, "^ids= is empty"),
        (3, {}, "^ids= is 3; expected one or several"),
        ([3], {}, "^no id of the ids= is among"),
        (shared, {"sise": 8}, "^preprocessing='sise'"),
    ):  # the file is not to blame
        with pytest.raises(NeurordlError, match=message):
            load_nsd_stimuli(nsd, ids, **options)


def test_teaches(nsd: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("gone", "options", "message"),
    [
        ("nsd_expdesign.mat", {}, r"nsddata/experiments/nsd/nsd_expdesign.mat is not in .*Register at https"),
        ("betas_session02.hdf5", {}, r"func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session02.hdf5 is not in"),
        ("", {"roi": "floc-bodies"}, "'floc-bodies' is no ROI of subj01; it has Kastner2015, floc-faces"),
        (
            "",
            {"roi": "V1v"},
            r"'V1v' is in Kastner2015, prf-visualrois: write 'Kastner2015/V1v' or 'prf-visualrois/V1v'$",
        ),
        ("", {"roi": "floc-faces/EBA"}, "EBA"),
        ("", {"roi": ["floc-faces", "nsdgeneral"]}, "channels are in .* a channel has one ROI"),
        ("", {"roi": []}, r"roi= is \[\]"),
        ("", {"roi": ["nsdgeneral", 3]}, "roi= is or has a int"),
        ("", {"subject": 9}, "subject"),
        ("", {"subject": "01"}, "subject"),
        ("", {"sessions": [1, 41]}, "sessions= has 41, but subj01 has the sessions 1 to 40"),
        ("", {"sessions": []}, "give different numbers"),
        ("", {"betas": "betas_assumehrf"}, "betas_assumehrf/betas_session01.hdf5 is not in"),
    ],
)
def test_bad_input(nsd: Path, tmp_path: Path, gone: str, options: dict[str, Any], message: str) -> None:
    folder = nsd
    if gone:
        folder = shutil.copytree(nsd, tmp_path / "nsd")
        next(folder.rglob(gone)).unlink()
    arguments = {"subject": 1, "roi": "nsdgeneral", "sessions": [1, 2], **options}
    with pytest.raises(NeurordlError, match=message):
        load_nsd(folder, **arguments)


def test_roi_that_only_files_of_a_hemisphere_have(nsd: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nsd, tmp_path / "nsd")
    next(path for path in folder.rglob("floc-faces.nii.gz")).unlink()
    with pytest.raises(NeurordlError, match=r"write 'lh.floc-faces/OFA' or 'rh.floc-faces/OFA'"):
        load_nsd(folder, 1, "OFA", sessions=[1])
    sides = load_nsd(folder, 1, {"OFA": ("lh.floc-faces/OFA", "rh.floc-faces/OFA")}, sessions=[1])
    expected = load_nsd(nsd, 1, "OFA", sessions=[1])
    np.testing.assert_array_equal(sides.measurements, expected.measurements)


def test_two_numbers_of_a_roi_and_numbers_without_names(nsd: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nsd, tmp_path / "nsd")
    table = next(folder.rglob("floc-faces.mgz.ctab"))
    table.write_text(table.read_text().replace("FFA-2", "FFA-1"))
    values, *_ = read_nsd(nsd, "floc-faces", [2, 3], [1])
    np.testing.assert_allclose(load_nsd(folder, 1, "FFA-1", sessions=[1]).measurements, values, rtol=1e-6)
    rois = next(folder.rglob("floc-faces.nii.gz")).parent
    shutil.copy(rois / "prf-visualrois.nii.gz", rois / "thalamus.nii.gz")
    with pytest.warns(UserWarning, match=r"thalamus.nii.gz has 7 ROIs, but thalamus.mgz.ctab .* is missing"):
        patterns = load_nsd(folder, 1, "thalamus", sessions=[1])
    assert set(patterns.channel_descriptors["roi"]) == {"thalamus"}


def test_files_of_another_type_or_space(nsd: Path, tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    (path,) = folder.rglob("betas_session01.hdf5")
    with h5py.File(path, "r+") as file:
        values = file["betas"][:]
        del file["betas"]
        file["betas"] = (values / 300).astype(np.float32)  # as percent signal change
    with pytest.raises(NeurordlError, match=r"betas_session01.hdf5 holds float32, expected int16: percent"):
        load_nsd(folder, 1, sessions=[1])
    path = next(folder.rglob("floc-faces.nii.gz"))
    miniatures.save_volume(path, np.ones((9, 7, 10), dtype=np.int16))
    with pytest.raises(NeurordlError, match=r"'OFA' is in an image of shape \(9, 7, 10\), and 'V1v' of"):
        load_nsd(folder, 1, ["prf-visualrois/V1v", "OFA"], sessions=[1])


@pytest.mark.parametrize("roi", [None, 3, np.ones((5, 4, 6), dtype=bool), {"V1": None}, ["FFA-1", 2]])
def test_rois_that_are_no_names(nsd: Path, roi: Any) -> None:
    with pytest.raises(NeurordlError, match=r"roi= is or has a .*; give the name of a ROI"):
        load_nsd(nsd, 1, roi, sessions=[1])


@pytest.mark.parametrize("sessions", [[1.5], ["1"], "1", [1, 1], []])
def test_sessions_that_are_no_numbers(nsd: Path, sessions: Any) -> None:
    with pytest.raises(NeurordlError, match=r"give different numbers \(int\)"):
        load_nsd(nsd, 1, "FFA-1", sessions=sessions)


def test_one_image_and_none(nsd: Path) -> None:
    assert load_nsd_stimuli(nsd, "nsd-00003", size=8).ids == ("nsd-00003",)
    with pytest.raises(NeurordlError, match="ids= is empty"):
        load_nsd_stimuli(nsd, [])


def test_files_of_another_shape(nsd: Path, tmp_path: Path) -> None:
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


def test_the_page_quotes_the_measured_figures() -> None:
    root = Path(__file__).parents[3]
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
