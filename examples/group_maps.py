"""Searchlight maps of a group, tested over people
================================================

Ten simulated people see 16 pictures. In a ball of voxels their patterns have the geometry of one model, and
nowhere that of the other. Each person's maps are computed and kept in a folder; then voxels are tested over
people, corrected by the sizes of clusters. The script prints the peaks and draws them.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from rsatoolbox.data import Dataset

import neurordl as nrl

# %%
# Patterns of ten people. Those of `nrl.read_bids` know the grid of their images; here an image has it.
rng = np.random.default_rng(0)
stimuli = {"stimulus": [f"picture{number:02d}" for number in range(1, 17)]}
geometries = {"shape": rng.normal(size=(16, 6)), "sound": rng.normal(size=(16, 6))}
brain = nibabel.Nifti1Image(
    np.ones((14, 14, 10)), np.array([[3, 0, 0, -21], [0, 3, 0, -21], [0, 0, 3, -15], [0, 0, 0, 1]])
)
voxels = np.indices(brain.shape).reshape(3, -1)
ball = np.linalg.norm(voxels - np.array([[9], [5], [5]]), axis=0) < 2.5


def patterns_of(subject):
    """Patterns of a person: noise, and in the ball the geometry of shape."""
    rng = np.random.default_rng(int(subject.removeprefix("sub-")))
    patterns = rng.normal(size=(16, voxels.shape[1]))
    patterns[:, ball] += 0.25 * geometries["shape"] @ rng.normal(size=(6, ball.sum()))
    return Dataset(patterns, {}, stimuli, dict(zip("xyz", voxels, strict=True)))


# %%
# An image for each person, in a folder. A second call would compute only people who are not there.
models = {
    name: nrl.compute_rdms(Dataset(geometry, {}, stimuli), "euclidean")
    for name, geometry in geometries.items()
}
folder = Path(mkdtemp()) / "maps"
subjects = [f"sub-{number:02d}" for number in range(1, 11)]
maps = nrl.group_searchlight(
    patterns_of, models, folder, subjects=subjects, like=brain, radius=2, threshold=0.5, comparison="corr"
)
print(maps)

# %%
# The second level: clusters of voxels with p < .001, whose sizes are compared with the largest one that
# flips of people's signs make. The table has the peaks of the significant clusters, in mm.
test = nrl.MapTest("size", threshold=0.001, n_permutations=500, seed=0)
results = {name: nrl.second_level(maps, name, test=test, fwhm=4) for name in models}
print(results["shape"])
table = results["shape"].table()
print(table.round(3).to_string(index=False))

# %%
# The t map where it is significant, in cuts through the highest t, and of the model that no one has.
figure, axes = plt.subplots(2, 1, figsize=(7, 5.2), layout="constrained")
for ax, result in zip(axes, results.values(), strict=True):
    nrl.plot_map(result, ax)
plt.show()
