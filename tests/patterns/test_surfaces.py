"""Patterns of GIFTI, CIFTI and SurfaceImage against nilearn; atlases, folders of fMRIPrep, bad input."""

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
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, ScalarAxis, SeriesAxis
from nilearn.glm.first_level import FirstLevelModel
from nilearn.surface import FileMesh, InMemoryMesh, PolyMesh, SurfaceImage
from numpy.testing import assert_allclose, assert_array_equal

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns.meshes import read_meshes
from neurordl.patterns.surfaces import hemisphere_of
from tests.helpers import icosphere

T_R, VOLUMES, N = 2.0, 80, 42
CONDITIONS = ["s10", "face", "s2", "house"]
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
VOXELS = np.array([[1, 1, 1], [1, 2, 1], [3, 1, 2]])
MARKS = {"left": "L", "right": "R"}
WALL = {"left": [3, 17], "right": [5]}  # vertices of the medial wall


def make_events(run: int) -> pd.DataFrame:
    order = np.random.default_rng(run).permutation(CONDITIONS * 2)
    onsets = 6.0 + 17.5 * np.arange(len(order))
    return pd.DataFrame({"onset": onsets, "duration": 6.0, "trial_type": order})


def series(run: int, side: str, n: int = N) -> np.ndarray[Any, Any]:
    """(volumes, vertices), float32; the medial wall is 0."""
    rng = np.random.default_rng([run, len(side), n])
    values = 500 + 20 * rng.standard_normal((VOLUMES, n)) + np.linspace(0, 60, VOLUMES)[:, None]
    values[:, [v for v in WALL[side] if v < n]] = 0
    return values.astype(np.float32)


def gifti(
    values: Any, side: str | None = None, meta: Any = (), intent: str = "NIFTI_INTENT_TIME_SERIES"
) -> Any:
    arrays = [
        nib.gifti.GiftiDataArray(row, intent=intent, datatype=row.dtype) for row in np.atleast_2d(values)
    ]
    image = nib.GiftiImage(darrays=arrays)
    if side is not None:
        image.meta["AnatomicalStructurePrimary"] = f"Cortex{side.title()}"
    for key, value in dict(meta).items():
        image.meta[key] = value
    return image


def label_gifti(numbers: Any, names: dict[int, str]) -> Any:
    image = gifti(np.asarray(numbers, np.int32), intent="NIFTI_INTENT_LABEL")
    for number, name in names.items():
        label = nib.gifti.GiftiLabel(number, 1, 0, 0, 1)
        label.label = name
        image.labeltable.labels.append(label)
    return image


def cortex(n: int = N) -> BrainModelAxis:
    """Grayordinates: both hemispheres without their medial wall, and three voxels."""
    axes = [
        BrainModelAxis.from_surface(np.setdiff1d(np.arange(n), WALL[side]), n, f"CORTEX_{side.upper()}")
        for side in MARKS
    ]
    inside = np.zeros((4, 4, 4), bool)
    inside[tuple(VOXELS.T)] = True
    return axes[0] + axes[1] + BrainModelAxis.from_mask(inside, "THALAMUS_LEFT", AFFINE)


