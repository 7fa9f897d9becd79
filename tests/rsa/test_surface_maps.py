"""Maps of a group on surfaces: kept by hemisphere, and tested as a loop over sign flips tests them."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.image import smooth_img
from nilearn.mass_univariate import permuted_ols
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from scipy import stats

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns.meshes import read_meshes
from neurordl.rsa import map_tests
from neurordl.rsa import maps as module
from tests.helpers import icosphere

N, PEOPLE = 7, [f"sub-{k:02d}" for k in range(1, 8)]
IDS = [f"s{k}" for k in range(N)]
POINTS, FACES = icosphere(1)  # 42 vertices
SIZE = len(POINTS)
MESHES = {"left": (POINTS, FACES), "right": (1.3 * POINTS + 150, FACES[:, ::-1])}
MESH = PolyMesh(**{side: InMemoryMesh(*mesh) for side, mesh in MESHES.items()})
OPTIONS: dict[str, Any] = {"surface": MESHES, "radius": "40 mm", "threshold": 0.5, "progress": False}
PATCH = np.linalg.norm(POINTS - POINTS[5], axis=1) < 35


def person(subject: str, sides: tuple[str, ...] = ("left", "right")) -> Dataset:
    rng = np.random.default_rng(int(subject.removeprefix("sub-")))
    channels = {
        "hemisphere": [side for side in sides for _ in range(SIZE - 4)],
        "vertex": [*range(4, SIZE)] * len(sides),
    }
    return Dataset(rng.normal(size=(N, len(channels["vertex"]))), {}, {"stimulus": IDS}, channels)


def models(seed: int = 9) -> RDMs:
    values = np.random.default_rng(seed).random((2, N * (N - 1) // 2))
    return RDMs(values, pattern_descriptors={"stimulus": IDS}, rdm_descriptors={"name": ["a", "b"]})


def images(effect: float = 0.8, seed: int = 0, n: int = 7) -> dict[str, SurfaceImage]:
    """Scores of people from -1 to 1, NaN in four vertices of each hemisphere; a patch in the left one."""
    rng, people = np.random.default_rng(seed), {}
    for k in range(n):
        scores = np.tanh(0.4 * rng.normal(size=(2, SIZE)) + effect * np.stack([PATCH, 0 * PATCH]))
        scores[:, :4] = np.nan
        people[f"sub-{k + 1:02d}"] = SurfaceImage(
            MESH, dict(zip(MESHES, scores.astype(np.float32), strict=True))
        )
    return people


def stacked(people: Any) -> Any:
    """Scores of all people in the vertices that they all have, (people, vertices)."""
    whole = [np.concatenate([np.ravel(x.data.parts[side]) for side in MESHES]) for x in people.values()]
    return np.stack(whole).astype(float)[:, np.isfinite(whole).all(axis=0)]


# maps in files


def test_each_person_has_the_maps_of_searchlight(tmp_path: Path) -> None:
    maps = nrl.group_searchlight(person, models(), tmp_path / "maps", subjects=PEOPLE, **OPTIONS)
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    ends = ("_hemi-L.func.gii", "_hemi-R.func.gii", ".json")
    assert names == {"settings.json", "hemi-L.surf.gii", "hemi-R.surf.gii"} | {
        f"{name}{end}" for name in PEOPLE for end in ends
    }
    again = nrl.load_maps(tmp_path / "maps", PEOPLE[:2])
    assert again.models == maps.models == ("a", "b")
    assert again.subjects == tuple(PEOPLE[:2])
    for found in (maps, again):
        image = found.image("sub-02")
        want = nrl.searchlight(person("sub-02"), models(), **OPTIONS).surface_image()
        assert image.shape == (2 * SIZE, 2)
        for side in MESHES:
            assert_allclose(image.data.parts[side], want.data.parts[side], atol=1e-6)
            assert_allclose(image.mesh.parts[side].coordinates, MESHES[side][0], atol=1e-4)
            assert_array_equal(image.mesh.parts[side].faces, MESHES[side][1])
    gifti = nib.load(tmp_path / "maps" / "sub-02_hemi-R.func.gii")
    assert [array.meta["Name"] for array in gifti.darrays] == ["a", "b"]
    assert gifti.meta["AnatomicalStructurePrimary"] == "CortexRight"
    record = json.loads((tmp_path / "maps" / "sub-02.json").read_text())
    assert set(record["settings"]["options"]["surface"]) == {"left", "right"}
    assert "surface left, right" in str(maps)


def test_both_hemispheres_count_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    run = partial(nrl.group_searchlight, person, models(), folder, subjects=PEOPLE[:3], **OPTIONS)
    run()
    with pytest.warns(UserWarning, match="the maps of 3 of 3 subjects were finished before"):
        run()
    before = (folder / "sub-01_hemi-R.func.gii").read_bytes()
    (folder / "sub-01_hemi-R.func.gii").unlink()
    (folder / "sub-02_hemi-L.func.gii").write_bytes(b"damaged")
    assert nrl.load_maps(folder).subjects == ("sub-02", "sub-03")
    with pytest.warns(UserWarning, match="the maps of 1 of 3 subjects were finished before in .*: sub-03"):
        run()
    assert (folder / "sub-01_hemi-R.func.gii").read_bytes() == before
    assert nrl.load_maps(folder).subjects == tuple(PEOPLE[:3])


def test_a_write_that_fails_leaves_no_finished_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.write_bytes

    def full(path: Any, content: bytes) -> None:
        if str(path).endswith("_hemi-R.func.gii"):
            raise OSError("the disk is full")
        real(path, content)

    run = partial(nrl.group_searchlight, person, models(), tmp_path / "maps", subjects=PEOPLE[:1], **OPTIONS)
    monkeypatch.setattr(module, "write_bytes", full)
    with pytest.raises(NeurordlError, match="the disk is full"):
        run()
    with pytest.raises(NeurordlError, match="has no finished maps; call group_searchlight"):
        nrl.load_maps(tmp_path / "maps")
    monkeypatch.undo()
    assert run().subjects == ("sub-01",)


def test_other_meshes_are_other_settings(tmp_path: Path) -> None:
    run = partial(nrl.group_searchlight, person, models(), tmp_path / "maps", subjects=PEOPLE[:1])
    run(**OPTIONS)
    run(**{**OPTIONS, "surface": MESH})  # the same mesh as an object of nilearn
    moved = {**MESHES, "left": (POINTS * 1.01, FACES)}
    mesh = tmp_path / "maps" / "hemi-R.surf.gii"
    before = mesh.read_bytes()
    mesh.unlink()
    with pytest.raises(NeurordlError, match=r"there is no mesh .*hemi-R.surf.gii; check the path"):
        nrl.load_maps(tmp_path / "maps")
    run(**OPTIONS)
    assert mesh.read_bytes() == before
    with pytest.raises(NeurordlError, match="holds maps of other settings, which differ in surface"):
        run(**{**OPTIONS, "surface": moved})
    with pytest.raises(NeurordlError, match=r"other settings, which differ in .*surface"):
        run(radius=2)
    with pytest.raises(NeurordlError, match="like= is for volumes; leave it out with surface="):
        run(like="brain.nii.gz", **OPTIONS)
    with pytest.raises(NeurordlError, match="sub-01: radius=2: on a surface, give millimeters"):
        nrl.group_searchlight(person, models(), tmp_path / "b", subjects=PEOPLE[:1], surface=MESHES, radius=2)
    assert nrl.group_searchlight(person, models(), tmp_path / "b", subjects=PEOPLE[:1], **OPTIONS).files
    with pytest.raises(NeurordlError, match="surface= is for a mapping from subject to files"):
        nrl.load_maps(tmp_path / "maps", surface=MESHES)


def test_people_with_one_hemisphere(tmp_path: Path) -> None:
    left = {name: person(name, ("left",)) for name in PEOPLE[:2]}
    maps = nrl.group_searchlight(left, models(), tmp_path / "both", **OPTIONS)
    assert np.isnan(maps.image("sub-01").data.parts["right"]).all()
    assert np.isfinite(maps.image("sub-01").data.parts["left"]).any()
    alone = {**OPTIONS, "surface": {"left": MESHES["left"]}}
    maps = nrl.group_searchlight(left, models(), tmp_path / "left", **alone)
    assert list(maps.image("sub-01").data.parts) == ["left"]
    assert not list((tmp_path / "left").glob("*hemi-R*"))


def test_processes_give_the_same_maps(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        maps = nrl.group_searchlight(
            person, models(), tmp_path / "maps", subjects=PEOPLE[:2], executor=executor, **OPTIONS
        )
    want = nrl.searchlight(person("sub-02"), models(), **OPTIONS).surface_image("b")
    for side in MESHES:
        assert_allclose(maps.image("sub-02").data.parts[side][:, 1], want.data.parts[side], atol=1e-6)


def test_the_notice_about_a_mesh_is_given_once(tmp_path: Path) -> None:
    paths = {side: tmp_path / f"{side[0]}h.inflated" for side in MESHES}
    for side, path in paths.items():
        nib.freesurfer.write_geometry(path, *MESHES[side])
    with pytest.warns(UserWarning, match=r"lh.inflated: distances .*\(2 subjects: sub-01, sub-02\)") as said:
        nrl.group_searchlight(
            person, models(), tmp_path / "m", subjects=PEOPLE[:2], **{**OPTIONS, "surface": paths}
        )
    assert len([x for x in said if "inflated" in str(x.message)]) == 1


def test_files_of_searchlights_of_single_people(tmp_path: Path) -> None:
    for name in PEOPLE:
        nrl.searchlight(person(name), models(), **OPTIONS).to_gifti(tmp_path / name)
    files = {name: str(tmp_path / f"{name}_hemi-{{hemi}}.func.gii") for name in PEOPLE}
    maps = nrl.load_maps(files, surface=MESHES)
    assert maps.models == ("a", "b")
    test = nrl.MapTest("mass", 0.05, n_permutations=40)
    result = nrl.second_level(maps, "b", test=test)
    folder = nrl.group_searchlight(person, models(), tmp_path / "m", subjects=PEOPLE, **OPTIONS)
    want = nrl.second_level(folder, "b", test=test)
    for name, values in want.values.items():
        assert_allclose(result.values[name], values, rtol=1e-6)
    assert nrl.load_maps(files, PEOPLE[:2], surface=MESHES).subjects == tuple(PEOPLE[:2])
    axis = nib.cifti2.BrainModelAxis.from_mask(np.arange(SIZE) > 3, "CortexLeft")
    scalars = nib.cifti2.ScalarAxis(["c"])
    image = nib.Cifti2Image(np.ones((1, SIZE - 4), np.float32), header=(scalars, axis))
    one = nrl.load_maps({"x": image}, surface=MESHES)
    assert one.models == ("c",)
    assert_array_equal(np.isfinite(one.image("x").data.parts["left"][:, 0]), np.arange(SIZE) > 3)
    with pytest.raises(NeurordlError, match="a mapping of images is for second_level; of files on a surface"):
        nrl.load_maps(files)
    with pytest.raises(NeurordlError, match="there are no maps of sub-09"):
        nrl.load_maps(files, ["sub-09"], surface=MESHES)
    with pytest.raises(NeurordlError, match="there are no maps; give the files"):
        nrl.load_maps({}, surface=MESHES)
    with pytest.raises(NeurordlError, match=r"42 vertices in the left hemisphere, and surface= has 162"):
        nrl.second_level(nrl.load_maps(files, surface=dict.fromkeys(MESHES, icosphere(2))), "a")
    with pytest.raises(NeurordlError, match=r"is on a surface, whose mesh it does not have; give the files"):
        nrl.second_level(files)


# tests over people


def by_loop(values: Any, flips: Any, test: nrl.MapTest, inside: Any) -> dict[str, Any]:
    """Each cluster's statistic, compared with the largest one of each flip, in plain Python."""
    edges: dict[int, set[int]] = {k: set() for k in range(2 * SIZE)}
    for number, (_, faces) in enumerate(MESHES.values()):
        for i, j, k in (np.asarray(faces) + number * SIZE).tolist():
            for a, b in ((i, j), (j, k), (k, i)):
                edges[a].add(b)
                edges[b].add(a)
    places = np.flatnonzero(inside).tolist()
    df, two = len(values) - 1, test.tail == "two-sided"
    limit = stats.t.isf(test.threshold / (2 if two else 1), df)

    def clusters(t: dict[int, float], above: float) -> list[list[int]]:
        found = []
        for sign in (1, -1) if two else (1,):
            rest = {v for v, x in t.items() if sign * x > above}
            while rest:
                cluster, queue = [], [rest.pop()]
                while queue:
                    v = queue.pop()
                    cluster.append(v)
                    queue += edges[v] & rest
                    rest -= edges[v]
                found.append(cluster)
        return found

    def statistics(t: dict[int, float]) -> dict[int, float]:
        if test.statistic == "tfce":
            values = dict.fromkeys(t, 0.0)
            highest = max(abs(x) if two else x for x in t.values())
            step = 1
            while step * 0.1 < highest - 1e-12:
                for cluster in clusters(t, step * 0.1):
                    for v in cluster:
                        values[v] += 0.1 * (step * 0.1) ** 2 * len(cluster) ** 0.5
                step += 1
            return values
        values = dict.fromkeys(t, 0.0)
        for cluster in clusters(t, limit):
            mass = abs(sum(t[v] for v in cluster))
            for v in cluster:
                values[v] = len(cluster) if test.statistic == "size" else mass
        return values

    def t_of(data: Any) -> dict[int, float]:
        t = data.mean(0) / (data.std(0, ddof=1) / np.sqrt(len(data)))
        return dict(zip(places, t.tolist(), strict=True))

    t = t_of(values)
    observed = statistics(t)
    largest = [max(observed.values())] + [
        max(statistics(t_of(values * np.asarray(flip)[:, None])).values()) for flip in flips
    ]
    statistic = np.array([observed[v] for v in places])
    p = np.array([np.mean([x >= y * (1 - 1e-12) for x in largest]) for y in statistic])
    if test.statistic != "tfce":
        p[statistic == 0] = 1
    sign = np.sign([t[v] for v in places]) if test.statistic == "tfce" else 1
    return {"t": np.array([t[v] for v in places]), test.statistic: statistic * sign, "p": p}


