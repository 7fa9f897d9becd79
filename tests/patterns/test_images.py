"""Grids, scaled values and label names, against numpy."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns.images import Regions, read_mask, values_in

SHAPE, AFFINE = (5, 4, 3), np.diag([3.0, 3.0, 3.5, 1.0])
INSIDE = np.zeros(SHAPE, dtype=bool)
INSIDE[1:4, 1:3, 1] = True
GRID = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
TABLE = pd.DataFrame({"stimulus": ["a", "b"]})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_what_is_resampled_is_not_rounded_to_its_type(dtype: Any) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.0  # a third of a voxel
    data = np.random.default_rng(0).integers(0, 200, (*SHAPE, 4)).astype(dtype)
    with pytest.warns(UserWarning, match="on another grid"):
        found = values_in(nib.Nifti1Image(data, shifted), INSIDE, GRID, "it")
    whole = data.astype(np.float64)
    exact = whole[:-1] / 3 + whole[1:] * 2 / 3  # voxel k lies between k - 1 and k
    np.testing.assert_allclose(found.T, exact[0:3, 1:3, 1].reshape(6, 4), rtol=1e-6)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
def test_other_orientations_of_a_grid_are_read_exactly(axes: Any, flips: Any, recwarn: Any) -> None:
    affine = np.array(
        [[1.7, 0.3, 0.1, -90.5], [-0.2, 1.8, 0.4, -126.3], [0.1, -0.5, 2.4, -72.7], [0, 0, 0, 1]]
    )
    grid = nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine)
    orientation = np.array(list(zip(axes, flips, strict=True)))
    series = np.random.default_rng(0).standard_normal((*SHAPE, 2)).astype(np.float32)
    atlas = 1 + (np.arange(5) > 1)[:, None, None] * np.ones(SHAPE, np.uint8)
    turned = [nib.Nifti1Image(data, affine).as_reoriented(orientation) for data in (series, atlas)]
    mask = read_mask(Regions(turned[1], {1: "V1", 2: "IT"}), grid)
    assert mask.inside.all()
    assert not mask.resampled
    assert mask.roi == ["V1"] * 24 + ["IT"] * 36
    np.testing.assert_array_equal(values_in(turned[0], mask.inside, grid, "it"), series.reshape(-1, 2).T)
    assert not recwarn.list


@pytest.mark.parametrize(("shape", "size"), [((64, 64, 30), 3.0), ((53, 63, 46), 3.0), ((91, 109, 91), 2.5)])
@pytest.mark.parametrize("axis", range(3))
def test_no_plane_of_a_turned_mask_is_lost(shape: Any, size: float, axis: int) -> None:
    affine, turn = np.diag([size, size, size, 1]), np.eye(4)
    affine[:3, 3] = -90.5, -126.3, -72.7
    turn[axis, axis], turn[axis, 3] = -1, shape[axis] - 1
    grid = nib.Nifti1Image(np.broadcast_to(np.uint8(0), shape), affine @ turn)
    assert read_mask(nib.Nifti1Image(np.ones(shape, np.uint8), affine), grid).inside.all()


def test_planes_at_the_side_of_a_finer_grid_are_not_lost() -> None:
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = -np.diag(AFFINE)[:3] / 4
    grid = nib.Nifti1Image(np.zeros((10, 8, 6), np.float32), fine)
    with pytest.warns(UserWarning, match=r"5 x 4 x 3 voxels of 3 x 3 x 3.5 mm, axes RAS, origin 0, 0, 0"):
        mask = read_mask(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), grid)
    assert mask.inside.all()
    assert mask.resampled


def test_images_between_voxels_equal_the_interpolation_of_nilearn() -> None:
    from nilearn.image import resample_to_img

    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    image = nib.Nifti1Image(np.random.default_rng(0).standard_normal((12, 12, 9, 3)), turn @ AFFINE)
    inner = AFFINE.copy()
    inner[:3, 3] = 9, 9, 5
    grid = nib.Nifti1Image(np.zeros((6, 6, 5), np.float32), inner)
    expected = resample_to_img(image, grid, "linear", copy_header=True, force_resample=True).get_fdata()
    with pytest.warns(UserWarning, match="it is resampled .linear.$"):
        values = values_in(image, np.ones((6, 6, 5), bool), grid, "it")
    np.testing.assert_allclose(values, expected.reshape(-1, 3).T, atol=1e-10)


def test_what_an_image_does_not_cover_is_counted_and_not_zero() -> None:
    data = np.random.default_rng(0).standard_normal((*SHAPE, 2))
    cut = AFFINE.copy()
    cut[0, 3] = 6.0  # without the first two planes
    part, inside = nib.Nifti1Image(data[2:], cut), np.ones(SHAPE, bool)
    with pytest.warns(UserWarning, match="read without resampling; 24 of 60 voxels lie outside of it$"):
        values = values_in(part, inside, GRID, "it")
    np.testing.assert_array_equal(values[:, 24:], data[2:].reshape(-1, 2).T)
    assert np.isnan(values[:, :24]).all()
    with pytest.warns(
        UserWarning, match="without resampling; 24 of its 60 voxels above 0 lie outside of the"
    ):
        assert read_mask(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), part).inside.all()


def without_space(data: Any) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, None)
    assert image.header["qform_code"] == image.header["sform_code"] == 0
    return image


def test_images_without_a_coordinate_system_are_matched_by_their_voxels_or_refused() -> None:
    data = np.random.default_rng(0).standard_normal((*SHAPE, 2))
    mask = INSIDE.astype(np.uint8)
    mask[0, 3, 2] = 1
    for pair in (
        (without_space(data), nib.Nifti1Image(mask, AFFINE)),
        (nib.Nifti1Image(data, AFFINE), without_space(mask)),
    ):
        with pytest.warns(UserWarning, match="without a coordinate system.* matched by their order in the f"):
            patterns = nrl.read_betas(pair[0], TABLE, pair[1])
        np.testing.assert_array_equal(patterns.measurements, data[mask > 0].T)
    with pytest.raises(NeurordlError, match="without coordinates they cannot be matched; write the affine"):
        nrl.read_betas(without_space(data), TABLE, nib.Nifti1Image(mask[1:], AFFINE))


@pytest.mark.filterwarnings("error")
def test_two_images_without_a_coordinate_system_are_on_one_grid() -> None:
    data = np.random.default_rng(0).standard_normal((*SHAPE, 2))
    patterns = nrl.read_betas(without_space(data), TABLE, without_space(INSIDE.astype(np.uint8)))
    np.testing.assert_array_equal(patterns.measurements, data[INSIDE].T)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["b.nii", "B.NII", "b.nii.gz", "B.NII.GZ", "b.nii.bz2", "b.img", "b.hdr"])
@pytest.mark.parametrize("slope", [1, 3])
def test_files_that_nibabel_reads_are_read(tmp_path: Path, name: str, slope: float) -> None:
    data = np.zeros((40, 40, 20, 2), np.int16)  # packs well, above all in bz2
    data[3:6, 3, 3] = [[1, 2], [3, 4], [5, 6]]
    image = (nib.Nifti1Image if ".nii" in name.lower() else nib.Nifti1Pair)(data, AFFINE)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    patterns = nrl.read_betas(
        tmp_path / name, TABLE, nib.Nifti1Image((data[..., 0] > 0).astype(np.uint8), AFFINE)
    )
    np.testing.assert_array_equal(patterns.measurements, slope * data[3:6, 3, 3].T)


@pytest.mark.parametrize("last", [(1, 2), (2, 1)])
def test_volumes_on_the_fifth_axis_are_read(tmp_path: Path, last: Any) -> None:
    data = np.random.default_rng(0).integers(0, 99, (*SHAPE, *last)).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "bucket.nii")
    for bucket in (tmp_path / "bucket.nii", nib.Nifti1Image(2.0 * data + 1, AFFINE)):
        patterns = nrl.read_betas(bucket, TABLE)
        np.testing.assert_array_equal(patterns.measurements, 2.0 * data.reshape(-1, 2).T + 1)


@pytest.mark.parametrize(
    ("name", "packed", "said"),
    [
        ("m.nii", gzip.compress, "is compressed .*gz., unlike its name; rename it to .nii.gz"),
        ("m.nii", bz2.compress, "is compressed .*bz2., unlike its name; rename it to .nii.bz2"),
        ("m.nii.bz2", gzip.compress, "is compressed .*gz., unlike its name; rename it to .nii.gz"),
        ("m.nii.gz", bytes, "is not compressed, unlike its name; rename it to .nii$"),
        ("m.nii.xz", lzma.compress, "nibabel does not read this suffix; name it .nii.gz"),
        ("m.nii.Gz", gzip.compress, "nibabel does not read this suffix; name it .nii.gz"),
    ],
)
def test_the_compression_and_the_name_of_a_file_agree(
    tmp_path: Path, name: str, packed: Any, said: str
) -> None:
    nib.save(nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE), tmp_path / "whole.nii")
    (tmp_path / name).write_bytes(packed((tmp_path / "whole.nii").read_bytes()))
    with pytest.raises(NeurordlError, match=said):
        read_mask(tmp_path / name, GRID)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint64])
def test_labels_that_no_whole_number_holds_are_refused(dtype: Any) -> None:
    mask = nib.Nifti1Image(INSIDE.astype(dtype) * dtype(2**63), AFFINE, dtype=dtype)
    with pytest.raises(NeurordlError, match=r"has labels such as 9.22337e\+18, beyond 2\*\*53; threshold"):
        read_mask(mask, GRID)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("size", [0.0, 1e-310, np.nan, np.inf])
def test_affines_without_places_are_refused(size: float) -> None:
    mask = nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE)
    mask.affine[0, 0] = size
    with pytest.raises(NeurordlError, match="cannot read the mask in memory: "):
        read_mask(mask, GRID)


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The .mat beside an image of Analyze is never read: scipy, by which nibabel reads it, can crash."""
    nib.save(nib.Spm99AnalyzeImage(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "old.img")
    nib.save(nib.Nifti1Pair(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "new.img")
    (tmp_path / "new.img").unlink()
    (tmp_path / "old.mat").write_bytes(b"damaged")
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("it was read"))
    nib.save(nib.MGHImage(np.zeros(SHAPE, np.float32), np.eye(4)), tmp_path / "brain.mgz")
    for name in ("brik+orig.HEAD", "series.dcm", "surface.func.gii", "no_suffix"):
        (tmp_path / name).write_bytes(b"\0" * 8)
    named = ("brain.mgz", "brik+orig.HEAD", "series.dcm", "surface.func.gii", "no_suffix")
    for mask, said in (
        *((tmp_path / name, r"its name is none of NIfTI .* convert it to NIfTI") for name in named),
        (tmp_path / "old.img", "is a Spm2AnalyzeImage and not NIfTI; convert it"),
        (tmp_path / "new.hdr", "has no new.img beside it"),
    ):
        with pytest.raises(NeurordlError, match=said):
            read_mask(mask, GRID)


def test_labels_are_never_mixed() -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.0  # a third of a voxel
    atlas = INSIDE.astype(np.int16)
    atlas[2:] *= 3
    with pytest.warns(UserWarning, match="it is resampled .nearest."):
        found = read_mask(Regions(nib.Nifti1Image(atlas, shifted), {1: "V1", 3: "IT"}), GRID)
    np.testing.assert_array_equal(found.inside, INSIDE)
    assert found.roi == [{1: "V1", 3: "IT"}[value] for value in atlas[INSIDE]]


def test_masks_and_atlases_may_be_stored_with_a_slope(tmp_path: Path) -> None:
    atlas = INSIDE.astype(np.float64)
    atlas[2] *= 7
    for values, names in ((INSIDE.astype(np.float64), None), (atlas, {1: "V1", 7: "IT"})):
        image = nib.Nifti1Image(values, AFFINE)
        image.set_data_dtype(np.uint8 if names is None else np.int16)
        nib.save(image, tmp_path / "mask.nii.gz")
        assert 1 not in nib.load(tmp_path / "mask.nii.gz").get_fdata()  # but next to it
        found = read_mask(Regions(tmp_path / "mask.nii.gz", names), GRID)
        np.testing.assert_array_equal(found.inside, INSIDE)
        if names is not None:
            assert found.roi == [names[int(value)] for value in atlas[INSIDE]]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (pd.DataFrame({"index": [1, 1], "name": ["V1", "IT"]}), "label 1 has two names, 'V1' and 'IT'"),
        (pd.DataFrame({"index": [1], "name": [np.nan]}), "the labels 1 without names"),
        ({1.5: "V1"}, "1.5 is not a whole number"),
        (pd.DataFrame({"index": [1, 7.5], "name": ["V1", "IT"]}), r": 7.5 is not a whole number"),
        ({float("inf"): "V1"}, "needs whole numbers with names"),
        ({1: ["V1"]}, r"label 1 has the name \['V1'\]"),
        (["V1"], "labels= is a list"),
        (5, "labels= is a int"),
    ],
)
def test_label_names_that_cannot_be(labels: Any, told: str) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 2)), AFFINE)
    atlas = nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE)
    with pytest.raises(NeurordlError, match=told):
        nrl.read_betas(image, TABLE, Regions(atlas, labels))