def dense(run: int) -> np.ndarray[Any, Any]:
    sides = [np.delete(series(run, side), WALL[side], axis=1) for side in MARKS]
    below = 500 + 20 * np.random.default_rng(run).standard_normal((VOLUMES, 3))
    return np.concatenate([*sides, below], axis=1).astype(np.float32)


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Any]:
    """Two runs in files of fMRIPrep, in fsaverage and in fsLR."""
    func = tmp_path / "derivatives" / "fmriprep" / "sub-07" / "func"
    func.mkdir(parents=True)
    events, pairs, cifti = [], [], []
    for run in (1, 2):
        stem = f"sub-07_task-x_run-{run:02d}"
        for side, mark in MARKS.items():
            path = func / f"{stem}_hemi-{mark}_space-fsaverage5_bold.func.gii"
            nib.save(gifti(series(run, side), side), path)
            path.with_name(path.name.replace(".func.gii", ".json")).write_text('{"RepetitionTime": 2.0}')
            pairs.append(path)
        image = nib.Cifti2Image(dense(run), (SeriesAxis(0, T_R, VOLUMES), cortex()))
        cifti.append(func / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii")
        nib.save(image, cifti[-1])
        events.append(func / f"{stem}_events.tsv")
        make_events(run).to_csv(events[-1], sep="\t", index=False)
    return {"pairs": pairs, "cifti": cifti, "events": events, "root": tmp_path / "derivatives" / "fmriprep"}


def meshes() -> PolyMesh:
    mesh = InMemoryMesh(*icosphere(1))
    return PolyMesh(left=mesh, right=mesh)


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_the_glm_is_nilearns_on_surfaces(study: Any, noise_model: str) -> None:
    model = nrl.GLM(noise_model=noise_model, slice_time_ref=0.5)
    with pytest.warns(
        UserWarning, match="dropped 3 of 84 vertices of the images, without a mask: 0 with NaN"
    ):
        patterns = nrl.read_patterns(study["pairs"], None, study["events"], model=model)
    assert patterns.channel_descriptors["hemisphere"] == ["left"] * 40 + ["right"] * 41
    record = json.loads(patterns.descriptors["provenance"])
    assert record["images"] == [path.name for path in study["pairs"]]
    assert patterns.channel_descriptors["vertex"][:4] == [0, 1, 2, 4]
    assert patterns.descriptors["subject"] == "sub-07"
    record = json.loads(patterns.descriptors["provenance"])
    assert record["surface"] == {"left": N, "right": N}
    assert record["vertices"] == 81
    for run in (1, 2):
        data = {side: series(run, side).T.astype(float) for side in MARKS}
        fitted = FirstLevelModel(
            t_r=T_R, slice_time_ref=0.5, hrf_model="spm", noise_model=noise_model, signal_scaling=False
        ).fit(SurfaceImage(meshes(), data), make_events(run))
        at = np.asarray(patterns.obs_descriptors["run"]) == f"run-{run:02d}"
        for row in np.flatnonzero(at):
            name = patterns.obs_descriptors["stimulus"][row]
            effect = fitted.compute_contrast(name, output_type="effect_size").data.parts
            whole = np.concatenate(
                [np.delete(np.asarray(effect[side]).ravel(), WALL[side]) for side in MARKS]
            )
            assert_allclose(patterns.measurements[row], whole, atol=1e-8 * abs(whole).max())


@pytest.mark.filterwarnings("ignore:dropped")
def test_all_ways_to_give_a_pair_are_the_same(study: Any) -> None:
    (left, right, left2, right2), events = study["pairs"], study["events"]
    expected = nrl.read_patterns(study["pairs"], None, events).measurements
    images = [
        [right, left2, right2, left],
        [(right, left), (left2, right2)],
        [{"left": left, "right": right}, {"right": right2, "left": left2}],
        [{"left": nib.load(left), "right": nib.load(right)}, (nib.load(right2), nib.load(left2))],
    ]
    for case in images:
        options = {"model": nrl.GLM(t_r=T_R)} if case is images[-1] else {}
        given = [pd.read_csv(path, sep="\t") for path in events] if case is images[-1] else events
        found = nrl.read_patterns(case, None, given if case is not images[0] else events, **options)
        order = np.argsort(found.obs_descriptors["run"], kind="stable")
        assert_array_equal(found.measurements[order], expected)
    data = [{side: series(run, side).T for side in MARKS} for run in (1, 2)]
    surfaces = [SurfaceImage(meshes(), parts) for parts in data]
    frames = [make_events(run) for run in (1, 2)]
    found = nrl.read_patterns(surfaces, None, frames, model=nrl.GLM(t_r=T_R))
    assert_array_equal(found.measurements, expected)
    single = nrl.read_patterns(surfaces[0], None, frames[0], model=nrl.GLM(t_r=T_R))
    assert_array_equal(single.measurements, expected[:4])
    with pytest.raises(NeurordlError, match="neither the image nor a sidecar gives the seconds"):
        nrl.read_patterns(surfaces[0], None, frames[0])
    one = nrl.read_patterns(left, None, events[0])
    assert set(one.channel_descriptors["hemisphere"]) == {"left"}
    assert_array_equal(one.measurements, expected[:4, :40])


def test_cifti_has_vertices_and_voxels(study: Any) -> None:
    patterns, residuals = nrl.read_patterns(study["cifti"], None, study["events"], residuals=True)
    with pytest.warns(UserWarning, match="dropped 3"):
        surface = nrl.read_patterns(study["pairs"], None, study["events"])
    channels = patterns.channel_descriptors
    assert_allclose(patterns.measurements[:, :81], surface.measurements, atol=1e-10)
    assert channels["vertex"] == [*surface.channel_descriptors["vertex"], -1, -1, -1]
    assert channels["hemisphere"][-3:] == ["left"] * 3
    assert channels["structure"][0] == "CORTEX_LEFT"
    assert channels["structure"][-1] == "THALAMUS_LEFT"
    assert_array_equal(np.stack([channels[axis][-3:] for axis in "xyz"], 1), VOXELS)
    assert channels["x"][0] == -1
    record = json.loads(patterns.descriptors["provenance"])
    assert record["grid"] == {"shape": [4, 4, 4], "affine": AFFINE.tolist()}
    assert record["runs"][0]["t_r"] == T_R
    assert residuals.measurements.shape == (2 * VOLUMES, 84)


def test_cifti_of_voxels_alone_is_a_volume(tmp_path: Path) -> None:
    axis = cortex()[-3:]
    image = nib.Cifti2Image(np.random.default_rng(0).random((4, 3)), (ScalarAxis(list("abcd")), axis))
    nib.save(image, tmp_path / "betas.dscalar.nii")
    patterns = nrl.read_betas(tmp_path / "betas.dscalar.nii", ["a", "b", "c", "d"])
    assert set(patterns.channel_descriptors) == {"x", "y", "z", "structure"}
    assert json.loads(patterns.descriptors["provenance"])["voxels"] == 3


def atlas_files(folder: Path) -> dict[str, Any]:
    """One atlas in all formats: the left V1 and IT, and the right IT and V4; vertex 0 is in no region."""
    left, right = np.zeros((2, N), int)
    left[1:10], left[10:25], right[4:20], right[20:30] = 1, 2, 1, 2
    names = {"left": {0: "???", 1: "V1", 2: "IT"}, "right": {0: "???", 1: "IT", 2: "V4"}}
    numbers = {"left": left, "right": right}
    for side, mark in MARKS.items():
        nib.save(label_gifti(numbers[side], names[side]), folder / f"atlas_hemi-{mark}.label.gii")
        table = np.array([[25, 5, 25, 0], [1, 2, 3, 0], [9, 8, 7, 0]])
        path = folder / f"{mark.lower()}h.atlas.annot"
        texts = ["unknown", *list(names[side].values())[1:]]
        nib.freesurfer.write_annot(path, numbers[side], table, texts, fill_ctab=True)
    whole = np.concatenate([left, np.where(right == 1, 2, np.where(right == 2, 3, 0)), [0, 4, 4]])
    axis = cortex()
    kept = np.concatenate(
        [*(axis.vertex[:81] + N * (axis.name[:81] == "CIFTI_STRUCTURE_CORTEX_RIGHT"),), 2 * N + np.arange(3)]
    )
    table = {
        number: (name, (0, 0, 0, 1)) for number, name in enumerate(["???", "V1", "IT", "V4", "thalamus"])
    }
    image = nib.Cifti2Image(whole[None, kept].astype(np.float32), (LabelAxis(["atlas"], [table]), axis))
    nib.save(image, folder / "atlas.dlabel.nii")
    return numbers


@pytest.mark.filterwarnings("ignore:dropped")
@pytest.mark.filterwarnings("ignore:the atlas")
def test_names_come_from_the_file(study: Any, tmp_path: Path) -> None:
    numbers = atlas_files(tmp_path)
    expected = (["V1"] * 8 + ["IT"] * 14) + (["IT"] * 15 + ["V4"] * 10)  # without vertices 3, 17 and 5
    pair = {side: tmp_path / f"atlas_hemi-{mark}.label.gii" for side, mark in MARKS.items()}
    vertices = nrl.read_patterns(study["pairs"][:2], pair, study["events"][0]).channel_descriptors["vertex"]
    assert vertices[:3] == [1, 2, 4]
    annots = (tmp_path / "lh.atlas.annot", tmp_path / "rh.atlas.annot")
    for image in (pair, tmp_path / "atlas_hemi-{hemi}.label.gii", annots, tmp_path / "{hemi}.atlas.annot"):
        patterns = nrl.read_patterns(study["pairs"][:2], nrl.Regions(image), study["events"][0])
        assert patterns.channel_descriptors["roi"] == expected
        assert patterns.channel_descriptors["vertex"] == vertices
        cifti = nrl.read_patterns(study["cifti"][:1], nrl.Regions(image), study["events"][0])
        assert cifti.channel_descriptors["roi"] == expected
    dlabel = nrl.Regions(tmp_path / "atlas.dlabel.nii")
    patterns = nrl.read_patterns(study["pairs"][:2], dlabel, study["events"][0])
    assert patterns.channel_descriptors["roi"] == expected
    cifti = nrl.read_patterns(study["cifti"][:1], dlabel, study["events"][0])
    assert cifti.channel_descriptors["roi"] == [*expected, "thalamus", "thalamus"]
    some = nrl.read_patterns(study["pairs"][:2], nrl.Regions(pair, rois="IT"), study["events"][0])
    assert some.channel_descriptors["hemisphere"] == ["left"] * 14 + ["right"] * 15
    left_only = nrl.read_patterns(study["pairs"][:2], nrl.Regions(pair["left"]), study["events"][0])
    assert left_only.channel_descriptors["roi"] == expected[:22]
    surface = SurfaceImage(meshes(), {side: numbers[side].astype(np.int32) for side in MARKS})
    tabled = nrl.read_patterns(study["pairs"][:2], nrl.Regions(surface, {1: "a", 2: "b"}), study["events"][0])
    assert set(tabled.channel_descriptors["roi"]) == {"a", "b"}
    with pytest.raises(NeurordlError, match="2 labels without names; pass labels="):
        nrl.read_patterns(study["pairs"][:2], surface, study["events"][0])
    rdms = nrl.compute_rdms(patterns, "euclidean")
    assert rdms.rdm_descriptors["roi"] == ["V1", "IT", "V4"]


def test_vertices_without_a_region_are_told(study: Any, tmp_path: Path) -> None:
    atlas_files(tmp_path)
    annots = (tmp_path / "lh.atlas.annot", tmp_path / "rh.atlas.annot")
    with pytest.warns(UserWarning, match=r"vertices that are in no region are left out: 'unknown' \(34\)"):
        nrl.read_patterns(study["pairs"][:2], nrl.Regions(annots, rois="V1"), study["events"][0])
    found = nrl.read_patterns(study["pairs"][:2], nrl.Regions(annots, rois="unknown"), study["events"][0])
    assert len(found.channel_descriptors["vertex"]) == 34
    with pytest.raises(NeurordlError, match="has no ROI V9; it has IT, V1, V4"):
        nrl.read_patterns(study["pairs"][:2], nrl.Regions(annots, rois="V9"), study["events"][0])


@pytest.mark.parametrize("suffix", [".func.gii", ".shape.gii", ".func.gii.gz", ".dscalar.nii"])
def test_maps_are_betas(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).standard_normal((6, N)).astype(np.float32)
    names = ["a", "b", "c", "a", "b", "c"]
    if suffix == ".dscalar.nii":
        path = tmp_path / f"betas{suffix}"
        axis = BrainModelAxis.from_surface(np.arange(N), N, "CORTEX_LEFT")
        nib.save(nib.Cifti2Image(values, (ScalarAxis(names), axis)), path)
    else:
        path = tmp_path / f"betas_hemi-L{suffix}"
        image = gifti(values, "left", intent="NIFTI_INTENT_ESTIMATE")
        if suffix == ".func.gii":  # as nilearn writes it
            image = gifti([], None)
            array = nib.gifti.GiftiDataArray(values.T.copy(), datatype="NIFTI_TYPE_FLOAT32")
            image = nib.GiftiImage(darrays=[array])
        content = image.to_bytes()
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    patterns = nrl.read_betas(path, names)
    assert_array_equal(patterns.measurements, values)
    assert patterns.channel_descriptors["vertex"] == list(range(N))
    with pytest.raises(NeurordlError, match=r"seconds between volumes|is no series of volumes"):
        nrl.read_patterns(path, None, make_events(1))


def test_maps_of_many_files_are_matched_by_name(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 2, N)).astype(np.float32)
    for k, name in enumerate("abc"):
        for side, row in zip(MARKS, values[k], strict=True):
            nib.save(gifti(row, side), tmp_path / f"{name}_{side[0]}h.shape.gii")
    table = pd.DataFrame({"stimulus": ["c", "a", "b"], "image": [f"{x}_lh.shape.gii" for x in "cab"]})
    patterns = nrl.read_betas(sorted(tmp_path.glob("*.gii")), table)
    assert_array_equal(patterns.measurements, values.reshape(3, -1)[[2, 0, 1]])


