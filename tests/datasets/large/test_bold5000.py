"""BOLD5000, on a miniature of its layout, against an independent reading."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io

import neurordl as nrl
from neurordl.datasets import load_bold5000, load_bold5000_stimuli
from neurordl.errors import NeurordlError
from tests.datasets import miniatures
from tests.datasets.large.helpers import trained


@pytest.fixture(scope="module")
def bold5000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.bold5000(tmp_path_factory.mktemp("bold5000"), subject=4)


@pytest.mark.filterwarnings("ignore:CSI4 completed 9 of 15")
def test_equals_an_independent_reading(bold5000: Path, tmp_path: Path) -> None:
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
    images = {
        session: nib.load(bold5000 / f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz")
        for session in (2, 3)
    }
    mask = np.isfinite(images[2].get_fdata()).all(axis=3)
    for session, image in images.items():
        expected = scipy.stats.zscore(image.get_fdata()[mask].T, axis=0)
        part = brain.measurements[np.array(brain.obs_descriptors["session"]) == f"ses-{session:02d}"]
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
    places = np.stack([brain.channel_descriptors[axis] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(places, np.argwhere(mask))
    atlas = np.where(mask, 1 + np.arange(mask.size).reshape(mask.shape) % 2, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(atlas, images[2].affine), tmp_path / "atlas.nii.gz")
    by_atlas = load_bold5000(
        bold5000,
        4,
        nrl.Regions(tmp_path / "atlas.nii.gz", labels={1: "odd", 2: "even"}, rois="even"),
        sessions=[2],
    )
    np.testing.assert_array_equal(
        by_atlas.measurements, images[2].get_fdata()[atlas == 2].T.astype(np.float32)
    )


def test_a_mask_with_a_true_affine_is_not_laid_on_betas_without(bold5000: Path) -> None:
    path = bold5000 / "CSI4_brainmask.nii.gz"
    for mask in (path, str(path), nib.load(path), nrl.Regions(path)):
        with pytest.raises(NeurordlError, match=r"the mask .* is on another grid .* do not say where"):
            load_bold5000(bold5000, 4, mask, sessions=[2])


@pytest.mark.filterwarnings("ignore:CSI4 completed 9 of 15")
def test_rois_have_the_same_name_in_all_subjects(bold5000: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bold5000, tmp_path / "copy")
    expected = load_bold5000(folder, 4, "LOC").measurements
    for path in folder.rglob("*.npy"):  # as the files of CSI2 and CSI3
        path.rename(path.with_name(path.name.replace("HLOC.", "HLO.").replace("RHPPA.", "RHRRSC.")))
    patterns = load_bold5000(folder, 4, "LOC")
    np.testing.assert_array_equal(patterns.measurements, expected)
    assert set(patterns.channel_descriptors["roi"]) == {"LOC"}
    with pytest.warns(UserWarning, match="CSI4 has RSC in one hemisphere only, as RHRSC"):
        assert load_bold5000(folder, 4, "RSC").measurements.shape == (3108, 3)


@pytest.mark.filterwarnings("ignore:CSI4 completed 9 of 15")
def test_list_of_images_in_the_folder_of_the_images(bold5000: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bold5000, tmp_path / "copy")
    expected = load_bold5000(folder, 4, "PPA").obs_descriptors
    place = folder / "BOLD5000_Stimuli" / "Stimuli_Presentation_Lists" / "CSI4"
    place.mkdir(parents=True)
    (folder / "CSI4_imgnames.txt").rename(place / "CSI4_imgnames.txt")
    assert load_bold5000(folder, 4, "PPA").obs_descriptors == expected


def test_says_how_many_sessions(bold5000: Path) -> None:
    with pytest.warns(UserWarning, match="CSI4 completed 9 of 15 sessions"):
        load_bold5000(bold5000, 4, "LHPPA")


def test_a_part_of_the_sessions_was_downloaded(bold5000: Path) -> None:
    with (
        pytest.warns(UserWarning, match="completed 9"),
        pytest.raises(NeurordlError, match=r"which has 3 of 9 sessions; .* pass sessions=\[1, 2, 3\]"),
    ):
        load_bold5000(bold5000, 4, "brain")


def test_a_roi_that_is_an_array(bold5000: Path) -> None:
    with pytest.raises(NeurordlError, match="roi= is or has a ndarray"):
        load_bold5000(bold5000, 4, np.ones((5, 4, 6)), sessions=[1])  # type: ignore[arg-type]


def test_images_and_teacher(bold5000: Path) -> None:
    patterns = load_bold5000(bold5000, 4, "PPA", sessions=[1])
    ids = list(dict.fromkeys(patterns.obs_descriptors["stimulus"]))[:60]
    stimuli = load_bold5000_stimuli(bold5000 / "BOLD5000_Stimuli", ids, size=16)
    assert list(stimuli.ids) == ids
    with pytest.warns(UserWarning, match="other proportions"):
        load_bold5000_stimuli(bold5000, ids, size=(8, 16))
    trained(patterns, stimuli, nrl.PatternTeacher(patterns))
    rdms = nrl.compute_rdms(patterns, "correlation")
    trained(patterns, stimuli, nrl.RDMTeacher(rdms))


def test_bad_input(bold5000: Path, tmp_path: Path) -> None:
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