def flips_of(n: int, test: nrl.MapTest) -> list[list[int]]:
    """The sign flips of MNE: all if there are no more, or else some without repetition."""
    two = test.tail == "two-sided"
    if 2 ** (n - two) - 1 < test.n_permutations + 1:
        every = list(product((-1, 1), repeat=n))[: 2 ** (n - two)]
        return every[
            1:
        ]  # the unflipped signs are there twice in one-sided tests, and the opposite ones never
    chosen = np.random.default_rng(test.seed).choice(2 ** (n - two) - 1, test.n_permutations, replace=False)
    return [[2 * int(x) - 1 for x in np.binary_repr(k + 1, n)] for k in chosen]


@pytest.mark.parametrize("n_permutations", [40, 500])
@pytest.mark.parametrize("tail", ["greater", "two-sided"])
@pytest.mark.parametrize("statistic", ["size", "mass", "tfce"])
def test_clusters_are_those_of_a_loop(statistic: Any, tail: Any, n_permutations: int) -> None:
    people = images()
    if tail == "two-sided":  # a patch of the other sign in the other hemisphere
        for image in people.values():
            image.data.parts["right"][PATCH] -= np.float32(0.5)
    test = nrl.MapTest(statistic, 0.05, tail=tail, n_permutations=n_permutations, seed=3)
    result = nrl.second_level(people, test=test)
    values = stacked(people)
    want = by_loop(values, flips_of(len(values), test), test, result.inside)
    assert_allclose(result.values["t"], want["t"], rtol=1e-8)
    assert_allclose(result.values[statistic], want[statistic], rtol=1e-8)
    assert_allclose(result.p, want["p"])
    assert result.p.min() < 0.05
    assert set(result.values) == {"mean", "t", statistic, f"p_{statistic}"}
    said = {40: "40 sign flips of MNE, seed 3", 500: "sign flips of MNE, seed 3"}[n_permutations]
    assert said in str(result)
    assert ("all " in str(result)) == (n_permutations == 500)
    assert "mne" in result.settings["versions"]


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
def test_vertices_are_tested_by_nilearn(tail: Any) -> None:
    people = images(n=12)
    table = pd.DataFrame({"age": np.arange(12.0) ** 2, "group": [0, 1] * 6}, index=[*people])
    test = nrl.MapTest(tail=tail, n_permutations=60, seed=4)
    values, ones = stacked(people), np.ones((12, 1))
    options: dict[str, Any] = {
        "n_perm": 60,
        "two_sided_test": tail == "two-sided",
        "random_state": 4,
        "output_type": "dict",
    }
    groups = table[["group"]].to_numpy(float)
    for extra, tested, nuisance in (
        ({}, ones, None),
        ({"covariates": table}, ones, table.to_numpy(float) - table.to_numpy(float).mean(0)),
        ({"covariates": table, "contrast": "group"}, groups, table[["age"]].to_numpy(float)),
    ):
        result = nrl.second_level(people, test=test, **extra)
        want = permuted_ols(tested, values, nuisance, **options)
        assert_allclose(result.values["t"], want["t"][0])
        assert_allclose(result.values["p_voxel"], 10 ** -want["logp_max_t"][0])
        assert_allclose(result.values["mean"], values.mean(axis=0))
        assert result.threshold() == "FWE-corrected p < 0.05, vertex level"
        assert result.settings["n_vertices"] == 2 * (SIZE - 4)


