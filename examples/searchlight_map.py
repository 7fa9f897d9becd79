"""Compare a model with the RDM around each voxel
==============================================

In a simulated volume, one corner has the geometry of the model and the rest is noise. The searchlight
computes the RDM of the voxels around each voxel and compares it with the model; the RDMs are not kept. The
result is an image. The script prints the mean score in that corner and in the opposite one.
"""

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from rsatoolbox.data import Dataset

import neurordl as nrl

rng = np.random.default_rng(0)
ids = [f"im{number:02d}" for number in range(1, 17)]
geometry = rng.normal(size=(16, 10))
voxels = np.indices((10, 10, 10)).reshape(3, -1).T
corner = (voxels < 5).all(axis=1)
responses = rng.normal(size=(16, 1000))
responses[:, corner] += geometry @ rng.normal(size=(10, corner.sum()))
patterns = Dataset(
    responses,
    obs_descriptors={"stimulus": ids},
    channel_descriptors=dict(zip("xyz", voxels.T.tolist(), strict=True)),
)

# %%
# The spheres of a radius of two voxels.
model = nrl.compute_rdms(Dataset(geometry, obs_descriptors={"stimulus": ids}), "euclidean")
result = nrl.searchlight(patterns, model, radius=2, dissimilarity="correlation")
print(result)
volume = nibabel.Nifti1Image(np.zeros((10, 10, 10)), np.eye(4))  # an image of the study gives the grid
scores = result.image(volume).get_fdata()[..., 0]  # one map for each model; save it with nibabel.save
inside, outside = np.nanmean(scores[1:4, 1:4, 1:4]), np.nanmean(scores[6:9, 6:9, 6:9])
print(f"mean score in the corner {inside:.2f}, in the opposite corner {outside:.2f}")

# %%
# A slice through the corner, whose border is drawn. Spheres that leave the volume are left out.
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
picture = ax.imshow(scores[:, :, 3].T, origin="lower", vmin=0, vmax=0.8)
ax.plot([-0.5, 4.5, 4.5], [4.5, 4.5, -0.5], color="red")
ax.set(xlabel="x", ylabel="y", title="similarity with the model, z = 3")
figure.colorbar(picture, label="correlation of RDMs")
plt.show()