@pytest.mark.filterwarnings("ignore:dropped")
def test_folders_of_fmriprep(study: Any, tmp_path: Path) -> None:
    expected = nrl.read_patterns(study["pairs"], None, study["events"])
    subjects = nrl.read_bids(study["root"], "x", "fsaverage5")
    assert_array_equal(subjects["sub-07"].measurements, expected.measurements)
    assert subjects["sub-07"].obs_descriptors["run"] == expected.obs_descriptors["run"]
    for space in ("fsLR", "fsLR_den-91k"):
        cifti = nrl.read_bids(study["root"], "x", space)["sub-07"]
        assert cifti.n_channel == 84
    names = [f"{part}_{axis}" for part in ("trans", "rot") for axis in "xyz"]
    names = [
        f"{name}{end}" for name in names for end in ("", "_derivative1", "_power2", "_derivative1_power2")
    ]
    for run in (1, 2):
        table = pd.DataFrame(np.random.default_rng(run).normal(size=(VOLUMES, 24)), columns=names)
        path = study["events"][0].with_name(f"sub-07_task-x_run-{run:02d}_desc-confounds_timeseries.tsv")
        table.to_csv(path, sep="\t", index=False)
    for space in ("fsaverage5", "fsLR"):
        motion = nrl.read_bids(study["root"], "x", space, confounds=nrl.Confounds(fmriprep="motion"))[
            "sub-07"
        ]
        assert json.loads(motion.descriptors["provenance"])["runs"][0]["confounds"] == 24
    atlas_files(tmp_path)
    folder = tmp_path / "sub-07"
    folder.mkdir()
    for path in tmp_path.glob("?h.atlas.annot"):
        path.rename(folder / path.name)
    masks = [
        {"left": tmp_path / "{subject}/lh.atlas.annot", "right": tmp_path / "{subject}/rh.atlas.annot"},
        tmp_path / "{subject}" / "{hemi}.atlas.annot",
        {"07": folder / "{hemi}.atlas.annot"},
    ]
    for mask in masks:
        found = nrl.read_bids(study["root"], "x", "fsaverage5", mask)["sub-07"]
        assert set(found.channel_descriptors["roi"]) == {"V1", "IT", "V4"}
    with pytest.raises(NeurordlError, match="mask='brain' is no region of a surface"):
        nrl.read_bids(study["root"], "x", "fsaverage5", nrl.Regions("brain", rois="cortex"))
    with pytest.raises(NeurordlError, match=r"there are space='fsLR_den-91k', 'fsaverage5'; check root="):
        nrl.read_bids(study["root"], "x")
    with pytest.raises(NeurordlError, match="check root=, task= and space="):
        nrl.read_bids(study["root"], "x", "fsaverage6")
    func = study["pairs"][0].parent
    for side, mark in MARKS.items():
        name = f"sub-07_task-x_run-01_hemi-{mark}_space-fsLR_den-32k_bold.func.gii"
        nib.save(gifti(series(1, side), side), func / name)
    with pytest.raises(NeurordlError, match=r"belong to one run; choose one in space='fsLR_den-32k'"):
        nrl.read_bids(study["root"], "x", "fsLR")
    assert nrl.read_bids(study["root"], "x", "fsLR_den-91k")["sub-07"].n_channel == 84
    study["pairs"][3].unlink()
    told = (
        r"run-02_hemi-L.* has no image of the other hemisphere beside it, .* complete sub-07, or leave it out"
    )
    with pytest.raises(NeurordlError, match=told):
        nrl.read_bids(study["root"], "x", "fsaverage5")
    with pytest.raises(
        NeurordlError, match=r"hemi-L.* has left \(42 vertices\), right .*hemi-L.* has left \(42"
    ):
        nrl.read_patterns(study["pairs"][:3], None, study["events"])