@pytest.mark.parametrize("text", ["5", "[1, 2]", '["a"]', "null"])
def test_label_names_in_json_that_are_no_mapping(tmp_path: Path, text: str) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 2)), AFFINE)
    (tmp_path / "labels.json").write_text(text)
    atlas = nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE)
    with pytest.raises(NeurordlError, match=r"labels= is a \w+; expected a TSV"):
        nrl.read_betas(image, TABLE, Regions(atlas, tmp_path / "labels.json"))


def test_rois_of_the_voxels_that_are_left() -> None:
    data = np.random.default_rng(0).random((*SHAPE, 4))
    atlas = INSIDE.astype(np.int16)
    atlas[2:] *= 2
    data[1, 1, 1] = np.inf  # a voxel of V1: infinite, and the same in all volumes, but counted once
    data[3, 2, 1] = 5.0  # one of IT
    table = pd.DataFrame({"stimulus": list("abcd")})
    with pytest.warns(UserWarning, match="dropped 2 of 6 voxels.* 1 with NaN or infinity, 1 constant"):
        found = nrl.read_betas(
            nib.Nifti1Image(data, AFFINE),
            table,
            Regions(nib.Nifti1Image(atlas, AFFINE), {1: "V1", 2: "IT"}),
        )
    places = list(zip(*(found.channel_descriptors[axis] for axis in "xyz"), strict=True))
    assert places == [(1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1)]
    assert found.channel_descriptors["roi"] == ["V1", "IT", "IT", "IT"]
    np.testing.assert_array_equal(found.measurements.T, [data[place] for place in places])