def test_clusters_of_two_groups() -> None:
    people = images(n=12)
    groups = np.array([0, 1] * 6)
    for k, image in enumerate(people.values()):
        image.data.parts["right"][PATCH] += np.float32(2 * groups[k])
    table = pd.DataFrame({"patients": groups}, index=[*people])
    for statistic in ("size", "mass", "tfce"):
        test = nrl.MapTest(statistic, 0.01, tail="two-sided", n_permutations=50, seed=2)
        result = nrl.second_level(people, test=test, covariates=table, contrast="patients")
        values = stacked(people)
        want = stats.ttest_ind(values[groups == 1], values[groups == 0]).statistic
        assert_allclose(result.values["t"], want)
        assert set(result.table()["hemisphere"]) == {"right"}
        assert result.p.min() == 1 / 51
        assert "50 permutations of MNE" in str(result)
    # of permuted people, by a loop over MNE's permutations
    test = nrl.MapTest("size", 0.01, tail="two-sided", n_permutations=50, seed=2)
    result = nrl.second_level(people, test=test, covariates=table, contrast="patients")
    stack = np.concatenate([values[groups == 1], values[groups == 0]])
    rng, largest = np.random.default_rng(2), []
    limit, sizes = stats.t.isf(0.005, 10), result.values["size"]
    space = result.space
    for order in [np.arange(12), *(rng.permutation(12) for _ in range(50))]:
        t = stats.ttest_ind(stack[order[:6]], stack[order[6:]]).statistic
        whole = np.zeros(2 * SIZE)
        whole[result.inside] = np.where(np.abs(t) > limit, t, 0)
        largest.append(max((peak.n_places for peak in space.peaks(whole, 1000.0)), default=0))
    p = np.array([np.mean(np.array(largest) >= size) if size else 1 for size in sizes])
    assert_allclose(result.p, p)
    for extra in (
        {"covariates": table},
        {"covariates": table.assign(age=np.arange(12.0) ** 2), "contrast": "patients"},
        {"covariates": pd.DataFrame({"age": np.arange(12.0)}, index=[*people]), "contrast": "age"},
    ):
        with pytest.raises(NeurordlError, match="tested by MNE, which controls for no covariates; test each"):
            nrl.second_level(people, test=test, **extra)