@pytest.mark.filterwarnings("ignore:dropped")
def test_a_person_of_one_hemisphere_is_no_person_of_two(study: Any) -> None:
    """An interrupted fMRIPrep may leave the left hemisphere of a person, of which a region would be half."""
    func = study["root"] / "sub-08" / "func"
    func.mkdir(parents=True)
    for path in [*study["pairs"], *study["pairs"][0].parent.glob("*.json"), *study["events"]]:
        (func / path.name.replace("sub-07", "sub-08")).write_bytes(path.read_bytes())
    assert nrl.read_bids(study["root"], "x", "fsaverage5")["sub-08"].n_channel == 81
    for path in func.glob("*hemi-R*"):
        path.unlink()
    with pytest.raises(NeurordlError, match=r"sub-08_.*hemi-L.* has no image of the other hemisphere"):
        nrl.read_bids(study["root"], "x", "fsaverage5")
    assert list(nrl.read_bids(study["root"], "x", "fsaverage5", subjects="07")) == ["sub-07"]
    for path in study["root"].glob("sub-07/func/*hemi-R*"):
        path.unlink()
    assert nrl.read_bids(study["root"], "x", "fsaverage5")["sub-08"].n_channel == 40  # all have the left one


@pytest.mark.filterwarnings("ignore:dropped")
def test_regions_beyond_the_images_are_counted(study: Any, tmp_path: Path) -> None:
    numbers = np.repeat(
        [1, 2], 21
    )  # both in the medial wall: of 1 two vertices at the left and one at the right
    names = {1: "IT", 2: "V1"}
    for mark in "LR":
        nib.save(label_gifti(numbers, names), tmp_path / f"{mark}.label.gii")
    atlas = tmp_path / "{hemi}.label.gii"
    left = [path for path in study["pairs"] if "hemi-L" in path.name]
    with pytest.warns(UserWarning, match=r"^42 of 84 places in the regions of .* left out: right \(42\)$"):
        nrl.read_patterns(left, atlas, study["events"])
    with pytest.warns(UserWarning, match=r"^21 of 42 places in the regions .*: right \(21\)$"):
        nrl.read_patterns(left, nrl.Regions(atlas, rois="V1"), study["events"])
    with pytest.warns(UserWarning, match=r"^3 of 42 places in the regions .*: left \(2\), right \(1\)$"):
        nrl.read_patterns(study["cifti"], nrl.Regions(atlas, rois="IT"), study["events"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*places in the regions")
        nrl.read_patterns(study["pairs"], atlas, study["events"])
        nrl.read_patterns(study["cifti"], nrl.Regions(atlas, rois="V1"), study["events"])


@pytest.mark.filterwarnings("ignore:dropped")
def test_the_repetition_time_of_gifti(tmp_path: Path) -> None:
    path, events = tmp_path / "lh.bold.func.gii", make_events(1).iloc[:6]

    def t_r(**meta: str) -> float:
        nib.save(gifti(series(1, "left"), "left", meta), path)
        record = json.loads(nrl.read_patterns(path, None, events).descriptors["provenance"])
        return float(record["runs"][0]["t_r"])

    assert t_r(TimeStep="1.5") == 1.5
    with pytest.warns(UserWarning, match=r"all images \(1\): TimeStep 1500 is read as milliseconds"):
        assert t_r(TimeStep="1500.000000") == 1.5
    for nothing in ("", "-1", "nan", "x"):
        with pytest.raises(NeurordlError, match=r"gives the seconds between volumes; set it with model=GLM"):
            t_r(TimeStep=nothing)
    path.with_name("lh.bold.json").write_text('{"RepetitionTime": 1.8}')
    with pytest.warns(UserWarning, match=r"says 1\.8 s between volumes and the header 1\.5 s"):
        assert t_r(TimeStep="1.5") == 1.8


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("sub-1_task-left_hemi-R_bold.func.gii", "right"),
        ("lh.aparc.annot", "left"),
        ("S1.R.midthickness.32k_fs_LR.surf.gii", "right"),
        ("pial_left.gii.gz", "left"),
        ("tpl-fsaverage_hemi-L_desc-x.label.gii", "left"),
        ("left_to_right.gii", None),
        ("bold.func.gii", None),
        ("x_L.dlabel.nii", None),
    ],
)
def test_the_hemisphere_in_a_name(name: str, side: str | None) -> None:
    assert hemisphere_of(f"/lh/{name}") == side


