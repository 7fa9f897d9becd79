"""Maps of a group tested over people: the numbers are nilearn's, and an effect is found at its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import non_parametric_inference
from nilearn.maskers import NiftiMasker
from nilearn.reporting import get_clusters_table
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.maps import SearchlightMaps

SHAPE, N = (7, 8, 6), 10
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 4, 8], [0, 0, 0, 1]])
BALL = np.linalg.norm(np.indices(SHAPE).reshape(3, -1) - np.array([[4], [3], [2]]), axis=0) < 1.8
BALL = BALL.reshape(SHAPE)
PEOPLE = [f"s{k:02d}" for k in range(N)]


def image(values: Any, affine: Any = AFFINE) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine)


def volumes(effect: float = 0.6, seed: int = 0) -> dict[str, Any]:
    """Scores of people, from -1 to 1, NaN in the first slice."""
    rng, people = np.random.default_rng(seed), {}
    for name in PEOPLE:
        scores = np.tanh(0.4 * rng.normal(size=SHAPE) + effect * BALL)
        scores[0] = np.nan
        people[name] = image(scores)
    return people


def folder(tmp_path: Path, models: str = "ab") -> SearchlightMaps:
    """Maps of two models as files, as group_searchlight writes them."""
    files, parts = {}, [volumes(0.6 - 0.5 * k, seed=k) for k in range(len(models))]
    for name in PEOPLE:
        files[name] = tmp_path / f"{name}.nii.gz"
        stack = np.stack([part[name].get_fdata() for part in parts], axis=-1)
        nib.save(image(stack), files[name])
    return SearchlightMaps(tuple(models), files, {"radius": 2})


def nilearns(
    images: Any, test: nrl.MapTest, fwhm: float | None = None, design: Any = None, contrast: Any = None
):
    """The same test by nilearn's function, on images without NaN."""
    design = pd.DataFrame({"intercept": np.ones(N)}) if design is None else design
    mask = np.ones(SHAPE, np.int8)
    mask[0] = 0
    return non_parametric_inference(
        [nib.Nifti1Image(np.nan_to_num(x.get_fdata()), AFFINE) for x in images],
        design_matrix=design,
        second_level_contrast=contrast or "intercept",
        mask=NiftiMasker(nib.Nifti1Image(mask, AFFINE), smoothing_fwhm=fwhm, standardize=None).fit(),
        n_perm=test.n_permutations,
        two_sided_test=test.tail == "two-sided",
        random_state=test.seed,
        threshold=test.threshold if test.statistic != "tfce" else None,
        tfce=test.statistic == "tfce",
    )


def check_equal(result: nrl.SecondLevel, want: Any, statistics: tuple[str, ...]) -> None:
    inside = np.ones(SHAPE, bool)
    inside[0] = False
    assert_array_equal(result.inside, inside)
    for name in ("t", *statistics):
        assert_allclose(result.values[name], want[name].get_fdata()[inside], rtol=1e-6)
        assert_allclose(result.image(name).get_fdata()[inside], result.values[name], rtol=1e-6)
        assert np.isnan(result.image(name).get_fdata()[0]).all()
    for name in ("t", *statistics):
        key = "voxel" if name == "t" else name
        logp = want[f"logp_max_{name}"].get_fdata()[inside]
        assert_allclose(result.values[f"p_{key}"], 10.0**-logp, rtol=1e-6)


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
@pytest.mark.parametrize("fwhm", [None, 5.0])
@pytest.mark.parametrize("statistic", ["size", "tfce"])
def test_numbers_are_nilearns(tail: Any, fwhm: float | None, statistic: Any) -> None:
    test = nrl.MapTest(statistic, 0.01, tail=tail, n_permutations=60, seed=4)
    result = nrl.second_level(volumes(), test=test, fwhm=fwhm)
    want = nilearns(volumes().values(), test, fwhm)
    check_equal(result, want, ("size", "mass") if statistic == "size" else ("tfce",))
    t = result.image("t").get_fdata()[BALL]
    assert result.settings["degrees_of_freedom"] == N - 1
    if fwhm is None:
        values = np.stack([x.get_fdata()[BALL] for x in volumes().values()])
        assert_allclose(t, stats.ttest_1samp(values, 0).statistic, rtol=1e-5)
        assert_allclose(result.image("mean").get_fdata()[BALL], values.mean(axis=0), rtol=1e-5)


