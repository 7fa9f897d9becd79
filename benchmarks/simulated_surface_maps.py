"""Searchlight maps of simulated groups on a surface: false alarms of the second level, and a planted patch.

Patterns of 12 people are noise that is smooth along the white surfaces of fsaverage3 (642 vertices of each
hemisphere, some 11 mm apart), and a model is drawn anew for each group. In "patch", the vertices within 40 mm
of a vertex of the left hemisphere have the geometry of the model besides, in each person. Each group goes the
whole way:
`group_searchlight`, which writes its files, and `second_level` with each statistic. A false alarm is a group
with any vertex of p < .05, corrected over both hemispheres.

    python benchmarks/simulated_surface_maps.py
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from nilearn.datasets import load_fsaverage
from nilearn.image import smooth_img
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from rsatoolbox.data import Dataset
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import ConvexHull
from simulated_maps import run

import neurordl as nrl

STIMULI, PEOPLE, N = 10, 12, 642
WIDTH, RADIUS, PATCH, STRENGTH, CENTER = 25.0, 30.0, 40.0, 0.5, 200  # in mm; the middle of the patch


def small_mesh(side: str) -> InMemoryMesh:
    """White surface of fsaverage3: its vertices are the first ones of fsaverage5."""
    sphere, white = (FSAVERAGE[name].parts[side].coordinates[:N] for name in ("sphere", "white_matter"))
    return InMemoryMesh(white, ConvexHull(sphere).simplices)


def distances_from(mesh: InMemoryMesh, vertex: int) -> np.ndarray:
    """Shortest paths along edges, in mm."""
    first, second = mesh.faces[:, [0, 1, 2, 1, 2, 0]].reshape(-1, 2, 3).transpose(1, 0, 2).reshape(2, -1)
    lengths = np.linalg.norm(mesh.coordinates[first] - mesh.coordinates[second], axis=1)
    pairs = pd.DataFrame({"first": first, "second": second, "length": lengths}).drop_duplicates()
    graph = csr_array((pairs["length"], (pairs["first"], pairs["second"])), shape=(N, N))
    return dijkstra(graph, directed=False, indices=vertex)


FSAVERAGE = load_fsaverage("fsaverage5")
MESH = PolyMesh(left=small_mesh("left"), right=small_mesh("right"))
DISTANCES = distances_from(MESH.parts["left"], CENTER)
STATISTICS = ("voxel", "size", "mass", "tfce")
SMOOTHING = {"scores": None, "smoothed by 15 mm": 15.0}
IDS = {"stimulus": [f"s{k}" for k in range(STIMULI)]}
CHANNELS = {"hemisphere": ["left"] * N + ["right"] * N, "vertex": [*range(N), *range(N)]}


def person(geometry: np.ndarray, cell: str, rng: np.random.Generator) -> Dataset:
    """Patterns of a person: smooth noise, and in "patch" the geometry in a patch of the left mesh."""
    noise = {side: rng.normal(size=(N, STIMULI)) for side in ("left", "right")}
    smooth = smooth_img(SurfaceImage(MESH, noise), WIDTH).data.parts
    patterns = np.concatenate([np.asarray(smooth[side]) for side in noise]).T
    patterns = patterns / patterns.std()
    if cell == "patch":
        inside = np.flatnonzero(DISTANCES < PATCH)
        signal = geometry @ rng.normal(size=(geometry.shape[1], len(inside)))
        patterns[:, inside] += STRENGTH * signal / signal.std()
    return Dataset(patterns, {}, IDS, CHANNELS)


def group(cell: str, seed: int, n_permutations: int) -> list[dict]:
    """Rows of one group: whether each statistic alarms, and where its peak is."""
    rng = np.random.default_rng([seed, cell == "patch"])
    geometry = rng.normal(size=(STIMULI, 4))
    people = {f"s{k:02d}": person(geometry, cell, rng) for k in range(PEOPLE)}
    model = nrl.compute_rdms(Dataset(geometry, obs_descriptors=IDS), "euclidean")
    place = np.concatenate([DISTANCES, np.full(N, np.inf)])
    rows = []
    with TemporaryDirectory() as folder:
        maps = nrl.group_searchlight(
            people, model, folder, surface=MESH, radius=f"{RADIUS:g} mm", progress=False
        )
        for smoothing, fwhm in SMOOTHING.items():
            for statistic in STATISTICS if fwhm is None else STATISTICS[:3]:
                test = nrl.MapTest(statistic, n_permutations=n_permutations, seed=seed)
                result = nrl.second_level(maps, test=test, fwhm=fwhm)
                significant, distances = result.p < 0.05, place[result.inside]
                rows.append(
                    {
                        "cell": cell,
                        "maps": smoothing,
                        "statistic": statistic.replace("voxel", "vertex"),
                        "alarms": significant.any(),
                        "vertices": significant.sum(),
                        # searchlights reach the patch from a distance below the sum of both radii
                        "peak within reach": distances[result.values["t"].argmax()] < PATCH + RADIUS,
                        "share within reach": np.mean(distances[significant] < PATCH + RADIUS)
                        if significant.any()
                        else np.nan,
                    }
                )
    return rows


if __name__ == "__main__":
    run(group, "simulated_surface_maps", "patch", __doc__)