def test_bad_input(study: Any, tmp_path: Path) -> None:
    left, right, left2, right2 = study["pairs"]
    events = study["events"]
    small, plain, rest = tmp_path / "lh.small.func.gii", tmp_path / "plain.func.gii", tmp_path / "x.nii.gz"
    nib.save(gifti(series(1, "left", 12), "left"), small)
    nib.save(gifti(series(1, "left")), plain)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 9)), np.eye(4)), rest)
    atlas_files(tmp_path)
    labels = {mark: tmp_path / f"atlas_hemi-{mark}.label.gii" for mark in "LR"}
    mesh = nib.GiftiImage(
        darrays=[nib.gifti.GiftiDataArray(icosphere(1)[0].astype(np.float32), intent="NIFTI_INTENT_POINTSET")]
    )
    nib.save(mesh, tmp_path / "lh.white.surf.gii")
    nib.save(gifti(series(1, "right")[:9], "right"), tmp_path / "rh.short.func.gii")
    (tmp_path / "lh.broken.func.gii").write_bytes(left.read_bytes()[:900])
    (tmp_path / "broken.dtseries.nii").write_bytes(study["cifti"][0].read_bytes()[:-900])
    (tmp_path / "lh.broken.annot").write_bytes(b"\0\0\0\x09" * 3)
    smaller = tmp_path / "lh.small.label.gii"
    nib.save(label_gifti(np.ones(12), {1: "V1"}), smaller)
    nib.save(label_gifti(np.full(N, 7), {1: "V1"}), tmp_path / "lh.unnamed.label.gii")
    cases: list[tuple[Any, Any, str]] = [
        ({"left": right}, None, r"hemi-R.*which hemisphere is it\? it is given as left, its name says right"),
        (plain, None, "neither its name nor its header says which hemisphere it is; give"),
        ({"middle": plain}, None, "has the keys middle; expected 'left' and 'right'"),
        ([(left, left2)], None, r"run-01_hemi-L.* and .*run-02_hemi-L.* are both of the left hemisphere"),
        ([(left, right2)], None, r"run-01_hemi-L.* and .*run-02_hemi-R.* are of different recordings"),
        (
            [(small, tmp_path / "rh.short.func.gii")],
            None,
            r"lh.small.* has 80 volumes, and .*rh.short.* has 9",
        ),
        ([left, rest], None, r"hemi-L.* is on a surface and .*x.nii.gz is a volume"),
        (
            left,
            labels["R"],
            r"mask .*hemi-R.* is of right \(42 .*hemi-L.* of left \(42 vertices\); give the mask",
        ),
        (
            left,
            smaller,
            r"mask .*lh.small.label.* has 12 vertices .*hemi-L_space.* has 42; give a mask of the",
        ),
        (left, tmp_path / "lh.unnamed.label.gii", "has the labels 7 without names; pass labels="),
        (left, rest, r"x.nii.gz is none of GIFTI"),
        (left, left2, "has 80 maps; expected one"),
        (rest, labels["L"], "is on a surface, and the images such as .*x.nii.gz are volumes"),
        (tmp_path / "lh.white.surf.gii", None, "holds a mesh and no data on it"),
        (tmp_path / "lh.absent.func.gii", None, "there is no image .*lh.absent.func.gii; check the path"),
        (tmp_path / "absent.dtseries.nii", None, "there is no image .*absent.dtseries.nii; check the path"),
        (tmp_path / "lh.broken.func.gii", None, "cannot read .*lh.broken.func.gii: it is damaged"),
        (tmp_path / "broken.dtseries.nii", None, "cannot read .*broken.dtseries.nii: it is damaged"),
        (left, tmp_path / "lh.broken.annot", "cannot read .*lh.broken.annot: it is damaged"),
        (left, tmp_path / "{hemi}.absent.annot", "there are no files .* with L and R, or lh and rh"),
        ({"left": np.zeros(3)}, None, "is an array; put it into nilearn's SurfaceImage"),
        ([()], None, "is an empty tuple"),
        (
            gifti(series(1, "left"), "cerebellum"),
            None,
            "is of CortexCerebellum; only the left and right cortex",
        ),
    ]
    for images, mask, message in cases:
        with pytest.raises(NeurordlError, match=message):
            nrl.read_patterns(images, mask, make_events(1), model=nrl.GLM(t_r=T_R))
    parcels = ParcelsAxis.from_brain_models([("a", cortex()[:5])])
    image = nib.Cifti2Image(np.zeros((VOLUMES, 1)), (SeriesAxis(0, T_R, VOLUMES), parcels))
    with pytest.raises(NeurordlError, match="the image is not dense CIFTI"):
        nrl.read_patterns(image, None, events[0])


