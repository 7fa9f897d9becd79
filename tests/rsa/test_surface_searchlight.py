"""Searchlights on surfaces: each vertex's score is that of its own RDM, of neighbors found by a loop."""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset, load_dataset
from rsatoolbox.rdm import RDMs, calc_rdm
from rsatoolbox.rdm import compare as rsatoolbox_compare

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa import neighborhoods
from neurordl.rsa import searchlight as module
from tests.helpers import icosphere

N = 7
IDS = [f"s{k}" for k in range(N)]
POINTS, FACES = icosphere(2)  # 162 vertices
MESHES = {"left": (POINTS, FACES), "right": (1.3 * POINTS + 7, FACES[:, ::-1])}
MASKED = {"left": [3, 20, 41], "right": list(range(40))}


def brain(sides: tuple[str, ...] = ("left", "right"), runs: int = 1, seed: int = 0) -> Dataset:
    """Vertices with data, in no order."""
    rng = np.random.default_rng(seed)
    channels = [(side, v) for side in sides for v in range(len(POINTS)) if v not in MASKED[side]]
    channels = [channels[k] for k in rng.permutation(len(channels))]
    return Dataset(
        rng.gamma(2.0, 1.0, (runs * N, len(channels))),
        obs_descriptors={"stimulus": IDS * runs, "run": np.repeat(np.arange(runs), N).tolist()},
        channel_descriptors={
            "hemisphere": [side for side, _ in channels],
            "vertex": [vertex for _, vertex in channels],
        },
    )


