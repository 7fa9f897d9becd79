"""Make the simulated study beside this script again: `python data/simulated_fmri/make.py FOLDER`.

Twelve stimuli in four categories, three people, six runs, two ROIs whose geometries are known: in IT the
categories are far apart and animate ones near each other, in EVC the stimuli lie anywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rsatoolbox.data import Dataset

import neurordl as nrl
from neurordl.simulate import Scan, simulate_fmri

CATEGORIES = ("face", "body", "fruit", "tool")
STIMULI = [f"{category}{number}" for category in CATEGORIES for number in (1, 2, 3)]
SEED = 2016


def geometries() -> dict[str, np.ndarray]:
    """Patterns (stimuli, features) of the two ROIs."""
    rng = np.random.default_rng(SEED)
    category = np.repeat(rng.standard_normal((4, 20)), 3, axis=0)
    animate = np.repeat(rng.standard_normal((2, 20)), 6, axis=0)
    single = rng.standard_normal((12, 20))
    geometry = {"IT": 1.2 * animate + category + 0.5 * single, "EVC": rng.standard_normal((12, 20))}
    # the simulator takes their mean over channels away, and the true RDMs are those of what it takes
    return {roi: rows - rows.mean(axis=1, keepdims=True) for roi, rows in geometry.items()}


def make(folder: Path) -> None:
    """Write the study, and the true RDMs, into a new folder."""
    geometry = geometries()
    scan = Scan(shape=(8, 5, 4), runs=6, repeats=2)
    simulate_fmri(folder, geometry, STIMULI, n_subjects=3, scan=scan, snr=0.6, seed=SEED)
    truth = [
        Dataset(values, descriptors={"roi": roi}, obs_descriptors={"stimulus": STIMULI})
        for roi, values in geometry.items()
    ]
    nrl.save_rdms(nrl.compute_rdms(truth, "euclidean"), folder / "truth.h5")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
