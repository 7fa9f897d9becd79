"""Searchlight maps of a group on the cortical surface
===================================================

Eight simulated people see 24 pictures. In a patch of the left temporal lobe their patterns have the geometry
of a model. Each person's maps are computed on both hemispheres of fsaverage5 and kept as GIFTI files; then
clusters of vertices are tested over people, both hemispheres together. The script prints the peaks and draws
them.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
from nilearn.datasets import load_fsaverage
from rsatoolbox.data import Dataset

import neurordl as nrl

# %%
# Patterns of a person: noise, and in the patch the geometry of the model. Those of `nrl.read_bids` with a
# surface space have the same descriptors.
meshes = load_fsaverage("fsaverage5")  # comes with nilearn
white, n_vertices = meshes["white_matter"], 10242
stimuli = {"stimulus": [f"picture{number:02d}" for number in range(1, 25)]}
channels = {
    "hemisphere": ["left"] * n_vertices + ["right"] * n_vertices,
    "vertex": [*range(n_vertices), *range(n_vertices)],
}
geometry = np.random.default_rng(0).normal(size=(24, 10))
middle = np.linalg.norm(white.parts["left"].coordinates - [-60, -35, -10], axis=1).argmin()
sphere = meshes["sphere"].parts["left"].coordinates  # on which a patch is in one piece
patch = np.flatnonzero(np.linalg.norm(sphere - sphere[middle], axis=1) < 20)


def patterns_of(subject):
    """Patterns of a person on both hemispheres."""
    rng = np.random.default_rng(int(subject.removeprefix("sub-")))
    patterns = rng.normal(size=(24, 2 * n_vertices))
    patterns[:, patch] += 0.15 * geometry @ rng.normal(size=(10, len(patch)))
    return Dataset(patterns, {}, stimuli, channels)


# %%
# A GIFTI file of each person and hemisphere, and the meshes, in a folder. A second call would compute only
# people who are not there.
model = nrl.compute_rdms(Dataset(geometry, {}, stimuli), "euclidean")
folder = Path(mkdtemp()) / "maps"
subjects = [f"sub-{number:02d}" for number in range(1, 9)]
maps = nrl.group_searchlight(
    patterns_of, {"model": model}, folder, subjects=subjects, surface=white, radius="10 mm"
)
print(maps)
print(sorted(file.name for file in folder.iterdir())[:5])

# %%
# The second level: clusters of vertices with p < .001, whose sums of t are compared with the largest one of
# both hemispheres that flips of people's signs make. The table has the peaks, and the clusters in mm².
test = nrl.MapTest("mass", threshold=0.001, n_permutations=200, seed=0)
result = nrl.second_level(maps, "model", test=test, fwhm=4)
print(result)
table = result.table()
print(table.round(3).to_string(index=False))

# %%
# The t map where it is significant, on the inflated template with its folds.
nrl.plot_map(result, background="fsaverage5")
plt.show()
