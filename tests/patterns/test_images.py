"""Grids, scaled values and label names, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

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


def test_masks_turned_or_with_other_axes_are_the_same_voxels() -> None:
    turned = AFFINE.copy()
    turned[0, 0], turned[0, 3] = -3.0, 12.0
    for mask in (
        nib.Nifti1Image(INSIDE[::-1].astype(np.uint8), turned),
        nib.Nifti1Image(INSIDE.transpose(2, 0, 1).astype(np.uint8), AFFINE[:, [2, 0, 1, 3]]),
    ):
        with pytest.warns(UserWarning, match="the mask in memory is on another grid"):
            found = read_mask(mask, GRID)
        np.testing.assert_array_equal(found.inside, INSIDE)
        assert found.resampled


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
        ({float("inf"): "V1"}, "needs whole numbers with names"),
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