def test_a_paired_difference_and_fisher_z(tmp_path: Path) -> None:
    nrl.group_searchlight(person, models(), tmp_path / "m", subjects=PEOPLE, **OPTIONS)
    maps = nrl.load_maps(tmp_path / "m")
    test = nrl.MapTest("mass", 0.2, tail="two-sided", fisher_z=True, n_permutations=40)
    result = nrl.second_level(maps, difference=("a", "b"), test=test)
    parts = [
        np.stack(
            [np.concatenate([maps.image(name).data.parts[side][:, k] for side in MESHES]) for name in PEOPLE]
        )
        for k in range(2)
    ]
    z = [np.arctanh(part.astype(float))[:, result.inside] for part in parts]
    assert_allclose(result.values["t"], stats.ttest_rel(*z).statistic, rtol=1e-8)
    assert result.name == "a − b"
    want = by_loop(z[0] - z[1], flips_of(7, test), test, result.inside)
    assert_allclose(result.p, want["p"])


def test_smoothing_is_nilearns() -> None:
    people = images()
    result = nrl.second_level(people, test=nrl.MapTest(n_permutations=40), fwhm=60)
    smooth = {
        name: smooth_img(
            SurfaceImage(MESH, {s: np.nan_to_num(x.data.parts[s].astype(float)) for s in MESHES}), 60
        )
        for name, x in people.items()
    }
    whole = [np.concatenate([x.data.parts[side] for side in MESHES]) for x in smooth.values()]
    want = stats.ttest_1samp(np.stack(whole)[:, result.inside], 0).statistic
    assert_allclose(result.values["t"], want)
    assert not np.isclose(result.values["t"], nrl.second_level(people).values["t"]).any()
    assert "smoothed by 60 mm" in str(result)