def test_fisher_z_and_a_paired_difference_of_models(tmp_path: Path) -> None:
    maps = folder(tmp_path)
    test = nrl.MapTest("size", 0.01, fisher_z=True, n_permutations=40)
    for options, values in (
        ({"model": "b"}, lambda x: np.arctanh(x[..., 1])),
        ({"difference": ("a", "b")}, lambda x: np.arctanh(x[..., 0]) - np.arctanh(x[..., 1])),
    ):
        result = nrl.second_level(maps, test=test, **options)
        images = [nib.Nifti1Image(values(maps.image(name).get_fdata()), AFFINE) for name in PEOPLE]
        check_equal(result, nilearns(images, test), ("size", "mass"))
        assert "Fisher's z of the scores" in str(result)
    difference = nrl.second_level(maps, difference=("a", "b"), test="size")
    assert (difference.test.tail, difference.test.statistic) == ("two-sided", "size")
    assert difference.name == "a − b"
    first, second = (np.stack([maps.image(x).get_fdata()[BALL, k] for x in PEOPLE]) for k in range(2))
    assert_allclose(
        difference.image("t").get_fdata()[BALL], stats.ttest_rel(first, second).statistic, rtol=1e-5
    )
    assert nrl.second_level(maps, "a").test.tail == "greater"


