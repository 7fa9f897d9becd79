"""Betas of single trials from arrays, NumPy, HDF5 and MATLAB, and GLMsingle's trials, against indexing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns import trials as module

SHAPE, N = (4, 3, 5), 12
IDS = [f"im{k % 6}" for k in range(N)]
TABLE = pd.DataFrame({"stimulus": IDS, "run": np.repeat(["run-1", "run-2"], 6)})


def volumes() -> Any:
    data = np.random.default_rng(0).normal(size=(*SHAPE, N)).astype(np.float32)
    data[0, 0, 0] = 7.0
    data[1, 1, 1, 3] = np.nan
    return data


def inside() -> Any:
    mask = np.zeros(SHAPE, bool)
    mask[:3, :2] = True
    return mask


def write(path: Path, data: Any, layout: str, **options: Any) -> Path:
    """An HDF5 file of Python (forward), MATLAB (marked, axes reversed) or NSD (reversed, not marked)."""
    with h5py.File(path, "w") as file:
        file["R2"] = np.zeros(SHAPE)
        file["meanvol"] = np.zeros(SHAPE)
        name = "modelmd" if layout == "matlab" else "betasmd"
        dataset = file.create_dataset(name, data=data if layout == "forward" else data.T, **options)
        if layout == "matlab":
            dataset.attrs["MATLAB_class"] = np.bytes_("single")
    return path


SOURCES = {
    "array": lambda folder: volumes(),
    "reversed array": lambda folder: volumes().T,
    "npy": lambda folder: np.save(folder / "b.npy", volumes()) or folder / "b.npy",
    "python": lambda folder: write(folder / "b.hdf5", volumes(), "forward"),
    "chunked": lambda folder: write(
        folder / "b.h5", volumes(), "forward", chunks=(2, 3, 5, 5), compression="gzip"
    ),
    "matlab": lambda folder: write(folder / "b.mat", volumes(), "matlab", chunks=(5, 5, 3, 2)),
    "mat 5": lambda folder: (
        scipy.io.savemat(folder / "b.mat", {"R2": inside(), "modelmd": volumes()}) or folder / "b.mat"
    ),
    "packed mat 5": lambda folder: (
        scipy.io.savemat(folder / "b.mat", {"modelmd": volumes(), "pcnum": 3.0}, do_compression=True)
        or folder / "b.mat"
    ),
    "nsd": lambda folder: write(folder / "b.hdf5", volumes(), "reversed"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_voxels_of_a_mask_in_every_layout(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4 * 60 * 4)  # blocks of four trials
    with pytest.warns(UserWarning, match=r"dropped 2 of 30 voxels .*1 with NaN or infinity, 1 constant"):
        patterns = nrl.read_betas(SOURCES[source](tmp_path), TABLE, inside(), subject="s01")
    kept = inside()
    kept[0, 0, 0] = kept[1, 1, 1] = False
    np.testing.assert_array_equal(patterns.measurements, volumes()[kept].T)
    places = np.stack([patterns.channel_descriptors[axis] for axis in "xyz"])
    np.testing.assert_array_equal(places, np.nonzero(kept))
    assert list(patterns.obs_descriptors["stimulus"]) == IDS
    assert list(patterns.obs_descriptors["run"]) == TABLE["run"].tolist()
    rdms = nrl.compute_rdms(patterns, "crossnobis", center="run")
    means = volumes()[kept].T.reshape(2, 6, -1).astype(np.float64)
    means -= means.mean(axis=1, keepdims=True)
    between = means[:, :, None] - means[:, None]
    expected = np.einsum("ijv,ijv->ij", *between) / kept.sum()
    np.testing.assert_allclose(rdms.dissimilarities[0], expected[np.triu_indices(6, 1)], atol=1e-6)


def test_nifti_masks_and_regions_give_places_and_a_grid(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    atlas = inside().astype(np.uint8)
    atlas[2] *= 2
    nib.save(nib.Nifti1Image(atlas, affine), tmp_path / "atlas.nii.gz")
    regions = nrl.Regions(tmp_path / "atlas.nii.gz", {1: "V1", 2: "IT"}, rois="IT")
    patterns = nrl.read_betas(volumes(), IDS, regions)
    np.testing.assert_array_equal(patterns.measurements, volumes()[atlas == 2].T)
    assert set(patterns.channel_descriptors["roi"]) == {"IT"}
    model = nrl.compute_rdms(patterns, "euclidean")
    found = nrl.searchlight(patterns, model, radius=1.5, threshold=0.1, dissimilarity="euclidean")
    np.testing.assert_array_equal(found.grid.affine, affine)


@pytest.mark.parametrize("layout", ["forward", "matlab"])
def test_rows_of_trials_stay_on_the_disk(layout: str, tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(size=(N, 40)).astype(np.float32)
    patterns = nrl.read_betas(write(tmp_path / "b.h5", data, layout), IDS, name=None, subject="s01")
    assert isinstance(patterns.measurements, np.memmap)
    np.testing.assert_array_equal(patterns.measurements, data)
    teacher = nrl.PatternTeacher({"s01": patterns})
    assert teacher.match(["im3", "im0"]).matched == ("im3", "im0")
    packed = nrl.read_betas(write(tmp_path / "c.h5", data, layout, compression="gzip"), IDS)
    np.testing.assert_array_equal(packed.measurements, data)


def test_rows_of_trials_in_matlab_5(tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(size=(N, 20))
    scipy.io.savemat(
        tmp_path / "b.mat", {"betas": data, "names": np.array(IDS, object), "R2": np.zeros((20, 1))}
    )
    with pytest.raises(NeurordlError, match="has the arrays betas, R2; choose one"):
        nrl.read_betas(tmp_path / "b.mat", TABLE)
    patterns = nrl.read_betas(tmp_path / "b.mat", TABLE, name="betas")
    np.testing.assert_array_equal(patterns.measurements, data)
    with pytest.raises(NeurordlError, match="has no array 'beta'; it has betas, R2"):
        nrl.read_betas(tmp_path / "b.mat", TABLE, name="beta")
    whole = (tmp_path / "b.mat").read_bytes()
    (tmp_path / "b.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NeurordlError, match=r"cannot read .*b.mat: it is damaged.*MATLAB with -v7.3"):
        nrl.read_betas(tmp_path / "b.mat", TABLE, name="betas")


def test_trials_of_glmsingle_are_in_order_of_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    runs, expected, of_run = [], [], []
    for run in range(3):
        onsets, volume = np.zeros((50, 4)), 2
        for _ in range(6):
            condition = int(rng.integers(4))
            onsets[volume, condition] = 1
            expected.append("abcd"[condition])
            of_run.append(f"run-{run + 1}")
            volume += int(rng.integers(3, 8))
        runs.append(onsets)
    table = nrl.glmsingle_trials(runs, list("abcd"))
    assert table["stimulus"].tolist() == expected
    assert table["run"].tolist() == of_run
    with h5py.File(tmp_path / "DESIGNINFO.mat", "w") as file:
        file["stimorder"] = np.array([["abcd".index(name) + 1.0] for name in expected])
        file["numtrialrun"] = np.array([[6.0], [6.0], [6.0]])
    pd.testing.assert_frame_equal(nrl.glmsingle_trials(tmp_path / "DESIGNINFO.mat", list("abcd")), table)
    cell = np.empty((1, 3), dtype=object)  # as scipy reads a cell array of MATLAB
    cell[0] = [scipy.sparse.csc_matrix(onsets) for onsets in runs]
    pd.testing.assert_frame_equal(nrl.glmsingle_trials(cell, list("abcd")), table)
    order = [["abcd".index(name) + 1.0 for name in expected]]
    info = {"stimorder": order, "numtrialrun": [[6.0, 6.0, 6.0]], "validcolumns": cell}
    scipy.io.savemat(tmp_path / "mat5.mat", info)
    pd.testing.assert_frame_equal(nrl.glmsingle_trials(tmp_path / "mat5.mat", list("abcd")), table)
    with pytest.raises(NeurordlError, match=r"condition 4, but stimuli= has 3 ids"):
        nrl.glmsingle_trials(tmp_path / "DESIGNINFO.mat", list("abc"))
    for design, message in (
        (tmp_path / "DESIGNINFO.npy", "is a pickle"),
        ([np.ones((5, 4))], "one trial at a time"),
        ([np.zeros((5, 4)) + 0.5], "1 where a trial begins"),
        ([np.zeros((5, 3))], r"has shape \(5, 3\): expected \(volumes, 4\)"),
        ([np.zeros((5, 4))], "no trial"),
        ([], "no trial"),
        (None, "design= is a NoneType; expected a list"),
    ):
        with pytest.raises(NeurordlError, match=message):
            nrl.glmsingle_trials(design, list("abcd"))


def bad(folder: Path, case: str) -> tuple[Any, Any, Any]:
    data, table, mask = volumes(), TABLE, inside()
    if case == "pickle":
        np.save(folder / "TYPED.npy", {"betasmd": data}, allow_pickle=True)
        return folder / "TYPED.npy", table, mask
    if case == "cut short":
        np.save(folder / "b.npy", data)
        (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:300])
        return folder / "b.npy", table, mask
    if case == "mat 5":
        (folder / "b.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(128) + b"\0" * 64)
        return folder / "b.mat", table, mask
    if case == "several":
        with h5py.File(folder / "b.h5", "w") as file:
            file["first"] = file["second"] = data
        return folder / "b.h5", table, mask
    if case == "link":
        with h5py.File(folder / "b.h5", "w") as file:
            file["betasmd"] = h5py.ExternalLink("other.h5", "betas")
        return folder / "b.h5", table, mask
    if case == "square":
        data = np.zeros((N, 3, 3, N), np.float32)
        return data, table, np.ones((N, 3, 3), bool)
    return {
        "absent": (folder / "none.h5", table, mask),
        "text": (np.full((N, 3), "a"), table, None),
        "vector": (np.zeros(N), table, None),
        "fewer ids": (data, IDS[1:], mask),
        "columns": (np.zeros((40, N)), table, None),
        "another mask": (data, table, mask[1:]),
        "fractions": (data, table, mask + 0.5),
        "empty mask": (data, table, ~np.ones(SHAPE, bool)),
        "no name": (data, [*IDS[1:], "n/a"], mask),
        "all NaN": (data * np.nan, table, mask),
    }[case]


MESSAGES = {
    "pickle": "is a pickle, as GLMsingle writes .*wanthdf5=1",
    "cut short": r"cannot read .*b\.npy: it is damaged",
    "mat 5": "no .mat file of version 5 or 7.3; save it in MATLAB with -v7.3",
    "several": r"arrays first, second; choose one with name=",
    "link": "has the arrays none",
    "square": "can be the first or the last axis",
    "absent": "there is no file .*none.h5",
    "text": "expected real numbers",
    "vector": r"of shape \(12,\)",
    "fewer ids": "does not fit 11 trials and a mask",
    "columns": "transpose it",
    "another mask": "does not fit 12 trials",
    "fractions": "expected True and False",
    "empty mask": "without any True; expected True and False",
    "no name": "1 rows without a stimulus",
    "all NaN": "no voxel is left",
}


@pytest.mark.parametrize("case", MESSAGES)
def test_bad_input_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    betas, table, mask = bad(tmp_path, case)
    with pytest.raises(NeurordlError) as error:
        nrl.read_betas(betas, table, mask)
    assert re.search(MESSAGES[case], str(error.value)), str(error.value)


def test_arguments_of_images_and_of_arrays_are_not_mixed(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volumes(), np.eye(4))
    with pytest.raises(NeurordlError, match="name='x' is for a file of HDF5"):
        nrl.read_betas(image, TABLE, name="x")
    with pytest.raises(NeurordlError, match="mask= is an array"):
        nrl.read_betas(image, TABLE, inside())
    with pytest.raises(NeurordlError, match="name='x' is for a file with several"):
        nrl.read_betas(volumes(), TABLE, inside(), name="x")
    with pytest.raises(NeurordlError, match="runs= and session= name images"):
        nrl.read_betas(volumes(), TABLE, inside(), runs=["a"])
    with pytest.raises(NeurordlError, match="has no array 'x'; it has R2, betasmd, meanvol"):
        nrl.read_betas(write(tmp_path / "b.h5", volumes(), "forward"), TABLE, inside(), name="x")