def test_processes_and_seeds() -> None:
    test = partial(nrl.MapTest, "mass", 0.05, n_permutations=40)
    one, two, again, other = (
        nrl.second_level(images(0.2), test=test(**options))
        for options in ({}, {"n_jobs": 2}, {}, {"seed": 1})
    )
    assert_array_equal(one.p, two.p)  # MNE's sign flips do not depend on the number of processes
    assert_array_equal(one.p, again.p)
    assert (one.p != other.p).any()


@pytest.mark.parametrize("statistic", ["voxel", "mass", "tfce"])
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160])
def test_t_does_not_depend_on_the_scale(statistic: Any, scale: float) -> None:
    test = nrl.MapTest(statistic, 0.05, n_permutations=40)
    want = nrl.second_level(images(0.3), test=test)
    scaled = {
        name: SurfaceImage(MESH, {side: x.data.parts[side].astype(float) * scale for side in MESHES})
        for name, x in images(0.3).items()
    }
    found = nrl.second_level(scaled, test=test)
    for name in set(want.values) - {"mean"}:
        assert_allclose(found.values[name], want.values[name], rtol=1e-6)


@pytest.mark.parametrize("groups", [False, True])
def test_a_vertex_of_nearly_equal_scores_does_not_stop_tfce(groups: bool) -> None:
    people, design = images(n=8), {}
    if groups:
        table = pd.DataFrame({"patients": [0, 1] * 4}, index=[*people])
        design = {"covariates": table, "contrast": "patients"}
    for k, image in enumerate(people.values()):
        for side in MESHES:
            image.data.parts[side] = image.data.parts[side].astype(float)
        image.data.parts["right"][20] = 1 + 1e-9 * k + groups * (k % 2)
    test = nrl.MapTest("tfce", n_permutations=40, tail="two-sided")
    with pytest.warns(UserWarning, match="t is beyond 100 at 1 of 76 places, and counts as 100 in TFCE"):
        result = nrl.second_level(people, test=test, **design)
    assert result.values["t"].max() > 1e6
    assert np.isfinite(result.values["tfce"]).all()
    lone = sum(0.1 * (k * 0.1) ** 2 for k in range(1, 1000))
    assert result.values["tfce"].max() >= lone * (1 - 1e-6)
    assert result.p[result.values["t"].argmax()] < 0.1