def test_a_mesh_that_its_header_says_is_the_other_side_is_refused(tmp_path: Path) -> None:
    """Meshes of both sides often have as many vertices, so that exchanged ones would fit."""
    points, faces = 10 * np.eye(4)[:, :3], np.array([[0, 1, 2], [1, 2, 3]])
    image = nib.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(values.astype(kind), intent=f"NIFTI_INTENT_{intent}")
            for values, kind, intent in ((points, np.float32, "POINTSET"), (faces, np.int32, "TRIANGLE"))
        ]
    )
    image.darrays[0].meta["AnatomicalStructurePrimary"] = "CortexRight"
    nib.save(image, tmp_path / "mesh.surf.gii")
    assert len(read_meshes({"right": tmp_path / "mesh.surf.gii"})["right"].faces) == 2
    with pytest.raises(NeurordlError, match="it is given as left, its header says right"):
        read_meshes({"left": tmp_path / "mesh.surf.gii"})


def test_meshes_on_the_other_side_are_told(tmp_path: Path) -> None:
    """Meshes of nilearn have no header that says which hemisphere they are; files of theirs have names."""
    points, faces = icosphere(1)
    sides = {"left": (30 * points - [35, 0, 0], faces), "right": (30 * points + [35, 0, 0], faces)}
    swapped = {"left": sides["right"], "right": sides["left"]}
    told = r"the left mesh is given as the left hemisphere, and lies on the other side \(its mean x is 35 mm"
    with pytest.warns(UserWarning, match=told):
        read_meshes(swapped)
    with pytest.warns(UserWarning, match="the right mesh is given as the right hemisphere"):
        read_meshes({"right": sides["left"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_meshes(sides)
        read_meshes(
            {"left": icosphere(1), "right": icosphere(1)}
        )  # centered, as spheres and inflated ones are
    for name in ("lh.inflated", "rh.inflated"):
        nib.freesurfer.write_geometry(tmp_path / name, *icosphere(1))
    files = {side: FileMesh(tmp_path / f"{side[0]}h.inflated") for side in sides}
    with pytest.warns(UserWarning, match=r"lh.inflated: distances on inflated"):
        read_meshes(PolyMesh(**files))
    with pytest.raises(NeurordlError, match=r"rh.inflated is given as the left hemisphere"):
        read_meshes({"left": files["right"], "right": files["left"]})


@pytest.mark.filterwarnings("ignore:dropped")
def test_maps_that_have_the_names_of_the_stimuli_are_in_their_order(tmp_path: Path) -> None:
    """CIFTI and GIFTI name their maps, so that a table in another order would give maps other names."""
    names = ["face", "house", "cat"]
    image = nib.Cifti2Image(dense(1)[:3], (ScalarAxis(names), cortex()))
    files = []
    for side, mark in MARKS.items():
        files.append(tmp_path / f"sub-01_hemi-{mark}_betas.func.gii")
        of_side = gifti(series(1, side)[:3], side)
        for array, name in zip(of_side.darrays, names, strict=True):
            array.meta["Name"] = name
        nib.save(of_side, files[-1])
    for source in (image, files):
        values = nrl.read_betas(source, names).measurements
        named = nrl.read_betas(source, ["a", "b", "face"])  # other names say nothing about the order
        assert_array_equal(named.measurements, values)
        with pytest.raises(
            NeurordlError, match=r"row 1 .* is 'cat', and its map has the name 'face' .* face, hou"
        ):
            nrl.read_betas(source, ["cat", "house", "face"])
    of_side.darrays.reverse()
    nib.save(of_side, files[-1])
    with pytest.raises(
        NeurordlError, match=r"hemi-L.* has the maps face, house, cat, and .*hemi-R.* cat, house"
    ):
        nrl.read_betas(files, names)


def test_the_hemisphere_in_front_of_a_name_hides_no_run(tmp_path: Path) -> None:
    for run, side in ((1, "l"), (1, "r"), (2, "l"), (2, "r")):
        values = series(run, "left")[:1]
        nib.save(gifti(values), tmp_path / f"{side}h.sub-07_run-{run}_beta.func.gii")
    patterns = nrl.read_betas(sorted(tmp_path.glob("*.gii")), ["face", "face"])
    assert patterns.obs_descriptors["run"] == ["run-1", "run-2"]
    assert patterns.descriptors["subject"] == "sub-07"
    table = pd.DataFrame({"stimulus": ["face", "face"], "run": [2, 1]})
    with pytest.raises(NeurordlError, match=r"row 1 .* has run 2, and its volume is of lh.sub-07_run-1"):
        nrl.read_betas(sorted(tmp_path.glob("*.gii")), table)
