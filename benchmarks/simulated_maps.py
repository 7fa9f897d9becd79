"""Searchlight maps of simulated groups: false alarms of the second level, and a sphere that is to be found.

Patterns of 12 people are noise that is smooth in space, in a volume of 10 x 10 x 10 voxels of 3 mm, and a
model is drawn anew for each group. In "sphere", the voxels of a ball of radius 2 voxels have the geometry of
the model besides, in each person. Each group goes the whole way: `group_searchlight`, which writes its files,
and `second_level` with each statistic. A false alarm is a group with any voxel of p < .05, corrected.

    python benchmarks/simulated_maps.py
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from rsatoolbox.data import Dataset
from scipy.ndimage import gaussian_filter

import neurordl as nrl
from neurordl.io import versions, write_json
from neurordl.progress import tracked

SHAPE, STIMULI, PEOPLE, SIZE = (10, 10, 10), 10, 12, 3.0
AFFINE = np.diag([SIZE, SIZE, SIZE, 1.0])
CENTER, RADIUS, STRENGTH = np.array([6, 4, 5]), 2.0, 0.5
STATISTICS = ("voxel", "size", "mass", "tfce")
SMOOTHING = {"scores": None, "smoothed by 6 mm": 6.0}
IDS = {"stimulus": [f"s{k}" for k in range(STIMULI)]}
RESULTS = Path(__file__).parent / "results"


def person(geometry: np.ndarray, cell: str, rng: np.random.Generator) -> Dataset:
    """Patterns of a person: smooth noise, and in "sphere" the geometry in a ball of voxels."""
    noise = gaussian_filter(rng.normal(size=(STIMULI, *SHAPE)), (0, 1, 1, 1), mode="wrap")
    patterns = (noise / noise.std()).reshape(STIMULI, -1)
    places = np.indices(SHAPE).reshape(3, -1)
    if cell == "sphere":
        ball = np.linalg.norm(places - CENTER[:, None], axis=0) <= RADIUS
        signal = geometry @ rng.normal(size=(geometry.shape[1], int(ball.sum())))
        patterns[:, ball] += STRENGTH * signal / signal.std()
    record = {"provenance": json.dumps({"grid": {"shape": SHAPE, "affine": AFFINE.tolist()}})}
    return Dataset(patterns, record, IDS, dict(zip("xyz", places, strict=True)))


def group(cell: str, seed: int, n_permutations: int) -> list[dict]:
    """Rows of one group: whether each statistic alarms, and where its peak is."""
    rng = np.random.default_rng([seed, cell == "sphere"])
    geometry = rng.normal(size=(STIMULI, 4))
    people = {f"s{k:02d}": person(geometry, cell, rng) for k in range(PEOPLE)}
    model = nrl.compute_rdms(Dataset(geometry, obs_descriptors=IDS), "euclidean")
    rows = []
    with TemporaryDirectory() as folder:
        maps = nrl.group_searchlight(people, model, folder, radius=2, threshold=0.5, progress=False)
        for smoothing, fwhm in SMOOTHING.items():
            results = {}
            for statistic in ("mass", "tfce") if fwhm is None else ("mass",):  # TFCE takes most of the time
                test = nrl.MapTest(statistic, n_permutations=n_permutations, seed=seed)
                results[statistic] = nrl.second_level(maps, test=test, fwhm=fwhm)
            for statistic in STATISTICS if fwhm is None else STATISTICS[:3]:
                tested = results.get(statistic, results["mass"])
                significant = tested.values[f"p_{statistic}"] < 0.05
                places = np.argwhere(tested.inside)
                distances = np.linalg.norm(places - CENTER, axis=1)
                rows.append(
                    {
                        "cell": cell,
                        "maps": smoothing,
                        "statistic": statistic,
                        "alarms": significant.any(),
                        "voxels": significant.sum(),
                        "peak to center (voxels)": distances[tested.values["t"].argmax()],
                        # searchlights of radius 2 reach the ball from a distance below 4
                        "share within reach": np.mean(distances[significant] < RADIUS + 2)
                        if significant.any()
                        else np.nan,
                    }
                )
    return rows


def run(group: Callable[[str, int, int], list[dict]], name: str, effect: str, document: str) -> None:
    """Simulate groups of the cells "null" and of an effect, and write the table of their means.

    Parameters
    ----------
    group
        Returns the rows of a group, by its cell, seed and number of permutations.
    name
        Of the script.
    effect
        Name of the cell with an effect.
    document
        What the script does.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument(f"--{effect}", type=int, default=40, help="groups with an effect", dest="effect")
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--out", default=RESULTS / f"{name}.csv")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, object] = {
        "command": f"python benchmarks/{name}.py",
        "permutations": arguments.permutations,
        "versions": versions() | {library: version(library) for library in ("nilearn", "mne")},
    }
    rows: list[dict] = []
    seeds = [("null", seed) for seed in range(arguments.groups)]
    seeds += [(effect, seed) for seed in range(arguments.effect)]
    for number, (cell, seed) in enumerate(tracked(sorted(seeds, key=lambda x: x[1]), "groups"), start=1):
        rows += group(cell, seed, arguments.permutations)
        if number % 10 == 0 or number == len(seeds):  # what is finished is kept
            write(pd.DataFrame(rows), Path(arguments.out), record)


def write(table: pd.DataFrame, out: Path, record: dict[str, object]) -> None:
    """Write and show the means of the groups."""
    grouped = table.groupby(["cell", "maps", "statistic"], sort=False)
    means = grouped.mean().round(4)
    means.insert(0, "groups", grouped.size())
    null = means.index.get_level_values("cell") == "null"
    means.loc[null, [name for name in means if name.startswith(("peak", "share"))]] = np.nan
    means.to_csv(out)
    write_json(out.with_suffix(".json"), record | {"groups": grouped.size().groupby("cell").max().to_dict()})
    print(means.to_string(), flush=True)


if __name__ == "__main__":
    run(group, "simulated_maps", "sphere", __doc__)