def test_few_people_and_nothing_to_cluster() -> None:
    with pytest.warns(UserWarning, match="5 subjects have 32 sign flips, so that no p is below 0.0625"):
        result = nrl.second_level(images(5.0, n=5), test=nrl.MapTest("size", 0.05))
    assert_allclose(result.p.min(), 2 / 32)
    none = nrl.second_level(images(0.0), test=nrl.MapTest("mass", 1e-7, n_permutations=40))
    assert (none.p == 1).all()
    assert (none.values["mass"] == 0).all()
    assert len(none.table()) == 0
    columns = "cluster peak hemisphere vertex x y z t mean p_mass mm2 n_vertices region"
    assert " ".join(none.table(regions=nrl.Regions(SurfaceImage(MESH, dict.fromkeys(MESHES, PATCH))))) == (
        columns
    )


def test_vertices_that_some_people_lack_and_masks(tmp_path: Path) -> None:
    people, quick = images(), nrl.MapTest(n_permutations=40)
    people["sub-03"].data.parts["right"][4:10] = np.nan
    said = (
        r"6 of 76 vertices are left out, since not all people have a score there \(sub-03 has the fewest, 70"
    )
    with pytest.warns(UserWarning, match=said):
        result = nrl.second_level(people, test=quick)
    assert result.inside.sum() == 70
    with pytest.warns(UserWarning, match=r"6 of 76 vertices are kept that some people lack \(at most 1 of 7"):
        kept = nrl.second_level(people, test=nrl.MapTest(n_permutations=40, coverage=0.8))
    assert kept.inside.sum() == 76
    marked = PATCH | (np.arange(SIZE) == 0)
    inside = np.concatenate([PATCH & (np.arange(SIZE) > 3), np.zeros(SIZE, bool)])
    label = nib.GiftiImage(
        meta=nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": "CortexLeft"}),
        darrays=[
            nib.gifti.GiftiDataArray(
                marked.astype(np.int32), "NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32"
            )
        ],
        labeltable=nib.gifti.GiftiLabelTable(),
    )
    for key, text in ((0, "???"), (1, "patch")):
        label.labeltable.labels.append(nib.gifti.GiftiLabel(key=key, red=0, green=0, blue=0, alpha=0))
        label.labeltable.labels[-1].label = text
    nib.save(label, tmp_path / "hemi-L.label.gii")
    table = np.array([[25, 5, 25, 0], [1, 2, 3, 0]])
    nib.freesurfer.write_annot(
        tmp_path / "lh.x.annot", marked.astype(int), table, ["unknown", "patch"], fill_ctab=True
    )
    whole = SurfaceImage(MESH, {"left": marked, "right": np.zeros(SIZE, bool)})
    masks: list[Any] = [
        tmp_path / "hemi-L.label.gii",
        tmp_path / "lh.x.annot",
        nrl.Regions(tmp_path / "lh.x.annot", rois="patch"),
        whole,
    ]
    for mask in masks:
        with pytest.warns(UserWarning, match="in the mask have no score in anyone"):
            result = nrl.second_level(images(), test=quick, mask=mask)
        assert_array_equal(result.inside, inside)
    named = result.table(regions=tmp_path / "lh.x.annot")
    assert set(named["region"]) == {"patch"}
    with pytest.raises(NeurordlError, match=r"162 vertices in the left hemisphere.* a mask of the same mesh"):
        nrl.second_level(
            images(),
            mask=SurfaceImage(PolyMesh(left=InMemoryMesh(*icosphere(2))), {"left": np.ones(162, int)}),
        )