def test_a_mask_may_be_a_series_of_one() -> None:
    mask = nib.Nifti1Image(INSIDE[..., None].astype(np.uint8), AFFINE)
    np.testing.assert_array_equal(read_mask(mask, GRID).inside, INSIDE)


def test_voxels_without_a_mask_are_labelled_as_such() -> None:
    values = np.random.default_rng(0).standard_normal((3, 3, 2, 4))
    values[0, 0, 0] = np.nan
    table = pd.DataFrame({"stimulus": list("abcd")})
    image = nib.Nifti1Image(values, np.eye(4))
    with pytest.warns(UserWarning, match="dropped 1 of 18 voxels of the images, without a mask: 1 with NaN"):
        nrl.read_betas(image, table)
    with pytest.warns(UserWarning, match="dropped 1 of 18 voxels in the mask in memory: 1 with NaN"):
        nrl.read_betas(image, table, nib.Nifti1Image(np.ones((3, 3, 2), np.uint8), np.eye(4)))


def test_images_whose_two_coordinate_systems_differ_are_counted() -> None:
    moved = AFFINE.copy()
    moved[1, 3] = 2.0
    images = []
    for qform in (AFFINE, moved, moved):
        image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(*SHAPE, 2)), AFFINE)
        image.set_qform(qform, 1)
        image.set_sform(AFFINE, 1)
        images.append(image)
    with pytest.warns(UserWarning, match=r"qform and sform of 2 of 3 images, .* up to 2 mm apart"):
        nrl.read_betas(images, pd.DataFrame({"stimulus": list("ababab")}), condition="stimulus")
    mask = nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE)
    mask.set_qform(moved, 1)
    mask.set_sform(AFFINE, 1)
    with pytest.warns(UserWarning, match=r"qform and sform of 1 of 1 images, such as the mask"):
        read_mask(mask, GRID)
    mask.set_qform(AFFINE @ np.diag([1, 1, 1.0001, 1]), 1)  # rounding
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_mask(mask, GRID)
