"""Searchlights: each centre's score is that of its own RDM, computed by rsatoolbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset, load_dataset
from rsatoolbox.rdm import RDMs, calc_rdm
from rsatoolbox.rdm import compare as rsatoolbox_compare
from rsatoolbox.util.searchlight import get_volume_searchlight
from torch import nn

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms.source import Source
from neurordl.rsa import searchlight as module

STUDY = Path(__file__).parents[2] / "data" / "simulated_fmri" / "study"
N = 7
IDS = [f"s{k}" for k in range(N)]
BRAIN = np.ones((6, 5, 7), dtype=bool)
BRAIN[0, :2] = BRAIN[4, 3, 3:] = False


def brain(runs: int = 1, seed: int = 0, offset: float = 0.0) -> Dataset:
    at = np.argwhere(BRAIN)
    rng = np.random.default_rng(seed)
    return Dataset(
        rng.gamma(2.0, 1.0, (runs * N, len(at))) + offset,
        obs_descriptors={"stimulus": IDS * runs, "run": np.repeat(np.arange(runs), N).tolist()},
        channel_descriptors=dict(zip("xyz", at.T.tolist(), strict=True)),
    )


def models(order: list[str] = IDS) -> RDMs:
    square = np.random.default_rng(9).random((3, N, N))
    square = square + square.transpose(0, 2, 1)
    place = [IDS.index(name) for name in order]
    vectors = square[:, place][:, :, place][:, *np.triu_indices(N, 1)]
    return RDMs(vectors, pattern_descriptors={"stimulus": order}, rdm_descriptors={"name": ["a", "b", "c"]})


def one_by_one(data: Dataset, radius: float, threshold: float, dissimilarity: str, method: str) -> Any:
    """Scores and number of voxels of each centre, by rsatoolbox, in a loop."""
    at = np.stack([np.asarray(data.channel_descriptors[axis]) for axis in "xyz"], 1)
    grid = np.argwhere(np.ones((2 * int(radius) + 1,) * 3)) - int(radius)
    sphere = int((np.square(grid).sum(1) < radius**2).sum())
    scores, sizes, centres = [], [], []
    for centre in at:
        near = np.flatnonzero(np.square(at - centre).sum(1) < radius**2)
        if len(near) < threshold * sphere:
            continue
        part = Dataset(data.measurements[:, near], obs_descriptors=dict(data.obs_descriptors))
        by = {"cv_descriptor": "run"} if dissimilarity == "crossnobis" else {}
        rdm = calc_rdm(part, dissimilarity, descriptor="stimulus", **by)
        scores.append(rsatoolbox_compare(models(), rdm, method)[:, 0])
        sizes.append(len(near))
        centres.append(centre)
    return np.array(scores).T, np.array(sizes), np.array(centres)


@pytest.mark.parametrize("method", ["corr", "cosine", "spearman", "rho-a", "corr_cov"])
@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
@pytest.mark.parametrize("threshold", [1.0, 0.6])
def test_each_centre_is_rsatoolboxs(method: str, dissimilarity: str, threshold: float) -> None:
    data = brain()
    found = nrl.searchlight(
        data, models(), radius=2, threshold=threshold, dissimilarity=dissimilarity, comparison=method
    )
    scores, sizes, centres = one_by_one(data, 2, threshold, dissimilarity, method)
    assert_array_equal(found.centers, centres)
    assert_array_equal(found.n_voxels, sizes)
    assert (len(set(sizes)) > 1) == (threshold < 1)
    assert_allclose(found.scores, scores, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_float32_and_large_offsets(offset: float) -> None:
    data = brain(offset=offset)
    exact = one_by_one(data, 2, 0.5, "correlation", "corr")[0]
    for dtype, close in ((np.float64, 1e-9), (np.float32, 2e-3 if offset else 1e-5)):
        found = nrl.searchlight(data, models(), radius=2, threshold=0.5, dtype=dtype)
        assert_allclose(found.scores, exact, atol=close)


def test_across_runs_balanced_or_not() -> None:
    data = brain(runs=3)
    found = nrl.searchlight(data, models(), radius=2, dissimilarity="crossnobis")
    assert_allclose(found.scores, one_by_one(data, 2, 1.0, "crossnobis", "corr")[0], atol=1e-9)
    kept = np.arange(len(data.measurements)) != 4  # a stimulus that a run lacks
    fewer = _rows(data, kept)
    with pytest.warns(UserWarning, match=r"the dataset: .*\(s4 in 0\).* center=\"run\""):
        nrl.searchlight(fewer, models(), radius=2, dissimilarity="crossnobis")
    found = nrl.searchlight(fewer, models(), radius=2, dissimilarity="crossnobis", center="run")
    whole = nrl.compute_rdms(_around(fewer, found.centers[3], 2), "crossnobis", center="run")
    assert_allclose(found.scores[:, 3], nrl.compare(models(), whole, comparison="corr")[:, 0], atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*runs lack some stimuli")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_runs_of_few_stimuli_are_not_filled_up(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = brain(runs=3)
    data.obs_descriptors["run"] = np.random.default_rng(0).integers(0, 12, len(data.measurements)).tolist()
    with monkeypatch.context() as patched:
        patched.setattr(Source, "by_run", lambda *_: pytest.fail("patterns were filled up"))
        patched.setattr("neurordl.rdms.source._SPARSE", 1.0)
        found = nrl.searchlight(data, models(), radius=2, dissimilarity="crossnobis", dtype=dtype)
    monkeypatch.setattr(Source, "sparse", False)
    for center in (0, 3):
        whole = nrl.compute_rdms(_around(data, found.centers[center], 2), "crossnobis")
        expected = nrl.compare(models(), whole, comparison="corr")[:, 0]
        assert_allclose(found.scores[:, center], expected, atol=1e-9 if dtype == np.float64 else 1e-4)


def _rows(data: Dataset, kept: Any) -> Dataset:
    rows = {name: np.asarray(values)[kept].tolist() for name, values in data.obs_descriptors.items()}
    channels = dict(data.channel_descriptors)
    return Dataset(data.measurements[kept], obs_descriptors=rows, channel_descriptors=channels)


def _around(data: Dataset, centre: Any, radius: float) -> Dataset:
    at = np.stack([np.asarray(data.channel_descriptors[axis]) for axis in "xyz"], 1)
    near = np.square(at - centre).sum(1) < radius**2
    return Dataset(data.measurements[:, near], obs_descriptors=dict(data.obs_descriptors))


def test_undefined_distances_are_missing_only_where_they_are_undefined() -> None:
    data = brain()
    at = np.stack([np.asarray(data.channel_descriptors[axis]) for axis in "xyz"], 1)
    near = np.square(at - [2, 2, 3]).sum(1) < 4
    data.measurements[2, near] = 0.7  # a constant pattern in one sphere
    found = nrl.searchlight(data, models(), radius=2)
    for k, centre in enumerate(found.centers):
        rdm = nrl.compute_rdms(_around(data, centre, 2))
        assert_allclose(found.scores[:, k], nrl.compare(models(), rdm, comparison="corr")[:, 0], atol=1e-9)
    whole = np.flatnonzero((found.centers == [2, 2, 3]).all(1))[0]
    assert np.isnan(nrl.compute_rdms(_around(data, [2, 2, 3], 2)).dissimilarities).any()
    assert np.isfinite(found.scores[:, whole]).all()
    data.measurements[:, near] = 0.7
    assert np.isnan(nrl.searchlight(data, models(), radius=2).scores[:, whole]).all()
    data.measurements[4, near] = np.nan
    with pytest.warns(UserWarning, match=r"stimuli 's4', channels .* are compared on the pairs that remain"):
        lost = nrl.searchlight(data, models(), radius=2, dissimilarity="euclidean")
    assert np.isfinite(lost.scores[:, np.square(lost.centers - [2, 2, 3]).sum(1) > 16]).all()


def test_models_are_matched_by_name() -> None:
    order = IDS[::-1]
    one, other = (nrl.searchlight(brain(), models(names), radius=2) for names in (IDS, order))
    assert_allclose(one.scores, other.scores, atol=1e-12)
    several = {name: RDMs(models().dissimilarities[k, None], pattern_descriptors={"stimulus": IDS})
               for k, name in enumerate("xyz")}  # fmt: skip
    assert_allclose(nrl.searchlight(brain(), several, radius=2).scores, one.scores, atol=1e-12)
    flat = models()
    flat.dissimilarities[1] = 0.5
    flat.dissimilarities[2, 3] = np.nan
    found = nrl.searchlight(brain(), flat, radius=2).scores
    assert_allclose(found[0], one.scores[0], atol=1e-12)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[2]).all()


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nrl.searchlight(brain(), models(), radius=2.5, threshold=0.4, progress=True)
    monkeypatch.setattr(module, "_BYTES", 1)
    assert_allclose(
        nrl.searchlight(brain(), models(), radius=2.5, threshold=0.4).scores, whole.scores, atol=1e-12
    )


def test_centres_inside_a_volume_are_rsatoolboxs() -> None:
    mask = np.pad(BRAIN, 3)
    centres, neighbours = get_volume_searchlight(mask, radius=2, threshold=0.7)
    found = nrl.searchlight(brain(), models(), radius=2, threshold=0.7)
    at = np.stack(np.unravel_index(centres, mask.shape), 1) - 3
    assert_array_equal(found.centers, at)
    assert_array_equal(found.n_voxels, [mask.ravel()[one].sum() for one in neighbours])


def test_a_map_of_each_model(tmp_path: Any) -> None:
    found = nrl.searchlight(brain(), models(), radius=2)
    mask = nib.Nifti1Image(BRAIN.astype(np.uint8), np.diag([2.0, 3.0, 4.0, 1.0]))
    nib.save(mask, tmp_path / "mask.nii.gz")
    for like in (mask, tmp_path / "mask.nii.gz"):
        maps = found.image(like)
        assert maps.shape == (*BRAIN.shape, 3)
        assert_array_equal(maps.affine, mask.affine)
        values = maps.get_fdata()
        assert_allclose(values[tuple(found.centers.T)].T, found.scores, atol=1e-6)
        assert np.isnan(values).sum() == values.size - found.scores.size
    with pytest.raises(NeurordlError, match="on the grid of the patterns"):
        found.image(nib.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4)))


def from_images(affine: Any, sform: int = 1) -> tuple[Dataset, nib.Nifti1Image]:
    values = np.random.default_rng(0).standard_normal((*BRAIN.shape, N))
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units("mm", "sec")
    mask = nib.Nifti1Image(BRAIN.astype(np.uint8), affine)
    return nrl.read_betas(image, pd.DataFrame({"stimulus": IDS}), mask), image


def test_maps_are_on_the_grid_of_the_images(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 90], [0, 1.8, 0.6, -120], [0, -0.6, 1.8, -70.123], [0, 0, 0, 1]])
    patterns, image = from_images(affine)
    found = nrl.searchlight(patterns, models(), radius=2)
    for k, like in enumerate((None, image, image.slicer[..., 0])):
        nib.save(found.image(like), tmp_path / f"{k}.nii.gz")
        maps = nib.load(tmp_path / f"{k}.nii.gz")
        assert_allclose(maps.affine, affine, atol=1e-5)
        assert maps.shape == (*BRAIN.shape, 3)
        assert maps.header.get_xyzt_units() == ("mm", "unknown")
        assert maps.header["descrip"].item() == b"a, b, c"
        assert_allclose(maps.get_fdata()[tuple(found.centers.T)].T, found.scores, atol=1e-6)
        if like is not None:
            assert [int(maps.header[f"{form}_code"]) for form in ("qform", "sform")] == [1, 1]
    moved = affine.copy()
    moved[0, 3] += 2
    larger = np.zeros((9, 9, 9), np.uint8)
    for wrong in (nib.Nifti1Image(larger, affine), nib.Nifti1Image(larger[:6, :5, :7], moved)):
        with pytest.raises(NeurordlError, match="give one of those images, or leave out like="):
            found.image(wrong)
    names = {"näme": models().subset("name", "a"), "m" * 90: models().subset("name", "b")}
    assert nrl.searchlight(patterns, names, radius=2).image().header["descrip"].item() == b""
    with pytest.raises(NeurordlError, match="the grid of these patterns is not known"):
        nrl.searchlight(brain(), models(), radius=2).image()
    for broken in ("no JSON", "[]", '{"grid": 5}', '{"grid": {"shape": [1], "affine": [[1]]}}'):
        patterns.descriptors["provenance"] = broken
        assert nrl.searchlight(patterns, models(), radius=2).grid is None


def test_the_grid_survives_files_and_rdms(tmp_path: Path) -> None:
    patterns, _ = from_images(np.diag([2.0, 3.0, 4.0, 1.0]))
    patterns.save(str(tmp_path / "patterns.h5"))
    again = load_dataset(str(tmp_path / "patterns.h5"))
    grid = nrl.searchlight(again, models(), radius=2).grid
    assert grid is not None
    assert grid.shape == BRAIN.shape
    assert_array_equal(grid.affine, np.diag([2.0, 3.0, 4.0, 1.0]))
    nrl.save_rdms(nrl.compute_rdms(patterns), tmp_path / "rdms.h5")
    told = json.loads(nrl.load_rdms(tmp_path / "rdms.h5").descriptors["provenance"])
    assert told["patterns"][0]["grid"]["shape"] == list(BRAIN.shape)


def test_what_is_printed() -> None:
    flat = models()
    flat.dissimilarities[1] = 0.5
    found = nrl.searchlight(brain(), flat, radius=2)
    lines = str(found).splitlines()
    assert repr(found) == str(found)
    assert lines[0] == "searchlight  radius 2, correlation, models compared by corr"
    n_left_out = len(brain().channel_descriptors["x"]) - len(found.centers)
    text = f"of 27 voxels each; {n_left_out} voxels with data in less than 100% of theirs are left out"
    assert lines[1] == f"centers      {len(found.centers)}, {text}"
    assert found.settings["n_left_out"] == n_left_out > 0
    whole = nrl.searchlight(brain(), flat, radius=2, threshold=0.2)
    assert whole.settings["n_left_out"] == 0
    assert "left out" not in str(whole)
    assert lines[2] == "matched      7 stimuli; 0 only in the models"
    assert lines[3].startswith(
        f"a            {found.scores[0].min():.3f} to {found.scores[0].max():.3f}, mean"
    )
    assert lines[4] == "b            NaN"


def test_a_slice_and_spheres_of_one_voxel() -> None:
    slice_ = brain()
    at = np.asarray(slice_.channel_descriptors["z"]) == 2
    slice_.channel_descriptors = {axis: np.asarray(v)[at] for axis, v in slice_.channel_descriptors.items()}
    slice_.measurements = slice_.measurements[:, at]
    with pytest.raises(NeurordlError, match=r"the most is 9, 33.3% .* take threshold=0.333 or less"):
        nrl.searchlight(slice_, models(), radius=2)
    assert nrl.searchlight(slice_, models(), radius=2, threshold=0.333).n_voxels.max() == 9
    for radius in (1, 0.5):
        with pytest.raises(NeurordlError, match="a single voxel, where correlation distances are undefined"):
            nrl.searchlight(brain(), models(), radius=radius)
    assert np.isfinite(nrl.searchlight(brain(), models(), radius=1, dissimilarity="euclidean").scores).all()


def test_scores_that_are_all_undefined_come_with_the_reason() -> None:
    broken, constant, flat = brain(), brain(), models()
    broken.measurements[:] = np.nan
    constant.measurements[:] = 0
    flat.dissimilarities[:] = 0.5
    for data, own, options, why in (
        (broken, models(), {}, "no distance is defined"),
        (constant, models(), {"dissimilarity": "euclidean"}, "the RDMs are constant"),
        (brain(), flat, {}, "the models are constant"),
    ):
        with pytest.warns(UserWarning, match=f"all scores are NaN: {why}"):
            nrl.searchlight(data, own, radius=2, **options)


TURNED = np.array([[-2.0, 0.1, 0, 90], [0, 1.8, 1.3, -120], [0, -0.6, 4.8, -70.123], [0, 0, 0, 1]])


@pytest.mark.parametrize("radius", [3.0, 5.1, 7.3])
def test_a_radius_in_millimeters_is_that_of_a_sphere(radius: float) -> None:
    patterns, _ = from_images(TURNED)
    found = nrl.searchlight(patterns, models(), radius=f"{radius:g} mm", threshold=0.2)
    places = np.argwhere(BRAIN) @ TURNED[:3, :3].T
    around = np.argwhere(np.ones((17, 17, 17))) - 8
    whole = (np.linalg.norm(around @ TURNED[:3, :3].T, axis=1) < radius).sum()
    near = np.linalg.norm(places[:, None] - places, axis=-1) < radius
    enough = near.sum(axis=1) >= 0.2 * whole
    assert_array_equal(found.n_voxels, near.sum(axis=1)[enough])
    for k, voxels in enumerate(near[enough][:5]):
        part = Dataset(patterns.measurements[:, voxels], obs_descriptors={"stimulus": IDS})
        score = rsatoolbox_compare(models(), calc_rdm(part, "correlation", descriptor="stimulus"), "corr")[
            :, 0
        ]
        assert_allclose(found.scores[:, k], score, atol=1e-10)
    assert str(found).startswith(f"searchlight  radius {radius:g} mm, correlation")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [2.0, 1.7, 0.1])
def test_millimeters_and_voxels_agree_where_voxels_are_cubes(size: float) -> None:
    patterns, _ = from_images(np.diag([-size, size, size, 1]).astype(np.float32))
    for radius in (1, 2, 3):
        by_voxels, by_size = (
            nrl.searchlight(patterns, models(), radius=r, threshold=0.3, dissimilarity="euclidean")
            for r in (radius, f"{radius * size:.4g}mm")
        )
        assert_array_equal(by_voxels.n_voxels, by_size.n_voxels)
        assert_array_equal(by_voxels.scores, by_size.scores)


def test_a_radius_of_voxels_that_are_no_cubes_is_noticed() -> None:
    patterns, _ = from_images(np.diag([2.0, 2, 5, 1]))
    said = (
        r"radius=3 voxels of 2 x 2 x 5 mm is a radius of 6 x 6 x 15 mm .*; for spheres take radius='8.14 mm'"
    )
    with pytest.warns(UserWarning, match=said):
        nrl.searchlight(patterns, models(), radius=3, threshold=0.1)


@pytest.mark.parametrize(
    ("radius", "said"),
    [
        ("8", "radius='8': expected a number of voxels, or millimeters such as '8 mm'"),
        ("0 mm", "expected a number of voxels, or millimeters"),
        ("-1 mm", "expected a number of voxels, or millimeters"),
        ("9999 mm", "the radius is 4999 voxels; take at most 999"),
        ("1 mm", "radius=1 mm is a single voxel"),
        (None, "radius=None: expected a number above 0 and of at most 999; or millimeters: '8 mm'"),
    ],
)
def test_radii_that_cannot_be(radius: Any, said: str) -> None:
    patterns, _ = from_images(np.diag([2.0, 2, 2, 1]))
    with pytest.raises(NeurordlError, match=said):
        nrl.searchlight(patterns, models(), radius=radius)
    with pytest.raises(NeurordlError, match="the voxel size of these patterns is not known; give voxels"):
        nrl.searchlight(brain(), models(), radius="8 mm")


def test_bad_input() -> None:
    data = brain()
    for wrong, told in (
        ({"radius": 0}, "number above 0"),
        ({"threshold": 1.5}, "threshold=1.5: expected a number above 0 and of at most 1"),
        ({"radius": 9}, "take threshold=0.0646 or less, or a smaller radius"),
        ({"dissimilarity": "mahalanobis"}, "whiten the patterns first"),
        ({"dissimilarity": "nonsense"}, "expected one of"),
        ({"dissimilarity": "crossnobis"}, "two or more runs"),
        ({"comparison": "nonsense"}, "nonsense"),
        ({"dtype": "int8"}, "expected float64 or float32"),
        ({"center": "each"}, "None, 'run', 'all'"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.searchlight(data, models(), **wrong)
    with pytest.raises(NeurordlError, match="s6"):
        nrl.searchlight(data, models().subset_pattern("stimulus", IDS[:6]))
    plain = Dataset(data.measurements, obs_descriptors=dict(data.obs_descriptors))
    with pytest.raises(NeurordlError, match="no channel descriptor 'x'"):
        nrl.searchlight(plain, models())
    data.channel_descriptors["x"] = np.asarray(data.channel_descriptors["x"]).copy()
    for axis in "xyz":
        column = np.asarray(data.channel_descriptors[axis]).copy()
        column[1] = column[0]
        data.channel_descriptors[axis] = column
    with pytest.raises(NeurordlError, match="same indices"):
        nrl.searchlight(data, models())
    data.channel_descriptors["x"] = np.linspace(0, 1, len(data.measurements[0]))
    with pytest.raises(NeurordlError, match="whole numbers"):
        nrl.searchlight(data, models())


def test_from_nifti_each_geometry_is_localized() -> None:
    runs = sorted((STUDY / "sub-01" / "func").glob("*_bold.nii.gz"))
    events = [Path(str(run).replace("_bold.nii.gz", "_events.tsv")) for run in runs]
    atlas = nib.load(STUDY / "atlas.nii.gz")
    inside = nib.Nifti1Image((atlas.get_fdata() > 0).astype(np.uint8), atlas.affine)
    patterns = nrl.read_patterns(runs, mask=inside, events=events)
    truth = nrl.load_rdms(STUDY / "truth.h5")
    known = {roi: truth.subset("roi", roi) for roi in ("IT", "EVC")}
    found = nrl.searchlight(patterns, known, radius=2.5, threshold=0.4, dissimilarity="crossnobis")
    label = atlas.get_fdata()[tuple(found.centers.T)]
    own, other = (found.scores[:, label == number].mean(1) for number in (1, 2))
    assert own[0] > 0.6 > 0.2 > own[1]
    assert other[1] > 0.6 > 0.2 > other[0]


@pytest.mark.parametrize("dissimilarity", ["correlation", "cosine"])
@pytest.mark.parametrize("effect", [3.0, 0.3])
def test_patterns_that_are_nearly_alike_in_float32(dissimilarity: str, effect: float) -> None:
    rng = np.random.default_rng(4)
    data = brain()
    common = 1000 + 300 * rng.standard_normal(data.measurements.shape[1])  # raw means of blocks
    data.measurements[:] = common + effect * rng.standard_normal(data.measurements.shape)
    data.measurements[:] = data.measurements.astype(np.float32)
    options: dict[str, Any] = {"radius": 2, "threshold": 0.5, "dissimilarity": dissimilarity}
    exact = nrl.searchlight(data, models(), **options)
    if dissimilarity == "correlation":  # rsatoolbox has no cosine
        assert_allclose(exact.scores, one_by_one(data, 2, 0.5, dissimilarity, "corr")[0], atol=1e-6)
    found = nrl.searchlight(data, models(), dtype=np.float32, **options)
    assert_allclose(found.scores, exact.scores, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-60, 1e-12, 1e9, 1e60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_and_huge_patterns(scale: float, dtype: Any) -> None:
    if dtype == np.float32 and not 1e-30 < scale < 1e30:
        pytest.skip("no float32 holds them")
    plain = nrl.searchlight(brain(), models(), radius=2, dissimilarity="euclidean").scores
    data = brain()
    data.measurements *= scale
    found = nrl.searchlight(data, models(), radius=2, dissimilarity="euclidean", dtype=dtype).scores
    assert_allclose(found, plain, atol=1e-5 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint64, np.int16])
def test_voxel_indices_of_any_integer_type(kind: Any) -> None:
    whole = nrl.searchlight(brain(), models(), radius=2)
    data = brain()
    for axis in "xyz":
        top = min(np.iinfo(kind).max, 255) - 7
        data.channel_descriptors[axis] = (np.asarray(data.channel_descriptors[axis]) + top).astype(kind)
    found = nrl.searchlight(data, models(), radius=2)
    assert_array_equal(found.centers, whole.centers + top)
    assert_allclose(found.scores, whole.scores, atol=0)
    for axis in "xyz":
        data.channel_descriptors[axis] = np.asarray(data.channel_descriptors[axis], dtype=np.int64) * 10**6
    with pytest.raises(NeurordlError, match="not positions in space"):
        nrl.searchlight(data, models(), radius=2)
    data.channel_descriptors["x"] = np.full(len(data.measurements[0]), -1)
    with pytest.raises(NeurordlError, match="whole numbers from 0"):
        nrl.searchlight(data, models(), radius=2)


def test_odd_arguments_are_one_clear_error() -> None:
    negative = brain()
    negative.measurements -= 5
    for data, wrong, told in (
        (brain(), {"models": {}}, "models= is empty"),
        (brain(), {"models": nn.Linear(2, 2)}, r"for a network's RDMs, write compute_rdms\("),
        (brain(), {"models": None}, "models: expected RDMs, or a dict from name to RDMs, got None"),
        (brain(), {"radius": np.inf}, "number above 0"),
        (brain(), {"radius": "3"}, "expected a number of voxels, or millimeters"),
        (brain(), {"dtype": "junk"}, "expected float64 or float32"),
        (negative, {"dissimilarity": "poisson"}, "rates or counts of 0 or more"),
    ):
        with pytest.raises(NeurordlError, match=told):
            nrl.searchlight(data, **{"models": models(), "radius": 2, **wrong})


def test_patterns_of_several_subjects_are_refused() -> None:
    with pytest.raises(
        NeurordlError, match="patterns: expected DatasetBase, got dict; call searchlight once"
    ):
        nrl.searchlight({"s01": None}, {})


def covariates(names: str, seed: int = 3, missing: bool = False) -> RDMs:
    vectors = np.random.default_rng(seed).random((len(names), N * (N - 1) // 2))
    vectors[0, 4] = np.nan if missing else 0.5
    return RDMs(vectors, pattern_descriptors={"stimulus": IDS}, rdm_descriptors={"name": list(names)})


@pytest.mark.parametrize("method", ["corr", "spearman"])
@pytest.mark.parametrize("dissimilarity", ["correlation", "crossnobis", "cosine"])
@pytest.mark.parametrize("missing", ["", "covariate", "model"])
def test_what_covariates_leave_is_compared_as_by_compare(
    method: str, dissimilarity: str, missing: str
) -> None:
    data, known = brain(runs=2), models()
    known.dissimilarities[1, 7] = np.nan if missing == "model" else 0.1
    controls = nrl.Partial(covariates("xy", missing=missing == "covariate"), method)
    options: dict[str, Any] = {"radius": 2, "threshold": 0.5, "dissimilarity": dissimilarity}
    maps = nrl.searchlight(data, known, comparison=controls, **options)
    for k in range(0, len(maps.centers), 7):
        rdm = nrl.compute_rdms(_around(data, maps.centers[k], 2), dissimilarity)
        want = nrl.compare(known, rdm, controls.for_stimuli(IDS))[:, 0]
        assert_allclose(maps.scores[:, k], want, atol=1e-9)
    assert maps.settings["comparison"] == f"partial {method}"
    assert maps.settings["controlled"] == ["x", "y"]
    assert f"models compared by partial {method}, controlled for x, y" in str(maps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_covariates_that_explain_models_or_repeat_each_other(dtype: Any) -> None:
    data, known, controls = brain(), models(), covariates("xyz")
    controls.dissimilarities[1] = 2 * controls.dissimilarities[0] + 1e5
    controls.dissimilarities[2] = 0.7
    options: dict[str, Any] = {"radius": 2, "threshold": 0.5, "dtype": dtype}
    maps = nrl.searchlight(data, known, comparison=nrl.Partial(controls, "corr"), **options)
    first = nrl.Partial(controls.subset("name", "x"), "corr")
    want = nrl.searchlight(data, known, comparison=first, radius=2, threshold=0.5)
    assert_allclose(maps.scores, want.scores, atol=1e-9 if dtype == np.float64 else 1e-4)
    known.dissimilarities[2] = controls.dissimilarities[0]
    maps = nrl.searchlight(data, known, comparison=nrl.Partial(controls, "corr"), **options)
    assert np.isnan(maps.scores[2]).all()
    assert_allclose(maps.scores[:2], want.scores[:2], atol=1e-9 if dtype == np.float64 else 1e-4)
    explained = nrl.compute_rdms(_around(data, maps.centers[3], 2))  # the covariate is the RDM of a sphere
    explained.rdm_descriptors = {"name": ["itself"]}
    comparison = nrl.Partial(explained, "corr")
    maps = nrl.searchlight(data, models(), comparison=comparison, **options)
    others = np.arange(len(maps.centers)) != 3
    assert np.isfinite(maps.scores[:, others]).all()
    assert np.isnan(maps.scores[:, 3]).all() or dtype == np.float32  # rounding is left
    for k in np.flatnonzero(others)[::9]:
        rdm = nrl.compute_rdms(_around(data, maps.centers[k], 2))
        score = nrl.compare(models(), rdm, comparison.for_stimuli(IDS))[:, 0]
        assert_allclose(maps.scores[:, k], score, atol=1e-9 if dtype == np.float64 else 2e-3)


def test_covariates_that_cannot_be() -> None:
    wrong = nrl.Partial(covariates("x").subset_pattern("stimulus", IDS[:6]), "corr")
    with pytest.raises(NeurordlError, match="s6"):
        nrl.searchlight(brain(), models(), radius=2, comparison=wrong)
    many = nrl.Partial(covariates("abcdefghijklmnopqrs"), "corr")  # of 21 pairs
    with pytest.raises(NeurordlError, match="21 pairs of stimuli are too few to control for 19 covariates"):
        nrl.searchlight(brain(), models(), radius=2, comparison=many)