def test_covariates_and_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(50, 9, N), "group": [0, 1] * (N // 2)}, index=PEOPLE)
    test = nrl.MapTest("size", 0.05, tail="two-sided", n_permutations=40)
    shuffled = table.sample(frac=1, random_state=1).reset_index(names="subject")
    result = nrl.second_level(volumes(), test=test, covariates=shuffled, contrast="group")
    # with an intercept in the table, nilearn would flip signs instead of permuting people
    want = nilearns(volumes().values(), test, design=table.reset_index(drop=True), contrast="group")
    named = shuffled.rename(columns={"subject": "participant_id"})  # as in participants.tsv of BIDS
    of_bids = nrl.second_level(volumes(), test=test, covariates=named, contrast="group")
    assert_array_equal(of_bids.values["t"], result.values["t"])
    assert of_bids.settings["covariates"] == ["age", "group"]
    check_equal(result, want, ("size", "mass"))
    assert result.name == "group on scores"
    assert result.settings["degrees_of_freedom"] == N - 3
    values = np.stack([x.get_fdata()[BALL] for x in volumes().values()])
    alone = nrl.second_level(volumes(), test=test, covariates=table[["group"]], contrast="group")
    by_group = stats.ttest_ind(values[1::2], values[::2]).statistic
    assert_allclose(alone.image("t").get_fdata()[BALL], by_group, rtol=1e-5)
    mean = nrl.second_level(volumes(), test=test, covariates=table)
    X = np.column_stack([np.ones(N), table - table.mean()])
    b, ss = np.linalg.lstsq(X, values, rcond=None)[:2]
    se = np.sqrt(ss / (N - 3) * np.linalg.inv(X.T @ X)[0, 0])
    assert_allclose(mean.image("t").get_fdata()[BALL], b[0] / se, rtol=1e-5)


def test_the_table_is_nilearns_with_p(tmp_path: Path) -> None:
    test = nrl.MapTest("size", 0.01, n_permutations=200)
    result = nrl.second_level(volumes(1.0), test=test)
    table = result.table(min_distance=4)
    limit = stats.t.isf(0.01, N - 1)
    assert_allclose(result.settings["t_threshold"], limit)
    want = get_clusters_table(result.image("t"), limit, min_distance=4)
    assert set(table["peak"]) <= set(want["Cluster ID"].astype(str))
    first = table[table["cluster"] == 1]
    theirs = want[want["Cluster ID"].astype(str).str.startswith("1")].iloc[: len(first)]
    assert_allclose(
        first[["x", "y", "z", "t"]], theirs[["X", "Y", "Z", "Peak Stat"]].astype(float), rtol=1e-5
    )
    peak = first.iloc[0]
    assert peak["n_voxels"] == result.image("size").get_fdata()[BALL].max()
    assert peak["mm3"] == 36 * peak["n_voxels"] == float(theirs["Cluster Size (mm3)"].iloc[0])
    assert (table["p_size"] < 0.05).all()
    assert_allclose(peak[["x", "y", "z"]].astype(float), AFFINE[:3, :3] @ [4, 3, 2] + AFFINE[:3, 3], atol=6)
    assert len(result.table(alpha=1)) > len(result.table())
    atlas = nib.Nifti1Image(1 + (np.indices(SHAPE)[0] > 3).astype(np.int8), AFFINE)
    named = result.table(regions=nrl.Regions(atlas, {1: "left", 2: "right"}))
    assert set(named["region"]) <= {"left", "right"}
    none = nrl.second_level(volumes(0.0), test=nrl.MapTest(n_permutations=60))
    assert len(none.table()) == 0
    assert " ".join(none.table()) == "cluster peak x y z t mean p_voxel mm3 n_voxels"
    assert "significant   0 voxels in 0 clusters" in str(none)


def test_both_signs_of_a_two_sided_test() -> None:
    people = volumes(1.0)
    flipped = {
        name: image(
            np.where(np.indices(SHAPE)[2] > 3, -1, 1) * np.roll(x.get_fdata(), 2, 2) + 0 * x.get_fdata()
        )
        for name, x in people.items()
    }
    both = {
        name: image(people[name].get_fdata() - np.roll(flipped[name].get_fdata(), 3, 1)) for name in PEOPLE
    }
    result = nrl.second_level(both, test=nrl.MapTest("mass", 0.01, tail="two-sided", n_permutations=100))
    table = result.table()
    t = result.thresholded().get_fdata()
    for row in table.to_dict("records"):
        voxel = np.linalg.inv(AFFINE) @ [row["x"], row["y"], row["z"], 1]
        assert_allclose(t[tuple(voxel[:3].round().astype(int))], row["t"])
        assert row["p_mass"] < 0.05
    assert (table.groupby("cluster")["n_voxels"].nunique() == 1).all()
    sizes = table.groupby("cluster")["n_voxels"].first().sum()
    assert sizes == (t != 0).sum()


def test_voxels_that_some_people_lack() -> None:
    people = volumes(1.0)
    values = people["s03"].get_fdata()
    values[1:3] = np.nan
    people["s03"] = image(values)
    said = (
        r"96 of 288 voxels are left out, since not all people have a score there \(s03 has the fewest, 192\)"
    )
    with pytest.warns(UserWarning, match=said):
        result = nrl.second_level(people, test=nrl.MapTest(n_permutations=40))
    assert not result.inside[:3].any()
    assert result.settings["left_out"] == 96
    with pytest.warns(
        UserWarning, match=r"96 of 288 voxels are kept that some people lack \(at most 1 of 10\)"
    ):
        kept = nrl.second_level(people, test=nrl.MapTest(n_permutations=40, coverage=0.9))
    assert kept.inside[1:].all()
    assert kept.settings["kept_as_0"] == 96
    stack = np.stack([np.nan_to_num(x.get_fdata()[2]) for x in people.values()])
    assert_allclose(kept.image("t").get_fdata()[2], stats.ttest_1samp(stack, 0).statistic, rtol=1e-5)
    mask = image(BALL)
    result = nrl.second_level(volumes(), mask=mask, test=nrl.MapTest(n_permutations=40))
    assert_array_equal(result.inside, BALL)
    with pytest.warns(UserWarning, match="48 voxels of 336 in the mask have no score in anyone"):
        nrl.second_level(volumes(), mask=image(np.ones(SHAPE)), test=nrl.MapTest(n_permutations=40))
    flat = {name: image(np.where(BALL, 0.3, x.get_fdata())) for name, x in volumes().items()}
    with pytest.warns(
        UserWarning, match=f"{BALL.sum()} voxels with the same score in all people are left out"
    ):
        assert not nrl.second_level(flat, test=nrl.MapTest(n_permutations=40)).inside[BALL].any()


def test_seeds_and_a_file_for_each_map(tmp_path: Path) -> None:
    test = nrl.MapTest("size", 0.01, n_permutations=40, seed=3)
    one, same, other = (
        nrl.second_level(volumes(), test=nrl.MapTest("size", 0.01, n_permutations=40, seed=seed))
        for seed in (3, 3, 4)
    )
    assert_array_equal(one.values["p_voxel"], same.values["p_voxel"])
    assert (one.values["p_voxel"] != other.values["p_voxel"]).any()
    one.save(tmp_path / "deep/result")
    one.save(tmp_path / "deep/result")
    names = {path.name for path in (tmp_path / "deep/result").iterdir()}
    assert names == {*(f"{name}.nii.gz" for name in one.values), "peaks.csv", "settings.json"}
    saved = nib.load(tmp_path / "deep/result/p_size.nii.gz")
    assert_allclose(saved.get_fdata(), one.image("p_size").get_fdata())
    assert_allclose(saved.affine, AFFINE)
    record = json.loads((tmp_path / "deep/result/settings.json").read_text())
    assert record["test"]["seed"] == test.seed
    assert record["shown"].startswith("FWE-corrected p < 0.05, cluster size (clusters of p < 0.01, t > 2.82)")
    assert "smallest p" in str(one)
    assert repr(one) == str(one)
    assert "Second level: scores above 0, one-sided" in one._repr_html_()


def test_grids_of_people() -> None:
    moved = volumes()
    other = AFFINE.copy()
    other[0, 3] += 3
    moved["s04"] = image(np.zeros(SHAPE), other)
    with pytest.raises(
        NeurordlError, match=r"maps of s00 and s04 are on different grids: s00 has 7 x 8 x 6 .*s04"
    ):
        nrl.second_level(moved)
    moved["s04"] = image(np.zeros((7, 8, 7)))
    with pytest.raises(NeurordlError, match=r"s00 has 7 x 8 x 6 voxels of 3 x 3 x 4 mm.*7 x 8 x 7 voxels"):
        nrl.second_level(moved)


def test_bad_input(tmp_path: Path) -> None:
    people, maps = volumes(), folder(tmp_path)
    table = pd.DataFrame({"age": np.arange(N)}, index=PEOPLE)
    quick = nrl.MapTest(n_permutations=40)
    for arguments, options, said in (
        ((maps,), {}, "there are maps of a, b; choose one by model="),
        ((maps, "c"), {}, "model='c': expected one of 'a', 'b'"),
        ((maps, "a"), {"difference": ("a", "b")}, "model= and difference= exclude each other"),
        ((maps,), {"difference": ("a", "a")}, "expected two models"),
        ((maps,), {"difference": ("a", "z")}, "difference='z'"),
        ((people, "a"), {}, "images without names of models"),
        (({"s1": people["s00"]},), {}, "there are maps of 1 subject; a test needs two or more"),
        ((people,), {"fwhm": -1}, "fwhm=-1: expected a number of at least 0"),
        ((people,), {"contrast": "age"}, "contrast='age' is a column of covariates=, which are not given"),
        ((people,), {"covariates": table, "contrast": "sex"}, "covariates= has no column 'sex'"),
        ((people,), {"covariates": table[1:]}, "covariates= has no row of s00"),
        ((people,), {"covariates": table.reset_index(drop=True)}, "its index, or its column subject or part"),
        ((people,), {"covariates": table.assign(age=np.nan)}, "'age' of s00 is 'nan', no number"),
        ((people,), {"covariates": table.assign(age=1)}, "age are constant, or one is a sum of others"),
        (
            (people,),
            {"covariates": table.assign(age="old")},
            "'age' of s00 is 'old', no number; write groups",
        ),
        ((people,), {"covariates": 5}, "must be a DataFrame"),
        ((people,), {"covariates": pd.concat([table, table])}, "several rows of s00"),
        (
            (people,),
            {"covariates": table, "test": nrl.MapTest(coverage=0.5)},
            "coverage below 1 counts people as 0",
        ),
        (
            ({name: image(np.full(SHAPE, np.nan)) for name in PEOPLE},),
            {},
            "no voxel has a score of all 10 people",
        ),
        (
            ({name: image(np.ones(SHAPE)) for name in PEOPLE},),
            {"test": nrl.MapTest(fisher_z=True)},
            "is infinite",
        ),
        (
            ({name: image(np.ones((7, 8, 6, 2))) for name in PEOPLE},),
            {},
            r"has 2 maps, shape \(7, 8, 6, 2\); expected one map of each subject, 3D in a volume",
        ),
        (([1, 2],), {}, "maps: expected maps of group_searchlight, their folder, or a mapping .* got list"),
        ((people,), {"test": "cluster"}, "statistic='cluster': expected one of 'voxel', 'size'"),
        ((people,), {"test": 3}, "statistic=3: expected one of"),
        ((tmp_path / "nowhere",), {}, "has no settings.json"),
    ):
        with pytest.raises(NeurordlError, match=said):
            nrl.second_level(*arguments, **{"test": quick, **options})
    with (
        pytest.warns(UserWarning, match="same score"),
        pytest.raises(NeurordlError, match="all people have the same"),
    ):
        nrl.second_level({name: image(np.ones(SHAPE)) for name in PEOPLE}, test=quick)
    with pytest.warns(UserWarning, match="3 subjects have 8 sign flips"):
        nrl.second_level({name: people[name] for name in PEOPLE[:3]}, test=quick)
    for options, said in (
        ({"statistic": "cluster"}, "expected one of 'voxel', 'size', 'mass', 'tfce'"),
        ({"threshold": 3.1}, "threshold=3.1: expected a number above 0 and below 0.5"),
        ({"n_permutations": 19}, "n_permutations=19: no p can be below alpha=0.05; take 20 or more"),
        ({"coverage": 0}, "coverage=0"),
        ({"tail": "left"}, "tail='left'"),
        ({"n_jobs": 0}, "n_jobs=0"),
    ):
        with pytest.raises(NeurordlError, match=said):
            nrl.MapTest(**options)
    result = nrl.second_level(people, test=quick)
    with pytest.raises(NeurordlError, match="name='z': expected one of 'mean', 't', 'p_voxel'"):
        result.image("z")
    with pytest.raises(NeurordlError, match="min_distance=0"):
        result.table(min_distance=0)


@pytest.mark.parametrize("statistic", ["voxel", "size", "tfce"])
def test_an_effect_in_all_voxels_of_the_images(statistic: Any) -> None:
    """Without a voxel outside of clusters, nilearn would take a cluster for the background."""
    rng = np.random.default_rng(0)
    people = {name: image(rng.normal(5, 0.3, SHAPE)) for name in PEOPLE}
    result = nrl.second_level(people, test=nrl.MapTest(statistic, n_permutations=40))
    table = result.table(regions=nrl.Regions(image(np.ones(SHAPE)), {1: "all"}))
    assert set(table["cluster"]) == {1}
    assert set(table["n_voxels"]) == {int(np.prod(SHAPE))}
    assert set(table["region"]) == {"all"}
    best = np.unravel_index(result.image("t").get_fdata().argmax(), SHAPE)
    assert_allclose(table.loc[0, ["x", "y", "z"]].astype(float), AFFINE[:3, :3] @ best + AFFINE[:3, 3])


def test_clusters_are_numbered_without_gaps() -> None:
    rng, people = np.random.default_rng(0), {}
    for name in PEOPLE:
        scores = rng.normal(size=(12, 12, 12))
        scores[1:8, 1:4, 1:4] += 5
        scores[1:8, 8:11, 8:11] -= 5
        people[name] = image(scores)
    test = nrl.MapTest(tail="two-sided", n_permutations=100)
    table = nrl.second_level(people, test=test).table(min_distance=4)
    assert table["peak"].str.len().max() == 2  # nilearn counts on by peaks
    assert list(dict.fromkeys(table["cluster"])) == list(range(1, table["cluster"].max() + 1))
    assert (table["peak"].str.extract(r"(\d+)", expand=False).astype(int) == table["cluster"]).all()


def test_twenty_permutations_cannot_make_a_cluster_significant() -> None:
    assert nrl.MapTest(n_permutations=20).n_permutations == 20
    with pytest.raises(NeurordlError, match=r"n_permutations=20: no p can be below alpha=0.05; take 21"):
        nrl.MapTest("size", n_permutations=20)
    rng = np.random.default_rng(0)
    people = {name: image(rng.normal(5, 0.3, SHAPE)) for name in PEOPLE}
    result = nrl.second_level(people, test=nrl.MapTest("size", n_permutations=21))
    assert (result.p < 0.05).all()


def test_zeros_that_may_mean_no_data_are_told(tmp_path: Path) -> None:
    people, test = volumes(), nrl.MapTest(n_permutations=40)
    values = people["s03"].get_fdata()
    values[1] = 0
    people["s03"] = image(values)
    said = r"48 of 288 voxels are exactly 0 in some people \(at most 1 of 10\), and count as a score of 0; if"
    with pytest.warns(UserWarning, match=said):
        result = nrl.second_level(people, test=test)
    assert result.inside[1].all()


def test_people_with_the_same_map_are_told() -> None:
    """A file that was copied under another name would count as another person."""
    people, test = volumes(), nrl.MapTest(n_permutations=40)
    people["s03"] = image(1.01 * people["s07"].get_fdata())
    with pytest.warns(UserWarning, match=r"subjects with the same map .*: s03 = s07; if they are one person"):
        nrl.second_level(people, test=test)


def test_a_map_that_is_cut_off_is_named(tmp_path: Path) -> None:
    maps, quick = folder(tmp_path), nrl.MapTest(n_permutations=40)
    path = tmp_path / "s04.nii.gz"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(NeurordlError, match=r"cannot read .*s04.nii.gz: it is damaged, .*read whole"):
        nrl.second_level(maps, "b", test=quick)
    people = {name: tmp_path / f"{name}.nii.gz" for name in PEOPLE}
    for name, scores in volumes().items():
        nib.save(scores, people[name])
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(NeurordlError, match=r"cannot read .*s04.nii.gz"):
        nrl.second_level(people, test=quick)