def test_the_table_has_peaks_and_areas() -> None:
    people = images(2.0)
    for image in people.values():
        image.data.parts["right"][30:33] += np.float32(3)
    result = nrl.second_level(people, test=nrl.MapTest(n_permutations=100))
    table, t = result.table(), result.values["t"]
    whole = np.zeros(2 * SIZE)
    whole[result.inside] = np.where(result.p < 0.05, t, 0)
    first = table.iloc[0]
    best = int(whole.argmax())
    assert (first["hemisphere"], first["vertex"]) == (["left", "right"][best // SIZE], best % SIZE)
    assert_allclose(first["t"], whole.max())
    assert (table.groupby("cluster")["t"].first().diff().dropna() <= 0).all()  # the highest cluster first
    for row in table.to_dict("records"):
        points = MESHES[row["hemisphere"]][0]
        assert_allclose([row[axis] for axis in "xyz"], points[row["vertex"]], atol=1e-3)
        place = row["vertex"] + SIZE * (row["hemisphere"] == "right")
        assert_allclose(row["t"], whole[place])
        assert row["p_voxel"] < 0.05
    clusters = table.drop_duplicates("cluster")
    assert clusters["n_vertices"].sum() == (whole != 0).sum()
    area = 0.0
    for number, (points, faces) in enumerate(MESHES.values()):
        for triangle in np.asarray(faces):
            a, b, c = points[triangle]
            n_inside = (whole[triangle + number * SIZE] != 0).sum()
            area += n_inside / 3 * np.linalg.norm(np.cross(b - a, c - a)) / 2
    assert_allclose(clusters["mm2"].sum(), area, atol=0.01)
    near, far = (len(result.table(min_distance=distance)) for distance in (1, 1000))
    assert far == len(clusters) <= near
    both = nrl.second_level(people, test=nrl.MapTest(tail="two-sided", n_permutations=100))
    assert len(both.table(alpha=1)) > len(both.table())


def test_peaks_are_those_of_a_loop() -> None:
    space = nrl.second_level(images(), test=nrl.MapTest(n_permutations=20)).space
    edges = {(a, b) for i, j, k in FACES.tolist() for a, b in ((i, j), (j, k), (k, i))}
    edges |= {(b, a) for a, b in edges}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shown = np.concatenate([rng.integers(-4, 5, SIZE) * (rng.random(SIZE) < 0.7), np.zeros(SIZE)])
        peaks = space.peaks(shown, 40.0)
        rest, clusters = set(np.flatnonzero(shown).tolist()), []
        while rest:
            queue, cluster = [rest.pop()], set()
            while queue:
                v = queue.pop()
                cluster.add(v)
                near = {w for w in rest if (v, w) in edges and shown[v] * shown[w] > 0}
                rest -= near
                queue += near
            clusters.append(cluster)
        assert {peak.cluster for peak in peaks} == set(range(1, len(clusters) + 1))
        assert sum(peak.n_places for peak in peaks if not peak.letter) == np.count_nonzero(shown)
        for cluster in clusters:
            of_cluster = [peak for peak in peaks if peak.place[0] in cluster]
            tops = []
            for v in sorted(cluster, key=lambda v: (-abs(shown[v]), v)):
                top = all(abs(shown[w]) <= abs(shown[v]) for w in cluster if (v, w) in edges)
                apart = all(np.linalg.norm(POINTS[v] - POINTS[w]) >= 40 for w in tops)
                if top and apart and len(tops) < 4:
                    tops.append(v)
            assert [peak.place[0] for peak in of_cluster] == tops
            assert [peak.letter for peak in of_cluster] == ["", "a", "b", "c"][: len(tops)]
            assert {peak.n_places for peak in of_cluster} == {len(cluster)}
        heights = [abs(shown[peak.place[0]]) for peak in peaks if not peak.letter]
        assert heights == sorted(heights, reverse=True)


def test_images_and_files_of_a_result(tmp_path: Path) -> None:
    result = nrl.second_level(images(), test=nrl.MapTest("size", 0.05, n_permutations=60))
    image = result.image("p_size")
    whole = np.concatenate([image.data.parts[side] for side in MESHES])
    assert_allclose(whole[result.inside], result.p, rtol=1e-6)
    assert np.isnan(whole[~result.inside]).all()
    shown = np.concatenate([result.thresholded().data.parts[side] for side in MESHES])
    assert_array_equal(shown[result.inside] != 0, result.p < 0.05)
    assert_array_equal(shown[~result.inside], 0)
    result.save(tmp_path / "result")
    result.save(tmp_path / "result")
    names = {path.name for path in (tmp_path / "result").iterdir()}
    ends = ("_hemi-L.func.gii", "_hemi-R.func.gii")
    assert names == {
        "peaks.csv",
        "settings.json",
        "hemi-L.surf.gii",
        "hemi-R.surf.gii",
        *(f"{name}{end}" for name in result.values for end in ends),
    }
    saved = nib.load(tmp_path / "result" / "p_size_hemi-R.func.gii").agg_data()
    assert_allclose(saved, image.data.parts["right"])
    meshes = read_meshes({side: tmp_path / "result" / f"hemi-{side[0].upper()}.surf.gii" for side in MESHES})
    assert_allclose(meshes["right"].coordinates, MESHES["right"][0], atol=1e-4)
    assert "vertices in 1 cluster" in str(result)
    assert "of the left hemisphere" in str(result)
    assert json.loads((tmp_path / "result" / "settings.json").read_text())["n_vertices"] == 76


def test_maps_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    people, quick = images(), nrl.MapTest(n_permutations=40)
    points, faces = icosphere(2)
    larger = SurfaceImage(PolyMesh(left=InMemoryMesh(points, faces)), {"left": np.ones(162)})
    turned = PolyMesh(**{s: InMemoryMesh(x, f[:, [1, 2, 0]]) for s, (x, f) in MESHES.items()})
    other = SurfaceImage(turned, {side: np.ones(SIZE) for side in MESHES})
    volume = nib.Nifti1Image(np.ones((3, 3, 3)), np.eye(4))
    for wrong, said in (
        (larger, "sub-01 has left 42, right 42 vertices and sub-04 has left 162 vertices; read the patterns"),
        (other, "maps of sub-01 and sub-04 are on different meshes: have other triangles"),
        (volume, "of the maps of sub-01 and sub-04, one is a volume and the other on a surface"),
        (SurfaceImage(MESH, {side: np.ones((SIZE, 2)) for side in MESHES}), r"has 2 maps, shape \(84, 2\)"),
    ):
        with pytest.raises(NeurordlError, match=said):
            nrl.second_level({**people, "sub-04": wrong}, test=quick)
    with pytest.raises(NeurordlError, match="one is a volume and the other on a surface"):
        nrl.second_level({"a": volume, "b": people["sub-01"]}, test=quick)
    moved = PolyMesh(**{s: InMemoryMesh(x + 1, f) for s, (x, f) in MESHES.items()})
    own = SurfaceImage(moved, people["sub-02"].data.parts)  # each person's own anatomy, the same triangles
    said = r"meshes have other coordinates than that of sub-01, from which .* \(1 subject: sub-02\)"
    with pytest.warns(UserWarning, match=said):
        assert nrl.second_level({**people, "sub-02": own}, test=quick).inside.sum() == 76
    assert map_tests.MapTest is nrl.MapTest
    monkeypatch.setitem(__import__("sys").modules, "mne.stats", None)
    with pytest.raises(
        NeurordlError, match=r"cluster tests are MNE's; install it: pip install 'neurordl\[mne"
    ):
        nrl.second_level(people, test="size")
    nrl.second_level(people, test=quick)  # of vertices, without MNE