def models() -> RDMs:
    vectors = np.random.default_rng(9).random((3, N * (N - 1) // 2))
    return RDMs(vectors, pattern_descriptors={"stimulus": IDS}, rdm_descriptors={"name": ["a", "b", "c"]})


_KNOWN: dict[tuple[int, int, int], Any] = {}


def distances(points: Any, faces: Any, source: int) -> Any:
    """Shortest paths along edges from a vertex, by a loop."""
    key = (id(points), id(faces), source)
    if key not in _KNOWN:
        _KNOWN[key] = points, faces, _distances(points, faces, source)  # objects are kept with their ids
    return _KNOWN[key][2]


def _distances(points: Any, faces: Any, source: int) -> Any:
    edges: dict[int, set[int]] = {}
    for i, j, k in np.asarray(faces).tolist():
        for a, b in ((i, j), (j, k), (k, i)):
            edges.setdefault(a, set()).add(b)
            edges.setdefault(b, set()).add(a)
    found = np.full(len(points), np.inf)
    queue = [(0.0, source)]
    while queue:
        distance, vertex = heapq.heappop(queue)
        if distance < found[vertex]:
            found[vertex] = distance
            for other in edges.get(vertex, ()):
                step = float(np.linalg.norm(np.asarray(points)[vertex] - np.asarray(points)[other]))
                heapq.heappush(queue, (distance + step, other))
    return found


def one_by_one(data: Dataset, radius: float, threshold: float, dissimilarity: str, method: str) -> Any:
    """Scores, numbers of vertices and centers, by rsatoolbox, in a loop."""
    sides = np.asarray(data.channel_descriptors["hemisphere"])
    vertices = np.asarray(data.channel_descriptors["vertex"])
    scores, sizes, centers = [], [], []
    for side, vertex in zip(sides, vertices, strict=True):
        near = np.flatnonzero(distances(*MESHES[str(side)], int(vertex)) < radius)
        around = np.flatnonzero((sides == side) & np.isin(vertices, near))
        if len(around) < threshold * len(near):
            continue
        part = Dataset(data.measurements[:, around], obs_descriptors=dict(data.obs_descriptors))
        by = {"cv_descriptor": "run"} if dissimilarity == "crossnobis" else {}
        rdm = calc_rdm(part, dissimilarity, descriptor="stimulus", **by)
        scores.append(rsatoolbox_compare(models(), rdm, method)[:, 0])
        sizes.append(len(around))
        centers.append((int(side == "right"), vertex))
    return np.array(scores).T, np.array(sizes), np.array(centers)


@pytest.mark.parametrize("threshold", [1.0, 0.6])
@pytest.mark.parametrize(
    ("dissimilarity", "method"),
    [("correlation", "corr"), ("euclidean", "spearman"), ("crossnobis", "cosine")],
)
def test_each_center_is_rsatoolboxs(dissimilarity: str, method: str, threshold: float) -> None:
    data = brain(runs=3 if dissimilarity == "crossnobis" else 1)
    options: Any = {"dissimilarity": dissimilarity, "comparison": method, "threshold": threshold}
    found = nrl.searchlight(data, models(), surface=MESHES, radius="23 mm", **options)
    scores, sizes, centers = one_by_one(data, 23, threshold, dissimilarity, method)
    assert_array_equal(found.centers, centers)
    assert_array_equal(found.n_voxels, sizes)
    assert len(set(sizes)) > 1
    assert_allclose(found.scores, scores, atol=1e-9)


def test_neighbors_are_those_of_mne() -> None:
    """The distances with which mne-rsa finds neighbors; benchmarks/searchlight.py compares its scores."""
    mne = pytest.importorskip("mne")
    from scipy.sparse.csgraph import dijkstra

    rng = np.random.default_rng(0)
    points = POINTS + rng.normal(size=POINTS.shape)
    data = brain(("left",))
    whole = dijkstra(mne.surface.mesh_dist(FACES, points))
    found = nrl.searchlight(data, models(), surface={"left": (points, FACES)}, radius="25 mm", threshold=0.1)
    vertices = np.asarray(data.channel_descriptors["vertex"])
    assert_array_equal(found.n_voxels, (whole[vertices][:, vertices] < 25).sum(axis=1))


def test_the_nearest_vertices() -> None:
    data = brain()
    found = nrl.searchlight(data, models(), surface=MESHES, radius="12 vertices")
    assert set(found.n_voxels) == {12}
    assert len(found.centers) == data.n_channel
    sides = np.asarray(data.channel_descriptors["hemisphere"])
    vertices = np.asarray(data.channel_descriptors["vertex"])
    for k in range(0, data.n_channel, 17):
        away = np.round(distances(*MESHES[str(sides[k])], int(vertices[k])), 9)
        order = sorted(np.flatnonzero(sides == sides[k]), key=lambda c: (away[vertices[c]], vertices[c]))
        part = Dataset(data.measurements[:, order[:12]], obs_descriptors={"stimulus": IDS})
        if away[vertices[order[11]]] < away[vertices[order[12]]]:  # else rounding may break the tie
            rdm = calc_rdm(part, "correlation", descriptor="stimulus")
            assert_allclose(found.scores[:, k], rsatoolbox_compare(models(), rdm, "corr")[:, 0], atol=1e-9)
    every = nrl.searchlight(brain(("left",)), models(), surface=MESHES, radius="159 vertices")
    assert set(every.n_voxels) == {159}
    with pytest.raises(NeurordlError, match=r"'160 vertices' .* most is 99.4%: take threshold=0.993"):
        nrl.searchlight(brain(("left",)), models(), surface=MESHES, radius="160 vertices")
    assert (
        nrl.searchlight(
            brain(("left",)), models(), surface=MESHES, radius="160 vertices", threshold=0.9
        ).n_voxels.tolist()
        == [159] * 159
    )


def test_equally_near_vertices_are_taken_by_their_number() -> None:
    found = neighborhoods._smallest(np.array([[1.0, 0, 1, 1, np.inf], [np.inf, 0, np.inf, 2, np.inf]]), 3)
    assert_array_equal(found, [[True, True, True, False, False], [False, True, False, True, False]])


@pytest.mark.parametrize("radius", ["23 mm", "12 vertices"])
def test_blocks_and_memory_change_nothing(monkeypatch: pytest.MonkeyPatch, radius: str) -> None:
    options: Any = {"surface": MESHES, "radius": radius, "threshold": 0.5}
    whole = nrl.searchlight(brain(), models(), **options)
    monkeypatch.setattr(module, "_BYTES", 1)
    monkeypatch.setattr(neighborhoods, "_KEPT", 40)
    monkeypatch.setattr(neighborhoods, "_AT_ONCE", 5)
    found = nrl.searchlight(brain(), models(), progress=True, **options)
    assert_array_equal(found.n_voxels, whole.n_voxels)
    assert_allclose(found.scores, whole.scores, atol=1e-12)


def test_parts_of_a_mesh_are_apart_and_empty_vertices_are_passed_over() -> None:
    # two strips that touch each other in space, and a point without a triangle
    strip = np.array([[x, y, 0.0] for x in range(8) for y in (0, 1)])
    faces = np.array([[k, k + 1, k + 2] for k in range(14)])
    points = np.concatenate([strip, strip + np.array([0, 0, 0.1]), [[3.0, 0.5, 0.05]]])
    mesh = {"left": (points, np.concatenate([faces, faces + 16]))}
    used = [k for k in range(33) if k not in (6, 7)]  # a gap in the first strip
    data = Dataset(
        np.random.default_rng(0).normal(size=(N, len(used))),
        obs_descriptors={"stimulus": IDS},
        channel_descriptors={"hemisphere": ["left"] * len(used), "vertex": used},
    )
    found = nrl.searchlight(
        data, models(), surface=mesh, radius="4.2 mm", threshold=0.1, dissimilarity="euclidean"
    )
    sizes = dict(zip(found.centers[:, 1].tolist(), found.n_voxels.tolist(), strict=True))
    for vertex in used:
        reach = np.flatnonzero(distances(points, mesh["left"][1], vertex) < 4.2)
        assert sizes[vertex] == len(set(reach) & set(used))
    assert sizes[32] == 1
    assert {4, 8} <= set(np.flatnonzero(distances(points, mesh["left"][1], 4) < 4.2))  # beyond the gap
    few = nrl.searchlight(
        data, models(), surface=mesh, radius="20 vertices", threshold=0.5, dissimilarity="euclidean"
    )
    assert set(few.n_voxels) == {14, 16}


def test_vertices_in_the_same_place_are_neighbors() -> None:
    points = np.concatenate([POINTS, POINTS[:1]])
    faces = np.concatenate([FACES, [[0, 162, int(FACES[0, 1])]]])
    channels = {"hemisphere": ["left"] * 163, "vertex": list(range(163))}
    data = Dataset(np.random.default_rng(0).normal(size=(N, 163)), {}, {"stimulus": IDS}, channels)
    found = nrl.searchlight(data, models(), surface={"left": (points, faces)}, radius="18 mm", threshold=0.1)
    near = distances(points, faces, 162) < 18
    assert near[0]
    assert found.n_voxels[162] == near.sum()


@pytest.mark.parametrize("case", ["random", "NaN", "constant", "duplicate", "tiny", "large"])
def test_values_of_all_sorts(case: str) -> None:
    data = brain(("left",))
    changed = np.isin(data.channel_descriptors["vertex"], [50, 51, 90])
    if case == "NaN":
        data.measurements[2, changed] = np.nan
    if case == "constant":
        data.measurements[:, changed] = 0.3
    if case == "duplicate":
        data.measurements[3] = data.measurements[2]
    data.measurements *= {"tiny": 1e-9, "large": 1e9}.get(case, 1.0)
    with pytest.warns(UserWarning, match="pairs that remain") if case == "NaN" else _nothing():
        found = nrl.searchlight(data, models(), surface=MESHES, radius="23 mm", threshold=0.5)
    sides, vertices = (np.asarray(data.channel_descriptors[name]) for name in ("hemisphere", "vertex"))
    for k in range(0, len(found.centers), 7):
        vertex = int(found.centers[k, 1])
        near = np.flatnonzero(distances(POINTS, FACES, vertex) < 23)
        part = Dataset(data.measurements[:, np.isin(vertices, near)], obs_descriptors={"stimulus": IDS})
        with np.errstate(all="ignore"):
            rdm = nrl.compute_rdms(part, "correlation")
        expected = nrl.compare(models(), rdm, comparison="corr")[:, 0]
        assert_allclose(found.scores[:, k], expected, atol=1e-8)
    assert set(sides) == {"left"}


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_patch_is_found() -> None:
    """A simulated patch with the geometry of the model: scores are high in it, and nowhere else."""
    points, faces = icosphere(3)
    rng = np.random.default_rng(1)
    apart = np.linalg.norm(points[:, None] - points, axis=-1)  # nearly that along the edges
    geometry = rng.normal(size=(16, 10))
    inside = apart[100] < 22
    responses = rng.normal(size=(16, len(points)))
    responses[:, inside] += geometry @ rng.normal(size=(10, inside.sum()))
    names = {"stimulus": [f"im{k}" for k in range(16)]}
    channels = {"hemisphere": ["right"] * len(points), "vertex": list(range(len(points)))}
    model = nrl.compute_rdms(Dataset(geometry, obs_descriptors=names), "correlation")
    maps = nrl.searchlight(
        Dataset(responses, {}, names, channels), model, surface={"right": (points, faces)}, radius="14 mm"
    )
    share = np.array([inside[apart[vertex] < 16].mean() for vertex in range(len(points))])
    scores = maps.scores[0]
    assert scores[share == 1].min() > max(0.3, scores[share == 0].max())
    assert abs(scores[share == 0].mean()) < 0.05
    assert share[int(scores.argmax())] > 0.5


def test_maps_are_gifti_and_images_of_nilearn(tmp_path: Path) -> None:
    found = nrl.searchlight(brain(), models(), surface=MESHES, radius="23 mm", threshold=0.8)
    files = found.to_gifti(tmp_path / "sub-01.func.gii")
    assert [path.name for path in files.values()] == ["sub-01_hemi-L.func.gii", "sub-01_hemi-R.func.gii"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files.values())
    image = found.surface_image()
    assert image.shape == (324, 3)
    assert found.surface_image("b").shape == (324,)
    for number, (side, path) in enumerate(files.items()):
        gifti = nib.load(path)
        assert [array.meta["Name"] for array in gifti.darrays] == ["a", "b", "c"]
        assert gifti.meta["AnatomicalStructurePrimary"] == f"Cortex{side.title()}"
        values = np.stack(gifti.agg_data())
        assert values.dtype == np.float32
        chosen = found.centers[:, 0] == number
        assert_allclose(values[:, found.centers[chosen, 1]], found.scores[:, chosen], atol=1e-6)
        assert np.isnan(values).sum() == 3 * (162 - chosen.sum())
        assert_array_equal(image.data.parts[side].T, values)
        assert_array_equal(found.surface_image("b").data.parts[side], values[1])
        assert_array_equal(image.mesh.parts[side].coordinates, MESHES[side][0])
    again = nrl.read_betas(list(files.values()), list("xyz"))  # maps are betas for the next step
    assert_allclose(np.sort(again.measurements.ravel()), np.sort(found.scores.ravel()), atol=1e-6)
    left = nrl.searchlight(brain(("left",)), models(), surface=MESHES, radius="23 mm", threshold=0.8)
    assert list(left.to_gifti(tmp_path / "left")) == ["left"]
    with pytest.raises(NeurordlError, match="model='d': expected one of 'a', 'b', 'c'"):
        found.surface_image("d")
    with pytest.raises(NeurordlError, match=r"on a surface and no NIfTI image: to_gifti\(\) writes them"):
        found.image()
    with pytest.raises(NeurordlError, match=r"the folder .* does not exist"):
        found.to_gifti(tmp_path / "absent" / "maps")
    assert str(found).splitlines()[0] == "searchlight  radius 23 mm, correlation, models compared by corr"
    n_left_out = found.settings["n_left_out"]
    assert n_left_out == len(brain().channel_descriptors["vertex"]) - len(found.centers)
    text = f"vertices each; {n_left_out} vertices with data in less than 80% of theirs are left out"
    assert str(found).splitlines()[1].endswith(text)


def test_meshes_of_all_kinds(tmp_path: Path) -> None:
    left, right = tmp_path / "lh.white", tmp_path / "rh.white"
    expected = nrl.searchlight(brain(), models(), surface=MESHES, radius="23 mm").scores
    for path, side in ((left, "left"), (right, "right")):
        nib.freesurfer.write_geometry(path, *MESHES[side])
        arrays = [
            nib.gifti.GiftiDataArray(np.asarray(values, dtype), intent=f"NIFTI_INTENT_{intent}")
            for values, dtype, intent in zip(
                MESHES[side], (np.float32, np.int32), ("POINTSET", "TRIANGLE"), strict=True
            )
        ]
        nib.save(nib.GiftiImage(darrays=arrays), tmp_path / f"S_hemi-{side[0].upper()}_white.surf.gii")
    gifti = {side: tmp_path / f"S_hemi-{side[0].upper()}_white.surf.gii" for side in MESHES}
    mesh = PolyMesh(**{side: InMemoryMesh(*parts) for side, parts in MESHES.items()})
    for surface in (
        {"left": left, "right": right},
        gifti,
        str(tmp_path / "{hemi}.white"),
        tmp_path / "S_hemi-{hemi}_white.surf.gii",
        mesh,
        dict(mesh.parts),
        SurfaceImage(mesh, {side: np.zeros(162) for side in MESHES}).mesh,
    ):
        found = nrl.searchlight(brain(), models(), surface=surface, radius="23 mm")
        assert_allclose(found.scores, expected, atol=1e-9)
    one = nrl.searchlight(brain(("left",)), models(), surface=left, radius="23 mm")
    assert set(one.centers[:, 0]) == {0}
    inflated = tmp_path / "lh.inflated"
    nib.freesurfer.write_geometry(inflated, *MESHES["left"])
    with pytest.warns(UserWarning, match="lh.inflated: distances on inflated, spherical and flat surfaces"):
        nrl.searchlight(brain(("left",)), models(), surface=inflated, radius="23 mm")


def test_patterns_are_saved_and_read(tmp_path: Path) -> None:
    data = brain()
    data.save(str(tmp_path / "patterns.h5"))
    again = load_dataset(str(tmp_path / "patterns.h5"))
    options: Any = {"surface": MESHES, "radius": "23 mm"}
    found, expected = (nrl.searchlight(patterns, models(), **options) for patterns in (again, data))
    assert_array_equal(found.centers, expected.centers)
    assert_allclose(found.scores, expected.scores, atol=1e-12)


def test_voxels_of_cifti_are_left_out() -> None:
    data = brain()
    channels = {name: list(values) for name, values in data.channel_descriptors.items()}
    channels["hemisphere"] += ["left", "none"]
    channels["vertex"] += [-1, -1]
    values = np.concatenate([data.measurements, np.ones((N, 2))], axis=1)
    more = Dataset(values, obs_descriptors=dict(data.obs_descriptors), channel_descriptors=channels)
    with pytest.warns(
        UserWarning, match=r"2 of 283 channels are voxels, which are not on the surface: left out"
    ):
        found = nrl.searchlight(more, models(), surface=MESHES, radius="23 mm")
    expected = nrl.searchlight(data, models(), surface=MESHES, radius="23 mm")
    assert_array_equal(found.centers, expected.centers)
    assert_allclose(found.scores, expected.scores, atol=1e-12)
    kept = [k for k, side in enumerate(channels["hemisphere"]) if side == "left"]
    kept.append(channels["hemisphere"].index("right"))
    channels["vertex"][kept[-1]] = -1  # a voxel of the right hemisphere needs no mesh
    part = Dataset(
        values[:, kept],
        obs_descriptors=dict(data.obs_descriptors),
        channel_descriptors={name: [column[k] for k in kept] for name, column in channels.items()},
    )
    with pytest.warns(UserWarning, match="2 of 161 channels are voxels"):
        left = nrl.searchlight(part, models(), surface={"left": MESHES["left"]}, radius="23 mm")
    assert_allclose(left.scores, expected.scores[:, expected.centers[:, 0] == 0], atol=1e-12)


def test_voxels_of_cifti_can_be_searched_in_the_volume() -> None:
    at = np.indices((3, 3, 3)).reshape(3, -1)
    channels: Any = {"hemisphere": ["left"] * 30, "vertex": [0, 1, 2] + [-1] * 27}
    channels |= {axis: [-1] * 3 + index.tolist() for axis, index in zip("xyz", at, strict=True)}
    channels["structure"] = ["CORTEX_LEFT"] * 3 + ["THALAMUS_LEFT"] * 27
    data = Dataset(np.random.default_rng(0).normal(size=(N, 30)), {}, {"stimulus": IDS}, channels)
    found = nrl.searchlight(data.subset_channel("structure", "THALAMUS_LEFT"), models(), radius=2)
    volume = Dataset(data.measurements[:, 3:], {}, {"stimulus": IDS}, dict(zip("xyz", at, strict=True)))
    assert_allclose(found.scores, nrl.searchlight(volume, models(), radius=2).scores, atol=1e-12)


def test_bad_input(tmp_path: Path) -> None:
    data, left = brain(), tmp_path / "lh.white.surf.gii"
    grid = dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1).tolist(), strict=True))
    volume = Dataset(data.measurements[:, :27], {}, {"stimulus": IDS}, grid)
    left.write_bytes(b"<GIFTI")
    small = icosphere(1)
    recorded = brain(("left",))
    recorded.descriptors["provenance"] = json.dumps(
        {"images": ["sub-01_hemi-L_bold.func.gii"], "surface": {"left": 642}}
    )
    twice = brain(("left",))
    twice.channel_descriptors["vertex"][1] = twice.channel_descriptors["vertex"][0]
    named = brain(("left",))
    named.channel_descriptors["hemisphere"][0] = "L"
    fine: Any = {"surface": MESHES, "radius": "23 mm"}
    cases: list[tuple[Any, Any, str]] = [
        (data, {"surface": None}, "these patterns lie on a surface: pass surface="),
        (volume, {}, "no channel descriptor 'hemisphere': a searchlight on a surface needs hemisphere"),
        (data, {"radius": 3.0}, r"radius=3.0: on a surface, give millimeters along it, such as '10 mm'"),
        (data, {"radius": "0 mm"}, "radius='0 mm': on a surface"),
        (data, {"radius": "far"}, "radius='far': on a surface"),
        (data, {"radius": "1 mm"}, "is a single vertex, where correlation distances are undefined"),
        (data, {"surface": {"left": MESHES["left"]}}, "mesh of the right hemisphere, where 122 vertices lie"),
        (data, {"surface": {"lh": left}}, "is the keys lh; expected the meshes of 'left' and 'right'"),
        (data, {"surface": 5}, "surface= is int; expected the meshes of 'left' and 'right'"),
        (data, {"surface": "white.gii"}, "does not say which hemisphere it is"),
        (data, {"surface": {"left": tmp_path / "lh.no"}}, "there is no mesh .*lh.no; check the path"),
        (data, {"surface": {"right": left}}, r"surf.gii is given as the right hemisphere, and its name"),
        (data, {"surface": {"left": left}}, "cannot read .*lh.white.surf.gii: it is damaged"),
        (data, {"surface": {"left": small, "right": small}}, r"has 42 vertices, and the .* has vertex 161"),
        (recorded, {}, r"has 162 vertices, and the left .* of sub-01_hemi-L_bold.* has 642"),
        (twice, {}, "two channels are the same vertex of the left hemisphere"),
        (named, {}, "the descriptor hemisphere has 'L'; expected 'left' or 'right'"),
        (data, {"surface": {"left": (POINTS[:, :2], FACES)}}, r"has coordinates \(162, 2\)"),
        (data, {"surface": {"left": (POINTS[:9], FACES)}}, "has triangles of vertices beyond its 9"),
        (data, {"surface": {"left": (POINTS * np.nan, FACES)}}, "has coordinates that are NaN or infinite"),
        (data, {"surface": {"left": 3}}, "the left mesh is no mesh; give a file, or arrays"),
    ]  # fmt: skip
    for patterns, wrong, message in cases:
        with pytest.raises(NeurordlError, match=message):
            nrl.searchlight(patterns, models(), **{**fine, **wrong})
    sparse = brain(("left",))
    kept = np.arange(0, sparse.n_channel, 40)
    few = Dataset(
        sparse.measurements[:, kept],
        obs_descriptors={"stimulus": IDS},
        channel_descriptors={k: np.asarray(v)[kept].tolist() for k, v in sparse.channel_descriptors.items()},
    )
    with pytest.raises(NeurordlError, match=r"no patch of radius='23 mm' has data in 100.0% of its"):
        nrl.searchlight(few, models(), **fine)
