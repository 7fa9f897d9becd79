"""Find a patch of cortex that has the geometry of a model
=======================================================

On the left hemisphere of fsaverage5, a patch of the temporal lobe has the geometry of the model and the rest
is noise. The searchlight computes the RDM of the vertices within 12 mm along the surface of each vertex and
compares it with the model. The script prints the mean score in the patch and beyond it.
"""

import matplotlib.pyplot as plt
import numpy as np
from nilearn.datasets import load_fsaverage, load_fsaverage_data
from nilearn.plotting import plot_surf_contours, plot_surf_stat_map
from rsatoolbox.data import Dataset

import neurordl as nrl

rng = np.random.default_rng(0)
meshes = load_fsaverage("fsaverage5")  # comes with nilearn
white = meshes["white_matter"].parts["left"]
ids = [f"im{number:02d}" for number in range(1, 25)]
geometry = rng.normal(size=(24, 10))
middle = np.linalg.norm(white.coordinates - [-60, -35, -10], axis=1).argmin()
sphere = meshes["sphere"].parts["left"].coordinates  # on which a patch is in one piece
patch = np.linalg.norm(sphere - sphere[middle], axis=1) < 25
responses = rng.normal(size=(24, white.n_vertices))
responses[:, patch] += 0.5 * geometry @ rng.normal(size=(10, patch.sum()))
patterns = Dataset(
    responses,
    obs_descriptors={"stimulus": ids},
    channel_descriptors={"hemisphere": ["left"] * white.n_vertices, "vertex": list(range(white.n_vertices))},
)

# %%
# Distances are those along the white surface. ``maps.to_gifti("sub-01")`` writes the map as a GIFTI file.
model = nrl.compute_rdms(Dataset(geometry, obs_descriptors={"stimulus": ids}), "euclidean")
maps = nrl.searchlight(patterns, {"model": model}, surface={"left": white}, radius="12 mm")
print(maps)
scores = maps.surface_image("model").data.parts["left"]
inside, outside = np.nanmean(scores[patch]), np.nanmean(scores[~patch])
print(f"mean score in the patch {inside:.2f}, beyond it {outside:.2f}")

# %%
# The map on the inflated surface, with the border of the patch. The plot is nilearn's.
inflated = meshes["inflated"].parts["left"]
folds = load_fsaverage_data("fsaverage5", data_type="sulcal").data.parts["left"]
figure = plot_surf_stat_map(
    inflated,
    scores,
    bg_map=folds,
    hemi="left",
    view="lateral",
    cmap="inferno",
    vmin=0,
    vmax=float(np.nanmax(scores)),
    symmetric_cbar=False,
    threshold=0.1,
    title="similarity with the model",
)
plot_surf_contours(
    inflated, patch.astype(int), levels=[1], colors=["cyan"], figure=figure, axes=figure.axes[0]
)
plt.show()
