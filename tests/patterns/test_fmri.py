"""read_patterns and read_betas against nilearn and numpy; grids, atlases, dropped voxels, bad input."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix
from rsatoolbox.rdm import calc_rdm
from scipy.signal import detrend

import neurordl as nrl
from neurordl import GLM, Average, Confounds, Regions
from neurordl.errors import NeurordlError

T_R, VOLUMES, SHAPE = 2.0, 80, (5, 4, 3)
AFFINE = np.diag([3.0, 3.0, 3.5, 1.0])
CONDITIONS = ["s10", "face", "s2", "house on a hill"]


def make_events(run: int, repeats: int = 2) -> pd.DataFrame:
    order = np.random.default_rng(run).permutation(CONDITIONS * repeats)
    onsets = 6.0 + 17.5 * np.arange(len(order))
    return pd.DataFrame({"onset": onsets, "duration": 6.0, "trial_type": order})


def write_run(folder: Path, run: int, affine: Any = AFFINE, ses: str = "") -> tuple[Path, Path]:
    rng = np.random.default_rng(100 + run)
    data = 500 + 20 * rng.standard_normal((*SHAPE, VOLUMES)) + np.linspace(0, 60, VOLUMES)
    stem = folder / f"sub-07{ses}_task-x_run-{run:02d}"
    image = nib.Nifti1Image(data.astype(np.float32), affine)
    image.header.set_zooms((3, 3, 3.5, T_R))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, f"{stem}_bold.nii.gz")
    make_events(run).to_csv(f"{stem}_events.tsv", sep="\t", index=False)
    return Path(f"{stem}_bold.nii.gz"), Path(f"{stem}_events.tsv")


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    files = [write_run(tmp_path, run) for run in (1, 2, 3)]
    inside = np.zeros(SHAPE, np.uint8)
    inside[1:4, 1:, :2] = 1
    nib.save(nib.Nifti1Image(inside, AFFINE), tmp_path / "it.nii.gz")
    return {
        "images": [image for image, _ in files],
        "events": [events for _, events in files],
        "mask": tmp_path / "it.nii.gz",
        "inside": inside.astype(bool),
        "folder": tmp_path,
    }


def series(study: dict[str, Any], run: int) -> np.ndarray[Any, Any]:
    return nib.load(study["images"][run]).get_fdata()[study["inside"]].T


@pytest.mark.parametrize("hrf_model", ["spm", "glover + derivative"])
@pytest.mark.parametrize("drift_model", ["cosine", "polynomial", None])
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_glm_equals_nilearn(study: Any, hrf_model: str, drift_model: Any, noise_model: str) -> None:
    options = {"hrf_model": hrf_model, "drift_model": drift_model, "noise_model": noise_model}
    patterns, residuals = nrl.read_patterns(
        study["images"],
        study["mask"],
        study["events"],
        model=GLM(slice_time_ref=0.5, **options),
        residuals=True,
    )
    assert patterns.obs_descriptors["stimulus"][:4] == list(dict.fromkeys(make_events(1)["trial_type"]))
    for run in range(3):
        events = make_events(run + 1).replace("house on a hill", "hill")
        model = FirstLevelModel(
            t_r=T_R,
            slice_time_ref=0.5,
            mask_img=nib.Nifti1Image(study["inside"].astype(np.uint8), AFFINE),
            signal_scaling=False,
            minimize_memory=False,
            **options,
        ).fit(nib.load(study["images"][run]), events)
        of_run = np.asarray(patterns.obs_descriptors["run"]) == f"run-{run + 1:02d}"
        for row in np.flatnonzero(of_run):
            name = patterns.obs_descriptors["stimulus"][row].replace("house on a hill", "hill")
            effect = model.compute_contrast(name, output_type="effect_size").get_fdata()[study["inside"]]
            np.testing.assert_allclose(patterns.measurements[row], effect, atol=1e-8 * abs(effect).max())
        left = model.residuals_[0].get_fdata()[study["inside"]].T
        at = np.asarray(residuals.obs_descriptors["run"]) == f"run-{run + 1:02d}"
        np.testing.assert_allclose(
            residuals.measurements[at], left, atol=1e-3
        )  # nilearn keeps its images in float32
        rank = np.linalg.matrix_rank(model.design_matrices_[0].to_numpy())
        assert json.loads(patterns.descriptors["provenance"])["runs"][run]["dof"] == VOLUMES - rank
        assert set(np.asarray(residuals.obs_descriptors["dof"])[at]) == {VOLUMES - rank}


def test_single_trials(study: Any) -> None:
    lsa = nrl.read_patterns(study["images"][:1], study["mask"], study["events"][:1], model="lsa")
    lss = nrl.read_patterns(study["images"][:1], study["mask"], study["events"][:1], model="lss")
    events, times, data = make_events(1), T_R * np.arange(VOLUMES), series(study, 0)
    alone = events.assign(trial_type=[f"t{k}" for k in range(len(events))])
    design = make_first_level_design_matrix(times, alone, hrf_model="spm")
    betas = np.linalg.lstsq(design.to_numpy(), data, rcond=None)[0]
    np.testing.assert_allclose(
        lsa.measurements, betas[[design.columns.get_loc(f"t{k}") for k in range(8)]], atol=1e-8
    )
    for k in range(8):
        names = [name.replace(" ", "") for name in events["trial_type"]]
        names[k] = "this"
        design = make_first_level_design_matrix(times, events.assign(trial_type=names), hrf_model="spm")
        beta = np.linalg.lstsq(design.to_numpy(), data, rcond=None)[0][design.columns.get_loc("this")]
        np.testing.assert_allclose(lss.measurements[k], beta, atol=1e-8)
    for found in (lsa, lss):
        assert found.obs_descriptors["stimulus"] == events["trial_type"].tolist()
        assert found.obs_descriptors["onset"] == events["onset"].tolist()
        assert sorted(found.obs_descriptors["trial"]) == [1] * 4 + [2] * 4


@pytest.mark.parametrize("trend", [False, True])
def test_block_averages(study: Any, trend: bool) -> None:
    patterns, residuals = nrl.read_patterns(
        study["images"], study["mask"], study["events"], model=Average(detrend=trend), residuals=True
    )
    for run in range(3):
        data, events = series(study, run), make_events(run + 1)
        if trend:
            data = detrend(data, axis=0) + data.mean(0)
        for name in CONDITIONS:
            taken = [
                v
                for v in range(VOLUMES)
                for event in events.itertuples()
                if event.trial_type == name and event.onset <= v * T_R < event.onset + event.duration
            ]
            row = 4 * run + patterns.obs_descriptors["stimulus"][4 * run : 4 * run + 4].index(name)
            np.testing.assert_allclose(patterns.measurements[row], data[taken].mean(0), rtol=1e-12)
    assert 3 * residuals.obs_descriptors["dof"][0] == residuals.n_obs - 12
    np.testing.assert_allclose(residuals.measurements.mean(0), 0, atol=1e-10)


def test_files_are_matched_by_run_not_by_order(study: Any) -> None:
    options = {"model": "average"}
    right = nrl.read_patterns(study["images"], study["mask"], study["events"], **options)
    turned = nrl.read_patterns(study["images"], study["mask"], study["events"][::-1], **options)
    np.testing.assert_array_equal(turned.measurements, right.measurements)
    with pytest.raises(
        NeurordlError, match=r"no events of the image .*run-03: the events are of .*run-02; check the paths"
    ):
        nrl.read_patterns(study["images"], study["mask"], study["events"][:2], **options)
    padded = study["folder"] / "sub-07_task-x_run-3_events.tsv"
    study["events"][2].rename(padded)
    with pytest.raises(NeurordlError, match=r"the events are of .*run-3;"):
        nrl.read_patterns(study["images"], study["mask"], [*study["events"][:2], padded], **options)


def test_what_the_patterns_say_of_themselves(study: Any) -> None:
    patterns = nrl.read_patterns(study["images"], study["mask"], study["events"], leave_out=["face"])
    assert patterns.descriptors["subject"] == "sub-07"
    assert "face" not in patterns.obs_descriptors["stimulus"]
    assert sorted(set(patterns.obs_descriptors["run"])) == ["run-01", "run-02", "run-03"]
    at = [patterns.channel_descriptors[axis] for axis in "xyz"]
    assert list(zip(*at, strict=True)) == list(zip(*np.nonzero(study["inside"]), strict=True))
    made = json.loads(patterns.descriptors["provenance"])
    assert made["model"] == "glm"
    assert made["hrf_model"] == "spm"
    assert made["runs"][0]["t_r"] == T_R
    assert made["voxels"] == study["inside"].sum()
    assert made["images"] == [path.name for path in study["images"]]
    assert str(study["folder"]) not in patterns.descriptors["provenance"]
    own = nrl.read_patterns(
        study["images"], study["mask"], study["events"], subject="s01", session="2", runs=["a", "b", "c"]
    )
    assert own.descriptors["subject"] == "s01"
    assert set(own.obs_descriptors["session"]) == {"2"}
    assert own.obs_descriptors["run"][::4] == ["a", "b", "c"]


def test_runs_of_several_sessions_stay_apart(tmp_path: Path) -> None:
    files = [write_run(tmp_path, run, ses=f"_ses-{ses}") for ses in "12" for run in (1, 2)]
    found = nrl.read_patterns([i for i, _ in files], None, [e for _, e in files][::-1], model="average")
    assert found.obs_descriptors["run"][::4] == [
        "ses-1_run-01",
        "ses-1_run-02",
        "ses-2_run-01",
        "ses-2_run-02",
    ]
    assert found.obs_descriptors["session"][::4] == ["ses-1", "ses-1", "ses-2", "ses-2"]
    rdms = nrl.compute_rdms(found, "crossnobis")
    assert np.isfinite(rdms.dissimilarities).all()


def test_an_atlas_gives_a_roi_for_each_voxel(study: Any) -> None:
    atlas = study["inside"].astype(np.int16)
    atlas[2] *= 7
    nib.save(nib.Nifti1Image(atlas, AFFINE), study["folder"] / "atlas.nii.gz")
    table = study["folder"] / "atlas.tsv"
    pd.DataFrame({"index": [0, 1, 7], "name": ["none", "V1", "IT"]}).to_csv(table, sep="\t", index=False)
    image = study["folder"] / "atlas.nii.gz"

    def read(**regions: Any) -> Any:
        return nrl.read_patterns(study["images"], Regions(image, **regions), study["events"])

    for labels in ({1: "V1", 7: "IT"}, table, pd.read_csv(table, sep="\t")):
        found = read(labels=labels)
        assert found.channel_descriptors["roi"] == [{1: "V1", 7: "IT"}[v] for v in atlas[atlas > 0]]
    it = read(labels=table, rois="IT")
    assert set(it.channel_descriptors["roi"]) == {"IT"}
    assert it.n_channel == (atlas == 7).sum()
    for change, told in (
        ({}, "has 2 labels without names"),
        ({"labels": {1: "V1"}}, "has the labels 7 without names"),
        ({"labels": table, "rois": ["V4"]}, "no ROI V4; it has IT, V1"),
        ({"labels": {"one": "V1"}}, "needs whole numbers with names"),
        ({"labels": pd.DataFrame({"a": [1]})}, "no column 'index'"),
        ({"labels": study["folder"] / "no.tsv"}, "cannot read"),
    ):
        with pytest.raises(NeurordlError, match=told):
            read(**change)


def test_a_binary_mask_may_have_a_name(study: Any) -> None:
    call = (study["images"], Regions(study["mask"], rois="IT"), study["events"])
    found = nrl.read_patterns(*call, subject="s01")
    assert found.channel_descriptors["roi"] == ["IT"] * found.n_channel
    rdms = nrl.compute_rdms(found, "crossnobis")
    assert (rdms.rdm_descriptors["subject"], rdms.rdm_descriptors["roi"]) == (["s01"], ["IT"])
    assert "roi" not in nrl.read_patterns(study["images"], study["mask"], study["events"]).channel_descriptors
    with pytest.raises(NeurordlError, match="is binary, one ROI, but rois= has 2 names"):
        nrl.read_patterns(call[0], Regions(study["mask"], rois=["IT", "V1"]), call[2])


def test_other_grids_are_resampled_with_a_notice(study: Any) -> None:
    fine = np.kron(study["inside"], np.ones((2, 2, 2))).astype(np.uint8)
    half = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    half[:3, 3] = -np.diag(AFFINE)[:3] / 4  # eight voxels for one, around the same centre
    nib.save(nib.Nifti1Image(fine, half), study["folder"] / "fine.nii.gz")
    with pytest.warns(UserWarning, match=r"fine.nii.gz is on another grid \(10 x 8 x 6 voxels of 1.5"):
        found = nrl.read_patterns(study["images"], study["folder"] / "fine.nii.gz", study["events"])
    same = nrl.read_patterns(study["images"], study["mask"], study["events"])
    np.testing.assert_array_equal(found.measurements, same.measurements)
    assert json.loads(found.descriptors["provenance"])["mask_resampled"]
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.0
    moved, events = write_run(study["folder"], 4, affine=shifted)
    with pytest.warns(UserWarning, match="run-04_bold.nii.gz is on another grid"):
        nrl.read_patterns([*study["images"], moved], study["mask"], [*study["events"], events])


def test_voxels_that_cannot_be_used_are_dropped_and_counted(study: Any) -> None:
    image = nib.load(study["images"][1])
    data = image.get_fdata().astype(np.float32)
    data[1, 1, 0] = 7
    data[2, 2, 1, 5] = np.nan
    data[0, 0, 0, 0] = np.inf  # outside the mask
    nib.save(nib.Nifti1Image(data, AFFINE, image.header), study["images"][1])
    with pytest.warns(UserWarning, match="dropped 2 of 18 voxels.* 1 with NaN or infinity, 1 constant"):
        found = nrl.read_patterns(study["images"], study["mask"], study["events"])
    assert found.n_channel == 16
    made = json.loads(found.descriptors["provenance"])
    assert (made["voxels"], made["dropped_nan"], made["dropped_constant"]) == (16, 1, 1)
    assert (1, 1, 0) not in set(zip(*(found.channel_descriptors[axis] for axis in "xyz"), strict=True))
    assert np.isfinite(found.measurements).all()


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
@pytest.mark.parametrize("kind_of_images", ["bold", "betas", "single"])
def test_volumes_without_data_are_named(value: float, kind_of_images: str) -> None:
    data = np.random.default_rng(0).standard_normal((2, 2, 1, 40)) + 100
    data[..., 20] = value
    image = nib.Nifti1Image(data, np.eye(4))
    events = pd.DataFrame({"onset": [4.0, 16.0], "duration": 4.0, "trial_type": ["a", "b"]})
    table = pd.DataFrame({"stimulus": [f"s{k}" for k in range(40)]})
    images: Any = [image.slicer[..., k] for k in range(40)] if kind_of_images == "single" else image

    def read() -> Any:
        if kind_of_images == "bold":
            return nrl.read_patterns(image, None, events, model=nrl.GLM(t_r=1.0))
        return nrl.read_betas(images, table)

    number = 1 if kind_of_images == "single" else 21
    if np.isfinite(value):
        with pytest.warns(
            UserWarning, match=rf"volumes have the same number in all voxels: {number} .from 1"
        ):
            assert read().n_channel == 4
    else:
        with pytest.raises(
            NeurordlError, match=rf"volumes {number} .from 1. are NaN or infinite in all voxels"
        ):
            read()


def test_betas_with_a_table(study: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((*SHAPE, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(betas, AFFINE), tmp_path / "betas.nii.gz")
    table = pd.DataFrame({"stimulus": CONDITIONS * 2, "run": [1] * 4 + [2] * 4, "animate": [0, 1, 0, 0] * 2})
    found = nrl.read_betas(tmp_path / "betas.nii.gz", table, study["mask"], subject="s01")
    np.testing.assert_array_equal(found.measurements, betas[study["inside"]].T)
    assert found.obs_descriptors["stimulus"] == CONDITIONS * 2
    assert found.obs_descriptors["run"] == [1] * 4 + [2] * 4
    assert found.obs_descriptors["animate"] == [0, 1, 0, 0] * 2
    assert np.isfinite(nrl.compute_rdms(found, "crossnobis").dissimilarities).all()
    # 3D images by the name of their file, in any order
    files = []
    for k in range(8):
        files.append(tmp_path / f"beta_{k:04d}.nii")
        nib.save(nib.Nifti1Image(betas[..., k], AFFINE), files[-1])
    table = table.assign(image=[path.name for path in files])
    single = nrl.read_betas(files[::-1], table, study["mask"], subject="s01")
    np.testing.assert_array_equal(single.measurements, found.measurements)
    for bad, told in (
        (table.drop(columns="image").head(5), "has 5 rows, and the images have 8 volumes"),
        (table.drop(columns="stimulus"), "no column 'trial_type': .* give it a column stimulus"),
        (table.replace("beta_0003.nii", "beta_3.nii"), "differ only by zero padding"),
        (table.assign(stimulus=[*CONDITIONS, *CONDITIONS[:3], None]), "rows without a stimulus"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.read_betas(files, bad, study["mask"])


def test_confounds(study: Any) -> None:
    rng = np.random.default_rng(3)
    tables = []
    for run in range(3):
        frame = pd.DataFrame(rng.standard_normal((VOLUMES, 3)), columns=["trans_x", "csf", "dvars"])
        frame.loc[0, "dvars"] = np.nan
        path = study["folder"] / f"sub-07_task-x_run-{run + 1:02d}_desc-confounds_timeseries.tsv"
        frame.to_csv(path, sep="\t", index=False, na_rep="n/a")
        tables.append(path)
    call = (study["images"], study["mask"], study["events"])
    found = nrl.read_patterns(*call, confounds=Confounds(tables[::-1], ["csf", "dvars"]))
    assert json.loads(found.descriptors["provenance"])["runs"][0]["confounds"] == 2
    frame = pd.read_csv(tables[0], sep="\t")[["csf", "dvars"]].fillna(0)
    events = make_events(1).replace("house on a hill", "hill")
    design = make_first_level_design_matrix(T_R * np.arange(VOLUMES), events, hrf_model="spm", add_regs=frame)
    betas = np.linalg.lstsq(design.to_numpy(), series(study, 0), rcond=None)[0]
    row = found.obs_descriptors["stimulus"].index("face")
    np.testing.assert_allclose(found.measurements[row], betas[design.columns.get_loc("face")], atol=1e-8)
    for change, told in (
        ({"confounds": Confounds(tables, ["csv"])}, "no column 'csv'"),
        ({"confounds": [pd.DataFrame({"a": [1.0]})] * 3}, "1 rows for 80 volumes"),
        ({"confounds": [pd.DataFrame({"a": ["x"] * VOLUMES})] * 3}, "missing or not numbers"),
        ({"model": "average"}, "takes no confounds"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.read_patterns(*call, **{"confounds": tables, **change})


# bad input


def broken(study: Any, how: str) -> Path:
    path = study["folder"] / f"sub-07_task-x_run-01_{how}.nii.gz"
    whole = study["images"][0].read_bytes()
    if how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_bytes(b"no image at all" * 100)
    elif how == "flipped":
        path.write_bytes(whole[:2000] + bytes(b ^ 255 for b in whole[2000:2100]) + whole[2100:])
    elif how == "giant":
        header = nib.Nifti1Header()
        header.set_data_shape((2000, 2000, 2000, 100))
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    elif how == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("how", ["cut", "text", "flipped", "giant", "empty", "absent"])
def test_damaged_images_give_one_clear_error(study: Any, how: str) -> None:
    with pytest.raises(NeurordlError, match=f"{how}.nii.gz"):
        nrl.read_patterns(broken(study, how), study["mask"], study["events"][0])
    with pytest.raises(NeurordlError, match=f"mask .*{how}.nii.gz"):
        nrl.read_patterns(study["images"], broken(study, how), study["events"])


def test_mutated_files_raise_only_errors_of_the_package(study: Any) -> None:
    rng = np.random.default_rng(0)
    plain = nib.Nifti1Image(np.ones((3, 3, 3, 20), np.int16), AFFINE)
    plain.header.set_zooms((3, 3, 3.5, T_R))
    whole = bytearray(plain.to_bytes())
    events = pd.DataFrame({"onset": [2.0, 12.0], "duration": 6.0, "trial_type": ["a", "b"]})
    path, refused = study["folder"] / "mutated.nii", 0
    for _ in range(200):
        bytes_ = whole.copy()
        for at in rng.integers(0, 352, rng.integers(1, 6)):  # the header
            bytes_[at] = rng.integers(0, 256)
        path.write_bytes(bytes_[: rng.integers(100, len(bytes_))] if rng.random() < 0.2 else bytes_)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                nrl.read_patterns(path, None, events, model="average")
        except NeurordlError:
            refused += 1
    assert refused > 100


def mask_of(study: Any, data: Any, affine: Any = AFFINE) -> Path:
    path = study["folder"] / "bad_mask.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(data), affine), path)
    return path


FAR = AFFINE.copy()
FAR[:3, 3] = 5000


@pytest.mark.filterwarnings("ignore:.*another grid")
@pytest.mark.parametrize(
    "data, affine, told",
    [
        (np.zeros(SHAPE, np.uint8), AFFINE, "is empty: all its voxels are 0"),
        (
            np.ones((9, 9, 9), np.uint8),
            FAR,
            "no voxel of .* within the images; check that both are in the same",
        ),
        (np.ones((5, 4), np.uint8), AFFINE, "expected one 3D volume"),
        (np.ones((*SHAPE, 2), np.uint8), AFFINE, "expected one 3D volume"),
        (np.full(SHAPE, 0.4, np.float32), AFFINE, "has fractions such as 0.4; threshold it"),
    ],
)
def test_bad_masks(study: Any, data: Any, affine: Any, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns(study["images"], mask_of(study, data, affine), study["events"])


@pytest.mark.parametrize(
    "change, told",
    [
        ({"onset": 500.0}, "which lasts 160 s, such as 's10' from 500 s to 506 s"),
        ({"onset": 158.0}, "outside the run"),
        (
            {"onset": 4000.0, "duration": 6000.0},
            "which lasts 160 s, .*check that times are in seconds, and t_r",
        ),
        ({"onset": -40.0}, "outside the run"),
        ({"onset": "soon"}, "onset is not a number in row 1"),
        ({"duration": -1.0}, "outside the run"),
    ],
)
def test_events_that_do_not_fit(study: Any, change: dict[str, Any], told: str) -> None:
    row = {"onset": 4.0, "duration": 6.0, "trial_type": "s10", **change}
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns(study["images"][0], study["mask"], pd.DataFrame([row]))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"events": None}, "pass events="),
        ({"events": [pd.DataFrame({"onset": [1.0]})] * 3}, "no column 'duration': its columns are onset"),
        ({"condition": "stim"}, "no column 'stim': its columns are onset, duration, trial_type"),
        ({"images": []}, "one image or more"),
        ({"model": "fir"}, "expected one of 'glm', 'lsa', 'lss', 'average'"),
        ({"runs": ["a", "a", "b"]}, "two images belong to a"),
        ({"runs": ["a"]}, "1 names for 3 images"),
        ({"model": GLM(t_r=-1.0)}, "model=GLM.t_r=2.0."),
        ({"model": GLM(hrf_model="gamma")}, "cannot make the design matrix"),
        ({"model": GLM(hrf_model="fir")}, "several regressors for each condition"),
        ({"confounds": Confounds(fmriprep=["motion"])}, "cannot load fMRIPrep's confounds"),
        ({"leave_out": CONDITIONS}, "leave_out= leaves no condition"),
    ],
)
def test_bad_calls(study: Any, change: dict[str, Any], told: str) -> None:
    call = {name: study[name] for name in ("images", "mask", "events")}
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns(**{**call, **change})


def test_an_image_twice_is_no_two_runs(study: Any) -> None:
    """Crossnobis across them would be of one noise."""
    first = study["images"][0]
    told = rf"images= has .*{first.name} twice, whose noise is not independent; leave one out"
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns([first, str(first)], None, study["events"][:2], runs=["a", "b"])
    betas = study["folder"] / "beta.nii.gz"
    nib.save(nib.load(first).slicer[..., 0], betas)
    with pytest.raises(NeurordlError, match=r"images= has .*beta.nii.gz twice"):
        nrl.read_betas([betas, betas], ["face", "house"])


def test_several_subjects_are_refused(study: Any) -> None:
    other = study["folder"] / "sub-08_task-x_run-04_bold.nii.gz"
    other.write_bytes(study["images"][0].read_bytes())
    with pytest.raises(NeurordlError, match="several subjects"):
        nrl.read_patterns([study["images"][0], other], None, study["events"][:2])


# the layout of fMRIPrep


def test_runs_with_events_and_no_image_are_told(tmp_path: Path) -> None:
    """fMRIPrep may not have finished them; a task, a person and a session that are not read are no loss."""
    func, raw = (tmp_path / folder / "sub-01" / "ses-1" / "func" for folder in ("derivatives/fmriprep", "."))
    func.mkdir(parents=True)
    raw.mkdir(parents=True)
    for run in (1, 2, 3):
        image, events = write_run(tmp_path, run)
        image.rename(func / f"sub-01_ses-1_task-x_run-{run}_space-MNI_desc-preproc_bold.nii.gz")
        events.rename(raw / f"sub-01_ses-1_task-x_run-{run}_events.tsv")
    for name in ("sub-01_ses-1_task-y_run-7", "sub-02_ses-1_task-x_run-8", "sub-01_ses-2_task-x_run-9"):
        (raw / f"{name}_events.tsv").write_bytes(next(raw.glob("*run-1_events.tsv")).read_bytes())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no image of this task")
        nrl.read_bids(tmp_path, "x", "MNI", None)
    next(func.glob("*run-2*")).unlink()
    with pytest.warns(
        UserWarning, match=r"^1 run has events, but no image of .*: sub-01_ses-1_task-x_run-2$"
    ):
        patterns = nrl.read_bids(tmp_path, "x", "MNI", None)["sub-01"]
    assert set(patterns.obs_descriptors["run"]) == {"run-1", "run-3"}


def test_read_bids(tmp_path: Path) -> None:
    root = tmp_path / "ds" / "derivatives" / "fmriprep"
    for subject in ("01", "02", "10"):
        func = root / f"sub-{subject}" / "func"
        raw = tmp_path / "ds" / f"sub-{subject}" / "func"
        func.mkdir(parents=True)
        raw.mkdir(parents=True)
        for run in (1, 2):
            image, events = write_run(tmp_path, run)
            stem = f"sub-{subject}_task-x_run-{run}"
            image.rename(func / f"{stem}_space-MNI_desc-preproc_bold.nii.gz")
            events.rename(raw / f"{stem}_events.tsv")
            inside = np.ones(SHAPE, np.uint8)
            inside[run] = 0
            nib.save(nib.Nifti1Image(inside, AFFINE), func / f"{stem}_space-MNI_desc-brain_mask.nii.gz")
    found = nrl.read_bids(root, "x", "MNI", model="average")
    assert list(found) == ["sub-01", "sub-02", "sub-10"]
    assert found["sub-02"].descriptors["subject"] == "sub-02"
    assert set(found["sub-02"].channel_descriptors["x"]) == {0, 3, 4}
    rdms = nrl.compute_rdms(found, "crossnobis")
    assert list(rdms.rdm_descriptors["subject"]) == list(found)
    some, left = nrl.read_bids(root, "x", "MNI", subjects=["sub-10", "01"], residuals=True)
    assert list(some) == list(left) == ["sub-10", "sub-01"]
    for change, told in (
        ({"root": tmp_path / "no"}, "there is no folder"),
        ({"task": "rest"}, r"no image sub-\*/\[ses-\*/\]func/\*_task-rest"),
        ({"space": None}, "has no image"),
        ({"subjects": ["03"]}, "subjects='03': expected one of '01', '02', '10'"),
        ({"sessions": ["1"]}, "sessions='1': expected one of 'none'"),
        ({"events_root": root}, "has no events"),
        ({"mask": {"01": None}}, "mask= has no mask for sub-02"),
        ({"mask": tmp_path / "{subject}_mask.nii"}, "there is no mask .*sub-01_mask.nii"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.read_bids(**{"root": root, "task": "x", "space": "MNI", **change})
    (root / "sub-01" / "func" / "sub-01_task-x_run-2_space-MNI_desc-brain_mask.nii.gz").unlink()
    with pytest.raises(NeurordlError, match=r"there is no brain mask .*run-2.*pass another mask="):
        nrl.read_bids(root, "x", "MNI")


# real data: 12 runs of Haxby et al. (2001), one slice


def test_haxby_against_an_independent_analysis(data_root: Path) -> None:
    from nilearn.masking import apply_mask
    from rsatoolbox.data import Dataset

    folder = data_root / "haxby2001_slice"
    images = sorted(folder.glob("*_slice_bold.nii.gz"))
    events = sorted(folder.glob("*_events.tsv"))
    mask = folder / "slice_brain_mask.nii.gz"
    for trend, largest, second in ((False, 139.0, 98.8), (True, 120.1, 93.2)):
        patterns = nrl.read_patterns(images, mask, events, model=Average(detrend=trend))
        found = nrl.compute_rdms(patterns, "crossnobis")
        ids = list(found.pattern_descriptors["stimulus"])
        matrix = found.get_matrices()[0]
        assert matrix[ids.index("face"), ids.index("house")] == found.dissimilarities.max()
        assert round(float(found.dissimilarities.max()), 1) == largest
        assert round(float(matrix[ids.index("bottle"), ids.index("house")]), 1) == second

        rows, names, runs = [], [], []
        for run, (image, file) in enumerate(zip(images, events, strict=True)):
            series = apply_mask(str(image), str(mask), dtype="f8")
            series = detrend(series, axis=0) if trend else series
            times = 2.5 * np.arange(len(series))
            own = []
            for event in pd.read_csv(file, sep="\t").itertuples():
                inside = (times >= event.onset) & (times < event.onset + event.duration)
                own.append(series[inside].mean(0))
                names.append(event.trial_type)
                runs.append(run)
            rows.append(own - np.mean(own, axis=0))
        data = Dataset(np.concatenate(rows), obs_descriptors={"stimulus": names, "run": runs})
        theirs = calc_rdm(data, "crossnobis", descriptor="stimulus", cv_descriptor="run")
        order = [str(name) for name in theirs.pattern_descriptors["stimulus"]]
        at = [order.index(name) for name in ids]
        expected = theirs.get_matrices()[0][np.ix_(at, at)]
        np.testing.assert_allclose(matrix, expected, atol=1e-8, rtol=0)


# what files on disk are like


def fmriprep_run(folder: Path, run: int = 1) -> tuple[Path, Path, pd.DataFrame]:
    """A run with the confounds and sidecars that fMRIPrep writes."""
    image, events = write_run(folder, run)
    stem = f"sub-07_task-x_run-{run:02d}"
    path = folder / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    image.rename(path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": T_R}))
    rng = np.random.default_rng(run)
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    columns = {}
    for name in [*motion, "csf", "white_matter", "global_signal"]:
        values = rng.standard_normal(VOLUMES).cumsum() * 0.01
        columns[name] = values
        slope = np.concatenate([[np.nan], np.diff(values)])
        columns[f"{name}_derivative1"], columns[f"{name}_power2"] = slope, values**2
        columns[f"{name}_derivative1_power2"] = slope**2
    columns["framewise_displacement"] = np.concatenate([[np.nan], np.full(VOLUMES - 1, 0.1)])
    columns["framewise_displacement"][40] = 3.0
    columns["std_dvars"] = np.concatenate([[np.nan], np.full(VOLUMES - 1, 1.0)])
    for k in range(2):
        columns[f"cosine{k:02d}"] = np.cos(np.pi * (k + 1) * (np.arange(VOLUMES) + 0.5) / VOLUMES)
        columns[f"non_steady_state_outlier{k:02d}"] = (np.arange(VOLUMES) == k).astype(float)
    frame = pd.DataFrame(columns)
    table = folder / f"{stem}_desc-confounds_timeseries.tsv"
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    table.with_suffix(".json").write_text(json.dumps({"csf": {"Method": "Mean"}}))
    return path, events, frame


def test_confounds_of_fmriprep(tmp_path: Path) -> None:
    image, events, frame = fmriprep_run(tmp_path)
    found, left = nrl.read_patterns(
        image, None, events, confounds=Confounds(fmriprep=["motion", "wm_csf"]), residuals=True
    )
    run = json.loads(found.descriptors["provenance"])["runs"][0]
    assert (run["confounds"], run["excluded"]) == (26, 2)  # 24 of motion; two volumes are not steady
    assert left.n_obs == VOLUMES - 2
    motion = [name for name in frame if str(name).startswith(("trans", "rot"))]
    regressors = frame[[*motion, "csf", "white_matter"]].bfill()  # a constant moves no beta
    regressors = regressors - regressors.mean()
    table = make_events(1).replace("house on a hill", "hill")
    design = make_first_level_design_matrix(
        T_R * np.arange(VOLUMES), table, hrf_model="spm", add_regs=regressors
    )
    data = nib.load(image).get_fdata().reshape(-1, VOLUMES).T
    betas = np.linalg.lstsq(design.to_numpy()[2:], data[2:], rcond=None)[0]
    row = found.obs_descriptors["stimulus"].index("face")
    np.testing.assert_allclose(found.measurements[row], betas[design.columns.get_loc("face")], atol=1e-6)
    scrubbed, left = nrl.read_patterns(
        image, None, events, confounds=Confounds(fmriprep=["motion", "scrub"]), residuals=True
    )
    assert json.loads(scrubbed.descriptors["provenance"])["runs"][0]["excluded"] > 2
    for strategy, told in (
        (["compcor"], "cannot load fMRIPrep's confounds"),
        (["nothing"], "cannot load fMRIPrep's confounds"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.read_patterns(image, None, events, confounds=Confounds(fmriprep=strategy))
    (tmp_path / "sub-07_task-x_run-01_desc-confounds_timeseries.tsv").write_text("csf\nx\n")
    with pytest.raises(NeurordlError, match="cannot load fMRIPrep's confounds"):
        nrl.read_patterns(image, None, events, confounds=Confounds(fmriprep="wm_csf"))
    short = frame.iloc[:-5]
    short.to_csv(tmp_path / "sub-07_task-x_run-01_desc-confounds_timeseries.tsv", sep="\t", index=False)
    with pytest.raises(NeurordlError, match=r"75 rows for 80 volumes"):
        nrl.read_patterns(image, None, events, confounds=Confounds(fmriprep=["motion"]))


def test_grids_that_drift_apart_are_not_the_same(study: Any) -> None:
    size = (120, 4, 3)
    grown = AFFINE.copy()
    grown[0, 0] += 0.009  # a hundredth of a millimeter a voxel is a millimeter at the far end
    image = nib.Nifti1Image(np.random.default_rng(0).random((*size, 4)), AFFINE)
    inside = nib.Nifti1Image(np.ones(size, np.uint8), grown)
    table = pd.DataFrame({"stimulus": CONDITIONS})
    with pytest.warns(UserWarning, match="is on another grid"):
        nrl.read_betas(image, table, inside)


@pytest.mark.parametrize(
    ("zoom", "unit", "given", "told"),
    [
        (0.0, "sec", None, "volumes of .*=0.0: expected a number above 0"),
        (2000.0, "sec", None, "expected a number above 0 and of at most 60; set it with model=GLM"),
        (500.0, "unknown", None, "expected a number above 0 and of at most 60; set it with model=GLM"),
        (2.0, "sec", 2000, "expected a number above 0 and of at most 60; set it with model=GLM"),
    ],
)
def test_implausible_repetition_times(study: Any, zoom: float, unit: str, given: Any, told: str) -> None:
    image = nib.load(study["images"][0])
    image.header.set_zooms((3, 3, 3.5, zoom))
    image.header.set_xyzt_units("mm", unit)
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns(image, study["mask"], study["events"][0], model=GLM(t_r=given))


def test_repetition_times_in_other_units(study: Any) -> None:
    call = (study["mask"], study["events"][0])
    expected = nrl.read_patterns(study["images"][0], *call)
    image = nib.load(study["images"][0])
    image.header.set_zooms((3, 3, 3.5, 2000.0))
    image.header.set_xyzt_units("mm", "msec")
    np.testing.assert_array_equal(nrl.read_patterns(image, *call).measurements, expected.measurements)
    image.header.set_zooms((3, 3, 3.5, 2.0))
    image.header.set_xyzt_units("mm", "unknown")
    with pytest.warns(UserWarning, match="without a unit of time"):
        nrl.read_patterns(image, *call)
    image.header["xyzt_units"] = 6  # of nothing
    with pytest.warns(UserWarning, match="without a unit of time"):
        nrl.read_patterns(image, *call)
    nrl.read_patterns(image, *call, model=GLM(t_r=np.float32(2.0)))


def test_scaled_integers_are_read_in_their_units(study: Any, tmp_path: Path) -> None:
    image = nib.load(study["images"][0])
    scaled = nib.Nifti1Image(image.get_fdata(), image.affine, image.header)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, tmp_path / "scaled_bold.nii.gz")
    assert nib.load(tmp_path / "scaled_bold.nii.gz").dataobj.slope != 1
    call = (study["mask"], study["events"][0])
    found = nrl.read_patterns(tmp_path / "scaled_bold.nii.gz", *call).measurements
    np.testing.assert_allclose(found, nrl.read_patterns(study["images"][0], *call).measurements, atol=0.05)


def test_conditions_left_out_must_exist(study: Any) -> None:
    call = (study["images"], study["mask"], study["events"])
    assert "face" not in nrl.read_patterns(*call, leave_out="face").obs_descriptors["stimulus"]
    with pytest.raises(
        NeurordlError, match=r"leave_out='rset' is not a condition of the events, which are .*'face'"
    ):
        nrl.read_patterns(*call, leave_out=["rset"])


def test_the_row_of_a_bad_event_is_that_of_the_table(study: Any) -> None:
    table = make_events(1)
    table["trial_type"] = table["trial_type"].where(table.index > 2)
    table["duration"] = table["duration"].astype(object)
    table.loc[4, "duration"] = "n/a"
    with pytest.raises(NeurordlError, match="duration is not a number in row 5"):
        nrl.read_patterns(study["images"][0], study["mask"], table)


def test_betas_of_one_volume_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files, rows = [], []
    for run in (1, 2):
        for name in CONDITIONS[:3]:
            files.append(tmp_path / f"sub-07_ses-a_run-{run}_desc-{name}_beta.nii.gz")
            nib.save(nib.Nifti1Image(rng.standard_normal(SHAPE), AFFINE), files[-1])
            rows.append({"stimulus": name, "image": files[-1].name})
    table = pd.DataFrame(rows)[::-1]
    found = nrl.read_betas(files, table)
    assert found.obs_descriptors["run"] == ["run-2"] * 3 + ["run-1"] * 3
    assert found.obs_descriptors["session"] == ["ses-a"] * 6
    np.testing.assert_array_equal(found.measurements[0], nib.load(files[-1]).get_fdata().ravel())
    with pytest.warns(UserWarning, match="1 images are in no row of .*such as sub-07_ses-a_run-2"):
        nrl.read_betas(files, table[1:])
    plain = []
    for k, file in enumerate(files[:3]):
        plain.append(file.rename(tmp_path / f"beta_{k}.nii.gz"))
    found = nrl.read_betas(plain, table[::-1][:3][["stimulus"]])
    assert "run" not in found.obs_descriptors


def test_a_voxel_that_one_run_lacks_is_dropped_from_all(study: Any) -> None:
    image = nib.load(study["images"][1])
    data = image.get_fdata()
    data[1, 1, 0, 7] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine, image.header), study["images"][1])
    with pytest.warns(UserWarning, match="dropped 1 of 18 voxels .* 1 with NaN"):
        found = nrl.read_patterns(study["images"], study["mask"], study["events"])
    assert found.n_channel == 17
    assert (1, 1, 0) not in set(zip(*(found.channel_descriptors[axis] for axis in "xyz"), strict=True))


def test_bids_without_run_and_with_sessions(tmp_path: Path) -> None:
    for ses in ("pre", "post"):
        func = tmp_path / "sub-07" / f"ses-{ses}" / "func"
        func.mkdir(parents=True)
        for direction, run in (("AP", 1), ("PA", 2)):
            image, events = write_run(tmp_path, run)
            stem = f"sub-07_ses-{ses}_task-x_dir-{direction}"
            image.rename(func / f"{stem}_desc-preproc_bold.nii.gz")
            events.rename(func / f"{stem}_events.tsv")
    found = nrl.read_bids(tmp_path, "x", mask=None, model="average")["sub-07"]
    told = json.loads(found.descriptors["provenance"])["runs"]
    assert [one["events"] for one in told] == [
        f"sub-07_ses-{ses}_task-x_dir-{direction}_events.tsv"
        for ses in ("post", "pre")
        for direction in ("AP", "PA")
    ]
    assert set(found.obs_descriptors["session"]) == {"ses-post", "ses-pre"}
    assert len(set(found.obs_descriptors["run"])) == 4


def test_a_header_of_negative_sizes_is_damaged(study: Any, tmp_path: Path) -> None:
    content = bytearray(nib.load(study["images"][0]).to_bytes())
    for place in (42, 44):  # the first two sizes
        content[place : place + 2] = (-3).to_bytes(2, "little", signed=True)
    (tmp_path / "bold.nii").write_bytes(content)
    with pytest.raises(NeurordlError, match=r"image .*bold.nii: it is damaged, or not a .nii file"):
        nrl.read_patterns(tmp_path / "bold.nii", None, study["events"][0], model=GLM(t_r=2.0))
